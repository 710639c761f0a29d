import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { requireName, secretPath, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { secretText, writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions, NameOptions {
  readonly reveal?: boolean;
}

/** `sealpod key secret show` with its vault. The value is printed only if it is asked for: alone, and with `--json` among the rest. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const item = requireName(options, operands);
  const { value, ...bundle } = await vault.call("GET", secretPath(item));
  if (options.reveal !== true) writeResult(options, context, bundle, secretText(bundle));
  else if (typeof value !== "string") throw new CliError("ERR_CLI_VAULT", `the vault gave no value for secret ${item.name}`);
  // As it is, without a line break of ours: it may be a password that goes into a pipe.
  else writeResult(options, context, { ...bundle, value }, value);
  return EXIT.ok;
};

/** `sealpod key secret show`. */
export const run: Verb<Options> = vaultVerb(operation, "keyvault");
