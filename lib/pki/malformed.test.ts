import { concatBytes, encodeUtf8, toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { caExtensions, NOW, testCertificate, testKey } from "./testdata/authority.ts";
import { measureGrowth } from "../../tools/testing/growth.ts";
import { type Seed, SeededNumbers, storm } from "../../tools/testing/hostile.ts";
import {
  certificateAnchor,
  type CertificateTemplate,
  DerReader,
  encodeCertificatesPem,
  encodeDer,
  encodeInteger,
  encodeOctetString,
  encodeOid,
  encodePem,
  encodePublicKeyInfo,
  encodeSequence,
  encodeSetOf,
  encodeTime,
  encodeUtf8String,
  type Extension,
  extendedKeyUsage,
  issueCertificate,
  issueCrl,
  keyUsage,
  MAX_CERTIFICATE_BYTES,
  MAX_PEM_LENGTH,
  OID,
  parseCertificate,
  parseCertificatesPem,
  parseCrl,
  parsePem,
  parsePublicKeyInfo,
  PkiError,
  type SignatureAlgorithm,
  subjectAltName,
  TAG,
  verifyChain,
} from "./index.ts";

/** Of the random numbers; a failure prints it, with the round and the bytes. */
const SEED = 20_261_122;
const KEYS = { rsa: testKey("rsa"), p256: testKey("p256"), p384: testKey("p384"), p521: testKey("p521") };
const ALGORITHMS: readonly (readonly [SignatureAlgorithm, keyof typeof KEYS])[] = [
  ["rsa-pss-sha256", "rsa"],
  ["rsa-pss-sha384", "rsa"],
  ["rsa-pss-sha512", "rsa"],
  ["rsa-sha256", "rsa"],
  ["rsa-sha384", "rsa"],
  ["rsa-sha512", "rsa"],
  ["ecdsa-sha256", "p256"],
  ["ecdsa-sha384", "p384"],
  ["ecdsa-sha512", "p521"],
];

/** Offsets of every tag and length, also of DER inside strings, as extensions have it. */
function heads(bytes: Uint8Array, from = 0, to: number = bytes.length, found: number[] = []): number[] {
  for (let at = from; at < to;) {
    const [tag = 0, first = 0] = [bytes[at], bytes[at + 1]];
    const octets = first < 0x80 ? 0 : first & 0x7f;
    let length = first < 0x80 ? first : 0;
    for (let i = 0; i < octets; i++) length = length * 256 + (bytes[at + 2 + i] ?? 0);
    const content = at + 2 + octets;
    if (content + length > to || octets > 3) return found;
    found.push(at, at + 1, content);
    if ((tag & 0x20) !== 0 || (tag === TAG.octetString && length > 1)) heads(bytes, content, content + length, found);
    at = content + length;
  }
  return found;
}

function seed(name: string, bytes: Uint8Array): Seed {
  return { name, bytes, marks: heads(bytes) };
}

function nest(inner: Uint8Array, levels: number): Uint8Array {
  let bytes = inner;
  for (let level = 0; level < levels; level++) bytes = encodeDer(level % 3 === 0 ? 0xa0 : TAG.sequence, bytes);
  return bytes;
}

const certificates = ALGORITHMS.map(([algorithm, key], index) =>
  testCertificate(`seed ${index}`, {
    key: KEYS[key],
    algorithm,
    serial: BigInt(index) << 100n,
    extensions:
      index % 2 === 0
        ? caExtensions(index % 4)
        : [
            keyUsage("digitalSignature"),
            extendedKeyUsage(OID.serverAuth, "1.2.3"),
            subjectAltName({ kind: "dns", value: "a.example" }, { kind: "ip", bytes: Uint8Array.of(127, 0, 0, 1) }),
            { oid: "1.3.6.1.4.1.3704.1.3.1", critical: false, value: encodeInteger(219) },
          ],
  }),
);
const lists = ALGORITHMS.map(([signatureAlgorithm, key], index) =>
  issueCrl({
    issuer: { name: certificates[index]?.certificate.subject ?? { der: encodeSequence() }, key: KEYS[key] },
    signatureAlgorithm,
    thisUpdate: NOW,
    nextUpdate: NOW + 1000,
    ...(index % 2 === 0 && { number: BigInt(index) }),
    revoked: Array.from({ length: index }, (_, at) => ({
      serial: BigInt(at) << BigInt(at * 18),
      revokedAt: NOW,
      ...(at % 2 === 0 && { reason: "superseded" as const }),
      ...(at % 3 === 0 && { invalidFrom: NOW }),
    })),
  }),
);

describe("mutated seeds: nothing but PkiError comes out", () => {
  it("of certificates; what reads is kept byte for byte", () => {
    const { accepted, refused } = storm({
      seeds: certificates.map(({ certificate }, index) => seed(String(index), certificate.der)),
      rounds: 4000,
      numbersFrom: SEED,
      nest,
      own: PkiError,
      parse: (bytes) => parseCertificate(bytes),
      check: (certificate, bytes) => expect(toHex(certificate.der)).toBe(toHex(bytes)),
    });
    // Not all are refused: a changed signature is no matter of structure. If all were, nothing behind the first check was tried.
    expect(accepted).toBeGreaterThan(40);
    expect(refused).toBeGreaterThan(2000);
  });

  it("of CRLs", () => {
    const { accepted, refused } = storm({
      seeds: lists.map(({ der }, index) => seed(String(index), der)),
      rounds: 4000,
      numbersFrom: SEED + 1,
      nest,
      own: PkiError,
      parse: (bytes) => parseCrl(bytes),
      check: (crl, bytes) => {
        expect(toHex(crl.der)).toBe(toHex(bytes));
        expect(crl.nextUpdate).toBeGreaterThanOrEqual(crl.thisUpdate);
      },
    });
    expect(accepted).toBeGreaterThan(40);
    expect(refused).toBeGreaterThan(2000);
  });

  it("of public keys; there is one encoding of a key", () => {
    storm({
      seeds: Object.entries(KEYS).map(([name, key]) => seed(name, encodePublicKeyInfo(key))),
      rounds: 2000,
      numbersFrom: SEED + 2,
      nest,
      own: PkiError,
      parse: (bytes) => parsePublicKeyInfo(bytes, "key"),
      check: ({ key, der }, bytes) => {
        expect(toHex(der)).toBe(toHex(bytes));
        expect(toHex(encodePublicKeyInfo(key))).toBe(toHex(bytes));
      },
    });
  });

  it("of PEM, as text of any characters", () => {
    const texts = [
      encodeCertificatesPem(certificates.slice(6).map(({ certificate }) => certificate)),
      encodeCertificatesPem(certificates.slice(8).map(({ certificate }) => certificate)).replaceAll("\n", "\r\n"),
      encodePem("CERTIFICATE", Uint8Array.of(1, 2, 3)).repeat(4),
      encodePem("X509 CRL", lists[6]?.der ?? new Uint8Array()),
    ];
    const { accepted } = storm({
      seeds: texts.map((text, index) => ({
        name: String(index),
        bytes: encodeUtf8(text),
        marks: [...text.matchAll(/-----|\r?\n|=/g)].map((match) => match.index),
      })),
      rounds: 8000,
      numbersFrom: SEED + 3,
      nest: (inner, levels) => encodeUtf8(`${"-----BEGIN CERTIFICATE-----\n".repeat(levels)}${Buffer.from(inner).toString("latin1")}`),
      own: PkiError,
      // Every byte is a character; no encoding repairs it first.
      parse: (bytes) => parsePem(Buffer.from(bytes).toString("latin1"), "CERTIFICATE", "pem"),
      check: (blocks) => expect(blocks.length).toBeGreaterThan(0),
    });
    expect(accepted).toBeGreaterThan(100);
    const numbers = new SeededNumbers(SEED + 4);
    const bundle = texts[0] ?? "";
    for (let round = 0; round < 1500; round++) {
      const at = numbers.below(bundle.length);
      const text = bundle.slice(0, at) + String.fromCharCode(numbers.below(0x300)) + bundle.slice(at + numbers.below(3));
      try {
        parseCertificatesPem(text);
      } catch (error) {
        if (!(error instanceof PkiError)) throw new Error(`seed ${SEED + 4}, round ${round}: ${JSON.stringify(text)}`, { cause: error });
      }
    }
  });

  it("of a certificate in a chain: whatever still reads does not verify, or is the same", () => {
    const root = testCertificate("root", { extensions: caExtensions() });
    const leaf = testCertificate("leaf", { issuer: root, extensions: [keyUsage("digitalSignature")] }).certificate;
    const anchors = [certificateAnchor(root.certificate)];
    const { accepted } = storm({
      seeds: [seed("leaf", leaf.der)],
      rounds: 2000,
      numbersFrom: SEED + 5,
      nest,
      own: PkiError,
      parse: (bytes) => verifyChain([parseCertificate(bytes), root.certificate], { anchors, validity: { kind: "now", clock: { now: () => NOW } } }),
      check: (chain) => expect(toHex(chain.leaf.tbs)).toBe(toHex(leaf.tbs)),
    });
    // Of thousands, one or two undo themselves at most.
    expect(accepted).toBeLessThan(50);
  });
});

const NAME = encodeSequence(encodeSetOf(encodeSequence(encodeOid(OID.commonName), encodeUtf8String("x"))));

/** Time may grow like size^BOUND: 1 and what measuring costs; the square would be 2. */
const BOUND = 1.4;
const CERTIFICATE_SIZES = [MAX_CERTIFICATE_BYTES / 16, MAX_CERTIFICATE_BYTES / 4, MAX_CERTIFICATE_BYTES - 1024];

function refusal(run: () => unknown): () => void {
  return () => {
    try {
      run();
    } catch (error) {
      if (error instanceof PkiError) return;
      throw error;
    }
  };
}

function issue(changes: Partial<CertificateTemplate>): Uint8Array {
  return issueCertificate({
    subject: [{ type: OID.commonName, value: "x" }],
    subjectKey: KEYS.p256,
    issuer: { key: KEYS.p256 },
    signatureAlgorithm: "ecdsa-sha256",
    serial: 1n,
    notBefore: NOW,
    notAfter: NOW + 1000,
    extensions: [],
    ...changes,
  }).der;
}

function raw(oid: string, value: Uint8Array): Extension {
  return { oid, critical: false, value };
}

describe("time grows no faster than linearly with size", () => {
  it.each<[string, (size: number) => Uint8Array]>([
    ["a name of 32 long attributes", (size) => issue({ subject: Array.from({ length: 32 }, () => ({ type: OID.commonName, value: "é".repeat(size / 150) })) })],
    ["63 long extensions", (size) => issue({ extensions: Array.from({ length: 63 }, (_, index) => raw(`1.2.${index}`, new Uint8Array(size / 70))) })],
    ["one very long extension", (size) => issue({ extensions: [raw("1.2.3", new Uint8Array(size))] })],
    [
      "alternative names, the limit reached",
      (size) => issue({ extensions: [subjectAltName(...Array.from({ length: 256 }, () => ({ kind: "dns" as const, value: "a".repeat(size / 270) })))] }),
    ],
  ])("of certificates with %s", (_name, make) => {
    const exponent = measureGrowth(CERTIFICATE_SIZES, BOUND, (size) => {
      const der = make(size);
      return () => void parseCertificate(der);
    });
    expect(exponent).toBeLessThan(BOUND);
  });

  it.each<[string, (size: number) => Uint8Array]>([
    ["a name of very many attributes", (size) => manyAttributes(size / 16)],
    ["very many extensions", (size) => manyExtensions(size / 16)],
    ["zeros", (size) => new Uint8Array(size)],
    ["sequences that each promise the rest", (size) => new Uint8Array(Buffer.from("3084007fff00".repeat(size / 6), "hex"))],
    ["a bomb of levels", (size) => nest(new Uint8Array(), size / 4)],
  ])("of %s where a certificate or CRL belongs, and of each of its readers", (_name, make) => {
    const exponent = measureGrowth([1 << 11, 1 << 13, 1 << 15], BOUND, (size) => {
      const bytes = make(size);
      const body = encodeSequence(encodeSequence(encodeInteger(1), bytes), bytes);
      return () => {
        for (let time = 0; time < 10; time++) {
          refusal(() => parseCertificate(bytes))();
          refusal(() => parseCertificate(body))();
          refusal(() => parseCrl(bytes))();
          refusal(() => parseCrl(body))();
        }
      };
    });
    expect(exponent).toBeLessThan(BOUND);
  });

  it.each<[string, (index: number) => bigint]>([
    ["serials in order", (index) => BigInt(index)],
    ["long serials that share their low 64 bits", (index) => (BigInt(index) << 64n) | 5n],
    ["serials that are multiples of 2^32", (index) => BigInt(index) << 32n],
  ])("of CRLs with %s, read and looked up", (_name, serial) => {
    const exponent = measureGrowth([250, 1000, 4000], BOUND, (size) => {
      const { der } = issueCrl({
        issuer: { name: { der: NAME }, key: KEYS.p256 },
        signatureAlgorithm: "ecdsa-sha256",
        thisUpdate: NOW,
        nextUpdate: NOW,
        revoked: Array.from({ length: size }, (_, index) => ({
          serial: serial(index),
          revokedAt: NOW,
          ...(index % 8 === 0 && { reason: "keyCompromise" as const }),
        })),
      });
      return () => {
        const { revoked } = parseCrl(der);
        for (let index = 0; index < size; index++) revoked.has(`0x${index.toString(16)}`);
      };
    });
    expect(exponent).toBeLessThan(BOUND);
  });

  it.each<[string, (size: number) => Uint8Array]>([
    [
      "one endless attribute in the issuer",
      (size) => crlParts(encodeSequence(encodeSetOf(encodeSequence(encodeOid(OID.commonName), encodeUtf8String("é".repeat(size / 2)))))),
    ],
    ["an endless time", (size) => crlParts(NAME, encodeDer(TAG.utcTime, new Uint8Array(size)))],
    ["an endless INTEGER", (size) => encodeSequence(encodeSequence(encodeDer(TAG.integer, new Uint8Array(size).fill(1))))],
    ["an endless OBJECT IDENTIFIER", (size) => encodeSequence(encodeSequence(), encodeSequence(encodeDer(TAG.oid, new Uint8Array(size).fill(0x81))))],
    ["an entry of endless extensions", (size) => crlEntries(encodeSequence(encodeInteger(1), encodeTime(NOW), manyExtensions(size / 16)))],
    [
      "an entry of one endless extension",
      (size) =>
        crlEntries(
          encodeSequence(encodeInteger(1), encodeTime(NOW), encodeSequence(encodeSequence(encodeOid("1.2.3"), encodeOctetString(new Uint8Array(size))))),
        ),
    ],
    ["entries that are empty", (size) => crlEntries(new Uint8Array(Buffer.from("3000".repeat(size / 2), "hex")))],
  ])("of a CRL with %s", (_name, make) => {
    const exponent = measureGrowth([1 << 14, 1 << 16, 1 << 18], BOUND, (size) => {
      const bytes = make(size);
      return refusal(() => parseCrl(bytes));
    });
    expect(exponent).toBeLessThan(BOUND);
  });

  it.each<[string, (size: number) => string]>([
    ["one block", (size) => encodePem("CERTIFICATE", new Uint8Array(size * 0.7))],
    ["many blocks", (size) => encodePem("CERTIFICATE", new Uint8Array(size / 24)).repeat(16)],
    ["more blocks than the limit", (size) => encodePem("CERTIFICATE", new Uint8Array(3)).repeat(size / 64)],
    ["a block without end", (size) => `-----BEGIN CERTIFICATE-----\n${"A".repeat(size - 64)}`],
    ["a block of line ends", (size) => `-----BEGIN CERTIFICATE-----\n${"\r\n".repeat(size / 2 - 64)}-----END CERTIFICAT-----`],
    ["begins without end", (size) => "-----BEGIN CERTIFICATE-----\n".repeat(size / 28)],
    ["ends that are none", (size) => `-----BEGIN CERTIFICATE-----\n${"AAAA-----END CERTIFICATE----".repeat(size / 28 - 2)}`],
    ["an endless label", (size) => `-----BEGIN ${"A ".repeat(size / 2 - 16)}-----`],
    ["white space", (size) => `${" \n".repeat(size / 2 - 1)}x`],
    ["blanks after the label", (size) => `-----BEGIN CERTIFICATE-----${" ".repeat(size - 64)}x`],
  ])("of PEM with %s", (_name, make) => {
    const exponent = measureGrowth([MAX_PEM_LENGTH / 16, MAX_PEM_LENGTH / 4, MAX_PEM_LENGTH], BOUND, (size) => {
      const text = make(size);
      return refusal(() => parsePem(text, "CERTIFICATE", "pem"));
    });
    expect(exponent).toBeLessThan(BOUND);
  });

  it("of every reader of values", () => {
    const readers: readonly [number, (reader: DerReader) => unknown][] = [
      [TAG.integer, (reader) => reader.integer()],
      [TAG.oid, (reader) => reader.oid()],
      [TAG.bitString, (reader) => reader.bitString()],
      [TAG.utf8String, (reader) => reader.string()],
      [TAG.printableString, (reader) => reader.string()],
      [TAG.ia5String, (reader) => reader.string()],
      [TAG.bmpString, (reader) => reader.string()],
      [TAG.utcTime, (reader) => reader.time()],
      [TAG.generalizedTime, (reader) => reader.generalizedTime()],
      [TAG.boolean, (reader) => reader.boolean()],
      [TAG.null, (reader) => reader.null()],
    ];
    for (const [tag, read] of readers) {
      const exponent = measureGrowth([1 << 12, 1 << 14, 1 << 16], BOUND, (size) => {
        const bytes = encodeDer(tag, new Uint8Array(size).fill(0x30));
        return refusal(() => read(new DerReader(bytes, "test")));
      });
      expect(exponent, `tag 0x${tag.toString(16)}`).toBeLessThan(BOUND);
    }
  });
});

function manyAttributes(count: number): Uint8Array {
  const attribute = encodeSetOf(encodeSequence(encodeOid(OID.commonName), encodeUtf8String("x")));
  return encodeSequence(concatBytes(...Array.from({ length: count }, () => attribute)));
}

function manyExtensions(count: number): Uint8Array {
  return encodeSequence(
    concatBytes(...Array.from({ length: count }, (_, index) => encodeSequence(encodeOid(`1.2.${index}`), encodeOctetString(new Uint8Array())))),
  );
}

function crlEntries(...entries: readonly Uint8Array[]): Uint8Array {
  return crlParts(NAME, encodeTime(NOW), encodeTime(NOW), encodeSequence(...entries));
}

/** A CRL's envelope around hand-made parts after version and algorithm. */
function crlParts(...parts: readonly Uint8Array[]): Uint8Array {
  const { der } = lists[6] ?? { der: new Uint8Array() };
  const list = new DerReader(der, "CRL").enter(TAG.sequence);
  list.any();
  const [algorithm, signature] = [list.any().encoded, list.any().encoded];
  return encodeSequence(encodeSequence(encodeInteger(1), algorithm, ...parts), algorithm, signature);
}
