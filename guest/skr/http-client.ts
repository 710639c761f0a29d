import { asObject, decodeUtf8, messageOf, parseJson, type JsonObject, type Random } from "@sealpod/core";
import { SkrError, type SkrErrorCode } from "./errors.ts";

/** A request that the sidecar sends. */
export interface HttpRequest {
  readonly method: "GET" | "POST";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly timeoutMs: number;
}

/** An answer, read to its end. */
export interface HttpResponse {
  readonly status: number;
  /** `Retry-After`, if the service sent it. */
  readonly retryAfter?: string;
  /** `x-ms-request-id`: with it the owner of the service finds the reason in its log. */
  readonly requestId?: string;
  readonly body: Uint8Array;
}

/**
 * Sends one request over verified TLS (or plain HTTP to the link-local metadata address) and reads the whole answer.
 * Follows no redirects. Rejects with ERR_SKR_NETWORK if no whole answer comes.
 */
export type HttpClient = (request: HttpRequest) => Promise<HttpResponse>;

/** Lets time pass. */
export interface Timer {
  wait(milliseconds: number): Promise<void>;
}

/** What a call to a service needs. */
export interface CallPorts {
  readonly http: HttpClient;
  readonly timer: Timer;
  readonly random: Random;
}

/** Largest answer that is read: an attestation token is a few KiB, a certificate chain less than 10. */
export const MAX_RESPONSE_BYTES: number = 1024 * 1024;

/** The first call and two more, as the genuine sidecar does. */
const ATTEMPTS = 3;
/** Milliseconds before the second attempt; the third waits twice as long. */
const BASE_DELAY = 1000;
/** The longest `Retry-After` that is honoured, in milliseconds: the caller of the sidecar waits too. */
const MAX_DELAY = 30_000;
/** Characters of a service's own words that are passed on: enough for a reason, not for a page of HTML. */
const MAX_REASON = 1000;

/**
 * Sends a request and repeats it, with jitter, when the service is busy (408, 429, 5xx) or cannot be reached.
 * @param what the service, for messages
 * @throws {SkrError} ERR_SKR_NETWORK if no attempt was answered
 */
export async function send(ports: CallPorts, request: HttpRequest, what: string): Promise<HttpResponse> {
  for (let attempt = 1; ; attempt++) {
    let response: HttpResponse | undefined;
    let failure: unknown;
    try {
      response = await ports.http(request);
    } catch (error) {
      failure = error;
    }
    if (response !== undefined && (attempt === ATTEMPTS || !isBusy(response.status))) return response;
    if (response === undefined && attempt === ATTEMPTS) {
      throw new SkrError("ERR_SKR_NETWORK", `${what} did not answer in ${ATTEMPTS} attempts: ${messageOf(failure)}`, {
        cause: failure,
        hint: "Check that the service runs and that the pod may reach it.",
      });
    }
    await ports.timer.wait(delayBefore(attempt, response?.retryAfter, ports.random));
  }
}

/**
 * The JSON object of a successful answer.
 * @param code of the error for another status, whose message passes on the service's own reason
 * @throws {SkrError} `code`, ERR_SKR_NETWORK if a successful answer is not a JSON object
 */
export function expectObject(response: HttpResponse, what: string, code: SkrErrorCode): JsonObject {
  expectOk(response, what, code);
  let object: JsonObject | undefined;
  try {
    object = asObject(parseJson(decodeUtf8(response.body, what), what, { maxLength: MAX_RESPONSE_BYTES, maxDepth: 32 }));
  } catch (cause) {
    throw new SkrError("ERR_SKR_NETWORK", `${what} did not answer with JSON: ${messageOf(cause)}`, { cause });
  }
  if (object === undefined) throw new SkrError("ERR_SKR_NETWORK", `${what} did not answer with a JSON object`);
  return object;
}

/** @throws {SkrError} `code` unless the status is 200 */
export function expectOk(response: HttpResponse, what: string, code: SkrErrorCode): void {
  if (response.status === 200) return;
  const { status, requestId } = response;
  const request = requestId !== undefined && /^[\w.-]{1,100}$/.test(requestId) ? ` (request ${requestId})` : "";
  throw new SkrError(code, `${what} answered ${status}: ${reasonOf(response.body)}${request}`, { details: { status } });
}

/** True for the answers that the sidecar repeats a request for. */
export function isBusy(status: number): boolean {
  return status === 408 || status === 429 || status >= 500;
}

function delayBefore(attempt: number, retryAfter: string | undefined, random: Random): number {
  const told = retryAfter !== undefined && /^\d{1,6}$/.test(retryAfter) ? Number(retryAfter) * 1000 : 0;
  // Half of the delay is random: pods that a rollout starts together must not come back together.
  const backoff = BASE_DELAY * 2 ** (attempt - 1);
  const [byte = 0] = random.bytes(1);
  return Math.min(MAX_DELAY, Math.max(told, backoff / 2 + (backoff / 2) * (byte / 255)));
}

/** The reason in an error body: `error.message` of the Azure services, `error_description` of OAuth, or its text. */
function reasonOf(body: Uint8Array): string {
  let text = "";
  try {
    text = decodeUtf8(body);
    const object = asObject(parseJson(text));
    const inner = object?.["error"];
    const reason = asObject(inner)?.["message"] ?? object?.["error_description"] ?? inner ?? object?.["message"];
    if (typeof reason === "string") text = reason;
  } catch {
    // Not JSON, or not even text: what there is of it will do.
  }
  // oxlint-disable-next-line no-control-regex -- a service's words must not steer a terminal that shows the log
  const clean = text.replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, " ").trim();
  if (clean === "") return "no reason given";
  return clean.length > MAX_REASON ? `${clean.slice(0, MAX_REASON)}…` : clean;
}
