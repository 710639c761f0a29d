import { EXIT } from "../context.ts";
import { requireVersionless, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import { prettyJson } from "../rego/json-text.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & NameOptions;

/** `sealpod key rotation-policy show` with its vault. What it prints `update` takes. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const policy = await vault.call("GET", `/keys/${requireVersionless(options, operands)}/rotationpolicy`);
  writeResult(options, context, policy, `${prettyJson(policy)}\n`);
  return EXIT.ok;
};

/** `sealpod key rotation-policy show`. */
export const run: Verb<Options> = vaultVerb(operation);
