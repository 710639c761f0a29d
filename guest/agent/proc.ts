import { readdirSync, readFileSync, statSync } from "node:fs";

/** Clock ticks per second in /proc: USER_HZ, 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100n;
const NANOSECONDS_PER_TICK = 1_000_000_000n / TICKS_PER_SECOND;
/** Unit of /proc/PID/statm. */
const PAGE_BYTES = 4096n;

/** What processes use. */
export interface Usage {
  /** Nanoseconds. */
  readonly user: bigint;
  readonly kernel: bigint;
  /** Bytes in memory; what processes share counts for each. */
  readonly memory: bigint;
}

/** True if a process blocks, ignores or handles a signal, so that the signal's default action does not happen. */
export function handlesSignal(pid: number, signal: number): boolean {
  const status = readIfAlive(`/proc/${pid}/status`) ?? "";
  const bit = 1n << BigInt(signal - 1);
  return ["SigBlk", "SigIgn", "SigCgt"].some((mask) => {
    const digits = new RegExp(`^${mask}:\\s*([0-9a-f]+)$`, "m").exec(status)?.[1];
    return digits !== undefined && (BigInt(`0x${digits}`) & bit) !== 0n;
  });
}

/** True if both processes run the same file. */
export function isSameProgram(pid: number, other: number): boolean {
  try {
    const [a, b] = [pid, other].map((id) => statSync(`/proc/${id}/exe`));
    return a !== undefined && b !== undefined && a.dev === b.dev && a.ino === b.ino;
  } catch {
    return false;
  }
}

/** Processes in a mount namespace, told by its inode: those of one container, where there is no cgroup to ask. */
export function processesIn(mountNamespace: number): readonly number[] {
  return readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return statSync(`/proc/${pid}/ns/mnt`).ino === mountNamespace;
      } catch {
        return false; // It ended meanwhile, or is a zombie.
      }
    });
}

/** Sum over processes; those that ended meanwhile count nothing. */
export function usageOf(pids: readonly number[]): Usage {
  let [user, kernel, memory] = [0n, 0n, 0n];
  for (const pid of pids) {
    // The second field, the name, may hold anything; the fields after its closing parenthesis start with the third.
    const stat = readIfAlive(`/proc/${pid}/stat`);
    const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ") ?? [];
    user += BigInt(fields[11] ?? 0) * NANOSECONDS_PER_TICK;
    kernel += BigInt(fields[12] ?? 0) * NANOSECONDS_PER_TICK;
    memory += BigInt(readIfAlive(`/proc/${pid}/statm`)?.split(" ")[1] ?? 0) * PAGE_BYTES;
  }
  return { user, kernel, memory };
}

function readIfAlive(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return undefined;
  }
}
