import { newUuid, type Clock, type Logger, type Random } from "@sealpod/core";
import { SealingError, type KeyRing } from "@sealpod/sealing";
import type { Database, Queries, SqlValue } from "@sealpod/storage";
import { appendAudit } from "./audit.ts";
import type { AuditLine } from "./types.ts";

/** What every part of the store works with. */
export interface StoreContext {
  readonly database: Database;
  readonly ring: KeyRing;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** Replicas make wrapping keys as well; nobody makes five while one transaction is tried. */
const MAX_ATTEMPTS = 5;

/** This process does not know the wrapping keys that the transaction sees: read them, and run it again. */
class StaleRing extends Error {}

/** One transaction: statements, and sealing with what the transaction sees of the wrapping keys. */
export class Change {
  readonly queries: Queries;
  readonly #ring: KeyRing;
  #activeKey: number | undefined;

  /** Use {@link makeChange}. */
  constructor(queries: Queries, ring: KeyRing) {
    this.queries = queries;
    this.#ring = ring;
  }

  /**
   * Seals with the wrapping key that is active in this transaction. A replica that has not heard of a new one does not seal with the old: after a rotation has
   * resolved, nothing is written under older keys.
   */
  async seal(plaintext: Uint8Array, place: string): Promise<{ readonly sealed: Uint8Array; readonly keyId: number }> {
    this.#activeKey ??= await activeKey(this.queries);
    const result = this.#ring.seal(plaintext, place);
    if (result.keyId !== this.#activeKey) throw new StaleRing();
    return result;
  }

  /**
   * Opens inside of the transaction. The ring would look an unknown key up by statements of its own, which wait for this transaction: that is left to {@link makeChange}.
   * @throws {SealingError} ERR_SEALING_RECORD
   */
  async open(sealed: Uint8Array, keyId: number, place: string): Promise<Uint8Array> {
    // What names the key is the sealed value; the column is for the foreign key. They agree, unless somebody has changed the row.
    const named = sealed.length >= 5 ? new DataView(sealed.buffer, sealed.byteOffset).getUint32(1) : undefined;
    if (named !== keyId) throw new SealingError("ERR_SEALING_RECORD", `${place}: the row names wrapping key ${keyId}, the sealed value ${named ?? "none"}`);
    if (!this.#ring.keys.some(({ id }) => id === keyId)) throw new StaleRing();
    return this.#ring.open(sealed, place);
  }

  /** One or no row. */
  async first(sql: string, parameters: readonly SqlValue[]): Promise<Readonly<Record<string, SqlValue>> | undefined> {
    return (await this.queries.query(sql, parameters))[0];
  }

  /** Appends the line of this change. */
  async audit(line: AuditLine): Promise<void> {
    await appendAudit(this.queries, line);
  }
}

/** Runs `work` in one transaction, again if the wrapping keys have changed or replicas got in each other's way: it has no effect but by its {@link Change}. */
export async function makeChange<T>(context: StoreContext, work: (change: Change) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await context.database.transaction((queries) => work(new Change(queries, context.ring)));
    } catch (error) {
      if (!(error instanceof StaleRing)) throw error;
      if (attempt === MAX_ATTEMPTS) {
        throw new SealingError("ERR_SEALING_RECORD", `${context.database.name}: the wrapping keys changed ${attempt} times during one change`, {
          cause: error,
        });
      }
      await context.ring.reload();
    }
  }
}

/** The id of the wrapping key that is active for `queries`. */
export async function activeKey(queries: Queries): Promise<number | undefined> {
  const id = (await queries.query("SELECT id FROM wrapping_keys WHERE state = 'active'"))[0]?.["id"];
  return typeof id === "number" ? id : undefined;
}

/** Seconds since 1970. */
export function seconds(context: StoreContext): number {
  return Math.floor(context.clock.now() / 1000);
}

/** The line of something that the service does by itself. */
export function ownLine(context: StoreContext, line: Pick<AuditLine, "operation" | "vault" | "name" | "reason">): AuditLine {
  return {
    ...line,
    requestId: `schedule ${newUuid(context.random)}`,
    at: context.clock.now(),
    version: "",
    tenantId: "",
    appid: "",
    oid: "",
    outcome: "allowed",
    failed: undefined,
    authority: "",
    findings: [],
  };
}
