import { encodeJson, type JsonObject } from "@sealpod/core";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { matching } from "../rego/documents.ts";
import { failureJson, failureLines } from "../rego/explain.ts";
import { load } from "../rego/load.ts";
import { Coverage } from "../rego/observe.ts";
import { at, duration, errorList, location, nanoseconds, printable, withErrors, writeJson } from "../rego/output.ts";
import { compileModules, limitsOf, parseNumber, type DialectOptions } from "../rego/session.ts";
import { findTests, runTest, type TestOutcome, type TestRule } from "../rego/tests.ts";

interface Options extends DialectOptions {
  readonly format: "json" | "pretty";
  readonly verbose?: boolean;
  readonly run?: string;
  readonly coverage?: boolean;
  readonly threshold?: string;
  readonly timeout?: string;
}

/** Words of a report for the verdicts. */
const WORDS = { pass: "PASS", fail: "FAIL", error: "ERROR", skip: "SKIPPED" } as const;

/** Rule bodies below a failed test that are shown without `--verbose`. */
const MAX_BODIES = 8;

const RULER = `${"-".repeat(80)}\n`;

/** `sealpod rego test`. */
export const run: Verb<Options> = async (options, paths, context) => {
  const json = options.format === "json" || options.json === true;
  return withErrors(json, options, context, async () => {
    const threshold = options.threshold === undefined ? undefined : parseNumber("--threshold", options.threshold, 0, 100, false);
    const covering = options.coverage === true || threshold !== undefined;
    const limits = limitsOf(options.timeout);
    const { modules, data } = await load(paths.length === 0 ? ["."] : paths, context);
    const policy = compileModules(modules, options);
    policy.setData(data);
    const tests = chosen(findTests(policy), options.run);
    if (tests.length === 0) throw noTests(modules.length, options.run);
    const coverage = covering ? new Coverage() : undefined;
    const evaluation = {
      clock: context.clock,
      random: context.random,
      ...(limits === undefined ? {} : { limits }),
      ...(coverage === undefined ? {} : { observer: coverage }),
    };
    const outcomes: TestOutcome[] = [];
    for (const test of tests) {
      if (context.signal.aborted) return EXIT.failed;
      // One test per turn, so that Ctrl-C is heard between them.
      await new Promise((done) => void setImmediate(done));
      outcomes.push(test.definitions.length === 1 ? runTest(policy, test, evaluation, () => context.elapsed()) : ambiguous(test));
    }
    const good = outcomes.every(({ verdict }) => verdict === "pass" || verdict === "skip");
    if (coverage === undefined) {
      if (json) writeJson(context.stdout, outcomes.map(asJson));
      else context.stdout.write(report(outcomes, options.verbose === true));
      return good ? EXIT.ok : EXIT.failed;
    }
    // The coverage is the result; what else there is to say must not stand in the same document.
    const { coverage: percent, json: document } = coverage.report(policy.places());
    if (!good || options.verbose === true) context.stderr.write(report(outcomes, options.verbose === true));
    if (options.coverage === true || json) writeJson(context.stdout, document);
    if (!good) return EXIT.failed;
    return reached(percent, threshold, context);
  });
};

function chosen(tests: readonly TestRule[], pattern: string | undefined): readonly TestRule[] {
  if (pattern === undefined) return tests;
  const names = matching(
    pattern,
    tests.map(({ path }) => path),
  );
  return tests.filter(({ path }) => names.has(path));
}

/** A run that tests nothing must not look like one that passes. */
function noTests(modules: number, pattern: string | undefined): CliError {
  if (pattern !== undefined)
    return new CliError("ERR_CLI_USAGE", `--run ${encodeJson(pattern)} matches no test`, { hint: "Names are whole paths, e.g. data.authz.test_get." });
  return new CliError(
    "ERR_CLI_FILE",
    modules === 0 ? "there is no .rego file to test" : `there is no test in ${modules} ${modules === 1 ? "module" : "modules"}`,
    {
      hint: "Tests are rules whose names start with test_.",
    },
  );
}

/** Several definitions of one rule would pass if any of them held. */
function ambiguous(test: TestRule): TestOutcome {
  const places = test.definitions.map(({ position }) => at(position)).join(", ");
  const error = new CliError("ERR_CLI_FILE", `${test.path} is defined ${test.definitions.length} times (${places})`, {
    hint: "Give each test a name of its own: a rule is true if any of its definitions holds.",
  });
  return { test, verdict: test.skipped ? "skip" : "error", took: 0, prints: [], error };
}

function reached(percent: number, threshold: number | undefined, context: CliContext): number {
  if (threshold === undefined || percent >= threshold) return EXIT.ok;
  context.stderr.write(`coverage of ${percent}% is below the threshold of ${threshold}%\n`);
  return EXIT.failed;
}

function report(outcomes: readonly TestOutcome[], verbose: boolean): string {
  const parts: string[] = [];
  const bad = outcomes.filter(({ verdict }) => verdict === "fail" || verdict === "error");
  if (bad.length > 0) parts.push("FAILURES\n", RULER, bad.map((outcome) => `${line(outcome)}\n\n${details(outcome, verbose)}\n`).join(""));
  if (bad.length > 0 || verbose) parts.push("SUMMARY\n", RULER);
  let file: string | undefined;
  for (const outcome of outcomes) {
    if (!verbose && !bad.includes(outcome)) continue;
    const own = outcome.test.definitions[0]!.position.file;
    if (own !== file) parts.push(`${own}:\n`);
    file = own;
    parts.push(`${line(outcome)}\n`);
    if (verbose) parts.push(...outcome.prints.map((text) => `  ${printable(text)}\n`));
  }
  if (parts.length > 0) parts.push(RULER);
  for (const verdict of ["pass", "fail", "error", "skip"] as const) {
    const count = outcomes.filter((outcome) => outcome.verdict === verdict).length;
    if (count > 0) parts.push(`${WORDS[verdict]}: ${count}/${outcomes.length}\n`);
  }
  return parts.join("");
}

function line({ test, verdict, took }: TestOutcome): string {
  return `${test.path}: ${WORDS[verdict]}${verdict === "skip" ? "" : ` (${duration(took)})`}`;
}

/** Why a test failed: where it stopped, and which rule bodies under it did. */
function details({ test, prints, value, trace, error }: TestOutcome, verbose: boolean): string {
  const lines: string[] = [];
  if (error !== undefined) lines.push(...printable(error.message).split("\n"));
  if (value !== undefined) lines.push(`its value is ${printable(encodeJson(value))}, not true`);
  const failed = trace?.entries.filter((entry) => !entry.held && entry.failed !== undefined) ?? [];
  for (const entry of failed.filter(({ rule, depth }) => depth === 0 && rule === test.path)) lines.push(...failureLines(entry.failed!));
  const inner = failed.filter(({ depth }) => depth > 0);
  for (const entry of verbose ? inner : inner.slice(0, MAX_BODIES)) {
    lines.push(
      `${"  ".repeat(entry.depth)}${entry.rule} does not hold`,
      ...failureLines(entry.failed!).map((text) => `${"  ".repeat(entry.depth + 1)}${text}`),
    );
  }
  if (!verbose && inner.length > MAX_BODIES) lines.push(`  ${inner.length - MAX_BODIES} more rule bodies did not hold; --verbose shows them`);
  if (!verbose) lines.push(...prints.map((text) => `print: ${printable(text)}`));
  return lines.map((text) => `  ${text}\n`).join("");
}

function asJson({ test, verdict, took, prints, value, trace, error }: TestOutcome): JsonObject {
  const failed = trace?.entries.find((entry) => entry.depth === 0 && entry.rule === test.path && entry.failed !== undefined)?.failed;
  return {
    location: location(test.definitions[0]!.position),
    package: test.package,
    name: test.name,
    ...(verdict === "fail" ? { fail: true } : {}),
    ...(verdict === "skip" ? { skip: true } : {}),
    ...(verdict === "error" && error !== undefined ? { error: errorList(error)[0]! } : {}),
    ...(value === undefined ? {} : { value }),
    ...(failed === undefined ? {} : { failed: failureJson(failed) }),
    duration: nanoseconds(took),
    ...(prints.length === 0 ? {} : { prints }),
  };
}
