import type { RegoErrorCode } from "../errors.ts";
import { RegoError } from "../errors.ts";

/** A place in a module: line and column count from 1, columns in code points. */
export interface Position {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

/** One thing that is wrong with a policy. */
export interface Diagnostic extends Position {
  readonly code: RegoErrorCode;
  readonly message: string;
  /** The line of the source that is at fault, cut to a readable length. */
  readonly excerpt: string;
  /** Spaces and a caret that point at the column in {@link excerpt}. */
  readonly caret: string;
}

/** Longest piece of a source line that a diagnostic shows: generated policies have lines of many kilobytes. */
const EXCERPT_LENGTH = 120;

/** Diagnostics that one failed compilation reports; the rest is counted. */
const MAX_DIAGNOSTICS = 20;

/** The text of a module and what is needed to tell places in it. */
export class Source {
  readonly name: string;
  readonly text: string;
  #lineStarts: number[] | undefined;

  constructor(name: string, text: string) {
    this.name = name;
    this.text = text;
  }

  /** Line number (from 1) of an offset. */
  lineOf(offset: number): number {
    const starts = this.#lines();
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle]! <= offset) low = middle;
      else high = middle - 1;
    }
    return low + 1;
  }

  /** The position of an offset. */
  position(offset: number): Position {
    const line = this.lineOf(offset);
    const start = this.#lines()[line - 1]!;
    let column = 1;
    for (let at = start; at < offset; at++) {
      const unit = this.text.charCodeAt(at);
      if (unit < 0xdc00 || unit > 0xdfff) column++;
    }
    return { file: this.name, line, column };
  }

  /** The diagnostic for an offset, with the source line and a caret. */
  diagnostic(code: RegoErrorCode, offset: number, message: string): Diagnostic {
    const at = Math.min(offset, this.text.length);
    const position = this.position(at);
    const start = this.#lines()[position.line - 1]!;
    let end = this.text.indexOf("\n", start);
    if (end === -1) end = this.text.length;
    const from = Math.max(start, at - Math.floor(EXCERPT_LENGTH / 2));
    const excerpt = this.text
      .slice(from, Math.min(end, from + EXCERPT_LENGTH))
      .replaceAll("\t", " ")
      .replaceAll("\r", " ");
    const lead = Math.max(0, at - from);
    return { ...position, code, message, excerpt, caret: `${" ".repeat(lead)}^` };
  }

  #lines(): number[] {
    if (this.#lineStarts === undefined) {
      const starts = [0];
      for (let at = this.text.indexOf("\n"); at !== -1; at = this.text.indexOf("\n", at + 1)) starts.push(at + 1);
      this.#lineStarts = starts;
    }
    return this.#lineStarts;
  }
}

/** Diagnostics that are kept; further ones are counted. Finding a place in a line of many kilobytes takes its time. */
const MAX_KEPT = 500;

/** Collects diagnostics so that one compilation reports all of them. */
export class Diagnostics {
  readonly #list: Diagnostic[] = [];
  #dropped = 0;

  get failed(): boolean {
    return this.#list.length > 0;
  }

  add(code: RegoErrorCode, source: Source, offset: number, message: string): void {
    if (this.#list.length < MAX_KEPT) this.#list.push(source.diagnostic(code, offset, message));
    else this.#dropped++;
  }

  addAll(list: readonly Diagnostic[]): void {
    for (const item of list) {
      if (this.#list.length < MAX_KEPT) this.#list.push(item);
      else this.#dropped++;
    }
  }

  /** @throws {RegoError} with everything collected, if there is anything; its code is that of the first one. */
  throwIfAny(): void {
    if (this.#list.length > 0) throw diagnosticsError(this.#list, this.#dropped);
  }
}

/** One error that carries all diagnostics. */
export function diagnosticsError(list: readonly Diagnostic[], dropped = 0): RegoError {
  const first = list[0]!;
  const blocks = list.slice(0, MAX_DIAGNOSTICS).map((item) => `${item.file}:${item.line}:${item.column}: ${item.message}\n  ${item.excerpt}\n  ${item.caret}`);
  const rest = list.length - MAX_DIAGNOSTICS + dropped;
  const message = rest > 0 ? `${blocks.join("\n")}\n${rest} more` : blocks.join("\n");
  return new RegoError(first.code, message, { diagnostics: list, details: { file: first.file, line: first.line, column: first.column } });
}
