import { ByteReader, ByteWriter, concatBytes, fromHex, isZero, toHex } from "@sealpod/core";
import { SnpError } from "../errors.ts";

/** GUIDs of the certificate table (GHCB specification, MSG_REPORT; Google's and the CRL's from go-sev-guest). Their bytes stand in the order of the text. */
export const CERTIFICATE_GUIDS = {
  vcek: "63da758d-e664-4564-adc5-f4b93be8accd",
  vlek: "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
  ask: "4ab7b379-bbac-4fe4-a02f-05aef327c782",
  ark: "c0b406a4-a803-4952-9743-3fb6014cd0ae",
  crl: "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
} as const;

/** One entry of the table. */
export interface CertificateTableEntry {
  /** Lower-case GUID; {@link CERTIFICATE_GUIDS} names the usual ones, others are kept. */
  readonly guid: string;
  readonly data: Uint8Array;
}

/** Largest table: the kernel gives the host's table 16 KiB by default; 64 KiB leaves room for a CRL. */
export const MAX_CERTIFICATE_TABLE: number = 64 * 1024;

/** Most entries: five kinds are defined. */
export const MAX_CERTIFICATE_ENTRIES = 16;

const ENTRY_SIZE = 24;

/**
 * Reads the certificate table of an extended report, which the untrusted host filled in. Zero bytes after the last certificate are padding; nothing else may follow.
 * Hosts also count padding into an entry's length, as C strings and whole pages have it: zeros after the end of a PEM text or a DER element are no part of its data.
 * @param bytes the auxblob of configfs-tsm, or the buffer of SNP_GET_EXT_REPORT; empty means no certificates
 * @throws {SnpError} ERR_SNP_CERTIFICATE_TABLE
 */
export function parseCertificateTable(bytes: Uint8Array): readonly CertificateTableEntry[] {
  if (bytes.length === 0) return [];
  if (bytes.length > MAX_CERTIFICATE_TABLE) fail(`${bytes.length} bytes, more than the limit of ${MAX_CERTIFICATE_TABLE}`);
  const reader = new ByteReader(Uint8Array.from(bytes), "certificate table");
  const ranges: { guid: string; offset: number; length: number }[] = [];
  for (;;) {
    if (reader.remaining < ENTRY_SIZE) fail("it ends without the zero entry");
    const guid = reader.bytes(16);
    const offset = reader.u32le();
    const length = reader.u32le();
    if (isZero(guid)) {
      if (offset !== 0 || length !== 0) fail("the zero entry has an offset or a length");
      break;
    }
    if (ranges.length === MAX_CERTIFICATE_ENTRIES) fail(`more than ${MAX_CERTIFICATE_ENTRIES} entries`);
    const text = formatGuid(guid);
    if (ranges.some((range) => range.guid === text)) fail(`GUID ${text} twice`);
    ranges.push({ guid: text, offset, length });
  }
  const header = reader.offset;
  let end = header;
  // In order of their places: each must begin where the one before has ended, or later.
  for (const { guid, offset, length } of ranges.toSorted((a, b) => a.offset - b.offset)) {
    if (length === 0 || offset < end || offset + length > bytes.length)
      fail(`entry ${guid} at ${offset} with ${length} bytes is empty, overlaps, or leaves the table`);
    if (!isZero(bytes.subarray(end, offset))) fail(`bytes between entries before offset ${offset}`);
    end = offset + length;
  }
  if (!isZero(bytes.subarray(end))) fail(`bytes after the last entry at offset ${end}`);
  return ranges.map(({ guid, offset, length }) => ({ guid, data: Uint8Array.from(withoutPadding(bytes.subarray(offset, offset + length))) }));
}

/**
 * The bytes of a certificate table, data in the order of the entries.
 * @throws {SnpError} ERR_SNP_CERTIFICATE_TABLE
 */
export function encodeCertificateTable(entries: readonly CertificateTableEntry[]): Uint8Array {
  const writer = new ByteWriter();
  let offset = (entries.length + 1) * ENTRY_SIZE;
  for (const { guid, data } of entries) {
    writer.bytes(parseGuid(guid)).u32le(offset).u32le(data.length);
    offset += data.length;
  }
  writer.zeros(ENTRY_SIZE);
  const bytes = concatBytes(writer.toBytes(), ...entries.map(({ data }) => data));
  parseCertificateTable(bytes);
  return bytes;
}

/** PEM, which begins with "-", ends before its first trailing zero; a DER SEQUENCE where it says, as its own last byte may be zero. Of other data nothing is known. */
function withoutPadding(data: Uint8Array): Uint8Array {
  let end = data.length;
  if (data[0] === 0x2d) while (data[end - 1] === 0) end--;
  else if (data[0] === 0x30) end = derLength(data) ?? end;
  return end < data.length && isZero(data.subarray(end)) ? data.subarray(0, end) : data;
}

/** Bytes of the DER element at the start, by its head; undefined for a head that no element of a table's size has. */
function derLength(data: Uint8Array): number | undefined {
  const [, first = 0, second = 0, third = 0] = data;
  if (first < 0x80) return 2 + first;
  if (first === 0x81) return 3 + second;
  return first === 0x82 ? 4 + second * 256 + third : undefined;
}

function formatGuid(bytes: Uint8Array): string {
  const hex = toHex(bytes);
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

function parseGuid(guid: string): Uint8Array {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(guid)) fail(`${JSON.stringify(guid)} is not a lower-case GUID`);
  return fromHex(guid.replaceAll("-", ""));
}

function fail(problem: string): never {
  throw new SnpError("ERR_SNP_CERTIFICATE_TABLE", `certificate table: ${problem}`);
}
