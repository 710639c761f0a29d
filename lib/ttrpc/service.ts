import { STATUS } from "./status.ts";
import { statusError } from "./errors.ts";
import type { Metadata } from "./codec.ts";
import {
  encodeMessage,
  parseMessage,
  type DescMessage,
  type DescMethodUnary,
  type DescService,
  type Message,
  type MessageInitShape,
  type MessageShape,
} from "@sealpod/proto";

/** What a handler knows of its call besides the request. */
export interface CallContext {
  readonly service: string;
  readonly method: string;
  readonly metadata: Metadata;
  /** Aborts when the caller's time is over or the connection ends. Callers cannot cancel in any other way. */
  readonly signal: AbortSignal;
}

/** Answers one call. */
export type Handler<I extends DescMessage, O extends DescMessage> = (
  request: MessageShape<I>,
  context: CallContext,
) => MessageInitShape<O> | Promise<MessageInitShape<O>>;

/** Handlers of a service, by the method's name with a small first letter. */
export type Handlers<S extends DescService> = {
  readonly [K in keyof S["method"]]?: S["method"][K] extends {
    readonly methodKind: "unary";
    input: infer I extends DescMessage;
    output: infer O extends DescMessage;
  }
    ? Handler<I, O>
    : never;
};

/** Answers the methods that have no handler of their own. */
export type FallbackHandler = (method: DescMethodUnary, request: Message, context: CallContext) => Record<string, unknown> | Promise<Record<string, unknown>>;

/** A service as the server sees it. */
export interface TtrpcService {
  /** Full name on the wire. */
  readonly name: string;
  /** The encoded answer, or undefined if there is no such method. */
  invoke(method: string, payload: Uint8Array, context: CallContext): Promise<Uint8Array> | undefined;
}

/**
 * A service of handlers. Methods without a handler go to `fallback`; without one they are answered as unknown.
 * Streaming methods are not supported and answered as unknown.
 */
export function implement<S extends DescService>(service: S, handlers: Handlers<S>, fallback?: FallbackHandler): TtrpcService {
  type Invoke = (payload: Uint8Array, context: CallContext) => Promise<Uint8Array>;
  const methods = new Map<string, Invoke>();
  for (const method of service.methods) {
    if (method.methodKind !== "unary") continue;
    const unary = method as DescMethodUnary;
    const handler = (handlers as Readonly<Record<string, Handler<DescMessage, DescMessage> | undefined>>)[method.localName];
    if (handler !== undefined) methods.set(method.name, (payload, context) => invoke(unary, payload, (request) => handler(request, context)));
    else if (fallback !== undefined) methods.set(method.name, (payload, context) => invoke(unary, payload, (request) => fallback(unary, request, context)));
  }
  return { name: service.typeName, invoke: (method, payload, context) => methods.get(method)?.(payload, context) };
}

async function invoke(
  method: DescMethodUnary,
  payload: Uint8Array,
  handle: (request: Message) => Record<string, unknown> | Promise<Record<string, unknown>>,
): Promise<Uint8Array> {
  return encodeMessage(method.output, await handle(parseRequest(method.input, payload)));
}

function parseRequest(schema: DescMessage, payload: Uint8Array): Message {
  try {
    return parseMessage(schema, payload);
  } catch (cause) {
    throw statusError(STATUS.invalidArgument, `cannot decode ${schema.typeName}`, { cause });
  }
}
