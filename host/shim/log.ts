import { closeSync, constants, openSync, writeSync } from "node:fs";

/** Longest line: what the kernel writes to a pipe in one piece (PIPE_BUF), so that lines of two writers do not mix. */
const MAX_LINE = 4096;

/** Where lines of the log go. */
export interface LogFile {
  /** Writes a line, newline included, or drops it: a log that nobody reads must not hold anything up. Longer ones than 4096 bytes are cut. */
  readonly write: (line: string) => void;
  readonly close: () => void;
}

/**
 * Opens the FIFO `log` that containerd reads and copies to its own log. The shim is a reader, too: so a containerd that has ended and is started again
 * gets what was written in between, as far as the pipe holds it, and there is no broken pipe. Where there is no such file, lines are dropped.
 */
export function openLog(path: string): LogFile {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_APPEND);
  } catch {
    // A log that is not there is no reason to refuse a pod.
  }
  let dropped = 0;
  const put = (line: string): boolean => {
    if (fd === undefined) return false;
    const bytes = Buffer.from(line);
    // The newline is kept: it is what ends the line for a reader.
    if (bytes.length > MAX_LINE) bytes[MAX_LINE - 1] = 0x0a;
    try {
      return writeSync(fd, bytes, 0, Math.min(bytes.length, MAX_LINE)) > 0;
    } catch {
      return false;
    }
  };
  return {
    write(line) {
      if (dropped > 0 && put(`${JSON.stringify({ level: 40, name: "shim", dropped, msg: "lines were lost because nobody read the log" })}\n`)) dropped = 0;
      if (!put(line)) dropped++;
    },
    close() {
      if (fd !== undefined) closeSync(fd);
      fd = undefined;
    },
  };
}
