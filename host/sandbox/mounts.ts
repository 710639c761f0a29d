import { readFile, stat } from "node:fs/promises";
import { messageOf } from "@sealpod/core";
import type { FileOwner } from "./copy-files.ts";
import { SandboxError } from "./errors.ts";
import { AKS_LAYOUT, EPHEMERAL_DIRECTORY, SANDBOX_SHM, copiedPath, lastComponent, type GuestLayout } from "./guest-paths.ts";
import type { SpecMount } from "./spec.ts";
import { encryptedStorage, ephemeralStorage, localStorage, type StorageInit } from "./storages.ts";

/** What the mounts of a container become. */
export interface MountPlan {
  /** For the guest, in the order of the specification. */
  readonly mounts: readonly SpecMount[];
  /** Volumes that the guest makes. */
  readonly storages: readonly StorageInit[];
  /** Files and directories of the host that have to be in the guest before the container. */
  readonly copies: readonly { readonly source: string; readonly target: string }[];
  /** Destinations of mounts that the guest does not get. */
  readonly dropped: readonly string[];
}

/** Whose mounts they are. */
export interface MountContext {
  readonly sandboxId: string;
  readonly containerId: string;
  /** 16 new lower-case hex digits at each call. */
  readonly unique: () => string;
  /** Default {@link AKS_LAYOUT}. */
  readonly layout?: GuestLayout;
  /** Attaches a disk for the emptyDir at a path, the same one each time, and gives its name in the guest. Without it such a volume is memory. */
  readonly attachDisk?: (emptyDir: string) => Promise<string>;
  readonly volumes?: HostVolumes;
}

/** What a host knows of its volumes that its files do not show: one that is not root can neither give files away nor mount a tmpfs. */
export interface HostVolumes {
  /** Who owns the file at a path, symbolic links resolved; undefined: whoever does. */
  owner(path: string): FileOwner | undefined;
  /** True if a tmpfs stands at this very path, which is how kubelet makes an emptyDir with medium Memory. */
  isTmpfs(path: string): Promise<boolean>;
}

/** The host as it is. */
export const LOCAL_VOLUMES: HostVolumes = { owner: () => undefined, isTmpfs };

/** Component of the path of an emptyDir on the node; the volume's name follows it. */
const EMPTY_DIR = "/kubernetes.io~empty-dir/";

/** Sources that the guest has itself. Host devices are not for the guest, so the same path there is what is meant. */
const GUEST_OWN_SOURCE = /^\/(?:dev|sys|proc)(?:\/|$)/;

/**
 * Turns mounts of the host into mounts of the guest, which shares no file system with it (specs/runtime.md 4.2, 4.11): shared memory is the
 * pod's unless it has a volume for it, an emptyDir is made in the guest, other bind mounts are copied. Sockets, pipes and devices cannot be copied; their mounts are
 * dropped. Of mounts at one place only the last is left: it would hide the others (containerd 1.6 gives its pause containers `/dev/shm` twice).
 * @throws {SandboxError} ERR_SANDBOX_FILES if a source does not exist
 */
export async function planMounts(mounts: readonly SpecMount[], context: MountContext): Promise<MountPlan> {
  const planned: SpecMount[] = [];
  const storages: StorageInit[] = [];
  const copies: { source: string; target: string }[] = [];
  const dropped: string[] = [];
  for (const mount of lastOfEachPlace(mounts)) {
    if (mount.destination === "/dev/shm" && !mount.source.includes(EMPTY_DIR)) {
      planned.push({ destination: "/dev/shm", type: "bind", source: SANDBOX_SHM, options: ["rbind"] });
    } else if (!isBind(mount) || GUEST_OWN_SOURCE.test(mount.source)) {
      planned.push(mount);
    } else if (mount.source.includes(EMPTY_DIR)) {
      const { storage, ...volume } = await emptyDir(mount, context);
      planned.push(volume.mount);
      storages.push(storage);
    } else if (await isCopyable(mount)) {
      const target = copiedPath(context.containerId, context.unique(), mount.destination);
      planned.push({ ...mount, source: target, options: unshared(mount.options) });
      copies.push({ source: mount.source, target });
    } else {
      dropped.push(mount.destination);
    }
  }
  return { mounts: planned, storages, copies, dropped };
}

function lastOfEachPlace(mounts: readonly SpecMount[]): readonly SpecMount[] {
  const last = new Map(mounts.map((mount) => [mount.destination, mount]));
  return mounts.filter((mount) => last.get(mount.destination) === mount);
}

function isBind(mount: SpecMount): boolean {
  return mount.type === "bind" || mount.options.includes("bind") || mount.options.includes("rbind");
}

/** A copy shares nothing with the host, so there is nothing to be told of it: the mount is private. */
function unshared(options: readonly string[]): readonly string[] {
  return options.map((option) => (option === "rslave" ? "rprivate" : option));
}

async function emptyDir(
  mount: SpecMount,
  { sandboxId, attachDisk, layout = AKS_LAYOUT, volumes = LOCAL_VOLUMES }: MountContext,
): Promise<{ readonly mount: SpecMount; readonly storage: StorageInit }> {
  const name = lastComponent(mount.source);
  const options = unshared(mount.options);
  const group = (volumes.owner(mount.source) ?? (await groupOf(mount))).gid;
  if (await volumes.isTmpfs(mount.source)) {
    const path = `${EPHEMERAL_DIRECTORY}/${name}`;
    return { mount: { ...mount, type: "bind", source: path, options }, storage: ephemeralStorage(path, group) };
  }
  if (attachDisk !== undefined) {
    const storage = encryptedStorage(await attachDisk(mount.source), group);
    return { mount: { ...mount, type: "bind", source: storage.mountPoint ?? "", options }, storage };
  }
  const path = layout.localVolume(sandboxId, name);
  return { mount: { ...mount, type: "local", source: path, options }, storage: localStorage(path, group) };
}

/** The group that a pod's fsGroup gave the directory. */
async function groupOf(mount: SpecMount): Promise<FileOwner> {
  return stat(mount.source).catch((cause: unknown) => {
    throw unreadable(mount, cause);
  });
}

async function isTmpfs(path: string): Promise<boolean> {
  const lines = (await readFile("/proc/self/mountinfo", "utf8")).split("\n");
  return lines.some((line) => {
    // Field 5 is the mount point; the type follows a lone "-" (proc(5)).
    const [fields = "", rest = ""] = line.split(" - ");
    return unescape(fields.split(" ")[4] ?? "") === path && rest.startsWith("tmpfs ");
  });
}

/** mountinfo writes space, tab, newline and backslash as octal. */
function unescape(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

async function isCopyable(mount: SpecMount): Promise<boolean> {
  const file = await stat(mount.source).catch((cause: unknown) => {
    throw unreadable(mount, cause);
  });
  return file.isFile() || file.isDirectory();
}

function unreadable(mount: SpecMount, cause: unknown): SandboxError {
  return new SandboxError("ERR_SANDBOX_FILES", `mount at ${mount.destination}: cannot read ${mount.source}: ${messageOf(cause)}`, { cause });
}
