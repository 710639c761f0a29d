/** Extended attributes as they stand in the image: one array for all, for an object for each would cost many times its bytes. */
export interface Xattrs {
  /** The entries, in the order of namespace and name. */
  readonly entries: Uint8Array;
  /** Where among them one of the namespace `trusted.` belongs. */
  readonly trustedAt: number;
}

/** What all inodes have, from a tar member or by default. */
export interface Attributes {
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, signed, and the nanoseconds that go with them. */
  readonly mtime: number;
  readonly nanoseconds: number;
  readonly xattrs: Xattrs;
}

interface InodeBase {
  attributes: Attributes;
  /** Links in the final tree; 0 until the layout has found the inode. */
  links: number;
  /** Address: 32-byte units from the begin of the metadata. Set by the layout. */
  nid: number;
}

/** A regular file: its bytes stand from `block` on. */
export interface FileInode extends InodeBase {
  readonly kind: "file";
  readonly size: number;
  /** First data block; 0 for an empty file, which has none. */
  readonly block: number;
}

/** A directory. Names are bytes, one per character, so that the order of strings is the order of bytes. */
export interface DirectoryInode extends InodeBase {
  readonly kind: "directory";
  readonly parent: DirectoryInode | undefined;
  readonly children: Map<string, Inode>;
  /** Names that had a whiteout: a directory that comes to stand there must not show what lower layers have. */
  hidden: Set<string> | undefined;
  /** Nothing of lower layers shows in it. */
  opaque: boolean;
}

/** A symbolic link; the target is bytes, one per character. */
export interface SymlinkInode extends InodeBase {
  readonly kind: "symlink";
  readonly target: string;
}

/** A device node. */
export interface DeviceInode extends InodeBase {
  readonly kind: "character" | "block";
  readonly major: number;
  readonly minor: number;
}

/** A named pipe. */
export interface FifoInode extends InodeBase {
  readonly kind: "fifo";
}

/** A whiteout: to overlayfs a character device 0:0, but no member of the archive, so no hard link leads to it. */
export interface WhiteoutInode extends InodeBase {
  readonly kind: "whiteout";
}

/** An inode of the image. Hard links share one. */
export type Inode = FileInode | DirectoryInode | SymlinkInode | DeviceInode | FifoInode | WhiteoutInode;

/** The order of two strings of bytes. */
export function byteOrder(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
