import { AttestationError } from "./errors.ts";

/** Kinds of evidence that the genuine service knows, in its spelling. Each has a policy of its own. */
export const ATTESTATION_TYPES = ["SevSnpVm", "SgxEnclave", "OpenEnclave", "TdxVm", "Tpm", "AzureGuest"] as const;

/** One of {@link ATTESTATION_TYPES}. */
export type AttestationType = (typeof ATTESTATION_TYPES)[number];

/**
 * The type of a path segment, in any letter case.
 * @throws {AttestationError} ERR_ATTESTATION_REQUEST
 */
export function parseAttestationType(text: string): AttestationType {
  const type = ATTESTATION_TYPES.find((name) => name.toLowerCase() === text.toLowerCase());
  if (type !== undefined) return type;
  throw new AttestationError(
    "ERR_ATTESTATION_REQUEST",
    `${JSON.stringify(text.slice(0, 60))} is no attestation type, expected ${ATTESTATION_TYPES.join(", ")}`,
  );
}
