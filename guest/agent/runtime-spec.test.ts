import { silentLogger, type Logger } from "@sealpod/core";
import { create, type MessageInitShape, ProcessSchema, SpecSchema } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { runtimeProcess, runtimeSpec, type SpecContext } from "./runtime-spec.ts";
import { errorOf, NO_LIMITS } from "./test-support.ts";
import { parseProcessLimits } from "./process-limits.ts";

const context: SpecContext = {
  limits: NO_LIMITS,
  logger: silentLogger,
  guestInfo: "/guest",
  cgroupsPath: undefined,
  devices: [],
  agent: 77,
  pidNamespace: undefined,
};

type SpecInit = Exclude<MessageInitShape<typeof SpecSchema>, { readonly $typeName: string }>;
type ProcessInit = Exclude<MessageInitShape<typeof ProcessSchema>, { readonly $typeName: string }>;
const minimal = { Process: { User: { UID: 0 }, Args: ["/bin/sh"], Cwd: "/" }, Root: { Path: "/root" }, Linux: {} } as const satisfies SpecInit;
const spec = (fields: SpecInit = {}, changes: Partial<SpecContext> = {}): ReturnType<typeof runtimeSpec> =>
  runtimeSpec(create(SpecSchema, { ...minimal, ...fields }), { ...context, ...changes });

describe("config.json", () => {
  it("of a full request: what the runtime may know, and nothing else", () => {
    expect(
      spec({
        Version: "1.1.0-rc.1",
        Hostname: "chosen-by-the-host",
        Annotations: { "run.oci.hooks.stdout": "/etc/shadow", "io.kubernetes.cri.container-type": "container" },
        Process: {
          User: { UID: 101, GID: 102, AdditionalGids: [103], Username: "ignored" },
          Args: ["nginx", "-g", "daemon off;"],
          Env: ["A=1"],
          Cwd: "/srv",
          Capabilities: { Bounding: ["CAP_CHOWN"], Effective: ["CAP_CHOWN"], Permitted: ["CAP_CHOWN"] },
          Rlimits: [{ Type: "RLIMIT_NOFILE", Hard: 2n ** 64n - 1n, Soft: 1024n }],
          NoNewPrivileges: true,
          OOMScoreAdj: -998n,
          ApparmorProfile: "none in the guest",
        },
        Root: { Path: "/run/root", Readonly: true },
        Mounts: [
          { destination: "/proc", type: "proc", source: "proc", options: ["nosuid"] },
          { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"] },
          { destination: "/etc/hosts", type: "bind", source: "/run/share/hosts", options: ["rbind", "ro"] },
        ],
        Linux: {
          Namespaces: [{ Type: "ipc", Path: "/proc/1/ns/ipc" }, { Type: "uts" }, { Type: "mount" }, { Type: "network" }],
          CgroupsPath: "kubepods:cri:id",
          Resources: { Memory: { Limit: 1024n } },
          Sysctl: { "kernel.shm_rmid_forced": "1" },
          MaskedPaths: ["/proc/kcore"],
          ReadonlyPaths: ["/proc/sys"],
        },
      }),
    ).toEqual({
      ociVersion: "1.0.2",
      process: {
        terminal: false,
        user: { uid: 101, gid: 102, additionalGids: [103] },
        args: ["nginx", "-g", "daemon off;"],
        env: ["A=1"],
        cwd: "/srv",
        capabilities: { bounding: ["CAP_CHOWN"], effective: ["CAP_CHOWN"], inheritable: [], permitted: ["CAP_CHOWN"], ambient: [] },
        rlimits: [{ type: "RLIMIT_NOFILE", hard: 2n ** 64n - 1n, soft: 1024n }],
        noNewPrivileges: true,
        oomScoreAdj: -998n,
      },
      root: { path: "/run/root", readonly: true },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc", options: ["nosuid"] },
        { destination: "/etc/hosts", type: "bind", source: "/run/share/hosts", options: ["rbind", "ro"] },
        { destination: "/run/sealpod", type: "bind", source: "/guest", options: ["rbind", "ro", "nosuid", "nodev", "noexec"] },
        {
          destination: "/run/sealpod/tsm/report",
          type: "bind",
          source: "/guest/tsm/report",
          options: ["rbind", "rw", "nosuid", "nodev", "noexec"],
        },
      ],
      linux: {
        namespaces: [{ type: "mount" }, { type: "pid" }, { type: "ipc", path: "/proc/77/ns/ipc" }],
        sysctl: { "kernel.shm_rmid_forced": "1" },
        maskedPaths: ["/proc/kcore"],
        readonlyPaths: ["/proc/sys"],
      },
    });
  });

  it("of a minimal request has no empty objects, and no capabilities", () => {
    expect(spec()).toEqual({
      ociVersion: "1.0.2",
      process: { terminal: false, user: { uid: 0, gid: 0 }, args: ["/bin/sh"], cwd: "/", capabilities: {}, noNewPrivileges: false, oomScoreAdj: 0n },
      root: { path: "/root", readonly: false },
      mounts: [expect.objectContaining({ destination: "/run/sealpod" }), expect.objectContaining({ destination: "/run/sealpod/tsm/report" })],
      linux: { namespaces: [{ type: "mount" }, { type: "pid" }] },
    });
  });

  it("joins the shared pid namespace", () => {
    expect(spec({}, { pidNamespace: "/proc/1/fd/9" })["linux"]).toEqual({ namespaces: [{ type: "mount" }, { type: "pid", path: "/proc/1/fd/9" }] });
  });

  it("with cgroups: has the limits that are set, leaves zeros out, goes where the agent says, and may use no device by default", () => {
    const Linux = {
      CgroupsPath: "/kubepods/x",
      Resources: {
        Memory: { Limit: 1024n, Swap: 0n },
        CPU: { Shares: 2n, Quota: -1n },
        Pids: { Limit: 0n },
        HugepageLimits: [
          { Pagesize: "2MB", Limit: 0n },
          { Pagesize: "1GB", Limit: 1n },
        ],
        Devices: [{ Allow: true, Type: "b", Major: 254n, Access: "rwm" }],
      },
    };
    expect(spec({ Linux }, { cgroupsPath: "/sealpod/c1/c" })["linux"]).toEqual({
      namespaces: [{ type: "mount" }, { type: "pid" }, { type: "cgroup" }],
      cgroupsPath: "/sealpod/c1/c",
      resources: {
        memory: { limit: 1024n },
        cpu: { shares: 2n, quota: -1n },
        hugepageLimits: [{ pageSize: "1GB", limit: 1n }],
        devices: [{ allow: false, access: "rwm" }],
      },
    });
    expect(spec({ Linux: { Resources: { Memory: {}, CPU: {}, Pids: {} } } }, { cgroupsPath: "/x" })["linux"]).toHaveProperty("resources", {
      devices: [{ allow: false, access: "rwm" }],
    });
    expect(spec({ Linux: {} }, { cgroupsPath: "/x" })["linux"]).toHaveProperty("resources", { devices: [{ allow: false, access: "rwm" }] });
  });

  it("sets parameters of the pod's namespaces, which are the agent's", () => {
    const Sysctl = {
      "net.ipv4.ip_unprivileged_port_start": "0",
      "net/ipv4/conf/eth0.1/forwarding": "1",
      "kernel.sem": "250 32000\t100 128",
      "fs.mqueue.msg_max": "10",
      "kernel.domainname": "x",
    };
    expect(spec({ Linux: { Sysctl } })["linux"]).toEqual({
      namespaces: [
        { type: "mount" },
        { type: "pid" },
        { type: "network", path: "/proc/77/ns/net" },
        { type: "ipc", path: "/proc/77/ns/ipc" },
        { type: "uts", path: "/proc/77/ns/uts" },
      ],
      sysctl: Sysctl,
    });
  });

  it("has the disks that were found, as the list of nodes wants them", () => {
    const devices = [
      { path: "/dev/data", disk: "/dev/vdb", major: 254n, minor: 16n },
      { path: "/dev/more", disk: "/dev/vdc", major: 254n, minor: 32n },
    ];
    const Devices = [
      { Path: "/dev/data", Type: "b", Major: 1n, Minor: 2n, FileMode: 0o60640, UID: 5, GID: 6 },
      { Path: "/dev/null", Type: "c", Major: 1n, Minor: 3n },
    ];
    const linux = spec({ Linux: { Devices } }, { devices, cgroupsPath: "/x" })["linux"];
    expect(linux).toMatchObject({
      // The numbers are the guest's, whatever the host says.
      devices: [
        { path: "/dev/data", type: "b", major: 254n, minor: 16n, fileMode: 0o640, uid: 5, gid: 6 },
        { path: "/dev/more", type: "b", major: 254n, minor: 32n, fileMode: 0o660, uid: 0, gid: 0 },
      ],
      resources: {
        devices: [
          { allow: false, access: "rwm" },
          { allow: true, type: "b", major: 254n, minor: 16n, access: "rwm" },
          { allow: true, type: "b", major: 254n, minor: 32n, access: "rwm" },
        ],
      },
    });
  });

  it("has a seccomp profile, and a root that hears of mounts or does not", () => {
    const Linux = { Seccomp: { DefaultAction: "SCMP_ACT_ALLOW" }, RootfsPropagation: "rslave" };
    expect(spec({ Linux })["linux"]).toMatchObject({ seccomp: { defaultAction: "SCMP_ACT_ALLOW" }, rootfsPropagation: "rslave" });
  });

  it.each<[string, SpecInit]>([
    ["hooks", { Hooks: { Prestart: [{ Path: "/bin/sh" }] } }],
    ["late hooks", { Hooks: { StartContainer: [{ Path: "/bin/sh" }] } }],
    ["a seccomp profile that it does not understand", { Linux: { Seccomp: { DefaultAction: "SCMP_ACT_NEW" } } }],
    ["a node that looks like a usual one", { Linux: { Devices: [{ Path: "/dev/null", Type: "b", Major: 1n, Minor: 3n }] } }],
    ["a usual node twice", { Linux: { Devices: [1, 2].map(() => ({ Path: "/dev/null", Type: "c", Major: 1n, Minor: 3n })) } }],
    ["a parameter of the whole guest", { Linux: { Sysctl: { "kernel.core_pattern": "|/x" } } }],
    ["a parameter by another way", { Linux: { Sysctl: { "net/../kernel/core_pattern": "|/x" } } }],
    ["the pod's host name as a parameter", { Linux: { Sysctl: { "kernel.hostname": "x" } } }],
    ["a global parameter under net", { Linux: { Sysctl: { "net.core.bpf_jit_harden": "0" } } }],
    ["a parameter of two lines", { Linux: { Sysctl: { "kernel.sem": "1\n2" } } }],
    ["a control group above", { Linux: { CgroupsPath: "/x/../../y" } }],
    ["a control group with a newline", { Linux: { CgroupsPath: "/x\ny" } }],
    ["a terminal larger than any", { Process: { ...minimal.Process, Terminal: true, ConsoleSize: { Height: 70000, Width: 1 } } }],
    ["device nodes", { Linux: { Devices: [{ Path: "/dev/sda", Type: "b", Major: 8n }] } }],
    ["user id mappings", { Linux: { UIDMappings: [{ Size: 1 }] } }],
    ["group id mappings", { Linux: { GIDMappings: [{ Size: 1 }] } }],
    ["Intel RDT", { Linux: { IntelRdt: {} } }],
    ["mount propagation", { Linux: { RootfsPropagation: "shared" } }],
    ["a user namespace", { Linux: { Namespaces: [{ Type: "user" }] } }],
    ["an unknown namespace", { Linux: { Namespaces: [{ Type: "time" }] } }],
    ["Windows", { Windows: {} }],
    ["Solaris", { Solaris: {} }],
    ["a relative root", { Root: { Path: "root" } }],
    ["a relative working directory", { Process: { ...minimal.Process, Cwd: "srv" } }],
    ["no arguments", { Process: { ...minimal.Process, Args: [] } }],
    ["no user", { Process: { Args: ["x"], Cwd: "/" } }],
    ["a relative mount destination", { Mounts: [{ destination: "etc", type: "tmpfs" }] }],
    ["a relative bind source", { Mounts: [{ destination: "/x", type: "bind", source: "config.json" }] }],
    ["a relative bind source by option", { Mounts: [{ destination: "/x", type: "none", source: "../x", options: ["rbind"] }] }],
    ["a NUL in an argument", { Process: { ...minimal.Process, Args: ["/bin/sh\0allowed"] } }],
    ["a NUL in an environment variable", { Process: { ...minimal.Process, Env: ["A=x\0y"] } }],
    ["a NUL in a mount option", { Mounts: [{ destination: "/x", type: "tmpfs", options: ["ro\0"] }] }],
    ["a NUL in the name of a sysctl", { Linux: { Sysctl: { "a\0b": "1" } } }],
    ["a repeated resource limit", { Process: { ...minimal.Process, Rlimits: [{ Type: "RLIMIT_CORE" }, { Type: "RLIMIT_CORE" }] } }],
    ["an unknown resource limit", { Process: { ...minimal.Process, Rlimits: [{ Type: "NOFILE" }] } }],
  ])("refuses %s", async (_what, fields) => {
    expect((await errorOf(() => spec(fields))).code).toBe("ERR_AGENT_REQUEST");
  });

  it.each<[string, SpecInit]>([
    ["Process", { Root: minimal.Root, Linux: {} }],
    ["Root", { Process: minimal.Process, Linux: {} }],
    ["Linux", { Process: minimal.Process, Root: minimal.Root }],
  ])("refuses a specification without %s", async (_what, fields) => {
    expect((await errorOf(() => runtimeSpec(create(SpecSchema, fields), context))).code).toBe("ERR_AGENT_REQUEST");
  });

  it("has a terminal, of a size if it has one", () => {
    const process = (fields: ProcessInit): unknown => spec({ Process: { ...minimal.Process, Terminal: true, ...fields } })["process"];
    expect(process({ ConsoleSize: { Height: 24, Width: 80 } })).toMatchObject({ terminal: true, consoleSize: { height: 24, width: 80 } });
    expect(process({})).not.toHaveProperty("consoleSize");
    expect(process({ ConsoleSize: { Height: 0, Width: 80 } })).not.toHaveProperty("consoleSize");
    expect(process({ Terminal: false, ConsoleSize: { Height: 24, Width: 80 } })).not.toHaveProperty("consoleSize");
  });
});

describe("process of an exec", () => {
  const exec = (fields: ProcessInit): ReturnType<typeof runtimeProcess> =>
    runtimeProcess(create(ProcessSchema, { ...minimal.Process, ...fields }), NO_LIMITS, silentLogger);

  it("without capabilities has those of the container, with an empty set has none", () => {
    expect(exec({})).not.toHaveProperty("capabilities");
    expect(exec({ Capabilities: {} })["capabilities"]).toEqual({ bounding: [], effective: [], inheritable: [], permitted: [], ambient: [] });
  });
});

describe("limits of an agent without CAP_SYS_RESOURCE", () => {
  const limits = parseProcessLimits(
    "Name:\tnode\nCapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\n",
    "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 20000                files     \nMax core file size        0                    unlimited            bytes     \n",
    "-5\n",
  );
  const lines: string[] = [];
  const logger: Logger = {
    log: (level, message, fields) => void lines.push(`${level} ${message} ${String(fields?.["wanted"])} ${String(fields?.["granted"])}`),
  };
  const granted = (fields: ProcessInit): ReturnType<typeof runtimeProcess> =>
    runtimeProcess(create(ProcessSchema, { ...minimal.Process, ...fields }), limits, logger);

  it("are read from /proc", () => {
    expect(limits.unlimited).toBe(false);
    expect(limits.oomScoreAdj).toBe(-5n);
    expect(limits.hard).toEqual(
      new Map([
        ["RLIMIT_NOFILE", 20000n],
        ["RLIMIT_CORE", 2n ** 64n - 1n],
      ]),
    );
    expect(parseProcessLimits("CapEff:\t000001ffffffffff\n", "", "0").unlimited).toBe(true);
    expect(parseProcessLimits("", "", "0").unlimited).toBe(false);
  });

  it("bound what a process gets, and the log says so", () => {
    expect(granted({ Rlimits: [{ Type: "RLIMIT_NOFILE", Hard: 1048576n, Soft: 1048576n }], OOMScoreAdj: -998n })).toMatchObject({
      rlimits: [{ type: "RLIMIT_NOFILE", hard: 20000n, soft: 20000n }],
      oomScoreAdj: -5n,
    });
    expect(lines.splice(0)).toEqual([
      "warn resource limit lowered: no CAP_SYS_RESOURCE 1048576 20000",
      "warn oom_score_adj raised: no CAP_SYS_RESOURCE -998 -5",
    ]);
    expect(granted({ Rlimits: [{ Type: "RLIMIT_CORE", Hard: 2n ** 64n - 1n, Soft: 5n }], OOMScoreAdj: 1000n })).toMatchObject({
      rlimits: [{ type: "RLIMIT_CORE", hard: 2n ** 64n - 1n, soft: 5n }],
      oomScoreAdj: 1000n,
    });
    expect(lines).toEqual([]);
  });
});
