import { MAX_NUMBER_LENGTH, parseNumber, RegoObject } from "../values/index.ts";
import type { Value } from "../values/index.ts";
import { decodeEscapes, isDigit, LexicalError } from "./lexer.ts";

/** A literal that was read as a value, without tokens and terms in between. */
export interface Constant {
  readonly value: Value;
  readonly end: number;
}

/**
 * Reads arrays and objects that are plain data, as JSON has them with Rego's trailing commas: most of a generated policy is
 * one such literal, and this takes a tenth of the time and memory of terms. Whatever it does not know, from a comment to an
 * error, it leaves to the parser. What was given up on is not tried again, so that all tries together read a text twice at
 * most.
 */
export class ConstantReader {
  readonly #text: string;
  #at = 0;
  #room = 0;
  /** Literals that start before this offset enclose what could not be read. */
  #givenUp = -1;

  constructor(text: string) {
    this.#text = text;
  }

  /**
   * The literal that starts at a bracket; undefined if it is not plain data.
   * @param room brackets that it may open
   */
  read(at: number, room: number): Constant | undefined {
    if (at < this.#givenUp) return undefined;
    this.#at = at;
    this.#room = room;
    const value = this.#value();
    const after = this.#text.charCodeAt(this.#at);
    // A step into the literal, or a call, is the parser's; so is a union that would make it part of a comprehension's head.
    if (value === undefined || after === 0x5b || after === 0x2e || after === 0x28) {
      this.#givenUp = this.#at;
      return undefined;
    }
    return { value, end: this.#at };
  }

  #value(): Value | undefined {
    const unit = this.#text.charCodeAt(this.#at);
    switch (unit) {
      case 0x22:
        return this.#string();
      case 0x5b:
        return this.#array();
      case 0x7b:
        return this.#object();
      case 0x66:
        return this.#word("false", false);
      case 0x6e:
        return this.#word("null", null);
      case 0x74:
        return this.#word("true", true);
      default:
        return unit === 0x2d || isDigit(unit) ? this.#number() : undefined;
    }
  }

  #array(): Value | undefined {
    if (--this.#room < 0) return undefined;
    const items: Value[] = [];
    this.#at++;
    for (;;) {
      this.#space();
      if (this.#skip(0x5d)) break;
      const item = this.#value();
      if (item === undefined) return undefined;
      items.push(item);
      this.#space();
      if (this.#skip(0x2c)) continue;
      if (!this.#skip(0x5d)) return undefined;
      break;
    }
    this.#room++;
    return items;
  }

  #object(): Value | undefined {
    if (--this.#room < 0) return undefined;
    const object = new RegoObject();
    this.#at++;
    for (;;) {
      this.#space();
      if (this.#skip(0x7d)) break;
      if (this.#text.charCodeAt(this.#at) !== 0x22) return undefined;
      const key = this.#string();
      this.#space();
      if (key === undefined || !this.#skip(0x3a)) return undefined;
      this.#space();
      const item = this.#value();
      if (item === undefined) return undefined;
      object.put(key, item);
      this.#space();
      if (this.#skip(0x2c)) continue;
      if (!this.#skip(0x7d)) return undefined;
      break;
    }
    this.#room++;
    return object;
  }

  #string(): string | undefined {
    const text = this.#text;
    const start = this.#at + 1;
    let escaped = false;
    let at = start;
    for (;;) {
      const unit = text.charCodeAt(at);
      if (unit === 0x22) break;
      // Also at the end of the text, where the unit is no number.
      if (!(unit >= 0x20)) return undefined;
      if (unit === 0x5c) {
        escaped = true;
        at++;
      }
      at++;
    }
    this.#at = at + 1;
    if (!escaped) return text.slice(start, at).toWellFormed();
    try {
      return decodeEscapes(text, start, at);
    } catch (error) {
      if (error instanceof LexicalError) return undefined;
      throw error;
    }
  }

  #number(): Value | undefined {
    const text = this.#text;
    const start = this.#at;
    let at = start + 1;
    for (;;) {
      const unit = text.charCodeAt(at);
      // Digits, the point, the exponent's letter and its sign; other letters and signs are for the parser to refuse.
      if (!isDigit(unit) && unit !== 0x2e && unit !== 0x65 && unit !== 0x45 && !(isSign(unit) && isExponent(text.charCodeAt(at - 1)))) break;
      at++;
    }
    const after = text.charCodeAt(at);
    if (at - start >= MAX_NUMBER_LENGTH || isExponent(text.charCodeAt(at - 1)) || (after >= 0x41 && after <= 0x7a && after !== 0x5d)) return undefined;
    this.#at = at;
    return parseNumber(text.slice(start, at));
  }

  #word<T extends boolean | null>(word: string, value: T): T | undefined {
    const end = this.#at + word.length;
    // `nullable` is a name; so is what follows with a digit. Steps and calls are not data.
    const after = this.#text.charCodeAt(end);
    const goesOn =
      (after >= 0x61 && after <= 0x7a) ||
      (after >= 0x41 && after <= 0x5a) ||
      after === 0x5f ||
      isDigit(after) ||
      after === 0x2e ||
      after === 0x28 ||
      after === 0x5b;
    if (goesOn || !this.#text.startsWith(word, this.#at)) return undefined;
    this.#at = end;
    return value;
  }

  #space(): void {
    for (;;) {
      const unit = this.#text.charCodeAt(this.#at);
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x09 && unit !== 0x0d) return;
      this.#at++;
    }
  }

  #skip(unit: number): boolean {
    if (this.#text.charCodeAt(this.#at) !== unit) return false;
    this.#at++;
    return true;
  }
}

function isSign(unit: number): boolean {
  return unit === 0x2b || unit === 0x2d;
}

function isExponent(unit: number): boolean {
  return unit === 0x65 || unit === 0x45;
}
