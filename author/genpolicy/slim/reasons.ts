import type { Module, Term } from "@sealpod/rego";
import { RuleGraph } from "./reach.ts";
import { type Rewriter, rewriteRule, withRules } from "./rewrite.ts";
import { visitRule } from "./tree.ts";

/** The rules that print, themselves or by what they call. */
export function printingRules(module: Module): ReadonlySet<string> {
  const printing = new Set<string>();
  for (const rule of module.rules) visitRule(rule, { term: (term) => void (isPrint(term) && printing.add(rule.head.name)) });
  return printing.size === 0 ? printing : new RuleGraph(module).leadingTo(printing);
}

/** The module without its prints. A print always holds, so no verdict changes. */
export function dropPrints(module: Module): Module {
  const by: Rewriter = { statement: (statement) => (statement.expression.kind === "term" && isPrint(statement.expression.term) ? [] : [statement]) };
  return withRules(
    module,
    module.rules.map((rule) => rewriteRule(rule, by)),
  );
}

export function isPrint(term: Term): boolean {
  return term.kind === "call" && term.operator === undefined && term.name.length === 1 && term.name[0] === "print";
}

/** The rules whose value nobody looks at: all mentions are conditions, for which false and undefined are the same. */
export function conditionRules(module: Module, roots: ReadonlySet<string>): ReadonlySet<string> {
  const mentioned = new Map<string, number>();
  const conditions = new Map<string, number>();
  const count = (map: Map<string, number>, name: string | undefined): void => void (name !== undefined && map.set(name, (map.get(name) ?? 0) + 1));
  for (const rule of module.rules) {
    visitRule(rule, {
      term: (term) => count(mentioned, nameOf(term)),
      statement: ({ expression }) => {
        if (expression.kind === "term") count(conditions, nameOf(expression.term));
      },
    });
  }
  return new Set([...new Set(module.rules.map(({ head }) => head.name))].filter((name) => !roots.has(name) && mentioned.get(name) === conditions.get(name)));
}

function nameOf(term: Term): string | undefined {
  if (term.kind === "var") return term.name;
  return term.kind === "call" && term.operator === undefined ? term.name.join(".") : undefined;
}
