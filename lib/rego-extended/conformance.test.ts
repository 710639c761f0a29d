import { existsSync, readdirSync, readFileSync } from "node:fs";
import { parseJson } from "@sealpod/core";
import type { JsonObject, JsonValue } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { compile, RegoError, TYPE_CHECKER } from "@sealpod/rego";
import { EXTENDED_BUILTINS } from "./index.ts";

// Two foreign suites, read where they lie (see the README there): 398 micro-cases with OPA 1.19's answers, and OPA's own
// compliance suite for v1. Cases whose answer differs are listed with the reason; the list must be exact,
// so a case that starts to pass fails this test as well.
const VECTORS = new URL("../../../shared/vectors/rego/", import.meta.url);
const present = existsSync(VECTORS);

interface KnownFailures {
  readonly semantics: Readonly<Record<string, string>>;
  readonly v1: Readonly<Record<string, string>>;
}

const known = JSON.parse(readFileSync(new URL("testdata/known-failures.json", import.meta.url), "utf8")) as KnownFailures;

interface SemanticsCase {
  readonly name: string;
  readonly modules: readonly string[];
  readonly query: string;
  readonly input?: JsonValue;
  readonly data?: JsonValue;
  readonly strict: boolean;
  readonly v0: boolean;
  readonly want: { readonly opa_1_19: string };
}

interface SuiteCase {
  readonly note: string;
  readonly query: string;
  readonly modules?: readonly string[];
  readonly data?: JsonValue;
  readonly input?: JsonValue;
  readonly input_term?: string;
  readonly want_result?: readonly JsonObject[];
  readonly sort_bindings?: boolean;
  readonly strict_error?: boolean;
  readonly want_error_code?: string;
  readonly want_error?: string;
}

// Certificates of the suite are valid at this time.
const clock = { now: (): number => 1_750_000_000_000 };
const random = { bytes: (length: number): Uint8Array => new Uint8Array(length).map((_, at) => (at * 37) % 256) };

const RUNTIME_CODES: Readonly<Record<string, string>> = {
  eval_conflict_error: "ERR_REGO_CONFLICT",
  eval_builtin_error: "ERR_REGO_BUILTIN",
  eval_type_error: "ERR_REGO_OPERAND",
};

/** Sorted names and plain numbers: what the files hold went through a float64 encoder. */
function canonical(value: JsonValue, sortArrays = false): string {
  if (Array.isArray(value)) {
    const items = (value as readonly JsonValue[]).map((item) => canonical(item, sortArrays));
    return `[${(sortArrays ? items.toSorted() : items).join(",")}]`;
  }
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value as JsonObject).map(([name, item]) => `${JSON.stringify(name)}:${canonical(item, sortArrays)}`);
    return `{${members.toSorted().join(",")}}`;
  }
  return typeof value === "bigint" ? JSON.stringify(Number(value)) : JSON.stringify(value);
}

function answer(test: SemanticsCase): string {
  try {
    const policy = compile(
      test.modules.map((text, at) => ({ name: `m${at}.rego`, text })),
      { version: test.v0 ? "v0" : "v1", strictBuiltinErrors: test.strict, typeChecker: TYPE_CHECKER, builtins: EXTENDED_BUILTINS },
    );
    if (test.data !== undefined) policy.setData(test.data);
    const { results, prints } = policy.evaluate(test.query, { clock, random, ...(test.input === undefined ? {} : { input: test.input }) });
    const value = results[0]?.expressions[0];
    const lines = prints.map((line) => line.slice(line.indexOf(": ") + 2));
    return `${value === undefined ? "<undef>" : canonical(value)}${lines.length === 0 ? "" : ` prints=${JSON.stringify(lines)}`}`;
  } catch (error) {
    if (!(error instanceof RegoError)) throw error;
    return Object.values(RUNTIME_CODES).includes(error.code) ? "EERR" : "ERR:C";
  }
}

/** OPA's answer in the form of {@link answer}. */
function wanted(text: string): string {
  if (text.startsWith("ERR:C")) return "ERR:C";
  if (text.startsWith("EERR")) return "EERR";
  const mark = text.indexOf(" prints=");
  const value = mark === -1 ? text : text.slice(0, mark);
  if (value === "<undef>" || value.startsWith("ERR")) return text;
  return canonical(parseJson(value)) + (mark === -1 ? "" : text.slice(mark));
}

function bigints(_name: string, value: unknown): unknown {
  return typeof value === "bigint" ? `${value}n` : value;
}

function passes(test: SuiteCase): boolean {
  try {
    const policy = compile(
      (test.modules ?? []).map((text, at) => ({ name: `test-${at}.rego`, text })),
      { strictBuiltinErrors: test.strict_error === true, typeChecker: TYPE_CHECKER, builtins: EXTENDED_BUILTINS },
    );
    if (test.data !== undefined) policy.setData(test.data);
    // An input term may hold sets, which JSON does not have.
    const query = test.input_term === undefined ? test.query : `${test.query} with input as ${test.input_term}`;
    const options = { clock, random, ...(test.input === undefined ? {} : { input: test.input }) };
    const { results } = policy.evaluate(query, options);
    // The compilation for tracing stores every intermediate value; the other one inlines most. Both must agree.
    if (JSON.stringify(results, bigints) !== JSON.stringify(policy.evaluate(query, { ...options, trace: true }).results, bigints)) return false;
    if (test.want_result === undefined) return false;
    const sorted = (list: readonly JsonObject[]): string =>
      list
        .map((bindings) => canonical(bindings, test.sort_bindings))
        .toSorted()
        .join("\n");
    return sorted(results.map((result) => result.bindings)) === sorted(test.want_result);
  } catch (error) {
    if (!(error instanceof RegoError)) throw error;
    if (test.want_error === undefined && test.want_error_code === undefined) return false;
    const code = test.want_error_code === undefined ? undefined : RUNTIME_CODES[test.want_error_code];
    return (code === undefined || code === error.code) && (test.want_error === undefined || error.message.includes(test.want_error));
  }
}

describe.skipIf(!present)("semantics micro-cases against OPA 1.19 (skipped without ../shared/vectors/rego)", () => {
  it.each(["set1", "set2"])("%s answers as OPA does, except for the listed cases", (set) => {
    const failed: string[] = [];
    const lines = readFileSync(new URL(`semantics/${set}.jsonl`, VECTORS), "utf8").split("\n");
    const cases = lines.filter((line) => line !== "").map((line) => parseJson(line) as unknown as SemanticsCase);
    for (const test of cases) if (answer(test) !== wanted(test.want.opa_1_19)) failed.push(`${set}/${test.name}`);
    expect(cases.length).toBe(set === "set1" ? 279 : 119);
    expect(failed.toSorted()).toEqual(
      Object.keys(known.semantics)
        .filter((name) => name.startsWith(`${set}/`))
        .toSorted(),
    );
  });
});

describe.skipIf(!present)("OPA compliance suite (skipped without ../shared/vectors/rego)", () => {
  const core = present ? readFileSync(new URL("core-folders.txt", VECTORS), "utf8").trim().split("\n") : [];
  const folders = present ? readdirSync(new URL("v1/", VECTORS)).toSorted() : [];

  it("has the folders that the list of known failures speaks of", () => {
    expect(core.length).toBe(89);
    expect(folders.length).toBe(145);
    for (const name of Object.keys(known.v1)) expect(folders).toContain(name.slice(0, name.indexOf("/")));
  });

  it("is passed in all but nine cases of the 87 core folders, and in at least 2000 of all 2075 (OPA 1.19: 1231 of 1240, and 2064)", () => {
    const newer = new Set(["keywordrefs", "stringinterpolation"]);
    const isCore = (name: string): boolean => core.includes(name.slice(0, name.indexOf("/"))) && !newer.has(name.slice(0, name.indexOf("/")));
    expect(Object.keys(known.v1).filter(isCore).length).toBeLessThanOrEqual(9);
    expect(2075 - Object.keys(known.v1).length).toBeGreaterThanOrEqual(2000);
  });

  it.each(folders)("%s", (folder) => {
    const failed: string[] = [];
    for (const file of readdirSync(new URL(`v1/${folder}/`, VECTORS)).toSorted()) {
      const { cases } = parseJson(readFileSync(new URL(`v1/${folder}/${file}`, VECTORS), "utf8")) as unknown as { readonly cases: readonly SuiteCase[] };
      cases.forEach((test, at) => {
        if (!passes(test)) failed.push(`${folder}/${file}#${at}`);
      });
    }
    expect(failed).toEqual(
      Object.keys(known.v1)
        .filter((name) => name.startsWith(`${folder}/`))
        .toSorted(),
    );
  });
});
