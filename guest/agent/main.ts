import { readFileSync, writeSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { parseArgs } from "node:util";
import { isSealpodError, jsonLogger, type LogLevel, messageOf } from "@sealpod/core";
import { byteStream, serveTtrpc } from "@sealpod/ttrpc";
import { Crun } from "./crun.ts";
import { AgentError } from "./errors.ts";
import { linux } from "./guest-system.ts";
import { createAgent, DEFAULT_POLICY } from "./index.ts";
import { parseListenAddress } from "./listen-address.ts";
import { parseProcessLimits } from "./process-limits.ts";
import { PROFILES } from "./profile.ts";

/** Where everything of the guest lies: policies name paths below it. */
const GUEST_ROOT = "/run/kata-containers";
/** Connections at once. A shim has one; the rest is room for looking at a running agent. */
const MAX_CONNECTIONS = 16;

const LOG_LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];

/** Arguments, with the environment variables of the known agent as their defaults (specs/runtime.md 4.4). */
function settings(): { readonly [K in "listen" | "devices" | "guestInfo" | "profile" | "logLevel"]: string } & {
  readonly readyFd?: string;
  readonly policyFile?: string;
} {
  const { values } = parseArgs({
    options: {
      listen: { type: "string" },
      devices: { type: "string" },
      "guest-info": { type: "string" },
      "ready-fd": { type: "string" },
      "default-policy": { type: "string" },
      profile: { type: "string", default: "aks" },
      "log-level": { type: "string", default: "info" },
    },
  });
  const listen = values.listen ?? process.env["KATA_AGENT_SERVER_ADDR"];
  const policyFile = values["default-policy"] ?? process.env["KATA_AGENT_POLICY_FILE"];
  const { devices, "guest-info": guestInfo, "ready-fd": readyFd, profile, "log-level": logLevel } = values;
  if (listen === undefined || devices === undefined || guestInfo === undefined) {
    throw new AgentError("ERR_AGENT_CONFIG", "--listen, --devices and --guest-info are needed");
  }
  return { listen, devices, guestInfo, profile, logLevel, ...(readyFd === undefined ? {} : { readyFd }), ...(policyFile === undefined ? {} : { policyFile }) };
}

function main(): void {
  const { listen, devices, guestInfo, profile: profileName, logLevel, readyFd, policyFile } = settings();
  const path = parseListenAddress(listen);
  const profile = PROFILES.get(profileName);
  const level = LOG_LEVELS.find((name) => name === logLevel);
  if (profile === undefined) throw new AgentError("ERR_AGENT_CONFIG", `--profile: found ${profileName}, expected one of ${[...PROFILES.keys()].join(", ")}`);
  if (level === undefined) throw new AgentError("ERR_AGENT_CONFIG", `--log-level: found ${logLevel}, expected one of ${LOG_LEVELS.join(", ")}`);
  if (readyFd !== undefined && !/^[0-9]{1,4}$/.test(readyFd)) throw new AgentError("ERR_AGENT_CONFIG", "--ready-fd is not a number");

  const logger = jsonLogger({ now: () => Date.now() }, (line) => void process.stderr.write(line), level, "agent");
  // Node waits for its own children only. crun leaves one behind when an exec fails, and a container cannot end while one of its processes is
  // not waited for: whoever is process 1 has to do that.
  if (process.pid === 1) logger.log("error", "running as process 1, which must reap orphans and cannot: start the agent under an init, or a shell that waits");
  const self = (file: string): string => readFileSync(`/proc/self/${file}`, "latin1");
  const agent = createAgent({
    profile,
    // A file that cannot be read or compiled ends the process here, before it listens: it must not run with a policy nobody chose.
    defaultPolicy: policyFile === undefined ? { name: "default-policy", text: DEFAULT_POLICY } : { name: policyFile, text: readFileSync(policyFile, "utf8") },
    root: GUEST_ROOT,
    devices,
    guestInfo,
    system: linux,
    runtime: (state) => new Crun(state),
    limits: parseProcessLimits(self("status"), self("limits"), self("oom_score_adj")),
    logger,
  });

  const connections = new Set<Socket>();
  const server = createServer((socket) => {
    connections.add(socket);
    void serveTtrpc(byteStream(socket), agent.services, { logger }).finally(() => connections.delete(socket));
  });
  server.maxConnections = MAX_CONNECTIONS;
  process.once("SIGTERM", () => {
    server.close();
    for (const socket of connections) socket.destroy();
    void agent.close();
  });
  // No sandbox comes after the first one: when its host has heard that it is gone and hangs up, the process ends.
  void agent.ended.then(() => server.close());
  server.on("error", (error) => {
    logger.log("error", "cannot listen", { listen, error: error.message });
    process.exitCode = 1;
    void agent.close();
  });

  // The socket is for root alone from its first moment.
  process.umask(0o077);
  server.listen(path, () => {
    process.umask(0o022);
    logger.log("info", "listening", { listen, profile: profile.name });
    if (readyFd !== undefined) writeSync(Number(readyFd), "ready\n");
  });
}

try {
  main();
} catch (error) {
  process.stderr.write(`sealpod-agent: ${messageOf(error)}\n`);
  process.exitCode = isSealpodError(error) ? error.row.exit : 1;
}
