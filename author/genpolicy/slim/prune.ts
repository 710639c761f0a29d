import type { Module, Term, Value } from "@sealpod/rego";
import { isArray, RegoObject } from "@sealpod/rego";
import { DATA_RULE } from "./flow.ts";
import type { Place } from "./places.ts";

/**
 * Leaves out of the data what no rule reads. Items of arrays stay, with less in them, since rules count them and name them by
 * their index; so does every key of an object whose keys are walked through.
 * @param root the place of the data, in an analysis of this module
 */
export function pruneData(module: Module, root: Place): Module {
  return withData(module, (term) => (term.kind === "scalar" ? { ...term, value: pruned(term.value, [root]) } : term));
}

/** The module with another value of the rule that holds the data. */
export function withData(module: Module, change: (value: Term) => Term): Module {
  return {
    ...module,
    rules: module.rules.map((rule) =>
      rule.head.name === DATA_RULE
        ? { ...rule, clauses: rule.clauses.map((clause) => (clause.value === undefined ? clause : { ...clause, value: change(clause.value) })) }
        : rule,
    ),
  };
}

/** @param places all that this value stands at: it is reached by its own key, and as one of many */
function pruned(value: Value, places: readonly Place[]): Value {
  if (places.some(({ whole }) => whole)) return value;
  const child = (key: string | number, item: Value): Value =>
    pruned(
      item,
      places.flatMap((place) => place.placesOf(key)),
    );
  if (isArray(value)) return value.map((item, at) => child(at, item));
  if (!(value instanceof RegoObject)) return value;
  const object = new RegoObject();
  for (const [key, item] of value.entries()) {
    if (typeof key === "string" && places.some(({ walked, fields }) => walked || fields.has(key))) object.put(key, child(key, item));
  }
  return object;
}
