import type { Logger, LogFields, LogLevel, Random } from "@sealpod/core";
import type { RequestContext, ServiceEnv } from "./context.ts";

/** Short enough for every log line, and nothing in it that a log or a header could take for its own syntax. */
const CLIENT_REQUEST_ID = /^[A-Za-z0-9._:-]{1,64}$/;

/** Ids that one call of the random source is good for. */
const POOLED_IDS = 256;

const HEX: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** Makes request ids: UUIDs of version 4 (RFC 9562 section 5.4), from randomness that is fetched for many at once. */
export class RequestIds {
  readonly #random: Random;
  #pool: Uint8Array = new Uint8Array();
  #at = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  next(): string {
    if (this.#at >= this.#pool.length) {
      this.#pool = this.#random.bytes(16 * POOLED_IDS);
      this.#at = 0;
    }
    const pool = this.#pool;
    const start = this.#at;
    this.#at = start + 16;
    let id = "";
    for (let at = 0; at < 16; at++) {
      const byte = pool[start + at] ?? 0;
      if (at === 4 || at === 6 || at === 8 || at === 10) id += "-";
      id += HEX[at === 6 ? (byte & 0x0f) | 0x40 : at === 8 ? (byte & 0x3f) | 0x80 : byte] ?? "";
    }
    return id;
  }
}

/** `x-ms-client-request-id` if it is a short token. */
export function clientRequestIdOf(header: string | null | undefined): string | undefined {
  return header !== null && header !== undefined && CLIENT_REQUEST_ID.test(header) ? header : undefined;
}

/** One request on its way through a service; also hono's `env` of its application. */
export class Exchange implements RequestContext, ServiceEnv {
  readonly id: string;
  readonly client: string;
  readonly clientRequestId: string | undefined;
  readonly method: string;
  /** Milliseconds of `performance.now()`. */
  readonly started: number = performance.now();
  /** Pattern of the application's route. */
  route = "(none)";
  bytesIn = 0;
  body: Uint8Array | undefined = undefined;
  /** Health checks come every few seconds, for ever. */
  level: LogLevel = "info";
  /** Answers in place of a handler that has not answered yet. */
  interrupt: ((response: Response) => void) | undefined = undefined;
  notes: LogFields | undefined = undefined;
  readonly #service: Logger;
  #logger: Logger | undefined;
  #controller: AbortController | undefined;
  #reason: Error | undefined;

  constructor(id: string, client: string, clientRequestId: string | undefined, method: string, logger: Logger) {
    this.id = id;
    this.client = client;
    this.clientRequestId = clientRequestId;
    this.method = method;
    this.#service = logger;
  }

  /** Where {@link requestContext} looks, in hono's `env`. */
  get sealpod(): RequestContext {
    return this;
  }

  get logger(): Logger {
    const { id } = this;
    const service = this.#service;
    this.#logger ??= { log: (level, message, fields) => service.log(level, message, { id, ...fields }) };
    return this.#logger;
  }

  /** Most handlers never ask, and a controller is dear. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason !== undefined) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  note(fields: LogFields): void {
    this.notes = this.notes === undefined ? fields : { ...this.notes, ...fields };
  }

  abort(reason: string): void {
    if (this.#reason !== undefined) return;
    this.#reason = new Error(reason);
    this.#controller?.abort(this.#reason);
  }
}
