import type { Workload, WorkloadKind } from "@sealpod/kube";
import { escapeAsRust, escapePattern } from "./paths.ts";

/** Letters and digits of the suffixes that Kubernetes generates: no vowels, nothing that looks alike. */
const SUFFIX = "[bcdfghjklmnpqrstvwxz2456789]";

/** Characters of a generated name before its suffix of five; what is longer is cut (apiserver, names.SimpleNameGenerator). */
const MAX_GENERATED_BASE = 58;
const SUFFIX_LENGTH = 5;

/** The tool of 2023: the name of a Pod, a placeholder for a generated one, nothing for the other kinds (specs/genpolicy.md 2.5). */
export function nameAsIn2023({ workload, metadata }: Workload): string | undefined {
  if (workload !== "Pod") return undefined;
  return metadata.name ?? (metadata.generateName === undefined ? "" : "$(generated-name)");
}

/** Upstream's tool: a pattern by kind; a name goes in as it is (specs/genpolicy.md 2.5). */
export function nameAsUpstream({ workload, metadata }: Workload): string {
  const base = metadata.name ?? `${escapeAsRust(metadata.generateName ?? "")}${SUFFIX}+`;
  return `^${base}${UPSTREAM_ENDS[workload]}$`;
}

const UPSTREAM_ENDS: Readonly<Record<WorkloadKind, string>> = {
  Pod: "",
  Deployment: `-${SUFFIX}+-${SUFFIX}+`,
  ReplicaSet: `-${SUFFIX}+`,
  ReplicationController: `-${SUFFIX}+`,
  DaemonSet: `-${SUFFIX}+`,
  StatefulSet: "-[0-9]+",
  Job: `(-[0-9]+)?-${SUFFIX}+`,
  CronJob: `-[0-9]+(-[0-9]+)?-${SUFFIX}+`,
};

/** What Kubernetes writes between a workload's name and the suffix of five, and how long that can be. */
const MIDDLES: Readonly<Record<Exclude<WorkloadKind, "Pod" | "StatefulSet">, { readonly pattern: string; readonly longest: number }>> = {
  Deployment: { pattern: `-${SUFFIX}{1,10}-`, longest: 12 },
  ReplicaSet: { pattern: "-", longest: 1 },
  ReplicationController: { pattern: "-", longest: 1 },
  DaemonSet: { pattern: "-", longest: 1 },
  // The index of an Indexed Job.
  Job: { pattern: "(?:-[0-9]{1,10})?-", longest: 12 },
  // The job has the name of the CronJob and the minute that it was due.
  CronJob: { pattern: "-[0-9]{1,10}(?:-[0-9]{1,10})?-", longest: 23 },
};

/** A pattern of the names that Kubernetes gives to the pods of a workload; for names that it has to cut, a little more. */
export function namePattern({ workload, metadata }: Workload): string {
  const { name, generateName = "" } = metadata;
  const literal = name ?? generateName.slice(0, MAX_GENERATED_BASE);
  const own = `${escapePattern(literal)}${name === undefined ? `${SUFFIX}{${SUFFIX_LENGTH}}` : ""}`;
  if (workload === "Pod") return `^${own}$`;
  if (workload === "StatefulSet") return `^${own}-(?:0|[1-9][0-9]{0,9})$`;
  const { pattern, longest } = MIDDLES[workload];
  const length = literal.length + (name === undefined ? SUFFIX_LENGTH : 0);
  if (length + longest <= MAX_GENERATED_BASE) return `^${own}${pattern}${SUFFIX}{${SUFFIX_LENGTH}}$`;
  const kept = escapePattern(literal.slice(0, MAX_GENERATED_BASE - longest));
  return `^${kept}[-.a-z0-9]{0,${longest + SUFFIX_LENGTH}}${SUFFIX}{${SUFFIX_LENGTH}}$`;
}
