import { create, fromBinary, toBinary, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { messageOf } from "@sealpod/core";
import { ProtoError } from "./errors.ts";

/** Deepest nesting of messages. Ours have fewer than ten levels. The decoder recurses, so hostile bytes must not choose the depth. */
export const MAX_MESSAGE_DEPTH = 32;

/**
 * Message of protocol buffer bytes. Unknown fields are dropped: the policy cannot see them, so nothing behind the policy may either.
 * @throws {ProtoError} ERR_PROTO_DECODE
 */
export function parseMessage<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  try {
    return fromBinary(schema, bytes, { readUnknownFields: false, recursionLimit: MAX_MESSAGE_DEPTH });
  } catch (cause) {
    throw new ProtoError("ERR_PROTO_DECODE", `${bytes.length} bytes are not a ${schema.typeName}: ${messageOf(cause)}`, {
      cause,
      details: { type: schema.typeName, length: bytes.length },
    });
  }
}

/**
 * Protocol buffer bytes of a message, or of the fields that make one.
 * @throws {ProtoError} ERR_PROTO_ENCODE if a value does not fit its field
 */
export function encodeMessage<D extends DescMessage>(schema: D, message: MessageInitShape<D>): Uint8Array {
  try {
    return toBinary(schema, create(schema, message));
  } catch (cause) {
    throw new ProtoError("ERR_PROTO_ENCODE", `cannot encode ${schema.typeName}: ${messageOf(cause)}`, { cause, details: { type: schema.typeName } });
  }
}
