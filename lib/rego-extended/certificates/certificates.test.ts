import { createPrivateKey, createPublicKey, generateKeyPairSync, type JsonWebKey, type KeyObject, sign } from "node:crypto";
import { concatBytes, type JsonValue } from "@sealpod/core";
import {
  authorityKeyIdentifier,
  basicConstraints,
  type Certificate,
  contextTag,
  encodeBitString,
  encodeBoolean,
  encodeDer,
  encodeExplicit,
  encodeInteger,
  encodeName,
  encodeNull,
  encodeOctetString,
  encodeOid,
  encodePem,
  encodePublicKeyInfo,
  encodeSequence,
  encodeSetOf,
  encodeSignatureAlgorithm,
  encodeTime,
  extendedKeyUsage,
  type Extension,
  issueCertificate,
  keyUsage,
  OID,
  signData,
  subjectAltName,
  subjectKeyIdentifier,
} from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { certificatesBuiltins } from "./certificates.ts";
import { caller, type CallOptions, failureOf, NOW } from "../testdata/call.ts";

const call = caller(certificatesBuiltins);
const messageOf = failureOf(call);
const DAY = 86_400_000;
type Fields = Readonly<Record<string, JsonValue>>;

const rootKey = generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey;
const middleKey = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const leafKey = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;

interface Identity {
  readonly key: KeyObject;
  readonly certificate: Certificate;
}

function issue(name: string, key: KeyObject, options: { issuer?: Identity; extensions?: readonly Extension[]; from?: number; to?: number } = {}): Identity {
  const signer = options.issuer?.key ?? key;
  const certificate = issueCertificate({
    subject: [
      { type: OID.country, value: "NO" },
      { type: OID.organization, value: "Sealpod" },
      { type: OID.commonName, value: name },
    ],
    subjectKey: key,
    issuer: options.issuer === undefined ? { key } : { name: options.issuer.certificate.subject, key: signer },
    signatureAlgorithm: signer.asymmetricKeyType === "rsa" ? "rsa-pss-sha256" : "ecdsa-sha384",
    serial: 2n ** 70n,
    notBefore: options.from ?? NOW - DAY,
    notAfter: options.to ?? NOW + DAY,
    extensions: options.extensions ?? [],
  });
  return { key, certificate };
}

const CA: readonly Extension[] = [basicConstraints({ ca: true }), keyUsage("keyCertSign", "cRLSign")];
const NAMES = subjectAltName(
  { kind: "dns", value: "leaf.example" },
  { kind: "dns", value: "*.wild.example" },
  { kind: "email", value: "a@example.com" },
  { kind: "uri", value: "spiffe://example.com:8443/a%2Fb?c=d#e" },
  { kind: "ip", bytes: Uint8Array.of(10, 0, 0, 1) },
  { kind: "ip", bytes: Uint8Array.of(0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1) },
);
const LEAF: readonly Extension[] = [
  basicConstraints({ ca: false }),
  keyUsage("digitalSignature", "keyAgreement"),
  extendedKeyUsage(OID.serverAuth, "1.2.3.4"),
  NAMES,
  subjectKeyIdentifier(encodePublicKeyInfo(leafKey)),
  authorityKeyIdentifier(encodePublicKeyInfo(middleKey)),
];
const root = issue("root", rootKey, { extensions: CA });
const middle = issue("middle", middleKey, { issuer: root, extensions: CA });
const leaf = issue("leaf", leafKey, { issuer: middle, extensions: LEAF });

function pem(...identities: readonly { readonly certificate: { readonly der: Uint8Array } }[]): string {
  return identities.map(({ certificate }) => encodePem("CERTIFICATE", certificate.der)).join("");
}

function base64(bytes: Uint8Array | string): string {
  return Buffer.from(bytes).toString("base64");
}

/** Common names of a verified chain, or false; `options` call the function that takes them. */
function verified(text: string, options?: Fields, callOptions?: CallOptions): readonly string[] | false {
  const name = "crypto.x509.parse_and_verify_certificates";
  const result = options === undefined ? call(name, [text], callOptions) : call(`${name}_with_options`, [text, options], callOptions);
  const [valid, chain] = result as readonly [boolean, readonly { readonly Subject: { readonly CommonName: string } }[]];
  if (valid) return chain.map(({ Subject }) => Subject.CommonName);
  expect(chain).toEqual([]);
  return false;
}

function parseOne(der: Uint8Array): Fields {
  return (call("crypto.x509.parse_certificates", [base64(der)], { strict: true }) as readonly Fields[])[0]!;
}

/** A certificate whose parts the test writes itself. */
function rawCertificate(parts: {
  version?: Uint8Array;
  validity?: Uint8Array;
  key?: Uint8Array;
  extensions?: readonly Uint8Array[];
  inner?: Uint8Array;
}): Uint8Array {
  const algorithm = encodeSignatureAlgorithm("ecdsa-sha256");
  const name = encodeName([{ type: OID.commonName, value: "raw" }]).der;
  const tbs = encodeSequence(
    parts.version ?? encodeExplicit(0, encodeInteger(2)),
    encodeInteger(1),
    parts.inner ?? algorithm,
    name,
    parts.validity ?? encodeSequence(encodeTime(NOW), encodeTime(NOW + DAY)),
    name,
    parts.key ?? encodePublicKeyInfo(leafKey),
    ...(parts.extensions === undefined ? [] : [encodeExplicit(3, encodeSequence(...parts.extensions))]),
  );
  return encodeSequence(tbs, algorithm, encodeBitString(signData("ecdsa-sha256", leafKey, tbs)));
}

function rawExtension(oid: string, value: Uint8Array, critical = false): Uint8Array {
  return encodeSequence(encodeOid(oid), ...(critical ? [encodeBoolean(true)] : []), encodeOctetString(value));
}

function ia5(tag: number, text: string): Uint8Array {
  return encodeDer(contextTag(tag, false), Buffer.from(text));
}

describe("crypto.x509.parse_certificates", () => {
  it("has the fields of Go's structure", () => {
    const fields = parseOne(leaf.certificate.der);
    const jwk = createPublicKey(leafKey).export({ format: "jwk" });
    const coordinate = (text: string | undefined): bigint => BigInt(`0x${Buffer.from(text!, "base64url").toString("hex")}`);
    expect(fields).toMatchObject({
      Raw: base64(leaf.certificate.der),
      RawTBSCertificate: base64(leaf.certificate.tbs),
      RawSubjectPublicKeyInfo: base64(leaf.certificate.publicKey.der),
      RawSubject: base64(leaf.certificate.subject.der),
      RawIssuer: base64(middle.certificate.subject.der),
      Signature: base64(leaf.certificate.signature),
      SignatureAlgorithm: 13,
      PublicKeyAlgorithm: 3,
      PublicKey: { Curve: {}, X: coordinate(jwk.x), Y: coordinate(jwk.y) },
      Version: 3,
      SerialNumber: 2n ** 70n,
      Issuer: { CommonName: "middle", Country: ["NO"] },
      Subject: {
        Country: ["NO"],
        Organization: ["Sealpod"],
        OrganizationalUnit: null,
        Locality: null,
        Province: null,
        StreetAddress: null,
        PostalCode: null,
        SerialNumber: "",
        CommonName: "leaf",
        Names: [
          { Type: [2, 5, 4, 6], Value: "NO" },
          { Type: [2, 5, 4, 10], Value: "Sealpod" },
          { Type: [2, 5, 4, 3], Value: "leaf" },
        ],
        ExtraNames: null,
      },
      NotBefore: "2026-11-21T00:00:00Z",
      NotAfter: "2026-11-23T00:00:00Z",
      KeyUsage: 1 + 16,
      ExtKeyUsage: [1],
      UnknownExtKeyUsage: [[1, 2, 3, 4]],
      BasicConstraintsValid: true,
      IsCA: false,
      MaxPathLen: -1,
      MaxPathLenZero: false,
      DNSNames: ["leaf.example", "*.wild.example"],
      EmailAddresses: ["a@example.com"],
      IPAddresses: ["10.0.0.1", "2001:db8::1"],
      URIStrings: ["spiffe://example.com:8443/a%2Fb?c=d#e"],
      URIs: [{ Scheme: "spiffe", Opaque: "", User: null, Host: "example.com:8443", Path: "/a/b", RawPath: "/a%2Fb", RawQuery: "c=d", Fragment: "e" }],
      UnhandledCriticalExtensions: null,
      OCSPServer: null,
      CRLDistributionPoints: null,
      PermittedDNSDomains: null,
      PolicyIdentifiers: null,
    });
    expect((fields["Extensions"] as readonly Fields[]).map(({ Id, Critical }) => [Id, Critical])).toEqual(
      LEAF.map(({ oid, critical }) => [oid.split(".").map(Number), critical]),
    );
    expect(fields["SubjectKeyId"]).toBe(base64(LEAF[4]!.value.subarray(2)));
    expect(fields["AuthorityKeyId"]).toBe(base64(LEAF[5]!.value.subarray(4)));
  });

  it("takes PEM, base64 of PEM, base64 of DER, one or several", () => {
    const names = (text: string): JsonValue =>
      (call("crypto.x509.parse_certificates", [text]) as readonly Fields[]).map(({ Subject }) => (Subject as Fields)["CommonName"]!);
    const text = pem(leaf, middle);
    for (const form of [text, text.replaceAll("\n", "\r\n"), `${text}\n \n`, base64(text), base64(concatBytes(leaf.certificate.der, middle.certificate.der))]) {
      expect(names(form)).toEqual(["leaf", "middle"]);
    }
    expect(names("")).toEqual([]);
  });

  it.each<readonly [string, string, string]>([
    ["no base64", "foobar", "illegal base64 data at input byte 6"],
    ["a strange character", "foo*", "illegal base64 data at input byte 3"],
    ["padding inside", "fo=o", "illegal base64 data at input byte 2"],
    ["no DER", "YmFkc3RyaW5n", "x509: malformed certificate"],
    ["another block", encodePem("PUBLIC KEY", Uint8Array.of(0x30, 0)), "PEM block type is 'PUBLIC KEY', expected CERTIFICATE"],
    ["text after the blocks", `${pem(leaf)}x`, "failed to parse a PEM block"],
    ["a block that does not end", pem(leaf).slice(0, -3), "failed to parse a PEM block"],
    ["bytes after the certificate", base64(concatBytes(leaf.certificate.der, Uint8Array.of(0))), "x509: malformed certificate"],
  ])("%s", (_, text, message) => {
    expect(messageOf("crypto.x509.parse_certificates", [text])).toContain(message);
  });

  it("reads what lib/pki does not verify: version 1, Ed25519, RSA with 1024 bits, unknown keys", () => {
    expect(parseOne(rawCertificate({ version: new Uint8Array() }))).toMatchObject({
      Version: 1,
      Extensions: null,
      BasicConstraintsValid: false,
      MaxPathLen: 0,
    });
    const ed25519 = createPublicKey(generateKeyPairSync("ed25519").privateKey).export({ type: "spki", format: "der" });
    expect(parseOne(rawCertificate({ key: ed25519 }))).toMatchObject({ PublicKeyAlgorithm: 4, PublicKey: base64(ed25519.subarray(12)) });
    const small = createPublicKey(generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey).export({ type: "spki", format: "der" });
    const { N, E } = parseOne(rawCertificate({ key: small }))["PublicKey"] as { readonly N: bigint; readonly E: number };
    expect(N.toString(2).length).toBe(1024);
    expect(E).toBe(65537);
    const unknown = encodeSequence(encodeSequence(encodeOid("1.2.3"), encodeNull()), encodeBitString(Uint8Array.of(1)));
    expect(parseOne(rawCertificate({ key: unknown }))).toMatchObject({ PublicKeyAlgorithm: 0, PublicKey: null });
  });

  it("decodes the extensions that Go decodes", () => {
    const subtree = (name: Uint8Array): Uint8Array => encodeSequence(name);
    const location = (oid: string, uri: string): Uint8Array => encodeSequence(encodeOid(oid), ia5(6, uri));
    const fields = parseOne(
      rawCertificate({
        extensions: [
          rawExtension(
            "2.5.29.30",
            encodeSequence(
              encodeExplicit(0, subtree(ia5(2, ".a")), subtree(encodeDer(contextTag(7, false), Uint8Array.of(10, 0, 0, 0, 255, 0, 0, 0)))),
              encodeExplicit(1, subtree(ia5(1, "b")), subtree(ia5(6, "c"))),
            ),
            true,
          ),
          rawExtension("2.5.29.31", encodeSequence(encodeSequence(encodeExplicit(0, encodeExplicit(0, ia5(6, "http://crl")))))),
          rawExtension("2.5.29.32", encodeSequence(encodeSequence(encodeOid("2.23.140.1.2.1")))),
          rawExtension("2.5.29.33", encodeSequence(encodeSequence(encodeOid("1.2.3"), encodeOid("1.2.4")))),
          rawExtension("2.5.29.36", encodeSequence(encodeDer(contextTag(0, false), Uint8Array.of(0)), encodeDer(contextTag(1, false), Uint8Array.of(2)))),
          rawExtension("2.5.29.54", encodeInteger(3)),
          rawExtension("1.3.6.1.5.5.7.1.1", encodeSequence(location("1.3.6.1.5.5.7.48.1", "http://ocsp"), location("1.3.6.1.5.5.7.48.2", "http://ca"))),
          rawExtension("1.2.3.4", Uint8Array.of(1, 2), true),
        ],
      }),
    );
    expect(fields).toMatchObject({
      PermittedDNSDomainsCritical: true,
      PermittedDNSDomains: [".a"],
      PermittedIPRanges: [{ IP: "10.0.0.0", Mask: "/wAAAA==" }],
      ExcludedEmailAddresses: ["b"],
      ExcludedURIDomains: ["c"],
      CRLDistributionPoints: ["http://crl"],
      PolicyIdentifiers: [[2, 23, 140, 1, 2, 1]],
      Policies: ["2.23.140.1.2.1"],
      PolicyMappings: [{ IssuerDomainPolicy: "1.2.3", SubjectDomainPolicy: "1.2.4" }],
      RequireExplicitPolicy: 0,
      RequireExplicitPolicyZero: true,
      InhibitPolicyMapping: 2,
      InhibitAnyPolicy: 3,
      OCSPServer: ["http://ocsp"],
      IssuingCertificateURL: ["http://ca"],
      UnhandledCriticalExtensions: [[1, 2, 3, 4]],
    });
  });

  it.each<readonly [string, () => Uint8Array]>([
    ["an extension twice", () => rawCertificate({ extensions: [rawExtension("1.2.3", Uint8Array.of(1)), rawExtension("1.2.3", Uint8Array.of(2))] })],
    ["algorithms that differ", () => rawCertificate({ inner: encodeSignatureAlgorithm("ecdsa-sha384") })],
    ["version 4", () => rawCertificate({ version: encodeExplicit(0, encodeInteger(3)) })],
    [
      "a point off its curve",
      () => {
        const key = Uint8Array.from(encodePublicKeyInfo(leafKey));
        key[key.length - 1]! ^= 1;
        return rawCertificate({ key });
      },
    ],
    ["too many extensions", () => rawCertificate({ extensions: Array.from({ length: 65 }, (_, at) => rawExtension(`1.2.${at}`, Uint8Array.of(1))) })],
    ["too many bytes", () => rawCertificate({ extensions: [rawExtension("1.2.3", new Uint8Array(70_000))] })],
    [
      "deep nesting",
      () => {
        let value = encodeNull();
        for (let depth = 0; depth < 100; depth++) value = encodeSequence(value);
        return value;
      },
    ],
  ])("refuses %s", (_, make) => {
    expect(messageOf("crypto.x509.parse_certificates", [base64(make())])).toContain("x509: malformed certificate");
  });

  it("no prefix and no changed byte of a certificate breaks it", () => {
    const { der } = leaf.certificate;
    for (let length = 1; length < der.length; length++) expect(call("crypto.x509.parse_certificates", [base64(der.subarray(0, length))])).toBeUndefined();
    for (let at = 0; at < der.length; at++) {
      const changed = Uint8Array.from(der);
      changed[at]! ^= 0xff;
      // Either it reads, or the call has no value: an exception of another kind would end the test.
      const value = call("crypto.x509.parse_certificates", [base64(changed)]);
      expect(value === undefined || (value as readonly JsonValue[]).length === 1).toBe(true);
    }
  });
});

describe("crypto.x509.parse_and_verify_certificates", () => {
  it("verifies from the last certificate to the first, whatever stands between", () => {
    expect(verified(pem(root, middle, leaf))).toEqual(["leaf", "middle", "root"]);
    expect(verified(base64(pem(root, middle, leaf)))).toEqual(["leaf", "middle", "root"]);
    expect(verified(pem(middle, leaf))).toEqual(["leaf", "middle"]);
    const other = issue("other", leafKey, { extensions: CA });
    expect(verified(pem(root, other, middle, leaf))).toEqual(["leaf", "middle", "root"]);
  });

  it("finds the issuer among several of one name", () => {
    const twinKey = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
    const twin = issue("middle", twinKey, { issuer: root, extensions: CA });
    expect(verified(pem(root, twin, middle, leaf))).toEqual(["leaf", "middle", "root"]);
    expect(verified(pem(root, twin, leaf))).toBe(false);
    expect(verified(pem(root, ...Array.from({ length: 40 }, () => twin), leaf))).toBe(false);
  });

  it.each<readonly [string, () => string]>([
    ["nothing", () => ""],
    ["no certificate", () => "foobar"],
    ["one certificate", () => pem(root)],
    ["leaf first", () => pem(leaf, middle, root)],
    ["no intermediate", () => pem(root, leaf)],
    ["another root of the same name", () => pem(issue("root", leafKey, { extensions: CA }), middle, leaf)],
    ["an expired leaf", () => pem(root, middle, issue("leaf", leafKey, { issuer: middle, extensions: LEAF, from: NOW - 2 * DAY, to: NOW - DAY }))],
    [
      "an expired intermediate",
      () => {
        const old = issue("middle", middleKey, { issuer: root, extensions: CA, from: NOW - 2 * DAY, to: NOW - DAY });
        return pem(root, old, issue("leaf", leafKey, { issuer: old, extensions: LEAF }));
      },
    ],
    [
      "an expired root",
      () => {
        const old = issue("root", rootKey, { extensions: CA, from: NOW - 2 * DAY, to: NOW - DAY });
        return pem(old, middle, leaf);
      },
    ],
    ["a leaf of the future", () => pem(root, middle, issue("leaf", leafKey, { issuer: middle, extensions: LEAF, from: NOW + 1000 }))],
    [
      "an intermediate that is no CA",
      () => {
        const plain = issue("middle", middleKey, { issuer: root, extensions: [keyUsage("keyCertSign")] });
        return pem(root, plain, issue("leaf", leafKey, { issuer: plain }));
      },
    ],
    [
      "an intermediate that may not sign",
      () => {
        const plain = issue("middle", middleKey, { issuer: root, extensions: [basicConstraints({ ca: true }), keyUsage("digitalSignature")] });
        return pem(root, plain, issue("leaf", leafKey, { issuer: plain }));
      },
    ],
    [
      "a path that is too long",
      () => {
        const short = issue("root", rootKey, { extensions: [basicConstraints({ ca: true, pathLength: 0 }), keyUsage("keyCertSign")] });
        return pem(short, middle, leaf);
      },
    ],
    [
      "an unknown critical extension",
      () => pem(root, middle, issue("leaf", leafKey, { issuer: middle, extensions: [{ oid: "1.2.3", critical: true, value: encodeNull() }] })),
    ],
    [
      "name constraints, which are not evaluated",
      () => {
        const constrained = issue("middle", middleKey, {
          issuer: root,
          extensions: [...CA, { oid: "2.5.29.30", critical: false, value: encodeSequence(encodeExplicit(0, encodeSequence(ia5(2, "elsewhere")))) }],
        });
        return pem(root, constrained, leaf);
      },
    ],
    ["a leaf that was signed by nobody", () => pem(root, middle, { certificate: { der: rawCertificate({}) } })],
    ["a private key", () => pem(root, middle, leaf) + (leafKey.export({ type: "pkcs8", format: "pem" }) as string)],
  ])("refuses %s", (_, make) => {
    expect(verified(make())).toBe(false);
  });

  it("no changed byte of the leaf passes", () => {
    const { der } = leaf.certificate;
    for (let at = 0; at < der.length; at += 3) {
      const changed = Uint8Array.from(der);
      changed[at]! ^= 0x01;
      expect(verified(pem(root, middle, { certificate: { der: changed } }))).toBe(false);
    }
  });

  it("asks the query's clock, and without one has no value", () => {
    expect(verified(pem(root, middle, leaf), undefined, { now: NOW + DAY + 1000 })).toBe(false);
    expect(call("crypto.x509.parse_and_verify_certificates", [pem(root, middle, leaf)], { now: null })).toBeUndefined();
  });

  it("counts its work", () => {
    const many = pem(root, ...Array.from({ length: 50 }, () => middle), leaf);
    expect(() => verified(many, undefined, { limits: { maxSteps: 100_000 } })).toThrowError(expect.objectContaining({ code: "ERR_REGO_LIMIT_STEPS" }));
  });
});

describe("crypto.x509.parse_and_verify_certificates_with_options", () => {
  const chain = pem(root, middle, leaf);

  it.each<readonly [string, Fields, boolean]>([
    ["none: a server's certificate", {}, true],
    ["another purpose", { KeyUsages: ["KeyUsageClientAuth"] }, false],
    ["one of two purposes", { KeyUsages: ["KeyUsageClientAuth", "KeyUsageServerAuth"] }, true],
    ["any purpose", { KeyUsages: ["KeyUsageAny"] }, true],
    ["its name", { DNSName: "leaf.example" }, true],
    ["its address in another form", { DNSName: "[2001:DB8:0::1]" }, true],
    ["an address that begins as its own", { DNSName: "2001:db8::10" }, false],
    ["its name in capitals, with a dot", { DNSName: "LEAF.example." }, true],
    ["another name", { DNSName: "other.example" }, false],
    ["its common name", { DNSName: "leaf" }, false],
    ["a name under the wildcard", { DNSName: "a.wild.example" }, true],
    ["two labels under the wildcard", { DNSName: "a.b.wild.example" }, false],
    ["no label under the wildcard", { DNSName: "wild.example" }, false],
    ["the wildcard itself", { DNSName: "*.wild.example" }, false],
    ["an empty label", { DNSName: ".wild.example" }, false],
    ["its address", { DNSName: "10.0.0.1" }, true],
    ["its address in brackets", { DNSName: "[2001:db8::1]" }, true],
    ["another address", { DNSName: "10.0.0.2" }, false],
    ["a time when it was valid", { CurrentTime: BigInt(NOW) * 1_000_000n }, true],
    ["a time when it was not", { CurrentTime: 0 }, false],
    ["a time before 1970", { CurrentTime: -1 }, false],
    ["a number of comparisons", { MaxConstraintComparisons: 5 }, true],
  ])("%s", (_, options, valid) => {
    // The query's clock is off where the options say the time.
    expect(verified(chain, options, "CurrentTime" in options ? { now: NOW + 10 * DAY } : {})).toEqual(valid ? ["leaf", "middle", "root"] : false);
  });

  it("a lone wildcard is for no name", () => {
    const wild = issue("wild", leafKey, { issuer: middle, extensions: [subjectAltName({ kind: "dns", value: "*" })] });
    expect(verified(pem(root, middle, wild), {})).toEqual(["wild", "middle", "root"]);
    expect(verified(pem(root, middle, wild), { DNSName: "localhost" })).toBe(false);
  });

  it("every certificate must allow the purpose", () => {
    const narrow = issue("middle", middleKey, { issuer: root, extensions: [...CA, extendedKeyUsage(OID.clientAuth)] });
    expect(verified(pem(root, narrow, leaf), {})).toBe(false);
    expect(verified(pem(root, narrow, leaf))).toEqual(["leaf", "middle", "root"]);
  });

  it.each<readonly [Fields, string]>([
    [{ dnsName: "a" }, "invalid key option"],
    [{ DNSName: 1 }, "'DNSName' should be a string"],
    [{ CurrentTime: "1" }, "'CurrentTime' should be a number"],
    [{ CurrentTime: 1.5 }, "'CurrentTime' should be a valid int64 number"],
    [{ CurrentTime: 2n ** 63n }, "'CurrentTime' should be a valid int64 number"],
    [{ MaxConstraintComparisons: "1" }, "'MaxConstraintComparisons' should be a number"],
    [{ KeyUsages: ["KeyUsageAny", "x", 1] }, `invalid entries for 'KeyUsages' found: ["x" 1]`],
  ])("%o is refused", (options, message) => {
    expect(messageOf("crypto.x509.parse_and_verify_certificates_with_options", [chain, options])).toContain(message);
  });
});

describe("crypto.x509.parse_certificate_request", () => {
  const extension = rawExtension(OID.subjectAltName, NAMES.value);
  function request(attributes: readonly Uint8Array[] = []): Uint8Array {
    const info = encodeSequence(
      encodeInteger(0),
      encodeName([{ type: OID.commonName, value: "asks" }]).der,
      encodePublicKeyInfo(leafKey),
      encodeExplicit(0, ...attributes),
    );
    return encodeSequence(info, encodeSignatureAlgorithm("ecdsa-sha256"), encodeBitString(sign("sha256", info, leafKey)));
  }
  const wanted = encodeSequence(encodeOid("1.2.840.113549.1.9.14"), encodeSetOf(encodeSequence(extension)));
  const challenge = encodeSequence(encodeOid("1.2.840.113549.1.9.7"), encodeSetOf(encodeNull()));

  it("takes PEM, base64 of PEM and base64 of DER", () => {
    const der = request([challenge, wanted]);
    const text = encodePem("CERTIFICATE REQUEST", der);
    for (const form of [text, base64(text), base64(der)]) {
      expect(call("crypto.x509.parse_certificate_request", [form])).toMatchObject({
        Raw: base64(der),
        Version: 0,
        SignatureAlgorithm: 10,
        PublicKeyAlgorithm: 3,
        Subject: { CommonName: "asks" },
        DNSNames: ["leaf.example", "*.wild.example"],
        IPAddresses: ["10.0.0.1", "2001:db8::1"],
        Extensions: [{ Id: [2, 5, 29, 17], Critical: false }],
        Attributes: null,
      });
    }
    expect(call("crypto.x509.parse_certificate_request", [base64(request())])).toMatchObject({ Extensions: null, DNSNames: null });
  });

  it.each<readonly [string, string, string]>([
    ["no base64", "foobar", "illegal base64"],
    ["no DER", "YmFkc3RyaW5n", "asn1: structure error"],
    ["a certificate", pem(leaf), "invalid PEM-encoded certificate signing request"],
    ["extensions asked for twice", base64(request([wanted, wanted])), "two requests for extensions"],
    ["a certificate in DER", base64(leaf.certificate.der), "asn1: structure error"],
  ])("%s", (_, text, message) => {
    expect(messageOf("crypto.x509.parse_certificate_request", [text])).toContain(message);
  });
});

describe("private keys", () => {
  const rsaPem = middleKey.export({ type: "pkcs1", format: "pem" }) as string;
  const pkcs8 = middleKey.export({ type: "pkcs8", format: "pem" }) as string;
  const ecPem = leafKey.export({ type: "sec1", format: "pem" }) as string;
  const ed25519 = generateKeyPairSync("ed25519").privateKey;

  it("crypto.x509.parse_rsa_private_key gives a JWK that is the key", () => {
    for (const form of [rsaPem, pkcs8, base64(rsaPem)]) {
      const jwk = call("crypto.x509.parse_rsa_private_key", [form]) as Fields;
      expect(createPrivateKey({ key: jwk as JsonWebKey, format: "jwk" }).equals(middleKey)).toBe(true);
      expect(Object.keys(jwk).toSorted()).toEqual(["d", "dp", "dq", "e", "kty", "n", "p", "q", "qi"]);
    }
    expect(messageOf("crypto.x509.parse_rsa_private_key", [ecPem])).toContain("failed to parse RSA private key");
    expect(messageOf("crypto.x509.parse_rsa_private_key", [pem(leaf)])).toContain('PEM block type is "CERTIFICATE"');
    expect(messageOf("crypto.x509.parse_rsa_private_key", ["invalid"])).toContain("illegal base64");
    expect(messageOf("crypto.x509.parse_rsa_private_key", [encodePem("RSA PRIVATE KEY", Uint8Array.of(0x30, 0))])).toContain("failed to parse");
  });

  it("crypto.parse_private_keys gives Go's structures", () => {
    const text = `${rsaPem}${pem(leaf)}${ecPem}${ed25519.export({ type: "pkcs8", format: "pem" }) as string}`;
    const keys = call("crypto.parse_private_keys", [text]) as readonly JsonValue[];
    expect(call("crypto.parse_private_keys", [base64(text)])).toEqual(keys);
    const { N, E, D, Primes, Precomputed } = keys[0] as {
      N: bigint;
      E: number;
      D: bigint;
      Primes: readonly [bigint, bigint];
      Precomputed: { Dp: bigint; CRTValues: JsonValue };
    };
    expect(Primes[0] * Primes[1]).toBe(N);
    expect(Precomputed.Dp).toBe(D % (Primes[0] - 1n));
    expect((D * BigInt(E)) % (Primes[0] - 1n)).toBe(1n);
    expect(Precomputed.CRTValues).toEqual([]);
    expect(keys[1]).toMatchObject({ Curve: {}, D: BigInt(`0x${Buffer.from(leafKey.export({ format: "jwk" }).d!, "base64url").toString("hex")}`) });
    const { d, x } = ed25519.export({ format: "jwk" });
    expect(keys[2]).toBe(Buffer.concat([Buffer.from(d!, "base64url"), Buffer.from(x!, "base64url")]).toString("base64"));
  });

  it.each<readonly [string, string, JsonValue]>([
    ["nothing", "", null],
    ["text", "nope", []],
    ["other blocks", pem(leaf), []],
    ["a broken key", encodePem("PRIVATE KEY", Uint8Array.of(0x30, 0)), null],
    ["an encrypted key", middleKey.export({ type: "pkcs8", format: "pem", cipher: "aes-256-cbc", passphrase: "x" }) as string, []],
    ["a key of another type", generateKeyPairSync("x25519").privateKey.export({ type: "pkcs8", format: "pem" }) as string, null],
    ["another curve", generateKeyPairSync("ec", { namedCurve: "secp256k1" }).privateKey.export({ type: "sec1", format: "pem" }) as string, null],
  ])("crypto.parse_private_keys of %s", (_, text, value) => {
    expect(call("crypto.parse_private_keys", [text])).toEqual(value);
  });

  it("crypto.x509.parse_keypair", () => {
    const pair = call("crypto.x509.parse_keypair", [pem(leaf, middle), ecPem], { strict: true }) as Fields;
    expect(pair["Certificate"]).toEqual([base64(leaf.certificate.der), base64(middle.certificate.der)]);
    expect(pair["PrivateKey"]).toEqual((call("crypto.parse_private_keys", [ecPem]) as readonly JsonValue[])[0]);
    expect(pair["Leaf"]).toMatchObject({ Subject: { CommonName: "leaf" } });
    expect(pair).toMatchObject({ OCSPStaple: null, SignedCertificateTimestamps: null, SupportedSignatureAlgorithms: null });
    expect(call("crypto.x509.parse_keypair", [base64(pem(leaf, middle)), base64(ecPem)])).toEqual(pair);
    expect(messageOf("crypto.x509.parse_keypair", [pem(leaf), rsaPem])).toContain("private key does not match public key");
    expect(messageOf("crypto.x509.parse_keypair", [ecPem, ecPem])).toContain("failed to find any PEM data in certificate input");
    expect(messageOf("crypto.x509.parse_keypair", [pem(leaf), pem(leaf)])).toContain("failed to find any PEM data in key input");
  });
});
