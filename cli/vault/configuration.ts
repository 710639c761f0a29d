import { KEYVAULT_PREFIX, KEYVAULT_SETTINGS, type KeyvaultSettings } from "@sealpod/keyvault";
import { readConfiguration } from "@sealpod/service";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions } from "../program.ts";
import { printable } from "../rego/output.ts";

/** What reads a configuration of the key vaults. */
export const VAULT_PROGRAM: { readonly schema: typeof KEYVAULT_SETTINGS; readonly prefix: string } = { schema: KEYVAULT_SETTINGS, prefix: KEYVAULT_PREFIX };

/** The flag of the verbs that work on a service's database. */
export interface ConfigOptions {
  readonly config: string;
}

/** What opening the database takes of this process. */
export interface VaultPorts {
  readonly clock: CliContext["clock"];
  readonly random: CliContext["random"];
  readonly env: CliContext["env"];
  readonly uid: number | undefined;
  readonly cwd: string;
}

/**
 * The configuration of the service whose database is meant.
 * @throws {ServiceError} ERR_SERVICE_CONFIG
 */
export async function readVaultSettings(file: string, context: CliContext): Promise<KeyvaultSettings> {
  return (await readConfiguration(VAULT_PROGRAM, file, { env: context.env, cwd: context.cwd })).value;
}

/** The process as the vault's database needs it. */
export function vaultPorts({ clock, random, env, cwd }: CliContext): VaultPorts {
  return { clock, random, env, uid: process.getuid?.(), cwd };
}

/**
 * A number of the command line.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function numberOf(flag: string, text: string, smallest: number, largest: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= smallest && value <= largest) return value;
  throw new CliError("ERR_CLI_USAGE", `${flag} ${text.slice(0, 40)} is not a number from ${smallest} to ${largest}`);
}

/** `2 keys`, `1 key`. */
export function counted(count: number, noun: string): string {
  return `${count} ${count === 1 ? noun : noun.endsWith("y") ? `${noun.slice(0, -1)}ies` : `${noun}s`}`;
}

/** Writes a result as JSON, or as the text that stands for it. */
export function writeResult(options: GlobalOptions, context: CliContext, result: object, text: () => string): void {
  context.stdout.write(options.json === true ? `${JSON.stringify(result, undefined, 2)}\n` : printable(text()));
}
