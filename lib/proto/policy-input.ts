import type { DescField, DescMessage, DescOneof, Message } from "@bufbuild/protobuf";
import { reflect, type ReflectMessage } from "@bufbuild/protobuf/reflect";
import type { JsonObject, JsonValue } from "@sealpod/core";
import { ProtoError } from "./errors.ts";

/**
 * The JSON value of a request that policies are evaluated on (specs/runtime.md 3.5). It is not protobuf's own JSON mapping: existing
 * policies were written against the names and shapes that the first agent's serializer happened to give.
 *
 * Names are those of the .proto file; every field is present; an unset message or `optional` field is null; enums are integers; bytes are
 * arrays of integers; 64-bit integers are `number` where that is exact, else `bigint`; maps and messages have no prototype.
 *
 * @throws {ProtoError} ERR_PROTO_TYPE if `message` is not of type `schema`
 */
export function policyInput(schema: DescMessage, message: Message): JsonObject {
  if (message.$typeName !== schema.typeName) {
    throw new ProtoError("ERR_PROTO_TYPE", `policy input: found a ${message.$typeName}, expected a ${schema.typeName}`, {
      details: { found: message.$typeName, expected: schema.typeName },
    });
  }
  return messageValue(reflect(schema, message));
}

function messageValue(message: ReflectMessage): JsonObject {
  const object = emptyObject();
  for (const member of message.members) object[memberName(member)] = member.kind === "oneof" ? oneofValue(message, member) : fieldValue(message, member);
  return object;
}

// Rule 2: the serializer's language reserves `type`. It is the only one of its reserved words that the API uses as a field name (tested).
function memberName(member: DescField | DescOneof): string {
  return member.name === "type" ? "type_" : member.name;
}

// Rule 6: an externally tagged variant, its name in CamelCase.
function oneofValue(message: ReflectMessage, oneof: DescOneof): JsonValue {
  const field = message.oneofCase(oneof);
  if (field === undefined) return null;
  const object = emptyObject();
  object[camelCase(field.name)] = fieldValue(message, field);
  return object;
}

function fieldValue(message: ReflectMessage, field: DescField): JsonValue {
  switch (field.fieldKind) {
    case "scalar":
    case "enum":
      // Rule 5: only `optional` fields can be unset; the others have their zero value (rule 3).
      return isOptional(field) && !message.isSet(field) ? null : scalarValue(message.get(field));
    case "message":
      return message.isSet(field) ? messageValue(message.get(field)) : null;
    case "list":
      return Array.from(message.get(field), itemValue);
    case "map": {
      const object = emptyObject();
      for (const [key, value] of message.get(field)) object[String(key)] = itemValue(value);
      return object;
    }
  }
}

function isOptional(field: DescField): boolean {
  return field.proto.proto3Optional;
}

function itemValue(value: unknown): JsonValue {
  return isReflectMessage(value) ? messageValue(value) : scalarValue(value as Scalar);
}

type Scalar = string | boolean | number | bigint | Uint8Array;

function scalarValue(value: Scalar): JsonValue {
  if (value instanceof Uint8Array) return Array.from(value);
  if (typeof value === "bigint" && value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  return value;
}

function isReflectMessage(value: unknown): value is ReflectMessage {
  return typeof value === "object" && value !== null && "members" in value;
}

function camelCase(name: string): string {
  return name.replaceAll(/(?:^|_)([a-z0-9])/g, (_match, letter: string) => letter.toUpperCase());
}

// Without a prototype an annotation named __proto__ is a name like any other.
function emptyObject(): Record<string, JsonValue> {
  return Object.create(null) as Record<string, JsonValue>;
}
