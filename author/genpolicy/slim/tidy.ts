import type { Body, Module, Rule, Statement, Term } from "@sealpod/rego";
import { mapSame, type Rewriter, rewriteRule, withParts, withRules } from "./rewrite.ts";
import { visitBody, visitTerm, type Visitor, visitRule } from "./tree.ts";

/**
 * Clears away what folding leaves: variables that are declared and not used, which compilers refuse, become `_`; parameters
 * that no definition looks at go, if no call can fail for want of the argument.
 * @param isTotal tells of an argument that it always has a value
 */
export function tidy(module: Module, isTotal: (term: Term) => boolean): Module {
  return dropParameters(withRules(module, module.rules.map(clearUnused)), isTotal);
}

const WILDCARD = "_";

/** Declared variables without a use as wildcards. */
function clearUnused(rule: Rule): Rule {
  const cleared: Rewriter = {
    term: (term) => {
      switch (term.kind) {
        case "array-comprehension":
        case "set-comprehension":
          return withParts(term, { body: clearBody(term.body, [term.head]) });
        case "object-comprehension":
          return withParts(term, { body: clearBody(term.body, [term.key, term.value]) });
        default:
          return term;
      }
    },
    statement: (statement) => {
      const { expression } = statement;
      if (expression.kind !== "every") return [statement];
      const body = clearBody(expression.body, []);
      const uses = usesIn(body, []);
      const value = uses.has(expression.value.name) ? expression.value : withParts(expression.value, { name: WILDCARD });
      const key = expression.key !== undefined && uses.has(expression.key.name) ? expression.key : undefined;
      return [withParts(statement, { expression: withParts(expression, { key, value, body }) })];
    },
  };
  const inner = rewriteRule(rule, cleared);
  const { head } = inner;
  const heads = [...head.path, ...(head.item === undefined ? [] : [head.item])];
  const clauses = mapSame(inner.clauses, (clause) =>
    withParts(clause, { body: clearBody(clause.body, [...heads, ...(clause.value === undefined ? [] : [clause.value])]) }),
  );
  if (head.parameters === undefined || inner.isDefault) return withParts(inner, { clauses });
  const uses = new Map<string, number>();
  visitRule({ ...inner, head: { ...head, parameters: undefined }, clauses }, counter(uses));
  const parameters = mapSame(head.parameters, (term) =>
    term.kind === "var" && !uses.has(term.name) && isOnce(term.name, head.parameters) ? withParts(term, { name: WILDCARD }) : term,
  );
  return withParts(inner, { head: withParts(head, { parameters }), clauses });
}

function isOnce(name: string, parameters: readonly Term[] | undefined): boolean {
  const uses = new Map<string, number>();
  for (const parameter of parameters ?? []) visitTerm(parameter, counter(uses));
  return uses.get(name) === 1;
}

function clearBody(body: Body, heads: readonly Term[]): Body {
  const uses = usesIn(body, heads);
  const clear = (term: Term): Term => (term.kind === "var" && (uses.get(term.name) ?? 0) <= 1 ? withParts(term, { name: WILDCARD }) : term);
  return mapSame(body, (statement): Statement => {
    const { expression } = statement;
    if (expression.kind !== "some-in") return statement;
    const key = expression.key === undefined ? undefined : clear(expression.key);
    const isWildcard = key?.kind === "var" && key.name === WILDCARD;
    return withParts(statement, { expression: withParts(expression, { key: isWildcard ? undefined : key, value: clear(expression.value) }) });
  });
}

/** How often each name stands in a scope, its declarations included. */
function usesIn(body: Body, heads: readonly Term[]): ReadonlyMap<string, number> {
  const uses = new Map<string, number>();
  visitBody(body, counter(uses));
  for (const head of heads) visitTerm(head, counter(uses));
  return uses;
}

/** How often each name stands in a rule. */
export function usesOf(rule: Rule): ReadonlyMap<string, number> {
  const uses = new Map<string, number>();
  visitRule(rule, counter(uses));
  return uses;
}

function counter(uses: Map<string, number>): Visitor {
  const count = (name: string): void => void uses.set(name, (uses.get(name) ?? 0) + 1);
  return {
    term: (term) => {
      if (term.kind === "var") count(term.name);
    },
    variable: ({ name }) => count(name),
  };
}

function dropParameters(module: Module, isTotal: (term: Term) => boolean): Module {
  const groups = Map.groupBy(module.rules, ({ head }) => head.name);
  const unused = new Map<string, Set<number>>();
  for (const [name, group] of groups) {
    const arity = group[0]?.head.parameters?.length ?? 0;
    const free = Array.from({ length: arity }, (_, at) => at).filter((at) =>
      group.every(({ head, isDefault }) => {
        const parameter = head.parameters?.[at];
        return !isDefault && parameter?.kind === "var" && parameter.name === WILDCARD;
      }),
    );
    if (free.length > 0) unused.set(name, new Set(free));
  }
  if (unused.size === 0) return module;
  for (const rule of module.rules) {
    visitRule(rule, {
      term: (term) => {
        if (term.kind !== "call" || term.operator !== undefined) return;
        const name = term.name.join(".");
        const places = unused.get(name);
        if (places === undefined) return;
        const arity = groups.get(name)?.[0]?.head.parameters?.length;
        for (const at of places) {
          const argument = term.args[at];
          if (argument === undefined || !isTotal(argument) || term.args.length !== arity) places.delete(at);
        }
      },
    });
  }
  const keep =
    (places: ReadonlySet<number>) =>
    (_: unknown, at: number): boolean =>
      !places.has(at);
  const by: Rewriter = {
    term: (term) => {
      const places = term.kind === "call" && term.operator === undefined ? unused.get(term.name.join(".")) : undefined;
      if (term.kind !== "call" || places === undefined || places.size === 0) return term;
      const args = term.args.filter(keep(places));
      // A function without parameters is a rule.
      return args.length === 0 ? { kind: "var", at: term.at, name: term.name.join(".") } : { ...term, args };
    },
  };
  const rules = module.rules.map((rule) => {
    const places = unused.get(rule.head.name);
    const done = rewriteRule(rule, by);
    if (places === undefined || places.size === 0) return done;
    const parameters = rule.head.parameters?.filter(keep(places));
    return { ...done, head: { ...done.head, parameters: parameters?.length === 0 ? undefined : parameters } };
  });
  return withRules(module, rules);
}
