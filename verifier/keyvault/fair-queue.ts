import { KeyvaultError } from "./errors.ts";

/** How much a {@link FairQueue} takes. */
export interface FairQueueLimits {
  /** Works that run at once. */
  readonly running: number;
  /** Works that wait, in all and of one vault. Beyond it is refused. */
  readonly waiting: number;
  readonly waitingOfVault: number;
  /** Seconds after which who was refused may ask again. */
  readonly retryAfter: number;
}

/** How one work waits. */
export interface FairQueueOptions {
  /** Who is not there any more when its turn comes, is passed over, and its place goes to somebody else at once. */
  readonly signal?: AbortSignal;
  /** True for the service itself, which waits one after the other and is never refused. */
  readonly isPatient?: boolean;
}

interface Waiting {
  readonly isPatient: boolean;
  readonly start: () => void;
}

/** Lets a few costly works of all vaults run at once. The vaults take turns: who floods one waits for himself, the others wait for one work of his at most. */
export class FairQueue {
  readonly #what: string;
  readonly #limits: FairQueueLimits;
  /** In the order in which the vaults have their turn; no vault has an empty list. */
  readonly #waiting = new Map<string, Waiting[]>();
  #running = 0;

  /** @param what in the message of a refusal, e.g. `keys are made` */
  constructor(what: string, limits: FairQueueLimits) {
    this.#what = what;
    this.#limits = limits;
  }

  /** Works that wait now. */
  get waiting(): number {
    return [...this.#waiting.values()].flat().length;
  }

  /**
   * Runs `work` when its turn has come.
   * @throws {KeyvaultError} ERR_KEYVAULT_THROTTLED if too many wait, or nobody waits for the answer any more
   */
  async run<T>(vault: string, work: () => Promise<T>, { signal, isPatient = false }: FairQueueOptions = {}): Promise<T> {
    if (this.#running < this.#limits.running) this.#running++;
    else await this.#wait(vault, isPatient, signal);
    try {
      return await work();
    } finally {
      this.#next();
    }
  }

  /** Resolves with the place of the work that ended before. */
  async #wait(vault: string, isPatient: boolean, signal: AbortSignal | undefined): Promise<void> {
    const isFull =
      !isPatient &&
      (this.#count([...this.#waiting.values()].flat()) >= this.#limits.waiting || this.#count(this.#waiting.get(vault) ?? []) >= this.#limits.waitingOfVault);
    if (isFull || signal?.aborted === true) throw this.#refusal();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting: Waiting = { isPatient, start: resolve };
    const leave = (): void => {
      this.#remove(vault, waiting);
      reject(this.#refusal());
    };
    this.#waiting.set(vault, [...(this.#waiting.get(vault) ?? []), waiting]);
    signal?.addEventListener("abort", leave);
    try {
      await promise;
    } finally {
      signal?.removeEventListener("abort", leave);
    }
  }

  #count(waiting: readonly Waiting[]): number {
    return waiting.filter(({ isPatient }) => !isPatient).length;
  }

  /** Hands the place over: it is never free in between, so that nobody who comes now is first. */
  #next(): void {
    const turn = this.#waiting.entries().next().value;
    const first = turn?.[1][0];
    if (turn === undefined || first === undefined) {
      this.#running--;
      return;
    }
    const [vault, [, ...rest]] = turn;
    // The vault goes to the end of the line.
    this.#waiting.delete(vault);
    if (rest.length > 0) this.#waiting.set(vault, rest);
    first.start();
  }

  #remove(vault: string, waiting: Waiting): void {
    const rest = (this.#waiting.get(vault) ?? []).filter((one) => one !== waiting);
    if (rest.length > 0) this.#waiting.set(vault, rest);
    else this.#waiting.delete(vault);
  }

  #refusal(): KeyvaultError {
    const { running, waitingOfVault, waiting, retryAfter } = this.#limits;
    return new KeyvaultError(
      "ERR_KEYVAULT_THROTTLED",
      `Too many ${this.#what} at once: ${running} at a time, and ${waitingOfVault} of one vault or ${waiting} in all may wait. Try again in ${retryAfter} seconds.`,
      { details: { retryAfter } },
    );
  }
}

/**
 * RSA keys that are made. OpenSSL takes up to some seconds for one, in one of the few threads that files, signatures and DNS need as well: without a limit, who may create keys in one vault
 * stops the releases of all. Others are made in less than a millisecond. The limit is of the process, as the threads are.
 */
export const RSA_GENERATION: FairQueue = new FairQueue("RSA keys are made", { running: 1, waiting: 32, waitingOfVault: 8, retryAfter: 10 });

/** Backups that are made or restored: up to 500 versions each, opened or sealed in one transaction. */
export const BACKUPS: FairQueue = new FairQueue("backups are made or restored", { running: 1, waiting: 32, waitingOfVault: 8, retryAfter: 10 });
