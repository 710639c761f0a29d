import { EXIT } from "../context.ts";
import { requireVersionless, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & NameOptions;

/** `sealpod key secret purge` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const name = requireVersionless(options, operands);
  await vault.call("DELETE", `/deletedsecrets/${name}`);
  writeResult(options, context, { purged: name }, `${name} is gone for good\n`);
  return EXIT.ok;
};

/** `sealpod key secret purge`. */
export const run: Verb<Options> = vaultVerb(operation, "keyvault");
