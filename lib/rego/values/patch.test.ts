import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { applyPatch, fromJson, parsePointer, PatchError, toJson } from "./index.ts";
import type { PatchStep, Value } from "./index.ts";

const path = (text: string): readonly string[] => parsePointer(text);
const value = (json: unknown): Value => fromJson(json as never, 16);

describe("JSON Patch (RFC 6902)", () => {
  it("does not let a copied value follow later changes of its origin", () => {
    const steps: PatchStep[] = [
      { op: "add", path: path("/a"), value: value({ list: [] }) },
      { op: "add", path: path("/a/list/-"), value: 1 },
      { op: "copy", from: path("/a"), path: path("/b") },
      { op: "add", path: path("/a/list/-"), value: 2 },
      { op: "remove", path: path("/b/list/0") },
      { op: "add", path: path("/b/k"), value: 3 },
    ];
    expect(toJson(applyPatch(value({}), steps))).toEqual({ a: { list: [1, 2] }, b: { list: [], k: 3 } });
  });

  it("leaves the operations' own values alone", () => {
    const given = value({ list: [1] });
    const steps: PatchStep[] = [
      { op: "add", path: path("/a"), value: given },
      { op: "add", path: path("/b"), value: given },
      { op: "add", path: path("/a/list/-"), value: 2 },
    ];
    expect(toJson(applyPatch(value({}), steps))).toEqual({ a: { list: [1, 2] }, b: { list: [1] } });
    expect(toJson(given)).toEqual({ list: [1] });
  });

  // Paths of a small document, so that most operations of a random list apply.
  const pointer = fc.constantFrom("/a", "/b", "/c", "/a/x", "/a/y", "/b/0", "/b/-", "/b/1", "/c/x", "/c/x/0", "/a/x/-");
  const json = fc.constantFrom<unknown>(1, "s", null, { x: [1] }, [], [{ y: 2 }], { x: { x: 1 }, y: [0] });
  const step: fc.Arbitrary<PatchStep> = fc.oneof(
    fc.record({ op: fc.constantFrom("add" as const, "replace" as const, "test" as const), path: pointer.map(path), value: json.map(value) }),
    fc.record({ op: fc.constant("remove" as const), path: pointer.map(path) }),
    fc.record({ op: fc.constantFrom("move" as const, "copy" as const), path: pointer.map(path), from: pointer.map(path) }),
  );

  it("gives the same for a list of operations as for one after the other, and never changes the document it got", () => {
    let applied = 0;
    fc.assert(
      fc.property(json, fc.array(step, { maxLength: 12 }), (start, steps) => {
        const document = value({ a: start, b: [start], c: { x: [] } });
        const before = JSON.stringify(toJson(document));
        let expected: Value | undefined = document;
        try {
          // Each on its own works on a document that no operation owns.
          for (const single of steps) expected = value(toJson(applyPatch(expected!, [single])));
        } catch (error) {
          if (!(error instanceof PatchError)) throw error;
          expected = undefined;
        }
        let found: Value | undefined;
        try {
          found = applyPatch(document, steps);
          applied++;
        } catch (error) {
          if (!(error instanceof PatchError)) throw error;
        }
        expect(found === undefined ? undefined : toJson(found)).toEqual(expected === undefined ? undefined : toJson(expected));
        expect(JSON.stringify(toJson(document))).toBe(before);
      }),
      { numRuns: 2000 },
    );
    expect(applied).toBeGreaterThan(50);
  });
});
