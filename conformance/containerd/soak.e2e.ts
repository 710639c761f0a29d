import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { ALLOW_ALL, noVm } from "@sealpod/machine/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { daemonOf, descriptorsOf, waitingPod } from "./faults-node.ts";
import { noShim, noWorld, openContainerdWorld, runPod, shimHandler, skippedWorld, until } from "./test-support.ts";
import type { ContainerdWorld } from "./test-support.ts";

// Many pods, one after another: a node runs for months, and what each pod leaves adds up.

/** Pods as processes; the number that SEALPOD_SOAK gives, e.g. 200, in place of what `npm test` has time for. */
const PODS = Number(process.env["SEALPOD_SOAK"] ?? 15);

/** Pods in machines beside them, and only where somebody asked for many. */
const MACHINES = process.env["SEALPOD_SOAK"] === undefined ? 0 : Math.ceil(PODS / 25);

/** Pods before the first look: containerd opens what it keeps, and its heap grows to its size. */
const WARM = 3;

/** Milliseconds for a pod, and for one in a machine, on a busy host. */
const POD_TIMEOUT = 20_000;
const VM_TIMEOUT = 240_000;

/** Descriptors that are open or closed at any moment, because a garbage collector or a keep-alive timer will close them. */
const FEW = 4;

/** Kilobytes by which containerd may have grown whatever ran: a garbage collector gives back what it likes. */
const HEAP = 24 * 1024;

/** Kilobytes of containerd per pod that nobody would find in a month of pods; a leaked goroutine with its buffers has more. */
const HEAP_PER_POD = 16;

const ANNOTATIONS = { "io.katacontainers.config.agent.policy": Buffer.from(ALLOW_ALL).toString("base64") };

/** What a node has of things that pods bring; the same before and after them. */
interface Inventory {
  /** What {@link ContainerdWorld.leaks} does not look at: containerd's own files and the shim's, and what its database knows. */
  readonly things: readonly string[];
  /** Open in containerd, and in the test with the emulated processor. */
  readonly descriptors: readonly [number, number];
  /** Network namespaces that something in the world is in or holds open. */
  readonly networks: number;
  /** Resident kilobytes of containerd. */
  readonly kilobytes: number;
}

async function inventory(world: ContainerdWorld): Promise<Inventory> {
  const daemon = daemonOf(world);
  const lists = [
    ["containers", "ls", "-q"],
    ["tasks", "ls", "-q"],
    ["snapshots", "ls"],
    ["leases", "ls", "-q"],
    ["content", "ls", "-q"],
  ];
  const known: string[] = [];
  for (const list of lists) {
    const { stdout } = await world.ctr("--namespace", "k8s.io", ...list);
    // What an image's layers became stays, and its names tell which; a snapshot of a pod does not.
    known.push(...stdout.split("\n").map((line) => `${list[0] ?? ""} ${line.trim()}`));
  }
  const roots = ["/var/lib/containerd", "/var/lib/sealpod", "/var/lib/kubelet", "/var/log", "/run/sealpod"];
  const files = roots.flatMap((root) => directoriesBelow(world.namespace.path(root), root));
  const guests = readdirSync(join(world.directory, "guests")).map((name) => `guest ${name}`);
  const status = readFileSync(world.namespace.path(`/proc/${daemon.pid}/status`), "latin1");
  return {
    things: [...known, ...files, ...guests].toSorted(),
    descriptors: [descriptorsOf(world, daemon.pid).length, readdirSync("/proc/self/fd").length],
    networks: networksOf(world).size,
    kilobytes: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]),
  };
}

/** Everything below a directory, but for what is in the layers' file systems. */
function directoriesBelow(directory: string, name: string): readonly string[] {
  let entries;
  try {
    entries = readdirSync(directory, { withFileTypes: true });
  } catch {
    return [];
  }
  return entries.flatMap((entry) => {
    const [path, label] = [join(directory, entry.name), `${name}/${entry.name}`];
    return entry.isDirectory() && !/\/snapshots\/\d+$/.test(label) ? [label, ...directoriesBelow(path, label)] : [label];
  });
}

function networksOf(world: ContainerdWorld): ReadonlySet<string> {
  const proc = world.namespace.path("/proc");
  const networks = new Set<string>();
  for (const pid of readdirSync(proc).filter((name) => /^\d+$/.test(name))) {
    try {
      networks.add(readlinkSync(join(proc, pid, "ns/net")));
      for (const path of descriptorsOf(world, Number(pid))) if (path.startsWith("net:")) networks.add(path);
    } catch {
      // It has ended meanwhile.
    }
  }
  return networks;
}

/** Runs pods one after another and compares what there is before and after. */
async function soak(world: ContainerdWorld, handler: string, count: number): Promise<void> {
  let serial = 0;
  const run = async (pods: number): Promise<void> => {
    for (let i = 0; i < pods; i++) {
      await using pod = await runPod(world, waitingPod(`${handler}-${serial++}`, ["only"]), { handler, annotations: ANNOTATIONS });
      expect(await pod.exec(["echo", "works"])).toMatchObject({ exitCode: 0, stdout: "works\n" });
    }
  };
  await run(Math.min(WARM, count));
  expect(await world.leaks()).toEqual([]);
  const before = await inventory(world);
  await run(count - Math.min(WARM, count));
  expect(await world.leaks()).toEqual([]);
  await until(async () => {
    const after = await inventory(world);
    // What was there for a moment when the first ones were counted may be gone.
    const known = new Set(before.things);
    expect(after.things.filter((thing) => !known.has(thing))).toEqual([]);
    expect(after.networks).toBe(before.networks);
    for (const [i, descriptors] of after.descriptors.entries()) expect(descriptors).toBeLessThanOrEqual((before.descriptors[i] ?? 0) + FEW);
  }, 30_000);
  expect((await inventory(world)).kilobytes - before.kilobytes).toBeLessThan(HEAP + count * HEAP_PER_POD);
}

const reason = noWorld("1.7") ?? noShim;
describe.skipIf(reason !== undefined)(`pods one after another on containerd 1.7${noShim === undefined ? skippedWorld("1.7") : ` (skipped: ${noShim})`}`, () => {
  let world: ContainerdWorld;

  beforeAll(async () => {
    world = await openContainerdWorld({ version: "1.7", handlers: { process: shimHandler("process"), machine: shimHandler("vm") } });
  });

  afterAll(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  it(`leave nothing of ${PODS} pods as processes`, () => soak(world, "process", PODS), PODS * POD_TIMEOUT);

  it.skipIf(noVm !== undefined || MACHINES === 0)(
    `leave nothing of ${MACHINES} pods in machines (skipped unless SEALPOD_SOAK gives a number${noVm === undefined ? "" : `; ${noVm}`})`,
    () => soak(world, "machine", MACHINES),
    Math.max(MACHINES, 1) * VM_TIMEOUT,
  );
});
