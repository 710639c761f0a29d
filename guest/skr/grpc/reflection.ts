import { concatBytes, encodeUtf8 } from "@sealpod/core";
import type { GrpcMethod } from "./server.ts";
import { STATUS } from "./status.ts";
import { encodeField, encodeNumberField, parseFields, textField } from "./wire.ts";

/** A message with one field, number 1. */
export interface MessageShape {
  readonly name: string;
  readonly field: string;
  readonly type: "string" | "bytes";
}

/** A unary method. */
export interface MethodShape {
  readonly name: string;
  readonly input: MessageShape;
  readonly output: MessageShape;
}

/** A service and the file that defines it. */
export interface ServiceShape {
  readonly file: string;
  readonly package: string;
  readonly name: string;
  readonly methods: readonly MethodShape[];
}

/** Paths of the reflection service. Tools such as grpcurl ask the first and then the older second. */
const PATHS = ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"] as const;

/** Server reflection (grpc/doc/server-reflection.md) for one service, so that tools can call it without its file. */
export function reflectionMethods(service: ServiceShape): ReadonlyMap<string, GrpcMethod> {
  const method: GrpcMethod = { kind: "stream", answer: async (message) => Promise.resolve(reflect(service, message)) };
  return new Map(PATHS.map((path) => [path, method]));
}

function reflect(service: ServiceShape, request: Uint8Array): Uint8Array {
  const fields = parseFields(request);
  const about = (answer: Uint8Array): Uint8Array => concatBytes(encodeField(1, fields.get(1) ?? new Uint8Array()), encodeField(2, request), answer);
  const failed = (code: number, problem: string): Uint8Array =>
    about(encodeField(7, concatBytes(encodeNumberField(1, code), encodeField(2, encodeUtf8(problem)))));
  const file = (known: boolean): Uint8Array =>
    known ? about(encodeField(4, encodeField(1, encodeFile(service)))) : failed(STATUS.notFound, "there is no such file or symbol");
  if (fields.has(3)) return file(textField(fields, 3) === service.file);
  if (fields.has(4)) return file(symbolsOf(service).has(textField(fields, 4)));
  if (fields.has(7)) return about(encodeField(6, encodeField(1, encodeField(1, encodeUtf8(`${service.package}.${service.name}`)))));
  // Extensions: proto3 has none.
  return failed(STATUS.notFound, "there are no extensions");
}

function symbolsOf(service: ServiceShape): ReadonlySet<string> {
  const name = `${service.package}.${service.name}`;
  return new Set([
    name,
    ...service.methods.flatMap((method) => [`${name}.${method.name}`, `${service.package}.${method.input.name}`, `${service.package}.${method.output.name}`]),
  ]);
}

/** A `FileDescriptorProto` (google/protobuf/descriptor.proto). */
export function encodeFile(service: ServiceShape): Uint8Array {
  const messages = new Map(service.methods.flatMap(({ input, output }) => [input, output]).map((message) => [message.name, message]));
  const text = (number: number, value: string): Uint8Array => encodeField(number, encodeUtf8(value));
  const LABEL_OPTIONAL = 1;
  const TYPE = { string: 9, bytes: 12 } as const;
  return concatBytes(
    text(1, service.file),
    text(2, service.package),
    ...[...messages.values()].map(({ name, field, type }) =>
      encodeField(
        4,
        concatBytes(
          text(1, name),
          encodeField(2, concatBytes(text(1, field), encodeNumberField(3, 1), encodeNumberField(4, LABEL_OPTIONAL), encodeNumberField(5, TYPE[type]))),
        ),
      ),
    ),
    encodeField(
      6,
      concatBytes(
        text(1, service.name),
        ...service.methods.map(({ name, input, output }) =>
          encodeField(2, concatBytes(text(1, name), text(2, `.${service.package}.${input.name}`), text(3, `.${service.package}.${output.name}`))),
        ),
      ),
    ),
    text(12, "proto3"),
  );
}
