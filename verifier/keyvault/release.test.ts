import { constants, createDecipheriv, createPrivateKey, generateKeyPairSync, privateDecrypt, sign, X509Certificate, type KeyObject } from "node:crypto";
import { compactVerify, decodeProtectedHeader } from "jose";
import { beforeEach, describe, expect, it } from "vitest";
import { SealpodError } from "@sealpod/core";
import { explainRelease, formatAuditLine } from "./explain-release.ts";
import { explainToken } from "./explain-token.ts";
import { releaseKey, type ReleaseContext, type ReleaseRequest } from "./release.ts";
import type { AuditCheck, KeyRecord } from "./store/types.ts";
import {
  accessToken,
  attestationClaims,
  attestationToken,
  BASE,
  CALLER,
  HOSTDATA,
  jwk,
  keyRecord,
  KEYS,
  LOGIN,
  MAA,
  NOW,
  POLICY,
  releaseWorld,
  SECRET,
  segment,
  signToken,
  TENANT,
  type Json,
  type ReleaseWorld,
} from "./testdata/release-world.ts";

let world: ReleaseWorld;
beforeEach(() => {
  world = releaseWorld();
});

/** What a client does with a release (specs/attestation.md 5.5). */
async function open(jws: string, tee: KeyObject = KEYS.tee.privateKey): Promise<{ header: Json; payload: Json; keyHsm: Json; secret: Uint8Array }> {
  const header = decodeProtectedHeader(jws) as Json & { x5c: string[] };
  const { payload: bytes } = await compactVerify(jws, new X509Certificate(Buffer.from(header.x5c[0] ?? "", "base64")).publicKey, { algorithms: ["RS256"] });
  const payload = JSON.parse(Buffer.from(bytes).toString()) as Json & { response: { key: { key: { key_hsm: string } } } };
  const keyHsm = JSON.parse(Buffer.from(payload.response.key.key.key_hsm, "base64url").toString()) as Json & { header: { enc: string }; ciphertext: string };
  const ciphertext = Buffer.from(keyHsm.ciphertext, "base64url");
  const oaepHash = { CKM_RSA_AES_KEY_WRAP: "sha1", RSA_AES_KEY_WRAP_256: "sha256", RSA_AES_KEY_WRAP_384: "sha384" }[keyHsm.header.enc] ?? "";
  const kek = privateDecrypt({ key: tee, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, ciphertext.subarray(0, 256));
  const decipher = createDecipheriv("id-aes256-wrap-pad", kek, Buffer.from("A65959A6", "hex"));
  return { header, payload, keyHsm, secret: new Uint8Array(Buffer.concat([decipher.update(ciphertext.subarray(256)), decipher.final()])) };
}

async function refused(request: Partial<ReleaseRequest>): Promise<SealpodError> {
  const error: unknown = await releaseKey(world.context, world.request(request)).catch((reason: unknown) => reason);
  if (error instanceof SealpodError) return error;
  throw new Error(`not refused: ${String(error)}`);
}

describe("release", () => {
  it("gives the key when nothing is wrong, and has it in the audit", async () => {
    const { secret } = await open(await releaseKey(world.context, world.request()));
    expect(secret).toEqual(SECRET);
    expect(world.lines).toMatchObject([
      {
        requestId: "request-1",
        at: NOW * 1000,
        vault: "demo",
        operation: "keys/release",
        name: "app",
        version: "0123456789abcdef0123456789abcdef",
        tenantId: TENANT,
        appid: CALLER.appid,
        oid: CALLER.oid,
        outcome: "allowed",
        failed: undefined,
        reason: 'CKM_RSA_AES_KEY_WRAP to wrapping key "tee-key"',
        authority: MAA,
      },
    ]);
    expect(world.lines[0]?.findings).toHaveLength(8);
    expect(await explainToken(world.context, keyRecord(), attestationToken())).toMatchObject({
      wouldRelease: true,
      failed: undefined,
      reason: "",
      change: undefined,
    });
  });

  // --- one thing wrong at a time ---

  type Case = readonly [
    what: string,
    subject: () => { target?: string; key?: KeyRecord; context?: Partial<ReleaseContext> },
    check: AuditCheck,
    reason: RegExp,
  ];
  const withClaims = (change: Json) => (): { target: string } => ({ target: attestationToken(change) });
  const withHeader = (header: Json) => (): { target: string } => ({ target: attestationToken({}, KEYS.maa.privateKey, header) });
  const withKeys = (...keys: Json[]): ReturnType<typeof withClaims> => withClaims({ "x-ms-runtime": { keys, user: { name: "pod" } } });
  const tee = (change: Json): Json => {
    const { key_ops: operations, ...rest } = { ...jwk(KEYS.tee.publicKey), kid: "tee-key", key_ops: ["encrypt"] as unknown, ...change };
    return operations === undefined ? rest : { ...rest, key_ops: operations };
  };
  const payloadOf = (token: string): string => token.split(".")[1] ?? "";

  const claims: readonly Case[] = [
    ["x-ms-attestation-type", withClaims({ "x-ms-attestation-type": "sgx" }), "policy", /claim x-ms-attestation-type is "sgx", the policy expects "sevsnpvm"$/],
    [
      "x-ms-compliance-status",
      withClaims({ "x-ms-compliance-status": "azure-compliant-uvm" }),
      "policy",
      /^claim x-ms-compliance-status is "azure-compliant-uvm"/,
    ],
    [
      "x-ms-sevsnpvm-hostdata",
      withClaims({ "x-ms-sevsnpvm-hostdata": "ab".repeat(31) + "ac" }),
      "policy",
      /^claim x-ms-sevsnpvm-hostdata is "(ab){31}ac", the policy expects "(ab){32}"$/,
    ],
    ["hostdata in upper case", withClaims({ "x-ms-sevsnpvm-hostdata": HOSTDATA.toUpperCase() }), "policy", /^claim x-ms-sevsnpvm-hostdata is "(AB){32}"/],
    ["hostdata in a list", withClaims({ "x-ms-sevsnpvm-hostdata": [HOSTDATA] }), "policy", /^claim x-ms-sevsnpvm-hostdata is \[…\]/],
    [
      "x-ms-sevsnpvm-is-debuggable",
      withClaims({ "x-ms-sevsnpvm-is-debuggable": true }),
      "policy",
      /^claim x-ms-sevsnpvm-is-debuggable is true, the policy expects "false"$/,
    ],
    ["is-debuggable as 0", withClaims({ "x-ms-sevsnpvm-is-debuggable": 0 }), "policy", /is-debuggable is 0/],
    ["is-debuggable as null", withClaims({ "x-ms-sevsnpvm-is-debuggable": null }), "policy", /is-debuggable is null/],
    ["x-ms-sevsnpvm-launchmeasurement", withClaims({ "x-ms-sevsnpvm-launchmeasurement": "ce".repeat(48) }), "policy", /^claim x-ms-sevsnpvm-launchmeasurement/],
    ["x-ms-sevsnpvm-microcode-svn", withClaims({ "x-ms-sevsnpvm-microcode-svn": 114 }), "policy", /microcode-svn is 114, the policy expects 115$/],
    [
      "a number that the policy wants as a number",
      withClaims({ "x-ms-sevsnpvm-microcode-svn": "115" }),
      "policy",
      /microcode-svn is "115", the policy expects 115$/,
    ],
    ["x-ms-sevsnpvm-vmpl", withClaims({ "x-ms-sevsnpvm-vmpl": 1 }), "policy", /vmpl is 1, the policy expects "0"$/],
    [
      "a claim below x-ms-runtime",
      withClaims({ "x-ms-runtime": { ...(attestationClaims()["x-ms-runtime"] as Json), user: { name: "other" } } }),
      "policy",
      /^claim x-ms-runtime.user.name is "other"/,
    ],
    ...["x-ms-attestation-type", "x-ms-compliance-status", "x-ms-sevsnpvm-hostdata", "x-ms-sevsnpvm-is-debuggable", "x-ms-sevsnpvm-launchmeasurement"].map(
      (claim): Case => [`no ${claim}`, withClaims({ [claim]: undefined }), "policy", new RegExp(`^claim ${claim} is missing, the policy expects "[^"]+"$`)],
    ),
    [
      "a policy that asks for more",
      () => ({ key: keyRecord({}, { ...POLICY, anyOf: [{ authority: MAA, allOf: [{ claim: "none", equals: "1" }] }] }) }),
      "policy",
      /^claim none is missing/,
    ],
  ];

  const tokens: readonly Case[] = [
    [
      "the signature of another key",
      () => ({ target: attestationToken({}, KEYS.attacker.privateKey) }),
      "token",
      /key "maa-1" of https:\/\/maa.test did not sign it$/,
    ],
    [
      "other claims under the same signature",
      () => {
        const parts = attestationToken().split(".");
        return { target: [parts[0], payloadOf(attestationToken({ iat: 1 })), parts[2]].join(".") };
      },
      "token",
      /did not sign it$/,
    ],
    ["no signature", () => ({ target: attestationToken().replace(/[^.]*$/, "") }), "token", /did not sign it$/],
    ["a signature in another alphabet", () => ({ target: `${attestationToken()}=` }), "token", /did not sign it$/],
    [
      "alg none",
      () => ({ target: signToken({ alg: "none", kid: "maa-1" }, attestationClaims(), undefined) }),
      "token",
      /its algorithm is "none", expected "RS256"$/,
    ],
    [
      "HS256 with the public key as the secret",
      () => ({
        target: signToken(
          { alg: "HS256", kid: "maa-1" },
          attestationClaims(),
          Buffer.from(KEYS.maa.publicKey.export({ type: "spki", format: "pem" }) as string),
        ),
      }),
      "token",
      /its algorithm is "HS256"/,
    ],
    ["RS256 in lower case", withHeader({ alg: "rs256" }), "token", /its algorithm is "rs256"/],
    ["PS256 that is one", () => psToken(), "token", /its algorithm is "PS256"/],
    ["no algorithm", withHeader({ alg: undefined }), "token", /its algorithm is null/],
    ["an extension that is critical", withHeader({ crit: ["exp"], exp: 1 }), "token", /asks for an extension/],
    ["a payload that is not encoded", withHeader({ b64: false }), "token", /asks for an extension/],
    ["a kid that nobody knows", withHeader({ kid: "maa-2" }), "token", /https:\/\/maa.test has no RSA signing key with kid "maa-2"$/],
    ["no kid", withHeader({ kid: undefined }), "token", /its header has no kid$/],
    ["a kid that is no text", withHeader({ kid: 1 }), "token", /its header has no kid$/],
    ["a kid of the object's prototype", withHeader({ kid: "__proto__" }), "token", /no RSA signing key with kid "__proto__"$/],
    [
      "a key of its own in the header",
      () => ({
        target: attestationToken({}, KEYS.attacker.privateKey, {
          jwk: jwk(KEYS.attacker.publicKey),
          jku: "https://evil.test/certs",
          x5u: "https://evil.test/x",
        }),
      }),
      "token",
      /did not sign it$/,
    ],
    ["an end in the past", withClaims({ exp: NOW - 60 }), "token", /it expired 60 seconds ago$/],
    ["no end", withClaims({ exp: undefined }), "token", /it has no exp claim in seconds$/],
    ["an end that is a text", withClaims({ exp: `${NOW + 60}` }), "token", /it has no exp claim in seconds$/],
    [
      "an end beyond numbers",
      () => ({
        target: signToken(
          { alg: "RS256", kid: "maa-1" },
          JSON.stringify(attestationClaims()).replace(/"exp":\d+/, '"exp":99999999999999999999'),
          KEYS.maa.privateKey,
        ),
      }),
      "token",
      /it has no exp claim/,
    ],
    ["a beginning in the future", withClaims({ nbf: NOW + 61 }), "token", /it is valid only in 61 seconds$/],
    ["a beginning that is a text", withClaims({ nbf: "0" }), "token", /its nbf claim is not in seconds$/],
    [
      "the audience of another",
      withClaims({ aud: "https://other.test" }),
      "token",
      /its audience is "https:\/\/other.test", this is https:\/\/demo.vault.test$/,
    ],
    ["an audience that is no text", withClaims({ aud: { "https://demo.vault.test": 1 } }), "token", /its audience is \{"https:\/\/demo.vault.test":1\}/],
    [
      "two claims of one name",
      () => ({ target: signToken({ alg: "RS256", kid: "maa-1" }, JSON.stringify(attestationClaims()).replace("{", `{"iss":"${MAA}",`), KEYS.maa.privateKey) }),
      "token",
      /duplicate name "iss"/,
    ],
    ["two parts", () => ({ target: "a.b" }), "token", /it has 2 parts/],
    ["five parts, as an encrypted token has", () => ({ target: `${attestationToken()}.a.b` }), "token", /more than 3 parts/],
    [
      "claims that are a list",
      () => ({ target: signToken({ alg: "RS256", kid: "maa-1" }, "[]", KEYS.maa.privateKey) }),
      "token",
      /its payload is not a JSON object/,
    ],
    [
      "claims nested without end",
      () => ({ target: signToken({ alg: "RS256", kid: "maa-1" }, `{"a":${"[".repeat(40)}`, KEYS.maa.privateKey) }),
      "token",
      /nested deeper than 32/,
    ],
    ["more than a token can be long", () => ({ target: "a".repeat(262_145) }), "token", /more than the limit of 262144/],
  ];

  const authorities: readonly Case[] = [
    ["the issuer", withClaims({ iss: "https://evil.test" }), "authority", /^the token is of "https:\/\/evil.test", the policy expects https:\/\/maa.test$/],
    ["an issuer that begins like it", withClaims({ iss: `${MAA}.evil.test` }), "authority", /the token is of "https:\/\/maa.test.evil.test"/],
    ["an issuer with two slashes", withClaims({ iss: `${MAA}//` }), "authority", /the token is of/],
    ["an issuer in upper case", withClaims({ iss: MAA.toUpperCase() }), "authority", /the token is of/],
    ["no issuer", withClaims({ iss: undefined }), "authority", /no iss claim/],
    ["an issuer that is no text", withClaims({ iss: [MAA] }), "authority", /no iss claim/],
    ["the caller's access token", () => ({ target: accessToken() }), "authority", new RegExp(`the token is of "${LOGIN}"`)],
    [
      "an authority that this service does not ask",
      () => ({ context: { authorities: ["https://other.test"] } }),
      "authority",
      /https:\/\/maa.test is none that this service is configured to ask$/,
    ],
    ["the root of its evidence", withClaims({ "x-sealpod-root": "amd" }), "evidence-root", /^the token rests on root "amd", this vault takes emulator$/],
    ["a root that is no text", withClaims({ "x-sealpod-root": ["emulator"] }), "evidence-root", /rests on root \["emulator"\]/],
    ["a vault for other hardware", () => ({ context: { evidenceRoots: ["amd"] } }), "evidence-root", /rests on root "emulator", this vault takes amd$/],
  ];

  const small = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey;
  const cubic = generateKeyPairSync("rsa", { modulusLength: 2048, publicExponent: 3 }).publicKey;
  const wrappingKeys: readonly Case[] = [
    [
      "no keys",
      withClaims({ "x-ms-runtime": { user: { name: "pod" } } }),
      "wrapping-key",
      /x-ms-runtime.keys holds no RSA key with use "enc" or key_ops "encrypt"$/,
    ],
    ["no key in the list", withKeys(), "wrapping-key", /holds no RSA key/],
    ["a key of 1024 bits", withKeys(jwk(small, { use: "enc" })), "wrapping-key", /it has 1024 bits, expected 2048 to 8192$/],
    ["an exponent of 3", withKeys(jwk(cubic, { use: "enc" })), "wrapping-key", /its exponent is 3,/],
    ["an exponent of 1, which encrypts nothing", withKeys(tee({ e: "AQ" })), "wrapping-key", /its exponent is 1,|not usable/],
    [
      "an even modulus",
      withKeys(
        tee({ n: Buffer.from(Buffer.from(String(tee({})["n"]), "base64url").map((byte, at) => (at === 255 ? byte & 0xfe : byte))).toString("base64url") }),
      ),
      "wrapping-key",
      /not usable/,
    ],
    ["a key for signatures", withKeys(tee({ use: "sig", key_ops: undefined })), "wrapping-key", /holds no RSA key/],
    ["a key for other operations", withKeys(tee({ key_ops: ["verify", "wrapKey"] })), "wrapping-key", /holds no RSA key/],
    ["a key that does not say what it is for", withKeys(tee({ key_ops: undefined })), "wrapping-key", /holds no RSA key/],
    ["operations that are no list", withKeys(tee({ key_ops: "encrypt" })), "wrapping-key", /holds no RSA key/],
    [
      "a key of another kind",
      withKeys({ ...generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({ format: "jwk" }), use: "enc" }),
      "wrapping-key",
      /holds no RSA key/,
    ],
    ["a key whose kind is not said", withKeys(tee({ kty: undefined })), "wrapping-key", /holds no RSA key/],
    ["a modulus that is no base64url", withKeys(tee({ n: "*" })), "wrapping-key", /not usable/],
    ["no modulus", withKeys(tee({ n: undefined })), "wrapping-key", /n and e must be texts/],
  ];

  const keys: readonly Case[] = [
    ["enabled", () => ({ key: keyRecord({ enabled: false }) }), "key", /^the key is disabled$/],
    ["exportable", () => ({ key: keyRecord({ exportable: false }) }), "key", /^the key is not exportable$/],
    ["a release policy", () => ({ key: keyRecord({ releasePolicy: undefined }) }), "key", /^the key is not exportable$/],
  ];

  describe.each([
    ["claim", claims],
    ["part of the token", tokens],
    ["part of what vouches for it", authorities],
    ["property of the wrapping key", wrappingKeys],
    ["attribute of the key", keys],
  ] as const)("with one %s wrong", (_kind, cases) => {
    it.each(cases)("refuses %s, tells the caller nothing, and tells the owner why", async (_what, subject, check, reason) => {
      const { target = attestationToken(), key = keyRecord(), context = {} } = subject();
      world = releaseWorld(context);
      world.key = key;
      const error = await refused({ target, key });
      expect(error.row.http).toBe(403);
      if (check === "key") expect(error).toMatchObject({ code: "ERR_KEYVAULT_KEY_OPERATION", details: { inner: "KeyOperationForbidden" } });
      else {
        expect(error).toMatchObject({ code: "ERR_KEYVAULT_RELEASE", details: { inner: "ForbiddenByReleasePolicy" } });
        expect(error.message).toBe("The key was not released: the attestation token does not satisfy the release policy of the key.");
      }
      expect(world.lines).toHaveLength(1);
      expect(world.lines[0]).toMatchObject({ outcome: "refused", failed: check, name: "app", appid: CALLER.appid });
      expect(world.lines[0]?.reason).toMatch(reason);
      expect(JSON.stringify(world.lines)).not.toContain(target.slice(-40));
      expect(world.documents.fetched.filter((url) => !url.startsWith(`${MAA}/`))).toEqual([]);

      // Who explains finds the same, and nothing else: only this is wrong.
      const explained = await explainToken(world.context, key, target, BASE);
      expect(explained).toMatchObject({ wouldRelease: false, failed: check });
      expect(explained.reason).toMatch(reason);
      const wrong = new Set(explained.checks.filter(({ problem }) => problem !== undefined).map((each) => each.check));
      // A token of another authority has no conditions in the policy, and what is no token at all has nothing.
      if (check !== "authority" || explained.authority === MAA) expect([...wrong]).toEqual([check]);
    });
  });

  const psToken = (): { target: string } => {
    const input = `${segment({ alg: "PS256", kid: "maa-1" })}.${segment(attestationClaims())}`;
    const signature = sign("sha256", Buffer.from(input), { key: KEYS.maa.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 });
    return { target: `${input}.${signature.toString("base64url")}` };
  };

  it.each<readonly [string, Json, Json]>([
    ["an issuer with a slash", { iss: `${MAA}/` }, {}],
    ["a token that ends within the skew of clocks", { exp: NOW - 59 }, {}],
    ["a token that begins within it", { nbf: NOW + 60 }, {}],
    ["no beginning", { nbf: undefined }, {}],
    ["no root, as the genuine service names none", { "x-sealpod-root": undefined }, {}],
    ["the vault's own audience", { aud: `${BASE}/` }, {}],
    ["its audience among others", { aud: ["https://other.test", BASE] }, {}],
    ["no type", {}, { typ: undefined }],
    [
      "a wrapping key as genuine sidecars have it, for signatures by its own word",
      { "x-ms-runtime": { user: { name: "pod" }, keys: [tee({ use: "sig", alg: "RS256" })] } },
      {},
    ],
    [
      "a wrapping key by use alone, after others",
      {
        "x-ms-runtime": {
          user: { name: "pod" },
          keys: [{ kty: "oct" }, null, jwk(KEYS.attacker.publicKey, { use: "sig" }), tee({ use: "enc", key_ops: undefined })],
        },
      },
      {},
    ],
  ])("takes %s", async (_what, change, header) => {
    expect((await open(await releaseKey(world.context, world.request({ target: attestationToken(change, KEYS.maa.privateKey, header) })))).secret).toEqual(
      SECRET,
    );
  });

  it.each(["maa-ehd", "aas-ehd"])("takes the wrapping key of the older claim %s when there is no x-ms-runtime", async (claim) => {
    const key = keyRecord({}, { version: "1.0.0", anyOf: [{ authority: MAA, allOf: [{ claim: "x-ms-sevsnpvm-vmpl", equals: "0" }] }] });
    const keysText = segment({ keys: [tee({})] });
    const release = async (change: Json): Promise<string> =>
      releaseKey(world.context, world.request({ key, target: attestationToken({ "x-ms-runtime": undefined, ...change }) }));
    world.key = key;
    expect((await open(await release({ [claim]: keysText }))).secret).toEqual(SECRET);
    await expect(release({ [claim]: keysText, "x-ms-runtime": {} })).rejects.toThrow(/not released/);
    for (const text of ["*", segment("[]"), segment("{"), 1]) await expect(release({ [claim]: text })).rejects.toThrow(/not released/);
    expect(world.lines.filter(({ failed }) => failed === "wrapping-key")).toHaveLength(5);
  });

  it("takes an authority that is on the list of this service, and keys that are not to be used yet or any more", async () => {
    world = releaseWorld({ authorities: ["https://other.test", `${MAA}/`], audiences: ["https://vault.azure.net"] });
    world.key = keyRecord({ notBefore: NOW + 1000, expires: NOW - 1000 });
    await releaseKey(world.context, world.request({ target: attestationToken({ aud: "https://vault.azure.net/" }) }));
  });

  it("does not mix the conditions of two authorities", async () => {
    const other = "https://other.test";
    world.documents.byUrl.set(`${other}/.well-known/openid-configuration`, { jwks_uri: `${other}/certs` });
    world.documents.byUrl.set(`${other}/certs`, { keys: [jwk(KEYS.attacker.publicKey, { kid: "maa-1" })] });
    const anyOf = [MAA, other].map((authority) => ({ authority, allOf: [{ claim: "x-ms-sevsnpvm-hostdata", equals: authority === MAA ? HOSTDATA : "ef" }] }));
    world.key = keyRecord({}, { version: "1.0.0", anyOf });
    const by = (iss: string, hostdata: string, key: KeyObject): Partial<ReleaseRequest> => ({
      target: attestationToken({ iss, "x-ms-sevsnpvm-hostdata": hostdata }, key),
    });
    await releaseKey(world.context, world.request(by(MAA, HOSTDATA, KEYS.maa.privateKey)));
    await releaseKey(world.context, world.request(by(other, "ef", KEYS.attacker.privateKey)));
    await refused(by(other, HOSTDATA, KEYS.attacker.privateKey));
    await refused(by(MAA, HOSTDATA, KEYS.attacker.privateKey));
    await refused(by(MAA, "ef", KEYS.maa.privateKey));
    expect(world.lines.map(({ failed }) => failed)).toEqual([undefined, undefined, "policy", "token", "policy"]);
  });

  it("says that the authority could not be asked, and only to the owner why", async () => {
    world.documents.byUrl.set(`${MAA}/certs`, new TypeError("fetch failed", { cause: new Error("connect ECONNREFUSED 10.0.0.7:443") }));
    const error = await refused({});
    expect(error).toMatchObject({ code: "ERR_KEYVAULT_ISSUER", row: { http: 503 } });
    expect(`${error.message}${error.hint}`).not.toMatch(/maa|10\.0\.0\.7|ECONN/);
    expect(world.lines).toMatchObject([
      { outcome: "refused", failed: "issuer", reason: expect.stringContaining("connect ECONNREFUSED 10.0.0.7:443") as string },
    ]);
    const explained = await explainToken(world.context, keyRecord(), attestationToken({ "x-ms-sevsnpvm-vmpl": 1 }));
    expect(explained).toMatchObject({ wouldRelease: false, failed: "issuer" });
    expect(explained.checks.filter(({ problem }) => problem !== undefined).map(({ check }) => check)).toEqual(["issuer", "policy"]);
  });

  it.each<readonly [string, (key: KeyRecord) => KeyRecord | undefined]>([
    ["disabled", (key) => ({ ...key, enabled: false })],
    ["deleted", () => undefined],
    ["given another policy", (key) => ({ ...key, releasePolicy: keyRecord({}, { ...POLICY, version: "1.0" }).releasePolicy })],
  ])("does not release a key that was %s while its authority was asked", async (_what, change) => {
    world.documents.byUrl.set(`${MAA}/certs`, () => {
      world.key = change(keyRecord());
      return Response.json({ keys: [jwk(KEYS.maa.publicKey, { kid: "maa-1" })] });
    });
    expect(await refused({ key: keyRecord() })).toMatchObject({ code: "ERR_KEYVAULT_KEY_OPERATION" });
    expect(world.lines).toMatchObject([{ failed: "key", outcome: "refused" }]);
  });

  it("releases nothing that is not in the audit", async () => {
    const store = { ...world.context.store, appendAudit: () => Promise.reject(new Error("disk full")) };
    await expect(releaseKey({ ...world.context, store }, world.request())).rejects.toThrow("disk full");
  });

  it("overwrites the secret, also when wrapping fails", async () => {
    const opened: Uint8Array[] = [];
    const store = { ...world.context.store, openKey: async () => opened[opened.push(Uint8Array.from(SECRET)) - 1] ?? SECRET };
    await releaseKey({ ...world.context, store }, world.request());
    const random = { bytes: () => new Uint8Array(7) };
    await expect(releaseKey({ ...world.context, store, random }, world.request())).rejects.toThrow();
    expect(opened).toEqual([new Uint8Array(32), new Uint8Array(32)]);
    expect(world.lines.at(-1)).toMatchObject({ outcome: "refused", failed: "service" });
  });
});

describe("what is released", () => {
  const policyData = segment(JSON.stringify(POLICY));
  const version = "0123456789abcdef0123456789abcdef";
  const attributes = { enabled: true, created: NOW - 100, updated: NOW - 50, recoveryLevel: "Recoverable+Purgeable", recoverableDays: 90, exportable: true };

  it("has the members of Key Vault", async () => {
    const request = world.request({ nonce: "n-1", requestedId: `${BASE}/keys/app/${version}`, algorithm: "RSA_AES_KEY_WRAP_256" });
    const { header, payload, keyHsm, secret } = await open(await releaseKey(world.context, request));
    const leaf = new X509Certificate(world.context.signer.chain[0] ?? "");
    expect(header).toEqual({
      alg: "RS256",
      kid: leaf.fingerprint.replaceAll(":", ""),
      typ: "JWT",
      x5t: Buffer.from(leaf.fingerprint.replaceAll(":", ""), "hex").toString("base64url"),
      x5c: world.context.signer.chain.map((der) => Buffer.from(der).toString("base64")),
      "x5t#S256": Buffer.from(leaf.fingerprint256.replaceAll(":", ""), "hex").toString("base64url"),
    });
    expect(payload).toEqual({
      request: { "api-version": "7.4", enc: "RSA_AES_KEY_WRAP_256", kid: `${BASE}/keys/app/${version}`, nonce: "n-1" },
      response: {
        key: {
          key: { kid: `${BASE}/keys/app/${version}`, kty: "oct-HSM", key_ops: ["encrypt", "decrypt"], key_hsm: expect.any(String) as string },
          attributes,
          release_policy: { data: policyData },
        },
      },
    });
    expect(keyHsm).toEqual({
      schema_version: "1.0",
      header: { kid: "tee-key", alg: "dir", enc: "RSA_AES_KEY_WRAP_256" },
      ciphertext: expect.any(String) as string,
    });
    expect(secret).toEqual(SECRET);
    const { payload: bare } = await open(await releaseKey(world.context, world.request()));
    expect(bare["request"]).toEqual({ "api-version": "7.4", enc: "CKM_RSA_AES_KEY_WRAP", kid: `${BASE}/keys/app` });
  });

  it("has the members of a managed HSM, in alphabetical order", async () => {
    const publicMembers = { n: "AQAB", e: "AQAB" };
    const key = keyRecord({ type: "RSA", publicMembers, notBefore: 1, expires: 2 });
    world.key = key;
    const { header, payload } = await open(await releaseKey(world.context, world.request({ key, kind: "managedhsm", algorithm: "RSA_AES_KEY_WRAP_384" })));
    const leaf = new X509Certificate(world.context.signer.chain[0] ?? "");
    const thumbprint = Buffer.from(leaf.fingerprint256.replaceAll(":", ""), "hex").toString("base64url");
    expect(header).toEqual({ alg: "RS256", kid: thumbprint, x5c: expect.any(Array) as string[], "x5t#S256": thumbprint });
    expect(payload).toEqual({
      request: { "api-version": "7.4", enc: "RSA_AES_KEY_WRAP_384", kid: `${BASE}/keys/app` },
      response: {
        key: {
          attributes: { ...attributes, nbf: 1, exp: 2 },
          key: { ...publicMembers, key_hsm: expect.any(String) as string, key_ops: ["encrypt", "decrypt"], kid: `${BASE}/keys/app/${version}`, kty: "RSA" },
          release_policy: { contentType: "application/json; charset=utf-8", data: policyData },
        },
      },
    });
    const check = (value: unknown): void => {
      if (typeof value !== "object" || value === null || Array.isArray(value)) return;
      expect(Object.keys(value)).toEqual(Object.keys(value).toSorted());
      Object.values(value).forEach(check);
    };
    check(payload);
  });

  it("opens with the private half of the wrapping key and no other", async () => {
    const jws = await releaseKey(world.context, world.request());
    await expect(open(jws, KEYS.attacker.privateKey)).rejects.toThrow();
    expect(jws).not.toContain(Buffer.from(SECRET).toString("base64url"));
    // A key encryption key of its own each time.
    expect((await open(jws)).keyHsm["ciphertext"]).not.toBe((await open(await releaseKey(world.context, world.request()))).keyHsm["ciphertext"]);
  });
});

describe("explainToken", () => {
  it("shows everything that is wrong, and the least that would have to change", async () => {
    const target = attestationToken(
      { exp: NOW - 100, "x-ms-sevsnpvm-hostdata": "ef", "x-sealpod-root": "amd", "x-ms-runtime": undefined },
      KEYS.attacker.privateKey,
    );
    const explained = await explainToken(world.context, keyRecord({ enabled: false }), target);
    expect(explained).toMatchObject({ wouldRelease: false, failed: "key", reason: "the key is disabled", authority: MAA });
    expect(explained.checks.filter(({ problem }) => problem !== undefined).map(({ check, problem }) => `${check}: ${problem}`)).toEqual([
      "key: the key is disabled",
      "token: the token is refused: it expired 100 seconds ago",
      'token: the token is refused: key "maa-1" of https://maa.test did not sign it',
      'evidence-root: the token rests on root "amd", this vault takes emulator',
      `policy: claim x-ms-runtime.user.name is missing, the policy expects "pod"; claim x-ms-sevsnpvm-hostdata is "ef", the policy expects "${HOSTDATA}"`,
      'wrapping-key: the token has no wrapping key: x-ms-runtime.keys holds no RSA key with use "enc" or key_ops "encrypt"',
    ]);
    expect(explained.findings.filter(({ matched }) => !matched)).toHaveLength(2);
    expect(explained.change?.toClaims?.edits).toMatchObject([
      { claim: "x-ms-runtime.user.name", to: "pod" },
      { claim: "x-ms-sevsnpvm-hostdata", from: "ef", to: HOSTDATA },
    ]);
    expect(explained.change?.toPolicy?.edits.map(({ kind }) => kind)).toEqual(["remove", "equals"]);
    expect(world.lines).toEqual([]);
  });

  it("says of another authority what would have to change", async () => {
    const explained = await explainToken(world.context, keyRecord(), attestationToken({ iss: "https://other.test" }));
    expect(explained).toMatchObject({ failed: "authority", findings: [], change: { toClaims: { edits: [{ kind: "authority", to: MAA }] } } });
    expect(world.documents.fetched).toEqual([]);
    // Nor is an authority that this service is not to ask, whoever wants to know.
    const context = { ...world.context, authorities: ["https://other.test"] };
    expect(await explainToken(context, keyRecord(), attestationToken())).toMatchObject({ failed: "authority" });
    expect(world.documents.fetched).toEqual([]);
    const nothing = await explainToken(world.context, keyRecord({ releasePolicy: undefined, exportable: false }), "not a token");
    expect(nothing).toMatchObject({ failed: "key", change: undefined, authority: "" });
  });
});

describe("explainRelease", () => {
  it("shows the owner every condition of the latest release that fits", async () => {
    await refused({ target: attestationToken({ "x-ms-sevsnpvm-hostdata": "cd", "x-ms-compliance-status": undefined }) });
    await releaseKey(world.context, world.request({ requestId: "request-2" }));
    const { record, text } = (await explainRelease(world.context.store, { requestId: "request-1" })) ?? { record: undefined, text: "" };
    expect(record?.failed).toBe("policy");
    expect(text.split("\n")[0]).toBe(
      `2026-01-15T12:00:00.000Z request request-1: keys/release demo/app/0123456789abcdef0123456789abcdef refused to application ${CALLER.appid} of tenant ${TENANT}`,
    );
    expect(text).toContain("\n  failed check: policy: claim x-ms-compliance-status is missing");
    expect(text).toContain(`\n  token of ${MAA}\n`);
    expect(text).toContain(`\n  FAILED x-ms-sevsnpvm-hostdata: expected "${HOSTDATA}", found "cd"`);
    expect(text).toContain('\n  FAILED x-ms-compliance-status: expected "azure-signed-katacc-uvm", found nothing');
    expect(text).toContain('\n  ok     x-ms-sevsnpvm-is-debuggable: expected "false", found false');
    expect((await explainRelease(world.context.store, {}))?.text).toContain("request-2: keys/release demo/app/0123456789abcdef0123456789abcdef allowed");
    expect(await explainRelease(world.context.store, { name: "none" })).toBeUndefined();
  });

  it("lets nothing that came from outside make lines or colours of its own", async () => {
    await refused({ target: attestationToken({ iss: "https://a\n\u001b[2J\u2028\u200e\u200f\u061c\u202a\u202e\u2066\u2069" }) });
    const line = world.lines[0];
    expect(line === undefined ? [] : formatAuditLine(line).split("\n")).toHaveLength(3);
    expect(line === undefined ? "" : formatAuditLine(line).replaceAll("\n", "")).not.toMatch(/\p{Cc}|\u2028|[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/u);
    expect(
      formatAuditLine({
        ...(line as never as object),
        name: "",
        version: "",
        appid: "",
        failed: undefined,
        outcome: "allowed",
        reason: "",
        authority: "",
      } as never),
    ).toBe(`2026-01-15T12:00:00.000Z request request-1: keys/release demo allowed to object ${CALLER.oid} of tenant ${TENANT}`);
  });
});

// The wrapping of RSA keys is the same: what is wrapped is DER.
describe("a key pair", () => {
  it("comes out as it went in", async () => {
    const der = new Uint8Array(KEYS.attacker.privateKey.export({ type: "pkcs8", format: "der" }));
    const store = { ...world.context.store, openKey: async () => Uint8Array.from(der) };
    const { secret } = await open(await releaseKey({ ...world.context, store }, world.request()));
    expect(createPrivateKey({ key: Buffer.from(secret), format: "der", type: "pkcs8" }).equals(KEYS.attacker.privateKey)).toBe(true);
  });
});
