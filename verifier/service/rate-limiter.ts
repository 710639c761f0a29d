import type { RateLimit } from "./limits.ts";

/** Of the clients that have asked for longest ago, so many are compared when one must be forgotten. */
const EVICTION_SAMPLE = 8;

interface Bucket {
  tokens: number;
  /** Milliseconds of the clock, when `tokens` was right. */
  at: number;
}

/**
 * A token bucket per client, for a bounded number of them. Who is forgotten starts with a full bucket, so those are forgotten first who have one
 * anyway or nearly; who keeps asking, refused or not, is not among them.
 */
export class RateLimiter {
  readonly #limit: RateLimit;
  readonly #now: () => number;
  /** In the order of their last request. */
  readonly #buckets = new Map<string, Bucket>();

  /** @param now milliseconds on a clock that never goes back */
  constructor(limit: RateLimit, now: () => number) {
    this.#limit = limit;
    this.#now = now;
  }

  /** Clients that are remembered. */
  get size(): number {
    return this.#buckets.size;
  }

  /**
   * Takes one request of a client.
   * @returns 0 if it may go on, else the milliseconds after which one may
   */
  take(client: string): number {
    const { perSecond, burst } = this.#limit;
    const now = this.#now();
    const bucket = this.#buckets.get(client);
    if (bucket === undefined) {
      if (this.#buckets.size >= this.#limit.maxClients) this.#forget(now);
      this.#buckets.set(client, { tokens: burst - 1, at: now });
      return 0;
    }
    const tokens = this.#tokens(bucket, now);
    bucket.tokens = tokens >= 1 ? tokens - 1 : tokens;
    bucket.at = now;
    // To the end of the order.
    this.#buckets.delete(client);
    this.#buckets.set(client, bucket);
    return tokens >= 1 ? 0 : Math.ceil(((1 - tokens) * 1000) / perSecond);
  }

  #tokens(bucket: Bucket, now: number): number {
    return Math.min(this.#limit.burst, bucket.tokens + (Math.max(0, now - bucket.at) * this.#limit.perSecond) / 1000);
  }

  #forget(now: number): void {
    let best: string | undefined;
    let most = -1;
    let seen = 0;
    for (const [client, bucket] of this.#buckets) {
      const tokens = this.#tokens(bucket, now);
      if (tokens > most) {
        best = client;
        most = tokens;
      }
      if (++seen === EVICTION_SAMPLE || most >= this.#limit.burst) break;
    }
    if (best !== undefined) this.#buckets.delete(best);
  }
}
