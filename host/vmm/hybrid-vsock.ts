import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "@sealpod/core";
import { byteStream, type ByteStream } from "@sealpod/ttrpc";
import { VmmError } from "./errors.ts";

/** Port of the agent in the guest (specs/runtime.md 4.3). */
export const AGENT_VSOCK_PORT = 1024;

/** Longest answer to CONNECT, `OK` and a number of ten digits; a peer that says more is no monitor. */
const MAX_LINE = 64;

/** Milliseconds for the answer of one connection (specs/runtime.md 4.3). */
const HANDSHAKE_LIMIT = 10_000;

/** Milliseconds between two tries: a guest that boots takes seconds. */
const PAUSE = 100;

/** Where {@link dialHybridVsock} connects. */
export interface HybridVsockOptions {
  /** Path of the monitor's unix socket. */
  readonly socket: string;
  readonly port: number;
  /** Milliseconds in which something in the guest has to listen on the port. */
  readonly limitMs: number;
  /** Milliseconds that one connection waits for its answer. Default 10 s. */
  readonly handshakeLimitMs?: number;
  /** Milliseconds between two tries. Default 100. */
  readonly pauseMs?: number;
  /** Ends the tries. */
  readonly signal?: AbortSignal;
}

/**
 * Connects to a port of a guest through the unix socket that stands for its vsock device: `CONNECT port`, one line in answer, then the
 * guest's bytes (specs/runtime.md 4.3). The monitor closes the connection while nothing listens in the guest, so this tries again.
 * @throws {VmmError} ERR_VMM_AGENT with the last reason
 */
export async function dialHybridVsock(options: HybridVsockOptions): Promise<ByteStream> {
  const { socket: path, port, limitMs, signal, pauseMs = PAUSE, handshakeLimitMs = HANDSHAKE_LIMIT } = options;
  const late = AbortSignal.timeout(limitMs);
  const end = signal === undefined ? late : AbortSignal.any([late, signal]);
  let last = "nothing was tried";
  while (!end.aborted) {
    try {
      return byteStream(await handshake(path, port, AbortSignal.any([end, AbortSignal.timeout(handshakeLimitMs)])));
    } catch (error) {
      last = messageOf(error);
      // What does not speak the protocol will not learn it.
      if (error instanceof VmmError) throw error;
    }
    await sleep(pauseMs, undefined, { signal: end }).catch(() => undefined);
  }
  const why = signal?.aborted === true ? "the machine ended" : `nothing listens after ${limitMs} ms`;
  throw new VmmError("ERR_VMM_AGENT", `port ${port} of the guest: ${why}; the last try: ${last}`, { details: { port } });
}

async function handshake(path: string, port: number, signal: AbortSignal): Promise<Socket> {
  const socket = connect(path);
  const broken = Promise.withResolvers<never>();
  const onError = (error: Error): void => broken.reject(error);
  const onClose = (): void => broken.reject(new Error("the connection was closed"));
  const onAbort = (): void => broken.reject(new Error("no answer to CONNECT in time"));
  broken.promise.catch(() => undefined);
  socket.on("error", onError).on("close", onClose).on("end", onClose);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    socket.write(`CONNECT ${port}\n`);
    const line = await Promise.race([readLine(socket), broken.promise]);
    if (!/^OK(?: [0-9]{1,10})?$/.test(line)) {
      throw new VmmError("ERR_VMM_AGENT", `port ${port} of the guest: the monitor answered ${JSON.stringify(line)}, expected OK and a number`, {
        details: { port },
      });
    }
    // The listener for errors stays: one may come before the stream's owner listens.
    socket.off("close", onClose).off("end", onClose);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** One line, and not a byte more: what follows belongs to the guest's protocol and stays in the socket's buffer. */
async function readLine(socket: Socket): Promise<string> {
  let line = "";
  for (;;) {
    const byte = socket.read(1) as Buffer | null;
    if (byte === null) {
      await once(socket, "readable");
      continue;
    }
    if (byte[0] === 0x0a) return line;
    line += byte.toString("latin1");
    if (line.length > MAX_LINE) {
      throw new VmmError("ERR_VMM_AGENT", `the answer to CONNECT has more than ${MAX_LINE} characters without a line's end`);
    }
  }
}
