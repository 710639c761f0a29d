import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { AttestationError } from "../errors.ts";
import {
  claimsOfToken,
  DEFAULT_POLICY_LIMITS,
  DEFAULT_POLICY_TEXT,
  evaluatePolicy,
  explainVerdict,
  isReservedClaim,
  issuedClaims,
  parsePolicy,
  policyDenied,
  type PolicyClaim,
  type PolicyVerdict,
} from "./index.ts";

/** A little of what a report makes. */
const CLAIMS: JsonObject = {
  "x-ms-attestation-type": "sevsnpvm",
  "x-ms-sevsnpvm-guestsvn": 2,
  "x-ms-sevsnpvm-is-debuggable": false,
  "x-ms-sevsnpvm-vmpl": 0,
  "x-ms-sevsnpvm-hostdata": "73973b78",
  "x-ms-compliance-status": "azure-compliant-uvm",
  "x-ms-runtime": { keys: [{ kid: "k1", use: "enc" }, { kid: "k2" }], nonce: 13202930541250959283n, on: true, none: null, ratio: 0.5 },
  big: 9007199254740993n,
  tag: ["red", "green", "blue"],
};

const allow = (condition: string): string => `version=1.2;authorizationrules{${condition}=>permit();};`;
const issue = (rules: string): string => `version=1.2;authorizationrules{=>permit();};issuancerules{${rules}};`;
const made = (value: string): string => issue(`=>issue(type="out",value=${value});`);
const found = (path: string): string => issue(`c:[type=="x-ms-runtime"]=>issue(type="out",value=JsonToClaimValue(JmesPath(c.value,"${path}")));`);

function verdictOf(text: string, claims: readonly PolicyClaim[] = claimsOfToken(CLAIMS)): PolicyVerdict {
  return evaluatePolicy(parsePolicy(text), claims);
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

const claim = (type: string, value: PolicyClaim["value"], issuer: PolicyClaim["issuer"] = "AttestationService"): PolicyClaim => ({
  type,
  value,
  valueType: typeof value === "string" ? "String" : typeof value === "boolean" ? "Boolean" : "Integer",
  issuer,
});

describe("whether a policy permits", () => {
  it.each<[boolean, string, string]>([
    [true, "without conditions", allow("")],
    [true, "the default policy", DEFAULT_POLICY_TEXT],
    [false, "without rules", "version=1.0;authorizationrules{};"],
    [false, "only deny", "version=1.0;authorizationrules{=>deny();};"],
    [false, "deny before permit", "version=1.0;authorizationrules{=>deny();=>permit();};"],
    [true, "permit before deny", "version=1.0;authorizationrules{=>permit();=>deny();};"],
    [true, "a deny whose condition does not hold", 'version=1.0;authorizationrules{[type=="no"]=>deny();=>permit();};'],
    [false, "a deny whose condition holds", 'version=1.0;authorizationrules{[type=="big"]=>deny();=>permit();};'],
    // Conditions.
    [true, "a claim of the type", allow('[type=="x-ms-attestation-type"]')],
    [false, "none of the type", allow('[type=="x-ms-attestation"]')],
    [false, "types are case-sensitive", allow('[type=="X-MS-attestation-type"]')],
    [true, "a single = for type", allow('[type="x-ms-attestation-type"]')],
    [true, "a string value", allow('[type=="x-ms-attestation-type", value=="sevsnpvm"]')],
    [false, "another string value", allow('[type=="x-ms-attestation-type", value=="sgx"]')],
    [true, "a boolean", allow('[type=="x-ms-sevsnpvm-is-debuggable", value==false]')],
    [false, "the other boolean", allow('[type=="x-ms-sevsnpvm-is-debuggable", value==true]')],
    [false, "a boolean is not its name", allow('[type=="x-ms-sevsnpvm-is-debuggable", value=="false"]')],
    [true, "!= holds between two kinds", allow('[type=="x-ms-sevsnpvm-is-debuggable", value!="false"]')],
    [false, "an integer is not its digits", allow('[type=="x-ms-sevsnpvm-guestsvn", value=="2"]')],
    [true, "an integer", allow('[type=="x-ms-sevsnpvm-guestsvn", value==2]')],
    [true, ">=", allow('[type=="x-ms-sevsnpvm-guestsvn", value>=2]')],
    [false, ">", allow('[type=="x-ms-sevsnpvm-guestsvn", value>2]')],
    [true, "<=", allow('[type=="x-ms-sevsnpvm-guestsvn", value<=2]')],
    [false, "<", allow('[type=="x-ms-sevsnpvm-guestsvn", value<2]')],
    [true, "a range", allow('[type=="x-ms-sevsnpvm-guestsvn", value>1, value<3]')],
    [false, "a range that it is not in", allow('[type=="x-ms-sevsnpvm-guestsvn", value>2, value<5]')],
    [true, "negative numbers", allow('[type=="x-ms-sevsnpvm-vmpl", value>-1]')],
    [false, "an order of strings is none", allow('[type=="x-ms-sevsnpvm-hostdata", value>0]')],
    [true, "64-bit integers are exact: equal", allow('[type=="big", value==9007199254740993]')],
    [false, "64-bit integers are exact: one less", allow('[type=="big", value==9007199254740992]')],
    [true, "64-bit integers are exact: order", allow('[type=="big", value>9007199254740992, value<9007199254740994]')],
    [true, "the issuer", allow('[type=="big", issuer=="AttestationService"]')],
    [false, "another issuer", allow('[type=="big", issuer=="AttestationPolicy"]')],
    [true, "the kind", allow('[type=="big", valueType=="Integer"]')],
    [true, "the kind in lower case", allow('[type=="big", valueType=="integer"]')],
    [false, "another kind", allow('[type=="big", valueType=="String"]')],
    [true, "a condition without type", allow("[value==9007199254740993]")],
    [true, "both conditions", allow('[type=="big"] && [type=="tag"]')],
    [false, "one condition of two", allow('[type=="big"] && [type=="no"]')],
    [true, "negation", allow('![type=="no"]')],
    [false, "negation of what is there", allow('![type=="big"]')],
    [true, "negation of a value", allow('![type=="x-ms-sevsnpvm-is-debuggable", value==true]')],
    [true, "one of several claims of a type", allow('[type=="tag", value=="green"]')],
    [false, "!= asks for a claim that differs, of several one does; negated, none does", allow('![type=="tag", value!="red"]')],
    // Names.
    [true, "a value of an earlier condition", allow('a:[type=="x-ms-sevsnpvm-guestsvn"] && [type=="x-ms-sevsnpvm-guestsvn", value==a.value]')],
    [false, "a value of an earlier condition that differs", allow('a:[type=="x-ms-sevsnpvm-guestsvn"] && [type=="x-ms-sevsnpvm-vmpl", value==a.value]')],
    [true, "order between two claims", allow('a:[type=="x-ms-sevsnpvm-guestsvn"] && [type=="x-ms-sevsnpvm-vmpl", value<a.value]')],
    [true, "every combination is tried", allow('a:[type=="tag"] && b:[type=="tag", value!=a.value] && [type=="tag", value!=a.value, value!=b.value]')],
    [
      false,
      "three tags have no fourth",
      allow(
        'a:[type=="tag"] && b:[type=="tag", value!=a.value] && c:[type=="tag", value!=a.value, value!=b.value] && [type=="tag", value!=a.value, value!=b.value, value!=c.value]',
      ),
    ],
    [false, "negation with a value of an earlier condition", allow('a:[type=="tag"] && ![type=="tag", value==a.value]')],
    // add().
    [true, "a later rule sees what is added", 'version=1.0;authorizationrules{=>add(type="x",value=1);[type=="x",value==1]=>permit();};'],
    [false, "an earlier rule does not", 'version=1.0;authorizationrules{[type=="x"]=>permit();=>add(type="x",value=1);};'],
    [true, "its issuer is the policy", 'version=1.0;authorizationrules{=>add(type="x",value=1);[type=="x",issuer=="AttestationPolicy"]=>permit();};'],
    [
      true,
      "its issuer may be CustomClaim",
      'version=1.0;authorizationrules{=>add(type="x",value=1,issuer="CustomClaim");[type=="x",issuer=="CustomClaim"]=>permit();};',
    ],
    [false, "nothing is added when the condition does not hold", 'version=1.0;authorizationrules{[type=="no"]=>add(type="x",value=1);[type=="x"]=>permit();};'],
    [
      true,
      "a rule does not see its own claims",
      'version=1.0;authorizationrules{c:[type=="n"]=>add(type="n",value=2);=>add(type="n",value=1);c:[type=="n"]=>add(type="m",value=c.value);![type=="n",value==2]=>permit();};',
    ],
    [
      true,
      "a value that is handed from claim to claim",
      'version=1.0;authorizationrules{c:[type=="big"]=>add(type="copy",value=c.value);[type=="copy",value==9007199254740993,valueType=="Integer"]=>permit();};',
    ],
    [
      true,
      "the type of a claim as a value",
      'version=1.0;authorizationrules{c:[value=="red"]=>add(type="is",value=c.type);[type=="is",value=="tag"]=>permit();};',
    ],
    // Functions in conditions.
    [true, "a function in a condition", allow('a:[type=="x-ms-sevsnpvm-is-debuggable"] && [type=="x-ms-sevsnpvm-is-debuggable", value!=NegateBool(a.value)]')],
    [true, "a list in a condition: any of it", allow('[type=="tag", value==JsonToClaimValue("[\\"blue\\",\\"pink\\"]")]')],
    [false, "a list in a condition: none of it", allow('[type=="x-ms-sevsnpvm-hostdata", value==JsonToClaimValue("[\\"blue\\",\\"pink\\"]")]')],
    [false, "!= of a list: none of it", allow('[type=="tag", value!=JsonToClaimValue("[\\"blue\\",\\"red\\",\\"green\\"]")]')],
    [false, "nothing is not equal to anything", allow('c:[type=="x-ms-runtime"] && [type=="tag", value==JsonToClaimValue(JmesPath(c.value,"no"))]')],
    [false, "and not unequal to anything", allow('c:[type=="x-ms-runtime"] && [type=="tag", value!=JsonToClaimValue(JmesPath(c.value,"no"))]')],
    [true, "a key id in the runtime data", allow('c:[type=="x-ms-runtime"] && [type=="x-ms-attestation-type", value=="sevsnpvm"] && d:[value==c.value]')],
  ])("%s: %s", (permitted, _, text) => {
    const verdict = verdictOf(text);
    expect(verdict.permitted).toBe(permitted);
    expect(verdict.trace.length).toBe(parsePolicy(text).tree.sections.reduce((sum, { rules }) => sum + rules.length, 0));
    if (!permitted) expect([verdict.claims, verdict.properties]).toEqual([[], {}]);
  });

  it("tells the rule that decided", () => {
    expect(verdictOf('version=1.0;\nauthorizationrules{\n  [type=="no"]=>permit();\n  =>permit();\n};').decidedBy).toEqual({
      line: 4,
      column: 3,
      action: "permit",
    });
    expect(verdictOf("version=1.0;authorizationrules{ =>deny(); =>permit(); };").decidedBy).toEqual({ line: 1, column: 33, action: "deny" });
    expect(verdictOf("version=1.0;authorizationrules{};")).not.toHaveProperty("decidedBy");
  });

  it("is the same in whatever order claims come", () => {
    const policy = parsePolicy(
      issue(
        'a:[type=="tag"]&&b:[type=="tag",value!=a.value]=>issue(type="pair",value=AppendString(a.value,b.value));[value==2]=>issue(type="two",value=true);',
      ),
    );
    fc.assert(
      fc.property(fc.shuffledSubarray([...claimsOfToken(CLAIMS)], { minLength: 11 }), (claims) => {
        const sorted = (verdict: PolicyVerdict): readonly string[] => verdict.claims.map(({ type, value }) => `${type} ${String(value)}`).sort();
        expect(sorted(evaluatePolicy(policy, claims))).toEqual(sorted(evaluatePolicy(policy, claimsOfToken(CLAIMS))));
      }),
      { numRuns: 50 },
    );
  });
});

describe("what a policy issues", () => {
  it.each<[string, string, JsonValue]>([
    ["nothing", issue(""), {}],
    ["a string", made('"text"'), { out: "text" }],
    ["an integer", made("-5"), { out: -5 }],
    ["a 64-bit integer", made("18446744073709551615"), { out: 18446744073709551615n }],
    ["a boolean", made("true"), { out: true }],
    ["a claim under its name", issue('c:[type=="big"]=>issue(claim=c);'), { big: 9007199254740993n }],
    ["a value under another name", issue('c:[type=="x-ms-sevsnpvm-hostdata"]=>issue(type="hostdata",value=c.value);'), { hostdata: "73973b78" }],
    ["a type that is computed", issue('c:[type=="tag"]=>issue(type=c.value,value=true);'), { red: true, green: true, blue: true }],
    ["one claim for each that matches, as a list", issue('c:[type=="tag"]=>issue(claim=c);'), { tag: ["red", "green", "blue"] }],
    ["equal claims once", issue('c:[type=="tag"]=>issue(type="n",value=1); =>issue(type="n",value=1);'), { n: 1 }],
    [
      "several values of a type as a list, in order",
      issue('=>issue(type="n",value=2);=>issue(type="n",value="x");=>issue(type="n",value=true);'),
      { n: [2, "x", true] },
    ],
    [
      "every combination",
      issue('a:[type=="tag",value!="blue"]&&b:[type=="tag",value!="blue"]=>issue(type="p",value=AppendString(a.value,b.value));'),
      {
        p: ["redred", "redgreen", "greenred", "greengreen"],
      },
    ],
    ["not what is added", issue('=>add(type="n",value=2);'), {}],
    ["what is added before, when handed on", issue('=>add(type="n",value=2);c:[type=="n"]=>issue(claim=c);'), { n: 2 }],
    ["what an issued claim leads to", issue('=>issue(type="n",value=2);[type=="n"]=>issue(type="m",value=3);'), { n: 2, m: 3 }],
    [
      "what was added in the authorization rules",
      'version=1.0;authorizationrules{=>add(type="n",value=1);=>permit();=>add(type="late",value=1);};issuancerules{c:[issuer=="AttestationPolicy"]=>issue(claim=c);};',
      { n: 1 },
    ],
    ["no claim of the service again: it is in the token", issue('c:[type=="x-ms-sevsnpvm-hostdata"]=>issue(claim=c);'), {}],
    ["a kind that is said", issue('=>issue(type="n",value=2,valueType="Integer",issuer="CustomClaim");'), { n: 2 }],
    // Functions.
    ["AppendString", made('AppendString("a",AppendString("b","c"))'), { out: "abc" }],
    ["NegateBool", made("NegateBool(NegateBool(true))"), { out: true }],
    ["JmesPath: JSON text of a string", made('JmesPath("{\\"a\\":\\"b\\"}","a")'), { out: '"b"' }],
    ["JmesPath: JSON text of an object", made('JmesPath("{\\"a\\":{\\"b\\":[1, 2]}}","a")'), { out: '{"b":[1,2]}' }],
    ["JmesPath: nothing", made('JmesPath("{}","a")'), {}],
    ["JsonToClaimValue: a string", found("keys[0].kid"), { out: "k1" }],
    ["JsonToClaimValue: a list", found("keys[].kid"), { out: ["k1", "k2"] }],
    ["JsonToClaimValue: a boolean", found("on"), { out: true }],
    ["JsonToClaimValue: a 64-bit integer", found("nonce"), { out: 13202930541250959283n }],
    ["JsonToClaimValue: null is nothing", found("none"), {}],
    ["JsonToClaimValue: an empty list is nothing", found("keys[?kid=='k3'].kid"), {}],
    ["a comparison within JMESPath", found("length(keys) == `2`"), { out: true }],
    ["ContainsOnlyValue of a set", issue('c:[type=="tag"]=>issue(type="out",value=ContainsOnlyValue(c.value,"red"));'), { out: false }],
    [
      "ContainsOnlyValue of a set of one",
      issue('c:[type=="tag",value!="blue",value!="green"]=>issue(type="out",value=ContainsOnlyValue(c.value,"red"));'),
      { out: true },
    ],
    ["ContainsOnlyValue of an empty list", made('ContainsOnlyValue(JsonToClaimValue("[]"),1)'), { out: false }],
    ["ContainsOnlyValue of another kind", made('ContainsOnlyValue(JsonToClaimValue("[1,1]"),"1")'), { out: false }],
    ["IsSubsetOf", made('IsSubsetOf(JsonToClaimValue("[1,2]"),JsonToClaimValue("[3,2,1]"))'), { out: true }],
    ["IsSubsetOf: not", made('IsSubsetOf(JsonToClaimValue("[1,2]"),JsonToClaimValue("[3,2]"))'), { out: false }],
    [
      "IsSubsetOf of sets of claims, once",
      issue('a:[type=="tag",value!="red"]&&b:[type=="tag"]=>issue(type=AppendString("o","ut"),value=IsSubsetOf(a.value,b.value));'),
      { out: true },
    ],
    [
      "IsSubsetOf of sets of claims: the other way",
      issue('a:[type=="tag",value!="red"]&&b:[type=="tag"]=>issue(type="out",value=IsSubsetOf(b.value,a.value));'),
      { out: false },
    ],
  ])("%s", (_, text, expected) => {
    // encodeJson: a bigint must not turn into a number on the way.
    const members = issuedClaims(verdictOf(text).claims);
    expect(encodeJson(members)).toBe(encodeJson(expected));
  });

  it("makes an equal claim once, and runs a rule over sets once", () => {
    const { claims, trace } = verdictOf(
      issue(
        'c:[type=="tag"]=>issue(type="n",value=1);=>issue(type="n",value=1);c:[type=="tag"]=>issue(type="o",value=ContainsOnlyValue(c.value,"red"));c:[type=="tag"]=>issue(type="p",value=1);',
      ),
    );
    expect(claims.map(({ type }) => type)).toEqual(["n", "o", "p"]);
    // A name that nobody takes does not make a rule run more often either.
    expect(trace.map(({ times }) => times)).toEqual([1, 1, 1, 1, 1]);
  });

  it("keeps properties apart from the token", () => {
    const verdict = verdictOf(
      'version=1.1;configurationrules{[type=="big"]=>issueproperty(type="report_validity_in_minutes",value=60);};authorizationrules{=>permit();};issuancerules{=>issueproperty(type="x",value="a");=>issueproperty(type="x",value="b");};',
    );
    expect(verdict.properties).toEqual({ report_validity_in_minutes: 60, x: ["a", "b"] });
    expect(verdict.claims).toEqual([]);
  });

  it("issues nothing unless permitted", () => {
    expect(verdictOf('version=1.0;authorizationrules{=>deny();};issuancerules{=>issue(type="a",value=1);};').claims).toEqual([]);
  });
});

describe("what a policy may not issue", () => {
  it.each([
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "cnf",
    "nonce",
    "x-ms-attestation-type",
    "x-ms-anything",
    "X-MS-Policy-Hash",
    "x-sealpod-root",
    "EXP",
    "ｉss",
    " iss",
    "__proto__",
  ])("%s", (name) => {
    expect(isReservedClaim(name)).toBe(true);
    expect(errorOf(() => parsePolicy(issue(`=>issue(type="${name}",value="x");`))).code).toBe("ERR_ATTESTATION_POLICY_SYNTAX");
    // Nor by way of a name that is put together.
    const error = errorOf(() => verdictOf(issue(`=>issue(type=AppendString("${name.slice(0, 1)}","${name.slice(1)}"),value="x");`)));
    expect(error.code).toBe("ERR_ATTESTATION_POLICY_EVALUATION");
    // Nor by handing on a claim of its own making.
    expect(errorOf(() => verdictOf(issue(`=>add(type="${name}",value="x");c:[type=="${name}",issuer=="AttestationPolicy"]=>issue(claim=c);`))).code).toBe(
      "ERR_ATTESTATION_POLICY_EVALUATION",
    );
  });

  it("leaves other names alone", () => {
    for (const name of ["hostdata", "x-msft", "issuer", "my-x-ms-claim", "expiry"]) expect(isReservedClaim(name)).toBe(false);
  });

  it("claims in the name of the service", () => {
    expect(errorOf(() => verdictOf(issue('c:[type=="big"]=>add(type="n",value=1,issuer=c.issuer);')))).toMatchObject({
      code: "ERR_ATTESTATION_POLICY_EVALUATION",
      message: expect.stringContaining('found "AttestationService"') as string,
      details: { line: 1 },
    });
  });
});

describe("errors of evaluation", () => {
  it.each<[string, string, string]>([
    ["NegateBool of a string", issue('c:[type=="x-ms-sevsnpvm-hostdata"]=>issue(type="n",value=NegateBool(c.value));'), "NegateBool takes a boolean"],
    [
      "AppendString of an integer",
      issue('c:[type=="big"]=>issue(type="n",value=AppendString(c.value,"a"));'),
      "AppendString takes a string, found 9007199254740993",
    ],
    ["JSON that is none", made('JmesPath("{","a")'), "the value is not JSON"],
    ["JSON with a name twice", made('JmesPath("{\\"a\\":1,\\"a\\":2}","a")'), "duplicate name"],
    ["an object as a claim", found("keys[0]"), "JsonToClaimValue takes a string"],
    ["a fraction as a claim", found("ratio"), "JsonToClaimValue takes a string"],
    ["an integer of 65 bits", made('JsonToClaimValue("18446744073709551616")'), "more than 64 bits"],
    ["a list where one value is taken", made('AppendString(JsonToClaimValue("[\\"a\\",\\"b\\"]"),"c")'), "AppendString takes one value, found 2"],
    ["a JMESPath that a claim holds", issue('c:[type=="tag"]=>issue(type="n",value=JmesPath("{}",AppendString(c.value,"(")));'), "no JMESPath expression"],
    ["a JMESPath function with the wrong kind", found("abs(on)"), "abs() does not take"],
    ["another kind than is said", issue('c:[type=="big"]=>issue(type="n",value=c.value,valueType="String");'), "valueType is string"],
    ["a type that is no string", issue('c:[type=="big"]=>issue(type=c.value,value=1);'), "type takes a string"],
  ])("%s", (_, text, message) => {
    const error = errorOf(() => verdictOf(text));
    expect(error).toMatchObject({ code: "ERR_ATTESTATION_POLICY_EVALUATION", message: expect.stringContaining(message) as string });
    expect(error.message).toMatch(/^Line: '1', Column: '\d+'\. /);
  });

  it.each<[string, PolicyClaim]>([
    ["without type", claim("", 1)],
    ["with a fraction", claim("a", 1.5)],
    ["with 65 bits", claim("a", 2n ** 64n)],
    ["of nobody", claim("a", 1, "me" as "CustomClaim")],
  ])("a claim %s is refused", (_, bad) => {
    expect(errorOf(() => verdictOf(allow(""), [bad])).code).toBe("ERR_ATTESTATION_POLICY_EVALUATION");
  });
});

describe("limits of evaluation", () => {
  const numbers = (count: number): readonly PolicyClaim[] => Array.from({ length: count }, (_, index) => claim("n", index));

  it.each<[string, string, readonly PolicyClaim[]]>([
    ["combinations", issue('a:[type=="n"]&&b:[type=="n"]&&c:[type=="n"]=>issue(type=AppendString(a.type,AppendString(b.type,c.type)),value=1);'), numbers(50)],
    [
      "steps of conditions that are never met",
      allow('a:[type=="n"]&&b:[type=="n"]&&c:[type=="n"]&&d:[type=="n"]&&[value==a.value,type==b.type,type!=c.type,value==d.value]'),
      numbers(60),
    ],
    [
      "steps of many conditions",
      allow(`c0:[type=="n"]&&${Array.from({ length: 30 }, (_, at) => `c${at + 1}:[type=="n",value!=c${at}.value]`).join("&&")}&&[type=="no",value==c30.value]`),
      numbers(3),
    ],
    [
      "steps of a long list in a condition",
      allow(`[value==JsonToClaimValue("[${"0,".repeat(7000)}0]")]&&[type=="no"]`),
      numbers(4000).map(({ value }) => claim("n", -1 - Number(value))),
    ],
    ["claims that come in", allow(""), numbers(DEFAULT_POLICY_LIMITS.claims + 1)],
    [
      "claims that are made",
      issue(
        'a:[type=="n"]&&b:[type=="n"]=>add(type="n",value=AppendString(JmesPath("1",AppendString("to_string(\'",AppendString(a.issuer,"\')"))),b.issuer));',
      ),
      numbers(90),
    ],
    [
      "a string that doubles",
      issue(
        `=>add(type="s0",value="0123456789abcdef");${Array.from({ length: 64 }, (_, at) => `c:[type=="s${at}"]=>add(type="s${at + 1}",value=AppendString(c.value,c.value));`).join("")}`,
      ),
      [],
    ],
    ["JMESPath that doubles", made(`JmesPath("[1]","@${"|[@,@][]".repeat(60)}")`), []],
    ["JMESPath whose text doubles", made(`JmesPath("1","@${"|[@,@]".repeat(60)}")`), []],
    ["JMESPath that compares what doubles", made(`JmesPath("1","(@${"|[@,@]".repeat(40)}) == (@${"|[@,@]".repeat(40)})")`), []],
    [
      "digits that double",
      issue(
        `=>add(type="s0",value="1000");${Array.from({ length: 17 }, (_, at) => `c:[type=="s${at}"]=>add(type="s${at + 1}",value=AppendString(c.value,c.value));`).join("")}${'c:[type=="s17"]=>issue(type="o",value=JmesPath(c.value,"to_string(@)==\'1\'"));'.repeat(40)}`,
      ),
      [],
    ],
    ["an integer of 41 digits", made(`JmesPath("[${"9".repeat(41)}]","[0]")`), []],
    ["an integer of 41 digits for a claim", made(`JsonToClaimValue("${"9".repeat(41)}")`), []],
    [
      "a document of more than 256 Ki characters",
      issue('c:[type=="d"]=>issue(type="n",value=JmesPath(c.value,"a"));'),
      [claim("d", `"${"a".repeat(256 * 1024)}"`)],
    ],
    [
      "documents that are read",
      issue(
        Array.from({ length: 3 }, (_, at) =>
          `c:[type=="d"]=>issue(type="n${at}",value=JmesPath(AppendString(c.value," ".repeat),"a"));`.replace('" ".repeat', JSON.stringify(" ".repeat(at))),
        ).join(""),
      ),
      [claim("d", `"${"a".repeat(100_000)}"`)],
    ],
    ["a document that is nested", made(`JmesPath("${"[".repeat(80)}${"]".repeat(80)}","@")`), []],
    ["JMESPath that is nested", issue(`c:[type=="p"]=>issue(type="n",value=JmesPath("1",c.value));`), [claim("p", `${"!".repeat(4000)}a`)]],
    ["JMESPath that is long", issue(`c:[type=="p"]=>issue(type="n",value=JmesPath("1",c.value));`), [claim("p", "a".repeat(5000))]],
  ])("%s", (_, text, claims) => {
    const policy = parsePolicy(text);
    expect(errorOf(() => evaluatePolicy(policy, claims)).code).toBe("ERR_ATTESTATION_POLICY_LIMIT");
  });

  it("leave integers of 128 bits as they are", () => {
    expect(verdictOf(made(`JmesPath("[-${2n ** 127n}]","to_string([0])")`)).claims).toMatchObject([{ value: `"-${2n ** 127n}"` }]);
  });

  it("leave room for the largest runtime data that a token can have", () => {
    const keys = Array.from({ length: 3000 }, (_, at) => ({ kid: `k${at}`, n: "n".repeat(42) }));
    expect(JSON.stringify(keys).length).toBeGreaterThan(190_000);
    const verdict = verdictOf(issue('c:[type=="d"]=>issue(type="n",value=JmesPath(c.value,"[?kid==\'k7\'] | length(@)"));'), [
      claim("d", JSON.stringify(keys)),
    ]);
    expect(verdict.claims).toMatchObject([{ value: "1" }]);
  });

  it("permit() needs one combination, not all", () => {
    expect(verdictOf(allow('a:[type=="n"]&&b:[type=="n"]&&c:[type=="n",value==a.value]&&[value==b.value]'), numbers(2000)).permitted).toBe(true);
  });

  it("are the caller's to set", () => {
    const policy = parsePolicy(issue('c:[type=="n"]=>issue(claim=c);'));
    expect(evaluatePolicy(policy, numbers(10), { ...DEFAULT_POLICY_LIMITS, combinations: 10 }).claims).toHaveLength(10);
    expect(errorOf(() => evaluatePolicy(policy, numbers(11), { ...DEFAULT_POLICY_LIMITS, combinations: 10 })).code).toBe("ERR_ATTESTATION_POLICY_LIMIT");
  });
});

describe("explainVerdict", () => {
  it("names for each rule the condition that came furthest, and what is there", () => {
    const text = `version=1.0;
authorizationrules
{
    [type=="x-ms-attestation-type", value=="sevsnpvm"] && [type=="x-ms-sevsnpvm-guestsvn", value>=100] => permit();
    ![type=="x-ms-sevsnpvm-is-debuggable", value==false] => permit();
    [type=="absent"] => permit();
};`;
    const verdict = verdictOf(text);
    expect(explainVerdict(verdict)).toEqual([
      "not permitted: no rule with permit() has its conditions met",
      'the rule in line 4, column 5 did not permit: no claim meets [type == "x-ms-sevsnpvm-guestsvn", value >= 100] (line 4, column 59); found x-ms-sevsnpvm-guestsvn = 2 of AttestationService',
      'the rule in line 5, column 5 did not permit: ![type == "x-ms-sevsnpvm-is-debuggable", value == false] (line 5, column 5) is broken by x-ms-sevsnpvm-is-debuggable = false of AttestationService',
      'the rule in line 6, column 5 did not permit: no claim meets [type == "absent"] (line 6, column 5)',
    ]);
    expect(policyDenied(verdict)).toMatchObject({ code: "ERR_ATTESTATION_POLICY_DENIED", message: expect.stringContaining("line 4, column 59") as string });
  });

  it("names the rule that denied or permitted, or that there is none", () => {
    expect(explainVerdict(verdictOf("version=1.0;authorizationrules{=>deny();};"))).toEqual(["denied by deny() in line 1, column 32"]);
    expect(explainVerdict(verdictOf(allow("")))).toEqual(["permitted by permit() in line 1, column 32"]);
    expect(explainVerdict(verdictOf("version=1.0;authorizationrules{};"))).toEqual(["not permitted: the policy has no rule with permit()"]);
    expect(policyDenied(verdictOf("version=1.0;authorizationrules{=>deny();};")).details).toEqual({ line: 1, column: 32 });
  });

  it("tells rules that acted, made nothing, or were not reached", () => {
    const { trace } = verdictOf(
      'version=1.2;authorizationrules{[type=="tag"]=>add(type="a",value=JmesPath("{}","a"));c:[type=="tag"]=>add(claim=c);=>deny();=>permit();};issuancerules{=>issue(type="a",value=1);};',
    );
    expect(trace.map(({ outcome, times }) => [outcome, times])).toEqual([
      ["no-value", 1],
      ["acted", 3],
      ["acted", 1],
      ["not-reached", 0],
      ["not-reached", 0],
    ]);
  });
});

describe("claimsOfToken", () => {
  it("gives scalars as they are, lists as several claims, the rest as JSON text, and nothing about the token itself", () => {
    const claims = claimsOfToken({
      s: "a",
      i: 5,
      big: 13202930541250959283n,
      b: true,
      list: ["a", 1],
      empty: [],
      object: { n: 13202930541250959283n },
      mixed: [{}],
      half: 0.5,
      none: null,
      iss: "https://a",
      exp: 1,
      nbf: 1,
      iat: 1,
      jti: "x",
    });
    expect(claims.map(({ type, value, valueType }) => [type, value, valueType])).toEqual([
      ["s", "a", "String"],
      ["i", 5, "Integer"],
      ["big", 13202930541250959283n, "Integer"],
      ["b", true, "Boolean"],
      ["list", "a", "String"],
      ["list", 1, "Integer"],
      ["empty", "[]", "String"],
      ["object", '{"n":13202930541250959283}', "String"],
      ["mixed", "[{}]", "String"],
      ["half", "0.5", "String"],
      ["none", "null", "String"],
    ]);
    expect(new Set(claims.map(({ issuer }) => issuer))).toEqual(new Set(["AttestationService"]));
  });

  it("is undone by issuedClaims, which has no prototype", () => {
    const claims: JsonObject = { a: [1, 2], b: "x", c: true };
    const again = issuedClaims(claimsOfToken(claims));
    expect(encodeJson(again)).toBe(encodeJson(claims));
    expect(Object.getPrototypeOf(issuedClaims([claim("__proto__", 1)]))).toBeNull();
  });
});
