/** Rounds over all sizes: the first ones always, the others only while a disturbance may explain the result. */
const FEWEST_ROUNDS = 3;
const MOST_ROUNDS = 40;

/**
 * How cost grows: the e of cost ~ size^e through the cheapest run at each size, in processor time of this thread. A round does the same amount of work at each size, small ones
 * repeated, so that no size has a better chance of a quiet moment.
 * @param limit what e must stay below; a round that shows it is the last
 * @param prepare makes the input of a size; what it returns is measured
 */
export function growth(sizes: readonly number[], limit: number, prepare: (size: number) => () => void): number {
  const largest = Math.max(...sizes);
  const rows = sizes.map((size) => ({ size, repeats: Math.round(largest / size), run: prepare(size), best: Infinity }));
  const measure = (row: (typeof rows)[number]): number => {
    const before = ownMicroseconds();
    for (let count = 0; count < row.repeats; count++) row.run();
    return (ownMicroseconds() - before) / row.repeats;
  };
  // Once for the compiler alone.
  for (const row of rows) measure(row);
  for (let round = 1; ; round++) {
    for (const row of rows) row.best = Math.min(row.best, measure(row));
    const exponent = steepness(rows.map(({ size, best }) => [Math.log(size), Math.log(Math.max(best, 0.001))]));
    if ((round >= FEWEST_ROUNDS && exponent < limit) || round === MOST_ROUNDS) return exponent;
  }
}

/** The thread's count on Linux is fresh only after that of the process was asked for. */
function ownMicroseconds(): number {
  process.cpuUsage();
  const { user, system } = process.threadCpuUsage();
  return user + system;
}

/** Slope of the least-squares line. */
function steepness(points: readonly (readonly [number, number])[]): number {
  const sum = (pick: (point: readonly [number, number]) => number): number => points.reduce((total, point) => total + pick(point), 0);
  const count = points.length;
  const [sumX, sumY] = [sum(([x]) => x), sum(([, y]) => y)];
  return (count * sum(([x, y]) => x * y) - sumX * sumY) / (count * sum(([x]) => x * x) - sumX * sumX);
}
