import type { Body, Clause, Module, Rule, Statement, Term, Value } from "@sealpod/rego";
import { isArray, marshal, RegoObject } from "@sealpod/rego";
import type { Calculator } from "./constants.ts";
import { DATA_RULE, FlowAnalysis } from "./flow.ts";
import { Judge } from "./judge.ts";
import { MAX_COPY, unusedMembers, usedPlaceholders } from "./placeholders.ts";
import { conditionRules } from "./reasons.ts";
import { tidy, usesOf } from "./tidy.ts";
import { mapSame, rewriteItems, withParts, withRules } from "./rewrite.ts";
import { FALSE, isField } from "./tree.ts";
import { printValue } from "./writer.ts";

/**
 * Decides what the data decides. A term that can stand for one value only, and always has a value, becomes that value; a
 * statement that always holds goes; a body that never holds goes, and a rule without bodies. Terms are looked at where they
 * stand, with everything that can flow into them from anywhere, so no order of evaluation matters.
 */
export function foldConstants(module: Module, roots: ReadonlySet<string>, calculator: Calculator): Module {
  const judge = new Judge(module, new FlowAnalysis(module, roots, calculator));
  const folded = new Folder(module, judge, roots).run();
  // What is total before folding is so after it: a term gets replaced by its value.
  return tidy(folded, (term) => judge.isTotal(term));
}

class Folder {
  readonly #module: Module;
  readonly #judge: Judge;
  /** Rules that are conditions wherever they are mentioned. */
  readonly #conditions: ReadonlySet<string>;
  /** How often each name stands in the rule that is being folded. */
  #uses: ReadonlyMap<string, number> = new Map();

  constructor(module: Module, judge: Judge, roots: ReadonlySet<string>) {
    this.#module = module;
    this.#judge = judge;
    this.#conditions = conditionRules(module, roots);
  }

  run(): Module {
    const rules: Rule[] = [];
    const kept = new Set<string>();
    const unused = unusedMembers(this.#module, this.#judge);
    for (const rule of this.#module.rules) {
      if (unused.has(rule)) continue;
      const folded = rule.head.name === DATA_RULE ? rule : this.#rule(rule);
      if (folded === undefined) continue;
      rules.push(folded);
      kept.add(rule.head.name);
    }
    // Somebody may still mention a rule that has no bodies left: it stays, as one that is never true.
    for (const [name, [first, ...more]] of this.#judge.groups) {
      if (kept.has(name) || first === undefined) continue;
      rules.push(more.length === 0 && isNeverRule(first) ? first : withoutBodies(first));
    }
    return withRules(this.#module, rules);
  }

  /** The rule without the bodies that never hold; undefined if none is left. */
  #rule(rule: Rule): Rule | undefined {
    if (rule.isDefault) return rule;
    this.#uses = usesOf(rule);
    const clauses: Clause[] = [];
    let falseAtEnd = 0;
    for (const clause of rule.clauses) {
      const { value } = clause;
      const body = this.#body(clause.body);
      if (body === undefined || (value !== undefined && this.#judge.isNever(value))) continue;
      falseAtEnd = this.#judge.isFalse(value) ? falseAtEnd + 1 : 0;
      clauses.push(withParts(clause, { value: value === undefined ? undefined : this.#value(value), body }));
      // What stands behind a branch without conditions is never tried.
      if (body.length === 0 && (value === undefined || this.#judge.isTotal(value))) break;
    }
    // As a condition, false is as good as nothing; beside another definition it could be a conflict.
    if (this.#conditions.has(rule.head.name) && this.#judge.groups.get(rule.head.name)?.length === 1) clauses.splice(clauses.length - falseAtEnd);
    const [first, ...more] = clauses;
    if (first === undefined) return undefined;
    // `f(x) if true`: without a value a rule needs a body.
    if (first.value === undefined && first.body.length === 0 && rule.head.item === undefined)
      return { ...rule, clauses: [{ ...first, value: { kind: "scalar", at: 0, value: true } }, ...more] };
    return clauses.length === rule.clauses.length
      ? withParts(rule, { clauses: mapSame(rule.clauses, (clause, at) => clauses[at] ?? clause) })
      : { ...rule, clauses };
  }

  /** The statements that are left to decide; undefined if the body never holds. */
  #body(body: Body): Body | undefined {
    const left: Statement[] = [];
    for (const statement of body) {
      const verdict = this.#statement(statement);
      if (verdict === "never") {
        // What prints before it still does; what stands behind it is never reached.
        if (![...left, statement].some((other) => this.#judge.statementPrints(other))) return undefined;
        left.push(statement);
        break;
      }
      if (verdict !== "always") left.push(verdict);
    }
    return left.length === body.length && left.every((statement, at) => statement === body[at]) ? body : left;
  }

  #statement(statement: Statement): Statement | "always" | "never" {
    const judge = this.#judge;
    const { expression, negated } = statement;
    switch (expression.kind) {
      case "term": {
        const truth = judge.truth(expression.term, negated);
        if (truth !== undefined) return truth === negated ? "never" : "always";
        return withParts(statement, { expression: withParts(expression, { term: this.#value(expression.term) }) });
      }
      case "assign":
        if (judge.isNever(expression.value)) return "never";
        if (expression.target.kind === "var" && this.#uses.get(expression.target.name) === 1 && judge.isTotal(expression.value)) return "always";
        return withParts(statement, { expression: withParts(expression, { value: this.#value(expression.value) }) });
      case "unify":
        return !negated && (judge.isNever(expression.left) || judge.isNever(expression.right)) ? "never" : statement;
      case "some":
        return statement;
      case "some-in":
        if (judge.isEmpty(expression.domain)) return "never";
        // Of one item, of which nobody asks.
        if (expression.key === undefined && isWildcard(expression.value) && judge.hasOneItem(expression.domain)) return "always";
        return withParts(statement, { expression: withParts(expression, { domain: this.#value(expression.domain) }) });
      case "every": {
        if (judge.isNever(expression.domain)) return "never";
        const isTotal = judge.isTotal(expression.domain);
        if (isTotal && judge.isEmpty(expression.domain)) return "always";
        const body = this.#body(expression.body) ?? FALSE;
        if (body.length === 0 && isTotal && judge.isCollection(expression.domain)) return "always";
        const parts = {
          domain: this.#value(expression.domain),
          body: body.length === 0 || (isFalseBody(body) && isFalseBody(expression.body)) ? expression.body : body,
        };
        return withParts(statement, { expression: withParts(expression, parts) });
      }
    }
  }

  /** A term with all of it that is constant as constants. Names that are bound here stay. */
  readonly #value = (term: Term): Term => this.#constant(term) ?? this.#inner(term);

  #constant(term: Term): Term | undefined {
    if (term.kind === "scalar" || (term.kind === "var" && term.name === "_")) return undefined;
    const [first, ...rest] = this.#judge.flow.of(term).known() ?? [];
    if (first === undefined || !this.#judge.isTotal(term) || this.#judge.prints(term)) return undefined;
    // A rule that is a constant already shares it.
    if (term.kind === "var" && this.#judge.groups.has(term.name) && printValue(first).length > MAX_COPY) return undefined;
    // The whole of the containers is not a constant to be written somewhere else.
    if (rest.length === 0 && holdsObjects(first)) return undefined;
    return rest.length === 0 || areEqual(first, rest) ? { kind: "scalar", at: term.at, value: first } : undefined;
  }

  #inner(term: Term): Term {
    const inner = this.#value;
    switch (term.kind) {
      case "ref":
        // The head alone as a constant would be the whole of the data.
        return withParts(term, {
          head: term.head.kind === "var" ? term.head : inner(term.head),
          path: mapSame(term.path, (step) => (isField(step) ? step : inner(step))),
        });
      case "call": {
        const used = usedPlaceholders(term, this.#judge);
        if (used !== undefined) return used.map === undefined ? inner(used.text) : { ...term, args: [used.map, inner(used.text)] };
        return this.#appended(term) ?? withParts(term, { args: mapSame(term.args, inner) });
      }
      case "array":
      case "set":
      case "object":
        return rewriteItems(term, inner);
      case "array-comprehension":
      case "set-comprehension":
      case "object-comprehension":
        return this.#comprehension(term);
      default:
        return term;
    }
  }

  /** `array.concat([], list)` */
  #appended({ name, args, operator }: Term & { readonly kind: "call" }): Term | undefined {
    const [first, second] = args;
    if (operator !== undefined || name.join(".") !== "array.concat" || first === undefined || second === undefined) return undefined;
    if (isEmptyArray(this.#judge.only(first)) && this.#judge.isArray(second)) return this.#value(second);
    return isEmptyArray(this.#judge.only(second)) && this.#judge.isArray(first) ? this.#value(first) : undefined;
  }

  #comprehension(term: Term & { readonly kind: "array-comprehension" | "set-comprehension" | "object-comprehension" }): Term {
    const folded = this.#body(term.body);
    if (folded === undefined) {
      if (term.kind === "set-comprehension") return { kind: "call", at: term.at, name: ["set"], args: [] };
      return { kind: "scalar", at: term.at, value: term.kind === "array-comprehension" ? [] : RegoObject.empty };
    }
    const body = folded.length === 0 ? term.body : folded;
    if (term.kind === "object-comprehension") return withParts(term, { key: this.#value(term.key), value: this.#value(term.value), body });
    return withParts(term, { head: this.#value(term.head), body });
  }
}

/** A rule that is never true, but still there to be mentioned. */
function withoutBodies({ head, clauses }: Rule): Rule {
  // An object or a set without members is still there.
  const isMember = head.path.length > 0 || head.item !== undefined;
  const parameters = head.parameters?.map((): Term => ({ kind: "var", at: 0, name: "_" }));
  return {
    at: 0,
    isDefault: false,
    head: isMember ? head : { at: 0, name: head.name, path: [], parameters, item: undefined },
    clauses: [{ at: 0, value: isMember ? clauses[0]?.value : undefined, body: FALSE }],
  };
}

function isNeverRule({ clauses }: Rule): boolean {
  const [clause, ...more] = clauses;
  return more.length === 0 && clause !== undefined && isFalseBody(clause.body);
}

function isFalseBody(body: Body): boolean {
  const [statement, ...more] = body;
  const term = statement?.expression.kind === "term" && !statement.negated && more.length === 0 ? statement.expression.term : undefined;
  return term?.kind === "scalar" && term.value === false;
}

function areEqual(first: Value, rest: readonly Value[]): boolean {
  if (typeof first !== "object") return rest.every((value) => value === first);
  const text = marshal(first);
  return rest.every((value) => typeof value === "object" && marshal(value) === text);
}

function isEmptyArray(value: Value | undefined): boolean {
  return value !== undefined && isArray(value) && value.length === 0;
}

function isWildcard(term: Term): boolean {
  return term.kind === "var" && term.name === "_";
}

function holdsObjects(value: Value): boolean {
  if (isArray(value)) return value.some((item) => item instanceof RegoObject || holdsObjects(item));
  return value instanceof RegoObject && value.keys().some((key) => key instanceof RegoObject || holdsObjectsIn(value.get(key)));
}

function holdsObjectsIn(value: Value | undefined): boolean {
  return value instanceof RegoObject || (value !== undefined && holdsObjects(value));
}
