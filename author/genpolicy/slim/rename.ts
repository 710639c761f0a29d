import type { Module, Rule, Term } from "@sealpod/rego";
import { type Rewriter, rewriteRule } from "./rewrite.ts";
import { visitRule } from "./tree.ts";

/** Names that mean something by themselves. */
const RESERVED: ReadonlySet<string> = new Set([
  "as",
  "contains",
  "data",
  "default",
  "else",
  "every",
  "false",
  "if",
  "import",
  "in",
  "input",
  "not",
  "null",
  "package",
  "some",
  "true",
  "with",
  "_",
]);

/**
 * Gives rules and local variables the shortest names, the most frequent first. A name stands for the same thing in all of a rule
 * (its bodies and `else` branches), before and after, and no variable ever has the name of a rule: so no scope can change.
 * @param kept rules that are called by their name from outside
 */
export function shortenNames(module: Module, kept: ReadonlySet<string>): Module {
  const rules = new Set(module.rules.map(({ head }) => head.name));
  const uses = new Map<string, number>();
  const count = (name: string): void => void uses.set(name, (uses.get(name) ?? 0) + 1);
  const locals = new Map<Rule, ReadonlyMap<string, number>>();
  const builtins = new Set<string>();
  for (const rule of module.rules) {
    const own = new Map<string, number>();
    const name = (text: string): void => {
      if (rules.has(text)) count(text);
      else if (!RESERVED.has(text)) own.set(text, (own.get(text) ?? 0) + 1);
    };
    count(rule.head.name);
    visitRule(rule, {
      term: (term) => {
        if (term.kind === "var") name(term.name);
        else if (term.kind === "call" && term.operator === undefined) {
          const first = term.name[0] ?? "";
          if (rules.has(first)) count(first);
          else builtins.add(first);
        }
      },
      variable: ({ name: text }) => name(text),
    });
    locals.set(rule, new Map([...own].sort(([, a], [, b]) => b - a)));
  }
  const taken = new Set([...RESERVED, ...builtins, ...kept]);
  // Local variables share their names from rule to rule: the first, the second … of each rule is one name, used as often as all of them.
  const slots: number[] = [];
  for (const own of locals.values()) for (const [at, count] of [...own.values()].entries()) slots[at] = (slots[at] ?? 0) + count;
  const globals = [...rules].filter((name) => !kept.has(name));
  const wanted = [
    ...slots.map((count, slot) => ({ slot, name: "", count })),
    ...globals.map((name) => ({ slot: undefined, name, count: uses.get(name) ?? 0 })),
  ].sort((a, b) => b.count - a.count);
  const names = shortNames(taken);
  const forLocals: string[] = [];
  const renamed = new Map<string, string>();
  for (const { slot, name } of wanted) {
    const short = names.next().value ?? "";
    if (slot === undefined) renamed.set(name, short);
    else forLocals[slot] = short;
  }
  return {
    ...module,
    rules: module.rules.map((rule) => {
      const own = [...(locals.get(rule)?.keys() ?? [])];
      const mine = new Map(own.map((name, at) => [name, forLocals[at] ?? ""] as const));
      const named = renameIn(rule, (name) => mine.get(name) ?? renamed.get(name) ?? name);
      return { ...named, head: { ...named.head, name: renamed.get(rule.head.name) ?? rule.head.name } };
    }),
  };
}

/** Replaces names of variables and rules, where they stand for themselves. */
function renameIn(rule: Rule, of: (name: string) => string): Rule {
  const by: Rewriter = {
    term: (term: Term) => (term.kind === "var" ? { ...term, name: of(term.name) } : term),
    variable: (variable) => ({ ...variable, name: of(variable.name) }),
    callee: ([first, ...rest]) => [rest.length === 0 ? of(first ?? "") : (first ?? ""), ...rest],
  };
  return rewriteRule(rule, by);
}

const FIRST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
const LATER = `${FIRST}0123456789`;

/** Names by length: a, b, … _, aa, ab, … */
function* shortNames(taken: ReadonlySet<string>): Generator<string, never> {
  for (let length = 1; ; length++) for (const name of namesOf(length)) if (!taken.has(name)) yield name;
}

function* namesOf(length: number): Generator<string> {
  if (length === 1) yield* FIRST;
  else for (const start of namesOf(length - 1)) for (const last of LATER) yield start + last;
}
