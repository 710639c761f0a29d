import type { Clock, Random } from "@sealpod/core";
import { masterKeyProvider, type MasterKeyProvider } from "@sealpod/sealing";
import { ServiceError } from "@sealpod/service";
import { databaseAddress, type KeyvaultSettings } from "./server-settings.ts";

/** Stands above the configuration, as programs for containers have it. */
const DATABASE_VARIABLE = "DATABASE_URL";

/** What is needed to open the database of a configuration. */
export interface ConfiguredStorePorts {
  readonly clock: Clock;
  readonly random: Random;
  /** For the master key and the address of the database. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly uid: number | undefined;
  /** Where a path in DATABASE_URL starts from. */
  readonly cwd: string;
}

/**
 * The address of the database of a configuration.
 * @throws {ServiceError} ERR_SERVICE_CONFIG, without any part of an address that can be secret
 */
export function openDatabaseAddress({ database }: Pick<KeyvaultSettings, "database">, { env, cwd }: Pick<ConfiguredStorePorts, "env" | "cwd">): string {
  const given = env[DATABASE_VARIABLE];
  if (given !== undefined && given !== "") {
    try {
      return databaseAddress(given, cwd);
    } catch {
      throw new ServiceError("ERR_SERVICE_CONFIG", `the variable ${DATABASE_VARIABLE} is neither a path nor a postgres:// URL`);
    }
  }
  if (hasPassword(database)) {
    throw new ServiceError("ERR_SERVICE_CONFIG", "database has a password in it, and --print-config shows what stands in a configuration", {
      hint: `Put the address into the variable ${DATABASE_VARIABLE}, and remove it here.`,
    });
  }
  return database;
}

/**
 * The master key of a configuration.
 * @throws {SealingError} ERR_SEALING_MASTER_KEY, ERR_SEALING_MASTER_KEY_ACCESS, ERR_SEALING_PKCS11
 */
export async function openMasterKey(source: KeyvaultSettings["masterKey"], ports: ConfiguredStorePorts): Promise<MasterKeyProvider> {
  const { pkcs11, ...rest } = source;
  return masterKeyProvider(pkcs11 === undefined ? rest : { ...rest, pkcs11: { ...pkcs11, allowGroup: source.allowGroup } }, ports);
}

function hasPassword(address: string): boolean {
  if (!/^postgres(ql)?:\/\//i.test(address)) return false;
  // What is no URL to everybody, such as a user before no host, may still have one.
  const url = URL.parse(address);
  return url === null ? /:[^/@]*@/.test(address.replace(/^[a-z]+:\/\//i, "")) : url.password !== "" || url.searchParams.has("password");
}
