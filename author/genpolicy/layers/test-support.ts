import { createHash } from "node:crypto";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { type Image, type ImageConfig, type ImageSource, type Layer, MEDIA_TYPES, OciError } from "@sealpod/oci";
import { encodeTar, type TarItem } from "@sealpod/verity";

/** Helpers of this folder's tests: layers and images in memory. */

export const PLAIN = { mode: 0o644, uid: 0, gid: 0, mtime: 0 } as const;

/** A file of a layer. */
export function file(path: string, data: string | Uint8Array = ""): TarItem {
  return { ...PLAIN, kind: "file", path, data: typeof data === "string" ? new TextEncoder().encode(data) : data };
}

export async function tarOf(...items: readonly TarItem[]): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of encodeTar(items)) parts.push(part);
  return Buffer.concat(parts);
}

/** A layer and its bytes as stored. */
export interface StoredLayer {
  readonly layer: Layer;
  readonly bytes: Uint8Array;
}

type Packing = "none" | "gzip" | "zstd";

const PACKINGS: Readonly<Record<Packing, { readonly mediaType: string; readonly pack: (tar: Uint8Array) => Uint8Array }>> = {
  none: { mediaType: MEDIA_TYPES.layer, pack: (tar) => tar },
  gzip: { mediaType: MEDIA_TYPES.layerGzip, pack: (tar) => gzipSync(tar, { level: 1 }) },
  zstd: { mediaType: MEDIA_TYPES.layerZstd, pack: (tar) => zstdCompressSync(tar) },
};

export function stored(tar: Uint8Array, packing: Packing = "gzip"): StoredLayer {
  const { mediaType, pack } = PACKINGS[packing];
  const bytes = pack(tar);
  return { layer: { digest: sha256(bytes), size: bytes.length, mediaType, diffId: sha256(tar) }, bytes };
}

export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** Bytes in pieces of some size, as a file or a socket gives them; all pieces are views of one buffer, which a careless reader would detach. */
export async function* pieces(bytes: Uint8Array, size: number = 16 * 1024): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

const CONFIG: Omit<ImageConfig, "diffIds"> = {
  user: "",
  env: [],
  entrypoint: [],
  cmd: [],
  workingDir: "",
  tty: false,
  volumes: [],
  architecture: "amd64",
  os: "linux",
};

/** Images by reference, each a list of layers, bottom first. Counts what is asked of it. */
export class MemoryImages implements ImageSource {
  readonly resolved: string[] = [];
  /** Digests of the layers whose bytes were asked for. */
  readonly read: string[] = [];
  readonly #images: ReadonlyMap<string, readonly StoredLayer[]>;

  constructor(images: Readonly<Record<string, readonly StoredLayer[]>>) {
    this.#images = new Map(Object.entries(images));
  }

  async resolve(reference: string): Promise<Image> {
    this.resolved.push(reference);
    const layers = this.#images.get(reference);
    if (layers === undefined) throw new OciError("ERR_OCI_NOT_FOUND", `no image ${reference}`, { hint: "Make one." });
    const config = { ...CONFIG, diffIds: layers.map(({ layer }) => layer.diffId) };
    return Promise.resolve({
      reference,
      manifestDigest: sha256(Buffer.from(reference)),
      configDigest: "sha256:0",
      config,
      layers: layers.map(({ layer }) => layer),
    });
  }

  layerBlob(layer: Layer): AsyncIterable<Uint8Array> {
    this.read.push(layer.digest);
    const found = [...this.#images.values()].flat().find((item) => item.layer.digest === layer.digest);
    if (found === undefined) throw new RangeError(`no layer ${layer.digest}`);
    return pieces(found.bytes);
  }

  layerTar(): AsyncIterable<Uint8Array> {
    throw new RangeError("the tool takes the stored bytes");
  }
}
