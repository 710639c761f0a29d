import { describe, expect, it } from "vitest";
import { newContainerId, safeString } from "./names.ts";
import { countingRandom } from "./testdata/fixtures.ts";

describe("random names", () => {
  it("draws from the safe alphabet without bias: values that do not divide evenly are drawn again", () => {
    // 0xffffffff lies in the remainder that 2^32 leaves modulo 27, so the next draw (zero) counts.
    const draws = [Uint8Array.of(0xff, 0xff, 0xff, 0xff), new Uint8Array(4)];
    expect(safeString(1, { bytes: () => draws.shift() ?? new Uint8Array(4) })).toBe("b");
    expect(draws).toHaveLength(0);
  });

  it("makes 64-digit container ids", () => {
    expect(newContainerId(countingRandom())).toMatch(/^[0-9a-f]{64}$/);
  });
});
