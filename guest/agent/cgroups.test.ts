import { existsSync, mkdirSync } from "node:fs";
import { create, CgroupStatsSchema, LinuxResourcesSchema, type MessageInitShape } from "@sealpod/proto";
import { describe, expect, it, vi } from "vitest";
import { CgroupTree, type ContainerCgroup } from "./cgroups.ts";
import { errorOf, FakeHierarchy, inTemporaryDirectory } from "./test-support.ts";

type Limits = Exclude<MessageInitShape<typeof LinuxResourcesSchema>, { readonly $typeName: string }>;

interface Setup {
  readonly hierarchy: FakeHierarchy;
  readonly tree: CgroupTree;
  readonly group: ContainerCgroup;
  readonly update: (limits: Limits) => void;
}

async function withGroup(use: (setup: Setup) => void | Promise<void>): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const hierarchy = new FakeHierarchy(`${path}/cgroup`);
    const tree = new CgroupTree(hierarchy.root, hierarchy);
    const group = tree.create("c1");
    hierarchy.make(`${hierarchy.root}/sealpod/c1/c`);
    await use({ hierarchy, tree, group, update: (limits) => group.update(create(LinuxResourcesSchema, limits)) });
  });
}

const GROUP = "sealpod/c1";
const LEAF = "sealpod/c1/c";

describe("the group of a container", () => {
  it("is below the agent's own, with the controllers that limits need, and bounded in what it can make itself", () =>
    withGroup(({ hierarchy, group }) => {
      expect(group.path).toBe("/sealpod/c1/c");
      // The last one written; the file of the kernel would have them all.
      for (const level of ["", "sealpod", GROUP]) expect(hierarchy.get(level, "cgroup.subtree_control"), level).toBe("+memory");
      expect(hierarchy.get(GROUP, "cgroup.max.descendants")).toBe("1024");
      expect(hierarchy.get(GROUP, "cgroup.max.depth")).toBe("32");
    }));

  it("is not shared with processes that an earlier container of the same name left", () =>
    withGroup(async ({ hierarchy, tree }) => {
      hierarchy.set(GROUP, { "cgroup.events": "populated 1\nfrozen 0\n" });
      expect((await errorOf(() => tree.create("c1"))).code).toBe("ERR_AGENT_CGROUP");
      hierarchy.set(GROUP, { "cgroup.events": "populated 0\nfrozen 0\n", "memory.events": "oom_kill 7\n" });
      tree.create("c1");
      expect(existsSync(`${hierarchy.root}/${GROUP}/memory.events`)).toBe(false);
    }));

  it("says so where there is no hierarchy", async () => {
    expect((await errorOf(() => new CgroupTree("/nowhere").create("c1"))).code).toBe("ERR_AGENT_CGROUP");
  });

  it("is removed once it is empty, with the groups that the container made", () =>
    withGroup(async ({ hierarchy, group }) => {
      hierarchy.make(`${hierarchy.root}/${LEAF}/inner`);
      hierarchy.set(GROUP, { "cgroup.events": "populated 1\nfrozen 0\n" });
      const removing = group.remove();
      expect(hierarchy.get(GROUP, "cgroup.kill")).toBe("1");
      expect(hierarchy.removed).toEqual([]);
      hierarchy.set(GROUP, { "cgroup.events": "populated 0\nfrozen 0\n" });
      await removing;
      expect(hierarchy.removed).toEqual([`/${LEAF}/inner`, `/${LEAF}`, `/${GROUP}`]);
    }));

  it("stays, and says so, if a process does not die", () =>
    withGroup(async ({ hierarchy, group }) => {
      vi.useFakeTimers();
      try {
        hierarchy.set(GROUP, { "cgroup.events": "populated 1\nfrozen 0\n" });
        const failure = errorOf(() => group.remove());
        await vi.advanceTimersByTimeAsync(10_000);
        expect((await failure).code).toBe("ERR_AGENT_CGROUP");
        expect(hierarchy.removed).toEqual([]);
      } finally {
        vi.useRealTimers();
      }
    }));
});

describe("statistics", () => {
  it("are those of the kernel, in the units of the API", () =>
    withGroup(({ hierarchy, group }) => {
      hierarchy.set(GROUP, {
        "cpu.stat": "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 7\nnr_throttled 3\nthrottled_usec 11\n",
        "memory.current": "4096\n",
        "memory.peak": "8192\n",
        "memory.max": "max\n",
        "memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n",
        "memory.stat": "anon 100\nfile 200\nkernel 300\n",
        "memory.swap.current": "5\n",
        "memory.swap.max": "max\n",
        "pids.current": "4\n",
        "pids.max": "max\n",
        "io.stat": "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:16 \n",
        "hugetlb.2MB.current": "2097152\n",
        "hugetlb.2MB.events": "max 8\n",
        "hugetlb.2MB.rsvd.current": "1\n",
      });
      hierarchy.set(LEAF, { "memory.max": "65536\n", "pids.max": "100\n" });
      const stats = group.stats();
      // Everything has the type that the answer needs.
      create(CgroupStatsSchema, stats);
      const unlimited = 2n ** 64n - 1n;
      const io = (values: readonly bigint[]) => ["Read", "Write", "Discard"].map((op, i) => ({ major: 254n, minor: 0n, op, value: values[i] }));
      expect(stats).toMatchObject({
        cpuStats: {
          cpuUsage: { totalUsage: 3_000_000n, usageInUsermode: 2_000_000n, usageInKernelmode: 1_000_000n },
          throttlingData: { periods: 7n, throttledPeriods: 3n, throttledTime: 11_000n },
        },
        memoryStats: {
          cache: 200n,
          usage: { usage: 4096n, maxUsage: 8192n, failcnt: 9n, limit: 65536n },
          swapUsage: { usage: 5n, maxUsage: 0n, failcnt: 0n, limit: unlimited },
          kernelUsage: { usage: 300n, limit: unlimited },
          useHierarchy: true,
          stats: { anon: 100n, file: 200n, kernel: 300n },
        },
        pidsStats: { current: 4n, limit: 100n },
        hugetlbStats: { "2MB": { usage: 2_097_152n, failcnt: 8n } },
      });
      expect(Object.keys(stats.hugetlbStats ?? {})).toEqual(["2MB"]);
      expect(stats.blkioStats?.ioServiceBytesRecursive?.slice(0, 3)).toEqual(io([1n, 2n, 5n]));
      expect(stats.blkioStats?.ioServicedRecursive?.slice(0, 3)).toEqual(io([3n, 4n, 6n]));
    }));

  it("are there where the kernel has no controllers, and after the end", () =>
    withGroup(({ group }) => {
      expect(group.stats()).toMatchObject({ memoryStats: { usage: { usage: 0n, limit: 2n ** 64n - 1n } }, pidsStats: { current: 0n, limit: 0n } });
    }));

  it("do not take what is no number for one", () =>
    withGroup(({ hierarchy, group }) => {
      hierarchy.set(GROUP, { "memory.current": "-5\n", "memory.stat": "anon 1e3\nfile 0x10\n", "io.stat": "x:y rbytes=1\n8:0 rbytes=zz\n" });
      expect(group.stats().memoryStats).toMatchObject({ usage: { usage: 0n }, stats: {} });
    }));
});

describe("an update", () => {
  const FILES = {
    "memory.max": "max\n",
    "memory.low": "0\n",
    "memory.swap.max": "max\n",
    "cpu.weight": "100\n",
    "cpu.max": "max 100000\n",
    "cpuset.cpus": "\n",
    "cpuset.mems": "\n",
    "pids.max": "max\n",
    "hugetlb.2MB.max": "max\n",
  };
  const changed = async (limits: Limits, before: Readonly<Record<string, string>> = {}): Promise<Record<string, string>> => {
    const files: Record<string, string> = {};
    await withGroup(({ hierarchy, update }) => {
      hierarchy.set(LEAF, { ...FILES, ...before });
      update(limits);
      for (const [name, text] of Object.entries({ ...FILES, ...before })) if (hierarchy.get(LEAF, name) !== text) files[name] = hierarchy.get(LEAF, name);
    });
    return files;
  };

  it("writes what is set, and only that", async () => {
    expect(await changed({})).toEqual({});
    expect(await changed({ Memory: {}, CPU: {}, Pids: {}, HugepageLimits: [{ Pagesize: "2MB", Limit: 0n }] })).toEqual({});
    expect(
      await changed({
        Memory: { Limit: 1000n, Reservation: 10n, Swap: 1500n },
        CPU: { Shares: 1024n, Quota: 5000n, Period: 10_000n, Cpus: "0-1,3", Mems: "0" },
        Pids: { Limit: 7n },
        HugepageLimits: [{ Pagesize: "2MB", Limit: 4194304n }],
      }),
    ).toEqual({
      "memory.max": "1000",
      "memory.low": "10",
      "memory.swap.max": "500",
      "cpu.weight": "39",
      "cpu.max": "5000 10000",
      "cpuset.cpus": "0-1,3",
      "cpuset.mems": "0",
      "pids.max": "7",
      "hugetlb.2MB.max": "4194304",
    });
  });

  it("takes limits away", async () => {
    const before = { "memory.max": "5\n", "cpu.max": "1 2\n", "pids.max": "1\n" };
    expect(await changed({ Memory: { Limit: -1n, Swap: -1n }, CPU: { Quota: -1n }, Pids: { Limit: -1n } }, before)).toEqual({
      "memory.max": "max",
      "memory.swap.max": "max",
      "cpu.max": "max",
      "pids.max": "max",
    });
  });

  it("knows swap from the limit of memory in force", async () => {
    expect(await changed({ Memory: { Swap: 3000n } }, { "memory.max": "1000\n" })).toEqual({ "memory.swap.max": "2000" });
  });

  it.each([
    [1n, "1"],
    [2n, "1"],
    [262144n, "10000"],
    [2n ** 63n, "10000"],
  ])("makes %d shares a weight of %s", async (Shares, weight) => {
    expect(await changed({ CPU: { Shares } })).toEqual({ "cpu.weight": weight });
  });

  it.each<[string, Limits]>([
    ["a negative limit of memory", { Memory: { Limit: -2n } }],
    ["swap below the limit of memory", { Memory: { Limit: 1000n, Swap: 999n } }],
    ["swap where memory has no limit", { Memory: { Limit: -1n, Swap: 999n } }],
    ["no killer", { Memory: { DisableOOMKiller: true } }],
    ["a negative quota", { CPU: { Quota: -2n } }],
    ["a period alone", { CPU: { Period: 1000n } }],
    ["real time", { CPU: { RealtimeRuntime: 1n } }],
    ["processors that are none", { CPU: { Cpus: "0\n1" } }],
    ["pages that are none", { HugepageLimits: [{ Pagesize: "../memory", Limit: 1n }] }],
  ])("refuses %s, and changes nothing", (_what, limits) =>
    withGroup(async ({ hierarchy, update }) => {
      hierarchy.set(LEAF, FILES);
      expect((await errorOf(() => update({ ...limits, Pids: { Limit: 3n } }))).code).toBe("ERR_AGENT_REQUEST");
      for (const [name, text] of Object.entries(FILES)) expect(hierarchy.get(LEAF, name)).toBe(text);
    }),
  );

  it("that the kernel refuses half-way is undone", () =>
    withGroup(async ({ hierarchy, update }) => {
      hierarchy.set(LEAF, { "memory.max": "5\n", "cpuset.cpus": "\n" });
      // In the place of the last one stands what cannot be written.
      mkdirSync(`${hierarchy.root}/${LEAF}/pids.max`);
      expect((await errorOf(() => update({ Memory: { Limit: 9n }, CPU: { Cpus: "1" }, Pids: { Limit: 3n } }))).code).toBe("ERR_AGENT_CGROUP");
      expect(hierarchy.get(LEAF, "memory.max")).toBe("5");
      expect(hierarchy.get(LEAF, "cpuset.cpus")).toBe("\n");
    }));

  it("of a container that has ended fails", () =>
    withGroup(async ({ hierarchy, update }) => {
      hierarchy.remove(`${hierarchy.root}/${LEAF}`);
      expect((await errorOf(() => update({ Pids: { Limit: 3n } }))).code).toBe("ERR_AGENT_CGROUP");
    }));
});

describe("freezing", () => {
  it("returns when all processes stand still", () =>
    withGroup(async ({ hierarchy, group }) => {
      expect(group.frozen).toBe(false);
      let done = false;
      const freezing = group.freeze().then(() => (done = true));
      expect(hierarchy.get(GROUP, "cgroup.freeze")).toBe("1");
      hierarchy.set(GROUP, { "cgroup.events": "populated 1\nfrozen 0\n" });
      await new Promise((resolve) => setImmediate(resolve));
      expect(done).toBe(false);
      hierarchy.set(GROUP, { "cgroup.events": "populated 1\nfrozen 1\n" });
      await freezing;
      expect(group.frozen).toBe(true);
      const thawing = group.thaw();
      expect(hierarchy.get(GROUP, "cgroup.freeze")).toBe("0");
      hierarchy.set(GROUP, { "cgroup.events": "populated 1\nfrozen 0\n" });
      await thawing;
      expect(group.frozen).toBe(false);
    }));

  it("gives up on processes that do not stop, and lets the others go on", () =>
    withGroup(async ({ hierarchy, group }) => {
      vi.useFakeTimers();
      try {
        const failure = errorOf(() => group.freeze());
        await vi.advanceTimersByTimeAsync(10_000);
        expect((await failure).code).toBe("ERR_AGENT_CGROUP");
        expect(hierarchy.get(GROUP, "cgroup.freeze")).toBe("0");
      } finally {
        vi.useRealTimers();
      }
    }));
});

describe("out of memory", () => {
  const events = (kills: number): Readonly<Record<string, string>> => ({ "memory.events": `low 0\noom ${kills}\noom_kill ${kills}\n` });

  it("is told once for each time that the count was higher, by the kernel's word", () =>
    withGroup(async ({ hierarchy, group }) => {
      hierarchy.set(GROUP, events(0));
      const told: Promise<void>[] = [];
      let next = Promise.withResolvers<void>();
      let count = 0;
      group.onOutOfMemory(() => {
        count++;
        next.resolve();
        next = Promise.withResolvers();
      });
      told.push(next.promise);
      hierarchy.set(GROUP, events(2));
      await next.promise;
      hierarchy.set(GROUP, { "memory.events": "low 1\noom 3\noom_kill 2\n" });
      group.checkOutOfMemory();
      expect(count).toBe(1);
      const second = next.promise;
      hierarchy.set(GROUP, events(3));
      await second;
      expect(count).toBe(2);
      await group.remove();
    }));

  it("is told at the latest when the group is removed, and never afterwards", () =>
    withGroup(async ({ hierarchy, group }) => {
      hierarchy.set(GROUP, events(0));
      let count = 0;
      group.onOutOfMemory(() => count++);
      hierarchy.set(GROUP, events(1));
      await group.remove();
      expect(count).toBe(1);
      group.checkOutOfMemory();
      await new Promise((resolve) => setImmediate(resolve));
      expect(count).toBe(1);
    }));

  it("never happens without a memory controller", () =>
    withGroup(async ({ group }) => {
      group.onOutOfMemory(() => expect.unreachable());
      await group.remove();
    }));
});
