import { constants, generateKeyPairSync, privateDecrypt } from "node:crypto";
import type { JsonWebKey } from "@azure/keyvault-keys";
import { errorOf, idOf, listOf, pagesOf, sameBytes, versionOf, type Scenario } from "./keyvault-clients.ts";

/** Milliseconds. The deletions and recoveries of this service are done when they are answered: no poller comes to wait. */
const intervalInMs = 10;

/** From the first version to the purge. */
export const lifecycle: Scenario = async (clients) => {
  const keys = clients.keys();
  const created = await keys.createKey("life", "RSA", { keySize: 2048, tags: { team: "a" }, keyOps: ["sign", "verify"] });
  const first = { version: versionOf(created) };
  const second = await keys.createEcKey("life", { curve: "P-384", enabled: false });
  const read = await keys.getKey("life", first);
  const latest = await keys.getKey("life");
  const updated = await keys.updateKeyProperties("life", first.version, {
    tags: { team: "b" },
    enabled: true,
    expiresOn: new Date(2_000_000_000_000),
    notBefore: new Date(1_500_000_000_000),
    keyOps: ["sign"],
  });
  const updatedLatest = await keys.updateKeyProperties("life", { tags: { latest: "yes" } });
  const versionsFound = await listOf(keys.listPropertiesOfKeyVersions("life"));
  for (const name of ["page-a", "page-b", "page-c", "page-d"]) await keys.createEcKey(name, { curve: "P-256" });
  const items = await listOf(keys.listPropertiesOfKeys());
  const sizes = await pagesOf(keys.listPropertiesOfKeys().byPage({ maxPageSize: 2 }));
  const versionSizes = await pagesOf(keys.listPropertiesOfKeyVersions("life").byPage({ maxPageSize: 1 }));
  const tooLarge = await errorOf(pagesOf(keys.listPropertiesOfKeys().byPage({ maxPageSize: 26 })));

  const deleting = await keys.beginDeleteKey("life", { intervalInMs });
  const deleted = await deleting.pollUntilDone();
  const conflict = await errorOf(keys.createKey("life", "RSA"));
  const gone = await errorOf(keys.getKey("life"));
  const goneVersion = await errorOf(keys.getKey("life", first));
  const shown = await keys.getDeletedKey("life");
  const allDeleted = (await listOf(keys.listDeletedKeys())).map(({ name }) => name);
  const recovering = await keys.beginRecoverDeletedKey("life", { intervalInMs });
  const recovered = await recovering.pollUntilDone();
  const back = await keys.getKey("life", first);
  await (await keys.beginDeleteKey("life", { intervalInMs })).pollUntilDone();
  await keys.purgeDeletedKey("life");
  const purged = await errorOf(keys.getDeletedKey("life"));
  const purgedTwice = await errorOf(keys.purgeDeletedKey("life"));
  const deletedTwice = await errorOf(keys.beginDeleteKey("life", { intervalInMs }));
  const again = await keys.createEcKey("life", { curve: "P-256" });
  const { purge, deletedOn } = { purge: shown.properties.scheduledPurgeDate?.getTime() ?? 0, deletedOn: shown.properties.deletedOn?.getTime() ?? 0 };
  return {
    created: {
      name: created.name,
      kty: created.keyType,
      ops: created.keyOperations,
      tags: created.properties.tags,
      enabled: created.properties.enabled,
      vaultUrl: created.properties.vaultUrl,
      exportable: created.properties.exportable,
      recovery: [created.properties.recoveryLevel, created.properties.recoverableDays],
      bits: (created.key?.n?.length ?? 0) * 8,
      isNow: Math.abs((created.properties.createdOn?.getTime() ?? 0) - Date.now()) < 60_000,
    },
    second: { kty: second.keyType, crv: second.key?.crv, enabled: second.properties.enabled },
    isRead: read.id === created.id && sameBytes(read.key?.n, created.key?.n ?? new Uint8Array()),
    isLatest: latest.id === second.id,
    updated: {
      tags: updated.properties.tags,
      ops: updated.keyOperations,
      expires: updated.properties.expiresOn?.getTime(),
      notBefore: updated.properties.notBefore?.getTime(),
    },
    updatedLatest: { isSecond: updatedLatest.id === second.id, tags: updatedLatest.properties.tags, enabled: updatedLatest.properties.enabled },
    versions: versionsFound.map(({ version }) => version ?? ""),
    expectedVersions: [versionOf(created), versionOf(second)],
    names: items.map(({ name }) => name),
    sizes,
    versionSizes,
    tooLarge,
    deleted: { name: deleted.name, recoveryId: deleted.properties.recoveryId, days: (purge - deletedOn) / 86_400_000 },
    conflict,
    gone,
    goneVersion,
    allDeleted,
    recovered: recovered.name,
    isBack: back.id === created.id,
    purged,
    purgedTwice,
    deletedTwice,
    isNew: again.id !== created.id && again.keyType,
  };
};

/** A JSON web key as the client has it: with bytes. */
function bytesOf(jwk: Readonly<Record<string, unknown>>): JsonWebKey {
  const isText = (name: string): boolean => name === "kty" || name === "crv";
  return Object.fromEntries(Object.entries(jwk).map(([name, value]) => [name, isText(name) ? value : Buffer.from(String(value), "base64url")])) as JsonWebKey;
}

/** Keys from elsewhere, and back from a backup. */
export const imports: Scenario = async (clients) => {
  const keys = clients.keys();
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const jwk = bytesOf({ ...privateKey.export({ format: "jwk" }) });
  const imported = await keys.importKey("imported", { ...jwk, keyOps: ["decrypt", "encrypt"] }, { tags: { from: "elsewhere" } });
  const sealed = await clients.cryptography(imported).encrypt({ algorithm: "RSA-OAEP", plaintext: Buffer.from("for the imported key") });
  const openedHere = privateDecrypt({ key: privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING }, sealed.result).toString();
  const hardware = await keys.importKey("imported-hsm", jwk, { hardwareProtected: true });
  const ec = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const curve = await keys.importKey("imported-ec", bytesOf({ ...ec.export({ format: "jwk" }) }));
  const oct = await clients.hsmKeys().importKey("imported-oct", { kty: "oct-HSM", k: Buffer.alloc(32, 7) });
  const mixed = await errorOf(keys.importKey("mixed", { ...jwk, p: jwk.q ?? new Uint8Array() }));
  const publicOnly = await errorOf(keys.importKey("public", { kty: "RSA", n: jwk.n ?? new Uint8Array(), e: jwk.e ?? new Uint8Array() }));
  const softOct = await errorOf(keys.importKey("soft-oct", { kty: "oct", k: Buffer.alloc(32, 7) }));

  const backup = (await keys.backupKey("imported")) ?? new Uint8Array();
  const whilePresent = await errorOf(keys.restoreKeyBackup(backup));
  await (await keys.beginDeleteKey("imported", { intervalInMs })).pollUntilDone();
  const whileDeleted = await errorOf(keys.restoreKeyBackup(backup));
  await keys.purgeDeletedKey("imported");
  const broken = Uint8Array.from(backup);
  broken[broken.length - 20] = (broken[broken.length - 20] ?? 0) ^ 1;
  const spoilt = await errorOf(keys.restoreKeyBackup(broken));
  const elsewhere = await errorOf(clients.hsmKeys().restoreKeyBackup(backup));
  const restored = await keys.restoreKeyBackup(backup);
  const openedThere = await clients.cryptography(idOf(restored)).decrypt({ algorithm: "RSA-OAEP", ciphertext: sealed.result });
  return {
    openedHere,
    openedThere: Buffer.from(openedThere.result).toString(),
    types: [imported.keyType, hardware.keyType, curve.keyType, oct.keyType],
    restored: { isSame: restored.id === imported.id, tags: restored.properties.tags, ops: restored.keyOperations },
    hasSecretInBackup: Buffer.from(backup).includes(Buffer.from(jwk.d ?? new Uint8Array()).subarray(0, 16)),
    mixed,
    publicOnly,
    softOct,
    whilePresent,
    whileDeleted,
    spoilt,
    elsewhere,
  };
};

/** Rotation, by hand and by policy. */
export const rotation: Scenario = async (clients) => {
  const keys = clients.keys();
  const first = await keys.createRsaKey("rotating", { keySize: 2048, tags: { a: "b" }, keyOps: ["sign", "verify"] });
  const preset = await keys.getKeyRotationPolicy("rotating");
  const policy = await keys.updateKeyRotationPolicy("rotating", {
    expiresIn: "P90D",
    lifetimeActions: [
      { action: "Rotate", timeBeforeExpiry: "P30D" },
      { action: "Notify", timeBeforeExpiry: "P7D" },
    ],
  });
  const read = await keys.getKeyRotationPolicy("rotating");
  const rotated = await keys.rotateKey("rotating");
  const tooShort = await errorOf(keys.updateKeyRotationPolicy("rotating", { expiresIn: "P7D" }));
  const missing = await errorOf(keys.rotateKey("not-there"));
  const { createdOn, expiresOn } = rotated.properties;
  return {
    preset: preset.lifetimeActions,
    policy: { expiresIn: policy.expiresIn, id: policy.id, isDated: policy.createdOn instanceof Date && policy.updatedOn instanceof Date },
    actions: read.lifetimeActions,
    rotated: {
      isNew: rotated.id !== first.id && !sameBytes(rotated.key?.n, first.key?.n ?? new Uint8Array()),
      type: rotated.keyType,
      ops: rotated.keyOperations,
      tags: rotated.properties.tags,
      days: ((expiresOn?.getTime() ?? 0) - (createdOn?.getTime() ?? 0)) / 86_400_000,
    },
    versions: (await listOf(keys.listPropertiesOfKeyVersions("rotating"))).length,
    tooShort,
    missing,
  };
};

/** The versions of the interface that clients of different ages ask for. */
export const versions: Scenario = async (clients) => {
  const found: Record<string, unknown> = {};
  await clients.keys().createEcKey("of-ages", { curve: "P-256" });
  await clients.keys().createEcKey("of-ages", { curve: "P-256" });
  for (const serviceVersion of ["7.0", "7.4", "7.5", "7.6", undefined] as const) {
    const options = serviceVersion === undefined ? {} : { serviceVersion };
    const keys = clients.keys(clients.owner, options);
    const secrets = clients.secrets(clients.owner, options);
    const key = await keys.getKey("of-ages");
    const signer = clients.cryptography(idOf(key), clients.owner, options);
    const { result } = await signer.sign("ES256", Buffer.alloc(32, 1));
    const secret = await secrets.setSecret("of-ages", `of ${serviceVersion}`);
    // The link to the second page has the version of the first.
    const pages = await pagesOf(keys.listPropertiesOfKeyVersions("of-ages").byPage({ maxPageSize: 1 }));
    const read = await secrets.getSecret("of-ages", { version: versionOf(secret) });
    found[serviceVersion ?? "preset"] = [key.name, (await signer.verify("ES256", Buffer.alloc(32, 1), result)).result, read.value, pages];
  }
  return { found, unknown: await errorOf(clients.keys(clients.owner, { serviceVersion: "1.0" }).getKey("of-ages")) };
};
