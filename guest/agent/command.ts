import { spawn, type ChildProcess } from "node:child_process";
import { constants } from "node:os";
import { AgentError } from "./errors.ts";

/** The whole environment of every program the agent runs; nothing of its own goes along. No udev runs in the guest: dmsetup would wait for it. */
const ENVIRONMENT = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C", DM_DISABLE_UDEV: "1" };
/** Most text of a failed program that goes into an error. */
const MAX_COMPLAINT = 2048;

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
  const child = spawn(program, args, { cwd, env: ENVIRONMENT, stdio: "pipe" });
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  child.stdout.resume();
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    if (complaint.length < MAX_COMPLAINT) complaint += text;
  });
  const closed = new Promise((resolve) => child.once("close", resolve));
  const status = await exitOf(child);
  if (status === 127) throw new AgentError("ERR_AGENT_COMMAND", `${program} could not be started`, { details: { program } });
  await closed;
  if (status !== 0) {
    throw new AgentError("ERR_AGENT_COMMAND", `${program} failed with status ${status}: ${complaint.slice(0, MAX_COMPLAINT).trim()}`, {
      details: { program, status },
    });
  }
}
