import { readFile } from "node:fs/promises";
import { MICROSOFT_UVM_TRUST } from "@sealpod/cose";
import { messageOf, type Clock, type Logger, type Random } from "@sealpod/core";
import { parseCertificatesPem } from "@sealpod/pki";
import { loadMasterKey } from "@sealpod/sealing";
import { repeat, ServiceError, startService, type ServiceProgram, type StartedService } from "@sealpod/service";
import { parseReportPolicy, type ReportPolicy } from "@sealpod/snp";
import { attestationApp } from "./app.ts";
import manifest from "./package.json" with { type: "json" };
import { startKeyRotation } from "./rotation.ts";
import { openManagement } from "./server-management.ts";
import { openRevocation } from "./server-revocation.ts";
import { openRoots } from "./server-roots.ts";
import { ATTESTATION_SETTINGS, type AttestationSettings } from "./server-settings.ts";
import { openAttestationStore } from "./store.ts";

/** Before each of the service's environment variables. */
export const ATTESTATION_PREFIX = "SEALPOD_ATTESTATION_";

/** What {@link startAttestationServer} needs of the process. */
export interface AttestationServerPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Fetches revocation lists, and the keys of those who issue tokens for management. */
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** For the master key. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly uid: number | undefined;
  /** The process is this service and nothing else; see `createService`. */
  readonly ownsProcess: boolean;
}

/** The service while it listens. */
export interface RunningAttestation extends StartedService {
  /** Names of the roots whose evidence is taken. */
  readonly roots: readonly string[];
}

/**
 * Starts the attestation service that a configuration describes.
 * @throws {ServiceError} ERR_SERVICE_CONFIG for a file that is no use, ERR_SERVICE_TLS, ERR_SERVICE_LISTEN
 * @throws {SealingError} ERR_SEALING_MASTER_KEY, ERR_SEALING_MASTER_KEY_ACCESS
 * @throws {AttestationError} ERR_ATTESTATION_STORE for a database that does not open with the master key, ERR_ATTESTATION_ARGUMENT
 */
export async function startAttestationServer(settings: AttestationSettings, ports: AttestationServerPorts): Promise<RunningAttestation> {
  const { clock, random, logger } = ports;
  checkTogether(settings);
  // What has started is ended in reverse order, on stop as on any failure before.
  await using stack = new AsyncDisposableStack();
  const roots = await openRoots(settings.roots);
  const reportPolicy = settings.reportPolicy === undefined ? undefined : await openReportPolicy(settings.reportPolicy);
  const management = await openManagement(settings.management, ports);
  const policyCertificates = await Promise.all(settings.management.certificates.map(async (file) => readCertificates(file)));
  const masterKey = await loadMasterKey(settings.masterKey, ports);
  const { every, overlap } = settings.keyRotation;
  const store = stack.adopt(await openAttestationStore({ file: settings.database, masterKey, clock, random, rotation: { period: every, overlap } }), (opened) =>
    opened.close(),
  );
  masterKey.fill(0);
  if (policyCertificates.length > 0) store.seedPolicyCertificates(policyCertificates.flat().map(({ der }) => der));
  if (settings.management.mode === "isolated") requireVouched(store.unvouchedPolicies());
  const rotation = startKeyRotation({ store, logger, timer: { every: repeat } });
  stack.defer(async () => rotation.stop());
  const revocation = await openRevocation(
    settings.revocation,
    roots.map(({ product }) => product),
    ports,
  );
  if (revocation !== undefined) stack.use(revocation);

  const { defaultPolicyHash } = settings;
  const app = attestationApp({
    issuer: settings.issuer,
    store,
    roots,
    uvmTrust: [...(settings.uvmTrust.microsoft ? MICROSOFT_UVM_TRUST : []), ...settings.uvmTrust.extra],
    mode: settings.management.mode,
    clock,
    random,
    logger,
    ...(revocation === undefined ? {} : { revocation: revocation.options }),
    ...(reportPolicy === undefined ? {} : { reportPolicy }),
    ...(management === undefined ? {} : { management }),
    ...(defaultPolicyHash === undefined ? {} : { defaultPolicyHash }),
  });
  const names = [...new Set(roots.map(({ name }) => name))];
  const started = await startService({
    name: "attestation",
    version: manifest.version,
    app,
    settings,
    ports,
    ready: {
      database: () => void store.signer(),
      rotation: () => store.checkRotation(),
      ...(revocation === undefined ? {} : { revocation: () => revocation.check() }),
    },
    owned: stack.move(),
    summary: ({ url, operations }) => ({
      url,
      issuer: settings.issuer,
      operations,
      roots: names.join(", "),
      management: management === undefined ? "off" : settings.management.mode,
      revocation: settings.revocation.crls.kind,
    }),
    reload: async () => revocation?.refresh(),
  });
  return { ...started, roots: names };
}

/** The service for `main.ts`. */
export function attestationProgram(ports: Omit<AttestationServerPorts, "logger" | "env">): ServiceProgram<typeof ATTESTATION_SETTINGS> {
  return {
    name: "attestation",
    summary: "Attestation service for AMD SEV-SNP with the wire format of Microsoft Azure Attestation.",
    version: manifest.version,
    schema: ATTESTATION_SETTINGS,
    prefix: ATTESTATION_PREFIX,
    start: async (settings, own) => startAttestationServer(settings, { ...ports, ...own }),
  };
}

/** What no key alone shows. */
function checkTogether({ tls, roots, management, revocation, keyRotation }: AttestationSettings): void {
  const problem =
    (tls.cert === undefined) !== (tls.key === undefined)
      ? `tls.${tls.cert === undefined ? "cert" : "key"} is missing: a certificate needs its key, and a key its certificate`
      : roots.length === 0
        ? "roots is empty: every report would be refused"
        : management.mode === "isolated" && management.tokenFile === undefined && management.issuers.length === 0
          ? "management.mode is isolated, and neither tokenFile nor issuers say who may manage"
          : revocation.crls.kind === "files" && revocation.crls.files.length === 0
            ? 'revocation.crls is an empty list: say "off", or name the files'
            : keyRotation.overlap >= keyRotation.every
              ? "keyRotation.overlap is not less than keyRotation.every: a key would be published before the one that it succeeds"
              : undefined;
  if (problem !== undefined) throw new ServiceError("ERR_SERVICE_CONFIG", problem, { hint: "--describe-config prints every key with its meaning." });
}

/** In isolated mode nobody but the holders of policy certificates decides. A policy from before the change of mode would go on deciding, in the name of none of them. */
function requireVouched(unvouched: readonly string[]): void {
  if (unvouched.length === 0) return;
  throw new ServiceError(
    "ERR_SERVICE_CONFIG",
    `management.mode is isolated, and the policy in force for ${unvouched.join(", ")} is not signed with a policy certificate: it was set in mode aad`,
    { hint: "Start once more with management.mode aad, and set each of them again with the signature of a policy certificate, or reset it." },
  );
}

async function readCertificates(file: string): Promise<ReturnType<typeof parseCertificatesPem>> {
  return readConfigured(file, "certificate", (text) => parseCertificatesPem(text, file));
}

async function openReportPolicy(file: string): Promise<ReportPolicy> {
  return readConfigured(file, "report policy", (text) => parseReportPolicy(text, file));
}

async function readConfigured<T>(file: string, what: string, parse: (text: string) => T): Promise<T> {
  try {
    return parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_CONFIG", `the ${what} ${file} cannot be used: ${messageOf(cause)}`, { cause });
  }
}
