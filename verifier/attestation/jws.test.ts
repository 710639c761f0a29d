import { createHmac, generateKeyPairSync } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { encodeUtf8, isSealpodError, toBase64, toBase64url } from "@sealpod/core";
import { encodePem } from "@sealpod/pki";
import { encodeUnsignedToken, MAX_REQUEST_TOKEN, parseRequestToken } from "./jws.ts";
import { makePolicySigner, unsigned, type PolicySigner } from "./testdata/policy-signer.ts";

const b64 = (text: string): string => toBase64url(encodeUtf8(text));
const PAYLOAD = '{"AttestationPolicy":"dmVyc2lvbj0xLjA7"}';

let signer: PolicySigner;
let other: PolicySigner;
beforeAll(() => {
  signer = makePolicySigner();
  other = makePolicySigner();
});

describe("parseRequestToken", () => {
  it("reads an unsigned token, and the empty one of a reset", () => {
    expect(parseRequestToken(unsigned(PAYLOAD))).toEqual({ token: unsigned(PAYLOAD), payload: PAYLOAD, signer: undefined });
    expect(parseRequestToken("eyJhbGciOiJub25lIn0..\n")).toEqual({ token: "eyJhbGciOiJub25lIn0..", payload: "", signer: undefined });
    expect(parseRequestToken(encodeUnsignedToken({ a: 1 }))).toMatchObject({ payload: '{"a":1}' });
  });

  it.each(["RS256", "RSA256"])("verifies a token of algorithm %s under the certificate that it brings", (alg) => {
    const token = signer.sign(PAYLOAD, { alg });
    const read = parseRequestToken(token);
    expect(read).toMatchObject({ token, payload: PAYLOAD });
    expect(read.signer?.der).toEqual(signer.certificate.der);
  });

  const [header, payload] = ['{"alg":"none"}', PAYLOAD].map(b64);
  const forged: readonly (readonly [string, () => string, RegExp])[] = [
    ["nothing", () => "", /1 parts/],
    ["two parts", () => `${header}.${payload}`, /2 parts/],
    ["four parts", () => `${header}.${payload}..`, /more than 3 parts/],
    ["five parts", () => "....", /more than 3 parts/],
    ["an empty header", () => `.${payload}.`, /header/],
    ["a header that is a list", () => `${b64("[]")}.${payload}.`, /header is not a JSON object/],
    ["a header with two algorithms", () => `${b64('{"alg":"none","alg":"RS256"}')}.${payload}.`, /duplicate name "alg"/],
    ["padded base64", () => `${Buffer.from('{"alg":"none"}').toString("base64")}.${payload}.`, /canonical base64url/],
    ["unused bits in its payload", () => `${header}.e31.`, /canonical base64url/],
    ["a payload that is no UTF-8", () => `${header}._w.`, /UTF-8/],
    ["no algorithm", () => `${b64("{}")}.${payload}.`, /its algorithm is null/],
    ["an algorithm in capitals", () => `${b64('{"alg":"NONE"}')}.${payload}.`, /its algorithm is "NONE"/],
    ["algorithm none and a signature", () => `${header}.${payload}.AA`, /"none" and it has a signature/],
    ["algorithm none and a certificate", () => `${b64('{"alg":"none","x5c":[]}')}.${payload}.`, /"none" and it has a certificate/],
    ["a signature cut off", () => signer.sign(PAYLOAD).replace(/[^.]*$/, ""), /does not verify/],
    ["the certificate of another key", () => signer.sign(PAYLOAD, { x5c: [toBase64(other.certificate.der)] }), /does not verify/],
    ["another payload", () => signer.sign(PAYLOAD).replace(/\.[^.]*\./, `.${b64("{}")}.`), /does not verify/],
    ["no certificate", () => signer.sign(PAYLOAD, { x5c: undefined }), /no x5c/],
    ["an empty x5c", () => signer.sign(PAYLOAD, { x5c: [] }), /no x5c/],
    ["an x5c that is a string", () => signer.sign(PAYLOAD, { x5c: toBase64(signer.certificate.der) }), /no x5c/],
    ["an x5c with six certificates", () => signer.sign(PAYLOAD, { x5c: Array.from({ length: 6 }, () => toBase64(signer.certificate.der)) }), /no x5c/],
    ["a certificate in base64url", () => signer.sign(PAYLOAD, { x5c: [`${toBase64url(signer.certificate.der)}-_`] }), /canonical base64/],
    ["a certificate in PEM", () => signer.sign(PAYLOAD, { x5c: [encodePem("CERTIFICATE", signer.certificate.der)] }), /canonical base64/],
    ["a certificate with bytes after it", () => signer.sign(PAYLOAD, { x5c: [toBase64(Uint8Array.of(...signer.certificate.der, 0))] }), /x5c\[0\]/],
    [
      "the key beside it and no certificate",
      () => signer.sign(PAYLOAD, { x5c: undefined, jwk: signer.certificate.publicKey.key.export({ format: "jwk" }) }),
      /no x5c/,
    ],
    ["crit", () => signer.sign(PAYLOAD, { crit: ["exp"], exp: 1 }), /"crit"/],
    ["an empty crit", () => signer.sign(PAYLOAD, { crit: [] }), /"crit"/],
    ["b64", () => signer.sign(PAYLOAD, { b64: true }), /"b64"/],
    ["an algorithm of the same key that is not taken", () => signer.sign(PAYLOAD, { alg: "PS256" }), /its algorithm is "PS256"/],
    ["a long header", () => signer.sign(PAYLOAD, { cty: "x".repeat(70_000) }), /header has \d+ characters/],
    ["more characters than any policy", () => unsigned("x".repeat(MAX_REQUEST_TOKEN)), /more than the limit/],
  ];
  it.each(forged)("refuses a token with %s", (_what, make, message) => {
    expect(() => parseRequestToken(make())).toThrow(
      expect.objectContaining({ code: "ERR_ATTESTATION_JWS", message: expect.stringMatching(message) as string }),
    );
  });

  it("refuses an HMAC whose secret is the public key", () => {
    const input = `${b64(JSON.stringify({ alg: "HS256", x5c: [toBase64(signer.certificate.der)] }))}.${payload}`;
    for (const secret of [encodePem("CERTIFICATE", signer.certificate.der), signer.certificate.publicKey.key.export({ type: "spki", format: "pem" })]) {
      const token = `${input}.${toBase64url(createHmac("sha256", secret).update(input).digest())}`;
      expect(() => parseRequestToken(token)).toThrow(/its algorithm is "HS256"/);
      expect(() => parseRequestToken(token.replace(/^[^.]+/, signer.sign("").split(".")[0] ?? ""))).toThrow(/does not verify/);
    }
  });

  it("refuses a certificate whose key is of another kind than the algorithm", () => {
    const ec = makePolicySigner(generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey);
    expect(() => parseRequestToken(ec.sign(PAYLOAD))).toThrow(/key of type p384, expected rsa/);
  });

  it("takes no mutation of a signed token, and fails with its own code alone: ten thousand mutations", () => {
    const seeds = [signer.sign(PAYLOAD), unsigned(PAYLOAD)];
    let state = 7;
    const draw = (below: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % below;
    };
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/\u0000é "{}';
    const outcomes = { refused: 0, unsigned: 0 };
    for (let round = 0; round < 10_000; round++) {
      const seed = seeds[round % 2] ?? "";
      const at = draw(seed.length);
      const mutations = [
        () => seed.slice(0, at) + (alphabet[draw(alphabet.length)] ?? "") + seed.slice(at + 1),
        () => seed.slice(0, at) + seed.slice(at + 1 + draw(8)),
        () => seed.slice(0, at) + (alphabet[draw(alphabet.length)] ?? "").repeat(1 + draw(5)) + seed.slice(at),
        () => seed.slice(0, at),
        () => seed.slice(0, at) + seed.slice(draw(seed.length)),
      ];
      const mutated = mutations[draw(mutations.length)]?.() ?? "";
      if (seeds.includes(mutated.trim())) continue;
      try {
        const read = parseRequestToken(mutated);
        // Whoever can write a token can write an unsigned one; what must never come out is a signature over something else.
        expect(read.signer, mutated).toBeUndefined();
        outcomes.unsigned++;
      } catch (error) {
        expect(isSealpodError(error) && error.code, mutated).toBe("ERR_ATTESTATION_JWS");
        outcomes.refused++;
      }
    }
    expect(outcomes.refused).toBeGreaterThan(7000);
    expect(outcomes.unsigned).toBeGreaterThan(10);
  });
});
