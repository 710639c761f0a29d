import { createPublicKey, sign, type KeyObject } from "node:crypto";
import { compactVerify } from "jose";
import {
  asObject,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  fromBase64url,
  messageOf,
  parseJson,
  sha256,
  toBase64url,
  toHex,
  type Clock,
  type JsonObject,
  type JsonValue,
} from "@sealpod/core";
import { parseGuestPolicy, parsePlatformInfo, type VerifiedReport } from "@sealpod/snp";
import { KbsError } from "./errors.ts";

/** `iss` of the tokens, as CoCo's attestation service has it; also what the audit names as the authority. */
export const EAR_ISSUER = "CoCo-Attestation-Service";
const EAR_PROFILE = "tag:github.com,2024:confidential-containers/Trustee";
/** Name that clients and policies find the evidence under. */
const EVIDENCE_CLAIM = "ear.veraison.annotated-evidence";

/** Seconds for which a token counts. */
export const TOKEN_LIFETIME = 300;
/** A token with the data of a large agent policy in it; a client sends it as a header, where servers take less. */
export const MAX_EAR_TOKEN: number = 1024 * 1024;

/** The claims of a trustworthiness vector (draft-ietf-rats-ar4si section 2.3), by their names in a policy and in a token. */
export const TRUST_CLAIMS = {
  instance_identity: "instance-identity",
  configuration: "configuration",
  executables: "executables",
  file_system: "file-system",
  hardware: "hardware",
  runtime_opaque: "runtime-opaque",
  storage_opaque: "storage-opaque",
  sourced_data: "sourced-data",
} as const;

/** A trustworthiness vector: -128 to 127 for each claim, 0 where the policy says nothing. */
export type TrustVector = Readonly<Record<keyof typeof TRUST_CLAIMS, number>>;

/** What a vector comes to. */
export type EarStatus = "none" | "affirming" | "warning" | "contraindicated";

/** The key that tokens are signed with. */
export interface EarKey {
  /** P-256, private. */
  readonly key: KeyObject;
  /** Public JWK with `kid` (RFC 7638) and `alg`. */
  readonly jwk: JsonObject;
}

/**
 * The key for tokens.
 * @param key P-256, private
 */
export function earKey(key: KeyObject): EarKey {
  const { crv = "", kty = "", x = "", y = "" } = createPublicKey(key).export({ format: "jwk" });
  const kid = toBase64url(sha256(encodeUtf8(JSON.stringify({ crv, kty, x, y }))));
  return { key, jwk: { alg: "ES256", crv, kid, kty, use: "sig", x, y } };
}

/** The worst tier over the vector: 0 and ±1 say nothing, then affirming (to 31), warning (to 95), contraindicated; negative values mirror these (AR4SI section 2.3.2). */
export function statusOf(vector: TrustVector): EarStatus {
  const tiers = Object.values(vector).map((value) => {
    const size = value < 0 ? -value - 1 : value;
    return size <= 1 && value >= -1 ? 0 : size < 32 ? 1 : size < 96 ? 2 : 3;
  });
  return (["none", "affirming", "warning", "contraindicated"] as const)[Math.max(...tiers)] ?? "contraindicated";
}

/** What a token says about a guest: the input of attestation policies, and the annotated evidence of the token. Hex digits are lower case. */
export function evidenceClaims({ report, tcb, root, product }: VerifiedReport, runtimeData: JsonObject, initDataClaims: JsonObject | undefined): JsonObject {
  const policy = parseGuestPolicy(report.policy);
  const platform = parsePlatformInfo(report.platformInfo);
  return {
    snp: {
      chip_id: toHex(report.chipId),
      guest_svn: report.guestSvn,
      measurement: toHex(report.measurement),
      platform_smt_enabled: platform.smtEnabled,
      platform_tsme_enabled: platform.tsmeEnabled,
      policy_abi_major: policy.abiMajor,
      policy_abi_minor: policy.abiMinor,
      policy_debug_allowed: policy.debugAllowed,
      policy_migrate_ma: policy.migrationAgentAllowed,
      policy_single_socket: policy.singleSocketRequired,
      policy_smt_allowed: policy.smtAllowed,
      reported_tcb_bootloader: tcb.reported.bootloader,
      reported_tcb_microcode: tcb.reported.microcode,
      reported_tcb_snp: tcb.reported.snp,
      reported_tcb_tee: tcb.reported.tee,
      vmpl: report.vmpl,
    },
    init_data: toHex(report.hostData),
    ...(initDataClaims === undefined ? {} : { init_data_claims: initDataClaims }),
    report_data: toHex(report.reportData),
    runtime_data_claims: runtimeData,
    // Not of CoCo: which root the evidence rests on, by the name that this service's configuration gives it, such as "amd" or "emulator".
    sealpod: { product, root: root.name },
  };
}

/** What goes into a token. */
export interface Appraisal {
  readonly evidence: JsonObject;
  readonly vector: TrustVector;
  /** `ear.appraisal-policy-id`. */
  readonly policyId: string;
}

/**
 * Issues a token about a guest: an EAR (draft-ietf-rats-ear) as CoCo's attestation service signs it (specs/attestation.md 9.2).
 * @throws {KbsError} ERR_KBS_TOO_LARGE
 */
export function signEar({ key, jwk }: EarKey, { evidence, vector, policyId }: Appraisal, clock: Clock): string {
  const now = Math.floor(clock.now() / 1000);
  const claims: JsonObject = {
    eat_profile: EAR_PROFILE,
    iat: now,
    exp: now + TOKEN_LIFETIME,
    iss: EAR_ISSUER,
    "ear.verifier-id": { developer: "https://confidentialcontainers.org", build: "sealpod" },
    submods: {
      cpu0: {
        "ear.status": statusOf(vector),
        "ear.trustworthiness-vector": Object.fromEntries(Object.entries(TRUST_CLAIMS).map(([name, claim]) => [claim, vector[name as keyof TrustVector]])),
        "ear.appraisal-policy-id": policyId,
        [EVIDENCE_CLAIM]: evidence,
      },
    },
  };
  const header: JsonObject = { alg: "ES256", typ: "JWT", kid: jwk["kid"] ?? null, jwk };
  const input = [header, claims].map((part) => toBase64url(encodeUtf8(encodeJson(part)))).join(".");
  if (input.length > MAX_EAR_TOKEN)
    throw new KbsError("ERR_KBS_TOO_LARGE", `the token would have ${input.length} characters, more than the limit of ${MAX_EAR_TOKEN}`, {
      hint: "Send smaller init data.",
    });
  return `${input}.${toBase64url(sign("sha256", encodeUtf8(input), { key, dsaEncoding: "ieee-p1363" }))}`;
}

/** A token that this key broker, or a replica of it, has signed and that is in its time. */
export interface VerifiedEar {
  readonly kind: "verified-ear";
  readonly claims: JsonObject;
  readonly evidence: JsonObject;
}

/**
 * Verifies a token: by the key given, whatever key the token itself names.
 * @throws {KbsError} ERR_KBS_TOKEN
 */
export async function verifyEar(token: string, { key }: EarKey, clock: Clock): Promise<VerifiedEar> {
  if (token.length > 2 * MAX_EAR_TOKEN) throw refused(`it has ${token.length} characters`);
  let claims: JsonObject | undefined;
  try {
    const [, payload = ""] = token.split(".");
    await compactVerify(token, createPublicKey(key), { algorithms: ["ES256"] });
    claims = asObject(parseJson(decodeUtf8(fromBase64url(payload)), "token"));
  } catch (cause) {
    throw refused(messageOf(cause), cause);
  }
  const { iss, eat_profile: profile, exp } = claims ?? {};
  const now = Math.floor(clock.now() / 1000);
  if (iss !== EAR_ISSUER || profile !== EAR_PROFILE) throw refused("it is no attestation token");
  if (typeof exp !== "number" || exp <= now) throw refused(typeof exp === "number" ? `it expired ${now - exp} seconds ago` : "it has no exp");
  const evidence = asObject(asObject(asObject(claims?.["submods"])?.["cpu0"])?.[EVIDENCE_CLAIM]);
  if (claims === undefined || evidence === undefined) throw refused("it has no annotated evidence");
  return { kind: "verified-ear", claims, evidence };
}

/** The guest's key in a token's evidence; resources are encrypted to it. */
export function teeKeyClaim({ evidence }: VerifiedEar): JsonValue | undefined {
  return asObject(evidence["runtime_data_claims"])?.["tee-pubkey"];
}

function refused(problem: string, cause?: unknown): KbsError {
  return new KbsError("ERR_KBS_TOKEN", `the attestation token is refused: ${problem}`, {
    cause,
    hint: "Attest again: POST /kbs/v0/auth, then /kbs/v0/attest.",
  });
}
