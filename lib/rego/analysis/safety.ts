import type { Diagnostics } from "../syntax/source.ts";
import type { Block, Flat, LoweredClause, Operand, Variable } from "./ir.ts";
import { operandsOf, visitOperand } from "./ir.ts";

type Variables = ReadonlySet<Variable>;

/**
 * Work that ordering may take for one policy. It is quadratic in the length of a body at worst; a million units are
 * about a second, and real policies need some ten thousand.
 */
const MAX_WORK = 2_000_000;

/** What is left of the work, and where to report. */
export class Ordering {
  readonly diagnostics: Diagnostics;
  #work = 0;

  constructor(diagnostics: Diagnostics) {
    this.diagnostics = diagnostics;
  }

  /** Counts work; false if the limit is reached. */
  work(units: number): boolean {
    this.#work += units;
    return this.#work <= MAX_WORK;
  }
}

const ignore = (): void => undefined;

const NONE: readonly Variable[] = [];

/** Variables up to which looking through a list is faster than a set. */
const FEW = 16;

/**
 * Orders a body so that each statement finds the variables it reads already bound, as OPA's safety analysis does: again
 * and again the statements in source order, each taken as soon as it can be.
 * Variables that never get bound are reported.
 */
export function orderClause(clause: LoweredClause, parameters: Variables, ordering: Ordering): void {
  const safe = orderBlock(clause.body, parameters, ordering);
  requireSafe([clause.value, ...clause.path], safe, clause.source, clause.at, ordering);
}

/** Orders a body and all bodies inside it; returns the variables that are bound at its end. */
export function orderBlock(block: Block, outer: Variables, ordering: Ordering): Variables {
  const { diagnostics } = ordering;
  const { statements } = block;
  const safe = new Set(outer);
  if (statements.length === 0) return safe;
  const hasClosures = statements.some((flat) => flat.closures.length > 0);
  const reads = statements.map(variablesOf);
  const inBody = new Set<Variable>();
  for (const variables of reads) {
    for (const variable of variables) {
      variable.uses++;
      if (hasClosures) inBody.add(variable);
    }
  }
  const ordered: Flat[] = [];
  let waiting = statements.map((flat, at) => ({ flat, reads: reads[at]!, closed: flat.closures.length === 0 ? NONE : closedOver(flat, inBody, outer) }));
  while (waiting.length > 0) {
    const later: typeof waiting = [];
    for (const fact of waiting) {
      if (!ordering.work(1 + fact.reads.length)) {
        diagnostics.add("ERR_REGO_LIMIT_SOURCE", fact.flat.source, fact.flat.at, "ordering the statements of this policy takes too much work");
        return safe;
      }
      const outputs = outputsOf(fact.flat, safe);
      const own = outputs.length <= FEW ? undefined : new Set(outputs);
      if (
        fact.reads.every((variable) => safe.has(variable) || (own === undefined ? outputs.includes(variable) : own.has(variable))) &&
        fact.closed.every((variable) => safe.has(variable))
      ) {
        ordered.push(fact.flat);
        fact.flat.outputs = outputs;
        for (const variable of outputs) safe.add(variable);
      } else {
        later.push(fact);
      }
    }
    if (later.length === waiting.length) break;
    waiting = later;
  }
  if (ordered.length < statements.length) {
    for (const { flat, reads, closed } of waiting) {
      const reported = new Set<string>();
      for (const variable of [...reads, ...closed]) {
        if (!safe.has(variable)) reportUnsafe(variable, flat.source, flat.at, diagnostics, reported);
      }
    }
    return safe;
  }
  block.statements = ordered;
  if (!hasClosures) return safe;
  // Inner bodies see what is bound when their statement runs.
  const bound = new Set(outer);
  for (const flat of ordered) {
    for (const { body, heads, locals } of flat.closures) {
      ordering.work(bound.size);
      const inner = orderBlock(body, locals.length === 0 ? bound : new Set([...bound, ...locals]), ordering);
      requireSafe(heads, inner, flat.source, flat.at, ordering);
    }
    for (const variable of flat.outputs) bound.add(variable);
  }
  return safe;
}

/** Requires that the operands which are read at a body's end are bound there. */
export function requireSafe(operands: readonly Operand[], safe: Variables, source: Flat["source"], at: number, ordering: Ordering): void {
  const reported = new Set<string>();
  for (const operand of operands) {
    visitOperand(
      operand,
      (variable) => {
        variable.uses++;
        if (!safe.has(variable)) reportUnsafe(variable, source, at, ordering.diagnostics, reported);
      },
      (comprehension) => {
        const inner = orderBlock(comprehension.body, safe, ordering);
        requireSafe(comprehension.key === undefined ? [comprehension.value] : [comprehension.key, comprehension.value], inner, source, at, ordering);
      },
    );
  }
}

function reportUnsafe(variable: Variable, source: Flat["source"], at: number, diagnostics: Diagnostics, reported: Set<string>): void {
  // A generated variable is unsafe only because one of the source is; that one is reported.
  if (variable.kind === "generated" || reported.has(variable.name)) return;
  reported.add(variable.name);
  diagnostics.add("ERR_REGO_UNSAFE", source, variable.at > 0 ? variable.at : at, `var ${variable.name} is unsafe: nothing gives it a value`);
}

/** The variables of a statement that stand outside of inner bodies, in order; one that stands in it twice is listed twice. */
function variablesOf(flat: Flat): Variable[] {
  const found: Variable[] = [];
  const { op } = flat;
  switch (op.kind) {
    case "test":
      collect(op.operand, found);
      break;
    case "equal":
    case "unify":
      collect(op.left, found);
      collect(op.right, found);
      break;
    case "call":
      for (const argument of op.args) collect(argument, found);
      if (op.result !== undefined) collect(op.result, found);
      break;
    case "every":
      collect(op.domain, found);
      break;
    case "print":
  }
  for (const modifier of flat.modifiers) {
    if (modifier.kind === "callee" && (modifier.value.kind === "builtin" || modifier.value.kind === "function")) continue;
    collect(modifier.value as Operand, found);
  }
  return found;
}

function collect(operand: Operand, found: Variable[]): void {
  switch (operand.kind) {
    case "const":
    case "comprehension":
      return;
    case "var":
      found.push(operand.variable);
      return;
    case "array":
    case "set":
      for (const item of operand.items) collect(item, found);
      return;
    case "object":
      for (const [key, value] of operand.entries) {
        collect(key, found);
        collect(value, found);
      }
      return;
    case "ref":
      if (operand.base.kind === "var") found.push(operand.base.variable);
      for (const step of operand.path) collect(step, found);
  }
}

/** Variables of the enclosing body that a statement's inner bodies use: they must be bound before. */
function closedOver(flat: Flat, own: Variables, outer: Variables): readonly Variable[] {
  const found: Variable[] = [];
  const visit = (variable: Variable): void => {
    if (!own.has(variable) || outer.has(variable)) return;
    variable.uses++;
    found.push(variable);
  };
  const descend = (inner: Flat): void => {
    for (const { body, heads } of inner.closures) {
      for (const head of heads) visitOperand(head, visit, ignore);
      for (const statement of body.statements) {
        variablesOf(statement).forEach(visit);
        descend(statement);
      }
    }
  };
  descend(flat);
  return found;
}

/** The variables that a statement binds, given those that are bound before it; each once. */
function outputsOf(flat: Flat, safe: Variables): readonly Variable[] {
  const { op } = flat;
  if (flat.negated || op.kind === "every" || op.kind === "print") return NONE;
  const outputs: Variable[] = [];
  // A list for the usual few, a set for patterns of thousands.
  let many: Set<Variable> | undefined;
  const isOutput = (variable: Variable): boolean => {
    if (outputs.length <= FEW) return outputs.includes(variable);
    many ??= new Set(outputs);
    for (let at = many.size; at < outputs.length; at++) many.add(outputs[at]!);
    return many.has(variable);
  };
  const known = (variable: Variable): boolean => safe.has(variable) || isOutput(variable);
  if (op.kind === "call") {
    if (op.result === undefined || !op.args.every((argument) => isKnown(argument, known))) return NONE;
    bindPattern(op.result, known, outputs);
    return outputs;
  }
  for (const operand of operandsOf(op)) refOutputs(operand, known, outputs);
  if (op.kind !== "unify") return outputs;
  // Each side may bind what the other knows; twice, since one direction can enable the other.
  for (let round = 0; round < 2; round++) {
    if (isKnown(op.right, known)) bindPattern(op.left, known, outputs);
    if (isKnown(op.left, known)) bindPattern(op.right, known, outputs);
  }
  return outputs;
}

/** A reference whose base is known binds the variables in its steps by iteration. */
function refOutputs(operand: Operand, known: (variable: Variable) => boolean, outputs: Variable[]): void {
  if (operand.kind !== "ref") return;
  if (operand.base.kind === "var" && !known(operand.base.variable)) return;
  for (const step of operand.path) bindPattern(step, known, outputs);
}

/** Binds the free variables of a pattern: names, and names inside arrays and object values. */
function bindPattern(operand: Operand, known: (variable: Variable) => boolean, outputs: Variable[]): void {
  switch (operand.kind) {
    case "var":
      if (!known(operand.variable)) outputs.push(operand.variable);
      return;
    case "array":
      for (const item of operand.items) bindPattern(item, known, outputs);
      return;
    case "object":
      for (const [key, value] of operand.entries) if (isKnown(key, known)) bindPattern(value, known, outputs);
      return;
    default:
  }
}

/** True if every variable outside closures is bound. */
export function isKnown(operand: Operand, known: (variable: Variable) => boolean): boolean {
  switch (operand.kind) {
    case "const":
    case "comprehension":
      return true;
    case "var":
      return known(operand.variable);
    case "array":
    case "set":
      return operand.items.every((item) => isKnown(item, known));
    case "object":
      return operand.entries.every(([key, value]) => isKnown(key, known) && isKnown(value, known));
    case "ref":
      return (operand.base.kind !== "var" || known(operand.base.variable)) && operand.path.every((step) => isKnown(step, known));
  }
}
