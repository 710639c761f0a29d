import { Validator } from "@cfworker/json-schema";
import type { JsonValue } from "@sealpod/core";
import type { RegoLimits } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { schemaBuiltins } from "./schema.ts";
import { answers, failures, table } from "../testdata/tables.ts";

const answer = answers(schemaBuiltins);

/** Schema and document as JSON texts, so that any value may stand for either. */
function match(schema: JsonValue, document: JsonValue, strict = false, limits: Partial<RegoLimits> = {}): JsonValue | undefined {
  const input = { document: JSON.stringify(document), schema: JSON.stringify(schema) };
  return answer("json.match_schema(input.document, input.schema)", { input, strict, limits });
}

function verify(schema: JsonValue): JsonValue | undefined {
  return answer("json.verify_schema(input)", { input: JSON.stringify(schema), strict: true });
}

/** For members that a literal of JavaScript would read otherwise. */
function json(text: string): JsonValue {
  return JSON.parse(text) as JsonValue;
}

/** Schemas, documents that match, and documents that do not. */
const CASES: readonly (readonly [name: string, schema: JsonValue, good: readonly JsonValue[], bad: readonly JsonValue[]])[] = [
  ["true", true, [1, null, {}], []],
  ["false", false, [], [1, null, {}]],
  ["nothing", {}, [1, null, {}, [], "x"], []],
  ["type", { type: "integer" }, [1, -5, 1.0, 9007199254740992], [1.5, "1", null, true, [], {}]],
  ["number", { type: "number" }, [1, 1.5], ["1", null]],
  ["types", { type: ["string", "null"] }, ["", null], [0, [], {}]],
  ["each type", { type: ["array", "boolean", "object"] }, [[], true, {}], [1, "x", null]],
  ["const", { const: { a: [1, null] } }, [{ a: [1, null] }], [{ a: [1] }, {}, { a: [null, 1] }, null]],
  ["enum", { enum: [1, "a", null, [2], { b: 1 }] }, [1, "a", null, [2], { b: 1 }], [2, "b", [], [1], {}]],
  ["bounds", { minimum: 1, maximum: 3.5 }, [1, 2, 3.5, "x"], [0.999, 3.6]],
  ["exclusive bounds", { exclusiveMinimum: 1, exclusiveMaximum: 3 }, [1.001, 2], [1, 3, 0]],
  ["multipleOf", { multipleOf: 0.1 }, [0.3, 1, 1e20, -0.7, 0], [0.35, 1e-7]],
  ["multipleOf of integers", { multipleOf: 7 }, [0, 7, -14, 7e15], [1, 8, 7.5]],
  ["lengths count code points", { minLength: 2, maxLength: 3 }, ["ab", "\u{1f600}\u{1f600}\u{1f600}", 1], ["a", "\u{1f600}", "abcd"]],
  ["pattern", { pattern: "^a+$|b" }, ["aa", "xbx", 1], ["", "ac"]],
  ["items", { items: { type: "integer" } }, [[], [1, 2], {}], [[1, "a"]]],
  ["positional items", { items: [{ type: "integer" }, { type: "string" }], additionalItems: false }, [[], [1], [1, "a"]], [["a"], [1, "a", 2]]],
  ["positional items and more", { items: [{ type: "integer" }], additionalItems: { type: "null" } }, [[1, null]], [[1, 2]]],
  ["counts of items", { minItems: 1, maxItems: 2 }, [[1], [1, 2]], [[], [1, 2, 3]]],
  [
    "uniqueItems",
    { uniqueItems: true },
    [[], [1, "1", true, [1], { a: 1 }], [0, false]],
    [
      [1, 1],
      [
        { a: 1, b: 2 },
        { b: 2, a: 1 },
      ],
      [[], []],
    ],
  ],
  ["contains", { contains: { const: 5 } }, [[1, 5]], [[], [1]]],
  ["required", { required: ["a", "__proto__"] }, [json('{"a":1,"__proto__":2}')], [{ a: 1 }, {}]],
  ["required names of prototypes", { required: ["constructor", "toString"] }, [{ constructor: 1, toString: 2 }], [{}]],
  [
    "properties",
    { properties: { a: { type: "integer" }, constructor: { type: "string" } } },
    [{ a: 1 }, {}, { b: 1 }, { constructor: "x" }],
    [{ a: "x" }, { constructor: 1 }],
  ],
  [
    "additionalProperties",
    { properties: { a: {} }, patternProperties: { "^x-": { type: "string" } }, additionalProperties: false },
    [{ a: 1, "x-b": "c" }],
    [{ b: 1 }, { "x-b": 1 }, { toString: 1 }],
  ],
  ["additionalProperties as schema", { properties: { a: {} }, additionalProperties: { type: "null" } }, [{ a: 1, b: null }], [{ b: 1 }]],
  ["counts of properties", { minProperties: 1, maxProperties: 2 }, [{ a: 1 }, { a: 1, b: 2 }], [{}, { a: 1, b: 2, c: 3 }]],
  ["propertyNames", { propertyNames: { maxLength: 2 } }, [{ ab: 1 }, {}], [{ abc: 1 }]],
  ["dependencies", { dependencies: { a: ["b"], c: { required: ["d"] } } }, [{}, { b: 1 }, { a: 1, b: 1 }, { c: 1, d: 1 }], [{ a: 1 }, { c: 1 }]],
  ["allOf", { allOf: [{ minimum: 1 }, { maximum: 2 }] }, [1, 2], [0, 3]],
  ["anyOf", { anyOf: [{ type: "string" }, { minimum: 5 }] }, ["a", 5], [4]],
  ["oneOf", { oneOf: [{ minimum: 1 }, { maximum: 3 }] }, [0, 4], [2]],
  ["not", { not: { type: "null" } }, [1], [null]],
  ["conditions", json('{"if":{"minimum":10},"then":{"multipleOf":10},"else":{"maximum":5}}'), [20, 5], [15, 7]],
  ["a reference", { definitions: { "a/b~c%": { type: "integer" } }, properties: { x: { $ref: "#/definitions/a~1b~0c%25" } } }, [{ x: 1 }], [{ x: "a" }]],
  [
    "a tree",
    { properties: { children: { items: { $ref: "#" } }, name: { type: "string" } }, required: ["name"] },
    [{ name: "a", children: [{ name: "b" }] }],
    [{ name: "a", children: [{}] }],
  ],
  [
    "an identifier",
    { $id: "https://example.org/root.json", definitions: { a: { $id: "item.json", type: "null" } }, items: { $ref: "item.json" } },
    [[null]],
    [[1]],
  ],
  ["an anchor", { definitions: { a: { $id: "#here", type: "null" } }, items: { $ref: "#here" } }, [[null]], [[1]]],
  ["beside a reference nothing counts", { definitions: { a: { type: "null" } }, items: { $ref: "#/definitions/a", type: "string" } }, [[null]], [["x"]]],
  ["dates", { format: "date" }, ["2024-02-29", 1], ["2023-02-29", "x"]],
  ["date-time", { format: "date-time" }, ["2024-02-29T01:02:03Z", "2024-02-29T01:02:03.5+01:00"], ["2024-02-30T01:02:03Z", ""]],
  ["ipv4", { format: "ipv4" }, ["10.0.0.1"], ["10.0.0.256", "::1", "a"]],
  ["ipv6", { format: "ipv6" }, ["::1", "fe80::1"], ["10.0.0.1", ":::", "x"]],
  ["uuid", { format: "uuid" }, ["00112233-4455-6677-8899-aabbccddeeff"], ["0011", "00112233445566778899aabbccddeeff"]],
  ["hostname", { format: "hostname" }, ["a.example", "a-b"], ["-a", "a..b", "a b"]],
  ["email", { format: "email" }, ["a@b.example"], ["a", "@b", "a@", "a b@c"]],
  ["relative-json-pointer", { format: "relative-json-pointer" }, ["0", "1/a", "12#"], ["", "/a", "01", "#", "1#a", "1/~2"]],
  ["uri", { format: "uri" }, ["https://a/b?c#d", "urn:x:y"], ["a/b", "https://a b"]],
  ["json-pointer", { format: "json-pointer" }, ["", "/a/b~0~1"], ["a", "/~2", "/~"]],
  ["regex", { format: "regex" }, ["^a+$"], ["("]],
  ["an unknown format", { format: "colour" }, ["anything"], []],
];

describe("json.match_schema", () => {
  for (const [name, schema, good, bad] of CASES) {
    it(`${name}: what matches`, () => {
      for (const document of good) expect(match(schema, document, true)).toEqual([true, []]);
    });

    it(`${name}: what does not`, () => {
      for (const document of bad) expect((match(schema, document, true) as readonly JsonValue[])[0]).toBe(false);
    });

    // An independent implementation. It is no engine for hostile input, so it only judges the cases above.
    it(`${name}: as @cfworker/json-schema has it`, () => {
      const validator = new Validator(schema as boolean, "7");
      for (const document of good) expect(validator.validate(document).valid).toBe(true);
      for (const document of bad) expect(validator.validate(document).valid).toBe(false);
    });
  }

  it.each([
    ["idn-email", "ä@b.example", "a"],
    ["iri", "https://ä/b", "ä/b"],
    ["iri-reference", "ä/b", "a b"],
    ["uri-template", "/a/{b}{?c,d}", "/a/{b}/{c"],
  ])("knows the format %s", (format, good, bad) => {
    expect(match({ format }, good)).toEqual([true, []]);
    expect(match({ format }, bad)).toEqual([false, [expect.objectContaining({ type: "format" })]]);
  });

  it.each<readonly [JsonValue, JsonValue, readonly (readonly [type: string, field: string, desc: string])[]]>([
    [{ type: "string" }, 1, [["invalid_type", "(root)", "Invalid type. Expected: string, given: integer"]]],
    [{ type: ["string", "null"] }, 1.5, [["invalid_type", "(root)", "Invalid type. Expected: [string,null], given: number"]]],
    [{ required: ["a", "b"] }, { a: 1 }, [["required", "(root)", "b is required"]]],
    [{ properties: { a: { items: { minimum: 5 } } } }, { a: [9, 1] }, [["number_gte", "a.1", "Must be greater than or equal to 5"]]],
    [{ additionalProperties: false }, { a: 1 }, [["additional_property_not_allowed", "(root)", "Additional property a is not allowed"]]],
    [{ enum: ["a", 1] }, "b", [["enum", "(root)", '(root) must be one of the following: "a", 1']]],
    [{ const: null }, "b", [["const", "(root)", "(root) does not match: null"]]],
    [{ uniqueItems: true }, [1, 2, 1], [["unique", "(root)", "array items[0,2] must be unique"]]],
    [{ pattern: "^a" }, "b", [["pattern", "(root)", "Does not match pattern '^a'"]]],
    [{ minLength: 2 }, "b", [["string_gte", "(root)", "String length must be greater than or equal to 2"]]],
    [{ minimum: 1, exclusiveMinimum: true }, 1, [["number_gt", "(root)", "Must be greater than 1"]]],
    [{ maximum: 1, exclusiveMaximum: true }, 1, [["number_lt", "(root)", "Must be less than 1"]]],
    [
      { anyOf: [{ type: "null" }, { required: ["a", "b"] }] },
      {},
      [
        ["number_any_of", "(root)", "Must validate at least one schema (anyOf)"],
        ["invalid_type", "(root)", "Invalid type. Expected: null, given: object"],
      ],
    ],
    [
      json('{"if":true,"then":{"type":"null"}}'),
      1,
      [
        ["condition_then", "(root)", 'Must validate "then" as "if" was valid'],
        ["invalid_type", "(root)", "Invalid type. Expected: null, given: integer"],
      ],
    ],
  ])("%j against %j says what is wrong", (schema, document, wanted) => {
    expect(match(schema, document, true)).toEqual([false, wanted.map(([type, field, desc]) => ({ desc, error: `${field}: ${desc}`, field, type }))]);
  });

  it("keeps integers beyond 2^53 apart", () => {
    expect(answer('json.match_schema("9007199254740993", "{\\"const\\": 9007199254740993}")')).toEqual([true, []]);
    expect(answer('json.match_schema("9007199254740993", "{\\"const\\": 9007199254740992}")[0]')).toBe(false);
    expect(answer('json.match_schema("36893488147419103234", "{\\"multipleOf\\": 36893488147419103232}")[0]')).toBe(false);
  });

  it("takes sets as arrays and keys of any kind as texts", () => {
    expect(answer('json.match_schema({"a": {2, 1}, 5: 1}, {"properties": {"a": {"const": [1, 2]}, "5": {"type": "integer"}}, "required": {"5"}})')).toEqual([
      true,
      [],
    ]);
  });
});

describe("what is no schema", () => {
  it.each<readonly [JsonValue, string]>([
    [1, "a schema must be an object or a boolean"],
    [{ type: "text" }, "has a primitive type that is NOT VALID -- given: /text/ Expected valid values are:[array boolean integer number null object string]"],
    [{ type: 5 }, "type must be a string or an array of strings"],
    [{ properties: { a: 1 } }, "a schema must be an object or a boolean"],
    [{ properties: [] }, "properties must be an object of schemas"],
    [{ anyOf: [] }, "anyOf must be an array of schemas, and not empty"],
    [{ enum: [] }, "enum must be an array that is not empty"],
    [{ required: "a" }, "required must be an array of strings"],
    [{ minLength: -1 }, "minLength must be an integer of at least 0"],
    [{ multipleOf: 0 }, "multipleOf must be a number greater than 0"],
    [{ pattern: "(" }, 'the pattern "(" is not RE2 syntax'],
    [{ pattern: "(?=a)" }, "is not RE2 syntax"],
    [{ patternProperties: { "(a)\\1": {} } }, "is not RE2 syntax"],
    [{ $ref: "#/definitions/none" }, "leads nowhere in the schema"],
    [{ $ref: "https://example.org/schema.json" }, "schemas elsewhere are not fetched"],
    [{ $ref: "file:///etc/passwd" }, "schemas elsewhere are not fetched"],
    [{ $ref: "#/%zz" }, "leads nowhere in the schema"],
    [{ items: { prefixItems: [{ type: "null" }] } }, "the keyword prefixItems belongs to a later draft"],
    [{ unevaluatedProperties: false }, "the keyword unevaluatedProperties belongs to a later draft"],
  ])("%j", (schema, why) => {
    expect(verify(schema)).toEqual([false, expect.stringContaining(`jsonschema: `)]);
    expect((verify(schema) as readonly string[])[1]).toContain(why);
    expect(match(schema, {})).toBeUndefined();
    expect(match(schema, {}, true)).toContain(why);
  });

  it("a definition that nobody refers to is checked too, and one found by reference alone", () => {
    expect((verify({ definitions: { a: { type: "x" } } }) as readonly JsonValue[])[0]).toBe(false);
    expect((verify({ elsewhere: { a: { type: "x" } }, $ref: "#/elsewhere/a" }) as readonly JsonValue[])[0]).toBe(false);
  });

  it("what is a schema has no error", () => {
    for (const [, schema] of CASES) expect(verify(schema)).toEqual([true, null]);
  });
});

failures("operands", answer, [
  ["json.match_schema([1], {})", "wrong type, expected string or object"],
  ["json.match_schema({}, 1)", "wrong type, expected string or object"],
  ['json.match_schema("{", {})', "the text"],
]);

table("texts that are no JSON", answer, [["json.verify_schema(1)", [false, "jsonschema: wrong type, expected string or object"]]]);

describe("hostile schemas", () => {
  it("references that double with each level meet the limit on steps", () => {
    const definitions = Object.fromEntries(
      Array.from({ length: 40 }, (_, at) => [
        `d${at}`,
        at === 39 ? {} : { allOf: [{ $ref: `#/definitions/d${at + 1}` }, { $ref: `#/definitions/d${at + 1}` }] },
      ]),
    );
    expect(match({ definitions, $ref: "#/definitions/d0" }, 1)).toContain("ERR_REGO_LIMIT_STEPS");
  });

  it.each<readonly [string, JsonValue]>([
    ["itself", { $ref: "#" }],
    ["itself by two steps", { definitions: { a: { $ref: "#/definitions/b" }, b: { $ref: "#/definitions/a" } }, $ref: "#/definitions/a" }],
    ["itself within allOf", { allOf: [{ $ref: "#" }] }],
  ])("a schema that refers to %s without end aborts the query", (_name, schema) => {
    expect(match(schema, 1)).toContain("ERR_REGO_LIMIT_CALLS");
  });

  it("parts that are looked at again and again are charged each time", () => {
    const names = Array.from({ length: 1000 }, (_, at) => `k${at}`);
    const object = Object.fromEntries(names.map((name) => [name, 1]));
    const repeated = (count: number, part: JsonValue, document: JsonValue): JsonValue | undefined => {
      const schema = { definitions: { part }, allOf: Array.from({ length: count }, () => ({ $ref: "#/definitions/part" })) };
      return match(schema, document, false, { maxSteps: 100_000 });
    };
    for (const [part, document] of [
      [{ required: names }, object],
      [{ dependencies: { k0: names } }, object],
      [{ properties: {} }, object],
      [{ uniqueItems: true }, [names, 1]],
      [{ additionalItems: false }, names],
    ] as const) {
      expect(repeated(1, part, document)).toEqual([true, []]);
      expect(repeated(200, part, document)).toContain("ERR_REGO_LIMIT_STEPS");
    }
  });

  it("of two members with one name in a text the last counts, as in json.unmarshal", () => {
    expect(answer('json.match_schema(`{"a": 1, "a": "x"}`, {"properties": {"a": {"type": "string"}}})')).toEqual([true, []]);
  });

  it("patterns run in linear time", () => {
    expect(match({ pattern: "^(a+)+$" }, `${"a".repeat(5000)}!`)).toEqual([false, [expect.objectContaining({ type: "pattern" })]]);
    expect((match({ patternProperties: { "^(a|a)*$": false } }, { [`${"a".repeat(5000)}!`]: 1 }) as readonly JsonValue[])[0]).toBe(true);
  });

  it("documents are read within the limits: unique items, many errors, deep nesting", () => {
    const numbers = Array.from({ length: 50_000 }, (_, at) => at);
    expect(match({ uniqueItems: true }, numbers)).toEqual([true, []]);
    expect(answer("count(json.match_schema(input.d, input.s)[1])", { input: { d: JSON.stringify(numbers), s: '{"items": {"type": "string"}}' } })).toBe(50_000);
    expect(answer("json.match_schema(input, {})", { input: "[".repeat(100_000) })).toContain("ERR_REGO_LIMIT_NESTING");
    const deep = (depth: number): JsonValue => (depth === 0 ? {} : { not: deep(depth - 1) });
    expect(match(deep(120), 1)).toEqual([true, []]);
  });
});
