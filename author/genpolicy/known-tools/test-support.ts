import type { JsonObject, JsonValue } from "@sealpod/core";
import { encodePrettyJson, type PrintableJson } from "../pretty-json.ts";
import { AKS_PROFILE, COCO_PROFILE, type Profile } from "../profile.ts";
import { generated, memoryMeasurer, type PolicyOptions } from "../test-support.ts";

/** Settings and rules of the shape that the known tools read, for tests of what those tools would print. */

/** Any rules: they go into the policy as they are. */
export const KNOWN_RULES = 'package agent_policy\n\ndefault AllowRequestsFailingPolicy := false # "äöü"\n';

const CAPS = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"];
const ALL_CAPS = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_RAW"];
const SHM = { destination: "/dev/shm", type_: "bind", source: "/run/kata-containers/sandbox/shm", options: ["rbind"] };
const file = (destination: string, ...options: readonly string[]): JsonObject => ({ destination, type_: "bind", source: "", options });
const OTHER_MOUNTS = [
  file("/etc/hosts", "rbind", "rprivate", "rw"),
  file("/dev/termination-log", "rbind", "rprivate", "rw"),
  file("/etc/hostname", "rbind", "rprivate"),
  file("/etc/resolv.conf", "rbind", "rprivate"),
  SHM,
  file("/var/run/secrets/kubernetes.io/serviceaccount", "rbind", "rprivate", "ro"),
  // Not among the mount destinations: only where the pod mounts something there.
  file("/opt/only-if-mounted", "rbind", "rprivate", "ro"),
];
const MOUNT_DESTINATIONS = [
  "/sys/fs/cgroup",
  "/etc/hosts",
  "/dev/termination-log",
  "/etc/hostname",
  "/etc/resolv.conf",
  "/dev/shm",
  "/var/run/secrets/kubernetes.io/serviceaccount",
];
const PAUSE_MOUNTS = [SHM, file("/etc/resolv.conf", "rbind", "ro", "nosuid", "nodev", "noexec")];
const BUNDLE = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/$(bundle-id)";
const PAUSE_ANNOTATIONS = {
  "io.katacontainers.pkg.oci.bundle_path": BUNDLE,
  "io.katacontainers.pkg.oci.container_type": "pod_sandbox",
  "io.kubernetes.cri.container-type": "sandbox",
  "io.kubernetes.cri.sandbox-id": "^[a-z0-9]{64}$",
  "io.kubernetes.cri.sandbox-namespace": "default",
};
const OTHER_ANNOTATIONS = {
  "io.katacontainers.pkg.oci.bundle_path": BUNDLE,
  "io.katacontainers.pkg.oci.container_type": "pod_container",
  "io.kubernetes.cri.container-type": "container",
  "io.kubernetes.cri.sandbox-id": "^[a-z0-9]{64}$",
};
const EMPTY_DIR = { mount_type: "local", driver: "local", source: "local", fstype: "local", options: ["mode=0777"], driver_options: [] };
const MEMORY = {
  mount_type: "bind",
  mount_source: "^/run/kata-containers/sandbox/ephemeral/",
  mount_point: "^/run/kata-containers/sandbox/ephemeral/",
  driver: "ephemeral",
  source: "tmpfs",
  fstype: "tmpfs",
  options: [],
  driver_options: [],
};
const COPIED = {
  mount_type: "bind",
  mount_source: "$(sfprefix)",
  mount_point: "$(sfprefix)",
  driver: "local",
  fstype: "bind",
  options: ["rbind", "rprivate", "ro"],
};
const SANDBOX = { storages: [{ driver: "ephemeral", source: "shm", fstype: "tmpfs", options: ["noexec"], mount_point: "/run/kata-containers/sandbox/shm" }] };

/** Settings of the tool of 2023. */
export const AKS_KNOWN: JsonObject = {
  pause_container: {
    Root: { Path: "$(cpath)/$(bundle-id)", Readonly: true },
    Mounts: PAUSE_MOUNTS,
    Annotations: PAUSE_ANNOTATIONS,
    Process: { Args: ["/pause"] },
    Linux: { MaskedPaths: ["/proc/acpi", "/sys/firmware"], ReadonlyPaths: ["/proc/bus"] },
  },
  other_container: { Root: { Path: "$(cpath)/$(bundle-id)", Readonly: false }, Mounts: OTHER_MOUNTS, Annotations: OTHER_ANNOTATIONS },
  volumes: {
    emptyDir: { ...EMPTY_DIR, mount_source: "^$(cpath)/$(sandbox-id)/local/", mount_point: "^$(cpath)/$(sandbox-id)/local/" },
    emptyDir_memory: MEMORY,
    configMap: { ...COPIED, driver: "watchable-bind", mount_point: "^$(cpath)/watchable/$(bundle-id)-[a-z0-9]{16}-" },
    confidential_configMap: COPIED,
  },
  mount_destinations: MOUNT_DESTINATIONS,
  sandbox: SANDBOX,
  common: {
    cpath: "/run/kata-containers/shared/containers",
    sfprefix: "^$(cpath)/$(bundle-id)-[a-z0-9]{16}-",
    ipv4_a: "ipv4",
    ip_p: "[0-9]{1,5}",
    svc_name: "[A-Z0-9_\\.\\-]+",
    dns_label: "[a-zA-Z0-9_\\.\\-]+",
    default_caps: CAPS,
    privileged_caps: ALL_CAPS,
  },
  kata_config: { confidential_guest: true },
  request_defaults: {
    CreateContainerRequest: { allow_env_regex: ["^HOSTNAME=$(dns_label)$"] },
    CopyFileRequest: ["$(sfprefix)"],
    ExecProcessRequest: { commands: [], regex: [] },
    ReadStreamRequest: true,
    UpdateEphemeralMountsRequest: false,
    WriteStreamRequest: false,
  },
} satisfies JsonValue;

const SYSCTL = { "net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0" };
const block = (...driver_options: readonly string[]): JsonObject => ({
  mount_type: "bind",
  mount_source: "",
  mount_point: "$(spath)/$(b64_device_id)",
  driver: "",
  driver_options,
  source: "",
  fstype: "ext4",
  options: driver_options.length === 1 ? ["discard"] : [],
  shared: true,
});

/** Settings of upstream's tool. */
export const COCO_KNOWN: JsonObject = {
  pause_container: {
    Root: { Path: "$(root_path)", Readonly: true },
    Mounts: PAUSE_MOUNTS,
    Annotations: PAUSE_ANNOTATIONS,
    Process: { NoNewPrivileges: true, Args: ["/pause"] },
    Linux: { MaskedPaths: ["/proc/acpi", "/sys/firmware"], ReadonlyPaths: ["/proc/bus"], Sysctl: SYSCTL },
  },
  other_container: { Root: { Path: "$(root_path)", Readonly: false }, Mounts: OTHER_MOUNTS, Annotations: OTHER_ANNOTATIONS, Linux: { Sysctl: SYSCTL } },
  volumes: {
    emptyDir: { ...EMPTY_DIR, mount_source: "^$(cpath)/$(sandbox-id)/rootfs/local/", mount_point: "^$(cpath)/$(sandbox-id)/rootfs/local/", shared: false },
    emptyDir_encrypted: block("encryption_key=ephemeral", "create_filesystem"),
    emptyDir_plain: block("create_filesystem"),
    emptyDir_memory: { ...MEMORY, shared: false },
    configMap: { ...COPIED, driver_options: [], source: "", shared: false },
    image_volume: { ...COPIED, source: "local", options: ["rbind", "rprivate", "rw"], driver_options: [], shared: false },
  },
  devices: {
    vfio: {
      device_path: "/dev/vfio/devices/vfio",
      anno_key_regex: "^cdi\\.k8s\\.io/vfio[0-9]+$",
      nvidia: { gpu_anno_value_regex: "^nvidia\\.com/gpu=[0-9]+$", gpu_gk_device_type: "vfio-pci-gk", pgpu_resource_keys: ["nvidia.com/pgpu"] },
    },
  },
  mount_destinations: MOUNT_DESTINATIONS,
  sandbox: SANDBOX,
  common: {
    cpath: "/run/kata-containers/shared/containers(?:/passthrough)?",
    root_path: "/run/kata-containers/$(bundle-id)/rootfs",
    sfprefix: "^$(cpath)/(watchable/)?$(bundle-id)-[a-z0-9]{16}-",
    spath: "/run/kata-containers/sandbox/storage",
    ipv4_a: "ipv4",
    ip_p: "[0-9]{1,5}",
    svc_name_downward_env: "[A-Z](?:[A-Z0-9_]{0,61}[A-Z0-9])?",
    dns_label: "[a-zA-Z0-9_\\.\\-]+",
    default_caps: CAPS,
    privileged_caps: ALL_CAPS,
  },
  kata_config: { oci_version: "1.1.0", enable_configmap_secret_storages: false },
  cluster_config: {
    pause_container_image: "pause.example:3",
    guest_pull: false,
    emptydir_type: "block-encrypted",
    cgroup_mount_extras_allowed: ["nsdelegate"],
  },
  request_defaults: {
    CreateContainerRequest: { allow_env_regex: ["^TERM=xterm$"] },
    CopyFileRequest: ["$(sfprefix)"],
    ExecProcessRequest: { allowed_commands: [["ls", "-l"]], regex: [] },
    UpdateRoutesRequest: { forbidden_device_names: ["lo"], forbidden_source_regex: ["^127\\."] },
    UpdateInterfaceRequest: { allow_raw_flags: 128, forbidden_names: ["lo"], forbidden_hw_addrs: ["00:00:00:00:00:00"] },
    AddARPNeighborsRequest: { forbidden_device_names: ["lo"], forbidden_cidrs_regex: ["^127\\."], allowed_states: [2, 128] },
    CloseStdinRequest: false,
    ReadStreamRequest: false,
    UpdateEphemeralMountsRequest: false,
    WriteStreamRequest: false,
    GetDiagnosticDataRequest: false,
  },
} satisfies JsonValue;

/** The images that {@link knownPolicy} knows, and their user files. */
export type KnownImages = Parameters<typeof memoryMeasurer>[0];

/** A known tool with its settings, some of them changed. */
export interface KnownTool {
  readonly profile: Profile;
  readonly settings: JsonObject;
}

export const AKS_TOOL: KnownTool = { profile: AKS_PROFILE, settings: AKS_KNOWN };
export const COCO_TOOL: KnownTool = { profile: COCO_PROFILE, settings: COCO_KNOWN };

/** The tool with members of a section of its settings changed. */
export function changed(tool: KnownTool, section: string, change: JsonObject): KnownTool {
  const { [section]: before } = tool.settings;
  return { ...tool, settings: { ...tool.settings, [section]: { ...(before as JsonObject), ...change } } };
}

const PAUSE = {
  user: "65535:65535",
  entrypoint: ["/pause"],
  env: ["PATH=/bin"],
  diffIds: ["sha256:84ff92691f909a05b224e1c56abb4864f01b4f8e3c854e4bb4c7baf1d3f6d652"],
};

/** The texts that a tool prints for a YAML file. */
export async function knownPolicies(
  tool: KnownTool,
  text: string,
  images: KnownImages = { "app:1": {} },
  more: PolicyOptions = {},
): ReturnType<typeof generated> {
  const pauses = { "mcr.microsoft.com/oss/kubernetes/pause:3.6": PAUSE, "pause.example:3": PAUSE };
  return generated(text, { ...pauses, ...images }, { profile: tool.profile, settings: JSON.stringify(tool.settings), rules: KNOWN_RULES, ...more });
}

/** The data of the first policy, as JSON reads it: fields in the order in which they were printed. */
export async function knownData(tool: KnownTool, text: string, images?: KnownImages, more?: PolicyOptions): Promise<KnownData> {
  const { policies } = await knownPolicies(tool, text, images, more);
  const prefix = `${KNOWN_RULES}\npolicy_data := `;
  if (policies[0]?.policy.startsWith(prefix) !== true) throw new Error("the policy does not begin with the rules");
  return JSON.parse(policies[0].policy.slice(prefix.length)) as KnownData;
}

/** Policy data as tests look at it. */
export interface KnownData {
  readonly containers: readonly {
    readonly OCI: {
      readonly Process: {
        readonly User: JsonObject;
        readonly Args?: readonly string[];
        readonly Env?: readonly string[];
        readonly Capabilities: { readonly Bounding: readonly string[] };
      } & JsonObject;
      readonly Mounts: readonly { readonly destination: string; readonly source: string; readonly type_: string; readonly options: readonly string[] }[];
      readonly Annotations: Readonly<Record<string, string>>;
      readonly Linux: JsonObject;
    };
    readonly storages: readonly JsonObject[];
    readonly exec_commands: JsonValue;
    readonly devices?: JsonValue;
    readonly runtime_anno_patterns?: JsonValue;
    readonly sandbox_pidns: boolean;
  }[];
}

/** Text as the tools print JSON. */
export function printed(value: PrintableJson): string {
  return encodePrettyJson(value);
}

/** YAML of a pod with one container. */
export function podYaml(container: string, pod = "", metadata = "{name: web}"): string {
  return `apiVersion: v1\nkind: Pod\nmetadata: ${metadata}\nspec:\n${pod}  containers:\n  - name: app\n    image: app:1\n${container}`;
}

/** YAML of any kind of workload around a pod's spec. */
export function workloadYaml(kind: string, spec: string, metadata = "{name: web}"): string {
  const head = `apiVersion: x/v1\nkind: ${kind}\nmetadata: ${metadata}\n`;
  if (kind === "Pod") return `${head}spec: ${spec}\n`;
  const template = `{template: {metadata: {labels: {a: b}}, spec: ${spec}}}`;
  if (kind === "CronJob") return `${head}spec: {schedule: "* * * * *", jobTemplate: {spec: ${template}}}\n`;
  const more = kind === "StatefulSet" ? "serviceName: s, " : "";
  return `${head}spec: {${more}${template.slice(1)}\n`;
}
