import type { BuiltinContext, Numeric, RegoArray, Value } from "@sealpod/rego";
import { builtinError, compareValues, isInteger, keyText, object, RegoObject, RegoSet, string } from "@sealpod/rego";
import { formatFloat } from "./go-number.ts";
import type { Operand, Pipeline, TemplateNode } from "./template-parse.ts";
import { parseTemplate } from "./template-parse.ts";

/**
 * A number of the variables. Go's templates get them as `json.Number`, which is a string there: it prints as it was
 * written, is true unless empty, and compares with strings only. A number here is one of the template's own.
 */
class JsonNumber {
  readonly text: string;

  constructor(value: Numeric) {
    this.text = String(value);
  }
}

/** A value of a template; undefined is Go's "no value". */
type Datum = null | boolean | Numeric | string | JsonNumber | readonly Value[] | RegoObject | undefined;

/** What Go prints for a value that is not there, and what OPA makes of it. */
const NO_VALUE = "<undefined>";

function datum(value: Value | undefined): Datum {
  if (typeof value === "number" || typeof value === "bigint") return new JsonNumber(value);
  if (value instanceof RegoSet) throw builtinError("a set has no JSON form that a template could use; make an array of it");
  return value;
}

/** `strings.render_template`: the text of a Go template for an object of variables. */
export function renderTemplate(args: RegoArray, context: BuiltinContext): Value {
  const template = string(args, 0);
  const variables = object(args, 1);
  context.work(template.length);
  context.allocate(template.length * 8);
  const renderer = new Renderer(context, variables);
  renderer.nodes(parseTemplate(template, context), variables);
  return renderer.text();
}

type Flow = "next" | "break" | "continue";

class Renderer {
  readonly #context: BuiltinContext;
  readonly #parts: string[] = [];
  readonly #variables: { readonly name: string; value: Datum }[];

  constructor(context: BuiltinContext, root: RegoObject) {
    this.#context = context;
    this.#variables = [{ name: "", value: root }];
  }

  text(): string {
    return this.#parts.join("");
  }

  nodes(nodes: readonly TemplateNode[], dot: Datum): Flow {
    for (const node of nodes) {
      const flow = this.#node(node, dot);
      if (flow !== "next") return flow;
    }
    return "next";
  }

  #write(text: string): void {
    this.#context.allocate(text.length);
    this.#parts.push(text);
  }

  #node(node: TemplateNode, dot: Datum): Flow {
    this.#context.work(1);
    switch (node.kind) {
      case "text":
        this.#write(node.text);
        return "next";
      case "print": {
        const value = this.#pipeline(node.pipeline, dot);
        if (node.pipeline.variables.length === 0) this.#write(printed(value, this.#context));
        return "next";
      }
      case "break":
      case "continue":
        return node.kind;
      default: {
        const scope = this.#variables.length;
        const flow = node.kind === "range" ? this.#range(node, dot) : this.#choice(node, dot);
        this.#variables.length = scope;
        return flow;
      }
    }
  }

  #choice(node: Extract<TemplateNode, { readonly body: unknown }>, dot: Datum): Flow {
    const value = this.#pipeline(node.pipeline, dot);
    if (!isTrue(value)) return this.nodes(node.otherwise, dot);
    return this.nodes(node.body, node.kind === "with" ? value : dot);
  }

  #range(node: Extract<TemplateNode, { readonly body: unknown }>, dot: Datum): Flow {
    const value = this.#pipeline({ ...node.pipeline, variables: [] }, dot);
    const entries = entriesOf(value, this.#context);
    if (entries.length === 0) return this.nodes(node.otherwise, dot);
    const { variables, declares } = node.pipeline;
    const scope = this.#variables.length;
    for (const [key, item] of entries) {
      this.#context.work(1);
      // One variable gets the item, two get key and item.
      const values = variables.length === 2 ? [key, item] : [item];
      for (const [at, name] of variables.entries()) this.#assign(name, values[at], declares);
      const flow = this.nodes(node.body, item);
      this.#variables.length = scope;
      if (flow === "break") break;
    }
    return "next";
  }

  #assign(name: string, value: Datum, declares: boolean): void {
    if (declares) {
      this.#variables.push({ name, value });
      return;
    }
    this.#variable(name).value = value;
  }

  #variable(name: string): { value: Datum } {
    const found = this.#variables.findLast((variable) => variable.name === name);
    if (found === undefined) throw builtinError(`undefined variable "$${name}"`);
    this.#context.work(this.#variables.length >> 4);
    return found;
  }

  #pipeline(pipeline: Pipeline, dot: Datum): Datum {
    let value: Datum;
    let piped = false;
    for (const command of pipeline.commands) {
      value = this.#command(command, dot, piped ? [value] : []);
      piped = true;
    }
    for (const name of pipeline.variables) this.#assign(name, value, pipeline.declares);
    return value;
  }

  #command(operands: readonly Operand[], dot: Datum, piped: readonly Datum[]): Datum {
    this.#context.work(1);
    const [first, ...rest] = operands;
    if (first!.kind !== "function") {
      if (rest.length > 0) throw builtinError(`can't give argument to non-function`);
      return this.#operand(first!, dot);
    }
    const { name } = first!;
    if (name === "and" || name === "or") return this.#shortCircuit(name, rest, dot, piped);
    return callFunction(name, [...rest.map((operand) => this.#operand(operand, dot)), ...piped], this.#context);
  }

  /** The first argument that decides, or the last one; what is behind is not looked at. */
  #shortCircuit(name: "and" | "or", operands: readonly Operand[], dot: Datum, piped: readonly Datum[]): Datum {
    if (operands.length + piped.length === 0) throw builtinError(`wrong number of args for ${name}: want at least 1 got 0`);
    let value: Datum;
    for (const operand of operands) {
      value = this.#operand(operand, dot);
      if (isTrue(value) === (name === "or")) return value;
    }
    return piped.length > 0 ? piped[0] : value;
  }

  #operand(operand: Operand, dot: Datum): Datum {
    switch (operand.kind) {
      case "dot":
        return fields(dot, operand.fields);
      case "variable":
        return fields(this.#variable(operand.name).value, operand.fields);
      case "constant":
        return operand.value as Datum;
      case "function":
        return callFunction(operand.name, [], this.#context);
      case "pipeline":
        return fields(this.#pipeline(operand.pipeline, dot), operand.fields);
    }
  }
}

/** Members by name; a name that an object does not have is "no value", of which nothing more can be asked. */
function fields(start: Datum, names: readonly string[]): Datum {
  let value = start;
  for (const name of names) {
    if (value === undefined || value === null) throw builtinError(`nil pointer evaluating interface {}.${name}`);
    if (!(value instanceof RegoObject)) throw builtinError(`can't evaluate field ${name} in a value of type ${typeOf(value)}`);
    value = datum(value.get(name));
  }
  return value;
}

function isList(value: Datum): value is readonly Value[] {
  return Array.isArray(value);
}

function entriesOf(value: Datum, context: BuiltinContext): readonly (readonly [Datum, Datum])[] {
  if (value === undefined || value === null) return [];
  // Made and sorted as a whole, however soon the loop breaks off.
  context.work(4 * (isList(value) ? value.length : value instanceof RegoObject ? value.size : 0));
  if (isList(value)) return value.map((item, at) => [at, datum(item)]);
  if (value instanceof RegoObject) return textEntries(value).map(([key, item]) => [key, datum(item)]);
  throw builtinError(`range can't iterate over a value of type ${typeOf(value)}`);
}

/** Members in the order of their names as texts. */
function textEntries(value: RegoObject): readonly (readonly [string, Value])[] {
  return [...value.entries()].map(([key, item]) => [keyText(key), item] as const).sort(([a], [b]) => compareValues(a, b));
}

/** Go's truth: false are empty values and numbers of the template that are zero. */
function isTrue(value: Datum): boolean {
  if (value === undefined || value === null || value === false || value === 0 || value === "") return false;
  if (isList(value)) return value.length > 0;
  return value instanceof RegoObject ? value.size > 0 : true;
}

function typeOf(value: Datum): string {
  if (value === undefined || value === null) return "nil";
  if (value instanceof JsonNumber) return "json.Number";
  if (isList(value)) return "array";
  if (value instanceof RegoObject) return "object";
  return typeof value === "boolean" ? "bool" : typeof value === "string" ? "string" : isInteger(value) ? "int" : "float64";
}

/** A value as `{{.}}` prints it. */
function printed(value: Datum, context: BuiltinContext): string {
  if (value === undefined || value === null) return NO_VALUE;
  return formatted(value, context);
}

/** Go's `%v`. */
function formatted(value: Datum, context: BuiltinContext): string {
  context.work(1);
  if (value === undefined) return "<no value>";
  if (value === null) return "<nil>";
  if (typeof value === "string") return value;
  if (value instanceof JsonNumber) return value.text;
  if (typeof value === "boolean" || typeof value === "bigint") return String(value);
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : formatFloat(value);
  const text = isList(value)
    ? `[${value.map((item) => formatted(datum(item), context)).join(" ")}]`
    : `map[${textEntries(value)
        .map(([key, item]) => `${key}:${formatted(datum(item), context)}`)
        .join(" ")}]`;
  context.allocate(text.length);
  return text;
}

/** A function of templates, with the numbers of arguments that it takes. */
interface TemplateFunction {
  readonly least: number;
  readonly most: number;
  readonly call: (args: readonly Datum[], context: BuiltinContext) => Datum;
}

/** A number or text of either side as one of a kind that compares. */
function basic(value: Datum): { readonly kind: "bool" | "number" | "string"; readonly value: Value } {
  if (typeof value === "boolean") return { kind: "bool", value };
  if (typeof value === "number" || typeof value === "bigint") return { kind: "number", value };
  if (typeof value === "string") return { kind: "string", value };
  if (value instanceof JsonNumber) return { kind: "string", value: value.text };
  throw builtinError("invalid type for comparison");
}

function isEqual(a: Datum, b: Datum): boolean {
  if (a === null || a === undefined || b === null || b === undefined) return (a ?? null) === (b ?? null);
  const [left, right] = [basic(a), basic(b)];
  if (left.kind !== right.kind) throw builtinError("incompatible types for comparison");
  return compareValues(left.value, right.value) === 0;
}

function order(a: Datum, b: Datum): number {
  const [left, right] = [basic(a), basic(b)];
  if (left.kind !== right.kind) throw builtinError("incompatible types for comparison");
  if (left.kind === "bool") throw builtinError("invalid type for comparison");
  return compareValues(left.value, right.value);
}

function length(value: Datum): number {
  if (typeof value === "string") return Buffer.byteLength(value);
  if (value instanceof JsonNumber) return value.text.length;
  if (isList(value)) return value.length;
  if (value instanceof RegoObject) return value.size;
  throw builtinError(`len of type ${typeOf(value)}`);
}

function indexOf(value: Datum): number {
  if (typeof value !== "number" || !Number.isInteger(value)) throw builtinError(`cannot index slice/array with type ${typeOf(value)}`);
  return value;
}

function index([start, ...keys]: readonly Datum[]): Datum {
  let value = start;
  for (const key of keys) {
    if (isList(value)) {
      const at = indexOf(key);
      if (at < 0 || at >= value.length) throw builtinError(`index out of range: ${at}`);
      value = datum(value[at]);
    } else if (value instanceof RegoObject) {
      if (typeof key !== "string") throw builtinError(`value has type ${typeOf(key)}; should be string`);
      value = datum(value.get(key));
    } else throw builtinError(`can't index item of type ${typeOf(value)}`);
  }
  return value;
}

function slice([value, ...bounds]: readonly Datum[], context: BuiltinContext): Datum {
  if (!isList(value) && typeof value !== "string") throw builtinError(`can't slice item of type ${typeOf(value)}`);
  const size = length(value);
  const [from = 0, to = size] = bounds.map(indexOf);
  if (from < 0 || to < from || to > size) throw builtinError(`index out of range: ${from}:${to}`);
  context.work((to - from) >> 3);
  context.allocate(to - from);
  return typeof value === "string" ? Buffer.from(value).subarray(from, to).toString() : value.slice(from, to);
}

const HTML: ReadonlyMap<string, string> = new Map([
  ["\0", "\ufffd"],
  ['"', "&#34;"],
  ["'", "&#39;"],
  ["&", "&amp;"],
  ["<", "&lt;"],
  [">", "&gt;"],
]);

const JS: ReadonlyMap<string, string> = new Map([
  ["\\", "\\\\"],
  ["'", "\\'"],
  ['"', '\\"'],
  ["<", "\\u003C"],
  [">", "\\u003E"],
  ["&", "\\u0026"],
  ["=", "\\u003D"],
]);

function escaped(text: string, table: ReadonlyMap<string, string>): string {
  let result = "";
  for (const char of text)
    result += table.get(char) ?? (table === JS && char < " " ? `\\u${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}` : char);
  return result;
}

/** What `url.QueryEscape` leaves as it is. */
function queryEscaped(text: string): string {
  return encodeURIComponent(text)
    .replaceAll("%20", "+")
    .replaceAll("!", "%21")
    .replaceAll("'", "%27")
    .replaceAll("(", "%28")
    .replaceAll(")", "%29")
    .replaceAll("*", "%2A");
}

/** All arguments as one text: spaces stand between two that are no strings. */
function sprint(args: readonly Datum[], context: BuiltinContext): string {
  const isText = (value: Datum): boolean => typeof value === "string";
  let text = "";
  for (const [at, value] of args.entries()) {
    if (at > 0 && !isText(value) && !isText(args[at - 1])) text += " ";
    text += formatted(value, context);
  }
  return text;
}

/** The verbs of `printf` that text needs, without flags: `%v`, `%s`, `%d`, `%t`, `%q`, `%%`. */
function printf(args: readonly Datum[], context: BuiltinContext): string {
  const [format, ...values] = args;
  if (typeof format !== "string") throw builtinError(`wrong type for value; expected string; got ${typeOf(format)}`);
  let text = "";
  let used = 0;
  for (let at = 0; at < format.length; at++) {
    const char = format[at]!;
    if (char !== "%") {
      text += char;
      continue;
    }
    const verb = format[++at];
    if (verb === "%") {
      text += "%";
      continue;
    }
    if (verb === undefined || !"vsdtq".includes(verb)) throw builtinError(`printf: the verb %${verb ?? ""} is not supported: use %v, %s, %d, %t or %q`);
    if (used >= values.length) {
      text += `%!${verb}(MISSING)`;
      continue;
    }
    const value = values[used++];
    if (!takes(verb, value)) throw builtinError(`printf: %${verb} cannot print a value of type ${typeOf(value)}`);
    const plain = formatted(value, context);
    text += verb === "q" ? JSON.stringify(plain) : plain;
  }
  if (used < values.length) throw builtinError(`printf: ${values.length} values for ${used} verbs`);
  return text;
}

function takes(verb: string, value: Datum): boolean {
  if (verb === "d") return typeOf(value) === "int";
  if (verb === "t") return typeof value === "boolean";
  return verb === "v" || typeof value === "string" || value instanceof JsonNumber;
}

const FUNCTIONS: ReadonlyMap<string, TemplateFunction> = new Map<string, TemplateFunction>([
  ["not", { least: 1, most: 1, call: ([value]) => !isTrue(value) }],
  ["len", { least: 1, most: 1, call: ([value]) => length(value) }],
  ["index", { least: 1, most: Infinity, call: index }],
  ["slice", { least: 1, most: 3, call: slice }],
  ["eq", { least: 2, most: Infinity, call: ([first, ...others]) => others.some((other) => isEqual(first, other)) }],
  ["ne", { least: 2, most: 2, call: ([a, b]) => !isEqual(a, b) }],
  ["lt", { least: 2, most: 2, call: ([a, b]) => order(a, b) < 0 }],
  ["le", { least: 2, most: 2, call: ([a, b]) => order(a, b) <= 0 }],
  ["gt", { least: 2, most: 2, call: ([a, b]) => order(a, b) > 0 }],
  ["ge", { least: 2, most: 2, call: ([a, b]) => order(a, b) >= 0 }],
  ["print", { least: 0, most: Infinity, call: sprint }],
  ["println", { least: 0, most: Infinity, call: (args, context) => `${args.map((value) => formatted(value, context)).join(" ")}\n` }],
  ["printf", { least: 1, most: Infinity, call: printf }],
  ["html", { least: 1, most: Infinity, call: (args, context) => escaped(sprint(args, context), HTML) }],
  ["js", { least: 1, most: Infinity, call: (args, context) => escaped(sprint(args, context), JS) }],
  ["urlquery", { least: 1, most: Infinity, call: (args, context) => queryEscaped(sprint(args, context)) }],
]);

function callFunction(name: string, args: readonly Datum[], context: BuiltinContext): Datum {
  const found = FUNCTIONS.get(name);
  if (found === undefined) throw builtinError(`function ${JSON.stringify(name)} not defined`);
  const { least, most, call } = found;
  if (args.length < least || args.length > most) {
    throw builtinError(`wrong number of args for ${name}: want ${least === most ? least : `at least ${least}`} got ${args.length}`);
  }
  for (const value of args) if (typeof value === "string") context.work(value.length >> 6);
  const result = call(args, context);
  if (typeof result === "string") {
    context.work(result.length >> 4);
    context.allocate(result.length);
  }
  return result;
}
