import type { Block, Callee, Comprehension, Flat, Modifier, Op, Operand, RefOperand, Variable } from "../analysis/ir.ts";
import { operandsOf, visitOperand } from "../analysis/ir.ts";
import { constantOf, isDocument } from "../analysis/rule-tree.ts";
import { isKnown } from "../analysis/safety.ts";
import type { Builtin } from "../builtins/builtin.ts";
import { BuiltinError, weighKey } from "../builtins/builtin.ts";
import { COMPARISONS } from "../builtins/comparison.ts";
import { RegoError } from "../errors.ts";
import type { Source } from "../syntax/source.ts";
import type { RegoArray, Value } from "../values/index.ts";
import { equalValues, formatValue, isArray, isPrimitive, lookup, RegoObject, RegoSet } from "../values/index.ts";
import type { Chain, Continuation, Getter, Match, Slots, Test } from "./closures.ts";
import { collect, eachMember, newSlots, sequence } from "./closures.ts";
import { descend, isPlain, lookupBase, overlayWith, rootView, viewKeys, viewValue, withPath } from "./documents.ts";
import type { View } from "./documents.ts";
import type { InliningFacts } from "./inlining.ts";
import { planInlining } from "./inlining.ts";
import type { FunctionCode, Program } from "./program.ts";
import type { Documents, Query, Replacement } from "./query.ts";
import type { TracePoint } from "./trace-recorder.ts";

/** A statement, compiled: a test, or something that runs the rest of the body once per solution. */
type Unit = { readonly kind: "test"; readonly run: Test } | { readonly kind: "iterate"; readonly build: (next: Chain) => Chain };

/** A step of a reference, compiled. */
type Step = { readonly kind: "key"; readonly get: Getter } | { readonly kind: "each"; readonly match: Match };

const always: Chain = () => true;

/**
 * Compiles a body to closures. Which variables are bound at each point is known here, so that nothing is looked up by
 * name and nothing is undone when the search goes back.
 */
export class BodyCompiler {
  readonly #program: Program;
  readonly #rule: string;
  readonly #bound: Set<Variable>;
  /** Values that are computed where they are used instead of being stored first. */
  readonly #inlined = new Map<Variable, Getter>();
  readonly #facts: InliningFacts = {
    isRelation: (name) => this.#program.builtin(name)?.relation === true,
    runsRules: (ref) => this.#runsRules(ref),
  };

  /** @param rule path of the rule that the body belongs to, for observers */
  constructor(program: Program, bound: Iterable<Variable>, rule = "") {
    this.#program = program;
    this.#rule = rule;
    this.#bound = new Set(bound);
  }

  /**
   * Compiles a body.
   * @param finish makes what runs for each solution
   */
  compile(block: Block, finish: (compiler: BodyCompiler) => Chain): Chain {
    const { statements } = block;
    const units: Unit[] = [];
    const inlined = this.#program.traced ? undefined : planInlining(block, this.#bound, this.#facts);
    for (let at = 0; at < statements.length; at++) {
      const flat = statements[at]!;
      if (inlined !== undefined && flat.outputs.length === 1 && inlined.has(flat.outputs[0]!)) {
        this.#inline(flat);
        continue;
      }
      const probe = this.#program.traced ? this.#probe(flat, at) : undefined;
      const unit = this.#statement(flat);
      units.push(probe === undefined ? unit : probed(unit, probe));
      for (const variable of flat.outputs) this.#bound.add(variable);
    }
    return link(units, finish(this));
  }

  /** Leaves a statement out whose value is computed where it is read. */
  #inline(flat: Flat): void {
    const { op, source } = flat;
    const target = (op.kind === "call" ? op.result : (op as Op & { kind: "unify" }).left) as Operand & { kind: "var" };
    const getter = op.kind === "call" ? this.#call(op.callee, op.args, flat) : this.#get((op as Op & { kind: "unify" }).right, source);
    this.#inlined.set(target.variable, getter);
    this.#bound.add(target.variable);
  }

  /** True if reading a `data` reference runs rules: anything but base documents and constants. */
  #runsRules(ref: RefOperand): boolean {
    if (ref.base.kind !== "data") return false;
    const found = this.#ruleAt(ref) ?? this.#prefixOf(ref);
    return found === undefined || !found.isInert;
  }

  // Statements

  #statement(flat: Flat): Unit {
    let unit = this.#op(flat);
    if (flat.negated) {
      const holds = link([unit], always);
      unit = { kind: "test", run: (query, slots) => !holds(query, slots) };
    }
    return flat.modifiers.length === 0 ? unit : this.#under(flat.modifiers, unit, flat.source);
  }

  #op(flat: Flat): Unit {
    const { op, source } = flat;
    switch (op.kind) {
      case "test":
        return this.#each(op.operand, source, (_query, _slots, value) => value !== false);
      case "equal":
        return this.#equal(op.left, op.right, source);
      case "unify":
        return this.#unify(op.left, op.right, source);
      case "call":
        return this.#callUnit(op, flat);
      case "every":
        return this.#every(op, source);
      case "print":
        return this.#print(op, flat);
    }
  }

  /** Runs a check for each value of an operand. */
  #each(operand: Operand, source: Source, check: Match): Unit {
    if (this.#isDetermined(operand)) {
      const get = this.#get(operand, source);
      return {
        kind: "test",
        run: (query, slots) => {
          const value = get(query, slots);
          return value !== undefined && check(query, slots, value);
        },
      };
    }
    const steps = this.#steps(operand as RefOperand, source);
    return {
      kind: "iterate",
      build: (next) => steps((query, slots, value) => check(query, slots, value) && next(query, slots)),
    };
  }

  #equal(left: Operand, right: Operand, source: Source): Unit {
    if (this.#isDetermined(left) && this.#isDetermined(right)) {
      const a = this.#get(left, source);
      const b = this.#get(right, source);
      return {
        kind: "test",
        run: (query, slots) => {
          const first = a(query, slots);
          if (first === undefined) return false;
          const second = b(query, slots);
          return second !== undefined && equalValues(first, second, query);
        },
      };
    }
    // One side iterates; the other may use what that binds.
    const [one, other] = left.kind === "ref" && !this.#isDetermined(left) ? [left, right] : [right, left];
    const steps = this.#steps(one as RefOperand, source);
    this.#bindAll(one);
    const inner = this.#isDetermined(other) ? undefined : this.#steps(other as RefOperand, source);
    if (inner !== undefined) {
      return {
        kind: "iterate",
        build: (next) => steps((query, slots, value) => inner((q, s, second) => equalValues(value, second, q) && next(q, s))(query, slots)),
      };
    }
    const get = this.#get(other, source);
    return {
      kind: "iterate",
      build: (next) =>
        steps((query, slots, value) => {
          const second = get(query, slots);
          return second !== undefined && equalValues(value, second, query) && next(query, slots);
        }),
    };
  }

  #unify(left: Operand, right: Operand, source: Source): Unit {
    // The side whose variables are all bound gives the value, the other one is the pattern.
    if (this.#isDetermined(right)) return this.#unifyValue(right, left, source);
    if (this.#isDetermined(left)) return this.#unifyValue(left, right, source);
    const [ref, pattern] = right.kind === "ref" ? [right, left] : [left, right];
    if (ref.kind !== "ref") return this.#unifyPatterns(left, right, source);
    const steps = this.#steps(ref, source);
    this.#bindAll(ref);
    if (pattern.kind === "ref" && !this.#isDetermined(pattern)) {
      const inner = this.#steps(pattern, source);
      return {
        kind: "iterate",
        build: (next) => steps((query, slots, value) => inner((q, s, second) => equalValues(value, second, q) && next(q, s))(query, slots)),
      };
    }
    const match = this.#match(pattern, source);
    return { kind: "iterate", build: (next) => steps((query, slots, value) => match(query, slots, value) && next(query, slots)) };
  }

  #unifyValue(value: Operand, pattern: Operand, source: Source): Unit {
    if (pattern.kind === "ref" && !this.#isDetermined(pattern)) return this.#equal(pattern, value, source);
    const get = this.#get(value, source);
    if (pattern.kind === "var" && !this.#bound.has(pattern.variable)) {
      const { slot } = pattern.variable;
      return {
        kind: "test",
        run: (query, slots) => {
          const found = get(query, slots);
          if (found === undefined) return false;
          slots[slot] = found;
          return true;
        },
      };
    }
    const match = this.#match(pattern, source);
    return {
      kind: "test",
      run: (query, slots) => {
        const found = get(query, slots);
        return found !== undefined && match(query, slots, found);
      },
    };
  }

  /** Two patterns that each bind something: possible only where the lowering could not take them apart. */
  #unifyPatterns(left: Operand, right: Operand, _source: Source): Unit {
    throw new RegoError("ERR_REGO_UNSAFE", `cannot unify ${left.kind} with ${right.kind}: both have variables without a value`);
  }

  #every(op: Op & { kind: "every" }, source: Source): Unit {
    const domain = this.#get(op.domain, source);
    const locals = op.key === undefined ? [op.value] : [op.key, op.value];
    const body = new BodyCompiler(this.#program, [...this.#bound, ...locals], this.#rule).compile(op.body, () => always);
    const key = op.key?.slot;
    const { slot } = op.value;
    return {
      kind: "test",
      run: (query, slots) => {
        const value = domain(query, slots);
        if (value === undefined || isPrimitive(value)) return false;
        return !eachMember(query, value, (name, member) => {
          if (key !== undefined) slots[key] = name;
          slots[slot] = member;
          return !body(query, slots);
        });
      },
    };
  }

  #print(op: Op & { kind: "print" }, flat: Flat): Unit {
    const { source, at } = flat;
    // Usual arguments have one value, whatever it is; others are bodies of their own, with any number of solutions.
    const simple = op.args.map(({ body, value }) => (body.statements.length === 0 && this.#isDetermined(value) ? this.#get(value, source) : undefined));
    if (simple.every((getter) => getter !== undefined)) {
      return {
        kind: "test",
        run: (query, slots) => {
          if (!query.keepsPrints) return true;
          query.work(simple.length);
          const values: (Value | undefined)[] = [];
          for (const get of simple) values.push(get(query, slots));
          query.print({ source, at, values });
          return true;
        },
      };
    }
    const getters = op.args.map(({ body, value }, position): ((query: Query, slots: Slots) => readonly (Value | undefined)[]) => {
      const single = simple[position];
      if (single !== undefined) return (query, slots) => [single(query, slots)];
      const chain = new BodyCompiler(this.#program, this.#bound, this.#rule).compile(body, (compiler) => {
        const get = compiler.#get(value, source);
        return (query, slots) => {
          const found = get(query, slots);
          if (found !== undefined) query.sinks.at(-1)!.push(found);
          return false;
        };
      });
      return (query, slots) => {
        const values: Value[] = [];
        query.sinks.push(values);
        chain(query, slots);
        query.sinks.pop();
        return values.length === 0 ? [undefined] : values;
      };
    });
    return {
      kind: "test",
      run: (query, slots) => {
        if (!query.keepsPrints) return true;
        let rows: (Value | undefined)[][] = [[]];
        for (const get of getters) {
          const values = get(query, slots);
          query.work(rows.length * values.length);
          query.allocate(8 * rows.length * values.length);
          if (values.length === 1) for (const row of rows) row.push(values[0]);
          else rows = rows.flatMap((row) => values.map((value) => [...row, value]));
        }
        for (const values of rows) query.print({ source, at, values });
        return true;
      },
    };
  }

  // with

  #under(modifiers: readonly Modifier[], unit: Unit, source: Source): Unit {
    const setters = modifiers.map((modifier) => this.#setter(modifier, source));
    return {
      kind: "iterate",
      build: (next) => {
        // The rest of the body runs outside the modifiers, so the documents are swapped back and forth around it.
        const inner = link([unit], (query, slots) => {
          const outside = query.saved.pop()!;
          const inside = query.swap(outside);
          const stop = next(query, slots);
          query.swap(inside);
          query.saved.push(outside);
          return stop;
        });
        return (query, slots) => {
          const documents: Documents = { input: query.input, overlay: query.overlay, mocks: query.mocks, cache: [], results: [] };
          for (const set of setters) if (!set(query, slots, documents)) return false;
          query.saved.push(query.swap(documents));
          const stop = inner(query, slots);
          query.swap(query.saved.pop()!);
          return stop;
        };
      },
    };
  }

  #setter(modifier: Modifier, source: Source): (query: Query, slots: Slots, documents: Documents) => boolean {
    if (modifier.kind === "callee") {
      const { name, value } = modifier;
      const mock = (documents: Documents, replacement: Replacement): boolean => {
        documents.mocks = new Map([...(documents.mocks ?? []), [name, replacement]]);
        return true;
      };
      if (value.kind === "builtin" || value.kind === "function") return (_query, _slots, documents) => mock(documents, { kind: "callee", callee: value });
      const get = this.#get(value, source);
      return (query, slots, documents) => {
        const found = get(query, slots);
        return found !== undefined && mock(documents, { kind: "value", value: found });
      };
    }
    const { path, kind } = modifier;
    const get = this.#get(modifier.value, source);
    return (query, slots, documents) => {
      const value = get(query, slots);
      if (value === undefined) return false;
      query.work(path.length + 1 + (kind === "input" && query.input instanceof RegoObject ? query.input.size : 0));
      if (kind === "input") documents.input = withPath(documents.input, path, value);
      else documents.overlay = overlayWith(documents.overlay, path, value);
      return true;
    };
  }

  // Calls

  #callUnit(op: Op & { kind: "call" }, flat: Flat): Unit {
    const get = this.#call(op.callee, op.args, flat);
    const { result } = op;
    if (result === undefined) {
      return {
        kind: "test",
        run: (query, slots) => {
          const value = get(query, slots);
          return value !== undefined && value !== false;
        },
      };
    }
    const match = this.#match(result, flat.source);
    if (op.callee.kind === "builtin" && this.#program.builtin(op.callee.name)?.relation === true) {
      const { name } = op.callee;
      return {
        kind: "iterate",
        build: (next) => (query, slots) => {
          const solutions = get(query, slots);
          // A value that `with` puts in its place is one solution, whatever it is.
          if (!isArray(solutions) || query.mocks?.has(name) === true) return solutions !== undefined && match(query, slots, solutions) && next(query, slots);
          for (const solution of solutions) {
            query.step();
            if (match(query, slots, solution) && next(query, slots)) return true;
          }
          return false;
        },
      };
    }
    return {
      kind: "test",
      run: (query, slots) => {
        const value = get(query, slots);
        return value !== undefined && match(query, slots, value);
      },
    };
  }

  /** The value of a call. */
  #call(callee: Callee, args: readonly Operand[], flat: Flat): Getter {
    const getters = args.map((argument) => this.#get(argument, flat.source));
    return callee.kind === "function" ? this.#functionCall(callee, getters, flat) : this.#builtinCall(callee.name, getters, flat);
  }

  #functionCall(callee: Callee & { kind: "function" }, getters: readonly Getter[], flat: Flat): Getter {
    let code: FunctionCode | undefined;
    const program = this.#program;
    const count = getters.length;
    const { name } = callee.group;
    return (query, slots) => {
      if (query.mocks !== undefined) {
        const mock = query.mocks.get(name);
        if (mock !== undefined) return this.#mocked(mock, getters, flat, query, slots);
      }
      code ??= program.function(callee.group);
      const frame = newSlots(code.frameSize);
      for (let at = 0; at < count; at++) {
        const value = getters[at]!(query, slots);
        if (value === undefined) return undefined;
        frame[at] = value;
      }
      return code.run(query, frame);
    };
  }

  #builtinCall(name: string, getters: readonly Getter[], flat: Flat): Getter {
    const direct = this.#plainBuiltinCall(name, getters, flat);
    return (query, slots) => {
      if (query.mocks === undefined) return direct(query, slots);
      const mock = query.mocks.get(name);
      return mock === undefined ? direct(query, slots) : this.#mocked(mock, getters, flat, query, slots);
    };
  }

  #plainBuiltinCall(name: string, getters: readonly Getter[], flat: Flat): Getter {
    const compare = COMPARISONS.get(name);
    if (compare !== undefined) {
      const [a, b] = getters;
      return (query, slots) => {
        const left = a!(query, slots);
        if (left === undefined) return undefined;
        const right = b!(query, slots);
        return right === undefined ? undefined : compare(left, right, query);
      };
    }
    const builtin = this.#program.builtin(name)!;
    if (getters.length === 2) {
      const [a, b] = getters;
      return (query, slots) => {
        const left = a!(query, slots);
        if (left === undefined) return undefined;
        const right = b!(query, slots);
        return right === undefined ? undefined : callBuiltin(builtin, [left, right], query, flat);
      };
    }
    return (query, slots) => {
      const values = collect(getters, query, slots);
      return values === undefined ? undefined : callBuiltin(builtin, values, query, flat);
    };
  }

  /** Inside a replacement no other replacement holds, so that it can call what it replaces. */
  #mocked(mock: Replacement, getters: readonly Getter[], flat: Flat, query: Query, slots: Slots): Value | undefined {
    const values = collect(getters, query, slots);
    if (values === undefined) return undefined;
    if (mock.kind === "value") return mock.value;
    if (mock.callee.kind === "builtin") return callBuiltin(this.#program.builtin(mock.callee.name)!, values, query, flat);
    const code = this.#program.function(mock.callee.group);
    const frame = newSlots(code.frameSize);
    values.forEach((value, at) => (frame[at] = value));
    const before = query.swap({ input: query.input, overlay: query.overlay, mocks: undefined, cache: [], results: [] });
    const result = code.run(query, frame);
    query.swap(before);
    return result;
  }

  // Operands

  #isDetermined(operand: Operand): boolean {
    return isKnown(operand, (variable) => this.#bound.has(variable));
  }

  #bindAll(operand: Operand): void {
    visitOperand(
      operand,
      (variable) => this.#bound.add(variable),
      () => undefined,
    );
  }

  /** The value of an operand whose variables are bound. */
  get(operand: Operand, source: Source): Getter {
    return this.#get(operand, source);
  }

  #get(operand: Operand, source: Source): Getter {
    switch (operand.kind) {
      case "const": {
        const { value } = operand;
        return () => value;
      }
      case "var":
        return this.#read(operand.variable);
      case "array": {
        const getters = operand.items.map((item) => this.#get(item, source));
        return (query, slots) => collect(getters, query, slots);
      }
      case "set": {
        const getters = operand.items.map((item) => this.#get(item, source));
        return (query, slots) => {
          const values = collect(getters, query, slots);
          if (values === undefined) return undefined;
          for (const value of values) weighKey(value, query);
          return RegoSet.of(values);
        };
      }
      case "object": {
        const getters = operand.entries.map(([key, value]) => [this.#get(key, source), this.#get(value, source)] as const);
        return (query, slots) => {
          const object = new RegoObject();
          for (const [key, value] of getters) {
            const name = key(query, slots);
            const item = name === undefined ? undefined : value(query, slots);
            if (name === undefined || item === undefined) return undefined;
            object.put(name, item);
          }
          return object;
        };
      }
      case "ref":
        return this.#refGetter(operand, source);
      case "comprehension":
        return this.#comprehension(operand, source);
    }
  }

  #read(variable: Variable): Getter {
    const inlined = this.#inlined.get(variable);
    if (inlined !== undefined) return inlined;
    const { slot } = variable;
    return (_query, slots) => slots[slot];
  }

  #comprehension(operand: Comprehension, source: Source): Getter {
    const { accumulator, type } = operand;
    const compiler = new BodyCompiler(this.#program, this.#bound, this.#rule);
    const chain = compiler.compile(operand.body, (inner) => {
      const value = inner.#get(operand.value, source);
      if (operand.key === undefined) {
        return (query, slots) => {
          const found = value(query, slots);
          if (found === undefined) return false;
          query.allocate(16);
          const target = slots[accumulator]!;
          if (target instanceof RegoSet) {
            weighKey(found, query);
            target.add(found);
          } else (target as Value[]).push(found);
          return false;
        };
      }
      const key = inner.#get(operand.key, source);
      return (query, slots) => {
        const name = key(query, slots);
        const found = name === undefined ? undefined : value(query, slots);
        if (name === undefined || found === undefined) return false;
        query.allocate(32);
        const target = slots[accumulator] as RegoObject;
        weighKey(name, query);
        const earlier = target.get(name);
        if (earlier !== undefined && !equalValues(earlier, found, query)) throw conflict("object keys must be unique", source, operand.at);
        target.put(name, found);
        return false;
      };
    });
    return (query, slots) => {
      const target: Value = type === "array" ? [] : type === "set" ? new RegoSet() : new RegoObject();
      slots[accumulator] = target;
      chain(query, slots);
      return target;
    };
  }

  // References

  #refGetter(ref: RefOperand, source: Source): Getter {
    const { base } = ref;
    if (base.kind === "data") return this.#dataGetter(ref, source);
    const start: Getter = base.kind === "var" ? this.#read(base.variable) : (query) => query.input;
    return follow(start, ref.path, (step) => this.#get(step, source));
  }

  #dataGetter(ref: RefOperand, source: Source): Getter {
    const program = this.#program;
    const found = this.#ruleAt(ref);
    const getters = ref.path.map((step) => this.#get(step, source));
    const walk: Getter = (query, slots) => {
      let view: View | undefined = rootView(program, query);
      for (const get of getters) {
        const key = get(query, slots);
        if (key === undefined) return undefined;
        view = descend(program, query, view, key);
        if (view === undefined) return undefined;
      }
      return viewValue(program, query, view);
    };
    if (found === undefined) return walk;
    const direct = follow(found.get, ref.path.slice(found.steps), (step) => this.#get(step, source), found.isBase ? lookupBase : lookup);
    return (query, slots) => (query.overlay === undefined ? direct(query, slots) : walk(query, slots));
  }

  /** The rule, or the base documents without any rule, that the constant start of a `data` reference leads to. */
  #ruleAt(ref: RefOperand): { readonly get: Getter; readonly steps: number; readonly isBase: boolean; readonly isInert: boolean } | undefined {
    let node = this.#program.tree.root;
    for (let at = 0; at < ref.path.length; at++) {
      const step = ref.path[at]!;
      if (step.kind !== "const") return undefined;
      const child = isPrimitive(step.value) ? node.children.get(step.value) : undefined;
      if (child === undefined) return { get: (query) => query.base, steps: 0, isBase: true, isInert: true };
      if (child.group !== undefined) {
        const document = isDocument(child.group) ? this.#program.document(child.group) : (): undefined => undefined;
        return { get: document, steps: at + 1, isBase: false, isInert: constantOf(child.group) !== undefined };
      }
      node = child;
    }
    return undefined;
  }

  /** Runs a continuation for every value of a reference that iterates. Binds its variables. */
  #steps(ref: RefOperand, source: Source): (next: Continuation) => Chain {
    const bound = new Set(this.#bound);
    const inner = new BodyCompiler(this.#program, bound, this.#rule);
    for (const [variable, getter] of this.#inlined) inner.#inlined.set(variable, getter);
    const steps = ref.path.map((step): Step => {
      if (inner.#isDetermined(step)) return { kind: "key", get: inner.#get(step, source) };
      const match = inner.#match(step, source);
      inner.#bindAll(step);
      return { kind: "each", match };
    });
    if (ref.base.kind !== "data") {
      const start: Getter = ref.base.kind === "var" ? this.#read(ref.base.variable) : (query) => query.input;
      return (next) => startAt(start, walkSteps(steps, 0, next));
    }
    const found = this.#ruleAt(ref) ?? this.#prefixOf(ref);
    const program = this.#program;
    return (next) => {
      const conts = steps.map((_, at) => walkSteps(steps, at, next));
      const storedConts = steps.map((_, at) => walkSteps(steps, at, next, lookupBase));
      const visit = (query: Query, slots: Slots, view: View, at: number): boolean => {
        if (at === steps.length) {
          const value = viewValue(program, query, view);
          return value !== undefined && next(query, slots, value);
        }
        if (isPlain(view)) return view.base !== undefined && (view.isStored ? storedConts : conts)[at]!(query, slots, view.base);
        const step = steps[at]!;
        if (step.kind === "key") {
          const key = step.get(query, slots);
          const below = key === undefined ? undefined : descend(program, query, view, key);
          return below !== undefined && visit(query, slots, below, at + 1);
        }
        for (const key of viewKeys(view)) {
          query.step();
          if (!step.match(query, slots, key)) continue;
          const below = descend(program, query, view, key);
          if (below !== undefined && visit(query, slots, below, at + 1)) return true;
        }
        return false;
      };
      const general: Chain = (query, slots) => visit(query, slots, rootView(program, query), 0);
      if (found === undefined) return general;
      const direct = startAt(found.get, walkSteps(steps, found.steps, next, found.isBase ? lookupBase : lookup));
      return (query, slots) => (query.overlay === undefined ? direct(query, slots) : general(query, slots));
    };
  }

  /** As {@link #ruleAt}, for references whose constant start ends before they iterate. */
  #prefixOf(ref: RefOperand): { readonly get: Getter; readonly steps: number; readonly isBase: boolean; readonly isInert: boolean } | undefined {
    const constant = ref.path.findIndex((step) => step.kind !== "const");
    return constant === -1 ? undefined : this.#ruleAt({ ...ref, path: ref.path.slice(0, constant) });
  }

  // Patterns

  /** Compiles a pattern; its free variables are bound from here on. */
  #match(pattern: Operand, source: Source): Match {
    switch (pattern.kind) {
      case "const": {
        const { value } = pattern;
        return (query, _slots, found) => equalValues(value, found, query);
      }
      case "var": {
        const { variable } = pattern;
        if (variable.kind === "wildcard") return always;
        if (this.#bound.has(variable)) {
          const read = this.#read(variable);
          return (query, slots, found) => {
            const value = read(query, slots);
            return value !== undefined && equalValues(value, found, query);
          };
        }
        this.#bound.add(variable);
        const { slot } = variable;
        return (_query, slots, found) => {
          slots[slot] = found;
          return true;
        };
      }
      case "array": {
        const matches = pattern.items.map((item) => this.#match(item, source));
        return (query, slots, found) => isArray(found) && found.length === matches.length && matches.every((match, at) => match(query, slots, found[at]!));
      }
      case "object": {
        const entries = pattern.entries.map(([key, value]) => [this.#get(key, source), this.#match(value, source)] as const);
        return (query, slots, found) => {
          if (!(found instanceof RegoObject) || found.size !== entries.length) return false;
          // As many entries as members, and no key twice: then every member has its entry.
          const seen = entries.length > 1 ? new RegoSet() : undefined;
          for (const [key, match] of entries) {
            const name = key(query, slots);
            const item = name === undefined ? undefined : found.get(name);
            if (item === undefined || !match(query, slots, item)) return false;
            if (seen === undefined) continue;
            if (seen.has(name!)) return false;
            seen.add(name!);
          }
          return true;
        };
      }
      default: {
        const get = this.#get(pattern, source);
        return (query, slots, found) => {
          const value = get(query, slots);
          return value !== undefined && equalValues(value, found, query);
        };
      }
    }
  }

  // Tracing

  /** What runs before a statement in the compilation for tracing: it tells the trace and the observer. */
  #probe(flat: Flat, index: number): (query: Query, slots: Slots) => void {
    const point = this.#tracePoint(flat);
    const place = flat.end > flat.at && this.#rule !== "" ? this.#program.place(this.#rule, flat.source, flat.at, flat.end) : undefined;
    return (query, slots) => {
      if (query.trace !== undefined) query.trace.reach(index, point(slots, query));
      if (place !== undefined) query.observer?.statement(place);
    };
  }

  #tracePoint(flat: Flat): (slots: Slots, query: Query) => TracePoint {
    const operands: { readonly text: string; readonly get: Getter }[] = [];
    for (const operand of operandsOf(flat.op)) {
      if (operand.kind === "const" || operand.kind === "comprehension" || !this.#isDetermined(operand)) continue;
      // Reading a rule here would run it outside its turn.
      if (operand.kind === "ref" && operand.base.kind === "data") continue;
      const text = describe(operand);
      if (text !== undefined) operands.push({ text, get: this.#get(operand, flat.source) });
    }
    const { source, at, end } = flat;
    return (slots, query) => ({ source, at, end, operands: operands.map(({ text, get }) => ({ text, read: () => get(query, slots) })) });
  }
}

/** The text of an operand as the source would have it. */
function describe(operand: Operand): string | undefined {
  if (operand.kind === "var") return operand.variable.name === "" ? undefined : operand.variable.name;
  if (operand.kind !== "ref") return undefined;
  let text = operand.base.kind === "var" ? operand.base.variable.name : operand.base.kind;
  if (text === "") return undefined;
  for (const step of operand.path) {
    if (step.kind === "const") text += typeof step.value === "string" ? `.${step.value}` : `[${formatValue(step.value)}]`;
    else text += `[${describe(step) ?? "_"}]`;
  }
  return text;
}

function probed(unit: Unit, probe: (query: Query, slots: Slots) => void): Unit {
  if (unit.kind === "test") {
    return {
      kind: "test",
      run: (query, slots) => {
        probe(query, slots);
        return unit.run(query, slots);
      },
    };
  }
  return {
    kind: "iterate",
    build: (next) => {
      const chain = unit.build(next);
      return (query, slots) => {
        probe(query, slots);
        return chain(query, slots);
      };
    },
  };
}

/** Puts units in a row. */
function link(units: readonly Unit[], last: Chain): Chain {
  let chain = last;
  let tests: Test[] = [];
  for (let at = units.length - 1; at >= 0; at--) {
    const unit = units[at]!;
    if (unit.kind === "test") {
      tests.unshift(unit.run);
      continue;
    }
    chain = unit.build(sequence(tests, chain));
    tests = [];
  }
  return sequence(tests, chain);
}

/** Work for looking through large operands once: a builtin's call counts as one step otherwise. */
function sizeOfOperands(args: RegoArray): number {
  let weight = 0;
  for (const value of args) {
    if (typeof value === "string") weight += value.length >>> 8;
    else if (isArray(value)) weight += value.length >>> 3;
    else if (value instanceof RegoSet || value instanceof RegoObject) weight += value.size >>> 3;
  }
  return weight;
}

/** Calls a builtin; its failure makes the call undefined, or aborts the query with strict errors. */
function callBuiltin(builtin: Builtin, args: RegoArray, query: Query, flat: Flat): Value | undefined {
  query.work(1 + sizeOfOperands(args));
  try {
    return builtin.call(args, query);
  } catch (error) {
    if (!(error instanceof BuiltinError)) throw located(error, flat);
    if (!query.strict) return undefined;
    const { file, line, column } = flat.source.position(flat.at);
    throw new RegoError(
      error.kind === "builtin" ? "ERR_REGO_BUILTIN" : "ERR_REGO_OPERAND",
      `${file}:${line}: ${error.kind === "builtin" ? "eval_builtin_error" : "eval_type_error"}: ${builtin.name}: ${error.message}`,
      {
        details: { file, line, column },
        cause: error,
      },
    );
  }
}

/** The error of a builtin that aborts the query by itself, with the place of the call. */
function located(error: unknown, { source, at }: Flat): unknown {
  if (!(error instanceof RegoError) || error.code !== "ERR_REGO_BUILTIN" || error.details["file"] !== undefined) return error;
  const { file, line, column } = source.position(at);
  const { hint } = error;
  return new RegoError(error.code, `${file}:${line}: ${error.message}`, {
    details: { ...error.details, file, line, column },
    cause: error,
    ...(hint === undefined ? {} : { hint }),
  });
}

/** The error for two values where one is allowed. It aborts the query, also under `not`. */
export function conflict(message: string, source: Source, at: number): RegoError {
  const { file, line, column } = source.position(at);
  return new RegoError("ERR_REGO_CONFLICT", `${file}:${line}: eval_conflict_error: ${message}`, { details: { file, line, column } });
}

function startAt(start: Getter, next: Continuation): Chain {
  return (query, slots) => {
    const value = start(query, slots);
    return value !== undefined && next(query, slots, value);
  };
}

/** The continuation that follows the steps from one index on. */
function walkSteps(steps: readonly Step[], from: number, last: Continuation, find: Lookup = lookup): Continuation {
  let next = last;
  for (let at = steps.length - 1; at >= from; at--) {
    const step = steps[at]!;
    const rest = next;
    if (step.kind === "key") {
      const { get } = step;
      next = (query, slots, value) => {
        const key = get(query, slots);
        const member = key === undefined ? undefined : find(value, key);
        return member !== undefined && rest(query, slots, member);
      };
    } else {
      const { match } = step;
      next = (query, slots, value) => eachMember(query, value, (key, member) => match(query, slots, key) && rest(query, slots, member));
    }
  }
  return next;
}

/** One step into a value. */
type Lookup = (value: Value, key: Value) => Value | undefined;

/** Follows the steps of a reference without iteration. */
function follow(start: Getter, path: readonly Operand[], compile: (step: Operand) => Getter, find: Lookup = lookup): Getter {
  let getter = start;
  for (let at = 0; at < path.length;) {
    const step = path[at]!;
    if (step.kind === "const") {
      const keys: Value[] = [];
      for (; at < path.length; at++) {
        const next = path[at]!;
        if (next.kind !== "const") break;
        keys.push(next.value);
      }
      getter = followKeys(getter, keys, find);
    } else {
      getter = followStep(getter, compile(step), find);
      at++;
    }
  }
  return getter;
}

/** Follows constant keys in a row. */
function followKeys(start: Getter, keys: readonly Value[], find: Lookup): Getter {
  const [key] = keys;
  if (keys.length === 1) {
    return (query, slots) => {
      const value = start(query, slots);
      return value === undefined ? undefined : find(value, key!);
    };
  }
  return (query, slots) => {
    let value = start(query, slots);
    for (let at = 0; at < keys.length && value !== undefined; at++) value = find(value, keys[at]!);
    return value;
  };
}

function followStep(start: Getter, key: Getter, find: Lookup): Getter {
  return (query, slots) => {
    const value = start(query, slots);
    if (value === undefined) return undefined;
    const at = key(query, slots);
    return at === undefined ? undefined : find(value, at);
  };
}
