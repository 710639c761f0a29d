import { errorOf, listOf, pagesOf, versionOf, type Scenario } from "./keyvault-clients.ts";

const intervalInMs = 10;

/** From the first version to the backup that outlives the purge. */
export const secrets: Scenario = async (clients) => {
  const client = clients.secrets();
  const expiresOn = new Date(2_000_000_000_000);
  const first = await client.setSecret("password", "first value", { contentType: "text/plain", tags: { a: "b" }, expiresOn });
  const second = await client.setSecret("password", "second välue 🔑");
  const old = { version: versionOf(first) };
  const latest = await client.getSecret("password");
  const read = await client.getSecret("password", old);
  const updated = await client.updateSecretProperties("password", old.version, { enabled: false, tags: { c: "d" }, contentType: "text/html" });
  const disabled = await errorOf(client.getSecret("password", old));
  const versions = (await listOf(client.listPropertiesOfSecretVersions("password"))).map(({ version, enabled }) => [version === old.version, enabled]);
  const versionSizes = await pagesOf(client.listPropertiesOfSecretVersions("password").byPage({ maxPageSize: 1 }));
  const missing = await errorOf(client.getSecret("not-there"));
  const missingVersion = await errorOf(client.getSecret("password", { version: "0".repeat(32) }));
  const large = await client.setSecret("large", "x".repeat(25_000));
  const tooLarge = await errorOf(client.setSecret("large", "x".repeat(25_601)));
  const badName = await errorOf(client.setSecret("no_underscores", "x"));

  const backup = (await client.backupSecret("password")) ?? new Uint8Array();
  const deleted = await (await client.beginDeleteSecret("password", { intervalInMs })).pollUntilDone();
  const gone = await errorOf(client.getSecret("password"));
  const conflict = await errorOf(client.setSecret("password", "third"));
  const shown = await client.getDeletedSecret("password");
  const allDeleted = (await listOf(client.listDeletedSecrets())).map(({ name }) => name);
  await (await client.beginRecoverDeletedSecret("password", { intervalInMs })).pollUntilDone();
  const back = await client.getSecret("password");
  const taken = await errorOf(client.restoreSecretBackup(backup));
  await (await client.beginDeleteSecret("password", { intervalInMs })).pollUntilDone();
  await client.purgeDeletedSecret("password");
  const purged = await errorOf(client.getDeletedSecret("password"));
  const restored = await client.restoreSecretBackup(backup);
  const restoredValue = await client.getSecret("password", { version: versionOf(second) });
  const restoredOld = await errorOf(client.getSecret("password", old));
  return {
    first: { name: first.name, type: first.properties.contentType, tags: first.properties.tags, vaultUrl: first.properties.vaultUrl },
    read: { value: read.value, type: read.properties.contentType, tags: read.properties.tags, expires: read.properties.expiresOn?.getTime() },
    latest: { value: latest.value, isSecond: latest.properties.id === second.properties.id },
    updated: { enabled: updated.enabled, tags: updated.tags, type: updated.contentType, hasValue: "value" in updated },
    disabled,
    versions,
    versionSizes,
    missing,
    missingVersion,
    large: (await client.getSecret("large")).value?.length,
    largeName: large.name,
    tooLarge,
    badName,
    deleted: { name: deleted.name, recoveryId: deleted.properties.recoveryId, hasValue: deleted.value !== undefined },
    gone,
    conflict,
    shown: { name: shown.name, isScheduled: shown.properties.scheduledPurgeDate instanceof Date, hasValue: shown.value !== undefined },
    allDeleted,
    back: back.value,
    taken,
    purged,
    restored: restored.name,
    restoredValue: restoredValue.value,
    restoredOld,
    hasValueInBackup: Buffer.from(backup).includes("second"),
  };
};

/** More secrets than a page holds. */
export const secretPages: Scenario = async (clients) => {
  const client = clients.secrets();
  const before = (await listOf(client.listPropertiesOfSecrets())).length;
  await Promise.all(Array.from({ length: 28 }, async (_, index) => client.setSecret(`many-${String(index).padStart(2, "0")}`, `value ${index}`)));
  const items = await listOf(client.listPropertiesOfSecrets());
  const mine = items.filter(({ name }) => name.startsWith("many-"));
  return {
    sizes: (await pagesOf(client.listPropertiesOfSecrets().byPage())).map((size, index) => (index === 0 ? size : size - before)),
    small: (await pagesOf(client.listPropertiesOfSecrets().byPage({ maxPageSize: 7 }))).reduce((sum, size) => sum + size, 0) - before,
    smallest: (await pagesOf(client.listPropertiesOfSecrets().byPage({ maxPageSize: 7 }))).slice(0, 4),
    names: [mine.length, new Set(mine.map(({ name }) => name)).size, items.length - before],
    hasValues: items.some((item) => "value" in item),
    tooLarge: await errorOf(pagesOf(client.listPropertiesOfSecrets().byPage({ maxPageSize: 26 }))),
  };
};
