import { newUuid } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { writeResult } from "../key/output.ts";
import { assignmentText, findRole, rolePath, rolesOf } from "../key/roles.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions {
  readonly role: string;
  readonly assignee?: string;
  readonly assigneeObjectId?: string;
  readonly scope: string;
}

/** `sealpod key role-assignment create` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, _operands, context) => {
  const principalId = options.assignee ?? options.assigneeObjectId;
  if (principalId === undefined || (options.assignee !== undefined && options.assigneeObjectId !== undefined)) {
    throw new CliError("ERR_CLI_USAGE", principalId === undefined ? "no principal is given" : "--assignee and --assignee-object-id are two principals", {
      hint: "Give --assignee CLIENT_ID of an application or managed identity, or --assignee-object-id ID.",
    });
  }
  const path = rolePath(options.scope, "roleAssignments", newUuid(context.random));
  const roles = await rolesOf(vault);
  const role = findRole(roles, options.role);
  const answer = await vault.call("PUT", path, { properties: { roleDefinitionId: role.id, principalId } });
  writeResult(options, context, answer, assignmentText(answer, roles));
  return EXIT.ok;
};

/** `sealpod key role-assignment create`. */
export const run: Verb<Options> = vaultVerb(operation);
