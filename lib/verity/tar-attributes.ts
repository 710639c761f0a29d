import { VerityError } from "./errors.ts";
import { toLatin1 } from "./tar-format.ts";
import type { TarMember } from "./tar-scanner.ts";

/** What PAX records and header fields together say of a member besides its name and kind. */
export interface TarAttributes {
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, rounded down. */
  readonly mtime: number;
  /** Fraction of `mtime` in nanoseconds, 0 to 999,999,999; finer digits are dropped. */
  readonly nanoseconds: number;
  /** Extended attributes by their full name (bytes, one per character), e.g. `security.capability`. */
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
}

const XATTR_PREFIX = "SCHILY.xattr.";

/** Linux: XATTR_NAME_MAX and XATTR_SIZE_MAX. */
const MAX_XATTR_NAME = 255;
const MAX_XATTR_VALUE = 65536;
const MAX_U32 = 0xffff_ffff;

/**
 * The attributes of a member. It is the one reading of these records, so that an unpacked layer and an image of it agree.
 * @throws {VerityError} ERR_VERITY_TAR, ERR_VERITY_TAR_UNSUPPORTED, ERR_VERITY_LIMIT
 */
export function attributesOf(member: TarMember): TarAttributes {
  const charset = member.pax.get("hdrcharset");
  if (charset !== undefined && toLatin1(charset) !== "ISO-IR 10646 2000 UTF-8") {
    throw new VerityError("ERR_VERITY_TAR_UNSUPPORTED", `tar member at offset ${member.headerOffset}: PAX hdrcharset is not UTF-8`);
  }
  return {
    uid: owner(member.pax.get("uid"), member.uid, "uid", member),
    gid: owner(member.pax.get("gid"), member.gid, "gid", member),
    ...time(member),
    xattrs: xattrs(member),
  };
}

function owner(record: Uint8Array | undefined, field: number, name: string, member: TarMember): number {
  const value = record === undefined ? field : /^[0-9]{1,10}$/.test(toLatin1(record)) ? Number(toLatin1(record)) : Number.NaN;
  if (value <= MAX_U32) return value;
  throw new VerityError("ERR_VERITY_TAR", `tar member at offset ${member.headerOffset}: its ${name} is not a 32-bit number`, {
    details: { offset: member.headerOffset },
  });
}

function time(member: TarMember): { readonly mtime: number; readonly nanoseconds: number } {
  const record = member.pax.get("mtime");
  if (record === undefined) return { mtime: member.mtime, nanoseconds: 0 };
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]{0,64}))?$/.exec(toLatin1(record));
  if (match === null) {
    throw new VerityError("ERR_VERITY_TAR", `tar member at offset ${member.headerOffset}: PAX mtime is not a decimal number`, {
      details: { offset: member.headerOffset },
    });
  }
  const seconds = Number(match[2]);
  const nanoseconds = Number((match[3] ?? "").padEnd(9, "0").slice(0, 9));
  if (match[1] === "") return { mtime: seconds, nanoseconds };
  // Subtracted from 0, for -0 is another value to some comparisons.
  return nanoseconds === 0 ? { mtime: 0 - seconds, nanoseconds } : { mtime: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds };
}

function xattrs(member: TarMember): ReadonlyMap<string, Uint8Array> {
  const found = new Map<string, Uint8Array>();
  for (const [key, value] of member.pax) {
    if (!key.startsWith(XATTR_PREFIX)) continue;
    const name = key.slice(XATTR_PREFIX.length);
    if (name === "" || name.length > MAX_XATTR_NAME || value.length > MAX_XATTR_VALUE) {
      throw new VerityError("ERR_VERITY_LIMIT", `tar member at offset ${member.headerOffset}: extended attribute name or value is longer than Linux takes`, {
        details: { offset: member.headerOffset, length: value.length },
      });
    }
    found.set(name, value);
  }
  return found;
}
