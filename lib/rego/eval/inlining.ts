import type { Block, Flat, Operand, Variable } from "../analysis/ir.ts";
import { operandsOf, visitOperand } from "../analysis/ir.ts";
import { isKnown } from "../analysis/safety.ts";

/** What the plan has to know of the policy. */
export interface InliningFacts {
  /** True for builtins with any number of solutions. */
  isRelation(builtin: string): boolean;
  /** True if reading a `data` reference runs rules. */
  runsRules(ref: Operand & { readonly kind: "ref" }): boolean;
}

/** Statements between a value and its reader that the plan looks at: operands of one call are rarely more. */
const MAX_LOOKAHEAD = 32;

/** What the plan has found out about one statement. */
interface Fact {
  readonly flat: Flat;
  /** The generated variable that it sets, if it does nothing else and the variable is read once. */
  readonly sets: Variable | undefined;
  readonly isSingle: boolean;
  /** True if running it can be noticed, by a conflict or a print: itself, or through values that may be inlined into it. */
  hasEffects: boolean;
  /** Index of the statement that reads `sets`. */
  reader: number;
  isInlined: boolean;
}

/**
 * Which statements of a body need no place of their own: their value is computed where it is read. Nothing that can be
 * noticed may change by that. A statement that is undefined ends the body, so whatever can conflict or print must run
 * after the same statements as before, and before the same ones.
 * @returns the variables whose statements are left out
 */
export function planInlining(block: Block, bound: ReadonlySet<Variable>, facts: InliningFacts): ReadonlySet<Variable> {
  const plan = factsOf(block, bound, facts);
  const inlined = new Set<Variable>();
  // From the end: whether a value can move depends on what becomes of the statements that it moves past.
  for (let at = plan.length - 1; at >= 0; at--) {
    const fact = plan[at]!;
    if (fact.sets === undefined || !canInline(plan, at, facts)) continue;
    fact.isInlined = true;
    inlined.add(fact.sets);
  }
  return inlined;
}

function factsOf({ statements }: Block, bound: ReadonlySet<Variable>, facts: InliningFacts): readonly Fact[] {
  const known = new Set(bound);
  const isBound = (variable: Variable): boolean => known.has(variable);
  const plan = statements.map((flat): Fact => {
    const sets = temporary(flat);
    const fact: Fact = {
      flat,
      sets: sets !== undefined && known.has(sets) ? undefined : sets,
      isSingle: isSingle(flat, isBound, facts),
      hasEffects: hasEffects(flat, facts),
      reader: -1,
      isInlined: false,
    };
    for (const variable of flat.outputs) known.add(variable);
    return fact;
  });
  plan.forEach((fact, at) => {
    if (fact.sets === undefined) return;
    const end = Math.min(plan.length, at + 2 + MAX_LOOKAHEAD);
    fact.reader = at + 1;
    while (fact.reader < end && !mentions(plan[fact.reader]!.flat, fact.sets)) fact.reader++;
    const reader = plan[fact.reader];
    if (reader !== undefined && fact.hasEffects) reader.hasEffects = true;
  });
  return plan;
}

function canInline(plan: readonly Fact[], at: number, facts: InliningFacts): boolean {
  const fact = plan[at]!;
  const { sets, hasEffects: effects, reader: end } = fact;
  if (!fact.isSingle || end > plan.length || (end === plan.length && effects)) return false;
  const reader = plan[end];
  if (reader !== undefined) {
    if (!reader.isSingle || reader.flat.negated || reader.flat.modifiers.length > 0) return false;
    if (!readsFirst(reader.flat, sets!, effects, facts)) return false;
  } else if (plan.length - at > MAX_LOOKAHEAD) {
    return false;
  }
  for (let between = at + 1; between < Math.min(end, plan.length); between++) {
    const other = plan[between]!;
    if (other.sets === undefined || !other.isSingle) return false;
    // What stays in its place now runs before this value.
    const follows = other.isInlined && other.reader === end;
    if (!follows && (effects || other.hasEffects)) return false;
  }
  return true;
}

/**
 * True if a statement reads a variable before anything else in it can fail or be noticed. Operands are read from left to
 * right, in the order in which their values were taken out of the statement; references look into values on the way.
 */
function readsFirst(flat: Flat, variable: Variable, effects: boolean, facts: InliningFacts): boolean {
  for (const operand of operandsOf(flat.op)) {
    if (operand.kind !== "ref") {
      if (hasComprehension(operand)) return false;
      continue;
    }
    // The start of a reference is read first; its steps come after a look into it.
    if (operand.base.kind === "var" && operand.base.variable === variable) continue;
    if (effects || facts.runsRules(operand)) return false;
  }
  return true;
}

function hasEffects({ op }: Flat, facts: InliningFacts): boolean {
  if (op.kind === "every" || op.kind === "print") return true;
  if (op.kind === "call" && op.callee.kind === "function") return true;
  return operandsOf(op).some((operand) => hasComprehension(operand) || (operand.kind === "ref" && facts.runsRules(operand)));
}

function hasComprehension(operand: Operand): boolean {
  if (operand.kind === "var" || operand.kind === "const") return false;
  let found = false;
  visitOperand(
    operand,
    () => undefined,
    () => (found = true),
  );
  return found;
}

/** The generated variable that a statement sets, if it does nothing else and the variable is read exactly once. */
function temporary(flat: Flat): Variable | undefined {
  if (flat.negated || flat.modifiers.length > 0) return undefined;
  const { op } = flat;
  const target = op.kind === "unify" ? op.left : op.kind === "call" ? op.result : undefined;
  if (target?.kind !== "var" || target.variable.kind !== "generated") return undefined;
  // Set once, read once.
  return target.variable.uses === 2 ? target.variable : undefined;
}

/** True if a statement has at most one solution and its references do not iterate. */
function isSingle({ op }: Flat, isBound: (variable: Variable) => boolean, facts: InliningFacts): boolean {
  switch (op.kind) {
    case "call":
      return (op.callee.kind === "function" || !facts.isRelation(op.callee.name)) && op.args.every((argument) => isKnown(argument, isBound));
    case "test":
      return isKnown(op.operand, isBound);
    case "equal":
      return isKnown(op.left, isBound) && isKnown(op.right, isBound);
    case "unify":
      return isKnown(op.right, isBound) && (op.left.kind !== "ref" || isKnown(op.left, isBound));
    default:
      return false;
  }
}

function mentions(flat: Flat, variable: Variable): boolean {
  const visit = (operand: Operand): boolean => {
    switch (operand.kind) {
      case "const":
      case "comprehension":
        return false;
      case "var":
        return operand.variable === variable;
      case "array":
      case "set":
        return operand.items.some(visit);
      case "object":
        return operand.entries.some(([key, value]) => visit(key) || visit(value));
      case "ref":
        return (operand.base.kind === "var" && operand.base.variable === variable) || operand.path.some(visit);
    }
  };
  if (operandsOf(flat.op).some(visit)) return true;
  return flat.modifiers.some(({ kind, value }) => (kind !== "callee" || (value.kind !== "builtin" && value.kind !== "function")) && visit(value as Operand));
}
