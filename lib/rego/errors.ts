import { SealpodError } from "@sealpod/core";
import type { ErrorTable, SealpodErrorOptions } from "@sealpod/core";
import type { Diagnostic } from "./syntax/source.ts";

/** Codes of {@link RegoError}. */
export type RegoErrorCode =
  | "ERR_REGO_PARSE"
  | "ERR_REGO_COMPILE"
  | "ERR_REGO_UNSAFE"
  | "ERR_REGO_RECURSION"
  | "ERR_REGO_TYPE"
  | "ERR_REGO_REGEX"
  | "ERR_REGO_CONFLICT"
  | "ERR_REGO_BUILTIN"
  | "ERR_REGO_OPERAND"
  | "ERR_REGO_DATA"
  | "ERR_REGO_PATCH"
  | "ERR_REGO_LIMIT_SOURCE"
  | "ERR_REGO_LIMIT_NESTING"
  | "ERR_REGO_LIMIT_STEPS"
  | "ERR_REGO_LIMIT_TIME"
  | "ERR_REGO_LIMIT_MEMORY"
  | "ERR_REGO_LIMIT_CALLS"
  | "ERR_REGO_LIMIT_REGEX"
  | "ERR_REGO_LIMIT_NUMBER"
  | "ERR_REGO_LIMIT_RESULTS";

/** Rows of `lib/rego`. */
export const REGO_ERRORS: ErrorTable<RegoErrorCode> = {
  ERR_REGO_PARSE: { action: "caller", exit: 1, http: 400, summary: "Policy or query text is not Rego." },
  ERR_REGO_COMPILE: { action: "caller", exit: 1, http: 400, summary: "A policy declares, assigns or shadows a name in a way that Rego forbids." },
  ERR_REGO_UNSAFE: { action: "caller", exit: 1, http: 400, summary: "A variable of a rule can never get a value." },
  ERR_REGO_RECURSION: { action: "caller", exit: 1, http: 400, summary: "A rule depends on itself." },
  ERR_REGO_TYPE: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "Unknown function, wrong number of arguments, or rules of one name that do not go together.",
  },
  ERR_REGO_REGEX: { action: "caller", exit: 1, http: 400, summary: "A literal regular expression of the policy is not RE2 syntax." },
  ERR_REGO_CONFLICT: { action: "refused", exit: 3, http: 403, summary: "Rules gave two different values where one is allowed." },
  ERR_REGO_BUILTIN: { action: "refused", exit: 3, http: 403, summary: "A builtin function failed (only with strict builtin errors)." },
  ERR_REGO_OPERAND: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "A builtin function got an operand of the wrong type (only with strict builtin errors).",
  },
  ERR_REGO_DATA: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "The data document does not fit the policy: not an object, or a rule stands at the same path.",
  },
  ERR_REGO_PATCH: { action: "refused", exit: 3, http: 409, summary: "A JSON Patch does not apply to the data document; nothing was changed." },
  ERR_REGO_LIMIT_SOURCE: { action: "refused", exit: 1, http: 413, summary: "Policy text is larger than the limit." },
  ERR_REGO_LIMIT_NESTING: { action: "refused", exit: 1, http: 413, summary: "Policy text, input or data is nested deeper than the limit." },
  ERR_REGO_LIMIT_STEPS: { action: "refused", exit: 3, http: 503, summary: "Evaluation took more steps than the limit." },
  ERR_REGO_LIMIT_TIME: { action: "refused", exit: 3, http: 503, summary: "Evaluation took longer than the limit." },
  ERR_REGO_LIMIT_MEMORY: { action: "refused", exit: 3, http: 503, summary: "Evaluation built more values than the limit." },
  ERR_REGO_LIMIT_CALLS: { action: "refused", exit: 3, http: 503, summary: "Rules call one another deeper than the limit." },
  ERR_REGO_LIMIT_REGEX: { action: "refused", exit: 3, http: 503, summary: "A regular expression is larger than the limit." },
  ERR_REGO_LIMIT_NUMBER: { action: "refused", exit: 3, http: 503, summary: "A number has more digits than the limit." },
  ERR_REGO_LIMIT_RESULTS: { action: "refused", exit: 3, http: 503, summary: "A query has more results than the limit." },
};

/** Options of {@link RegoError}. */
export interface RegoErrorOptions extends SealpodErrorOptions {
  /** Everything that is wrong, each with its position; the error's message is made from it. */
  readonly diagnostics?: readonly Diagnostic[];
}

/** Errors of `lib/rego`. `details` holds `file`, `line` and `column` of the first diagnostic. */
export class RegoError extends SealpodError<RegoErrorCode> {
  /** All diagnostics of a failed compilation, in order of position; empty when the failure has no place in a source. */
  readonly diagnostics: readonly Diagnostic[];

  constructor(code: RegoErrorCode, message: string, options: RegoErrorOptions = {}) {
    super(REGO_ERRORS, code, message, options);
    this.diagnostics = options.diagnostics ?? [];
  }
}
