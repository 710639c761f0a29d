import { createHash } from "node:crypto";
import { toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { imagePages, launchDigest, LaunchMeasurement, type LaunchPage, MAX_PROCESS_FILES, PAGE_SIZE, processPages } from "../index.ts";

function sha384(...parts: readonly Uint8Array[]): Buffer {
  const hash = createHash("sha384");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** PAGE_INFO of AMD 56860 table 67, written out a second time. */
function pageInfo(before: Uint8Array, contents: Uint8Array, type: number, gpa: bigint): Buffer {
  const info = Buffer.alloc(0x70);
  info.set(before, 0);
  info.set(contents, 48);
  info.writeUInt16LE(0x70, 0x60);
  info.writeUInt8(type, 0x62);
  info.writeBigUInt64LE(gpa, 0x68);
  return info;
}

const PAGE = new Uint8Array(PAGE_SIZE).fill(0xa5);

describe("launch digest (AMD 56860, SNP_LAUNCH_UPDATE)", () => {
  it("is zero before the first page", () => {
    expect(launchDigest([])).toEqual(new Uint8Array(48));
  });

  it.each([
    ["normal", 1],
    ["vmsa", 2],
    ["zero", 3],
    ["unmeasured", 4],
    ["secrets", 5],
    ["cpuid", 6],
  ] as const)("chains a %s page with type %i", (kind, type) => {
    const page: LaunchPage = kind === "normal" || kind === "vmsa" ? { kind, gpa: 0xfffff_fffff000n, contents: PAGE } : { kind, gpa: 0xfffff_fffff000n };
    const contents = type <= 2 ? sha384(PAGE) : new Uint8Array(48);
    expect(Buffer.from(launchDigest([page]))).toEqual(sha384(pageInfo(new Uint8Array(48), contents, type, 0xfffff_fffff000n)));
  });

  it("depends on order, kind, place and content", () => {
    const page = (gpa: bigint, contents = PAGE): LaunchPage => ({ kind: "normal", gpa, contents });
    const digests = [
      [page(0n), page(4096n)],
      [page(4096n), page(0n)],
      [page(0n)],
      [page(0n), page(8192n)],
      [page(0n), { kind: "vmsa", gpa: 4096n, contents: PAGE }],
      [page(0n), page(4096n, new Uint8Array(PAGE_SIZE))],
      [page(0n), { kind: "zero", gpa: 4096n }],
    ] as const;
    expect(new Set(digests.map((pages) => toHex(launchDigest(pages)))).size).toBe(digests.length);
  });

  it("can go on from a digest", () => {
    const [first, second]: readonly LaunchPage[] = [
      { kind: "normal", gpa: 0n, contents: PAGE },
      { kind: "cpuid", gpa: 4096n },
    ];
    if (first === undefined || second === undefined) throw new Error("unreachable");
    expect(new LaunchMeasurement(launchDigest([first])).add(second).digest()).toEqual(launchDigest([first, second]));
    expect(() => new LaunchMeasurement(new Uint8Array(32))).toThrow(expect.objectContaining({ code: "ERR_SNP_PAGE" }));
  });

  it.each<[string, LaunchPage]>([
    ["a short page", { kind: "normal", gpa: 0n, contents: PAGE.subarray(1) }],
    ["a long page", { kind: "vmsa", gpa: 0n, contents: new Uint8Array(PAGE_SIZE + 1) }],
    ["a page that is not aligned", { kind: "zero", gpa: 1n }],
    ["a page below zero", { kind: "zero", gpa: -4096n }],
    ["a page above 2^64", { kind: "zero", gpa: 1n << 64n }],
  ])("refuses %s", (_name, page) => {
    expect(() => launchDigest([page])).toThrow(expect.objectContaining({ code: "ERR_SNP_PAGE" }));
  });
});

describe("pages of images", () => {
  it("pads the last one with zeros", () => {
    const pages = [...imagePages(new Uint8Array(PAGE_SIZE + 1).fill(7), 0x10000n)];
    expect(pages.map(({ gpa }) => gpa)).toEqual([0x10000n, 0x11000n]);
    const [, last] = pages;
    expect(last?.kind === "normal" && Buffer.from(last.contents).equals(Buffer.concat([Buffer.of(7), Buffer.alloc(PAGE_SIZE - 1)]))).toBe(true);
    expect([...imagePages(new Uint8Array(), 0n)]).toEqual([]);
  });
});

describe("pages of process isolation", () => {
  const digest = (...files: readonly Uint8Array[]): string => toHex(launchDigest(processPages(files)));

  it("begin with the directory, then the files from whole pages", () => {
    const pages = [...processPages([new Uint8Array(5000), Uint8Array.of(1)])];
    expect(pages.map(({ gpa }) => gpa)).toEqual([0n, 4096n, 8192n, 12288n]);
    const directory = pages[0]?.kind === "normal" ? Buffer.from(pages[0].contents) : Buffer.alloc(0);
    expect(directory.subarray(0, 16).toString()).toBe("SEALPOD-PROCESS\0");
    expect([directory.readUInt32LE(16), directory.readBigUInt64LE(24), directory.readBigUInt64LE(32)]).toEqual([2, 5000n, 1n]);
  });

  it("differ for files that lie in memory alike", () => {
    const a = new Uint8Array(PAGE_SIZE);
    const sets = [[], [new Uint8Array()], [a], [a, new Uint8Array()], [new Uint8Array(), a], [a.subarray(1)], [a, a], [new Uint8Array(2 * PAGE_SIZE)]];
    expect(new Set(sets.map((files) => digest(...files))).size).toBe(sets.length);
  });

  it("have a limit on the number of files", () => {
    const files = (count: number): readonly Uint8Array[] => Array.from({ length: count }, () => new Uint8Array());
    expect([...processPages(files(MAX_PROCESS_FILES))]).toHaveLength(1);
    expect(() => [...processPages(files(MAX_PROCESS_FILES + 1))]).toThrow(expect.objectContaining({ code: "ERR_SNP_PAGE" }));
  });
});
