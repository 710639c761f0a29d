import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { encodeUtf8, type LogFields } from "@sealpod/core";
import {
  create,
  CreateContainerRequestSchema,
  CreateSandboxRequestSchema,
  ExecProcessRequestSchema,
  LinuxResourcesSchema,
  type MessageInitShape,
  type SpecSchema,
} from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { directoryDevices } from "./block-devices.ts";
import { guestPaths } from "./paths.ts";
import { Sandbox, type SandboxPorts } from "./sandbox.ts";
import { errorOf, FakeCgroups, FakeRuntime, FakeSystem, inTemporaryDirectory, NO_LIMITS, rootStorages } from "./test-support.ts";

type SpecInit = Exclude<MessageInitShape<typeof SpecSchema>, { readonly $typeName: string }>;
type RequestInit = Exclude<MessageInitShape<typeof CreateContainerRequestSchema>, { readonly $typeName: string }>;

interface Setup {
  readonly root: string;
  readonly sandbox: Sandbox;
  readonly runtime: FakeRuntime;
  readonly cgroups: FakeCgroups;
  readonly log: { readonly message: string; readonly fields: LogFields | undefined }[];
  /** Makes a container with a root of one layer. */
  readonly container: (id: string, spec?: SpecInit, request?: RequestInit) => Promise<void>;
  readonly exec: (id: string, execId: string, process?: SpecInit["Process"]) => Promise<void>;
}

const PROCESS = { User: { UID: 0 }, Args: ["/bin/sh"], Cwd: "/" };

async function withSandbox(use: (setup: Setup) => Promise<void>, ports: Partial<SandboxPorts> = {}): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const [root, runtime, cgroups] = [`${path}/guest`, new FakeRuntime(), new FakeCgroups()];
    const log: Setup["log"] = [];
    mkdirSync(`${path}/devices`);
    const sandbox = new Sandbox({
      paths: guestPaths(root),
      disks: directoryDevices(`${path}/devices`),
      guestInfo: `${path}/info`,
      system: new FakeSystem(),
      runtime,
      limits: NO_LIMITS,
      cgroups,
      logger: { log: (_level, message, fields) => void log.push({ message, fields }) },
      ...ports,
    });
    await sandbox.create(create(CreateSandboxRequestSchema, { sandboxId: "s1" }));
    try {
      await use({
        root,
        sandbox,
        runtime,
        cgroups,
        log,
        container(id, spec = {}, request = {}) {
          const mountPoint = `${root}/shared/containers/${id}`;
          return sandbox.createContainer(
            create(CreateContainerRequestSchema, {
              containerId: id,
              storages: rootStorages(root, id),
              OCI: { Process: PROCESS, Root: { Path: mountPoint }, Linux: {}, ...spec },
              ...request,
            }),
          );
        },
        exec: (containerId, execId, process = PROCESS) => sandbox.exec(create(ExecProcessRequestSchema, { containerId, execId, process })),
      });
    } finally {
      await sandbox.destroy();
    }
  });
}

const codeOf = async (call: () => unknown): Promise<string> => (await errorOf(call)).code;

describe("control groups of a sandbox", () => {
  it("are made with the container, given to the runtime, and removed with the container", () =>
    withSandbox(async ({ sandbox, runtime, cgroups, container }) => {
      await container("c1", { Linux: { CgroupsPath: "/kubepods/elsewhere" } });
      const group = cgroups.groups.get("c1");
      expect(runtime.created[0]?.group).toBe(group);
      expect(runtime.created[0]?.spec["linux"]).toMatchObject({ cgroupsPath: "/test/c1" });
      expect(sandbox.stats("c1")).toEqual({ cgroupStats: { pidsStats: { current: 5n } } });
      await sandbox.removeContainer("c1");
      expect(group?.asked).toEqual(["remove"]);
    }));

  it("go when the container cannot be made, and so does all else", () =>
    withSandbox(async ({ root, runtime, cgroups, container }) => {
      runtime.createError = new Error("crun said no");
      await expect(container("c1")).rejects.toThrow("crun said no");
      runtime.createError = undefined;
      cgroups.createError = new Error("the kernel said no");
      await expect(container("c1")).rejects.toThrow("the kernel said no");
      cgroups.createError = undefined;
      expect(cgroups.groups.size).toBe(0);
      expect(readdirSync(root).sort()).toEqual(["sandbox", "shared"]);
      expect(readdirSync(`${root}/shared/containers`)).toEqual([]);
      await container("c1");
    }));

  it("take new limits", () =>
    withSandbox(async ({ sandbox, cgroups, container }) => {
      await container("c1");
      const limits = create(LinuxResourcesSchema, { Pids: { Limit: 7n } });
      sandbox.update("c1", limits);
      expect(cgroups.groups.get("c1")?.updates).toEqual([limits]);
      expect(await codeOf(() => sandbox.update("c1", undefined))).toBe("ERR_AGENT_REQUEST");
      expect(await codeOf(() => sandbox.update("c2", limits))).toBe("ERR_AGENT_NO_CONTAINER");
    }));

  it("stop and go on, in the right states only", () =>
    withSandbox(async ({ sandbox, runtime, cgroups, container, exec }) => {
      await container("c1");
      expect(await codeOf(() => sandbox.pause("c1"))).toBe("ERR_AGENT_CGROUP");
      await sandbox.startContainer("c1");
      expect(await codeOf(() => sandbox.resume("c1"))).toBe("ERR_AGENT_CGROUP");
      await sandbox.pause("c1");
      expect(cgroups.groups.get("c1")?.frozen).toBe(true);
      expect(await codeOf(() => sandbox.pause("c1"))).toBe("ERR_AGENT_CGROUP");
      // It would hang, and the call with it.
      expect(await codeOf(() => exec("c1", "e1"))).toBe("ERR_AGENT_STATE");
      await sandbox.resume("c1");
      expect(cgroups.groups.get("c1")?.frozen).toBe(false);
      await exec("c1", "e1");
      runtime.processes.get("c1")?.exit(0);
      await sandbox.wait("c1", "");
      expect(await codeOf(() => sandbox.pause("c1"))).toBe("ERR_AGENT_CGROUP");
    }));

  it("that are not there: statistics from the processes, no limits, no pause", () =>
    withSandbox(
      async ({ sandbox, runtime, container }) => {
        await container("c1", { Linux: { Resources: { Memory: { Limit: 5n } } } });
        expect(runtime.created[0]?.spec["linux"]).not.toHaveProperty("resources");
        expect(sandbox.stats("c1")).toMatchObject({ cgroupStats: { cpuStats: { cpuUsage: { totalUsage: 3n } }, pidsStats: { current: 1n } } });
        await sandbox.startContainer("c1");
        for (const call of [() => sandbox.update("c1", create(LinuxResourcesSchema)), () => sandbox.pause("c1"), () => sandbox.resume("c1")]) {
          expect(await codeOf(call)).toBe("ERR_AGENT_UNIMPLEMENTED");
        }
      },
      { cgroups: false },
    ));
});

describe("events of memory", () => {
  const die = ({ cgroups }: Setup, id: string): void => {
    const group = cgroups.groups.get(id);
    if (group === undefined) throw new Error("no group");
    group.kills++;
    group.checkOutOfMemory();
  };

  it("wait for a call, in their order", () =>
    withSandbox(async (setup) => {
      for (const id of ["c1", "c2"]) await setup.container(id);
      for (const id of ["c2", "c1", "c2"]) die(setup, id);
      expect([await setup.sandbox.oomEvent(), await setup.sandbox.oomEvent(), await setup.sandbox.oomEvent()]).toEqual(["c2", "c1", "c2"]);
    }));

  it("go to one of the calls that wait: the latest, whose host is there for certain", () =>
    withSandbox(async (setup) => {
      await setup.container("c1");
      let first: string | undefined;
      const waiting = setup.sandbox.oomEvent().then((id) => (first = id));
      const second = setup.sandbox.oomEvent();
      die(setup, "c1");
      expect(await second).toBe("c1");
      expect(first).toBeUndefined();
      die(setup, "c1");
      await waiting;
      expect(first).toBe("c1");
    }));

  it("come before the end of the container is told", () =>
    withSandbox(async ({ sandbox, runtime, cgroups, container }) => {
      await container("c1");
      const order: string[] = [];
      const told = [sandbox.oomEvent().then((id) => order.push(`event ${id}`)), sandbox.wait("c1", "").then((status) => order.push(`exit ${status}`))];
      const group = cgroups.groups.get("c1");
      if (group !== undefined) group.kills = 1;
      runtime.processes.get("c1")?.exit(137);
      await Promise.all(told);
      expect(order).toEqual(["event c1", "exit 137"]);
    }));

  it.each([[{ "io.kubernetes.cri.container-type": "sandbox" }], [{ "io.katacontainers.pkg.oci.container_type": "pod_sandbox" }]])(
    "are not told of the container that stands for the pod: %j",
    (Annotations) =>
      withSandbox(async (setup) => {
        await setup.container("pause", { Annotations });
        await setup.container("c1", { Annotations: { "io.kubernetes.cri.container-type": "container" } });
        die(setup, "pause");
        die(setup, "c1");
        expect(await setup.sandbox.oomEvent()).toBe("c1");
      }),
  );

  it("are kept in bounded number, and so are the calls", () =>
    withSandbox(async (setup) => {
      for (const id of ["c1", "c2"]) await setup.container(id);
      die(setup, "c1");
      for (let i = 0; i < 256; i++) die(setup, "c2");
      for (let i = 0; i < 256; i++) expect(await setup.sandbox.oomEvent()).toBe("c2");
      const calls = Array.from({ length: 17 }, () => setup.sandbox.oomEvent());
      const [oldest, ...others] = calls;
      expect(await codeOf(() => oldest)).toBe("ERR_AGENT_STATE");
      await setup.sandbox.destroy();
      for (const call of others) expect(await codeOf(() => call)).toBe("ERR_AGENT_ENDED");
      expect(await codeOf(() => setup.sandbox.oomEvent())).toBe("ERR_AGENT_ENDED");
    }));
});

describe("terminals", () => {
  it("of the first process and of others have a size", () =>
    withSandbox(async ({ sandbox, runtime, container, exec }) => {
      const Process = { ...PROCESS, Terminal: true, ConsoleSize: { Height: 24, Width: 80 } };
      await container("c1", { Process });
      await exec("c1", "e1", Process);
      await exec("c1", "e2");
      expect(runtime.created[0]?.spec["process"]).toMatchObject({ terminal: true, consoleSize: { height: 24, width: 80 } });
      expect(runtime.executed[0]?.process).toMatchObject({ terminal: true });
      sandbox.resize("c1", "", 25, 81);
      sandbox.resize("c1", "e1", 26, 82);
      expect(runtime.processes.get("c1")?.sizes).toEqual([[25, 81]]);
      expect(runtime.processes.get("c1/e1")?.sizes).toEqual([[26, 82]]);
      expect(await errorOf(() => sandbox.resize("c1", "e2", 1, 1))).toMatchObject({ code: "ERR_AGENT_NO_TTY", message: "no tty" });
      expect(await codeOf(() => sandbox.resize("c1", "e3", 1, 1))).toBe("ERR_AGENT_NO_PROCESS");
    }));
});

describe("exit statuses", () => {
  const statuses = async (ports: Partial<SandboxPorts>): Promise<readonly number[]> => {
    const found: number[] = [];
    await withSandbox(async ({ sandbox, runtime, container, exec }) => {
      await container("c1");
      for (const status of [0, 127, 128, 137, 192, 193, 255]) {
        await exec("c1", `e${status}`);
        runtime.processes.get(`c1/e${status}`)?.exit(status);
        found.push(await sandbox.wait("c1", `e${status}`));
      }
    }, ports);
    return found;
  };

  it("are those of a shell", async () => {
    expect(await statuses({})).toEqual([0, 127, 128, 137, 192, 193, 255]);
  });

  it("in the older form are the signal's number alone", async () => {
    expect(await statuses({ exitStatus: "signal" })).toEqual([0, 127, 128, 9, 64, 193, 255]);
  });
});

describe("the termination message", () => {
  const Annotations = { "io.kubernetes.container.terminationMessagePath": "/dev/termination-log" };
  const message = (root: string, options = ["rbind", "rw"], source = `${root}/shared/containers/c1-log`): SpecInit => ({
    Annotations,
    Mounts: [{ destination: "/dev/termination-log", type: "bind", source, options }],
  });

  it("is the end of the file that the container writes", () =>
    withSandbox(async ({ root, sandbox, container }) => {
      await container("c1", message(root));
      expect(sandbox.terminationMessage("c1")).toEqual(new Uint8Array(0));
      writeFileSync(`${root}/shared/containers/c1-log`, "bye");
      expect(sandbox.terminationMessage("c1")).toEqual(encodeUtf8("bye"));
      writeFileSync(`${root}/shared/containers/c1-log`, `${"x".repeat(100_000)}end`);
      expect(Buffer.from(sandbox.terminationMessage("c1")).toString()).toBe(`${"x".repeat(4093)}end`);
    }));

  it("is nothing that lies elsewhere, is not the container's to write, or is no file", () =>
    withSandbox(async ({ root, sandbox, container }) => {
      const share = `${root}/shared/containers`;
      writeFileSync(`${root}/outside`, "secret");
      for (const [id, spec, make] of [
        ["c1", message(root), () => symlinkSync(`${root}/outside`, `${share}/c1-log`)],
        ["c2", message(root, undefined, `${root}/outside`), () => undefined],
        ["c4", message(root, ["rbind", "ro"], `${share}/c4-log`), () => writeFileSync(`${share}/c4-log`, "secret")],
        ["c5", { Mounts: message(root, undefined, `${share}/c5-log`).Mounts ?? [] }, () => undefined],
        ["c6", { Annotations }, () => undefined],
        ["c7", message(root, undefined, `${share}/c7-log`), () => mkdirSync(`${share}/c7-log`)],
        ["c8", message(root, undefined, `${share}/link/outside`), () => symlinkSync(root, `${share}/link`)],
      ] as const) {
        await container(id, spec);
        make();
        expect(sandbox.terminationMessage(id), id).toEqual(new Uint8Array(0));
      }
      expect(await codeOf(() => container("c3", message(root, undefined, `${share}/../../outside`)))).toBe("ERR_AGENT_PATH");
    }));
});

describe("devices of a request", () => {
  const devices = [{ id: "02", type: "blk", containerPath: "/dev/data" }];

  it("are looked for among the guest's disks, and a container without its disk is not made", () =>
    withSandbox(
      async ({ root, container }) => {
        expect(await codeOf(() => container("c1", {}, { devices }))).toBe("ERR_AGENT_STORAGE");
        expect(readdirSync(root).sort()).toEqual(["sandbox", "shared"]);
      },
      // A regular file, as disks are where the agent is a process of the host.
      { disks: { find: () => Promise.resolve({ path: import.meta.filename, size: 1 }), list: () => [] } },
    ));
});

describe("calls in any order", () => {
  it("a process with the name of its container is not made", () =>
    withSandbox(async ({ sandbox, runtime, container, exec }) => {
      await container("c1");
      runtime.processes.get("c1")?.exit(0);
      await sandbox.wait("c1", "");
      expect(await codeOf(() => exec("c1", "c1"))).toBe("ERR_AGENT_EXISTS");
    }));

  it("a process that begins after its container was removed is closed", () =>
    withSandbox(async ({ sandbox, runtime, container, exec }) => {
      await container("c1");
      await Promise.all([exec("c1", "e1"), sandbox.removeContainer("c1")]);
      expect(runtime.processes.get("c1/e1")?.stdout.destroyed).toBe(true);
      // Also if another container has taken its name meanwhile.
      await container("c1");
      const late = Promise.withResolvers<void>();
      const start = runtime.exec.bind(runtime);
      runtime.exec = async (...args) => {
        await late.promise;
        return start(...args);
      };
      const pending = exec("c1", "e2");
      await sandbox.removeContainer("c1");
      await container("c1");
      late.resolve();
      await pending;
      expect(runtime.processes.get("c1/e2")?.stdout.destroyed).toBe(true);
      expect(await codeOf(() => sandbox.process("c1", "e2"))).toBe("ERR_AGENT_NO_PROCESS");
    }));

  it("processes of one container are bounded", () =>
    withSandbox(async ({ container, exec }) => {
      await container("c1");
      for (let i = 0; i < 1023; i++) await exec("c1", `e${i}`);
      expect(await codeOf(() => exec("c1", "one-more"))).toBe("ERR_AGENT_STATE");
    }));

  it("two thousand containers come and go, and leave nothing", { timeout: 60_000 }, () =>
    withSandbox(async ({ root, sandbox, runtime, cgroups, container, exec }) => {
      setFlagsFromString("--expose-gc");
      const collect = runInNewContext("gc") as () => void;
      const round = async (from: number, count: number): Promise<{ readonly descriptors: number; readonly heap: number }> => {
        for (let i = from; i < from + count; i++) {
          const id = `c${i}`;
          await container(id);
          await sandbox.startContainer(id);
          await exec(id, "e1");
          runtime.processes.get(`${id}/e1`)?.exit(1);
          await sandbox.wait(id, "e1");
          // Some end by themselves, some are killed by their removal.
          if (i % 2 === 0) {
            runtime.processes.get(id)?.exit(0);
            await sandbox.wait(id, "");
          }
          await sandbox.removeContainer(id);
          // What the test's own fakes remember is not the agent's.
          for (const list of [runtime.created, runtime.executed, runtime.started, runtime.removed]) list.length = 0;
          runtime.processes.clear();
        }
        // Once more after what the first round of collecting has let go of.
        collect();
        await new Promise((resolve) => setImmediate(resolve));
        collect();
        return { descriptors: readdirSync("/proc/self/fd").length, heap: process.memoryUsage().heapUsed };
      };
      const first = await round(0, 1000);
      const second = await round(1000, 1000);
      expect(second.descriptors).toBe(first.descriptors);
      // As many again cost nothing more. One container that is kept has some kilobytes: a thousand would be megabytes.
      expect(second.heap - first.heap).toBeLessThan(1024 * 1024);
      expect(cgroups.groups.size).toBe(0);
      expect(readdirSync(root).sort()).toEqual(["sandbox", "shared"]);
      expect(readdirSync(`${root}/shared/containers`)).toEqual([]);
    }),
  );

  it("two thousand containers at once are no more than two thousand times one", { timeout: 60_000 }, () =>
    withSandbox(async ({ root, sandbox, container }) => {
      const ids = Array.from({ length: 2000 }, (_, i) => `c${i}`);
      await Promise.all(ids.map((id) => container(id)));
      expect(await codeOf(() => container("c7"))).toBe("ERR_AGENT_EXISTS");
      await Promise.all(ids.map((id) => sandbox.removeContainer(id)));
      expect(readdirSync(root).sort()).toEqual(["sandbox", "shared"]);
    }),
  );
});
