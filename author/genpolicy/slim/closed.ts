import type { JsonValue } from "@sealpod/core";
import type { Module, Policy, Rule, Term, Value } from "@sealpod/rego";
import { compile, fromJson, isArray, RegoError, RegoObject, toJson } from "@sealpod/rego";
import { DATA_RULE, isDead } from "./flow.ts";
import { printModule } from "./print.ts";
import { RuleGraph } from "./reach.ts";
import { printingRules } from "./reasons.ts";
import { constantRule, neverRule, ruleOf, visitRule } from "./tree.ts";
import { printValue } from "./writer.ts";

/** Deepest constant: that of the parser. */
const MAX_NESTING = 64;

/**
 * Replaces rules that depend on nothing but the data by what they come to, as the engine of the guest decides it: facts about the
 * pod, tables made of its settings, requests that a setting decides. A collection is written out only if that is not longer than
 * the rule and what it walks through. What would print a reason stays.
 */
export class ClosedRules {
  readonly #data: Value;
  /** Rules that were found to be longer as values: they need not be tried again. */
  readonly #tried = new Set<Rule>();

  constructor(data: Value) {
    this.#data = data;
  }

  evaluate(module: Module): Module {
    const groups = Map.groupBy(module.rules, ({ head }) => head.name);
    const graph = new RuleGraph(module);
    const closed = closedRules(module, graph);
    const isOpen = (rule: Rule): boolean => isComplete(rule) && !this.#tried.has(rule);
    const open = [...groups].filter(([name, group]) => closed.has(name) && group.every(isOpen) && !isSettled(group));
    if (open.length === 0) return module;
    const needed = graph.reachedFrom(open.map(([name]) => name));
    const rules = module.rules.filter(({ head }) => needed.has(head.name) && head.name !== DATA_RULE);
    const results = new Results(
      { ...module, rules },
      open.map(([name]) => name),
      toJson(this.#data),
    );
    const printing = printingRules(module);
    const replaced = new Map<string, Rule>();
    for (const [name, group] of open) {
      for (const rule of group) this.#tried.add(rule);
      const result = results.of(name);
      if (result === undefined || (printing.has(name) && result.value !== true)) continue;
      const value = result.value ?? false;
      if (typeof value === "object" && printValue(value).length > this.#lengthOf(module, group)) continue;
      replaced.set(name, result.value === undefined ? neverRule(name) : constantRule(name, value));
    }
    const written = new Set<string>();
    return {
      ...module,
      rules: module.rules.flatMap((rule) => {
        const by = replaced.get(rule.head.name);
        if (by === undefined) return [rule];
        if (written.has(rule.head.name)) return [];
        written.add(rule.head.name);
        return [by];
      }),
    };
  }

  /** Bytes of rules, and of the data that they walk through. */
  #lengthOf(module: Module, rules: readonly Rule[]): number {
    let length = printModule({ ...module, imports: [], rules }).length;
    for (const rule of rules) {
      visitRule(rule, {
        statement: ({ expression }) => {
          const value = expression.kind === "some-in" || expression.kind === "every" ? this.#read(expression.domain) : undefined;
          if (value !== undefined) length += printValue(value).length;
        },
      });
    }
    return length;
  }

  /** What a path into the data leads to. */
  #read(term: Term): Value | undefined {
    if (term.kind !== "ref" || term.head.kind !== "var" || term.head.name !== DATA_RULE) return undefined;
    let value: Value | undefined = this.#data;
    for (const step of term.path) value = value instanceof RegoObject && step.kind === "scalar" ? value.get(step.value) : undefined;
    return value;
  }
}

/** `policy_data := data.closed` */
const DATA_IS_DOCUMENT: Rule = ruleOf(DATA_RULE, {
  at: 0,
  value: { kind: "ref", at: 0, head: { kind: "var", at: 0, name: "data" }, path: [{ kind: "scalar", at: 0, value: "closed" }] },
  body: [],
});

/** What rules come to by themselves. */
class Results {
  readonly #policy: Policy;
  /** All at once; undefined if one of them fails or prints, which says nothing of the others. */
  readonly #all: ReadonlyMap<string, Value> | undefined;

  constructor(module: Module, names: readonly string[], data: JsonValue) {
    // The data comes as a document, which no closed rule reads: so it needs no text. A set is an array in JSON, and not the same.
    const asks = names.map((name) => `closed_results contains ["${name}",${name},${name}==json.unmarshal(json.marshal(${name}))]\n`);
    this.#policy = compile([{ name: "closed", text: `${printModule({ ...module, rules: [...module.rules, DATA_IS_DOCUMENT] })}${asks.join("")}` }]);
    this.#policy.setData({ closed: data });
    const found = this.#valueOf("closed_results")?.value;
    this.#all = isArray(found) ? new Map(found.flatMap((one) => (isArray(one) && typeof one[0] === "string" ? [[one[0], one]] : []))) : undefined;
  }

  /** What a rule comes to; undefined if that cannot be written as JSON, prints, or is an error, which it then is in the guest too. */
  of(name: string): { readonly value: Value | undefined } | undefined {
    const one = this.#all?.get(name);
    if (this.#all !== undefined) return isArray(one) ? (one[2] === true ? { value: one[1] } : undefined) : { value: undefined };
    const result = this.#valueOf(name);
    const isJson = typeof result?.value !== "object" || this.#valueOf(`${name} == json.unmarshal(json.marshal(data.agent_policy.${name}))`)?.value === true;
    return isJson ? result : undefined;
  }

  #valueOf(query: string): { readonly value: Value | undefined } | undefined {
    try {
      const { results, prints } = this.#policy.evaluate(`data.agent_policy.${query}`);
      if (prints.length > 0) return undefined;
      const found = results[0]?.expressions[0];
      return { value: found === undefined ? undefined : fromJson(found, MAX_NESTING) };
    } catch (error) {
      if (error instanceof RegoError) return undefined;
      throw error;
    }
  }
}

/** The rules that lead neither to the input nor to the state. */
function closedRules(module: Module, graph: RuleGraph): ReadonlySet<string> {
  const open = new Set<string>();
  for (const rule of module.rules) {
    const own = rule.head.name;
    visitRule(rule, {
      term: (term) => {
        if (term.kind === "var" && (term.name === "input" || term.name === "data")) open.add(own);
        // What is not the same each time.
        if (term.kind === "call" && ["http", "time", "rand", "uuid", "opa", "rego"].includes(term.name[0] ?? "")) open.add(own);
      },
      statement: ({ modifiers }) => void (modifiers.length > 0 && open.add(own)),
    });
  }
  const found = graph.leadingTo(open);
  return new Set([...graph.names].filter((name) => !found.has(name) && name !== DATA_RULE));
}

function isComplete({ head }: Rule): boolean {
  return head.path.length === 0 && head.item === undefined && head.parameters === undefined;
}

function isSettled(group: readonly Rule[]): boolean {
  const [rule, ...more] = group;
  const [clause, ...others] = rule?.clauses ?? [];
  return (
    more.length === 0 && others.length === 0 && clause !== undefined && ((clause.body.length === 0 && clause.value?.kind === "scalar") || isDead(clause.body))
  );
}
