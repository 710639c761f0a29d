import { ByteReader } from "@sealpod/core";
import { SnpError } from "../errors.ts";
import { formatUefiGuid } from "./guid.ts";
import { PAGE_SIZE } from "./launch-digest.ts";

/**
 * Largest firmware image in bytes. It ends at 4 GiB, and the local APIC at 0xFEE00000 (18 MiB below) is in the way of more.
 */
export const MAX_OVMF_SIZE: number = 16 * 1024 * 1024;

/** Most entries of the GUIDed table: builds of OVMF have 4 to 6. */
export const MAX_OVMF_ENTRIES = 32;

/** Most sections of the SEV metadata: builds of OVMF have 5 to 8. */
export const MAX_OVMF_SECTIONS = 64;

/** Most bytes of all metadata sections together. Builds of OVMF have below 1 MiB; the sizes come from the image, so they must not decide how long measuring takes. */
export const MAX_OVMF_SECTION_BYTES: number = 64 * 1024 * 1024;

/** End of the address space that firmware lies below: 4 GiB. */
const FOUR_GIB = 2 ** 32;

/** The reset vector and what stands around it take the last bytes; the GUIDed table ends before them. */
const TABLE_END = 32;
const GUID_SIZE = 16;
/** u16 size and GUID. */
const ENTRY_TAIL = 2 + GUID_SIZE;
const ASEV = "ASEV";
const METADATA_HEADER = 16;
const METADATA_ENTRY = 12;

const GUIDS = {
  footer: "96b582de-1fb2-45f7-baea-a366c55a082d",
  hashTable: "7255371f-3a3b-4b04-927b-1da6efa8d454",
  resetBlock: "00f771de-1a7e-4fcb-890e-68c77e2fb44e",
  metadata: "dc886566-984a-4798-a75e-5585a7bf67cc",
} as const;

/** What a section of the SEV metadata is for (OvmfPkg, `OvmfSevMetadata`). */
export type OvmfSectionKind = "sec-mem" | "secrets" | "cpuid" | "svsm-caa" | "kernel-hashes";

const SECTION_KINDS: ReadonlyMap<number, OvmfSectionKind> = new Map([
  [0x01, "sec-mem"],
  [0x02, "secrets"],
  [0x03, "cpuid"],
  [0x04, "svsm-caa"],
  [0x10, "kernel-hashes"],
]);

/** A range of guest memory that the host launches beside the image. */
export interface OvmfSection {
  readonly kind: OvmfSectionKind;
  /** Guest physical address of the first page, a multiple of 4096. */
  readonly gpa: number;
  /** Bytes, a multiple of 4096, at least one page. */
  readonly size: number;
}

/** A firmware image that was read. */
export interface OvmfImage {
  /** The whole image, 4 KiB to 16 MiB. */
  readonly bytes: Uint8Array;
  /** Guest physical address of its first byte: it ends at 4 GiB. */
  readonly gpa: number;
  /** GUIDs of the table, in the order of the file. */
  readonly entries: readonly string[];
  /** In the order of the table, which is that of the launch. Empty if the image was not built for SEV-SNP. */
  readonly sections: readonly OvmfSection[];
  /** Address of the table of kernel hashes; undefined if the image has none. */
  readonly hashTable: number | undefined;
  /** First instruction of the vCPUs but the first (SEV-ES reset block); undefined if the image does not say. */
  readonly resetVector: number | undefined;
}

interface Entry {
  readonly guid: string;
  /** Offset of the data in the image. */
  readonly at: number;
  readonly data: Uint8Array;
}

/**
 * Reads an OVMF image: the GUIDed table that ends 32 bytes before its end, read backwards, and the SEV metadata (`ASEV`) that it points to.
 * Strict where the launch depends on it: sections are whole pages, do not overlap one another or the image, and do not leave the first 4 GiB.
 * @param bytes a multiple of 4096 bytes, up to {@link MAX_OVMF_SIZE}; it is not copied
 * @throws {SnpError} ERR_SNP_OVMF
 */
export function parseOvmf(bytes: Uint8Array): OvmfImage {
  if (bytes.length === 0 || bytes.length % PAGE_SIZE !== 0 || bytes.length > MAX_OVMF_SIZE) {
    fail(
      `${bytes.length} bytes, expected whole pages of ${PAGE_SIZE}, at least one and up to ${MAX_OVMF_SIZE} bytes`,
      undefined,
      bytes.length < PAGE_SIZE ? 0 : undefined,
    );
  }
  const gpa = FOUR_GIB - bytes.length;
  const entries = readTable(bytes);
  const byGuid = new Map(entries.map((entry) => [entry.guid, entry]));
  const metadata = byGuid.get(GUIDS.metadata);
  const sections = metadata === undefined ? [] : readMetadata(bytes, metadata, gpa);
  const hashTable = numberOf(byGuid.get(GUIDS.hashTable), [4, 8]);
  return {
    bytes,
    gpa,
    entries: entries.map(({ guid }) => guid).toReversed(),
    sections,
    // Builds without kernel hashes have the entry with zeros.
    hashTable: hashTable === 0 ? undefined : hashTable,
    resetVector: numberOf(byGuid.get(GUIDS.resetBlock), [4]),
  };
}

/** The table from its footer backwards: each entry is data, u16 size of all of it, GUID. */
function readTable(bytes: Uint8Array): readonly Entry[] {
  const end = bytes.length - TABLE_END;
  const footer = entryBefore(bytes, end, end);
  if (footer.guid !== GUIDS.footer) {
    fail(
      `no table: GUID ${footer.guid} at offset ${end - GUID_SIZE}, expected ${GUIDS.footer}`,
      "Give the OVMF image itself (OVMF.fd), not a variable store.",
      end - GUID_SIZE,
    );
  }
  // The size of the footer is that of the whole table.
  const start = end - footer.size;
  const entries: Entry[] = [];
  for (let at = end - ENTRY_TAIL; at > start;) {
    if (entries.length === MAX_OVMF_ENTRIES) fail(`more than ${MAX_OVMF_ENTRIES} entries in the table`, undefined, at);
    const { guid, size } = entryBefore(bytes, at, at - start);
    const begin = at - size;
    if (guid === GUIDS.footer || entries.some((entry) => entry.guid === guid)) fail(`GUID ${guid} twice in the table`, undefined, at - GUID_SIZE);
    entries.push({ guid, at: begin, data: bytes.subarray(begin, at - ENTRY_TAIL) });
    at = begin;
  }
  return entries;
}

/** Size and GUID of the entry that ends at an offset, with at most `room` bytes. */
function entryBefore(bytes: Uint8Array, end: number, room: number): { readonly guid: string; readonly size: number } {
  if (room < ENTRY_TAIL) fail(`an entry of the table that ends at offset ${end} has ${room} bytes of room, expected at least ${ENTRY_TAIL}`, undefined, end);
  const reader = new ByteReader(bytes.subarray(end - ENTRY_TAIL, end), "OVMF table entry");
  const size = reader.u16le();
  const guid = formatUefiGuid(reader.bytes(GUID_SIZE));
  if (size < ENTRY_TAIL || size > room) {
    fail(`the entry ${guid} that ends at offset ${end} has ${size} bytes, expected ${ENTRY_TAIL} to ${room}`, undefined, end - ENTRY_TAIL);
  }
  return { guid, size };
}

function numberOf(entry: Entry | undefined, sizes: readonly number[]): number | undefined {
  if (entry === undefined) return undefined;
  if (!sizes.includes(entry.data.length)) {
    fail(`the entry ${entry.guid} at offset ${entry.at} has ${entry.data.length} bytes of data, expected ${sizes.join(" or ")}`, undefined, entry.at);
  }
  return new ByteReader(entry.data, "OVMF table entry").u32le();
}

function readMetadata(bytes: Uint8Array, entry: Entry, imageGpa: number): readonly OvmfSection[] {
  const fromEnd = numberOf(entry, [4]) ?? 0;
  const at = bytes.length - fromEnd;
  if (fromEnd > bytes.length || fromEnd < METADATA_HEADER) {
    fail(`the SEV metadata is said to stand ${fromEnd} bytes before the end of ${bytes.length}`, undefined, entry.at);
  }
  const reader = new ByteReader(bytes.subarray(at), "SEV metadata");
  const magic = Buffer.from(reader.bytes(4)).toString("latin1");
  const [size, version, count] = [reader.u32le(), reader.u32le(), reader.u32le()];
  if (magic !== ASEV) fail(`the SEV metadata at offset ${at} starts with ${JSON.stringify(magic)}, expected "${ASEV}"`, undefined, at);
  if (version !== 1) fail(`SEV metadata of version ${version} at offset ${at + 8}, expected 1`, undefined, at + 8);
  if (count > MAX_OVMF_SECTIONS) fail(`${count} sections in the SEV metadata, more than the limit of ${MAX_OVMF_SECTIONS}`, undefined, at + 12);
  if (size !== METADATA_HEADER + count * METADATA_ENTRY || size > fromEnd) {
    fail(
      `SEV metadata of ${size} bytes at offset ${at}, expected ${METADATA_HEADER + count * METADATA_ENTRY} for ${count} sections, and ${fromEnd} at most`,
      undefined,
      at + 4,
    );
  }
  const sections: OvmfSection[] = [];
  let total = 0;
  for (let index = 0; index < count; index++) {
    const offset = at + reader.offset;
    const [gpa, length, type] = [reader.u32le(), reader.u32le(), reader.u32le()];
    const kind = SECTION_KINDS.get(type);
    const where = `section ${index} at offset ${offset}`;
    // A section that we do not know may be measured in a way that we do not know.
    if (kind === undefined) fail(`${where} has type 0x${type.toString(16)}, expected 1 to 4 or 0x10`, undefined, offset);
    if (gpa % PAGE_SIZE !== 0 || length % PAGE_SIZE !== 0 || length === 0) {
      fail(`${where}: 0x${length.toString(16)} bytes at 0x${gpa.toString(16)} are no whole pages`, undefined, offset);
    }
    // Sums of two u32 are exact here, so a range that wraps around at 4 GiB reaches into the image.
    if (gpa + length > imageGpa)
      fail(`${where}: 0x${length.toString(16)} bytes at 0x${gpa.toString(16)} reach into the image at 0x${imageGpa.toString(16)}`, undefined, offset);
    const other = sections.find((section) => gpa < section.gpa + section.size && section.gpa < gpa + length);
    if (other !== undefined) fail(`${where} at 0x${gpa.toString(16)} overlaps the one at 0x${other.gpa.toString(16)}`, undefined, offset);
    total += length;
    if (total > MAX_OVMF_SECTION_BYTES) fail(`the sections have more than ${MAX_OVMF_SECTION_BYTES} bytes`, undefined, offset);
    sections.push({ kind, gpa, size: length });
  }
  return sections;
}

function fail(problem: string, hint: string | undefined, offset: number | undefined): never {
  throw new SnpError("ERR_SNP_OVMF", `OVMF image: ${problem}`, { details: { offset }, ...(hint === undefined ? {} : { hint }) });
}
