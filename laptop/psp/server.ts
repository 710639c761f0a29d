import { chmod, mkdir, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import { concatBytes, decodeUtf8, isSealpodError, type Logger, messageOf, toBase64, toHex } from "@sealpod/core";
import { LAUNCH_ID, MAX_PROCESSOR_BODY } from "@sealpod/processor";
import { EMULATED_NOTICE } from "./emulated.ts";
import { PspError } from "./errors.ts";
import { type GuestInfo, serveGuestInfo } from "./guest-info.ts";
import { measuredPages } from "./measured-files.ts";
import { parseLaunchRequest, parseReportRequest } from "./requests.ts";
import type { LaunchedGuest, SecurityProcessor } from "./security-processor.ts";

/** Options of {@link servePsp}. */
export interface PspServerOptions {
  readonly processor: SecurityProcessor;
  /** Path of the unix socket; it gets mode 0600. */
  readonly socketPath: string;
  /** Directory that holds one directory for each guest; made with mode 0700. */
  readonly guestInfoBase: string;
  readonly logger: Logger;
}

/** The server while it runs. */
export interface PspServer extends AsyncDisposable {
  readonly socketPath: string;
  /** Ends all connections and guests, and removes their directories and the socket. */
  close(): Promise<void>;
}

/** A request is a few kilobytes on a local socket; who needs longer to send it has stopped sending. */
const REQUEST_TIMEOUT_MS = 10_000;

/** Headers of our own client are below 300 bytes. */
const MAX_HEADER_BYTES = 8 * 1024;

/**
 * Serves the emulated security processor on a unix socket (see `protocol.ts` of @sealpod/processor).
 * @throws {PspError} ERR_PSP_SOCKET
 */
export async function servePsp(options: PspServerOptions): Promise<PspServer> {
  await mkdir(options.guestInfoBase, { recursive: true, mode: 0o700 });
  const routes = new Routes(options);
  const server = createServer(
    { requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS, maxHeaderSize: MAX_HEADER_BYTES },
    (incoming, response) => {
      void routes.handle(incoming, response);
    },
  );
  await listen(server, options.socketPath);
  options.logger.log("info", `emulated security processor: ${EMULATED_NOTICE}`, { socket: options.socketPath });
  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    closing ??= (async () => {
      const closed = Promise.withResolvers<void>();
      server.close(() => closed.resolve());
      server.closeAllConnections();
      await closed.promise;
      await routes.closeAll();
      await rm(options.socketPath, { force: true });
    })();
    return closing;
  };
  return { socketPath: options.socketPath, close, [Symbol.asyncDispose]: close };
}

interface Launch {
  readonly guest: LaunchedGuest;
  readonly info: GuestInfo;
}

class Routes {
  readonly #options: PspServerOptions;
  readonly #launches = new Map<string, Launch>();
  readonly #starting = new Set<Promise<unknown>>();

  constructor(options: PspServerOptions) {
    this.#options = options;
  }

  async handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      await this.#route(incoming, response);
    } catch (error) {
      const known = isSealpodError(error) ? error : undefined;
      this.#options.logger.log("warn", "emulated security processor: request refused", {
        method: incoming.method,
        code: known?.code,
        problem: messageOf(error),
      });
      // What is not ours may hold anything, so it stays in the log.
      send(response, known?.row.http ?? 500, { error: { code: known?.code ?? "ERR_INTERNAL", message: known?.message ?? "internal error" } });
    }
  }

  async closeAll(): Promise<void> {
    await Promise.allSettled(this.#starting);
    for (const id of this.#launches.keys()) await this.#delete(id);
  }

  async #route(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", url = "" } = incoming;
    const [id, part] = url.startsWith("/launch/") ? url.slice("/launch/".length).split("/", 2) : [];
    if (url === "/launch") {
      expectMethod(method, "POST");
      const body = parseLaunchRequest(await readBody(incoming));
      const starting = this.#launch(body);
      this.#starting.add(starting);
      try {
        const { guest, info } = await starting;
        send(response, 201, { id: guest.id, guestInfoDirectory: info.directory, launchMeasurement: toHex(guest.measurement) });
      } finally {
        this.#starting.delete(starting);
      }
    } else if (id !== undefined && LAUNCH_ID.test(id) && url === `/launch/${id}/report`) {
      expectMethod(method, "POST");
      const { reportData } = parseReportRequest(await readBody(incoming));
      const { guest } = this.#launched(id);
      send(response, 200, { report: toBase64(guest.report(reportData)), certificates: toBase64(guest.certificateTable()) });
    } else if (id !== undefined && LAUNCH_ID.test(id) && url === `/launch/${id}/files`) {
      expectMethod(method, "GET");
      send(response, 200, { files: this.#launched(id).info.files.map(({ path, data }) => ({ path, data: toBase64(data) })) });
    } else if (id !== undefined && LAUNCH_ID.test(id) && part === undefined) {
      expectMethod(method, "DELETE");
      if (!(await this.#delete(id))) throw new PspError("ERR_PSP_NOT_FOUND", `no guest ${id}`);
      response.writeHead(204).end();
    } else if (url === "/chain") {
      expectMethod(method, "GET");
      response.writeHead(200, { "content-type": "application/pem-certificate-chain" }).end(this.#options.processor.chainPem);
    } else if (url === "/root") {
      expectMethod(method, "GET");
      const { trustRoot, uvmTrust } = this.#options.processor;
      send(response, 200, { notice: EMULATED_NOTICE, name: trustRoot.name, product: trustRoot.product, keySha256: toHex(trustRoot.keySha256), uvm: uvmTrust });
    } else throw new PspError("ERR_PSP_NOT_FOUND", "no such resource");
  }

  #launched(id: string): Launch {
    const launch = this.#launches.get(id);
    if (launch === undefined) throw new PspError("ERR_PSP_NOT_FOUND", `no guest ${id}`);
    return launch;
  }

  async #launch(body: ReturnType<typeof parseLaunchRequest>): Promise<Launch> {
    const { processor, guestInfoBase, logger } = this.#options;
    const guest = await processor.launch({ pages: measuredPages(body), hostData: body.hostData });
    try {
      const launch = { guest, info: await serveGuestInfo(guest, guestInfoBase, { logger }) };
      this.#launches.set(guest.id, launch);
      return launch;
    } catch (error) {
      guest.close();
      throw error;
    }
  }

  async #delete(id: string): Promise<boolean> {
    const launch = this.#launches.get(id);
    if (launch === undefined) return false;
    this.#launches.delete(id);
    launch.guest.close();
    await launch.info.close();
    return true;
  }
}

function expectMethod(found: string, expected: string): void {
  if (found !== expected) throw new PspError("ERR_PSP_METHOD", `method ${found}, expected ${expected}`);
}

async function readBody(incoming: IncomingMessage): Promise<string> {
  if (incoming.headers["content-type"] !== "application/json") throw new PspError("ERR_PSP_INPUT", "the content type is not application/json");
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of incoming as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > MAX_PROCESSOR_BODY) throw new PspError("ERR_PSP_LIMIT", `the body has more than ${MAX_PROCESSOR_BODY} bytes`);
    chunks.push(chunk);
  }
  return decodeUtf8(concatBytes(...chunks), "body");
}

function send(response: ServerResponse, status: number, body: object): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  // After a refusal the rest of the body may still be under way; the connection ends instead of reading it.
  if (status >= 400) response.setHeader("connection", "close");
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}

/** Takes the socket's path; a socket that nobody serves any more is removed. */
async function listen(server: Server, path: string): Promise<void> {
  try {
    await tryListen(server, path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EADDRINUSE") throw new PspError("ERR_PSP_SOCKET", `cannot serve ${path}: ${messageOf(cause)}`, { cause });
    if (await isServed(path)) throw new PspError("ERR_PSP_SOCKET", `another process serves ${path}`, { cause, hint: "Is `sealpod up` running already?" });
    await rm(path, { force: true });
    await tryListen(server, path).catch((again: unknown) => {
      throw new PspError("ERR_PSP_SOCKET", `cannot serve ${path}: ${messageOf(again)}`, { cause: again });
    });
  }
  await chmod(path, 0o600);
}

async function tryListen(server: Server, path: string): Promise<void> {
  const result = Promise.withResolvers<void>();
  server.once("error", result.reject);
  server.listen(path, () => result.resolve());
  try {
    await result.promise;
  } finally {
    server.off("error", result.reject);
  }
}

async function isServed(path: string): Promise<boolean> {
  const result = Promise.withResolvers<boolean>();
  const probe = request({ socketPath: path, path: "/root", agent: false, timeout: REQUEST_TIMEOUT_MS }, (response) => {
    response.destroy();
    result.resolve(true);
  });
  // Someone who accepts and does not answer serves the path all the same.
  probe.on("timeout", () => result.resolve(true));
  probe.on("error", (error: NodeJS.ErrnoException) => result.resolve(error.code !== "ECONNREFUSED" && error.code !== "ENOENT"));
  probe.end();
  try {
    return await result.promise;
  } finally {
    probe.destroy();
  }
}
