import type { Source } from "../syntax/source.ts";
import type { Value } from "../values/index.ts";
import { formatValue } from "../values/index.ts";
import type { TraceEntry, TraceOperand } from "../trace.ts";

/** What the compiler knows of a statement when it compiles for tracing. */
export interface TracePoint {
  readonly source: Source;
  readonly at: number;
  readonly end: number;
  /** The operands of the statement that can be read from the activation, with their text. */
  readonly operands: readonly { readonly text: string; readonly read: () => Value | undefined }[];
}

interface Attempt {
  readonly rule: string;
  readonly source: Source;
  readonly at: number;
  readonly depth: number;
  /** Index of the statement that was reached last in the order of evaluation. */
  reached: number;
  point: TracePoint | undefined;
  operands: readonly { readonly text: string; readonly value: Value | undefined }[];
  outcome: "open" | "held" | "failed";
}

/** Longest text of a statement or value that a trace keeps. */
const MAX_TEXT = 400;

/** Records which rule bodies were tried, and how far each came. */
export class TraceRecorder {
  readonly #limit: number;
  readonly #attempts: Attempt[] = [];
  readonly #open: (Attempt | undefined)[] = [];
  #dropped = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** A body starts. */
  begin(rule: string, source: Source, at: number): void {
    if (this.#attempts.length >= this.#limit) {
      this.#dropped++;
      this.#open.push(undefined);
      return;
    }
    const attempt: Attempt = { rule, source, at, depth: this.#open.length, reached: -1, point: undefined, operands: [], outcome: "open" };
    this.#attempts.push(attempt);
    this.#open.push(attempt);
  }

  /** A statement is about to run. */
  reach(index: number, point: TracePoint): void {
    const attempt = this.#open.at(-1);
    if (attempt === undefined || index < attempt.reached) return;
    attempt.reached = index;
    attempt.point = point;
    // Values never change, so they are formatted when somebody asks.
    attempt.operands = point.operands.map(({ text, read }) => ({ text, value: read() }));
  }

  /** A body is done. */
  end(held: boolean): void {
    const attempt = this.#open.pop();
    if (attempt !== undefined) attempt.outcome = held ? "held" : "failed";
  }

  /** The record, in the order in which the bodies were tried. */
  entries(): readonly TraceEntry[] {
    return this.#attempts.map((attempt) => {
      const entry = { rule: attempt.rule, position: attempt.source.position(attempt.at), depth: attempt.depth, held: attempt.outcome === "held" };
      const { point } = attempt;
      if (attempt.outcome === "held" || point === undefined) return entry;
      return {
        ...entry,
        failed: { position: point.source.position(point.at), text: cut(textOf(point)), operands: attempt.operands.map(show) },
      };
    });
  }

  get dropped(): number {
    return this.#dropped;
  }
}

function show({ text, value }: { readonly text: string; readonly value: Value | undefined }): TraceOperand {
  return { text, value: value === undefined ? undefined : cut(formatValue(value, MAX_TEXT)) };
}

/** The text of a statement. What a rule's head reads is no statement of the source: its line stands for it. */
function textOf({ source, at, end }: TracePoint): string {
  if (end > at) return source.text.slice(at, end);
  const line = source.text.indexOf("\n", at);
  return source.text.slice(at, line === -1 ? undefined : line).trimEnd();
}

function cut(text: string): string {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}...` : text;
}
