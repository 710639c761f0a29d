import { constants, createPublicKey, type KeyObject, sign } from "node:crypto";
import { concatBytes, fromHex, toHex } from "@sealpod/core";
import { encodePublicKeyInfo, parsePublicKeyInfo, type PublicKeyInfo } from "@sealpod/pki";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ecKey, rsaKey } from "./testdata/signer.ts";
import { type CborKey, CborTag, type CborValue, type CoseAlgorithm, CoseError, encodeCbor, encodeSign1, HEADER, parseSign1, verifySign1 } from "./index.ts";

const KEYS: Readonly<Record<CoseAlgorithm, KeyObject>> = { ES256: ecKey("prime256v1"), ES384: ecKey("secp384r1"), ES512: ecKey("secp521r1"), PS384: rsaKey() };
const PAYLOAD = new TextEncoder().encode("payload");

function info(key: KeyObject): PublicKeyInfo {
  return parsePublicKeyInfo(encodePublicKeyInfo(createPublicKey(key)), "key");
}

function message(algorithm: CoseAlgorithm, header: readonly (readonly [CborKey, CborValue])[] = []): Uint8Array {
  return encodeSign1({ algorithm, key: KEYS[algorithm], protectedHeader: new Map(header), payload: PAYLOAD });
}

describe("COSE_Sign1 (RFC 9052 section 4)", () => {
  it.each(["ES256", "ES384", "ES512", "PS384"] as const)("verifies what it signed with %s", (algorithm) => {
    const verified = verifySign1(parseSign1(message(algorithm, [[HEADER.contentType, "text/plain"]])), info(KEYS[algorithm]));
    expect(verified.algorithm).toBe(algorithm);
    expect(verified.payload).toEqual(PAYLOAD);
    expect(verified.protectedHeader.get(HEADER.contentType)).toBe("text/plain");
  });

  it("verifies the example of RFC 9052 appendix C.2.1 in its own key", () => {
    // Key "11" of the COSE working group's examples (RFC 9052 appendix C.7.1), P-256.
    const point = fromHex("04bac5b11cad8f99f9c72b05cf4b9e26d244dc189f745228255a219a86d6a09eff20138bf82dc1b6d562be0fa54ab7804a3a64b6d72ccfed6b6fb6ed28bbfc117e");
    const key = parsePublicKeyInfo(Uint8Array.from([...fromHex("3059301306072a8648ce3d020106082a8648ce3d030107034200"), ...point]), "key");
    const example = fromHex(
      "d28443a10126a10442313154546869732069732074686520636f6e74656e742e58408eb33e4ca31d1c465ab05aac34cc6b23d58fef5c083106c4d25a91aef0b0117e2af9a291aa32e14ab834dc56ed2a223444547e01f11d3b0916e5a4c345cacb36",
    );
    expect(new TextDecoder().decode(verifySign1(parseSign1(example), key).payload)).toBe("This is the content.");
  });

  it("refuses any other key, and any change", () => {
    expect(() => verifySign1(parseSign1(message("ES256")), info(ecKey("prime256v1")))).toThrow(expect.objectContaining({ code: "ERR_COSE_SIGNATURE" }));
    const bytes = message("ES256");
    const key = info(KEYS.ES256);
    for (let at = 0; at < bytes.length; at++) {
      const changed = Uint8Array.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(() => verifySign1(parseSign1(changed), key), `byte ${at}`).toThrow(CoseError);
    }
  });

  it.each([
    ["ES256", "ES384"],
    ["ES384", "ES256"],
    ["ES512", "PS384"],
    ["PS384", "ES512"],
  ] as const)("refuses %s with a key for %s", (algorithm, other) => {
    expect(() => verifySign1(parseSign1(message(algorithm)), info(KEYS[other]))).toThrow(expect.objectContaining({ code: "ERR_COSE_KEY" }));
    expect(() => encodeSign1({ algorithm, key: KEYS[other], protectedHeader: new Map(), payload: PAYLOAD })).toThrow(
      expect.objectContaining({ code: "ERR_COSE_KEY" }),
    );
  });

  it("takes crit only with labels that are there and understood", () => {
    const check = (labels: CborValue, understood: readonly CborKey[] = []): void => {
      verifySign1(
        parseSign1(
          message("ES256", [
            [HEADER.critical, labels],
            ["known", 1],
          ]),
        ),
        info(KEYS.ES256),
        understood,
      );
    };
    check(["known"], ["known"]);
    check([HEADER.algorithm]);
    for (const labels of [["known"], ["absent"], [], "known", [["known"]]] as const) {
      expect(() => check(labels, labels[0] === "absent" ? ["absent"] : [])).toThrow(expect.objectContaining({ code: "ERR_COSE_STRUCTURE" }));
    }
  });

  const header = encodeCbor(new Map([[1, -7]]));
  const empty = new Map<CborKey, CborValue>();
  it.each<[string, string, CborValue]>([
    ["no tag", "ERR_COSE_STRUCTURE", [header, empty, PAYLOAD, PAYLOAD]],
    ["another tag", "ERR_COSE_STRUCTURE", new CborTag(98, [header, empty, PAYLOAD, PAYLOAD])],
    ["three items", "ERR_COSE_STRUCTURE", new CborTag(18, [header, empty, PAYLOAD])],
    ["five items", "ERR_COSE_STRUCTURE", new CborTag(18, [header, empty, PAYLOAD, PAYLOAD, PAYLOAD])],
    ["a detached payload", "ERR_COSE_STRUCTURE", new CborTag(18, [header, empty, null, PAYLOAD])],
    ["a header that is no byte string", "ERR_COSE_STRUCTURE", new CborTag(18, [empty, empty, PAYLOAD, PAYLOAD])],
    ["a header that is no map", "ERR_COSE_STRUCTURE", new CborTag(18, [encodeCbor([]), empty, PAYLOAD, PAYLOAD])],
    ["a header that is no CBOR", "ERR_COSE_CBOR", new CborTag(18, [Uint8Array.of(0xff), empty, PAYLOAD, PAYLOAD])],
    ["an empty header", "ERR_COSE_CBOR", new CborTag(18, [new Uint8Array(), empty, PAYLOAD, PAYLOAD])],
    ["an unprotected header that is no map", "ERR_COSE_STRUCTURE", new CborTag(18, [header, [], PAYLOAD, PAYLOAD])],
    ["a label in both headers", "ERR_COSE_STRUCTURE", new CborTag(18, [header, new Map([[1, -38]]), PAYLOAD, PAYLOAD])],
    ["tag 18 twice", "ERR_COSE_STRUCTURE", new CborTag(18, new CborTag(18, [header, empty, PAYLOAD, PAYLOAD]))],
    ["the tag for self-described CBOR before it", "ERR_COSE_STRUCTURE", new CborTag(55799, new CborTag(18, [header, empty, PAYLOAD, PAYLOAD]))],
    ["crit in the unprotected header", "ERR_COSE_STRUCTURE", new CborTag(18, [header, new Map([[2, [1]]]), PAYLOAD, PAYLOAD])],
    ["a payload in a bignum", "ERR_COSE_STRUCTURE", new CborTag(18, [header, empty, new CborTag(2, PAYLOAD), PAYLOAD])],
    ["a signature that is no byte string", "ERR_COSE_STRUCTURE", new CborTag(18, [header, empty, PAYLOAD, "x"])],
  ])("refuses %s", (_name, code, value) => {
    expect(() => parseSign1(encodeCbor(value))).toThrow(expect.objectContaining({ code }));
  });

  it.each<[string, CborValue | undefined]>([
    ["no algorithm", undefined],
    ["RS256", -257],
    ["EdDSA", -8],
    ["HMAC", 5],
    ["a name", "ES256"],
  ])("refuses %s", (_name, algorithm) => {
    const bytes = encodeCbor(new CborTag(18, [encodeCbor(new Map(algorithm === undefined ? [] : [[1, algorithm]])), empty, PAYLOAD, PAYLOAD]));
    expect(() => verifySign1(parseSign1(bytes), info(KEYS.ES256))).toThrow(expect.objectContaining({ code: "ERR_COSE_ALGORITHM" }));
  });

  it("takes one form of signature alone: not DER, not longer, not shorter, and of PSS one salt", () => {
    const { protectedBytes, payload, signature } = parseSign1(message("ES256"));
    const data = encodeCbor(["Signature1", protectedBytes, new Uint8Array(), payload]);
    const der = new Uint8Array(sign("sha256", data, { key: KEYS.ES256, dsaEncoding: "der" }));
    const inversed = concatBytes(signature.subarray(32), signature.subarray(0, 32));
    for (const other of [der, concatBytes(signature, Uint8Array.of(0)), signature.subarray(1), new Uint8Array(), new Uint8Array(64), inversed]) {
      const bytes = encodeCbor(new CborTag(18, [protectedBytes, empty, payload, other]));
      expect(() => verifySign1(parseSign1(bytes), info(KEYS.ES256))).toThrow(expect.objectContaining({ code: "ERR_COSE_SIGNATURE" }));
    }
    const pss = parseSign1(message("PS384"));
    const pssData = encodeCbor(["Signature1", pss.protectedBytes, new Uint8Array(), pss.payload]);
    for (const [padding, saltLength] of [
      [constants.RSA_PKCS1_PSS_PADDING, 48],
      [constants.RSA_PKCS1_PSS_PADDING, 20],
      [constants.RSA_PKCS1_PSS_PADDING, 0],
      [constants.RSA_PKCS1_PADDING, undefined],
    ] as const) {
      const other = new Uint8Array(sign("sha384", pssData, { key: KEYS.PS384, padding, ...(saltLength !== undefined && { saltLength }) }));
      const run = (): unknown => verifySign1(parseSign1(encodeCbor(new CborTag(18, [pss.protectedBytes, empty, pss.payload, other]))), info(KEYS.PS384));
      if (saltLength === 48) run();
      else expect(run).toThrow(expect.objectContaining({ code: "ERR_COSE_SIGNATURE" }));
    }
  });

  it("does not take the algorithm from the unprotected header", () => {
    const bytes = encodeCbor(new CborTag(18, [encodeCbor(empty), new Map([[1, -7]]), PAYLOAD, PAYLOAD]));
    expect(() => verifySign1(parseSign1(bytes), info(KEYS.ES256))).toThrow(expect.objectContaining({ code: "ERR_COSE_ALGORITHM" }));
  });

  it("lets only its own errors out, whatever the bytes", () => {
    const bytes = message("ES256", [["x", [1, "a", new Uint8Array(3)]]]);
    const key = info(KEYS.ES256);
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }), (changes) => {
        const changed = Uint8Array.from(bytes);
        for (const [at, value] of changes) changed[at] = value;
        if (toHex(changed) === toHex(bytes)) return;
        expect(() => verifySign1(parseSign1(changed), key)).toThrow(CoseError);
      }),
      { numRuns: 1000 },
    );
  });
});
