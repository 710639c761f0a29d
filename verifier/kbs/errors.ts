import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link KbsError}. */
export type KbsErrorCode =
  | "ERR_KBS_ADMIN"
  | "ERR_KBS_ARGUMENT"
  | "ERR_KBS_CERTIFICATES"
  | "ERR_KBS_EVIDENCE"
  | "ERR_KBS_INIT_DATA"
  | "ERR_KBS_PATH"
  | "ERR_KBS_PLUGIN"
  | "ERR_KBS_POLICY"
  | "ERR_KBS_POLICY_DENY"
  | "ERR_KBS_POLICY_SYNTAX"
  | "ERR_KBS_PROTOCOL"
  | "ERR_KBS_REPORT_DATA"
  | "ERR_KBS_REQUEST"
  | "ERR_KBS_RESOURCE"
  | "ERR_KBS_SESSION"
  | "ERR_KBS_STATE"
  | "ERR_KBS_TEE"
  | "ERR_KBS_TEE_KEY"
  | "ERR_KBS_TOKEN"
  | "ERR_KBS_TOKEN_MISSING"
  | "ERR_KBS_TOO_LARGE";

/** Rows of `verifier/kbs`. The protocol knows 401 for all refusals but those of a path; 413 and 5xx are ours, for what no other credential would mend. */
export const KBS_ERRORS: ErrorTable<KbsErrorCode> = {
  ERR_KBS_ADMIN: { action: "refused", exit: 1, http: 401, summary: "The request is for administrators of the key broker, and has no bearer token of one." },
  ERR_KBS_ARGUMENT: { action: "caller", exit: 2, http: 500, summary: "The key broker was set up with a value that is not usable." },
  ERR_KBS_CERTIFICATES: {
    action: "transient",
    exit: 1,
    http: 503,
    summary: "The evidence does not bring all certificates of its processor, and the certificate service did not give the others.",
  },
  ERR_KBS_EVIDENCE: { action: "refused", exit: 3, http: 401, summary: "The evidence is malformed, or does not verify; the message names the check." },
  ERR_KBS_INIT_DATA: { action: "refused", exit: 3, http: 401, summary: "The init data are malformed, or their digest is not HOST_DATA of the report." },
  ERR_KBS_PATH: { action: "caller", exit: 1, http: 404, summary: "The key broker has no such path, or not with this method." },
  ERR_KBS_PLUGIN: { action: "caller", exit: 1, http: 404, summary: "The key broker has no such plugin: it has resources alone." },
  ERR_KBS_POLICY: { action: "refused", exit: 3, http: 401, summary: "A policy of the key broker cannot be evaluated over this input, so nothing is given." },
  ERR_KBS_POLICY_DENY: { action: "refused", exit: 3, http: 401, summary: "The resource policy does not allow the attested guest to have this resource." },
  ERR_KBS_POLICY_SYNTAX: { action: "caller", exit: 1, http: 401, summary: "A policy or reference value that was to be set is malformed." },
  ERR_KBS_PROTOCOL: { action: "caller", exit: 1, http: 401, summary: "The client speaks a version of the key broker protocol that is not supported." },
  ERR_KBS_REPORT_DATA: { action: "refused", exit: 3, http: 401, summary: "REPORT_DATA of the report is not the hash of nonce and key of this session." },
  ERR_KBS_REQUEST: { action: "caller", exit: 1, http: 401, summary: "A request to the key broker is not well-formed." },
  ERR_KBS_RESOURCE: { action: "caller", exit: 1, http: 401, summary: "The key broker has no such resource, or cannot use it." },
  ERR_KBS_SESSION: { action: "refused", exit: 1, http: 401, summary: "The session cookie is missing, not of this key broker, or expired." },
  ERR_KBS_STATE: { action: "caller", exit: 1, http: 500, summary: "What the key broker keeps in the vault's store is damaged, or not its own." },
  ERR_KBS_TEE: {
    action: "caller",
    exit: 1,
    http: 401,
    summary: "The evidence is of a kind of hardware that the key broker does not verify: it verifies SEV-SNP.",
  },
  ERR_KBS_TEE_KEY: { action: "caller", exit: 1, http: 401, summary: "The guest's public key is malformed, weak, or for an algorithm that is not supported." },
  ERR_KBS_TOKEN: { action: "refused", exit: 1, http: 401, summary: "The attestation token is malformed, expired, or not signed by this key broker." },
  ERR_KBS_TOKEN_MISSING: { action: "refused", exit: 1, http: 401, summary: "The request has neither an attested session nor an attestation token." },
  ERR_KBS_TOO_LARGE: { action: "refused", exit: 1, http: 413, summary: "A request, resource or policy is larger than its limit." },
};

/** Errors of the key broker. */
export class KbsError extends SealpodError<KbsErrorCode> {
  constructor(code: KbsErrorCode, message: string, options?: SealpodErrorOptions) {
    super(KBS_ERRORS, code, message, options);
  }
}

/** Last part of `type` in an error's body, by the names of CoCo's key broker where it has one. */
export const WIRE_KINDS: Readonly<Record<KbsErrorCode, string>> = {
  ERR_KBS_ADMIN: "AdminAuth",
  ERR_KBS_ARGUMENT: "InternalError",
  ERR_KBS_CERTIFICATES: "AttestationError",
  ERR_KBS_EVIDENCE: "AttestationError",
  ERR_KBS_INIT_DATA: "AttestationError",
  ERR_KBS_PATH: "InvalidRequestPath",
  ERR_KBS_PLUGIN: "PluginNotFound",
  ERR_KBS_POLICY: "PolicyEngine",
  ERR_KBS_POLICY_DENY: "PolicyDeny",
  ERR_KBS_POLICY_SYNTAX: "ParsePolicyError",
  ERR_KBS_PROTOCOL: "ProtocolVersion",
  ERR_KBS_REPORT_DATA: "AttestationError",
  ERR_KBS_REQUEST: "InvalidRequest",
  ERR_KBS_RESOURCE: "PluginInternalError",
  ERR_KBS_SESSION: "AttestationError",
  ERR_KBS_STATE: "InternalError",
  ERR_KBS_TEE: "AttestationError",
  ERR_KBS_TEE_KEY: "JweError",
  ERR_KBS_TOKEN: "TokenVerifierError",
  ERR_KBS_TOKEN_MISSING: "TokenNotFound",
  ERR_KBS_TOO_LARGE: "PayloadTooLarge",
};
