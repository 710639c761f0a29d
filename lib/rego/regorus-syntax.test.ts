import { existsSync, readdirSync, readFileSync } from "node:fs";
import { TokenLog } from "./syntax/token-log.ts";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { DEFAULT_REGO_LIMITS } from "./limits.ts";
import type { Body, Import, Module, Rule, RuleHead, Statement, Term } from "./syntax/ast.ts";
import { Lexer, LexicalError } from "./syntax/lexer.ts";
import { isDiagnostics, parseModule } from "./syntax/parser.ts";
import { Source } from "./syntax/source.ts";
import { parseNumber } from "./values/index.ts";

// regorus's lexer and parser cases, read where they lie (see the README there): which texts are Rego, the tokens of those
// that are, and the trees. regorus's offsets and node numbers are its own and are not compared. Cases that differ are
// listed with the reason; the list must be exact.
const VECTORS = new URL("../../../shared/vectors/rego/regorus/", import.meta.url);
const present = existsSync(VECTORS);

interface Differences {
  readonly lexer: Readonly<Record<string, string>>;
  readonly parser: Readonly<Record<string, string>>;
}

const known = JSON.parse(readFileSync(new URL("testdata/regorus-differences.json", import.meta.url), "utf8")) as Differences;

interface SyntaxCase {
  readonly note: string;
  readonly rego: string;
  readonly skip?: boolean;
  readonly error?: string;
  readonly tokens?: readonly string[];
  readonly kinds?: readonly string[];
  readonly package?: unknown;
  readonly imports?: unknown;
  readonly policy?: unknown;
}

/** All cases of a folder under `file#number note`: notes repeat. */
function casesOf(folder: "lexer" | "parser"): ReadonlyMap<string, SyntaxCase> {
  const cases = new Map<string, SyntaxCase>();
  const root = new URL(`${folder}/cases/`, VECTORS);
  const files = (readdirSync(root, { recursive: true }) as string[]).filter((name) => name.endsWith(".yaml"));
  for (const file of files.toSorted()) {
    // A text may look like a number: `00` is one of the lexer's.
    const schema = folder === "lexer" ? "failsafe" : "core";
    const content = parse(indentLists(readFileSync(new URL(file, root), "utf8")), { schema }) as { readonly cases: readonly SyntaxCase[] };
    content.cases.forEach((test, at) => cases.set(`${file}#${at} ${test.note}`, test));
  }
  return cases;
}

/** Moves the lines of a list in brackets in: YAML wants them further in than the key of the list, which regorus's reader forgives. */
function indentLists(text: string): string {
  let open = 0;
  const lines = text.split("\n").map((line) => {
    const inside = open > 0;
    if (inside || /^ *[a-z!]+: *\[/.test(line)) {
      for (const char of line.replaceAll(/"(?:[^"\\]|\\.)*"|#.*$/g, "")) {
        if (char === "[") open++;
        else if (char === "]") open--;
      }
    }
    return inside ? `    ${line}` : line;
  });
  return lines.join("\n");
}

function parsed(text: string): Module | undefined {
  const result = parseModule(new Source("t.rego", text), "v0", DEFAULT_REGO_LIMITS, new TokenLog());
  return isDiagnostics(result) ? undefined : (result as Module);
}

interface Token {
  readonly text: string;
  readonly kind: string;
}

/** Tokens as regorus cuts them; undefined if the text has none. */
function tokensOf(text: string): readonly Token[] | undefined {
  const lexer = new Lexer(new Source("t.rego", text));
  const tokens: Token[] = [];
  let end = 0;
  try {
    for (;;) {
      const token = lexer.next(end);
      const adjacent = token.at === end && end > 0;
      const last = tokens.at(-1);
      end = token.end;
      const source = text.slice(token.at, token.end);
      if (token.kind === "end") {
        tokens.push({ text: "", kind: "Eof" });
        return tokens;
      }
      if (token.kind === "string") {
        // regorus leaves escapes for later.
        tokens.push({ text: source.slice(1, -1), kind: source.startsWith("`") ? "RawString" : "String" });
      } else if (token.kind === "number") {
        if (parseNumber(token.text) === undefined && parsed(`package t\nv = ${token.text}`) === undefined) return undefined;
        // A minus sign belongs to the number behind it.
        if (adjacent && last?.text === "-") tokens.pop();
        tokens.push({ text: adjacent && last?.text === "-" ? `-${source}` : source, kind: "Number" });
      } else if (source === "(" && adjacent && last?.text === "set" && lexer.next(end).text === ")") {
        // The empty set's `set(` is one token.
        tokens.pop();
        tokens.push({ text: "set(", kind: "Symbol" });
      } else {
        tokens.push({ text: source, kind: token.kind === "name" ? "Ident" : "Symbol" });
      }
    }
  } catch (error) {
    if (error instanceof LexicalError) return undefined;
    throw error;
  }
}

function lexes(test: SyntaxCase): boolean {
  const text = test.rego;
  const tokens = tokensOf(text);
  // What belongs to a number is the parser's business here: `.8` is two tokens and no expression.
  if (test.error !== undefined) return tokens === undefined || (/\d/.test(text) && parsed(`package t\nv = ${text}`) === undefined);
  if (tokens === undefined) return false;
  const wanted = test.tokens;
  return (
    JSON.stringify(tokens.map((token) => token.text)) === JSON.stringify(wanted) &&
    (test.kinds === undefined || JSON.stringify(tokens.map((token) => token.kind)) === JSON.stringify(test.kinds))
  );
}

// Trees: ours in the shape of regorus's, without what only one of the two keeps.

type Tree = null | boolean | number | string | readonly Tree[] | { readonly [name: string]: Tree };

/** Matches anything; regorus writes it where a test does not care. */
const ANY = "--skip--";

const OPERATIONS: ReadonlyMap<string, string> = new Map([
  ...["+", "-", "*", "/", "%"].map((operator) => [operator, "arithexpr"] as const),
  ...["&", "|"].map((operator) => [operator, "binexpr"] as const),
  ...["==", "!=", "<", "<=", ">", ">="].map((operator) => [operator, "boolexpr"] as const),
]);

function reference(head: Tree, path: readonly Tree[]): Tree {
  return path.reduce((refr, index): Tree => ({ refbrack: { refr, index } }), head);
}

function termTree(term: Term): Tree {
  switch (term.kind) {
    case "scalar":
      if (term.value === null) return { null: null };
      if (typeof term.value === "boolean") return { bool: term.value };
      return typeof term.value === "string" ? { string: term.value } : { number: Number(term.value) };
    case "var":
      return { var: term.name };
    case "ref":
      return reference(termTree(term.head), term.path.map(termTree));
    case "call": {
      const args = term.args.map(termTree);
      if (term.operator === "in") {
        const [collection, value, key] = args.toReversed();
        return { inexpr: { ...(key === undefined ? {} : { key }), value: value!, collection: collection! } };
      }
      if (term.operator !== undefined) return { [OPERATIONS.get(term.operator)!]: { op: term.operator, lhs: args[0]!, rhs: args[1]! } };
      const [name, ...steps] = term.name;
      if (name === "set" && args.length === 0) return { set: [] };
      const fcn = reference(
        { var: name! },
        steps.map((string) => ({ string })),
      );
      return { call: { fcn, params: args } };
    }
    case "array":
      return { array: term.items.map(termTree) };
    case "set":
      return { set: term.items.map(termTree) };
    case "object":
      return { object: term.entries.map(([key, value]) => ({ key: termTree(key), value: termTree(value) })) };
    case "array-comprehension":
      return { arraycompr: { term: termTree(term.head), query: bodyTree(term.body) } };
    case "set-comprehension":
      return { setcompr: { term: termTree(term.head), query: bodyTree(term.body) } };
    case "object-comprehension":
      return { objectcompr: { key: termTree(term.key), value: termTree(term.value), query: bodyTree(term.body) } };
    case "template":
      return { template: null };
  }
}

function bodyTree(body: Body): Tree {
  return body.map(statementTree);
}

function statementTree({ expression, negated }: Statement): Tree {
  if (negated) return { not: null };
  switch (expression.kind) {
    case "term":
      return { expr: termTree(expression.term) };
    case "assign":
      return { expr: { assignexpr: { op: ":=", lhs: termTree(expression.target), rhs: termTree(expression.value) } } };
    case "unify":
      return { expr: { assignexpr: { op: "=", lhs: termTree(expression.left), rhs: termTree(expression.right) } } };
    case "some":
      return { "some-vars": { vars: expression.variables.map(({ name }) => name) } };
    case "some-in": {
      const { key, value, domain } = expression;
      return { "some-decl": { ...(key === undefined ? {} : { key: termTree(key) }), value: termTree(value), collection: termTree(domain) } };
    }
    case "every": {
      const { key, value, domain, body } = expression;
      return { every: { ...(key === undefined ? {} : { key: key.name }), value: value.name, domain: termTree(domain), query: bodyTree(body) } };
    }
  }
}

function headTree(head: RuleHead): { readonly [name: string]: Tree } {
  const refr = reference({ var: head.name }, head.path.map(termTree));
  if (head.parameters !== undefined) return { func: { refr, args: head.parameters.map(termTree) } };
  return head.item === undefined ? { compr: { refr } } : { set: { refr, key: termTree(head.item) } };
}

/** One entry for each body, with the value of the first: regorus does not tell `else` from a second body. */
function ruleTrees(rule: Rule): readonly Tree[] {
  return rule.clauses.map(({ value, body }): Tree => {
    return { head: headTree(rule.head), value: value === undefined ? null : termTree(value), body: bodyTree(body) };
  });
}

function importTree({ path, alias }: Import): Tree {
  const [root, ...steps] = path;
  const refr = reference(
    { var: root! },
    steps.map((string) => ({ string })),
  );
  return { refr, ...(alias === undefined ? {} : { as: alias }) };
}

type Node = Readonly<Record<string, unknown>>;

/** regorus's tree without places and numbers of nodes, and with one spelling for what it can write in two ways. */
function normalize(node: unknown): Tree {
  if (Array.isArray(node)) return node.map(normalize);
  if (typeof node !== "object" || node === null) return node as Tree;
  const entries = Object.entries(node as Node).filter(([name]) => !["span", "eidx", "sidx", "qidx"].includes(name));
  const tree = Object.fromEntries(
    entries.map(([name, value]): [string, Tree] => {
      const inner = normalize(value);
      if (name === "rawstring") return ["string", inner];
      if (name === "refdot") {
        const { refr, field } = inner as { readonly [part: string]: Tree };
        return ["refbrack", { refr: refr!, index: { string: field! } }];
      }
      // A list, or an object around it so that the place can be said as well.
      if (typeof inner !== "object" || inner === null || Array.isArray(inner)) return [name, inner];
      const list = { array: "values", set: "values", object: "fields", query: "stmts" }[name];
      return [name, list === undefined ? inner : ((inner as { readonly [part: string]: Tree })[list] ?? inner)];
    }),
  );
  return "literal" in tree ? tree["literal"]! : tree;
}

interface RuleSpec {
  readonly head:
    | string
    | { readonly [kind: string]: { readonly refr: Tree; readonly key?: Tree; readonly args?: Tree; readonly assign?: { readonly value: Tree } } };
  readonly bodies: string | readonly { readonly assign?: { readonly value: Tree }; readonly query: Tree }[];
}

/** regorus's rules in the shape of {@link ruleTrees}. */
function expectedRules(policy: Tree): readonly Tree[] {
  return (policy as readonly (string | { readonly spec: RuleSpec })[]).flatMap((item): readonly Tree[] => {
    if (typeof item === "string") return [ANY];
    const { head, bodies } = item.spec;
    const value = typeof head === "string" ? ANY : (Object.values(head)[0]!.assign?.value ?? null);
    const name = typeof head === "string" ? ANY : expectedHead(head);
    if (typeof bodies === "string") return [{ head: name, value, body: ANY }];
    if (bodies.length === 0) return [{ head: name, value, body: [] }];
    return bodies.map((body, at): Tree => ({ head: name, value: body.assign?.value ?? (at === 0 ? value : ANY), body: body.query }));
  });
}

function expectedHead(head: Exclude<RuleSpec["head"], string>): Tree {
  const [kind, { refr, key, args }] = Object.entries(head)[0]!;
  if (kind === "func") return { func: { refr, args: args! } };
  if (kind !== "set" || key !== undefined) return { [kind]: key === undefined ? { refr } : { refr, key } };
  // The old `y.a { ... }`: the last step is the item.
  const last = (refr as { readonly refbrack: { readonly refr: Tree; readonly index: Tree } }).refbrack;
  return { set: { refr: last.refr, key: last.index } };
}

function matches(expected: Tree, found: Tree | undefined): boolean {
  if (expected === ANY) return true;
  if (typeof expected !== "object" || expected === null) return Object.is(expected, found);
  if (typeof found !== "object" || found === null) return false;
  if (Array.isArray(expected) !== Array.isArray(found)) return false;
  const names = Object.keys(expected);
  return (
    names.length === Object.keys(found).length &&
    names.every((name) => matches((expected as { readonly [name: string]: Tree })[name]!, (found as { readonly [name: string]: Tree })[name]))
  );
}

function parses(test: SyntaxCase): boolean {
  const module = parsed(test.rego);
  if (test.error !== undefined) return module === undefined;
  if (module === undefined) return false;
  if (typeof test.package === "object" && test.package !== null) {
    const [name, ...steps] = module.packagePath;
    const refr = reference(
      { var: name! },
      steps.map((string) => ({ string })),
    );
    if (!matches(normalize(test.package), { refr })) return false;
  }
  if (Array.isArray(test.imports) && !matches(normalize(test.imports), module.imports.map(importTree))) return false;
  return test.policy === undefined || matches(expectedRules(normalize(test.policy)), module.rules.flatMap(ruleTrees));
}

describe.skipIf(!present)("regorus's lexer and parser cases (skipped without ../shared/vectors/rego)", () => {
  it.each([
    ["lexer", lexes, 90, 90],
    ["parser", parses, 113, 112],
  ] as const)("%s: answers as regorus does, except for the listed cases", (folder, passes, count, checked) => {
    const cases = casesOf(folder);
    const tried = [...cases].filter(([, test]) => test.skip !== true);
    expect([cases.size, tried.length]).toEqual([count, checked]);
    const failed = tried.filter(([, test]) => !passes(test)).map(([name]) => name);
    expect(failed.toSorted()).toEqual(Object.keys(known[folder]).toSorted());
  });

  it("sees a tree that differs", () => {
    const tree = { head: { compr: { refr: { var: "x" } } }, value: { number: 1 }, body: [] };
    const found = parsed("package t\nx = 1")!.rules.flatMap(ruleTrees);
    expect(matches([tree], found)).toBe(true);
    expect(matches([{ ...tree, value: { number: 2 } }], found)).toBe(false);
    expect(matches([{ ...tree, body: [{ expr: { bool: true } }] }], found)).toBe(false);
    expect(matches([tree, tree], found)).toBe(false);
  });
});
