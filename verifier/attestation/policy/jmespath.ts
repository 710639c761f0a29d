// @ts-expect-error -- the package has no types; what comes out of it is taken apart below, member by member
import jmespath from "jmespath";
import type { JsonObject, JsonValue } from "@sealpod/core";
import { MAX_DOCUMENT_DEPTH, MAX_JMESPATH, MAX_JMESPATH_DEPTH } from "./limits.ts";

/** The two functions of the library that are used. Its evaluator is not: see {@link parseJmesPath}. */
const library = jmespath as { compile(expression: string): unknown; tokenize(expression: string): unknown };

/** Comparisons of JMESPath, as the library names them. */
const COMPARATORS = ["EQ", "NE", "LT", "LTE", "GT", "GTE"] as const;

/** One of the comparisons of JMESPath. */
export type Comparator = (typeof COMPARATORS)[number];

/** The functions of the JMESPath standard. */
export type JmesPathFunction =
  | "abs"
  | "avg"
  | "ceil"
  | "contains"
  | "ends_with"
  | "floor"
  | "join"
  | "keys"
  | "length"
  | "map"
  | "max"
  | "max_by"
  | "merge"
  | "min"
  | "min_by"
  | "not_null"
  | "reverse"
  | "sort"
  | "sort_by"
  | "starts_with"
  | "sum"
  | "to_array"
  | "to_number"
  | "to_string"
  | "type"
  | "values";

/** Kinds of their arguments; `…` takes one or more, `&` is an expression reference. */
const FUNCTIONS: Readonly<Record<JmesPathFunction, readonly string[]>> = {
  abs: ["number"],
  avg: ["numbers"],
  ceil: ["number"],
  contains: ["string|array", "any"],
  ends_with: ["string", "string"],
  floor: ["number"],
  join: ["string", "strings"],
  keys: ["object"],
  length: ["string|array|object"],
  map: ["&", "array"],
  max: ["numbers|strings"],
  max_by: ["array", "&"],
  merge: ["object…"],
  min: ["numbers|strings"],
  min_by: ["array", "&"],
  not_null: ["any…"],
  reverse: ["string|array"],
  sort: ["numbers|strings"],
  sort_by: ["array", "&"],
  starts_with: ["string", "string"],
  sum: ["numbers"],
  to_array: ["any"],
  to_number: ["any"],
  to_string: ["any"],
  type: ["any"],
  values: ["object"],
};

/** A JMESPath expression (jmespath.org, "Grammar"). */
export type JmesPath =
  | { readonly kind: "current" }
  | { readonly kind: "literal"; readonly value: JsonValue }
  | { readonly kind: "field"; readonly name: string }
  | { readonly kind: "index"; readonly index: number }
  | { readonly kind: "slice"; readonly start: number | undefined; readonly stop: number | undefined; readonly step: number }
  /** `left | right`, `left.right`, `left[0]`: right sees what left gives. */
  | { readonly kind: "then"; readonly left: JmesPath; readonly right: JmesPath }
  | { readonly kind: "flatten"; readonly of: JmesPath }
  | { readonly kind: "project"; readonly over: "array" | "values"; readonly left: JmesPath; readonly filter: JmesPath | undefined; readonly right: JmesPath }
  | { readonly kind: "compare"; readonly comparator: Comparator; readonly left: JmesPath; readonly right: JmesPath }
  | { readonly kind: "or" | "and"; readonly left: JmesPath; readonly right: JmesPath }
  | { readonly kind: "not"; readonly of: JmesPath }
  | { readonly kind: "list"; readonly items: readonly JmesPath[] }
  | { readonly kind: "hash"; readonly members: readonly { readonly name: string; readonly value: JmesPath }[] }
  | { readonly kind: "function"; readonly name: JmesPathFunction; readonly arguments: readonly JmesPathArgument[] };

/** An argument: what has a value, or `&expression`, which the function applies. */
export type JmesPathArgument = { readonly kind: "value" | "reference"; readonly expression: JmesPath };

/** What is wrong with a JMESPath expression. */
export class JmesPathFault extends Error {
  /** The limit that was exceeded, if that is what is wrong. */
  readonly limit: number | undefined;

  constructor(message: string, limit?: number) {
    super(message);
    this.limit = limit;
  }
}

/**
 * Parses a JMESPath expression with the library's lexer and parser.
 *
 * The library's evaluator is not used, because a guest has a say in the documents: it takes a member `jmespathType` of a document for a piece of the expression,
 * calls methods that a document can name (`hasOwnProperty`), looks functions and fields up in objects with a prototype, and has no bound on work, while
 * `[@,@][]` repeated in a short expression is exponential.
 * @throws {JmesPathFault}
 */
export function parseJmesPath(text: string): JmesPath {
  if (text.length > MAX_JMESPATH) throw new JmesPathFault(`the JMESPath expression has ${text.length} characters`, MAX_JMESPATH);
  if (text.trim() === "") throw new JmesPathFault("the JMESPath expression is empty");
  let tree: unknown;
  try {
    tree = library.compile(forLibrary(text));
  } catch (error) {
    if (error instanceof JmesPathFault) throw error;
    if (error instanceof RangeError) throw tooDeep();
    // Faults of the library itself (`undefined` has no member "type") are as good as "syntax error", and say less.
    const known = error instanceof Error && !(error instanceof TypeError) ? `: ${error.message.slice(0, 120)}` : "";
    throw new JmesPathFault(`it is no JMESPath expression${known}`);
  }
  return convert(tree, 0);
}

/** A raw string, a quoted name, a literal, a number; each to its end. */
const PIECE = /'((?:[^'\\]|\\[^])*)'|"(?:[^"\\]|\\[^])*"|`((?:[^`\\]|\\[^])*)`|-?[0-9]+(?![0-9-])|[^'"`0-9-]/y;

/**
 * The same expression without what the library's lexer and parser get wrong: it takes strings that do not end, numbers such as `1-`, and operands side by side;
 * of several escaped quotes it unescapes the first; and behind `(` it takes `@` for a whole argument, so that `length(@[0])` has two.
 */
function forLibrary(text: string): string {
  const pieces: string[] = [];
  for (PIECE.lastIndex = 0; PIECE.lastIndex < text.length;) {
    const start = PIECE.lastIndex;
    const match = PIECE.exec(text);
    if (match === null) throw new JmesPathFault(`it is no JMESPath expression: ${JSON.stringify(text.slice(start, start + 20))} has no end, or is no number`);
    const [piece, raw, literal] = match;
    if (raw !== undefined) pieces.push(`\`${JSON.stringify(raw.replaceAll("\\'", "'")).replaceAll("`", "\\u0060")}\``);
    else if (literal !== undefined) pieces.push(`\`${literal.replaceAll(/\\([^])/g, (pair: string, char: string) => (char === "`" ? "\\u0060" : pair))}\``);
    else pieces.push(piece);
  }
  const plain = pieces.join("");
  const tokens = (library.tokenize(plain) as readonly unknown[]).map(memberOf);
  requireSeparated(tokens);
  let at = 0;
  let out = "";
  for (const { type, start } of tokens) {
    if (type !== "Current" || typeof start !== "number") continue;
    out += `${plain.slice(at, start)}(@)`;
    at = start + 1;
  }
  return out + plain.slice(at);
}

/** Tokens that end an operand, and that begin one: side by side they are an error, which the library's parser does not see within parentheses and lists. */
const ENDS: ReadonlySet<unknown> = new Set(["UnquotedIdentifier", "QuotedIdentifier", "Literal", "Current", "Rparen", "Rbracket", "Rbrace", "Flatten"]);
const BEGINS: ReadonlySet<unknown> = new Set(["UnquotedIdentifier", "QuotedIdentifier", "Literal", "Current", "Expref", "Not", "Lbrace"]);

function requireSeparated(tokens: readonly Readonly<Record<string, unknown>>[]): void {
  let before: unknown;
  for (const { type, value } of tokens) {
    if (ENDS.has(before) && BEGINS.has(type))
      throw new JmesPathFault(`it is no JMESPath expression: ${JSON.stringify(value)?.slice(0, 60)} follows without an operator`);
    before = type;
  }
}

function tooDeep(): JmesPathFault {
  return new JmesPathFault("the JMESPath expression is nested too deeply", MAX_JMESPATH_DEPTH);
}

function memberOf(node: unknown): Readonly<Record<string, unknown>> {
  // The library gives `undefined` for some expressions that end too early.
  if (typeof node !== "object" || node === null) throw new JmesPathFault("it is no JMESPath expression: something is missing");
  return node as Readonly<Record<string, unknown>>;
}

function convert(node: unknown, depth: number): JmesPath {
  if (depth > MAX_JMESPATH_DEPTH) throw tooDeep();
  const { type, name, value, children } = memberOf(node);
  const list = Array.isArray(children) ? (children as readonly unknown[]) : [];
  const child = (index: number): JmesPath => convert(list[index], depth + 1);
  switch (type) {
    case "Identity":
    case "Current":
      return { kind: "current" };
    case "Literal":
      return { kind: "literal", value: literal(value, 0) };
    case "Field":
      return { kind: "field", name: text(name) };
    case "Index":
      return { kind: "index", index: integer(value) };
    case "Slice":
      return slice(list);
    case "Subexpression":
    case "IndexExpression":
    case "Pipe":
      return { kind: "then", left: child(0), right: child(1) };
    case "Flatten":
      return { kind: "flatten", of: child(0) };
    case "Projection":
      return { kind: "project", over: "array", left: child(0), filter: undefined, right: child(1) };
    case "ValueProjection":
      return { kind: "project", over: "values", left: child(0), filter: undefined, right: child(1) };
    case "FilterProjection":
      return { kind: "project", over: "array", left: child(0), filter: child(2), right: child(1) };
    case "Comparator": {
      const comparator = COMPARATORS.find((candidate) => candidate === name);
      if (comparator === undefined) throw new JmesPathFault("it is no JMESPath expression: unknown comparison");
      return { kind: "compare", comparator, left: child(0), right: child(1) };
    }
    case "OrExpression":
      return { kind: "or", left: child(0), right: child(1) };
    case "AndExpression":
      return { kind: "and", left: child(0), right: child(1) };
    case "NotExpression":
      return { kind: "not", of: child(0) };
    case "MultiSelectList":
      return { kind: "list", items: list.map((_, index) => child(index)) };
    case "MultiSelectHash":
      return {
        kind: "hash",
        members: list.map((pair) => {
          const { name: member, value: inner } = memberOf(pair);
          return { name: text(member), value: convert(inner, depth + 1) };
        }),
      };
    case "Function":
      return call(text(name), list, depth);
    case "ExpressionReference":
      throw new JmesPathFault("&expression stands only where a function takes one");
    default:
      throw new JmesPathFault("it is no JMESPath expression");
  }
}

function call(name: string, list: readonly unknown[], depth: number): JmesPath {
  if (!Object.hasOwn(FUNCTIONS, name)) throw new JmesPathFault(`JMESPath has no function ${JSON.stringify(name.slice(0, 60))}`);
  const known = name as JmesPathFunction;
  const kinds = FUNCTIONS[known];
  const variadic = kinds[0]?.endsWith("…") === true;
  if (variadic ? list.length === 0 : list.length !== kinds.length) {
    throw new JmesPathFault(`${name}() takes ${variadic ? "at least 1" : kinds.length} argument${kinds.length === 1 ? "" : "s"}, found ${list.length}`);
  }
  const args = list.map((item, index): JmesPathArgument => {
    const { type, children } = memberOf(item);
    const isReference = type === "ExpressionReference";
    if (isReference !== (kinds[index] === "&")) {
      throw new JmesPathFault(
        `${name}() takes ${isReference ? "a value" : "an &expression"} as argument ${index + 1}, found ${isReference ? "an &expression" : "a value"}`,
      );
    }
    return isReference
      ? { kind: "reference", expression: convert((children as readonly unknown[])[0], depth + 1) }
      : { kind: "value", expression: convert(item, depth + 1) };
  });
  return { kind: "function", name: known, arguments: args };
}

function slice(parts: readonly unknown[]): JmesPath {
  const [start, stop, step] = parts.map((part) => (part === null ? undefined : integer(part)));
  if (step === 0) throw new JmesPathFault("the step of a slice is 0");
  return { kind: "slice", start, stop, step: step ?? 1 };
}

function text(value: unknown): string {
  if (typeof value !== "string") throw new JmesPathFault("it is no JMESPath expression: a name is missing");
  return value;
}

function integer(value: unknown): number {
  // The library reads `--1` and `1-` as numbers of some kind.
  if (typeof value !== "number" || !Number.isSafeInteger(value)) throw new JmesPathFault("it is no JMESPath expression: an index is no integer");
  return value;
}

/** A literal between backticks. The library has read it with JSON.parse, which gives objects a prototype and rounds integers. */
function literal(value: unknown, depth: number): JsonValue {
  if (depth > MAX_DOCUMENT_DEPTH) throw tooDeep();
  if (typeof value === "number") {
    if (Math.abs(value) >= 2 ** 53) throw new JmesPathFault("an integer literal beyond 2^53 is not exact in JMESPath");
    return value;
  }
  if (value === null || typeof value === "string" || typeof value === "boolean") return value;
  if (Array.isArray(value)) return (value as readonly unknown[]).map((item) => literal(item, depth + 1));
  if (typeof value !== "object") throw new JmesPathFault("it is no JMESPath expression: not a JSON literal");
  const object = Object.create(null) as Record<string, JsonValue>;
  for (const [name, item] of Object.entries(value)) object[name] = literal(item, depth + 1);
  return object as JsonObject;
}
