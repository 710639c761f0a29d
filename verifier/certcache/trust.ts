import { type Clock, equalBytes, isSealpodError, messageOf } from "@sealpod/core";
import { type Certificate, formatName, parseCertificatesPem, verifyChain } from "@sealpod/pki";
import {
  type Authorities,
  checkAuthorities,
  type EndorsementKey,
  type EndorsementKind,
  hasAuthorityName,
  parseEndorsementKey,
  PRODUCT_NAMES,
  type ProductName,
  type TrustRoot,
  trustRootOf,
} from "@sealpod/snp";
import { CertcacheError } from "./errors.ts";

/** What certificates are held against before they are stored, and each time they are read. */
export interface Trust {
  /** AMD's; the emulator's only if somebody names it. */
  readonly roots: readonly TrustRoot[];
  readonly clock: Clock;
}

/**
 * Verifies the certificates of a product's authorities down to a trusted root of that product.
 * @throws {CertcacheError} ERR_CERTCACHE_UNTRUSTED
 */
export function verifyAuthorities(kind: EndorsementKind, product: ProductName, { intermediate, root }: Authorities, trust: Trust): Authorities {
  return trusted(`authorities ${kind} ${product}`, () => {
    verifyUnder(product, [intermediate, root], trust);
    return checkAuthorities([intermediate, root], kind, product);
  });
}

/**
 * Verifies a VCEK certificate under its authorities, down to a trusted root of its product. For which chip it must be is for the caller.
 * @throws {CertcacheError} ERR_CERTCACHE_UNTRUSTED
 */
export function verifyEndorsement(certificate: Certificate, { intermediate, root }: Authorities, trust: Trust): EndorsementKey {
  return trusted("VCEK certificate", () => {
    const key = parseEndorsementKey(certificate);
    verifyUnder(key.product, [certificate, intermediate, root], trust);
    return key;
  });
}

/** Pairs of one kind and product that are kept: the one that AMD issues under today, and some before it. AMD has never had a second one of a product. */
export const MAX_PAIRS = 4;

/** Each pair once, the one that was issued last in front; of those issued together, in the order given. Those beyond {@link MAX_PAIRS} are left out. */
export function orderedPairs(pairs: readonly Authorities[]): readonly Authorities[] {
  const each = pairs.filter((pair, index) => pairs.findIndex((other) => isSamePair(pair, other)) === index);
  return each.sort((a, b) => b.intermediate.notBefore - a.intermediate.notBefore).slice(0, MAX_PAIRS);
}

/** True if both are the same certificates. */
export function isSamePair(a: Authorities, b: Authorities): boolean {
  return equalBytes(a.intermediate.der, b.intermediate.der) && equalBytes(a.root.der, b.root.der);
}

/**
 * The first of several pairs that a check holds under.
 * @param pairs at least one
 * @throws what the check says of the first pair
 */
export function underAny(pairs: readonly Authorities[], check: (pair: Authorities) => unknown): Authorities {
  const refusals: unknown[] = [];
  for (const pair of pairs) {
    try {
      check(pair);
      return pair;
    } catch (error) {
      if (!isSealpodError(error)) throw error;
      refusals.push(error);
    }
  }
  throw refusals[0];
}

/**
 * A root that the caller names, from the PEM of its self-signed certificate. The product is in its name, "ARK-Milan" or "EMULATED ARK-Milan".
 * @param name who holds the key, such as "emulator"; "amd" is taken
 * @throws {CertcacheError} ERR_CERTCACHE_ARGUMENT
 */
export function parseTrustRoot(name: string, pem: string): TrustRoot {
  const fail = (problem: string, cause?: unknown): CertcacheError =>
    new CertcacheError("ERR_CERTCACHE_ARGUMENT", `trust root ${JSON.stringify(name.slice(0, 40))}: ${problem}`, cause === undefined ? {} : { cause });
  if (!/^[a-z][a-z0-9-]{0,31}$/.test(name) || name === "amd")
    throw fail('the name is not lower-case letters, digits and dashes, or is "amd", whose roots are built in');
  let certificates: readonly Certificate[];
  try {
    certificates = parseCertificatesPem(pem, "root");
  } catch (cause) {
    throw fail(messageOf(cause), cause);
  }
  const [certificate] = certificates;
  if (certificate === undefined || certificates.length > 1) throw fail(`${certificates.length} certificates, expected the root (ARK) alone`);
  const product = PRODUCT_NAMES.find((item) => hasAuthorityName(certificate, `ARK-${item}`));
  if (product === undefined) throw fail(`the certificate is of ${formatName(certificate.subject)}, expected ARK-PRODUCT or EMULATED ARK-PRODUCT`);
  return trustRootOf(certificate, name, product);
}

/** A root vouches for its own product alone: roots of two products are two keys. */
function verifyUnder(product: ProductName, chain: readonly Certificate[], { roots, clock }: Trust): void {
  const { anchor } = verifyChain(chain, {
    anchors: roots.map(({ keySha256 }) => ({ kind: "key", sha256: keySha256 })),
    validity: { kind: "now", clock },
    what: "certificate cache",
  });
  const found = roots.filter(({ keySha256 }) => equalBytes(keySha256, anchor.sha256)).map((root) => root.product);
  if (!found.includes(product)) {
    throw new CertcacheError("ERR_CERTCACHE_UNTRUSTED", `the root is trusted for ${found.join(", ")}, the certificate is for ${product}`);
  }
}

/** What a check gives; any refusal of it becomes ERR_CERTCACHE_UNTRUSTED. */
export function trusted<T>(what: string, check: () => T): T {
  try {
    return check();
  } catch (cause) {
    if (!isSealpodError(cause) || cause instanceof CertcacheError) throw cause;
    throw new CertcacheError("ERR_CERTCACHE_UNTRUSTED", `${what}: ${messageOf(cause)}`, {
      cause,
      hint: "Only what AMD signed is kept, or what others did whose roots are named: --trust emulator=ark.pem for an emulator. Roots that are named are all that count; --trust amd names AMD's beside them.",
    });
  }
}
