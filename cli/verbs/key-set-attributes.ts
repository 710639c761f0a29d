import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { attributesOf, operationsOf, tagsOf, type AttributeOptions } from "../key/attributes.ts";
import { keyPath, requireName, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { keyText, writeResult } from "../key/output.ts";
import { policyMember, type PolicyOptions } from "../key/policy-input.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions, NameOptions, AttributeOptions, PolicyOptions {
  readonly ops?: readonly string[];
}

/** `sealpod key set-attributes` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const item = requireName(options, operands);
  if (options.policy !== undefined && item.version !== undefined) {
    throw new CliError("ERR_CLI_USAGE", "--policy is given for a version: a release policy is set on the key", {
      hint: `Name the key ${item.name} without a version.`,
    });
  }
  const attributes = attributesOf(options);
  const body = {
    ...(Object.keys(attributes).length === 0 ? {} : { attributes }),
    ...operationsOf(options.ops),
    ...tagsOf(options.tags),
    ...(await policyMember(options, context)),
  };
  if (Object.keys(body).length === 0) {
    throw new CliError("ERR_CLI_USAGE", "nothing is given that would change", { hint: "Give --enabled, --expires, --not-before, --ops, --tags or --policy." });
  }
  const bundle = await vault.call("PATCH", keyPath(item), body);
  writeResult(options, context, bundle, keyText(bundle));
  return EXIT.ok;
};

/** `sealpod key set-attributes`. */
export const run: Verb<Options> = vaultVerb(operation);
