import type { Clock, Logger, Random } from "@sealpod/core";
import { loadMasterKey } from "@sealpod/sealing";
import { repeat, ServiceError, startService, type ServiceProgram, type StartedService } from "@sealpod/service";
import { identityApp } from "./app.ts";
import { FederatedIssuers, type FederationFetch } from "./federation.ts";
import { MANAGEMENT_RESOURCES } from "./own-tokens.ts";
import manifest from "./package.json" with { type: "json" };
import { startKeyRotation } from "./rotation.ts";
import { openManagement } from "./server-management.ts";
import { IDENTITY_SETTINGS, type IdentitySettings } from "./server-settings.ts";
import { openIdentityStore } from "./store.ts";
import type { TokenService } from "./token-service.ts";

/** Before each of the service's environment variables. */
export const IDENTITY_PREFIX = "SEALPOD_IDENTITY_";

/** What {@link startIdentityServer} needs of the process. */
export interface IdentityServerPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Asks the issuers of federated tokens for their keys. */
  readonly fetch: FederationFetch;
  /** For the master key and the address of the database. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly uid: number | undefined;
  /** The process is this service and nothing else; see `createService`. */
  readonly ownsProcess: boolean;
}

/** The service while it listens; its URL is not the authority behind a proxy. */
export type RunningIdentity = StartedService;

/**
 * Starts the identity service that a configuration describes.
 * @throws {ServiceError} ERR_SERVICE_CONFIG, ERR_SERVICE_TLS, ERR_SERVICE_LISTEN
 * @throws {SealingError} ERR_SEALING_MASTER_KEY, ERR_SEALING_MASTER_KEY_ACCESS
 * @throws {IdentityError} ERR_IDENTITY_STORE for a database that does not open with the master key, ERR_IDENTITY_ARGUMENT
 * @throws {StorageError} for a database that cannot be opened
 */
export async function startIdentityServer(settings: IdentitySettings, ports: IdentityServerPorts): Promise<RunningIdentity> {
  const { clock, random, logger } = ports;
  checkTogether(settings);
  // What has started is ended in reverse order, on stop as on any failure before.
  await using stack = new AsyncDisposableStack();
  const masterKey = await loadMasterKey(settings.masterKey, ports);
  const rotation = settings.keyRotation;
  const store = stack.use(
    await openIdentityStore({
      url: databaseUrl(settings, ports),
      masterKey,
      clusters: settings.clusters.map(({ name }) => name),
      rotation,
      clock,
      random,
      logger,
    }),
  );
  masterKey.fill(0);
  const { authority, tenants, clusters, tokens } = settings;
  const tokenService: TokenService = {
    authority,
    tenants,
    resources: [...MANAGEMENT_RESOURCES.filter((name) => !settings.resources.some(({ resource }) => resource === name)), ...settings.resources],
    clusters,
    issuerForm: tokens.issuer,
    accessTokenLifetime: Math.floor(tokens.lifetime / 1000),
    auditTokens: tokens.audit,
    ...(settings.federation === "on" ? { federation: new FederatedIssuers({ fetch: ports.fetch, clock, logger }) } : {}),
    store,
    clock,
    random,
    logger,
  };
  const management = await openManagement(settings.management, tokenService);
  const app = identityApp({ ...tokenService, logger, ...(management === undefined ? {} : { management }) });
  const schedule = startKeyRotation({ store, logger, timer: { every: repeat } });
  stack.defer(async () => schedule.stop());
  return await startService({
    name: "identity",
    version: manifest.version,
    app,
    settings,
    ports,
    ready: { database: async () => store.check(), rotation: () => store.checkRotation() },
    owned: stack.move(),
    summary: ({ url, operations }) => ({
      url,
      authority,
      operations,
      tenants: tenants.join(", "),
      clusters: clusters.map(({ issuer }) => issuer).join(", "),
      federation: settings.federation,
      management: management === undefined ? "off" : "on",
      database: store.name,
    }),
  });
}

/** The service for `main.ts`. */
export function identityProgram(ports: Omit<IdentityServerPorts, "logger" | "env">): ServiceProgram<typeof IDENTITY_SETTINGS> {
  return {
    name: "identity",
    summary: "Identity service: OIDC issuer of clusters, and token endpoint with the wire format of Microsoft Entra ID.",
    version: manifest.version,
    schema: IDENTITY_SETTINGS,
    prefix: IDENTITY_PREFIX,
    start: async (settings, own) => startIdentityServer(settings, { ...ports, ...own }),
  };
}

/** What no key alone shows. */
function checkTogether({ tls, tenants, clusters, masterKey, keyRotation }: IdentitySettings): void {
  const problem =
    (tls.cert === undefined) !== (tls.key === undefined)
      ? `tls.${tls.cert === undefined ? "cert" : "key"} is missing: a certificate needs its key, and a key its certificate`
      : tenants.length === 0
        ? "tenants is empty: there would be nobody to give tokens to"
        : masterKey.file === undefined && masterKey.environment === undefined
          ? "neither masterKey.file nor masterKey.environment says where the master key is"
          : new Set(clusters.map(({ issuer }) => issuer.replace(/\/$/, ""))).size !== clusters.length
            ? "two clusters have the same issuer"
            : keyRotation.overlap >= keyRotation.every
              ? "keyRotation.overlap is not less than keyRotation.every: a key would be published before the one that it succeeds"
              : undefined;
  if (problem !== undefined) throw new ServiceError("ERR_SERVICE_CONFIG", problem, { hint: "--describe-config prints every key with its meaning." });
}

function databaseUrl({ database, databaseUrlEnvironment }: IdentitySettings, { env }: IdentityServerPorts): string {
  const url = databaseUrlEnvironment === undefined ? database : env[databaseUrlEnvironment];
  if (url === undefined || url === "") {
    throw new ServiceError("ERR_SERVICE_CONFIG", `the environment variable ${databaseUrlEnvironment ?? ""} that databaseUrlEnvironment names is not set`);
  }
  return url;
}
