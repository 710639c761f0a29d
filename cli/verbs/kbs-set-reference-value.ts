import { asArray, asObject, encodeJson, encodeUtf8, isSealpodError, parseJson, toBase64, type JsonValue } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { kbsVerb, type KbsOperation, type KbsOptions } from "../kbs/open-kbs.ts";
import type { Verb } from "../program.ts";
import { printable, writeJson } from "../rego/output.ts";

/** `sealpod kbs set-reference-value` with its key broker. */
export const operation: KbsOperation<KbsOptions> = async (kbs, options, [name = "", text = ""], context) => {
  const value = parseValue(name, text);
  // The message that CoCo's tool sends, which older key brokers take as well.
  await kbs.call("POST", "reference-value", { version: "0.1.0", type: "sample", payload: toBase64(encodeUtf8(encodeJson({ [name]: value }))) });
  if (options.json === true) writeJson(context.stdout, { [name]: value });
  else context.stdout.write(`${printable(name)} = ${printable(encodeJson(value))}\n`);
  return EXIT.ok;
};

/** Policies ask whether what they find is among the values: a single one is a list of one, as CoCo's tool makes it. */
function parseValue(name: string, text: string): JsonValue {
  try {
    const value = parseJson(text, "the value");
    return asArray(value) === undefined && asObject(value) === undefined ? [value] : value;
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw new CliError("ERR_CLI_USAGE", `the value of ${JSON.stringify(name.slice(0, 100))} is no JSON: ${cause.message}`, {
      cause,
      hint: `Text has quotes, which the shell must leave: '${/^[\w.:/-]{1,128}$/.test(text) ? `["${text}"]` : '["TEXT"]'}'`,
    });
  }
}

/** `sealpod kbs set-reference-value`. */
export const run: Verb<KbsOptions> = kbsVerb(operation);
