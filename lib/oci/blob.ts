import { createHash } from "node:crypto";
import { constants, createGunzip, createZstdDecompress } from "node:zlib";
import { OciError } from "./errors.ts";
import type { Compression } from "./media-types.ts";
import { throughEngine } from "./zlib-stream.ts";
import type { ZlibEngine } from "./zlib-stream.ts";

/**
 * Passes bytes on while it counts and hashes them; ends only if size and digest are right. A blob that is too long is
 * refused at the byte that makes it so.
 * @throws {OciError} ERR_OCI_MISMATCH
 */
export async function* verifyBlob(bytes: AsyncIterable<Uint8Array>, expected: { readonly digest: string; readonly size: number }): AsyncGenerator<Uint8Array> {
  const hash = createHash("sha256");
  let size = 0;
  for await (const chunk of bytes) {
    size += chunk.length;
    if (size > expected.size) throw mismatch(`blob ${expected.digest} has more than the ${expected.size} bytes that its descriptor states`);
    hash.update(chunk);
    yield chunk;
  }
  if (size !== expected.size) throw mismatch(`blob ${expected.digest} has ${size} bytes, its descriptor states ${expected.size}`);
  const digest = `sha256:${hash.digest("hex")}`;
  if (digest !== expected.digest) throw mismatch(`blob has digest ${digest}, its descriptor states ${expected.digest}`);
}

/**
 * Passes a layer's tar on while it hashes it; ends only if the digest is the diff id of the configuration.
 * @throws {OciError} ERR_OCI_MISMATCH, ERR_OCI_LIMIT
 */
export async function* verifyTar(tar: AsyncIterable<Uint8Array>, diffId: string, maxSize: number): AsyncGenerator<Uint8Array> {
  const hash = createHash("sha256");
  let size = 0;
  for await (const chunk of tar) {
    size += chunk.length;
    if (size > maxSize)
      throw new OciError("ERR_OCI_LIMIT", `layer ${diffId} unpacks to more than the limit of ${maxSize} bytes`, { details: { limit: maxSize } });
    hash.update(chunk);
    yield chunk;
  }
  const digest = `sha256:${hash.digest("hex")}`;
  if (digest !== diffId) throw mismatch(`layer unpacks to a tar with digest ${digest}, the image configuration states ${diffId}`);
}

/** Bytes that a decompressor puts out at a time. */
const CHUNK = 256 * 1024;

/** Largest zstd window, as a power of two: 128 MiB, what `zstd -d` takes without being asked. */
const MAX_WINDOW_LOG = 27;

/**
 * Decompresses bytes, in constant memory. Several gzip members or zstd frames in a row are one stream, as their
 * formats say; anything else behind the end is refused.
 * @throws {OciError} ERR_OCI_COMPRESSION
 */
export async function* decompress(bytes: AsyncIterable<Uint8Array>, compression: Compression): AsyncGenerator<Uint8Array> {
  if (compression === "none") {
    yield* bytes;
    return;
  }
  const createEngine = (): ZlibEngine =>
    compression === "gzip"
      ? createGunzip({ chunkSize: CHUNK })
      : createZstdDecompress({ chunkSize: CHUNK, params: { [constants.ZSTD_d_windowLogMax]: MAX_WINDOW_LOG } });
  try {
    yield* throughEngine(bytes, createEngine);
  } catch (error) {
    const isDamage = error instanceof Error && "code" in error && /^(Z_|ZSTD_)/.test(String(error.code));
    if (!isDamage) throw error;
    throw new OciError("ERR_OCI_COMPRESSION", `${compression} stream is damaged, cut off, or goes on after its end: ${error.message}`, { cause: error });
  }
}

function mismatch(message: string): OciError {
  return new OciError("ERR_OCI_MISMATCH", message, {
    hint: "The image was damaged on its way or changed after it was made. Fetch it again; do not use it as it is.",
  });
}
