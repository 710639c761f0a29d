/**
 * The policy engine: Rego source to verdict. See docs/rego.md for what is supported and where the answers of other
 * engines differ.
 */
export { compile } from "./policy.ts";
export type {
  CompileOptions,
  EvaluateOptions,
  Evaluation,
  EvaluationCost,
  HostFunction,
  PatchOperation,
  Policy,
  QueryStatement,
  RegoModule,
  RegoResult,
} from "./policy.ts";
export { REGO_ERRORS, RegoError } from "./errors.ts";
export type { RegoErrorCode, RegoErrorOptions } from "./errors.ts";
export { DEFAULT_REGO_LIMITS } from "./limits.ts";
export type { RegoLimits } from "./limits.ts";
export type { Negation } from "./analysis/lower.ts";
export type { Diagnostic, Position } from "./syntax/source.ts";
export type { EvaluationObserver, Place } from "./observer.ts";
export type { Trace, TraceEntry, TraceFailure, TraceOperand } from "./trace.ts";
// What follows is for authors and their tools; a program that does not use it does not contain it.
export { TYPE_CHECKER } from "./analysis/type-check.ts";
export type { RegoTypeChecker } from "./analysis/type-check.ts";
export { formatModule } from "./format/format.ts";
export type { FormatOptions } from "./format/format.ts";
export { parseRego } from "./syntax/module.ts";
export type { ParseOptions } from "./syntax/module.ts";
export type * from "./syntax/ast.ts";
export * from "./builtins/extension.ts";
