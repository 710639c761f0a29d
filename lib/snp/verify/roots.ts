import { fromHex } from "@sealpod/core";
import type { Certificate } from "@sealpod/pki";
import { keyAnchor } from "@sealpod/pki";
import type { ProductName } from "../abi/product.ts";

/** A root key that reports may rest on. */
export interface TrustRoot {
  /** Who holds the key: "amd", or "emulator" for a key that protects nothing. It goes into every token as `x-sealpod-root`. */
  readonly name: string;
  /** The product line whose keys the root certifies. */
  readonly product: ProductName;
  /** SHA-256 of the root's SubjectPublicKeyInfo, 32 bytes. */
  readonly keySha256: Uint8Array;
}

/**
 * AMD's root keys (ARK), pinned by the SHA-256 of their SubjectPublicKeyInfo. Computed from the certificates that
 * https://kdsintf.amd.com/vcek/v1/{Milan|Genoa|Turin}/cert_chain serves, as kept in go-sev-guest (commit af1c107, verify/trust); the same keys stand in
 * TEE-Attestation-Verification (commit 220ffb3, src/pinned_arks). SHA-256 of the whole certificates, for comparison with other verifiers:
 * Milan 69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd, Genoa 4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1,
 * Turin 1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a.
 */
export const AMD_ROOTS: readonly TrustRoot[] = [
  { name: "amd", product: "Milan", keySha256: fromHex("9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9") },
  { name: "amd", product: "Genoa", keySha256: fromHex("429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831") },
  { name: "amd", product: "Turin", keySha256: fromHex("4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08") },
];

/** The trust root of a root certificate that the caller has reason to trust. */
export function trustRootOf(certificate: Certificate, name: string, product: ProductName): TrustRoot {
  return { name, product, keySha256: keyAnchor(certificate).sha256 };
}
