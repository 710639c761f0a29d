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

/**
 * The exponent `e` of time ~ size^e, by least squares over the fastest of several runs at each size. Measured up to three
 * times, the lowest counts: load on the machine only ever adds.
 * @param prepare builds what one run needs; only the function that it returns is timed
 */
export function growthExponent(sizes: readonly number[], prepare: (size: number) => () => void): number {
  let lowest = Infinity;
  for (let attempt = 0; attempt < 3 && !(lowest < 1.1); attempt++) lowest = Math.min(lowest, measureGrowth(sizes, prepare));
  return lowest;
}

function measureGrowth(sizes: readonly number[], prepare: (size: number) => () => void): number {
  const runs = sizes.map((size) => ({ size, run: prepare(size) }));
  // The first runs are compiled as they go; they count for nothing.
  for (const { run } of runs.slice(0, 2)) run();
  const points = runs.map(({ size, run }) => {
    let fastest = Infinity;
    for (let round = 0; round < 4; round++) {
      const start = performance.now();
      run();
      fastest = Math.min(fastest, performance.now() - start);
    }
    return { x: Math.log(size), y: Math.log(Math.max(fastest, 1e-3)) };
  });
  const mean = (pick: (point: { readonly x: number; readonly y: number }) => number): number =>
    points.reduce((sum, point) => sum + pick(point), 0) / points.length;
  const [x, y] = [mean((point) => point.x), mean((point) => point.y)];
  const covariance = points.reduce((sum, point) => sum + (point.x - x) * (point.y - y), 0);
  return covariance / points.reduce((sum, point) => sum + (point.x - x) ** 2, 0);
}
