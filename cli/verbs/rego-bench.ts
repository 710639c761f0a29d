import type { JsonObject } from "@sealpod/core";
import { EXIT, type CliContext } from "../context.ts";
import type { Verb } from "../program.ts";
import { Profile, profileJson, type ProfileRow } from "../rego/observe.ts";
import { duration, nanoseconds, withErrors, writeJson } from "../rego/output.ts";
import { profileText } from "../rego/profile-text.ts";
import { openSession, parseNumber, type Session, type SessionOptions } from "../rego/session.ts";
import { table } from "../rego/table.ts";

interface Options extends SessionOptions {
  readonly format: "json" | "pretty";
  readonly count: string;
  readonly profileLimit: string;
  readonly fail?: boolean;
  readonly prints?: boolean;
}

/** Milliseconds that one measurement takes at least. */
const MEASURE = 1000;

/** Milliseconds for which the time per rule is taken. */
const PROFILE = 250;

/** Milliseconds after which signals are heard. */
const TURN = 50;

/** Samples kept of one measurement. */
const MAX_SAMPLES = 1_000_000;

interface Measurement {
  /** Milliseconds of each evaluation, rising. */
  readonly samples: readonly number[];
  readonly sum: number;
}

/** `sealpod rego bench`. */
export const run: Verb<Options> = async (options, [query = ""], context) => {
  const json = options.format === "json" || options.json === true;
  return withErrors(json, options, context, async () => {
    const count = parseNumber("--count", options.count, 1, 1000);
    const limit = parseNumber("--profile-limit", options.profileLimit, 1, 1_000_000);
    const opened = await openSession(options, context);
    // Nobody reads what is printed a thousand times, and keeping it would be measured.
    const session = { ...opened, evaluation: { ...opened.evaluation, prints: options.prints === true } };
    const first = context.elapsed();
    const { results } = session.policy.evaluate(query, session.evaluation);
    const cold = context.elapsed() - first;
    if (results.length === 0) context.stderr.write("note: the query is undefined\n");
    const runs: Measurement[] = [];
    for (let at = 0; at < count && !context.signal.aborted; at++) {
      const measured = await measure(query, session, context);
      if (measured.samples.length === 0) break;
      runs.push(measured);
      if (!json) context.stdout.write(measurementText(measured, cold));
    }
    if (context.signal.aborted) return EXIT.failed;
    const { rows, evaluations } = await profileOf(query, session, limit, context);
    if (json) {
      writeJson(context.stdout, {
        first_ns: nanoseconds(cold),
        runs: runs.map(measurementJson),
        profile: { evaluations, rules: rows.map(profileJson) },
      });
    } else context.stdout.write(`\nTime per rule, for one evaluation:\n${profileText(rows, evaluations)}`);
    return options.fail === true && results.length === 0 ? EXIT.refused : EXIT.ok;
  });
};

async function measure(query: string, { policy, evaluation }: Session, context: CliContext): Promise<Measurement> {
  const samples: number[] = [];
  let sum = 0;
  await repeat(MEASURE, context, () => {
    const start = context.elapsed();
    policy.evaluate(query, evaluation);
    const took = context.elapsed() - start;
    samples.push(took);
    sum += took;
    return samples.length < MAX_SAMPLES;
  });
  return { samples: samples.toSorted((a, b) => a - b), sum };
}

async function profileOf(
  query: string,
  { policy, evaluation }: Session,
  limit: number,
  context: CliContext,
): Promise<{ readonly rows: readonly ProfileRow[]; readonly evaluations: number }> {
  // Rules are compiled when they are first used, which is not to be measured.
  const warm = new Profile(() => 0);
  policy.evaluate(query, { ...evaluation, observer: warm });
  const profile = new Profile(() => context.elapsed());
  let evaluations = 0;
  await repeat(PROFILE, context, () => {
    policy.evaluate(query, { ...evaluation, observer: profile });
    evaluations++;
    return true;
  });
  return { rows: profile.top(limit), evaluations };
}

/** Calls `once` until the time is over, it returns false, or the user has enough. */
async function repeat(milliseconds: number, context: CliContext, once: () => boolean): Promise<void> {
  const end = context.elapsed() + milliseconds;
  for (let turn = context.elapsed() + TURN; ;) {
    const more = once();
    const now = context.elapsed();
    if (!more || now >= end || context.signal.aborted) return;
    if (now < turn) continue;
    await new Promise((done) => void setImmediate(done));
    turn = context.elapsed() + TURN;
  }
}

function percentile({ samples }: Measurement, part: number): number {
  return samples[Math.min(samples.length - 1, Math.floor(samples.length * part))]!;
}

function measurementText(measured: Measurement, cold: number): string {
  const { samples, sum } = measured;
  const rows: readonly (readonly [string, string])[] = [
    ["evaluations", String(samples.length)],
    ["ns/op", String(nanoseconds(sum / samples.length))],
    ["p50", duration(percentile(measured, 0.5))],
    ["p90", duration(percentile(measured, 0.9))],
    ["p99", duration(percentile(measured, 0.99))],
    ["slowest", duration(samples.at(-1)!)],
    ["first, cold", duration(cold)],
  ];
  return table([{ name: "METRIC" }, { name: "VALUE", align: "right" }], rows);
}

function measurementJson(measured: Measurement): JsonObject {
  const { samples, sum } = measured;
  return {
    samples: samples.length,
    ns_per_op: nanoseconds(sum / samples.length),
    p50_ns: nanoseconds(percentile(measured, 0.5)),
    p90_ns: nanoseconds(percentile(measured, 0.9)),
    p99_ns: nanoseconds(percentile(measured, 0.99)),
    max_ns: nanoseconds(samples.at(-1)!),
  };
}
