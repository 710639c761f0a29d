import { rename, writeFile } from "node:fs/promises";
import { createServer, type RequestListener } from "node:http";
import type { Server } from "node:net";
import { decodeUtf8, isSealpodError, jsonLogger, messageOf, type Clock } from "@sealpod/core";
import { guestApi, guestListener, parseKbsSettings, secretUnsealer } from "./kbs/index.ts";
import {
  createSkr,
  openSidecarLog,
  openSidecarPorts,
  parseAllowedStores,
  parseSettings,
  readBounded,
  readKbsOptions,
  readText,
  requestGate,
  requestListener,
  sidecarBackends,
  SkrError,
  withHint,
  wrapForKeyPath,
  type ReleaseBackend,
  type ReleasePorts,
  type RequestGate,
  type Settings,
} from "./index.ts";

/** All containers of a pod share it, and nobody else reaches it. The address, not the name: the name may mean ::1. */
const LOCALHOST = "127.0.0.1";

/** Connections that wait at once; the API itself works on fewer. */
const MAX_CONNECTIONS = 64;

/** Limits of an HTTP server here: requests are small, and callers near. */
const HTTP = { headersTimeout: 10_000, requestTimeout: 30_000, maxHeaderSize: 16 * 1024 };

/** Largest sealed secret: the value of a Kubernetes secret. */
const MAX_SEALED: number = 1024 * 1024;

const env = process.env;
const clock: Clock = { now: () => Date.now() };

async function main(): Promise<void> {
  const argv = process.argv.slice(2);
  if (argv[0] === "unseal" && argv.length === 1) {
    await unseal();
    return;
  }
  const settings = parseSettings(argv, env);
  if (settings.wrap !== undefined) {
    await wrapFile(settings.wrap);
    return;
  }
  const kbs = parseKbsSettings(env);
  const allowed = parseAllowedStores(env);
  const logger = openSidecarLog("skr", settings, clock);
  const ports = await openSidecarPorts(settings, { env, clock, logger });
  const options = await readKbsOptions(kbs);
  const gate = requestGate(ports);
  const end = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => end.abort());
  const listen = (server: Server, port: number, what: Readonly<Record<string, string>>): void => {
    server.maxConnections = MAX_CONNECTIONS;
    server.listen({ port, host: LOCALHOST, signal: end.signal }, () => logger.log("info", "listening", { host: LOCALHOST, port, ...what }));
    server.on("error", (error) => {
      logger.log("error", "cannot listen", { port, ...what, problem: error.message });
      process.exitCode = 1;
      // One half of what was asked for would look like the whole.
      end.abort();
    });
  };
  const { port, serverType } = settings;
  listen(await createServerOf(settings, ports, sidecarBackends(ports, options, allowed), gate, end.signal), port, { serverType });
  if (kbs.api === undefined) return;
  listen(httpServer(guestListener(guestApi(gate, kbs.api.base, { ...options, logger })), end.signal), kbs.api.port, {
    serverType: "guest API",
    keyBroker: kbs.api.base,
  });
}

/** A server whose connections end with it: `listen` closes it on the same signal. */
function httpServer(listener: RequestListener, end: AbortSignal): Server {
  const server = createServer(HTTP, listener);
  end.addEventListener("abort", () => server.closeAllConnections(), { once: true });
  return server;
}

async function createServerOf(
  settings: Settings,
  ports: ReleasePorts,
  backends: readonly ReleaseBackend[],
  gate: RequestGate,
  end: AbortSignal,
): Promise<Server> {
  if (settings.serverType === "http") return httpServer(requestListener(createSkr(ports, backends, gate)), end);
  // Loaded for those alone who ask for it.
  const { createGrpcServer, keyProviderMethods } = await import("./grpc/index.ts");
  const { logger, timer } = ports;
  const server = createGrpcServer({
    methods: keyProviderMethods({ backends, gate, readText }),
    logger,
    deadline: (milliseconds) => timer.deadline(milliseconds),
  });
  const sessions = new Set<{ destroy(): void }>();
  server.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
  });
  end.addEventListener(
    "abort",
    () => {
      for (const session of sessions) session.destroy();
    },
    { once: true },
  );
  return server;
}

/**
 * `skr unseal`: a sealed secret of CoCo from standard input to standard output, by the key broker of `AA_KBC_PARAMS`. For the entry point of a container that gets such secrets in its environment
 * or in files, where CoCo's own agents would have unsealed them. The log goes to standard error.
 */
async function unseal(): Promise<void> {
  const kbs = parseKbsSettings(env);
  if (kbs.api === undefined) throw new SkrError("ERR_SKR_CONFIGURATION", "no key broker is named", { hint: "Set AA_KBC_PARAMS=cc_kbc::https://HOST[:PORT]." });
  const settings = parseSettings([], env);
  const logger = jsonLogger(clock, (line) => process.stderr.write(line), "warn", "skr");
  const ports = await openSidecarPorts(settings, { env, clock, logger });
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of process.stdin as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > MAX_SEALED) throw new SkrError("ERR_SKR_REQUEST", `standard input has more than ${MAX_SEALED} bytes`);
    chunks.push(chunk);
  }
  // The line break that files and `echo` end with is no part of the secret.
  const sealed = decodeUtf8(new Uint8Array(Buffer.concat(chunks)), "standard input").trim();
  const bytes = await secretUnsealer(requestGate(ports), kbs.api.base, await readKbsOptions(kbs))(sealed);
  process.stdout.write(bytes);
}

/** The one-shot mode: wraps the bytes of a file to a public key and writes the annotation. */
async function wrapFile({ infile, keypath, outfile }: NonNullable<Settings["wrap"]>): Promise<void> {
  const annotation = await wrapForKeyPath(readText, keypath, await readBounded(infile));
  // Not half-written: an image made with half an annotation could not be opened again.
  const partial = `${outfile}.${process.pid}.partial`;
  await writeFile(partial, annotation, { flag: "wx" });
  await rename(partial, outfile);
}

main().catch((error: unknown) => {
  process.stderr.write(`skr: ${isSealpodError(error) ? withHint(error) : messageOf(error)}\n`);
  process.exitCode = isSealpodError(error) ? error.row.exit : 1;
});
