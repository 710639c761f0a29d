import { type KeyObject, sign } from "node:crypto";
import { encodeReport, type Report, signedPart } from "../abi/report.ts";
import { SnpError } from "../errors.ts";

/**
 * Signs a report as the security processor does: ECDSA P-384 with SHA-384 over the bytes before the signature, R and S little endian.
 * For the emulated security processor and for tests; on hardware the key never leaves the chip.
 * @param key a P-384 private key
 * @returns 1184 bytes
 * @throws {SnpError} ERR_SNP_FIELD for a key of another kind, and as `encodeReport`
 */
export function signReport(report: Omit<Report, "signature">, key: KeyObject): Uint8Array {
  const { asymmetricKeyDetails: details, type } = key;
  if (type !== "private" || details?.namedCurve !== "secp384r1") {
    throw new SnpError(
      "ERR_SNP_FIELD",
      `a report is signed with a private key on P-384, found a ${type} key of ${key.asymmetricKeyType} ${details?.namedCurve ?? ""}`,
    );
  }
  const unsigned = encodeReport({ ...report, signature: { r: 0n, s: 0n } });
  const signature = sign("sha384", signedPart(unsigned), { key, dsaEncoding: "ieee-p1363" }).toString("hex");
  return encodeReport({ ...report, signature: { r: BigInt(`0x${signature.slice(0, 96)}`), s: BigInt(`0x${signature.slice(96)}`) } });
}
