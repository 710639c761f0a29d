import { EventEmitter, once } from "node:events";
import { Duplex } from "node:stream";
import type { Namespace } from "./namespace.ts";
import { WebSocketClient } from "./websocket.ts";

/** Channels of `v4.channel.k8s.io`: the first byte of each message. */
const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const ERROR = 3;
const RESIZE = 4;

/** A process, or a container, whose streams go over CRI's streaming server, as `kubectl exec` and `attach` have them. */
export class RemoteStreams {
  stdout = "";
  stderr = "";
  /** The server's last word: exit status of the process; undefined if the connection ended without one. */
  readonly ended: Promise<number | undefined>;
  readonly #news = new EventEmitter();
  readonly #socket: WebSocketClient;
  #status: number | undefined;

  private constructor(socket: WebSocketClient) {
    this.#socket = socket;
    this.#news.setMaxListeners(0);
    this.ended = socket.closed.then(() => {
      this.#news.emit("news");
      return this.#status;
    });
    this.closed = false;
    void this.ended.then(() => (this.closed = true));
  }

  /** Whether the connection has ended. */
  closed: boolean;

  /** @param url of an Exec or Attach answer */
  static async open(namespace: Namespace, url: string): Promise<RemoteStreams> {
    const { hostname, port, pathname, search } = new URL(url);
    const early: Uint8Array[] = [];
    let streams: RemoteStreams | undefined;
    const socket = await WebSocketClient.open(await namespace.dial(hostname, Number(port)), `${pathname}${search}`, "v4.channel.k8s.io", (message) => {
      if (streams === undefined) early.push(message);
      else streams.#take(message);
    });
    streams = new RemoteStreams(socket);
    for (const message of early) streams.#take(message);
    return streams;
  }

  /** Writes to the process. */
  async write(text: string | Uint8Array): Promise<void> {
    await this.#socket.send(Buffer.concat([Buffer.of(STDIN), Buffer.from(text)]));
  }

  /** Tells the size of the terminal. */
  async resize(columns: number, rows: number): Promise<void> {
    await this.#socket.send(Buffer.concat([Buffer.of(RESIZE), Buffer.from(JSON.stringify({ Width: columns, Height: rows }))]));
  }

  /** Hangs up. The fourth version of the protocol has no way to end stdin alone. */
  close(): void {
    this.#socket.close();
  }

  /** Waits until a stream has a text. */
  async wrote(words: string | RegExp): Promise<void> {
    const has = (text: string): boolean => (typeof words === "string" ? text.includes(words) : words.test(text));
    while (!has(this.stdout) && !has(this.stderr)) {
      if (this.closed) throw new Error(`ended before it wrote ${String(words)}: ${this.stdout}${this.stderr}`);
      await once(this.#news, "news");
    }
  }

  #take(message: Uint8Array): void {
    const text = Buffer.from(message.subarray(1)).toString("utf8");
    if (message[0] === STDOUT) this.stdout += text;
    else if (message[0] === STDERR) this.stderr += text;
    else if (message[0] === ERROR && text !== "") this.#status = exitStatus(text);
    this.#news.emit("news");
  }
}

/** Exit status in the `metav1.Status` that ends an exec. Throws the server's message if the process did not run. */
function exitStatus(text: string): number {
  const status = JSON.parse(text) as {
    readonly status: string;
    readonly message?: string;
    readonly details?: { readonly causes?: readonly { readonly reason: string; readonly message: string }[] };
  };
  if (status.status === "Success") return 0;
  const code = status.details?.causes?.find((cause) => cause.reason === "ExitCode")?.message;
  if (code === undefined) return -1;
  return Number(code);
}

/** A forwarded connection, and what the server says of it if it fails. */
export interface Forwarded {
  readonly stream: Duplex;
  readonly error: () => string;
}

/**
 * Connects to a port of a pod as `kubectl port-forward` does. Over WebSocket a pair of channels per port, data and error, each beginning with the port's number.
 * @param url of a PortForward answer for this one port
 */
export async function openForward(namespace: Namespace, url: string): Promise<Forwarded> {
  const { hostname, port, pathname, search } = new URL(url);
  const greeted = [false, false];
  let error = "";
  let socket: WebSocketClient | undefined;
  const stream = new Duplex({
    read: () => undefined,
    write: (chunk: Uint8Array, _encoding, callback) => {
      void socket?.send(Buffer.concat([Buffer.of(0), chunk])).then(() => callback());
    },
    destroy: (cause, callback) => {
      socket?.close();
      callback(cause);
    },
  });
  socket = await WebSocketClient.open(await namespace.dial(hostname, Number(port)), `${pathname}${search}`, "v4.channel.k8s.io", (message) => {
    const channel = message[0] ?? 0;
    let rest = message.subarray(1);
    if (greeted[channel] === false) {
      rest = rest.subarray(2);
      greeted[channel] = true;
    }
    if (rest.length === 0) return;
    if (channel === 0) stream.push(rest);
    else error += Buffer.from(rest).toString("utf8");
  });
  void socket.closed.then(() => stream.push(null));
  return { stream, error: () => error };
}
