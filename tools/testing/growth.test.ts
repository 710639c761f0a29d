import { describe, expect, it } from "vitest";
import { exponentOf, measureGrowth, unitCostOf } from "./growth.ts";

/** Work of about a nanosecond for each step. */
function work(steps: number): () => void {
  const bytes = new Uint8Array(64);
  return () => {
    for (let step = 0; step < steps; step++) bytes[step & 63] = (bytes[(step + 7) & 63] ?? 0) + step;
  };
}

describe("growth", () => {
  it("is told from points", () => {
    const points = (power: number): { size: number; fastest: number }[] => [1, 10, 100].map((size) => ({ size, fastest: 3 * size ** power }));
    expect(exponentOf(points(1))).toBeCloseTo(1);
    expect(exponentOf(points(2))).toBeCloseTo(2);
    expect(unitCostOf(points(1))).toBeCloseTo(1);
    expect(unitCostOf(points(2))).toBeCloseTo(100);
  });

  it("tells linear work from quadratic work", () => {
    expect(measureGrowth([100, 200, 400], 1.4, (size) => work(size * 1000))).toBeLessThan(1.4);
    expect(measureGrowth([100, 200, 400], 1.4, (size) => work(size * size * 10))).toBeGreaterThan(1.6);
    expect(measureGrowth([100, 200, 400], 3, (size) => work(size * size * 10), { judge: unitCostOf })).toBeGreaterThan(3);
  });
});
