import { createWriteStream, existsSync, statSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { decodeUtf8, jsonLogger, type Clock, type Logger, type LogLevel } from "@sealpod/core";
import { fetchReport } from "@sealpod/tsm";
import { restrictedTo, type AllowedStores } from "./allowed-stores.ts";
import { parseSidecarArguments } from "./arguments.ts";
import { parseAuthorities } from "./authorities.ts";
import type { ReleaseBackend } from "./backend.ts";
import { SkrError } from "./errors.ts";
import type { ReportSource } from "./evidence.ts";
import type { Settings } from "./flags.ts";
import { httpsClient } from "./https-client.ts";
import { kbsBackend, type KbsOptions, type KbsSettings } from "./kbs/index.ts";
import { azureBackend, type ReleasePorts } from "./key-release.ts";
import { parseSecurityContext, type SecurityContext } from "./security-context.ts";
import type { WorkloadIdentity } from "./access-token.ts";
import { findWorkloadIdentity } from "./workload-identity.ts";

/** The kernel's report interface, and where Sealpod's emulator shows the same files. */
const KERNEL_REPORTS = "/sys/kernel/config/tsm/report";
const EMULATED_REPORTS = "/run/sealpod/tsm/report";

const SECURITY_CONTEXTS: readonly string[] = ["/opt/confidential-containers/share/kata-containers", "/run/sealpod/security-context"];
const AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt";

/** Names of the genuine sidecar's levels. */
const LEVELS: Readonly<Record<string, LogLevel>> = {
  trace: "debug",
  debug: "debug",
  info: "info",
  warning: "warn",
  warn: "warn",
  error: "error",
  fatal: "error",
  panic: "error",
};

/** Largest file that is read whole: tokens, public keys, and keys to wrap have a few KiB. */
const MAX_FILE = 256 * 1024;

/** Longest time that a timer of Node takes. */
const MAX_TIMEOUT = 2 ** 31 - 1;

/** What the ports of a sidecar take from its process. */
export interface SidecarProcess {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * The ports of a sidecar in a pod: the processor of this guest, its identity, the network by way of the authorities that the pod trusts.
 * @throws {SkrError} ERR_SKR_CONFIGURATION
 */
export async function openSidecarPorts(
  settings: Pick<Settings, "sidecarArguments" | "allowMismatchedTcb">,
  { env, clock, logger }: SidecarProcess,
): Promise<ReleasePorts> {
  const args = parseSidecarArguments(settings.sidecarArguments);
  const authorities = await readAuthorities(env);
  logger.log("info", "certificate authorities", { bundle: authorities.bundle, given: authorities.pem.length, usableForRelease: authorities.roots.length });
  if (settings.allowMismatchedTcb)
    logger.log("warn", "-allowTestingMismatchedTCB: certificates for another TCB than the report's are taken where there are no others");
  return {
    clock,
    random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
    timer: {
      // Unreferenced: a pause between two attempts does not hold up the end of the process.
      wait: (milliseconds, signal) => delay(milliseconds, undefined, { ref: false, ...(signal === undefined ? {} : { signal }) }),
      deadline: (milliseconds) => AbortSignal.timeout(Math.min(Math.ceil(milliseconds), MAX_TIMEOUT)),
    },
    logger,
    http: httpsClient(authorities.pem),
    reports: reportSource(logger),
    securityContext: await readSecurityContext(env, logger),
    certificateCache: args.certificateCache,
    allowMismatchedTcb: settings.allowMismatchedTcb,
    userAgent: args.userAgent,
    workloadIdentity: workloadIdentity(env, logger),
    clientId: args.clientId,
    readText,
    roots: authorities.roots,
  };
}

/** The key stores that a sidecar knows. @param allowed where its callers may not name any */
export function sidecarBackends(ports: ReleasePorts, kbs: KbsOptions = {}, allowed?: AllowedStores): readonly ReleaseBackend[] {
  const all = [kbsBackend(kbs), azureBackend(ports)];
  return allowed === undefined ? all : all.map((backend) => restrictedTo(allowed, backend));
}

/** What goes to key brokers beside evidence: the pod's init data, if it has a file of them. @throws {SkrError} ERR_SKR_CONFIGURATION */
export async function readKbsOptions({ initDataFile }: Pick<KbsSettings, "initDataFile">): Promise<KbsOptions> {
  return initDataFile === undefined ? {} : { initData: await readText(initDataFile) };
}

/** The authorities that TLS trusts: `SSL_CERT_FILE`, or the distribution's. @throws {SkrError} ERR_SKR_CONFIGURATION */
export async function readAuthorities(env: SidecarProcess["env"]): Promise<ReturnType<typeof parseAuthorities> & { readonly bundle: string }> {
  const bundle = setting(env, "SSL_CERT_FILE") ?? AUTHORITIES;
  return { ...parseAuthorities(await readFile(bundle, "utf8"), bundle), bundle };
}

/** Text of a file of bounded size. */
export async function readText(path: string): Promise<string> {
  return decodeUtf8(await readBounded(path), path);
}

/** Bytes of a file of bounded size. @throws {SkrError} ERR_SKR_CONFIGURATION */
export async function readBounded(path: string): Promise<Uint8Array> {
  const file = await open(path);
  try {
    const buffer = new Uint8Array(MAX_FILE + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length);
      length += bytesRead;
      if (length > MAX_FILE) throw new SkrError("ERR_SKR_CONFIGURATION", `${path} has more than ${MAX_FILE} bytes`);
      if (bytesRead === 0) return buffer.slice(0, length);
    }
  } finally {
    await file.close();
  }
}

/**
 * The log of a sidecar: a file, or standard output.
 * @throws {SkrError} ERR_SKR_CONFIGURATION
 */
export function openSidecarLog(name: string, settings: Pick<Settings, "logFile" | "logLevel">, clock: Clock): Logger {
  const wanted = settings.logLevel ?? "warning";
  const level = LEVELS[wanted.toLowerCase()];
  if (level === undefined)
    throw new SkrError("ERR_SKR_CONFIGURATION", `LogLevel is ${JSON.stringify(wanted)}; expected one of ${Object.keys(LEVELS).join(", ")}`);
  const stream = settings.logFile === undefined ? process.stdout : createWriteStream(settings.logFile, { flags: "a", mode: 0o600 });
  return jsonLogger(clock, (line) => stream.write(line), level, name);
}

function reportSource(logger: Logger): ReportSource {
  const kind = existsSync(KERNEL_REPORTS) ? "kernel" : "emulator";
  const directory = kind === "kernel" ? KERNEL_REPORTS : EMULATED_REPORTS;
  if (kind === "kernel") logger.log("info", "reports come from the kernel", { directory });
  else logger.log("warn", "reports come from an EMULATED security processor: NO hardware protection", { directory });
  return { kind, fetchReport: (reportData, signal) => fetchReport(directory, reportData, signal === undefined ? {} : { signal }) };
}

async function readSecurityContext(env: SidecarProcess["env"], logger: Logger): Promise<SecurityContext> {
  const directory = setting(env, "UVM_SECURITY_CONTEXT_DIR") ?? SECURITY_CONTEXTS.find((path) => existsSync(path) && statSync(path).isDirectory());
  logger.log("info", "security context", { directory: directory ?? "none" });
  const read = async (name: string): Promise<string | undefined> => {
    if (directory === undefined || !existsSync(`${directory}/${name}`)) return undefined;
    return readFile(`${directory}/${name}`, "utf8");
  };
  return parseSecurityContext({
    referenceInfo: (await read("reference-info-base64")) ?? setting(env, "UVM_REFERENCE_INFO"),
    hostAmdCert: (await read("host-amd-cert-base64")) ?? setting(env, "UVM_HOST_AMD_CERTIFICATE"),
  });
}

function workloadIdentity(env: SidecarProcess["env"], logger: Logger): WorkloadIdentity | undefined {
  const { identity, missing } = findWorkloadIdentity(env);
  if (missing.length > 0) {
    logger.log("warn", "the pod's workload identity is incomplete and not used: the metadata service is asked for access tokens", {
      missing: missing.join(", "),
      hint: "The webhook sets these variables for pods with the label azure.workload.identity/use and an annotated service account.",
    });
  }
  return identity;
}

/** An environment variable; empty is as good as absent. */
function setting(env: SidecarProcess["env"], name: string): string | undefined {
  const value = env[name];
  return value === "" ? undefined : value;
}
