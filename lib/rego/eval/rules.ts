import type { Definition, LoweredClause } from "../analysis/ir.ts";
import type { RuleGroup } from "../analysis/rule-tree.ts";
import { constantOf } from "../analysis/rule-tree.ts";
import { weighKey } from "../builtins/builtin.ts";
import type { Meter, Value } from "../values/index.ts";
import { equalValues, identity, RegoObject, RegoSet } from "../values/index.ts";
import { BodyCompiler, conflict } from "./body.ts";
import type { Chain, Getter, Slots } from "./closures.ts";
import { newSlots } from "./closures.ts";
import type { FunctionCode, Program } from "./program.ts";
import type { Query } from "./query.ts";
import { newMemory, UNDEFINED } from "./query.ts";

const COMPLETE_CONFLICT = "complete rules must not produce multiple outputs";
const FUNCTION_CONFLICT = "functions must not produce multiple outputs for same inputs";

/** Runs one clause and gives the value of its head. */
type ClauseCode = (query: Query, slots: Slots) => Value | undefined;

/** The document that a group of rules defines: evaluated at most once per query and set of `with` modifiers. */
export function compileDocument(program: Program, group: RuleGroup): (query: Query) => Value | undefined {
  const constant = constantOf(group);
  if (constant !== undefined && !program.traced) return () => constant;
  let run: ((query: Query) => Value | undefined) | undefined;
  const { index } = group;
  return (query) => {
    const cached = query.cache[index];
    if (cached !== undefined) return cached === UNDEFINED ? undefined : cached;
    run ??= compileGroup(program, group);
    query.enter();
    const { cache } = query;
    const value = run(query);
    query.leave();
    cache[index] = value === undefined ? UNDEFINED : value;
    return value;
  };
}

function compileGroup(program: Program, group: RuleGroup): (query: Query) => Value | undefined {
  switch (group.kind) {
    case "complete":
    case "function": {
      const { frameSize, run } = compileSingleValue(program, group, group.kind === "complete" ? COMPLETE_CONFLICT : FUNCTION_CONFLICT);
      return (query) => run(query, newSlots(frameSize));
    }
    case "set":
      return compileSet(program, group);
    case "object":
      return compileObject(program, group);
  }
}

/** A function: its slots start with the arguments. */
export function compileFunction(program: Program, group: RuleGroup): FunctionCode {
  const { frameSize, run } = compileSingleValue(program, group, FUNCTION_CONFLICT);
  const call: ClauseCode = (query, slots) => {
    query.enter();
    const value = run(query, slots);
    query.leave();
    return value;
  };
  // A predicate is rarely asked the same again. What computes a value, such as a pattern out of a template, is.
  return { frameSize, run: haveOneConstant(group.definitions) ? call : remembered(group, call) };
}

/** Results that one query remembers of one function. */
const MAX_REMEMBERED = 1024;

/** A function that is asked once per query for the same arguments, as OPA does it; so it prints once, too. */
function remembered(group: RuleGroup, call: ClauseCode): ClauseCode {
  const { index, arity } = group;
  if (arity === 0) return call;
  return (query, slots) => {
    // Under `with` there are others.
    const { results } = query;
    let memory = results[index];
    if (memory === undefined) results[index] = memory = newMemory();
    for (let at = 0; at < arity - 1; at++) {
      let inner = memory.further.get(slots[at]!);
      if (inner === undefined) {
        if (memory.further.size >= MAX_REMEMBERED) return call(query, slots);
        query.allocate(64);
        inner = newMemory();
        memory.further.set(slots[at]!, inner);
      }
      memory = inner;
    }
    const last = slots[arity - 1]!;
    const found = memory.results.get(last);
    if (found !== undefined) return found === UNDEFINED ? undefined : found;
    const value = call(query, slots);
    if (memory.results.size < MAX_REMEMBERED) {
      query.allocate(16);
      memory.results.set(last, value === undefined ? UNDEFINED : value);
    }
    return value;
  };
}

function frameSizeOf(group: RuleGroup): number {
  let size = group.arity;
  for (const { clauses } of withDefault(group)) for (const clause of clauses) size = Math.max(size, clause.frameSize);
  return size;
}

function withDefault(group: RuleGroup): readonly Definition[] {
  return group.defaultDefinition === undefined ? group.definitions : [...group.definitions, group.defaultDefinition];
}

/** Complete rules and functions: all definitions that hold must agree. */
function compileSingleValue(program: Program, group: RuleGroup, message: string): { readonly frameSize: number; readonly run: ClauseCode } {
  const result = frameSizeOf(group);
  const frameSize = result + 1;
  // With one constant for all outcomes the first solution decides; nothing later can disagree.
  const decisive = haveOneConstant(group.definitions);
  const definitions = group.definitions.map((definition) => compileDefinition(program, group, definition, result, decisive, message));
  const fallback = group.defaultDefinition === undefined ? undefined : compileDefinition(program, group, group.defaultDefinition, result, true, message);
  const places = group.definitions.map(({ clauses }) => clauses[0]!);
  if (definitions.length === 1 && fallback === undefined) return { frameSize, run: definitions[0]! };
  return {
    frameSize,
    run(query, slots) {
      let value: Value | undefined;
      for (let at = 0; at < definitions.length; at++) {
        const found = definitions[at]!(query, slots);
        if (found === undefined) continue;
        if (decisive) return found;
        if (value === undefined) value = found;
        else if (!equalValues(value, found, query)) throw conflict(message, places[at]!.source, places[at]!.at);
      }
      // Null is a value like others here: only undefined makes room for the default.
      return value === undefined ? fallback?.(query, slots) : value;
    },
  };
}

function haveOneConstant(definitions: readonly Definition[]): boolean {
  let constant: Value | undefined;
  for (const { clauses } of definitions) {
    for (const { value } of clauses) {
      if (value.kind !== "const") return false;
      if (constant === undefined) constant = value.value;
      else if (!equalValues(constant, value.value)) return false;
    }
  }
  return true;
}

function compileDefinition(program: Program, group: RuleGroup, definition: Definition, result: number, decisive: boolean, message: string): ClauseCode {
  const clauses = definition.clauses.map((clause) => compileClause(program, group, clause, result, decisive, message));
  if (clauses.length === 1) return clauses[0]!;
  return (query, slots) => {
    for (const clause of clauses) {
      const value = clause(query, slots);
      if (value !== undefined) return value;
    }
    return undefined;
  };
}

function compileClause(program: Program, group: RuleGroup, clause: LoweredClause, result: number, decisive: boolean, message: string): ClauseCode {
  const chain = compileBody(program, group.name, clause, ([value]) => {
    return (query, slots) => {
      const found = value!(query, slots);
      if (found === undefined) return false;
      const earlier = slots[result];
      if (earlier === undefined) slots[result] = found;
      else if (!equalValues(earlier, found, query)) throw conflict(message, clause.source, clause.at);
      return decisive;
    };
  });
  return traceClause(program, group, clause, (query, slots) => {
    slots[result] = undefined;
    chain(query, slots);
    return slots[result];
  });
}

function compileBody(program: Program, rule: string, clause: LoweredClause, finish: (heads: readonly Getter[]) => Chain): Chain {
  const heads = [clause.value, ...clause.path];
  const compiler = new BodyCompiler(program, clause.parameters, rule);
  return compiler.compile(clause.body, (inner) => finish(heads.map((head) => inner.get(head, clause.source))));
}

/** What tells the trace and the observer of a body that starts and ends. */
function bodyProbe(
  program: Program,
  group: RuleGroup,
  clause: LoweredClause,
): { readonly begin: (query: Query) => void; readonly end: (query: Query, held: boolean) => void } {
  const place = program.place(group.name, clause.source, clause.at);
  return {
    begin(query) {
      query.trace?.begin(group.name, clause.source, clause.at);
      query.observer?.enter(place);
    },
    end(query, held) {
      query.observer?.leave(place, held);
      query.trace?.end(held);
    },
  };
}

function traceClause(program: Program, group: RuleGroup, clause: LoweredClause, run: ClauseCode): ClauseCode {
  if (!program.traced) return run;
  const probe = bodyProbe(program, group, clause);
  return (query, slots) => {
    probe.begin(query);
    const value = run(query, slots);
    probe.end(query, value !== undefined);
    return value;
  };
}

function compileSet(program: Program, group: RuleGroup): (query: Query) => Value {
  const result = frameSizeOf(group);
  const clauses = group.definitions.map(({ clauses: [clause] }) => {
    const chain = compileBody(program, group.name, clause!, ([value]) => {
      return (query, slots) => {
        const found = value!(query, slots);
        if (found === undefined) return false;
        query.allocate(16);
        query.solutions++;
        weighKey(found, query);
        (slots[result] as RegoSet).add(found);
        return false;
      };
    });
    return tracedRun(program, group, clause!, chain);
  });
  return (query) => {
    const slots = newSlots(result + 1);
    const set = new RegoSet();
    slots[result] = set;
    for (const clause of clauses) clause(query, slots);
    return set;
  };
}

/** Runs a body that may have any number of solutions; for the trace it held if there was one. */
function tracedRun(program: Program, group: RuleGroup, clause: LoweredClause, chain: Chain): (query: Query, slots: Slots) => void {
  if (!program.traced) return chain;
  const probe = bodyProbe(program, group, clause);
  return (query, slots) => {
    const outside = query.solutions;
    query.solutions = 0;
    probe.begin(query);
    chain(query, slots);
    probe.end(query, query.solutions > 0);
    query.solutions = outside;
  };
}

/** A document under construction: members by identity of their keys, or a value, or the items of a set. */
export interface Draft {
  readonly members: Map<string, { readonly key: Value; readonly draft: Draft }>;
  value: Value | undefined;
  items: RegoSet | undefined;
}

const newDraft = (): Draft => ({ members: new Map(), value: undefined, items: undefined });

/** Rules with variables in their heads: each solution puts a value or a set's item at a path. */
function compileObject(program: Program, group: RuleGroup): (query: Query) => Value {
  const frameSize = frameSizeOf(group);
  const compiled = group.definitions.map(({ clauses }) =>
    clauses.map((clause) => {
      const chain = compileBody(program, group.name, clause, ([value, ...path]) => {
        return (query, slots) => {
          const found = value!(query, slots);
          if (found === undefined) return false;
          const keys: Value[] = [];
          for (const step of path) {
            const key = step(query, slots);
            if (key === undefined) return false;
            keys.push(key);
          }
          query.allocate(32 * keys.length);
          const target = query.drafts.at(-1)!;
          if (!place(target.root, keys, found, clause.isItem, query)) throw conflict("object keys must be unique", clause.source, clause.at);
          target.placed++;
          query.solutions++;
          return false;
        };
      });
      return tracedRun(program, group, clause, chain);
    }),
  );
  return (query) => {
    const target = { root: newDraft(), placed: 0 };
    query.drafts.push(target);
    for (const clauses of compiled) {
      for (const clause of clauses) {
        const before = target.placed;
        clause(query, newSlots(frameSize));
        // An else branch is for the case that nothing was placed.
        if (target.placed > before) break;
      }
    }
    query.drafts.pop();
    return finish(target.root);
  };
}

/** Returns false if the place is taken by something else. */
function place(root: Draft, keys: readonly Value[], value: Value, isItem: boolean, meter: Meter): boolean {
  let draft = root;
  for (const key of keys) {
    if (draft.value !== undefined || draft.items !== undefined) return false;
    const name = identity(key);
    let member = draft.members.get(name);
    if (member === undefined) {
      member = { key, draft: newDraft() };
      draft.members.set(name, member);
    }
    draft = member.draft;
  }
  if (draft.members.size > 0) return false;
  if (isItem) {
    if (draft.value !== undefined) return false;
    draft.items ??= new RegoSet();
    draft.items.add(value);
    return true;
  }
  if (draft.items !== undefined) return false;
  if (draft.value !== undefined) return equalValues(draft.value, value, meter);
  draft.value = value;
  return true;
}

function finish(draft: Draft): Value {
  if (draft.value !== undefined) return draft.value;
  if (draft.items !== undefined) return draft.items;
  const object = new RegoObject();
  for (const { key, draft: inner } of draft.members.values()) object.put(key, finish(inner));
  return object;
}
