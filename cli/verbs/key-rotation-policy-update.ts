import { asArray, asObject, parseJson } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { requireVersionless, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import { prettyJson } from "../rego/json-text.ts";
import type { Verb } from "../program.ts";
import { readText } from "../workspace.ts";

interface Options extends VaultOptions, NameOptions {
  readonly value: string;
}

/** `sealpod key rotation-policy update` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const name = requireVersionless(options, operands);
  const { text } = await readText(options.value, context);
  const { lifetimeActions, attributes, ...others } = asObject(parseJson(text, options.value)) ?? {};
  if (asArray(lifetimeActions) === undefined) {
    throw new CliError("ERR_CLI_FILE", `${options.value} is not a rotation policy: it has no list lifetimeActions`, {
      hint: '{"lifetimeActions": [{"trigger": {"timeAfterCreate": "P90D"}, "action": {"type": "Rotate"}}], "attributes": {"expiryTime": "P2Y"}}',
    });
  }
  const [other] = Object.keys(others).filter((member) => member !== "id");
  if (other !== undefined)
    throw new CliError("ERR_CLI_FILE", `${options.value} has ${JSON.stringify(other.slice(0, 100))}, which rotation policies do not have`);
  // The dates are the vault's, so that what `show` printed can be sent back.
  const { expiryTime } = asObject(attributes) ?? {};
  const body = { lifetimeActions: lifetimeActions ?? [], attributes: expiryTime === undefined ? {} : { expiryTime } };
  const policy = await vault.call("PUT", `/keys/${name}/rotationpolicy`, body);
  writeResult(options, context, policy, `${prettyJson(policy)}\n`);
  return EXIT.ok;
};

/** `sealpod key rotation-policy update`. */
export const run: Verb<Options> = vaultVerb(operation);
