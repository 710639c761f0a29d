import { expect } from "vitest";
import { toHex } from "@sealpod/core";
import type { KeyRecord, SecretRecord, StoredAuditLine, VaultStore } from "../index.ts";
import { keyOf, valueOf } from "./store-world.ts";

/** Versions with the request that made each, and the one that changed it last. */
interface Named {
  readonly versions: Map<string, { readonly made: string; readonly changed: string }>;
  deleted: boolean;
}

/** What must be in a store, by kind, vault and name. */
export interface Model {
  readonly things: Map<string, Named>;
  readonly principals: Set<string>;
}

/** Every line of the audit, the oldest first. */
export async function allLines(store: VaultStore): Promise<readonly StoredAuditLine[]> {
  const all: StoredAuditLine[] = [];
  for (;;) {
    const page = await store.audit({ limit: 1000, ...(all.length === 0 ? {} : { before: all.at(-1)?.id ?? 0 }) });
    all.push(...page);
    if (page.length < 1000) return all.toReversed();
  }
}

/** What the lines of the audit say that was done. */
export function replay(lines: readonly StoredAuditLine[]): Model {
  const things = new Map<string, Named>();
  const principals = new Set<string>();
  for (const { operation, vault, name, version, requestId } of lines) {
    const [collection = "", verb = ""] = operation.split("/");
    const place = `${collection} ${vault} ${name}`;
    const present = things.get(place);
    switch (verb) {
      case "create":
      case "set":
        if (present === undefined) things.set(place, { versions: new Map([[version, { made: requestId, changed: requestId }]]), deleted: false });
        else present.versions.set(version, { made: requestId, changed: requestId });
        break;
      case "update":
        present?.versions.set(version, { made: present.versions.get(version)?.made ?? "", changed: requestId });
        break;
      case "delete":
      case "recover":
        if (present !== undefined) present.deleted = verb === "delete";
        break;
      case "purge":
        things.delete(place);
        break;
      case "restore":
        things.set(place, { versions: new Map(things.get(`${collection} demo ${name}`)?.versions), deleted: false });
        break;
      case "give":
        principals.add(name);
        break;
      case "take":
        principals.delete(name);
        break;
      default:
    }
  }
  return { things, principals };
}

/** Compares a store with the model, in both directions, and opens every secret. */
export async function expectModel(store: VaultStore, { things, principals }: Model): Promise<void> {
  const vaults = new Set([...things.keys()].map((place) => /^\S+ (.*) \S+$/.exec(place)?.[1] ?? ""));
  const actual: string[] = [];
  for (const vault of vaults) {
    for (const collection of ["keys", "secrets"] as const) {
      const isKeys = collection === "keys";
      const deleted = isKeys ? await store.listDeletedKeys(vault, "", 1000) : await store.listDeletedSecrets(vault, "", 1000);
      for (const { item } of deleted) actual.push(`${collection} ${vault} ${item.name} deleted, latest ${item.version} by ${item.tags["by"] ?? ""}`);
      for (const { name } of isKeys ? await store.listKeys(vault, "", 1000) : await store.listSecrets(vault, "", 1000)) {
        const versions = isKeys ? await store.listKeyVersions(vault, name, "", 1000) : await store.listSecretVersions(vault, name, "", 1000);
        for (const record of versions) {
          const content = isKeys ? toHex(await store.openKey(record as KeyRecord)) : await store.openSecret(record as SecretRecord);
          actual.push(`${collection} ${vault} ${name} ${record.version} by ${record.tags["by"] ?? ""}: ${content}`);
        }
      }
    }
  }
  const wanted: string[] = [];
  for (const [place, { versions, deleted }] of things) {
    const all = [...versions].map(([version, { made, changed }]) => ({ version, changed, content: place.startsWith("keys") ? toHex(keyOf(made)) : valueOf(made) }));
    const latest = all.at(-1);
    if (deleted) wanted.push(`${place} deleted, latest ${latest?.version ?? ""} by ${latest?.changed ?? ""}`);
    else for (const { version, changed, content } of all) wanted.push(`${place} ${version} by ${changed}: ${content}`);
  }
  expect(actual.toSorted()).toEqual(wanted.toSorted());
  expect((await store.accessPolicies("demo")).map(({ id }) => id)).toEqual([...principals].toSorted());
}
