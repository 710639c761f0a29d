import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { findRole, ROLES, roleAllows } from "../access-roles.ts";
import { ACTIONS, scopeCovers, type ActionName } from "../access.ts";
import { OPERATIONS } from "../app.ts";
import { KEY_PERMISSIONS, SECRET_PERMISSIONS } from "../index.ts";
import {
  ADMIN_OID,
  adminHeaders,
  ALL,
  APPID,
  assignRole,
  auditOf,
  bearer,
  call,
  grant,
  HSM,
  importBody,
  LOGIN,
  maaToken,
  openWorld,
  RBAC,
  STRANGER_ID,
  STRANGER_OID,
  strangerHeaders,
  TENANT,
  VAULT,
  type Answer,
  type Json,
  type World,
} from "../testdata/world.ts";
import type { Operation } from "./operation.ts";

const V = "api-version=7.4";
const STRANGER = { tenantId: TENANT, id: STRANGER_ID };

let world: World;
beforeEach(async () => {
  world = await openWorld();
});
afterEach(async () => {
  await world.store.close();
});

/** A body that would do, for operations that have one. */
const BODIES: Readonly<Record<string, Json>> = {
  "keys/create": { kty: "EC" },
  "keys/import": importBody(),
  "keys/update": {},
  "keys/restore": { value: "AAAA" },
  "keys/encrypt": { alg: "A256GCM", value: "AAAA" },
  "keys/decrypt": { alg: "A256GCM", value: "AAAA", iv: "AAAA", tag: "AAAA" },
  "keys/wrapkey": { alg: "A256KW", value: "AAAA" },
  "keys/unwrapkey": { alg: "A256KW", value: "AAAA" },
  "keys/sign": { alg: "HS256", value: "AAAA" },
  "keys/verify": { alg: "HS256", digest: "AAAA", value: "AAAA" },
  "keys/release": { target: maaToken() },
  "keys/why": { target: maaToken() },
  "keys/set-rotation-policy": { lifetimeActions: [], attributes: {} },
  rng: { count: 8 },
  "secrets/set": { value: "s" },
  "secrets/update": {},
  "secrets/restore": { value: "AAAA" },
  "access/set-policy": { tenantId: TENANT, objectId: STRANGER_OID, permissions: { keys: [] } },
  "access/assign-role": { properties: { roleDefinitionId: "x", principalId: STRANGER_OID } },
};

const path = (pattern: string, name: string): string =>
  pattern
    .replace(":name", name)
    .replace(":version", "0".repeat(32))
    .replace(":assignment", "00000000-0000-4000-8000-000000000000")
    .replace(":tenant", TENANT)
    .replace(":object", STRANGER_OID);

async function perform(operation: Operation, base: string, name: string, pattern: string, headers = strangerHeaders()): Promise<Answer> {
  const body = operation.method === "GET" || operation.method === "DELETE" ? undefined : (BODIES[operation.name] ?? {});
  return call(world, operation.method, `${base}${path(pattern, name)}?${V}`, body, headers);
}

/** Performs, and says what the audit had to say about it: one line, whatever came of it. */
async function audited(
  operation: Operation,
  base: string,
  pattern: string,
  headers?: Record<string, string>,
): Promise<Answer & { readonly failed: string | undefined }> {
  const answer = await perform(operation, base, "app", pattern, headers);
  const lines = await auditOf(world, { requestId: answer.headers.get("x-ms-request-id") ?? "" });
  expect(lines.map((line) => line.operation)).toEqual([operation.name]);
  const [line] = lines;
  expect(line).toMatchObject({ vault: new URL(base).hostname.split(".")[0], tenantId: TENANT, outcome: answer.status < 400 ? "allowed" : "refused" });
  expect([answer.status, line?.failed === "access"]).toEqual([
    answer.status,
    answer.status === 403 && answer.body.error?.innererror?.code !== "KeyOperationForbidden",
  ]);
  expect([401, 500, 501]).not.toContain(answer.status);
  return { ...answer, failed: line?.failed };
}

const each = (base: string, kind: "vault" | "managedhsm"): { what: string; operation: Operation; pattern: string; base: string }[] =>
  OPERATIONS.filter(({ only }) => only === undefined || only === kind).flatMap((operation) =>
    operation.paths.map((pattern) => ({ what: `${operation.method} ${pattern}`, operation, pattern, base })),
  );
const actionOf = ({ need }: Operation): ActionName | undefined =>
  need === "administrator" ? undefined : typeof need === "object" ? need.administratorOr : need;

describe("every operation of a vault with access policies", () => {
  const cases = each(VAULT, "vault").filter(({ operation }) => typeof operation.need === "string" && operation.need !== "administrator");
  it.each(cases)("$what needs its permission, and no other", async ({ operation, pattern, base }) => {
    await call(world, "PUT", `${VAULT}/keys/app?${V}`, importBody());
    await call(world, "PUT", `${VAULT}/secrets/app?${V}`, { value: "x" });
    const { policy } = ACTIONS[actionOf(operation) ?? expect.fail()];
    const permission = policy?.permission ?? expect.fail(`${operation.name} has no permission`);
    const category = policy?.category ?? "keys";
    const without = <P extends string>(list: readonly P[], own: boolean): readonly P[] => list.filter((one) => !own || one !== permission);

    await grant(world.store, "demo", STRANGER, without(KEY_PERMISSIONS, category === "keys"), without(SECRET_PERMISSIONS, category === "secrets"));
    const refused = await audited(operation, base, pattern);
    expect(refused.status).toBe(403);
    expect(refused.body.error).toEqual({
      code: "Forbidden",
      innererror: { code: "AccessDenied" },
      message: `The user, group or application 'appid=${STRANGER_ID};oid=${STRANGER_OID};iss=${LOGIN}' does not have ${category} ${permission} permission on key vault 'demo;location=local'.`,
    });
    // Nothing is told of what is there and what is not, nor of whether the request was well-formed.
    const elsewhere = await perform(operation, base, "not-there", pattern);
    expect({ status: elsewhere.status, body: elsewhere.body }).toEqual({ status: 403, body: refused.body });
    const nonsense = await call(
      world,
      operation.method,
      `${base}${path(pattern, "app")}?${V}`,
      operation.method === "GET" ? undefined : "{",
      strangerHeaders(),
    );
    expect(nonsense.body).toEqual(refused.body);

    await grant(world.store, "demo", STRANGER, category === "keys" ? [permission as never] : [], category === "secrets" ? [permission as never] : []);
    expect((await audited(operation, base, pattern)).failed).not.toBe("access");
  });
});

describe.each([
  ["a vault with roles", RBAC, "rbac", "vault"],
  ["a managed HSM", HSM, "hsm", "managedhsm"],
] as const)("every operation of %s", (_what, base, vault, kind) => {
  const cases = each(base, kind).filter(({ operation }) => operation.need !== "administrator");
  it.each(cases)("$what needs a role with its data action", async ({ operation, pattern }) => {
    const action = ACTIONS[actionOf(operation) ?? expect.fail()][kind];
    const roles = ROLES.filter((role) => role.kind === kind);
    const allowing = roles.filter((role) => action !== undefined && roleAllows(role, action));
    for (const role of roles.filter((one) => !allowing.includes(one))) await assignRole(world.store, vault, STRANGER, role.id);
    // What another principal has, or this one in another vault, does not count.
    for (const role of allowing) await assignRole(world.store, vault, { tenantId: TENANT, id: "77777777-bbbb-4ccc-8ddd-eeeeeeeeeeee" }, role.id);
    const refused = await audited(operation, base, pattern);
    expect(refused.status).toBe(403);
    expect(refused.body.error).toMatchObject({ code: "Forbidden", innererror: { code: "ForbiddenByRbac" } });
    expect(refused.body.error?.message).toContain(`Caller: appid=${STRANGER_ID};oid=${STRANGER_OID};iss=${LOGIN}`);
    if (action !== undefined) expect(refused.body.error?.message).toContain(`Action: '${action}'`);

    for (const role of allowing) {
      await world.store.close();
      world = await openWorld();
      await assignRole(world.store, vault, STRANGER, role.id);
      expect([role.name, (await audited(operation, base, pattern)).failed]).not.toEqual([role.name, "access"]);
    }
    // Management of roles in a vault is for administrators; everything else has a role.
    if (kind === "managedhsm" || !operation.name.startsWith("access/")) expect(allowing.length).toBeGreaterThan(0);
  });
});

describe("administrators", () => {
  const cases = [...each(VAULT, "vault"), ...each(HSM, "managedhsm")].filter(
    ({ operation }) => typeof operation.need !== "string" || operation.need === "administrator",
  );
  it.each(cases)("may $what, and others may not", async ({ operation, pattern, base }) => {
    await grant(world.store, "demo", STRANGER, KEY_PERMISSIONS, SECRET_PERMISSIONS);
    expect((await audited(operation, base, pattern)).status).toBe(403);
    expect((await audited(operation, base, pattern, adminHeaders())).failed).not.toBe("access");
  });

  it("have no permission on keys and secrets by that alone, and can give it to themselves", async () => {
    expect((await call(world, "GET", `${VAULT}/keys?${V}`, undefined, adminHeaders())).status).toBe(403);
    const body = { tenantId: TENANT, objectId: ADMIN_OID, permissions: { keys: ["list"] } };
    expect((await call(world, "PUT", `${VAULT}/sealpod/access-policies`, body, adminHeaders())).status).toBe(200);
    expect((await call(world, "GET", `${VAULT}/keys?${V}`, undefined, adminHeaders())).status).toBe(200);
  });

  it("are of their own tenant, and of the vaults that name them", async () => {
    const app = await openWorld({
      vaults: [
        { name: "demo", kind: "vault", administrators: [{ tenantId: "22222222-2222-4333-8444-555555555555", id: ADMIN_OID }] },
        {
          name: "other",
          kind: "vault",
          administrators: [
            { tenantId: TENANT.toUpperCase(), id: ADMIN_OID.toUpperCase() },
            { tenantId: TENANT, id: "" },
          ],
        },
      ],
    });
    expect((await call(app, "GET", `${VAULT}/sealpod/audit`, undefined, adminHeaders())).status).toBe(403);
    expect((await call(app, "GET", "https://other.vault.test/sealpod/audit", undefined, adminHeaders())).status).toBe(200);
    const nameless = { authorization: `Bearer ${bearer({ oid: undefined })}` };
    expect((await call(app, "GET", "https://other.vault.test/sealpod/audit", undefined, nameless)).status).toBe(403);
    await app.store.close();
  });
});

describe("the user of an application", () => {
  const user = (appid: string, oid = STRANGER_OID): Record<string, string> => ({
    authorization: `Bearer ${bearer({ appid, oid, sub: "pairwise", scp: "user_impersonation", idtyp: "user" })}`,
  });

  it("has what the user has, and nothing of what the application has", async () => {
    const attempts = [`${VAULT}/secrets?${V}`, `${HSM}/keys?${V}`];
    for (const url of attempts) {
      expect((await call(world, "GET", url)).status).toBe(200);
      const refused = await call(world, "GET", url, undefined, user(APPID));
      expect([refused.status, refused.body.error?.message.includes(`appid=${APPID};oid=${STRANGER_OID}`)]).toEqual([403, true]);
    }
    expect((await auditOf(world, { operation: "secrets/list" }))[0]).toMatchObject({ outcome: "refused", appid: APPID, oid: STRANGER_OID });
    await grant(world.store, "demo", { tenantId: TENANT, id: STRANGER_OID }, [], ["list"]);
    expect((await call(world, "GET", `${VAULT}/secrets?${V}`, undefined, user(APPID))).status).toBe(200);
  });

  it("is no administrator by it, and one by its own object", async () => {
    const url = `${VAULT}/sealpod/audit`;
    expect((await call(world, "GET", url, undefined, { authorization: `Bearer ${bearer({ appid: ADMIN_OID })}` })).status).toBe(200);
    expect((await call(world, "GET", url, undefined, user(ADMIN_OID))).status).toBe(403);
    expect((await call(world, "GET", url, undefined, user(STRANGER_ID, ADMIN_OID))).status).toBe(200);
  });
});

describe("access policies", () => {
  const url = `${VAULT}/sealpod/access-policies`;
  const put = (body: unknown): Promise<Answer> => call(world, "PUT", url, body, adminHeaders());

  it("are set by category, listed and taken away", async () => {
    const set = { tenantId: TENANT, objectId: STRANGER_OID, permissions: { keys: ["Get", "RELEASE"], secrets: ["get"], certificates: [], storage: null } };
    expect((await put(set)).body).toEqual({ tenantId: TENANT, objectId: STRANGER_OID, permissions: { keys: ["get", "release"], secrets: ["get"] } });
    expect((await put({ ...set, permissions: { secrets: ["list"] } })).body).toMatchObject({ permissions: { keys: ["get", "release"], secrets: ["list"] } });
    const listed = (await call(world, "GET", url, undefined, adminHeaders())).body as unknown as { value: Json[] };
    expect(listed.value).toContainEqual({ tenantId: TENANT, objectId: STRANGER_OID, permissions: { keys: ["get", "release"], secrets: ["list"] } });
    expect((await call(world, "GET", `${VAULT}/secrets?${V}`, undefined, strangerHeaders())).status).toBe(200);
    expect((await call(world, "DELETE", `${url}/${TENANT}/${STRANGER_OID.toUpperCase()}`, undefined, adminHeaders())).status).toBe(204);
    expect((await call(world, "GET", `${VAULT}/secrets?${V}`, undefined, strangerHeaders())).status).toBe(403);
    expect((await call(world, "DELETE", `${url}/${TENANT}/${STRANGER_OID}`, undefined, adminHeaders())).body.error?.code).toBe("AccessPolicyNotFound");
    expect((await put({ ...set, permissions: { keys: ["all"] } })).body).toMatchObject({ permissions: { keys: ALL } });
    const lines = await auditOf(world, { operation: "access/set-policy" });
    expect(lines[0]).toMatchObject({ name: STRANGER_OID, oid: ADMIN_OID, reason: `keys ${ALL.join(" ")}; secrets as before` });
  });

  it.each<readonly [string, Json, RegExp]>([
    ["no tenant", { tenantId: undefined }, /tenantId/],
    ["a tenant that is no UUID", { tenantId: "contoso" }, /tenantId must be a UUID/],
    ["an object that is no UUID", { objectId: "" }, /objectId must be a UUID/],
    ["no permissions", { permissions: undefined }, /permissions is missing/],
    ["permissions that are no lists", { permissions: { keys: "get" } }, /must be a list/],
    ["an unknown permission", { permissions: { keys: ["get", "everything"] } }, /unknown permission/],
    ["a permission that is no text", { permissions: { secrets: [1] } }, /unknown permission/],
    ["too many permissions", { permissions: { keys: Array.from({ length: 65 }, () => "get") } }, /at most 64/],
    ["permissions of certificates", { permissions: { certificates: ["get"] } }, /certificates is not supported/],
  ])("are refused with %s", async (_what, change, message) => {
    const { status, body } = await put({ tenantId: TENANT, objectId: STRANGER_OID, permissions: { keys: ["get"] }, ...change });
    expect(status).toBe(400);
    expect(body.error?.message).toMatch(message);
    expect(await world.store.accessPolicies("demo")).toHaveLength(1);
  });

  it("are not set where roles decide", async () => {
    const body = { tenantId: TENANT, objectId: STRANGER_OID, permissions: { keys: ["get"] } };
    expect((await call(world, "PUT", `${RBAC}/sealpod/access-policies`, body, adminHeaders())).body.error?.message).toMatch(/decides by roles/);
  });

  it("hold in their vault and for their tenant alone, and do not decide where roles do", async () => {
    await grant(world.store, "rbac", { tenantId: TENANT, id: APPID }, ALL, SECRET_PERMISSIONS);
    expect((await call(world, "GET", `${RBAC}/keys?${V}`)).status).toBe(403);
    await assignRole(world.store, "demo", STRANGER, "Key Vault Administrator");
    expect((await call(world, "GET", `${VAULT}/keys?${V}`, undefined, strangerHeaders())).status).toBe(403);
  });
});

describe("roles", () => {
  const url = (scope: string, name = "11111111-0000-4000-8000-000000000001", base = HSM): string =>
    `${base}${scope}/providers/Microsoft.Authorization/roleAssignments/${name}?${V}`;
  const roleId = (name: string): string => (findRole("managedhsm", name) ?? findRole("vault", name))?.id ?? expect.fail(name);
  const properties = (role: string): Json => ({
    properties: { roleDefinitionId: `Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/${roleId(role)}`, principalId: STRANGER_OID },
  });

  it("are given in a scope, and hold in it and below", async () => {
    for (const name of ["app", "application"]) await call(world, "PUT", `${HSM}/keys/${name}?${V}`, importBody());
    const answer = await call(world, "PUT", url("/keys/App"), properties("Managed HSM Crypto User"), adminHeaders());
    expect(answer.status).toBe(201);
    expect(answer.body).toEqual({
      id: "/keys/App/providers/Microsoft.Authorization/roleAssignments/11111111-0000-4000-8000-000000000001",
      name: "11111111-0000-4000-8000-000000000001",
      type: "Microsoft.Authorization/roleAssignments",
      properties: {
        principalId: STRANGER_OID,
        roleDefinitionId: "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/21dbd100-6940-42c2-9190-5d6cb909625b",
        scope: "/keys/App",
        tenantId: TENANT,
      },
    });
    const get = async (path: string): Promise<number> => (await call(world, "GET", `${HSM}${path}?${V}`, undefined, strangerHeaders())).status;
    expect([await get("/keys/app"), await get("/keys/application"), await get("/keys"), await get("/keys/app/versions")]).toEqual([200, 403, 403, 200]);
    // A name that goes on with a slash does not get into the scope of another.
    expect(await get("/keys/app%2Fx")).toBe(400);
    expect(
      (await call(world, "PUT", url("/keys", "11111111-0000-4000-8000-000000000002"), properties("Managed HSM Crypto Auditor"), adminHeaders())).status,
    ).toBe(201);
    expect([await get("/keys/application"), await get("/keys")]).toEqual([200, 200]);
    expect((await call(world, "POST", `${HSM}/rng?${V}`, { count: 1 }, strangerHeaders())).status).toBe(403);
  });

  it("are read, filtered and removed at the paths of the genuine service", async () => {
    const first = "11111111-0000-4000-8000-00000000000A";
    const second = "11111111-0000-4000-8000-00000000000B";
    await call(world, "PUT", url("", first), properties("Managed HSM Crypto User"), adminHeaders());
    await call(world, "PUT", url("/keys", second), properties("Managed HSM Crypto Auditor"), adminHeaders());
    const list = async (scope: string, filter = ""): Promise<string[]> => {
      const { body } = await call(world, "GET", `${HSM}${scope}/providers/Microsoft.Authorization/roleAssignments?${V}${filter}`, undefined, adminHeaders());
      return (body as unknown as { value: { name: string; properties: { principalId: string } }[] }).value
        .filter((item) => item.properties.principalId === STRANGER_OID)
        .map(({ name }) => name);
    };
    expect(await list("/")).toEqual([first, second].map((name) => name.toLowerCase()));
    expect(await list("")).toHaveLength(2);
    expect(await list("/%2F")).toHaveLength(2);
    expect(await list("/keys")).toEqual([second.toLowerCase()]);
    expect(await list("/keys/app", "&$filter=atScope()")).toHaveLength(2);
    expect(await list("/", `&$filter=principalId%20eq%20'${STRANGER_OID}'`)).toHaveLength(2);
    expect(await list("/", `&$filter=principalId%20eq%20'${APPID}'`)).toEqual([]);
    expect((await call(world, "GET", url("/keys", second), undefined, adminHeaders())).body).toMatchObject({ name: second.toLowerCase() });
    // In another scope there is no such assignment.
    expect((await call(world, "GET", url("", second), undefined, adminHeaders())).body.error?.code).toBe("RoleAssignmentNotFound");
    expect((await call(world, "DELETE", url("", second), undefined, adminHeaders())).status).toBe(404);
    expect((await call(world, "DELETE", url("/keys", second), undefined, adminHeaders())).body).toMatchObject({ name: second.toLowerCase() });
    expect(await list("/")).toEqual([first.toLowerCase()]);
    const definitions = (await call(world, "GET", `${HSM}/providers/Microsoft.Authorization/roleDefinitions?${V}`, undefined, adminHeaders()))
      .body as unknown as { value: Json[] };
    expect(definitions.value.map((item) => item["name"])).toEqual(ROLES.filter(({ kind }) => kind === "managedhsm").map(({ id }) => id));
    expect(definitions.value[0]).toMatchObject({
      properties: {
        roleName: "Managed HSM Administrator",
        type: "AKVBuiltInRole",
        permissions: [{ dataActions: expect.arrayContaining(["Microsoft.KeyVault/managedHsm/roleAssignments/write/action"]) as string[] }],
      },
    });
    const line = (await auditOf(world, { operation: "access/remove-role-assignment" }))[0];
    expect(line).toMatchObject({ outcome: "allowed", name: STRANGER_OID, reason: "Managed HSM Crypto Auditor in scope /keys" });
  });

  it.each<readonly [string, string, string, unknown, number]>([
    ["a name that is no UUID", "", "abc", undefined, 400],
    ["a scope that is none", "/certificates", "11111111-0000-4000-8000-000000000003", undefined, 400],
    ["a scope below a key", "/keys/a/b", "11111111-0000-4000-8000-000000000003", undefined, 400],
    ["no properties", "", "11111111-0000-4000-8000-000000000003", {}, 400],
    ["a role that is none", "", "11111111-0000-4000-8000-000000000003", { properties: { roleDefinitionId: "owner", principalId: STRANGER_OID } }, 400],
    [
      "a role of the other kind of vault",
      "",
      "11111111-0000-4000-8000-000000000003",
      { properties: { roleDefinitionId: "14b46e9e-c2b7-41b4-b07b-48a6ebf60603", principalId: STRANGER_OID } },
      400,
    ],
    [
      "a principal that is no UUID",
      "",
      "11111111-0000-4000-8000-000000000003",
      { properties: { roleDefinitionId: "21dbd100-6940-42c2-9190-5d6cb909625b", principalId: "me" } },
      400,
    ],
    [
      "a tenant that is no UUID",
      "",
      "11111111-0000-4000-8000-000000000003",
      { properties: { roleDefinitionId: "21dbd100-6940-42c2-9190-5d6cb909625b", principalId: STRANGER_OID, tenantId: 1 } },
      400,
    ],
  ])("are not given with %s", async (_what, scope, name, body, status) => {
    const before = (await world.store.roleAssignments("hsm")).length;
    expect((await call(world, "PUT", url(scope, name), body ?? properties("Managed HSM Crypto User"), adminHeaders())).status).toBe(status);
    expect(await world.store.roleAssignments("hsm")).toHaveLength(before);
  });

  it("are not given twice, nor where access policies decide", async () => {
    expect((await call(world, "PUT", url(""), properties("Managed HSM Crypto User"), adminHeaders())).status).toBe(201);
    expect((await call(world, "PUT", url(""), properties("Managed HSM Crypto Auditor"), adminHeaders())).status).toBe(409);
    expect((await call(world, "PUT", url("", "11111111-0000-4000-8000-000000000009"), properties("Managed HSM Crypto User"), adminHeaders())).status).toBe(409);
    expect((await call(world, "PUT", url("", undefined, VAULT), properties("Key Vault Crypto User"), adminHeaders())).body.error?.message).toMatch(
      /decides by access policies/,
    );
  });

  it("that manage roles in one scope do so in no other", async () => {
    await assignRole(world.store, "hsm", { tenantId: TENANT, id: STRANGER_OID }, "Managed HSM Policy Administrator", "/keys/app");
    const give = async (scope: string, name: string): Promise<number> =>
      (await call(world, "PUT", url(scope, name), properties("Managed HSM Crypto User"), strangerHeaders())).status;
    expect(await give("/keys/app", "11111111-0000-4000-8000-000000000004")).toBe(201);
    expect(await give("/keys/other", "11111111-0000-4000-8000-000000000005")).toBe(403);
    expect(await give("/keys", "11111111-0000-4000-8000-000000000006")).toBe(403);
    expect(await give("", "11111111-0000-4000-8000-000000000007")).toBe(403);
    expect(await give("/keys/app%2F..%2Fother", "11111111-0000-4000-8000-000000000008")).not.toBe(201);
  });

  it("have the genuine ids, each once, and scopes that end at names", () => {
    expect(new Set(ROLES.map(({ id }) => id)).size).toBe(ROLES.length);
    for (const { id } of ROLES) expect(id).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    expect(findRole("managedhsm", "MANAGED HSM CRYPTO SERVICE RELEASE USER")?.id).toBe("21dbd100-6940-42c2-9190-5d6cb909625c");
    expect(findRole("vault", "21dbd100-6940-42c2-9190-5d6cb909625c")).toBeUndefined();
    expect(scopeCovers("/keys/a", "/keys/ab")).toBe(false);
    expect(scopeCovers("/keys/A", "/keys/a")).toBe(true);
    expect(scopeCovers("/keys", "/")).toBe(false);
    expect(roleAllows(ROLES.find(({ name }) => name === "Key Vault Reader") ?? expect.fail(), "Microsoft.KeyVault/vaults/secrets/getSecret/action")).toBe(
      false,
    );
  });
});

describe("the audit", () => {
  const read = async (query: string): Promise<{ value: { id: number; operation: string; requestId: string; name: string }[]; nextBefore: number | null }> =>
    (await call(world, "GET", `${VAULT}/sealpod/audit${query}`, undefined, adminHeaders())).body as never;

  it("has a line for each request of a known caller, in pages, and each reading of it", async () => {
    for (const name of ["a", "b", "c"]) await call(world, "GET", `${VAULT}/keys/${name}?${V}`);
    await call(world, "GET", `${HSM}/keys/a?${V}`);
    const { value } = await read("?operation=keys/get");
    expect(value.map(({ name }) => name)).toEqual(["c", "b", "a"]);
    const first = await read("?operation=keys/get&limit=2");
    expect(first.value.map(({ name }) => name)).toEqual(["c", "b"]);
    const second = await read(`?operation=keys/get&limit=2&before=${first.nextBefore}`);
    expect([second.value.map(({ name }) => name), second.nextBefore]).toEqual([["a"], null]);
    expect((await read("?name=B&operation=keys/get")).value).toMatchObject([
      { name: "b", version: "", failed: "key", outcome: "refused", reason: expect.stringContaining("b was not found") as string },
    ]);
    expect((await read(`?requestId=${value[1]?.requestId ?? ""}`)).value).toHaveLength(1);
    expect((await read("?operation=audit/list")).value).toHaveLength(5);
    for (const query of ["?limit=0", "?limit=1001", "?limit=x", "?before=-1", "?before=99999999999999999"]) {
      expect((await call(world, "GET", `${VAULT}/sealpod/audit${query}`, undefined, adminHeaders())).status).toBe(400);
    }
  });

  it("has no line for who is not known, and the log does", async () => {
    const before = (await auditOf(world)).length;
    expect((await call(world, "GET", `${VAULT}/keys?${V}`, undefined, { authorization: "Bearer x.y.z" })).status).toBe(401);
    expect((await world.app.request(`${VAULT}/keys?${V}`)).status).toBe(401);
    expect(await auditOf(world)).toHaveLength(before);
    expect(world.logs.filter(({ message }) => message === "request refused")).toHaveLength(2);
  });

  it("is there before the answer, or there is none", async () => {
    await call(world, "PUT", `${VAULT}/secrets/app?${V}`, { value: "the value" });
    const broken = await openWorld({
      store: new Proxy(world.store, {
        get: (target, name) => {
          if (name === "appendAudit") return () => Promise.reject(new Error("disk full"));
          const member: unknown = Reflect.get(target, name);
          return typeof member === "function" ? member.bind(target) : member;
        },
      }),
    });
    const answer = await call(broken, "GET", `${VAULT}/secrets/app?${V}`);
    expect(answer.status).toBe(500);
    expect(JSON.stringify(answer.body)).not.toContain("the value");
    expect((await call(broken, "GET", `${VAULT}/secrets/app?${V}`, undefined, strangerHeaders())).status).toBe(500);
    expect(broken.logs.some(({ fields }) => fields["problem"] === "disk full")).toBe(true);
    await broken.store.close();
  });

  it("takes names that are none as they came, without their control characters", async () => {
    const answer = await call(world, "GET", `${VAULT}/keys/a%00b%0Ac%F0%9F%94%91?${V}`);
    expect(answer.status).toBe(400);
    const [line] = await auditOf(world, { requestId: answer.headers.get("x-ms-request-id") ?? "" });
    expect(line?.name).toContain("🔑");
    expect(line?.name).not.toContain("\0");
  });

  it("says why a key would not be released, to administrators", async () => {
    await call(world, "PUT", `${VAULT}/keys/app?${V}`, importBody());
    const why = (target: string, headers = adminHeaders()): Promise<Answer> => call(world, "POST", `${VAULT}/sealpod/keys/app/why`, { target }, headers);
    const good = await why(maaToken());
    expect(good.body).toMatchObject({ wouldRelease: true, key: { kty: "oct-HSM", attributes: { exportable: true } } });
    const bad = await why(maaToken({ "x-ms-sevsnpvm-hostdata": "cd" }));
    expect(bad.body).toMatchObject({ wouldRelease: false, failed: "policy", reason: expect.stringContaining("x-ms-sevsnpvm-hostdata") as string });
    expect(JSON.stringify(good.body)).not.toContain(Buffer.alloc(32, 5).toString("base64url"));
    expect((await why(maaToken(), strangerHeaders())).status).toBe(403);
    expect((await why("")).status).toBe(400);
    expect((await call(world, "POST", `${VAULT}/sealpod/keys/none/why`, { target: "x" }, adminHeaders())).status).toBe(404);
    expect((await auditOf(world, { operation: "keys/why" })).map(({ outcome }) => outcome)).toEqual(["refused", "refused", "refused", "allowed", "allowed"]);
  });
});
