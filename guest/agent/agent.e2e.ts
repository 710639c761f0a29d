import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import type { Readable } from "node:stream";
import { concatBytes, encodeUtf8, fromHex, sha256, toBase64, toHex } from "@sealpod/core";
import { MOUNT_NAMESPACE, onOwnRoot } from "@sealpod/vmm";
import { AgentService, Health, type MessageInitShape, type MessageShape } from "@sealpod/proto";
import { byteStream, STATUS, TtrpcClient, TtrpcError } from "@sealpod/ttrpc";
import { buildLayer, TarWriter, type TarItem } from "@sealpod/verity";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { allowAll, serveReports } from "./test-support.ts";

const ROOT = "/run/kata-containers";
const LAYERS = `${ROOT}/sandbox/layers`;
const BUSYBOX = "/usr/bin/busybox";
const NODE = process.execPath;

/** Process 1 of the private namespaces: hides the second cgroup hierarchy of a hybrid host from crun, and reaps orphans while it waits. */
const INIT = `mount --make-rprivate /
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
trap 'kill -TERM "$agent"' TERM
"$@" & agent=$!
while kill -0 "$agent" 2>/dev/null; do wait "$agent"; status=$?; done
exit "$status"`;

const haveSetfattr = spawnSync("setfattr", ["--version"]).status === 0;
const possible = process.getuid?.() === 0 && spawnSync("crun", ["--version"]).status === 0 && spawnSync(BUSYBOX, ["true"]).status === 0;

const {
  createSandbox,
  createContainer,
  startContainer,
  removeContainer,
  execProcess,
  signalProcess,
  waitProcess,
  readStdout,
  readStderr,
  writeStdin,
  closeStdin,
} = AgentService.method;
const { statsContainer, destroySandbox, setPolicy, copyFile, getOOMEvent, ttyWinResize, pauseContainer } = AgentService.method;

interface Layer {
  readonly id: string;
  readonly hash: string;
  readonly slot: string;
}

/** The real agent in namespaces of its own, and a connection to it. */
class Guest {
  readonly directory = mkdtempSync(`${tmpdir()}/sealpod-agent-e2e-`);
  readonly devices = `${this.directory}/devices`;
  readonly guestInfo = `${this.directory}/guest-info`;
  #child: ChildProcess | undefined;
  #client: TtrpcClient | undefined;
  #slot = 2;
  log = "";

  get client(): TtrpcClient {
    if (this.#client === undefined) throw new Error("the agent does not run");
    return this.#client;
  }

  /** A process in the guest's namespaces, by the host's count: its first. */
  firstProcess(): string {
    const pid = this.#child?.pid ?? 0;
    return readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").split(" ")[0] ?? "";
  }

  /** What crun wrote about a container. */
  crunLog(container: string): string {
    const path = `/proc/${this.firstProcess()}/root${ROOT}/${container}/crun.log`;
    return existsSync(path) ? `crun.log: ${readFileSync(path, "utf8")}` : `no ${path}`;
  }

  async start(args: readonly string[] = []): Promise<void> {
    for (const directory of [this.devices, this.guestInfo]) mkdirSync(directory);
    const socket = `${this.directory}/agent.sock`;
    const agent = [
      NODE,
      `${import.meta.dirname}/main.ts`,
      "--listen",
      `unix:${socket}`,
      "--devices",
      this.devices,
      "--guest-info",
      this.guestInfo,
      "--ready-fd",
      "3",
      ...args,
    ];
    const namespaces = [...MOUNT_NAMESPACE, "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"];
    const child = spawn("unshare", [...namespaces, ...onOwnRoot(["/bin/sh", "-c", INIT, "init", ...agent])], { stdio: ["ignore", "inherit", "pipe", "pipe"] });
    this.#child = child;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.log += text));
    const ready = child.stdio[3] as Readable;
    await new Promise<void>((resolve, reject) => {
      ready.once("data", () => resolve());
      child.once("exit", (code) => reject(new Error(`the agent ended with ${code}: ${this.log}`)));
    });
    const connection = connect(socket);
    await new Promise((resolve) => connection.once("connect", resolve));
    this.#client = new TtrpcClient(byteStream(connection));
  }

  /** Hangs up, ends the agent as the driver does unless it ends by itself, and gives its exit code. */
  async stop(how: "asked" | "by itself" = "asked"): Promise<number | null> {
    const child = this.#child;
    this.#client?.close();
    let code: number | null = null;
    if (child?.pid !== undefined && child.exitCode === null) {
      const exit = new Promise<number | null>((resolve) => child.once("exit", resolve));
      const [init] = how === "by itself" ? [] : readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "latin1").split(" ");
      if (init !== undefined) process.kill(Number(init), "SIGTERM");
      code = await exit;
    }
    rmSync(this.directory, { recursive: true, force: true });
    return code;
  }

  /** Attaches a layer as a disk. */
  async attach(items: readonly TarItem[], damage?: (file: Uint8Array) => void): Promise<Layer> {
    const tar: Uint8Array[] = [];
    const writer = new TarWriter({ write: (bytes) => Promise.resolve(void tar.push(bytes)) });
    for (const item of items) await writer.add(item);
    await writer.finish();
    const file: Uint8Array[] = [];
    const { rootHash } = await buildLayer(chunks(tar), { write: (bytes) => Promise.resolve(void file.push(bytes)) });
    const bytes = concatBytes(...file);
    damage?.(bytes);
    const slot = (this.#slot++).toString(16).padStart(2, "0");
    writeFileSync(`${this.directory}/${slot}.layer`, bytes);
    symlinkSync(`${this.directory}/${slot}.layer`, `${this.devices}/${slot}`);
    return { id: toHex(sha256(encodeUtf8(`${slot}${toHex(rootHash)}`))), hash: toHex(rootHash), slot };
  }

  /** Everything a process writes, and its exit status. */
  async outcome(containerId: string, execId = ""): Promise<{ readonly stdout: string; readonly stderr: string; readonly status: number }> {
    const all = async (method: typeof readStdout | typeof readStderr): Promise<string> => {
      let text = "";
      for (;;) {
        const { data } = await this.client.unary(method, { containerId, execId, len: 32768 });
        if (data.length === 0) return text;
        text += Buffer.from(data).toString("utf8");
      }
    };
    const [stdout, stderr] = await Promise.all([all(readStdout), all(readStderr)]);
    return { stdout, stderr, status: (await this.client.unary(waitProcess, { containerId, execId })).status };
  }

  async failure(call: Promise<unknown>): Promise<{ readonly code: number; readonly message: string }> {
    try {
      await call;
    } catch (error) {
      if (error instanceof TtrpcError) return error.status;
      throw error;
    }
    throw new Error("the call did not fail");
  }

  async create(
    id: string,
    layers: readonly Layer[],
    args: readonly string[],
    fields: { readonly mounts?: { destination: string; type: string; source: string; options: string[] }[] } = {},
  ): Promise<void> {
    await this.client.unary(createContainer, containerRequest(id, layers, args, fields.mounts));
  }

  async exec(containerId: string, execId: string, args: readonly string[]): Promise<void> {
    await this.client.unary(execProcess, { containerId, execId, process: processOf(args) });
  }
}

async function* chunks(parts: readonly Uint8Array[]): AsyncIterable<Uint8Array> {
  for (const part of parts) yield await Promise.resolve(part);
}

const processOf = (args: readonly string[]) => ({
  User: { UID: 0, GID: 0 },
  Args: [...args],
  Env: ["PATH=/bin", "GREETING=hello"],
  Cwd: "/",
  // What no laptop can give: the container runs all the same.
  Rlimits: [{ Type: "RLIMIT_NOFILE", Hard: 1n << 40n, Soft: 1n << 40n }],
  OOMScoreAdj: -998n,
});

function containerRequest(
  id: string,
  layers: readonly Layer[],
  args: readonly string[],
  mounts: { destination: string; type: string; source: string; options: string[] }[] = [],
): MessageInitShape<typeof createContainer.input> {
  const root = `${ROOT}/shared/containers/${id}`;
  const options = (hash: string): string[] => [
    "ro",
    "io.katacontainers.fs-opt.block_device=file",
    "io.katacontainers.fs-opt.is-layer",
    `io.katacontainers.fs-opt.root-hash=${hash}`,
  ];
  return {
    containerId: id,
    execId: id,
    storages: [
      ...layers.map((layer) => ({ driver: "blk", source: layer.slot, fstype: "tar", options: options(layer.hash), mountPoint: `${LAYERS}/${layer.id}` })),
      {
        driver: "overlayfs",
        source: "none",
        fstype: "fuse3.kata-overlay",
        options: [
          "io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers",
          ...layers.map((layer) => `io.katacontainers.fs-opt.layer=${toBase64(encodeUtf8(`${layer.id},tar,${options(layer.hash).join(",")}`))}`),
          "io.katacontainers.fs-opt.overlay-rw",
          `lowerdir=${layers.map((layer) => layer.id).join(":")}`,
        ],
        mountPoint: root,
      },
    ],
    OCI: {
      Version: "1.1.0-rc.1",
      Process: { ...processOf(args), Capabilities: { Bounding: ["CAP_CHOWN"], Effective: ["CAP_CHOWN"], Permitted: ["CAP_CHOWN"] } },
      Root: { Path: root },
      Mounts: [
        { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
        ...mounts,
      ],
      Linux: { Namespaces: [{ Type: "ipc" }, { Type: "uts" }, { Type: "mount" }], MaskedPaths: ["/proc/keys"], Resources: { Memory: { Limit: 1n << 30n } } },
    },
  };
}

const base = { uid: 0, gid: 0, mtime: 1_700_000_000 };
const busyboxLayer = (): readonly TarItem[] => [
  ...["bin", "dev", "etc", "proc", "run", "sys", "tmp"].map((path): TarItem => ({ ...base, kind: "directory", path, mode: 0o755 })),
  { ...base, kind: "file", path: "bin/busybox", mode: 0o755, data: readFileSync(BUSYBOX) },
  ...["sh", "cat", "id", "ls", "sleep", "hostname", "seq", "wc"].map((name): TarItem => ({
    ...base,
    kind: "symlink",
    path: `bin/${name}`,
    mode: 0o777,
    target: "busybox",
  })),
  { ...base, kind: "file", path: "etc/lower", mode: 0o640, data: encodeUtf8("from below\n") },
  { ...base, kind: "file", path: "etc/hidden", mode: 0o644, data: encodeUtf8("not to be seen\n") },
];
const topLayer: readonly TarItem[] = [
  { ...base, kind: "file", path: "etc/upper", mode: 0o644, data: encodeUtf8("from above\n") },
  { ...base, kind: "file", path: "etc/.wh.hidden", mode: 0o644, data: new Uint8Array(0) },
];

/** Hides all that is below it in etc, and has a file with a capability (CAP_NET_BIND_SERVICE, permitted and effective; capabilities(7)). */
const opaqueLayer: readonly TarItem[] = [
  { ...base, kind: "directory", path: "etc", mode: 0o755 },
  { ...base, kind: "file", path: "etc/.wh..wh..opq", mode: 0o644, data: new Uint8Array(0) },
  { ...base, kind: "file", path: "etc/only", mode: 0o644, data: encodeUtf8("alone\n") },
  {
    ...base,
    kind: "file",
    path: "bin/bound",
    mode: 0o755,
    data: encodeUtf8("#!/bin/sh\n"),
    xattrs: new Map([["security.capability", fromHex("0100000200040000000000000000000000000000")]]),
  },
];

const id = (digit: string): string => digit.repeat(64);
const sh = (script: string): readonly string[] => ["/bin/sh", "-c", script];

describe.skipIf(!possible)("the agent as a process (needs root, crun and busybox)", () => {
  const guest = new Guest();
  let layers: readonly Layer[] = [];
  const run = async (digit: string, script: string, mounts: Parameters<Guest["create"]>[3] = {}): ReturnType<Guest["outcome"]> => {
    await guest.create(id(digit), layers, sh(script), mounts);
    await guest.client.unary(startContainer, { containerId: id(digit) });
    const outcome = await guest.outcome(id(digit));
    await guest.client.unary(removeContainer, { containerId: id(digit) });
    return outcome;
  };

  beforeAll(async () => {
    const policy = allowAll(["SetPolicyRequest"], "default SetPolicyRequest := false\n");
    await guest.start();
    const reports = serveReports(`${guest.guestInfo}/tsm/report`, sha256(encodeUtf8(policy)));
    await guest.client.unary(setPolicy, { policy });
    reports.close();
    await guest.client.unary(createSandbox, {
      sandboxId: id("f"),
      hostname: "sealed-pod",
      dns: ["nameserver 10.0.2.3"],
      storages: [
        {
          driver: "ephemeral",
          source: "shm",
          fstype: "tmpfs",
          mountPoint: `${ROOT}/sandbox/shm`,
          options: ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
        },
      ],
    });
    layers = [await guest.attach(topLayer), await guest.attach(busyboxLayer())];
  });
  afterAll(async () => {
    await guest.stop();
  });

  it("is alive, has a policy now, and takes no second one", async () => {
    expect((await guest.client.unary(Health.method.check, {})).status).toBe(1);
    expect((await guest.failure(guest.client.unary(setPolicy, { policy: "package agent_policy" }))).code).toBe(STATUS.permissionDenied);
  });

  it("runs a container on its layers and gives its output and exit status", async () => {
    expect(await run("1", "echo $GREETING; cat /etc/lower /etc/upper; ls /etc; echo oops >&2; exit 7")).toEqual({
      stdout: "hello\nfrom below\nfrom above\nlower\nupper\n",
      stderr: "oops\n",
      status: 7,
    });
  });

  it.skipIf(!haveSetfattr)(
    `hides what is below an opaque directory, and keeps file capabilities${haveSetfattr ? "" : " (skipped: no setfattr; Debian package attr)"}`,
    async () => {
      const opaque = await guest.attach(opaqueLayer);
      await guest.create(id("1"), [opaque, ...layers], sh("ls /etc; cat /etc/only"));
      const where = `/proc/${guest.firstProcess()}/root${ROOT}/sandbox/layers/${opaque.id}/bin/bound`;
      const { stdout } = spawnSync("getfattr", ["--only-values", "-n", "security.capability", where]);
      expect(stdout.toString("hex")).toBe("0100000200040000000000000000000000000000");
      await guest.client.unary(startContainer, { containerId: id("1") });
      expect((await guest.outcome(id("1"))).stdout).toBe("only\nalone\n");
      await guest.client.unary(removeContainer, { containerId: id("1") });
    },
  );

  it("keeps the pod's host name, its own processes, and only the capabilities asked for", async () => {
    const { stdout } = await run("1", "hostname; echo $$; while read a b; do case $a in CapEff:) echo $b;; esac; done < /proc/self/status");
    expect(stdout).toBe("sealed-pod\n1\n0000000000000001\n");
  });

  it("gives each container a root of its own that goes with it", async () => {
    expect((await run("1", "echo mine > /etc/lower; cat /etc/lower")).stdout).toBe("mine\n");
    expect((await run("2", "cat /etc/lower")).stdout).toBe("from below\n");
  });

  it("shows the guest information and the volumes", async () => {
    writeFileSync(`${guest.guestInfo}/note`, "from the platform");
    const path = `${ROOT}/shared/containers/${id("1")}-0123456789abcdef-config`;
    const data = encodeUtf8("copied");
    await guest.client.unary(copyFile, { path: `${path}/key`, fileSize: 6n, fileMode: 0o100644, dirMode: 0o755, data });
    const mounts = [
      { destination: "/etc/config", type: "bind", source: path, options: ["rbind", "ro"] },
      { destination: "/dev/shm", type: "bind", source: `${ROOT}/sandbox/shm`, options: ["rbind", "rw"] },
      { destination: "/etc/resolv.conf", type: "bind", source: `${ROOT}/sandbox/resolv.conf`, options: ["rbind", "ro"] },
    ];
    const { stdout, stderr } = await run("1", "cat /run/sealpod/note /etc/config/key /etc/resolv.conf; echo x > /dev/shm/x; echo x > /etc/config/key", {
      mounts,
    });
    expect(stdout).toBe("from the platformcopiednameserver 10.0.2.3\n");
    expect(stderr).toContain("Read-only file system");
  });

  it("lets a container write into the report interface alone, and put nothing in its place", async () => {
    writeFileSync(`${guest.guestInfo}/note`, "from the platform");
    const script = [
      "cd /run/sealpod",
      "mkdir tsm/report/entry && echo made && rmdir tsm/report/entry",
      "for file in note new tsm/new; do echo x > $file; done",
      "mv tsm other || mv tsm/report tsm/other || rmdir tsm/report || echo kept",
    ].join("; ");
    const { stdout, stderr } = await run("1", script);
    expect(stdout).toBe("made\nkept\n");
    expect(stderr.match(/Read-only file system/g)?.length).toBeGreaterThanOrEqual(3);
    expect(readFileSync(`${guest.guestInfo}/note`, "utf8")).toBe("from the platform");
  });

  it("lets a process open its streams by name again, as web servers do", async () => {
    expect(await run("1", "echo out > /dev/stdout; echo err > /proc/self/fd/2")).toEqual({ stdout: "out\n", stderr: "err\n", status: 0 });
  });

  it("carries more output than any buffer holds, and input", async () => {
    await guest.create(id("1"), layers, sh("seq 1 200000; wc -c"));
    await guest.client.unary(startContainer, { containerId: id("1") });
    const outcome = guest.outcome(id("1"));
    const block = encodeUtf8("0123456789".repeat(10_000));
    for (let i = 0; i < 20; i++) await guest.client.unary(writeStdin, { containerId: id("1"), data: block });
    await guest.client.unary(closeStdin, { containerId: id("1") });
    const { stdout } = await outcome;
    expect(stdout.split("\n").slice(-3)).toEqual(["200000", "2000000", ""]);
    expect(stdout).toHaveLength(1_288_895 + "2000000\n".length);
    await guest.client.unary(removeContainer, { containerId: id("1") });
  });

  it("runs other processes in a container, gives their exit codes, and says why one cannot start", async () => {
    await guest.create(id("1"), layers, sh("trap 'exit 5' TERM; while :; do sleep 0.05; done"));
    expect((await guest.failure(guest.exec(id("1"), "early", sh("true")))).code).toBe(STATUS.internal);
    await guest.client.unary(startContainer, { containerId: id("1") });
    expect((await guest.failure(guest.client.unary(startContainer, { containerId: id("1") }))).code).toBe(STATUS.failedPrecondition);
    for (const [name, script, outcome] of [
      ["e0", "exit 0", { stdout: "", status: 0 }],
      ["e3", "echo out; exit 3", { stdout: "out\n", status: 3 }],
      ["kill", "kill -9 $$", { stdout: "", status: 137 }],
    ] as const) {
      await guest.exec(id("1"), name, sh(script));
      expect(await guest.outcome(id("1"), name), name).toMatchObject(outcome);
      expect((await guest.failure(guest.client.unary(waitProcess, { containerId: id("1"), execId: name }))).code).toBe(STATUS.notFound);
    }
    expect(await guest.failure(guest.exec(id("1"), "missing", ["/bin/missing"]))).toMatchObject({
      code: STATUS.internal,
      message: expect.stringContaining("/bin/missing") as string,
    });

    await guest.exec(id("1"), "long", sh("echo ready; sleep 1000"));
    await guest.client.unary(readStdout, { containerId: id("1"), execId: "long", len: 100 });
    const stats = await guest.client.unary(statsContainer, { containerId: id("1") });
    expect(Number(stats.cgroupStats?.pidsStats?.current)).toBeGreaterThanOrEqual(2);
    expect(stats.cgroupStats?.memoryStats?.usage?.usage).toBeGreaterThan(0n);
    await guest.client.unary(signalProcess, { containerId: id("1"), execId: "long", signal: 9 });
    expect((await guest.client.unary(waitProcess, { containerId: id("1"), execId: "long" })).status).toBe(137);

    // The container's own handler runs, and the failed exec has left nothing that keeps it from ending.
    await guest.client.unary(signalProcess, { containerId: id("1"), signal: 15 });
    expect((await guest.outcome(id("1"))).status).toBe(5);
    await guest.client.unary(removeContainer, { containerId: id("1") });
  });

  it("runs another process as soon as the first one was started", async () => {
    for (let i = 0; i < 5; i++) {
      await guest.create(id("1"), layers, ["/bin/sleep", "1000"]);
      await guest.client.unary(startContainer, { containerId: id("1") });
      await guest.exec(id("1"), "probe", sh("echo $HOME; exit 7"));
      expect(await guest.outcome(id("1"), "probe")).toEqual({ stdout: "/\n", stderr: "", status: 7 });
      await guest.client.unary(removeContainer, { containerId: id("1") });
    }
  });

  it("says what it lacks as a process of the host: terminals without their helper, pause without cgroups", async () => {
    const request = containerRequest(id("1"), layers, sh("true"));
    const tty = { ...request, OCI: { ...request.OCI, Process: { ...processOf(sh("true")), Terminal: true } } } as typeof request;
    if (!existsSync("/usr/lib/sealpod/helper")) {
      expect((await guest.failure(guest.client.unary(createContainer, tty))).code).toBe(STATUS.unimplemented);
    }
    await guest.create(id("1"), layers, ["/bin/sleep", "1000"]);
    await guest.client.unary(startContainer, { containerId: id("1") });
    expect(await guest.failure(guest.client.unary(ttyWinResize, { containerId: id("1"), row: 1, column: 1 }))).toEqual({
      code: STATUS.unavailable,
      message: "no tty",
    });
    expect((await guest.failure(guest.client.unary(pauseContainer, { containerId: id("1") }))).code).toBe(STATUS.unimplemented);
    await guest.client.unary(removeContainer, { containerId: id("1") });
  });

  it.each([
    ["SIGTERM without a handler", 15, true, 137],
    ["SIGKILL", 9, true, 137],
    ["SIGTERM before the start", 15, false, 137],
    ["SIGKILL before the start", 9, false, 137],
  ])("ends on %s", async (_what, signal, started, status) => {
    await guest.create(id("1"), layers, ["/bin/sleep", "1000"]);
    if (started) await guest.client.unary(startContainer, { containerId: id("1") });
    const waiting = guest.client.unary(waitProcess, { containerId: id("1") });
    await guest.client.unary(signalProcess, { containerId: id("1"), signal });
    expect((await waiting).status).toBe(status);
    await guest.client.unary(removeContainer, { containerId: id("1") });
  });

  it("removes a container in any state", async () => {
    await guest.create(id("1"), layers, ["/bin/sleep", "1000"]);
    await guest.client.unary(removeContainer, { containerId: id("1") });
    await guest.create(id("1"), layers, ["/bin/sleep", "1000"]);
    await guest.client.unary(startContainer, { containerId: id("1") });
    await guest.client.unary(removeContainer, { containerId: id("1") });
    expect((await guest.failure(guest.client.unary(removeContainer, { containerId: id("1") }))).code).toBe(STATUS.invalidArgument);
  });

  it("shows the processes of the first container to one that shares its pid namespace", async () => {
    await guest.create(id("1"), layers, ["/bin/sleep", "1000"]);
    try {
      await guest.client.unary(startContainer, { containerId: id("1") });
      await guest.client.unary(createContainer, { ...containerRequest(id("2"), layers, sh("cat /proc/1/cmdline; sleep 1000 & exit 4")), sandboxPidns: true });
      await guest.client.unary(startContainer, { containerId: id("2") });
      const { status } = await guest.client.unary(waitProcess, { containerId: id("2") });
      expect(status, guest.crunLog(id("2"))).toBe(4);
      const { data } = await guest.client.unary(readStdout, { containerId: id("2"), len: 100 });
      expect(Buffer.from(data).toString()).toBe(["/bin/sleep", "1000", ""].join("\0"));
    } finally {
      for (const digit of ["2", "1"]) await guest.client.unary(removeContainer, { containerId: id(digit) }).catch(() => undefined);
    }
  });

  it("refuses a layer with one flipped bit, and keeps nothing of it", async () => {
    const damaged = await guest.attach(busyboxLayer(), (file) => {
      file[300_000] = (file[300_000] ?? 0) ^ 1;
    });
    const error = await guest.failure(guest.create(id("1"), [damaged], sh("echo never")));
    expect(error).toMatchObject({
      code: STATUS.internal,
      message: expect.stringContaining(`data block ${Math.floor(300_000 / 4096)} does not match root hash ${damaged.hash}`) as string,
    });
    // The same mount point is free again.
    const again = await guest.attach(busyboxLayer());
    await guest.create(id("1"), [{ ...again, id: damaged.id }], sh("true"));
    await guest.client.unary(removeContainer, { containerId: id("1") });
  });

  it("says why a container cannot start", async () => {
    const error = await guest.failure(
      guest.create(id("1"), layers, sh("true"), { mounts: [{ destination: "/x", type: "bind", source: "/missing", options: ["rbind"] }] }),
    );
    expect(error).toMatchObject({ code: STATUS.internal, message: expect.stringContaining("/missing") as string });
  });

  it("has lowered what it could not give, and said so, and has logged no content", () => {
    expect(guest.log).toContain("no cgroups here");
    expect(guest.log).not.toContain("hello");
  });

  it("ends with its sandbox: containers, long polls, connection, process", async () => {
    await guest.create(id("1"), layers, ["/bin/sleep", "1000"]);
    await guest.client.unary(startContainer, { containerId: id("1") });
    const event = guest.failure(guest.client.unary(getOOMEvent, {}));
    const wait: Promise<MessageShape<typeof waitProcess.output>> = guest.client.unary(waitProcess, { containerId: id("1") });
    await guest.client.unary(destroySandbox, {});
    expect((await event).code).toBe(STATUS.internal);
    expect((await wait).status).toBe(137);
    expect(await guest.stop("by itself")).toBe(0);
  });
});

describe.skipIf(!possible)("the agent's end and beginning (needs root, crun and busybox)", () => {
  it("ends cleanly on SIGTERM while a container runs", async () => {
    const guest = new Guest();
    await guest.start();
    await guest.stop();
    const busy = new Guest();
    const policy = `${busy.directory}/policy.rego`;
    writeFileSync(policy, allowAll());
    await busy.start(["--default-policy", policy]);
    await busy.client.unary(createSandbox, { sandboxId: id("f") });
    await busy.create(id("1"), [await busy.attach(busyboxLayer())], ["/bin/sleep", "1000"]);
    await busy.client.unary(startContainer, { containerId: id("1") });
    expect(await busy.stop()).toBe(0);
  });

  it("does not begin without a policy that it can use", async () => {
    for (const text of [undefined, "package agent_policy\nallow {"]) {
      const guest = new Guest();
      const policy = `${guest.directory}/policy.rego`;
      if (text !== undefined) writeFileSync(policy, text);
      await expect(guest.start(["--default-policy", policy])).rejects.toThrow(/the agent ended with [12]:/);
      await guest.stop();
    }
  });
});
