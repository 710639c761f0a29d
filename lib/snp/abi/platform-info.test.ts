import { describe, expect, it } from "vitest";
import {
  encodePlatformInfo,
  formatEvidenceOrigin,
  formatPlatformInfo,
  parsePlatformInfo,
  PLATFORM_BITS,
  PLATFORM_FEATURES,
  platformBit,
  platformBitNames,
} from "../index.ts";

describe("PLATFORM_INFO (AMD 56860)", () => {
  it("names the bits of genuine Turin, of which one has no name", () => {
    expect(parsePlatformInfo(0x65n)).toEqual({
      smtEnabled: true,
      tsmeEnabled: false,
      eccEnabled: true,
      raplDisabled: false,
      ciphertextHidingEnabled: false,
      aliasCheckComplete: true,
      tioEnabled: false,
      unknown: 0x40n,
    });
    expect(formatPlatformInfo(0x65n)).toBe("0x65 (smtEnabled, eccEnabled, aliasCheckComplete, bit6)");
    expect(formatPlatformInfo(0n)).toBe("0x0 (no bit)");
  });

  it("gives each bit one place, named or not, and loses none", () => {
    for (let bit = 0n; bit < 64n; bit++) {
      const raw = 1n << bit;
      const view = parsePlatformInfo(raw);
      expect(encodePlatformInfo(view)).toBe(raw);
      const [name, ...more] = platformBitNames(raw);
      expect(more).toEqual([]);
      const feature = PLATFORM_FEATURES.find((one) => one === name);
      expect(feature === undefined ? view.unknown : platformBit(feature)).toBe(raw);
      expect(PLATFORM_FEATURES.filter((one) => view[one])).toEqual(feature === undefined ? [] : [feature]);
    }
    const all = (1n << 64n) - 1n;
    expect(encodePlatformInfo(parsePlatformInfo(all))).toBe(all);
    expect(Object.values(PLATFORM_BITS)).toEqual([0, 1, 2, 3, 4, 5, 7]);
  });

  it("does not write a named bit as an unknown one", () => {
    for (const unknown of [1n, 1n << 64n, -1n]) {
      expect(() => encodePlatformInfo({ ...parsePlatformInfo(0n), unknown })).toThrow(expect.objectContaining({ code: "ERR_SNP_FIELD" }));
    }
  });
});

describe("the origin of evidence", () => {
  it("is written for people, and an emulator says so", () => {
    expect(formatEvidenceOrigin({ kind: "configfs-tsm", detail: "/sys/kernel/config/tsm/report" })).toBe("configfs-tsm, /sys/kernel/config/tsm/report");
    expect(formatEvidenceOrigin({ kind: "file" })).toBe("a file");
    expect(formatEvidenceOrigin({ kind: "emulator" })).toContain("EMULATED");
  });
});
