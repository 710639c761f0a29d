import { ByteReader, decodeUtf8 } from "@sealpod/core";
import type { ByteSource } from "@sealpod/core";
import { ImagesError } from "./errors.ts";

/** What a program or library needs to run (ELF-64 object file format, System V ABI chapter 5). */
export interface ElfNeeds {
  /** Path of the dynamic loader, or undefined for a static program or a library. */
  readonly interpreter: string | undefined;
  /** Names of shared libraries, DT_NEEDED, in order. */
  readonly libraries: readonly string[];
}

const EHDR_SIZE = 64;
const PHDR_SIZE = 56;
const DYN_SIZE = 16;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NULL = 0n;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;

/** Linkers write a dozen program headers and a few dozen dynamic entries. */
const MAX_PHDRS = 128;
const MAX_DYNAMIC_SIZE = 64 * 1024;
/** PATH_MAX: no name is longer. */
const MAX_NAME = 4096;

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly size: number;
}

/**
 * Reads which loader and libraries an ELF file needs; undefined if it is no ELF file at all.
 * @throws {ImagesError} ERR_IMAGES_ELF if it is one, but damaged or not for x86-64
 */
export async function parseElf(source: ByteSource, what: string): Promise<ElfNeeds | undefined> {
  if (source.size < 4 || decodeMagic(await source.read(0, 4)) !== "\u007fELF") return undefined;
  try {
    return await parse(source);
  } catch (cause) {
    throw new ImagesError("ERR_IMAGES_ELF", `${what} is not a well-formed ELF file: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

async function parse(source: ByteSource): Promise<ElfNeeds> {
  const header = new ByteReader(await within(source, 0, EHDR_SIZE), "ELF header");
  const ident = header.bytes(16);
  // Class 2: 64 bits; data 1: little-endian.
  if (ident[4] !== 2 || ident[5] !== 1) throw new Error("not 64-bit little-endian");
  header.bytes(2);
  const machine = header.u16le();
  if (machine !== EM_X86_64) throw new Error(`machine is ${machine}, expected ${EM_X86_64} (x86-64)`);
  header.bytes(12);
  const tableOffset = safe(header.u64le());
  header.bytes(14);
  const entrySize = header.u16le();
  const entries = header.u16le();
  if (entries > MAX_PHDRS || (entries > 0 && entrySize !== PHDR_SIZE)) throw new Error(`${entries} program headers of ${entrySize} bytes`);

  const segments: Segment[] = [];
  const table = new ByteReader(await within(source, tableOffset, entries * PHDR_SIZE), "program headers");
  for (let i = 0; i < entries; i++) {
    const type = table.u32le();
    table.bytes(4);
    const offset = safe(table.u64le());
    const address = safe(table.u64le());
    table.bytes(8);
    const size = safe(table.u64le());
    table.bytes(16);
    segments.push({ type, offset, address, size });
  }

  const interp = segments.find((segment) => segment.type === PT_INTERP);
  const dynamic = segments.find((segment) => segment.type === PT_DYNAMIC);
  return {
    interpreter: interp === undefined ? undefined : await text(source, interp.offset, interp.size),
    libraries: dynamic === undefined ? [] : await neededLibraries(source, segments, dynamic),
  };
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

function decodeMagic(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}
