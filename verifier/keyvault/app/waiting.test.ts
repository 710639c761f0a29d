import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  ALL,
  APPID,
  auditOf,
  bearer,
  call,
  grant,
  HSM,
  importBody,
  KEYS,
  MAA,
  maaClaims,
  maaToken,
  openWorld,
  publicJwk,
  TENANT,
  token,
  VAULT,
  type Answer,
  type Json,
  type World,
} from "../testdata/world.ts";

// What a request was let in with may be gone by the time that what it waited for is there.

const V = "api-version=7.4";
const HOUR = 3600 * 1000;
const CALLER = { tenantId: TENANT, id: APPID };
const LATE = { exp: 4_000_000_000 };

let world: World;
beforeEach(async () => {
  world = await openWorld();
  await call(world, "PUT", `${VAULT}/keys/app?${V}`, importBody());
});
afterEach(async () => {
  await world.store.close();
});

const release = (target: string, base = VAULT, name = "app"): Promise<Answer> => call(world, "POST", `${base}/keys/${name}/release?${V}`, { target });
const lines = async (): Promise<unknown[]> => (await auditOf(world, { operation: "keys/release" })).map(({ outcome, failed }) => [outcome, failed]);

const CHANGES: readonly (readonly [what: string, change: () => unknown, status: number, failed: string])[] = [
  [
    "the permission was taken away",
    () =>
      grant(
        world.store,
        "demo",
        CALLER,
        ALL.filter((permission) => permission !== "release"),
      ),
    403,
    "access",
  ],
  ["the token of its caller expired", () => (world.time += 2 * HOUR), 401, "access"],
];
const NOTHING = ["nothing happened", () => undefined, 200, undefined] as const;

describe("a request whose body comes late", () => {
  // Otherwise it would be decided anew because it waits for the authority.
  beforeEach(async () => expect((await release(maaToken())).status).toBe(200));

  /** Sends half of a body, and the rest after `change` if the application still wants it. */
  const slowly = async (path: string, body: Json, change: () => unknown): Promise<Response> => {
    const bytes = new TextEncoder().encode(JSON.stringify(body));
    const read = Promise.withResolvers<undefined>();
    let sent = 0;
    const stream = new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          if (sent++ === 0) return controller.enqueue(bytes.subarray(0, 10));
          read.resolve(undefined);
          await changed;
          controller.enqueue(bytes.subarray(10));
          return controller.close();
        },
      },
      { highWaterMark: 0 },
    );
    const changed = read.promise.then(change);
    const headers = { authorization: `Bearer ${bearer()}`, "content-type": "application/json" };
    return world.app.request(new Request(`${VAULT}/${path}?${V}`, { method: "POST", body: stream, duplex: "half", headers } as RequestInit));
  };

  it.each([...CHANGES, NOTHING])("is decided when it is there: %s", async (_what, change, status, failed) => {
    expect((await slowly("keys/app/release", { target: maaToken(LATE) }, change)).status).toBe(status);
    expect(await lines()).toEqual([
      [failed === undefined ? "allowed" : "refused", failed],
      ["allowed", undefined],
    ]);
  });

  it("is refused for every operation", async () => {
    const gone = (): unknown => grant(world.store, "demo", CALLER, []);
    expect((await slowly("keys/app/encrypt", { alg: "A256GCM", value: "AAAA" }, gone)).status).toBe(403);
  });
});

describe("a release that waits for its authority", () => {
  const duringFetch = (change: () => unknown): void => {
    const document = world.documents.get(`${MAA}/certs`);
    world.documents.set(`${MAA}/certs`, async () => {
      await change();
      return Response.json(document);
    });
  };

  const disable = (): unknown => call(world, "PATCH", `${VAULT}/keys/app?${V}`, { attributes: { enabled: false } });
  it.each([...CHANGES, ["the key was disabled", disable, 403, "key"] as const, NOTHING])(
    "is decided when that has answered: %s",
    async (_what, change, status, failed) => {
      duringFetch(change);
      const { body, ...answer } = await release(maaToken(LATE));
      expect(answer.status).toBe(status);
      expect("value" in body).toBe(failed === undefined);
      expect(await lines()).toEqual([[failed === undefined ? "allowed" : "refused", failed]]);
      if (status === 401) expect(answer.headers.get("www-authenticate")).toContain("Bearer authorization=");
    },
  );
});

describe("authorities that never answer", () => {
  it("hold up neither the releases of another vault, nor those that rest on an authority that has answered", async () => {
    const never = new Promise<Response>(() => undefined);
    const slow = Array.from({ length: 30 }, (_, index) => `https://slow.test/${index}`);
    for (const issuer of slow) world.documents.set(`${issuer}/.well-known/openid-configuration`, () => never);
    expect((await release(maaToken())).status).toBe(200);
    const other = "https://other.test";
    world.documents.set(`${other}/.well-known/openid-configuration`, { jwks_uri: `${other}/certs` });
    world.documents.set(`${other}/certs`, { keys: [publicJwk(KEYS.maa.publicKey, "maa-1")] });
    const policy = { version: "1.0.0", anyOf: [{ authority: other, allOf: [{ claim: "iss", equals: other }] }] };
    await call(world, "PUT", `${HSM}/keys/app?${V}`, importBody(policy));
    const anyOf = slow.map((authority) => ({ authority, allOf: [{ claim: "a", equals: "b" }] }));
    expect((await call(world, "PUT", `${VAULT}/keys/slow?${V}`, importBody({ version: "1.0.0", anyOf }))).status).toBe(200);
    const forged = slow.map((iss) => token({ alg: "RS256", kid: "x", typ: "JWT" }, maaClaims({ iss }), KEYS.attacker.privateKey));
    const asked = forged.map((target) => release(target, VAULT, "slow"));
    // All that are not asked are refused at once; the others hang.
    for (const answer of await Promise.all(asked.slice(4))) expect(answer.status).toBe(503);
    expect(world.fetched.filter((url) => url.startsWith("https://slow.test/"))).toHaveLength(4);
    expect((await release(maaToken())).status).toBe(200);
    // This one was never asked before.
    expect((await release(maaToken({ iss: other }), HSM)).status).toBe(200);
    world.time += 10_000;
    world.documents.set(`${MAA}/certs`, { keys: [publicJwk(KEYS.maa.publicKey, "maa-2")] });
    expect((await release(maaToken({}, KEYS.maa.privateKey, "maa-2"))).status).toBe(200);
  });
});
