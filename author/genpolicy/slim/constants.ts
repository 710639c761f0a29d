import { compile, fromJson, isArray, type Policy, toJson, type Value } from "@sealpod/rego";

/** Functions of the language whose result depends on their operands alone, with the number of these. Results are JSON: no sets. */
const FUNCTIONS: Readonly<Record<string, number>> = {
  "array.concat": 2,
  "base64.encode": 1,
  concat: 2,
  contains: 2,
  count: 1,
  endswith: 2,
  format_int: 2,
  is_array: 1,
  is_boolean: 1,
  is_null: 1,
  is_number: 1,
  is_object: 1,
  is_string: 1,
  lower: 1,
  "object.get": 3,
  "object.union": 2,
  "regex.match": 2,
  "regex.replace": 3,
  replace: 3,
  sort: 1,
  split: 2,
  startswith: 2,
  "strings.replace_n": 2,
  substring: 3,
  trim_left: 2,
  trim_prefix: 2,
  trim_right: 2,
  trim_suffix: 2,
};
const OPERATORS: readonly string[] = ["==", "!=", "<", ">", "<=", ">=", "in"];

/** Deepest constant: that of the parser. */
const MAX_NESTING = 64;

const QUERY = "data.calculator.results";

/** Calls of functions with constants, decided by the engine that decides them in the guest. */
export class Calculator {
  readonly #policies = new Map<string, Policy>();
  readonly #known = new Map<string, Value | undefined>();
  readonly #objects = new Map<object, number>();

  /** True for calls that {@link results} can decide. */
  knows(name: string, operator: string | undefined, operands: number): boolean {
    return operator === undefined ? FUNCTIONS[name] === operands : OPERATORS.includes(operator) && operands === 2;
  }

  /** The results of calls of one function, undefined where there is none. */
  results(name: string, operator: string | undefined, calls: readonly (readonly Value[])[]): readonly (Value | undefined)[] {
    const function_ = operator ?? name;
    const keys = calls.map((operands) => [function_, ...operands.map((value) => this.#keyOf(value))].join("\n"));
    const missing = keys.flatMap((key, at) => (this.#known.has(key) ? [] : [at]));
    if (missing.length > 0) {
      for (const at of missing) this.#known.set(keys[at] ?? "", undefined);
      const input = missing.map((at) => (calls[at] ?? []).map(toJson));
      const result = this.#policyOf(function_).evaluate(QUERY, { input, prints: false }).results[0]?.expressions[0];
      const found = result === undefined ? undefined : fromJson(result, MAX_NESTING);
      for (const pair of isArray(found) ? found : []) {
        const [at, value] = isArray(pair) ? pair : [];
        if (typeof at === "number") this.#known.set(keys[missing[at] ?? -1] ?? "", value);
      }
    }
    return keys.map((key) => this.#known.get(key));
  }

  /** A policy that makes all calls of one function at once: most rules need few functions. */
  #policyOf(name: string): Policy {
    let policy = this.#policies.get(name);
    if (policy === undefined) {
      const operands = Array.from({ length: FUNCTIONS[name] ?? 0 }, (_, at) => `x[${at}]`);
      const call = OPERATORS.includes(name) ? `x[0] ${name} x[1]` : `${name}(${operands.join(", ")})`;
      const text = `package calculator\nimport rego.v1\nresults := [[at, value] | some at, x in input; value := ${call}]\n`;
      this.#policies.set(name, (policy = compile([{ name: "calculator", text }])));
    }
    return policy;
  }

  /** Text by which a value is found again: the same text is the same value. */
  #keyOf(value: Value): string {
    if (typeof value === "string") return JSON.stringify(value);
    if (typeof value !== "object" || value === null) return `${typeof value} ${String(value)}`;
    let number = this.#objects.get(value);
    if (number === undefined) this.#objects.set(value, (number = this.#objects.size));
    return `object ${number}`;
  }
}
