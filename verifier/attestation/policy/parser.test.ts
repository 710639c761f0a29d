import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AttestationError } from "../errors.ts";
import {
  CLAIM_PROPERTIES,
  FUNCTIONS,
  OPERATORS,
  POLICY_VERSIONS,
  SECTIONS,
  type Action,
  type Condition,
  type Expression,
  type PolicyTree,
  type PropertyTest,
  type Rule,
  type Section,
} from "./ast.ts";
import { parsePolicy, policyHash, policyProblems, DEFAULT_POLICY_TEXT, printPolicy } from "./index.ts";
import { MAX_CONDITIONS, MAX_NAME, MAX_NESTING, MAX_POLICY_TEXT, MAX_PROBLEMS, MAX_RULES, MAX_STRING } from "./limits.ts";
import { parseTree } from "./parser.ts";
import { PolicyProblems } from "./source.ts";

const at = { line: 1, column: 1, offset: 0 };

/** A tree without its positions. */
function bare(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(bare);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).flatMap(([name, item]) => (name === "at" || name === "versionAt" ? [] : [[name, bare(item)]])));
}

function treeOf(text: string): PolicyTree {
  const problems = new PolicyProblems(text);
  const { tree } = parseTree(text, problems);
  problems.throwIfAny();
  return tree;
}

/** The first rule of a section of a policy of version 1.2. */
function ruleOf(rule: string, section = "issuancerules"): Rule {
  const found = treeOf(`version=1.2;${section}{${rule}};`).sections[0]?.rules[0];
  if (found === undefined) throw new Error("no rule");
  return found;
}

function errorOf(run: () => unknown): AttestationError {
  try {
    run();
  } catch (error) {
    if (error instanceof AttestationError) return error;
    throw error;
  }
  throw new Error("no error was thrown");
}

describe("the grammar", () => {
  it.each(POLICY_VERSIONS)("reads version %s", (version) => {
    expect(treeOf(`version=${version};authorizationrules{};`).version).toBe(version);
    expect(treeOf(`version = ${version} ; authorizationrules { } ; `).version).toBe(version);
  });

  it("reads the three sections in their order", () => {
    const { sections } = treeOf("version=1.1;configurationrules{};authorizationrules{};issuancerules{};");
    expect(sections.map(({ kind }) => kind)).toEqual([...SECTIONS]);
  });

  it("leaves out the last semicolon of the text and of a section, as published policies do", () => {
    expect(treeOf("version=1.0;authorizationrules{=>permit()}").sections[0]?.rules).toHaveLength(1);
    expect(treeOf('version=1.0;authorizationrules{[type=="a"]=>deny();=>permit()};').sections[0]?.rules).toHaveLength(2);
    expect(policyProblems("version=1.0 authorizationrules{=>permit();};")).toHaveLength(1);
    expect(policyProblems("version=1.0;authorizationrules{=>permit();}issuancerules{};")).toHaveLength(1);
    expect(policyProblems("version=1.0;authorizationrules{=>deny()=>permit();};")).toHaveLength(1);
  });

  it("skips comments and every kind of white space", () => {
    const text = '// first\r\nversion=1.0;//\n\tauthorizationrules{ // { "\n  =>// no\n permit();\r\n};// last';
    expect(bare(treeOf(text))).toEqual(bare(treeOf("version=1.0;authorizationrules{=>permit();};")));
  });

  it("reads conditions, bound and negated", () => {
    expect(bare(ruleOf('c:[type=="a",value!=5]&&![issuer=="CustomClaim"]&&[valueType=="Integer"]=>issue(claim=c);'))).toEqual({
      conditions: [
        {
          negated: false,
          identifier: { name: "c" },
          tests: [
            { property: "type", operator: "==", operand: { kind: "string", value: "a" } },
            { property: "value", operator: "!=", operand: { kind: "integer", value: 5 } },
          ],
        },
        { negated: true, identifier: undefined, tests: [{ property: "issuer", operator: "==", operand: { kind: "string", value: "CustomClaim" } }] },
        { negated: false, identifier: undefined, tests: [{ property: "valueType", operator: "==", operand: { kind: "string", value: "Integer" } }] },
      ],
      action: { kind: "hand-on", name: "issue", claim: { name: "c" } },
    });
  });

  it.each([...OPERATORS.map((operator) => [operator, operator] as const), ["=", "=="] as const])("reads the comparison %s", (written, operator) => {
    expect(ruleOf(`[value ${written} 1] => issue(type="a", value=1);`).conditions[0]?.tests[0]?.operator).toBe(operator);
  });

  it.each<[string, unknown]>([
    ['"text"', { kind: "string", value: "text" }],
    ['""', { kind: "string", value: "" }],
    ['"a \\"quote\\" and \\\\ and // and é 😀"', { kind: "string", value: 'a "quote" and \\ and // and é 😀' }],
    ["0", { kind: "integer", value: 0 }],
    ["-7", { kind: "integer", value: -7 }],
    ["9007199254740991", { kind: "integer", value: 9007199254740991 }],
    ["9007199254740993", { kind: "integer", value: 9007199254740993n }],
    ["18446744073709551615", { kind: "integer", value: 18446744073709551615n }],
    ["-9223372036854775808", { kind: "integer", value: -9223372036854775808n }],
    ["true", { kind: "boolean", value: true }],
    ["false", { kind: "boolean", value: false }],
    ["c.value", { kind: "reference", identifier: "c", property: "value" }],
    ["_c1.valueType", { kind: "reference", identifier: "_c1", property: "valueType" }],
    [
      'AppendString(c.value, JmesPath("{}", "a"))',
      {
        kind: "call",
        name: "AppendString",
        arguments: [
          { kind: "reference", identifier: "c", property: "value" },
          {
            kind: "call",
            name: "JmesPath",
            arguments: [
              { kind: "string", value: "{}" },
              { kind: "string", value: "a" },
            ],
          },
        ],
      },
    ],
    ["NegateBool()", { kind: "call", name: "NegateBool", arguments: [] }],
  ])("reads the expression %s", (text, expected) => {
    expect(bare(ruleOf(`c:[type=="x"] => issue(type="a", value=${text});`).action)).toMatchObject({ kind: "make", name: "issue", value: expected });
    expect(bare(ruleOf(`[value == ${text}] => permit();`, "authorizationrules").conditions[0]?.tests[0]?.operand)).toEqual(expected);
  });

  it("reads all parts of a claim that is made, in any order", () => {
    expect(bare(ruleOf('=> add(valueType="String", issuer="CustomClaim", value="v", type="t");').action)).toEqual({
      kind: "make",
      name: "add",
      type: { kind: "string", value: "t" },
      value: { kind: "string", value: "v" },
      issuer: { kind: "string", value: "CustomClaim" },
      valueType: { kind: "string", value: "String" },
    });
  });

  it("knows where everything stands, in code points", () => {
    const rule = treeOf('version=1.0;\nauthorizationrules{\n  [type=="😀😀"] && c:[value==true] => permit();\n};').sections[0]?.rules[0];
    expect(rule?.at).toEqual({ line: 3, column: 3, offset: 35 });
    expect(rule?.conditions[1]?.at).toEqual({ line: 3, column: 19, offset: 53 });
    expect(rule?.conditions[1]?.tests[0]?.operand.at).toMatchObject({ line: 3, column: 29 });
    expect(rule?.action.at).toMatchObject({ line: 3, column: 38 });
  });
});

describe("printPolicy", () => {
  const name = fc
    .stringMatching(/^[a-z_][A-Za-z0-9_]{0,8}$/)
    .filter((text) => !["type", "value", "issuer", "claim", "true", "false", "add", "issue", "deny", "permit", "version"].includes(text));
  // eslint-disable-next-line no-control-regex -- strings of the language have none
  const text = fc.string({ unit: "grapheme", maxLength: 12 }).map((value) => value.toWellFormed().replaceAll(/[\u0000-\u001f]/g, ""));
  const property = fc.constantFrom(...CLAIM_PROPERTIES);
  const { expression } = fc.letrec<{ expression: Expression }>((tie) => ({
    expression: fc.oneof(
      { maxDepth: 4 },
      fc.record({ kind: fc.constant("string" as const), value: text, at: fc.constant(at) }),
      fc.record({
        kind: fc.constant("integer" as const),
        value: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }).map((value) => (Number.isSafeInteger(Number(value)) ? Number(value) : value)),
        at: fc.constant(at),
      }),
      fc.record({ kind: fc.constant("boolean" as const), value: fc.boolean(), at: fc.constant(at) }),
      fc.record({ kind: fc.constant("reference" as const), identifier: name, property, at: fc.constant(at) }),
      fc.record({
        kind: fc.constant("call" as const),
        name: fc.constantFrom(...FUNCTIONS),
        arguments: fc.array(tie("expression"), { maxLength: 3 }),
        at: fc.constant(at),
      }),
    ),
  }));
  const test: fc.Arbitrary<PropertyTest> = fc.record({ property, operator: fc.constantFrom(...OPERATORS), operand: expression, at: fc.constant(at) });
  const identifier = fc.record({ name, at: fc.constant(at) });
  const condition: fc.Arbitrary<Condition> = fc.record({
    negated: fc.boolean(),
    identifier: fc.option(identifier, { nil: undefined }),
    tests: fc.array(test, { minLength: 1, maxLength: 4 }),
    at: fc.constant(at),
  });
  const verb = fc.constantFrom("add" as const, "issue" as const, "issueproperty" as const);
  const optional = fc.option(expression, { nil: undefined });
  const action: fc.Arbitrary<Action> = fc.oneof(
    fc.record({ kind: fc.constant("decide" as const), name: fc.constantFrom("permit" as const, "deny" as const), at: fc.constant(at) }),
    fc.record({ kind: fc.constant("hand-on" as const), name: verb, claim: identifier, at: fc.constant(at) }),
    fc.record({
      kind: fc.constant("make" as const),
      name: verb,
      type: expression,
      value: expression,
      issuer: optional,
      valueType: optional,
      at: fc.constant(at),
    }),
  );
  const rule: fc.Arbitrary<Rule> = fc.record({ conditions: fc.array(condition, { maxLength: 3 }), action, at: fc.constant(at) });
  const section: fc.Arbitrary<Section> = fc.record({ kind: fc.constantFrom(...SECTIONS), rules: fc.array(rule, { maxLength: 3 }), at: fc.constant(at) });
  const tree: fc.Arbitrary<PolicyTree> = fc.record({
    version: fc.constantFrom(...POLICY_VERSIONS),
    versionAt: fc.constant(at),
    sections: fc.array(section, { maxLength: 4 }),
  });

  it("gives a text that parses to the same tree", () => {
    fc.assert(
      fc.property(tree, (policy) => {
        expect(bare(treeOf(printPolicy(policy)))).toEqual(bare(policy));
      }),
      { numRuns: 400 },
    );
  });

  it("is its own canonical form", () => {
    const text =
      'version= 1.0;\nauthorizationrules\n{\n    c:[type == "a\\\\b", value >= 5] && ![value == true] => permit();\n    => deny();\n};\nissuancerules{};\n';
    expect(printPolicy(treeOf(text))).toBe(text);
    expect(printPolicy(treeOf(DEFAULT_POLICY_TEXT))).toBe(DEFAULT_POLICY_TEXT);
  });
});

describe("what is wrong with a policy", () => {
  const inAuthorization = (rule: string): string => `version=1.2;\nauthorizationrules{\n${rule}\n};`;
  const inIssuance = (rule: string): string => `version=1.2;authorizationrules{=>permit();};\nissuancerules{\n${rule}\n};`;

  /** Text, and of each problem `line:column found | problem`. */
  it.each<[string, readonly string[]]>([
    // The frame.
    ["", ["1:1 the end of the policy | expected 'version'", "1:1 the end of the policy | expected the section 'authorizationrules'"]],
    ["version=1.0;", ["1:13 the end of the policy | expected the section 'authorizationrules'"]],
    ["version 1.0;authorizationrules{};", ["1:9 '1.0' | expected '='"]],
    ["version=2.0;authorizationrules{};", ["1:9 '2.0' | expected '1.0', '1.1' or '1.2'"]],
    ["version=1;authorizationrules{};", ["1:9 '1' | expected '1.0', '1.1' or '1.2'"]],
    ['version="1.0";authorizationrules{};', ["1:9 '\"1.0\"' | expected '1.0', '1.1' or '1.2'"]],
    ["version=1.0\nauthorizationrules{};", ["2:1 'authorizationrules' | expected ';'"]],
    ["authorizationrules{};", ["1:1 'authorizationrules' | expected 'version'"]],
    ["version=1.0;authorizationrules{};authorizationrules{};", ["1:34 'authorizationrules' | the section is there already"]],
    ["version=1.0;issuancerules{};authorizationrules{};", ["1:29 'authorizationrules' | the section stands before 'issuancerules'"]],
    ["version=1.0;configurationrules{};authorizationrules{};", ["1:13 'configurationrules' | version 1.0 has no configurationrules"]],
    ["version=1.0;authorisationrules{};authorizationrules{};", ["1:13 'authorisationrules' | expected a section"]],
    ["version=1.0;authorizationrules[];", ["1:31 '[' | expected '{'"]],
    ["version=1.0;authorizationrules{=>permit();", ["1:43 the end of the policy | expected a rule or '}'"]],
    ["version=1.0;authorizationrules{};;", ["1:34 ';' | expected a section"]],
    ["\ufeffversion=1.0;authorizationrules{};", ["1:1 U+FEFF | a byte order mark is no part of a policy"]],
    [
      "version=1.0;/* x */authorizationrules{};",
      [
        "1:13 '/' | comments start with // and end with the line",
        "1:14 '*' | the language has no such character outside of strings and comments",
        "1:18 '*' | the language has no such character outside of strings and comments",
        "1:19 '/' | comments start with // and end with the line",
        "1:16 'x' | expected a section",
      ],
    ],
    // Rules.
    [inAuthorization("permit();"), ["3:1 'permit' | expected the name of a claim"]],
    [inAuthorization("=> permit;"), ["3:10 ';' | expected '('"]],
    [inAuthorization("=> permit(true);"), ["3:11 'true' | expected ')'"]],
    [inAuthorization("=> allow();"), ["3:4 'allow' | expected 'permit', 'deny', 'add', 'issue', 'issueproperty'"]],
    [inAuthorization("[] => permit();"), ["3:2 ']' | expected 'type', 'value', 'issuer' or 'valueType'"]],
    [inAuthorization('[Type=="a"] => permit();'), ["3:2 'Type' | expected 'type', 'value', 'issuer' or 'valueType'"]],
    [inAuthorization('[type "a"] => permit();'), ["3:7 '\"a\"' | expected '==', '!=', '<', '<=', '>', '>='"]],
    [inAuthorization("[type==a] => permit();"), ["3:9 ']' | expected '.'"]],
    [
      inAuthorization("[type=='a'] => permit();"),
      ["3:8 ''' | strings stand in double quotes", "3:10 ''' | strings stand in double quotes", "3:11 ']' | expected '.'"],
    ],
    [inAuthorization('[type=="a" value==1] => permit();'), ["3:12 'value' | expected ',' or ']'"]],
    [inAuthorization('[type=="a"] || [type=="b"] => permit();'), ["3:13 '|' | there is no 'or'", "3:16 '[' | expected '&&' or '=>'"]],
    [inAuthorization('[type=="a"] & [type=="b"] => permit();'), ["3:13 '&' | expected '&&'", "3:15 '[' | expected '&&' or '=>'"]],
    [inAuthorization("[value==1.5] => permit();"), ["3:9 '1.5' | expected an integer"]],
    [inAuthorization("[value==18446744073709551616] => permit();"), ["3:9 '18446744073709551616' | expected an integer of 64 bits"]],
    [
      inAuthorization('[type=="a] => permit();'),
      ["3:8 '\"a] => permit();' | the string has no end on its line: expected '\"'", "4:1 '}' | expected ',' or ']'"],
    ],
    [inAuthorization('[type=="a\\n"] => permit();'), ["3:10 '\\n' | unknown escape in a string"]],
    [inAuthorization('[type=="a\u0000"] => permit();'), ["3:10 U+0000 | control character in a string"]],
    [inAuthorization('[type=="\ud800"] => permit();'), ["3:8 an unpaired surrogate | the string is not well-formed Unicode, so it has no UTF-8 and no hash"]],
    [inAuthorization('add:[type=="a"] => permit();'), ["3:1 'add' | expected the name of a claim"]],
    [inAuthorization('c[type=="a"] => permit();'), ["3:2 '[' | expected ':'"]],
    [inAuthorization('=> add(type="a");'), ["3:16 ')' | expected 'value'"]],
    [inAuthorization("=> add(value=1);"), ["3:15 ')' | expected 'type'"]],
    [inAuthorization("=> add();"), ["3:8 ')' | expected 'claim', 'type', 'value', 'issuer' or 'valueType'"]],
    [inAuthorization('=> add(type="a", type="b", value=1);'), ["3:18 'type' | expected no second 'type'"]],
    [inAuthorization('c:[type=="a"] => add(claim=c, value=1);'), ["3:31 'value' | expected ')'"]],
    [inAuthorization('=> add(type=="a", value=1);'), ["3:12 '==' | expected '='"]],
    [inAuthorization('=> add(type="a", value=Foo(1));'), ["3:24 'Foo' | expected a function"]],
    // Names.
    [inIssuance("=> issue(claim=c);"), ["3:16 'c' | no condition gives this name to a claim; no condition names a claim"]],
    [inIssuance('cc:[type=="a"] => issue(claim=cd);'), ["3:31 'cd' | no condition gives this name to a claim; the conditions name 'cc'"]],
    [inIssuance('c:[type=="a"] => issue(type="b", value=d.value);'), ["3:40 'd' | no condition gives this name to a claim; the conditions name 'c'"]],
    [inIssuance('c:[type=="a", value==c.type] => issue(claim=c);'), ["3:22 'c' | a condition cannot speak of the claim that it is about to find"]],
    [inIssuance('c:[type==d.value] && d:[type=="b"] => issue(claim=c);'), ["3:10 'd' | the name is given only by a later condition"]],
    [inIssuance('c:[type=="a"] && c:[type=="b"] => issue(claim=c);'), ["3:18 'c' | the name is given already, to another condition of the rule"]],
    [inIssuance('!c:[type=="a"] => issue(type="b", value=1);'), ["3:2 'c' | a negated condition is met when there is no claim, so there is none to name"]],
    [
      inIssuance('!c:[type=="a"] => issue(claim=c);'),
      [
        "3:2 'c' | a negated condition is met when there is no claim, so there is none to name",
        "3:31 'c' | no condition gives this name to a claim; no condition names a claim",
      ],
    ],
    // Actions out of place.
    [inIssuance("=> permit();"), ["3:4 'permit' | issuancerules may not permit: expected 'add', 'issue', 'issueproperty'"]],
    [inAuthorization('=> issue(type="a", value=1);'), ["3:4 'issue' | authorizationrules may not issue: expected 'permit', 'deny', 'add'"]],
    ["version=1.1;configurationrules{=>deny();};authorizationrules{};", ["1:34 'deny' | configurationrules may not deny: expected 'issueproperty'"]],
    // Kinds.
    [inAuthorization('[value > "5"] => permit();'), ["3:10 '\"5\"' | > is for integers, found a string"]],
    [inAuthorization("[value <= true] => permit();"), ["3:11 'true' | <= is for integers, found a boolean"]],
    [inAuthorization('[type >= "a"] => permit();'), ["3:10 '\"a\"' | type is a string, and >= is for integers"]],
    [inAuthorization("[type == 5] => permit();"), ["3:10 '5' | type is a string, found an integer"]],
    [
      inAuthorization('[issuer == "AttestatonService"] => permit();'),
      ['3:12 \'"AttestatonService"\' | no claim has this issuer: expected "AttestationService", "AttestationPolicy", "CustomClaim"'],
    ],
    [inAuthorization('[valueType == "Float"] => permit();'), ['3:15 \'"Float"\' | no claim has this valueType: expected "String", "Integer", "Boolean"']],
    [inAuthorization("=> add(type=5, value=1);"), ["3:13 '5' | type is a string, found an integer"]],
    [inAuthorization('=> add(type="", value=1);'), ["3:13 '\"\"' | a claim has a name: expected a string that is not empty"]],
    [inAuthorization('=> add(type="a", value=1, valueType="String");'), ["3:37 '\"String\"' | the value is an integer"]],
    [inAuthorization('=> add(type="a", value=NegateBool("x"));'), ["3:35 '\"x\"' | NegateBool takes a boolean as argument 1, found a string"]],
    [inAuthorization('=> add(type="a", value=AppendString("x"));'), ["3:24 'AppendString' | AppendString takes 2 arguments, found 1"]],
    [inAuthorization('=> add(type="a", value=JmesPath("{}", "a..b"));'), ["3:39 '\"a..b\"' | it is no JMESPath expression: something is missing"]],
    [inAuthorization('=> add(type="a", value=JmesPath("{}", "nope(@)"));'), ['3:39 \'"nope(@)"\' | JMESPath has no function "nope"']],
    // Functions before 1.2.
    ["version=1.1;authorizationrules{[value==NegateBool(true)]=>permit();};", ["1:40 'NegateBool' | version 1.1 has no functions"]],
    // Claims that are not a policy's to make.
    [
      inIssuance('=> issue(type="x-ms-sevsnpvm-hostdata", value="00");'),
      ["3:15 '\"x-ms-sevsnpvm-hostdata\"' | this claim is the service's own to make, and a policy may not"],
    ],
    [inIssuance('=> issue(type="iss", value="https://a");'), ["3:15 '\"iss\"' | this claim is the service's own to make, and a policy may not"]],
    [inIssuance('=> issue(type="a", value=1, issuer="AttestationService");'), ["3:36 '\"AttestationService\"' | a policy makes no claims of the service"]],
    // Several at once: each rule is read though another is broken.
    [
      inAuthorization('[typ=="a"] => permit();\n=> permit()\n[value>true] => deny();\n=> isue(claim=c);'),
      [
        "3:2 'typ' | expected 'type', 'value', 'issuer' or 'valueType'",
        "5:1 '[' | expected ';'",
        "5:8 'true' | > is for integers, found a boolean",
        "6:4 'isue' | expected 'permit', 'deny', 'add', 'issue', 'issueproperty'",
      ],
    ],
  ])("%j", (text, expected) => {
    const found = policyProblems(text).map(({ line, column, found: symbol, problem }) => `${line}:${column} ${symbol} | ${problem}`);
    expect(found.toSorted()).toEqual([...expected].sort());
    expect(errorOf(() => parsePolicy(text)).code).toBe("ERR_ATTESTATION_POLICY_SYNTAX");
  });

  it("comes in the order of the text, with caret and hint, in the shape of the genuine service", () => {
    const error = errorOf(() => parsePolicy('version= 1.0;\nautorizationrules{};\nauthorizationrules{\n\t[type=="😀", typ=="b"] => permit();\n};'));
    expect(error.message).toBe(
      [
        "Policy Parser Exception Thrown: Offending symbol 'autorizationrules'. Line: '2', Column: '1'. expected a section",
        "  autorizationrules{};",
        "  ^",
        "Offending symbol 'typ'. Line: '4', Column: '14'. expected 'type', 'value', 'issuer' or 'valueType'",
        '   [type=="😀", typ=="b"] => permit();',
        "               ^",
      ].join("\n"),
    );
    expect(error.details).toMatchObject({ line: 2, column: 1 });
    expect(error.details["problems"]).toHaveLength(2);
    expect(error.hint).toBe("Did you mean authorizationrules?");
  });

  it("shows a piece of a long line, around the problem", () => {
    const [problem] = policyProblems(`version=1.0;authorizationrules{${"=>permit();".repeat(500)}=>pemit();${"=>permit();".repeat(500)}};`);
    expect(problem).toMatchObject({ line: 1, column: 32 + 5500 + 2, hint: "Did you mean permit?" });
    expect(problem?.excerpt.length).toBeLessThanOrEqual(120);
    expect(problem?.excerpt.slice(problem.caret.length - 1)).toMatch(/^pemit\(\)/);
  });

  it("stops at the limit of problems and counts no more than it has seen", () => {
    expect(policyProblems(`version=1.0;authorizationrules{${"=>pemit();".repeat(1000)}};`)).toHaveLength(MAX_PROBLEMS);
    expect(policyProblems("\u0007 ".repeat(10_000))).toHaveLength(MAX_PROBLEMS);
  });
});

describe("limits", () => {
  const authorization = (rules: string): string => `version=1.2;authorizationrules{${rules}};`;
  const nested = (depth: number): string => authorization(`=>add(type="a",value=${"NegateBool(".repeat(depth)}true${")".repeat(depth)});`);

  it.each<[string, string, string]>([
    ["text", authorization(" ".repeat(MAX_POLICY_TEXT - authorization("").length)), authorization(" ".repeat(MAX_POLICY_TEXT))],
    ["rules", authorization("=>permit();".repeat(MAX_RULES)), authorization("=>permit();".repeat(MAX_RULES + 1))],
    [
      "conditions",
      authorization(`${Array.from({ length: MAX_CONDITIONS }, () => '[type=="a"]').join("&&")}=>permit();`),
      authorization(`${Array.from({ length: MAX_CONDITIONS + 1 }, () => '[type=="a"]').join("&&")}=>permit();`),
    ],
    [
      "tests",
      authorization(`[${Array.from({ length: 32 }, () => "value!=1").join(",")}]=>permit();`),
      authorization(`[${Array.from({ length: 33 }, () => "value!=1").join(",")}]=>permit();`),
    ],
    ["nesting", nested(MAX_NESTING), nested(MAX_NESTING + 1)],
    ["a string", authorization(`[type=="${"a".repeat(MAX_STRING)}"]=>permit();`), authorization(`[type=="${"a".repeat(MAX_STRING + 1)}"]=>permit();`)],
    ["a name", authorization(`${"a".repeat(MAX_NAME)}:[type=="a"]=>permit();`), authorization(`${"a".repeat(MAX_NAME + 1)}:[type=="a"]=>permit();`)],
    [
      "JMESPath",
      authorization(`=>add(type="a",value=JmesPath("1","${"a".repeat(4096)}"));`),
      authorization(`=>add(type="a",value=JmesPath("1","${"a".repeat(4097)}"));`),
    ],
  ])("hold for %s", (_, within, beyond) => {
    expect(policyProblems(within)).toEqual([]);
    expect(errorOf(() => parsePolicy(beyond)).code).toBe("ERR_ATTESTATION_POLICY_LIMIT");
  });
});

describe("policyHash", () => {
  it("is base64url of SHA-256 of base64url of the text", () => {
    // printf %s 'version=1.0;' | base64 = dmVyc2lvbj0xLjA7; its SHA-256 by openssl.
    expect(policyHash("version=1.0;")).toBe("19i83kYUJrNjFhofbXgekndgH4nqXEkpmebWlG5krvs");
  });
});
