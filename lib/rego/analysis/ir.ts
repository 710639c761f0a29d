import type { Source } from "../syntax/source.ts";
import type { Value } from "../values/index.ts";
import type { RuleGroup } from "./rule-tree.ts";

/**
 * The form between source and closures. Nested calls and references are taken out of their statements into statements of
 * their own, as OPA does it, because that decides what `not` means: in `not f(input.x)` the operand `input.x` stands
 * outside the negation, so a missing operand fails the body instead of making it true (specs/rego.md 4.9).
 */

/** A variable of one rule body; `slot` is its place in the activation's array. */
export interface Variable {
  readonly name: string;
  readonly slot: number;
  readonly at: number;
  readonly kind: "local" | "parameter" | "wildcard" | "generated";
  /** How often it stands in statements and heads, counted by the safety analysis; once more for each inner body that reads it. */
  uses: number;
}

/** A constant, a variable, a composition of operands, a reference or a comprehension. */
export type Operand =
  | { readonly kind: "const"; readonly value: Value }
  | { readonly kind: "var"; readonly variable: Variable }
  | { readonly kind: "array"; readonly items: readonly Operand[] }
  | { readonly kind: "set"; readonly items: readonly Operand[] }
  | { readonly kind: "object"; readonly entries: readonly (readonly [Operand, Operand])[] }
  | RefOperand
  | Comprehension;

/** `base.path`: steps are simple operands; an unbound variable in a step iterates. */
export interface RefOperand {
  readonly kind: "ref";
  readonly base: RefBase;
  readonly path: readonly Operand[];
  readonly at: number;
}

export type RefBase = { readonly kind: "var"; readonly variable: Variable } | { readonly kind: "input" } | { readonly kind: "data" };

export interface Comprehension {
  readonly kind: "comprehension";
  readonly type: "array" | "set" | "object";
  readonly key: Operand | undefined;
  readonly value: Operand;
  readonly body: Block;
  readonly accumulator: number;
  readonly at: number;
}

/** A body. The safety analysis replaces `statements` by an order in which each finds its variables bound. */
export interface Block {
  statements: readonly Flat[];
}

/** What is called. */
export type Callee = { readonly kind: "builtin"; readonly name: string } | { readonly kind: "function"; readonly group: RuleGroup };

/** `with` on a statement. */
export type Modifier =
  | { readonly kind: "input"; readonly path: readonly Value[]; readonly value: Operand }
  | { readonly kind: "data"; readonly path: readonly Value[]; readonly value: Operand }
  | { readonly kind: "callee"; readonly name: string; readonly value: Operand | Callee };

export type Op =
  | { readonly kind: "test"; readonly operand: Operand }
  | { readonly kind: "equal"; readonly left: Operand; readonly right: Operand }
  | { readonly kind: "unify"; readonly left: Operand; readonly right: Operand }
  /** Without a result the statement holds if the value is neither undefined nor false. */
  | { readonly kind: "call"; readonly callee: Callee; readonly args: readonly Operand[]; readonly result: Operand | undefined }
  | { readonly kind: "every"; readonly key: Variable | undefined; readonly value: Variable; readonly domain: Operand; readonly body: Block }
  | { readonly kind: "print"; readonly args: readonly PrintArgument[] };

/** An argument of `print` is evaluated on its own, so that an undefined one does not silence the rest. */
export interface PrintArgument {
  readonly body: Block;
  readonly value: Operand;
}

/** A body inside a statement: of a comprehension, of `every`, or of an argument of `print`. */
export interface Closure {
  readonly body: Block;
  /** Operands that are read at the end of the body. */
  readonly heads: readonly Operand[];
  /** Variables that are bound when the body starts. */
  readonly locals: readonly Variable[];
}

/** One primitive statement; `at` and `end` are those of the statement in the source it came from. */
export interface Flat {
  readonly op: Op;
  readonly negated: boolean;
  readonly modifiers: readonly Modifier[];
  /** As {@link findClosures} gives them. */
  readonly closures: readonly Closure[];
  /** The variables that it binds in its place in the body. Filled in by the safety analysis. */
  outputs: readonly Variable[];
  readonly source: Source;
  readonly at: number;
  readonly end: number;
}

/** One alternative of a rule, lowered. */
export interface LoweredClause {
  readonly source: Source;
  readonly at: number;
  readonly body: Block;
  /** Value of a complete rule, function or object member; item of a set. */
  readonly value: Operand;
  /** Steps below the group's own path, for rules of an object. */
  readonly path: readonly Operand[];
  /** True if the value is the item of a set that stands at `path`. */
  readonly isItem: boolean;
  /** Variables that are bound when the body starts: their slots come first. */
  readonly parameters: readonly Variable[];
  readonly frameSize: number;
  /** Everything outside its own variables that the clause reads, inner bodies included: documents and functions. */
  readonly reads: readonly (RefOperand | RuleGroup)[];
}

/** One rule with its `else` branches. */
export interface Definition {
  readonly clauses: readonly LoweredClause[];
}

/** Calls a function with every variable of an operand; closures are reported apart. */
export function visitOperand(operand: Operand, variable: (variable: Variable) => void, closure: (comprehension: Comprehension) => void): void {
  switch (operand.kind) {
    case "const":
      return;
    case "var":
      variable(operand.variable);
      return;
    case "array":
    case "set":
      for (const item of operand.items) visitOperand(item, variable, closure);
      return;
    case "object":
      for (const [key, value] of operand.entries) {
        visitOperand(key, variable, closure);
        visitOperand(value, variable, closure);
      }
      return;
    case "ref":
      if (operand.base.kind === "var") variable(operand.base.variable);
      for (const step of operand.path) visitOperand(step, variable, closure);
      return;
    case "comprehension":
      closure(operand);
  }
}

/** The operands of a statement that stand outside closures. */
export function operandsOf(op: Op): readonly Operand[] {
  switch (op.kind) {
    case "test":
      return [op.operand];
    case "equal":
    case "unify":
      return [op.left, op.right];
    case "call":
      return op.result === undefined ? op.args : [...op.args, op.result];
    case "every":
      return [op.domain];
    case "print":
      return [];
  }
}

const NO_CLOSURES: readonly Closure[] = [];

/** The bodies inside a statement that see its variables. */
export function findClosures(op: Op, modifiers: readonly Modifier[]): readonly Closure[] {
  let found: Closure[] | undefined;
  const add = (closure: Closure): void => {
    if (found === undefined) found = [closure];
    else found.push(closure);
  };
  const enter = (operand: Operand): void => {
    // Most operands are names and constants.
    if (operand.kind === "var" || operand.kind === "const") return;
    visitOperand(operand, ignore, ({ body, key, value }) => add({ body, heads: key === undefined ? [value] : [key, value], locals: [] }));
  };
  switch (op.kind) {
    case "test":
      enter(op.operand);
      break;
    case "equal":
    case "unify":
      enter(op.left);
      enter(op.right);
      break;
    case "call":
      for (const argument of op.args) enter(argument);
      if (op.result !== undefined) enter(op.result);
      break;
    case "every":
      enter(op.domain);
      break;
    case "print":
  }
  for (const modifier of modifiers) {
    if (modifier.kind === "callee" && (modifier.value.kind === "builtin" || modifier.value.kind === "function")) continue;
    enter(modifier.value as Operand);
  }
  if (op.kind === "every") add({ body: op.body, heads: [], locals: op.key === undefined ? [op.value] : [op.key, op.value] });
  if (op.kind === "print") for (const { body, value } of op.args) add({ body, heads: [value], locals: [] });
  return found ?? NO_CLOSURES;
}

function ignore(): void {
  // Variables are of no interest here.
}
