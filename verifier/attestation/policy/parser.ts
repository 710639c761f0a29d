import {
  ACTIONS,
  CLAIM_PROPERTIES,
  FUNCTIONS,
  OPERATORS,
  POLICY_VERSIONS,
  SECTIONS,
  type Action,
  type ClaimActionName,
  type ClaimProperty,
  type Condition,
  type Expression,
  type FunctionName,
  type Identifier,
  type PolicyOperator,
  type PolicyTree,
  type PolicyVersion,
  type PropertyTest,
  type Rule,
  type Section,
  type SectionKind,
} from "./ast.ts";
import { tokenize, type Token } from "./lexer.ts";
import { MAX_CONDITIONS, MAX_NESTING, MAX_PROPERTIES, MAX_RULES } from "./limits.ts";
import { closest, limitError, quoted, type PolicyPosition, type PolicyProblems } from "./source.ts";

/** Names that mean something and so cannot name a claim. */
const RESERVED_NAMES: ReadonlySet<string> = new Set(["true", "false", "claim", "version", ...SECTIONS, ...ACTIONS, ...CLAIM_PROPERTIES, ...FUNCTIONS]);

/** Integers are those of 64 bits, signed or not: claims of either kind exist. */
const LEAST_INTEGER = -(2n ** 63n);
const MOST_INTEGER = 2n ** 64n - 1n;

const NO_CLAIM_HINT = 'Write claim=name, or type="name", value=expression.';

/** Ends a rule that cannot be read; what is wrong is already reported. */
class SyntaxFault extends Error {}

/**
 * Reads a policy (specs/attestation.md 4.5). What cannot be read is reported and left out of the tree; reading goes on after the next `;`.
 * @throws {AttestationError} ERR_ATTESTATION_POLICY_LIMIT
 */
export function parseTree(text: string, problems: PolicyProblems): { readonly tree: PolicyTree; readonly end: PolicyPosition } {
  const parser = new Parser(tokenize(text, problems), problems);
  return { tree: parser.policy(), end: parser.end };
}

class Parser {
  readonly #tokens: readonly Token[];
  readonly #problems: PolicyProblems;
  #index = 0;
  #rules = 0;

  constructor(tokens: readonly Token[], problems: PolicyProblems) {
    this.#tokens = tokens;
    this.#problems = problems;
  }

  policy(): PolicyTree {
    const versionAt = this.#token.at;
    const version = this.#version();
    const sections: Section[] = [];
    while (this.#token.kind !== "end" && !this.#problems.full) {
      const kind = SECTIONS.find((name) => name === this.#token.text);
      if (kind !== undefined && this.#token.kind === "name") sections.push(this.#section(kind));
      else {
        this.#expected("a section", closest(this.#token.text, SECTIONS), `The sections are ${SECTIONS.join(", ")}, in this order.`);
        this.#skipToSection();
      }
    }
    return { version, versionAt, sections };
  }

  /** `version= 1.0;`. A policy that lacks it is read as of the last version, so that one mistake is one problem. */
  #version(): PolicyVersion {
    const last: PolicyVersion = "1.2";
    if (this.#token.text !== "version") {
      this.#expected("'version'", closest(this.#token.text, ["version"]), "A policy starts with version= 1.0; (or 1.1, 1.2).");
      if (!this.#atSection()) this.#skipToSection();
      return last;
    }
    this.#index++;
    try {
      this.#require("=");
      const found = this.#token;
      const version = POLICY_VERSIONS.find((name) => found.kind === "number" && name === found.text);
      if (version === undefined) this.#fault("'1.0', '1.1' or '1.2'", undefined, "Newer versions of the language are not known here.");
      this.#index++;
      if (this.#is(";")) this.#index++;
      else this.#expected("';'");
      return version;
    } catch (error) {
      if (!(error instanceof SyntaxFault)) throw error;
      this.#skipToSection();
      return last;
    }
  }

  #section(kind: SectionKind): Section {
    const { at } = this.#token;
    this.#index++;
    const rules: Rule[] = [];
    if (this.#token.text !== "{") {
      this.#expected("'{'");
      this.#skipToSection();
      return { kind, rules, at };
    }
    this.#index++;
    while (!this.#is("}") && !this.#problems.full) {
      if (this.#token.kind === "end") {
        this.#expected("a rule or '}'", undefined, `The section ${kind} of line ${at.line} has no end.`);
        return { kind, rules, at };
      }
      if (this.#atSection()) {
        this.#expected("a rule or '}'", undefined, `The section ${kind} of line ${at.line} has no end.`);
        return { kind, rules, at };
      }
      const rule = this.#rule();
      if (rule !== undefined) rules.push(rule);
    }
    this.#index++;
    if (this.#is(";")) this.#index++;
    // Published policies leave out the very last semicolon.
    else if (this.#token.kind !== "end") {
      this.#expected("';'", undefined, `A section ends with };`);
      if (!this.#atSection()) this.#skipToSection();
    }
    return { kind, rules, at };
  }

  #rule(): Rule | undefined {
    const { at } = this.#token;
    if (++this.#rules > MAX_RULES) throw limitError(`the policy has ${this.#rules} rules`, MAX_RULES, at);
    try {
      const conditions: Condition[] = [];
      if (!this.#is("=>")) {
        conditions.push(this.#condition());
        while (this.#is("&&")) {
          this.#index++;
          if (conditions.length >= MAX_CONDITIONS) throw limitError(`the rule has ${conditions.length + 1} conditions`, MAX_CONDITIONS, at);
          conditions.push(this.#condition());
        }
      }
      if (!this.#is("=>")) this.#fault(conditions.length === 0 ? "a condition or '=>'" : "'&&' or '=>'");
      this.#index++;
      const action = this.#action();
      if (this.#is(";")) this.#index++;
      // Published policies write `=> permit()` without it where nothing follows.
      else if (!this.#is("}")) this.#expected("';'", undefined, "The rule before it has no end.");
      // Where the next rule begins plainly, it is read.
      if (this.#tokens[this.#index - 1]?.text === ")" && !this.#is("}") && !this.#is("[") && !this.#is("!") && !this.#is("=>")) this.#skipRule();
      return { conditions, action, at };
    } catch (error) {
      if (!(error instanceof SyntaxFault)) throw error;
      this.#skipRule();
      return undefined;
    }
  }

  #condition(): Condition {
    const { at } = this.#token;
    const negated = this.#is("!");
    if (negated) this.#index++;
    let identifier: Identifier | undefined;
    if (this.#token.kind === "name") {
      identifier = this.#identifier();
      this.#require(":");
    }
    if (!this.#is("[")) this.#fault(negated || identifier !== undefined ? "'['" : "a condition or '=>'");
    this.#index++;
    const tests = [this.#test()];
    while (this.#is(",")) {
      this.#index++;
      if (tests.length >= MAX_PROPERTIES) throw limitError(`the condition has ${tests.length + 1} tests`, MAX_PROPERTIES, at);
      tests.push(this.#test());
    }
    if (!this.#is("]")) this.#fault("',' or ']'");
    this.#index++;
    return { negated, identifier, tests, at };
  }

  #test(): PropertyTest {
    const { at } = this.#token;
    const property = this.#property();
    const { text } = this.#token;
    // A single `=` stands for equality in published policies.
    const operator: PolicyOperator | undefined = text === "=" ? "==" : OPERATORS.find((name) => name === text);
    if (operator === undefined || this.#token.kind !== "symbol") {
      return this.#fault(OPERATORS.map((name) => `'${name}'`).join(", "), undefined, text === "=>" ? "At least is written >=." : undefined);
    }
    this.#index++;
    return { property, operator, operand: this.#expression(0), at };
  }

  #property(): ClaimProperty {
    const { kind, text } = this.#token;
    const property = CLAIM_PROPERTIES.find((name) => kind === "name" && name === text);
    if (property === undefined) this.#fault("'type', 'value', 'issuer' or 'valueType'", kind === "name" ? closest(text, CLAIM_PROPERTIES) : undefined);
    this.#index++;
    return property;
  }

  #identifier(): Identifier {
    const { kind, text, at } = this.#token;
    if (kind !== "name") this.#fault("the name of a claim");
    if (RESERVED_NAMES.has(text)) this.#fault("the name of a claim", undefined, `${text} is a word of the language; choose another name.`);
    this.#index++;
    return { name: text, at };
  }

  #expression(depth: number): Expression {
    const { kind, text, value, at } = this.#token;
    if (depth > MAX_NESTING) throw limitError("calls are nested too deeply", MAX_NESTING, at);
    switch (kind) {
      case "string":
        this.#index++;
        return { kind: "string", value, at };
      case "number":
        return this.#integer();
      case "name":
        if (text === "true" || text === "false") {
          this.#index++;
          return { kind: "boolean", value: text === "true", at };
        }
        return this.#lookahead(1).text === "(" ? this.#call(depth) : this.#reference();
      case "symbol":
      case "end":
        return this.#fault("a string, an integer, true, false, name.value or a function");
    }
  }

  #integer(): Expression {
    const { text, at } = this.#token;
    if (text.includes(".")) this.#fault("an integer", undefined, "There are no fractions in the language.");
    const exact = BigInt(text);
    if (exact < LEAST_INTEGER || exact > MOST_INTEGER) this.#fault("an integer of 64 bits");
    this.#index++;
    const value = Number(exact);
    return { kind: "integer", value: Number.isSafeInteger(value) ? value : exact, at };
  }

  #reference(): Expression {
    const { text, at } = this.#token;
    const identifier = this.#identifier();
    if (!this.#is(".")) {
      const next = this.#token;
      this.#problems.add(next.at, describe(next), "expected '.'", `Write ${text}.value for the value of the claim, or "${text}" for a text.`);
      throw new SyntaxFault();
    }
    this.#index++;
    return { kind: "reference", identifier: identifier.name, property: this.#property(), at };
  }

  #call(depth: number): Expression {
    const { text, at } = this.#token;
    const name: FunctionName | undefined = FUNCTIONS.find((candidate) => candidate === text);
    if (name === undefined) return this.#fault("a function", closest(text, FUNCTIONS), `The functions are ${FUNCTIONS.join(", ")}.`);
    this.#index += 2;
    const args: Expression[] = [];
    while (!this.#is(")")) {
      if (args.length > 0) {
        if (!this.#is(",")) this.#fault("',' or ')'");
        this.#index++;
      }
      // No function has more than two: what is too many is told once, by the check.
      if (args.length > MAX_PROPERTIES) throw limitError(`the call has ${args.length + 1} arguments`, MAX_PROPERTIES, at);
      args.push(this.#expression(depth + 1));
    }
    this.#index++;
    return { kind: "call", name, arguments: args, at };
  }

  #action(): Action {
    const { kind, text, at } = this.#token;
    const name = ACTIONS.find((candidate) => kind === "name" && candidate === text);
    if (name === undefined) {
      return this.#fault(ACTIONS.map((candidate) => `'${candidate}'`).join(", "), kind === "name" ? closest(text, ACTIONS) : undefined);
    }
    this.#index++;
    this.#require("(");
    if (name === "permit" || name === "deny") {
      if (!this.#is(")")) this.#fault("')'", undefined, `${name} takes nothing.`);
      this.#index++;
      return { kind: "decide", name, at };
    }
    return this.#claimAction(name, at);
  }

  #claimAction(name: ClaimActionName, at: PolicyPosition): Action {
    let claim: Identifier | undefined;
    const given = new Map<ClaimProperty, Expression>();
    for (;;) {
      const argument = this.#token;
      if (argument.kind === "name" && argument.text === "claim") {
        if (claim !== undefined || given.size > 0) this.#fault("')'", undefined, "claim= stands alone.");
        this.#index++;
        this.#require("=");
        claim = this.#identifier();
      } else {
        const property = CLAIM_PROPERTIES.find((candidate) => argument.kind === "name" && candidate === argument.text);
        if (property === undefined) {
          const names = ["claim", ...CLAIM_PROPERTIES];
          this.#fault("'claim', 'type', 'value', 'issuer' or 'valueType'", argument.kind === "name" ? closest(argument.text, names) : undefined, NO_CLAIM_HINT);
        }
        if (claim !== undefined) this.#fault("')'", undefined, "claim= stands alone.");
        if (given.has(property)) this.#fault(`no second '${property}'`);
        this.#index++;
        if (this.#is("==")) this.#fault("'='", undefined, "In an action one = gives the value; == compares, in a condition.");
        this.#require("=");
        given.set(property, this.#expression(0));
      }
      if (!this.#is(",")) break;
      this.#index++;
    }
    const type = given.get("type");
    const value = given.get("value");
    if (!this.#is(")")) this.#fault("',' or ')'");
    if (claim === undefined && (type === undefined || value === undefined)) {
      return this.#fault(type === undefined ? "'type'" : "'value'", undefined, NO_CLAIM_HINT);
    }
    this.#index++;
    if (claim !== undefined) return { kind: "hand-on", name, claim, at };
    if (type === undefined || value === undefined) throw new SyntaxFault();
    return { kind: "make", name, type, value, issuer: given.get("issuer"), valueType: given.get("valueType"), at };
  }

  get #token(): Token {
    return this.#lookahead(0);
  }

  /** The last token is `end`, and it is never passed. */
  #lookahead(ahead: number): Token {
    const token = this.#tokens[Math.min(this.#index + ahead, this.#tokens.length - 1)];
    if (token === undefined) throw new SyntaxFault();
    return token;
  }

  #is(symbol: string): boolean {
    return this.#token.kind === "symbol" && this.#token.text === symbol;
  }

  #require(symbol: string): void {
    if (!this.#is(symbol)) this.#fault(`'${symbol}'`);
    this.#index++;
  }

  /** Where the text ends. */
  get end(): PolicyPosition {
    return this.#lookahead(this.#tokens.length).at;
  }

  #expected(what: string, meant?: string, hint?: string): void {
    const token = this.#token;
    const advice = meant === undefined || meant === token.text ? hint : `Did you mean ${meant}?`;
    this.#problems.add(token.at, describe(token), `expected ${what}`, advice);
  }

  #fault(what: string, meant?: string, hint?: string): never {
    this.#expected(what, meant, hint);
    throw new SyntaxFault();
  }

  #atSection(): boolean {
    return this.#token.kind === "name" && (SECTIONS as readonly string[]).includes(this.#token.text) && this.#lookahead(1).text === "{";
  }

  #skipToSection(): void {
    do this.#index++;
    while (this.#token.kind !== "end" && !this.#atSection());
  }

  /** To behind the next `;`, or to the `}` of the section. */
  #skipRule(): void {
    while (this.#token.kind !== "end" && !this.#atSection() && !this.#is("}")) {
      const ends = this.#is(";");
      this.#index++;
      if (ends) return;
    }
  }
}

function describe(token: Token): string {
  return token.kind === "end" ? "the end of the policy" : quoted(token.text);
}
