import { concatBytes } from "@sealpod/core";
import { VerityError } from "../errors.ts";
import type { TarMember } from "../tar-scanner.ts";
import { byteOrder } from "./inode.ts";
import type { Inode, Xattrs } from "./inode.ts";
import { MAX_XATTR_AREA, MAX_XATTR_NAMES, MAX_XATTR_VALUE } from "./limits.ts";

/** Namespaces by `e_name_index`: 4 is `trusted.`, which the writer alone uses. */
export const NAMESPACES: readonly { readonly namespace: number; readonly prefix: string; readonly whole: boolean }[] = [
  { namespace: 1, prefix: "user.", whole: false },
  { namespace: 2, prefix: "system.posix_acl_access", whole: true },
  { namespace: 3, prefix: "system.posix_acl_default", whole: true },
  { namespace: 6, prefix: "security.", whole: false },
];
export const TRUSTED = 4;

/** An extended attribute: the namespace as a number, then the rest of the name, bytes, one per character. */
interface Xattr {
  readonly namespace: number;
  readonly name: string;
  readonly value: Uint8Array;
}

/** What makes a directory opaque to overlayfs. */
const OPAQUE_ENTRY: Uint8Array = encodeEntry({ namespace: TRUSTED, name: "overlay.opaque", value: Uint8Array.of(0x79) });

/** `struct erofs_xattr_ibody_header`: a filter that is not used, the number of shared attributes (none), reserved bytes. */
export const XATTR_HEADER = 12;

/** The attributes of a member that has none. */
export const NO_XATTRS: Xattrs = { entries: new Uint8Array(0), trustedAt: 0 };

/**
 * The attributes of a member that the image keeps. `trusted.` ones are left out, for they would steer overlayfs (a redirect to
 * another directory, for one), and so are those of namespaces that Linux does not have (`com.apple.provenance`): no runtime can
 * set them either.
 * @throws {VerityError} ERR_VERITY_LIMIT, ERR_VERITY_TAR_UNSUPPORTED
 */
export function keptXattrs(all: ReadonlyMap<string, Uint8Array>, member: TarMember): Xattrs {
  if (all.size === 0) return NO_XATTRS;
  const kept: Xattr[] = [];
  let names = 0;
  let size = XATTR_HEADER + OPAQUE_ENTRY.length;
  for (const [full, value] of all) {
    const found = NAMESPACES.find(({ prefix, whole }) => (whole ? full === prefix : full.startsWith(prefix)));
    if (found === undefined) continue;
    const name = full.slice(found.prefix.length);
    if ((name === "") !== found.whole) {
      throw new VerityError(
        "ERR_VERITY_TAR_UNSUPPORTED",
        `tar member at offset ${member.headerOffset}: extended attribute ${JSON.stringify(full)} has no name`,
      );
    }
    if (value.length > MAX_XATTR_VALUE) throw tooLarge(member, "an extended attribute has", value.length, "EROFS takes", MAX_XATTR_VALUE);
    const xattr = { namespace: found.namespace, name, value };
    names += full.length + 1;
    if (names > MAX_XATTR_NAMES) throw tooLarge(member, "names of extended attributes have", names, "Linux lists", MAX_XATTR_NAMES);
    size += entrySize(xattr);
    if (size > MAX_XATTR_AREA) throw tooLarge(member, "extended attributes together have", size, "EROFS takes", MAX_XATTR_AREA);
    kept.push(xattr);
  }
  if (kept.length === 0) return NO_XATTRS;
  kept.sort((a, b) => a.namespace - b.namespace || byteOrder(a.name, b.name));
  const before = kept.filter(({ namespace }) => namespace < TRUSTED);
  return { entries: concatBytes(...kept.map(encodeEntry)), trustedAt: before.reduce((sum, xattr) => sum + entrySize(xattr), 0) };
}

/** Bytes that the attributes of an inode take behind it; none take none. */
export function xattrAreaSize(inode: Inode): number {
  const size = inode.attributes.xattrs.entries.length + (isOpaque(inode) ? OPAQUE_ENTRY.length : 0);
  return size === 0 ? 0 : XATTR_HEADER + size;
}

/** `i_xattr_icount` for an area of some size: the header counts as one, each further four bytes as one more. */
export function xattrCount(areaSize: number): number {
  return areaSize === 0 ? 0 : 1 + (areaSize - XATTR_HEADER) / 4;
}

/** The area: the header and the entries. An opaque directory has one of the writer's own. */
export function encodeXattrs(inode: Inode): Uint8Array {
  const { entries, trustedAt } = inode.attributes.xattrs;
  if (xattrAreaSize(inode) === 0) return entries;
  const own = isOpaque(inode) ? OPAQUE_ENTRY : NO_XATTRS.entries;
  return concatBytes(new Uint8Array(XATTR_HEADER), entries.subarray(0, trustedAt), own, entries.subarray(trustedAt));
}

function isOpaque(inode: Inode): boolean {
  return inode.kind === "directory" && inode.opaque;
}

/** `struct erofs_xattr_entry`: u8 name length, u8 namespace, u16 value length, name, value, zeros to 4 bytes. */
function encodeEntry(xattr: Xattr): Uint8Array {
  const bytes = new Uint8Array(entrySize(xattr));
  const view = new DataView(bytes.buffer);
  view.setUint8(0, xattr.name.length);
  view.setUint8(1, xattr.namespace);
  view.setUint16(2, xattr.value.length, true);
  bytes.set(Buffer.from(xattr.name, "latin1"), 4);
  bytes.set(xattr.value, 4 + xattr.name.length);
  return bytes;
}

function entrySize(xattr: Xattr): number {
  return Math.ceil((4 + xattr.name.length + xattr.value.length) / 4) * 4;
}

function tooLarge(member: TarMember, what: string, found: number, who: string, limit: number): VerityError {
  return new VerityError("ERR_VERITY_LIMIT", `tar member at offset ${member.headerOffset}: ${what} ${found} bytes, ${who} at most ${limit}`, {
    details: { offset: member.headerOffset, found, limit },
  });
}
