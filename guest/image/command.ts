import { spawn } from "node:child_process";
import { concatBytes, messageOf } from "@sealpod/core";
import { ImageError } from "./errors.ts";

/** Options of {@link StartCommand}. */
export interface CommandOptions {
  readonly cwd: string;
  /** Ends the command when aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** Starts a tool of the machine without a shell and yields what it writes to stdout; fails unless it ends with 0. */
export type StartCommand = (command: string, args: readonly string[], options: CommandOptions) => AsyncIterable<Uint8Array>;

/** What of stderr goes into an error's message. */
const MAX_STDERR = 2000;

/**
 * {@link StartCommand} with real processes.
 * @throws {ImageError} ERR_IMAGE_PLATFORM (no such command), ERR_IMAGE_COMMAND, ERR_IMAGE_ABORTED
 */
export const startCommand: StartCommand = async function* (command, args, { cwd, signal }) {
  const child = spawn(command, args, { cwd, stdio: ["ignore", "pipe", "pipe"], signal });
  const shown = [command, ...args].join(" ").slice(0, 300);
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr = (stderr + text).slice(-MAX_STDERR)));
  const closed = new Promise<string | undefined>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, by) => resolve(code === 0 ? undefined : code === null ? `was ended by ${by}` : `ended with ${code}`));
  });
  // A failure to start shows when the output ends, below.
  closed.catch(() => undefined);
  try {
    yield* child.stdout as AsyncIterable<Uint8Array>;
    const problem = await closed;
    if (problem !== undefined) throw new ImageError("ERR_IMAGE_COMMAND", `${shown} ${problem}: ${stderr.trim() || "it said nothing"}`);
  } catch (cause) {
    if (signal?.aborted === true) throw new ImageError("ERR_IMAGE_ABORTED", `${command} was stopped`, { cause });
    if (cause instanceof ImageError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === "ENOENT")
      throw new ImageError("ERR_IMAGE_PLATFORM", `${command} is not on this machine`, {
        cause,
        hint: "Images are made on Debian 12 or what descends from it: apt, dpkg and tcc's libc.",
      });
    throw new ImageError("ERR_IMAGE_COMMAND", `${shown} failed: ${messageOf(cause)}`, { cause });
  } finally {
    // The reader may have gone early.
    child.kill("SIGKILL");
  }
};

/**
 * All that a command writes.
 * @param limit in bytes
 * @throws {ImageError} ERR_IMAGE_LIMIT, and those of the command
 */
export async function outputOf(output: AsyncIterable<Uint8Array>, what: string, limit: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of output) {
    length += chunk.length;
    if (length > limit) throw new ImageError("ERR_IMAGE_LIMIT", `${what} gives more than ${limit} bytes`, { details: { limit } });
    parts.push(chunk);
  }
  return concatBytes(...parts);
}
