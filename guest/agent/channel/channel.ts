import { messageOf, type Logger } from "@sealpod/core";
import { createMux, MuxError, type Mux } from "@sealpod/mux";
import { serveTtrpc, systemTimer, type ByteStream, type Timer, type TtrpcService } from "@sealpod/ttrpc";

/**
 * Milliseconds between the end of a session and the next try. While no host is connected the port ends as soon as it is opened, so this is how
 * often an agent without a host looks for one.
 */
const REOPEN_INTERVAL = 100;

/** Options of {@link serveChannel}. */
export interface ChannelOptions {
  /** Opens the carrier of the next session. */
  readonly port: () => Promise<ByteStream>;
  /** Told of the streams of the host; refuses by throwing. */
  readonly accept: (service: string, stream: ByteStream) => void;
  readonly logger: Logger;
  readonly timer?: Timer;
}

/** The guest's end of the channel to its host, over any number of sessions. */
export interface Channel {
  /**
   * Opens a stream to a service of the host; waits until a host is there.
   * @throws {MuxError} ERR_MUX_CLOSED, ERR_MUX_LIMIT, ERR_MUX_REFUSED
   */
  open(service: string): Promise<ByteStream>;
  /** Ends the session, and all that come after. */
  close(): void;
  /** Resolves when the last session is over. Never rejects. */
  readonly closed: Promise<void>;
}

/** Serves the host for as long as the machine runs: it may go away and come back, and each time a new session begins. */
export function serveChannel(options: ChannelOptions): Channel {
  return new SessionLoop(options);
}

/** The streams to "agent", each of them a ttRPC connection; others are refused. */
export class AgentStreams {
  readonly #services: Promise<readonly TtrpcService[]>;
  readonly #logger: Logger;
  readonly #done = Promise.withResolvers<void>();
  #open = 0;
  #isFinished = false;

  /** @param services what is served, once it is there: streams may come before */
  constructor(services: Promise<readonly TtrpcService[]>, logger: Logger) {
    this.#services = services;
    this.#logger = logger;
  }

  readonly accept: ChannelOptions["accept"] = (service, stream) => {
    if (service !== "agent" || this.#isFinished) throw new MuxError("ERR_MUX_REFUSED", `the guest does not serve ${service}`);
    this.#open++;
    void this.#services
      .then(async (services) => serveTtrpc(stream, services, { logger: this.#logger }))
      .finally(() => {
        this.#open--;
        this.#endIfDone();
      });
  };

  /** Takes no more streams; resolves when those that are there have ended. */
  async finish(): Promise<void> {
    this.#isFinished = true;
    this.#endIfDone();
    return this.#done.promise;
  }

  #endIfDone(): void {
    if (this.#isFinished && this.#open === 0) this.#done.resolve();
  }
}

class SessionLoop implements Channel {
  readonly closed: Promise<void>;
  readonly #options: ChannelOptions;
  readonly #timer: Timer;
  /** Settles with the session that has met its host. */
  #met = Promise.withResolvers<Mux>();
  #session: Mux | undefined;
  #over = false;
  #wake: (() => void) | undefined;

  constructor(options: ChannelOptions) {
    this.#options = options;
    this.#timer = options.timer ?? systemTimer;
    this.#met.promise.catch(() => undefined);
    this.closed = this.#run();
  }

  async open(service: string): Promise<ByteStream> {
    return (await this.#met.promise).open(service);
  }

  close(): void {
    this.#over = true;
    this.#met.reject(new MuxError("ERR_MUX_CLOSED", "the channel to the host was closed here"));
    this.#session?.close();
    this.#wake?.();
  }

  async #run(): Promise<void> {
    let said: string | undefined;
    while (!this.#over) {
      const outcome = await this.#serveOne();
      // The same thing again and again, as long as no host is there, is said once.
      if (outcome !== said) this.#options.logger.log("info", "no session with the host", { reason: outcome });
      said = outcome;
      if (!this.#over) await this.#pause();
    }
  }

  /** Why the session ended, or did not begin. */
  async #serveOne(): Promise<string> {
    let carrier: ByteStream;
    try {
      carrier = await this.#options.port();
    } catch (error) {
      return messageOf(error);
    }
    const session = createMux(carrier, { side: "guest", accept: this.#options.accept, timer: this.#timer });
    this.#session = session;
    if (this.#over) session.close();
    const met = session.ready.then(
      () => {
        this.#options.logger.log("info", "session with the host");
        this.#met.resolve(session);
        return true;
      },
      () => false,
    );
    const { reason } = await session.closed;
    this.#session = undefined;
    // Who opens a stream from here on waits for the next host.
    if ((await met) && !this.#over) {
      this.#met = Promise.withResolvers<Mux>();
      this.#met.promise.catch(() => undefined);
    }
    return reason;
  }

  async #pause(): Promise<void> {
    await new Promise<void>((resolve) => {
      const cancel = this.#timer.after(REOPEN_INTERVAL, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
    this.#wake = undefined;
  }
}
