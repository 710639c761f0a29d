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
