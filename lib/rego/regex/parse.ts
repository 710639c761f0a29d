/**
 * The part of RE2's syntax that policies are written in. What is not clearly in it is left to `re2js`: this parser never
 * says that a pattern is wrong, only that it will not take it. Everything it takes is RE2 syntax and means what RE2
 * means by it; the test compares the two on generated patterns.
 */

/** A set of characters: a bit per ASCII character, and whether all others belong to it. */
export interface CharacterSet {
  /** 128 entries, 0 or 1. */
  readonly ascii: Uint8Array;
  readonly others: boolean;
}

export type Node =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "set"; readonly set: CharacterSet }
  | { readonly kind: "begin" }
  | { readonly kind: "end" }
  | { readonly kind: "sequence"; readonly items: readonly Node[] }
  | { readonly kind: "choice"; readonly branches: readonly Node[] }
  | { readonly kind: "repeat"; readonly item: Node; readonly min: number; readonly max: number | undefined; readonly counted: boolean; readonly lazy: boolean }
  /** Parentheses that capture; the first one has the index 1. */
  | { readonly kind: "group"; readonly item: Node; readonly index: number };

/** Longest pattern and deepest nesting that are taken; policies stay far below. */
const MAX_LENGTH = 4096;
const MAX_DEPTH = 32;

/** RE2's own limit on counted repetition. */
const MAX_COUNT = 1000;

/** Characters with a meaning outside of brackets. */
const SPECIAL = "\\.+*?()|[]{}^$";

const CONTROL_ESCAPES: ReadonlyMap<string, string> = new Map([
  ["n", "\n"],
  ["r", "\r"],
  ["t", "\t"],
  ["f", "\f"],
  ["v", "\v"],
]);

/** The tree of a pattern, or undefined if it uses more than this parser takes. */
export function parsePattern(pattern: string): Node | undefined {
  if (pattern.length > MAX_LENGTH) return undefined;
  const parser = new Parser(pattern);
  try {
    return parser.pattern();
  } catch (error) {
    if (error === LEAVE) return undefined;
    throw error;
  }
}

/** Thrown to leave a pattern to the other engine. */
const LEAVE: Error = new Error("not in the subset");

class Parser {
  readonly #text: string;
  #at = 0;
  #depth = 0;
  #groups = 0;

  constructor(text: string) {
    this.#text = text;
  }

  pattern(): Node {
    const node = this.#choice();
    if (this.#at < this.#text.length) throw LEAVE;
    return node;
  }

  #choice(): Node {
    const branches = [this.#sequence()];
    while (this.#text[this.#at] === "|") {
      this.#at++;
      branches.push(this.#sequence());
    }
    return branches.length === 1 ? branches[0]! : { kind: "choice", branches };
  }

  #sequence(): Node {
    const items: Node[] = [];
    let literal = "";
    const flush = (): void => {
      if (literal !== "") items.push({ kind: "text", text: literal });
      literal = "";
    };
    for (;;) {
      const char = this.#text[this.#at];
      if (char === undefined || char === "|" || char === ")") break;
      const atom = this.#atom(char);
      const repeated = this.#repeat(atom);
      if (repeated.kind === "text") {
        literal += repeated.text;
      } else {
        flush();
        items.push(repeated);
      }
    }
    flush();
    return items.length === 1 ? items[0]! : { kind: "sequence", items };
  }

  #atom(char: string): Node {
    switch (char) {
      case "^":
        this.#at++;
        return { kind: "begin" };
      case "$":
        this.#at++;
        return { kind: "end" };
      case ".":
        this.#at++;
        return { kind: "set", set: anyButNewline() };
      case "[":
        return { kind: "set", set: this.#brackets() };
      case "(":
        return this.#group();
      case "\\":
        return this.#escape();
      default: {
        if (SPECIAL.includes(char)) throw LEAVE;
        const text = String.fromCodePoint(this.#text.codePointAt(this.#at)!);
        this.#at += text.length;
        return { kind: "text", text };
      }
    }
  }

  #group(): Node {
    if (++this.#depth > MAX_DEPTH) throw LEAVE;
    this.#at++;
    const captures = this.#text[this.#at] !== "?";
    if (!captures) {
      // Flags and names are for the other engine.
      if (this.#text[this.#at + 1] !== ":") throw LEAVE;
      this.#at += 2;
    }
    const index = captures ? ++this.#groups : 0;
    const item = this.#choice();
    if (this.#text[this.#at] !== ")") throw LEAVE;
    this.#at++;
    this.#depth--;
    if (captures) return { kind: "group", item, index };
    return item.kind === "text" ? { kind: "sequence", items: [item] } : item;
  }

  #escape(): Node {
    const char = this.#text[this.#at + 1];
    if (char === undefined) throw LEAVE;
    this.#at += 2;
    const set = perlClass(char);
    if (set !== undefined) return { kind: "set", set };
    return { kind: "text", text: escaped(char) };
  }

  #brackets(): CharacterSet {
    const text = this.#text;
    this.#at++;
    const negated = text[this.#at] === "^";
    if (negated) this.#at++;
    const ascii = new Uint8Array(128);
    const start = this.#at;
    for (;;) {
      const char = text[this.#at];
      if (char === undefined) throw LEAVE;
      if (char === "]") {
        // RE2 takes it as a member if it comes first.
        if (this.#at === start) throw LEAVE;
        this.#at++;
        break;
      }
      const low = this.#member(ascii, this.#at === start);
      if (low === undefined) continue;
      if (text[this.#at] === "-" && text[this.#at + 1] !== "]") {
        this.#at++;
        const high = this.#member(undefined, false);
        if (high === undefined || high < low) throw LEAVE;
        ascii.fill(1, low, high + 1);
      } else {
        ascii[low] = 1;
      }
    }
    if (negated) for (let at = 0; at < 128; at++) ascii[at] = 1 - ascii[at]!;
    return { ascii, others: negated };
  }

  /**
   * One member of a bracket: its code, or undefined if it was a class of its own, which is put into the set.
   * @param into undefined where a class cannot stand
   */
  #member(into: Uint8Array | undefined, first: boolean): number | undefined {
    const text = this.#text;
    const char = text[this.#at];
    if (char === undefined || char === "[") throw LEAVE;
    // A hyphen stands for itself at either end only; elsewhere the engines have rules of their own.
    if (char === "-" && !first && text[this.#at + 1] !== "]") throw LEAVE;
    if (char !== "\\") {
      const code = char.charCodeAt(0);
      if (code >= 128) throw LEAVE;
      this.#at++;
      return code;
    }
    const mark = text[this.#at + 1];
    if (mark === undefined) throw LEAVE;
    this.#at += 2;
    const set = perlClass(mark);
    if (set === undefined) return escaped(mark).charCodeAt(0);
    if (into === undefined || set.others) throw LEAVE;
    for (let at = 0; at < 128; at++) if (set.ascii[at] === 1) into[at] = 1;
    return undefined;
  }

  #repeat(item: Node): Node {
    const start = this.#at;
    const range = this.#range();
    if (range === undefined) return item;
    // What repeats nothing, or a repetition, or an assertion has rules of its own in RE2.
    if (item.kind === "begin" || item.kind === "end" || (item.kind === "group" && (item.item.kind === "begin" || item.item.kind === "end"))) throw LEAVE;
    const counted = this.#text[start] === "{";
    if (counted && Math.max(1, range.max ?? range.min) * countProduct(item) > MAX_COUNT) throw LEAVE;
    const lazy = this.#text[this.#at] === "?";
    if (lazy) this.#at++;
    if ("*+?{".includes(this.#text[this.#at] ?? " ")) throw LEAVE;
    return { kind: "repeat", item, min: range.min, max: range.max, counted, lazy };
  }

  #range(): { readonly min: number; readonly max: number | undefined } | undefined {
    switch (this.#text[this.#at]) {
      case "*":
        this.#at++;
        return { min: 0, max: undefined };
      case "+":
        this.#at++;
        return { min: 1, max: undefined };
      case "?":
        this.#at++;
        return { min: 0, max: 1 };
      case "{":
        return this.#counts();
      default:
        return undefined;
    }
  }

  #counts(): { readonly min: number; readonly max: number | undefined } {
    this.#at++;
    const min = this.#count();
    let max: number | undefined = min;
    if (this.#text[this.#at] === ",") {
      this.#at++;
      max = this.#text[this.#at] === "}" ? undefined : this.#count();
    }
    // A brace that starts no repetition is a character in RE2.
    if (this.#text[this.#at] !== "}" || (max !== undefined && max < min)) throw LEAVE;
    this.#at++;
    return { min, max };
  }

  #count(): number {
    const start = this.#at;
    while (isDigit(this.#text.charCodeAt(this.#at))) this.#at++;
    const digits = this.#text.slice(start, this.#at);
    if (digits === "" || digits.length > 4 || (digits.length > 1 && digits.startsWith("0")) || Number(digits) > MAX_COUNT) throw LEAVE;
    return Number(digits);
  }
}

function isDigit(unit: number): boolean {
  return unit >= 0x30 && unit <= 0x39;
}

/** The largest product of counts on the way to any part: RE2 refuses more than a thousand. */
function countProduct(node: Node): number {
  switch (node.kind) {
    case "repeat":
      return (node.counted ? Math.max(1, node.max ?? node.min) : 1) * countProduct(node.item);
    case "group":
      return countProduct(node.item);
    case "sequence":
      return Math.max(1, ...node.items.map(countProduct));
    case "choice":
      return Math.max(1, ...node.branches.map(countProduct));
    default:
      return 1;
  }
}

/**
 * True if a repetition repeats what can be empty, or something is repeated zero times: engines differ in what such groups
 * capture. Whether a text matches is not in question.
 */
export function hasUnclearCaptures(node: Node): boolean {
  switch (node.kind) {
    case "repeat":
      return node.max === 0 || canBeEmpty(node.item) || hasUnclearCaptures(node.item);
    case "group":
      return hasUnclearCaptures(node.item);
    case "sequence":
      return node.items.some(hasUnclearCaptures);
    case "choice":
      return node.branches.some(hasUnclearCaptures);
    default:
      return false;
  }
}

function canBeEmpty(node: Node): boolean {
  switch (node.kind) {
    case "text":
      return node.text === "";
    case "set":
      return false;
    case "begin":
    case "end":
      return true;
    case "sequence":
      return node.items.every(canBeEmpty);
    case "choice":
      return node.branches.some(canBeEmpty);
    case "repeat":
      return node.min === 0 || canBeEmpty(node.item);
    case "group":
      return canBeEmpty(node.item);
  }
}

/** The character that an escape stands for: punctuation stands for itself, letters and digits mostly have meanings. */
function escaped(char: string): string {
  const control = CONTROL_ESCAPES.get(char);
  if (control !== undefined) return control;
  const code = char.charCodeAt(0);
  const isWord = isDigit(code) || (code >= 0x41 && code <= 0x5a) || (code >= 0x61 && code <= 0x7a) || code === 0x5f;
  if (code >= 128 || code <= 0x20 || isWord) throw LEAVE;
  return char;
}

/** `\d`, `\w`, `\s` and their opposites: ASCII, as RE2 has them. */
function perlClass(char: string): CharacterSet | undefined {
  const negated = char === "D" || char === "W" || char === "S";
  let members: string;
  switch (char) {
    case "d":
    case "D":
      members = "0-9";
      break;
    case "w":
    case "W":
      members = "0-9A-Z_-_a-z";
      break;
    case "s":
    case "S":
      members = "\t-\n\f-\r - ";
      break;
    default:
      return undefined;
  }
  const ascii = new Uint8Array(128);
  for (let at = 0; at < members.length; at += 3) ascii.fill(1, members.charCodeAt(at), members.charCodeAt(at + 2) + 1);
  if (negated) for (let at = 0; at < 128; at++) ascii[at] = 1 - ascii[at]!;
  return { ascii, others: negated };
}

function anyButNewline(): CharacterSet {
  const ascii = new Uint8Array(128).fill(1);
  ascii[0x0a] = 0;
  return { ascii, others: true };
}
