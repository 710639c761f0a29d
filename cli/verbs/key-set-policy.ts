import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import { accessText, principalOf, type PrincipalOptions } from "../key/principal.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions, PrincipalOptions {
  readonly keyPermissions?: readonly string[];
  readonly secretPermissions?: readonly string[];
}

/** `sealpod key set-policy` with its vault: replaces the categories that are given, as `az keyvault set-policy` does. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => {
  const { keyPermissions, secretPermissions } = options;
  if (keyPermissions === undefined && secretPermissions === undefined) {
    throw new CliError("ERR_CLI_USAGE", "no permissions are given", {
      hint: "Give --key-permissions or --secret-permissions, e.g. --key-permissions get release",
    });
  }
  const permissions = {
    ...(keyPermissions === undefined ? {} : { keys: words(keyPermissions) }),
    ...(secretPermissions === undefined ? {} : { secrets: words(secretPermissions) }),
  };
  const answer = await vault.call("PUT", "/sealpod/access-policies", { ...principalOf(options, vault.tenantId), permissions });
  writeResult(options, context, answer, accessText(answer));
  return EXIT.ok;
};

/** `az` takes words, people write commas; `""` takes the category away. */
function words(permissions: readonly string[]): readonly string[] {
  return permissions.flatMap((item) => item.split(",")).filter((word) => word !== "");
}

/** `sealpod key set-policy`. */
export const run: Verb<Options> = vaultVerb(operation, "keyvault");
