import { asArray, asObject, type JsonObject } from "@sealpod/core";
import { CliError } from "../errors.ts";
import { shown } from "./output.ts";
import type { Vault } from "./vault-client.ts";

/** Scopes of Managed HSM: everything, all keys, one key; the same for secrets. */
const SCOPE = /^\/(?:(?:keys|secrets)(?:\/[0-9A-Za-z-]{1,127})?)?$/;
const PROVIDER = "/providers/Microsoft.Authorization";

/** Path of role assignments or definitions in a scope. @throws {CliError} ERR_CLI_USAGE */
export function rolePath(scope: string, what: "roleAssignments" | "roleDefinitions", name?: string): string {
  if (!SCOPE.test(scope)) {
    throw new CliError("ERR_CLI_USAGE", `--scope ${JSON.stringify(scope.slice(0, 200))} is no scope`, {
      hint: "Expected /, /keys, /keys/NAME, /secrets or /secrets/NAME.",
    });
  }
  return `${scope === "/" ? "" : scope}${PROVIDER}/${what}${name === undefined ? "" : `/${encodeURIComponent(name)}`}`;
}

/** A role of a vault. */
export interface Role {
  /** UUID. */
  readonly name: string;
  /** E.g. `Managed HSM Crypto User`. */
  readonly roleName: string;
  /** Full id, as assignments name it. */
  readonly id: string;
}

/** The roles that a vault has. */
export async function rolesOf(vault: Vault): Promise<readonly Role[]> {
  const { value } = await vault.call("GET", rolePath("/", "roleDefinitions"));
  return (asArray(value) ?? []).flatMap((item) => {
    const role = asObject(item) ?? {};
    const { name, id } = role;
    const roleName = asObject(role["properties"])?.["roleName"] ?? role["roleName"];
    return typeof name === "string" && typeof roleName === "string" ? [{ name, roleName, id: typeof id === "string" ? id : name }] : [];
  });
}

/**
 * A role by its name, in any letter case, or its UUID.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function findRole(roles: readonly Role[], wanted: string): Role {
  const text = wanted.toLowerCase();
  const role = roles.find(({ name, roleName }) => name.toLowerCase() === text || roleName.toLowerCase() === text);
  if (role !== undefined) return role;
  throw new CliError("ERR_CLI_USAGE", `--role ${JSON.stringify(wanted.slice(0, 200))} is no role of this vault`, {
    hint: `It has: ${roles
      .map(({ roleName }) => roleName)
      .join(", ")
      .slice(0, 2000)}.`,
  });
}

/** A role assignment in a line. */
export function assignmentText(assignment: JsonObject, roles: readonly Role[]): string {
  const { principalId, roleDefinitionId, scope } = asObject(assignment["properties"]) ?? {};
  const id = typeof roleDefinitionId === "string" ? roleDefinitionId.slice(roleDefinitionId.lastIndexOf("/") + 1) : "";
  const role = roles.find(({ name }) => name.toLowerCase() === id.toLowerCase())?.roleName ?? id;
  return `${shown(assignment["name"])}  ${shown(role)} for ${shown(principalId)} in ${shown(scope)}\n`;
}
