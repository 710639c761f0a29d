import { asObject, encodeJson, isSealpodError, parseJson, type JsonObject } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { kbsVerb, type KbsOperation, type KbsOptions } from "../kbs/open-kbs.ts";
import type { Verb } from "../program.ts";
import { printable, writeJson } from "../rego/output.ts";

/** `sealpod kbs list-reference-values` with its key broker. */
export const operation: KbsOperation<KbsOptions> = async (kbs, options, _operands, context) => {
  const values = parseValues(await kbs.call("GET", "reference-value"), kbs.base);
  if (options.json === true) writeJson(context.stdout, values);
  else for (const name of Object.keys(values).sort()) context.stdout.write(`${printable(name)} = ${printable(encodeJson(values[name] ?? null))}\n`);
  return EXIT.ok;
};

function parseValues(text: string, base: string): JsonObject {
  try {
    const values = asObject(parseJson(text, "the answer"));
    if (values !== undefined) return values;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
  }
  throw new CliError("ERR_CLI_KBS", `${base} answered with something other than an object of reference values`);
}

/** `sealpod kbs list-reference-values`. */
export const run: Verb<KbsOptions> = kbsVerb(operation);
