import { asObject, decodeUtf8, encodeJson, parseJson } from "@sealpod/core";
import type { FileTree } from "@sealpod/core";
import { decompress, verifyBlob, verifyTar } from "./blob.ts";
import { blobPath } from "./digest.ts";
import { parseConfig, parseIndex, parseManifest } from "./documents.ts";
import type { Descriptor } from "./documents.ts";
import { OciError } from "./errors.ts";
import { DEFAULT_PLATFORM } from "./image.ts";
import type { Image, ImageSource, Layer, Platform } from "./image.ts";
import { DEFAULT_OCI_LIMITS } from "./limits.ts";
import type { OciLimits } from "./limits.ts";
import { mediaKind } from "./media-types.ts";
import { encodeReference, parseReference } from "./reference.ts";
import type { Reference } from "./reference.ts";

/** Annotations of an index entry that name an image; containerd's is always a full reference. */
export const NAME_ANNOTATIONS = ["io.containerd.image.name", "org.opencontainers.image.ref.name"] as const;

/** An index may point to one index per image; deeper nesting has no use and no end. */
const MAX_INDEX_DEPTH = 3;

/** `oci-layout` holds one short version. */
const MAX_LAYOUT_FILE = 1024;

/** Options of {@link openLayout}. */
export interface LayoutOptions {
  /** Default: linux/amd64. */
  readonly platform?: Platform;
  readonly limits?: Partial<OciLimits>;
}

/**
 * Opens an OCI image layout (image-layout 1.0.0). Nothing in it is believed: each blob is checked against the digest that
 * led to it.
 * @throws {OciError} ERR_OCI_NOT_FOUND, ERR_OCI_DOCUMENT, ERR_OCI_DIGEST, ERR_OCI_LIMIT
 */
export async function openLayout(files: FileTree, options: LayoutOptions = {}): Promise<ImageSource> {
  const limits = { ...DEFAULT_OCI_LIMITS, ...options.limits };
  const platform = options.platform ?? DEFAULT_PLATFORM;
  const marker = parseJson(decodeUtf8(await readFile(files, "oci-layout", MAX_LAYOUT_FILE), "oci-layout"), "oci-layout");
  const version = asObject(marker)?.["imageLayoutVersion"];
  if (version !== "1.0.0") {
    throw new OciError("ERR_OCI_DOCUMENT", `oci-layout: imageLayoutVersion is ${version === undefined ? "missing" : encodeJson(version)}, expected "1.0.0"`);
  }
  const index = parseIndex(await readFile(files, "index.json", limits.maxDocumentSize), "index.json", limits);

  return {
    async resolve(text) {
      const found = findImage(index.manifests, parseReference(text), text, platform);
      const manifestDescriptor = await chooseManifest(files, found, platform, limits, 0);
      const name = `manifest ${manifestDescriptor.digest}`;
      const manifest = parseManifest(await readBlob(files, manifestDescriptor, name, limits), name, limits, manifestDescriptor.mediaType);
      const configName = `config ${manifest.config.digest}`;
      const config = parseConfig(await readBlob(files, manifest.config, configName, limits), configName, limits);
      if (config.os !== platform.os || config.architecture !== platform.architecture) {
        throw new OciError("ERR_OCI_PLATFORM", `image ${text} is for ${config.os}/${config.architecture}, wanted ${platform.os}/${platform.architecture}`);
      }
      // Pairing layers and diff ids by position is sound only if there are as many of both (specs/genpolicy.md 5.3).
      if (config.diffIds.length !== manifest.layers.length) {
        throw new OciError("ERR_OCI_DOCUMENT", `image ${text} has ${manifest.layers.length} layers and ${config.diffIds.length} diff ids`);
      }
      const layers = manifest.layers.map(({ digest, size, mediaType }, i) => {
        if (size > limits.maxBlobSize) throw new OciError("ERR_OCI_LIMIT", `layer ${digest} has ${size} bytes, more than the limit of ${limits.maxBlobSize}`);
        return { digest, size, mediaType, diffId: config.diffIds[i] ?? "" };
      });
      return { reference: text, manifestDigest: manifestDescriptor.digest, configDigest: manifest.config.digest, config, layers } satisfies Image;
    },
    layerTar: (layer) => layerTar(files, layer, limits),
  };
}

/** A layer's tar from its stored blob, checked at both ends. */
async function* layerTar(files: FileTree, layer: Layer, limits: OciLimits): AsyncGenerator<Uint8Array> {
  const kind = mediaKind(layer.mediaType);
  if (kind?.kind !== "layer") throw new OciError("ERR_OCI_UNSUPPORTED", `layer ${layer.digest} has media type ${JSON.stringify(layer.mediaType)}`);
  await requireFile(files, blobPath(layer.digest));
  const blob = verifyBlob(files.stream(blobPath(layer.digest)), layer);
  yield* verifyTar(decompress(blob, kind.compression), layer.diffId, limits.maxTarSize);
}

/** The entry of the layout's index that a reference names. */
function findImage(manifests: readonly Descriptor[], reference: Reference, text: string, platform: Platform): Descriptor {
  const names = new Map<Descriptor, Reference>();
  for (const item of manifests) {
    const name = imageName(item);
    if (name !== undefined) names.set(item, name);
  }
  const sameRepository = (item: Descriptor): boolean => {
    const name = names.get(item);
    return name === undefined || (name.registry === reference.registry && name.repository === reference.repository);
  };
  const candidates =
    reference.digest === undefined
      ? manifests.filter((item) => names.has(item) && sameRepository(item) && names.get(item)?.tag === reference.tag)
      : manifests.filter((item) => item.digest === reference.digest && sameRepository(item));
  // The same name may stand once per platform.
  const fitting = candidates.filter((item) => item.platform === undefined || isPlatform(item.platform, platform));
  const digests = new Set(fitting.map((item) => item.digest));
  const [first] = fitting;
  if (first === undefined) {
    const known = [...names.values()].map((name) => encodeReference(name));
    throw candidates.length > 0
      ? new OciError("ERR_OCI_PLATFORM", `image ${text} is not in the layout for ${platform.os}/${platform.architecture}`)
      : new OciError("ERR_OCI_NOT_FOUND", `image ${text} is not in the layout`, {
          details: { wanted: encodeReference(reference), found: known.slice(0, 20) },
          hint: `The layout has: ${known.length === 0 ? "no named image" : known.slice(0, 20).join(", ")}.`,
        });
  }
  if (digests.size > 1) throw new OciError("ERR_OCI_DOCUMENT", `index.json names ${text} ${digests.size} times, with different digests`);
  return first;
}

/**
 * The name in an entry's annotations. A bare tag, as some tools write it, names no repository and is not taken for one; other
 * text that is no reference leaves the entry without a name, and the rest of the layout usable.
 */
function imageName(item: Descriptor): Reference | undefined {
  for (const annotation of NAME_ANNOTATIONS) {
    const text = item.annotations.get(annotation);
    if (text === undefined || (annotation === "org.opencontainers.image.ref.name" && !/[/:@]/.test(text))) continue;
    try {
      return parseReference(text);
    } catch (error) {
      if (!(error instanceof OciError)) throw error;
    }
  }
  return undefined;
}

/** Follows indexes to the manifest of a platform: the first entry that fits (specs/genpolicy.md 5.1). */
async function chooseManifest(files: FileTree, item: Descriptor, platform: Platform, limits: OciLimits, depth: number): Promise<Descriptor> {
  const kind = mediaKind(item.mediaType)?.kind;
  if (kind === "manifest") return item;
  if (kind !== "index") {
    throw new OciError("ERR_OCI_UNSUPPORTED", `${item.digest} has media type ${JSON.stringify(item.mediaType)}, expected that of an image index or manifest`);
  }
  if (depth === MAX_INDEX_DEPTH) throw new OciError("ERR_OCI_LIMIT", `image indexes are nested deeper than ${MAX_INDEX_DEPTH}`);
  const name = `index ${item.digest}`;
  const index = parseIndex(await readBlob(files, item, name, limits), name, limits, item.mediaType);
  const chosen = index.manifests.find((entry) => entry.platform !== undefined && isPlatform(entry.platform, platform));
  if (chosen === undefined) {
    const offered = index.manifests.map((entry) => (entry.platform === undefined ? "none stated" : `${entry.platform.os}/${entry.platform.architecture}`));
    throw new OciError("ERR_OCI_PLATFORM", `${name} has no entry for ${platform.os}/${platform.architecture}`, { details: { offered: offered.slice(0, 20) } });
  }
  return chooseManifest(files, chosen, platform, limits, depth + 1);
}

function isPlatform(found: Platform, wanted: Platform): boolean {
  return found.os === wanted.os && found.architecture === wanted.architecture;
}

/** A document blob, whole, checked against its descriptor. */
async function readBlob(files: FileTree, item: Descriptor, what: string, limits: OciLimits): Promise<Uint8Array> {
  if (item.size > limits.maxDocumentSize) {
    throw new OciError("ERR_OCI_LIMIT", `${what} has ${item.size} bytes, more than the limit of ${limits.maxDocumentSize}`);
  }
  await requireFile(files, blobPath(item.digest));
  const parts: Uint8Array[] = [];
  for await (const part of verifyBlob(files.stream(blobPath(item.digest)), item)) parts.push(part);
  return Buffer.concat(parts);
}

async function readFile(files: FileTree, path: string, limit: number): Promise<Uint8Array> {
  await requireFile(files, path);
  return files.read(path, limit);
}

async function requireFile(files: FileTree, path: string): Promise<void> {
  if ((await files.size(path)) !== undefined) return;
  throw new OciError("ERR_OCI_NOT_FOUND", `image layout has no ${path}`, { details: { path } });
}
