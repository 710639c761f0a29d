import { fromAnyBase64, toBase64 } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { integerOf } from "../key/attributes.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions {
  readonly count: string;
}

/** `sealpod key random` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => {
  const count = integerOf("--count", options.count, 1, 128);
  const answer = await vault.call("POST", "/rng", { count });
  const { value } = answer;
  const bytes = typeof value === "string" ? fromAnyBase64(value, "value") : new Uint8Array();
  if (bytes.length !== count) throw new CliError("ERR_CLI_VAULT", `the vault gave ${bytes.length} random bytes instead of ${count}`);
  writeResult(options, context, answer, `${toBase64(bytes)}\n`);
  return EXIT.ok;
};

/** `sealpod key random`. */
export const run: Verb<Options> = vaultVerb(operation);
