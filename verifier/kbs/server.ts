import { readFile } from "node:fs/promises";
import { openRoots } from "@sealpod/attestation";
import { messageOf, type Logger } from "@sealpod/core";
import { openVaultDatabaseAddress, openVaultMasterKey, openVaultStore, type ConfiguredStorePorts } from "@sealpod/keyvault";
import { ServiceError, startService, type ServiceProgram, type StartedService } from "@sealpod/service";
import { kdsSource } from "@sealpod/snp";
import { ed25519Admins } from "./admin.ts";
import { kbsApp } from "./app.ts";
import manifest from "./package.json" with { type: "json" };
import { KBS_SETTINGS, type KbsSettings } from "./server-settings.ts";

/** Before each of the service's environment variables. */
export const KBS_PREFIX = "SEALPOD_KBS_";

/** What {@link startKbsServer} needs of the process. */
export interface KbsServerPorts extends ConfiguredStorePorts {
  readonly logger: Logger;
  /** Asks for certificates. */
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** The process is this service and nothing else; see `createService`. */
  readonly ownsProcess: boolean;
}

/**
 * Starts the key broker that a configuration describes, on the database of the key vault service.
 * @throws {ServiceError} ERR_SERVICE_CONFIG, ERR_SERVICE_TLS, ERR_SERVICE_LISTEN; {@link SealingError}; {@link StorageError}; {@link KbsError} ERR_KBS_ARGUMENT, ERR_KBS_POLICY_SYNTAX
 */
export async function startKbsServer(settings: KbsSettings, ports: KbsServerPorts): Promise<StartedService> {
  const { clock, random, logger, fetch } = ports;
  checkTogether(settings);
  // What has started is ended in reverse order, on stop as on any failure before.
  await using stack = new AsyncDisposableStack();
  const { url, vault, stateVault, keyVault, certificates, policies, administrators } = settings;
  const roots = await openRoots(settings.roots);
  const adminKeys = await Promise.all(administrators.map(async (file) => readConfigured(file, "public key")));
  const resourcePolicy = policies.resource === undefined ? undefined : await readConfigured(policies.resource, "resource policy");
  const attestationPolicy = policies.attestation === undefined ? undefined : await readConfigured(policies.attestation, "attestation policy");
  const master = await openVaultMasterKey(settings.masterKey, ports);
  const store = stack.use(await openVaultStore({ url: openVaultDatabaseAddress(settings, ports), master, clock, random, logger }));
  const app = kbsApp({
    store,
    vault,
    stateVault,
    roots,
    ...(keyVault === undefined ? {} : { keys: { vault: keyVault, authority: url } }),
    ...(certificates === undefined ? {} : { endorsements: kdsSource({ fetch, clock, random, logger, sleep, base: certificates }) }),
    ...(adminKeys.length === 0 ? {} : { administrators: ed25519Admins(adminKeys, clock) }),
    defaults: {
      ...(resourcePolicy === undefined ? {} : { resourcePolicy }),
      ...(attestationPolicy === undefined ? {} : { attestationPolicy }),
      referenceValues: settings.referenceValues,
    },
    clock,
    random,
    logger,
  });
  const names = [...new Set(roots.map(({ name }) => name))].join(", ");
  return await startService({
    name: "kbs",
    version: manifest.version,
    app,
    settings,
    ports,
    ready: { database: async () => store.check() },
    owned: stack.move(),
    summary: ({ url: listening, operations }) => ({
      url: listening,
      broker: url,
      vault,
      operations,
      roots: names,
      administrators: adminKeys.length,
      masterKey: master.id,
    }),
  });
}

/** The service for `main.ts`. */
export function kbsProgram(ports: Omit<KbsServerPorts, "logger" | "env">): ServiceProgram<typeof KBS_SETTINGS> {
  return {
    name: "kbs",
    summary: "Key broker for guests of Confidential Containers: the protocol of Trustee's KBS over the secrets of a vault.",
    version: manifest.version,
    schema: KBS_SETTINGS,
    prefix: KBS_PREFIX,
    start: async (settings, own) => startKbsServer(settings, { ...ports, ...own }),
  };
}

/** What no key alone shows. */
function checkTogether({ tls, masterKey, roots }: KbsSettings): void {
  const keys = [masterKey.file, masterKey.environment, masterKey.pkcs11].filter((source) => source !== undefined);
  const problem =
    (tls.cert === undefined) !== (tls.key === undefined)
      ? `tls.${tls.cert === undefined ? "cert" : "key"} is missing: a certificate needs its key, and a key its certificate`
      : roots.length === 0
        ? "roots is empty: every report would be refused"
        : keys.length !== 1
          ? `masterKey needs one of file, environment and pkcs11, found ${keys.length}`
          : undefined;
  if (problem !== undefined) throw new ServiceError("ERR_SERVICE_CONFIG", problem, { hint: "--describe-config prints every key with its meaning." });
}

async function readConfigured(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_CONFIG", `the ${what} ${file} cannot be read: ${messageOf(cause)}`, { cause });
  }
}

/** Resolves after so many milliseconds, or as soon as the signal is aborted. */
async function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, milliseconds);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done, { once: true });
  });
}
