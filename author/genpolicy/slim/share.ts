import type { Module, Rule, Term, Value } from "@sealpod/rego";
import { isArray, RegoObject } from "@sealpod/rego";
import { folded, type Rewriter, rewriteRule } from "./rewrite.ts";
import { ruleOf } from "./tree.ts";
import { printValue } from "./writer.ts";

/** Puts constants that are rules of their own where they are mentioned: what {@link shareConstants} starts from. */
export function unshareConstants(module: Module, kept: ReadonlySet<string>): Module {
  let current = module;
  for (;;) {
    const groups = Map.groupBy(current.rules, ({ head }) => head.name);
    const constants = new Map<string, Term>();
    for (const [name, [rule, ...others]] of groups) {
      const value = rule === undefined || others.length > 0 || kept.has(name) ? undefined : constantOf(rule);
      if (value !== undefined) constants.set(name, value);
    }
    if (constants.size === 0) return current;
    const by: Rewriter = { term: (term) => folded(term.kind === "var" ? (constants.get(term.name) ?? term) : term) };
    current = { ...current, rules: current.rules.filter(({ head }) => !constants.has(head.name)).map((rule) => rewriteShareable(rule, by)) };
  }
}

function constantOf({ head, clauses, isDefault }: Rule): Term | undefined {
  const [clause, ...others] = clauses;
  if (isDefault || others.length > 0 || clause === undefined || clause.body.length > 0 || clause.value?.kind !== "scalar") return undefined;
  return head.path.length > 0 || head.item !== undefined || head.parameters !== undefined ? undefined : clause.value;
}

/** Bytes of a mention: a short name and what separates it. */
const MENTION = 2;
/** Bytes of the rule around a shared constant: name, `:=`, line break. */
const RULE = 5;

/**
 * Takes constants that stand in the text several times (strings, arrays and objects, of the data and of the rules alike) out
 * into rules of their own, where that is shorter. A constant and a rule that is this constant mean the same in every term; heads
 * and patterns keep theirs.
 */
export function shareConstants(module: Module, prefix: string): Module {
  const pool = new ConstantPool();
  const counter: Rewriter = {
    term: (term) => {
      if (term.kind === "scalar") pool.count(term.value);
      return term;
    },
    keepsFields: true,
  };
  for (const rule of module.rules) rewriteShareable(rule, counter);
  const names = new Map<number, string>();
  const constants: Value[] = [];
  for (const [id, { value, count, length }] of pool.counted()) {
    if (count <= 1 || (count - 1) * (length - MENTION) <= MENTION + RULE) continue;
    names.set(id, `${prefix}${constants.length}`);
    constants.push(value);
  }
  const shared = (value: Value, isOwn = false): Term => {
    const name = isOwn ? undefined : names.get(pool.idOf(value));
    if (name !== undefined) return { kind: "var", at: 0, name };
    if (isArray(value)) return { kind: "array", at: 0, items: value.map((item) => shared(item)) };
    if (value instanceof RegoObject) return { kind: "object", at: 0, entries: [...value.entries()].map(([key, item]) => [shared(key), shared(item)]) };
    return { kind: "scalar", at: 0, value };
  };
  const by: Rewriter = { term: (term) => (term.kind === "scalar" ? shared(term.value) : term), keepsFields: true };
  const rules = module.rules.map((rule) => rewriteShareable(rule, by));
  const own = constants.map((value, at) => ruleOf(`${prefix}${at}`, { at: 0, value: shared(value, true), body: [] }));
  return { ...module, rules: [...own, ...rules] };
}

/** Equal constants by one number each, so that no text is written to compare them. */
class ConstantPool {
  readonly #ids = new Map<string, number>();
  readonly #known = new Map<object, number>();
  readonly #entries: { readonly value: Value; count: number; readonly length: number }[] = [];

  /** Counts a constant, and what is in it unless that was counted with an equal one: inside the second copy nothing will be left. */
  count(value: Value): void {
    const entry = this.#entries[this.idOf(value)];
    if (entry === undefined || entry.length <= MENTION || !isShareable(value)) return;
    if (++entry.count > 1) return;
    if (isArray(value)) for (const item of value) this.count(item);
    else if (value instanceof RegoObject) {
      for (const [key, item] of value.entries()) {
        this.count(key);
        this.count(item);
      }
    }
  }

  counted(): IterableIterator<[number, { readonly value: Value; readonly count: number; readonly length: number }]> {
    return this.#entries.entries();
  }

  /** Number of a value; equal ones have the same. */
  idOf(value: Value): number {
    if (typeof value !== "object" || value === null) return this.#enter(printValue(value), value, undefined);
    const known = this.#known.get(value);
    if (known !== undefined) return known;
    const parts = isArray(value) ? value : value instanceof RegoObject ? [...value.entries()].flat() : value.items();
    const ids = parts.map((part) => this.idOf(part));
    // Brackets and, between the parts, commas and colons.
    const length = ids.reduce((sum, id) => sum + (this.#entries[id]?.length ?? 0), 2 + Math.max(0, ids.length - 1));
    const kind = isArray(value) ? "[" : value instanceof RegoObject ? "{" : "<";
    const id = this.#enter(`${kind}${ids.join(",")}`, value, length);
    this.#known.set(value, id);
    return id;
  }

  #enter(key: string, value: Value, length: number | undefined): number {
    let id = this.#ids.get(key);
    if (id === undefined) {
      this.#ids.set(key, (id = this.#entries.length));
      this.#entries.push({ value, count: 0, length: length ?? key.length });
    }
    return id;
  }
}

function isShareable(value: Value): boolean {
  return typeof value === "string" || isArray(value) || value instanceof RegoObject;
}

/** Rewrites a rule where a constant may become a name: not in heads, nor what a default rule is. */
function rewriteShareable(rule: Rule, by: Rewriter): Rule {
  if (rule.isDefault) return rule;
  const done = rewriteRule(rule, by);
  return { ...done, head: rule.head };
}
