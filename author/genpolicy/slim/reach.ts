import type { Module, Rule } from "@sealpod/rego";
import { withParts, withRules } from "./rewrite.ts";
import { visitRule } from "./tree.ts";

/** Which rules mention which. */
export class RuleGraph {
  readonly names: ReadonlySet<string>;
  readonly #mentions = new Map<string, Set<string>>();

  constructor({ rules }: Module) {
    this.names = new Set(rules.map(({ head }) => head.name));
    for (const name of this.names) this.#mentions.set(name, new Set());
    for (const rule of rules) {
      const found = this.#mentions.get(rule.head.name);
      visitRule(rule, {
        term: (term) => {
          const name = term.kind === "var" ? term.name : term.kind === "call" && term.operator === undefined ? term.name[0] : undefined;
          if (name !== undefined && this.names.has(name)) found?.add(name);
        },
      });
    }
  }

  /** Rules that these mention, and what those mention, and these themselves. */
  reachedFrom(names: Iterable<string>): ReadonlySet<string> {
    const found = new Set(names);
    // Grows while it is walked.
    for (const name of found) for (const other of this.#mentions.get(name) ?? []) found.add(other);
    return found;
  }

  /** These rules, those that mention them, and who mentions those. */
  leadingTo(names: Iterable<string>): ReadonlySet<string> {
    const callers = new Map<string, string[]>();
    for (const [name, mentioned] of this.#mentions) {
      for (const other of mentioned) {
        const known = callers.get(other);
        if (known === undefined) callers.set(other, [name]);
        else known.push(name);
      }
    }
    const found = new Set(names);
    for (const name of found) for (const caller of callers.get(name) ?? []) found.add(caller);
    return found;
  }

  /** A rule that leads to itself, which the language forbids. */
  recursive(): string | undefined {
    const done = new Set<string>();
    const open = new Set<string>();
    const visit = (name: string): string | undefined => {
      if (open.has(name)) return name;
      if (done.has(name)) return undefined;
      open.add(name);
      for (const other of this.#mentions.get(name) ?? []) {
        const found = visit(other);
        if (found !== undefined) return found;
      }
      open.delete(name);
      done.add(name);
      return undefined;
    };
    for (const name of this.names) {
      const found = visit(name);
      if (found !== undefined) return found;
    }
    return undefined;
  }
}

/** Drops the rules that no root leads to. */
export function dropUnreachable(module: Module, roots: ReadonlySet<string>): Module {
  const graph = new RuleGraph(module);
  const live = graph.reachedFrom([...roots].filter((name) => graph.names.has(name)));
  return withRules(
    module,
    module.rules.filter(({ head }) => live.has(head.name)),
  );
}

/** `default x := v` of a rule with one more definition is an `else` branch of that, and that is shorter. */
export function defaultsAsElse(module: Module): Module {
  const groups = Map.groupBy(module.rules, ({ head }) => head.name);
  const isPlain = ({ head }: Rule): boolean => head.parameters === undefined && head.path.length === 0 && head.item === undefined;
  const rules = module.rules.flatMap((rule) => {
    const group = groups.get(rule.head.name) ?? [];
    const clause = group.find(({ isDefault }) => isDefault)?.clauses[0];
    // Without a condition in front there is no branch, nor a need for it.
    const isBranch = group.every((other) => isPlain(other) && (other.isDefault || other.clauses.every(({ body }) => body.length > 0)));
    if (group.length !== 2 || clause === undefined || !isBranch) return [rule];
    return rule.isDefault ? [] : [{ ...rule, clauses: [...rule.clauses, clause] }];
  });
  return withRules(module, rules);
}

/** `default x := v` of a rule without any other definition is the rule `x := v`, and that is shorter. */
export function plainDefaults(module: Module): Module {
  const groups = Map.groupBy(module.rules, ({ head }) => head.name);
  const isOnly = ({ isDefault, head }: Rule): boolean => isDefault && head.parameters === undefined && groups.get(head.name)?.length === 1;
  return withRules(
    module,
    module.rules.map((rule) => (isOnly(rule) ? withParts(rule, { isDefault: false }) : rule)),
  );
}
