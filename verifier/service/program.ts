import { readFile } from "node:fs/promises";
import { dirname, isAbsolute, resolve } from "node:path";
import { parseArgs } from "node:util";
import { isSealpodError, jsonLogger, messageOf, type Clock, type Logger } from "@sealpod/core";
import type { CommonSettings } from "./common-settings.ts";
import { ServiceError } from "./errors.ts";
import { LogWriter } from "./log-writer.ts";
import { describeSettings, printSettings, readSettings, type ReadSettings, type SettingsSchema } from "./settings.ts";

/** Milliseconds in which a repeated signal is still the same wish: some programs signal a process and then its group. */
const SAME_WISH = 500;
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

/** What runs a service for its main program. */
export interface ServiceProgram<S extends SettingsSchema & CommonSettings> {
  /** Name in usage and log, e.g. `attestation`. */
  readonly name: string;
  /** What it does, in one sentence. */
  readonly summary: string;
  readonly version: string;
  readonly schema: S;
  /** Of its environment variables, e.g. `SEALPOD_ATTESTATION_`. */
  readonly prefix: string;
  /** Starts; whoever calls waits for a signal and stops it. */
  start(settings: ReadSettings<S>["value"], ports: { readonly logger: Logger; readonly env: ServiceProcess["env"] }): Promise<StartedProgram>;
}

/** A service that listens. */
export interface StartedProgram {
  /** Fields of the log line that says so: addresses, and what is trusted. */
  readonly summary: Readonly<Record<string, string | number | boolean>>;
  /** On SIGHUP. */
  reload(): Promise<void>;
  /** Returns when all is closed. */
  stop(): Promise<void>;
}

/** The process around it; `main.ts` fills it. */
export interface ServiceProcess {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  readonly clock: Clock;
  /** Results: the configuration that was asked for. */
  readonly stdout: (text: string) => void;
  /** Why it did not start. */
  readonly stderr: (text: string) => void;
  /** File descriptor of the log. */
  readonly log: number;
  onSignal(name: "SIGINT" | "SIGTERM" | "SIGHUP", handler: () => void): void;
  /** Before the process ends, however it does. */
  onExit(handler: () => void): void;
  exit(code: number): void;
}

/**
 * Runs a service from its command line to its end: `--config FILE`, `--print-config`, `--describe-config`, `--help`, `--version`. The log goes out as
 * one JSON object per line. SIGTERM and SIGINT stop it with grace, the second one at once; SIGHUP reads the TLS files again.
 * @returns the exit code: 0 stopped as asked, 1 failed, 2 command line or configuration not understood
 */
export async function runServiceProgram<const S extends SettingsSchema & CommonSettings>(program: ServiceProgram<S>, own: ServiceProcess): Promise<number> {
  let held: LogWriter | undefined;
  try {
    const asked = parseCommandLine(own.argv);
    if (asked.help) return print(own, usage(program));
    if (asked.version) return print(own, `${program.version}\n`);
    if (asked.describeConfig) return print(own, describeSettings(program.schema, program.prefix));
    const settings = await readConfiguration(program, asked.config, own, asked.printConfig);
    if (asked.printConfig) return print(own, printSettings(settings.effective));
    const writer = new LogWriter(own.log);
    held = writer;
    own.onExit(() => writer.flush());
    const common = settings.value as { readonly log: { readonly level: "debug" | "info" | "warn" | "error" } };
    const logger = jsonLogger(own.clock, writer.line, common.log.level, program.name);
    const asks = new Signals(own);
    const started = await program.start(settings.value, { logger, env: own.env });
    asks.onReload = () => void started.reload().catch((error: unknown) => logger.log("error", "reload failed", { problem: messageOf(error) }));
    logger.log("info", "listening", started.summary);
    const signal = await asks.stop;
    logger.log("info", "stopping", { signal });
    await started.stop();
    logger.log("info", "stopped");
    return 0;
  } catch (error) {
    own.stderr(diagnostic(error));
    return isSealpodError(error) ? error.row.exit : 1;
  } finally {
    held?.flush();
  }
}

class Signals {
  /** The first one that asks to stop. */
  readonly stop: Promise<string>;
  onReload: () => void = () => undefined;

  constructor(own: ServiceProcess) {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.stop = promise;
    let asked = Number.POSITIVE_INFINITY;
    for (const name of ["SIGINT", "SIGTERM"] as const) {
      own.onSignal(name, () => {
        if (performance.now() - asked > SAME_WISH) own.exit(EXIT_CODES[name]);
        asked = Math.min(asked, performance.now());
        resolve(name);
      });
    }
    own.onSignal("SIGHUP", () => this.onReload());
  }
}

/**
 * Reads the configuration of a program: the file if there is one, and the variables.
 * @param file relative to the working directory
 * @param isDraft what is required may be missing, for a configuration that is being written
 * @throws {ServiceError} ERR_SERVICE_CONFIG
 */
export async function readConfiguration<const S extends SettingsSchema>(
  { schema, prefix }: { readonly schema: S; readonly prefix: string },
  file: string | undefined,
  { env, cwd }: Pick<ServiceProcess, "env" | "cwd">,
  isDraft = false,
): Promise<ReadSettings<S>> {
  const path = file === undefined ? undefined : isAbsolute(file) ? file : resolve(cwd, file);
  let text: string | undefined;
  try {
    if (path !== undefined) text = await readFile(path, "utf8");
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_CONFIG", `the configuration cannot be read: ${messageOf(cause)}`, {
      cause,
      hint: "Name a JSON file with --config FILE.",
    });
  }
  return readSettings(schema, { text, name: file ?? "the configuration", directory: path === undefined ? cwd : dirname(path), env, prefix, isDraft });
}

interface Asked {
  readonly config: string | undefined;
  readonly printConfig: boolean;
  readonly describeConfig: boolean;
  readonly help: boolean;
  readonly version: boolean;
}

function parseCommandLine(argv: readonly string[]): Asked {
  try {
    const { values } = parseArgs({
      args: [...argv],
      strict: true,
      options: {
        config: { type: "string" },
        "print-config": { type: "boolean" },
        "describe-config": { type: "boolean" },
        help: { type: "boolean", short: "h" },
        version: { type: "boolean", short: "V" },
      },
    });
    return {
      config: values.config,
      printConfig: values["print-config"] ?? false,
      describeConfig: values["describe-config"] ?? false,
      help: values.help ?? false,
      version: values.version ?? false,
    };
  } catch (cause) {
    throw new ServiceError("ERR_SERVICE_CONFIG", messageOf(cause), { cause, hint: "--help shows the flags." });
  }
}

function usage({ name, summary, prefix }: { readonly name: string; readonly summary: string; readonly prefix: string }): string {
  return `${summary}

  --config FILE      JSON file with the configuration; environment variables ${prefix}… stand above it
  --print-config     print the configuration in force, with its defaults, and end
  --describe-config  print every key, its variable, default and meaning, and end
  -h, --help         this text
  -V, --version      the version

The log of ${name} goes to standard output, one JSON object per line. SIGTERM and SIGINT stop with grace, twice at once; SIGHUP reads the TLS files again.
Exit codes: 0 stopped as asked, 1 failed, 2 command line or configuration not understood.
`;
}

function print(own: ServiceProcess, text: string): number {
  own.stdout(text);
  return 0;
}

/** One block that says what, where and what to do; never a stack for what is known. */
function diagnostic(error: unknown): string {
  if (!isSealpodError(error)) return `error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`;
  const cause = error.cause === undefined || error.message.includes(messageOf(error.cause)) ? "" : `  cause: ${messageOf(error.cause)}\n`;
  const hint = error.hint === undefined ? "" : `  to do: ${error.hint}\n`;
  return `error: ${error.message}\n${cause}${hint}  code:  ${error.code} (docs/errors.md)\n`;
}
