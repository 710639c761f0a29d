import { crc32 } from "node:zlib";
import { ByteReader, ByteWriter, isZero } from "@sealpod/core";
import { ID_KEY_SIZE, type IdAuth, type IdBlock, type IdSignatory, parseIdKey } from "../abi/id-block.ts";
import { SnpError } from "../errors.ts";
import { PAGE_SIZE } from "./launch-digest.ts";

/** Largest IGVM file in bytes: kernels with their initial RAM disk have 20 to 200 MiB. */
export const MAX_IGVM_SIZE: number = 512 * 1024 * 1024;

/** Most variable headers: one for each page of the largest file, twice, since pages of zeros need no data. */
export const MAX_IGVM_HEADERS: number = 2 * (MAX_IGVM_SIZE / PAGE_SIZE);

/** Most bytes of the parameter areas that a file inserts: hosts fill them with tables of a few KiB, and their sizes must not decide how long measuring takes. */
export const MAX_IGVM_PARAMETER_BYTES: number = 64 * 1024 * 1024;

/** What a platform of a file is. */
export type IgvmPlatformKind = "native" | "vsm" | "sev-snp" | "tdx" | "sev" | "sev-es";

/** A platform that the file can be launched on. */
export interface IgvmPlatform {
  /** One bit, by which other headers name this platform. */
  readonly mask: number;
  readonly kind: IgvmPlatformKind;
  readonly highestVtl: number;
  /** First address that is shared with the host; 0 if none. */
  readonly sharedGpaBoundary: bigint;
}

/** Flags and kind of page data. */
export interface IgvmPageData {
  readonly kind: "page-data";
  readonly mask: number;
  readonly gpa: bigint;
  readonly dataType: "normal" | "secrets" | "cpuid";
  readonly unmeasured: boolean;
  /** Shared with the host, so no part of the measured guest. */
  readonly shared: boolean;
  /** 4096 bytes; undefined for a page of zeros. Those of a CPUID page are no part of the measurement. */
  readonly contents: Uint8Array | undefined;
  /** Offset of the content in the file; undefined for a page of zeros. */
  readonly offset: number | undefined;
}

/** A place at which the host puts a parameter area. */
export interface IgvmParameterInsert {
  readonly kind: "parameter-insert";
  readonly mask: number;
  readonly gpa: bigint;
  readonly area: number;
  /** Size of the area in bytes, whole pages. */
  readonly size: number;
}

/** Registers of a virtual processor at launch. */
export interface IgvmVpContext {
  readonly kind: "vp-context";
  readonly mask: number;
  readonly gpa: bigint;
  readonly index: number;
  /** The VMSA, 4096 bytes. */
  readonly contents: Uint8Array;
  readonly offset: number;
}

/** A header that makes the host do something at launch. */
export type IgvmDirective = IgvmPageData | IgvmParameterInsert | IgvmVpContext;

/** An ID block as IGVM files carry it; POLICY comes from the file's guest policy. */
export interface IgvmIdBlock {
  readonly mask: number;
  readonly block: Omit<IdBlock, "policy">;
  readonly auth: IdAuth;
}

/** An IGVM file that was read. */
export interface IgvmFile {
  readonly platforms: readonly IgvmPlatform[];
  /** Raw POLICY for the platforms of a mask. */
  readonly policies: readonly { readonly mask: number; readonly policy: bigint }[];
  /** What is launched, in order. */
  readonly directives: readonly IgvmDirective[];
  readonly idBlocks: readonly IgvmIdBlock[];
}

const MAGIC = "IGVM";
const FIXED_HEADER = 24;
const HEADER = 8;

const PLATFORMS: readonly (IgvmPlatformKind | undefined)[] = ["native", "vsm", "sev-snp", "tdx", "sev", "sev-es"];
/**
 * SECRETS is filled by firmware. Of both kinds of CPUID page a file may hold the list of leaves: the hypervisor fills in values, firmware checks them. Neither is measured.
 */
const DATA_TYPES = ["normal", "secrets", "cpuid", "cpuid"] as const;

const TYPE = {
  platform: 0x1,
  guestPolicy: 0x101,
  parameterArea: 0x301,
  pageData: 0x302,
  parameterInsert: 0x303,
  vpContext: 0x304,
  requiredMemory: 0x305,
  vpCount: 0x307,
  environmentInfo: 0x313,
  snpIdBlock: 0x30b,
  memoryMap: 0x30c,
  errorRange: 0x30d,
} as const;

/** Headers that name a parameter area which the host fills with a table: VP count, SRAT, MADT, MMIO ranges, memory map, command line, SLIT, PPTT, device tree, environment. */
const PARAMETERS: ReadonlySet<number> = new Set([TYPE.vpCount, 0x308, 0x309, 0x30a, TYPE.memoryMap, 0x30e, 0x30f, 0x310, 0x312, TYPE.environmentInfo]);

/** The three ranges of types, in the order in which they stand in a file: platforms, initialization, directives. */
const RANGES = [0x100, 0x300, 0x400] as const;

/**
 * Reads an IGVM file of version 1 for direct boot: the fixed header with its CRC-32 (over itself with a zero checksum, and the variable headers), and the variable headers.
 * A header that is not known is refused, because it may change what is measured.
 * @param bytes up to {@link MAX_IGVM_SIZE}; contents of pages share memory with it
 * @throws {SnpError} ERR_SNP_IGVM
 */
export function parseIgvm(bytes: Uint8Array): IgvmFile {
  if (bytes.length < FIXED_HEADER || bytes.length > MAX_IGVM_SIZE) fail(`${bytes.length} bytes, expected ${FIXED_HEADER} to ${MAX_IGVM_SIZE}`, 0);
  const fixed = new ByteReader(bytes.subarray(0, FIXED_HEADER), "IGVM fixed header");
  const magic = Buffer.from(fixed.bytes(4)).toString("latin1");
  if (magic !== MAGIC) fail(`it starts with ${JSON.stringify(magic)}, expected "${MAGIC}"`, 0);
  const version = fixed.u32le();
  if (version !== 1) fail(`format version ${version}, expected 1`, 4);
  const [start, size, total, checksum] = [fixed.u32le(), fixed.u32le(), fixed.u32le(), fixed.u32le()];
  if (total !== bytes.length) fail(`its header says ${total} bytes, found ${bytes.length}`, 0x10);
  if (start < FIXED_HEADER || start % HEADER !== 0 || start + size > total) {
    fail(`variable headers of ${size} bytes at offset ${start}, expected between ${FIXED_HEADER} and ${total} at a multiple of 8`, 8);
  }
  const headers = bytes.subarray(start, start + size);
  const header = Uint8Array.from(bytes.subarray(0, FIXED_HEADER)).fill(0, FIXED_HEADER - 4);
  const computed = crc32(headers, crc32(header));
  if (computed !== checksum) fail(`CRC-32 of the headers is 0x${computed.toString(16)}, the file says 0x${checksum.toString(16)}`, 0x14);
  return new IgvmReader(bytes, start, headers).read();
}

class IgvmReader {
  readonly #bytes: Uint8Array;
  readonly #start: number;
  readonly #headers: ByteReader;
  readonly #dataStart: number;
  readonly #platforms: IgvmPlatform[] = [];
  readonly #policies: { readonly mask: number; readonly policy: bigint }[] = [];
  readonly #directives: IgvmDirective[] = [];
  readonly #idBlocks: IgvmIdBlock[] = [];
  /** Bytes of each area, and the platforms for which it was inserted. */
  readonly #areas = new Map<number, { readonly size: number; inserted: number }>();
  #insertedBytes = 0;
  /** Mask of all platforms. */
  #mask = 0;

  constructor(bytes: Uint8Array, start: number, headers: Uint8Array) {
    this.#bytes = bytes;
    this.#start = start;
    this.#headers = new ByteReader(headers, "IGVM variable headers");
    this.#dataStart = start + headers.length;
  }

  read(): IgvmFile {
    const headers = this.#headers;
    let range = 0;
    for (let count = 0; headers.remaining > 0; count++) {
      const at = this.#start + headers.offset;
      if (count === MAX_IGVM_HEADERS) fail(`more than ${MAX_IGVM_HEADERS} variable headers`, at);
      if (headers.remaining < HEADER) fail(`${headers.remaining} bytes left for a variable header, expected ${HEADER}`, at);
      const [type, length] = [headers.u32le(), headers.u32le()];
      const padding = (HEADER - (length % HEADER)) % HEADER;
      if (length > headers.remaining) fail(`a header of type 0x${type.toString(16)} with ${length} bytes, ${headers.remaining} are left`, at);
      const body = headers.bytes(length);
      // The last header may end with its body.
      if (!isZero(headers.bytes(Math.min(padding, headers.remaining)))) fail(`the padding after the header of type 0x${type.toString(16)} is not zero`, at);
      const itsRange = RANGES.findIndex((end) => type <= end);
      if (itsRange !== -1 && itsRange < range) fail(`a header of type 0x${type.toString(16)} after those of a later section`, at);
      range = Math.max(range, itsRange);
      this.#header(type, new Body(body, type, at));
    }
    if (this.#platforms.length === 0) fail("no header of a supported platform", this.#start);
    return { platforms: this.#platforms, policies: this.#policies, directives: this.#directives, idBlocks: this.#idBlocks };
  }

  #header(type: number, body: Body): void {
    if (PARAMETERS.has(type)) return this.#parameter(body);
    switch (type) {
      case TYPE.platform:
        return this.#platform(body);
      case TYPE.guestPolicy:
        return this.#guestPolicy(body);
      case TYPE.parameterArea:
        return this.#parameterArea(body);
      case TYPE.pageData:
        return this.#pageData(body);
      case TYPE.parameterInsert:
        return this.#parameterInsert(body);
      case TYPE.vpContext:
        return this.#vpContext(body);
      case TYPE.requiredMemory:
        return this.#range(body, 24);
      case TYPE.errorRange:
        return this.#range(body, 16);
      case TYPE.snpIdBlock:
        return this.#idBlock(body);
      default:
        return body.fail("is of a type that is not known");
    }
  }

  #platform(body: Body): void {
    const reader = body.reader(16);
    const [mask, highestVtl, type, version] = [reader.u32le(), reader.u8(), reader.u8(), reader.u16le()];
    const sharedGpaBoundary = reader.u64le();
    const kind = PLATFORMS[type];
    if (kind === undefined) return body.fail(`has platform type ${type}, expected 0 to 5`);
    // Native has version 0 in files of some tools.
    if (version > 1) return body.fail(`has platform version ${version}, expected 1`);
    if (mask === 0 || (mask & (mask - 1)) !== 0 || (this.#mask & mask) !== 0) {
      return body.fail(`has the compatibility mask 0x${mask.toString(16)}, expected one bit that no other platform has`);
    }
    this.#mask |= mask;
    this.#platforms.push({ mask, kind, highestVtl, sharedGpaBoundary });
  }

  #guestPolicy(body: Body): void {
    const reader = body.reader(16);
    const [policy, mask, reserved] = [reader.u64le(), this.#maskOf(reader.u32le(), body), reader.u32le()];
    if (reserved !== 0) body.fail("has reserved bytes that are not zero");
    if (this.#policies.some((other) => (other.mask & mask) !== 0)) body.fail("is a second policy of one platform");
    this.#policies.push({ mask, policy });
  }

  #parameterArea(body: Body): void {
    const reader = body.reader(16);
    const [size, area, offset] = [reader.u64le(), reader.u32le(), reader.u32le()];
    if (size === 0n || size % BigInt(PAGE_SIZE) !== 0n || size > BigInt(MAX_IGVM_PARAMETER_BYTES)) {
      body.fail(`has ${size} bytes, expected whole pages up to ${MAX_IGVM_PARAMETER_BYTES} bytes`);
    }
    if (this.#areas.has(area)) body.fail(`declares the parameter area ${area} a second time`);
    if (offset !== 0) this.#data(offset, Number(size), body);
    this.#areas.set(area, { size: Number(size), inserted: 0 });
  }

  #parameter(body: Body): void {
    const reader = body.reader(8);
    const [area, offset] = [reader.u32le(), reader.u32le()];
    const declared = this.#areas.get(area);
    if (declared === undefined || offset >= declared.size) {
      body.fail(`writes at ${offset} in the parameter area ${area}, which ${declared === undefined ? "was not declared" : `has ${declared.size} bytes`}`);
    }
  }

  #pageData(body: Body): void {
    const reader = body.reader(24);
    const gpa = reader.u64le();
    const [mask, offset, flags] = [this.#maskOf(reader.u32le(), body), reader.u32le(), reader.u32le()];
    const [type, reserved] = [reader.u16le(), reader.u16le()];
    const dataType = DATA_TYPES[type];
    if (dataType === undefined) return body.fail(`has data type ${type}, expected 0 to 3`);
    if (reserved !== 0 || flags > 7) body.fail("has reserved bits that are not zero");
    if ((flags & 1) !== 0) body.fail("is a page of 2 MiB, which is not supported");
    this.#pageAddress(gpa, body);
    const [unmeasured, shared] = [(flags & 2) !== 0, (flags & 4) !== 0];
    const contents = offset === 0 ? undefined : this.#data(offset, PAGE_SIZE, body);
    if (dataType === "secrets" && contents !== undefined && !isZero(contents)) body.fail("has content, and firmware alone fills a page of secrets");
    this.#directives.push({ kind: "page-data", mask, gpa, dataType, unmeasured, shared, contents, offset: contents === undefined ? undefined : offset });
  }

  #parameterInsert(body: Body): void {
    const reader = body.reader(16);
    const gpa = reader.u64le();
    const [mask, area] = [this.#maskOf(reader.u32le(), body), reader.u32le()];
    const declared = this.#areas.get(area);
    if (declared === undefined) return body.fail(`inserts the parameter area ${area}, which was not declared`);
    if ((declared.inserted & mask) !== 0) return body.fail(`inserts the parameter area ${area} a second time`);
    declared.inserted |= mask;
    this.#insertedBytes += declared.size;
    if (this.#insertedBytes > MAX_IGVM_PARAMETER_BYTES)
      body.fail(`brings the inserted areas to ${this.#insertedBytes} bytes, more than ${MAX_IGVM_PARAMETER_BYTES}`);
    this.#pageAddress(gpa, body);
    this.#pageAddress(gpa + BigInt(declared.size - PAGE_SIZE), body);
    this.#directives.push({ kind: "parameter-insert", mask, gpa, area, size: declared.size });
  }

  #vpContext(body: Body): void {
    const reader = body.reader(24);
    const gpa = reader.u64le();
    const [mask, offset, index] = [this.#maskOf(reader.u32le(), body), reader.u32le(), reader.u16le()];
    if (!isZero(reader.bytes(6))) body.fail("has reserved bytes that are not zero");
    this.#pageAddress(gpa, body);
    this.#directives.push({ kind: "vp-context", mask, gpa, index, contents: this.#data(offset, PAGE_SIZE, body), offset });
  }

  /** Memory that must be there, or where an error may be written: nothing is launched for it. */
  #range(body: Body, size: number): void {
    const reader = body.reader(size);
    this.#pageAddress(reader.u64le(), body);
    this.#maskOf(reader.u32le(), body);
  }

  #idBlock(body: Body): void {
    const reader = body.reader(ID_BLOCK_HEADER);
    const mask = this.#maskOf(reader.u32le(), body);
    // One for each platform at most: their keys are slow to read.
    if (this.#idBlocks.some((other) => (other.mask & mask) !== 0)) body.fail("is a second ID block of one platform");
    const authorEnabled = reader.u8();
    if (authorEnabled > 1 || !isZero(reader.bytes(3))) body.fail("has reserved bytes that are not zero");
    const [measurement, familyId, imageId] = [reader.bytes(48), reader.bytes(16), reader.bytes(16)];
    const [version, guestSvn, idAlgorithm, authorAlgorithm] = [reader.u32le(), reader.u32le(), reader.u32le(), reader.u32le()];
    if (version !== 1 || idAlgorithm !== 1 || (authorEnabled === 1 && authorAlgorithm !== 1)) {
      body.fail(`has version ${version} and algorithms ${idAlgorithm} and ${authorAlgorithm}, expected 1`);
    }
    const idKey = readSignatory(reader, body);
    const author = reader.bytes(SIGNATORY_SIZE);
    const authorKey = authorEnabled === 1 ? readSignatory(new ByteReader(author, "author key"), body) : undefined;
    if (authorKey === undefined && !isZero(author)) body.fail("has an author key that is not enabled");
    this.#idBlocks.push({ mask, block: { measurement, familyId, imageId, guestSvn }, auth: { idKey, authorKey } });
  }

  #maskOf(mask: number, body: Body): number {
    if (mask === 0 || (mask & ~this.#mask) !== 0)
      body.fail(`has the compatibility mask 0x${mask.toString(16)}, expected bits of 0x${(this.#mask >>> 0).toString(16)}`);
    return mask;
  }

  #pageAddress(gpa: bigint, body: Body): void {
    // x86 has physical addresses of up to 52 bits.
    if (gpa % BigInt(PAGE_SIZE) !== 0n || gpa >= 1n << 52n) body.fail(`is for the address 0x${gpa.toString(16)}, expected a multiple of 4096 below 2^52`);
  }

  /** Content stands after the headers: pages may share it, headers may not. */
  #data(offset: number, size: number, body: Body): Uint8Array {
    if (offset < this.#dataStart || offset + size > this.#bytes.length) {
      body.fail(`has its content (${size} bytes) at offset ${offset}, expected from ${this.#dataStart} to ${this.#bytes.length}`);
    }
    return this.#bytes.subarray(offset, offset + size);
  }
}

/** The body of a variable header, and where it stands. */
class Body {
  readonly #bytes: Uint8Array;
  readonly #type: number;
  readonly #at: number;

  constructor(bytes: Uint8Array, type: number, at: number) {
    this.#bytes = bytes;
    this.#type = type;
    this.#at = at;
  }

  reader(size: number): ByteReader {
    if (this.#bytes.length !== size) this.fail(`has ${this.#bytes.length} bytes, expected ${size}`);
    return new ByteReader(this.#bytes, "IGVM header");
  }

  fail(problem: string): never {
    return fail(`the header of type 0x${this.#type.toString(16)} at offset ${this.#at} ${problem}`, this.#at);
  }
}

/** R and S of 72 bytes, then u32 curve, u32 reserved, X and Y of 72 bytes, all little endian. */
const SIGNATORY_SIZE: number = 2 * 72 + 8 + 2 * 72;
const ID_BLOCK_HEADER: number = 8 + 48 + 16 + 16 + 4 * 4 + 2 * SIGNATORY_SIZE;

function readSignatory(reader: ByteReader, body: Body): IdSignatory {
  const number = (): bigint => BigInt(`0x${Buffer.from(Uint8Array.from(reader.bytes(72)).reverse()).toString("hex")}`);
  const signature = { r: number(), s: number() };
  const curve = reader.u32le();
  if (reader.u32le() !== 0) body.fail("has reserved bytes in a key that are not zero");
  const publicKey = new ByteWriter()
    .u32le(curve)
    .bytes(reader.bytes(144))
    .zeros(ID_KEY_SIZE - 148)
    .toBytes();
  parseIdKey(publicKey);
  return { publicKey, signature };
}

function fail(problem: string, offset: number): never {
  throw new SnpError("ERR_SNP_IGVM", `IGVM file: ${problem}`, { details: { offset } });
}
