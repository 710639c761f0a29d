import type { Diagnostics } from "../syntax/source.ts";
import { isPrimitive } from "../values/index.ts";
import type { Flat, Operand, RefOperand } from "./ir.ts";
import { closuresOf, operandsOf } from "./ir.ts";
import type { RuleGroup, RuleTree, TreeNode } from "./rule-tree.ts";

/** What a rule reads: other rules, or a whole branch of the tree of documents. */
type Dependency = RuleGroup | TreeNode;

function isGroup(dependency: Dependency): dependency is RuleGroup {
  return "index" in dependency;
}

/** Calls a function with every statement of a body, inner bodies included, and every operand outside closures of each. */
export function visitStatements(statements: readonly Flat[], visit: (flat: Flat) => void): void {
  for (const flat of statements) {
    visit(flat);
    for (const { body } of closuresOf(flat)) visitStatements(body.statements, visit);
  }
}

/** Every reference of a statement, those in steps of references included; closures are visited through their statements. */
function refsOf(flat: Flat): RefOperand[] {
  const refs: RefOperand[] = [];
  const visit = (operand: Operand): void => {
    switch (operand.kind) {
      case "ref":
        refs.push(operand);
        operand.path.forEach(visit);
        return;
      case "array":
      case "set":
        operand.items.forEach(visit);
        return;
      case "object":
        for (const [key, value] of operand.entries) {
          visit(key);
          visit(value);
        }
        return;
      default:
    }
  };
  operandsOf(flat.op).forEach(visit);
  return refs;
}

/** The rules and branches of documents that a `data` reference may read. A step that is no constant may be any. */
function dependenciesOfRef(ref: RefOperand, node: TreeNode, at: number, found: Set<Dependency>): void {
  if (node.group !== undefined || at === ref.path.length) {
    found.add(node.group ?? node);
    return;
  }
  const step = ref.path[at]!;
  if (step.kind !== "const") {
    for (const child of node.children.values()) dependenciesOfRef(ref, child, at + 1, found);
    return;
  }
  const child = isPrimitive(step.value) ? node.children.get(step.value) : undefined;
  if (child !== undefined) dependenciesOfRef(ref, child, at + 1, found);
}

function dependenciesOf(tree: RuleTree, group: RuleGroup): ReadonlySet<Dependency> {
  const found = new Set<Dependency>();
  const visit = (flat: Flat): void => {
    if (flat.op.kind === "call" && flat.op.callee.kind === "function") found.add(flat.op.callee.group);
    for (const ref of refsOf(flat)) {
      if (ref.base.kind === "data") dependenciesOfRef(ref, tree.root, 0, found);
    }
    for (const modifier of flat.modifiers) if (modifier.kind === "callee" && modifier.value.kind === "function") found.add(modifier.value.group);
  };
  const definitions = group.defaultDefinition === undefined ? group.definitions : [...group.definitions, group.defaultDefinition];
  for (const { clauses } of definitions) for (const clause of clauses) visitStatements(clause.body.statements, visit);
  return found;
}

/**
 * Refuses rules that depend on themselves. The walk keeps its own stack: a chain of rules is as long as its author likes.
 * @param allowFunctions lets functions call themselves; the limit on call depth bounds them then
 */
export function refuseRecursion(tree: RuleTree, diagnostics: Diagnostics, allowFunctions: boolean): void {
  const state = new Map<Dependency, "open" | "done">();
  const next = (dependency: Dependency): Iterator<Dependency> => {
    if (isGroup(dependency)) return dependenciesOf(tree, dependency).values();
    return dependency.group === undefined ? dependency.children.values() : [dependency.group].values();
  };
  for (const start of tree.groups) {
    if (state.has(start)) continue;
    const stack: { readonly at: Dependency; readonly rest: Iterator<Dependency> }[] = [{ at: start, rest: next(start) }];
    state.set(start, "open");
    while (stack.length > 0) {
      const step = stack.at(-1)!.rest.next();
      if (step.done === true) {
        state.set(stack.pop()!.at, "done");
        continue;
      }
      const known = state.get(step.value);
      if (known === "done") continue;
      if (known === undefined) {
        state.set(step.value, "open");
        stack.push({ at: step.value, rest: next(step.value) });
        continue;
      }
      const from = stack.findIndex((entry) => entry.at === step.value);
      const cycle = stack
        .slice(from)
        .map((entry) => entry.at)
        .filter(isGroup);
      if (allowFunctions && cycle.every((group) => group.kind === "function")) continue;
      const first = cycle[0]!;
      const { rule, module } = first.rules[0] ?? first.defaultRule!;
      const names = cycle.slice(0, 10).map((group) => group.name);
      diagnostics.add("ERR_REGO_RECURSION", module.source, rule.at, `rule ${first.name} is recursive: ${[...names, first.name].join(" -> ")}`);
    }
  }
}
