import type { JsonObject, JsonValue } from "@sealpod/core";
import type { Evaluation, EvaluationObserver } from "@sealpod/rego";
import { EXIT, type CliContext } from "../context.ts";
import type { Verb } from "../program.ts";
import { explanationJson, explanationText, type Explanation } from "../rego/explain.ts";
import { Coverage, observers, Profile, profileJson } from "../rego/observe.ts";
import { nanoseconds, printable, withErrors, writeJson } from "../rego/output.ts";
import { profileText } from "../rego/profile-text.ts";
import { bindingsText, metricsText, resultJson, resultRaw, resultText, valuesText } from "../rego/results.ts";
import { openSession, parseNumber, type Session, type SessionOptions } from "../rego/session.ts";

interface Options extends SessionOptions {
  readonly format: "json" | "pretty" | "raw" | "values" | "bindings";
  readonly fail?: boolean;
  readonly failDefined?: boolean;
  readonly explain?: "off" | Explanation;
  readonly profile?: boolean;
  readonly profileLimit: string;
  readonly coverage?: boolean;
  readonly metrics?: boolean;
}

/** What the flags add to the result. */
interface Extras {
  readonly metrics?: JsonObject;
  readonly profile?: Profile;
  readonly profileLimit: number;
  readonly coverage?: JsonObject;
  readonly explanation?: Explanation;
}

/** `sealpod rego eval`. */
export const run: Verb<Options> = async (options, [query = ""], context) => {
  const json = options.format === "json" || options.json === true;
  return withErrors(json, options, context, async () => {
    const profileLimit = parseNumber("--profile-limit", options.profileLimit, 1, 1_000_000);
    const session = await openSession(options, context);
    const explanation = options.explain === "off" ? undefined : options.explain;
    const profile = options.profile === true ? new Profile(() => context.elapsed()) : undefined;
    const coverage = options.coverage === true ? new Coverage() : undefined;
    const observer = observers([profile, coverage].filter((item): item is Profile | Coverage => item !== undefined) as readonly EvaluationObserver[]);
    // Rules are compiled when they are first used, which a profile is not to measure.
    if (profile !== undefined) session.policy.evaluate(query, { ...session.evaluation, observer: new Profile(() => 0) });
    const start = context.elapsed();
    const evaluation = session.policy.evaluate(query, {
      ...session.evaluation,
      ...(explanation === undefined ? {} : { trace: true }),
      ...(observer === undefined ? {} : { observer }),
    });
    const took = context.elapsed() - start;
    for (const line of evaluation.prints) context.stderr.write(`${printable(line)}\n`);
    const extras: Extras = {
      profileLimit,
      ...(options.metrics === true ? { metrics: metricsOf(session, evaluation, took) } : {}),
      ...(profile === undefined ? {} : { profile }),
      ...(coverage === undefined ? {} : { coverage: coverage.report(session.policy.places()).json }),
      ...(explanation === undefined ? {} : { explanation }),
    };
    if (json) writeJson(context.stdout, asJson(evaluation, extras));
    else writeText(options.format, evaluation, extras, context);
    const defined = evaluation.results.length > 0;
    return (options.fail === true && !defined) || (options.failDefined === true && defined) ? EXIT.refused : EXIT.ok;
  });
};

function metricsOf({ timers }: Session, { cost }: Evaluation, took: number): JsonObject {
  return {
    timer_rego_load_files_ns: nanoseconds(timers.load),
    timer_rego_module_compile_ns: nanoseconds(timers.compile),
    timer_rego_query_eval_ns: nanoseconds(took),
    counter_steps: cost.steps,
    counter_memory: cost.memory,
    counter_calls: cost.calls,
  };
}

function asJson(evaluation: Evaluation, extras: Extras): JsonObject {
  const result = resultJson(evaluation.results, evaluation.statements);
  const members: Record<string, JsonValue | undefined> = {
    result,
    metrics: extras.metrics,
    profile: extras.profile?.top(extras.profileLimit).map(profileJson),
    explanation: extras.explanation === undefined ? undefined : explanationJson(evaluation.trace!, extras.explanation),
    coverage: extras.coverage,
  };
  return Object.fromEntries(Object.entries(members).filter((member): member is [string, JsonValue] => member[1] !== undefined));
}

function writeText(format: Options["format"], evaluation: Evaluation, extras: Extras, context: CliContext): void {
  const { results, statements } = evaluation;
  const { stdout } = context;
  if (format !== "pretty") {
    stdout.write(format === "raw" ? resultRaw(results) : format === "values" ? valuesText(results) : bindingsText(results));
    return;
  }
  if (extras.explanation !== undefined) stdout.write(explanationText(evaluation.trace!, extras.explanation));
  stdout.write(resultText(results, statements));
  if (results.length === 0 && extras.explanation === undefined && context.stderr.isTerminal) {
    context.stderr.write("note: no rule gave a value; --explain fails shows where each stopped\n");
  }
  if (extras.metrics !== undefined) stdout.write(metricsText(extras.metrics));
  if (extras.profile !== undefined) stdout.write(profileText(extras.profile.top(extras.profileLimit)));
  if (extras.coverage !== undefined) writeJson(stdout, extras.coverage);
}
