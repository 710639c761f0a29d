import type { JsonObject, JsonValue } from "@sealpod/core";
import { compile, type PatchOperation, type Policy, RegoError } from "@sealpod/rego";
import { REQUESTS } from "./requests.ts";

/** What an agent makes of an answer: allowed or not, and the operations on its state. */
export interface Verdict {
  readonly allowed: boolean;
  readonly ops: readonly PatchOperation[];
}

/** One request to an agent. */
export interface Asked {
  readonly name: string;
  readonly input: JsonValue;
}

/** The answer of a policy, with its reasons. */
export function ask(policy: Policy, { name, input }: Asked, data?: JsonValue): Verdict & { readonly prints: readonly string[]; readonly steps: number } {
  try {
    const { results, prints, cost } = policy.evaluate(`data.agent_policy.${name}`, { input, ...(data === undefined ? {} : { data }) });
    const value = results[0]?.expressions[0];
    const object = typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : undefined;
    const allowed = value === true || object?.["allowed"] === true;
    return { allowed, ops: allowed ? ((object?.["ops"] ?? []) as unknown as readonly PatchOperation[]) : [], prints, steps: cost.steps };
  } catch (error) {
    // What fails is refused.
    if (error instanceof RegoError) return { allowed: false, ops: [], prints: [error.code], steps: 0 };
    throw error;
  }
}

/** An agent's policy of this text, before any request. */
export function load(text: string): Policy {
  const policy = compile([{ name: "agent_policy", text }]);
  policy.setData({ pstate: {} });
  return policy;
}

const OTHERS: readonly JsonValue[] = [null, false, true, 0, 1, -1, "", "x", "^.*$", "$(sandbox-name)", [], [""], {}, { x: 1 }];

/** What makes a request with one change; only those that are asked are made. */
export function* mutations(input: JsonValue): Generator<() => JsonValue> {
  for (const path of pathsOf(input, [])) for (const other of replacements(at(input, path))) yield () => changed(input, path, other);
}

/** What is put in place of a value; undefined takes it away. */
function replacements(found: JsonValue): readonly (JsonValue | undefined)[] {
  const others: readonly (JsonValue | undefined)[] = [undefined, ...OTHERS];
  if (typeof found === "string") return [...others, `${found}x`, found.slice(1), found.toUpperCase(), `${found}\n`];
  if (typeof found === "number") return [...others, found + 1];
  if (Array.isArray(found)) {
    const items = found as readonly JsonValue[];
    return [...others, items.toReversed(), items.slice(1), [...items, "x"], ...(items[0] === undefined ? [] : [[...items, items[0]]])];
  }
  return typeof found === "object" && found !== null ? [...others, { ...(found as JsonObject), more: "x" }] : others;
}

type Path = readonly (string | number)[];

function* pathsOf(value: JsonValue, path: Path): Generator<Path> {
  if (path.length > 0) yield path;
  if (Array.isArray(value)) for (const [index, item] of (value as readonly JsonValue[]).entries()) yield* pathsOf(item, [...path, index]);
  else if (typeof value === "object" && value !== null) for (const [key, item] of Object.entries(value as JsonObject)) yield* pathsOf(item, [...path, key]);
}

function at(value: JsonValue, path: Path): JsonValue {
  let found: JsonValue = value;
  for (const step of path) found = (found as unknown as Readonly<Record<string | number, JsonValue>>)[step] as JsonValue;
  return found;
}

function changed(value: JsonValue, [step, ...rest]: Path, to: JsonValue | undefined): JsonValue {
  if (step === undefined) return to ?? null;
  if (Array.isArray(value)) {
    const items = value as readonly JsonValue[];
    if (rest.length === 0 && to === undefined) return items.filter((_, index) => index !== step);
    return items.map((item, index) => (index === step ? changed(item, rest, to) : item));
  }
  const entries = Object.entries(value as JsonObject);
  if (rest.length === 0 && to === undefined) return Object.fromEntries(entries.filter(([key]) => key !== step));
  return Object.fromEntries(entries.map(([key, item]) => [key, key === step ? changed(item, rest, to) : item]));
}

/** Requests of all kinds that need no container, some of which policies allow. */
export function otherRequests(containerId: string): readonly Asked[] {
  const process = {
    Terminal: false,
    User: { UID: 0, GID: 0, AdditionalGids: [], Username: "" },
    Args: ["cat", "/healthy"],
    Env: ["PATH=/bin"],
    Cwd: "/",
    Capabilities: null,
    NoNewPrivileges: false,
    ApparmorProfile: "",
    SelinuxLabel: "",
  };
  const shared = "/run/kata-containers/shared/containers";
  const inputs: Readonly<Record<string, readonly JsonValue[]>> = {
    CreateSandboxRequest: [{ hostname: "web", dns: [], storages: [], sandbox_pidns: false, sandbox_id: containerId, guest_hook_path: "", kernel_modules: [] }],
    CopyFileRequest: [
      { path: `${shared}/${containerId}-0123456789abcdef-hosts`, symlink_src: "", file_type: "Regular", symlink_target: null },
      { path: `${shared}/${containerId}-0123456789abcdef-tokens/..data`, symlink_src: "..2024", file_type: "Symlink", symlink_target: "..2024" },
    ],
    ExecProcessRequest: [{ container_id: containerId, exec_id: "x", string_user: null, process }],
    RemoveContainerRequest: [{ container_id: containerId, timeout: 0 }],
    StartContainerRequest: [{ container_id: containerId }],
    UpdateInterfaceRequest: [{ interface: { device: "eth0", name: "eth0", IPAddresses: [], mtu: 1500, hwAddr: "02:00:00:00:00:01", raw_flags: 0 } }],
    UpdateRoutesRequest: [{ routes: { Routes: [{ dest: "", gateway: "10.0.0.1", device: "eth0", source: "10.0.0.2", scope: 0, family: 0 }] } }],
    AddARPNeighborsRequest: [
      { neighbors: { ARPNeighbors: [{ toIPAddress: { family: 0, address: "10.0.0.3", mask: "" }, device: "eth0", lladdr: "x", state: 128, flags: 0 }] } },
    ],
  };
  return [...REQUESTS].flatMap((name) => (inputs[name] ?? [{}]).map((input) => ({ name, input })));
}

/** How a comparison went. */
export interface Comparison {
  readonly asked: number;
  readonly allowed: number;
  /** Requests on which the policies differ. */
  readonly differences: readonly string[];
  /** Steps of the evaluations of each. */
  readonly steps: readonly [number, number];
}

/** What a pod is asked, and the state in which it is asked. */
export interface Scene {
  readonly state: JsonValue;
  readonly name: string;
  readonly input: () => JsonValue;
}

/**
 * Asks two policies the same in the same states: of all scenes every `stride`th.
 * @param reasons true if the second has to give reasons wherever the first does
 */
export function compare(full: Policy, slim: Policy, scenes: Iterable<Scene>, stride: number, reasons: boolean): Comparison {
  let number = 0;
  let asked = 0;
  let allowed = 0;
  const steps: [number, number] = [0, 0];
  const differences: string[] = [];
  for (const { state, name, input } of scenes) {
    if (number++ % stride !== 0) continue;
    const request = { name, input: input() };
    asked++;
    const left = ask(full, request, state);
    const right = ask(slim, request, state);
    if (left.allowed) allowed++;
    steps[0] += left.steps;
    steps[1] += right.steps;
    const same =
      left.allowed === right.allowed &&
      JSON.stringify(left.ops) === JSON.stringify(right.ops) &&
      (!reasons || left.prints.length > 0 === right.prints.length > 0);
    if (!same) differences.push(`${request.name} ${JSON.stringify(request.input).slice(0, 500)}: ${JSON.stringify([left, right])}`);
  }
  return { asked, allowed, differences, steps };
}

/** Everything that a pod is asked in a test: its own requests in each state on the way, others, and each of them after each change. */
export function* scenes(policy: Policy, creations: readonly JsonValue[]): Generator<Scene> {
  let state: JsonValue = { pstate: {} };
  for (const [index, input] of [...creations, undefined].entries()) {
    for (const other of creations) yield { state, name: "CreateContainerRequest", input: () => other };
    for (const id of ["none", ...creations.map(idOf)]) {
      for (const asked of otherRequests(id)) {
        yield { state, name: asked.name, input: () => asked.input };
        if (id === "none" || id === idOf(creations[index - 1]))
          for (const mutation of mutations(asked.input)) yield { state, name: asked.name, input: mutation };
      }
    }
    if (input === undefined) return;
    for (const mutation of mutations(input)) yield { state, name: "CreateContainerRequest", input: mutation };
    for (const asked of [
      { name: "CreateContainerRequest", input },
      { name: "StartContainerRequest", input: { container_id: idOf(input) } },
    ]) {
      policy.setData(state);
      policy.patchData(ask(policy, asked).ops);
      state = { pstate: policy.evaluate("x := data.pstate").results[0]?.bindings["x"] ?? {} };
    }
  }
}

function idOf(input: JsonValue | undefined): string {
  const request = (input ?? {}) as JsonObject;
  const { container_id: id } = (request["base"] ?? request) as { readonly container_id?: JsonValue };
  return typeof id === "string" ? id : "";
}

/** So many items of a list, chosen by a number: the same each time. */
export function chosen<T>(items: readonly T[], count: number, seed: number): readonly T[] {
  const left = [...items];
  const found: T[] = [];
  let state = seed;
  while (found.length < count && left.length > 0) {
    // The generator of Park and Miller: enough to scatter.
    state = (state * 48271 + 11) % 2147483647;
    found.push(...left.splice(state % left.length, 1));
  }
  return found;
}
