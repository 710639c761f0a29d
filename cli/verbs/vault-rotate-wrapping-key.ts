import { rotateVaultWrappingKey } from "@sealpod/keyvault";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { Progress } from "../progress.ts";
import { counted, readVaultSettings, vaultPorts, writeResult, type ConfigOptions } from "../vault/configuration.ts";

/** `sealpod vault rotate-wrapping-key`. */
export const run: Verb<ConfigOptions> = async (options, _operands, context) => {
  using progress = new Progress(context);
  const settings = await readVaultSettings(options.config, context);
  const rotation = await rotateVaultWrappingKey(settings, vaultPorts(context), (done, all) => progress.show(`sealed again: ${done} of ${all}`));
  progress.clear();
  const { database, wrappingKey, records } = rotation;
  writeResult(options, context, rotation, () => `Wrapping key ${wrappingKey} of ${database} is active; ${counted(records, "record")} sealed again under it.\n`);
  return EXIT.ok;
};
