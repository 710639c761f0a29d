import { once } from "node:events";
import { join } from "node:path";
import { jsonLogger } from "@sealpod/core";
import { EMULATED_NOTICE } from "@sealpod/psp";
import { readUp, startServices, type Up } from "@sealpod/services";
import { EXIT, type CliContext } from "../context.ts";
import { sayReady, startDetached } from "../detach.ts";
import { CliError } from "../errors.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { stateOf } from "../workspace.ts";

interface UpOptions {
  readonly port: string;
  readonly detach?: boolean;
  readonly complianceStatus?: string;
  readonly readyFd?: string;
}

/** `sealpod up`. */
export const run: Verb<UpOptions> = async (options, _operands, context) => {
  const state = stateOf(options, context);
  if (!/^\d{1,5}$/.test(options.port) || Number(options.port) < 1 || Number(options.port) > 65_535) {
    throw new CliError("ERR_CLI_USAGE", `--port ${options.port} is not a port number`, { hint: "Give a number from 1 to 65535." });
  }
  if (options.detach === true) {
    const args = [
      "up",
      "--state",
      state,
      "--port",
      options.port,
      ...(options.complianceStatus === undefined ? [] : ["--compliance-status", options.complianceStatus]),
    ];
    const outcome = await startDetached(args, join(state, "up.log"), context.env);
    if (outcome.kind === "ended") {
      context.stderr.write(outcome.words);
      return outcome.exitCode;
    }
    show(await readUp(state), options, context);
    return EXIT.ok;
  }
  const services = await startServices({
    state,
    host: "127.0.0.1",
    port: Number(options.port),
    domain: "sealpod.internal",
    pid: process.pid,
    clock: context.clock,
    random: context.random,
    logger: jsonLogger(context.clock, (line) => context.stderr.write(line), options.debug === true ? "debug" : "error", "services"),
    ...(options.complianceStatus === undefined ? {} : { compliance: options.complianceStatus }),
  });
  if (options.readyFd === undefined) show(services.up, options, context);
  sayReady(options.readyFd, "up");
  if (!context.signal.aborted) await once(context.signal, "abort");
  await services.stop();
  return EXIT.ok;
};

function show(up: Up, options: GlobalOptions, context: CliContext): void {
  if (options.json === true) {
    // Without the owner's secret: it stays in up.json, which only its owner can read.
    const { owner, ...rest } = up;
    context.stdout.write(`${JSON.stringify({ ...rest, owner: { clientId: owner.clientId }, emulated: EMULATED_NOTICE }, undefined, 2)}\n`);
    return;
  }
  context.stdout.write(
    [
      `attestation         https://${up.endpoints.attestation}`,
      `managed HSM         https://${up.endpoints.vault}`,
      `key vault           https://${up.endpoints.keyvault}`,
      `key broker (KBS)    https://${up.endpoints.kbs}`,
      `identity            ${up.endpoints.authority}`,
      `security processor  ${EMULATED_NOTICE}`,
      `state               ${up.state} (process ${up.pid})`,
      "",
    ].join("\n"),
  );
}
