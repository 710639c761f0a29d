import { createWriteStream, existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { isSealpodError, jsonLogger, messageOf, type Clock, type Logger, type LogLevel } from "@sealpod/core";
import { fetchReport } from "@sealpod/tsm";
import {
  createSkr,
  httpsClient,
  parseAuthorities,
  parseSecurityContext,
  parseSidecarArguments,
  requestListener,
  SkrError,
  type ReleasePorts,
  type ReportSource,
  type SecurityContext,
  type WorkloadIdentity,
} from "./index.ts";

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

/** All containers of a pod share it, and nobody else reaches it. The address, not the name: the name may mean ::1. */
const LOCALHOST = "127.0.0.1";

/** Connections that wait at once; the API itself works on fewer. */
const MAX_CONNECTIONS = 64;

const env = process.env;
const clock: Clock = { now: () => Date.now() };

async function main(): Promise<void> {
  const logger = openLog();
  const port = parsePort(env["Port"]);
  const args = parseSidecarArguments(env["SkrSideCarArgs"]);
  const bundle = setting("SSL_CERT_FILE") ?? AUTHORITIES;
  const authorities = parseAuthorities(await readFile(bundle, "utf8"), bundle);
  logger.log("info", "certificate authorities", { bundle, given: authorities.pem.length, usableForRelease: authorities.roots.length });
  const ports: ReleasePorts = {
    clock,
    random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
    // Unreferenced: a pause between two attempts does not hold up the end of the process.
    timer: { wait: (milliseconds) => delay(milliseconds, undefined, { ref: false }) },
    logger,
    http: httpsClient(authorities.pem),
    reports: reportSource(logger),
    securityContext: await readSecurityContext(logger),
    certificateCache: args.certificateCache,
    userAgent: args.userAgent,
    workloadIdentity: workloadIdentity(),
    clientId: args.clientId,
    readText: (path) => readFile(path, "utf8"),
    roots: authorities.roots,
  };
  const server = createServer({ headersTimeout: 10_000, requestTimeout: 30_000, maxHeaderSize: 16 * 1024 }, requestListener(createSkr(ports)));
  server.maxConnections = MAX_CONNECTIONS;
  server.listen(port, LOCALHOST, () => logger.log("info", "listening", { host: LOCALHOST, port }));
  server.on("error", (error) => {
    logger.log("error", "cannot listen", { port, problem: error.message });
    process.exitCode = 1;
  });
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.once(signal, () => {
      server.close();
      server.closeAllConnections();
    });
  }
}

function openLog(): Logger {
  const name = setting("LogLevel") ?? "warning";
  const level = LEVELS[name.toLowerCase()];
  if (level === undefined)
    throw new SkrError("ERR_SKR_CONFIGURATION", `LogLevel is ${JSON.stringify(name)}; expected one of ${Object.keys(LEVELS).join(", ")}`);
  const file = setting("LogFile");
  const stream = file === undefined ? process.stdout : createWriteStream(file, { flags: "a", mode: 0o600 });
  return jsonLogger(clock, (line) => stream.write(line), level, "skr");
}

function reportSource(logger: Logger): ReportSource {
  const kind = existsSync(KERNEL_REPORTS) ? "kernel" : "emulator";
  const directory = kind === "kernel" ? KERNEL_REPORTS : EMULATED_REPORTS;
  if (kind === "kernel") logger.log("info", "reports come from the kernel", { directory });
  else logger.log("warn", "reports come from an EMULATED security processor: NO hardware protection", { directory });
  return { kind, fetchReport: (reportData) => fetchReport(directory, reportData) };
}

async function readSecurityContext(logger: Logger): Promise<SecurityContext> {
  const directory = setting("UVM_SECURITY_CONTEXT_DIR") ?? SECURITY_CONTEXTS.find((path) => existsSync(path) && statSync(path).isDirectory());
  logger.log("info", "security context", { directory: directory ?? "none" });
  const read = async (name: string): Promise<string | undefined> => {
    if (directory === undefined || !existsSync(`${directory}/${name}`)) return undefined;
    return readFile(`${directory}/${name}`, "utf8");
  };
  return parseSecurityContext({
    referenceInfo: (await read("reference-info-base64")) ?? setting("UVM_REFERENCE_INFO"),
    hostAmdCert: (await read("host-amd-cert-base64")) ?? setting("UVM_HOST_AMD_CERTIFICATE"),
  });
}

function workloadIdentity(): WorkloadIdentity | undefined {
  const clientId = setting("AZURE_CLIENT_ID");
  const tenantId = setting("AZURE_TENANT_ID");
  const tokenFile = setting("AZURE_FEDERATED_TOKEN_FILE");
  if (clientId === undefined || tenantId === undefined || tokenFile === undefined) return undefined;
  return { clientId, tenantId, tokenFile, authorityHost: setting("AZURE_AUTHORITY_HOST") };
}

function parsePort(text: string | undefined): number {
  const port = Number(text === undefined || text === "" ? "8080" : text);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) throw new SkrError("ERR_SKR_CONFIGURATION", `Port is ${JSON.stringify(text)}; expected 1 to 65535`);
  return port;
}

/** An environment variable; empty is as good as absent. */
function setting(name: string): string | undefined {
  const value = env[name];
  return value === "" ? undefined : value;
}

main().catch((error: unknown) => {
  const hint = isSealpodError(error) && error.hint !== undefined ? ` ${error.hint}` : "";
  process.stderr.write(`skr: ${messageOf(error)}${hint}\n`);
  process.exitCode = isSealpodError(error) ? error.row.exit : 1;
});
