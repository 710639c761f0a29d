import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, watch, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { PassThrough } from "node:stream";
import { asObject, concatBytes, encodeUtf8, type JsonObject, toBase64, toHex } from "@sealpod/core";
import { AgentService, create, type MessageInitShape, StorageSchema, type Storage } from "@sealpod/proto";
import { encodeReport, type Report } from "@sealpod/snp";
import { buildLayer, encodeTar } from "@sealpod/verity";
import type { CgroupDirectories, Cgroups, ContainerCgroup } from "./cgroups.ts";
import type { GuestSystem, MountRequest } from "./guest-system.ts";
import type { ProcessLimits } from "./process-limits.ts";
import type { Runtime, RuntimeCgroup, RuntimeContainer, RuntimeProcess } from "./runtime.ts";

/** A directory of its own under the system's temporary one, gone after `use`. */
export async function inTemporaryDirectory(use: (path: string) => void | Promise<void>): Promise<void> {
  const path = mkdtempSync(`${tmpdir()}/sealpod-agent-`);
  try {
    await use(path);
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
}

/** Limits of an agent that has CAP_SYS_RESOURCE. */
export const NO_LIMITS: ProcessLimits = { unlimited: true, oomScoreAdj: 0n, hard: new Map() };

/** A guest without mounts and devices: it writes down what it was asked. */
export class FakeSystem implements GuestSystem {
  readonly mounts: MountRequest[] = [];
  readonly unmounted: string[] = [];
  readonly xattrs: { path: string; name: string; value: string }[] = [];
  readonly whiteouts: string[] = [];
  hostname: string | undefined;
  /** What the next mount fails with. */
  mountError: Error | undefined;

  mount(request: MountRequest): Promise<void> {
    this.mounts.push(request);
    return this.mountError === undefined ? Promise.resolve() : Promise.reject(this.mountError);
  }

  unmount(target: string): Promise<void> {
    this.unmounted.push(target);
    return Promise.resolve();
  }

  makeWhiteout(path: string): Promise<void> {
    this.whiteouts.push(path);
    return Promise.resolve();
  }

  makePipe(): Promise<void> {
    return Promise.reject(new Error("not in this test"));
  }

  setXattr(path: string, name: string, value: Uint8Array): Promise<void> {
    this.xattrs.push({ path, name, value: Buffer.from(value).toString("latin1") });
    return Promise.resolve();
  }

  setHostname(name: string): void {
    this.hostname = name;
  }
}

/** A process that does what the test says. */
export class FakeProcess implements RuntimeProcess {
  readonly stdin: PassThrough = new PassThrough();
  readonly stdout: PassThrough = new PassThrough();
  readonly stderr: PassThrough = new PassThrough();
  readonly signals: number[] = [];
  readonly sizes: (readonly [rows: number, columns: number])[] = [];
  /** Present in a process with a terminal. */
  readonly resize?: (rows: number, columns: number) => void;
  readonly #exit = Promise.withResolvers<number>();
  readonly exited: Promise<number> = this.#exit.promise;

  constructor(process?: JsonObject) {
    if (process?.["terminal"] === true) this.resize = (rows, columns) => void this.sizes.push([rows, columns]);
  }

  signal(signal: number): void {
    this.signals.push(signal);
  }

  exit(status: number): void {
    this.stdout.end();
    this.stderr.end();
    this.#exit.resolve(status);
  }
}

/** Containers without a kernel. */
export class FakeRuntime implements Runtime {
  readonly created: { id: string; bundle: string; spec: JsonObject; group?: RuntimeCgroup }[] = [];
  readonly executed: { id: string; execId: string; process: JsonObject }[] = [];
  readonly started: string[] = [];
  readonly removed: string[] = [];
  /** First processes by container, others by `container/exec`. */
  readonly processes: Map<string, FakeProcess> = new Map();
  /** What the next create fails with. */
  createError: Error | undefined;

  create(id: string, bundle: string, spec: JsonObject, group?: RuntimeCgroup): Promise<RuntimeContainer> {
    this.created.push({ id, bundle, spec, ...(group === undefined ? {} : { group }) });
    if (this.createError !== undefined) return Promise.reject(this.createError);
    const init = new FakeProcess(asObject(spec["process"]));
    this.processes.set(id, init);
    return Promise.resolve({
      init,
      pidNamespace: `/proc/1/fd/${id}`,
      usage: () => ({ user: 2n, kernel: 1n, memory: 4096n, processes: 1 }),
      start: () => void this.started.push(id),
      remove: () => {
        this.removed.push(id);
        init.exit(137);
        return Promise.resolve();
      },
    });
  }

  exec(id: string, _bundle: string, execId: string, process: JsonObject): Promise<RuntimeProcess> {
    this.executed.push({ id, execId, process });
    const made = new FakeProcess(process);
    this.processes.set(`${id}/${execId}`, made);
    return Promise.resolve(made);
  }
}

/** Control groups without a kernel: they write down what they were asked. */
export class FakeCgroups implements Cgroups {
  readonly groups: Map<string, FakeCgroup> = new Map();
  /** What the next create fails with. */
  createError: Error | undefined;

  create(id: string): FakeCgroup {
    if (this.createError !== undefined) throw this.createError;
    const group = new FakeCgroup(id, () => this.groups.delete(id));
    this.groups.set(id, group);
    return group;
  }
}

/** A control group that does at once what it is asked. */
export class FakeCgroup implements ContainerCgroup {
  readonly path: string;
  readonly asked: string[] = [];
  readonly updates: unknown[] = [];
  frozen = false;
  /** Killed processes that the kernel has counted, and nobody has looked at. */
  kills = 0;
  #listener: (() => void) | undefined;
  readonly #gone: () => void;

  constructor(id: string, gone: () => void) {
    this.path = `/test/${id}`;
    this.#gone = gone;
  }

  stats(): ReturnType<ContainerCgroup["stats"]> {
    return { pidsStats: { current: 5n } };
  }

  update(resources: unknown): void {
    this.updates.push(resources);
  }

  freeze(): Promise<void> {
    this.frozen = true;
    return Promise.resolve();
  }

  thaw(): Promise<void> {
    this.frozen = false;
    return Promise.resolve();
  }

  kill(): void {
    this.asked.push("kill");
  }

  onOutOfMemory(listener: () => void): void {
    this.#listener = listener;
  }

  checkOutOfMemory(): void {
    if (this.kills === 0) return;
    this.kills = 0;
    this.#listener?.();
  }

  remove(): Promise<void> {
    this.asked.push("remove");
    this.#gone();
    return Promise.resolve();
  }
}

/** Files that the kernel makes in a control group, with what they hold at first. */
const CGROUP_FILES: Readonly<Record<string, string>> = {
  "cgroup.controllers": "cpu memory misc\n",
  "cgroup.subtree_control": "",
  "cgroup.events": "populated 0\nfrozen 0\n",
  "cgroup.freeze": "0\n",
  "cgroup.kill": "",
  "cgroup.max.descendants": "max\n",
  "cgroup.max.depth": "max\n",
};

/** A directory that looks like a hierarchy of control groups, as far as the agent can tell. */
export class FakeHierarchy implements CgroupDirectories {
  readonly root: string;
  readonly removed: string[] = [];

  constructor(root: string) {
    this.root = root;
    this.make(root);
  }

  make(path: string): void {
    mkdirSync(path);
    for (const [name, text] of Object.entries(CGROUP_FILES)) writeFileSync(`${path}/${name}`, text);
  }

  remove(path: string): void {
    if (readFileSync(`${path}/cgroup.events`, "latin1").includes("populated 1")) throw Object.assign(new Error("EBUSY: busy"), { code: "EBUSY" });
    this.removed.push(path.slice(this.root.length));
    rmSync(path, { recursive: true });
  }

  /** Writes files of a group as the kernel would. */
  set(group: string, files: Readonly<Record<string, string>>): void {
    for (const [name, text] of Object.entries(files)) writeFileSync(`${this.root}/${group}/${name}`, text);
  }

  get(group: string, name: string): string {
    return readFileSync(`${this.root}/${group}/${name}`, "latin1");
  }
}

/** A storage of a request. */
export function storage(fields: MessageInitShape<typeof StorageSchema>): Storage {
  return create(StorageSchema, fields);
}

/** The error of a call that must fail. */
export async function errorOf(call: () => unknown): Promise<{ readonly code: string; readonly message: string }> {
  try {
    await call();
  } catch (error) {
    return error as { code: string; message: string };
  }
  throw new Error("expected an error");
}

/** A layer that is an empty directory. */
const EMPTY_LAYER = await (async () => {
  const parts: Uint8Array[] = [];
  const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
  const tar = encodeTar([{ kind: "directory", path: ".", mode: 0o755, uid, gid, mtime: 0 }]);
  const { rootHash } = await buildLayer(tar, { write: (bytes) => Promise.resolve(void parts.push(bytes.slice())) });
  return { bytes: concatBytes(...parts), hash: toHex(rootHash) };
})();

/**
 * Storages of a container whose root has one layer, which containers share. Its disk is put into the directory `devices` beside the guest's root.
 * @param root directory of the guest
 */
export function rootStorages(root: string, id: string): MessageInitShape<typeof StorageSchema>[] {
  const option = "io.katacontainers.fs-opt";
  const options = ["ro", `${option}.block_device=file`, `${option}.is-layer`, `${option}.root-hash=${EMPTY_LAYER.hash}`];
  const disk = `${root}/../devices/e0`;
  if (existsSync(`${root}/../devices`) && !existsSync(disk)) writeFileSync(disk, EMPTY_LAYER.bytes);
  return [
    { driver: "blk", source: "e0", fstype: "tar", options, mountPoint: `${root}/sandbox/layers/empty` },
    {
      driver: "overlayfs",
      source: "none",
      fstype: "fuse3.kata-overlay",
      options: [`${option}.layer=${toBase64(encodeUtf8(["empty", "tar", ...options].join(",")))}`, `${option}.overlay-rw`, "lowerdir=empty"],
      mountPoint: `${root}/shared/containers/${id}`,
    },
  ];
}

/** A policy that allows what the known `allow-all.rego` does, written for tests. */
export function allowAll(except: readonly string[] = [], more = ""): string {
  const rules = AgentService.methods.map(({ input }) => input.name).filter((name) => !except.includes(name));
  return `package agent_policy\n\n${[...new Set(rules)].map((rule) => `default ${rule} := true\n`).join("")}\n${more}`;
}

/** A report that nobody has signed. */
export function reportOf(hostData: Uint8Array, reportData: Uint8Array): Uint8Array {
  return encodeReport({ ...EMPTY_REPORT, hostData, reportData });
}

/** A report interface in a plain directory that answers with reports of one HOST_DATA. For the real emulator see laptop/psp. */
export function serveReports(directory: string, hostData: Uint8Array): { close(): void } {
  mkdirSync(directory, { recursive: true });
  const answered = new Set<string>();
  const look = (): void => {
    for (const name of readdirSync(directory)) {
      const entry = `${directory}/${name}`;
      if (answered.has(name)) continue;
      watchers.push(watch(entry, () => answer(name, entry)));
      answer(name, entry);
    }
  };
  const answer = (name: string, entry: string): void => {
    if (answered.has(name) || !existsSync(`${entry}/inblob`) || readFileSync(`${entry}/inblob`).length !== 64) return;
    answered.add(name);
    writeFileSync(`${entry}/outblob`, reportOf(hostData, new Uint8Array(readFileSync(`${entry}/inblob`))));
    writeFileSync(`${entry}/auxblob`, "");
    writeFileSync(`${entry}/provider`, "sev_guest\n");
    writeFileSync(`${entry}/generation.new`, "1\n");
    renameSync(`${entry}/generation.new`, `${entry}/generation`);
  };
  const watchers = [watch(directory, look)];
  return { close: () => watchers.forEach((watcher) => watcher.close()) };
}

const EMPTY_REPORT: Report = {
  version: 2,
  guestSvn: 0,
  policy: 0x30000n,
  familyId: new Uint8Array(16),
  imageId: new Uint8Array(16),
  vmpl: 0,
  currentTcb: new Uint8Array(8),
  platformInfo: 0n,
  keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vcek" },
  reportData: new Uint8Array(64),
  measurement: new Uint8Array(48),
  hostData: new Uint8Array(32),
  idKeyDigest: new Uint8Array(48),
  authorKeyDigest: new Uint8Array(48),
  reportId: new Uint8Array(32),
  reportIdMa: new Uint8Array(32),
  reportedTcb: new Uint8Array(8),
  processor: undefined,
  chipId: new Uint8Array(64),
  committedTcb: new Uint8Array(8),
  currentFirmware: { major: 1, minor: 0, build: 0 },
  committedFirmware: { major: 1, minor: 0, build: 0 },
  launchTcb: new Uint8Array(8),
  launchMitigations: 0n,
  currentMitigations: 0n,
  signature: { r: 1n, s: 1n },
};
