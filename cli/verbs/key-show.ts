import { EXIT } from "../context.ts";
import { keyPath, requireName, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { keyText, writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions, NameOptions {
  readonly deleted?: boolean;
}

/** `sealpod key show` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const item = requireName(options, operands);
  const bundle = await vault.call("GET", options.deleted === true ? `/deletedkeys/${item.name}` : keyPath(item));
  writeResult(options, context, bundle, keyText(bundle));
  return EXIT.ok;
};

/** `sealpod key show`. */
export const run: Verb<Options> = vaultVerb(operation);
