import { generateKeyPairSync } from "node:crypto";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { JsonObject } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import { showAudit } from "../verbs/key-audit.ts";
import { base64url, BASE, key, Status, tokenOf, type Sent } from "./key-test-support.ts";
import type { Vault } from "./vault-client.ts";

const STRONG = {
  version: "1.0.0",
  anyOf: [
    {
      authority: "https://maa.test",
      allOf: [
        { claim: "x-ms-sevsnpvm-hostdata", equals: "aa" },
        { claim: "x-ms-compliance-status", equals: "sealpod-compliant-uvm" },
        { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
      ],
    },
  ],
};
const WEAK = { version: "1.0.0", anyOf: [{ authority: "https://maa.test", allOf: [{ claim: "x-ms-attestation-type", equals: "sevsnpvm" }] }] };
const VERSION = "0123456789abcdef0123456789abcdef";
const BUNDLE = {
  key: {
    kid: `${BASE}/keys/k/${VERSION}`,
    kty: "RSA-HSM",
    key_ops: ["encrypt", "decrypt"],
    n: Buffer.concat([Uint8Array.of(0, 0x80), new Uint8Array(255)]).toString("base64url"),
    e: "AQAB",
  },
  attributes: { enabled: true, exportable: true, created: 1_700_000_000, updated: 1_700_000_001, exp: 1_800_000_000 },
  tags: { team: "a" },
  release_policy: { contentType: "application/json; charset=utf-8", data: base64url(STRONG), immutable: true },
};
const SHOWN = `${BASE}/keys/k/${VERSION}
  type:           RSA-HSM 2048; encrypt, decrypt
  state:          enabled, exportable, created 2023-11-14T22:13:20Z, updated 2023-11-14T22:13:21Z, expires 2027-01-15T08:00:00Z
  tags:           team=a
  release policy (immutable): ${JSON.stringify(STRONG)}
`;

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-key-"));
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  for (const [name, content] of Object.entries({
    "policy.json": JSON.stringify(STRONG).replace("}]}]", "},]}]"),
    "weak.json": JSON.stringify(WEAK),
    "bad.json": "{}",
    "typo.json": JSON.stringify(STRONG).replace('"equals"', '"equal"'),
    "ec.pem": privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    "raw.key": "0123456789abcdef",
    "token.jwt": `${tokenOf({ iss: "https://maa.test" })}\n`,
    "answer.json": JSON.stringify({ token: tokenOf({ iss: "x" }) }),
    "backup.bin": "sealed",
    "rotation.json": JSON.stringify({
      id: "x",
      lifetimeActions: [{ trigger: { timeAfterCreate: "P90D" }, action: { type: "Rotate" } }],
      attributes: { created: 1, expiryTime: "P2Y" },
    }),
    message: "hello",
  }))
    await writeFile(join(directory, name), content);
});
afterAll(async () => rm(directory, { recursive: true }));

const run = async (argv: readonly string[], reply?: (sent: Sent) => unknown, stdin?: string): ReturnType<typeof key> =>
  key(argv, { cwd: directory, ...(reply === undefined ? {} : { reply }), ...(stdin === undefined ? {} : { stdin }) });

const POLICY = { contentType: "application/json; charset=utf-8", data: base64url(STRONG) };

describe("what is sent", () => {
  it.each<readonly [readonly string[], string, string, unknown]>([
    [["create", "k"], "POST", "/keys/k/create", { kty: "RSA", attributes: {} }],
    [
      ["create", "-n", "k", "--kty", "EC", "--curve", "P-384", "--protection", "hsm"],
      "POST",
      "/keys/k/create",
      { kty: "EC-HSM", crv: "P-384", attributes: {} },
    ],
    [
      [
        "create",
        "k",
        "--size",
        "3072",
        "--ops",
        "wrapKey",
        "unwrapkey",
        "--exportable",
        "--policy",
        "policy.json",
        "--immutable",
        "--expires",
        "2027-01-31T12:00:00Z",
        "--not-before",
        "2026-01-01",
        "--disabled",
        "--tags",
        "a=b=c",
        "d",
      ],
      "POST",
      "/keys/k/create",
      {
        kty: "RSA-HSM",
        key_size: 3072,
        key_ops: ["wrapKey", "unwrapKey"],
        attributes: { enabled: false, nbf: 1_767_225_600, exp: 1_801_396_800, exportable: true },
        tags: { a: "b=c", d: "" },
        release_policy: { ...POLICY, immutable: true },
      },
    ],
    [
      ["create", "k", "--exportable", "--policy", "weak.json", "--allow-any"],
      "POST",
      "/keys/k/create",
      { kty: "RSA-HSM", attributes: { exportable: true }, release_policy: { ...POLICY, data: base64url(WEAK) } },
    ],
    [
      ["import", "k", "--bytes-file", "raw.key"],
      "PUT",
      "/keys/k",
      { key: { kty: "oct-HSM", k: base64url("0123456789abcdef"), key_size: 128 }, hsm: true, attributes: {} },
    ],
    [["show", "k"], "GET", "/keys/k", undefined],
    [["show", `k/${VERSION}`], "GET", `/keys/k/${VERSION}`, undefined],
    [["show", `${BASE}/keys/k/${VERSION}`], "GET", `/keys/k/${VERSION}`, undefined],
    [["show", "k", "--deleted"], "GET", "/deletedkeys/k", undefined],
    [["delete", "k"], "DELETE", "/keys/k", undefined],
    [["recover", "k"], "POST", "/deletedkeys/k/recover", undefined],
    [["purge", "k"], "DELETE", "/deletedkeys/k", undefined],
    [["rotate", "k"], "POST", "/keys/k/rotate", undefined],
    [["set-attributes", `k/${VERSION}`, "--enabled", "false", "--tags", ""], "PATCH", `/keys/k/${VERSION}`, { attributes: { enabled: false }, tags: {} }],
    [["set-attributes", "k", "--policy", "policy.json", "--ops", "sign,verify"], "PATCH", "/keys/k", { key_ops: ["sign", "verify"], release_policy: POLICY }],
    [["restore", "--file", "backup.bin"], "POST", "/keys/restore", { value: base64url("sealed") }],
    [["rotation-policy", "show", "k"], "GET", "/keys/k/rotationpolicy", undefined],
    [
      ["rotation-policy", "update", "k", "--value", "rotation.json"],
      "PUT",
      "/keys/k/rotationpolicy",
      { lifetimeActions: [{ trigger: { timeAfterCreate: "P90D" }, action: { type: "Rotate" } }], attributes: { expiryTime: "P2Y" } },
    ],
    [["secret", "show", "s"], "GET", "/secrets/s", undefined],
    [["secret", "delete", "s"], "DELETE", "/secrets/s", undefined],
    [["secret", "recover", "s"], "POST", "/deletedsecrets/s/recover", undefined],
    [["secret", "purge", "s"], "DELETE", "/deletedsecrets/s", undefined],
    [["secret", "restore", "-f", "backup.bin"], "POST", "/secrets/restore", { value: base64url("sealed") }],
    [
      ["secret", "set", "s", "--file", "message", "--encoding", "hex", "--content-type", "text/plain"],
      "PUT",
      "/secrets/s",
      { value: "68656c6c6f", contentType: "text/plain", attributes: {} },
    ],
    [["secret", "set", "s", "--value", "x", "--enabled", "true"], "PUT", "/secrets/s", { value: "x", attributes: { enabled: true } }],
    [
      ["set-policy", "--spn", "app-1", "--secret-permissions", "get"],
      "PUT",
      "/sealpod/access-policies",
      { tenantId: "tenant-1", objectId: "app-1", permissions: { secrets: ["get"] } },
    ],
    [
      ["set-policy", "--object-id", "o", "--tenant", "t2", "--key-permissions", "get,release", "list", "--secret-permissions", ""],
      "PUT",
      "/sealpod/access-policies",
      { tenantId: "t2", objectId: "o", permissions: { keys: ["get", "release", "list"], secrets: [] } },
    ],
    [["delete-policy", "--spn", "app-1"], "DELETE", "/sealpod/access-policies/tenant-1/app-1", undefined],
    [
      ["role-assignment", "delete", "/keys/k/providers/Microsoft.Authorization/roleAssignments/4d1a3c6e-0f6b-4a3e-9d55-1f6b2f0a9c11"],
      "DELETE",
      "/keys/k/providers/Microsoft.Authorization/roleAssignments/4d1a3c6e-0f6b-4a3e-9d55-1f6b2f0a9c11",
      undefined,
    ],
  ])("%j", async (argv, method, path, body) => {
    const ran = await run(argv, () => BUNDLE);
    expect(ran.error).toBeUndefined();
    expect(ran.exit).toBe(0);
    expect(ran.sent).toEqual([{ method, path, body }]);
  });

  it("an elliptic key, of the HSM if it is exportable", async () => {
    const software = await run(["import", "k", "--pem-file", "ec.pem"], () => BUNDLE);
    expect(software.sent[0]?.body).toMatchObject({ key: { kty: "EC", crv: "P-256" }, hsm: false, attributes: {} });
    const hsm = await run(["import", "k", "--pem-file", "ec.pem", "--exportable", "--policy", "policy.json"], () => BUNDLE);
    expect(hsm.sent[0]?.body).toMatchObject({ key: { kty: "EC-HSM" }, hsm: true, attributes: { exportable: true }, release_policy: POLICY });
    const sent = hsm.sent[0]?.body as { key: { d: string } } | undefined;
    expect(hsm.stdout).not.toContain(sent?.key.d ?? "");
  });

  it("a token out of a file, an answer or standard input", async () => {
    const token = tokenOf({ iss: "https://maa.test" });
    const first = await run(["release", `k/${VERSION}`, "--token", "token.jwt", "--enc", "RSA_AES_KEY_WRAP_256", "--nonce", "n"], () => ({ value: "jws" }));
    expect(first.sent).toEqual([{ method: "POST", path: `/keys/k/${VERSION}/release`, body: { target: token, enc: "RSA_AES_KEY_WRAP_256", nonce: "n" } }]);
    expect(first.stdout).toBe("jws\n");
    expect((await run(["release", "k", "--token", "answer.json"], () => ({ value: "jws" }))).sent[0]?.body).toEqual({ target: tokenOf({ iss: "x" }) });
    expect((await run(["release", "k", "--token", "-"], () => ({ value: "jws" }), ` ${token} \n`)).sent[0]?.body).toEqual({ target: token });
  });

  it("ciphers and signatures, in both alphabets of base64", async () => {
    const value = Buffer.from([0xfb, 0xff, 0xfe]);
    const encrypted = await run(["encrypt", "k", "-a", "A256GCM", "--value", value.toString("base64"), "--aad", "AA=="], () => ({
      value: base64url("ct"),
      iv: base64url("iv"),
      tag: base64url("tag"),
    }));
    expect(encrypted.sent[0]).toEqual({ method: "POST", path: "/keys/k/encrypt", body: { alg: "A256GCM", value: value.toString("base64url"), aad: "AA" } });
    expect(encrypted.stdout).toBe("Y3Q=\niv: aXY=\ntag: dGFn\n");
    const decrypted = await run(["decrypt", "k", "-a", "RSA-OAEP", "--value", value.toString("base64url"), "--data-type", "plaintext"], () => ({
      value: base64url("héllo"),
    }));
    expect([decrypted.sent[0]?.path, decrypted.stdout]).toEqual(["/keys/k/decrypt", "héllo\n"]);
    const digest = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";
    const signed = await run(["sign", "k", "-a", "RS256", "--file", "message"], () => ({ value: base64url("sig") }));
    expect(signed.sent[0]).toEqual({ method: "POST", path: "/keys/k/sign", body: { alg: "RS256", value: digest } });
    for (const [value_, exit, text] of [
      [true, 0, "the signature is the key's\n"],
      [false, 3, "the signature is NOT the key's\n"],
    ] as const) {
      const verified = await run(["verify", "k", "-a", "RS256", "--digest", digest, "--signature", "c2ln"], () => ({ value: value_ }));
      expect(verified.sent[0]?.body).toEqual({ alg: "RS256", digest, value: "c2ln" });
      expect([verified.exit, verified.stdout]).toEqual([exit, text]);
    }
  });

  it("random bytes are as many as were asked for", async () => {
    const ran = await run(["random", "--count", "3"], () => ({ value: base64url("abc") }));
    expect([ran.sent, ran.stdout]).toEqual([[{ method: "POST", path: "/rng", body: { count: 3 } }], "YWJj\n"]);
    expect((await run(["random", "--count", "4"], () => ({ value: base64url("abc") }))).error?.message).toBe("the vault gave 3 random bytes instead of 4");
  });
});

describe("what is shown", () => {
  it("a key in lines, or as the vault's JSON", async () => {
    expect((await run(["show", "k"], () => BUNDLE)).stdout).toBe(SHOWN);
    expect(JSON.parse((await run(["show", "k", "--json"], () => BUNDLE)).stdout)).toEqual(BUNDLE);
  });

  it("lists over all pages, and no page of another host", async () => {
    const page = (names: readonly string[], nextLink: string | null): object => ({
      value: names.map((name) => ({ kid: `${BASE}/keys/${name}`, attributes: { enabled: name !== "b", exportable: true } })),
      nextLink,
    });
    const pages = ({ path }: Sent): object => (path === "/keys" ? page(["a", "b"], `${BASE}/keys?$skiptoken=x`) : page(["c"], null));
    const ran = await run(["list"], pages);
    expect(ran.stdout).toBe(`${BASE}/keys/a  (exportable)\n${BASE}/keys/b  (disabled, exportable)\n${BASE}/keys/c  (exportable)\n`);
    expect(ran.sent.map(({ path }) => path)).toEqual(["/keys", "/keys?%24skiptoken=x"]);
    expect(JSON.parse((await run(["list", "--json"], pages)).stdout)).toHaveLength(3);
    const stolen = await run(["list"], () => page(["a"], "https://evil.test/keys"));
    expect([stolen.error?.code, stolen.error?.message, stolen.sent.length]).toEqual([
      "ERR_CLI_VAULT",
      "GET /keys: the next page is not of this vault: https://evil.test/keys",
      1,
    ]);
    for (const [argv, path] of [
      [["list-versions", "k"], "/keys/k/versions"],
      [["list-deleted"], "/deletedkeys"],
      [["secret", "list"], "/secrets"],
      [["secret", "list-versions", "s"], "/secrets/s/versions"],
      [["secret", "list-deleted"], "/deletedsecrets"],
    ] as const)
      expect((await run(argv, () => ({ value: [] }))).sent).toEqual([{ method: "GET", path, body: undefined }]);
  });

  it("the value of a secret only if it is asked for", async () => {
    const secret = { value: "hunter2", id: `${BASE}/secrets/s/${VERSION}`, attributes: { enabled: true, created: 1_700_000_000 }, contentType: "text/plain" };
    const hidden = await run(["secret", "show", "s"], () => secret);
    expect(hidden.stdout).toBe(`${BASE}/secrets/s/${VERSION}\n  content type:   text/plain\n  state:          enabled, created 2023-11-14T22:13:20Z\n`);
    for (const argv of [
      ["secret", "show", "s", "--json"],
      ["secret", "set", "s", "--value", "hunter2"],
      ["secret", "set", "s", "--value", "hunter2", "--json"],
    ])
      expect((await run(argv, () => secret)).stdout).not.toContain("hunter2");
    expect((await run(["secret", "show", "s", "--reveal"], () => secret)).stdout).toBe("hunter2");
    expect(JSON.parse((await run(["secret", "show", "s", "--reveal", "--json"], () => secret)).stdout)).toEqual(secret);
  });

  it("a backup in a new file that its owner alone can read", async () => {
    const ran = await run(["backup", "k", "--file", "new.backup"], () => ({ value: base64url("blob") }));
    expect(ran.sent).toEqual([{ method: "POST", path: "/keys/k/backup", body: undefined }]);
    const file = join(directory, "new.backup");
    expect([await readFile(file, "utf8"), (await stat(file)).mode & 0o777]).toEqual(["blob", 0o600]);
    const again = await run(["secret", "backup", "s", "--file", "new.backup"], () => ({ value: base64url("other") }));
    expect([again.error?.message, await readFile(file, "utf8")]).toEqual(["new.backup exists already", "blob"]);
  });

  it("control characters of a vault as spaces", async () => {
    const ran = await run(["show", "k"], () => ({ key: { kid: "x\u001b[31m", kty: "RSA\n" }, attributes: {}, tags: { "a\u0007": "b" } }));
    // eslint-disable-next-line no-control-regex
    expect(ran.stdout).not.toMatch(/[\u0000-\u0009\u000b-\u001f]/);
  });
});

describe("access", () => {
  const ROLES = {
    value: [
      {
        name: "21dbd100-6940-42c2-9190-5d6cb909625c",
        id: "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/21dbd100-6940-42c2-9190-5d6cb909625c",
        properties: { roleName: "Managed HSM Crypto Service Release User" },
      },
    ],
  };
  const made = {
    name: "4d1a3c6e-0f6b-4a3e-9d55-1f6b2f0a9c11",
    properties: { principalId: "p", roleDefinitionId: ROLES.value[0]?.id, scope: "/keys" },
  };
  const reply = ({ path }: Sent): unknown => (path.endsWith("roleDefinitions") ? ROLES : path.endsWith("roleAssignments") ? { value: [made] } : made);
  const LINE = "4d1a3c6e-0f6b-4a3e-9d55-1f6b2f0a9c11  Managed HSM Crypto Service Release User for p in /keys\n";

  it("roles by their names or ids", async () => {
    for (const role of ["managed hsm crypto service release user", "21DBD100-6940-42c2-9190-5d6cb909625c"]) {
      const ran = await run(["role-assignment", "create", "--role", role, "--assignee", "p", "--scope", "/keys"], reply);
      expect(ran.sent[1]).toEqual({
        method: "PUT",
        path: "/keys/providers/Microsoft.Authorization/roleAssignments/07070707-0707-4707-8707-070707070707",
        body: { properties: { roleDefinitionId: ROLES.value[0]?.id, principalId: "p" } },
      });
      expect(ran.stdout).toBe(LINE);
    }
    const unknown = await run(["role-assignment", "create", "--role", "King", "--assignee", "p"], reply);
    expect([unknown.error?.message, unknown.error?.hint]).toEqual([
      '--role "King" is no role of this vault',
      "It has: Managed HSM Crypto Service Release User.",
    ]);
    expect((await run(["role-assignment", "list"], reply)).stdout).toBe(LINE);
  });

  it("policies in lines", async () => {
    const value = [{ tenantId: "t", objectId: "o", permissions: { keys: ["get", "release"], secrets: [] } }];
    expect((await run(["list-policies"], () => ({ value }))).stdout).toBe("o of tenant t  keys: get, release; secrets: nothing\n");
  });
});

describe("what is refused before anything is sent", () => {
  it.each([
    [["show"], "no name is given"],
    [["show", "a_b"], '"a_b" is not the name of a key or secret'],
    [["show", "a", "-n", "b"], "a and --name b are two names"],
    [["show", "https://x.test/other/a"], '"https://x.test/other/a" is not the name of a key or secret'],
    [["delete", `k/${VERSION}`], `k/${VERSION} names a version, and this is done to all versions of k`],
    [["create", "k", "--exportable"], "--exportable is given without --policy FILE"],
    [["create", "k", "--policy", "policy.json"], "--policy is given without --exportable"],
    [["create", "k", "--kty", "RSA-HSM", "--protection", "software"], "--kty RSA-HSM and --protection software exclude each other"],
    [["create", "k", "--size", "big"], "--size big is not a number from 128 to 16384"],
    [["create", "k", "--ops", "fly"], "--ops fly is not an operation of keys"],
    [["create", "k", "--expires", "soon"], "--expires soon is not a time"],
    [["create", "k", "--immutable"], "--immutable is given without --policy FILE"],
    [["import", "k"], "no key is given"],
    [["import", "k", "--pem-file", "ec.pem", "--bytes-file", "raw.key"], "--pem-file and --bytes-file are two keys"],
    [["set-attributes", "k"], "nothing is given that would change"],
    [["set-attributes", `k/${VERSION}`, "--policy", "policy.json"], "--policy is given for a version: a release policy is set on the key"],
    [["random", "--count", "129"], "--count 129 is not a number from 1 to 128"],
    [["encrypt", "k", "-a", "RSA-OAEP", "--value", "secret!"], "--value is not base64"],
    [["sign", "k", "-a", "RS256"], "nothing is given to sign"],
    [["sign", "k", "-a", "none", "--file", "message"], "--algorithm none does not say how a file is hashed"],
    [["secret", "set", "s"], "no value is given"],
    [["secret", "set", "s", "--value", "x", "--file", "message"], "--value and --file are two values"],
    [["set-policy", "--spn", "a"], "no permissions are given"],
    [["set-policy", "--key-permissions", "get"], "no principal is given"],
    [["delete-policy", "--spn", "../x"], '--spn "../x" is no id'],
    [["role-assignment", "list", "--scope", "/subscriptions/x"], '--scope "/subscriptions/x" is no scope'],
    [["role-assignment", "delete", "x"], '"x" is no name of a role assignment'],
    [["sign", "k", "-a", "RS256", "--digest", "ab".repeat(32)], "--digest has 48 bytes, and RS256 signs 32"],
    [["why", "k"], "nothing is given to explain"],
    [["why", "k", "--request-id", "x"], "--request-id is a question of its own"],
  ])("%j: usage error", async (argv, message) => {
    const ran = await run(argv);
    expect([ran.error?.code, ran.error?.message, ran.exit, ran.sent]).toEqual(["ERR_CLI_USAGE", message, 2, []]);
    expect(ran.error?.hint ?? "").not.toContain("secret!");
  });

  it("a policy that others satisfy, or that is none", async () => {
    const weak = await run(["create", "k", "--exportable", "--policy", "weak.json"]);
    expect(weak.error).toMatchObject({ code: "ERR_CLI_FILE", hint: "Add the conditions, or pass --allow-any if that is what you want." });
    expect(weak.error?.message).toMatch(/^weak\.json: the release policy would give the key to others than your pods:\n {2}- At \$\.anyOf\[0\]\.allOf any pod/);
    expect((await run(["set-attributes", "k", "--policy", "bad.json"])).error?.code).toBe("ERR_RELEASE_POLICY");
    for (const argv of [
      ["policy", "check", "typo.json"],
      ["set-attributes", "k", "--policy", "typo.json"],
    ]) {
      expect((await run(argv)).error).toMatchObject({
        code: "ERR_RELEASE_POLICY",
        message: 'typo.json: The release policy is not valid at $.anyOf[0].allOf[0]: unexpected member "equal".',
        hint: 'Did you mean "equals"?',
      });
    }
    const allowed = await run(["create", "k", "--exportable", "--policy", "weak.json", "--allow-any"]);
    expect(allowed.stderr).toMatch(/^warning: taken because of --allow-any: At \$\.anyOf\[0\]\.allOf any pod/);
    expect((await run(["release", "k", "--token", "message"])).error?.message).toBe("message holds no attestation token");
  });
});

describe("the vault's refusals", () => {
  const wire = (status: number, code: string, message: string, inner = ""): Status =>
    new Status(status, { error: { code, message, innererror: inner === "" ? undefined : { code: inner } } });
  it.each([
    [
      ["show", "k"],
      wire(401, "Unauthorized", "AKV10000"),
      "ERR_CLI_VAULT_UNAUTHORIZED",
      1,
      "GET demo.vault.test:8443/keys/k: the vault answered 401, Unauthorized: AKV10000",
      /fresh access token/,
    ],
    [
      ["show", "k"],
      wire(403, "Forbidden", "no", "AccessDenied"),
      "ERR_CLI_VAULT_FORBIDDEN",
      3,
      "GET demo.vault.test:8443/keys/k: the vault answered 403, Forbidden: no",
      /sealpod key set-policy/,
    ],
    [
      ["release", "k", "--token", "token.jwt"],
      wire(403, "Forbidden", "no", "ForbiddenByReleasePolicy"),
      "ERR_CLI_VAULT_FORBIDDEN",
      3,
      "POST demo.vault.test:8443/keys/k/release: the vault answered 403, Forbidden: no",
      /^The owner .* sealpod key why --request-id req-1$/,
    ],
    [
      ["show", "k"],
      wire(404, "KeyNotFound", "none\u001b[0m"),
      "ERR_CLI_VAULT_NOT_FOUND",
      1,
      "GET demo.vault.test:8443/keys/k: the vault answered 404, KeyNotFound: none [0m",
      /^$/,
    ],
    [
      ["list-policies"],
      wire(404, "NotFound", "x"),
      "ERR_CLI_VAULT_NOT_FOUND",
      1,
      "GET demo.vault.test:8443/sealpod/access-policies: the vault answered 404, NotFound: x",
      /az keyvault set-policy/,
    ],
    [
      ["delete-policy", "--spn", "a"],
      wire(404, "AccessPolicyNotFound", "none"),
      "ERR_CLI_VAULT_NOT_FOUND",
      1,
      "DELETE demo.vault.test:8443/sealpod/access-policies/tenant-1/a: the vault answered 404, AccessPolicyNotFound: none",
      /^This principal has none\. Who has one: sealpod key list-policies$/,
    ],
    [
      ["why", "k", "--token", "token.jwt"],
      wire(404, "KeyNotFound", "none"),
      "ERR_CLI_VAULT_NOT_FOUND",
      1,
      "POST demo.vault.test:8443/sealpod/keys/k/why: the vault answered 404, KeyNotFound: none",
      /^Is it the right vault\? Its keys: sealpod key list;/,
    ],
    [
      ["role-assignment", "delete", "4d1a3c6e-0f6b-4a3e-9d55-1f6b2f0a9c11"],
      wire(409, "Conflict", "is there"),
      "ERR_CLI_VAULT_CONFLICT",
      1,
      "DELETE demo.vault.test:8443/providers/Microsoft.Authorization/roleAssignments/4d1a3c6e-0f6b-4a3e-9d55-1f6b2f0a9c11: the vault answered 409, Conflict: is there",
      /^The principal has this role in this scope already/,
    ],
    [
      ["create", "k"],
      wire(409, "Conflict", "deleted"),
      "ERR_CLI_VAULT_CONFLICT",
      1,
      "POST demo.vault.test:8443/keys/k/create: the vault answered 409, Conflict: deleted",
      /recover or purge/,
    ],
    [
      ["set-attributes", "k", "--policy", "policy.json"],
      wire(400, "BadParameter", "x", "AKV.SKR.1020"),
      "ERR_CLI_VAULT_REFUSED",
      1,
      "PATCH demo.vault.test:8443/keys/k: the vault answered 400, BadParameter: x",
      /immutable/,
    ],
    [["show", "k"], wire(429, "Throttled", "slow"), "ERR_CLI_VAULT", 1, "GET demo.vault.test:8443/keys/k: the vault answered 429, Throttled: slow", /wait/],
    [["show", "k"], new Status(503, "<html>"), "ERR_CLI_VAULT", 1, "GET demo.vault.test:8443/keys/k: the vault answered 503", /^$/],
    [["show", "k"], new Status(200, "<html>"), "ERR_CLI_VAULT", 1, "GET demo.vault.test:8443/keys/k: the answer is no JSON object", /key vault/],
    [["list"], {}, "ERR_CLI_VAULT", 1, "GET /keys: the answer has no list", /^$/],
  ] as const)("%j %o", async (argv, answer, code, exit, message, hint) => {
    const ran = await run(argv, () => answer);
    expect([ran.error?.code, ran.exit, ran.error?.message]).toEqual([code, exit, message]);
    expect(ran.error?.hint ?? "").toMatch(hint);
    expect(JSON.stringify(ran.error)).not.toContain("t0ken");
  });
});

describe("empty lists", () => {
  it.each([
    [["list"], `no keys in ${BASE}`],
    [["list-deleted"], `no deleted keys in ${BASE}`],
    [["list-versions", "nope"], `no versions of nope in ${BASE}: is the name right? sealpod key list shows them all`],
    [["secret", "list"], `no secrets in ${BASE}`],
    [["secret", "list-versions", "nope"], `no versions of nope in ${BASE}: is the name right? sealpod key secret list shows them all`],
    [["list-policies"], `no access policies in ${BASE}`],
    [["role-assignment", "list"], `no role assignments of scope / in ${BASE}`],
  ])("%j says so on stderr alone, and is [] in JSON", async (argv, said) => {
    const ran = await run(argv, () => ({ value: [] }));
    expect([ran.exit, ran.stdout, ran.stderr]).toEqual([0, "", `${said}\n`]);
    const json = await run([...argv, "--json"], () => ({ value: [] }));
    expect([JSON.parse(json.stdout), json.stderr]).toEqual([[], ""]);
  });
});

describe("audit and why", () => {
  const line = (id: number, more: object = {}): object => ({
    id,
    requestId: `r${id}`,
    at: Date.UTC(2026, 0, 1, 0, 0, id),
    vault: "demo",
    operation: "keys/release",
    name: "k",
    version: "1",
    tenantId: "t",
    appid: "a",
    oid: "",
    outcome: "allowed",
    reason: "",
    authority: "",
    findings: [],
    ...more,
  });
  const REFUSED = line(2, {
    outcome: "refused",
    failed: "policy",
    reason: "claim x is missing",
    authority: "https://maa.test",
    findings: [
      { authority: "https://maa.test", claim: "x", expected: '"1"', matched: false },
      { authority: "https://maa.test", claim: "y", expected: '"2"', found: '"2"', matched: true },
    ],
  });

  it("shows the audit, the oldest first, over pages", async () => {
    const ran = await run(["audit", "-n", "k", "--operation", "keys/release", "--limit", "3"], ({ path }) =>
      path.includes("before=") ? { value: [line(1)], nextBefore: null } : { value: [line(3), REFUSED], nextBefore: 2 },
    );
    expect(ran.sent.map(({ path }) => path)).toEqual([
      "/sealpod/audit?name=k&operation=keys%2Frelease&limit=3",
      "/sealpod/audit?name=k&operation=keys%2Frelease&limit=1&before=2",
    ]);
    expect(ran.stdout).toBe(`2026-01-01T00:00:01Z  allowed  keys/release  demo/k/1  a
2026-01-01T00:00:02Z  refused  keys/release  demo/k/1  a; policy: claim x is missing
    FAILED x: expected "1", found nothing
    ok     y: expected "2", found "2"
2026-01-01T00:00:03Z  allowed  keys/release  demo/k/1  a
`);
  });

  it("shows short ids, and with --long whole ones and the request", async () => {
    const lines = [line(1, { version: VERSION, appid: "11111111-2222-3333-4444-555555555555" })];
    const reply = (): object => ({ value: lines, nextBefore: null });
    expect((await run(["audit"], reply)).stdout).toBe("2026-01-01T00:00:01Z  allowed  keys/release  demo/k/01234567  11111111\n");
    expect((await run(["audit", "--long"], reply)).stdout).toBe(
      `2026-01-01T00:00:01Z  allowed  keys/release  demo/k/${VERSION}  application 11111111-2222-3333-4444-555555555555 of tenant t (request r1)\n`,
    );
  });

  it("leaves the reads of the audit out, and still shows as many lines as are asked for", async () => {
    const read = (id: number): object => line(id, { operation: "audit/list" });
    const pages = ({ path }: Sent): object =>
      path.includes("before=3") ? { value: [line(2), line(1)], nextBefore: null } : { value: [read(5), line(4), read(3)], nextBefore: 3 };
    const ids = async (...argv: readonly string[]): Promise<readonly number[]> =>
      (JSON.parse((await run(["audit", "--json", ...argv], pages)).stdout) as { id: number }[]).map(({ id }) => id);
    expect(await ids("--limit", "2")).toEqual([2, 4]);
    expect(await ids("--limit", "3", "--all")).toEqual([3, 4, 5]);
    expect(await ids()).toEqual([1, 2, 4]);
    const none = await run(["audit", "-n", "x"], () => ({ value: [], nextBefore: null }));
    expect([none.exit, none.stdout, none.stderr]).toEqual([0, "", `nothing in the audit of ${BASE} fits\n`]);
  });

  it("puts the audits of two vaults together by time, with the names of the applications that are known", async () => {
    let stdout = "";
    const context = {
      signal: new AbortController().signal,
      stdout: { isTerminal: false, write: (text: string) => void (stdout += text) },
    } as unknown as CliContext;
    const vaultOf = (lines: readonly object[]): Vault =>
      ({
        base: BASE,
        applications: new Map([["a", "laptop owner"]]),
        call: async () => Promise.resolve({ value: lines, nextBefore: null }),
      }) as unknown as Vault;
    const vaults = [vaultOf([line(4), line(1)]), vaultOf([line(3, { vault: "kv" }), line(2, { vault: "kv", appid: "", oid: "object-id-of-somebody" })])];
    expect(await showAudit(vaults, { limit: "3" }, context, async () => Promise.resolve(false))).toBe(0);
    expect(stdout).toBe(`2026-01-01T00:00:02Z  allowed  keys/release  kv/k/1  object object-i
2026-01-01T00:00:03Z  allowed  keys/release  kv/k/1  laptop owner
2026-01-01T00:00:04Z  allowed  keys/release  demo/k/1  laptop owner
`);
  });

  it("follows the audit until it is told to end, and shows each line once", async () => {
    const looks = [[line(1)], [line(4, { operation: "audit/list" }), line(3), line(2), line(1)], [line(4, { operation: "audit/list" })]].map((value) => ({
      value,
      nextBefore: null,
    }));
    let stdout = "";
    const context = {
      signal: new AbortController().signal,
      stdout: { isTerminal: false, write: (text: string) => void (stdout += text) },
    } as unknown as CliContext;
    const vault = { call: async () => Promise.resolve(looks.shift() as unknown as JsonObject) } as unknown as Vault;
    expect(await showAudit([vault], { limit: "100", follow: true, json: true }, context, async () => Promise.resolve(looks.length > 0))).toBe(0);
    expect(
      stdout
        .trim()
        .split("\n")
        .map((text) => (JSON.parse(text) as { id: number }).id),
    ).toEqual([1, 2, 3]);
  });

  it("explains a token, with 3 for what would be refused", async () => {
    const answer = {
      wouldRelease: false,
      failed: "policy",
      reason: "claim x is missing",
      authority: "https://maa.test",
      findings: (REFUSED as { findings: object }).findings,
    };
    const ran = await run(["why", `k/${VERSION}`, "--token", "-"], () => answer, tokenOf({ iss: "https://maa.test" }));
    expect(ran.sent).toEqual([{ method: "POST", path: `/sealpod/keys/k/${VERSION}/why`, body: { target: tokenOf({ iss: "https://maa.test" }) } }]);
    expect([ran.exit, ran.stdout]).toEqual([
      3,
      'k would be REFUSED: policy: claim x is missing\n  token of https://maa.test\n  FAILED x: expected "1", found nothing\n  ok     y: expected "2", found "2"\n',
    ]);
    const fine = await run(["why", "k", "--token", "token.jwt"], () => ({ wouldRelease: true, reason: "", authority: "https://maa.test", findings: [] }));
    expect([fine.exit, fine.stdout]).toEqual([0, "k would be released to this token\n  token of https://maa.test\n"]);
    expect((await run(["why", "k", "--token", "token.jwt"], () => ({}))).error?.code).toBe("ERR_CLI_VAULT");
  });

  it("explains a request of the past", async () => {
    const ran = await run(["why", "--request-id", "r2"], () => ({ value: [REFUSED] }));
    expect(ran.sent).toEqual([{ method: "GET", path: "/sealpod/audit?requestId=r2", body: undefined }]);
    expect([ran.exit, ran.stdout]).toEqual([
      0,
      '2026-01-01T00:00:02Z  refused  keys/release  demo/k/1  application a of tenant t (request r2); policy: claim x is missing\n  token of https://maa.test\n  FAILED x: expected "1", found nothing\n  ok     y: expected "2", found "2"\n',
    ]);
    expect((await run(["why", "--request-id", "r9"], () => ({ value: [] }))).error).toMatchObject({
      code: "ERR_CLI_VAULT_NOT_FOUND",
      message: 'the audit has no request "r9"',
    });
  });
});
