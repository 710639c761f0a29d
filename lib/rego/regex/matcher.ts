import type { CharacterSet, Node } from "./parse.ts";
import { parsePattern } from "./parse.ts";

/** One instruction; a program runs from the first one on. */
type Instruction =
  | { readonly op: "text"; readonly text: string }
  | { readonly op: "set"; readonly set: CharacterSet }
  | { readonly op: "begin" }
  | { readonly op: "end" }
  /** Tries the next instruction, then `other`; `index` counts the splits of the program. */
  | { readonly op: "split"; other: number; readonly index: number }
  | { readonly op: "jump"; to: number }
  | { readonly op: "match" };

/** Instructions of a program: repetitions are written out. */
const MAX_PROGRAM = 1000;

/** Bits to remember per match, splits times positions; also bounds the branches that wait. */
const MAX_VISITED = 1024 * 1024;

/**
 * Tells whether a text matches a pattern, in time of text length times splits at most: a split that was tried at a position
 * is never tried there again. It is here for its start: a policy's first request meets dozens of patterns, and this
 * compiles one in microseconds. Patterns beyond its subset, and very long texts, go to `re2js`.
 */
export class Matcher {
  readonly #program: readonly Instruction[];
  readonly #splits: number;
  readonly #anchored: boolean;

  private constructor(program: readonly Instruction[], splits: number) {
    this.#program = program;
    this.#splits = splits;
    this.#anchored = program[0]?.op === "begin";
  }

  /** The matcher of a pattern, or undefined if the pattern is beyond its subset. */
  static compile(pattern: string): Matcher | undefined {
    const tree = parsePattern(pattern);
    if (tree === undefined) return undefined;
    const assembler = new Assembler();
    if (!assembler.add(tree)) return undefined;
    return new Matcher(assembler.finish(), assembler.splits);
  }

  /** Number of instructions: what a match may cost per character. */
  get size(): number {
    return this.#program.length;
  }

  /** @returns undefined if the text is too long for this matcher */
  test(text: string): boolean | undefined {
    const positions = text.length + 1;
    if (this.#splits * positions > MAX_VISITED) return undefined;
    const visited = this.#splits === 0 ? undefined : new Uint32Array((this.#splits * positions + 31) >>> 5);
    if (this.#anchored) return this.#from(text, 0, visited);
    for (let start = 0; start < positions; start++) {
      // No match starts inside a pair of surrogates: it is one character.
      if (start > 0 && isPair(text, start - 1)) continue;
      if (this.#from(text, start, visited)) return true;
    }
    return false;
  }

  #from(text: string, start: number, visited: Uint32Array | undefined): boolean {
    const program = this.#program;
    const positions = text.length + 1;
    const waiting: number[] = [];
    let pc = 0;
    let at = start;
    for (;;) {
      const instruction = program[pc]!;
      let holds = true;
      switch (instruction.op) {
        case "match":
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
        case "split": {
          const bit = instruction.index * positions + at;
          holds = (visited![bit >>> 5]! & (1 << (bit & 31))) === 0;
          visited![bit >>> 5]! |= 1 << (bit & 31);
          if (holds) waiting.push(instruction.other, at);
          pc++;
        }
      }
      if (holds) continue;
      if (waiting.length === 0) return false;
      at = waiting.pop()!;
      pc = waiting.pop()!;
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
        return this.#repeat(node.item, node.min, node.max);
    }
  }

  #split(): Instruction & { readonly op: "split" } {
    const split = { op: "split" as const, other: -1, index: this.splits++ };
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

  #repeat(item: Node, min: number, max: number | undefined): boolean {
    const program = this.#program;
    for (let count = 0; count < min; count++) if (!this.add(item)) return false;
    if (max === undefined) {
      const start = program.length;
      const split = this.#split();
      if (!this.add(item)) return false;
      program.push({ op: "jump", to: start });
      split.other = program.length;
      return true;
    }
    const splits: { other: number }[] = [];
    for (let count = min; count < max; count++) {
      splits.push(this.#split());
      if (!this.add(item)) return false;
    }
    for (const split of splits) split.other = program.length;
    return true;
  }
}
