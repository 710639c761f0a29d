import { spawn, type ChildProcess } from "node:child_process";
import { constants } from "node:os";
import { AgentError } from "./errors.ts";

/** The whole environment of every program the agent runs; nothing of its own goes along. No udev runs in the guest: dmsetup would wait for it. */
const ENVIRONMENT = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C", DM_DISABLE_UDEV: "1" };
/** Most text of a failed program that goes into an error. */
const MAX_COMPLAINT = 2048;

/** Most output of a program: a guest with some thousands of routes needs no more, and one that writes without end must not fill the memory. */
const MAX_OUTPUT_BYTES = 4 * 1024 * 1024;

/** Starts a program, without a shell, with these descriptors as its first. */
export function start(program: string, args: readonly string[], stdio: readonly number[]): ChildProcess {
  return spawn(program, args, { cwd: "/", env: ENVIRONMENT, stdio: [...stdio] });
}

/** Exit status of a program, 128+n after signal n, 127 if it could not be started. */
export async function exitOf(child: ChildProcess): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  child.once("error", () => resolve(127));
  child.once("exit", (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
  return promise;
}

/**
 * Runs a program to its end.
 * @param input what it reads from standard input: the place for secrets, which every process can read from the arguments of another
 * @throws {AgentError} ERR_AGENT_COMMAND with what it wrote to standard error, if its status is not 0
 */
export async function run(program: string, args: readonly string[], cwd = "/", input: string | Uint8Array = ""): Promise<void> {
  await toEnd(program, args, { cwd, input });
}

/**
 * Runs a program to its end, with text as its input, and gives what it wrote.
 * @throws {AgentError} ERR_AGENT_COMMAND if its status is not 0, or it wrote more than 4 MiB
 */
export async function outputOf(program: string, args: readonly string[], input = ""): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  const take = (chunk: Buffer, child: ChildProcess): void => {
    length += chunk.length;
    if (length <= MAX_OUTPUT_BYTES) chunks.push(chunk);
    else child.kill("SIGKILL");
  };
  const refuse = (): string | undefined => (length > MAX_OUTPUT_BYTES ? `wrote more than ${MAX_OUTPUT_BYTES} bytes` : undefined);
  await toEnd(program, args, { cwd: "/", input, take, refuse });
  return Buffer.concat(chunks).toString("utf8");
}

interface Run {
  readonly cwd: string;
  readonly input: string | Uint8Array;
  /** Gets standard output; without it that is thrown away. */
  readonly take?: (chunk: Buffer, child: ChildProcess) => void;
  /** What is wrong with what came, whatever the status says. */
  readonly refuse?: () => string | undefined;
}

async function toEnd(program: string, args: readonly string[], { cwd, input, take, refuse }: Run): Promise<void> {
  const child = spawn(program, args, { cwd, env: ENVIRONMENT, stdio: "pipe" });
  // A program that ends before it has read everything tells by its status.
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  if (take === undefined) child.stdout.resume();
  else child.stdout.on("data", (chunk: Buffer) => take(chunk, child));
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    if (complaint.length < MAX_COMPLAINT) complaint += text;
  });
  const closed = new Promise((resolve) => child.once("close", resolve));
  const status = await exitOf(child);
  const failed = (what: string, details: { readonly program: string; readonly status?: number }): AgentError =>
    new AgentError("ERR_AGENT_COMMAND", `${program} ${what}`, { details });
  // Without a status: whoever asks for it wants to know whether the program is there.
  if (status === 127) throw failed("could not be started", { program });
  await closed;
  const problem = refuse?.();
  if (problem !== undefined) throw failed(problem, { program, status });
  if (status !== 0) throw failed(`failed with status ${status}: ${complaint.slice(0, MAX_COMPLAINT).trim()}`, { program, status });
}
