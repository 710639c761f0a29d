import { type Clock, unlessAborted } from "@sealpod/core";
import { KDS_SPACING_MS, type KdsPorts, parseRetryAfter } from "@sealpod/snp";

/** Options of {@link spacedFetch}. */
export interface SpacingOptions {
  readonly fetch: KdsPorts["fetch"];
  readonly clock: Clock;
  readonly sleep: KdsPorts["sleep"];
  /** Milliseconds from one request to the next. */
  readonly spacingMs: number;
  /** Longest that a request waits for its turn, in milliseconds. */
  readonly maxQueueMs: number;
}

/**
 * A fetch that keeps its distance: requests go out one after another, `spacingMs` apart, and none while the service wants to be left alone (429 with Retry-After).
 * A request whose turn would come too late is answered here, as the service would: status 429, with the seconds in Retry-After.
 */
export function spacedFetch({ fetch, clock, sleep, spacingMs, maxQueueMs }: SpacingOptions): KdsPorts["fetch"] {
  let free = Number.NEGATIVE_INFINITY;
  return async (url, init) => {
    const now = clock.now();
    const turn = Math.max(now, free);
    if (turn - now > maxQueueMs) return new Response(null, { status: 429, headers: { "retry-after": String(Math.ceil((turn - now) / 1000)) } });
    free = turn + spacingMs;
    if (turn > now) {
      const signal = init.signal ?? new AbortController().signal;
      await unlessAborted(sleep(turn - now, signal), signal);
    }
    const response = await fetch(url, init);
    if (response.status === 429) {
      const wait = parseRetryAfter(response.headers.get("retry-after"), clock.now()) ?? KDS_SPACING_MS;
      free = Math.max(free, clock.now() + wait);
    }
    return response;
  };
}
