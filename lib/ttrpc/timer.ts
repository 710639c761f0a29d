/** Starts timers. A port, so that tests decide when time has passed. */
export interface Timer {
  /** Calls `callback` once after `milliseconds`; the function that it returns cancels that. */
  after(milliseconds: number, callback: () => void): () => void;
}

/** The platform's timers. */
export const systemTimer: Timer = {
  after(milliseconds, callback) {
    const timer = setTimeout(callback, Math.min(milliseconds, MAX_DELAY));
    return () => clearTimeout(timer);
  },
};

/** Longest delay of the platform's timers, about 25 days; they fire at once for a longer one. */
const MAX_DELAY = 2 ** 31 - 1;
