import { createServer, type Server } from "node:https";
import { createSecureContext, type SecureContext, type TLSSocket } from "node:tls";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { messageOf, type Logger } from "@sealpod/core";
import { chainPem, type Credential } from "./authority.ts";
import { ServicesError } from "./errors.ts";

/** Connections at once: a laptop has a handful of clients, and a bound keeps a mistake from using up all descriptors. */
const MAX_CONNECTIONS = 256;

/** Answers a request. */
export type FetchHandler = (request: Request) => Response | Promise<Response>;

/** One of the services behind the listener. */
export interface VirtualHost {
  /** DNS name; the first label may be `*`. */
  readonly name: string;
  readonly credential: Credential;
}

/** A TLS listener that picks the certificate by SNI and the service by the Host header. */
export class Listener {
  readonly #server: Server;
  readonly #hosts: readonly VirtualHost[];
  readonly #handlers = new Map<string, FetchHandler>();

  private constructor(hosts: readonly VirtualHost[], logger: Logger) {
    this.#hosts = hosts;
    const contexts = new Map(hosts.map((host) => [host.name, secureContext(host.credential)]));
    const [first] = contexts.values();
    const answer = getRequestListener((request) => this.#dispatch(request), {
      // The global Request and Response belong to everyone in this process.
      overrideGlobalObjects: false,
      errorHandler: (error) => {
        logger.log("error", "request failed", { problem: messageOf(error) });
        return Response.json({ error: { code: "InternalError", message: "The service failed." } }, { status: 500 });
      },
    });
    this.#server = createServer(
      {
        minVersion: "TLSv1.2",
        maxHeaderSize: 64 * 1024,
        headersTimeout: 10_000,
        requestTimeout: 60_000,
        SNICallback: (name, done) => done(null, contexts.get(this.#hostOf(name)?.name ?? "") ?? first),
        ...(hosts[0] === undefined ? {} : tlsFiles(hosts[0].credential)),
      },
      (request, response) => {
        const { servername } = request.socket as TLSSocket & { servername?: string | false };
        const asked = hostName(request.headers.host ?? "");
        // RFC 9110 section 7.4: a request that came to the wrong place is answered so, not served under another name.
        if (typeof servername === "string" && servername !== "" && servername.toLowerCase() !== asked) {
          response.writeHead(421, { "content-type": "application/json" });
          response.end(JSON.stringify({ error: { code: "MisdirectedRequest", message: `TLS is for ${servername}, the request for ${asked}` } }));
          return;
        }
        void answer(request, response);
      },
    );
    this.#server.maxConnections = MAX_CONNECTIONS;
    this.#server.on("tlsClientError", (error) => logger.log("debug", "TLS handshake failed", { problem: error.message }));
  }

  /**
   * Binds the port. Until {@link handle} names a service, its host answers 503.
   * @throws {ServicesError} ERR_SERVICES_PORT
   */
  static async listen(host: string, port: number, hosts: readonly VirtualHost[], logger: Logger): Promise<Listener> {
    const listener = new Listener(hosts, logger);
    await new Promise<void>((resolve, reject) => {
      listener.#server.once("error", (cause: NodeJS.ErrnoException) => reject(portError(host, port, cause)));
      listener.#server.listen(port, host, resolve);
    });
    return listener;
  }

  /** The port that was bound. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Lets a service answer for the host of this name, as given to {@link listen}. */
  handle(name: string, handler: FetchHandler): void {
    this.#handlers.set(name, handler);
  }

  /** Stops listening and ends every connection. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    this.#server.closeAllConnections();
    await closed;
  }

  #dispatch(request: Request): Response | Promise<Response> {
    const name = new URL(request.url).hostname;
    const host = this.#hostOf(name);
    if (host === undefined)
      return Response.json({ error: { code: "MisdirectedRequest", message: `no service is named ${name.slice(0, 260)}` } }, { status: 421 });
    const handler = this.#handlers.get(host.name);
    return handler?.(request) ?? Response.json({ error: { code: "Starting", message: "The service is starting." } }, { status: 503 });
  }

  #hostOf(name: string): VirtualHost | undefined {
    const lower = name.toLowerCase();
    return this.#hosts.find((host) => host.name === lower || (host.name.startsWith("*.") && lower.slice(lower.indexOf(".")) === host.name.slice(1)));
  }
}

function secureContext(credential: Credential): SecureContext {
  return createSecureContext(tlsFiles(credential));
}

function tlsFiles({ key, chain }: Credential): { readonly key: string; readonly cert: string } {
  return { key: key.export({ type: "pkcs8", format: "pem" }) as string, cert: chainPem(chain) };
}

function hostName(header: string): string {
  return header.toLowerCase().replace(/:\d+$/, "");
}

function portError(host: string, port: number, cause: NodeJS.ErrnoException): ServicesError {
  const taken = cause.code === "EADDRINUSE";
  return new ServicesError(
    "ERR_SERVICES_PORT",
    taken ? `port ${port} of ${host} is in use by another program` : `cannot listen on ${host}:${port}: ${cause.message}`,
    {
      cause,
      details: { host, port },
      hint: "Choose another port with --port; the manifest's endpoints must name it too.",
    },
  );
}
