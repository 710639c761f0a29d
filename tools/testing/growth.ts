/** A size, and the processor time of its fastest run in microseconds. */
export interface GrowthPoint {
  readonly size: number;
  readonly fastest: number;
}

/** Options of {@link measureGrowth}. */
export interface GrowthOptions {
  /** What is made of the points after each round; {@link exponentOf} when absent. */
  readonly judge?: (points: readonly GrowthPoint[]) => number;
  /** Runs of the largest size in a round, 1 when absent: a round has to be long against the clock's own microsecond. */
  readonly repeats?: number;
}

/** Rounds: more than the least only while the answer is in doubt. */
const ROUNDS = { least: 4, most: 40 };

/** Microseconds. Below it a run is as good as nothing, and has a logarithm all the same. */
const SHORTEST = 1e-3;

/**
 * How the time of something grows with its size: the exponent `e` of time ~ size^e, or what else `judge` makes of it. Time is that of this thread on the
 * processor, which other load on the machine does not add to; each round runs all sizes in turn, so that what slows the machine as such slows all of them.
 * A small size is run as often in a row as makes up for the largest: a single short run would slip between two disturbances that a long one cannot escape,
 * and seem the faster for it.
 * @param bound what the result is to be compared with: once one is below it, no more rounds are run
 * @param prepare builds what one run needs; only the function that it returns is timed
 */
export function measureGrowth(sizes: readonly number[], bound: number, prepare: (size: number) => () => void, options: GrowthOptions = {}): number {
  const { judge = exponentOf, repeats = 1 } = options;
  const largest = Math.max(...sizes);
  const points = sizes.map((size) => ({ size, times: Math.round(largest / size) * repeats, run: prepare(size), fastest: Infinity }));
  // The first runs are compiled as they go; they count for nothing.
  for (const { run, times } of points) for (let time = 0; time < times; time++) run();
  let result = Infinity;
  for (let round = 1; round <= ROUNDS.most && (round <= ROUNDS.least || result >= bound); round++) {
    for (const point of points) {
      const start = threadMicroseconds();
      for (let time = 0; time < point.times; time++) point.run();
      point.fastest = Math.min(point.fastest, (threadMicroseconds() - start) / point.times);
    }
    result = judge(points);
  }
  return result;
}

/** The exponent of time ~ size^e, by least squares. */
export function exponentOf(points: readonly GrowthPoint[]): number {
  const line = points.map(({ size, fastest }) => ({ x: Math.log(size), y: Math.log(Math.max(fastest, SHORTEST)) }));
  const middle = line.reduce((sum, { x }) => sum + x, 0) / line.length;
  const spread = line.reduce((sum, { x }) => sum + (x - middle) ** 2, 0);
  return line.reduce((sum, { x, y }) => sum + (x - middle) * y, 0) / spread;
}

/** How much more a unit of the last size costs than one of the first: 1 if the cost is linear, the ratio of the sizes if it is quadratic. */
export function unitCostOf(points: readonly GrowthPoint[]): number {
  const [first, last] = [points[0], points.at(-1)];
  if (first === undefined || last === undefined) return Infinity;
  return last.fastest / last.size / (Math.max(first.fastest, SHORTEST) / first.size);
}

/** Linux brings a thread's own count up to date at ticks only, and when it is asked for that of the whole process. */
function threadMicroseconds(): number {
  process.cpuUsage();
  const { user, system } = process.threadCpuUsage();
  return user + system;
}
