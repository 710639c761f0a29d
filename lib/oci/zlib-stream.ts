import type { Gunzip, Gzip, ZstdDecompress } from "node:zlib";
import { messageOf } from "@sealpod/core";
import { OciError } from "./errors.ts";

/** The engines of node:zlib that this package uses. */
export type ZlibEngine = Gzip | Gunzip | ZstdDecompress;

/**
 * Engines for one stream. Tools that pack each file as a frame of its own make some 100,000; a blob of empty frames, a few
 * bytes each, would make millions.
 */
const MAX_ENGINES = 500_000;

/**
 * Sends bytes through engines of node:zlib, in constant memory. An engine stops where a gzip member or zstd frame ends in
 * the middle of a chunk and would drop the rest in silence; the rest goes to a new engine, which refuses it if it is no
 * further member or frame. Errors come out as they are. `bytes` is closed in every case, also when the consumer stops early.
 * @throws {OciError} ERR_OCI_LIMIT
 */
export async function* throughEngine(bytes: AsyncIterable<Uint8Array>, createEngine: () => ZlibEngine): AsyncGenerator<Uint8Array> {
  const source = bytes[Symbol.asyncIterator]();
  let rest: Uint8Array | undefined = new Uint8Array();
  try {
    for (let engines = 1; rest !== undefined; engines++) {
      if (engines > MAX_ENGINES)
        throw new OciError("ERR_OCI_LIMIT", `compressed stream has more than ${MAX_ENGINES} frames`, { details: { limit: MAX_ENGINES } });
      const engine = createEngine();
      // Errors reach us through the reader; one that comes after the reader has gone must not end the process.
      engine.on("error", () => undefined);
      try {
        const feeding: Promise<Uint8Array | undefined> = feed(source, rest, engine).catch((error: unknown) => {
          engine.destroy(error instanceof Error ? error : new Error(messageOf(error)));
          return undefined;
        });
        for await (const chunk of engine) yield chunk as Uint8Array;
        rest = await feeding;
      } finally {
        engine.destroy();
      }
    }
  } finally {
    await source.return?.();
  }
}

/** Writes to an engine until the bytes end (then undefined) or the engine stops (then what it did not take). */
async function feed(source: AsyncIterator<Uint8Array>, first: Uint8Array, engine: ZlibEngine): Promise<Uint8Array | undefined> {
  let fed = 0;
  let chunk = first;
  for (;;) {
    if (chunk.length > 0) {
      await write(engine, chunk);
      const taken = engine.bytesWritten - fed;
      if (taken < chunk.length) return chunk.subarray(taken);
      fed += taken;
    }
    const next = await source.next();
    if (next.done === true) {
      engine.end();
      return undefined;
    }
    chunk = next.value;
  }
}

async function write(engine: ZlibEngine, bytes: Uint8Array): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    engine.write(bytes, (error) => {
      if (error === null || error === undefined) resolve();
      else reject(error);
    });
  });
}
