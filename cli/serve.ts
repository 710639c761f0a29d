import { once } from "node:events";
import { jsonLogger, messageOf, type Logger } from "@sealpod/core";
import {
  describeSettings,
  isLoopback,
  parseAddress,
  printSettings,
  readConfiguration,
  type CommonSettings,
  type CommonValues,
  type ReadSettings,
  type SettingsSchema,
  type StartedService,
} from "@sealpod/service";
import { EXIT, type CliContext } from "./context.ts";
import type { DevelopmentFiles } from "./development.ts";
import { CliError } from "./errors.ts";
import type { GlobalOptions, Verb } from "./program.ts";

/** Flags of every `serve`. */
export interface ServeOptions extends GlobalOptions {
  readonly config?: string;
  readonly printConfig?: boolean;
  readonly describeConfig?: boolean;
  readonly dev?: string;
  readonly listen?: string;
}

/** What `--dev` has made, and what it has started. */
export interface ServedDevelopment extends DevelopmentFiles {
  /** Fields besides its directory of the JSON that says that the service listens. */
  readonly summary?: object;
  /** A service that the other one needs: it is stopped after it, and reads its files again with it. */
  readonly beside?: StartedService | undefined;
}

/** What a service takes of this process. */
export interface ServePorts {
  readonly clock: CliContext["clock"];
  readonly random: CliContext["random"];
  readonly logger: Logger;
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  readonly env: CliContext["env"];
  readonly uid: number | undefined;
  readonly cwd: string;
  readonly ownsProcess: true;
}

/** A service that `sealpod <command> serve` runs. */
export interface Served<S extends SettingsSchema & CommonSettings, O extends ServeOptions, R extends StartedService> {
  readonly command: string;
  /** Name in the log. */
  readonly name: string;
  readonly schema: S;
  readonly prefix: string;
  /** Flags that go with `--dev` alone: option, flag, and the key that says the same in a configuration. */
  readonly devFlags: readonly (readonly [keyof O, string, string])[];
  /** What else is wrong with the flags. */
  readonly problemOf?: (options: O) => string | undefined;
  readonly openDevelopment: (options: O, directory: string, context: CliContext) => Promise<ServedDevelopment>;
  readonly start: (settings: ReadSettings<S>["value"], ports: ServePorts) => Promise<R>;
  /** What to tell the user once it listens. */
  readonly startedText: (settings: ReadSettings<S>["value"], server: R) => readonly string[];
}

/** The verb that runs a service until the context's signal. */
export function serveVerb<const S extends SettingsSchema & CommonSettings, O extends ServeOptions, R extends StartedService>(served: Served<S, O, R>): Verb<O> {
  return async (options, _operands, context) => {
    if (options.describeConfig === true) {
      context.stdout.write(describeSettings(served.schema, served.prefix));
      return EXIT.ok;
    }
    checkFlags(served, options);
    const { dev, config, printConfig } = options;
    await using stack = new AsyncDisposableStack();
    const development = dev === undefined ? undefined : await served.openDevelopment(options, dev, context);
    const beside = development?.beside;
    if (beside !== undefined) stack.defer(async () => beside.stop());
    // What runs with --dev is what its directory says, wherever it is started from.
    const env = development === undefined ? context.env : {};
    const isDraft = printConfig === true && development === undefined;
    const { value, effective } = await readConfiguration(served, development?.config ?? config, { env, cwd: context.cwd }, isDraft);
    if (printConfig === true) {
      context.stdout.write(printSettings(effective));
      return EXIT.ok;
    }
    const ports = servePorts(served.name, value as Pick<CommonValues, "log">, env, context);
    const server = await served.start(value, ports);
    if (options.json === true) context.stdout.write(`${JSON.stringify({ ...server.summary, directory: development?.directory, ...development?.summary })}\n`);
    else context.stdout.write(`${[...served.startedText(value, server), ...((await development?.lines()) ?? [])].join("\n")}\nCtrl-C ends it.\n`);
    await untilStopped(beside === undefined ? [server] : [server, beside], ports.logger, context);
    await server.stop();
    return EXIT.ok;
  };
}

/** What a service takes of this process. @param settings its own, for the log's level */
export function servePorts(name: string, { log }: Pick<CommonValues, "log">, env: CliContext["env"], { clock, random, stderr, cwd }: CliContext): ServePorts {
  return {
    clock,
    random,
    logger: jsonLogger(clock, (line) => stderr.write(line), log.level, name),
    fetch: async (url, init) => fetch(url, init),
    env,
    uid: process.getuid?.(),
    cwd,
    ownsProcess: true,
  };
}

/**
 * The address of a flag, which others must not reach.
 * @param options `example` is an address for the message, `beside` says what lies in the directory: `its token lies`
 * @throws {CliError} ERR_CLI_USAGE
 */
export function loopbackAddress(
  flag: string,
  text: string,
  { example, beside }: { readonly example: string; readonly beside: string },
): { readonly listen: string; readonly port: number } {
  const address = parseAddress(text);
  if (address !== undefined && address.port !== 0 && isLoopback(address.host)) return { listen: text, port: address.port };
  throw new CliError("ERR_CLI_USAGE", `${flag} ${text} is no loopback address with a port such as ${example}`, {
    hint: `Its certificate is self-signed and ${beside} beside it: for other machines write a configuration, see --describe-config.`,
  });
}

/** The line that says where health and metrics are. */
export function healthLine({ url, operationsUrl, summary }: StartedService): string {
  const operations = summary["operations"] === "main" ? url : operationsUrl;
  return `health         ${operations === undefined ? "nowhere" : `${operations}/healthz, /readyz, /metrics`}`;
}

/** Roots of evidence, with a word about those that prove nothing. */
export function rootsText(names: readonly string[]): string {
  return names.map((name) => (name === "amd" ? "amd" : `${name} (not AMD's: its evidence proves nothing about hardware)`)).join(", ");
}

async function untilStopped(servers: readonly StartedService[], logger: Logger, { signal, stdout }: CliContext): Promise<void> {
  const reload = (): void => {
    for (const server of servers) void server.reload().catch((error: unknown) => logger.log("error", "reload failed", { problem: messageOf(error) }));
  };
  // A terminal sends it when it is closed: what runs there is to end with it.
  if (!stdout.isTerminal) process.on("SIGHUP", reload);
  try {
    if (!signal.aborted) await once(signal, "abort");
  } finally {
    process.off("SIGHUP", reload);
  }
  logger.log("info", "stopping", { signal: String(signal.reason) });
}

function checkFlags<S extends SettingsSchema & CommonSettings, O extends ServeOptions, R extends StartedService>(served: Served<S, O, R>, options: O): void {
  const { config, dev, printConfig } = options;
  const stray = dev === undefined ? served.devFlags.find(([name]) => options[name] !== undefined) : undefined;
  const problem =
    config !== undefined && dev !== undefined
      ? "--config and --dev are two ways to say the same"
      : stray !== undefined
        ? `${stray[1]} is for --dev; a configuration says it with ${stray[2]}`
        : config === undefined && dev === undefined && printConfig !== true
          ? "neither --config nor --dev is given"
          : served.problemOf?.(options);
  if (problem !== undefined) {
    throw new CliError("ERR_CLI_USAGE", problem, { hint: `Quick start: sealpod ${served.command} serve --dev DIR. For good: --config FILE.` });
  }
}
