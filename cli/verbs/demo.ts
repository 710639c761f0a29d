import { join } from "node:path";
import { EMULATED, formatResult, formatSummary, runDemo } from "@sealpod/demo";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { isolationOf, UVM_DIRECTORY } from "../laptop.ts";
import { Progress } from "../progress.ts";
import { guestNode, pathOf, ROOT } from "../workspace.ts";

interface DemoVerbOptions {
  readonly keep?: string;
  readonly port?: string;
  readonly isolation: string;
}

/** `sealpod demo`. Exit code 0 only if every step and every refusal came out as said. */
export const run: Verb<DemoVerbOptions> = async (options, _operands, context) => {
  const port = options.port === undefined ? undefined : Number(options.port);
  if (port !== undefined && !(Number.isInteger(port) && port > 0 && port < 65_536))
    throw new CliError("ERR_CLI_USAGE", `--port ${options.port ?? ""} is not a port number`);
  if (process.platform !== "linux" || process.getuid?.() !== 0) {
    throw new CliError("ERR_CLI_PLATFORM", "the demo makes namespaces and mounts, which needs root on Linux", {
      hint: "Run it as root, for example in a throw-away Debian 12 virtual machine.",
    });
  }
  using progress = new Progress(context);
  const text = options.json !== true;
  if (text) for (const line of EMULATED) context.stdout.write(`EMULATED: ${line}\n`);
  const result = await runDemo({
    files: { example: join(ROOT, "examples", "key-release"), bundles: join(ROOT, "build"), uvm: UVM_DIRECTORY },
    isolation: isolationOf(options.isolation),
    node: guestNode(),
    ...(options.keep === undefined ? {} : { keep: pathOf(options.keep, context) }),
    ...(port === undefined ? {} : { port }),
    signal: context.signal,
    onProgress: (message) => progress.show(message),
    onResult: (item) => {
      progress.clear();
      if (text) context.stdout.write(formatResult(item));
    },
    clock: context.clock,
    random: context.random,
  });
  context.stdout.write(text ? `\n${formatSummary(result)}` : `${JSON.stringify(result, undefined, 2)}\n`);
  return result.ok ? EXIT.ok : EXIT.failed;
};
