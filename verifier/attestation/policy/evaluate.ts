import { asArray, isSealpodError, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { AttestationError } from "../errors.ts";
import type { Action, Call, ClaimProperty, Condition, Expression, MakeAction, PolicyOperator, Rule, SectionKind } from "./ast.ts";
import { CLAIM_ISSUERS, isReservedClaim, issuedClaims, normalValue, VALUE_TYPES, valueTypeOf, type PolicyClaim, type PolicyValue } from "./claims.ts";
import { FUNCTION_SIGNATURES } from "./functions.ts";
import { JmesPathFault, parseJmesPath, type JmesPath } from "./jmespath.ts";
import { encodeFound, searchJmesPath } from "./jmespath-search.ts";
import { DEFAULT_POLICY_LIMITS, MAX_CLAIM_TYPE, MAX_DOCUMENT, MAX_DOCUMENT_DEPTH, MAX_DOCUMENT_NUMBER, type PolicyLimits } from "./limits.ts";
import type { AttestationPolicy } from "./policy.ts";
import { printAction, printCondition } from "./printer.ts";
import type { PolicyPosition } from "./source.ts";

/** The condition that kept a rule from acting. */
export interface UnmetCondition {
  readonly line: number;
  readonly column: number;
  /** Canonical text. */
  readonly condition: string;
  /** Of a negated condition: a claim that it says there must not be. Else: claims of the type that it asks for, which failed another of its tests; a few, cut. */
  readonly found: readonly string[];
}

/** What became of a rule. */
export interface RuleTrace {
  readonly section: SectionKind;
  readonly line: number;
  readonly column: number;
  /** Canonical text of the action. */
  readonly action: string;
  /** `acted`; `unmet`: its conditions did not hold; `no-value`: they did, and the value to be made was none; `not-reached`: the decision had been made. */
  readonly outcome: "acted" | "unmet" | "no-value" | "not-reached";
  /** Ways in which the conditions held. */
  readonly times: number;
  /** With `unmet`: the first condition that no claim met, in the combination that came furthest. */
  readonly unmet?: UnmetCondition;
}

/** What a policy says about claims. */
export interface PolicyVerdict {
  readonly permitted: boolean;
  /** The rule that permitted or denied; undefined if none did, which is as good as a denial. */
  readonly decidedBy?: { readonly line: number; readonly column: number; readonly action: "permit" | "deny" };
  /** Claims that the policy issues, none twice; empty unless permitted. None has a name of the service: its own claims, handed on, are in the token already. */
  readonly claims: readonly PolicyClaim[];
  /** What the policy sets by `issueproperty`, several values of one property as a list; not for the token. Empty unless permitted. */
  readonly properties: JsonObject;
  readonly trace: readonly RuleTrace[];
}

/**
 * Runs a policy over claims. Rules run in order, each over the claims that were there before it; the first `permit` or `deny` decides, and no `permit` is a
 * denial. The result depends on policy and claims alone.
 * @throws {AttestationError} ERR_ATTESTATION_POLICY_EVALUATION if a function gets what it does not take or a claim is not the policy's to make, with
 * `details.line` and `details.column`; ERR_ATTESTATION_POLICY_LIMIT
 */
export function evaluatePolicy(policy: AttestationPolicy, claims: readonly PolicyClaim[], limits: PolicyLimits = DEFAULT_POLICY_LIMITS): PolicyVerdict {
  return new Evaluation(policy, limits).run(claims);
}

/** Values of an expression: none (nothing was found), one, or the several of a JSON list or a set of claims. */
type Values = readonly PolicyValue[];

/** What a name stands for: one claim, and all that meet its condition. */
interface Binding {
  readonly claim: PolicyClaim;
  readonly all: readonly PolicyClaim[];
}

type Bindings = ReadonlyMap<string, Binding>;

/** Claims that a failed condition shows, and how much of each. */
const SHOWN_CLAIMS = 3;
const SHOWN_CHARACTERS = 80;

class Evaluation {
  readonly #policy: AttestationPolicy;
  readonly #limits: PolicyLimits;
  readonly #bag: ClaimBag;
  readonly #issued: ClaimBag;
  readonly #properties: ClaimBag;
  readonly #documents = new Map<string, JsonValue>();
  readonly #paths = new Map<string, JmesPath>();
  #steps = 0;
  #characters = 0;
  /** Where the evaluation is, for its errors. */
  #at: PolicyPosition = { line: 1, column: 1, offset: 0 };

  constructor(policy: AttestationPolicy, limits: PolicyLimits) {
    this.#policy = policy;
    this.#limits = limits;
    this.#bag = new ClaimBag();
    this.#issued = new ClaimBag();
    this.#properties = new ClaimBag();
  }

  run(claims: readonly PolicyClaim[]): PolicyVerdict {
    for (const claim of claims) this.#put(this.#bag, checkedClaim(claim));
    const trace: RuleTrace[] = [];
    let decidedBy: PolicyVerdict["decidedBy"];
    for (const { kind, rules } of this.#policy.tree.sections) {
      for (const rule of rules) {
        const over = kind === "authorizationrules" ? decidedBy !== undefined : kind === "issuancerules" && decidedBy?.action !== "permit";
        if (over) {
          trace.push(traceOf(kind, rule, "not-reached", 0));
          continue;
        }
        const item = this.#rule(kind, rule);
        trace.push(item);
        const { action } = rule;
        if (item.outcome === "acted" && action.kind === "decide") decidedBy = { line: rule.at.line, column: rule.at.column, action: action.name };
      }
    }
    const permitted = decidedBy?.action === "permit";
    return {
      permitted,
      ...(decidedBy === undefined ? {} : { decidedBy }),
      claims: permitted ? this.#issued.all : [],
      properties: issuedClaims(permitted ? this.#properties.all : []),
      trace,
    };
  }

  #rule(section: SectionKind, rule: Rule): RuleTrace {
    this.#at = rule.at;
    this.#charge(1);
    const search = new RuleSearch(rule);
    this.#search(search, 0, new Map());
    // What a rule makes is there for the rules after it, not for itself.
    for (const { target, claim } of search.made) this.#put(target, claim);
    if (search.times === 0) return traceOf(section, rule, "unmet", 0, search.unmet);
    return traceOf(section, rule, search.acted ? "acted" : "no-value", search.times);
  }

  /** Looks for all ways to meet the conditions from `index` on. True if the rule need not be looked at further. */
  #search(search: RuleSearch, index: number, bindings: Bindings): boolean {
    const condition = search.rule.conditions[index];
    // The bindings are copied for each way to go on.
    this.#charge(4 + bindings.size);
    if (condition === undefined) return this.#met(search, bindings);
    const { identifier, negated } = condition;
    const { type, oneByOne } = this.#policy.plans.get(condition) ?? { type: undefined, oneByOne: true };
    const candidates = type === undefined ? this.#bag.all : this.#bag.of(type);
    const tests = condition.tests.map(({ property, operator, operand, at }) => {
      this.#at = at;
      const operands = this.#values(operand, bindings);
      return { property, operator, operands: property === "valueType" ? operands.map(canonicalKind) : operands };
    });
    this.#at = search.rule.at;
    const weight = tests.reduce((sum, { operands }) => sum + weightOf(operands), 1);
    const matching: PolicyClaim[] = [];
    for (const claim of candidates) {
      this.#charge(weight);
      if (!tests.every(({ property, operator, operands }) => compare(propertyOf(claim, property), operator, operands))) continue;
      matching.push(claim);
      // Who asks whether there is a claim needs one.
      if (identifier === undefined) break;
    }
    const [first] = matching;
    if ((first === undefined) !== negated) {
      search.failed(index, condition, negated ? matching : type === undefined ? [] : candidates);
      return false;
    }
    if (identifier === undefined || first === undefined) return this.#search(search, index + 1, bindings);
    const claims = oneByOne ? matching : [first];
    return claims.some((claim) => this.#search(search, index + 1, new Map([...bindings, [identifier.name, { claim, all: matching }]])));
  }

  #met(search: RuleSearch, bindings: Bindings): boolean {
    const { action } = search.rule;
    search.times++;
    if (search.times > this.#limits.combinations) throw this.#limit("the conditions of the rule are met in too many ways", this.#limits.combinations);
    if (action.kind === "decide") {
      search.acted = true;
      return true;
    }
    this.#at = action.at;
    for (const claim of action.kind === "make" ? this.#make(action, bindings) : [this.#bound(action.claim.name, bindings).claim]) {
      search.acted = true;
      const target = this.#target(action, claim);
      if (target !== undefined) search.made.push({ target, claim });
      if (action.name === "issue") search.made.push({ target: this.#bag, claim });
      if (search.made.length > 2 * this.#limits.claims) throw this.#limit("the rule makes too many claims", this.#limits.claims);
    }
    this.#at = search.rule.at;
    return false;
  }

  /** Where a claim goes, besides to the rules after this one; undefined for a claim of the service, which is in the token already. */
  #target(action: Exclude<Action, { kind: "decide" }>, claim: PolicyClaim): ClaimBag | undefined {
    if (action.name === "add") return this.#bag;
    if (action.name === "issueproperty") return this.#properties;
    this.#charge(claim.type.length);
    if (!isReservedClaim(claim.type)) return this.#issued;
    if (action.kind === "hand-on" && claim.issuer === "AttestationService") return undefined;
    throw this.#error(`the claim ${JSON.stringify(cut(claim.type))} is the service's own to make, and a policy may not`, "Issue it under another name.");
  }

  #make({ type, value, issuer, valueType }: MakeAction, bindings: Bindings): readonly PolicyClaim[] {
    const values = this.#values(value, bindings);
    const types = this.#values(type, bindings);
    if (values.length === 0 || types.length === 0) return [];
    const name = this.#text(types, "type");
    if (name === "" || name.length > MAX_CLAIM_TYPE) throw this.#error("the type of a claim is empty or too long");
    const from = issuer === undefined ? "AttestationPolicy" : this.#text(this.#values(issuer, bindings), "issuer");
    const maker = CLAIM_ISSUERS.find((known) => known === from);
    if (maker === undefined || maker === "AttestationService") {
      throw this.#error(`the issuer of a claim that a policy makes is AttestationPolicy or CustomClaim, found ${JSON.stringify(cut(from))}`);
    }
    const wanted = valueType === undefined ? undefined : this.#text(this.#values(valueType, bindings), "valueType").toLowerCase();
    if (wanted !== undefined && !VALUE_TYPES.some((known) => known.toLowerCase() === wanted))
      throw this.#error(`there is no valueType ${JSON.stringify(cut(wanted))}`);
    return values.map((item) => {
      const kind = valueTypeOf(item);
      if (wanted !== undefined && wanted !== kind.toLowerCase()) throw this.#error(`valueType is ${wanted}, and the value is of type ${kind}`);
      this.#grow(typeof item === "string" ? item.length : 1);
      return { type: name, value: item, valueType: kind, issuer: maker };
    });
  }

  #values(expression: Expression, bindings: Bindings): Values {
    this.#charge(1);
    switch (expression.kind) {
      case "string":
      case "integer":
      case "boolean":
        return [expression.value];
      case "reference":
        return [propertyOf(this.#bound(expression.identifier, bindings).claim, expression.property)];
      case "call":
        return this.#call(expression, bindings);
    }
  }

  #call(call: Call, bindings: Bindings): Values {
    const { sets } = FUNCTION_SIGNATURES[call.name];
    const [first = [], second = []] = call.arguments.map((argument, index): Values => {
      if (argument.kind !== "reference" || !sets.includes(index)) return this.#values(argument, bindings);
      const { all } = this.#bound(argument.identifier, bindings);
      this.#charge(all.length);
      return all.map((claim) => propertyOf(claim, argument.property));
    });
    this.#at = call.at;
    this.#charge(first.length + second.length);
    if (call.name === "IsSubsetOf") {
      const all = new Set(second);
      return [first.every((value) => all.has(value))];
    }
    if (call.name === "ContainsOnlyValue") {
      if (second.length === 0) return [];
      const value = this.#one(second, call.name);
      // An empty set contains no value, so not this one either.
      return [first.length > 0 && first.every((item) => item === value)];
    }
    if (first.length === 0 || (call.arguments.length > 1 && second.length === 0)) return [];
    switch (call.name) {
      case "NegateBool": {
        const value = this.#one(first, call.name);
        if (typeof value !== "boolean") throw this.#error(`NegateBool takes a boolean, found ${shown(value)}`);
        return [!value];
      }
      case "AppendString": {
        const [head, tail] = [this.#text(first, call.name), this.#text(second, call.name)];
        this.#grow(head.length + tail.length);
        return [head + tail];
      }
      case "JmesPath":
        return this.#jmesPath(this.#text(first, call.name), this.#text(second, call.name));
      case "JsonToClaimValue":
        return this.#claimValues(this.#text(first, call.name));
    }
  }

  /** JSON text of what is found; none if that is null. */
  #jmesPath(document: string, path: string): Values {
    try {
      const charge = (steps: number): void => this.#charge(steps);
      const found = searchJmesPath(this.#path(path), this.#json(document), charge);
      if (found === null) return [];
      const text = encodeFound(found, charge);
      this.#grow(text.length);
      return [text];
    } catch (error) {
      if (!(error instanceof JmesPathFault)) throw error;
      if (error.limit !== undefined) throw this.#limit(error.message, error.limit);
      throw this.#error(`JmesPath: ${error.message}`);
    }
  }

  #path(text: string): JmesPath {
    const known = this.#policy.paths.get(text) ?? this.#paths.get(text);
    if (known !== undefined) return known;
    // The library takes each character up several times.
    this.#charge(4 * text.length);
    const path = parseJmesPath(text);
    this.#paths.set(text, path);
    return path;
  }

  #json(text: string): JsonValue {
    const known = this.#documents.get(text);
    if (known !== undefined) return known;
    if (text.length > MAX_DOCUMENT) throw this.#limit(`a JSON document has ${text.length} characters`, MAX_DOCUMENT);
    // Nine characters may be an object with a member.
    this.#charge(text.length);
    let document: JsonValue;
    try {
      document = parseJson(text, "the value", { maxLength: MAX_DOCUMENT, maxDepth: MAX_DOCUMENT_DEPTH, maxNumberLength: MAX_DOCUMENT_NUMBER });
    } catch (cause) {
      if (!isSealpodError(cause)) throw cause;
      if (cause.code === "ERR_CORE_LIMIT" && cause.details["limit"] === MAX_DOCUMENT_NUMBER)
        throw this.#limit("a number in a JSON document has too many digits", MAX_DOCUMENT_NUMBER);
      if (cause.code === "ERR_CORE_LIMIT") throw this.#limit("a JSON document is nested too deeply", MAX_DOCUMENT_DEPTH);
      throw this.#error(`the value is not JSON: ${messageOf(cause)}`);
    }
    this.#documents.set(text, document);
    return document;
  }

  #claimValues(text: string): Values {
    const document = this.#json(text);
    if (document === null) return [];
    const list = asArray(document) ?? [document];
    this.#charge(list.length);
    return list.map((item) => {
      if (typeof item === "string" || typeof item === "boolean") return item;
      if (typeof item === "bigint" || Number.isSafeInteger(item)) return this.#integer(item as number | bigint);
      throw this.#error(`JsonToClaimValue takes a string, an integer, a boolean, or a list of these, found ${cut(text)}`);
    });
  }

  #integer(value: number | bigint): PolicyValue {
    if (!isInteger64(value)) throw this.#error("an integer has more than 64 bits");
    return normalValue(value);
  }

  #one(values: Values, what: string): PolicyValue {
    const [value] = values;
    if (value === undefined || values.length > 1) throw this.#error(`${what} takes one value, found ${values.length}`);
    return value;
  }

  #text(values: Values, what: string): string {
    const value = this.#one(values, what);
    if (typeof value !== "string") throw this.#error(`${what} takes a string, found ${shown(value)}`);
    return value;
  }

  #bound(name: string, bindings: Bindings): Binding {
    const binding = bindings.get(name);
    if (binding === undefined) throw this.#error(`no condition names a claim ${name}`);
    return binding;
  }

  #put(bag: ClaimBag, claim: PolicyClaim): void {
    // The key under which the bag keeps it is made of its type.
    this.#charge(2 + (claim.type.length >> 5));
    if (bag.put(claim) && bag.all.length > this.#limits.claims) throw this.#limit("there are too many claims", this.#limits.claims);
  }

  #charge(steps: number): void {
    this.#steps += steps;
    if (this.#steps > this.#limits.steps) throw this.#limit("the evaluation takes too many steps", this.#limits.steps);
  }

  #grow(characters: number): void {
    this.#characters += characters;
    if (this.#characters > this.#limits.characters) throw this.#limit("the policy makes too many characters", this.#limits.characters);
  }

  #limit(what: string, limit: number): AttestationError {
    const { line, column } = this.#at;
    return new AttestationError("ERR_ATTESTATION_POLICY_LIMIT", `Line: '${line}', Column: '${column}'. ${what} (limit ${limit})`, {
      details: { line, column, limit },
      hint: 'Make the conditions narrower: test type=="…" in each, and name only the claims that the action needs.',
    });
  }

  #error(what: string, hint?: string): AttestationError {
    const { line, column } = this.#at;
    return new AttestationError("ERR_ATTESTATION_POLICY_EVALUATION", `Line: '${line}', Column: '${column}'. ${what}`, {
      details: { line, column },
      ...(hint === undefined ? {} : { hint }),
    });
  }
}

/** A set of claims: an equal claim is there once, however often a rule makes it. */
class ClaimBag {
  readonly all: PolicyClaim[] = [];
  readonly #byType = new Map<string, PolicyClaim[]>();
  readonly #values = new Map<string, Set<PolicyValue>>();

  of(type: string): readonly PolicyClaim[] {
    return this.#byType.get(type) ?? [];
  }

  /** True if the claim was not there. */
  put(claim: PolicyClaim): boolean {
    const { type, issuer, valueType, value } = claim;
    const key = `${issuer} ${valueType} ${type}`;
    const values = this.#values.get(key) ?? new Set<PolicyValue>();
    if (values.has(value)) return false;
    values.add(value);
    this.#values.set(key, values);
    this.all.push(claim);
    const list = this.#byType.get(type);
    if (list === undefined) this.#byType.set(type, [claim]);
    else list.push(claim);
    return true;
  }
}

/** The search for claims that meet the conditions of one rule. */
class RuleSearch {
  readonly rule: Rule;
  readonly made: { readonly target: ClaimBag; readonly claim: PolicyClaim }[] = [];
  times = 0;
  acted = false;
  #deepest = -1;
  #unmet: UnmetCondition | undefined;

  constructor(rule: Rule) {
    this.rule = rule;
  }

  get unmet(): UnmetCondition | undefined {
    return this.#unmet;
  }

  failed(index: number, condition: Condition, claims: readonly PolicyClaim[]): void {
    if (index <= this.#deepest) return;
    this.#deepest = index;
    const found = claims.slice(0, SHOWN_CLAIMS).map(({ type, value, issuer }) => `${cut(type)} = ${shown(value)} of ${issuer}`);
    this.#unmet = { line: condition.at.line, column: condition.at.column, condition: printCondition(condition), found };
  }
}

function traceOf(section: SectionKind, { at, action }: Rule, outcome: RuleTrace["outcome"], times: number, unmet?: UnmetCondition): RuleTrace {
  return { section, line: at.line, column: at.column, action: printAction(action), outcome, times, ...(unmet === undefined ? {} : { unmet }) };
}

/** What it costs to compare a value with these, in steps. */
function weightOf(operands: Values): number {
  return operands.reduce<number>((sum, value) => sum + 1 + (typeof value === "string" ? value.length >> 8 : 0), 0);
}

/** Kinds are written in any letter case. */
function canonicalKind(value: PolicyValue): PolicyValue {
  return VALUE_TYPES.find((known) => typeof value === "string" && known.toLowerCase() === value.toLowerCase()) ?? value;
}

function propertyOf(claim: PolicyClaim, property: ClaimProperty): PolicyValue {
  return claim[property];
}

/** A test holds if one of the operand's values passes; `!=` if none is equal. Values of two kinds are never equal, and only integers have an order. */
function compare(value: PolicyValue, operator: PolicyOperator, operands: Values): boolean {
  switch (operator) {
    case "==":
      return operands.includes(value);
    case "!=":
      return operands.length > 0 && !operands.includes(value);
    case "<":
    case "<=":
    case ">":
    case ">=": {
      const [operand] = operands;
      if (operands.length !== 1 || operand === undefined || valueTypeOf(value) !== "Integer" || valueTypeOf(operand) !== "Integer") return false;
      return operator === "<" ? value < operand : operator === "<=" ? value <= operand : operator === ">" ? value > operand : value >= operand;
    }
  }
}

function isInteger64(value: number | bigint): boolean {
  if (typeof value === "number") return Number.isSafeInteger(value);
  return value >= -(2n ** 63n) && value < 2n ** 64n;
}

/** Claims come from other code, and a file of the command line: what a policy cannot speak of is refused, not guessed at. */
function checkedClaim({ type, value, issuer }: PolicyClaim): PolicyClaim {
  const fits = typeof value === "number" || typeof value === "bigint" ? isInteger64(value) : typeof value === "string" || typeof value === "boolean";
  if (typeof type !== "string" || type === "" || type.length > MAX_CLAIM_TYPE || !fits || !CLAIM_ISSUERS.includes(issuer)) {
    throw new AttestationError(
      "ERR_ATTESTATION_POLICY_EVALUATION",
      `the claim ${JSON.stringify(cut(type))} is none: expected a type, a string, boolean or integer of 64 bits, and an issuer of ${CLAIM_ISSUERS.join(", ")}`,
    );
  }
  const normal = normalValue(value);
  return { type, value: normal, valueType: valueTypeOf(normal), issuer };
}

function shown(value: PolicyValue): string {
  return typeof value === "string" ? JSON.stringify(cut(value)) : String(value);
}

function cut(text: string): string {
  return text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS - 1)}…` : text;
}
