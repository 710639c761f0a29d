import { SnpError } from "@sealpod/snp";

/** Work by key: who asks for what is being done already waits for that. */
export class SingleFlight {
  readonly #flights = new Map<string, Promise<unknown>>();
  readonly #limit: number;

  /** @param limit most keys at a time */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * What `work` gives, or what the work under this key that is under way gives.
   * @throws {SnpError} ERR_SNP_KDS_THROTTLED if there is too much under way
   */
  async run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const flying = this.#flights.get(key) as Promise<T> | undefined;
    if (flying !== undefined) return flying;
    if (this.#flights.size >= this.#limit) {
      throw new SnpError("ERR_SNP_KDS_THROTTLED", `the cache is fetching ${this.#limit} certificates already`, {
        details: { retryAfter: 1 },
        hint: "Try again in a second.",
      });
    }
    const flight = work();
    this.#flights.set(key, flight);
    try {
      return await flight;
    } finally {
      this.#flights.delete(key);
    }
  }
}
