import type { Meter } from "../values/index.ts";
import type { CharacterSet, Node } from "./parse.ts";
import { hasUnclearCaptures, parsePattern } from "./parse.ts";

// Numbers, so that the loop over instructions jumps instead of comparing names.
const MATCH = 0;
const TEXT = 1;
const SET = 2;
const SPAN = 3;
const BEGIN = 4;
const END = 5;
const SPLIT = 6;
const JUMP = 7;
const SAVE = 8;
const STAR = 9;

/** One instruction; a program runs from the first one on. */
type Instruction =
  | { readonly op: typeof TEXT; readonly text: string }
  | { readonly op: typeof SET; readonly set: CharacterSet }
  /** As many characters of a set as there are, up to `max`: used where giving some back could not lead to a match. */
  | { readonly op: typeof SPAN; readonly set: CharacterSet; readonly min: number; readonly max: number }
  /** The same without bounds. What it ran over once it does not run over again: `index` counts on from the splits. */
  | { readonly op: typeof STAR; readonly set: CharacterSet; readonly index: number }
  | { readonly op: typeof BEGIN }
  | { readonly op: typeof END }
  /** Tries the next instruction, then `other`; the other way round if `lazy`. `index` counts the splits of the program. */
  | { readonly op: typeof SPLIT; other: number; readonly lazy: boolean; readonly index: number }
  | { readonly op: typeof JUMP; to: number }
  /** Remembers the position in one of the captures: start and end of the match, then of each group. */
  | { readonly op: typeof SAVE; readonly slot: number }
  | { readonly op: typeof MATCH };

/** Instructions of a program: repetitions are written out. */
const MAX_PROGRAM = 1000;

/** Splits times positions of one text: entries to remember what was tried, and a bound on the branches that wait. */
const MAX_VISITED = 2 * 1024 * 1024;

/** Entries that a matcher keeps between matches; more are for one long text, and given back. */
const MAX_KEPT_VISITED = 64 * 1024;

const NOTHING_VISITED: Uint32Array<ArrayBuffer> = new Uint32Array(0);

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
  /** The one text that matches, if there is but one: `^literal$`. */
  readonly #exact: string | undefined;
  // Scratch that all matches of this pattern share: allocating it anew costs more than most matches.
  /** For each split and position of the text the number of the search that tried it last. */
  #visited = NOTHING_VISITED;
  #search = 0;
  /** Branches that wait, as position and instruction; or a position, a capture and RESTORE. */
  readonly #waiting: number[] = [];
  readonly #captures: number[];
  #steps = 0;

  private constructor(assembler: Assembler, tree: Node) {
    this.#program = assembler.finish();
    this.#splits = assembler.splits;
    this.#groups = assembler.groups;
    this.#anchored = this.#program[0]?.op === BEGIN;
    this.#capturesAreClear = !hasUnclearCaptures(tree);
    const [first, second, third] = this.#program;
    this.#exact = first?.op === BEGIN && second?.op === TEXT && third?.op === END && this.#program.length === 4 ? second.text : undefined;
    this.#captures = Array.from({ length: 2 * (this.#groups + 1) }, () => -1);
  }

  /** The matcher of a pattern, or undefined if the pattern is beyond its subset. */
  static compile(pattern: string): Matcher | undefined {
    const tree = parsePattern(pattern);
    if (tree === undefined) return undefined;
    const assembler = new Assembler();
    return assembler.add(tree, "end of pattern") ? new Matcher(assembler, tree) : undefined;
  }

  /** Number of instructions: what a match may cost per character. */
  get size(): number {
    return this.#program.length;
  }

  /** @returns undefined if the text is too long for this matcher */
  test(text: string): boolean | undefined {
    if (this.#exact !== undefined) return text === this.#exact;
    if (this.#splits * (text.length + 1) > MAX_VISITED) return undefined;
    const found = this.#first(text, 0);
    this.#giveBack();
    return found;
  }

  /**
   * Start and end of all matches and of their groups (-1, -1 for a group without a part in the match), in order and without
   * overlap; an empty match directly behind another match does not count (Go's `FindAll`).
   * @param count highest number of matches; negative for all
   * @returns undefined if the text or the pattern's captures are beyond this matcher
   */
  findAll(text: string, count: number, meter: Meter): readonly (readonly number[])[] | undefined {
    if (this.#splits * (text.length + 1) > MAX_VISITED || !this.#capturesAreClear) return undefined;
    const found: (readonly number[])[] = [];
    const limit = count < 0 ? Infinity : count;
    let at = 0;
    let previousEnd = -1;
    while (found.length < limit && at <= text.length) {
      this.#steps = 0;
      const holds = this.#first(text, at);
      meter.work(this.#steps >> 6);
      if (!holds) break;
      const [start, end] = this.#captures as [number, number];
      const isRepeat = end === at && start === previousEnd;
      at = end === at ? at + (isPair(text, at) ? 2 : 1) : end;
      previousEnd = end;
      if (!isRepeat) found.push(this.#captures.slice());
    }
    this.#giveBack();
    return found;
  }

  #giveBack(): void {
    if (this.#visited.length > MAX_KEPT_VISITED) this.#visited = NOTHING_VISITED;
  }

  /** Looks for the first match that starts at a position or behind it; the captures are then those of that match. */
  #first(text: string, from: number): boolean {
    const entries = this.#splits * (text.length + 1);
    if (entries > this.#visited.length) this.#visited = new Uint32Array(entries);
    // The numbers go on from search to search, so that old entries mean nothing; before they run out, all are forgotten.
    if (++this.#search > 0xffff_fff0) {
      this.#visited.fill(0);
      this.#search = 1;
    }
    if (this.#anchored) return from === 0 && this.#at(text, 0);
    for (let start = this.#next(text, from); start <= text.length; start = this.#next(text, start + 1)) {
      if (this.#at(text, start)) return true;
    }
    return false;
  }

  /** The first position from one on at which a match could start; behind the end of the text if there is none. */
  #next(text: string, from: number): number {
    const [head] = this.#program;
    const { length } = text;
    let at = from;
    if (head!.op === TEXT) {
      at = text.indexOf(head!.text, from);
      return at === -1 ? length + 1 : at;
    }
    if (head!.op === SET) {
      const { ascii, others } = head!.set;
      for (; at < length; at++) {
        const unit = text.charCodeAt(at);
        if (unit < 128 ? ascii[unit] === 1 : others) break;
      }
      this.#steps += at - from;
      if (at >= length) return length + 1;
    }
    // No match starts inside a pair of surrogates: it is one character.
    return at > 0 && isPair(text, at - 1) ? at + 1 : at;
  }

  #at(text: string, start: number): boolean {
    const program = this.#program;
    const positions = text.length + 1;
    const captures = this.#captures;
    const visited = this.#visited;
    const search = this.#search;
    const waiting = this.#waiting;
    if (this.#groups > 0) captures.fill(-1);
    captures[0] = start;
    let pc = 0;
    let at = start;
    let steps = 0;
    for (;;) {
      steps++;
      const instruction = program[pc]!;
      let holds = true;
      switch (instruction.op) {
        case MATCH:
          captures[1] = at;
          waiting.length = 0;
          this.#steps += steps;
          return true;
        case TEXT:
          holds = text.startsWith(instruction.text, at);
          at += instruction.text.length;
          pc++;
          break;
        case SET: {
          const unit = at < text.length ? text.charCodeAt(at) : -1;
          holds = unit < 128 ? unit !== -1 && instruction.set.ascii[unit] === 1 : instruction.set.others;
          at += unit >= 128 && isPair(text, at) ? 2 : 1;
          pc++;
          break;
        }
        case SPAN: {
          const { set, min, max } = instruction;
          const { ascii, others } = set;
          let count = 0;
          for (; count < max && at < text.length; count++) {
            const unit = text.charCodeAt(at);
            if (unit < 128 ? ascii[unit] === 0 : !others) break;
            at += unit >= 128 && isPair(text, at) ? 2 : 1;
          }
          steps += count;
          holds = count >= min;
          pc++;
          break;
        }
        case STAR: {
          const { ascii, others } = instruction.set;
          const entries = instruction.index * positions;
          const from = at;
          for (;;) {
            // From a position that was run over, the way leads to where it led before, and there was no match.
            holds = visited[entries + at] !== search;
            if (!holds) break;
            visited[entries + at] = search;
            if (at === text.length) break;
            const unit = text.charCodeAt(at);
            if (unit < 128 ? ascii[unit] === 0 : !others) break;
            at += unit >= 128 && isPair(text, at) ? 2 : 1;
          }
          steps += at - from;
          pc++;
          break;
        }
        case BEGIN:
          holds = at === 0;
          pc++;
          break;
        case END:
          holds = at === text.length;
          pc++;
          break;
        case JUMP:
          pc = instruction.to;
          break;
        case SAVE:
          waiting.push(captures[instruction.slot]!, instruction.slot, RESTORE);
          captures[instruction.slot] = at;
          pc++;
          break;
        case SPLIT: {
          const entry = instruction.index * positions + at;
          holds = visited[entry] !== search;
          visited[entry] = search;
          if (holds) waiting.push(at, instruction.lazy ? pc + 1 : instruction.other);
          pc = instruction.lazy ? instruction.other : pc + 1;
        }
      }
      if (holds) continue;
      for (;;) {
        if (waiting.length === 0) {
          this.#steps += steps;
          return false;
        }
        pc = waiting.pop()!;
        at = waiting.pop()!;
        if (pc !== RESTORE) break;
        captures[at] = waiting.pop()!;
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

/** What stands behind a part of a pattern: another part, the end of the pattern, or something that is not worth looking at. */
type Next = Node | "end of pattern" | undefined;

/** Writes the program of a tree. */
class Assembler {
  readonly #program: Instruction[] = [];
  splits = 0;
  groups = 0;

  finish(): readonly Instruction[] {
    this.#program.push({ op: MATCH });
    return this.#program;
  }

  /** Adds a tree; false if the program gets too long. */
  add(node: Node, next: Next): boolean {
    const program = this.#program;
    if (program.length > MAX_PROGRAM) return false;
    switch (node.kind) {
      case "text":
        program.push({ op: TEXT, text: node.text });
        return true;
      case "set":
        program.push({ op: SET, set: node.set });
        return true;
      case "begin":
        program.push({ op: BEGIN });
        return true;
      case "end":
        program.push({ op: END });
        return true;
      case "sequence":
        return node.items.every((item, at) => this.add(item, at === node.items.length - 1 ? next : node.items[at + 1]));
      case "choice":
        return this.#choice(node.branches, next);
      case "repeat":
        return this.#repeat(node, next);
      case "group": {
        this.groups = Math.max(this.groups, node.index);
        program.push({ op: SAVE, slot: 2 * node.index });
        const added = this.add(node.item, next);
        program.push({ op: SAVE, slot: 2 * node.index + 1 });
        return added;
      }
    }
  }

  #split(lazy = false): { other: number } {
    const split = { op: SPLIT as typeof SPLIT, other: -1, lazy, index: this.splits++ };
    this.#program.push(split);
    return split;
  }

  #choice(branches: readonly Node[], next: Next): boolean {
    const program = this.#program;
    const ends: { to: number }[] = [];
    for (let at = 0; at < branches.length; at++) {
      const split = at < branches.length - 1 ? this.#split() : undefined;
      if (!this.add(branches[at]!, next)) return false;
      if (split === undefined) break;
      const jump = { op: JUMP as typeof JUMP, to: -1 };
      program.push(jump);
      ends.push(jump);
      split.other = program.length;
    }
    for (const jump of ends) jump.to = program.length;
    return true;
  }

  #repeat({ item, min, max, lazy }: Node & { kind: "repeat" }, next: Next): boolean {
    const program = this.#program;
    if (item.kind === "set" && (min === max || takesAll(item.set, lazy, next))) {
      if (max !== undefined || min > 0) program.push({ op: SPAN, set: item.set, min, max: max ?? min });
      if (max === undefined) program.push({ op: STAR, set: item.set, index: this.splits++ });
      return true;
    }
    for (let count = 0; count < min; count++) if (!this.add(item, undefined)) return false;
    if (max === undefined) {
      const start = program.length;
      const split = this.#split(lazy);
      if (!this.add(item, undefined)) return false;
      program.push({ op: JUMP, to: start });
      split.other = program.length;
      return true;
    }
    const splits: { other: number }[] = [];
    for (let count = min; count < max; count++) {
      splits.push(this.#split(lazy));
      if (!this.add(item, undefined)) return false;
    }
    for (const split of splits) split.other = program.length;
    return true;
  }
}

/**
 * True if a repetition of a set can only match together with what follows by taking every character of the set that there
 * is: what follows starts with none of them.
 */
function takesAll(set: CharacterSet, lazy: boolean, next: Next): boolean {
  // At the end of the pattern everything is a match; a greedy repetition takes the longest.
  if (next === "end of pattern") return !lazy;
  if (next === undefined) return false;
  switch (next.kind) {
    case "end":
      return true;
    case "text": {
      const unit = next.text.charCodeAt(0);
      return unit < 128 ? set.ascii[unit] === 0 : !set.others;
    }
    case "set":
      return !(set.others && next.set.others) && set.ascii.every((member, unit) => member === 0 || next.set.ascii[unit] === 0);
    case "repeat":
      return next.min > 0 && takesAll(set, lazy, next.item);
    case "group":
      return takesAll(set, lazy, next.item);
    case "sequence":
      return next.items.length > 0 && takesAll(set, lazy, next.items[0]);
    default:
      return false;
  }
}
