import { ServiceError } from "./errors.ts";

/** What one request, one client and all together may take of a service. */
export interface ServiceLimits {
  /** Bytes of a request's body; more is answered 413. */
  readonly maxBody: number;
  /** Milliseconds from a request's headers to the end of its answer. A body that is late is answered 408, a handler 503. */
  readonly requestTime: number;
  /**
   * Milliseconds in which something must move: of a body 1 KiB per second (else 408), of an answer anything that the client takes (else the connection ends; with
   * `serve`, and there not before its `headersTime`).
   */
  readonly stallTime: number;
  /** Requests at once; more are answered 503 with `Retry-After`. A handler counts until it ends, also after its time. */
  readonly maxConcurrent: number;
  /** Requests that a client may make at once after a pause, and per second for good; more are answered 429 with `Retry-After`. */
  readonly rate: RateLimit | "off";
  /** Proxies whose `X-Forwarded-For` is believed: addresses and networks such as `10.0.0.0/8`. None by default: anyone can write that header. */
  readonly trustedProxies: readonly string[];
}

/** A token bucket per client. */
export interface RateLimit {
  /** Requests per second that fill it. */
  readonly perSecond: number;
  /** Requests that it holds. */
  readonly burst: number;
  /** Clients that are remembered, about 200 bytes each. Beyond them, those that have asked for longest ago are forgotten first. */
  readonly maxClients: number;
}

/** The limits of a service that does not say otherwise. */
export const DEFAULT_LIMITS: ServiceLimits = {
  // Genuine requests have some 40 KiB; runtime data may make them larger.
  maxBody: 2 * 1024 * 1024,
  // The genuine sidecar gives up after its own 30 seconds.
  requestTime: 30_000,
  // Lost packets are sent again within a second or two.
  stallTime: 5000,
  // A request in work holds at most its body and what is made of it: with 2 MiB each this is some hundred megabytes at worst.
  maxConcurrent: 256,
  // A node that starts 100 pods at once asks for 100 tokens, behind one address.
  rate: { perSecond: 50, burst: 200, maxClients: 20_000 },
  trustedProxies: [],
};

/**
 * The limits in full.
 * @throws {ServiceError} ERR_SERVICE_ARGUMENT for one that lets nothing pass, or everything
 */
export function completeLimits(limits: Partial<ServiceLimits> | undefined): ServiceLimits {
  const complete = { ...DEFAULT_LIMITS, ...limits };
  const { rate } = complete;
  const numbers = { maxBody: complete.maxBody, requestTime: complete.requestTime, stallTime: complete.stallTime, maxConcurrent: complete.maxConcurrent };
  for (const [name, value] of Object.entries(rate === "off" ? numbers : { ...numbers, burst: rate.burst, maxClients: rate.maxClients })) {
    if (!Number.isSafeInteger(value) || value < 1)
      throw new ServiceError("ERR_SERVICE_ARGUMENT", `the limit ${name} is ${value}, expected an integer of 1 or more`);
  }
  if (rate !== "off" && !(rate.perSecond > 0 && Number.isFinite(rate.perSecond)))
    throw new ServiceError("ERR_SERVICE_ARGUMENT", `the limit perSecond is ${rate.perSecond}, expected a number above 0`);
  return complete;
}
