import { spawn } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { Readable, type Duplex, type Writable } from "node:stream";
import { AgentError } from "./errors.ts";

/** The native helper of the guest's root (guest/init): Node can neither receive a descriptor nor set the size of a terminal. */
const HELPER = "/usr/lib/sealpod/helper";

/** Rows and columns fit in 16 bits (ioctl_tty(2), TIOCSWINSZ). */
const MAX_SIZE = 0xffff;

/** Bytes of sizes that the helper has not taken yet; it takes them at once, so more means that it hangs. */
const MAX_PENDING_SIZES = 4096;

/** A terminal, seen from the side that is not the process. */
export interface Console {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** @throws {AgentError} ERR_AGENT_REQUEST for a size that a terminal cannot have */
  resize(rows: number, columns: number): void;
}

/**
 * Starts the helper that receives a terminal on `socket` and relays between it and our streams. It ends when the terminal does, which is when
 * its last process has closed it, or when `stdout` is destroyed.
 *
 * @param socket must be new; it is gone when the helper has the terminal, or has ended
 * @throws {AgentError} ERR_AGENT_UNIMPLEMENTED where the helper is not there, ERR_AGENT_COMMAND if it does not begin
 */
export async function openConsole(socket: string, helper: string = HELPER): Promise<Console> {
  if (!existsSync(helper)) {
    throw new AgentError("ERR_AGENT_UNIMPLEMENTED", `terminals need ${helper}, which is not there`, {
      hint: "Run the pod in the utility VM, or without a terminal.",
    });
  }
  const child = spawn(helper, ["console", socket], { cwd: "/", env: {}, stdio: ["pipe", "pipe", "ignore", "pipe", "pipe"] });
  const [, , , sizes, ready] = child.stdio as [Writable, Readable, null, Duplex, Duplex];
  const { stdin, stdout } = child as { stdin: Writable; stdout: Readable };
  // A helper that has ended breaks the pipes: whoever writes next is told.
  for (const stream of [stdin, stdout, sizes, ready]) stream.on("error", () => undefined);
  // Node reads the streams of a child that has ended to their end, and forgets what comes, unless someone listens.
  stdout.on("readable", () => undefined);
  const close = (): void => {
    child.kill("SIGKILL");
    for (const stream of [stdin, stdout, sizes, ready]) stream.destroy();
  };
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const failed = (): void => reject(new AgentError("ERR_AGENT_COMMAND", `${helper} ended before it listened`));
  ready.once("data", () => resolve());
  child.once("error", failed);
  child.once("exit", () => {
    failed();
    // The helper itself removes the name once it has the terminal; not before, or it would be missing there.
    rmSync(socket, { force: true });
  });
  try {
    await promise;
  } catch (error) {
    close();
    throw error;
  }
  ready.destroy();
  // Nothing is lost by that: what the terminal has said was relayed before its end.
  stdout.once("close", close);
  return {
    stdin,
    stdout,
    stderr: new Readable().destroy(),
    resize(rows, columns) {
      const size = encodeSize(rows, columns);
      if (sizes.writable && sizes.writableLength < MAX_PENDING_SIZES) sizes.write(size);
    },
  };
}

/**
 * Size of a terminal as the helper reads it: rows and columns, little endian, two bytes each.
 * @throws {AgentError} ERR_AGENT_REQUEST
 */
export function encodeSize(rows: number, columns: number): Uint8Array {
  for (const value of [rows, columns]) {
    if (!Number.isInteger(value) || value < 0 || value > MAX_SIZE)
      throw new AgentError("ERR_AGENT_REQUEST", `size ${rows} x ${columns} of a terminal: expected at most ${MAX_SIZE} each`);
  }
  return Uint8Array.of(rows & 0xff, rows >> 8, columns & 0xff, columns >> 8);
}
