import { describe, expect, it } from "vitest";
import { answers, failures, table } from "./testdata/tables.ts";
import { identifiersBuiltins } from "./identifiers.ts";

const answer = answers(identifiersBuiltins);

/** Bytes that differ from draw to draw. */
function counting(): { bytes(length: number): Uint8Array } {
  let draw = 0;
  return { bytes: (length) => new Uint8Array(length).fill(++draw) };
}

table("uuid.parse", answer, [
  ['uuid.parse("00112233-4455-4677-8899-aabbccddeeff")', { version: 4, variant: "RFC4122" }],
  ['uuid.parse("00112233445546778899AABBCCDDEEFF")', { version: 4, variant: "RFC4122" }],
  ['uuid.parse("URN:UUID:00112233-4455-7677-c899-aabbccddeeff")', { version: 7, variant: "Microsoft" }],
  ['uuid.parse("{00112233-4455-0677-e899-aabbccddeeff}")', { version: 0, variant: "Future" }],
  ['uuid.parse("00112233-4455-0677-0899-aabbccddeeff")', { version: 0, variant: "Reserved" }],
  // RFC 9562 appendix A.1: 22 February 2022, 14:22:22 at five hours west.
  [
    'uuid.parse("C232AB00-9414-11EC-B3C8-9F6BDECED846")',
    { version: 1, variant: "RFC4122", time: 1645557742000000000n, clocksequence: 0x33c8, nodeid: "9f-6b-de-ce-d8-46", macvariables: "local:multicast" },
  ],
  [
    'uuid.parse("000001f5-5e9a-21ea-9e07-0242ac130003")',
    {
      version: 2,
      variant: "RFC4122",
      time: 1583382610619646900n,
      clocksequence: 0x1e07,
      nodeid: "02-42-ac-13-00-03",
      macvariables: "local:unicast",
      id: 501,
      domain: "Domain7",
    },
  ],
  ...[
    "",
    "x",
    "00112233-4455-4677-8899-aabbccddeef",
    "00112233-4455-4677-8899-aabbccddeeffa",
    "00112233-44554-677-8899-aabbccddeeff",
    "g0112233-4455-4677-8899-aabbccddeeff",
    "(00112233-4455-4677-8899-aabbccddeeff)",
    "urn:uuid:00112233445546778899aabbccddeeff",
    "{00112233445546778899aabbccddeeff}",
  ].map((text) => [`uuid.parse(${JSON.stringify(text)})`, undefined] as const),
]);

failures("operands", answer, [
  ["uuid.parse(1)", "operand 1 must be string but got number"],
  ["uuid.rfc4122(1)", "operand 1 must be string but got number"],
  ['rand.intn("a", 1.5)', "operand 2 must be integer number but got floating-point number"],
  ['rand.intn("a", "5")', "operand 2 must be number but got string"],
  ['rand.intn("a", 18446744073709551616)', "operand 2 is out of range"],
]);

describe("what is drawn", () => {
  it("is a UUID of version 4 from the caller's bytes", () => {
    expect(answer('uuid.rfc4122("k")', { random: { bytes: (n) => new Uint8Array(n).fill(0xff) } })).toBe("ffffffff-ffff-4fff-bfff-ffffffffffff");
  });

  it("stays the same for a key within a query, and differs between keys and functions", () => {
    const found = answer('[uuid.rfc4122("a"), uuid.rfc4122("b"), uuid.rfc4122("a"), rand.intn("a", 1000), rand.intn("a", 1000), rand.intn("a", 999)]', {
      random: counting(),
    }) as readonly unknown[];
    expect(found[0]).toBe(found[2]);
    expect(found[0]).not.toBe(found[1]);
    expect(found[3]).toBe(found[4]);
    expect(found[3]).not.toBe(found[5]);
  });

  it("is drawn anew by the next query", () => {
    const random = counting();
    expect(answer('uuid.rfc4122("a")', { random })).not.toBe(answer('uuid.rfc4122("a")', { random }));
  });

  it("is within the limit", () => {
    for (const fill of [0, 1, 0x7f, 0x80, 0xff]) {
      const value = answer('rand.intn("a", 7)', { random: { bytes: (n) => new Uint8Array(n).fill(fill) } }) as number;
      expect(Number.isInteger(value) && value >= 0 && value < 7).toBe(true);
    }
    expect(answer('rand.intn("a", -7)', { random: counting() })).toBe(answer('rand.intn("a", 7)', { random: counting() }));
    expect(answer('rand.intn("a", 0)')).toBe(0);
  });

  it("is undefined without a source", () => {
    expect(answer('uuid.rfc4122("a")')).toBeUndefined();
    expect(answer('rand.intn("a", 7)')).toBeUndefined();
  });
});
