import { readFileSync } from "node:fs";

/** True if a process with this id runs, of whatever owner. One that has ended and only waits to be reaped does not. */
export function isAlive(pid: number): boolean {
  if (pid === 0) return false; // signal 0 to "process 0" would ask about our own group
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  return !isZombie(pid);
}

/** proc(5): the state is the letter after the command's name, which stands in parentheses and may contain some itself. */
function isZombie(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.charAt(stat.lastIndexOf(")") + 2) === "Z";
  } catch {
    return false; // No /proc, or the process has gone this moment: the signal's answer stands.
  }
}
