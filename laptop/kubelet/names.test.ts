import { describe, expect, it } from "vitest";
import { newContainerId, podName, SAFE_ALPHABET, safeString } from "./names.ts";
import { countingRandom } from "./testdata/fixtures.ts";

describe("podName", () => {
  it("gives the pods of a Deployment the ReplicaSet's hash and a suffix", () => {
    expect(podName("Deployment", "nginx-deployment", countingRandom())).toMatch(new RegExp(`^nginx-deployment-[${SAFE_ALPHABET}]{10}-[${SAFE_ALPHABET}]{5}$`));
  });

  it.each([
    ["Pod", /^web$/],
    ["StatefulSet", /^web-0$/],
    ["ReplicaSet", /^web-[a-z0-9]{5}$/],
    ["Job", /^web-[a-z0-9]{5}$/],
    ["CronJob", /^web-[0-9]{8}-[a-z0-9]{5}$/],
  ] as const)("names the pod of a %s", (kind, pattern) => {
    expect(podName(kind, "web", countingRandom())).toMatch(pattern);
  });

  it("cuts a long name so that the pod's name stays a DNS label", () => {
    const name = podName("Deployment", "a".repeat(63), countingRandom());
    expect(name).toHaveLength(63);
    expect(name).toMatch(new RegExp(`[${SAFE_ALPHABET}]{5}$`));
  });

  it.each(["Web", "web_1", "-web", "", "a".repeat(254)])("refuses the workload name %j", (name) => {
    expect(() => podName("Deployment", name, countingRandom())).toThrow(expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }));
  });
});

describe("random names", () => {
  it("draws from the safe alphabet without bias: values that do not divide evenly are drawn again", () => {
    // 0xffffffff lies in the remainder that 2^32 leaves modulo 27, so the next draw (zero) counts.
    const draws = [Uint8Array.of(0xff, 0xff, 0xff, 0xff), new Uint8Array(4)];
    expect(safeString(1, { bytes: () => draws.shift() ?? new Uint8Array(4) })).toBe("b");
    expect(draws).toHaveLength(0);
  });

  it("makes 64-digit container ids", () => {
    expect(newContainerId(countingRandom())).toMatch(/^[0-9a-f]{64}$/);
  });
});
