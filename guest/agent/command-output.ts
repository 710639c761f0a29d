import { spawn } from "node:child_process";
import { exitOf } from "./command.ts";
import { AgentError } from "./errors.ts";

/** Most output of a program: a guest with some thousands of routes needs no more, and one that writes without end must not fill the memory. */
const MAX_OUTPUT_BYTES = 4 * 1024 * 1024;
/** Most text of a failed program that goes into an error. */
const MAX_COMPLAINT = 2048;

/** The whole environment: as for every program of the agent. */
const ENVIRONMENT = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" };

/**
 * Runs a program to its end, with text as its input, and gives what it wrote. No shell is involved.
 * @throws {AgentError} ERR_AGENT_COMMAND if its status is not 0, or it wrote more than 4 MiB
 */
export async function outputOf(program: string, args: readonly string[], input = ""): Promise<string> {
  const child = spawn(program, args, { cwd: "/", env: ENVIRONMENT, stdio: "pipe" });
  const chunks: Buffer[] = [];
  let length = 0;
  let complaint = "";
  child.stdout.on("data", (chunk: Buffer) => {
    length += chunk.length;
    if (length <= MAX_OUTPUT_BYTES) chunks.push(chunk);
    else child.kill("SIGKILL");
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    if (complaint.length < MAX_COMPLAINT) complaint += text;
  });
  // A program that ends before it has read everything tells by its status.
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  const closed = new Promise((resolve) => child.once("close", resolve));
  const status = await exitOf(child);
  const details = { program, status };
  if (status === 127) throw new AgentError("ERR_AGENT_COMMAND", `${program} could not be started`, { details });
  await closed;
  if (length > MAX_OUTPUT_BYTES) throw new AgentError("ERR_AGENT_COMMAND", `${program} wrote more than ${MAX_OUTPUT_BYTES} bytes`, { details });
  if (status !== 0) {
    throw new AgentError("ERR_AGENT_COMMAND", `${program} failed with status ${status}: ${complaint.slice(0, MAX_COMPLAINT).trim()}`, { details });
  }
  return Buffer.concat(chunks).toString("utf8");
}
