import type { JsonObject, JsonValue } from "@sealpod/core";
import type { Policy, RegoErrorCode, RegoLimits } from "@sealpod/rego";
import { compile, RegoError } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { graphqlBuiltins } from "./graphql.ts";

const MODULE = `package t
parse := graphql.parse(input.query, input.schema)
parse_and_verify := graphql.parse_and_verify(input.query, input.schema)
parse_query := graphql.parse_query(input.query)
parse_schema := graphql.parse_schema(input.schema)
is_valid := graphql.is_valid(input.query, input.schema)
schema_is_valid := graphql.schema_is_valid(input.schema)
not_valid if not graphql.is_valid(input.query, input.schema)
reparsed := [query, schema] if [query, schema] := graphql.parse(graphql.parse_query(input.query), graphql.parse_schema(input.schema))
reparsed_valid := graphql.is_valid(graphql.parse_query(input.query), graphql.parse_schema(input.schema))
`;

const policies: Readonly<Record<"lenient" | "strict", Policy>> = {
  lenient: compile([{ name: "t.rego", text: MODULE }], { builtins: graphqlBuiltins }),
  strict: compile([{ name: "t.rego", text: MODULE }], { builtins: graphqlBuiltins, strictBuiltinErrors: true }),
};

/** The value of a rule; undefined if it has none. */
function run(rule: string, input: JsonObject, mode: "lenient" | "strict" = "lenient", limits: Partial<RegoLimits> = {}): JsonValue | undefined {
  return policies[mode].evaluate(`data.t.${rule}`, { input, limits }).results[0]?.expressions[0];
}

function failure(rule: string, input: JsonObject, limits: Partial<RegoLimits> = {}): RegoError {
  try {
    run(rule, input, "strict", limits);
  } catch (error) {
    if (error instanceof RegoError) return error;
    throw error;
  }
  throw new Error("no error was thrown");
}

/** The text of a builtin's failure. */
function reason(rule: string, input: JsonObject): string {
  const { code, message } = failure(rule, input);
  expect(code).toBe("ERR_REGO_BUILTIN");
  return message.slice(message.indexOf("graphql.")).split("\n")[0]!;
}

/** The code of the limit that stops a rule, which must not be one that `not` can turn into true. */
function limit(rule: string, input: JsonObject, limits: Partial<RegoLimits> = {}): RegoErrorCode {
  try {
    run(rule, input, "lenient", limits);
  } catch (error) {
    if (error instanceof RegoError) return error.code;
    throw error;
  }
  throw new Error("no limit was reached");
}

function many(count: number, make: (index: number) => string, separator = " "): string {
  return Array.from({ length: count }, (_, index) => make(index)).join(separator);
}

const SCHEMA = `
"""
Everything
"""
schema { query: Root }
type Root implements Node @tag(name: "root") { id: ID! me(first: Int = 10, filter: Filter): User search(kind: Kind!): [Result!]! }
interface Node { id: ID! }
type User implements Node { id: ID! name: String friends: [User] }
union Result = User | Root
enum Kind { "people" USER ROOT @deprecated(reason: "none") }
input Filter { name: String = "x" ids: [ID!] nested: Filter }
scalar Date @specifiedBy(url: "https://example.org")
directive @tag(name: String!) repeatable on OBJECT | FIELD
extend type User { born: Date }
`;

const QUERY = `
query Me($first: Int = 5, $filter: Filter) {
  me(first: $first, filter: $filter) @include(if: true) { ...Names friends { other: name ... on User { born } ... { id } } }
  search(kind: USER) { ... on User @skip(if: false) { name } __typename }
}
fragment Names on User { id name }
`;

describe("AST of queries", () => {
  it("has gqlparser's names, and leaves out what is empty", () => {
    expect(run("parse_query", { query: "mutation M($a: [Int!]! = [1]) @x { b: c(d: $a) ...F ... on T { e } ... @y { f } }" })).toEqual({
      Operations: [
        {
          Operation: "mutation",
          Name: "M",
          VariableDefinitions: [
            {
              Variable: "a",
              Type: { NamedType: "", Elem: { NamedType: "Int", NonNull: true }, NonNull: true },
              DefaultValue: {
                Raw: "",
                Kind: 8,
                ExpectedTypeHasDefault: false,
                Children: [{ Name: "", Value: { Raw: "1", Kind: 1, ExpectedTypeHasDefault: false } }],
              },
              Used: false,
            },
          ],
          Directives: [{ Name: "x", Location: "" }],
          SelectionSet: [
            { Alias: "b", Name: "c", Arguments: [{ Name: "d", Value: { Raw: "a", Kind: 0, ExpectedTypeHasDefault: false } }] },
            { Name: "F" },
            { TypeCondition: "T", SelectionSet: [{ Alias: "e", Name: "e" }] },
            { TypeCondition: "", Directives: [{ Name: "y", Location: "" }], SelectionSet: [{ Alias: "f", Name: "f" }] },
          ],
        },
      ],
    });
  });

  it.each([
    ["$v", 0, "v"],
    ["-12", 1, "-12"],
    ["1.5e3", 2, "1.5e3"],
    ['"a\\n\\u0041"', 3, "a\nA"],
    ['"""\n  a\n   b\n"""', 4, "a\n b"],
    ["true", 5, "true"],
    ["null", 6, "null"],
    ["RED", 7, "RED"],
    ["[]", 8, ""],
    ["{}", 9, ""],
  ])("gives the value %s the kind %i", (text, kind, raw) => {
    const ast = run("parse_query", { query: `{ f(a: ${text}) }` });
    expect(ast).toMatchObject({ Operations: [{ SelectionSet: [{ Arguments: [{ Value: { Kind: kind, Raw: raw } }] }] }] });
  });

  it("keeps variables of fragments", () => {
    expect(run("parse_query", { query: "fragment F($v: Int) on T { a }" })).toMatchObject({
      Fragments: [{ Name: "F", TypeCondition: "T", VariableDefinition: [{ Variable: "v" }] }],
    });
  });

  it("is empty for an empty text and for comments", () => {
    expect(run("parse_query", { query: "" })).toEqual({});
    expect(run("parse_query", { query: " # nothing\n,," })).toEqual({});
    expect(run("parse_schema", { schema: "" })).toEqual({});
  });
});

describe("AST of schemas", () => {
  it("sorts definitions by what they are", () => {
    const ast = run("parse_schema", { schema: SCHEMA }) as JsonObject;
    expect(Object.keys(ast).toSorted()).toEqual(["Definitions", "Directives", "Extensions", "Schema"]);
    expect(ast["Schema"]).toEqual([{ Description: "Everything", OperationTypes: [{ Operation: "query", Type: "Root" }] }]);
    expect((ast["Definitions"] as JsonObject[]).map((definition) => [definition["Kind"], definition["Name"]])).toEqual([
      ["OBJECT", "Root"],
      ["INTERFACE", "Node"],
      ["OBJECT", "User"],
      ["UNION", "Result"],
      ["ENUM", "Kind"],
      ["INPUT_OBJECT", "Filter"],
      ["SCALAR", "Date"],
    ]);
    expect(ast["Extensions"]).toEqual([
      {
        Kind: "OBJECT",
        Name: "User",
        Description: "",
        BuiltIn: false,
        Fields: [{ Name: "born", Description: "", Type: { NamedType: "Date", NonNull: false } }],
      },
    ]);
    expect(ast["Directives"]).toMatchObject([{ Name: "tag", IsRepeatable: true, Locations: ["OBJECT", "FIELD"] }]);
  });

  it("gives fields of inputs a default value and no arguments", () => {
    expect(run("parse_schema", { schema: 'input I { a: Int = 1 "b" b: ID! @x }' })).toMatchObject({
      Definitions: [
        {
          Fields: [
            { Name: "a", DefaultValue: { Raw: "1", Kind: 1 } },
            { Name: "b", Description: "b", Directives: [{ Name: "x" }] },
          ],
        },
      ],
    });
  });
});

describe("syntax errors", () => {
  it.each([
    ["{", "Expected Name, found <EOF> in GraphQL string at location 1:2"],
    ["{ a(}", "Expected Name, found } in GraphQL string at location 1:5"],
    ["{ a() }", "expected at least one definition, found ) in GraphQL string at location 1:5"],
    ["{ # nothing\n}", "expected at least one definition, found } in GraphQL string at location 2:1"],
    ["{ a: 1 }", 'Expected Name, found Int "1" in GraphQL string at location 1:6'],
    ["fragment F T { a }", 'Expected "on", found Name "T" in GraphQL string at location 1:12'],
    ["query ($a Int) { b }", 'Expected :, found Name "Int" in GraphQL string at location 1:11'],
    ["query ($a: Int = $b) { b }", "Unexpected $ in GraphQL string at location 1:18"],
    ["{ a } type T { a: Int }", 'Unexpected Name "type" in GraphQL string at location 1:7'],
    ['{ a(x: "\u{1F600}" ?) }', "Unexpected <Invalid> in GraphQL string at location 1:12"],
    ['{ a\n"x" }', 'Expected Name, found String "x" in GraphQL string at location 2:2'],
    ["{ ...F(x: 1) }", "Unexpected argument of a fragment spread in GraphQL string at location 1:8"],
  ])("%s", (query, message) => {
    expect(reason("parse_query", { query })).toContain(`graphql.parse_query: ${message}`);
  });

  it("says where a query stands in a schema", () => {
    expect(reason("parse_schema", { schema: "scalar A\nquery { a }" })).toContain('Unexpected Name "query" in GraphQL string at location 2:1');
  });

  it("quotes the start of a long token only", () => {
    expect(reason("parse_query", { query: "x".repeat(10_000) }).length).toBeLessThan(300);
    expect(reason("parse_query", { query: `.${"1".repeat(10_000)}` }).length).toBeLessThan(300);
  });

  it("finds tokens behind an unterminated string no more than the parser", () => {
    expect(reason("parse_query", { query: '{ a ] """' })).toContain("Expected Name, found ] in GraphQL string at location 1:5");
  });
});

describe("schemas", () => {
  it.each([
    ["the whole language", SCHEMA],
    ["nothing", ""],
    ["no query type", "type A { a: Int }"],
    ["extensions of what is not there", "extend type A { a: Int } extend enum B { C }"],
    ["a builtin directive declared again", "directive @deprecated(why: Int) on OBJECT type A { a: Int @deprecated }"],
    ["types of introspection", "type A { a: __Type b: __TypeKind }"],
    ["a covariant field", "interface I { a: I b: [I] } type A implements I { a: A! b: [A!]! c(x: Int! = 1): Int }"],
    ["names of Object.prototype", "type constructor { toString(hasOwnProperty: valueOf): constructor } enum valueOf { isPrototypeOf }"],
  ])("hold with %s", (_, schema) => {
    expect(run("schema_is_valid", { schema })).toBe(true);
  });

  it.each([
    ["type A { a: Int } type A { a: Int }", "Cannot redeclare type A"],
    ["scalar String", "Cannot redeclare type String"],
    ["directive @a on FIELD directive @a on FIELD", "Cannot redeclare directive a"],
    ["schema { query: Q }", "Schema root query refers to a type Q that does not exist"],
    ["union Query = A type A { a: Int }", "Schema root query must be an OBJECT"],
    ["schema { query: A } schema { query: A } type A { a: Int }", "Cannot have multiple schema entry points"],
    ["enum A { B } extend type A { a: Int }", "Cannot extend type A because the base type is a ENUM, not OBJECT"],
    ["extend type Int { a: Int }", "Cannot extend type Int because the base type is a SCALAR, not OBJECT"],
    ["type A { a: B }", "Undefined type B"],
    ["type A { a(x: B): Int }", "Undefined type B"],
    ["type A { a(x: A): Int }", "cannot use A as argument x because OBJECT is not a valid input type"],
    ["type A { a: B } input B { a: Int }", "INPUT_OBJECT field must be one of SCALAR, OBJECT, INTERFACE, UNION, ENUM"],
    ["input A { a: B } type B { a: Int }", "OBJECT field must be one of SCALAR, ENUM, INPUT_OBJECT"],
    ["union A = B scalar B", 'UNION type "B" must be OBJECT'],
    ["union A = B", 'Undefined type "B"'],
    ["type A", "OBJECT A: must define one or more fields"],
    ["input A", "INPUT_OBJECT A: must define one or more input fields"],
    ["enum A", "ENUM A: must define one or more unique enum values"],
    ["type A { a: Int a: Int }", "Field A.a can only be defined once"],
    ["type __A { a: Int }", 'Name "__A" must not begin with "__"'],
    ["type A { __a: Int }", 'Name "__a" must not begin with "__"'],
    ["type A implements B { a: Int }", 'Undefined type "B"'],
    ["type A implements B { a: Int } type B { a: Int }", '"B" is a non interface type OBJECT'],
    ["type A implements I { a: Int } interface I { b: Int }", "For A to implement I it must have a field called b"],
    ["type A implements I { a: Int } interface I { a: Int! }", "For A to implement I the field a must have type Int!"],
    ["type A implements I { a: Int } interface I { a: [Int] }", "For A to implement I the field a must have type [Int]"],
    ["type A implements I { a: Int } interface I { a(x: Int): Int }", "must have the same arguments but it is missing x"],
    ["type A implements I { a(x: ID): Int } interface I { a(x: Int): Int }", "must have the same arguments but x has the wrong type"],
    [
      "type A implements I { a(x: Int!): Int } interface I { a: Int }",
      "any additional arguments on a must be optional or have a default value but x is required",
    ],
    ["interface I implements I { a: Int }", "Type I cannot implement I because it would create a circular reference"],
    ["interface I implements J { a: Int } interface J { a: Int } type A implements I { a: Int }", "Type A must implement J because it is implemented by I"],
    ["type A @b { a: Int }", "Undefined directive b"],
    ["type A @deprecated { a: Int }", "Directive deprecated is not applicable on OBJECT"],
    ["type A { a: Int @deprecated(x: 1) }", "Undefined argument x for directive deprecated"],
    ["scalar A @specifiedBy", "Argument url for directive specifiedBy cannot be null"],
    ["directive @a(x: Int @a) on ARGUMENT_DEFINITION", "Directive a cannot refer to itself"],
    ["type A { a: Int @deprecated(reason: 1) }", "reason"],
  ])("do not hold: %s", (schema, message) => {
    expect(run("schema_is_valid", { schema })).toBe(false);
    expect(reason("parse", { query: "", schema })).toContain(message);
  });

  it("names the first type in order of names", () => {
    expect(reason("parse", { query: "", schema: "type B { a: Y } type A { a: X }" })).toContain("Undefined type X");
  });
});

describe("queries against a schema", () => {
  it("are valid, from text and from ASTs alike", () => {
    expect(run("is_valid", { query: QUERY, schema: SCHEMA })).toBe(true);
    expect(run("reparsed_valid", { query: QUERY, schema: SCHEMA })).toBe(true);
    expect(run("parse_and_verify", { query: QUERY, schema: SCHEMA })).toEqual([
      true,
      run("parse_query", { query: QUERY }),
      run("parse_schema", { schema: SCHEMA }),
    ]);
  });

  it("come back unchanged from ASTs", () => {
    const values = '[1, -1.5e3, "s", """block""", true, null, RED, [[]], { a: {} }, $v]';
    const input = {
      query: `${QUERY} query V($v: Any! = { a: [1] } @on) @on { me { id } any(x: ${values}) @on }`,
      schema: `${SCHEMA} scalar Any directive @on on QUERY | FIELD | VARIABLE_DEFINITION | SCHEMA extend schema @on extend type Root { any(x: Any = ["y"]): Int }`,
    };
    expect(run("reparsed", input, "strict")).toEqual([run("parse_query", input), run("parse_schema", input)]);
  });

  it.each([
    ["{ no }", 'Cannot query field "no" on type "Root" in GraphQL string at location 1:3'],
    ["{ search { __typename } }", 'Field "search" argument "kind" of type "Kind!" is required, but it was not provided in GraphQL string at location 1:3'],
    ["{ id @include }", 'Directive "@include" argument "if" of type "Boolean!" is required, but it was not provided in GraphQL string at location 1:6'],
    ["{ me }", 'Field "me" of type "User" must have a selection of subfields'],
    ["{ id { id } }", "must not have a selection"],
    ["{ search(kind: OTHER) { __typename } }", 'Value "OTHER" does not exist in "Kind" enum'],
    ['{ me(first: "1") { id } }', "Int cannot represent non-integer value"],
    ["{ me(last: 1) { id } }", "Unknown argument"],
    ["{ ...F }", 'Unknown fragment "F"'],
    ["{ id } fragment F on User { id }", 'Fragment "F" is never used'],
    ["query ($a: Int) { id }", 'Variable "$a" is never used'],
    ["{ me(first: $a) { id } }", 'Variable "$a" is not defined'],
    ["query ($a: String) { me(first: $a) { id } }", 'Variable "$a" of type "String" used in position expecting type "Int"'],
    ["mutation { id }", "mutation"],
    ["{ id } { id }", "anonymous operation must be the only defined operation"],
    ["{ a: id a: __typename }", "conflict"],
    ["{ ...A } fragment A on Root { ...B } fragment B on Root { ...A }", 'Cannot spread fragment "A" within itself'],
    ["{ id @constructor }", 'Unknown directive "@constructor"'],
    ["{ constructor __proto__ toString }", 'Cannot query field "constructor"'],
  ])("are refused: %s", (query, message) => {
    expect(reason("parse", { query, schema: SCHEMA })).toContain(message);
    expect(run("is_valid", { query, schema: SCHEMA })).toBe(false);
    expect(run("not_valid", { query, schema: SCHEMA })).toBe(true);
    expect(run("parse", { query, schema: SCHEMA })).toBeUndefined();
    expect(run("parse_and_verify", { query, schema: SCHEMA }, "strict")).toEqual([false, {}, {}]);
  });

  it("know @defer, and need no schema if they ask nothing", () => {
    expect(run("is_valid", { query: '{ me { ... @defer(label: "a") { id } } }', schema: SCHEMA })).toBe(true);
    expect(run("is_valid", { query: "", schema: "" })).toBe(true);
    expect(run("is_valid", { query: "{ a }", schema: "" })).toBe(false);
  });

  it("of malformed text are invalid", () => {
    expect(run("is_valid", { query: "{", schema: SCHEMA })).toBe(false);
    expect(run("is_valid", { query: "{ id }", schema: "type" })).toBe(false);
    expect(run("parse_and_verify", { query: "{", schema: SCHEMA }, "strict")).toEqual([false, {}, {}]);
  });
});

describe("operands", () => {
  it("of a wrong type are errors, or not valid", () => {
    expect(failure("parse_query", { query: 1 })).toMatchObject({ code: "ERR_REGO_OPERAND" });
    expect(failure("parse", { query: "", schema: [] }).message).toContain("operand 2 must be one of {string, object} but got array");
    expect(failure("parse_and_verify", { query: null, schema: "" })).toMatchObject({ code: "ERR_REGO_OPERAND" });
    expect(run("is_valid", { query: [], schema: SCHEMA }, "strict")).toBe(false);
    expect(run("schema_is_valid", { schema: 1 }, "strict")).toBe(false);
  });

  it("that are ASTs may leave members out, and bring others", () => {
    const query = { Operations: [{ Operation: "query", SelectionSet: [{ Alias: "", Name: "id", Position: { Line: 1 }, Directives: null }] }] };
    expect(run("is_valid", { query, schema: SCHEMA }, "strict")).toBe(true);
    const nested = { Operations: [{ Operation: "query", SelectionSet: [{ Name: "me", SelectionSet: [{ Alias: "id", Name: "id" }] }] }] };
    expect(run("is_valid", { query: nested, schema: SCHEMA }, "strict")).toBe(true);
  });

  const operation = (selection: JsonObject): JsonObject => ({ Operations: [{ Operation: "query", SelectionSet: [selection] }] });
  const argument = (value: JsonValue): JsonObject => operation({ Alias: "f", Name: "f", Arguments: [{ Name: "a", Value: value }] });
  it.each<[string, JsonObject, string]>([
    ["a name with a space", operation({ Alias: "a", Name: "a b" }), '"Name" must be a name'],
    ["a name that injects", operation({ Alias: "a", Name: "a\n}" }), '"Name" must be a name'],
    ["an operation of no kind", { Operations: [{ Operation: "delete" }] }, "is no kind of an operation"],
    ["a list that is none", { Operations: {} }, '"Operations" must be an array but got object'],
    ["a list of texts", { Operations: ["query"] }, 'an item of "Operations" must be an object but got string'],
    ["a number as a name", operation({ Alias: "a", Name: 1 }), '"Name" must be a string but got number'],
    ["an argument without a value", argument(null), 'an argument has no "Value"'],
    ["a kind out of range", argument({ Kind: 10, Raw: "" }), '"Kind" of a value must be an integer from 0 to 9'],
    ["a kind that is a fraction", argument({ Kind: 0.5, Raw: "" }), '"Kind" of a value'],
    ["an integer with letters", argument({ Kind: 1, Raw: "1x" }), '"Raw" must be an integer'],
    ["a float with letters", argument({ Kind: 2, Raw: "NaN" }), '"Raw" must be a number'],
    ["a boolean of its own", argument({ Kind: 5, Raw: "yes" }), '"Raw" of a boolean'],
    ["a fragment on nothing", { Fragments: [{ Name: "F" }] }, '"TypeCondition" must be a name'],
    [
      "a variable as a default",
      {
        Operations: [
          {
            Operation: "query",
            VariableDefinitions: [{ Variable: "a", Type: { NamedType: "Int" }, DefaultValue: { Kind: 8, Children: [{ Value: { Raw: "b" } }] } }],
          },
        ],
      },
      "Unexpected $",
    ],
    ["a variable without a type", { Operations: [{ Operation: "query", VariableDefinitions: [{ Variable: "a" }] }] }, 'has no "Type"'],
  ])("are refused with %s", (_, query, message) => {
    expect(reason("parse", { query, schema: SCHEMA })).toContain(message);
  });

  it.each<[string, JsonObject, string]>([
    ["a kind of type that is none", { Definitions: [{ Kind: "TABLE", Name: "A" }] }, "is no kind of a type"],
    ["a field without a type", { Definitions: [{ Kind: "OBJECT", Name: "A", Fields: [{ Name: "a" }] }] }, 'has no "Type"'],
    ["a location that is none", { Directives: [{ Name: "a", Locations: ["HERE"] }] }, "is no location of directives"],
    ["a flag that is none", { Directives: [{ Name: "a", IsRepeatable: 1 }] }, '"IsRepeatable" must be a boolean but got number'],
    ["a type of no name", { Definitions: [{ Kind: "UNION", Name: "A", Types: [1] }] }, 'an item of "Types" must be a string but got number'],
  ])("are refused as a schema with %s", (_, schema, message) => {
    expect(reason("parse", { query: "", schema })).toContain(message);
  });
});

describe("hostile documents", () => {
  it.each([
    ["selections", "{a".repeat(50_000)],
    ["lists", `{a(x:${"[".repeat(50_000)}`],
    ["objects", `{a(x:${"{b:".repeat(50_000)}`],
    ["types", `query($a:${"[".repeat(50_000)}`],
    ["selections that close", `${"{a".repeat(200)}${"}".repeat(200)}`],
  ])("nested %s reach the limit of nesting", (_, query) => {
    expect(limit("parse_query", { query })).toBe("ERR_REGO_LIMIT_NESTING");
    expect(limit("not_valid", { query, schema: SCHEMA })).toBe("ERR_REGO_LIMIT_NESTING");
  });

  it("take the deepest nesting that is allowed", () => {
    const query = `${"{a".repeat(128)}${"}".repeat(128)}`;
    expect(run("is_valid", { query, schema: "type Query { a: Query }" })).toBe(false);
    const leaf = `${"{a".repeat(127)}{b}${"}".repeat(127)}`;
    expect(run("is_valid", { query: leaf, schema: "type Query { a: Query b: Int }" })).toBe(true);
    expect(run("reparsed_valid", { query: leaf, schema: "type Query { a: Query b: Int }" })).toBe(true);
  });

  const selfish = "type Query { a: Query b(x: Int): Int }";
  it("count fragments as if they stood in the place of their spreads", () => {
    const chain = (length: number): string => `{...f0}${many(length, (i) => `fragment f${i} on Query{a{...f${i + 1}}}`)}fragment f${length} on Query{b}`;
    expect(run("is_valid", { query: chain(40), schema: selfish })).toBe(true);
    expect(limit("not_valid", { query: chain(70), schema: selfish })).toBe("ERR_REGO_LIMIT_NESTING");
    expect(limit("not_valid", { query: chain(10_000), schema: selfish })).toBe("ERR_REGO_LIMIT_NESTING");
    const leafFirst = `fragment f0 on Query{b}${many(10_000, (i) => `fragment f${i + 1} on Query{a{...f${i}}}`)}{...f10000}`;
    expect(limit("not_valid", { query: leafFirst, schema: selfish })).toBe("ERR_REGO_LIMIT_NESTING");
  });

  it("expand no fragment twice", () => {
    const bomb = `{...f0}${many(40, (i) => `fragment f${i} on Query{a{...f${i + 1} ...f${i + 1}} c:a{...f${i + 1}}}`)}fragment f40 on Query{b}`;
    expect(run("is_valid", { query: bomb, schema: selfish })).toBe(true);
  });

  it("with fields that are compared pair by pair reach a limit", () => {
    const query = `{${many(5000, (i) => `b(x:${i})`)}}`;
    expect(limit("not_valid", { query, schema: selfish })).toBe("ERR_REGO_LIMIT_STEPS");
  });

  it("with fragments that are compared pair by pair reach a limit", () => {
    const query = `{${many(2000, (i) => `...f${i}`)}}${many(2000, (i) => `fragment f${i} on Query{b a{b}}`)}`;
    expect(limit("not_valid", { query, schema: selfish })).toBe("ERR_REGO_LIMIT_STEPS");
  });

  it("are charged for the schema's long lists", () => {
    const schema = `type Query{b(${many(5000, (i) => `x${i}:Int`)}):Int}`;
    expect(limit("is_valid", { query: `{${many(10_000, (i) => `z${i}:b`)}}`, schema })).toBe("ERR_REGO_LIMIT_STEPS");
    expect(run("is_valid", { query: "{ b(x4999: 1) }", schema })).toBe(true);
  });

  it("are charged before they are read", () => {
    expect(limit("parse_query", { query: "#\n".repeat(3_000_000) })).toBe("ERR_REGO_LIMIT_MEMORY");
    expect(limit("parse_query", { query: `{${"a ".repeat(1000)}}` }, { maxMemory: 100_000 })).toBe("ERR_REGO_LIMIT_MEMORY");
    expect(limit("parse_query", { query: `{${"a ".repeat(1000)}}` }, { maxSteps: 1000 })).toBe("ERR_REGO_LIMIT_STEPS");
  });

  it("have chains of types and of inputs as long as they like", () => {
    const types = `type Query{a:T0}${many(5000, (i) => `type T${i}{a:T${i + 1}}`)}type T5000{a:Int}`;
    expect(run("is_valid", { query: "{a{a{a{__typename}}}}", schema: types })).toBe(true);
    const inputs = `type Query{a(x:I0!):Int}${many(5000, (i) => `input I${i}{a:I${i + 1}!}`)}input I5000{a:I0!}`;
    expect(run("is_valid", { query: "{a(x:{a:{a:{}}})}", schema: inputs })).toBe(false);
  });

  it("that are ASTs with shared parts are charged for each time they occur", () => {
    const doubled = (levels: number): string => many(levels, (i) => `v${i + 1} := {"Kind": 8, "Children": [{"Value": v${i}}, {"Value": v${i}}]}`, "\n");
    const text = `package t\nv0 := {"Kind": 1, "Raw": "1"}\n${doubled(30)}\np if not graphql.is_valid(q, "type Query { a(x: Int): Int }")
q := {"Operations": [{"Operation": "query", "SelectionSet": [{"Alias": "a", "Name": "a", "Arguments": [{"Name": "x", "Value": v30}]}]}]}`;
    const policy = compile([{ name: "t.rego", text }], { builtins: graphqlBuiltins });
    expect(() => policy.evaluate("data.t.p")).toThrow(expect.objectContaining({ code: "ERR_REGO_LIMIT_MEMORY" }));
  });

  it("of a schema are read and checked once in a query, whether it is valid or not", () => {
    const policy = compile(
      [{ name: "t.rego", text: "package t\np := [graphql.is_valid(sprintf(`{ f%d }`, [i]), input.schema) | some i in numbers.range(1, input.count)]" }],
      { builtins: graphqlBuiltins },
    );
    const valid = `type Query { f1: Int }${many(500, (at) => `type T${at} { a: Int }`)}`;
    for (const schema of [valid, `${valid} type T0 { a: Int }`]) {
      const cost = (count: number): number => policy.evaluate("data.t.p", { input: { schema, count } }).cost.memory;
      expect(cost(50)).toBeLessThan(2 * cost(1));
    }
    expect(policy.evaluate("data.t.p", { input: { schema: valid, count: 2 } }).results[0]?.expressions[0]).toEqual([true, false]);
  });

  it("use names of Object.prototype as names", () => {
    const schema = "type Query { constructor: toString } type toString { valueOf(hasOwnProperty: Int): Int }";
    const query = "query($constructor: Int) { constructor { ...toString } } fragment toString on toString { valueOf(hasOwnProperty: $constructor) }";
    expect(run("is_valid", { query, schema })).toBe(true);
    expect(run("reparsed_valid", { query, schema })).toBe(true);
    expect(run("is_valid", { query: "{ valueOf }", schema })).toBe(false);
    expect(run("is_valid", { query: "{ ...isPrototypeOf }", schema })).toBe(false);
  });
});
