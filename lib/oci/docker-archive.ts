import { createHash } from "node:crypto";
import { asArray, asObject, decodeUtf8, encodeUtf8, parseJson } from "@sealpod/core";
import type { ByteSource, FileTree, JsonValue } from "@sealpod/core";
import { digestOf } from "./digest.ts";
import { parseConfig } from "./documents.ts";
import { OciError } from "./errors.ts";
import { imageSourceOf } from "./image-source.ts";
import type { BlobAddress, BlobStore, ImageSourceOptions, RootDocument } from "./image-source.ts";
import type { ImageSource } from "./image.ts";
import { openLayoutStore } from "./layout.ts";
import { DEFAULT_OCI_LIMITS } from "./limits.ts";
import type { OciLimits } from "./limits.ts";
import { MANIFEST_TYPES, MEDIA_TYPES } from "./media-types.ts";
import type { Compression } from "./media-types.ts";
import { encodeReference, parseReference } from "./reference.ts";
import type { Reference } from "./reference.ts";
import { openTarTree } from "./tar-tree.ts";

/** The archive's own table of contents. */
const MANIFEST = "manifest.json";

/** An image of `manifest.json`. */
interface ArchivedImage {
  readonly names: readonly Reference[];
  /** Paths in the archive. */
  readonly config: string;
  readonly layers: readonly string[];
}

/**
 * Opens an archive that `docker save`, `podman save` or skopeo wrote, or a tar of an OCI layout. Where the archive has a
 * layout inside, an image is taken from there. Otherwise it has no manifests: one is made, so its digest is not the one that
 * a registry has for the image, and images cannot be asked for by digest.
 * @param source the archive, not compressed
 * @throws {OciError} ERR_OCI_DOCUMENT, ERR_OCI_NOT_FOUND, ERR_OCI_LIMIT
 */
export async function openDockerArchive(source: ByteSource, options: ImageSourceOptions = {}): Promise<ImageSource> {
  const files = await openTarTree(source, "docker archive");
  const [hasLayout, hasManifest] = [(await files.size("oci-layout")) !== undefined, (await files.size(MANIFEST)) !== undefined];
  const layout = hasLayout ? await openLayoutStore(files, options) : undefined;
  if (layout !== undefined && !hasManifest) return imageSourceOf(layout, options);
  const limits = { ...DEFAULT_OCI_LIMITS, ...options.limits };
  const saved = new SavedImages(files, await readImages(files, limits), limits);
  return imageSourceOf(layout === undefined ? saved : firstOf(layout, saved), options);
}

/** The layout where it has the image, else the images of `manifest.json`. */
function firstOf(layout: BlobStore, saved: SavedImages): BlobStore {
  return {
    async root(reference, text) {
      try {
        return await layout.root(reference, text);
      } catch (error) {
        if (!(error instanceof OciError) || error.code !== "ERR_OCI_NOT_FOUND" || !saved.has(reference)) throw error;
        return saved.root(reference, text);
      }
    },
    document: (item, reference) => layout.document(item, reference),
    blob: (item, reference) => (saved.hasBlob(item) ? saved.blob(item) : layout.blob(item, reference)),
  };
}

/** The images of `manifest.json`, as if they had manifests. */
class SavedImages implements BlobStore {
  readonly #files: FileTree;
  readonly #images: readonly ArchivedImage[];
  readonly #limits: OciLimits;
  /** Paths of the blobs of all images that were asked for, by digest. */
  readonly #blobs = new Map<string, string>();

  constructor(files: FileTree, images: readonly ArchivedImage[], limits: OciLimits) {
    this.#files = files;
    this.#images = images;
    this.#limits = limits;
  }

  has(reference: Reference): boolean {
    return this.#find(reference).length > 0;
  }

  hasBlob(item: BlobAddress): boolean {
    return this.#blobs.has(item.digest);
  }

  async root(reference: Reference, text: string): Promise<RootDocument> {
    const found = this.#find(reference);
    const [image] = found;
    if (image === undefined) throw this.#notFound(reference, text);
    if (new Set(found.map(({ config }) => config)).size > 1) {
      throw new OciError("ERR_OCI_DOCUMENT", `docker archive: ${MANIFEST} names ${text} ${found.length} times, with different configurations`);
    }
    const bytes = await this.#files.read(image.config, this.#limits.maxDocumentSize);
    const config = { mediaType: "application/vnd.docker.container.image.v1+json", digest: digestOf(bytes), size: bytes.length };
    this.#blobs.set(config.digest, image.config);
    const { diffIds } = parseConfig(bytes, `config ${config.digest}`, this.#limits);
    const layers: object[] = [];
    for (const [i, path] of image.layers.entries()) layers.push(await this.#layer(path, diffIds[i]));
    return {
      mediaType: MANIFEST_TYPES[1] ?? "",
      bytes: encodeUtf8(JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST_TYPES[1], config, layers })),
    };
  }

  /** All documents are roots here. */
  document(item: BlobAddress): never {
    throw new OciError("ERR_OCI_NOT_FOUND", `docker archive has no document ${item.digest}`);
  }

  async *blob(item: BlobAddress): AsyncGenerator<Uint8Array> {
    const path = this.#blobs.get(item.digest);
    if (path === undefined) throw new OciError("ERR_OCI_NOT_FOUND", `docker archive has no blob ${item.digest}`);
    yield* this.#files.stream(path);
  }

  /** Descriptor of a layer. A plain tar has its diff id as digest; a packed one must be read to know its own. */
  async #layer(path: string, diffId: string | undefined): Promise<{ readonly mediaType: string; readonly digest: string; readonly size: number }> {
    const size = await this.#files.size(path);
    if (size === undefined) throw new OciError("ERR_OCI_NOT_FOUND", `docker archive has no layer ${JSON.stringify(path)}, which its ${MANIFEST} names`);
    const compression = await this.#compressionOf(path);
    const digest = compression === "none" && diffId !== undefined ? diffId : await this.#digest(path);
    this.#blobs.set(digest, path);
    return { mediaType: { none: MEDIA_TYPES.layer, gzip: MEDIA_TYPES.layerGzip, zstd: MEDIA_TYPES.layerZstd }[compression], digest, size };
  }

  async #compressionOf(path: string): Promise<Compression> {
    for await (const chunk of this.#files.stream(path)) {
      const [a, b, c, d] = chunk;
      if (a === 0x1f && b === 0x8b) return "gzip";
      return a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd ? "zstd" : "none";
    }
    return "none";
  }

  async #digest(path: string): Promise<string> {
    const hash = createHash("sha256");
    for await (const chunk of this.#files.stream(path)) hash.update(chunk);
    return `sha256:${hash.digest("hex")}`;
  }

  #find(reference: Reference): readonly ArchivedImage[] {
    if (reference.digest !== undefined) return [];
    const wanted = encodeReference(reference);
    return this.#images.filter(({ names }) => names.some((name) => encodeReference(name) === wanted));
  }

  #notFound(reference: Reference, text: string): OciError {
    const known = this.#images.flatMap(({ names }) => names.map((name) => encodeReference(name))).slice(0, 20);
    return new OciError("ERR_OCI_NOT_FOUND", `image ${text} is not in the docker archive`, {
      details: { wanted: encodeReference(reference), found: known },
      hint:
        reference.digest === undefined
          ? `The archive has: ${known.length === 0 ? "no named image" : known.join(", ")}.`
          : "This kind of archive does not keep digests of manifests. Ask for the image by its tag, or use an OCI layout.",
    });
  }
}

async function readImages(files: FileTree, limits: OciLimits): Promise<readonly ArchivedImage[]> {
  const what = `docker archive: ${MANIFEST}`;
  const bytes = await files.read(MANIFEST, limits.maxDocumentSize);
  let document: JsonValue;
  try {
    document = parseJson(decodeUtf8(bytes, what), what);
  } catch (cause) {
    throw new OciError("ERR_OCI_DOCUMENT", `${what} is not JSON`, { cause });
  }
  return texts(document, what, limits.maxManifests, (item, where) => {
    const image = asObject(item);
    const config = image?.["Config"];
    if (image === undefined || typeof config !== "string") throw new OciError("ERR_OCI_DOCUMENT", `${where} has no text "Config"`);
    return {
      names: texts(image["RepoTags"] ?? [], `${where}.RepoTags`, limits.maxManifests, pathOrName).flatMap((name) => nameOf(name)),
      config,
      layers: texts(image["Layers"] ?? [], `${where}.Layers`, limits.maxLayers, pathOrName),
    };
  });
}

function texts<T>(value: JsonValue, what: string, limit: number, parse: (item: JsonValue, what: string) => T): readonly T[] {
  const list = asArray(value);
  if (list === undefined) throw new OciError("ERR_OCI_DOCUMENT", `${what} is not an array`);
  if (list.length > limit) throw new OciError("ERR_OCI_LIMIT", `${what} has ${list.length} entries, more than the limit of ${limit}`, { details: { limit } });
  return list.map((item, i) => parse(item, `${what}[${i}]`));
}

function pathOrName(value: JsonValue, what: string): string {
  if (typeof value !== "string") throw new OciError("ERR_OCI_DOCUMENT", `${what} is not text`);
  return value;
}

/** Other text than a reference, such as `<none>:<none>`, is no name. */
function nameOf(text: string): readonly Reference[] {
  try {
    return [parseReference(text)];
  } catch (error) {
    if (error instanceof OciError) return [];
    throw error;
  }
}
