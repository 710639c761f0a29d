import { existsSync, readFileSync } from "node:fs";
import { asArray, asObject, encodeUtf8, parseJson, toHex } from "@sealpod/core";
import { encodePublicKeyInfo, parseCertificate, parsePublicKeyInfo } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { measureGrowth } from "../../tools/testing/growth.ts";
import { type Seed, SeededNumbers, storm } from "../../tools/testing/hostile.ts";
import { ecKey, EKU, NOW, rsaKey, testSigner, type TestSigner } from "./testdata/signer.ts";
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
  MAX_CBOR_BYTES,
  MAX_DID_LENGTH,
  parseCbor,
  parseDidX509,
  parseSign1,
  type UvmTrust,
  verifySign1,
  verifyUvmEndorsement,
} from "./index.ts";

/** Of the random numbers; a failure prints it, with the round and the bytes. */
const SEED = 20_261_122;
const FEED = "ConfAKS-AMD-UVM";
const MEASUREMENT = new Uint8Array(48).fill(0xab);

/** Offset of every head of an item, also inside byte strings that hold CBOR themselves, as a protected header does. */
function heads(bytes: Uint8Array, from = 0, to: number = bytes.length, found: number[] = []): number[] {
  for (let at = from; at < to;) {
    found.push(at);
    const [major, info] = [(bytes[at] ?? 0) >> 5, (bytes[at] ?? 0) & 0x1f];
    const octets = info < 24 ? 0 : 1 << (info - 24);
    let value = info < 24 ? info : 0;
    for (let i = 1; i <= Math.min(octets, 8); i++) value = value * 256 + (bytes[at + i] ?? 0);
    at += 1 + octets;
    if (octets > 0) found.push(at - 1);
    if (major !== 2 && major !== 3) continue;
    if (major === 2 && value > 60) heads(bytes, at, Math.min(at + value, to), found);
    at += value;
  }
  return found.filter((at) => at < bytes.length);
}

function seed(name: string, bytes: Uint8Array): Seed {
  return { name, bytes, marks: heads(bytes) };
}

function nest(inner: Uint8Array, levels: number): Uint8Array {
  const level = Buffer.from(["81", "c1", "a100", "d28181"][levels % 4] ?? "81", "hex");
  return new Uint8Array(Buffer.concat([...Array.from({ length: levels }, () => level), inner]));
}

const KEYS = { ES256: ecKey("prime256v1"), ES384: ecKey("secp384r1"), ES512: ecKey("secp521r1"), PS384: rsaKey() };
const NAMES: readonly CoseAlgorithm[] = ["ES256", "ES384", "ES512", "PS384"];
const SIGNERS = new Map(NAMES.map((algorithm) => [algorithm, testSigner(KEYS[algorithm])]));

function signerFor(algorithm: CoseAlgorithm): TestSigner & { readonly issuer: string } {
  const signer = SIGNERS.get(algorithm) ?? testSigner(KEYS[algorithm]);
  return { ...signer, issuer: formatDidX509Eku(signer.chain[2], EKU) };
}

const TRUST: readonly UvmTrust[] = NAMES.map((algorithm) => ({ issuer: signerFor(algorithm).issuer, feed: FEED, minimumSvn: 2, claim: algorithm }));

function jsonForm(algorithm: CoseAlgorithm): Uint8Array {
  const { chain, key, issuer } = signerFor(algorithm);
  return encodeUvmEndorsement({ issuer, feed: FEED, svn: 2, launchMeasurement: MEASUREMENT, signingTime: NOW, chain, key, algorithm });
}

function envelopeForm(algorithm: CoseAlgorithm): Uint8Array {
  const { chain, key, issuer } = signerFor(algorithm);
  const protectedHeader = new Map<CborKey, CborValue>([
    [
      HEADER.cwtClaims,
      new Map<CborKey, CborValue>([
        [1, issuer],
        [2, FEED],
        ["svn", 3],
        [6, Math.floor(NOW / 1000) - 86_400 * 100],
      ]),
    ],
    [HEADER.x5chain, chain.map(({ der }) => der)],
    [HEADER.payloadHashAlgorithm, -43],
    [HEADER.preimageContentType, "application/octet-stream"],
  ]);
  return encodeSign1({ algorithm, key, protectedHeader, payload: MEASUREMENT });
}

const ENDORSEMENTS = NAMES.flatMap((algorithm) => [
  { name: `${algorithm}, JSON form`, bytes: jsonForm(algorithm) },
  { name: `${algorithm}, hash envelope`, bytes: envelopeForm(algorithm) },
]);

describe("mutated seeds: nothing but CoseError comes out", () => {
  const items: readonly CborValue[] = [
    [1, -1, 2 ** 40, -(2 ** 40), 1n << 63n, "text", "é–λ", new Uint8Array(70), true, false, null],
    new Map<CborKey, CborValue>([
      [1, -7],
      [-1, [1, [2, [3]]]],
      ["iss", "did"],
      ["__proto__", new Map([[1, new Map([["a", 1]])]])],
      [1n << 60n, new CborTag(1, 1_700_000_000)],
    ]),
    new CborTag(18, [encodeCbor(new Map([[1, -7]])), new Map(), encodeUtf8("payload"), new Uint8Array(64)]),
    Array.from({ length: 30 }, (_, index) => index * 11),
  ];

  it("of CBOR, and what reads is written back the same but for the order of keys", () => {
    const { accepted, refused } = storm({
      seeds: items.map((item, index) => seed(String(index), encodeCbor(item))),
      rounds: 8000,
      numbersFrom: SEED,
      nest,
      own: CoseError,
      parse: (bytes) => parseCbor(bytes, "test"),
      check: (value, bytes) => {
        // The order of keys alone may change.
        const written = encodeCbor(value);
        expect(written.length).toBe(bytes.length);
        expect(toHex(encodeCbor(parseCbor(written, "test")))).toBe(toHex(written));
      },
    });
    // Bytes of strings and numbers may be any: if nothing were accepted, nothing behind the first check would have been tried.
    expect(accepted).toBeGreaterThan(500);
    expect(refused).toBeGreaterThan(3000);
  });

  it("of COSE_Sign1, and nothing verifies but what was signed", () => {
    const payload = encodeUtf8("payload");
    const key = parsePublicKeyInfo(encodePublicKeyInfo(KEYS.ES256), "key");
    const unprotectedHeader = new Map<CborKey, CborValue>([["timestamp", new Uint8Array(40)]]);
    const original = encodeSign1({
      algorithm: "ES256",
      key: KEYS.ES256,
      protectedHeader: new Map([[HEADER.contentType, "text/plain"]]),
      unprotectedHeader,
      payload,
    });
    const { accepted } = storm({
      seeds: [seed("es256", original), seed("es384", encodeSign1({ algorithm: "ES384", key: KEYS.ES384, protectedHeader: new Map(), payload }))],
      rounds: 5000,
      numbersFrom: SEED + 1,
      nest,
      own: CoseError,
      parse: (bytes) => ({ message: parseSign1(bytes), verified: verifySign1(parseSign1(bytes), key) }),
      check: ({ message, verified }) => {
        expect(toHex(verified.payload)).toBe(toHex(payload));
        expect(toHex(message.protectedBytes)).toBe(toHex(parseSign1(original).protectedBytes));
      },
    });
    // Changes of the unprotected header alone: that they exist shows that the rest of the message was still good.
    expect(accepted).toBeGreaterThan(10);
  });

  it("of endorsements, and none says anything that was not signed", () => {
    const { accepted } = storm({
      seeds: ENDORSEMENTS.map(({ name, bytes }) => seed(name, bytes)),
      rounds: 5000,
      numbersFrom: SEED + 2,
      nest,
      own: CoseError,
      parse: (bytes) => verifyUvmEndorsement(bytes, TRUST),
      check: ({ launchMeasurement, svn }) => {
        expect(toHex(launchMeasurement)).toBe(toHex(MEASUREMENT));
        expect(svn === 2 || svn === 3).toBe(true);
      },
    });
    // There is nothing unprotected in these: what verifies is a change that undid itself, which is rare.
    expect(accepted).toBeLessThan(60);
  });

  it("of did:x509, which is read in one way", () => {
    const { issuer, chain } = signerFor("ES256");
    const fingerprint = issuer.split("::")[0] ?? "";
    const texts = [
      issuer,
      `${fingerprint}::subject:C:NO:O:Sealpod%3A%20tests::san:dns:a.example`,
      `${formatDidX509Eku(chain[1], "2.25.97552492151509741327169512377098502104")}::eku:1.2.3::san:uri:https%3A%2F%2Fa.example`,
      `${fingerprint.replace("sha256", "sha512")}${"A".repeat(43)}::eku:1.2`,
    ];
    const { accepted } = storm({
      seeds: texts.map((text) => ({ name: text, bytes: encodeUtf8(text), marks: [...text.matchAll(/[:%._-]/g)].map((match) => match.index) })),
      rounds: 8000,
      numbersFrom: SEED + 3,
      nest: (inner, levels) => encodeUtf8(`${"::eku:1.2".repeat(levels)}${Buffer.from(inner).toString("latin1")}`),
      own: CoseError,
      parse: (bytes) => parseDidX509(Buffer.from(bytes).toString("latin1")),
      check: (did, bytes) => {
        expect(did.text).toBe(Buffer.from(bytes).toString("latin1"));
        expect(did.policies.length).toBeGreaterThan(0);
      },
    });
    expect(accepted).toBeGreaterThan(100);
    const numbers = new SeededNumbers(SEED + 4);
    for (let round = 0; round < 2000; round++) {
      const text = numbers.pick(texts);
      const at = numbers.below(text.length);
      const changed = text.slice(0, at) + String.fromCharCode(numbers.below(0x1_0000)) + text.slice(at + numbers.below(4));
      try {
        parseDidX509(changed);
      } catch (error) {
        if (!(error instanceof CoseError)) throw new Error(`seed ${SEED + 4}, round ${round}: ${JSON.stringify(changed)}`, { cause: error });
      }
    }
  });
});

/** The message without what nobody signed: offsets of all bytes but those inside the unprotected header. */
function signedOffsets(bytes: Uint8Array): readonly number[] {
  const { unprotectedHeader, protectedBytes } = parseSign1(bytes);
  const unprotected = encodeCbor(unprotectedHeader);
  const start = Buffer.from(bytes).indexOf(protectedBytes) + protectedBytes.length;
  if (toHex(bytes.subarray(start, start + unprotected.length)) !== toHex(unprotected)) throw new Error("the headers do not follow one another");
  return Array.from(bytes.keys()).filter((at) => at < start || at >= start + unprotected.length);
}

function flip(bytes: Uint8Array, at: number, bit: number): Uint8Array {
  const changed = Uint8Array.from(bytes);
  changed[at] = (changed[at] ?? 0) ^ (1 << bit);
  return changed;
}

/** Refusals for another reason than that something was changed would prove nothing: the caller's demands are met by the original. */
function refuses(verify: () => unknown, at: number): void {
  try {
    verify();
  } catch (error) {
    if (error instanceof CoseError) return;
    throw new Error(`byte ${at}: ${String(error)}`, { cause: error });
  }
  throw new Error(`byte ${at} was changed, and the endorsement still verifies`);
}

function asItems(value: CborValue | undefined): readonly Uint8Array[] {
  return Array.isArray(value) ? (value as readonly Uint8Array[]) : [];
}

describe("a byte that is signed, changed", () => {
  /** A check costs up to two milliseconds, so each of the eight takes every sixteenth byte, each from another place: all of them would take half a minute. */
  const STEP = 16;

  it.each(ENDORSEMENTS.map((endorsement, index) => ({ ...endorsement, index })))("is refused: $name", ({ index, bytes }) => {
    verifyUvmEndorsement(bytes, TRUST);
    const offsets = signedOffsets(bytes);
    // No unprotected header here but the one byte of an empty map.
    expect(offsets).toHaveLength(bytes.length - 1);
    // The quotient moves the bit on, so that all eight are met throughout.
    for (const at of offsets) if (at % STEP === index * 2) refuses(() => verifyUvmEndorsement(flip(bytes, at, Math.floor(at / STEP) % 8), TRUST), at);
    // Heads of the frame: tag, array, lengths.
    for (const at of offsets.slice(0, 8)) for (let bit = 0; bit < 8; bit++) refuses(() => verifyUvmEndorsement(flip(bytes, at, bit), TRUST), at);
  });
});

const VECTORS = "../shared/vectors/attestation";
const present = existsSync(`${VECTORS}/manifest.json`);
const manifest = present ? asObject(parseJson(readFileSync(`${VECTORS}/manifest.json`, "utf8"))) : undefined;
const genuine = (asArray(manifest?.["uvm_endorsements"]) ?? []).map((item, index) => {
  const entry = asObject(item);
  const text = (name: string): string => {
    const value = entry?.[name];
    return typeof value === "string" ? value : "";
  };
  return { index, file: text("file"), trust: { issuer: text("issuer"), feed: text("feed"), minimumSvn: 0, claim: "c" } };
});

describe.skipIf(!present)("any signed byte of a genuine endorsement, changed (skipped without ../shared/vectors/attestation)", () => {
  /**
   * Each of the four files has some 5700 signed bytes, and a check costs a millisecond. The protected headers are of equal length and form, the same fields
   * at the same places, and so are the signatures: the files share the work. File i takes the offsets of the header, and the distances of the signature
   * from the end, that leave i when divided by four. Together the files meet every residue, so every place is changed in one of them. Payloads differ in
   * length; they are changed at every byte in every file. What most of the time would go into is the chain, which is the same each time: it was verified with the
   * original, so the signature of the message is verified under its leaf, and every eighth of the changes is given to the whole.
   */
  const SHARES = 4;
  const WHOLE = 8;

  it("the files share the places of the protected header among them", () => {
    expect(genuine.length).toBeGreaterThanOrEqual(SHARES);
    const messages = genuine.map(({ file }) => parseSign1(new Uint8Array(readFileSync(`${VECTORS}/${file}`))));
    expect(new Set(messages.map(({ protectedBytes, signature }) => `${protectedBytes.length} ${signature.length}`)).size).toBe(1);
  });

  it.each(genuine)("is refused: $file", ({ index, file, trust }) => {
    const bytes = new Uint8Array(readFileSync(`${VECTORS}/${file}`));
    const original = verifyUvmEndorsement(bytes, [trust]);
    const { protectedBytes, protectedHeader, payload, signature } = parseSign1(bytes);
    const [first] = asItems(protectedHeader.get(HEADER.x5chain));
    const leaf = parseCertificate(first ?? new Uint8Array()).publicKey;
    // Good under the leaf, so that what is refused below is refused for the change.
    expect(verifySign1(parseSign1(bytes), leaf, [...protectedHeader.keys()]).payload).toEqual(payload);
    const headerEnd = Buffer.from(bytes).indexOf(protectedBytes) + protectedBytes.length;
    const offsets = signedOffsets(bytes);
    expect(offsets.length).toBeGreaterThan(protectedBytes.length + payload.length + signature.length);
    let changes = 0;
    for (const at of offsets) {
      const signatureStart = bytes.length - signature.length;
      if ((at < headerEnd || at >= signatureStart) && (at < headerEnd ? at : bytes.length - at) % SHARES !== index % SHARES) continue;
      changes++;
      // The quotient moves the bit on: within each residue all eight are met.
      const changed = flip(bytes, at, Math.floor(at / SHARES) % 8);
      if (changes % WHOLE === 0) refuses(() => verifyUvmEndorsement(changed, [trust]), at);
      else refuses(() => verifySign1(parseSign1(changed), leaf, [...protectedHeader.keys()]), at);
    }
    expect(changes).toBeGreaterThanOrEqual(Math.floor(protectedBytes.length / SHARES) + payload.length + signature.length / SHARES);
    // What is not signed decides nothing: a change there is refused for its form, or makes no difference.
    const unsigned = new Set(offsets);
    for (let at = headerEnd; at < bytes.length; at += 97) {
      if (unsigned.has(at)) continue;
      try {
        expect(verifyUvmEndorsement(flip(bytes, at, at % 8), [trust])).toEqual(original);
      } catch (error) {
        expect(error).toBeInstanceOf(CoseError);
      }
    }
  });
});

/** Time may grow like size^BOUND: 1 and what measuring costs; the square would be 2. */
const BOUND = 1.4;
const SIZES = [MAX_CBOR_BYTES / 32, MAX_CBOR_BYTES / 8, MAX_CBOR_BYTES / 2];

function refusal(run: () => unknown): () => void {
  return () => {
    try {
      run();
    } catch (error) {
      if (error instanceof CoseError) return;
      throw error;
    }
  };
}

/** Head of an item with a length of four bytes, minimal for what is above 65535 and refused below. */
function head(major: number, length: number): Uint8Array {
  const bytes =
    length < 24
      ? [length]
      : length < 0x100
        ? [24, length]
        : length < 0x1_0000
          ? [25, length >> 8, length & 0xff]
          : [26, length >>> 24, (length >> 16) & 0xff, (length >> 8) & 0xff, length & 0xff];
  return Uint8Array.from(bytes, (byte, index) => (index === 0 ? (major << 5) | byte : byte));
}

function item(major: number, length: number, content: Uint8Array): Uint8Array {
  return new Uint8Array(Buffer.concat([head(major, length), content]));
}

describe("time grows no faster than linearly with size", () => {
  const many = (count: number, make: (index: number) => Uint8Array): Uint8Array =>
    new Uint8Array(Buffer.concat(Array.from({ length: count }, (_, index) => make(index))));

  it.each<[string, (size: number) => Uint8Array]>([
    ["a list of numbers", (size) => item(4, size - 5, new Uint8Array(size - 5))],
    ["a list of empty lists", (size) => item(4, size - 5, new Uint8Array(size - 5).fill(0x80))],
    [
      "a list of maps",
      (size) =>
        item(
          4,
          Math.floor(size / 3),
          many(Math.floor(size / 3), () => Uint8Array.of(0xa1, 0, 0)),
        ),
    ],
    [
      "a list of tags",
      (size) =>
        item(
          4,
          Math.floor(size / 2),
          many(Math.floor(size / 2), () => Uint8Array.of(0xc1, 0)),
        ),
    ],
    [
      "a map of numbers",
      (size) =>
        item(
          5,
          Math.floor(size / 6),
          many(Math.floor(size / 6), (index) => item(0, 65_536 + index, Uint8Array.of(0))),
        ),
    ],
    [
      "a map of long keys that differ at the end",
      (size) =>
        item(
          5,
          Math.floor(size / 204),
          many(Math.floor(size / 204), (index) => item(3, 200, encodeUtf8(`${String(index).padStart(200, "a")}\0`))),
        ),
    ],
    [
      "a map whose keys are lists",
      (size) =>
        item(
          5,
          Math.floor(size / 6),
          many(Math.floor(size / 6), (index) => item(4, 1, item(0, 65_536 + index, Uint8Array.of(0)))),
        ),
    ],
    ["one text", (size) => item(3, size - 5, new Uint8Array(size - 5).fill(0x61))],
    ["one byte string", (size) => item(2, size - 5, new Uint8Array(size - 5))],
    [
      "lists in lists, as deep as may be, and then numbers",
      (size) => new Uint8Array(Buffer.concat([Buffer.alloc(15, 0x81), item(4, size - 20, new Uint8Array(size - 20))])),
    ],
    ["a bomb of lists", (size) => new Uint8Array(size).fill(0x81)],
    ["a bomb of tags", (size) => new Uint8Array(size).fill(0xc1)],
    ["a bomb of maps", (size) => new Uint8Array(size).fill(0xa1)],
    ["lists that promise more than there is", (size) => new Uint8Array(size).fill(0x9a)],
  ])("of CBOR with %s", (_name, make) => {
    const exponent = measureGrowth(SIZES, BOUND, (size) => {
      const bytes = make(size);
      return refusal(() => parseCbor(bytes, "test"));
    });
    expect(exponent).toBeLessThan(BOUND);
  });

  it.each<[string, (size: number) => Uint8Array]>([
    ["a large payload", (size) => encodeCbor(new CborTag(18, [encodeCbor(new Map([[1, -7]])), new Map(), new Uint8Array(size - 200), new Uint8Array(64)]))],
    ["a large signature", (size) => encodeCbor(new CborTag(18, [encodeCbor(new Map([[1, -7]])), new Map(), new Uint8Array(8), new Uint8Array(size - 200)]))],
    [
      "a large protected header",
      (size) =>
        encodeCbor(
          new CborTag(18, [
            encodeCbor(
              new Map<CborKey, CborValue>([
                [1, -7],
                ["x", Array.from({ length: size - 200 }, () => 0)],
              ]),
            ),
            new Map(),
            new Uint8Array(8),
            new Uint8Array(64),
          ]),
        ),
    ],
    [
      "many labels in both headers",
      (size) => encodeCbor(new CborTag(18, [encodeCbor(labels(size, 0)), labels(size, 100_000), new Uint8Array(8), new Uint8Array(64)])),
    ],
    [
      "crit that names many labels",
      (size) =>
        encodeCbor(
          new CborTag(18, [
            encodeCbor(
              new Map<CborKey, CborValue>([
                [1, -7],
                [2, Array.from({ length: size - 200 }, () => 1)],
              ]),
            ),
            new Map(),
            new Uint8Array(8),
            new Uint8Array(64),
          ]),
        ),
    ],
  ])("of COSE_Sign1 with %s", (_name, make) => {
    const key = parsePublicKeyInfo(encodePublicKeyInfo(KEYS.ES256), "key");
    const exponent = measureGrowth(SIZES, BOUND, (size) => {
      const bytes = make(size);
      return refusal(() => verifySign1(parseSign1(bytes), key));
    });
    expect(exponent).toBeLessThan(BOUND);
  });

  it.each<[string, (size: number) => string]>([
    ["colons", (size) => ":".repeat(size)],
    ["policies", (size) => `did:x509:0:sha256:${"A".repeat(43)}${"::eku:1.2".repeat(size / 9)}`],
    ["a policy of arcs", (size) => `did:x509:0:sha256:${"A".repeat(43)}::eku:1${".2".repeat(size / 2)}x`],
    ["percent signs", (size) => `did:x509:0:sha256:${"A".repeat(43)}::subject:CN:${"%41".repeat(size / 3)}%`],
    ["a fingerprint", (size) => `did:x509:0:sha256:${"A".repeat(size)}`],
    [
      "one attribute and many",
      (size) => `did:x509:0:sha256:${"A".repeat(43)}::subject${Array.from({ length: size / 10 }, (_, index) => `:1.2.${index}:a`).join("")}`,
    ],
  ])("of did:x509 made of %s", (_name, make) => {
    const exponent = measureGrowth([MAX_DID_LENGTH / 16, MAX_DID_LENGTH / 4, MAX_DID_LENGTH - 80], BOUND, (size) => {
      const text = make(size);
      return () => {
        for (let time = 0; time < 50; time++) refusal(() => parseDidX509(text))();
      };
    });
    expect(exponent).toBeLessThan(BOUND);
  });

  it("of endorsements with large payloads", () => {
    const { chain, key, issuer } = signerFor("ES256");
    const exponent = measureGrowth(SIZES, BOUND, (size) => {
      const protectedHeader = new Map<CborKey, CborValue>([
        [HEADER.contentType, "application/json"],
        [HEADER.x5chain, chain.map(({ der }) => der)],
        ["iss", issuer],
        ["feed", FEED],
      ]);
      const payload = encodeUtf8(
        `{${Array.from({ length: Math.floor((size - 2000) / 12) }, (_, index) => `"${String(index).padStart(6, "0")}":[]`).join(",")}}`,
      );
      const bytes = encodeSign1({ algorithm: "ES256", key, protectedHeader, payload });
      return refusal(() => verifyUvmEndorsement(bytes, TRUST));
    });
    expect(exponent).toBeLessThan(BOUND);
  });
});

function labels(size: number, from: number): ReadonlyMap<CborKey, CborValue> {
  return new Map<CborKey, CborValue>([
    ...(from === 0 ? [[1, -7] as const] : []),
    ...Array.from({ length: Math.floor(size / 16) }, (_, index) => [100 + from + index, 0] as const),
  ]);
}
