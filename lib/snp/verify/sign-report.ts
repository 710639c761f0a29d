import { type KeyObject, sign } from "node:crypto";
import { encodeReport, type Report, signedPart } from "../abi/report.ts";

/**
 * Signs a report as the security processor does: ECDSA P-384 with SHA-384 over the bytes before the signature, R and S little endian.
 * For the emulated security processor and for tests; on hardware the key never leaves the chip.
 * @param key a P-384 private key
 * @returns 1184 bytes
 */
export function signReport(report: Omit<Report, "signature">, key: KeyObject): Uint8Array {
  const unsigned = encodeReport({ ...report, signature: { r: 0n, s: 0n } });
  const signature = sign("sha384", signedPart(unsigned), { key, dsaEncoding: "ieee-p1363" }).toString("hex");
  return encodeReport({ ...report, signature: { r: BigInt(`0x${signature.slice(0, 96)}`), s: BigInt(`0x${signature.slice(96)}`) } });
}
