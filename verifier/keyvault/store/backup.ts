import {
  asArray,
  asObject,
  concatBytes,
  decodeUtf8,
  encodeUtf8,
  equalBytes,
  fromBase64url,
  messageOf,
  parseJson,
  toBase64url,
  type JsonObject,
} from "@sealpod/core";
import { SealingError, type KeyRing } from "@sealpod/sealing";
import { badParameter, KeyvaultError } from "../errors.ts";
import { MAX_BACKUP, MAX_VERSIONS } from "./limits.ts";
import type { Noun } from "./names.ts";
import type { Item, NameColumns } from "./shelf.ts";
import type { BackupOrigin } from "./types.ts";

/** `SPVB`, the format and the kind, before what the ring has sealed: tells what the bytes are to whoever finds them. The seal is bound to it. */
const MAGIC: Uint8Array = encodeUtf8("SPVB");
const FORMAT = 1;
const KINDS: Readonly<Record<Noun, number>> = { Key: 1, Secret: 2 };
const HEADER_LENGTH = 6;

/** What a backup holds. */
export interface BackupContent<T> {
  readonly origin: BackupOrigin;
  readonly name: string;
  /** What the name itself carries: the rotation policy of a key. */
  readonly columns: NameColumns;
  /** From the oldest to the latest. */
  readonly versions: readonly { readonly item: T; readonly secret: Uint8Array }[];
}

/**
 * Seals a backup.
 * @throws {KeyvaultError} ERR_KEYVAULT_LIMIT if it would be larger than {@link MAX_BACKUP}
 */
export async function encodeBackup<T extends Item>(ring: KeyRing, noun: Noun, content: BackupContent<T>): Promise<Uint8Array> {
  const versions = content.versions.map(({ item, secret }) => ({ item: { ...item, vault: undefined, name: undefined }, secret: toBase64url(secret) }));
  const { origin, name, columns } = content;
  const plaintext = encodeUtf8(JSON.stringify({ origin, name, columns, versions }));
  try {
    requireBackupRoom(name, plaintext.length);
    const backup = concatBytes(header(noun), await ring.sealBackup(plaintext, place(noun)));
    requireBackupRoom(name, backup.length);
    return backup;
  } finally {
    plaintext.fill(0);
  }
}

/**
 * Refuses what could be backed up, and never restored.
 * @param length bytes that the backup has at least
 * @throws {KeyvaultError} ERR_KEYVAULT_LIMIT
 */
export function requireBackupRoom(name: string, length: number): void {
  if (length <= MAX_BACKUP) return;
  throw new KeyvaultError(
    "ERR_KEYVAULT_LIMIT",
    `The versions of ${name} take ${length} bytes or more, and a backup has at most ${MAX_BACKUP}: it could not be restored.`,
    {
      hint: "Back up the database of the service instead, or use a new name from time to time.",
    },
  );
}

/**
 * Opens a backup.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER for bytes that are no backup of this kind, were changed, or are sealed by another master key
 */
export async function decodeBackup<T extends Item>(ring: KeyRing, noun: Noun, backup: Uint8Array): Promise<BackupContent<T>> {
  if (backup.length > MAX_BACKUP) throw badParameter(`The backup has ${backup.length} bytes, more than the limit of ${MAX_BACKUP}.`);
  if (!equalBytes(backup.subarray(0, HEADER_LENGTH), header(noun))) throw badParameter(headerProblem(noun, backup));
  let plaintext: Uint8Array;
  try {
    plaintext = await ring.openBackup(backup.subarray(HEADER_LENGTH), place(noun));
  } catch (cause) {
    // Only what the bytes are to blame for: a security module that does not answer is not the caller's mistake.
    if (!(cause instanceof SealingError) || (cause.code !== "ERR_SEALING_RECORD" && cause.code !== "ERR_SEALING_MASTER_KEY")) throw cause;
    throw badParameter("The backup does not open: it was changed, or made under another master key.", undefined, cause);
  }
  try {
    return parseContent<T>(asObject(parseJson(decodeUtf8(plaintext), "backup", { maxLength: MAX_BACKUP, maxDepth: 16, maxNumberLength: 32 })));
  } catch (cause) {
    throw badParameter(`The backup is not in the format of this program: ${messageOf(cause)}.`, undefined, cause);
  } finally {
    plaintext.fill(0);
  }
}

/** Only a holder of the master key can have written this: its members are taken at their word, their presence is not. */
function parseContent<T extends Item>(object: JsonObject | undefined): BackupContent<T> {
  const { vault, kind } = asObject(object?.["origin"]) ?? {};
  const name = object?.["name"];
  const columns = asObject(object?.["columns"]);
  const versions = asArray(object?.["versions"]);
  if (typeof name !== "string" || columns === undefined || versions === undefined || versions.length === 0 || versions.length > MAX_VERSIONS) {
    throw new TypeError(`expected a name, columns and 1 to ${MAX_VERSIONS} versions`);
  }
  if (typeof vault !== "string" || (kind !== "vault" && kind !== "managedhsm")) throw new TypeError("expected the vault that it is from, and its kind");
  return {
    origin: { vault, kind },
    name,
    columns: columns as unknown as NameColumns,
    versions: versions.map((version) => {
      const { item, secret } = asObject(version) ?? {};
      if (asObject(item) === undefined || typeof secret !== "string") throw new TypeError("expected versions with item and secret");
      return { item: item as unknown as T, secret: fromBase64url(secret, "secret") };
    }),
  };
}

function header(noun: Noun): Uint8Array {
  return concatBytes(MAGIC, Uint8Array.of(FORMAT, KINDS[noun]));
}

function place(noun: Noun): string {
  return `backup of a ${noun.toLowerCase()}, format ${FORMAT}`;
}

function headerProblem(noun: Noun, backup: Uint8Array): string {
  if (!equalBytes(backup.subarray(0, MAGIC.length), MAGIC)) return "The value is no backup of this service.";
  if (backup[4] !== FORMAT) return `The backup has format ${backup[4] ?? "none"}, this program knows ${FORMAT}.`;
  return `The value is no backup of a ${noun.toLowerCase()}.`;
}
