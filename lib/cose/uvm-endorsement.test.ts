import { createHash, type KeyObject, sign } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { asArray, asObject, concatBytes, encodeUtf8, parseJson, toHex } from "@sealpod/core";
import { extendedKeyUsage, issueCertificate, keyUsage, OID } from "@sealpod/pki";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ecKey, EKU, NOW, rsaKey, testSigner } from "./testdata/signer.ts";
import {
  type CborKey,
  CborTag,
  type CborValue,
  type CoseAlgorithm,
  CoseError,
  encodeCbor,
  encodeSign1,
  encodeUvmEndorsement,
  formatDidX509Eku,
  HEADER,
  MICROSOFT_UVM_TRUST,
  parseDidX509,
  parseSign1,
  type UvmTrust,
  type VerifiedUvmEndorsement,
  verifyUvmEndorsement,
} from "./index.ts";

const signer = testSigner(ecKey("secp384r1"));
const issuer = formatDidX509Eku(signer.chain[2], EKU);
const FEED = "ConfAKS-AMD-UVM";
const MEASUREMENT = new Uint8Array(48).fill(0xab);
const TRUST: UvmTrust = { issuer, feed: FEED, minimumSvn: 2, claim: "azure-signed-katacc-uvm" };
const DAY = 86_400_000;

const VALUES = {
  issuer,
  feed: FEED,
  svn: 2,
  launchMeasurement: MEASUREMENT,
  signingTime: NOW - 100 * DAY,
  chain: signer.chain,
  key: signer.key,
  algorithm: "ES384",
} as const;

/** The JSON form with headers and payload of the test's choice; a value of undefined leaves a header out. */
function json(
  headers: Readonly<Record<string, CborValue | undefined>>,
  payload: string,
  x5chain: CborValue = signer.chain.map(({ der }) => der),
  more: readonly (readonly [CborKey, CborValue])[] = [],
): Uint8Array {
  const all: Readonly<Record<string, CborValue | undefined>> = { iss: issuer, feed: FEED, ...headers };
  const header = new Map<CborKey, CborValue>([[HEADER.contentType, "application/json"], [HEADER.x5chain, x5chain], ...more]);
  for (const [name, value] of Object.entries(all)) if (value !== undefined) header.set(name, value);
  return encodeSign1({ algorithm: "ES384", key: signer.key, protectedHeader: header, payload: encodeUtf8(payload) });
}

function payload(values: object): string {
  return JSON.stringify({ "x-ms-sevsnpvm-guestsvn": "2", "x-ms-sevsnpvm-launchmeasurement": toHex(MEASUREMENT), ...values });
}

/** The hash envelope form. */
function envelope(
  changes: {
    readonly claims?: readonly (readonly [CborKey, CborValue])[];
    readonly headers?: readonly (readonly [CborKey, CborValue])[];
    readonly payload?: Uint8Array;
    readonly algorithm?: CoseAlgorithm;
    readonly key?: KeyObject;
  } = {},
): Uint8Array {
  const claims = new Map<CborKey, CborValue>([[1, issuer], [2, FEED], ["svn", 3], [6, Math.floor((NOW - 100 * DAY) / 1000)], ...(changes.claims ?? [])]);
  const header = new Map<CborKey, CborValue>([
    [HEADER.cwtClaims, claims],
    [HEADER.x5chain, signer.chain.map(({ der }) => der)],
    [HEADER.payloadHashAlgorithm, -43],
    [HEADER.preimageContentType, "application/octet-stream"],
    ...(changes.headers ?? []),
  ]);
  return encodeSign1({
    algorithm: changes.algorithm ?? "ES384",
    key: changes.key ?? signer.key,
    protectedHeader: header,
    payload: changes.payload ?? MEASUREMENT,
  });
}

function verify(bytes: Uint8Array, trust: readonly UvmTrust[] = [TRUST]): VerifiedUvmEndorsement {
  return verifyUvmEndorsement(bytes, trust);
}

describe("the JSON form", () => {
  it.each(["ES256", "ES384", "ES512", "PS384"] as const)("verifies what was signed with %s, though the certificates have expired", (algorithm) => {
    const key = { ES256: () => ecKey("prime256v1"), ES384: () => ecKey("secp384r1"), ES512: () => ecKey("secp521r1"), PS384: rsaKey }[algorithm]();
    const own = testSigner(key);
    const ownIssuer = formatDidX509Eku(own.chain[2], EKU);
    expect(verify(encodeUvmEndorsement({ ...VALUES, issuer: ownIssuer, chain: own.chain, key, algorithm }), [{ ...TRUST, issuer: ownIssuer }])).toEqual({
      kind: "verified-uvm-endorsement",
      issuer: ownIssuer,
      feed: FEED,
      svn: 2,
      launchMeasurement: MEASUREMENT,
      claim: "azure-signed-katacc-uvm",
      signingTime: NOW - 100 * DAY,
    });
  });

  it("takes the version as text or number, alone or twice", () => {
    for (const values of [{}, { "x-ms-sevsnpvm-guestsvn": 2 }, { "x-ms-sevsnpvm-guestsvn-int": 2 }]) expect(verify(json({}, payload(values))).svn).toBe(2);
    expect(verify(json({ signingtime: undefined }, payload({}))).signingTime).toBeUndefined();
  });

  it.each<[string, string, () => Uint8Array, (readonly UvmTrust[])?]>([
    ["an issuer that nobody trusts", "ERR_COSE_ISSUER", () => encodeUvmEndorsement(VALUES), []],
    ["a feed that the issuer is not trusted for", "ERR_COSE_ISSUER", () => encodeUvmEndorsement(VALUES), [{ ...TRUST, feed: "ContainerPlat-AMD-UVM" }]],
    ["an older version", "ERR_COSE_SVN", () => encodeUvmEndorsement({ ...VALUES, svn: 1 })],
    [
      "another payload type",
      "ERR_COSE_STRUCTURE",
      () => encodeSign1({ algorithm: "ES384", key: signer.key, protectedHeader: new Map([["iss", issuer]]), payload: MEASUREMENT }),
    ],
    ["no issuer", "ERR_COSE_STRUCTURE", () => json({ iss: undefined }, payload({}))],
    ["a feed that is a number", "ERR_COSE_STRUCTURE", () => json({ feed: 1 }, payload({}))],
    ["a signing time without tag", "ERR_COSE_STRUCTURE", () => json({ signingtime: 1 }, payload({}))],
    ["a signing time before 1970", "ERR_COSE_STRUCTURE", () => json({ signingtime: new CborTag(1, -1) }, payload({}))],
    ["a signing time that no date can hold", "ERR_COSE_STRUCTURE", () => json({ signingtime: new CborTag(1, 253402300800) }, payload({}))],
    ["a signing time in text", "ERR_COSE_STRUCTURE", () => json({ signingtime: new CborTag(1, "now") }, payload({}))],
    ["no certificates", "ERR_COSE_STRUCTURE", () => json({}, payload({}), [])],
    [
      "too many certificates",
      "ERR_COSE_STRUCTURE",
      () =>
        json(
          {},
          payload({}),
          Array.from({ length: 7 }, () => signer.chain[0].der),
        ),
    ],
    ["certificates that are text", "ERR_COSE_STRUCTURE", () => json({}, payload({}), ["x"])],
    ["a certificate that is not one", "ERR_COSE_CERTIFICATE", () => json({}, payload({}), [MEASUREMENT])],
    ["one certificate alone", "ERR_COSE_DID", () => json({}, payload({}), signer.chain[0].der)],
    ["payload that is not JSON", "ERR_COSE_PAYLOAD", () => json({}, "hello")],
    ["payload that is a list", "ERR_COSE_PAYLOAD", () => json({}, "[]")],
    ["a name twice", "ERR_COSE_PAYLOAD", () => json({}, '{"x-ms-sevsnpvm-guestsvn":"2","x-ms-sevsnpvm-guestsvn":"3"}')],
    ["no measurement", "ERR_COSE_PAYLOAD", () => json({}, '{"x-ms-sevsnpvm-guestsvn":"2"}')],
    ["a short measurement", "ERR_COSE_PAYLOAD", () => json({}, payload({ "x-ms-sevsnpvm-launchmeasurement": "ab" }))],
    ["no version", "ERR_COSE_PAYLOAD", () => json({}, payload({ "x-ms-sevsnpvm-guestsvn": undefined }))],
    ["a version in hex", "ERR_COSE_PAYLOAD", () => json({}, payload({ "x-ms-sevsnpvm-guestsvn": "0x10" }))],
    ["a version with a leading zero", "ERR_COSE_PAYLOAD", () => json({}, payload({ "x-ms-sevsnpvm-guestsvn": "02" }))],
    ["a version above u32", "ERR_COSE_PAYLOAD", () => json({}, payload({ "x-ms-sevsnpvm-guestsvn": 2 ** 32 }))],
    ["a fraction", "ERR_COSE_PAYLOAD", () => json({}, payload({ "x-ms-sevsnpvm-guestsvn": 2.5 }))],
    ["two versions", "ERR_COSE_PAYLOAD", () => json({}, payload({ "x-ms-sevsnpvm-guestsvn-int": 3 }))],
  ])("refuses %s", (_name, code, bytes, trust) => {
    expect(() => verify(bytes(), trust)).toThrow(expect.objectContaining({ code }));
  });

  it("heeds x5t: the hash names the leaf, in any of three algorithms", () => {
    const bytes = (value: CborValue): Uint8Array =>
      json(
        {},
        payload({}),
        signer.chain.map(({ der }) => der),
        [[HEADER.x5t, value]],
      );
    const digest = (hash: string, at: 0 | 1): Uint8Array => new Uint8Array(createHash(hash).update(signer.chain[at].der).digest());
    for (const [id, hash] of [
      [-16, "sha256"],
      [-43, "sha384"],
      [-44, "sha512"],
    ] as const) {
      expect(verify(bytes([id, digest(hash, 0)])).svn).toBe(2);
      expect(() => verify(bytes([id, digest(hash, 1)]))).toThrow(expect.objectContaining({ code: "ERR_COSE_CERTIFICATE" }));
    }
    for (const value of [
      [-15, digest("sha256", 0).subarray(0, 8)],
      [-16, "x"],
      [-16],
      [-16, digest("sha256", 0), 1],
      digest("sha256", 0),
      null,
      [],
    ] as CborValue[])
      expect(() => verify(bytes(value))).toThrow(expect.objectContaining({ code: "ERR_COSE_STRUCTURE" }));
    expect(() => verify(bytes([-16, digest("sha384", 0)]))).toThrow(expect.objectContaining({ code: "ERR_COSE_CERTIFICATE" }));
  });

  it("refuses a leaf whose key is not for signatures", () => {
    const other = testSigner(signer.key, { extensions: [extendedKeyUsage(EKU), keyUsage("keyEncipherment")] });
    const otherIssuer = formatDidX509Eku(other.chain[2], EKU);
    const bytes = encodeUvmEndorsement({ ...VALUES, issuer: otherIssuer, chain: other.chain });
    expect(() => verify(bytes, [{ ...TRUST, issuer: otherIssuer }])).toThrow(expect.objectContaining({ code: "ERR_COSE_CERTIFICATE" }));
  });

  it("refuses certificates in another order, or with a stranger between them", () => {
    const [leaf, middle, root] = signer.chain;
    const stranger = testSigner(ecKey("secp384r1")).chain[1];
    for (const [code, chain] of [
      ["ERR_COSE_CERTIFICATE", [middle, leaf, root]],
      ["ERR_COSE_DID", [root, middle, leaf]],
      ["ERR_COSE_CERTIFICATE", [leaf, root, middle]],
      ["ERR_COSE_CERTIFICATE", [leaf, stranger, root]],
      ["ERR_COSE_CERTIFICATE", [leaf, middle, middle, root]],
      ["ERR_COSE_DID", [leaf, middle]],
    ] as const)
      expect(() =>
        verify(
          json(
            {},
            payload({}),
            chain.map(({ der }) => der),
          ),
        ),
      ).toThrow(expect.objectContaining({ code }));
  });

  it("takes no certificates from the unprotected header, and no statement in two forms", () => {
    const unprotected = new Map<CborKey, CborValue>([[HEADER.x5chain, signer.chain.map(({ der }) => der)]]);
    const header = new Map<CborKey, CborValue>([
      [HEADER.contentType, "application/json"],
      ["iss", issuer],
      ["feed", FEED],
    ]);
    const bytes = encodeSign1({
      algorithm: "ES384",
      key: signer.key,
      protectedHeader: header,
      unprotectedHeader: unprotected,
      payload: encodeUtf8(payload({})),
    });
    expect(() => verify(bytes)).toThrow(expect.objectContaining({ code: "ERR_COSE_STRUCTURE" }));
  });

  it("heeds crit", () => {
    const withCrit = (labels: CborValue): Uint8Array =>
      json(
        {},
        payload({}),
        signer.chain.map(({ der }) => der),
        [[HEADER.critical, labels]],
      );
    expect(verify(withCrit([HEADER.algorithm, "iss", "feed", HEADER.x5chain])).svn).toBe(2);
    for (const labels of [[], [99], ["signingtime"], 1, [[1]], ["svn"]])
      expect(() => verify(withCrit(labels))).toThrow(expect.objectContaining({ code: "ERR_COSE_STRUCTURE" }));
  });

  it("refuses a statement of somebody else under the trusted issuer's name and certificates", () => {
    const bytes = encodeUvmEndorsement({ ...VALUES, key: ecKey("secp384r1") });
    expect(() => verify(bytes)).toThrow(expect.objectContaining({ code: "ERR_COSE_SIGNATURE" }));
  });

  it("refuses a signer whom the same root certified for something else", () => {
    const other = testSigner(signer.key, { extensions: [extendedKeyUsage("1.2.3")] });
    const otherIssuer = formatDidX509Eku(other.chain[2], EKU);
    expect(() => verify(encodeUvmEndorsement({ ...VALUES, issuer: otherIssuer, chain: other.chain }), [{ ...TRUST, issuer: otherIssuer }])).toThrow(
      expect.objectContaining({ code: "ERR_COSE_DID" }),
    );
  });

  it("does not sign what it would not read", () => {
    expect(() => encodeUvmEndorsement({ ...VALUES, svn: -1 })).toThrow(expect.objectContaining({ code: "ERR_COSE_PAYLOAD" }));
    expect(() => encodeUvmEndorsement({ ...VALUES, launchMeasurement: new Uint8Array(32) })).toThrow(expect.objectContaining({ code: "ERR_COSE_PAYLOAD" }));
    expect(() => encodeUvmEndorsement({ ...VALUES, algorithm: "ES256" })).toThrow(expect.objectContaining({ code: "ERR_COSE_KEY" }));
  });
});

/** A map as its pairs stand, unsorted: what `encodeCbor` never writes, and other signers do. At most 23 pairs. */
function mapInOrder(pairs: readonly (readonly [CborKey, Uint8Array])[]): Uint8Array {
  return concatBytes(Uint8Array.of(0xa0 | pairs.length), ...pairs.flatMap(([key, value]) => [encodeCbor(key), value]));
}

/** The hash envelope form with its claims, and the header, in the order given. */
function envelopeInOrder(claims: readonly (readonly [CborKey, CborValue])[]): Uint8Array {
  const encoded = claims.map(([key, value]) => [key, encodeCbor(value)] as const);
  const protectedBytes = mapInOrder([
    [HEADER.preimageContentType, encodeCbor("application/octet-stream")],
    [HEADER.algorithm, encodeCbor(-35)],
    [HEADER.x5chain, encodeCbor(signer.chain.map(({ der }) => der))],
    [HEADER.cwtClaims, mapInOrder(encoded)],
    [HEADER.payloadHashAlgorithm, encodeCbor(-43)],
  ]);
  const data = encodeCbor(["Signature1", protectedBytes, new Uint8Array(), MEASUREMENT]);
  const signature = new Uint8Array(sign("sha384", data, { key: signer.key, dsaEncoding: "ieee-p1363" }));
  return encodeCbor(new CborTag(18, [protectedBytes, new Map(), MEASUREMENT, signature]));
}

describe("the hash envelope form", () => {
  const issuedAt = Math.floor((NOW - 100 * DAY) / 1000);

  it("verifies with claims in the order 1, 2, svn, 6", () => {
    const bytes = envelopeInOrder([
      [1, issuer],
      [2, FEED],
      ["svn", 3],
      [6, issuedAt],
    ]);
    expect(verify(bytes)).toMatchObject({ svn: 3, launchMeasurement: MEASUREMENT, signingTime: NOW - 100 * DAY });
  });

  it("refuses a claim that stands twice, next to itself or not, though it was signed so", () => {
    for (const twice of [1, 2, "svn", 6] as const) {
      const claims: readonly (readonly [CborKey, CborValue])[] = [
        [1, issuer],
        [2, FEED],
        ["svn", 3],
        [6, issuedAt],
      ];
      const again = claims.filter(([key]) => key === twice);
      expect(() => verify(envelopeInOrder([...claims, ...again]))).toThrow(expect.objectContaining({ code: "ERR_COSE_CBOR" }));
      expect(() => verify(envelopeInOrder([...again, ...claims]))).toThrow(expect.objectContaining({ code: "ERR_COSE_CBOR" }));
    }
  });

  it("was signed while every certificate of x5chain was valid, also one above the did's", () => {
    const above = (from: number, to: number): Uint8Array => {
      const { key } = signer;
      const name = [{ type: OID.commonName, value: "above" }];
      const { der } = issueCertificate({
        subject: name,
        subjectKey: key,
        issuer: { key },
        signatureAlgorithm: "ecdsa-sha384",
        serial: 1n,
        notBefore: NOW - from * DAY,
        notAfter: NOW - to * DAY,
        extensions: [],
      });
      return envelope({ headers: [[HEADER.x5chain, [...signer.chain.map((item) => item.der), der]]] });
    };
    expect(verify(above(101, 99)).svn).toBe(3);
    for (const [from, to] of [
      [99, 1],
      [300, 101],
    ] as const)
      expect(() => verify(above(from, to))).toThrow(expect.objectContaining({ code: "ERR_COSE_CERTIFICATE" }));
  });

  it.each(["ES256", "ES384", "ES512", "PS384"] as const)("verifies what was signed with %s, and for the key of no other", (algorithm) => {
    const keys = { ES256: () => ecKey("prime256v1"), ES384: () => ecKey("secp384r1"), ES512: () => ecKey("secp521r1"), PS384: rsaKey };
    const own = testSigner(keys[algorithm]());
    const ownTrust = { ...TRUST, issuer: formatDidX509Eku(own.chain[2], EKU) };
    const claims = [[1, ownTrust.issuer]] as const;
    const headers = [[HEADER.x5chain, own.chain.map(({ der }) => der)]] as const;
    expect(verify(envelope({ claims, headers, algorithm, key: own.key }), [ownTrust])).toMatchObject({ svn: 3, launchMeasurement: MEASUREMENT });
    expect(() => verify(envelope({ claims, headers, algorithm, key: keys[algorithm]() }), [ownTrust])).toThrow(
      expect.objectContaining({ code: "ERR_COSE_SIGNATURE" }),
    );
    const other = algorithm === "ES256" ? "ES384" : "ES256";
    expect(() => verify(envelope({ claims, headers, algorithm: other, key: keys[other]() }), [ownTrust])).toThrow(
      expect.objectContaining({ code: "ERR_COSE_KEY" }),
    );
  });

  it("verifies", () => {
    expect(verify(envelope())).toMatchObject({ svn: 3, launchMeasurement: MEASUREMENT, claim: TRUST.claim, signingTime: NOW - 100 * DAY });
  });

  it.each<[string, string, () => Uint8Array]>([
    ["another hash", "ERR_COSE_STRUCTURE", () => envelope({ headers: [[HEADER.payloadHashAlgorithm, -16]] })],
    ["another preimage", "ERR_COSE_STRUCTURE", () => envelope({ headers: [[HEADER.preimageContentType, "application/json"]] })],
    ["two issuers", "ERR_COSE_STRUCTURE", () => envelope({ headers: [["iss", issuer]] })],
    ["claims that are a list", "ERR_COSE_STRUCTURE", () => envelope({ headers: [[HEADER.cwtClaims, [1]]] })],
    ["no time", "ERR_COSE_STRUCTURE", () => envelope({ claims: [[6, "now"]] })],
    ["a time that no date can hold", "ERR_COSE_STRUCTURE", () => envelope({ claims: [[6, 253402300800]] })],
    ["a tagged time", "ERR_COSE_STRUCTURE", () => envelope({ claims: [[6, new CborTag(1, 0)]] })],
    ["a version above u32", "ERR_COSE_PAYLOAD", () => envelope({ claims: [["svn", 2 ** 32]] })],
    ["a long measurement", "ERR_COSE_PAYLOAD", () => envelope({ payload: new Uint8Array(49) })],
    ["no issuer", "ERR_COSE_STRUCTURE", () => envelope({ claims: [[1, null]] })],
    ["a time before the certificates", "ERR_COSE_CERTIFICATE", () => envelope({ claims: [[6, Math.floor((NOW - 500 * DAY) / 1000)]] })],
    ["a time after the certificates", "ERR_COSE_CERTIFICATE", () => envelope({ claims: [[6, Math.floor(NOW / 1000)]] })],
    ["another feed", "ERR_COSE_ISSUER", () => envelope({ claims: [[2, "x"]] })],
    ["an older version", "ERR_COSE_SVN", () => envelope({ claims: [["svn", 1]] })],
    ["a version that is a list", "ERR_COSE_PAYLOAD", () => envelope({ claims: [["svn", []]] })],
    ["a short measurement", "ERR_COSE_PAYLOAD", () => envelope({ payload: MEASUREMENT.subarray(1) })],
  ])("refuses %s", (_name, code, bytes) => {
    expect(() => verify(bytes())).toThrow(expect.objectContaining({ code }));
  });
});

describe("hostile bytes", () => {
  it("let only errors of the package out, and nothing changed verifies", () => {
    const bytes = encodeUvmEndorsement(VALUES);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const changed = Uint8Array.from(bytes);
        changed[at] = (changed[at] ?? 0) ^ change;
        expect(() => verify(changed)).toThrow(CoseError);
      }),
      { numRuns: 300 },
    );
  });
});

const VECTORS = "../shared/vectors/attestation";
const present = existsSync(`${VECTORS}/manifest.json`);
const manifest = present ? asObject(parseJson(readFileSync(`${VECTORS}/manifest.json`, "utf8"))) : undefined;
const vectors = (asArray(manifest?.["uvm_endorsements"]) ?? []).map((item) => {
  const value = (name: string): string => {
    const found = asObject(item)?.[name];
    return typeof found === "string" || typeof found === "number" ? String(found) : "";
  };
  return {
    file: value("file"),
    issuer: value("issuer"),
    feed: value("feed"),
    svn: value("guest_svn"),
    measurement: value("launch_measurement"),
    time: value("signing_time"),
  };
});

describe.skipIf(!present)("genuine endorsements (skipped without ../shared/vectors/attestation)", () => {
  it("are there", () => {
    expect(vectors.length).toBeGreaterThan(3);
  });

  it.each(vectors)("$file verifies", ({ file, issuer, feed, svn, measurement, time }) => {
    const bytes = new Uint8Array(readFileSync(`${VECTORS}/${file}`));
    const trust = { issuer, feed, minimumSvn: Number(svn), claim: "azure-compliant-uvm" };
    const verified = verify(bytes, [trust]);
    expect([verified.svn, toHex(verified.launchMeasurement), verified.signingTime, verified.claim]).toEqual([
      Number(svn),
      measurement,
      Number(time) * 1000,
      "azure-compliant-uvm",
    ]);
    expect(() => verify(bytes, [{ ...trust, minimumSvn: Number(svn) + 1 }])).toThrow(expect.objectContaining({ code: "ERR_COSE_SVN" }));
    // The issuer for AKS is another one: the same root, but a purpose that this leaf does not have.
    expect(() => verify(bytes, [{ ...trust, issuer: issuer.replace(/\.2$/, ".5") }])).toThrow(expect.objectContaining({ code: "ERR_COSE_ISSUER" }));
  });

  it.each(vectors)("$file verifies under Microsoft's issuers if its version is high enough", ({ file, svn }) => {
    const bytes = new Uint8Array(readFileSync(`${VECTORS}/${file}`));
    const lower = MICROSOFT_UVM_TRUST.map((trust) => ({ ...trust, minimumSvn: 1 }));
    const { claim, feed, svn: found } = verify(bytes, lower);
    expect([claim, feed, found]).toEqual(["azure-compliant-uvm", "ContainerPlat-AMD-UVM", Number(svn)]);
    if (Number(svn) >= 100) expect(verify(bytes, MICROSOFT_UVM_TRUST).claim).toBe("azure-compliant-uvm");
    else
      expect(() => verify(bytes, MICROSOFT_UVM_TRUST)).toThrow(
        expect.objectContaining({ code: "ERR_COSE_SVN", details: { found: Number(svn), expected: 100 } }),
      );
    // The root that the list names is the last certificate of the statement itself.
    const x5chain = parseSign1(bytes).protectedHeader.get(HEADER.x5chain) as readonly Uint8Array[];
    const root = createHash("sha256")
      .update(x5chain[2] ?? new Uint8Array())
      .digest("base64url");
    for (const trust of MICROSOFT_UVM_TRUST) expect(trust.issuer).toContain(`:${root}::eku:`);
  });

  it("cover a version below the minimum and several above", () => {
    expect(vectors.map(({ svn }) => Number(svn)).toSorted((a, b) => a - b)).toEqual([22, 100, 100, 103]);
  });
});

describe("Microsoft's issuers", () => {
  it("have one root, two purposes and two claims, none for the other's feed", () => {
    expect(MICROSOFT_UVM_TRUST.map(({ feed, claim, minimumSvn, issuer: text }) => [feed, claim, minimumSvn, text.split("::")[1]])).toEqual([
      ["ContainerPlat-AMD-UVM", "azure-compliant-uvm", 100, "eku:1.3.6.1.4.1.311.76.59.1.2"],
      ["ConfAKS-AMD-UVM", "azure-signed-katacc-uvm", 1, "eku:1.3.6.1.4.1.311.76.59.1.5"],
    ]);
    expect(new Set(MICROSOFT_UVM_TRUST.map(({ issuer: text }) => text.split("::")[0])).size).toBe(1);
    for (const { issuer: text } of MICROSOFT_UVM_TRUST) expect(parseDidX509(text).fingerprint).toHaveLength(32);
  });

  it("are not met by whoever writes their names into a statement", () => {
    for (const { issuer: text, feed } of MICROSOFT_UVM_TRUST) {
      expect(() => verify(encodeUvmEndorsement({ ...VALUES, issuer: text, feed, svn: 200 }), MICROSOFT_UVM_TRUST)).toThrow(
        expect.objectContaining({ code: "ERR_COSE_DID" }),
      );
    }
  });
});
