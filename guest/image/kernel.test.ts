import { gzipSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { ImageError } from "./errors.ts";
import { extractVmlinux } from "./kernel.ts";
import { decodeLz4Legacy } from "./lz4.ts";
import { sampleBzImage, sampleElf } from "./test-support.ts";

const MAGIC = Uint8Array.of(0x02, 0x21, 0x4c, 0x18);

function block(...bytes: readonly number[]): Uint8Array {
  return Uint8Array.of(bytes.length, 0, 0, 0, ...bytes);
}

const text = (value: string): readonly number[] => [...encodeUtf8(value)];

/** LZ4 of literals alone. */
function literals(data: Uint8Array): Uint8Array {
  const [more, rest] = [Math.floor((data.length - 15) / 255), (data.length - 15) % 255];
  const head = data.length < 15 ? [data.length << 4] : [0xf0, ...Array.from({ length: more }, () => 255), rest];
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, head.length + data.length, true);
  return concatBytes(length, Uint8Array.from(head), data);
}

describe("decodeLz4Legacy (LZ4 block format)", () => {
  it.each<readonly [string, Uint8Array, string]>([
    ["literals", block(0x50, ...text("hello")), "hello"],
    ["a match", block(0x32, ...text("abc"), 3, 0, 0x10, ...text("!")), "abcabcabc!"],
    ["a match that overlaps what it writes", block(0x14, ...text("a"), 1, 0, 0x00), "aaaaaaaaa"],
    [
      "long lengths",
      block(0xff, 1, ...text("0123456789abcdef"), 16, 0, 255, 2, 0x10, ...text("!")),
      `${"0123456789abcdef".repeat(20).slice(0, 16 + 15 + 255 + 2 + 4)}!`,
    ],
    ["two blocks and a second frame", concatBytes(block(0x20, ...text("ab")), MAGIC, block(0x20, ...text("cd"))), "abcd"],
  ])("unpacks %s", (_, blocks, expected) => {
    expect(Buffer.from(decodeLz4Legacy(concatBytes(MAGIC, blocks), expected.length)).toString()).toBe(expected);
  });

  it.each<readonly [string, Uint8Array, number]>([
    ["no magic", block(0x10, 1), 1],
    ["nothing", new Uint8Array(), 1],
    ["an end before the size", concatBytes(MAGIC, block(0x10, 1)), 2],
    ["more than the size", concatBytes(MAGIC, block(0x20, 1, 2)), 1],
    ["a block outside the stream", concatBytes(MAGIC, Uint8Array.of(9, 0, 0, 0, 0x10, 1)), 1],
    ["an empty block", concatBytes(MAGIC, Uint8Array.of(0, 0, 0, 0)), 1],
    ["a match before the beginning", concatBytes(MAGIC, block(0x10, 1, 2, 0, 0x00)), 5],
    ["a match that reaches into the block before", concatBytes(MAGIC, block(0x40, 1, 2, 3, 4), block(0x10, 1, 3, 0, 0x00)), 9],
    ["a distance of zero", concatBytes(MAGIC, block(0x10, 1, 0, 0, 0x00)), 5],
    ["a match past the size", concatBytes(MAGIC, block(0x10, 1, 1, 0, 0x00)), 3],
    ["a length without its end", concatBytes(MAGIC, block(0xf0, 255)), 400],
    ["a block that ends in a distance", concatBytes(MAGIC, block(0x10, 1, 1)), 5],
    ["a block that ends behind a match", concatBytes(MAGIC, block(0x10, 1, 1, 0)), 5],
  ])("refuses %s", (_, bytes, size) => {
    expect(() => decodeLz4Legacy(bytes, size)).toThrow(expect.objectContaining({ code: "ERR_IMAGE_KERNEL" }));
  });

  it("lets no other error out, whatever the bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.nat(200), (bytes, size) => {
        try {
          decodeLz4Legacy(concatBytes(MAGIC, block(...bytes)), size + 1);
        } catch (error) {
          expect(error).toBeInstanceOf(ImageError);
        }
      }),
      { numRuns: 1000, seed: 5 },
    );
  });
});

describe("extractVmlinux", () => {
  const kernel = sampleElf({ salt: "k".repeat(5000) });
  /** What the build wrote behind a gzip stream is its own last field. */
  const gzip = gzipSync(kernel);

  it.each<readonly [string, Uint8Array]>([
    ["LZ4", sampleBzImage(concatBytes(MAGIC, literals(kernel)), kernel.length)],
    ["zstd", sampleBzImage(zstdCompressSync(kernel), kernel.length)],
    ["gzip", sampleBzImage(gzip.subarray(0, -4), kernel.length)],
  ])("unpacks %s", (_, image) => {
    expect(Buffer.compare(extractVmlinux(image, "vmlinuz"), kernel)).toBe(0);
  });

  const zstd = sampleBzImage(zstdCompressSync(kernel), kernel.length);
  const changed = (offset: number, ...bytes: readonly number[]): Uint8Array => {
    const copy = zstd.slice();
    copy.set(bytes, offset);
    return copy;
  };
  it.each<readonly [string, Uint8Array]>([
    ["something else", encodeUtf8("MZ")],
    ["no header", changed(0x202, 0)],
    ["an old boot protocol", changed(0x206, 7, 2)],
    ["a payload outside the file", changed(0x248, 0xff, 0xff, 0xff)],
    ["a payload that is too long", changed(0x24c, 0xff, 0xff, 0xff)],
    ["an unknown packer", changed(1024 + 16, 1, 2, 3, 4)],
    ["packed data that are cut off", sampleBzImage(zstdCompressSync(kernel).subarray(0, -9), kernel.length)],
    ["a size that is too small", sampleBzImage(zstdCompressSync(kernel), kernel.length - 1)],
    ["a size that is too large", sampleBzImage(zstdCompressSync(kernel), kernel.length + 1)],
    ["a size beyond the limit", sampleBzImage(zstdCompressSync(kernel), 0xffff_ffff)],
    ["a payload that is no kernel", sampleBzImage(zstdCompressSync(encodeUtf8("hello")), 5)],
  ])("refuses %s", (_, image) => {
    expect(() => extractVmlinux(image, "vmlinuz")).toThrow(expect.objectContaining({ code: "ERR_IMAGE_KERNEL" }));
  });
});
