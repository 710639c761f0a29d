import { asArray, asObject } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import { accessText } from "../key/principal.ts";
import type { Verb } from "../program.ts";

/** `sealpod key list-policies` with its vault. */
export const operation: VaultOperation<VaultOptions> = async (vault, options, _operands, context) => {
  const { value } = await vault.call("GET", "/sealpod/access-policies");
  const policies = (asArray(value) ?? []).map((item) => asObject(item) ?? {});
  if (policies.length === 0 && options.json !== true) context.stderr.write(`no access policies in ${vault.base}\n`);
  writeResult(options, context, policies, policies.map(accessText).join(""));
  return EXIT.ok;
};

/** `sealpod key list-policies`. */
export const run: Verb<VaultOptions> = vaultVerb(operation, "keyvault");
