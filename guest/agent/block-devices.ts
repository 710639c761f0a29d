import { existsSync, readdirSync, readFileSync, statSync, watch } from "node:fs";
import { hasCode, shown } from "./confined-directory.ts";
import { linuxDeviceMapper, type DeviceMapper } from "./device-mapper.ts";
import { AgentError } from "./errors.ts";

/** A disk that the host attached. */
export interface Disk {
  /** Path of its node, or of the file that stands for it. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
}

/** The disks of the guest, and what can be made of them. */
export interface BlockDevices {
  /**
   * The disk that the source of a storage names. Waits for one that is still on its way.
   * @throws {AgentError} ERR_AGENT_REQUEST if no disk can have this name, ERR_AGENT_STORAGE if none comes, or it is in use
   */
  find(source: string): Promise<Disk>;
  /** All disks that are there now and not in use, in the order of their names. */
  list(): readonly Disk[];
  /** Absent where the kernel is not the guest's own. */
  readonly mapper?: DeviceMapper;
}

/** Time that a hot-plugged disk may take (specs/runtime.md 2.9). */
const HOTPLUG_MILLISECONDS = 3000;

/** Disks of virtio-blk and SCSI. No others are attached by any of the host's drivers. */
const DISK_NAME = /^(?:vd|sd)[a-z]{1,2}$/;

/** `/sys/class/block/NAME/size` is in these whatever the device's own sectors are. */
const SECTOR = 512;

/** Where the kernel shows devices, and how to hear of new ones. */
export interface DeviceTree {
  /** `/sys`. */
  readonly sysfs: string;
  /** `/dev`: the kernel makes a node here once the disk can be used. */
  readonly dev: string;
  /** Calls `changed` when an entry of a directory comes or goes, until the signal. */
  readonly watch: (directory: string, changed: () => void, signal: AbortSignal) => void;
  /** Begins the time that a disk may take. */
  readonly patience: () => AbortSignal;
}

const LINUX: DeviceTree = {
  sysfs: "/sys",
  dev: "/dev",
  // Without its events the disk is looked for once: better than an agent that ends because of an error that nobody hears.
  watch: (directory, changed, signal) => void watch(directory, { signal }, changed).on("error", () => undefined),
  patience: () => AbortSignal.timeout(HOTPLUG_MILLISECONDS),
};

/**
 * Disks of a virtual machine (specs/runtime.md 2.9). A source is a path of PCI slots from the root bus on (`02`, `02.1/00`: two hex digits
 * and perhaps a function, joined by `/`), an address `DDDD:BB:SS.F`, or `/dev/vdX`.
 */
export function machineDevices(tree: DeviceTree = LINUX): BlockDevices {
  const describe = (name: string): Disk | undefined => {
    try {
      const directory = `${tree.sysfs}/class/block/${name}`;
      const sectors = Number(readFileSync(`${directory}/size`, "latin1"));
      const node = `${tree.dev}/${name}`;
      // The disk of the guest's own root is held by device mapper; and so is one that is mounted under another root hash.
      if (readdirSync(`${directory}/holders`).length > 0 || !Number.isSafeInteger(sectors * SECTOR) || !existsSync(node)) return undefined;
      return { path: node, size: sectors * SECTOR };
    } catch (error) {
      // It went while we looked.
      if (hasCode(error, "ENOENT", "ENODEV")) return undefined;
      throw error;
    }
  };
  const nodeExists = (name: string): boolean => existsSync(`${tree.sysfs}/class/block/${name}`) && existsSync(`${tree.dev}/${name}`);
  return {
    async find(source) {
      const nameNow = lookup(source, tree.sysfs);
      const name = await arrival(tree, () => {
        const found = nameNow();
        return found !== undefined && nodeExists(found) ? found : undefined;
      });
      if (name === undefined) throw new AgentError("ERR_AGENT_STORAGE", `there is no disk at ${shown(source)}`, { details: { source: shown(source) } });
      const disk = describe(name);
      if (disk === undefined) throw new AgentError("ERR_AGENT_STORAGE", `the disk at ${shown(source)} is in use`, { details: { source: shown(source) } });
      return disk;
    },
    list: () =>
      entries(`${tree.sysfs}/class/block`)
        .filter((name) => DISK_NAME.test(name))
        // vdb, vdc, …, vdaa, and then the others.
        .sort((a, b) => Number(b.startsWith("vd")) - Number(a.startsWith("vd")) || a.length - b.length || (a < b ? -1 : 1))
        .map(describe)
        .filter((disk) => disk !== undefined),
    mapper: linuxDeviceMapper(),
  };
}

/** Disks of an agent that is a plain process of the host: files, or links to files, each named by its slot of two hex digits. */
export function directoryDevices(directory: string): BlockDevices {
  const describe = (slot: string): Disk | undefined => {
    const stat = statSync(`${directory}/${slot}`, { throwIfNoEntry: false });
    return stat?.isFile() === true ? { path: `${directory}/${slot}`, size: stat.size } : undefined;
  };
  return {
    // eslint-disable-next-line typescript/require-await -- a refusal must come as a rejection
    async find(source) {
      if (!/^[0-9a-f]{2}$/.test(source)) throw noDevice(source, "expected a slot of two hex digits");
      const disk = describe(source);
      if (disk === undefined) throw new AgentError("ERR_AGENT_STORAGE", `there is no file for the disk in slot ${source}`, { details: { source } });
      return disk;
    },
    list: () =>
      entries(directory)
        .filter((name) => /^[0-9a-f]{2}$/.test(name))
        .map(describe)
        .filter((disk) => disk !== undefined),
  };
}

/** How to look for a disk by its source: gives its name, once it has one. */
function lookup(source: string, sysfs: string): () => string | undefined {
  if (/^\/dev\/vd[a-z]{1,2}$/.test(source)) return () => source.slice("/dev/".length);
  if (/^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/.test(source)) return () => diskOf(`${sysfs}/bus/pci/devices/${source}`);
  // 32 slots on a bus. The limit of three is that of the policy's own pattern.
  if (!/^[01][0-9a-f](?:\.[0-7])?(?:\/[01][0-9a-f](?:\.[0-7])?){0,2}$/.test(source)) {
    throw noDevice(source, "expected a path of PCI slots, a PCI address or a virtio disk");
  }
  const slots = source.split("/").map((slot) => (slot.includes(".") ? slot : `${slot}.0`));
  return () => {
    let at = `${sysfs}/devices/pci0000:00`;
    for (const [depth, slot] of slots.entries()) {
      const name = depth === 0 ? `0000:00:${slot}` : entries(at).find((entry) => /^[0-9a-f]{4}:[0-9a-f]{2}:/.test(entry) && entry.slice(8) === slot);
      if (name === undefined) return undefined;
      at = `${at}/${name}`;
    }
    return diskOf(at);
  };
}

/** Name of the disk of a PCI device: `virtioN/block/NAME`. */
function diskOf(device: string): string | undefined {
  for (const driver of entries(device).filter((entry) => /^virtio[0-9]+$/.test(entry))) {
    const name = entries(`${device}/${driver}/block`)[0];
    if (name !== undefined && DISK_NAME.test(name)) return name;
  }
  return undefined;
}

/** The first answer of `look` that is not undefined; it is asked again whenever a node has come. */
async function arrival(tree: DeviceTree, look: () => string | undefined): Promise<string | undefined> {
  const found = look();
  if (found !== undefined) return found;
  const done = new AbortController();
  const over = AbortSignal.any([tree.patience(), done.signal]);
  const { promise, resolve, reject } = Promise.withResolvers<string | undefined>();
  const again = (): void => {
    try {
      const name = look();
      if (name !== undefined) resolve(name);
    } catch (error) {
      reject(error);
    }
  };
  const giveUp = (): void => resolve(undefined);
  over.addEventListener("abort", giveUp);
  if (over.aborted) giveUp();
  try {
    tree.watch(tree.dev, again, over);
    // It may have come before the watch began.
    again();
    return await promise;
  } finally {
    done.abort();
  }
}

/** Names in a directory, in their order; none if it is not there. */
function entries(directory: string): readonly string[] {
  try {
    return readdirSync(directory).sort();
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR", "ENODEV")) return [];
    throw error;
  }
}

function noDevice(source: string, expected: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", `source ${shown(source)} is no disk: ${expected}`, { details: { source: shown(source) } });
}
