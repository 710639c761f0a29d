import { messageOf } from "@sealpod/core";
import { type Certificate, formatName, keyAnchor, nameAttribute, OID, PkiError, verifyChain } from "@sealpod/pki";
import type { ProductName } from "../abi/product.ts";
import { SnpError } from "../errors.ts";
import { type EndorsementKey, parseEndorsementKey } from "../kds/endorsement-key.ts";
import type { CertificateChain } from "./certificate-chain.ts";

/**
 * A chain whose certificates sign one another, as AMD's do. That is a fact about their bytes alone and stays one: it says nothing about whether the root is
 * trusted, the dates are met, or a certificate was revoked. So it may be remembered, and those must be checked at each use.
 */
export interface SignedChain {
  readonly kind: "signed-chain";
  readonly certificates: CertificateChain;
  readonly endorsementKey: EndorsementKey;
  /** SHA-256 of the root's SubjectPublicKeyInfo. */
  readonly rootKeySha256: Uint8Array;
}

/** AMD signs all three certificates this way; anything else under an AMD key was not made to be one of them. */
const SIGNATURE_ALGORITHM = "rsa-pss-sha384";

/**
 * Verifies that root, intermediate and endorsement key sign one another and may (specs/attestation.md section 1.5): RSASSA-PSS with SHA-384 throughout, CA flags,
 * path lengths and key usage, AMD's names for the product and the kind of key, and an intermediate that is no weaker than its root.
 * @throws {SnpError} ERR_SNP_CHAIN, ERR_SNP_CERTIFICATE, ERR_SNP_PRODUCT
 */
export function verifySignedChain(
  certificates: CertificateChain,
  endorsementKey: EndorsementKey = parseEndorsementKey(certificates.endorsementKey),
): SignedChain {
  const { root, intermediate, endorsementKey: leaf } = certificates;
  checkNames(certificates, endorsementKey);
  for (const certificate of [leaf, intermediate, root]) {
    if (certificate.signatureAlgorithm !== SIGNATURE_ALGORITHM)
      fail(`certificate ${formatName(certificate.subject)} is signed with ${certificate.signatureAlgorithm}, expected ${SIGNATURE_ALGORITHM}`);
  }
  // The root's key is pinned and so is its size. Without this the chain would be as strong as its weakest link.
  const [least, found] = [modulusBits(root), modulusBits(intermediate)];
  if (found < least) fail(`the intermediate's RSA key has ${found} bits, expected at least the root's ${least}`);
  const anchor = keyAnchor(root);
  try {
    verifyChain([leaf, intermediate, root], {
      anchors: [anchor],
      validity: { kind: "ignored", because: "the caller checks dates, and whether it trusts this root, at each use" },
      what: "SNP certificates",
    });
  } catch (cause) {
    if (cause instanceof PkiError) throw new SnpError("ERR_SNP_CHAIN", cause.message, { cause, details: cause.details });
    throw cause;
  }
  return { kind: "signed-chain", certificates, endorsementKey, rootKeySha256: anchor.sha256 };
}

/**
 * AMD's names tell the authorities apart: ASK "SEV-Milan" certifies chips, ASVK "SEV-VLEK-Milan" certifies keys of cloud providers. A key of one kind under the
 * authority of the other was not made by AMD's process. Emulators put a word before the name.
 */
function checkNames(
  { root, intermediate, endorsementKey: leaf }: CertificateChain,
  { kind, product }: { readonly kind: "vcek" | "vlek"; readonly product: ProductName },
): void {
  const expected: readonly (readonly [Certificate, string])[] = [
    [leaf, kind === "vlek" ? "SEV-VLEK" : "SEV-VCEK"],
    [intermediate, kind === "vlek" ? `SEV-VLEK-${product}` : `SEV-${product}`],
    [root, `ARK-${product}`],
  ];
  for (const [certificate, name] of expected) {
    if (commonName(certificate)?.split(" ").at(-1) !== name)
      fail(`certificate ${formatName(certificate.subject)}: expected the common name ${name} in the chain of a ${kind.toUpperCase()} of ${product}`);
  }
}

function commonName(certificate: Certificate): string | undefined {
  try {
    return nameAttribute(certificate.subject, OID.commonName);
  } catch (cause) {
    return fail(messageOf(cause));
  }
}

function modulusBits({ publicKey }: Certificate): number {
  return publicKey.key.asymmetricKeyDetails?.modulusLength ?? 0;
}

function fail(problem: string): never {
  throw new SnpError("ERR_SNP_CHAIN", `SNP certificates: ${problem}`);
}
