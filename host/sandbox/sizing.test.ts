import { describe, expect, it } from "vitest";
import { AKS_SIZING, machineSize, workloadLimits } from "./index.ts";

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
});
