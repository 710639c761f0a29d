import { RE2JS, RE2JSException } from "re2js";
import { RegoError } from "../errors.ts";
import type { RegoLimits } from "../limits.ts";

/** A pattern that is not RE2 syntax. */
export class RegexSyntaxError extends Error {}

/** What bounds a regular expression. */
type RegexLimits = Pick<RegoLimits, "maxRegexLength" | "maxRegexProgram">;

/**
 * Compiles an RE2 pattern.
 * @throws {RegexSyntaxError}; {RegoError} ERR_REGO_LIMIT_REGEX
 */
export function compileRegex(pattern: string, limits: RegexLimits): RE2JS {
  checkLength(pattern, limits);
  let compiled: RE2JS;
  try {
    compiled = RE2JS.compile(pattern);
  } catch (error) {
    if (error instanceof RE2JSException) throw new RegexSyntaxError(error.message, { cause: error });
    // Running out of stack says nothing about the pattern: it must not make the call undefined.
    if (error instanceof RangeError) throw new RegoError("ERR_REGO_LIMIT_REGEX", "a regular expression needs more stack than there is", { cause: error });
    throw error;
  }
  checkProgram(compiled, limits);
  return compiled;
}

function checkLength(pattern: string, { maxRegexLength: limit }: RegexLimits): void {
  if (pattern.length <= limit) return;
  throw new RegoError("ERR_REGO_LIMIT_REGEX", `a regular expression has ${pattern.length} characters, more than the limit of ${limit}`, { details: { limit } });
}

function checkProgram(compiled: RE2JS, { maxRegexProgram: limit }: RegexLimits): void {
  const size = compiled.programSize();
  if (size <= limit) return;
  throw new RegoError("ERR_REGO_LIMIT_REGEX", `a regular expression compiles to ${size} instructions, more than the limit of ${limit}`, { details: { limit } });
}

/** Compiled patterns by text; the least recently used one goes first. A pattern that does not compile is kept as well. */
export class RegexCache {
  readonly #maxSize: number;
  readonly #compiled = new Map<string, RE2JS | RegexSyntaxError>();

  constructor(maxSize: number) {
    this.#maxSize = maxSize;
  }

  get size(): number {
    return this.#compiled.size;
  }

  /** @throws {RegexSyntaxError}; {RegoError} ERR_REGO_LIMIT_REGEX */
  get(pattern: string, limits: RegexLimits): RE2JS {
    let entry = this.#compiled.get(pattern);
    if (entry === undefined) {
      try {
        entry = compileRegex(pattern, limits);
      } catch (error) {
        if (!(error instanceof RegexSyntaxError)) throw error;
        entry = error;
      }
      if (this.#compiled.size >= this.#maxSize) this.#compiled.delete(this.#compiled.keys().next().value!);
    } else {
      checkLength(pattern, limits);
      this.#compiled.delete(pattern);
    }
    this.#compiled.set(pattern, entry);
    if (entry instanceof RegexSyntaxError) throw entry;
    // The cache outlives a query, whose limits may be narrower than those of the one before.
    checkProgram(entry, limits);
    return entry;
  }
}
