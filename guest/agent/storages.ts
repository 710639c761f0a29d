import { chmodSync, chownSync, rmdirSync, rmSync } from "node:fs";
import { encodeUtf8, fromHex, type Logger, toBase64 } from "@sealpod/core";
import type { Storage } from "@sealpod/proto";
import { openErofsLayer, openLayer, readTar, readTarImage, type TarEntry, VerityError } from "@sealpod/verity";
import type { BlockDevices, Disk } from "./block-devices.ts";
import { componentsBelow, ConfinedDirectory, shown } from "./confined-directory.ts";
import type { DeviceMapper } from "./device-mapper.ts";
import { openDisk } from "./disk-source.ts";
import { AgentError } from "./errors.ts";
import type { GuestSystem, MountRequest } from "./guest-system.ts";
import { extractLayer } from "./layer.ts";
import type { GuestPaths } from "./paths.ts";
import { emptyVolume, makeScratch } from "./scratch.ts";
import { openVerityDevice } from "./verity-device.ts";
import { giveToFsGroup } from "./volume-group.ts";

/** Ports and directories that storages need. */
export interface StorageContext {
  readonly paths: GuestPaths;
  /** Disks that the host attached. Without a device mapper layers are unpacked, not mounted. */
  readonly disks: BlockDevices;
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

interface Mounted {
  readonly driver: string;
  readonly fstype: string;
  /** Everything but the source, which names the same bytes differently each time they are attached. */
  readonly identity: string;
  readonly options: readonly string[];
  /** Gives what undoes the storage. */
  readonly ready: Promise<AsyncDisposableStack>;
  holders: number;
  /** True if it is the pod's, and not a part of a container's root. */
  isVolume: boolean;
  /** True if the sandbox holds it, until its end. */
  lasting: boolean;
  /** Settles when it is undone. */
  undone?: Promise<void>;
}

/** A storage that is being made ready. */
interface Work extends StorageContext {
  readonly storage: Storage;
  readonly owner: StorageOwner;
  /** Gets what undoes each step, to be run backwards: at the end, or when a later step fails. */
  readonly undo: AsyncDisposableStack;
  /** A storage that is ready. */
  readonly mounted: (mountPoint: string) => Mounted | undefined;
  /** Takes the storage's disk for it alone, until it is undone. */
  readonly claimDisk: (undo: AsyncDisposableStack) => Promise<Disk>;
  /** Name that no other device has. */
  readonly deviceName: string;
}

type Driver = (work: Work) => Promise<void>;

/** Mode of directories that lead to a mount point. */
const PARENT_MODE = 0o755;

/** Options that mean something to the shim alone, and those whose value the agent reads (specs/runtime.md 4.10). */
const ROOT_HASH = "io.katacontainers.fs-opt.root-hash=";
const OVERLAY_WRITABLE = "io.katacontainers.fs-opt.overlay-rw";
const PRIVATE_OPTION = "io.katacontainers.";
const LAYER = "io.katacontainers.fs-opt.layer=";
const LOWER = "lowerdir=";
/** Name of a layer's directory. It becomes part of an option of overlayfs, where commas and colons mean something. */
const LAYER_NAME = /^[A-Za-z0-9_-]{1,128}$/;
const LAYER_OPTIONS: ReadonlySet<string> = new Set(["ro", "io.katacontainers.fs-opt.block_device=file", "io.katacontainers.fs-opt.is-layer"]);

/** Makes a disk encrypted scratch space (specs/runtime.md 4.11), and what may be said of it besides. */
const EPHEMERAL_KEY = "encryption_key=ephemeral";
const MAKE_FILE_SYSTEM = "create_filesystem";
const SCRATCH_OPTION = /^(?:rw|noexec|nosuid|nodev|noatime|relatime)$/;

/** Options of tmpfs. A list, because mount(8) takes some that turn the mount into another one (`bind`, `move`) or run helpers. */
const TMPFS_OPTION = /^(?:r[ow]|nosuid|nodev|noexec|noatime|relatime|mode=[0-7]{3,4}|(?:size|nr_inodes)=[0-9]{1,15}[kmgKMG%]?|[ug]id=[0-9]{1,10})$/;
const SIZE_OPTION = /^size=[0-9]{1,15}[kmgKMG%]?$/;

/** Storage drivers. A driver that is not here does not exist (specs/runtime.md 2.10). */
const DRIVERS: ReadonlyMap<string, Driver> = new Map([
  ["blk", (work) => (work.storage.driverOptions.length === 0 ? mountLayer(work) : mountScratch(work))],
  ["overlayfs", mountOverlay],
  ["ephemeral", mountEphemeral],
  ["local", makeLocal],
]);

/** Names of the drivers, for GetGuestDetails. */
export const STORAGE_DRIVERS: readonly string[] = [...DRIVERS.keys()];

/**
 * The storages of a sandbox, by mount point. Containers with a layer or volume in common share it. A layer goes when the last of them does; a volume goes with
 * the sandbox, as an emptyDir does with its pod: what an init container left in it is for those that come after.
 */
export class Storages {
  readonly #context: StorageContext;
  readonly #mounted = new Map<string, Mounted>();
  /** Disks in use, by path. */
  readonly #claimed = new Set<string>();
  /** Disks that containers have as device nodes, and how many do. */
  readonly #granted = new Map<string, number>();
  #devices = 0;

  constructor(context: StorageContext) {
    this.#context = context;
  }

  /**
   * Makes a storage ready, or takes part in one that is.
   * @throws {AgentError} ERR_AGENT_STORAGE, ERR_AGENT_REQUEST, ERR_AGENT_PATH, ERR_AGENT_LAYER, ERR_AGENT_COMMAND
   * @throws {VerityError} ERR_VERITY_CORRUPT with the number of the block; nothing of the layer is left then
   */
  async acquire(storage: Storage, owner: StorageOwner): Promise<void> {
    const { driver, mountPoint } = storage;
    const mount = DRIVERS.get(driver);
    if (mount === undefined) throw new AgentError("ERR_AGENT_STORAGE", `Failed to find the storage handler ${driver.slice(0, 64)}`);
    const group = storage.fsGroup;
    const identity = JSON.stringify([driver, storage.fstype, storage.options, storage.driverOptions, group?.groupId, group?.groupChangePolicy]);

    for (let undone; (undone = this.#mounted.get(mountPoint)?.undone) !== undefined;) await undone.catch(() => undefined);
    const found = this.#mounted.get(mountPoint);
    if (found !== undefined && (found.identity !== identity || driver === "overlayfs")) throw refused(storage, "another storage is mounted there");
    const mounted = found ?? {
      driver,
      fstype: storage.fstype,
      identity,
      options: storage.options,
      ready: this.#make(mount, storage, owner),
      holders: 0,
      isVolume: false,
      lasting: false,
    };
    this.#mounted.set(mountPoint, mounted);
    mounted.holders++;
    try {
      await mounted.ready;
    } catch (error) {
      if (this.#mounted.get(mountPoint) === mounted) this.#mounted.delete(mountPoint);
      throw error;
    }
    mounted.isVolume ||= storage.shared || isVolume(storage);
  }

  /** Lets the volumes among the storages of a container that was made live as long as the sandbox. */
  keepVolumes(mountPoints: Iterable<string>): void {
    for (const mountPoint of mountPoints) {
      const mounted = this.#mounted.get(mountPoint);
      if (mounted === undefined || !mounted.isVolume || mounted.lasting) continue;
      mounted.lasting = true;
      mounted.holders++;
    }
  }

  /**
   * Marks disks as those that a container has as device nodes. What is written to a storage's disk beside its file system would be neither verified nor encrypted.
   * @returns what ends that
   * @throws {AgentError} ERR_AGENT_REQUEST if one is a storage's
   */
  grant(disks: readonly string[]): () => void {
    const taken = disks.find((path) => this.#claimed.has(path));
    if (taken !== undefined) throw new AgentError("ERR_AGENT_REQUEST", `the disk ${shown(taken)} is a storage: no container gets it as a device`);
    for (const path of disks) this.#granted.set(path, (this.#granted.get(path) ?? 0) + 1);
    return () => {
      for (const path of disks) {
        const left = (this.#granted.get(path) ?? 1) - 1;
        if (left === 0) this.#granted.delete(path);
        else this.#granted.set(path, left);
      }
    };
  }

  /** Gives a storage back. */
  async release(mountPoint: string): Promise<void> {
    const mounted = this.#mounted.get(mountPoint);
    if (mounted === undefined || mounted.undone !== undefined || --mounted.holders > 0) return;
    mounted.undone = (async () => {
      try {
        await (await mounted.ready).disposeAsync();
      } finally {
        this.#mounted.delete(mountPoint);
      }
    })();
    await mounted.undone;
  }

  /**
   * Gives back what is held for the whole sandbox, the last one first.
   * @throws what undoing them threw, once all were tried
   */
  async close(): Promise<void> {
    await using all = new AsyncDisposableStack();
    for (const [mountPoint, mounted] of this.#mounted) {
      if (!mounted.lasting) continue;
      mounted.lasting = false;
      all.defer(() => this.release(mountPoint));
    }
  }

  /**
   * Gives file systems in memory a new size. All are looked at before one is changed.
   * @throws {AgentError} ERR_AGENT_REQUEST for one that is not such a file system; ERR_AGENT_COMMAND if it holds more than the new size
   */
  async updateEphemeral(storages: readonly Storage[]): Promise<void> {
    const changes = storages.map((storage) => {
      const mounted = this.#mounted.get(storage.mountPoint);
      const sizes = storage.options.filter((option) => SIZE_OPTION.test(option));
      const unknown = storage.options.find((option) => option !== "remount" && !SIZE_OPTION.test(option));
      if (storage.driver !== "ephemeral" || storage.fstype !== "tmpfs" || mounted?.driver !== "ephemeral" || mounted.undone !== undefined) {
        throw refused(storage, "no file system in memory is mounted there");
      }
      if (sizes.length !== 1 || unknown !== undefined || storage.driverOptions.length > 0 || storage.fsGroup !== undefined) {
        throw refused(storage, "expected a size, and nothing else");
      }
      return { mounted, target: storage.mountPoint, size: sizes };
    });
    for (const { mounted, target, size } of changes) {
      await mounted.ready;
      // What is not said again would be as by default: no nodev, no nosuid.
      const options = [...withoutGroup(mounted.options).others.filter((option) => !SIZE_OPTION.test(option)), ...size];
      await this.#context.system.mount({ type: "tmpfs", source: "tmpfs", target, options: ["remount", ...options] });
    }
  }

  async #make(mount: Driver, storage: Storage, owner: StorageOwner): Promise<AsyncDisposableStack> {
    await using undo = new AsyncDisposableStack();
    const claimDisk = (until: AsyncDisposableStack): Promise<Disk> => this.#claimDisk(storage, until);
    const mounted = (mountPoint: string): Mounted | undefined => this.#mounted.get(mountPoint);
    await mount({ ...this.#context, storage, owner, undo, mounted, claimDisk, deviceName: `pod-${++this.#devices}` });
    return undo.move();
  }

  async #claimDisk(storage: Storage, until: AsyncDisposableStack): Promise<Disk> {
    const disk = await this.#context.disks.find(storage.source);
    if (this.#claimed.has(disk.path)) throw refused(storage, `the disk ${shown(storage.source)} is another storage`);
    if (this.#granted.has(disk.path)) throw refused(storage, `the disk ${shown(storage.source)} is a device of a container`);
    this.#claimed.add(disk.path);
    until.defer(() => void this.#claimed.delete(disk.path));
    return disk;
  }
}

/**
 * An image layer: a disk from the host with an image and its dm-verity tree. No byte of it is used but after it was checked against the root hash that
 * the policy has seen.
 */
async function mountLayer(work: Work): Promise<void> {
  const { storage, paths, disks, undo } = work;
  const { fstype, options } = storage;
  const hashes = options.filter((option) => option.startsWith(ROOT_HASH));
  const unknown = options.find((option) => !option.startsWith(ROOT_HASH) && !LAYER_OPTIONS.has(option));
  const hash = hashes[0]?.slice(ROOT_HASH.length) ?? "";
  if ((fstype !== "tar" && fstype !== "erofs") || unknown !== undefined || hashes.length !== 1 || !/^[0-9a-f]{64}$/.test(hash)) {
    throw refused(storage, "a disk is an image layer of type erofs or tar with one root hash; nothing is mounted unverified");
  }
  if (storage.fsGroup !== undefined) throw refused(storage, "an image layer belongs to no group");
  const name = componentsBelow(paths.layers, storage.mountPoint).join("/");
  if (!LAYER_NAME.test(name)) throw refused(storage, "expected one name of letters, digits, - and _ below the directory of layers");
  const rootHash = fromHex(hash);
  if (disks.mapper !== undefined && fstype === "erofs") return mountErofs(work, rootHash, disks.mapper);

  makeMountPoint(storage, paths.layers, PARENT_MODE, undo);
  // What is unpacked needs the disk no more.
  await using reading = new AsyncDisposableStack();
  const disk = await work.claimDisk(reading);
  await unpack(work, disks.mapper === undefined ? entriesOf(disk, fstype, rootHash, reading) : tarOf(work, disk, rootHash, disks.mapper, reading));
}

/** Lets the kernel check each block when it is read, for as long as the layer is in use. */
async function mountErofs(work: Work, rootHash: Uint8Array, mapper: DeviceMapper): Promise<void> {
  const { storage, paths, undo } = work;
  // The directory is the last to go, and the device goes before the disk may be used again.
  makeMountPoint(storage, paths.layers, PARENT_MODE, undo, "mount");
  const disk = await work.claimDisk(undo);
  let device: Disk | undefined;
  try {
    device = await openVerityDevice(disk, rootHash, work.deviceName, mapper, undo);
    // Set-id programs of an image work (no nosuid); its device nodes do not.
    await mount(work, { type: "erofs", source: device.path, target: storage.mountPoint, options: ["ro", "nodev"] });
  } catch (cause) {
    if (device === undefined && !(cause instanceof VerityError && cause.code === "ERR_VERITY_CORRUPT")) throw cause;
    throw new AgentError("ERR_AGENT_STORAGE", `layer ${shown(storage.mountPoint)}: the disk ${shown(storage.source)} cannot be mounted under its root hash`, {
      cause,
      details: { source: shown(storage.source) },
      hint: "The disk holds another image, or was changed: the first block does not match the root hash that the policy names.",
    });
  }
}

/** Members of a layer that the agent itself verifies. */
async function* entriesOf(disk: Disk, fstype: "tar" | "erofs", rootHash: Uint8Array, reading: AsyncDisposableStack): AsyncIterable<TarEntry> {
  const source = reading.use(openDisk(disk));
  if (fstype === "erofs") yield* (await openErofsLayer(source, rootHash)).entries();
  else yield* readTar((await openLayer(source, rootHash)).tar());
}

/** Members of a tar that the kernel verifies: no kernel of a distribution can mount one. */
async function* tarOf(work: Work, disk: Disk, rootHash: Uint8Array, mapper: DeviceMapper, reading: AsyncDisposableStack): AsyncIterable<TarEntry> {
  const device = await openVerityDevice(disk, rootHash, work.deviceName, mapper, reading);
  yield* readTar((await readTarImage(reading.use(openDisk(device)))).tar());
}

async function unpack({ storage, paths, system, logger }: Work, entries: AsyncIterable<TarEntry>): Promise<void> {
  using root = ConfinedDirectory.open(storage.mountPoint);
  await extractLayer(entries, root, { ...system, whiteout: paths.whiteout }, logger);
}

/** A disk of the host as scratch space under a key that nobody knows. */
async function mountScratch(work: Work): Promise<void> {
  const { storage, paths, disks, undo } = work;
  const unknown = storage.options.find((option) => !SCRATCH_OPTION.test(option));
  const [key, make, ...more] = storage.driverOptions;
  // Hosts of the second generation say that there is no file system yet. There never is one: the key is new each time.
  if (key !== EPHEMERAL_KEY || (make !== undefined && make !== MAKE_FILE_SYSTEM) || more.length > 0)
    throw refused(storage, `expected ${EPHEMERAL_KEY}, with or without ${MAKE_FILE_SYSTEM}, or no driver_options`);
  if (storage.fstype !== "ext4" || unknown !== undefined)
    throw refused(storage, `expected type ext4 and its options, found ${shown(unknown ?? storage.fstype)}`);
  if (disks.mapper === undefined) throw refused(storage, "this agent is a process of the host, whose kernel is not its own: it has no encrypted scratch");
  makeVolume(storage, paths, PARENT_MODE, undo, "mount");
  const source = await makeScratch(await work.claimDisk(undo), work.deviceName, disks.mapper, undo);
  await mount(work, { type: "ext4", source, target: storage.mountPoint, options: [...new Set(["nosuid", "nodev", ...storage.options])] });
  emptyVolume(storage.mountPoint);
  applyFsGroup(storage);
}

/** The root of a container: its layers, and a directory of its own above them. */
async function mountOverlay(work: Work): Promise<void> {
  const { storage, owner, paths, undo } = work;
  const others = storage.options.filter((option) => !option.startsWith(PRIVATE_OPTION));
  const names = others[0]?.startsWith(LOWER) === true ? others[0].slice(LOWER.length).split(":") : [];
  const described = storage.options.filter((option) => option.startsWith(LAYER));
  if (storage.fstype !== "fuse3.kata-overlay" || others.length !== 1 || !storage.options.includes(OVERLAY_WRITABLE)) {
    throw refused(storage, "expected type fuse3.kata-overlay, overlay-rw and one lowerdir");
  }
  if (storage.driverOptions.length > 0 || storage.fsGroup !== undefined)
    throw refused(storage, "the root of a container has no driver_options and no fs_group");
  // Only directories that this very container got as verified layers: no other name may become part of its root.
  for (const [index, name] of names.entries()) {
    const mountPoint = `${paths.layers}/${name}`;
    const layer = owner.held.has(mountPoint) ? work.mounted(mountPoint) : undefined;
    if (layer === undefined) throw refused(storage, `lowerdir ${shown(name)} is no layer of this container`);
    // The policy looks at the type of a file system here and not where the layer is: the same bytes under the same root hash could be an image of either.
    if (described[index] !== `${LAYER}${toBase64(encodeUtf8([name, layer.fstype, ...layer.options].join(",")))}`)
      throw refused(storage, `the description of layer ${shown(name)} is not that of the layer: name, type and options are compared`);
  }
  if (described.length !== names.length) throw refused(storage, `${described.length} layers are described, lowerdir has ${names.length}`);

  {
    using directory = ConfinedDirectory.open(owner.directory);
    for (const name of ["upper", "work"]) directory.makeChild(name, PARENT_MODE);
  }
  // The first generation names a directory of the shared ones, the second one beside the container's own state.
  const root = storage.mountPoint === `${owner.directory}/rootfs` ? owner.directory : paths.shared;
  makeMountPoint(storage, root, PARENT_MODE, undo, "mount");
  const options = ["nodev", `${LOWER}${names.join(":")}`, `upperdir=${owner.directory}/upper`, `workdir=${owner.directory}/work`];
  // From the directory of layers: the options have room in one page only, and absolute paths would fill it.
  await mount(work, { type: "overlay", source: "overlay", target: storage.mountPoint, options, cwd: paths.layers });
}

/** Memory as a file system: /dev/shm, emptyDir with medium Memory. */
async function mountEphemeral(work: Work): Promise<void> {
  const { storage, paths, undo } = work;
  const { group, others } = withoutGroup(storage.options);
  const unknown = others.find((option) => !TMPFS_OPTION.test(option));
  if (unknown !== undefined || storage.fstype !== "tmpfs" || storage.driverOptions.length > 0)
    throw refused(storage, `expected type tmpfs and its options, found ${shown(unknown ?? storage.driverOptions[0] ?? storage.fstype)}`);
  makeVolume(storage, paths, PARENT_MODE, undo, "mount");
  await mount(work, { type: "tmpfs", source: "tmpfs", target: storage.mountPoint, options: others });
  giveToGroup(storage, group);
  applyFsGroup(storage);
}

/** A directory of the guest: emptyDir on the node's disk has become one in the guest's memory. */
// eslint-disable-next-line typescript/require-await -- drivers are asynchronous
async function makeLocal({ storage, paths, undo }: Work): Promise<void> {
  const { group, others } = withoutGroup(storage.options);
  const mode = /^mode=([0-7]{3,4})$/.exec(others[0] ?? "mode=0755")?.[1];
  if (mode === undefined || others.length > 1 || storage.driverOptions.length > 0) throw refused(storage, "expected the option mode and nothing else");
  makeVolume(storage, paths, Number.parseInt(mode, 8), undo);
  giveToGroup(storage, group);
  applyFsGroup(storage);
}

async function mount({ system, undo }: Work, request: MountRequest): Promise<void> {
  await system.mount(request);
  undo.defer(() => system.unmount(request.target));
}

/** Makes the directory of a volume: anywhere below the root of the guest but among the layers, for what lies there may become part of a container's root. */
function makeVolume(storage: Storage, paths: GuestPaths, mode: number, undo: AsyncDisposableStack, use: "directory" | "mount" = "directory"): void {
  if (`${storage.mountPoint}/`.startsWith(`${paths.layers}/`)) throw refused(storage, "a volume is no layer");
  makeMountPoint(storage, paths.root, mode, undo, use);
}

/**
 * Makes the directory of a storage; it must be new, so that nobody has put anything there.
 * @param use what it is for: of a mount only the empty directory below it is removed, so that nothing is lost of one that could not be taken away
 */
function makeMountPoint(storage: Storage, below: string, mode: number, undo: AsyncDisposableStack, use: "directory" | "mount" = "directory"): void {
  const components = componentsBelow(below, storage.mountPoint);
  const name = components.at(-1) ?? "";
  const inParent = <T>(act: (parent: ConfinedDirectory) => T): T => {
    using root = ConfinedDirectory.open(below);
    using parent = root.descend(components.slice(0, -1), PARENT_MODE);
    return act(parent);
  };
  if (!inParent((parent) => parent.makeChild(name, mode))) throw refused(storage, "something is there already");
  undo.defer(() => inParent((parent) => (use === "mount" ? rmdirSync(parent.entry(name)) : rmSync(parent.entry(name), { recursive: true }))));
}

/** True for what a pod calls a volume, and not a part of a container's root. */
function isVolume({ driver, driverOptions }: Storage): boolean {
  return driver === "local" || driver === "ephemeral" || (driver === "blk" && driverOptions.length > 0);
}

/** The option `fsgid`, which is the agent's to follow, and the others. */
function withoutGroup(options: readonly string[]): { readonly group: number | undefined; readonly others: readonly string[] } {
  const isGroup = (option: string): boolean => /^fsgid=[0-9]{1,10}$/.test(option);
  const group = options.find(isGroup)?.slice("fsgid=".length);
  return { group: group === undefined ? undefined : Number(group), others: options.filter((option) => !isGroup(option)) };
}

/** Makes a new, empty volume belong to a group, and what is made in it too. */
function giveToGroup(storage: Storage, group: number | undefined): void {
  if (group === undefined) return;
  using directory = ConfinedDirectory.open(storage.mountPoint);
  chownSync(directory.self(), 0, group);
  chmodSync(directory.self(), 0o2775);
}

/** Gives a volume to the pod's `fsGroup`, if it has one. */
function applyFsGroup({ mountPoint, fsGroup }: Storage): void {
  if (fsGroup === undefined) return;
  using directory = ConfinedDirectory.open(mountPoint);
  giveToFsGroup(directory, fsGroup);
}

function refused(storage: Storage, problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", `storage ${storage.driver} at ${shown(storage.mountPoint)}: ${problem}`, {
    details: { driver: storage.driver, mountPoint: shown(storage.mountPoint) },
  });
}
