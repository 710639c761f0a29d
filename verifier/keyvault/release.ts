import { createHash, createPublicKey, X509Certificate, type KeyObject } from "node:crypto";
import { CompactSign } from "jose";
import { encodeJson, encodeUtf8, isSealpodError, messageOf, toBase64, toBase64url, toHex, type Clock, type Random } from "@sealpod/core";
import type { Caller } from "./bearer.ts";
import { KeyvaultError } from "./errors.ts";
import type { IssuerKeys } from "./issuer-keys.ts";
import { keyAttributes, publicKeyJson, type JsonBody } from "./key-bundle.ts";
import type { VaultKind } from "./key-request.ts";
import type { KeyRecord, KeyStore, ReleaseCheck, ReleaseRecord } from "./key-store.ts";
import { findWrappingKey, wrapKey, type WrapAlgorithm } from "./key-wrap.ts";
import { authoritiesFor, evaluateReleasePolicy, parseReleasePolicy, type ClaimFinding } from "./release-policy.ts";
import { parseToken, verifyToken } from "./token.ts";

/** The claim with which Sealpod's attestation service says what its evidence rests on. */
export const EVIDENCE_ROOT_CLAIM = "x-sealpod-root";

/** The TLS identity of the vault; a client checks a release against the name it called. */
export interface ReleaseSigner {
  /** RSA: the format knows RS256 alone. */
  readonly privateKey: KeyObject;
  /** DER certificates, the leaf first. */
  readonly chain: readonly Uint8Array[];
}

/** What releases rest on. */
export interface ReleaseContext {
  readonly store: KeyStore;
  readonly keys: IssuerKeys;
  readonly clock: Clock;
  readonly random: Random;
  readonly signer: ReleaseSigner;
  /** Values of {@link EVIDENCE_ROOT_CLAIM} that this vault takes, e.g. `amd`; `emulator` only where someone wrote it down. */
  readonly evidenceRoots: readonly string[];
}

/** One request for a release. */
export interface ReleaseRequest {
  readonly requestId: string;
  readonly caller: Caller;
  readonly kind: VaultKind;
  /** Base URL that the client used. */
  readonly base: string;
  /** Id of the key as the client asked for it. */
  readonly requestedId: string;
  readonly apiVersion: string;
  readonly key: KeyRecord;
  /** The attestation token. */
  readonly target: string;
  readonly algorithm: WrapAlgorithm;
  readonly nonce: string | undefined;
}

/** A refusal on its way to the audit; its message is for the owner of the vault, not for the caller. */
function refusal(check: ReleaseCheck, reason: string, cause?: unknown): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_RELEASE", reason, { details: { check }, cause });
}

interface Progress {
  authority: string;
  findings: readonly ClaimFinding[];
}

/**
 * Checks that a signer can sign releases.
 * @throws {KeyvaultError} ERR_KEYVAULT_ARGUMENT
 */
export function requireSigner(signer: ReleaseSigner): void {
  const [leaf] = signer.chain;
  if (leaf === undefined || signer.privateKey.asymmetricKeyType !== "rsa") {
    throw new KeyvaultError("ERR_KEYVAULT_ARGUMENT", "the release signer needs an RSA key and its certificate chain: releases are signed with RS256");
  }
  if (!new X509Certificate(leaf).publicKey.equals(createPublicKey(signer.privateKey))) {
    throw new KeyvaultError("ERR_KEYVAULT_ARGUMENT", "the first certificate of the release signer is not for its key: the chain starts with the leaf");
  }
}

/**
 * Releases a key to the TEE that the attestation token speaks of, or refuses; either way the audit has a line before this returns.
 * The caller of a refused release is not told which claim failed: that would let it search for the value. The audit is.
 * @returns the JWS of specs/attestation.md 5.5
 * @throws {KeyvaultError} ERR_KEYVAULT_RELEASE, ERR_KEYVAULT_KEY_OPERATION, ERR_KEYVAULT_ISSUER
 */
export async function releaseKey(context: ReleaseContext, request: ReleaseRequest): Promise<string> {
  const progress: Progress = { authority: "", findings: [] };
  try {
    const release = await evaluateRelease(context, request, progress);
    audit(context, request, progress, "released", undefined, `${request.algorithm} to wrapping key ${JSON.stringify(release.wrappingKeyId.slice(0, 100))}`);
    return release.jws;
  } catch (error) {
    const check = failedCheck(error);
    audit(context, request, progress, "refused", check, messageOf(error));
    if (check === "service" || check === "issuer") throw error;
    if (check === "key") {
      const details = { inner: "KeyOperationForbidden" };
      throw new KeyvaultError("ERR_KEYVAULT_KEY_OPERATION", `Operation release is not allowed on this key: ${messageOf(error)}.`, { details });
    }
    throw new KeyvaultError("ERR_KEYVAULT_RELEASE", "The key was not released: the attestation token does not satisfy the release policy of the key.", {
      details: { inner: "ForbiddenByReleasePolicy" },
      hint: `The owner of the vault finds the reason in its audit under request id ${request.requestId}.`,
    });
  }
}

function failedCheck(error: unknown): ReleaseCheck {
  if (!isSealpodError(error)) return "service";
  if (error.code === "ERR_KEYVAULT_ISSUER") return "issuer";
  return error.code === "ERR_KEYVAULT_RELEASE" ? (error.details["check"] as ReleaseCheck) : "service";
}

async function evaluateRelease(context: ReleaseContext, request: ReleaseRequest, progress: Progress): Promise<{ jws: string; wrappingKeyId: string }> {
  const { key } = request;
  if (!key.enabled) throw refusal("key", "the key is disabled");
  if (!key.exportable || key.releasePolicy === undefined) throw refusal("key", "the key is not exportable");
  const policy = parseReleasePolicy(encodeUtf8(key.releasePolicy.text));

  const token = refusing("token", () => parseToken(request.target));
  const issuer = token.claims["iss"];
  if (typeof issuer !== "string") throw refusal("authority", "the token has no iss claim");
  progress.authority = issuer.slice(0, 300);
  // The address to fetch keys from comes from the policy: a token does not choose who vouches for it.
  const authorities = authoritiesFor(policy, issuer);
  const [first] = authorities;
  if (first === undefined) {
    const expected = policy.anyOf.map((item) => item.authority).join(", ");
    throw refusal("authority", `the token is of ${JSON.stringify(progress.authority)}, the policy expects ${expected}`);
  }
  const { claims } = await verifyToken(token, first.authority, context.keys, context.clock).catch((error: unknown) => refuse("token", error));

  const root = claims[EVIDENCE_ROOT_CLAIM];
  if (root !== undefined && (typeof root !== "string" || !context.evidenceRoots.includes(root))) {
    throw refusal("evidence-root", `the token rests on root ${encodeJson(root).slice(0, 100)}, this vault takes ${context.evidenceRoots.join(", ") || "none"}`);
  }
  const evaluation = evaluateReleasePolicy(authorities, claims);
  progress.findings = evaluation.findings;
  if (!evaluation.satisfied) throw refusal("policy", describeFindings(evaluation.findings));

  const wrappingKey = refusing("wrapping-key", () => findWrappingKey(claims));
  const secret = context.store.openSecret(key);
  const ciphertext = wrapKey(request.algorithm, wrappingKey.publicKey, secret, context.random);
  secret.fill(0);
  return { jws: await signRelease(context.signer, request, releasePayload(request, wrappingKey.kid, ciphertext)), wrappingKeyId: wrappingKey.kid };
}

function refusing<T>(check: ReleaseCheck, work: () => T): T {
  try {
    return work();
  } catch (error) {
    return refuse(check, error);
  }
}

function refuse(check: ReleaseCheck, error: unknown): never {
  // An issuer that cannot be reached is no verdict on the token.
  if (!isSealpodError(error) || error.code === "ERR_KEYVAULT_ISSUER") throw error;
  throw refusal(check, error.message, error);
}

function describeFindings(findings: readonly ClaimFinding[]): string {
  const failed = findings.filter((finding) => !finding.matched);
  return failed
    .map(({ claim, found, expected }) =>
      found === undefined ? `claim ${claim} is missing, the policy expects ${expected}` : `claim ${claim} is ${found}, the policy expects ${expected}`,
    )
    .join("; ");
}

function releasePayload(request: ReleaseRequest, wrappingKeyId: string, ciphertext: Uint8Array): JsonBody {
  const { key, algorithm, kind } = request;
  const keyHsm = {
    schema_version: "1.0",
    header: { kid: wrappingKeyId, alg: "dir", enc: algorithm },
    ciphertext: toBase64url(ciphertext),
  };
  const jwk = publicKeyJson(request.base, key);
  const data = toBase64url(encodeUtf8(key.releasePolicy?.text ?? ""));
  const payload: JsonBody = {
    request: { "api-version": request.apiVersion, enc: algorithm, kid: request.requestedId, nonce: request.nonce },
    response: {
      key: {
        // A managed HSM has HSM keys alone and does not say so.
        key: { ...jwk, ...(kind === "managedhsm" ? { kty: key.type } : {}), key_hsm: toBase64url(encodeUtf8(JSON.stringify(keyHsm))) },
        attributes: keyAttributes(key),
        release_policy: kind === "managedhsm" ? { contentType: key.releasePolicy?.contentType, data } : { data },
      },
    },
  };
  return kind === "managedhsm" ? sortMembers(payload) : payload;
}

async function signRelease(signer: ReleaseSigner, request: ReleaseRequest, payload: JsonBody): Promise<string> {
  const leaf = signer.chain[0] ?? new Uint8Array();
  const sha1 = createHash("sha1").update(leaf).digest();
  const sha256 = createHash("sha256").update(leaf).digest("base64url");
  const x5c = signer.chain.map(toBase64);
  const header =
    request.kind === "managedhsm"
      ? { alg: "RS256", kid: sha256, x5c, "x5t#S256": sha256 }
      : { alg: "RS256", kid: toHex(sha1).toUpperCase(), typ: "JWT", x5t: sha1.toString("base64url"), x5c, "x5t#S256": sha256 };
  return new CompactSign(encodeUtf8(JSON.stringify(payload))).setProtectedHeader(header).sign(signer.privateKey);
}

function sortMembers(value: JsonBody): JsonBody {
  const isObject = (item: JsonBody[string]): item is JsonBody => typeof item === "object" && item !== null && !Array.isArray(item);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([name, item]) => [name, isObject(item) ? sortMembers(item) : item]));
}

function audit(
  context: ReleaseContext,
  request: ReleaseRequest,
  progress: Progress,
  outcome: ReleaseRecord["outcome"],
  failed: ReleaseCheck | undefined,
  reason: string,
): void {
  context.store.appendRelease({
    requestId: request.requestId,
    at: context.clock.now(),
    vault: request.key.vault,
    name: request.key.name,
    version: request.key.version,
    tenantId: request.caller.tenantId,
    appid: request.caller.appid,
    oid: request.caller.oid,
    outcome,
    failed,
    reason: reason.slice(0, 2000),
    authority: progress.authority,
    findings: progress.findings,
  });
}

/** What {@link explainRelease} gives. */
export interface ReleaseExplanation {
  readonly record: ReleaseRecord;
  /** A few lines for the owner of the vault. */
  readonly text: string;
}

/**
 * Explains the latest release, or attempt at one, that fits: for the owner of the vault, never for the caller.
 * @returns undefined if the audit has none
 */
export function explainRelease(
  store: KeyStore,
  filter: { readonly requestId?: string; readonly vault?: string; readonly name?: string },
): ReleaseExplanation | undefined {
  const [record] = store.releases({ ...filter, limit: 1 });
  if (record === undefined) return undefined;
  const who = record.appid === "" ? `object ${record.oid}` : `application ${record.appid}`;
  const lines = [
    `${new Date(record.at).toISOString()} request ${record.requestId}: key ${record.vault}/${record.name}/${record.version} ${record.outcome} to ${who} of tenant ${record.tenantId}`,
    record.failed === undefined ? `  ${record.reason}` : `  failed check: ${record.failed}: ${record.reason}`,
    ...(record.authority === "" ? [] : [`  token of ${record.authority}`]),
    ...record.findings.map(
      ({ claim, expected, found, matched }) => `  ${matched ? "ok    " : "FAILED"} ${claim}: expected ${expected}, found ${found ?? "nothing"}`,
    ),
  ];
  return { record, text: lines.join("\n") };
}
