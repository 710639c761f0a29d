import { asArray, asObject, type JsonObject, type JsonValue } from "@sealpod/core";
import { badParameter, KeyvaultError } from "../errors.ts";
import type { JsonBody } from "../key-bundle.ts";
import { requiredText } from "../request-fields.ts";
import { KEY_PERMISSIONS, SECRET_PERMISSIONS } from "../store/access.ts";
import type { AccessPolicy, KeyPermission, SecretPermission } from "../store/types.ts";
import type { Exchange } from "./exchange.ts";
import type { Operation } from "./operation.ts";

/** More than there are permissions, with room for repetitions. */
const MAX_PERMISSIONS = 64;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

const root = (): string => "/";

/** Access policies, with the members that Azure Resource Manager gives them; the paths are Sealpod's own, because there is no resource manager. */
export const ACCESS_POLICY_OPERATIONS: readonly Operation[] = [
  { name: "access/list-policies", method: "GET", paths: ["/sealpod/access-policies"], need: "administrator", scope: root, own: true, run: listPolicies },
  { name: "access/set-policy", method: "PUT", paths: ["/sealpod/access-policies"], need: "administrator", scope: root, own: true, run: setPolicy },
  {
    name: "access/delete-policy",
    method: "DELETE",
    paths: ["/sealpod/access-policies/:tenant/:object"],
    need: "administrator",
    scope: root,
    own: true,
    run: deletePolicy,
  },
];

async function listPolicies(exchange: Exchange): Promise<Response> {
  return exchange.json({ value: (await exchange.store.accessPolicies(exchange.vault.name)).map(policyJson) });
}

async function setPolicy(exchange: Exchange): Promise<Response> {
  requirePolicies(exchange);
  const body = await exchange.body();
  const tenantId = uuid(requiredText(body, "tenantId"), "tenantId");
  const id = uuid(requiredText(body, "objectId"), "objectId");
  exchange.note({ name: id });
  const permissions = parsePermissions(body);
  exchange.note({ reason: `keys ${permissions.keys?.join(" ") ?? "as before"}; secrets ${permissions.secrets?.join(" ") ?? "as before"}` });
  const policy = await exchange.change((audit) => exchange.store.setAccessPolicy(exchange.vault.name, { tenantId, id }, permissions, audit));
  return exchange.json(policyJson(policy));
}

async function deletePolicy(exchange: Exchange): Promise<Response> {
  const { store, vault } = exchange;
  const tenantId = exchange.parameter("tenant").toLowerCase();
  const id = exchange.parameter("object").toLowerCase();
  exchange.note({ name: id });
  const policies = await store.accessPolicies(vault.name);
  if (!policies.some((policy) => policy.tenantId === tenantId && policy.id === id)) {
    throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", "There is no access policy for this tenant and object.", { details: { inner: "AccessPolicyNotFound" } });
  }
  await exchange.change((audit) => store.setAccessPolicy(vault.name, { tenantId, id }, { keys: [], secrets: [] }, audit));
  return exchange.context.body(null, 204);
}

/** A policy that is never looked at would deceive whoever sets it. */
function requirePolicies(exchange: Exchange): void {
  if (exchange.vault.access === "policies") return;
  throw badParameter(`Vault ${exchange.vault.name} decides by roles: access policies mean nothing there. Make a role assignment.`);
}

function parsePermissions(body: JsonObject): { readonly keys?: readonly KeyPermission[]; readonly secrets?: readonly SecretPermission[] } {
  const permissions = asObject(body["permissions"] ?? null);
  if (permissions === undefined) throw badParameter("Property permissions is missing or no object.");
  for (const [category, value] of Object.entries(permissions)) {
    if (category === "keys" || category === "secrets" || value === null || asArray(value)?.length === 0) continue;
    throw badParameter(`Property permissions.${category.slice(0, 40)} is not supported, expected keys and secrets.`);
  }
  const { keys, secrets } = permissions;
  return {
    ...(keys === undefined || keys === null ? {} : { keys: permissionList(keys, "keys", KEY_PERMISSIONS) }),
    ...(secrets === undefined || secrets === null ? {} : { secrets: permissionList(secrets, "secrets", SECRET_PERMISSIONS) }),
  };
}

function permissionList<P extends string>(value: JsonValue, category: string, known: readonly P[]): readonly P[] {
  const list = asArray(value);
  if (list === undefined || list.length > MAX_PERMISSIONS)
    throw badParameter(`Property permissions.${category} must be a list of at most ${MAX_PERMISSIONS} permissions.`);
  return list.flatMap((item) => {
    // `all` is how the resource manager lets people write it.
    if (typeof item === "string" && item.toLowerCase() === "all") return known;
    const match = typeof item === "string" ? known.find((permission) => permission.toLowerCase() === item.toLowerCase()) : undefined;
    if (match === undefined) throw badParameter(`Property permissions.${category} has an unknown permission, expected ${known.join(", ")}, or all.`);
    return [match];
  });
}

function policyJson({ tenantId, id, keys, secrets }: AccessPolicy): JsonBody {
  return { tenantId, objectId: id, permissions: { keys, secrets } };
}

function uuid(value: string, name: string): string {
  if (UUID.test(value)) return value.toLowerCase();
  throw badParameter(`Property ${name} must be a UUID.`);
}
