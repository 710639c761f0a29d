import type { Body, Expression, Module, Rule, Statement, Term, Value, VarTerm, WithModifier } from "@sealpod/rego";
import { RegoObject } from "@sealpod/rego";
import { isField } from "./tree.ts";

// Building the tree anew. What no pass changes stays the same object.

/** A statement with the list it came from: passes that drop statements say so by returning none or several. */
export interface Rewriter {
  /** After its parts were rewritten. */
  readonly term?: (term: Term) => Term;
  /** After its parts were rewritten. */
  readonly statement?: (statement: Statement) => readonly Statement[];
  /** A name that stands where a term cannot: `some x`, `every x in`. */
  readonly variable?: (variable: VarTerm) => VarTerm;
  /** True if steps like `.name` stay as they are. */
  readonly keepsFields?: boolean;
  /** Name of a function as called, dotted. */
  readonly callee?: (name: readonly string[]) => readonly string[];
}

/** The node with other parts; the node itself if they are the same. So what a pass does not change stays the same object. */
export function withParts<T extends object>(node: T, parts: Partial<T>): T {
  for (const name in parts) if (parts[name] !== node[name]) return { ...node, ...parts };
  return node;
}

/** The list with other items; the list itself if they are the same. */
export function mapSame<T>(list: readonly T[], change: (item: T, at: number) => T): readonly T[] {
  let changed: T[] | undefined;
  let at = 0;
  for (const item of list) {
    const done = change(item, at);
    if (changed === undefined && done !== item) changed = list.slice(0, at);
    changed?.push(done);
    at++;
  }
  return changed ?? list;
}

/** The term, rewritten from the inside out. What no function changes is the same object as before. */
export function rewriteTerm(term: Term, by: Rewriter): Term {
  const done = rewriteParts(term, by);
  return by.term === undefined ? done : by.term(done);
}

function rewriteParts(term: Term, by: Rewriter): Term {
  const inner = (part: Term): Term => rewriteTerm(part, by);
  switch (term.kind) {
    case "scalar":
    case "var":
      return term;
    case "ref":
      return flatRef(
        withParts(term, { head: inner(term.head), path: mapSame(term.path, (step) => (by.keepsFields === true && isField(step) ? step : inner(step))) }),
      );
    case "call": {
      const name = term.operator === undefined && by.callee !== undefined ? by.callee(term.name) : term.name;
      return withParts(term, { name, args: mapSame(term.args, inner) });
    }
    case "array":
    case "set":
    case "object":
      return rewriteItems(term, inner);
    case "array-comprehension":
    case "set-comprehension":
      return withParts(term, { head: inner(term.head), body: rewriteBody(term.body, by) });
    case "object-comprehension":
      return withParts(term, { key: inner(term.key), value: inner(term.value), body: rewriteBody(term.body, by) });
    case "template":
      return withParts(term, {
        parts: mapSame(term.parts, (part) =>
          typeof part === "string" ? part : withParts(part, { term: inner(part.term), modifiers: rewriteModifiers(part.modifiers, by) }),
        ),
      });
  }
}

/** An array, set or object with its items rewritten. */
export function rewriteItems(term: Extract<Term, { kind: "array" | "set" | "object" }>, rewrite: (item: Term) => Term): Term {
  if (term.kind !== "object") return withParts(term, { items: mapSame(term.items, rewrite) });
  return withParts(term, { entries: mapSame(term.entries, (entry) => sameEntry(entry, rewrite(entry[0]), rewrite(entry[1]))) });
}

/** An entry of an object with another key and value. */
function sameEntry(entry: readonly [Term, Term], key: Term, value: Term): readonly [Term, Term] {
  return key === entry[0] && value === entry[1] ? entry : [key, value];
}

function rewriteModifiers(modifiers: readonly WithModifier[], by: Rewriter): readonly WithModifier[] {
  return mapSame(modifiers, (one) => withParts(one, { target: rewriteTerm(one.target, by), value: rewriteTerm(one.value, by) }));
}

export function rewriteBody(body: Body, by: Rewriter): Body {
  const inner = mapSame(body, (statement) =>
    withParts(statement, {
      expression: rewriteExpression(statement.expression, by),
      modifiers: statement.modifiers.length === 0 ? statement.modifiers : rewriteModifiers(statement.modifiers, by),
    }),
  );
  if (by.statement === undefined) return inner;
  const done = inner.flatMap(by.statement);
  return done.length === body.length && done.every((statement, at) => statement === body[at]) ? body : done;
}

function rewriteExpression(expression: Expression, by: Rewriter): Expression {
  const inner = (term: Term): Term => rewriteTerm(term, by);
  const name = (variable: VarTerm): VarTerm => (by.variable === undefined ? variable : by.variable(variable));
  switch (expression.kind) {
    case "term":
      return withParts(expression, { term: inner(expression.term) });
    case "assign":
      return withParts(expression, { target: inner(expression.target), value: inner(expression.value) });
    case "unify":
      return withParts(expression, { left: inner(expression.left), right: inner(expression.right) });
    case "some":
      return withParts(expression, { variables: mapSame(expression.variables, name) });
    case "some-in":
      return withParts(expression, {
        key: expression.key === undefined ? undefined : inner(expression.key),
        value: inner(expression.value),
        domain: inner(expression.domain),
      });
    case "every":
      return withParts(expression, {
        key: expression.key === undefined ? undefined : name(expression.key),
        value: name(expression.value),
        domain: inner(expression.domain),
        body: rewriteBody(expression.body, by),
      });
  }
}

export function rewriteRule(rule: Rule, by: Rewriter): Rule {
  const inner = (term: Term): Term => rewriteTerm(term, by);
  const { path, parameters, item } = rule.head;
  return withParts(rule, {
    head: withParts(rule.head, {
      path: mapSame(path, inner),
      parameters: parameters === undefined ? undefined : mapSame(parameters, inner),
      item: item === undefined ? undefined : inner(item),
    }),
    clauses: mapSame(rule.clauses, (clause) =>
      withParts(clause, { value: clause.value === undefined ? undefined : inner(clause.value), body: rewriteBody(clause.body, by) }),
    ),
  });
}

/** A module with other rules; the module itself if they are the same. */
export function withRules(module: Module, rules: readonly Rule[]): Module {
  return rules.length === module.rules.length && rules.every((rule, at) => rule === module.rules[at]) ? module : { ...module, rules };
}

/** `(a.b).c` is `a.b.c`. */
function flatRef(term: Term & { readonly kind: "ref" }): Term {
  return term.head.kind === "ref" ? { ...term, head: term.head.head, path: [...term.head.path, ...term.path] } : term;
}

/**
 * The module with every array and object of constants as one constant, as the parser makes them of plain data without comments
 * in between. It does not matter to what a rule means; it makes two texts of one module the same tree.
 * @param before a module whose rules are so already
 */
export function normalized(module: Module, before?: Module): Module {
  const known = new Set(before?.rules);
  return withRules(
    module,
    module.rules.map((rule) => (known.has(rule) ? rule : rewriteRule(rule, { term: folded }))),
  );
}

/** An array or object whose parts are constants, as a constant. */
export function folded(term: Term): Term {
  if (term.kind === "array") {
    const values: Value[] = [];
    for (const item of term.items) {
      if (item.kind !== "scalar") return term;
      values.push(item.value);
    }
    return { kind: "scalar", at: term.at, value: values };
  }
  if (term.kind !== "object") return term;
  const object = new RegoObject();
  for (const [key, value] of term.entries) {
    if (key.kind !== "scalar" || value.kind !== "scalar" || typeof key.value !== "string") return term;
    object.put(key.value, value.value);
  }
  return { kind: "scalar", at: term.at, value: object };
}
