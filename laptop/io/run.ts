import { spawn } from "node:child_process";
import { messageOf } from "@sealpod/core";
import { IoError, systemCode } from "./errors.ts";

/** Options of {@link run}. */
export interface RunOptions {
  readonly cwd?: string;
  /** The whole environment; default: that of this process. */
  readonly env?: Readonly<Record<string, string>>;
  /** Bytes for standard input; default: none. */
  readonly input?: Uint8Array;
  /** Largest output, each of stdout and stderr, in bytes; default 16 MiB. */
  readonly maxOutput?: number;
  /** The command is killed after so many milliseconds; default: never. */
  readonly timeoutMs?: number;
  /** Kills the command when aborted. */
  readonly signal?: AbortSignal;
  /** Exit codes that are no failure; default: 0 alone. */
  readonly okCodes?: readonly number[];
}

/** What a command said. */
export interface RunResult {
  readonly code: number;
  readonly stdout: Uint8Array;
  /** Text, invalid UTF-8 replaced. */
  readonly stderr: string;
}

const DEFAULT_MAX_OUTPUT = 16 * 1024 * 1024;

/** What of stderr goes into an error message. */
const STDERR_IN_MESSAGE = 2000;

/**
 * Runs a command without a shell and waits for it. Arguments appear in error messages: pass secrets by `input`.
 * @throws {IoError} ERR_IO_COMMAND (not found, failed, killed, timed out), ERR_IO_LIMIT
 */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const shown = [command, ...args].join(" ").slice(0, 500);
  const limit = options.maxOutput ?? DEFAULT_MAX_OUTPUT;
  const child = spawn(command, args, {
    cwd: options.cwd,
    stdio: ["pipe", "pipe", "pipe"],
    ...(options.env === undefined ? {} : { env: options.env }),
  });
  let failure: IoError | undefined;
  const kill = (error: IoError): void => {
    failure ??= error;
    child.kill("SIGKILL");
  };
  const collect = (stream: NodeJS.ReadableStream, name: string): Uint8Array[] => {
    const parts: Uint8Array[] = [];
    let size = 0;
    stream.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > limit) kill(new IoError("ERR_IO_LIMIT", `${shown}: wrote more than ${limit} bytes to ${name}`, { details: { limit } }));
      else parts.push(chunk);
    });
    return parts;
  };
  const stdout = collect(child.stdout, "stdout");
  const stderr = collect(child.stderr, "stderr");
  // A command may end without reading its input; that it failed shows in its exit code.
  child.stdin.on("error", () => undefined);
  child.stdin.end(options.input ?? new Uint8Array());
  const onAbort = (): void => kill(new IoError("ERR_IO_COMMAND", `${shown}: stopped`));
  options.signal?.addEventListener("abort", onAbort, { once: true });
  if (options.signal?.aborted === true) onAbort();
  const timer =
    options.timeoutMs === undefined
      ? undefined
      : setTimeout(() => kill(new IoError("ERR_IO_COMMAND", `${shown}: did not end within ${options.timeoutMs} ms`)), options.timeoutMs);
  try {
    const { code, signal } = await new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (code, signal) => resolve({ code, signal }));
    });
    if (failure !== undefined) throw failure;
    const errorText = new TextDecoder().decode(Buffer.concat(stderr));
    if (code === null || !(options.okCodes ?? [0]).includes(code)) {
      throw new IoError("ERR_IO_COMMAND", `${shown}: ${code === null ? `killed by ${signal}` : `exit code ${code}`}${tail(errorText)}`, {
        details: { command, code: code ?? -1 },
      });
    }
    return { code, stdout: new Uint8Array(Buffer.concat(stdout)), stderr: errorText };
  } catch (cause) {
    if (cause instanceof IoError) throw cause;
    const missing = systemCode(cause) === "ENOENT";
    throw new IoError("ERR_IO_COMMAND", missing ? `${shown}: command or working directory not found` : `${shown}: ${messageOf(cause)}`, {
      cause,
      ...(missing ? { hint: `Install the package that has ${command}, or check PATH.` } : {}),
    });
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", onAbort);
  }
}

function tail(stderr: string): string {
  const text = stderr.trim();
  return text === "" ? "" : `: ${text.length > STDERR_IN_MESSAGE ? `…${text.slice(-STDERR_IN_MESSAGE)}` : text}`;
}
