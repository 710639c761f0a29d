import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { isSealpodError } from "@sealpod/core";
import { createMux, type Mux } from "@sealpod/mux";
import { byteStream, type ByteStream } from "@sealpod/ttrpc";
import { VmmError } from "../errors.ts";

/** Service of the guest at which its agent answers. */
const AGENT_SERVICE = "agent";

/** Service of the host that the guest asks for reports, when its security processor is emulated. */
export const PROCESSOR_SERVICE = "processor";

/** Takes the connections of one QEMU at a unix socket. */
export class QemuSocket implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Listens at a path that nothing else uses. */
  static async listen(path: string, take: (stream: ByteStream) => void): Promise<QemuSocket> {
    const server = createServer();
    const own = new QemuSocket(server);
    server.on("connection", (socket) => {
      own.#sockets.add(socket);
      socket.once("close", () => own.#sockets.delete(socket));
      take(byteStream(socket));
    });
    server.listen(path);
    await once(server, "listening");
    return own;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

/**
 * The streams between host and guest over the one serial port of the guest. When a session ends while the machine runs, its carrier is
 * closed with it; QEMU then connects again, and a new session begins.
 */
export class AgentChannel {
  readonly #serve: ((stream: ByteStream) => void) | undefined;
  #mux: Mux | undefined;
  #next: PromiseWithResolvers<Mux> = pendingMux();
  #closed = false;

  /** @param serve serves the guest's streams to its security processor; without it they are refused */
  constructor(serve?: (stream: ByteStream) => void) {
    this.#serve = serve;
  }

  /** Takes a connection of QEMU. */
  attach(carrier: ByteStream): void {
    if (this.#closed) return carrier.close();
    // QEMU has one connection per port: an older one is one that it has lost.
    this.#mux?.close();
    const mux = createMux(carrier, { side: "host", accept: (service, stream) => this.#accept(service, stream) });
    mux.ready.catch(() => undefined);
    void mux.closed.then(() => {
      if (this.#mux !== mux) return;
      this.#mux = undefined;
      this.#next = pendingMux();
    });
    this.#mux = mux;
    this.#next.resolve(mux);
  }

  /**
   * Opens a stream to the agent; waits for the guest as long as it takes.
   * @throws {VmmError} ERR_VMM_AGENT when the guest refuses it or the session ends
   */
  async open(): Promise<ByteStream> {
    const mux = this.#mux ?? (await this.#next.promise);
    try {
      return await mux.open(AGENT_SERVICE);
    } catch (cause) {
      throw new VmmError("ERR_VMM_AGENT", `the agent takes no connection: ${isSealpodError(cause) ? cause.message : String(cause)}`, { cause });
    }
  }

  /** Ends all streams. */
  close(): void {
    this.#closed = true;
    this.#mux?.close();
    this.#next.reject(new VmmError("ERR_VMM_AGENT", "the agent takes no connection: the channel is closed"));
  }

  #accept(service: string, stream: ByteStream): void {
    if (service !== PROCESSOR_SERVICE || this.#serve === undefined) throw new VmmError("ERR_VMM_AGENT", `the host serves no ${service}`);
    this.#serve(stream);
  }
}

function pendingMux(): PromiseWithResolvers<Mux> {
  const pending = Promise.withResolvers<Mux>();
  pending.promise.catch(() => undefined);
  return pending;
}
