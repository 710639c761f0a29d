import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SeededNumbers } from "../../../tools/testing/hostile.ts";
import { OPERATIONS } from "../app.ts";
import {
  adminHeaders,
  auditOf,
  bearer,
  call,
  HSM,
  importBody,
  KEYS,
  maaToken,
  openWorld,
  segment,
  POLICY,
  TENANT,
  VAULT,
  type Json,
  type World,
} from "../testdata/world.ts";

const V = "api-version=7.4";

let world: World;
beforeAll(async () => {
  world = await openWorld();
  await call(world, "PUT", `${VAULT}/keys/app?${V}`, { ...importBody(), tags: { a: "b" } });
  await call(world, "PUT", `${HSM}/keys/app?${V}`, importBody());
  await call(world, "PUT", `${VAULT}/keys/rsa?${V}`, { key: { ...KEYS.tee.privateKey.export({ format: "jwk" }), kty: "RSA" } });
  await call(world, "PUT", `${VAULT}/secrets/app?${V}`, { value: "x" });
});
afterAll(async () => {
  await world.store.close();
});

const attributes = { enabled: true, nbf: 1, exp: 2_000_000_000, exportable: true };
const release_policy = { contentType: "application/json; charset=utf-8", data: segment(POLICY), immutable: false };
const crypto = { alg: "A256GCM", value: "AAAA", iv: "AAAAAAAAAAAAAAAA", tag: "AAAAAAAAAAAAAAAAAAAAAA", aad: "AAAA", digest: "AAAA" };
/** Requests with every member that is looked at. */
const BODIES: readonly (readonly [what: string, method: string, url: string, body: Json, own?: boolean])[] = [
  [
    "create",
    "POST",
    `${VAULT}/keys/new/create`,
    { kty: "EC-HSM", crv: "P-256", key_ops: ["sign"], attributes, tags: { a: "b" }, release_policy, public_exponent: 65_537 },
  ],
  [
    "import",
    "PUT",
    `${VAULT}/keys/app2`,
    {
      key: { kty: "oct-HSM", k: "AAAA", key_ops: ["encrypt"], key_size: 24 },
      hsm: true,
      attributes: { exportable: true },
      release_policy: { data: segment(POLICY) },
    },
  ],
  ["import of RSA", "PUT", `${VAULT}/keys/rsa`, { key: { ...KEYS.tee.privateKey.export({ format: "jwk" }), kty: "RSA" }, Hsm: false }],
  [
    "update",
    "PATCH",
    `${VAULT}/keys/app`,
    { key_ops: ["encrypt"], attributes: { enabled: true }, tags: { a: "b" }, release_policy: { data: segment(POLICY) } },
  ],
  ["restore", "POST", `${VAULT}/keys/restore`, { value: "AQAAAAAA" }],
  ["encrypt", "POST", `${VAULT}/keys/app/encrypt`, crypto],
  ["decrypt", "POST", `${VAULT}/keys/app/decrypt`, crypto],
  ["wrapkey", "POST", `${VAULT}/keys/rsa/wrapkey`, { alg: "RSA-OAEP", value: "AAAA" }],
  ["unwrapkey", "POST", `${VAULT}/keys/rsa/unwrapkey`, { alg: "RSA1_5", value: "AAAA" }],
  ["sign", "POST", `${VAULT}/keys/rsa/sign`, { alg: "RS256", value: "AAAA" }],
  ["verify", "POST", `${VAULT}/keys/rsa/verify`, { alg: "RS256", digest: "AAAA", value: "AAAA" }],
  ["release", "POST", `${VAULT}/keys/app/release`, { target: maaToken(), nonce: "n", enc: "CKM_RSA_AES_KEY_WRAP" }],
  [
    "rotation policy",
    "PUT",
    `${VAULT}/keys/app/rotationpolicy`,
    { lifetimeActions: [{ trigger: { timeAfterCreate: "P30D" }, action: { type: "Rotate" } }], attributes: { expiryTime: "P90D" } },
  ],
  ["rng", "POST", `${HSM}/rng`, { count: 4 }],
  ["secret", "PUT", `${VAULT}/secrets/app`, { value: "x", contentType: "t", attributes, tags: { a: "b" } }],
  ["secret update", "PATCH", `${VAULT}/secrets/app`, { contentType: "t", attributes, tags: { a: "b" } }],
  ["secret restore", "POST", `${VAULT}/secrets/restore`, { value: "AQAAAAAA" }],
  [
    "access policy",
    "PUT",
    `${VAULT}/sealpod/access-policies`,
    { tenantId: TENANT, objectId: "12121212-bbbb-4ccc-8ddd-eeeeeeeeeeee", permissions: { keys: ["get"], secrets: ["get"] } },
    true,
  ],
  ["why", "POST", `${VAULT}/sealpod/keys/app/why`, { target: maaToken() }, true],
  [
    "role assignment",
    "PUT",
    `${HSM}/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-000000000000`,
    { properties: { roleDefinitionId: "21dbd100-6940-42c2-9190-5d6cb909625b", principalId: "12121212-bbbb-4ccc-8ddd-eeeeeeeeeeee", tenantId: TENANT } },
    true,
  ],
];

const REQUESTS = BODIES.map(([what, method, url, body, own = false]) => ({ what, method, url, body, own }));

/** Text of values that are never right, or seldom. Text, because duplicate names and __proto__ are lost in values. */
const HOSTILE: readonly string[] = [
  "null",
  "-1",
  "1e308",
  "18446744073709551616",
  '""',
  '"\\u0000"',
  '"\\ud800"',
  '"__proto__"',
  `"${"A".repeat(9000)}"`,
  "[]",
  "[null]",
  "{}",
  '{"__proto__":{"a":1}}',
  '{"toString":1,"length":-1}',
  `[${"0,".repeat(300)}0]`,
];

/** Every text that comes of putting a hostile one in the place of one member, at any depth. */
function* replaced(value: unknown): Generator<string> {
  yield* HOSTILE;
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) {
      for (const text of replaced(item)) yield `[${value.map((other, at) => (at === index ? text : JSON.stringify(other))).join(",")}]`;
    }
  } else if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value);
    const text = (name: string, member: string): string =>
      entries.map(([other, item]) => `${JSON.stringify(other)}:${other === name ? member : JSON.stringify(item)}`).join(",");
    for (const [name, item] of entries) {
      for (const member of replaced(item)) yield `{${text(name, member)}}`;
      // The same name twice, a name more, and without it.
      yield `{${text(name, JSON.stringify(item))},${JSON.stringify(name)}:1}`;
      yield `{${text(name, JSON.stringify(item))},"__proto__":{"isAdmin":true},"constructor":{}}`;
      yield JSON.stringify(Object.fromEntries(entries.filter(([other]) => other !== name)));
    }
  }
}

async function attempt(method: string, url: string, body: string, own: boolean): Promise<void> {
  const answer = await call(world, method, `${url}?${V}`, body, own ? adminHeaders() : {});
  const told = `${method} ${url} ${body.slice(0, 200)} ${JSON.stringify(answer.body).slice(0, 300)}`;
  expect([told, answer.status < 500 && answer.status !== 401]).toEqual([told, true]);
  if (answer.status >= 400) {
    expect(answer.body.error?.code).toMatch(/^[A-Z]\w+$/);
    // What comes back of a hostile body is a sentence, not the body.
    expect(JSON.stringify(answer.body).length).toBeLessThan(2000);
  }
}

describe("hostile bodies", () => {
  it.each(REQUESTS)("of $what never break the service", async ({ method, url, body, own }) => {
    for (const text of replaced(body)) await attempt(method, url, text, own);
    const text = JSON.stringify(body);
    for (const broken of ["", "{", text.slice(0, -1), `${text}x`, `[${text}]`, `{"a":${"[".repeat(500)}`, "\u0000", "ÿ"])
      await attempt(method, url, broken, own);
    expect(({} as Json)["isAdmin"]).toBeUndefined();
  });

  it("with any bytes changed never break the service, and leave one line each", async () => {
    const numbers = new SeededNumbers(6);
    const before = (await auditOf(world, { limit: 1 }))[0]?.id ?? 0;
    const rounds = 300;
    for (let round = 0; round < rounds; round++) {
      const { method, url, body, own } = numbers.pick(REQUESTS);
      const bytes = Buffer.from(JSON.stringify(body));
      for (let change = numbers.below(4); change >= 0; change--) bytes[numbers.below(bytes.length)] = numbers.below(256);
      const headers = { "content-type": "application/json", authorization: `Bearer ${bearer()}`, ...(own ? adminHeaders() : {}) };
      const response = await world.app.request(`${url}?${V}`, { method, headers, body: new Uint8Array(bytes) });
      expect(response.status).toBeLessThan(500);
      await response.arrayBuffer();
    }
    const lines = (await auditOf(world)).filter(({ id, operation }) => id > before && operation !== "keys/schedule-rotation");
    expect(lines).toHaveLength(rounds);
  });
});

describe("hostile paths", () => {
  it.each([
    "/keys/%00",
    "/keys/%2e%2e/secrets",
    "/keys/a%2Fb/release",
    "/keys/%ff",
    "/keys/%",
    "/keys/__proto__",
    "/keys/app/__proto__",
    `/keys/${"a".repeat(5000)}`,
    "/secrets/constructor",
    `/deletedkeys/${"%F0%9F%94%91".repeat(100)}`,
    "/providers/Microsoft.Authorization/roleAssignments/%00",
    "/keys/%/providers/Microsoft.Authorization/roleAssignments",
    "/keys/app/versions?maxresults=1e9&$skiptoken=%00",
    "/sealpod/audit?name=%00&operation=%ff&limit=%F0%9F%94%91",
    "/sealpod/keys//why",
    "/sealpod",
    "//",
    "/",
  ])("%s is a refusal like others", async (path) => {
    for (const method of ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]) {
      const separator = path.includes("?") ? "&" : "?";
      const answer = await call(
        world,
        method,
        `${VAULT}${path}${separator}${V}`,
        method === "GET" || method === "DELETE" || method === "OPTIONS" ? undefined : {},
        path.includes("sealpod") ? adminHeaders() : {},
      );
      expect([path, method, answer.status < 500, answer.status !== 401]).toEqual([path, method, true, true]);
    }
  });

  it("knows every operation by one name and method, and paths that differ", () => {
    expect(new Set(OPERATIONS.map(({ name }) => name)).size).toBe(OPERATIONS.length);
    const shapes = OPERATIONS.flatMap(({ method, paths }) => paths.map((path) => `${method} ${path.replaceAll(/:\w+/g, ":")}`));
    expect(new Set(shapes).size).toBe(shapes.length);
  });
});
