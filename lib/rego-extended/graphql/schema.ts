import type { BuiltinContext } from "@sealpod/rego";
import type {
  ConstDirectiveNode,
  DirectiveDefinitionNode,
  DirectiveLocation,
  DocumentNode,
  FieldDefinitionNode,
  GraphQLSchema,
  InputValueDefinitionNode,
  NamedTypeNode,
  NameNode,
  SchemaDefinitionNode,
  SchemaExtensionNode,
  TypeDefinitionNode,
  TypeExtensionNode,
  TypeNode,
} from "graphql";
import { buildASTSchema, GraphQLError, introspectionTypes, isEnumType, Kind, parse, print, specifiedScalarTypes } from "graphql";
import type { GraphqlDocument, SchemaDefinition } from "./document.ts";
import { errorOf } from "./document.ts";
import type { DefinitionKind } from "./kinds.ts";
import { DEFINITION_KINDS } from "./kinds.ts";

/** A schema that holds together, ready to check queries against. */
export interface CheckedSchema {
  readonly schema: GraphQLSchema;
  /** Length of the longest list that a check of a query may walk for one of its tokens: directives, possible types, arguments, fields of an input. */
  readonly breadth: number;
}

/** The directives that need no declaration; a schema that declares one of them keeps this one. */
const PRELUDE = `
directive @include(if: Boolean!) on FIELD | FRAGMENT_SPREAD | INLINE_FRAGMENT
directive @skip(if: Boolean!) on FIELD | FRAGMENT_SPREAD | INLINE_FRAGMENT
directive @deprecated(reason: String = "No longer supported") on FIELD_DEFINITION | ARGUMENT_DEFINITION | INPUT_FIELD_DEFINITION | ENUM_VALUE
directive @specifiedBy(url: String!) on SCALAR
directive @defer(if: Boolean = true, label: String) on FRAGMENT_SPREAD | INLINE_FRAGMENT
directive @oneOf on INPUT_OBJECT
`;

/** Units of work for one token while a schema is checked and built. */
const WORK_PER_TOKEN = 16;

/**
 * Checks that a schema holds together, as gqlparser does: extensions are merged first and may stand without what they
 * extend, and no query type is needed. graphql-js, which is stricter, only builds what has passed.
 * @throws {BuiltinError} for a schema that does not; {RegoError} for a limit
 */
export function checkSchema(document: GraphqlDocument<SchemaDefinition>, context: BuiltinContext): CheckedSchema {
  context.work(256 + document.size * WORK_PER_TOKEN);
  const checker = new SchemaChecker(document.definitions, context);
  checker.check();
  return { schema: build(checker.document()), breadth: checker.breadth };
}

function build(document: DocumentNode): GraphQLSchema {
  try {
    return buildASTSchema(document, { assumeValid: true, assumeValidSDL: true });
  } catch (error) {
    // What the checks above let through and graphql-js reads while it builds: arguments of @deprecated and @specifiedBy.
    if (error instanceof GraphQLError) throw errorOf(error.message, error.nodes?.[0]);
    throw error;
  }
}

/** A type with its extensions, in lookup tables. */
interface TypeInfo {
  readonly name: string;
  readonly kind: DefinitionKind;
  readonly node: TypeDefinitionNode;
  readonly interfaces: readonly NamedTypeNode[];
  readonly fields: readonly (FieldDefinitionNode | InputValueDefinitionNode)[];
  readonly fieldsByName: ReadonlyMap<string, FieldDefinitionNode | InputValueDefinitionNode>;
  readonly members: readonly NamedTypeNode[];
}

/** Types that need no declaration. */
const BUILTIN_KINDS: ReadonlyMap<string, DefinitionKind> = new Map([
  ...specifiedScalarTypes.map(({ name }) => [name, "SCALAR"] as const),
  ...introspectionTypes.map((type) => [type.name, isEnumType(type) ? "ENUM" : "OBJECT"] as const),
]);

const OUTPUT_KINDS: readonly DefinitionKind[] = ["SCALAR", "OBJECT", "INTERFACE", "UNION", "ENUM"];
const INPUT_KINDS: readonly DefinitionKind[] = ["SCALAR", "ENUM", "INPUT_OBJECT"];
const ROOT_TYPES = ["Query", "Mutation", "Subscription"] as const;

class SchemaChecker {
  readonly #context: BuiltinContext;
  readonly #types: ReadonlyMap<string, TypeInfo>;
  readonly #directives = new Map<string, DirectiveDefinitionNode>();
  readonly #schemas: SchemaDefinitionNode[] = [];
  readonly #schemaExtensions: SchemaExtensionNode[] = [];
  /** Names of the types that an abstract type may stand for. */
  readonly #possible = new Map<string, Set<string>>();
  breadth = 0;

  constructor(definitions: readonly SchemaDefinition[], context: BuiltinContext) {
    this.#context = context;
    const types = new Map<string, TypeDefinitionNode>();
    const extensions: TypeExtensionNode[] = [];
    for (const node of parse(PRELUDE, { noLocation: true }).definitions) {
      if (node.kind === Kind.DIRECTIVE_DEFINITION) this.#directives.set(node.name.value, node);
    }
    const prelude = new Set(this.#directives.keys());
    for (const node of definitions) {
      switch (node.kind) {
        case Kind.SCHEMA_DEFINITION:
          this.#schemas.push(node);
          break;
        case Kind.SCHEMA_EXTENSION:
          this.#schemaExtensions.push(node);
          break;
        case Kind.DIRECTIVE_DEFINITION:
          if (prelude.has(node.name.value)) break;
          if (this.#directives.has(node.name.value)) throw errorOf(`Cannot redeclare directive ${node.name.value}.`, node.name);
          this.#directives.set(node.name.value, node);
          break;
        case Kind.DIRECTIVE_EXTENSION:
          break; // An option of the parser that is not set.
        case Kind.SCALAR_TYPE_DEFINITION:
        case Kind.OBJECT_TYPE_DEFINITION:
        case Kind.INTERFACE_TYPE_DEFINITION:
        case Kind.UNION_TYPE_DEFINITION:
        case Kind.ENUM_TYPE_DEFINITION:
        case Kind.INPUT_OBJECT_TYPE_DEFINITION:
          if (types.has(node.name.value) || BUILTIN_KINDS.has(node.name.value)) throw errorOf(`Cannot redeclare type ${node.name.value}.`, node.name);
          types.set(node.name.value, node);
          break;
        default:
          extensions.push(node);
      }
    }
    this.#types = mergeExtensions(types, extensions);
    for (const type of this.#types.values()) this.#collectPossible(type);
    this.breadth = Math.max(this.breadth, this.#directives.size);
  }

  /** The document of the merged definitions. */
  document(): DocumentNode {
    const types = [...this.#types.values()].map(({ node }) => node);
    return { kind: Kind.DOCUMENT, definitions: [...this.#directives.values(), ...this.#schemas, ...this.#schemaExtensions, ...types] };
  }

  /** Everything that gqlparser checks, in its order: types and directives by name. @throws {BuiltinError} for the first that fails */
  check(): void {
    if (this.#schemas.length > 1) {
      throw errorOf("Cannot have multiple schema entry points, consider schema extensions instead.", this.#schemas[1]);
    }
    for (const schema of [...this.#schemas, ...this.#schemaExtensions]) {
      this.#checkDirectives(schema.directives, "SCHEMA");
      for (const { operation, type } of schema.operationTypes ?? []) {
        const root = this.#types.get(type.name.value);
        if (root === undefined) throw errorOf(`Schema root ${operation} refers to a type ${type.name.value} that does not exist.`, type);
        this.#requireObject(root, operation, type);
      }
    }
    for (const type of byName(this.#types)) this.#checkType(type);
    for (const directive of byName(this.#directives)) {
      checkName(directive.name);
      this.#checkArguments(directive.arguments, directive.name.value);
    }
    if (this.#schemas.length > 0) return;
    for (const name of ROOT_TYPES) {
      const root = this.#types.get(name);
      if (root !== undefined) this.#requireObject(root, name.toLowerCase(), root.node.name);
    }
  }

  /** Queries are checked by graphql-js, and that takes only objects as roots. */
  #requireObject(root: TypeInfo, operation: string, at: NamedTypeNode | NameNode): void {
    if (root.kind !== "OBJECT") throw errorOf(`Schema root ${operation} must be an OBJECT, ${root.name} is ${root.kind}.`, at);
  }

  #collectPossible(type: TypeInfo): void {
    if (type.kind === "UNION") for (const { name } of type.members) this.#addPossible(type.name, name.value);
    else for (const { name } of type.interfaces) this.#addPossible(name.value, type.name);
    this.breadth = Math.max(this.breadth, type.fields.length);
  }

  #addPossible(abstract: string, concrete: string): void {
    const names = this.#possible.get(abstract) ?? new Set();
    this.#possible.set(abstract, names.add(concrete));
    this.breadth = Math.max(this.breadth, names.size);
  }

  #checkType(type: TypeInfo): void {
    const { name, kind, node } = type;
    for (const field of type.fields) {
      checkName(field.name);
      this.#checkTypeExists(field.type);
      if (field.kind === Kind.FIELD_DEFINITION) this.#checkArguments(field.arguments, undefined);
      this.#checkDirectives(field.directives, kind === "INPUT_OBJECT" ? "INPUT_FIELD_DEFINITION" : "FIELD_DEFINITION");
    }
    for (const member of type.members) {
      const found = this.#typeOf(member);
      if (found.kind !== "OBJECT") throw errorOf(`${kind} type ${JSON.stringify(found.name)} must be OBJECT.`, node);
    }
    for (const implemented of type.interfaces) this.#checkImplements(type, implemented);
    this.#checkKind(type);
    const seen = new Set<string>();
    for (const field of type.fields) {
      if (seen.has(field.name.value)) throw errorOf(`Field ${name}.${field.name.value} can only be defined once.`, field.name);
      seen.add(field.name.value);
    }
    checkName(node.name);
    this.#checkDirectives(node.directives, kind);
  }

  #checkKind({ name, kind, node, fields }: TypeInfo): void {
    if (node.kind === Kind.ENUM_TYPE_DEFINITION) {
      if ((node.values ?? []).length === 0) throw errorOf(`${kind} ${name}: must define one or more unique enum values.`, node);
      for (const value of node.values ?? []) {
        if (["true", "false", "null"].includes(value.name.value)) throw errorOf(`${kind} ${name}: non-enum value ${value.name.value}.`, value.name);
        this.#checkDirectives(value.directives, "ENUM_VALUE");
      }
    } else if (kind === "OBJECT" || kind === "INTERFACE" || kind === "INPUT_OBJECT") {
      const [allowed, what] = kind === "INPUT_OBJECT" ? [INPUT_KINDS, "input fields"] : [OUTPUT_KINDS, "fields"];
      if (fields.length === 0) throw errorOf(`${kind} ${name}: must define one or more ${what}.`, node);
      for (const field of fields) {
        const found = this.#kindOf(innermost(field.type));
        if (found !== undefined && !allowed.includes(found)) throw errorOf(`${found} field must be one of ${kindList(allowed)}.`, field.name);
      }
    }
  }

  #checkImplements(type: TypeInfo, implemented: NamedTypeNode): void {
    const required = this.#typeOf(implemented);
    const prefix = `For ${type.name} to implement ${required.name}`;
    if (required.kind !== "INTERFACE") throw errorOf(`${JSON.stringify(required.name)} is a non interface type ${required.kind}.`, type.node);
    this.#context.work(required.fields.length + required.interfaces.length);
    for (const field of required.fields) {
      const found = type.fieldsByName.get(field.name.value);
      if (found === undefined) throw errorOf(`${prefix} it must have a field called ${field.name.value}.`, type.node);
      if (!this.#isCovariant(field.type, found.type)) throw errorOf(`${prefix} the field ${field.name.value} must have type ${print(field.type)}.`, found);
      this.#checkSameArguments(prefix, argumentsOf(field), found);
    }
    const declared = new Set(type.interfaces.map((other) => other.name.value));
    this.#context.work(declared.size);
    for (const { name: transitive } of required.interfaces) {
      if (transitive.value === type.name) {
        throw errorOf(`Type ${type.name} cannot implement ${required.name} because it would create a circular reference.`, type.node);
      }
      if (!declared.has(transitive.value)) {
        throw errorOf(`Type ${type.name} must implement ${transitive.value} because it is implemented by ${required.name}.`, type.node);
      }
    }
  }

  #checkSameArguments(prefix: string, required: readonly InputValueDefinitionNode[], found: FieldDefinitionNode | InputValueDefinitionNode): void {
    const given = new Map(argumentsOf(found).map((argument) => [argument.name.value, argument]));
    this.#context.work(8 * required.length + given.size);
    for (const argument of required) {
      const other = given.get(argument.name.value);
      const same = `${prefix} the field ${found.name.value} must have the same arguments but`;
      if (other === undefined) throw errorOf(`${same} it is missing ${argument.name.value}.`, found);
      if (print(argument.type) !== print(other.type)) throw errorOf(`${same} ${argument.name.value} has the wrong type.`, found);
      given.delete(argument.name.value);
    }
    for (const [name, argument] of given) {
      if (argument.type.kind !== Kind.NON_NULL_TYPE || argument.defaultValue !== undefined) continue;
      throw errorOf(`${prefix} any additional arguments on ${found.name.value} must be optional or have a default value but ${name} is required.`, found);
    }
  }

  #isCovariant(required: TypeNode, actual: TypeNode): boolean {
    if (required.kind === Kind.NON_NULL_TYPE) return actual.kind === Kind.NON_NULL_TYPE && this.#isCovariant(required.type, actual.type);
    if (actual.kind === Kind.NON_NULL_TYPE) return this.#isCovariant(required, actual.type);
    if (required.kind === Kind.LIST_TYPE) return actual.kind === Kind.LIST_TYPE && this.#isCovariant(required.type, actual.type);
    if (actual.kind === Kind.LIST_TYPE) return false;
    const name = required.name.value;
    return name === actual.name.value || this.#possible.get(name)?.has(actual.name.value) === true;
  }

  #checkArguments(definitions: readonly InputValueDefinitionNode[] | undefined, inDirective: string | undefined): void {
    this.breadth = Math.max(this.breadth, definitions?.length ?? 0);
    for (const { name, type, directives } of definitions ?? []) {
      checkName(name);
      const kind = this.#checkTypeExists(type);
      if (!INPUT_KINDS.includes(kind)) {
        throw errorOf(`cannot use ${print(type)} as argument ${name.value} because ${kind} is not a valid input type`, name);
      }
      this.#checkDirectives(directives, "ARGUMENT_DEFINITION", inDirective);
    }
  }

  #checkDirectives(directives: readonly ConstDirectiveNode[] | undefined, location: keyof typeof DirectiveLocation, inDirective?: string): void {
    for (const directive of directives ?? []) {
      const name = directive.name.value;
      checkName(directive.name);
      if (name === inDirective) throw errorOf(`Directive ${name} cannot refer to itself.`, directive);
      const definition = this.#directives.get(name);
      if (definition === undefined) throw errorOf(`Undefined directive ${name}.`, directive);
      if (!definition.locations.some(({ value }) => value === location)) throw errorOf(`Directive ${name} is not applicable on ${location}.`, directive);
      const given = new Map((directive.arguments ?? []).map((argument) => [argument.name.value, argument.value]));
      const declared = definition.arguments ?? [];
      this.#context.work(1 + definition.locations.length + declared.length);
      const required = new Set(declared.map((argument) => argument.name.value));
      for (const argument of given.keys()) if (!required.has(argument)) throw errorOf(`Undefined argument ${argument} for directive ${name}.`, directive);
      for (const { name: argument, type, defaultValue } of declared) {
        if (type.kind !== Kind.NON_NULL_TYPE || defaultValue !== undefined) continue;
        const value = given.get(argument.value);
        if (value === undefined || value.kind === Kind.NULL) throw errorOf(`Argument ${argument.value} for directive ${name} cannot be null.`, directive);
      }
    }
  }

  #checkTypeExists(type: TypeNode): DefinitionKind {
    const named = innermost(type);
    const kind = this.#kindOf(named);
    if (kind === undefined) throw errorOf(`Undefined type ${named.name.value}.`, named);
    return kind;
  }

  #typeOf(node: NamedTypeNode): TypeInfo {
    const type = this.#types.get(node.name.value);
    if (type === undefined) throw errorOf(`Undefined type ${JSON.stringify(node.name.value)}.`, node);
    return type;
  }

  #kindOf(node: NamedTypeNode): DefinitionKind | undefined {
    return BUILTIN_KINDS.get(node.name.value) ?? this.#types.get(node.name.value)?.kind;
  }
}

function mergeExtensions(types: ReadonlyMap<string, TypeDefinitionNode>, extensions: readonly TypeExtensionNode[]): ReadonlyMap<string, TypeInfo> {
  const parts = new Map<string, (TypeDefinitionNode | TypeExtensionNode)[]>();
  for (const [name, node] of types) parts.set(name, [node]);
  for (const extension of extensions) {
    const name = extension.name.value;
    const base = parts.get(name) ?? [];
    const extended = DEFINITION_KINDS[extension.kind];
    const kind = BUILTIN_KINDS.get(name) ?? DEFINITION_KINDS[(base[0] ?? extension).kind];
    if (kind !== extended) throw errorOf(`Cannot extend type ${name} because the base type is a ${kind}, not ${extended}.`, extension.name);
    base.push(extension);
    parts.set(name, base);
  }
  return new Map([...parts].map(([name, nodes]) => [name, mergeParts(name, nodes)]));
}

const DEFINITION_OF_KIND = {
  SCALAR: Kind.SCALAR_TYPE_DEFINITION,
  OBJECT: Kind.OBJECT_TYPE_DEFINITION,
  INTERFACE: Kind.INTERFACE_TYPE_DEFINITION,
  UNION: Kind.UNION_TYPE_DEFINITION,
  ENUM: Kind.ENUM_TYPE_DEFINITION,
  INPUT_OBJECT: Kind.INPUT_OBJECT_TYPE_DEFINITION,
} as const;

function mergeParts(name: string, nodes: readonly (TypeDefinitionNode | TypeExtensionNode)[]): TypeInfo {
  const kind = DEFINITION_KINDS[nodes[0]!.kind];
  const interfaces = nodes.flatMap((node) => ("interfaces" in node ? (node.interfaces ?? []) : []));
  const fields = nodes.flatMap((node): readonly (FieldDefinitionNode | InputValueDefinitionNode)[] => ("fields" in node ? (node.fields ?? []) : []));
  const members = nodes.flatMap((node) => ("types" in node ? (node.types ?? []) : []));
  const values = nodes.flatMap((node) => ("values" in node ? (node.values ?? []) : []));
  const directives = nodes.flatMap((node) => node.directives ?? []);
  // Each kind reads its own lists and takes no notice of the others, which are empty.
  const node = { ...nodes[0]!, kind: DEFINITION_OF_KIND[kind], interfaces, fields, types: members, values, directives } as TypeDefinitionNode;
  return { name, kind, node, interfaces, fields, fieldsByName: new Map(fields.map((field) => [field.name.value, field])), members };
}

function argumentsOf(field: FieldDefinitionNode | InputValueDefinitionNode): readonly InputValueDefinitionNode[] {
  return field.kind === Kind.FIELD_DEFINITION ? (field.arguments ?? []) : [];
}

function innermost(type: TypeNode): NamedTypeNode {
  return type.kind === Kind.NAMED_TYPE ? type : innermost(type.type);
}

function checkName(node: NameNode): void {
  if (node.value.startsWith("__")) throw errorOf(`Name "${node.value}" must not begin with "__", which is reserved by GraphQL introspection.`, node);
}

function byName<Item>(items: ReadonlyMap<string, Item>): readonly Item[] {
  return [...items].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, item]) => item);
}

function kindList(kinds: readonly DefinitionKind[]): string {
  return kinds.join(", ");
}
