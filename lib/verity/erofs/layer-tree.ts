import { VerityError } from "../errors.ts";
import { MAX_NAME_LENGTH } from "../limits.ts";
import { attributesOf } from "../tar-attributes.ts";
import { owned } from "../tar-format.ts";
import type { TarMember } from "../tar-scanner.ts";
import type { Attributes, DirectoryInode, Inode } from "./inode.ts";
import { ARRAY_COST, MAX_MAJOR, MAX_MINOR, MAX_SYMLINK_TARGET } from "./limits.ts";
import type { ErofsLimits } from "./limits.ts";
import { keptXattrs, NO_XATTRS } from "./xattrs.ts";

/** Whiteout of one name, and the mark of an opaque directory (OCI image layer specification, "Whiteouts"). */
const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";
/** Other names of this form are notes that AUFS keeps for itself. */
const AUFS = ".wh..wh.";

/** Directories that the archive does not declare, the root among them. */
const IMPLICIT: Attributes = { mode: 0o755, uid: 0, gid: 0, mtime: 0, nanoseconds: 0, xattrs: NO_XATTRS };
/** A whiteout has none of its own: nobody sees it, and writers fill in what they like. */
const NO_ATTRIBUTES: Attributes = { ...IMPLICIT, mode: 0 };

/** Directories that members are in and that no member describes: they have default attributes, which hide those of lower layers. */
export interface UndeclaredDirectories {
  /**
   * How many. The root does not count (what is above a lower layer gives its attributes), nor what stands where nothing of a lower layer
   * can show: behind a whiteout, and below an opaque directory.
   */
  readonly count: number;
  /** Path of one that is nearest to the root, the first such in the archive; bytes, one per character. Undefined if there are none. */
  readonly first: string | undefined;
}

/**
 * The tree that a layer's members make, in the form that overlayfs takes as a lower layer. The last member of a name counts.
 * It keeps to the rules of the agent's extractor (guest/agent/layer.ts) wherever both have the thing at all, and refuses what runtimes do not agree on.
 */
export class LayerTree {
  readonly root: DirectoryInode = newDirectory(undefined, IMPLICIT, false);
  readonly #limits: ErofsLimits;
  #nodes = 1;
  #metadata = 0;

  constructor(limits: ErofsLimits) {
    this.#limits = limits;
  }

  /**
   * Adds a member, in the order of the archive.
   * @param block where its data will stand in the image, if it has any
   * @throws {VerityError} ERR_VERITY_TAR, ERR_VERITY_TAR_PATH, ERR_VERITY_TAR_UNSUPPORTED, ERR_VERITY_LIMIT
   */
  add(member: TarMember, block: number): void {
    const parts = pathParts(member.path, member);
    const name = parts.pop();
    if (name === undefined) {
      if (member.kind !== "directory") throw badPath(member, "the root of a layer is a directory");
      this.root.attributes = this.#attributes(member);
      return;
    }
    if (parts.some((part) => part.startsWith(AUFS)) || (name.startsWith(AUFS) && name !== OPAQUE)) return;
    if (parts.some((part) => part.startsWith(WHITEOUT))) throw badPath(member, "a whiteout on its way is no directory");
    const parent = this.#descend(parts, member);
    if (name === OPAQUE) parent.opaque = true;
    else if (name.startsWith(WHITEOUT)) this.#addWhiteout(parent, name.slice(WHITEOUT.length), member);
    else if (member.kind === "directory") this.#addDirectory(parent, name, this.#attributes(member));
    else this.#put(parent, name, this.#inodeOf(member, block));
  }

  /**
   * Says that the archive is over. Whiteouts go from directories where nothing of a lower layer can show: overlayfs reads those
   * as they are, and would list the names.
   */
  finish(): UndeclaredDirectories {
    let first: DirectoryInode | undefined;
    let count = 0;
    // Overlayfs does not heed the mark on a root.
    const merged = [this.root];
    const alone: DirectoryInode[] = [];
    // An array's iterator visits what is added while it runs: each array is the queue of a breadth-first walk.
    for (const directory of merged) {
      for (const [name, child] of directory.children) {
        if (child.kind !== "directory") continue;
        (child.opaque ? alone : merged).push(child);
        if (child.attributes !== IMPLICIT || directory.hidden?.has(name) === true) continue;
        first ??= child;
        count++;
      }
    }
    for (const directory of alone) {
      for (const [name, child] of directory.children) {
        if (child.kind === "directory") alone.push(child);
        else if (child.kind === "whiteout") directory.children.delete(name);
      }
    }
    return { count, first: first === undefined ? undefined : pathOf(first) };
  }

  /** An inode that is not a directory. */
  #inodeOf(member: TarMember, block: number): Inode {
    if (member.kind === "hardlink") return this.#linked(member);
    const base = { attributes: this.#attributes(member), links: 0, nid: 0 };
    switch (member.kind) {
      case "file":
        return { ...base, kind: "file", size: member.size, block: member.size === 0 ? 0 : block };
      case "symlink": {
        const { length } = member.target;
        if (length > MAX_SYMLINK_TARGET) throw limit(`target of the symbolic link at offset ${member.headerOffset}`, length, MAX_SYMLINK_TARGET);
        this.#keep(length);
        // Linux has no permissions on links and shows these; archives have anything there.
        return { ...base, attributes: { ...base.attributes, mode: 0o777 }, kind: "symlink", target: member.target };
      }
      case "character":
      case "block":
        if (member.major > MAX_MAJOR || member.minor > MAX_MINOR) {
          throw new VerityError("ERR_VERITY_TAR", `tar member at offset ${member.headerOffset}: Linux has no device ${member.major}:${member.minor}`, {
            details: { offset: member.headerOffset, major: member.major, minor: member.minor },
          });
        }
        return { ...base, kind: member.kind, major: member.major, minor: member.minor };
      case "fifo":
        return { ...base, kind: "fifo" };
      case "directory":
        throw new VerityError("ERR_VERITY_ARGUMENT", "a directory is no leaf");
    }
  }

  /** The inode that a hard link shares. Its own attributes do not count: they are the inode's, which has them already. */
  #linked(member: TarMember): Inode {
    let inode: Inode | undefined = this.root;
    for (const part of pathParts(member.target, member)) inode = inode?.kind === "directory" ? inode.children.get(part) : undefined;
    if (inode === undefined || inode.kind === "directory" || inode.kind === "whiteout") {
      throw new VerityError(
        "ERR_VERITY_TAR",
        `tar member ${shown(member.path)} at offset ${member.headerOffset} is a hard link to ${shown(member.target)}, which is no file that came before it in the layer`,
        { details: { offset: member.headerOffset }, hint: "A layer must hold the files that it links to. Build the image again." },
      );
    }
    return inode;
  }

  #addWhiteout(parent: DirectoryInode, name: string, member: TarMember): void {
    if (name === "" || name === "." || name === "..") throw badPath(member, "it is a whiteout of no name that a file can have");
    const present = parent.children.get(name);
    if (present !== undefined && present.kind !== "whiteout") {
      throw new VerityError(
        "ERR_VERITY_TAR",
        `tar member ${shown(member.path)} at offset ${member.headerOffset} is a whiteout of a ${present.kind} of its own layer: runtimes delete it, keep it or fail`,
        { details: { offset: member.headerOffset }, hint: "Whiteouts are for what lower layers have. Build the image again with a current tool." },
      );
    }
    this.#put(parent, name, { kind: "whiteout", attributes: NO_ATTRIBUTES, links: 0, nid: 0 });
    parent.hidden ??= new Set();
    parent.hidden.add(owned(name));
  }

  #addDirectory(parent: DirectoryInode, name: string, attributes: Attributes): DirectoryInode {
    const present = parent.children.get(name);
    if (present?.kind === "directory") {
      present.attributes = attributes;
      return present;
    }
    const directory = newDirectory(parent, attributes, parent.hidden?.has(name) ?? false);
    this.#put(parent, name, directory);
    return directory;
  }

  /** The directory at a path; those that are missing are made, for many archives leave them out. */
  #descend(parts: readonly string[], member: TarMember): DirectoryInode {
    let directory = this.root;
    for (const part of parts) {
      const child = directory.children.get(part);
      if (child === undefined || child.kind === "whiteout") directory = this.#addDirectory(directory, part, IMPLICIT);
      else if (child.kind === "directory") directory = child;
      else throw badPath(member, `${shown(part)} on its way is a ${child.kind}`);
    }
    return directory;
  }

  #put(parent: DirectoryInode, name: string, inode: Inode): void {
    if (parent.children.has(name)) {
      parent.children.set(name, inode);
      return;
    }
    if (++this.#nodes > this.#limits.maxNodes) throw limit("number of names", this.#nodes, this.#limits.maxNodes);
    this.#keep(name.length);
    parent.children.set(owned(name), inode);
  }

  #attributes(member: TarMember): Attributes {
    const { uid, gid, mtime, nanoseconds, xattrs: all } = attributesOf(member);
    const xattrs = keptXattrs(all, member);
    if (xattrs !== NO_XATTRS) this.#keep(xattrs.entries.length + ARRAY_COST);
    return { mode: member.mode, uid, gid, mtime, nanoseconds, xattrs };
  }

  #keep(bytes: number): void {
    this.#metadata += bytes;
    if (this.#metadata > this.#limits.maxMetadata) throw limit("bytes of names, link targets and attributes", this.#metadata, this.#limits.maxMetadata);
  }
}

function pathOf(directory: DirectoryInode): string {
  const names: string[] = [];
  for (let at = directory; at.parent !== undefined; at = at.parent) {
    for (const [name, child] of at.parent.children) if (child === at) names.push(name);
  }
  return names.reverse().join("/");
}

function newDirectory(parent: DirectoryInode | undefined, attributes: Attributes, opaque: boolean): DirectoryInode {
  return { kind: "directory", attributes, links: 0, nid: 0, parent, children: new Map(), hidden: undefined, opaque };
}

/** Components of a path: what `safePath` says of text, said of bytes, for a file system takes names that are not UTF-8. */
function pathParts(path: string, member: TarMember): string[] {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") throw badPath(member, `${shown(path)} has a '..' component`);
    if (part.length > MAX_NAME_LENGTH) throw badPath(member, `a component has ${part.length} bytes, Linux takes at most ${MAX_NAME_LENGTH}`);
    parts.push(part);
  }
  return parts;
}

function badPath(member: TarMember, problem: string): VerityError {
  return new VerityError("ERR_VERITY_TAR_PATH", `tar member ${shown(member.path)} at offset ${member.headerOffset} cannot be unpacked: ${problem}`, {
    details: { offset: member.headerOffset },
    hint: "The image is damaged or made to write outside its own root. Do not run it.",
  });
}

function limit(what: string, found: number, most: number): VerityError {
  return new VerityError("ERR_VERITY_LIMIT", `layer: ${what} is ${found}, more than the limit of ${most}`, { details: { found, limit: most } });
}

function shown(path: string): string {
  return JSON.stringify(path.slice(0, 200));
}
