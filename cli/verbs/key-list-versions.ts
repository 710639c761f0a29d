import { EXIT } from "../context.ts";
import { requireVersionless, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeList } from "../key/output.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & NameOptions;

/** `sealpod key list-versions` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const name = requireVersionless(options, operands);
  // A vault answers an empty list for a name that it does not know.
  await writeList(
    options,
    context,
    vault.list(`/keys/${name}/versions`),
    `no versions of ${name} in ${vault.base}: is the name right? sealpod key list shows them all`,
  );
  return EXIT.ok;
};

/** `sealpod key list-versions`. */
export const run: Verb<Options> = vaultVerb(operation);
