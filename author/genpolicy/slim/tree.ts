import type { Body, Clause, Rule, Statement, Term, Value, VarTerm } from "@sealpod/rego";

// The syntax tree of @sealpod/rego is plain data: here is how to walk it and its parts; rewrite.ts builds it anew.

/** Calls functions with every term and statement of a rule, outer ones first. */
export interface Visitor {
  readonly term?: (term: Term) => void;
  readonly statement?: (statement: Statement) => void;
  readonly variable?: (variable: VarTerm) => void;
}

export function visitTerm(term: Term, by: Visitor): void {
  by.term?.(term);
  switch (term.kind) {
    case "scalar":
    case "var":
      return;
    case "ref":
      visitTerm(term.head, by);
      for (const step of term.path) visitTerm(step, by);
      return;
    case "call":
      for (const argument of term.args) visitTerm(argument, by);
      return;
    case "array":
    case "set":
      for (const item of term.items) visitTerm(item, by);
      return;
    default:
      for (const part of partsOf(term)) visitTerm(part, by);
  }
  const body = bodyOf(term);
  if (body !== undefined) visitBody(body, by);
}

export function visitBody(body: Body, by: Visitor): void {
  for (const statement of body) {
    by.statement?.(statement);
    const { expression, modifiers } = statement;
    switch (expression.kind) {
      case "term":
        visitTerm(expression.term, by);
        break;
      case "assign":
        visitTerm(expression.target, by);
        visitTerm(expression.value, by);
        break;
      case "unify":
        visitTerm(expression.left, by);
        visitTerm(expression.right, by);
        break;
      case "some":
        for (const variable of expression.variables) by.variable?.(variable);
        break;
      case "some-in":
        if (expression.key !== undefined) visitTerm(expression.key, by);
        visitTerm(expression.value, by);
        visitTerm(expression.domain, by);
        break;
      case "every":
        if (expression.key !== undefined) by.variable?.(expression.key);
        by.variable?.(expression.value);
        visitTerm(expression.domain, by);
        visitBody(expression.body, by);
    }
    for (const { target, value } of modifiers) {
      visitTerm(target, by);
      visitTerm(value, by);
    }
  }
}

export function visitRule({ head, clauses }: Rule, by: Visitor): void {
  for (const term of [...head.path, ...(head.parameters ?? []), ...(head.item === undefined ? [] : [head.item])]) visitTerm(term, by);
  for (const { value, body } of clauses) {
    if (value !== undefined) visitTerm(value, by);
    visitBody(body, by);
  }
}

/** The terms that a term is made of, those in the bodies of comprehensions apart. */
export function partsOf(term: Term): readonly Term[] {
  switch (term.kind) {
    case "scalar":
    case "var":
      return [];
    case "ref":
      return [term.head, ...term.path];
    case "call":
      return term.args;
    case "array":
    case "set":
      return term.items;
    case "object":
      return term.entries.flat();
    case "array-comprehension":
    case "set-comprehension":
      return [term.head];
    case "object-comprehension":
      return [term.key, term.value];
    case "template":
      return term.parts.flatMap((part) => (typeof part === "string" ? [] : [part.term, ...part.modifiers.flatMap(({ target, value }) => [target, value])]));
  }
}

export function bodyOf(term: Term): Body | undefined {
  return term.kind === "array-comprehension" || term.kind === "set-comprehension" || term.kind === "object-comprehension" ? term.body : undefined;
}

/** True for a step that can be written as `.name`. */
export function isField(step: Term): boolean {
  return step.kind === "scalar" && typeof step.value === "string" && /^[a-zA-Z_][a-zA-Z0-9_]*$/.test(step.value);
}

/** Names that a rule declares as variables, in any of its bodies. */
export function declaredIn(rule: Rule): ReadonlySet<string> {
  const names = new Set<string>();
  const pattern = (term: Term): void => {
    if (term.kind === "var") names.add(term.name);
    else if (term.kind === "array" || term.kind === "set") term.items.forEach(pattern);
    else if (term.kind === "object") for (const [, value] of term.entries) pattern(value);
  };
  rule.head.parameters?.forEach(pattern);
  visitRule(rule, {
    statement: ({ expression }) => {
      if (expression.kind === "assign") pattern(expression.target);
      else if (expression.kind === "some-in") {
        if (expression.key !== undefined) pattern(expression.key);
        pattern(expression.value);
      } else if (expression.kind === "some") for (const { name } of expression.variables) names.add(name);
      else if (expression.kind === "every") {
        if (expression.key !== undefined) names.add(expression.key.name);
        names.add(expression.value.name);
      }
    },
  });
  return names;
}

/** `name := value` */
export function constantRule(name: string, value: Value): Rule {
  return ruleOf(name, { at: 0, value: { kind: "scalar", at: 0, value }, body: [] });
}

/** `name if false` */
export function neverRule(name: string): Rule {
  return ruleOf(name, { at: 0, value: undefined, body: FALSE });
}

/** A rule without parameters. */
export function ruleOf(name: string, clause: Clause): Rule {
  return { at: 0, isDefault: false, head: { at: 0, name, path: [], parameters: undefined, item: undefined }, clauses: [clause] };
}

/** The body that never holds. */
export const FALSE: Body = [
  { at: 0, end: 0, negated: false, modifiers: [], expression: { kind: "term", at: 0, term: { kind: "scalar", at: 0, value: false } } },
];
