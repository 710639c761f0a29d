import { CompactSign } from "jose";
import { verifyUvmEndorsement, type UvmTrust } from "@sealpod/cose";
import { encodeJson, encodeUtf8, equalBytes, isSealpodError, isZero, messageOf, sha256, toHex, type Clock, type JsonObject, type Random } from "@sealpod/core";
import { HOST_VMPL, parseCertificateChainPem, verifyReport, type TrustRoot, type VerifiedReport } from "@sealpod/snp";
import type { AttestRequest, BoundData } from "./attest-request.ts";
import { DEFAULT_POLICY_HASH, reportClaims, sortClaims, TOKEN_LIFETIME } from "./claims.ts";
import { AttestationError } from "./errors.ts";
import type { AttestationStore } from "./store.ts";

/** What attestation rests on. */
export interface AttestationService {
  /** URL of this service and `iss` of its tokens, without trailing slash. */
  readonly issuer: string;
  readonly store: AttestationStore;
  readonly clock: Clock;
  readonly random: Random;
  /** The roots whose evidence is taken. Each token says in `x-sealpod-root` which one it rests on. */
  readonly roots: readonly TrustRoot[];
  /** Who may endorse a utility VM, and the value of `x-ms-compliance-status` that this earns. */
  readonly uvmTrust: readonly UvmTrust[];
  /** `x-ms-policy-hash`; {@link DEFAULT_POLICY_HASH} when absent. */
  readonly policyHash?: string;
}

/** What became of the endorsements: why a token has no compliance status is the first question about a refused release. */
export type EndorsementOutcome =
  | { readonly kind: "endorsed"; readonly claim: string; readonly svn: number }
  | { readonly kind: "none" }
  | { readonly kind: "refused"; readonly problem: string };

/** A token and how it came about. */
export interface Attestation {
  readonly token: string;
  readonly root: string;
  readonly endorsement: EndorsementOutcome;
}

/**
 * Verifies the evidence of a request and issues a token about it.
 * @throws {AttestationError} ERR_ATTESTATION_EVIDENCE with the failed check in `details.check`, ERR_ATTESTATION_RUNTIME_DATA, ERR_ATTESTATION_INIT_TIME_DATA
 */
export async function attest(service: AttestationService, request: AttestRequest): Promise<Attestation> {
  const verified = verifyEvidence(service, request);
  const { report } = verified;
  if (request.runtimeData !== undefined) checkRuntimeData(report.reportData, request.runtimeData);
  if (request.initTimeData !== undefined) checkInitTimeData(report.hostData, request.initTimeData);
  const endorsement = verifyEndorsements(service, request, report.measurement);

  const now = Math.floor(service.clock.now() / 1000);
  const claims = sortClaims({
    ...reportClaims(verified),
    exp: now + TOKEN_LIFETIME,
    iat: now,
    iss: service.issuer,
    jti: toHex(service.random.bytes(32)),
    nbf: now,
    nonce: request.nonce,
    "x-ms-compliance-status": endorsement.kind === "endorsed" ? endorsement.claim : undefined,
    "x-ms-inittime": request.initTimeData?.json,
    "x-ms-policy-hash": service.policyHash ?? DEFAULT_POLICY_HASH,
    "x-ms-runtime": request.runtimeData?.json,
    "x-ms-ver": "1.0",
    "x-sealpod-root": verified.root.name,
  });
  return { token: await signToken(service, claims), root: verified.root.name, endorsement };
}

function verifyEvidence(service: AttestationService, request: AttestRequest): VerifiedReport {
  let verified: VerifiedReport;
  try {
    const certificates = parseCertificateChainPem(request.certificates);
    verified = verifyReport({ report: request.report, certificates, roots: service.roots, clock: service.clock });
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw new AttestationError("ERR_ATTESTATION_EVIDENCE", `the evidence does not verify: ${cause.message}`, {
      cause,
      details: { check: cause.code },
      ...(cause.hint === undefined ? {} : { hint: cause.hint }),
    });
  }
  // A host can have a report made with REPORT_DATA of its own choice; a token about it would bind the host's key to the guest.
  if (verified.report.vmpl === HOST_VMPL) {
    throw new AttestationError("ERR_ATTESTATION_EVIDENCE", "the report was asked for by the host (VMPL 0xFFFFFFFF), expected by the guest", {
      details: { check: "vmpl" },
    });
  }
  return verified;
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

/** A failing endorsement costs the compliance status, not the token: the report is genuine all the same, and policies ask for the status. */
function verifyEndorsements(service: AttestationService, request: AttestRequest, measurement: Uint8Array): EndorsementOutcome {
  const problems: string[] = [];
  for (const bytes of request.endorsements) {
    try {
      const { launchMeasurement, claim, svn } = verifyUvmEndorsement(bytes, service.uvmTrust);
      if (equalBytes(launchMeasurement, measurement)) return { kind: "endorsed", claim, svn };
      problems.push(`it endorses the measurement ${toHex(launchMeasurement)}, the report has ${toHex(measurement)}`);
    } catch (error) {
      if (!isSealpodError(error)) throw error;
      problems.push(`${error.code}: ${messageOf(error)}`);
    }
  }
  return problems.length === 0 ? { kind: "none" } : { kind: "refused", problem: problems.join("; ") };
}

async function signToken(service: AttestationService, claims: JsonObject): Promise<string> {
  const [key] = service.store.signingKeys();
  const header = { alg: "RS256", jku: `${service.issuer}/certs`, kid: key.kid, typ: "JWT" };
  return new CompactSign(encodeUtf8(encodeJson(claims))).setProtectedHeader(header).sign(key.privateKey);
}
