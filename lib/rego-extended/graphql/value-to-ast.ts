import type { BuiltinContext, RegoArray, Value } from "@sealpod/rego";
import { builtinError, isArray, RegoObject, typeName } from "@sealpod/rego";
import type {
  ArgumentNode,
  ConstDirectiveNode,
  ConstValueNode,
  DirectiveNode,
  EnumValueDefinitionNode,
  FieldDefinitionNode,
  FragmentDefinitionNode,
  InputValueDefinitionNode,
  NamedTypeNode,
  NameNode,
  OperationDefinitionNode,
  OperationTypeDefinitionNode,
  SelectionNode,
  SelectionSetNode,
  StringValueNode,
  TypeDefinitionNode,
  TypeExtensionNode,
  TypeNode,
  ValueNode,
  VariableDefinitionNode,
} from "graphql";
import { DirectiveLocation, Kind, OperationTypeNode } from "graphql";
import type { GraphqlDocument, QueryDefinition, SchemaDefinition } from "./document.ts";
import { chargeToken, nestingError } from "./document.ts";
import type { DefinitionKind } from "./kinds.ts";
import { VALUE_KINDS } from "./kinds.ts";

/**
 * Reads a query from an AST object, as `graphql.parse_query` returns it. Members that the AST does not know are ignored,
 * missing ones are empty.
 * @throws {BuiltinError} for what is no AST; {RegoError} for one past the limits
 */
export function readQuery(object: RegoObject, context: BuiltinContext): GraphqlDocument<QueryDefinition> {
  const reader = new AstReader(context);
  const definitions = [...reader.list(object, "Operations", reader.operation), ...reader.list(object, "Fragments", reader.fragment)];
  return { definitions, size: reader.size };
}

/** Reads a schema from an AST object, as `graphql.parse_schema` returns it; see {@link readQuery}. */
export function readSchema(object: RegoObject, context: BuiltinContext): GraphqlDocument<SchemaDefinition> {
  const reader = new AstReader(context);
  const definitions: SchemaDefinition[] = [
    ...reader.list(object, "Schema", reader.schema),
    ...reader.list(object, "SchemaExtension", (node) => {
      const { operationTypes, directives } = reader.schema(node);
      return { kind: Kind.SCHEMA_EXTENSION, operationTypes, directives } as const;
    }),
    ...reader.list(object, "Directives", reader.directiveDefinition),
    ...reader.list(object, "Definitions", reader.definition),
    ...reader.list(object, "Extensions", reader.extension),
  ];
  return { definitions, size: reader.size };
}

const NAME = /^[A-Z_a-z][\w]*$/;
const INT = /^-?(?:0|[1-9]\d*)$/;
const FLOAT = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[Ee][+-]?\d+)?$/;

const OPERATIONS: readonly string[] = Object.values(OperationTypeNode);
const LOCATIONS: readonly string[] = Object.values(DirectiveLocation);

/** Depth-first, with its own count of what it made: shared parts of a value are read, and charged, each time they occur. */
class AstReader {
  size = 0;
  readonly #context: BuiltinContext;
  #depth = 0;

  constructor(context: BuiltinContext) {
    this.#context = context;
  }

  readonly operation = (object: RegoObject): OperationDefinitionNode => {
    const name = text(object, "Name");
    return {
      kind: Kind.OPERATION_DEFINITION,
      operation: operationType(object),
      name: name === "" ? undefined : nameNode(name, "Name"),
      variableDefinitions: this.list(object, "VariableDefinitions", this.variableDefinition),
      directives: this.directives(object),
      selectionSet: this.#selectionSet(object),
    };
  };

  readonly fragment = (object: RegoObject): FragmentDefinitionNode => ({
    kind: Kind.FRAGMENT_DEFINITION,
    name: named(object, "Name"),
    variableDefinitions: this.list(object, "VariableDefinition", this.variableDefinition),
    typeCondition: namedType(text(object, "TypeCondition"), "TypeCondition"),
    directives: this.directives(object),
    selectionSet: this.#selectionSet(object),
  });

  readonly variableDefinition = (object: RegoObject): VariableDefinitionNode => ({
    kind: Kind.VARIABLE_DEFINITION,
    variable: { kind: Kind.VARIABLE, name: named(object, "Variable") },
    type: this.#type(object),
    defaultValue: this.#constant(object, "DefaultValue"),
    directives: this.#constantDirectives(object),
  });

  #selectionSet(object: RegoObject): SelectionSetNode {
    return { kind: Kind.SELECTION_SET, selections: this.list(object, "SelectionSet", this.#selection) };
  }

  /**
   * The three kinds of selections carry no tag. A field has an alias (its own name if the text had none), an inline
   * fragment has no name; an object with a name alone is a spread, unless it has what only fields have.
   */
  readonly #selection = (object: RegoObject): SelectionNode => {
    const directives = this.directives(object);
    const isField = object.has("Alias") || (object.has("Name") && (object.has("SelectionSet") || object.has("Arguments")));
    if (isField) {
      const alias = text(object, "Alias");
      const name = named(object, "Name");
      const selectionSet = this.#selectionSet(object);
      return {
        kind: Kind.FIELD,
        alias: alias === "" || alias === name.value ? undefined : nameNode(alias, "Alias"),
        name,
        arguments: this.list(object, "Arguments", this.#argument),
        directives,
        selectionSet: selectionSet.selections.length === 0 ? undefined : selectionSet,
      };
    }
    if (object.has("Name")) return { kind: Kind.FRAGMENT_SPREAD, name: named(object, "Name"), directives };
    const condition = text(object, "TypeCondition");
    return {
      kind: Kind.INLINE_FRAGMENT,
      typeCondition: condition === "" ? undefined : namedType(condition, "TypeCondition"),
      directives,
      selectionSet: this.#selectionSet(object),
    };
  };

  directives(object: RegoObject): readonly DirectiveNode[] {
    return this.list(object, "Directives", (directive) => ({
      kind: Kind.DIRECTIVE,
      name: named(directive, "Name"),
      arguments: this.list(directive, "Arguments", this.#argument),
    }));
  }

  #constantDirectives(object: RegoObject): readonly ConstDirectiveNode[] {
    const directives = this.directives(object);
    for (const { arguments: given } of directives) for (const { value } of given ?? []) requireConstant(value);
    return directives as readonly ConstDirectiveNode[];
  }

  readonly #argument = (object: RegoObject): ArgumentNode => {
    const value = this.#value(object, "Value");
    if (value === undefined) throw builtinError('GraphQL AST: an argument has no "Value"');
    return { kind: Kind.ARGUMENT, name: named(object, "Name"), value };
  };

  #constant(object: RegoObject, key: string): ConstValueNode | undefined {
    const value = this.#value(object, key);
    if (value !== undefined) requireConstant(value);
    return value as ConstValueNode | undefined;
  }

  #value(object: RegoObject, key: string): ValueNode | undefined {
    const value = member(object, key);
    return value === undefined ? undefined : this.#enter(value, this.#valueNode);
  }

  readonly #valueNode = (object: RegoObject): ValueNode => {
    const number = object.get("Kind") ?? 0;
    const kind = typeof number === "number" ? VALUE_KINDS[number] : undefined;
    const raw = text(object, "Raw");
    switch (kind) {
      case Kind.VARIABLE:
        return { kind, name: nameNode(raw, "Raw") };
      case Kind.INT:
        return { kind, value: matching(raw, INT, "an integer") };
      case Kind.FLOAT:
        return { kind, value: matching(raw, FLOAT, "a number") };
      case Kind.STRING:
        return { kind, value: raw };
      case "block":
        return { kind: Kind.STRING, value: raw, block: true };
      case Kind.BOOLEAN:
        if (raw !== "true" && raw !== "false") throw builtinError('GraphQL AST: "Raw" of a boolean must be true or false');
        return { kind, value: raw === "true" };
      case Kind.NULL:
        return { kind };
      case Kind.ENUM:
        return { kind, value: nameNode(raw, "Raw").value };
      case Kind.LIST:
        return { kind, values: this.list(object, "Children", this.#childValue) };
      case Kind.OBJECT:
        return {
          kind,
          fields: this.list(object, "Children", (child) => ({ kind: Kind.OBJECT_FIELD, name: named(child, "Name"), value: this.#childValue(child) })),
        };
      default:
        throw builtinError(`GraphQL AST: "Kind" of a value must be an integer from 0 to ${VALUE_KINDS.length - 1}`);
    }
  };

  readonly #childValue = (object: RegoObject): ValueNode => {
    const value = this.#value(object, "Value");
    if (value === undefined) throw builtinError('GraphQL AST: a child of a value has no "Value"');
    return value;
  };

  #type(object: RegoObject): TypeNode {
    const value = member(object, "Type");
    if (value === undefined) throw builtinError('GraphQL AST: a definition has no "Type"');
    return this.#enter(value, this.#typeNode);
  }

  readonly #typeNode = (object: RegoObject): TypeNode => {
    const element = member(object, "Elem");
    const type =
      element === undefined
        ? namedType(text(object, "NamedType"), "NamedType")
        : ({ kind: Kind.LIST_TYPE, type: this.#enter(element, this.#typeNode) } as const);
    return flag(object, "NonNull") ? { kind: Kind.NON_NULL_TYPE, type } : type;
  };

  readonly schema = (object: RegoObject) => {
    return {
      kind: Kind.SCHEMA_DEFINITION,
      description: description(object),
      directives: this.#constantDirectives(object),
      operationTypes: this.list(object, "OperationTypes", (type): OperationTypeDefinitionNode => ({
        kind: Kind.OPERATION_TYPE_DEFINITION,
        operation: operationType(type),
        type: namedType(text(type, "Type"), "Type"),
      })),
    } as const;
  };

  readonly directiveDefinition = (object: RegoObject) => {
    return {
      kind: Kind.DIRECTIVE_DEFINITION,
      description: description(object),
      name: named(object, "Name"),
      arguments: this.list(object, "Arguments", this.#inputValue),
      repeatable: flag(object, "IsRepeatable"),
      locations: this.#texts(object, "Locations").map((location) => {
        if (!LOCATIONS.includes(location)) throw builtinError(`GraphQL AST: ${JSON.stringify(location)} is no location of directives`);
        return nameNode(location, "Locations");
      }),
    } as const;
  };

  readonly definition = (object: RegoObject): TypeDefinitionNode => {
    const common = { description: description(object), name: named(object, "Name"), directives: this.#constantDirectives(object) };
    switch (definitionKind(object)) {
      case "SCALAR":
        return { kind: Kind.SCALAR_TYPE_DEFINITION, ...common };
      case "OBJECT":
        return { kind: Kind.OBJECT_TYPE_DEFINITION, ...common, interfaces: this.#types(object, "Interfaces"), fields: this.#fields(object) };
      case "INTERFACE":
        return { kind: Kind.INTERFACE_TYPE_DEFINITION, ...common, interfaces: this.#types(object, "Interfaces"), fields: this.#fields(object) };
      case "UNION":
        return { kind: Kind.UNION_TYPE_DEFINITION, ...common, types: this.#types(object, "Types") };
      case "ENUM":
        return { kind: Kind.ENUM_TYPE_DEFINITION, ...common, values: this.list(object, "EnumValues", this.#enumValue) };
      case "INPUT_OBJECT":
        return { kind: Kind.INPUT_OBJECT_TYPE_DEFINITION, ...common, fields: this.list(object, "Fields", this.#inputValue) };
    }
  };

  readonly extension = (object: RegoObject): TypeExtensionNode => {
    const { kind, description: _, ...rest } = this.definition(object);
    return { ...rest, kind: EXTENSION_KINDS[kind] } as TypeExtensionNode;
  };

  #fields(object: RegoObject): readonly FieldDefinitionNode[] {
    return this.list(object, "Fields", (field) => ({
      kind: Kind.FIELD_DEFINITION,
      description: description(field),
      name: named(field, "Name"),
      arguments: this.list(field, "Arguments", this.#inputValue),
      type: this.#type(field),
      directives: this.#constantDirectives(field),
    }));
  }

  readonly #inputValue = (object: RegoObject): InputValueDefinitionNode => ({
    kind: Kind.INPUT_VALUE_DEFINITION,
    description: description(object),
    name: named(object, "Name"),
    type: this.#type(object),
    defaultValue: this.#constant(object, "DefaultValue"),
    directives: this.#constantDirectives(object),
  });

  readonly #enumValue = (object: RegoObject): EnumValueDefinitionNode => ({
    kind: Kind.ENUM_VALUE_DEFINITION,
    description: description(object),
    name: named(object, "Name"),
    directives: this.#constantDirectives(object),
  });

  #types(object: RegoObject, key: string): readonly NamedTypeNode[] {
    return this.#texts(object, key).map((name) => namedType(name, key));
  }

  #texts(object: RegoObject, key: string): readonly string[] {
    return array(object, key).map((item) => {
      this.#charge();
      if (typeof item !== "string") throw mismatch(`an item of ${JSON.stringify(key)}`, "a string", item);
      return item;
    });
  }

  /** The nodes of a list of objects. */
  list<Node>(object: RegoObject, key: string, read: (object: RegoObject) => Node): readonly Node[] {
    return array(object, key).map((item) => {
      if (!(item instanceof RegoObject)) throw mismatch(`an item of ${JSON.stringify(key)}`, "an object", item);
      return this.#enter(item, read);
    });
  }

  #enter<Node>(object: RegoObject, read: (object: RegoObject) => Node): Node {
    this.#charge();
    // A level of the language is up to three levels of its AST: selection, argument and value.
    if (this.#depth >= this.#context.maxNesting * 3) throw nestingError("a GraphQL AST", this.#context);
    this.#depth++;
    const node = read(object);
    this.#depth--;
    return node;
  }

  #charge(): void {
    chargeToken(this.#context);
    this.size++;
  }
}

const EXTENSION_KINDS: Readonly<Record<TypeDefinitionNode["kind"], TypeExtensionNode["kind"]>> = {
  [Kind.SCALAR_TYPE_DEFINITION]: Kind.SCALAR_TYPE_EXTENSION,
  [Kind.OBJECT_TYPE_DEFINITION]: Kind.OBJECT_TYPE_EXTENSION,
  [Kind.INTERFACE_TYPE_DEFINITION]: Kind.INTERFACE_TYPE_EXTENSION,
  [Kind.UNION_TYPE_DEFINITION]: Kind.UNION_TYPE_EXTENSION,
  [Kind.ENUM_TYPE_DEFINITION]: Kind.ENUM_TYPE_EXTENSION,
  [Kind.INPUT_OBJECT_TYPE_DEFINITION]: Kind.INPUT_OBJECT_TYPE_EXTENSION,
};

function definitionKind(object: RegoObject): DefinitionKind {
  const kind = text(object, "Kind");
  switch (kind) {
    case "SCALAR":
    case "OBJECT":
    case "INTERFACE":
    case "UNION":
    case "ENUM":
    case "INPUT_OBJECT":
      return kind;
    default:
      throw builtinError(`GraphQL AST: ${JSON.stringify(kind)} is no kind of a type`);
  }
}

function operationType(object: RegoObject): OperationTypeNode {
  const operation = text(object, "Operation");
  if (!OPERATIONS.includes(operation)) throw builtinError(`GraphQL AST: ${JSON.stringify(operation)} is no kind of an operation`);
  return operation as OperationTypeNode;
}

function description(object: RegoObject): StringValueNode | undefined {
  const value = text(object, "Description");
  return value === "" ? undefined : { kind: Kind.STRING, value };
}

/** The grammar keeps variables out of default values and of directives on definitions; objects must be checked. */
function requireConstant(value: ValueNode): void {
  if (value.kind === Kind.VARIABLE) throw builtinError("Unexpected $");
  if (value.kind === Kind.LIST) value.values.forEach(requireConstant);
  if (value.kind === Kind.OBJECT) for (const field of value.fields) requireConstant(field.value);
}

function named(object: RegoObject, key: string): NameNode {
  return nameNode(text(object, key), key);
}

function nameNode(value: string, key: string): NameNode {
  if (!NAME.test(value)) throw builtinError(`GraphQL AST: ${JSON.stringify(key)} must be a name`);
  return { kind: Kind.NAME, value };
}

function namedType(name: string, key: string): NamedTypeNode {
  return { kind: Kind.NAMED_TYPE, name: nameNode(name, key) };
}

function matching(raw: string, pattern: RegExp, what: string): string {
  if (!pattern.test(raw)) throw builtinError(`GraphQL AST: "Raw" must be ${what}`);
  return raw;
}

/** A member, with null as absent. */
function present(object: RegoObject, key: string): Value | undefined {
  return object.get(key) ?? undefined;
}

function text(object: RegoObject, key: string): string {
  const value = present(object, key) ?? "";
  if (typeof value !== "string") throw mismatch(JSON.stringify(key), "a string", value);
  return value;
}

function flag(object: RegoObject, key: string): boolean {
  const value = present(object, key) ?? false;
  if (typeof value !== "boolean") throw mismatch(JSON.stringify(key), "a boolean", value);
  return value;
}

function array(object: RegoObject, key: string): RegoArray {
  const value = present(object, key) ?? [];
  if (!isArray(value)) throw mismatch(JSON.stringify(key), "an array", value);
  return value;
}

function member(object: RegoObject, key: string): RegoObject | undefined {
  const value = present(object, key);
  if (value !== undefined && !(value instanceof RegoObject)) throw mismatch(JSON.stringify(key), "an object", value);
  return value;
}

function mismatch(what: string, expected: string, found: Value) {
  return builtinError(`GraphQL AST: ${what} must be ${expected} but got ${typeName(found)}`);
}
