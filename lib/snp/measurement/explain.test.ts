import { toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { explainLaunch, LaunchFold, launchDigest, LaunchMeasurement, PAGE_SIZE, processPages, processSources, type SourcedPage } from "../index.ts";

const page = (gpa: bigint, offset?: number, name = "a"): SourcedPage => ({
  kind: "normal",
  gpa,
  contents: new Uint8Array(PAGE_SIZE),
  source: { name, ...(offset === undefined ? {} : { file: "f", offset }) },
});

function folded(...pages: readonly SourcedPage[]): readonly (readonly [bigint, number])[] {
  const fold = new LaunchFold();
  for (const explained of explainLaunch(pages)) fold.add(explained);
  return fold.runs.map(({ gpa, count }) => [gpa, count] as const);
}

describe("explanation of a launch", () => {
  it("folds pages that follow one another in memory and file", () => {
    expect(folded(page(0n, 0), page(0x1000n, 0x1000), page(0x2000n, 0x2000))).toEqual([[0n, 3]]);
    expect(folded(page(0n), page(0x1000n))).toEqual([[0n, 2]]);
  });

  it.each<[string, SourcedPage, SourcedPage]>([
    ["addresses", page(0n, 0), page(0x2000n, 0x1000)],
    ["the same address", page(0n), page(0n)],
    ["offsets", page(0n, 0), page(0x1000n, 0x2000)],
    ["content and none", page(0n, 0), page(0x1000n)],
    ["sources", page(0n, 0), page(0x1000n, 0x1000, "b")],
    ["kinds", page(0n), { kind: "zero", gpa: 0x1000n, source: { name: "a" } }],
  ])("does not fold over a step in %s", (_name, first, second) => {
    expect(folded(first, second)).toHaveLength(2);
  });

  it("goes on from a measurement, and counts all pages", () => {
    const pages = [page(0n), page(0x1000n), page(0x2000n)];
    const start = new LaunchMeasurement(launchDigest(pages.slice(0, 1)));
    const explained = [...explainLaunch(pages.slice(1), start)];
    expect(explained).toHaveLength(2);
    expect(explained.at(-1)?.digestAfter).toEqual(launchDigest(pages));
    expect(toHex(start.digest())).toBe(toHex(launchDigest(pages)));
  });
});

describe("sources of process isolation", () => {
  it("name the file of each page", () => {
    const files = [new Uint8Array(5000), new Uint8Array(), new Uint8Array(4096), Uint8Array.of(1)];
    const [directory, ...pages] = processPages(files);
    if (directory === undefined) throw new Error("unreachable");
    const sourceOf = processSources(directory, ["a", "b", "c", "d"]);
    expect([directory, ...pages].map(({ gpa }) => sourceOf(gpa))).toEqual([
      { name: "directory" },
      { name: "a", file: "a", offset: 0 },
      { name: "a", file: "a", offset: 4096 },
      { name: "c", file: "c", offset: 0 },
      { name: "d", file: "d", offset: 0 },
    ]);
  });

  it("are those of a directory with as many files", () => {
    const [directory] = processPages([new Uint8Array()]);
    if (directory === undefined) throw new Error("unreachable");
    for (const [first, names] of [
      [directory, []],
      [directory, ["a", "b"]],
      [page(0n), []],
      [{ kind: "zero", gpa: 0n }, []],
    ] as const) {
      expect(() => processSources(first, names)).toThrow(expect.objectContaining({ code: "ERR_SNP_PAGE" }));
    }
  });
});
