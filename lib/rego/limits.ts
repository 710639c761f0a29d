/**
 * Bounds on what a policy may cost. A policy's author is trusted with the verdict, not with the machine; the input
 * comes from the untrusted host. Each limit has its own error code, and reaching one aborts the query: it is never
 * turned into "undefined", because `not` would turn that into true.
 */
export interface RegoLimits {
  /** Length of one module in UTF-16 units. 16 MiB: what the Kata agent allows; generated policies reach a few hundred KiB. ERR_REGO_LIMIT_SOURCE */
  readonly maxSourceLength: number;
  /** Nesting of terms and bodies in a module, and of input and data. 128: kata's deepest generated data has 12 levels; deeper only serves to exhaust the stack. ERR_REGO_LIMIT_NESTING */
  readonly maxNesting: number;
  /** Rules of all modules together. 20 000: ten times the largest rule sets in use. ERR_REGO_LIMIT_SOURCE */
  readonly maxRules: number;
  /** Statements in one body: keeps the safety ordering, quadratic at worst, bounded. ERR_REGO_LIMIT_SOURCE */
  readonly maxBodyStatements: number;
  /** Statements executed, values looped over and work units of builtins for one query. A pod of ten containers needs under 100 000. ERR_REGO_LIMIT_STEPS */
  readonly maxSteps: number;
  /** Milliseconds of wall time for one query, measured only when the caller gives a clock. ERR_REGO_LIMIT_TIME */
  readonly maxMilliseconds: number;
  /** Units of memory (about a byte each) that one query may allocate for new values. ERR_REGO_LIMIT_MEMORY */
  readonly maxMemory: number;
  /** Depth of rules calling rules. ERR_REGO_LIMIT_CALLS */
  readonly maxCallDepth: number;
  /** Length of a regular expression in UTF-16 units. ERR_REGO_LIMIT_REGEX */
  readonly maxRegexLength: number;
  /** Instructions of a compiled regular expression: matching costs text length times this. ERR_REGO_LIMIT_REGEX */
  readonly maxRegexProgram: number;
  /** Compiled regular expressions kept by one policy; the least recently used one goes first. */
  readonly maxRegexCache: number;
  /** Solutions of one query. ERR_REGO_LIMIT_RESULTS */
  readonly maxResults: number;
  /** Calls of `print` kept for one query; later ones are counted, not kept. */
  readonly maxPrints: number;
  /** Length of all formatted print lines of one query in UTF-16 units. */
  readonly maxPrintLength: number;
  /** Rule bodies recorded in a trace. */
  readonly maxTraceEntries: number;
}

/** Limits that a guest can afford and that no real policy comes near. */
export const DEFAULT_REGO_LIMITS: RegoLimits = {
  maxSourceLength: 16 * 1024 * 1024,
  maxNesting: 128,
  maxRules: 20_000,
  maxBodyStatements: 1024,
  maxSteps: 20_000_000,
  maxMilliseconds: 5000,
  maxMemory: 256 * 1024 * 1024,
  maxCallDepth: 160,
  maxRegexLength: 16 * 1024,
  maxRegexProgram: 5000,
  maxRegexCache: 512,
  maxResults: 10_000,
  maxPrints: 20_000,
  maxPrintLength: 1024 * 1024,
  maxTraceEntries: 20_000,
};

/** The default limits with the given ones in their place. */
export function withLimits(limits: Partial<RegoLimits> | undefined, base: RegoLimits = DEFAULT_REGO_LIMITS): RegoLimits {
  return limits === undefined ? base : { ...base, ...limits };
}
