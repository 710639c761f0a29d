import type { Builtin, BuiltinContext, Value } from "@sealpod/rego";
import { BuiltinError, define, operandError, RegoObject, string } from "@sealpod/rego";
import { queryToValue, schemaToValue } from "./ast-to-value.ts";
import type { GraphqlDocument, QueryDefinition, SchemaDefinition } from "./document.ts";
import { checkQuery } from "./query.ts";
import type { CheckedSchema } from "./schema.ts";
import { checkSchema } from "./schema.ts";
import { parseQuery, parseSchema } from "./syntax.ts";
import { readQuery, readSchema } from "./value-to-ast.ts";

function isDocument(value: Value): value is string | RegoObject {
  return typeof value === "string" || value instanceof RegoObject;
}

/** An operand that is a text or an AST object. */
function document(args: readonly Value[], at: number): string | RegoObject {
  const value = args[at]!;
  if (!isDocument(value)) throw operandError(at + 1, "one of {string, object}", value);
  return value;
}

function queryOf(value: string | RegoObject, context: BuiltinContext): GraphqlDocument<QueryDefinition> {
  return typeof value === "string" ? parseQuery(value, context) : readQuery(value, context);
}

function schemaOf(value: string | RegoObject, context: BuiltinContext): GraphqlDocument<SchemaDefinition> {
  return typeof value === "string" ? remembered("document", value, context, () => parseSchema(value, context)) : readSchema(value, context);
}

function checkedSchemaOf(value: string | RegoObject, context: BuiltinContext): CheckedSchema {
  const check = (): CheckedSchema => checkSchema(schemaOf(value, context), context);
  return typeof value === "string" ? remembered("schema", value, context, check) : check();
}

/**
 * What was made of a schema's text, or why it failed, earlier in the same query: policies check many queries against one schema.
 * Bounded by the memory that the first time was charged for.
 */
function remembered<T>(what: string, text: string, context: BuiltinContext, make: () => T): T {
  context.work(1 + (text.length >> 6));
  const outcome = context.once(`graphql ${what} ${text}`, (): { readonly value: T } | BuiltinError => {
    context.allocate(2 * text.length);
    try {
      return { value: make() };
    } catch (error) {
      if (error instanceof BuiltinError) return error;
      throw error;
    }
  });
  if (outcome instanceof BuiltinError) throw outcome;
  return outcome.value;
}

/** Both ASTs, of a query that is valid for a schema that is valid. @throws {BuiltinError} if not */
function parseBoth(queryOperand: string | RegoObject, schemaOperand: string | RegoObject, context: BuiltinContext): readonly [RegoObject, RegoObject] {
  const query = queryOf(queryOperand, context);
  checkQuery(query, checkedSchemaOf(schemaOperand, context), context);
  return [queryToValue(query, context), schemaToValue(schemaOf(schemaOperand, context), context)];
}

/** The value of a function, or another if it fails as builtins do; limits go on. */
function orElse<T>(run: () => T, otherwise: T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof BuiltinError) return otherwise;
    throw error;
  }
}

/**
 * Functions of this family. Syntax and the rules for queries are those of graphql-js; what a schema must fulfil, the ASTs
 * and the texts of errors are those of gqlparser, which OPA uses.
 */
export const graphqlBuiltins: readonly Builtin[] = [
  define("graphql.parse", 2, (args, context) => parseBoth(document(args, 0), document(args, 1), context)),
  define("graphql.parse_and_verify", 2, (args, context) => {
    const [query, schema] = [document(args, 0), document(args, 1)];
    return orElse<Value>(() => [true, ...parseBoth(query, schema, context)], [false, RegoObject.empty, RegoObject.empty]);
  }),
  define("graphql.parse_query", 1, (args, context) => queryToValue(parseQuery(string(args, 0), context), context)),
  define("graphql.parse_schema", 1, (args, context) => schemaToValue(parseSchema(string(args, 0), context), context)),
  define("graphql.is_valid", 2, ([query, schema], context) => {
    if (!isDocument(query!) || !isDocument(schema!)) return false;
    return orElse(() => {
      checkQuery(queryOf(query, context), checkedSchemaOf(schema, context), context);
      return true;
    }, false);
  }),
  define("graphql.schema_is_valid", 1, ([schema], context) => {
    if (!isDocument(schema!)) return false;
    return orElse(() => {
      checkedSchemaOf(schema, context);
      return true;
    }, false);
  }),
];
