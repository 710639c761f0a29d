import { backupVaultDatabase } from "@sealpod/keyvault";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { counted, readVaultSettings, vaultPorts, writeResult, type ConfigOptions } from "../vault/configuration.ts";
import { pathOf } from "../workspace.ts";

interface Options extends ConfigOptions {
  readonly output: string;
}

/** `sealpod vault backup`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const file = pathOf(options.output, context);
  const { database, counts } = await backupVaultDatabase(await readVaultSettings(options.config, context), file, vaultPorts(context));
  writeResult(options, context, { database, file, counts }, () => {
    const what = `${counted(counts.keyVersions, "key version")}, ${counted(counts.secretVersions, "secret version")} and ${counted(counts.auditLines, "audit line")}`;
    return `${file} has ${what} of ${database}.\nIt opens with the master key alone: keep that too, elsewhere.\n`;
  });
  return EXIT.ok;
};
