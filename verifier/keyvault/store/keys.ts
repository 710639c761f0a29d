import { asArray, asObject, parseJson, type JsonValue } from "@sealpod/core";
import type { Queries, Row } from "@sealpod/storage";
import { KeyvaultError } from "../errors.ts";
import type { KeyType } from "../key-material.ts";
import { makeChange, seconds, type StoreContext } from "./change.ts";
import { MAX_LIST } from "./limits.ts";
import { nameKey } from "./names.ts";
import { integer, optionalInteger, optionalText, text } from "./row.ts";
import type { Shelf, ShelfKind } from "./shelf.ts";
import type { AuditLine, KeyRecord, StoredReleasePolicy, StoredRotationPolicy } from "./types.ts";

/** How versions of keys are kept. */
export const KEYS: ShelfKind<KeyRecord> = {
  noun: "Key",
  collection: "keys",
  names: "vault_keys",
  versions: "vault_key_versions",
  nameColumns: ["rotation_policy", "rotation_created", "rotation_updated", "rotation_due"],
  columns: ["type", "hsm", "key_ops", "public_members", "exportable", "policy", "policy_content_type", "policy_immutable"],
  largeColumns: ["policy"],
  toColumns: (key) => [
    key.type,
    Number(key.hsm),
    JSON.stringify(key.keyOps),
    JSON.stringify(key.publicMembers),
    Number(key.exportable),
    key.releasePolicy?.text ?? null,
    key.releasePolicy?.contentType ?? null,
    Number(key.releasePolicy?.immutable ?? false),
  ],
  fromRow: (common, row) => ({
    ...common,
    type: text(row, "type") as KeyType,
    hsm: integer(row, "hsm") === 1,
    keyOps: asArray(parseJson(text(row, "key_ops"))) as readonly string[],
    publicMembers: asObject(parseJson(text(row, "public_members"))) as Readonly<Record<string, string>>,
    exportable: integer(row, "exportable") === 1,
    releasePolicy: releasePolicy(row),
  }),
  bound: (key) => [
    key.type,
    key.hsm,
    key.keyOps,
    Object.entries(key.publicMembers).toSorted(([a], [b]) => (a < b ? -1 : 1)),
    key.exportable,
    boundPolicy(key.releasePolicy),
  ],
};

/** The rotation policy of a key that is not deleted. */
export async function rotationPolicy(queries: Queries, vault: string, name: string): Promise<StoredRotationPolicy | undefined> {
  const sql = "SELECT rotation_policy, rotation_created, rotation_updated, rotation_due FROM vault_keys WHERE vault = ? AND name_key = ? AND deleted IS NULL";
  const [row] = await queries.query(sql, [vault, nameKey(name)]);
  return row === undefined ? undefined : rotationPolicyOf(row);
}

/** The rotation policy in the columns of a name. */
export function rotationPolicyOf(row: Row): StoredRotationPolicy | undefined {
  if (row["rotation_policy"] === null) return undefined;
  return {
    text: text(row, "rotation_policy"),
    created: integer(row, "rotation_created"),
    updated: integer(row, "rotation_updated"),
    due: optionalInteger(row, "rotation_due"),
  };
}

/**
 * Sets the rotation policy of a key, and when it is due.
 * @throws {KeyvaultError} ERR_KEYVAULT_NOT_FOUND if there is no such key
 */
export async function setRotationPolicy(
  context: StoreContext,
  vault: string,
  name: string,
  policy: { readonly text: string; readonly due: number | undefined },
  audit: AuditLine,
): Promise<StoredRotationPolicy> {
  return makeChange(context, async (change) => {
    const now = seconds(context);
    const sql = `UPDATE vault_keys SET rotation_policy = ?, rotation_created = coalesce(rotation_created, ?), rotation_updated = ?, rotation_due = ?
      WHERE vault = ? AND name_key = ? AND deleted IS NULL`;
    const changed = await change.queries.run(sql, [policy.text, now, now, policy.due ?? null, vault, nameKey(name)]);
    const stored = changed === 0 ? undefined : await rotationPolicy(change.queries, vault, name);
    if (stored === undefined) throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", `There is no key ${name} in vault ${vault}.`);
    await change.audit(audit);
    return stored;
  });
}

/** See {@link VaultStore.scheduleRotation}. */
export async function scheduleRotation(
  context: StoreContext,
  keys: Shelf<KeyRecord>,
  { vault, name }: { readonly vault: string; readonly name: string },
  decide: (policy: StoredRotationPolicy, latest: KeyRecord) => number | undefined,
  audit: (due: number | undefined) => AuditLine,
): Promise<boolean> {
  return makeChange(context, async (change) => {
    const [policy, latest] = [await rotationPolicy(change.queries, vault, name), await keys.latestIn(change, vault, name)];
    if (policy === undefined || latest === undefined) return false;
    const due = decide(policy, latest);
    if (due === policy.due) return false;
    const sql = "UPDATE vault_keys SET rotation_due = ? WHERE vault = ? AND name_key = ? AND deleted IS NULL";
    await change.queries.run(sql, [due ?? null, vault, nameKey(name)]);
    await change.audit(audit(due));
    return true;
  });
}

/** Keys whose automatic rotation is due at `now`, the longest overdue first. */
export async function dueRotations(queries: Queries, now: number, limit: number): Promise<readonly { readonly vault: string; readonly name: string }[]> {
  const sql = "SELECT vault, name FROM vault_keys WHERE rotation_due <= ? AND deleted IS NULL ORDER BY rotation_due, id LIMIT ?";
  return (await queries.query(sql, [now, Math.min(limit, MAX_LIST)])).map((row) => ({ vault: text(row, "vault"), name: text(row, "name") }));
}

function releasePolicy(row: Row): StoredReleasePolicy | undefined {
  const policy = optionalText(row, "policy");
  return policy === undefined ? undefined : { contentType: text(row, "policy_content_type"), text: policy, immutable: integer(row, "policy_immutable") === 1 };
}

function boundPolicy(policy: StoredReleasePolicy | undefined): JsonValue {
  return policy === undefined ? null : [policy.contentType, policy.text, policy.immutable];
}
