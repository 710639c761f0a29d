import { messageOf, unlessAborted } from "@sealpod/core";
import type { Clock } from "@sealpod/core";
import type { SecretMask } from "./mask.ts";
import type { RegistryPorts } from "./ports.ts";
import { isTransientStatus, parseRetryAfter, retryDelay } from "./retry.ts";

/** One request. */
export interface HttpRequest {
  readonly method: "GET" | "POST";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** How often it may be repeated. */
  readonly retries: number;
  /** Ends it, its pauses and the reading of its answer: they reject with the signal's reason. */
  readonly signal: AbortSignal;
}

/**
 * Repetitions after a connection that nobody took, or a name that nobody knows: a registry that is just starting gets a second
 * chance, and whoever is offline or mistyped a name learns it at once.
 */
const RETRIES_OF_NOBODY = 1;

/**
 * The slowest that a body may be: so many bytes in each window of so many milliseconds spent waiting for it, 1 KiB/s. A modem
 * is faster; without it a server that sends a byte now and then would keep us for ever.
 */
const RATE_WINDOW = 60_000;
export const MIN_WINDOW_BYTES: number = 60 * 1024;

/**
 * Milliseconds that the body of one document may be waited for: documents have some KiB, and 4 MiB at most. Waiting alone
 * counts, so a busy machine does not.
 */
export const DOCUMENT_TIME = 60_000;

/** Why there is no answer, or no more of one. */
export interface HttpFailure {
  readonly kind: "failure";
  readonly url: URL;
  /** E.g. `connect ECONNREFUSED 127.0.0.1:443`. */
  readonly reason: string;
  readonly cause: "certificate" | "protocol" | "name" | "port" | "nobody" | "connection" | "stall";
}

/** The next piece of a body. */
export type BodyPart = { readonly kind: "bytes"; readonly bytes: Uint8Array } | { readonly kind: "end" } | HttpFailure;

/** What a connection must be given up after, and what that takes. */
interface Stall {
  readonly timeout: number;
  readonly sleep: RegistryPorts["sleep"];
  readonly clock: Clock;
}

/** Status and headers of an answer, and its body to read. Whoever has one reads it to its end or drops it. */
export class HttpReply {
  readonly kind = "reply";
  readonly url: URL;
  readonly status: number;
  readonly headers: Headers;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  readonly #stall: Stall;
  readonly #mask: SecretMask;
  readonly #signal: AbortSignal;
  /** Ends the watch over the body, which runs from the first read on. */
  readonly #watchEnd = new AbortController();
  #reads = 0;
  #isReading = false;
  #isStalled = false;
  #waited = 0;
  /** Where the window of the rate ends, in milliseconds waited, and what came in it. */
  #windowEnd = RATE_WINDOW;
  #windowBytes = 0;

  constructor(url: URL, response: Response, stall: Stall, mask: SecretMask, signal: AbortSignal) {
    this.url = url;
    this.status = response.status;
    this.headers = response.headers;
    this.#reader = response.body?.getReader();
    this.#stall = stall;
    this.#mask = mask;
    this.#signal = signal;
    signal.addEventListener("abort", () => void this.drop(), { signal: this.#watchEnd.signal });
  }

  /** @param patience milliseconds that the body may be waited for, in all reads together */
  async read(patience: number = Number.POSITIVE_INFINITY): Promise<BodyPart> {
    this.#signal.throwIfAborted();
    if (this.#reader === undefined) return { kind: "end" };
    this.#isReading = true;
    if (++this.#reads === 1) void this.#watch(this.#reader);
    const start = this.#stall.clock.now();
    try {
      const next = await this.#reader.read();
      this.#signal.throwIfAborted();
      if (this.#isStalled) return stalled(this.url, this.#stall);
      if (!next.done) {
        this.#waited += Math.max(0, this.#stall.clock.now() - start);
        return this.#isTooSlow(next.value.length, patience) ? slow(this.url, this.#waited) : { kind: "bytes", bytes: next.value };
      }
      this.#watchEnd.abort();
      return { kind: "end" };
    } catch (error) {
      this.#watchEnd.abort();
      this.#signal.throwIfAborted();
      return this.#isStalled ? stalled(this.url, this.#stall) : failureOf(this.url, error, this.#mask);
    } finally {
      this.#isReading = false;
    }
  }

  #isTooSlow(bytes: number, patience: number): boolean {
    this.#windowBytes += bytes;
    if (this.#waited > patience) return true;
    if (this.#waited < this.#windowEnd) return false;
    const isTooSlow = this.#windowBytes < MIN_WINDOW_BYTES;
    this.#windowEnd = this.#waited + RATE_WINDOW;
    this.#windowBytes = 0;
    return isTooSlow;
  }

  /**
   * Breaks off a read that waits for a whole interval, so after one to two time limits. A timer per read would cost more
   * than the read; and the time that the reader of the body takes between reads does not count.
   */
  async #watch(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
    const { signal } = this.#watchEnd;
    try {
      for (let seen = this.#reads; !this.#isStalled; seen = this.#reads) {
        await this.#stall.sleep(this.#stall.timeout, signal);
        if (signal.aborted) return;
        this.#isStalled = this.#isReading && this.#reads === seen;
      }
      // A read that waits ends at once.
      await reader.cancel();
    } catch {
      // The watch was ended, or the body broke by itself.
    }
  }

  /** A document: up to `limit` bytes of the body, and whether that was all of it. The reply is dropped. */
  async readUpTo(limit: number): Promise<{ readonly bytes: Uint8Array; readonly end: "complete" | "over" | HttpFailure }> {
    const parts: Uint8Array[] = [];
    let size = 0;
    try {
      for (;;) {
        const part = await this.read(DOCUMENT_TIME);
        if (part.kind !== "bytes") return { bytes: Buffer.concat(parts), end: part.kind === "end" ? "complete" : part };
        size += part.bytes.length;
        parts.push(part.bytes);
        if (size > limit) return { bytes: Buffer.concat(parts).subarray(0, limit), end: "over" };
      }
    } finally {
      await this.drop();
    }
  }

  /** Frees the connection. */
  async drop(): Promise<void> {
    this.#watchEnd.abort();
    try {
      await this.#reader?.cancel();
    } catch {
      // A body that broke has nothing left to free.
    }
  }
}

/** Sends requests, again where that makes sense, and never waits for ever. */
export class HttpClient {
  readonly #ports: RegistryPorts;
  readonly #stall: Stall;
  readonly #mask: SecretMask;

  constructor(ports: RegistryPorts, stallTimeout: number, mask: SecretMask) {
    this.#ports = ports;
    this.#stall = { timeout: stallTimeout, sleep: (ms, signal) => ports.sleep(ms, signal), clock: ports.clock };
    this.#mask = mask;
  }

  /** The answer, after as many attempts as the request may take. Redirects are answers like any other. Rejects with the reason of the request's signal. */
  async send(request: HttpRequest): Promise<HttpReply | HttpFailure> {
    for (let attempt = 0; ; attempt++) {
      const outcome = await this.#sendOnce(request);
      if (attempt >= Math.min(request.retries, retriesAfter(outcome))) return outcome;
      let retryAfter: number | undefined;
      if (outcome.kind === "reply") {
        retryAfter = parseRetryAfter(outcome.headers.get("retry-after"), this.#ports.clock.now());
        await outcome.drop();
      }
      const why = outcome.kind === "reply" ? `status ${outcome.status}` : outcome.reason;
      await this.pause(attempt, `${placeOf(request.url, this.#mask)}: ${why}`, request.signal, retryAfter);
    }
  }

  /** Waits before another attempt. Rejects with the signal's reason. */
  async pause(attempt: number, why: string, signal: AbortSignal, retryAfter?: number): Promise<void> {
    const delay = retryDelay(attempt, this.#ports.random, retryAfter);
    this.#ports.logger.log("info", `${why}; next attempt in ${(delay / 1000).toFixed(1)} s`, { attempt: attempt + 1, delay });
    await unlessAborted(this.#ports.sleep(delay, signal), signal);
  }

  async #sendOnce({ method, url, headers, body, signal }: HttpRequest): Promise<HttpReply | HttpFailure> {
    signal.throwIfAborted();
    const abort = new AbortController();
    const init: RequestInit = {
      method,
      // Ranges and sizes are those of the stored bytes, so nothing on the way may pack them.
      headers: { "accept-encoding": "identity", "user-agent": "sealpod", ...headers },
      redirect: "manual",
      signal: AbortSignal.any([abort.signal, signal]),
      ...(body === undefined ? {} : { body }),
    };
    try {
      const response = await unlessStalled(unlessAborted(this.#ports.fetch(url.href, init), signal), this.#stall);
      if (response !== undefined) return new HttpReply(url, response, this.#stall, this.#mask, signal);
      abort.abort();
      return stalled(url, this.#stall);
    } catch (error) {
      signal.throwIfAborted();
      return failureOf(url, error, this.#mask);
    }
  }
}

/**
 * A URL as messages show it: query and fragment may hold the signature that lets anyone read; and a redirect may lead to
 * wherever a server likes, so also to a host or path that is the password.
 */
export function placeOf(url: URL, mask: SecretMask): string {
  if (mask.isIn(url.origin)) return `${url.protocol}//***`;
  return mask.isIn(url.pathname) ? `${url.origin}/***` : mask.clean(`${url.origin}${url.pathname}`);
}

/** How often a request is worth repeating after this. */
function retriesAfter(outcome: HttpReply | HttpFailure): number {
  if (outcome.kind === "reply") return isTransientStatus(outcome.status) ? Number.POSITIVE_INFINITY : 0;
  if (outcome.cause === "nobody") return RETRIES_OF_NOBODY;
  return outcome.cause === "connection" || outcome.cause === "stall" ? Number.POSITIVE_INFINITY : 0;
}

/** What the work gives, or undefined after the time limit. */
async function unlessStalled<T extends object>(work: Promise<T>, { timeout, sleep }: Stall): Promise<T | undefined> {
  const timer = new AbortController();
  try {
    return await Promise.race([work, sleep(timeout, timer.signal).then(() => undefined)]);
  } finally {
    timer.abort();
  }
}

function stalled(url: URL, { timeout }: Stall): HttpFailure {
  return { kind: "failure", url, reason: `nothing came for ${timeout / 1000} s`, cause: "stall" };
}

function slow(url: URL, waited: number): HttpFailure {
  return { kind: "failure", url, reason: `too little came in ${Math.round(waited / 1000)} s`, cause: "stall" };
}

/** Codes of systems where nobody listens at an address or no way leads there, or no name server answers. */
const NOBODY: ReadonlySet<string> = new Set(["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EAI_AGAIN"]);

/** Codes of Node's TLS for certificates that are not believed. */
const CERTIFICATE = /^(?:CERT_|CRL_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|ERR_TLS_CERT|INVALID_CA|HOSTNAME_MISMATCH|PATH_LENGTH)/;

function failureOf(url: URL, error: unknown, mask: SecretMask): HttpFailure {
  // fetch wraps the error that tells: TypeError "fetch failed" or "terminated".
  const inner = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = typeof inner === "object" && inner !== null && "code" in inner && typeof inner.code === "string" ? inner.code : "";
  const message = messageOf(inner);
  const reason = mask.clean(message === "" || message.includes(code) ? message || code : `${message} (${code})`);
  const cause = CERTIFICATE.test(code)
    ? "certificate"
    : code === "EPROTO" || code.startsWith("ERR_SSL_")
      ? "protocol"
      : code === "ENOTFOUND"
        ? "name"
        : message === "bad port"
          ? "port"
          : NOBODY.has(code)
            ? "nobody"
            : "connection";
  return { kind: "failure", url, reason: reason === "" ? "no reason given" : reason, cause };
}
