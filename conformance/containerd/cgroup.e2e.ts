import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ALLOW_ALL, noVm } from "@sealpod/machine/testing";
import { criApi } from "@sealpod/proto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { processesOf } from "./faults-node.ts";
import { ONE } from "./pod-cases.ts";
import { noShim, noWorld, openContainerdWorld, runPod, shimHandler, skippedWorld } from "./test-support.ts";
import type { ContainerdWorld, KubePod } from "./test-support.ts";

// What the node counts a pod as, with sandbox_cgroup_only and without: the cgroup of its processes, and how readily the kernel ends them.

const METHODS = criApi.RuntimeService.method;
const ALLOWED = { "io.katacontainers.config.agent.policy": Buffer.from(ALLOW_ALL).toString("base64") };

/** Milliseconds for one pod in a machine: emulated, on a busy host. */
const VM_TIMEOUT = 240_000;

const COUNTED = { runtime: { sandbox_cgroup_only: true } };
const reason = noWorld("1.7") ?? noShim;

/** Hierarchies of version 1 here, by name; where there is version 2 alone, that. */
function hierarchies(): readonly string[] {
  const root = "/sys/fs/cgroup";
  if (existsSync(join(root, "cgroup.controllers"))) return [root];
  return readdirSync(root)
    .map((name) => join(root, name))
    .filter((path) => existsSync(join(path, "cgroup.procs")));
}

describe.skipIf(reason !== undefined)(`what a pod counts as${noShim === undefined ? skippedWorld("1.7") : ` (skipped: ${noShim})`}`, () => {
  let world: ContainerdWorld;

  beforeAll(async () => {
    world = await openContainerdWorld({
      version: "1.7",
      handlers: {
        counted: shimHandler("process", COUNTED),
        uncounted: shimHandler("process"),
        machine: shimHandler("vm", { ...COUNTED, hypervisor: { default_memory: 512 } }),
      },
    });
  });

  afterAll(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  /** Process ids in the pod's cgroup of a hierarchy and in those below it, as the test's own namespace of processes has them. */
  const inCgroup = (hierarchy: string, pod: KubePod): readonly string[] => {
    const root = join(hierarchy, world.cgroup, `pod${pod.uid}`);
    if (!existsSync(root)) return [];
    const below = readdirSync(root, { withFileTypes: true, recursive: true }).filter((entry) => entry.isDirectory());
    const paths = [root, ...below.map((entry) => join(entry.parentPath, entry.name))];
    return paths.flatMap((path) => readFileSync(join(path, "cgroup.procs"), "utf8").match(/\d+/g) ?? []);
  };
  const commands = (pids: readonly string[]): string => pids.map((pid) => readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ")).join("\n");
  const usage = async (pod: KubePod): Promise<bigint> => {
    const { stats } = await world.cri(METHODS.podSandboxStats, { podSandboxId: pod.id });
    return stats?.linux?.memory?.usageBytes?.value ?? 0n;
  };
  const memory = (): string => hierarchies().find((path) => path.endsWith("/memory")) ?? hierarchies()[0] ?? "";

  /** One after the other: a pod that is counted, and nothing of it afterwards. */
  async function counted(handler: string, program: RegExp): Promise<void> {
    {
      await using pod = await runPod(world, ONE, { handler, annotations: ALLOWED });
      const found = commands(inCgroup(memory(), pod));
      expect(found).toMatch(/shim.* serve/);
      expect(found).toMatch(program);
      for (const name of ["cpu", "pids"]) {
        const hierarchy = hierarchies().find((path) => path.endsWith(`/${name}`));
        if (hierarchy !== undefined) expect(commands(inCgroup(hierarchy, pod)), name).toMatch(program);
      }
      expect(await usage(pod)).toBeGreaterThan(0n);
    }
    // The cgroup, too: nobody was in it any more when the kubelet's part removed it.
    expect(await world.leaks()).toEqual([]);
  }

  it("is in the pod's cgroup with its agent, and out of it when the pod ends", () => counted("counted", /agent\.mjs/));

  it.skipIf(noVm !== undefined)(
    `is in the pod's cgroup with its machine${noVm === undefined ? "" : ` (skipped: ${noVm})`}`,
    () => counted("machine", /qemu-system/),
    VM_TIMEOUT,
  );

  it("is where the shim was started if it is not to be counted", async () => {
    await using pod = await runPod(world, ONE, { handler: "uncounted", annotations: ALLOWED });
    expect(inCgroup(memory(), pod)).toEqual([]);
    expect(await usage(pod)).toBe(0n);
  });

  it("is cleaned up after when the shim is killed", async () => {
    {
      await using pod = await runPod(world, ONE, { handler: "counted", annotations: ALLOWED });
      const [shim] = processesOf(world).filter(({ command }) => command.includes(` -id ${pod.id} `) && command.endsWith(" serve"));
      await world.inside("kill", "-9", String(shim?.pid ?? "no shim"));
      expect(await pod.exited("web")).not.toBe(0);
    }
    expect(await world.leaks()).toEqual([]);
  });

  it("is ended as readily as its containers when memory is short", async () => {
    const yaml = ONE.replace(/resources:.*/, "");
    await using pod = await runPod(world, yaml, { handler: "counted", annotations: ALLOWED });
    // Without limits and requests the kubelet says 1000.
    const { info } = await world.cri(METHODS.containerStatus, { containerId: pod.containers.get("web") ?? "", verbose: true });
    const spec = JSON.parse(info["info"] ?? "{}") as { runtimeSpec: { process: { oomScoreAdj: number } } };
    const expected = String(spec.runtimeSpec.process.oomScoreAdj);
    const scores = inCgroup(memory(), pod)
      .filter((pid) => /shim|agent\.mjs/.test(readFileSync(`/proc/${pid}/cmdline`, "latin1")))
      .map((pid) => readFileSync(`/proc/${pid}/oom_score_adj`, "latin1").trim());
    expect(scores.length).toBeGreaterThan(1);
    expect(new Set(scores)).toEqual(new Set([expected]));
  });
});
