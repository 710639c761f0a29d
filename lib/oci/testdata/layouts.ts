import type { FileTree } from "@sealpod/core";
import { encodeUtf8 } from "@sealpod/core";
import type { LayoutStore } from "../layout-writer.ts";
import { blobPath, digestOf } from "../digest.ts";

/** Bytes as chunks of `size`. */
export async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** All chunks as one array. */
export async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return new Uint8Array(Buffer.concat(parts));
}

/** Files in memory, as a tree to read and a store to write. `chunk` is the size of the pieces that `stream` gives. */
export function memoryLayout(files: Map<string, Uint8Array> = new Map(), chunk = 1000): FileTree & LayoutStore & { readonly files: Map<string, Uint8Array> } {
  const get = (path: string): Uint8Array => {
    const bytes = files.get(path);
    if (bytes === undefined) throw new Error(`no ${path}`);
    return bytes;
  };
  return {
    files,
    read(path, limit) {
      const bytes = get(path);
      return bytes.length > limit ? Promise.reject(new Error(`${path} is over the limit`)) : Promise.resolve(bytes);
    },
    stream: (path) => inPieces(get(path), chunk),
    size: (path) => Promise.resolve(files.get(path)?.length),
    create() {
      const parts: Uint8Array[] = [];
      return Promise.resolve({
        write(bytes: Uint8Array) {
          parts.push(bytes.slice());
          return Promise.resolve();
        },
        commit(path: string) {
          files.set(path, new Uint8Array(Buffer.concat(parts)));
          return Promise.resolve();
        },
        abort: () => Promise.resolve(),
      });
    },
  };
}

/** Puts a blob into the files and returns its digest and size. */
export function putBlob(files: Map<string, Uint8Array>, content: Uint8Array | object): { readonly digest: string; readonly size: number } {
  const bytes = content instanceof Uint8Array ? content : encodeUtf8(JSON.stringify(content));
  const digest = digestOf(bytes);
  files.set(blobPath(digest), bytes);
  return { digest, size: bytes.length };
}

/** `oci-layout` and `index.json`. */
export function putIndex(files: Map<string, Uint8Array>, index: object): void {
  files.set("oci-layout", encodeUtf8('{"imageLayoutVersion":"1.0.0"}'));
  files.set("index.json", encodeUtf8(JSON.stringify(index)));
}
