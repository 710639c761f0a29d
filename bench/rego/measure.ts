import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { JsonObject } from "@sealpod/core";
import { compile, type Evaluation, type Policy, type RegoVersion } from "@sealpod/rego";

/**
 * What a child process measures. It gets everything from files, so that nothing of the engine has run before: making a case with
 * genpolicy would leave the parser warm.
 */

/** Work of one child process. */
export interface Task {
  readonly mode: "cold" | "warm" | "heap";
  /** Holds `policy.rego`, `request.json` and `state.json`. */
  readonly directory: string;
  readonly version: RegoVersion;
  readonly query: string;
  readonly rounds: number;
}

/** Milliseconds. */
export interface Cold {
  readonly load: number;
  readonly first: number;
}

/** Milliseconds: the fastest round, the 50th and the 99th percentile. */
export interface Percentiles {
  readonly best: number;
  readonly p50: number;
  readonly p99: number;
}

/** The request is converted from a parsed JSON object in each round. */
export interface Warm {
  /** Without prints, as the agent decides. */
  readonly silent: Percentiles;
  /** Prints collected, not read. */
  readonly collecting: Percentiles;
  /** `prints` read, so formatted. */
  readonly printing: Percentiles;
  /** `JSON.parse` of the request, which the others leave out. */
  readonly parse: Percentiles;
  readonly prints: number;
  readonly steps: number;
}

/** Bytes of heap per evaluation that are still held after a collection: the median over batches. */
export interface Heap {
  readonly bytesPerEvaluation: number;
  readonly evaluations: number;
}

const HEAP_BATCHES = 3;

/** Does the task of a child process. */
export function measure(task: Task): Cold | Warm | Heap {
  const read = (name: string): string => readFileSync(join(task.directory, name), "utf8");
  const [text, requestText, state] = [read("policy.rego"), read("request.json"), JSON.parse(read("state.json")) as JsonObject];
  const request = JSON.parse(requestText) as JsonObject;
  const load = (): Policy => {
    const policy = compile([{ name: "agent_policy", text }], { version: task.version });
    policy.setData(state);
    return policy;
  };
  switch (task.mode) {
    case "cold": {
      const start = performance.now();
      const policy = load();
      const loaded = performance.now();
      const evaluation = policy.evaluate(task.query, { input: request });
      const end = performance.now();
      requireAllowed(evaluation);
      return { load: loaded - start, first: end - loaded };
    }
    case "warm": {
      const policy = load();
      const evaluate = (): Evaluation => policy.evaluate(task.query, { input: request });
      const evaluation = evaluate();
      requireAllowed(evaluation);
      return {
        silent: percentiles(task.rounds, () => policy.evaluate(task.query, { input: request, prints: false })),
        collecting: percentiles(task.rounds, evaluate),
        printing: percentiles(task.rounds, () => evaluate().prints),
        parse: percentiles(task.rounds, () => JSON.parse(requestText) as unknown),
        prints: evaluation.prints.length,
        steps: evaluation.cost.steps,
      };
    }
    case "heap": {
      const policy = load();
      return heapGrowth(task.rounds, () => requireAllowed(policy.evaluate(task.query, { input: request })));
    }
  }
}

/** A denial is decided early: its time would say nothing. */
function requireAllowed(evaluation: Evaluation): void {
  const value = evaluation.results[0]?.expressions[0];
  const allowed = value !== null && typeof value === "object" ? (value as JsonObject)["allowed"] : value;
  if (allowed !== true) throw new Error(`the request is not allowed; last prints:\n${evaluation.prints.slice(-5).join("\n")}`);
}

function percentiles(rounds: number, run: () => unknown): Percentiles {
  for (let round = 0; round < Math.min(rounds, 500); round++) run();
  const times = new Float64Array(rounds);
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    run();
    times[round] = performance.now() - start;
  }
  times.sort();
  return { best: times[0]!, p50: times[Math.floor(rounds * 0.5)]!, p99: times[Math.floor(rounds * 0.99)]! };
}

function heapGrowth(evaluations: number, run: () => void): Heap {
  const { gc } = globalThis;
  if (gc === undefined) throw new Error("the heap is measured with --expose-gc");
  const held = (): number => {
    gc();
    gc();
    return process.memoryUsage().heapUsed;
  };
  // What is compiled and cached on the way is held once; so is what a look at the heap costs, some 10 KiB.
  for (let round = 0; round < evaluations; round++) run();
  const growth = Array.from({ length: HEAP_BATCHES }, () => {
    const before = held();
    for (let round = 0; round < evaluations; round++) run();
    return (held() - before) / evaluations;
  });
  return { bytesPerEvaluation: growth.toSorted((a, b) => a - b)[Math.floor(HEAP_BATCHES / 2)]!, evaluations };
}
