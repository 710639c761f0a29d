/**
 * A process that measures one layer, so that its memory can be looked at, and one that makes such a layer:
 * `node large-layer.ts make FILE MEBIBYTES none|gzip|zstd zeros|random|mixed` prints the layer's descriptor,
 * `node large-layer.ts measure FILE DESCRIPTOR THREADS tarfs|erofs` what it found and the peak of its memory.
 */
import { createHash, createHmac } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { PassThrough } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip, createZstdCompress } from "node:zlib";
import { MEDIA_TYPES, type Layer } from "@sealpod/oci";
import { encodeTar } from "@sealpod/verity";
import type { LayerFormat } from "../facts.ts";
import { LayerPool } from "../pool.ts";

const MIB = 1024 * 1024;
const [mode = "", file = "", ...rest] = process.argv.slice(2);
process.stdout.write(`${JSON.stringify(mode === "make" ? await make(rest) : await measure(rest))}\n`);

async function make([mebibytes = "", packing = "", content = ""]: readonly string[]): Promise<Layer> {
  const [diff, digest] = [createHash("sha256"), createHash("sha256")];
  let size = 0;
  const hashed = async function* (): AsyncGenerator<Uint8Array> {
    for await (const chunk of tar(Number(mebibytes), content)) {
      diff.update(chunk);
      yield chunk;
    }
  };
  const packed = packing === "gzip" ? createGzip({ level: 1 }) : packing === "zstd" ? createZstdCompress() : new PassThrough();
  const count = async function* (chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      digest.update(chunk);
      size += chunk.length;
      yield chunk;
    }
  };
  await pipeline(hashed, packed, count, createWriteStream(file));
  const mediaType = packing === "none" ? MEDIA_TYPES.layer : packing === "gzip" ? MEDIA_TYPES.layerGzip : MEDIA_TYPES.layerZstd;
  return { digest: `sha256:${digest.digest("hex")}`, size, mediaType, diffId: `sha256:${diff.digest("hex")}` };
}

/** A tar with files of 64 MiB; `mixed` packs to a third, as most images do. */
function tar(mebibytes: number, content: string): AsyncIterable<Uint8Array> {
  // Does not pack; the same in every run.
  const noise = Buffer.concat(Array.from({ length: MIB / 32 }, (_, i) => createHmac("sha256", "noise").update(String(i)).digest()));
  const block = content === "zeros" ? new Uint8Array(MIB) : noise;
  // Gzip looks back 32 KiB, so a third of the noise between zeros does not find itself again.
  if (content === "mixed") for (let at = 0; at < MIB; at += 1024) block.fill(0, at + 384, at + 1024);
  return encodeTar(
    Array.from({ length: Math.ceil(mebibytes / 64) }, (_, i) => {
      const size = Math.min(64, mebibytes - i * 64) * MIB;
      const data = async function* (): AsyncGenerator<Uint8Array> {
        for (let at = 0; at < size; at += MIB) yield block;
      };
      return { kind: "file" as const, path: `file-${i}`, mode: 0o644, uid: 0, gid: 0, mtime: 0, size, data: data() };
    }),
  );
}

async function measure([descriptor = "", threads = "", format = ""]: readonly string[]): Promise<object> {
  const layer = JSON.parse(descriptor) as Layer;
  const before = process.resourceUsage().maxRSS;
  await using pool = new LayerPool({ threads: Number(threads), smallLayer: 0 });
  const start = performance.now();
  const open = (): AsyncIterable<Uint8Array> => createReadStream(file, { highWaterMark: 256 * 1024 });
  const { roots } = await pool.read(layer, open, { format: format as LayerFormat, users: "exact" }, new AbortController().signal);
  const seconds = (performance.now() - start) / 1000;
  const mebi = (kibibytes: number): number => Math.round(kibibytes / 1024);
  return { roots, stored: layer.size, seconds, beforeMiB: mebi(before), peakMiB: mebi(process.resourceUsage().maxRSS) };
}
