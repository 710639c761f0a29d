/**
 * Changes keys, secrets, access and wrapping keys as fast as it can, and says on stdout which requests the store has acknowledged, until somebody kills it:
 * `node store-writer.ts <url> <seed>`. What each request has done follows from its id alone, see store-model.ts.
 */
import { writeSync } from "node:fs";
import { KeyvaultError } from "../../errors.ts";
import { openVaultStore, type AuditLine } from "../index.ts";
import { SeededNumbers } from "../../../../tools/testing/hostile.ts";
import { keyOf, line, MASTER, newKey, newSecret, random, TENANT, valueOf, VAULT } from "./store-world.ts";

const [url = "", seed = "0"] = process.argv.slice(2);
const store = await openVaultStore({ url, master: MASTER, clock: { now: Date.now }, random });
const say = (text: string): void => void writeSync(1, `${text}\n`);

/** Lanes of the writer, and names of each. */
const LANES = 6;
const NAMES = 4;

/** One after the other; lanes have names of their own, so that what a lane sees is what it has done. */
async function lane(number: number): Promise<void> {
  const numbers = new SeededNumbers(Number(seed) * 100 + number);
  for (let count = 0; ; count++) {
    const id = `request ${seed}-${number}-${count}`;
    const name = `lane${number}-${numbers.below(NAMES)}`;
    const audit = (operation: string, vault = VAULT): AuditLine => line(operation, name, { requestId: id, vault });
    const key = newKey(name, { secret: keyOf(id), tags: { by: id } });
    const secret = newSecret(name, valueOf(id), { tags: { by: id } });
    const operations: readonly (() => Promise<unknown>)[] = [
      async () => store.addKey(key, audit("keys/create")),
      async () => store.addKey(key, audit("keys/create")),
      async () => store.updateKey(VAULT, name, undefined, () => ({ tags: { by: id }, enabled: count % 2 === 0 }), audit("keys/update")),
      async () => store.deleteKey(VAULT, name, audit("keys/delete")),
      async () => store.recoverKey(VAULT, name, audit("keys/recover")),
      async () => store.purgeKey(VAULT, name, audit("keys/purge")),
      async () => store.setSecret(secret, audit("secrets/set")),
      async () => store.setSecret(secret, audit("secrets/set")),
      async () => store.updateSecret(VAULT, name, undefined, { tags: { by: id } }, audit("secrets/update")),
      async () => store.deleteSecret(VAULT, name, audit("secrets/delete")),
      async () => store.recoverSecret(VAULT, name, audit("secrets/recover")),
      async () => store.purgeSecret(VAULT, name, audit("secrets/purge")),
      async () => {
        await store.appendAudit(audit("keys/release"));
        return true;
      },
      async () => store.setAccessPolicy(VAULT, { tenantId: TENANT, id: name }, { keys: ["get"] }, audit("access/give")),
      async () => store.setAccessPolicy(VAULT, { tenantId: TENANT, id: name }, { keys: [] }, audit("access/take")),
      async () => {
        const backup = await store.backupKey(VAULT, name, { ...audit("keys/backup"), requestId: `${id} backup` }, "vault");
        return backup === undefined ? undefined : store.restoreKey(`copy of ${id}`, backup, audit("keys/restore", `copy of ${id}`));
      },
    ];
    try {
      const done = await numbers.pick(operations)();
      if (done !== undefined && done !== false) say(id);
      if (number === 0 && count % 10 === 0) await store.rotateWrappingKey();
    } catch (error) {
      // A deleted key has the name.
      if (!(error instanceof KeyvaultError) || error.code !== "ERR_KEYVAULT_CONFLICT") throw error;
    }
  }
}

// What a killed writer has left half sealed is finished by every second one, before anything else; the others go on with it while they write.
if (Number(seed) % 2 === 0) await store.rotateWrappingKey();
say("ready");
await Promise.all(Array.from({ length: LANES }, async (_, number) => lane(number)));
