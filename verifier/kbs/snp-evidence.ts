import { asArray, asObject, decodeUtf8, encodeJson, isSealpodError, messageOf, type JsonObject, type JsonValue } from "@sealpod/core";
import { parseCertificate, parseCertificatesPem, type Certificate } from "@sealpod/pki";
import {
  encodeReport,
  encodeTcb,
  parseReport,
  productOfProcessor,
  type FirmwareVersion,
  type KeyInfo,
  type ProductName,
  type Report,
  type ReportVersion,
} from "@sealpod/snp";
import { KbsError } from "./errors.ts";

/** Evidence of a guest as it was sent; nothing about it is verified. */
export interface SnpEvidence {
  /** 1184 bytes. */
  readonly bytes: Uint8Array;
  readonly report: Report;
  /** Those that came with the report: none, the VCEK alone, or the whole chain, in any order. */
  readonly certificates: readonly Certificate[];
}

/** A chain has three certificates; hosts send a revocation list or a certificate of their own beside them. */
const MAX_CERTIFICATES = 8;
/** The largest certificate of AMD's has some 1700 bytes. */
const MAX_CERTIFICATE = 8192;
const U64_MAX = (1n << 64n) - 1n;

/**
 * Reads the evidence of the `snp` attester: the fields of a report as the Rust crate `sev` renders them, put together to the bytes that the processor signed
 * (specs/attestation.md 9.1.4). Of a version 5 report the mitigation vectors are taken; TCB levels that the rendering does not have are zero.
 *
 * Fields that are not known are left out: the signature is over all bytes of a report, so nothing can hide in them.
 * @throws {KbsError} ERR_KBS_EVIDENCE with the JSON path
 */
export function parseSnpEvidence(value: JsonValue | undefined): SnpEvidence {
  const evidence = objectAt(value, "primary_evidence");
  const report = readReport(objectAt(evidence["attestation_report"], "attestation_report"));
  try {
    const bytes = encodeReport(report);
    return { bytes, report: parseReport(bytes), certificates: readCertificates(evidence["cert_chain"]) };
  } catch (cause) {
    if (cause instanceof KbsError || !isSealpodError(cause)) throw cause;
    throw new KbsError("ERR_KBS_EVIDENCE", `the evidence is malformed: ${cause.message}`, { cause, details: { check: cause.code } });
  }
}

function readReport(json: JsonObject): Report {
  const version = integer(json, "version", 0xffff_ffff);
  if (version !== 2 && version !== 3 && version !== 4 && version !== 5) throw malformed("attestation_report.version", version, "2, 3, 4 or 5");
  const algorithm = integer(json, "sig_algo", 0xffff_ffff);
  if (algorithm !== 1) throw malformed("attestation_report.sig_algo", algorithm, "1 (ECDSA P-384 with SHA-384)");
  const chipId = bytes(json, "chip_id", 64);
  const processor = readProcessor(json, version);
  // A processor that is not known, and version 2, which names none: the rendering itself says which layout it has. What does not fit is refused when it is verified.
  const product = processor === undefined ? undefined : productOfProcessor(processor);
  const tcb = (name: string): Uint8Array => readTcb(objectAt(json[name], `attestation_report.${name}`), name, product);
  return {
    version,
    guestSvn: integer(json, "guest_svn", 0xffff_ffff),
    policy: wide(json, "policy"),
    familyId: bytes(json, "family_id", 16),
    imageId: bytes(json, "image_id", 16),
    vmpl: integer(json, "vmpl", 0xffff_ffff),
    currentTcb: tcb("current_tcb"),
    platformInfo: wide(json, "plat_info"),
    keyInfo: readKeyInfo(json),
    reportData: bytes(json, "report_data", 64),
    measurement: bytes(json, "measurement", 48),
    hostData: bytes(json, "host_data", 32),
    idKeyDigest: bytes(json, "id_key_digest", 48),
    authorKeyDigest: bytes(json, "author_key_digest", 48),
    reportId: bytes(json, "report_id", 32),
    reportIdMa: bytes(json, "report_id_ma", 32),
    reportedTcb: tcb("reported_tcb"),
    processor,
    chipId,
    committedTcb: tcb("committed_tcb"),
    currentFirmware: readFirmware(json, "current"),
    committedFirmware: readFirmware(json, "committed"),
    launchTcb: tcb("launch_tcb"),
    launchMitigations: absent(json["launch_mit_vector"]) ? 0n : wide(json, "launch_mit_vector"),
    currentMitigations: absent(json["current_mit_vector"]) ? 0n : wide(json, "current_mit_vector"),
    signature: readSignature(objectAt(json["signature"], "attestation_report.signature")),
  };
}

function readProcessor(json: JsonObject, version: ReportVersion): Report["processor"] {
  if (version !== 2)
    return { family: integer(json, "cpuid_fam_id", 255), model: integer(json, "cpuid_mod_id", 255), stepping: integer(json, "cpuid_step", 255) };
  // What version 2 has in the place of these is reserved, and zero.
  for (const name of ["cpuid_fam_id", "cpuid_mod_id", "cpuid_step"]) {
    const value = json[name];
    if (!absent(value) && value !== 0) throw malformed(`attestation_report.${name}`, value, "null in a report of version 2");
  }
  return undefined;
}

/** `{fmc, bootloader, tee, snp, microcode}`; `fmc` is null before Turin. */
function readTcb(json: JsonObject, name: string, product: ProductName | undefined): Uint8Array {
  const level = (component: string): number => integer(json, component, 255, `attestation_report.${name}`);
  const fmc = json["fmc"];
  const turin = product === undefined ? !absent(fmc) : product === "Turin";
  if (turin === absent(fmc)) throw malformed(`attestation_report.${name}.fmc`, fmc, turin ? "a level, which Turin has" : `null, because ${product} has none`);
  const tcb = {
    fmc: turin ? level("fmc") : undefined,
    bootloader: level("bootloader"),
    tee: level("tee"),
    snp: level("snp"),
    microcode: level("microcode"),
    reserved: turin ? [0, 0, 0] : [0, 0, 0, 0],
  };
  return encodeTcb(tcb, turin ? "Turin" : "Milan");
}

/** `key_info`, or `author_key_en` of releases of the crate that knew no other bit. */
function readKeyInfo(json: JsonObject): KeyInfo {
  const raw = integer(json, absent(json["key_info"]) ? "author_key_en" : "key_info", 0xffff_ffff);
  const signing = (raw >>> 2) & 7;
  const signingKey = signing === 0 ? "vcek" : signing === 1 ? "vlek" : signing === 7 ? "none" : undefined;
  if (raw > 31 || signingKey === undefined) throw malformed("attestation_report.key_info", raw, "bits 0 to 4, and in bits 4:2 the number 0, 1 or 7");
  return { authorKeyEnabled: (raw & 1) !== 0, chipKeyMasked: (raw & 2) !== 0, signingKey };
}

function readFirmware(json: JsonObject, name: string): FirmwareVersion {
  const path = `attestation_report.${name}`;
  const version = objectAt(json[name], path);
  return { major: integer(version, "major", 255, path), minor: integer(version, "minor", 255, path), build: integer(version, "build", 255, path) };
}

function readSignature(json: JsonObject): Report["signature"] {
  const number = (name: string): bigint =>
    BigInt(
      `0x${Buffer.from(bytes(json, name, 72, "attestation_report.signature"))
        .reverse()
        .toString("hex")}`,
    );
  return { r: number("r"), s: number("s") };
}

/** `[{cert_type, data}]` in DER or PEM; types that are not of a chain (`CRL`, `Empty`, `{"OTHER": …}`) are left out. */
function readCertificates(value: JsonValue | undefined): readonly Certificate[] {
  if (absent(value)) return [];
  const list = asArray(value);
  if (list === undefined || list.length > MAX_CERTIFICATES) throw malformed("cert_chain", value, `null or a list of at most ${MAX_CERTIFICATES}`);
  return list.flatMap((item, index) => {
    const entry = objectAt(item, `cert_chain[${index}]`);
    const type = entry["cert_type"];
    if (typeof type !== "string" || !["ARK", "ASK", "ASVK", "VCEK", "VLEK"].includes(type)) return [];
    const data = readBytes(entry["data"], `cert_chain[${index}].data`, (length) => length > 0 && length <= MAX_CERTIFICATE, `1 to ${MAX_CERTIFICATE} numbers`);
    // DER begins with a SEQUENCE, 0x30; PEM with "-".
    return data[0] === 0x30 ? [parseCertificate(data, `cert_chain[${index}]`)] : parseCertificatesPem(decodeUtf8(data), `cert_chain[${index}]`);
  });
}

function bytes(json: JsonObject, name: string, length: number, parent = "attestation_report"): Uint8Array {
  return readBytes(json[name], `${parent}.${name}`, (found) => found === length, `a list of ${length} numbers from 0 to 255`);
}

function readBytes(value: JsonValue | undefined, path: string, fits: (length: number) => boolean, expected: string): Uint8Array {
  const list = asArray(value);
  if (list === undefined || !fits(list.length)) throw malformed(path, value, expected);
  const out = new Uint8Array(list.length);
  list.forEach((item, index) => {
    if (typeof item !== "number" || !Number.isInteger(item) || item < 0 || item > 255) throw malformed(`${path}[${index}]`, item, "a number from 0 to 255");
    out[index] = item;
  });
  return out;
}

function integer(json: JsonObject, name: string, most: number, parent = "attestation_report"): number {
  const value = json[name];
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw malformed(`${parent}.${name}`, value, `an integer from 0 to ${most}`);
}

function wide(json: JsonObject, name: string): bigint {
  const value = json[name];
  if (typeof value === "bigint" || (typeof value === "number" && Number.isInteger(value))) {
    const number = BigInt(value);
    if (number >= 0n && number <= U64_MAX) return number;
  }
  throw malformed(`attestation_report.${name}`, value, "an integer of 64 bits");
}

function absent(value: JsonValue | undefined): value is null | undefined {
  return value === undefined || value === null;
}

function objectAt(value: JsonValue | undefined, path: string): JsonObject {
  const object = asObject(value);
  if (object === undefined) throw malformed(path, value, "an object");
  return object;
}

function malformed(path: string, value: JsonValue | undefined, expected: string): KbsError {
  const array = asArray(value);
  const found =
    value === undefined
      ? "nothing"
      : array !== undefined
        ? `a list of ${array.length}`
        : asObject(value) !== undefined
          ? "an object"
          : encodeJson(value).slice(0, 60);
  return new KbsError("ERR_KBS_EVIDENCE", `the evidence is malformed: ${path} is ${found}, expected ${expected}`, { details: { check: "structure" } });
}

/** For what goes wrong below this package. */
export function evidenceError(what: string, cause: unknown): KbsError {
  return new KbsError("ERR_KBS_EVIDENCE", `${what}: ${messageOf(cause)}`, {
    cause,
    ...(isSealpodError(cause) ? { details: { check: cause.code }, ...(cause.hint === undefined ? {} : { hint: cause.hint }) } : {}),
  });
}
