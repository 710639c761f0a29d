import { createHash, randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isSealpodError, type Random } from "@sealpod/core";
import { SeededNumbers } from "../../tools/testing/hostile.ts";
import { merge, split, STRIPES } from "./antiforensic.ts";
import { createVolume, cryptSectors, MAX_HEADERS_LENGTH, openVolumeKey, parseHeader, type Luks2Header } from "./index.ts";

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };
const passphrase = random.bytes(32);
const volume = createVolume({ passphrase, random, label: "test" });
const start = volume.header.subarray(0, MAX_HEADERS_LENGTH);
const read = (bytes: Uint8Array) => async (offset: number, length: number) => Promise.resolve(bytes.subarray(offset, offset + length));
const open = async (header: Luks2Header, key: Uint8Array, bytes = volume.header): Promise<Uint8Array> => openVolumeKey(header, key, read(bytes));

/** The header with other metadata, both copies with checksums that fit. */
function withMetadata(change: (metadata: Record<string, Record<string, Record<string, unknown>>>) => void): Uint8Array {
  const bytes = Uint8Array.from(start);
  const json = Buffer.from(bytes.subarray(4096, 16_384)).toString().replace(/\0+$/, "");
  const metadata = JSON.parse(json) as Record<string, Record<string, Record<string, unknown>>>;
  change(metadata);
  for (const offset of [0, 16_384]) {
    const copy = bytes.subarray(offset, offset + 16_384);
    copy.fill(0, 4096);
    copy.set(Buffer.from(JSON.stringify(metadata)), 4096);
    seal(copy);
  }
  return bytes;
}

function seal(copy: Uint8Array): void {
  copy.fill(0, 448, 512);
  copy.set(createHash("sha256").update(copy).digest(), 448);
}

describe("LUKS2", () => {
  it("reads the header that it wrote, and opens the volume key", async () => {
    const header = parseHeader(start);
    expect(header).toMatchObject({
      copies: "both",
      label: "test",
      uuid: volume.uuid,
      sequence: 1,
      foreign: [],
      segment: { offset: 16_777_216, sectorSize: 4096 },
    });
    expect(header.keyslots).toHaveLength(1);
    expect(Buffer.from(await open(header, passphrase))).toEqual(Buffer.from(volume.volumeKey));
  });

  it("reads a Buffer and leaves it as it is", () => {
    const buffer = Buffer.from(start);
    parseHeader(buffer);
    expect(buffer.equals(start)).toBe(true);
  });

  it("does not open with another key, and says nothing of the key", async () => {
    const other = random.bytes(32);
    await expect(open(parseHeader(start), other)).rejects.toMatchObject({
      code: "ERR_LUKS2_KEY",
      message: expect.not.stringContaining(Buffer.from(other).toString("hex")),
    });
    const flipped = Uint8Array.from(passphrase, (byte, at) => (at === 31 ? byte ^ 1 : byte));
    await expect(open(parseHeader(start), flipped)).rejects.toMatchObject({ code: "ERR_LUKS2_KEY" });
  });

  it("does not open when any byte of the keyslot has changed", async () => {
    const header = parseHeader(start);
    for (const at of [32_768, 32_768 + 100_000, 32_768 + 255_999]) {
      const spoilt = Uint8Array.from(volume.header);
      spoilt[at] = (spoilt[at] ?? 0) ^ 1;
      await expect(open(header, passphrase, spoilt)).rejects.toMatchObject({ code: "ERR_LUKS2_KEY" });
    }
  });

  it("takes the second copy of a damaged header, and the newer one of two whole ones", () => {
    const first = Uint8Array.from(start);
    first[5000] = 1;
    expect(parseHeader(first).copies).toBe("second");
    const gone = Uint8Array.from(start).fill(0, 0, 16_384);
    expect(parseHeader(gone)).toMatchObject({ copies: "second", uuid: volume.uuid });
    const second = Uint8Array.from(start).fill(0, 16_384, 16_390);
    expect(parseHeader(second).copies).toBe("first");
    const newer = Uint8Array.from(start);
    const copy = newer.subarray(16_384, 32_768);
    copy[23] = 2;
    copy.set(Buffer.from("newer\0"), 24);
    seal(copy);
    expect(parseHeader(newer)).toMatchObject({ copies: "both", sequence: 2, label: "newer" });
    const neither = Uint8Array.from(gone).fill(0, 16_384, 16_390);
    expect(() => parseHeader(neither)).toThrow(expect.objectContaining({ code: "ERR_LUKS2_HEADER" }));
  });

  it.each<[string, Parameters<typeof withMetadata>[0], string]>([
    ["another cipher", (m) => Object.assign(m["segments"]?.["0"] ?? {}, { encryption: "serpent-xts-plain64" }), "ERR_LUKS2_UNSUPPORTED"],
    ["integrity", (m) => Object.assign(m["segments"]?.["0"] ?? {}, { integrity: { type: "hmac(sha256)" } }), "ERR_LUKS2_UNSUPPORTED"],
    ["two segments", (m) => Object.assign(m["segments"] ?? {}, { "1": m["segments"]?.["0"] }), "ERR_LUKS2_UNSUPPORTED"],
    ["data inside the header", (m) => Object.assign(m["segments"]?.["0"] ?? {}, { offset: "4096" }), "ERR_LUKS2_HEADER"],
    ["an offset that is no number", (m) => Object.assign(m["segments"]?.["0"] ?? {}, { offset: "1e9" }), "ERR_LUKS2_HEADER"],
    ["a keyslot behind the data", (m) => Object.assign(m["keyslots"]?.["0"]?.["area"] ?? {}, { offset: "99999744" }), "ERR_LUKS2_HEADER"],
    ["sectors of 8 KiB", (m) => Object.assign(m["segments"]?.["0"] ?? {}, { sector_size: 8192 }), "ERR_LUKS2_HEADER"],
    ["no digest", (m) => delete m["digests"], "ERR_LUKS2_HEADER"],
    [
      "many keyslots",
      (m) => (m["keyslots"] = Object.fromEntries(Array.from({ length: 33 }, (_, at) => [String(at), m["keyslots"]?.["0"] ?? {}]))),
      "ERR_LUKS2_HEADER",
    ],
  ])("refuses %s", (_what, change, code) => {
    expect(() => parseHeader(withMetadata(change))).toThrow(expect.objectContaining({ code }));
  });

  it("says of a keyslot that it cannot read why, and does not try it", async () => {
    const header = parseHeader(withMetadata((m) => Object.assign(m["keyslots"]?.["0"]?.["kdf"] ?? {}, { type: "argon2id" })));
    expect(header.foreign).toEqual([{ id: 0, problem: expect.stringContaining("argon2id") }]);
    await expect(open(header, passphrase)).rejects.toMatchObject({ code: "ERR_LUKS2_UNSUPPORTED", message: expect.stringContaining("argon2id") });
  });

  it("does not work for hours because a header says so", async () => {
    const header = parseHeader(withMetadata((m) => Object.assign(m["keyslots"]?.["0"]?.["kdf"] ?? {}, { iterations: 4_000_000_000 })));
    await expect(open(header, passphrase)).rejects.toMatchObject({ code: "ERR_LUKS2_LIMIT" });
  });

  it.each([1, 31, 3200])("refuses a digest of %i bytes, whose work would have no bound", (length) => {
    const bytes = withMetadata((m) => Object.assign(m["digests"]?.["0"] ?? {}, { digest: Buffer.alloc(length).toString("base64") }));
    expect(() => parseHeader(bytes)).toThrow(expect.objectContaining({ code: "ERR_LUKS2_HEADER", message: expect.stringContaining("digest") }));
  });

  it("counts the work of all keyslots together", async () => {
    const slots = (m: Parameters<Parameters<typeof withMetadata>[0]>[0]): unknown =>
      (m["keyslots"] = Object.fromEntries(Array.from({ length: 32 }, (_, at) => [String(at), structuredClone(m["keyslots"]?.["0"] ?? {})])));
    const header = parseHeader(
      withMetadata((m) => {
        slots(m);
        for (const slot of Object.values(m["keyslots"] ?? {})) Object.assign(slot["kdf"] ?? {}, { iterations: 1_000_000 });
        Object.assign(m["digests"]?.["0"] ?? {}, { keyslots: Array.from({ length: 32 }, (_, at) => String(at)) });
      }),
    );
    await expect(open(header, passphrase)).rejects.toMatchObject({ code: "ERR_LUKS2_LIMIT" });
  });

  it("tries the keyslots of the digest alone", async () => {
    const header = parseHeader(withMetadata((m) => Object.assign(m["digests"]?.["0"] ?? {}, { keyslots: [] })));
    await expect(open(header, passphrase)).rejects.toMatchObject({ code: "ERR_LUKS2_KEY" });
  });

  it("refuses LUKS1 and says how to convert it", () => {
    const bytes = Uint8Array.from(start);
    bytes[7] = 1;
    expect(() => parseHeader(bytes)).toThrow(expect.objectContaining({ code: "ERR_LUKS2_UNSUPPORTED", hint: expect.stringContaining("convert") }));
  });

  it("refuses a passphrase that a person made up", () => {
    expect(() => createVolume({ passphrase: Buffer.from("secret"), random })).toThrow(expect.objectContaining({ code: "ERR_LUKS2_ARGUMENT" }));
  });

  it("takes any bytes with an error of its own", () => {
    const numbers = new SeededNumbers(6);
    const outcomes = new Set<string>();
    for (let round = 0; round < 3000; round++) {
      const bytes = Uint8Array.from(start.subarray(0, numbers.pick([0, 5, 600, 4096, 16_384, 40_000])));
      for (let change = 0; change <= numbers.below(3); change++) if (bytes.length > 0) bytes[numbers.below(Math.min(bytes.length, 520))] = numbers.below(256);
      // Half of them with checksums that fit, so that what stands behind is reached.
      if (bytes.length >= 16_384 && numbers.below(2) === 0) {
        for (let change = 0; change < 3; change++) bytes[4096 + numbers.below(900)] = numbers.below(256);
        seal(bytes.subarray(0, 16_384));
      }
      try {
        parseHeader(bytes);
        outcomes.add("read");
      } catch (error) {
        if (!isSealpodError(error)) throw error;
        outcomes.add(error.code);
      }
    }
    expect([...outcomes].toSorted()).toEqual(["ERR_LUKS2_HEADER", "ERR_LUKS2_UNSUPPORTED", "read"]);
  });
});

describe("the anti-forensic splitter", () => {
  it("gives the key back, and needs every stripe for it", () => {
    const key = random.bytes(64);
    const spread = split(key, random);
    expect(spread).toHaveLength(64 * STRIPES);
    expect(merge(spread, 64)).toEqual(key);
    spread[64 * 1234] = (spread[64 * 1234] ?? 0) ^ 1;
    expect(merge(spread, 64)).not.toEqual(key);
  });
});

describe("cryptSectors", () => {
  const key = random.bytes(64);

  it("is its own inverse, and depends on the place of a sector", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 40 }), fc.integer({ min: 1, max: 3 }), fc.constantFrom(512, 4096), (at, count, size) => {
        const first = at - (at % (size / 512));
        const data = random.bytes(count * size);
        const sealed = cryptSectors("encrypt", key, first, data, size);
        expect(cryptSectors("decrypt", key, first, sealed, size)).toEqual(data);
        expect(cryptSectors("encrypt", key, first + size / 512, data, size)).not.toEqual(sealed);
        // Sector by sector as all at once.
        expect(cryptSectors("decrypt", key, first, sealed.subarray(0, size), size)).toEqual(data.subarray(0, size));
      }),
      { numRuns: 40 },
    );
  });

  it("has the values of IEEE 1619, vector 10 of its annex B", () => {
    const key = Buffer.from(
      "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592",
      "hex",
    );
    const plaintext = Uint8Array.from({ length: 512 }, (_, at) => at % 256);
    const sealed = Buffer.from(cryptSectors("encrypt", key, 0xff, plaintext, 512)).toString("hex");
    expect(sealed.slice(0, 64)).toBe("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
  });

  it.each<[string, () => unknown]>([
    ["a short key", () => cryptSectors("encrypt", key.subarray(1), 0, new Uint8Array(512), 512)],
    ["half a sector", () => cryptSectors("encrypt", key, 0, new Uint8Array(513), 512)],
    ["a sector inside another", () => cryptSectors("encrypt", key, 1, new Uint8Array(4096), 4096)],
    ["sectors of 3 bytes", () => cryptSectors("encrypt", key, 0, new Uint8Array(3), 3)],
  ])("refuses %s", (_what, work) => {
    expect(work).toThrow(expect.objectContaining({ code: "ERR_LUKS2_ARGUMENT" }));
  });
});
