import { asObject } from "@sealpod/core";
import { findRole, ROLES, type Role } from "../access-roles.ts";
import { scopeCovers } from "../access.ts";
import { badParameter, KeyvaultError } from "../errors.ts";
import type { JsonBody } from "../key-bundle.ts";
import { requiredText } from "../request-fields.ts";
import type { RoleAssignment } from "../store/types.ts";
import type { Exchange } from "./exchange.ts";
import type { Operation } from "./operation.ts";
import { ROLES_BASE, scopeInPath } from "./paths.ts";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const SCOPE = /^\/$|^\/(keys|secrets)(\/[0-9A-Za-z-]{1,127})?$/i;
const DEFINITIONS = "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions";

/** What a refusal of access is about before the scope is known to be one. */
function scopeOf(exchange: Exchange): string {
  return scopeInPath(exchange.context.req.raw) ?? "/";
}

/** Role assignments and definitions, at the paths of Managed HSM's own API, for every vault that decides by roles. Built-in roles alone. */
export const ROLE_OPERATIONS: readonly Operation[] = [
  {
    name: "access/assign-role",
    method: "PUT",
    paths: [`${ROLES_BASE}/roleassignments/:assignment`],
    need: { administratorOr: "roles/write" },
    scope: scopeOf,
    run: assign,
  },
  {
    name: "access/list-role-assignments",
    method: "GET",
    paths: [`${ROLES_BASE}/roleassignments`],
    need: { administratorOr: "roles/read" },
    scope: scopeOf,
    run: listAssignments,
  },
  {
    name: "access/get-role-assignment",
    method: "GET",
    paths: [`${ROLES_BASE}/roleassignments/:assignment`],
    need: { administratorOr: "roles/read" },
    scope: scopeOf,
    run: getAssignment,
  },
  {
    name: "access/remove-role-assignment",
    method: "DELETE",
    paths: [`${ROLES_BASE}/roleassignments/:assignment`],
    need: { administratorOr: "roles/delete" },
    scope: scopeOf,
    run: remove,
  },
  {
    name: "access/list-role-definitions",
    method: "GET",
    paths: [`${ROLES_BASE}/roledefinitions`],
    need: { administratorOr: "roles/definitions" },
    scope: scopeOf,
    run: listDefinitions,
  },
];

async function assign(exchange: Exchange): Promise<Response> {
  const { vault, caller, store } = exchange;
  const scope = requireScope(exchange);
  if (vault.access !== "roles") throw badParameter(`Vault ${vault.name} decides by access policies: roles mean nothing there. Set an access policy.`);
  const name = exchange.parameter("assignment");
  if (!UUID.test(name)) throw badParameter("The name of a role assignment must be a UUID.");
  const properties = asObject((await exchange.body())["properties"] ?? null);
  if (properties === undefined) throw badParameter("Property properties is missing or no object.");
  const role = findRole(vault.kind, requiredText(properties, "roleDefinitionId").split("/").at(-1) ?? "");
  if (role === undefined) throw badParameter(`Property roleDefinitionId names no role of a ${vault.kind === "vault" ? "vault" : "managed HSM"}.`);
  const id = requiredText(properties, "principalId");
  if (!UUID.test(id)) throw badParameter("Property principalId must be a UUID.");
  // Sealpod's own: the genuine service knows one tenant per HSM.
  const tenant = properties["tenantId"] ?? caller.tenantId;
  if (typeof tenant !== "string" || !UUID.test(tenant)) throw badParameter("Property tenantId must be a UUID.");
  exchange.note({ name: id.toLowerCase(), reason: `${role.name} in scope ${scope}` });
  const assignment = { name: name.toLowerCase(), tenantId: tenant.toLowerCase(), id: id.toLowerCase(), role: role.id, scope };
  return exchange.json(assignmentJson(await exchange.change((audit) => store.addRoleAssignment(vault.name, assignment, audit))), 201);
}

/** Those in the scope and below; with `atScope()` those that hold in it, which are in it or above; with `principalId eq '…'` those of one principal. */
async function listAssignments(exchange: Exchange): Promise<Response> {
  const scope = requireScope(exchange);
  const filter = exchange.query("$filter");
  const principal = /^principalId eq '?([0-9a-f-]{36})'?$/i.exec(filter ?? "")?.[1]?.toLowerCase();
  const atScope = filter?.toLowerCase() === "atscope()";
  if (filter !== null && filter !== "" && principal === undefined && !atScope) throw badParameter("$filter must be atScope() or principalId eq '{id}'.");
  const assignments = (await exchange.store.roleAssignments(exchange.vault.name)).filter(
    (assignment) =>
      (atScope ? scopeCovers(assignment.scope, scope) : scopeCovers(scope, assignment.scope)) && (principal === undefined || assignment.id === principal),
  );
  return exchange.json({ value: assignments.map(assignmentJson) });
}

async function getAssignment(exchange: Exchange): Promise<Response> {
  return exchange.json(assignmentJson(await requireAssignment(exchange)));
}

async function remove(exchange: Exchange): Promise<Response> {
  const { name, id, role, scope } = await requireAssignment(exchange);
  exchange.note({ name: id, reason: `${findRole(exchange.vault.kind, role)?.name ?? role} in scope ${scope}` });
  const removed = await exchange.change((audit) => exchange.store.removeRoleAssignment(exchange.vault.name, name, audit));
  if (removed === undefined) throw assignmentNotFound();
  return exchange.json(assignmentJson(removed));
}

async function listDefinitions(exchange: Exchange): Promise<Response> {
  requireScope(exchange);
  return exchange.json({ value: ROLES.filter(({ kind }) => kind === exchange.vault.kind).map(definitionJson) });
}

/** Scope and name must fit: who may only act in one scope names no assignment of another. */
async function requireAssignment(exchange: Exchange): Promise<RoleAssignment> {
  const scope = requireScope(exchange).toLowerCase();
  const name = exchange.parameter("assignment").toLowerCase();
  const found = (await exchange.store.roleAssignments(exchange.vault.name)).find(
    (assignment) => assignment.name === name && assignment.scope.toLowerCase() === scope,
  );
  if (found === undefined) throw assignmentNotFound();
  exchange.note({ name: found.id });
  return found;
}

function assignmentNotFound(): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", "There is no role assignment of this name in this scope.", {
    details: { inner: "RoleAssignmentNotFound" },
  });
}

function requireScope(exchange: Exchange): string {
  const scope = scopeOf(exchange);
  if (!SCOPE.test(scope)) throw badParameter("The scope must be /, /keys, /keys/{name}, /secrets or /secrets/{name}.");
  return scope;
}

function assignmentJson({ name, id, role, scope, tenantId }: RoleAssignment): JsonBody {
  return {
    id: `${scope === "/" ? "" : scope}/providers/Microsoft.Authorization/roleAssignments/${name}`,
    name,
    type: "Microsoft.Authorization/roleAssignments",
    properties: { principalId: id, roleDefinitionId: `${DEFINITIONS}/${role}`, scope, tenantId },
  };
}

function definitionJson(role: Role): JsonBody {
  return {
    id: `${DEFINITIONS}/${role.id}`,
    name: role.id,
    type: "Microsoft.Authorization/roleDefinitions",
    properties: {
      roleName: role.name,
      description: role.description,
      type: "AKVBuiltInRole",
      assignableScopes: ["/"],
      permissions: [{ actions: [], notActions: [], dataActions: role.dataActions, notDataActions: [] }],
    },
  };
}
