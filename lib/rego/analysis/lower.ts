import type { Body, Clause, Module, Statement, Term, WithModifier } from "../syntax/ast.ts";
import type { Diagnostics } from "../syntax/source.ts";
import type { RegoErrorCode } from "../errors.ts";
import type { Value } from "../values/index.ts";
import { formatValue, identity, isArray, keyText, RegoObject, RegoSet, typeName } from "../values/index.ts";
import { findClosures } from "./ir.ts";
import type { Block, Callee, Comprehension, Flat, LoweredClause, Modifier, Op, Operand, PrintArgument, RefBase, RefOperand, Variable } from "./ir.ts";
import type { RuleGroup, RuleTree, SourceRule } from "./rule-tree.ts";
import { formatPath } from "./rule-tree.ts";

/** What the analysis must know of a builtin or host function. */
export interface Signature {
  /** Number of operands. */
  readonly arity: number;
  /** Set for functions of v0 that v1 has no more. */
  readonly deprecated?: boolean;
}

/**
 * What `not f(x)` means when `x` is undefined: undefined as in OPA (`opa`), or true as in regorus (`regorus`), which takes
 * the operands as part of what is negated.
 */
export type Negation = "opa" | "regorus";

/** What all bodies of a compilation share. */
export interface Environment {
  readonly tree: RuleTree;
  readonly diagnostics: Diagnostics;
  readonly negation: Negation;
  signature(name: string): Signature | undefined;
}

/** How names of one module resolve to documents: its imports, then the rules of its package. */
export interface ModuleScope {
  readonly module: Module;
  /** Paths from the root (`data` or `input` first) by imported name. */
  readonly imports: ReadonlyMap<string, readonly string[]>;
  /** Names of the rules of the package; all its modules share them. */
  readonly rules: ReadonlySet<string>;
}

const NO_NAMES: ReadonlySet<string> = new Set();

/** The scope of a module. */
export function moduleScope(module: Module, namesByPackage: ReadonlyMap<string, ReadonlySet<string>>): ModuleScope {
  const imports = new Map<string, readonly string[]>();
  for (const { path, alias } of module.imports) {
    if (path[0] === "rego" || path[0] === "future") continue;
    imports.set(alias ?? path.at(-1)!, path);
  }
  return { module, imports, rules: namesByPackage.get(formatPath(module.packagePath)) ?? NO_NAMES };
}

/** Names of the rules of each package. */
export function namesByPackage(modules: readonly Module[]): ReadonlyMap<string, ReadonlySet<string>> {
  const names = new Map<string, Set<string>>();
  for (const module of modules) {
    const key = formatPath(module.packagePath);
    let set = names.get(key);
    if (set === undefined) {
      set = new Set();
      names.set(key, set);
    }
    for (const rule of module.rules) set.add(rule.head.name);
  }
  return names;
}

/** The names that one body (or one parameter list) declares. */
interface Frame {
  /** Names declared anywhere in this body: they hide rules and imports in all of it. */
  readonly hidden: ReadonlySet<string>;
  readonly declared: Map<string, { readonly variable: Variable; readonly how: "declared" | "assigned" | "parameter" }>;
  /** Names used before they were declared here. */
  readonly seen: Set<string>;
}

/** Stands where an operand cannot be given a meaning; there is a diagnostic for it already. */
const NOTHING: Operand = { kind: "const", value: null };

const NO_MODIFIERS: readonly Modifier[] = [];

/** Names what an expression of a template string is under its modifiers; no name in a policy looks like that. */
const MODIFIED = "$modified";

/** Longest text of a constant in the description of a reference. */
const MAX_TEXT = 60;

/**
 * Lowers the clauses of one rule: resolves names, gives each variable a slot, and takes nested calls, references and
 * conditions apart into flat statements.
 */
export class Lowerer {
  readonly #environment: Environment;
  readonly #scope: ModuleScope;
  readonly #frames: Frame[] = [];
  readonly #undeclared = new Map<string, Variable>();
  readonly #used = new Set<Variable>();
  readonly #reads: (RefOperand | RuleGroup)[] = [];
  #slots = 0;
  #statement: Statement | undefined;
  /** Variables of a query that its caller may ask for, in order of appearance. */
  readonly named: Variable[] = [];

  constructor(environment: Environment, scope: ModuleScope) {
    this.#environment = environment;
    this.#scope = scope;
  }

  get frameSize(): number {
    return this.#slots;
  }

  /** Lowers one clause of a rule of a group. */
  clause(entry: SourceRule, clause: Clause): LoweredClause {
    const { head } = entry.rule;
    if (this.#mustNotShadow(head.name)) this.#error("ERR_REGO_COMPILE", head.at, `rules must not shadow ${head.name} (use a different rule name)`);
    const out: Flat[] = [];
    const body: Block = { statements: out };
    const outline = implicitStatement(clause.at);
    this.#statement = outline;
    const parameters = head.parameters ?? [];
    const slots = parameters.map((parameter) => this.#fresh("parameter", parameter.kind === "var" ? parameter.name : "$argument", parameter.at));
    this.#frames.push({ hidden: declaredNames(clause.body, parameters), declared: new Map(), seen: new Set() });
    parameters.forEach((parameter, at) => this.#parameter(parameter, slots[at]!, out));
    this.#statements(clause.body, out);
    // The head is part of the body's end: its references and calls are statements too.
    this.#statement = outline;
    const path = head.path.slice(entry.fixedSteps).map((step) => this.#operand(step, out));
    const value: Operand =
      head.item !== undefined ? this.#operand(head.item, out) : clause.value === undefined ? { kind: "const", value: true } : this.#operand(clause.value, out);
    this.#closeFrame();
    return {
      source: this.#scope.module.source,
      at: clause.at,
      body,
      value,
      path,
      isItem: head.item !== undefined,
      parameters: slots,
      frameSize: this.#slots,
      reads: this.#reads,
    };
  }

  /**
   * Lowers a query. The value of each statement that is a plain term or a call is kept in a variable of its own, so that
   * `data.t.p` answers false as well as true. In a query of several statements, or one that iterates, it must hold.
   */
  query(body: Body): { readonly block: Block; readonly expressions: readonly Operand[] } {
    const out: Flat[] = [];
    const expressions: Operand[] = [];
    this.#frames.push({ hidden: declaredNames(body, []), declared: new Map(), seen: new Set() });
    for (const statement of body) {
      const { expression } = statement;
      if (expression.kind === "term" && !statement.negated && !isPrint(expression.term)) {
        expressions.push(this.#captured(statement, expression.term, out, body.length > 1 || iterates(expression.term)));
        continue;
      }
      this.#lowerStatement(statement, out);
      expressions.push({ kind: "const", value: true });
    }
    this.#closeFrame();
    return { block: { statements: out }, expressions };
  }

  /** Lowers a statement of a query that is a term, and gives the operand that holds its value. */
  #captured(statement: Statement, term: Term, out: Flat[], mustHold: boolean): Operand {
    this.#statement = statement;
    let value: Operand = this.#generated(term.at);
    this.#withModifiers(statement, out, () => {
      if (term.kind !== "call" || isEmptySet(term)) {
        this.#emit({ kind: "unify", left: value, right: this.#top(term, out) }, out);
      } else if (this.#hasPlainArity(term)) {
        this.#call(term, value, out);
      } else {
        this.#callStatement(term, out);
        value = { kind: "const", value: true };
      }
    });
    if (mustHold) this.#emit({ kind: "test", operand: value }, out);
    return value;
  }

  // Names

  #fresh(kind: Variable["kind"], name: string, at: number): Variable {
    return { name, slot: this.#slots++, at, kind, uses: 0 };
  }

  #generated(at: number, name = ""): Operand & { kind: "var" } {
    return { kind: "var", variable: this.#fresh("generated", name, at) };
  }

  #frame(): Frame {
    return this.#frames.at(-1)!;
  }

  #error(code: RegoErrorCode, at: number, message: string): void {
    this.#environment.diagnostics.add(code, this.#scope.module.source, at, message);
  }

  #declare(name: string, at: number, how: "declared" | "assigned"): Variable {
    const frame = this.#frame();
    if (this.#mustNotShadow(name)) this.#error("ERR_REGO_COMPILE", at, `variables must not shadow ${name} (use a different name)`);
    const earlier = frame.declared.get(name);
    if (earlier !== undefined)
      this.#error(
        "ERR_REGO_COMPILE",
        at,
        `var ${name} ${earlier.how === "parameter" ? "is a parameter and cannot be declared again" : `${earlier.how} above`}`,
      );
    else if (frame.seen.has(name)) this.#error("ERR_REGO_COMPILE", at, `var ${name} referenced above`);
    const variable = this.#fresh("local", name, at);
    frame.declared.set(name, { variable, how });
    this.named.push(variable);
    return variable;
  }

  /** True for the names of the two documents; v0 let rules and variables hide them. */
  #mustNotShadow(name: string): boolean {
    return (name === "input" || name === "data") && this.#scope.module.version === "v1";
  }

  /** The innermost declared variable of a name. */
  #declared(name: string): Variable | undefined {
    for (let at = this.#frames.length - 1; at >= 0; at--) {
      const found = this.#frames[at]!.declared.get(name);
      if (found !== undefined) return found.variable;
    }
    return undefined;
  }

  #isHidden(name: string): boolean {
    return this.#frames.some((frame) => frame.hidden.has(name));
  }

  /** The document a name stands for, as a path that starts with `data` or `input`; undefined for local names. */
  #document(name: string): readonly string[] | undefined {
    if (this.#declared(name) !== undefined || this.#isHidden(name)) return undefined;
    const { imports, rules, module } = this.#scope;
    const imported = imports.get(name);
    if (imported !== undefined) return imported;
    if (rules.has(name)) return ["data", ...module.packagePath, name];
    return name === "data" || name === "input" ? [name] : undefined;
  }

  #local(name: string, at: number): Variable {
    if (name === "_") return this.#fresh("wildcard", "_", at);
    const declared = this.#declared(name);
    if (declared !== undefined) {
      this.#used.add(declared);
      return declared;
    }
    this.#frame().seen.add(name);
    let variable = this.#undeclared.get(name);
    if (variable === undefined) {
      variable = this.#fresh("local", name, at);
      this.#undeclared.set(name, variable);
      this.named.push(variable);
    }
    return variable;
  }

  #closeFrame(): void {
    const frame = this.#frames.pop()!;
    for (const [name, { variable, how }] of frame.declared) {
      if (how === "declared" && !this.#used.has(variable)) this.#error("ERR_REGO_COMPILE", variable.at, `declared var ${name} unused`);
    }
  }

  // Statements

  #emit(op: Op, out: Flat[], negated = false): void {
    const { at, end } = this.#statement!;
    out.push({ op, negated, modifiers: NO_MODIFIERS, closures: findClosures(op, NO_MODIFIERS), outputs: [], source: this.#scope.module.source, at, end });
  }

  #parameter(parameter: Term, variable: Variable, out: Flat[]): void {
    const frame = this.#frame();
    if (parameter.kind === "var" && parameter.name === "_") return;
    if (parameter.kind === "var" && !frame.declared.has(parameter.name)) {
      if (this.#mustNotShadow(parameter.name))
        this.#error("ERR_REGO_COMPILE", parameter.at, `parameters must not shadow ${parameter.name} (use a different name)`);
      frame.declared.set(parameter.name, { variable, how: "parameter" });
      return;
    }
    for (const name of patternNames(parameter)) {
      if (frame.declared.has(name.name)) continue;
      frame.declared.set(name.name, { variable: this.#fresh("local", name.name, name.at), how: "parameter" });
    }
    this.#emit({ kind: "unify", left: { kind: "var", variable }, right: this.#operand(parameter, out) }, out);
  }

  #statements(body: Body, out: Flat[]): void {
    const outer = this.#statement;
    for (const statement of body) this.#lowerStatement(statement, out);
    this.#statement = outer;
  }

  #lowerStatement(statement: Statement, out: Flat[]): void {
    const outer = this.#statement;
    this.#statement = statement;
    const whole = statement.negated && this.#environment.negation === "regorus" && statement.expression.kind !== "assign";
    this.#withModifiers(statement, out, () => (whole ? this.#negateWhole(statement, out) : this.#expression(statement, out)));
    this.#statement = outer;
  }

  /** `not e` as "e has no solution": `[true | e]` is empty. */
  #negateWhole(statement: Statement, out: Flat[]): void {
    const statements: Flat[] = [];
    this.#frames.push({ hidden: new Set(), declared: new Map(), seen: new Set() });
    this.#expression({ ...statement, negated: false, modifiers: [] }, statements);
    this.#closeFrame();
    const solutions: Operand = {
      kind: "comprehension",
      type: "array",
      key: undefined,
      value: { kind: "const", value: true },
      body: { statements },
      accumulator: this.#slots++,
      at: statement.at,
    };
    this.#emit({ kind: "equal", left: solutions, right: { kind: "const", value: [] } }, out);
  }

  /** Values of modifiers are computed outside their effect; everything the statement was taken apart into is under it. */
  #withModifiers(statement: Statement, out: Flat[], lower: () => void): void {
    const modifiers: Modifier[] = [];
    for (const modifier of statement.modifiers) {
      const lowered = this.#modifier(modifier, out);
      if (lowered !== undefined) modifiers.push(lowered);
    }
    const start = out.length;
    lower();
    if (modifiers.length === 0) return;
    for (let at = start; at < out.length; at++) out[at] = { ...out[at]!, modifiers, closures: findClosures(out[at]!.op, modifiers) };
  }

  #modifier(modifier: WithModifier, out: Flat[]): Modifier | undefined {
    const path = this.#targetPath(modifier.target);
    if (path === undefined) {
      this.#error("ERR_REGO_TYPE", modifier.target.at, "the target of a with modifier must be input, data, a function or a path below these");
      return undefined;
    }
    const [root, ...rest] = path;
    if (root === "input") return { kind: "input", path: rest, value: this.#operand(modifier.value, out) };
    const dotted = path.map(keyText).join(".");
    if (root === "data") {
      if (rest.some((_, at) => this.#environment.tree.find(rest.slice(0, at))?.group !== undefined)) {
        this.#error(
          "ERR_REGO_TYPE",
          modifier.target.at,
          `a with modifier cannot replace a part of what a rule defines: ${formatPath(rest)} is below a rule; replace the rule`,
        );
        return undefined;
      }
      const group = this.#environment.tree.find(rest)?.group;
      if (group?.kind !== "function") return { kind: "data", path: rest, value: this.#operand(modifier.value, out) };
      return { kind: "callee", name: group.name, value: this.#replacement(modifier.value, group.arity, out) };
    }
    const signature = root === "internal" ? undefined : this.#environment.signature(dotted);
    if (signature === undefined) {
      this.#error("ERR_REGO_TYPE", modifier.target.at, `the target of a with modifier must be input, data or a function; there is no function ${dotted}`);
      return undefined;
    }
    return { kind: "callee", name: dotted, value: this.#replacement(modifier.value, signature.arity, out) };
  }

  /** What replaces a function: another function if the term names one, else a value. */
  #replacement(term: Term, arity: number, out: Flat[]): Operand | Callee {
    const path = this.#targetPath(term);
    if (path !== undefined) {
      const name = path.map(keyText);
      const callee = this.#callee(name, name[0] === "data");
      if (callee !== undefined && (callee.kind === "function" || name[0] !== "data")) {
        const found = callee.kind === "function" ? callee.group.arity : this.#environment.signature(callee.name)!.arity;
        if (found !== arity) this.#error("ERR_REGO_TYPE", term.at, `the replacement takes ${found} arguments, the function it replaces ${arity}`);
        return callee;
      }
    }
    return this.#operand(term, out);
  }

  /** The absolute path that a term names: `["input", ...]`, `["data", ...]` or the parts of a builtin's name. */
  #targetPath(term: Term): readonly Value[] | undefined {
    const head = term.kind === "ref" ? term.head : term;
    if (head.kind !== "var" || this.#declared(head.name) !== undefined) return undefined;
    const path: Value[] = [...(this.#document(head.name) ?? [head.name])];
    if (term.kind === "ref") {
      for (const step of term.path) {
        if (step.kind !== "scalar") return undefined;
        path.push(step.value);
      }
    }
    return path;
  }

  #expression(statement: Statement, out: Flat[]): void {
    const { expression, negated } = statement;
    switch (expression.kind) {
      case "some":
        for (const { name, at } of expression.variables) this.#declare(name, at, "declared");
        return;
      case "some-in":
        this.#someIn(expression.key, expression.value, expression.domain, out);
        return;
      case "every":
        this.#every(expression, out);
        return;
      case "assign":
        if (negated) {
          this.#error("ERR_REGO_COMPILE", expression.at, 'a variable cannot be assigned under "not"');
          return;
        }
        this.#assign(expression.target, expression.value, out);
        return;
      case "unify":
        if (negated) this.#emit({ kind: "unify", left: this.#top(expression.left, out), right: this.#top(expression.right, out) }, out, true);
        else this.#unify(expression.left, expression.right, out);
        return;
      case "term":
        this.#condition(expression.term, negated, out);
    }
  }

  #condition(term: Term, negated: boolean, out: Flat[]): void {
    if (term.kind !== "call" || isEmptySet(term)) {
      this.#emit({ kind: "test", operand: this.#top(term, out) }, out, negated);
      return;
    }
    if (isPrint(term)) {
      const args = term.args.map((argument) => this.#printArgument(argument));
      this.#emit({ kind: "print", args }, out, negated);
      return;
    }
    if (term.operator === "==") {
      this.#emit({ kind: "equal", left: this.#top(term.args[0]!, out), right: this.#top(term.args[1]!, out) }, out, negated);
      return;
    }
    this.#callStatement(term, out, negated);
  }

  #callStatement(term: Term & { kind: "call" }, out: Flat[], negated = false): void {
    const callee = this.#resolveCallee(term, 1);
    if (callee === undefined) return;
    const arity = this.#arityOf(callee);
    const args = term.args.slice(0, arity).map((argument) => this.#operand(argument, out));
    const last = term.args[arity];
    const result = last === undefined ? undefined : this.#operand(last, out);
    this.#emit({ kind: "call", callee, args, result }, out, negated);
  }

  #printArgument(argument: Term): PrintArgument {
    const statements: Flat[] = [];
    this.#frames.push({ hidden: new Set(), declared: new Map(), seen: new Set() });
    const value = this.#operand(argument, statements);
    this.#closeFrame();
    return { body: { statements }, value };
  }

  #someIn(key: Term | undefined, value: Term, domain: Term, out: Flat[]): void {
    const base = this.#refBase(domain, out);
    for (const pattern of key === undefined ? [value] : [key, value]) {
      for (const { name, at } of patternNames(pattern)) this.#used.add(this.#declare(name, at, "declared"));
    }
    const step: Operand = key === undefined ? { kind: "var", variable: this.#fresh("wildcard", "_", value.at) } : this.#operand(key, out);
    const ref: Operand = { kind: "ref", base: base.base, path: [...base.path, step], at: domain.at };
    this.#emit({ kind: "unify", left: this.#operand(value, out), right: ref }, out);
  }

  /** A term as the start of a reference. */
  #refBase(term: Term, out: Flat[]): { readonly base: RefBase; readonly path: readonly Operand[] } {
    const top = this.#top(term, out);
    if (top.kind === "ref") {
      // The domain is one value: it is found first, and iterated after that.
      const domain = this.#generated(term.at, this.#textOf(top));
      this.#emit({ kind: "unify", left: domain, right: top }, out);
      return { base: { kind: "var", variable: domain.variable }, path: [] };
    }
    if (top.kind === "var") return { base: { kind: "var", variable: top.variable }, path: [] };
    const domain = this.#generated(term.at);
    this.#emit({ kind: "unify", left: domain, right: top }, out);
    return { base: { kind: "var", variable: domain.variable }, path: [] };
  }

  #every(expression: Statement["expression"] & { kind: "every" }, out: Flat[]): void {
    const domain = this.#operand(expression.domain, out);
    const statements: Flat[] = [];
    this.#frames.push({
      hidden: declaredNames(expression.body, [expression.value, ...(expression.key === undefined ? [] : [expression.key])]),
      declared: new Map(),
      seen: new Set(),
    });
    const bind = (name: string, at: number): Variable => (name === "_" ? this.#fresh("wildcard", "_", at) : this.#declare(name, at, "declared"));
    const key = expression.key === undefined ? undefined : bind(expression.key.name, expression.key.at);
    const value = bind(expression.value.name, expression.value.at);
    this.#statements(expression.body, statements);
    this.#closeFrame();
    this.#emit({ kind: "every", key, value, domain, body: { statements } }, out);
  }

  #assign(target: Term, value: Term, out: Flat[]): void {
    // The value is read before the name exists: in `x := x` the second x is another one.
    if (value.kind === "call" && !isEmptySet(value) && !isPrint(value)) {
      const result = this.#generated(value.at);
      const before = out.length;
      this.#call(value, result, out);
      const pattern = this.#target(target, out);
      const call = out[out.length - 1];
      if (pattern.kind === "var" && out.length > before && call !== undefined && call.op.kind === "call" && call.op.result === result) {
        out[out.length - 1] = { ...call, op: { ...call.op, result: pattern } };
        return;
      }
      this.#emitUnify(pattern, result, out);
      return;
    }
    const right = this.#top(value, out);
    this.#emitUnify(this.#target(target, out), right, out);
  }

  #target(target: Term, out: Flat[]): Operand {
    switch (target.kind) {
      case "var":
        if (target.name === "_") return { kind: "var", variable: this.#fresh("wildcard", "_", target.at) };
        return { kind: "var", variable: this.#declare(target.name, target.at, "assigned") };
      case "array":
        return fold({ kind: "array", items: target.items.map((item) => this.#target(item, out)) });
      case "object":
        return fold({ kind: "object", entries: target.entries.map(([key, value]) => [this.#operand(key, out), this.#target(value, out)]) });
      case "scalar":
        // Plain data comes as one constant. A pattern may have no scalars: there would be nothing to assign to.
        if (holdsScalar(target.value))
          this.#error("ERR_REGO_COMPILE", target.at, `cannot assign to a ${typeName(target.value)}; compare with == or unify with =`);
        return { kind: "const", value: target.value };
      case "ref":
        this.#error("ERR_REGO_COMPILE", target.at, "cannot assign to a reference");
        return NOTHING;
      case "call":
        this.#error("ERR_REGO_COMPILE", target.at, "cannot assign to a call");
        return NOTHING;
      default:
        this.#error("ERR_REGO_COMPILE", target.at, `cannot assign to a ${target.kind.replace("-", " ")}`);
        return NOTHING;
    }
  }

  #unify(left: Term, right: Term, out: Flat[]): void {
    // A call's result goes straight into the other side, if that is a name or a constant.
    if (right.kind === "call" && isSimple(left) && !isEmptySet(right)) {
      this.#call(right, this.#operand(left, out), out);
      return;
    }
    if (left.kind === "call" && isSimple(right) && !isEmptySet(left)) {
      this.#call(left, this.#operand(right, out), out);
      return;
    }
    const leftOperand = this.#top(left, out);
    this.#emitUnify(leftOperand, this.#top(right, out), out);
  }

  /** Two literals of one shape unify part by part, so that each part may bind variables of either side. */
  #emitUnify(left: Operand, right: Operand, out: Flat[]): void {
    if (left.kind === "array" && right.kind === "array" && left.items.length === right.items.length) {
      left.items.forEach((item, at) => this.#emitUnify(item, right.items[at]!, out));
      return;
    }
    if (left.kind === "object" && right.kind === "object" && left.entries.length === right.entries.length) {
      const pairs = matchEntries(left.entries, right.entries);
      if (pairs !== undefined) {
        for (const [a, b] of pairs) this.#emitUnify(a, b, out);
        return;
      }
    }
    if (left.kind === "array" && right.kind === "const" && Array.isArray(right.value) && right.value.length === left.items.length) {
      const values = right.value as readonly Value[];
      left.items.forEach((item, at) => this.#emitUnify(item, { kind: "const", value: values[at]! }, out));
      return;
    }
    if (right.kind === "array" && left.kind === "const") {
      this.#emitUnify(right, left, out);
      return;
    }
    this.#emit({ kind: "unify", left, right }, out);
  }

  // Terms

  /** A term where a reference may stay as it is: a side of a unification, a condition. */
  #top(term: Term, out: Flat[]): Operand {
    if (term.kind === "ref") return this.#ref(term, out);
    if (term.kind === "var") {
      const path = this.#document(term.name);
      if (path !== undefined) return this.#documentRef(path, [], term.at);
    }
    if (isComprehension(term)) return this.#comprehensionOf(term);
    return this.#operand(term, out);
  }

  #comprehensionOf(term: ComprehensionTerm): Operand {
    switch (term.kind) {
      case "array-comprehension":
        return this.#comprehension("array", undefined, term.head, term.body, term.at);
      case "set-comprehension":
        return this.#comprehension("set", undefined, term.head, term.body, term.at);
      case "object-comprehension":
        return this.#comprehension("object", term.key, term.value, term.body, term.at);
    }
  }

  /** A term as a simple operand: calls, references and comprehensions become statements before it. */
  #operand(term: Term, out: Flat[]): Operand {
    switch (term.kind) {
      case "scalar":
        return { kind: "const", value: term.value };
      case "var": {
        const path = this.#document(term.name);
        if (path !== undefined) return this.#hoist(this.#documentRef(path, [], term.at), term.at, out);
        return { kind: "var", variable: this.#local(term.name, term.at) };
      }
      case "ref":
        return this.#hoist(this.#ref(term, out), term.at, out);
      case "call": {
        if (isEmptySet(term)) return { kind: "const", value: RegoSet.empty };
        if (isPrint(term)) {
          this.#error("ERR_REGO_TYPE", term.at, "print(...) has no value; it must be a statement of its own");
          return NOTHING;
        }
        const result = this.#generated(term.at, this.#callText(term));
        this.#call(term, result, out);
        return result;
      }
      case "array":
        return fold({ kind: "array", items: term.items.map((item) => this.#operand(item, out)) });
      case "set":
        return fold({ kind: "set", items: term.items.map((item) => this.#operand(item, out)) });
      case "object":
        return fold({ kind: "object", entries: term.entries.map(([key, value]) => [this.#operand(key, out), this.#operand(value, out)]) });
      case "array-comprehension":
      case "set-comprehension":
      case "object-comprehension":
        return this.#hoist(this.#comprehensionOf(term), term.at, out);
      case "template":
        return this.#template(term, out);
    }
  }

  /** The parts of a template string: an undefined expression in it prints as `<undefined>`, as in `print`. */
  #template(term: Term & { kind: "template" }, out: Flat[]): Operand {
    const parts = term.parts.map((part): Operand => {
      if (typeof part === "string") return { kind: "const", value: part };
      const { at, modifiers } = part;
      if (modifiers.length === 0) return this.#comprehension("set", undefined, part.term, [], at);
      const value: Term = { kind: "var", at, name: MODIFIED };
      const statement: Statement = { at, end: at, negated: false, expression: { kind: "assign", at, target: value, value: part.term }, modifiers };
      return this.#comprehension("set", undefined, value, [statement], at);
    });
    const result = this.#generated(term.at);
    this.#emit({ kind: "call", callee: { kind: "builtin", name: "internal.template_string" }, args: [fold({ kind: "array", items: parts })], result }, out);
    return result;
  }

  #hoist(ref: Operand, at: number, out: Flat[]): Operand {
    const result = this.#generated(at, this.#textOf(ref));
    this.#emit({ kind: "unify", left: result, right: ref }, out);
    return result;
  }

  #documentRef(path: readonly string[], rest: readonly Operand[], at: number): Operand & { kind: "ref" } {
    const [root, ...steps] = path;
    const base: RefBase = root === "input" ? { kind: "input" } : { kind: "data" };
    const ref: RefOperand = { kind: "ref", base, path: [...steps.map((step): Operand => ({ kind: "const", value: step })), ...rest], at };
    if (base.kind === "data") this.#reads.push(ref);
    return ref;
  }

  #ref(term: Term & { kind: "ref" }, out: Flat[]): Operand {
    const { head } = term;
    if (head.kind === "var") {
      const document = this.#document(head.name);
      const variable = document === undefined ? this.#local(head.name, head.at) : undefined;
      const path = term.path.map((step) => this.#operand(step, out));
      if (document !== undefined) return this.#documentRef(document, path, term.at);
      return { kind: "ref", base: { kind: "var", variable: variable! }, path, at: term.at };
    }
    const value = this.#operand(head, out);
    let base: Variable;
    if (value.kind === "var") {
      base = value.variable;
    } else {
      const named = this.#generated(head.at);
      this.#emit({ kind: "unify", left: named, right: value }, out);
      base = named.variable;
    }
    return { kind: "ref", base: { kind: "var", variable: base }, path: term.path.map((step) => this.#operand(step, out)), at: term.at };
  }

  #comprehension(type: Comprehension["type"], key: Term | undefined, value: Term, body: Body, at: number): Operand {
    const statements: Flat[] = [];
    this.#frames.push({ hidden: declaredNames(body, []), declared: new Map(), seen: new Set() });
    this.#statements(body, statements);
    const keyOperand = key === undefined ? undefined : this.#operand(key, statements);
    const valueOperand = this.#operand(value, statements);
    this.#closeFrame();
    return { kind: "comprehension", type, key: keyOperand, value: valueOperand, body: { statements }, accumulator: this.#slots++, at };
  }

  // Calls

  #call(term: Term & { kind: "call" }, result: Operand, out: Flat[]): void {
    const callee = this.#resolveCallee(term, 0);
    if (callee === undefined) return;
    const args = term.args.map((argument) => this.#operand(argument, out));
    this.#emit({ kind: "call", callee, args, result }, out);
  }

  #arityOf(callee: Callee): number {
    return callee.kind === "function" ? callee.group.arity : this.#environment.signature(callee.name)!.arity;
  }

  /** False if the call has a further argument, which is its result. */
  #hasPlainArity(term: Term & { kind: "call" }): boolean {
    const callee = this.#calleeOf(term);
    return callee === undefined || this.#arityOf(callee) === term.args.length;
  }

  #calleeOf(term: Term & { kind: "call" }): Callee | undefined {
    if (term.operator !== undefined) return { kind: "builtin", name: term.name.join(".") };
    const [head, ...rest] = term.name;
    if (this.#declared(head!) !== undefined) return undefined;
    const document = this.#document(head!);
    return this.#callee([...(document ?? [head!]), ...rest], document !== undefined);
  }

  /** @param isDocument true if the name is a path that starts with `data` or `input` */
  #callee(name: readonly string[], isDocument: boolean): Callee | undefined {
    if (isDocument) {
      const group = name[0] === "data" ? this.#environment.tree.find(name.slice(1))?.group : undefined;
      if (group?.kind !== "function") return undefined;
      this.#reads.push(group);
      return { kind: "function", group };
    }
    const dotted = name.join(".");
    return this.#environment.signature(dotted) === undefined ? undefined : { kind: "builtin", name: dotted };
  }

  /** The function that a call means; complains if there is none or the number of arguments is wrong. */
  #resolveCallee(term: Term & { kind: "call" }, extra: 0 | 1): Callee | undefined {
    const dotted = term.name.join(".");
    const callee = this.#calleeOf(term);
    if (callee === undefined) {
      this.#error("ERR_REGO_TYPE", term.at, `undefined function ${dotted}`);
      return undefined;
    }
    const arity = this.#arityOf(callee);
    if (term.args.length !== arity && term.args.length !== arity + extra) {
      this.#error(
        "ERR_REGO_TYPE",
        term.at,
        `function ${callee.kind === "function" ? callee.group.name : dotted} has arity ${arity}, got ${term.args.length} arguments`,
      );
      return undefined;
    }
    if (callee.kind === "builtin" && this.#scope.module.version === "v1" && this.#environment.signature(callee.name)?.deprecated === true) {
      this.#error("ERR_REGO_TYPE", term.at, `deprecated built-in function calls in expression: ${dotted}`);
    }
    return callee;
  }

  // Texts for the trace

  #textOf(operand: Operand): string {
    switch (operand.kind) {
      case "const":
        return formatValue(operand.value, MAX_TEXT);
      case "var":
        return operand.variable.name === "" ? "..." : operand.variable.name;
      case "ref": {
        let text = operand.base.kind === "var" ? operand.base.variable.name || "..." : operand.base.kind;
        for (const step of operand.path) {
          if (step.kind === "const" && typeof step.value === "string" && !step.value.includes(" ")) text += `.${step.value}`;
          else text += `[${this.#textOf(step)}]`;
        }
        return text;
      }
      default:
        return "...";
    }
  }

  #callText(term: Term & { kind: "call" }): string {
    return term.operator === undefined ? `${term.name.join(".")}(...)` : "";
  }
}

type ComprehensionTerm = Term & { readonly kind: "array-comprehension" | "set-comprehension" | "object-comprehension" };

function isComprehension(term: Term): term is ComprehensionTerm {
  return term.kind === "array-comprehension" || term.kind === "set-comprehension" || term.kind === "object-comprehension";
}

/** True if a reference in the term has a variable for a step. */
function iterates(term: Term): boolean {
  switch (term.kind) {
    case "ref":
      return iterates(term.head) || term.path.some((step) => step.kind === "var" || iterates(step));
    case "call":
      return term.args.some(iterates);
    case "array":
    case "set":
      return term.items.some(iterates);
    case "object":
      return term.entries.some(([key, value]) => iterates(key) || iterates(value));
    default:
      return false;
  }
}

function implicitStatement(at: number): Statement {
  return { at, end: at, negated: false, modifiers: [], expression: { kind: "term", at, term: { kind: "scalar", at, value: true } } };
}

function isEmptySet(term: Term & { kind: "call" }): boolean {
  return term.args.length === 0 && term.name.length === 1 && term.name[0] === "set";
}

function isPrint(term: Term): term is Term & { kind: "call" } {
  return term.kind === "call" && term.name.length === 1 && term.name[0] === "print" && term.operator === undefined;
}

function isSimple(term: Term): boolean {
  return term.kind === "var" || term.kind === "scalar" || term.kind === "array" || term.kind === "object";
}

/** A literal whose parts are all constants is a constant. */
function fold(operand: Operand & { kind: "array" | "set" | "object" }): Operand {
  if (operand.kind === "object") {
    const object = new RegoObject();
    for (const [key, value] of operand.entries) {
      if (key.kind !== "const" || value.kind !== "const") return operand;
      object.put(key.value, value.value);
    }
    return { kind: "const", value: object };
  }
  const values: Value[] = [];
  for (const item of operand.items) {
    if (item.kind !== "const") return operand;
    values.push(item.value);
  }
  return { kind: "const", value: operand.kind === "array" ? values : RegoSet.of(values) };
}

/** Pairs of values under equal constant keys; undefined if the keys are not the same constants. */
function matchEntries(
  left: readonly (readonly [Operand, Operand])[],
  right: readonly (readonly [Operand, Operand])[],
): readonly (readonly [Operand, Operand])[] | undefined {
  const byKey = new Map<string, Operand>();
  for (const [key, value] of right) {
    if (key.kind !== "const") return undefined;
    byKey.set(identity(key.value), value);
  }
  const pairs: (readonly [Operand, Operand])[] = [];
  for (const [key, value] of left) {
    const name = key.kind === "const" ? identity(key.value) : undefined;
    const other = name === undefined ? undefined : byKey.get(name);
    if (other === undefined) return undefined;
    // A key that stands twice has no second partner.
    byKey.delete(name!);
    pairs.push([value, other]);
  }
  return byKey.size === 0 ? pairs : undefined;
}

function holdsScalar(value: Value): boolean {
  if (isArray(value)) return value.some(holdsScalar);
  return !(value instanceof RegoObject) || [...value.entries()].some(([, item]) => holdsScalar(item));
}

/** Names that a body declares in its own scope, and those of its parameters. */
function declaredNames(body: Body, parameters: readonly Term[]): ReadonlySet<string> {
  const names = new Set<string>();
  for (const parameter of parameters) for (const { name } of patternNames(parameter)) names.add(name);
  for (const { expression } of body) {
    if (expression.kind === "some") for (const { name } of expression.variables) names.add(name);
    else if (expression.kind === "assign") for (const { name } of patternNames(expression.target)) names.add(name);
    else if (expression.kind === "some-in") {
      for (const { name } of patternNames(expression.value)) names.add(name);
      if (expression.key !== undefined) for (const { name } of patternNames(expression.key)) names.add(name);
    }
  }
  return names;
}

/** The names in a pattern, wildcards apart. */
function patternNames(term: Term): readonly { readonly name: string; readonly at: number }[] {
  switch (term.kind) {
    case "var":
      return term.name === "_" ? [] : [term];
    case "array":
    case "set":
      return term.items.flatMap(patternNames);
    case "object":
      return term.entries.flatMap(([, value]) => patternNames(value));
    default:
      return [];
  }
}
