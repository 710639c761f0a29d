import { createHash } from "node:crypto";
import { createGzip } from "node:zlib";
import { encodeUtf8 } from "@sealpod/core";
import type { ByteSink } from "@sealpod/core";
import { blobPath, digestOf, parseDigest } from "./digest.ts";
import { DEFAULT_PLATFORM } from "./image.ts";
import type { ImageConfig, Layer } from "./image.ts";
import { NAME_ANNOTATIONS } from "./layout.ts";
import { MEDIA_TYPES } from "./media-types.ts";
import { encodeReference, parseReference } from "./reference.ts";
import { throughEngine } from "./zlib-stream.ts";

/** A file that gets its name only when it is complete. */
export interface PendingFile extends ByteSink {
  /** Puts the file in its place at once; a file that is there already is replaced. */
  commit(path: string): Promise<void>;
  /** Drops the file. */
  abort(): Promise<void>;
}

/** Where a layout is written: a directory, an archive, memory. */
export interface LayoutStore {
  create(): Promise<PendingFile>;
}

/** How {@link LayoutWriter.addLayer} packs a tar. */
export type LayerPacking = { readonly compression: "none" } | { readonly compression: "gzip"; readonly level: number };

/** What an image runs, and on what layers. */
export interface ImageSpec {
  readonly config: Pick<ImageConfig, "user" | "env" | "entrypoint" | "cmd" | "workingDir">;
  /** Bottom first. */
  readonly layers: readonly Layer[];
}

/** Bytes that the compressor puts out at a time. */
const CHUNK = 256 * 1024;

/** Time of all things made here: reproducible images have no other. */
const CREATED = "1970-01-01T00:00:00Z";

/**
 * Writes an OCI image layout. The same calls give the same bytes on the same version of Node: names are sorted, times are
 * 1970, gzip headers have no time. (Another zlib may pack a layer into other bytes; the diff id, which policies rest on,
 * stays the same.)
 */
export class LayoutWriter {
  readonly #store: LayoutStore;
  readonly #images = new Map<string, { readonly digest: string; readonly size: number }>();

  constructor(store: LayoutStore) {
    this.#store = store;
  }

  /** Writes a layer blob and returns its descriptor with the diff id. */
  async addLayer(tar: AsyncIterable<Uint8Array>, packing: LayerPacking): Promise<Layer> {
    const diff = createHash("sha256");
    const blob = createHash("sha256");
    let size = 0;
    const file = await this.#store.create();
    try {
      const hashed = (async function* () {
        for await (const chunk of tar) {
          diff.update(chunk);
          yield chunk;
        }
      })();
      for await (const chunk of packing.compression === "none" ? hashed : throughEngine(hashed, () => createGzip({ level: packing.level, chunkSize: CHUNK }))) {
        blob.update(chunk);
        size += chunk.length;
        await file.write(chunk);
      }
      const digest = `sha256:${blob.digest("hex")}`;
      await file.commit(blobPath(digest));
      const mediaType = packing.compression === "none" ? MEDIA_TYPES.layer : MEDIA_TYPES.layerGzip;
      return { digest, size, mediaType, diffId: `sha256:${diff.digest("hex")}` };
    } catch (error) {
      await file.abort();
      throw error;
    }
  }

  /**
   * Writes configuration and manifest of an image whose layers are in the layout, and names it. A second image of the same
   * name replaces the first.
   * @returns digest of the manifest
   * @throws {OciError} ERR_OCI_REFERENCE, ERR_OCI_DIGEST
   */
  async addImage(reference: string, image: ImageSpec): Promise<string> {
    const { user, env, entrypoint, cmd, workingDir } = image.config;
    const config = await this.#addDocument({
      created: CREATED,
      architecture: DEFAULT_PLATFORM.architecture,
      os: DEFAULT_PLATFORM.os,
      config: {
        ...(user === "" ? {} : { User: user }),
        ...(env.length === 0 ? {} : { Env: env }),
        ...(entrypoint.length === 0 ? {} : { Entrypoint: entrypoint }),
        ...(cmd.length === 0 ? {} : { Cmd: cmd }),
        ...(workingDir === "" ? {} : { WorkingDir: workingDir }),
      },
      rootfs: { type: "layers", diff_ids: image.layers.map((layer) => parseDigest(layer.diffId, "diff id")) },
    });
    const manifest = await this.#addDocument({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.manifest,
      config: { mediaType: MEDIA_TYPES.config, ...config },
      layers: image.layers.map(({ mediaType, digest, size }) => ({ mediaType, digest: parseDigest(digest), size })),
    });
    this.#images.set(encodeReference(parseReference(reference)), manifest);
    return manifest.digest;
  }

  /** Writes `oci-layout` and `index.json`, which make the images visible. @returns digest of `index.json` */
  async finish(): Promise<string> {
    const index = encodeUtf8(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MEDIA_TYPES.index,
        manifests: [...this.#images]
          .sort(([a], [b]) => (a < b ? -1 : 1))
          .map(([name, { digest, size }]) => ({
            mediaType: MEDIA_TYPES.manifest,
            digest,
            size,
            annotations: Object.fromEntries(NAME_ANNOTATIONS.map((annotation) => [annotation, name])),
            platform: DEFAULT_PLATFORM,
          })),
      }),
    );
    await this.#write("oci-layout", encodeUtf8(JSON.stringify({ imageLayoutVersion: "1.0.0" })));
    await this.#write("index.json", index);
    return digestOf(index);
  }

  async #addDocument(document: object): Promise<{ readonly digest: string; readonly size: number }> {
    const bytes = encodeUtf8(JSON.stringify(document));
    const digest = digestOf(bytes);
    await this.#write(blobPath(digest), bytes);
    return { digest, size: bytes.length };
  }

  async #write(path: string, bytes: Uint8Array): Promise<void> {
    const file = await this.#store.create();
    try {
      await file.write(bytes);
      await file.commit(path);
    } catch (error) {
      await file.abort();
      throw error;
    }
  }
}
