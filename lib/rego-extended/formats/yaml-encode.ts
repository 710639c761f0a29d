import type { BuiltinContext, Value } from "@sealpod/rego";
import { isArray, keyText, RegoObject, RegoSet } from "@sealpod/rego";
import { formatFloat } from "./go-number.ts";
import { isTime } from "../time/time-layout.ts";
import { resolvePlain } from "./yaml-decode.ts";

/**
 * YAML text of a value in the form of Go's sigs.k8s.io/yaml: block style, two spaces, lists not indented within mappings, keys
 * in natural order (`a2` before `a10`), lines never folded.
 */
export function encodeYaml(value: Value, context: BuiltinContext): string {
  const writer = new YamlWriter(context);
  writer.top(value);
  return writer.text();
}

class YamlWriter {
  readonly #context: BuiltinContext;
  readonly #parts: string[] = [];

  constructor(context: BuiltinContext) {
    this.#context = context;
  }

  text(): string {
    return this.#parts.join("");
  }

  top(value: Value): void {
    const items = itemsOf(value);
    if (items !== undefined && items.length > 0) this.#list(items, 0);
    else if (value instanceof RegoObject && value.size > 0) this.#map(value, 0);
    else this.#write(`${this.#leaf(value, 0)}\n`);
  }

  #write(text: string): void {
    this.#context.work(1 + (text.length >> 4));
    this.#context.allocate(text.length);
    this.#parts.push(text);
  }

  /** `first` has been written up to the place where its first entry starts. */
  #list(items: readonly Value[], indent: number, inline = false): void {
    for (const [at, item] of items.entries()) {
      this.#write(inline && at === 0 ? "- " : `${" ".repeat(indent)}- `);
      const inner = itemsOf(item);
      if (inner !== undefined && inner.length > 0) this.#list(inner, indent + 2, true);
      else if (item instanceof RegoObject && item.size > 0) this.#map(item, indent + 2, true);
      else this.#write(`${this.#leaf(item, indent)}\n`);
    }
  }

  #map(object: RegoObject, indent: number, inline = false): void {
    const members = [...object.entries()].map(([key, value]) => [keyText(key), value] as const).sort(([a], [b]) => compareNatural(a, b));
    for (const [at, [name, value]] of members.entries()) {
      const key = scalarText(name, 0, true);
      // A long or multi-line key needs the explicit form.
      const long = key.length > 128;
      this.#write(`${inline && at === 0 ? "" : " ".repeat(indent)}${long ? "? " : ""}${key}${long ? `\n${" ".repeat(indent)}` : ""}:`);
      const items = itemsOf(value);
      if (items !== undefined && items.length > 0) {
        this.#write("\n");
        this.#list(items, indent);
      } else if (value instanceof RegoObject && value.size > 0) {
        this.#write("\n");
        this.#map(value, indent + 2);
      } else this.#write(` ${this.#leaf(value, indent)}\n`);
    }
  }

  #leaf(value: Value, indent: number): string {
    if (typeof value === "string") return scalarText(value, indent + 2, false);
    if (typeof value === "number" && !Number.isInteger(value)) return formatFloat(value);
    if (typeof value !== "object" || value === null) return String(value);
    return value instanceof RegoObject ? "{}" : "[]";
  }
}

function itemsOf(value: Value): readonly Value[] | undefined {
  if (value instanceof RegoSet) return value.items();
  return isArray(value) ? value : undefined;
}

/** Characters that may not begin a plain scalar. */
const INDICATORS = "-?:,[]{}#&*!|>'\"%@`";

/** True for code points that double quotes must escape: controls, line separators, the byte order mark, surrogates. */
function needsEscape(code: number): boolean {
  if (code < 0x20) return true;
  return (code >= 0x7f && code <= 0xa0) || code === 0x2028 || code === 0x2029 || code === 0xfeff || (code >= 0xd800 && code <= 0xdfff) || code >= 0xfffe;
}

function scalarText(text: string, indent: number, isKey: boolean): string {
  let escape = false;
  let lines = false;
  for (const char of text) {
    if (char === "\n") lines = true;
    else if (char !== "\t" && needsEscape(char.codePointAt(0)!) && char.codePointAt(0)! <= 0xffff) escape = true;
  }
  if (escape || text.includes("\t") || (lines && (isKey || !isLiteral(text)))) return doubleQuoted(text);
  if (lines) return literal(text, indent);
  // Quotes also what older readers take for a number of base 60, as Go does.
  if (typeof resolvePlain(text) !== "string" || text === "<<" || text === "=" || isSexagesimal(text) || isTimestamp(text)) return doubleQuoted(text);
  return isPlain(text) ? text : `'${text.replaceAll("'", "''")}'`;
}

function isPlain(text: string): boolean {
  const first = text.charAt(0);
  if (text !== text.trim() || text.startsWith("---") || text.startsWith("...")) return false;
  if (INDICATORS.includes(first)) {
    const second = text.charAt(1);
    if (!"-?:".includes(first) || second === "" || second === " ") return false;
  }
  return !text.includes(": ") && !text.includes(" #") && !text.endsWith(":");
}

/** Literal style keeps text as it is, unless it begins with a space or an empty line, or has nothing but line ends. */
function isLiteral(text: string): boolean {
  return !text.startsWith(" ") && !text.startsWith("\n") && !text.includes(" \n") && !text.endsWith(" ");
}

function literal(text: string, indent: number): string {
  const body = text.endsWith("\n") ? text.slice(0, -1) : text;
  const chomping = !text.endsWith("\n") ? "-" : body.endsWith("\n") ? "+" : "";
  const padding = " ".repeat(indent);
  const lines = body.split("\n").map((line) => (line === "" ? "" : padding + line));
  return `|${chomping}\n${lines.join("\n")}`;
}

const ESCAPES: ReadonlyMap<string, string> = new Map([
  ['"', '\\"'],
  ["\\", "\\\\"],
  ["\n", "\\n"],
  ["\t", "\\t"],
  ["\r", "\\r"],
  ["\0", "\\0"],
]);

function doubleQuoted(text: string): string {
  let quoted = '"';
  for (const char of text) {
    const code = char.codePointAt(0)!;
    const escaped = ESCAPES.get(char);
    if (escaped !== undefined) quoted += escaped;
    else if (code > 0xffff || !needsEscape(code)) quoted += char;
    else quoted += code < 0x100 ? `\\x${code.toString(16).padStart(2, "0").toUpperCase()}` : `\\u${code.toString(16).padStart(4, "0").toUpperCase()}`;
  }
  return `${quoted}"`;
}

const TIMESTAMPS: readonly string[] = ["2006-1-2T15:4:5.999999999Z07:00", "2006-1-2t15:4:5.999999999Z07:00", "2006-1-2 15:4:5.999999999", "2006-1-2"];

/** What Go's resolver takes for a time. */
function isTimestamp(text: string): boolean {
  return digitsAt(text, 0).length === 4 && text[4] === "-" && TIMESTAMPS.some((layout) => isTime(layout, text));
}

/** `190:20:30`: digits in groups with colons. */
function isSexagesimal(text: string): boolean {
  const parts = (text.startsWith("-") || text.startsWith("+") ? text.slice(1) : text).split(":");
  return (
    parts.length > 1 && parts.every((part) => part !== "" && Array.from(part).every((char) => (char >= "0" && char <= "9") || char === "." || char === "_"))
  );
}

function isDigitAt(text: string, at: number): boolean {
  const unit = text.charCodeAt(at);
  return unit >= 0x30 && unit <= 0x39;
}

function digitsAt(text: string, at: number): string {
  let end = at;
  while (isDigitAt(text, end)) end++;
  return text.slice(at, end);
}

/** Order in which runs of digits count by their value. */
function compareNatural(a: string, b: string): number {
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at++;
  // Back to where the number begins in which they differ.
  while (at > 0 && isDigitAt(a, at - 1)) at--;
  const [left, right] = [trimZeros(digitsAt(a, at)), trimZeros(digitsAt(b, at))];
  if (left !== "" && right !== "" && left !== right) return left.length === right.length ? (left < right ? -1 : 1) : left.length - right.length;
  return a < b ? -1 : a > b ? 1 : 0;
}

function trimZeros(digits: string): string {
  let at = 0;
  while (at < digits.length - 1 && digits[at] === "0") at++;
  return digits.slice(at);
}
