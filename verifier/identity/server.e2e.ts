import { createLocalJWKSet, jwtVerify } from "jose";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { issueServiceAccountToken } from "./service-account.ts";
import { openIdentityStore } from "./store.ts";
import { ServerWorld, TENANT, type ServerProcess } from "./testdata/server-process.ts";

/** Kills under load. */
const ROUNDS = 8;
/** Milliseconds: within that time after the first answer, at a moment that chance gives, the process is killed. */
const LOAD = 300;

let world: ServerWorld;
beforeAll(async () => {
  world = await ServerWorld.make();
});
afterAll(async () => world.close());

const clock = { now: (): number => Date.now() };
const random = { bytes: (length: number): Uint8Array => crypto.getRandomValues(new Uint8Array(length)) };

async function end(server: ServerProcess): Promise<void> {
  server.child.kill("SIGTERM");
  expect(await server.exited).toEqual({ code: 0, signal: null });
}

describe("the identity service as a process", () => {
  afterEach(() => world.config());

  it("answers over TLS, tells its health, is managed, issues tokens that its keys verify, and logs no secrets", async () => {
    const server = world.start();
    expect(await server.started()).toMatchObject({ name: "identity", url: `https://127.0.0.1:${world.port}`, clusters: world.issuer, management: "on" });
    expect((await world.ask("GET", "/readyz")).json()).toEqual({ status: "ready", checks: { database: { ok: true }, rotation: { ok: true } } });
    expect((await world.ask("GET", "/v1.0/applications")).status).toBe(401);
    const made = await world.manage("POST", "/v1.0/applications", { displayName: "owner" });
    expect(made.status).toBe(201);
    const clientId = String(made.json()["appId"]);
    const secret = String((await world.manage("POST", `/v1.0/applications(appId='${clientId}')/addPassword`, {})).json()["secretText"]);
    const answer = await world.login(clientId, secret);
    expect(answer.status).toBe(200);
    const token = String(answer.json()["access_token"]);
    const configuration = (await world.ask("GET", `/${TENANT}/v2.0/.well-known/openid-configuration`)).json();
    const jwks = await world.ask("GET", new URL(String(configuration["jwks_uri"])).pathname);
    const { payload } = await jwtVerify(token, createLocalJWKSet(jwks.json() as never), {
      issuer: String(configuration["issuer"]),
      audience: "https://vault.azure.net",
    });
    expect(payload).toMatchObject({ appid: clientId, tid: TENANT, ver: "1.0" });
    const refused = await world.login(clientId, `${secret}x`);
    expect(refused).toMatchObject({ status: 401 });
    expect(refused.json()["error_codes"]).toEqual([7000215]);
    const metrics = (await world.ask("GET", "/metrics")).text;
    expect(metrics).toContain('http_requests_total{route="/:tenant/oauth2/v2.0/token",method="POST",status="200"} 1\n');
    await end(server);
    const log = JSON.stringify(server.lines);
    for (const text of [world.token, secret, token, Buffer.from(world.masterKey).toString("hex")]) expect(log).not.toContain(text);
    expect(server.stderr).toBe("");
  });

  it("keeps applications, secrets and keys over a restart, and publishes a key that another process made", async () => {
    const first = world.start();
    await first.started();
    const before = (await world.ask("GET", `${new URL(world.issuer).pathname}openid/v1/jwks`)).json();
    await end(first);
    const store = await openIdentityStore({ url: world.file("identity.sqlite"), masterKey: world.masterKey, clusters: ["main"], clock, random });
    const fresh = await store.rotateSigningKey("cluster", { scope: "main" });
    const { token } = await issueServiceAccountToken(
      { issuer: world.issuer, name: "main", store, clock, random },
      { namespace: "default", serviceAccount: { name: "web", uid: "u" } },
    );
    await store.close();
    const second = world.start();
    await second.started();
    const after = (await world.ask("GET", `${new URL(world.issuer).pathname}openid/v1/jwks`)).json();
    expect(after["keys"]).toMatchObject([{ kid: fresh.kid }, ...(before["keys"] as object[])]);
    const made = await world.manage("POST", "/v1.0/applications", { displayName: "web" });
    const clientId = String(made.json()["appId"]);
    const credential = { name: "kubernetes", issuer: world.issuer, subject: "system:serviceaccount:default:web" };
    expect((await world.manage("POST", `/v1.0/applications(appId='${clientId}')/federatedIdentityCredentials`, credential)).status).toBe(201);
    const form = new URLSearchParams({
      client_id: clientId,
      scope: "https://vault.azure.net/.default",
      grant_type: "client_credentials",
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion: token,
    });
    const answer = await world.ask("POST", `/${TENANT}/oauth2/v2.0/token`, {
      body: form.toString(),
      headers: { "content-type": "application/x-www-form-urlencoded" },
    });
    expect(answer.status).toBe(200);
    await end(second);
  });

  it("has on disk what it has acknowledged, whenever it is killed", async () => {
    const made: { readonly clientId: string; readonly secret: string }[] = [];
    const removed: string[] = [];
    const kids = new Set<string>();
    for (let round = 0; round < ROUNDS; round++) {
      const server = world.start();
      await server.started();
      const load = new AbortController();
      const workers = [0, 1, 2].map(async (worker) => {
        while (!load.signal.aborted) {
          // Requests that the kill cuts off acknowledge nothing.
          const answer = await world.manage("POST", "/v1.0/applications", { displayName: `app ${round}` }).catch(() => undefined);
          if (answer?.status !== 201) return;
          const clientId = String(answer.json()["appId"]);
          const password = await world.manage("POST", `/v1.0/applications(appId='${clientId}')/addPassword`, {}).catch(() => undefined);
          if (password?.status === 200) made.push({ clientId, secret: String(password.json()["secretText"]) });
          if (worker === 0) {
            const gone = await world.manage("DELETE", `/v1.0/applications(appId='${clientId}')`).catch(() => undefined);
            if (gone?.status === 204) removed.push(clientId);
          }
          if (worker === 1 && made.length % 10 === 0) {
            const key = await world.manage("POST", "/sealpod/keys/tenant/default/rotate", { when: "now" }).catch(() => undefined);
            if (key?.status === 200) kids.add(String(key.json()["kid"]));
          }
        }
      });
      await Promise.race([new Promise((resolve) => void setTimeout(resolve, Math.random() * LOAD)), Promise.all(workers)]);
      load.abort();
      server.child.kill("SIGKILL");
      await server.exited;
      await Promise.all(workers);
    }
    expect(made.length).toBeGreaterThan(0);
    const server = world.start();
    await server.started();
    const published = ((await world.ask("GET", `/${TENANT}/discovery/v2.0/keys`)).json()["keys"] as readonly { kid: string }[]).map(({ kid }) => kid);
    for (const kid of kids) expect(published).toContain(kid);
    const gone = new Set(removed);
    for (const { clientId, secret } of made) {
      if (gone.has(clientId)) expect((await world.login(clientId, secret)).json()["error_codes"]).toEqual([700016]);
      // Worker 0's last application may be gone without its having heard of it.
      else expect([200, 400]).toContain((await world.login(clientId, secret)).status);
    }
    // One after the other: a client may have so many connections at once and no more.
    const lost: number[] = [];
    for (const { clientId, secret } of made) if (!gone.has(clientId)) lost.push((await world.login(clientId, secret)).status);
    expect(lost.filter((status) => status !== 200).length).toBeLessThanOrEqual(ROUNDS);
    await end(server);
  });

  it("says why it does not start, in one block, with its exit code", async () => {
    const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
      [["--config", world.file("none.json")], 2, /cannot be read.*none\.json/],
      [[], 2, /authority is missing[^]*tenants is missing/],
      [["--config", world.config({ tenant: "x" })], 2, /there is no key tenant; did you mean tenants\?/],
    ];
    for (const [args, code, message] of cases) {
      const server = world.start(args);
      expect(await server.exited).toEqual({ code, signal: null });
      expect(server.stderr).toMatch(message);
      expect(server.stderr).not.toMatch(/\n\s+at /);
    }
    for (const [change, code, message] of [
      [{ masterKey: {} }, 2, /neither masterKey\.file nor/],
      [{ tenants: [] }, 2, /tenants is empty/],
      [{ database: "postgres://me:secret@host/x" }, 2, /it has a password/],
      [{ keyRotation: { every: "1d", overlap: "1d" } }, 2, /overlap is not less/],
    ] as const) {
      const server = world.start(["--config", world.config(change)]);
      expect(await server.exited).toEqual({ code, signal: null });
      expect(server.stderr).toMatch(message);
    }
  });

  it("does not open its database with another master key", async () => {
    const server = world.start();
    await server.started();
    await end(server);
    world.write("other.key", Buffer.from(random.bytes(32)).toString("hex"));
    const wrong = world.start(["--config", world.config({ masterKey: { file: "other.key" } })]);
    expect((await wrong.exited).code).toBe(1);
    expect(wrong.stderr).toMatch(/cannot be opened as an identity database with this master key/);
  });
});
