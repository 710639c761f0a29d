import { changeVaultMasterKey, type KeyvaultSettings } from "@sealpod/keyvault";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { counted, readVaultSettings, vaultPorts, writeResult, type ConfigOptions } from "../vault/configuration.ts";
import { pathOf } from "../workspace.ts";

interface Options extends ConfigOptions {
  readonly toFile?: string;
  readonly toEnvironment?: string;
  readonly toConfig?: string;
}

/** `sealpod vault change-master-key`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const next = await nextOf(options, context);
  const changed = await changeVaultMasterKey(await readVaultSettings(options.config, context), next.masterKey, vaultPorts(context));
  writeResult(options, context, changed, () => {
    const { database, from, to, wrappingKeys } = changed;
    const lines = [
      `${database} was opened by ${from}, and is opened by ${to} from now on (${counted(wrappingKeys, "wrapping key")}).`,
      `Now ${next.advice}, and restart the service, every replica of it: until then they go on with what they have opened.`,
      `Keep the old key as long as you keep copies of the database, and backups of keys and secrets, from before.`,
    ];
    return `${lines.join("\n")}\n`;
  });
  return EXIT.ok;
};

interface Next {
  readonly masterKey: KeyvaultSettings["masterKey"];
  /** What is to become of the configuration. */
  readonly advice: string;
}

async function nextOf({ config, toFile, toEnvironment, toConfig }: Options, context: CliContext): Promise<Next> {
  const given = [toFile, toEnvironment, toConfig].filter((item) => item !== undefined);
  if (given.length !== 1) {
    throw new CliError("ERR_CLI_USAGE", `${given.length === 0 ? "none" : "more than one"} of --to-file, --to-environment and --to-config is given`, {
      hint: "Make a new key with: (umask 077; openssl rand -hex 32 > new.key), and name it with --to-file new.key.",
    });
  }
  if (toConfig !== undefined)
    return { masterKey: (await readVaultSettings(toConfig, context)).masterKey, advice: `put the masterKey of ${toConfig} into ${config}` };
  const masterKey = {
    file: toFile === undefined ? undefined : pathOf(toFile, context),
    environment: toEnvironment,
    allowGroup: false,
    pkcs11: undefined,
  };
  const setting = toFile === undefined ? { environment: toEnvironment } : { file: masterKey.file };
  return { masterKey, advice: `write "masterKey": ${JSON.stringify(setting)} into ${config}` };
}
