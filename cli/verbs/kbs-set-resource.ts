import { EXIT } from "../context.ts";
import { kbsVerb, type KbsOperation, type KbsOptions } from "../kbs/open-kbs.ts";
import { parseResourcePath } from "../kbs/resource-path.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";
import { readBytes, readStdin } from "../workspace.ts";

interface Options extends KbsOptions {
  readonly path: string;
  /** `-` is standard input. */
  readonly resourceFile: string;
}

/** `sealpod kbs set-resource` with its key broker. The bytes are not printed back. */
export const operation: KbsOperation<Options> = async (kbs, options, _operands, context) => {
  const path = parseResourcePath(options.path);
  const bytes = options.resourceFile === "-" ? await readStdin(context) : await readBytes(options.resourceFile, context);
  await kbs.call("POST", `resource/${path}`, Uint8Array.from(bytes));
  if (options.json === true) writeJson(context.stdout, { uri: `kbs:///${path}`, bytes: bytes.length });
  else context.stdout.write(`kbs:///${path} has ${bytes.length} bytes\n`);
  return EXIT.ok;
};

/** `sealpod kbs set-resource`. */
export const run: Verb<Options> = kbsVerb(operation);
