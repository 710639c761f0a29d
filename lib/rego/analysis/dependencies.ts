import type { Diagnostics } from "../syntax/source.ts";
import { isPrimitive } from "../values/index.ts";
import type { Flat, RefOperand } from "./ir.ts";
import type { RuleGroup, RuleTree, TreeNode } from "./rule-tree.ts";

/** What a rule reads: other rules, or a whole branch of the tree of documents. */
type Dependency = RuleGroup | TreeNode;

function isGroup(dependency: Dependency): dependency is RuleGroup {
  return "index" in dependency;
}

/** Calls a function with every statement of a body, inner bodies included. */
export function visitStatements(statements: readonly Flat[], visit: (flat: Flat) => void): void {
  for (const flat of statements) {
    visit(flat);
    for (const { body } of flat.closures) visitStatements(body.statements, visit);
  }
}

/** The rules and branches of documents that a `data` reference may read. A step that is no constant may be any. */
function dependenciesOfRef(ref: RefOperand, node: TreeNode, at: number, found: Set<Dependency>): void {
  if (node.group !== undefined || at === ref.path.length) {
    found.add(node.group ?? node);
    return;
  }
  const step = ref.path[at]!;
  if (step.kind !== "const") {
    // Whatever is here may be read: the node stands for all of it, once for all who read it.
    if (at === ref.path.length - 1) {
      found.add(node);
      return;
    }
    for (const child of node.children.values()) dependenciesOfRef(ref, child, at + 1, found);
    return;
  }
  const child = isPrimitive(step.value) ? node.children.get(step.value) : undefined;
  if (child !== undefined) dependenciesOfRef(ref, child, at + 1, found);
}

function dependenciesOf(tree: RuleTree, group: RuleGroup): ReadonlySet<Dependency> {
  const found = new Set<Dependency>();
  const definitions = group.defaultDefinition === undefined ? group.definitions : [...group.definitions, group.defaultDefinition];
  for (const { clauses } of definitions) {
    for (const { reads } of clauses) {
      for (const read of reads) {
        if ("kind" in read && read.kind === "ref") dependenciesOfRef(read, tree.root, 0, found);
        else found.add(read as RuleGroup);
      }
    }
  }
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
