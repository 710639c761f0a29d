import { createServer as createHttpServer, IncomingMessage, type Server as HttpServer, type ServerOptions, type ServerResponse } from "node:http";
import { createServer as createHttpsServer, type Server as HttpsServer } from "node:https";
import { isIPv6, type AddressInfo, type Server, type Socket } from "node:net";
import { messageOf, type Clock, type Logger } from "@sealpod/core";
import { clientOf } from "./client.ts";
import { ServiceError } from "./errors.ts";
import { watchProcess } from "./process-metrics.ts";
import { CountedResponse, pathOf, sendOperations, type Service } from "./service.ts";
import { readTlsFiles, tlsFilesMark, type TlsFiles } from "./tls.ts";

export type { TlsFiles } from "./tls.ts";

/** Connections of those who run the service. */
const OPERATIONS_CONNECTIONS = 64;

/** What {@link ServeOptions} has if nothing is said. */
const DEFAULTS = {
  maxConnections: 1024,
  maxConnectionsPerClient: 256,
  // Access tokens of people in many groups have up to 16 KiB.
  maxHeaderSize: 32 * 1024,
  headersTime: 10_000,
  // Longer than load balancers keep theirs (60 seconds), so that it is they who close idle connections, not we under a request of theirs.
  keepAliveTime: 65_000,
  checkEvery: 1000,
} as const;

/** Where to listen. */
export interface Address {
  /** Address or name, e.g. `127.0.0.1`, `::`. */
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
}

/** Options of {@link serve}. */
export interface ServeOptions extends Address {
  /** Speak TLS 1.2 or 1.3 with these; they are read again when they change. Plain HTTP if absent. */
  readonly tls?: TlsFiles;
  /** Where `/healthz`, `/readyz` and `/metrics` are served, in plain HTTP; nowhere if absent (unless the service has them among its paths). */
  readonly operations?: Address;
  /** Connections at once; more are closed as soon as they are accepted. */
  readonly maxConnections?: number;
  /** Connections at once of one client as the rate limit counts; trusted proxies may have all. */
  readonly maxConnectionsPerClient?: number;
  /** Bytes of a request's line and headers; more is answered 431. */
  readonly maxHeaderSize?: number;
  /** Milliseconds for a request's headers, and for a TLS handshake. */
  readonly headersTime?: number;
  /** Milliseconds that a connection may be idle between requests. */
  readonly keepAliveTime?: number;
  /** Milliseconds between looks for connections whose time is over, and for TLS files that have changed. */
  readonly checkEvery?: number;
}

/** A service while it listens. */
export interface RunningServer {
  /** Port of the service. */
  readonly port: number;
  /** `https://host:port`, or http. */
  readonly url: string;
  /** `http://host:port` of the operations listener, if there is one. */
  readonly operationsUrl: string | undefined;
  /** Reads the TLS files again, for SIGHUP. What is no use is logged, and the server goes on with what it has. */
  reload(): Promise<void>;
  /**
   * Accepts no more, answers what is in work, and returns when all connections are closed.
   * @param grace milliseconds after which what is left is ended; 0 ends it at once
   */
  stop(grace: number): Promise<void>;
}

/**
 * Listens for a service.
 * @throws {ServiceError} ERR_SERVICE_LISTEN, ERR_SERVICE_TLS
 */
export async function serve(service: Service, options: ServeOptions): Promise<RunningServer> {
  await using stack = new AsyncDisposableStack();
  const tls = options.tls === undefined ? undefined : await TlsReload.open(options.tls, service, service.clock);
  const main = new Listener(service, options, tls);
  stack.defer(() => main.close(0));
  await main.listen(options);
  let operations: Operations | undefined;
  if (options.operations !== undefined) {
    operations = new Operations(service);
    const opened = operations;
    stack.defer(() => opened.close());
    await operations.listen(options.operations);
  }
  tls?.watch(main.server as unknown as SecureServer, options.checkEvery ?? DEFAULTS.checkEvery);
  if (tls !== undefined) stack.defer(() => tls.close());
  stack.use(watchProcess(service.metrics, service.clock));
  const rest = stack.move();
  let stopping: Promise<void> | undefined;
  const stop = async (grace: number): Promise<void> => {
    // Health is told until the last request is done.
    await main.close(grace);
    await rest.disposeAsync();
  };
  return {
    port: main.port,
    url: `${tls === undefined ? "http" : "https"}://${hostText(options.host)}:${main.port}`,
    operationsUrl: operations === undefined ? undefined : `http://${hostText(options.operations?.host ?? "")}:${operations.port}`,
    reload: async () => tls?.reload(),
    async stop(grace) {
      if (stopping !== undefined && grace === 0) main.end("stopped at once");
      stopping ??= stop(grace);
      return stopping;
    },
  };
}

type CountingServer = HttpServer<typeof IncomingMessage, typeof CountedResponse> | HttpsServer<typeof IncomingMessage, typeof CountedResponse>;

/** The listener of the application. */
class Listener {
  readonly server: CountingServer;
  readonly #service: Service;
  readonly #sockets = new Set<Socket>();
  /** Connections on which nothing was asked yet, by the address of their other end: what asks is not this socket but one that TLS has made of it. */
  readonly #fresh = new Map<string, Socket>();
  readonly #perClient = new Map<string, number>();

  constructor(service: Service, options: ServeOptions, tls: TlsReload | undefined) {
    this.#service = service;
    const { requestTime, stallTime } = service.limits;
    const limit = { ...DEFAULTS, ...options };
    const http = {
      ServerResponse: CountedResponse,
      maxHeaderSize: limit.maxHeaderSize,
      headersTimeout: limit.headersTime,
      // The service answers a late body itself; this ends what it does not see.
      requestTimeout: Math.max(limit.headersTime, requestTime) + 1000,
      keepAliveTimeout: limit.keepAliveTime,
      connectionsCheckingInterval: limit.checkEvery,
      noDelay: true,
    } satisfies ServerOptions<typeof IncomingMessage, typeof CountedResponse>;
    this.server =
      tls === undefined
        ? createHttpServer(http)
        : createHttpsServer({ ...http, ...tls.credential, minVersion: "TLSv1.2", handshakeTimeout: limit.headersTime, ALPNProtocols: ["http/1.1"] });
    this.server.maxConnections = limit.maxConnections;
    // A connection on which nothing moves: the service says of each request whether it may wait.
    this.server.timeout = Math.max(limit.headersTime, stallTime);
    this.#count(limit.maxConnectionsPerClient);
    const answer = (incoming: IncomingMessage, outgoing: ServerResponse, awaitsContinue: boolean): void => {
      if (this.#fresh.size > 0) this.#fresh.delete(endOf(incoming.socket));
      service.listener(incoming, outgoing, awaitsContinue);
    };
    this.server.on("request", (incoming: IncomingMessage, outgoing: ServerResponse) => answer(incoming, outgoing, false));
    this.server.on("checkContinue", (incoming: IncomingMessage, outgoing: ServerResponse) => answer(incoming, outgoing, true));
    this.server.on("tlsClientError", (error: Error) => service.logger.log("debug", "TLS handshake failed", { problem: error.message }));
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  async listen(address: Address): Promise<void> {
    return listen(this.server, address, this.#service.logger);
  }

  /** Ends all connections now. */
  end(reason: string): void {
    this.#service.abort(reason);
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(grace: number): Promise<void> {
    this.#service.drain();
    const closed = new Promise<void>((resolve) => {
      if (this.server.listening) this.server.close(() => resolve());
      else resolve();
    });
    // Connections on which nothing was ever asked are not idle to node: it would wait for their first request.
    for (const socket of this.#fresh.values()) socket.destroy();
    if (grace <= 0) {
      this.end("the service stops");
      return closed;
    }
    const timer = setTimeout(() => this.end("the service stops"), grace);
    await closed;
    clearTimeout(timer);
  }

  /** Counts connections, and refuses those of a client that has too many. */
  #count(maxPerClient: number): void {
    const connections = this.#service.metrics.gauge("http_connections", "Connections that are open.");
    const refused = this.#service.metrics.counter("http_connections_rejected_total", "Connections that were closed as soon as they came.", {
      labels: ["reason"],
    });
    this.server.on("drop", () => refused.with("total").inc());
    this.server.on("connection", (socket: Socket) => {
      const client = clientOf(socket.remoteAddress);
      const count = (this.#perClient.get(client) ?? 0) + 1;
      if (count > maxPerClient && !this.#service.isProxy(socket.remoteAddress)) {
        refused.with("client").inc();
        socket.destroy();
        return;
      }
      const end = endOf(socket);
      this.#perClient.set(client, count);
      this.#sockets.add(socket);
      this.#fresh.set(end, socket);
      connections.set(this.#sockets.size);
      socket.once("close", () => {
        this.#sockets.delete(socket);
        this.#fresh.delete(end);
        connections.set(this.#sockets.size);
        const left = (this.#perClient.get(client) ?? 1) - 1;
        if (left === 0) this.#perClient.delete(client);
        else this.#perClient.set(client, left);
      });
    });
  }
}

/** The listener of health and metrics. */
class Operations {
  readonly #server: HttpServer;
  readonly #logger: Logger;

  constructor(service: Service) {
    this.#server = createHttpServer(
      { maxHeaderSize: 16 * 1024, headersTimeout: 5000, requestTimeout: 5000, keepAliveTimeout: 65_000, connectionsCheckingInterval: 1000 },
      (incoming, outgoing) => void this.#answer(service, incoming, outgoing),
    );
    this.#server.maxConnections = OPERATIONS_CONNECTIONS;
    this.#logger = service.logger;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async listen(address: Address): Promise<void> {
    return listen(this.#server, address, this.#logger);
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }

  async #answer(service: Service, incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    try {
      const answer = await service.operations(pathOf(incoming.url ?? ""));
      if (answer !== undefined) return sendOperations(incoming, outgoing, answer);
      outgoing.writeHead(404, { "content-type": "text/plain" });
      outgoing.end("/healthz, /readyz or /metrics\n");
    } catch (error) {
      service.logger.log("error", "operations failed", { problem: messageOf(error) });
      outgoing.destroy();
    }
  }
}

type SecureServer = Pick<HttpsServer, "setSecureContext">;

/** The TLS files of a server, followed. */
class TlsReload {
  credential: { readonly cert: string; readonly key: string };
  readonly #files: TlsFiles;
  readonly #service: Service;
  readonly #clock: Clock;
  #server: SecureServer | undefined;
  #mark: string;
  #timer: NodeJS.Timeout | undefined;
  #problem = "";

  private constructor(files: TlsFiles, service: Service, clock: Clock, credential: { readonly cert: string; readonly key: string }, mark: string) {
    this.#files = files;
    this.#service = service;
    this.#clock = clock;
    this.credential = credential;
    this.#mark = mark;
  }

  static async open(files: TlsFiles, service: Service, clock: Clock): Promise<TlsReload> {
    // Marked before they are read: what changes meanwhile is seen at the next look.
    const mark = await tlsFilesMark(files);
    return new TlsReload(files, service, clock, await readTlsFiles(files, clock, service.logger), mark);
  }

  watch(server: SecureServer, every: number): void {
    this.#server = server;
    this.#timer = setInterval(() => void this.#look(), every).unref();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#server = undefined;
  }

  async reload(): Promise<void> {
    const mark = await tlsFilesMark(this.#files);
    try {
      const credential = await readTlsFiles(this.#files, this.#clock, this.#service.logger);
      const isNew = credential.cert !== this.credential.cert || credential.key !== this.credential.key;
      this.#mark = mark;
      this.#problem = "";
      if (!isNew) return;
      this.credential = credential;
      // Connections that are there go on with the old one.
      this.#server?.setSecureContext({ ...credential, minVersion: "TLSv1.2" });
      this.#service.logger.log("info", "TLS certificate loaded", { file: this.#files.cert });
    } catch (error) {
      // Who replaces two files has them apart for a moment: the next look tries again.
      const problem = messageOf(error);
      if (problem !== this.#problem) this.#service.logger.log("warn", "the TLS certificate stays as it was", { problem });
      this.#problem = problem;
    }
  }

  async #look(): Promise<void> {
    if ((await tlsFilesMark(this.#files)) !== this.#mark) await this.reload();
  }
}

async function listen(server: Server, { host, port }: Address, logger: Logger): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause: NodeJS.ErrnoException) => reject(listenError(host, port, cause)));
    server.listen(port, host, resolve);
  });
  server.removeAllListeners("error");
  // A connection that could not be accepted, for want of file descriptors: the others go on.
  server.on("error", (error) => logger.log("error", "accepting failed", { problem: error.message }));
}

function listenError(host: string, port: number, cause: NodeJS.ErrnoException): ServiceError {
  const what = {
    EADDRINUSE: "the port is in use by another program",
    EACCES: "the port is not allowed to this user",
    EADDRNOTAVAIL: "this machine does not have the address",
    ENOTFOUND: "the name has no address",
  }[cause.code ?? ""];
  return new ServiceError("ERR_SERVICE_LISTEN", `cannot listen on ${hostText(host)}:${port}: ${what ?? cause.message}`, {
    cause,
    details: { host, port },
    hint: "Choose another address or port.",
  });
}

function endOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress ?? ""} ${remotePort ?? 0}`;
}

function hostText(host: string): string {
  return isIPv6(host) ? `[${host}]` : host;
}
