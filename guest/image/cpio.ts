import { concatBytes, encodeUtf8 } from "@sealpod/core";
import type { ImageNode, ImageTree } from "./image-tree.ts";

const TYPE: Readonly<Record<ImageNode["kind"], number>> = { directory: 0o040000, symlink: 0o120000, file: 0o100000, character: 0o020000 };

/** Archives are padded to whole blocks, as cpio does and boot loaders expect. */
const BLOCK = 512;

/**
 * An archive in the "newc" form that Linux unpacks as an initial RAM disk (Documentation/driver-api/early-userspace/buffer-format.rst),
 * uncompressed: a packer's version must not matter to its bytes. Inode numbers count the entries; all times are 1970.
 */
export function encodeCpio(tree: ImageTree): Uint8Array {
  const parts: Uint8Array[] = [];
  let length = 0;
  const put = (bytes: Uint8Array): void => {
    parts.push(bytes);
    length += bytes.length;
    const padding = (4 - (length % 4)) % 4;
    if (padding > 0) parts.push(new Uint8Array(padding));
    length += padding;
  };
  let inode = 0;
  for (const [path, node] of tree.entries()) {
    const data = node.kind === "file" ? node.data : node.kind === "symlink" ? encodeUtf8(node.target) : new Uint8Array();
    const mode = TYPE[node.kind] | (node.kind === "symlink" ? 0o777 : node.mode);
    const device = node.kind === "character" ? [node.major, node.minor] : [0, 0];
    inode += 1;
    put(header([inode, mode, 0, 0, node.kind === "directory" ? 2 : 1, 0, data.length, 0, 0, device[0] ?? 0, device[1] ?? 0], path));
    if (data.length > 0) put(data);
  }
  put(header([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], "TRAILER!!!"));
  return concatBytes(...parts, new Uint8Array((BLOCK - (length % BLOCK)) % BLOCK));
}

/** Magic, thirteen numbers of eight hex digits (the last two: length of the name with its NUL, checksum), the name. */
function header(fields: readonly number[], path: string): Uint8Array {
  const name = encodeUtf8(`${path}\0`);
  const numbers = [...fields, name.length, 0].map((value) => value.toString(16).toUpperCase().padStart(8, "0"));
  return concatBytes(encodeUtf8(`070701${numbers.join("")}`), name);
}
