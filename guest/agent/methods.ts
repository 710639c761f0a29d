import { readFileSync } from "node:fs";
import type { AgentService, DescMethodUnary, MessageInitShape, MessageShape, ReadStreamRequest } from "@sealpod/proto";
import { copyFile } from "./copy-file.ts";
import { AgentError } from "./errors.ts";
import type { Sandbox } from "./sandbox.ts";
import { STORAGE_DRIVERS } from "./storages.ts";

/** What the agent calls itself. */
export const AGENT_VERSION = "0.1.0";

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

/** The methods of `grpc.AgentService` (specs/runtime.md 2.1). The rule that gates each is the name of its request message. */
export function agentMethods(sandbox: Sandbox, shareRoot: string, setPolicy: (policy: string) => Promise<void>): MethodTable {
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
    if (len === 0) throw new AgentError("ERR_AGENT_REQUEST", "len is 0");
    return { data: await sandbox.readable(containerId, execId)[stream].read(len) };
  };

  return {
    setPolicy: { run: ({ policy }) => setPolicy(policy) },

    createSandbox: { run: (request) => sandbox.create(request) },
    destroySandbox: { run: () => sandbox.destroy() },
    getGuestDetails: { handle: guestDetails },
    onlineCPUMem: { run: () => undefined }, // All processors and memory are there from the start.
    getOOMEvent: {
      // Without cgroups no event ever comes; the call ends with the sandbox.
      handle: async () => {
        await sandbox.ended;
        throw new AgentError("ERR_AGENT_ENDED", "the sandbox was destroyed");
      },
    },
    copyFile: {
      run(request) {
        sandbox.requireReady();
        copyFile(shareRoot, request);
      },
    },

    createContainer: { check: ({ containerId }) => sandbox.requireNew(containerId), run: (request) => sandbox.createContainer(request) },
    startContainer: { run: ({ containerId }) => sandbox.startContainer(containerId) },
    // The check comes before the policy forgets the container: an id that is not there could be a key of something else.
    removeContainer: {
      check: ({ containerId }) => sandbox.requireContainer(containerId),
      run: ({ containerId }) => sandbox.removeContainer(containerId),
    },
    execProcess: { run: (request) => sandbox.exec(request) },
    signalProcess: { run: ({ containerId, execId, signal }) => sandbox.process(containerId, execId).signal(signal) },
    waitProcess: { handle: async ({ containerId, execId }) => ({ status: await sandbox.wait(containerId, execId) }) },
    statsContainer: {
      handle({ containerId }) {
        const { user, kernel, memory, processes } = sandbox.usage(containerId);
        return {
          cgroupStats: {
            cpuStats: { cpuUsage: { totalUsage: user + kernel, usageInUsermode: user, usageInKernelmode: kernel } },
            memoryStats: { usage: { usage: memory } },
            pidsStats: { current: BigInt(processes) },
          },
        };
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

    addARPNeighbors: {},
    addSwap: {},
    addSwapPath: {},
    getDiagnosticData: {},
    getIPTables: {},
    getMetrics: {},
    getVolumeStats: {},
    listInterfaces: {},
    listRoutes: {},
    memAgentCompactSet: {},
    memAgentMemcgSet: {},
    memHotplugByProbe: {},
    pauseContainer: {},
    removeStaleVirtiofsShareMounts: {},
    reseedRandomDev: {},
    resizeVolume: {},
    resumeContainer: {},
    setGuestDateTime: {},
    setIPTables: {},
    ttyWinResize: {},
    updateContainer: {},
    updateEphemeralMounts: {},
    updateInterface: {},
    updateRoutes: {},
  };
}

function guestDetails({ memBlockSize }: { memBlockSize: boolean }): MessageInitShape<Methods["getGuestDetails"]["output"]> {
  return {
    memBlockSizeBytes: memBlockSize ? memoryBlockSize() : 0n,
    agentDetails: { version: AGENT_VERSION, initDaemon: false, storageHandlers: [...STORAGE_DRIVERS], supportsSeccomp: false },
    supportMemHotplugProbe: false,
  };
}

/** Bytes; 0 where the kernel has no memory hot-plug. */
function memoryBlockSize(): bigint {
  try {
    return BigInt(`0x${readFileSync("/sys/devices/system/memory/block_size_bytes", "latin1").trim()}`);
  } catch {
    return 0n;
  }
}
