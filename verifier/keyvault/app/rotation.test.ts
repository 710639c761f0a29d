import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { messageOf } from "@sealpod/core";
import { RSA_GENERATION } from "../fair-queue.ts";
import { rotateDue } from "../index.ts";
import { addDuration, parseRotationPolicy, rotationDue } from "../rotation-policy.ts";
import {
  ALL,
  APPID,
  auditOf,
  bearer,
  call as callAs,
  grant,
  importBody,
  MAA,
  maaToken,
  NOW,
  openRelease,
  openWorld,
  POLICY,
  random,
  segment,
  START,
  TENANT,
  VAULT,
  type Answer,
  type Json,
  type World,
} from "../testdata/world.ts";

const V = "api-version=7.4";
const DAY = 86_400;

let world: World;
beforeEach(async () => {
  world = await openWorld();
});
afterEach(async () => {
  await world.store.close();
});

/** Rotation takes months: the token lasts as long. */
const call = (to: World, method: string, url: string, body?: unknown): Promise<Answer> =>
  callAs(to, method, url, body, { authorization: `Bearer ${bearer({ exp: NOW + 1000 * DAY })}` });
const policyUrl = (name: string): string => `${VAULT}/keys/${name}/rotationpolicy?${V}`;
const put = (name: string, policy: unknown): Promise<Answer> => call(world, "PUT", policyUrl(name), policy);
const policy = (trigger: Json, expiryTime?: string): Json => ({ lifetimeActions: [{ trigger, action: { type: "Rotate" } }], attributes: { expiryTime } });
const create = (name: string, body: Json = { kty: "EC" }): Promise<Answer> => call(world, "POST", `${VAULT}/keys/${name}/create?${V}`, body);
const run = (): Promise<number> =>
  rotateDue({
    store: world.store,
    clock: { now: () => world.time },
    random,
    logger: { log: (_level, message, fields = {}) => void world.logs.push({ message, fields }) },
  });
const versions = async (name: string): Promise<string[]> =>
  ((await call(world, "GET", `${VAULT}/keys/${name}/versions?${V}`)).body as unknown as { value: { kid: string }[] }).value.map(({ kid }) => kid.slice(-32));
const latest = async (name: string): Promise<{ key: Json; attributes: Json }> => (await call(world, "GET", `${VAULT}/keys/${name}?${V}`)).body as never;

describe("rotate", () => {
  it("makes a version of the same kind with new material", async () => {
    const release = { attributes: { exportable: true }, release_policy: { data: segment(POLICY), immutable: true } };
    for (const [name, body] of [
      ["ec", { kty: "EC-HSM", crv: "P-521", key_ops: ["sign"], tags: { a: "b" }, ...release }],
      ["rsa", { kty: "RSA", key_size: 3072, key_ops: ["verify", "sign"] }],
      ["oct", { kty: "oct-HSM", key_size: 192, ...release }],
    ] as const) {
      const before = (await create(name, body)).body as unknown as { key: Json; attributes: Json; tags: Json };
      world.time += 1000;
      const rotated = await call(world, "POST", `${VAULT}/keys/${name}/rotate?${V}`);
      expect(rotated.status).toBe(200);
      const after = rotated.body as unknown as typeof before;
      expect(after.key["kid"]).not.toBe(before.key["kid"]);
      expect([after.key["kty"], after.key["crv"], after.key["key_ops"], after.tags]).toEqual([
        before.key["kty"],
        before.key["crv"],
        before.key["key_ops"],
        before.tags,
      ]);
      expect(JSON.stringify(after.key["n"] ?? "")).toHaveLength(JSON.stringify(before.key["n"] ?? "").length);
      if (name !== "oct") expect([after.key["n"], after.key["x"]]).not.toEqual([before.key["n"], before.key["x"]]);
      expect(after.attributes).toEqual({ ...before.attributes, created: world.time / 1000, updated: world.time / 1000 });
      expect((rotated.body as Json)["release_policy"]).toEqual((before as unknown as Json)["release_policy"]);
      expect(await versions(name)).toHaveLength(2);
    }
    const open = async (id: string): Promise<Buffer> =>
      (await openRelease((await call(world, "POST", `${VAULT}/keys/oct${id}/release?${V}`, { target: maaToken() })).body.value)).plaintext;
    const [one, two] = (await versions("oct")).map((version) => `/${version}`);
    const keys = [await open(one ?? ""), await open(two ?? "")];
    expect(keys.map(({ length }) => length)).toEqual([24, 24]);
    expect(keys[0]).not.toEqual(keys[1]);
  });

  it("keeps the length of an imported key that nobody could create, and gives the expiry of the policy", async () => {
    await call(world, "PUT", `${VAULT}/keys/app?${V}`, importBody(POLICY, { key: { kty: "oct-HSM", k: Buffer.alloc(64, 1).toString("base64url") } }));
    await put("app", policy({ timeAfterCreate: "P30D" }, "P1Y"));
    const { body } = await call(world, "POST", `${VAULT}/keys/app/rotate?${V}`);
    expect((body as Json)["attributes"]).toMatchObject({ exp: Date.UTC(2027, 0, 15, 12) / 1000 });
    const { plaintext } = await openRelease((await call(world, "POST", `${VAULT}/keys/app/release?${V}`, { target: maaToken() })).body.value);
    expect(plaintext).toHaveLength(64);
    expect(plaintext).not.toEqual(Buffer.alloc(64, 1));
  });

  it("refuses what is not there or disabled", async () => {
    expect((await call(world, "POST", `${VAULT}/keys/none/rotate?${V}`)).body.error?.code).toBe("KeyNotFound");
    await create("app", { kty: "EC", attributes: { enabled: false } });
    expect((await call(world, "POST", `${VAULT}/keys/app/rotate?${V}`)).body.error).toMatchObject({ innererror: { code: "KeyDisabled" } });
  });

  describe("that takes its time", () => {
    const STRICT = { version: "1.0.0", anyOf: [{ authority: MAA, allOf: [{ claim: "x-ms-sevsnpvm-hostdata", equals: "00".repeat(32) }] }] };

    /** What comes of a rotation during which something else happens: the new material is waited for. */
    const during = async <T>(begin: () => Promise<T>, meanwhile: () => Promise<unknown>): Promise<T> => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const running = RSA_GENERATION.run("another", () => promise);
      const rotation = begin();
      while (RSA_GENERATION.waiting === 0) await setImmediate();
      await meanwhile();
      resolve();
      await running;
      return rotation;
    };
    const rotate = (): Promise<Answer> => call(world, "POST", `${VAULT}/keys/app/rotate?${V}`);
    const patch = (body: Json): Promise<Answer> => call(world, "PATCH", `${VAULT}/keys/app?${V}`, body);
    beforeEach(async () => {
      await create("app", { kty: "RSA-HSM", attributes: { exportable: true }, release_policy: { data: segment(POLICY) } });
    });

    it("goes by the policy, operations and tags that the key got meanwhile", async () => {
      const change = { release_policy: { data: segment(STRICT), immutable: true }, key_ops: ["sign"], tags: { a: "b" } };
      const { status, body } = await during(rotate, async () => patch(change));
      expect([status, await versions("app")]).toEqual([200, expect.objectContaining({ length: 2 })]);
      expect(body).toMatchObject({ key: { key_ops: ["sign"] }, tags: { a: "b" }, release_policy: { data: segment(STRICT), immutable: true } });
      expect((await call(world, "POST", `${VAULT}/keys/app/release?${V}`, { target: maaToken() })).status).toBe(403);
    });

    it("makes no enabled version of a key that was disabled meanwhile", async () => {
      const refused = await during(rotate, async () => patch({ attributes: { enabled: false } }));
      expect([refused.status, refused.body.error?.innererror?.code]).toEqual([403, "KeyDisabled"]);
      expect(await versions("app")).toHaveLength(1);
      expect((await latest("app")).attributes).toMatchObject({ enabled: false });
    });

    it("makes none of a key that was deleted meanwhile", async () => {
      const refused = await during(rotate, async () => call(world, "DELETE", `${VAULT}/keys/app?${V}`));
      expect([refused.status, refused.body.error?.innererror?.code]).toEqual([409, "ObjectIsDeletedButRecoverable"]);
      await call(world, "POST", `${VAULT}/deletedkeys/app/recover?${V}`);
      expect(await versions("app")).toHaveLength(1);
    });

    it("gives the expiry of the rotation policy that was set meanwhile", async () => {
      const { body } = await during(rotate, async () => put("app", policy({ timeAfterCreate: "P30D" }, "P60D")));
      expect((body as Json)["attributes"]).toMatchObject({ exp: NOW + 60 * DAY });
    });

    it("is no less careful when it is the time that asks for it", async () => {
      await put("app", policy({ timeAfterCreate: "P30D" }));
      world.time = START + 30 * DAY * 1000;
      expect(await during(run, async () => patch({ attributes: { enabled: false } }))).toBe(0);
      expect(world.logs.filter(({ message }) => message.includes("could not"))).toEqual([]);
      expect(await world.store.dueRotations(world.time / 1000, 10)).toEqual([]);
      await patch({ attributes: { enabled: true } });
      expect(await during(run, async () => patch({ release_policy: { data: segment(STRICT) } }))).toBe(1);
      expect(await versions("app")).toHaveLength(2);
      expect(await latest("app")).toMatchObject({ release_policy: { data: segment(STRICT) } });
      world.time += 30 * DAY * 1000;
      // Nor does it rotate what the owner does not want to have rotated any more.
      expect(await during(run, async () => put("app", { lifetimeActions: [] }))).toBe(0);
      expect(await versions("app")).toHaveLength(2);
    });
  });

  it("makes one version when two ask at once, or two after each other", async () => {
    await create("app", { kty: "RSA" });
    const answers = await Promise.all([1, 2].map(() => call(world, "POST", `${VAULT}/keys/app/rotate?${V}`)));
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 409]);
    expect(await versions("app")).toHaveLength(2);
  });
});

describe("rotation policy", () => {
  it("is given back as it was set, and by default notifies 30 days before expiry", async () => {
    await create("app");
    expect((await call(world, "GET", policyUrl("App"))).body).toEqual({
      id: `${VAULT}/keys/app/rotationpolicy`,
      lifetimeActions: [{ trigger: { timeBeforeExpiry: "P30D" }, action: { type: "Notify" } }],
      attributes: {},
    });
    const body = {
      lifetimeActions: [
        { trigger: { timeAfterCreate: "p18m" }, action: { type: "rotate" } },
        { trigger: { timeBeforeExpiry: "P30D" }, action: { type: "Notify" } },
      ],
      attributes: { expiryTime: "P2Y" },
    };
    const expected = {
      id: `${VAULT}/keys/app/rotationpolicy`,
      lifetimeActions: [
        { trigger: { timeAfterCreate: "P18M" }, action: { type: "Rotate" } },
        { trigger: { timeBeforeExpiry: "P30D" }, action: { type: "Notify" } },
      ],
      attributes: { expiryTime: "P2Y", created: NOW, updated: NOW },
    };
    expect((await put("app", body)).body).toEqual(expected);
    world.time += 7000;
    expect((await put("app", expected)).body).toEqual({ ...expected, attributes: { ...expected.attributes, updated: NOW + 7 } });
    expect((await call(world, "GET", policyUrl("none"))).body.error?.code).toBe("KeyNotFound");
    expect((await put("none", body)).body.error?.code).toBe("KeyNotFound");
  });

  const action = (trigger: unknown, type: unknown = "Rotate"): Json => ({ lifetimeActions: [{ trigger, action: { type } }] });
  it.each<readonly [string, Json, RegExp]>([
    ["lifetimeActions that are no list", { lifetimeActions: {} }, /trigger is missing/],
    ["an action that is none", { lifetimeActions: [1] }, /lifetimeActions\[0\]\.trigger is missing/],
    ["another type of action", action({ timeAfterCreate: "P30D" }, "Delete"), /Rotate or Notify/],
    ["a type that is no text", action({ timeAfterCreate: "P30D" }, 7), /Rotate or Notify/],
    ["no trigger time", action({}), /either timeAfterCreate or timeBeforeExpiry/],
    ["both trigger times", action({ timeAfterCreate: "P30D", timeBeforeExpiry: "P30D" }), /either/],
    ["a time that is no duration", action({ timeAfterCreate: "30 days" }), /ISO 8601/],
    ["a time that is a number", action({ timeAfterCreate: 30 }), /ISO 8601/],
    ["an empty duration", action({ timeAfterCreate: "P" }), /ISO 8601/],
    ["a duration that ends at its T", action({ timeAfterCreate: "P1DT" }), /ISO 8601/],
    ["a duration that is too short", action({ timeAfterCreate: "P6DT23H59M" }), /minimum is P7D/],
    ["a duration that is too long", action({ timeAfterCreate: "P101Y" }), /maximum/],
    ["a duration of many digits", action({ timeAfterCreate: `P${"9".repeat(50)}D` }), /ISO 8601/],
    ["an expiry below 28 days", { attributes: { expiryTime: "P27D" } }, /minimum is P28D/],
    ["attributes that are no object", { attributes: [] }, /attributes/],
    ["rotation before an expiry that is not set", action({ timeBeforeExpiry: "P30D" }), /needs attributes.expiryTime/],
    ["rotation after the expiry", { ...action({ timeAfterCreate: "P55D" }), attributes: { expiryTime: "P60D" } }, /7 days shorter/],
    ["rotation before creation", { ...action({ timeBeforeExpiry: "P55D" }), attributes: { expiryTime: "P60D" } }, /7 days shorter/],
    [
      "two rotations",
      {
        lifetimeActions: [1, 2].map(() => ({ trigger: { timeAfterCreate: "P30D" }, action: { type: "Rotate" } })),
      },
      /more than one/,
    ],
  ])("is refused with %s", async (_what, body, message) => {
    await create("app");
    const answer = await put("app", body);
    expect([answer.status, answer.body.error?.code]).toEqual([400, "BadParameter"]);
    expect(answer.body.error?.message).toMatch(message);
    expect(await world.store.rotationPolicy("demo", "app")).toBeUndefined();
  });

  it("is not taken back by a change of the key that comes at the same time", async () => {
    await create("app");
    const off = { lifetimeActions: [], attributes: { expiryTime: "P1Y" } };
    for (let round = 0; round < 10; round++) {
      await put("app", policy({ timeBeforeExpiry: "P30D" }, "P2Y"));
      const patched = call(world, "PATCH", `${VAULT}/keys/app?${V}`, { attributes: { exp: NOW + (700 - round) * DAY } });
      expect([(await put("app", off)).status, (await patched).status]).toEqual([200, 200]);
      expect((await call(world, "GET", policyUrl("app"))).body).toMatchObject({ lifetimeActions: [], attributes: { expiryTime: "P1Y" } });
      expect((await world.store.rotationPolicy("demo", "app"))?.due).toBeUndefined();
    }
  });

  it("leaves a change as it was done and answered when the rotation cannot be scheduled", async () => {
    const broken = await openWorld();
    const store = new Proxy(broken.store, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name);
        if (name === "scheduleRotation") return () => Promise.reject(new Error("disk full"));
        return typeof member === "function" ? member.bind(target) : member;
      },
    });
    const failing = await openWorld({ store });
    const change = (method: string, path: string, body: unknown): Promise<Answer> => call(failing, method, `${VAULT}/keys/app${path}?${V}`, body);
    await grant(store, "demo", { tenantId: TENANT, id: APPID }, ALL);
    expect((await change("POST", "/create", { kty: "oct-HSM" })).status).toBe(200);
    expect((await change("PUT", "/rotationpolicy", policy({ timeBeforeExpiry: "P30D" }, "P2Y"))).status).toBe(200);
    for (const answer of [
      await change("PATCH", "", { tags: { a: "b" } }),
      await change("POST", "/rotate", undefined),
      await change("POST", "/create", { kty: "oct-HSM" }),
    ]) {
      expect(answer.status).toBe(200);
    }
    expect(failing.logs.filter(({ message }) => message === "the rotation of a key could not be scheduled")).toHaveLength(4);
    expect((await broken.store.audit({ name: "app" })).map(({ outcome, operation }) => `${outcome} ${operation}`).toSorted()).toEqual([
      "allowed keys/create",
      "allowed keys/create",
      "allowed keys/rotate",
      "allowed keys/set-rotation-policy",
      "allowed keys/update",
    ]);
    await failing.store.close();
    await broken.store.close();
  });

  it("is never due for a date that no calendar has", () => {
    const never = { created: NOW, enabled: true, expires: Number.MAX_SAFE_INTEGER };
    expect(rotationDue(parseRotationPolicy(policy({ timeBeforeExpiry: "P30D" }, "P2Y") as never), never)).toBeUndefined();
  });

  it("counts months as the calendar has them", () => {
    const months = (text: string): ReturnType<typeof parseRotationPolicy>["expiryTime"] => parseRotationPolicy({ attributes: { expiryTime: text } }).expiryTime;
    const add = (from: number, text: string, sign: 1 | -1 = 1): string =>
      new Date(addDuration(from / 1000, months(text) ?? expect.fail(), sign) * 1000).toISOString();
    expect(add(Date.UTC(2026, 0, 31, 5), "P1M")).toBe("2026-02-28T05:00:00.000Z");
    expect(add(Date.UTC(2024, 0, 31), "P1M")).toBe("2024-02-29T00:00:00.000Z");
    expect(add(Date.UTC(2024, 1, 29), "P1Y")).toBe("2025-02-28T00:00:00.000Z");
    expect(add(Date.UTC(2026, 11, 1), "P1M2DT3H4M5S")).toBe("2027-01-03T03:04:05.000Z");
    expect(add(Date.UTC(2026, 2, 31), "P1M", -1)).toBe("2026-02-28T00:00:00.000Z");
    expect(add(Date.UTC(2026, 0, 1), "P4W")).toBe("2026-01-29T00:00:00.000Z");
    expect(add(Date.UTC(2026, 0, 1), "P100Y")).toBe("2126-01-01T00:00:00.000Z");
  });
});

describe("rotateDue", () => {
  const at = (seconds: number): void => void (world.time = START + seconds * 1000);

  it("rotates when it is time, not before, and again after the same time", async () => {
    await create("app");
    await put("app", policy({ timeAfterCreate: "P30D" }, "P90D"));
    expect(await run()).toBe(0);
    at(30 * DAY - 1);
    expect(await run()).toBe(0);
    at(30 * DAY);
    expect(await run()).toBe(1);
    expect(await run()).toBe(0);
    expect(await versions("app")).toHaveLength(2);
    expect((await latest("app")).attributes).toMatchObject({ created: NOW + 30 * DAY, exp: NOW + 120 * DAY });
    at(60 * DAY);
    expect(await run()).toBe(1);
    expect(await versions("app")).toHaveLength(3);
    const lines = await auditOf(world, { operation: "keys/rotate" });
    expect(lines).toHaveLength(2);
    expect(lines[0]).toMatchObject({
      requestId: expect.stringMatching(/^schedule /) as string,
      name: "app",
      outcome: "allowed",
      appid: "",
      reason: "the rotation policy of the key",
    });
  });

  it("waits for a version that somebody else made meanwhile", async () => {
    await create("app");
    await put("app", policy({ timeAfterCreate: "P30D" }));
    at(20 * DAY);
    await create("app");
    at(30 * DAY);
    expect(await run()).toBe(0);
    expect(await world.store.dueRotations(world.time / 1000, 10)).toEqual([]);
    at(50 * DAY);
    expect(await run()).toBe(1);
  });

  it("goes by the expiry of the key, also when that is changed", async () => {
    await create("app");
    await put("app", policy({ timeBeforeExpiry: "P10D" }, "P90D"));
    at(79 * DAY);
    expect(await run()).toBe(0);
    at(1);
    await call(world, "PATCH", `${VAULT}/keys/app?${V}`, { attributes: { exp: NOW + 40 * DAY } });
    at(30 * DAY - 1);
    expect(await run()).toBe(0);
    at(30 * DAY);
    expect(await run()).toBe(1);
    expect((await latest("app")).attributes).toMatchObject({ exp: NOW + 120 * DAY });
    expect((await auditOf(world, { operation: "keys/schedule-rotation" })).every(({ name }) => name === "app")).toBe(true);
  });

  it("does not rotate disabled or deleted keys, and takes them up when they are back", async () => {
    for (const name of ["off", "gone"]) {
      await create(name);
      await put(name, policy({ timeAfterCreate: "P30D" }));
    }
    await call(world, "PATCH", `${VAULT}/keys/off?${V}`, { attributes: { enabled: false } });
    await call(world, "DELETE", `${VAULT}/keys/gone?${V}`);
    at(31 * DAY);
    expect(await run()).toBe(0);
    await call(world, "PATCH", `${VAULT}/keys/off?${V}`, { attributes: { enabled: true } });
    await call(world, "POST", `${VAULT}/deletedkeys/gone/recover?${V}`);
    expect(await run()).toBe(2);
    expect([(await versions("off")).length, (await versions("gone")).length]).toEqual([2, 2]);
  });

  it("goes on with the others when one fails, and rotates each once", async () => {
    const names = Array.from({ length: 60 }, (_, index) => `k${index}`);
    for (const name of names) {
      await call(world, "PUT", `${VAULT}/keys/${name}?${V}`, { key: { kty: "oct-HSM", k: "AAAA" } });
      await put(name, policy({ timeAfterCreate: "P30D" }));
    }
    at(30 * DAY);
    const { store } = world;
    const failing: World["store"] = new Proxy(store, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name);
        if (name === "openKey")
          return (key: Parameters<typeof store.openKey>[0]) => (key.name === "k7" ? Promise.reject(new Error("cannot be opened")) : target.openKey(key));
        return typeof member === "function" ? member.bind(target) : member;
      },
    });
    const problems: string[] = [];
    const context = {
      store: failing,
      clock: { now: () => world.time },
      random,
      logger: { log: (_l: string, _m: string, fields: Json = {}) => void problems.push(messageOf(fields["problem"])) },
    };
    expect(await rotateDue(context)).toBe(59);
    expect(problems).toContain("cannot be opened");
    expect(await run()).toBe(1);
    for (const name of names) expect([name, (await versions(name)).length]).toEqual([name, 2]);
  });

  it("rotates once when replicas call it at once", async () => {
    await create("app");
    await put("app", policy({ timeAfterCreate: "P30D" }));
    at(30 * DAY);
    const counts = await Promise.all([run(), run(), run()]);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(1);
    expect(await versions("app")).toHaveLength(2);
  });
});
