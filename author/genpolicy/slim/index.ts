import { fromJson, type Module, parseRego, RegoObject, type Value } from "@sealpod/rego";
import { GenpolicyError } from "../errors.ts";
import type { PrintableJson } from "../pretty-json.ts";
import { ClosedRules } from "./closed.ts";
import { Calculator } from "./constants.ts";
import { withoutDefaults } from "./defaults.ts";
import { DATA_RULE, FlowAnalysis } from "./flow.ts";
import { foldConstants } from "./fold.ts";
import { inlineConditions } from "./inline.ts";
import { printModule } from "./print.ts";
import { pruneData } from "./prune.ts";
import { defaultsAsElse, dropUnreachable, plainDefaults } from "./reach.ts";
import { dropPrints } from "./reasons.ts";
import { shareReferences } from "./references.ts";
import { shortenNames } from "./rename.ts";
import { REQUESTS } from "./requests.ts";
import { shareConstants, unshareConstants } from "./share.ts";
import { unsupported } from "./supported.ts";
import { normalized } from "./rewrite.ts";
import { constantRule } from "./tree.ts";

/** Options of {@link slimPolicy}. */
export interface SlimOptions {
  /** Keeps the prints that say why a request is refused; true if left out. */
  readonly reasons?: boolean;
}

/** What leaves the module: what agents ask for, and the data, which tools read. */
const ROOTS: ReadonlySet<string> = new Set([...REQUESTS, DATA_RULE]);

/** Rounds of folding: the first opens the way for the second. A third takes as long and saves some twenty bytes. */
const ROUNDS = 2;

/** Deepest data: that of the parser. */
const MAX_NESTING = 64;

/**
 * The smallest policy that says the same as `rules` with `data` behind `policy_data := `: every request is allowed or refused
 * alike, with the same operations on the state, in every state. It reads nothing of the data but what is left of it; the texts of
 * reasons stay. Only for our own rules: they take a missing field for what {@link withoutDefaults} leaves out. Others are
 * refused if the passes do not know all they use (one module, no `with`).
 * @throws {GenpolicyError} ERR_GENPOLICY_RULES for rules that use what the passes do not know
 * @throws {RegoError} for rules that do not compile
 */
export function slimPolicy(rules: string, data: PrintableJson, options: SlimOptions = {}): string {
  const module = parseRego(rules, { name: "agent_policy" });
  return slimModule({ ...module, rules: [...module.rules, constantRule(DATA_RULE, withoutDefaults(valueOf(data)))] }, options);
}

/** {@link slimPolicy} for a whole policy text. */
export function slimText(text: string, options: SlimOptions = {}): string {
  return slimModule(parseRego(text, { name: "agent_policy" }), options);
}

/** The data as a value of the language. */
function valueOf(data: PrintableJson, nesting = 0): Value {
  if (typeof data !== "object" || data === null) return fromJson(data, 0);
  if (nesting > MAX_NESTING) throw new GenpolicyError("ERR_GENPOLICY_SETTINGS", `the policy's data is nested more than ${MAX_NESTING} deep`);
  if (isList(data)) return data.map((item) => valueOf(item, nesting + 1));
  const object = new RegoObject();
  const entries: Iterable<readonly [string, PrintableJson | undefined]> = isMap(data) ? data : Object.entries(data);
  for (const [name, item] of entries) if (item !== undefined) object.put(name, valueOf(item, nesting + 1));
  return object;
}

function isList(data: object): data is readonly PrintableJson[] {
  return Array.isArray(data);
}

function isMap(data: object): data is ReadonlyMap<string, PrintableJson> {
  return data instanceof Map;
}

function slimModule(parsed: Module, { reasons = true }: SlimOptions): string {
  const problem = unsupported(parsed);
  if (problem !== undefined) {
    throw new GenpolicyError("ERR_GENPOLICY_RULES", `the rules cannot be made small: ${problem}`, { hint: "Pass --full to keep them as they are." });
  }
  const calculator = new Calculator();
  let module = unshareConstants(normalized(reasons ? parsed : dropPrints(parsed)), ROOTS);
  const closed = new ClosedRules(dataOf(module));
  for (let round = 0; round < ROUNDS; round++) {
    // Folding can close a rule that was open.
    const folded = foldConstants(closed.evaluate(module), ROOTS, calculator);
    module = normalized(plainDefaults(dropUnreachable(inlineConditions(folded, ROOTS), ROOTS)), module);
  }
  module = pruneData(module, new FlowAnalysis(module, ROOTS, calculator).root);
  const shared = shareConstants(shareReferences(unshareConstants(module, ROOTS), "shared_path"), "shared_");
  return printModule(dataLast(shortenNames(defaultsAsElse(shared), ROOTS)));
}

/** What the rule with the data says; null if there is none. */
function dataOf({ rules }: Module): Value {
  const value = rules.find(({ head }) => head.name === DATA_RULE)?.clauses[0]?.value;
  return value?.kind === "scalar" ? value.value : null;
}

/** Tools that show a policy look for its data at the end. */
function dataLast(module: Module): Module {
  const [data, rules] = [true, false].map((isData) => module.rules.filter(({ head }) => (head.name === DATA_RULE) === isData));
  return { ...module, rules: [...(rules ?? []), ...(data ?? [])] };
}
