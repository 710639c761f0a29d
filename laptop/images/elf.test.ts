import fc from "fast-check";
import type { ByteSource } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { parseElf } from "./elf.ts";
import { ImagesError } from "./errors.ts";

function memorySource(bytes: Uint8Array): ByteSource {
  return { size: bytes.length, read: (offset, length) => Promise.resolve(bytes.slice(offset, offset + length)) };
}

/** A minimal program: header, three program headers, interpreter, dynamic section, strings. */
function sampleElf(): Uint8Array {
  const bytes = Buffer.alloc(0x300);
  bytes.write("\u007fELF", 0, "latin1");
  bytes[4] = 2;
  bytes[5] = 1;
  bytes.writeUInt16LE(62, 18);
  bytes.writeBigUInt64LE(64n, 32);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(3, 56);
  const segment = (i: number, type: number, offset: number, address: number, size: number): void => {
    const at = 64 + i * 56;
    bytes.writeUInt32LE(type, at);
    bytes.writeBigUInt64LE(BigInt(offset), at + 8);
    bytes.writeBigUInt64LE(BigInt(address), at + 16);
    bytes.writeBigUInt64LE(BigInt(size), at + 32);
  };
  segment(0, 1, 0, 0x400000, 0x300);
  segment(1, 2, 0x200, 0x400200, 0x40);
  segment(2, 3, 0x180, 0x400180, 10);
  bytes.write("/lib/ld.so\0", 0x180, "latin1");
  segment(2, 3, 0x180, 0x400180, 11);
  for (const [i, [tag, value]] of [
    [1n, 1n],
    [1n, 9n],
    [5n, 0x400280n],
    [0n, 0n],
  ].entries()) {
    bytes.writeBigUInt64LE(tag ?? 0n, 0x200 + i * 16);
    bytes.writeBigUInt64LE(value ?? 0n, 0x208 + i * 16);
  }
  bytes.write("\0libA.so\0libB.so\0", 0x280, "latin1");
  return new Uint8Array(bytes);
}

describe("parseElf", () => {
  it("reads loader and libraries", async () => {
    expect(await parseElf(memorySource(sampleElf()), "sample")).toEqual({ interpreter: "/lib/ld.so", libraries: ["libA.so", "libB.so"] });
  });

  it("knows what is no ELF file", async () => {
    for (const bytes of [new Uint8Array(), new Uint8Array(3), new TextEncoder().encode("#!/bin/sh\n")])
      expect(await parseElf(memorySource(bytes), "x")).toBeUndefined();
  });

  it.each<readonly [string, (bytes: DataView) => void]>([
    ["32 bits", (view) => view.setUint8(4, 1)],
    ["big-endian", (view) => view.setUint8(5, 2)],
    ["another machine", (view) => view.setUint16(18, 183, true)],
    ["too many program headers", (view) => view.setUint16(56, 129, true)],
    ["program headers of another size", (view) => view.setUint16(54, 32, true)],
    ["program headers outside the file", (view) => view.setBigUint64(32, 0x10000n, true)],
    ["an offset beyond 2^53", (view) => view.setBigUint64(32, 2n ** 60n, true)],
    ["a string table in no segment", (view) => view.setBigUint64(0x228, 1n, true)],
    ["a name outside the file", (view) => view.setBigUint64(0x208, 0x10000n, true)],
    ["an empty name", (view) => view.setBigUint64(0x208, 0n, true)],
    ["a huge dynamic section", (view) => view.setBigUint64(64 + 56 + 32, 0x20000n, true)],
  ])("refuses %s", async (_, change) => {
    const bytes = sampleElf();
    change(new DataView(bytes.buffer));
    await expect(parseElf(memorySource(bytes), "sample")).rejects.toMatchObject({ code: "ERR_IMAGES_ELF" });
  });

  it("refuses a file that is cut anywhere in its tables, and lets no other error out", async () => {
    const bytes = sampleElf();
    for (let length = 4; length < 0x280; length += 7)
      await expect(parseElf(memorySource(bytes.subarray(0, length)), "sample")).rejects.toBeInstanceOf(ImagesError);
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 0, max: 255 }), async (at, byte) => {
        const changed = bytes.slice();
        changed[at] = byte;
        await parseElf(memorySource(changed), "sample").catch((error: unknown) => expect(error).toBeInstanceOf(ImagesError));
      }),
      { numRuns: 500, seed: 7 },
    );
  });
});
