import type { RegoLimits } from "../limits.ts";
import { MAX_NUMBER_LENGTH, parseNumber, RegoObject, RegoSet } from "../values/index.ts";
import type { Value } from "../values/index.ts";
import type {
  Body,
  Clause,
  Expression,
  Import,
  Module,
  RegoVersion,
  Rule,
  RuleHead,
  Statement,
  TemplateExpression,
  Term,
  VarTerm,
  WithModifier,
} from "./ast.ts";
import { ConstantReader } from "./constant.ts";
import type { Token } from "./lexer.ts";
import { decodeEscapes, isNameStart, Lexer, LexicalError } from "./lexer.ts";
import type { Diagnostic, Source } from "./source.ts";
import type { TokenLog, TokenRole } from "./token-log.ts";

/** Words that can never be names. */
const KEYWORDS: ReadonlySet<string> = new Set(["as", "default", "else", "false", "import", "not", "null", "package", "some", "true", "with"]);

/** Words that are keywords in v1, and in v0 once they are imported from `future.keywords`. */
const FUTURE_KEYWORDS: readonly string[] = ["in", "every", "if", "contains"];

/** True for a word that is a keyword in one dialect or the other. */
export function isReservedWord(word: string): boolean {
  return KEYWORDS.has(word) || FUTURE_KEYWORDS.includes(word);
}

/** Builtin name and binding power of each infix operator; all are left-associative. */
const INFIX: ReadonlyMap<string, { readonly name: string; readonly power: number }> = new Map([
  ["==", { name: "equal", power: 2 }],
  ["!=", { name: "neq", power: 2 }],
  ["<", { name: "lt", power: 2 }],
  [">", { name: "gt", power: 2 }],
  ["<=", { name: "lte", power: 2 }],
  [">=", { name: "gte", power: 2 }],
  ["|", { name: "or", power: 3 }],
  ["&", { name: "and", power: 4 }],
  ["+", { name: "plus", power: 5 }],
  ["-", { name: "minus", power: 5 }],
  ["*", { name: "mul", power: 6 }],
  ["/", { name: "div", power: 6 }],
  ["%", { name: "rem", power: 6 }],
]);

const RELATION = 2;
const UNION = 3;

/** The first items of a list: what has to be read to know that it is one. */
type FirstItems = readonly [Term] | readonly [Term, Term];

/** Stops the parsing of one rule; the diagnostic is already recorded. */
class SyntaxAbort extends Error {}

/** The nesting limit: stops the parsing of the module, since what follows cannot be trusted to be cheaper. */
class NestingAbort extends Error {}

/**
 * Parses a module.
 * @param log gets the tokens and what they are, for a formatter; meaningful only if there are no diagnostics
 * @returns the module, or the diagnostics of everything that is wrong with its syntax
 */
export function parseModule(source: Source, version: RegoVersion, limits: RegoLimits, log?: TokenLog): Module | readonly Diagnostic[] {
  const parser = new Parser(source, version, limits, log);
  return parser.run(() => parser.module());
}

/** Parses a query: a body that stands alone. Future keywords are always on. */
export function parseQuery(source: Source, limits: RegoLimits): Body | readonly Diagnostic[] {
  const parser = new Parser(source, "v1", limits);
  return parser.run(() => parser.query());
}

/** True if a parser's result is a list of diagnostics. */
export function isDiagnostics(result: Module | Body | readonly Diagnostic[]): result is readonly Diagnostic[] {
  if (!Array.isArray(result)) return false;
  const first = (result as readonly (Statement | Diagnostic)[])[0];
  return first !== undefined && "caret" in first;
}

class Parser {
  readonly #source: Source;
  readonly #limits: RegoLimits;
  readonly #lexer: Lexer;
  readonly #constants: ConstantReader;
  readonly #log: TokenLog | undefined;
  readonly #failures: Diagnostic[] = [];
  readonly #future = new Set<string>();
  #version: RegoVersion;
  #token: Token = { kind: "end", text: "", at: 0, end: 0 };
  #previousEnd = 0;
  #depth = 0;

  constructor(source: Source, version: RegoVersion, limits: RegoLimits, log?: TokenLog) {
    this.#source = source;
    this.#version = version;
    this.#limits = limits;
    this.#log = log;
    this.#lexer = new Lexer(source);
    this.#constants = new ConstantReader(source.text);
    if (version === "v1") for (const word of FUTURE_KEYWORDS) this.#future.add(word);
  }

  /** Runs a parse and gathers what went wrong. */
  run<T>(parse: () => T): T | readonly Diagnostic[] {
    if (this.#source.text.length > this.#limits.maxSourceLength) {
      const message = `the text has ${this.#source.text.length} characters, more than the limit of ${this.#limits.maxSourceLength}`;
      return [this.#source.diagnostic("ERR_REGO_LIMIT_SOURCE", 0, message)];
    }
    let result: T | undefined;
    try {
      this.#advance(0);
      result = parse();
    } catch (error) {
      if (!(error instanceof SyntaxAbort) && !(error instanceof NestingAbort)) throw error;
    }
    if (this.#failures.length > 0) return this.#failures;
    return result!;
  }

  // Tokens

  #advance(offset: number): void {
    try {
      this.#token = this.#lexer.next(offset);
    } catch (error) {
      if (!(error instanceof LexicalError)) throw error;
      this.#failAt(error.at, error.message);
    }
  }

  #take(): Token {
    const token = this.#token;
    this.#previousEnd = token.end;
    this.#log?.tokens.push(token);
    this.#advance(token.end);
    return token;
  }

  #takeWord(): Token {
    this.#mark(this.#token.at, "keyword");
    return this.#take();
  }

  #mark(at: number, role: TokenRole): void {
    this.#log?.roles.set(at, role);
  }

  #atEnd(): boolean {
    return this.#token.kind === "end";
  }

  #isSymbol(text: string): boolean {
    return this.#token.kind === "symbol" && this.#token.text === text;
  }

  #isWord(word: string): boolean {
    return this.#token.kind === "name" && this.#token.text === word && this.#isKeyword(word) && !this.#startsRef();
  }

  #skipSymbol(text: string): boolean {
    if (!this.#isSymbol(text)) return false;
    this.#take();
    return true;
  }

  #skipWord(word: string): boolean {
    if (!this.#isWord(word)) return false;
    this.#takeWord();
    return true;
  }

  #expectSymbol(text: string, where: string): Token {
    if (!this.#isSymbol(text)) this.#fail(`"${text}" expected ${where}, found ${this.#found()}`);
    return this.#take();
  }

  #found(): string {
    const token = this.#token;
    if (token.kind === "end") return "the end of the text";
    if (token.kind === "string") return "a string";
    const text = token.text.length > 40 ? `${token.text.slice(0, 40)}...` : token.text;
    return `"${text}"`;
  }

  #fail(message: string): never {
    return this.#failAt(this.#token.at, message);
  }

  #failAt(at: number, message: string): never {
    this.#failures.push(this.#source.diagnostic("ERR_REGO_PARSE", at, message));
    throw new SyntaxAbort(message);
  }

  /** True if there is a line break between the last token and this one. */
  #onNewLine(): boolean {
    // Not indexOf on the whole text: of a module on one line it would read all the rest for each statement.
    const { text } = this.#source;
    for (let at = this.#previousEnd; at < this.#token.at; at++) if (text.charCodeAt(at) === 0x0a) return true;
    return false;
  }

  #isKeyword(name: string): boolean {
    return KEYWORDS.has(name) || this.#future.has(name);
  }

  /** A keyword with a dot right behind it is a name: `if.allowed`. */
  #startsRef(): boolean {
    return this.#source.text[this.#token.end] === ".";
  }

  #isName(): boolean {
    return this.#token.kind === "name" && (!this.#isKeyword(this.#token.text) || this.#startsRef());
  }

  /** Guards every bracket, the only way to recurse: hostile nesting ends here, not at the end of the stack. */
  #nested<T>(parse: () => T): T {
    this.#depth++;
    if (this.#depth > this.#limits.maxNesting) {
      this.#failures.push(this.#source.diagnostic("ERR_REGO_LIMIT_NESTING", this.#token.at, `nested deeper than ${this.#limits.maxNesting}`));
      throw new NestingAbort("nested too deep");
    }
    const result = parse();
    this.#depth--;
    return result;
  }

  // Modules

  module(): Module {
    if (!this.#isWord("package")) this.#fail(`"package" expected at the start of a module, found ${this.#found()}`);
    this.#takeWord();
    const packagePath = this.#path("a package name");
    const imports: Import[] = [];
    const imported = new Set<string>();
    const roots = new Set<string>();
    const rules: Rule[] = [];
    while (this.#token.kind !== "end") {
      const start = this.#token.at;
      this.#depth = 0;
      try {
        while (this.#skipSymbol(";"));
        if (this.#atEnd()) break;
        const ownLine = rules.length + imports.length === 0 || this.#onNewLine() || this.#source.text[this.#previousEnd - 1] === ";";
        if (this.#isWord("import")) {
          if (rules.length > 0) this.#fail("an import must stand above all rules");
          const next = this.#import();
          const name = importedName(next);
          const root = next.path[0]!;
          const excluded = root === "rego" ? ["rego", "future"] : root === "future" ? ["rego"] : [];
          if (excluded.some((other) => roots.has(other))) {
            this.#failAt(next.at, "import rego.v1 brings in all of future.keywords: it stands once, and without them");
          }
          roots.add(root);
          if (this.#version === "v1" && name !== undefined && imported.has(name)) {
            this.#failAt(next.at, `import must not shadow an earlier import of the name "${name}"`);
          }
          imports.push(next);
          if (name !== undefined) imported.add(name);
        } else {
          this.#rules(rules, ownLine);
        }
      } catch (error) {
        if (!(error instanceof SyntaxAbort)) throw error;
        this.#recover(start);
      }
    }
    return { source: this.#source, version: this.#version, packagePath, imports, rules };
  }

  query(): Body {
    const body = this.#statements("end");
    if (body.length === 0) this.#fail("a query must have at least one statement");
    return body;
  }

  /** After an error: goes on at the next line that starts, in its first column, like a rule. */
  #recover(start: number): void {
    const text = this.#source.text;
    let at = Math.max(this.#token.at, start);
    for (;;) {
      at = text.indexOf("\n", at);
      if (at === -1) {
        this.#token = { kind: "end", text: "end of the text", at: text.length, end: text.length };
        return;
      }
      at++;
      if (isNameStart(text.charCodeAt(at))) break;
    }
    this.#previousEnd = at - 1;
    try {
      this.#advance(at);
    } catch (error) {
      if (!(error instanceof SyntaxAbort)) throw error;
      this.#token = { kind: "end", text: "end of the text", at: text.length, end: text.length };
    }
  }

  /** A dotted path whose steps may also be `["quoted"]`. */
  #path(what: string): string[] {
    if (this.#token.kind !== "name") this.#fail(`${what} expected, found ${this.#found()}`);
    const path = [this.#take().text];
    for (;;) {
      this.#checkChain(path.length);
      if (this.#isSymbol(".") && this.#token.at === this.#previousEnd) {
        path.push(this.#field());
      } else if (this.#isSymbol("[") && this.#token.at === this.#previousEnd) {
        this.#take();
        if ((this.#token.kind as string) !== "string") this.#fail(`a string expected in brackets, found ${this.#found()}`);
        path.push(this.#take().text);
        this.#expectSymbol("]", "after the string");
      } else {
        return path;
      }
    }
  }

  #import(): Import {
    const at = this.#takeWord().at;
    const pathAt = this.#token.at;
    const path = this.#path("the path of an import");
    let alias: string | undefined;
    if (this.#skipWord("as")) {
      if (!this.#isName()) this.#fail(`a name expected after "as", found ${this.#found()}`);
      if (path[0] === "rego" || path[0] === "future") this.#fail(`an import from ${path[0]} brings in keywords and cannot have another name`);
      alias = this.#take().text;
    }
    const [root, second, third] = path;
    if (root === "rego") {
      if (path.length !== 2 || second !== "v1") this.#failAt(pathAt, "the only import from rego is rego.v1");
      this.#version = "v1";
      for (const word of FUTURE_KEYWORDS) this.#future.add(word);
    } else if (root === "future") {
      if (second !== "keywords" || path.length > 3 || (third !== undefined && !FUTURE_KEYWORDS.includes(third))) {
        this.#failAt(pathAt, `the imports from future are future.keywords and future.keywords.{${FUTURE_KEYWORDS.join(", ")}}`);
      }
      if (third === undefined) for (const word of FUTURE_KEYWORDS) this.#future.add(word);
      else this.#future.add(third);
      if (third === "every") this.#future.add("in");
    } else if (root !== "data" && root !== "input") {
      this.#failAt(pathAt, `an import must start with data, input, rego or future, found "${root ?? ""}"`);
    }
    return { at, path, alias };
  }

  // Rules

  /**
   * @param ownLine false if another statement stands before the rule on its line: then it must have a value, as only that
   *   tells it from a slip (`x = 1 if { a }` in v0 without the import, `p { a } and { b }`)
   */
  #rules(rules: Rule[], ownLine: boolean): void {
    const { at } = this.#token;
    const isRule = this.#isName() || this.#isWord("default");
    const slip = ownLine ? undefined : `a new line or ";" expected before the next statement, found ${this.#found()}`;
    if (slip !== undefined && !isRule) this.#fail(slip);
    if (this.#isWord("default")) {
      this.#takeWord();
      rules.push(this.#defaultRule(at));
      return;
    }
    const head = this.#ruleHead(at);
    let value: Term | undefined;
    let item: Term | undefined;
    let assigned = false;
    if (this.#future.has("contains") && this.#skipWord("contains")) {
      item = this.#membership(true);
    } else if (this.#isSymbol(":=") || this.#isSymbol("=")) {
      this.#take();
      value = this.#membership(true);
      assigned = true;
    }
    if (slip !== undefined && !assigned && item === undefined) this.#failAt(at, slip);
    if (item !== undefined && head.parameters !== undefined) this.#failAt(at, "a function cannot be a set");
    const hasIf = this.#skipWord("if");
    const clauses: Clause[] = [];
    let body: Body = [];
    if (hasIf) {
      body = this.#ifBody();
    } else if (this.#isSymbol("{")) {
      if (this.#version === "v1") this.#fail('"if" is required before a rule body (in v0 it is not: set the version if this is an old policy)');
      body = this.#block();
    } else if (!assigned && item === undefined) {
      this.#bareHead(head, at);
    }
    clauses.push({ at, value, body });
    // In v0 a head like p[x] or p.a without a value and without `if` names the item of a set.
    const resolved = this.#asSet(head, item, assigned, hasIf, at);
    while (this.#isWord("else")) {
      if (resolved.item !== undefined) this.#fail("a set cannot have an else branch");
      if (clauses.at(-1)!.body.length === 0) this.#fail('"else" must stand behind a body');
      clauses.push(this.#elseClause());
    }
    rules.push({ at, isDefault: false, head: resolved, clauses });
    // `p = 1 { a } { b }`: each further block is a rule of its own with the same head.
    while (this.#isSymbol("{") && body.length > 0) {
      if (clauses.length > 1) this.#fail("a further body cannot follow an else branch");
      const start = this.#token.at;
      rules.push({ at: start, isDefault: false, head: resolved, clauses: [{ at: start, value, body: this.#block() }] });
    }
  }

  #ruleHead(at: number): RuleHead {
    if (!this.#isName()) {
      if (this.#token.kind === "name") this.#fail(`the keyword "${this.#token.text}" cannot name a rule`);
      this.#fail(`a rule expected, found ${this.#found()}`);
    }
    const name = this.#take().text;
    const path = this.#steps();
    let parameters: Term[] | undefined;
    // Behind a lone name white space may stand: what else starts with a parenthesis?
    if (this.#isAdjacent("(") || (path.length === 0 && this.#isSymbol("("))) {
      this.#mark(this.#take().at, "parameters");
      parameters = this.#list(")", () => this.#term());
    }
    return { at, name, path, parameters, item: undefined };
  }

  #bareHead(head: RuleHead, at: number): void {
    if (head.parameters !== undefined) this.#failAt(at, "a function needs a value or a body");
    if (this.#version === "v0" && head.path.length > 0) return;
    if (head.path.length > 0) this.#failAt(at, '"contains" or "if" is required after this rule head');
    this.#failAt(at, `"${head.name}" alone is not a rule: a value or a body is missing`);
  }

  #asSet(head: RuleHead, item: Term | undefined, assigned: boolean, hasIf: boolean, at: number): RuleHead {
    if (item !== undefined) return { ...head, item };
    const last = head.path.at(-1);
    if (assigned || hasIf || last === undefined || head.parameters !== undefined) return head;
    if (this.#version === "v1") this.#failAt(at, '"contains" is required for a partial set rule');
    // A longer head (p.a.b, p[x][y]) names a rule of its own.
    if (head.path.length > 1) return head;
    return { ...head, path: head.path.slice(0, -1), item: last };
  }

  #elseClause(): Clause {
    const at = this.#takeWord().at;
    let value: Term | undefined;
    if (this.#isSymbol(":=") || this.#isSymbol("=")) {
      this.#take();
      value = this.#membership(true);
    }
    const hasIf = this.#skipWord("if");
    if (hasIf) return { at, value, body: this.#ifBody() };
    if (this.#isSymbol("{")) {
      if (this.#version === "v1") this.#fail('"if" is required before the body of an else branch');
      return { at, value, body: this.#block() };
    }
    if (value === undefined) this.#fail("an else branch needs a value or a body");
    return { at, value, body: [] };
  }

  #defaultRule(at: number): Rule {
    const head = this.#ruleHead(at);
    if (!this.#isSymbol(":=") && !this.#isSymbol("=")) this.#fail(`":=" expected in a default rule, found ${this.#found()}`);
    this.#take();
    const value = this.#term();
    const problem = notConstant(value);
    if (problem !== undefined) this.#failAt(value.at, `the value of a default rule cannot contain ${problem}`);
    for (const step of head.path) {
      if (step.kind !== "scalar") this.#failAt(step.at, "the head of a default rule cannot contain variables");
    }
    const seen = new Set<string>();
    for (const parameter of head.parameters ?? []) {
      if (parameter.kind !== "var") this.#failAt(parameter.at, "the parameters of a default function must be variables");
      if (parameter.name !== "_" && seen.has(parameter.name)) this.#failAt(parameter.at, `parameter "${parameter.name}" of a default function is repeated`);
      seen.add(parameter.name);
    }
    if (this.#isWord("if") || this.#isSymbol("{")) this.#fail("a default rule has no body");
    return { at, isDefault: true, head, clauses: [{ at, value, body: [] }] };
  }

  // Bodies

  #block(role: "body" | "every" = "body"): Body {
    return this.#nested(() => {
      this.#mark(this.#expectSymbol("{", "before a body").at, role);
      const body = this.#statements("}");
      if (body.length === 0) this.#fail("a body must have at least one statement");
      this.#expectSymbol("}", "after a body");
      return body;
    });
  }

  /** A body without braces: `p if a; b := 1` and `p if a b := 1` would read like one of two statements and be two rules. */
  #single(statement: Statement): Body {
    const goesOn = this.#token.kind === "name" && !this.#onNewLine() && !this.#isWord("else");
    if (goesOn || this.#isSymbol(";")) this.#fail(`a body of several statements needs braces, found ${this.#found()}`);
    return [statement];
  }

  /** A block, or a single statement, which may itself start with a brace. */
  #ifBody(): Body {
    if (!this.#isSymbol("{")) return this.#single(this.#statement());
    const bodyOrTerm = this.#nested(() => this.#bodyOrTerm());
    if (!("kind" in bodyOrTerm)) return bodyOrTerm;
    const term = this.#membershipAfter(this.#infix(RELATION, this.#postfix(bodyOrTerm)), true);
    const statement = this.#statement(term);
    if (term.kind === "set" && statement.expression.kind === "term") {
      this.#failAt(term.at, 'this is a set, which is always true; a body has its statements on lines of their own or with ";" between them');
    }
    return this.#single(statement);
  }

  /**
   * What a brace behind `if` opens: a body, or an object, a set or a comprehension. In doubt it is a body, also where a set
   * could be meant (`{ x }`, `{ k, v in y }`), unless what stands behind the brace goes on with the term.
   */
  #bodyOrTerm(): Body | Term {
    const { at } = this.#take();
    let start: Term | undefined;
    let items: readonly Term[] = [];
    if (this.#startsTerm("}")) {
      const head = this.#factor();
      if (this.#isSymbol("|")) return this.#bracesFrom(at, head);
      start = this.#itemFrom(head);
      items = [start];
      if (this.#skipSymbol(":")) return this.#object(at, start);
      if (this.#skipSymbol(",")) {
        const second = this.#secondAfter(start, "}");
        items = second.items;
        if (second.statement === undefined || this.#isSymbol(",")) return this.#set(at, items);
        start = second.statement;
      }
    }
    const closed = this.#isSymbol("}");
    const body = this.#statements("}", start);
    if (body.length === 0) this.#fail("a body must have at least one statement");
    this.#expectSymbol("}", "after a body");
    if (closed && this.#continuesTerm()) return { kind: "set", at, items };
    this.#mark(at, "body");
    return body;
  }

  /** True for what can only go on with the term before it. */
  #continuesTerm(): boolean {
    if (this.#isWord("in") || this.#isAdjacent("[") || this.#isAdjacent(".")) return true;
    return this.#token.kind === "symbol" && (INFIX.has(this.#token.text) || this.#token.text === "=" || this.#token.text === ":=");
  }

  /** True if a term, and not a word that starts a statement, stands first in a bracket. */
  #startsTerm(close: string): boolean {
    return !this.#isWord("not") && !this.#isWord("some") && !this.#isWord("every") && !this.#isSymbol(";") && !this.#isSymbol(close);
  }

  /** @param first the first term of the first statement, if it is already parsed */
  #statements(close: "}" | "]" | "end", first?: Term): Statement[] {
    const body: Statement[] = [];
    let start = first;
    const closed = (): boolean => (close === "end" ? this.#token.kind === "end" : this.#isSymbol(close));
    if (start === undefined) while (this.#skipSymbol(";"));
    while (start !== undefined || !closed()) {
      if (body.length >= this.#limits.maxBodyStatements) {
        this.#failures.push(
          this.#source.diagnostic("ERR_REGO_LIMIT_SOURCE", this.#token.at, `a body has more than ${this.#limits.maxBodyStatements} statements`),
        );
        throw new NestingAbort("too many statements");
      }
      body.push(this.#statement(start));
      start = undefined;
      if (closed()) break;
      if (this.#isSymbol(";")) {
        while (this.#skipSymbol(";"));
        continue;
      }
      if (!this.#onNewLine()) {
        const end = close === "end" ? "the end of the query" : `"${close}"`;
        this.#fail(`a new line, ";" or ${end} expected, found ${this.#found()}`);
      }
    }
    return body;
  }

  #statement(first?: Term): Statement {
    if (first !== undefined) return this.#statementFrom(first.at, false, this.#expressionFrom(first));
    const at = this.#token.at;
    const negated = this.#skipWord("not");
    let expression: Expression;
    if (this.#isWord("some")) {
      if (negated) this.#fail('"not" cannot be applied to "some"');
      expression = this.#some();
    } else if (this.#isWord("every")) {
      if (negated) this.#fail('"not" cannot be applied to "every"; put the "every" into a rule and negate that');
      expression = this.#every();
    } else {
      expression = this.#expressionFrom(this.#membership(true));
    }
    return this.#statementFrom(at, negated, expression);
  }

  #statementFrom(at: number, negated: boolean, expression: Expression): Statement {
    const modifiers = this.#modifiers();
    this.#log?.statementEnds.add(this.#previousEnd);
    return { at, end: this.#previousEnd, negated, expression, modifiers };
  }

  /** The expression that starts with a term. */
  #expressionFrom(left: Term): Expression {
    const { at } = left;
    if (this.#isSymbol(":=")) {
      this.#take();
      return { kind: "assign", at, target: left, value: this.#membership(true) };
    }
    if (this.#isSymbol("=")) {
      this.#take();
      return { kind: "unify", at, left, right: this.#membership(true) };
    }
    return { kind: "term", at, term: left };
  }

  #some(): Expression {
    const at = this.#takeWord().at;
    const first = this.#term(RELATION);
    const list = [first];
    while (this.#skipSymbol(",")) list.push(this.#term(RELATION));
    if (this.#skipWord("in")) {
      if (list.length > 2) this.#failAt(at, '"some ... in" takes a value or a key and a value');
      const domain = this.#membership(false);
      const value = list.at(-1)!;
      return { kind: "some-in", at, key: list.length === 2 ? first : undefined, value, domain };
    }
    const variables: VarTerm[] = [];
    for (const item of list) {
      if (item.kind !== "var") this.#failAt(item.at, '"some" must be followed by names, or by a pattern and "in"');
      variables.push(item);
    }
    return { kind: "some", at, variables };
  }

  #every(): Expression {
    const at = this.#takeWord().at;
    const first = this.#variable();
    const second = this.#skipSymbol(",") ? this.#variable() : undefined;
    if (!this.#skipWord("in")) this.#fail(`"in" expected in "every", found ${this.#found()}`);
    const domain = this.#membership(false);
    const body = this.#block("every");
    return { kind: "every", at, key: second === undefined ? undefined : first, value: second ?? first, domain, body };
  }

  #variable(): VarTerm {
    if (!this.#isName()) this.#fail(`a name expected, found ${this.#found()}`);
    const token = this.#take();
    return { kind: "var", at: token.at, name: token.text };
  }

  #modifiers(): readonly WithModifier[] {
    const modifiers: WithModifier[] = [];
    while (this.#isWord("with")) modifiers.push(this.#modifier());
    return modifiers;
  }

  #modifier(): WithModifier {
    const at = this.#takeWord().at;
    const target = this.#term(UNION + 10);
    if (!this.#skipWord("as")) this.#fail(`"as" expected in a with modifier, found ${this.#found()}`);
    return { at, target, value: this.#membership(false) };
  }

  // Terms

  /** A term with infix operators and `in`. */
  #term(minimum = 0): Term {
    return minimum === 0 ? this.#membership(false) : this.#infix(minimum);
  }

  /** `x in y` and, where a list cannot be meant, `k, v in y`: the operator that binds least. */
  #membership(withKey: boolean): Term {
    return this.#membershipAfter(this.#infix(RELATION), withKey);
  }

  #membershipAfter(first: Term, withKey: boolean): Term {
    if (!withKey || !this.#isSymbol(",") || !this.#future.has("in")) return joinMemberships(undefined, first, this.#collections());
    this.#take();
    const value = this.#infix(RELATION);
    if (!this.#isWord("in")) this.#fail(`"in" expected, found ${this.#found()}`);
    return joinMemberships(first, value, this.#collections());
  }

  /** The collections behind `in`, and behind each further `in`. */
  #collections(): readonly Term[] {
    const collections: Term[] = [];
    while (this.#skipWord("in")) {
      this.#checkChain(collections.length + 1);
      collections.push(this.#infix(RELATION));
    }
    return collections;
  }

  /** A chain of left-associative operators makes a tree as deep as it is long. */
  #checkChain(links: number): void {
    if (this.#depth + links > this.#limits.maxNesting) {
      this.#failures.push(
        this.#source.diagnostic("ERR_REGO_LIMIT_NESTING", this.#token.at, `more than ${this.#limits.maxNesting} operators or steps in a row`),
      );
      throw new NestingAbort("operator chain too long");
    }
  }

  /** Precedence climbing. @param start the first operand, if it is already parsed */
  #infix(minimum: number, start?: Term): Term {
    let left = start ?? this.#factor();
    let links = 0;
    for (;;) {
      if (this.#token.kind !== "symbol") return left;
      const operator = this.#token.text;
      const infix = INFIX.get(operator);
      if (infix === undefined || infix.power < minimum) return left;
      this.#take();
      this.#checkChain(++links);
      const right = this.#infix(infix.power + 1);
      left = { kind: "call", at: left.at, name: [infix.name], args: [left, right], operator };
    }
  }

  #factor(): Term {
    const token = this.#token;
    let term: Term;
    switch (token.kind) {
      case "number":
        term = this.#number(false);
        break;
      case "string":
        this.#take();
        term = { kind: "scalar", at: token.at, value: token.text };
        if (this.#isAdjacent("[") || this.#isAdjacent(".")) this.#fail("a string cannot be indexed");
        return term;
      case "template":
        return this.#template();
      case "name":
        term = this.#nameTerm();
        break;
      case "symbol":
        term = this.#symbolTerm();
        break;
      case "end":
        return this.#fail("unexpected end of the text: an expression expected");
    }
    return this.#postfix(term);
  }

  #isAdjacent(symbol: string): boolean {
    return this.#isSymbol(symbol) && this.#token.at === this.#previousEnd;
  }

  #number(negative: boolean): Term {
    const token = this.#take();
    if (token.text.length >= MAX_NUMBER_LENGTH)
      this.#failAt(token.at, `a number of ${token.text.length} characters is longer than the limit of ${MAX_NUMBER_LENGTH}`);
    const value = parseNumber(negative ? `-${token.text}` : token.text);
    if (value === undefined) this.#failAt(token.at, `"${token.text.slice(0, 40)}" is not a number (decimal, no leading zeros, in the range of a double)`);
    return { kind: "scalar", at: token.at, value };
  }

  #nameTerm(): Term {
    const token = this.#token;
    if (!this.#startsRef()) {
      if (token.text === "true" || token.text === "false") {
        this.#take();
        return { kind: "scalar", at: token.at, value: token.text === "true" };
      }
      if (token.text === "null") {
        this.#take();
        return { kind: "scalar", at: token.at, value: null };
      }
    }
    // `contains` is a keyword in rule heads only; elsewhere it is the builtin of that name.
    if (this.#isKeyword(token.text) && !this.#startsRef() && !(token.text === "contains" && this.#callFollows(token))) {
      this.#fail(`the keyword "${token.text}" cannot stand here`);
    }
    this.#take();
    return { kind: "var", at: token.at, name: token.text };
  }

  #callFollows(token: Token): boolean {
    return this.#source.text[token.end] === "(";
  }

  #symbolTerm(): Term {
    const token = this.#token;
    switch (token.text) {
      case "-":
        this.#take();
        if (this.#token.kind !== "number") this.#fail("a minus sign must be followed by a number; write 0 - x for other terms");
        return { ...this.#number(true), at: token.at };
      case "(":
        return this.#nested(() => {
          this.#take();
          const term = this.#membership(true);
          this.#expectSymbol(")", "to close the parenthesis");
          return term.kind === "call" ? { ...term, grouped: true } : term;
        });
      case "[":
        return this.#constant() ?? this.#nested(() => this.#array());
      case "{":
        return this.#constant() ?? this.#nested(() => this.#braces());
      default:
        return this.#fail(`an expression expected, found ${this.#found()}`);
    }
  }

  /** References and calls behind a term. White space ends them: `[` on a new line starts something else. */
  #postfix(start: Term): Term {
    let term = start;
    let links = 0;
    for (;;) {
      if (this.#isAdjacent("(")) {
        const name = calledName(term);
        if (name === undefined) {
          if (term.kind === "scalar") return term;
          this.#fail("only a name can be called");
        }
        this.#checkChain(++links);
        this.#take();
        const args = this.#nested(() => this.#list(")", () => this.#term()));
        term = { kind: "call", at: term.at, name, args };
        continue;
      }
      if (!this.#isAdjacent(".") && !this.#isAdjacent("[")) return term;
      if (term.kind === "scalar") this.#fail("a scalar cannot be indexed");
      const path = this.#steps();
      term = term.kind === "ref" ? { ...term, path: [...term.path, ...path] } : { kind: "ref", at: term.at, head: term, path };
    }
  }

  #steps(): Term[] {
    const path: Term[] = [];
    for (;;) {
      this.#checkChain(path.length);
      if (this.#isAdjacent(".")) {
        const value = this.#field();
        path.push({ kind: "scalar", at: this.#previousEnd - value.length, value });
      } else if (this.#isAdjacent("[")) {
        this.#take();
        path.push(this.#nested(() => this.#term()));
        this.#expectSymbol("]", "after an index");
      } else {
        return path;
      }
    }
  }

  /** The name behind a dot, without white space in between. */
  #field(): string {
    this.#take();
    if (this.#token.kind !== "name") this.#fail(`a name expected after ".", found ${this.#found()}`);
    if (this.#token.at !== this.#previousEnd) this.#fail(`white space between "." and the name "${this.#token.text}"`);
    return this.#take().text;
  }

  /** Items up to a closing symbol; a trailing comma is allowed. @param first items that are already parsed */
  #list<T>(close: string, item: () => T, first: readonly T[] = []): T[] {
    const items = [...first];
    while (!this.#skipSymbol(close)) {
      if (items.length > 0) {
        this.#expectSymbol(",", `or "${close}" in a list`);
        if (this.#skipSymbol(close)) break;
      }
      items.push(item());
    }
    return items;
  }

  /** The item of a list that starts with an operand. */
  #itemFrom(start: Term): Term {
    return joinMemberships(undefined, this.#infix(RELATION, start), this.#collections());
  }

  /**
   * A `|` behind the first operand in a bracket starts a comprehension, unless a comma follows where none can in its body:
   * then it is a union in the first item of a list. It is parsed once: trying one and then the other costs 2^depth.
   */
  #afterBar(at: number, head: Term, close: "]" | "}"): { readonly body: Body } | { readonly items: FirstItems } {
    let start: Term | undefined;
    if (this.#startsTerm(close)) {
      start = this.#membership(false);
      if (this.#skipSymbol(",")) {
        const first = joinUnion(head, start);
        const { items, statement } = this.#secondAfter(start, close);
        if (statement === undefined || this.#isSymbol(",") || this.#isSymbol(":")) return { items: items.length === 1 ? [first] : [first, items[1]] };
        start = statement;
      }
    }
    this.#mark(at, "comprehension");
    const body = this.#statements(close, start);
    if (body.length === 0) this.#fail("a comprehension must have a body");
    this.#expectSymbol(close, "after a comprehension");
    return { body };
  }

  /**
   * What stands behind the first item of a list and a comma, up to the next comma.
   * @returns the items; and if with them a statement could start (`k, v in collection`), that
   */
  #secondAfter(first: Term, close: string): { readonly items: FirstItems; readonly statement?: Term } {
    if (this.#isSymbol(close)) return { items: [first] };
    const value = this.#infix(RELATION);
    const collections = this.#collections();
    const items = [first, joinMemberships(undefined, value, collections)] as const;
    return collections.length === 0 || isMembership(first) ? { items } : { items, statement: joinMemberships(first, value, collections) };
  }

  /** The value of a literal that is plain data; a formatter wants its tokens. */
  #constant(): Term | undefined {
    if (this.#log !== undefined) return undefined;
    const { at } = this.#token;
    const constant = this.#constants.read(at, this.#limits.maxNesting - this.#depth);
    if (constant === undefined) return undefined;
    this.#previousEnd = constant.end;
    this.#advance(constant.end);
    return { kind: "scalar", at, value: constant.value };
  }

  #array(): Term {
    const { at } = this.#take();
    if (this.#skipSymbol("]")) return { kind: "array", at, items: [] };
    const head = this.#factor();
    let first: readonly Term[];
    if (this.#skipSymbol("|")) {
      const rest = this.#afterBar(at, head, "]");
      if ("body" in rest) return { kind: "array-comprehension", at, head, body: rest.body };
      first = rest.items;
    } else {
      first = [this.#itemFrom(head)];
    }
    return { kind: "array", at, items: this.#list("]", () => this.#term(), first) };
  }

  #braces(): Term {
    const { at } = this.#take();
    if (this.#skipSymbol("}")) return { kind: "object", at, entries: [] };
    return this.#bracesFrom(at, this.#factor());
  }

  /** The object, set or comprehension whose first operand is parsed. */
  #bracesFrom(at: number, head: Term): Term {
    if (this.#skipSymbol("|")) {
      const rest = this.#afterBar(at, head, "}");
      return "body" in rest ? { kind: "set-comprehension", at, head, body: rest.body } : this.#set(at, rest.items);
    }
    const first = this.#itemFrom(head);
    return this.#skipSymbol(":") ? this.#object(at, first) : this.#set(at, [first]);
  }

  #set(at: number, first: readonly Term[]): Term {
    return { kind: "set", at, items: this.#list("}", () => this.#term(), first) };
  }

  /** The object or comprehension whose first key and colon are parsed. */
  #object(at: number, key: Term): Term {
    const head = this.#factor();
    const first: (readonly [Term, Term])[] = [];
    if (this.#skipSymbol("|")) {
      const rest = this.#afterBar(at, head, "}");
      if ("body" in rest) return { kind: "object-comprehension", at, key, value: head, body: rest.body };
      const [value, nextKey] = rest.items;
      first.push([key, value]);
      if (nextKey !== undefined) first.push(this.#entryFrom(nextKey));
    } else {
      first.push([key, this.#itemFrom(head)]);
    }
    return { kind: "object", at, entries: this.#list("}", () => this.#entryFrom(this.#term()), first) };
  }

  #entryFrom(key: Term): readonly [Term, Term] {
    this.#expectSymbol(":", "after an object key");
    return [key, this.#term()];
  }

  /** `$"..."` or `` $`...` ``: text with expressions in braces; `\{` is a brace. */
  #template(): Term {
    return this.#nested(() => {
      const token = this.#token;
      const logged = this.#log?.tokens.length ?? 0;
      const quote = token.text;
      const text = this.#source.text;
      const parts: (string | TemplateExpression)[] = [];
      let from = token.end;
      let at = from;
      const flush = (): void => {
        if (at === from) return;
        try {
          parts.push(quote === '"' ? decodeEscapes(text, from, at, "{") : text.slice(from, at).replaceAll("\\{", "{"));
        } catch (error) {
          if (!(error instanceof LexicalError)) throw error;
          this.#failAt(error.at, error.message);
        }
      };
      for (;;) {
        const char = text[at];
        if (char === undefined || (char === "\n" && quote === '"')) this.#failAt(token.at, "this template string does not end");
        if (char === quote) {
          flush();
          this.#log?.tokens.splice(logged, Infinity, { ...token, end: at + 1 });
          this.#previousEnd = at + 1;
          this.#advance(at + 1);
          return { kind: "template", at: token.at, parts };
        }
        if (char === "\\" && (quote === '"' || text[at + 1] === "{")) {
          at += 2;
        } else if (char === "{") {
          flush();
          this.#previousEnd = at + 1;
          this.#advance(at + 1);
          const term = this.#term();
          parts.push({ at: term.at, term, modifiers: this.#modifiers() });
          if (!this.#isSymbol("}")) this.#fail(`"}" expected after the expression in a template string, found ${this.#found()}`);
          at = this.#token.end;
          from = at;
        } else {
          at++;
        }
      }
    });
  }
}

/** The name that an import brings in; undefined for imports of keywords. */
function importedName({ path, alias }: Import): string | undefined {
  if (path[0] === "rego" || path[0] === "future") return undefined;
  return alias ?? path.at(-1);
}

/** `value in a in b`, or with a key `key, value in a in b`: the first `in` has it. */
function joinMemberships(key: Term | undefined, value: Term, collections: readonly Term[]): Term {
  let left = value;
  for (const [index, collection] of collections.entries()) {
    left =
      key !== undefined && index === 0
        ? { kind: "call", at: key.at, name: ["internal", "member_3"], args: [key, left, collection], operator: "in" }
        : { kind: "call", at: left.at, name: ["internal", "member_2"], args: [left, collection], operator: "in" };
  }
  return left;
}

function isMembership(term: Term): boolean {
  return term.kind === "call" && term.operator === "in" && term.grouped !== true;
}

/** `left | right` where the right side was parsed on its own: operators that bind less go around the union. */
function joinUnion(left: Term, right: Term): Term {
  if (right.kind === "call" && right.operator !== undefined && right.grouped !== true && right.args.length === 2) {
    const infix = INFIX.get(right.operator);
    if (right.operator === "in" || (infix !== undefined && infix.power <= UNION)) {
      return { ...right, at: left.at, args: [joinUnion(left, right.args[0]!), right.args[1]!] };
    }
  }
  return { kind: "call", at: left.at, name: ["or"], args: [left, right], operator: "|" };
}

/** The dotted name of a term that can be called. */
function calledName(term: Term): readonly string[] | undefined {
  if (term.kind === "var") return [term.name];
  if (term.kind !== "ref" || term.head.kind !== "var") return undefined;
  const name = [term.head.name];
  for (const step of term.path) {
    if (step.kind !== "scalar" || typeof step.value !== "string") return undefined;
    name.push(step.value);
  }
  return name;
}

/** What keeps a default value from being a constant, in words; comprehensions may stand in one. */
function notConstant(term: Term): string | undefined {
  switch (term.kind) {
    case "scalar":
    case "array-comprehension":
    case "set-comprehension":
    case "object-comprehension":
      return undefined;
    case "var":
      return "a variable";
    case "ref":
      return "a reference";
    case "template":
      return "a template string";
    case "call":
      return term.name.length === 1 && term.name[0] === "set" && term.args.length === 0 ? undefined : "a call";
    case "array":
    case "set":
      return firstProblem(term.items);
    case "object":
      return firstProblem(term.entries.flat());
  }
}

function firstProblem(terms: readonly Term[]): string | undefined {
  for (const term of terms) {
    const problem = notConstant(term);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

/** The value of a term that is a constant; undefined if it is not. */
export function constantOf(term: Term): Value | undefined {
  switch (term.kind) {
    case "scalar":
      return term.value;
    case "array": {
      const items = constantsOf(term.items);
      return items;
    }
    case "set": {
      const items = constantsOf(term.items);
      return items === undefined ? undefined : RegoSet.of(items);
    }
    case "object": {
      const object = new RegoObject();
      for (const [key, value] of term.entries) {
        const name = constantOf(key);
        const item = name === undefined ? undefined : constantOf(value);
        if (name === undefined || item === undefined) return undefined;
        object.put(name, item);
      }
      return object;
    }
    case "call":
      return term.name.length === 1 && term.name[0] === "set" && term.args.length === 0 ? RegoSet.empty : undefined;
    default:
      return undefined;
  }
}

function constantsOf(terms: readonly Term[]): Value[] | undefined {
  const values: Value[] = [];
  for (const term of terms) {
    const value = constantOf(term);
    if (value === undefined) return undefined;
    values.push(value);
  }
  return values;
}
