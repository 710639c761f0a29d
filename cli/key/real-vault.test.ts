import { generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { keyvaultApp, openVaultStore, type VaultStore } from "@sealpod/keyvault";
import { generateKey, issueCertificate, OID } from "@sealpod/pki";
import { base64url, key, NOW, type Ran } from "./key-test-support.ts";
import { vaultClient, type Vault } from "./vault-client.ts";

// The verbs against the application of `verifier/keyvault` in this process: what both say of each other's wire format is true.

const TENANT = "11111111-2222-4333-8444-555555555555";
const ADMINISTRATOR = "88888888-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const WORKLOAD = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const LOGIN = `https://login.test/${TENANT}/v2.0`;
const MAA = "https://maa.test";
const HOST_DATA = "ab".repeat(32);
const POLICY = {
  version: "1.0.0",
  anyOf: [
    {
      authority: MAA,
      allOf: [
        { claim: "x-ms-sevsnpvm-hostdata", equals: HOST_DATA },
        { claim: "x-ms-compliance-status", equals: "sealpod-compliant-uvm" },
        { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
      ],
    },
  ],
};

const signer = generateKeyPairSync("rsa", { modulusLength: 2048 });
const jwk = (kid: string): object => ({ ...signer.publicKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" });
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };

function token(claims: object, kid: string): string {
  const input = `${base64url({ alg: "RS256", kid, typ: "JWT" })}.${base64url({ nbf: NOW / 1000, exp: NOW / 1000 + 3600, ...claims })}`;
  return `${input}.${sign("sha256", Buffer.from(input), signer.privateKey as KeyObject).toString("base64url")}`;
}

const evidence = (change: object = {}): string =>
  token(
    {
      iss: MAA,
      "x-ms-runtime": { keys: [{ ...signer.publicKey.export({ format: "jwk" }), kid: "tee", key_ops: ["encrypt"] }] },
      "x-ms-sevsnpvm-hostdata": HOST_DATA,
      "x-ms-compliance-status": "sealpod-compliant-uvm",
      "x-ms-sevsnpvm-is-debuggable": false,
      "x-sealpod-root": "emulator",
      ...change,
    },
    "maa",
  );

let store: VaultStore;
let directory: string;
let vaultOf: (name: "demo" | "hsm", caller: string) => Vault;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-real-vault-"));
  for (const [name, content] of Object.entries({ "policy.json": JSON.stringify(POLICY), message: "hello", raw: "0123456789abcdef0123456789abcdef" }))
    await writeFile(join(directory, name), content);
  const clock = { now: (): number => NOW };
  store = await openVaultStore({ url: ":memory:", master: new Uint8Array(32).fill(1), clock, random });
  const certificateKey = await generateKey("rsa-2048");
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: "vault" }],
    subjectKey: certificateKey,
    issuer: { key: certificateKey },
    signatureAlgorithm: "rsa-sha256",
    serial: 1n,
    notBefore: NOW - 1000,
    notAfter: NOW + 86_400_000,
    extensions: [],
  });
  const documents: Readonly<Record<string, unknown>> = {
    [`${LOGIN}/.well-known/openid-configuration`]: { issuer: LOGIN, jwks_uri: "https://login.test/keys" },
    "https://login.test/keys": { keys: [jwk("login")] },
    [`${MAA}/.well-known/openid-configuration`]: { issuer: MAA, jwks_uri: `${MAA}/certs` },
    [`${MAA}/certs`]: { keys: [jwk("maa")] },
  };
  const administrators = [{ tenantId: TENANT, id: ADMINISTRATOR }];
  const app = keyvaultApp({
    store,
    domain: "vault.test",
    vaults: [
      { name: "demo", kind: "vault", administrators },
      { name: "hsm", kind: "managedhsm", administrators },
    ],
    issuers: [{ issuer: LOGIN, tenantId: TENANT, authorization: `https://login.test/${TENANT}` }],
    resource: "https://vault.test",
    signer: { privateKey: certificateKey, chain: [certificate.der] },
    evidenceRoots: ["emulator"],
    fetch: async (url) => Promise.resolve(documents[url] === undefined ? new Response("", { status: 404 }) : Response.json(documents[url])),
    clock,
    random,
    logger: silentLogger,
  });
  vaultOf = (name, caller) =>
    vaultClient({
      base: `https://${name}.vault.test:8443`,
      tenantId: TENANT,
      token: async () => Promise.resolve(token({ iss: LOGIN, aud: "https://vault.test", tid: TENANT, appid: caller, oid: caller }, "login")),
      fetch: async (url, { method, headers, body }) => {
        const response = await app.request(url, { method, headers: { ...headers }, ...(body === undefined ? {} : { body }) });
        return { status: response.status, text: await response.text(), requestId: response.headers.get("x-ms-request-id") ?? undefined };
      },
    });
});
afterAll(async () => {
  await store.close();
  await rm(directory, { recursive: true });
});

const runIn = async (name: "demo" | "hsm", caller: string, argv: readonly string[], stdin?: string): Promise<Ran> =>
  key(argv, { cwd: directory, vault: vaultOf(name, caller), ...(stdin === undefined ? {} : { stdin }) });
const admin = async (...argv: readonly string[]): Promise<Ran> => runIn("demo", ADMINISTRATOR, argv);
const pod = async (argv: readonly string[], stdin?: string): Promise<Ran> => runIn("demo", WORKLOAD, argv, stdin);
const done = async (ran: Promise<Ran>): Promise<Ran> => {
  const result = await ran;
  expect([result.error, result.exit]).toEqual([undefined, 0]);
  return result;
};

describe("the verbs against the key vault itself", () => {
  it("give access, and the vault obeys", async () => {
    expect((await pod(["list"])).error).toMatchObject({ code: "ERR_CLI_VAULT_FORBIDDEN", hint: expect.stringContaining("sealpod key set-policy") as unknown });
    const keys = [
      "get",
      "list",
      "create",
      "import",
      "update",
      "delete",
      "recover",
      "purge",
      "backup",
      "restore",
      "encrypt",
      "decrypt",
      "sign",
      "verify",
      "release",
      "rotate",
      "getrotationpolicy",
      "setrotationpolicy",
    ];
    const secrets = ["get", "list", "set", "delete", "recover", "purge", "backup", "restore"];
    const set = await done(admin("set-policy", "--spn", WORKLOAD, "--key-permissions", ...keys, "--secret-permissions", ...secrets));
    expect(set.stdout).toMatch(new RegExp(`^${WORKLOAD} of tenant ${TENANT}  keys: get, list, `));
    expect((await done(admin("list-policies"))).stdout).toBe(set.stdout);
    expect((await done(pod(["list"]))).stdout).toBe("");
  });

  it("make keys, show them, use them", async () => {
    const made = await done(pod(["create", "rsa", "--size", "2048", "--ops", "encrypt", "decrypt", "sign", "verify", "--tags", "a=b"]));
    expect(made.stdout).toMatch(
      /^https:\/\/demo\.vault\.test:8443\/keys\/rsa\/[0-9a-f]{32}\n {2}type: {11}RSA 2048; encrypt, decrypt, sign, verify\n {2}state: {10}enabled, created 2026-01-02T00:00:00Z/,
    );
    const [kid = ""] = made.stdout.split("\n");
    expect((await done(pod(["show", kid]))).stdout).toBe(made.stdout);
    expect((await done(pod(["list"]))).stdout).toBe("https://demo.vault.test:8443/keys/rsa\n");
    expect((await done(pod(["list-versions", "rsa"]))).stdout).toBe(`${kid}\n`);
    const encrypted = (await done(pod(["encrypt", "rsa", "-a", "RSA-OAEP-256", "--value", "héllo", "--data-type", "plaintext"]))).stdout.trim();
    expect((await done(pod(["decrypt", "rsa", "-a", "RSA-OAEP-256", "--value", encrypted, "--data-type", "plaintext"]))).stdout).toBe("héllo\n");
    const signature = (await done(pod(["sign", "rsa", "-a", "PS256", "--file", "message"]))).stdout.trim();
    expect((await done(pod(["verify", "rsa", "-a", "PS256", "--file", "message", "--signature", signature]))).stdout).toBe("the signature is the key's\n");
    expect((await pod(["verify", "rsa", "-a", "PS256", "--file", "raw", "--signature", signature])).exit).toBe(3);
    expect((await done(pod(["set-attributes", kid, "--enabled", "false"]))).stdout).toContain("disabled");
  });

  it("rotate, back up, delete, recover, purge and restore", async () => {
    await done(pod(["create", "turn", "--kty", "EC", "--curve", "P-256"]));
    const shown = await done(pod(["rotation-policy", "show", "turn"]));
    expect(JSON.parse(shown.stdout)).toMatchObject({ lifetimeActions: expect.any(Array) as unknown });
    await writeFile(
      join(directory, "rotation.json"),
      JSON.stringify({ lifetimeActions: [{ trigger: { timeAfterCreate: "P90D" }, action: { type: "Rotate" } }], attributes: { expiryTime: "P2Y" } }),
    );
    const updated = await done(pod(["rotation-policy", "update", "turn", "--value", "rotation.json"]));
    expect(updated.stdout).toContain('"P90D"');
    await writeFile(join(directory, "again.json"), updated.stdout);
    expect((await done(pod(["rotation-policy", "update", "turn", "--value", "again.json"]))).stdout).toBe(updated.stdout);
    await done(pod(["rotate", "turn"]));
    expect((await done(pod(["list-versions", "turn", "--json"]))).stdout.match(/"kid"/g)).toHaveLength(2);
    await done(pod(["backup", "turn", "--file", "turn.backup"]));
    await done(pod(["delete", "turn"]));
    expect((await done(pod(["list-deleted"]))).stdout).toMatch(/\/keys\/turn {2}\(.*purged 2026-/);
    expect((await done(pod(["show", "turn", "--deleted"]))).stdout).toContain("  deleted:        2026-01-02T00:00:00Z, purged 2026-");
    expect((await pod(["create", "turn"])).error).toMatchObject({ code: "ERR_CLI_VAULT_CONFLICT" });
    await done(pod(["recover", "turn"]));
    await done(pod(["delete", "turn"]));
    expect((await done(pod(["purge", "turn"]))).stdout).toBe("turn is gone for good\n");
    expect((await pod(["show", "turn"])).error).toMatchObject({ code: "ERR_CLI_VAULT_NOT_FOUND" });
    await done(pod(["restore", "--file", "turn.backup"]));
    expect((await done(pod(["list-versions", "turn", "--json"]))).stdout.match(/"kid"/g)).toHaveLength(2);
  });

  it("keep secrets", async () => {
    const set = await done(pod(["secret", "set", "s", "--file", "-", "--content-type", "text/plain"], "hunter2"));
    expect(set.stdout).toMatch(/^https:\/\/demo\.vault\.test:8443\/secrets\/s\/[0-9a-f]{32}\n {2}content type: {3}text\/plain\n/);
    expect((await done(pod(["secret", "show", "s", "--reveal"]))).stdout).toBe("hunter2");
    expect((await done(pod(["secret", "list"]))).stdout).toBe("https://demo.vault.test:8443/secrets/s\n");
    await done(pod(["secret", "backup", "s", "--file", "s.backup"]));
    await done(pod(["secret", "delete", "s"]));
    expect((await done(pod(["secret", "list-deleted"]))).stdout).toContain("/secrets/s");
    await done(pod(["secret", "purge", "s"]));
    await done(pod(["secret", "restore", "--file", "s.backup"]));
    expect((await done(pod(["secret", "show", "s", "--reveal"]))).stdout).toBe("hunter2");
  });

  it("release a key to evidence; the vault and the simulator agree, and say why", async () => {
    await done(pod(["import", "disk", "--bytes-file", "raw", "--exportable", "--policy", "policy.json"]));
    for (const [change, released] of [
      [{}, true],
      [{ "x-ms-sevsnpvm-hostdata": "cd".repeat(32) }, false],
      [{ "x-ms-sevsnpvm-is-debuggable": true }, false],
      [{ "x-ms-compliance-status": undefined }, false],
      [{ iss: "https://other.test" }, false],
    ] as const) {
      const target = evidence(change);
      const exit = released ? 0 : 3;
      const asked = await pod(["release", "disk", "--token", "-"], target);
      expect([asked.exit, (await pod(["simulate", "disk", "--token", "-"], target)).exit]).toEqual([exit, exit]);
      const why = await runIn("demo", ADMINISTRATOR, ["why", "disk", "--token", "-"], target);
      expect([why.error, why.exit]).toEqual([undefined, exit]);
      if (!released) {
        expect(why.stdout).toMatch(/^disk would be REFUSED: (policy|authority): /);
        const { requestId } = asked.error?.details ?? {};
        expect(asked.error?.hint).toContain(`sealpod key why --request-id ${String(requestId)}`);
        const explained = await done(admin("why", "--request-id", String(requestId)));
        expect(explained.stdout).toContain(`refused  keys/release  demo/disk/`);
      }
    }
    const wrong = await runIn("demo", ADMINISTRATOR, ["why", "disk", "--token", "-"], evidence({ "x-ms-sevsnpvm-hostdata": "cd".repeat(32) }));
    expect(wrong.stdout).toContain(`  FAILED x-ms-sevsnpvm-hostdata: expected "${HOST_DATA}", found "${"cd".repeat(32)}"\n`);
    expect(wrong.stdout).toContain(`  $.anyOf[0].allOf[0]: x-ms-sevsnpvm-hostdata = "${"cd".repeat(32)}" instead of "${HOST_DATA}"\n`);
    expect((await pod(["why", "disk", "--token", "-"], evidence())).error?.code).toBe("ERR_CLI_VAULT_FORBIDDEN");
    const audit = await done(admin("audit", "-n", "disk", "--operation", "keys/release"));
    expect(audit.stdout.match(/^20\S+ {2}(allowed|refused) {2}keys\/release {2}demo\/disk\//gm)).toHaveLength(5);
    // The first was the one that was released; the log reads from the oldest.
    expect(audit.stdout).toMatch(/^\S+ {2}allowed {2}keys\/release/);
  });

  it("take access away", async () => {
    expect((await done(admin("delete-policy", "--spn", WORKLOAD))).stdout).toBe(`${WORKLOAD} of tenant ${TENANT} has no access policy any more\n`);
    expect((await pod(["list"])).exit).toBe(3);
    const again = await admin("delete-policy", "--spn", WORKLOAD);
    expect([again.exit, again.error?.hint]).toEqual([1, "This principal has none. Who has one: sealpod key list-policies"]);
    const unknown = await runIn("demo", ADMINISTRATOR, ["why", "nope", "--token", "-"], evidence());
    expect(unknown.error?.hint).toMatch(/^Is it the right vault\?/);
  });
});

describe("the verbs against a managed HSM", () => {
  it("give and take roles", async () => {
    const hsm = async (caller: string, ...argv: readonly string[]): Promise<Ran> => runIn("hsm", caller, argv);
    expect((await hsm(WORKLOAD, "create", "k", "--kty", "oct-HSM", "--size", "256")).exit).toBe(3);
    const given = await done(hsm(ADMINISTRATOR, "role-assignment", "create", "--role", "managed hsm crypto user", "--assignee", WORKLOAD, "--scope", "/keys"));
    expect(given.stdout).toMatch(new RegExp(`^[0-9a-f-]{36}  Managed HSM Crypto User for ${WORKLOAD} in /keys\n$`));
    expect((await done(hsm(ADMINISTRATOR, "role-assignment", "list"))).stdout).toBe(given.stdout);
    expect((await done(hsm(WORKLOAD, "create", "k", "--kty", "oct-HSM", "--size", "256"))).stdout).toContain("oct-HSM");
    await done(hsm(ADMINISTRATOR, "role-assignment", "delete", given.stdout.slice(0, 36), "--scope", "/keys"));
    expect((await hsm(WORKLOAD, "show", "k")).exit).toBe(3);
  });

  it("give random bytes", async () => {
    await done(runIn("hsm", ADMINISTRATOR, ["role-assignment", "create", "--role", "Managed HSM Crypto User", "--assignee-object-id", WORKLOAD]));
    expect(Buffer.from((await done(runIn("hsm", WORKLOAD, ["random", "--count", "48"]))).stdout, "base64")).toHaveLength(48);
  });
});
