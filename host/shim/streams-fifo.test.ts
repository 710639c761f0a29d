import { describe, expect, it } from "vitest";
import { lookPauses, STREAM_TIMES } from "./streams-fifo.ts";

describe("looks for a reader that comes late", () => {
  it("are few, soon at first, and end when the time is over", () => {
    const pauses = lookPauses(STREAM_TIMES.lateReader);
    expect(pauses).toEqual([100, 200, 400, 800, 1600, 3200, 3700]);
    expect(pauses.reduce((sum, pause) => sum + pause)).toBe(STREAM_TIMES.lateReader);
  });

  it.each([
    [0, []],
    [50, [50]],
    [100, [100]],
    [200, [100, 100]],
  ])("within %i ms pause for %j", (limit, pauses) => {
    expect(lookPauses(limit)).toEqual(pauses);
  });
});
