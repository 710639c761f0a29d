import type { Random } from "@sealpod/core";

/** First pause, in milliseconds; each next one is twice as long. */
const BASE_DELAY = 500;
/** Longest pause of our own choosing. */
const MAX_DELAY = 30_000;
/** Longest pause that a server can ask for: a build must not hang for an hour because a header says so. */
const MAX_RETRY_AFTER = 60_000;

/** Statuses after which the same request may succeed later. */
const TRANSIENT: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);

export function isTransientStatus(status: number): boolean {
  return TRANSIENT.has(status);
}

/**
 * Milliseconds before the next attempt: exponential, the upper half of it random so that many clients do not come back
 * at once, and at least what the server asked for.
 * @param attempt failed attempts so far, less one
 * @param retryAfter the server's wish in milliseconds
 */
export function retryDelay(attempt: number, random: Random, retryAfter = 0): number {
  const full = Math.min(MAX_DELAY, BASE_DELAY * 2 ** Math.min(attempt, 30));
  const [high = 0, low = 0] = random.bytes(2);
  const own = Math.round((full / 2) * (1 + (high * 256 + low) / 65536));
  return Math.max(own, Math.min(retryAfter, MAX_RETRY_AFTER));
}

/**
 * A Retry-After header in milliseconds from `now`, in both of its forms (RFC 9110 section 10.2.3); undefined if it is
 * neither.
 */
export function parseRetryAfter(header: string | null, now: number): number | undefined {
  if (header === null || header.length > 64) return undefined;
  if (/^[0-9]{1,10}$/.test(header)) return Number(header) * 1000;
  // The only date form that servers may send today: "Sun, 06 Nov 1994 08:49:37 GMT".
  if (!/^[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$/.test(header)) return undefined;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}
