import { chmodSync, chownSync, closeSync, constants, fstatSync, openSync, read, rmSync } from "node:fs";
import { promisify } from "node:util";
import { type ByteSource, fromHex, type Logger } from "@sealpod/core";
import type { Storage } from "@sealpod/proto";
import { openLayer, readTar } from "@sealpod/verity";
import { componentsBelow, ConfinedDirectory, shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";
import type { GuestSystem, MountRequest } from "./guest-system.ts";
import { extractLayer } from "./layer.ts";
import type { GuestPaths } from "./paths.ts";

/** Ports and directories that storages need. */
export interface StorageContext {
  readonly paths: GuestPaths;
  /** Directory with one entry per attached disk, named by its slot. */
  readonly devices: string;
  readonly system: GuestSystem;
  readonly logger: Logger;
}

/** Whom a storage is for. */
export interface StorageOwner {
  /** Directory of the container. */
  readonly directory: string;
  /** Mount points that the owner has got so far: its layers come before the root that is made of them. */
  readonly held: ReadonlySet<string>;
}

/** Undoes a storage. */
type Release = () => void | Promise<void>;

interface Mounted {
  /** Everything but the source, which names the same bytes differently each time they are attached. */
  readonly identity: string;
  readonly ready: Promise<Release>;
  holders: number;
  /** Settles when it is undone. */
  undone?: Promise<void>;
}

/** Mode of directories that lead to a mount point. */
const PARENT_MODE = 0o755;

/** Options that mean something to the shim alone, and those whose value the agent reads (specs/runtime.md 4.10). */
const ROOT_HASH = "io.katacontainers.fs-opt.root-hash=";
const OVERLAY_WRITABLE = "io.katacontainers.fs-opt.overlay-rw";
const PRIVATE_OPTION = "io.katacontainers.";
const LOWER = "lowerdir=";
const LAYER_OPTIONS: ReadonlySet<string> = new Set(["ro", "io.katacontainers.fs-opt.block_device=file", "io.katacontainers.fs-opt.is-layer"]);

/** Options of tmpfs. A list, because mount(8) takes some that turn the mount into another one (`bind`, `move`) or run helpers. */
const TMPFS_OPTION = /^(?:r[ow]|nosuid|nodev|noexec|noatime|relatime|mode=[0-7]{3,4}|(?:size|nr_inodes)=[0-9]{1,15}[kmgKMG%]?|[ug]id=[0-9]{1,10})$/;

/** Storage drivers. A driver that is not here does not exist (specs/runtime.md 2.10). */
const DRIVERS: ReadonlyMap<string, (storage: Storage, owner: StorageOwner, context: StorageContext) => Promise<Release>> = new Map([
  ["blk", mountLayer],
  ["overlayfs", mountOverlay],
  ["ephemeral", mountEphemeral],
  ["local", makeLocal],
]);

/** Names of the drivers, for GetGuestDetails. */
export const STORAGE_DRIVERS: readonly string[] = [...DRIVERS.keys()];

/**
 * The storages of a sandbox, by mount point. Containers with a layer or volume in common share it; it goes when the last of them does.
 */
export class Storages {
  readonly #context: StorageContext;
  readonly #mounted = new Map<string, Mounted>();

  constructor(context: StorageContext) {
    this.#context = context;
  }

  /**
   * Makes a storage ready, or takes part in one that is.
   * @throws {AgentError} ERR_AGENT_STORAGE, ERR_AGENT_REQUEST, ERR_AGENT_PATH, ERR_AGENT_LAYER
   * @throws {VerityError} ERR_VERITY_CORRUPT with the number of the block; nothing of the layer is left then
   */
  async acquire(storage: Storage, owner: StorageOwner): Promise<void> {
    const { driver, mountPoint } = storage;
    const mount = DRIVERS.get(driver);
    if (mount === undefined) throw new AgentError("ERR_AGENT_STORAGE", `Failed to find the storage handler ${driver.slice(0, 64)}`);
    if (storage.driverOptions.length > 0 || storage.fsGroup !== undefined) throw refused(storage, "driver_options and fs_group are not supported");
    const identity = JSON.stringify([driver, storage.fstype, storage.options]);

    for (let undone; (undone = this.#mounted.get(mountPoint)?.undone) !== undefined;) await undone.catch(() => undefined);
    const found = this.#mounted.get(mountPoint);
    if (found !== undefined && (found.identity !== identity || driver === "overlayfs")) throw refused(storage, "another storage is mounted there");
    const mounted = found ?? { identity, ready: mount(storage, owner, this.#context), holders: 0 };
    this.#mounted.set(mountPoint, mounted);
    mounted.holders++;
    try {
      await mounted.ready;
    } catch (error) {
      if (this.#mounted.get(mountPoint) === mounted) this.#mounted.delete(mountPoint);
      throw error;
    }
  }

  /** Gives a storage back. */
  async release(mountPoint: string): Promise<void> {
    const mounted = this.#mounted.get(mountPoint);
    if (mounted === undefined || --mounted.holders > 0) return;
    mounted.undone = (async () => {
      try {
        await (
          await mounted.ready
        )();
      } finally {
        this.#mounted.delete(mountPoint);
      }
    })();
    await mounted.undone;
  }
}

/**
 * An image layer: a disk from the host with a tar and its dm-verity tree. The tar is unpacked into the guest's own memory, every byte checked on its
 * way against the root hash that the policy has seen; so what the host does to the disk later has no effect.
 */
async function mountLayer(storage: Storage, _owner: StorageOwner, { paths, devices, system, logger }: StorageContext): Promise<Release> {
  const hashes = storage.options.filter((option) => option.startsWith(ROOT_HASH));
  const unknown = storage.options.find((option) => !option.startsWith(ROOT_HASH) && !LAYER_OPTIONS.has(option));
  const hash = hashes[0]?.slice(ROOT_HASH.length) ?? "";
  if (storage.fstype !== "tar" || unknown !== undefined || hashes.length !== 1 || !/^[0-9a-f]{64}$/.test(hash)) {
    throw refused(storage, "a disk is an image layer of type tar with one root hash; nothing is mounted unverified");
  }
  if (!/^[0-9a-f]{2}$/.test(storage.source)) throw refused(storage, `source ${shown(storage.source)} is no slot: expected two hex digits`);

  const release = makeMountPoint(storage, paths.layers, PARENT_MODE);
  const fd = openSync(`${devices}/${storage.source}`, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const layer = await openLayer(fileSource(fd), fromHex(hash));
    using root = ConfinedDirectory.open(storage.mountPoint);
    await extractLayer(readTar(layer.tar()), root, { ...system, whiteout: paths.whiteout }, logger);
    return release;
  } catch (error) {
    release();
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** The root of a container: its layers, and a directory of its own above them. */
async function mountOverlay(storage: Storage, owner: StorageOwner, { paths, system }: StorageContext): Promise<Release> {
  const others = storage.options.filter((option) => !option.startsWith(PRIVATE_OPTION));
  const names = others[0]?.startsWith(LOWER) === true ? others[0].slice(LOWER.length).split(":") : [];
  if (storage.fstype !== "fuse3.kata-overlay" || others.length !== 1 || !storage.options.includes(OVERLAY_WRITABLE)) {
    throw refused(storage, "expected type fuse3.kata-overlay, overlay-rw and one lowerdir");
  }
  // Only directories that this very container got as verified layers: no other name may become part of its root.
  for (const name of names) if (!owner.held.has(`${paths.layers}/${name}`)) throw refused(storage, `lowerdir ${shown(name)} is no layer of this container`);

  {
    using directory = ConfinedDirectory.open(owner.directory);
    for (const name of ["upper", "work"]) directory.makeChild(name, PARENT_MODE);
  }
  const options = [`${LOWER}${names.join(":")}`, `upperdir=${owner.directory}/upper`, `workdir=${owner.directory}/work`];
  return mountNew(storage, paths.shared, system, { type: "overlay", source: "overlay", target: storage.mountPoint, options, cwd: paths.layers });
}

/** Memory as a file system: /dev/shm, emptyDir with medium Memory. */
async function mountEphemeral(storage: Storage, _owner: StorageOwner, { paths, system }: StorageContext): Promise<Release> {
  const { group, others } = withoutGroup(storage);
  const unknown = others.find((option) => !TMPFS_OPTION.test(option));
  if (unknown !== undefined || storage.fstype !== "tmpfs")
    throw refused(storage, `expected type tmpfs and its options, found ${shown(unknown ?? storage.fstype)}`);
  const release = await mountNew(storage, paths.root, system, { type: "tmpfs", source: "tmpfs", target: storage.mountPoint, options: others });
  giveToGroup(storage, group);
  return release;
}

/** A directory of the guest: emptyDir on the node's disk has become one in the guest's memory. */
// eslint-disable-next-line typescript/require-await -- drivers are asynchronous
async function makeLocal(storage: Storage, _owner: StorageOwner, { paths }: StorageContext): Promise<Release> {
  const { group, others } = withoutGroup(storage);
  const mode = /^mode=([0-7]{3,4})$/.exec(others[0] ?? "mode=0755")?.[1];
  if (mode === undefined || others.length > 1) throw refused(storage, "expected the option mode and nothing else");
  const release = makeMountPoint(storage, paths.root, Number.parseInt(mode, 8));
  giveToGroup(storage, group);
  return release;
}

async function mountNew(storage: Storage, below: string, system: GuestSystem, request: MountRequest): Promise<Release> {
  const release = makeMountPoint(storage, below, PARENT_MODE);
  try {
    await system.mount(request);
  } catch (error) {
    release();
    throw error;
  }
  return () => system.unmount(storage.mountPoint).then(release);
}

/** Makes the directory of a storage; it must be new, so that nobody has put anything there. Gives what removes it. */
function makeMountPoint(storage: Storage, below: string, mode: number): () => void {
  const components = componentsBelow(below, storage.mountPoint);
  const name = components.at(-1) ?? "";
  const inParent = <T>(use: (parent: ConfinedDirectory) => T): T => {
    using root = ConfinedDirectory.open(below);
    using parent = root.descend(components.slice(0, -1), PARENT_MODE);
    return use(parent);
  };
  if (!inParent((parent) => parent.makeChild(name, mode))) throw refused(storage, "something is there already");
  return () => inParent((parent) => rmSync(parent.entry(name), { recursive: true }));
}

/** The option `fsgid`, which is the agent's to follow, and the others. */
function withoutGroup(storage: Storage): { readonly group: number | undefined; readonly others: readonly string[] } {
  const isGroup = (option: string): boolean => /^fsgid=[0-9]{1,10}$/.test(option);
  const group = storage.options.find(isGroup)?.slice("fsgid=".length);
  return { group: group === undefined ? undefined : Number(group), others: storage.options.filter((option) => !isGroup(option)) };
}

/** Makes a new, empty volume belong to a group, and what is made in it too. */
function giveToGroup(storage: Storage, group: number | undefined): void {
  if (group === undefined) return;
  using directory = ConfinedDirectory.open(storage.mountPoint);
  chownSync(directory.self(), 0, group);
  chmodSync(directory.self(), 0o2775);
}

const readAt = promisify(read);

/** A file as byte source. Its size is fixed here; a file that shrinks makes reads fail. */
function fileSource(fd: number): ByteSource {
  const stat = fstatSync(fd);
  if (!stat.isFile()) throw new AgentError("ERR_AGENT_STORAGE", "the disk is not a regular file");
  return {
    size: stat.size,
    async read(offset, length) {
      const bytes = new Uint8Array(length);
      let filled = 0;
      while (filled < length) {
        const { bytesRead } = await readAt(fd, bytes, filled, length - filled, offset + filled);
        if (bytesRead === 0) throw new AgentError("ERR_AGENT_STORAGE", `the disk ends at ${offset + filled}, expected ${stat.size} bytes`);
        filled += bytesRead;
      }
      return bytes;
    },
  };
}

function refused(storage: Storage, problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", `storage ${storage.driver} at ${shown(storage.mountPoint)}: ${problem}`, {
    details: { driver: storage.driver, mountPoint: shown(storage.mountPoint) },
  });
}
