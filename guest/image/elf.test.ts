import fc from "fast-check";
import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { elfSection, memorySource, parseElf, stripElf } from "./elf.ts";
import { ImageError } from "./errors.ts";
import { sampleElf } from "./test-support.ts";

const SAMPLE = {
  interpreter: "/lib/ld.so",
  libraries: ["libA.so", "libB.so"],
  sections: { ".text": encodeUtf8("code"), ".modinfo": encodeUtf8("depends=x\0") },
} as const;

describe("parseElf", () => {
  it("reads loader and libraries", async () => {
    expect(await parseElf(memorySource(sampleElf(SAMPLE)), "sample")).toEqual({ interpreter: "/lib/ld.so", libraries: ["libA.so", "libB.so"] });
    expect(await parseElf(memorySource(sampleElf()), "sample")).toEqual({ interpreter: undefined, libraries: [] });
  });

  it("knows what is no ELF file", async () => {
    for (const bytes of [new Uint8Array(), new Uint8Array(3), encodeUtf8("#!/bin/sh\n")]) expect(await parseElf(memorySource(bytes), "x")).toBeUndefined();
  });

  it.each<readonly [string, (bytes: DataView) => void]>([
    ["32 bits", (view) => view.setUint8(4, 1)],
    ["big-endian", (view) => view.setUint8(5, 2)],
    ["another machine", (view) => view.setUint16(18, 183, true)],
    ["too many program headers", (view) => view.setUint16(56, 129, true)],
    ["program headers of another size", (view) => view.setUint16(54, 32, true)],
    ["program headers outside the file", (view) => view.setBigUint64(32, 0x10000n, true)],
    ["an offset beyond 2^53", (view) => view.setBigUint64(32, 2n ** 60n, true)],
    ["a huge dynamic section", (view) => view.setBigUint64(64 + 56 + 32, 0x20000n, true)],
    ["a loader's name outside the file", (view) => view.setBigUint64(64 + 112 + 8, 0x20000n, true)],
  ])("refuses %s", async (_, change) => {
    const bytes = sampleElf(SAMPLE);
    change(new DataView(bytes.buffer));
    await expect(parseElf(memorySource(bytes), "sample")).rejects.toMatchObject({ code: "ERR_IMAGE_ELF", message: expect.stringContaining("sample") });
  });
});

describe("stripElf", () => {
  it("keeps what is loaded, byte for byte but for the section table's fields, and nothing behind it", async () => {
    const bytes = sampleElf(SAMPLE);
    const stripped = await stripElf(bytes, "sample");
    expect(stripped.length).toBe(Buffer.from(bytes).indexOf("code"));
    const expected = bytes.slice(0, stripped.length);
    expected.fill(0, 40, 48).fill(0, 58, 64);
    expect(stripped).toEqual(expected);
    expect(await parseElf(memorySource(stripped), "stripped")).toEqual({ interpreter: "/lib/ld.so", libraries: ["libA.so", "libB.so"] });
    expect(await stripElf(stripped, "stripped")).toEqual(stripped);
  });

  it("refuses a program that is cut off, and one without anything to load", async () => {
    const bytes = await stripElf(sampleElf(SAMPLE), "sample");
    await expect(stripElf(bytes.subarray(0, bytes.length - 1), "cut")).rejects.toMatchObject({ code: "ERR_IMAGE_ELF" });
    new DataView(bytes.buffer).setUint32(64, 4, true);
    await expect(stripElf(bytes, "nothing")).rejects.toMatchObject({ code: "ERR_IMAGE_ELF" });
  });
});

describe("elfSection", () => {
  it("finds a section by its whole name", async () => {
    expect(await elfSection(sampleElf(SAMPLE), ".modinfo", "sample")).toEqual(encodeUtf8("depends=x\0"));
    expect(await elfSection(sampleElf(SAMPLE), ".mod", "sample")).toBeUndefined();
  });

  it.each<readonly [string, number, number]>([
    ["too many sections", 60, 0xffff],
    ["sections of another size", 58, 40],
    ["names in a section that is not there", 62, 9],
    ["a table outside the file", 42, 1],
  ])("refuses %s", async (_, offset, value) => {
    const bytes = sampleElf(SAMPLE);
    new DataView(bytes.buffer).setUint16(offset, value, true);
    await expect(elfSection(bytes, ".modinfo", "sample")).rejects.toMatchObject({ code: "ERR_IMAGE_ELF" });
  });
});

it("lets no other error out for damaged files", async () => {
  const bytes = sampleElf(SAMPLE);
  const read = async (changed: Uint8Array): Promise<void> => {
    for (const run of [() => parseElf(memorySource(changed), "x"), () => stripElf(changed, "x"), () => elfSection(changed, ".modinfo", "x")])
      await run().catch((error: unknown) => expect(error).toBeInstanceOf(ImageError));
  };
  for (let length = 0; length < bytes.length; length += 7) await read(bytes.subarray(0, length));
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 0, max: 255 }), async (at, byte) => {
      const changed = bytes.slice();
      changed[at] = byte;
      await read(changed);
    }),
    { numRuns: 500, seed: 7 },
  );
});
