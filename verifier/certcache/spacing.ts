import { type Clock, type Logger, unlessAborted } from "@sealpod/core";
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
  /** Is told of waits, in debug lines. */
  readonly logger?: Logger | undefined;
}

/** A request that waits for its turn. */
interface Waiter {
  /** Lets it look again at when its turn is. */
  wake: () => void;
}

/**
 * A fetch that keeps its distance: requests go out one after another, `spacingMs` apart, and none while the service wants to be left alone (429 with Retry-After), those that wait
 * already included. A request whose turn would come too late is answered here, as the service would: status 429, with the seconds in Retry-After. One that is aborted leaves the queue.
 * One whose host has no address came to no service: the next need not keep its distance from it.
 */
export function spacedFetch({ fetch, clock, sleep, spacingMs, maxQueueMs, logger }: SpacingOptions): KdsPorts["fetch"] {
  /** When the next request may go out. */
  let free = Number.NEGATIVE_INFINITY;
  const queue: Waiter[] = [];
  /** Undefined when its turn has come, or the answer of this queue. */
  const turnOf = async (signal: AbortSignal): Promise<Response | undefined> => {
    const waiter: Waiter = { wake: () => undefined };
    const arrived = clock.now();
    queue.push(waiter);
    try {
      for (;;) {
        signal.throwIfAborted();
        const now = clock.now();
        const turn = Math.max(now, free) + queue.indexOf(waiter) * spacingMs;
        if (turn <= now) {
          free = now + spacingMs;
          return undefined;
        }
        if (turn - arrived > maxQueueMs) return new Response(null, { status: 429, headers: { "retry-after": String(Math.ceil((turn - now) / 1000)) } });
        logger?.log("debug", "a request waits for its turn", { waitMs: turn - now });
        const changed = new AbortController();
        waiter.wake = () => changed.abort();
        // A timer that was ended may say so by failing; what counts is what the clock says then.
        await unlessAborted(sleep(turn - now, AbortSignal.any([signal, changed.signal])), signal).catch(() => signal.throwIfAborted());
      }
    } finally {
      queue.splice(queue.indexOf(waiter), 1);
      wakeAll(queue);
    }
  };
  return async (url, init) => {
    const refusal = await turnOf(init.signal ?? new AbortController().signal);
    if (refusal !== undefined) return refusal;
    const before = clock.now() + spacingMs;
    let response: Response;
    try {
      response = await fetch(url, init);
    } catch (cause) {
      // Unless somebody else has moved it on since.
      if (isNameFailure(cause) && free <= before) {
        free = Number.NEGATIVE_INFINITY;
        wakeAll(queue);
      }
      throw cause;
    }
    if (response.status === 429) {
      const wait = parseRetryAfter(response.headers.get("retry-after"), clock.now()) ?? KDS_SPACING_MS;
      free = Math.max(free, clock.now() + wait);
      wakeAll(queue);
    }
    return response;
  };
}

/** True if the name of a host could not be resolved: there is none, or no network to ask in. */
export function isNameFailure(error: unknown): boolean {
  // fetch wraps the error that tells.
  const inner: unknown = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return inner instanceof Error && "code" in inner && (inner.code === "ENOTFOUND" || inner.code === "EAI_AGAIN");
}

function wakeAll(queue: readonly Waiter[]): void {
  for (const { wake } of queue) wake();
}
