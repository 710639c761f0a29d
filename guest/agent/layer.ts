import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  futimesSync,
  lchownSync,
  linkSync,
  lutimesSync,
  openSync,
  rmSync,
  symlinkSync,
  writeSync,
} from "node:fs";
import { encodeUtf8, type Logger } from "@sealpod/core";
import { safePath, type TarEntry } from "@sealpod/verity";
import { ConfinedDirectory, shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** What the extractor cannot do through node:fs. Paths name the entry itself; a final symbolic link is not followed. */
export interface FileNodes {
  /** Path of a character device 0:0 on the same file system. Hard links to it are what overlayfs takes as "deleted here". */
  readonly whiteout: string;
  /** Makes a named pipe. */
  makePipe(path: string): Promise<void>;
  /** Sets an extended attribute. */
  setXattr(path: string, name: string, value: Uint8Array): Promise<void>;
}

/** Whiteout of one name, and the mark of an opaque directory (OCI image layer specification, "Whiteouts"). */
const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";
/** Other names of this form are notes that AUFS keeps for itself. */
const AUFS = ".wh..wh.";

/** The attribute by which overlayfs knows an opaque directory. */
const OPAQUE_XATTR = "trusted.overlay.opaque";

/** Directories get this mode until all is unpacked. */
const WORKING_MODE = 0o700;

/**
 * Unpacks one image layer, a tar or an image read as one, into an empty directory, in the form that overlayfs takes as a lower layer.
 *
 * The layer's bytes are those whose root hash the policy names, so its author is known; but images are made of other people's layers, and nothing in
 * one may reach beyond its own directory. No step follows a symbolic link, whether the archive or anything else made it; `..` is refused; hard
 * links lead to files of this layer alone; device nodes are left out, for a container's devices come from its specification.
 *
 * @throws {AgentError} ERR_AGENT_LAYER, ERR_AGENT_PATH
 * @throws {VerityError} whatever reading the archive finds, a block that fails verification above all
 */
export async function extractLayer(entries: AsyncIterable<TarEntry>, root: ConfinedDirectory, nodes: FileNodes, logger: Logger): Promise<void> {
  const extractor = new LayerExtractor(root, nodes, logger);
  for await (const entry of entries) await extractor.add(entry);
  extractor.finish();
}

class LayerExtractor {
  readonly #root: ConfinedDirectory;
  readonly #nodes: FileNodes;
  readonly #logger: Logger;
  /** Directories by path: what they become once everything is in them, for later entries would change their times. */
  readonly #directories = new Map<string, Pick<TarEntry, "mode" | "mtime">>();

  constructor(root: ConfinedDirectory, nodes: FileNodes, logger: Logger) {
    this.#root = root;
    this.#nodes = nodes;
    this.#logger = logger;
  }

  async add(entry: TarEntry): Promise<void> {
    const path = safePath(entry.path);
    const components = path === "" ? [] : path.split("/");
    const name = components.at(-1);
    if (name === undefined) {
      if (entry.kind !== "directory") throw unsupported(entry, "the root of a layer is a directory");
      await this.#describeDirectory(this.#root, path, entry);
      return;
    }
    using parent = this.#root.descend(components.slice(0, -1), 0o755);
    if (name.startsWith(WHITEOUT)) await this.#addWhiteout(parent, name);
    else await this.#addEntry(parent, path, name, entry);
  }

  /** Gives directories their modes and times; setting those of one does not touch another's. */
  finish(): void {
    for (const [path, { mode, mtime }] of this.#directories) {
      using directory = this.#stillThere(path);
      if (directory === undefined) continue;
      chmodSync(directory.self(), mode);
      lutimesSync(directory.self(), mtime, mtime);
    }
  }

  async #addEntry(parent: ConfinedDirectory, path: string, name: string, entry: TarEntry): Promise<void> {
    if (entry.kind === "directory") {
      if (parent.stat(name)?.isDirectory() !== true) {
        clear(parent, name);
        parent.makeChild(name, WORKING_MODE);
      }
      using directory = parent.child(name);
      await this.#describeDirectory(directory, path, entry);
      return;
    }
    switch (entry.kind) {
      case "file":
        clear(parent, name);
        return this.#addFile(parent, name, entry);
      case "hardlink":
        return this.#addHardLink(parent, path, name, entry.target);
      case "symlink":
        clear(parent, name);
        symlinkSync(entry.target, parent.entry(name));
        break;
      case "fifo":
        clear(parent, name);
        await this.#nodes.makePipe(parent.entry(name, process.pid));
        chmodSync(parent.entry(name), entry.mode);
        break;
      case "character":
      case "block":
        this.#logger.log("warn", "device node in a layer left out", { path: shown(path), kind: entry.kind, major: entry.major, minor: entry.minor });
        return;
    }
    lchownSync(parent.entry(name), entry.uid, entry.gid);
    await this.#setXattrs(parent.entry(name, process.pid), entry);
    lutimesSync(parent.entry(name), entry.mtime, entry.mtime);
  }

  async #addFile(parent: ConfinedDirectory, name: string, entry: TarEntry): Promise<void> {
    const fd = openSync(parent.entry(name), constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
    try {
      for await (const chunk of entry.data) for (let at = 0; at < chunk.length;) at += writeSync(fd, chunk, at);
      // In this order: a change of owner clears set-id bits and file capabilities.
      fchownSync(fd, entry.uid, entry.gid);
      fchmodSync(fd, entry.mode);
      // By name: setfattr does not follow links, and the descriptor's own path is one.
      await this.#setXattrs(parent.entry(name, process.pid), entry);
      futimesSync(fd, entry.mtime, entry.mtime);
    } finally {
      closeSync(fd);
    }
  }

  #addHardLink(parent: ConfinedDirectory, path: string, name: string, target: string): void {
    const components = safePath(target).split("/");
    using from = this.#root.descend(components.slice(0, -1));
    const last = components.at(-1) ?? "";
    const found = from.stat(last);
    // A link to a symbolic link is that link under another name: link(2) follows none.
    if (found?.isFile() !== true && found?.isSymbolicLink() !== true) {
      throw new AgentError(
        "ERR_AGENT_LAYER",
        `layer entry ${shown(path)} is a hard link to ${shown(target)}, which is no file that came before it in the layer`,
      );
    }
    if (path === components.join("/")) return;
    clear(parent, name);
    linkSync(from.entry(last), parent.entry(name));
  }

  async #addWhiteout(parent: ConfinedDirectory, name: string): Promise<void> {
    if (name === OPAQUE) await this.#nodes.setXattr(parent.self(process.pid), OPAQUE_XATTR, encodeUtf8("y"));
    if (name.startsWith(AUFS)) return;
    const hidden = name.slice(WHITEOUT.length);
    clear(parent, hidden);
    linkSync(this.#nodes.whiteout, parent.entry(hidden));
  }

  async #describeDirectory(directory: ConfinedDirectory, path: string, entry: TarEntry): Promise<void> {
    lchownSync(directory.self(), entry.uid, entry.gid);
    await this.#setXattrs(directory.self(process.pid), entry);
    this.#directories.set(path, { mode: entry.mode, mtime: entry.mtime });
  }

  /** A directory of the archive, unless a later entry took its place. */
  #stillThere(path: string): ConfinedDirectory | undefined {
    try {
      return this.#root.descend(path === "" ? [] : path.split("/"));
    } catch (error) {
      if (error instanceof AgentError && error.code === "ERR_AGENT_PATH") return undefined;
      throw error;
    }
  }

  async #setXattrs(path: string, entry: TarEntry): Promise<void> {
    for (const [name, value] of entry.xattrs) {
      // `trusted.` steers overlayfs (a redirect to another directory, for one); the rest is for security modules the guest does not have.
      if (name === "security.capability" || name.startsWith("user.")) await this.#nodes.setXattr(path, name, value);
      else this.#logger.log("warn", "extended attribute in a layer left out", { path: shown(entry.path), name: shown(name) });
    }
  }
}

/** The last of several entries of one name counts, whatever kinds they have. */
function clear(parent: ConfinedDirectory, name: string): void {
  if (parent.stat(name) !== undefined) rmSync(parent.entry(name), { recursive: true });
}

function unsupported(entry: TarEntry, problem: string): AgentError {
  return new AgentError("ERR_AGENT_LAYER", `layer entry ${shown(entry.path)} is a ${entry.kind}: ${problem}`);
}
