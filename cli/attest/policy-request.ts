import { EndorsementVerifier, parseAttestRequest, reportClaims } from "@sealpod/attestation";
import { MICROSOFT_UVM_TRUST } from "@sealpod/cose";
import { equalBytes, type JsonObject, type JsonValue } from "@sealpod/core";
import { keyAnchor, nameAttribute, OID, parseCertificatesPem, type Certificate } from "@sealpod/pki";
import { AMD_ROOTS, parseEndorsementKey, parseReport, parseTcb, selectCertificateChain, type TrustRoot, type VerifiedReport } from "@sealpod/snp";

/** What a policy would be evaluated over, and what is to know about it. */
export interface RequestClaims {
  readonly claims: JsonObject;
  readonly notes: readonly string[];
}

/**
 * The claims that the attestation service makes of a SevSnpVm request before it asks its policy, if the evidence verifies: that is not looked at.
 * @param text body of POST /attest/SevSnpVm
 * @throws {AttestationError} ERR_ATTESTATION_REQUEST; and the errors of certificates and reports that cannot be read
 */
export function claimsOfRequest(text: string): RequestClaims {
  const request = parseAttestRequest(text);
  const report = parseReport(request.report);
  const chain = selectCertificateChain(parseCertificatesPem(request.certificates, "report.VcekCertChain"));
  const endorsementKey = parseEndorsementKey(chain.endorsementKey);
  const { product } = endorsementKey;
  const tcb = {
    reported: parseTcb(report.reportedTcb, product),
    current: parseTcb(report.currentTcb, product),
    committed: parseTcb(report.committedTcb, product),
    launch: parseTcb(report.launchTcb, product),
  };
  const { sha256: keySha256 } = keyAnchor(chain.root);
  const name = rootName(chain.root, keySha256);
  const root: TrustRoot = { name: name ?? "", product, keySha256 };
  // By its type it is verified. It goes no further than to the function that names its fields.
  const unverified: VerifiedReport = { kind: "verified-report", report, product, root, endorsementKey, tcb };
  const endorsement = new EndorsementVerifier(MICROSOFT_UVM_TRUST).verify(request.endorsements, report.measurement);

  const claims: Readonly<Record<string, JsonValue | undefined>> = {
    ...reportClaims(unverified),
    "x-ms-compliance-status": endorsement.kind === "endorsed" ? endorsement.claim : undefined,
    "x-ms-inittime": request.initTimeData?.json,
    "x-ms-runtime": request.runtimeData?.json,
    "x-ms-ver": "1.0",
    "x-sealpod-root": name,
  };
  const notes = ["nothing in the request is verified: the service refuses evidence that does not verify whatever its policy says"];
  if (endorsement.kind === "refused")
    notes.push(`x-ms-compliance-status is left out: the request's endorsement is not Microsoft's; a service that trusts its issuer sets the claim`);
  if (name === undefined) notes.push("x-sealpod-root is left out: the root is not AMD's, and a service calls it as it is configured");
  return {
    claims: Object.fromEntries(Object.entries(claims).filter((entry): entry is [string, JsonValue] => entry[1] !== undefined)),
    notes,
  };
}

/** What a service calls a root that its key, or for the emulator its name, says it is. */
function rootName({ subject }: Certificate, keySha256: Uint8Array): string | undefined {
  const known = AMD_ROOTS.find((root) => equalBytes(root.keySha256, keySha256));
  if (known !== undefined) return known.name;
  return /emulat/i.test(nameAttribute(subject, OID.commonName) ?? "") ? "emulator" : undefined;
}
