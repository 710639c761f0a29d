import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StatsContainerResponseSchema, cgroupsV1Api, cgroupsV2Api, create, parseMessage } from "@sealpod/proto";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { guestMetrics, machineMetrics, openHostMetrics, type StatsAny } from "./metrics.ts";

const v1 = (any: StatsAny | undefined): cgroupsV1Api.Metrics => {
  expect(any?.typeUrl).toBe("io.containerd.cgroups.v1.Metrics");
  return parseMessage(cgroupsV1Api.MetricsSchema, any?.value ?? new Uint8Array());
};
const v2 = (any: StatsAny | undefined): cgroupsV2Api.Metrics => {
  expect(any?.typeUrl).toBe("io.containerd.cgroups.v2.Metrics");
  return parseMessage(cgroupsV2Api.MetricsSchema, any?.value ?? new Uint8Array());
};

const response = create(StatsContainerResponseSchema, {
  cgroupStats: {
    cpuStats: {
      cpuUsage: { totalUsage: 9_000_500n, usageInKernelmode: 4_000_000n, usageInUsermode: 5_000_000n },
      throttlingData: { periods: 3n, throttledPeriods: 2n, throttledTime: 7000n },
    },
    memoryStats: {
      usage: { usage: 1000n, limit: 2000n, maxUsage: 1500n, failcnt: 1n },
      swapUsage: { usage: 10n, limit: 20n },
      stats: { anon: 100n, file: 200n, inactive_file: 50n, pgfault: 8n, pgmajfault: 2n },
    },
    pidsStats: { current: 4n, limit: 5n },
    blkioStats: {
      ioServiceBytesRecursive: [
        { major: 8n, minor: 0n, op: "Read", value: 11n },
        { major: 8n, minor: 0n, op: "Write", value: 12n },
        { major: 8n, minor: 16n, op: "write", value: 13n },
        { major: 8n, minor: 0n, op: "Discard", value: 99n },
      ],
      ioServicedRecursive: [{ major: 8n, minor: 0n, op: "Read", value: 1n }],
    },
  },
  networkStats: [{ name: "eth0", rxBytes: 1n, txBytes: 2n }],
});

describe("statistics of a guest's container", () => {
  it("are those of version 2 on a host of version 2: microseconds", () => {
    expect(v2(guestMetrics(response, 2))).toMatchObject({
      pids: { current: 4n, limit: 5n },
      cpu: { usageUsec: 9000n, userUsec: 5000n, systemUsec: 4000n, nrPeriods: 3n, nrThrottled: 2n, throttledUsec: 7n },
      memory: { usage: 1000n, usageLimit: 2000n, anon: 100n, file: 200n, inactiveFile: 50n, pgfault: 8n, pgmajfault: 2n, swapUsage: 10n, swapLimit: 20n },
      io: {
        usage: [
          { major: 8n, minor: 0n, rbytes: 11n, wbytes: 12n, rios: 1n, wios: 0n },
          { major: 8n, minor: 16n, rbytes: 0n, wbytes: 13n, rios: 0n, wios: 0n },
        ],
      },
    });
  });

  it("are those of version 1 on a host of version 1, whatever the guest has: nanoseconds", () => {
    expect(v1(guestMetrics(response, 1))).toMatchObject({
      pids: { current: 4n, limit: 5n },
      cpu: { usage: { total: 9_000_500n, user: 5_000_000n, kernel: 4_000_000n }, throttling: { periods: 3n, throttledPeriods: 2n, throttledTime: 7000n } },
      memory: {
        usage: { usage: 1000n, limit: 2000n, max: 1500n, failcnt: 1n },
        totalRss: 100n,
        totalCache: 200n,
        totalInactiveFile: 50n,
        totalPgFault: 8n,
        totalPgMajFault: 2n,
      },
      blkio: { ioServiceBytesRecursive: [{ op: "Read", value: 11n }, {}, {}, {}] },
      network: [{ name: "eth0", rxBytes: 1n, txBytes: 2n }],
    });
  });

  it("take a guest's names of version 1 for a host of version 2", () => {
    const stats = { total_rss: 7n, rss: 6n, total_inactive_file: 5n, cache: 4n, total_pgfault: 3n };
    const guest = create(StatsContainerResponseSchema, { cgroupStats: { cpuStats: { cpuUsage: {} }, memoryStats: { usage: {}, stats } } });
    expect(v2(guestMetrics(guest, 2)).memory).toMatchObject({ anon: 7n, inactiveFile: 5n, file: 4n, pgfault: 3n });
  });

  it.each([
    ["nothing", {}],
    ["no processor", { cgroupStats: { memoryStats: { usage: {} } } }],
    ["no memory", { cgroupStats: { cpuStats: { cpuUsage: {} } } }],
  ])("are none when the guest gave %s", (_name, fields) => {
    expect(guestMetrics(create(StatsContainerResponseSchema, fields), 1)).toBeUndefined();
    expect(guestMetrics(create(StatsContainerResponseSchema, fields), 2)).toBeUndefined();
  });

  it("are never without processor and memory, of which containerd 1.6 would die", () => {
    const guest = create(StatsContainerResponseSchema, { cgroupStats: { cpuStats: { cpuUsage: {} }, memoryStats: { usage: {} } } });
    for (const any of [guestMetrics(guest, 1), machineMetrics({ userTime: 0n, systemTime: 0n, memory: 0n, threads: 0n }, 1)]) {
      expect(v1(any).cpu?.usage).toBeDefined();
      expect(v1(any).memory?.usage).toBeDefined();
      expect(v1(any).pids).toBeDefined();
    }
    for (const any of [guestMetrics(guest, 2), machineMetrics({ userTime: 0n, systemTime: 0n, memory: 0n, threads: 0n }, 2)]) {
      expect(v2(any).cpu).toBeDefined();
      expect(v2(any).memory).toBeDefined();
      expect(v2(any).pids).toBeDefined();
    }
  });
});

describe("statistics of the machine", () => {
  let root = "";
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "sealpod-metrics-"));
    await mkdir(join(root, "proc/12"), { recursive: true });
    await mkdir(join(root, "sys/fs/cgroup"), { recursive: true });
  });
  afterEach(() => rm(root, { recursive: true }));

  it("come from the kernel's files, whatever the program is called", async () => {
    const fields = ["S", ...Array.from({ length: 10 }, () => "0"), "150", "50", "0"];
    await writeFile(join(root, "proc/12/stat"), `12 (evil) name 1 2 (3)) ${fields.join(" ")}\n`);
    await writeFile(join(root, "proc/12/status"), "Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t6\n");
    const host = await openHostMetrics(root);
    expect(host.cgroupVersion).toBe(1);
    const usage = await host.usage(12);
    expect(usage).toEqual({ userTime: 1_500_000_000n, systemTime: 500_000_000n, memory: 2n * 1024n * 1024n, threads: 6n });
    expect(v1(machineMetrics(usage, 1))).toMatchObject({
      cpu: { usage: { total: 2_000_000_000n } },
      memory: { usage: { usage: 2_097_152n } },
      pids: { current: 6n },
    });
    expect(v2(machineMetrics(usage, 2))).toMatchObject({ cpu: { usageUsec: 2_000_000n }, memory: { usage: 2_097_152n } });
  });

  it("are zero for a process that is gone or says nothing", async () => {
    await writeFile(join(root, "sys/fs/cgroup/cgroup.controllers"), "cpu memory");
    const host = await openHostMetrics(root);
    expect(host.cgroupVersion).toBe(2);
    const none = { userTime: 0n, systemTime: 0n, memory: 0n, threads: 0n };
    expect(await host.usage(13)).toEqual(none);
    await writeFile(join(root, "proc/12/stat"), "");
    await writeFile(join(root, "proc/12/status"), "");
    expect(await host.usage(12)).toEqual(none);
  });

  it("exist for this process", async () => {
    const { memory, threads } = await (await openHostMetrics()).usage(process.pid);
    expect(memory).toBeGreaterThan(1_000_000n);
    expect(threads).toBeGreaterThan(0n);
  });
});
