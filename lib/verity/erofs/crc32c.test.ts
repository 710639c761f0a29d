import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { crc32c } from "./crc32c.ts";

describe("crc32c", () => {
  // RFC 3720 appendix B.4; there the register is inverted at the end.
  it.each([
    ["32 zeros", new Uint8Array(32), 0x8a9136aa],
    ["32 bytes of ones", new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ["32 rising bytes", Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ["32 falling bytes", Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    ["123456789", encodeUtf8("123456789"), 0xe3069283],
  ])("agrees with RFC 3720 on %s", (_, bytes, expected) => {
    expect((crc32c(0xffff_ffff, bytes) ^ 0xffff_ffff) >>> 0).toBe(expected);
  });

  it("goes on from where it was", () => {
    const bytes = encodeUtf8("cut anywhere");
    expect(crc32c(crc32c(7, bytes.subarray(0, 5)), bytes.subarray(5))).toBe(crc32c(7, bytes));
  });
});
