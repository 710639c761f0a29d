import { encodeUtf8 } from "@sealpod/core";
import { RequestSchema, ResponseSchema, encodeMessage, parseMessage, type Response } from "@sealpod/proto";
import { STATUS, type TtrpcStatus } from "./status.ts";

/** Names to values; a name can have several. */
export type Metadata = ReadonlyMap<string, readonly string[]>;

/** One call, as it stands in a Request frame. */
export interface Call {
  /** Full name of the service, e.g. `grpc.AgentService`. */
  readonly service: string;
  /** Bare name of the method. */
  readonly method: string;
  /** Encoded request message. */
  readonly payload: Uint8Array;
  /** Nanoseconds that the caller waits; 0 for no limit. */
  readonly timeoutNano: bigint;
  readonly metadata: Metadata;
}

/** The answer to a call, as it stands in a Response frame. */
export type Answer = { readonly kind: "success"; readonly payload: Uint8Array } | { readonly kind: "failure"; readonly status: TtrpcStatus };

/** Longest status message, in bytes of UTF-8: denials quote whole requests, and an answer must fit a frame and a log line. */
export const MAX_STATUS_MESSAGE_LENGTH: number = 256 * 1024;

/** Data of a Request frame. */
export function encodeCall(call: Call): Uint8Array {
  const metadata = [...call.metadata].flatMap(([key, values]) => values.map((value) => ({ key, value })));
  return encodeMessage(RequestSchema, { service: call.service, method: call.method, payload: call.payload, timeoutNano: call.timeoutNano, metadata });
}

/**
 * Call of the data of a Request frame.
 * @throws {ProtoError} ERR_PROTO_DECODE
 */
export function parseCall(data: Uint8Array): Call {
  const { service, method, payload, timeoutNano, metadata } = parseMessage(RequestSchema, data);
  const values = new Map<string, string[]>();
  for (const { key, value } of metadata) {
    const list = values.get(key);
    if (list === undefined) values.set(key, [value]);
    else list.push(value);
  }
  return { service, method, payload, timeoutNano, metadata: values };
}

/** Data of a Response frame. Success has no status, as the Go implementation writes it. */
export function encodeAnswer(answer: Answer): Uint8Array {
  if (answer.kind === "success") return encodeMessage(ResponseSchema, { payload: answer.payload });
  return encodeMessage(ResponseSchema, { status: { code: answer.status.code, message: boundedMessage(answer.status.message) } });
}

/**
 * Answer of the data of a Response frame. The Rust implementation writes success as a status with code 0, so that counts as none.
 * @throws {ProtoError} ERR_PROTO_DECODE
 */
export function parseAnswer(data: Uint8Array): Answer {
  const response: Response = parseMessage(ResponseSchema, data);
  const status = response.status;
  if (status === undefined || status.code === STATUS.ok) return { kind: "success", payload: response.payload };
  return { kind: "failure", status: { code: status.code, message: status.message } };
}

function boundedMessage(message: string): string {
  const bytes = encodeUtf8(message);
  if (bytes.length <= MAX_STATUS_MESSAGE_LENGTH) return message.isWellFormed() ? message : message.toWellFormed();
  // `stream: true` keeps a character that is cut in two out of the text.
  const text = new TextDecoder().decode(bytes.subarray(0, MAX_STATUS_MESSAGE_LENGTH), { stream: true });
  return `${text}… (${bytes.length - MAX_STATUS_MESSAGE_LENGTH} more bytes)`;
}
