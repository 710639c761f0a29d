import { join } from "node:path";
import { findPod, PodClient } from "@sealpod/pod";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { stateOf } from "../workspace.ts";

interface LogsOptions {
  readonly container?: string;
}

/** `sealpod logs`. */
export const run: Verb<LogsOptions> = async (options, operands, context) => {
  const client = new PodClient(await findPod(join(stateOf(options, context), "run"), operands[0] ?? ""));
  const text = Buffer.from(await client.logs(options.container)).toString("utf8");
  context.stdout.write(options.json === true ? `${JSON.stringify({ output: text })}\n` : text);
  return EXIT.ok;
};
