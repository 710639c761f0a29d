import { join } from "node:path";
import { findPod, PodClient } from "@sealpod/pod";
import { toBase64 } from "@sealpod/core";
import type { Verb } from "../program.ts";
import { stateOf } from "../workspace.ts";

interface ExecOptions {
  readonly container?: string;
}

/** `sealpod exec`. The exit code is the command's. */
export const run: Verb<ExecOptions> = async (options, operands, context) => {
  const [pod = "", ...command] = operands;
  const client = new PodClient(await findPod(join(stateOf(options, context), "run"), pod));
  const result = await client.exec(options.container, command);
  if (options.json === true) {
    context.stdout.write(`${JSON.stringify({ exitCode: result.exitCode, stdout: toBase64(result.stdout), stderr: toBase64(result.stderr) })}\n`);
    return result.exitCode;
  }
  context.stdout.write(Buffer.from(result.stdout).toString("utf8"));
  context.stderr.write(Buffer.from(result.stderr).toString("utf8"));
  return result.exitCode;
};
