import { connect as connectHttp2, constants } from "node:http2";
import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders } from "node:http2";
import { connect as connectSocket } from "node:net";
import type { Socket } from "node:net";
import { messageOf } from "@sealpod/core";
import { encodeMessage, parseMessage, ProtoError } from "@sealpod/proto";
import type { DescMessage, DescMethodServerStreaming, DescMethodUnary, MessageInitShape, MessageShape } from "@sealpod/proto";
import { ContainerdError } from "./errors.ts";
import { encodeFrame, MessageSplitter } from "./grpc-message.ts";
import { statusOf } from "./grpc-status.ts";
import type { ContainerdHints } from "./hints.ts";

/** How a call is made. */
export interface CallOptions {
  /** containerd's namespace; CRI has none. */
  readonly namespace?: string;
  /** Milliseconds that may pass until the answer, or until the next message of a stream. Infinity: as long as it takes, for streams that tell of events. */
  readonly timeout: number;
  /** Ends the call with its reason. */
  readonly signal?: AbortSignal;
  /** Texts in the request that no error may show, whatever the server answers. */
  readonly secrets?: readonly string[];
}

/** Largest message, in bytes: what containerd's own clients take (its `DefaultMaxRecvMsgSize`). */
const MAX_MESSAGE = 16 * 1024 * 1024;

/** Bytes that the server may send ahead of the reader. Blob messages have one MiB; the protocol's 64 KiB cost a third of the rate. */
const WINDOW = 4 * 1024 * 1024;

/**
 * gRPC over a unix socket. Each call has a connection of its own: on a unix socket that is cheap, and a connection that is cut,
 * slow or hostile touches one call only; there is nothing to keep, to close or to wait for at the end of the program.
 */
export class GrpcSocket {
  readonly #path: string;
  readonly #greetingTimeout: number;
  /** What errors advise. */
  readonly hints: ContainerdHints;

  /** @param greetingTimeout milliseconds for the other side to show that it speaks HTTP/2 */
  constructor(path: string, greetingTimeout: number, hints: ContainerdHints) {
    this.#path = path;
    this.#greetingTimeout = greetingTimeout;
    this.hints = hints;
  }

  /**
   * Calls a method that has one answer.
   * @throws {ContainerdError} ERR_CONTAINERD_SOCKET, ERR_CONTAINERD_CLOSED, ERR_CONTAINERD_TIMEOUT, ERR_CONTAINERD_PROTOCOL,
   * ERR_CONTAINERD_LIMIT, ERR_CONTAINERD_STATUS
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions,
  ): Promise<MessageShape<O>> {
    let answer: MessageShape<O> | undefined;
    for await (const message of this.#call(method, request, options)) {
      if (answer !== undefined) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `${nameOf(method)}: the answer has more than one message`);
      answer = message;
    }
    if (answer === undefined) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `${nameOf(method)}: the answer has no message`);
    return answer;
  }

  /**
   * Calls a method that answers with a stream. The server is not read faster than the iterator; to stop early ends the call.
   * @throws {ContainerdError} as {@link unary}
   */
  serverStream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions,
  ): AsyncGenerator<MessageShape<O>> {
    return this.#call(method, request, options);
  }

  async *#call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O> | DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions,
  ): AsyncGenerator<MessageShape<O>> {
    const what = nameOf(method);
    const { signal } = options;
    signal?.throwIfAborted();
    const socket = await openSocket(this.#path, this.hints);
    const deadline = new Deadline(options.timeout, what);
    const session = connectHttp2("http://localhost", { createConnection: () => socket, settings: { enablePush: false, initialWindowSize: WINDOW } });
    // Without a listener an error event would end the process; the stream gets the same error.
    session.on("error", () => undefined);
    // Told a turn later: the call may have been ended by then.
    session.once("connect", () => {
      if (!session.destroyed) session.setLocalWindowSize(WINDOW);
    });
    const abort = (): void => session.destroy();
    signal?.addEventListener("abort", abort, { once: true });
    try {
      // It may have been aborted while the socket was opened.
      signal?.throwIfAborted();
      await greeting(session, this.#greetingTimeout, what);
      const stream = session.request({
        [constants.HTTP2_HEADER_METHOD]: "POST",
        [constants.HTTP2_HEADER_PATH]: `/${method.parent.typeName}/${method.name}`,
        [constants.HTTP2_HEADER_CONTENT_TYPE]: "application/grpc",
        [constants.HTTP2_HEADER_TE]: "trailers",
        ...(options.namespace === undefined ? {} : { "containerd-namespace": options.namespace }),
      });
      deadline.start(stream);
      stream.end(encodeFrame(encodeMessage(method.input, request)));
      const answer = new Answer(stream, what);
      const splitter = new MessageSplitter(MAX_MESSAGE);
      for await (const chunk of answer.body()) {
        for (const bytes of splitter.push(chunk)) {
          deadline.stop();
          yield parseMessage(method.output, bytes);
          deadline.start(stream);
        }
      }
      const failure = statusOf(await answer.trailers(), what, options.secrets);
      if (failure !== undefined) throw failure;
      if (!splitter.isBetweenMessages) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `${what}: the answer ends inside a message`);
    } catch (error) {
      throw signal?.aborted === true ? signal.reason : (deadline.error ?? wrapped(error, what));
    } finally {
      signal?.removeEventListener("abort", abort);
      deadline.stop();
      session.destroy();
    }
  }
}

/** Waits for the settings that an HTTP/2 server sends first of all. Without this, a server of another kind would be waited for as for a pull. */
async function greeting(session: ClientHttp2Session, timeout: number, what: string): Promise<void> {
  const timer = setTimeout(() => {
    session.destroy(new ContainerdError("ERR_CONTAINERD_PROTOCOL", `${what}: the other side does not greet as HTTP/2 servers do`, { hint: NOT_CONTAINERD }));
  }, timeout);
  try {
    await new Promise<void>((resolve, reject) => {
      session.once("remoteSettings", () => resolve());
      session.once("error", reject);
      session.once("close", () => reject(new ContainerdError("ERR_CONTAINERD_CLOSED", `${what}: the connection was closed before an answer`)));
    });
  } finally {
    clearTimeout(timer);
  }
}

/** The response of a stream, whose parts come as events. */
class Answer {
  readonly #stream: ClientHttp2Stream;
  readonly #what: string;
  readonly #headers: Promise<IncomingHttpHeaders>;
  readonly #closed: Promise<void>;
  #trailers: IncomingHttpHeaders | undefined;

  constructor(stream: ClientHttp2Stream, what: string) {
    this.#stream = stream;
    this.#what = what;
    this.#closed = new Promise((resolve) => stream.once("close", () => resolve()));
    this.#headers = new Promise((resolve, reject) => {
      stream.once("response", (headers) => resolve(headers));
      stream.once("error", reject);
      stream.once("close", () => reject(new ContainerdError("ERR_CONTAINERD_CLOSED", `${what}: the connection was closed before an answer`)));
    });
    stream.once("trailers", (trailers: IncomingHttpHeaders) => (this.#trailers = trailers));
  }

  async *body(): AsyncGenerator<Uint8Array> {
    const headers = await this.#headers;
    const status = headers[":status"];
    const type = headers["content-type"];
    if (Number(status) !== 200 || type === undefined || !/^application\/grpc(\+proto)?$/.test(type)) {
      throw new ContainerdError(
        "ERR_CONTAINERD_PROTOCOL",
        `${this.#what}: the answer is not gRPC but HTTP ${String(status)} ${JSON.stringify(String(type).slice(0, 100))}`,
        {
          hint: NOT_CONTAINERD,
        },
      );
    }
    // An answer without messages has its status here.
    if (headers["grpc-status"] !== undefined) this.#trailers = headers;
    const chunks: AsyncIterable<Uint8Array> = this.#stream;
    yield* chunks;
  }

  /** What came after the body; empty if the connection ended before. */
  async trailers(): Promise<IncomingHttpHeaders> {
    if (this.#trailers === undefined) await this.#closed;
    return this.#trailers ?? {};
  }
}

/** Ends a stream that keeps its reader waiting. Time that the reader takes does not count. */
class Deadline {
  readonly #milliseconds: number;
  readonly #what: string;
  #timer: NodeJS.Timeout | undefined;
  /** Set when the time was up. */
  error: ContainerdError | undefined;

  constructor(milliseconds: number, what: string) {
    this.#milliseconds = milliseconds;
    this.#what = what;
  }

  start(stream: ClientHttp2Stream): void {
    if (this.#milliseconds === Infinity) return;
    this.#timer = setTimeout(() => {
      this.error = new ContainerdError("ERR_CONTAINERD_TIMEOUT", `${this.#what}: no answer within ${this.#milliseconds / 1000} s`, {
        details: { milliseconds: this.#milliseconds },
        hint: "See containerd's log; a slow registry or disk can be the reason.",
      });
      stream.destroy(this.error);
    }, this.#milliseconds);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}

const NOT_CONTAINERD = "Give containerd's own gRPC socket (usually /run/containerd/containerd.sock), not that of Docker or of another daemon.";

/** What is wrong with a socket, by the system's code, and what to do. */
function socketProblem(code: string, hints: ContainerdHints): readonly [problem: string, hint: string] | undefined {
  switch (code) {
    case "ENOENT":
      return ["there is no such socket", `Start containerd if it does not run. ${hints.givePath}`];
    case "ENOTDIR":
      return ["there is no such socket", hints.givePath];
    case "EACCES":
    case "EPERM":
      return ["permission is denied", hints.permission];
    case "ECONNREFUSED":
      return ["nobody listens there", `Start containerd if it does not run. ${hints.givePath}`];
    case "ENOTSOCK":
      return ["it is not a socket", hints.givePath];
    case "EPROTOTYPE":
      return ["it is a socket of another kind", NOT_CONTAINERD];
    default:
      return undefined;
  }
}

function openSocket(path: string, hints: ContainerdHints): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const failed = (cause: unknown): void => {
      const code = String((cause as { readonly code?: unknown }).code);
      const [problem, hint] = socketProblem(code, hints) ?? [messageOf(cause), hints.givePath];
      reject(
        new ContainerdError("ERR_CONTAINERD_SOCKET", `cannot connect to containerd at ${path}: ${problem}`, { cause, details: { path, reason: code }, hint }),
      );
    };
    if (path === "") {
      failed(new Error("the path is empty"));
      return;
    }
    let socket: Socket;
    try {
      // Not the path alone: Node takes a number for a TCP port of this machine.
      socket = connectSocket({ path });
    } catch (error) {
      // A path that no socket can have, e.g. of more than 107 bytes.
      failed(error);
      return;
    }
    socket.once("error", failed);
    socket.once("connect", () => {
      socket.off("error", failed);
      resolve(socket);
    });
  });
}

/** Errors of Node's HTTP/2 as errors of this package. */
function wrapped(error: unknown, what: string): unknown {
  if (error instanceof ContainerdError) return error;
  if (error instanceof ProtoError) return new ContainerdError("ERR_CONTAINERD_PROTOCOL", `${what}: ${error.message}`, { cause: error });
  const code = String((error as { readonly code?: unknown }).code);
  if (code === "ERR_HTTP2_ERROR") {
    return new ContainerdError("ERR_CONTAINERD_PROTOCOL", `${what}: the other side does not speak HTTP/2: ${messageOf(error)}`, {
      cause: error,
      hint: NOT_CONTAINERD,
    });
  }
  if (/^(ERR_HTTP2_|ERR_STREAM_PREMATURE_CLOSE|ECONN|EPIPE)/.test(code))
    return new ContainerdError("ERR_CONTAINERD_CLOSED", `${what}: the connection broke: ${messageOf(error)}`, { cause: error });
  return error;
}

function nameOf(method: { readonly parent: { readonly typeName: string }; readonly name: string }): string {
  return `${method.parent.typeName}/${method.name}`;
}
