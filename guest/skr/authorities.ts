import { fromBase64, isSealpodError } from "@sealpod/core";
import { parseCertificate, type Certificate } from "@sealpod/pki";
import { SkrError } from "./errors.ts";

/** Largest bundle: distributions ship some 150 authorities in 220 KiB. */
const MAX_BUNDLE = 4 * 1024 * 1024;

/** Certificate authorities of a bundle such as `/etc/ssl/certs/ca-certificates.crt`. */
export interface Authorities {
  /** PEM blocks, for TLS. */
  readonly pem: readonly string[];
  /** Those that the strict parser reads too: a key release may rest on these alone. */
  readonly roots: readonly Certificate[];
}

/**
 * Reads a bundle of certificates in PEM. Text between the blocks is skipped, as OpenSSL does: bundles have comments.
 * @throws {SkrError} ERR_SKR_CONFIGURATION if there is no certificate in it
 */
export function parseAuthorities(text: string, what: string): Authorities {
  if (text.length > MAX_BUNDLE) throw new SkrError("ERR_SKR_CONFIGURATION", `${what} has ${text.length} characters, more than ${MAX_BUNDLE}`);
  const pem = text.match(/-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g) ?? [];
  if (pem.length === 0) {
    throw new SkrError("ERR_SKR_CONFIGURATION", `${what} has no certificate in PEM`, { hint: "Set SSL_CERT_FILE to the bundle of trusted authorities." });
  }
  const roots: Certificate[] = [];
  for (const [index, block] of pem.entries()) {
    try {
      roots.push(parseCertificate(fromBase64(block.replaceAll(/-----[A-Z ]+-----|\s/g, ""), `certificate ${index}`)));
    } catch (error) {
      // Distributions carry a few old roots (SHA-1, version 1). TLS knows what to do with them; nothing is released on them.
      if (!isSealpodError(error)) throw error;
    }
  }
  return { pem, roots };
}
