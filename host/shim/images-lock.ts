import { rm } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";

/** Milliseconds to hear whether anybody listens. */
const CONNECT_LIMIT = 1000;

/**
 * Runs a task while no other process, and no other task of this one, has the lock of that path. The lock is a listening socket: the kernel takes it from a
 * process that ends, however it ends, and tells those that wait; nobody has to look again and again or to judge whether an owner still lives.
 *
 * It spares work and is not what correctness may rest on: who has waited long enough, or cannot have the lock at all (the path is too long for a socket),
 * goes on without it, and of two who find the same dead owner's socket both may get through.
 * @param path of at most 107 bytes, in a directory that is there
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
    if (end === "dead") await rm(path, { force: true });
  }
}

class Lock {
  readonly #server: Server;
  readonly #waiters: Set<Socket>;

  constructor(server: Server, waiters: Set<Socket>) {
    this.#server = server;
    this.#waiters = waiters;
  }

  /** Takes the socket out of the directory, then lets go of those who wait. */
  close(): void {
    this.#server.close();
    for (const waiter of this.#waiters) waiter.destroy();
  }
}

function listen(path: string): Promise<Lock | "taken" | "impossible"> {
  return new Promise((resolve) => {
    const waiters = new Set<Socket>();
    const server = createServer((socket) => {
      waiters.add(socket);
      socket.on("error", () => undefined);
      socket.once("close", () => waiters.delete(socket));
      // What a waiter says is nothing; its end is seen only if it is read.
      socket.resume();
    });
    server.once("error", (error: NodeJS.ErrnoException) => resolve(error.code === "EADDRINUSE" ? "taken" : "impossible"));
    server.listen({ path }, () => resolve(new Lock(server, waiters)));
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
