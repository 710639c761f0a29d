import { visitStatements } from "./analysis/dependencies.ts";
import type { Block, Definition } from "./analysis/ir.ts";
import type { Environment, ModuleScope } from "./analysis/lower.ts";
import { Lowerer, moduleScope } from "./analysis/lower.ts";
import type { RuleTree, SourceRule } from "./analysis/rule-tree.ts";
import { orderClause, Ordering } from "./analysis/safety.ts";
import type { Builtin } from "./builtins/builtin.ts";
import { BUILTINS } from "./builtins/index.ts";
import { RegoError } from "./errors.ts";
import type { RegoLimits } from "./limits.ts";
import type { HostFunction, RegoModule } from "./policy.ts";
import type { RegexCache } from "./regex/cache.ts";
import { RegexSyntaxError } from "./regex/cache.ts";
import type { Module, RegoVersion } from "./syntax/ast.ts";
import { isDiagnostics, parseModule } from "./syntax/parser.ts";
import { Diagnostics, Source } from "./syntax/source.ts";
import { fromJson, toJson } from "./values/index.ts";

// The steps of loading a policy, each of which reports everything that is wrong before the next one starts.

/** All functions that a policy may call. */
export function withFunctions(builtins: readonly Builtin[], functions: readonly HostFunction[], limits: RegoLimits): ReadonlyMap<string, Builtin> {
  if (builtins.length === 0 && functions.length === 0) return BUILTINS;
  const all = new Map(BUILTINS);
  const add = (builtin: Builtin): void => {
    if (all.has(builtin.name)) throw new RegoError("ERR_REGO_TYPE", `there is a function ${builtin.name} already; give this one another name`);
    all.set(builtin.name, builtin);
  };
  builtins.forEach(add);
  for (const host of functions) {
    const { name, arity } = host;
    add({
      name,
      arity,
      call(args) {
        const result = host.call(...args.map(toJson));
        return result === undefined ? undefined : fromJson(result, limits.maxNesting);
      },
    });
  }
  return all;
}

/** Parses all modules. @throws {RegoError} with all diagnostics */
export function parseModules(modules: readonly RegoModule[], version: RegoVersion, limits: RegoLimits): readonly Module[] {
  const diagnostics = new Diagnostics();
  const parsed: Module[] = [];
  for (const { name, text, version: own } of modules) {
    const result = parseModule(new Source(name, text), own ?? version, limits);
    if (isDiagnostics(result)) diagnostics.addAll(result);
    else parsed.push(result as Module);
  }
  diagnostics.throwIfAny();
  refuseTooManyRules(parsed, limits, diagnostics);
  diagnostics.throwIfAny();
  return parsed;
}

/** Branches of `else` count as rules. */
function refuseTooManyRules(modules: readonly Module[], { maxRules }: RegoLimits, diagnostics: Diagnostics): void {
  let rules = 0;
  for (const { source, rules: own } of modules) {
    for (const { clauses, at } of own) {
      rules += clauses.length;
      if (rules <= maxRules) continue;
      diagnostics.add("ERR_REGO_LIMIT_SOURCE", source, at, `the policy has more rules than the limit of ${maxRules}`);
      return;
    }
  }
}

/** Lowers the rules of all groups. */
export function lowerRules(tree: RuleTree, modules: readonly Module[], names: ReadonlyMap<string, ReadonlySet<string>>, environment: Environment): void {
  const scopes = new Map<Module, ModuleScope>(modules.map((module) => [module, moduleScope(module, names)]));
  const lower = (entry: SourceRule): Definition => ({
    clauses: entry.rule.clauses.map((clause) => new Lowerer(environment, scopes.get(entry.module)!).clause(entry, clause)),
  });
  for (const group of tree.groups) {
    group.definitions = group.rules.map(lower);
    group.defaultDefinition = group.defaultRule === undefined ? undefined : lower(group.defaultRule);
  }
}

/** Orders all bodies, and checks what needs that order. */
export function checkRules(tree: RuleTree, builtins: ReadonlyMap<string, Builtin>, regexes: RegexCache, diagnostics: Diagnostics, limits: RegoLimits): void {
  const ordering = new Ordering(diagnostics);
  for (const group of tree.groups) {
    const definitions = group.defaultDefinition === undefined ? group.definitions : [...group.definitions, group.defaultDefinition];
    for (const { clauses } of definitions) {
      for (const clause of clauses) {
        orderClause(clause, new Set(clause.parameters), ordering);
        checkRegexes(clause.body, builtins, regexes, diagnostics, limits);
      }
    }
  }
}

/**
 * Refuses literal patterns that are not RE2 syntax. At run time such a call would be undefined, and its negation true:
 * a policy whose pattern never matches must not load.
 */
export function checkRegexes(block: Block, builtins: ReadonlyMap<string, Builtin>, regexes: RegexCache, diagnostics: Diagnostics, limits: RegoLimits): void {
  visitStatements(block.statements, ({ op, source, at }) => {
    if (op.kind !== "call" || op.callee.kind !== "builtin") return;
    const operand = builtins.get(op.callee.name)?.patternOperand;
    const pattern = operand === undefined ? undefined : op.args[operand];
    if (pattern?.kind !== "const" || typeof pattern.value !== "string") return;
    try {
      regexes.get(pattern.value, limits);
    } catch (error) {
      if (error instanceof RegexSyntaxError)
        diagnostics.add("ERR_REGO_REGEX", source, at, `the pattern ${JSON.stringify(pattern.value)} is not RE2 syntax: ${error.message}`);
      else if (error instanceof RegoError) diagnostics.add(error.code, source, at, error.message);
      else throw error;
    }
  });
}
