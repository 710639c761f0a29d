import type { BuiltinContext, Value } from "@sealpod/rego";
import { builtinError, parseNumber, RegoError } from "@sealpod/rego";

/** One operand of a command. */
export type Operand =
  | { readonly kind: "dot"; readonly fields: readonly string[] }
  | { readonly kind: "variable"; readonly name: string; readonly fields: readonly string[] }
  | { readonly kind: "constant"; readonly value: Value; readonly number: boolean }
  | { readonly kind: "function"; readonly name: string }
  | { readonly kind: "pipeline"; readonly pipeline: Pipeline; readonly fields: readonly string[] };

/** `a | b x | c`: the value of each command is the last argument of the next. */
export interface Pipeline {
  /** Variables of `$x :=`; two only for `range`. */
  readonly variables: readonly string[];
  readonly declares: boolean;
  readonly commands: readonly (readonly Operand[])[];
}

/** A part of a template. */
export type TemplateNode =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "print"; readonly pipeline: Pipeline }
  | { readonly kind: "if" | "with" | "range"; readonly pipeline: Pipeline; readonly body: readonly TemplateNode[]; readonly otherwise: readonly TemplateNode[] }
  | { readonly kind: "break" | "continue" };

const BLOCKS: ReadonlySet<string> = new Set(["if", "with", "range"]);

/** Actions of Go templates that name other templates: there is one template here. */
const REFUSED: ReadonlySet<string> = new Set(["define", "template", "block"]);

/** Parts of a template's text: text and actions by turns. */
interface Piece {
  readonly text: string;
  /** Undefined for text. */
  readonly line: number | undefined;
}

/** Splits text at `{{` and `}}`; `{{- ` and ` -}}` cut the space around. */
function split(template: string): readonly Piece[] {
  const pieces: Piece[] = [];
  let at = 0;
  let line = 1;
  let trim = false;
  const addText = (text: string): void => {
    if (text !== "") pieces.push({ text, line: undefined });
  };
  for (;;) {
    const open = template.indexOf("{{", at);
    const before = open === -1 ? template.slice(at) : template.slice(at, open);
    line += before.split("\n").length - 1;
    let text = trim ? withoutSpace(before, "start") : before;
    if (open === -1) {
      addText(text);
      return pieces;
    }
    let start = open + 2;
    if (template[start] === "-" && isSpace(template, start + 1)) {
      start += 2;
      text = withoutSpace(text, "end");
    }
    addText(text);
    const close = findClose(template, start, line);
    let end = close;
    trim = template[end - 1] === "-" && end - 1 > start - 1 && isSpace(template, end - 2);
    if (trim) end -= 2;
    pieces.push({ text: template.slice(start, Math.max(start, end)), line });
    line += template.slice(open, close).split("\n").length - 1;
    at = close + 2;
  }
}

/** Cuts what Go takes for space; JavaScript's `trim` cuts more. */
function withoutSpace(text: string, side: "start" | "end"): string {
  let [from, to] = [0, text.length];
  if (side === "start") while (isSpace(text, from)) from++;
  else while (isSpace(text, to - 1)) to--;
  return text.slice(from, to);
}

function isSpace(text: string, at: number): boolean {
  return at >= 0 && at < text.length && " \t\r\n".includes(text.charAt(at));
}

function fail(line: number, what: string): Error {
  return builtinError(`template: template:${line}: ${what}`);
}

/** The `}}` that ends an action: not one within quotes or a comment. */
function findClose(template: string, start: number, line: number): number {
  if (template.startsWith("/*", start)) {
    const end = template.indexOf("*/", start + 2);
    const close = end === -1 ? -1 : template.indexOf("}}", end);
    if (close === -1) throw fail(line, "unclosed comment");
    return close;
  }
  for (let at = start; at < template.length; at++) {
    const char = template[at]!;
    if (char === "}" && template[at + 1] === "}") return at;
    if (char === '"' || char === "`") at = endOfQuote(template, at, line);
  }
  throw fail(line, "unclosed action");
}

function endOfQuote(text: string, start: number, line: number): number {
  const quote = text[start];
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === quote) return at;
    if (quote === '"' && text[at] === "\\") at++;
    else if (quote === '"' && text[at] === "\n") break;
  }
  throw fail(line, "unterminated quoted string");
}

type Token =
  | { readonly kind: "word" | "field" | "variable"; readonly text: string; readonly spaced: boolean }
  | { readonly kind: "string"; readonly text: string; readonly spaced: boolean }
  | { readonly kind: "number"; readonly text: string; readonly spaced: boolean }
  | { readonly kind: "mark"; readonly text: "(" | ")" | "|" | "," | ":=" | "=" | "."; readonly spaced: boolean };

function isNameChar(text: string, at: number): boolean {
  const char = text.charAt(at);
  return (char >= "a" && char <= "z") || (char >= "A" && char <= "Z") || (char >= "0" && char <= "9") || char === "_" || char > "\u007f";
}

function tokenize(action: string, line: number): readonly Token[] {
  const tokens: Token[] = [];
  let at = 0;
  const name = (from: number): string => {
    let end = from;
    while (isNameChar(action, end)) end++;
    return action.slice(from, end);
  };
  while (at < action.length) {
    const spaced = isSpace(action, at);
    while (isSpace(action, at)) at++;
    const char = action[at];
    if (char === undefined) break;
    const start = at;
    if (char === '"' || char === "`") {
      const end = endOfQuote(action, at, line);
      tokens.push({ kind: "string", text: char === "`" ? action.slice(at + 1, end) : unquote(action.slice(at, end + 1), line), spaced });
      at = end + 1;
    } else if (char === "." && isNameChar(action, at + 1)) {
      const text = name(at + 1);
      tokens.push({ kind: "field", text, spaced });
      at += 1 + text.length;
    } else if (char === "$") {
      const text = name(at + 1);
      tokens.push({ kind: "variable", text, spaced });
      at += 1 + text.length;
    } else if (action.startsWith(":=", at)) {
      tokens.push({ kind: "mark", text: ":=", spaced });
      at += 2;
    } else if (char === "(" || char === ")" || char === "|" || char === "," || char === "=" || char === ".") {
      tokens.push({ kind: "mark", text: char, spaced });
      at++;
    } else if ((char >= "0" && char <= "9") || ((char === "-" || char === "+") && isNameChar(action, at + 1))) {
      at++;
      while (isNameChar(action, at) || action[at] === "." || ("+-".includes(action.charAt(at)) && action[at - 1]?.toLowerCase() === "e" && at < action.length))
        at++;
      tokens.push({ kind: "number", text: action.slice(start, at), spaced });
    } else if (isNameChar(action, at)) {
      const text = name(at);
      tokens.push({ kind: "word", text, spaced });
      at += text.length;
    } else throw fail(line, `unexpected ${JSON.stringify(char)} in an action`);
  }
  return tokens;
}

/** A quoted string of Go; of its escapes those that JSON has too. */
function unquote(literal: string, line: number): string {
  try {
    return JSON.parse(literal.replaceAll("\t", "\\t")) as string;
  } catch {
    throw fail(line, `string ${literal.slice(0, 64)} has an escape that is not known here: use those of JSON or backquotes`);
  }
}

/**
 * Parses a template of Go's text/template: actions, pipelines, variables, `if`, `with`, `range`, `break`, `continue`, comments.
 * @throws {BuiltinError} for what is no template, `define` and its kin among it; {RegoError} for a limit
 */
export function parseTemplate(template: string, context: BuiltinContext): readonly TemplateNode[] {
  return new TemplateParser(split(template), context).parse();
}

class TemplateParser {
  readonly #pieces: readonly Piece[];
  readonly #context: BuiltinContext;
  #at = 0;
  #tokens: readonly Token[] = [];
  #token = 0;
  #line = 1;
  #depth = 0;
  #loops = 0;
  /** Names of variables in scope, innermost last. */
  readonly #variables: string[] = [""];

  constructor(pieces: readonly Piece[], context: BuiltinContext) {
    this.#pieces = pieces;
    this.#context = context;
  }

  parse(): readonly TemplateNode[] {
    const { nodes, end } = this.#nodes();
    if (end !== undefined) throw this.#fail(`unexpected {{${end}}}`);
    return nodes;
  }

  #nest<T>(parse: () => T): T {
    const limit = this.#context.maxNesting;
    if (++this.#depth > limit) throw new RegoError("ERR_REGO_LIMIT_NESTING", `a template is nested deeper than ${limit}`, { details: { limit } });
    const result = parse();
    this.#depth--;
    return result;
  }

  /** Nodes up to `end` or `else`, of which the tokens behind the word are left. */
  #nodes(): { readonly nodes: readonly TemplateNode[]; readonly end: "end" | "else" | undefined } {
    const nodes: TemplateNode[] = [];
    for (;;) {
      const piece = this.#pieces[this.#at++];
      if (piece === undefined) return { nodes, end: undefined };
      if (piece.line === undefined) {
        nodes.push({ kind: "text", text: piece.text });
        continue;
      }
      this.#line = piece.line;
      if (piece.text.startsWith("/*")) {
        if (!piece.text.trimEnd().endsWith("*/")) throw this.#fail("a comment must fill its action");
        continue;
      }
      this.#tokens = tokenize(piece.text, piece.line);
      this.#token = 0;
      const first = this.#tokens[0];
      if (first === undefined) throw this.#fail("missing value for command");
      const word = first.kind === "word" ? first.text : "";
      if (word === "end" || word === "else") {
        this.#token = 1;
        if (word === "end") this.#finish();
        return { nodes, end: word };
      }
      nodes.push(this.#action(word));
    }
  }

  #action(word: string): TemplateNode {
    if (REFUSED.has(word)) throw this.#fail(`{{${word}}} is not supported: there is one template`);
    if (BLOCKS.has(word)) {
      this.#token = 1;
      return this.#nest(() => this.#block(word as "if" | "with" | "range"));
    }
    if (word === "break" || word === "continue") {
      if (this.#loops === 0) throw this.#fail(`{{${word}}} outside {{range}}`);
      this.#token = 1;
      this.#finish();
      return { kind: word };
    }
    const pipeline = this.#pipeline(1);
    this.#finish();
    return { kind: "print", pipeline };
  }

  #block(kind: "if" | "with" | "range"): TemplateNode {
    const scope = this.#variables.length;
    const pipeline = this.#pipeline(kind === "range" ? 2 : 1);
    this.#finish();
    const inner = this.#variables.length;
    if (kind === "range") this.#loops++;
    const { nodes: body, end } = this.#nodes();
    if (kind === "range") this.#loops--;
    this.#variables.length = inner;
    const otherwise = end === "else" ? this.#otherwise(kind) : [];
    if (end === undefined) throw this.#fail(`{{${kind}}} has no {{end}}`);
    this.#variables.length = scope;
    return { kind, pipeline, body, otherwise };
  }

  #otherwise(kind: "if" | "with" | "range"): readonly TemplateNode[] {
    const next = this.#tokens[this.#token];
    if (next?.kind === "word" && next.text === kind && kind !== "range") {
      // `else if` holds the rest up to the one `end` of both.
      this.#token++;
      return [this.#nest(() => this.#block(kind))];
    }
    this.#finish();
    const { nodes, end } = this.#nodes();
    if (end !== "end") throw this.#fail(`{{else}} of {{${kind}}} has no {{end}}`);
    return nodes;
  }

  #pipeline(maxVariables: number): Pipeline {
    const { variables, declares } = this.#assignment(maxVariables);
    const commands: (readonly Operand[])[] = [];
    do {
      const operands = this.#operands();
      if (operands.length === 0) throw this.#fail("missing value for command");
      if (commands.length > 0 && operands[0]!.kind !== "function") throw this.#fail("a command behind | must begin with a function");
      commands.push(operands);
    } while (this.#takeMark("|"));
    // A variable is not known in the pipeline that gives it its value.
    if (declares) this.#variables.push(...variables);
    return { variables, declares, commands };
  }

  #assignment(maxVariables: number): { readonly variables: readonly string[]; readonly declares: boolean } {
    const start = this.#token;
    const variables: string[] = [];
    for (;;) {
      const token = this.#tokens[this.#token];
      if (token?.kind !== "variable" || token.text === "") break;
      this.#token++;
      variables.push(token.text);
      const declares = this.#takeMark(":=");
      if (declares || this.#takeMark("=")) {
        if (variables.length > maxVariables) throw this.#fail("too many declarations");
        if (!declares) variables.forEach((name) => this.#known(name));
        return { variables, declares };
      }
      if (!this.#takeMark(",")) break;
    }
    this.#token = start;
    return { variables: [], declares: false };
  }

  #operands(): readonly Operand[] {
    const operands: Operand[] = [];
    for (;;) {
      const token = this.#tokens[this.#token];
      if (token === undefined || (token.kind === "mark" && (token.text === "|" || token.text === ")"))) return operands;
      operands.push(this.#operand(token));
    }
  }

  #operand(token: Token): Operand {
    this.#token++;
    switch (token.kind) {
      case "string":
        return { kind: "constant", value: token.text, number: false };
      case "number": {
        const value = parseNumber(token.text, true);
        if (value === undefined) throw this.#fail(`bad number syntax: ${JSON.stringify(token.text.slice(0, 64))}`);
        return { kind: "constant", value, number: true };
      }
      case "field":
        return { kind: "dot", fields: [token.text, ...this.#fields()] };
      case "variable":
        this.#known(token.text);
        return { kind: "variable", name: token.text, fields: this.#fields() };
      case "word":
        if (token.text === "true" || token.text === "false") return { kind: "constant", value: token.text === "true", number: false };
        if (token.text === "nil") return { kind: "constant", value: null, number: false };
        return { kind: "function", name: token.text };
      case "mark": {
        if (token.text === ".") return { kind: "dot", fields: [] };
        if (token.text !== "(") throw this.#fail(`unexpected ${JSON.stringify(token.text)} in an action`);
        const pipeline = this.#nest(() => this.#pipeline(0));
        if (!this.#takeMark(")")) throw this.#fail("unclosed left parenthesis");
        return { kind: "pipeline", pipeline, fields: this.#fields() };
      }
    }
  }

  /** `.a.b` directly behind an operand. */
  #fields(): readonly string[] {
    const fields: string[] = [];
    for (;;) {
      const token = this.#tokens[this.#token];
      if (token?.kind !== "field" || token.spaced) return fields;
      fields.push(token.text);
      this.#token++;
    }
  }

  #known(name: string): void {
    this.#context.work(this.#variables.length >> 4);
    if (!this.#variables.includes(name)) throw this.#fail(`undefined variable "$${name}"`);
  }

  #takeMark(text: string): boolean {
    const token = this.#tokens[this.#token];
    if (token?.kind !== "mark" || token.text !== text) return false;
    this.#token++;
    return true;
  }

  #finish(): void {
    const token = this.#tokens[this.#token];
    if (token !== undefined) throw this.#fail(`unexpected ${JSON.stringify(token.text.slice(0, 64))} in an action`);
  }

  #fail(what: string): Error {
    return fail(this.#line, what);
  }
}
