import type { Value } from "@sealpod/rego";
import { isArray, RegoObject, type RegoSet } from "@sealpod/rego";

/**
 * Columns after which a line is broken at the next place where that costs one byte. Regorus refuses lines of more than 1024
 * columns unless its caller raises the limit (specs/rego.md 4.1); agents of 2024 did not.
 */
const WIDTH = 900;

/** A constant. */
export function printValue(value: Value): string {
  const writer = new Writer();
  writer.value(value);
  return writer.text;
}

/** The shorter of a quoted and a raw string; a raw one cannot hold backticks, and no control characters to be safe. */
function quoted(text: string): string {
  const json = JSON.stringify(text);
  // eslint-disable-next-line no-control-regex -- these are what is looked for
  return json.length > text.length + 2 && !/[`\u0000-\u001f\u007f]/.test(text) ? `\`${text}\`` : json;
}

/** What may stand without quotes. */
export const NAME: RegExp = /^[a-zA-Z_][a-zA-Z0-9_]*$/;

/** Ends that a word must not follow without a space. */
const WORD_END = /[\w$]$/;
const BRACKET_END = /[)\]}]$/;

/** Names, signs and constants, one after the other. */
export class Writer {
  #text = "";
  #lineStart = 0;
  /** What was written last: the whole text is a rope, costly to look into. */
  #last = "";

  get text(): string {
    return this.#text;
  }

  line(): void {
    this.symbol("\n");
    this.#lineStart = this.#text.length;
  }

  /** A name or number: it must not run into the word before it. */
  word(word: string): void {
    if (WORD_END.test(this.#last)) this.#text += " ";
    this.symbol(word);
  }

  /** Signs, which need no space around them. */
  symbol(symbol: string): void {
    this.#text += symbol;
    this.#last = symbol;
  }

  /** True behind a bracket. */
  get isBracket(): boolean {
    return BRACKET_END.test(this.#last);
  }

  /** Between items: a line may end here. */
  comma(): void {
    this.symbol(",");
    if (this.#text.length - this.#lineStart > WIDTH) this.line();
  }

  path([first, ...rest]: readonly string[]): void {
    this.word(first ?? "");
    for (const step of rest) this.symbol(NAME.test(step) ? `.${step}` : `[${JSON.stringify(step)}]`);
  }

  value(value: Value): void {
    if (typeof value === "string") {
      this.symbol(quoted(value));
    } else if (value === null || typeof value !== "object") {
      const text = String(value);
      if (text.startsWith("-")) this.symbol(text);
      else this.word(text);
    } else if (isArray(value)) {
      this.symbol("[");
      for (const [at, item] of value.entries()) {
        if (at > 0) this.comma();
        this.value(item);
      }
      this.symbol("]");
    } else if (value instanceof RegoObject) {
      this.symbol("{");
      let first = true;
      for (const [key, item] of value.entries()) {
        if (!first) this.comma();
        first = false;
        this.value(key);
        this.symbol(":");
        this.value(item);
      }
      this.symbol("}");
    } else {
      this.#set(value);
    }
  }

  #set(set: RegoSet): void {
    if (set.size === 0) {
      this.word("set()");
      return;
    }
    this.symbol("{");
    for (const [at, item] of set.items().entries()) {
      if (at > 0) this.comma();
      this.value(item);
    }
    this.symbol("}");
  }
}
