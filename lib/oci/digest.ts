import { encodeUtf8, sha256, toHex } from "@sealpod/core";
import { OciError } from "./errors.ts";

/**
 * Checks a digest: `sha256:` and 64 lower-case hex digits, nothing else. The grammar of OCI allows more; this one cannot
 * name anything but a file directly under `blobs/sha256` (users.md 1.4: path traversal by digests of hostile images).
 * @throws {OciError} ERR_OCI_DIGEST
 */
export function parseDigest(text: string, what = "digest"): string {
  if (/^sha256:[0-9a-f]{64}$/.test(text)) return text;
  const hint = "Only sha256 is supported: it is the one that registries and containerd use.";
  throw new OciError(
    "ERR_OCI_DIGEST",
    `${what} is ${JSON.stringify(text.slice(0, 100))}, expected sha256: and 64 lower-case hex digits`,
    text.startsWith("sha512:") ? { hint } : {},
  );
}

/** Digest of bytes. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${toHex(sha256(bytes))}`;
}

/** Path of a blob in an image layout (OCI image-layout, "Blobs"). @throws {OciError} ERR_OCI_DIGEST */
export function blobPath(digest: string): string {
  return `blobs/sha256/${parseDigest(digest).slice("sha256:".length)}`;
}

/**
 * Chain ids of layers, bottom first (OCI image-spec, "Layer ChainID"): the first is the diff id itself, each next one the
 * digest of "<chain id below> <diff id>".
 * @throws {OciError} ERR_OCI_DIGEST
 */
export function chainIds(diffIds: readonly string[]): readonly string[] {
  const chain: string[] = [];
  for (const diffId of diffIds) {
    const below = chain.at(-1);
    chain.push(below === undefined ? parseDigest(diffId, "diff id") : digestOf(encodeUtf8(`${below} ${parseDigest(diffId, "diff id")}`)));
  }
  return chain;
}

/**
 * Id of a layer in AKS policies and mount points: hex SHA-256 of the chain id's text, `sha256:` included (specs/genpolicy.md 5.7).
 * @throws {OciError} ERR_OCI_DIGEST
 */
export function layerId(chainId: string): string {
  return toHex(sha256(encodeUtf8(parseDigest(chainId, "chain id"))));
}
