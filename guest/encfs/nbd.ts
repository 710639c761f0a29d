import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { messageOf, type Logger } from "@sealpod/core";
import type { Device } from "./block-cache.ts";
import { EncfsError } from "./errors.ts";

/*
 * A server for the network block device protocol: fixed newstyle handshake, simple replies (doc/proto.md of the NBD project). One export without a name, one
 * client: this machine's kernel, over a socket that nobody else reaches. It needs no FUSE, and the device it makes is one that dm-crypt maps directly.
 */

const OPTION_MAGIC = 0x49_48_41_56_45_4f_50_54n;
const REPLY_MAGIC = 0x3_e889_0455_65a9n;
const REQUEST_MAGIC = 0x2560_9513;
const SIMPLE_REPLY_MAGIC = 0x6744_6698;

const HANDSHAKE = { fixedNewstyle: 1, noZeroes: 2 } as const;
const OPTION = { exportName: 1, abort: 2, list: 3, info: 6, go: 7 } as const;
const REPLY = { ack: 1, server: 2, info: 3, unsupported: 0x8000_0001, invalid: 0x8000_0003, unknown: 0x8000_0006 } as const;
const INFO = { export: 0, blockSize: 3 } as const;
const FLAG = { hasFlags: 1, readOnly: 2, sendFlush: 4, sendFua: 8 } as const;
const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3 } as const;
const ERROR = { permission: 1, io: 5, invalid: 22, noSpace: 28, unsupported: 95 } as const;

/** Bytes of one request; kernels send at most some hundred KiB. */
const MAX_REQUEST = 32 * 1024 * 1024;
/** Bytes of options: names of exports. */
const MAX_OPTION = 4096;
const MAX_OPTIONS = 64;
/** Bytes of requests at work, behind which the next one waits. */
const MAX_IN_WORK = 64 * 1024 * 1024;
/** Smallest, preferred and largest block of a client. */
const BLOCK_SIZES = [512, 4096, MAX_REQUEST] as const;

/** Options of {@link serveDevice}. */
export interface NbdOptions {
  readonly device: Device;
  readonly isReadOnly: boolean;
  readonly logger: Logger;
}

/** A server that listens. */
export interface NbdServer extends AsyncDisposable {
  /** Ends the connections and the socket; what is at work is finished first. */
  close(): Promise<void>;
}

/**
 * Serves a device on a unix socket.
 * @param path of the socket; its directory must be this process's own
 */
export async function serveDevice(path: string, options: NbdOptions): Promise<NbdServer> {
  const sockets = new Set<Socket>();
  const running = new Set<Promise<void>>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    const session = new Session(socket, options)
      .run()
      .catch((error: unknown) => options.logger.log("warn", "a client of the block device was turned away", { problem: messageOf(error) }))
      .finally(() => {
        socket.destroy();
        sockets.delete(socket);
        running.delete(session);
      });
    running.add(session);
  });
  server.listen(path);
  await once(server, "listening");
  const close = async (): Promise<void> => {
    const closed = once(server, "close");
    server.close();
    for (const socket of sockets) socket.end();
    for (const socket of sockets) socket.destroy();
    await Promise.allSettled(running);
    await closed;
  };
  return { close, [Symbol.asyncDispose]: close };
}

class Session {
  readonly #socket: Socket;
  readonly #options: NbdOptions;
  readonly #input: AsyncIterator<Uint8Array, undefined>;
  #rest: Uint8Array = new Uint8Array();
  #inWork = 0;
  #wake: () => void = () => undefined;
  readonly #jobs = new Set<Promise<void>>();

  constructor(socket: Socket, options: NbdOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#input = socket[Symbol.asyncIterator]() as AsyncIterator<Uint8Array, undefined>;
    // It is told where it is read; without a listener it would end the process.
    socket.on("error", () => undefined);
  }

  async run(): Promise<void> {
    if (!(await this.#negotiate())) return;
    try {
      while (await this.#serveRequest());
    } finally {
      await Promise.allSettled(this.#jobs);
    }
  }

  /** @returns false if the client left */
  async #negotiate(): Promise<boolean> {
    const greeting = Buffer.alloc(18);
    greeting.write("NBDMAGIC", 0, "latin1");
    greeting.writeBigUInt64BE(OPTION_MAGIC, 8);
    greeting.writeUInt16BE(HANDSHAKE.fixedNewstyle | HANDSHAKE.noZeroes, 16);
    this.#socket.write(greeting);
    const flags = viewOf(await this.#take(4)).getUint32(0);
    if ((flags & ~(HANDSHAKE.fixedNewstyle | HANDSHAKE.noZeroes)) !== 0) throw protocol(`client flags 0x${flags.toString(16)}`);
    for (let count = 0; count < MAX_OPTIONS; count++) {
      const head = viewOf(await this.#take(16));
      if (head.getBigUint64(0) !== OPTION_MAGIC) throw protocol("an option without its magic number");
      const option = head.getUint32(8);
      const length = head.getUint32(12);
      if (length > MAX_OPTION) throw protocol(`an option of ${length} bytes`);
      const data = await this.#take(length);
      switch (option) {
        case OPTION.exportName: {
          // It cannot be answered with an error: the connection ends instead.
          if (data.length !== 0) throw protocol("an export that is not there");
          const answer = Buffer.alloc((flags & HANDSHAKE.noZeroes) === 0 ? 134 : 10);
          answer.writeBigUInt64BE(BigInt(this.#options.device.length), 0);
          answer.writeUInt16BE(this.#transmissionFlags(), 8);
          this.#socket.write(answer);
          return true;
        }
        case OPTION.abort:
          this.#reply(option, REPLY.ack);
          return false;
        case OPTION.list:
          this.#reply(option, REPLY.server, Buffer.alloc(4));
          this.#reply(option, REPLY.ack);
          break;
        case OPTION.info:
        case OPTION.go:
          if (this.#inform(option, data) && option === OPTION.go) return true;
          break;
        default:
          this.#reply(option, REPLY.unsupported);
      }
    }
    throw protocol(`more than ${MAX_OPTIONS} options`);
  }

  #inform(option: number, data: Uint8Array): boolean {
    const view = viewOf(data);
    const nameLength = data.length >= 6 ? view.getUint32(0) : Number.NaN;
    const count = data.length >= 6 + nameLength ? view.getUint16(4 + nameLength) : Number.NaN;
    if (data.length !== 6 + nameLength + 2 * count) {
      this.#reply(option, REPLY.invalid);
      return false;
    }
    if (nameLength !== 0) {
      this.#reply(option, REPLY.unknown);
      return false;
    }
    const info = Buffer.alloc(12);
    info.writeUInt16BE(INFO.export, 0);
    info.writeBigUInt64BE(BigInt(this.#options.device.length), 2);
    info.writeUInt16BE(this.#transmissionFlags(), 10);
    this.#reply(option, REPLY.info, info);
    const sizes = Buffer.alloc(14);
    sizes.writeUInt16BE(INFO.blockSize, 0);
    for (const [index, size] of BLOCK_SIZES.entries()) sizes.writeUInt32BE(size, 2 + 4 * index);
    this.#reply(option, REPLY.info, sizes);
    this.#reply(option, REPLY.ack);
    return true;
  }

  #transmissionFlags(): number {
    return FLAG.hasFlags | FLAG.sendFlush | FLAG.sendFua | (this.#options.isReadOnly ? FLAG.readOnly : 0);
  }

  #reply(option: number, type: number, data: Uint8Array = new Uint8Array()): void {
    const head = Buffer.alloc(20);
    head.writeBigUInt64BE(REPLY_MAGIC, 0);
    head.writeUInt32BE(option, 8);
    head.writeUInt32BE(type, 12);
    head.writeUInt32BE(data.length, 16);
    this.#socket.write(Buffer.concat([head, data]));
  }

  /** @returns false if the client left */
  async #serveRequest(): Promise<boolean> {
    const head = viewOf(await this.#take(28));
    if (head.getUint32(0) !== REQUEST_MAGIC) throw protocol("a request without its magic number");
    const type = head.getUint16(6);
    const cookie = head.getBigUint64(8);
    const offset = head.getBigUint64(16);
    const length = head.getUint32(24);
    if (type === COMMAND.disconnect) return false;
    if (length > MAX_REQUEST && (type === COMMAND.read || type === COMMAND.write)) throw protocol(`a request of ${length} bytes`);
    const data = type === COMMAND.write ? await this.#take(length) : new Uint8Array();
    while (this.#inWork > 0 && this.#inWork + length > MAX_IN_WORK) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#inWork += length;
    const job = this.#work(type, offset, length, data).then(
      async (answer) => this.#answer(cookie, 0, answer),
      async (error: unknown) => {
        const { number, problem } = error instanceof RequestError ? error : { number: ERROR.io, problem: messageOf(error) };
        this.#options.logger.log("error", "a request to the block device failed", { type, offset: Number(offset), length, problem });
        await this.#answer(cookie, number, undefined);
      },
    );
    const done = job.finally(() => {
      this.#jobs.delete(done);
      this.#inWork -= length;
      this.#wake();
    });
    this.#jobs.add(done);
    return true;
  }

  async #work(type: number, offset: bigint, length: number, data: Uint8Array): Promise<Uint8Array | undefined> {
    const { device, isReadOnly } = this.#options;
    const isInside = offset + BigInt(length) <= BigInt(device.length);
    switch (type) {
      case COMMAND.read:
        if (!isInside || length === 0) throw new RequestError(ERROR.invalid, "it reads behind the end");
        return device.read(Number(offset), length);
      case COMMAND.write:
        if (isReadOnly) throw new RequestError(ERROR.permission, "it writes to what is only read");
        if (!isInside || length === 0) throw new RequestError(ERROR.noSpace, "it writes behind the end");
        await device.write(Number(offset), data);
        return undefined;
      case COMMAND.flush:
        // Each write was where it stays before it was answered.
        return undefined;
      default:
        throw new RequestError(ERROR.unsupported, `command ${type} is not known`);
    }
  }

  /** Resolves when the socket has it, or is closed: a client that does not read gets no further requests done. */
  async #answer(cookie: bigint, error: number, data: Uint8Array | undefined): Promise<void> {
    const head = Buffer.alloc(16);
    head.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
    head.writeUInt32BE(error, 4);
    head.writeBigUInt64BE(cookie, 8);
    await new Promise<void>((resolve) => {
      this.#socket.write(data === undefined ? head : Buffer.concat([head, data]), () => resolve());
    });
  }

  async #take(length: number): Promise<Uint8Array> {
    if (this.#rest.length >= length) {
      const taken = this.#rest.subarray(0, length);
      this.#rest = this.#rest.subarray(length);
      return taken;
    }
    const chunks = [this.#rest];
    for (let have = this.#rest.length; have < length;) {
      const { value, done } = await this.#input.next();
      if (done === true) throw protocol("the connection ended in the middle");
      chunks.push(value);
      have += value.length;
    }
    const all = Buffer.concat(chunks);
    this.#rest = all.subarray(length);
    return all.subarray(0, length);
  }
}

class RequestError extends Error {
  readonly number: number;
  readonly problem: string;

  constructor(number: number, problem: string) {
    super(problem);
    this.number = number;
    this.problem = problem;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function protocol(problem: string): EncfsError {
  return new EncfsError("ERR_ENCFS_PROTOCOL", `the client of the block device: ${problem}`);
}
