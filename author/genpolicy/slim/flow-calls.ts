import type { Rule, Term, Value } from "@sealpod/rego";
import { isArray } from "@sealpod/rego";
import type { Calculator } from "./constants.ts";
import { Built, Flow, Place } from "./places.ts";
import { rewriteTerm } from "./rewrite.ts";
import { bodyOf, visitTerm } from "./tree.ts";

/** Combinations of operands that are tried; beyond, a result is unknown. */
const MAX_COMBINATIONS = 512;

/** Functions whose result says nothing of what is in their operand but its type and size. */
const SHALLOW: ReadonlySet<string> = new Set(["count", "is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string"]);

/** Functions whose result is a text. */
const TEXTS: ReadonlySet<string> = new Set([
  "base64.encode",
  "concat",
  "format_int",
  "json.marshal",
  "lower",
  "regex.replace",
  "replace",
  "sprintf",
  "strings.replace_n",
  "substring",
  "trim_left",
  "trim_prefix",
  "trim_right",
  "trim_suffix",
  "upper",
]);

type Call = Term & { readonly kind: "call" };

/** What calls need to know of the rules. */
export interface RuleFlows {
  rulesOf(name: string): readonly Rule[] | undefined;
  parametersOf(name: string, count: number): readonly Flow[];
  resultOf(name: string): Flow;
}

/** What calls of functions can come to. */
export class CallFlows {
  readonly #calculator: Calculator;
  readonly #rules: RuleFlows;
  readonly #expansions = new Map<Call, Term | undefined>();
  readonly #places = new Map<Value, Place>();
  readonly #partial = new Set<Term>();
  /** Calls with constants that are still to be calculated. */
  readonly #waiting = new Set<() => void>();

  constructor(calculator: Calculator, rules: RuleFlows) {
    this.#calculator = calculator;
    this.#rules = rules;
  }

  isTotal(call: Term): boolean {
    return !this.#partial.has(call);
  }

  /** Calculates until nothing new comes of it. */
  settle(): void {
    // Grows while it is walked.
    for (const calculate of this.#waiting) {
      this.#waiting.delete(calculate);
      calculate();
    }
  }

  /** @param flowOf a part of the call, where it stands */
  of(call: Call, flowOf: (part: Term) => Flow): Flow {
    const { args, operator } = call;
    const flows = args.map(flowOf);
    const name = call.name.join(".");
    if (operator === undefined && this.#rules.rulesOf(name) !== undefined) return this.#ofRule(call, name, flows, flowOf);
    const [first, second, third] = flows;
    if (name === "object.get" && first !== undefined && second !== undefined && third !== undefined) return objectGet(first, second, third);
    if (name === "array.concat" && first !== undefined && second !== undefined) {
      const built = new Built("array");
      first.child(undefined).into(built.items);
      second.child(undefined).into(built.items);
      return Flow.of(built);
    }
    for (const flow of flows) {
      if (SHALLOW.has(name)) flow.tested();
      else flow.needed();
    }
    return this.#calculated(call, name, flows);
  }

  #ofRule(call: Call, name: string, flows: readonly Flow[], flowOf: (part: Term) => Flow): Flow {
    const parameters = this.#rules.parametersOf(name, flows.length);
    for (const [at, flow] of flows.entries()) {
      const parameter = parameters[at];
      // A call with one argument more compares the result with it.
      if (parameter === undefined) flow.needed();
      else flow.into(parameter);
    }
    const result = this.#rules.resultOf(name);
    if (flows.length > parameters.length) result.needed();
    const expanded = this.#expanded(call, name);
    return expanded === undefined ? result : flowOf(expanded);
  }

  /** What a call of a function comes to that is no more than a term: looked at for each call on its own. */
  #expanded(call: Call, name: string): Term | undefined {
    if (!this.#expansions.has(call)) {
      const [rule, ...others] = this.#rules.rulesOf(name) ?? [];
      this.#expansions.set(call, rule === undefined || others.length > 0 ? undefined : expansion(rule, call.args));
    }
    return this.#expansions.get(call);
  }

  /** The results of a builtin for all that its operands can be, if these are few. */
  #calculated(call: Call, name: string, flows: readonly Flow[]): Flow {
    const results = new Flow();
    const unknown = call.operator === undefined && TEXTS.has(name) ? "text" : "anything";
    if (!this.#calculator.knows(name, call.operator, flows.length)) {
      results.add(unknown);
      return results;
    }
    const calculate = (): void => {
      const combinations = combinationsOf(flows);
      if (combinations === undefined) {
        results.add(unknown);
        return;
      }
      for (const value of this.#calculator.results(name, call.operator, combinations)) {
        if (value === undefined) this.#partial.add(call);
        else results.add(this.#placeOf(value));
      }
    };
    this.#waiting.add(calculate);
    for (const flow of flows) flow.listen(() => void this.#waiting.add(calculate));
    return results;
  }

  #placeOf(value: Value): Place {
    let place = this.#places.get(value);
    if (place === undefined) this.#places.set(value, (place = new Place([value])));
    return place;
  }
}

/** All that operands can be together; undefined if that is unknown, or too much. */
function combinationsOf(flows: readonly Flow[]): readonly (readonly Value[])[] | undefined {
  if (flows.some(({ unknown, hasBuilt }) => unknown || hasBuilt)) return undefined;
  if (flows.reduce((product, flow) => product * flow.values().length, 1) > MAX_COMBINATIONS) return undefined;
  return flows.reduce<readonly (readonly Value[])[]>((all, flow) => all.flatMap((start) => flow.values().map((value) => [...start, value])), [[]]);
}

function objectGet(subject: Flow, key: Flow, otherwise: Flow): Flow {
  const all = new Flow();
  key.needed();
  let isMissing = false;
  // As long as nothing flows in, nothing comes out.
  const look = (): void => {
    if (isMissing) return;
    const isKnown = !key.unknown && !key.hasBuilt && !subject.unknown && !subject.hasBuilt;
    if (isKnown && subject.places.every((place) => key.values().every((path) => reaches(place, pathOf(path))))) return;
    isMissing = true;
    otherwise.into(all);
  };
  key.listen((member) => {
    if (member instanceof Place) {
      for (const value of member.values) {
        let found = subject;
        for (const step of pathOf(value)) found = found.child(step);
        found.into(all);
      }
    } else {
      subject.needed();
      all.add("anything");
    }
    look();
  });
  subject.listen(look);
  return all;
}

function pathOf(key: Value): readonly Value[] {
  return isArray(key) ? key : [key];
}

function reaches(place: Place, path: readonly Value[]): boolean {
  let at: Place | undefined = place;
  for (const step of path) {
    if (at?.hasAlways(step) !== true) return false;
    at = at.get(step);
  }
  return true;
}

/** The value of a function without conditions, with the arguments in place of the parameters. */
function expansion({ head, clauses, isDefault }: Rule, args: readonly Term[]): Term | undefined {
  const [clause, ...others] = clauses;
  const { parameters = [] } = head;
  if (isDefault || clause?.value === undefined || clause.body.length > 0 || others.length > 0 || parameters.length !== args.length || args.length === 0)
    return undefined;
  const values = new Map<string, Term>();
  for (const [at, parameter] of parameters.entries()) {
    const argument = args[at];
    if (parameter.kind !== "var" || argument === undefined || values.has(parameter.name)) return undefined;
    if (parameter.name !== "_") values.set(parameter.name, argument);
  }
  let hasClosure = false;
  visitTerm(clause.value, { term: (term) => void (hasClosure ||= bodyOf(term) !== undefined || term.kind === "template") });
  return hasClosure ? undefined : rewriteTerm(clause.value, { term: (term) => (term.kind === "var" ? (values.get(term.name) ?? term) : term) });
}
