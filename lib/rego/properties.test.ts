import type { JsonValue } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { generateModule } from "./format/test-support.ts";
import { compile, RegoError, TYPE_CHECKER } from "./index.ts";
import type { CompileOptions, EvaluateOptions, EvaluationCost, PatchOperation, Policy } from "./index.ts";
import { DEFAULT_REGO_LIMITS } from "./limits.ts";
import type { Module, Rule } from "./syntax/ast.ts";
import { isDiagnostics, parseModule } from "./syntax/parser.ts";
import { Source } from "./syntax/source.ts";

// What holds for every policy, tried on generated ones. Each property counts what its runs came to: one that only ever
// meets rules without a value would hold for any engine.

const INPUTS: readonly JsonValue[] = [{ n: 2, list: [1, 2, 3], o: { if: 1, a: [2] } }, { n: 3, list: [{ n: 2 }, "a b"], o: { if: [1], a: null } }, {}];

const DATA = { base: [1, 2], z: { k: 2 } };

const NO_OBSERVER = { enter: (): void => undefined, leave: (): void => undefined, statement: (): void => undefined };

/** A generated module that parses. */
interface Sample {
  readonly text: string;
  readonly parsed: Module;
}

/** What a query came to; `text` tells the answers apart. */
interface Answer {
  readonly outcome: "true" | "false" | "undefined" | "other" | "error";
  readonly text: string;
  readonly prints: readonly string[];
  readonly cost: EvaluationCost | undefined;
}

const samples: fc.Arbitrary<Sample> = fc
  .array(fc.nat({ max: 2 ** 31 - 1 }), { minLength: 50, maxLength: 400 })
  .map((choices) => {
    let at = 0;
    const text = generateModule((below) => (choices[at++] ?? 0) % below);
    return { text, parsed: parseModule(new Source("t.rego", text), "v1", DEFAULT_REGO_LIMITS) };
  })
  .filter((sample): sample is Sample => !isDiagnostics(sample.parsed));

/** Keys by which rules are shuffled. */
const order: fc.Arbitrary<readonly number[]> = fc.array(fc.nat({ max: 1000 }), { minLength: 7, maxLength: 7 });

/** The policy with its data; undefined if it does not load. */
function load(text: string, options: CompileOptions = {}): Policy | undefined {
  try {
    const policy = compile([{ name: "t.rego", text }], options);
    policy.setData(DATA);
    return policy;
  } catch (error) {
    if (!(error instanceof RegoError)) throw error;
    return undefined;
  }
}

function textOf(value: unknown): string {
  return JSON.stringify(value, (_, item: unknown) => (typeof item === "bigint" ? `${item}n` : item));
}

function ask(policy: Policy, query: string, options: EvaluateOptions): Answer {
  try {
    const { results, prints, cost } = policy.evaluate(query, options);
    const value = results[0]?.expressions[0];
    const outcome = value === undefined ? "undefined" : value === true ? "true" : value === false ? "false" : "other";
    return { outcome, text: textOf(results), prints, cost };
  } catch (error) {
    if (!(error instanceof RegoError)) throw error;
    return { outcome: "error", text: error.code, prints: [], cost: undefined };
  }
}

/** The names of the documents that a module defines. */
function documents({ rules }: Module): readonly string[] {
  return [...new Set(rules.filter(({ head }) => head.parameters === undefined).map(({ head }) => head.name))];
}

/** The queries for all documents of a module. */
function queries(sample: Sample): readonly string[] {
  return documents(sample.parsed).map((name) => `data.t.${name}`);
}

/** The answers to all queries for all inputs. */
function answers(policy: Policy, sample: Sample, options: EvaluateOptions = {}): readonly Answer[] {
  return queries(sample).flatMap((query) => INPUTS.map((input) => ask(policy, query, { input, ...options })));
}

const texts = (list: readonly Answer[]): readonly string[] => list.map(({ text }) => text);
const prints = (list: readonly Answer[]): readonly (readonly string[])[] => list.map((answer) => answer.prints);

/** Counts what the runs of a property came to. */
class Tally {
  readonly #counts = new Map<string, number>();

  add(what: string, count = 1): void {
    this.#counts.set(what, (this.#counts.get(what) ?? 0) + count);
  }

  addAnswers(list: readonly Answer[]): void {
    for (const { outcome, prints: lines } of list) {
      this.add(outcome);
      if (lines.length > 0) this.add("printing");
    }
  }

  expectAtLeast(least: Readonly<Record<string, number>>): void {
    for (const [what, count] of Object.entries(least)) expect(this.#counts.get(what) ?? 0, `runs: ${what}`).toBeGreaterThanOrEqual(count);
  }
}

/** The least that a property must have met to say anything. */
const WORTHWHILE = { true: 20, false: 10, undefined: 20, other: 20, printing: 10 };

function freeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) freeze(inner);
  }
  return value;
}

/** All words in a node of the syntax tree: what a rule could mention, and more. */
function words(node: unknown, found: Set<string>): Set<string> {
  if (typeof node === "string") found.add(node);
  else if (typeof node === "object" && node !== null) for (const inner of Object.values(node)) words(inner, found);
  return found;
}

/** The names that a document depends on, by name alone. The generator writes no computed step below `data`. */
function reachable({ rules }: Module, name: string): ReadonlySet<string> {
  const live = new Set([name]);
  // Grows while it is walked.
  for (const known of live) {
    for (const rule of rules) {
      if (rule.head.name === known) for (const word of words(rule, new Set())) if (rules.some(({ head }) => head.name === word)) live.add(word);
    }
  }
  return live;
}

/** A module's text cut into what stands before the rules, and the rules; a chain of bodies is one rule. */
function cut({ text, parsed }: Sample): { readonly top: string; readonly pieces: readonly { readonly name: string; readonly text: string }[] } {
  const starts = parsed.rules.filter((rule) => rule.at === rule.head.at || rule.isDefault);
  const end = (at: number): number => starts[at + 1]?.at ?? text.length;
  return {
    top: text.slice(0, starts[0]?.at),
    pieces: starts.map((rule: Rule, at) => ({ name: rule.head.name, text: text.slice(rule.at, end(at)) })),
  };
}

describe("dead rules", () => {
  it("decide nothing, and neither does the order of rules", () => {
    const tally = new Tally();
    fc.assert(
      fc.property(samples, order, (sample, keys) => {
        const policy = load(sample.text);
        fc.pre(policy !== undefined);
        const { top, pieces } = cut(sample);
        for (const name of documents(sample.parsed)) {
          const live = reachable(sample.parsed, name);
          const kept = pieces.filter((piece) => live.has(piece.name));
          const names = [...live].toSorted((left, right) => key(keys, left) - key(keys, right));
          // Rules of one name keep their order, so that prints and costs must be the same too.
          const grouped = names.flatMap((other) => kept.filter((piece) => piece.name === other));
          const mixed = kept.map((piece, at) => ({ piece, at: keys[at % keys.length]! })).toSorted((left, right) => left.at - right.at);
          const write = (list: readonly { readonly text: string }[]): Policy | undefined => load(`${top}\n${list.map((piece) => piece.text).join("\n")}`);
          const reduced = write(grouped);
          const shuffled = write(mixed.map(({ piece }) => piece));
          for (const input of INPUTS) {
            const wanted = ask(policy!, `data.t.${name}`, { input });
            const found = ask(reduced!, `data.t.${name}`, { input });
            expect([found.text, found.prints.map(withoutPlace), found.cost]).toEqual([wanted.text, wanted.prints.map(withoutPlace), wanted.cost]);
            const other = ask(shuffled!, `data.t.${name}`, { input }).text;
            // Bodies behind the deciding one do not run: which come first decides whether a conflict is met.
            if (other === "ERR_REGO_CONFLICT" || wanted.text === "ERR_REGO_CONFLICT") tally.add("conflict");
            else expect(other).toBe(wanted.text);
            if (kept.length === pieces.length) continue;
            tally.addAnswers([wanted]);
          }
        }
      }),
      { numRuns: 150 },
    );
    tally.expectAtLeast(WORTHWHILE);
  });

  function key(keys: readonly number[], name: string): number {
    return keys[Number(/\d+/.exec(name)) % keys.length]!;
  }

  /** A line of a print without the number of the line that printed it. */
  function withoutPlace(line: string): string {
    return line.replace(/^t\.rego:\d+/, "");
  }
});

describe("evaluation", () => {
  it("leaves input, data and options alone, and comes to the same again", () => {
    const tally = new Tally();
    const inputs = freeze(structuredClone(INPUTS) as JsonValue[]);
    const data = freeze(structuredClone(DATA));
    const limits = freeze({ maxSteps: 100_000 });
    const compileOptions = freeze({ limits, hostFunctions: [], builtins: [] });
    const before = textOf([inputs, data, limits, compileOptions]);
    fc.assert(
      fc.property(samples, (sample) => {
        const policy = load(sample.text, compileOptions);
        fc.pre(policy !== undefined);
        for (const query of queries(sample)) {
          for (const input of inputs) {
            const options = freeze({ input, data, limits, prints: true });
            const first = ask(policy!, query, options);
            expect(ask(policy!, query, options)).toEqual(first);
            tally.addAnswers([first]);
          }
        }
      }),
      { numRuns: 200 },
    );
    expect(textOf([inputs, data, limits, compileOptions])).toBe(before);
    tally.expectAtLeast(WORTHWHILE);
  });

  it("comes to the same traced, observed and without prints", () => {
    const tally = new Tally();
    fc.assert(
      fc.property(samples, (sample) => {
        const policy = load(sample.text);
        fc.pre(policy !== undefined);
        const plain = answers(policy!, sample);
        let entered = 0;
        const others = [answers(policy!, sample, { trace: true }), answers(policy!, sample, { observer: { ...NO_OBSERVER, enter: () => void entered++ } })];
        for (const other of others) {
          expect(texts(other)).toEqual(texts(plain));
          expect(prints(other)).toEqual(prints(plain));
        }
        tally.add("printing", plain.filter((answer) => answer.prints.length > 0).length);
        const silent = answers(policy!, sample, { prints: false });
        // A conflict that is met only in what is printed is not met without prints.
        const certain = (_: unknown, at: number): boolean => plain[at]!.text !== "ERR_REGO_CONFLICT";
        expect(texts(silent).filter(certain)).toEqual(texts(plain).filter(certain));
        expect(prints(silent).flat()).toEqual([]);
        tally.addAnswers(plain);
        tally.add("entered", entered);
      }),
      { numRuns: 200 },
    );
    tally.expectAtLeast({ ...WORTHWHILE, entered: 1000, printing: 100 });
  });
});

describe("patches", () => {
  const path = fc.constantFrom("/base/0", "/base/0", "/base", "/z/k", "/z/k", "/z", "/base/-", "/base/7", "/fresh", "fresh");
  const value = fc.constantFrom<JsonValue>(1, "a b", [2], { k: 1 });
  const operation: fc.Arbitrary<PatchOperation> = fc.oneof(
    { arbitrary: fc.record({ op: fc.constantFrom("add" as const, "replace" as const), path, value }), weight: 8 },
    { arbitrary: fc.record({ op: fc.constantFrom("remove" as const, "test" as const), path, value }), weight: 1 },
    { arbitrary: fc.record({ op: fc.constantFrom("move" as const, "copy" as const), from: path, path }), weight: 1 },
    // Where the rules are.
    { arbitrary: fc.constantFrom<PatchOperation>({ op: "add", path: "/t", value: 1 }, { op: "add", path: "/t", value: { p0: 1 } }), weight: 1 },
  );

  it("change what rules come to as a whole or not at all", () => {
    const tally = new Tally();
    fc.assert(
      fc.property(samples, fc.array(operation, { minLength: 1, maxLength: 3 }), (sample, operations) => {
        // What does not read data would say nothing.
        fc.pre(/data\.(base\[|z\.k)/.test(sample.text));
        const policy = load(sample.text);
        fc.pre(policy !== undefined);
        const before = answers(policy!, sample);
        const code = patch(policy!, operations);
        const after = texts(answers(policy!, sample));
        if (code === undefined) {
          // The same patch of the same document where no rules are.
          const bare = load("package bare")!;
          expect(patch(bare, operations)).toBeUndefined();
          const whole = bare.evaluate('[object.remove(data, ["bare"])]').results[0]!.expressions[0] as readonly JsonValue[];
          const fresh = load(sample.text)!;
          fresh.setData(whole[0]!);
          expect(after).toEqual(texts(answers(fresh, sample)));
          tally.add(textOf(after) === textOf(texts(before)) ? "applied" : "changed answers");
        } else {
          expect(after).toEqual(texts(before));
          const [result] = policy!.evaluate("x := [data.base, data.z, count([1 | data.fresh])]").results;
          expect(result?.bindings["x"]).toEqual([DATA.base, { ...DATA.z }, 0]);
          tally.add(code);
          tally.addAnswers(before);
        }
      }),
      { numRuns: 300 },
    );
    tally.expectAtLeast({ ...WORTHWHILE, ERR_REGO_PATCH: 50, ERR_REGO_DATA: 10, applied: 30, "changed answers": 3 });
  });

  function patch(policy: Policy, operations: readonly PatchOperation[]): string | undefined {
    try {
      policy.patchData(operations);
      return undefined;
    } catch (error) {
      if (!(error instanceof RegoError)) throw error;
      return error.code;
    }
  }
});

describe("options", () => {
  it("the two meanings of negation differ only where something is negated", () => {
    const tally = new Tally();
    fc.assert(
      fc.property(samples, (sample) => {
        fc.pre(!hasNegation(sample.parsed.rules));
        const opa = load(sample.text, { negation: "opa" });
        const regorus = load(sample.text, { negation: "regorus" });
        expect(regorus === undefined).toBe(opa === undefined);
        fc.pre(opa !== undefined);
        const [left, right] = [answers(opa!, sample), answers(regorus!, sample)];
        expect(right).toEqual(left);
        tally.addAnswers(left);
      }),
      { numRuns: 250 },
    );
    tally.expectAtLeast(WORTHWHILE);
  });

  function hasNegation(node: unknown): boolean {
    if (typeof node !== "object" || node === null) return false;
    return ("negated" in node && node.negated === true) || Object.values(node).some(hasNegation);
  }

  it("the type checker refuses policies and changes no answer of the others", () => {
    const tally = new Tally();
    fc.assert(
      fc.property(samples, (sample) => {
        const plain = load(sample.text);
        fc.pre(plain !== undefined);
        const checked = load(sample.text, { typeChecker: TYPE_CHECKER });
        if (checked === undefined) return tally.add("refused");
        const wanted = answers(plain!, sample);
        expect(answers(checked, sample)).toEqual(wanted);
        tally.addAnswers(wanted);
      }),
      { numRuns: 600 },
    );
    tally.expectAtLeast({ ...WORTHWHILE, refused: 100 });
  });
});
