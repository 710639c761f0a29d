import { describe, expect, it } from "vitest";
import { ByteReader, ByteWriter, fromHex, jsonLogger, toHex } from "./index.ts";

describe("ByteReader and ByteWriter", () => {
  it("are each other's inverse", () => {
    const bytes = new ByteWriter()
      .u8(1)
      .u16le(0x0203)
      .u16be(0x0203)
      .u32le(0x04050607)
      .u32be(0xfffffffe)
      .u64le(8n)
      .u64be(2n ** 64n - 1n)
      .zeros(2)
      .bytes(fromHex("aabb"))
      .toBytes();
    expect(toHex(bytes)).toBe(["01", "0302", "0203", "07060504", "fffffffe", "0800000000000000", "ffffffffffffffff", "0000", "aabb"].join(""));
    const reader = new ByteReader(bytes, "probe");
    expect([reader.u8(), reader.u16le(), reader.u16be(), reader.u32le(), reader.u32be(), reader.u64le(), reader.u64be()]).toEqual([
      1,
      0x0203,
      0x0203,
      0x04050607,
      0xfffffffe,
      8n,
      2n ** 64n - 1n,
    ]);
    expect(toHex(reader.bytes(4))).toBe("0000aabb");
    reader.end();
  });

  it("refuse to read past the end, a negative length, and bytes left over", () => {
    const reader = new ByteReader(fromHex("010203"), "probe");
    expect(() => reader.u32le()).toThrow(expect.objectContaining({ code: "ERR_CORE_TRUNCATED" }));
    expect(() => reader.bytes(-1)).toThrow(expect.objectContaining({ code: "ERR_CORE_TRUNCATED" }));
    reader.u8();
    expect(() => reader.end()).toThrow("probe: 2 bytes after the end at offset 1");
  });

  it("work on a view into a larger buffer", () => {
    const view = fromHex("ffff0102ffff").subarray(2, 4);
    expect(new ByteReader(view, "view").u16be()).toBe(0x0102);
  });
});

describe("jsonLogger", () => {
  it("writes one object per line and drops what is below its level", () => {
    const lines: string[] = [];
    const logger = jsonLogger({ now: () => 5 }, (line) => lines.push(line), "info", "agent");
    logger.log("debug", "hidden");
    logger.log("warn", "seen\n", { count: 2n, gone: undefined });
    expect(lines).toEqual(['{"level":40,"time":5,"name":"agent","count":"2","msg":"seen\\n"}\n']);
  });
});
