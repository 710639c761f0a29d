import { isSealpodError, type JsonValue } from "@sealpod/core";
import type { EvaluateOptions, Place, Policy, Trace } from "@sealpod/rego";

/** A rule that is a test. */
export interface TestRule {
  /** Path to ask for, e.g. `data.authz.test_get`. */
  readonly path: string;
  readonly package: string;
  readonly name: string;
  /** Its definitions; a test has one. */
  readonly definitions: readonly Place[];
  /** Its name starts with `todo_test_`. */
  readonly skipped: boolean;
}

/** What became of a test. */
export interface TestOutcome {
  readonly test: TestRule;
  readonly verdict: "pass" | "fail" | "error" | "skip";
  /** Milliseconds. */
  readonly took: number;
  readonly prints: readonly string[];
  /** Of a failed test: its value, if it has one. */
  readonly value?: JsonValue;
  /** Of a failed test. */
  readonly trace?: Trace;
  /** Why it is an error. */
  readonly error?: Error & { readonly code: string };
}

/** The rules of a policy whose names start with `test_` or `todo_test_`, in the order of the sources. */
export function findTests(policy: Policy): readonly TestRule[] {
  const tests = new Map<string, { package: string; name: string; definitions: Place[] }>();
  for (const place of policy.places()) {
    const { kind, rule, text } = place;
    const name = /\.((?:todo_)?test_\w*)$/.exec(rule)?.[1];
    // Functions are helpers; `else` and the chained bodies of v0 belong to a definition.
    if (kind !== "body" || name === undefined || !text.startsWith(name) || text.startsWith(`${name}(`)) continue;
    const test = tests.get(rule) ?? { package: rule.slice(0, -name.length - 1), name, definitions: [] };
    test.definitions.push(place);
    tests.set(rule, test);
  }
  return [...tests]
    .map(([path, test]) => ({ path, ...test, skipped: test.name.startsWith("todo_") }))
    .toSorted((a, b) => order(a.definitions[0]!, b.definitions[0]!));
}

function order({ position: a }: Place, { position: b }: Place): number {
  return a.file === b.file ? a.line - b.line || a.column - b.column : a.file < b.file ? -1 : 1;
}

/** Runs one test. It passes if its rule is true; a failed one is run again for its trace. */
export function runTest(policy: Policy, test: TestRule, options: EvaluateOptions, elapsed: () => number): TestOutcome {
  const start = elapsed();
  const done = (outcome: Pick<TestOutcome, "verdict"> & Partial<TestOutcome>): TestOutcome => ({ test, took: elapsed() - start, prints: [], ...outcome });
  if (test.skipped) return done({ verdict: "skip" });
  try {
    const { results, prints } = policy.evaluate(test.path, options);
    const value = results[0]?.expressions[0];
    if (value === true) return done({ verdict: "pass", prints });
    const failed = done({ verdict: "fail", prints, ...(value === undefined ? {} : { value }) });
    const { observer: _observer, ...again } = options;
    const { trace } = policy.evaluate(test.path, { ...again, trace: true });
    return trace === undefined ? failed : { ...failed, trace };
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return done({ verdict: "error", error });
  }
}
