import { type TarEvent, type TarMember, VerityError } from "@sealpod/verity";
import type { LayerUsers, UserFile } from "./facts.ts";

/** Bytes of `/etc/passwd` or `/etc/group` in one layer: some ten thousand users. The text is kept in memory and in the cache. */
export const MAX_USER_FILE: number = 1024 * 1024;

const NAMES = ["passwd", "group"] as const;
type Name = (typeof NAMES)[number];

const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";

const ABSENT: UserFile = { kind: "absent" };
const REMOVED: UserFile = { kind: "removed" };

/** Finds `/etc/passwd` and `/etc/group` in a layer while it is scanned. */
export abstract class UserFileFinder {
  #capturing: { readonly name: Name; readonly bytes: Uint8Array; filled: number } | undefined;

  /**
   * Takes the events of a {@link TarScanner} in their order.
   * @throws {VerityError} ERR_VERITY_LIMIT
   */
  take(event: TarEvent): void {
    if (event.kind === "member") {
      const { path } = event.member;
      // Nearly all members end here: only these names matter.
      if (path.includes("etc") || path.includes(WHITEOUT)) this.member(event.member);
      return;
    }
    const target = this.#capturing;
    if (target === undefined) return;
    target.bytes.set(event.bytes, target.filled);
    target.filled += event.bytes.length;
    if (target.filled < target.bytes.length) return;
    this.#capturing = undefined;
    this.found(target.name, textOf(target.bytes));
  }

  /** What the layer says; call it when the archive is over. */
  abstract finish(): LayerUsers;

  protected abstract member(member: TarMember): void;
  protected abstract found(name: Name, text: string): void;

  /** Collects the data of this member; {@link found} gets it when it is whole. */
  protected capture(name: Name, member: TarMember, already: number): void {
    const size = already + member.size;
    if (size > MAX_USER_FILE) {
      throw new VerityError("ERR_VERITY_LIMIT", `layer: /etc/${name} has ${size} bytes, more than the limit of ${MAX_USER_FILE}`, {
        details: { found: size, limit: MAX_USER_FILE },
        hint: "No system has that many users: the image is damaged or made to exhaust the reader.",
      });
    }
    if (member.size === 0) this.found(name, "");
    else this.#capturing = { name, bytes: new Uint8Array(member.size), filled: 0 };
  }
}

/** A finder for the rules of that name (see `UserRules`). */
export function userFileFinder(rules: "known" | "exact"): UserFileFinder {
  return rules === "known" ? new KnownFinder() : new ExactFinder();
}

/**
 * As the known tool (specs/genpolicy.md 5.5): members of any kind count by their name; an absolute path, or one with `..`, does
 * not; a second file of the same name is appended; the scan is over when both files were seen.
 */
class KnownFinder extends UserFileFinder {
  readonly #texts = new Map<Name, string>();

  protected member(member: TarMember): void {
    if (this.#texts.size === NAMES.length || member.path.startsWith("/")) return;
    const parts = partsOf(member.path);
    if (parts.length !== 2 || parts[0] !== "etc") return;
    for (const name of NAMES) {
      if (parts[1] === name) this.capture(name, member, this.#texts.get(name)?.length ?? 0);
      else if (parts[1] === WHITEOUT + name) this.#texts.set(name, KNOWN_MARKER);
    }
  }

  protected found(name: Name, text: string): void {
    this.#texts.set(name, (this.#texts.get(name) ?? "") + text);
  }

  finish(): LayerUsers {
    return { passwd: knownUserFile(this.#texts.get("passwd") ?? ""), group: knownUserFile(this.#texts.get("group") ?? "") };
  }
}

/** What the known tool keeps in the place of a removed file's text, also in its cache. */
const KNOWN_MARKER = "WHITEOUT";

/** A user file from the text that the known tool keeps. */
export function knownUserFile(text: string): UserFile {
  return text === "" ? ABSENT : text === KNOWN_MARKER ? REMOVED : { kind: "text", text };
}

/** The inverse of {@link knownUserFile}. */
export function knownText(file: UserFile): string {
  return file.kind === "text" ? file.text : file.kind === "removed" ? KNOWN_MARKER : "";
}

/** As the layers look when the runtime stacks them: whiteouts hide what is below and never what is in the same layer; of several members of one name the last counts. */
class ExactFinder extends UserFileFinder {
  readonly #own = new Map<Name, UserFile>();
  readonly #hidden = new Set<Name>();

  protected member(member: TarMember): void {
    const parts = partsOf(member.path);
    const [first, second] = parts;
    const last = parts.at(-1);
    const inEtc = first === "etc" && parts.length === 2;
    if ((last === OPAQUE && (parts.length === 1 || inEtc)) || (parts.length === 1 && first === `${WHITEOUT}etc`)) {
      for (const name of NAMES) this.#hidden.add(name);
    } else if (parts.length === 1 && first === "etc" && member.kind !== "directory") {
      // No directory any more: whatever was in it is out of reach, in this layer and below.
      this.#own.clear();
      for (const name of NAMES) this.#hidden.add(name);
    } else if (inEtc) {
      for (const name of NAMES) {
        if (second === WHITEOUT + name) this.#hidden.add(name);
        else if (second !== name) continue;
        else if (member.kind === "file") this.capture(name, member, 0);
        else this.#own.set(name, member.kind === "symlink" || member.kind === "hardlink" ? { kind: "link" } : REMOVED);
      }
    }
  }

  protected found(name: Name, text: string): void {
    this.#own.set(name, { kind: "text", text });
  }

  finish(): LayerUsers {
    const of = (name: Name): UserFile => this.#own.get(name) ?? (this.#hidden.has(name) ? REMOVED : ABSENT);
    return { passwd: of("passwd"), group: of("group") };
  }
}

/**
 * The file of an image from what its layers say, bottom first.
 * @returns its text, "" if there is none; `isLink` if the topmost layer that has it has a link
 */
export function stackUserFile(layers: Iterable<UserFile>): { readonly text: string; readonly isLink: boolean } {
  let top: UserFile = ABSENT;
  for (const file of layers) if (file.kind !== "absent") top = file;
  return { text: top.kind === "text" ? top.text : "", isLink: top.kind === "link" };
}

/** Components of a path without empty ones and `.`; `..` stays, so such a path matches nothing. */
function partsOf(path: string): readonly string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}

/** Only ids and names are read from these files, and those are ASCII: what is not UTF-8 (a full name in an old encoding) does no harm. */
function textOf(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
