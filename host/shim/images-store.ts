import { mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeUtf8, sha256, toHex, type Clock } from "@sealpod/core";
import { parseDigest, type ImageSource, type Layer } from "@sealpod/oci";
import { prepareLayer, type LayerFormat, type PreparedLayer } from "@sealpod/sandbox";
import { lockNameOf, withLock } from "./images-lock.ts";

/**
 * Milliseconds that a shim waits for another to make the layer that it needs too. The largest images take minutes; after that something else is wrong,
 * and to do the work twice is better than to wait on.
 */
const LAYER_PATIENCE = 10 * 60_000;

/** Milliseconds that a sweep waits for another's. The other may have looked before what caused this one. */
const SWEEP_PATIENCE = 60_000;

/** Milliseconds without a write after which a half-made layer has no maker any more. */
const ABANDONED = 60 * 60_000;

/** Hexadecimal digits of the name of containerd's socket in marks, and of a diff id in the name of its lock, whose path has to fit a socket's address. */
const SHORT = 16;

/** Begin of the names of files that say when the last sweep for a containerd began. */
const SWEPT = ".swept-";

/** Tells which of some blobs containerd still has. */
export type PresentBlobs = (digests: ReadonlySet<string>) => Promise<ReadonlySet<string>>;

/**
 * The node's layer files, and which blobs of containerd they were made from. All shims of a node use one directory at the same time.
 *
 * Beside the files of a layer stands a mark, an empty file, for each blob that it was made for: `<diff id>.from-<containerd>-<blob>`. A layer goes with its
 * last mark. Marks name the containerd whose blob it is, since a node can have two; files without a mark are somebody else's and stay.
 */
export class LayerStore {
  readonly #directory: string;
  readonly #owner: string;
  readonly #clock: Clock;

  /** @param address of the containerd that the marks are for */
  constructor(directory: string, address: string, clock: Clock) {
    this.#directory = directory;
    this.#owner = toHex(sha256(encodeUtf8(address))).slice(0, SHORT);
    this.#clock = clock;
  }

  /**
   * The file of a layer, made if it is not there. Of any number of shims that want it at once one makes it.
   * @throws {SandboxError} ERR_SANDBOX_LAYER
   * @throws {OciError} ERR_OCI_DIGEST, and as {ContainerdError} if the image is not what its digests say, or its bytes cannot be had
   */
  async prepare(source: ImageSource, layer: Layer, format: LayerFormat): Promise<PreparedLayer> {
    const diffId = hexOf(layer.diffId);
    const mark = join(this.#directory, this.#mark(diffId, hexOf(layer.digest)));
    await this.#makeDirectory();
    return withLock(this.#lock(diffId.slice(0, SHORT)), LAYER_PATIENCE, async () => {
      // First, so that whatever is left of this is found. Where nothing can be written, a layer that is there already is good enough.
      await writeFile(mark, "", { flag: "a" }).catch(() => undefined);
      return prepareLayer(this.#directory, source, layer, format);
    });
  }

  /**
   * Removes the layers of which containerd has no blob any more. Machines that have one open keep it until they end. All shims of a node are told of
   * the same removal at the same time, and each look takes containerd a list of all its blobs: what another's look has seen is not looked for again.
   * @param since milliseconds since 1970; a sweep that began after it is as good as this one. Default: now, so that of those that wait one is enough
   * @returns the diff ids of what was removed
   */
  async sweep(present: PresentBlobs, since: number = this.#clock.now()): Promise<readonly string[]> {
    if (await this.#isEmpty()) return [];
    return withLock(this.#lock("sweep"), SWEEP_PATIENCE, async (held) => {
      if (!held || (await this.#hasSwept(since))) return [];
      await writeFile(this.#swept, String(this.#clock.now()), { mode: 0o600 }).catch(() => undefined);
      try {
        const removed = await this.#sweepAll(present);
        if (await this.#isEmpty()) await rm(this.#swept, { force: true });
        return removed;
      } catch (error) {
        await rm(this.#swept, { force: true });
        throw error;
      }
    });
  }

  async #sweepAll(present: PresentBlobs): Promise<readonly string[]> {
    const names = await this.#names();
    await this.#removeAbandoned(names);
    const marks = names.flatMap((name) => this.#parseMark(name) ?? []);
    const there = marks.length === 0 ? new Set<string>() : await present(new Set(marks.map(({ blob }) => blob)));
    const removed: string[] = [];
    for (const diffId of new Set(marks.filter(({ blob }) => !there.has(blob)).map((mark) => mark.diffId))) {
      if (await this.#sweepLayer(diffId, present)) removed.push(`sha256:${diffId}`);
    }
    return removed;
  }

  /** Whether a sweep for this containerd has begun after a time. One in the future is of a clock that was wrong. */
  async #hasSwept(since: number): Promise<boolean> {
    const began = Number(await readFile(this.#swept, "latin1").catch(() => "0"));
    return began > since && began <= this.#clock.now();
  }

  /** Whether there is nothing but what sweeps themselves write. */
  async #isEmpty(): Promise<boolean> {
    return (await this.#names()).every((name) => name.startsWith(SWEPT) || lockNameOf(name) === ".lock-sweep");
  }

  /** True if the layer was removed. Whoever makes or has just found the layer has the lock, and has its blob: it is not removed under their hands. */
  #sweepLayer(diffId: string, present: PresentBlobs): Promise<boolean> {
    return withLock(this.#lock(diffId.slice(0, SHORT)), 0, async (held) => {
      if (!held) return false;
      // Now that nobody else can: what is there, and what of it containerd has.
      const files = (await this.#names()).filter((name) => name.startsWith(`${diffId}.`));
      const isMark = (name: string): boolean => name.startsWith(`${diffId}.from-`);
      const marks = files.flatMap((name) => this.#parseMark(name) ?? []);
      const there = await present(new Set(marks.map(({ blob }) => blob)));
      const dead = marks.filter(({ blob }) => !there.has(blob)).map((mark) => this.#mark(mark.diffId, hexOf(mark.blob)));
      const isLast = dead.length > 0 && files.filter(isMark).every((name) => dead.includes(name));
      // The marks last, so that what is left of this is found.
      const doomed = isLast ? [...files.filter((name) => !isMark(name)), ...dead] : dead;
      // The note before its layer: where it is, the layer is.
      for (const name of doomed.toSorted((a, b) => Number(b.endsWith(".json")) - Number(a.endsWith(".json")))) await this.#remove(name);
      return isLast;
    });
  }

  /** What shims left that were killed. */
  async #removeAbandoned(names: readonly string[]): Promise<void> {
    for (const name of names) {
      if (name.startsWith(".making-") && (await this.#isAbandoned(name))) await this.#remove(name);
      // To have a dead owner's lock and to let go of it removes it, and its like beside it.
      const lock = lockNameOf(name);
      if (lock === undefined) continue;
      if (name !== lock) await this.#removeOld(name);
      else if (name !== ".lock-sweep") await withLock(join(this.#directory, name), 0, () => Promise.resolve());
    }
  }

  async #removeOld(name: string): Promise<void> {
    const facts = await stat(join(this.#directory, name)).catch(() => undefined);
    if (facts !== undefined && this.#clock.now() - facts.mtimeMs > ABANDONED) await this.#remove(name);
  }

  async #isAbandoned(name: string): Promise<boolean> {
    const path = join(this.#directory, name);
    let last = 0;
    try {
      for (const file of [path, ...(await readdir(path)).map((inside) => join(path, inside))]) last = Math.max(last, (await stat(file)).mtimeMs);
    } catch {
      // It is being finished or removed.
      return false;
    }
    return this.#clock.now() - last > ABANDONED;
  }

  #remove(name: string): Promise<void> {
    return rm(join(this.#directory, name), { recursive: true, force: true });
  }

  async #names(): Promise<readonly string[]> {
    try {
      return await readdir(this.#directory);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
      throw error;
    }
  }

  /** Images are not everybody's to read: containerd keeps them from other users too. What is wrong with the directory, `prepareLayer` says. */
  async #makeDirectory(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 }).catch(() => undefined);
  }

  /** Path of the time at which the last sweep began. */
  get #swept(): string {
    return join(this.#directory, `${SWEPT}${this.#owner}`);
  }

  #lock(name: string): string {
    return join(this.#directory, `.lock-${name}`);
  }

  /** @param diffId hexadecimal, as is the blob's digest */
  #mark(diffId: string, blob: string): string {
    return `${diffId}.from-${this.#owner}-${blob}`;
  }

  /** Undefined for other files, and for marks of another containerd. */
  #parseMark(name: string): { readonly diffId: string; readonly blob: string } | undefined {
    const [, diffId, owner, blob] = /^([0-9a-f]{64})\.from-([0-9a-f]{16})-([0-9a-f]{64})$/.exec(name) ?? [];
    return diffId === undefined || blob === undefined || owner !== this.#owner ? undefined : { diffId, blob: `sha256:${blob}` };
  }
}

/** The digits of a digest, which then can be part of a file's name. @throws {OciError} ERR_OCI_DIGEST */
function hexOf(digest: string): string {
  return parseDigest(digest).slice("sha256:".length);
}
