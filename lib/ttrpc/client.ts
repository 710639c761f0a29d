import { messageOf } from "@sealpod/core";
import { encodeMessage, parseMessage, type DescMessage, type DescMethodUnary, type MessageInitShape, type MessageShape } from "@sealpod/proto";
import { SerialWriter, type ByteStream } from "./byte-stream.ts";
import { encodeCall, parseAnswer, type Metadata } from "./codec.ts";
import { TtrpcError } from "./errors.ts";
import { FRAME_TYPE, encodeFrame, oversizedError, readFrames, type Frame, type OversizedFrame } from "./frame.ts";
import { STATUS, statusName } from "./status.ts";
import { systemTimer, type Timer } from "./timer.ts";

/** Options of {@link TtrpcClient}. */
export interface TtrpcClientOptions {
  readonly timer?: Timer;
}

/** Options of one call. */
export interface CallOptions {
  /** Milliseconds after which the call rejects; the server is told. No limit if not given. */
  readonly timeoutMs?: number;
  readonly metadata?: Metadata;
  /** Gives the call up. The server is not told: ttRPC has no frame for it. */
  readonly signal?: AbortSignal;
}

/** Largest stream id that fits its 32 bits and is odd. */
const MAX_STREAM_ID = 2 ** 32 - 1;

interface PendingCall {
  /** For messages, e.g. `grpc.Health/Check`. */
  readonly name: string;
  readonly settle: (outcome: Uint8Array | TtrpcError) => void;
}

/** The calling side of one connection. Any number of calls may be under way. */
export class TtrpcClient {
  /** Resolves when the connection has ended, however it ended. */
  readonly closed: Promise<void>;
  readonly #stream: ByteStream;
  readonly #writer: SerialWriter;
  readonly #timer: Timer;
  readonly #pending = new Map<number, PendingCall>();
  #nextStreamId = 1;
  #end: TtrpcError | undefined;

  constructor(stream: ByteStream, options: TtrpcClientOptions = {}) {
    this.#stream = stream;
    this.#writer = new SerialWriter(stream);
    this.#timer = options.timer ?? systemTimer;
    this.closed = this.#receive();
  }

  /**
   * Calls a unary method.
   * @throws {TtrpcError} ERR_TTRPC_STATUS with the server's status, ERR_TTRPC_TIMEOUT, ERR_TTRPC_CANCELLED, ERR_TTRPC_CLOSED, ERR_TTRPC_LIMIT,
   * ERR_TTRPC_MALFORMED
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const name = `${method.parent.typeName}/${method.name}`;
    const data = encodeCall({
      service: method.parent.typeName,
      method: method.name,
      payload: encodeMessage(method.input, request),
      timeoutNano: options.timeoutMs === undefined ? 0n : BigInt(Math.max(1, Math.ceil(options.timeoutMs * 1e6))),
      metadata: options.metadata ?? new Map(),
    });
    const payload = await this.#call(name, data, options);
    try {
      return parseMessage(method.output, payload);
    } catch (cause) {
      throw new TtrpcError("ERR_TTRPC_MALFORMED", `${name}: the answer is not a ${method.output.typeName}`, { cause });
    }
  }

  /** Closes the connection; calls under way reject with ERR_TTRPC_CLOSED. */
  close(): void {
    this.#finish(closedError("it was closed here"));
  }

  async #call(name: string, data: Uint8Array, options: CallOptions): Promise<Uint8Array> {
    if (this.#end !== undefined) throw this.#end;
    if (options.signal?.aborted === true) throw cancelledError(name);
    if (this.#nextStreamId > MAX_STREAM_ID) throw new TtrpcError("ERR_TTRPC_CLOSED", "all stream ids of the connection are used", { hint: "Connect again." });
    const streamId = this.#nextStreamId;
    // Before the id is counted as used: a request that is too large is refused here and leaves no gap.
    const frame = encodeFrame({ streamId, type: FRAME_TYPE.request, flags: 0 }, data);
    this.#nextStreamId += 2;

    const outcome = Promise.withResolvers<Uint8Array>();
    const settle = (result: Uint8Array | TtrpcError): void => {
      // From here on the id is forgotten, so a late answer is dropped.
      this.#pending.delete(streamId);
      if (result instanceof TtrpcError) outcome.reject(result);
      else outcome.resolve(result);
    };
    this.#pending.set(streamId, { name, settle });
    const onAbort = (): void => settle(cancelledError(name));
    options.signal?.addEventListener("abort", onAbort, { once: true });
    const stopTimer =
      options.timeoutMs === undefined ? undefined : this.#timer.after(options.timeoutMs, () => settle(timeoutError(name, options.timeoutMs ?? 0)));
    this.#writer.write(frame).catch((cause: unknown) => this.#finish(closedError(messageOf(cause), cause)));
    try {
      return await outcome.promise;
    } finally {
      stopTimer?.();
      options.signal?.removeEventListener("abort", onAbort);
    }
  }

  async #receive(): Promise<void> {
    try {
      for await (const frame of readFrames(this.#stream.readable)) this.#accept(frame);
      this.#finish(closedError("the peer closed it"));
    } catch (cause) {
      this.#finish(closedError(messageOf(cause), cause));
    }
  }

  // Other frames, and answers to ids that are not waited for, are ignored: a call that timed out may still be answered.
  #accept(frame: Frame | OversizedFrame): void {
    const call = this.#pending.get(frame.streamId);
    if (call === undefined || frame.type !== FRAME_TYPE.response) return;
    call.settle(frame.kind === "oversized" ? oversizedError(frame.length) : readAnswer(call.name, frame.data));
  }

  #finish(error: TtrpcError): void {
    this.#end ??= error;
    for (const call of this.#pending.values()) call.settle(this.#end);
    this.#stream.close();
  }
}

function readAnswer(name: string, data: Uint8Array): Uint8Array | TtrpcError {
  try {
    const answer = parseAnswer(data);
    if (answer.kind === "success") return answer.payload;
    const { code, message } = answer.status;
    return new TtrpcError("ERR_TTRPC_STATUS", `${name}: ${statusName(code)}: ${message}`, { status: answer.status, details: { method: name, status: code } });
  } catch (cause) {
    return new TtrpcError("ERR_TTRPC_MALFORMED", `${name}: the answer is not a ttrpc.Response`, { cause });
  }
}

function closedError(reason: string, cause?: unknown): TtrpcError {
  const message = `the connection is closed: ${reason}`;
  return new TtrpcError("ERR_TTRPC_CLOSED", message, { cause, status: { code: STATUS.unavailable, message } });
}

function cancelledError(name: string): TtrpcError {
  const message = `${name}: the caller gave up`;
  return new TtrpcError("ERR_TTRPC_CANCELLED", message, { status: { code: STATUS.cancelled, message } });
}

function timeoutError(name: string, timeoutMs: number): TtrpcError {
  const message = `${name}: no answer within ${timeoutMs} ms`;
  return new TtrpcError("ERR_TTRPC_TIMEOUT", message, { status: { code: STATUS.deadlineExceeded, message }, details: { timeoutMs } });
}
