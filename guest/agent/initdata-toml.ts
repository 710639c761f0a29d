import { shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** A document of initdata: its fields, and the table `[data]` if it has one. */
export interface InitdataDocument {
  readonly fields: ReadonlyMap<string, string>;
  readonly entries: ReadonlyMap<string, string> | undefined;
}

/** Names in one table. A pod has three or four. */
const MAX_NAMES = 256;

// Patterns take no more than a few thousand characters at a time: one for any number would need stack for each.

/** CR LF ends a line too, but not inside a value, where readers of TOML differ. */
const END_OF_LINE = /\r?\n|$/y;
const BLANK = /[ \t]{1,4096}/y;
const COMMENT = /[[^\p{Cc}]\t\u0080-\u009f]{1,4096}/vy;
const TABLE = /\[[ \t]{0,4096}(?:data|"data"|'data')[ \t]{0,4096}\]/y;
const BARE_KEY = /[A-Za-z0-9_-]{1,4096}/y;
const EQUALS = /[ \t]{0,4096}=[ \t]{0,4096}/y;
/** Four quotes for strings; those of several lines are tried first, for they begin with an empty one of the others. */
const QUOTES = ['"""', "'''", '"', "'"] as const;
type Quote = (typeof QUOTES)[number];

/** What may stand in a string as it is (TOML 1.0, "String"); in strings of several lines also LF. Of control characters that is the tab, and those above U+007F. */
const PLAIN_LITERAL = /[[^\p{Cc}']\t\u0080-\u009f]{1,4096}/vy;
const PLAIN_BASIC = /[[^\p{Cc}"\\]\t\u0080-\u009f]{1,4096}/vy;
const ESCAPE = /\\(?:[btnfr"\\]|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})/y;
/** A backslash at the end of a line takes all white space behind it away. */
const FOLD = /\\[ \t]{0,4096}\n/y;
const FOLDED = /[ \t\n]{1,4096}/y;
const SIMPLE: Readonly<Record<string, string>> = { b: "\b", t: "\t", n: "\n", f: "\f", r: "\r", '"': '"', "\\": "\\" };

/**
 * Reads the part of TOML 1.0 that initdata is written in (specs/runtime.md 3.6): names with strings, and one table `[data]`. All else is refused (numbers,
 * dates, arrays, dotted names, other tables, names that come twice), and so is what readers of TOML do not agree on: what a pod's digest names must mean one thing
 * only. The time is linear in the length.
 * @throws {AgentError} ERR_AGENT_INITDATA with the line
 */
export function parseInitdataToml(text: string): InitdataDocument {
  return new Parser(text).document();
}

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): InitdataDocument {
    const fields = new Map<string, string>();
    let entries: Map<string, string> | undefined;
    while (this.#at < this.#text.length) {
      if (this.#endOfLine()) continue;
      if (this.#take(TABLE) !== undefined) {
        if (entries !== undefined) throw this.#bad("the table [data] comes twice");
        entries = new Map();
      } else {
        this.#assign(entries ?? fields);
      }
      if (!this.#endOfLine()) throw this.#bad("expected the end of the line");
    }
    return { fields, entries };
  }

  /** Takes white space, and if nothing but a comment follows, that and the line's end. */
  #endOfLine(): boolean {
    this.#takeAll(BLANK);
    if (this.#text.startsWith("#", this.#at)) this.#takeAll(COMMENT);
    return this.#take(END_OF_LINE) !== undefined;
  }

  #assign(table: Map<string, string>): void {
    const quote = QUOTES.find((candidate) => candidate.length === 1 && this.#text.startsWith(candidate, this.#at));
    const name = quote === undefined ? this.#take(BARE_KEY) : this.#string(quote);
    if (name === undefined) throw this.#bad("expected a name, or the table [data]");
    if (this.#take(EQUALS) === undefined) throw this.#bad(`expected = behind ${shown(name)}`);
    const opening = QUOTES.find((candidate) => this.#text.startsWith(candidate, this.#at));
    if (opening === undefined) throw this.#bad(`the value of ${shown(name)} is no string`);
    if (table.has(name)) throw this.#bad(`${shown(name)} comes twice`);
    if (table.size === MAX_NAMES) throw this.#bad(`more than ${MAX_NAMES} names`);
    table.set(name, this.#string(opening));
  }

  /** A string that begins here. */
  #string(quote: Quote): string {
    const start = this.#at;
    this.#at += quote.length;
    const isLong = quote.length === 3;
    const mark = quote.charAt(0);
    // The line break right behind the quotes is not part of the value.
    if (isLong && this.#text.startsWith("\n", this.#at)) this.#at++;
    const parts: string[] = [];
    for (;;) {
      const part =
        this.#take(mark === "'" ? PLAIN_LITERAL : PLAIN_BASIC) ??
        (isLong ? this.#take(/\n{1,4096}/y) : undefined) ??
        (mark === '"' ? this.#escape(isLong) : undefined);
      if (part !== undefined) {
        parts.push(part);
        continue;
      }
      const marks = this.#marks(mark);
      if (marks === 0) {
        if (this.#at < this.#text.length) throw this.#bad("a character that cannot stand in a string");
        this.#at = start;
        throw this.#bad("a string without end");
      }
      if (marks < quote.length) {
        this.#at += marks;
        parts.push(mark.repeat(marks));
        continue;
      }
      // Of a long one up to two quotes may stand before those that end it.
      const more = isLong ? marks - quote.length : 0;
      if (more > 2) throw this.#bad("more quotes than can end a string");
      this.#at += quote.length + more;
      return parts.join("") + mark.repeat(more);
    }
  }

  #escape(isLong: boolean): string | undefined {
    if (isLong && this.#take(FOLD) !== undefined) {
      this.#takeAll(FOLDED);
      return "";
    }
    const escape = this.#take(ESCAPE);
    if (escape === undefined) return undefined;
    const simple = SIMPLE[escape.charAt(1)];
    if (simple !== undefined) return simple;
    const code = Number.parseInt(escape.slice(2), 16);
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) throw this.#bad(`${escape} is no character`);
    return String.fromCodePoint(code);
  }

  /** How many quotes stand here. */
  #marks(mark: string): number {
    let count = 0;
    while (this.#text.charAt(this.#at + count) === mark) count++;
    return count;
  }

  /** What stands here, if it is like this. */
  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  #takeAll(pattern: RegExp): void {
    while (this.#take(pattern) !== undefined);
  }

  #bad(problem: string): AgentError {
    const line = this.#text.slice(0, this.#at).split("\n").length;
    return new AgentError("ERR_AGENT_INITDATA", `initdata, line ${line}: ${problem}`, { details: { line } });
  }
}
