import { createHash, generateKeyPairSync } from "node:crypto";
import { toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import {
  createIdAuth,
  type IdAuth,
  igvmIdentity,
  igvmLaunchPages,
  launchDigest,
  MAX_IGVM_PARAMETER_BYTES,
  parseIgvm,
  SnpError,
  verifyIdAuth,
} from "../index.ts";
import { igvm, igvmDataOffset, Straight, testIgvm, type TestHeader, type TestIgvm, u32, u64 } from "./testdata/images.ts";

const page = (value: number): Buffer => Buffer.alloc(4096, value);

/** A file whose headers depend on where its data start. */
function fileOf(make: (data: number) => readonly TestHeader[], data: Uint8Array = Buffer.alloc(0)): Buffer {
  const start = igvmDataOffset(make(0));
  return testIgvm({ headers: make(start), data });
}

function digest(bytes: Uint8Array): string {
  return toHex(launchDigest(igvmLaunchPages(parseIgvm(bytes))));
}

/** The header of an ID block. */
function idBlock(
  measurement: Uint8Array,
  auth: IdAuth,
  changes: { readonly mask?: number; readonly enabled?: number; readonly version?: number; readonly curve?: number } = {},
): TestHeader {
  const number = (value: bigint): Buffer => Buffer.from(value.toString(16).padStart(144, "0"), "hex").reverse();
  const signatory = ({ publicKey, signature }: IdAuth["idKey"]): Buffer =>
    Buffer.concat([number(signature.r), number(signature.s), u32(changes.curve ?? 2, 0), publicKey.subarray(4, 148)]);
  return {
    type: 0x30b,
    body: Buffer.concat([
      u32(changes.mask ?? 1),
      Buffer.of(changes.enabled ?? (auth.authorKey === undefined ? 0 : 1), 0, 0, 0),
      measurement,
      Buffer.alloc(16, 1),
      Buffer.alloc(16, 2),
      u32(changes.version ?? 1, 2, 1, auth.authorKey === undefined ? 0 : 1),
      signatory(auth.idKey),
      auth.authorKey === undefined ? Buffer.alloc(296) : signatory(auth.authorKey),
    ]),
  };
}

describe("IGVM file", () => {
  it("is launched in its order", () => {
    const data = Buffer.concat([page(1), page(2), page(3)]);
    const bytes = fileOf(
      (at) => [
        igvm.platform(1),
        igvm.platform(2, 3),
        igvm.policy(),
        igvm.area(7, 0x2000n),
        igvm.parameter(0x307, 7, 8),
        igvm.parameter(0x30c, 7),
        igvm.requiredMemory(0x10_0000n, 0x1000),
        igvm.page(0x10_0000n, at),
        // Of another platform, at the same address.
        igvm.page(0x10_0000n, at + 4096, 0, 0, 2),
        // Without content.
        igvm.page(0x10_1000n, 0, 0, 0, 3),
        // Shared with the host.
        igvm.page(0x10_2000n, 0, 4),
        igvm.page(0x10_3000n, at + 4096, 2),
        igvm.page(0x10_4000n, 0, 0, 1),
        igvm.page(0x10_5000n, 0, 0, 2),
        igvm.page(0x10_6000n, 0, 0, 3),
        igvm.insert(0x20_0000n, 7, 3),
        igvm.errorRange(0x10_7000n, 0x1000),
        igvm.vpContext(0xffff_ffff_f000n, at + 8192),
        igvm.vpContext(0xffff_ffff_f000n, at + 8192, 1),
      ],
      data,
    );
    const expected = new Straight()
      .page(1, 0x10_0000n, page(1))
      .page(1, 0x10_1000n, page(0))
      .page(4, 0x10_3000n)
      .page(5, 0x10_4000n)
      .page(6, 0x10_5000n)
      .page(6, 0x10_6000n)
      .page(4, 0x20_0000n)
      .page(4, 0x20_1000n)
      .page(2, 0xffff_ffff_f000n, page(3))
      .page(2, 0xffff_ffff_f000n, page(3));
    expect(digest(bytes)).toBe(expected.hex);
    expect([...igvmLaunchPages(parseIgvm(bytes))].map(({ kind, source }) => [kind, source.name, source.offset])).toEqual([
      ["normal", "page data", bytes.length - 3 * 4096],
      ["normal", "page data (zeros)", undefined],
      ["unmeasured", "page data", bytes.length - 2 * 4096],
      ["secrets", "page data (secrets)", undefined],
      ["cpuid", "page data (cpuid)", undefined],
      ["cpuid", "page data (cpuid)", undefined],
      ["unmeasured", "parameter area 7", undefined],
      ["unmeasured", "parameter area 7", undefined],
      ["vmsa", "VP context 0", bytes.length - 4096],
      ["vmsa", "VP context 1", bytes.length - 4096],
    ]);
  });

  it("may hold the leaves of CPUID pages, which are not measured, and zeros for secrets", () => {
    const pages = (content: (data: number) => number) => (at: number) =>
      [igvm.platform(), igvm.page(0n, at, 0, 1), igvm.page(0x1000n, content(at), 0, 2), igvm.page(0x2000n, content(at), 0, 3)] as const;
    const data = Buffer.concat([page(0), page(7)]);
    const filled = fileOf(
      pages((at) => at + 4096),
      data,
    );
    const kinds = parseIgvm(filled).directives.map((item) => item.kind === "page-data" && [item.dataType, item.contents?.[0]]);
    expect(kinds).toEqual([
      ["secrets", 0],
      ["cpuid", 7],
      ["cpuid", 7],
    ]);
    expect(digest(filled)).toBe(new Straight().page(5, 0n).page(6, 0x1000n).page(6, 0x2000n).hex);
    expect(
      digest(
        fileOf(
          pages(() => 0),
          data,
        ),
      ),
    ).toBe(digest(filled));
  });

  it("may have content shared by pages, and headers that stand later", () => {
    const bytes = fileOf((at) => [igvm.platform(), igvm.page(0n, at), igvm.page(0x1000n, at)], page(9));
    expect(digest(bytes)).toBe(new Straight().page(1, 0n, page(9)).page(1, 0x1000n, page(9)).hex);
  });

  it("may insert one area for each platform", () => {
    const headers = [igvm.platform(1), igvm.platform(2, 3), igvm.area(0, 4096n), igvm.insert(0x1000n, 0), igvm.insert(0x2000n, 0, 2)];
    expect(digest(testIgvm({ headers }))).toBe(new Straight().page(4, 0x1000n).hex);
  });

  it("states policy and ID block, whose signatures verify over the block and that policy", () => {
    const [idKey, authorKey] = [0, 1].map(() => generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey);
    if (idKey === undefined) throw new Error("unreachable");
    const measurement = createHash("sha384").update("launch").digest();
    const block = { measurement, familyId: Buffer.alloc(16, 1), imageId: Buffer.alloc(16, 2), guestSvn: 2, policy: 0x3001fn };
    for (const author of [authorKey, undefined]) {
      const auth = createIdAuth(block, idKey, author);
      const identity = igvmIdentity(parseIgvm(testIgvm({ headers: [igvm.platform(), igvm.policy(), idBlock(measurement, auth)] })));
      expect(identity.policy).toBe(0x3001fn);
      if (identity.idBlock === undefined) throw new Error("unreachable");
      expect(verifyIdAuth(identity.idBlock.block, identity.idBlock.auth, { measurement })).toMatchObject({
        authorKeyDigest: author === undefined ? undefined : (expect.anything() as unknown),
      });
      // The policy is part of what is signed.
      const other = igvmIdentity(parseIgvm(testIgvm({ headers: [igvm.platform(), igvm.policy(0xb001fn), idBlock(measurement, auth)] })));
      const tampered = other.idBlock;
      if (tampered === undefined) throw new Error("unreachable");
      expect(() => verifyIdAuth(tampered.block, tampered.auth)).toThrow(expect.objectContaining({ code: "ERR_SNP_ID_AUTH" }));
    }
    const auth = createIdAuth(block, idKey);
    const refused: readonly (readonly [readonly TestHeader[], RegExp])[] = [
      [[igvm.platform(), idBlock(measurement, auth)], /no guest policy/],
      [[igvm.platform(), igvm.policy(), idBlock(measurement, auth), idBlock(measurement, auth)], /second ID block/],
      [[igvm.platform(), igvm.policy(), idBlock(measurement, auth, { version: 2 })], /version 2 and algorithms/],
      [[igvm.platform(), igvm.policy(), idBlock(measurement, auth, { enabled: 2 })], /reserved bytes/],
      [[igvm.platform(), igvm.policy(), idBlock(measurement, createIdAuth(block, idKey, authorKey), { enabled: 0 })], /not enabled/],
      [[igvm.platform(), igvm.policy(), idBlock(measurement, auth, { curve: 1 })], /curve 1/],
    ];
    for (const [headers, message] of refused) expect(() => igvmIdentity(parseIgvm(testIgvm({ headers }))), String(message)).toThrow(message);
    expect(igvmIdentity(parseIgvm(testIgvm({ headers: [igvm.platform()] })))).toEqual({ policy: undefined, idBlock: undefined });
  });

  it("is for SEV-SNP once", () => {
    for (const [headers, message] of [
      [[igvm.platform(1, 3)], /0 platforms are SEV-SNP, expected one; found: tdx/],
      [[igvm.platform(1), igvm.platform(2)], /2 platforms are SEV-SNP/],
    ] as const) {
      const file = parseIgvm(testIgvm({ headers }));
      expect(() => igvmLaunchPages(file)).toThrow(message);
      expect(() => igvmIdentity(file)).toThrow(message);
    }
  });

  it("launches no two pages at one address", () => {
    const twice = testIgvm({ headers: [igvm.platform(), igvm.page(0x1000n, 0), igvm.page(0x1000n, 0)] });
    const inArea = testIgvm({ headers: [igvm.platform(), igvm.area(0, 0x2000n), igvm.page(0x1000n, 0), igvm.insert(0n, 0)] });
    for (const bytes of [twice, inArea]) expect(() => igvmLaunchPages(parseIgvm(bytes))).toThrow("two pages at address 0x1000");
    // A shared page is no page of the launch.
    expect(digest(testIgvm({ headers: [igvm.platform(), igvm.page(0x1000n, 0), igvm.page(0x1000n, 0, 4)] }))).toBe(
      new Straight().page(1, 0x1000n, page(0)).hex,
    );
  });

  const P = igvm.platform();
  const half = BigInt(MAX_IGVM_PARAMETER_BYTES);
  const raw = (type: number, ...parts: readonly Buffer[]): TestHeader => ({ type, body: Buffer.concat(parts) });
  it.each<[string, TestIgvm | Uint8Array, RegExp]>([
    ["no bytes", new Uint8Array(), /0 bytes, expected 24/],
    ["another magic", { headers: [P], magic: "IGVN" }, /starts with "IGVN"/],
    ["version 2", { headers: [P], version: 2 }, /format version 2/],
    ["bytes after its end", { headers: [P], off: { total: -1 } }, /says 47 bytes, found 48/],
    ["headers in the fixed header", { headers: [P], off: { start: -8 } }, /at offset 16/],
    ["headers off their alignment", { headers: [P], off: { start: 1 } }, /at offset 25/],
    ["headers that leave the file", { headers: [P], off: { size: 1 } }, /variable headers of 25 bytes/],
    ["a wrong checksum", { headers: [P], off: { checksum: 1 } }, /CRC-32 of the headers/],
    ["no header", { headers: [] }, /no header of a supported platform/],
    ["half a header", { headers: [P], data: u32(0x302), off: { size: 4, checksum: 0 } }, /CRC-32|4 bytes left/],
    ["a header that leaves the others", { headers: [P, { ...igvm.page(0n, 0), length: 25 }] }, /with 25 bytes, 24 are left/],
    ["padding that is not zero", { headers: [{ type: 0x1, body: Buffer.alloc(16, 1), length: 15 }] }, /padding after the header of type 0x1 is not zero/],
    ["a header of the wrong length", { headers: [{ type: 0x1, body: P.body, length: 15 }] }, /has 15 bytes, expected 16/],
    ["a platform after a directive", { headers: [P, igvm.page(0n, 0), igvm.platform(2)] }, /type 0x1 after those of a later section/],
    ["an initialization after a directive", { headers: [P, igvm.page(0n, 0), igvm.policy()] }, /type 0x101 after/],
    ["an unknown initialization", { headers: [P, raw(0x102, Buffer.alloc(48))] }, /type 0x102 at offset 48 is of a type that is not known/],
    ["an unknown directive", { headers: [P, raw(0x311, Buffer.alloc(8))] }, /type 0x311 .* not known/],
    ["a type above all", { headers: [P, raw(0x8000_0001, Buffer.alloc(8))] }, /type 0x80000001 .* not known/],
    ["an unknown platform", { headers: [igvm.platform(1, 6)] }, /platform type 6/],
    ["a platform of another version", { headers: [igvm.platform(1, 2, 2)] }, /platform version 2/],
    ["a platform of two bits", { headers: [igvm.platform(3)] }, /mask 0x3, expected one bit/],
    ["a platform of no bit", { headers: [igvm.platform(0)] }, /mask 0x0, expected one bit/],
    ["a bit of two platforms", { headers: [igvm.platform(0x8000_0000), igvm.platform(0x8000_0000, 3)] }, /mask 0x80000000, expected one bit that no other/],
    ["a mask of no platform", { headers: [P, igvm.page(0n, 0, 0, 0, 2)] }, /mask 0x2, expected bits of 0x1/],
    ["an empty mask", { headers: [P, igvm.page(0n, 0, 0, 0, 0)] }, /mask 0x0/],
    ["two policies", { headers: [P, igvm.policy(), igvm.policy()] }, /second policy/],
    ["reserved bits of a policy", { headers: [P, raw(0x101, u64(0n), u32(1, 1))] }, /reserved bytes/],
    ["a page of 2 MiB", { headers: [P, igvm.page(0n, 0, 1)] }, /2 MiB/],
    ["an unknown flag", { headers: [P, igvm.page(0n, 0, 8)] }, /reserved bits/],
    ["an unknown data type", { headers: [P, igvm.page(0n, 0, 0, 4)] }, /data type 4/],
    ["a page off its alignment", { headers: [P, igvm.page(1n, 0)] }, /address 0x1,/],
    ["a page above 2^52", { headers: [P, igvm.page(1n << 52n, 0)] }, /below 2\^52/],
    ["content in the headers", { headers: [P, igvm.page(0n, 24)], data: page(0) }, /at offset 24, expected from 80/],
    ["content behind the end", { headers: [P, igvm.page(0n, 81)], data: page(0) }, /at offset 81/],
    ["content behind 4 GiB", { headers: [P, igvm.page(0n, 0xffff_ffff)], data: page(0) }, /at offset 4294967295/],
    ["content of a page of secrets", { headers: [P, igvm.page(0n, 80, 0, 1)], data: page(1) }, /firmware alone fills a page of secrets/],
    ["a VP context without content", { headers: [P, igvm.vpContext(0n, 0)] }, /at offset 0/],
    ["an area of no bytes", { headers: [P, igvm.area(0, 0n)] }, /has 0 bytes/],
    ["an area of half a page", { headers: [P, igvm.area(0, 2048n)] }, /has 2048 bytes/],
    ["an area above the limit", { headers: [P, igvm.area(0, half + 4096n)] }, /whole pages up to/],
    [
      "areas above the limit",
      { headers: [P, igvm.area(0, half), igvm.area(1, 4096n), igvm.insert(0n, 0), igvm.insert(half, 1)] },
      /inserted areas to 67112960/,
    ],
    ["an area twice", { headers: [P, igvm.area(0, 4096n), igvm.area(0, 4096n)] }, /area 0 a second time/],
    ["an area's content behind the end", { headers: [P, igvm.area(0, 8192n, 72)], data: page(0) }, /at offset 72/],
    ["an area that was not declared", { headers: [P, igvm.insert(0n, 0)] }, /not declared/],
    ["an area inserted twice", { headers: [P, igvm.area(0, 4096n), igvm.insert(0n, 0), igvm.insert(4096n, 0)] }, /inserts the parameter area 0 a second time/],
    ["an insert that leaves the address space", { headers: [P, igvm.area(0, 8192n), igvm.insert((1n << 52n) - 4096n, 0)] }, /address 0x10000000000000/],
    ["a parameter of no area", { headers: [P, igvm.parameter(0x307, 0)] }, /not declared/],
    ["a parameter behind its area", { headers: [P, igvm.area(0, 4096n), igvm.parameter(0x307, 0, 4096)] }, /has 4096 bytes/],
    ["memory off its alignment", { headers: [P, igvm.requiredMemory(1n, 1)] }, /address 0x1,/],
    ["an error range of the wrong length", { headers: [P, raw(0x30d, Buffer.alloc(8))] }, /has 8 bytes, expected 16/],
  ])("with %s is refused", (_name, file, message) => {
    const thrown = (() => {
      try {
        return parseIgvm(file instanceof Uint8Array ? file : testIgvm(file));
      } catch (error) {
        return error;
      }
    })();
    expect(thrown).toBeInstanceOf(SnpError);
    expect(thrown).toMatchObject({ code: "ERR_SNP_IGVM", message: expect.stringMatching(message) as unknown });
  });
});
