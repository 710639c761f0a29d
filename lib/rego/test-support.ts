import type { JsonValue } from "@sealpod/core";
import { compile, RegoError } from "./index.ts";
import type { CompileOptions, Evaluation, EvaluateOptions, RegoErrorCode } from "./index.ts";

/** Compiles a module of package `t` in v1. */
export function evaluate(
  rules: string,
  query = "data.t.p",
  options: EvaluateOptions & { readonly data?: JsonValue } = {},
  compileOptions: CompileOptions = {},
): Evaluation {
  const policy = compile([{ name: "t.rego", text: `package t\n${rules}` }], compileOptions);
  if (options.data !== undefined) policy.setData(options.data);
  return policy.evaluate(query, options);
}

/** The value of a query that has one result; undefined if it has none. */
export function valueOf(
  rules: string,
  options: EvaluateOptions & { readonly data?: JsonValue } = {},
  compileOptions: CompileOptions = {},
): JsonValue | undefined {
  return evaluate(rules, "data.t.p", options, compileOptions).results[0]?.expressions[0];
}

/** The value of an expression. */
export function expression(text: string, options: EvaluateOptions = {}): JsonValue | undefined {
  return valueOf(`p := ${text}`, options);
}

/** The error that a function throws. */
export function errorOf(run: () => unknown): RegoError {
  try {
    run();
  } catch (error) {
    if (error instanceof RegoError) return error;
    throw error;
  }
  throw new Error("no error was thrown");
}

/** The code of the error that a function throws; undefined if it throws none. */
export function codeOf(run: () => unknown): RegoErrorCode | undefined {
  try {
    run();
    return undefined;
  } catch (error) {
    if (error instanceof RegoError) return error.code;
    throw error;
  }
}

/** Rounds of {@link growthExponent}: enough of them pass between two moments of load on the machine. */
const ROUNDS = { least: 4, most: 16 };

/** An exponent below this ends the measurement: more rounds cannot lift it over any bound in use. */
const CLEARLY_LINEAR = 1.1;

/**
 * The exponent `e` of time ~ size^e, by least squares over the fastest run at each size. Load on the machine only ever adds
 * time: each round runs all sizes in turn, so that it meets all of them, and while the answer is in doubt more rounds follow.
 * @param prepare builds what one run needs; only the function that it returns is timed
 */
export function growthExponent(sizes: readonly number[], prepare: (size: number) => () => void): number {
  const points = sizes.map((size) => ({ size, run: prepare(size), fastest: Infinity }));
  // The first runs are compiled as they go; they count for nothing.
  for (const { run } of points) run();
  let exponent = Infinity;
  for (let round = 1; round <= ROUNDS.most && !(round > ROUNDS.least && exponent < CLEARLY_LINEAR); round++) {
    for (const point of points) {
      const start = performance.now();
      point.run();
      point.fastest = Math.min(point.fastest, performance.now() - start);
    }
    exponent = slope(points.map(({ size, fastest }) => ({ x: Math.log(size), y: Math.log(Math.max(fastest, 1e-3)) })));
  }
  return exponent;
}

/** The slope of the straight line that fits points best. */
function slope(points: readonly { readonly x: number; readonly y: number }[]): number {
  const mean = (pick: (point: { readonly x: number; readonly y: number }) => number): number =>
    points.reduce((sum, point) => sum + pick(point), 0) / points.length;
  const [x, y] = [mean((point) => point.x), mean((point) => point.y)];
  const covariance = points.reduce((sum, point) => sum + (point.x - x) * (point.y - y), 0);
  return covariance / points.reduce((sum, point) => sum + (point.x - x) ** 2, 0);
}
