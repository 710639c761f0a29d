import { readFileSync } from "node:fs";
import { encodeJson, encodeUtf8, type JsonObject, type JsonValue, sha256, toBase64, toHex } from "@sealpod/core";
import { compile, type Policy } from "@sealpod/rego";
import { joinRules, RULE_FILES } from "./join.ts";

/**
 * A pod in each shape of policy data that the rules serve, written by hand from the specification and not by the generator, with the requests
 * that an honest runtime makes for it.
 */

/** The text of our own rules. */
export const RULES: string = joinRules(RULE_FILES.map((name) => ({ name, text: readFileSync(new URL(name, import.meta.url), "utf8") })));

/** Our settings in both profiles; the known tools' with theirs. */
export const SHAPES = ["aks", "coco", "aks-tool", "kata-tool"] as const;
export type Shape = (typeof SHAPES)[number];

/** A value that tests change. */
export type Mutable = { [name: string]: Mutable } & Mutable[] & JsonValue;

export interface TestPod {
  readonly shape: Shape;
  readonly data: Mutable;
  /** CreateContainer of each container, in the order in which they start; bare. */
  readonly requests: readonly Mutable[];
}

export const SANDBOX_ID: string = "5a".repeat(32);
export const POD_UID = "01234567-89ab-cdef-0123-456789abcdef";
export const SECRET = "PASSWORD=tr0ub4dor&3";
const UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
const OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const DEFAULT_CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"];
const MASKED = ["/proc/acpi", "/proc/kcore", "/sys/firmware"];
const READONLY = ["/proc/bus", "/proc/sys"];
const SYSCTLS = { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" };

/** Ids by position in the policy: those of the pause container are the sandbox's. */
export function containerId(index: number): string {
  return index === 0 ? SANDBOX_ID : `c0${index.toString(16).padStart(2, "0")}`.repeat(16);
}

/** What a container is made of, in the policy and in the request. */
interface Parts {
  readonly index: number;
  readonly name?: string;
  readonly process: JsonObject;
  readonly live: JsonObject;
  readonly mounts: readonly Mount[];
  readonly volumes?: readonly { readonly policy: JsonObject; readonly live: JsonObject }[];
  readonly more?: JsonObject;
}

/** destination, type, source in the policy, source in the request, options */
type Mount = readonly [string, string, string, string, readonly string[]];

/** The pod in one shape: pause, an init container, an application and a sidecar with a terminal. */
export function testPod(shape: Shape): TestPod {
  const ours = shape === "aks" || shape === "coco";
  const today = shape === "coco" || shape === "kata-tool";
  const shared = "/run/kata-containers/shared/containers";
  const copied = (id: string, base: string): string => `${shared}/${id}-0123456789abcdef-${base}`;
  const base = (id: string): readonly Mount[] => [
    ["/proc", "proc", "proc", "proc", ["nosuid", "noexec", "nodev"]],
    ["/sys", "sysfs", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]],
    ["/dev/shm", "bind", "/run/kata-containers/sandbox/shm", "/run/kata-containers/sandbox/shm", ["rbind"]],
    ["/etc/resolv.conf", "bind", "$(sfprefix)resolv\\.conf$", copied(id, "resolv.conf"), ["rbind", "ro"]],
  ];
  const app = (id: string): readonly Mount[] => [
    ...base(id),
    ["/sys/fs/cgroup", "cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]],
    ["/etc/app", "bind", "$(sfprefix)app$", copied(id, "app"), ["rbind", "rprivate", "ro"]],
  ];
  const text = (value: string): string => (ours ? value.replaceAll("$", "$$$$") : value);
  const secret = ours ? `PASSWORD=$(sha256:${toHex(sha256(encodeUtf8(SECRET)))})` : SECRET;
  const user = { UID: 101, GID: 101, AdditionalGids: [101, 2000], Username: "" };
  const toolUser = { UID: 101, GID: 0, AdditionalGids: [], Username: "" };

  const parts: readonly Parts[] = [
    {
      index: 0,
      process: {
        User: { UID: 65535, GID: 65535, AdditionalGids: [65535], Username: "" },
        Args: ["/pause"],
        Env: ["PATH=/bin"],
        Cwd: "/",
        NoNewPrivileges: true,
      },
      live: { User: { UID: 65535, GID: 65535, AdditionalGids: [65535], Username: "" }, Args: ["/pause"], Env: ["PATH=/bin"], Cwd: "/", NoNewPrivileges: true },
      mounts: base(containerId(0)),
    },
    {
      index: 1,
      name: "fetch",
      process: { User: user, Args: ["/fetch"], Env: ["PATH=/bin"], Cwd: "/", NoNewPrivileges: false },
      live: { User: user, Args: ["/fetch"], Env: ["PATH=/bin"], Cwd: "/", NoNewPrivileges: false },
      mounts: app(containerId(1)),
    },
    {
      index: 2,
      name: "web",
      process: {
        User: shape === "aks-tool" ? toolUser : user,
        Args: ["/usr/bin/node", "--node=$(node-name)", "$(sandbox-name)", "$$literal", text("^a.*$")],
        Env: [
          "PATH=/bin",
          "HOSTNAME=$(host-name)",
          "LEVEL=high",
          text("PRICE=5$"),
          "UID=$(pod-uid)",
          "URL=http://$(pod-ip):80/a.b",
          "NODE=$(node-name)",
          "SPACE=$(sandbox-namespace)",
          "LIMIT=$(resource-field)",
          secret,
        ],
        Cwd: "/srv",
        NoNewPrivileges: false,
      },
      live: {
        User: user,
        Args: ["/usr/bin/node", "--node=node-7.example", "web-1.a", "$literal", "^a.*$"],
        Env: [
          "PATH=/bin",
          "HOSTNAME=web-1.a",
          "LEVEL=high",
          "PRICE=5$",
          `UID=${POD_UID}`,
          "URL=http://10.1.2.3:80/a.b",
          "NODE=node-7.example",
          "SPACE=default",
          "LIMIT=536870912",
          SECRET,
          "KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443",
        ],
        Cwd: "/srv",
        NoNewPrivileges: false,
      },
      mounts: [...app(containerId(2)), emptyDirMount(shape, "/scratch", shared)],
      volumes: [emptyDir(shape, shared)],
      more: {
        exec_commands: shape === "aks-tool" ? ["cat /healthy"] : [["cat", "/healthy"]],
        ...(ours ? { after: [1] } : {}),
      },
    },
    {
      index: 3,
      name: "skr",
      process: { Terminal: true, User: user, Args: ["/skr"], Env: ["PATH=/bin", "TERM=xterm"], Cwd: "/", NoNewPrivileges: false },
      live: { Terminal: true, User: user, Args: ["/skr"], Env: ["PATH=/bin", "TERM=xterm"], Cwd: "/", NoNewPrivileges: false },
      mounts: app(containerId(3)),
      ...(ours ? { more: { after: [1] } } : {}),
    },
  ];

  const forbidden = [String.raw`^127\.`, "^::1"];
  const data = {
    containers: parts.map((part) => policyContainer(shape, part)),
    common: {
      cpath: today ? `${shared}(?:/passthrough)?` : shared,
      ...(today ? { root_path: "/run/kata-containers/$(bundle-id)/rootfs" } : {}),
      sfprefix: today ? "^$(cpath)/(watchable/)?$(bundle-id)-[a-z0-9]{16}-" : "^$(cpath)/$(bundle-id)-[a-z0-9]{16}-",
      ...(today ? { spath: "/run/kata-containers/sandbox/storage" } : {}),
      ipv4_a: `(?:${OCTET}\\.){3}${OCTET}`,
      ip_p: "[0-9]{1,5}",
      [today ? "svc_name_downward_env" : "svc_name"]: "[A-Z](?:[A-Z0-9_]{0,61}[A-Z0-9])?",
      dns_label: String.raw`[a-zA-Z0-9_\.\-]+`,
      default_caps: DEFAULT_CAPABILITIES,
      privileged_caps: [...DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN"],
    },
    sandbox: { storages: [{ ...SHM, ...(today ? { shared: false } : {}) }] },
    request_defaults: {
      CreateContainerRequest: {
        allow_env_regex: [
          "^HOSTNAME=$(dns_label)$",
          `^$(${today ? "svc_name_downward_env" : "svc_name"})_PORT_$(ip_p)_TCP=tcp://$(ipv4_a):$(ip_p)$`,
          ...Array.from({ length: 9 }, (_, index) => `^SERVICE_${index}=$(ip_p)$`),
          "^AZURE_CLIENT_ID=[A-Fa-f0-9-]*$",
        ],
      },
      CopyFileRequest: ["$(sfprefix)"],
      ExecProcessRequest: { [shape === "aks-tool" ? "commands" : "allowed_commands"]: [], regex: [] },
      ReadStreamRequest: true,
      UpdateEphemeralMountsRequest: false,
      WriteStreamRequest: false,
      ...(today
        ? {
            CloseStdinRequest: false,
            GetDiagnosticDataRequest: false,
            UpdateRoutesRequest: { forbidden_device_names: ["lo"], forbidden_source_regex: forbidden },
            UpdateInterfaceRequest: { allow_raw_flags: 128, forbidden_names: ["lo"], forbidden_hw_addrs: ["00:00:00:00:00:00"] },
            AddARPNeighborsRequest: { forbidden_device_names: ["lo"], forbidden_cidrs_regex: forbidden, allowed_states: [2, 128] },
          }
        : {}),
    },
    ...(today
      ? {
          devices: { vfio: { device_path: "/dev/vfio/devices/vfio", nvidia: {} } },
          cluster_config: {
            pause_container_image: "pause",
            guest_pull: true,
            emptydir_type: "block-encrypted",
            cgroup_mount_extras_allowed: ["nsdelegate", "memory_recursiveprot"],
          },
        }
      : {}),
  };
  const requests = parts.map((part) => liveRequest(shape, part));
  return structuredClone({ shape, data, requests }) as unknown as TestPod;
}

/** The pod's /dev/shm. */
const SHM = {
  driver: "ephemeral",
  driver_options: [],
  source: "shm",
  fstype: "tmpfs",
  options: ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
  mount_point: "/run/kata-containers/sandbox/shm",
  fs_group: null,
};

/** CreateSandbox of an honest runtime. */
export function sandboxRequest(): Mutable {
  const storages = [{ ...SHM, shared: false }];
  const request = {
    hostname: "web",
    dns: ["nameserver 10.0.0.10"],
    storages,
    sandbox_pidns: false,
    sandbox_id: SANDBOX_ID,
    guest_hook_path: "",
    kernel_modules: [],
  };
  return structuredClone(request) as unknown as Mutable;
}

function layersOf(index: number): readonly { readonly id: string; readonly hash: string }[] {
  return ["top", "bottom"].map((name) => ({ id: hexOf(`id ${name} ${index}`), hash: hexOf(`hash ${name} ${index}`) }));
}

function hexOf(text: string): string {
  return toHex(sha256(encodeUtf8(text)));
}

const VOLUME_SOURCE = "02/05";
/** base64url of VOLUME_SOURCE. */
const VOLUME_NAME = "MDIvMDU=";

function emptyDir(shape: Shape, shared: string): { readonly policy: JsonObject; readonly live: JsonObject } {
  if (shape === "aks" || shape === "aks-tool") {
    const common = { driver: "local", driver_options: [], source: "local", fstype: "local", options: ["mode=0777"], fs_group: null };
    return {
      policy: { ...common, mount_point: "^$(cpath)/$(sandbox-id)/local/scratch$" },
      live: { ...common, mount_point: `${shared}/${SANDBOX_ID}/local/scratch`, shared: false },
    };
  }
  const common = { driver_options: ["encryption_key=ephemeral", "create_filesystem"], fstype: "ext4", options: [], fs_group: null, shared: true };
  return {
    policy: { ...common, driver: "", source: "", mount_point: "$(spath)/$(b64_device_id)" },
    live: { ...common, driver: "blk", source: VOLUME_SOURCE, mount_point: `/run/kata-containers/sandbox/storage/${VOLUME_NAME}` },
  };
}

function emptyDirMount(shape: Shape, destination: string, shared: string): Mount {
  const options = ["rbind", "rprivate", "rw"];
  if (shape === "coco" || shape === "kata-tool") return [destination, "bind", "", `/run/kata-containers/sandbox/storage/${VOLUME_NAME}`, options];
  return [destination, "local", "^$(cpath)/$(sandbox-id)/local/scratch$", `${shared}/${SANDBOX_ID}/local/scratch`, options];
}

function policyContainer(shape: Shape, { index, name, process, mounts, volumes = [], more = {} }: Parts): unknown {
  const today = shape === "coco" || shape === "kata-tool";
  const root = today ? "$(root_path)" : "$(cpath)/$(bundle-id)";
  const layers = layersOf(index);
  const lists = { Ambient: [], Bounding: ["$(default_caps)"], Effective: ["$(default_caps)"], Inheritable: [], Permitted: ["$(default_caps)"] };
  return {
    OCI: {
      Version: "1.1.0",
      Process: { Terminal: false, ...process, Capabilities: name === "fetch" ? { ...lists, Bounding: [], Effective: [], Permitted: [] } : lists },
      Root: { Path: root, Readonly: index === 0 },
      Mounts: mounts.map(([destination, type_, source, , options]) => ({ destination, source, type_, options })),
      Annotations: {
        "io.katacontainers.pkg.oci.bundle_path": "/run/containerd/io.containerd.runtime.v2.task/k8s.io/$(bundle-id)",
        "io.katacontainers.pkg.oci.container_type": index === 0 ? "pod_sandbox" : "pod_container",
        "io.kubernetes.cri.container-type": index === 0 ? "sandbox" : "container",
        "io.kubernetes.cri.sandbox-id": "^[a-z0-9]{64}$",
        "io.kubernetes.cri.sandbox-name": shape === "aks-tool" ? "$(generated-name)" : String.raw`^web-1\.[a-z]$`,
        "io.kubernetes.cri.sandbox-namespace": shape === "coco" ? "" : "default",
        team: "^shop$",
        ...(name === undefined
          ? {
              "io.kubernetes.cri.sandbox-log-directory": `^/var/log/pods/$(sandbox-namespace)_$(sandbox-name)_${UUID}$`,
              "nerdctl/network-namespace": `^/var/run/netns/cni-${UUID}$`,
            }
          : { "io.kubernetes.cri.container-name": name, "io.kubernetes.cri.image-name": shape === "kata-tool" ? `${name}@${digestOf(index)}` : `${name}:1` }),
      },
      Linux: {
        Namespaces: ["ipc", "uts", "mount"].map((Type) => ({ Type, Path: "" })),
        MaskedPaths: MASKED,
        ReadonlyPaths: READONLY,
        ...(shape === "aks-tool" ? {} : { Devices: [], Sysctl: SYSCTLS }),
      },
    },
    storages:
      shape === "kata-tool"
        ? volumes.map(({ policy }) => policy)
        : [
            ...layers.map((_, number) => ({
              driver: "blk",
              driver_options: [],
              source: "",
              fstype: shape === "coco" ? "erofs" : "tar",
              options: [`$(hash${number})`],
              mount_point: `$(layer${number})`,
              fs_group: null,
            })),
            {
              driver: "overlayfs",
              driver_options: [],
              source: "",
              fstype: "fuse3.kata-overlay",
              options: [layers.map(({ id }) => id).join(":"), layers.map(({ hash }) => hash).join(":")],
              mount_point: root,
              fs_group: null,
            },
            ...volumes.map(({ policy }) => policy),
          ],
    ...(shape === "aks-tool" ? {} : { devices: [] }),
    sandbox_pidns: false,
    exec_commands: [],
    ...(shape === "aks-tool"
      ? {}
      : {
          runtime_anno_patterns:
            name === undefined ? {} : { [String.raw`^io\.kubernetes\.container\.terminationMessagePolicy$`]: "^(File|FallbackToLogsOnError)$" },
        }),
    ...more,
    ...(shape === "aks" || shape === "coco" ? { image: { reference: `${name ?? "pause"}:1`, manifest_digest: digestOf(index) } } : {}),
  };
}

export function digestOf(index: number): string {
  return `sha256:${hexOf(`manifest ${index}`)}`;
}

function liveRequest(shape: Shape, { index, name, live, mounts, volumes = [] }: Parts): unknown {
  const today = shape === "coco" || shape === "kata-tool";
  const id = containerId(index);
  const root = today ? `/run/kata-containers/${id}/rootfs` : `/run/kata-containers/shared/containers/${id}`;
  const caps = name === "fetch" ? [] : DEFAULT_CAPABILITIES;
  const annotations = {
    "io.katacontainers.pkg.oci.bundle_path": `/run/containerd/io.containerd.runtime.v2.task/k8s.io/${id}`,
    "io.katacontainers.pkg.oci.container_type": index === 0 ? "pod_sandbox" : "pod_container",
    "io.kubernetes.cri.container-type": index === 0 ? "sandbox" : "container",
    "io.kubernetes.cri.sandbox-id": SANDBOX_ID,
    "io.kubernetes.cri.sandbox-name": "web-1.a",
    "io.kubernetes.cri.sandbox-namespace": "default",
    "io.kubernetes.cri.sandbox-uid": POD_UID,
    ...(name === undefined
      ? {
          "io.kubernetes.cri.sandbox-log-directory": `/var/log/pods/default_web-1.a_${POD_UID}`,
          "nerdctl/network-namespace": `/var/run/netns/cni-${POD_UID}`,
        }
      : { "io.kubernetes.cri.container-name": name, "io.kubernetes.cri.image-name": `docker.io/library/${name}:1` }),
  };
  const rootStorage = shape === "kata-tool" ? [pulledImage(index, name, root, annotations)] : rootStorages(index, shape === "coco" ? "erofs" : "tar", root);
  return {
    container_id: id,
    exec_id: id,
    string_user: null,
    devices: [],
    storages: [...rootStorage, ...volumes.map((volume) => volume.live)],
    OCI: {
      Version: "1.1.0",
      Process: {
        Terminal: false,
        ConsoleSize: null,
        ...live,
        Capabilities: { Bounding: caps, Effective: caps, Inheritable: [], Permitted: caps, Ambient: [] },
        Rlimits: [{ Type: "RLIMIT_NOFILE", Hard: 1, Soft: 1 }],
        ApparmorProfile: "",
        OOMScoreAdj: 1000,
        SelinuxLabel: "",
      },
      Root: { Path: root, Readonly: index === 0 },
      Hostname: "",
      Mounts: mounts.map(([destination, type_, , source, options]) => ({ destination, source, type_, options })),
      Hooks: null,
      Annotations: annotations,
      Linux: {
        UIDMappings: [],
        GIDMappings: [],
        Sysctl: SYSCTLS,
        Resources: { Devices: [], Memory: { Limit: 536870912 }, CPU: null, Pids: null, BlockIO: null, HugepageLimits: [], Network: null },
        CgroupsPath: "/kubepods/x",
        Namespaces: ["ipc", "uts", "mount"].map((Type) => ({ Type, Path: "" })),
        Devices: [],
        Seccomp: null,
        RootfsPropagation: "",
        MaskedPaths: MASKED,
        ReadonlyPaths: READONLY,
        MountLabel: "",
        IntelRdt: null,
      },
      Solaris: null,
      Windows: null,
    },
    sandbox_pidns: false,
    shared_mounts: [],
    stdin_port: 0,
    stdout_port: 0,
    stderr_port: 0,
  };
}

/** An image that the guest pulls. */
export function pulledImage(index: number, name: string | undefined, root: string, annotations: JsonObject): JsonObject {
  return {
    driver: "image_guest_pull",
    driver_options: [`image_guest_pull=${encodeJson({ metadata: annotations })}`],
    source: name === undefined ? "pause" : `docker.io/library/${name}@${digestOf(index)}`,
    fstype: "overlay",
    options: [],
    mount_point: root,
    fs_group: null,
    shared: false,
  };
}

function rootStorages(index: number, fstype: string, root: string): readonly JsonObject[] {
  const layers = layersOf(index);
  const common = { driver_options: [], fs_group: null, shared: false };
  const options = (hash: string): readonly string[] => [
    "ro",
    "io.katacontainers.fs-opt.block_device=file",
    "io.katacontainers.fs-opt.is-layer",
    `io.katacontainers.fs-opt.root-hash=${hash}`,
  ];
  return [
    ...layers.map(({ id, hash }, number) => ({
      ...common,
      driver: "blk",
      source: `0${number + 2}`,
      fstype,
      options: options(hash),
      mount_point: `/run/kata-containers/sandbox/layers/${id}`,
    })),
    {
      ...common,
      driver: "overlayfs",
      source: "none",
      fstype: "fuse3.kata-overlay",
      options: [
        "io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers",
        ...layers.map(({ id, hash }) => `io.katacontainers.fs-opt.layer=${toBase64(encodeUtf8([id, fstype, ...options(hash)].join(",")))}`),
        "io.katacontainers.fs-opt.overlay-rw",
        `lowerdir=${layers.map(({ id }) => id).join(":")}`,
      ],
      mount_point: root,
    },
  ];
}

/** A policy as an agent has it: decides, and keeps the state that allowed requests change. */
export class PolicyGuest {
  readonly #policy: Policy;

  /** @param data what stands behind `policy_data := ` */
  constructor(data: JsonValue, policy: Policy = compileRules(data)) {
    this.#policy = policy;
    this.#policy.setData({ pstate: {} });
  }

  /** Undefined if allowed, else the reasons, a line each. */
  refusal(name: string, input: JsonValue): string | undefined {
    const { results, prints } = this.#policy.evaluate(`data.agent_policy.${name}`, { input });
    const value = results[0]?.expressions[0] as { allowed?: boolean; ops?: Parameters<Policy["patchData"]>[0] } | boolean | undefined;
    const allowed = typeof value === "object" ? value.allowed === true : value === true;
    const lines = prints.map((line) => line.replace(/^[^ ]*:\d+: /, ""));
    if (!allowed) return lines.join("\n");
    if (lines.length > 0) throw new Error(`allowed, but printed ${lines.join("\n")}`);
    if (typeof value === "object") this.#policy.patchData(value.ops ?? []);
    return undefined;
  }

  /** CreateContainer, as the agent of the shape's profile passes it. */
  create(shape: Shape, request: JsonObject): string | undefined {
    const input = shape === "aks" || shape === "aks-tool" ? { base: request, env_map: {} } : request;
    return this.refusal("CreateContainerRequest", input);
  }
}

export function compileRules(data: JsonValue): Policy {
  return compile([{ name: "agent_policy", text: `${RULES}\npolicy_data := ${encodeJson(data)}` }], { version: "v0" });
}

/** A guest in which everything before this container was created and started. */
export function guestBefore(pod: TestPod, index: number, policy: Policy = compileRules(pod.data)): PolicyGuest {
  const guest = new PolicyGuest(pod.data, policy);
  for (const request of pod.requests.slice(0, index)) {
    const refusal = guest.create(pod.shape, request) ?? guest.refusal("StartContainerRequest", { container_id: request["container_id"] ?? "" });
    if (refusal !== undefined) throw new Error(`an honest request was refused: ${refusal}`);
  }
  return guest;
}

/** Sets one value; steps of the path are separated by `/`, `-` appends. */
export function set(path: string, value: JsonValue): (request: Mutable) => void {
  return (request) => {
    const steps = path.split("/");
    const last = steps.pop() ?? "";
    let node = request;
    for (const step of steps) {
      const next = node[step as never] as Mutable | undefined;
      if (next === undefined || next === null) throw new Error(`nothing at ${step} of ${path}`);
      node = next;
    }
    if (last === "-") node.push(value as never);
    else (node as Record<string, JsonValue>)[last] = value;
  };
}
