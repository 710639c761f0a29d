import { equalBytes, toHex } from "@sealpod/core";
import { encodeUvmEndorsement, type UvmTrust, type VerifiedUvmEndorsement, verifyUvmEndorsement } from "@sealpod/cose";
import { ImageError } from "./errors.ts";

/** Name of the endorsement in an image's directory. */
export const ENDORSEMENT_FILE = "endorsement.cose";

/** Largest endorsement that is read: with a chain of three certificates it has 3 to 8 KiB. */
export const MAX_ENDORSEMENT: number = 64 * 1024;

/** Who signs an endorsement, and what it says beside the measurement. */
export type EndorsementInput = Omit<Parameters<typeof encodeUvmEndorsement>[0], "launchMeasurement">;

/**
 * Signs that an image belongs to a product line (COSE_Sign1, specs/attestation.md 4.6).
 * @param measurement 48 bytes: for an emulated start `uvmMeasurement`; for SEV-SNP it also depends on firmware and processors
 * @throws {CoseError} ERR_COSE_KEY, ERR_COSE_PAYLOAD
 */
export function endorseUvm(measurement: Uint8Array, input: EndorsementInput): Uint8Array {
  return encodeUvmEndorsement({ ...input, launchMeasurement: measurement });
}

/**
 * Verifies that an endorsement is a trusted issuer's, and about this measurement.
 * @throws {CoseError} all codes
 * @throws {ImageError} ERR_IMAGE_MEASUREMENT
 */
export function verifyEndorsement(endorsement: Uint8Array, measurement: Uint8Array, trust: readonly UvmTrust[]): VerifiedUvmEndorsement {
  const verified = verifyUvmEndorsement(endorsement, trust);
  if (equalBytes(verified.launchMeasurement, measurement)) return verified;
  const [found, expected] = [toHex(verified.launchMeasurement), toHex(measurement)];
  throw new ImageError("ERR_IMAGE_MEASUREMENT", `the endorsement is about launch measurement ${found}, and the image has ${expected}`, {
    details: { found, expected },
    hint: "The image was built again after it was signed, or the endorsement is another image's.",
  });
}
