import { ByteReader, decodeUtf8, messageOf } from "@sealpod/core";
import type { ByteSource } from "@sealpod/core";
import { ImageError } from "./errors.ts";

/** What a program or library needs to run (ELF-64 object file format, System V ABI chapter 5). */
export interface ElfNeeds {
  /** Path of the dynamic loader, or undefined for a static program or a library. */
  readonly interpreter: string | undefined;
  /** Names of shared libraries, DT_NEEDED, in order. */
  readonly libraries: readonly string[];
}

const EHDR_SIZE = 64;
const PHDR_SIZE = 56;
const SHDR_SIZE = 64;
const DYN_SIZE = 16;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const SHT_NOBITS = 8;
const DT_NULL = 0n;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;
/** Offsets in the ELF header of what {@link stripElf} clears. */
const E_SHOFF = 40;
const E_SHENTSIZE = 58;

/** Linkers write a dozen program headers and a few dozen dynamic entries. */
const MAX_PHDRS = 128;
const MAX_DYNAMIC_SIZE = 64 * 1024;
/** Kernel modules have about fifty sections; those of GPU drivers a few thousand. */
const MAX_SECTIONS = 16_384;
/** PATH_MAX: no name is longer. */
const MAX_NAME = 4096;

interface Header {
  readonly programs: { readonly offset: number; readonly count: number };
  readonly sections: { readonly offset: number; readonly count: number; readonly names: number };
}

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly size: number;
}

/**
 * Reads which loader and libraries an ELF file needs; undefined if it is no ELF file at all.
 * @throws {ImageError} ERR_IMAGE_ELF if it is one, but damaged or not for x86-64
 */
export async function parseElf(source: ByteSource, what: string): Promise<ElfNeeds | undefined> {
  if (source.size < 4 || String.fromCharCode(...(await source.read(0, 4))) !== "\u007fELF") return undefined;
  return orMalformed(what, async () => {
    const segments = await readSegments(source);
    const interp = segments.find((segment) => segment.type === PT_INTERP);
    const dynamic = segments.find((segment) => segment.type === PT_DYNAMIC);
    return {
      interpreter: interp === undefined ? undefined : await text(source, interp.offset, interp.size),
      libraries: dynamic === undefined ? [] : await neededLibraries(source, segments, dynamic),
    };
  });
}

/**
 * A program without what is not loaded (section table, symbols, debug information): it runs as before, and needs less room in an image.
 * @throws {ImageError} ERR_IMAGE_ELF
 */
export async function stripElf(bytes: Uint8Array, what: string): Promise<Uint8Array> {
  return orMalformed(what, async () => {
    const segments = await readSegments(memorySource(bytes));
    const loaded = segments.filter(({ type }) => type === PT_LOAD);
    if (loaded.length === 0) throw new Error("no segment is loaded");
    // Notes and the program headers themselves lie in loaded segments where a linker made them; a file where they do not is kept that long.
    const end = Math.max(EHDR_SIZE, ...segments.map(({ offset, size }) => offset + size));
    if (end > bytes.length) throw new Error(`a segment ends at ${end}, behind the file's ${bytes.length} bytes`);
    const stripped = bytes.slice(0, end);
    const view = new DataView(stripped.buffer);
    view.setBigUint64(E_SHOFF, 0n, true);
    for (let at = E_SHENTSIZE; at < EHDR_SIZE; at += 2) view.setUint16(at, 0, true);
    return stripped;
  });
}

/**
 * Bytes of the first section of a name, or undefined if there is none.
 * @throws {ImageError} ERR_IMAGE_ELF
 */
export async function elfSection(bytes: Uint8Array, name: string, what: string): Promise<Uint8Array | undefined> {
  return orMalformed(what, async () => {
    const source = memorySource(bytes);
    const { sections } = await readHeader(source);
    const table = new ByteReader(await within(source, sections.offset, sections.count * SHDR_SIZE), "section headers");
    const rows: { readonly name: number; readonly type: number; readonly offset: number; readonly size: number }[] = [];
    for (let i = 0; i < sections.count; i++) {
      const [nameOffset, type] = [table.u32le(), table.u32le()];
      table.bytes(16);
      const [offset, size] = [safe(table.u64le()), safe(table.u64le())];
      table.bytes(24);
      rows.push({ name: nameOffset, type, offset, size });
    }
    const names = rows[sections.names];
    if (names === undefined) throw new Error(`section ${sections.names} of names does not exist`);
    const strings = Buffer.from(await within(source, names.offset, names.size));
    const wanted = Buffer.from(`${name}\0`, "latin1");
    const found = rows.find((row) => strings.subarray(row.name, row.name + wanted.length).equals(wanted));
    if (found === undefined || found.type === SHT_NOBITS) return undefined;
    return within(source, found.offset, found.size);
  });
}

async function orMalformed<T>(what: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new ImageError("ERR_IMAGE_ELF", `${what} is not a well-formed ELF file: ${messageOf(cause)}`, { cause });
  }
}

async function readHeader(source: ByteSource): Promise<Header> {
  const header = new ByteReader(await within(source, 0, EHDR_SIZE), "ELF header");
  const ident = header.bytes(16);
  // Class 2: 64 bits; data 1: little-endian.
  if (String.fromCharCode(...ident.subarray(0, 4)) !== "\u007fELF" || ident[4] !== 2 || ident[5] !== 1) throw new Error("not 64-bit little-endian");
  header.bytes(2);
  const machine = header.u16le();
  if (machine !== EM_X86_64) throw new Error(`machine is ${machine}, expected ${EM_X86_64} (x86-64)`);
  header.bytes(12);
  const programOffset = safe(header.u64le());
  const sectionOffset = safe(header.u64le());
  header.bytes(6);
  const [programSize, programCount, sectionSize, sectionCount, names] = [header.u16le(), header.u16le(), header.u16le(), header.u16le(), header.u16le()];
  if (programCount > MAX_PHDRS || (programCount > 0 && programSize !== PHDR_SIZE)) throw new Error(`${programCount} program headers of ${programSize} bytes`);
  if (sectionCount > MAX_SECTIONS || (sectionCount > 0 && sectionSize !== SHDR_SIZE))
    throw new Error(`${sectionCount} section headers of ${sectionSize} bytes`);
  return { programs: { offset: programOffset, count: programCount }, sections: { offset: sectionOffset, count: sectionCount, names } };
}

async function readSegments(source: ByteSource): Promise<readonly Segment[]> {
  const { programs } = await readHeader(source);
  const segments: Segment[] = [];
  const table = new ByteReader(await within(source, programs.offset, programs.count * PHDR_SIZE), "program headers");
  for (let i = 0; i < programs.count; i++) {
    const type = table.u32le();
    table.bytes(4);
    const offset = safe(table.u64le());
    const address = safe(table.u64le());
    table.bytes(8);
    const size = safe(table.u64le());
    table.bytes(16);
    segments.push({ type, offset, address, size });
  }
  return segments;
}

async function neededLibraries(source: ByteSource, segments: readonly Segment[], dynamic: Segment): Promise<readonly string[]> {
  if (dynamic.size > MAX_DYNAMIC_SIZE) throw new Error(`dynamic section of ${dynamic.size} bytes`);
  const reader = new ByteReader(await within(source, dynamic.offset, dynamic.size), "dynamic section");
  const needed: number[] = [];
  let strings: number | undefined;
  while (reader.remaining >= DYN_SIZE) {
    const tag = reader.u64le();
    const value = reader.u64le();
    if (tag === DT_NULL) break;
    if (tag === DT_NEEDED) needed.push(safe(value));
    if (tag === DT_STRTAB) strings = safe(value);
  }
  if (needed.length === 0) return [];
  // DT_STRTAB is an address; the segment that is loaded there says where it is in the file.
  const address = strings;
  const segment = segments.find((item) => item.type === PT_LOAD && address !== undefined && address >= item.address && address < item.address + item.size);
  if (segment === undefined || address === undefined) throw new Error("string table is in no loaded segment");
  const start = segment.offset + (address - segment.address);
  return Promise.all(needed.map((offset) => text(source, start + offset, MAX_NAME)));
}

/** The text from an offset to its NUL. */
async function text(source: ByteSource, offset: number, maxLength: number): Promise<string> {
  const length = Math.min(maxLength, MAX_NAME, source.size - offset);
  const bytes = await within(source, offset, length);
  const end = bytes.indexOf(0);
  if (end < 1) throw new Error(`no text at offset ${offset}`);
  return decodeUtf8(bytes.subarray(0, end), "ELF string");
}

async function within(source: ByteSource, offset: number, length: number): Promise<Uint8Array> {
  if (length < 0 || offset + length > source.size) throw new Error(`bytes ${offset} to ${offset + length} are not inside the file's ${source.size}`);
  return source.read(offset, length);
}

function safe(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`offset ${value} is too large`);
  return Number(value);
}

/** Bytes in memory as a source; what is read is a view of them. */
export function memorySource(bytes: Uint8Array): ByteSource {
  return { size: bytes.length, read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)) };
}
