import { parseJson } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { applyDropIn } from "./drop-ins.ts";

const SETTINGS = '{"a": {"b": [1, 2]}, "c": "x"}';
const apply = (patch: string): unknown => JSON.parse(JSON.stringify(applyDropIn(parseJson(SETTINGS), parseJson(patch), "d.json")));

describe("applyDropIn (RFC 6902)", () => {
  it.each([
    ['[{"op": "add", "path": "/a/b/-", "value": 3}]', { a: { b: [1, 2, 3] }, c: "x" }],
    ['[{"op": "add", "path": "/a/b/0", "value": 0}]', { a: { b: [0, 1, 2] }, c: "x" }],
    ['[{"op": "remove", "path": "/a/b/0"}]', { a: { b: [2] }, c: "x" }],
    ['[{"op": "replace", "path": "/c", "value": {"d": null}}]', { a: { b: [1, 2] }, c: { d: null } }],
    ['[{"op": "move", "from": "/c", "path": "/a/c"}]', { a: { b: [1, 2], c: "x" } }],
    ['[{"op": "copy", "from": "/a/b", "path": "/d"}]', { a: { b: [1, 2] }, c: "x", d: [1, 2] }],
    ['[{"op": "test", "path": "/c", "value": "x"}, {"op": "replace", "path": "/c", "value": "y"}]', { a: { b: [1, 2] }, c: "y" }],
    ["[]", { a: { b: [1, 2] }, c: "x" }],
  ])("applies %s", (patch, expected) => {
    expect(apply(patch)).toEqual(expected);
  });

  it.each([
    ["{}", "d.json: is not a JSON Patch: expected an array of operations (RFC 6902)"],
    ['[{"op": "replace"}]', "d.json: operation 0 is not one of RFC 6902"],
    ['[{"op": "merge", "path": "/a"}]', "d.json: operation 0 is not one of RFC 6902"],
    ['[{"op": "test", "path": "/c", "value": "x"}, {"op": "test", "path": "/c", "value": "y"}]', "d.json: operation 1 fails"],
    ['[{"op": "replace", "path": "/none/x", "value": 1}]', "d.json: operation 0 fails"],
    ['[{"op": "remove", "path": "/none"}]', "d.json: operation 0 fails"],
    ['[{"op": "replace", "path": "", "value": {}}]', 'd.json: operation 0 has the path ""'],
    ['[{"op": "add", "path": "/__proto__/x", "value": 1}]', 'd.json: operation 0 has the path "/__proto__/x"'],
    ['[{"op": "copy", "from": "/__proto__/toString", "path": "/x"}]', 'd.json: operation 0 has the path "/__proto__/toString"'],
    ['[{"op": "add", "path": "/a/constructor", "value": 1}]', 'd.json: operation 0 has the path "/a/constructor"'],
  ])("refuses %s", (patch, message) => {
    expect(() => apply(patch)).toThrow(message);
  });

  it("leaves the settings as they were", () => {
    const settings = parseJson(SETTINGS);
    applyDropIn(settings, parseJson('[{"op": "remove", "path": "/a"}]'), "d.json");
    expect(JSON.stringify(settings)).toBe(JSON.stringify(parseJson(SETTINGS)));
  });
});
