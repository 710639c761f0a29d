import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";

/** One entry of the GUIDed table of an image. */
export interface TestEntry {
  readonly guid: string;
  readonly data: Uint8Array;
  /** What the entry says of its size, if not the truth. */
  readonly size?: number;
}

export interface TestOvmf {
  /** Bytes of the image; one page if not said. */
  readonly size?: number;
  /** gpa, size, type. */
  readonly sections?: readonly (readonly [number, number, number])[];
  readonly hashTable?: number;
  readonly resetVector?: number;
  /** More entries, which stand before the others. */
  readonly entries?: readonly TestEntry[];
  /** Changes to the metadata's header. */
  readonly metadata?: { readonly magic?: string; readonly size?: number; readonly version?: number; readonly count?: number; readonly fromEnd?: number };
  /** Size that the footer states. */
  readonly tableSize?: number;
}

export const METADATA_GUID = "dc886566-984a-4798-a75e-5585a7bf67cc";
const HASH_TABLE_GUID = "7255371f-3a3b-4b04-927b-1da6efa8d454";
const RESET_GUID = "00f771de-1a7e-4fcb-890e-68c77e2fb44e";
const FOOTER_GUID = "96b582de-1fb2-45f7-baea-a366c55a082d";

/** GUID as UEFI stores it. */
export function uefiGuid(guid: string): Buffer {
  const [a = "", b = "", c = "", d = "", e = ""] = guid.split("-");
  return Buffer.concat([Buffer.from(a, "hex").reverse(), Buffer.from(b, "hex").reverse(), Buffer.from(c, "hex").reverse(), Buffer.from(d + e, "hex")]);
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  return bytes;
}

export function u32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) bytes.writeUInt32LE(value, 4 * index);
  return bytes;
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

/** An image whose other bytes count upwards, so that no two of its pages are alike. */
export function testOvmf(options: TestOvmf = {}): Buffer {
  const { size = 4096, sections, metadata = {} } = options;
  const image = Buffer.alloc(size);
  for (let at = 0; at + 4 <= size; at += 4) image.writeUInt32LE(at, at);
  const entries: TestEntry[] = [...(options.entries ?? [])];
  if (sections !== undefined) {
    const table = Buffer.concat([
      Buffer.from(metadata.magic ?? "ASEV", "latin1"),
      u32(metadata.size ?? 16 + 12 * sections.length, metadata.version ?? 1, metadata.count ?? sections.length),
      ...sections.map((section) => u32(...section)),
    ]);
    table.copy(image, size - 2048);
    entries.push({ guid: METADATA_GUID, data: u32(metadata.fromEnd ?? 2048) });
  }
  if (options.hashTable !== undefined) entries.push({ guid: HASH_TABLE_GUID, data: u32(options.hashTable, 0x400) });
  if (options.resetVector !== undefined) entries.push({ guid: RESET_GUID, data: u32(options.resetVector) });
  const body = Buffer.concat(entries.flatMap(({ guid, data, size = data.length + 18 }) => [Buffer.from(data), u16(size), uefiGuid(guid)]));
  const table = Buffer.concat([body, u16(options.tableSize ?? body.length + 18), uefiGuid(FOOTER_GUID)]);
  table.copy(image, size - 32 - table.length);
  return image;
}

/** The metadata of OvmfPkg's AmdSev build, smaller. */
export const SECTIONS: readonly (readonly [number, number, number])[] = [
  [0x80_0000, 0x2000, 1],
  [0x80_a000, 0x1000, 2],
  [0x80_b000, 0x1000, 3],
  [0x80_c000, 0x1000, 4],
  [0x81_0000, 0x1000, 0x10],
  [0x81_1000, 0x1000, 1],
];

/** One variable header of an IGVM file. */
export interface TestHeader {
  readonly type: number;
  readonly body: Uint8Array;
  /** What the header says of its length, if not the truth. */
  readonly length?: number;
}

export interface TestIgvm {
  readonly headers: readonly TestHeader[];
  /** Stands after the headers. */
  readonly data?: Uint8Array;
  readonly magic?: string;
  readonly version?: number;
  /** Added to what is right. */
  readonly off?: { readonly start?: number; readonly size?: number; readonly total?: number; readonly checksum?: number };
}

/** Offset at which the data of a file with these headers start. */
export function igvmDataOffset(headers: readonly TestHeader[]): number {
  return 24 + headers.reduce((sum, { body }) => sum + 8 + Math.ceil(body.length / 8) * 8, 0);
}

/** An IGVM file of version 1. */
export function testIgvm({ headers, data = Buffer.alloc(0), magic = "IGVM", version = 1, off = {} }: TestIgvm): Buffer {
  const variable = Buffer.concat(
    headers.flatMap(({ type, body, length = body.length }) => [u32(type, length), Buffer.from(body), Buffer.alloc((8 - (body.length % 8)) % 8)]),
  );
  const total = 24 + variable.length + data.length;
  const fixed = Buffer.concat([
    Buffer.from(magic, "latin1"),
    u32(version, 24 + (off.start ?? 0), variable.length + (off.size ?? 0), total + (off.total ?? 0), 0),
  ]);
  const checksum = crc32(Buffer.concat([fixed, variable]));
  fixed.writeUInt32LE((checksum + (off.checksum ?? 0)) >>> 0, 20);
  return Buffer.concat([fixed, variable, data]);
}

/** Headers of IGVM files, field by field. */
export const igvm = {
  platform: (mask = 1, type = 2, version = 1): TestHeader => ({ type: 0x1, body: Buffer.concat([u32(mask), Buffer.of(0, type), u16(version), u64(0n)]) }),
  policy: (policy = 0x3001fn, mask = 1): TestHeader => ({ type: 0x101, body: Buffer.concat([u64(policy), u32(mask, 0)]) }),
  area: (index: number, size: bigint, offset = 0): TestHeader => ({ type: 0x301, body: Buffer.concat([u64(size), u32(index, offset)]) }),
  page: (gpa: bigint, offset: number, flags = 0, dataType = 0, mask = 1): TestHeader => ({
    type: 0x302,
    body: Buffer.concat([u64(gpa), u32(mask, offset, flags), u16(dataType), u16(0)]),
  }),
  insert: (gpa: bigint, area: number, mask = 1): TestHeader => ({ type: 0x303, body: Buffer.concat([u64(gpa), u32(mask, area)]) }),
  vpContext: (gpa: bigint, offset: number, index = 0, mask = 1): TestHeader => ({
    type: 0x304,
    body: Buffer.concat([u64(gpa), u32(mask, offset), u16(index), Buffer.alloc(6)]),
  }),
  parameter: (type: number, area: number, offset = 0): TestHeader => ({ type, body: u32(area, offset) }),
  requiredMemory: (gpa: bigint, size: number, mask = 1): TestHeader => ({ type: 0x305, body: Buffer.concat([u64(gpa), u32(mask, size, 0, 0)]) }),
  errorRange: (gpa: bigint, size: number, mask = 1): TestHeader => ({ type: 0x30d, body: Buffer.concat([u64(gpa), u32(mask, size)]) }),
};

/** A launch digest computed a second time: AMD 56860, table PAGE_INFO, one page after the other. */
export class Straight {
  #digest: Buffer = Buffer.alloc(48);

  /** Type, address, and the content of the types that have one. */
  page(type: number, gpa: bigint, contents?: Uint8Array): this {
    const info = Buffer.alloc(0x70);
    this.#digest.copy(info, 0);
    if (contents !== undefined) createHash("sha384").update(contents).digest().copy(info, 48);
    info.writeUInt16LE(0x70, 96);
    info.writeUInt8(type, 98);
    info.writeBigUInt64LE(gpa, 104);
    this.#digest = createHash("sha384").update(info).digest();
    return this;
  }

  /** NORMAL pages of an image. */
  image(image: Uint8Array, gpa: bigint): this {
    for (let at = 0; at < image.length; at += 4096) this.page(1, gpa + BigInt(at), image.subarray(at, at + 4096));
    return this;
  }

  get hex(): string {
    return this.#digest.toString("hex");
  }
}
