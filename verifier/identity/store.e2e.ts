import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startPostgres } from "@sealpod/storage/testing";
import { issueServiceAccountToken, openIdentityStore, type IdentityStore } from "./index.ts";
import { CLIENT, CLUSTER, random, START, SUBJECT, TENANT } from "./testdata/support.ts";

const DAY = 86_400_000;
const MASTER_KEY = new Uint8Array(32).fill(7);

const directory = mkdtempSync(join(tmpdir(), "sealpod-identity-"));
let postgres: Awaited<ReturnType<typeof startPostgres>>;
beforeAll(async () => {
  postgres = await startPostgres();
});
afterAll(async () => {
  await postgres.stop();
  rmSync(directory, { recursive: true });
});

describe.each([
  ["SQLite", () => join(directory, "identity.sqlite")],
  ["PostgreSQL", () => postgres.url],
])("two replicas on %s", (_engine, url) => {
  let time = START;
  const clock = { now: () => time };
  let left: IdentityStore;
  let right: IdentityStore;
  const open = async (): Promise<IdentityStore> => openIdentityStore({ url: url(), masterKey: MASTER_KEY, clock, random });
  beforeAll(async () => {
    // Both at once: one makes the schema and the keys, the other finds them.
    [left, right] = await Promise.all([open(), open()]);
  });
  afterAll(async () => {
    await left.close();
    await right.close();
  });

  it("have the same keys, and see each other's applications at once", async () => {
    for (const purpose of ["tenant", "cluster"] as const)
      expect(right.signingKeys(purpose).map(({ kid }) => kid)).toEqual(left.signingKeys(purpose).map(({ kid }) => kid));
    await left.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT });
    expect(await right.application(CLIENT)).toMatchObject({ name: "web", kind: "application", created: START });
    const { secret } = await right.createClientSecret(CLIENT, { expires: START + DAY });
    await left.verifyClientSecret(CLIENT, secret);
    await expect(left.verifyClientSecret(CLIENT, "x")).rejects.toMatchObject({ code: "ERR_IDENTITY_SECRET" });
  });

  it("let no more than 20 credentials in, whichever of them is asked", async () => {
    const credential = { issuer: CLUSTER, audiences: ["api://AzureADTokenExchange"] };
    const results = await Promise.allSettled(
      Array.from({ length: 24 }, async (_, at) =>
        (at % 2 === 0 ? left : right).addFederatedCredential(CLIENT, { ...credential, name: `cred-${at}`, subject: `${SUBJECT}${at}` }),
      ),
    );
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(20);
    for (const result of results) if (result.status === "rejected") expect(result.reason).toMatchObject({ code: "ERR_IDENTITY_CONFLICT" });
    expect(await right.federatedCredentials(CLIENT)).toEqual(await left.federatedCredentials(CLIENT));
    const name = (await left.federatedCredentials(CLIENT))[0]?.name ?? "";
    expect(await left.removeFederatedCredential(CLIENT, name)).toBe(true);
    expect(await right.removeFederatedCredential(CLIENT, name)).toBe(false);
  });

  it("register one application once, however many ask", async () => {
    const request = {
      tenantId: TENANT,
      name: "same",
      resourceId: `/subscriptions/${TENANT}/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/same`,
    };
    const made = await Promise.all([left, right, left, right].map(async (store) => store.registerApplication(request)));
    expect(new Set(made.map(({ clientId }) => clientId)).size).toBe(1);
  });

  it("publish one key when it is time, and both sign with it from one moment on", async () => {
    const [before] = left.signingKeys("cluster");
    time += 89 * DAY;
    const steps = (await Promise.all([left.rotate(), right.rotate()])).flat();
    expect(steps).toEqual(["publish-key", "publish-key"]);
    time += 60_000;
    await Promise.all([left.rotate(), right.rotate()]);
    time += DAY;
    const keys = left.signingKeys("cluster").map(({ kid }) => kid);
    expect(keys).toHaveLength(2);
    expect(keys[1]).toBe(before.kid);
    expect(right.signingKeys("cluster").map(({ kid }) => kid)).toEqual(keys);
    const { token } = await issueServiceAccountToken(
      { issuer: CLUSTER, store: right, clock, random },
      { namespace: "default", serviceAccount: { name: "web", uid: "u" } },
    );
    const { kid } = JSON.parse(Buffer.from(token.split(".")[0] ?? "", "base64url").toString()) as { kid: string };
    expect(kid).toBe(keys[0]);
  });

  it("keep an audit that tells all of it, in order", async () => {
    const lines = await left.audit({ limit: 1000 });
    expect(lines).toEqual(await right.audit({ limit: 1000 }));
    const of = (action: string): number => lines.filter((line) => line.action === action).length;
    expect([of("key.create"), of("application.create"), of("credential.create"), of("credential.delete"), of("key.publish")]).toEqual([2, 2, 20, 1, 2]);
    expect(lines.map(({ id }) => id)).toEqual(lines.map(({ id }) => id).sort((a, b) => b - a));
  });

  it("go when the application goes", async () => {
    expect(await right.deleteApplication(CLIENT)).toBe(true);
    expect(await left.federatedCredentials(CLIENT)).toEqual([]);
    await left.check();
  });
});
