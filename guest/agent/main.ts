import { readFileSync, writeSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { startupSnapshot } from "node:v8";
import { isSealpodError, jsonLogger, type Logger, messageOf } from "@sealpod/core";
import { type ByteStream, byteStream, serveTtrpc } from "@sealpod/ttrpc";
import { applyInitdata, type AppliedInitdata } from "./apply-initdata.ts";
import { AgentStreams, hostProcessor, listenOnDescriptor, openVirtioPort, serveChannel } from "./channel/index.ts";
import { Crun } from "./crun.ts";
import { AgentError } from "./errors.ts";
import { linux } from "./guest-system.ts";
import { type Agent, type BlockDevices, createAgent, DEFAULT_POLICY, directoryDevices, machineDevices } from "./index.ts";
import { readInitdata } from "./initdata.ts";
import { hardenKernel } from "./machine.ts";
import { parseProcessLimits } from "./process-limits.ts";
import { PROFILES } from "./profile.ts";
import { bindKernelReports, ownHostData, serveHostReports } from "./reports.ts";
import type { HostData } from "./set-policy.ts";
import { type AgentSettings, parseSettings } from "./settings.ts";

/** Where everything of the guest lies: policies name paths below it. */
const GUEST_ROOT = "/run/kata-containers";
/** The native helper of the utility VM. */
const HELPER = "/usr/lib/sealpod/helper";
/** Connections at once. A shim has one; the rest is room for looking at a running agent. */
const MAX_CONNECTIONS = 16;

/** What takes connections. */
interface Serving {
  /** Takes no more connections; those that are there stay until their host hangs up. */
  readonly finish: () => void;
  /** Ends all connections, too. */
  readonly close: () => void;
}

async function main(): Promise<void> {
  const settings = parseSettings(process.argv.slice(2), process.env);
  const logger = jsonLogger({ now: () => Date.now() }, (line) => void process.stderr.write(line), settings.logLevel, "agent");
  // Node waits for its own children only. crun leaves one behind when an exec fails, and a container cannot end while one of its processes is
  // not waited for: whoever is process 1 has to do that.
  if (process.pid === 1) logger.log("error", "running as process 1, which must reap orphans and cannot: start the agent under an init, or a shell that waits");

  if (settings.place === "vm") hardenKernel();
  const { promise, resolve } = Promise.withResolvers<Agent>();
  // The channel comes first: the reports that everything else waits for may come over it.
  const channel = settings.listen.kind === "virtio" ? openChannel(settings.listen.name, promise, logger) : undefined;
  if (settings.reports === "hardware") await bindKernelReports(settings.guestInfo);
  const processor = channel && hostProcessor(channel);
  const hostData = ownHostData(settings.reports, settings.guestInfo, processor);
  const disks = settings.place === "vm" ? machineDevices() : directoryDevices(settings.devices);
  // Not before a sandbox is wanted: a machine that is saved as a template has no processor yet.
  let served: Awaited<ReturnType<typeof serveHostReports>> | undefined;
  const prepare = async (): Promise<void> => {
    if (settings.reports === "channel" && processor !== undefined) served ??= await serveHostReports(processor, settings.guestInfo, logger);
  };
  const agent = await makeAgent(settings, { disks, hostData, prepare, logger });
  resolve(agent);
  const serving = channel ?? (await listen(settings, agent, logger));
  logger.log("info", "listening", { listen: settings.listen.kind, profile: settings.profile.name, reports: settings.reports });
  if (settings.readyFd !== undefined) writeSync(settings.readyFd, "ready\n");

  process.once("SIGTERM", () => {
    serving.close();
    void agent.close();
  });
  // No sandbox comes after the first one: when its host has heard that it is gone and hangs up, the process ends, and with it the machine.
  void agent.ended.then(() => serving.finish());
}

interface AgentPorts {
  readonly disks: BlockDevices;
  readonly hostData: HostData;
  readonly prepare: () => Promise<void>;
  readonly logger: Logger;
}

/** The agent with the policy of its pod's initdata, or else the one that waits for SetPolicy. */
async function makeAgent(settings: AgentSettings, ports: AgentPorts): Promise<Agent> {
  const { disks, hostData, logger } = ports;
  const initdata = settings.place === "vm" ? await readInitdata(disks) : undefined;
  const applied: AppliedInitdata | undefined = initdata && (await applyInitdata(initdata, hostData));
  const { policyFile } = settings;
  // A file that cannot be read or compiled ends the process here, before it listens: it must not run with a policy nobody chose.
  const first = policyFile === undefined ? { name: "default-policy", text: DEFAULT_POLICY } : { name: policyFile, text: readFileSync(policyFile, "utf8") };
  const self = (file: string): string => readFileSync(`/proc/self/${file}`, "latin1");
  return createAgent({
    // Initdata is how the second generation brings its policy: a pod that has it speaks that generation's forms.
    profile: (initdata && PROFILES.get("coco")) ?? settings.profile,
    place: settings.place,
    defaultPolicy: applied?.policy ?? first,
    ...(applied === undefined ? {} : { replacement: applied.replacement }),
    root: GUEST_ROOT,
    disks,
    hostData,
    prepare: ports.prepare,
    guestInfo: settings.guestInfo,
    system: linux,
    runtime: (state) => new Crun(state, HELPER),
    limits: parseProcessLimits(self("status"), self("limits"), self("oom_score_adj")),
    logger,
  });
}

/** The channel to the host; streams to the agent wait until there is one. */
function openChannel(name: string, agent: Promise<Agent>, logger: Logger): ReturnType<typeof serveChannel> & Serving {
  const services = agent.then((ready) => ready.services);
  const streams = new AgentStreams(services, logger);
  const channel = serveChannel({ port: () => openVirtioPort(name), accept: streams.accept, logger });
  return {
    open: async (service) => channel.open(service),
    closed: channel.closed,
    close: () => channel.close(),
    finish: () => void streams.finish().then(() => channel.close()),
  };
}

async function listen({ listen: address }: AgentSettings, agent: Agent, logger: Logger): Promise<Serving> {
  const streams = new Set<ByteStream>();
  const serve = (socket: Socket): void => {
    const stream = byteStream(socket);
    streams.add(stream);
    void serveTtrpc(stream, agent.services, { logger }).finally(() => streams.delete(stream));
  };
  const serving = (finish: () => void): Serving => ({
    finish,
    close() {
      finish();
      for (const stream of streams) stream.close();
    },
  });
  if (address.kind === "descriptor") {
    const server = listenOnDescriptor(
      address.fd,
      (socket) => (streams.size < MAX_CONNECTIONS ? serve(socket) : socket.destroy()),
      (error) => logger.log("error", "cannot accept", { error: error.message }),
    );
    return serving(() => server.close());
  }
  const server = createServer(serve);
  server.maxConnections = MAX_CONNECTIONS;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  // The socket is for root alone from its first moment.
  process.umask(0o077);
  server.listen(address.kind === "unix" ? address.path : "", resolve);
  try {
    await promise;
  } catch (cause) {
    throw new AgentError("ERR_AGENT_CONFIG", `cannot listen: ${messageOf(cause)}`, { cause });
  } finally {
    process.umask(0o022);
  }
  return serving(() => server.close());
}

function begin(): void {
  main().catch((error: unknown) => {
    process.stderr.write(`sealpod-agent: ${messageOf(error)}\n`);
    process.exit(isSealpodError(error) ? error.row.exit : 1);
  });
}

if (startupSnapshot.isBuildingSnapshot()) {
  // The builder of the utility VM's image (guest/image/saved-agent.ts) saves the program as it is here: loaded, not begun.
  startupSnapshot.setDeserializeMainFunction(begin);
} else {
  begin();
}
