import { hash } from "node:crypto";
import { asArray, asObject, CoreError, type JsonObject, type JsonValue, parseJson } from "@sealpod/core";
import type { LayerFacts, LayerUsers, UserFile } from "./facts.ts";
import { knownText, knownUserFile } from "./user-files.ts";

/**
 * The rows of a cache file. Three shapes are read (specs/genpolicy.md 5.4):
 * - `{diff_id, verity_hash}` of the AKS tool,
 * - `{diff_id, passwd, group}` of the upstream tool,
 * - ours: any of these fields, `erofs_hash`, `exact` and a checksum `check`.
 * A row of ours that has a tarfs root is also one that the AKS tool reads; the upstream tool makes a file with other fields anew.
 */
const FIELDS = ["diff_id", "verity_hash", "erofs_hash", "passwd", "group", "exact", "check"] as const;

/** Layers in one file: those of some 300 images. All are parsed in each run, which takes some 30 ms then. The oldest are dropped. */
export const MAX_CACHE_ROWS = 3000;

/** Bytes of one cache file. */
export const MAX_CACHE_SIZE: number = 16 * 1024 * 1024;

/** Bytes of one row: a layer with user files beyond this is read again each time, rather than that it drives others out. */
const MAX_ROW = 256 * 1024;

/** Enters into the checksum: a change of what the fields mean changes it, so that rows of before count as damaged. */
const CHECK_PREFIX = "sealpod layer cache 2\n";

const DIGEST = /^sha256:[0-9a-f]{64}$/;
const ROOT_HASH = /^[0-9a-f]{64}$/;

/** What a cache file says. */
export interface CacheRows {
  /** True if it is something else than a layer cache: its owner would not want it to be made one. */
  readonly isForeign: boolean;
  /** By diff id, oldest first. */
  readonly facts: ReadonlyMap<string, LayerFacts>;
  /** What was wrong with the file, one sentence each; such rows are not in `facts`. */
  readonly problems: readonly string[];
}

/** Nothing is known yet. */
export const NO_ROWS: CacheRows = { isForeign: false, facts: new Map(), problems: [] };

/** What is there is no layer cache. */
export const FOREIGN_ROWS: CacheRows = { isForeign: true, facts: new Map(), problems: ["not a layer cache: it is left as it is, and nothing is kept"] };

/** Reads the text of a cache file. Nothing is an error: a damaged cache costs time, no more. An empty file is an empty cache. */
export function parseCacheRows(text: string): CacheRows {
  if (text.trim() === "") return NO_ROWS;
  let rows: readonly JsonValue[] | undefined;
  try {
    rows = asArray(parseJson(text, "layer cache", { maxLength: MAX_CACHE_SIZE, maxDepth: 5 }));
  } catch (error) {
    if (!(error instanceof CoreError)) throw error;
    // A cache that was cut off or scribbled on is still one.
    if (text.includes('"diff_id"')) return { ...NO_ROWS, problems: ["the layer cache is damaged, it is built anew"] };
  }
  // A list of something else is no cache either.
  const isCache = rows !== undefined && (rows.length === 0 || rows.some((row) => Object.hasOwn(asObject(row) ?? {}, "diff_id")));
  if (rows === undefined || !isCache) return FOREIGN_ROWS;
  const facts = new Map<string, LayerFacts>();
  let damaged = 0;
  for (const value of rows.slice(-MAX_CACHE_ROWS)) {
    const row = asObject(value);
    const parsed = row === undefined ? undefined : parseRow(row);
    if (parsed === undefined) damaged++;
    else facts.set(...parsed);
  }
  const problems = damaged === 0 ? [] : [`${damaged} of ${rows.length} entries are damaged; their layers are read again`];
  return { isForeign: false, facts, problems };
}

/** The text of a cache file with the newest of the facts that fit. */
export function encodeCacheRows(facts: ReadonlyMap<string, LayerFacts>): string {
  const lines: string[] = [];
  let size = 4;
  for (const [diffId, known] of [...facts].reverse()) {
    const line = encodeRow(diffId, known);
    const length = Buffer.byteLength(line) + 2;
    if (length > MAX_ROW) continue;
    size += length;
    if (size > MAX_CACHE_SIZE || lines.length === MAX_CACHE_ROWS) break;
    lines.push(line);
  }
  return lines.length === 0 ? "[]\n" : `[\n${lines.reverse().join(",\n")}\n]\n`;
}

function encodeRow(diffId: string, facts: LayerFacts): string {
  const { roots, users } = facts;
  return JSON.stringify({
    diff_id: diffId,
    ...(roots.tarfs === undefined ? {} : { verity_hash: roots.tarfs }),
    ...(roots.erofs === undefined ? {} : { erofs_hash: roots.erofs }),
    ...(users.known === undefined ? {} : { passwd: knownText(users.known.passwd), group: knownText(users.known.group) }),
    ...(users.exact === undefined ? {} : { exact: { passwd: encodeUserFile(users.exact.passwd), group: encodeUserFile(users.exact.group) } }),
    check: checksum(diffId, facts),
  });
}

/** What a row says, or undefined if it is damaged. */
function parseRow(row: JsonObject): readonly [string, LayerFacts] | undefined {
  const { diff_id: diffId, check } = row;
  if (typeof diffId !== "string" || !DIGEST.test(diffId)) return undefined;
  if (Object.keys(row).some((key) => !(FIELDS as readonly string[]).includes(key))) return undefined;
  const tarfs = rootHash(row["verity_hash"]);
  const erofs = rootHash(row["erofs_hash"]);
  const known = usersOf(row["passwd"], row["group"], (value) => (typeof value === "string" ? knownUserFile(value) : undefined));
  const both = row["exact"] === undefined ? {} : asObject(row["exact"]);
  const exact = usersOf(both?.["passwd"], both?.["group"], parseUserFile);
  if (tarfs === false || erofs === false || known === false || exact === false || both === undefined) return undefined;
  const facts: LayerFacts = {
    roots: { ...(tarfs === undefined ? {} : { tarfs }), ...(erofs === undefined ? {} : { erofs }) },
    users: { ...(known === undefined ? {} : { known }), ...(exact === undefined ? {} : { exact }) },
  };
  // The known tools write no checksum, and only two of the fields.
  const isSound = check === undefined ? erofs === undefined && exact === undefined : check === checksum(diffId, facts);
  return isSound ? [diffId, facts] : undefined;
}

/** A root hash; undefined if there is none, false if the value is damaged. */
function rootHash(value: JsonValue | undefined): string | undefined | false {
  // The AKS tool stores an empty hash where reading a layer failed: no fact, and no damage.
  if (value === undefined || value === "") return undefined;
  return typeof value === "string" && ROOT_HASH.test(value) && value;
}

/** Both user files; undefined if there are none, false if they are damaged. */
function usersOf(
  passwd: JsonValue | undefined,
  group: JsonValue | undefined,
  parse: (value: JsonValue) => UserFile | undefined,
): LayerUsers | undefined | false {
  if (passwd === undefined && group === undefined) return undefined;
  if (passwd === undefined || group === undefined) return false;
  const [first, second] = [parse(passwd), parse(group)];
  return first === undefined || second === undefined ? false : { passwd: first, group: second };
}

/** `{"text": …}`, or what there is in its place. */
function encodeUserFile(file: UserFile): JsonValue {
  return file.kind === "text" ? { text: file.text } : file.kind;
}

function parseUserFile(value: JsonValue): UserFile | undefined {
  if (value === "absent" || value === "removed" || value === "link") return { kind: value };
  const text = asObject(value)?.["text"];
  return typeof text === "string" ? { kind: "text", text } : undefined;
}

/** SHA-256 of what a row says, in hex: shows a damaged row, not a forged one. */
function checksum(diffId: string, { roots, users }: LayerFacts): string {
  const said = [diffId, roots.tarfs, roots.erofs, users.known?.passwd, users.known?.group, users.exact?.passwd, users.exact?.group];
  return hash("sha256", CHECK_PREFIX + JSON.stringify(said));
}
