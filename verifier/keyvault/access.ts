import type { Caller } from "./bearer.ts";
import { findRole, roleAllows } from "./access-roles.ts";
import { KeyvaultError } from "./errors.ts";
import type { VaultKind } from "./key-request.ts";
import type { AccessPolicy, KeyPermission, Principal, RoleAssignment, SecretPermission, VaultStore } from "./store/types.ts";

/** How a vault decides: by access policies, or by roles in scopes. */
export type AccessModel = "policies" | "roles";

/** A permission that operations need, in the words of both models and both kinds of vault. */
export interface Action {
  /** Permission of an access policy; undefined if there is none, because only managed HSMs have the operation. */
  readonly policy:
    | { readonly category: "keys"; readonly permission: KeyPermission }
    | { readonly category: "secrets"; readonly permission: SecretPermission }
    | undefined;
  /** Data action of a role; undefined if vaults (or managed HSMs) do not have the operation. */
  readonly vault: string | undefined;
  readonly managedhsm: string | undefined;
}

const key = (permission: KeyPermission, vault: string, hsm: string): Action => ({
  policy: { category: "keys", permission },
  vault: `Microsoft.KeyVault/vaults/${vault}`,
  managedhsm: `Microsoft.KeyVault/managedHsm/${hsm}`,
});
const secret = (permission: SecretPermission, vault: string): Action => ({
  policy: { category: "secrets", permission },
  vault: `Microsoft.KeyVault/vaults/secrets/${vault}`,
  managedhsm: undefined,
});
const hsmOnly = (action: string): Action => ({ policy: undefined, vault: undefined, managedhsm: `Microsoft.KeyVault/managedHsm/${action}` });

/** Name of an {@link Action}. */
export type ActionName =
  | "keys/get"
  | "keys/list"
  | "keys/create"
  | "keys/import"
  | "keys/update"
  | "keys/delete"
  | "keys/get-deleted"
  | "keys/list-deleted"
  | "keys/recover"
  | "keys/purge"
  | "keys/backup"
  | "keys/restore"
  | "keys/encrypt"
  | "keys/decrypt"
  | "keys/wrapkey"
  | "keys/unwrapkey"
  | "keys/sign"
  | "keys/verify"
  | "keys/release"
  | "keys/rotate"
  | "keys/get-rotation-policy"
  | "keys/set-rotation-policy"
  | "rng"
  | "secrets/get"
  | "secrets/list"
  | "secrets/set"
  | "secrets/update"
  | "secrets/delete"
  | "secrets/get-deleted"
  | "secrets/recover"
  | "secrets/purge"
  | "secrets/backup"
  | "secrets/restore"
  | "roles/read"
  | "roles/write"
  | "roles/delete"
  | "roles/definitions";

/** Every {@link Action}, by the name of the operation that is typical for it. */
export const ACTIONS: Readonly<Record<ActionName, Action>> = {
  "keys/get": key("get", "keys/read", "keys/read/action"),
  "keys/list": key("list", "keys/read", "keys/read/action"),
  "keys/create": key("create", "keys/create/action", "keys/create"),
  "keys/import": key("import", "keys/import/action", "keys/import/action"),
  "keys/update": key("update", "keys/update/action", "keys/write/action"),
  "keys/delete": key("delete", "keys/delete", "keys/delete"),
  "keys/get-deleted": key("get", "keys/read", "keys/deletedKeys/read/action"),
  "keys/list-deleted": key("list", "keys/read", "keys/deletedKeys/read/action"),
  "keys/recover": key("recover", "keys/recover/action", "keys/deletedKeys/recover/action"),
  "keys/purge": key("purge", "keys/purge/action", "keys/deletedKeys/delete"),
  "keys/backup": key("backup", "keys/backup/action", "keys/backup/action"),
  "keys/restore": key("restore", "keys/restore/action", "keys/restore/action"),
  "keys/encrypt": key("encrypt", "keys/encrypt/action", "keys/encrypt/action"),
  "keys/decrypt": key("decrypt", "keys/decrypt/action", "keys/decrypt/action"),
  "keys/wrapkey": key("wrapKey", "keys/wrap/action", "keys/wrap/action"),
  "keys/unwrapkey": key("unwrapKey", "keys/unwrap/action", "keys/unwrap/action"),
  "keys/sign": key("sign", "keys/sign/action", "keys/sign/action"),
  "keys/verify": key("verify", "keys/verify/action", "keys/verify/action"),
  "keys/release": key("release", "keys/release/action", "keys/release/action"),
  "keys/rotate": key("rotate", "keys/rotate/action", "keys/rotate/action"),
  "keys/get-rotation-policy": key("getrotationpolicy", "keyrotationpolicies/read", "keys/read/action"),
  "keys/set-rotation-policy": key("setrotationpolicy", "keyrotationpolicies/write", "keys/write/action"),
  rng: hsmOnly("rng/action"),
  "secrets/get": secret("get", "getSecret/action"),
  "secrets/list": secret("list", "readMetadata/action"),
  "secrets/set": secret("set", "setSecret/action"),
  "secrets/update": secret("set", "update/action"),
  "secrets/delete": secret("delete", "delete"),
  "secrets/get-deleted": secret("get", "readMetadata/action"),
  "secrets/recover": secret("recover", "recover/action"),
  "secrets/purge": secret("purge", "purge/action"),
  "secrets/backup": secret("backup", "backup/action"),
  "secrets/restore": secret("restore", "restore/action"),
  "roles/read": hsmOnly("roleAssignments/read/action"),
  "roles/write": hsmOnly("roleAssignments/write/action"),
  "roles/delete": hsmOnly("roleAssignments/delete/action"),
  "roles/definitions": hsmOnly("roleDefinitions/read/action"),
};

/** What decisions about access rest on. */
export interface AccessVault {
  readonly name: string;
  readonly kind: VaultKind;
  readonly access: AccessModel;
  readonly administrators: readonly Principal[];
}

/** What is asked for. */
export interface AccessRequest {
  readonly store: VaultStore;
  readonly vault: AccessVault;
  readonly caller: Caller;
  readonly action: Action;
  /** `/`, `/keys`, `/keys/<name>`, `/secrets`, `/secrets/<name>`. */
  readonly scope: string;
}

/**
 * Lets a caller do something, or refuses: what nobody gave is denied. Whether the key or secret exists plays no part, so that a refusal tells nothing about it.
 * @throws {KeyvaultError} ERR_KEYVAULT_ACCESS with the text of the genuine service
 */
export async function authorize(request: AccessRequest): Promise<void> {
  const { store, vault, caller, action, scope } = request;
  const { policies, roles } = await store.accessOf(vault.name, holderOf(caller));
  const allowed =
    vault.access === "policies" ? policies.some((policy) => policyAllows(policy, action)) : roles.some((role) => assignmentAllows(vault, role, action, scope));
  if (!allowed) throw vault.access === "policies" ? deniedByPolicy(vault, caller, action) : deniedByRoles(vault, caller, action, scope);
}

function policyAllows(policy: AccessPolicy, { policy: needed }: Action): boolean {
  if (needed === undefined) return false;
  const held: readonly string[] = policy[needed.category];
  return held.some((permission) => permission.toLowerCase() === needed.permission.toLowerCase());
}

function assignmentAllows(vault: AccessVault, assignment: RoleAssignment, action: Action, scope: string): boolean {
  const wanted = action[vault.kind];
  const role = findRole(vault.kind, assignment.role);
  return wanted !== undefined && role !== undefined && scopeCovers(assignment.scope, scope) && roleAllows(role, wanted);
}

/** Whether what is given in one scope holds in the other: scopes are paths, and names have no letter case. */
export function scopeCovers(outer: string, inner: string): boolean {
  const [given, asked] = [outer.toLowerCase(), inner.toLowerCase()];
  return given === "/" || asked === given || asked.startsWith(`${given}/`);
}

/** Whether a caller is an administrator of a vault: by object id, or by application id if it is an application, of its own tenant. */
export function isAdministrator(vault: AccessVault, caller: Caller): boolean {
  const { appid, oid } = holderOf(caller);
  return vault.administrators.some(({ tenantId, id }) => same(tenantId, caller.tenantId) && id !== "" && (same(id, appid) || same(id, oid)));
}

/** The ids by which something can have been given to a caller. What was given to an application is for the application, not for its users. */
function holderOf({ tenantId, appid, isApp, oid }: Caller): { readonly tenantId: string; readonly appid: string; readonly oid: string } {
  return { tenantId, appid: isApp ? appid : "", oid };
}

function same(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase();
}

/** @throws {KeyvaultError} ERR_KEYVAULT_ACCESS */
export function requireAdministrator(vault: AccessVault, caller: Caller): void {
  if (isAdministrator(vault, caller)) return;
  throw new KeyvaultError(
    "ERR_KEYVAULT_ACCESS",
    `The user, group or application '${describeCaller(caller)}' is no administrator of key vault '${vault.name};location=local'.`,
    {
      details: { inner: "AccessDenied" },
      hint: "Administrators are named in the configuration of the service.",
    },
  );
}

function deniedByPolicy(vault: AccessVault, caller: Caller, { policy }: Action): KeyvaultError {
  const permission = policy === undefined ? "this" : `${policy.category} ${policy.permission}`;
  return new KeyvaultError(
    "ERR_KEYVAULT_ACCESS",
    `The user, group or application '${describeCaller(caller)}' does not have ${permission} permission on key vault '${vault.name};location=local'.`,
    {
      details: { inner: "AccessDenied" },
      hint: `An administrator of the vault gives it with an access policy for tenant ${caller.tenantId} and object ${caller.oid || caller.appid}.`,
    },
  );
}

function deniedByRoles(vault: AccessVault, caller: Caller, action: Action, scope: string): KeyvaultError {
  return new KeyvaultError(
    "ERR_KEYVAULT_ACCESS",
    [
      "Caller is not authorized to perform action on resource.",
      "If role assignments, deny assignments or role definitions were changed recently, please observe propagation time.",
      `Caller: ${describeCaller(caller)}`,
      `Action: '${action[vault.kind] ?? "(none)"}'`,
      `Resource: '${scope}'`,
      "Assignment: (not found)",
      `Vault: ${vault.name};location=local`,
    ].join("\r\n"),
    { details: { inner: "ForbiddenByRbac" }, hint: `Give object ${caller.oid || caller.appid} a role with this action in scope ${scope}, or in one above it.` },
  );
}

function describeCaller(caller: Caller): string {
  return `appid=${caller.appid};oid=${caller.oid};iss=${caller.issuer}`;
}
