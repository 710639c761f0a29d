import { constants, createServer, type Http2Server, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { isSealpodError, messageOf, type Logger } from "@sealpod/core";
import { withHint } from "../app.ts";
import { checkCaller } from "../caller.ts";
import { SkrError } from "../errors.ts";
import { encodeStatusMessage, parseTimeout, STATUS, statusOf } from "./status.ts";

/** A method: bytes of a message to bytes of a message. */
export interface GrpcMethod {
  /** `stream`: each message of the caller is answered by one, until the caller ends. */
  readonly kind: "unary" | "stream";
  /** @param signal aborted when the caller is gone or its time is over */
  answer(message: Uint8Array, signal: AbortSignal): Promise<Uint8Array>;
}

/** Ports and limits of {@link createGrpcServer}. */
export interface GrpcServerOptions {
  /** By path, `/package.Service/Method`. */
  readonly methods: ReadonlyMap<string, GrpcMethod>;
  readonly logger: Logger;
  /** A signal that is aborted after so many milliseconds. */
  readonly deadline: (milliseconds: number) => AbortSignal;
}

/** Largest message, in bytes: as the HTTP API's request body, with room for what base64 adds to a wrapped key. */
export const MAX_MESSAGE_BYTES: number = 256 * 1024;

/** Bytes of all messages that have not come to their end, over all connections: the largest that the gate takes at once, four times over. */
export const MAX_UNFINISHED: number = 64 * MAX_MESSAGE_BYTES;

/** Flag and length before each message (gRPC over HTTP/2, "Length-Prefixed-Message"). */
const PREFIX = 5;

/** Calls of one connection at once: the work itself is bounded behind. */
const MAX_STREAMS = 32;

/** Milliseconds in which a request must have come, as for the HTTP API. */
const REQUEST_TIME = 30_000;

/** Milliseconds after which a connection without calls is closed. */
const IDLE = 5 * 60_000;

const ACCEPTED = "identity";

/**
 * A gRPC server over HTTP/2 without TLS: for localhost alone. It knows what the key provider needs (one message for one
 * message, no compression) and refuses the rest as the protocol says.
 */
export function createGrpcServer(options: GrpcServerOptions): Http2Server {
  const memory = new Memory();
  const server = createServer({
    maxSessionMemory: 4,
    settings: { maxConcurrentStreams: MAX_STREAMS, maxHeaderListSize: 16 * 1024, enablePush: false },
  });
  server.on("sessionError", (error) => options.logger.log("info", "a connection broke", { problem: messageOf(error) }));
  server.on("session", (session) => session.setTimeout(IDLE, () => session.close()));
  server.on("stream", (stream, headers) => {
    stream.on("error", (error) => options.logger.log("info", "a call broke", { problem: messageOf(error) }));
    void serve(options, memory, stream, headers);
  });
  return server;
}

/** What unfinished messages take of the process, whoever sends them. */
class Memory {
  #taken = 0;

  /** @throws {SkrError} ERR_SKR_BUSY */
  take(bytes: number): void {
    if (this.#taken + bytes > MAX_UNFINISHED) throw new SkrError("ERR_SKR_BUSY", `already ${this.#taken} bytes of unfinished messages`);
    this.#taken += bytes;
  }

  give(bytes: number): void {
    this.#taken -= bytes;
  }
}

/** Serves one call. Never rejects. */
async function serve(options: GrpcServerOptions, memory: Memory, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): Promise<void> {
  const path = (headers[":path"] ?? "").slice(0, 200);
  const gone = new AbortController();
  stream.once("close", () => gone.abort(new SkrError("ERR_SKR_CANCELLED", "the caller went away")));
  options.deadline(REQUEST_TIME).addEventListener("abort", () => {
    if (!stream.readableEnded) stream.close(constants.NGHTTP2_CANCEL);
  });
  if (headers[":method"] !== "POST" || !/^application\/grpc(\+proto)?(;|$)/.test(headers["content-type"] ?? "")) {
    stream.respond({ ":status": 415 }, { endStream: true });
    dropRequest(stream);
    return;
  }
  try {
    checkCaller(headers[":authority"] ?? headers.host, headers);
    const method = options.methods.get(path);
    if (method === undefined) throw new SkrError("ERR_SKR_UNIMPLEMENTED", `there is no method ${JSON.stringify(path)}`);
    const encoding = headers["grpc-encoding"] ?? ACCEPTED;
    if (encoding !== ACCEPTED) throw new SkrError("ERR_SKR_UNIMPLEMENTED", "compressed messages are not taken");
    const timeout = parseTimeout(headers["grpc-timeout"] as string | undefined);
    const signal = timeout === undefined ? gone.signal : AbortSignal.any([gone.signal, options.deadline(timeout)]);
    if (method.kind === "unary") await serveUnary(method, memory, stream, signal);
    else await serveStream(method, memory, stream, signal);
    finish(stream, STATUS.ok, "");
  } catch (error) {
    if (isOver(stream)) return;
    const known = isSealpodError(error);
    options.logger.log(known ? "warn" : "error", known ? "request failed" : "internal error", {
      path,
      ...(known ? { code: error.code } : {}),
      problem: messageOf(error),
    });
    finish(stream, statusOf(error), known ? withHint(error) : "internal error");
  }
}

async function serveUnary(method: GrpcMethod, memory: Memory, stream: ServerHttp2Stream, signal: AbortSignal): Promise<void> {
  let request: Uint8Array | undefined;
  for await (const message of messages(memory, stream)) {
    if (request !== undefined) throw new SkrError("ERR_SKR_REQUEST", "invalid request format: more than one message");
    request = message;
  }
  if (request === undefined) throw new SkrError("ERR_SKR_REQUEST", "invalid request format: no message");
  const answer = await method.answer(request, signal);
  respond(stream);
  await write(stream, answer);
}

async function serveStream(method: GrpcMethod, memory: Memory, stream: ServerHttp2Stream, signal: AbortSignal): Promise<void> {
  respond(stream);
  for await (const message of messages(memory, stream)) await write(stream, await method.answer(message, signal));
}

/**
 * The messages of a request, each checked before a byte of it is kept. What is kept is in one buffer that grows with what has come: chunks of one byte cost neither the square of their number nor
 * the network's buffers that they are parts of.
 */
async function* messages(memory: Memory, stream: ServerHttp2Stream): AsyncGenerator<Uint8Array> {
  let kept: Uint8Array = new Uint8Array();
  let length = 0;
  // A request that is refused in the middle still gets its answer on the same stream.
  const chunks = stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
  try {
    for await (const chunk of chunks) {
      const total = length + chunk.length;
      if (total > kept.length) {
        const grown = Math.max(total, Math.min(2 * kept.length, PREFIX + MAX_MESSAGE_BYTES));
        memory.take(grown - kept.length);
        const buffer = new Uint8Array(grown);
        buffer.set(kept.subarray(0, length));
        kept = buffer;
      }
      kept.set(chunk, length);
      length = total;
      let from = 0;
      while (length - from >= PREFIX) {
        const end = from + needed(kept.subarray(from, length));
        if (end > length) break;
        yield kept.slice(from + PREFIX, end);
        from = end;
      }
      kept.copyWithin(0, from, length);
      length -= from;
      if (length > 0) continue;
      memory.give(kept.length);
      kept = new Uint8Array();
    }
    if (length > 0) throw new SkrError("ERR_SKR_REQUEST", "invalid request format: the request ends inside a message");
  } finally {
    memory.give(kept.length);
  }
}

/** Bytes of the message at the start, with its prefix. */
function needed(bytes: Uint8Array): number {
  if (bytes[0] !== 0) {
    throw bytes[0] === 1
      ? new SkrError("ERR_SKR_UNIMPLEMENTED", "compressed messages are not taken")
      : new SkrError("ERR_SKR_REQUEST", `invalid request format: a message with flag ${bytes[0]}`);
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(1);
  if (length > MAX_MESSAGE_BYTES) throw new SkrError("ERR_SKR_TOO_LARGE", `the message has ${length} bytes, more than ${MAX_MESSAGE_BYTES}`);
  return PREFIX + length;
}

function respond(stream: ServerHttp2Stream): void {
  if (isOver(stream)) return;
  stream.respond({ ":status": 200, "content-type": "application/grpc", "grpc-accept-encoding": ACCEPTED }, { waitForTrailers: true });
}

async function write(stream: ServerHttp2Stream, message: Uint8Array): Promise<void> {
  const frame = new Uint8Array(PREFIX + message.length);
  new DataView(frame.buffer).setUint32(1, message.length);
  frame.set(message, PREFIX);
  await new Promise<void>((resolve, reject) => {
    stream.write(frame, (error) => {
      if (error === undefined || error === null) resolve();
      else reject(error);
    });
  });
}

/** Ends a call with its status: in trailers, or in the headers where no message was sent. */
function finish(stream: ServerHttp2Stream, status: number, message: string): void {
  if (isOver(stream)) return;
  const trailers = { "grpc-status": String(status), ...(message === "" ? {} : { "grpc-message": encodeStatusMessage(message) }) };
  if (stream.headersSent) {
    stream.once("wantTrailers", () => stream.sendTrailers(trailers));
    stream.end();
  } else {
    stream.respond({ ":status": 200, "content-type": "application/grpc", "grpc-accept-encoding": ACCEPTED, ...trailers }, { endStream: true });
  }
  dropRequest(stream);
}

/** True if nothing can be said on a stream any more: the caller reset it, or the connection is gone. */
function isOver(stream: ServerHttp2Stream): boolean {
  return stream.destroyed || stream.closed;
}

/** What the caller still sends is of no interest: without this its request would stay half open, and its connection with it. */
function dropRequest(stream: ServerHttp2Stream): void {
  if (!stream.readableEnded) stream.resume().close(constants.NGHTTP2_NO_ERROR);
}
