/** Rounds of {@link growth}: more than the least only while the answer is in doubt. */
const ROUNDS = { least: 3, most: 40 };

/**
 * How much more a unit of the largest size costs than one of the smallest: 1 if the cost is linear, the ratio of the sizes if it is quadratic.
 *
 * Each round does the same amount of work at every size, a small one many times over, so that what disturbs the machine meets all of them alike; the fastest round
 * of each counts, in time of this thread on the processor.
 * @param bound what the result is compared with: once it is below, no more rounds are run
 */
export function growth(sizes: readonly number[], bound: number, prepare: (size: number) => () => void): number {
  const largest = Math.max(...sizes);
  const points = sizes.map((size) => ({ times: Math.round(largest / size), run: prepare(size), best: Infinity }));
  for (const { run } of points) run();
  let ratio = Infinity;
  for (let round = 0; round < ROUNDS.most && (round < ROUNDS.least || ratio >= bound); round++) {
    for (const point of points) {
      const before = cpuMicroseconds();
      for (let time = 0; time < point.times; time++) point.run();
      point.best = Math.min(point.best, cpuMicroseconds() - before);
    }
    ratio = (points.at(-1)?.best ?? Infinity) / Math.max(1, points[0]?.best ?? 0);
  }
  return ratio;
}

function cpuMicroseconds(): number {
  // Linux brings a thread's count up to date when that of the process is asked for.
  process.cpuUsage();
  const { user, system } = process.threadCpuUsage();
  return user + system;
}

/** A generator of numbers in [0, 1) that gives the same ones for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
