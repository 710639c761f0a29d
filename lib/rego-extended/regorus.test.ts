import { existsSync, readdirSync, readFileSync } from "node:fs";
import type { Clock, Random } from "@sealpod/core";
import { compile, define, formatValue, fromJson, RegoError, RegoObject, RegoSet, toJson } from "@sealpod/rego";
import type { Evaluation, EvaluateOptions, Policy, RegoVersion, Value } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { EXTENDED_BUILTINS } from "./index.ts";

// regorus's interpreter cases, read where they lie (see the README there). Where regorus refuses, any refusal will do: the
// texts of errors are each engine's own. Cases that differ are listed with the reason; the list must be exact.
const CASES = new URL("../../../shared/vectors/rego/regorus/interpreter/cases/", import.meta.url);
const present = existsSync(CASES);

const known = JSON.parse(readFileSync(new URL("testdata/regorus-differences.json", import.meta.url), "utf8")) as Readonly<Record<string, string>>;

/** YAML as the `yaml` package reads it when maps keep the types of their keys. */
type Yaml = null | boolean | number | bigint | string | readonly Yaml[] | ReadonlyMap<Yaml, Yaml>;

/** Fields: modules, query, data, input, want_result, no_result, error, strict, want_prints, skip. */
type RegorusCase = ReadonlyMap<string, Yaml>;

/** All cases under `file#number note`: notes repeat. */
function readCases(): ReadonlyMap<string, RegorusCase> {
  const cases = new Map<string, RegorusCase>();
  const files = (readdirSync(CASES, { recursive: true }) as string[]).filter((name) => name.endsWith(".yaml"));
  for (const file of files.toSorted()) {
    const text = indentLists(readFileSync(new URL(file, CASES), "utf8"));
    const content = parse(text, { mapAsMap: true, intAsBigInt: true, uniqueKeys: false }) as ReadonlyMap<string, readonly RegorusCase[]>;
    content.get("cases")!.forEach((test, at) => cases.set(`${file}#${at} ${test.get("note") as string}`, test));
  }
  return cases;
}

/** Moves the lines of a list in brackets in: YAML wants them further in than the key of the list, which regorus's reader forgives. */
function indentLists(text: string): string {
  return text.replaceAll(/^( *)set!: \[\n(?:\1".*\n)+\1\]/gm, (list) => list.replaceAll(/\n */g, (start) => `${start}  `));
}

/** Values that JSON does not have are objects with one name: sets under `set!`, objects with any keys under `object!`. */
function valueOf(yaml: Yaml): Value {
  if (Array.isArray(yaml)) return (yaml as readonly Yaml[]).map(valueOf);
  if (!(yaml instanceof Map)) return fromJson(yaml as Exclude<Yaml, ReadonlyMap<Yaml, Yaml> | readonly Yaml[]>, 0);
  if (yaml.size === 1 && Array.isArray(yaml.get("set!"))) return RegoSet.of((yaml.get("set!") as readonly Yaml[]).map(valueOf));
  const entries =
    yaml.size === 1 && Array.isArray(yaml.get("object!"))
      ? (yaml.get("object!") as readonly ReadonlyMap<string, Yaml>[]).map((entry) => [entry.get("key")!, entry.get("value")!] as const)
      : yaml.entries();
  return RegoObject.of([...entries].map(([key, value]) => [valueOf(key), valueOf(value)] as const));
}

/** Several inputs or several results stand under `many!`. */
function listOf(yaml: Yaml): readonly Yaml[] {
  return yaml instanceof Map && yaml.has("many!") ? (yaml.get("many!") as readonly Yaml[]) : [yaml];
}

/** What regorus answers: one line for each result in Rego syntax, then the prints; or undefined for an error. */
function wanted(test: RegorusCase): readonly string[] | undefined {
  if (test.has("error")) return undefined;
  const results = test.get("no_result") === true || test.get("want_result") === "#undefined" ? [] : listOf(test.get("want_result")!);
  return [...results.map((result) => formatValue(valueOf(result))), ...((test.get("want_prints") ?? []) as readonly string[])];
}

/** The files do not say the dialect. Most modules are v0; what only v1 can parse is v1. */
function dialectOf(text: string): RegoVersion {
  const parses = (version: RegoVersion): boolean => {
    try {
      compile([{ name: "dialect", text, version }], { builtins: EXTENDED_BUILTINS });
      return true;
    } catch (error) {
      return !(error instanceof RegoError && error.code === "ERR_REGO_PARSE");
    }
  };
  return !parses("v0") && parses("v1") ? "v1" : "v0";
}

/** Not random, but never the same twice. */
function bytesInARow(): Random {
  let state = 1;
  return { bytes: (length) => Uint8Array.from({ length }, () => (state = (state * 16_807) % 2_147_483_647) & 0xff) };
}

/** Goes on by a fixed step whenever it is asked. */
function steppingClock(step: number): Clock {
  let now = 1_700_000_000_000;
  return { now: () => (now += step) };
}

/** A query that asks for one document; the others are bodies of their own. */
const DOCUMENT = /^data(?:\.\w+|\["[^"]*"\])*$/;

class Subject {
  readonly #test: RegorusCase;
  readonly #policy: Policy;
  readonly #query: string;
  #document: Value | undefined;

  constructor(test: RegorusCase) {
    this.#test = test;
    this.#query = (test.get("query") as string).trim();
    const modules = (test.get("modules") as readonly string[]).map((text, at) => ({ name: `rego_${at}`, text, version: dialectOf(text) }));
    // Results reach JSON without their types, so that the document is caught on its way through a function.
    const catching = define("regorus.catch", 1, ([value]) => {
      this.#document = value;
      return true;
    });
    // With strict errors each engine has calls of its own that fail quietly. Only a case about an error needs them.
    const strictBuiltinErrors = test.has("error") && test.get("strict") !== false;
    this.#policy = compile(modules, { builtins: [...EXTENDED_BUILTINS, catching], strictBuiltinErrors });
    this.#policy.setData(toJson(valueOf(test.get("data") ?? new Map<Yaml, Yaml>())));
  }

  answer(): readonly string[] {
    const results: string[] = [];
    const prints: string[] = [];
    for (const input of listOf(this.#test.get("input") ?? null)) {
      const options = this.#options(input);
      const evaluation = this.#results(options, results);
      prints.push(...evaluation.prints);
      // regorus evaluates all rules of a policy, so that an error shows in whatever query.
      if (this.#test.has("error")) this.#policy.evaluate("data", options);
    }
    return this.#test.has("want_prints") ? [...results, ...prints] : results;
  }

  #options(input: Yaml): EvaluateOptions {
    const step = (this.#test.get("time_source") as ReadonlyMap<string, Yaml> | undefined)?.get("default_increment_ms");
    const timer = (this.#test.get("execution_timer") ?? this.#test.get("global_execution_timer")) as ReadonlyMap<string, Yaml> | undefined;
    const limit = timer?.get("limit_ms");
    return {
      random: bytesInARow(),
      clock: steppingClock(Number(step ?? 0)),
      ...(limit === undefined ? {} : { limits: { maxMilliseconds: Number(limit) } }),
      ...(this.#test.has("input") ? { input: toJson(valueOf(input)) } : {}),
    };
  }

  #results(options: EvaluateOptions, into: string[]): Evaluation {
    if (DOCUMENT.test(this.#query)) {
      const evaluation = this.#policy.evaluate(`regorus.catch(${this.#query})`, options);
      if (evaluation.results.length > 0) into.push(formatValue(this.#document!));
      return evaluation;
    }
    const evaluation = this.#policy.evaluate(this.#query, options);
    for (const { bindings, expressions } of evaluation.results) {
      const result = Object.keys(bindings).length > 0 ? bindings : expressions.length === 1 ? expressions[0]! : expressions;
      into.push(formatValue(fromJson(result, 100)));
    }
    return evaluation;
  }
}

function passes(test: RegorusCase): boolean {
  const want = wanted(test);
  try {
    return JSON.stringify(new Subject(test).answer()) === JSON.stringify(want);
  } catch (error) {
    if (!(error instanceof RegoError)) throw error;
    return want === undefined;
  }
}

describe.skipIf(!present)("regorus's interpreter cases (skipped without ../shared/vectors/rego)", () => {
  it("answers as regorus does, except for the listed cases", () => {
    const cases = [...readCases()];
    const tried = cases.filter(([, test]) => test.get("skip") !== true);
    expect([cases.length, tried.length]).toEqual([688, 679]);
    const failed = tried.filter(([, test]) => !passes(test)).map(([name]) => name);
    expect(failed.toSorted()).toEqual(Object.keys(known).toSorted());
  });

  it("tells sets from arrays, keys from their text, errors from answers, and undefined from null", () => {
    const test = (module: string, want: readonly (readonly [string, Yaml])[]): RegorusCase =>
      new Map<string, Yaml>([["modules", [`package test\n${module}`]], ["query", "data.test.x"], ...want]);
    const set = new Map<Yaml, Yaml>([["set!", [1n]]]);
    expect(passes(test("x = {1}", [["want_result", set]]))).toBe(true);
    expect(passes(test("x = [1]", [["want_result", set]]))).toBe(false);
    expect(passes(test("x = {1: 2}", [["want_result", new Map<Yaml, Yaml>([[1n, 2n]])]]))).toBe(true);
    expect(passes(test('x = {"1": 2}', [["want_result", new Map<Yaml, Yaml>([[1n, 2n]])]]))).toBe(false);
    expect(passes(test("x = 1 / 0", [["error", "divide by zero"]]))).toBe(true);
    expect(passes(test("x = 1", [["error", "divide by zero"]]))).toBe(false);
    expect(passes(test("x = y", [["want_result", 1n]]))).toBe(false);
    expect(passes(test("x = 1 { false }", [["no_result", true]]))).toBe(true);
    expect(passes(test("x = null", [["no_result", true]]))).toBe(false);
  });
});
