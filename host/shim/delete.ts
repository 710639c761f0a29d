import { once } from "node:events";
import { existsSync, renameSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { type Clock, type Logger, messageOf } from "@sealpod/core";
import { encodeMessage, taskApi } from "@sealpod/proto";
import { systemTimer } from "@sealpod/ttrpc";
import { type CommonArguments, podKey, socketPath } from "./arguments.ts";
import { type PodRecord, readRecord, removeRecord, shimRuns } from "./record.ts";
import { KILLED } from "./task-process.ts";
import { endsWithin } from "./time-limit.ts";

/** Name of the machine's run directory in a pod's directory. */
export const MACHINE_DIRECTORY = "vm";

/**
 * Milliseconds from the start of the process for all of `delete`. containerd ends it after five seconds, with the launcher's part in them, and then
 * throws the bundle with the record away: what is not done until then is found by another shim only ({@link sweepLeft}).
 */
const DELETE_LIMIT = 3900;

/** Milliseconds for a shim that still runs to end by itself: one that was told to shut down may be about to. */
const GRACE = 400;

/** Milliseconds until a shim that was ended by force must be gone. */
const KILL_LIMIT = 300;

/** Milliseconds that a machine that does not end leaves to the rest: programs that take the network back, the answer of a processor. */
const REST = 1000;

/** What cleans up after a machine; each within milliseconds. */
export interface Leftovers {
  /** Ends the processes of a machine and removes its run directory. */
  machine(runDirectory: string, limitMs: number): Promise<void>;
  /** Takes back what was made in a pod's network namespace. */
  network(namespace: string, limitMs: number): Promise<void>;
  /** Ends a launch of the emulated security processor on a socket. */
  launch(processor: string, launch: string, limitMs: number): Promise<void>;
  /** Removes a cgroup. */
  cgroup(path: string, limitMs: number): Promise<void>;
}

/** One end for several steps. */
export class Deadline {
  readonly #end: number;
  readonly #now: () => number;

  /** @param now milliseconds since the start of the process, by default */
  constructor(end: number, now: () => number = () => performance.now()) {
    this.#end = end;
    this.#now = now;
  }

  static in(milliseconds: number): Deadline {
    return new Deadline(performance.now() + milliseconds);
  }

  /** Milliseconds that are left when some are kept for what follows; at least one. */
  left(kept = 0): number {
    return Math.max(1, Math.floor(this.#end - this.#now() - kept));
  }
}

/**
 * Cleans up after a shim that is to be no more, and ends it if it still runs; without one it does nothing. What belongs to another id is left alone.
 * @param deadline of all steps together
 * @throws {AggregateError} if something is left; the record stays then, for another attempt
 */
export async function deleteShim(
  args: CommonArguments & { readonly bundle: string },
  leftovers: Leftovers,
  logger: Logger,
  deadline: Deadline = new Deadline(DELETE_LIMIT),
): Promise<void> {
  const socket = socketPath(podKey(args));
  const found = readRecord(args.bundle);
  const record = found !== undefined && found.id === args.id && found.namespace === args.namespace ? found : undefined;
  if (record !== undefined) {
    await endShim(record, socket, logger);
    await cleanUp(record, leftovers, deadline);
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
    await endsWithin(systemTimer, GRACE, ended);
    if (!shimRuns(record)) return;
    logger.log("info", "the shim still runs and is ended by force", { id: record.id, pid: record.pid });
    process.kill(record.pid, "SIGKILL");
    await endsWithin(systemTimer, KILL_LIMIT, ended);
  } catch {
    // It ended between the look and the signal.
  } finally {
    connection.destroy();
  }
}

/**
 * Removes what a record says may be there, the machine first: it is what costs the node most. One that does not end holds up nothing else.
 * @throws {AggregateError}
 */
export async function cleanUp(record: PodRecord, leftovers: Leftovers, deadline: Deadline): Promise<void> {
  const { directory, netns, cgroup, processor, launch } = record;
  const problems: unknown[] = [];
  const attempt = async (what: string, limitMs: number, work: (limitMs: number) => Promise<void>): Promise<void> => {
    try {
      const working = work(limitMs);
      if (!(await endsWithin(systemTimer, limitMs, working))) throw new Error(`${what} takes longer than ${limitMs} ms`);
      await working;
    } catch (error) {
      problems.push(error);
    }
  };
  if (directory !== undefined) {
    await attempt("the end of the machine", deadline.left(REST), (limitMs) => leftovers.machine(join(directory, MACHINE_DIRECTORY), limitMs));
  }
  const left = deadline.left();
  const others = [];
  if (netns !== undefined) others.push(attempt("taking back the network", left, (limitMs) => leftovers.network(netns, limitMs)));
  if (processor !== undefined && launch !== undefined)
    others.push(attempt("the end of the launch", left, (limitMs) => leftovers.launch(processor, launch, limitMs)));
  if (cgroup !== undefined) others.push(attempt("the removal of the cgroup", left, (limitMs) => leftovers.cgroup(cgroup, limitMs)));
  await Promise.all(others);
  if (problems.length > 0) throw new AggregateError(problems, problems.map(messageOf).join("; "));
  if (directory !== undefined) await rm(directory, { recursive: true, force: true });
}

/** Directories that are looked at, and cleaned up after, in one sweep; a node has 110 pods, and each shim's start sweeps again. */
const SWEPT = { looks: 1000, cleaned: 16 } as const;

/** Milliseconds for the leftovers of one pod in a sweep: nobody waits for it. */
const SWEEP_LIMIT = 10_000;

/** End of the name of a directory that is being removed. */
const LEFT = ".left";

/**
 * Cleans up after pods that nobody will ask about any more: their shim is dead, and containerd has thrown their bundle away, as it does when it had to
 * end `delete`. What has a bundle is containerd's to ask about. Never rejects.
 * @param runDirectory of all pods of the configuration
 * @returns the ids of the pods
 */
export async function sweepLeft(runDirectory: string, leftovers: Leftovers, logger: Logger): Promise<readonly string[]> {
  const swept: string[] = [];
  const names = (await readdir(runDirectory).catch(() => [])).filter((name) => /^[0-9a-f]{32}(?:\.left)?$/.test(name));
  for (const name of names.slice(0, SWEPT.looks)) {
    if (swept.length === SWEPT.cleaned) break;
    const record = setAside(join(runDirectory, name));
    if (record === undefined) continue;
    swept.push(record.id);
    try {
      await cleanUp(record, leftovers, Deadline.in(SWEEP_LIMIT));
      logger.log("warn", "cleaned up after a pod that was left behind", { pod: record.id, namespace: record.namespace });
    } catch (error) {
      logger.log("warn", "a pod was left behind, and not all of it could be cleaned up", { pod: record.id, reason: messageOf(error) });
    }
  }
  return swept;
}

/**
 * Renames a directory that was left behind, so that a new shim of the same id and the sweep are not in each other's way. Without an await: what is looked
 * at is what is renamed, but for another process in that moment, whose directory it gets back.
 */
function setAside(path: string): PodRecord | undefined {
  const isLeft = (record: PodRecord | undefined): record is PodRecord => record !== undefined && !shimRuns(record) && !existsSync(record.bundle);
  const record = readRecord(path);
  if (!isLeft(record)) return undefined;
  if (path.endsWith(LEFT)) return { ...record, directory: path };
  const aside = path + LEFT;
  try {
    renameSync(path, aside);
    const renamed = readRecord(aside);
    if (isLeft(renamed)) return { ...renamed, directory: aside };
    renameSync(aside, path);
  } catch {
    // An earlier one is aside already, or another sweep was faster.
  }
  return undefined;
}
