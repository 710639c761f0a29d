import type { BuiltinContext } from "@sealpod/rego";
import { RegoError } from "@sealpod/rego";
import type { ASTVisitor, FragmentDefinitionNode, FragmentSpreadNode, GraphQLArgument, SelectionSetNode, ValidationContext, ValidationRule } from "graphql";
import {
  DeferStreamDirectiveLabelRule,
  DeferStreamDirectiveOnRootFieldRule,
  DeferStreamDirectiveOnValidOperationsRule,
  GraphQLError,
  isRequiredArgument,
  Kind,
  ProvidedRequiredArgumentsRule,
  specifiedRules,
  StreamDirectiveOnListFieldRule,
  validate,
} from "graphql";
import type { GraphqlDocument, QueryDefinition } from "./document.ts";
import { errorOf, nestingError } from "./document.ts";
import type { CheckedSchema } from "./schema.ts";

/** Rules that gqlparser does not have, and one that it words in its own way. */
const LEFT_OUT: ReadonlySet<ValidationRule> = new Set([
  DeferStreamDirectiveLabelRule,
  DeferStreamDirectiveOnRootFieldRule,
  DeferStreamDirectiveOnValidOperationsRule,
  StreamDirectiveOnListFieldRule,
  ProvidedRequiredArgumentsRule,
]);

const RULES: readonly ValidationRule[] = [...specifiedRules.filter((rule) => !LEFT_OUT.has(rule)), requiredArguments];

/** Units of work for one token under all rules: some 10 microseconds. */
const WORK_PER_TOKEN = 64;

/** Members of the schema's longest list that one unit of work compares. */
const MEMBERS_PER_UNIT = 8;

/** What graphql-js reports when one of its rules has used up its budget for a query whose cost is not linear. */
const ABORTED = "Validation aborted.";

/**
 * Checks a query against a schema by the rules of the standard, section 5.
 * @throws {BuiltinError} for the first rule that is broken; {RegoError} for a limit
 */
export function checkQuery(document: GraphqlDocument<QueryDefinition>, { schema, breadth }: CheckedSchema, context: BuiltinContext): void {
  context.work(document.size * (WORK_PER_TOKEN + Math.ceil(breadth / MEMBERS_PER_UNIT)));
  checkNesting(document.definitions, context);
  const errors = validate(schema, { kind: Kind.DOCUMENT, definitions: document.definitions }, RULES, { maxErrors: 1, hideSuggestions: true });
  if (errors.some(({ message }) => message === ABORTED)) {
    throw new RegoError("ERR_REGO_LIMIT_STEPS", "a GraphQL query is too costly to check: its fields or fragments refer to one another too often");
  }
  const first = errors[0];
  if (first !== undefined) throw errorOf(first.message.replace(/\.$/, ""), first.nodes?.[0]);
}

/**
 * Bounds the nesting with fragments in the place of their spreads: rules follow spreads by recursion, so a chain of
 * fragments costs stack as brackets do. A cycle has no depth and is refused here.
 */
function checkNesting(definitions: readonly QueryDefinition[], context: BuiltinContext): void {
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const node of definitions) if (node.kind === Kind.FRAGMENT_DEFINITION) fragments.set(node.name.value, node);
  const known = new Map<string, number>();
  const open = new Set<string>();

  const depthOf = (set: SelectionSetNode, room: number): number => {
    if (room === 0) throw nestingError("a GraphQL query with its fragments", context);
    let deepest = 0;
    for (const selection of set.selections) {
      let depth = 0;
      if (selection.kind === Kind.FRAGMENT_SPREAD) depth = depthOfSpread(selection, room - 1);
      else if (selection.selectionSet !== undefined) depth = depthOf(selection.selectionSet, room - 1);
      deepest = Math.max(deepest, depth);
    }
    return deepest + 1;
  };

  const depthOfSpread = (spread: FragmentSpreadNode, room: number): number => {
    const name = spread.name.value;
    const fragment = fragments.get(name);
    if (fragment === undefined) return 0;
    if (open.has(name)) throw errorOf(`Cannot spread fragment "${name}" within itself`, spread);
    let depth = known.get(name);
    if (depth === undefined) {
      open.add(name);
      depth = depthOf(fragment.selectionSet, room);
      open.delete(name);
      known.set(name, depth);
    }
    if (depth > room) throw nestingError("a GraphQL query with its fragments", context);
    return depth;
  };

  for (const { selectionSet } of definitions) depthOf(selectionSet, context.maxNesting);
}

/** The standard's rule "required arguments" (5.4.2.1) with gqlparser's messages, which OPA's users know. */
function requiredArguments(context: ValidationContext): ASTVisitor {
  const report = (owner: string, declared: readonly GraphQLArgument[], node: NonNullable<GraphQLError["nodes"]>[number]): void => {
    const given = new Set("arguments" in node ? node.arguments?.map((argument) => argument.name.value) : []);
    for (const argument of declared) {
      if (!isRequiredArgument(argument) || given.has(argument.name)) continue;
      const message = `${owner} argument "${argument.name}" of type "${String(argument.type)}" is required, but it was not provided.`;
      context.reportError(new GraphQLError(message, { nodes: node }));
    }
  };
  return {
    Field: {
      leave(node) {
        report(`Field "${node.name.value}"`, context.getFieldDef()?.args ?? [], node);
      },
    },
    Directive: {
      leave(node) {
        report(`Directive "@${node.name.value}"`, context.getDirective()?.args ?? [], node);
      },
    },
  };
}
