import { RE2JS, RE2JSException } from "re2js";
import { RegoError } from "../errors.ts";
import type { RegoLimits } from "../limits.ts";
import type { Meter } from "../values/index.ts";
import { Matcher } from "./matcher.ts";

/** A pattern that is not RE2 syntax. */
export class RegexSyntaxError extends Error {}

/** What bounds a regular expression. */
type RegexLimits = Pick<RegoLimits, "maxRegexLength" | "maxRegexProgram">;

/**
 * Compiles an RE2 pattern.
 * @throws {RegexSyntaxError}; {RegoError} ERR_REGO_LIMIT_REGEX
 */
function compileRegex(pattern: string, limits: RegexLimits): RE2JS {
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

function checkProgram(compiled: RE2JS, limits: RegexLimits): void {
  if (compiled.programSize() > limits.maxRegexProgram) throw tooLarge(compiled.programSize(), limits);
}

function tooLarge(size: number, { maxRegexProgram: limit }: RegexLimits): RegoError {
  return new RegoError("ERR_REGO_LIMIT_REGEX", `a regular expression compiles to ${size} instructions, more than the limit of ${limit}`, {
    details: { limit },
  });
}

/** All matches by the full engine. Each search may run to the end of the text and find only a little, so all are charged as if they did. */
function findAllWith(compiled: RE2JS, text: string, count: number, meter: Meter): readonly (readonly number[])[] {
  const searches = 1 + (count < 0 ? text.length : Math.min(count, text.length));
  meter.work(Math.floor((searches * text.length) / 64));
  return (compiled.re2().findAllSubmatchIndex(text, count) as readonly (readonly number[])[] | null) ?? [];
}

/** One pattern: the matcher of its own for the usual ones, the full engine when somebody asks for more than yes or no. */
export class Regex {
  readonly pattern: string;
  readonly #matcher: Matcher | undefined;
  #full: RE2JS | undefined;

  /** @throws {RegexSyntaxError}; {RegoError} ERR_REGO_LIMIT_REGEX */
  constructor(pattern: string, limits: RegexLimits) {
    this.pattern = pattern;
    this.#matcher = Matcher.compile(pattern);
    if (this.#matcher === undefined) this.#full = compileRegex(pattern, limits);
  }

  /** Instructions of the program that a match runs. */
  get size(): number {
    return this.#matcher?.size ?? this.#full!.programSize();
  }

  /** True if the text holds a match. @throws {RegoError} ERR_REGO_LIMIT_REGEX */
  test(text: string, limits: RegexLimits): boolean {
    return this.#matcher?.test(text) ?? this.full(limits).test(text);
  }

  /** Indexes of all matches and their groups, in Go's order and with its treatment of empty matches. @throws {RegoError} ERR_REGO_LIMIT_* */
  findAll(text: string, count: number, limits: RegexLimits, meter: Meter): readonly (readonly number[])[] {
    return this.#matcher?.findAll(text, count, meter) ?? findAllWith(this.full(limits), text, count, meter);
  }

  /** The full engine. @throws {RegoError} ERR_REGO_LIMIT_REGEX */
  full(limits: RegexLimits): RE2JS {
    if (this.#full === undefined) this.#full = compileRegex(this.pattern, limits);
    // The pattern outlives a query, whose limits may be narrower than those of the one before.
    else checkProgram(this.#full, limits);
    return this.#full;
  }
}

function checkSize(regex: Regex, limits: RegexLimits): void {
  if (regex.size > limits.maxRegexProgram) throw tooLarge(regex.size, limits);
}

/**
 * Compiled patterns by text, in two generations: what is used moves to the younger one, and when that is full the older one
 * is forgotten. So the least used ones go, and a hit costs one lookup. A pattern that does not compile is kept as well.
 */
export class RegexCache {
  readonly #half: number;
  #young = new Map<string, Regex | RegexSyntaxError>();
  #old = new Map<string, Regex | RegexSyntaxError>();

  constructor(maxSize: number) {
    this.#half = Math.max(1, Math.floor(maxSize / 2));
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /** @throws {RegexSyntaxError}; {RegoError} ERR_REGO_LIMIT_REGEX */
  get(pattern: string, limits: RegexLimits): Regex {
    checkLength(pattern, limits);
    const entry = this.#young.get(pattern) ?? this.#find(pattern, limits);
    if (entry instanceof RegexSyntaxError) throw entry;
    checkSize(entry, limits);
    return entry;
  }

  #find(pattern: string, limits: RegexLimits): Regex | RegexSyntaxError {
    let entry = this.#old.get(pattern);
    if (entry === undefined) {
      try {
        entry = new Regex(pattern, limits);
      } catch (error) {
        if (!(error instanceof RegexSyntaxError)) throw error;
        entry = error;
      }
    } else {
      this.#old.delete(pattern);
    }
    if (this.#young.size >= this.#half) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(pattern, entry);
    return entry;
  }
}
