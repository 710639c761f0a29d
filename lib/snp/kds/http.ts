import { type Clock, type Logger, messageOf, type Random, silentLogger, unlessAborted } from "@sealpod/core";
import { SnpError } from "../errors.ts";

/** The edges of the clients of this folder. */
export interface KdsPorts {
  /** The fetch of the web. It gets `redirect: "manual"` and must hand over 3xx answers as they are, as Node's does. */
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  readonly clock: Clock;
  readonly random: Random;
  /** Resolves after `ms` milliseconds; settles at once, either way, when the signal is aborted. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
  readonly logger?: Logger;
}

/** How long and how often a service is asked. */
export interface KdsPatience {
  /** Milliseconds that one attempt may take, body included. AMD's service needs some seconds for a certificate that it has not made yet. Default: 20 s. */
  readonly timeoutMs?: number;
  /** Attempts after the first, on 408, 429, 5xx and failed connections. Default: 3. */
  readonly retries?: number;
  /** Longest wait before another attempt, in milliseconds. If the service asks for more, the call fails at once and says so. 0: never wait for a service that throttles. Default: 60 s. */
  readonly maxWaitMs?: number;
}

/** {@link KdsPatience} with nothing left out. */
export const DEFAULT_KDS_PATIENCE: Required<KdsPatience> = { timeoutMs: 20_000, retries: 3, maxWaitMs: 60_000 };

/** Largest certificate or chain that a service may send: genuine ones are below 8 KiB. */
export const MAX_CERTIFICATES_BYTES: number = 64 * 1024;

/** Largest revocation list: AMD's have a few entries and are below 2 KiB; this leaves room for thousands. */
export const MAX_KDS_CRL_BYTES: number = 256 * 1024;

/** What a service that throttles without saying for how long is left alone for: AMD's takes about one request in so many milliseconds from a client. */
export const KDS_SPACING_MS = 10_000;

/** Longest wait that a Retry-After is believed for: a day. */
const MAX_RETRY_AFTER = 86_400_000;

/** First pause after a failure; each next one is twice as long, up to the second number. */
const BASE_DELAY = 500;
const MAX_DELAY = 10_000;

/** Statuses of a failure that may be over soon. */
const TRANSIENT: ReadonlySet<number> = new Set([408, 500, 502, 503, 504]);

/** One thing to ask for. */
export interface KdsGet {
  /** Name of the service, for messages. */
  readonly source: string;
  /** What it is asked for, for messages. */
  readonly what: string;
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly maxBytes: number;
}

type Outcome =
  | { readonly kind: "body"; readonly body: Uint8Array }
  | { readonly kind: "not-found" }
  | { readonly kind: "throttled"; readonly waitMs: number | undefined }
  | { readonly kind: "unavailable"; readonly reason: string; readonly waitMs: number | undefined; readonly cause?: unknown }
  | { readonly kind: "wrong"; readonly reason: string };

/**
 * The body of a 200, or undefined for a 404. Never follows a redirect, reads no more than `maxBytes`, and waits no longer than the patience says.
 * @throws {SnpError} ERR_SNP_KDS_THROTTLED with `details.retryAfter` in seconds, ERR_SNP_KDS_UNAVAILABLE, ERR_SNP_KDS_RESPONSE; the signal's reason
 */
export async function getBytes(ports: KdsPorts, request: KdsGet, patience: KdsPatience, signal: AbortSignal): Promise<Uint8Array | undefined> {
  const { timeoutMs, retries, maxWaitMs } = { ...DEFAULT_KDS_PATIENCE, ...patience };
  const name = `${request.source}: ${request.what}`;
  for (let attempt = 0; ; attempt++) {
    const outcome = await attemptGet(ports, request, timeoutMs, signal);
    if (outcome.kind === "body") return outcome.body;
    if (outcome.kind === "not-found") return undefined;
    if (outcome.kind === "wrong") throw new SnpError("ERR_SNP_KDS_RESPONSE", `${name}: ${outcome.reason}`, { details: { source: request.source } });
    const throttled = outcome.kind === "throttled";
    const asked = outcome.waitMs ?? (throttled ? KDS_SPACING_MS : 0);
    const wait = Math.max(asked, throttled ? 0 : backoff(attempt, ports.random));
    if (attempt >= retries || wait > maxWaitMs) throw givenUp(name, request.source, outcome, asked, attempt + 1);
    (ports.logger ?? silentLogger).log("info", "certificate service is asked again", {
      source: request.source,
      reason: throttled ? "throttled" : outcome.reason,
      waitMs: wait,
      attempt: attempt + 1,
    });
    await unlessAborted(ports.sleep(wait, signal), signal);
  }
}

/**
 * A Retry-After header as milliseconds from `now`, in both of its forms (RFC 9110 section 10.2.3), at most a day; undefined if it is neither.
 */
export function parseRetryAfter(header: string | null, now: number): number | undefined {
  if (header === null || header.length > 64) return undefined;
  if (/^[0-9]{1,10}$/.test(header)) return Math.min(Number(header) * 1000, MAX_RETRY_AFTER);
  if (!/^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$/.test(header)) return undefined;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.min(Math.max(0, at - now), MAX_RETRY_AFTER);
}

async function attemptGet(ports: KdsPorts, request: KdsGet, timeoutMs: number, signal: AbortSignal): Promise<Outcome> {
  signal.throwIfAborted();
  const timer = new AbortController();
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  const timeout = ports
    .sleep(timeoutMs, timer.signal)
    .then((): Outcome | undefined =>
      timer.signal.aborted ? undefined : { kind: "unavailable", reason: `no whole answer within ${timeoutMs / 1000} s`, waitMs: undefined },
    );
  const work = exchange(ports, request, either);
  // The work goes on after a time-out until its abort is noticed; what it then says is of no interest.
  work.catch(() => undefined);
  timeout.catch(() => undefined);
  try {
    const outcome = await unlessAborted(Promise.race([work, timeout]), signal);
    return outcome ?? (await work);
  } catch (cause) {
    signal.throwIfAborted();
    return { kind: "unavailable", reason: reasonOf(cause), waitMs: undefined, cause };
  } finally {
    timer.abort();
    stop.abort();
  }
}

async function exchange(ports: KdsPorts, request: KdsGet, signal: AbortSignal): Promise<Outcome> {
  const response = await ports.fetch(request.url, {
    method: "GET",
    // Answers are some KiB: packed ones would only be a way to send a large one.
    headers: { "accept-encoding": "identity", "user-agent": "sealpod", ...request.headers },
    redirect: "manual",
    signal,
  });
  const { status } = response;
  if (status === 200) return readBody(response, request.maxBytes, signal);
  const waitMs = parseRetryAfter(response.headers.get("retry-after"), ports.clock.now());
  await drop(response);
  if (status === 404) return { kind: "not-found" };
  if (status === 429) return { kind: "throttled", waitMs };
  if (TRANSIENT.has(status)) return { kind: "unavailable", reason: `status ${status}`, waitMs };
  if ((status >= 300 && status < 400) || response.type === "opaqueredirect")
    return { kind: "wrong", reason: `status ${status}, a redirect; redirects are not followed` };
  return { kind: "wrong", reason: `status ${status}, expected 200` };
}

async function readBody(response: Response, maxBytes: number, signal: AbortSignal): Promise<Outcome> {
  const reader = response.body?.getReader();
  const parts: Uint8Array[] = [];
  let size = 0;
  if (reader === undefined) return { kind: "body", body: new Uint8Array() };
  try {
    for (;;) {
      const next = await unlessAborted(reader.read(), signal);
      if (next.done) return { kind: "body", body: new Uint8Array(Buffer.concat(parts)) };
      size += next.value.length;
      if (size > maxBytes) return { kind: "wrong", reason: `a body of more than ${maxBytes} bytes` };
      parts.push(next.value);
    }
  } finally {
    // Frees the connection, whatever is still to come; a body that broke has nothing left to free.
    reader.cancel().catch(() => undefined);
  }
}

async function drop(response: Response): Promise<void> {
  try {
    await response.body?.cancel();
  } catch {
    // A body that broke has nothing left to free.
  }
}

/** Exponential, the upper half of it random so that many clients do not come back at once. */
function backoff(attempt: number, random: Random): number {
  const full = Math.min(MAX_DELAY, BASE_DELAY * 2 ** Math.min(attempt, 10));
  const [high = 0, low = 0] = random.bytes(2);
  return Math.round((full / 2) * (1 + (high * 256 + low) / 65536));
}

function givenUp(name: string, source: string, outcome: Extract<Outcome, { kind: "throttled" | "unavailable" }>, askedMs: number, attempts: number): SnpError {
  const tries = attempts === 1 ? "" : ` after ${attempts} attempts`;
  if (outcome.kind === "unavailable") {
    return new SnpError("ERR_SNP_KDS_UNAVAILABLE", `${name}: ${outcome.reason}${tries}`, {
      ...(outcome.cause === undefined ? {} : { cause: outcome.cause }),
      details: { source, ...(askedMs > 0 && { retryAfter: Math.ceil(askedMs / 1000) }) },
      hint: "Check the network and the service's address, and try again later; a certificate cache answers without the service.",
    });
  }
  const seconds = Math.ceil(askedMs / 1000);
  return new SnpError("ERR_SNP_KDS_THROTTLED", `${name}: throttled (status 429)${tries}; the next answer is to be had in ${seconds} s`, {
    details: { source, retryAfter: seconds },
    hint: `Wait ${seconds} s. AMD's service takes about one request in 10 s: keep certificates (they do not change), e.g. with \`sealpod certcache serve\`.`,
  });
}

/** fetch wraps the error that tells: TypeError "fetch failed" or "terminated". */
function reasonOf(error: unknown): string {
  const inner = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return messageOf(inner).slice(0, 200) || "no reason given";
}
