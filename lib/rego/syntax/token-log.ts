import type { Token } from "./lexer.ts";

/**
 * What a token is where its text alone does not tell: a word that acts as a keyword, the parenthesis of a rule's parameters,
 * the brace of a rule's body, the brace of the body of `every`, the bracket of a comprehension. All other brackets are calls,
 * indexes, groups, arrays, sets and objects.
 */
export type TokenRole = "keyword" | "parameters" | "body" | "every" | "comprehension";

/** What the parser read of a module, for a reader that needs the text and not only its meaning: the formatter. */
export class TokenLog {
  /** All tokens in order, without the end of the text. A template string is one token: what stands in it is not listed. */
  readonly tokens: Token[] = [];
  /** By the offset at which a token starts. */
  readonly roles: Map<number, TokenRole> = new Map();
  /** Offsets at which statements of bodies end. */
  readonly statementEnds: Set<number> = new Set();
}
