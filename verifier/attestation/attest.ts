import type { UvmTrust } from "@sealpod/cose";
import { equalBytes, isSealpodError, isZero, sha256, toHex, type JsonObject } from "@sealpod/core";
import type { Certificate } from "@sealpod/pki";
import {
  CertificateCache,
  HOST_VMPL,
  parseEndorsementKey,
  signingKeyOf,
  parseGuestPolicy,
  validateReport,
  verifyReport,
  type ProductName,
  type ReportPolicy,
  type ReportRevocation,
  type TrustRoot,
  type VerifiedReport,
} from "@sealpod/snp";
import type { AttestRequest, BoundData } from "./attest-request.ts";
import { MAX_ATTESTATION_TOKEN, reportClaims } from "./claims.ts";
import { EndorsementVerifier, type EndorsementOutcome } from "./endorsements.ts";
import { AttestationError } from "./errors.ts";
import { parseRequestToken } from "./jws.ts";
import { policyTextOf } from "./management.ts";
import { parsePolicy, policyHash } from "./policy/index.ts";
import type { ActivePolicy, PolicyBook } from "./policy-book.ts";
import { applyPolicy } from "./policy-claims.ts";
import { completeClaims, signToken, unsignedToken, type TokenIssuer } from "./token.ts";

/** Where revoked certificates are looked up. */
export interface RevocationOptions {
  /** The lists of a product that are at hand; asked for at each request, so a list that was fetched meanwhile counts at once. */
  crls(product: ProductName): ReportRevocation["crls"];
  /** What an intermediate certificate comes to if there is no list of its issuer for its hierarchy (VCEK or VLEK). */
  readonly missing: "accept" | "refuse";
  /** Is told the root's certificate after each report that verified, for whoever keeps lists to verify them by. */
  learnRoot?(product: ProductName, root: Certificate): void;
}

/** What attestation rests on. */
export interface AttestationService extends TokenIssuer {
  /** The roots whose evidence is taken. Each token says in `x-sealpod-root` which one it rests on. */
  readonly roots: readonly TrustRoot[];
  /** Who may endorse a utility VM, and the value of `x-ms-compliance-status` that this earns. */
  readonly uvmTrust: readonly UvmTrust[];
  /** `x-ms-policy-hash` under the default policy; the constant of the genuine service when absent. */
  readonly defaultPolicyHash?: string;
  /** Without it no certificate counts as revoked. */
  readonly revocation?: RevocationOptions;
  /** What a genuine report must be like to get a token at all, e.g. a minimum TCB; without it any is taken, and relying parties judge the claims. */
  readonly reportPolicy?: ReportPolicy;
}

/** A token and how it came about. */
export interface Attestation {
  readonly token: string;
  readonly root: string;
  readonly endorsement: EndorsementOutcome;
  /** The token tries a draft policy, and nobody signed it. */
  readonly draft: boolean;
}

/** Chains that are in use at one time: one per processor and TCB of a fleet's part. Each takes some 10 KiB. */
const CERTIFICATE_CACHE_SIZE = 1024;

/** Turns requests into tokens. What it remembers between requests (certificates, endorsements) it has verified itself, and it checks dates and revocation each time. */
export class Attester {
  readonly #service: AttestationService;
  readonly #policies: PolicyBook;
  readonly #endorsements: EndorsementVerifier;
  readonly #cache = new CertificateCache({ capacity: CERTIFICATE_CACHE_SIZE });

  constructor(service: AttestationService, policies: PolicyBook) {
    this.#service = service;
    this.#policies = policies;
    this.#endorsements = new EndorsementVerifier(service.uvmTrust);
  }

  /**
   * Verifies the evidence of a request, evaluates the policy over its claims, and issues a token about it.
   *
   * With a draft policy in the request that one is evaluated in place of the stored one, and the token is not signed (`alg` `none`), as the genuine service does it:
   * the caller wrote the policy, so a signature under the service's name would vouch for claims of the caller's invention.
   * @throws {AttestationError} ERR_ATTESTATION_EVIDENCE with the failed check in `details.check`, ERR_ATTESTATION_RUNTIME_DATA, ERR_ATTESTATION_INIT_TIME_DATA,
   * ERR_ATTESTATION_REPORT_POLICY, ERR_ATTESTATION_POLICY_DENIED, ERR_ATTESTATION_POLICY_EVALUATION, ERR_ATTESTATION_POLICY_LIMIT; for a draft also
   * ERR_ATTESTATION_POLICY_SYNTAX and ERR_ATTESTATION_JWS; ERR_ATTESTATION_REQUEST if the token would be too long for its readers
   */
  attest(request: AttestRequest): Attestation {
    const verified = this.#verifyEvidence(request);
    const { report } = verified;
    if (request.runtimeData !== undefined) checkRuntimeData(report.reportData, request.runtimeData);
    if (request.initTimeData !== undefined) checkInitTimeData(report.hostData, request.initTimeData);
    this.#checkReportPolicy(verified);
    const endorsement = judgeGuest(report.policy, this.#endorsements.verify(request.endorsements, report.measurement));

    // Only now: to read and evaluate a policy of a stranger's making is more work than most, and not for those without genuine evidence.
    const draft = request.draftPolicy === undefined ? undefined : parseDraft(request.draftPolicy);
    const { policy, hash, signer } = draft ?? this.#policies.get("SevSnpVm");
    const evidence: JsonObject = {
      ...reportClaims(verified),
      ...(endorsement.kind === "endorsed" && { "x-ms-compliance-status": endorsement.claim }),
      ...(request.initTimeData?.json !== undefined && { "x-ms-inittime": request.initTimeData.json }),
      ...(request.runtimeData?.json !== undefined && { "x-ms-runtime": request.runtimeData.json }),
      "x-ms-ver": "1.0",
      "x-sealpod-root": verified.root.name,
    };
    const { issued, lifetime } = applyPolicy(policy, evidence);
    const claims = completeClaims(
      this.#service,
      { ...issued, ...evidence, nonce: request.nonce, "x-ms-policy-hash": hash, "x-ms-policy-signer": signer === undefined ? undefined : { jwk: signer } },
      lifetime,
    );
    const token = draft === undefined ? signToken(this.#service, claims) : unsignedToken(claims);
    if (token.length > MAX_ATTESTATION_TOKEN) throw tooLong(token, request);
    return { token, root: verified.root.name, endorsement, draft: draft !== undefined };
  }

  /** The minimum TCB of each product that this service asks for: what GET /tcbbaselines/SevSnpVm answers. */
  tcbBaselines(): readonly JsonObject[] {
    const minimum = this.#service.reportPolicy?.minimumTcb ?? "any";
    if (minimum === "any") return [];
    return Object.entries(minimum).map(([product, levels]) => ({ product, minimumTcb: { ...levels } as JsonObject }));
  }

  #verifyEvidence(request: AttestRequest): VerifiedReport {
    const { roots, clock, revocation } = this.#service;
    const verified = refusing("ERR_ATTESTATION_EVIDENCE", "the evidence does not verify", () => {
      const certificates = this.#cache.parsePem(request.certificates, signingKeyOf(request.report));
      const evidence = { report: request.report, certificates, roots, clock, cache: this.#cache };
      if (revocation === undefined) return verifyReport(evidence);
      const { product } = parseEndorsementKey(certificates.endorsementKey);
      const judged = verifyReport({ ...evidence, revocation: { crls: revocation.crls(product), missing: revocation.missing } });
      revocation.learnRoot?.(judged.product, certificates.root);
      return judged;
    });
    // A host can have a report made with REPORT_DATA of its own choice; a token about it would bind the host's key to the guest.
    if (verified.report.vmpl === HOST_VMPL) {
      throw new AttestationError("ERR_ATTESTATION_EVIDENCE", "the report was asked for by the host (VMPL 0xFFFFFFFF), expected by the guest", {
        details: { check: "vmpl" },
      });
    }
    return verified;
  }

  #checkReportPolicy(verified: VerifiedReport): void {
    const { reportPolicy } = this.#service;
    if (reportPolicy !== undefined)
      refusing("ERR_ATTESTATION_REPORT_POLICY", "the evidence is genuine and not accepted here", () => validateReport(verified, reportPolicy));
  }
}

/**
 * The status says what booted. Whether it is still that is up to the host if the guest lets itself be debugged, or handed to a migration agent: then the host, or
 * whoever it hands the guest to, may read and write its memory.
 */
function judgeGuest(guestPolicy: bigint, endorsement: EndorsementOutcome): EndorsementOutcome {
  if (endorsement.kind !== "endorsed") return endorsement;
  const { debugAllowed, migrationAgentAllowed } = parseGuestPolicy(guestPolicy);
  const allowed = [debugAllowed ? "debugging" : undefined, migrationAgentAllowed ? "migration" : undefined].filter((item) => item !== undefined);
  if (allowed.length === 0) return endorsement;
  return { kind: "refused", problem: `the guest's policy allows ${allowed.join(" and ")}: the host may read and change what runs in it, whatever has booted` };
}

/** A token that its readers refuse is of no use, and a large answer to a small request is of use to the wrong people. */
function tooLong(token: string, { runtimeData, initTimeData }: AttestRequest): AttestationError {
  const bytes = (runtimeData?.bytes.length ?? 0) + (initTimeData?.bytes.length ?? 0);
  return new AttestationError(
    "ERR_ATTESTATION_REQUEST",
    `the token would have ${token.length} characters, more than the limit of ${MAX_ATTESTATION_TOKEN}; runtimeData and initTimeData have ${bytes} bytes`,
    { details: { limit: MAX_ATTESTATION_TOKEN }, hint: "Send less runtime data, or have the policy issue less." },
  );
}

/** A draft is written like the policies of PUT; whether it is signed makes no difference, because its token is not. */
function parseDraft(token: string): ActivePolicy {
  const text = policyTextOf(parseRequestToken(token).payload);
  return { token, text, policy: parsePolicy(text), hash: policyHash(text), signer: undefined };
}

/** Errors of the packages below become refusals that name the check. */
function refusing<T>(code: "ERR_ATTESTATION_EVIDENCE" | "ERR_ATTESTATION_REPORT_POLICY", what: string, check: () => T): T {
  try {
    return check();
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    const { check: name } = cause.details;
    throw new AttestationError(code, `${what}: ${cause.message}`, {
      cause,
      details: { check: code === "ERR_ATTESTATION_REPORT_POLICY" && typeof name === "string" ? name : cause.code },
      ...(cause.hint === undefined ? {} : { hint: cause.hint }),
    });
  }
}

/** REPORT_DATA is SHA-256 of the runtime data and 32 zero bytes: the guest's word that these data are its own. */
function checkRuntimeData(reportData: Uint8Array, { bytes }: BoundData): void {
  const digest = sha256(bytes);
  if (equalBytes(digest, reportData.subarray(0, 32)) && isZero(reportData.subarray(32))) return;
  throw new AttestationError(
    "ERR_ATTESTATION_RUNTIME_DATA",
    `runtimeData does not match the report: SHA-256 of its ${bytes.length} bytes is ${toHex(digest)}, REPORT_DATA is ${toHex(reportData)}, expected the hash and 32 zero bytes`,
  );
}

/** HOST_DATA is SHA-256 of the init-time data: what the host fixed at launch. */
function checkInitTimeData(hostData: Uint8Array, { bytes }: BoundData): void {
  const digest = sha256(bytes);
  if (equalBytes(digest, hostData)) return;
  throw new AttestationError(
    "ERR_ATTESTATION_INIT_TIME_DATA",
    `initTimeData does not match the report: SHA-256 of its ${bytes.length} bytes is ${toHex(digest)}, HOST_DATA is ${toHex(hostData)}`,
  );
}
