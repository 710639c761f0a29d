import { describe, expect, it } from "vitest";
import { TerminalProgress } from "./progress.ts";

const A = `sha256:${"a".repeat(64)}`;
const B = `sha256:${"b".repeat(64)}`;

/** A terminal that keeps what is to be seen, and a clock that is set by hand. */
function setUp(columns = 100): {
  progress: TerminalProgress;
  clock: { time: number };
  screen: () => string[];
  writes: () => number;
  resize: (to: number) => void;
} {
  const clock = { time: 1_000_000 };
  let width = columns;
  let lines: string[] = [];
  let writes = 0;
  const progress = new TerminalProgress(
    {
      write(text) {
        writes++;
        // eslint-disable-next-line no-control-regex -- the only sequence that the renderer may use
        const up = /^\u001b\[(\d+)A\r\u001b\[J/.exec(text);
        if (up !== null) lines = lines.slice(0, lines.length - Number(up[1]));
        const rest = text.slice(up?.[0].length ?? 0);
        expect(rest).not.toContain("\u001b");
        lines.push(...rest.split("\n").slice(0, -1));
      },
      columns: () => width,
    },
    { now: () => clock.time },
  );
  return { progress, clock, screen: () => lines, writes: () => writes, resize: (to) => void (width = to) };
}

describe("TerminalProgress", () => {
  it("draws a line per layer, and one for all", () => {
    const { progress, clock, screen } = setUp();
    progress.cached("sha256:c");
    progress.queued(A);
    progress.queued(B);
    progress.start(A, 40_000_000);
    clock.time += 1000;
    progress.advance(A, 10_000_000);
    expect(screen()).toEqual(["aaaaaaaaaaaa  [=====               ]   25%  10.0/40.0 MB  10.0 MB/s  3 s left", "layers: 0 of 2 read, 1 known"]);
    clock.time += 1000;
    progress.start(B, 5_000_000);
    clock.time += 1000;
    progress.done(A);
    expect(screen()).toEqual(["bbbbbbbbbbbb  [                    ]    0%  0.0/5.0 MB  0.0 MB/s", "layers: 1 of 2 read, 1 known"]);
  });

  it("draws at most ten times a second", () => {
    const { progress, clock, writes } = setUp();
    progress.start(A, 1_000_000);
    for (let i = 1; i <= 1000; i++) {
      clock.time += 1;
      progress.advance(A, i * 1000);
    }
    expect(writes()).toBe(11);
  });

  it("takes the rate of the last seconds, so that a stalled download shows", () => {
    const { progress, clock, screen } = setUp();
    progress.start(A, 1e9);
    for (let second = 1; second <= 10; second++) {
      clock.time += 1000;
      progress.advance(A, second * 20e6);
    }
    expect(screen()[0]).toContain("  20.0 MB/s  40 s left");
    for (let second = 1; second <= 10; second++) {
      clock.time += 1000;
      progress.advance(A, 200e6 + second * 1e6);
    }
    expect(screen()[0]).toContain("  1.0 MB/s  13 min left");
  });

  it("cuts its lines to the width of the terminal, and leaves the last column free", () => {
    const { progress, clock, screen, resize } = setUp();
    progress.start(A, 40_000_000);
    for (const [width, expected] of [
      [60, "aaaaaaaaaaaa   25%  10.0/40.0 MB  10.0 MB/s  3 s left"],
      [50, "aaaaaaaaaaaa   25%  10.0/40.0 MB  10.0 MB/s"],
      [20, "aaaaaaaaaaaa   25%"],
      [10, "aaaaaaaaa"],
      [0, ""],
    ] as const) {
      const fresh = setUp(width);
      fresh.progress.start(A, 40_000_000);
      fresh.clock.time += 1000;
      fresh.progress.advance(A, 10_000_000);
      expect(fresh.screen()[0], String(width)).toBe(expected);
    }
    resize(30);
    clock.time += 1000;
    progress.advance(A, 10_000_000);
    expect(screen().every((line) => line.length < 30)).toBe(true);
  });

  it("shows at most eight layers, copes with sizes that are not right, and leaves nothing behind", () => {
    const { progress, clock, screen } = setUp();
    for (let i = 0; i < 12; i++) progress.start(`sha256:${i}`, 0);
    clock.time += 1000;
    progress.advance("sha256:0", 5);
    progress.advance("sha256:unknown", 5);
    expect(screen()).toHaveLength(9);
    expect(screen()[0]).toContain("100%");
    progress.clear();
    expect(screen()).toEqual([]);
    progress.clear();
    expect(screen()).toEqual([]);
  });
});
