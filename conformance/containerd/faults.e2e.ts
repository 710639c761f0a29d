import { ALLOW_ALL, noVm } from "@sealpod/machine/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  descendant,
  endContainerd,
  Events,
  familyOf,
  gone,
  kill,
  mountSmall,
  notReady,
  podInterfaces,
  resizeSmall,
  sandboxState,
  shimOf,
  unmountSmall,
  waitingPod,
  waitingProcess,
} from "./faults-node.ts";
import { IMAGES, noShim, noWorld, openContainerdWorld, runPod, shimHandler, skippedWorld, until } from "./test-support.ts";
import type { ContainerdVersion, ContainerdWorld, KubePod, PodOptions } from "./test-support.ts";

// What breaks on a node: programs that are killed, disks that are full, readers that do not read. Each on one line of containerd, in turns.

const POLICY = Buffer.from(ALLOW_ALL).toString("base64");
const ANNOTATIONS = { "io.katacontainers.config.agent.policy": POLICY };

/** Pods without a machine, and in one. */
const PROCESS = { handler: "kata-cc", annotations: ANNOTATIONS } as const;
const MACHINE = { handler: "kata-cc-isolation", annotations: ANNOTATIONS } as const;

/** Milliseconds for one pod in a machine: emulated, on a busy host. */
const VM_TIMEOUT = 240_000;

/** Arguments of `ctr run` before the image. */
const CTR_RUN = ["run", "--rm", "--runtime", "io.containerd.kata-cc.v2", "--annotation", `io.katacontainers.config.agent.policy=${POLICY}`];

const AGENT = /^\S*node .*agent\.mjs/;
const QEMU = /qemu-system/;

function onContainerd(version: ContainerdVersion, define: (world: () => ContainerdWorld) => void): void {
  const reason = noWorld(version) ?? noShim;
  describe.skipIf(reason !== undefined)(`faults on containerd ${version}${noShim === undefined ? skippedWorld(version) : ` (skipped: ${noShim})`}`, () => {
    let world: ContainerdWorld;

    beforeAll(async () => {
      world = await openContainerdWorld({
        version,
        handlers: { "kata-cc": shimHandler("process"), "kata-cc-isolation": shimHandler("vm") },
      });
    });

    afterAll(async () => {
      await world?.[Symbol.asyncDispose]();
    });

    define(() => world);
  });
}

const inMachine = (title: string, run: () => Promise<void>): void =>
  it.skipIf(noVm !== undefined)(`${title}${noVm === undefined ? "" : ` (skipped: ${noVm})`}`, run, VM_TIMEOUT);

/** Does something with a pod, removes it, and looks whether anything is left. */
async function inPod(world: ContainerdWorld, yaml: string, options: PodOptions, run: (pod: KubePod) => Promise<void>): Promise<void> {
  {
    await using pod = await runPod(world, yaml, options);
    await run(pod);
  }
  expect(await world.leaks()).toEqual([]);
}

/** The shim is killed: containerd calls its `delete`, which is the only one to clean up. */
async function killShim(world: ContainerdWorld, pod: KubePod): Promise<void> {
  await Promise.all(["first", "second"].map((name) => pod.logged("up", name)));
  const shim = shimOf(world, pod.id);
  const family = familyOf(world, shim.pid);
  expect(family.length).toBeGreaterThan(1);
  await kill(world, "KILL", shim.pid);
  await gone(world, family);
  for (const name of ["first", "second"]) expect(await pod.exited(name), name).not.toBe(0);
  await notReady(world, pod);
  // Before anybody removes the pod.
  const left = async (): Promise<void> => {
    const traces = (await world.leaks(0)).filter((trace) => /^file \/run\/(sealpod\/|containerd\/s\/)|^process /.test(trace));
    expect(traces.filter((trace) => !/^process (ctr|nsenter|ip) /.test(trace))).toEqual([]);
    expect(await podInterfaces(world)).toEqual(["eth0", "lo"]);
  };
  await until(left);
  await expect(pod.exec(["true"], "first")).rejects.toThrow();
}

/** What runs the containers is killed: each of them has ended, and so has the pod. */
async function killInside(world: ContainerdWorld, pod: KubePod, victim: RegExp): Promise<void> {
  const shim = shimOf(world, pod.id);
  const family = familyOf(world, shim.pid).filter(({ pid }) => pid !== shim.pid);
  const hanging = pod.exec(["sleep", "1000"], "first").catch((error: unknown) => String(error));
  await until(async () => expect((await pod.exec(["ps"], "first")).stdout).toMatch(/sleep 1000$/m));
  await using events = await Events.follow(world);
  await kill(world, "KILL", descendant(world, shim.pid, victim).pid);
  expect(await pod.exited("first")).toBe(137);
  expect(await pod.exited("second")).toBe(137);
  await notReady(world, pod);
  expect(typeof (await hanging)).not.toBe("undefined");
  for (const id of [pod.id, ...pod.containers.values()]) await until(() => expect(events.of(id)).toContain("exit 137"));
  await until(() => expect(endings(world)).toEqual([expect.objectContaining({ level: 50, msg: expect.stringMatching(/SIGKILL|exit code/) as string })]));
  await gone(world, family);
  expect(await podInterfaces(world)).toEqual(["eth0", "lo"]);
  await expect(pod.exec(["true"], "first")).rejects.toThrow();
}

/** What shims have logged of the ends of machines that nobody asked for. */
function endings(world: ContainerdWorld): readonly unknown[] {
  const lines = world.log().split("\n");
  const logged = lines.filter((line) => line.startsWith("{") && line.includes("the pod's machine has ended"));
  return logged.map((line): unknown => JSON.parse(line)).filter((line) => (line as { readonly level: number }).level >= 50);
}

/** A pod runs, and goes without a trace. */
async function worksAgain(world: ContainerdWorld, name: string): Promise<void> {
  await using pod = await runPod(world, waitingPod(name, ["only"]), PROCESS);
  expect(await pod.exec(["echo", "works"])).toMatchObject({ exitCode: 0, stdout: "works\n" });
}

onContainerd("1.6", (world) => {
  it("a killed shim's pod is shown as ended, and nothing of it is left", () =>
    inPod(world(), waitingPod("orphan", ["first", "second"]), PROCESS, (pod) => killShim(world(), pod)));

  it("a killed agent ends each container with 137, and the pod", () =>
    inPod(world(), waitingPod("beheaded", ["first", "second"]), PROCESS, (pod) => killInside(world(), pod, AGENT)));

  it("output that nobody reads stalls its own container alone", () => stallOutput(world()));

  it("says that the disk of layers is full, and works again once there is room", async () => {
    const layers = "/var/lib/sealpod/layers";
    await world().inside("rm", "-rf", layers);
    await mountSmall(world(), layers, 256);
    try {
      await expect(worksAgain(world(), "no-layers")).rejects.toThrow(/no space left on device|ENOSPC/i);
      // No layer, and no part of one.
      expect(await world().inside("find", layers, "-type", "f", "-size", "+0", "!", "-name", ".swept-*")).toBe("");
      await resizeSmall(world(), layers, 64 * 1024);
      await worksAgain(world(), "layers");
    } finally {
      await unmountSmall(world(), layers);
    }
    expect(await world().leaks()).toEqual([]);
  });

  inMachine("a killed shim's machine ends with it, and its taps go", () =>
    inPod(world(), waitingPod("orphan", ["first", "second"]), MACHINE, (pod) => killShim(world(), pod)),
  );
});

onContainerd("1.7", (world) => {
  it("pods and execs go on while containerd is gone, and what ended meanwhile is told", () =>
    inPod(world(), waitingPod("survivor", ["first", "second"]), PROCESS, (pod) => outliveContainerd(world(), pod)));

  it("input that never ends holds up no end", () => endlessInput(world()));

  it("says that the pods' own directory is full, at whatever it writes there, and works again", async () => {
    const pods = "/run/sealpod/pods";
    await mountSmall(world(), pods, 64);
    try {
      await growUntilItWorks(world(), pods, "pods");
    } finally {
      await unmountSmall(world(), pods);
    }
    expect(await world().leaks()).toEqual([]);
  });

  it("says that the directory of containerd's tasks is full, at whatever is written there, and works again", async () => {
    const tasks = "/run/containerd/io.containerd.runtime.v2.task";
    await mountSmall(world(), tasks, 64);
    try {
      await growUntilItWorks(world(), tasks, "tasks");
    } finally {
      await unmountSmall(world(), tasks);
    }
    expect(await world().leaks()).toEqual([]);
  });

  it("works again when containerd's own disk was full", () => fillContainerd(world()));

  inMachine("a killed QEMU ends each container with 137, and the pod, also under another containerd", () =>
    inPod(world(), waitingPod("unplugged", ["first", "second"]), MACHINE, async (pod) => {
      await world().restart("SIGKILL");
      expect(await pod.exec(["echo", "still here"], "second")).toMatchObject({ exitCode: 0, stdout: "still here\n" });
      await killInside(world(), pod, QEMU);
    }),
  );
});

async function outliveContainerd(world: ContainerdWorld, pod: KubePod): Promise<void> {
  await Promise.all(["first", "second"].map((name) => pod.logged("up", name)));
  const streams = await pod.execStream(["sh", "-c", "echo on; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo went on >/tmp/done"], {}, "first");
  await streams.wrote("on");
  await endContainerd(world);
  const second = waitingProcess(world, "survivor", "second");
  await kill(world, "USR1", second.pid);
  await gone(world, [second]);
  await world.restart();
  expect(await pod.exited("second")).toBe(5);
  expect(await sandboxState(world, pod)).toBe("ready");
  await pod.exec(["touch", "/tmp/go"], "first");
  await until(async () => expect(await pod.exec(["cat", "/tmp/done"], "first")).toMatchObject({ exitCode: 0, stdout: "went on\n" }));
  await pod.exec(["sh", "-c", "echo said later >/proc/1/fd/1"], "first");
  await pod.logged("said later", "first");
  await using events = await Events.follow(world);
  await kill(world, "USR1", waitingProcess(world, "survivor", "first").pid);
  expect(await pod.exited("first")).toBe(5);
  await pod.logged("last words", "first");
  // Those of the commands above may still come: the shim has kept them.
  await until(() => expect(events.of(pod.container("first")).slice(-2)).toEqual(["exit 5", "delete"]));
}

/** Bytes that a container can write before it stalls: pipes on the way hold 64 KiB each, programs a little more; what grows without end is more than that. */
const MOST_STALLED = 8 * 1024 * 1024;

async function stallOutput(world: ContainerdWorld): Promise<void> {
  const uid = "5a1e0000-0000-4000-8000-000000000001";
  const yaml = `
apiVersion: v1
kind: Pod
metadata: { name: stalled, uid: ${uid} }
spec:
  containers:
    - name: endless
      image: ${IMAGES.busybox}
      command: [sh, -c, 'while :; do dd if=/dev/zero bs=4096 count=16 2>/dev/null; echo >>/tmp/written; done']
    - name: other
      image: ${IMAGES.busybox}
      command: [sh, -c, 'echo up; exec sleep 1000']
`;
  // containerd writes the log into a pipe: it stalls as well, and no longer reads what comes from the shim.
  const log = `/var/log/pods/default_stalled_${uid}/endless/0.log`;
  await world.inside("sh", "-c", 'mkdir -p "${1%/*}" && mkfifo "$1"', "sh", log);
  const reader = world.namespace.spawn(["sh", "-c", 'exec 3<>"$1"; echo open; read line; exec 4<"$1" 3>&-; exec cat <&4 >/dev/null', "sh", log]);
  try {
    await reader.wrote("open");
    await inPod(world, yaml, PROCESS, async (pod) => {
      await killStalled(world, pod);
      // Now somebody reads, so that containerd gets on.
      reader.child.stdin?.write("\n");
      expect(await pod.exited("endless")).toBe(137);
      await reader.exited;
    });
  } finally {
    reader.signal("SIGKILL");
  }
}

async function killStalled(world: ContainerdWorld, pod: KubePod): Promise<void> {
  const written = async (): Promise<number> => {
    const { stdout } = await pod.exec(["sh", "-c", "cat /tmp/written | wc -l"], "endless");
    return Number(stdout) * 65_536;
  };
  const before = { bytes: -1 };
  await until(async () => {
    const bytes = await written();
    const same = bytes === before.bytes;
    before.bytes = bytes;
    expect(same, `it has written ${bytes} bytes and goes on`).toBe(true);
  });
  expect(before.bytes).toBeLessThan(MOST_STALLED);
  // It is stuck, and nothing else is.
  expect(await pod.exec(["echo", "inside"], "endless")).toMatchObject({ exitCode: 0, stdout: "inside\n" });
  await pod.logged("up", "other");
  expect(await pod.exec(["echo", "beside"], "other")).toMatchObject({ exitCode: 0, stdout: "beside\n" });
  const metrics = await world.ctr("--namespace", "k8s.io", "tasks", "metrics", pod.container("endless"));
  expect(metrics).toMatchObject({ status: 0 });
  await pod.stopContainer("other", 0);
  expect(await pod.exited("other")).toBe(137);
  expect(await written()).toBe(before.bytes);

  await using events = await Events.follow(world);
  expect(await world.ctr("--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", pod.container("endless"))).toMatchObject({ status: 0 });
  await until(() => expect(events.of(pod.container("endless"))).toContain("exit 137"));
  const tasks = await world.ctr("--namespace", "k8s.io", "tasks", "ls");
  expect(tasks.stdout).toMatch(new RegExp(`^${pod.container("endless")}\\s+\\d+\\s+STOPPED$`, "m"));
}

async function endlessInput(world: ContainerdWorld): Promise<void> {
  const { startCtr } = world;
  // Its writer stays, and says nothing.
  const silent = startCtr(...CTR_RUN, IMAGES.busybox, "silent", "sh", "-c", "exit 4");
  // Its writer says more than anybody reads.
  const deaf = startCtr(...CTR_RUN, IMAGES.busybox, "deaf", "sh", "-c", "echo up; exec sleep 1000");
  await deaf.wrote("up");
  deaf.child.stdin?.write(Buffer.alloc(4 * 1024 * 1024));
  expect(await silent.exited).toBe(4);
  const exec = startCtr("tasks", "exec", "--exec-id", "one", "deaf", "sh", "-c", "exit 6");
  expect(await exec.exited).toBe(6);
  await world.ctr("tasks", "kill", "--signal", "SIGKILL", "deaf");
  expect(await deaf.exited).toBe(137);
  expect(await world.leaks()).toEqual([]);
}

/** Waits until a mount is all that is left. */
function nothingBut(world: ContainerdWorld, mount: string): Promise<void> {
  // What is below it was looked at by the caller: of what is mounted on a directory for pods each file counts as left.
  const path = mount.slice("mount ".length);
  return until(async () => expect((await world.leaks(0)).filter((trace) => trace !== mount && !trace.startsWith(`file ${path}/`))).toEqual([]));
}

/** Kilobytes by which a disk grows: a page, the least that a file takes. */
const STEP = 4;

/** Tries to run a pod on a file system that is full, then has room for one page, for two… until it does. */
async function growUntilItWorks(world: ContainerdWorld, path: string, name: string): Promise<void> {
  await world.inside("sh", "-c", 'dd if=/dev/zero of="$1/filler" bs=4096 2>/dev/null || true', "sh", path);
  let failures = 0;
  for (let kilobytes = 64; ; kilobytes += STEP) {
    await resizeSmall(world, path, kilobytes);
    const outcome = await worksAgain(world, `${name}-${kilobytes}`).then(
      () => undefined,
      (error: unknown) => String(error),
    );
    if (outcome === undefined) break;
    failures++;
    expect(outcome).toMatch(/no space left on device|ENOSPC|cannot write the address/i);
    // Each failure leaves nothing but the filler.
    expect(await world.inside("find", path, "-type", "f")).toBe(`${path}/filler\n`);
    await nothingBut(world, `mount ${path}`);
    expect(kilobytes, "it never works").toBeLessThan(256);
  }
  expect(failures).toBeGreaterThan(0);
}

async function fillContainerd(world: ContainerdWorld): Promise<void> {
  const root = "/var/lib/containerd";
  await endContainerd(world);
  await mountSmall(world, "/run/small", 64 * 1024);
  await world.inside("sh", "-c", `cp -a ${root}/. /run/small && busybox mount --move /run/small ${root} && rmdir /run/small`);
  try {
    await world.restart();
    await world.inside("sh", "-c", 'dd if=/dev/zero of="$1/filler" bs=4096 2>/dev/null || true', "sh", root);
    await expect(worksAgain(world, "no-room")).rejects.toThrow(/no space left on device/i);
    await world.inside("rm", `${root}/filler`);
    await worksAgain(world, "room");
    await nothingBut(world, `mount ${root}`);
  } finally {
    await endContainerd(world);
    await unmountSmall(world, root);
    await world.restart();
  }
  expect(await world.leaks()).toEqual([]);
}
