import { isSealpodError, jsonLogger, messageOf } from "@sealpod/core";
import { parseArguments, type ShimArguments } from "./arguments.ts";
import { composeShim, LevelLogger } from "./compose.ts";
import { removeOwn, runDaemon } from "./daemon.ts";
import { deleteResponse, deleteShim } from "./delete.ts";
import { ShimError } from "./errors.ts";
import { SHIM_VERSION, runtimeInfo } from "./information.ts";
import { leftovers } from "./leftovers.ts";
import { openLog } from "./log.ts";

const clock = { now: (): number => Date.now() };

async function main(): Promise<void> {
  const args = parseArguments(process.argv.slice(2), workingDirectory());
  switch (args.action) {
    case "version":
      process.stdout.write(`containerd-shim-kata-cc-v2 ${SHIM_VERSION}\n`);
      return;
    case "info":
      process.stdout.write(runtimeInfo());
      return;
    case "delete":
      return clean(args);
    case "serve":
      return serve(args);
  }
}

/** That of the process; empty if it was removed. */
function workingDirectory(): string {
  try {
    return process.cwd();
  } catch {
    return "";
  }
}

async function clean(args: Extract<ShimArguments, { action: "delete" }>): Promise<void> {
  // containerd reads the answer from standard output, and copies standard error to its log.
  const logger = jsonLogger(clock, (line) => void process.stderr.write(line), args.debug ? "debug" : "warn", "shim");
  await deleteShim(args, leftovers, logger);
  process.stdout.write(deleteResponse(clock));
}

async function serve(args: Extract<ShimArguments, { action: "serve" }>): Promise<void> {
  process.umask(0o077);
  // Who stops containerd's service sends it to all of its processes (systemd's KillMode); pods outlive that.
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.on(signal, () => undefined);
  const bundle = workingDirectory();
  if (bundle === "") {
    // containerd has failed meanwhile, and calls nobody to clean up (specs/containerd.md 2).
    await removeOwn(args);
    throw new ShimError("ERR_SHIM_BUNDLE", "the bundle was removed before the shim had started");
  }
  const log = openLog("log");
  const logger = new LevelLogger(clock, log.write, args.debug ? "debug" : "info");
  // What state the pod is in after an error that nobody expected is not known: the kernel ends the machine with this process, and containerd calls delete.
  for (const event of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(event, (error: unknown) => {
      logger.log("error", "the shim ends because of an error in it", { error: error instanceof Error ? error.stack : messageOf(error) });
      process.exit(1);
    });
  }
  try {
    const ports = { clock, logger, pid: process.pid, node: process.execPath, eventsAddress: process.env["TTRPC_ADDRESS"] };
    await runDaemon(args, { bundle, pid: process.pid, logger, work: (context) => composeShim(args, context, ports) });
  } catch (error) {
    logger.log("error", "the shim ends because of an error in it", { error: messageOf(error) });
    process.exit(1);
  }
  // Not before the answer to Shutdown has gone out; then with whatever is open.
  setImmediate(() => process.exit(0));
}

main().catch((error: unknown) => {
  const hint = isSealpodError(error) && error.hint !== undefined ? `\n${error.hint}` : "";
  process.stderr.write(`containerd-shim-kata-cc-v2: ${messageOf(error)}${hint}\n`, () => process.exit(isSealpodError(error) ? error.row.exit : 1));
});
