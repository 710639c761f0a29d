import type { Context } from "hono";
import { silentLogger, type LogFields, type Logger } from "@sealpod/core";
import { ServiceError } from "./errors.ts";

/** What an application may know of the request that it answers, beyond HTTP. */
export interface RequestContext {
  /** Unpredictable id of the request, a UUID: in `x-ms-request-id` of the answer and in every log line about it. */
  readonly id: string;
  /** What the client calls the request (`x-ms-client-request-id`), if it is a short token. */
  readonly clientRequestId: string | undefined;
  /** Who asks, as the rate limit counts: an IPv4 address, an IPv6 network of 64 bits such as `2001:db8:0:1::/64`, or `unknown`. */
  readonly client: string;
  /** Writes lines that carry the request's id. Never give it secrets. */
  readonly logger: Logger;
  /** Aborted when nobody waits for the answer any more: the client has gone, its time is over, or the service has stopped. */
  readonly signal: AbortSignal;
  /** The whole body, not larger than `limits.maxBody`; empty if there is none, undefined if no service stands around the application. Do not change it. */
  readonly body: Uint8Array | undefined;
  /** Adds fields to the one access log line of the request: cheaper than a line of its own. Never secrets. */
  note(fields: LogFields): void;
}

/** hono's `env` of an application in a service. */
export interface ServiceEnv {
  /** Where a service leaves the context of a request. */
  readonly sealpod: RequestContext;
}

const NEVER_ABORTED = new AbortController().signal;
const OUTSIDE: RequestContext = {
  id: "none",
  clientRequestId: undefined,
  client: "unknown",
  logger: silentLogger,
  signal: NEVER_ABORTED,
  body: undefined,
  note: () => undefined,
};

/**
 * The context of a request. An application that is called without a service around it (`app.fetch(request)` in tests) gets one with the id `none`.
 * @param logger for such an application; a service gives its own
 */
export function requestContext(c: Context, logger?: Logger): RequestContext {
  const found = (c.env as Partial<ServiceEnv> | undefined)?.sealpod;
  return found ?? (logger === undefined ? OUTSIDE : { ...OUTSIDE, logger });
}

/**
 * The whole body of a request: what the service has read already, else read here. Use it in place of hono's `bodyLimit`, which makes a web stream of every body.
 * @param limit bytes
 * @throws {ServiceError} ERR_SERVICE_BODY if it is larger
 */
export async function requestBody(c: Context, limit: number): Promise<Uint8Array> {
  const read = requestContext(c).body;
  if (read !== undefined) {
    if (read.length > limit) throw tooLarge(limit);
    return read;
  }
  return readWebBody(c.req.raw, limit);
}

/**
 * The body of a web request, read only as far as the limit goes.
 * @throws {ServiceError} ERR_SERVICE_BODY if it is larger
 */
export async function readWebBody(request: Request, limit: number): Promise<Uint8Array> {
  if (Number(request.headers.get("content-length") ?? 0) > limit) throw tooLarge(limit);
  if (request.body === null) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of request.body as ReadableStream<Uint8Array> & AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > limit) throw tooLarge(limit);
    chunks.push(chunk);
  }
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, length);
}

function tooLarge(limit: number): ServiceError {
  return new ServiceError("ERR_SERVICE_BODY", `the request body is larger than ${limit} bytes`, { details: { limit } });
}
