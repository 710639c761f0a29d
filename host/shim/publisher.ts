import { once } from "node:events";
import { connect } from "node:net";
import { messageOf, silentLogger, type Clock, type Logger } from "@sealpod/core";
import { encodeMessage, eventsTtrpcApi, type DescMessage, type MessageInitShape } from "@sealpod/proto";
import { STATUS, TtrpcClient, TtrpcError, byteStream, systemTimer, type ByteStream, type Timer } from "@sealpod/ttrpc";
import { pause, within } from "./time-limit.ts";
import { timestamp } from "./timestamp.ts";

/** Milliseconds for one attempt (specs/runtime.md 5.8). */
const ATTEMPT_LIMIT = 5000;

/** Milliseconds before each further attempt. The first follows at once: a connection that idled while containerd started anew is found closed by use only. */
const PAUSES: readonly number[] = [0, 1000, 2000, 3000];

/** Events that may wait: those of a few hundred containers, while containerd is away. Beyond it the oldest goes. */
const MAX_QUEUE = 2048;

/** Statuses that another attempt may change. */
const PASSING: ReadonlySet<number> = new Set([
  STATUS.unknown,
  STATUS.cancelled,
  STATUS.deadlineExceeded,
  STATUS.resourceExhausted,
  STATUS.aborted,
  STATUS.internal,
  STATUS.unavailable,
]);

/** Topics of a shim's events (specs/runtime.md 5.8). */
export type EventTopic =
  | "/tasks/create"
  | "/tasks/start"
  | "/tasks/exit"
  | "/tasks/delete"
  | "/tasks/oom"
  | "/tasks/exec-added"
  | "/tasks/exec-started"
  | "/tasks/paused"
  | "/tasks/resumed";

/** Tells containerd what happens. */
export interface EventPublisher {
  /** Puts an event, stamped with the time of the call, behind those before it. Never throws, never waits. */
  publish<D extends DescMessage>(topic: EventTopic, schema: D, event: MessageInitShape<D>): void;
  /** Resolves when no event waits any more: each has been taken, or given up. */
  flushed(): Promise<void>;
}

/** Options of {@link TtrpcPublisher}. */
export interface PublisherOptions {
  readonly namespace: string;
  /** Opens a connection to containerd's ttRPC socket. */
  readonly connect: () => Promise<ByteStream>;
  readonly clock: Clock;
  readonly timer?: Timer;
  readonly logger?: Logger;
  /** Default 2048. */
  readonly maxQueue?: number;
}

type Envelope = MessageInitShape<typeof eventsTtrpcApi.EnvelopeSchema>;

/** Sends events over ttRPC: one after the other, so that their order is kept; five attempts each, with a new connection where the last one failed. */
export class TtrpcPublisher implements EventPublisher {
  readonly #options: PublisherOptions;
  readonly #timer: Timer;
  readonly #logger: Logger;
  readonly #maxQueue: number;
  readonly #queue: Envelope[] = [];
  readonly #closing = new AbortController();
  #client: TtrpcClient | undefined;
  #sending: Promise<void> | undefined;

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#timer = options.timer ?? systemTimer;
    this.#logger = options.logger ?? silentLogger;
    this.#maxQueue = options.maxQueue ?? MAX_QUEUE;
  }

  publish<D extends DescMessage>(topic: EventTopic, schema: D, event: MessageInitShape<D>): void {
    if (this.#closing.signal.aborted) return;
    const { clock, namespace } = this.#options;
    this.#queue.push({
      timestamp: timestamp(clock.now()),
      namespace,
      topic,
      // The bare name: containerd registers its events without a prefix.
      event: { typeUrl: schema.typeName, value: encodeMessage(schema, event) },
    });
    if (this.#queue.length > this.#maxQueue) this.#drop(this.#queue.shift(), "too many wait");
    this.#sending ??= this.#send().finally(() => {
      this.#sending = undefined;
    });
  }

  async flushed(): Promise<void> {
    while (this.#sending !== undefined) await this.#sending;
  }

  /** Gives up what waits, and closes the connection. */
  close(): void {
    this.#closing.abort();
    this.#queue.length = 0;
    this.#client?.close();
    this.#client = undefined;
  }

  async #send(): Promise<void> {
    for (let envelope = this.#queue.shift(); envelope !== undefined; envelope = this.#queue.shift()) await this.#deliver(envelope);
  }

  async #deliver(envelope: Envelope): Promise<void> {
    for (let attempt = 0; !this.#closing.signal.aborted; attempt++) {
      try {
        return await this.#forward(envelope);
      } catch (error) {
        const wait = isPassing(error) ? PAUSES[attempt] : undefined;
        if (wait === undefined) return this.#drop(envelope, messageOf(error));
        this.#logger.log("debug", "an event was not taken; it is sent again", { topic: envelope.topic, attempt: attempt + 1, error: messageOf(error) });
        this.#client?.close();
        this.#client = undefined;
        if (wait > 0) await pause(this.#timer, wait, this.#closing.signal);
      }
    }
  }

  async #forward(envelope: Envelope): Promise<void> {
    this.#client ??= await this.#connect();
    await this.#client.unary(
      eventsTtrpcApi.Events.method.forward,
      { envelope },
      { timeoutMs: ATTEMPT_LIMIT, metadata: new Map([["containerd-namespace-ttrpc", [this.#options.namespace]]]), signal: this.#closing.signal },
    );
  }

  async #connect(): Promise<TtrpcClient> {
    const opening = this.#options.connect();
    try {
      const stream = await within(this.#timer, ATTEMPT_LIMIT, "containerd took no connection", opening);
      return new TtrpcClient(stream, { timer: this.#timer });
    } catch (error) {
      // One that comes too late would stay open.
      opening.then(
        (stream) => stream.close(),
        () => undefined,
      );
      throw error;
    }
  }

  #drop(envelope: Envelope | undefined, reason: string): void {
    if (envelope === undefined || this.#closing.signal.aborted) return;
    this.#logger.log("warn", "an event does not reach containerd", { topic: envelope.topic, reason });
  }
}

function isPassing(error: unknown): boolean {
  return !(error instanceof TtrpcError) || error.code !== "ERR_TTRPC_STATUS" || PASSING.has(error.status.code);
}

/** For a shim that was given no address to send events to (TTRPC_ADDRESS). */
export const noPublisher: EventPublisher = { publish: () => undefined, flushed: () => Promise.resolve() };

/** A connection to a unix socket, `unix://` before its path or not. */
export async function connectUnix(address: string): Promise<ByteStream> {
  const socket = connect(address.replace(/^unix:\/\//, ""));
  try {
    await once(socket, "connect");
  } catch (error) {
    socket.destroy();
    throw error;
  }
  return byteStream(socket);
}
