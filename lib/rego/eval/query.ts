import type { Clock, Random } from "@sealpod/core";
import type { RE2JS } from "re2js";
import type { Callee } from "../analysis/ir.ts";
import type { BuiltinContext } from "../builtins/builtin.ts";
import { builtinError } from "../builtins/builtin.ts";
import { RegoError } from "../errors.ts";
import type { RegoLimits } from "../limits.ts";
import type { EvaluationObserver } from "../observer.ts";
import type { Source } from "../syntax/source.ts";
import type { Primitive, RegoObject, Value } from "../values/index.ts";
import type { Regex, RegexCache } from "../regex/cache.ts";
import { RegexSyntaxError } from "../regex/cache.ts";
import type { Draft } from "./rules.ts";
import type { TraceRecorder } from "./trace-recorder.ts";

/** A document that `with` put in place of parts of `data`. */
export interface Overlay {
  /** Set if the document from here on is replaced as a whole. */
  readonly value: Value | undefined;
  readonly children: ReadonlyMap<Primitive, Overlay>;
}

/** What a function is replaced by under `with`. */
export type Replacement = { readonly kind: "value"; readonly value: Value } | { readonly kind: "callee"; readonly callee: Callee };

/** One call of `print`, formatted when somebody asks. */
export interface PrintRecord {
  readonly source: Source;
  readonly at: number;
  readonly values: readonly (Value | undefined)[];
}

/** Marks a rule that was evaluated and is undefined. */
export const UNDEFINED: unique symbol = Symbol("undefined");

/** Results of one function: by the last argument, and for the ones before by further memories. Values count by value, composite ones by identity. */
export interface Memory {
  readonly further: Map<Value, Memory>;
  readonly results: Map<Value, Value | typeof UNDEFINED>;
}

export function newMemory(): Memory {
  return { further: new Map(), results: new Map() };
}

/** Documents of one evaluation that `with` may change for its extent. */
export interface Documents {
  input: Value | undefined;
  overlay: Overlay | undefined;
  mocks: ReadonlyMap<string, Replacement> | undefined;
  /** Values of rules by group index; belongs to the three above, so it changes with them. */
  cache: (Value | typeof UNDEFINED | undefined)[];
  /** Results of functions by group index; the same. */
  results: (Memory | undefined)[];
}

/** Steps between two looks at the clock. */
const CLOCK_INTERVAL = 4096;

/** The state of one evaluation. */
export class Query implements Documents, BuiltinContext {
  input: Value | undefined;
  overlay: Overlay | undefined = undefined;
  mocks: ReadonlyMap<string, Replacement> | undefined = undefined;
  cache: (Value | typeof UNDEFINED | undefined)[] = [];
  results: (Memory | undefined)[] = [];

  readonly base: RegoObject;
  readonly limits: RegoLimits;
  readonly strict: boolean;
  /** False if nobody will read what is printed: then arguments of `print` are not even evaluated. */
  readonly keepsPrints: boolean;
  readonly regexes: RegexCache;
  readonly trace: TraceRecorder | undefined;
  readonly observer: EvaluationObserver | undefined;
  readonly onSolution: (expressions: readonly Value[], bindings: RegoObject) => void;
  readonly prints: PrintRecord[] = [];
  /** Documents to go back to, one entry per open `with`. */
  readonly saved: Documents[] = [];
  /** Where the arguments of open prints go, innermost last. */
  readonly sinks: Value[][] = [];
  /** Objects under construction by rules, innermost last. */
  readonly drafts: { readonly root: Draft; placed: number }[] = [];
  /** Solutions of the innermost body of a set or an object, counted for the trace. */
  solutions = 0;
  droppedPrints = 0;
  steps = 0;
  memory = 0;
  calls = 0;
  depth = 0;

  readonly #clock: Clock | undefined;
  readonly #deadline: number;
  #checkAt: number;
  readonly #random: Random | undefined;
  readonly #once = new Map<string, unknown>();
  #now: number | undefined;

  constructor(options: {
    readonly base: RegoObject;
    readonly input: Value | undefined;
    readonly limits: RegoLimits;
    readonly strict: boolean;
    readonly keepsPrints: boolean;
    readonly regexes: RegexCache;
    readonly clock: Clock | undefined;
    readonly random: Random | undefined;
    readonly trace: TraceRecorder | undefined;
    readonly observer: EvaluationObserver | undefined;
    readonly onSolution: (expressions: readonly Value[], bindings: RegoObject) => void;
  }) {
    this.base = options.base;
    this.input = options.input;
    this.limits = options.limits;
    this.strict = options.strict;
    this.keepsPrints = options.keepsPrints;
    this.regexes = options.regexes;
    this.trace = options.trace;
    this.observer = options.observer;
    this.onSolution = options.onSolution;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#deadline = options.clock === undefined ? Infinity : options.clock.now() + options.limits.maxMilliseconds;
    this.#checkAt = Math.min(CLOCK_INTERVAL, options.limits.maxSteps);
  }

  /** Counts one unit of work. */
  step(): void {
    if (++this.steps > this.#checkAt) this.#check();
  }

  /** Counts several units of work. */
  work(units: number): void {
    this.steps += units;
    if (this.steps > this.#checkAt) this.#check();
  }

  #check(): void {
    if (this.steps > this.limits.maxSteps) {
      throw new RegoError("ERR_REGO_LIMIT_STEPS", `evaluation took more than ${this.limits.maxSteps} steps`, { details: { limit: this.limits.maxSteps } });
    }
    if (this.#clock !== undefined && this.#clock.now() > this.#deadline) {
      throw new RegoError("ERR_REGO_LIMIT_TIME", `evaluation took longer than ${this.limits.maxMilliseconds} ms`, {
        details: { limit: this.limits.maxMilliseconds },
      });
    }
    this.#checkAt = Math.min(this.steps + CLOCK_INTERVAL, this.limits.maxSteps);
  }

  /** Counts memory for a new value. */
  allocate(units: number): void {
    this.memory += units;
    if (this.memory > this.limits.maxMemory) {
      throw new RegoError("ERR_REGO_LIMIT_MEMORY", `evaluation built more than ${this.limits.maxMemory} units of values`, {
        details: { limit: this.limits.maxMemory },
      });
    }
  }

  /** Enters a rule or function. */
  enter(): void {
    this.calls++;
    this.step();
    if (++this.depth > this.limits.maxCallDepth) {
      throw new RegoError("ERR_REGO_LIMIT_CALLS", `rules call one another more than ${this.limits.maxCallDepth} deep`, {
        details: { limit: this.limits.maxCallDepth },
      });
    }
  }

  leave(): void {
    this.depth--;
  }

  print(record: PrintRecord): void {
    this.allocate(16);
    if (this.prints.length < this.limits.maxPrints) this.prints.push(record);
    else this.droppedPrints++;
  }

  get maxNesting(): number {
    return this.limits.maxNesting;
  }

  regex(pattern: string): RE2JS {
    return this.#regex(pattern).full(this.limits);
  }

  matches(pattern: string, text: string): boolean {
    return this.#regexFor(pattern, text).test(text, this.limits);
  }

  findAll(pattern: string, text: string, count: number): readonly (readonly number[])[] {
    return this.#regexFor(pattern, text).findAll(text, count, this.limits, this);
  }

  #regexFor(pattern: string, text: string): Regex {
    const regex = this.#regex(pattern);
    // RE2 takes text length times program size at worst.
    this.work(1 + Math.floor((text.length * regex.size) / 128));
    return regex;
  }

  #regex(pattern: string): Regex {
    this.work(1 + (pattern.length >> 2));
    try {
      return this.regexes.get(pattern, this.limits);
    } catch (error) {
      if (error instanceof RegexSyntaxError) throw builtinError(error.message);
      throw error;
    }
  }

  /** The time of this evaluation in milliseconds: the same for every call; undefined without a clock. */
  now(): number | undefined {
    if (this.#clock !== undefined) this.#now ??= this.#clock.now();
    return this.#now;
  }

  random(length: number): Uint8Array | undefined {
    this.work(length);
    return this.#random?.bytes(length);
  }

  once<T>(key: string, make: () => T): T {
    if (!this.#once.has(key)) this.#once.set(key, make());
    return this.#once.get(key) as T;
  }

  /** Puts other documents in place and returns the ones that were there. */
  swap(documents: Documents): Documents {
    const before: Documents = { input: this.input, overlay: this.overlay, mocks: this.mocks, cache: this.cache, results: this.results };
    this.input = documents.input;
    this.overlay = documents.overlay;
    this.mocks = documents.mocks;
    this.cache = documents.cache;
    this.results = documents.results;
    return before;
  }
}
