import { asArray, parseJson } from "@sealpod/core";
import type { Queries, Row } from "@sealpod/storage";
import { badParameter, KeyvaultError } from "../errors.ts";
import { makeChange, type StoreContext } from "./change.ts";
import { MAX_ACCESS_POLICIES, MAX_ROLE_ASSIGNMENTS } from "./limits.ts";
import { integer, text } from "./row.ts";
import type { AccessPolicy, AuditLine, KeyPermission, Principal, RoleAssignment, SecretPermission } from "./types.ts";

/** Every {@link KeyPermission}, in the spelling that is stored. */
export const KEY_PERMISSIONS: readonly KeyPermission[] = [
  "get",
  "list",
  "create",
  "import",
  "update",
  "delete",
  "recover",
  "purge",
  "backup",
  "restore",
  "encrypt",
  "decrypt",
  "wrapKey",
  "unwrapKey",
  "sign",
  "verify",
  "release",
  "rotate",
  "getrotationpolicy",
  "setrotationpolicy",
];

/** Every {@link SecretPermission}. */
export const SECRET_PERMISSIONS: readonly SecretPermission[] = ["get", "list", "set", "delete", "recover", "purge", "backup", "restore"];

const POLICY = "SELECT * FROM vault_access_policies WHERE vault = ? AND tenant_id = ? AND principal = ?";
const POLICIES_OF = "SELECT * FROM vault_access_policies WHERE vault = ? AND tenant_id = ? AND principal IN (?, ?) ORDER BY principal";
const ROLES_OF = "SELECT * FROM vault_role_assignments WHERE vault = ? AND tenant_id = ? AND principal IN (?, ?) ORDER BY name";

/** See {@link VaultStore.setAccessPolicy}. */
export async function setAccessPolicy(
  context: StoreContext,
  vault: string,
  principal: Principal,
  permissions: { readonly keys?: readonly KeyPermission[]; readonly secrets?: readonly SecretPermission[] },
  audit: AuditLine,
): Promise<AccessPolicy> {
  const { tenantId, id } = requirePrincipal(principal);
  const given = {
    keys: permissions.keys === undefined ? undefined : canonical(permissions.keys, KEY_PERMISSIONS, "key"),
    secrets: permissions.secrets === undefined ? undefined : canonical(permissions.secrets, SECRET_PERMISSIONS, "secret"),
  };
  return makeChange(context, async (change) => {
    const row = await change.first(POLICY, [vault, tenantId, id]);
    const present = row === undefined ? undefined : accessPolicy(row);
    const policy: AccessPolicy = { tenantId, id, keys: given.keys ?? present?.keys ?? [], secrets: given.secrets ?? present?.secrets ?? [] };
    const values = [JSON.stringify(policy.keys), JSON.stringify(policy.secrets)];
    if (policy.keys.length === 0 && policy.secrets.length === 0) {
      await change.queries.run("DELETE FROM vault_access_policies WHERE vault = ? AND tenant_id = ? AND principal = ?", [vault, tenantId, id]);
    } else if (present === undefined) {
      const count = await change.first("SELECT count(*) AS count FROM vault_access_policies WHERE vault = ?", [vault]);
      if (count !== undefined && integer(count, "count") >= MAX_ACCESS_POLICIES) throw tooMany(vault, MAX_ACCESS_POLICIES, "access policies");
      const sql = "INSERT INTO vault_access_policies (keys, secrets, vault, tenant_id, principal) VALUES (?, ?, ?, ?, ?)";
      await change.queries.run(sql, [...values, vault, tenantId, id]);
    } else {
      const sql = "UPDATE vault_access_policies SET keys = ?, secrets = ? WHERE vault = ? AND tenant_id = ? AND principal = ?";
      await change.queries.run(sql, [...values, vault, tenantId, id]);
    }
    await change.audit(audit);
    return policy;
  });
}

/** The access policies of a vault, by tenant and principal. */
export async function accessPolicies(queries: Queries, vault: string): Promise<readonly AccessPolicy[]> {
  return (await queries.query("SELECT * FROM vault_access_policies WHERE vault = ? ORDER BY tenant_id, principal", [vault])).map(accessPolicy);
}

/** See {@link VaultStore.accessOf}. An id that is "" is nobody's: no policy and no role can have it. */
export async function accessOf(
  queries: Queries,
  vault: string,
  caller: { readonly tenantId: string; readonly appid: string; readonly oid: string },
): Promise<{ readonly policies: readonly AccessPolicy[]; readonly roles: readonly RoleAssignment[] }> {
  const parameters = [vault, caller.tenantId.toLowerCase(), caller.appid.toLowerCase(), caller.oid.toLowerCase()];
  const [policies, roles] = await Promise.all([queries.query(POLICIES_OF, parameters), queries.query(ROLES_OF, parameters)]);
  return { policies: policies.map(accessPolicy), roles: roles.map(roleAssignment) };
}

/** See {@link VaultStore.addRoleAssignment}. */
export async function addRoleAssignment(context: StoreContext, vault: string, assignment: RoleAssignment, audit: AuditLine): Promise<RoleAssignment> {
  const { tenantId, id } = requirePrincipal(assignment);
  const added: RoleAssignment = { tenantId, id, name: assignment.name.toLowerCase(), role: assignment.role.toLowerCase(), scope: assignment.scope };
  const scopeKey = added.scope.toLowerCase();
  return makeChange(context, async (change) => {
    const same = `SELECT name FROM vault_role_assignments
      WHERE vault = ? AND (name = ? OR (tenant_id = ? AND principal = ? AND role = ? AND scope_key = ?)) ORDER BY name LIMIT 1`;
    const present = await change.first(same, [vault, added.name, tenantId, id, added.role, scopeKey]);
    if (present !== undefined) {
      const problem = text(present, "name") === added.name ? "is there already" : `gives the same as ${text(present, "name")}`;
      throw new KeyvaultError("ERR_KEYVAULT_CONFLICT", `The role assignment ${added.name} ${problem}.`, { details: { inner: "RoleAssignmentExists" } });
    }
    const count = await change.first("SELECT count(*) AS count FROM vault_role_assignments WHERE vault = ?", [vault]);
    if (count !== undefined && integer(count, "count") >= MAX_ROLE_ASSIGNMENTS) throw tooMany(vault, MAX_ROLE_ASSIGNMENTS, "role assignments");
    const sql = "INSERT INTO vault_role_assignments (vault, name, tenant_id, principal, role, scope, scope_key) VALUES (?, ?, ?, ?, ?, ?, ?)";
    await change.queries.run(sql, [vault, added.name, tenantId, id, added.role, added.scope, scopeKey]);
    await change.audit(audit);
    return added;
  });
}

/** Takes a role assignment away; undefined if there is none. */
export async function removeRoleAssignment(context: StoreContext, vault: string, name: string, audit: AuditLine): Promise<RoleAssignment | undefined> {
  return makeChange(context, async (change) => {
    const parameters = [vault, name.toLowerCase()];
    const row = await change.first("SELECT * FROM vault_role_assignments WHERE vault = ? AND name = ?", parameters);
    if (row === undefined) return undefined;
    await change.queries.run("DELETE FROM vault_role_assignments WHERE vault = ? AND name = ?", parameters);
    await change.audit(audit);
    return roleAssignment(row);
  });
}

/** The role assignments of a vault, by name. */
export async function roleAssignments(queries: Queries, vault: string): Promise<readonly RoleAssignment[]> {
  return (await queries.query("SELECT * FROM vault_role_assignments WHERE vault = ? ORDER BY name", [vault])).map(roleAssignment);
}

function accessPolicy(row: Row): AccessPolicy {
  return {
    tenantId: text(row, "tenant_id"),
    id: text(row, "principal"),
    keys: asArray(parseJson(text(row, "keys"))) as readonly KeyPermission[],
    secrets: asArray(parseJson(text(row, "secrets"))) as readonly SecretPermission[],
  };
}

function roleAssignment(row: Row): RoleAssignment {
  return {
    name: text(row, "name"),
    tenantId: text(row, "tenant_id"),
    id: text(row, "principal"),
    role: text(row, "role"),
    scope: text(row, "scope"),
  };
}

/** An empty id would be that of every caller whose token has none. */
function requirePrincipal({ tenantId, id }: Principal): Principal {
  if (tenantId === "" || id === "" || /[^\x21-\x7e]/.test(tenantId + id))
    throw badParameter("A principal needs a tenant and an id of an application or object.");
  return { tenantId: tenantId.toLowerCase(), id: id.toLowerCase() };
}

function canonical<P extends string>(permissions: readonly P[], known: readonly P[], what: string): readonly P[] {
  const wanted = permissions.map((permission) => {
    const match = known.find((one) => one.toLowerCase() === permission.toLowerCase());
    if (match === undefined) throw badParameter(`${JSON.stringify(permission.slice(0, 40))} is no ${what} permission, expected ${known.join(", ")}.`);
    return match;
  });
  return known.filter((permission) => wanted.includes(permission));
}

function tooMany(vault: string, limit: number, what: string): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_LIMIT", `Vault ${vault} has ${limit} ${what}; there is no room for more.`, {
    hint: "Take away those that are not needed.",
  });
}
