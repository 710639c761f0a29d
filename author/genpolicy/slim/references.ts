import type { Module, Rule, Term } from "@sealpod/rego";
import { DATA_RULE } from "./flow.ts";
import { type Rewriter, rewriteRule } from "./rewrite.ts";
import { isField, ruleOf, visitRule } from "./tree.ts";

/** Bytes of a short name, and of a rule around a term: name, `:=`, line break. */
const NAME = 2;
const RULE = 5;

/** The start of a path, as far as it is the same in all bodies: a document or rule, and fields of it. */
interface Path {
  readonly head: string;
  readonly fields: readonly string[];
}

/** A path that got a rule of its own. */
interface Shared extends Path {
  readonly name: string;
}

/**
 * Gives paths that are written again and again (`request.OCI.Linux`) a rule of their own. Such a rule is undefined, false or an
 * error exactly when its path is, and has the same value wherever it is mentioned, as only documents and rules without
 * parameters start one.
 */
export function shareReferences(module: Module, prefix: string): Module {
  const documents = documentsOf(module.rules);
  const written: Path[] = [];
  for (const rule of module.rules) {
    visitRule(rule, {
      term: (term) => {
        const path = term.kind === "ref" ? pathOf(term, documents) : undefined;
        if (path !== undefined) written.push(path);
      },
    });
  }
  const shared: Shared[] = [];
  for (let best = bestPath(written); best !== undefined; best = bestPath(written)) {
    const found = { ...best, name: `${prefix}${shared.length}` };
    shared.push(found);
    for (const [at, path] of written.entries()) written[at] = shortened(path, found);
    written.push(best);
  }
  if (shared.length === 0) return module;
  const by: Rewriter = {
    term: (term) => {
      const path = term.kind === "ref" ? pathOf(term, documents) : undefined;
      if (term.kind !== "ref" || path === undefined) return term;
      const short = shared.reduce(shortened, path);
      return short === path ? term : reference(short, term.path.slice(path.fields.length));
    },
  };
  const rules = module.rules.map((rule) => rewriteRule(rule, by));
  // What is shared later may be a part of what was shared before.
  const own = shared.map((path, at) => {
    const value = reference(shared.slice(at + 1).reduce(shortened, { head: path.head, fields: path.fields }), []);
    return ruleOf(path.name, { at: 0, value, body: [] });
  });
  return { ...module, rules: [...own.reverse(), ...rules] };
}

/** The path that saves most; undefined if none does. */
function bestPath(written: readonly Path[]): Path | undefined {
  const found = new Map<string, { readonly path: Path; count: number; readonly cost: number }>();
  for (const { head, fields } of written) {
    // Names of rules will be short; those of documents stay.
    let cost = head === "input" || head === "data" || head === DATA_RULE ? head.length : NAME;
    let text = head;
    for (const [at, field] of fields.entries()) {
      cost += 1 + field.length;
      text += `.${field}`;
      const entry = found.get(text);
      if (entry === undefined) found.set(text, { path: { head, fields: fields.slice(0, at + 1) }, count: 1, cost });
      else entry.count++;
    }
  }
  let best: Path | undefined;
  let most = 0;
  for (const { path, count, cost } of found.values()) {
    const gain = count * (cost - NAME) - cost - RULE;
    if (gain <= most) continue;
    most = gain;
    best = path;
  }
  return best;
}

/** The path from the shared one on, if it starts with that; itself otherwise. */
function shortened(path: Path, { name, head, fields }: Shared): Path {
  if (path.head !== head || path.fields.length < fields.length || !fields.every((field, at) => field === path.fields[at])) return path;
  return { head: name, fields: path.fields.slice(fields.length) };
}

function pathOf({ head, path }: Term & { readonly kind: "ref" }, documents: ReadonlySet<string>): Path | undefined {
  if (head.kind !== "var" || !documents.has(head.name)) return undefined;
  const end = path.findIndex((step) => !isField(step));
  const fields = (end < 0 ? path : path.slice(0, end)).flatMap((step) => (step.kind === "scalar" && typeof step.value === "string" ? [step.value] : []));
  return { head: head.name, fields };
}

function reference({ head, fields }: Path, more: readonly Term[]): Term {
  const start: Term = { kind: "var", at: 0, name: head };
  const path = [...fields.map((value): Term => ({ kind: "scalar", at: 0, value })), ...more];
  return path.length === 0 ? start : { kind: "ref", at: 0, head: start, path };
}

/** The names that stand for one value in all of an evaluation. */
function documentsOf(rules: readonly Rule[]): ReadonlySet<string> {
  const others = new Set(
    rules.filter(({ head }) => head.parameters !== undefined || head.path.length > 0 || head.item !== undefined).map(({ head }) => head.name),
  );
  return new Set(["input", "data", ...rules.map(({ head }) => head.name).filter((name) => !others.has(name))]);
}
