import type { Module, Rule, Statement, Term, Value } from "@sealpod/rego";
import { isArray, RegoObject } from "@sealpod/rego";
import type { FlowAnalysis } from "./flow.ts";
import type { Place } from "./places.ts";
import { isPrint, printingRules } from "./reasons.ts";
import { bodyOf, partsOf } from "./tree.ts";

/** What is known of terms where they stand, with everything that can flow into them from anywhere: so no order of evaluation matters. */
export class Judge {
  readonly flow: FlowAnalysis;
  readonly groups: ReadonlyMap<string, readonly Rule[]>;
  /** Rules that print reasons: their calls stay, whatever they come to. */
  readonly #printing: ReadonlySet<string>;
  readonly #printers = new Map<Term, boolean>();
  readonly #total = new Map<Term, boolean>();
  readonly #defined = new Map<string, boolean>();

  constructor(module: Module, flow: FlowAnalysis) {
    this.flow = flow;
    this.groups = Map.groupBy(module.rules, ({ head }) => head.name);
    this.#printing = printingRules(module);
  }

  /** True if a term, or what it calls, prints. */
  prints(term: Term): boolean {
    if (this.#printing.size === 0) return false;
    return remembered(this.#printers, term, () => {
      const name = term.kind === "var" ? term.name : term.kind === "call" && term.operator === undefined ? term.name.join(".") : "";
      if (this.#printing.has(name) || isPrint(term) || partsOf(term).some((part) => this.prints(part))) return true;
      return (bodyOf(term) ?? []).some((statement) => this.statementPrints(statement));
    });
  }

  statementPrints({ expression, modifiers }: Statement): boolean {
    const terms = modifiers.flatMap(({ target, value }) => [target, value]);
    switch (expression.kind) {
      case "term":
        terms.push(expression.term);
        break;
      case "assign":
        terms.push(expression.value);
        break;
      case "unify":
        terms.push(expression.left, expression.right);
        break;
      case "some-in":
        terms.push(expression.domain);
        break;
      case "every":
        terms.push(expression.domain);
        if (expression.body.some((statement) => this.statementPrints(statement))) return true;
        break;
      case "some":
    }
    return terms.some((term) => this.prints(term));
  }

  /** What a condition comes to, if it always comes to the same. */
  truth(term: Term, negated: boolean): boolean | undefined {
    if (this.prints(term)) return undefined;
    const flow = this.flow.of(term);
    const isFalse = this.isNever(term) || flow.known()?.every((value) => value === false) === true;
    // The operands of what is negated stand outside of the negation: without them it is not true.
    if (isFalse) return negated && !partsOf(term).every((part) => this.isTotal(part) || isStart(term, part)) ? undefined : false;
    const isTrue = !flow.isEmpty && !flow.unknown && flow.values().every((value) => value !== false);
    return isTrue && this.isTotal(term) ? true : undefined;
  }

  /** True for what can be false or undefined and nothing else, and prints nothing. */
  isFalse(value: Term | undefined): boolean {
    return (
      value !== undefined &&
      !this.prints(value) &&
      this.flow
        .of(value)
        .known()
        ?.every((one) => one === false) === true
    );
  }

  /** True if a term never has a value. */
  isNever(term: Term): boolean {
    if (this.prints(term)) return false;
    if (this.flow.of(term).isEmpty) return true;
    if (term.kind === "scalar" || term.kind === "var" || bodyOf(term) !== undefined || term.kind === "template") return false;
    return partsOf(term).some((part) => this.isNever(part));
  }

  isCollection(term: Term): boolean {
    const flow = this.flow.of(term);
    return !flow.unknown && flow.values().every((value) => typeof value === "object" && value !== null);
  }

  /** True if a term can be nothing but an array. */
  isArray(term: Term): boolean {
    const flow = this.flow.of(term);
    return !flow.unknown && flow.values().every((value) => isArray(value)) && flow.built.every(({ kind }) => kind === "array");
  }

  /** True if there is nothing to walk through. */
  isEmpty(term: Term): boolean {
    const flow = this.flow.of(term);
    return !flow.unknown && flow.values().every((value) => sizeOf(value) === 0) && flow.built.every(({ items, hasFields }) => items.isEmpty && !hasFields);
  }

  hasOneItem(term: Term): boolean {
    return (
      this.isTotal(term) &&
      this.flow
        .of(term)
        .known()
        ?.every((value) => isArray(value) && value.length === 1) === true
    );
  }

  /** True if a term has a value whenever the statement it stands in is reached. */
  isTotal(term: Term): boolean {
    return remembered(this.#total, term, () => this.#isTotal(term));
  }

  #isTotal(term: Term): boolean {
    switch (term.kind) {
      case "scalar":
      case "array-comprehension":
      case "set-comprehension":
        return true;
      case "var":
        return this.groups.has(term.name) ? this.isDefined(term.name) : term.name !== "input" && term.name !== "_";
      case "array":
      case "set":
      case "object":
        return partsOf(term).every((part) => this.isTotal(part));
      case "ref":
        return this.#reachesAlways(term);
      case "call": {
        if (!term.args.every((argument) => this.isTotal(argument))) return false;
        const name = term.name.join(".");
        if (term.operator === undefined && this.groups.has(name))
          return this.isDefined(name) && term.args.length === this.groups.get(name)?.[0]?.head.parameters?.length;
        if (name === "object.get" && term.operator === undefined) return this.isCollection(term.args[0] ?? term);
        if (term.operator === undefined && this.#cannotFail(name, term.args)) return true;
        return this.flow.of(term).known() !== undefined && this.flow.isTotal(term);
      }
      default:
        return false;
    }
  }

  #reachesAlways({ head, path }: Term & { readonly kind: "ref" }): boolean {
    const flow = this.flow.of(head);
    if (!this.isTotal(head) || flow.known() === undefined) return false;
    let places: readonly Place[] = flow.places;
    for (const step of path) {
      if (step.kind !== "scalar" || !places.every((place) => place.hasAlways(step.value))) return false;
      places = places.flatMap((place) => place.get(step.value) ?? []);
    }
    return true;
  }

  /** Builtins that cannot fail with operands of these types, which are all there. */
  #cannotFail(name: string, args: readonly Term[]): boolean {
    const isText = (term: Term | undefined): boolean => term !== undefined && this.flow.of(term).isText();
    const [first, second, third] = args;
    switch (name) {
      case "json.marshal":
        return true;
      case "concat":
        return isText(first) && second?.kind === "array" && second.items.every(isText);
      case "substring":
        return isText(first) && isNatural(second) && isNatural(third);
      default:
        return false;
    }
  }

  /** True if a rule has a value for all arguments: one of its definitions has no conditions. */
  isDefined(name: string): boolean {
    return remembered(this.#defined, name, () => {
      const group = this.groups.get(name) ?? [];
      if (group.some(({ head }) => head.path.length > 0 || head.item !== undefined)) return true;
      if (group.some(({ isDefault, head }) => isDefault && head.parameters === undefined)) return true;
      return group.some(
        ({ head, clauses, isDefault }) =>
          (head.parameters ?? []).every((parameter) => parameter.kind === "var") &&
          areDistinct(head.parameters ?? []) &&
          clauses.some(({ value, body }) => body.length === 0 && (value === undefined || value.kind === "scalar" || (!isDefault && this.isTotal(value)))),
      );
    });
  }

  /** The one value that a term always has, and if there is just one: whatever it is worth to write it. */
  only(term: Term): Value | undefined {
    const [value, ...others] = this.flow.of(term).known() ?? [];
    return others.length === 0 && this.isTotal(term) ? value : undefined;
  }
}

/** False while it is being found out: what leads back to itself is not known. */
function remembered<K>(known: Map<K, boolean>, key: K, find: () => boolean): boolean {
  let found = known.get(key);
  if (found === undefined) {
    known.set(key, false);
    known.set(key, (found = find()));
  }
  return found;
}

/** The head of a reference belongs to what is negated. */
function isStart(term: Term, part: Term): boolean {
  return term.kind === "ref" && part === term.head && part.kind === "var";
}

function isNatural(term: Term | undefined): boolean {
  return term?.kind === "scalar" && typeof term.value === "number" && Number.isInteger(term.value) && term.value >= 0;
}

/** Items of a collection; nothing can be walked through in anything else. */
function sizeOf(value: Value): number {
  return isArray(value) ? value.length : value instanceof RegoObject ? value.size : 0;
}

function areDistinct(parameters: readonly Term[]): boolean {
  const names = parameters.flatMap((parameter) => (parameter.kind === "var" && parameter.name !== "_" ? [parameter.name] : []));
  return new Set(names).size === names.length;
}
