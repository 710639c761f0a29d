import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { VolumeUsage_Unit } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { hardenKernel, linuxMachine, onlineProcessors } from "./machine.ts";
import { guestPaths } from "./paths.ts";
import { errorOf, inTemporaryDirectory } from "./test-support.ts";
import { mountPoints, volumeStats } from "./volume-stats.ts";

describe("the guest's kernel", () => {
  it("lets containers make no user namespaces, and takes no keys from the host; what it does not have is left alone", () =>
    inTemporaryDirectory((path) => {
      for (const directory of ["user", "kernel"]) mkdirSync(`${path}/${directory}`);
      writeFileSync(`${path}/user/max_user_namespaces`, "30000\n");
      hardenKernel(path);
      expect(readFileSync(`${path}/user/max_user_namespaces`, "utf8")).toBe("0");
      expect(readdirSync(`${path}/kernel`)).toEqual([]);
      writeFileSync(`${path}/kernel/sysrq`, "438\n");
      hardenKernel(path);
      expect(readFileSync(`${path}/kernel/sysrq`, "utf8")).toBe("0");
    }));
});

describe("processors", () => {
  /** States of cpu0…; undefined is one without a file. */
  async function online(states: readonly (string | undefined)[], count: number): Promise<string> {
    let after = "";
    await inTemporaryDirectory((path) => {
      for (const [i, state] of states.entries()) {
        mkdirSync(`${path}/cpu${i}`);
        if (state !== undefined) writeFileSync(`${path}/cpu${i}/online`, `${state}\n`);
      }
      for (const other of ["cpufreq", "cpuidle"]) mkdirSync(`${path}/${other}`);
      onlineProcessors(path, count);
      after = states.map((state, i) => (state === undefined ? "-" : readFileSync(`${path}/cpu${i}/online`, "utf8").trim())).join("");
    });
    return after;
  }

  it.each([
    [[undefined, "0", "0"], 2, "-10"],
    [[undefined, "0", "0"], 0, "-11"],
    [[undefined, "1", "0"], 2, "-10"],
    [[undefined, "0", "1", "0"], 3, "-110"],
    [["1", "0"], 1, "10"],
    [[undefined, "1"], 4_294_967_295, "-1"],
    // By number: as texts, 10 comes before 2.
    [[undefined, "1", "0", ...Array<string>(7).fill("1"), "0"], 10, `-11${"1".repeat(7)}0`],
  ] as const)("%j with %i wanted become %s", async (states, count, expected) => {
    expect(await online(states, count)).toBe(expected);
  });
});

describe("a machine that is the host's own", () => {
  const machine = linuxMachine("process", guestPaths("/run/kata-containers"));

  it("keeps its clock", async () => {
    expect((await errorOf(() => machine.setTime(0n, 0n))).code).toBe("ERR_AGENT_UNIMPLEMENTED");
  });

  it("keeps its processors as they are", () => {
    expect(machine.onlineProcessors(1000)).toBeUndefined();
  });

  it("takes bytes for its random numbers, as from anyone", () => {
    expect(() => machine.mixRandom(Uint8Array.of(1, 2, 3))).not.toThrow();
  });

  it("counts how often its metrics were asked for", () => {
    const count = (): number => Number(/^kata_agent_scrape_count ([0-9]+)$/m.exec(machine.metrics())?.[1]);
    const first = count();
    expect(count()).toBe(first + 1);
    expect(machine.metrics()).toMatch(/^kata_agent_threads [1-9]/m);
  });
});

describe("statistics of a volume", () => {
  const withGuest = (use: (root: string) => void | Promise<void>): Promise<void> =>
    inTemporaryDirectory(async (path) => {
      const root = `${path}/guest`;
      mkdirSync(`${root}/shared/containers/volume/inside`, { recursive: true });
      mkdirSync(`${root}/sandbox/shm`, { recursive: true });
      await use(root);
    });

  it("are those of the file system that the volume is on", () =>
    withGuest((root) => {
      for (const [path, mounted] of [
        [`${root}/shared/containers/volume`, []],
        [`${root}/sandbox/shm`, [`${root}/sandbox/shm`]],
      ] as const) {
        const { usage, volumeCondition } = volumeStats(path, guestPaths(root), () => new Set(mounted));
        expect(usage?.map(({ unit }) => unit)).toEqual([VolumeUsage_Unit.BYTES, VolumeUsage_Unit.INODES]);
        const [bytes] = usage ?? [];
        expect(bytes?.total).toBeGreaterThan(0n);
        expect((bytes?.used ?? 0n) + (bytes?.available ?? 0n)).toBeLessThanOrEqual(bytes?.total ?? 0n);
        expect(volumeCondition).toEqual({ abnormal: false, message: "OK" });
      }
    }));

  it("are told of no path that is not a volume, and in the same words whether it is there or not", () =>
    withGuest(async (root) => {
      const messages = await Promise.all(
        ["shared/containers/volume/inside", "shared/containers/volume/nothing", "sandbox/shm", "sandbox", "shared/containers"].map(async (path) => {
          const { code, message } = await errorOf(() => volumeStats(`${root}/${path}`, guestPaths(root), () => new Set()));
          expect(code).toBe("ERR_AGENT_REQUEST");
          return message.replace(`${root}/${path}`, "PATH");
        }),
      );
      expect(new Set(messages)).toEqual(new Set(['"PATH" is no volume']));
    }));

  it("follow no link and leave the guest's root by no path", () =>
    withGuest(async (root) => {
      symlinkSync("/", `${root}/shared/containers/link`);
      for (const path of [
        "/",
        "/proc",
        `${root}/../guest`,
        `${root}/shared/containers/link`,
        `${root}/shared/containers/..`,
        `${root}/shared/containers/`,
        `${root}/a\0b`,
        "",
      ]) {
        expect((await errorOf(() => volumeStats(path, guestPaths(root), () => new Set([path])))).code, path).toBe("ERR_AGENT_PATH");
      }
    }));

  it("know the mount points of this machine", () => {
    expect(mountPoints().has("/")).toBe(true);
    expect(mountPoints().has("/proc")).toBe(true);
  });
});
