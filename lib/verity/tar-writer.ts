import { concatBytes, encodeUtf8 } from "@sealpod/core";
import type { ByteSink } from "@sealpod/core";
import { VerityError } from "./errors.ts";
import { FIELD, headerChecksum, paddingOf, TAR_BLOCK } from "./tar-format.ts";
import { encodePaxRecord } from "./tar-pax.ts";

/** What {@link TarWriter.add} needs besides the kind. Everything is explicit, so the bytes depend on nothing else. */
export interface TarItemBase {
  /** Path without a leading `/`. A directory's path is written with a `/` at its end. */
  readonly path: string;
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, an integer. */
  readonly mtime: number;
  readonly xattrs?: ReadonlyMap<string, Uint8Array>;
}

/** A member to write. */
export type TarItem =
  | (TarItemBase & { readonly kind: "file"; readonly data: Uint8Array })
  /** A file whose bytes come in chunks; `size` of them exactly. */
  | (TarItemBase & { readonly kind: "file"; readonly size: number; readonly data: AsyncIterable<Uint8Array> })
  | (TarItemBase & { readonly kind: "directory" | "fifo" })
  | (TarItemBase & { readonly kind: "symlink" | "hardlink"; readonly target: string })
  | (TarItemBase & { readonly kind: "character" | "block"; readonly major: number; readonly minor: number });

const TYPE_FLAGS: Readonly<Record<TarItem["kind"], string>> = {
  file: "0",
  hardlink: "1",
  symlink: "2",
  character: "3",
  block: "4",
  directory: "5",
  fifo: "6",
};

/** Largest value of the header's fields, by the number of octal digits. */
const MAX_7_DIGITS = 0o7777777;
const MAX_11_DIGITS = 0o77777777777;

/**
 * Writes an archive in the ustar format; PAX records (sorted by key) come only where a value does not fit there.
 * The same calls give the same bytes, so archives can be compared and hashed.
 */
export class TarWriter {
  readonly #sink: ByteSink;

  constructor(sink: ByteSink) {
    this.#sink = sink;
  }

  /**
   * Appends a member.
   * @throws {VerityError} ERR_VERITY_ARGUMENT if a value cannot be written, or the data does not have `size` bytes
   */
  async add(item: TarItem): Promise<void> {
    for await (const chunk of encodeItem(item)) await this.#sink.write(chunk);
  }

  /** Writes the end marker: two blocks of zeros. */
  async finish(): Promise<void> {
    await this.#sink.write(new Uint8Array(2 * TAR_BLOCK));
  }
}

/**
 * A whole archive as a stream: what {@link TarWriter} writes, for those who read.
 * @throws {VerityError} ERR_VERITY_ARGUMENT
 */
export async function* encodeTar(items: Iterable<TarItem> | AsyncIterable<TarItem>): AsyncGenerator<Uint8Array> {
  for await (const item of items) yield* encodeItem(item);
  yield new Uint8Array(2 * TAR_BLOCK);
}

async function* encodeItem(item: TarItem): AsyncGenerator<Uint8Array> {
  const size = sizeOf(item);
  const { header, pax } = encodeHeader(item, size);
  if (pax.size > 0) yield encodePax(pax, item.mtime);
  yield header;
  if (item.kind !== "file") return;
  let written = 0;
  for await (const chunk of item.data instanceof Uint8Array ? [item.data] : item.data) {
    written += chunk.length;
    if (written > size) break;
    if (chunk.length > 0) yield chunk;
  }
  if (written !== size) {
    throw new VerityError(
      "ERR_VERITY_ARGUMENT",
      `tar member ${JSON.stringify(item.path)}: expected ${size} bytes of data, got ${written > size ? "more" : written}`,
    );
  }
  if (paddingOf(size) > 0) yield new Uint8Array(paddingOf(size));
}

function sizeOf(item: TarItem): number {
  if (item.kind !== "file") return 0;
  return "size" in item ? item.size : item.data.length;
}

function encodeHeader(item: TarItem, size: number): { readonly header: Uint8Array; readonly pax: ReadonlyMap<string, Uint8Array> } {
  const header = new Uint8Array(TAR_BLOCK);
  const pax = new Map<string, Uint8Array>();
  const path = encodeUtf8(item.kind === "directory" && !item.path.endsWith("/") ? `${item.path}/` : item.path);
  checkText(item.path, "path", item.path);
  if (item.kind === "file" && item.path.endsWith("/")) throw new VerityError("ERR_VERITY_ARGUMENT", `tar file ${JSON.stringify(item.path)} ends with "/"`);
  writePath(header, path, pax);
  const octal = (field: { readonly at: number; readonly length: number; readonly name: string }, value: number, max: number, key?: string): void => {
    if (!Number.isSafeInteger(value) || (key === undefined && (value < 0 || value > max)) || (value < 0 && key !== "mtime")) {
      throw new VerityError("ERR_VERITY_ARGUMENT", `tar member ${JSON.stringify(item.path)}: ${field.name} ${value} cannot be written`);
    }
    const fits = value >= 0 && value <= max;
    if (!fits && key !== undefined) pax.set(key, encodeUtf8(String(value)));
    header.set(encodeUtf8((fits ? value : 0).toString(8).padStart(field.length - 1, "0")), field.at);
  };
  octal(FIELD.mode, item.mode, 0o7777);
  octal(FIELD.uid, item.uid, MAX_7_DIGITS, "uid");
  octal(FIELD.gid, item.gid, MAX_7_DIGITS, "gid");
  octal(FIELD.size, size, MAX_11_DIGITS, "size");
  octal(FIELD.mtime, item.mtime, MAX_11_DIGITS, "mtime");
  header.set(encodeUtf8(TYPE_FLAGS[item.kind]), FIELD.typeflag.at);
  header.set(encodeUtf8("ustar\u000000"), FIELD.magic.at);
  if (item.kind === "symlink" || item.kind === "hardlink") {
    checkText(item.target, "link target", item.path);
    const target = encodeUtf8(item.target);
    header.set(target.subarray(0, FIELD.linkName.length), FIELD.linkName.at);
    if (target.length > FIELD.linkName.length || !isAscii(target)) pax.set("linkpath", target);
  }
  if (item.kind === "character" || item.kind === "block") {
    octal(FIELD.major, item.major, MAX_7_DIGITS);
    octal(FIELD.minor, item.minor, MAX_7_DIGITS);
  }
  for (const [name, value] of item.xattrs ?? []) {
    if (name === "" || /[=\0]/.test(name)) throw new VerityError("ERR_VERITY_ARGUMENT", `extended attribute name ${JSON.stringify(name)} cannot be written`);
    pax.set(`SCHILY.xattr.${name}`, value);
  }
  writeChecksum(header);
  return { header, pax };
}

/** ustar holds 100 bytes of name, or 155 of prefix and 100 of name cut at a `/`. */
function writePath(header: Uint8Array, path: Uint8Array, pax: Map<string, Uint8Array>): void {
  if (path.length <= FIELD.name.length) {
    header.set(path, FIELD.name.at);
  } else {
    // The last byte may be a directory's slash; a cut there would leave no name.
    let cut = path.lastIndexOf(0x2f, Math.min(FIELD.prefix.length, path.length - 2));
    if (cut > 0 && path.length - cut - 1 <= FIELD.name.length) {
      header.set(path.subarray(0, cut), FIELD.prefix.at);
      header.set(path.subarray(cut + 1), FIELD.name.at);
    } else {
      cut = FIELD.name.length;
      header.set(path.subarray(0, cut), FIELD.name.at);
      pax.set("path", path);
    }
  }
  // ustar promises ASCII only; PAX promises UTF-8.
  if (!isAscii(path)) pax.set("path", path);
}

function encodePax(records: ReadonlyMap<string, Uint8Array>, mtime: number): Uint8Array {
  const sorted = [...records].sort(([a], [b]) => (a < b ? -1 : 1));
  const body = concatBytes(...sorted.map(([key, value]) => encodePaxRecord(key, value)));
  const header = new Uint8Array(TAR_BLOCK);
  const put = (field: { readonly at: number }, text: string): void => header.set(encodeUtf8(text), field.at);
  put(FIELD.name, "PaxHeaders/record");
  put(FIELD.mode, "0000644");
  put(FIELD.uid, "0000000");
  put(FIELD.gid, "0000000");
  put(FIELD.size, body.length.toString(8).padStart(11, "0"));
  put(FIELD.mtime, (mtime >= 0 && mtime <= MAX_11_DIGITS ? mtime : 0).toString(8).padStart(11, "0"));
  put(FIELD.typeflag, "x");
  put(FIELD.magic, "ustar\u000000");
  writeChecksum(header);
  return concatBytes(header, body, new Uint8Array(paddingOf(body.length)));
}

function writeChecksum(header: Uint8Array): void {
  header.set(encodeUtf8(`${headerChecksum(header).toString(8).padStart(6, "0")}\0 `), FIELD.checksum.at);
}

function checkText(text: string, what: string, path: string): void {
  if (text !== "" && !text.includes("\0") && text.isWellFormed()) return;
  throw new VerityError("ERR_VERITY_ARGUMENT", `tar member ${JSON.stringify(path)}: its ${what} is empty, has a NUL or is not valid Unicode`);
}

function isAscii(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte < 0x80);
}
