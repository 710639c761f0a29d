/**
 * Time from RunPodSandbox to a pod that runs, and what it takes of the node's memory, on a genuine containerd: pods in machines beside pods of runc, beside
 * pods as processes (all of ours but the machine), and beside the bare boot of the same kernel, in the same run and in turn; then several at once:
 * `npm run bench -- pod [rounds] [--at-once 10] [--memory 512] [--containerd 1.7]`. Compare the ratios; absolute numbers belong to the machine and to what
 * else runs on it. The pod has a generated policy, and what admission and kubelet add: a token volume, /etc/hosts, a termination log.
 */
import { execFileSync } from "node:child_process";
import { globSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import {
  IMAGES,
  noShim,
  noWorld,
  openContainerdWorld,
  runPod,
  shimHandler,
  VERSIONS,
  withPolicy,
  type ContainerdWorld,
  type KubePod,
} from "../conformance/containerd/test-support.ts";
import { noVm } from "../laptop/machine/test-support.ts";
import { PodEvents } from "./pod/events.ts";
import { podMemory, podProcesses } from "./pod/usage.ts";
import { bareBoot, buildBareInitrd } from "./vm/bare-boot.ts";

/** What runs the pods, by the name of its RuntimeClass handler. */
const RUNTIMES = { runc: "runc", process: "kata-cc", machine: "kata-cc-isolation" } as const;
type Runtime = keyof typeof RUNTIMES;
const RUNTIME_NAMES = ["runc", "process", "machine"] as const satisfies readonly Runtime[];

/** Commands that are run in each pod. */
const EXECS = 8;
/** Milliseconds between two looks at a container's log. */
const LOOK = 2;

const CONTAINER = `
      image: ${IMAGES.busybox}
      command: [sh, -c, "echo up; exec sleep infinity"]
      livenessProbe: { exec: { command: ["true"] } }`;

const POD = `
apiVersion: v1
kind: Pod
metadata: { name: bench }
spec:
  runtimeClassName: kata-cc-isolation
  containers:
    - name: first${CONTAINER}
    - name: second${CONTAINER}
`;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    "at-once": { type: "string", default: "10" },
    memory: { type: "string", default: "512" },
    containerd: { type: "string", default: "1.7" },
  },
});
const rounds = Number(positionals[0] ?? "3");
const atOnce = Number(flags["at-once"]);
const memoryMiB = Number(flags.memory);
const version = VERSIONS.find((each) => each === flags.containerd);
/** By what was measured, then by what ran the pod. */
const measured = new Map<string, Map<Runtime, number[]>>();
const bareBoots: number[] = [];
const stages = new Map<string, number[]>();

const problem = version === undefined ? `there is no containerd ${flags.containerd} for tests` : (noWorld(version) ?? noShim ?? noVm);
if (problem !== undefined) process.stdout.write(`no pods can be run here: ${problem}\n`);
else await main();

async function main(): Promise<void> {
  const sizes = {
    hypervisor: { default_memory: memoryMiB, default_vcpus: 1 },
    runtime: { static_sandbox_default_workload_mem: 0, log_level: "info" },
  };
  const begin = performance.now();
  await using world = await openContainerdWorld({
    version: version ?? "1.7",
    handlers: { [RUNTIMES.process]: shimHandler("process"), [RUNTIMES.machine]: shimHandler("vm", sizes) },
  });
  const yaml = await withPolicy(world, POD, "aks", IMAGES.pause);
  const kernel = join(import.meta.dirname, "../build/uvm/vmlinux");
  const initrd = await bareInitrd(world.directory);
  {
    await using events = await PodEvents.open(world);
    // The first pod of a node makes its layers and its bridge; what it takes is told aside.
    const cold = await onePod(world, yaml, "machine", () => undefined);
    say(`the node's first pod, whose layers are made while it starts: ready after ${cold.toFixed(0)} ms`);
    for (const runtime of ["process", "runc"] as const) await onePod(world, yaml, runtime, () => undefined);
    for (let round = 0; round < rounds; round++) {
      for (const runtime of RUNTIME_NAMES) {
        await onePod(world, yaml, runtime, (what, value) => note(what, runtime, value), runtime === "machine" ? events : undefined);
      }
      bareBoots.push(await bareBoot({ kernel, initrd, memoryMiB }));
    }
  }
  reportRounds();
  let left: readonly string[] = await world.leaks();
  const results: AtOnce[] = [];
  for (const runtime of ["runc", "machine"] as const) {
    if (atOnce === 0 || left.length > 0) break;
    results.push(await podsAtOnce(world, yaml, runtime));
    left = await world.leaks();
  }
  reportAtOnce(results);
  say(`\n${left.length === 0 ? "nothing was left on the node" : `LEFT ON THE NODE:\n${left.join("\n")}`}`);
  say(`${((performance.now() - begin) / 1000).toFixed(0)} s in all`);
  if (left.length > 0) process.exitCode = 1;
}

async function bareInitrd(directory: string): Promise<string> {
  const tcc = join(directory, "tcc");
  const [deb] = globSync(join(import.meta.dirname, "../build/uvm-packages/tcc_*.deb"));
  if (deb === undefined) throw new Error("build/uvm-packages has no tcc: the image of this checkout was not built here");
  execFileSync("dpkg-deb", ["-x", deb, tcc]);
  const initrd = join(directory, "bare.cpio");
  await buildBareInitrd(tcc, initrd);
  return initrd;
}

/** A call of CRI. */
interface Call {
  readonly name: string;
  readonly begin: number;
  readonly end: number;
}

/** The world, and the times of the calls that a kubelet's part makes to it. */
function watched(world: ContainerdWorld): { readonly world: ContainerdWorld; readonly calls: readonly Call[] } {
  const calls: Call[] = [];
  const cri: ContainerdWorld["cri"] = async (method, request) => {
    const begin = performance.now();
    const answer = await world.cri(method, request);
    calls.push({ name: method.name, begin, end: performance.now() });
    return answer;
  };
  return { world: { ...world, cri }, calls };
}

/** The latest call of a method. */
function last(calls: readonly Call[], name: string): Call {
  const found = calls.findLast((each) => each.name === name);
  if (found === undefined) throw new Error(`there was no call of ${name}`);
  return found;
}

function lengthOf({ begin, end }: Call): number {
  return end - begin;
}

/** When a container's first output is in its log, on the clock of the calls. */
async function firstOutput(pod: KubePod, container: string): Promise<number> {
  while (pod.logs(container).length === 0) await sleep(LOOK);
  return performance.now();
}

/** One pod from its start to its end, with all that is measured of it. @returns milliseconds until it was ready */
async function onePod(world: ContainerdWorld, yaml: string, runtime: Runtime, add: (what: string, value: number) => void, events?: PodEvents): Promise<number> {
  const { world: own, calls } = watched(world);
  const pod = await runPod(own, yaml, { handler: RUNTIMES[runtime], start: ["first"] });
  try {
    const output = await firstOutput(pod, "first");
    const [sandbox, started] = [last(calls, "RunPodSandbox"), last(calls, "StartContainer")];
    add("RunPodSandbox", lengthOf(sandbox));
    add("CreateContainer and StartContainer", started.end - last(calls, "CreateContainer").begin);
    add("RunPodSandbox to ready", started.end - sandbox.begin);
    add("RunPodSandbox to first output", output - sandbox.begin);
    // Of all numbers these depend least on what else runs here.
    const { shim, others } = podProcesses(world.namespace.path("/proc"), pod.id);
    add("CPU time to first output: shim", shim?.cpu ?? Number.NaN);
    add(
      "CPU time to first output: machine, or the rest",
      others.reduce((sum, { cpu }) => sum + cpu, 0),
    );
    if (events !== undefined) await addStages(world, pod.id, sandbox, events);

    const second = performance.now();
    await pod.startContainer("second");
    add("second container: CreateContainer", lengthOf(last(calls, "CreateContainer")));
    add("second container: StartContainer", lengthOf(last(calls, "StartContainer")));
    add("second container: first output", (await firstOutput(pod, "second")) - second);
    for (let i = 0; i < EXECS; i++) {
      const { exitCode } = await pod.exec(["true"], "first");
      if (exitCode !== 0) throw new Error(`true ended with ${exitCode}`);
      add("ExecSync of true", lengthOf(last(calls, "ExecSync")));
    }
    const memory = podMemory(world.namespace.path("/proc"), pod.id);
    add("memory: shim, MiB", memory.shim);
    add("memory: machine, or all processes, MiB", memory.rest);
    add("memory: all, MiB", memory.shim + memory.rest);
    add("memory: of that the pod's alone, MiB", memory.own);
    const before = calls.length;
    const begin = performance.now();
    // Nothing in it waits for a signal: containers are killed.
    await pod.remove(0);
    const removal = calls.slice(before);
    add("StopPodSandbox", lengthOf(removal.find(({ name }) => name === "StopPodSandbox") ?? last(calls, "StopPodSandbox")));
    add("RemovePodSandbox", lengthOf(last(removal, "RemovePodSandbox")));
    add("all of it stopped and removed", last(removal, "RemovePodSandbox").end - begin);
    return started.end - sandbox.begin;
  } finally {
    await pod.remove(0);
  }
}

/** Where the time of a machine's RunPodSandbox goes, as far as it is seen from outside. */
async function addStages(world: ContainerdWorld, pod: string, sandbox: Call, events: PodEvents): Promise<void> {
  const { shim, others } = podProcesses(world.namespace.path("/proc"), pod);
  const qemu = others.find(({ command }) => command.includes("qemu-system"));
  if (shim === undefined || qemu === undefined) throw new Error(`pod ${pod} has no shim or no QEMU`);
  const marks: readonly (readonly [string, number])[] = [
    ["CNI, snapshot, bundle, launcher", shim.started],
    ["Node starts, configuration, taps, processor", qemu.started],
    ["QEMU starts to the pause container made", await events.find("/tasks/create", pod)],
    ["pause container started", await events.find("/tasks/start", pod)],
    ["answered", performance.timeOrigin + sandbox.end],
  ];
  let before = performance.timeOrigin + sandbox.begin;
  for (const [name, at] of marks) {
    stages.set(name, [...(stages.get(name) ?? []), at - before]);
    before = at;
  }
}

/** What several pods took that were started at the same time. */
interface AtOnce {
  readonly runtime: Runtime;
  readonly first: number;
  readonly all: number;
  readonly memory: number;
  readonly removed: number;
}

async function podsAtOnce(world: ContainerdWorld, yaml: string, runtime: Runtime): Promise<AtOnce> {
  const begin = performance.now();
  const since = (): number => performance.now() - begin;
  let first = Number.POSITIVE_INFINITY;
  const running = Array.from({ length: atOnce }, async () => {
    const pod = await runPod(world, yaml, { handler: RUNTIMES[runtime], start: ["first"] });
    await firstOutput(pod, "first");
    first = Math.min(first, since());
    return pod;
  });
  const ends = await Promise.allSettled(running);
  const all = since();
  const pods = ends.flatMap((end) => (end.status === "fulfilled" ? [end.value] : []));
  try {
    const failed = ends.find((end) => end.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    const memory = pods.map(({ id }) => podMemory(world.namespace.path("/proc"), id)).reduce((sum, { shim, rest }) => sum + shim + rest, 0);
    const removal = performance.now();
    await Promise.all(pods.map((pod) => pod.remove(0)));
    return { runtime, first, all, memory, removed: performance.now() - removal };
  } finally {
    await Promise.allSettled(pods.map((pod) => pod.remove(0)));
  }
}

function note(what: string, runtime: Runtime, value: number): void {
  const row = measured.get(what) ?? new Map<Runtime, number[]>();
  measured.set(what, row);
  row.set(runtime, [...(row.get(runtime) ?? []), value]);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? Number.NaN;
}

function say(line: string): void {
  process.stdout.write(`${line.trimEnd()}\n`);
}

function load(): string {
  return `load ${loadavg()
    .map((value) => value.toFixed(1))
    .join(" ")}`;
}

/** Text in the columns of the report. */
function row(name: string, ...cells: readonly string[]): string {
  return `${name.padEnd(47)}${cells.map((cell) => cell.padStart(13)).join("")}`;
}

function reportRounds(): void {
  const bare = median(bareBoots);
  const range = (values: readonly number[]): string => `${Math.min(...values).toFixed(0)} to ${Math.max(...values).toFixed(0)}`;
  say(
    `\n${rounds} rounds, medians in ms unless it says MiB; containerd ${flags.containerd}, machines of ${memoryMiB} MiB; ${availableParallelism()} cores, ${load()}`,
  );
  say(`bare boot of the same kernel: ${bare.toFixed(0)} (${range(bareBoots)})\n`);
  say(row("", "runc", "process", "machine", "/ runc", "/ bare boot") + "   machine: least to most");
  for (const [what, values] of measured) {
    const of = (runtime: Runtime): number => median(values.get(runtime) ?? []);
    const isMemory = what.endsWith("MiB");
    const cells = [...RUNTIME_NAMES.map((runtime) => of(runtime).toFixed(isMemory ? 1 : 0)), (of("machine") / of("runc")).toFixed(2)];
    say(`${row(what, ...cells, isMemory ? "" : (of("machine") / bare).toFixed(2))}   ${range(values.get("machine") ?? [])}`);
  }
  say("\nRunPodSandbox of machines");
  for (const [name, values] of stages) say(`${row(name, "", "", median(values).toFixed(0), "", (median(values) / bare).toFixed(2))}   ${range(values)}`);
}

function reportAtOnce(results: readonly AtOnce[]): void {
  if (results.length === 0) return;
  const bare = median(bareBoots);
  say(`\n${atOnce} pods at once; ${load()}`);
  say(row("", ...results.map(({ runtime }) => runtime), "/ runc", "/ bare boot"));
  const line = (name: string, isTime: boolean, value: (result: AtOnce) => number): void => {
    const values = results.map(value);
    const [least = Number.NaN, most = Number.NaN] = [values[0], values.at(-1)];
    say(row(name, ...values.map((each) => each.toFixed(0)), (most / least).toFixed(2), isTime ? (most / bare).toFixed(2) : ""));
  };
  line("first output of the first, ms", true, ({ first }) => first);
  line("first output of all, ms", true, ({ all }) => all);
  line("memory of all, MiB", false, ({ memory }) => memory);
  line("all of them stopped and removed, ms", true, ({ removed }) => removed);
}
