import type { AgentService, DescMethodUnary, MessageInitShape, MessageShape, ReadStreamRequest } from "@sealpod/proto";
import { shown } from "./confined-directory.ts";
import { copyFile } from "./copy-file.ts";
import { AgentError } from "./errors.ts";
import type { GuestMachine } from "./machine.ts";
import type { Sandbox } from "./sandbox.ts";
import { STORAGE_DRIVERS } from "./storages.ts";

/** What the agent calls itself. */
export const AGENT_VERSION = "0.1.0";

/** The one log that GetDiagnosticData gives: what a container wrote into its termination message file. */
const DIAGNOSTIC_LOG = "termination_log";
/** The last second of the year 9999: what comes after it, programs do not agree about. */
const MAX_SECONDS = 253_402_300_799n;

type Methods = typeof AgentService.method;

/** What the agent does for one method, once the policy has allowed it. */
export interface Method<I extends DescMethodUnary["input"], O extends DescMethodUnary["output"]> {
  /** Refuses a request that the policy allowed, before the policy's state changes for it. */
  readonly check?: (request: MessageShape<I>) => void;
  /** Answers. A method with neither this nor `run` exists for the policy alone and is then unimplemented. */
  readonly handle?: (request: MessageShape<I>) => MessageInitShape<O> | Promise<MessageInitShape<O>>;
  /** Does its work where the answer is empty. */
  readonly run?: (request: MessageShape<I>) => void | Promise<void>;
  /** Answers when the policy says no; without it the answer is PERMISSION_DENIED. */
  readonly denied?: (request: MessageShape<I>) => MessageInitShape<O>;
}

/** One row for each method of the service: the compiler refuses a table with one missing. */
export type MethodTable = { readonly [K in keyof Methods]: Method<Methods[K]["input"], Methods[K]["output"]> };

/**
 * The methods of `grpc.AgentService` (specs/runtime.md 2.1). The rule that gates each is the name of its request message.
 * @param shareRoot where CopyFile may write
 * @param setPolicy takes another policy, if it is the one that this machine was launched for
 */
export function agentMethods(sandbox: Sandbox, shareRoot: string, setPolicy: (policy: string) => Promise<void>, machine: GuestMachine): MethodTable {
  const { network } = machine;

  /** Reading what may not be read gives success and nothing, and the process must not block on it (3.1, 3.9). */
  const unreadable = (stream: "stdout" | "stderr", { containerId, execId }: ReadStreamRequest): { data: Uint8Array } => {
    try {
      sandbox.readable(containerId, execId)[stream].discard();
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
    }
    return { data: new Uint8Array(0) };
  };

  const read = async (stream: "stdout" | "stderr", { containerId, execId, len }: ReadStreamRequest): Promise<{ data: Uint8Array }> => {
    // No bytes mean the end of the stream: an answer to a question for none would be taken for that.
    if (len === 0) throw refused("len is 0");
    return { data: await sandbox.readable(containerId, execId)[stream].read(len) };
  };

  return {
    setPolicy: { run: ({ policy }) => setPolicy(policy) },

    createSandbox: { run: (request) => sandbox.create(request) },
    destroySandbox: { run: () => sandbox.destroy() },
    getOOMEvent: { handle: async () => ({ containerId: await sandbox.oomEvent() }) },
    updateEphemeralMounts: { run: ({ storages }) => sandbox.updateEphemeral(storages) },
    copyFile: {
      run(request) {
        sandbox.requireReady();
        copyFile(shareRoot, request);
      },
    },

    createContainer: {
      check({ containerId }) {
        sandbox.requireReady();
        sandbox.requireNew(containerId);
      },
      run: (request) => sandbox.createContainer(request),
    },
    startContainer: { run: ({ containerId }) => sandbox.startContainer(containerId) },
    // The check comes before the policy forgets the container: an id that is not there could be a key of something else.
    removeContainer: {
      check: ({ containerId }) => sandbox.requireContainer(containerId),
      run: ({ containerId }) => sandbox.removeContainer(containerId),
    },
    execProcess: { run: (request) => sandbox.exec(request) },
    signalProcess: { run: ({ containerId, execId, signal }) => sandbox.process(containerId, execId).signal(signal) },
    waitProcess: { handle: async ({ containerId, execId }) => ({ status: await sandbox.wait(containerId, execId) }) },
    statsContainer: { handle: ({ containerId }) => sandbox.stats(containerId) },
    updateContainer: { run: ({ containerId, resources }) => sandbox.update(containerId, resources) },
    pauseContainer: { run: ({ containerId }) => sandbox.pause(containerId) },
    resumeContainer: { run: ({ containerId }) => sandbox.resume(containerId) },
    getDiagnosticData: {
      handle({ containerId, logType }) {
        if (logType !== DIAGNOSTIC_LOG) throw refused(`unsupported diagnostic log_type: ${shown(logType)}`);
        // The container wrote it, so it may be anything: bytes that are not UTF-8 become U+FFFD.
        return { data: new TextDecoder().decode(sandbox.terminationMessage(containerId)) };
      },
    },

    readStdout: {
      handle: (request) => read("stdout", request),
      denied: (request) => unreadable("stdout", request),
    },
    readStderr: {
      handle: (request) => read("stderr", request),
      denied: (request) => unreadable("stderr", request),
    },
    writeStdin: {
      async handle({ containerId, execId, data }) {
        await sandbox.process(containerId, execId).write(data);
        return { len: data.length };
      },
    },
    closeStdin: { run: ({ containerId, execId }) => sandbox.process(containerId, execId).closeStdin() },

    ttyWinResize: { run: ({ containerId, execId, row, column }) => sandbox.resize(containerId, execId, row, column) },

    updateInterface: {
      async handle({ interface: wanted }) {
        if (wanted === undefined) throw refused("UpdateInterface needs an interface");
        await network.updateInterface(wanted);
        return wanted;
      },
    },
    updateRoutes: {
      async handle({ routes }) {
        await network.updateRoutes(routes?.Routes ?? []);
        return { Routes: await network.routes() };
      },
    },
    addARPNeighbors: { run: ({ neighbors }) => network.addNeighbours(neighbors?.ARPNeighbors ?? []) },
    listInterfaces: { handle: async () => ({ Interfaces: await network.interfaces() }) },
    listRoutes: { handle: async () => ({ Routes: await network.routes() }) },

    getGuestDetails: {
      handle: ({ memBlockSize }) => ({
        memBlockSizeBytes: memBlockSize ? machine.memoryBlockSize() : 0n,
        agentDetails: { version: AGENT_VERSION, initDaemon: false, deviceHandlers: ["blk"], storageHandlers: [...STORAGE_DRIVERS], supportsSeccomp: true },
        supportMemHotplugProbe: false,
      }),
    },
    getMetrics: { handle: () => ({ metrics: machine.metrics() }) },
    getVolumeStats: {
      handle({ volumeGuestPath }) {
        sandbox.requireReady();
        return machine.volumeStats(volumeGuestPath);
      },
    },
    // Processors that wait are taken. All memory is there from the start: a machine's size is fixed when it is launched.
    onlineCPUMem: { run: ({ nbCpus }) => machine.onlineProcessors(nbCpus) },
    reseedRandomDev: {
      run({ data }) {
        if (data.length === 0) throw refused("ReseedRandomDev needs data");
        machine.mixRandom(data);
      },
    },
    setGuestDateTime: {
      async run({ Sec: seconds, Usec: microseconds }) {
        if (seconds < 0n || seconds > MAX_SECONDS || microseconds < 0n || microseconds > 999_999n) throw refused(`${seconds} s ${microseconds} µs is no time`);
        await machine.setTime(seconds, microseconds);
      },
    },
    // For a file system shared with the host, which this guest does not have: there is nothing stale.
    removeStaleVirtiofsShareMounts: { run: () => undefined },

    // Left out on purpose (specs/runtime.md 8.3): answered UNIMPLEMENTED, and to those alone whom the policy lets ask.
    addSwap: {},
    addSwapPath: {},
    getIPTables: {},
    memAgentCompactSet: {},
    memAgentMemcgSet: {},
    memHotplugByProbe: {},
    resizeVolume: {},
    setIPTables: {},
  };
}

function refused(problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", problem);
}
