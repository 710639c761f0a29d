import { isZero, toHex } from "@sealpod/core";
import { VerityError } from "./errors.ts";
import type { TarLimits } from "./limits.ts";
import { FIELD, fieldNumber, fieldText, headerChecksum, headerFormat, paddingOf, TAR_BLOCK, toLatin1 } from "./tar-format.ts";
import type { TarFormat } from "./tar-format.ts";
import { parsePaxRecords } from "./tar-pax.ts";

/** What a member is. GNU sparse files, contiguous files, volume labels and the like are refused. */
export type TarMemberKind = "file" | "hardlink" | "symlink" | "character" | "block" | "directory" | "fifo";

/** A member as its header and long-name records tell it. Paths are bytes, one per character (latin-1). */
export interface TarMember {
  readonly kind: TarMemberKind;
  /** Offset of the member's own header in the archive (long-name records come before it). */
  readonly headerOffset: number;
  /** Offset of the first byte of its data. */
  readonly dataOffset: number;
  readonly path: string;
  /** Target of a link, else "". */
  readonly target: string;
  /** Target as the 100-byte header field holds it. */
  readonly headerTarget: string;
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  /** Owner, group and time (seconds) of the header; PAX records may say otherwise. */
  readonly uid: number;
  readonly gid: number;
  readonly mtime: number;
  readonly major: number;
  readonly minor: number;
  /** Bytes of data; zero for all but files. */
  readonly size: number;
  readonly pax: ReadonlyMap<string, Uint8Array>;
}

/** What {@link TarScanner.push} yields: a member, then the bytes of its data. */
export type TarEvent = { readonly kind: "member"; readonly member: TarMember } | { readonly kind: "data"; readonly bytes: Uint8Array };

const KINDS: ReadonlyMap<string, TarMemberKind> = new Map([
  ["0", "file"],
  ["\0", "file"],
  ["1", "hardlink"],
  ["2", "symlink"],
  ["3", "character"],
  ["4", "block"],
  ["5", "directory"],
  ["6", "fifo"],
]);

const UNSUPPORTED: ReadonlyMap<string, string> = new Map([
  ["7", "contiguous file"],
  ["S", "GNU sparse file"],
  ["D", "GNU directory dump"],
  ["M", "GNU multi-volume part"],
  ["V", "GNU volume label"],
  ["N", "old GNU long name"],
  ["X", "Solaris extended header"],
]);

const EMPTY_PAX: ReadonlyMap<string, Uint8Array> = new Map();

/** A long-name or PAX record that is being collected. */
interface PendingRecord {
  readonly type: "L" | "K" | "x" | "g";
  readonly offset: number;
  readonly bytes: Uint8Array;
  filled: number;
}

/**
 * Splits an archive into members. It is the one reading of the format in this project: the tar index (whose hash goes into
 * the policy) and the extractor (which makes the files) both stand on it, so they cannot be made to see different archives.
 * Where widespread readers disagree about a construct, the archive is refused.
 */
export class TarScanner {
  readonly #limits: TarLimits;
  readonly #header = new Uint8Array(TAR_BLOCK);
  #headerFilled = 0;
  /** Bytes of the archive taken so far. */
  #offset = 0;
  #dataLeft = 0;
  #skipLeft = 0;
  #members = 0;
  #records = 0;
  #ended = false;
  #record: PendingRecord | undefined;
  #longName: Uint8Array | undefined;
  #longTarget: Uint8Array | undefined;
  #pax: ReadonlyMap<string, Uint8Array> | undefined;

  constructor(limits: TarLimits) {
    this.#limits = limits;
  }

  /** Bytes of the archive taken so far. */
  get offset(): number {
    return this.#offset;
  }

  /**
   * Takes the next bytes of the archive, cut anywhere. The generator must run to its end before the next push; data events
   * share memory with `chunk`.
   * @throws {VerityError} ERR_VERITY_TAR, ERR_VERITY_TAR_UNSUPPORTED, ERR_VERITY_LIMIT
   */
  *push(chunk: Uint8Array): Generator<TarEvent, void, undefined> {
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#offset + rest.length > this.#limits.maxTotalSize) throw this.#limit("archive size", this.#offset + rest.length, this.#limits.maxTotalSize);
      if (this.#ended) {
        if (!isZero(rest)) {
          throw new VerityError("ERR_VERITY_TAR", `tar archive goes on after its end marker, at or after offset ${this.#offset}`, {
            details: { offset: this.#offset },
            hint: "Some readers would take what follows for more files. Write the layer again with one archive in it.",
          });
        }
        this.#offset += rest.length;
        return;
      }
      const wanted = this.#record !== undefined ? this.#record.bytes.length - this.#record.filled : this.#dataLeft;
      if (wanted > 0) {
        const piece = rest.subarray(0, wanted);
        rest = rest.subarray(piece.length);
        this.#offset += piece.length;
        if (this.#record !== undefined) {
          this.#record.bytes.set(piece, this.#record.filled);
          this.#record.filled += piece.length;
          if (this.#record.filled === this.#record.bytes.length) this.#finishRecord(this.#record);
        } else {
          this.#dataLeft -= piece.length;
          yield { kind: "data", bytes: piece };
        }
      } else if (this.#skipLeft > 0) {
        const skipped = Math.min(this.#skipLeft, rest.length);
        rest = rest.subarray(skipped);
        this.#offset += skipped;
        this.#skipLeft -= skipped;
      } else {
        const piece = rest.subarray(0, TAR_BLOCK - this.#headerFilled);
        rest = rest.subarray(piece.length);
        this.#header.set(piece, this.#headerFilled);
        this.#headerFilled += piece.length;
        this.#offset += piece.length;
        if (this.#headerFilled === TAR_BLOCK) {
          this.#headerFilled = 0;
          const member = this.#takeHeader();
          if (member !== undefined) yield { kind: "member", member };
        }
      }
    }
  }

  /**
   * Says that the archive is over. An end without a block of zeros is taken, as the common readers do.
   * @throws {VerityError} ERR_VERITY_TAR_TRUNCATED
   */
  end(): void {
    const missing = this.#record !== undefined ? this.#record.bytes.length - this.#record.filled : this.#dataLeft + this.#skipLeft;
    if (missing > 0 || this.#headerFilled > 0) {
      throw new VerityError("ERR_VERITY_TAR_TRUNCATED", `tar archive ends at offset ${this.#offset} inside a ${this.#headerFilled > 0 ? "header" : "member"}`, {
        details: { offset: this.#offset },
      });
    }
    this.#noPending(this.#offset, "the end of the archive");
  }

  #takeHeader(): TarMember | undefined {
    const header = this.#header;
    const offset = this.#offset - TAR_BLOCK;
    if (isZero(header)) {
      this.#noPending(offset, "the end marker");
      this.#ended = true;
      return undefined;
    }
    const expected = fieldNumber(header, FIELD.checksum, offset);
    const found = headerChecksum(header);
    if (found !== expected) {
      throw new VerityError("ERR_VERITY_TAR", `tar header at offset ${offset}: checksum is ${found}, the header states ${expected}`, {
        details: { offset, found, expected },
      });
    }
    const format = headerFormat(header, offset);
    const type = String.fromCharCode(header[FIELD.typeflag.at] ?? 0);
    const size = fieldNumber(header, FIELD.size, offset);
    if (type === "L" || type === "K" || type === "x" || type === "g") {
      this.#beginRecord(type, format, size, offset);
      return undefined;
    }
    return this.#member(type, format, size, offset);
  }

  #beginRecord(type: PendingRecord["type"], format: TarFormat, size: number, offset: number): void {
    if (format === "v7") throw new VerityError("ERR_VERITY_TAR", `tar header at offset ${offset}: record ${type} in the v7 format`, { details: { offset } });
    if (size > this.#limits.maxRecordSize) throw this.#limit(`record at offset ${offset}`, size, this.#limits.maxRecordSize);
    const twice =
      (type === "L" && this.#longName !== undefined) || (type === "K" && this.#longTarget !== undefined) || (type === "x" && this.#pax !== undefined);
    if (twice) throw new VerityError("ERR_VERITY_TAR", `tar header at offset ${offset}: second ${type} record for one member`, { details: { offset } });
    if (type === "g") this.#noPending(offset, "a global PAX header");
    // Three kinds of records can stand before a member; a stream of nothing but global headers must end too.
    if (++this.#records > 3 * this.#limits.maxEntries) throw this.#limit("number of records", this.#records, 3 * this.#limits.maxEntries);
    if (size === 0) throw new VerityError("ERR_VERITY_TAR", `tar header at offset ${offset}: empty ${type} record`, { details: { offset } });
    this.#record = { type, offset: this.#offset, bytes: new Uint8Array(size), filled: 0 };
  }

  #finishRecord(record: PendingRecord): void {
    this.#record = undefined;
    this.#skipLeft = paddingOf(record.bytes.length);
    switch (record.type) {
      case "L":
        this.#longName = this.#longText(record);
        break;
      case "K":
        this.#longTarget = this.#longText(record);
        break;
      case "x":
        this.#pax = parsePaxRecords(record.bytes, record.offset);
        break;
      case "g": {
        // Container tools ignore global headers and pax tools apply them; only a comment (as `git archive` writes) means the same to both.
        const other = [...parsePaxRecords(record.bytes, record.offset).keys()].find((key) => key !== "comment");
        if (other !== undefined) {
          throw new VerityError("ERR_VERITY_TAR_UNSUPPORTED", `global PAX header at offset ${record.offset} sets ${JSON.stringify(other)}`, {
            details: { offset: record.offset, key: other },
          });
        }
        break;
      }
    }
  }

  /** The name of an L or K record: one NUL at the end is a terminator, any other would cut the name for C programs alone. */
  #longText(record: PendingRecord): Uint8Array {
    const { bytes } = record;
    const text = bytes[bytes.length - 1] === 0 ? bytes.subarray(0, -1) : bytes;
    if (text.length === 0 || text.includes(0)) {
      throw new VerityError("ERR_VERITY_TAR", `GNU long name at offset ${record.offset} is empty or has a NUL inside`, { details: { offset: record.offset } });
    }
    return text;
  }

  #member(type: string, format: TarFormat, headerSize: number, offset: number): TarMember {
    const header = this.#header;
    const kind = KINDS.get(type);
    if (kind === undefined || (format === "v7" && !["0", "\0", "1", "2", "5"].includes(type))) {
      const what = UNSUPPORTED.get(type) ?? `type ${JSON.stringify(type)}${format === "v7" ? " in the v7 format" : ""}`;
      throw new VerityError(
        "ERR_VERITY_TAR_UNSUPPORTED",
        `tar member at offset ${offset} is a ${what}: image layers have files, links, directories and devices`,
        {
          details: { offset, type },
          hint: "Build the image with a current tool (BuildKit, Buildah, Kaniko, ko); none of them writes such members.",
        },
      );
    }
    const pax = this.#pax ?? EMPTY_PAX;
    const path = this.#text("path", this.#longName, pax.get("path"), headerPath(header, format), offset);
    const headerTarget = toLatin1(fieldText(header, FIELD.linkName));
    const isLink = kind === "symlink" || kind === "hardlink";
    const target = isLink ? this.#text("link target", this.#longTarget, pax.get("linkpath"), headerTarget, offset) : "";
    if (!isLink && (this.#longTarget !== undefined || pax.has("linkpath"))) {
      throw new VerityError("ERR_VERITY_TAR", `tar member at offset ${offset} has a link target but is no link`, { details: { offset } });
    }
    if (kind === "file" && path.endsWith("/")) {
      throw new VerityError("ERR_VERITY_TAR", `tar member at offset ${offset} is a file whose name ends with "/": some readers take it for a directory`, {
        details: { offset },
      });
    }
    for (const key of pax.keys()) {
      if (key.startsWith("GNU.sparse.") || key === "SCHILY.realsize") {
        throw new VerityError("ERR_VERITY_TAR_UNSUPPORTED", `tar member at offset ${offset} is a PAX sparse file (${key})`, { details: { offset, key } });
      }
    }
    const size = this.#size(headerSize, pax, offset);
    if (kind !== "file" && size !== 0) {
      throw new VerityError("ERR_VERITY_TAR", `tar member at offset ${offset} is a ${kind} with ${size} bytes of data: readers disagree whether they follow`, {
        details: { offset, size },
      });
    }
    // A size that the archive cannot have is refused here, not when the bytes have come.
    const end = offset + TAR_BLOCK + size;
    if (end > this.#limits.maxTotalSize) throw this.#limit(`end of the member at offset ${offset}`, end, this.#limits.maxTotalSize);
    if (++this.#members > this.#limits.maxEntries) throw this.#limit("number of members", this.#members, this.#limits.maxEntries);
    this.#longName = undefined;
    this.#longTarget = undefined;
    this.#pax = undefined;
    this.#dataLeft = size;
    this.#skipLeft = paddingOf(size);
    const isDevice = kind === "character" || kind === "block";
    const lenient = { emptyIsZero: true };
    return {
      kind,
      headerOffset: offset,
      dataOffset: offset + TAR_BLOCK,
      path,
      target,
      headerTarget,
      // Some writers put the file type into the mode as well; the type flag decides.
      mode: fieldNumber(header, FIELD.mode, offset) & 0o7777,
      uid: fieldNumber(header, FIELD.uid, offset, lenient),
      gid: fieldNumber(header, FIELD.gid, offset, lenient),
      mtime: fieldNumber(header, FIELD.mtime, offset, { ...lenient, signed: true }),
      major: isDevice ? fieldNumber(header, FIELD.major, offset, lenient) : 0,
      minor: isDevice ? fieldNumber(header, FIELD.minor, offset, lenient) : 0,
      size,
      pax,
    };
  }

  /** A path or target from its up to three places. GNU and PAX records that contradict each other are refused: each is first for some reader. */
  #text(what: string, gnu: Uint8Array | undefined, pax: Uint8Array | undefined, field: string, offset: number): string {
    if (gnu !== undefined && pax !== undefined && toHex(gnu) !== toHex(pax)) {
      throw new VerityError("ERR_VERITY_TAR", `tar member at offset ${offset} has a GNU and a PAX ${what} that differ`, { details: { offset } });
    }
    const record = gnu ?? pax;
    const text = record === undefined ? field : toLatin1(record);
    if (text === "" || text.includes("\0")) {
      throw new VerityError("ERR_VERITY_TAR", `tar member at offset ${offset}: its ${what} is empty or has a NUL inside`, { details: { offset } });
    }
    if (text.length > this.#limits.maxPathLength) throw this.#limit(`${what} of the member at offset ${offset}`, text.length, this.#limits.maxPathLength);
    return text;
  }

  /** PAX says the size where the header cannot (it is 0 there then); a header that says something else splits the readers. */
  #size(headerSize: number, pax: ReadonlyMap<string, Uint8Array>, offset: number): number {
    const record = pax.get("size");
    if (record === undefined) return headerSize;
    const text = toLatin1(record);
    const size = /^(0|[1-9][0-9]{0,15})$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(size) || (headerSize !== 0 && headerSize !== size)) {
      throw new VerityError(
        "ERR_VERITY_TAR",
        `tar member at offset ${offset}: PAX size ${JSON.stringify(text)} does not agree with the header's ${headerSize}`,
        {
          details: { offset },
        },
      );
    }
    return size;
  }

  #noPending(offset: number, before: string): void {
    if (this.#longName === undefined && this.#longTarget === undefined && this.#pax === undefined) return;
    throw new VerityError("ERR_VERITY_TAR", `tar archive at offset ${offset}: a long-name or PAX record stands before ${before}, not before a member`, {
      details: { offset },
    });
  }

  #limit(what: string, found: number, limit: number): VerityError {
    return new VerityError("ERR_VERITY_LIMIT", `tar archive: ${what} is ${found}, more than the limit of ${limit}`, { details: { found, limit } });
  }
}

/** Path of the header's own fields. Only the ustar format has a prefix; GNU headers keep times in its place. */
function headerPath(header: Uint8Array, format: TarFormat): string {
  const name = toLatin1(fieldText(header, FIELD.name));
  const prefix = format === "ustar" ? toLatin1(fieldText(header, FIELD.prefix)) : "";
  return prefix === "" ? name : `${prefix}/${name}`;
}
