import { describe, expect, it } from "vitest";
import { isSealpodError } from "@sealpod/core";
import { claimsOfToken, evaluatePolicy, parsePolicy, policyProblems, printPolicy, type PolicyClaim } from "./index.ts";
import { MAX_PROBLEMS } from "./limits.ts";
import { measureGrowth, unitCostOf } from "../../../tools/testing/growth.ts";
import { seeded } from "./test-support.ts";

const SEEDS: readonly string[] = [
  "version= 1.0;\nauthorizationrules{=> permit();};\nissuancerules{};",
  'version=1.0;\nauthorizationrules\n{\n  [type=="x-ms-sevsnpvm-is-debuggable", value==false] && ![type=="revoked"] => permit();\n  c:[type=="svn", value<5] => deny();\n};\nissuancerules\n{\n  c:[type=="svn", issuer="AttestationService"] => issue(type="level", value=c.value);\n  d:[type=="name"] => issue(claim=d)\n}',
  'version=1.1; // comment\nconfigurationrules{=>issueproperty(type="report_validity_in_minutes", value=60);};\nauthorizationrules{a:[type=="n"] && b:[type=="n", value>a.value] => add(type="pair", value=b.value, issuer="CustomClaim", valueType="Integer"); => permit();};',
  'version=1.2;\nauthorizationrules{ c:[type=="x-ms-runtime"] => add(type="kid", value=JsonToClaimValue(JmesPath(c.value, "keys[?use==\'enc\'].kid | sort(@)")));\n [type=="kid", value=="k1"] => permit(); };\nissuancerules{ c:[type=="kid"] => issue(type=AppendString("kid-", c.value), value=NegateBool(ContainsOnlyValue(c.value, "k1")));\n a:[type=="n"] && b:[type=="name"] => issue(type="s", value=IsSubsetOf(a.value, b.value)); };',
  'version=1.2;\nauthorizationrules{ a:[type=="svn"] && b:[type=="name"] && d:[type=="x-ms-sevsnpvm-is-debuggable"] => add(type=b.value, value=AppendString(b.value, b.type)); a:[type=="svn"] && b:[type=="name"] && d:[type=="x-ms-sevsnpvm-is-debuggable"] => add(type=b.type, value=NegateBool(d.value)); => permit(); };\nissuancerules{ a:[type=="svn"] && b:[type=="name", valueType=="String"] => issue(type=AppendString(b.value, b.value), value=AppendString(b.type, b.value)); d:[type=="x-ms-sevsnpvm-is-debuggable"] => issue(type="e", value=NegateBool(d.value)); };',
];

const CLAIMS: readonly PolicyClaim[] = claimsOfToken({
  "x-ms-sevsnpvm-is-debuggable": false,
  "x-ms-runtime": {
    keys: [
      { kid: "k1", use: "enc" },
      { kid: "k2", use: "sig" },
    ],
  },
  svn: 7,
  name: "a",
  n: [1, 2, 9007199254740993n],
});

const TOKENS = [
  '"',
  "\\",
  "{",
  "}",
  "[",
  "]",
  "(",
  ")",
  ";",
  ",",
  ":",
  ".",
  "!",
  "=",
  "==",
  "=>",
  "<=",
  "&&",
  "||",
  "//",
  "\n",
  "\u0000",
  "\ufeff",
  "\u2028",
  "é",
  "😀",
  "\ud800",
  "\udc00",
  "-",
  "0",
  "18446744073709551616",
  "1.1",
  "true",
  "claim",
  "type",
  "value",
  "c",
  "issue",
  "permit",
  "version",
  "authorizationrules",
  "JmesPath",
  "JsonToClaimValue",
  "IsSubsetOf",
  "@",
  "`",
  "'",
  "x".repeat(200),
  "9".repeat(200),
  '"'.repeat(9),
  "(".repeat(300),
  "AppendString(".repeat(40),
  "[type==".repeat(50),
  "&&".repeat(40),
];

/** A text with a few changes: pieces taken out, doubled, exchanged, and tokens put in. */
function mutate(text: string, random: () => number): string {
  const pieces = text.match(/[A-Za-z0-9_]+|\s+|./gu) ?? [];
  const pick = (limit: number): number => Math.floor(random() * limit);
  for (let count = 1 + pick(4); count > 0; count--) {
    const [from, to] = [pick(pieces.length), pick(pieces.length)];
    switch (pick(7)) {
      case 0:
        pieces.splice(from, 1 + pick(3));
        break;
      case 1:
        [pieces[from], pieces[to]] = [pieces[to] ?? "", pieces[from] ?? ""];
        break;
      case 2:
        pieces.splice(from, 0, pieces[to] ?? "");
        break;
      case 3:
        pieces.splice(from, 0, TOKENS[pick(TOKENS.length)] ?? "");
        break;
      case 4:
        pieces[from] = TOKENS[pick(TOKENS.length)] ?? "";
        break;
      case 5: {
        // One claim in place of another: what then goes wrong is found by the evaluator alone.
        const names = pieces.flatMap((piece, index) => (/^[abcd]$/.test(piece) ? [index] : []));
        pieces[names[pick(names.length)] ?? from] = "abcd"[pick(4)] ?? "";
        break;
      }
      default:
        pieces.splice(pick(20) === 0 ? from : pieces.length);
    }
  }
  return pieces.join("");
}

const CODES: ReadonlySet<string> = new Set(["ERR_ATTESTATION_POLICY_SYNTAX", "ERR_ATTESTATION_POLICY_EVALUATION", "ERR_ATTESTATION_POLICY_LIMIT"]);

/** `ok`, or the code of the error; any other error is thrown on. */
function outcomeOf(text: string): string {
  try {
    const policy = parsePolicy(text);
    const again = parsePolicy(printPolicy(policy.tree));
    const verdict = evaluatePolicy(policy, CLAIMS);
    expect(evaluatePolicy(again, CLAIMS).claims).toEqual(verdict.claims);
    return "ok";
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return error.code;
  }
}

describe("malformed policies", () => {
  it.each(SEEDS.map((text, index) => [index, text] as const))("seed %i is well-formed", (_, text) => {
    expect(outcomeOf(text)).toBe("ok");
  });

  it("20,000, mutated from seeds, give a policy or one of the package's own errors, at places within the text", () => {
    const outcomes = new Map<string, number>();
    for (const [index, seed] of SEEDS.entries()) {
      const random = seeded(index + 1);
      for (let time = 0; time < 20_000 / SEEDS.length; time++) {
        const text = mutate(seed, random);
        const outcome = outcomeOf(text);
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        if (outcome !== "ERR_ATTESTATION_POLICY_SYNTAX") continue;
        const problems = policyProblems(text);
        const lines = text.split("\n");
        if (
          problems.length === 0 ||
          problems.length > MAX_PROBLEMS ||
          problems.some(({ line, column }) => column > Array.from(lines[line - 1] ?? "").length + 1)
        ) {
          expect.fail(`${JSON.stringify(text)} has problems outside of it: ${JSON.stringify(problems)}`);
        }
      }
    }
    expect([...outcomes.keys()].filter((code) => code !== "ok" && !CODES.has(code))).toEqual([]);
    // Else the test would try one thing only.
    for (const code of ["ok", ...CODES]) expect(outcomes.get(code) ?? 0, code).toBeGreaterThan(10);
  }, 120_000);

  it("every prefix of a seed gives one of the package's own errors, but for the whole without its last semicolon", () => {
    for (const seed of SEEDS) {
      for (let length = 0; length < seed.length; length++) {
        const outcome = outcomeOf(seed.slice(0, length));
        if (outcome === "ok") expect(seed.slice(length)).toMatch(/^;?\s*(?:$|issuancerules)/);
        else expect(outcome).toBe("ERR_ATTESTATION_POLICY_SYNTAX");
      }
    }
  });

  it.each<[string, string]>([
    ["a string that never ends", `version=1.0;authorizationrules{[type=="${"a".repeat(60_000)}`],
    ["quotes", '"'.repeat(60_000)],
    ["braces", "{".repeat(60_000)],
    ["brackets", `version=1.0;authorizationrules{${"[".repeat(60_000)}`],
    ["calls", `version=1.2;authorizationrules{=>add(type="a",value=${"NegateBool(".repeat(4000)}`],
    ["semicolons", `version=1.0;authorizationrules{${";".repeat(60_000)}};`],
    ["negations", `version=1.0;authorizationrules{${"!".repeat(60_000)}};`],
    ["sections", "authorizationrules{".repeat(3000)],
    ["versions", "version=1.0;".repeat(5000)],
    ["nulls", "\u0000".repeat(60_000)],
    ["surrogates", "\ud800".repeat(60_000)],
    ["alternating unknown characters", "é;".repeat(30_000)],
    ["a number", `version=${"1".repeat(60_000)};`],
    ["one name", "a".repeat(60_000)],
    ["text beyond the limit", " ".repeat(10_000_000)],
  ])("%s", (_, text) => {
    expect(["ERR_ATTESTATION_POLICY_SYNTAX", "ERR_ATTESTATION_POLICY_LIMIT"]).toContain(outcomeOf(text));
  });
});

describe("cost grows with size, no faster", () => {
  const SIZES = [50, 200, 800];
  /** Quadratic would be 16. */
  const BOUND = 3;
  const policyOf = (rules: readonly string[]): string => `version=1.2;authorizationrules{=>permit();};issuancerules{${rules.join("")}};`;
  const each = (size: number, rule: (index: number) => string): string => policyOf(Array.from({ length: size }, (_, index) => rule(index)));

  it.each<[string, (size: number) => string]>([
    ["rules", (size) => each(size, (index) => `c:[type=="t${index}",value>=${index}]=>issue(type="o${index}",value=c.value);\n`)],
    ["rules in one line", (size) => each(size, () => 'c:[type=="a"]&&![type=="😀"]=>issue(claim=c);')],
    ["functions", (size) => each(size, (index) => `=>issue(type="o",value=JmesPath("{}","a[?b=='${index}'].c"));`)],
    ["comments", (size) => `${"// {}\n".repeat(size * 10)}${policyOf([])}`],
    ["strings", (size) => policyOf([`[type=="${'\\"'.repeat(size * 9)}"]=>issue(type="a",value=1);`])],
    ["broken rules", (size) => each(size, (index) => (index % 20 === 0 ? "=>isue(claim=c);" : "=>issue(claim=c);"))],
    ["what is in no token", (size) => policyOf(["é".repeat(size * 20)])],
  ])("check: %s", (_, textOf) => {
    const ratio = measureGrowth(
      SIZES,
      BOUND,
      (size) => {
        const text = textOf(size);
        return () => void policyProblems(text);
      },
      { judge: unitCostOf },
    );
    expect(ratio).toBeLessThan(BOUND);
  });

  it("print and parse", () => {
    const ratio = measureGrowth(
      SIZES,
      BOUND,
      (size) => {
        const { tree } = parsePolicy(each(size, (index) => `c:[type=="t${index}"]=>issue(claim=c);`));
        return () => void parsePolicy(printPolicy(tree));
      },
      { judge: unitCostOf },
    );
    expect(ratio).toBeLessThan(BOUND);
  });

  const claims = (count: number): readonly PolicyClaim[] =>
    claimsOfToken(Object.fromEntries(Array.from({ length: count }, (_, index) => [`t${index}`, index])));

  it.each<[string, (size: number) => readonly [string, readonly PolicyClaim[]]]>([
    ["rules", (size) => [each(size, (index) => `c:[type=="t${index % 20}"]=>issue(type="o${index}",value=c.value);`), claims(20)]],
    ["rules and claims", (size) => [each(size, (index) => `c:[type=="t${index}"]=>issue(type="o${index}",value=c.value);`), claims(size)]],
    [
      "rules that each make a claim for the next",
      (size) => [each(size, (index) => `c:[type=="t${index}"]=>add(type="t${index + 1}",value=c.value);`), claims(1)],
    ],
    ["claims", (size) => [policyOf(['c:[value>=0]=>issue(type="o",value=c.value);']), claims(size)]],
    [
      "values of one type",
      (size) => [policyOf(['c:[type=="t"]=>issue(type="o",value=c.value);']), claimsOfToken({ t: Array.from({ length: size }, (_, index) => index) })],
    ],
    [
      "a document",
      (size) => [
        policyOf(['c:[type=="d"]=>issue(type="o",value=JmesPath(c.value,"k[?v==`1`].n | sort(@)"));']),
        claimsOfToken({ d: { k: Array.from({ length: size }, (_, index) => ({ v: index % 2, n: `n${index}` })) } }),
      ],
    ],
    [
      "digits",
      (size) => [
        policyOf(['c:[type=="d"]=>issue(type="o",value=JmesPath(c.value,"to_string(sort(k)) == to_string(k) || sum(k) == k[0]"));']),
        claimsOfToken({ d: { k: Array.from({ length: size }, (_, index) => 10n ** 38n + BigInt(index)) } }),
      ],
    ],
    [
      "subsets",
      (size) => {
        const list = Array.from({ length: size }, (_, index) => index);
        return [
          policyOf(['a:[type=="a"]&&b:[type=="b"]=>issue(type="o",value=IsSubsetOf(a.value,b.value));']),
          claimsOfToken({ a: list, b: list.toReversed() }),
        ];
      },
    ],
  ])("evaluate: %s", (_, make) => {
    const ratio = measureGrowth(
      SIZES,
      BOUND,
      (size) => {
        const [text, given] = make(size);
        const policy = parsePolicy(text);
        expect(evaluatePolicy(policy, given).permitted).toBe(true);
        return () => void evaluatePolicy(policy, given);
      },
      { judge: unitCostOf },
    );
    expect(ratio).toBeLessThan(BOUND);
  });
});
