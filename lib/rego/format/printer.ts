import type { Import, Module, Rule } from "../syntax/ast.ts";
import { isName } from "../syntax/lexer.ts";
import { isReservedWord } from "../syntax/parser.ts";
import type { Comment, Lexeme } from "./lexemes.ts";
import { Writer } from "./writer.ts";

/** A piece of a module that stands on its own, from a lexeme up to another: an import, or a rule with its further bodies. */
interface Chunk<Node> {
  readonly from: number;
  readonly to: number;
  readonly node: Node;
}

/** Operators around which an expression may go on in the next line; what `:=` and `=` assign stays in theirs. */
const BREAKABLE: ReadonlySet<string> = new Set(["==", "!=", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "|", "&"]);

/**
 * Prints a module in the layout of `opa fmt`. It goes by the tokens; the tree only says what they are. So parentheses,
 * spellings, comments and the order of things come out as they went in, and what the printer may change is this list, each
 * of it something that the grammar does not see:
 *
 * - white space, but never between a name or a closing bracket and the `(`, `[` or `.` that belongs to it;
 * - semicolons turn into line breaks, unless the next statement starts with a minus and would continue the one before;
 * - a list on several lines gets a comma behind its last item, one on a single line loses it, unless that comma is what
 *   tells a union from a comprehension: `[a | b,]`;
 * - `if { x }` loses its braces, unless `x` starts with a brace itself or a further body follows;
 * - `a["b"]` becomes `a.b`;
 * - `=` in the head of a rule becomes `:=` (v1);
 * - imports are sorted where their order has no meaning.
 *
 * Its recursion is as deep as the nesting that the parser let through.
 */
export class Printer {
  readonly #module: Module;
  readonly #lexemes: readonly Lexeme[];
  readonly #rewrites: boolean;
  readonly #out = new Writer();

  /** @param toV1 writes a v0 module in the words of v1; what cannot be said in v1 is for the caller to find */
  constructor(module: Module, lexemes: readonly Lexeme[], toV1: boolean) {
    this.#module = module;
    this.#lexemes = lexemes;
    this.#rewrites = toV1 && module.version === "v0";
  }

  print(): string {
    const end = this.#lexemes.length - 1;
    const { imports, rules } = this.#chunks();
    const packageEnd = imports[0]?.from ?? rules[0]?.from ?? end;
    this.#lead(0, false);
    this.#run(0, packageEnd, "name");
    this.#trailing(packageEnd);
    if (this.#rewrites) {
      this.#out.blankLine();
      this.#out.write("import rego.v1");
    }
    this.#imports(imports);
    rules.forEach((rule, index) => {
      const previous = rules[index - 1];
      this.#lead(rule.from, previous !== undefined && this.#isOneLiner(previous) && this.#isOneLiner(rule));
      this.#rule(rule);
      this.#trailing(rule.to);
    });
    this.#lead(end, false);
    return this.#out.finish();
  }

  // Modules

  #chunks(): { readonly imports: readonly Chunk<Import>[]; readonly rules: readonly Chunk<Rule>[] } {
    const nodes = new Map<number, Import | Rule>();
    for (const node of this.#module.imports) nodes.set(node.at, node);
    for (const node of this.#module.rules) nodes.set(node.at, node);
    const starts: { readonly from: number; readonly node: Import | Rule }[] = [];
    this.#lexemes.forEach(({ at, kind }, from) => {
      const node = nodes.get(at);
      // To the parser a further body (`p { a } { b }`) is a rule that starts at its brace; here it is part of the one above.
      if (node !== undefined && kind === "name") starts.push({ from, node });
    });
    const imports: Chunk<Import>[] = [];
    const rules: Chunk<Rule>[] = [];
    starts.forEach(({ from, node }, index) => {
      const to = starts[index + 1]?.from ?? this.#lexemes.length - 1;
      if ("head" in node) rules.push({ from, to, node });
      else imports.push({ from, to, node });
    });
    return { imports, rules };
  }

  /** What stands above a chunk: its comments, and an empty line that sets both off, unless it belongs to a group of lines. */
  #lead(index: number, grouped: boolean): void {
    const { comments, blankLine } = this.#lexemes[index]!;
    const above = comments.filter((comment) => comment.ownLine);
    above.forEach((comment, at) => {
      if (at === 0 || comment.blankLine) this.#out.blankLine();
      this.#out.comment(comment.text, true);
    });
    if (blankLine || (above.length === 0 && !grouped)) this.#out.blankLine();
    else this.#out.line();
  }

  /** The comment that stands behind a chunk: it was read with the lexeme that follows. */
  #trailing(to: number): void {
    for (const { text, ownLine } of this.#lexemes[to]!.comments) if (!ownLine) this.#out.comment(text, false);
  }

  /** True if nothing but a line break, and a comment at its end, stands between a lexeme and what is above. */
  #followsDirectly(index: number): boolean {
    const { comments, blankLine } = this.#lexemes[index]!;
    return !blankLine && !comments.some((comment) => comment.ownLine);
  }

  /** Imports on adjacent lines are a group, and sorted in it. */
  #imports(imports: readonly Chunk<Import>[]): void {
    for (let first = 0; first < imports.length;) {
      let end = first + 1;
      while (end < imports.length && this.#followsDirectly(imports[end]!.from)) end++;
      const group = imports.slice(first, end);
      this.#lead(group[0]!.from, false);
      const goes = ({ node }: Chunk<Import>): boolean => this.#rewrites && node.path[0] === "future";
      for (const chunk of group) if (goes(chunk)) this.#orphans(chunk.from, chunk.to);
      for (const { from, to } of sortedImports(group.filter((chunk) => !goes(chunk)))) {
        this.#out.line();
        this.#run(from, to, "name");
        this.#trailing(to);
      }
      first = end;
    }
  }

  /** The comments in and behind an import that goes. */
  #orphans(from: number, to: number): void {
    for (let at = from + 1; at <= to; at++) {
      for (const { text, ownLine } of this.#lexemes[at]!.comments) if (at < to || !ownLine) this.#out.comment(text, true);
    }
  }

  // Rules

  /**
   * True for a rule that fits in a group of lines without empty lines between them: it was written on one line and stays
   * there. A default is always set off, as by opa fmt.
   */
  #isOneLiner({ from, to, node }: Chunk<Rule>): boolean {
    if (node.isDefault) return false;
    for (let at = from; at < to; at++) {
      const { text, role, lineBreak, comments } = this.#lexemes[at]!;
      if (text.includes("\n") || (at > from && (lineBreak || comments.length > 0))) return false;
      if (role === "body" && !this.#isSingle(at)) return false;
    }
    return true;
  }

  /** The head of a rule, then its bodies and `else` branches in turn. */
  #rule({ from, to, node }: Chunk<Rule>): void {
    const head = this.#clauseHead(from, to, node);
    let at = head.end;
    let needsIf = this.#rewrites;
    if (at === to) this.#comments(head.comments, false);
    while (at < to) {
      const { role, text } = this.#lexemes[at]!;
      if (role === "body") {
        if (needsIf) this.#if();
        at = needsIf && head.comments.length === 0 && this.#isSingle(at) ? this.#single(at) : this.#body(at, at === head.end ? head.comments : []);
        needsIf = false;
      } else if (text === "if") {
        at = this.#condition(at);
        needsIf = false;
      } else {
        at = this.#else(at, to);
        needsIf = this.#rewrites;
      }
    }
  }

  /** Index of the `if`, body or `else` that ends the head of a clause. */
  #headEnd(from: number, to: number): number {
    let at = from;
    while (at < to) {
      const { role, text, match } = this.#lexemes[at]!;
      if (role === "body" || (role === "keyword" && (text === "if" || text === "else"))) break;
      at = match + 1;
    }
    return at;
  }

  /** @returns the index behind the head, and comments that are for what follows */
  #clauseHead(from: number, to: number, { head }: Rule): { readonly end: number; readonly comments: readonly Comment[] } {
    const end = this.#headEnd(from, to);
    // In v0 `p[x]` or `p.x` without a value is a set; it has one step, and nothing follows that.
    const step = this.#lexemes[from + 1]!;
    if (this.#rewrites && head.item !== undefined && step.role !== "keyword") {
      const out = this.#out;
      out.write(`${head.name} contains`);
      out.space();
      const item = this.#lexemes[from + 2]!;
      if (step.text === ".") {
        out.write(JSON.stringify(item.text));
        return { end, comments: [] };
      }
      this.#comments(item.comments, false);
      this.#run(from + 2, step.match, "term");
      return { end, comments: this.#lexemes[step.match]!.comments };
    }
    this.#run(from, end, "head");
    return { end, comments: [] };
  }

  /** `if` with what follows it. Comments on the way to an opening brace go behind it: they would break the line before it. */
  #condition(at: number): number {
    const out = this.#out;
    const { comments } = this.#lexemes[at]!;
    this.#if();
    const next = this.#lexemes[at + 1]!;
    if (next.role === "body") {
      if (comments.length === 0 && this.#isSingle(at + 1)) return this.#single(at + 1);
      return this.#body(at + 1, comments);
    }
    out.space();
    for (const comment of [...comments, ...next.comments]) {
      out.indent = 1;
      out.comment(comment.text, comment.ownLine);
    }
    const end = this.#statementEnd(at + 1);
    this.#run(at + 1, end, "term");
    out.indent = 0;
    return end;
  }

  #if(): void {
    this.#out.space();
    this.#out.write("if");
  }

  #else(at: number, to: number): number {
    const { comments, lineBreak } = this.#lexemes[at]!;
    let setOff = true;
    for (const { text, ownLine, blankLine } of comments) {
      if (ownLine && (setOff || blankLine)) this.#out.blankLine();
      setOff &&= !ownLine;
      this.#out.comment(text, ownLine);
    }
    if (comments.some((comment) => comment.ownLine)) this.#out.line();
    else if (comments.length > 0 || lineBreak) this.#out.blankLine();
    else this.#out.space();
    const end = this.#headEnd(at + 1, to);
    this.#run(at, end, "head");
    return end;
  }

  /**
   * True for a body that needs no braces: one statement that starts on the line of the `if`. A statement that itself starts
   * with a brace could be read as a body, and behind one without braces no further body can follow.
   */
  #isSingle(open: number): boolean {
    const brace = this.#lexemes[open]!;
    const first = this.#lexemes[open + 1]!;
    const before = this.#lexemes[open - 1]!;
    const close = this.#lexemes[brace.match]!;
    if (!this.#rewrites && (before.role !== "keyword" || before.text !== "if")) return false;
    if (brace.lineBreak || first.lineBreak || first.text === "{") return false;
    if (brace.comments.length > 0 || first.comments.length > 0 || close.comments.length > 0) return false;
    return this.#statementEnd(open + 1) === brace.match && this.#lexemes[brace.match + 1]!.role !== "body";
  }

  #single(open: number): number {
    const { match } = this.#lexemes[open]!;
    this.#out.space();
    this.#run(open + 1, match, "term");
    return match + 1;
  }

  /** A body in braces, always on lines of its own. @param before comments that stand in front of the brace */
  #body(open: number, before: readonly Comment[]): number {
    const out = this.#out;
    const { match, comments } = this.#lexemes[open]!;
    out.space();
    out.open("{");
    this.#comments([...before, ...comments], true);
    this.#statements(open + 1, match);
    this.#comments(this.#lexemes[match]!.comments, true);
    out.close("}");
    return match + 1;
  }

  // Statements

  /** Index behind the statement that starts at a lexeme. */
  #statementEnd(from: number): number {
    let at = from;
    for (;;) {
      const { match } = this.#lexemes[at]!;
      at = match + 1;
      if (this.#lexemes[match]!.endsStatement) return at;
    }
  }

  /** Statements, each on its own line; empty lines between them stay, and comments between them are set off by one. */
  #statements(from: number, to: number): void {
    const out = this.#out;
    for (let at = from; at < to;) {
      const { comments, blankLine } = this.#lexemes[at]!;
      if (at > from && comments.some((comment) => comment.ownLine)) {
        const own = comments.findIndex((comment) => comment.ownLine);
        this.#comments(comments.slice(0, own), true);
        out.blankLine();
        this.#comments(comments.slice(own), true);
      } else {
        this.#comments(comments, true);
      }
      if (blankLine) out.blankLine();
      else out.line();
      at = this.#statement(at);
      const next = this.#lexemes[at]!;
      if (at < to && next.semicolon && next.text === "-") out.write(";");
    }
  }

  #statement(from: number): number {
    const end = this.#statementEnd(from);
    this.#run(from, end, "term");
    return end;
  }

  /** Statements on one line, between the spaces or the bracket of what they stand in. */
  #inlineStatements(from: number, to: number): void {
    for (let at = from; at < to;) {
      if (at > from) {
        this.#out.write(";");
        this.#out.space();
      }
      at = this.#statement(at);
    }
  }

  /** True if the statements of a bracket stand on several lines, or comments between them. */
  #isSpread(from: number, close: number): boolean {
    for (let at = from; at < close; at = this.#statementEnd(at)) {
      const { lineBreak, comments } = this.#lexemes[at]!;
      if (lineBreak || comments.length > 0) return true;
    }
    return this.#lexemes[close]!.comments.length > 0;
  }

  #every(open: number): void {
    const out = this.#out;
    const { match } = this.#lexemes[open]!;
    if (this.#isSpread(open + 1, match)) {
      out.open("{");
      this.#statements(open + 1, match);
      this.#comments(this.#lexemes[match]!.comments, true);
      out.close("}");
      return;
    }
    out.write("{");
    out.space();
    this.#inlineStatements(open + 1, match);
    out.space();
    out.write("}");
  }

  // Terms

  /**
   * A sequence of lexemes that belong together: a head, a statement, an item. Where a line ends in it, by a comment or as the
   * author broke it at an operator or a `with`, the rest is indented.
   * @param kind in a "head" `=` assigns, and in a "name" (also at the start of a head) brackets stay brackets
   */
  #run(from: number, to: number, kind: "term" | "head" | "name"): void {
    const out = this.#out;
    const { indent } = out;
    let isName = kind !== "term";
    for (let at = from; at < to;) {
      const lexeme = this.#lexemes[at]!;
      if (at > from) {
        if (!this.#isGlued(at)) out.space();
        const breaks = lexeme.lineBreak && this.#mayBreak(at);
        if (breaks || lexeme.comments.length > 0) out.indent = indent + 1;
        this.#comments(lexeme.comments, false);
        if (breaks) out.line();
      }
      if (kind === "head" && isSymbol(lexeme, "=") && this.#writesAssignments()) out.write(":=");
      else this.#piece(at, isName);
      if (isSymbol(lexeme, "=") || isSymbol(lexeme, ":=") || lexeme.role === "keyword") isName &&= kind === "name" || lexeme.text === "default";
      at = lexeme.match + 1;
    }
    out.indent = indent;
  }

  #writesAssignments(): boolean {
    return this.#rewrites || this.#module.version === "v1";
  }

  /** A lexeme, or a bracket with all that is in it. */
  #piece(at: number, isName: boolean): void {
    const { role, text, kind } = this.#lexemes[at]!;
    if (role === "comprehension") this.#comprehension(at);
    else if (role === "every") this.#every(at);
    else if (kind !== "symbol" || (text !== "(" && text !== "[" && text !== "{")) this.#out.write(text);
    else if (!isName && this.#isPlainStep(at)) this.#out.write(`.${this.#lexemes[at + 1]!.value}`);
    else this.#list(at);
  }

  /** True for an index `["name"]` that can be written `.name`. */
  #isPlainStep(at: number): boolean {
    const { text, match } = this.#lexemes[at]!;
    if (text !== "[" || match !== at + 2 || !this.#isPostfix(at)) return false;
    const step = this.#lexemes[at + 1]!;
    if (step.kind !== "string" || step.comments.length > 0 || this.#lexemes[match]!.comments.length > 0) return false;
    return isName(step.value) && !isReservedWord(step.value);
  }

  /** True if a term ends with this lexeme, so that what follows can only continue it. */
  #endsTerm(at: number): boolean {
    const { kind, role, text } = this.#lexemes[at]!;
    if (kind === "symbol") return text === ")" || text === "]" || text === "}";
    return role !== "keyword";
  }

  /** True for a bracket that calls or indexes what stands before it; that of a rule's parameters may stand apart. */
  #isPostfix(at: number): boolean {
    const { adjacent, role } = this.#lexemes[at]!;
    return role === "parameters" || (adjacent && this.#endsTerm(at - 1));
  }

  #isNegative(at: number): boolean {
    const lexeme = this.#lexemes[at]!;
    return isSymbol(lexeme, "-") && (lexeme.semicolon || !this.#endsTerm(at - 1));
  }

  /** True if no space stands between a lexeme and the one before. */
  #isGlued(at: number): boolean {
    const lexeme = this.#lexemes[at]!;
    const before = this.#lexemes[at - 1]!;
    if (isSymbol(before, ".") || this.#isNegative(at - 1)) return true;
    if (lexeme.kind !== "symbol") return false;
    if (lexeme.text === "." || lexeme.text === "," || lexeme.text === ":") return true;
    return (lexeme.text === "(" || lexeme.text === "[") && this.#isPostfix(at);
  }

  /** True if the author's line break in front of a lexeme stays. */
  #mayBreak(at: number): boolean {
    const lexeme = this.#lexemes[at]!;
    const before = this.#lexemes[at - 1]!;
    if (lexeme.role === "keyword" && lexeme.text === "with") return true;
    if (before.kind === "symbol" && BREAKABLE.has(before.text)) return !this.#isNegative(at - 1);
    return lexeme.kind === "symbol" && BREAKABLE.has(lexeme.text) && !this.#isNegative(at);
  }

  /**
   * Items in brackets: a composite, the arguments of a call, an index, or a term in parentheses. They stand on several lines
   * if the author put the first one below the bracket, or broke a line between two, or if there are comments.
   */
  #list(open: number): void {
    const out = this.#out;
    const { text, match } = this.#lexemes[open]!;
    const closing = this.#lexemes[match]!;
    const isPostfix = this.#isPostfix(open);
    const isIndex = isPostfix && text === "[";
    const isGroup = !isPostfix && text === "(";
    const items = this.#items(open + 1, match);
    const hasComma = match > open + 1 && isSymbol(this.#lexemes[match - 1]!, ",");
    const commented = closing.comments.length > 0 || items.some((item) => item.commented) || (hasComma && this.#lexemes[match - 1]!.comments.length > 0);
    const spread = commented || (!isIndex && items.some((item) => item.lineBreak));
    if (!spread) {
      out.write(text);
      for (const [index, { from, to }] of items.entries()) {
        if (index > 0) {
          out.write(",");
          out.space();
        }
        this.#run(from, to, "term");
      }
      if (hasComma && this.#isTold(items)) out.write(",");
      out.write(closing.text);
      return;
    }
    out.open(text);
    for (const [index, { from, to, lineBreak }] of items.entries()) {
      const first = this.#lexemes[from]!;
      this.#comments(first.comments, true);
      if (first.blankLine) out.blankLine();
      else if (lineBreak) out.line();
      else out.space();
      this.#run(from, to, "term");
      if (index < items.length - 1 || !(isIndex || isGroup)) out.write(",");
      if (index < items.length - 1 || hasComma) this.#comments(this.#lexemes[to]!.comments, true);
    }
    this.#comments(closing.comments, true);
    out.close(closing.text);
  }

  #items(from: number, close: number): readonly Item[] {
    const items: Item[] = [];
    let start = from;
    for (let at = from; at < close; at = this.#lexemes[at]!.match + 1) {
      if (!isSymbol(this.#lexemes[at]!, ",")) continue;
      items.push(this.#item(start, at, from));
      start = at + 1;
    }
    if (start < close) items.push(this.#item(start, close, from));
    return items;
  }

  #item(from: number, to: number, first: number): Item {
    const { lineBreak, comments } = this.#lexemes[from]!;
    // The comma before the item may stand on the item's line.
    const comma = from === first ? undefined : this.#lexemes[from - 1]!;
    return {
      from,
      to,
      lineBreak: lineBreak || comma?.lineBreak === true,
      commented: comments.length > 0 || (comma !== undefined && comma.comments.length > 0),
    };
  }

  /** True for a list that would be a comprehension without a comma at its end: `[a | b,]`, `[a | k, v in c,]`. */
  #isTold([first, second, ...rest]: readonly Item[]): boolean {
    return first !== undefined && rest.length === 0 && this.#startsUnion(first) && (second === undefined || this.#hasMembership(second));
  }

  /** True if the first operator of an item, or of the value in an object, is `|`. */
  #startsUnion({ from, to }: Item): boolean {
    let first: string | undefined;
    for (let at = from; at < to; at = this.#lexemes[at]!.match + 1) {
      const lexeme = this.#lexemes[at]!;
      if (isSymbol(lexeme, ":")) first = undefined;
      else if (lexeme.role === "keyword" || (lexeme.kind === "symbol" && BREAKABLE.has(lexeme.text) && !this.#isNegative(at))) first ??= lexeme.text;
    }
    return first === "|";
  }

  #hasMembership({ from, to }: Item): boolean {
    for (let at = from; at < to; at = this.#lexemes[at]!.match + 1) if (this.#lexemes[at]!.role === "keyword") return true;
    return false;
  }

  /** `[head | body]` on one line, or the head and the bar behind the bracket and the body's statements below. */
  #comprehension(open: number): void {
    const out = this.#out;
    const { text, match } = this.#lexemes[open]!;
    const closing = this.#lexemes[match]!;
    const first = this.#lexemes[open + 1]!;
    let bar = open + 1;
    while (!isSymbol(this.#lexemes[bar]!, "|")) bar = this.#lexemes[bar]!.match + 1;
    const barComments = this.#lexemes[bar]!.comments;
    if (first.comments.length === 0 && barComments.length === 0 && !this.#isSpread(bar + 1, match)) {
      out.write(text);
      this.#run(open + 1, bar, "term");
      out.write(" | ");
      this.#inlineStatements(bar + 1, match);
      out.write(closing.text);
      return;
    }
    const { indent } = out;
    if (first.comments.length > 0) {
      out.open(text);
      this.#comments(first.comments, true);
    } else {
      out.write(text);
    }
    this.#run(open + 1, bar, "term");
    out.indent = indent;
    out.space();
    out.open("|");
    this.#comments(barComments, true);
    this.#statements(bar + 1, match);
    this.#comments(closing.comments, true);
    out.close(closing.text);
  }

  /** @param spaced keeps empty lines above comments */
  #comments(comments: readonly Comment[], spaced: boolean): void {
    for (const { text, ownLine, blankLine } of comments) {
      if (spaced && blankLine) this.#out.blankLine();
      this.#out.comment(text, ownLine);
    }
  }
}

/** An item of a list, from a lexeme up to another; whether its line is a new one, and whether comments stand before it. */
interface Item {
  readonly from: number;
  readonly to: number;
  readonly lineBreak: boolean;
  readonly commented: boolean;
}

function isSymbol(lexeme: Lexeme, text: string): boolean {
  return lexeme.kind === "symbol" && lexeme.text === text;
}

/**
 * The imports of a group by their paths; as they are, if the order means something: of two imports of one name v0 takes the
 * last, and an alias can be a word that is a keyword below `future.keywords`.
 */
function sortedImports(group: readonly Chunk<Import>[]): readonly Chunk<Import>[] {
  const names = new Set<string>();
  for (const { node } of group) {
    const { path, alias } = node;
    if (alias !== undefined && isReservedWord(alias)) return group;
    if (path[0] === "future" || path[0] === "rego") continue;
    const name = alias ?? path.at(-1)!;
    if (names.has(name)) return group;
    names.add(name);
  }
  return group.toSorted((left, right) => compareImports(left.node, right.node));
}

function compareImports(left: Import, right: Import): number {
  for (const [index, step] of left.path.entries()) {
    const other = right.path[index];
    if (other === undefined) return 1;
    if (step !== other) return step < other ? -1 : 1;
  }
  return left.path.length - right.path.length;
}
