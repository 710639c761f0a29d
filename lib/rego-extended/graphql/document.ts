import type { BuiltinContext, BuiltinError } from "@sealpod/rego";
import { builtinError, RegoError } from "@sealpod/rego";
import type { ASTNode, FragmentDefinitionNode, OperationDefinitionNode, TypeSystemDefinitionNode, TypeSystemExtensionNode } from "graphql";
import { getLocation, Source } from "graphql";

/** What stands in a query document. */
export type QueryDefinition = OperationDefinitionNode | FragmentDefinitionNode;

/** What stands in a schema document. */
export type SchemaDefinition = TypeSystemDefinitionNode | TypeSystemExtensionNode;

/** A document, from text or from an AST object. */
export interface GraphqlDocument<Definition> {
  readonly definitions: readonly Definition[];
  /** Tokens of the text or nodes of the object: what the cost of each later step is counted by. */
  readonly size: number;
}

/** Units of memory for one token and the nodes made from it: a field of one letter takes 420 bytes, 90 of them its character's. */
const MEMORY_PER_TOKEN = 384;

/** Counts a token or a node before it is made. @throws {RegoError} */
export function chargeToken(context: BuiltinContext): void {
  context.work(8);
  context.allocate(MEMORY_PER_TOKEN);
}

/** The error of a document that is nested too deep: a limit, so no `not` turns it into true. */
export function nestingError(what: string, context: BuiltinContext): RegoError {
  return new RegoError("ERR_REGO_LIMIT_NESTING", `${what} is nested deeper than ${context.maxNesting}`, { details: { limit: context.maxNesting } });
}

/** Length of the opening quotes: gqlparser gives the place of a string's first character. */
function quotes(body: string, at: number): number {
  if (body.startsWith('"""', at)) return 3;
  return body.startsWith('"', at) ? 1 : 0;
}

function isLowSurrogate(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}

/** A failure at an offset of a text, in the words that OPA uses. Columns count code points from 1. */
export function errorAt(message: string, source: Source, at: number): BuiltinError {
  const { line, column } = getLocation(source, at);
  let codePoints = column;
  for (let unit = at - column + 1; unit < at; unit++) if (isLowSurrogate(source.body.charCodeAt(unit))) codePoints--;
  return builtinError(`${message} in GraphQL string at location ${line}:${codePoints + quotes(source.body, at)}`);
}

/** A failure of a node; one that was read from an object has no place. */
export function errorOf(message: string, node: ASTNode | undefined): BuiltinError {
  return node?.loc === undefined ? builtinError(message) : errorAt(message, node.loc.source, node.loc.start);
}
