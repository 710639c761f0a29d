import type { Source } from "./source.ts";

export type TokenKind = "end" | "name" | "string" | "template" | "number" | "symbol";

/** A token. `text` is the name, the symbol, the number's lexeme, or the decoded value of a string. */
export interface Token {
  readonly kind: TokenKind;
  readonly text: string;
  readonly at: number;
  readonly end: number;
}

/** A lexical error at an offset; the parser turns it into a diagnostic. */
export class LexicalError extends Error {
  readonly at: number;

  constructor(at: number, message: string) {
    super(message);
    this.at = at;
  }
}

const ONE_CHARACTER_SYMBOLS = "=<>+-*/%&|()[]{},;.:";

/** Symbols that an equals sign makes another symbol of. */
const BEFORE_EQUALS = ":=!<>";

// What a character may be part of, by code: a cold start reads hundreds of kilobytes with this.
const LETTER = 1;
const DIGIT = 2;
const SPACE = 4;
const SYMBOL = 8;
const EQUALS = 16;

const CHARACTERS: Uint8Array = new Uint8Array(128).map((_, unit) => {
  const char = String.fromCharCode(unit);
  let classes = 0;
  if ((char >= "a" && char <= "z") || (char >= "A" && char <= "Z") || char === "_") classes |= LETTER;
  if (char >= "0" && char <= "9") classes |= DIGIT;
  if (" \n\r\t".includes(char)) classes |= SPACE;
  if (ONE_CHARACTER_SYMBOLS.includes(char)) classes |= SYMBOL;
  if (BEFORE_EQUALS.includes(char)) classes |= EQUALS;
  return classes;
});

/** True for a character that can start a name: Rego's names are ASCII. */
export function isNameStart(unit: number): boolean {
  return (unit >= 0x61 && unit <= 0x7a) || (unit >= 0x41 && unit <= 0x5a) || unit === 0x5f;
}

export function isDigit(unit: number): boolean {
  return unit >= 0x30 && unit <= 0x39;
}

/** True for a text that is a name as a whole, keyword or not. */
export function isName(text: string): boolean {
  if (text === "" || isDigit(text.charCodeAt(0))) return false;
  for (let at = 0; at < text.length; at++) if (!isNameStart(text.charCodeAt(at)) && !isDigit(text.charCodeAt(at))) return false;
  return true;
}

/** Splits a module into tokens on demand, from any offset. */
export class Lexer {
  readonly #text: string;

  constructor(source: Source) {
    this.#text = source.text;
  }

  /**
   * The token that starts at or after an offset; white space and comments are skipped.
   * @throws {LexicalError}
   */
  next(offset: number): Token {
    const text = this.#text;
    const at = this.#skipSpace(offset);
    if (at >= text.length) return { kind: "end", text: "end of the text", at, end: at };
    const unit = text.charCodeAt(at);
    const classes = unit < 128 ? CHARACTERS[unit]! : 0;
    if ((classes & LETTER) !== 0) {
      let end = at + 1;
      for (; end < text.length; end++) {
        const next = text.charCodeAt(end);
        if (next >= 128 || (CHARACTERS[next]! & (LETTER | DIGIT)) === 0) break;
      }
      return { kind: "name", text: text.slice(at, end), at, end };
    }
    if ((classes & EQUALS) !== 0 && text.charCodeAt(at + 1) === 0x3d) return { kind: "symbol", text: `${text[at]!}=`, at, end: at + 2 };
    if ((classes & SYMBOL) !== 0) return { kind: "symbol", text: text[at]!, at, end: at + 1 };
    if ((classes & DIGIT) !== 0) return this.#number(at);
    if (unit === 0x22) return this.#string(at);
    if (unit === 0x60) return this.#rawString(at);
    if (unit === 0x24) {
      const quote = text[at + 1];
      if (quote !== '"' && quote !== "`") throw new LexicalError(at, "a template string ($\"...\" or $`...`) expected after '$'");
      return { kind: "template", text: quote, at, end: at + 2 };
    }
    throw new LexicalError(at, `illegal character ${JSON.stringify(String.fromCodePoint(text.codePointAt(at)!))}`);
  }

  #skipSpace(offset: number): number {
    const text = this.#text;
    let at = offset;
    // A byte order mark is allowed at the very start only.
    if (at === 0 && text.charCodeAt(0) === 0xfeff) at = 1;
    for (;;) {
      const unit = text.charCodeAt(at);
      if (unit < 128 && (CHARACTERS[unit]! & SPACE) !== 0) at++;
      else if (unit === 0x23) {
        const end = text.indexOf("\n", at);
        at = end === -1 ? text.length : end + 1;
      } else return at;
    }
  }

  #number(at: number): Token {
    const text = this.#text;
    let end = at;
    while (end < text.length) {
      const unit = text.charCodeAt(end);
      const afterExponent = text[end - 1] === "e" || text[end - 1] === "E";
      if (isDigit(unit) || isNameStart(unit) || unit === 0x2e || ((unit === 0x2b || unit === 0x2d) && afterExponent)) end++;
      else break;
    }
    return { kind: "number", text: text.slice(at, end), at, end };
  }

  #string(at: number): Token {
    const text = this.#text;
    let end = at + 1;
    let escaped = false;
    for (;;) {
      const unit = text.charCodeAt(end);
      if (Number.isNaN(unit) || unit === 0x0a) throw new LexicalError(at, "this string does not end on its line");
      if (unit < 0x20) throw new LexicalError(end, "control character in a string");
      end++;
      if (unit === 0x22) break;
      if (unit === 0x5c) {
        escaped = true;
        end++;
      }
    }
    if (!escaped) return { kind: "string", text: text.slice(at + 1, end - 1).toWellFormed(), at, end };
    return { kind: "string", text: decodeEscapes(text, at + 1, end - 1), at, end };
  }

  #rawString(at: number): Token {
    const close = this.#text.indexOf("`", at + 1);
    if (close === -1) throw new LexicalError(at, "this raw string does not end");
    return {
      kind: "string",
      text: this.#text.slice(at + 1, close).toWellFormed(),
      at,
      end: close + 1,
    };
  }
}

/**
 * Decodes the escapes of a string: those of JSON and no others.
 * @throws {LexicalError}
 */
export function decodeEscapes(text: string, from: number, to: number, extra = ""): string {
  let decoded = "";
  let at = from;
  while (at < to) {
    const slash = text.indexOf("\\", at);
    if (slash === -1 || slash >= to) {
      decoded += text.slice(at, to);
      break;
    }
    decoded += text.slice(at, slash);
    const mark = text[slash + 1]!;
    if (mark === "u") {
      const digits = text.slice(slash + 2, Math.min(slash + 6, to));
      const unit = hexUnit(digits);
      if (unit === undefined) throw new LexicalError(slash, "\\u must be followed by four hexadecimal digits");
      decoded += String.fromCharCode(unit);
      at = slash + 6;
      continue;
    }
    const plain = ESCAPES.get(mark) ?? (extra.includes(mark) ? mark : undefined);
    if (plain === undefined) throw new LexicalError(slash, `\\${mark} is not an escape sequence; in a raw string (backticks) the backslash stands for itself`);
    decoded += plain;
    at = slash + 2;
  }
  return decoded.toWellFormed();
}

const ESCAPES: ReadonlyMap<string, string> = new Map([
  ['"', '"'],
  ["\\", "\\"],
  ["/", "/"],
  ["b", "\b"],
  ["f", "\f"],
  ["n", "\n"],
  ["r", "\r"],
  ["t", "\t"],
]);

function hexUnit(digits: string): number | undefined {
  if (digits.length !== 4) return undefined;
  for (const digit of digits) if (!"0123456789abcdefABCDEF".includes(digit)) return undefined;
  return Number.parseInt(digits, 16);
}
