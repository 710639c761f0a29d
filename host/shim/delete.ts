import { once } from "node:events";
import { rm } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { type Clock, type Logger, messageOf } from "@sealpod/core";
import { encodeMessage, taskApi } from "@sealpod/proto";
import { type CommonArguments, podKey, socketPath } from "./arguments.ts";
import { type PodRecord, readRecord, removeRecord, shimRuns } from "./record.ts";

/** Name of the machine's run directory in a pod's directory. */
export const MACHINE_DIRECTORY = "vm";

/**
 * Milliseconds for a shim that still runs to end by itself: one that was told to shut down may be about to. containerd gives `delete` five seconds,
 * most of which the machine may need.
 */
const GRACE = 500;

/** Milliseconds until a shim that was ended by force must be gone. */
const KILL_LIMIT = 500;

/** Exit status of a task whose shim was ended: that of SIGKILL. */
const KILLED = 137;

/** What cleans up after a machine. */
export interface Leftovers {
  /** Ends the processes of a machine and removes its run directory. */
  machine(runDirectory: string): Promise<void>;
  /** Takes back what was made in a pod's network namespace. */
  network(namespace: string): Promise<void>;
  /** Ends a launch of the emulated security processor on a socket. */
  launch(processor: string, launch: string): Promise<void>;
}

/**
 * Cleans up after a shim that is to be no more, and ends it if it still runs; without one it does nothing. What belongs to another id is left alone.
 * @throws {AggregateError} if something is left; the record stays then, for another attempt
 */
export async function deleteShim(args: CommonArguments & { readonly bundle: string }, leftovers: Leftovers, logger: Logger): Promise<void> {
  const socket = socketPath(podKey(args));
  const found = readRecord(args.bundle);
  const record = found !== undefined && found.id === args.id && found.namespace === args.namespace ? found : undefined;
  if (record !== undefined) {
    await endShim(record, socket, logger);
    await cleanUp(record, leftovers);
    removeRecord(args.bundle);
  }
  // Last: as long as it is there, the launcher calls us.
  await rm(socket, { force: true });
}

/** What `delete` prints for containerd. */
export function deleteResponse(clock: Clock): Uint8Array {
  const now = clock.now();
  return encodeMessage(taskApi.DeleteResponseSchema, {
    exitStatus: KILLED,
    exitedAt: { seconds: BigInt(Math.floor(now / 1000)), nanos: (now % 1000) * 1_000_000 },
  });
}

async function endShim(record: PodRecord, socket: string, logger: Logger): Promise<void> {
  if (!shimRuns(record)) return;
  // Its end closes the connection: nobody has to look at the process again and again.
  const connection = connect(socket);
  connection.on("error", () => undefined).resume();
  const ended = once(connection, "close");
  try {
    await settles(ended, GRACE);
    if (!shimRuns(record)) return;
    logger.log("info", "the shim still runs and is ended by force", { id: record.id, pid: record.pid });
    process.kill(record.pid, "SIGKILL");
    await settles(ended, KILL_LIMIT);
  } catch {
    // It ended between the look and the signal.
  } finally {
    connection.destroy();
  }
}

/** Removes what a record says may be there. @throws {AggregateError} */
export async function cleanUp(record: PodRecord, leftovers: Leftovers): Promise<void> {
  const { directory, netns, processor, launch } = record;
  const problems: unknown[] = [];
  const attempt = (work: Promise<void>): Promise<void> => work.catch((error: unknown) => void problems.push(error));
  if (directory !== undefined) await attempt(leftovers.machine(join(directory, MACHINE_DIRECTORY)));
  const others = [];
  if (netns !== undefined) others.push(attempt(leftovers.network(netns)));
  if (processor !== undefined && launch !== undefined) others.push(attempt(leftovers.launch(processor, launch)));
  await Promise.all(others);
  if (problems.length > 0) throw new AggregateError(problems, problems.map(messageOf).join("; "));
  if (directory !== undefined) await rm(directory, { recursive: true, force: true });
}

/** Whether a promise settles in time, either way. */
async function settles(promise: Promise<unknown>, limitMs: number): Promise<boolean> {
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => late.resolve(false), limitMs);
  const settled = promise.then(
    () => true,
    () => true,
  );
  try {
    return await Promise.race([settled, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
