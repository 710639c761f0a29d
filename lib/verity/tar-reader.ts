import { decodeUtf8 } from "@sealpod/core";
import { VerityError } from "./errors.ts";
import { DEFAULT_TAR_LIMITS } from "./limits.ts";
import type { TarLimits } from "./limits.ts";
import { attributesOf } from "./tar-attributes.ts";
import { TarScanner } from "./tar-scanner.ts";
import type { TarEvent, TarMember } from "./tar-scanner.ts";

/** What all members have. */
export interface TarEntryBase {
  /** Path as the archive has it; pass it through `safePath` before it meets a file system. */
  readonly path: string;
  /** Permission bits with setuid, setgid and sticky: 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, rounded down. */
  readonly mtime: number;
  /** Extended attributes by their full name, e.g. `security.capability`. */
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
  /** Bytes of data: 0 for all but files. */
  readonly size: number;
  /** The data, in chunks. What is not read before the next entry is asked for is dropped. */
  readonly data: AsyncIterable<Uint8Array>;
}

/** A member of an archive. */
export type TarEntry =
  | (TarEntryBase & { readonly kind: "file" | "directory" | "fifo" })
  /** `target` of a symlink is any text; of a hard link, the path of an earlier member (for `safePath`). */
  | (TarEntryBase & { readonly kind: "symlink" | "hardlink"; readonly target: string })
  | (TarEntryBase & { readonly kind: "character" | "block"; readonly major: number; readonly minor: number });

/**
 * Reads an archive member by member, in constant memory. Chunks may be cut anywhere. PAX (path, linkpath, size, uid, gid,
 * mtime, `SCHILY.xattr.*`), GNU long names, ustar prefixes and base-256 numbers are understood; what readers disagree
 * about, members that no image layer has, and names that are not UTF-8 are refused.
 * @throws {VerityError} ERR_VERITY_TAR, ERR_VERITY_TAR_TRUNCATED, ERR_VERITY_TAR_UNSUPPORTED, ERR_VERITY_LIMIT
 */
export async function* readTar(tar: AsyncIterable<Uint8Array>, limits: Partial<TarLimits> = {}): AsyncIterable<TarEntry> {
  const events = scanEvents(tar, { ...DEFAULT_TAR_LIMITS, ...limits });
  try {
    let next = await events.next();
    while (next.done !== true) {
      if (next.value.kind !== "member") throw new VerityError("ERR_VERITY_TAR", "tar data without a member");
      const { member } = next.value;
      const data = memberData(events, member.size);
      yield entryOf(member, data);
      for await (const _ of data);
      next = await events.next();
    }
  } finally {
    await events.return();
  }
}

async function* scanEvents(tar: AsyncIterable<Uint8Array>, limits: TarLimits): AsyncGenerator<TarEvent, void, undefined> {
  const scanner = new TarScanner(limits);
  for await (const chunk of tar) yield* scanner.push(chunk);
  scanner.end();
}

/** The data of one member. It can be iterated again after a `break`: it goes on where it stopped, so the reader can drain it. */
function memberData(events: AsyncGenerator<TarEvent, void, undefined>, size: number): AsyncIterable<Uint8Array> {
  let left = size;
  const iterator: AsyncIterator<Uint8Array> = {
    async next() {
      if (left === 0) return { done: true, value: undefined };
      const event = await events.next();
      if (event.done === true || event.value.kind !== "data") throw new VerityError("ERR_VERITY_TAR_TRUNCATED", "tar archive ends inside a member");
      left -= event.value.bytes.length;
      return { done: false, value: event.value.bytes };
    },
  };
  return { [Symbol.asyncIterator]: () => iterator };
}

function entryOf(member: TarMember, data: AsyncIterable<Uint8Array>): TarEntry {
  const { uid, gid, mtime, xattrs } = attributesOf(member);
  const base: TarEntryBase = {
    path: text(member.path, "path", member),
    mode: member.mode,
    uid,
    gid,
    mtime,
    xattrs: new Map([...xattrs].map(([name, value]) => [text(name, "attribute name", member), value])),
    size: member.size,
    data,
  };
  switch (member.kind) {
    case "file":
    case "directory":
    case "fifo":
      return { ...base, kind: member.kind };
    case "symlink":
    case "hardlink":
      return { ...base, kind: member.kind, target: text(member.target, "link target", member) };
    case "character":
    case "block":
      return { ...base, kind: member.kind, major: member.major, minor: member.minor };
  }
}

function text(latin1: string, what: string, member: TarMember): string {
  try {
    return decodeUtf8(Buffer.from(latin1, "latin1"));
  } catch (cause) {
    throw new VerityError("ERR_VERITY_TAR_UNSUPPORTED", `tar member at offset ${member.headerOffset}: its ${what} is not valid UTF-8`, {
      cause,
      details: { offset: member.headerOffset },
    });
  }
}
