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

/** A policy and what it is asked; JSON, so that another process can be given it. */
export interface Questions {
  readonly text: string;
  readonly queries: readonly string[];
  readonly inputs: readonly JsonValue[];
}

/** All that a policy answers, untraced and traced: results, prints, cost and trace, as texts. */
export function answersTo({ text, queries, inputs }: Questions): readonly string[] {
  const policy = compile([{ name: "t.rego", text }]);
  return queries.flatMap((query) =>
    inputs.flatMap((input) =>
      [false, true].map((traced) => {
        const { results, prints, cost, trace } = policy.evaluate(query, { input, trace: traced });
        return JSON.stringify([query, results, prints, cost, trace], (_, value: unknown) => (typeof value === "bigint" ? `${value}n` : value));
      }),
    ),
  );
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

/** Rounds of {@link growthExponent}: more than the least only while the answer is in doubt. */
const ROUNDS = { least: 4, most: 40 };

/**
 * The exponent `e` of time ~ size^e, by least squares over the fastest of several runs at each size. Time is that of this
 * thread on the processor, which other load on the machine does not add to; each round runs all sizes in turn, so that what
 * slows the machine as such slows all of them. A small size is run as often in a row as makes up for the largest: a single
 * short run would slip between two disturbances that a long one cannot escape, and seem the faster for it.
 * @param bound what the exponent is to be compared with: once a fit is below it, no more rounds are run
 * @param prepare builds what one run needs; only the function that it returns is timed
 */
export function growthExponent(sizes: readonly number[], bound: number, prepare: (size: number) => () => void): number {
  const largest = Math.max(...sizes);
  const points = sizes.map((size) => ({ size, times: Math.round(largest / size), run: prepare(size), fastest: Infinity }));
  // The first runs are compiled as they go; they count for nothing.
  for (const { run } of points) run();
  let exponent = Infinity;
  for (let round = 1; round <= ROUNDS.most && !(round > ROUNDS.least && exponent < bound); round++) {
    for (const point of points) {
      const start = threadMicroseconds();
      for (let time = 0; time < point.times; time++) point.run();
      point.fastest = Math.min(point.fastest, (threadMicroseconds() - start) / point.times);
    }
    exponent = slope(points.map(({ size, fastest }) => ({ x: Math.log(size), y: Math.log(Math.max(fastest, 1e-3)) })));
  }
  return exponent;
}

/** Linux brings a thread's own count up to date at ticks only, and when it is asked for that of the whole process. */
function threadMicroseconds(): number {
  process.cpuUsage();
  const { user, system } = process.threadCpuUsage();
  return user + system;
}

/** The slope of the straight line that fits points best. */
function slope(points: readonly { readonly x: number; readonly y: number }[]): number {
  const mean = (pick: (point: { readonly x: number; readonly y: number }) => number): number =>
    points.reduce((sum, point) => sum + pick(point), 0) / points.length;
  const [x, y] = [mean((point) => point.x), mean((point) => point.y)];
  const covariance = points.reduce((sum, point) => sum + (point.x - x) * (point.y - y), 0);
  return covariance / points.reduce((sum, point) => sum + (point.x - x) ** 2, 0);
}
