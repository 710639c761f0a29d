import { toBase64url } from "@sealpod/core";

/**
 * Base64url WITH padding. The standard for JOSE has none, but the genuine sidecar sends it everywhere and the genuine
 * services take it (specs/attestation.md 0 item 8).
 */
export function toPaddedBase64url(bytes: Uint8Array): string {
  const text = toBase64url(bytes);
  return text.padEnd(Math.ceil(text.length / 4) * 4, "=");
}
