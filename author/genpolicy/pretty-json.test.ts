import { parseJson } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compareBytes, encodePrettyJson, type PrintableJson } from "./pretty-json.ts";

describe("encodePrettyJson", () => {
  it("prints two spaces per level, keeps fields, sorts maps by bytes, escapes only what it must", () => {
    const map = new Map([
      ["\u{1f600}", 1],
      ["\uffff", 2],
      ["10", 3],
      ["9", 4],
      ["b", 5],
    ]);
    expect(encodePrettyJson({ z: [], y: {}, x: [1, [true, null]], w: map, v: 'a"\\\n\u0001\u007fé\u2028', u: undefined })).toBe(
      '{\n  "z": [],\n  "y": {},\n  "x": [\n    1,\n    [\n      true,\n      null\n    ]\n  ],\n  "w": {\n    "10": 3,\n    "9": 4,\n    "b": 5,\n    "\uffff": 2,\n    "\u{1f600}": 1\n  },\n  "v": "a\\"\\\\\\n\\u0001\u007fé\u2028"\n}',
    );
  });

  const key = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.nat().map((number) => String(number)),
    fc.constantFrom("__proto__", "constructor", "\u{10ffff}", "\ue000"),
  );
  const { value } = fc.letrec<{ value: PrintableJson }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.constant(null),
      fc.boolean(),
      fc.integer(),
      fc.string({ unit: "binary" }),
      fc.array(tie("value")),
      fc.array(fc.tuple(key, tie("value"))).map((pairs) => new Map(pairs)),
    ),
  }));

  it("prints what JSON reads back", () => {
    const plain = (printable: PrintableJson): unknown =>
      Array.isArray(printable)
        ? printable.map((item: PrintableJson) => plain(item))
        : printable instanceof Map
          ? Object.fromEntries([...printable].map(([name, item]) => [name, plain(item)]))
          : printable;
    fc.assert(
      fc.property(value, (printable) => {
        const text = encodePrettyJson(printable);
        expect(JSON.parse(JSON.stringify(parseJson(text, "text")))).toEqual(JSON.parse(JSON.stringify(plain(printable))));
      }),
    );
  });

  it("sorts the names of a map by their UTF-8 bytes, numbers and astral characters included", () => {
    fc.assert(
      fc.property(fc.uniqueArray(key, { minLength: 1 }), (names) => {
        const lines = encodePrettyJson(new Map(names.map((name) => [name, 0])))
          .split("\n")
          .slice(1, -1);
        const printed = lines.map((line) => JSON.parse(line.trim().replace(/: 0,?$/, "")) as string);
        expect(printed).toEqual(names.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))));
        expect(printed.every((name, index) => index === 0 || compareBytes(printed[index - 1] ?? "", name) < 0)).toBe(true);
      }),
    );
  });
});
