import { chown, readdir, realpath, stat, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { jsonLogger, type Logger, type LogLevel, silentLogger } from "@sealpod/core";
import { fileCacheStore, runGenpolicy, TerminalProgress, type GenpolicyOptions, type GenpolicyPorts, type SourceSpec } from "@sealpod/genpolicy";
import { systemCode, writeFileAtomic } from "@sealpod/io";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { sourceOpener, type SourceOptions } from "../genpolicy/sources.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { layoutDirectories, pathOf, readIfPresent, readStdin } from "../workspace.ts";

/** The flags of `genpolicy`; those of the package, and those that say how images come here. */
export interface GenpolicyFlags extends GenpolicyOptions, SourceOptions {
  /** Layers to read at a time. */
  readonly jobs?: string;
}

/** `sealpod genpolicy`. */
export const run: Verb<GenpolicyFlags> = async (options, _operands, context) => {
  using progress = context.stderr.isTerminal
    ? new TerminalProgress({ write: (text) => context.stderr.write(text), columns: () => context.stderr.columns || 80 }, context.clock)
    : undefined;
  // JSON stands alone on standard output: what -r and -b ask for is in it.
  const isJson = options.json === true;
  const policies = await runGenpolicy(options, { ...(await portsOf(options, context)), ...(progress === undefined ? {} : { progress }) });
  progress?.clear();
  if (isJson) {
    const rows = policies.map(({ kind, name, hostData, policy, annotation }) => ({
      kind,
      name,
      hostData,
      ...(options.rawOut === true ? { policy } : {}),
      ...(options.base64Out === true ? { annotation } : {}),
    }));
    context.stdout.write(`${JSON.stringify(rows, undefined, 2)}\n`);
  } else if (options.yamlFile !== undefined && context.stderr.isTerminal) {
    for (const { kind, name, hostData } of policies) context.stderr.write(`${kind} ${name}: HOST_DATA ${hostData}\n`);
  }
  return EXIT.ok;
};

async function portsOf(options: GenpolicyFlags & GlobalOptions, context: CliContext): Promise<GenpolicyPorts> {
  const logger = loggerOf(context);
  return {
    readFile: async (path, limit) => readIfPresent(path, limit, context),
    listDirectory: async (path) => readdir(pathOf(path, context)).catch(() => undefined),
    writeFile: async (path, bytes) => rewriteFile(pathOf(path, context), bytes),
    readStdin: async (limit) => readStdin(context, limit),
    writeStdout: (text) => (options.json === true ? undefined : context.stdout.write(text)),
    writeStderr: (line) => context.stderr.write(`${line}\n`),
    defaultSources: await defaultSources(options, context),
    openSource: sourceOpener(options, context, logger),
    cacheStore: (path) => fileCacheStore(pathOf(path, context)),
    threads: threadsOf(options.jobs),
    logger,
  };
}

/** The images that `sealpod example-images` made, if it did; then the registries. */
async function defaultSources(options: GlobalOptions, context: CliContext): Promise<readonly SourceSpec[]> {
  const sources: SourceSpec[] = [];
  for (const path of layoutDirectories(undefined, options, context)) {
    if ((await stat(join(path, "oci-layout")).catch(() => undefined))?.isFile() === true) sources.push({ kind: "oci", path });
  }
  return [...sources, { kind: "registry" }];
}

/** Replaces the user's file at once, where it really lies, and leaves it whose it was. */
export async function rewriteFile(path: string, bytes: Uint8Array): Promise<void> {
  const file = await realpath(path).catch(() => path);
  const before = await stat(file).catch(() => undefined);
  if (before !== undefined && !before.isFile()) {
    throw new CliError("ERR_CLI_FILE", `${path} is no regular file and cannot be rewritten`, {
      hint: "Leave -y out to read standard input and write standard output.",
    });
  }
  try {
    await writeFileAtomic(file, bytes, (before?.mode ?? 0o644) & 0o777);
  } catch (error) {
    // A file that is a mount point, as containers have them, cannot be replaced, only written.
    if (systemCode(error instanceof Error ? error.cause : undefined) !== "EBUSY") throw error;
    await writeFile(file, bytes);
  }
  const after = await stat(file);
  if (before !== undefined && (after.uid !== before.uid || after.gid !== before.gid)) await chown(file, before.uid, before.gid);
}

function threadsOf(jobs: string | undefined): number {
  if (jobs === undefined) return availableParallelism();
  if (!/^[1-9][0-9]{0,2}$/.test(jobs)) throw new CliError("ERR_CLI_USAGE", `--jobs ${jobs} is not a number from 1 to 999`);
  return Number(jobs);
}

/** `RUST_LOG=info`, as the known tool reads it; a filter by module is taken by its level. Without it, warnings are text. */
function loggerOf(context: CliContext): Logger {
  const match = /(?:^|[=,])(trace|debug|info|warn|error|off)\b/.exec(context.env["RUST_LOG"] ?? "");
  if (match === null) {
    return { log: (level, message) => (level === "warn" || level === "error" ? context.stderr.write(`warning: ${message}\n`) : undefined) };
  }
  if (match[1] === "off") return silentLogger;
  return jsonLogger(context.clock, (line) => context.stderr.write(line), match[1] === "trace" ? "debug" : (match[1] as LogLevel), "genpolicy");
}
