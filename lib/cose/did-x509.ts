import { createHash } from "node:crypto";
import { equalBytes, fromBase64url, messageOf, toBase64url } from "@sealpod/core";
import { type Certificate, certificateAnchor, OID, PkiError, type VerifiedChain, verifyChain } from "@sealpod/pki";
import { CoseError } from "./errors.ts";

/** One policy of a did:x509: what the leaf certificate must say. */
export type DidX509Policy =
  | { readonly kind: "eku"; readonly oid: string }
  | { readonly kind: "subject"; readonly attributes: readonly { readonly type: string; readonly value: string }[] }
  | { readonly kind: "san"; readonly form: "dns" | "email" | "uri"; readonly value: string };

/** A did:x509 of version 0 (https://trustoverip.github.io/tswg-did-x509-method-specification). */
export interface DidX509 {
  /** The identifier as it was written. Identifiers are compared as text. */
  readonly text: string;
  readonly hash: "sha256" | "sha384" | "sha512";
  /** Hash of the DER of a CA certificate of the chain. */
  readonly fingerprint: Uint8Array;
  /** At least one. */
  readonly policies: readonly DidX509Policy[];
}

/** Longest identifier: genuine ones have below 120 characters. */
export const MAX_DID_LENGTH = 1024;

/** Most policies of one identifier: genuine ones have one. */
export const MAX_DID_POLICIES = 8;

const HASH_LENGTHS = { sha256: 32, sha384: 48, sha512: 64 } as const;

/** Subject keys of the did:x509 specification and their attribute types. */
const SUBJECT_KEYS: Readonly<Record<string, string>> = {
  CN: OID.commonName,
  L: OID.locality,
  ST: OID.stateOrProvince,
  O: OID.organization,
  OU: OID.organizationalUnit,
  C: OID.country,
};

/**
 * Reads `did:x509:0:<hash>:<fingerprint>::<policy>:<value>…[::<policy>…]`.
 * @throws {CoseError} ERR_COSE_DID; also for the policy fulcio-issuer, which is not supported
 */
export function parseDidX509(text: string): DidX509 {
  if (text.length > MAX_DID_LENGTH) fail("identifier", `${text.length} characters, more than the limit of ${MAX_DID_LENGTH}`);
  // Between "::" stand the parts; inside a value every colon is percent-encoded.
  const [prefix = "", ...parts] = text.split("::");
  const match = /^did:x509:0:(sha256|sha384|sha512):([A-Za-z0-9_-]+)$/.exec(prefix);
  if (match === null) return fail(text, "expected did:x509:0:<sha256|sha384|sha512>:<fingerprint>");
  const hash = match[1] as DidX509["hash"];
  let fingerprint: Uint8Array;
  try {
    fingerprint = fromBase64url(match[2] ?? "", "fingerprint");
  } catch (cause) {
    return fail(text, messageOf(cause));
  }
  if (fingerprint.length !== HASH_LENGTHS[hash]) fail(text, `a fingerprint of ${fingerprint.length} bytes, expected ${HASH_LENGTHS[hash]}`);
  if (parts.length === 0 || parts.length > MAX_DID_POLICIES) fail(text, `${parts.length} policies, expected 1 to ${MAX_DID_POLICIES}`);
  return { text, hash, fingerprint, policies: parts.map((part) => parsePolicy(part, text)) };
}

/** The did:x509 of a CA certificate (SHA-256) and an extended key usage. */
export function formatDidX509Eku(ca: Certificate, eku: string): string {
  return `did:x509:0:sha256:${toBase64url(new Uint8Array(createHash("sha256").update(ca.der).digest()))}::eku:${eku}`;
}

/**
 * Verifies a chain, leaf first, against a did:x509: some certificate above the leaf has the fingerprint, the chain verifies up to it, the leaf meets every policy.
 * Time is left out as the method's users do: their leaves live for a year, the statements longer.
 * @throws {CoseError} ERR_COSE_DID, ERR_COSE_CERTIFICATE
 */
export function verifyDidX509(did: DidX509, chain: readonly Certificate[]): VerifiedChain {
  const at = chain.findIndex(({ der }, index) => index > 0 && equalBytes(new Uint8Array(createHash(did.hash).update(der).digest()), did.fingerprint));
  const ca = chain[at];
  if (ca === undefined) return fail(did.text, "no certificate above the leaf has the fingerprint");
  let verified: VerifiedChain;
  try {
    verified = verifyChain(chain.slice(0, at + 1), {
      anchors: [certificateAnchor(ca)],
      validity: { kind: "ignored", because: "did:x509 users evaluate statements that outlive the leaf (specs/attestation.md section 4.6)" },
      what: "x5chain",
    });
  } catch (cause) {
    if (!(cause instanceof PkiError)) throw cause;
    throw new CoseError("ERR_COSE_CERTIFICATE", cause.message, { cause, details: cause.details });
  }
  for (const policy of did.policies) checkPolicy(policy, verified.leaf, did.text);
  return verified;
}

function parsePolicy(part: string, text: string): DidX509Policy {
  const [name = "", ...values] = part.split(":");
  const [first = "", second = ""] = values;
  switch (name) {
    case "eku":
      if (values.length !== 1 || !/^[0-2](\.\d+)+$/.test(first)) fail(text, "policy eku needs one object identifier");
      return { kind: "eku", oid: first };
    case "subject": {
      if (values.length === 0 || values.length % 2 !== 0) fail(text, "policy subject needs pairs of key and value");
      const attributes: { type: string; value: string }[] = [];
      for (let i = 0; i < values.length; i += 2) {
        const key = values[i] ?? "";
        const type = Object.hasOwn(SUBJECT_KEYS, key) ? SUBJECT_KEYS[key] : /^[0-2](\.\d+)+$/.test(key) ? key : undefined;
        if (type === undefined) return fail(text, `policy subject has the unknown key ${JSON.stringify(key)}`);
        if (attributes.some((attribute) => attribute.type === type)) fail(text, `policy subject has the key ${key} twice`);
        attributes.push({ type, value: percentDecode(values[i + 1] ?? "", text) });
      }
      return { kind: "subject", attributes };
    }
    case "san":
      if (values.length !== 2 || (first !== "dns" && first !== "email" && first !== "uri"))
        return fail(text, "policy san needs email, dns or uri, and a value");
      return { kind: "san", form: first, value: percentDecode(second, text) };
    default:
      return fail(text, `policy ${JSON.stringify(name)} is not supported`);
  }
}

function checkPolicy(policy: DidX509Policy, leaf: Certificate, text: string): void {
  switch (policy.kind) {
    case "eku":
      if (leaf.extendedKeyUsage?.includes(policy.oid) !== true) fail(text, `the leaf does not have the extended key usage ${policy.oid}`);
      return;
    case "subject":
      for (const { type, value } of policy.attributes) {
        const found = leaf.subject.attributes.filter((attribute) => attribute.type === type);
        // An attribute that stands twice could say both.
        if (found.length !== 1 || found[0]?.value !== value)
          fail(text, `the leaf's subject does not have exactly one ${type} equal to ${JSON.stringify(value)}`);
      }
      return;
    case "san": {
      const names = leaf.subjectAltName ?? [];
      if (!names.some((name) => name.kind === policy.form && name.value === policy.value))
        fail(text, `the leaf does not have the alternative name ${JSON.stringify(policy.value)}`);
    }
  }
}

function percentDecode(value: string, text: string): string {
  if (!/^(?:[A-Za-z0-9._-]|%[0-9A-F]{2})+$/.test(value)) fail(text, "a value has characters that must be percent-encoded, or lower-case hex digits");
  try {
    return decodeURIComponent(value);
  } catch (cause) {
    throw new CoseError("ERR_COSE_DID", "did:x509: a percent-encoded value is not UTF-8", { cause });
  }
}

function fail(text: string, problem: string): never {
  throw new CoseError("ERR_COSE_DID", `${JSON.stringify(text.slice(0, 160))}: ${problem}`);
}
