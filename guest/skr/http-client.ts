import { asObject, decodeUtf8, messageOf, parseJson, type Clock, type JsonObject, type Random } from "@sealpod/core";
import { parseRetryAfter } from "@sealpod/snp";
import { SkrError, type SkrErrorCode } from "./errors.ts";
import { describeReason, parseReason, printable, redact, type Reason } from "./reasons.ts";

/** A request that the sidecar sends. */
export interface HttpRequest {
  readonly method: "GET" | "POST";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly timeoutMs: number;
  /** Ends the exchange when aborted. */
  readonly signal?: AbortSignal;
  /** Texts in the request that no message may show, whatever the service answers. */
  readonly secrets?: readonly string[];
}

/** An answer, read to its end. */
export interface HttpResponse {
  readonly status: number;
  /** `Retry-After`, if the service sent it. */
  readonly retryAfter?: string;
  /** `x-ms-request-id`: with it the owner of the service finds the reason in its log. */
  readonly requestId?: string;
  /** `WWW-Authenticate`. */
  readonly challenge?: string;
  /** `Set-Cookie`, one entry for each. */
  readonly cookies?: readonly string[];
  readonly body: Uint8Array;
}

/**
 * Sends one request over verified TLS (or plain HTTP to the link-local metadata address) and reads the whole answer.
 * Follows no redirects. Rejects with ERR_SKR_NETWORK if no whole answer comes.
 */
export type HttpClient = (request: HttpRequest) => Promise<HttpResponse>;

/** Lets time pass. */
export interface Timer {
  /** Resolves after that time; rejects with the signal's reason as soon as it is aborted. */
  wait(milliseconds: number, signal?: AbortSignal): Promise<void>;
  /** A signal that is aborted after that time. */
  deadline(milliseconds: number): AbortSignal;
}

/** What a call to a service needs. */
export interface CallPorts {
  readonly http: HttpClient;
  readonly timer: Timer;
  readonly random: Random;
  readonly clock: Clock;
  /** Aborted when nobody waits for the outcome any more, or the time for it is over. Absent: never. */
  readonly signal?: AbortSignal;
}

/** Largest answer that is read: an attestation token is a few KiB, a certificate chain less than 10. */
export const MAX_RESPONSE_BYTES: number = 1024 * 1024;

/** The first call and two more, as the genuine sidecar does. */
const ATTEMPTS = 3;
/** Longest pause before the second attempt, in milliseconds; the third waits up to twice as long. */
const BASE_DELAY = 2000;
/** The longest `Retry-After` that is honoured, in milliseconds: the caller of the sidecar waits too. */
const MAX_DELAY = 30_000;

/**
 * Sends a request and repeats it, after pauses of random length, when the service is busy (408, 429, 5xx) or cannot be
 * reached. A service that asks to be left alone for longer than the caller can wait is left alone.
 * @param what the service, for messages
 * @throws {SkrError} ERR_SKR_NETWORK if no attempt was answered; ERR_SKR_TIMEOUT, ERR_SKR_CANCELLED by the signal
 */
export async function send(ports: CallPorts, request: HttpRequest, what: string): Promise<HttpResponse> {
  const { signal } = ports;
  for (let attempt = 1; ; attempt++) {
    requireTime(signal, what);
    let response: HttpResponse | undefined;
    let failure: unknown;
    try {
      response = await ports.http(signal === undefined ? request : { ...request, signal });
    } catch (error) {
      requireTime(signal, what);
      failure = error;
    }
    if (response !== undefined && !isBusy(response.status)) return response;
    const wait = delayBefore(attempt, response?.retryAfter, ports);
    if (attempt < ATTEMPTS && wait <= MAX_DELAY) {
      try {
        await ports.timer.wait(wait, signal);
        continue;
      } catch (error) {
        if (signal?.aborted !== true) throw error;
        // Time is over: what the service said last tells more than that.
        if (!isTimeout(signal)) throw signal.reason;
      }
    }
    if (response !== undefined) return response;
    const attempts = attempt === 1 ? "" : ` in ${attempt} attempts`;
    const told = messageOf(failure);
    const safe = redact(told, request.secrets);
    const problem = printable(safe);
    // Who prints an error prints its causes too.
    throw new SkrError("ERR_SKR_NETWORK", `${what} did not answer${attempts}: ${problem}`, {
      cause: safe === told ? failure : undefined,
      hint: networkHint(problem),
    });
  }
}

/**
 * The JSON object of a successful answer.
 * @param code of the error for another status, whose message passes on the service's own reason
 * @param options as for {@link expectOk}
 * @throws {SkrError} `code`, ERR_SKR_NETWORK if a successful answer is not a JSON object
 */
export function expectObject(response: HttpResponse, what: string, code: SkrErrorCode, options: RefusalOptions = {}): JsonObject {
  expectOk(response, what, code, options);
  let object: JsonObject | undefined;
  try {
    object = asObject(parseJson(decodeUtf8(response.body, what), what, { maxLength: MAX_RESPONSE_BYTES, maxDepth: 32 }));
  } catch (cause) {
    // The parser says where it stopped, and quotes what it found there.
    throw new SkrError("ERR_SKR_NETWORK", `${what} did not answer with JSON: ${printable(redact(messageOf(cause), options.secrets))}`);
  }
  if (object === undefined) throw new SkrError("ERR_SKR_NETWORK", `${what} did not answer with a JSON object`);
  return object;
}

/** How a refusal is told. */
export interface RefusalOptions {
  /** What to check; empty for nothing. */
  readonly hint?: (status: number, reason: Reason) => string;
  /** As {@link HttpRequest.secrets}. */
  readonly secrets?: readonly string[];
}

/** @throws {SkrError} `code` unless the status is 200, with `details.status` and the codes of the service's reason */
export function expectOk(response: HttpResponse, what: string, code: SkrErrorCode, options: RefusalOptions = {}): void {
  if (response.status === 200) return;
  const { status, requestId, retryAfter } = response;
  const reason = parseReason(response.body, options.secrets);
  const request = requestId !== undefined && /^[\w.-]{1,100}$/.test(requestId) ? ` (request ${requestId})` : "";
  const hint = isBusy(status) ? busyHint(status, retryAfter) : (options.hint?.(status, reason) ?? "");
  throw new SkrError(code, `${what} answered ${status}: ${describeReason(reason)}${request}`, {
    details: { status, code: reason.code, innerCode: reason.innerCode },
    ...(hint === "" ? {} : { hint }),
  });
}

/** True for the answers that the sidecar repeats a request for. */
export function isBusy(status: number): boolean {
  return status === 408 || status === 429 || status >= 500;
}

/**
 * Says who was being waited for when a request was given up.
 * @throws {SkrError} ERR_SKR_TIMEOUT; the signal's own reason if it is another
 */
export function requireTime(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted !== true) return;
  if (!isTimeout(signal)) throw signal.reason;
  throw new SkrError("ERR_SKR_TIMEOUT", `the time for the whole request was over before ${what} had answered`, {
    cause: signal.reason,
    hint: "Try again; the log says which service was slow.",
  });
}

function isTimeout(signal: AbortSignal): boolean {
  const reason: unknown = signal.reason;
  return reason instanceof Error && (reason.name === "TimeoutError" || (reason instanceof SkrError && reason.code === "ERR_SKR_TIMEOUT"));
}

/** Milliseconds before the attempt after this one. */
function delayBefore(attempt: number, retryAfter: string | undefined, { random, clock }: CallPorts): number {
  const told = parseRetryAfter(retryAfter ?? null, clock.now()) ?? 0;
  const [high = 0, low = 0] = random.bytes(2);
  // All of the pause is random: pods that a rollout starts together must not come back together.
  const jitter = Math.round((BASE_DELAY * 2 ** (attempt - 1) * (high * 256 + low)) / 65_535);
  return told > MAX_DELAY ? told : Math.min(MAX_DELAY, told + jitter);
}

function busyHint(status: number, retryAfter: string | undefined): string {
  const later = retryAfter !== undefined && /^[\w ,:-]{1,40}$/.test(retryAfter) ? ` It asks to be left alone (Retry-After: ${retryAfter}).` : "";
  return `${status === 429 ? "The service throttles its callers" : "The service has a problem of its own"}; try again later.${later}`;
}

function networkHint(problem: string): string {
  if (/ENOTFOUND|EAI_AGAIN/.test(problem)) return "There is no such host, or the pod's DNS does not know it: check the spelling of the endpoint.";
  if (/certificate|self.signed|issuer|altnames/i.test(problem))
    return "Its certificate is not trusted: the authorities that the pod trusts are in SSL_CERT_FILE, or in /etc/ssl/certs/ca-certificates.crt.";
  return "Check that the service runs and that the pod may reach it.";
}
