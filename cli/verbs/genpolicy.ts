import { readdir, readFile, stat } from "node:fs/promises";
import { jsonLogger, type LogLevel } from "@sealpod/core";
import { DATA_DIRECTORY, runGenpolicy, type GenpolicyOptions, type GenpolicyPorts } from "@sealpod/genpolicy";
import { directoryTree, writeFileAtomic } from "@sealpod/io";
import { openLayout } from "@sealpod/oci";
import { EXIT, VERSION, type CliContext } from "../context.ts";
import type { Verb } from "../program.ts";
import { layoutDirectories, pathOf, readIfPresent, readStdin } from "../workspace.ts";

/** `sealpod genpolicy`. */
export const run: Verb<GenpolicyOptions> = async (options, _operands, context) => {
  const ociLayout = layoutDirectories(options.ociLayout, options, context);
  const policies = await runGenpolicy({ ...options, ociLayout }, portsOf(context));
  if (options.json === true) {
    context.stdout.write(
      `${JSON.stringify(
        policies.map(({ kind, name, hostData }) => ({ kind, name, hostData })),
        undefined,
        2,
      )}\n`,
    );
  } else if (options.yamlFile !== undefined && context.stderr.isTerminal) {
    for (const { kind, name, hostData } of policies) context.stderr.write(`${kind} ${name}: HOST_DATA ${hostData}\n`);
  }
  return EXIT.ok;
};

function portsOf(context: CliContext): GenpolicyPorts {
  const level = logLevel(context.env["RUST_LOG"]);
  return {
    readFile: async (path, limit) => readIfPresent(path, limit, context),
    listDirectory: async (path) => readdir(pathOf(path, context)).catch(() => undefined),
    writeFile: async (path, bytes) => {
      const full = pathOf(path, context);
      const mode = (await stat(full).catch(() => undefined))?.mode ?? 0o644;
      await writeFileAtomic(full, bytes, mode & 0o777);
    },
    readStdin: async (limit) => readStdin(context, limit),
    writeStdout: (text) => context.stdout.write(text),
    writeStderr: (line) => context.stderr.write(`${line}\n`),
    readDefault: async (name) => readFile(new URL(name, DATA_DIRECTORY)),
    openLayout: async (directory) => openLayout(directoryTree(directory)),
    ...(level === undefined ? {} : { logger: jsonLogger(context.clock, (line) => context.stderr.write(line), level, "genpolicy") }),
    version: VERSION,
  };
}

/** `RUST_LOG=info`, as the known tool reads it; a filter by module is taken by its level. */
function logLevel(text: string | undefined): LogLevel | undefined {
  const match = /(?:^|[=,])(trace|debug|info|warn|error)\b/.exec(text ?? "");
  if (match === null) return undefined;
  return match[1] === "trace" ? "debug" : (match[1] as LogLevel);
}
