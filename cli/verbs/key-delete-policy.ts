import { EXIT } from "../context.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import { principalOf, type PrincipalOptions } from "../key/principal.ts";
import type { Verb } from "../program.ts";

type Options = VaultOptions & PrincipalOptions;

/** `sealpod key delete-policy` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => {
  const { tenantId, objectId } = principalOf(options, vault.tenantId);
  const answer = await vault.call("DELETE", `/sealpod/access-policies/${encodeURIComponent(tenantId)}/${encodeURIComponent(objectId)}`);
  writeResult(options, context, answer, `${objectId} of tenant ${tenantId} has no access policy any more\n`);
  return EXIT.ok;
};

/** `sealpod key delete-policy`. */
export const run: Verb<Options> = vaultVerb(operation, "keyvault");
