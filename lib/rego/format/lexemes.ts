import type { Token } from "../syntax/lexer.ts";
import type { TokenLog, TokenRole } from "../syntax/token-log.ts";

/** A comment as written, from `#` to the end of its line. */
export interface Comment {
  readonly text: string;
  /** False if it stands behind something on its line. */
  readonly ownLine: boolean;
  /** True if an empty line stands above it. */
  readonly blankLine: boolean;
}

/** A token as written, with what stands between it and the one before. Semicolons are not listed: they are a flag of the next token. */
export interface Lexeme {
  readonly kind: Token["kind"];
  /** As written, quotes included; empty for the end of the text. */
  readonly text: string;
  /** The token's value: of a string, the decoded text. */
  readonly value: string;
  readonly at: number;
  readonly role: TokenRole | undefined;
  /** At most the first does not stand on a line of its own. */
  readonly comments: readonly Comment[];
  readonly lineBreak: boolean;
  /** True if an empty line stands right above this token, below its comments. */
  readonly blankLine: boolean;
  readonly semicolon: boolean;
  /** True if nothing at all stands before it. */
  readonly adjacent: boolean;
  readonly endsStatement: boolean;
  /** Of an opening bracket, the index of the closing one; of any other token, its own. */
  readonly match: number;
}

interface Gap {
  readonly comments: readonly Comment[];
  readonly lineBreak: boolean;
  readonly blankLine: boolean;
}

/** Gaps without comments, which almost all are. */
const GAPS: Readonly<Record<"none" | "lineBreak" | "blankLine", Gap>> = {
  none: { comments: [], lineBreak: false, blankLine: false },
  lineBreak: { comments: [], lineBreak: true, blankLine: false },
  blankLine: { comments: [], lineBreak: true, blankLine: true },
};

/** The tokens of a parsed module with the comments and line breaks around them; the last one is the end of the text. */
export function lexemesOf(text: string, log: TokenLog): readonly Lexeme[] {
  const lexemes: (Lexeme & { match: number })[] = [];
  const opened: number[] = [];
  let gap: Gap | undefined;
  let previousEnd = 0;
  const end: Token = { kind: "end", text: "", at: text.length, end: text.length };
  for (let index = 0; index <= log.tokens.length; index++) {
    const token = log.tokens[index] ?? end;
    const next = gapBefore(text, previousEnd, token.at);
    const semicolon = gap !== undefined;
    gap = gap === undefined ? next : joinGaps(gap, next);
    const adjacent = token.at === previousEnd && !semicolon;
    previousEnd = token.end;
    if (token.kind === "symbol" && token.text === ";") continue;
    const at = lexemes.length;
    lexemes.push({
      kind: token.kind,
      text: text.slice(token.at, token.end),
      value: token.text,
      at: token.at,
      role: log.roles.get(token.at),
      comments: gap.comments,
      lineBreak: gap.lineBreak,
      blankLine: gap.blankLine,
      semicolon,
      adjacent,
      endsStatement: log.statementEnds.has(token.end),
      match: at,
    });
    gap = undefined;
    if (token.kind !== "symbol") continue;
    if (token.text === "(" || token.text === "[" || token.text === "{") opened.push(at);
    else if (token.text === ")" || token.text === "]" || token.text === "}") lexemes[opened.pop()!]!.match = at;
  }
  return lexemes;
}

/** Reads white space and comments; nothing else stands between two tokens. */
function gapBefore(text: string, from: number, to: number): Gap {
  let comments: Comment[] | undefined;
  // The start of the text counts as the start of a line.
  let breaks = from === 0 ? 1 : 0;
  for (let at = from; at < to; at++) {
    const unit = text.charCodeAt(at);
    if (unit === 0x0a) breaks++;
    if (unit !== 0x23) continue;
    let end = text.indexOf("\n", at);
    if (end === -1) end = text.length;
    const cut = text.charCodeAt(end - 1) === 0x0d ? end - 1 : end;
    comments ??= [];
    comments.push({ text: text.slice(at, cut), ownLine: breaks > 0, blankLine: breaks > 1 });
    breaks = 0;
    at = end - 1;
  }
  if (comments === undefined) return breaks === 0 ? GAPS.none : breaks === 1 ? GAPS.lineBreak : GAPS.blankLine;
  return { comments, lineBreak: breaks > 0, blankLine: breaks > 1 };
}

/** Two gaps with a semicolon between them, which goes. */
function joinGaps(before: Gap, after: Gap): Gap {
  // A comment behind the semicolon cannot move up to a line that ends in one.
  const comments = before.comments.length === 0 ? after.comments : [...before.comments, ...after.comments.map((comment) => ({ ...comment, ownLine: true }))];
  return { comments, lineBreak: before.lineBreak || after.lineBreak, blankLine: before.blankLine || after.blankLine };
}
