import { readFile } from "node:fs/promises";
import { messageOf, type Logger } from "@sealpod/core";
import { encodePem, parseCertificatesPem } from "@sealpod/pki";
import { repeat, ServiceError, startService, type ServiceProgram, type StartedService } from "@sealpod/service";
import { keyvaultApp } from "./app.ts";
import { rotateDue } from "./app/rotation-schedule.ts";
import type { Fetch } from "./issuer-keys.ts";
import manifest from "./package.json" with { type: "json" };
import { openDatabaseAddress, openMasterKey, type ConfiguredStorePorts } from "./server-database.ts";
import { trustingFetch } from "./server-fetch.ts";
import { KEYVAULT_SETTINGS, type KeyvaultSettings } from "./server-settings.ts";
import { openSigner } from "./server-signer.ts";
import { startUpkeep } from "./server-upkeep.ts";
import { openVaultStore } from "./store/index.ts";

/** Before each of the service's environment variables. */
export const KEYVAULT_PREFIX = "SEALPOD_KEYVAULT_";

/** Milliseconds between looks at the files of the release signer: a renewed certificate is used this soon. */
const SIGNER_INTERVAL = 60 * 1000;

/** What {@link startKeyvaultServer} needs of the process. */
export interface KeyvaultServerPorts extends ConfiguredStorePorts {
  readonly logger: Logger;
  /** Asks the issuers of tokens for their keys, if the configuration trusts nobody besides; must verify TLS. */
  readonly fetch: Fetch;
  /** The process is this service and nothing else; see `createService`. */
  readonly ownsProcess: boolean;
}

/** The service while it listens. */
export type RunningKeyvault = StartedService;

/**
 * Starts the key vaults that a configuration describes.
 * @throws {ServiceError} ERR_SERVICE_CONFIG, ERR_SERVICE_TLS, ERR_SERVICE_LISTEN
 * @throws {SealingError} for a master key that is missing, or that the database was not made with
 * @throws {StorageError} for a database that cannot be opened
 * @throws {KeyvaultError} ERR_KEYVAULT_ARGUMENT for a certificate that cannot sign releases
 */
export async function startKeyvaultServer(settings: KeyvaultSettings, ports: KeyvaultServerPorts): Promise<RunningKeyvault> {
  const { clock, random, logger } = ports;
  checkTogether(settings);
  // What has started is ended in reverse order, on stop as on any failure before.
  await using stack = new AsyncDisposableStack();
  const { domain, releases, tls } = settings;
  const releaseSigner = await openSigner({ cert: releases.cert ?? tls.cert ?? "", key: releases.key ?? tls.key ?? "" }, logger);
  const trusted = (await Promise.all(settings.trustedCertificates.map(readCertificates))).flat();
  const master = await openMasterKey(settings.masterKey, ports);
  const store = stack.use(await openVaultStore({ url: openDatabaseAddress(settings, ports), master, clock, random, logger }));
  const app = keyvaultApp({
    store,
    domain,
    // A vault of another domain is a resource of its own: clients compare it with the host.
    vaults: settings.vaults.map((vault) =>
      vault.domain === undefined || vault.resource !== undefined ? vault : { ...vault, resource: `https://${vault.domain}` },
    ),
    issuers: settings.issuers,
    resource: settings.resource ?? `https://${domain}`,
    audiences: settings.audiences,
    signer: releaseSigner.signer,
    evidenceRoots: releases.evidenceRoots,
    ...(releases.authorities.length === 0 ? {} : { authorities: releases.authorities }),
    attestationAudiences: releases.audiences,
    fetch: trusted.length === 0 ? ports.fetch : trustingFetch(trusted),
    clock,
    random,
    logger,
  });
  stack.defer(repeat(SIGNER_INTERVAL, () => void releaseSigner.renew()));
  const upkeep = startUpkeep({
    store,
    rotateKeys: async () => rotateDue({ store, clock, random, logger }),
    every: settings.wrappingKeys.every,
    clock,
    logger,
    timer: { every: repeat },
  });
  stack.defer(async () => upkeep.stop());
  const names = settings.vaults.map((vault) => `${vault.name}.${vault.domain ?? domain}`);
  const started = await startService({
    name: "keyvault",
    version: manifest.version,
    app,
    settings,
    ports,
    ready: { database: async () => store.check() },
    owned: stack.move(),
    summary: ({ url, operations }) => ({
      url,
      vaults: names.join(", "),
      operations,
      roots: releases.evidenceRoots.join(", "),
      masterKey: master.id,
    }),
    reload: async () => releaseSigner.renew(),
  });
  const software = releases.evidenceRoots.filter((root) => root !== "amd");
  if (software.length > 0) logger.log("warn", "keys are released to evidence that proves nothing about AMD's hardware", { roots: software.join(", ") });
  return started;
}

/** The service for `main.ts`. */
export function keyvaultProgram(ports: Omit<KeyvaultServerPorts, "logger" | "env">): ServiceProgram<typeof KEYVAULT_SETTINGS> {
  return {
    name: "keyvault",
    summary: "Key vaults with the wire format of Azure Key Vault and Managed HSM, which release keys to attested guests.",
    version: manifest.version,
    schema: KEYVAULT_SETTINGS,
    prefix: KEYVAULT_PREFIX,
    start: async (settings, own) => startKeyvaultServer(settings, { ...ports, ...own }),
  };
}

/** What no key alone shows. */
function checkTogether({ tls, vaults, issuers, masterKey, releases }: KeyvaultSettings): void {
  const keys = [masterKey.file, masterKey.environment, masterKey.pkcs11].filter((source) => source !== undefined);
  const names = vaults.map(({ name }) => name);
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  const idle = vaults.find(({ administrators }) => administrators.length === 0);
  const problem =
    (tls.cert === undefined) !== (tls.key === undefined)
      ? `tls.${tls.cert === undefined ? "cert" : "key"} is missing: a certificate needs its key, and a key its certificate`
      : (releases.cert === undefined) !== (releases.key === undefined)
        ? `releases.${releases.cert === undefined ? "cert" : "key"} is missing: a certificate needs its key, and a key its certificate`
        : tls.cert === undefined && releases.cert === undefined
          ? "releases.cert is missing: releases are signed with the certificate that clients see in TLS; behind a proxy, give the proxy's here"
          : vaults.length === 0
            ? "vaults is empty"
            : issuers.length === 0
              ? "issuers is empty: nobody's access token would count"
              : twice !== undefined
                ? `vaults has two of the name ${twice}`
                : idle !== undefined
                  ? `the vault ${idle.name} has no administrators: nobody could ever be given access to it`
                  : keys.length !== 1
                    ? `masterKey needs one of file, environment and pkcs11, found ${keys.length}`
                    : undefined;
  if (problem !== undefined) throw new ServiceError("ERR_SERVICE_CONFIG", problem, { hint: "--describe-config prints every key with its meaning." });
}

async function readCertificates(file: string): Promise<readonly string[]> {
  try {
    return parseCertificatesPem(await readFile(file, "latin1"), file).map(({ der }) => encodePem("CERTIFICATE", der));
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_CONFIG", `trustedCertificates: ${file} cannot be read: ${messageOf(cause)}`, { cause });
  }
}
