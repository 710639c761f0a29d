/** The images and files that bench/genpolicy.ts works on. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Layer, LayoutWriter, type LayoutStore } from "@sealpod/oci";
import { encodeTar } from "@sealpod/verity";

const MIB = 1024 * 1024;

/** A tar of so many MiB whose content packs to about half, as programs do; `seed` makes it one of its own. */
export function sampleTar(mebibytes: number, seed: string): AsyncIterable<Uint8Array> {
  return encodeTar(
    (function* () {
      for (let i = 0; i < mebibytes; i++)
        yield { kind: "file" as const, path: `usr/lib/${seed}/${i}`, mode: 0o644, uid: 0, gid: 0, mtime: 0, data: content(`${seed} ${i}`) };
    })(),
  );
}

function content(seed: string): Uint8Array {
  // One expensive start, then cheap and different blocks: runs of noise between runs of one byte.
  const bytes = new Uint8Array(MIB);
  let state = createHash("sha256").update(seed).digest().readUInt32LE(0) | 1;
  for (let at = 0; at < MIB; at += 4) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const value = (at & 1023) < 512 ? state : at >>> 12;
    bytes[at] = value;
    bytes[at + 1] = value >>> 8;
    bytes[at + 2] = value >>> 16;
    bytes[at + 3] = value >>> 24;
  }
  return bytes;
}

/** Writes bytes to a file, filled up to whole blocks of 4096 bytes, which veritysetup wants. */
export async function writeBlocks(path: string, bytes: AsyncIterable<Uint8Array>): Promise<void> {
  await using file = await open(path, "w");
  for await (const chunk of bytes) await file.writeFile(chunk);
  const { size } = await file.stat();
  await file.truncate(Math.ceil(size / 4096) * 4096);
}

/** A layer of a layout, and its file. */
export interface SampleLayer {
  readonly layer: Layer;
  readonly path: string;
}

export function openSample({ path }: SampleLayer): AsyncIterable<Uint8Array> {
  return createReadStream(path, { highWaterMark: 256 * 1024 });
}

/** A pod of ten containers: one base for all, and a layer of its own for each. */
export async function writePod(
  directory: string,
  baseMiB: number,
  ownMiB: number,
): Promise<{ readonly yaml: string; readonly layers: readonly SampleLayer[] }> {
  const writer = new LayoutWriter(storeOf(directory));
  const packing = { compression: "gzip", level: 6 } as const;
  const config = { user: "", env: ["PATH=/usr/bin"], entrypoint: ["/usr/bin/app"], cmd: [], workingDir: "/" };
  const base = await writer.addLayer(sampleTar(baseMiB, "base"), packing);
  const layers = [base];
  await writer.addImage("sealpod.internal/pause:1", { config: { ...config, user: "65535:65535", entrypoint: ["/pause"] }, layers: [base] });
  const containers: string[] = [];
  for (let i = 0; i < 10; i++) {
    const own = await writer.addLayer(sampleTar(ownMiB, `app ${i}`), packing);
    layers.push(own);
    await writer.addImage(`sealpod.internal/app${i}:1`, { config, layers: [base, own] });
    containers.push(`  - name: app${i}\n    image: sealpod.internal/app${i}:1\n`);
  }
  await writer.finish();
  const yaml = `apiVersion: v1\nkind: Pod\nmetadata:\n  name: bench\n  namespace: bench\nspec:\n  containers:\n${containers.join("")}`;
  return { yaml, layers: layers.map((layer) => ({ layer, path: join(directory, "blobs", ...layer.digest.split(":")) })) };
}

function storeOf(directory: string): LayoutStore {
  let count = 0;
  return {
    async create() {
      const beside = join(directory, `.${count++}.tmp`);
      await mkdir(directory, { recursive: true });
      await writeFile(beside, "");
      const file = await open(beside, "w");
      return {
        write: async (bytes) => file.writeFile(bytes),
        async commit(path) {
          await file.close();
          await mkdir(dirname(join(directory, path)), { recursive: true });
          await rename(beside, join(directory, path));
        },
        async abort() {
          await file.close();
          await rm(beside, { force: true });
        },
      };
    },
  };
}
