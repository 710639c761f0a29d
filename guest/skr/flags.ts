import { SkrError } from "./errors.ts";

/** What the command line and the environment say, before any of it is looked into. */
export interface Settings {
  /** `SkrSideCarArgs`, base64. */
  readonly sidecarArguments: string | undefined;
  readonly port: number;
  readonly logFile: string | undefined;
  readonly logLevel: string | undefined;
  readonly serverType: "http" | "grpc";
  readonly allowMismatchedTcb: boolean;
  /** Present: wrap one file and end. */
  readonly wrap: WrapFiles | undefined;
}

/** Files of the one-shot mode. */
export interface WrapFiles {
  readonly infile: string;
  /** Without `-info.json`. */
  readonly keypath: string;
  readonly outfile: string;
}

/** The flags of the genuine binary (specs/attestation.md 5.1): all but one with a value. */
const VALUE_FLAGS = ["base64", "port", "logfile", "loglevel", "server_type", "infile", "keypath", "outfile"] as const;
const SWITCH = "allowTestingMismatchedTCB";

/** Names of the environment for what the command line leaves out, as `/skr.sh` of the genuine image passes them on. */
const ENVIRONMENT = { base64: "SkrSideCarArgs", port: "Port", logfile: "LogFile", loglevel: "LogLevel", server_type: "ServerType" } as const;

const DEFAULT_PORT = "8080";

/**
 * Reads the command line in the manner of Go: `-name value`, `-name=value`, and the same with two dashes. A flag goes before
 * its variable of the environment, and an empty one counts as left out.
 * @throws {SkrError} ERR_SKR_CONFIGURATION
 */
export function parseSettings(argv: readonly string[], env: Readonly<Record<string, string | undefined>>): Settings {
  const flags = parseFlags(argv);
  const get = (name: (typeof VALUE_FLAGS)[number]): string | undefined => {
    const variable = name in ENVIRONMENT ? ENVIRONMENT[name as keyof typeof ENVIRONMENT] : undefined;
    const value = flags.get(name) ?? "";
    const fallback = variable === undefined ? undefined : env[variable];
    return value !== "" ? value : fallback === "" ? undefined : fallback;
  };
  /** How the user named it. */
  const named = (name: keyof typeof ENVIRONMENT): string => ((flags.get(name) ?? "") === "" ? ENVIRONMENT[name] : `-${name}`);
  const portText = get("port") ?? DEFAULT_PORT;
  const port = Number(portText);
  if (!/^\d{1,5}$/.test(portText) || port < 1 || port > 65_535) throw wrong(`${named("port")} is ${JSON.stringify(portText)}; expected 1 to 65535`);
  const serverType = get("server_type") ?? "http";
  if (serverType !== "http" && serverType !== "grpc") throw wrong(`${named("server_type")} is ${JSON.stringify(serverType)}; expected http or grpc`);
  return {
    sidecarArguments: get("base64"),
    port,
    logFile: get("logfile"),
    logLevel: get("loglevel"),
    serverType,
    allowMismatchedTcb: flags.get(SWITCH) === "true",
    wrap: wrapFiles(get("infile"), get("keypath"), get("outfile")),
  };
}

function wrapFiles(infile: string | undefined, keypath: string | undefined, outfile: string | undefined): WrapFiles | undefined {
  if (infile === undefined && keypath === undefined && outfile === undefined) return undefined;
  if (infile === undefined || keypath === undefined || outfile === undefined) {
    throw wrong(
      `-${infile === undefined ? "infile" : keypath === undefined ? "keypath" : "outfile"} is missing: to wrap a file takes -infile, -keypath and -outfile`,
    );
  }
  return { infile, keypath, outfile };
}

function parseFlags(argv: readonly string[]): ReadonlyMap<string, string> {
  const flags = new Map<string, string>();
  for (let index = 0; index < argv.length; index++) {
    const argument = argv[index] ?? "";
    const [, name, value] = /^--?([A-Za-z][A-Za-z0-9_]*)(?:=(.*))?$/s.exec(argument) ?? [];
    // What is no flag may be a secret that lost its flag: it is not repeated.
    if (name === undefined) throw wrong(`argument ${index + 1} is not a flag`);
    if (name === SWITCH) {
      if (value !== undefined && value !== "true" && value !== "false") throw wrong(`-${name} is true or false`);
      flags.set(name, value ?? "true");
    } else if ((VALUE_FLAGS as readonly string[]).includes(name)) {
      const next = value ?? argv[++index];
      if (next === undefined) throw wrong(`-${name} needs a value`);
      flags.set(name, next);
    } else {
      throw wrong(`there is no flag -${name}`);
    }
  }
  return flags;
}

function wrong(problem: string): SkrError {
  return new SkrError("ERR_SKR_CONFIGURATION", problem, {
    hint: `The flags are ${VALUE_FLAGS.map((name) => `-${name}`).join(", ")} and -${SWITCH}.`,
  });
}
