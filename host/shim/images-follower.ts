import type { Clock } from "@sealpod/core";

/** Waits, until the signal makes it reject. */
export type Delay = (milliseconds: number, signal?: AbortSignal) => Promise<void>;

/**
 * Looks several times after something happened, each time a while after the last; what happens before the first look is one with it. Somebody else's look
 * will do in the place of one of them, if it is at about the same time: in the second half of the pause before it, or later.
 */
export class Follower {
  /** Resolves when no look is under way, nor will be if nothing more happens. */
  ended: Promise<void> = Promise.resolve();
  readonly #pauses: readonly number[];
  readonly #delay: Delay;
  readonly #look: (since: number) => Promise<void>;
  readonly #signal: AbortSignal;
  readonly #clock: Clock;
  #round: { readonly controller: AbortController; hasLooked: boolean } | undefined;

  /**
   * @param pauses milliseconds before each look
   * @param look must not reject; is told since when another's look would do, in milliseconds since 1970
   * @param signal after it nothing begins
   */
  constructor(pauses: readonly number[], delay: Delay, look: (since: number) => Promise<void>, signal: AbortSignal, clock: Clock) {
    this.#pauses = pauses;
    this.#delay = delay;
    this.#look = look;
    this.#signal = signal;
    this.#clock = clock;
  }

  trigger(): void {
    // Else a thing that happens each moment would put the first look off for ever.
    if (this.#signal.aborted || this.#round?.hasLooked === false) return;
    this.#round?.controller.abort();
    const round = { controller: new AbortController(), hasLooked: false };
    this.#round = round;
    const signal = AbortSignal.any([this.#signal, round.controller.signal]);
    this.ended = Promise.allSettled([this.ended, this.#run(round, signal)]).then(() => undefined);
  }

  async #run(round: { hasLooked: boolean }, signal: AbortSignal): Promise<void> {
    for (const pause of this.#pauses) {
      const since = this.#clock.now() + pause / 2;
      await this.#delay(pause, signal);
      if (signal.aborted) return;
      round.hasLooked = true;
      await this.#look(since);
    }
  }
}
