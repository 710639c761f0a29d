import { createHmac, createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import type { JsonValue } from "@sealpod/core";
import { encodePem, issueCertificate, OID } from "@sealpod/pki";
import { compile } from "@sealpod/rego";
import { compactVerify, SignJWT } from "jose";
import { describe, expect, it } from "vitest";
import { caller, failureOf, NOW } from "../testdata/call.ts";
import { MAX_TOKEN_LENGTH } from "./token.ts";
import { MAX_KEY_TEXT } from "./token-keys.ts";
import { tokensBuiltins } from "./tokens.ts";

const call = caller(tokensBuiltins);
const messageOf = failureOf(call);
const SECOND = NOW / 1000;

const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const otherRsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const p256 = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
const p384 = generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey;
const p521 = generateKeyPairSync("ec", { namedCurve: "secp521r1" }).privateKey;
const ed25519 = generateKeyPairSync("ed25519").privateKey;
const SECRET = "a secret of the test";
const oct = { kty: "oct", k: Buffer.from(SECRET).toString("base64url") };

const KEYS: Readonly<Record<string, KeyObject>> = { RS: rsa, PS: rsa, ES256: p256, ES384: p384, ES512: p521, EdDSA: ed25519 };
const ALGORITHMS = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"] as const;

function keyOf(alg: string): KeyObject {
  return (KEYS[alg] ?? KEYS[alg.slice(0, 2)])!;
}

function publicJwk(key: KeyObject): Record<string, string> {
  return createPublicKey(key).export({ format: "jwk" }) as Record<string, string>;
}

function publicPem(key: KeyObject): string {
  return createPublicKey(key).export({ type: "spki", format: "pem" }) as string;
}

function certificatePem(key: KeyObject): string {
  const { der } = issueCertificate({
    subject: [{ type: OID.commonName, value: "signer" }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: key.asymmetricKeyType === "rsa" ? "rsa-sha256" : "ecdsa-sha256",
    serial: 1n,
    notBefore: NOW,
    notAfter: NOW + 1000,
    extensions: [],
  });
  return encodePem("CERTIFICATE", der);
}

function encode(text: string): string {
  return Buffer.from(text, "utf8").toString("base64url");
}

/** A token signed with HMAC by the test itself, whatever its texts are. */
function hmacToken(header: string, payload: string, secret = SECRET, hash = "sha256"): string {
  const input = `${encode(header)}.${encode(payload)}`;
  return `${input}.${createHmac(hash, secret).update(input).digest("base64url")}`;
}

function rsaToken(header: string, payload: string, key = rsa): string {
  const input = `${encode(header)}.${encode(payload)}`;
  return `${input}.${sign("sha256", Buffer.from(input), key).toString("base64url")}`;
}

function signed(alg: string, claims: JsonValue = { sub: "x" }): string {
  const key = alg.startsWith("HS") ? oct : (keyOf(alg).export({ format: "jwk" }) as JsonValue);
  return call("io.jwt.encode_sign", [{ alg, typ: "JWT" }, claims, key], { strict: true }) as string;
}

/** The claims that a token is accepted with; undefined if the call has no value, false if it says no. */
function accepted(token: string, constraints: JsonValue, now?: number | null): JsonValue | undefined {
  const result = call("io.jwt.decode_verify", [token, constraints], now === undefined ? {} : { now }) as readonly JsonValue[] | undefined;
  if (result === undefined) return undefined;
  if (result[0] === true) return result[2];
  expect(result).toEqual([false, {}, {}]);
  return false;
}

describe("vectors of the standards", () => {
  const payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
  const secret = { kty: "oct", k: "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow" };

  it("RFC 7515 appendix A.1", () => {
    const token = `eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.${payload}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk`;
    const header = '{"typ":"JWT",\r\n "alg":"HS256"}';
    const claims = '{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}';
    expect(call("io.jwt.encode_sign_raw", [header, claims, JSON.stringify(secret)])).toBe(token);
    expect(accepted(token, { cert: JSON.stringify(secret), time: 1e18 })).toEqual({ iss: "joe", exp: 1300819380, "http://example.com/is_root": true });
  });

  it("RFC 7515 appendix A.3", () => {
    const key = { kty: "EC", crv: "P-256", x: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" };
    const token = `eyJhbGciOiJFUzI1NiJ9.${payload}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q`;
    expect(call("io.jwt.verify_es256", [token, JSON.stringify(key)])).toBe(true);
  });

  it("RFC 8037 appendix A.4", () => {
    const d = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const key = { kty: "OKP", crv: "Ed25519", x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" };
    const token =
      "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    expect(call("io.jwt.verify_eddsa", [token, JSON.stringify(key)])).toBe(true);
    // The payload of the RFC is text, which a token of no other type must not have.
    const raw = ['{"alg":"EdDSA","typ":"text/plain"}', "Example of Ed25519 signing", JSON.stringify({ ...key, d })];
    expect(call("io.jwt.verify_eddsa", [call("io.jwt.encode_sign_raw", raw)!, JSON.stringify(key)])).toBe(true);
  });
});

describe("algorithms", () => {
  const tokens = new Map(ALGORITHMS.map((alg) => [alg, signed(alg)]));

  it.each(ALGORITHMS)("io.jwt.verify_%s takes its own tokens and no others", (alg) => {
    const material = alg.startsWith("HS") ? SECRET : publicPem(keyOf(alg));
    const takes = [...tokens].filter(([, token]) => call(`io.jwt.verify_${alg.toLowerCase()}`, [token, material]) === true).map(([name]) => name);
    expect(takes).toEqual([alg]);
  });

  it.each(ALGORITHMS.filter((alg) => !alg.startsWith("HS")))("%s with a certificate, PEM, a JWK and a set", (alg) => {
    const key = keyOf(alg);
    const jwk = publicJwk(key);
    const forms = [publicPem(key), JSON.stringify(jwk), JSON.stringify({ keys: [publicJwk(otherRsa), { ...jwk, kid: "a", alg }] })];
    if (key !== ed25519) forms.push(certificatePem(key));
    if (key === rsa) forms.push(createPublicKey(key).export({ type: "pkcs1", format: "pem" }) as string);
    for (const cert of forms) expect(accepted(tokens.get(alg)!, { cert, alg })).toEqual({ sub: "x" });
    expect(accepted(tokens.get(alg)!, { cert: publicPem(otherRsa) })).toBe(false);
  });

  it.each(ALGORITHMS)("%s agrees with jose", async (alg) => {
    const secret = Buffer.from(SECRET);
    const key = alg.startsWith("HS") ? secret : keyOf(alg);
    const theirs = await new SignJWT({ sub: "y" }).setProtectedHeader({ alg }).sign(key);
    const constraints = alg.startsWith("HS") ? { secret: SECRET } : { cert: publicPem(keyOf(alg)) };
    expect(accepted(theirs, constraints)).toEqual({ sub: "y" });
    const { payload } = await compactVerify(tokens.get(alg)!, alg.startsWith("HS") ? secret : createPublicKey(keyOf(alg)));
    expect(Buffer.from(payload).toString()).toBe('{"sub":"x"}');
  });
});

describe("algorithm confusion", () => {
  const header = '{"alg":"HS256"}';

  it.each([publicPem(rsa), publicPem(rsa).trim(), certificatePem(rsa), JSON.stringify(publicJwk(rsa))])(
    "an HMAC over the text of a public key is no signature (%#)",
    (text) => {
      const forged = hmacToken(header, '{"sub":"admin"}', text);
      expect(accepted(forged, { cert: text })).toBe(false);
      for (const alg of ALGORITHMS.filter((name) => !name.startsWith("HS"))) expect(call(`io.jwt.verify_${alg.toLowerCase()}`, [forged, text])).toBe(false);
    },
  );

  it("PEM is not taken for a secret", () => {
    const pem = publicPem(rsa);
    expect(messageOf("io.jwt.verify_hs256", [hmacToken(header, "{}", pem), pem])).toContain("a PEM text is not an HMAC secret");
    expect(accepted(hmacToken(header, "{}", pem), { secret: pem })).toBeUndefined();
  });

  it("a public key's token is not checked against a secret", () => {
    for (const alg of ALGORITHMS.filter((name) => !name.startsWith("HS"))) expect(accepted(signed(alg), { secret: SECRET })).toBe(false);
  });

  it.each(["none", "None", "NONE", "nOnE", "", "HS1", "RS256 ", "ES256K"])("alg %j never verifies", (alg) => {
    const text = `${encode(JSON.stringify({ alg }))}.${encode("{}")}`;
    for (const token of [`${text}.`, `${text}.AAAA`]) {
      expect(accepted(token, { cert: publicPem(rsa) })).toBeUndefined();
      expect(accepted(token, { secret: SECRET })).toBeUndefined();
      for (const name of ALGORITHMS) {
        expect(call(`io.jwt.verify_${name.toLowerCase()}`, [token, name.startsWith("HS") ? SECRET : publicPem(keyOf(name))])).toBe(false);
      }
    }
  });

  it("an empty HMAC and an empty secret", () => {
    expect(accepted(`${encode(header)}.${encode("{}")}.`, { secret: SECRET })).toBe(false);
    expect(accepted(hmacToken(header, "{}", ""), { secret: "" })).toBeUndefined();
    expect(accepted(hmacToken(header, "{}", ""), { cert: '{"kty":"oct","k":""}' })).toBeUndefined();
  });

  it("a header that names another algorithm than the function", () => {
    expect(call("io.jwt.verify_rs256", [rsaToken('{"alg":"RS256"}', "{}"), publicPem(rsa)])).toBe(true);
    expect(call("io.jwt.verify_rs256", [rsaToken('{"alg":"RS384"}', "{}"), publicPem(rsa)])).toBe(false);
    expect(call("io.jwt.verify_rs256", [rsaToken("{}", "{}"), publicPem(rsa)])).toBe(false);
    expect(accepted(rsaToken("{}", "{}"), { cert: publicPem(rsa) })).toBe(false);
  });

  it("a key is used for the algorithm that it names only", () => {
    const jwk = publicJwk(rsa);
    const token = rsaToken('{"alg":"RS256","kid":"a"}', "{}");
    expect(accepted(token, { cert: JSON.stringify({ ...jwk, alg: "RS256" }) })).toEqual({});
    expect(accepted(token, { cert: JSON.stringify({ ...jwk, alg: "PS256" }) })).toBe(false);
    expect(accepted(token, { cert: JSON.stringify({ keys: [{ ...jwk, alg: "PS256", kid: "a" }] }) })).toBe(false);
  });

  it("of keys with the token's kid no others are tried", () => {
    const set = (kid: string): string =>
      JSON.stringify({
        keys: [
          { ...publicJwk(otherRsa), kid: "a" },
          { ...publicJwk(rsa), kid },
        ],
      });
    const token = rsaToken('{"alg":"RS256","kid":"a"}', "{}");
    expect(accepted(token, { cert: set("b") })).toBe(false);
    expect(accepted(token, { cert: set("a") })).toEqual({});
    expect(accepted(rsaToken('{"alg":"RS256","kid":"c"}', "{}"), { cert: set("b") })).toEqual({});
    expect(accepted(token, { cert: '{"keys":[]}' })).toBe(false);
  });

  it("a secret inside a key set serves HMAC and nothing else", () => {
    const cert = JSON.stringify({ keys: [oct, publicJwk(rsa)] });
    expect(accepted(hmacToken(header, "{}"), { cert })).toEqual({});
    expect(call("io.jwt.verify_rs256", [hmacToken(header, "{}"), cert])).toBe(false);
  });
});

describe("tampering", () => {
  it.each(["HS256", "ES256", "EdDSA"] as const)("no changed character of a token of %s passes", (alg) => {
    const token = signed(alg, { sub: "user", n: 1 });
    const constraints = alg === "HS256" ? { secret: SECRET } : { cert: publicPem(keyOf(alg)) };
    expect(accepted(token, constraints)).toEqual({ sub: "user", n: 1 });
    for (let at = 0; at < token.length; at++) {
      for (const char of ["A", "B", "_", "=", ".", "\n"]) {
        if (token[at] === char) continue;
        const result = accepted(token.slice(0, at) + char + token.slice(at + 1), constraints);
        expect([undefined, false]).toContain(result);
      }
    }
  });

  it.each(["=", "==", "\n", " ", "A", ".", ".A"])("nothing may follow: %j", (tail) => {
    expect([undefined, false]).toContain(accepted(signed("HS256") + tail, { secret: SECRET }));
  });

  it("bits of the last character that belong to no byte", () => {
    const token = signed("HS256");
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const twin = token.slice(0, -1) + alphabet[alphabet.indexOf(token.at(-1)!) ^ 1]!;
    expect(Buffer.from(twin, "base64url")).toEqual(Buffer.from(token, "base64url"));
    expect(accepted(twin, { secret: SECRET })).toBe(false);
    expect(call("io.jwt.verify_hs256", [twin, SECRET])).toBe(false);
    expect(messageOf("io.jwt.decode", [twin])).toContain("JWT signature had invalid encoding: illegal base64 data");
  });

  it("an ECDSA signature in DER, or of zeros", () => {
    const input = `${encode('{"alg":"ES256"}')}.${encode("{}")}`;
    const cert = publicPem(p256);
    expect(accepted(`${input}.${sign("sha256", Buffer.from(input), p256).toString("base64url")}`, { cert })).toBe(false);
    expect(accepted(`${input}.${Buffer.alloc(64).toString("base64url")}`, { cert })).toBe(false);
    expect(accepted(`${input}.${sign("sha256", Buffer.from(input), { key: p256, dsaEncoding: "ieee-p1363" }).toString("base64url")}`, { cert })).toEqual({});
  });
});

describe("header and claims", () => {
  it.each([
    ["the header", '{"alg":"HS256","alg":"HS256"}', "{}"],
    ["the claims", '{"alg":"HS256"}', '{"sub":"a","sub":"b"}'],
    ["a claim", '{"alg":"HS256"}', '{"x":{"a":1,"a":1}}'],
    ["another spelling", '{"alg":"HS256"}', '{"sub":"a","\\u0073ub":"b"}'],
  ])("a name twice in %s is refused where the token is trusted", (_, header, payload) => {
    expect(accepted(hmacToken(header, payload), { secret: SECRET })).toBeUndefined();
    expect(messageOf("io.jwt.decode_verify", [hmacToken(header, payload), { secret: SECRET }])).toContain("duplicate name");
  });

  it("io.jwt.decode takes the last of two names", () => {
    expect(call("io.jwt.decode", [hmacToken('{"alg":"a","alg":"b"}', '{"sub":1,"sub":2}')])).toEqual([{ alg: "b" }, { sub: 2 }, expect.any(String)]);
  });

  it("names of prototypes are names, and numbers are exact", () => {
    const token = hmacToken('{"alg":"HS256"}', '{"__proto__":{"admin":true},"constructor":1,"n":12345678901234567890,"f":0.1}');
    const claims = accepted(token, { secret: SECRET }) as Record<string, JsonValue>;
    expect(Object.keys(claims).toSorted()).toEqual(["__proto__", "constructor", "f", "n"]);
    expect(claims["n"]).toBe(12345678901234567890n);
    expect(claims["admin"]).toBeUndefined();
    expect((call("io.jwt.decode", [token]) as readonly JsonValue[])[1]).toEqual(claims);
  });

  it.each(["[]", "1", '"x"', "", "{", "{} {}", "{'a':1}", '{"a":01}', '{"a":NaN}'])("claims %j", (payload) => {
    expect(accepted(hmacToken('{"alg":"HS256"}', payload), { secret: SECRET })).toBeUndefined();
    expect(call("io.jwt.decode", [hmacToken("{}", payload)])).toBeUndefined();
  });

  it("a number that is too large ends the query: it is JSON, so the token is not malformed", () => {
    const token = hmacToken('{"alg":"HS256"}', '{"a":1e400}');
    expect(accepted(token, { secret: SECRET })).toBeUndefined();
    expect(() => call("io.jwt.decode", [token])).toThrow("out of range");
  });

  it("text that is not UTF-8", () => {
    const payload = Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]).toString("base64url");
    const input = `${encode('{"alg":"HS256"}')}.${payload}`;
    const token = `${input}.${createHmac("sha256", SECRET).update(input).digest("base64url")}`;
    expect(accepted(token, { secret: SECRET })).toBeUndefined();
    expect(call("io.jwt.decode", [token])).toBeUndefined();
  });

  it("encrypted tokens and extensions that must be understood", () => {
    expect(messageOf("io.jwt.decode", [hmacToken('{"alg":"dir","enc":"A128GCM"}', "{}")])).toContain("JWT is a JWE object");
    expect(accepted(hmacToken('{"alg":"HS256","crit":["b64"],"b64":false}', "{}"), { secret: SECRET })).toBe(false);
    expect(call("io.jwt.verify_hs256", [hmacToken('{"alg":"HS256","crit":["exp"],"exp":1}', "{}"), SECRET])).toBe(false);
    for (const crit of ["[]", "1", "[1]", "null"]) expect(accepted(hmacToken(`{"alg":"HS256","crit":${crit}}`, "{}"), { secret: SECRET })).toBeUndefined();
    for (const header of ['{"alg":1}', '{"alg":"HS256","kid":1}', '{"alg":"HS256","cty":[]}']) {
      expect(accepted(hmacToken(header, "{}"), { secret: SECRET })).toBeUndefined();
    }
  });

  it("nested tokens are verified at every level", () => {
    const inner = hmacToken('{"alg":"HS256"}', '{"sub":"inner"}');
    const nested = '{"alg":"HS256","cty":"JWT"}';
    expect(accepted(hmacToken(nested, inner), { secret: SECRET })).toEqual({ sub: "inner" });
    expect(accepted(hmacToken(nested, hmacToken('{"alg":"HS256"}', "{}", "another")), { secret: SECRET })).toBe(false);
    expect(accepted(hmacToken(nested, inner, "another"), { secret: SECRET })).toBe(false);
    expect(call("io.jwt.decode", [hmacToken(nested, `"${inner}"`)])).toEqual([{ alg: "HS256" }, { sub: "inner" }, expect.any(String)]);
    expect(call("io.jwt.decode", [hmacToken(nested, "no token")])).toBeUndefined();
  });

  it.each([
    ["a", "encoded JWT had no period separators"],
    ["a.b", "encoded JWT must have 3 sections, found 2"],
    ["a.b.c.d.e", "encoded JWT must have 3 sections, found 5"],
    ["e^.e30.", "JWT header had invalid encoding: illegal base64 data at input byte 1"],
    ["e30.e30=.", "JWT payload had invalid encoding: illegal base64 data at input byte 3"],
    ["e30.e30.A", "JWT signature had invalid encoding: illegal base64 data at input byte 0"],
    ["W10.e30.", "decoded JSON type was not an Object"],
  ])("io.jwt.decode of %j", (token, message) => {
    expect(messageOf("io.jwt.decode", [token])).toContain(message);
  });
});

describe("constraints", () => {
  const token = (claims: JsonValue): string => signed("HS256", claims);
  const at = (seconds: number): number => seconds * 1e9;

  it.each<readonly [string, JsonValue, Record<string, JsonValue>, boolean]>([
    ["no constraint", {}, {}, true],
    ["issuer", { iss: "a" }, { iss: "a" }, true],
    ["wrong issuer", { iss: "a" }, { iss: "b" }, false],
    ["no issuer", {}, { iss: "a" }, false],
    ["an empty issuer is a constraint", {}, { iss: "" }, false],
    ["an issuer that is no string", { iss: ["a"] }, { iss: "a" }, false],
    ["audience", { aud: "a" }, { aud: "a" }, true],
    ["one of the audiences", { aud: ["b", "a"] }, { aud: "a" }, true],
    ["wrong audience", { aud: "a" }, { aud: "b" }, false],
    ["wrong audiences", { aud: ["a", "c"] }, { aud: "b" }, false],
    ["an audience inside a list inside", { aud: [["a"]] }, { aud: "a" }, false],
    ["an audience as a prefix", { aud: "ab" }, { aud: "a" }, false],
    ["no audience", {}, { aud: "a" }, false],
    ["an audience that nobody asked for", { aud: "a" }, {}, false],
    ["an empty audience that nobody asked for", { aud: "" }, {}, false],
    ["an audience that is a number", { aud: 1 }, { aud: "1" }, false],
    ["algorithm", {}, { alg: "HS256" }, true],
    ["another algorithm", {}, { alg: "HS384" }, false],
    ["any algorithm is not the empty one", {}, { alg: "" }, false],
    ["before it expires", { exp: 100 }, { time: at(99) }, true],
    ["when it expires", { exp: 100 }, { time: at(100) }, false],
    ["after it expired", { exp: 100 }, { time: at(101) }, false],
    ["a fraction before it expires", { exp: 100.5 }, { time: at(100.4) }, true],
    ["long after", { exp: 1 }, { time: 2n ** 63n }, false],
    ["before it begins", { nbf: 100 }, { time: at(99) }, false],
    ["when it begins", { nbf: 100 }, { time: at(100) }, true],
    ["a time beyond binary64's integers", { exp: 10n ** 30n }, { time: at(1) }, true],
    ["expired by the query's clock", { exp: SECOND }, {}, false],
    ["valid by the query's clock", { exp: SECOND + 1, nbf: SECOND }, {}, true],
    ["iat is not looked at", { iat: SECOND + 1000 }, {}, true],
  ])("%s", (_, claims, constraints, valid) => {
    expect(accepted(token(claims), { secret: SECRET, ...constraints })).toEqual(valid ? claims : false);
  });

  it.each<readonly [Record<string, JsonValue>, string]>([
    [{}, "no key constraint"],
    [{ secret: "a", cert: "b" }, "duplicate key constraints"],
    [{ secret: 1 }, "secret constraint: must be a string"],
    [{ cert: null }, "cert constraint: must be a string"],
    [{ secret: "a", audience: "x" }, "unknown token validation constraint: audience"],
    [{ secret: "a", time: "1" }, "token time constraint: must be a number"],
    [{ secret: "a", time: -1 }, "token time constraint: must not be negative"],
    [{ secret: "a", aud: ["x"] }, "aud constraint: must be a string"],
  ])("%j is refused", (constraints, message) => {
    expect(messageOf("io.jwt.decode_verify", [signed("HS256"), constraints])).toContain(message);
  });

  it.each(["exp", "nbf"])("%s must be a number", (name) => {
    for (const value of [null, "1", true, [1]]) {
      expect(messageOf("io.jwt.decode_verify", [token({ [name]: value }), { secret: SECRET }])).toContain(`${name} value must be a number`);
    }
  });

  it("without a clock nothing is valid unless the time is given", () => {
    expect(accepted(token({}), { secret: SECRET }, null)).toBeUndefined();
    expect(accepted(token({}), { secret: SECRET, time: 0 }, null)).toEqual({});
  });
});

describe("keys", () => {
  const token = rsaToken('{"alg":"RS256"}', "{}");

  it.each<readonly [string, string, string]>([
    ["text", "nothing", "failed to parse a JWK key (set)"],
    ["nothing", "", "failed to parse a JWK key (set)"],
    ["an array", "[]", "failed to parse a JWK key (set): not a JSON object"],
    ["keys that are no list", '{"keys":{}}', '"keys" is not an array'],
    ["a key that is no object", '{"keys":[1]}', "key 0 is not a JSON object"],
    ["an unknown type", '{"kty":"bogus"}', "invalid key type or curve"],
    ["an unknown curve", '{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}', "invalid key type or curve"],
    ["a curve of another type", '{"kty":"OKP","crv":"P-256","x":"AA"}', "invalid key type or curve"],
    ["a name twice", '{"kty":"RSA","kty":"oct","k":"AAAA"}', "duplicate name"],
    ["no modulus", '{"kty":"RSA","e":"AQAB"}', '"n" is missing'],
    ["padding", '{"kty":"oct","k":"QQ=="}', "illegal base64 data"],
    ["a short coordinate", '{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}', '"x" has 1 bytes, expected 32'],
    ["a private key", JSON.stringify(rsa.export({ format: "jwk" })), "a private key is not for checking signatures"],
    ["a private key in PEM", rsa.export({ type: "pkcs8", format: "pem" }) as string, "failed to extract a Key from the PEM certificate"],
    ["an unknown label", encodePem("CERT", Uint8Array.of(1)), "failed to extract a Key from the PEM certificate"],
    ["text after the block", `${publicPem(rsa)}EXTRA`, "extra data after a PEM certificate block"],
    ["two blocks", publicPem(rsa) + publicPem(otherRsa), "extra data after a PEM certificate block"],
    ["a certificate that is none", encodePem("CERTIFICATE", Uint8Array.of(0x30, 0)), "failed to parse a PEM certificate"],
    ["a key that is none", encodePem("PUBLIC KEY", Uint8Array.of(0x30, 0)), "failed to parse a PEM public key"],
    ["an RSA key that is none", encodePem("RSA PUBLIC KEY", Uint8Array.of(0x30, 0)), "failed to parse a PEM public key"],
    ["RSA with 1024 bits", publicPem(generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey), "an RSA key of 1024 bits"],
    ["RSA with exponent 1", JSON.stringify({ ...publicJwk(rsa), e: "AQ" }), "failed to parse a JWK key (set)"],
    ["a point off the curve", JSON.stringify({ ...publicJwk(p256), y: publicJwk(p256)["x"] }), "failed to parse a JWK key (set): malformed key"],
    ["another curve", publicPem(generateKeyPairSync("ec", { namedCurve: "secp256k1" }).privateKey), "failed to parse a PEM public key"],
  ])("%s", (_, cert, message) => {
    expect(messageOf("io.jwt.decode_verify", [token, { cert }])).toContain(message);
    expect(messageOf("io.jwt.verify_rs256", [token, cert])).toContain(message);
  });

  it("a set may hold keys of kinds that are not known", () => {
    const unknown = [
      { kty: "AKP", alg: "ML-DSA-44", pub: "AA" },
      { kty: "OKP", crv: "Ed448", x: "AA" },
      { kty: "EC", crv: 1 },
    ];
    expect(accepted(token, { cert: JSON.stringify({ keys: [...unknown, publicJwk(rsa)] }) })).toEqual({});
    expect(accepted(token, { cert: JSON.stringify({ keys: unknown }) })).toBe(false);
    expect(messageOf("io.jwt.decode_verify", [token, { cert: '{"keys":[{"kty":"RSA","e":"AQAB"}]}' }])).toContain('"n" is missing');
  });

  it("a certificate may have text before it, and is not itself verified", () => {
    expect(accepted(token, { cert: `subject: signer\n${certificatePem(rsa)}` })).toEqual({});
    expect(accepted(token, { cert: certificatePem(rsa) }, NOW * 2)).toEqual({});
  });
});

describe("signing", () => {
  it("has one value within a query, and another in the next", () => {
    const text = 'package t\n\np := [io.jwt.encode_sign({"alg": "ES256"}, {}, input) | some _ in [1, 2]]\n';
    const policy = compile([{ name: "t.rego", text }], { builtins: tokensBuiltins });
    const evaluate = (): readonly JsonValue[] => {
      return policy.evaluate("data.t.p", { input: p256.export({ format: "jwk" }) as JsonValue }).results[0]!.expressions[0] as readonly JsonValue[];
    };
    const [first, second] = evaluate();
    expect(second).toBe(first);
    expect(evaluate()[0]).not.toBe(first);
  });

  it.each<readonly [string, readonly JsonValue[], string]>([
    ["no header", ["", "{}", JSON.stringify(oct)], "missing or invalid 'alg' header: cannot parse JSON: cannot parse empty string"],
    ["a broken header", ['{"alg:"HS256"}', "{}", JSON.stringify(oct)], "missing or invalid 'alg' header: cannot parse JSON"],
    ["a header without alg", ["{}", "{}", JSON.stringify(oct)], `missing or invalid 'alg' header: jwsbb: header "alg" not found`],
    ["alg none", ['{"alg":"none"}', "{}", JSON.stringify(oct)], "unknown JWS algorithm: none"],
    ["alg that is no string", ['{"alg":1}', "{}", JSON.stringify(oct)], "missing or invalid 'alg' header"],
    ["alg twice", ['{"alg":"none","alg":"HS256"}', "{}", JSON.stringify(oct)], "duplicate name"],
    ["a payload that is no JSON", ['{"alg":"HS256"}', "e", JSON.stringify(oct)], "type is JWT but payload is not JSON"],
    ["another type, lower case", ['{"alg":"HS256","typ":"jwt"}', "e", JSON.stringify(oct)], "type is JWT but payload is not JSON"],
    ["another key", ['{"alg":"RS256"}', "{}", JSON.stringify(oct)], "the key is not one for RS256"],
    ["a public key as a secret", ['{"alg":"HS256"}', "{}", JSON.stringify(rsa.export({ format: "jwk" }))], "the key is not one for HS256"],
    ["a key for another algorithm", ['{"alg":"HS256"}', "{}", JSON.stringify({ ...oct, alg: "HS512" })], "the key is not one for HS256"],
    ["a public key", ['{"alg":"RS256"}', "{}", JSON.stringify(publicJwk(rsa))], '"d" is missing'],
    ["no key", ['{"alg":"RS256"}', "{}", '{"keys":[]}'], "no key"],
  ])("%s", (_, args, message) => {
    expect(messageOf("io.jwt.encode_sign_raw", args)).toContain(message);
  });

  it("writes JSON as Go does", () => {
    const token = call("io.jwt.encode_sign", [{ alg: "HS256" }, { b: "<&>\u2028", a: [1, 2n ** 60n], "10": 1, "9": 2 }, oct]) as string;
    expect(Buffer.from(token.split(".")[1]!, "base64url").toString()).toBe(
      String.raw`{"10":1,"9":2,"a":[1,1152921504606846976],"b":"\u003c\u0026\u003e\u2028"}`,
    );
  });
});

describe("size", () => {
  it("a token beyond the limit is refused before it is looked at", () => {
    const fitting = hmacToken('{"alg":"HS256"}', JSON.stringify({ x: "a".repeat(100_000) }));
    expect(accepted(fitting, { secret: SECRET })).toEqual({ x: "a".repeat(100_000) });
    expect(messageOf("io.jwt.decode", [".".repeat(MAX_TOKEN_LENGTH + 1)])).toContain("more than the limit");
    expect(messageOf("io.jwt.decode", [".".repeat(MAX_TOKEN_LENGTH)])).toContain(`found ${MAX_TOKEN_LENGTH + 1}`);
    expect(messageOf("io.jwt.verify_rs256", [fitting, " ".repeat(MAX_KEY_TEXT + 1)])).toContain("more than the limit");
  });

  it("deep claims abort the query, so that no `not` makes them pass", () => {
    const payload = `{"x":${"[".repeat(50_000)}${"]".repeat(50_000)}}`;
    const limit = expect.objectContaining({ code: "ERR_REGO_LIMIT_NESTING" });
    expect(() => accepted(hmacToken('{"alg":"HS256"}', payload), { secret: SECRET })).toThrow(limit);
    expect(() => call("io.jwt.decode", [hmacToken("{}", payload)])).toThrow(limit);
  });

  it("claims with shared parts are charged for each time they occur", () => {
    const doubled = Array.from({ length: 60 }, (_, at) => `v${at + 1} := [v${at}, v${at}]`).join("\n");
    const sign = 'io.jwt.encode_sign({"alg": "HS256"}, {"a": v60}, {"kty": "oct", "k": "AAAA"})';
    const policy = compile([{ name: "t.rego", text: `package t\nv0 := 1\n${doubled}\np := ${sign}` }], { builtins: tokensBuiltins });
    expect(() => policy.evaluate("data.t.p")).toThrow(expect.objectContaining({ code: "ERR_REGO_LIMIT_STEPS" }));
  });

  it("tokens in tokens", () => {
    let token = hmacToken('{"alg":"HS256"}', "{}");
    for (let level = 0; level < 20; level++) token = hmacToken('{"alg":"HS256","cty":"JWT"}', token);
    expect(accepted(token, { secret: SECRET })).toEqual({});
    expect(call("io.jwt.decode", [token])).toEqual([{ alg: "HS256" }, {}, expect.any(String)]);
  });

  it("work on many keys is counted, and its limit is not a failed verification", () => {
    const keys = JSON.stringify({ keys: Array.from({ length: 300 }, () => publicJwk(p256)) });
    const token = `${encode('{"alg":"ES256"}')}.${encode("{}")}.${Buffer.alloc(64, 1).toString("base64url")}`;
    for (const maxSteps of [20_000, 500_000]) {
      expect(() => call("io.jwt.verify_es256", [token, keys], { limits: { maxSteps } })).toThrowError(
        expect.objectContaining({ code: "ERR_REGO_LIMIT_STEPS" }),
      );
      expect(() => call("io.jwt.decode_verify", [token, { cert: keys }], { limits: { maxSteps } })).toThrowError(
        expect.objectContaining({ code: "ERR_REGO_LIMIT_STEPS" }),
      );
    }
  });

  it("a number that is too large aborts, as it does in json.unmarshal", () => {
    const token = hmacToken('{"alg":"HS256"}', `{"exp":${"9".repeat(2000)}}`);
    expect(() => accepted(token, { secret: SECRET })).toThrowError(expect.objectContaining({ code: "ERR_REGO_LIMIT_NUMBER" }));
    expect(() => call("io.jwt.decode", [token])).toThrowError(expect.objectContaining({ code: "ERR_REGO_LIMIT_NUMBER" }));
  });
});
