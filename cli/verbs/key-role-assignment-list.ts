import { EXIT } from "../context.ts";
import type { JsonObject } from "@sealpod/core";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import { assignmentText, rolePath, rolesOf } from "../key/roles.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions {
  readonly scope: string;
}

/** `sealpod key role-assignment list` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => {
  const assignments: JsonObject[] = [];
  for await (const item of vault.list(rolePath(options.scope, "roleAssignments"))) assignments.push(item);
  const roles = options.json === true || assignments.length === 0 ? [] : await rolesOf(vault);
  if (assignments.length === 0 && options.json !== true) context.stderr.write(`no role assignments of scope ${options.scope} in ${vault.base}\n`);
  writeResult(options, context, assignments, assignments.map((item) => assignmentText(item, roles)).join(""));
  return EXIT.ok;
};

/** `sealpod key role-assignment list`. */
export const run: Verb<Options> = vaultVerb(operation);
