import { describe, expect, it } from "vitest";
import { MAX_OVMF_ENTRIES, MAX_OVMF_SECTION_BYTES, MAX_OVMF_SECTIONS, MAX_OVMF_SIZE, parseOvmf, SnpError } from "../index.ts";
import { METADATA_GUID, SECTIONS, testOvmf, type TestOvmf, u32 } from "./testdata/images.ts";

const OTHER_GUID = "4c2eb361-7d9b-4cc3-8081-127c90d3d294";

describe("OVMF image", () => {
  it("is read from its end", () => {
    const bytes = testOvmf({
      size: 8192,
      sections: SECTIONS,
      hashTable: 0x81_0c00,
      resetVector: 0x80_b004,
      entries: [{ guid: OTHER_GUID, data: Buffer.alloc(8) }],
    });
    expect(parseOvmf(bytes)).toEqual({
      bytes,
      gpa: 2 ** 32 - 8192,
      entries: [OTHER_GUID, METADATA_GUID, "7255371f-3a3b-4b04-927b-1da6efa8d454", "00f771de-1a7e-4fcb-890e-68c77e2fb44e"],
      sections: [
        { kind: "sec-mem", gpa: 0x80_0000, size: 0x2000 },
        { kind: "secrets", gpa: 0x80_a000, size: 0x1000 },
        { kind: "cpuid", gpa: 0x80_b000, size: 0x1000 },
        { kind: "svsm-caa", gpa: 0x80_c000, size: 0x1000 },
        { kind: "kernel-hashes", gpa: 0x81_0000, size: 0x1000 },
        { kind: "sec-mem", gpa: 0x81_1000, size: 0x1000 },
      ],
      hashTable: 0x81_0c00,
      resetVector: 0x80_b004,
    });
  });

  it("may lack every table but the footer", () => {
    expect(parseOvmf(testOvmf())).toMatchObject({ entries: [], sections: [], hashTable: undefined, resetVector: undefined });
  });

  it("without kernel hashes has zeros for their place", () => {
    expect(parseOvmf(testOvmf({ sections: SECTIONS, hashTable: 0 })).hashTable).toBeUndefined();
  });

  it("takes sections that touch, up to the image", () => {
    const end = 2 ** 32 - 4096;
    const sections = [
      [end - 4096, 4096, 1],
      [end - 8192, 4096, 2],
    ] as const;
    expect(parseOvmf(testOvmf({ sections })).sections).toHaveLength(2);
  });

  it("takes as many entries, sections and bytes as the limits say", () => {
    const entries = Array.from({ length: MAX_OVMF_ENTRIES }, (_, index) => ({
      guid: `0000000${index % 10}-0000-0000-0000-0000000000${10 + index}`,
      data: Buffer.alloc(0),
    }));
    expect(parseOvmf(testOvmf({ entries })).entries).toHaveLength(MAX_OVMF_ENTRIES);
    const sections = Array.from({ length: MAX_OVMF_SECTIONS }, (_, index) => [index * 4096, 4096, 1] as const);
    expect(parseOvmf(testOvmf({ sections })).sections).toHaveLength(MAX_OVMF_SECTIONS);
    expect(parseOvmf(testOvmf({ sections: [[0, MAX_OVMF_SECTION_BYTES, 1]] })).sections).toHaveLength(1);
    expect(parseOvmf(testOvmf({ size: MAX_OVMF_SIZE })).gpa).toBe(2 ** 32 - MAX_OVMF_SIZE);
  });

  const section = (...sections: readonly (readonly [number, number, number])[]): TestOvmf => ({ sections });
  it.each<[string, TestOvmf | Uint8Array, RegExp]>([
    ["no bytes", new Uint8Array(), /0 bytes, expected whole pages/],
    ["a part of a page", testOvmf().subarray(1), /4095 bytes, expected whole pages/],
    ["more than the limit", new Uint8Array(MAX_OVMF_SIZE + 4096), /16781312 bytes, expected/],
    ["no footer", new Uint8Array(4096), /ends at offset 4064 has 0 bytes, expected 18 to 4064/],
    ["another GUID at the end", { ...section(), entries: [{ guid: OTHER_GUID, data: Buffer.alloc(0) }], tableSize: 17 }, /has 17 bytes, expected 18/],
    ["a table larger than the image", { tableSize: 4065 }, /has 4065 bytes, expected 18 to 4064/],
    ["an entry that reaches out of the table", { entries: [{ guid: OTHER_GUID, data: Buffer.alloc(4), size: 23 }] }, /has 23 bytes, expected 18 to 22/],
    ["an entry without room for its own header", { entries: [{ guid: OTHER_GUID, data: Buffer.alloc(4), size: 0 }] }, /has 0 bytes, expected 18/],
    ["bytes before the first entry", { entries: [{ guid: OTHER_GUID, data: Buffer.alloc(4), size: 18 }] }, /has 4 bytes of room/],
    [
      "an entry twice",
      {
        entries: [
          { guid: OTHER_GUID, data: Buffer.alloc(0) },
          { guid: OTHER_GUID, data: Buffer.alloc(0) },
        ],
      },
      /GUID 4c2eb361-\S+ twice/,
    ],
    [
      "one entry too many",
      { entries: Array.from({ length: MAX_OVMF_ENTRIES + 1 }, (_, i) => ({ guid: `00000000-0000-0000-0000-0000000000${10 + i}`, data: Buffer.alloc(0) })) },
      /more than 32 entries/,
    ],
    ["metadata that are no pointer", { entries: [{ guid: METADATA_GUID, data: Buffer.alloc(5) }] }, /has 5 bytes of data, expected 4/],
    ["metadata before the image", { entries: [{ guid: METADATA_GUID, data: u32(4097) }] }, /4097 bytes before the end/],
    ["metadata at the end", { entries: [{ guid: METADATA_GUID, data: u32(15) }] }, /15 bytes before the end/],
    ["metadata of another magic", { sections: [], metadata: { magic: "ASEW" } }, /starts with "ASEW"/],
    ["metadata of another version", { sections: [], metadata: { version: 2 } }, /version 2 at offset/],
    ["more sections than bytes", { sections: [], metadata: { count: 1 } }, /metadata of 16 bytes .* expected 28 for 1 sections/],
    ["metadata that leave the image", { sections: [], metadata: { fromEnd: 2048, size: 16 + 12 * 64, count: 65 } }, /65 sections .* limit of 64/],
    ["a section of an unknown type", section([0, 4096, 5]), /section 0 at offset 2064 has type 0x5/],
    ["a section of no bytes", section([0, 0, 1]), /no whole pages/],
    ["a section off the page", section([1, 4096, 1]), /no whole pages/],
    ["a section of half a page", section([0, 4097, 1]), /no whole pages/],
    ["a section in the image", section([2 ** 32 - 4096, 4096, 1]), /reach into the image/],
    ["a section that wraps around", section([2 ** 32 - 8192, 0xffff_f000, 1]), /reach into the image/],
    ["sections that overlap", section([0x1000, 0x3000, 1], [0x8000, 0x1000, 2], [0x3000, 0x1000, 3]), /section 2 .* overlaps the one at 0x1000/],
    ["a section that begins below another and reaches into it", section([0x3000, 0x1000, 1], [0x2000, 0x2000, 2]), /section 1 .* overlaps the one at 0x3000/],
    ["a section twice", section([0x1000, 0x1000, 1], [0x1000, 0x1000, 1]), /overlaps/],
    ["more bytes of sections than the limit", section([0, MAX_OVMF_SECTION_BYTES, 1], [MAX_OVMF_SECTION_BYTES, 4096, 1]), /more than 67108864 bytes/],
  ])("with %s is refused", (_name, options, message) => {
    const bytes = options instanceof Uint8Array ? options : testOvmf(options);
    const thrown = (() => {
      try {
        return parseOvmf(bytes);
      } catch (error) {
        return error;
      }
    })();
    expect(thrown).toBeInstanceOf(SnpError);
    expect(thrown).toMatchObject({ code: "ERR_SNP_OVMF", message: expect.stringMatching(message) as unknown });
  });

  it("whose metadata reach over its end is refused", () => {
    const bytes = testOvmf({ sections: [], metadata: { fromEnd: 20 } });
    Buffer.concat([Buffer.from("ASEV"), u32(28, 1, 1)]).copy(bytes, 4096 - 20);
    expect(() => parseOvmf(bytes)).toThrow(expect.objectContaining({ code: "ERR_SNP_OVMF", message: expect.stringContaining("and 20 at most") as unknown }));
  });

  it("whose table ends in another GUID is no OVMF image, and the hint says so", () => {
    const bytes = testOvmf();
    bytes[4096 - 33] = 0;
    expect(() => parseOvmf(bytes)).toThrow(expect.objectContaining({ code: "ERR_SNP_OVMF", hint: expect.stringContaining("OVMF.fd") as unknown }));
  });
});
