import { type Certificate, certificateAnchor, equalNames, MAX_CHAIN_LENGTH, parseCertificate, PkiError, verifyChain } from "@sealpod/pki";
import type { BuiltinContext } from "@sealpod/rego";
import { ANY_PURPOSE, NAME_CONSTRAINTS } from "./certificate-json.ts";
import { addressOf, formatAddress, parseAddress } from "../net/ip-address.ts";

/** What a chain must meet. */
export interface ChainRequest {
  /** Milliseconds since 1970. */
  readonly time: number;
  /** A name or an address that the leaf must be for. */
  readonly host: string | undefined;
  /** Dotted purposes, one of which every certificate must allow; undefined for any. */
  readonly purposes: readonly string[] | undefined;
}

/** Most chains that are tried. Real bundles have one; certificates with the same name and other keys could make it exponential. */
const MAX_TRIES = 32;

/** Reading a certificate and checking one signature: 0.3 ms for RSA, 3 ms for P-521. */
const LINK_WORK = 10_000;

/**
 * Verifies the last certificate against the first one, which is the trust anchor; those between may serve as intermediates.
 * Built on the chains of `lib/pki`, so it is stricter than Go: X.509 version 3, RSA from 2048 bits, no SHA-1, no critical extension
 * that is not understood. Name constraints are not evaluated: a chain that has some is refused.
 * @returns the chain's certificates, leaf first, as indices into the list
 * @throws {PkiError}
 */
export function verifyBundle(ders: readonly Uint8Array[], request: ChainRequest, context: BuiltinContext): readonly number[] {
  if (ders.length < 2) throw new PkiError("ERR_PKI_LIMIT", "must supply at least two certificates to be able to verify");
  const certificates = ders.map((der, index) => {
    context.work(LINK_WORK);
    return parseCertificate(der, `certificate ${index}`);
  });
  const root = certificates[0]!;
  const leaf = certificates.at(-1)!;
  const pool = certificates.slice(0, -1);
  let tries = 0;
  let reason: PkiError | undefined;

  const search = (chain: readonly Certificate[]): readonly Certificate[] | undefined => {
    const last = chain.at(-1)!;
    if (last === root) {
      tries++;
      context.work(chain.length * LINK_WORK);
      try {
        verifyChain(chain, { anchors: [certificateAnchor(root)], validity: { kind: "now", clock: { now: () => request.time } } });
        checkChain(chain, request);
        return chain;
      } catch (error) {
        if (!(error instanceof PkiError)) throw error;
        reason = error;
        return undefined;
      }
    }
    if (chain.length === MAX_CHAIN_LENGTH) return undefined;
    for (const issuer of pool) {
      if (tries >= MAX_TRIES) return undefined;
      if (chain.includes(issuer) || !equalNames(issuer.subject, last.issuer)) continue;
      const found = search([...chain, issuer]);
      if (found !== undefined) return found;
      // A dead end counts too: it cost the time.
      tries++;
    }
    return undefined;
  };

  const chain = search([leaf]);
  if (chain === undefined) throw reason ?? new PkiError("ERR_PKI_ISSUER", "certificate signed by unknown authority");
  return chain.map((certificate) => certificates.indexOf(certificate));
}

function checkChain(chain: readonly Certificate[], { host, purposes }: ChainRequest): void {
  for (const certificate of chain) {
    if (certificate.extensions.has(NAME_CONSTRAINTS)) throw new PkiError("ERR_PKI_CONSTRAINT", "name constraints are not evaluated here");
  }
  if (purposes !== undefined && !purposes.some((purpose) => chain.every((certificate) => allows(certificate, purpose)))) {
    throw new PkiError("ERR_PKI_CONSTRAINT", "certificate specifies an incompatible key usage");
  }
  if (host !== undefined && !isFor(chain[0]!, host)) throw new PkiError("ERR_PKI_CONSTRAINT", `certificate is not valid for ${JSON.stringify(host)}`);
}

function allows({ extendedKeyUsage }: Certificate, purpose: string): boolean {
  return extendedKeyUsage === undefined || extendedKeyUsage.includes(ANY_PURPOSE) || extendedKeyUsage.includes(purpose);
}

/** True if one of the certificate's alternative names is the host (RFC 6125 section 6.4). The common name does not count. */
function isFor({ subjectAltName = [] }: Certificate, host: string): boolean {
  const wanted = host.toLowerCase().replace(/^\[(.*)\]$/, "$1");
  const address = parseAddress(wanted);
  return subjectAltName.some((name) => {
    if (name.kind === "ip") return address !== undefined && formatAddress(addressOf(name.bytes)) === formatAddress(address);
    if (name.kind !== "dns" || address !== undefined) return false;
    const pattern = name.value.toLowerCase().replace(/\.$/, "");
    const labels = wanted.replace(/\.$/, "").split(".");
    if (labels.includes("") || labels.includes("*")) return false;
    // A wildcard stands for the whole first label and nothing else.
    return pattern === labels.join(".") || (labels.length > 1 && pattern === ["*", ...labels.slice(1)].join("."));
  });
}
