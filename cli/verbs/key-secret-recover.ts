import { EXIT } from "../context.ts";
import { requireVersionless, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { secretText, writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & NameOptions;

/** `sealpod key secret recover` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const bundle = await vault.call("POST", `/deletedsecrets/${requireVersionless(options, operands)}/recover`);
  writeResult(options, context, bundle, secretText(bundle));
  return EXIT.ok;
};

/** `sealpod key secret recover`. */
export const run: Verb<Options> = vaultVerb(operation, "keyvault");
