import { createHash } from "node:crypto";
import { type Clock, equalBytes, toHex } from "@sealpod/core";
import type { Certificate } from "./certificate.ts";
import { PkiError } from "./errors.ts";
import { equalNames, formatName } from "./name.ts";
import { OID } from "./oid.ts";
import { checkRevocation, type RevocationCheck } from "./revocation.ts";
import { verifySignature } from "./signature.ts";
import { formatTime } from "./time.ts";

/** Longest chain, leaf and root included: the longest of the field has three. */
export const MAX_CHAIN_LENGTH = 6;

/**
 * What a chain may end in.
 * - `key`: a self-signed certificate with this public key (SHA-256 of its SubjectPublicKeyInfo). Whatever else the certificate says is vouched for by its own signature.
 * - `certificate`: this very certificate (SHA-256 of its DER). It need not be self-signed.
 */
export interface TrustAnchor {
  readonly kind: "key" | "certificate";
  /** 32 bytes. */
  readonly sha256: Uint8Array;
}

/** When certificates must be valid. Leaving time out must be said, with the reason, where it is done. */
export type ValidityCheck = { readonly kind: "now"; readonly clock: Clock } | { readonly kind: "ignored"; readonly because: string };

/** Options of {@link verifyChain}. */
export interface ChainOptions {
  readonly anchors: readonly TrustAnchor[];
  readonly validity: ValidityCheck;
  /** Whether the certificates below the anchor were revoked; left out, nobody asks. */
  readonly revocation?: RevocationCheck;
  /** Critical extensions that the caller itself looks at; any other is refused. */
  readonly knownCritical?: readonly string[];
  /** Name of the chain, for messages. */
  readonly what?: string;
}

/** A chain whose every link was verified. */
export interface VerifiedChain {
  readonly kind: "verified-chain";
  readonly leaf: Certificate;
  /** Leaf first, anchor last. */
  readonly certificates: readonly Certificate[];
  readonly anchor: TrustAnchor;
}

const KNOWN_CRITICAL: readonly string[] = [OID.basicConstraints, OID.keyUsage, OID.extendedKeyUsage, OID.subjectAltName];

/**
 * Verifies a chain, leaf first and anchor last (RFC 5280 section 6.1 without policies and name constraints; section 6.3 if CRLs are given).
 * What it leaves out fails closed: those extensions are critical where they matter, and unknown critical extensions are refused.
 * @throws {PkiError} ERR_PKI_LIMIT, ERR_PKI_ANCHOR, ERR_PKI_ISSUER, ERR_PKI_SIGNATURE, ERR_PKI_KEY, ERR_PKI_VALIDITY, ERR_PKI_CONSTRAINT, ERR_PKI_CRL,
 *   ERR_PKI_REVOKED
 */
export function verifyChain(certificates: readonly Certificate[], options: ChainOptions): VerifiedChain {
  const what = options.what ?? "chain";
  const chain = [...certificates];
  const [leaf] = chain;
  const last = chain.at(-1);
  if (leaf === undefined || last === undefined || chain.length > MAX_CHAIN_LENGTH) {
    throw new PkiError("ERR_PKI_LIMIT", `${what}: ${chain.length} certificates, expected 1 to ${MAX_CHAIN_LENGTH}`, { details: { found: chain.length } });
  }
  // The anchor first: there is no point in spending time on a chain that an attacker's root made.
  const anchor = findAnchor(last, options.anchors, what);
  if (anchor.kind === "key") verifyLink(last, last, describe(what, last));
  for (const [depth, certificate] of chain.entries()) {
    const name = describe(what, certificate);
    const issuer = chain[depth + 1];
    if (issuer !== undefined) verifyLink(certificate, issuer, name);
    if (options.validity.kind === "now") checkValidity(certificate, options.validity.clock.now(), name);
    if (depth > 0) checkAuthority(certificate, depth - 1, leaf, name);
    checkCritical(certificate, options.knownCritical ?? [], name);
  }
  // Last, and from the anchor down: a list is worth something once its issuer's certificate is.
  for (let depth = chain.length - 2; options.revocation !== undefined && depth >= 0; depth--) {
    const [certificate, issuer] = chain.slice(depth);
    if (certificate !== undefined && issuer !== undefined) checkRevocation(certificate, issuer, depth, options.revocation, describe(what, certificate));
  }
  return { kind: "verified-chain", leaf, certificates: chain, anchor };
}

/**
 * Orders certificates into a chain from a leaf upward, by issuer and subject names, until a self-issued one or no issuer is found.
 * Nothing is verified, and certificates that do not belong are left out.
 * @throws {PkiError} ERR_PKI_LIMIT
 */
export function orderChain(leaf: Certificate, pool: readonly Certificate[]): readonly Certificate[] {
  const chain = [leaf];
  for (let current = leaf; !equalNames(current.subject, current.issuer);) {
    const issuer = pool.find((candidate) => !chain.includes(candidate) && equalNames(candidate.subject, current.issuer));
    if (issuer === undefined) break;
    if (chain.length === MAX_CHAIN_LENGTH) throw new PkiError("ERR_PKI_LIMIT", `a chain of more than ${MAX_CHAIN_LENGTH} certificates`);
    chain.push(issuer);
    current = issuer;
  }
  return chain;
}

/** The anchor that trusts a certificate's public key, wherever its self-signed certificate comes from. */
export function keyAnchor(certificate: Certificate): TrustAnchor {
  return { kind: "key", sha256: sha256(certificate.publicKey.der) };
}

/** The anchor that trusts this very certificate. */
export function certificateAnchor(certificate: Certificate): TrustAnchor {
  return { kind: "certificate", sha256: sha256(certificate.der) };
}

function findAnchor(certificate: Certificate, anchors: readonly TrustAnchor[], what: string): TrustAnchor {
  const hashes = { key: sha256(certificate.publicKey.der), certificate: sha256(certificate.der) };
  const anchor = anchors.find(({ kind, sha256 }) => equalBytes(hashes[kind], sha256));
  if (anchor !== undefined) return anchor;
  throw new PkiError("ERR_PKI_ANCHOR", `${describe(what, certificate)} is not a trust anchor: its public key has SHA-256 ${toHex(hashes.key)}`, {
    details: { keySha256: toHex(hashes.key), certificateSha256: toHex(hashes.certificate) },
  });
}

function verifyLink(certificate: Certificate, issuer: Certificate, name: string): void {
  if (!equalNames(certificate.issuer, issuer.subject)) {
    throw new PkiError("ERR_PKI_ISSUER", `${name}: the issuer is ${formatName(certificate.issuer)}, the next certificate is ${formatName(issuer.subject)}`);
  }
  verifySignature(certificate.signatureAlgorithm, issuer.publicKey, certificate.tbs, certificate.signature, name);
}

function checkValidity(certificate: Certificate, now: number, name: string): void {
  if (now >= certificate.notBefore && now < certificate.notAfter + 1000) return;
  const [from, to, at] = [certificate.notBefore, certificate.notAfter, now].map(formatTime);
  throw new PkiError("ERR_PKI_VALIDITY", `${name} is valid from ${from} to ${to}, and it is ${at}`, {
    details: { notBefore: certificate.notBefore, notAfter: certificate.notAfter, now },
    hint: now >= certificate.notBefore ? "Ask for a fresh certificate." : "Check the clock of this machine.",
  });
}

/** A certificate that issued another must be allowed to. Without this any leaf could sign for anyone. */
function checkAuthority(certificate: Certificate, below: number, leaf: Certificate, name: string): void {
  const { basicConstraints, keyUsage, extendedKeyUsage } = certificate;
  if (basicConstraints?.ca !== true) throw new PkiError("ERR_PKI_CONSTRAINT", `${name} issued a certificate but is not a CA (basicConstraints)`);
  if (basicConstraints.pathLength !== undefined && below > basicConstraints.pathLength) {
    throw new PkiError("ERR_PKI_CONSTRAINT", `${name}: ${below} CA certificates stand below it, its path length allows ${basicConstraints.pathLength}`);
  }
  if (keyUsage !== undefined && !keyUsage.has("keyCertSign")) {
    throw new PkiError("ERR_PKI_CONSTRAINT", `${name} issued a certificate but its key usage does not include keyCertSign`);
  }
  // Critical means that it has to be heeded: a CA for one purpose does not make leaves for another, nor for all.
  const bound = certificate.extensions.get(OID.extendedKeyUsage)?.critical === true && extendedKeyUsage?.includes(OID.anyExtendedKeyUsage) === false;
  if (bound && leaf.extendedKeyUsage?.every((purpose) => extendedKeyUsage.includes(purpose)) !== true) {
    throw new PkiError("ERR_PKI_CONSTRAINT", `${name}: its critical extended key usage does not cover what the leaf is for`);
  }
}

function checkCritical(certificate: Certificate, known: readonly string[], name: string): void {
  for (const { oid, critical } of certificate.extensions.values()) {
    if (critical && !KNOWN_CRITICAL.includes(oid) && !known.includes(oid)) {
      throw new PkiError("ERR_PKI_CONSTRAINT", `${name} has the critical extension ${oid}, which is not understood here`, { details: { oid } });
    }
  }
}

function describe(what: string, certificate: Certificate): string {
  return `${what}: certificate ${formatName(certificate.subject)}`;
}

function sha256(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(createHash("sha256").update(bytes).digest());
}
