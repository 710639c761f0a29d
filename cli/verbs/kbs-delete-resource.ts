import { EXIT } from "../context.ts";
import { kbsVerb, type KbsOperation, type KbsOptions } from "../kbs/open-kbs.ts";
import { parseResourcePath } from "../kbs/resource-path.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";

interface Options extends KbsOptions {
  readonly path: string;
}

/** `sealpod kbs delete-resource` with its key broker. */
export const operation: KbsOperation<Options> = async (kbs, options, _operands, context) => {
  const path = parseResourcePath(options.path);
  await kbs.call("DELETE", `resource/${path}`);
  if (options.json === true) writeJson(context.stdout, { uri: `kbs:///${path}` });
  else context.stdout.write(`kbs:///${path} is deleted\n`);
  return EXIT.ok;
};

/** `sealpod kbs delete-resource`. */
export const run: Verb<Options> = kbsVerb(operation);
