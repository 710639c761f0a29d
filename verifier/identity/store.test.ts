import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { masterKeyOfBytes } from "@sealpod/sealing";
import { openIdentityStore, TOKEN_EXCHANGE_AUDIENCE, type IdentityStore, type IdentityStoreOptions } from "./index.ts";
import { CLIENT, CLUSTER, random, START, SUBJECT, TENANT } from "./testdata/support.ts";

const DAY = 86_400_000;
const OTHER = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const RESOURCE = `/subscriptions/${TENANT}/resourceGroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/web-identity`;
const MASTER_KEY = new Uint8Array(32).fill(7);

let directory: string;
let time: number;
const clock = { now: () => time };
const options = (change: Partial<IdentityStoreOptions> = {}): IdentityStoreOptions => ({
  url: join(directory, "identity.sqlite"),
  masterKey: MASTER_KEY,
  clock,
  random,
  ...change,
});

// Making keys is the slow part: one database is made once, and each test has a copy.
let template: string;
beforeAll(async () => {
  time = START;
  template = mkdtempSync(join(tmpdir(), "sealpod-identity-"));
  await (await openIdentityStore({ url: join(template, "identity.sqlite"), masterKey: MASTER_KEY, clock, random })).close();
});
afterAll(() => rmSync(template, { recursive: true }));
beforeEach(() => {
  time = START;
  directory = mkdtempSync(join(tmpdir(), "sealpod-identity-"));
  copyFileSync(join(template, "identity.sqlite"), join(directory, "identity.sqlite"));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe("applications and credentials", () => {
  let store: IdentityStore;
  beforeAll(async () => {
    time = START;
    store = await openIdentityStore({ url: ":memory:", masterKey: MASTER_KEY, clock, random });
  });
  afterAll(async () => store.close());
  beforeEach(async () => {
    await store.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT });
  });
  afterEach(async () => {
    for (const { clientId } of await store.applications(TENANT)) await store.deleteApplication(clientId);
  });

  it("are registered once, found by their ids, and listed by name", async () => {
    const first = await store.application(CLIENT);
    expect(await store.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT })).toEqual(first);
    expect(await store.applicationOfObject(first?.objectId ?? "")).toEqual(first);
    const identity = await store.registerApplication({ tenantId: TENANT, name: "a", resourceId: RESOURCE });
    expect(identity).toMatchObject({ kind: "managedIdentity", resourceId: RESOURCE });
    expect(await store.managedIdentity(RESOURCE.toUpperCase())).toEqual(identity);
    expect(await store.registerApplication({ tenantId: TENANT, name: "a", resourceId: RESOURCE.replace("demo", "DEMO") })).toEqual(identity);
    expect((await store.applications(TENANT)).map(({ name }) => name)).toEqual(["a", "web"]);
    expect(await store.applications(TENANT, "managedIdentity")).toEqual([identity]);
    expect(await store.applications(OTHER)).toEqual([]);
  });

  it.each([
    ["another tenant", { tenantId: OTHER, name: "web", clientId: CLIENT }, "ERR_IDENTITY_CONFLICT"],
    ["another kind", { tenantId: TENANT, name: "web", clientId: CLIENT, resourceId: RESOURCE }, "ERR_IDENTITY_CONFLICT"],
    ["a client id in capitals", { tenantId: TENANT, name: "web", clientId: CLIENT.toUpperCase() }, "ERR_IDENTITY_ARGUMENT"],
    ["a tenant that is none", { tenantId: "x", name: "web" }, "ERR_IDENTITY_ARGUMENT"],
    ["no name", { tenantId: TENANT, name: "" }, "ERR_IDENTITY_ARGUMENT"],
    ["a name with a line", { tenantId: TENANT, name: "a\nb" }, "ERR_IDENTITY_ARGUMENT"],
    ["a resource of another kind", { tenantId: TENANT, name: "x", resourceId: RESOURCE.replace("ManagedIdentity", "Compute") }, "ERR_IDENTITY_ARGUMENT"],
    ["a resource with a path in its name", { tenantId: TENANT, name: "x", resourceId: `${RESOURCE}/../y` }, "ERR_IDENTITY_ARGUMENT"],
  ])("are refused with %s", async (_what, request, code) => {
    await expect(store.registerApplication(request)).rejects.toMatchObject({ code });
  });

  it("are of the tenant that has used their subscription first, until an operator says otherwise", async () => {
    const subscription = "99999999-aaaa-4bbb-8ccc-dddddddddddd";
    const at = (name: string): string => RESOURCE.replace(TENANT, subscription).replace("web-identity", name);
    const made = await store.registerApplication({ tenantId: TENANT, name: "first", resourceId: at("first") });
    const squat = async (): Promise<unknown> =>
      store.registerApplication({ tenantId: OTHER, name: "second", resourceId: at("second").replace(subscription, subscription.toUpperCase()) });
    const refusal = await squat().catch((error: unknown) => error as Error & { code: string });
    expect(refusal).toMatchObject({ code: "ERR_IDENTITY_CONFLICT", message: `subscription ${subscription} belongs to another tenant` });
    await expect(store.assignSubscription(subscription, OTHER)).rejects.toMatchObject({ code: "ERR_IDENTITY_CONFLICT" });
    await store.deleteApplication(made.clientId);
    // Its tokens may live on, and rules elsewhere that name its identities.
    await expect(squat()).rejects.toMatchObject({ code: "ERR_IDENTITY_CONFLICT" });
    await store.assignSubscription(subscription, OTHER, "operator");
    await squat();
    await expect(store.registerApplication({ tenantId: TENANT, name: "first", resourceId: at("first") })).rejects.toMatchObject({
      code: "ERR_IDENTITY_CONFLICT",
    });
    expect(await store.audit({ tenant: OTHER })).toMatchObject([
      { action: "application.create" },
      { action: "subscription.assign", actor: "operator", target: subscription },
    ]);
  });

  it("tell another tenant nothing about whose a client id is", async () => {
    for (const request of [{ clientId: CLIENT }, { clientId: CLIENT, resourceId: RESOURCE.replace(TENANT, OTHER) }]) {
      await expect(store.registerApplication({ tenantId: OTHER, name: "x", ...request })).rejects.toMatchObject({
        code: "ERR_IDENTITY_CONFLICT",
        message: `client id ${CLIENT} is taken: it belongs to another tenant`,
      });
    }
  });

  it("go with their credentials", async () => {
    await store.addFederatedCredential(CLIENT, { name: "web", issuer: CLUSTER, subject: SUBJECT, audiences: [TOKEN_EXCHANGE_AUDIENCE] });
    const { secret } = await store.createClientSecret(CLIENT);
    expect(await store.deleteApplication(CLIENT)).toBe(true);
    expect(await store.deleteApplication(CLIENT)).toBe(false);
    await store.registerApplication({ tenantId: TENANT, name: "again", clientId: CLIENT });
    expect(await store.federatedCredentials(CLIENT)).toEqual([]);
    await expect(store.verifyClientSecret(CLIENT, secret)).rejects.toMatchObject({ code: "ERR_IDENTITY_SECRET" });
  });

  const credential = { name: "web", issuer: CLUSTER, subject: SUBJECT, audiences: [TOKEN_EXCHANGE_AUDIENCE] };
  it("refuse a second credential of a name, or for an issuer and subject, and the 21st; also when all come at once", async () => {
    await store.addFederatedCredential(CLIENT, credential);
    await expect(store.addFederatedCredential(CLIENT, { ...credential, subject: "other" })).rejects.toMatchObject({ code: "ERR_IDENTITY_CONFLICT" });
    await expect(store.addFederatedCredential(CLIENT, { ...credential, name: "other" })).rejects.toMatchObject({ code: "ERR_IDENTITY_CONFLICT" });
    await store.addFederatedCredential(CLIENT, { ...credential, subject: "changed" }, "test", true);
    expect(await store.federatedCredentials(CLIENT)).toMatchObject([{ subject: "changed" }]);
    const results = await Promise.allSettled(
      Array.from({ length: 25 }, async (_, at) => store.addFederatedCredential(CLIENT, { ...credential, name: `cred-${at}`, subject: `s${at}` })),
    );
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(19);
    expect(await store.federatedCredentials(CLIENT)).toHaveLength(20);
    // In place of one of its own there is room.
    await store.addFederatedCredential(CLIENT, { ...credential, subject: "again" }, "test", true);
  });

  it.each([
    [{ name: "ab" }, /3 to 120/],
    [{ name: "a b c" }, /3 to 120/],
    [{ name: "-abc" }, /3 to 120/],
    [{ name: "a".repeat(121) }, /3 to 120/],
    [{ issuer: "http://cluster.test" }, /https URL/],
    [{ issuer: "https://cluster.test?x" }, /https URL/],
    [{ issuer: "https://me@cluster.test" }, /https URL/],
    [{ issuer: `https://${"a".repeat(600)}` }, /https URL/],
    [{ issuer: `${CLUSTER} ` }, /white space/],
    [{ subject: "" }, /must not be empty/],
    [{ subject: `${SUBJECT}\n` }, /white space/],
    [{ subject: "s".repeat(601) }, /601 characters/],
    [{ audiences: [] }, /must not be empty/],
    [{ audiences: [""] }, /must not be empty/],
    [{ audiences: [" a"] }, /white space/],
    [{ audiences: Array.from({ length: 11 }, (_, at) => `a${at}`) }, /11 audiences/],
  ])("refuse the credential %j", async (change, message) => {
    await expect(store.addFederatedCredential(CLIENT, { ...credential, ...change })).rejects.toThrow(message);
    await expect(store.addFederatedCredential(CLIENT, { ...credential, ...change })).rejects.toMatchObject({ code: "ERR_IDENTITY_ARGUMENT" });
  });

  it("have several secrets, each until its end or until it is taken back", async () => {
    const long = await store.createClientSecret(CLIENT, { name: "long" });
    const short = await store.createClientSecret(CLIENT, { name: "short", expires: time + DAY });
    expect(long.hint).toBe(long.secret.slice(0, 3));
    expect(JSON.stringify(await store.clientSecrets(CLIENT))).not.toContain(long.secret);
    for (const { secret } of [long, short]) await store.verifyClientSecret(CLIENT, secret);
    time += DAY;
    await expect(store.verifyClientSecret(CLIENT, short.secret)).rejects.toMatchObject({ code: "ERR_IDENTITY_SECRET", details: { expired: true } });
    await store.verifyClientSecret(CLIENT, long.secret);
    expect(await store.removeClientSecret(CLIENT, long.keyId)).toBe(true);
    expect(await store.removeClientSecret(CLIENT, long.keyId)).toBe(false);
    await expect(store.verifyClientSecret(CLIENT, long.secret)).rejects.toMatchObject({ code: "ERR_IDENTITY_SECRET" });
    const only = await store.createClientSecret(CLIENT, { replace: true });
    expect(await store.clientSecrets(CLIENT)).toMatchObject([{ keyId: only.keyId }]);
  });

  it.each([START - 1, START, START + 800 * DAY, Number.NaN, 1.5])("have no secret that ends at %d", async (expires) => {
    await expect(store.createClientSecret(CLIENT, { expires })).rejects.toMatchObject({ code: "ERR_IDENTITY_ARGUMENT" });
  });

  it("take no more than 20 secrets, and none for who is not registered", async () => {
    for (let at = 0; at < 20; at++) await store.createClientSecret(CLIENT);
    await expect(store.createClientSecret(CLIENT)).rejects.toMatchObject({ code: "ERR_IDENTITY_CONFLICT" });
    await expect(store.createClientSecret(OTHER)).rejects.toMatchObject({ code: "ERR_IDENTITY_CLIENT" });
    await expect(store.addFederatedCredential(OTHER, credential)).rejects.toMatchObject({ code: "ERR_IDENTITY_CLIENT" });
  });

  it.each([
    ["nothing", new Uint8Array()],
    ["what is no certificate", new Uint8Array(100).fill(0x30)],
    ["what is too large", new Uint8Array(20_000)],
  ])("refuse as a certificate %s", async (_what, der) => {
    await expect(store.addClientCertificate(CLIENT, der)).rejects.toMatchObject({ code: "ERR_IDENTITY_ARGUMENT" });
  });

  it("leave a line in the audit with each change, and with none that failed", async () => {
    const [before] = await store.audit({ limit: 1 });
    await store.addFederatedCredential(CLIENT, credential, "alice");
    await expect(store.addFederatedCredential(CLIENT, credential, "bob")).rejects.toThrow();
    await store.removeFederatedCredential(CLIENT, "web", "alice");
    await store.removeFederatedCredential(CLIENT, "web", "bob");
    const lines = (await store.audit()).filter(({ id }) => id > (before?.id ?? 0));
    expect(lines).toMatchObject([
      { actor: "alice", action: "credential.delete", tenant: TENANT, target: `${CLIENT}/web`, time: START },
      { actor: "alice", action: "credential.create", detail: { issuer: CLUSTER, subject: SUBJECT } },
    ]);
    expect(await store.audit({ before: lines[0]?.id ?? 0, limit: 1 })).toEqual([lines[1]]);
    // Lines of the whole service name who rotated its keys: they are of no tenant.
    expect((await store.audit({ limit: 1000 })).filter(({ tenant }) => tenant === "")).not.toEqual([]);
    expect(await store.audit({ tenant: "cccccccc-cccc-4ccc-8ddd-eeeeeeeeeeee", limit: 1000 })).toEqual([]);
    expect((await store.audit({ tenant: TENANT, limit: 1000 })).every(({ tenant }) => tenant === TENANT)).toBe(true);
  });
});

describe("the database", () => {
  it("keeps everything over a restart, seals its keys and hashes its secrets", async () => {
    const first = await openIdentityStore(options());
    await first.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT });
    const { secret } = await first.createClientSecret(CLIENT);
    const { kid } = first.signingKeys("cluster")[0];
    await first.close();
    const bytes = readFileSync(join(directory, "identity.sqlite"));
    expect(bytes.includes("PRIVATE KEY")).toBe(false);
    expect(bytes.includes(secret)).toBe(false);
    const second = await openIdentityStore(options({ masterKey: new Uint8Array(MASTER_KEY) }));
    expect(second.signingKeys("cluster")[0].kid).toBe(kid);
    await second.verifyClientSecret(CLIENT, secret);
    await second.close();
    await expect(openIdentityStore(options({ masterKey: new Uint8Array(32).fill(8) }))).rejects.toMatchObject({ code: "ERR_IDENTITY_STORE" });
    await expect(openIdentityStore({ url: ":memory:", clock, random })).rejects.toMatchObject({ code: "ERR_IDENTITY_ARGUMENT" });
    await expect(openIdentityStore(options({ clusters: ["A"] }))).rejects.toMatchObject({ code: "ERR_IDENTITY_ARGUMENT" });
    await expect(openIdentityStore(options({ clusters: ["a", "a"] }))).rejects.toMatchObject({ code: "ERR_IDENTITY_ARGUMENT" });
  });

  it.each([
    ["copied from another purpose", "UPDATE token_keys SET sealed = (SELECT sealed FROM token_keys WHERE purpose = 'tenant') WHERE purpose = 'cluster'"],
    [
      "published under another's public half",
      "UPDATE token_keys SET public_key = (SELECT public_key FROM token_keys WHERE purpose = 'tenant') WHERE purpose = 'cluster'",
    ],
  ])("does not open a key that was %s", async (_what, sql) => {
    await (await openIdentityStore(options())).close();
    const database = new DatabaseSync(join(directory, "identity.sqlite"));
    database.exec(sql);
    database.close();
    await expect(openIdentityStore(options())).rejects.toMatchObject({ code: "ERR_IDENTITY_STORE" });
  });

  it("refuses changes of its audit", async () => {
    await (await openIdentityStore(options())).close();
    const database = new DatabaseSync(join(directory, "identity.sqlite"));
    expect(() => database.exec("UPDATE audit SET actor = 'nobody'")).toThrow(/append-only/);
    expect(() => database.exec("DELETE FROM audit")).toThrow(/append-only/);
    database.close();
  });

  // What testdata/README.md says of the file.
  const legacy = {
    secret: "FnlO5tRMeUCzLVrdM6Em9mXKCGqS_14OrKQumIFlTL4",
    cluster: ["68jlJCsiJE0cj5uWYY4szE8bhek44VDnQPT8XZLSssk", "a-o0jxRoAen1uMPyHbqsn7mW6aZTnEE_3kfjd3cnHiU"],
    tenant: ["mrmqibUeDw54cbeq0IXF9rnZk37rRSX7jWbx5Gg3SQQ"],
    objectId: "4e53528a-fed3-4ea4-92a1-def4607ba121",
  };
  it("carries over a database of schema 1: keys in their order, applications, credentials, secrets", async () => {
    copyFileSync(join(import.meta.dirname, "testdata/schema-1.sqlite"), join(directory, "identity.sqlite"));
    const kids = (store: IdentityStore, purpose: "cluster" | "tenant"): readonly string[] => store.signingKeys(purpose).map(({ kid }) => kid);
    for (let opening = 0; opening < 2; opening++) {
      // The second time it is one of today, and needs the bytes of the master key no more.
      const store = await openIdentityStore(options(opening === 0 ? {} : { master: masterKeyOfBytes(MASTER_KEY, random) }));
      expect(kids(store, "cluster")).toEqual(legacy.cluster);
      expect(kids(store, "tenant")).toEqual(legacy.tenant);
      expect(await store.application(CLIENT)).toMatchObject({ objectId: legacy.objectId, kind: "application", name: "web" });
      expect(await store.federatedCredentials(CLIENT)).toMatchObject([
        { name: "kubernetes", issuer: CLUSTER, subject: SUBJECT, audiences: [TOKEN_EXCHANGE_AUDIENCE] },
      ]);
      await store.verifyClientSecret("cccccccc-bbbb-4ccc-8ddd-eeeeeeeeeeee", legacy.secret);
      await expect(store.verifyClientSecret("cccccccc-bbbb-4ccc-8ddd-eeeeeeeeeeee", `${legacy.secret}x`)).rejects.toMatchObject({
        code: "ERR_IDENTITY_SECRET",
      });
      await store.close();
    }
  });

  it("carries over a database of schema 4: subscriptions are of the tenant whose identity in them is the oldest", async () => {
    await (await openIdentityStore(options())).close();
    const database = new DatabaseSync(join(directory, "identity.sqlite"));
    // What it was before its fifth step.
    database.exec("DROP TABLE subscriptions; PRAGMA user_version = 4");
    const insert = database.prepare(
      "INSERT INTO applications (client_id, tenant_id, object_id, name, kind, resource_id, resource_key, created) VALUES (?, ?, ?, 'n', 'managedIdentity', ?, ?, ?)",
    );
    for (const [tenant, name, created] of [
      [OTHER, "later", 2],
      [TENANT, "sooner", 1],
    ] as const) {
      const id = RESOURCE.replace("web-identity", name);
      insert.run(name, tenant, name, id, id.toLowerCase(), created);
    }
    database.close();
    await using store = await openIdentityStore(options());
    await store.registerApplication({ tenantId: TENANT, name: "n", resourceId: RESOURCE });
    const refused = store.registerApplication({ tenantId: OTHER, name: "n", resourceId: RESOURCE.replace("web-identity", "third") });
    await expect(refused).rejects.toMatchObject({ code: "ERR_IDENTITY_CONFLICT" });
    expect(await store.managedIdentity(RESOURCE.replace("web-identity", "later"))).toMatchObject({ tenantId: OTHER });
  });

  it("leaves a database of schema 1 as it is if its master key is another, or its bytes are not given", async () => {
    copyFileSync(join(import.meta.dirname, "testdata/schema-1.sqlite"), join(directory, "identity.sqlite"));
    await expect(openIdentityStore({ url: options().url, master: masterKeyOfBytes(MASTER_KEY, random), clock, random })).rejects.toThrow(/older version/);
    await expect(openIdentityStore(options({ masterKey: new Uint8Array(32).fill(9) }))).rejects.toMatchObject({ code: "ERR_IDENTITY_STORE" });
    const store = await openIdentityStore(options());
    expect(store.signingKeys("tenant").map(({ kid }) => kid)).toEqual(legacy.tenant);
    await store.close();
  });
});

describe("signing keys", () => {
  const rotation = { every: 90 * DAY, overlap: DAY };
  const states = (store: IdentityStore): readonly string[] => store.signingKeys("cluster").map(({ state }) => state);

  it("follow their schedule: published, then signing, then retired, then gone", async () => {
    await using store = await openIdentityStore(options({ rotation }));
    const [first] = store.signingKeys("cluster");
    expect(await store.rotate()).toEqual([]);
    time += 89 * DAY;
    expect(await store.rotate()).toEqual(["publish-key", "publish-key"]);
    expect(states(store)).toEqual(["active", "next"]);
    expect(store.signingKeys("cluster")[0].kid).toBe(first.kid);
    expect(await store.rotate()).toEqual([]);
    const next = store.signingKeys("cluster")[1];
    expect(next?.signsFrom).toBe(START + 90 * DAY);
    time += DAY - 1;
    expect(store.signingKeys("cluster")[0].kid).toBe(first.kid);
    time += 1;
    // At that moment, without a word from anybody.
    expect(store.signingKeys("cluster")[0].kid).toBe(next?.kid);
    expect(states(store)).toEqual(["active", "retired"]);
    time += 5 * 60_000;
    expect(await store.rotate()).toEqual(["erase-key", "erase-key"]);
    expect(states(store)).toEqual(["active", "retired"]);
    expect(await store.findKey("cluster", "default", first.kid)).toBeDefined();
    time += DAY + 3_600_000;
    expect(await store.rotate()).toEqual(["remove-key", "remove-key"]);
    expect(states(store)).toEqual(["active"]);
    expect((await store.audit({ limit: 20 })).map(({ action }) => action)).toEqual(
      ["remove", "remove", "erase", "erase", "publish", "publish", "create", "create"].map((step) => `key.${step}`),
    );
  });

  it("are published for the overlap also after a service was down for long, and readiness says so until then", async () => {
    await using store = await openIdentityStore(options({ rotation }));
    time += 200 * DAY;
    expect(() => store.checkRotation()).toThrow(/should have been replaced/);
    await store.rotate();
    expect(() => store.checkRotation()).not.toThrow();
    expect(states(store)).toEqual(["active", "next"]);
    time += DAY;
    expect(states(store)).toEqual(["active", "retired"]);
  });

  it("that sign no more leave no private half behind", async () => {
    await using store = await openIdentityStore(options({ rotation }));
    await store.rotateSigningKey("tenant");
    time += 5 * 60_000;
    expect(await store.rotate()).toEqual(["erase-key"]);
    const database = new DatabaseSync(join(directory, "identity.sqlite"), { readOnly: true });
    expect(database.prepare("SELECT count(*) AS found FROM token_keys WHERE purpose = 'tenant' AND sealed IS NOT NULL").get()).toEqual({ found: 1 });
    database.close();
  });

  it("of replicas: one publishes for both, both sign with one key at one time, and find each other's", async () => {
    await using left = await openIdentityStore(options({ rotation }));
    await using right = await openIdentityStore(options({ rotation }));
    expect(right.signingKeys("tenant")[0].kid).toBe(left.signingKeys("tenant")[0].kid);
    time += 89 * DAY;
    const steps = (await Promise.all([left.rotate(), right.rotate()])).flat();
    expect(steps).toEqual(["publish-key", "publish-key"]);
    time += 60_000;
    await Promise.all([left.rotate(), right.rotate()]);
    time += DAY;
    expect(right.signingKeys("tenant")[0].kid).toBe(left.signingKeys("tenant")[0].kid);
    expect(right.signingKeys("tenant")).toHaveLength(2);
    time += 5000;
    const fresh = await left.rotateSigningKey("cluster");
    expect(await right.findKey("cluster", "default", fresh.kid)).toMatchObject({ kid: fresh.kid });
  });

  it("are made on request: after the overlap, at once, or in place of all others", async () => {
    await using store = await openIdentityStore(options({ rotation, clusters: ["main"] }));
    const [first] = store.signingKeys("cluster", "main");
    const next = await store.rotateSigningKey("cluster", { scope: "main", when: "overlap" });
    expect(next).toMatchObject({ state: "next", signsFrom: START + DAY });
    await expect(store.rotateSigningKey("cluster", { scope: "main", when: "overlap" })).rejects.toMatchObject({ code: "ERR_IDENTITY_CONFLICT" });
    const now = await store.rotateSigningKey("cluster", { scope: "main", when: "now" });
    expect(store.signingKeys("cluster", "main").map(({ kid, state }) => [kid, state])).toEqual([
      [now.kid, "active"],
      [next.kid, "next"],
      [first.kid, "retired"],
    ]);
    const only = await store.rotateSigningKey("cluster", { scope: "main", revoke: true }, "alice");
    expect(store.signingKeys("cluster", "main").map(({ kid }) => kid)).toEqual([only.kid]);
    expect(await store.findKey("cluster", "main", first.kid)).toBeUndefined();
    await expect(store.rotateSigningKey("cluster", { scope: "other" })).rejects.toMatchObject({ code: "ERR_IDENTITY_NOT_FOUND" });
  });

  it("of a strange name are not looked up for each token that invents one", async () => {
    await using store = await openIdentityStore(options());
    await using other = await openIdentityStore(options());
    const fresh = await other.rotateSigningKey("tenant");
    expect(await store.findKey("tenant", "default", fresh.kid)).toBeUndefined();
    time += 5000;
    expect(await store.findKey("tenant", "default", fresh.kid)).toBeDefined();
  });
});
