/**
 * Speed of the policy engine against the goals of its issue and, where an `opa` binary is on PATH, against OPA:
 * `node bench/rego.ts [--only <case>] [--rounds <n>] [--json]`.
 *
 * Cold is the median of fresh processes; warm is one process per case that has run the request 500 times before. Every case
 * converts its request from a parsed JSON object, as the agent does.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Case } from "./rego/cases.ts";
import { type Cold, type Heap, measure, type Percentiles, type Task, type Warm } from "./rego/measure.ts";
import { opaCold, opaVersion, opaWarm } from "./rego/opa.ts";

const COLD_SAMPLES = 7;
const HEAP_EVALUATIONS = 100_000;
/** Below this, growth is what the collector leaves between two looks, not something held per evaluation. */
const HEAP_NOISE = 1;

const { values: flags } = parseArgs({
  options: {
    only: { type: "string" },
    rounds: { type: "string", default: "3000" },
    json: { type: "boolean", default: false },
    // For the processes that this one starts.
    child: { type: "string" },
  },
});

if (flags.child === undefined) await main(flags.only, Number(flags.rounds), flags.json);
else process.stdout.write(JSON.stringify(measure(JSON.parse(flags.child) as Task)));

interface Row {
  readonly measurement: string;
  readonly value: number;
  /** The fastest of the samples behind a median: on a busy machine it moves least. */
  readonly best?: number | undefined;
  readonly unit: string;
  readonly goal?: number | undefined;
  readonly opa?: number | undefined;
}

async function main(only: string | undefined, rounds: number, asJson: boolean): Promise<void> {
  if (!Number.isInteger(rounds) || rounds < 100) throw new Error("--rounds takes a whole number from 100");
  // Not imported above: the children must start without genpolicy.
  const { CASES, SMALL_CASE } = await import("./rego/cases.ts");
  const chosen = CASES.filter(({ name }) => only === undefined || name === only);
  if (chosen.length === 0) throw new Error(`no case ${only}; there are ${CASES.map(({ name }) => name).join(", ")}`);
  const opa = opaVersion();
  const report: object[] = [];
  const say = (line: string): void => void (asJson || process.stdout.write(`${line}\n`));
  say(
    `node ${process.version}, ${availableParallelism()} cores, ${rounds} rounds warm, ${COLD_SAMPLES} processes cold; load average ${loadavg()[0]?.toFixed(1)}`,
  );
  say(opa === undefined ? "opa: not on PATH, so no numbers of OPA" : `opa: ${opa}`);
  for (const entry of chosen) {
    const one = await entry.make();
    const { name } = one;
    const directory = mkdtempSync(join(tmpdir(), "sealpod-bench-"));
    try {
      writeFileSync(join(directory, "policy.rego"), one.policy);
      writeFileSync(join(directory, "request.json"), JSON.stringify(one.request));
      writeFileSync(join(directory, "state.json"), JSON.stringify(one.state));
      const { rows, prints, steps } = measureCase(one, directory, rounds, opa !== undefined, name === SMALL_CASE);
      const sizes = { policyBytes: Buffer.byteLength(one.policy), requestBytes: Buffer.byteLength(JSON.stringify(one.request)) };
      report.push({ name, about: one.about, ...sizes, prints, steps, rows });
      say(`\n${name}: ${one.about}`);
      say(`  policy ${kib(sizes.policyBytes)}, request ${kib(sizes.requestBytes)}, ${steps} steps, ${prints} prints`);
      for (const line of table(rows, opa !== undefined)) say(`  ${line}`);
    } finally {
      rmSync(directory, { recursive: true });
    }
  }
  if (asJson)
    process.stdout.write(`${JSON.stringify({ node: process.version, cores: availableParallelism(), opa: opa ?? null, rounds, cases: report }, null, 2)}\n`);
}

function measureCase(
  { version, query, goals }: Case,
  directory: string,
  rounds: number,
  withOpa: boolean,
  watchHeap: boolean,
): { readonly rows: readonly Row[]; readonly prints: number; readonly steps: number } {
  const task = { directory, version, query };
  const cold = Array.from({ length: COLD_SAMPLES }, () => child({ ...task, mode: "cold", rounds: 1 }) as Cold);
  const warm = child({ ...task, mode: "warm", rounds }) as Warm;
  const theirCold = withOpa ? Array.from({ length: COLD_SAMPLES }, () => opaCold(task)) : undefined;
  const theirs: Percentiles | undefined = withOpa ? opaWarm(task) : undefined;
  const row = (measurement: string, value: number, more: Partial<Row> = {}): Row => ({ measurement, value, unit: "ms", ...more });
  const coldRow = (measurement: string, part: keyof Cold, goal: number | undefined): Row => {
    const ours = cold.map((sample) => sample[part]);
    return row(measurement, median(ours), { best: Math.min(...ours), goal, opa: theirCold && median(theirCold.map((sample) => sample[part])) });
  };
  const { silent, collecting, printing, parse } = warm;
  const rows = [
    coldRow("load, cold", "load", goals.load),
    coldRow("first request, cold", "first", goals.first),
    row("warm p50, without prints", silent.p50, { best: silent.best, goal: goals.warm, opa: theirs?.p50 }),
    row("warm p99, without prints", silent.p99, { opa: theirs?.p99 }),
    row("warm p50, prints collected", collecting.p50, { best: collecting.best, goal: goals.warmWithPrints }),
    row("warm p99, prints collected", collecting.p99),
    row("warm p50, prints read", printing.p50, { best: printing.best }),
    row("JSON.parse of the request, p50", parse.p50, { best: parse.best }),
  ];
  if (watchHeap) {
    const { bytesPerEvaluation, evaluations } = child({ ...task, mode: "heap", rounds: HEAP_EVALUATIONS }) as Heap;
    rows.push(row(`heap growth over ${evaluations} requests`, bytesPerEvaluation, { unit: "B each", goal: 0 }));
  }
  return { rows, prints: warm.prints, steps: warm.steps };
}

function child(task: Task): Cold | Warm | Heap {
  const args = [...(task.mode === "heap" ? ["--expose-gc"] : []), fileURLToPath(import.meta.url), "--child", JSON.stringify(task)];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`measuring ${task.mode} failed: ${stderr}`);
  return JSON.parse(stdout) as Cold | Warm | Heap;
}

function table(rows: readonly Row[], withOpa: boolean): readonly string[] {
  const cells = [["", "measured", "best", "goal", "of goal", ...(withOpa ? ["OPA", "of OPA"] : [])]];
  for (const { measurement, value, best, unit, goal, opa } of rows) {
    const number = (amount: number | undefined): string =>
      amount === undefined || Number.isNaN(amount) ? "" : `${amount.toFixed(amount < 10 ? 3 : 1)} ${unit}`;
    cells.push([
      measurement,
      number(value),
      number(best),
      number(goal),
      goal === undefined ? "" : ofGoal(value, goal),
      ...(withOpa ? [number(opa), ratio(value, opa)] : []),
    ]);
  }
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  return cells.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join("  ")
      .trimEnd(),
  );
}

function ofGoal(value: number, goal: number): string {
  if (goal === 0) return value <= HEAP_NOISE ? "met" : "missed";
  return ratio(value, goal);
}

function ratio(value: number, other: number | undefined): string {
  return other === undefined || Number.isNaN(other) || other === 0 ? "" : (value / other).toFixed(2);
}

function kib(bytes: number): string {
  return `${(bytes / 1024).toFixed(1)} KiB`;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
