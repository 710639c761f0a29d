import type { Body, Clause, Expression, Module, Rule, RuleHead, Statement, Term, WithModifier } from "@sealpod/rego";
import { isArray } from "@sealpod/rego";
import { NAME, Writer } from "./writer.ts";

/** Binding power of the infix operators, as the parser has it; `in` binds least. */
const POWERS: ReadonlyMap<string, number> = new Map([
  ["in", 1],
  ["==", 2],
  ["!=", 2],
  ["<", 2],
  [">", 2],
  ["<=", 2],
  [">=", 2],
  ["|", 3],
  ["&", 4],
  ["+", 5],
  ["-", 5],
  ["*", 6],
  ["/", 6],
  ["%", 6],
]);
const UNION = 3;
const OPERAND = 7;

/**
 * Writes a module in as few bytes as the grammar allows: no comments, one space only where two words would run together. A
 * second parse gives the same tree. Nothing here may depend on what a reader of only one engine accepts: where OPA and regorus
 * differ (white space in front of brackets, sets at the start of a body) the longer text is taken.
 */
export function printModule(module: Module): string {
  const printer = new Printer();
  const { packagePath, imports, rules } = module;
  printer.word("package");
  printer.path(packagePath);
  printer.line();
  for (const { path, alias } of imports) {
    printer.word("import");
    printer.path(path);
    if (alias !== undefined) {
      printer.word("as");
      printer.word(alias);
    }
    printer.line();
  }
  for (const rule of rules) {
    printer.rule(rule);
    printer.line();
  }
  return printer.text;
}

/** A term as it would stand on the right side of `:=`. */
export function printTerm(term: Term): string {
  const printer = new Printer();
  printer.term(term, 0);
  return printer.text;
}

class Printer extends Writer {
  rule({ isDefault, head, clauses }: Rule): void {
    if (isDefault) this.word("default");
    this.#head(head);
    for (const [at, clause] of clauses.entries()) {
      if (at > 0) this.word("else");
      this.#clause(clause);
    }
  }

  #head({ name, path, parameters, item }: RuleHead): void {
    this.word(name);
    this.#steps(path);
    if (parameters !== undefined) this.#list("(", parameters, ")");
    if (item !== undefined) {
      this.word("contains");
      this.term(item, 0);
    }
  }

  #clause({ value, body }: Clause): void {
    if (value !== undefined) {
      this.symbol(":=");
      this.term(value, 0);
    }
    if (body.length === 0) return;
    this.word("if");
    const only = body.length === 1 ? body[0] : undefined;
    if (only === undefined || !standsAlone(only)) {
      this.#block(body);
    } else {
      // The statement decides whether a space is needed: `if not x`, `if"a"==b`.
      this.symbol(" ");
      this.#statement(only);
    }
  }

  #block(body: Body): void {
    this.symbol("{");
    this.#statements(body);
    this.symbol("}");
  }

  /** A line break is as short as a semicolon, and keeps lines short. */
  #statements(body: Body): void {
    for (const [at, statement] of body.entries()) {
      if (at > 0) {
        if (startsWithMinus(statement)) this.symbol(";");
        else this.line();
      }
      this.#statement(statement);
    }
  }

  #statement({ negated, expression, modifiers }: Statement): void {
    if (negated) this.word("not");
    this.#expression(expression);
    this.#modifiers(modifiers);
  }

  #modifiers(modifiers: readonly WithModifier[]): void {
    for (const { target, value } of modifiers) {
      this.word("with");
      this.term(target, OPERAND);
      this.word("as");
      this.term(value, 2);
    }
  }

  #expression(expression: Expression): void {
    switch (expression.kind) {
      case "term":
        this.term(expression.term, 0);
        return;
      case "assign":
        this.term(expression.target, 2);
        this.symbol(":=");
        this.term(expression.value, 0);
        return;
      case "unify":
        this.term(expression.left, 2);
        this.symbol("=");
        this.term(expression.right, 0);
        return;
      case "some":
        this.word("some");
        for (const [at, { name }] of expression.variables.entries()) {
          if (at > 0) this.symbol(",");
          this.word(name);
        }
        return;
      case "some-in":
        this.word("some");
        if (expression.key !== undefined) {
          this.term(expression.key, 2);
          this.symbol(",");
        }
        this.term(expression.value, 2);
        this.#in(expression.domain);
        return;
      case "every":
        this.word("every");
        if (expression.key !== undefined) {
          this.word(expression.key.name);
          this.symbol(",");
        }
        this.word(expression.value.name);
        this.#in(expression.domain);
        this.#block(expression.body);
    }
  }

  #in(collection: Term): void {
    if (!this.isBracket) this.symbol(" ");
    this.symbol("in ");
    this.term(collection, 2);
  }

  /** @param power of the operator around the term: one that binds less needs parentheses */
  term(term: Term, power: number): void {
    switch (term.kind) {
      case "scalar":
        this.value(term.value);
        return;
      case "var":
        this.word(term.name);
        return;
      case "ref":
        this.term(term.head, OPERAND);
        this.#steps(term.path);
        return;
      case "call":
        this.#call(term, power);
        return;
      case "array":
        this.#list("[", term.items, "]");
        return;
      case "set":
        this.#list("{", term.items, "}");
        return;
      case "object":
        this.symbol("{");
        for (const [at, [key, value]] of term.entries.entries()) {
          if (at > 0) this.comma();
          this.#item(key);
          this.symbol(":");
          this.#item(value);
        }
        this.symbol("}");
        return;
      case "array-comprehension":
        this.#comprehension("[", [term.head], term.body, "]");
        return;
      case "set-comprehension":
        this.#comprehension("{", [term.head], term.body, "}");
        return;
      case "object-comprehension":
        this.#comprehension("{", [term.key, term.value], term.body, "}");
        return;
      case "template":
        this.#template(term);
    }
  }

  #call({ name, args, operator }: Term & { readonly kind: "call" }, power: number): void {
    const own = operator === undefined ? undefined : POWERS.get(operator);
    const [left, right, third] = args;
    if (operator === undefined || own === undefined || left === undefined || right === undefined) {
      this.path(name);
      this.#list("(", args, ")");
      return;
    }
    // `k, v in x` reads like a list everywhere but in parentheses.
    const grouped = own < power || third !== undefined;
    if (grouped) this.symbol("(");
    if (third !== undefined) {
      this.term(left, 2);
      this.symbol(",");
      this.term(right, 2);
      this.#in(third);
    } else if (operator === "in") {
      this.term(left, left.kind === "call" && left.operator === "in" && left.args.length === 2 ? 1 : 2);
      this.#in(right);
    } else {
      this.term(left, own);
      this.symbol(operator);
      this.term(right, own + 1);
    }
    if (grouped) this.symbol(")");
  }

  #steps(path: readonly Term[]): void {
    for (const step of path) {
      if (step.kind === "scalar" && typeof step.value === "string" && NAME.test(step.value)) {
        this.symbol(`.${step.value}`);
        continue;
      }
      this.symbol("[");
      this.term(step, 2);
      this.symbol("]");
    }
  }

  #list(open: string, items: readonly Term[], close: string): void {
    this.symbol(open);
    for (const [at, item] of items.entries()) {
      if (at > 0) this.comma();
      this.#item(item);
    }
    this.symbol(close);
  }

  /** In brackets a bar starts a comprehension, and a comma before `in` could be its key's. */
  #item(term: Term): void {
    this.term(term, startsWithUnion(term) ? OPERAND : 2);
  }

  #comprehension(open: string, head: readonly Term[], body: Body, close: string): void {
    this.symbol(open);
    for (const [at, part] of head.entries()) {
      if (at > 0) this.symbol(":");
      // Nothing but a factor may stand before the bar.
      this.term(part, OPERAND);
    }
    this.symbol("|");
    this.#statements(body);
    this.symbol(close);
  }

  #template({ parts }: Term & { readonly kind: "template" }): void {
    this.symbol('$"');
    for (const part of parts) {
      if (typeof part === "string") {
        this.symbol(JSON.stringify(part).slice(1, -1).replaceAll("{", "\\{"));
        continue;
      }
      this.symbol("{");
      this.term(part.term, 0);
      this.#modifiers(part.modifiers);
      this.symbol("}");
    }
    this.symbol('"');
  }
}

/** A body without braces: not where an engine could take its first token for the brace, nor a declaration. */
function standsAlone({ expression, modifiers, negated }: Statement): boolean {
  if (modifiers.length > 0) return false;
  if (expression.kind === "every") return true;
  if (expression.kind !== "term") return false;
  return negated || !startsWithBrace(expression.term);
}

function startsWithBrace(term: Term): boolean {
  if (term.kind === "call") return term.operator !== undefined && term.args[0] !== undefined && startsWithBrace(term.args[0]);
  if (term.kind === "ref") return startsWithBrace(term.head);
  if (term.kind === "scalar") return typeof term.value === "object" && term.value !== null && !isArray(term.value);
  return term.kind === "object" || term.kind === "set" || term.kind === "set-comprehension" || term.kind === "object-comprehension";
}

function startsWithUnion(term: Term): boolean {
  if (term.kind !== "call" || term.operator === undefined || term.operator === "in") return false;
  return POWERS.get(term.operator) === UNION || (term.args[0] !== undefined && startsWithUnion(term.args[0]));
}

function startsWithMinus({ negated, expression }: Statement): boolean {
  if (negated) return false;
  let term: Term | undefined = expression.kind === "term" ? expression.term : expression.kind === "unify" ? expression.left : undefined;
  while (term?.kind === "call" && term.operator !== undefined) term = term.args[0];
  return term?.kind === "scalar" && (typeof term.value === "number" || typeof term.value === "bigint") && term.value < 0;
}
