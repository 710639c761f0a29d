import { readdir, readFile, rm } from "node:fs/promises";
import { isIP } from "node:net";
import { resolve } from "node:path";
import { attestationApp, openAttestationStore, startKeyRotation } from "@sealpod/attestation";
import { MICROSOFT_UVM_TRUST } from "@sealpod/cose";
import { isSealpodError, messageOf, sha256, toHex, type Clock, type Logger, type Random } from "@sealpod/core";
import {
  FederatedIssuers,
  identityApp,
  MANAGEMENT_RESOURCES,
  openIdentityStore,
  ownTokenAccess,
  startKeyRotation as startIdentityRotation,
  tenantIssuer,
  type IdentityStore,
  type ManagementOptions,
  type TokenService,
} from "@sealpod/identity";
import { lockFile, makeDirectory, writeFileAtomic } from "@sealpod/io";
import { kbsApp } from "@sealpod/kbs";
import { keyvaultApp, openVaultStore, rotateDue, startUpkeep, type VaultStore } from "@sealpod/keyvault";
import { EMULATED_NOTICE, SecurityProcessor, servePsp } from "@sealpod/psp";
import { createService } from "@sealpod/service";
import { AMD_ROOTS } from "@sealpod/snp";
import { ATTESTATION_RESOURCE, OwnerTokens } from "./owner-tokens.ts";
import { Authority, chainPem, type ServerName } from "./authority.ts";
import { ServicesError } from "./errors.ts";
import { laptopFetch } from "./fetch.ts";
import { kubeApp, serveUnix } from "./kube.ts";
import { Listener } from "./listener.ts";
import { openSeed, seedServices } from "./seed.ts";
import { upFile, writeUp, type Up } from "./up.ts";

/** The document's key lies in a managed HSM, whose keys are all HSM keys and whose access is by roles. */
const HSM = { name: "demo", kind: "managedhsm" } as const;

/** A key vault beside it, with secrets and access policies: `az keyvault set-policy --secret-permissions get`. */
const VAULT = { name: "kv", kind: "vault" } as const;

/** A wrapping key signs off after this long; see the key vault's own configuration. Milliseconds. */
const WRAPPING_KEY_PERIOD = 90 * 24 * 60 * 60 * 1000;

/** What attested compliance means on a laptop: the emulator launched what it says. */
const COMPLIANCE = "sealpod-compliant-uvm";

/** Resources that pods and people ask access tokens for; the genuine sidecar knows no others. */
const RESOURCES: readonly string[] = ["https://vault.azure.net", "https://managedhsm.azure.net"];

/** Millisecond timers of the platform; they keep no process alive. */
const TIMER = {
  every: (milliseconds: number, action: () => void): (() => void) => {
    const timer = setInterval(action, milliseconds).unref();
    return () => clearInterval(timer);
  },
};

const MASTER_KEY_LENGTH = 32;

const DOMAIN = /^(?=.{1,200}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$/;

/** Options of {@link startServices}. */
export interface ServicesOptions {
  /** Directory that keeps everything between starts; what is made in it is for its owner alone. */
  readonly state: string;
  /** Loopback address to listen on. */
  readonly host: string;
  /** 0 takes a free one, for tests: the issuers' names contain it. */
  readonly port: number;
  /** Parent of the services' host names, e.g. `sealpod.internal`. */
  readonly domain: string;
  /** Process that serves, for `up.json`. */
  readonly pid: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** `x-ms-compliance-status` for a guest whose measurement the laptop's own UVM key has endorsed. Default {@link COMPLIANCE}. */
  readonly compliance?: string;
}

/** The services while they run. */
export interface RunningServices extends AsyncDisposable {
  readonly up: Up;
  /** Keys, secrets, access and audit of the vaults. */
  readonly keys: VaultStore;
  readonly identities: IdentityStore;
  /** Ends all connections and guests, closes the databases, removes `up.json`. */
  stop(): Promise<void>;
}

/**
 * Starts the emulated security processor (NO hardware protection) and the verifier's services on loopback. `up.json` is
 * written last: who finds it finds everything listening.
 * @throws {ServicesError} ERR_SERVICES_RUNNING with the other process's id, ERR_SERVICES_PORT, ERR_SERVICES_STATE, ERR_SERVICES_ARGUMENT
 * @throws {IoError} ERR_IO_WRITE if the directory cannot be made
 */
export async function startServices(options: ServicesOptions): Promise<RunningServices> {
  checkOptions(options);
  // What has started is ended in reverse order, on stop as on any failure before.
  await using stack = new AsyncDisposableStack();
  const started = await start({ ...options, state: resolve(options.state) }, stack);
  const owned = stack.move();
  let stopping: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    stopping ??= owned.disposeAsync();
    return stopping;
  };
  return { ...started, stop, [Symbol.asyncDispose]: stop };
}

async function start(options: ServicesOptions, stack: AsyncDisposableStack): Promise<Omit<RunningServices, "stop" | typeof Symbol.asyncDispose>> {
  const { state, host, domain, clock, random, logger } = options;
  for (const directory of [state, `${state}/ca`, `${state}/services`]) await makeDirectory(directory, 0o700);
  stack.use(await lock(state));
  // A file that an ended process left behind would send clients to whoever has its port now.
  for (const stale of [upFile(state), `${state}/kube.sock`]) await rm(stale, { force: true });

  const authority = await Authority.open(`${state}/ca`, clock, random);
  const names = serverNames(domain);
  const hosts = [];
  for (const server of Object.values(names)) hosts.push({ name: server.name, credential: await authority.server(server) });
  const listener = await Listener.listen(host, options.port, hosts, logger);
  stack.defer(() => listener.close());
  const { port } = listener;
  const url = (name: string): string => `https://${name}:${port}`;
  const attestation = names.attestation.name;
  const login = names.login.name;
  const issuer = `${url(login)}/oidc/laptop/`;

  const databases = { masterKey: await openMasterKey(state, random), clock, random };
  const identities = stack.use(await openIdentityStore({ url: `${state}/services/identity.sqlite`, ...databases, logger }));
  const identityRotation = startIdentityRotation({ store: identities, timer: TIMER, logger });
  stack.defer(() => identityRotation.stop());
  const keys = stack.use(await openVaultStore({ url: `${state}/services/keyvault.sqlite`, master: databases.masterKey, clock, random, logger }));
  const upkeep = startUpkeep({
    store: keys,
    rotateKeys: async () => rotateDue({ store: keys, clock, random, logger }),
    every: WRAPPING_KEY_PERIOD,
    clock,
    logger,
    timer: TIMER,
  });
  stack.defer(() => upkeep.stop());
  const attestations = stack.adopt(await openAttestationStore({ file: `${state}/services/attestation.sqlite`, ...databases }), closeStore);
  const rotation = startKeyRotation({ store: attestations, timer: TIMER, logger });
  stack.defer(() => rotation.stop());

  const processor = await SecurityProcessor.open(`${state}/psp`, { clock, random });
  await writeFileAtomic(`${state}/emulator-root.pem`, new TextEncoder().encode(processor.rootPem), 0o644);
  stack.use(await servePsp({ processor, socketPath: `${state}/psp.sock`, guestInfoBase: `${state}/guests`, logger }));

  const seed = await openSeed(`${state}/services/seed.json`, random);
  const cluster = { issuer, store: identities, clock, random };
  const kube = kubeApp(cluster, (namespace, name) => accountUid(seed.tenantId, namespace, name));
  stack.use(await serveUnix(`${state}/kube.sock`, kube));

  const route = { domain, host, caCertificate: chainPem([authority.root]) };
  // Every root is named here on purpose: this laptop's verifier takes its own emulator's word, and each token says so.
  const roots = [processor.trustRoot, ...AMD_ROOTS];
  const evidenceRoots = [...new Set(roots.map((root) => root.name))];
  const owner = new OwnerTokens({ identities, issuer: tenantIssuer(url(login), seed.tenantId), ownerClientId: seed.ownerClientId, clock });
  const attestationService = createService({
    name: "attestation",
    version: "laptop",
    app: attestationApp({
      issuer: url(attestation),
      store: attestations,
      roots,
      // The laptop's own virtual machines, and Microsoft's: genuine evidence of Azure is judged here as there.
      uvmTrust: [{ ...processor.uvmTrust, claim: options.compliance ?? COMPLIANCE }, ...MICROSOFT_UVM_TRUST],
      management: {
        authority: `${url(login)}/${seed.tenantId}`,
        resource: ATTESTATION_RESOURCE,
        authenticate: async (token) => owner.judge(token, [ATTESTATION_RESOURCE]),
      },
      clock,
      random,
      logger,
    }),
    logger,
    clock,
    random,
    // All clients are this machine, so there is nobody to be fair to.
    limits: { rate: "off" },
    ready: { database: () => void attestations.signer() },
  });
  listener.handle(attestation, (request) => attestationService.fetch(request));
  const tokenService: TokenService = {
    authority: url(login),
    tenants: [seed.tenantId],
    resources: [...RESOURCES, ATTESTATION_RESOURCE, ...MANAGEMENT_RESOURCES, `https://vault.${domain}`],
    clusters: [{ name: "default", issuer }],
    // Clusters elsewhere may be named in federated credentials as well: their keys are fetched from the network like anybody's.
    federation: new FederatedIssuers({ fetch: async (address, init) => fetch(address, init), clock, logger }),
    store: identities,
    clock,
    random,
  };
  const identityService = identityApp({ ...tokenService, management: operatedBy(ownTokenAccess(tokenService, [seed.ownerClientId])), logger });
  listener.handle(login, (request) => identityService.fetch(request));
  const vaultCredential = hosts.find((entry) => entry.name === names.vault.name)?.credential;
  if (vaultCredential === undefined) throw new ServicesError("ERR_SERVICES_STATE", "the vault has no certificate");
  const administrators = [{ tenantId: seed.tenantId, id: seed.ownerClientId }];
  const common = { logger, clock, random, limits: { rate: "off" } } as const;
  const keyvaultService = createService({
    ...common,
    name: "keyvault",
    version: "laptop",
    app: keyvaultApp({
      store: keys,
      domain: `vault.${domain}`,
      vaults: [
        { ...HSM, administrators },
        { ...VAULT, administrators },
      ],
      issuers: [{ issuer: tenantIssuer(url(login), seed.tenantId), tenantId: seed.tenantId, authorization: `${url(login)}/${seed.tenantId}` }],
      resource: `https://vault.${domain}`,
      audiences: RESOURCES,
      signer: { privateKey: vaultCredential.key, chain: vaultCredential.chain.map((certificate) => certificate.der) },
      evidenceRoots,
      fetch: laptopFetch(route),
      clock,
      random,
      logger,
    }),
    ready: { database: async () => keys.check() },
  });
  listener.handle(names.vault.name, (request) => keyvaultService.fetch(request));
  // CoCo's key broker, over the secrets of the vault.
  const kbsService = createService({
    ...common,
    name: "kbs",
    version: "laptop",
    app: kbsApp({
      store: keys,
      vault: VAULT.name,
      keys: { vault: HSM.name, authority: url(names.kbs.name) },
      roots,
      administrators: {
        async authenticate(token) {
          const verdict = owner.judge(token, RESOURCES);
          if (verdict.kind === "allowed") return { kind: "allowed", tenantId: seed.tenantId, appid: seed.ownerClientId, oid: "" };
          return { kind: "refused", problem: verdict.problem };
        },
      },
      clock,
      random,
      logger,
    }),
    ready: { database: async () => keys.check() },
  });
  listener.handle(names.kbs.name, (request) => kbsService.fetch(request));

  const seeded = await seedServices(seed, { identities, keys, hsm: HSM.name, vault: VAULT.name, issuer, clock, logger });
  const up: Up = {
    version: 1,
    pid: options.pid,
    startedAt: clock.now(),
    state,
    port,
    ...route,
    endpoints: {
      attestation: `${attestation}:${port}`,
      vault: `${HSM.name}.vault.${domain}:${port}`,
      keyvault: `${VAULT.name}.vault.${domain}:${port}`,
      kbs: `${names.kbs.name}:${port}`,
      authority: url(login),
      issuer,
    },
    sockets: { psp: `${state}/psp.sock`, kube: `${state}/kube.sock` },
    tenantId: seed.tenantId,
    ...seeded,
  };
  await writeUp(up);
  stack.defer(() => rm(upFile(state), { force: true }));
  logger.log("warn", `services are up; the security processor is ${EMULATED_NOTICE}`, { ...up.endpoints, state });
  return { up, keys, identities };
}

/** The laptop has one tenant, and whoever manages it operates the whole service: there are no others whose keys it would be to protect. */
function operatedBy(access: ManagementOptions): ManagementOptions {
  return {
    ...access,
    async authenticate(token) {
      const verdict = await access.authenticate(token);
      return verdict.kind === "allowed" ? { kind: "allowed", subject: verdict.subject } : verdict;
    },
  };
}

function serverNames(domain: string): Readonly<Record<"attestation" | "login" | "vault" | "kbs", ServerName>> {
  return {
    attestation: { file: "attest", name: `attest.${domain}`, key: "p256" },
    login: { file: "login", name: `login.${domain}`, key: "p256" },
    vault: { file: "vault", name: `*.vault.${domain}`, key: "rsa-2048" },
    kbs: { file: "kbs", name: `kbs.${domain}`, key: "p256" },
  };
}

function checkOptions({ host, port, domain }: ServicesOptions): void {
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw new ServicesError("ERR_SERVICES_ARGUMENT", `port ${port} is not 0 to 65535`);
  if (!DOMAIN.test(domain)) {
    throw new ServicesError("ERR_SERVICES_ARGUMENT", `domain ${JSON.stringify(domain.slice(0, 100))} is not a lower-case DNS name of two labels or more`);
  }
  // Anyone who reaches the listener can try the owner's secret, and evidence of an emulator is worth nothing elsewhere.
  if (!(isIP(host) === 4 && host.startsWith("127.")) && host !== "::1") {
    throw new ServicesError("ERR_SERVICES_ARGUMENT", `host ${JSON.stringify(host.slice(0, 100))} is not a loopback address`, { hint: "Use 127.0.0.1." });
  }
}

async function lock(state: string): Promise<AsyncDisposable> {
  try {
    return await lockFile(`${state}/up.lock`);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_IO_LOCKED") throw new ServicesError("ERR_SERVICES_STATE", messageOf(cause), { cause });
    const { pid } = cause.details;
    throw new ServicesError("ERR_SERVICES_RUNNING", `the services already run on ${state}${pid === undefined ? "" : ` (process ${String(pid)})`}`, {
      cause,
      details: { pid },
      hint: pid === undefined ? (cause.hint ?? "") : `Use them as they are, stop them with "sealpod down", or take another directory with --state.`,
    });
  }
}

/** The key that seals all other keys. It is made once, and never when there are databases that another one has sealed. */
export async function openMasterKey(state: string, random: Random): Promise<Uint8Array> {
  const file = `${state}/services/master.key`;
  try {
    const key = new Uint8Array(await readFile(file));
    if (key.length !== MASTER_KEY_LENGTH) throw new ServicesError("ERR_SERVICES_STATE", `${file} has ${key.length} bytes, expected ${MASTER_KEY_LENGTH}`);
    return key;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
  }
  if ((await readdir(`${state}/services`)).some((name) => name.endsWith(".sqlite"))) {
    throw new ServicesError("ERR_SERVICES_STATE", `${file} is missing, and there are databases that it sealed`, {
      hint: "Put the file back, or start with an empty state directory: the keys in this one cannot be opened without it.",
    });
  }
  const key = random.bytes(MASTER_KEY_LENGTH);
  await writeFileAtomic(file, key, 0o600);
  return key;
}

function closeStore(store: { close(): void }): void {
  store.close();
}

/** The service accounts of the embedded cluster are not objects; their uid is made of their name, and so stays. */
function accountUid(tenantId: string, namespace: string, name: string): string {
  const hex = toHex(sha256(new TextEncoder().encode(`${tenantId}/${namespace}/${name}`)));
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
