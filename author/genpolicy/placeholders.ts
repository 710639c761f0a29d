/**
 * Placeholders `$(name)` in environment variables and arguments. Some stand for other variables of the container and are
 * replaced when the policy is made; others stand for values that exist only when the pod runs, and the rules know them.
 */

/** Values of the running pod, which the rules fill in. */
const RUNTIME_NAMES: ReadonlySet<string> = new Set([
  "bundle-id",
  "host-ip",
  "node-name",
  "pod-ip",
  "pod-uid",
  "sandbox-id",
  "sandbox-name",
  "sandbox-namespace",
]);

/** Rounds of replacement: each resolves one level of `$(A)` → `$(B)` → …; a cycle never ends. */
const MAX_ROUNDS = 64;

/** Longest value that replacement may build: a pod of this size would not fit into an annotation anyway. */
const MAX_LENGTH = 1024 * 1024;

/** Why values cannot be replaced. */
export interface PlaceholderProblem {
  readonly value: string;
  readonly message: string;
}

/** `NAME=value` at its only `=`; undefined if there is none or more than one, as the AKS tool takes them. */
function splitOnce(variable: string): readonly [string, string] | undefined {
  const parts = variable.split("=");
  return parts.length === 2 ? [parts[0] ?? "", parts[1] ?? ""] : undefined;
}

/** Name of the first placeholder of a value. */
function firstPlaceholder(value: string): string | undefined {
  const start = value.indexOf("$(");
  if (start === -1) return undefined;
  const end = value.indexOf(")", start);
  return end === -1 ? undefined : value.slice(start + 2, end);
}

/** The value that stands for `$(name)` for good: one without placeholders, or starting with one of the running pod's. */
function settledValue(name: string, env: readonly string[]): string | undefined {
  for (const variable of env) {
    const pair = splitOnce(variable);
    if (pair === undefined || pair[0] !== name) continue;
    const inner = firstPlaceholder(pair[1]);
    if (inner === undefined || RUNTIME_NAMES.has(inner)) return pair[1];
  }
  return undefined;
}

function replaceFirst(value: string, env: readonly string[]): string {
  const name = firstPlaceholder(value);
  if (name === undefined) return value;
  const found = settledValue(name, env);
  return found === undefined ? value : value.replaceAll(`$(${name})`, () => found);
}

/**
 * Environment and arguments with `$(NAME)` replaced by other variables of the same container, repeated until nothing changes
 * (specs/genpolicy.md 3.4). Only the first placeholder of a string is looked at in a round.
 */
export function replaceVariables(env: readonly string[], args: readonly string[]): { env: readonly string[]; args: readonly string[] } | PlaceholderProblem {
  const empty = [...env, ...args].find((value) => firstPlaceholder(value) === "");
  if (empty !== undefined) return { value: empty, message: "has an empty placeholder $()" };
  let variables = [...env];
  let values = [...args];
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const before = [...variables, ...values];
    // One after the other: a variable sees what this round made of those before it.
    for (const [index, variable] of variables.entries()) {
      const pair = splitOnce(variable);
      if (pair !== undefined) variables[index] = `${pair[0]}=${replaceFirst(pair[1], variables)}`;
    }
    values = values.map((value) => replaceFirst(value, variables));
    const after = [...variables, ...values];
    const long = after.find((value) => value.length > MAX_LENGTH);
    if (long !== undefined) return { value: `${long.slice(0, 40)}…`, message: `grows beyond ${MAX_LENGTH} characters when variables are replaced` };
    if (after.every((value, index) => value === before[index])) return { env: variables, args: values };
    variables = [...variables];
  }
  return { value: variables.find((value) => firstPlaceholder(value) !== undefined) ?? "", message: "refers to itself" };
}
