import { KeyvaultError } from "../errors.ts";
import type { KeyRecord } from "../store/types.ts";
import type { Exchange } from "./exchange.ts";

/**
 * The key of the path; the audit learns which version that is.
 * @throws {KeyvaultError} ERR_KEYVAULT_NOT_FOUND, ERR_KEYVAULT_BAD_PARAMETER for a name that is none
 */
export async function requireKey(exchange: Exchange): Promise<KeyRecord> {
  const key = await exchange.store.key(exchange.vault.name, exchange.keyName(), exchange.version());
  if (key === undefined) throw keyNotFound(exchange);
  exchange.note({ name: key.name, version: key.version });
  return key;
}

/** The answer to a key, or version, that is not there. */
export function keyNotFound(exchange: Exchange): KeyvaultError {
  const version = exchange.version();
  const name = exchange.parameter("name").slice(0, 127);
  return new KeyvaultError(
    "ERR_KEYVAULT_NOT_FOUND",
    `A key with (name/id) ${version === undefined ? name : `${name}/${version.slice(0, 40)}`} was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command.`,
    { details: { inner: "KeyNotFound" } },
  );
}
