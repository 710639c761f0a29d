import { findTooDeep } from "@sealpod/kube";
import type { BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import { builtinError, formatValue, isArray, normalizeInteger, normalizeNumber, RegoError, RegoObject } from "@sealpod/rego";
import type { CST, ParsedNode, YAMLMap } from "yaml";
import { Composer, isAlias, isMap, isScalar, isSeq, Parser } from "yaml";

/**
 * Nodes that aliases may add to a document. Aliases of aliases double a document with each line; a value is shared here,
 * but whoever walks it later would pay for each time it is used.
 */
const MAX_ALIASED_NODES = 100_000;

/** Units of memory for a node of the parser's tree: tokens, node, value. */
const NODE_UNITS = 64;

/** Units of memory for a character: a token of its own at worst. */
const CHARACTER_UNITS = 64;

/** Work for a character: the parser takes up to 15 microseconds for one that is a token or a mistake. */
const CHARACTER_WORK = 64;

const CORE_TAG = "tag:yaml.org,2002:";

/** A value with the number of nodes in it, aliases written out. */
interface Sized {
  readonly value: Value;
  readonly size: number;
}

/**
 * The value of the first document of a YAML text, as Go's sigs.k8s.io/yaml reads it: YAML 1.1 words (`yes`, `off`), `0x` and
 * `0` numbers, merge keys, the last of two equal keys; keys become strings.
 * @throws {BuiltinError} for what is not YAML or has no JSON form; {RegoError} ERR_REGO_LIMIT_NESTING
 */
export function decodeYaml(text: string, context: BuiltinContext): Value {
  context.allocate(text.length * CHARACTER_UNITS);
  context.work(text.length * CHARACTER_WORK);
  const tokens = firstDocument(text, context);
  const composer = new Composer({ schema: "failsafe", version: "1.1", uniqueKeys: false, prettyErrors: false, logLevel: "silent" });
  for (const document of composer.compose(tokens)) {
    const error = document.errors[0];
    if (error !== undefined) throw builtinError(`yaml: line ${lineOf(text, error.pos[0])}: ${describe(error.code, error.message)}`);
    return document.contents === null ? null : new YamlReader(text, context).node(document.contents as ParsedNode).value;
  }
  return null;
}

/** Tokens up to the end of the first document: Go does not look at the others. */
function firstDocument(text: string, context: BuiltinContext): readonly CST.Token[] {
  const tokens: CST.Token[] = [];
  let documents = 0;
  for (const token of new Parser().parse(text)) {
    if (token.type === "document" && ++documents > 1) break;
    tokens.push(token);
  }
  const limit = context.maxNesting;
  if (findTooDeep(tokens, limit) !== undefined) {
    throw new RegoError("ERR_REGO_LIMIT_NESTING", `a YAML text is nested deeper than ${limit}`, { details: { limit } });
  }
  return tokens;
}

function lineOf(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at !== -1 && at < offset; at = text.indexOf("\n", at + 1)) line++;
  return line;
}

/** Go's words for the most frequent mistake; else those of the parser, of which the first line says what is wrong. */
function describe(code: string, message: string): string {
  const flow = code === "BAD_INDENT" || code === "MISSING_CHAR" || code === "UNEXPECTED_TOKEN";
  const first = message.split("\n")[0]!;
  if (flow && message.includes("Flow sequence")) return `did not find expected ',' or ']' (${first})`;
  if (flow && message.includes("Flow map")) return `did not find expected ',' or '}' (${first})`;
  return first;
}

class YamlReader {
  readonly #text: string;
  readonly #context: BuiltinContext;
  /** Values of anchors; undefined while the anchored node is being read. */
  readonly #anchors = new Map<string, Sized | undefined>();
  #aliased = 0;

  constructor(text: string, context: BuiltinContext) {
    this.#text = text;
    this.#context = context;
  }

  node(node: ParsedNode | null): Sized {
    this.#context.work(1);
    this.#context.allocate(NODE_UNITS);
    if (node === null) return { value: null, size: 1 };
    if (isAlias(node)) return this.#alias(node.source, node);
    const { anchor } = node;
    if (anchor !== undefined) this.#anchors.set(anchor, undefined);
    const read = this.#content(node);
    if (anchor !== undefined) this.#anchors.set(anchor, read);
    return read;
  }

  #alias(name: string, node: ParsedNode): Sized {
    const target = this.#anchors.get(name);
    if (target === undefined)
      throw this.#fail(node, this.#anchors.has(name) ? `anchor '${name}' value contains itself` : `unknown anchor '${name}' referenced`);
    this.#aliased += target.size;
    if (this.#aliased > MAX_ALIASED_NODES) throw this.#fail(node, "document contains excessive aliasing");
    this.#context.work(target.size);
    this.#context.allocate(target.size * NODE_UNITS);
    return target;
  }

  #content(node: ParsedNode): Sized {
    if (isMap(node)) return this.#map(node);
    if (isSeq(node)) {
      const items = (node.items as readonly (ParsedNode | null)[]).map((item) => this.node(item));
      return { value: items.map(({ value }) => value), size: items.reduce((sum, { size }) => sum + size, 1) };
    }
    if (!isScalar(node)) throw this.#fail(node, "a node of an unknown kind");
    const plain = node.type === "PLAIN" || node.type === undefined;
    // Strings count by their length: an alias repeats them.
    const value = this.#scalar(node.source ?? node.value ?? "", plain, node.tag, node);
    return { value, size: 1 + (typeof value === "string" ? value.length >> 5 : 0) };
  }

  #map(node: YAMLMap.Parsed): Sized {
    const object = new RegoObject();
    const merged = new RegoObject();
    let size = 1;
    for (const { key, value } of node.items) {
      if (isScalar(key) && key.type === "PLAIN" && key.source === "<<") {
        const source = this.node(value);
        size += source.size;
        this.#merge(merged, source.value, key);
        continue;
      }
      const name = this.#key(this.node(key).value, key);
      const member = this.node(value);
      size += 1 + member.size;
      object.put(name, member.value);
    }
    // A merge gives what the mapping itself does not have (https://yaml.org/type/merge.html).
    for (const [name, value] of merged.entries()) if (!object.has(name)) object.put(name, value);
    return { value: object, size };
  }

  /** Of several mappings to merge the first one that has a key counts. */
  #merge(target: RegoObject, source: Value, at: ParsedNode): void {
    const maps: RegoArray = isArray(source) ? source : [source];
    for (const map of maps) {
      if (!(map instanceof RegoObject)) throw this.#fail(at, "map merge requires map or sequence of maps as the value");
      this.#context.work(map.size);
      this.#context.allocate(map.size * NODE_UNITS);
      for (const [name, value] of map.entries()) if (!target.has(name)) target.put(name, value);
    }
  }

  /** Keys of JSON are strings: numbers and booleans become their text. */
  #key(key: Value, node: ParsedNode | null): string {
    if (typeof key === "string") return key;
    if (typeof key === "number" || typeof key === "bigint" || typeof key === "boolean") return String(key);
    throw this.#fail(node, `unsupported map key: ${formatValue(key, 64)}`);
  }

  #scalar(text: string, plain: boolean, tag: string | undefined, node: ParsedNode): Value {
    switch (tag) {
      case undefined:
      case "":
        return plain ? this.#json(resolvePlain(text), node) : text.toWellFormed();
      case `${CORE_TAG}int`:
      case `${CORE_TAG}float`:
      case `${CORE_TAG}bool`:
      case `${CORE_TAG}null`: {
        const value = this.#json(resolvePlain(text), node);
        if (typeof value === "string") throw this.#fail(node, `cannot decode ${JSON.stringify(text.slice(0, 64))} as a !!${tag.slice(CORE_TAG.length)}`);
        return value;
      }
      case `${CORE_TAG}binary`:
        return this.#binary(text, node);
      default:
        return text.toWellFormed();
    }
  }

  #binary(text: string, node: ParsedNode): string {
    const packed = text.replaceAll("\n", "").replaceAll(" ", "");
    const bytes = Buffer.from(packed, "base64");
    if (bytes.toString("base64") !== packed) throw this.#fail(node, "!!binary value contains invalid base64 data");
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  }

  #json(value: Value, node: ParsedNode): Value {
    if (typeof value === "number" && !Number.isFinite(value)) throw this.#fail(node, `json: unsupported value: ${value}`);
    return typeof value === "number" ? normalizeNumber(value) : typeof value === "string" ? value.toWellFormed() : value;
  }

  #fail(node: ParsedNode | null, what: string): Error {
    return builtinError(`yaml: line ${lineOf(this.#text, node?.range?.[0] ?? 0)}: ${what}`);
  }
}

const WORDS: ReadonlyMap<string, Value> = new Map<string, Value>([
  ...["", "~", "null", "Null", "NULL"].map((word) => [word, null] as const),
  ...["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"].map((word) => [word, true] as const),
  ...["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"].map((word) => [word, false] as const),
  ...[".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"].map((word) => [word, Infinity] as const),
  ...["-.inf", "-.Inf", "-.INF"].map((word) => [word, -Infinity] as const),
  ...[".nan", ".NaN", ".NAN"].map((word) => [word, Number.NaN] as const),
]);

/** Longest text that is read as a number. */
const MAX_NUMBER_LENGTH = 512;

const RADIX: ReadonlyMap<string, string> = new Map([
  ["0x", "0123456789abcdef"],
  ["0o", "01234567"],
  ["0b", "01"],
]);

/** What a plain scalar stands for in YAML 1.1 as Go has it. Infinite values and NaN come out as numbers. */
export function resolvePlain(text: string): Value {
  const word = WORDS.get(text);
  if (word !== undefined) return word;
  const first = text.charAt(0);
  if (text.length > MAX_NUMBER_LENGTH || !((first >= "0" && first <= "9") || first === "+" || first === "-" || first === ".")) return text;
  const digits = text.replaceAll("_", "");
  return resolveInteger(digits) ?? resolveFloat(digits) ?? text;
}

/** Go's `ParseInt` with base 0 in 64 bits; larger ones become floating-point numbers, or stay text in other bases. */
function resolveInteger(text: string): Value | undefined {
  const negative = text.startsWith("-");
  const magnitude = negative || text.startsWith("+") ? text.slice(1) : text;
  let digits = magnitude;
  let alphabet = "0123456789";
  let prefix = "";
  const radix = RADIX.get(magnitude.slice(0, 2).toLowerCase());
  if (radix !== undefined) {
    prefix = magnitude.slice(0, 2).toLowerCase();
    digits = magnitude.slice(2);
    alphabet = radix;
  } else if (magnitude.length > 1 && magnitude.startsWith("0")) {
    prefix = "0o";
    digits = magnitude.slice(1);
    alphabet = RADIX.get("0o")!;
  }
  if (digits === "") return undefined;
  for (const char of digits.toLowerCase()) if (!alphabet.includes(char)) return undefined;
  const value = BigInt(prefix + digits);
  if (value >= 2n ** 64n || (negative && value > 2n ** 63n)) return undefined;
  return normalizeInteger(negative ? -value : value);
}

/** `1.5`, `.5`, `1.`, `1e3`, with a sign. */
function resolveFloat(text: string): Value | undefined {
  let at = text.startsWith("-") || text.startsWith("+") ? 1 : 0;
  const skip = (): number => {
    const start = at;
    while (text.charCodeAt(at) >= 0x30 && text.charCodeAt(at) <= 0x39) at++;
    return at - start;
  };
  const whole = skip();
  if (text[at] === ".") {
    at++;
    if (skip() + whole === 0) return undefined;
  } else if (whole === 0) return undefined;
  if (text[at] === "e" || text[at] === "E") {
    at++;
    if (text[at] === "-" || text[at] === "+") at++;
    if (skip() === 0) return undefined;
  }
  if (at !== text.length) return undefined;
  const value = Number(text);
  // Go's parser fails out of range; the text stays.
  return Number.isFinite(value) ? value : undefined;
}
