import { join } from "node:path";
import { findPod, PodClient } from "@sealpod/pod";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { stateOf } from "../workspace.ts";

/** `sealpod stop`. */
export const run: Verb<object> = async (options, operands, context) => {
  const record = await findPod(join(stateOf(options, context), "run"), operands[0] ?? "");
  await new PodClient(record).stop();
  context.stdout.write(options.json === true ? `${JSON.stringify({ stopping: record.name })}\n` : `stopping pod ${record.name}\n`);
  return EXIT.ok;
};
