import { createHash } from "node:crypto";
import {
  asArray,
  asObject,
  decodeUtf8,
  fromAnyBase64,
  fromBase64,
  isSealpodError,
  messageOf,
  parseJson,
  toBase64,
  toBase64url,
  type JsonObject,
  type JsonValue,
} from "@sealpod/core";
import { parseCertificate, type Certificate } from "@sealpod/pki";
import type { AttestationType } from "./attestation-type.ts";
import { AttestationError } from "./errors.ts";
import { encodeUnsignedToken, parseRequestToken, type RequestToken } from "./jws.ts";
import type { PolicyBook } from "./policy-book.ts";
import type { AttestationStore, Change } from "./store.ts";
import type { TokenClaims } from "./token.ts";

/** What a bearer token of a management request came to. */
export type ManagementVerdict =
  | {
      readonly kind: "allowed";
      /** Who it is, for the audit. */
      readonly subject: string;
    }
  /** 401: the token is not accepted. */
  | { readonly kind: "refused"; readonly problem: string }
  /** 403: the caller is known and has no right to manage this service. */
  | { readonly kind: "forbidden"; readonly subject: string; readonly problem: string };

/** Who may read and change policies. The composer brings it: this package knows no identity service. */
export interface ManagementAccess {
  /** Where a client gets a token, e.g. `https://login.microsoftonline.com/<tenant>`; it is named in the challenge. */
  readonly authority: string;
  /** Audience of the tokens, in the challenge; `https://attest.azure.net` when absent. */
  readonly resource?: string;
  /** Judges a bearer token. What it throws is an error of the service (500). */
  authenticate(token: string): Promise<ManagementVerdict>;
}

/**
 * How policies are protected, with the names of the genuine service: `aad` takes unsigned and signed ones from whoever may manage, `isolated` only those that a policy
 * certificate signed.
 */
export type ManagementMode = "aad" | "isolated";

/** What the operations of management work on. */
export interface Management {
  readonly store: AttestationStore;
  readonly policies: PolicyBook;
  readonly mode: ManagementMode;
}

/** GET /policies/{type}: the policy as it was set, or the default one in an unsigned token. */
export function getPolicy({ policies }: Management, type: AttestationType): TokenClaims {
  const { token, text } = policies.get(type);
  return { "x-ms-policy": token ?? encodeUnsignedToken({ AttestationPolicy: toBase64url(Buffer.from(text)) }) };
}

/**
 * PUT /policies/{type}.
 * @param body the JWS
 * @throws {AttestationError} ERR_ATTESTATION_JWS, ERR_ATTESTATION_SIGNER, ERR_ATTESTATION_POLICY_SYNTAX, ERR_ATTESTATION_POLICY_LIMIT
 */
export function setPolicy(management: Management, type: AttestationType, body: string, subject: string): TokenClaims {
  const request = parseRequestToken(body);
  const change = authorise(management, request, subject);
  const text = policyTextOf(request.payload);
  management.policies.check(text);
  management.store.setPolicy({ type, token: request.token, text, signer: request.signer?.der }, change);
  return { "x-ms-policy-result": "Updated", ...changed(request) };
}

/**
 * POST /policies/{type}:reset.
 * @param body a JWS with an empty payload
 * @throws {AttestationError} ERR_ATTESTATION_JWS, ERR_ATTESTATION_SIGNER
 */
export function resetPolicy(management: Management, type: AttestationType, body: string, subject: string): TokenClaims {
  const request = parseRequestToken(body);
  // A signed policy must not do as a signed reset: whoever saw it pass could take it back.
  if (request.payload !== "")
    throw new AttestationError("ERR_ATTESTATION_JWS", `the token of a reset has a payload of ${request.payload.length} characters, expected none`);
  management.store.resetPolicy(type, request.token, authorise(management, request, subject));
  return { "x-ms-policy-result": "Removed", ...changed(request) };
}

/** GET /certificates: those whose keys may sign policies; none outside isolated mode. */
export function getCertificates({ store, mode }: Management): TokenClaims {
  const certificates = mode === "isolated" ? store.policyCertificates() : [];
  return { "x-ms-policy-certificates": { keys: certificates.map(({ certificate }) => jwkOf(parseCertificate(certificate))) } };
}

/**
 * POST /certificates:add and POST /certificates:remove.
 * @param body a JWS with the certificate, signed with the key of a policy certificate
 * @throws {AttestationError} ERR_ATTESTATION_JWS, ERR_ATTESTATION_SIGNER, ERR_ATTESTATION_OPERATION
 */
export function changeCertificate(management: Management, operation: "add" | "remove", body: string, subject: string): TokenClaims {
  if (management.mode !== "isolated") {
    throw new AttestationError("ERR_ATTESTATION_OPERATION", "policy certificates belong to instances in isolated mode, and this one is in AAD mode", {
      hint: "Whoever may manage this instance sets policies without them.",
    });
  }
  const request = parseRequestToken(body);
  const change = authorise(management, request, subject);
  const { der } = certificateOf(request.payload);
  const { store } = management;
  if (operation === "add") store.addPolicyCertificate(der, change);
  else store.removePolicyCertificate(der, change);
  return {
    // SHA-1 in capitals, as the clients of the genuine service compare it; nothing here relies on it.
    "x-ms-certificate-thumbprint": createHash("sha1").update(der).digest("hex").toUpperCase(),
    "x-ms-policycertificates-result": operation === "add" ? "IsPresent" : "IsAbsent",
  };
}

/**
 * The policy in the payload of a policy token.
 * @throws {AttestationError} ERR_ATTESTATION_JWS
 */
export function policyTextOf(payload: string): string {
  const policy = payloadMember(payload, "AttestationPolicy");
  if (typeof policy !== "string") throw payloadError("AttestationPolicy is missing or no string");
  // Clients write it in both alphabets, padded and not; the signature is over the token, so nothing depends on which.
  return mend(() => decodeUtf8(fromAnyBase64(policy, "AttestationPolicy"), "AttestationPolicy"));
}

/** The public key of a certificate as the genuine service writes it. */
export function jwkOf(certificate: Certificate): JsonObject {
  const { kty, n, e, crv, x, y } = certificate.publicKey.key.export({ format: "jwk" });
  const members: Readonly<Record<string, JsonValue | undefined>> = { kty: kty ?? "RSA", n, e, crv, x, y, x5c: [toBase64(certificate.der)] };
  return Object.fromEntries(Object.entries(members).filter((entry): entry is [string, JsonValue] => entry[1] !== undefined));
}

function authorise({ mode }: Management, { signer }: RequestToken, subject: string): Change {
  if (mode === "aad") return { subject, authority: "any" };
  if (signer === undefined) {
    throw new AttestationError("ERR_ATTESTATION_SIGNER", "the token is not signed, and this instance is in isolated mode: a policy certificate must sign it", {
      hint: "Sign it with RS256, with the certificate in x5c.",
    });
  }
  return { subject, authority: signer.der };
}

function changed({ token, signer }: RequestToken): TokenClaims {
  return {
    "x-ms-policy-token-hash": createHash("sha256").update(token).digest("base64url"),
    "x-ms-policy-signer": signer === undefined ? undefined : jwkOf(signer),
  };
}

/** The certificate of `{"policyCertificate": {"x5c": ["…"]}}`. */
function certificateOf(payload: string): Certificate {
  const jwk = asObject(payloadMember(payload, "policyCertificate"));
  const [first] = asArray(jwk?.["x5c"]) ?? [];
  if (typeof first !== "string") throw payloadError("policyCertificate.x5c is missing or no list of strings");
  const certificate = mend(() => parseCertificate(fromBase64(first, "policyCertificate.x5c[0]"), "policyCertificate.x5c[0]"));
  // A key that no policy can be signed with would only be there to lock its owner out.
  if (certificate.publicKey.kind !== "rsa") throw payloadError(`the certificate has a key of type ${certificate.publicKey.kind}, expected rsa`);
  return certificate;
}

function payloadMember(payload: string, name: string): JsonValue | undefined {
  const object = mend(() => asObject(parseJson(payload, "its payload", { maxLength: payload.length, maxDepth: 8 })));
  if (object === undefined) throw payloadError("it is not a JSON object");
  return object[name];
}

function mend<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw payloadError(messageOf(cause), cause);
  }
}

function payloadError(problem: string, cause?: unknown): AttestationError {
  return new AttestationError("ERR_ATTESTATION_JWS", `the payload of the token is refused: ${problem}`, { cause });
}
