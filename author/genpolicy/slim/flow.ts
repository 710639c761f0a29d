import type { Body, Module, Rule, Term } from "@sealpod/rego";
import { RegoObject } from "@sealpod/rego";
import type { Calculator } from "./constants.ts";
import { CallFlows } from "./flow-calls.ts";
import { Built, Flow, Place } from "./places.ts";
import { declaredIn } from "./tree.ts";

/** Name of the rule with the data. */
export const DATA_RULE = "policy_data";

/**
 * Where the values of the policy's data flow: for each term the places of the data (and the literals of the rules) that it can
 * stand for, found without looking at the order of statements. Too many places are no harm, one too few would be: whatever is
 * not understood is unknown. Each term is looked at once, and says what flows from where to where; values then follow by themselves.
 */
export class FlowAnalysis {
  readonly #rules: ReadonlyMap<string, readonly Rule[]>;
  readonly #literals = new Map<Term, Place>();
  readonly #built = new Map<Term, Built>();
  readonly #partials = new Map<string, Built>();
  readonly #terms = new Map<Term, Flow>();
  readonly #scopes = new Map<Rule, Scope>();
  readonly #results = new Map<string, Flow>();
  readonly #parameters = new Map<string, readonly Flow[]>();
  readonly #calls: CallFlows;
  readonly #anything = Flow.of("anything");
  readonly #true = Flow.of(new Place([true]));
  /** Place of the data. */
  readonly root: Place;

  /** @param roots names of the rules whose values leave the module */
  constructor(module: Module, roots: ReadonlySet<string>, calculator: Calculator) {
    this.#rules = Map.groupBy(module.rules, ({ head }) => head.name);
    const data = this.#rules.get(DATA_RULE)?.[0]?.clauses[0]?.value;
    this.root = data === undefined ? new Place([RegoObject.empty]) : this.#literal(data);
    this.#calls = new CallFlows(calculator, {
      rulesOf: (name) => this.#rules.get(name),
      parametersOf: (name, count) => this.#parametersOf(name, count),
      resultOf: (name) => this.ofRule(name),
    });
    for (const rule of module.rules) this.#rule(rule);
    for (const name of roots) if (name !== DATA_RULE) this.ofRule(name).needed();
    this.#calls.settle();
  }

  /** What a term of the module can stand for. */
  of(term: Term): Flow {
    return this.#terms.get(term) ?? this.#anything;
  }

  /** True if a call of a builtin has a result for all that its operands can stand for. */
  isTotal(call: Term): boolean {
    return this.#calls.isTotal(call);
  }

  /** What calls of a function, and mentions of a rule, can stand for. */
  ofRule(name: string): Flow {
    return entry(this.#results, name, () => new Flow());
  }

  #literal(term: Term): Place {
    return entry(this.#literals, term, () => new Place([term.kind === "scalar" ? term.value : null]));
  }

  #parametersOf(name: string, count: number): readonly Flow[] {
    return entry(this.#parameters, name, () => Array.from({ length: count }, () => new Flow()));
  }

  #rule(rule: Rule): void {
    const { head, clauses } = rule;
    const scope = entry(this.#scopes, rule, () => new Scope(rule));
    const parameters = head.parameters ?? [];
    const flows = this.#parametersOf(head.name, parameters.length);
    for (const [at, parameter] of parameters.entries()) this.#bind(scope, parameter, flows[at] ?? this.#anything);
    const result = this.ofRule(head.name);
    for (const { value, body } of clauses) {
      this.#body(scope, body);
      if (isDead(body)) continue;
      const flow = value === undefined ? this.#true : this.#term(scope, value);
      if (head.path.length === 0 && head.item === undefined) {
        flow.into(result);
        continue;
      }
      const built = entry(this.#partials, head.name, () => new Built(head.item === undefined ? "object" : "set"));
      const [key, ...more] = head.path;
      if (head.item !== undefined) this.#term(scope, head.item).into(built.items);
      for (const step of head.path) this.#term(scope, step).needed();
      if (key?.kind === "scalar" && more.length === 0) built.put(key.value, flow);
      else if (key !== undefined) (more.length === 0 ? flow : this.#anything).into(built.items);
      result.add(built);
    }
  }

  /** Gives the names of a pattern what flows into it. */
  #bind(scope: Scope, pattern: Term, flow: Flow): void {
    this.#record(pattern, flow);
    if (pattern.kind === "var") {
      flow.into(scope.local(pattern.name));
      return;
    }
    // Anything but a name takes the value apart or compares it.
    flow.needed();
    if (pattern.kind === "array") for (const item of pattern.items) this.#bind(scope, item, flow.child(undefined));
    else if (pattern.kind === "object") for (const [, item] of pattern.entries) this.#bind(scope, item, flow.child(undefined));
    else this.#term(scope, pattern).needed();
  }

  #body(scope: Scope, body: Body): void {
    for (const { expression } of body) {
      switch (expression.kind) {
        case "term":
          this.#term(scope, expression.term).tested();
          break;
        case "assign":
          this.#bind(scope, expression.target, this.#term(scope, expression.value));
          break;
        case "unify":
          for (const side of [expression.left, expression.right]) {
            this.#term(scope, side).needed();
            this.#release(scope, side);
          }
          break;
        case "some":
          for (const { name } of expression.variables) scope.local(name).add("anything");
          break;
        case "some-in": {
          const domain = this.#term(scope, expression.domain);
          this.#bind(scope, expression.value, domain.child(undefined));
          if (expression.key !== undefined) this.#bind(scope, expression.key, keysOf(domain));
          break;
        }
        case "every": {
          const domain = this.#term(scope, expression.domain);
          domain.child(undefined).into(scope.local(expression.value.name));
          if (expression.key !== undefined) keysOf(domain).into(scope.local(expression.key.name));
          this.#body(scope, expression.body);
        }
      }
    }
  }

  /** Names of a unification can take any value. */
  #release(scope: Scope, term: Term): void {
    if (term.kind === "var" && !this.#rules.has(term.name)) scope.local(term.name).add("anything");
    if (term.kind === "array") for (const item of term.items) this.#release(scope, item);
    if (term.kind === "object") for (const [, item] of term.entries) this.#release(scope, item);
  }

  /** A term that stands in several rules stands for what it does in any of them. */
  #record(term: Term, flow: Flow): void {
    const known = this.#terms.get(term);
    if (known === flow) return;
    if (known === undefined) {
      this.#terms.set(term, flow);
      return;
    }
    const all = new Flow();
    known.into(all);
    flow.into(all);
    this.#terms.set(term, all);
  }

  #term(scope: Scope, term: Term): Flow {
    const known = scope.terms.get(term);
    if (known !== undefined) return known;
    const flow = this.#flowOf(scope, term);
    scope.terms.set(term, flow);
    this.#record(term, flow);
    return flow;
  }

  #flowOf(scope: Scope, term: Term): Flow {
    switch (term.kind) {
      case "scalar":
        return Flow.of(this.#literal(term));
      case "var":
        if (term.name === "input" || term.name === "data" || term.name === "_") return this.#anything;
        return this.#rules.has(term.name) ? this.ofRule(term.name) : scope.local(term.name);
      case "ref":
        return this.#reference(scope, term);
      case "call":
        return this.#calls.of(term, (part) => this.#term(scope, part));
      case "array":
      case "set": {
        const built = this.#builtOf(term, term.kind);
        for (const item of term.items) this.#term(scope, item).into(built.items);
        return Flow.of(built);
      }
      case "object": {
        const built = this.#builtOf(term, "object");
        for (const [key, value] of term.entries) {
          const flow = this.#term(scope, value);
          this.#term(scope, key).needed();
          if (key.kind === "scalar") built.put(key.value, flow);
          else flow.into(built.items);
        }
        return Flow.of(built);
      }
      case "array-comprehension":
      case "set-comprehension": {
        const built = this.#builtOf(term, term.kind === "array-comprehension" ? "array" : "set");
        this.#body(scope, term.body);
        this.#term(scope, term.head).into(built.items);
        return Flow.of(built);
      }
      case "object-comprehension": {
        const built = this.#builtOf(term, "object");
        this.#body(scope, term.body);
        this.#term(scope, term.key).needed();
        this.#term(scope, term.value).into(built.items);
        return Flow.of(built);
      }
      case "template":
        for (const part of term.parts) if (typeof part !== "string") this.#term(scope, part.term).needed();
        return this.#anything;
    }
  }

  #reference(scope: Scope, term: Term & { readonly kind: "ref" }): Flow {
    let flow = this.#term(scope, term.head);
    for (const step of term.path) {
      const key = this.#term(scope, step);
      if (step.kind === "scalar") {
        flow = flow.child(step.value);
        continue;
      }
      // As a key a value is compared.
      key.needed();
      // A free name is bound by the step.
      if (step.kind === "var" && !this.#rules.has(step.name) && !scope.declared.has(step.name)) scope.local(step.name).add("anything");
      flow = select(flow, key);
    }
    return flow;
  }

  #builtOf(term: Term, kind: Built["kind"]): Built {
    return entry(this.#built, term, () => new Built(kind));
  }
}

/** The names of a rule, and what its terms stand for: a term means something else in another rule. */
class Scope {
  readonly terms: Map<Term, Flow> = new Map();
  readonly #locals = new Map<string, Flow>();
  readonly #rule: Rule;
  #declared: ReadonlySet<string> | undefined;

  constructor(rule: Rule) {
    this.#rule = rule;
  }

  local(name: string): Flow {
    return entry(this.#locals, name, () => new Flow());
  }

  get declared(): ReadonlySet<string> {
    this.#declared ??= declaredIn(this.#rule);
    return this.#declared;
  }
}

function entry<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) map.set(key, (value = make()));
  return value;
}

/** A step whose key is itself a value that flows. */
function select(flow: Flow, key: Flow): Flow {
  const found = new Flow();
  key.listen((member) => {
    if (member instanceof Place) for (const value of member.values) flow.child(value).into(found);
    else flow.child(undefined).into(found);
  });
  return found;
}

function keysOf(domain: Flow): Flow {
  const keys = new Flow();
  domain.listen((member) => {
    if (!(member instanceof Place)) keys.add("anything");
    else if (member.keys().values.length > 0) keys.add(member.keys());
  });
  return keys;
}

/** A body that was found never to hold. */
export function isDead(body: Body): boolean {
  const [first] = body;
  return first?.expression.kind === "term" && !first.negated && first.expression.term.kind === "scalar" && first.expression.term.value === false;
}
