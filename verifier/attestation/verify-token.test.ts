import { createHmac, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { concatBytes, type JsonObject, toBase64, toBase64url } from "@sealpod/core";
import { issueCertificate, OID } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { MAX_ATTESTATION_TOKEN } from "./claims.ts";
import { AttestationError } from "./errors.ts";
import { decodeAttestationToken, parseJwks, TOKEN_CHECKS, type TokenCheck, verifyAttestationToken, type VerifyTokenOptions } from "./verify-token.ts";

const NOW = 1_800_000_000;
const ISSUER = "https://maa.example";
const TYPES = ["ERR_ATTESTATION_TOKEN", "ERR_ATTESTATION_TOKEN_REFUSED"];

const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const other = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const weak = generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey;
const elliptic = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;

function certificate(subjectKey: KeyObject): Uint8Array {
  return issueCertificate({
    subject: [{ type: OID.commonName, value: "token signing" }],
    subjectKey,
    issuer: { key },
    signatureAlgorithm: "rsa-sha256",
    serial: 1n,
    notBefore: NOW * 1000,
    notAfter: NOW * 1000 + 1000,
    extensions: [],
  }).der;
}

const bare = (of: KeyObject): { n: string; e: string } => {
  const { n = "", e = "" } = of.export({ format: "jwk" });
  return { n, e };
};
const jwk = (changes: Record<string, unknown> = {}): Record<string, unknown> => ({
  kid: "k+/=",
  kty: "RSA",
  alg: "RS256",
  use: "sig",
  ...bare(key),
  ...changes,
});
const jwks = (...keys: readonly unknown[]): string => JSON.stringify({ keys });
const KEYS = parseJwks(jwks(jwk()));

const HEADER = { alg: "RS256", jku: `${ISSUER}/certs`, kid: "k+/=", typ: "JWT" };
const CLAIMS = { exp: NOW + 28_800, iat: NOW, iss: ISSUER, nbf: NOW, "x-ms-attestation-type": "sevsnpvm", "x-ms-runtime": { keys: [{ kid: "a" }] } };

const part = (value: unknown): string => toBase64url(Buffer.from(typeof value === "string" ? value : JSON.stringify(value)));

/** A token with these texts or values, signed properly. */
function token(header: unknown = HEADER, claims: unknown = CLAIMS, by: KeyObject = key): string {
  const input = `${part(header)}.${part(claims)}`;
  return `${input}.${toBase64url(sign("sha256", Buffer.from(input), by))}`;
}

function check(text: string, options: Partial<VerifyTokenOptions> = {}): string {
  try {
    verifyAttestationToken(text, { keys: KEYS, issuer: ISSUER, clock: { now: () => NOW * 1000 }, ...options });
    return "verified";
  } catch (error) {
    if (!(error instanceof AttestationError)) throw error;
    return `${error.code} ${String(error.details["check"])}`;
  }
}

const REFUSED = "ERR_ATTESTATION_TOKEN_REFUSED";
const MALFORMED = "ERR_ATTESTATION_TOKEN";

describe("verifyAttestationToken", () => {
  it("gives the claims of a token, and says what it has checked", () => {
    const checks: TokenCheck[] = [];
    const verified = verifyAttestationToken(token(), {
      keys: KEYS,
      issuer: `${ISSUER}/`,
      clock: { now: () => NOW * 1000 },
      observe: (item) => checks.push(item),
    });
    expect(verified).toMatchObject({ kind: "verified-attestation-token", issuer: ISSUER, expires: NOW + 28_800, notBefore: NOW });
    expect(verified.key.kid).toBe("k+/=");
    expect(JSON.parse(JSON.stringify(verified.claims))).toEqual(CLAIMS);
    expect(checks.map(({ name }) => name)).toEqual(TOKEN_CHECKS);
    expect(checks.find(({ name }) => name === "key")?.found).toBe('kid "k+/=", RSA 2048');
    expect(checks.at(-1)?.found).toBe("from 2027-01-15T08:00:00.000Z until 2027-01-15T16:00:00.000Z");
  });

  it("takes any issuer if none is named, and says so", () => {
    const checks: TokenCheck[] = [];
    verifyAttestationToken(token(), { keys: KEYS, clock: { now: () => NOW * 1000 }, observe: (item) => checks.push(item) });
    expect(checks.find(({ name }) => name === "issuer")?.found).toBe(`${ISSUER} (any was accepted)`);
  });

  it.each<[string, string]>([
    ["a clock that is a minute behind", check(token(HEADER, { ...CLAIMS, nbf: NOW + 60 }))],
    ["a clock that is a minute ahead", check(token(HEADER, { ...CLAIMS, exp: NOW - 59 }))],
    ["no typ", check(token({ alg: "RS256", kid: "k+/=" }))],
    ["no nbf and iat", check(token(HEADER, { iss: ISSUER, exp: NOW + 1 }))],
    ["an issuer with a slash behind it", check(token(HEADER, { ...CLAIMS, iss: `${ISSUER}/` }))],
    ["white space in the JSON", check(token(` ${JSON.stringify(HEADER)}\n`, ` ${JSON.stringify(CLAIMS)} `))],
    ["integers above 2^53", check(token(HEADER, JSON.stringify(CLAIMS).replace("{", '{"nonce":13202930541250959283,')))],
  ])("takes %s", (_name, found) => {
    expect(found).toBe("verified");
  });

  it.each<[string, string, () => string]>([
    ["another key's signature", `${REFUSED} signature`, () => check(token(HEADER, CLAIMS, other))],
    [
      "a signature over other claims",
      `${REFUSED} signature`,
      () => check(token().replace(/\.[^.]+\./, `.${part({ ...CLAIMS, "x-ms-attestation-type": "other" })}.`)),
    ],
    ["no signature", `${REFUSED} signature`, () => check(token().replace(/[^.]+$/, ""))],
    ["none", `${REFUSED} algorithm`, () => check(`${part({ alg: "none", kid: "k+/=" })}.${part(CLAIMS)}.`)],
    ["None", `${REFUSED} algorithm`, () => check(`${part({ alg: "None", kid: "k+/=" })}.${part(CLAIMS)}.`)],
    ["PS256", `${REFUSED} algorithm`, () => check(token({ ...HEADER, alg: "PS256" }))],
    ["RS384", `${REFUSED} algorithm`, () => check(token({ ...HEADER, alg: "RS384" }))],
    ["no algorithm", `${REFUSED} algorithm`, () => check(token({ kid: "k+/=" }))],
    ["a list of algorithms", `${REFUSED} algorithm`, () => check(token({ ...HEADER, alg: ["RS256"] }))],
    [
      "HMAC with the public key as secret",
      `${REFUSED} algorithm`,
      () => {
        const input = `${part({ ...HEADER, alg: "HS256" })}.${part(CLAIMS)}`;
        const secret = KEYS.usable.get("k+/=")?.publicKey.export({ format: "pem", type: "spki" }) ?? "";
        return check(`${input}.${createHmac("sha256", secret).update(input).digest("base64url")}`);
      },
    ],
    ["a key that the header brings", `${REFUSED} signature`, () => check(token({ ...HEADER, jwk: { kty: "RSA", ...bare(other) } }, CLAIMS, other))],
    ["a certificate that the header brings", `${REFUSED} signature`, () => check(token({ ...HEADER, x5c: [toBase64(certificate(other))] }, CLAIMS, other))],
    ["an unknown kid", `${REFUSED} key`, () => check(token({ ...HEADER, kid: "k" }))],
    ["a kid that is a name of every object", `${REFUSED} key`, () => check(token({ ...HEADER, kid: "__proto__" }))],
    [
      "a key that cannot be used",
      `${REFUSED} key`,
      () => check(token({ ...HEADER, kid: "w" }, CLAIMS, weak), { keys: parseJwks(jwks(jwk({ kid: "w", ...bare(weak) }))) }),
    ],
    ["no kid", `${MALFORMED} key`, () => check(token({ alg: "RS256" }))],
    ["a kid that is no text", `${MALFORMED} key`, () => check(token({ ...HEADER, kid: 1 }))],
    ["crit", `${MALFORMED} form`, () => check(token({ ...HEADER, crit: ["exp"] }))],
    ["an empty crit", `${MALFORMED} form`, () => check(token({ ...HEADER, crit: [] }))],
    ["b64", `${MALFORMED} form`, () => check(token({ ...HEADER, b64: false }))],
    ["another typ", `${REFUSED} form`, () => check(token({ ...HEADER, typ: "at+jwt" }))],
    ["another issuer", `${REFUSED} issuer`, () => check(token(HEADER, { ...CLAIMS, iss: "https://maa.example.evil" }))],
    ["an issuer with two slashes", `${REFUSED} issuer`, () => check(token(HEADER, { ...CLAIMS, iss: `${ISSUER}//` }))],
    ["no issuer", `${MALFORMED} claims`, () => check(token(HEADER, { exp: NOW + 1 }))],
    ["no end", `${MALFORMED} claims`, () => check(token(HEADER, { iss: ISSUER }))],
    ["an end in words", `${MALFORMED} claims`, () => check(token(HEADER, { ...CLAIMS, exp: "2030" }))],
    [
      "an end beyond all calendars",
      `${MALFORMED} claims`,
      () => check(token(HEADER, JSON.stringify({ ...CLAIMS, exp: 1 }).replace('"exp":1', '"exp":18446744073709551616'))),
    ],
    ["a beginning in words", `${MALFORMED} claims`, () => check(token(HEADER, { ...CLAIMS, nbf: null }))],
    ["a time of issue before all time", `${MALFORMED} claims`, () => check(token(HEADER, { ...CLAIMS, iat: -1 }))],
    ["its end", `${REFUSED} time`, () => check(token(HEADER, { ...CLAIMS, exp: NOW - 60 }))],
    ["its beginning", `${REFUSED} time`, () => check(token(HEADER, { ...CLAIMS, nbf: NOW + 61 }))],
    ["two parts", `${MALFORMED} form`, () => check(token().replace(/\.[^.]+$/, ""))],
    ["four parts", `${MALFORMED} form`, () => check(`${token()}.`)],
    ["five parts of an encrypted token", `${MALFORMED} form`, () => check(`${token()}.a.b`)],
    ["padding", `${MALFORMED} form`, () => check(`${token()}==`)],
    ["white space around it", `${MALFORMED} form`, () => check(`${token()}\n`)],
    ["a duplicate name in the header", `${MALFORMED} form`, () => check(token('{"alg":"none","alg":"RS256","kid":"k+/="}'))],
    ["a duplicate claim", `${MALFORMED} form`, () => check(token(HEADER, JSON.stringify(CLAIMS).replace("{", '{"iss":"x",')))],
    ["a header that is a list", `${MALFORMED} form`, () => check(token("[]"))],
    ["claims that are a list", `${MALFORMED} form`, () => check(token(HEADER, "[]"))],
    ["text behind the claims", `${MALFORMED} form`, () => check(token(HEADER, `${JSON.stringify(CLAIMS)}x`))],
    ["claims nested without end", `${MALFORMED} form`, () => check(token(HEADER, `{"a":${"[".repeat(20_000)}`))],
    ["claims that are not UTF-8", `${MALFORMED} form`, () => checkBytes(concatBytes(Buffer.from('{"a":"'), Uint8Array.of(0xff), Buffer.from('"}')))],
    ["a header without end", `${MALFORMED} form`, () => check(token({ ...HEADER, filling: "x".repeat(40_000) }))],
    ["itself without end", `${MALFORMED} form`, () => check("x".repeat(MAX_ATTESTATION_TOKEN + 1))],
    ["dots without end", `${MALFORMED} form`, () => check(".".repeat(MAX_ATTESTATION_TOKEN))],
    ["nothing", `${MALFORMED} form`, () => check("")],
  ])("refuses %s", (_name, expected, run) => {
    expect(run()).toBe(expected);
  });

  /** Claims that no JSON.stringify would write. */
  function checkBytes(bytes: Uint8Array): string {
    const input = `${part(HEADER)}.${toBase64url(bytes)}`;
    return check(`${input}.${toBase64url(sign("sha256", Buffer.from(input), key))}`);
  }

  it("does not read the payload before the signature", () => {
    expect(check(`${part(HEADER)}.${part("not JSON")}.${part("x")}`)).toBe(`${REFUSED} signature`);
  });

  it("says what to do about an unknown kid, and what is the matter with one that cannot be used", () => {
    const options = { keys: parseJwks(jwks(jwk({ kid: "w", ...bare(weak) }), jwk())), clock: { now: () => NOW * 1000 } };
    expect(() => verifyAttestationToken(token({ ...HEADER, kid: "old" }), options)).toThrow(
      expect.objectContaining({
        message: 'the token is refused: no key of the set has kid "old"; it has 1 usable keys',
        hint: expect.stringContaining("fetch the key set") as string,
      }),
    );
    expect(() => verifyAttestationToken(token({ ...HEADER, kid: "w" }), options)).toThrow(/kid "w" cannot be used: it has 1024 bits, expected 2048 to 8192/);
  });

  it("cuts what it quotes", () => {
    expect(() => verifyAttestationToken(token({ ...HEADER, kid: "x".repeat(10_000) }), { keys: KEYS, clock: { now: () => 0 } })).toThrow(/^.{200,400}$/);
  });
});

describe("ten thousand mutations of a token", () => {
  it("are refused, each with an error of its own kind, and none is taken", () => {
    const original = token();
    const characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0é\u{1f600}";
    const next = generator(7);
    const seen = new Map<string, number>();
    for (let round = 0; round < 10_000; round++) {
      const mutant = mutate(original, next, Array.from(characters));
      if (mutant === original) continue;
      const found = check(mutant);
      expect(found, `round ${round}: ${JSON.stringify(mutant)}`).not.toBe("verified");
      expect(TYPES).toContain(found.split(" ")[0]);
      seen.set(found, (seen.get(found) ?? 0) + 1);
    }
    // The mutations reach more than one check.
    expect([...seen.keys()].length).toBeGreaterThan(4);
    expect(seen.get(`${REFUSED} signature`)).toBeGreaterThan(1000);
  });

  it("and of what is signed end in claims or in an error of its own kind", () => {
    const text = JSON.stringify(CLAIMS);
    const next = generator(11);
    const outcomes = new Set<string>();
    for (let round = 0; round < 1000; round++) outcomes.add(check(token(HEADER, mutate(text, next, Array.from('{}[]",:0129eE-+.\\u tfn \n\0é')))));
    for (const outcome of outcomes) expect(["verified", ...TYPES]).toContain(outcome.split(" ")[0]);
    for (const outcome of [`${MALFORMED} form`, `${MALFORMED} claims`, `${REFUSED} issuer`, "verified"]) expect(outcomes).toContain(outcome);
  });

  it("of a key set end in keys or in an error of its own kind", () => {
    const text = jwks(jwk(), jwk({ kid: "x", x5c: [toBase64(certificate(key))] }));
    const next = generator(13);
    let refusedSets = 0;
    for (let round = 0; round < 3000; round++) {
      const mutant = mutate(text, next, Array.from('{}[]",:0129eE-+.\\uABCabc/=_ \0'));
      try {
        const { usable } = parseJwks(mutant);
        // A key that is still usable under its old name is the old key, unless the mutation hit the modulus itself.
        for (const found of usable.values()) expect(found.bits).toBeGreaterThanOrEqual(2048);
      } catch (error) {
        expect(error).toMatchObject({ code: "ERR_ATTESTATION_JWKS" });
        refusedSets++;
      }
    }
    expect(refusedSets).toBeGreaterThan(100);
  });
});

describe("parseJwks", () => {
  it("reads bare keys, certified keys, and both at once", () => {
    const [der, second] = [certificate(key), certificate(other)];
    const { usable, unusable } = parseJwks(
      jwks(jwk(), { kid: "c", kty: "RSA", x5c: [toBase64(der), toBase64(second)] }, jwk({ kid: "b", x5c: [toBase64(der)] })),
    );
    expect([...usable.keys()]).toEqual(["k+/=", "c", "b"]);
    expect(unusable.size).toBe(0);
    expect(usable.get("c")?.certificates).toEqual([der, second]);
    for (const found of usable.values()) expect(found.publicKey.export({ format: "jwk" })).toMatchObject(bare(key));
  });

  it.each<[string, Record<string, unknown>, RegExp]>([
    ["another type", { kty: "EC" }, /type is "EC"/],
    ["no type", { kty: undefined }, /type is missing/],
    ["another use", { use: "enc" }, /use is "enc"/],
    ["another algorithm", { alg: "PS256" }, /algorithm is "PS256"/],
    ["too few bits", bare(weak), /1024 bits/],
    ["the exponent 1", { e: "AQ" }, /exponent|cannot be read/],
    ["an even exponent", { e: "AQAA" }, /exponent|cannot be read/],
    ["an exponent without end", { e: bare(other).n }, /exponent|cannot be read/],
    ["no key at all", { n: undefined, e: undefined }, /neither n and e nor x5c/],
    ["half a key", { e: undefined }, /not both strings/],
    ["a key that is no base64url", { n: `${bare(key).n}==` }, /canonical base64url/],
    ["the certificate of another key", { x5c: [toBase64(certificate(other))] }, /not the key of its first certificate/],
    ["a certificate with an EC key", { n: undefined, e: undefined, x5c: [toBase64(certificate(elliptic))] }, /type ec, expected rsa/],
    ["an empty list of certificates", { x5c: [] }, /list of 1 to 10/],
    ["certificates that are no texts", { x5c: [1] }, /x5c\[0\] is not a string/],
    ["a certificate in base64url", { x5c: [toBase64url(certificate(key))] }, /canonical base64/],
    ["a certificate that goes on", { x5c: [toBase64(concatBytes(certificate(key), Uint8Array.of(0)))] }, /goes on after the certificate|cannot be read/],
    ["a broken certificate", { x5c: ["AAAA"] }, /cannot be read/],
  ])("puts aside a key with %s, and keeps the others", (_name, changes, message) => {
    const { usable, unusable } = parseJwks(jwks(jwk({ kid: "odd", ...changes }), jwk()));
    expect([...usable.keys()]).toEqual(["k+/="]);
    expect(unusable.get("odd")).toMatch(message);
  });

  it.each([undefined, "", 1, "x".repeat(257)])("puts aside a key whose kid is %j", (kid) => {
    expect(parseJwks(jwks(jwk({ kid })))).toMatchObject({ usable: new Map(), unusable: new Map([["keys[0]", "it has no kid"]]) });
  });

  it.each<[string, string]>([
    ["no JSON", "keys"],
    ["no object", "[]"],
    ["no list", '{"keys":{}}'],
    ["text behind it", `${jwks(jwk())}x`],
    ["a duplicate name", '{"keys":[],"keys":[]}'],
    ["two keys of one name", jwks(jwk(), jwk())],
    ["two keys of one name, one of them unusable", jwks(jwk({ kty: "EC" }), jwk())],
    ["too many keys", JSON.stringify({ keys: Array.from({ length: 101 }, () => ({})) })],
    ["too much text", `${jwks(jwk())}${" ".repeat(1024 * 1024)}`],
    ["too deep a text", "[".repeat(100_000)],
  ])("refuses a set with %s", (_name, text) => {
    expect(() => parseJwks(text)).toThrow(expect.objectContaining({ code: "ERR_ATTESTATION_JWKS" }));
  });
});

describe("decodeAttestationToken", () => {
  it("shows a token that nobody verified as what it is", () => {
    const decoded = decodeAttestationToken(token(HEADER, CLAIMS, other));
    expect(decoded.kind).toBe("unverified-attestation-token");
    expect((decoded.claims as JsonObject)["iss"]).toBe(ISSUER);
  });
});

const GENUINE = "../shared/vectors/attestation/maa/sev-snp-jwt.txt";

describe.skipIf(!existsSync(GENUINE))("a genuine token (skipped without ../shared/vectors/attestation)", () => {
  it("decodes, and is refused under keys that are not its issuer's", () => {
    const text = readFileSync(GENUINE, "latin1").trim();
    const { header, claims } = decodeAttestationToken(text);
    expect(header["alg"]).toBe("RS256");
    expect(claims["iss"]).toBe("https://sharedweu.weu.test.attest.azure.net");
    const options = { issuer: "https://sharedweu.weu.test.attest.azure.net" };
    expect(check(text, options)).toBe(`${REFUSED} key`);
    // With a key under the very name: the signature decides.
    expect(check(text, { ...options, keys: parseJwks(jwks(jwk({ kid: header["kid"] }))) })).toBe(`${REFUSED} signature`);
  });
});

/** A small generator of numbers below `limit` (xorshift32): the mutations are the same each time. */
function generator(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % limit;
  };
}

/** One to three changes: a character replaced, put in, or taken out, a piece taken out, repeated or moved, or the end cut off. */
function mutate(text: string, next: (limit: number) => number, characters: readonly string[]): string {
  let mutant = text;
  for (let changes = 1 + next(3); changes > 0; changes--) {
    const at = next(mutant.length + 1);
    const to = Math.min(mutant.length, at + next(12));
    const character = characters[next(characters.length)] ?? "";
    switch (next(7)) {
      case 0:
        mutant = mutant.slice(0, at) + character + mutant.slice(at + 1);
        break;
      case 1:
        mutant = mutant.slice(0, at) + character + mutant.slice(at);
        break;
      case 2:
        mutant = mutant.slice(0, at) + mutant.slice(at + 1);
        break;
      case 3:
        mutant = mutant.slice(0, at) + mutant.slice(to);
        break;
      case 4:
        mutant = mutant.slice(0, to) + mutant.slice(at);
        break;
      case 5:
        mutant = mutant.slice(at, to) + mutant.slice(0, at) + mutant.slice(to);
        break;
      default:
        if (next(20) === 0) mutant = mutant.slice(0, at);
    }
  }
  return mutant;
}
