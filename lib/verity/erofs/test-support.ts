import { isZero } from "@sealpod/core";
import { inPieces, memorySink } from "../testdata/archives.ts";
import { buildErofsLayer } from "./build.ts";
import type { ErofsLayerInfo } from "./build.ts";
import { crc32c } from "./crc32c.ts";
import type { ErofsLimits } from "./limits.ts";
import type { PatchableSink } from "./sink.ts";

/** A memory sink whose bytes can be written again. */
export function patchableSink(): PatchableSink & { bytes(): Uint8Array } {
  const sink = memorySink();
  const patches: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
  return {
    write: (bytes) => sink.write(bytes),
    writeAt(offset, bytes) {
      patches.push({ offset, bytes: bytes.slice() });
      return Promise.resolve();
    },
    bytes() {
      const all = sink.bytes();
      for (const { offset, bytes } of patches) all.set(bytes, offset);
      return all;
    },
  };
}

/** The layer file of a tar, which comes in chunks. */
export async function buildFrom(
  tar: Uint8Array,
  chunk = 65536,
  limits: Partial<ErofsLimits> = {},
): Promise<{ readonly info: ErofsLayerInfo; readonly file: Uint8Array; readonly image: Uint8Array }> {
  const sink = patchableSink();
  const info = await buildErofsLayer(inPieces(tar, chunk), sink, limits);
  const file = sink.bytes();
  return { info, file, image: file.subarray(0, info.imageSize) };
}

/** A file of an image, as a test sees it. */
export interface Found {
  readonly kind: "file" | "directory" | "symlink" | "character" | "block" | "fifo";
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: number;
  readonly nanoseconds: number;
  readonly links: number;
  /** Equal for hard links of one file. */
  readonly nid: number;
  readonly xattrs: Readonly<Record<string, string>>;
  /** Bytes of a file or a target (one per character), `MAJOR:MINOR` of a device, else "". */
  readonly content: string;
}

/** By the type nibble of a mode: the kind, and `EROFS_FT_*` in directory entries. */
const KINDS: ReadonlyMap<number, { readonly kind: Found["kind"]; readonly entry: number }> = new Map([
  [1, { kind: "fifo", entry: 5 }],
  [2, { kind: "character", entry: 3 }],
  [4, { kind: "directory", entry: 2 }],
  [6, { kind: "block", entry: 4 }],
  [8, { kind: "file", entry: 1 }],
  [10, { kind: "symlink", entry: 7 }],
]);

const PREFIXES = ["", "user.", "system.posix_acl_access", "system.posix_acl_default", "trusted.", "lustre.", "security."];

/**
 * Reads an image back, by the documents of the format and not by the writer's code; anything that the writer does not do is an error.
 * Paths have no leading `/`; the root is "".
 */
export function readImage(image: Uint8Array): ReadonlyMap<string, Found> {
  return new ImageReader(Buffer.from(image.buffer, image.byteOffset, image.length)).tree();
}

/** Fields of the superblock. */
export function superblockOf(image: Uint8Array): { readonly inodes: number; readonly metaBlock: number; readonly uuid: string } {
  const { inodes, metaBlock, uuid } = new ImageReader(Buffer.from(image.buffer, image.byteOffset, image.length));
  return { inodes, metaBlock, uuid };
}

class ImageReader {
  readonly inodes: number;
  readonly metaBlock: number;
  readonly uuid: string;
  readonly #image: Buffer;
  readonly #rootNid: number;

  constructor(image: Buffer) {
    this.#image = image;
    check(image.length >= 8192 && image.length % 4096 === 0, "size is not two blocks or more");
    check(isZero(image.subarray(0, 1024)), "bytes before the superblock");
    const sb = image.subarray(1024, 4096);
    check(sb.readUInt32LE(0) === 0xe0f5e1e2, "magic");
    const zeroed = Buffer.from(sb);
    zeroed.writeUInt32LE(0, 4);
    check(sb.readUInt32LE(4) === crc32c(0xffff_ffff, zeroed), "checksum");
    check(sb.readUInt32LE(8) === 3, "feature_compat");
    check(sb.readUInt8(12) === 12 && sb.readUInt8(13) === 0, "block size or extensions");
    this.#rootNid = sb.readUInt16LE(14);
    this.inodes = Number(sb.readBigUInt64LE(16));
    check(isZero(sb.subarray(24, 36)), "build time");
    check(sb.readUInt32LE(36) * 4096 === image.length, "number of blocks");
    this.metaBlock = sb.readUInt32LE(40);
    check(sb.readUInt32LE(44) === 0, "shared attributes");
    this.uuid = sb.toString("hex", 48, 64);
    check(isZero(sb.subarray(64)), "incompatible features or what follows");
  }

  tree(): ReadonlyMap<string, Found> {
    const found = new Map<string, Found>();
    const numbers = new Map<number, number>();
    const links = new Map<number, number>();
    const visit = (path: string, nid: number, parent: number, type: number): void => {
      const { inode, names, number, entry } = this.#inode(nid);
      check(entry === type, `${path}: type in the directory`);
      check((numbers.get(number) ?? nid) === nid, `${path}: inode number used twice`);
      numbers.set(number, nid);
      links.set(nid, (links.get(nid) ?? 0) + 1);
      found.set(path, inode);
      if (inode.kind !== "directory") return;
      check(names.get(".")?.nid === nid && names.get("..")?.nid === parent, `${path}: . or ..`);
      links.set(nid, (links.get(nid) ?? 0) + 1);
      links.set(parent, (links.get(parent) ?? 0) + 1);
      for (const [name, entry] of names) if (name !== "." && name !== "..") visit(path === "" ? name : `${path}/${name}`, entry.nid, nid, entry.type);
    };
    visit("", this.#rootNid, this.#rootNid, 2);
    // The root is its own parent and stands in no directory.
    links.set(this.#rootNid, (links.get(this.#rootNid) ?? 0) - 1);
    for (const [path, inode] of found) check(links.get(inode.nid) === inode.links, `${path}: ${inode.links} links, ${links.get(inode.nid)} found`);
    check(numbers.size === this.inodes && Math.max(...numbers.keys()) === this.inodes, "number of inodes");
    return found;
  }

  #inode(nid: number): {
    readonly inode: Found;
    readonly number: number;
    readonly entry: number;
    readonly names: ReadonlyMap<string, { readonly nid: number; readonly type: number }>;
  } {
    const at = this.metaBlock * 4096 + nid * 32;
    check(nid > 0 && (at % 4096) + 64 <= 4096, `nid ${nid}: inode crosses a block`);
    const raw = this.#image.subarray(at, at + 64);
    const format = raw.readUInt16LE(0);
    check(format === 1 || format === 5, `nid ${nid}: format ${format}`);
    check(raw.readUInt16LE(6) === 0 && isZero(raw.subarray(48)), `nid ${nid}: reserved bytes`);
    const mode = raw.readUInt16LE(4);
    const type = KINDS.get(mode >> 12);
    check(type !== undefined, `nid ${nid}: mode ${mode.toString(8)}`);
    const { kind, entry } = type;
    const count = raw.readUInt16LE(2);
    const area = count === 0 ? 0 : 12 + (count - 1) * 4;
    const size = Number(raw.readBigUInt64LE(8));
    const field = raw.readUInt32LE(16);
    let data: Buffer = Buffer.alloc(0);
    if (format === 5) {
      const begin = at + 64 + area;
      check(field === 0 && size > 0 && begin % 4096 !== 0 && (begin % 4096) + size <= 4096, `nid ${nid}: inline body crosses a block`);
      data = this.#image.subarray(begin, begin + size);
    } else if (kind === "file" || kind === "directory" || kind === "symlink") {
      check(size === 0 ? field === 0 : field > 0 && field * 4096 + size <= this.#image.length, `nid ${nid}: data outside the image`);
      check(size === 0 || kind !== "file" || field * 4096 + size <= this.metaBlock * 4096, `nid ${nid}: file in the metadata`);
      data = this.#image.subarray(field * 4096, field * 4096 + size);
      const padding = (4096 - (size % 4096)) % 4096;
      check(isZero(this.#image.subarray(field * 4096 + size, field * 4096 + size + (size === 0 ? 0 : padding))), `nid ${nid}: padding`);
    } else {
      check(size === 0, `nid ${nid}: size of a ${kind}`);
    }
    const isDevice = kind === "character" || kind === "block";
    // Linux's new_decode_dev().
    const device = `${(field & 0xfff00) >> 8}:${((field & 0xff) | ((field >>> 12) & 0xfff00)) >>> 0}`;
    return {
      inode: {
        kind,
        mode: mode & 0o7777,
        uid: raw.readUInt32LE(24),
        gid: raw.readUInt32LE(28),
        mtime: Number(raw.readBigInt64LE(32)),
        nanoseconds: raw.readUInt32LE(40),
        links: raw.readUInt32LE(44),
        nid,
        xattrs: this.#xattrs(this.#image.subarray(at + 64, at + 64 + area), nid),
        content: isDevice ? device : kind === "file" || kind === "symlink" ? data.toString("latin1") : "",
      },
      number: raw.readUInt32LE(20),
      entry,
      names: kind === "directory" ? this.#names(data, nid) : new Map(),
    };
  }

  #xattrs(area: Buffer, nid: number): Readonly<Record<string, string>> {
    const found: Record<string, string> = {};
    check(isZero(area.subarray(0, 12)), `nid ${nid}: attribute header`);
    for (let at = 12; at < area.length;) {
      const [nameLength, prefix, valueLength] = [area.readUInt8(at), PREFIXES[area.readUInt8(at + 1)], area.readUInt16LE(at + 2)];
      const name = `${prefix}${area.toString("latin1", at + 4, at + 4 + nameLength)}`;
      check(prefix !== undefined && prefix !== "" && !(name in found), `nid ${nid}: attribute ${name}`);
      found[name] = area.toString("latin1", at + 4 + nameLength, at + 4 + nameLength + valueLength);
      at += Math.ceil((4 + nameLength + valueLength) / 4) * 4;
    }
    return found;
  }

  /** Names of a directory: each block has entries, then names; the order is of bytes in all of it. */
  #names(data: Buffer, nid: number): ReadonlyMap<string, { readonly nid: number; readonly type: number }> {
    const names = new Map<string, { readonly nid: number; readonly type: number }>();
    let before = "";
    for (let start = 0; start < data.length; start += 4096) {
      const block = data.subarray(start, start + 4096);
      const entries = block.readUInt16LE(8) / 12;
      check(Number.isInteger(entries) && entries > 0, `nid ${nid}: first name`);
      for (let index = 0; index < entries; index++) {
        const begin = block.readUInt16LE(index * 12 + 8);
        const zero = block.indexOf(0, begin);
        const end = index + 1 < entries ? block.readUInt16LE((index + 1) * 12 + 8) : zero === -1 ? block.length : zero;
        const name = block.toString("latin1", begin, end);
        check(
          begin < end && end - begin <= 255 && name > before && !name.includes("/"),
          `nid ${nid}: name ${JSON.stringify(name)} after ${JSON.stringify(before)}`,
        );
        check(block.readUInt8(index * 12 + 11) === 0, `nid ${nid}: reserved byte`);
        names.set(name, { nid: Number(block.readBigUInt64LE(index * 12)), type: block.readUInt8(index * 12 + 10) });
        before = name;
      }
    }
    return names;
  }
}

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(`image is not as it should be: ${what}`);
}
