import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { changeAsContainerd, changeAsTool } from "./capabilities.ts";

const ALL = ["CAP_A", "CAP_B", "CAP_C", "CAP_D"];
const names = fc.array(fc.constantFrom<string[]>("A", "B", "C", "D", "ALL", "a", "CAP_B", "cap_c", "all"));
const initial = fc.subarray(ALL);

describe("changeAsContainerd", () => {
  const full = (name: string): string => `CAP_${name.toUpperCase().replace(/^CAP_/, "")}`;

  it("leaves what was there or added, and is not dropped, each once", () => {
    fc.assert(
      fc.property(initial, names, names, (start, add, drop) => {
        const result = changeAsContainerd(start, ALL, { add, drop });
        const [added, dropped] = [new Set(add.map(full)), new Set(drop.map(full))];
        const base = dropped.has("CAP_ALL") ? [] : added.has("CAP_ALL") ? ALL : start;
        const expected = new Set([...base, ...added].filter((name) => name !== "CAP_ALL" && !dropped.has(name)));
        expect(new Set(result)).toEqual(expected);
        expect(result.length).toBe(expected.size);
      }),
    );
  });

  it("gives nothing more than asked for: no change without names, nothing after dropping all", () => {
    fc.assert(
      fc.property(initial, names, (start, drop) => {
        expect(changeAsContainerd(start, ALL, { add: [], drop: [] })).toEqual(start);
        expect(changeAsContainerd(start, ALL, { add: [], drop: [...drop, "ALL"] })).toEqual([]);
        const result = changeAsContainerd(start, ALL, { add: [], drop });
        expect(changeAsContainerd(result, ALL, { add: [], drop })).toEqual(result);
      }),
    );
  });
});

describe("changeAsTool", () => {
  it("adds after it dropped, names as they are written", () => {
    fc.assert(
      fc.property(initial, names, names, (start, add, drop) => {
        const result = changeAsTool(start, ALL, { add, drop });
        for (const name of add) expect(result).toContain(`CAP_${name}`);
        for (const name of drop) if (!add.includes(name)) expect(result).not.toContain(`CAP_${name}`);
        const kept = result.filter((name) => start.includes(name) && !add.includes(name.slice(4)));
        expect(kept).toEqual(drop.includes("ALL") ? [] : start.filter((name) => !drop.includes(name.slice(4)) && !add.includes(name.slice(4))));
        expect(new Set(result).size).toBe(result.length);
      }),
    );
  });
});
