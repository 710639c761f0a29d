/** The part of a budget that one client may have. */
const SHARE = 1 / 4;

interface Account<H> {
  bytes: number;
  readonly holders: Map<H, number>;
}

/**
 * Bytes that clients make a service hold, with a bound for all and a share for each. It says who is to give up what it holds when there is too much: the
 * client with the most, so that who asks for little gets in however much others try to take.
 */
export class Budget<H> {
  /** Bytes that one client may have. */
  readonly share: number;
  readonly #total: number;
  readonly #accounts = new Map<string, Account<H>>();
  #bytes = 0;

  /** @param total bytes for all clients together */
  constructor(total: number) {
    this.#total = total;
    this.share = total * SHARE;
  }

  /** Bytes that all hold. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Bytes that a client holds. */
  of(client: string): number {
    return this.#accounts.get(client)?.bytes ?? 0;
  }

  /** Counts bytes more for a holder of a client; fewer if they are negative. */
  add(client: string, holder: H, bytes: number): void {
    let account = this.#accounts.get(client);
    if (account === undefined) this.#accounts.set(client, (account = { bytes: 0, holders: new Map() }));
    account.holders.set(holder, (account.holders.get(holder) ?? 0) + bytes);
    account.bytes += bytes;
    this.#bytes += bytes;
  }

  /** Forgets a holder and what it held; nothing if it is not known. */
  drop(client: string, holder: H): void {
    const account = this.#accounts.get(client);
    const held = account?.holders.get(holder);
    if (account === undefined || held === undefined) return;
    this.add(client, holder, -held);
    account.holders.delete(holder);
    if (account.holders.size === 0) this.#accounts.delete(client);
  }

  /** The largest holder of a client that has more than its share; undefined if it has not. */
  overShare(client: string): H | undefined {
    const account = this.#accounts.get(client);
    return account !== undefined && account.bytes > this.share ? largest(account.holders) : undefined;
  }

  /** The largest holder of the client with the most, if all hold more than the budget; undefined if they do not. */
  overTotal(): H | undefined {
    if (this.#bytes <= this.#total) return undefined;
    let first: Account<H> | undefined;
    for (const account of this.#accounts.values()) if (account.bytes > (first?.bytes ?? 0)) first = account;
    return first === undefined ? undefined : largest(first.holders);
  }
}

function largest<H>(holders: ReadonlyMap<H, number>): H | undefined {
  let found: H | undefined;
  let most = 0;
  for (const [holder, bytes] of holders) {
    if (bytes > most) {
      found = holder;
      most = bytes;
    }
  }
  return found;
}
