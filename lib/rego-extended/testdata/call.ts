import type { JsonValue } from "@sealpod/core";
import { type Builtin, compile, RegoError, type RegoLimits } from "@sealpod/rego";

/** 2026-11-22T00:00:00Z: the time of the queries below. */
export const NOW: number = Date.UTC(2026, 10, 22);

/** How a test calls a function. */
export interface CallOptions {
  /** A failure of the function throws instead of making the call undefined. */
  readonly strict?: boolean;
  /** The query's time in milliseconds; null for a query without a clock. */
  readonly now?: number | null;
  readonly limits?: Partial<RegoLimits>;
}

/** Calls one builtin through the engine with JSON values; undefined if the call has no value. */
export function caller(builtins: readonly Builtin[]): (name: string, args: readonly JsonValue[], options?: CallOptions) => JsonValue | undefined {
  return (name, args, options = {}) => {
    const operands = args.map((_, index) => `input[${index}]`).join(", ");
    const text = `package t\n\np := ${name}(${operands})\n`;
    const policy = compile([{ name: "t.rego", text }], { builtins, strictBuiltinErrors: options.strict === true });
    const { results } = policy.evaluate("data.t.p", {
      input: args,
      ...(options.now === null ? {} : { clock: { now: () => options.now ?? NOW } }),
      ...(options.limits === undefined ? {} : { limits: options.limits }),
    });
    return results[0]?.expressions[0];
  };
}

/** Calls a builtin as {@link caller} made it, with strict errors, and gives the message with which it fails. */
export function failureOf(call: ReturnType<typeof caller>): (name: string, args: readonly JsonValue[]) => string {
  return (name, args) => {
    try {
      call(name, args, { strict: true });
    } catch (error) {
      if (error instanceof RegoError && error.code === "ERR_REGO_BUILTIN") return error.message;
      throw error;
    }
    throw new Error("no error");
  };
}
