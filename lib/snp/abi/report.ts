import { ByteReader, ByteWriter, isZero, toHex } from "@sealpod/core";
import { SnpError } from "../errors.ts";

/** Size of an attestation report in bytes (AMD 56860, table ATTESTATION_REPORT). */
export const REPORT_SIZE = 1184;

/** The signature covers the bytes before this offset. */
export const SIGNATURE_OFFSET = 0x2a0;

/** Size of REPORT_DATA, which the guest chooses, in bytes. */
export const REPORT_DATA_SIZE = 64;

/** Size of HOST_DATA, which the host fixes at launch, in bytes. */
export const HOST_DATA_SIZE = 32;

/** Size of a launch measurement in bytes: SHA-384. */
export const MEASUREMENT_SIZE = 48;

/** VMPL of a report that the host asked for, not the guest. */
export const HOST_VMPL = 0xffff_ffff;

/** Versions of the report: 2 (first Milan and Genoa firmware), 3 (adds CPUID), 4 (laid out as 3), 5 (adds mitigation vectors). */
export type ReportVersion = 2 | 3 | 4 | 5;

/** Which key signed the report. */
export type SigningKey = "vcek" | "vlek" | "none";

/** KEY_INFO of a report. */
export interface KeyInfo {
  /** An author key signed the ID key. */
  readonly authorKeyEnabled: boolean;
  /** The host masked the chip's key: reports are not signed. */
  readonly chipKeyMasked: boolean;
  readonly signingKey: SigningKey;
}

/** Combined family, combined model and stepping of the processor, from version 3 on. */
export interface ProcessorId {
  readonly family: number;
  readonly model: number;
  readonly stepping: number;
}

/** Version of the SNP firmware. */
export interface FirmwareVersion {
  readonly major: number;
  readonly minor: number;
  readonly build: number;
}

/**
 * An attestation report, field by field, without loss: {@link encodeReport} of it gives the same bytes. Nothing about it was verified.
 * TCB versions stay 8 raw bytes, because their layout depends on the product (`parseTcb`).
 */
export interface Report {
  readonly version: ReportVersion;
  readonly guestSvn: number;
  /** POLICY of the guest, raw; see `parseGuestPolicy`. */
  readonly policy: bigint;
  /** 16 bytes. */
  readonly familyId: Uint8Array;
  /** 16 bytes. */
  readonly imageId: Uint8Array;
  /** 0 to 3, or {@link HOST_VMPL}. */
  readonly vmpl: number;
  /** 8 bytes. */
  readonly currentTcb: Uint8Array;
  /** PLATFORM_INFO, raw: bits are added with each firmware, so unknown ones are no error. */
  readonly platformInfo: bigint;
  readonly keyInfo: KeyInfo;
  /** 64 bytes. */
  readonly reportData: Uint8Array;
  /** 48 bytes. */
  readonly measurement: Uint8Array;
  /** 32 bytes. */
  readonly hostData: Uint8Array;
  /** 48 bytes. */
  readonly idKeyDigest: Uint8Array;
  /** 48 bytes. */
  readonly authorKeyDigest: Uint8Array;
  /** 32 bytes. */
  readonly reportId: Uint8Array;
  /** 32 bytes; all FF without a migration agent. */
  readonly reportIdMa: Uint8Array;
  /** 8 bytes. The VCEK is derived for this TCB. */
  readonly reportedTcb: Uint8Array;
  /** Undefined in version 2. */
  readonly processor: ProcessorId | undefined;
  /** 64 bytes; from Turin on 8 significant ones; all zero if the host masks it. */
  readonly chipId: Uint8Array;
  /** 8 bytes. */
  readonly committedTcb: Uint8Array;
  readonly currentFirmware: FirmwareVersion;
  readonly committedFirmware: FirmwareVersion;
  /** 8 bytes. */
  readonly launchTcb: Uint8Array;
  /** Version 5; otherwise 0. */
  readonly launchMitigations: bigint;
  /** Version 5; otherwise 0. */
  readonly currentMitigations: bigint;
  /** R and S of the ECDSA signature as numbers, below 2^576. */
  readonly signature: { readonly r: bigint; readonly s: bigint };
}

const SIGNING_KEYS: readonly { readonly bits: number; readonly key: SigningKey }[] = [
  { bits: 0, key: "vcek" },
  { bits: 1, key: "vlek" },
  { bits: 7, key: "none" },
];

/** Bits of POLICY that are defined (25:0). A guest policy with others may allow what we cannot judge. */
const POLICY_DEFINED = (1n << 26n) - 1n;
const POLICY_MUST_BE_ONE = 1n << 17n;
const ECDSA_P384_SHA384 = 1;
const SIGNATURE_NUMBER_SIZE = 72;
const SIGNATURE_RESERVED = 368;

/**
 * Reads a report: exact length, known version and algorithm, every reserved bit accounted for.
 * @param bytes 1184 bytes
 * @throws {SnpError} ERR_SNP_LENGTH, ERR_SNP_VERSION, ERR_SNP_ALGORITHM, ERR_SNP_RESERVED, ERR_SNP_FIELD
 */
export function parseReport(bytes: Uint8Array): Report {
  if (bytes.length !== REPORT_SIZE) {
    throw new SnpError("ERR_SNP_LENGTH", `report: found ${bytes.length} bytes, expected ${REPORT_SIZE}`, {
      details: { found: bytes.length, expected: REPORT_SIZE },
    });
  }
  // A copy: the caller may change its buffer between our check and our use.
  const reader = new ByteReader(Uint8Array.from(bytes), "report");
  const version = reader.u32le();
  if (version !== 2 && version !== 3 && version !== 4 && version !== 5) {
    throw new SnpError("ERR_SNP_VERSION", `report: found version ${version}, expected 2, 3, 4 or 5`, { details: { found: version } });
  }
  const guestSvn = reader.u32le();
  const policy = reader.u64le();
  if ((policy & ~POLICY_DEFINED) !== 0n || (policy & POLICY_MUST_BE_ONE) === 0n) {
    throw new SnpError("ERR_SNP_RESERVED", `report: POLICY 0x${policy.toString(16)} has bit 17 clear or a bit above 25 set`, { details: { offset: 0x008 } });
  }
  const familyId = reader.bytes(16);
  const imageId = reader.bytes(16);
  const vmpl = reader.u32le();
  if (vmpl > 3 && vmpl !== HOST_VMPL) throw new SnpError("ERR_SNP_FIELD", `report: VMPL ${vmpl} at offset 0x30, expected 0 to 3`, { details: { found: vmpl } });
  const algorithm = reader.u32le();
  if (algorithm !== ECDSA_P384_SHA384) {
    throw new SnpError("ERR_SNP_ALGORITHM", `report: SIGNATURE_ALGO ${algorithm} at offset 0x34, expected 1 (ECDSA P-384 with SHA-384)`);
  }
  const currentTcb = reader.bytes(8);
  const platformInfo = reader.u64le();
  const keyInfo = parseKeyInfo(reader.u32le());
  reserved(reader, 4);
  const reportData = reader.bytes(REPORT_DATA_SIZE);
  const measurement = reader.bytes(MEASUREMENT_SIZE);
  const hostData = reader.bytes(HOST_DATA_SIZE);
  const idKeyDigest = reader.bytes(48);
  const authorKeyDigest = reader.bytes(48);
  const reportId = reader.bytes(32);
  const reportIdMa = reader.bytes(32);
  const reportedTcb = reader.bytes(8);
  const processor = version === 2 ? undefined : { family: reader.u8(), model: reader.u8(), stepping: reader.u8() };
  reserved(reader, version === 2 ? 24 : 21);
  const chipId = reader.bytes(64);
  const committedTcb = reader.bytes(8);
  const currentFirmware = readFirmware(reader);
  const committedFirmware = readFirmware(reader);
  const launchTcb = reader.bytes(8);
  const launchMitigations = version === 5 ? reader.u64le() : 0n;
  const currentMitigations = version === 5 ? reader.u64le() : 0n;
  reserved(reader, version === 5 ? 152 : 168);
  const r = readNumber(reader);
  const s = readNumber(reader);
  reserved(reader, SIGNATURE_RESERVED);
  reader.end();
  return {
    version,
    guestSvn,
    policy,
    familyId,
    imageId,
    vmpl,
    currentTcb,
    platformInfo,
    keyInfo,
    reportData,
    measurement,
    hostData,
    idKeyDigest,
    authorKeyDigest,
    reportId,
    reportIdMa,
    reportedTcb,
    processor,
    chipId,
    committedTcb,
    currentFirmware,
    committedFirmware,
    launchTcb,
    launchMitigations,
    currentMitigations,
    signature: { r, s },
  };
}

/**
 * The bytes of a report.
 * @throws {SnpError} ERR_SNP_FIELD if a value does not fit its field or does not exist in the version
 */
export function encodeReport(report: Report): Uint8Array {
  const { version, processor } = report;
  if ((version === 2) !== (processor === undefined))
    throw new SnpError("ERR_SNP_FIELD", `report: version ${version} ${version === 2 ? "has no" : "needs the"} processor id`);
  if (version !== 5 && (report.launchMitigations !== 0n || report.currentMitigations !== 0n)) {
    throw new SnpError("ERR_SNP_FIELD", `report: version ${version} has no mitigation vectors`);
  }
  checkWidths(report);
  const writer = new ByteWriter();
  writer.u32le(version).u32le(report.guestSvn).u64le(report.policy);
  writer.bytes(sized("FAMILY_ID", report.familyId, 16)).bytes(sized("IMAGE_ID", report.imageId, 16));
  writer.u32le(report.vmpl).u32le(ECDSA_P384_SHA384);
  writer
    .bytes(sized("CURRENT_TCB", report.currentTcb, 8))
    .u64le(report.platformInfo)
    .u32le(encodeKeyInfo(report.keyInfo))
    .zeros(4);
  writer.bytes(sized("REPORT_DATA", report.reportData, REPORT_DATA_SIZE)).bytes(sized("MEASUREMENT", report.measurement, MEASUREMENT_SIZE));
  writer.bytes(sized("HOST_DATA", report.hostData, HOST_DATA_SIZE));
  writer.bytes(sized("ID_KEY_DIGEST", report.idKeyDigest, 48)).bytes(sized("AUTHOR_KEY_DIGEST", report.authorKeyDigest, 48));
  writer.bytes(sized("REPORT_ID", report.reportId, 32)).bytes(sized("REPORT_ID_MA", report.reportIdMa, 32));
  writer.bytes(sized("REPORTED_TCB", report.reportedTcb, 8));
  if (processor === undefined) writer.zeros(24);
  else writer.u8(processor.family).u8(processor.model).u8(processor.stepping).zeros(21);
  writer.bytes(sized("CHIP_ID", report.chipId, 64)).bytes(sized("COMMITTED_TCB", report.committedTcb, 8));
  for (const firmware of [report.currentFirmware, report.committedFirmware]) writer.u8(firmware.build).u8(firmware.minor).u8(firmware.major).zeros(1);
  writer.bytes(sized("LAUNCH_TCB", report.launchTcb, 8));
  writer.u64le(report.launchMitigations).u64le(report.currentMitigations).zeros(152);
  writer.bytes(encodeNumber(report.signature.r)).bytes(encodeNumber(report.signature.s)).zeros(SIGNATURE_RESERVED);
  const bytes = writer.toBytes();
  // Reading it back refuses what no report may have.
  parseReport(bytes);
  return bytes;
}

/** The signed part of a report's bytes. */
export function signedPart(report: Uint8Array): Uint8Array {
  return report.subarray(0, SIGNATURE_OFFSET);
}

/**
 * The kind of key that a report says it was signed with, read from KEY_INFO alone: for choosing among certificates before anything is verified.
 * @param report raw; undefined for one that is no report, or was not signed
 */
export function signingKeyOf(report: Uint8Array): Exclude<SigningKey, "none"> | undefined {
  if (report.length !== REPORT_SIZE) return undefined;
  const key = SIGNING_KEYS.find(({ bits }) => bits === (((report[0x48] ?? 0) >> 2) & 7))?.key;
  return key === "none" ? undefined : key;
}

function parseKeyInfo(bits: number): KeyInfo {
  if (bits >>> 5 !== 0)
    throw new SnpError("ERR_SNP_RESERVED", `report: KEY_INFO 0x${bits.toString(16)} at offset 0x48 has a bit above 4 set`, { details: { offset: 0x48 } });
  const signing = (bits >>> 2) & 7;
  const row = SIGNING_KEYS.find((candidate) => candidate.bits === signing);
  if (row === undefined)
    throw new SnpError("ERR_SNP_FIELD", `report: SIGNING_KEY ${signing} in KEY_INFO at offset 0x48, expected 0 (VCEK), 1 (VLEK) or 7 (none)`);
  return { authorKeyEnabled: (bits & 1) !== 0, chipKeyMasked: (bits & 2) !== 0, signingKey: row.key };
}

function encodeKeyInfo(info: KeyInfo): number {
  const signing = SIGNING_KEYS.find(({ key }) => key === info.signingKey)?.bits ?? 7;
  return (signing << 2) | (info.chipKeyMasked ? 2 : 0) | (info.authorKeyEnabled ? 1 : 0);
}

/** A number wider than its field would be cut to it, and another one signed than the caller gave. */
function checkWidths(report: Report): void {
  const { processor, currentFirmware: current, committedFirmware: committed } = report;
  const narrow: readonly (readonly [string, number | bigint, number])[] = [
    ["VERSION", report.version, 32],
    ["GUEST_SVN", report.guestSvn, 32],
    ["POLICY", report.policy, 64],
    ["VMPL", report.vmpl, 32],
    ["PLATFORM_INFO", report.platformInfo, 64],
    ["LAUNCH_MIT_VECTOR", report.launchMitigations, 64],
    ["CURRENT_MIT_VECTOR", report.currentMitigations, 64],
    ...Object.values({ ...processor }).map((value) => ["CPUID", value, 8] as const),
    ...[current, committed].flatMap((firmware) => Object.values(firmware).map((value) => ["a firmware version", value, 8] as const)),
  ];
  for (const [field, value, bits] of narrow) {
    if (typeof value === "number" && !Number.isSafeInteger(value)) throw new SnpError("ERR_SNP_FIELD", `report: ${field} ${value} is no integer`);
    if (BigInt(value) < 0n || BigInt(value) >> BigInt(bits) !== 0n) throw new SnpError("ERR_SNP_FIELD", `report: ${field} ${value} does not fit ${bits} bits`);
  }
}

function readFirmware(reader: ByteReader): FirmwareVersion {
  const build = reader.u8();
  const minor = reader.u8();
  const major = reader.u8();
  reserved(reader, 1);
  return { major, minor, build };
}

function readNumber(reader: ByteReader): bigint {
  return BigInt(`0x${toHex(Uint8Array.from(reader.bytes(SIGNATURE_NUMBER_SIZE)).reverse())}`);
}

function encodeNumber(value: bigint): Uint8Array {
  if (value < 0n || value >= 1n << BigInt(SIGNATURE_NUMBER_SIZE * 8)) throw new SnpError("ERR_SNP_FIELD", "report: a signature number does not fit 72 bytes");
  return new Uint8Array(Buffer.from(value.toString(16).padStart(SIGNATURE_NUMBER_SIZE * 2, "0"), "hex").reverse());
}

function reserved(reader: ByteReader, length: number): void {
  const offset = reader.offset;
  if (!isZero(reader.bytes(length))) {
    throw new SnpError("ERR_SNP_RESERVED", `report: the reserved bytes 0x${offset.toString(16)} to 0x${(offset + length - 1).toString(16)} are not zero`, {
      details: { offset, length },
    });
  }
}

function sized(field: string, bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length !== length) throw new SnpError("ERR_SNP_FIELD", `report: ${field} of ${bytes.length} bytes, expected ${length}`);
  return bytes;
}
