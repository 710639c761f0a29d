/** A place in a text file; line and column start at 1, the column counts UTF-16 units. */
export interface Position {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

/**
 * What is wrong with a manifest. Only `unknown-field` can be downgraded to a warning; `ignored` is always one: the field is
 * valid, but a confidential guest does not do what it says.
 */
export type ProblemKind = "syntax" | "limit" | "unsupported-kind" | "unknown-field" | "missing-field" | "wrong-type" | "bad-value" | "ignored" | "edit";

/** One problem of a manifest and the place where it is. */
export interface Problem {
  readonly kind: ProblemKind;
  readonly position: Position;
  /** Path from the document, such as `spec.containers[0].image`; empty for the document itself. */
  readonly path: string;
  readonly message: string;
}

/** More problems than anybody reads; hostile text could have millions. */
export const MAX_PROBLEMS = 1000;

/** Compares problems of one file by their place. */
export function byPosition(a: Problem, b: Problem): number {
  return a.position.line - b.position.line || a.position.column - b.position.column;
}

/** `file:line:column` of a position. */
export function formatPosition(position: Position): string {
  return `${position.file}:${position.line}:${position.column}`;
}

/** One line: `file:line:column: path: message`. */
export function formatProblem(problem: Problem): string {
  const path = problem.path === "" ? "" : `${problem.path}: `;
  return `${formatPosition(problem.position)}: ${path}${problem.message}`;
}

/** Turns offsets of one text into positions. */
export class LineIndex {
  readonly #file: string;
  readonly #starts: readonly number[];

  constructor(file: string, text: string) {
    const starts = [0];
    for (let at = text.indexOf("\n"); at !== -1; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
    this.#file = file;
    this.#starts = starts;
  }

  /** Position of the UTF-16 unit at `offset`. */
  positionOf(offset: number): Position {
    let low = 0;
    let high = this.#starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#starts[middle] ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return { file: this.#file, line: low + 1, column: offset - (this.#starts[low] ?? 0) + 1 };
  }
}
