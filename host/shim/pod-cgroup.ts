import { access, mkdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { basename, dirname, join, posix } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { asObject, type JsonObject, type Logger, messageOf } from "@sealpod/core";
import { ShimError } from "./errors.ts";

/** Linux's PATH_MAX. */
const MAX_PATH = 4096;

/** Attempts to remove a cgroup, and milliseconds between two: processes that have ended leave it a moment later, of which nobody tells us. */
const REMOVAL = { attempts: 50, pause: 20 } as const;

/** A pod's cgroup, by its path in every hierarchy. */
export interface CgroupName {
  /** What the kubelet made, counts and limits: `/kubepods/burstable/pod…`. */
  readonly pod: string;
  /** Name of the sandbox's own below it, which a runtime would make. */
  readonly own: string;
}

/** A mounted hierarchy of cgroups. */
export interface CgroupHierarchy {
  readonly version: 1 | 2;
  /** Where it is mounted. */
  readonly directory: string;
  /** Controllers of version 1, and `name=…` of one without any. */
  readonly controllers: readonly string[];
  /** Path of the cgroup in it that this process is in. */
  readonly current: string;
}

/** Where the shim was before it went into a pod's cgroup. */
export interface JoinedCgroup {
  /** Back to where the process came from; removes what was made. Never rejects. */
  leave(): Promise<void>;
}

/** What {@link joinPodCgroup} needs of its process. */
export interface CgroupPorts {
  readonly pid: number;
  readonly logger: Logger;
  /** Called with the path of what is to be made, before it is. */
  readonly making: (path: string) => void;
  /** Default: those of this host. */
  readonly hierarchies?: () => Promise<readonly CgroupHierarchy[]>;
}

/**
 * The cgroup of the pod of a sandbox: the parent of what its specification names (`linux.cgroupsPath`), in either of the forms that CRI writes, a path or
 * systemd's `slice:prefix:name`. Undefined if it names none, or one right below the root, which is nobody's pod.
 * @throws {ShimError} ERR_SHIM_BUNDLE
 */
export function podCgroupOf(spec: JsonObject): CgroupName | undefined {
  const path = asObject(spec["linux"])?.["cgroupsPath"] ?? "";
  if (path === "") return undefined;
  const malformed = (): ShimError =>
    new ShimError("ERR_SHIM_BUNDLE", `linux.cgroupsPath is ${JSON.stringify(path).slice(0, 200)}, expected an absolute path or systemd's slice:prefix:name`);
  if (typeof path !== "string" || path.length > MAX_PATH || path.includes("\0")) throw malformed();
  if (path.startsWith("/")) {
    if (posix.normalize(path) !== path || path.endsWith("/")) throw malformed();
    return dirname(path) === "/" ? undefined : { pod: dirname(path), own: basename(path) };
  }
  const [, slice, prefix, name] = /^([^/:]+)\.slice:([^/:]*):([^/:]+)$/.exec(path) ?? [];
  if (slice === undefined || prefix === undefined || name === undefined || name.startsWith(".")) throw malformed();
  if (slice === "-") return undefined;
  const parts = slice.split("-");
  if (parts.some((part) => part === "" || part.startsWith("."))) throw malformed();
  // A slice's name says which others it is in: a-b.slice is in a.slice.
  const slices = parts.map((_, i) => `${parts.slice(0, i + 1).join("-")}.slice`);
  const own = name.endsWith(".slice") ? name : `${prefix === "" ? "" : `${prefix}-`}${name}.scope`;
  return { pod: `/${slices.join("/")}`, own };
}

/**
 * Moves this process, and with it all that it starts from now on, into the pod's cgroup. In version 2 that is one of its own below the pod's: what
 * has others below it must not have processes itself. Hierarchies without a cgroup of the pod are left as they are.
 * @throws {ShimError} ERR_SHIM_POD if the hierarchy that counts memory has the pod's cgroup and does not take the process
 */
export async function joinPodCgroup({ pod, own }: CgroupName, { pid, logger, making, ...ports }: CgroupPorts): Promise<JoinedCgroup> {
  const hierarchies = await (ports.hierarchies ?? hostHierarchies)();
  const hasMemory = ({ version, controllers }: CgroupHierarchy): boolean =>
    controllers.includes("memory") || (version === 2 && hierarchies.every(({ controllers: others }) => !others.includes("memory")));
  const joined: CgroupHierarchy[] = [];
  const made: string[] = [];
  const leave = async (): Promise<void> => {
    for (const { directory, current } of joined) {
      // That of the service that started the shim may be gone; the root never is.
      const back = (to: string): Promise<void> => writeFile(join(directory, to, "cgroup.procs"), String(pid));
      await back(current)
        .catch(() => back("/"))
        .catch((error: unknown) => logger.log("warn", "the shim cannot leave the pod's cgroup", { directory, reason: messageOf(error) }));
    }
    for (const path of made) await removeCgroup(path).catch((error: unknown) => logger.log("warn", "a cgroup stays", { path, reason: messageOf(error) }));
  };
  for (const hierarchy of hierarchies) {
    const { version, directory, controllers } = hierarchy;
    const group = join(directory, pod);
    if (!(await isThere(join(group, "cgroup.procs")))) {
      if (hasMemory(hierarchy)) logger.log("warn", "the pod has no cgroup that counts its memory: nobody made it", { path: group });
      continue;
    }
    try {
      const target = version === 1 ? group : join(group, own);
      if (version === 2) {
        making(target);
        made.push(target);
        await mkdir(target).catch((error: unknown) => {
          if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
        });
      }
      await writeFile(join(target, "cgroup.procs"), String(pid));
      joined.push(hierarchy);
    } catch (cause) {
      if (hasMemory(hierarchy)) {
        await leave();
        throw new ShimError("ERR_SHIM_POD", `the shim cannot enter the pod's cgroup ${group}: ${messageOf(cause)}`, {
          cause,
          hint: "Set sandbox_cgroup_only to false in the node's configuration if its pods are not to be counted.",
        });
      }
      // cpuset of version 1, for one, takes nobody as long as nobody has given it processors.
      logger.log("warn", "a hierarchy of cgroups does not count the pod", { controllers: controllers.join(","), path: group, reason: messageOf(cause) });
    }
  }
  return { leave };
}

/**
 * Removes a cgroup that no process is in any more; one that is gone is no error.
 * @param signal gives it up
 */
export async function removeCgroup(path: string, signal?: AbortSignal): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await rmdir(path);
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT") return;
      if (code !== "EBUSY" || attempt === REMOVAL.attempts || signal?.aborted === true) throw error;
    }
    await sleep(REMOVAL.pause);
  }
}

/** The hierarchies that this process sees, and where in them it is. */
async function hostHierarchies(): Promise<readonly CgroupHierarchy[]> {
  const [mounts, own] = await Promise.all([readFile("/proc/self/mountinfo", "utf8"), readFile("/proc/self/cgroup", "utf8")]);
  return parseHierarchies(mounts, own);
}

/**
 * The hierarchies in the text of `/proc/PID/mountinfo`, each once.
 * @param own text of `/proc/PID/cgroup`
 */
export function parseHierarchies(mountinfo: string, own: string): readonly CgroupHierarchy[] {
  const currents = own.split("\n").flatMap((line) => {
    const [, controllers = "", path] = /^[0-9]+:([^:]*):(\/.*)$/.exec(line) ?? [];
    return path === undefined ? [] : [{ controllers: controllers === "" ? [] : controllers.split(","), path }];
  });
  const found = new Map<string, CgroupHierarchy>();
  for (const line of mountinfo.split("\n")) {
    const [before = "", after = ""] = line.split(" - ");
    const [type = "", , options = ""] = after.split(" ");
    if (type !== "cgroup" && type !== "cgroup2") continue;
    const names = options.split(",");
    const current = currents.find(({ controllers }) =>
      type === "cgroup2" ? controllers.length === 0 : controllers.length > 0 && controllers.every((name) => names.includes(name)),
    );
    // What this process is not in is no hierarchy of its own.
    if (current === undefined) continue;
    const { controllers, path } = current;
    const key = controllers.join(",");
    const directory = (before.split(" ")[4] ?? "").replaceAll(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));
    if (!found.has(key)) found.set(key, { version: type === "cgroup2" ? 2 : 1, directory, controllers, current: path });
  }
  return [...found.values()];
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
