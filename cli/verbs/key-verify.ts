import { toBase64url } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { bytesOfValue, digestOf, type SignatureOptions } from "../key/cipher.ts";
import { keyPath, requireName, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions, NameOptions, SignatureOptions {
  readonly signature: string;
}

/** `sealpod key verify` with its vault; 3 for a signature that is not the key's. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const item = requireName(options, operands);
  const signature = toBase64url(bytesOfValue(options.signature, "base64", "--signature"));
  const answer = await vault.call("POST", `${keyPath(item)}/verify`, { alg: options.algorithm, digest: await digestOf(options, context), value: signature });
  const { value } = answer;
  if (typeof value !== "boolean") throw new CliError("ERR_CLI_VAULT", "the vault's answer does not say whether the signature is the key's");
  writeResult(options, context, answer, value ? "the signature is the key's\n" : "the signature is NOT the key's\n");
  return value ? EXIT.ok : EXIT.refused;
};

/** `sealpod key verify`. */
export const run: Verb<Options> = vaultVerb(operation);
