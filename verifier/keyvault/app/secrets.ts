import { KeyvaultError } from "../errors.ts";
import { deletion } from "../key-bundle.ts";
import { secretBundle, secretItem } from "../secret-bundle.ts";
import { parseSecret, parseSecretUpdate } from "../secret-request.ts";
import type { SecretRecord } from "../store/types.ts";
import { backupJson, backupOf, inTurn, MAX_BACKUP_BODY, requireOrigin } from "./backup.ts";
import type { Exchange } from "./exchange.ts";
import { secretScope, secretsScope, type Operation } from "./operation.ts";
import { answerList } from "./paging.ts";

/** Operations on secrets. A managed HSM keeps keys alone. */
export const SECRET_OPERATIONS: readonly Operation[] = [
  { name: "secrets/set", method: "PUT", paths: ["/secrets/:name"], need: "secrets/set", scope: secretScope, only: "vault", run: setSecret },
  { name: "secrets/list", method: "GET", paths: ["/secrets"], need: "secrets/list", scope: secretsScope, only: "vault", run: listSecrets },
  {
    name: "secrets/list-versions",
    method: "GET",
    paths: ["/secrets/:name/versions"],
    need: "secrets/list",
    scope: secretScope,
    only: "vault",
    run: listVersions,
  },
  {
    name: "secrets/get",
    method: "GET",
    paths: ["/secrets/:name", "/secrets/:name/:version"],
    need: "secrets/get",
    scope: secretScope,
    only: "vault",
    run: getSecret,
  },
  {
    name: "secrets/update",
    method: "PATCH",
    paths: ["/secrets/:name", "/secrets/:name/:version"],
    need: "secrets/update",
    scope: secretScope,
    only: "vault",
    run: updateSecret,
  },
  { name: "secrets/delete", method: "DELETE", paths: ["/secrets/:name"], need: "secrets/delete", scope: secretScope, only: "vault", run: deleteSecret },
  { name: "secrets/list-deleted", method: "GET", paths: ["/deletedsecrets"], need: "secrets/list", scope: secretsScope, only: "vault", run: listDeleted },
  {
    name: "secrets/get-deleted",
    method: "GET",
    paths: ["/deletedsecrets/:name"],
    need: "secrets/get-deleted",
    scope: secretScope,
    only: "vault",
    run: getDeleted,
  },
  {
    name: "secrets/recover",
    method: "POST",
    paths: ["/deletedsecrets/:name/recover"],
    need: "secrets/recover",
    scope: secretScope,
    only: "vault",
    run: recoverSecret,
  },
  { name: "secrets/purge", method: "DELETE", paths: ["/deletedsecrets/:name"], need: "secrets/purge", scope: secretScope, only: "vault", run: purgeSecret },
  {
    name: "secrets/backup",
    method: "POST",
    paths: ["/secrets/:name/backup"],
    need: "secrets/backup",
    scope: secretScope,
    only: "vault",
    run: inTurn(backupSecret),
  },
  {
    name: "secrets/restore",
    method: "POST",
    paths: ["/secrets/restore"],
    need: "secrets/restore",
    scope: secretsScope,
    only: "vault",
    run: inTurn(restoreSecret),
  },
];

async function setSecret(exchange: Exchange): Promise<Response> {
  const name = exchange.secretName();
  const fresh = parseSecret(exchange.vault.name, name, await exchange.body());
  const secret = await exchange.change((audit) => exchange.store.setSecret(fresh, audit));
  return exchange.json(secretBundle(exchange.base, secret, fresh.value));
}

async function listSecrets(exchange: Exchange): Promise<Response> {
  const { store, vault, base } = exchange;
  return answerList(
    exchange,
    (after, limit) => store.listSecrets(vault.name, after, limit),
    (secret) => secret.name,
    (secret) => secretItem(base, secret),
  );
}

async function listVersions(exchange: Exchange): Promise<Response> {
  const { store, vault, base } = exchange;
  const name = exchange.secretName();
  return answerList(
    exchange,
    (after, limit) => store.listSecretVersions(vault.name, name, after, limit),
    (secret) => secret.version,
    (secret) => secretItem(base, secret, secret.version),
  );
}

/** Gives the value, also outside of nbf and exp: the genuine service lets expired secrets be recovered, and new ones be tried. */
async function getSecret(exchange: Exchange): Promise<Response> {
  const secret = await exchange.store.secret(exchange.vault.name, exchange.secretName(), exchange.version());
  if (secret === undefined) throw secretNotFound(exchange);
  exchange.note({ name: secret.name, version: secret.version });
  if (!secret.enabled) {
    throw new KeyvaultError("ERR_KEYVAULT_KEY_OPERATION", "Operation get is not allowed on a disabled secret.", { details: { inner: "SecretDisabled" } });
  }
  return exchange.json(secretBundle(exchange.base, secret, await exchange.store.openSecret(secret)));
}

async function updateSecret(exchange: Exchange): Promise<Response> {
  const { store, vault } = exchange;
  const name = exchange.secretName();
  const update = parseSecretUpdate(await exchange.body());
  const secret = await exchange.change((audit) => store.updateSecret(vault.name, name, exchange.version(), update, audit));
  if (secret === undefined) throw secretNotFound(exchange);
  return exchange.json(secretBundle(exchange.base, secret));
}

async function deleteSecret(exchange: Exchange): Promise<Response> {
  const { store, vault, base } = exchange;
  const name = exchange.secretName();
  const deleted = await exchange.change((audit) => store.deleteSecret(vault.name, name, audit));
  if (deleted === undefined) throw secretNotFound(exchange);
  return exchange.json({ ...secretBundle(base, deleted.item), ...deletion(base, "deletedsecrets", deleted) });
}

async function listDeleted(exchange: Exchange): Promise<Response> {
  const { store, vault, base } = exchange;
  return answerList(
    exchange,
    (after, limit) => store.listDeletedSecrets(vault.name, after, limit),
    (deleted) => deleted.item.name,
    (deleted) => ({ ...secretItem(base, deleted.item), ...deletion(base, "deletedsecrets", deleted) }),
  );
}

async function getDeleted(exchange: Exchange): Promise<Response> {
  const deleted = await exchange.store.deletedSecret(exchange.vault.name, exchange.secretName());
  if (deleted === undefined) throw deletedNotFound(exchange);
  return exchange.json({ ...secretBundle(exchange.base, deleted.item), ...deletion(exchange.base, "deletedsecrets", deleted) });
}

async function recoverSecret(exchange: Exchange): Promise<Response> {
  const name = exchange.secretName();
  const secret: SecretRecord | undefined = await exchange.change((audit) => exchange.store.recoverSecret(exchange.vault.name, name, audit));
  if (secret === undefined) throw deletedNotFound(exchange);
  return exchange.json(secretBundle(exchange.base, secret));
}

async function purgeSecret(exchange: Exchange): Promise<Response> {
  const name = exchange.secretName();
  if (!(await exchange.change((audit) => exchange.store.purgeSecret(exchange.vault.name, name, audit)))) throw deletedNotFound(exchange);
  return exchange.context.body(null, 204);
}

async function backupSecret(exchange: Exchange): Promise<Response> {
  const name = exchange.secretName();
  const backup = await exchange.change((audit) => exchange.store.backupSecret(exchange.vault.name, name, audit));
  if (backup === undefined) throw secretNotFound(exchange);
  return exchange.json(backupJson(backup));
}

async function restoreSecret(exchange: Exchange): Promise<Response> {
  const backup = backupOf(await exchange.body(MAX_BACKUP_BODY));
  const secret = await exchange.change((audit) =>
    exchange.store.restoreSecret(exchange.vault.name, backup, audit, (_secret, origin) => requireOrigin(exchange, origin)),
  );
  return exchange.json(secretBundle(exchange.base, secret));
}

function secretNotFound(exchange: Exchange): KeyvaultError {
  const version = exchange.version();
  const name = exchange.parameter("name").slice(0, 127);
  return new KeyvaultError(
    "ERR_KEYVAULT_NOT_FOUND",
    `A secret with (name/id) ${version === undefined ? name : `${name}/${version.slice(0, 40)}`} was not found in this key vault. If you recently deleted this secret you may be able to recover it using the correct recovery command.`,
    { details: { inner: "SecretNotFound" } },
  );
}

function deletedNotFound(exchange: Exchange): KeyvaultError {
  return new KeyvaultError(
    "ERR_KEYVAULT_NOT_FOUND",
    `A deleted secret with (name/id) ${exchange.parameter("name").slice(0, 127)} was not found in this key vault.`,
    { details: { inner: "SecretNotFound" } },
  );
}
