import { closeSync, constants, mkdirSync, openSync, readdirSync, readFileSync, rmdirSync, watch, writeSync, type FSWatcher } from "node:fs";
import type { CgroupStatsSchema, LinuxResources, MessageInitShape } from "@sealpod/proto";
import { hasCode, shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** What a container uses, as StatsContainer reports it. */
export type CgroupStatistics = Exclude<MessageInitShape<typeof CgroupStatsSchema>, { readonly $typeName: string }>;

/** The control group of one container. It outlives the container's processes, and what the runtime makes of its own below it. */
export interface ContainerCgroup {
  /** Where the runtime puts the processes, from the root of the hierarchy on. */
  readonly path: string;
  /** True while its processes stand still. */
  readonly frozen: boolean;
  stats(): CgroupStatistics;
  /**
   * Changes limits, all or none. Zero means "leave it", -1 "no limit".
   * @throws {AgentError} ERR_AGENT_REQUEST for a value that means nothing, ERR_AGENT_CGROUP if the kernel refuses it or nothing runs any more
   */
  update(resources: LinuxResources): void;
  /** Stops all processes; returns when they stand still. @throws {AgentError} ERR_AGENT_CGROUP if they do not in time; they go on then */
  freeze(): Promise<void>;
  /** Lets them go on. */
  thaw(): Promise<void>;
  /** Sends SIGKILL to all processes, also to frozen ones and those that are being made. */
  kill(): void;
  /** Calls `listener` once for each time that the kernel is found to have killed processes of the container for lack of memory. */
  onOutOfMemory(listener: () => void): void;
  /** Looks now instead of waiting for the kernel's word. */
  checkOutOfMemory(): void;
  /** Kills what is left, and removes the group. @throws {AgentError} ERR_AGENT_CGROUP if a process does not die in time */
  remove(): Promise<void>;
}

/** Control groups of containers. */
export interface Cgroups {
  /** Makes the group of a container. @throws {AgentError} ERR_AGENT_CGROUP */
  create(id: string): ContainerCgroup;
}

/** What the kernel does in a hierarchy when a directory is made or removed; tests do it themselves. */
export interface CgroupDirectories {
  make(path: string): void;
  remove(path: string): void;
}

/** Where the guest mounts its one hierarchy, version 2. */
const HIERARCHY = "/sys/fs/cgroup";
/** Parent of all containers. Whatever path the host asks for, this is where they go. */
const PARENT = "sealpod";
/**
 * Where the runtime puts a container, below its group. crun removes it as soon as the first process ends; the group above keeps the counters
 * and the news that came with that end. Limits are set here, where programs that ask for theirs look.
 */
const LEAF = "c";

/** Those that limits and statistics need. */
const CONTROLLERS: ReadonlySet<string> = new Set(["cpu", "cpuset", "memory", "pids", "io", "hugetlb"]);

/** Groups that a container with a writable hierarchy can make of its own. systemd in a container makes some dozens. */
const MAX_DESCENDANTS = 1024;
const MAX_DEPTH = 32;

/** Milliseconds for processes to stop or to die. It takes far less, unless one waits for a disk in the kernel. */
const PATIENCE = 10_000;

/** What statistics say where there is no limit. */
const UNLIMITED = 2n ** 64n - 1n;
const NANOSECONDS_PER_MICROSECOND = 1000n;

/** The hierarchy of Linux, version 2. */
export class CgroupTree implements Cgroups {
  readonly #root: string;
  readonly #directories: CgroupDirectories;

  /** @param root where the hierarchy is mounted */
  constructor(
    root: string = HIERARCHY,
    directories: CgroupDirectories = { make: (path) => mkdirSync(path, { mode: 0o755 }), remove: (path) => rmdirSync(path) },
  ) {
    this.#root = root;
    this.#directories = directories;
  }

  create(id: string): ContainerCgroup {
    const parent = `${this.#root}/${PARENT}`;
    const directory = `${parent}/${id}`;
    return changing(`group of container ${id}`, () => {
      this.#make(parent);
      // Left by one that could not be removed: fails as long as a process is in it.
      removeTree(directory, this.#directories);
      this.#make(directory);
      writeTo(`${directory}/cgroup.max.descendants`, String(MAX_DESCENDANTS));
      writeTo(`${directory}/cgroup.max.depth`, String(MAX_DEPTH));
      for (const level of [this.#root, parent, directory]) enableControllers(level);
      return new LinuxCgroup(id, directory, `/${PARENT}/${id}/${LEAF}`, this.#directories);
    });
  }

  #make(path: string): void {
    try {
      this.#directories.make(path);
    } catch (error) {
      if (!hasCode(error, "EEXIST")) throw error;
    }
  }
}

class LinuxCgroup implements ContainerCgroup {
  readonly path: string;
  readonly #id: string;
  readonly #directory: string;
  readonly #directories: CgroupDirectories;
  #watcher: FSWatcher | undefined;
  #listener: (() => void) | undefined;
  #kills = 0n;

  constructor(id: string, directory: string, path: string, directories: CgroupDirectories) {
    this.path = path;
    this.#id = id;
    this.#directory = directory;
    this.#directories = directories;
  }

  get frozen(): boolean {
    return this.#read("cgroup.freeze").trim() === "1";
  }

  stats(): CgroupStatistics {
    const cpu = this.#table("cpu.stat");
    const micro = (name: string): bigint => (cpu.get(name) ?? 0n) * NANOSECONDS_PER_MICROSECOND;
    const memory = this.#table("memory.stat");
    const events = this.#table("memory.events");
    return {
      cpuStats: {
        cpuUsage: { totalUsage: micro("usage_usec"), usageInUsermode: micro("user_usec"), usageInKernelmode: micro("system_usec") },
        throttlingData: { periods: cpu.get("nr_periods") ?? 0n, throttledPeriods: cpu.get("nr_throttled") ?? 0n, throttledTime: micro("throttled_usec") },
      },
      memoryStats: {
        cache: memory.get("file") ?? 0n,
        usage: {
          usage: this.#number("memory.current"),
          maxUsage: this.#number("memory.peak"),
          failcnt: events.get("max") ?? 0n,
          limit: this.#limit("memory.max"),
        },
        swapUsage: {
          usage: this.#number("memory.swap.current"),
          maxUsage: this.#number("memory.swap.peak"),
          failcnt: this.#table("memory.swap.events").get("max") ?? 0n,
          limit: this.#limit("memory.swap.max"),
        },
        // Part of the whole, and without a limit of its own in version 2.
        kernelUsage: { usage: memory.get("kernel") ?? 0n, limit: UNLIMITED },
        useHierarchy: true,
        stats: Object.fromEntries(memory),
      },
      // Zero is what "no limit" has always been here.
      pidsStats: { current: this.#number("pids.current"), limit: nothingIfUnlimited(this.#limit("pids.max")) },
      blkioStats: this.#blockIo(),
      hugetlbStats: Object.fromEntries(
        readdirSync(this.#directory)
          .map((name) => /^hugetlb\.([0-9]+[KMGT]B)\.current$/.exec(name)?.[1])
          .filter((size) => size !== undefined)
          .map((size) => [size, { usage: this.#number(`hugetlb.${size}.current`), failcnt: this.#table(`hugetlb.${size}.events`).get("max") ?? 0n }]),
      ),
    };
  }

  update(resources: LinuxResources): void {
    const changes = limitsOf(resources, this.#limit("memory.max"));
    const leaf = `${this.#directory}/${LEAF}`;
    changing(`limits of container ${this.#id}`, () => {
      const done: [file: string, before: string][] = [];
      try {
        for (const [name, value] of changes) {
          const file = `${leaf}/${name}`;
          const before = readFileSync(file, "latin1").trim();
          writeTo(file, value);
          done.push([file, before]);
        }
      } catch (error) {
        for (const [file, before] of done.reverse()) writeTo(file, before === "" ? "\n" : before);
        throw error;
      }
    });
  }

  async freeze(): Promise<void> {
    if (await this.#setFrozen("1")) return;
    await this.#setFrozen("0");
    throw new AgentError("ERR_AGENT_CGROUP", `the processes of container ${this.#id} did not stop within ${PATIENCE / 1000} s; they go on`);
  }

  async thaw(): Promise<void> {
    if (!(await this.#setFrozen("0"))) throw new AgentError("ERR_AGENT_CGROUP", `the processes of container ${this.#id} did not go on`);
  }

  kill(): void {
    changing(`processes of container ${this.#id}`, () => writeTo(`${this.#directory}/cgroup.kill`, "1"));
  }

  onOutOfMemory(listener: () => void): void {
    this.#listener = listener;
    this.#kills = this.#outOfMemoryKills();
    try {
      this.#watcher = watch(`${this.#directory}/memory.events`, { persistent: false }, () => this.checkOutOfMemory());
      this.#watcher.on("error", () => undefined);
    } catch (error) {
      // No memory controller, no limits, no events.
      if (!hasCode(error, "ENOENT")) throw error;
    }
  }

  checkOutOfMemory(): void {
    const kills = this.#outOfMemoryKills();
    if (kills <= this.#kills) return;
    this.#kills = kills;
    this.#listener?.();
  }

  async remove(): Promise<void> {
    this.kill();
    const empty = await this.#eventually("populated", "0");
    this.checkOutOfMemory();
    this.#watcher?.close();
    this.#listener = undefined;
    if (!empty) throw new AgentError("ERR_AGENT_CGROUP", `a process of container ${this.#id} did not die within ${PATIENCE / 1000} s`);
    changing(`group of container ${this.#id}`, () => removeTree(this.#directory, this.#directories));
  }

  #setFrozen(value: "0" | "1"): Promise<boolean> {
    changing(`processes of container ${this.#id}`, () => writeTo(`${this.#directory}/cgroup.freeze`, value));
    return this.#eventually("frozen", value);
  }

  /** Waits until `cgroup.events` has this line; false if that takes too long. */
  async #eventually(name: string, value: string): Promise<boolean> {
    const holds = (): boolean => this.#table("cgroup.events").get(name) === BigInt(value);
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    const look = (): void => {
      if (holds()) resolve(true);
    };
    const watcher = watch(`${this.#directory}/cgroup.events`, { persistent: false }, look);
    watcher.on("error", reject);
    const timer = setTimeout(() => resolve(false), PATIENCE);
    try {
      // It may be so already.
      look();
      return await promise;
    } finally {
      clearTimeout(timer);
      watcher.close();
    }
  }

  #outOfMemoryKills(): bigint {
    return this.#table("memory.events").get("oom_kill") ?? 0n;
  }

  #blockIo(): NonNullable<CgroupStatistics["blkioStats"]> {
    const [bytes, operations] = [[], []] as [BlockIoEntry[], BlockIoEntry[]];
    for (const line of this.#read("io.stat").split("\n")) {
      const [, major, minor, rest] = /^([0-9]+):([0-9]+) (.*)$/.exec(line) ?? [];
      if (major === undefined || minor === undefined || rest === undefined) continue;
      const values = new Map(rest.split(" ").map((pair) => pair.split("=") as [string, string]));
      for (const [entries, suffix] of [
        [bytes, "bytes"],
        [operations, "ios"],
      ] as const) {
        for (const [letter, op] of IO_OPERATIONS) {
          entries.push({ major: BigInt(major), minor: BigInt(minor), op, value: digits(values.get(`${letter}${suffix}`)) ?? 0n });
        }
      }
    }
    return { ioServiceBytesRecursive: bytes, ioServicedRecursive: operations };
  }

  /** A limit: that of the runtime's group, as long as it is there. */
  #limit(name: string): bigint {
    return digits(this.#read(`${LEAF}/${name}`) || this.#read(name)) ?? UNLIMITED;
  }

  #number(name: string): bigint {
    return digits(this.#read(name)) ?? 0n;
  }

  /** A file of lines `NAME NUMBER`. */
  #table(name: string): ReadonlyMap<string, bigint> {
    const table = new Map<string, bigint>();
    for (const line of this.#read(name).split("\n")) {
      const [key = "", value] = line.split(" ");
      const number = digits(value);
      if (number !== undefined) table.set(key, number);
    }
    return table;
  }

  /** Nothing if the kernel has no such file, as far as anyone can tell: each controller, and some files, are there or not. */
  #read(name: string): string {
    try {
      return readFileSync(`${this.#directory}/${name}`, "latin1");
    } catch {
      return "";
    }
  }
}

interface BlockIoEntry {
  readonly major: bigint;
  readonly minor: bigint;
  readonly op: string;
  readonly value: bigint;
}

/** First letters of the keys of io.stat, and what they are called in statistics. */
const IO_OPERATIONS = [
  ["r", "Read"],
  ["w", "Write"],
  ["d", "Discard"],
] as const;

/**
 * Files and values for limits, in the terms of version 2. Zero in the protocol means "not set".
 * @param memory the limit of memory that is in force, in bytes
 */
function limitsOf(resources: LinuxResources, memory: bigint): readonly (readonly [file: string, value: string])[] {
  const { Memory, CPU, Pids, HugepageLimits } = resources;
  const limits: [string, string][] = [];
  const set = (name: string, value: string | undefined): void => {
    if (value !== undefined) limits.push([name, value]);
  };
  if (Memory?.DisableOOMKiller === true) throw refused("Memory.DisableOOMKiller: there is no such thing in cgroups of version 2");
  if (CPU !== undefined && (CPU.RealtimeRuntime !== 0n || CPU.RealtimePeriod !== 0n))
    throw refused("CPU.Realtime*: there is no such thing in cgroups of version 2");
  set("memory.max", amount("Memory.Limit", Memory?.Limit));
  set("memory.low", amount("Memory.Reservation", Memory?.Reservation));
  set("memory.swap.max", swap(Memory?.Swap ?? 0n, Memory?.Limit || memory));
  set("cpu.weight", weight(CPU?.Shares ?? 0n));
  set("cpu.max", cpuMax(CPU?.Quota ?? 0n, CPU?.Period ?? 0n));
  set("cpuset.cpus", members("CPU.Cpus", CPU?.Cpus));
  set("cpuset.mems", members("CPU.Mems", CPU?.Mems));
  set("pids.max", amount("Pids.Limit", Pids?.Limit));
  for (const { Pagesize, Limit } of HugepageLimits) {
    if (!/^[0-9]{1,4}[KMGT]B$/.test(Pagesize)) throw refused(`HugepageLimits: page size ${shown(Pagesize)}`);
    if (Limit !== 0n) set(`hugetlb.${Pagesize}.max`, String(Limit));
  }
  return limits;
}

function amount(what: string, value = 0n): string | undefined {
  if (value < -1n) throw refused(`${what} is ${value}: expected -1, 0 or more`);
  return value === 0n ? undefined : value === -1n ? "max" : String(value);
}

/** Memory and swap together, in the request; swap alone, in the group. */
function swap(both: bigint, memory: bigint): string | undefined {
  if (both <= 0n) return amount("Memory.Swap", both);
  if (memory < 0n || memory > both)
    throw refused(`Memory.Swap is ${both}, with memory: expected no less than its limit, ${memory < 0n ? "which is none" : memory}`);
  return String(both - memory);
}

/** Shares, from 2 to 262144, as a weight from 1 to 10000: the conversion that all runtimes have agreed on. */
function weight(shares: bigint): string | undefined {
  if (shares === 0n) return undefined;
  const within = shares < 2n ? 2n : shares > 262144n ? 262144n : shares;
  return String(1n + ((within - 2n) * 9999n) / 262142n);
}

function cpuMax(quota: bigint, period: bigint): string | undefined {
  if (quota < -1n) throw refused(`CPU.Quota is ${quota}: expected -1, 0 or more`);
  if (quota === 0n) {
    if (period !== 0n) throw refused("CPU.Period without CPU.Quota: the quota in force would mean something else");
    return undefined;
  }
  return `${quota === -1n ? "max" : quota}${period === 0n ? "" : ` ${period}`}`;
}

function members(what: string, list = ""): string | undefined {
  if (!/^[0-9,-]{0,1024}$/.test(list)) throw refused(`${what} ${shown(list)} is no list of numbers and ranges`);
  return list || undefined;
}

/** Turns on what can be turned on for the groups below. */
function enableControllers(directory: string): void {
  const there = readFileSync(`${directory}/cgroup.controllers`, "latin1").trim().split(" ");
  for (const name of there) if (CONTROLLERS.has(name)) writeTo(`${directory}/cgroup.subtree_control`, `+${name}`);
}

/** Removes a group and those that its container made below it; at most {@link MAX_DESCENDANTS}. */
function removeTree(directory: string, directories: CgroupDirectories): void {
  let below;
  try {
    below = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  } catch (error) {
    if (hasCode(error, "ENOENT")) return;
    throw error;
  }
  for (const { name } of below) removeTree(`${directory}/${name}`, directories);
  try {
    directories.remove(directory);
  } catch (error) {
    // crun removes its own one too, at the same time.
    if (!hasCode(error, "ENOENT")) throw error;
  }
}

/** Writes to a file of the kernel: never makes one, and does not read, which some do not let be done. */
function writeTo(path: string, text: string): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_TRUNC);
  try {
    writeSync(fd, text);
  } finally {
    closeSync(fd);
  }
}

function changing<T>(what: string, change: () => T): T {
  try {
    return change();
  } catch (cause) {
    if (cause instanceof AgentError || !(cause instanceof Error)) throw cause;
    throw new AgentError("ERR_AGENT_CGROUP", `${what}: ${cause.message}`, { cause });
  }
}

function digits(text: string | undefined): bigint | undefined {
  const trimmed = text?.trim() ?? "";
  return /^[0-9]{1,20}$/.test(trimmed) ? BigInt(trimmed) : undefined;
}

function nothingIfUnlimited(limit: bigint): bigint {
  return limit === UNLIMITED ? 0n : limit;
}

function refused(problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", problem);
}
