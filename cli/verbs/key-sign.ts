import { EXIT } from "../context.ts";
import { digestOf, cipherText, type SignatureOptions } from "../key/cipher.ts";
import { keyPath, requireName, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & NameOptions & SignatureOptions;

/** `sealpod key sign` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const item = requireName(options, operands);
  const answer = await vault.call("POST", `${keyPath(item)}/sign`, { alg: options.algorithm, value: await digestOf(options, context) });
  writeResult(options, context, answer, cipherText(answer, "base64"));
  return EXIT.ok;
};

/** `sealpod key sign`. */
export const run: Verb<Options> = vaultVerb(operation);
