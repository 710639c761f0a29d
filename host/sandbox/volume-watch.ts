import { watch, type FSWatcher } from "node:fs";
import { lstat, readdir, readlink } from "node:fs/promises";
import { encodeUtf8, messageOf, silentLogger, type Logger } from "@sealpod/core";
import { copyFiles, type CopyFileInit, type CopySource, type FileOwner } from "./copy-files.ts";
import { SandboxError } from "./errors.ts";

/** How files of volumes get into the guest. */
export interface VolumeCopy {
  /** Takes one request, in order; rejects with {@link SandboxError} as {@link AgentClient.call}. */
  readonly send: (request: CopyFileInit) => Promise<void>;
  /** Who owns the file at a path of the host, if not who the file system says. */
  readonly ownerOf?: (path: string) => FileOwner | undefined;
  readonly logger?: Logger;
}

/** A volume that is being followed. */
export interface VolumeWatch {
  /** Ends it; no request is sent once this has resolved. */
  close(): Promise<void>;
}

/** What the guest has of a volume: what {@link copyVolume} made, for {@link watchVolume}. */
export type CopiedVolume = GuestTree;

/** The link of kubelet's atomic writer: it points to the directory of the volume's present contents, and is what an update replaces. */
const DATA_LINK = "..data";

/** What the link of a removed file points to: nothing, in any directory, since keys of volumes do not begin with two dots. CopyFile can replace files, not remove them. */
const GONE = "..gone";

/** Times that a copy is begun again because kubelet changed the volume meanwhile. It does that once in a minute at most. */
const MAX_ATTEMPTS = 5;

/** Type bits and mode of a link. */
const LINK_MODE = 0o120777;

/** Mode of directories that the agent has to make on the way; there are none below a copied volume. */
const PARENT_MODE = 0o755;

/**
 * Copies a file or directory into the guest as {@link copyFiles} does. A ConfigMap, Secret, projected or downward API volume that kubelet changes meanwhile is
 * copied again, so that the guest has one state of it and not parts of two.
 * @param target path in the guest
 * @throws {SandboxError} ERR_SANDBOX_FILES, and what `send` throws
 */
export async function copyVolume(source: string, target: string, copy: VolumeCopy): Promise<CopiedVolume> {
  const tree = new GuestTree(target, copy.send);
  for (let attempt = 1; ; attempt++) {
    const version = await versionOf(source);
    const changed = async (): Promise<boolean> => version !== undefined && attempt < MAX_ATTEMPTS && (await versionOf(source)) !== version;
    try {
      await copyFiles(copySource(source, target, copy), (request) => tree.send(request));
      if (!(await changed())) return tree;
    } catch (error) {
      if (!isFilesError(error) || !(await changed())) throw error;
    }
  }
}

/**
 * Follows a volume that kubelet's atomic writer keeps (ConfigMap, Secret, projected, downward API): at each update the new contents are copied into a directory
 * beside those in use, and `..data` is switched to it in one step, as on the host (specs/runtime.md 4.11). Files of the host that are anything else do not change
 * under a container, and are not followed. Updates that come while one is copied are one. A request that the policy denies ends it.
 * @param copied what {@link copyVolume} returned; without it the contents are copied once more at the start
 */
export function watchVolume(source: string, target: string, copy: VolumeCopy, copied?: CopiedVolume): VolumeWatch {
  return new Watch(source, copy, copied ?? new GuestTree(target, copy.send));
}

/** What is known to be below a path of the guest: the host is the only one that writes there, but cannot look. */
class GuestTree {
  readonly target: string;
  readonly #send: (request: CopyFileInit) => Promise<void>;
  /** By path relative to the target: what a link points to; "" for a file, undefined for a directory. */
  readonly #entries = new Map<string, string | undefined>();
  #ended = false;

  constructor(target: string, send: (request: CopyFileInit) => Promise<void>) {
    this.target = target;
    this.#send = send;
  }

  /** From now on nothing is sent. */
  end(): void {
    this.#ended = true;
    this.#entries.clear();
  }

  async send(request: CopyFileInit): Promise<void> {
    if (this.#ended) throw new SandboxError("ERR_SANDBOX_CLOSED", "the volume is no longer followed");
    await this.#send(request);
    const type = (request.fileMode ?? 0) & 0o170000;
    const link = type === 0o120000 ? Buffer.from(request.data ?? []).toString() : type === 0o040000 ? undefined : "";
    this.#entries.set(this.relative(request), link);
  }

  /** What the link at a path points to; undefined if it is no link. */
  linkAt(path: string): string | undefined {
    return this.#entries.get(path) || undefined;
  }

  async link(path: string, to: string, owner: FileOwner): Promise<void> {
    if (this.linkAt(path) === to) return;
    await this.send({ path: `${this.target}/${path}`, fileMode: LINK_MODE, dirMode: PARENT_MODE, data: encodeUtf8(to), ...owner });
  }

  /** A directory for contents that are not in use yet: one of earlier contents, so that they do not become more with each update, or a new one. */
  spare(name: string): string {
    const used = this.linkAt(DATA_LINK);
    const directories = [...this.#entries].filter(([, link]) => link === undefined).map(([path]) => path);
    // The agent replaces no directory by a file: one with directories in it may not fit.
    const free = directories.find((path) => isContents(path) && path !== used && !directories.some((other) => other.startsWith(`${path}/`)));
    return free ?? name;
  }

  /**
   * Removes the files of all contents but those in use: whoever still looks there finds as little as on the host, and they take no memory.
   */
  async removeUnused(owner: FileOwner): Promise<void> {
    const used = this.linkAt(DATA_LINK);
    await this.#remove((path) => isContents(path.split("/", 1)[0] ?? "") && !path.startsWith(`${used}/`), owner);
  }

  /** Removes the files of one directory that are not among these: a copy that was broken off may have left them. */
  async removeOthers(directory: string, kept: ReadonlySet<string>, owner: FileOwner): Promise<void> {
    await this.#remove((path) => path.startsWith(`${directory}/`) && !kept.has(path), owner);
  }

  async #remove(isUnwanted: (path: string) => boolean, owner: FileOwner): Promise<void> {
    for (const [path, link] of this.#entries) if (link !== undefined && path.includes("/") && isUnwanted(path)) await this.link(path, GONE, owner);
  }

  /** Path relative to the target. */
  relative({ path = "" }: CopyFileInit): string {
    return path.slice(this.target.length + 1);
  }
}

class Watch implements VolumeWatch {
  readonly #source: string;
  readonly #copy: VolumeCopy;
  readonly #logger: Logger;
  readonly #tree: GuestTree;
  /** What `..data` of the host pointed to when the guest got it. */
  #version: string | undefined;
  #watcher: FSWatcher | undefined;
  #ended = false;
  #dirty = false;
  #running: Promise<void> | undefined;

  constructor(source: string, copy: VolumeCopy, tree: GuestTree) {
    this.#source = source;
    this.#copy = copy;
    this.#logger = copy.logger ?? silentLogger;
    this.#tree = tree;
    this.#version = tree.linkAt(DATA_LINK);
    this.#running = this.#begin();
  }

  async close(): Promise<void> {
    this.#end();
    await this.#running;
  }

  #end(): void {
    this.#ended = true;
    this.#tree.end();
    this.#watcher?.close();
  }

  async #begin(): Promise<void> {
    if ((await versionOf(this.#source)) === undefined) return this.#end();
    if (this.#ended) return undefined;
    try {
      this.#watcher = watch(this.#source, { persistent: false }, () => this.#look());
      this.#watcher.on("error", (error) => this.#stop("a volume is no longer followed", error));
    } catch (error) {
      // Most likely all of the host's inotify watches are in use.
      return this.#stop("a volume cannot be followed: what changes in it does not reach the guest", error);
    }
    // It may have changed since it was copied.
    this.#dirty = true;
    return this.#update();
  }

  #look(): void {
    this.#dirty = true;
    this.#running ??= this.#update();
  }

  /** Until the guest has what the host has. Never rejects. */
  async #update(): Promise<void> {
    while (this.#dirty && !this.#ended) {
      this.#dirty = false;
      try {
        await this.#step();
      } catch (error) {
        if (!this.#ended) await this.#failed(error);
      }
    }
    this.#running = undefined;
  }

  async #step(): Promise<void> {
    const version = await versionOf(this.#source);
    // Kubelet removes volumes of pods that end.
    if (version === undefined) return;
    const owner = await this.#ownerOf(DATA_LINK);
    if (version !== this.#version) {
      if (!(await this.#switch(version, owner))) return;
      this.#logger.log("debug", "a volume was updated", { target: this.#tree.target, version });
    }
    await this.#linkNames();
    await this.#tree.removeUnused(owner);
  }

  /** Copies the contents and makes them those in use; false if the host has others by then. */
  async #switch(version: string, owner: FileOwner): Promise<boolean> {
    const directory = this.#tree.spare(version);
    const copied = new Set<string>();
    try {
      await copyFiles(copySource(`${this.#source}/${version}`, `${this.#tree.target}/${directory}`, this.#copy), async (request) => {
        copied.add(this.#tree.relative(request));
        await this.#tree.send(request);
      });
      await this.#tree.removeOthers(directory, copied, owner);
    } catch (error) {
      if (!isFilesError(error) || (await versionOf(this.#source)) === version) throw error;
    }
    if ((await versionOf(this.#source)) !== version) {
      // What was copied may be half of a directory that kubelet was removing.
      this.#dirty = true;
      return false;
    }
    await this.#tree.link(DATA_LINK, directory, owner);
    this.#version = version;
    return true;
  }

  /** The names that containers see are links through `..data`. Those of keys that are no more stay, and lead to nothing. */
  async #linkNames(): Promise<void> {
    for (const name of await readdir(this.#source)) {
      const to = name.startsWith("..") ? undefined : await linkTarget(`${this.#source}/${name}`);
      if (to !== undefined) await this.#tree.link(name, to, await this.#ownerOf(name));
    }
  }

  async #ownerOf(name: string): Promise<FileOwner> {
    const path = `${this.#source}/${name}`;
    const { uid, gid } = this.#copy.ownerOf?.(path) ?? (await lstat(path));
    return { uid, gid };
  }

  async #failed(error: unknown): Promise<void> {
    const code = error instanceof SandboxError ? error.code : undefined;
    if (code === "ERR_SANDBOX_CLOSED") this.#end();
    else if (code === "ERR_SANDBOX_DENIED") this.#stop("the policy does not allow a volume to be updated: the guest keeps what it has", error);
    // A volume that kubelet removes under the pod's end is nobody's concern.
    else if ((await versionOf(this.#source)) !== undefined)
      this.#logger.log("warn", "an update of a volume did not reach the guest", { target: this.#tree.target, error: messageOf(error) });
  }

  #stop(message: string, error: unknown): void {
    this.#end();
    this.#logger.log("warn", message, { source: this.#source, target: this.#tree.target, error: messageOf(error) });
  }
}

function copySource(source: string, target: string, { ownerOf }: VolumeCopy): CopySource {
  return { source, target, ...(ownerOf === undefined ? {} : { ownerOf }) };
}

/** What `..data` points to, if that is a directory beside it. */
async function versionOf(source: string): Promise<string | undefined> {
  const name = await linkTarget(`${source}/${DATA_LINK}`);
  return name !== undefined && isContents(name) ? name : undefined;
}

function isContents(name: string): boolean {
  return name.startsWith("..") && name !== ".." && name !== DATA_LINK && !name.includes("/");
}

/** Undefined for what is no link, or not there. */
async function linkTarget(path: string): Promise<string | undefined> {
  return readlink(path).catch(() => undefined);
}

function isFilesError(error: unknown): boolean {
  return error instanceof SandboxError && error.code === "ERR_SANDBOX_FILES";
}
