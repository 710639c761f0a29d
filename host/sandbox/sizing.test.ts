import { describe, expect, it } from "vitest";
import { AKS_SIZING, machineSize, sizingOf, specLimits, workloadLimits, type HostCapacity, type SizingConfig } from "./sizing.ts";

const GIB = 1024 ** 3;

describe("machine size, specs/runtime.md 6.2", () => {
  it.each([
    ["no limits", 0, 100_000, 0, 4096, 1],
    ["half a CPU", 50_000, 100_000, 0, 4096, 2],
    ["exactly one CPU", 100_000, 100_000, 0, 4096, 2],
    ["a little more than one CPU", 100_001, 100_000, 0, 4096, 3],
    ["unlimited CPU, as the kernel writes it", -1, 100_000, 0, 4096, 1],
    ["a quota without a period", 50_000, 0, 0, 4096, 1],
    ["memory", 0, 100_000, 2 * GIB, 4096, 1],
    ["memory that is no whole number of MiB", 0, 100_000, 128 * 1024 * 1024 + 1_048_575, 2176, 1],
    ["memory below one MiB", 0, 100_000, 1_048_575, 4096, 1],
    ["negative memory", 0, 100_000, -5, 4096, 1],
    ["both", 1_500_000, 100_000, 8 * GIB, 10_240, 16],
    ["a thousandth of a CPU", 100, 100_000, 0, 4096, 2],
    ["a quota that is no whole part of its period", 1, 3, 0, 4096, 2],
    ["a period of one microsecond", 7, 1, 0, 4096, 8],
    ["a negative period", 50_000, -1, 0, 4096, 1],
    ["one byte below two MiB", 0, 100_000, 2 * 1024 * 1024 - 1, 2049, 1],
  ])("%s", (_what, cpuQuota, cpuPeriod, memoryBytes, memoryMiB, vcpus) => {
    expect(machineSize({ cpuQuota, cpuPeriod, memoryBytes })).toEqual({ memoryMiB, vcpus });
  });

  it("takes base and defaults from the configuration", () => {
    const newer = { ...AKS_SIZING, defaultMemoryMiB: 0, defaultWorkloadMemoryMiB: 512, defaultVcpus: 0, defaultWorkloadVcpus: 1 };
    expect(machineSize({ cpuQuota: 0, cpuPeriod: 0, memoryBytes: 0 }, newer)).toEqual({ memoryMiB: 512, vcpus: 1 });
    expect(machineSize({ cpuQuota: 250_000, cpuPeriod: 100_000, memoryBytes: GIB }, newer)).toEqual({ memoryMiB: 1024, vcpus: 3 });
    expect(machineSize({ cpuQuota: 50_000, cpuPeriod: 100_000, memoryBytes: 0 }, { ...AKS_SIZING, defaultVcpus: 0.5 }).vcpus).toBe(1);
  });

  it("leaves the base alone where machines can grow", () => {
    expect(machineSize({ cpuQuota: 900_000, cpuPeriod: 100_000, memoryBytes: GIB }, { ...AKS_SIZING, staticSandbox: false })).toEqual({
      memoryMiB: 2048,
      vcpus: 1,
    });
  });

  it("reads limits, not requests, from the sandbox annotations", () => {
    expect(
      workloadLimits({
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-cpu-quota": "-1",
        "io.kubernetes.cri.sandbox-cpu-shares": "4096",
        "io.kubernetes.cri.sandbox-memory": "1073741824",
      }),
    ).toEqual({ cpuPeriod: 100_000, cpuQuota: -1, memoryBytes: GIB });
    expect(workloadLimits({})).toEqual({ cpuPeriod: 0, cpuQuota: 0, memoryBytes: 0 });
  });

  it.each(["", "1.5", "1e3", "0x10", "NaN", "99999999999999999999", " 1"])("refuses %j", (text) => {
    expect(() => workloadLimits({ "io.kubernetes.cri.sandbox-memory": text })).toThrow(expect.objectContaining({ code: "ERR_SANDBOX_SPEC" }));
  });

  it("counts fractions exactly", () => {
    const sized = (defaultVcpus: number, cpuQuota: number): number =>
      machineSize({ cpuQuota, cpuPeriod: 100_000, memoryBytes: 0 }, { ...AKS_SIZING, defaultVcpus }).vcpus;
    for (let tenths = 1; tenths < 100; tenths++) {
      for (let other = 1; other < 100; other++)
        expect(sized(tenths / 10, other * 10_000), `${tenths} and ${other} tenths`).toBe(Math.ceil((tenths + other) / 10));
    }
    expect(sized(0.001, 99_900)).toBe(1);
    expect(sized(0.001, 99_901)).toBe(2);
  });
});

const none = { cpuQuota: 0, cpuPeriod: 0, memoryBytes: 0 };
const refusal = (message: RegExp): unknown =>
  expect.objectContaining({ code: "ERR_SANDBOX_SPEC", message: expect.stringMatching(message) as string }) as unknown;

describe("a pod that does not fit", () => {
  const host: HostCapacity = { memoryMiB: 8192, vcpus: 4 };
  it.each([
    ["memory that fits to the last MiB", { memoryBytes: 6 * GIB }, undefined],
    [
      "one MiB more",
      { memoryBytes: 6 * GIB + 1024 * 1024 },
      /^the pod does not fit this host: its machine needs 8193 MiB of memory, and the host has 8192 MiB to give$/,
    ],
    ["all CPUs", { cpuQuota: 300_000, cpuPeriod: 100_000 }, undefined],
    ["a little more", { cpuQuota: 300_001, cpuPeriod: 100_000 }, /^the pod does not fit this host: its machine needs 5 CPUs, and the host has 4 to give$/],
    ["more CPUs than numbers have", { cpuQuota: Number.MAX_SAFE_INTEGER, cpuPeriod: 1 }, /needs 9007199254740992 CPUs/],
    ["more memory than there is", { memoryBytes: Number.MAX_SAFE_INTEGER }, /needs 8589936639 MiB/],
  ])("%s", (_what, limits, message) => {
    const size = (): unknown => machineSize({ ...none, ...limits }, AKS_SIZING, host);
    if (message === undefined) expect(size).not.toThrow();
    else expect(size).toThrow(refusal(message));
  });

  it("says in its details what is needed and what is there", () => {
    expect(() => machineSize({ ...none, memoryBytes: 16 * GIB }, AKS_SIZING, host)).toThrow(
      expect.objectContaining({ details: { reason: "capacity", memoryMiB: 18_432, vcpus: 1, hostMemoryMiB: 8192, hostVcpus: 4 } }),
    );
  });

  it("is refused where nobody names a host, beyond what any host has", () => {
    expect(() => machineSize({ cpuQuota: 1e15, cpuPeriod: 1, memoryBytes: 0 })).toThrow(refusal(/does not fit/));
    expect(() => machineSize({ ...none, memoryBytes: Number.MAX_SAFE_INTEGER })).toThrow(refusal(/does not fit/));
  });
});

describe("what nobody should configure", () => {
  it.each<[string, Partial<SizingConfig>, RegExp]>([
    ["negative memory", { defaultMemoryMiB: -1 }, /^default_memory is -1, /],
    ["half a MiB", { defaultWorkloadMemoryMiB: 0.5 }, /^static_sandbox_default_workload_mem is 0\.5, /],
    ["endless CPUs", { defaultVcpus: Infinity }, /^default_vcpus is Infinity, /],
    ["no number", { defaultWorkloadVcpus: Number.NaN }, /^static_sandbox_default_workload_vcpus is NaN, /],
    ["fewer CPUs than none", { defaultVcpus: -0.5 }, /^default_vcpus is -0\.5, /],
    ["no memory at all", { defaultMemoryMiB: 0, defaultWorkloadMemoryMiB: 0 }, /no memory$/],
    ["no CPU at all", { defaultVcpus: 0, defaultWorkloadVcpus: 0 }, /no CPU$/],
  ])("%s", (_what, change, message) => {
    expect(() => machineSize(none, { ...AKS_SIZING, ...change })).toThrow(refusal(message));
  });

  it("limits that are no integers", () => {
    for (const limits of [{ memoryBytes: 0.5 }, { cpuQuota: Number.NaN }, { cpuPeriod: 2 ** 60 }]) {
      expect(() => machineSize({ ...none, ...limits })).toThrow(refusal(/expected an integer$/));
    }
  });
});

describe("a container that is a sandbox of its own", () => {
  it.each<[string, unknown, object]>([
    ["nothing", {}, none],
    ["no object", "spec", none],
    ["no resources", { linux: { resources: null } }, none],
    [
      "limits",
      { linux: { resources: { cpu: { quota: 150_000, period: 100_000, shares: 512 }, memory: { limit: GIB, swap: 2 * GIB } } } },
      { cpuQuota: 150_000, cpuPeriod: 100_000, memoryBytes: GIB },
    ],
    ["the kernel's way to write no limit", { linux: { resources: { memory: { limit: 9_223_372_036_854_771_712 } } } }, none],
    ["inherited names", { linux: Object.create({ resources: { memory: { limit: 5 } } }) as unknown }, none],
  ])("%s", (_what, spec, limits) => {
    expect(specLimits(spec)).toEqual(limits);
  });

  it.each([1.5, "1", true, [], 2 ** 55])("refuses a memory limit of %j", (limit) => {
    expect(() => specLimits({ linux: { resources: { memory: { limit } } } })).toThrow(refusal(/^linux\.resources\.memory\.limit is /));
  });
});

describe("annotations that replace base values", () => {
  const prefix = "io.katacontainers.config.hypervisor.";
  it("are taken where the node enables them", () => {
    const annotations = { [`${prefix}default_memory`]: "512", [`${prefix}default_vcpus`]: "2", [`${prefix}kernel_params`]: "quiet" };
    expect(sizingOf(AKS_SIZING, annotations, ["default_memory", "default_vcpus"])).toEqual({ ...AKS_SIZING, defaultMemoryMiB: 512, defaultVcpus: 2 });
    expect(sizingOf(AKS_SIZING, { [`${prefix}kernel_params`]: "quiet" })).toEqual(AKS_SIZING);
  });

  it("are refused where it does not", () => {
    expect(() => sizingOf(AKS_SIZING, { [`${prefix}default_memory`]: "512" }, ["default_vcpus"])).toThrow(refusal(/this node does not take it$/));
  });

  it.each(["", "0", "-1", "1.5", "1e3", "0x10", " 1", "999999999", "512MiB"])("are refused with the value %j", (text) => {
    expect(() => sizingOf(AKS_SIZING, { [`${prefix}default_memory`]: text }, ["default_memory"])).toThrow(refusal(/expected a positive integer/));
  });

  it("come from the pod alone", () => {
    const inherited = Object.create({ [`${prefix}default_memory`]: "1", "io.kubernetes.cri.sandbox-memory": "5" }) as Readonly<Record<string, string>>;
    expect(sizingOf(AKS_SIZING, inherited)).toEqual(AKS_SIZING);
    expect(workloadLimits(inherited)).toEqual(none);
  });
});
