import type { RuleGroup, RuleTree } from "../analysis/rule-tree.ts";
import type { Builtin } from "../builtins/builtin.ts";
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
}
