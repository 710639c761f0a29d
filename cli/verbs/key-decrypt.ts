import { EXIT } from "../context.ts";
import { bytesOfValue, cipherMembers, cipherText, type CipherOptions } from "../key/cipher.ts";
import { keyPath, requireName, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & NameOptions & CipherOptions;

/** `sealpod key decrypt` with its vault; `--data-type` says how the plaintext is printed. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const item = requireName(options, operands);
  const body = cipherMembers(options, bytesOfValue(options.value, "base64"));
  const answer = await vault.call("POST", `${keyPath(item)}/decrypt`, body);
  writeResult(options, context, answer, cipherText(answer, options.dataType));
  return EXIT.ok;
};

/** `sealpod key decrypt`. */
export const run: Verb<Options> = vaultVerb(operation);
