import { randomBytes } from "node:crypto";
import { type Clock, jsonLogger, type Logger, type LogLevel, messageOf, type Random } from "@sealpod/core";
import { ProcessorClient } from "@sealpod/processor";
import { systemTimer } from "@sealpod/ttrpc";
import type { LaunchPort } from "@sealpod/vmm";
import type { ServeArguments } from "./arguments.ts";
import type { Bundle } from "./bundle.ts";
import { type ShimConfig, loadConfig } from "./config.ts";
import type { DaemonContext, DaemonWork } from "./daemon.ts";
import { ContainerdImages, type ImageWatch } from "./images.ts";
import { sweepLeft } from "./delete.ts";
import { leftovers } from "./leftovers.ts";
import { chooseMachine } from "./machine.ts";
import { openHostMetrics } from "./metrics.ts";
import { joinPodCgroup, podCgroupOf } from "./pod-cgroup.ts";
import { oomScoreOf, OomScore } from "./pod-cgroup-score.ts";
import { openPodNetwork } from "./pod-network.ts";
import { createPodOpener, type PodAccount } from "./pod-opener.ts";
import type { PodPlace } from "./pod-place.ts";
import type { ContainerRequest, Pod, PodOpener } from "./pod.ts";
import { connectUnix, noPublisher, TtrpcPublisher } from "./publisher.ts";
import { openStreams } from "./streams.ts";
import { TaskService } from "./task-service.ts";
import { endsWithin } from "./time-limit.ts";

/** Milliseconds that the last look at the node's layer files may hold up the shim's end; the next pod looks, too. */
const SWEEP_LIMIT = 2000;

/** What the parts of a shim get from its process. */
export interface ShimPorts {
  readonly clock: Clock;
  readonly logger: LevelLogger;
  /** The shim's process id. */
  readonly pid: number;
  /** Program that runs the agent where pods are processes: this one. */
  readonly node: string;
  /** containerd's socket for events, or none. */
  readonly eventsAddress: string | undefined;
}

const RANDOM: Random = { bytes: (length) => randomBytes(length) };

/** Puts the parts of a shim together: tasks over ttRPC on a pod that is made at the first Create. */
export async function composeShim(args: ServeArguments, { place, unused }: DaemonContext, ports: ShimPorts): Promise<DaemonWork> {
  const { clock, logger, pid, eventsAddress } = ports;
  const { namespace } = args;
  const events = eventsAddress === undefined ? noPublisher : new TtrpcPublisher({ namespace, connect: () => connectUnix(eventsAddress), clock, logger });
  const layers = new PodLayers(args, ports);
  const openPod = async (request: ContainerRequest, config: ShimConfig): Promise<Pod> => {
    // Processes are in the namespace, and need nothing there.
    const joins = config.network !== "none" && config.isolation !== "process";
    const opener = createPodOpener({
      config: async () => config,
      prepare: ({ runDirectory, namespace: netns }) => place.prepare(runDirectory, joins ? netns : undefined, leftovers),
      account: (bundle) => openAccount(bundle, config, place, ports),
      images: () => layers.open(config),
      network: (of) => openPodNetwork({ ...of, logger }),
      machine: () => chooseMachine(config, { processor: (socket) => recordedProcessor(socket, place), node: ports.node, logger }),
      random: RANDOM,
      logger,
    });
    return opener.open(request, undefined);
  };
  const pods: PodOpener = {
    async open(request, configPath) {
      unused.stop();
      try {
        const config = await loadConfig(configPath ?? args.config);
        if (!args.debug) logger.minimum = config.logLevel;
        // What nobody else will clean up. Beside the pod: it only takes back what may hold memory.
        void sweepLeft(config.runDirectory, leftovers, logger);
        return await openPod(request, config);
      } catch (error) {
        // containerd asks for the end now; but it may also be gone.
        unused.start();
        throw error;
      }
    },
  };
  const tasks = new TaskService({
    pods,
    openStreams: (names, { containerId, execId }) => openStreams(names, { id: execId === "" ? containerId : execId, namespace }, { logger }),
    events,
    host: await openHostMetrics(),
    shimPid: pid,
    clock,
    logger,
  });
  return { services: tasks.services, ended: tasks.ended, finish: () => layers.close() };
}

/** Gives the shim, and all that it starts for the pod, its place on the node. */
async function openAccount(bundle: Bundle, config: ShimConfig, place: PodPlace, { pid, logger }: ShimPorts): Promise<PodAccount> {
  const score = new OomScore(logger);
  await score.begin(oomScoreOf(bundle.spec));
  // A container of `ctr` has a cgroup that nobody has made, below one that is not its own.
  const name = config.sandboxCgroupOnly && bundle.role.kind === "sandbox" ? podCgroupOf(bundle.spec) : undefined;
  const joined = name === undefined ? undefined : await joinPodCgroup(name, { pid, logger, making: (path) => place.enters(path) });
  return { addContainer: (of, machine) => score.add(of, machine), leave: async () => joined?.leave() };
}

/** The emulated security processor on a socket. It does not see the end of a shim that was ended by force: `delete` has to tell it. */
function recordedProcessor(socket: string, place: PodPlace): LaunchPort {
  const client = new ProcessorClient(socket);
  return {
    async launch(request) {
      const launched = await client.launch(request);
      place.launched(socket, launched.id);
      return launched;
    },
  };
}

/** The images of one pod, and the watch over the node's layer files while it runs. */
class PodLayers {
  readonly #args: ServeArguments;
  readonly #ports: ShimPorts;
  #images: ContainerdImages | undefined;
  #watch: ImageWatch | undefined;

  constructor(args: ServeArguments, ports: ShimPorts) {
    this.#args = args;
    this.#ports = ports;
  }

  open({ layerDirectory }: ShimConfig): ContainerdImages {
    const { address, namespace } = this.#args;
    const { clock, logger } = this.#ports;
    // One that a pod was tried with before may have had another directory.
    void this.#watch?.close();
    const images = new ContainerdImages({ address, namespace, layerDirectory, clock, logger });
    this.#images = images;
    this.#watch = images.watch();
    void this.#sweep();
    return images;
  }

  /** A last look; resolves after it, or when it takes too long. */
  async close(): Promise<void> {
    await endsWithin(systemTimer, SWEEP_LIMIT, Promise.all([this.#watch?.close(), this.#sweep()]));
  }

  async #sweep(): Promise<void> {
    await this.#images?.sweep().catch((error: unknown) => this.#ports.logger.log("debug", "cannot look for layers to remove", { reason: messageOf(error) }));
  }
}

/** A logger whose least level changes when the configuration is known. */
export class LevelLogger implements Logger {
  minimum: LogLevel;
  readonly #loggers: Readonly<Record<LogLevel, Logger>>;

  constructor(clock: Clock, write: (line: string) => void, minimum: LogLevel) {
    const logger = (level: LogLevel): Logger => jsonLogger(clock, write, level, "shim");
    this.#loggers = { debug: logger("debug"), info: logger("info"), warn: logger("warn"), error: logger("error") };
    this.minimum = minimum;
  }

  log(...line: Parameters<Logger["log"]>): void {
    this.#loggers[this.minimum].log(...line);
  }
}
