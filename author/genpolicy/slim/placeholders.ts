import type { Clause, Module, Rule, Term } from "@sealpod/rego";
import { RegoObject } from "@sealpod/rego";
import type { Judge } from "./judge.ts";
import { printTerm } from "./print.ts";
import { visitRule } from "./tree.ts";

type Call = Term & { readonly kind: "call" };

/** Largest part of a constant that is written a second time. */
export const MAX_COPY = 80;

/**
 * `strings.replace_n(map, text)` without what stands in no text that it gets; the text itself if nothing is left. Undefined if
 * nothing can be said.
 */
export function usedPlaceholders(call: Call, judge: Judge): { readonly map: Term | undefined; readonly text: Term } | undefined {
  const [map, text] = call.args;
  if (!isReplace(call) || map === undefined || text === undefined) return undefined;
  const all = judge.only(map);
  const texts = textsOf(text, judge);
  if (!(all instanceof RegoObject) || texts === undefined || !judge.isTotal(text)) return undefined;
  const entries = [...all.entries()];
  if (entries.some(([key, value]) => typeof key !== "string" || typeof value !== "string")) return undefined;
  const used = entries.filter(([key]) => typeof key !== "string" || key === "" || texts.some((value) => value.includes(key)));
  if (used.length === 0) return { map: undefined, text };
  const left: Term = { kind: "scalar", at: map.at, value: RegoObject.of(used) };
  // A part of what another rule holds as a whole must be small to be worth while.
  return used.length === all.size || (map.kind === "var" && printTerm(left).length > MAX_COPY) ? undefined : { map: left, text };
}

/** Rules of the members of objects that are read in one way only: as what `strings.replace_n` replaces, and never find their key in a text. */
export function unusedMembers({ rules }: Module, judge: Judge): ReadonlySet<Rule> {
  const members = new Set(rules.filter(({ head }) => head.path.length > 0).map(({ head }) => head.name));
  if (members.size === 0) return new Set();
  const texts = new Map<string, readonly string[]>();
  const mentions = new Map<string, number>();
  for (const rule of rules) {
    visitRule(rule, {
      term: (term) => {
        if (term.kind === "var" && members.has(term.name)) mentions.set(term.name, (mentions.get(term.name) ?? 0) + 1);
        if (term.kind !== "call" || !isReplace(term)) return;
        const [map, text] = term.args;
        const all = text === undefined ? undefined : textsOf(text, judge);
        if (map?.kind !== "var" || !members.has(map.name) || all === undefined) return;
        mentions.set(map.name, (mentions.get(map.name) ?? 0) - 1);
        texts.set(map.name, [...(texts.get(map.name) ?? []), ...all]);
      },
    });
  }
  const unused = new Set<Rule>();
  for (const [name, all] of texts) {
    if (mentions.get(name) !== 0) continue;
    const group = judge.groups.get(name) ?? [];
    // What is no text makes every replacement fail; so does a conflict of two members of one key.
    if (!group.every((rule) => isTextMember(rule, judge)) || new Set(group.map(keyOf)).size !== group.length) continue;
    for (const rule of group) if (!all.some((text) => text.includes(keyOf(rule)))) unused.add(rule);
    // The object itself has to stay.
    const [first] = group;
    if (first !== undefined && group.every((rule) => unused.has(rule))) unused.delete(first);
  }
  return unused;
}

/** All texts that a term can be, if nothing else. */
function textsOf(term: Term, judge: Judge): readonly string[] | undefined {
  const values = judge.flow.of(term).known();
  const texts = values?.filter((value) => typeof value === "string");
  return texts?.length === values?.length ? texts : undefined;
}

function isTextMember(rule: Rule, judge: Judge): boolean {
  const [key, ...more] = rule.head.path;
  const [clause, ...others] = rule.clauses;
  if (key?.kind !== "scalar" || typeof key.value !== "string" || key.value === "" || more.length > 0 || others.length > 0 || clause === undefined) return false;
  return rule.head.item === undefined && isTextClause(clause, judge);
}

/** True if the value of a clause is a text, or there is none: by what it is, or because a pattern matched it. */
function isTextClause({ value, body }: Clause, judge: Judge): boolean {
  if (value === undefined) return false;
  if (judge.flow.of(value).isText()) return true;
  const text = printTerm(value);
  return body.some(({ expression, negated }) => {
    const term = expression.kind === "term" && !negated ? expression.term : undefined;
    return term?.kind === "call" && term.name.join(".") === "regex.match" && term.args[1] !== undefined && printTerm(term.args[1]) === text;
  });
}

function keyOf({ head }: Rule): string {
  const [key] = head.path;
  return key?.kind === "scalar" && typeof key.value === "string" ? key.value : "";
}

function isReplace(term: Call): boolean {
  return term.operator === undefined && term.name.join(".") === "strings.replace_n" && term.args.length === 2;
}
