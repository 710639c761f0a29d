import { EXIT } from "../context.ts";
import type { NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeList } from "../key/output.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & NameOptions;

/** `sealpod key list-deleted` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => {
  await writeList(options, context, vault.list("/deletedkeys"), `no deleted keys in ${vault.base}`);
  return EXIT.ok;
};

/** `sealpod key list-deleted`. */
export const run: Verb<Options> = vaultVerb(operation);
