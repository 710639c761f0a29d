import type { Body, Module, Rule, Statement, Term } from "@sealpod/rego";
import { printTerm } from "./print.ts";
import { type Rewriter, rewriteRule, withRules } from "./rewrite.ts";
import { bodyOf, declaredIn, visitBody, visitRule, visitTerm } from "./tree.ts";

/**
 * Puts the bodies of rules and functions in place of the conditions that call them: those of one statement everywhere, longer ones
 * if they are called once. Only bodies that hold or do not hold, without walking through anything: then it makes no difference how
 * often the statements around them run, and `f(x)` and the body of `f` with `x` in it are undefined or false for the same `x`.
 * What is negated stays a call, since negation looks at a call's operands (specs/rego.md 4.9).
 */
export function inlineConditions(module: Module, roots: ReadonlySet<string>): Module {
  const groups = Map.groupBy(module.rules, ({ head }) => head.name);
  const mentions = countMentions(module);
  const inlinable = new Map<string, Rule>();
  for (const [name, [rule, ...others]] of groups) {
    if (rule === undefined || others.length > 0 || roots.has(name) || !isCondition(rule, groups)) continue;
    const statements = rule.clauses[0]?.body.length ?? 0;
    if (mentions.get(name) === 1 || (statements === 1 && bytesOf(rule) <= MAX_BYTES)) inlinable.set(name, rule);
  }
  let copies = 0;
  const expand = (statement: Statement): readonly Statement[] | undefined => {
    const { expression, negated, modifiers } = statement;
    if (expression.kind !== "term" || negated || modifiers.length > 0) return undefined;
    const call = expression.term;
    const name = call.kind === "var" ? call.name : call.kind === "call" && call.operator === undefined ? call.name.join(".") : "";
    const rule = inlinable.get(name);
    const args = call.kind === "call" ? call.args : [];
    if (rule === undefined || !fits(rule, args)) return undefined;
    return instantiate(rule, args, `inlined${copies++}_`);
  };
  // A body that is put in place may have further calls: the next round has them.
  const by: Rewriter = { statement: (statement) => expand(statement) ?? [statement] };
  return withRules(
    module,
    module.rules.map((rule) => (inlinable.has(rule.head.name) ? rule : rewriteRule(rule, by))),
  );
}

/** Bytes of a body, as it will be written, that may be put in several places: those of a call. */
const MAX_BYTES = 15;

/** Bytes of a rule's only statement, once names are short. */
function bytesOf({ clauses }: Rule): number {
  let bytes = 0;
  const add = (term: Term): void => {
    if (term.kind === "var") bytes += 2;
    else if (term.kind === "scalar") bytes += Math.min(printTerm(term).length, 3);
    else bytes += term.kind === "call" && term.operator === undefined ? term.name.join(".").length + 2 : 1;
  };
  visitBody(clauses[0]?.body ?? [], { term: add });
  return bytes;
}

function countMentions(module: Module): ReadonlyMap<string, number> {
  const mentions = new Map<string, number>();
  for (const rule of module.rules) {
    visitRule(rule, {
      term: (term) => {
        const name = term.kind === "var" ? term.name : term.kind === "call" && term.operator === undefined ? term.name.join(".") : undefined;
        if (name !== undefined) mentions.set(name, (mentions.get(name) ?? 0) + 1);
      },
    });
  }
  return mentions;
}

/** A rule of one body without a value, that either holds once or does not hold. */
function isCondition(rule: Rule, groups: ReadonlyMap<string, readonly Rule[]>): boolean {
  const { head, clauses, isDefault } = rule;
  const [clause, ...others] = clauses;
  if (isDefault || clause === undefined || others.length > 0 || clause.value !== undefined || head.path.length > 0 || head.item !== undefined) return false;
  const names = (head.parameters ?? []).map((parameter) => (parameter.kind === "var" ? parameter.name : undefined));
  const own = names.filter((name) => name !== "_");
  if (own.includes(undefined) || new Set(own).size !== own.length) return false;
  const declared = declaredIn(rule);
  let isPlain = true;
  for (const { expression, modifiers } of clause.body) {
    if (expression.kind === "some" || expression.kind === "some-in" || expression.kind === "unify" || modifiers.length > 0) isPlain = false;
  }
  // A free name in a step walks through a collection.
  visitRule(rule, {
    term: (term) => {
      if (term.kind === "var" && !declared.has(term.name) && !groups.has(term.name) && term.name !== "input" && term.name !== "data")
        isPlain &&= term.name === "_" && !isStepWildcard(rule);
    },
  });
  return isPlain;
}

/** True if `_` stands anywhere but as a parameter or a declared item: there it walks. */
function isStepWildcard(rule: Rule): boolean {
  let found = false;
  visitRule(rule, {
    term: (term) => {
      if (term.kind === "ref") found ||= term.path.some((step) => step.kind === "var" && step.name === "_");
    },
  });
  return found;
}

/** True if the arguments can stand where the parameters do: what is used other than once must be short, and always there. */
function fits({ head, clauses }: Rule, args: readonly Term[]): boolean {
  const parameters = head.parameters ?? [];
  if (parameters.length !== args.length) return false;
  const body = clauses[0]?.body ?? [];
  return parameters.every((parameter, at) => {
    const argument = args[at];
    if (parameter.kind !== "var" || argument === undefined) return false;
    if (argument.kind === "var" || (argument.kind === "scalar" && (typeof argument.value !== "object" || argument.value === null))) return true;
    return parameter.name !== "_" && usesOnTop(body, parameter.name) === 1 && uses({ head, clauses }, parameter.name) === 1;
  });
}

function uses({ clauses }: Pick<Rule, "head" | "clauses">, name: string): number {
  let count = 0;
  const rule: Rule = { at: 0, isDefault: false, head: { at: 0, name: "", path: [], parameters: undefined, item: undefined }, clauses };
  visitRule(rule, {
    term: (term) => void (term.kind === "var" && term.name === name && count++),
    variable: (variable) => void (variable.name === name && count++),
  });
  return count;
}

/** Uses outside of negations and of bodies inside the body, where an argument would be looked at in another way, or many times. */
function usesOnTop(body: Body, name: string): number {
  let count = 0;
  const look = (term: Term): void => {
    visitTerm({ ...term }, { term: (part) => void (part.kind === "var" && part.name === name && count++) });
    visitTerm(term, {
      term: (part) => {
        const inner = bodyOf(part);
        if (inner !== undefined) visitTerm(part, { term: (one) => void (one.kind === "var" && one.name === name && (count += 2)) });
      },
    });
  };
  for (const { expression, negated } of body) {
    if (negated) continue;
    if (expression.kind === "term") look(expression.term);
    else if (expression.kind === "assign") look(expression.value);
    else if (expression.kind === "every") look(expression.domain);
  }
  return count;
}

/** The body with the arguments for the parameters, and names of its own. */
function instantiate(rule: Rule, args: readonly Term[], prefix: string): readonly Statement[] {
  const values = new Map<string, Term>();
  for (const [at, parameter] of (rule.head.parameters ?? []).entries())
    if (parameter.kind === "var" && args[at] !== undefined) values.set(parameter.name, args[at]);
  const own = declaredIn(rule);
  const rename = (name: string): string => (name !== "_" && own.has(name) && !values.has(name) ? `${prefix}${name}` : name);
  const by: Rewriter = {
    term: (term) => (term.kind === "var" ? (values.get(term.name) ?? { ...term, name: rename(term.name) }) : term),
    variable: (variable) => ({ ...variable, name: rename(variable.name) }),
  };
  return rewriteRule(rule, by).clauses[0]?.body ?? [];
}
