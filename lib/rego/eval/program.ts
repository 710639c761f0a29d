import { visitStatements } from "../analysis/dependencies.ts";
import type { RuleGroup, RuleTree } from "../analysis/rule-tree.ts";
import type { Builtin } from "../builtins/builtin.ts";
import type { Place } from "../observer.ts";
import type { Source } from "../syntax/source.ts";
import type { Value } from "../values/index.ts";
import type { Slots } from "./closures.ts";
import type { Query } from "./query.ts";
import { compileDocument, compileFunction } from "./rules.ts";

/** A compiled function: `slots` starts with the arguments and has room for `frameSize` values. */
export interface FunctionCode {
  readonly frameSize: number;
  run(query: Query, slots: Slots): Value | undefined;
}

/**
 * The compiled form of a policy. Rules are compiled when they are first needed; everything that can be wrong with them
 * was checked at load.
 */
export class Program {
  readonly tree: RuleTree;
  /** True for the second compilation that keeps a trace; the first one knows nothing of traces and pays nothing. */
  readonly traced: boolean;
  readonly #builtins: ReadonlyMap<string, Builtin>;
  readonly #documents = new Map<RuleGroup, (query: Query) => Value | undefined>();
  readonly #functions = new Map<RuleGroup, FunctionCode>();
  readonly #places = new Map<Source, Map<string, Place>>();

  constructor(tree: RuleTree, builtins: ReadonlyMap<string, Builtin>, traced: boolean) {
    this.tree = tree;
    this.#builtins = builtins;
    this.traced = traced;
  }

  builtin(name: string): Builtin | undefined {
    return this.#builtins.get(name);
  }

  /** The document of a group of rules. */
  document(group: RuleGroup): (query: Query) => Value | undefined {
    let code = this.#documents.get(group);
    if (code === undefined) {
      code = compileDocument(this, group);
      this.#documents.set(group, code);
    }
    return code;
  }

  /** The function that a group of rules defines. */
  function(group: RuleGroup): FunctionCode {
    let code = this.#functions.get(group);
    if (code === undefined) {
      code = compileFunction(this, group);
      this.#functions.set(group, code);
    }
    return code;
  }

  /** The place of a body (`end` is left out) or of a statement: one object per place. */
  place(rule: string, source: Source, at: number, end?: number): Place {
    let ofSource = this.#places.get(source);
    if (ofSource === undefined) this.#places.set(source, (ofSource = new Map()));
    const key = `${at} ${end ?? ""} ${rule}`;
    let place = ofSource.get(key);
    if (place === undefined) {
      const line = source.text.indexOf("\n", at);
      const stop = end ?? (line === -1 ? source.text.length : line);
      const kind = end === undefined ? "body" : "statement";
      place = { kind, rule, position: source.position(at), end: source.position(stop), text: source.text.slice(at, stop) };
      ofSource.set(key, place);
    }
    return place;
  }

  /** Every place of the policy's rules. */
  allPlaces(): readonly Place[] {
    const places = new Set<Place>();
    for (const group of this.tree.groups) {
      const definitions = group.defaultDefinition === undefined ? group.definitions : [...group.definitions, group.defaultDefinition];
      for (const clause of definitions.flatMap((definition) => definition.clauses)) {
        places.add(this.place(group.name, clause.source, clause.at));
        visitStatements(clause.body.statements, ({ source, at, end }) => {
          if (end > at) places.add(this.place(group.name, source, at, end));
        });
      }
    }
    return [...places];
  }
}
