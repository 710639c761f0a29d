import { join, resolve } from "node:path";
import { type Clock, decodeUtf8, encodeUtf8, equalBytes, fromHex, isSealpodError, type Logger, messageOf, type Random, toHex } from "@sealpod/core";
import { type Certificate, type Crl, encodeCertificatesPem, parseCertificate, parseCertificatesPem, parseCrl } from "@sealpod/pki";
import {
  type Authorities,
  checkAuthorities,
  chipIdLength,
  type EndorsementKey,
  type EndorsementKind,
  type EndorsementRequest,
  MAX_CERTIFICATES_BYTES,
  MAX_KDS_CRL_BYTES,
  parseEndorsementKey,
  parseTcb,
  type ProductName,
} from "@sealpod/snp";
import { isDirectory, isTemporary, listDirectory, makeDirectory, readSmallFile, removeAbandoned, removeFile, writeFileAtomic } from "./atomic-file.ts";
import { CertcacheError } from "./errors.ts";
import { orderedPairs } from "./trust.ts";

/** Most VCEK certificates of a cache, if nothing else is said: a data centre of some thousand machines over many firmware versions, 256 MiB of disk blocks. */
export const DEFAULT_MAX_ENTRIES = 65_536;

/** Options of {@link EndorsementStore.open}. */
export interface StoreOptions {
  readonly directory: string;
  /** What becomes of a directory that is not there: it is made at once, or refused. Left out, it is made when the first file is written. */
  readonly missing?: "make" | "refuse";
  /** Most VCEK certificates that are kept. What is there is never removed to make room: a full store serves what it has and keeps nothing new. Default: {@link DEFAULT_MAX_ENTRIES}. */
  readonly maxEntries?: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** A VCEK certificate from the disk. It is what its name says; its signature was not looked at. */
export interface StoredEndorsement {
  readonly key: EndorsementKey;
  readonly certificate: Certificate;
}

/** One file of a store. */
export interface StoreEntry {
  /** Lower-case hex digits. */
  readonly hwId: string;
  /** Name of the file. */
  readonly file: string;
  /** Absolute. */
  readonly path: string;
}

const HW_ID = /^(?:[0-9a-f]{16}|[0-9a-f]{128})$/;
const VCEK_FILE = /^bl(\d{2,3})_tee(\d{2,3})_snp(\d{2,3})_ucode(\d{2,3})(?:_fmc(\d{2,3}))?_vcek\.der$/;

/** Name that Trustee gives to a chip's only certificate, whatever its TCB. */
const ANY_TCB_FILE = "vcek.der";

/**
 * Certificates on the disk, for ever: `vcek/{hwid}/bl04_tee00_snp24_ucode219[_fmc01]_vcek.der` as in the offline store of Trustee, and beside it `chain/{vcek|vlek}_{product}.pem`
 * (ASK, ARK; if AMD issued an ASK again, the pairs before it follow) and `crl/{vcek|vlek}_{product}.der`. Files appear whole or not at all, and what does not hold what its name says counts as not there.
 * Names are made of bytes that were read, never of text that was sent, so no request reaches another file.
 */
export class EndorsementStore {
  readonly directory: string;
  readonly maxEntries: number;
  readonly #options: StoreOptions;
  #count: number;
  /** Files that are being written, with the end of the last that waits to write. */
  readonly #busy = new Map<string, Promise<void>>();

  private constructor(options: StoreOptions, directory: string, count: number) {
    this.directory = directory;
    this.maxEntries = options.maxEntries ?? DEFAULT_MAX_ENTRIES;
    this.#options = options;
    this.#count = count;
  }

  /**
   * Opens a store, counts what it has and removes what killed writers left in it. What is no directory is refused.
   * @throws {CertcacheError} ERR_CERTCACHE_STORE, ERR_CERTCACHE_ARGUMENT
   */
  static async open(options: StoreOptions): Promise<EndorsementStore> {
    const { maxEntries = DEFAULT_MAX_ENTRIES } = options;
    if (!Number.isSafeInteger(maxEntries) || maxEntries < 1)
      throw new CertcacheError("ERR_CERTCACHE_ARGUMENT", `a limit of ${maxEntries} entries, expected 1 or more`);
    const directory = resolve(options.directory);
    if (!(await isDirectory(directory))) {
      if (options.missing === "refuse") {
        throw new CertcacheError("ERR_CERTCACHE_STORE", `${directory} does not exist`, {
          hint: "Fill a cache with `sealpod certcache fetch` or `sealpod certcache import`, or name the directory of one.",
        });
      }
      if (options.missing === "make") await makeDirectory(directory);
    }
    const now = options.clock.now();
    for (const folder of ["chain", "crl"]) await removeAbandoned(join(directory, folder), await listDirectory(join(directory, folder)), now);
    let count = 0;
    for (const chip of await listDirectory(join(directory, "vcek"))) {
      const path = join(directory, "vcek", chip.name);
      const files = HW_ID.test(chip.name) ? await listDirectory(path) : [];
      await removeAbandoned(path, files, now);
      count += files.filter(({ name }) => isEntry(name)).length;
    }
    return new EndorsementStore(options, directory, count);
  }

  /** VCEK certificates that are kept. */
  get count(): number {
    return this.#count;
  }

  /**
   * The certificate for a chip and TCB, of whatever product; undefined if there is none, or if the file is damaged or another's (which is logged).
   * @throws {CertcacheError} ERR_CERTCACHE_STORE
   */
  async readEndorsement(request: EndorsementRequest): Promise<StoredEndorsement | undefined> {
    const folder = join(this.directory, "vcek", hwIdOf(request));
    for (const file of [fileOf(request), ANY_TCB_FILE]) {
      const path = join(folder, file);
      const found = await this.#read(path, MAX_CERTIFICATES_BYTES, readVcek);
      if (found === undefined) continue;
      if (isFor(found.key, request)) return found;
      // A name for any TCB says nothing that could be wrong.
      if (file !== ANY_TCB_FILE) this.#damaged(path, "it holds the certificate of another chip or TCB");
    }
    return undefined;
  }

  /**
   * Keeps a certificate, in place of one that is there for the same chip and TCB.
   * @returns "full" if it was not kept
   * @throws {CertcacheError} ERR_CERTCACHE_STORE
   */
  async writeEndorsement(certificate: Certificate): Promise<"stored" | "full"> {
    const path = this.#placeOf(certificate);
    return this.#alone(path, async () => {
      const isNew = (await readSmallFile(path, MAX_CERTIFICATES_BYTES)) === undefined;
      if (isNew && this.#count >= this.maxEntries) return "full";
      // Before the wait, so that writers of other files do not all see the last free place.
      if (isNew) this.#count++;
      try {
        await writeFileAtomic(path, certificate.der, this.#options.random);
      } catch (error) {
        if (isNew) this.#count--;
        throw error;
      }
      return "stored";
    });
  }

  /**
   * True if a certificate would be one more file, and not take the place of one that is there, damaged or not.
   * @throws {CertcacheError} ERR_CERTCACHE_STORE
   */
  async isNew(certificate: Certificate): Promise<boolean> {
    return (await readSmallFile(this.#placeOf(certificate), MAX_CERTIFICATES_BYTES)) === undefined;
  }

  /** The certificates of a product's authorities, unverified, today's in front ({@link orderedPairs}); none if the file is damaged. */
  async readAuthorities(kind: EndorsementKind, product: ProductName): Promise<readonly Authorities[]> {
    return (await this.#read(this.#chainPath(kind, product), MAX_CERTIFICATES_BYTES, (bytes) => parsePairs(bytes, kind, product))) ?? [];
  }

  /**
   * Keeps these pairs in place of those that are there.
   * @throws {CertcacheError} ERR_CERTCACHE_STORE
   */
  async writeAuthorities(kind: EndorsementKind, product: ProductName, pairs: readonly Authorities[]): Promise<void> {
    await writeFileAtomic(this.#chainPath(kind, product), pairsBytes(pairs), this.#options.random);
  }

  /** The revocation list of a product's root, unverified; undefined if there is none, or if the file is damaged. */
  async readCrl(kind: EndorsementKind, product: ProductName): Promise<Crl | undefined> {
    return this.#read(this.#crlPath(kind, product), MAX_KDS_CRL_BYTES, (bytes) => parseCrl(bytes, "stored CRL"));
  }

  /** @throws {CertcacheError} ERR_CERTCACHE_STORE */
  async writeCrl(kind: EndorsementKind, product: ProductName, crl: Crl): Promise<void> {
    await writeFileAtomic(this.#crlPath(kind, product), crl.der, this.#options.random);
  }

  /**
   * Keeps all of these, or none: if the disk fails midway, what was there before is put back. Whether there is room is for the caller.
   * @throws {CertcacheError} ERR_CERTCACHE_STORE
   */
  async writeAll(items: {
    readonly authorities: readonly { readonly kind: EndorsementKind; readonly product: ProductName; readonly pairs: readonly Authorities[] }[];
    readonly crls: readonly { readonly kind: EndorsementKind; readonly product: ProductName; readonly crl: Crl }[];
    readonly certificates: readonly Certificate[];
  }): Promise<void> {
    const files = [
      ...items.authorities.map(({ kind, product, pairs }) => ({ path: this.#chainPath(kind, product), bytes: pairsBytes(pairs), counts: 0 })),
      ...items.crls.map(({ kind, product, crl }) => ({ path: this.#crlPath(kind, product), bytes: crl.der, counts: 0 })),
      ...items.certificates.map((item) => ({ path: this.#placeOf(item), bytes: item.der, counts: 1 })),
    ];
    const { random } = this.#options;
    const done: (() => Promise<void>)[] = [];
    try {
      for (const { path, bytes, counts } of files) {
        await this.#alone(path, async () => {
          const before = await readSmallFile(path, MAX_KDS_CRL_BYTES);
          const isNew = before === undefined ? counts : 0;
          await writeFileAtomic(path, bytes, random);
          this.#count += isNew;
          done.push(async () => {
            this.#count -= isNew;
            await (before === undefined || before === "unusable" ? removeFile(path) : writeFileAtomic(path, before, random));
          });
        });
      }
    } catch (error) {
      for (const undo of done.reverse()) {
        await undo().catch((cause: unknown) =>
          this.#options.logger.log("error", "a file of a failed import could not be taken back", { problem: messageOf(cause) }),
        );
      }
      throw error;
    }
  }

  /**
   * The files of VCEK certificates, in the order of their names; what is in them was not looked at.
   * @throws {CertcacheError} ERR_CERTCACHE_STORE
   */
  async *entries(): AsyncIterable<StoreEntry> {
    yield* listEntries(join(this.directory, "vcek"));
  }

  /**
   * What a listed file holds, if it is what its name says.
   * @throws {CertcacheError} ERR_CERTCACHE_STORE
   */
  async readEntry(entry: StoreEntry): Promise<StoredEndorsement | undefined> {
    const found = await this.#read(entry.path, MAX_CERTIFICATES_BYTES, readVcek);
    if (found === undefined || isNamed(found.key, entry)) return found;
    this.#damaged(entry.path, "it holds the certificate of another chip or TCB");
    return undefined;
  }

  #placeOf(certificate: Certificate): string {
    return placeOf(this.directory, parseEndorsementKey(certificate));
  }

  /** Does one thing after the other to a file: between the look whether it is there and its writing nobody else may make it. */
  async #alone<T>(path: string, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(path);
    const done = Promise.withResolvers<void>();
    this.#busy.set(path, done.promise);
    await before;
    try {
      return await work();
    } finally {
      done.resolve();
      if (this.#busy.get(path) === done.promise) this.#busy.delete(path);
    }
  }

  #chainPath(kind: EndorsementKind, product: ProductName): string {
    return join(this.directory, "chain", `${kind}_${product}.pem`);
  }

  #crlPath(kind: EndorsementKind, product: ProductName): string {
    return join(this.directory, "crl", `${kind}_${product}.der`);
  }

  async #read<T>(path: string, limit: number, parse: (bytes: Uint8Array) => T): Promise<T | undefined> {
    const bytes = await readSmallFile(path, limit);
    if (bytes === undefined) return undefined;
    try {
      if (bytes !== "unusable") return parse(bytes);
      this.#damaged(path, `it is no file of up to ${limit} bytes`);
    } catch (error) {
      if (!isSealpodError(error)) throw error;
      this.#damaged(path, messageOf(error));
    }
    return undefined;
  }

  #damaged(path: string, problem: string): void {
    this.#options.logger.log("warn", "damaged file in the certificate cache: it is not used, and replaced when it is fetched again", { path, problem });
  }
}

/**
 * The VCEK files below a directory `vcek` in the layout of {@link EndorsementStore}, in the order of their names. Other files and links are left out.
 * @param ignored receives the path of each that is left out, relative to `vcekDirectory`
 * @throws {CertcacheError} ERR_CERTCACHE_STORE
 */
export async function* listEntries(vcekDirectory: string, ignored: (path: string) => void = () => undefined): AsyncIterable<StoreEntry> {
  for (const chip of await listDirectory(vcekDirectory)) {
    if (!chip.isDirectory() || !HW_ID.test(chip.name)) {
      ignored(chip.name);
      continue;
    }
    const folder = join(vcekDirectory, chip.name);
    for (const file of await listDirectory(folder)) {
      if (file.isFile() && isEntry(file.name)) yield { hwId: chip.name, file: file.name, path: join(folder, file.name) };
      else if (!isTemporary(file.name)) ignored(join(chip.name, file.name));
    }
  }
}

/** Reads a VCEK certificate. */
export function readVcek(der: Uint8Array): StoredEndorsement {
  const certificate = parseCertificate(der, "VCEK");
  return { certificate, key: vcekKeyOf(certificate) };
}

/**
 * What AMD says of the key of a VCEK certificate.
 * @throws {CertcacheError} ERR_CERTCACHE_BUNDLE if it is a VLEK's
 */
export function vcekKeyOf(certificate: Certificate): VcekKey {
  const key = parseEndorsementKey(certificate);
  if (key.hwId === undefined) throw new CertcacheError("ERR_CERTCACHE_BUNDLE", "a VLEK certificate, expected a VCEK's");
  return { ...key, hwId: key.hwId };
}

/** A key that belongs to a chip. */
export interface VcekKey extends EndorsementKey {
  readonly hwId: Uint8Array;
}

/** Name of what a request asks for: the same for all that may be answered with the same file. */
export function nameOf(request: EndorsementRequest): string {
  return `${hwIdOf(request)}/${fileOf(request)}`;
}

/** True if a directory and a file of a listing are named after this key. Trustee writes the ids of Turin with or without their zeros. */
export function isNamed(key: EndorsementKey, { hwId, file }: Pick<StoreEntry, "hwId" | "file">): boolean {
  const id = key.hwId ?? new Uint8Array();
  const named = fromHex(hwId);
  const isId = equalBytes(named, id) || (named.length === 64 && equalBytes(named, padded(id)));
  return isId && (file === ANY_TCB_FILE || file === fileName(key.tcbBytes, key.product));
}

/** The request that a certificate is the answer to. */
export function requestOf(key: VcekKey): EndorsementRequest {
  return { products: [key.product], chipId: padded(key.hwId), reportedTcb: key.tcbBytes };
}

/**
 * Reads the pairs of a chain file: intermediate, its root, the next intermediate, and so on.
 * @throws {SealpodError} what is wrong with the text, or ERR_SNP_CHAIN
 */
export function parsePairs(bytes: Uint8Array, kind: EndorsementKind, product: ProductName): readonly Authorities[] {
  const certificates = parseCertificatesPem(decodeUtf8(bytes, "chain"), "chain");
  // At least one, so that a file without any is refused.
  const pairs = Array.from({ length: Math.max(1, Math.ceil(certificates.length / 2)) }, (_, index) => certificates.slice(index * 2, index * 2 + 2));
  return orderedPairs(pairs.map((pair) => checkAuthorities(pair, kind, product)));
}

function pairsBytes(pairs: readonly Authorities[]): Uint8Array {
  return encodeUtf8(encodeCertificatesPem(orderedPairs(pairs).flatMap(({ intermediate, root }) => [intermediate, root])));
}

function placeOf(directory: string, key: EndorsementKey): string {
  if (key.hwId === undefined) throw new CertcacheError("ERR_CERTCACHE_BUNDLE", "a VLEK certificate, expected a VCEK's");
  return join(directory, "vcek", toHex(key.hwId), fileName(key.tcbBytes, key.product));
}

function isEntry(name: string): boolean {
  return name === ANY_TCB_FILE || VCEK_FILE.test(name);
}

function isFor({ hwId, tcbBytes, product }: EndorsementKey, { chipId, reportedTcb, products }: EndorsementRequest): boolean {
  const isTurin = products[0] === "Turin";
  return hwId !== undefined && (product === "Turin") === isTurin && equalBytes(padded(hwId), chipId) && equalBytes(tcbBytes, reportedTcb);
}

function padded(hwId: Uint8Array): Uint8Array {
  const chipId = new Uint8Array(64);
  chipId.set(hwId);
  return chipId;
}

function hwIdOf({ products: [product = "Milan"], chipId }: EndorsementRequest): string {
  return toHex(chipId.subarray(0, chipIdLength(product)));
}

function fileOf({ products: [product = "Milan"], reportedTcb }: EndorsementRequest): string {
  return fileName(reportedTcb, product);
}

function fileName(tcbBytes: Uint8Array, product: ProductName): string {
  const tcb = parseTcb(tcbBytes, product);
  const two = (level: number): string => String(level).padStart(2, "0");
  const fmc = tcb.fmc === undefined ? "" : `_fmc${two(tcb.fmc)}`;
  return `bl${two(tcb.bootloader)}_tee${two(tcb.tee)}_snp${two(tcb.snp)}_ucode${two(tcb.microcode)}${fmc}_vcek.der`;
}
