import { messageOf, silentLogger, type Logger } from "@sealpod/core";
import { SerialWriter, type ByteStream } from "./byte-stream.ts";
import { encodeAnswer, parseCall, type Answer, type Call } from "./codec.ts";
import { TtrpcError } from "./errors.ts";
import { FRAME_TYPE, encodeFrame, oversizedError, readFrames, type Frame, type OversizedFrame } from "./frame.ts";
import type { TtrpcService } from "./service.ts";
import { STATUS } from "./status.ts";
import { systemTimer, type Timer } from "./timer.ts";

/**
 * Calls of one connection that may be unanswered at once. A container holds three long polls (two streams and its exit), so this is room
 * for 300 containers; beyond it the server stops reading until a call is answered.
 */
export const DEFAULT_MAX_CALLS = 1024;

/** Bytes of requests and answers of one connection that may be held at once, 64 MiB: sixteen of the largest. */
export const DEFAULT_MAX_CALL_BYTES: number = 64 * 1024 * 1024;

/** Options of {@link serveTtrpc}. */
export interface ServeOptions {
  /** Default {@link DEFAULT_MAX_CALLS}. */
  readonly maxCalls?: number;
  /** Default {@link DEFAULT_MAX_CALL_BYTES}. */
  readonly maxCallBytes?: number;
  readonly timer?: Timer;
  readonly logger?: Logger;
}

/**
 * Serves one connection. Calls run side by side and are answered in the order in which they end.
 * Resolves when the connection has ended, however it ended, and never rejects. Handlers that still run see their signal abort; their
 * answers are dropped.
 */
export async function serveTtrpc(stream: ByteStream, services: readonly TtrpcService[], options: ServeOptions = {}): Promise<void> {
  const connection = new Connection(stream, services, options);
  try {
    for await (const frame of readFrames(stream.readable)) {
      connection.accept(frame);
      await connection.room();
    }
  } catch (error) {
    (options.logger ?? silentLogger).log("warn", "ttRPC connection ended with an error", { error: messageOf(error) });
  } finally {
    connection.end();
  }
}

class Connection {
  readonly #stream: ByteStream;
  readonly #writer: SerialWriter;
  readonly #services: ReadonlyMap<string, TtrpcService>;
  readonly #maxCalls: number;
  readonly #maxCallBytes: number;
  readonly #timer: Timer;
  readonly #handlers = new Set<AbortController>();
  #lastStreamId = 0;
  #calls = 0;
  #callBytes = 0;
  #ended = false;
  #wakeReader: (() => void) | undefined;

  constructor(stream: ByteStream, services: readonly TtrpcService[], options: ServeOptions) {
    this.#stream = stream;
    this.#writer = new SerialWriter(stream);
    this.#services = new Map(services.map((service) => [service.name, service]));
    this.#maxCalls = options.maxCalls ?? DEFAULT_MAX_CALLS;
    this.#maxCallBytes = options.maxCallBytes ?? DEFAULT_MAX_CALL_BYTES;
    this.#timer = options.timer ?? systemTimer;
  }

  /** Takes one frame; calls are started, not awaited. */
  accept(frame: Frame | OversizedFrame): void {
    const { streamId, type } = frame;
    if (frame.kind === "oversized") {
      this.#refuse(streamId, oversizedError(frame.length));
    } else if (streamId % 2 !== 1) {
      this.#refuse(streamId, invalid("StreamID must be odd for client initiated streams"));
    } else if (type === FRAME_TYPE.data) {
      // Unary calls have no Data frames, and no other call is served here.
      this.#refuse(streamId, invalid("StreamID is no longer active"));
    } else if (type === FRAME_TYPE.request) {
      if (streamId <= this.#lastStreamId) {
        this.#refuse(streamId, invalid("StreamID cannot be re-used and must increment"));
        return;
      }
      this.#lastStreamId = streamId;
      this.#start(streamId, frame.data.length, () => this.#answer(frame.data));
    }
  }

  /** Resolves when the connection may take another frame. */
  async room(): Promise<void> {
    while (!this.#ended && (this.#calls >= this.#maxCalls || this.#callBytes >= this.#maxCallBytes)) {
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  /** Ends the connection from this side; also after the peer has ended it. */
  end(): void {
    this.#ended = true;
    for (const handler of this.#handlers) handler.abort();
    this.#stream.close();
    this.#wake();
  }

  /** Refusals count as calls too: a peer that sends bad frames and reads no answers must not fill the memory. */
  #refuse(streamId: number, error: TtrpcError): void {
    this.#start(streamId, 0, () => Promise.reject(error));
  }

  #start(streamId: number, size: number, answer: () => Promise<Answer>): void {
    this.#calls++;
    this.#callBytes += size;
    void this.#run(streamId, size, answer);
  }

  async #run(streamId: number, size: number, answer: () => Promise<Answer>): Promise<void> {
    const frame = encodeResponse(streamId, await answer().catch((error: unknown): Answer => ({ kind: "failure", status: statusOf(error) })));
    this.#callBytes += frame.length - size;
    try {
      if (!this.#ended) await this.#writer.write(frame);
    } catch {
      // The peer no longer reads: there is no one left to serve.
      this.end();
    } finally {
      this.#calls--;
      this.#callBytes -= frame.length;
      this.#wake();
    }
  }

  async #answer(data: Uint8Array): Promise<Answer> {
    const call = readCall(data);
    const service = this.#services.get(call.service);
    if (service === undefined) throw unimplemented(`service ${call.service}`);
    const handler = new AbortController();
    const context = { service: call.service, method: call.method, metadata: call.metadata, signal: handler.signal };
    this.#handlers.add(handler);
    try {
      const answer = service.invoke(call.method, call.payload, context);
      if (answer === undefined) throw unimplemented(`method ${call.method}`);
      return { kind: "success", payload: await (call.timeoutNano > 0n ? this.#within(call.timeoutNano, answer, handler) : answer) };
    } finally {
      this.#handlers.delete(handler);
    }
  }

  async #within(nanoseconds: bigint, answer: Promise<Uint8Array>, handler: AbortController): Promise<Uint8Array> {
    const over = Promise.withResolvers<never>();
    const cancel = this.#timer.after(Math.ceil(Number(nanoseconds) / 1e6), () => {
      const message = "context deadline exceeded";
      over.reject(new TtrpcError("ERR_TTRPC_TIMEOUT", message, { status: { code: STATUS.deadlineExceeded, message } }));
      handler.abort();
    });
    try {
      return await Promise.race([answer, over.promise]);
    } finally {
      cancel();
    }
  }

  #wake(): void {
    const wake = this.#wakeReader;
    this.#wakeReader = undefined;
    wake?.();
  }
}

function readCall(data: Uint8Array): Call {
  try {
    return parseCall(data);
  } catch (cause) {
    throw new TtrpcError("ERR_TTRPC_MALFORMED", "cannot decode ttrpc.Request", {
      cause,
      status: { code: STATUS.invalidArgument, message: `unmarshal request error: ${messageOf(cause)}` },
    });
  }
}

function encodeResponse(streamId: number, answer: Answer): Uint8Array {
  const header = { streamId, type: FRAME_TYPE.response, flags: 0 };
  try {
    return encodeFrame(header, encodeAnswer(answer));
  } catch (error) {
    // An answer that does not fit a frame becomes an error that does.
    return encodeFrame(header, encodeAnswer({ kind: "failure", status: statusOf(error) }));
  }
}

/** As the Go implementation does, an error that names no status is UNKNOWN with its text. */
function statusOf(error: unknown): TtrpcError["status"] {
  if (error instanceof TtrpcError && error.status.code !== STATUS.ok) return error.status;
  return { code: STATUS.unknown, message: messageOf(error) };
}

function invalid(message: string): TtrpcError {
  return new TtrpcError("ERR_TTRPC_MALFORMED", message, { status: { code: STATUS.invalidArgument, message } });
}

function unimplemented(message: string): TtrpcError {
  return new TtrpcError("ERR_TTRPC_STATUS", message, { status: { code: STATUS.unimplemented, message } });
}
