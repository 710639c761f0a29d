import { spawnSync } from "node:child_process";
import type { Cold, Percentiles } from "./measure.ts";

/** OPA's numbers for the same files, from its documented command line; it prints times in nanoseconds. */

/** What OPA says of itself, or undefined without an `opa` on PATH. */
export function opaVersion(): string | undefined {
  const { status, stdout } = spawnSync("opa", ["version"], { encoding: "utf8" });
  return status === 0 ? (/^Version: *(\S+)/m.exec(stdout)?.[1] ?? "unknown") : undefined;
}

/** Where the files are and what is asked. */
export interface OpaTask {
  readonly directory: string;
  readonly version: "v0" | "v1";
  readonly query: string;
}

/** `opa bench`: evaluation alone, the request parsed beforehand. */
export function opaWarm(task: OpaTask): Percentiles {
  const { N, T, Extra } = json(["bench", "--count", "1", ...common(task), task.query]) as {
    readonly N?: number;
    readonly T?: number;
    readonly Extra?: Readonly<Record<string, number>>;
  };
  const mean = (T ?? Number.NaN) / (N ?? Number.NaN);
  const histogram = "histogram_timer_rego_query_eval_ns";
  return {
    best: (Extra?.[`${histogram}_min`] ?? Number.NaN) / 1e6,
    p50: (Extra?.[`${histogram}_median`] ?? mean) / 1e6,
    p99: (Extra?.[`${histogram}_99%`] ?? Number.NaN) / 1e6,
  };
}

/** `opa eval --metrics`: one evaluation in a fresh process. */
export function opaCold(task: OpaTask): Cold {
  const { metrics = {} } = json(["eval", "--metrics", ...common(task), task.query]) as { readonly metrics?: Readonly<Record<string, number>> };
  const milliseconds = (...names: readonly string[]): number => names.reduce((sum, name) => sum + (metrics[`timer_${name}_ns`] ?? 0), 0) / 1e6;
  return { load: milliseconds("rego_load_files", "rego_module_parse", "rego_module_compile"), first: milliseconds("rego_query_eval") };
}

function common({ directory, version }: OpaTask): readonly string[] {
  const files = ["--data", `${directory}/policy.rego`, "--data", `${directory}/state.json`, "--input", `${directory}/request.json`];
  return ["--format", "json", ...(version === "v0" ? ["--v0-compatible"] : []), ...files];
}

function json(args: readonly string[]): unknown {
  const { status, stdout, stderr } = spawnSync("opa", args, { encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });
  if (status !== 0) throw new Error(`opa ${args[0]} failed: ${stderr.trim()}`);
  return JSON.parse(stdout);
}
