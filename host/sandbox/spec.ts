import type { DescMessage, LinuxResourcesSchema, LinuxSchema, MessageInitShape, MessageShape, ProcessSchema, SpecSchema } from "@sealpod/proto";
import { SandboxError } from "./errors.ts";
import { JsonView } from "./json-view.ts";

/** Fields that make a message, but not a message: what can be spread into another. */
type Fields<D extends DescMessage> = Exclude<MessageInitShape<D>, MessageShape<D>>;

/** A mount of the runtime specification. */
export interface SpecMount {
  readonly destination: string;
  readonly source: string;
  readonly type: string;
  readonly options: readonly string[];
}

/** What the shim knows of a container besides its specification. */
export interface SpecContext {
  /** Directory of the container's bundle on the host. Policies take the container's id from its last component. */
  readonly bundle: string;
  /** Root directory in the guest. */
  readonly rootPath: string;
}

/** A container's specification as it goes to the guest, but for its mounts. */
export interface ConstrainedSpec {
  readonly spec: Fields<typeof SpecSchema>;
  /** As in the original: sources are paths of the host. */
  readonly mounts: readonly SpecMount[];
  /** The container shares the process namespace of its pod. */
  readonly sandboxPidns: boolean;
}

/** Annotations that are for the shim: they are large, and the guest has what they hold by another way. */
const REMOVED_ANNOTATIONS: ReadonlySet<string> = new Set(["io.katacontainers.config.agent.policy", "io.katacontainers.config.hypervisor.cc_init_data"]);

/** Namespaces that the guest makes for itself: the network is the virtual machine's, cgroups are the agent's, pid is a field of its own. */
const REMOVED_NAMESPACES: ReadonlySet<string> = new Set(["network", "cgroup", "pid"]);

const CONTAINER_TYPE = "io.kubernetes.cri.container-type";

/**
 * The OCI specification that containerd wrote, turned into what the agent gets (specs/runtime.md 4.2): what belongs to the host (hooks,
 * devices, seccomp, security labels, namespace paths, cgroup settings without effect) is taken out.
 *
 * @param json a runtime specification as in `config.json`; 64-bit values may be bigint
 * @throws {SandboxError} ERR_SANDBOX_SPEC
 */
export function constrainSpec(json: unknown, context: SpecContext): ConstrainedSpec {
  const spec = new JsonView(json, "spec");
  const process = spec.object("process");
  const linux = spec.object("linux");
  if (process === undefined) throw missing("spec.process");
  if (linux === undefined) throw missing("spec.linux");
  const annotations = spec.textMap("annotations");
  const kept = Object.entries(annotations).filter(([name]) => !REMOVED_ANNOTATIONS.has(name));
  return {
    spec: {
      Version: spec.text("ociVersion"),
      Process: containerProcess(process),
      Root: { Path: context.rootPath, Readonly: spec.object("root")?.flag("readonly") ?? false },
      Hostname: spec.text("hostname"),
      Annotations: {
        ...Object.fromEntries(kept),
        "io.katacontainers.pkg.oci.bundle_path": context.bundle,
        "io.katacontainers.pkg.oci.container_type": containerType(annotations[CONTAINER_TYPE]),
      },
      Linux: constrainLinux(linux),
    },
    mounts: spec.objects("mounts").map((mount) => ({
      destination: mount.text("destination"),
      source: mount.text("source"),
      type: mount.text("type"),
      options: mount.texts("options"),
    })),
    sandboxPidns: linux.objects("namespaces").some((namespace) => namespace.text("type") === "pid" && namespace.text("path") !== ""),
  };
}

/**
 * The process of an exec. It has no capabilities of its own: the agent gives it those of its container.
 * @param json the `process` of a runtime specification
 * @throws {SandboxError} ERR_SANDBOX_SPEC
 */
export function execProcess(json: unknown): Fields<typeof ProcessSchema> {
  return commonProcess(new JsonView(json, "process"));
}

function containerProcess(process: JsonView): Fields<typeof ProcessSchema> {
  const capabilities = process.object("capabilities");
  return {
    ...commonProcess(process),
    ...(capabilities === undefined
      ? {}
      : {
          Capabilities: {
            Bounding: capabilities.texts("bounding"),
            Effective: capabilities.texts("effective"),
            Inheritable: capabilities.texts("inheritable"),
            Permitted: capabilities.texts("permitted"),
            Ambient: capabilities.texts("ambient"),
          },
        }),
    Rlimits: process.objects("rlimits").map((limit) => ({ Type: limit.text("type"), Hard: limit.u64("hard"), Soft: limit.u64("soft") })),
    OOMScoreAdj: process.i64("oomScoreAdj"),
  };
}

// Security labels are left out: they name profiles of the host's kernel.
function commonProcess(process: JsonView): Fields<typeof ProcessSchema> {
  const size = process.object("consoleSize");
  const user = process.object("user");
  return {
    Terminal: process.flag("terminal"),
    ...(size === undefined ? {} : { ConsoleSize: { Height: size.u32("height"), Width: size.u32("width") } }),
    User: {
      UID: user?.u32("uid") ?? 0,
      GID: user?.u32("gid") ?? 0,
      AdditionalGids: user?.u32s("additionalGids") ?? [],
      Username: user?.text("username") ?? "",
    },
    Args: process.texts("args"),
    Env: lastOfEachName(process.texts("env")),
    Cwd: process.text("cwd"),
    NoNewPrivileges: process.flag("noNewPrivileges"),
  };
}

/**
 * containerd writes a variable that both image and pod have twice. In a container the last one counts (the runtimes set one after the other),
 * so it alone is sent: an agent whose policy names each variable once has no choice to make.
 */
function lastOfEachName(environment: readonly string[]): string[] {
  const values = new Map(environment.map((variable) => [variable.split("=", 1)[0], variable]));
  return [...values.values()];
}

/** The guest shares no mounts with its host, so there are none that could follow the host's. */
function rootPropagation(propagation: string): string {
  return propagation === "rslave" ? "" : propagation;
}

/**
 * New limits of a container that runs, as they go to the guest.
 * @param json the `linux.resources` of a runtime specification
 * @throws {SandboxError} ERR_SANDBOX_SPEC
 */
export function updatedResources(json: unknown): Fields<typeof LinuxResourcesSchema> {
  return constrainResources(new JsonView(json, "resources"));
}

function constrainLinux(linux: JsonView): Fields<typeof LinuxSchema> {
  const mappings = (name: string): { HostID: number; ContainerID: number; Size: number }[] =>
    linux.objects(name).map((mapping) => ({ HostID: mapping.u32("hostID"), ContainerID: mapping.u32("containerID"), Size: mapping.u32("size") }));
  return {
    UIDMappings: mappings("uidMappings"),
    GIDMappings: mappings("gidMappings"),
    Sysctl: linux.textMap("sysctl"),
    CgroupsPath: linux.text("cgroupsPath"),
    Namespaces: linux
      .objects("namespaces")
      .map((namespace) => namespace.text("type"))
      .filter((type) => !REMOVED_NAMESPACES.has(type))
      .map((type) => ({ Type: type, Path: "" })),
    RootfsPropagation: rootPropagation(linux.text("rootfsPropagation")),
    MaskedPaths: linux.texts("maskedPaths"),
    ReadonlyPaths: linux.texts("readonlyPaths"),
    Resources: constrainResources(linux.object("resources")),
  };
}

// Which CPUs and memory nodes of the host (`cpus`, `mems`) means nothing in the guest.
function constrainResources(resources: JsonView | undefined): Fields<typeof LinuxResourcesSchema> {
  const memory = resources?.object("memory");
  const cpu = resources?.object("cpu");
  return {
    ...(memory === undefined
      ? {}
      : {
          Memory: {
            Limit: memory.i64("limit"),
            Reservation: memory.i64("reservation"),
            Swap: memory.i64("swap"),
            Kernel: memory.i64("kernel"),
            KernelTCP: memory.i64("kernelTCP"),
            Swappiness: memory.u64("swappiness"),
            DisableOOMKiller: memory.flag("disableOOMKiller"),
          },
        }),
    ...(cpu === undefined
      ? {}
      : {
          CPU: {
            Shares: cpu.u64("shares"),
            Quota: cpu.i64("quota"),
            Period: cpu.u64("period"),
            RealtimeRuntime: cpu.i64("realtimeRuntime"),
            RealtimePeriod: cpu.u64("realtimePeriod"),
          },
        }),
    HugepageLimits: resources?.objects("hugepageLimits").map((limit) => ({ Pagesize: limit.text("pageSize"), Limit: limit.u64("limit") })) ?? [],
  };
}

function containerType(criType: string | undefined): string {
  if (criType === undefined) return "single_container";
  if (criType === "sandbox") return "pod_sandbox";
  if (criType === "container") return "pod_container";
  throw new SandboxError("ERR_SANDBOX_SPEC", `annotation ${CONTAINER_TYPE} is ${JSON.stringify(criType.slice(0, 100))}, expected sandbox or container`);
}

function missing(path: string): SandboxError {
  return new SandboxError("ERR_SANDBOX_SPEC", `${path} is missing`, { details: { path } });
}
