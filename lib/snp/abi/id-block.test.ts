import { createHash, generateKeyPairSync, type KeyObject, sign, verify } from "node:crypto";
import fc from "fast-check";
import { toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import {
  createIdAuth,
  encodeIdAuth,
  encodeIdBlock,
  encodeIdKey,
  ID_AUTH_SIZE,
  ID_BLOCK_SIZE,
  ID_KEY_SIZE,
  type IdBlock,
  idKeyDigest,
  parseIdAuth,
  parseIdBlock,
  parseIdKey,
  SnpError,
  verifyIdAuth,
} from "../index.ts";

const p384 = (): KeyObject => generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey;
const ID_KEY = p384();
const AUTHOR_KEY = p384();
const BLOCK: IdBlock = {
  measurement: Uint8Array.from({ length: 48 }, (_, index) => index),
  familyId: new Uint8Array(16).fill(0x11),
  imageId: new Uint8Array(16).fill(0x22),
  guestSvn: 7,
  policy: 0x3001fn,
};

const id16 = fc.uint8Array({ minLength: 16, maxLength: 16 });
const blocks = fc.record({
  measurement: fc.uint8Array({ minLength: 48, maxLength: 48 }),
  familyId: id16,
  imageId: id16,
  guestSvn: fc.nat({ max: 0xffff_ffff }),
  policy: fc.bigInt({ min: 0n, max: (1n << 26n) - 1n }).map((bits) => bits | 0x20000n),
});

/** Little-endian number of 72 bytes, big endian and cut to the 48 bytes of P-384. */
function number(bytes: Uint8Array): Buffer {
  expect(bytes.subarray(48).every((byte) => byte === 0)).toBe(true);
  return Buffer.from(bytes.subarray(0, 48)).reverse();
}

/** Verifies as AMD 56860 describes it, without our reader. */
function signatureVerifies(auth: Uint8Array, at: number, message: Uint8Array, key: KeyObject): boolean {
  const signature = Buffer.concat([number(auth.subarray(at, at + 72)), number(auth.subarray(at + 72, at + 144))]);
  return verify("sha384", message, { key, dsaEncoding: "ieee-p1363" }, signature);
}

function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof SnpError) return error.code;
    throw error;
  }
  return "none";
}

describe("ID block (AMD 56860)", () => {
  it("has its fields where the table says", () => {
    const bytes = Buffer.from(encodeIdBlock(BLOCK));
    expect(bytes).toHaveLength(ID_BLOCK_SIZE);
    expect(toHex(bytes)).toBe(`${toHex(BLOCK.measurement)}${"11".repeat(16)}${"22".repeat(16)}01000000070000001f00030000000000`);
  });

  it("comes back as it went in", () => {
    fc.assert(
      fc.property(blocks, (block) => {
        expect(parseIdBlock(encodeIdBlock(block))).toEqual(block);
      }),
    );
  });

  it.each<[string, (bytes: Buffer) => Buffer]>([
    ["95 bytes", (bytes) => bytes.subarray(1)],
    ["97 bytes", (bytes) => Buffer.concat([bytes, Buffer.of(0)])],
    ["version 2", (bytes) => (bytes.writeUInt32LE(2, 0x50), bytes)],
    ["version 0", (bytes) => (bytes.writeUInt32LE(0, 0x50), bytes)],
    ["bit 17 of POLICY clear", (bytes) => (bytes.writeUInt32LE(0x1001f, 0x58), bytes)],
    ["bit 26 of POLICY set", (bytes) => (bytes.writeUInt32LE(0x403001f, 0x58), bytes)],
    ["bit 63 of POLICY set", (bytes) => (bytes.writeUInt8(0x80, 0x5f), bytes)],
  ])("with %s is refused", (_name, change) => {
    expect(code(() => parseIdBlock(change(Buffer.from(encodeIdBlock(BLOCK)))))).toBe("ERR_SNP_ID_BLOCK");
  });

  it.each<[string, Partial<IdBlock>]>([
    ["a short measurement", { measurement: new Uint8Array(32) }],
    ["a long family id", { familyId: new Uint8Array(17) }],
    ["a short image id", { imageId: new Uint8Array(15) }],
    ["a negative SVN", { guestSvn: -1 }],
    ["an SVN above 2^32", { guestSvn: 2 ** 32 }],
    ["half an SVN", { guestSvn: 0.5 }],
    ["a negative POLICY", { policy: -1n }],
    ["a POLICY with reserved bits", { policy: 0x3001fn | (1n << 26n) }],
  ])("is not written with %s", (_name, changes) => {
    expect(code(() => encodeIdBlock({ ...BLOCK, ...changes }))).toBe("ERR_SNP_ID_BLOCK");
  });
});

describe("ID key", () => {
  it("has curve 2 and its numbers little endian", () => {
    const { x = "", y = "" } = ID_KEY.export({ format: "jwk" });
    const bytes = Buffer.from(encodeIdKey(ID_KEY));
    expect(bytes).toHaveLength(ID_KEY_SIZE);
    expect(bytes.readUInt32LE(0)).toBe(2);
    expect(number(bytes.subarray(4, 76)).toString("base64url")).toBe(x);
    expect(number(bytes.subarray(76, 148)).toString("base64url")).toBe(y);
    expect(bytes.subarray(148).every((byte) => byte === 0)).toBe(true);
    expect(parseIdKey(bytes).equals(generatePublic(ID_KEY))).toBe(true);
  });

  it("has the digest of its structure, private as public", () => {
    const digest = createHash("sha384").update(encodeIdKey(ID_KEY)).digest("hex");
    for (const key of [ID_KEY, generatePublic(ID_KEY), encodeIdKey(ID_KEY)]) expect(toHex(idKeyDigest(key))).toBe(digest);
  });

  it("is of P-384", () => {
    const others = [
      generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey,
      generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey,
      generateKeyPairSync("ed25519").privateKey,
    ];
    for (const key of others)
      expect(() => encodeIdKey(key)).toThrow(expect.objectContaining({ code: "ERR_SNP_ID_BLOCK", hint: expect.stringContaining("secp384r1") as unknown }));
  });

  it.each<[string, number, number]>([
    ["another curve", 0, 1],
    ["another X", 4, 1],
    ["another Y", 76, 1],
    ["bytes after X", 52, 1],
    ["bytes after Y", 147, 1],
    ["reserved bytes", 148, 1],
    ["a last byte", ID_KEY_SIZE - 1, 1],
  ])("with %s is refused", (_name, at, change) => {
    const bytes = encodeIdKey(ID_KEY);
    bytes[at] = (bytes[at] ?? 0) ^ change;
    expect(code(() => parseIdKey(bytes))).toBe("ERR_SNP_ID_BLOCK");
  });

  it("at the origin is refused", () => {
    const bytes = new Uint8Array(ID_KEY_SIZE);
    bytes[0] = 2;
    expect(code(() => parseIdKey(bytes))).toBe("ERR_SNP_ID_BLOCK");
  });
});

function generatePublic(key: KeyObject): KeyObject {
  return parseIdKey(encodeIdKey(key));
}

describe("ID auth (AMD 56860)", () => {
  it("has signatures that verify without us, where the table says", () => {
    const bytes = encodeIdAuth(createIdAuth(BLOCK, ID_KEY, AUTHOR_KEY));
    expect(bytes).toHaveLength(ID_AUTH_SIZE);
    expect([Buffer.from(bytes).readUInt32LE(0), Buffer.from(bytes).readUInt32LE(4)]).toEqual([1, 1]);
    expect(bytes.subarray(0x240, 0x240 + 0x404)).toEqual(encodeIdKey(ID_KEY));
    expect(bytes.subarray(0x880, 0x880 + 0x404)).toEqual(encodeIdKey(AUTHOR_KEY));
    expect(signatureVerifies(bytes, 0x40, encodeIdBlock(BLOCK), generatePublic(ID_KEY))).toBe(true);
    expect(signatureVerifies(bytes, 0x680, encodeIdKey(ID_KEY), generatePublic(AUTHOR_KEY))).toBe(true);
    const used = [
      [0, 8],
      [0x40, 0x40 + 144],
      [0x240, 0x240 + 148],
      [0x680, 0x680 + 144],
      [0x880, 0x880 + 148],
    ] as const;
    expect(bytes.every((byte, at) => byte === 0 || used.some(([from, to]) => at >= from && at < to))).toBe(true);
  });

  it("without author key has zeros in its place", () => {
    const bytes = encodeIdAuth(createIdAuth(BLOCK, ID_KEY));
    expect(bytes.subarray(4, 8)).toEqual(new Uint8Array(4));
    expect(bytes.subarray(0x680)).toEqual(new Uint8Array(ID_AUTH_SIZE - 0x680));
    expect(parseIdAuth(bytes).authorKey).toBeUndefined();
  });

  it("comes back as it went in, and verifies", () => {
    fc.assert(
      fc.property(blocks, fc.boolean(), (block, withAuthor) => {
        const auth = createIdAuth(block, ID_KEY, withAuthor ? AUTHOR_KEY : undefined);
        const again = parseIdAuth(encodeIdAuth(auth));
        expect(again).toEqual(auth);
        const verified = verifyIdAuth(parseIdBlock(encodeIdBlock(block)), again);
        expect(verified).toEqual({ block, idKeyDigest: idKeyDigest(ID_KEY), authorKeyDigest: withAuthor ? idKeyDigest(AUTHOR_KEY) : undefined });
      }),
      { numRuns: 30 },
    );
  });

  it("is refused if any byte of it, or of the block, is another", () => {
    const auth = encodeIdAuth(createIdAuth(BLOCK, ID_KEY, AUTHOR_KEY));
    const block = encodeIdBlock(BLOCK);
    for (let at = 0; at < ID_AUTH_SIZE; at++) {
      // Of the zeros, each 64th: reading keys takes a millisecond.
      if (auth[at] === 0 && at % 64 !== 63) continue;
      const changed = Uint8Array.from(auth);
      changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8));
      expect(
        code(() => verifyIdAuth(BLOCK, parseIdAuth(changed))),
        `byte ${at}`,
      ).toMatch(/^ERR_SNP_ID_(BLOCK|AUTH)$/);
    }
    // Every bit of the fields that are no more than numbers; of the three that are strings of bytes, one bit of each byte, and all eight in turn.
    for (let bit = 0; bit < 8 * ID_BLOCK_SIZE; bit++) {
      if (bit >> 3 < 0x50 && (bit & 7) !== (bit >> 3) % 8) continue;
      const changed = Uint8Array.from(block);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(
        code(() => verifyIdAuth(parseIdBlock(changed), parseIdAuth(auth))),
        `bit ${bit}`,
      ).toMatch(/^ERR_SNP_ID_(BLOCK|AUTH)$/);
    }
  });

  it("is not for another block, key or author", () => {
    const auth = createIdAuth(BLOCK, ID_KEY, AUTHOR_KEY);
    const other = createIdAuth(BLOCK, AUTHOR_KEY, ID_KEY);
    expect(code(() => verifyIdAuth({ ...BLOCK, guestSvn: 8 }, auth))).toBe("ERR_SNP_ID_AUTH");
    expect(code(() => verifyIdAuth(BLOCK, { ...auth, authorKey: other.authorKey }))).toBe("ERR_SNP_ID_AUTH");
    expect(code(() => verifyIdAuth(BLOCK, { idKey: { ...auth.idKey, publicKey: encodeIdKey(AUTHOR_KEY) }, authorKey: undefined }))).toBe("ERR_SNP_ID_AUTH");
  });

  it("takes no number above 2^384 for the one that it becomes when cut", () => {
    const auth = createIdAuth(BLOCK, ID_KEY);
    const { r, s } = auth.idKey.signature;
    for (const signature of [
      { r: r + (1n << 384n), s },
      { r, s: s + (1n << 400n) },
      { r: 0n, s },
      { r, s: 0n },
    ]) {
      expect(code(() => verifyIdAuth(BLOCK, { ...auth, idKey: { ...auth.idKey, signature } }))).toBe("ERR_SNP_ID_AUTH");
    }
    expect(code(() => encodeIdAuth({ ...auth, idKey: { ...auth.idKey, signature: { r: 1n << 576n, s } } }))).toBe("ERR_SNP_ID_BLOCK");
  });

  it("is compared with what is expected", () => {
    const auth = createIdAuth(BLOCK, ID_KEY);
    const wrong = new Uint8Array(48);
    expect(verifyIdAuth(BLOCK, auth, { idKeyDigest: idKeyDigest(ID_KEY), measurement: BLOCK.measurement }).authorKeyDigest).toBeUndefined();
    expect(() => verifyIdAuth(BLOCK, auth, { idKeyDigest: wrong })).toThrow(/digest of the ID key is [0-9a-f]{96}, expected 0{96}/);
    expect(() => verifyIdAuth(BLOCK, auth, { authorKeyDigest: wrong })).toThrow("digest of the author key is absent");
    expect(() => verifyIdAuth(BLOCK, auth, { measurement: wrong })).toThrow("measurement of the ID block");
    const signed = createIdAuth(BLOCK, ID_KEY, AUTHOR_KEY);
    expect(verifyIdAuth(BLOCK, signed, { authorKeyDigest: idKeyDigest(AUTHOR_KEY) }).authorKeyDigest).toEqual(idKeyDigest(AUTHOR_KEY));
    expect(code(() => verifyIdAuth(BLOCK, signed, { authorKeyDigest: idKeyDigest(ID_KEY) }))).toBe("ERR_SNP_ID_AUTH");
  });

  it("is signed by private keys of P-384 only", () => {
    expect(code(() => createIdAuth(BLOCK, generatePublic(ID_KEY)))).toBe("ERR_SNP_ID_BLOCK");
    expect(code(() => createIdAuth(BLOCK, ID_KEY, generateKeyPairSync("ed25519").privateKey))).toBe("ERR_SNP_ID_BLOCK");
    // A signature that another program made verifies too.
    const raw = sign("sha384", encodeIdBlock(BLOCK), { key: ID_KEY, dsaEncoding: "ieee-p1363" });
    const signature = { r: BigInt(`0x${raw.toString("hex", 0, 48)}`), s: BigInt(`0x${raw.toString("hex", 48)}`) };
    expect(verifyIdAuth(BLOCK, { idKey: { publicKey: encodeIdKey(ID_KEY), signature }, authorKey: undefined }).block).toEqual(BLOCK);
  });

  it.each<[string, (view: DataView) => void]>([
    ["ID_KEY_ALGO 0", (view) => view.setUint32(0, 0, true)],
    ["ID_KEY_ALGO 2", (view) => view.setUint32(0, 2, true)],
    ["AUTH_KEY_ALGO 2", (view) => view.setUint32(4, 2, true)],
    ["an author key without AUTH_KEY_ALGO", (view) => view.setUint32(4, 0, true)],
    ["reserved bytes after the algorithms", (view) => view.setUint8(0x3f, 1)],
    ["reserved bytes after the signature", (view) => view.setUint8(0x23f, 1)],
    ["reserved bytes after the ID key", (view) => view.setUint8(0x67f, 1)],
    ["a last byte", (view) => view.setUint8(0xfff, 1)],
  ])("with %s is refused", (_name, change) => {
    const bytes = encodeIdAuth(createIdAuth(BLOCK, ID_KEY, AUTHOR_KEY));
    change(new DataView(bytes.buffer));
    expect(code(() => parseIdAuth(bytes))).toBe("ERR_SNP_ID_BLOCK");
  });
});
