import type { BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import { RegoObject } from "@sealpod/rego";
import type {
  ArgumentNode,
  DirectiveDefinitionNode,
  DirectiveNode,
  EnumValueDefinitionNode,
  FieldDefinitionNode,
  FragmentDefinitionNode,
  InputValueDefinitionNode,
  NamedTypeNode,
  NameNode,
  OperationDefinitionNode,
  OperationTypeDefinitionNode,
  SchemaDefinitionNode,
  SchemaExtensionNode,
  SelectionNode,
  SelectionSetNode,
  StringValueNode,
  TypeDefinitionNode,
  TypeExtensionNode,
  TypeNode,
  ValueNode,
  VariableDefinitionNode,
} from "graphql";
import { Kind } from "graphql";
import type { GraphqlDocument, QueryDefinition, SchemaDefinition } from "./document.ts";
import { DEFINITION_KINDS, VALUE_KINDS } from "./kinds.ts";

/** Units of memory for the values made from one token: those of an integer in a list take 490 bytes. */
const MEMORY_PER_TOKEN = 512;

/**
 * The AST of a query as OPA gives it to policies: the structs of gqlparser under their Go names, without positions,
 * nulls and empty lists. Empty strings, false and zero stay.
 * @throws {RegoError} for a limit
 */
export function queryToValue(document: GraphqlDocument<QueryDefinition>, context: BuiltinContext): RegoObject {
  context.allocate(document.size * MEMORY_PER_TOKEN);
  const operations = document.definitions.filter((node) => node.kind === Kind.OPERATION_DEFINITION);
  const fragments = document.definitions.filter((node) => node.kind === Kind.FRAGMENT_DEFINITION);
  return record({ Operations: operations.map(operation), Fragments: fragments.map(fragment) });
}

/** The AST of a schema as OPA gives it to policies; see {@link queryToValue}. */
export function schemaToValue(document: GraphqlDocument<SchemaDefinition>, context: BuiltinContext): RegoObject {
  context.allocate(document.size * MEMORY_PER_TOKEN);
  const schema: Value[] = [];
  const schemaExtensions: Value[] = [];
  const directiveDefinitions: Value[] = [];
  const definitions: Value[] = [];
  const extensions: Value[] = [];
  for (const node of document.definitions) {
    switch (node.kind) {
      case Kind.SCHEMA_DEFINITION:
        schema.push(schemaDefinition(node, node.description));
        break;
      case Kind.SCHEMA_EXTENSION:
        schemaExtensions.push(schemaDefinition(node, undefined));
        break;
      case Kind.DIRECTIVE_DEFINITION:
        directiveDefinitions.push(directiveDefinition(node));
        break;
      case Kind.DIRECTIVE_EXTENSION:
        break; // An option of the parser that is not set.
      case Kind.SCALAR_TYPE_DEFINITION:
      case Kind.OBJECT_TYPE_DEFINITION:
      case Kind.INTERFACE_TYPE_DEFINITION:
      case Kind.UNION_TYPE_DEFINITION:
      case Kind.ENUM_TYPE_DEFINITION:
      case Kind.INPUT_OBJECT_TYPE_DEFINITION:
        definitions.push(definition(node, node.description));
        break;
      default:
        extensions.push(definition(node, undefined));
    }
  }
  return record({
    Schema: schema,
    SchemaExtension: schemaExtensions,
    Directives: directiveDefinitions,
    Definitions: definitions,
    Extensions: extensions,
  });
}

/** An object of the members that say something: what is absent or an empty list is left out. */
function record(members: Readonly<Record<string, Value | undefined>>): RegoObject {
  const object = new RegoObject();
  for (const [name, value] of Object.entries(members)) {
    if (value === undefined || (Array.isArray(value) && value.length === 0)) continue;
    object.put(name, value);
  }
  return object;
}

function list<Node>(nodes: readonly Node[] | undefined, convert: (node: Node) => Value): RegoArray {
  return nodes === undefined ? [] : nodes.map(convert);
}

function text(node: NameNode | StringValueNode | undefined): string {
  return node === undefined ? "" : node.value;
}

function typeNames(nodes: readonly NamedTypeNode[] | undefined): RegoArray {
  return list(nodes, ({ name }) => name.value);
}

function operation(node: OperationDefinitionNode): Value {
  return record({
    Operation: node.operation,
    Name: text(node.name),
    VariableDefinitions: list(node.variableDefinitions, variableDefinition),
    Directives: list(node.directives, directive),
    SelectionSet: selections(node.selectionSet),
  });
}

function fragment(node: FragmentDefinitionNode): Value {
  return record({
    Name: node.name.value,
    VariableDefinition: list(node.variableDefinitions, variableDefinition),
    TypeCondition: node.typeCondition.name.value,
    Directives: list(node.directives, directive),
    SelectionSet: selections(node.selectionSet),
  });
}

/** `Used` is what gqlparser finds while it validates; OPA makes its AST before that. */
function variableDefinition(node: VariableDefinitionNode): Value {
  return record({
    Variable: node.variable.name.value,
    Type: type(node.type),
    DefaultValue: node.defaultValue === undefined ? undefined : value(node.defaultValue),
    Directives: list(node.directives, directive),
    Used: false,
  });
}

function selections(node: SelectionSetNode | undefined): RegoArray {
  return list(node?.selections, selection);
}

function selection(node: SelectionNode): Value {
  switch (node.kind) {
    case Kind.FIELD:
      return record({
        Alias: node.alias === undefined ? node.name.value : node.alias.value,
        Name: node.name.value,
        Arguments: list(node.arguments, argument),
        Directives: list(node.directives, directive),
        SelectionSet: selections(node.selectionSet),
      });
    case Kind.FRAGMENT_SPREAD:
      return record({ Name: node.name.value, Directives: list(node.directives, directive) });
    case Kind.INLINE_FRAGMENT:
      return record({
        TypeCondition: text(node.typeCondition?.name),
        Directives: list(node.directives, directive),
        SelectionSet: selections(node.selectionSet),
      });
  }
}

function argument(node: ArgumentNode): Value {
  return record({ Name: node.name.value, Value: value(node.value) });
}

/** `Location` too is found by validation only. */
function directive(node: DirectiveNode): Value {
  return record({ Name: node.name.value, Arguments: list(node.arguments, argument), Location: "" });
}

function value(node: ValueNode): Value {
  return record({ Raw: rawText(node), Children: children(node), Kind: valueKind(node), ExpectedTypeHasDefault: false });
}

function valueKind(node: ValueNode): number {
  return VALUE_KINDS.indexOf(node.kind === Kind.STRING && node.block === true ? "block" : node.kind);
}

function rawText(node: ValueNode): string {
  switch (node.kind) {
    case Kind.VARIABLE:
      return node.name.value;
    case Kind.BOOLEAN:
      return String(node.value);
    case Kind.NULL:
      return "null";
    case Kind.LIST:
    case Kind.OBJECT:
      return "";
    default:
      return node.value;
  }
}

function children(node: ValueNode): RegoArray {
  if (node.kind === Kind.LIST) return node.values.map((item) => record({ Name: "", Value: value(item) }));
  if (node.kind === Kind.OBJECT) return node.fields.map((field) => record({ Name: field.name.value, Value: value(field.value) }));
  return [];
}

function type(node: TypeNode, nonNull = false): Value {
  if (node.kind === Kind.NON_NULL_TYPE) return type(node.type, true);
  if (node.kind === Kind.LIST_TYPE) return record({ NamedType: "", Elem: type(node.type), NonNull: nonNull });
  return record({ NamedType: node.name.value, NonNull: nonNull });
}

function schemaDefinition(node: SchemaDefinitionNode | SchemaExtensionNode, description: StringValueNode | undefined): Value {
  return record({
    Description: text(description),
    Directives: list(node.directives, directive),
    OperationTypes: list(node.operationTypes, operationType),
  });
}

function operationType(node: OperationTypeDefinitionNode): Value {
  return record({ Operation: node.operation, Type: node.type.name.value });
}

function directiveDefinition(node: DirectiveDefinitionNode): Value {
  return record({
    Description: text(node.description),
    Name: node.name.value,
    Arguments: list(node.arguments, inputValue),
    Locations: node.locations.map(({ value: location }) => location),
    IsRepeatable: node.repeatable,
  });
}

function definition(node: TypeDefinitionNode | TypeExtensionNode, description: StringValueNode | undefined): Value {
  return record({
    Kind: DEFINITION_KINDS[node.kind],
    Description: text(description),
    Name: node.name.value,
    Directives: list(node.directives, directive),
    Interfaces: "interfaces" in node ? typeNames(node.interfaces) : undefined,
    Fields: "fields" in node ? list<FieldDefinitionNode | InputValueDefinitionNode>(node.fields, field) : undefined,
    Types: "types" in node ? typeNames(node.types) : undefined,
    EnumValues: "values" in node ? list(node.values, enumValue) : undefined,
    BuiltIn: false,
  });
}

function field(node: FieldDefinitionNode | InputValueDefinitionNode): Value {
  if (node.kind === Kind.INPUT_VALUE_DEFINITION) return inputValue(node);
  return record({
    Description: text(node.description),
    Name: node.name.value,
    Arguments: list(node.arguments, inputValue),
    Type: type(node.type),
    Directives: list(node.directives, directive),
  });
}

function inputValue(node: InputValueDefinitionNode): Value {
  return record({
    Description: text(node.description),
    Name: node.name.value,
    DefaultValue: node.defaultValue === undefined ? undefined : value(node.defaultValue),
    Type: type(node.type),
    Directives: list(node.directives, directive),
  });
}

function enumValue(node: EnumValueDefinitionNode): Value {
  return record({ Description: text(node.description), Name: node.name.value, Directives: list(node.directives, directive) });
}
