import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { outputOf } from "./command.ts";
import { hasCode } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";
import { agentMetrics } from "./metrics.ts";
import { type GuestNetwork, IpNetwork } from "./network.ts";
import type { GuestPaths } from "./paths.ts";
import { mountPoints, volumeStats, type VolumeStats } from "./volume-stats.ts";

/** What methods read of the machine as a whole, or change in it: the seam that tests replace. */
export interface GuestMachine {
  readonly network: GuestNetwork;
  /** Sets the clock. */
  setTime(seconds: bigint, microseconds: bigint): Promise<void>;
  /** Mixes bytes into the kernel's random numbers. */
  mixRandom(data: Uint8Array): void;
  /** Brings processors online until `count` are; 0 brings all. */
  onlineProcessors(count: number): void;
  /** Bytes of one block of memory that could be plugged in; 0 where there are none. */
  memoryBlockSize(): bigint;
  /** Prometheus text. */
  metrics(): string;
  /** Space and inodes of a volume. */
  volumeStats(path: string): VolumeStats;
}

/** How long a device that is being plugged in is given between two looks. */
const LOOK_INTERVAL_MS = 50;

const PROCESSORS = "/sys/devices/system/cpu";

/**
 * The Linux that the agent runs on.
 * @param kind "vm" where the kernel is the guest's own. As a process beside others, clock and processors belong to the host and stay as they are.
 */
export function linuxMachine(kind: "vm" | "process", paths: GuestPaths): GuestMachine {
  let scrapes = 0;
  return {
    network: new IpNetwork({
      hasIpv6: () => readIfThere("/proc/sys/net/ipv6/conf/all/disable_ipv6")?.trim() === "0",
      pause: () => delay(LOOK_INTERVAL_MS),
    }),
    async setTime(seconds, microseconds) {
      if (kind === "process") throw new AgentError("ERR_AGENT_UNIMPLEMENTED", "the clock is the host's own: this agent does not run in a virtual machine");
      await outputOf("/usr/bin/date", ["-u", "-s", `@${seconds}.${String(microseconds).padStart(6, "0")}`]);
    },
    // Node has no ioctl, so RNDADDENTROPY is out of reach: the kernel mixes the bytes in without counting them as entropy, and takes them into account
    // when it seeds its generator the next time, within a minute. They can make its output no worse. A clone of a saved machine must not rely on this
    // alone to differ from its siblings at once; the kernel's own device for that (vmgenid) and the processor's RDRAND do.
    mixRandom: (data) => writeFileSync("/dev/urandom", data),
    onlineProcessors: (count) => (kind === "process" ? undefined : onlineProcessors(PROCESSORS, count)),
    memoryBlockSize() {
      const digits = readIfThere("/sys/devices/system/memory/block_size_bytes")?.trim() ?? "";
      return /^[0-9a-f]{1,16}$/.test(digits) ? BigInt(`0x${digits}`) : 0n;
    },
    metrics: () => agentMetrics(readIfThere, ++scrapes),
    volumeStats: (path) => volumeStats(path, paths, mountPoints),
  };
}

/** Parameters of a guest's kernel that containers can do without, and the values that they get. */
const KERNEL_PARAMETERS: readonly (readonly [name: string, value: string])[] = [
  // Within a user namespace every process has all capabilities, and with them reaches parts of the kernel that are for root alone elsewhere. No container here
  // is made with one, so that this is nothing but what an attacker in a container would need. (Kata leaves them; what needs them, such as building images
  // without root, does not run here.)
  ["user/max_user_namespaces", "0"],
  // Keys that reboot or dump the machine, which the host could press on the console.
  ["kernel/sysrq", "0"],
];

/**
 * Narrows what containers and the host can reach of the guest's own kernel. A parameter that the kernel has not is none that needs a value.
 * @param directory /proc/sys
 */
export function hardenKernel(directory = "/proc/sys"): void {
  for (const [name, value] of KERNEL_PARAMETERS) if (readIfThere(`${directory}/${name}`) !== undefined) writeFileSync(`${directory}/${name}`, value);
}

/**
 * Brings processors online that are there and are not, in the order of their numbers. A machine is started with all it will have, so there is nothing
 * to wait for; one the host never plugged in is no error.
 * @param directory /sys/devices/system/cpu
 * @param count how many are to be online; 0 for all
 */
export function onlineProcessors(directory: string, count: number): void {
  const numbers = readdirSync(directory)
    .filter((name) => /^cpu[0-9]{1,4}$/.test(name))
    .map((name) => Number(name.slice(3)))
    .sort((a, b) => a - b);
  // The first one has no such file where it cannot be taken offline.
  const state = (number: number): string => readIfThere(`${directory}/cpu${number}/online`)?.trim() ?? "1";
  let online = numbers.filter((number) => state(number) === "1").length;
  for (const number of numbers) {
    if (count !== 0 && online >= count) return;
    if (state(number) !== "0") continue;
    writeFileSync(`${directory}/cpu${number}/online`, "1");
    online++;
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT", "EACCES", "ENODEV")) return undefined;
    throw error;
  }
}
