import { OciError } from "./errors.ts";

/** Media types of the OCI image-spec that this package writes. */
export const MEDIA_TYPES = {
  index: "application/vnd.oci.image.index.v1+json",
  manifest: "application/vnd.oci.image.manifest.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar",
  layerGzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  layerZstd: "application/vnd.oci.image.layer.v1.tar+zstd",
} as const;

/** Docker's types of documents (distribution, "Image Manifest Version 2, Schema 2"). */
const DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";

/** Types of indexes and of manifests. */
export const INDEX_TYPES: readonly string[] = [MEDIA_TYPES.index, DOCKER_INDEX];
export const MANIFEST_TYPES: readonly string[] = [MEDIA_TYPES.manifest, DOCKER_MANIFEST];

/** What a document or blob is. */
export type MediaKind =
  | { readonly kind: "index" }
  | { readonly kind: "manifest" }
  | { readonly kind: "config" }
  | { readonly kind: "layer"; readonly compression: Compression };

/** How a layer's tar is packed. */
export type Compression = "none" | "gzip" | "zstd";

const KINDS: ReadonlyMap<string, MediaKind> = new Map<string, MediaKind>([
  [MEDIA_TYPES.index, { kind: "index" }],
  [DOCKER_INDEX, { kind: "index" }],
  [MEDIA_TYPES.manifest, { kind: "manifest" }],
  [DOCKER_MANIFEST, { kind: "manifest" }],
  [MEDIA_TYPES.config, { kind: "config" }],
  ["application/vnd.docker.container.image.v1+json", { kind: "config" }],
  [MEDIA_TYPES.layer, { kind: "layer", compression: "none" }],
  [MEDIA_TYPES.layerGzip, { kind: "layer", compression: "gzip" }],
  [MEDIA_TYPES.layerZstd, { kind: "layer", compression: "zstd" }],
  ["application/vnd.docker.image.rootfs.diff.tar", { kind: "layer", compression: "none" }],
  ["application/vnd.docker.image.rootfs.diff.tar.gzip", { kind: "layer", compression: "gzip" }],
  ["application/vnd.docker.image.rootfs.diff.tar.zstd", { kind: "layer", compression: "zstd" }],
]);

const SCHEMA1: ReadonlySet<string> = new Set([
  "application/vnd.docker.distribution.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v1+prettyjws",
]);

/** What a media type names, or undefined if it is none of this package's. */
export function mediaKind(mediaType: string): MediaKind | undefined {
  return KINDS.get(mediaType);
}

/** @throws {OciError} ERR_OCI_SCHEMA1 if the media type is one of Docker's manifest schema 1 */
export function refuseSchema1(mediaType: string | undefined, schemaVersion: unknown, what: string): void {
  if (schemaVersion !== 1 && (mediaType === undefined || !SCHEMA1.has(mediaType))) return;
  throw new OciError("ERR_OCI_SCHEMA1", `${what} is a Docker manifest schema 1 ("version 1 image"), which is not supported`, {
    hint: "Pull and push the image again with a current tool; that writes schema 2 or OCI.",
  });
}
