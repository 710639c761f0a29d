import { readFile } from "node:fs/promises";
import {
  cgroupsV1Api,
  cgroupsV2Api,
  encodeMessage,
  type AnySchema,
  type BlkioStatsEntry,
  type CgroupStats,
  type MemoryData,
  type MessageInitShape,
  type StatsContainerResponse,
} from "@sealpod/proto";

/** What a machine takes of the host. */
export interface HostUsage {
  /** Nanoseconds of processor time. */
  readonly userTime: bigint;
  readonly systemTime: bigint;
  /** Bytes. */
  readonly memory: bigint;
  readonly threads: bigint;
}

/** What of the host statistics need. */
export interface HostMetrics {
  /** Version of the host's control groups: containerd and the kubelet read the numbers that belong to it, whatever the guest has. */
  readonly cgroupVersion: 1 | 2;
  /** What a process of the host uses; nothing if it is gone. */
  usage(pid: number): Promise<HostUsage>;
}

/** The statistics of a Stats response. Never without processor and memory: containerd 1.6 dies of an answer that lacks them. */
export type StatsAny = MessageInitShape<typeof AnySchema>;

/** Clock ticks of /proc/PID/stat, USER_HZ: 100 a second on every architecture that virtual machines run on. */
const TICK_NANOSECONDS = 10_000_000n;

/** Of a process that is gone, or a container that nobody may look into. */
export const NO_USAGE: HostUsage = { userTime: 0n, systemTime: 0n, memory: 0n, threads: 0n };

/** The numbers of a container in the guest, or undefined if the guest gave none. */
export function guestMetrics(response: StatsContainerResponse, version: 1 | 2): StatsAny | undefined {
  const { cgroupStats } = response;
  // What a policy redacts is an empty message.
  if (cgroupStats?.cpuStats?.cpuUsage === undefined || cgroupStats.memoryStats?.usage === undefined) return undefined;
  return version === 2 ? encodeV2(cgroupStats) : encodeV1(cgroupStats, response.networkStats);
}

/** The numbers of the machine as a process of the host: what is known when the guest says nothing. */
export function machineMetrics(usage: HostUsage, version: 1 | 2): StatsAny {
  const { userTime: user, systemTime: system, memory, threads } = usage;
  if (version === 2) {
    return anyOf(cgroupsV2Api.MetricsSchema, {
      pids: { current: threads },
      cpu: { usageUsec: (user + system) / 1000n, userUsec: user / 1000n, systemUsec: system / 1000n },
      memory: { anon: memory, usage: memory },
    });
  }
  return anyOf(cgroupsV1Api.MetricsSchema, {
    pids: { current: threads },
    cpu: { usage: { total: user + system, user, kernel: system } },
    memory: { rss: memory, totalRss: memory, usage: { usage: memory } },
  });
}

/** The host's, from its `/proc` and `/sys`. */
export async function openHostMetrics(root = "/"): Promise<HostMetrics> {
  // The file is in the root of the second version alone; in a hybrid hierarchy that is elsewhere, and containerd uses the first.
  const unified = await readFile(`${root}/sys/fs/cgroup/cgroup.controllers`).then(
    () => true,
    () => false,
  );
  return { cgroupVersion: unified ? 2 : 1, usage: (pid) => processUsage(`${root}/proc/${pid}`) };
}

async function processUsage(directory: string): Promise<HostUsage> {
  try {
    const [stat, status] = await Promise.all([readFile(`${directory}/stat`, "utf8"), readFile(`${directory}/status`, "utf8")]);
    // The name, in parentheses, may hold anything; the third field is the first behind it.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return {
      userTime: whole(fields[11]) * TICK_NANOSECONDS,
      systemTime: whole(fields[12]) * TICK_NANOSECONDS,
      memory: whole(/^VmRSS:\s*(\d+) kB$/m.exec(status)?.[1]) * 1024n,
      threads: whole(/^Threads:\s*(\d+)$/m.exec(status)?.[1]),
    };
  } catch {
    return NO_USAGE;
  }
}

function whole(text: string | undefined): bigint {
  return text !== undefined && /^\d+$/.test(text) ? BigInt(text) : 0n;
}

function encodeV2(stats: CgroupStats): StatsAny {
  const { cpuStats: cpu, memoryStats: memory } = stats;
  const line = memoryLine(stats);
  return anyOf(cgroupsV2Api.MetricsSchema, {
    pids: { current: stats.pidsStats?.current ?? 0n, limit: stats.pidsStats?.limit ?? 0n },
    cpu: {
      usageUsec: (cpu?.cpuUsage?.totalUsage ?? 0n) / 1000n,
      userUsec: (cpu?.cpuUsage?.usageInUsermode ?? 0n) / 1000n,
      systemUsec: (cpu?.cpuUsage?.usageInKernelmode ?? 0n) / 1000n,
      nrPeriods: cpu?.throttlingData?.periods ?? 0n,
      nrThrottled: cpu?.throttlingData?.throttledPeriods ?? 0n,
      throttledUsec: (cpu?.throttlingData?.throttledTime ?? 0n) / 1000n,
    },
    memory: {
      anon: line("anon", "total_rss", "rss"),
      file: line("file", "total_cache", "cache"),
      kernelStack: line("kernel_stack"),
      slab: line("slab"),
      sock: line("sock"),
      shmem: line("shmem", "total_shmem"),
      fileMapped: line("file_mapped", "total_mapped_file"),
      fileDirty: line("file_dirty", "total_dirty"),
      fileWriteback: line("file_writeback", "total_writeback"),
      inactiveAnon: line("inactive_anon", "total_inactive_anon"),
      activeAnon: line("active_anon", "total_active_anon"),
      inactiveFile: line("inactive_file", "total_inactive_file"),
      activeFile: line("active_file", "total_active_file"),
      unevictable: line("unevictable", "total_unevictable"),
      pgfault: line("pgfault", "total_pgfault"),
      pgmajfault: line("pgmajfault", "total_pgmajfault"),
      usage: memory?.usage?.usage ?? 0n,
      usageLimit: memory?.usage?.limit ?? 0n,
      swapUsage: memory?.swapUsage?.usage ?? 0n,
      swapLimit: memory?.swapUsage?.limit ?? 0n,
    },
    io: { usage: devices(stats) },
  });
}

function encodeV1(stats: CgroupStats, network: StatsContainerResponse["networkStats"]): StatsAny {
  const { cpuStats: cpu, memoryStats: memory, blkioStats: blkio } = stats;
  const line = memoryLine(stats);
  const entry = (data: MemoryData | undefined): MemoryEntry => ({
    usage: data?.usage ?? 0n,
    limit: data?.limit ?? 0n,
    max: data?.maxUsage ?? 0n,
    failcnt: data?.failcnt ?? 0n,
  });
  const io = (entries: readonly BlkioStatsEntry[] | undefined): BlkIOEntry[] =>
    (entries ?? []).map(({ major, minor, op, value }) => ({ major, minor, op, value }));
  return anyOf(cgroupsV1Api.MetricsSchema, {
    pids: { current: stats.pidsStats?.current ?? 0n, limit: stats.pidsStats?.limit ?? 0n },
    cpu: {
      usage: {
        total: cpu?.cpuUsage?.totalUsage ?? 0n,
        user: cpu?.cpuUsage?.usageInUsermode ?? 0n,
        kernel: cpu?.cpuUsage?.usageInKernelmode ?? 0n,
        perCpu: cpu?.cpuUsage?.percpuUsage ?? [],
      },
      throttling: {
        periods: cpu?.throttlingData?.periods ?? 0n,
        throttledPeriods: cpu?.throttlingData?.throttledPeriods ?? 0n,
        throttledTime: cpu?.throttlingData?.throttledTime ?? 0n,
      },
    },
    memory: {
      cache: line("cache", "file"),
      rss: line("rss", "anon"),
      mappedFile: line("mapped_file", "file_mapped"),
      pgFault: line("pgfault"),
      pgMajFault: line("pgmajfault"),
      inactiveAnon: line("inactive_anon"),
      activeAnon: line("active_anon"),
      inactiveFile: line("inactive_file"),
      activeFile: line("active_file"),
      unevictable: line("unevictable"),
      hierarchicalMemoryLimit: line("hierarchical_memory_limit"),
      totalCache: line("total_cache", "file", "cache"),
      totalRss: line("total_rss", "anon", "rss"),
      totalMappedFile: line("total_mapped_file", "file_mapped"),
      totalPgFault: line("total_pgfault", "pgfault"),
      totalPgMajFault: line("total_pgmajfault", "pgmajfault"),
      totalInactiveAnon: line("total_inactive_anon", "inactive_anon"),
      totalActiveAnon: line("total_active_anon", "active_anon"),
      totalInactiveFile: line("total_inactive_file", "inactive_file"),
      totalActiveFile: line("total_active_file", "active_file"),
      totalUnevictable: line("total_unevictable", "unevictable"),
      usage: entry(memory?.usage),
      swap: entry(memory?.swapUsage),
      kernel: entry(memory?.kernelUsage),
    },
    blkio: { ioServiceBytesRecursive: io(blkio?.ioServiceBytesRecursive), ioServicedRecursive: io(blkio?.ioServicedRecursive) },
    network: network.map(({ name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped }) => {
      return { name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped };
    }),
  });
}

type MemoryEntry = MessageInitShape<typeof cgroupsV1Api.MemoryEntrySchema>;
type BlkIOEntry = MessageInitShape<typeof cgroupsV1Api.BlkIOEntrySchema>;
type IOEntry = { major: bigint; minor: bigint; rbytes: bigint; wbytes: bigint; rios: bigint; wios: bigint };

/** The first of the named lines of memory.stat that the guest has: the names differ between the two versions of control groups. */
function memoryLine(stats: CgroupStats): (...names: string[]) => bigint {
  const lines = new Map(Object.entries(stats.memoryStats?.stats ?? {}));
  return (...names) => names.map((name) => lines.get(name)).find((value) => value !== undefined) ?? 0n;
}

/** One entry a device, of the entries a device and an operation. */
function devices(stats: CgroupStats): IOEntry[] {
  const found = new Map<string, IOEntry>();
  const add = (entries: readonly BlkioStatsEntry[] | undefined, read: "rbytes" | "rios", write: "wbytes" | "wios"): void => {
    for (const { major, minor, op, value } of entries ?? []) {
      const key = `${major}:${minor}`;
      const device = found.get(key) ?? { major, minor, rbytes: 0n, wbytes: 0n, rios: 0n, wios: 0n };
      found.set(key, device);
      if (op.toLowerCase() === "read") device[read] = value;
      else if (op.toLowerCase() === "write") device[write] = value;
    }
  };
  add(stats.blkioStats?.ioServiceBytesRecursive, "rbytes", "wbytes");
  add(stats.blkioStats?.ioServicedRecursive, "rios", "wios");
  return [...found.values()];
}

function anyOf<D extends typeof cgroupsV1Api.MetricsSchema | typeof cgroupsV2Api.MetricsSchema>(schema: D, metrics: MessageInitShape<D>): StatsAny {
  return { typeUrl: schema.typeName, value: encodeMessage(schema, metrics) };
}
