import { closeSync, writeSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { connect, createServer, type Server } from "node:net";
import { dirname } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { type Logger, messageOf } from "@sealpod/core";
import { byteStream, STATUS, serveTtrpc, statusError, systemTimer, type TtrpcService } from "@sealpod/ttrpc";
import { podKey, type ServeArguments, socketPath } from "./arguments.ts";
import { ShimError } from "./errors.ts";
import { PodPlace } from "./pod-place.ts";
import { taskError } from "./status.ts";
import { endsWithin } from "./time-limit.ts";

/**
 * Connections at once. containerd has one for each container of the pod, and while it is started again old ones may not be closed yet. Larger than any pod:
 * what it bounds are descriptors and memory, and only root can connect.
 */
const MAX_CONNECTIONS = 1024;

/** Names under which containerd asks for tasks. */
const TASK_SERVICES = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/** Milliseconds for containerd to hear why a shim that has an address already did not start; it asks for a task at once, and goes when it is refused. */
const REFUSAL_LIMIT = 3000;

/** What the process that stays is to do. */
export interface DaemonWork {
  readonly services: readonly TtrpcService[];
  /** Resolves when containerd has asked for the shim's end and nothing of the pod is left. */
  readonly ended: Promise<void>;
  /** What is done after that, when containerd has been answered. */
  readonly finish?: () => Promise<void>;
}

/** What the work may use. */
export interface DaemonContext {
  readonly place: PodPlace;
  /** To be stopped when containerd asks for a task. */
  readonly unused: UnusedTimer;
}

/** What {@link runDaemon} needs of its process. */
export interface DaemonPorts {
  /** Absolute path. */
  readonly bundle: string;
  readonly pid: number;
  readonly logger: Logger;
  readonly work: (context: DaemonContext) => Promise<DaemonWork>;
}

/**
 * Serves containerd until it asks for the end, or has not asked for a task in time (specs/containerd.md 2: it forgets shims whose start failed on its
 * side). containerd's own end is no reason: it comes back, and finds its tasks. Resolves when nothing is left on the node; connections are then still
 * open, so that their end is that of the process.
 * @throws {ShimError} ERR_SHIM_EXISTS if another shim listens at that path
 */
export async function runDaemon(args: ServeArguments, { bundle, pid, logger, work }: DaemonPorts): Promise<void> {
  const socket = socketPath(podKey(args));
  const working = Promise.withResolvers<DaemonWork>();
  working.promise.catch(() => undefined);
  const heard = Promise.withResolvers<void>();
  const server = createServer((connection) => {
    connection.once("close", () => heard.resolve());
    const stream = byteStream(connection);
    working.promise.then(
      ({ services }) => serveTtrpc(stream, services, { logger }),
      () => stream.close(),
    );
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.on("drop", () => logger.log("warn", "a connection is refused: there are too many", { connections: MAX_CONNECTIONS }));
  let place: PodPlace | undefined;
  try {
    // First of all: if another shim has the socket, the rest is that one's, too.
    if (args.listenFd === undefined) await listenAt(server, socket);
    else await listening(server, () => server.listen({ fd: args.listenFd }));
    // A descriptor that cannot be had for a moment (EMFILE) is no reason to end a pod.
    server.on("error", (error) => logger.log("error", "a connection could not be taken", { error: error.message }));
    place = new PodPlace(args, bundle, pid);
    const unused = new UnusedTimer(args.createLimitMs);
    const begun = await work({ place, unused });
    const removed = Promise.withResolvers<void>();
    let ends = false;
    void begun.ended.then(() => (ends = true));
    const beforeAnswer = async (): Promise<void> => {
      await nextTurn();
      if (ends) await removed.promise;
    };
    working.resolve({ ...begun, services: begun.services.map((service) => delayShutdown(service, beforeAnswer)) });
    tell(args.readyFd, "ready");
    const wanted = await Promise.race([begun.ended.then(() => true), unused.over.then(() => false)]);
    if (!wanted) logger.log("warn", "containerd has asked for no task, so the shim ends", { waitedMs: args.createLimitMs });
    unused.stop();
    await place.remove().finally(removed.resolve);
    await begun.finish?.();
  } catch (error) {
    // Without effect if it has begun its work.
    working.resolve({ services: refusing(error), ended: heard.promise });
    // Who has an address comes there for a task, and would only see the connection break.
    if (args.listenFd !== undefined) await endsWithin(systemTimer, REFUSAL_LIMIT, heard.promise);
    await (place?.remove() ?? removeOwn(args, socket)).catch(() => undefined);
    tell(args.readyFd, messageOf(error));
    throw error;
  }
}

/** containerd calls `delete` as soon as it has the answer to Shutdown: what that looks for is to be gone then, or it would start Node for nothing. */
function delayShutdown(service: TtrpcService, beforeAnswer: () => Promise<void>): TtrpcService {
  return {
    name: service.name,
    invoke(method, payload, context) {
      const answer = service.invoke(method, payload, context);
      if (method !== "Shutdown" || answer === undefined) return answer;
      return answer.then(async (bytes) => {
        await beforeAnswer();
        return bytes;
      });
    },
  };
}

/** What answers in the place of a shim that did not start: the reason to whoever wants a task of it, and what lets containerd be done with it. */
function refusing(error: unknown): readonly TtrpcService[] {
  const { code, message } = taskError(error).status;
  const answer = async (method: string): Promise<Uint8Array> => {
    if (method === "Shutdown") return new Uint8Array();
    if (method === "Delete") throw statusError(STATUS.notFound, "there is no task");
    throw statusError(code, `the shim did not start: ${message}`);
  };
  return TASK_SERVICES.map((name) => ({ name, invoke: answer }));
}

/** Removes a socket that was made for this process and nobody will listen at. */
export async function removeOwn(args: ServeArguments, socket: string = socketPath(podKey(args))): Promise<void> {
  if (args.listenFd !== undefined) await rm(socket, { force: true });
}

/** Ends a shim that nobody wants. */
export class UnusedTimer {
  /** Resolves when the time was over. */
  readonly over: Promise<void>;
  readonly #limitMs: number;
  readonly #resolve: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(limitMs: number) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.over = promise;
    this.#resolve = resolve;
    this.#limitMs = limitMs;
    this.start();
  }

  /** It is not wanted from now on. */
  start(): void {
    this.stop();
    this.#timer = setTimeout(this.#resolve, this.#limitMs);
  }

  /** It is wanted. */
  stop(): void {
    clearTimeout(this.#timer);
  }
}

/** Makes the socket; one that nobody listens at is left over from a shim that was killed. */
async function listenAt(server: Server, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o711 });
  try {
    await listening(server, () => listenPrivately(server, path));
  } catch (error) {
    if ((error as { readonly code?: unknown }).code !== "EADDRINUSE") throw error;
    if (await answers(path)) throw new ShimError("ERR_SHIM_EXISTS", `a shim of this id serves ${path} already`);
    await rm(path, { force: true });
    await listening(server, () => listenPrivately(server, path));
  }
}

/** The socket is for root alone from its first moment. */
function listenPrivately(server: Server, path: string): void {
  const before = process.umask(0o177);
  try {
    server.listen(path);
  } finally {
    process.umask(before);
  }
}

async function listening(server: Server, listen: () => void): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("listening", resolve).once("error", reject);
  listen();
  try {
    await promise;
  } finally {
    server.removeListener("listening", resolve).removeListener("error", reject);
  }
}

function answers(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const client = connect(path);
  client.once("connect", () => resolve(true)).once("error", (error: NodeJS.ErrnoException) => resolve(error.code !== "ECONNREFUSED"));
  return promise.finally(() => client.destroy());
}

/** Says how the start went, and closes the descriptor: the launcher reads until its end. */
function tell(fd: number | undefined, line: string): void {
  if (fd === undefined) return;
  try {
    writeSync(fd, `${line}\n`);
    closeSync(fd);
  } catch {
    // It was said before, or nobody waits for it any more.
  }
}
