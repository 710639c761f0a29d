import { checkVaultDatabase, type VaultCheck } from "@sealpod/keyvault";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { counted, readVaultSettings, vaultPorts, writeResult, type ConfigOptions } from "../vault/configuration.ts";

/** `sealpod vault check`. */
export const run: Verb<ConfigOptions> = async (options, _operands, context) => {
  const check = await checkVaultDatabase(await readVaultSettings(options.config, context), vaultPorts(context));
  const isWhole = check.unreadable.length === 0 && check.damage.length === 0;
  writeResult(options, context, { ok: isWhole, ...check }, () => checkText(check));
  return isWhole ? EXIT.ok : EXIT.failed;
};

function checkText({ database, masterKey, wrappingKeys, counts, unreadable, damage }: VaultCheck): string {
  const active = wrappingKeys.find(({ state }) => state === "active");
  const lines = [
    `database      ${database}`,
    `master key    ${masterKey}`,
    `wrapping key  ${active === undefined ? "none" : `${active.id}, made ${new Date(active.created).toISOString()}, seals ${counted(active.records, "record")}`}`,
    ...wrappingKeys.filter((key) => key !== active).map(({ id, records }) => `              ${id}, retired, seals ${counted(records, "record")}`),
    `keys          ${counts.keys} in ${counted(counts.keyVersions, "version")}`,
    `secrets       ${counts.secrets} in ${counted(counts.secretVersions, "version")}`,
    `deleted       ${counted(counts.deleted, "name")} of these, not purged yet`,
    `access        ${counted(counts.accessPolicies, "access policy")}, ${counted(counts.roleAssignments, "role assignment")}`,
    `audit         ${counted(counts.auditLines, "line")}`,
    ...damage.map((text) => `DAMAGED       ${text}`),
    ...unreadable.map(({ collection, vault, name, version }) => `DOES NOT OPEN ${collection} ${vault}/${name}/${version}`),
    unreadable.length === 0 && damage.length === 0
      ? "Every key and secret opens."
      : "Somebody has changed the database behind the service, or its disk has. Restore these keys and secrets from their backups, or the database from a copy.",
  ];
  return `${lines.join("\n")}\n`;
}
