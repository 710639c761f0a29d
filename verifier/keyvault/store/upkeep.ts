import { KeyvaultError } from "../errors.ts";
import { appendAudit } from "./audit.ts";
import { ownLine, type StoreContext } from "./change.ts";
import { RETIRED_KEY_AGE } from "./limits.ts";

/** What can seal its records again. */
export interface Resealable {
  reseal(keyId: number): Promise<number>;
}

/** Makes a new wrapping key and seals everything again under it. @returns records sealed again */
export async function rotateWrappingKey(context: StoreContext, shelves: readonly Resealable[]): Promise<number> {
  const key = await context.ring.rotate();
  return resealRetired(context, shelves, `wrapping key ${key.id} is active`);
}

/** See {@link VaultStore.wrappingKeyCreated}. */
export async function wrappingKeyCreated(context: StoreContext): Promise<number> {
  await context.ring.reload();
  const active = context.ring.keys.find(({ state }) => state === "active");
  if (active === undefined) throw new KeyvaultError("ERR_KEYVAULT_STORE", `${context.database.name} has no active wrapping key`);
  return active.created;
}

/** Seals what retired keys still seal, because a rotation was interrupted, and forgets those that nothing needs. */
export async function upkeep(context: StoreContext, shelves: readonly Resealable[]): Promise<void> {
  await resealRetired(context, shelves, undefined);
  const removed = await context.ring.removeUnused(RETIRED_KEY_AGE);
  if (removed.length > 0) {
    await say(context, "wrapping-keys/remove", `wrapping ${removed.length === 1 ? "key" : "keys"} ${removed.join(", ")} removed, nothing needs them`);
  }
}

/** Several replicas may do this at once: each takes what the others have left. */
async function resealRetired(context: StoreContext, shelves: readonly Resealable[], reason: string | undefined): Promise<number> {
  let count = 0;
  for (let before = -1; before !== count;) {
    before = count;
    await context.ring.reload();
    for (const key of context.ring.keys) {
      if (key.state !== "retired") continue;
      for (const shelf of shelves) count += await shelf.reseal(key.id);
    }
  }
  if (reason !== undefined || count > 0)
    await say(context, "wrapping-keys/rotate", `${reason ?? "an earlier rotation is finished"}, ${count} records sealed again`);
  return count;
}

async function say(context: StoreContext, operation: string, reason: string): Promise<void> {
  context.logger.log("info", reason, { operation });
  await context.database.transaction((queries) => appendAudit(queries, ownLine(context, { operation, vault: "", name: "", reason })));
}
