import { asObject, decodeUtf8, encodeJson, parseJson } from "@sealpod/core";
import type { FileTree } from "@sealpod/core";
import { blobPath } from "./digest.ts";
import { parseIndex } from "./documents.ts";
import type { Descriptor } from "./documents.ts";
import { OciError } from "./errors.ts";
import { imageSourceOf } from "./image-source.ts";
import type { BlobAddress, BlobStore, ImageSourceOptions } from "./image-source.ts";
import { DEFAULT_PLATFORM } from "./image.ts";
import type { ImageSource, Platform } from "./image.ts";
import { DEFAULT_OCI_LIMITS } from "./limits.ts";
import { encodeReference, parseReference } from "./reference.ts";
import type { Reference } from "./reference.ts";

/** Annotations of an index entry that name an image; containerd's is always a full reference. */
export const NAME_ANNOTATIONS = ["io.containerd.image.name", "org.opencontainers.image.ref.name"] as const;

/** `oci-layout` holds one short version. */
const MAX_LAYOUT_FILE = 1024;

/**
 * Opens an OCI image layout (image-layout 1.0.0). Nothing in it is believed: each blob is checked against the digest that
 * led to it.
 * @throws {OciError} ERR_OCI_NOT_FOUND, ERR_OCI_DOCUMENT, ERR_OCI_DIGEST, ERR_OCI_LIMIT
 */
export async function openLayout(files: FileTree, options: ImageSourceOptions = {}): Promise<ImageSource> {
  return imageSourceOf(await openLayoutStore(files, options), options);
}

/** The store behind {@link openLayout}; archives have a layout inside. */
export async function openLayoutStore(files: FileTree, options: ImageSourceOptions): Promise<BlobStore> {
  const limits = { ...DEFAULT_OCI_LIMITS, ...options.limits };
  const platform = options.platform ?? DEFAULT_PLATFORM;
  const marker = parseJson(decodeUtf8(await readFile(files, "oci-layout", MAX_LAYOUT_FILE), "oci-layout"), "oci-layout");
  const version = asObject(marker)?.["imageLayoutVersion"];
  if (version !== "1.0.0") {
    throw new OciError("ERR_OCI_DOCUMENT", `oci-layout: imageLayoutVersion is ${version === undefined ? "missing" : encodeJson(version)}, expected "1.0.0"`);
  }
  const index = parseIndex(await readFile(files, "index.json", limits.maxDocumentSize), "index.json", limits);
  const blob = (item: BlobAddress): AsyncIterable<Uint8Array> => streamBlob(files, item.digest);
  return {
    root: async (reference, text) => findImage(index.manifests, reference, text, platform),
    document: blob,
    blob,
  };
}

async function* streamBlob(files: FileTree, digest: string): AsyncGenerator<Uint8Array> {
  const path = blobPath(digest);
  await requireFile(files, path);
  yield* files.stream(path);
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

function isPlatform(found: Platform, wanted: Platform): boolean {
  return found.os === wanted.os && found.architecture === wanted.architecture;
}

async function readFile(files: FileTree, path: string, limit: number): Promise<Uint8Array> {
  await requireFile(files, path);
  return files.read(path, limit);
}

async function requireFile(files: FileTree, path: string): Promise<void> {
  if ((await files.size(path)) !== undefined) return;
  throw new OciError("ERR_OCI_NOT_FOUND", `image layout has no ${path}`, { details: { path } });
}
