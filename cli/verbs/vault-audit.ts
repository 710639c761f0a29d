import { formatAuditLine, readVaultAudit } from "@sealpod/keyvault";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";
import { numberOf, readVaultSettings, vaultPorts, writeResult, type ConfigOptions } from "../vault/configuration.ts";

interface Options extends ConfigOptions {
  readonly vault?: string;
  readonly name?: string;
  readonly operation?: string;
  readonly requestId?: string;
  readonly limit: string;
  readonly before?: string;
}

const MAX_LINES = 1000;

/** `sealpod vault audit`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const { vault, name, operation, requestId } = options;
  const limit = numberOf("--limit", options.limit, 1, MAX_LINES);
  const filter = {
    ...(vault === undefined ? {} : { vault }),
    ...(name === undefined ? {} : { name }),
    ...(operation === undefined ? {} : { operation }),
    ...(requestId === undefined ? {} : { requestId }),
    ...(options.before === undefined ? {} : { before: numberOf("--before", options.before, 1, Number.MAX_SAFE_INTEGER) }),
    limit,
  };
  const lines = await readVaultAudit(await readVaultSettings(options.config, context), filter, vaultPorts(context));
  const last = lines.length === limit ? lines.at(-1)?.id : undefined;
  writeResult(options, context, { value: lines, nextBefore: last ?? null }, () => lines.map((line) => `${formatAuditLine(line)}\n`).join(""));
  if (options.json !== true && last !== undefined) context.stderr.write(`More with --before ${last}.\n`);
  return EXIT.ok;
};
