import type { JsonValue } from "@sealpod/core";
import type { Builtin, EvaluateOptions } from "@sealpod/rego";
import { compile, RegoError } from "@sealpod/rego";
import { describe, expect, it } from "vitest";

/** The value of a Rego expression, or what went wrong: `CODE message`. Undefined if it has no value. */
export type Answer = (expression: string, options?: EvaluateOptions & { readonly strict?: boolean }) => JsonValue | undefined;

/** Answers with some builtin functions added to the core. */
export function answers(builtins: readonly Builtin[]): Answer {
  return (expression, options = {}) => {
    try {
      const policy = compile([{ name: "t.rego", text: `package t\np := ${expression}` }], { builtins, strictBuiltinErrors: options.strict ?? false });
      return policy.evaluate("data.t.p", options).results[0]?.expressions[0];
    } catch (error) {
      if (error instanceof RegoError) return `${error.code} ${error.message}`;
      throw error;
    }
  };
}

/** A table of expressions and their values. */
export function table(name: string, answer: Answer, rows: readonly (readonly [string, JsonValue | undefined])[]): void {
  describe(name, () => {
    it.each(rows)("%s", (expression, expected) => {
      expect(answer(expression)).toEqual(expected);
    });
  });
}

/** A table of expressions that fail: undefined by default, and with strict errors an abort whose message says why. */
export function failures(name: string, answer: Answer, rows: readonly (readonly [string, string])[]): void {
  describe(name, () => {
    it.each(rows)("%s", (expression, why) => {
      expect(answer(expression)).toBeUndefined();
      expect(answer(expression, { strict: true })).toContain(why);
    });
  });
}
