import { once } from "node:events";
import { ATTESTATION_PREFIX, ATTESTATION_SETTINGS, startAttestationServer, type AttestationSettings } from "@sealpod/attestation";
import { jsonLogger, messageOf } from "@sealpod/core";
import { describeSettings, isLoopback, parseAddress, printSettings, readConfiguration } from "@sealpod/service";
import { makeDevelopmentFiles } from "../attest/development.ts";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { pathOf } from "../workspace.ts";

interface Options {
  readonly config?: string;
  readonly printConfig?: boolean;
  readonly describeConfig?: boolean;
  readonly dev?: string;
  readonly listen?: string;
  readonly trustEmulator?: string;
}

const PROGRAM = { schema: ATTESTATION_SETTINGS, prefix: ATTESTATION_PREFIX };
const DEV_LISTEN = "127.0.0.1:8443";

/** `sealpod attest serve`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  if (options.describeConfig === true) {
    context.stdout.write(describeSettings(ATTESTATION_SETTINGS, ATTESTATION_PREFIX));
    return EXIT.ok;
  }
  checkFlags(options);
  const isDraft = options.printConfig === true && options.dev === undefined;
  const development = options.dev === undefined ? undefined : await openDevelopment(options, options.dev, context);
  // What runs with --dev is what its directory says, wherever it is started from.
  const source = development === undefined ? { file: options.config, env: context.env } : { file: development.config, env: {} };
  const { value, effective } = await readConfiguration(PROGRAM, source.file, { env: source.env, cwd: context.cwd }, isDraft);
  if (options.printConfig === true) {
    context.stdout.write(printSettings(effective));
    return EXIT.ok;
  }
  const settings: AttestationSettings = value;
  const logger = jsonLogger(context.clock, (line) => context.stderr.write(line), settings.log.level, "attestation");
  const { signal } = context;
  const server = await startAttestationServer(settings, {
    clock: context.clock,
    random: context.random,
    logger,
    fetch: async (url, init) => fetch(url, init),
    env: context.env,
    uid: process.getuid?.(),
    ownsProcess: true,
  });
  if (options.json === true) context.stdout.write(`${JSON.stringify({ ...server.summary, directory: development?.directory })}\n`);
  else context.stdout.write(`${[...startedText(settings, server), ...(development?.lines ?? [])].join("\n")}\nCtrl-C ends it.\n`);
  const reload = (): void => void server.reload().catch((error: unknown) => logger.log("error", "reload failed", { problem: messageOf(error) }));
  // A terminal sends it when it is closed: what runs there is to end with it.
  if (!context.stdout.isTerminal) process.on("SIGHUP", reload);
  try {
    if (!signal.aborted) await once(signal, "abort");
  } finally {
    process.off("SIGHUP", reload);
  }
  logger.log("info", "stopping", { signal: String(signal.reason) });
  await server.stop();
  return EXIT.ok;
};

function checkFlags({ config, dev, listen, trustEmulator, printConfig }: Options): void {
  const problem =
    config !== undefined && dev !== undefined
      ? "--config and --dev are two ways to say the same"
      : dev === undefined && (listen !== undefined || trustEmulator !== undefined)
        ? `${listen === undefined ? "--trust-emulator" : "--listen"} is for --dev; a configuration says it with ${listen === undefined ? "roots" : "listen"}`
        : config === undefined && dev === undefined && printConfig !== true
          ? "neither --config nor --dev is given"
          : undefined;
  if (problem !== undefined) throw new CliError("ERR_CLI_USAGE", problem, { hint: "Quick start: sealpod attest serve --dev DIR. For good: --config FILE." });
}

async function openDevelopment(
  { listen = DEV_LISTEN, trustEmulator }: Options & GlobalOptions,
  directory: string,
  context: CliContext,
): Promise<Awaited<ReturnType<typeof makeDevelopmentFiles>>> {
  const address = parseAddress(listen);
  if (address === undefined || address.port === 0 || !isLoopback(address.host)) {
    throw new CliError("ERR_CLI_USAGE", `--listen ${listen} is no loopback address with a port such as ${DEV_LISTEN}`, {
      hint: "Its certificate is self-signed and its token lies beside it: for other machines write a configuration, see --describe-config.",
    });
  }
  const emulator = trustEmulator === undefined ? undefined : pathOf(trustEmulator, context);
  return makeDevelopmentFiles(pathOf(directory, context), { listen, port: address.port, emulator }, context);
}

function startedText(
  settings: AttestationSettings,
  { url, operationsUrl, roots, summary }: Awaited<ReturnType<typeof startAttestationServer>>,
): readonly string[] {
  const operations = summary["operations"] === "main" ? url : operationsUrl;
  return [
    `attestation    ${settings.issuer}${settings.issuer === url ? "" : ` (listening on ${url})`}`,
    `trusts         ${roots.map((name) => (name === "amd" ? "amd" : `${name} (not AMD's: its evidence proves nothing about hardware)`)).join(", ")}`,
    `health         ${operations === undefined ? "nowhere" : `${operations}/healthz, /readyz, /metrics`}`,
  ];
}
