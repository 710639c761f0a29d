import { badParameter, KeyvaultError } from "../errors.ts";
import { deletion, keyBundle, keyItem } from "../key-bundle.ts";
import { generateFromRequest, parseImport, parseUpdate, requireSuccession, type KeyPlace } from "../key-request.ts";
import type { BackupOrigin, Deleted, KeyRecord, NewKeyVersion } from "../store/types.ts";
import { backupJson, backupOf, inTurn, MAX_BACKUP_BODY, requireOrigin } from "./backup.ts";
import type { Exchange } from "./exchange.ts";
import { keyNotFound, requireKey } from "./find-key.ts";
import { keyScope, keysScope, type Operation } from "./operation.ts";
import { answerList } from "./paging.ts";
import { rescheduleRotation } from "./rotation-schedule.ts";

/** Operations on keys that need nothing of the key itself: create to purge. */
export const KEY_OPERATIONS: readonly Operation[] = [
  { name: "keys/create", method: "POST", paths: ["/keys/:name/create"], need: "keys/create", scope: keyScope, run: createKey },
  { name: "keys/import", method: "PUT", paths: ["/keys/:name"], need: "keys/import", scope: keyScope, run: importKey },
  { name: "keys/list", method: "GET", paths: ["/keys"], need: "keys/list", scope: keysScope, run: listKeys },
  { name: "keys/list-versions", method: "GET", paths: ["/keys/:name/versions"], need: "keys/list", scope: keyScope, run: listVersions },
  { name: "keys/get", method: "GET", paths: ["/keys/:name", "/keys/:name/:version"], need: "keys/get", scope: keyScope, run: getKey },
  { name: "keys/update", method: "PATCH", paths: ["/keys/:name", "/keys/:name/:version"], need: "keys/update", scope: keyScope, run: updateKey },
  { name: "keys/delete", method: "DELETE", paths: ["/keys/:name"], need: "keys/delete", scope: keyScope, run: deleteKey },
  { name: "keys/list-deleted", method: "GET", paths: ["/deletedkeys"], need: "keys/list-deleted", scope: keysScope, run: listDeleted },
  { name: "keys/get-deleted", method: "GET", paths: ["/deletedkeys/:name"], need: "keys/get-deleted", scope: keyScope, run: getDeleted },
  { name: "keys/recover", method: "POST", paths: ["/deletedkeys/:name/recover"], need: "keys/recover", scope: keyScope, run: recoverKey },
  { name: "keys/purge", method: "DELETE", paths: ["/deletedkeys/:name"], need: "keys/purge", scope: keyScope, run: purgeKey },
  { name: "keys/backup", method: "POST", paths: ["/keys/:name/backup"], need: "keys/backup", scope: keyScope, run: inTurn(backupKey) },
  { name: "keys/restore", method: "POST", paths: ["/keys/restore"], need: "keys/restore", scope: keysScope, run: inTurn(restoreKey) },
];

async function createKey(exchange: Exchange): Promise<Response> {
  const place = await placeOf(exchange);
  return addVersion(exchange, await generateFromRequest(place, await exchange.body(), exchange.services.random, exchange.signal));
}

async function importKey(exchange: Exchange): Promise<Response> {
  const place = await placeOf(exchange);
  return addVersion(exchange, parseImport(place, await exchange.body()));
}

/** Where a new version goes. A deleted key, or one that has no room, is found out before a costly new one is made; the store looks again. */
async function placeOf(exchange: Exchange): Promise<KeyPlace> {
  const name = exchange.keyName();
  const { vault, store } = exchange;
  await store.requireKeyRoom(vault.name, name);
  return { vault: vault.name, kind: vault.kind, name, latest: await store.key(vault.name, name) };
}

async function addVersion(exchange: Exchange, fresh: NewKeyVersion): Promise<Response> {
  try {
    const key = await exchange.change((audit) => exchange.store.addKey(fresh, audit, (latest) => requireSuccession(latest, fresh)));
    await rescheduleRotation(exchange.services, key, exchange.line());
    return exchange.json(keyBundle(exchange.base, key));
  } finally {
    fresh.secret.fill(0);
  }
}

async function listKeys(exchange: Exchange): Promise<Response> {
  const { store, vault, base } = exchange;
  return answerList(
    exchange,
    (after, limit) => store.listKeys(vault.name, after, limit),
    (key) => key.name,
    (key) => keyItem(base, key),
  );
}

async function listVersions(exchange: Exchange): Promise<Response> {
  const { store, vault, base } = exchange;
  const name = exchange.keyName();
  return answerList(
    exchange,
    (after, limit) => store.listKeyVersions(vault.name, name, after, limit),
    (key) => key.version,
    (key) => keyItem(base, key, key.version),
  );
}

async function getKey(exchange: Exchange): Promise<Response> {
  return exchange.json(keyBundle(exchange.base, await requireKey(exchange)));
}

async function updateKey(exchange: Exchange): Promise<Response> {
  const { store, vault } = exchange;
  const name = exchange.keyName();
  const version = exchange.version();
  const body = await exchange.body();
  const key = await exchange.change((audit) => store.updateKey(vault.name, name, version, (latest) => parseUpdate(latest, body, version !== undefined), audit));
  if (key === undefined) throw keyNotFound(exchange);
  await rescheduleRotation(exchange.services, key, exchange.line());
  return exchange.json(keyBundle(exchange.base, key));
}

async function deleteKey(exchange: Exchange): Promise<Response> {
  const { store, vault } = exchange;
  const name = exchange.keyName();
  const deleted = await exchange.change((audit) => store.deleteKey(vault.name, name, audit));
  if (deleted === undefined) throw keyNotFound(exchange);
  return exchange.json(deletedBundle(exchange, deleted));
}

async function listDeleted(exchange: Exchange): Promise<Response> {
  const { store, vault, base } = exchange;
  return answerList(
    exchange,
    (after, limit) => store.listDeletedKeys(vault.name, after, limit),
    (deleted) => deleted.item.name,
    (deleted) => ({ ...keyItem(base, deleted.item), ...deletion(base, "deletedkeys", deleted) }),
  );
}

async function getDeleted(exchange: Exchange): Promise<Response> {
  const deleted = await exchange.store.deletedKey(exchange.vault.name, exchange.keyName());
  if (deleted === undefined) throw deletedNotFound(exchange);
  return exchange.json(deletedBundle(exchange, deleted));
}

async function recoverKey(exchange: Exchange): Promise<Response> {
  const name = exchange.keyName();
  const key = await exchange.change((audit) => exchange.store.recoverKey(exchange.vault.name, name, audit));
  if (key === undefined) throw deletedNotFound(exchange);
  return exchange.json(keyBundle(exchange.base, key));
}

async function purgeKey(exchange: Exchange): Promise<Response> {
  const name = exchange.keyName();
  if (!(await exchange.change((audit) => exchange.store.purgeKey(exchange.vault.name, name, audit)))) throw deletedNotFound(exchange);
  return exchange.context.body(null, 204);
}

async function backupKey(exchange: Exchange): Promise<Response> {
  const name = exchange.keyName();
  const backup = await exchange.change((audit) => exchange.store.backupKey(exchange.vault.name, name, audit, exchange.vault.kind));
  if (backup === undefined) throw keyNotFound(exchange);
  return exchange.json(backupJson(backup));
}

async function restoreKey(exchange: Exchange): Promise<Response> {
  const backup = backupOf(await exchange.body(MAX_BACKUP_BODY));
  const { name, kind } = exchange.vault;
  const check = ({ hsm }: KeyRecord, origin: BackupOrigin): void => {
    if (kind === "managedhsm" && !hsm) throw badParameter("The backup is of a software key, and a managed HSM has HSM keys alone.");
    requireOrigin(exchange, origin);
  };
  const key = await exchange.change((audit) => exchange.store.restoreKey(name, backup, audit, check));
  return exchange.json(keyBundle(exchange.base, key));
}

function deletedBundle(exchange: Exchange, deleted: Deleted<KeyRecord>): ReturnType<typeof keyBundle> {
  return { ...keyBundle(exchange.base, deleted.item), ...deletion(exchange.base, "deletedkeys", deleted) };
}

function deletedNotFound(exchange: Exchange): KeyvaultError {
  return new KeyvaultError(
    "ERR_KEYVAULT_NOT_FOUND",
    `A deleted key with (name/id) ${exchange.parameter("name").slice(0, 127)} was not found in this key vault.`,
    {
      details: { inner: "KeyNotFound" },
    },
  );
}
