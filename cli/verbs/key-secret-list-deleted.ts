import { EXIT } from "../context.ts";
import type { NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeList } from "../key/output.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & NameOptions;

/** `sealpod key secret list-deleted` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => {
  await writeList(options, context, vault.list("/deletedsecrets"), `no deleted secrets in ${vault.base}`);
  return EXIT.ok;
};

/** `sealpod key secret list-deleted`. */
export const run: Verb<Options> = vaultVerb(operation, "keyvault");
