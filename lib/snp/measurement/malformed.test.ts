import { generateKeyPairSync } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  createIdAuth,
  encodeIdAuth,
  encodeIdBlock,
  encodeIdKey,
  igvmIdentity,
  igvmLaunchPages,
  launchDigest,
  parseIdAuth,
  parseIdBlock,
  parseIdKey,
  parseIgvm,
  parseOvmf,
  qemuLaunchPages,
  SnpError,
} from "../index.ts";
import { measureGrowth } from "../../../tools/testing/growth.ts";
import { igvm, igvmDataOffset, SECTIONS, testIgvm, type TestHeader, testOvmf } from "./testdata/images.ts";

/** Numbers from a seed (xorshift32), so that a failure can be repeated. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

const INTERESTING = [0, 1, 0x7f, 0x80, 0xff];
const WORDS = [0, 1, 17, 18, 4095, 4096, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, 0xffff_ffff];

/**
 * One to four changes: bits, bytes, 32-bit words, ranges that are copied elsewhere, and ends that are cut or grown.
 * @param places offsets that matter; half of the changes are there
 */
function mutate(seed: Uint8Array, places: readonly (readonly [number, number])[], below: (limit: number) => number): Buffer {
  let bytes = Buffer.from(seed);
  const place = (): number => {
    const [from, to] = places[below(places.length)] ?? [0, bytes.length];
    return below(2) === 0 ? Math.min(from + below(to - from), bytes.length - 1) : below(bytes.length);
  };
  for (let change = below(4); change >= 0 && bytes.length > 8; change--) {
    const at = place();
    switch (below(16)) {
      case 0:
        bytes = Buffer.from(bytes.subarray(0, at));
        break;
      case 1:
        bytes = Buffer.concat([bytes, Buffer.alloc(below(64), below(256))]);
        break;
      case 2:
      case 3:
        bytes.copyWithin(at, place(), place());
        break;
      case 4:
      case 5:
      case 6:
      case 7:
        if (at + 4 <= bytes.length) bytes.writeUInt32LE(WORDS[below(WORDS.length)] ?? 0, at);
        break;
      case 8:
      case 9:
        bytes[at] = INTERESTING[below(INTERESTING.length)] ?? 0;
        break;
      default:
        bytes[at] = (bytes[at] ?? 0) ^ (1 << below(8));
    }
  }
  return bytes;
}

/** Runs a reader over mutations; anything but a value or an SnpError ends the test. Returns how many were refused. */
function survive(rounds: number, seed: number, make: (below: (limit: number) => number) => Buffer, read: (bytes: Uint8Array) => unknown): number {
  const below = numbers(seed);
  let refused = 0;
  for (let round = 0; round < rounds; round++) {
    const bytes = make(below);
    try {
      read(bytes);
    } catch (error) {
      if (!(error instanceof SnpError)) throw new Error(`round ${round}: ${bytes.toString("hex").slice(0, 200)}`, { cause: error });
      refused++;
    }
  }
  return refused;
}

const idKey = generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey;
const BLOCK = { measurement: new Uint8Array(48), familyId: new Uint8Array(16), imageId: new Uint8Array(16), guestSvn: 1, policy: 0x3001fn };
const AUTH = createIdAuth(BLOCK, idKey, idKey);

function igvmHeaders(): readonly TestHeader[] {
  const headers = (data: number): readonly TestHeader[] => [
    igvm.platform(1),
    igvm.platform(2, 3),
    igvm.policy(),
    igvm.area(0, 4096n),
    igvm.area(1, 8192n, data),
    igvm.parameter(0x307, 0, 8),
    igvm.requiredMemory(0n, 4096),
    igvm.page(0n, data),
    igvm.page(0x1000n, data + 4096, 2),
    igvm.page(0x2000n, 0, 0, 1),
    igvm.page(0x3000n, 0, 0, 2),
    igvm.page(0x4000n, 0, 4),
    igvm.insert(0x10_0000n, 0),
    igvm.insert(0x50000n, 1, 3),
    igvm.errorRange(0n, 4096),
    igvm.vpContext(0xffff_ffff_f000n, data + 4096),
  ];
  return headers(igvmDataOffset(headers(0)));
}

describe("mutated images", () => {
  it("OVMF: 5000 end in a value or an SnpError", () => {
    const seed = testOvmf({
      sections: SECTIONS,
      hashTable: 0x81_0c00,
      resetVector: 0x80_b004,
      entries: [{ guid: "4c2eb361-7d9b-4cc3-8081-127c90d3d294", data: Buffer.alloc(8) }],
    });
    const places = [
      [4096 - 2048, 4096 - 2048 + 16 + 12 * SECTIONS.length],
      [4096 - 32 - 120, 4096 - 32],
    ] as const;
    const refused = survive(
      5000,
      1,
      (below) => {
        const bytes = mutate(seed, places, below);
        // Most would be refused for their length alone.
        return below(8) === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(4096)]).subarray(0, 4096);
      },
      (bytes) => {
        const ovmf = parseOvmf(bytes);
        expect(ovmf.sections.every(({ gpa, size }) => gpa + size <= ovmf.gpa)).toBe(true);
        // What is read can be measured, or is refused for a reason.
        const pages = qemuLaunchPages({ ovmf, vcpus: 2, cpuSignature: 0xa00f11 });
        if (ovmf.sections.reduce((sum, { size }) => sum + size, 0) < 0x1_0000) launchDigest(pages);
      },
    );
    expect(refused).toBeGreaterThan(2000);
    expect(refused).toBeLessThan(5000);
  });

  it("IGVM: 5000 with the right checksum, and 1000 without, end in a value or an SnpError", () => {
    const headers = igvmHeaders();
    const data = Buffer.alloc(8192, 7);
    const read = (bytes: Uint8Array): void => {
      const file = parseIgvm(bytes);
      igvmIdentity(file);
      const pages = igvmLaunchPages(file);
      if (file.directives.length < 100) launchDigest(pages);
    };
    const refused = survive(
      5000,
      2,
      (below) => {
        const changed = headers.map((header): TestHeader => {
          if (below(headers.length) > 1) return header;
          switch (below(6)) {
            case 0:
              return { ...header, type: below(2) === 0 ? 0x300 + below(0x20) : below(0x400) };
            case 1:
              return { ...header, length: below(64) };
            default:
              return { ...header, body: mutate(header.body, [[0, header.body.length]], below) };
          }
        });
        if (below(4) === 0) changed.splice(below(changed.length), 1, ...changed.slice(below(changed.length)).slice(0, 2));
        return testIgvm({ headers: changed, data });
      },
      read,
    );
    expect(refused).toBeGreaterThan(2000);
    expect(refused).toBeLessThan(5000);
    const seed = testIgvm({ headers, data });
    survive(1000, 3, (below) => mutate(seed, [[0, 24]], below), read);
  });

  it("ID block, ID auth and ID key: 8000 end in a value or an SnpError", () => {
    const [block, auth, key] = [encodeIdBlock(BLOCK), encodeIdAuth(AUTH), encodeIdKey(idKey)];
    expect(survive(4000, 4, (below) => mutate(block, [[0x50, 0x60]], below), parseIdBlock)).toBeGreaterThan(1000);
    const signed = [
      [0, 0x40],
      [0x40, 0xd0],
      [0x240, 0x2d4],
      [0x680, 0x710],
      [0x880, 0x914],
    ] as const;
    expect(survive(2000, 5, (below) => mutate(auth, signed, below), parseIdAuth)).toBeGreaterThan(1000);
    expect(survive(2000, 6, (below) => mutate(key, [[0, 148]], below), parseIdKey)).toBeGreaterThan(1000);
  });
});

/** Above it growth is not linear; noise stays below. */
const LIMIT = 1.4;

describe("cost grows with the size", () => {
  it("of an OVMF image that is measured", () => {
    const exponent = measureGrowth([1 << 16, 1 << 18, 1 << 20], LIMIT, (size) => {
      const bytes = testOvmf({ size, sections: SECTIONS });
      return () => void launchDigest(qemuLaunchPages({ ovmf: parseOvmf(bytes), vcpus: 1, cpuSignature: 1 }));
    });
    expect(exponent).toBeLessThan(LIMIT);
  });

  it.each<[string, (index: number) => TestHeader]>([
    ["pages", (index) => igvm.page(BigInt(index) * 4096n, 0)],
    ["memory that is required", () => igvm.requiredMemory(0n, 4096)],
    ["VP contexts that share their content", (index) => igvm.vpContext(0xffff_ffff_f000n, 0, index)],
    [
      "parameter areas that are declared and inserted",
      (index) => (index % 2 === 0 ? igvm.area(index >> 1, 4096n) : igvm.insert(BigInt(index) * 4096n, index >> 1)),
    ],
  ])("of an IGVM file of %s", (_name, make) => {
    const exponent = measureGrowth([1 << 10, 1 << 12, 1 << 14], LIMIT, (count) => {
      const headers = [igvm.platform(), ...Array.from({ length: count }, (_, index) => make(index))];
      const at = igvmDataOffset(headers);
      for (const { type, body } of headers) if (type === 0x304) Buffer.from(body.buffer, body.byteOffset, body.length).writeUInt32LE(at, 12);
      const bytes = testIgvm({ headers, data: Buffer.alloc(4096) });
      return () => {
        for (const _page of igvmLaunchPages(parseIgvm(bytes)));
      };
    });
    expect(exponent).toBeLessThan(LIMIT);
  });
});
