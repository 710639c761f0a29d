import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  auditOf,
  call,
  HSM,
  NOW,
  openWorld,
  RBAC,
  VAULT,
  assignRole,
  strangerHeaders,
  STRANGER_ID,
  TENANT,
  type Answer,
  type Json,
  type World,
} from "../testdata/world.ts";

const V = "api-version=7.4";

let world: World;
beforeEach(async () => {
  world = await openWorld();
});
afterEach(async () => {
  await world.store.close();
});

const set = (name: string, body: unknown): Promise<Answer> => call(world, "PUT", `${VAULT}/secrets/${name}?${V}`, body);
const get = (path: string): Promise<Answer> => call(world, "GET", `${VAULT}/${path}?${V}`);
const versionOf = (answer: Answer): string => /[0-9a-f]{32}$/.exec(String((answer.body as Json)["id"]))?.[0] ?? expect.fail("no version");

describe("secrets", () => {
  it("are set and given back, by version and by latest", async () => {
    const first = await set("Db-Password", { value: "one", contentType: "text/plain", tags: { a: "b" }, attributes: { nbf: 1, exp: 2 } });
    const version = versionOf(first);
    const bundle = {
      value: "one",
      contentType: "text/plain",
      id: `${VAULT}/secrets/Db-Password/${version}`,
      attributes: { enabled: true, nbf: 1, exp: 2, created: NOW, updated: NOW, recoveryLevel: "Recoverable+Purgeable", recoverableDays: 90 },
      tags: { a: "b" },
    };
    expect([first.status, first.body]).toEqual([200, bundle]);
    const second = versionOf(await set("DB-PASSWORD", { value: "zwei 🔑" }));
    // Expired and not yet valid secrets are given back, as the genuine service does.
    expect((await get(`secrets/db-password/${version}`)).body).toEqual(bundle);
    expect((await get("secrets/db-password")).body).toMatchObject({ value: "zwei 🔑", id: `${VAULT}/secrets/Db-Password/${second}`, tags: {} });
    expect((await get("secrets/db-password/")).body).toMatchObject({ value: "zwei 🔑" });
    expect((await auditOf(world)).map(({ operation, name, outcome }) => `${operation} ${name} ${outcome}`).slice(-2)).toEqual([
      "secrets/set Db-Password allowed",
      "secrets/set Db-Password allowed",
    ]);
  });

  it.each<readonly [string, unknown]>([
    ["an empty one", ""],
    ["25600 bytes", "ä".repeat(12_800)],
    ["control characters", "a\u0000b\n\u001b[31m"],
  ])("may be %s", async (_what, value) => {
    expect((await set("app", { value })).status).toBe(200);
    expect((await get("secrets/app")).body).toMatchObject({ value });
  });

  it.each<readonly [string, unknown, RegExp]>([
    ["no value", {}, /value is missing/],
    ["a value that is no text", { value: 1 }, /value is missing or no string/],
    ["a value that is null", { value: null }, /value/],
    ["a value beyond 25600 bytes", { value: "ä".repeat(12_801) }, /25602 bytes, more than the limit of 25600/],
    ["half a surrogate pair", '{"value":"\\ud800"}', /Unicode/],
    ["a content type that is too long", { value: "x", contentType: "x".repeat(256) }, /contentType/],
    ["a content type with control characters", { value: "x", contentType: "a\u0000" }, /contentType/],
    ["a content type that is no text", { value: "x", contentType: {} }, /contentType/],
    ["attributes that are no object", { value: "x", attributes: [] }, /attributes/],
    ["enabled that is no boolean", { value: "x", attributes: { enabled: 1 } }, /enabled/],
    ["an exp that is no integer", { value: "x", attributes: { exp: "1" } }, /exp/],
    ["too many tags", { value: "x", tags: Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`t${i}`, ""])) }, /at most 15/],
    ["a tag that is too long", { value: "x", tags: { a: "b".repeat(257) } }, /tags/],
  ])("are refused with %s", async (_what, body, message) => {
    const { status, body: answer } = await set("app", body);
    expect([status, answer.error?.code]).toEqual([400, "BadParameter"]);
    expect(answer.error?.message).toMatch(message);
    expect((await get("secrets/app")).body.error?.code).toBe("SecretNotFound");
  });

  it("that are disabled are not given, by 403, and can be enabled again", async () => {
    const version = versionOf(await set("app", { value: "hidden", attributes: { enabled: false } }));
    const refused = await get("secrets/app");
    expect([refused.status, refused.body.error]).toEqual([
      403,
      { code: "Forbidden", message: "Operation get is not allowed on a disabled secret.", innererror: { code: "SecretDisabled" } },
    ]);
    expect((await auditOf(world, { operation: "secrets/get" }))[0]).toMatchObject({ failed: "key", version });
    const url = `${VAULT}/secrets/app/${version}?${V}`;
    const patched = await call(world, "PATCH", url, { attributes: { enabled: true, exp: 9 }, contentType: "x/y", tags: { k: "v" } });
    expect(patched.body).toMatchObject({ attributes: { enabled: true, exp: 9 }, contentType: "x/y", tags: { k: "v" } });
    expect(patched.body).not.toHaveProperty("value");
    expect((await get("secrets/app")).body).toMatchObject({ value: "hidden", contentType: "x/y" });
    expect((await call(world, "PATCH", url, { value: "other" })).status).toBe(400);
    expect((await call(world, "PATCH", url, {})).body).toMatchObject({ attributes: { enabled: true, exp: 9 }, tags: { k: "v" } });
    expect((await call(world, "PATCH", `${VAULT}/secrets/app/${"0".repeat(32)}?${V}`, {})).body.error?.code).toBe("SecretNotFound");
  });

  it("are listed without values, in pages, and so are their versions", async () => {
    for (const name of ["b", "A", "c"]) await set(name, { value: "secret value", contentType: "t" });
    await set("a", { value: "secret value" });
    const seen: string[] = [];
    let next: string | null = `${VAULT}/secrets?${V}&maxresults=2`;
    while (next !== null) {
      const answer: Answer = await call(world, "GET", next);
      expect(JSON.stringify(answer.body)).not.toContain("secret value");
      const page = answer.body as unknown as { value: { id: string }[]; nextLink: string | null };
      seen.push(...page.value.map(({ id }) => id));
      next = page.nextLink;
    }
    expect(seen).toEqual(["A", "b", "c"].map((name) => `${VAULT}/secrets/${name}`));
    const versions = (await get("secrets/a/versions")).body as unknown as { value: { id: string }[] };
    expect(versions.value).toHaveLength(2);
    for (const { id } of versions.value) expect(id).toMatch(/\/secrets\/A\/[0-9a-f]{32}$/);
  });

  it("are deleted softly, recovered and purged", async () => {
    await set("app", { value: "x" });
    const deleted = await call(world, "DELETE", `${VAULT}/secrets/app?${V}`);
    expect(deleted.body).toMatchObject({ recoveryId: `${VAULT}/deletedsecrets/app`, deletedDate: NOW, scheduledPurgeDate: NOW + 90 * 86_400 });
    expect(deleted.body).not.toHaveProperty("value");
    for (const path of ["secrets/app", "secrets/none", "deletedsecrets/none"]) expect((await get(path)).body.error?.code).toBe("SecretNotFound");
    expect((await call(world, "DELETE", `${VAULT}/secrets/app?${V}`)).status).toBe(404);
    expect((await set("app", { value: "y" })).body.error).toMatchObject({ code: "Conflict", innererror: { code: "ObjectIsDeletedButRecoverable" } });
    expect((await get("deletedsecrets/app")).body).toEqual(deleted.body);
    expect((await get("deletedsecrets")).body).toMatchObject({ value: [{ recoveryId: `${VAULT}/deletedsecrets/app` }], nextLink: null });
    expect((await call(world, "POST", `${VAULT}/deletedsecrets/app/recover?${V}`)).status).toBe(200);
    expect((await get("secrets/app")).body).toMatchObject({ value: "x" });
    expect((await call(world, "POST", `${VAULT}/deletedsecrets/app/recover?${V}`)).status).toBe(404);
    await call(world, "DELETE", `${VAULT}/secrets/app?${V}`);
    expect((await call(world, "DELETE", `${VAULT}/deletedsecrets/app?${V}`)).status).toBe(204);
    expect((await call(world, "DELETE", `${VAULT}/deletedsecrets/app?${V}`)).status).toBe(404);
    expect((await set("app", { value: "y" })).status).toBe(200);
  });

  it("are backed up and restored with all versions", async () => {
    await set("app", { value: "one" });
    const version = versionOf(await set("app", { value: "two" }));
    const backup = await call(world, "POST", `${VAULT}/secrets/app/backup?${V}`);
    const { value } = backup.body as unknown as { value: string };
    expect(Buffer.from(value, "base64url").includes(Buffer.from("two"))).toBe(false);
    const restore = (body: unknown): Promise<Answer> => call(world, "POST", `${VAULT}/secrets/restore?${V}`, body);
    expect((await restore({ value })).status).toBe(409);
    await call(world, "DELETE", `${VAULT}/secrets/app?${V}`);
    expect((await restore({ value })).status).toBe(409);
    await call(world, "DELETE", `${VAULT}/deletedsecrets/app?${V}`);
    const restored = await restore({ value });
    expect([restored.status, versionOf(restored)]).toEqual([200, version]);
    expect(restored.body).not.toHaveProperty("value");
    expect((await get("secrets/app")).body).toMatchObject({ value: "two" });
    expect(((await get("secrets/app/versions")).body as unknown as { value: unknown[] }).value).toHaveLength(2);
    for (const body of [{}, { value: 1 }, { value: "*" }, { value: "" }, { value: value.slice(0, -8) }, { value: "AAAA" }])
      expect((await restore(body)).status).toBe(400);
    expect((await call(world, "POST", `${VAULT}/secrets/none/backup?${V}`)).body.error?.code).toBe("SecretNotFound");
  });

  it("are in no log, and not in the audit", async () => {
    await set("app", { value: "the-very-value" });
    await get("secrets/app");
    await set("app", { value: "the-very-value", tags: "the-very-value" });
    expect(JSON.stringify([world.logs, await auditOf(world)])).not.toContain("the-very-value");
  });

  it("are not in a managed HSM", async () => {
    for (const [method, path] of [
      ["PUT", "secrets/app"],
      ["GET", "secrets/app"],
      ["GET", "deletedsecrets"],
    ] as const) {
      const { status, body } = await call(world, method, `${HSM}/${path}?${V}`, method === "PUT" ? { value: "x" } : undefined);
      expect([status, body.error?.code]).toEqual([404, "NotFound"]);
    }
  });

  it("are read with the role of a secrets user in the scope of one secret", async () => {
    await assignRole(world.store, "rbac", { tenantId: TENANT, id: STRANGER_ID }, "Key Vault Secrets Officer", "/secrets");
    for (const name of ["one", "two"]) expect((await call(world, "PUT", `${RBAC}/secrets/${name}?${V}`, { value: name }, strangerHeaders())).status).toBe(200);
    const user = { tenantId: TENANT, id: "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee" };
    await assignRole(world.store, "rbac", user, "Key Vault Secrets User", "/secrets/ONE");
    const read = async (name: string): Promise<number> => (await call(world, "GET", `${RBAC}/secrets/${name}?${V}`)).status;
    expect([await read("one"), await read("two"), await read("none")]).toEqual([200, 403, 403]);
  });
});
