import {
  SECTIONS,
  type Action,
  type ClaimProperty,
  type Condition,
  type Expression,
  type Identifier,
  type MakeAction,
  type PolicyTree,
  type PolicyVersion,
  type PropertyTest,
  type Reference,
  type Rule,
  type SectionKind,
} from "./ast.ts";
import { CLAIM_ISSUERS, isReservedClaim, VALUE_TYPES, valueTypeOf } from "./claims.ts";
import { FUNCTION_SIGNATURES, staticType } from "./functions.ts";
import { JmesPathFault, parseJmesPath } from "./jmespath.ts";
import { closest, limitError, quoted, type PolicyPosition, type PolicyProblems } from "./source.ts";

/** What each section may do. */
const SECTION_ACTIONS: Readonly<Record<SectionKind, readonly string[]>> = {
  configurationrules: ["issueproperty"],
  authorizationrules: ["permit", "deny", "add"],
  issuancerules: ["add", "issue", "issueproperty"],
};

/** Reports what makes no sense in a policy that reads well: names that are not bound, actions out of place, kinds that never fit. */
export function checkTree(tree: PolicyTree, end: PolicyPosition, problems: PolicyProblems): void {
  new Checker(tree.version, problems).policy(tree, end);
}

class Checker {
  readonly #version: PolicyVersion;
  readonly #problems: PolicyProblems;

  constructor(version: PolicyVersion, problems: PolicyProblems) {
    this.#version = version;
    this.#problems = problems;
  }

  policy({ sections }: PolicyTree, end: PolicyPosition): void {
    let last = -1;
    for (const { kind, rules, at } of sections) {
      const place = SECTIONS.indexOf(kind);
      if (sections.some((other) => other.kind === kind && other.at.offset < at.offset)) this.#problems.add(at, quoted(kind), "the section is there already");
      else if (place < last)
        this.#problems.add(at, quoted(kind), `the section stands before ${quoted(SECTIONS[last] ?? "")}`, `The order is ${SECTIONS.join(", ")}.`);
      last = Math.max(last, place);
      if (kind === "configurationrules" && this.#version === "1.0") {
        this.#problems.add(at, quoted(kind), "version 1.0 has no configurationrules", "Write version= 1.1; or 1.2.");
      }
      for (const rule of rules) this.#rule(kind, rule);
    }
    if (!sections.some(({ kind }) => kind === "authorizationrules")) {
      this.#problems.add(
        end,
        "the end of the policy",
        "expected the section 'authorizationrules'",
        "To permit all evidence that verifies: authorizationrules{ => permit(); };",
      );
    }
  }

  #rule(section: SectionKind, { conditions, action }: Rule): void {
    const bound = new Map<string, Identifier>();
    for (const condition of conditions) this.#condition(condition, conditions, bound);
    this.#action(section, action, conditions, bound);
  }

  #condition(condition: Condition, all: readonly Condition[], bound: Map<string, Identifier>): void {
    const { identifier, negated, tests } = condition;
    for (const test of tests) this.#test(test, condition, all, bound);
    if (identifier === undefined) return;
    const { name, at } = identifier;
    if (negated) {
      this.#problems.add(at, quoted(name), "a negated condition is met when there is no claim, so there is none to name", `Remove ${name}:`);
    } else if (bound.has(name)) this.#problems.add(at, quoted(name), "the name is given already, to another condition of the rule");
    else bound.set(name, identifier);
  }

  #test({ property, operator, operand }: PropertyTest, condition: Condition, all: readonly Condition[], bound: ReadonlyMap<string, Identifier>): void {
    this.#expression(operand, all, bound, condition);
    const type = staticType(operand);
    const ordering = operator !== "==" && operator !== "!=";
    if (ordering && property !== "value") {
      this.#wrong(operand, `${property} is a string, and ${operator} is for integers`, "Compare strings with == and !=.");
    } else if (ordering && type !== undefined && type !== "Integer") {
      this.#wrong(
        operand,
        `${operator} is for integers, found ${article(type)}`,
        type === "String" && /^"-?[0-9]+"$/.test(show(operand)) ? "Write the number without quotes." : undefined,
      );
    } else if (property !== "value" && type !== undefined && type !== "String") {
      this.#wrong(operand, `${property} is a string, found ${article(type)}`);
    } else this.#known(property, operand);
  }

  /** A condition on an issuer or kind that no claim has is never met; negated, it always is. */
  #known(property: ClaimProperty, operand: Expression): void {
    if (operand.kind !== "string" || (property !== "issuer" && property !== "valueType")) return;
    const names: readonly string[] = property === "issuer" ? CLAIM_ISSUERS : VALUE_TYPES;
    if (names.includes(operand.value) || (property === "valueType" && names.some((name) => name.toLowerCase() === operand.value.toLowerCase()))) return;
    const meant = closest(operand.value, names);
    this.#wrong(
      operand,
      `no claim has this ${property}: expected ${names.map((name) => `"${name}"`).join(", ")}`,
      meant === undefined ? undefined : `Did you mean "${meant}"?`,
    );
  }

  #action(section: SectionKind, action: Action, all: readonly Condition[], bound: ReadonlyMap<string, Identifier>): void {
    const { name } = action;
    const allowed = SECTION_ACTIONS[section];
    if (!allowed.includes(name)) {
      this.#problems.add(action.at, quoted(name), `${section} may not ${name}: expected ${allowed.map((item) => `'${item}'`).join(", ")}`, moveHint(name));
    }
    if (action.kind === "hand-on") this.#bound(action.claim, all, bound);
    else if (action.kind === "make") this.#make(action, all, bound);
  }

  #make(action: MakeAction, all: readonly Condition[], bound: ReadonlyMap<string, Identifier>): void {
    const { name, type, value, issuer, valueType } = action;
    for (const expression of [type, value, issuer, valueType]) if (expression !== undefined) this.#expression(expression, all, bound, undefined);
    for (const [property, expression] of Object.entries({ type, issuer, valueType })) {
      const found = expression === undefined ? undefined : staticType(expression);
      if (expression !== undefined && found !== undefined && found !== "String") this.#wrong(expression, `${property} is a string, found ${article(found)}`);
    }
    if (type.kind === "string") {
      if (type.value === "") this.#wrong(type, "a claim has a name: expected a string that is not empty");
      if (name === "issue" && isReservedClaim(type.value)) {
        this.#wrong(
          type,
          "this claim is the service's own to make, and a policy may not",
          "Issue it under another name; the claims of the service are in the token anyway.",
        );
      }
    }
    if (issuer?.kind === "string" && issuer.value === "AttestationService") {
      this.#wrong(issuer, "a policy makes no claims of the service", 'Leave issuer out: it is then "AttestationPolicy".');
    } else if (issuer !== undefined) this.#known("issuer", issuer);
    if (valueType !== undefined) this.#known("valueType", valueType);
    const made = staticType(value);
    if (
      valueType?.kind === "string" &&
      made !== undefined &&
      VALUE_TYPES.some((kind) => kind.toLowerCase() === valueType.value.toLowerCase() && kind !== made)
    ) {
      this.#wrong(valueType, `the value is ${article(made)}`);
    }
  }

  #expression(expression: Expression, all: readonly Condition[], bound: ReadonlyMap<string, Identifier>, within: Condition | undefined): void {
    if (expression.kind === "reference") this.#bound({ name: expression.identifier, at: expression.at }, all, bound, within);
    if (expression.kind !== "call") return;
    const { name, at } = expression;
    if (this.#version !== "1.2") this.#problems.add(at, quoted(name), `version ${this.#version} has no functions`, "Write version= 1.2;");
    const { takes } = FUNCTION_SIGNATURES[name];
    if (expression.arguments.length !== takes.length) {
      this.#problems.add(at, quoted(name), `${name} takes ${takes.length} argument${takes.length === 1 ? "" : "s"}, found ${expression.arguments.length}`);
    }
    expression.arguments.forEach((argument, index) => {
      this.#expression(argument, all, bound, within);
      const [wanted, found] = [takes[index], staticType(argument)];
      if (wanted !== undefined && found !== undefined && wanted !== found)
        this.#wrong(argument, `${name} takes ${article(wanted)} as argument ${index + 1}, found ${article(found)}`);
    });
    const path = expression.arguments[1];
    if (name === "JmesPath" && path?.kind === "string") this.#jmesPath(path.value, path);
  }

  #jmesPath(text: string, expression: Expression): void {
    try {
      parseJmesPath(text);
    } catch (error) {
      if (!(error instanceof JmesPathFault)) throw error;
      if (error.limit !== undefined) throw limitError(error.message, error.limit, expression.at);
      this.#wrong(expression, error.message, "JMESPath: https://jmespath.org/specification.html");
    }
  }

  #bound({ name, at }: Identifier, all: readonly Condition[], bound: ReadonlyMap<string, Identifier>, within?: Condition): void {
    if (bound.has(name)) return;
    if (within?.identifier?.name === name) {
      this.#problems.add(
        at,
        quoted(name),
        "a condition cannot speak of the claim that it is about to find",
        "Speak of a claim that a condition before it names.",
      );
      return;
    }
    const later = all.some(({ identifier, negated }) => identifier?.name === name && !negated);
    const names = [...bound.keys()];
    const meant = closest(name, names);
    const known = names.length === 0 ? "no condition names a claim" : `the conditions name ${names.map(quoted).join(", ")}`;
    this.#problems.add(
      at,
      quoted(name),
      later ? "the name is given only by a later condition" : `no condition gives this name to a claim; ${known}`,
      later ? "Exchange the conditions." : meant === undefined ? `Write ${name}:[type=="…"] => … to name the claim.` : `Did you mean ${meant}?`,
    );
  }

  #wrong(expression: Expression, problem: string, hint?: string): void {
    this.#problems.add(expression.at, quoted(show(expression)), problem, hint);
  }
}

function moveHint(name: string): string | undefined {
  if (name === "issue" || name === "issueproperty") return "Move the rule to issuancerules.";
  if (name === "permit" || name === "deny") return "Move the rule to authorizationrules.";
  return undefined;
}

function show(expression: Expression): string {
  switch (expression.kind) {
    case "string":
      return `"${expression.value}"`;
    case "integer":
    case "boolean":
      return String(expression.value);
    case "reference":
      return referenceText(expression);
    case "call":
      return expression.name;
  }
}

function referenceText({ identifier, property }: Reference): string {
  return `${identifier}.${property}`;
}

function article(type: ReturnType<typeof valueTypeOf>): string {
  return type === "Integer" ? "an integer" : `a ${type.toLowerCase()}`;
}
