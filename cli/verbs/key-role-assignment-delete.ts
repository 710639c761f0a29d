import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import { rolePath } from "../key/roles.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions {
  readonly scope: string;
}

/** `sealpod key role-assignment delete` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, [id = ""], context) => {
  // A full id is its scope, the provider and its name.
  const [, scope = options.scope, name = id] = /^(\/?.*)\/providers\/Microsoft\.Authorization\/roleAssignments\/([^/]+)$/i.exec(id) ?? [];
  if (!/^[0-9a-fA-F-]{36}$/.test(name)) {
    throw new CliError("ERR_CLI_USAGE", `${JSON.stringify(id.slice(0, 200))} is no name of a role assignment`, {
      hint: "Expected the UUID that `role-assignment list` shows.",
    });
  }
  const answer = await vault.call("DELETE", rolePath(scope === "" ? "/" : scope, "roleAssignments", name));
  writeResult(options, context, answer, `${name} is gone\n`);
  return EXIT.ok;
};

/** `sealpod key role-assignment delete`. */
export const run: Verb<Options> = vaultVerb(operation);
