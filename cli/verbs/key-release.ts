import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { readTokenText } from "../key/claims-input.ts";
import { keyPath, requireName, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions, NameOptions {
  readonly token: string;
  readonly enc?: string;
  readonly nonce?: string;
}

/** `sealpod key release` with its vault. What comes back only the TEE of the token can open. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const item = requireName(options, operands);
  const { enc, nonce } = options;
  const target = await readTokenText(options.token, context);
  const answer = await vault.call("POST", `${keyPath(item)}/release`, {
    target,
    ...(enc === undefined ? {} : { enc }),
    ...(nonce === undefined ? {} : { nonce }),
  });
  const { value } = answer;
  if (typeof value !== "string") throw new CliError("ERR_CLI_VAULT", `the release of ${item.name} has no value`);
  writeResult(options, context, answer, `${value}\n`);
  return EXIT.ok;
};

/** `sealpod key release`. */
export const run: Verb<Options> = vaultVerb(operation);
