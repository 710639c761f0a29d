import { randomBytes } from "node:crypto";
import { linkSync, rmSync } from "node:fs";
import { rm } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";

/** Milliseconds to hear whether anybody listens. */
const CONNECT_LIMIT = 1000;

/** Longest path of a lock in bytes: that of a unix socket, less what the names beside it have at their end. */
export const MAX_LOCK_PATH: number = 107 - "~+012345".length;

/** Ends of names beside a lock's: of the lock for its removal, and of a socket that is about to become the lock. */
const REMOVAL = "~";
const RANDOM_BYTES = 3;

/** Name of the lock that a file beside a lock belongs to, or of a lock itself; undefined for other files' names. */
export function lockNameOf(name: string): string | undefined {
  return /^(\.lock-[0-9a-z]+)(?:~?(?:\+[0-9a-f]{6})?)$/.exec(name)?.[1];
}

/**
 * Runs a task while no other process, and no other task of this one, has the lock of that path. The lock is a listening socket: the kernel takes it from a
 * process that ends, however it ends, and tells those that wait; nobody has to look again and again or to judge whether an owner still lives.
 *
 * Of two who hold it one has not been told so: who has waited long enough, or cannot have the lock at all (the path is too long for a socket), goes on
 * without it. A dead owner's socket is removed under a lock of its own, so that nobody takes another's fresh one for it; only if somebody is killed in
 * the very moment of that removal, two that find it at once may both get through.
 * @param path of at most {@link MAX_LOCK_PATH} bytes, in a directory that is there
 * @param patience milliseconds to wait for others; 0 does not wait
 * @param task is told whether it has the lock
 */
export async function withLock<T>(path: string, patience: number, task: (held: boolean) => Promise<T>): Promise<T> {
  const deadline = performance.now() + patience;
  for (;;) {
    const lock = await listen(path);
    if (lock === "impossible") return task(false);
    if (lock !== "taken") {
      try {
        return await task(true);
      } finally {
        lock.close();
      }
    }
    const end = await ownerEnds(path, deadline - performance.now());
    if (end === "late") return task(false);
    if (end === "dead") await removeDead(path);
  }
}

/** Removes a socket that nobody listens at, unless somebody does by now. */
async function removeDead(path: string): Promise<void> {
  const guard = path + REMOVAL;
  const lock = await listen(guard);
  if (lock === "taken") {
    if ((await ownerEnds(guard, CONNECT_LIMIT)) === "dead") await rm(guard, { force: true });
    return;
  }
  try {
    // Nobody else removes it now, and nobody puts another in its place while it is there.
    if ((await ownerEnds(path, 0)) === "dead") rmSync(path, { force: true });
  } finally {
    if (lock !== "impossible") lock.close();
  }
}

class Lock {
  readonly #path: string;
  readonly #server: Server;
  readonly #waiters: Set<Socket>;

  constructor(path: string, server: Server, waiters: Set<Socket>) {
    this.#path = path;
    this.#server = server;
    this.#waiters = waiters;
  }

  /** Takes the socket out of the directory, then lets go of those who wait. */
  close(): void {
    rmSync(this.#path, { force: true });
    this.#server.close();
    for (const waiter of this.#waiters) waiter.destroy();
  }
}

/** A socket listens before it gets the lock's name: between the two, it would look like that of a dead owner. */
function listen(path: string): Promise<Lock | "taken" | "impossible"> {
  const unique = `${path}+${randomBytes(RANDOM_BYTES).toString("hex")}`;
  return new Promise((resolve) => {
    const waiters = new Set<Socket>();
    const server = createServer((socket) => {
      waiters.add(socket);
      socket.on("error", () => undefined);
      socket.once("close", () => waiters.delete(socket));
      // What a waiter says is nothing; its end is seen only if it is read.
      socket.resume();
    });
    // Two of the same random name, or a directory that is not there or cannot be written.
    server.once("error", (error: NodeJS.ErrnoException) => resolve(error.code === "EADDRINUSE" ? "taken" : "impossible"));
    server.listen({ path: unique }, () => {
      try {
        linkSync(unique, path);
        resolve(new Lock(path, server, waiters));
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        // ENOENT: somebody took it for what a dead one had left.
        resolve(code === "EEXIST" || code === "ENOENT" ? "taken" : "impossible");
        server.close();
      } finally {
        rmSync(unique, { force: true });
      }
    });
  });
}

/** Waits until a lock's owner lets go of it. `dead`: there is a socket, and nobody listens. */
function ownerEnds(path: string, patience: number): Promise<"ended" | "dead" | "late"> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    const done = (end: "ended" | "dead" | "late"): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(end);
    };
    // The kernel says at once whether somebody listens, but the platform's timers may come before its answer.
    let timer = setTimeout(() => done("late"), CONNECT_LIMIT);
    socket.once("connect", () => {
      clearTimeout(timer);
      timer = setTimeout(() => done("late"), Math.max(patience, 0));
    });
    socket.on("error", ({ code }: NodeJS.ErrnoException) => {
      // An owner that ends with waiters it has not yet taken in resets them, even before they know that they are connected.
      if (code === "ENOENT" || code === "ECONNRESET" || code === "EPIPE") done("ended");
      else done(code === "ECONNREFUSED" ? "dead" : "late");
    });
    socket.once("close", () => done("ended"));
    socket.resume();
  });
}
