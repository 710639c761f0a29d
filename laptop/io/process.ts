/** True if a process with this id exists, of whatever owner. */
export function isAlive(pid: number): boolean {
  if (pid === 0) return false; // signal 0 to "process 0" would ask about our own group
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
