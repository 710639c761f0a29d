/*
 * Runs a sandbox with the real crun and the real control groups, in namespaces that runtime.e2e.ts has made for it, and prints what it saw as JSON.
 *   node runtime-scenario.ts DIRECTORY HELPER
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, symlinkSync, writeFileSync } from "node:fs";
import { asObject, type JsonObject, silentLogger } from "@sealpod/core";
import {
  create,
  CreateContainerRequestSchema,
  CreateSandboxRequestSchema,
  ExecProcessRequestSchema,
  LinuxResourcesSchema,
  type MessageInitShape,
  type SpecSchema,
} from "@sealpod/proto";
import { directoryDevices } from "../block-devices.ts";
import { Crun } from "../crun.ts";
import { linux } from "../guest-system.ts";
import { guestPaths } from "../paths.ts";
import { parseProcessLimits } from "../process-limits.ts";
import { Sandbox } from "../sandbox.ts";
import { rootStorages } from "../test-support.ts";

type SpecInit = Exclude<MessageInitShape<typeof SpecSchema>, { readonly $typeName: string }>;

const [, , directory = "", helper = ""] = process.argv;
const BUSYBOX = "/usr/bin/busybox";
const GROUPS = "/sys/fs/cgroup/sealpod";

const self = (file: string): string => readFileSync(`/proc/self/${file}`, "latin1");
const limits = parseProcessLimits(self("status"), self("limits"), self("oom_score_adj"));
const paths = guestPaths(`${directory}/guest`);

/** Fills the root of a container, which would be layers; and leaves out what a host without CAP_SYS_RESOURCE has no lockable memory for. */
class TestCrun extends Crun {
  override create(id: string, bundle: string, spec: JsonObject, group?: Parameters<Crun["create"]>[3]): ReturnType<Crun["create"]> {
    const root = asObject(spec["root"])?.["path"];
    if (typeof root !== "string") throw new Error("no root");
    for (const name of ["bin", "dev", "etc", "proc", "sys", "tmp"]) mkdirSync(`${root}/${name}`);
    copyFileSync(BUSYBOX, `${root}/bin/busybox`);
    writeFileSync(`${root}/etc/passwd`, "five:x:5:6::/home/five:/bin/sh\n");
    for (const name of ["sh", "cat", "id", "grep", "mkdir", "seq", "sleep", "stty", "true"]) symlinkSync("busybox", `${root}/bin/${name}`);
    const config = asObject(spec["linux"]) ?? {};
    const { devices: _, ...resources } = asObject(config["resources"]) ?? {};
    return super.create(id, bundle, limits.unlimited ? spec : { ...spec, linux: { ...config, resources } }, group);
  }
}

mkdirSync(`${directory}/devices`);
const sandbox = new Sandbox({
  paths,
  disks: directoryDevices(`${directory}/devices`),
  guestInfo: directory,
  system: linux,
  runtime: new TestCrun(paths.runtimeState, helper),
  limits,
  cgroups: true,
  logger: silentLogger,
});

const PROCESS = { User: { UID: 0 }, Env: ["PATH=/bin"], Cwd: "/", OOMScoreAdj: limits.oomScoreAdj };
const sh = (script: string): ProcessInit => ({ ...PROCESS, Args: ["/bin/sh", "-c", script] });

type ProcessInit = Exclude<NonNullable<SpecInit["Process"]>, { readonly $typeName: string }>;
type LinuxInit = Exclude<NonNullable<SpecInit["Linux"]>, { readonly $typeName: string }>;

interface Wanted {
  readonly Process?: ProcessInit;
  readonly Linux?: LinuxInit;
  readonly Mounts?: NonNullable<SpecInit["Mounts"]>;
}

async function make(id: string, script: string, { Process = {}, Linux = {}, Mounts = [] }: Wanted = {}): Promise<void> {
  const mountPoint = `${paths.shared}/${id}`;
  await sandbox.createContainer(
    create(CreateContainerRequestSchema, {
      containerId: id,
      storages: rootStorages(paths.root, id),
      OCI: {
        Root: { Path: mountPoint },
        Process: { ...sh(script), ...Process },
        Mounts: [
          { destination: "/proc", type: "proc", source: "proc" },
          { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["mode=755"] },
          { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666", "mode=0620"] },
          ...Mounts,
        ],
        Linux: { CgroupsPath: "/kubepods/besteffort/x", ...Linux },
      },
    }),
  );
}

const exec = (id: string, execId: string, process: ProcessInit): Promise<void> =>
  sandbox.exec(create(ExecProcessRequestSchema, { containerId: id, execId, process }));

async function all(id: string, execId = ""): Promise<{ readonly stdout: string; readonly stderr: string; readonly status: number }> {
  const read = async (stream: "stdout" | "stderr"): Promise<string> => {
    let text = "";
    for (;;) {
      const data = await sandbox.readable(id, execId)[stream].read(4096);
      if (data.length === 0) return text;
      text += Buffer.from(data).toString();
    }
  };
  const [stdout, stderr] = await Promise.all([read("stdout"), read("stderr")]);
  return { stdout, stderr, status: await sandbox.wait(id, execId) };
}

/** Reads until the text has come. */
async function until(wanted: string, id: string, execId = ""): Promise<string> {
  let text = "";
  while (!text.includes(wanted)) {
    const data = await sandbox.readable(id, execId).stdout.read(4096);
    if (data.length === 0) throw new Error(`the end came before ${wanted}: ${text}`);
    text += Buffer.from(data).toString();
  }
  return text;
}

const codeOf = async (call: () => unknown): Promise<string> => {
  try {
    await call();
    return "none";
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
};
const group = (path: string): string => readFileSync(`${GROUPS}/${path}`, "latin1").trim();
const open = (): number => readdirSync("/proc/self/fd").length;
const children = (): number => readFileSync(`/proc/self/task/${process.pid}/children`, "latin1").split(" ").length;

const scenarios: Readonly<Record<string, () => Promise<unknown>>> = {
  async groups() {
    await make("c1", "echo ready; while cat /proc/self/cgroup | grep '^0:'; do true; done");
    await sandbox.startContainer("c1");
    await until("ready", "c1");
    const where = (await until("\n", "c1")).split("\n").find((line) => line.startsWith("0:"));
    const inside = group("c1/c/cgroup.procs") !== "";
    await sandbox.pause("c1");
    const paused = { events: group("c1/cgroup.events"), exec: await codeOf(() => exec("c1", "e1", sh("true"))), again: await codeOf(() => sandbox.pause("c1")) };
    await sandbox.resume("c1");
    const resumed = group("c1/cgroup.events");
    await exec("c1", "e1", sh("grep ^0: /proc/self/cgroup; exit 3"));
    const other = await all("c1", "e1");
    const cpu = Number(sandbox.stats("c1").cgroupStats?.cpuStats?.cpuUsage?.totalUsage);
    const huge = existsSync(`${GROUPS}/c1/c/hugetlb.2MB.max`);
    if (huge) sandbox.update("c1", create(LinuxResourcesSchema, { HugepageLimits: [{ Pagesize: "2MB", Limit: 4194304n }] }));
    const limit = huge ? group("c1/c/hugetlb.2MB.max") : "4194304";
    await sandbox.pause("c1");
    sandbox.process("c1", "").signal(9);
    const status = await sandbox.wait("c1", "");
    const kept = { group: existsSync(`${GROUPS}/c1`), cpu: Number(sandbox.stats("c1").cgroupStats?.cpuStats?.cpuUsage?.totalUsage) >= cpu };
    await sandbox.removeContainer("c1");
    return { where, inside, paused, resumed, other, used: cpu > 0, limit, status, kept, left: existsSync(`${GROUPS}/c1`) };
  },

  async limits() {
    if (!existsSync(`${GROUPS}/memory.max`)) return "no memory controller";
    const Resources = { Memory: { Limit: 33554432n, Swap: 33554432n }, CPU: { Shares: 1024n, Quota: 50000n, Period: 100000n }, Pids: { Limit: 50n } };
    await make("c1", "x=aaaaaaaa; while true; do x=$x$x; done", { Linux: { Resources } });
    const files = ["memory.max", "cpu.weight", "cpu.max", "pids.max"].map((name) => group(`c1/c/${name}`));
    const stats = sandbox.stats("c1").cgroupStats;
    const inForce = [stats?.memoryStats?.usage?.limit, stats?.pidsStats?.limit].map(Number);
    sandbox.update("c1", create(LinuxResourcesSchema, { Memory: { Limit: 25165824n }, Pids: { Limit: -1n } }));
    const updated = ["memory.max", "pids.max"].map((name) => group(`c1/c/${name}`));
    const event = sandbox.oomEvent();
    await sandbox.startContainer("c1");
    const { status } = await all("c1");
    const killed = { status, event: await event, used: Number(sandbox.stats("c1").cgroupStats?.memoryStats?.usage?.maxUsage) > 16_777_216 };
    await sandbox.removeContainer("c1");
    return { files, inForce, updated, killed, left: existsSync(`${GROUPS}/c1`) };
  },

  async devices() {
    if (!limits.unlimited) return "no CAP_SYS_RESOURCE";
    const Capabilities = { Bounding: ["CAP_MKNOD"], Effective: ["CAP_MKNOD"], Permitted: ["CAP_MKNOD"] };
    // The first opens the kernel's log, the second what every container has.
    await make("c1", "busybox mknod /tmp/log c 1 11 && busybox head -c 1 /tmp/log; busybox head -c 4 /dev/zero | busybox wc -c", { Process: { Capabilities } });
    await sandbox.startContainer("c1");
    const outcome = await all("c1");
    await sandbox.removeContainer("c1");
    return outcome;
  },

  async pausedRemoval() {
    await make("c1", "sleep 1000 & sleep 1000");
    await sandbox.startContainer("c1");
    await sandbox.pause("c1");
    await sandbox.removeContainer("c1");
    return { left: existsSync(`${GROUPS}/c1`) };
  },

  async failure() {
    const code = await codeOf(() => make("c1", "true", { Mounts: [{ destination: "/x", type: "bind", source: "/missing", options: ["rbind"] }] }));
    return { code, left: existsSync(`${GROUPS}/c1`), directory: readdirSync(paths.root).sort() };
  },

  async specification() {
    const script =
      "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; id; echo $HOME; grep NoNewPrivs /proc/self/status; mkdir /tmp/x";
    await make("c1", script, {
      Process: { User: { UID: 5, GID: 6, AdditionalGids: [7, 8] }, NoNewPrivileges: true },
      Linux: {
        Sysctl: { "net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1" },
        Seccomp: {
          DefaultAction: "SCMP_ACT_ALLOW",
          Syscalls: [{ Names: ["mkdir", "mkdirat"], Action: "SCMP_ACT_ERRNO", ErrnoRet: { case: "errnoret", value: 18 } }],
        },
        RootfsPropagation: "rslave",
      },
    });
    await sandbox.startContainer("c1");
    const outcome = await all("c1");
    await sandbox.removeContainer("c1");
    return outcome;
  },

  async terminal() {
    const Process = { ...sh("stty size; read x; echo got $x; stty size; seq 1 20000; exit 4"), Terminal: true, ConsoleSize: { Height: 33, Width: 99 } };
    await make("c1", "", { Process });
    const none = await codeOf(() => sandbox.resize("c1", "other", 1, 1));
    await sandbox.startContainer("c1");
    const first = await until("\n", "c1");
    sandbox.resize("c1", "", 40, 100);
    await sandbox.process("c1", "").write(Buffer.from("hello\n"));
    const rest = await all("c1");

    await make("c2", "sleep 1000");
    await sandbox.startContainer("c2");
    await exec("c2", "e1", { ...sh("[ -t 0 ] && [ -t 2 ] && echo terminal >&2; exit 5"), Terminal: true, ConsoleSize: { Height: 10, Width: 20 } });
    const other = await all("c2", "e1");
    // A process that nobody reads is ended with its terminal.
    await exec("c2", "e2", { ...sh("seq 1 1000000; sleep 1000"), Terminal: true });
    const missing = await codeOf(() => exec("c2", "e3", { ...sh(""), Args: ["/bin/missing"], Terminal: true }));
    const noTerminal = await codeOf(() => sandbox.resize("c2", "", 1, 1));
    for (const id of ["c1", "c2"]) await sandbox.removeContainer(id);
    const lines = rest.stdout.split("\r\n");
    return { none, first, lines: lines.slice(0, 4), count: lines.length, last: lines.slice(-2), stderr: rest.stderr, status: rest.status, other, missing, noTerminal };
  },

  async withoutHelper() {
    const plain = new Crun(`${directory}/none`, "/missing/helper");
    mkdirSync(`${directory}/bundle`);
    return { code: await codeOf(() => plain.create("x", `${directory}/bundle`, { process: { terminal: true } })) };
  },

  async dozens() {
    const round = async (from: number): Promise<{ readonly open: number; readonly children: number; readonly groups: number; readonly state: readonly string[] }> => {
      for (let i = from; i < from + 12; i++) {
        const id = `d${i}`;
        // Ends by itself, is killed while it runs, never begins; with a terminal or without.
        const terminal = i % 2 === 0 && helper !== "";
        await make(id, i % 3 === 0 ? "exit 0" : "sleep 1000", terminal ? { Process: { ...sh("exit 0"), Terminal: true } } : {});
        if (i % 3 !== 2) await sandbox.startContainer(id);
        if (i % 3 === 0) await sandbox.wait(id, "");
        await sandbox.removeContainer(id);
      }
      // What a helper was told of its end must have been heard here.
      await new Promise((resolve) => setImmediate(resolve));
      return {
        open: open(),
        children: children(),
        groups: readdirSync(GROUPS, { withFileTypes: true }).filter((entry) => entry.isDirectory()).length,
        state: readdirSync(paths.runtimeState),
      };
    };
    return { first: await round(0), second: await round(100), third: await round(200) };
  },
};

await sandbox.create(create(CreateSandboxRequestSchema, { sandboxId: "s1" }));
const seen: Record<string, unknown> = {};
for (const [name, scenario] of Object.entries(scenarios)) {
  if (name === "terminal" && helper === "") continue;
  try {
    seen[name] = await scenario();
  } catch (error) {
    seen[name] = { error: error instanceof Error ? error.stack : String(error) };
  }
}
await sandbox.destroy();
seen["end"] = readdirSync(GROUPS, { withFileTypes: true }).filter((entry) => entry.isDirectory()).length;
rmdirSync(GROUPS);
process.stdout.write(JSON.stringify(seen));
