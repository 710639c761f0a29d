import type { ByteSource } from "@sealpod/core";
import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { levelSizes, VERITY_BLOCK } from "../hash-tree.ts";
import { encodeTrailer } from "../layer.ts";
import { FIELD, headerChecksum, paddingOf, TAR_BLOCK } from "../tar-format.ts";
import { TarWriter } from "../tar-writer.ts";
import type { TarItem } from "../tar-writer.ts";

/** Bytes as chunks of `size`; the last one may be shorter. */
export async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** All chunks as one array. */
export async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return new Uint8Array(Buffer.concat(parts));
}

/** A sink that keeps what it gets. */
export function memorySink(): { write(bytes: Uint8Array): Promise<void>; bytes(): Uint8Array } {
  const parts: Uint8Array[] = [];
  return {
    write(bytes) {
      parts.push(bytes.slice());
      return Promise.resolve();
    },
    bytes: () => new Uint8Array(Buffer.concat(parts)),
  };
}

/** Memory as a source that counts what is read. */
export function memorySource(bytes: Uint8Array): ByteSource & { readonly reads: { count: number; bytes: number } } {
  const reads = { count: 0, bytes: 0 };
  return {
    size: bytes.length,
    reads,
    read(offset, length) {
      if (offset < 0 || offset + length > bytes.length) return Promise.reject(new Error("out of range"));
      reads.count++;
      reads.bytes += length;
      return Promise.resolve(bytes.slice(offset, offset + length));
    },
  };
}

/** What a host makes of a layer file to hide its end: fewer data blocks, under what is left of the same tree. */
export function cutLayer(file: Uint8Array, dataBlocks: number, left: number): Uint8Array {
  const parts = [file.subarray(0, left * VERITY_BLOCK)];
  const kept = levelSizes(left);
  let at = dataBlocks;
  for (const [depth, size] of [...levelSizes(dataBlocks).entries()].reverse()) {
    parts.push(file.subarray(at * VERITY_BLOCK, (at + (kept[depth] ?? 0)) * VERITY_BLOCK));
    at += size;
  }
  return concatBytes(...parts, encodeTrailer(left));
}

/** An archive written by {@link TarWriter}. */
export async function tarOf(items: readonly TarItem[]): Promise<Uint8Array> {
  const sink = memorySink();
  const writer = new TarWriter(sink);
  for (const item of items) await writer.add(item);
  await writer.finish();
  return sink.bytes();
}

/** Defaults for an item. */
export const plain = { mode: 0o644, uid: 0, gid: 0, mtime: 1_700_000_000 } as const;

/** Fields of a header that a test sets as raw text. */
export interface RawHeader {
  readonly name?: string;
  readonly mode?: string;
  readonly uid?: string;
  readonly size?: string;
  readonly mtime?: string;
  readonly type?: string;
  readonly linkName?: string;
  readonly magic?: string;
  readonly prefix?: string;
  readonly major?: string;
  /** Leaves the checksum wrong. */
  readonly badChecksum?: boolean;
}

/** A header with hand-set fields, for archives that no writer makes. */
export function rawHeader(fields: RawHeader): Uint8Array {
  const header = new Uint8Array(TAR_BLOCK);
  const put = (field: { readonly at: number; readonly length: number }, text: string): void => {
    header.set(Buffer.from(text, "latin1").subarray(0, field.length), field.at);
  };
  put(FIELD.name, fields.name ?? "file");
  put(FIELD.mode, fields.mode ?? "0000644\0");
  put(FIELD.uid, fields.uid ?? "0000000\0");
  put(FIELD.gid, "0000000\0");
  put(FIELD.size, fields.size ?? "00000000000\0");
  put(FIELD.mtime, fields.mtime ?? "00000000000\0");
  put(FIELD.typeflag, fields.type ?? "0");
  put(FIELD.linkName, fields.linkName ?? "");
  put(FIELD.magic, fields.magic ?? "ustar\u000000");
  put(FIELD.major, fields.major ?? "");
  put(FIELD.prefix, fields.prefix ?? "");
  const sum = headerChecksum(header) + (fields.badChecksum === true ? 1 : 0);
  put(FIELD.checksum, `${sum.toString(8).padStart(6, "0")}\0 `);
  return header;
}

/** A header and its data, padded. */
export function rawMember(fields: RawHeader, data: Uint8Array | string = ""): Uint8Array {
  const bytes = typeof data === "string" ? encodeUtf8(data) : data;
  const size = fields.size ?? `${bytes.length.toString(8).padStart(11, "0")}\0`;
  return concatBytes(rawHeader({ ...fields, size }), bytes, new Uint8Array(paddingOf(bytes.length)));
}

/** The members and the end marker. */
export function rawTar(...members: readonly Uint8Array[]): Uint8Array {
  return concatBytes(...members, new Uint8Array(2 * TAR_BLOCK));
}
