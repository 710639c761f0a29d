import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { readFile, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { VmmError } from "./errors.ts";

/** Directory of the records in a run directory: a file for each process, named by its id, with the time of its start. */
const RECORDS = "processes";

/** Records that are read of one machine; a driver starts two processes at most. */
const MAX_RECORDS = 16;

/** Milliseconds that ended processes get to go: the kernel takes back the memory of a large guest in less than one second. */
const CLEAN_UP_LIMIT = 3500;

/** Milliseconds between two looks for a process that has to go; it is a stranger's child, of which nobody tells us. */
const LOOK_INTERVAL = 10;

/**
 * Writes down a process of a machine, for {@link cleanUpMachine}. At once, without an await: from its start until here the kernel alone sees to
 * it that it ends with its driver.
 */
export function recordProcess(runDirectory: string, pid: number): void {
  const startTime = startTimeOf(pid);
  // It could not be started, or has ended already: there is nothing to end.
  if (startTime === undefined) return;
  mkdirSync(join(runDirectory, RECORDS), { recursive: true, mode: 0o700 });
  writeFileSync(join(runDirectory, RECORDS, String(pid)), startTime);
}

/**
 * Ends what is left of a machine whose driver's process was ended by force, and removes its run directory. Nothing there is no error, nor is
 * a second call. Processes are known by id and time of start, so that none is ended that has got the id since.
 * @param limitMs milliseconds until it is given up; default 3500, which leaves something of the five seconds that containerd gives `delete`
 * @throws {VmmError} ERR_VMM_STOPPED if a process does not go; the directory then stays, for another attempt
 */
export async function cleanUpMachine(runDirectory: string, { limitMs = CLEAN_UP_LIMIT }: { readonly limitMs?: number } = {}): Promise<void> {
  const end = AbortSignal.timeout(limitMs);
  let left = await recordedProcesses(runDirectory);
  for (const { pid, startTime } of left) if (startTimeOf(pid) === startTime) kill(pid);
  for (;;) {
    left = left.filter(({ pid, startTime }) => startTimeOf(pid) === startTime);
    if (left.length === 0) break;
    if (end.aborted) {
      const pids = left.map(({ pid }) => pid).join(", ");
      throw new VmmError("ERR_VMM_STOPPED", `machine in ${runDirectory}: process ${pids} is still there ${limitMs} ms after it was ended by force`, {
        hint: "Look at what it waits for in /proc/PID/stack, then try again.",
      });
    }
    await sleep(LOOK_INTERVAL);
  }
  await rm(runDirectory, { recursive: true, force: true });
}

interface RecordedProcess {
  readonly pid: number;
  readonly startTime: string;
}

async function recordedProcesses(runDirectory: string): Promise<readonly RecordedProcess[]> {
  const directory = join(runDirectory, RECORDS);
  const names = await readdir(directory).catch(() => []);
  // The first process is never a machine's.
  const pids = names.filter((name) => name !== "1" && /^[1-9][0-9]{0,9}$/.test(name)).slice(0, MAX_RECORDS);
  return Promise.all(pids.map(async (name) => ({ pid: Number(name), startTime: await readFile(join(directory, name), "latin1").catch(() => "") })));
}

/**
 * When the kernel started a process, in ticks since its own start (field 22 of /proc/PID/stat): two processes of one id differ in it. Undefined for one
 * that has ended.
 */
export function startTimeOf(pid: number | "self"): string | undefined {
  try {
    return parseStartTime(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return undefined;
  }
}

/**
 * Reads field 22 of /proc/PID/stat; undefined for a process that has ended and waits for its parent (Z, X).
 * The name in field 2 is the process' own choice: fields are counted from the last parenthesis.
 */
export function parseStartTime(stat: string): string | undefined {
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state = "Z"] = fields;
  return state === "Z" || state === "X" ? undefined : fields[19];
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended in the meantime, which is what was asked for.
  }
}
