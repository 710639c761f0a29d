import { accessSync, constants, existsSync } from "node:fs";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { encodeUtf8, silentLogger, toHex, type ByteSink } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { PspClient, SecurityProcessor, servePsp, type PspServer } from "@sealpod/psp";
import { createSandbox, type Container, type ContainerLayer, type GuestProcess, type HostVolumes, type LayerFormat, type Sandbox } from "@sealpod/sandbox";
import { buildErofsLayer, buildLayer, encodeTar, patchableSink, type PatchableSink, type TarItem } from "@sealpod/verity";
import { PROGRAM_DIRECTORIES, type MachineConfig, type MachineEvent, type UvmGuest, type VmmDriver } from "@sealpod/vmm";
import { openPodMachine, type PodMachine } from "./index.ts";

/** For tests that need a utility VM: how to start one, and containers in it. */

const ROOT = resolve(import.meta.dirname, "../..");

/** Why there is no VM here, or undefined. */
export const noVm: string | undefined =
  process.getuid?.() !== 0 ? "needs root" : !isProgram("qemu-system-x86_64") ? "needs qemu-system-x86" : !isProgram("apt-get") ? "needs apt" : undefined;

/** Text behind the title of a suite that is skipped. */
export const skippedVm: string = noVm === undefined ? "" : ` (skipped: ${noVm})`;

/** Milliseconds that one test with a VM may take: four seconds to boot here, several times that on a busy machine. */
export const VM_TIMEOUT = 240_000;

function isProgram(name: string): boolean {
  return PROGRAM_DIRECTORIES.some((directory) => {
    try {
      accessSync(join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** A policy that allows everything; its digest is HOST_DATA as any other's. */
export const ALLOW_ALL: string = `package agent_policy
${[
  "AddARPNeighbors CloseStdin CopyFile CreateContainer CreateSandbox DestroySandbox ExecProcess GetDiagnosticData GetMetrics GetOOMEvent GuestDetails",
  "ListInterfaces ListRoutes OnlineCPUMem PauseContainer ReadStream RemoveContainer RemoveStaleVirtiofsShareMounts ReseedRandomDev ResumeContainer",
  "SetGuestDateTime SignalProcess StartContainer StatsContainer TtyWinResize UpdateContainer UpdateEphemeralMounts UpdateInterface UpdateRoutes",
  "VolumeStats WaitProcess WriteStream",
]
  .join(" ")
  .split(" ")
  .map((name) => `default ${name}Request := true`)
  .join("\n")}
`;

/** What is there once for a file of tests: the processor, the image, a directory. */
export interface VmWorld extends AsyncDisposable {
  readonly directory: string;
  readonly machine: PodMachine & { readonly guest: UvmGuest };
  readonly psp: PspClient;
  /** The emulated processor behind it. */
  readonly processor: SecurityProcessor;
  /** A layer file of these members. */
  readonly layer: (items: Iterable<TarItem> | AsyncIterable<TarItem>, format?: LayerFormat) => Promise<ContainerLayer>;
  /** Boots a sandbox. Disposed with the world if the test does not destroy it. */
  readonly boot: (options?: BootOptions) => Promise<VmSandbox>;
}

/** Options of {@link VmWorld.boot}. */
export interface BootOptions {
  /** Of the sandbox, and so of its first container; chosen by chance if absent. */
  readonly id?: string;
  readonly policy?: string;
  /** In the place of the world's. */
  readonly driver?: VmmDriver;
  readonly guest?: UvmGuest;
  /** Changes what the machine is made of. */
  readonly machine?: Partial<MachineConfig>;
}

/** A sandbox in a VM. */
export interface VmSandbox {
  readonly id: string;
  readonly sandbox: Sandbox;
  readonly events: readonly MachineEvent[];
  /** Resolves with the first event of this kind. */
  readonly event: (kind: MachineEvent["kind"]) => Promise<MachineEvent>;
  /** What the guest has printed. */
  readonly console: () => string;
  /** Makes and starts a container. */
  readonly run: (options: RunOptions) => Promise<RunningContainer>;
}

/** What a test container is. */
export interface RunOptions {
  readonly layers: readonly ContainerLayer[];
  readonly args: readonly string[];
  readonly env?: readonly string[];
  readonly uid?: number;
  readonly gid?: number;
  readonly additionalGids?: readonly number[];
  readonly noNewPrivileges?: boolean;
  readonly rlimits?: readonly { readonly type: string; readonly hard: number; readonly soft: number }[];
  readonly cwd?: string;
  readonly terminal?: boolean;
  readonly readonly?: boolean;
  readonly capabilities?: readonly string[];
  /** More of `linux`. */
  readonly linux?: Readonly<Record<string, unknown>>;
  readonly mounts?: readonly { readonly destination: string; readonly type: string; readonly source: string; readonly options: readonly string[] }[];
  readonly annotations?: Readonly<Record<string, string>>;
  /** What the host's files do not show of the volumes among the mounts. */
  readonly volumes?: HostVolumes;
}

/** A container that was started, and what it has written so far. */
export interface RunningContainer {
  readonly container: Container;
  readonly process: GuestProcess;
  readonly stdout: () => string;
  readonly stderr: () => string;
  /** Resolves when what it wrote (to either stream) matches. Rejects if it ends before. */
  readonly wrote: (pattern: RegExp) => Promise<string>;
  /** Another process in it; resolves when that has ended. */
  readonly exec: (...args: readonly string[]) => Promise<{ readonly status: number; readonly stdout: string; readonly stderr: string }>;
}

/** Opens what tests with a VM share. The image of the checkout is built if it is missing. */
export async function openVmWorld(): Promise<VmWorld> {
  const directory = await mkdtemp(join(tmpdir(), "vm-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  const agentBundle = join(ROOT, "build", "agent.mjs");
  if (!existsSync(agentBundle)) throw new Error("build/agent.mjs is missing: npm run bundle");
  const processor = await SecurityProcessor.open(join(directory, "keys"), { clock: systemClock, random: systemRandom });
  const socketPath = join(directory, "psp.sock");
  const server: PspServer = await servePsp({ processor, socketPath, guestInfoBase: join(directory, "guests"), logger: silentLogger });
  stack.use(server);
  const machine = await openPodMachine({ isolation: "vm", node: process.execPath, agentBundle, uvmDirectory: join(ROOT, "build", "uvm") });
  const { guest } = machine;
  if (guest.kind !== "uvm") throw new Error("no utility VM");
  const psp = new PspClient(socketPath);
  const owned = stack.move();
  let serial = 0;

  const layer: VmWorld["layer"] = async (items, format = "erofs") => {
    const number = ++serial;
    const path = join(directory, `layer-${number}`);
    const build: (tar: AsyncIterable<Uint8Array>, sink: PatchableSink) => Promise<{ readonly rootHash: Uint8Array }> =
      format === "erofs" ? buildErofsLayer : buildLayer;
    const { rootHash } = await writing(path, (sink) => build(encodeTar(items), sink));
    return { layerId: number.toString(16).padStart(64, "0"), rootHash, format, path };
  };

  const boot: VmWorld["boot"] = async (options = {}) => {
    const { id = toHex(systemRandom.bytes(32)), policy = ALLOW_ALL, driver = machine.driver, guest: other = guest, machine: change = {} } = options;
    const events: MachineEvent[] = [];
    const waiting: { readonly kind: MachineEvent["kind"]; readonly resolve: (event: MachineEvent) => void }[] = [];
    let text = "";
    const sandbox = await createSandbox({
      id,
      driver,
      machine: {
        runDirectory: join(directory, `run-${++serial}`),
        guest: other,
        launch: psp,
        memoryMiB: 1024,
        vcpus: 1,
        console: (bytes) => (text += Buffer.from(bytes).toString("latin1")),
        onEvent: (event) => {
          events.push(event);
          for (const { kind, resolve } of waiting) if (kind === event.kind) resolve(event);
        },
        ...change,
      },
      policy,
      hostname: "pod",
      random: systemRandom,
    });
    owned.defer(() => sandbox.machine.stop());
    let containers = 0;
    return {
      id,
      sandbox,
      events,
      console: () => text,
      event: (kind) => {
        const past = events.find((event) => event.kind === kind);
        if (past !== undefined) return Promise.resolve(past);
        return new Promise((resolve) => waiting.push({ kind, resolve }));
      },
      run: (options) => startContainer(sandbox, containers++ === 0 ? id : toHex(systemRandom.bytes(32)), options),
    };
  };

  return { directory, machine: { ...machine, guest }, psp, processor, layer, boot, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function startContainer(sandbox: Sandbox, id: string, options: RunOptions): Promise<RunningContainer> {
  const bundle = `/run/containerd/io.containerd.runtime.v2.task/k8s.io/${id}`;
  const container = await sandbox.createContainer({
    id,
    spec: specOf(options),
    bundle,
    layers: options.layers,
    ...(options.volumes === undefined ? {} : { volumes: options.volumes }),
  });
  const [stdout, stderr] = [new Text(), new Text()];
  const process = await container.start({ stdout, stderr });
  let execs = 0;
  return {
    container,
    process,
    stdout: () => stdout.text,
    stderr: () => stderr.text,
    async wrote(pattern) {
      const ended = process.exited.then((status) => {
        if (!pattern.test(stdout.text + stderr.text)) throw new Error(`ended with ${status}, having written ${JSON.stringify(stdout.text + stderr.text)}`);
      });
      await Promise.race([stdout.matches(pattern), stderr.matches(pattern), ended]);
      return stdout.text + stderr.text;
    },
    async exec(...args) {
      const [out, err] = [new Text(), new Text()];
      const { process: own } = specOf(options);
      const child = await container.exec({ execId: `exec${++execs}`, process: { ...own, terminal: false, args }, stdout: out, stderr: err });
      await child.closeStdin();
      const status = await child.exited;
      return { status, stdout: out.text, stderr: err.text };
    },
  };
}

/** Part of what {@link specOf} makes. */
export interface OciProcess {
  readonly args: readonly string[];
}

/** A runtime specification as containerd writes it. */
export function specOf(options: RunOptions): { readonly process: OciProcess } {
  const capabilities = options.capabilities ?? [];
  return {
    ociVersion: "1.1.0",
    process: {
      terminal: options.terminal ?? false,
      user: { uid: options.uid ?? 0, gid: options.gid ?? 0, additionalGids: options.additionalGids ?? [] },
      args: options.args,
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ...(options.env ?? [])],
      cwd: options.cwd ?? "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      noNewPrivileges: options.noNewPrivileges ?? true,
      rlimits: options.rlimits ?? [],
      oomScoreAdj: 0,
    },
    root: { path: "rootfs", readonly: options.readonly ?? false },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
      { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
      { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
      ...(options.mounts ?? []),
    ],
    annotations: options.annotations ?? {},
    linux: {
      resources: {},
      cgroupsPath: "/kubepods/pod1/c",
      namespaces: [{ type: "pid" }, { type: "ipc" }, { type: "uts" }, { type: "mount" }, { type: "network" }],
      ...options.linux,
    },
  } as { readonly process: OciProcess };
}

/** What a process writes, and who waits for it. */
class Text implements ByteSink {
  text = "";
  readonly #waiting: { readonly pattern: RegExp; readonly resolve: () => void }[] = [];

  async write(bytes: Uint8Array): Promise<void> {
    this.text += Buffer.from(bytes).toString("utf8");
    for (const { pattern, resolve: done } of this.#waiting) if (pattern.test(this.text)) done();
  }

  async matches(pattern: RegExp): Promise<void> {
    if (pattern.test(this.text)) return;
    await new Promise<void>((resolve) => this.#waiting.push({ pattern, resolve }));
  }
}

async function writing<T>(path: string, fill: (sink: PatchableSink) => Promise<T>): Promise<T> {
  await using handle = await open(path, "wx");
  return await fill(
    patchableSink(async (offset, bytes) => {
      for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at, bytes.length - at, offset + at)).bytesWritten;
    }),
  );
}

/** A file of a layer. */
export function fileItem(path: string, data: Uint8Array | string, mode = 0o755): TarItem {
  return { kind: "file", path, mode, uid: 0, gid: 0, mtime: 0, data: typeof data === "string" ? encodeUtf8(data) : data };
}

/** A directory of a layer. */
export function directoryItem(path: string, mode = 0o755): TarItem {
  return { kind: "directory", path, mode, uid: 0, gid: 0, mtime: 0 };
}

/** A link of a layer. */
export function linkItem(path: string, target: string): TarItem {
  return { kind: "symlink", path, mode: 0o777, uid: 0, gid: 0, mtime: 0, target };
}
