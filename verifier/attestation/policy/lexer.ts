import { MAX_NAME, MAX_POLICY_TEXT, MAX_STRING } from "./limits.ts";
import { limitError, quoted, type PolicyPosition, type PolicyProblems } from "./source.ts";

/** A token: `text` is as written, `value` what a string stands for. */
export interface Token {
  readonly kind: "name" | "string" | "number" | "symbol" | "end";
  readonly text: string;
  readonly value: string;
  readonly at: PolicyPosition;
}

const SPACE = /[ \t\r\n]+/y;
const COMMENT = /\/\/[^\n]*/y;
const NAME = /[A-Za-z_][A-Za-z0-9_]*/y;
const NUMBER = /-?[0-9]+(?:\.[0-9]+)*/y;
const SYMBOL = /=>|==|!=|<=|>=|&&|[=!<>{}[\](),;:.]/y;
// eslint-disable-next-line no-control-regex -- a string ends on its line and has no control characters
const PLAIN = /[^"\\\u0000-\u001f]*/y;

/** What people write for what the language has. */
const MISTAKES: Readonly<Record<string, readonly [problem: string, hint: string]>> = {
  "|": ["there is no 'or'", "Write two rules with the same action: any of them may apply."],
  "&": ["expected '&&'", "Conditions are joined by two ampersands."],
  "'": ["strings stand in double quotes", 'Write "text"; single quotes are for strings inside a JMESPath expression.'],
  "“": ["strings stand in straight double quotes", "An editor or web page has made them curly."],
  "”": ["strings stand in straight double quotes", "An editor or web page has made them curly."],
  "#": ["comments start with //", "Write // in place of #."],
  "/": ["comments start with // and end with the line", "There are no /* */ comments."],
  "\ufeff": ["a byte order mark is no part of a policy", "Save the file as UTF-8 without byte order mark (BOM)."],
  "\u00a0": ["a no-break space is no white space of the language", "Type the space again."],
};

/**
 * Splits a policy into tokens, the last of which is `end`; what belongs to none is a problem and left out.
 * @throws {AttestationError} ERR_ATTESTATION_POLICY_LIMIT if the text, a name or a string is too long
 */
export function tokenize(text: string, problems: PolicyProblems): readonly Token[] {
  if (text.length > MAX_POLICY_TEXT) throw limitError(`the policy has ${text.length} characters`, MAX_POLICY_TEXT);
  return new Lexer(text, problems).tokens();
}

class Lexer {
  readonly #text: string;
  readonly #problems: PolicyProblems;
  readonly #tokens: Token[] = [];
  #offset = 0;
  #line = 1;
  /** Offset that column 1 would have if every character were one UTF-16 unit. */
  #base = 0;

  constructor(text: string, problems: PolicyProblems) {
    this.#text = text;
    this.#problems = problems;
  }

  tokens(): readonly Token[] {
    while (this.#offset < this.#text.length && !this.#problems.full) this.#next();
    this.#push("end", "", this.#position());
    return this.#tokens;
  }

  #next(): void {
    const at = this.#position();
    if (this.#take(SPACE) !== undefined || this.#take(COMMENT) !== undefined) return;
    if (this.#text[this.#offset] === '"') {
      this.#string(at);
      return;
    }
    const name = this.#take(NAME);
    if (name !== undefined) {
      if (name.length > MAX_NAME) throw limitError(`a name has ${name.length} characters`, MAX_NAME, at);
      this.#push("name", name, at);
      return;
    }
    const number = this.#take(NUMBER);
    if (number !== undefined) {
      if (number.length > MAX_NAME) throw limitError(`a number has ${number.length} digits`, MAX_NAME, at);
      this.#push("number", number, at);
      return;
    }
    const symbol = this.#take(SYMBOL);
    if (symbol === undefined) this.#unknown(at);
    else this.#push("symbol", symbol, at);
  }

  /** `\"` and `\\` are the only escapes: with any other, two readers could take one policy for two. */
  #string(at: PolicyPosition): void {
    const start = this.#offset;
    let value = "";
    this.#advance(start + 1);
    for (;;) {
      value += this.#take(PLAIN) ?? "";
      if (value.length > MAX_STRING) throw limitError("a string has too many characters", MAX_STRING, at);
      const char = this.#text[this.#offset];
      if (char === "\\") {
        const escaped = this.#text[this.#offset + 1];
        if (escaped === '"' || escaped === "\\") value += escaped;
        else {
          const found = quoted(`\\${escaped ?? ""}`);
          this.#problems.add(this.#position(), found, "unknown escape in a string", 'Only \\" and \\\\ are escapes; write \\\\ for a backslash.');
        }
        this.#advance(this.#offset + (escaped === '"' || escaped === "\\" ? 2 : 1));
      } else if (char === '"') {
        this.#advance(this.#offset + 1);
        break;
      } else if (char === undefined || char === "\n" || char === "\r") {
        this.#problems.add(at, quoted(this.#text.slice(start, this.#offset)), "the string has no end on its line: expected '\"'");
        break;
      } else {
        this.#problems.add(this.#position(), `U+${char.charCodeAt(0).toString(16).padStart(4, "0").toUpperCase()}`, "control character in a string");
        this.#advance(this.#offset + 1);
      }
    }
    if (!value.isWellFormed()) this.#problems.add(at, "an unpaired surrogate", "the string is not well-formed Unicode, so it has no UTF-8 and no hash");
    this.#push("string", this.#text.slice(start, this.#offset), at, value);
  }

  /** A run of them is one problem: text in another language has thousands. */
  #unknown(at: PolicyPosition): void {
    const char = String.fromCodePoint(this.#text.codePointAt(this.#offset) ?? 0);
    const shown = /^[\p{L}\p{N}\p{P}\p{S}]$/u.test(char) ? quoted(char) : `U+${(char.codePointAt(0) ?? 0).toString(16).padStart(4, "0").toUpperCase()}`;
    const [problem, hint] = MISTAKES[char] ?? ["the language has no such character outside of strings and comments", undefined];
    this.#problems.add(at, shown, problem, hint);
    let end = this.#offset + char.length;
    while (end < this.#text.length && (this.#text.startsWith(char, end) || this.#text.charCodeAt(end) > 0x7f)) end++;
    this.#advance(end);
  }

  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#offset;
    if (!pattern.test(this.#text)) return undefined;
    const start = this.#offset;
    this.#advance(pattern.lastIndex);
    return this.#text.slice(start, this.#offset);
  }

  #advance(end: number): void {
    for (; this.#offset < end; this.#offset++) {
      const unit = this.#text.charCodeAt(this.#offset);
      if (unit === 0x0a) {
        this.#line++;
        this.#base = this.#offset + 1;
      } else if (unit >= 0xdc00 && unit <= 0xdfff) this.#base++;
    }
  }

  #position(): PolicyPosition {
    return { line: this.#line, column: this.#offset - this.#base + 1, offset: this.#offset };
  }

  #push(kind: Token["kind"], text: string, at: PolicyPosition, value: string = text): void {
    this.#tokens.push({ kind, text, value, at });
  }
}
