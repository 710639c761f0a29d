import { AttestationError } from "../errors.ts";
import { MAX_PROBLEMS } from "./limits.ts";

/** A place in the text of a policy. */
export interface PolicyPosition {
  /** From 1. */
  readonly line: number;
  /** From 1, in code points. */
  readonly column: number;
  /** From 0, in UTF-16 units. */
  readonly offset: number;
}

/** One thing that is wrong with a policy. */
export interface PolicyProblem extends PolicyPosition {
  /** What stands there. */
  readonly found: string;
  /** What is wrong with it, or what was expected in its place. */
  readonly problem: string;
  /** What to do. */
  readonly hint?: string;
  /** The line of the text, cut to a readable length. */
  readonly excerpt: string;
  /** Spaces and a caret that points into {@link excerpt}. */
  readonly caret: string;
}

/** Longest piece of a line that a problem shows. */
const EXCERPT_LENGTH = 120;
/** Longest text that a problem says was found. */
const FOUND_LENGTH = 40;

/** Collects what is wrong with a text, so that its author mends all of it at once. */
export class PolicyProblems {
  readonly #text: string;
  readonly #found = new Map<string, PolicyProblem>();
  #dropped = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** True once as many are known as are reported: to look for more is a waste. */
  get full(): boolean {
    return this.#found.size >= MAX_PROBLEMS;
  }

  /** In the order of the text. */
  list(): readonly PolicyProblem[] {
    return [...this.#found.values()].sort((a, b) => a.offset - b.offset);
  }

  add(at: PolicyPosition, found: string, problem: string, hint?: string): void {
    const key = `${at.offset} ${problem}`;
    if (this.#found.has(key)) return;
    if (this.full) {
      this.#dropped++;
      return;
    }
    this.#found.set(key, {
      line: at.line,
      column: at.column,
      offset: at.offset,
      found: shorten(found),
      problem,
      ...(hint === undefined ? {} : { hint }),
      ...this.#excerpt(at.offset),
    });
  }

  /** @throws {AttestationError} ERR_ATTESTATION_POLICY_SYNTAX if there is a problem */
  throwIfAny(): void {
    const list = this.list();
    if (list[0] !== undefined) throw syntaxError(list[0], list, this.#dropped);
  }

  #excerpt(offset: number): { readonly excerpt: string; readonly caret: string } {
    const before = this.#text.lastIndexOf("\n", offset - 1);
    const start = Math.max(offset === 0 ? 0 : before + 1, offset - EXCERPT_LENGTH / 2);
    const next = this.#text.indexOf("\n", offset);
    const end = Math.min(next === -1 ? this.#text.length : next, start + EXCERPT_LENGTH);
    return { excerpt: plain(this.#text.slice(start, end)), caret: `${" ".repeat(Array.from(plain(this.#text.slice(start, offset))).length)}^` };
  }
}

/** `message`: in the shape of the genuine service, which people search the network for; then the line and a caret. */
function syntaxError(first: PolicyProblem, list: readonly PolicyProblem[], dropped: number): AttestationError {
  const blocks = list.map((item) => `${problemText(item)}\n  ${item.excerpt}\n  ${item.caret}`);
  if (dropped > 0) blocks.push(`${dropped} more`);
  return new AttestationError("ERR_ATTESTATION_POLICY_SYNTAX", `Policy Parser Exception Thrown: ${blocks.join("\n")}`, {
    details: { line: first.line, column: first.column, problems: list.map(problemText) },
    ...(first.hint === undefined ? {} : { hint: first.hint }),
  });
}

/** One problem in one line, in the shape of the genuine service. */
export function problemText({ line, column, found, problem }: PolicyProblem): string {
  return `Offending symbol ${found}. Line: '${line}', Column: '${column}'. ${problem}`;
}

/** A text in single quotes, cut, on one line. */
export function quoted(text: string): string {
  return `'${shorten(text)}'`;
}

function shorten(text: string): string {
  const line = plain(text);
  const points = Array.from(line.slice(0, 2 * FOUND_LENGTH));
  return line.length > FOUND_LENGTH && points.length > FOUND_LENGTH ? `${points.slice(0, FOUND_LENGTH - 1).join("")}…` : line;
}

/** Without what moves a terminal's cursor, and with one column for each character. */
function plain(text: string): string {
  // eslint-disable-next-line no-control-regex -- exactly these
  return text.toWellFormed().replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, " ");
}

/** The candidate that a misspelt name may stand for: the same in another letter case, or at most two letters off. */
export function closest(name: string, candidates: readonly string[]): string | undefined {
  if (name.length > 40) return undefined;
  const lower = name.toLowerCase();
  const ranked = candidates.map((candidate) => ({ candidate, distance: distance(lower, candidate.toLowerCase()) })).sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  return best !== undefined && best.distance <= Math.min(2, Math.floor(name.length / 2)) ? best.candidate : undefined;
}

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** The error for a text beyond a named limit. */
export function limitError(what: string, limit: number, at?: PolicyPosition): AttestationError {
  const place = at === undefined ? "" : `. Line: '${at.line}', Column: '${at.column}'`;
  return new AttestationError("ERR_ATTESTATION_POLICY_LIMIT", `${what} (limit ${limit})${place}`, {
    details: { limit, ...(at === undefined ? {} : { line: at.line, column: at.column }) },
    hint: "Make the policy smaller or simpler.",
  });
}
