import { createPrivateKey, createPublicKey, generateKeyPairSync, X509Certificate } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { concatBytes, encodeUtf8, fromHex, toHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { caExtensions, NOW, testCertificate, testKey } from "./testdata/authority.ts";
import {
  basicConstraints,
  type Certificate,
  DerReader,
  encodeBitString,
  encodeBoolean,
  encodeCertificatesPem,
  encodeExplicit,
  encodeInteger,
  encodeName,
  encodeOctetString,
  encodeOid,
  encodePublicKeyInfo,
  encodeSequence,
  encodeSignatureAlgorithm,
  encodeTime,
  extendedKeyUsage,
  formatName,
  issueCertificate,
  keyUsage,
  MAX_CERTIFICATE_BYTES,
  nameAttribute,
  OID,
  parseCertificate,
  parseCertificatesPem,
  parsePublicKeyInfo,
  PkiError,
  signData,
  subjectAltName,
  subjectKeyIdentifier,
  TAG,
  verifySignature,
} from "./index.ts";

const FIELDS = {
  version: encodeExplicit(0, encodeInteger(2)),
  serial: encodeInteger(1),
  algorithm: encodeSignatureAlgorithm("ecdsa-sha256"),
  issuer: encodeName([{ type: OID.commonName, value: "issuer" }]).der,
  validity: encodeSequence(encodeTime(NOW), encodeTime(NOW + 1000)),
  subject: encodeName([{ type: OID.commonName, value: "subject" }]).der,
  key: encodePublicKeyInfo(testKey("p256")),
  extensions: new Uint8Array() as Uint8Array,
};

/** A certificate of hand-made parts; the signature is not one. */
function assemble(changes: Partial<typeof FIELDS>, outerAlgorithm: Uint8Array = FIELDS.algorithm, after: Uint8Array = new Uint8Array()): Uint8Array {
  return encodeSequence(encodeSequence(...Object.values({ ...FIELDS, ...changes }), after), outerAlgorithm, encodeBitString(Uint8Array.of(1)));
}

function extension(oid: string, value: Uint8Array, ...critical: readonly Uint8Array[]): Uint8Array {
  return encodeSequence(encodeOid(oid), ...critical, encodeOctetString(value));
}

function withExtensions(...extensions: readonly Uint8Array[]): Uint8Array {
  return assemble({ extensions: encodeExplicit(3, encodeSequence(...extensions)) });
}

describe("writing and reading", () => {
  const full = testCertificate("leaf – λ", {
    key: testKey("p384"),
    algorithm: "ecdsa-sha384",
    serial: 0xdeadbeefn,
    extensions: [
      basicConstraints({ ca: true, pathLength: 3 }),
      keyUsage("digitalSignature", "keyCertSign", "decipherOnly"),
      extendedKeyUsage(OID.serverAuth, "2.25.97552492151509741327169512377098502104.1.1"),
      subjectAltName(
        { kind: "dns", value: "attest.sealpod.internal" },
        { kind: "ip", bytes: Uint8Array.of(127, 0, 0, 1) },
        { kind: "uri", value: "https://x.example/" },
        { kind: "email", value: "a@b.example" },
      ),
      { oid: "1.3.6.1.4.1.3704.1.4", critical: false, value: fromHex("02ff") },
    ],
  }).certificate;

  it("gives back what was put in", () => {
    expect(nameAttribute(full.subject, OID.commonName)).toBe("leaf – λ");
    expect(formatName(full.subject)).toBe("C=NO, CN=leaf – λ");
    expect(full.serial).toBe(0xdeadbeefn);
    expect(full.basicConstraints).toEqual({ ca: true, pathLength: 3 });
    expect([...(full.keyUsage ?? [])]).toEqual(["digitalSignature", "keyCertSign", "decipherOnly"]);
    expect(full.extendedKeyUsage).toEqual([OID.serverAuth, "2.25.97552492151509741327169512377098502104.1.1"]);
    expect(full.subjectAltName?.map((name) => name.kind)).toEqual(["dns", "ip", "uri", "email"]);
    expect(toHex(full.extensions.get("1.3.6.1.4.1.3704.1.4")?.value ?? new Uint8Array())).toBe("02ff");
    expect([full.notBefore, full.notAfter]).toEqual([NOW - 86_400_000, NOW + 86_400_000]);
  });

  it("is read by OpenSSL the same way", () => {
    const oracle = new X509Certificate(full.der);
    expect(oracle.subject).toBe("C=NO\nCN=leaf – λ");
    expect(oracle.serialNumber).toBe("DEADBEEF");
    expect(oracle.ca).toBe(true);
    expect(oracle.subjectAltName).toBe("DNS:attest.sealpod.internal, IP Address:127.0.0.1, URI:https://x.example/, email:a@b.example");
    expect(oracle.validFromDate.getTime()).toBe(full.notBefore);
    expect(oracle.checkHost("attest.sealpod.internal")).toBe("attest.sealpod.internal");
    expect(oracle.verify(oracle.publicKey)).toBe(true);
  });

  it.each([
    ["rsa-pss-sha256", "rsa"],
    ["rsa-pss-sha384", "rsa"],
    ["rsa-pss-sha512", "rsa"],
    ["rsa-sha256", "rsa"],
    ["rsa-sha384", "rsa"],
    ["rsa-sha512", "rsa"],
    ["ecdsa-sha256", "p256"],
    ["ecdsa-sha384", "p384"],
    ["ecdsa-sha512", "p521"],
  ] as const)("signs with %s as OpenSSL verifies it", (algorithm, kind) => {
    const { certificate, key } = testCertificate("self", { key: testKey(kind), algorithm });
    expect(certificate.signatureAlgorithm).toBe(algorithm);
    expect(new X509Certificate(certificate.der).verify(createPublicKey(key))).toBe(true);
    verifySignature(algorithm, certificate.publicKey, certificate.tbs, certificate.signature, "test");
    const other = parsePublicKeyInfo(encodePublicKeyInfo(testKey(kind)), "other");
    expect(() => verifySignature(algorithm, other, certificate.tbs, certificate.signature, "test")).toThrow(
      expect.objectContaining({ code: "ERR_PKI_SIGNATURE" }),
    );
  });

  it("reads a PEM bundle in order", () => {
    const other = testCertificate("other").certificate;
    expect(parseCertificatesPem(encodeCertificatesPem([full, other])).map(({ subject }) => nameAttribute(subject, OID.commonName))).toEqual([
      "leaf – λ",
      "other",
    ]);
  });

  it("keeps a copy, so that the caller's buffer can change", () => {
    const bytes = Uint8Array.from(full.der);
    const certificate = parseCertificate(bytes);
    bytes.fill(0);
    expect(certificate.der).toEqual(full.der);
    expect(certificate.publicKey.der).toEqual(full.publicKey.der);
  });

  it("refuses templates that cannot be issued", () => {
    const template = {
      subject: [{ type: OID.commonName, value: "x" }],
      subjectKey: testKey("p256"),
      issuer: { key: testKey("p256") },
      signatureAlgorithm: "ecdsa-sha256",
      serial: 1n,
      notBefore: NOW,
      notAfter: NOW + 1000,
      extensions: [],
    } as const;
    expect(() => issueCertificate({ ...template, serial: -1n })).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
    expect(() => issueCertificate({ ...template, serial: 1n << 159n })).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
    expect(() => issueCertificate({ ...template, notAfter: NOW })).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
    expect(() => issueCertificate({ ...template, signatureAlgorithm: "rsa-sha256" })).toThrow(expect.objectContaining({ code: "ERR_PKI_KEY" }));
    expect(() => issueCertificate({ ...template, subject: [{ type: OID.country, value: "N@" }] })).toThrow(expect.objectContaining({ code: "ERR_PKI_DER" }));
    const twice = subjectKeyIdentifier(encodePublicKeyInfo(template.subjectKey));
    expect(() => issueCertificate({ ...template, extensions: [twice, twice] })).toThrow(expect.objectContaining({ code: "ERR_PKI_CERTIFICATE" }));
    expect(() => subjectAltName({ kind: "dns", value: "a b" })).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
  });
});

describe("malformed certificates", () => {
  it("accepts the parts that the cases below change", () => {
    expect(parseCertificate(assemble({})).serial).toBe(1n);
    expect(parseCertificate(withExtensions(extension("1.2.3", Uint8Array.of(1)))).extensions.size).toBe(1);
  });

  const sha1Pss = encodeSequence(encodeOid(OID.rsassaPss), encodeSequence());
  const pss = (hash: string, mask: string, salt: number, trailer: readonly Uint8Array[] = []): Uint8Array =>
    encodeSequence(
      encodeOid(OID.rsassaPss),
      encodeSequence(
        encodeExplicit(0, encodeSequence(encodeOid(hash))),
        encodeExplicit(1, encodeSequence(encodeOid(OID.mgf1), encodeSequence(encodeOid(mask)))),
        encodeExplicit(2, encodeInteger(salt)),
        ...trailer,
      ),
    );
  const withAlgorithm = (algorithm: Uint8Array): Uint8Array => assemble({ algorithm }, algorithm);

  it("accepts PSS parameters with and without the explicit trailer field and NULLs", () => {
    expect(parseCertificate(withAlgorithm(pss(OID.sha384, OID.sha384, 48))).signatureAlgorithm).toBe("rsa-pss-sha384");
    expect(parseCertificate(withAlgorithm(pss(OID.sha384, OID.sha384, 48, [encodeExplicit(3, encodeInteger(1))]))).signatureAlgorithm).toBe("rsa-pss-sha384");
  });

  const weakRsa = encodePublicKeyInfo(generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey);
  const ed25519 = encodePublicKeyInfo(generateKeyPairSync("ed25519").publicKey);
  const explicitCurve = new Uint8Array(
    createPublicKey(
      generateKeyPairSync("ec", { namedCurve: "prime256v1", paramEncoding: "explicit" }).publicKey.export({ type: "spki", format: "pem" }),
    ).export({
      type: "spki",
      format: "der",
    }),
  );
  // The same RSA key, with a length inside the BIT STRING in three bytes where two do: OpenSSL reads it, and there would be two pins for one key.
  const laxRsa = ((): Uint8Array => {
    const strict = new DerReader(encodePublicKeyInfo(testKey("rsa")), "key").enter(TAG.sequence);
    const identifier = strict.any().encoded;
    const body = strict.bitString().bytes.subarray(4);
    const lax = concatBytes(fromHex("308300"), Uint8Array.of(body.length >> 8, body.length & 0xff), body);
    return encodeSequence(identifier, encodeBitString(lax));
  })();
  // The same P-256 key with its point in other forms of SEC 1 section 2.3.3: OpenSSL reads them and writes them back.
  const parity = (FIELDS.key.at(-1) ?? 0) & 1;
  const hybrid = Uint8Array.from(FIELDS.key);
  hybrid[26] = 6 + parity;
  const compressed = concatBytes(fromHex("3039301306072a8648ce3d020106082a8648ce3d030107032200"), Uint8Array.of(2 + parity), FIELDS.key.subarray(27, 59));
  const rsaWithExponent = (exponent: number | bigint): Uint8Array => {
    const strict = new DerReader(encodePublicKeyInfo(testKey("rsa")), "key").enter(TAG.sequence);
    const identifier = strict.any().encoded;
    const modulus = new DerReader(strict.bitString().bytes, "key").enter(TAG.sequence).any().encoded;
    return encodeSequence(identifier, encodeBitString(encodeSequence(modulus, encodeInteger(exponent))));
  };
  const offCurve = Uint8Array.from(FIELDS.key);
  offCurve[offCurve.length - 1] = (offCurve.at(-1) ?? 0) ^ 1;

  it.each<[string, string, Uint8Array]>([
    ["an empty input", "ERR_PKI_DER", new Uint8Array()],
    ["bytes after the certificate", "ERR_PKI_DER", concatBytes(assemble({}), Uint8Array.of(0))],
    ["more bytes than the limit", "ERR_PKI_LIMIT", new Uint8Array(MAX_CERTIFICATE_BYTES + 1)],
    ["version 1", "ERR_PKI_CERTIFICATE", assemble({ version: new Uint8Array() })],
    ["version 4", "ERR_PKI_CERTIFICATE", assemble({ version: encodeExplicit(0, encodeInteger(3)) })],
    ["a negative serial", "ERR_PKI_CERTIFICATE", assemble({ serial: fromHex("0201ff") })],
    ["a serial of 21 bytes", "ERR_PKI_CERTIFICATE", assemble({ serial: encodeInteger(1n << 160n) })],
    ["different algorithms inside and outside", "ERR_PKI_CERTIFICATE", assemble({}, encodeSignatureAlgorithm("ecdsa-sha384"))],
    ["an unknown signature algorithm", "ERR_PKI_ALGORITHM", withAlgorithm(encodeSequence(encodeOid("1.2.840.113549.1.1.5")))],
    ["PSS with the default SHA-1", "ERR_PKI_ALGORITHM", withAlgorithm(sha1Pss)],
    ["PSS with two hashes", "ERR_PKI_ALGORITHM", withAlgorithm(pss(OID.sha384, OID.sha256, 48))],
    ["PSS with a short salt", "ERR_PKI_ALGORITHM", withAlgorithm(pss(OID.sha384, OID.sha384, 20))],
    ["PSS with another trailer", "ERR_PKI_ALGORITHM", withAlgorithm(pss(OID.sha384, OID.sha384, 48, [encodeExplicit(3, encodeInteger(2))]))],
    ["ECDSA with parameters", "ERR_PKI_DER", withAlgorithm(encodeSequence(encodeOid(OID.ecdsaWithSha256), fromHex("0500")))],
    ["PKCS#1 without NULL", "ERR_PKI_DER", withAlgorithm(encodeSequence(encodeOid(OID.sha256WithRsa)))],
    ["an RSA key of 1024 bits", "ERR_PKI_KEY", assemble({ key: weakRsa })],
    ["an RSA key that is not in DER inside", "ERR_PKI_KEY", assemble({ key: laxRsa })],
    ["an Ed25519 key", "ERR_PKI_KEY", assemble({ key: ed25519 })],
    ["a curve given by parameters", "ERR_PKI_KEY", assemble({ key: explicitCurve })],
    ["a point that is not on the curve", "ERR_PKI_KEY", assemble({ key: offCurve })],
    ["a compressed point", "ERR_PKI_KEY", assemble({ key: compressed })],
    ["a point in hybrid form", "ERR_PKI_KEY", assemble({ key: hybrid })],
    ["the RSA exponent 1", "ERR_PKI_KEY", assemble({ key: rsaWithExponent(1) })],
    ["an even RSA exponent", "ERR_PKI_KEY", assemble({ key: rsaWithExponent(65536) })],
    ["an RSA exponent that makes verification slow", "ERR_PKI_KEY", assemble({ key: rsaWithExponent((1n << 2000n) + 1n) })],
    ["an alternative name that is no GeneralName", "ERR_PKI_CERTIFICATE", withExtensions(extension(OID.subjectAltName, encodeSequence(fromHex("0c0161"))))],
    ["a DNS name in a constructed encoding", "ERR_PKI_CERTIFICATE", withExtensions(extension(OID.subjectAltName, encodeSequence(fromHex("a2030c0161"))))],
    ["unique identifiers", "ERR_PKI_DER", assemble({ extensions: fromHex("81020000") })],
    ["bytes after the extensions", "ERR_PKI_DER", assemble({}, FIELDS.algorithm, encodeInteger(1))],
    ["no extension in the list", "ERR_PKI_DER", withExtensions()],
    ["an extension twice", "ERR_PKI_CERTIFICATE", withExtensions(extension("1.2.3", Uint8Array.of()), extension("1.2.3", Uint8Array.of()))],
    ["a path length without CA", "ERR_PKI_CERTIFICATE", withExtensions(extension(OID.basicConstraints, encodeSequence(encodeInteger(1))))],
    ["bytes after basicConstraints", "ERR_PKI_DER", withExtensions(extension(OID.basicConstraints, concatBytes(encodeSequence(), Uint8Array.of(0))))],
    ["an unknown key usage", "ERR_PKI_CERTIFICATE", withExtensions(extension(OID.keyUsage, encodeBitString(Uint8Array.of(0, 0x40), 6)))],
    ["no purpose", "ERR_PKI_DER", withExtensions(extension(OID.extendedKeyUsage, encodeSequence()))],
    ["a purpose twice", "ERR_PKI_CERTIFICATE", withExtensions(extension(OID.extendedKeyUsage, encodeSequence(encodeOid("1.2.3"), encodeOid("1.2.3"))))],
    [
      "a NUL in a DNS name",
      "ERR_PKI_CERTIFICATE",
      withExtensions(extension(OID.subjectAltName, encodeSequence(concatBytes(fromHex("8203"), encodeUtf8("a\0b"))))),
    ],
    ["an IP address of 5 bytes", "ERR_PKI_CERTIFICATE", withExtensions(extension(OID.subjectAltName, encodeSequence(fromHex("87050102030405"))))],
    ["a critical flag of 01", "ERR_PKI_DER", withExtensions(extension("1.2.3", Uint8Array.of(1), fromHex("010101")))],
    [
      "a signature that is not whole bytes",
      "ERR_PKI_CERTIFICATE",
      encodeSequence(encodeSequence(...Object.values(FIELDS)), FIELDS.algorithm, encodeBitString(Uint8Array.of(0xf0), 4)),
    ],
    ["a name attribute without value", "ERR_PKI_DER", assemble({ subject: encodeSequence(fromHex("3107300506035504 03".replace(" ", ""))) })],
  ])("refuses %s", (_name, code, bytes) => {
    expect(() => parseCertificate(bytes)).toThrow(expect.objectContaining({ code }));
  });

  it("reads a critical flag that is written although false", () => {
    expect(parseCertificate(withExtensions(extension("1.2.3", Uint8Array.of(1), encodeBoolean(false)))).extensions.get("1.2.3")?.critical).toBe(false);
  });

  it("reads an RSA exponent of 3, and the other forms of alternative names", () => {
    expect(parseCertificate(assemble({ key: rsaWithExponent(3) })).publicKey.kind).toBe("rsa");
    const names = parseCertificate(withExtensions(extension(OID.subjectAltName, encodeSequence(fromHex("a000a300a400a500880129")))));
    expect(names.subjectAltName?.map(({ kind }) => kind)).toEqual(["other", "other", "other", "other", "other"]);
  });

  it("writes names so that a terminal does nothing but show them, and no value looks like two", () => {
    const name = (value: string): string => formatName(encodeName([{ type: OID.commonName, value }]));
    expect(name("a, CN=b")).toBe(String.raw`CN=a\, CN=b`);
    expect(name('a"\\\u001b[2J\u009b2J\u007f')).toBe(String.raw`CN=a\"\\\u001b[2J\u009b2J\u007f`);
    expect(name("\u202eevil\u2066\u2028")).toBe(String.raw`CN=\u202eevil\u2066\u2028`);
    expect(name(`${"x".repeat(196)}\u{1f600}\u{1f600}`).isWellFormed()).toBe(true);
  });

  it("refuses two attributes of one type where one is asked for", () => {
    const name = encodeName([
      { type: OID.commonName, value: "a" },
      { type: OID.commonName, value: "b" },
    ]);
    expect(() => nameAttribute(name, OID.commonName)).toThrow(expect.objectContaining({ code: "ERR_PKI_CERTIFICATE" }));
    expect(nameAttribute(name, OID.country)).toBeUndefined();
  });

  it("lets only its own errors out of changed certificates, and reads none of them as the original", () => {
    const original = testCertificate("fuzz", { extensions: [...caExtensions(1), subjectAltName({ kind: "dns", value: "a.example" })] }).certificate;
    const change = fc.record({ at: fc.nat(original.der.length - 1), bytes: fc.uint8Array({ minLength: 1, maxLength: 3 }), remove: fc.nat(3) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) => {
        let bytes: Uint8Array = original.der;
        for (const { at, bytes: insert, remove } of changes) bytes = concatBytes(bytes.subarray(0, at), insert, bytes.subarray(at + remove));
        let certificate: Certificate;
        try {
          certificate = parseCertificate(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(PkiError);
          return;
        }
        // What reads is kept byte for byte: there is one encoding.
        expect(certificate.der).toEqual(bytes);
      }),
      { numRuns: 1500 },
    );
  });
});

const VECTORS = "../shared/vectors/attestation";
describe.skipIf(!existsSync(VECTORS))("genuine AMD certificates (skipped without ../shared/vectors)", () => {
  it.each(["ask_ark_milan", "ask_ark_milan_vlek", "ask_ark_genoa", "ask_ark_genoa_vlek", "ask_ark_turin_vcek", "ask_ark_turin_vlek"])("reads %s", (file) => {
    const [intermediate, root] = parseCertificatesPem(readFileSync(`${VECTORS}/go-sev-guest/roots/${file}.pem`, "utf8"));
    expect(root?.basicConstraints?.ca).toBe(true);
    expect(intermediate?.keyUsage?.has("keyCertSign")).toBe(true);
    expect(root?.signatureAlgorithm).toBe("rsa-pss-sha384");
  });
});

describe("keys", () => {
  it("does not verify one key type's algorithm with another's key", () => {
    const { certificate } = testCertificate("ec");
    const rsa = parsePublicKeyInfo(encodePublicKeyInfo(testKey("rsa")), "rsa");
    expect(() => verifySignature("ecdsa-sha256", rsa, certificate.tbs, certificate.signature, "test")).toThrow(
      expect.objectContaining({ code: "ERR_PKI_KEY" }),
    );
    expect(() => verifySignature("rsa-sha256", certificate.publicKey, certificate.tbs, certificate.signature, "test")).toThrow(
      expect.objectContaining({ code: "ERR_PKI_KEY" }),
    );
  });

  it("takes the public half of a private key", () => {
    const key = testKey("p256");
    const again = createPrivateKey(key.export({ type: "pkcs8", format: "pem" }));
    expect(encodePublicKeyInfo(again)).toEqual(encodePublicKeyInfo(createPublicKey(key)));
    expect(signData("ecdsa-sha256", again, Uint8Array.of(1)).length).toBeGreaterThan(60);
  });
});
