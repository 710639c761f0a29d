import type { Module, Rule } from "../syntax/ast.ts";
import { constantOf as constantOfTerm } from "../syntax/parser.ts";
import type { Diagnostics, Source } from "../syntax/source.ts";
import type { Primitive, Value } from "../values/index.ts";
import { formatValue, isPrimitive } from "../values/index.ts";
import type { Definition } from "./ir.ts";

/** What rules of one name define together. */
export type GroupKind = "complete" | "function" | "set" | "object";

/** All rules that define one document, or one function. */
export interface RuleGroup {
  readonly index: number;
  readonly path: readonly Primitive[];
  readonly name: string;
  readonly kind: GroupKind;
  /** Number of parameters of a function. */
  readonly arity: number;
  /** The rules as parsed, each with its module; `suffix` counts the head steps below {@link path}. */
  readonly rules: readonly SourceRule[];
  readonly defaultRule: SourceRule | undefined;
  /** Filled in by the lowering. */
  definitions: readonly Definition[];
  defaultDefinition: Definition | undefined;
}

/** True if a group defines a document. A function without parameters is one too: `f()` and `f` mean the same, as in OPA. */
export function isDocument(group: RuleGroup): boolean {
  return group.kind !== "function" || group.arity === 0;
}

/** The value of a rule that is a constant without conditions: most of a generated policy. */
export function constantOf(group: RuleGroup): Value | undefined {
  const clause = group.definitions[0]?.clauses[0];
  if (group.kind !== "complete" || group.definitions.length !== 1 || clause === undefined) return undefined;
  return clause.body.statements.length === 0 && clause.value.kind === "const" ? clause.value.value : undefined;
}

export interface SourceRule {
  readonly rule: Rule;
  readonly module: Module;
  /** How many steps of the head are part of the group's path. */
  readonly fixedSteps: number;
}

/** A node of the tree of virtual documents: packages above, rule groups below. */
export interface TreeNode {
  readonly children: Map<Primitive, TreeNode>;
  group: RuleGroup | undefined;
}

/** `data.a.b`, with brackets where a step is no name. */
export function formatPath(path: readonly Value[]): string {
  let text = "data";
  for (const step of path) text += typeof step === "string" && isName(step) ? `.${step}` : `[${formatValue(step)}]`;
  return text;
}

function isName(text: string): boolean {
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    const letter = (unit >= 0x61 && unit <= 0x7a) || (unit >= 0x41 && unit <= 0x5a) || unit === 0x5f;
    if (!letter && (at === 0 || unit < 0x30 || unit > 0x39)) return false;
  }
  return text.length > 0;
}

interface Draft {
  readonly children: Map<Primitive, Draft>;
  readonly rules: { readonly source: SourceRule; readonly dynamic: boolean }[];
  packageOf: Source | undefined;
}

const newDraft = (): Draft => ({ children: new Map(), rules: [], packageOf: undefined });

/** The tree of all rules of all modules, checked for rules that do not go together. */
export class RuleTree {
  readonly root: TreeNode = { children: new Map(), group: undefined };
  readonly groups: RuleGroup[] = [];
  readonly #diagnostics: Diagnostics;

  constructor(modules: readonly Module[], diagnostics: Diagnostics) {
    this.#diagnostics = diagnostics;
    const draft = newDraft();
    for (const module of modules) {
      let node = draft;
      for (const step of module.packagePath) node = descend(node, step);
      node.packageOf ??= module.source;
      for (const rule of module.rules) place(node, module, rule);
    }
    this.#build(draft, this.root, []);
  }

  /** The node at a path, or undefined. */
  find(path: readonly Value[]): TreeNode | undefined {
    let node: TreeNode | undefined = this.root;
    for (const step of path) {
      if (node === undefined || !isPrimitive(step)) return undefined;
      node = node.children.get(step);
    }
    return node;
  }

  #build(draft: Draft, node: TreeNode, path: readonly Primitive[]): void {
    if (draft.rules.length > 0) {
      if (this.#needsObject(draft)) {
        const rules: SourceRule[] = [];
        gather(draft, rules);
        if (this.#checkObject(draft, rules, path)) node.group = this.#group("object", path, rules);
        return;
      }
      if (draft.children.size > 0) this.#refuseChildren(draft, path);
      node.group = this.#leaf(draft, path);
      return;
    }
    for (const [step, child] of draft.children) {
      const inner: TreeNode = { children: new Map(), group: undefined };
      node.children.set(step, inner);
      this.#build(child, inner, [...path, step]);
    }
  }

  /** A rule with a variable in its head below this node makes everything from here on one object. */
  #needsObject(draft: Draft): boolean {
    return draft.rules.some((entry) => entry.dynamic);
  }

  #checkObject(draft: Draft, rules: readonly SourceRule[], path: readonly Primitive[]): boolean {
    let ok = true;
    for (const { source, dynamic } of draft.rules) {
      if (dynamic) continue;
      // A rule for the whole document beside rules for its members. An empty default object is no help either.
      this.#diagnostics.add(
        "ERR_REGO_TYPE",
        source.module.source,
        source.rule.at,
        `conflicting rules ${formatPath(path)} found: some define it, others its members`,
      );
      ok = false;
    }
    for (const { rule, module, fixedSteps } of rules) {
      const problem =
        rule.head.parameters !== undefined
          ? `function ${rule.head.name} stands below rules with variables in their heads`
          : module.packagePath.length >= path.length
            ? `package ${formatPath(module.packagePath)} stands at or below ${formatPath(path)}, which is defined by rules with variables in their heads`
            : rule.clauses.length > 1 && fixedSteps < rule.head.path.length
              ? "else keyword cannot be used on partial rules: the head has a variable"
              : undefined;
      if (problem === undefined) continue;
      this.#diagnostics.add("ERR_REGO_TYPE", module.source, rule.at, problem);
      ok = false;
    }
    return ok;
  }

  #refuseChildren(draft: Draft, path: readonly Primitive[]): void {
    const rules: SourceRule[] = [];
    for (const child of draft.children.values()) gather(child, rules);
    const first = draft.rules[0]!.source;
    const inner = rules[0];
    if (inner === undefined) {
      const source = findPackage(draft);
      this.#diagnostics.add(
        "ERR_REGO_TYPE",
        first.module.source,
        first.rule.at,
        `rule ${formatPath(path)} conflicts with a package below it${source === undefined ? "" : ` in ${source.name}`}`,
      );
      return;
    }
    this.#diagnostics.add(
      "ERR_REGO_TYPE",
      first.module.source,
      first.rule.at,
      `rule ${formatPath(path)} conflicts with ${inner.module.source.name}:${inner.module.source.lineOf(inner.rule.at)}, which defines something below it`,
    );
  }

  #leaf(draft: Draft, path: readonly Primitive[]): RuleGroup {
    const rules = draft.rules.map((entry) => entry.source);
    const kinds = new Set(rules.map(kindOf));
    const first = rules[0]!;
    const kind = kindOf(first);
    const at = (entry: SourceRule): string => `${entry.module.source.name}:${entry.module.source.lineOf(entry.rule.at)}`;
    const odd = rules.find((entry) => kindOf(entry) !== kind || entry.rule.head.parameters?.length !== first.rule.head.parameters?.length);
    if (odd !== undefined) {
      const why = kinds.size === 1 ? "they differ in the number of parameters" : "they are of different kinds";
      this.#diagnostics.add(
        "ERR_REGO_TYPE",
        odd.module.source,
        odd.rule.at,
        `conflicting rules ${formatPath(path)} found at ${at(first)} and ${at(odd)}: ${why}`,
      );
    }
    const defaults = rules.filter((entry) => entry.rule.isDefault);
    const second = defaults[1];
    if (second !== undefined) {
      this.#diagnostics.add(
        "ERR_REGO_TYPE",
        second.module.source,
        second.rule.at,
        `multiple default rules ${formatPath(path)} found at ${at(defaults[0]!)} and ${at(second)}`,
      );
    }
    if (draft.packageOf !== undefined) {
      this.#diagnostics.add(
        "ERR_REGO_TYPE",
        first.module.source,
        first.rule.at,
        `rule ${formatPath(path)} conflicts with the package of that name in ${draft.packageOf.name}`,
      );
    }
    return this.#group(kind, path, rules);
  }

  #group(kind: GroupKind, path: readonly Primitive[], rules: readonly SourceRule[]): RuleGroup {
    const group: RuleGroup = {
      index: this.groups.length,
      path,
      name: formatPath(path),
      kind,
      arity: rules[0]!.rule.head.parameters?.length ?? 0,
      rules: rules
        .filter((entry) => !entry.rule.isDefault || kind === "object")
        .map((entry) => ({ ...entry, fixedSteps: path.length - entry.module.packagePath.length - 1 })),
      defaultRule: kind === "object" ? undefined : rules.find((entry) => entry.rule.isDefault),
      definitions: [],
      defaultDefinition: undefined,
    };
    this.groups.push(group);
    return group;
  }
}

function kindOf(entry: SourceRule): GroupKind {
  if (entry.rule.head.parameters !== undefined) return "function";
  return entry.rule.head.item === undefined ? "complete" : "set";
}

function descend(node: Draft, step: Primitive): Draft {
  let child = node.children.get(step);
  if (child === undefined) {
    child = newDraft();
    node.children.set(step, child);
  }
  return child;
}

/** Puts a rule at the longest constant prefix of its head. */
function place(packageNode: Draft, module: Module, rule: Rule): void {
  let node = descend(packageNode, rule.head.name);
  let fixedSteps = 0;
  for (const step of rule.head.path) {
    const value = constantOfTerm(step);
    if (value === undefined || !isPrimitive(value)) break;
    node = descend(node, value);
    fixedSteps++;
  }
  node.rules.push({ source: { rule, module, fixedSteps }, dynamic: fixedSteps < rule.head.path.length });
}

function gather(draft: Draft, rules: SourceRule[]): void {
  for (const entry of draft.rules) rules.push(entry.source);
  for (const child of draft.children.values()) gather(child, rules);
}

function findPackage(draft: Draft): Source | undefined {
  for (const child of draft.children.values()) {
    const found = child.packageOf ?? findPackage(child);
    if (found !== undefined) return found;
  }
  return undefined;
}
