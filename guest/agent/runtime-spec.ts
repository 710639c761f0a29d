import { asArray, type JsonObject, type JsonValue, type Logger } from "@sealpod/core";
import type { Box, LinuxResources, Mount, Process, Spec } from "@sealpod/proto";
import { isBindMount } from "./bind-sources.ts";
import { shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";
import { runtimeDevices, type GrantedDevice } from "./devices.ts";
import { grantedOomScoreAdj, grantedRlimits, type ProcessLimits } from "./process-limits.ts";
import { runtimeSeccomp } from "./seccomp.ts";

/** Version of the OCI runtime specification that the agent writes. */
const OCI_VERSION = "1.0.2";

/** Mounts of one container: a pod has some dozens, and each of thousands takes the kernel milliseconds. */
const MAX_MOUNTS = 1024;

/** Where containers find the guest information (report interface, endorsement of the UVM). */
export const GUEST_INFO_DESTINATION = "/run/sealpod";
/** The report interface in it. */
export const REPORTS = "tsm/report";

/** Namespaces a request may list. The agent makes its own list; it never joins one that the host names. */
const KNOWN_NAMESPACES: ReadonlySet<string> = new Set(["pid", "ipc", "uts", "mount", "network", "cgroup"]);

/**
 * What the root of a container may hear of mounts outside of it. Not `shared`: a mount that a container makes must not show up before the agent,
 * which walks the same directories.
 */
const PROPAGATIONS: ReadonlySet<string> = new Set(["", "private", "rprivate", "slave", "rslave"]);

/**
 * Kernel parameters that belong to a namespace, and the namespace. The others are the guest's own. `net.core.bpf_*` are global although their
 * name begins with `net`; `kernel.hostname` is the sandbox's to set.
 */
const SYSCTLS: readonly (readonly [name: RegExp, namespace: "ipc" | "network" | "uts"])[] = [
  [/^kernel[./](?:shmmax|shmall|shmmni|shm_rmid_forced|msgmax|msgmnb|msgmni|sem)$/, "ipc"],
  [/^fs[./]mqueue[./][a-z_]{1,64}$/, "ipc"],
  [/^kernel[./]domainname$/, "uts"],
  [/^net[./](?!core[./]bpf_)[A-Za-z0-9_-]{1,64}(?:[./][A-Za-z0-9_:@-]{1,64}){1,6}$/, "network"],
];
/** Values are numbers and lists of some. */
const SYSCTL_VALUE = /^[ -~	]{0,1024}$/;

/** Rows or columns: the kernel keeps 16 bits. */
const MAX_TERMINAL_SIZE = 0xffff;

/** Names of namespaces in /proc/PID/ns where they are not those of the OCI specification. */
const NAMESPACE_FILES: ReadonlyMap<string, string> = new Map([["network", "net"]]);

/** What the agent adds to a container of its own. */
export interface SpecContext {
  readonly limits: ProcessLimits;
  readonly logger: Logger;
  /** Directory that is bind-mounted at {@link GUEST_INFO_DESTINATION}; has `tsm/report`. */
  readonly guestInfo: string;
  /** Where the container's processes go; undefined where the agent has no cgroups of its own (process isolation): resources are then not enforced. */
  readonly cgroupsPath: string | undefined;
  /** Disks that the container gets as device nodes. */
  readonly devices: readonly GrantedDevice[];
  /** Process id of the agent, whose namespaces are those of the pod. */
  readonly agent: number;
  /** Path of the pid namespace that the container joins; a new one if undefined. */
  readonly pidNamespace: string | undefined;
}

/**
 * The `config.json` for a container, from the specification that the policy has seen.
 *
 * Written field by field: what is not named here does not reach the runtime. In particular no annotations do (crun takes orders from them,
 * `run.oci.hooks.stdout` for one), no hooks, and no namespace paths. Zero in the protocol means "not set" and is left out, or the runtime
 * would set a limit of zero.
 *
 * @throws {AgentError} ERR_AGENT_REQUEST
 */
export function runtimeSpec(spec: Spec, context: SpecContext): JsonObject {
  const { Process: process, Root: root, Linux: linux } = spec;
  if (process === undefined || root === undefined || linux === undefined) throw refused("OCI needs Process, Root and Linux");
  if (spec.Mounts.length > MAX_MOUNTS) throw refused(`${spec.Mounts.length} mounts, expected at most ${MAX_MOUNTS}`);
  if (!root.Path.startsWith("/")) throw refused(`OCI.Root.Path ${shown(root.Path)} is not absolute`);
  for (const [name, present] of Object.entries({
    Hooks: spec.Hooks !== undefined && Object.values(spec.Hooks).some((hooks) => Array.isArray(hooks) && hooks.length > 0),
    Solaris: spec.Solaris !== undefined,
    Windows: spec.Windows !== undefined,
    "Linux.UIDMappings": linux.UIDMappings.length > 0,
    "Linux.GIDMappings": linux.GIDMappings.length > 0,
    "Linux.IntelRdt": linux.IntelRdt !== undefined,
  })) {
    if (present) throw refused(`OCI.${name} is set: the agent takes none from the host`);
  }
  if (!PROPAGATIONS.has(linux.RootfsPropagation)) throw refused(`OCI.Linux.RootfsPropagation is ${shown(linux.RootfsPropagation)}: expected private or slave`);
  // Never followed; but what is no path at all is a mistake somewhere.
  if (!/^[\x21-\x7e]{0,1024}$/.test(linux.CgroupsPath) || linux.CgroupsPath.split("/").includes(".."))
    throw refused(`OCI.Linux.CgroupsPath ${shown(linux.CgroupsPath)} is no path`);
  const devices = runtimeDevices(linux.Devices, context.devices);
  const { cgroupsPath } = context;
  for (const { Type: type } of linux.Namespaces) if (!KNOWN_NAMESPACES.has(type)) throw refused(`namespace of type ${shown(type)}`);

  return checked(
    object({
      ociVersion: OCI_VERSION,
      // Without capabilities in the request there are none.
      process: { capabilities: {}, ...runtimeProcess(process, context.limits, context.logger) },
      root: { path: root.Path, readonly: root.Readonly },
      mounts: [
        ...spec.Mounts.filter(({ type }) => cgroupsPath !== undefined || type !== "cgroup").map((mount) => runtimeMount(mount)),
        { destination: GUEST_INFO_DESTINATION, type: "bind", source: context.guestInfo, options: ["rbind", "ro", "nosuid", "nodev", "noexec"] },
        // Of all that is there, containers write into the report interface alone, and cannot put another in its place.
        {
          destination: `${GUEST_INFO_DESTINATION}/${REPORTS}`,
          type: "bind",
          source: `${context.guestInfo}/${REPORTS}`,
          options: ["rbind", "rw", "nosuid", "nodev", "noexec"],
        },
      ],
      linux: object({
        // The agent's own ipc, uts and network namespaces are those of the pod: no entry means to stay in them.
        namespaces: [
          { type: "mount" },
          object({ type: "pid", path: context.pidNamespace }),
          ...(cgroupsPath === undefined ? [] : [{ type: "cgroup" }]),
          // crun sets no parameter of a namespace that is not listed.
          ...namespacesOf(linux.Sysctl).map((type) => ({ type, path: `/proc/${context.agent}/ns/${NAMESPACE_FILES.get(type) ?? type}` })),
        ],
        sysctl: orNothing(linux.Sysctl),
        cgroupsPath,
        // A rule for devices always: without one a container with CAP_MKNOD, which is the usual case, could open every disk of the guest.
        resources: cgroupsPath === undefined ? undefined : { ...runtimeResources(linux.Resources), devices: devices.rules },
        devices: list(devices.nodes),
        seccomp: linux.Seccomp && runtimeSeccomp(linux.Seccomp),
        rootfsPropagation: linux.RootfsPropagation || undefined,
        maskedPaths: list(linux.MaskedPaths),
        readonlyPaths: list(linux.ReadonlyPaths),
      }),
    }),
  );
}

/**
 * The `process` of a `config.json`, or the file that `crun exec --process` takes.
 * @throws {AgentError} ERR_AGENT_REQUEST
 */
export function runtimeProcess(process: Process, limits: ProcessLimits, logger: Logger): JsonObject {
  const { User: user, Capabilities: capabilities, ConsoleSize: size } = process;
  if (user === undefined) throw refused("Process.User is not set");
  if (process.Args.length === 0) throw refused("Process.Args is empty");
  if (!process.Cwd.startsWith("/")) throw refused(`Process.Cwd ${shown(process.Cwd)} is not absolute`);
  // Labels are left out: the guest's kernel has neither AppArmor nor SELinux, and those of the host mean nothing to it.
  return checked(
    object({
      terminal: process.Terminal,
      consoleSize: process.Terminal && size !== undefined && size.Height > 0 && size.Width > 0 ? consoleSize(size) : undefined,
      user: object({ uid: user.UID, gid: user.GID, additionalGids: list(user.AdditionalGids) }),
      args: process.Args,
      env: list(process.Env),
      cwd: process.Cwd,
      // An empty set is kept: it means "none", while an absent one means "those of the container" to `crun exec`.
      capabilities: capabilities && {
        bounding: capabilities.Bounding,
        effective: capabilities.Effective,
        inheritable: capabilities.Inheritable,
        permitted: capabilities.Permitted,
        ambient: capabilities.Ambient,
      },
      rlimits: list(grantedRlimits(process.Rlimits, limits, logger)),
      noNewPrivileges: process.NoNewPrivileges,
      oomScoreAdj: grantedOomScoreAdj(process.OOMScoreAdj, limits, logger),
    }),
  );
}

function consoleSize({ Height: height, Width: width }: Box): JsonObject {
  if (height > MAX_TERMINAL_SIZE || width > MAX_TERMINAL_SIZE)
    throw refused(`Process.ConsoleSize ${height} x ${width}: expected at most ${MAX_TERMINAL_SIZE} each`);
  return { height, width };
}

/**
 * Namespaces that parameters are set in.
 * @throws {AgentError} ERR_AGENT_REQUEST for a parameter that belongs to no namespace: it would be the whole guest's
 */
function namespacesOf(sysctl: Readonly<Record<string, string>>): readonly string[] {
  const found = new Set<string>();
  for (const [name, value] of Object.entries(sysctl)) {
    const namespace = SYSCTLS.find(([pattern]) => pattern.test(name))?.[1];
    if (namespace === undefined || !SYSCTL_VALUE.test(value)) throw refused(`OCI.Linux.Sysctl ${shown(name)} is none of a namespace, or its value is not text`);
    found.add(namespace);
  }
  return [...found];
}

function runtimeMount(mount: Mount): JsonObject {
  if (!mount.destination.startsWith("/")) throw refused(`mount destination ${shown(mount.destination)} is not absolute`);
  if (isBindMount(mount) && !mount.source.startsWith("/"))
    throw refused(`source ${shown(mount.source)} of the bind mount at ${shown(mount.destination)} is not absolute`);
  return object({ destination: mount.destination, type: mount.type || undefined, source: mount.source || undefined, options: list(mount.options) });
}

function runtimeResources(resources: LinuxResources | undefined): JsonObject {
  const { Memory: memory, CPU: cpu, Pids: pids, HugepageLimits: pages = [] } = resources ?? {};
  return object({
    memory: orNothing(object({ limit: memory?.Limit || undefined, reservation: memory?.Reservation || undefined, swap: memory?.Swap || undefined })),
    cpu: orNothing(
      object({
        shares: cpu?.Shares || undefined,
        quota: cpu?.Quota || undefined,
        period: cpu?.Period || undefined,
        cpus: cpu?.Cpus || undefined,
        mems: cpu?.Mems || undefined,
      }),
    ),
    pids: pids?.Limit ? { limit: pids.Limit } : undefined,
    hugepageLimits: list(pages.filter(({ Limit }) => Limit !== 0n).map(({ Pagesize, Limit }) => ({ pageSize: Pagesize, limit: Limit }))),
  });
}

/** The fields that are set. */
function object(fields: Readonly<Record<string, JsonValue | undefined>>): JsonObject {
  const set: Record<string, JsonValue> = {};
  for (const [name, value] of Object.entries(fields)) if (value !== undefined) set[name] = value;
  return set;
}

function orNothing(value: JsonObject): JsonObject | undefined {
  return Object.keys(value).length === 0 ? undefined : value;
}

function list<T extends JsonValue>(items: readonly T[]): readonly T[] | undefined {
  return items.length === 0 ? undefined : items;
}

/** Refuses NUL in any text: the policy has read the whole of it, but the runtime, written in C, would act on the part before. */
function checked<T extends JsonValue>(value: T): T {
  if (typeof value === "string" && value.includes("\0")) throw refused(`${shown(value)} has a NUL`);
  if (typeof value === "object" && value !== null) {
    for (const [name, item] of asArray(value)?.entries() ?? Object.entries(value)) {
      checked(String(name));
      checked(item as JsonValue);
    }
  }
  return value;
}

function refused(problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", problem);
}
