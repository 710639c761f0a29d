import type { Diagnostics, Source } from "../syntax/source.ts";
import type { Primitive } from "../values/index.ts";
import { isPrimitive } from "../values/index.ts";
import { BUILTIN_TYPES } from "./builtin-types.ts";
import type { FunctionType } from "./builtin-types.ts";
import type { Block, Callee, Comprehension, Flat, LoweredClause, Op, Operand, RefOperand, Variable } from "./ir.ts";
import { operandsOf, visitOperand } from "./ir.ts";
import type { RuleGroup, RuleTree, TreeNode } from "./rule-tree.ts";
import { isDocument } from "./rule-tree.ts";
import type { ArrayType, ObjectType, SetType, Type, TypeBudget, UnionType } from "./types.ts";
import {
  ANY,
  arrayOf,
  either,
  formatScalar,
  formatType,
  keysOf,
  mayEqual,
  objectOf,
  recordOf,
  select,
  setOf,
  sizeOf,
  STRING,
  tupleOf,
  typeOfConstant,
  typeOfPrimitive,
  valuesOf,
} from "./types.ts";

/** Types of rules and functions; a document has no operands. What is missing may be anything. */
export type RuleTypes = ReadonlyMap<RuleGroup, FunctionType>;

/** What `compile` needs of a type checker. */
export interface RegoTypeChecker {
  /** Checks all rules, and gives their types for the queries. */
  rules(tree: RuleTree, diagnostics: Diagnostics): RuleTypes;
  query(block: Block, tree: RuleTree, types: RuleTypes, diagnostics: Diagnostics): void;
}

/**
 * Work for one policy, in nodes of types looked at; real policies need some ten thousand. After that nothing more is
 * refused: what the checker does not see is undefined at run time, and that is no verdict in the policy's favour.
 */
const MAX_WORK = 2_000_000;

/** Type errors that are reported for one policy. */
const MAX_ERRORS = 50;

/** Keys of an object that a message lists. */
const MAX_KEYS = 8;

/** A step that is written with a dot. */
const NAME = /^[A-Za-z_][A-Za-z_0-9]{0,60}$/;

/** Operators in messages: the builtin's name is not what the author wrote. */
const INFIX: ReadonlyMap<string, string> = new Map([
  ["plus", "+"],
  ["minus", "-"],
  ["mul", "*"],
  ["div", "/"],
  ["rem", "%"],
  ["and", "&"],
  ["or", "|"],
]);

/**
 * Refuses expressions that can never have a value, as OPA's type checker does: operands of a wrong type, references to what
 * cannot be there, equality of what can never be equal. It goes over bodies in their safe order, rules before those that
 * read them. The first statement that touches a variable gives it its type; the parameters of a function get theirs like that
 * too. `input`, base documents and everything under a `with` that replaces data or functions may be anything.
 * @returns the types of the rules, for {@link checkBlockTypes}
 */
function checkTypes(tree: RuleTree, diagnostics: Diagnostics): RuleTypes {
  const types = new Map<RuleGroup, FunctionType>();
  const checker = new TypeChecker(tree, types, diagnostics);
  for (const group of dependencyOrder(tree)) {
    const type = checker.group(group);
    if (type !== undefined) types.set(group, type);
  }
  return types;
}

/** Checks a query against the types of the rules. */
function checkBlockTypes(block: Block, tree: RuleTree, types: RuleTypes, diagnostics: Diagnostics): void {
  new TypeChecker(tree, types, diagnostics).block(block, new Scope(), false);
}

/** The type checker as a value: a program that does not hand it to `compile` does not contain it. The guest agent's does not. */
export const TYPE_CHECKER: RegoTypeChecker = { rules: checkTypes, query: checkBlockTypes };

/** Groups, each after those that it reads. The walk keeps its own stack: a chain of rules is as long as its author likes. */
function dependencyOrder(tree: RuleTree): readonly RuleGroup[] {
  const order: RuleGroup[] = [];
  const seen = new Set<RuleGroup>();
  const stack: { readonly group: RuleGroup; readonly reads: Iterator<RuleGroup> }[] = [];
  const enter = (group: RuleGroup): void => {
    if (seen.has(group)) return;
    seen.add(group);
    stack.push({ group, reads: groupsReadBy(tree, group) });
  };
  for (const start of tree.groups) {
    enter(start);
    while (stack.length > 0) {
      const { group, reads } = stack.at(-1)!;
      const next = reads.next();
      if (next.done !== true) {
        enter(next.value);
        continue;
      }
      stack.pop();
      order.push(group);
    }
  }
  return order;
}

function* groupsReadBy(tree: RuleTree, group: RuleGroup): Generator<RuleGroup> {
  for (const { reads } of clausesOf(group)) {
    for (const read of reads) {
      if (read.kind !== "ref") {
        yield read;
        continue;
      }
      const { group: document } = descend(tree, read);
      if (document !== undefined) yield document;
    }
  }
}

function* clausesOf(group: RuleGroup): Generator<LoweredClause> {
  for (const { clauses } of group.definitions) yield* clauses;
  if (group.defaultDefinition !== undefined) yield* group.defaultDefinition.clauses;
}

/** Follows the constant steps of a `data` reference: to a group, or to the last branch that is there, and how many steps led to it. */
function descend(tree: RuleTree, ref: RefOperand): { readonly node: TreeNode; readonly group: RuleGroup | undefined; readonly steps: number } {
  let node = tree.root;
  let steps = 0;
  while (node.group === undefined) {
    const step = ref.path[steps];
    if (step?.kind !== "const" || !isPrimitive(step.value)) break;
    const child = node.children.get(step.value);
    if (child === undefined) break;
    node = child;
    steps++;
  }
  return { node, group: node.group, steps };
}

/** Types of variables. A body inside a statement sees those outside; what it learns of them stays inside. */
class Scope {
  readonly #outer: Scope | undefined;
  readonly #types = new Map<Variable, Type>();

  constructor(outer?: Scope) {
    this.#outer = outer;
  }

  get(variable: Variable): Type | undefined {
    return this.#types.get(variable) ?? this.#outer?.get(variable);
  }

  set(variable: Variable, type: Type): void {
    this.#types.set(variable, type);
  }
}

/** Where an operand stands. */
interface Site {
  readonly scope: Scope;
  readonly source: Source;
  readonly at: number;
  /** True if documents and functions may have been replaced. */
  readonly replaced: boolean;
}

class TypeChecker {
  readonly #tree: RuleTree;
  readonly #types: RuleTypes;
  readonly #diagnostics: Diagnostics;
  readonly #budget: TypeBudget = { left: MAX_WORK };
  /** Each comprehension is checked once, though its type may be asked for again. */
  readonly #comprehensions = new Map<Comprehension, Type>();
  #errors = 0;

  constructor(tree: RuleTree, types: RuleTypes, diagnostics: Diagnostics) {
    this.#tree = tree;
    this.#types = types;
    this.#diagnostics = diagnostics;
  }

  /** The type of a group; undefined if there is an error in it, so that what reads it is not refused for that. */
  group(group: RuleGroup): FunctionType | undefined {
    const before = this.#errors;
    const operands: (Type | undefined)[] = [];
    let result: Type | undefined;
    for (const clause of clausesOf(group)) {
      const scope = new Scope();
      this.block(clause.body, scope, false);
      const site: Site = { scope, source: clause.source, at: clause.at, replaced: false };
      for (const operand of [clause.value, ...clause.path]) this.#forget(operand, site);
      clause.parameters.forEach((parameter, at) => (operands[at] = this.#either(operands[at], scope.get(parameter) ?? ANY)));
      result = this.#either(result, this.#headType(clause, site));
    }
    return this.#errors > before ? undefined : { operands: operands.map((type) => type ?? ANY), result: result ?? ANY };
  }

  /** Checks the statements of a body in their order. */
  block(block: Block, scope: Scope, replaced: boolean): void {
    for (const flat of block.statements) {
      if (this.#stopped()) return;
      this.#statement(flat, siteOf(flat, scope, replaced));
    }
  }

  #stopped(): boolean {
    return this.#budget.left < 0 || this.#errors >= MAX_ERRORS;
  }

  #error(site: Site, at: number, message: string): void {
    this.#errors++;
    this.#diagnostics.add("ERR_REGO_TYPE", site.source, at, message);
  }

  #headType(clause: LoweredClause, site: Site): Type {
    const value = this.#typeOf(clause.value, site) ?? ANY;
    let type: Type = clause.isItem ? setOf(value) : value;
    for (const step of clause.path.toReversed()) type = objectOf(this.#typeOf(step, site) ?? ANY, type);
    return type;
  }

  #statement(flat: Flat, site: Site): void {
    for (const modifier of flat.modifiers) {
      // The values are computed outside the effect of the modifiers.
      if (modifier.value.kind !== "builtin" && modifier.value.kind !== "function") this.#typeOf(modifier.value, { ...site, replaced: false });
    }
    const { op } = flat;
    switch (op.kind) {
      case "test":
        this.#typeOf(op.operand, site);
        return;
      case "equal":
      case "unify":
        this.#equality(op, site);
        return;
      case "call":
        this.#call(op, flat, site);
        return;
      case "every":
        this.#every(op, site);
        return;
      // What is printed need not be there.
      case "print":
    }
  }

  #equality({ left, right }: { readonly left: Operand; readonly right: Operand }, site: Site): void {
    const before = this.#errors;
    const leftType = this.#typeOf(left, site);
    const rightType = this.#typeOf(right, site);
    if (this.#errors === before && this.#unify(left, leftType, right, rightType, site)) return;
    this.#forget(left, site);
    this.#forget(right, site);
    if (this.#errors > before) return;
    const sides =
      leftType !== undefined && rightType !== undefined
        ? `the left side is ${formatType(leftType)}, the right side ${formatType(rightType)}`
        : `the pattern has another shape than ${formatType(leftType ?? rightType ?? ANY)}`;
    this.#error(site, site.at, `match error: ${sides}; they can never be equal`);
  }

  #unify(left: Operand, leftType: Type | undefined, right: Operand, rightType: Type | undefined, site: Site): boolean {
    if (leftType !== undefined && rightType !== undefined) return mayEqual(leftType, rightType, this.#budget);
    if (rightType !== undefined) return this.#assign(left, rightType, site, false);
    if (leftType !== undefined) return this.#assign(right, leftType, site, false);
    // Neither is known. The pattern of a parameter gives it its outline; its name cannot be written in a policy.
    this.#forget(right, site);
    if (left.kind === "var" && left.variable.name.startsWith("$")) return this.#assign(left, this.#typeOf(right, site) ?? ANY, site, false);
    this.#forget(left, site);
    return true;
  }

  /**
   * Gives a type to an operand: variables without one get theirs, what has one must fit.
   * @param wider true where the type is one of several: variables then get all of these
   */
  #assign(operand: Operand, type: Type, site: Site, wider: boolean): boolean {
    if (--this.#budget.left < 0) return true;
    switch (operand.kind) {
      case "var": {
        const known = site.scope.get(operand.variable);
        if (known !== undefined && !wider) return mayEqual(known, type, this.#budget);
        site.scope.set(operand.variable, this.#either(known, type));
        return true;
      }
      case "array":
        return this.#assignParts(operand, type, site, wider, "array", (array: ArrayType, inUnion) => {
          if (array.rest === undefined && array.items.length !== operand.items.length) return false;
          return operand.items.every((item, at) => this.#assignOptional(item, array.items[at] ?? array.rest, site, inUnion));
        });
      case "object":
        return this.#assignParts(operand, type, site, wider, "object", (object: ObjectType, inUnion) => {
          if (object.rest === undefined && object.members.size !== operand.entries.length) return false;
          return operand.entries.every(([key, value]) => {
            if (key.kind !== "const" || !isPrimitive(key.value)) return this.#assign(value, ANY, site, true);
            return this.#assignOptional(value, select(object, key.value), site, inUnion);
          });
        });
      case "set":
        return this.#assignParts(operand, type, site, wider, "set", (set: SetType, inUnion) =>
          operand.items.every((item) => this.#assign(item, set.item, site, inUnion)),
        );
      default:
        return mayEqual(this.#typeOf(operand, site) ?? ANY, type, this.#budget);
    }
  }

  #assignOptional(operand: Operand, type: Type | undefined, site: Site, wider: boolean): boolean {
    return type !== undefined && this.#assign(operand, type, site, wider);
  }

  #assignParts<T extends ArrayType | ObjectType | SetType>(
    operand: Operand,
    type: Type,
    site: Site,
    wider: boolean,
    kind: T["kind"],
    assign: (type: T, wider: boolean) => boolean,
  ): boolean {
    if (type.kind === "any") {
      this.#widen(operand, site);
      return true;
    }
    if (type.kind !== "union") return type.kind === kind && assign(type as T, wider);
    let fits = false;
    // All that fit count: each may be what the variables in the operand get.
    for (const alternative of (type as UnionType).types) if (alternative.kind === kind && assign(alternative as T, true)) fits = true;
    return fits;
  }

  /** Every variable of an operand may be anything from here on. */
  #widen(operand: Operand, site: Site): void {
    visitOperand(
      operand,
      (variable) => site.scope.set(variable, ANY),
      () => undefined,
    );
  }

  /** Variables without a type may be anything. */
  #forget(operand: Operand, site: Site): void {
    visitOperand(
      operand,
      (variable) => {
        if (site.scope.get(variable) === undefined) site.scope.set(variable, ANY);
      },
      () => undefined,
    );
  }

  #call(op: Op & { kind: "call" }, flat: Flat, site: Site): void {
    const { callee, args, result } = op;
    const before = this.#errors;
    for (const argument of args) this.#typeOf(argument, site);
    const type = this.#functionType(callee, flat, site);
    if (this.#errors === before && type !== undefined) this.#checkCall(callee, type, op, site);
    // After an error the call may give anything; an unknown function takes and gives anything.
    for (const argument of args) this.#forget(argument, site);
    if (result !== undefined) this.#forget(result, site);
  }

  #checkCall(callee: Callee, type: FunctionType, { args, result }: Op & { kind: "call" }, site: Site): void {
    const name = nameOf(callee);
    for (const [at, argument] of args.entries()) {
      const expected = type.operands[at] ?? ANY;
      if (this.#assign(argument, expected, site, false)) continue;
      const found = this.#typeOf(argument, site);
      const hint = callee.kind === "builtin" ? hintFor(callee.name, at, found?.kind) : undefined;
      this.#error(
        site,
        site.at,
        `${name}: operand ${at + 1} is ${found === undefined ? "of another shape" : formatType(found)}, expected ${formatType(expected)}${hint === undefined ? "" : ` (${hint})`}`,
      );
      return;
    }
    if (result === undefined || this.#assign(result, type.result, site, false)) return;
    const wanted = this.#typeOf(result, site);
    this.#error(
      site,
      site.at,
      `match error: the result of ${name} is ${formatType(type.result)}${wanted === undefined ? ", which cannot have this shape" : ` and can never be ${formatType(wanted)}`}`,
    );
  }

  /** The type of what is called; undefined if nothing is known. */
  #functionType(callee: Callee, flat: Flat, site: Site): FunctionType | undefined {
    if (callee.kind === "function") return site.replaced ? undefined : this.#types.get(callee.group);
    const mocked = flat.modifiers.some((modifier) => modifier.kind === "callee" && modifier.name === callee.name);
    return mocked ? undefined : BUILTIN_TYPES.get(callee.name);
  }

  /** As in OPA, the statements of an `every` are not checked, only the references and comprehensions in them. */
  #every({ domain, body }: Op & { kind: "every" }, site: Site): void {
    this.#typeOf(domain, site);
    this.#forget(domain, site);
    this.#references(body, new Scope(site.scope), site.replaced);
  }

  #references(block: Block, scope: Scope, replaced: boolean): void {
    for (const flat of block.statements) {
      if (this.#stopped()) return;
      const site = siteOf(flat, scope, replaced);
      for (const operand of operandsOf(flat.op)) this.#typeOf(operand, site);
      if (flat.op.kind === "every") this.#references(flat.op.body, new Scope(scope), site.replaced);
    }
  }

  // Types of operands

  /** The type of an operand; undefined if a variable in it has none. References and bodies in it are checked. */
  #typeOf(operand: Operand, site: Site): Type | undefined {
    switch (operand.kind) {
      case "const":
        return typeOfConstant(operand.value);
      case "var":
        return site.scope.get(operand.variable);
      case "array": {
        const items = operand.items.map((item) => this.#typeOf(item, site));
        return items.includes(undefined) ? undefined : tupleOf(items as readonly Type[]);
      }
      case "set": {
        let union: Type | undefined;
        let known = true;
        for (const item of operand.items) {
          const type = this.#typeOf(item, site);
          if (type === undefined) known = false;
          else union = this.#either(union, type);
        }
        return known ? setOf(union ?? ANY) : undefined;
      }
      case "object":
        return this.#objectType(operand, site);
      case "ref":
        return this.#refType(operand, site);
      case "comprehension":
        return this.#comprehensionType(operand, site);
    }
  }

  #objectType({ entries }: Operand & { kind: "object" }, site: Site): Type | undefined {
    const members = new Map<Primitive, Type>();
    let rest: { readonly key: Type; readonly value: Type } | undefined;
    let known = true;
    for (const [key, value] of entries) {
      const keyType = this.#typeOf(key, site);
      const valueType = this.#typeOf(value, site);
      if (keyType === undefined || valueType === undefined) known = false;
      else if (key.kind === "const" && isPrimitive(key.value)) members.set(key.value, valueType);
      else rest = { key: this.#either(rest?.key, keyType), value: this.#either(rest?.value, valueType) };
    }
    return known ? recordOf(members, rest) : undefined;
  }

  #comprehensionType(comprehension: Comprehension, site: Site): Type {
    const known = this.#comprehensions.get(comprehension);
    if (known !== undefined) return known;
    const scope = new Scope(site.scope);
    const inner = { ...site, scope };
    this.block(comprehension.body, scope, site.replaced);
    const value = this.#typeOf(comprehension.value, inner) ?? ANY;
    const key = comprehension.key === undefined ? ANY : (this.#typeOf(comprehension.key, inner) ?? ANY);
    const type = comprehension.type === "object" ? objectOf(key, value) : comprehension.type === "set" ? setOf(value) : arrayOf(value);
    this.#comprehensions.set(comprehension, type);
    return type;
  }

  #refType(ref: RefOperand, site: Site): Type {
    const type = this.#baseType(ref, site);
    if (type === undefined) {
      // After an error, and under what may be anything, a step may be anything.
      for (const step of ref.path) this.#forget(step, site);
      return ANY;
    }
    return this.#steps(ref, type.type, type.steps, site);
  }

  /** The type that the first steps of a reference lead to; undefined if it may be anything. */
  #baseType(ref: RefOperand, site: Site): { readonly type: Type; readonly steps: number } | undefined {
    if (ref.base.kind === "var") {
      const type = site.scope.get(ref.base.variable);
      if (type === undefined) site.scope.set(ref.base.variable, ANY);
      return type === undefined ? undefined : { type, steps: 0 };
    }
    if (ref.base.kind === "input" || site.replaced) return undefined;
    const { node, group, steps } = descend(this.#tree, ref);
    if (group === undefined) {
      const step = ref.path[steps];
      if (step?.kind === "var") this.#stepIntoBranch(ref, node, steps, step.variable, site);
      return undefined;
    }
    if (!isDocument(group)) {
      this.#error(site, ref.at, `${group.name} is a function; it must be called`);
      return undefined;
    }
    const type = this.#types.get(group)?.result;
    return type === undefined ? undefined : { type, steps };
  }

  /** Packages have names for keys, whatever base documents stand beside them. */
  #stepIntoBranch(ref: RefOperand, node: TreeNode, at: number, variable: Variable, site: Site): void {
    let keys: Type = STRING;
    for (const key of node.children.keys()) keys = either(keys, typeOfPrimitive(key));
    this.#step(ref, at, { kind: "var", variable }, keys, site);
  }

  /** Follows the steps of a reference from a type, and gives types to the variables in them. */
  #steps(ref: RefOperand, start: Type, from: number, site: Site): Type {
    let type = start;
    for (let at = from; at < ref.path.length; at++) {
      if (type.kind === "any" || this.#stopped()) {
        for (const step of ref.path.slice(at)) this.#forget(step, site);
        return ANY;
      }
      const next = this.#stepType(ref, at, type, site);
      if (next === undefined) {
        for (const step of ref.path.slice(at)) this.#forget(step, site);
        return ANY;
      }
      type = next;
    }
    return type;
  }

  /** The type after one step; undefined after an error. */
  #stepType(ref: RefOperand, at: number, type: Type, site: Site): Type | undefined {
    const step = ref.path[at]!;
    this.#budget.left -= sizeOf(type);
    const keys = keysOf(type);
    if (keys === undefined) {
      this.#error(site, ref.at, `undefined ref ${textOf(ref, at + 1)}: ${textOf(ref, at)} is ${formatType(type)}, which has nothing inside`);
      return undefined;
    }
    if (step.kind === "const" && isPrimitive(step.value)) {
      const found = select(type, step.value);
      if (found === undefined) this.#error(site, ref.at, `undefined ref ${textOf(ref, at + 1)}: ${noSuchKey(type, step.value)}`);
      return found;
    }
    return this.#step(ref, at, step, keys, site) ? (valuesOf(type) ?? ANY) : undefined;
  }

  /** A step that is no constant: what it is must fit the keys. */
  #step(ref: RefOperand, at: number, step: Operand, keys: Type, site: Site): boolean {
    if (this.#assign(step, keys, site, false)) return true;
    const found = this.#typeOf(step, site);
    this.#error(
      site,
      ref.at,
      `undefined ref ${textOf(ref, at + 1)}: the key is ${found === undefined ? "of another shape" : formatType(found)}, expected ${formatType(keys)}`,
    );
    return false;
  }

  #either(left: Type | undefined, right: Type): Type {
    this.#budget.left -= (left === undefined ? 0 : sizeOf(left)) + sizeOf(right);
    return either(left, right);
  }
}

function siteOf(flat: Flat, scope: Scope, replaced: boolean): Site {
  return { scope, source: flat.source, at: flat.at, replaced: replaced || flat.modifiers.some((modifier) => modifier.kind !== "input") };
}

function nameOf(callee: Callee): string {
  if (callee.kind === "function") return callee.group.name;
  const sign = INFIX.get(callee.name);
  return sign === undefined ? callee.name : `${callee.name} (${sign})`;
}

/** What the author may have meant. */
function hintFor(name: string, at: number, found: Type["kind"] | undefined): string | undefined {
  switch (name) {
    case "plus":
      if (found === "string") return "strings are joined by concat or sprintf";
      if (found === "array") return "arrays are joined by array.concat";
      return found === "set" ? "sets are joined by |" : undefined;
    case "and":
      return "& is the intersection of sets; statements of a body hold together without it";
    case "or":
      return "| is the union of sets; alternatives are rules of one name";
    case "concat":
      if (at === 0) return found === "array" || found === "set" ? "the delimiter comes first" : undefined;
      return found === "array" || found === "set" ? "sprintf makes strings of other values" : undefined;
    case "sprintf":
      return at === 1 ? 'the values stand in an array, as in sprintf("%v", [x])' : undefined;
    default:
      return undefined;
  }
}

/** A reference as it is written, up to a number of steps. */
function textOf(ref: RefOperand, steps: number): string {
  let text = ref.base.kind === "var" ? nameOfVariable(ref.base.variable) : ref.base.kind;
  for (const step of ref.path.slice(0, steps)) {
    if (step.kind === "var") text += `[${nameOfVariable(step.variable)}]`;
    else if (step.kind !== "const" || !isPrimitive(step.value)) text += "[...]";
    else if (typeof step.value === "string" && NAME.test(step.value)) text += `.${step.value}`;
    else text += `[${formatScalar(step.value)}]`;
  }
  return text;
}

/** The lowering's own variables have no name, the text of a reference, or one that starts with `$`. */
function nameOfVariable({ name }: Variable): string {
  return name === "" || name.startsWith("$") ? "(...)" : name;
}

function noSuchKey(type: Type, key: Primitive): string {
  const shown = formatScalar(key);
  if (type.kind === "array") {
    if (typeof key !== "number" || !Number.isInteger(key)) return `the key ${shown} is no index; arrays are indexed by numbers from 0`;
    return key < 0 ? `the index ${shown} is negative; arrays are indexed from 0` : `the array has the indices 0 to ${type.items.length - 1}`;
  }
  if (type.kind === "object" && type.rest === undefined) {
    const keys = [...type.members.keys()];
    const more = keys.length > MAX_KEYS ? `, and ${keys.length - MAX_KEYS} more` : "";
    return `the object has no key ${shown}, only ${keys.slice(0, MAX_KEYS).map(formatScalar).join(", ")}${more}`;
  }
  return `${formatType(type)} has no key ${shown}`;
}
