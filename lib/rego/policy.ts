import type { Clock, JsonObject, JsonValue, Random } from "@sealpod/core";
import { refuseRecursion } from "./analysis/dependencies.ts";
import { operandsOf, visitOperand } from "./analysis/ir.ts";
import type { Environment, ModuleScope, Negation, Signature } from "./analysis/lower.ts";
import { Lowerer, moduleScope, namesByPackage } from "./analysis/lower.ts";
import type { TreeNode } from "./analysis/rule-tree.ts";
import { formatPath, RuleTree } from "./analysis/rule-tree.ts";
import { orderBlock, Ordering, requireSafe } from "./analysis/safety.ts";
import type { RegoTypeChecker, RuleTypes } from "./analysis/type-check.ts";
import type { Builtin } from "./builtins/builtin.ts";
import { weigh } from "./builtins/builtin.ts";
import { RegoError } from "./errors.ts";
import { BodyCompiler } from "./eval/body.ts";
import type { Chain } from "./eval/closures.ts";
import { newSlots } from "./eval/closures.ts";
import { Program } from "./eval/program.ts";
import { Query } from "./eval/query.ts";
import { TraceRecorder } from "./eval/trace-recorder.ts";
import { CompletedEvaluation, guardStack } from "./evaluation.ts";
import type { RegoLimits } from "./limits.ts";
import { withLimits } from "./limits.ts";
import { checkRegexes, checkRules, lowerRules, parseModules, withFunctions } from "./load.ts";
import type { EvaluationObserver, Place } from "./observer.ts";
import { RegexCache } from "./regex/cache.ts";
import type { Body, Module, RegoVersion } from "./syntax/ast.ts";
import { isDiagnostics, parseModule, parseQuery } from "./syntax/parser.ts";
import type { Position } from "./syntax/source.ts";
import { Diagnostics, diagnosticsError, Source } from "./syntax/source.ts";
import type { Trace } from "./trace.ts";
import type { PatchStep, Value } from "./values/index.ts";
import { applyPatch, fromJson, keyText, parsePointer, PatchError, RegoObject, toJson } from "./values/index.ts";

/** One module of a policy. */
export interface RegoModule {
  /** Stands in positions of errors and in front of printed lines; for policies of an agent `agent_policy`. */
  readonly name: string;
  readonly text: string;
  /** Dialect; the default is that of {@link CompileOptions}. `import rego.v1` makes a module v1 in any case. */
  readonly version?: RegoVersion;
}

/** A function that the caller gives to a policy. */
export interface HostFunction {
  /** Name as called, e.g. `query_reference_value`; dots are allowed. It may not be the name of a builtin. */
  readonly name: string;
  readonly arity: number;
  /** Undefined makes the call undefined. Synchronous: what takes time is fetched before the evaluation. */
  call(...args: readonly JsonValue[]): JsonValue | undefined;
}

export interface CompileOptions {
  /** Dialect of modules that do not say theirs, and of nothing else; `v1` if left out. */
  readonly version?: RegoVersion;
  readonly limits?: Partial<RegoLimits>;
  readonly hostFunctions?: readonly HostFunction[];
  /** Builtin functions beyond the core, e.g. those of `@sealpod/rego-extended`. A name of the core is refused. */
  readonly builtins?: readonly Builtin[];
  /** A failing builtin aborts the query instead of being undefined. */
  readonly strictBuiltinErrors?: boolean;
  /**
   * Lets functions call themselves, which OPA refuses and the rules of some AKS releases do (`replace_str_rec`). Depth is
   * bounded by `maxCallDepth`.
   */
  readonly allowRecursiveFunctions?: boolean;
  /** `TYPE_CHECKER` refuses modules and queries with expressions that can never have a value, as OPA's type checker does. Left out, such expressions are undefined. */
  readonly typeChecker?: RegoTypeChecker;
  /**
   * What `not f(input.x)` means without `input.x`: undefined, as OPA has it (`opa`, the default, fails closed), or true, as the
   * engine of the Kata agent has it (`regorus`). For policies written against that engine and not yet reviewed.
   */
  readonly negation?: Negation;
}

export interface EvaluateOptions {
  /** The input document; left out, `input` is undefined. */
  readonly input?: JsonValue;
  /** The data document for this query alone, in place of the policy's. @throws {RegoError} ERR_REGO_DATA */
  readonly data?: JsonValue;
  /** The package whose rules the query may name without `data`, e.g. `data.agent_policy` or `agent_policy`. */
  readonly package?: string;
  /** Imports of the query, e.g. `input.request as r`. */
  readonly imports?: readonly string[];
  /** For `time.now_ns` and for the limit on time. */
  readonly clock?: Clock;
  /** For builtins that draw random values (`rand.intn`, `uuid.rfc4122`); without it they are undefined. */
  readonly random?: Random;
  readonly limits?: Partial<RegoLimits>;
  /** False drops all `print` calls, as OPA does unless told otherwise: faster, and no verdict depends on them. */
  readonly prints?: boolean;
  /** Records which rule bodies were tried. Costs a second compilation on first use, and time. */
  readonly trace?: boolean;
  /** Sees rule bodies and statements as they run; costs what a trace does. */
  readonly observer?: EvaluationObserver;
}

/** One solution of a query. */
export interface RegoResult {
  /** The value of each statement of the query; true for those that are no plain terms. */
  readonly expressions: readonly JsonValue[];
  /** Variables of the query, wildcards apart. Sets are sorted arrays; keys that are no strings are their JSON text. */
  readonly bindings: JsonObject;
}

/** One statement of a query, as written. */
export interface QueryStatement {
  readonly text: string;
  readonly position: Position;
}

/** What an evaluation used of its limits. */
export interface EvaluationCost {
  readonly steps: number;
  readonly memory: number;
  readonly calls: number;
}

export interface Evaluation {
  /** Empty if the query is undefined. */
  readonly results: readonly RegoResult[];
  /** The query's statements: one for each of the expressions of a result. */
  readonly statements: readonly QueryStatement[];
  /** Lines of `print`, each `<module name>:<line>: <text>`. Formatted on first access. */
  readonly prints: readonly string[];
  readonly cost: EvaluationCost;
  readonly trace?: Trace;
}

/** One operation of RFC 6902. */
export interface PatchOperation {
  readonly op: "add" | "remove" | "replace" | "move" | "copy" | "test";
  readonly path: string;
  readonly from?: string;
  readonly value?: JsonValue;
}

/** A compiled policy with its data document. */
export interface Policy {
  /**
   * Evaluates a query, e.g. `data.agent_policy.CreateContainerRequest` or any body.
   * @throws {RegoError} ERR_REGO_PARSE, ERR_REGO_UNSAFE and other load errors for the query itself; ERR_REGO_CONFLICT; ERR_REGO_LIMIT_*;
   * with strict builtin errors ERR_REGO_BUILTIN, ERR_REGO_OPERAND
   */
  evaluate(query: string, options?: EvaluateOptions): Evaluation;
  /** @throws {RegoError} ERR_REGO_DATA, ERR_REGO_LIMIT_NESTING; then the old document stays */
  setData(data: JsonValue): void;
  /** Applies a JSON Patch to the data document: all of it or nothing. @throws {RegoError} ERR_REGO_PATCH, ERR_REGO_DATA */
  patchData(operations: readonly PatchOperation[]): void;
  /** Every place that an {@link EvaluationObserver} can see. */
  places(): readonly Place[];
}

/** Compiled queries that a policy keeps; callers ask the same dozen again and again. */
const MAX_QUERIES = 64;

/** Name under which errors of a query are reported. */
const QUERY_NAME = "query";

/**
 * Compiles modules to a policy. Everything that can be known to be wrong is reported at once: syntax, unsafe variables,
 * unknown functions, arity, recursion, rules that do not go together, literal regular expressions.
 * @throws {RegoError} with all diagnostics; ERR_REGO_PARSE, _COMPILE, _UNSAFE, _RECURSION, _TYPE, _REGEX, _LIMIT_SOURCE, _LIMIT_NESTING
 */
export function compile(modules: readonly RegoModule[], options: CompileOptions = {}): Policy {
  return new CompiledPolicy(modules, options);
}

interface CompiledQuery {
  readonly run: (query: Query) => void;
  readonly statements: readonly QueryStatement[];
}

class CompiledPolicy implements Policy {
  readonly #limits: RegoLimits;
  readonly #strict: boolean;
  readonly #negation: Negation;
  readonly #builtins: ReadonlyMap<string, Builtin>;
  /** Names of the rules of each package. */
  readonly #names: ReadonlyMap<string, ReadonlySet<string>>;
  readonly #tree: RuleTree;
  readonly #program: Program;
  #tracedProgram: Program | undefined;
  readonly #regexes: RegexCache;
  readonly #typeChecker: RegoTypeChecker | undefined;
  readonly #types: RuleTypes | undefined;
  readonly #queries = new Map<string, CompiledQuery>();
  #data: RegoObject = RegoObject.empty;

  constructor(modules: readonly RegoModule[], options: CompileOptions) {
    this.#limits = withLimits(options.limits);
    this.#strict = options.strictBuiltinErrors ?? false;
    this.#negation = options.negation ?? "opa";
    this.#builtins = withFunctions(options.builtins ?? [], options.hostFunctions ?? [], this.#limits);
    const parsed = parseModules(modules, options.version ?? "v1", this.#limits);
    this.#names = namesByPackage(parsed);
    const diagnostics = new Diagnostics();
    this.#tree = new RuleTree(parsed, diagnostics);
    diagnostics.throwIfAny();
    lowerRules(this.#tree, parsed, this.#names, this.#environment(diagnostics));
    diagnostics.throwIfAny();
    this.#regexes = new RegexCache(this.#limits.maxRegexCache);
    checkRules(this.#tree, this.#builtins, this.#regexes, diagnostics, this.#limits);
    refuseRecursion(this.#tree, diagnostics, options.allowRecursiveFunctions ?? false);
    diagnostics.throwIfAny();
    this.#typeChecker = options.typeChecker;
    this.#types = this.#typeChecker?.rules(this.#tree, diagnostics);
    diagnostics.throwIfAny();
    this.#program = new Program(this.#tree, this.#builtins, false);
  }

  evaluate(text: string, options: EvaluateOptions = {}): Evaluation {
    const limits = withLimits(options.limits, this.#limits);
    const traced = options.trace === true || options.observer !== undefined;
    const recorder = options.trace === true ? new TraceRecorder(limits.maxTraceEntries) : undefined;
    const results: RegoResult[] = [];
    const query = new Query({
      base: options.data === undefined ? this.#data : this.#checkedData(fromJson(options.data, limits.maxNesting)),
      input: options.input === undefined ? undefined : fromJson(options.input, limits.maxNesting),
      limits,
      strict: this.#strict,
      keepsPrints: options.prints !== false,
      regexes: this.#regexes,
      clock: options.clock,
      random: options.random,
      trace: recorder,
      observer: options.observer,
      onSolution: (expressions, bindings) => {
        if (results.length >= limits.maxResults) {
          throw new RegoError("ERR_REGO_LIMIT_RESULTS", `the query has more than ${limits.maxResults} results`, { details: { limit: limits.maxResults } });
        }
        for (const value of expressions) weigh(value, query);
        weigh(bindings, query);
        results.push({ expressions: expressions.map(toJson), bindings: toJson(bindings) as JsonObject });
      },
    });
    const compiled = this.#query(text, options, traced, limits);
    guardStack(() => compiled.run(query));
    return new CompletedEvaluation(results, compiled.statements, query, recorder);
  }

  setData(data: JsonValue): void {
    this.#replaceData(fromJson(data, this.#limits.maxNesting));
  }

  patchData(operations: readonly PatchOperation[]): void {
    let patched: Value;
    try {
      const steps = operations.map((operation) => patchStep(operation, this.#limits));
      patched = guardStack(() => applyPatch(this.#data, steps));
    } catch (error) {
      if (error instanceof PatchError) throw new RegoError("ERR_REGO_PATCH", `the patch does not apply: ${error.message}`, { cause: error });
      throw error;
    }
    this.#replaceData(patched);
  }

  places(): readonly Place[] {
    return this.#traced().allPlaces();
  }

  #traced(): Program {
    this.#tracedProgram ??= new Program(this.#tree, this.#builtins, true);
    return this.#tracedProgram;
  }

  #replaceData(data: Value): void {
    this.#data = this.#checkedData(data);
  }

  #checkedData(data: Value): RegoObject {
    if (!(data instanceof RegoObject)) throw new RegoError("ERR_REGO_DATA", "the data document must be an object");
    refuseConflicts(this.#tree.root, data, []);
    return data;
  }

  #environment(diagnostics: Diagnostics): Environment {
    return { tree: this.#tree, diagnostics, negation: this.#negation, signature: (name): Signature | undefined => this.#builtins.get(name) };
  }

  #query(text: string, options: EvaluateOptions, traced: boolean, limits: RegoLimits): CompiledQuery {
    const header = queryHeader(options);
    const key = `${traced ? "traced" : "plain"} ${header}${text}`;
    let compiled = this.#queries.get(key);
    if (compiled === undefined) {
      compiled = this.#compileQuery(text, this.#queryScope(header, limits), traced ? this.#traced() : this.#program, limits);
      if (this.#queries.size >= MAX_QUERIES) this.#queries.delete(this.#queries.keys().next().value!);
      this.#queries.set(key, compiled);
    }
    return compiled;
  }

  /** What names mean in a query: nothing but the documents, unless it stands in a package. */
  #queryScope(header: string, limits: RegoLimits): ModuleScope {
    const source = new Source(QUERY_NAME, header);
    if (header === "") return { module: { source, version: "v1", packagePath: [], imports: [], rules: [] }, imports: new Map(), rules: new Set() };
    const module = parseModule(source, "v1", limits);
    if (isDiagnostics(module)) throw diagnosticsError(module);
    return moduleScope(module as Module, this.#names);
  }

  #compileQuery(text: string, scope: ModuleScope, program: Program, limits: RegoLimits): CompiledQuery {
    const source = new Source(QUERY_NAME, text);
    const body = parseQuery(source, limits);
    if (isDiagnostics(body)) throw diagnosticsError(body);
    const diagnostics = new Diagnostics();
    const lowerer = new Lowerer(this.#environment(diagnostics), { ...scope, module: { ...scope.module, source } });
    const { block, expressions } = lowerer.query(body as Body);
    diagnostics.throwIfAny();
    const ordering = new Ordering(diagnostics);
    requireSafe(expressions, orderBlock(block, new Set(), ordering), source, 0, ordering);
    checkRegexes(block, this.#builtins, this.#regexes, diagnostics, this.#limits);
    diagnostics.throwIfAny();
    if (this.#types !== undefined) this.#typeChecker?.query(block, this.#tree, this.#types, diagnostics);
    diagnostics.throwIfAny();
    // Names inside comprehensions are not the query's own.
    const own = new Set<object>();
    for (const flat of block.statements)
      for (const operand of operandsOf(flat.op))
        visitOperand(
          operand,
          (variable) => own.add(variable),
          () => undefined,
        );
    const named = lowerer.named.filter((variable) => own.has(variable));
    const compiler = new BodyCompiler(program, []);
    const chain: Chain = compiler.compile(block, (inner) => {
      const getters = expressions.map((operand) => inner.get(operand, source));
      return (query, slots) => {
        const values: Value[] = [];
        for (const get of getters) {
          const value = get(query, slots);
          if (value === undefined) return false;
          values.push(value);
        }
        const bindings = new RegoObject();
        for (const { name, slot } of named) bindings.put(name, slots[slot]!);
        query.onSolution(values, bindings);
        return false;
      };
    });
    const { frameSize } = lowerer;
    const statements = (body as Body).map(({ at, end }) => ({ text: text.slice(at, end), position: source.position(at) }));
    return { run: (query) => chain(query, newSlots(frameSize)), statements };
  }
}

/** A base document may not stand where a rule or a package does. */
function refuseConflicts(node: TreeNode, base: Value, path: readonly Value[]): void {
  if (node.group !== undefined) {
    throw new RegoError(
      "ERR_REGO_DATA",
      `conflicting rule for data path ${path.map(keyText).join("/")} found: the data document has a value where ${formatPath(path)} is defined by a rule`,
    );
  }
  if (!(base instanceof RegoObject)) {
    if (node.children.size === 0) return;
    throw new RegoError("ERR_REGO_DATA", `the data document has a value that is no object at ${path.map(keyText).join("/")}, where a package stands`);
  }
  for (const [key, child] of node.children) {
    const value = base.get(key);
    if (value !== undefined) refuseConflicts(child, value, [...path, key]);
  }
}

function patchStep(operation: PatchOperation, limits: RegoLimits): PatchStep {
  const path = parsePointer(operation.path);
  // The document may not get deeper by patches than it may be set.
  const value = operation.value === undefined ? undefined : fromJson(operation.value, Math.max(0, limits.maxNesting - path.length));
  return {
    op: operation.op,
    path,
    ...(operation.from === undefined ? {} : { from: parsePointer(operation.from) }),
    ...(value === undefined ? {} : { value }),
  };
}

/** The package and the imports of a query as the start of a module; empty without both. */
function queryHeader({ package: name, imports }: EvaluateOptions): string {
  if (name === undefined && imports === undefined) return "";
  const path = name === undefined ? "query" : name.startsWith("data.") ? name.slice("data.".length) : name;
  return [`package ${path}`, ...(imports ?? []).map((item) => `import ${item}`), ""].join("\n");
}
