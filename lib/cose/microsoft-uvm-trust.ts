import type { UvmTrust } from "./uvm-endorsement.ts";

/**
 * "Microsoft Supply Chain RSA Root CA 2022", by the SHA-256 of its certificate in base64url. It is the third certificate of the x5chain of each of the four
 * published ContainerPlat-AMD-UVM endorsements that are at hand (of 2023 to 2025, from microsoft/confidential-sidecar-containers, azure-cleanroom and
 * azure-privacy-sandbox-kms), and stands in their `iss`; the test computes it from them.
 */
const MICROSOFT_ROOT = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s";

/**
 * The utility VMs of Microsoft's that Azure Attestation says something about, and what it says (specs/attestation.md section 4.6):
 * - confidential container instances (ACI): signed under the purpose 1.3.6.1.4.1.311.76.59.1.2, leaf "ContainerPlat" of "Microsoft SCD Products RSA CA".
 *   100 is the minimum of Microsoft's own verifier in CCF; a genuine 22 (of 2023) is below it, and so are older machines.
 * - confidential pods of AKS (Kata): signed under 1.3.6.1.4.1.311.76.59.1.5, leaf "AKSKataConfUvm" of "Microsoft SCD Systems RSA CA"; CCF's minimum is 1.
 *   No such statement is published as a file: issuer, feed and claim are from CCF's sources and from AKS's `setup-key.sh`.
 * Each issuer is trusted for its own feed alone: the two purposes have the same root.
 */
export const MICROSOFT_UVM_TRUST: readonly UvmTrust[] = [
  {
    issuer: `${MICROSOFT_ROOT}::eku:1.3.6.1.4.1.311.76.59.1.2`,
    feed: "ContainerPlat-AMD-UVM",
    minimumSvn: 100,
    claim: "azure-compliant-uvm",
  },
  {
    issuer: `${MICROSOFT_ROOT}::eku:1.3.6.1.4.1.311.76.59.1.5`,
    feed: "ConfAKS-AMD-UVM",
    minimumSvn: 1,
    claim: "azure-signed-katacc-uvm",
  },
];
