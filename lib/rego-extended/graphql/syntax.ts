import type { BuiltinContext, BuiltinError } from "@sealpod/rego";
import { builtinError } from "@sealpod/rego";
import type { DefinitionNode, Token } from "graphql";
import { GraphQLError, Kind, Lexer, parse, Source, TokenKind, visit } from "graphql";
import type { GraphqlDocument, QueryDefinition, SchemaDefinition } from "./document.ts";
import { chargeToken, errorAt, errorOf, nestingError } from "./document.ts";

/**
 * Units of memory for one character: a comment of one character is a token of 90 bytes that the parser does not count. Holds
 * a text to 5 Mi characters; the largest public schemas have 1.5.
 */
const MEMORY_PER_CHARACTER = 48;

/** Longest part of the text that an error quotes. */
const MAX_QUOTED = 80;

/**
 * Parses a query document; an empty text is an empty document.
 * @throws {BuiltinError} for malformed text; {RegoError} for a text past the limits
 */
export function parseQuery(text: string, context: BuiltinContext): GraphqlDocument<QueryDefinition> {
  const { definitions, size } = parseText(text, context);
  return { definitions: definitions.map(asQueryDefinition), size };
}

/**
 * Parses a schema document; an empty text is an empty document.
 * @throws {BuiltinError} for malformed text; {RegoError} for a text past the limits
 */
export function parseSchema(text: string, context: BuiltinContext): GraphqlDocument<SchemaDefinition> {
  const { definitions, size } = parseText(text, context);
  return { definitions: definitions.map(asSchemaDefinition), size };
}

function asQueryDefinition(node: DefinitionNode): QueryDefinition {
  if (node.kind !== Kind.OPERATION_DEFINITION && node.kind !== Kind.FRAGMENT_DEFINITION) throw unexpectedDefinition(node);
  refuseSpreadArguments(node);
  return node;
}

function asSchemaDefinition(node: DefinitionNode): SchemaDefinition {
  if (node.kind === Kind.OPERATION_DEFINITION || node.kind === Kind.FRAGMENT_DEFINITION) throw unexpectedDefinition(node);
  return node;
}

function unexpectedDefinition(node: DefinitionNode): BuiltinError {
  return errorOf(`Unexpected ${node.loc === undefined ? node.kind : describe(node.loc.startToken)}`, node);
}

/** gqlparser knows variables of fragments, but no arguments for them; the parser's option brings both. */
function refuseSpreadArguments(node: QueryDefinition): void {
  visit(node, {
    FragmentSpread({ arguments: given }) {
      if (given !== undefined && given.length > 0) throw errorOf("Unexpected argument of a fragment spread", given[0]);
    },
  });
}

function parseText(text: string, context: BuiltinContext): GraphqlDocument<DefinitionNode> {
  const source = new Source(text);
  const { tokens, invalidAt } = measure(source, context);
  if (tokens === 0 && invalidAt === undefined) return { definitions: [], size: 0 };
  try {
    return { definitions: parse(source, { experimentalFragmentArguments: true, allowEmptySelectionSets: false }).definitions, size: tokens };
  } catch (error) {
    if (error instanceof GraphQLError) throw syntaxError(error, source, invalidAt);
    throw error;
  }
}

/**
 * Counts the tokens and their nesting before the parser, which recurses, sees them. A bracket that closes nothing stops
 * the parser, so what stands behind one is not counted too low.
 */
function measure(source: Source, context: BuiltinContext): { readonly tokens: number; readonly invalidAt: number | undefined } {
  context.work(1 + (source.body.length >> 2));
  context.allocate(source.body.length * MEMORY_PER_CHARACTER);
  const lexer = new Lexer(source);
  let tokens = 0;
  let depth = 0;
  try {
    for (let token = lexer.advance(); token.kind !== TokenKind.EOF; token = lexer.advance()) {
      chargeToken(context);
      tokens++;
      if (isOpening(token.kind)) depth++;
      else if (isClosing(token.kind)) depth = Math.max(0, depth - 1);
      if (depth > context.maxNesting) throw nestingError("a GraphQL text", context);
    }
    return { tokens, invalidAt: undefined };
  } catch (error) {
    if (error instanceof GraphQLError) return { tokens, invalidAt: error.positions?.[0] ?? source.body.length };
    throw error;
  }
}

function isOpening(kind: TokenKind): boolean {
  return kind === TokenKind.BRACE_L || kind === TokenKind.PAREN_L || kind === TokenKind.BRACKET_L;
}

function isClosing(kind: TokenKind): boolean {
  return kind === TokenKind.BRACE_R || kind === TokenKind.PAREN_R || kind === TokenKind.BRACKET_R;
}

/** What the parser waited for, at the start of its message: a kind of token, a punctuator in quotes or a keyword in quotes. */
const EXPECTED = /^Syntax Error: Expected (?:"([^\w"]{1,3})"|("?\w+"?)), found /;

/** The parser's error in gqlparser's words, which policies may print and OPA's suite expects. */
function syntaxError(error: GraphQLError, source: Source, invalidAt: number | undefined): BuiltinError {
  const at = error.positions?.[0] ?? 0;
  if (at === invalidAt) {
    const reason = clip(error.message.replace(/^Syntax Error: /, ""));
    return builtinError(`${errorAt("Unexpected <Invalid>", source, at).message}: ${reason}`);
  }
  const token = tokenAt(source, at);
  if (isEmptyBlock(token)) return errorAt(`expected at least one definition, found ${token.kind}`, source, at);
  const expected = EXPECTED.exec(error.message);
  const wanted = expected?.[1] ?? expected?.[2];
  return errorAt(wanted === undefined ? `Unexpected ${describe(token)}` : `Expected ${wanted}, found ${describe(token)}`, source, at);
}

function isEmptyBlock(token: Token): boolean {
  let before = token.prev;
  while (before?.kind === TokenKind.COMMENT) before = before.prev;
  if (token.kind === TokenKind.BRACE_R) return before?.kind === TokenKind.BRACE_L;
  return token.kind === TokenKind.PAREN_R && before?.kind === TokenKind.PAREN_L;
}

function tokenAt(source: Source, at: number): Token {
  const lexer = new Lexer(source);
  let token = lexer.advance();
  while (token.start < at && token.kind !== TokenKind.EOF) token = lexer.advance();
  return token;
}

function describe(token: Token): string {
  const value: string | undefined = token.value;
  if (value === undefined) return token.kind;
  return `${token.kind} ${JSON.stringify(clip(value))}`;
}

function clip(text: string): string {
  return text.length > MAX_QUOTED ? `${text.slice(0, MAX_QUOTED).toWellFormed()}...` : text;
}
