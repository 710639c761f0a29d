import { toBase64url } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { secretText, writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";
import { readBytes } from "../workspace.ts";

interface Options extends VaultOptions {
  readonly file: string;
}

/** `sealpod key secret restore` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => {
  const bundle = await vault.call("POST", "/secrets/restore", { value: toBase64url(await readBytes(options.file, context)) });
  writeResult(options, context, bundle, secretText(bundle));
  return EXIT.ok;
};

/** `sealpod key secret restore`. */
export const run: Verb<Options> = vaultVerb(operation, "keyvault");
