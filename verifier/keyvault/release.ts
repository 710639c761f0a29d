import { encodeUtf8, isSealpodError, messageOf, toBase64url, type Random } from "@sealpod/core";
import type { Caller } from "./bearer.ts";
import { KeyvaultError } from "./errors.ts";
import { keyAttributes, publicKeyJson, type JsonBody } from "./key-bundle.ts";
import type { VaultKind } from "./key-request.ts";
import { wrapKey, type WrapAlgorithm } from "./key-wrap.ts";
import { examine, noProgress, type ExaminationContext, type Progress } from "./release-examination.ts";
import { signRelease, type ReleaseSigner } from "./release-signature.ts";
import type { AuditCheck, AuditLine, KeyRecord, VaultStore } from "./store/types.ts";

export { EVIDENCE_ROOT_CLAIM } from "./release-examination.ts";
export { explainRelease, type ReleaseExplanation } from "./explain-release.ts";
export { requireSigner, type ReleaseSigner } from "./release-signature.ts";

/** What releases rest on. */
export interface ReleaseContext extends ExaminationContext {
  readonly store: VaultStore;
  readonly random: Random;
  /** Read at each release: it may be a `ReplaceableSigner`. */
  readonly signer: ReleaseSigner;
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
  /** Throws if the caller would not be let in any more; asked after the authority has taken its time. */
  readonly admitAgain?: () => Promise<void>;
}

/** As the audit calls it. */
export const RELEASE_OPERATION = "keys/release";

/** A refusal on its way to the audit; its message is for the owner of the vault, not for the caller. */
function refusal(check: AuditCheck, reason: string): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_RELEASE", reason, { details: { check } });
}

/**
 * Releases a key to the TEE that the attestation token speaks of, or refuses; either way the audit has a line before this returns.
 * The caller of a refused release is not told which claim failed: that would let it search for the value. The audit is.
 * @returns the JWS of specs/attestation.md 5.5
 * @throws {KeyvaultError} ERR_KEYVAULT_RELEASE, ERR_KEYVAULT_KEY_OPERATION, ERR_KEYVAULT_ISSUER
 */
export async function releaseKey(context: ReleaseContext, request: ReleaseRequest): Promise<string> {
  const progress = noProgress();
  let release: { readonly jws: string; readonly wrappingKeyId: string };
  try {
    release = await makeRelease(context, request, progress);
  } catch (error) {
    const check = failedCheck(error);
    await context.store.appendAudit({ ...auditLine(context, request, progress), outcome: "refused", failed: check, reason: messageOf(error) });
    throw answerOf(check, error, request);
  }
  const reason = `${request.algorithm} to wrapping key ${JSON.stringify(release.wrappingKeyId.slice(0, 100))}`;
  await context.store.appendAudit({ ...auditLine(context, request, progress), outcome: "allowed", failed: undefined, reason });
  return release.jws;
}

/** What the caller is told of a refusal. */
function answerOf(check: AuditCheck, error: unknown, { requestId }: ReleaseRequest): unknown {
  const hint = `The owner of the vault finds the reason in its audit under request id ${requestId}.`;
  switch (check) {
    case "service":
    case "access":
      return error;
    case "issuer":
      // What is wrong with it, and at which address, would let an importer look around in the network of this service.
      return new KeyvaultError(
        "ERR_KEYVAULT_ISSUER",
        "The key was not released: the attestation service of its release policy could not be asked. Try again later.",
        {
          hint,
          cause: error,
        },
      );
    case "key":
      return new KeyvaultError("ERR_KEYVAULT_KEY_OPERATION", `Operation release is not allowed on this key: ${messageOf(error)}.`, {
        details: { inner: "KeyOperationForbidden" },
      });
    default:
      return new KeyvaultError("ERR_KEYVAULT_RELEASE", "The key was not released: the attestation token does not satisfy the release policy of the key.", {
        details: { inner: "ForbiddenByReleasePolicy" },
        hint,
      });
  }
}

function failedCheck(error: unknown): AuditCheck {
  if (!isSealpodError(error)) return "service";
  if (error.code === "ERR_KEYVAULT_ISSUER") return "issuer";
  if (error.code === "ERR_KEYVAULT_ACCESS" || error.code === "ERR_KEYVAULT_UNAUTHORIZED") return "access";
  return error.code === "ERR_KEYVAULT_RELEASE" ? (error.details["check"] as AuditCheck) : "service";
}

async function makeRelease(context: ReleaseContext, request: ReleaseRequest, progress: Progress): Promise<{ jws: string; wrappingKeyId: string }> {
  const { key, algorithm } = request;
  const { waits } = context.keys;
  const wrappingKey = await examine(context, request, progress, (check, _what, problem) => {
    if (problem !== undefined) throw refusal(check, problem);
  });
  // For the type alone: an examination without a wrapping key has noted why, and that has thrown.
  if (wrappingKey === undefined) throw refusal("wrapping-key", "the token has no wrapping key");
  if (context.keys.waits !== waits) {
    await request.admitAgain?.();
    await requireUnchanged(context.store, key);
  }
  const secret = await context.store.openKey(key);
  let ciphertext: Uint8Array;
  try {
    ciphertext = wrapKey(algorithm, wrappingKey.publicKey, secret, context.random);
  } finally {
    secret.fill(0);
  }
  const payload = JSON.stringify(releasePayload(request, wrappingKey.kid, ciphertext));
  return { jws: await signRelease(context.signer, request.kind, payload), wrappingKeyId: wrappingKey.kid };
}

/** The authority may have taken its time: a key that was disabled, deleted or given another policy meanwhile goes to nobody. */
async function requireUnchanged(store: VaultStore, key: KeyRecord): Promise<void> {
  const current = await store.key(key.vault, key.name, key.version);
  if (current !== undefined && current.enabled && current.exportable && current.releasePolicy?.text === key.releasePolicy?.text) return;
  throw refusal("key", "the key was changed or deleted while the token was looked at");
}

/** Member by member as recorded sessions have it (specs/attestation.md 5.5.5). */
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

function sortMembers(value: JsonBody): JsonBody {
  const isObject = (item: JsonBody[string]): item is JsonBody => typeof item === "object" && item !== null && !Array.isArray(item);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([name, item]) => [name, isObject(item) ? sortMembers(item) : item]));
}

function auditLine(context: ReleaseContext, request: ReleaseRequest, progress: Progress): Omit<AuditLine, "outcome" | "failed" | "reason"> {
  return {
    requestId: request.requestId,
    at: context.clock.now(),
    vault: request.key.vault,
    operation: RELEASE_OPERATION,
    name: request.key.name,
    version: request.key.version,
    tenantId: request.caller.tenantId,
    appid: request.caller.appid,
    oid: request.caller.oid,
    authority: progress.authority,
    findings: progress.findings,
  };
}
