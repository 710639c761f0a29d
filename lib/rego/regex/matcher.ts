import type { Meter } from "../values/index.ts";
import type { CharacterSet, Node } from "./parse.ts";
import { hasUnclearCaptures, parsePattern } from "./parse.ts";

/** One instruction; a program runs from the first one on. */
type Instruction =
  | { readonly op: "text"; readonly text: string }
  | { readonly op: "set"; readonly set: CharacterSet }
  | { readonly op: "begin" }
  | { readonly op: "end" }
  /** Tries the next instruction, then `other`; the other way round if `lazy`. `index` counts the splits of the program. */
  | { readonly op: "split"; other: number; readonly lazy: boolean; readonly index: number }
  | { readonly op: "jump"; to: number }
  /** Remembers the position in one of the captures: start and end of the match, then of each group. */
  | { readonly op: "save"; readonly slot: number }
  | { readonly op: "match" };

/** Instructions of a program: repetitions are written out. */
const MAX_PROGRAM = 1000;

/** Splits times positions of one text: entries to remember what was tried, and a bound on the branches that wait. */
const MAX_VISITED = 256 * 1024;

/** Marks an entry of the waiting branches that restores a capture instead of trying a branch. */
const RESTORE = -1;

/**
 * Matches a text against a pattern in time of text length times splits at most: a split that was tried at a position is
 * never tried there again. Branches are tried in order, so the first match is RE2's. It is here for its start: the first
 * request meets dozens of patterns, and this compiles one in microseconds. Patterns beyond its subset, and very long
 * texts, go to `re2js`.
 */
export class Matcher {
  readonly #program: readonly Instruction[];
  readonly #splits: number;
  readonly #groups: number;
  readonly #anchored: boolean;
  readonly #capturesAreClear: boolean;

  private constructor(assembler: Assembler, tree: Node) {
    this.#program = assembler.finish();
    this.#splits = assembler.splits;
    this.#groups = assembler.groups;
    this.#anchored = this.#program[0]?.op === "begin";
    this.#capturesAreClear = !hasUnclearCaptures(tree);
  }

  /** The matcher of a pattern, or undefined if the pattern is beyond its subset. */
  static compile(pattern: string): Matcher | undefined {
    const tree = parsePattern(pattern);
    if (tree === undefined) return undefined;
    const assembler = new Assembler();
    return assembler.add(tree) ? new Matcher(assembler, tree) : undefined;
  }

  /** Number of instructions: what a match may cost per character. */
  get size(): number {
    return this.#program.length;
  }

  /** @returns undefined if the text is too long for this matcher */
  test(text: string): boolean | undefined {
    if (!this.#takes(text)) return undefined;
    return new Run(this.#program, text, this.#splits, undefined).first(0, this.#anchored);
  }

  /**
   * Start and end of all matches and of their groups (-1, -1 for a group without a part in the match), in order and without
   * overlap; an empty match directly behind another match does not count (Go's `FindAll`).
   * @param count highest number of matches; negative for all
   * @returns undefined if the text or the pattern's captures are beyond this matcher
   */
  findAll(text: string, count: number, meter: Meter): readonly (readonly number[])[] | undefined {
    if (!this.#takes(text) || !this.#capturesAreClear) return undefined;
    const found: (readonly number[])[] = [];
    const limit = count < 0 ? Infinity : count;
    const captures = new Array<number>(2 * (this.#groups + 1)).fill(-1);
    const run = new Run(this.#program, text, this.#splits, captures);
    let at = 0;
    let previousEnd = -1;
    while (found.length < limit && at <= text.length) {
      const before = run.steps;
      const holds = run.first(at, this.#anchored);
      meter.work((run.steps - before) >> 6);
      if (!holds) break;
      const [start, end] = captures as [number, number];
      const isRepeat = end === at && start === previousEnd;
      at = end === at ? at + (isPair(text, at) ? 2 : 1) : end;
      previousEnd = end;
      if (!isRepeat) found.push(captures.slice());
    }
    return found;
  }

  #takes(text: string): boolean {
    return this.#splits * (text.length + 1) <= MAX_VISITED;
  }
}

/** A program at work on one text. */
class Run {
  readonly #program: readonly Instruction[];
  readonly #text: string;
  readonly #captures: number[] | undefined;
  /** For each split and position the number of the search that tried it last. */
  readonly #visited: Uint32Array | undefined;
  #search = 0;
  /** Instructions run so far. */
  steps = 0;

  constructor(program: readonly Instruction[], text: string, splits: number, captures: number[] | undefined) {
    this.#program = program;
    this.#text = text;
    this.#captures = captures;
    this.#visited = splits === 0 ? undefined : new Uint32Array(splits * (text.length + 1));
  }

  /** Looks for the first match that starts at a position or behind it; the captures are then those of that match. */
  first(from: number, anchored: boolean): boolean {
    const text = this.#text;
    this.#search++;
    if (anchored) return from === 0 && this.#at(0);
    for (let start = from; start <= text.length; start++) {
      // No match starts inside a pair of surrogates: it is one character.
      if (start > 0 && isPair(text, start - 1)) continue;
      if (this.#at(start)) return true;
    }
    return false;
  }

  #at(start: number): boolean {
    const program = this.#program;
    const text = this.#text;
    const captures = this.#captures;
    const positions = text.length + 1;
    // Branches that wait, as pairs of instruction and position; or RESTORE, a slot and the position it had.
    const waiting: number[] = [];
    captures?.fill(-1);
    if (captures !== undefined) captures[0] = start;
    let pc = 0;
    let at = start;
    for (;;) {
      this.steps++;
      const instruction = program[pc]!;
      let holds = true;
      switch (instruction.op) {
        case "match":
          if (captures !== undefined) captures[1] = at;
          return true;
        case "text":
          holds = text.startsWith(instruction.text, at);
          at += instruction.text.length;
          pc++;
          break;
        case "set": {
          const unit = at < text.length ? text.charCodeAt(at) : -1;
          holds = unit < 128 ? unit !== -1 && instruction.set.ascii[unit] === 1 : instruction.set.others;
          at += unit >= 128 && isPair(text, at) ? 2 : 1;
          pc++;
          break;
        }
        case "begin":
          holds = at === 0;
          pc++;
          break;
        case "end":
          holds = at === text.length;
          pc++;
          break;
        case "jump":
          pc = instruction.to;
          break;
        case "save":
          if (captures !== undefined) {
            waiting.push(instruction.slot, captures[instruction.slot]!, RESTORE);
            captures[instruction.slot] = at;
          }
          pc++;
          break;
        case "split": {
          const entry = instruction.index * positions + at;
          holds = this.#visited![entry] !== this.#search;
          this.#visited![entry] = this.#search;
          if (holds) waiting.push(at, instruction.lazy ? pc + 1 : instruction.other);
          pc = instruction.lazy ? instruction.other : pc + 1;
        }
      }
      if (holds) continue;
      for (;;) {
        if (waiting.length === 0) return false;
        pc = waiting.pop()!;
        at = waiting.pop()!;
        if (pc !== RESTORE) break;
        captures![waiting.pop()!] = at;
      }
    }
  }
}

function isPair(text: string, at: number): boolean {
  const unit = text.charCodeAt(at);
  if (unit < 0xd800 || unit > 0xdbff) return false;
  const next = text.charCodeAt(at + 1);
  return next >= 0xdc00 && next <= 0xdfff;
}

/** Writes the program of a tree. */
class Assembler {
  readonly #program: Instruction[] = [];
  splits = 0;
  groups = 0;

  finish(): readonly Instruction[] {
    this.#program.push({ op: "match" });
    return this.#program;
  }

  /** Adds a tree; false if the program gets too long. */
  add(node: Node): boolean {
    const program = this.#program;
    if (program.length > MAX_PROGRAM) return false;
    switch (node.kind) {
      case "text":
        program.push({ op: "text", text: node.text });
        return true;
      case "set":
        program.push({ op: "set", set: node.set });
        return true;
      case "begin":
      case "end":
        program.push({ op: node.kind });
        return true;
      case "sequence":
        return node.items.every((item) => this.add(item));
      case "choice":
        return this.#choice(node.branches);
      case "repeat":
        return this.#repeat(node.item, node.min, node.max, node.lazy);
      case "group": {
        this.groups = Math.max(this.groups, node.index);
        program.push({ op: "save", slot: 2 * node.index });
        const added = this.add(node.item);
        program.push({ op: "save", slot: 2 * node.index + 1 });
        return added;
      }
    }
  }

  #split(lazy = false): { other: number } {
    const split = { op: "split" as const, other: -1, lazy, index: this.splits++ };
    this.#program.push(split);
    return split;
  }

  #choice(branches: readonly Node[]): boolean {
    const program = this.#program;
    const ends: { to: number }[] = [];
    for (let at = 0; at < branches.length; at++) {
      const split = at < branches.length - 1 ? this.#split() : undefined;
      if (!this.add(branches[at]!)) return false;
      if (split === undefined) break;
      const jump = { op: "jump" as const, to: -1 };
      program.push(jump);
      ends.push(jump);
      split.other = program.length;
    }
    for (const jump of ends) jump.to = program.length;
    return true;
  }

  #repeat(item: Node, min: number, max: number | undefined, lazy: boolean): boolean {
    const program = this.#program;
    for (let count = 0; count < min; count++) if (!this.add(item)) return false;
    if (max === undefined) {
      const start = program.length;
      const split = this.#split(lazy);
      if (!this.add(item)) return false;
      program.push({ op: "jump", to: start });
      split.other = program.length;
      return true;
    }
    const splits: { other: number }[] = [];
    for (let count = min; count < max; count++) {
      splits.push(this.#split(lazy));
      if (!this.add(item)) return false;
    }
    for (const split of splits) split.other = program.length;
    return true;
  }
}
