import { createHash, randomBytes } from "node:crypto";
import { request } from "node:http";
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";

/** Opcodes (RFC 6455 section 5.2). */
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

/** The constant of the handshake (RFC 6455 section 1.3). */
const HANDSHAKE = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** The least client of RFC 6455 that speaks to Kubernetes' streaming servers over a connection that is there already. */
export class WebSocketClient {
  readonly #socket: Socket;
  readonly #onMessage: (message: Uint8Array) => void;
  #buffer: Uint8Array;
  #parts: Uint8Array[] = [];
  /** Resolves when the connection has ended, however. */
  readonly closed: Promise<void>;

  private constructor(socket: Socket, head: Uint8Array, onMessage: (message: Uint8Array) => void) {
    this.#socket = socket;
    this.#onMessage = onMessage;
    this.#buffer = head;
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => undefined);
    socket.on("end", () => socket.end());
    socket.on("data", (part: Uint8Array) => {
      this.#buffer = Buffer.concat([this.#buffer, part]);
      this.#parse();
    });
    // What came with the answer is handled once the caller holds this object.
    queueMicrotask(() => this.#parse());
  }

  /** Upgrades an HTTP connection. Rejects with the server's words if it refuses. */
  static open(socket: Socket, path: string, protocol: string, onMessage: (message: Uint8Array) => void): Promise<WebSocketClient> {
    const key = randomBytes(16).toString("base64");
    const headers = {
      connection: "Upgrade",
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": key,
      "sec-websocket-protocol": protocol,
    };
    return new Promise((resolve, reject) => {
      const call = request({ createConnection: () => socket, path, headers });
      call.once("upgrade", (answer: IncomingMessage, _socket, head) => {
        const accept = createHash("sha1").update(`${key}${HANDSHAKE}`).digest("base64");
        if (answer.headers["sec-websocket-accept"] !== accept || answer.headers["sec-websocket-protocol"] !== protocol)
          reject(new Error(`the server upgrades to something else: ${JSON.stringify(answer.headers)}`));
        else resolve(new WebSocketClient(socket, head, onMessage));
      });
      call.once("response", (answer) => {
        let text = "";
        answer.setEncoding("utf8").on("data", (part: string) => (text += part));
        answer.once("end", () => reject(new Error(`HTTP ${String(answer.statusCode)}: ${text}`)));
      });
      call.once("error", reject);
      call.end();
    });
  }

  /** Sends one binary message; resolves when the kernel has it. */
  send(message: Uint8Array): Promise<void> {
    return this.#frame(BINARY, message);
  }

  /** Says goodbye; {@link closed} tells when the other side has done so. */
  close(): void {
    void this.#frame(CLOSE, new Uint8Array());
    this.#socket.end();
  }

  #frame(opcode: number, payload: Uint8Array): Promise<void> {
    const length = payload.length < 126 ? 0 : payload.length < 65536 ? 2 : 8;
    const header = Buffer.alloc(2 + length + 4);
    header.writeUInt8(0x80 | opcode, 0);
    header.writeUInt8(0x80 | (length === 0 ? payload.length : length === 2 ? 126 : 127), 1);
    if (length === 2) header.writeUInt16BE(payload.length, 2);
    if (length === 8) header.writeBigUInt64BE(BigInt(payload.length), 2);
    // A mask of zeros: proxies, against whom masks were invented, are not here.
    return new Promise((resolve) => this.#socket.write(Buffer.concat([header, payload]), () => resolve()));
  }

  #parse(): void {
    for (;;) {
      const bytes = Buffer.from(this.#buffer.buffer, this.#buffer.byteOffset, this.#buffer.length);
      if (bytes.length < 2) return;
      const short = bytes.readUInt8(1) & 0x7f;
      const start = short < 126 ? 2 : short === 126 ? 4 : 10;
      if (bytes.length < start) return;
      const length = short < 126 ? short : short === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
      if (bytes.length < start + length) return;
      const first = bytes.readUInt8(0);
      const payload = bytes.subarray(start, start + length);
      this.#buffer = bytes.subarray(start + length);
      const opcode = first & 0x0f;
      if (opcode === PING) void this.#frame(PONG, payload);
      else if (opcode === CLOSE) this.close();
      else if (opcode < CLOSE) {
        this.#parts.push(payload);
        if ((first & 0x80) === 0) continue;
        const message = Buffer.concat(this.#parts);
        this.#parts = [];
        this.#onMessage(message);
      }
    }
  }
}
