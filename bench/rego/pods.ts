import { encodeUtf8, type JsonObject, type JsonValue, sha256, toBase64, toHex } from "@sealpod/core";

/** Pods for the benchmark: the data behind `policy_data := `, and the request of an honest host (specs/genpolicy.md 3.2, 3.3, 7.3). */

/** Policy data and the request for its last container. */
export interface Pod {
  readonly data: JsonObject;
  readonly request: JsonObject;
  /** What the agent has stored when the request comes. */
  readonly state: JsonObject;
}

const SANDBOX_ID = id("sandbox");
const SHARED = "/run/kata-containers/shared/containers";
const POD_UID = "01234567-89ab-cdef-0123-456789abcdef";
const RUNTIME_TASKS = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/";
const LAYERS = "/run/kata-containers/sandbox/layers/";
const TARDEV = "/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers";

const MASKED = ["acpi", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"].map((name) => `/proc/${name}`);
const READONLY = ["asound", "bus", "fs", "irq", "sys", "sysrq-trigger"].map((name) => `/proc/${name}`);

const DEFAULT_CAPABILITIES = [
  "CHOWN",
  "DAC_OVERRIDE",
  "FSETID",
  "FOWNER",
  "MKNOD",
  "NET_RAW",
  "SETGID",
  "SETUID",
  "SETFCAP",
  "SETPCAP",
  "NET_BIND_SERVICE",
  "SYS_CHROOT",
  "KILL",
  "AUDIT_WRITE",
].map((name) => `CAP_${name}`);

const MORE_CAPABILITIES = ["SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "SYS_RAWIO", "NET_ADMIN", "BPF", "PERFMON", "SYSLOG"].map((name) => `CAP_${name}`);

const OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";

/** What Kubernetes adds to every environment; the order of the patterns is that of genpolicy's settings. */
function environmentPatterns(service: string): readonly string[] {
  return [
    "^HOSTNAME=$(dns_label)$",
    `^${service}_SERVICE_HOST=$(ipv4_a)$`,
    `^${service}_SERVICE_PORT=$(ip_p)$`,
    `^${service}_SERVICE_PORT_${service}=$(ip_p)$`,
    `^${service}_PORT=tcp://$(ipv4_a):$(ip_p)$`,
    `^${service}_PORT_$(ip_p)_TCP=tcp://$(ipv4_a):$(ip_p)$`,
    `^${service}_PORT_$(ip_p)_TCP_PROTO=tcp$`,
    `^${service}_PORT_$(ip_p)_TCP_PORT=$(ip_p)$`,
    `^${service}_PORT_$(ip_p)_TCP_ADDR=$(ipv4_a)$`,
    "^AZURE_CLIENT_ID=[A-Fa-f0-9-]*$",
    "^AZURE_TENANT_ID=[A-Fa-f0-9-]*$",
  ];
}

/** The 24 variables of three services. */
export function serviceVariables(): readonly string[] {
  return ["KUBERNETES", "FRONT_END", "DATABASE"].flatMap((name, index) => {
    const [address, port] = [`10.0.${index}.${index + 17}`, `${443 + index}`];
    return [
      `${name}_SERVICE_HOST=${address}`,
      `${name}_SERVICE_PORT=${port}`,
      `${name}_SERVICE_PORT_HTTPS=${port}`,
      `${name}_PORT=tcp://${address}:${port}`,
      `${name}_PORT_${port}_TCP=tcp://${address}:${port}`,
      `${name}_PORT_${port}_TCP_PROTO=tcp`,
      `${name}_PORT_${port}_TCP_PORT=${port}`,
      `${name}_PORT_${port}_TCP_ADDR=${address}`,
    ];
  });
}

/** A pod whose rules are `kata-today.rego`: a pause container and `count` containers, the last of which is asked for. */
export function podOfToday(count: number, kind: "distinct" | "siblings"): Pod {
  const containers = Array.from({ length: count }, (_, index) => {
    const asked = index === count - 1;
    // Siblings are the container asked for, but for the last field that the rules compare.
    if (kind === "siblings") return containerOfToday(count - 1, !asked);
    return containerOfToday(index, false);
  });
  const service = "$(svc_name_downward_env)";
  const data = {
    containers: [pauseOfToday(), ...containers],
    common: {
      cpath: SHARED,
      root_path: "/run/kata-containers/$(bundle-id)/rootfs",
      sfprefix: "^$(cpath)/$(bundle-id)-[a-z0-9]{16}-",
      spath: "/run/kata-containers/sandbox/storage",
      ...commonPatterns(),
      svc_name_downward_env: "[A-Z](?:[A-Z0-9_]{0,61}[A-Z0-9])?",
    },
    sandbox: { storages: [sharedMemory(false)] },
    request_defaults: {
      CreateContainerRequest: { allow_env_regex: environmentPatterns(service) },
      CopyFileRequest: ["$(sfprefix)"],
      ExecProcessRequest: { allowed_commands: [], regex: [] },
      UpdateRoutesRequest: { forbidden_device_names: ["lo"], forbidden_source_regex: ["^127\\.", "^::1$"] },
      UpdateInterfaceRequest: { allow_raw_flags: 128, forbidden_names: ["lo"], forbidden_hw_addrs: ["00:00:00:00:00:00"] },
      AddARPNeighborsRequest: { forbidden_device_names: ["lo"], forbidden_cidrs_regex: ["^127\\."], allowed_states: [128] },
      CloseStdinRequest: false,
      ReadStreamRequest: true,
      UpdateEphemeralMountsRequest: false,
      WriteStreamRequest: false,
      GetDiagnosticDataRequest: false,
    },
    devices: { vfio: { device_path: "/dev/vfio/devices/vfio" } },
    cluster_config: { guest_pull: true, emptydir_type: "block-encrypted", cgroup_mount_extras_allowed: ["rprivate"] },
  };
  const state = { sandbox_name: "web-0", namespace: "shop", network_namespace: "", [SANDBOX_ID]: 0 };
  return { data, request: requestOfToday(count - 1), state: { pstate: state } };
}

/** A pod whose rules are `kata-2023.rego`, with `layers` image layers in each container. */
export function podOf2023(count: number, layers: number): Pod {
  const containers = Array.from({ length: count }, (_, index) => containerOf2023(index, layers));
  const data = {
    containers: [pauseOf2023(), ...containers],
    common: { cpath: SHARED, sfprefix: "^$(cpath)/$(bundle-id)-[a-z0-9]{16}-", ...commonPatterns(), svc_name: "[A-Z](?:[A-Z0-9_]{0,61}[A-Z0-9])?" },
    sandbox: { storages: [sharedMemory(undefined)] },
    request_defaults: {
      CreateContainerRequest: { allow_env_regex: environmentPatterns("$(svc_name)") },
      CopyFileRequest: ["$(sfprefix)"],
      ExecProcessRequest: { commands: [], regex: [] },
      ReadStreamRequest: true,
      UpdateEphemeralMountsRequest: false,
      WriteStreamRequest: false,
    },
  };
  return { data, request: requestOf2023(count - 1, layers), state: {} };
}

function commonPatterns(): JsonObject {
  return {
    ipv4_a: `(?:${OCTET}\\.){3}${OCTET}`,
    ip_p: "[0-9]{1,5}",
    dns_label: "[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9])?",
    default_caps: DEFAULT_CAPABILITIES,
    privileged_caps: [...DEFAULT_CAPABILITIES, ...MORE_CAPABILITIES],
  };
}

function sharedMemory(shared: boolean | undefined): JsonObject {
  const storage = {
    driver: "ephemeral",
    driver_options: [],
    source: "shm",
    fstype: "tmpfs",
    options: ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
    mount_point: "/run/kata-containers/sandbox/shm",
    fs_group: null,
  };
  return shared === undefined ? storage : { ...storage, shared };
}

// -- What both generations have in common

/** Environment in the policy and in the request: 33 variables, 24 of them from Kubernetes. */
function environment(index: number, live: boolean): readonly string[] {
  const placed = (placeholder: string, value: string): string => (live ? value : placeholder);
  const own = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    `HOSTNAME=${placed("$(host-name)", "web-0")}`,
    `POD_NAME=${placed("$(sandbox-name)", "web-0")}`,
    `POD_NAMESPACE=${placed("$(sandbox-namespace)", "shop")}`,
    `POD_IP=${placed("$(pod-ip)", "10.244.1.9")}`,
    `NODE_IP=${placed("$(host-ip)", "10.240.0.4")}`,
    `NODE_NAME=${placed("$(node-name)", "node-7")}`,
    `MEMORY_LIMIT=${placed("$(resource-field)", "536870912")}`,
    `LISTEN=:80${index % 10}0`,
  ];
  return live ? [...own, ...serviceVariables()] : own;
}

function volumesOf(index: number): readonly { readonly place: string; readonly options: readonly string[] }[] {
  return [
    { place: "/etc/hosts", options: ["rbind", "rprivate", "rw"] },
    { place: "/dev/termination-log", options: ["rbind", "rprivate", "rw"] },
    { place: "/etc/hostname", options: ["rbind", "rprivate", "rw"] },
    { place: "/etc/resolv.conf", options: ["rbind", "rprivate", "rw"] },
    { place: "/var/run/secrets/kubernetes.io/serviceaccount", options: ["rbind", "rprivate", "ro"] },
    { place: `/srv/settings-${index}`, options: ["rbind", "rprivate", "ro"] },
  ];
}

function systemMounts(): readonly JsonObject[] {
  return [
    { destination: "/proc", source: "proc", type_: "proc", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/dev", source: "tmpfs", type_: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
    { destination: "/dev/pts", source: "devpts", type_: "devpts", options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
    { destination: "/dev/shm", source: "/run/kata-containers/sandbox/shm", type_: "bind", options: ["rbind"] },
    { destination: "/dev/mqueue", source: "mqueue", type_: "mqueue", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/sys", source: "sysfs", type_: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
    { destination: "/sys/fs/cgroup", source: "cgroup", type_: "cgroup", options: ["nosuid", "noexec", "nodev", "relatime", "ro"] },
  ];
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

function policyMounts(index: number): readonly JsonObject[] {
  const shared = volumesOf(index).map(({ place, options }) => ({ destination: place, source: `$(sfprefix)${baseName(place)}$`, type_: "bind", options }));
  return [...systemMounts(), ...shared];
}

function requestMounts(index: number, container: string): readonly JsonObject[] {
  const shared = volumesOf(index).map(({ place, options }, volume) => ({
    destination: place,
    source: `${SHARED}/${container}-0123456789abcde${volume.toString(16)}-${baseName(place)}`,
    type_: "bind",
    options,
  }));
  return [...systemMounts(), ...shared];
}

/** The spec of a policy container, but for the fields in which the generations differ. */
function policySpec(index: number, terminal: boolean, annotations: JsonObject, mounts: readonly JsonObject[]): Record<string, JsonValue> {
  const pause = index < 0;
  const capabilities = ["$(default_caps)"];
  return {
    Process: {
      Terminal: terminal,
      User: pause ? { UID: 65535, GID: 65535, AdditionalGids: [65535], Username: "" } : { UID: 1000, GID: 1000, AdditionalGids: [1000, 2000], Username: "" },
      Args: pause ? ["/pause"] : ["/usr/bin/serve", "--config", `/srv/settings-${index}/serve.yaml`, "--name", "$(sandbox-name)"],
      Env: pause ? ["PATH=/bin"] : environment(index, false),
      Cwd: "/",
      Capabilities: { Ambient: [], Bounding: capabilities, Effective: capabilities, Inheritable: [], Permitted: capabilities },
      NoNewPrivileges: true,
    },
    Mounts: mounts,
    Annotations: annotations,
  };
}

function policyAnnotations(index: number): Record<string, JsonValue> {
  const common = {
    "io.katacontainers.pkg.oci.bundle_path": `${RUNTIME_TASKS}$(bundle-id)`,
    "io.katacontainers.pkg.oci.container_type": index < 0 ? "pod_sandbox" : "pod_container",
    "io.kubernetes.cri.container-type": index < 0 ? "sandbox" : "container",
    "io.kubernetes.cri.sandbox-id": "^[a-z0-9]{64}$",
    "io.kubernetes.cri.sandbox-namespace": "shop",
  };
  if (index >= 0)
    return { ...common, "io.kubernetes.cri.container-name": `container-${index}`, "io.kubernetes.cri.image-name": `registry.example/shop/${index}:1` };
  return {
    ...common,
    "io.kubernetes.cri.sandbox-log-directory": "^/var/log/pods/$(sandbox-namespace)_$(sandbox-name)_[0-9a-f-]{36}$",
    "nerdctl/network-namespace": "^/var/run/netns/cni-[0-9a-f-]{36}$",
  };
}

function requestSpec(index: number, container: string): Record<string, JsonValue> {
  return {
    Process: {
      Terminal: false,
      ConsoleSize: null,
      User: { UID: 1000, GID: 1000, AdditionalGids: [1000, 2000], Username: "" },
      Args: ["/usr/bin/serve", "--config", `/srv/settings-${index}/serve.yaml`, "--name", "web-0"],
      Env: environment(index, true),
      Cwd: "/",
      Capabilities: { Bounding: DEFAULT_CAPABILITIES, Effective: DEFAULT_CAPABILITIES, Inheritable: [], Permitted: DEFAULT_CAPABILITIES, Ambient: [] },
      Rlimits: [],
      NoNewPrivileges: true,
      ApparmorProfile: "",
      OOMScoreAdj: 984,
      SelinuxLabel: "",
    },
    Hostname: "",
    Mounts: requestMounts(index, container),
    Hooks: null,
    Annotations: {
      "io.katacontainers.pkg.oci.bundle_path": `${RUNTIME_TASKS}${container}`,
      "io.katacontainers.pkg.oci.container_type": "pod_container",
      "io.kubernetes.cri.container-name": `container-${index}`,
      "io.kubernetes.cri.container-type": "container",
      "io.kubernetes.cri.image-name": `registry.example/shop/${index}:1`,
      "io.kubernetes.cri.sandbox-id": SANDBOX_ID,
      "io.kubernetes.cri.sandbox-name": "web-0",
      "io.kubernetes.cri.sandbox-namespace": "shop",
      "io.kubernetes.cri.sandbox-uid": POD_UID,
    },
    Solaris: null,
    Windows: null,
  };
}

function requestLinux(namespaces: readonly JsonObject[]): JsonObject {
  return {
    UIDMappings: [],
    GIDMappings: [],
    Sysctl: {},
    Resources: {
      Devices: [],
      Memory: { Limit: 536870912, Reservation: 0, Swap: 0, Kernel: 0, KernelTCP: 0, Swappiness: 0, DisableOOMKiller: false },
      CPU: { Shares: 512, Quota: 100000, Period: 100000, RealtimeRuntime: 0, RealtimePeriod: 0, Cpus: "", Mems: "" },
      Pids: null,
      BlockIO: null,
      HugepageLimits: [],
      Network: null,
    },
    CgroupsPath: `/kubepods/burstable/pod${POD_UID}/${id("cgroup")}`,
    Namespaces: namespaces,
    Devices: [],
    Seccomp: null,
    RootfsPropagation: "",
    MaskedPaths: MASKED,
    ReadonlyPaths: READONLY,
    MountLabel: "",
    IntelRdt: null,
  };
}

function request(container: string, spec: JsonObject, storages: readonly JsonObject[]): JsonObject {
  const ports = { stdin_port: 0, stdout_port: 0, stderr_port: 0 };
  return {
    container_id: container,
    exec_id: container,
    string_user: null,
    devices: [],
    storages,
    OCI: spec,
    sandbox_pidns: false,
    shared_mounts: [],
    ...ports,
  };
}

function namespaces(types: readonly string[]): readonly JsonObject[] {
  return types.map((type) => ({ Type: type, Path: "" }));
}

// -- Today

const TODAY = "1.1.0";

function pauseOfToday(): JsonObject {
  const spec = policySpec(-1, false, { ...policyAnnotations(-1), "io.kubernetes.cri.sandbox-name": "^web-0$" }, systemMounts().slice(0, 6));
  return {
    OCI: { Version: TODAY, ...spec, Root: { Path: "$(root_path)", Readonly: true }, Linux: linuxOfToday() },
    storages: [],
    devices: [],
    sandbox_pidns: false,
    exec_commands: [],
    runtime_anno_patterns: {},
  };
}

function linuxOfToday(): JsonObject {
  return { Namespaces: namespaces(["ipc", "uts", "mount"]), MaskedPaths: MASKED, ReadonlyPaths: READONLY, Devices: [], Sysctl: {} };
}

function containerOfToday(index: number, terminal: boolean): JsonObject {
  const volumes = [
    { destination: "/var/cache", source: "^/run/kata-containers/sandbox/ephemeral/cache$", type_: "bind", options: ["rbind", "rprivate", "rw"] },
    { destination: "/var/data", source: "", type_: "bind", options: ["rbind", "rprivate", "rw"] },
  ];
  const annotations = { ...policyAnnotations(index), "io.kubernetes.cri.sandbox-name": "^web-0$" };
  const spec = policySpec(index, terminal, annotations, [...policyMounts(index), ...volumes]);
  return {
    OCI: { Version: TODAY, ...spec, Root: { Path: "$(root_path)", Readonly: true }, Linux: linuxOfToday() },
    storages: [
      {
        driver: "ephemeral",
        driver_options: [],
        source: "tmpfs",
        fstype: "tmpfs",
        options: [],
        mount_point: "^/run/kata-containers/sandbox/ephemeral/cache$",
        fs_group: null,
        shared: false,
      },
      {
        driver: "",
        driver_options: ["encryption_key=ephemeral"],
        source: "",
        fstype: "ext4",
        options: [],
        mount_point: "$(spath)/$(b64_device_id)",
        fs_group: null,
        shared: true,
      },
    ],
    devices: [],
    sandbox_pidns: false,
    exec_commands: [["/usr/bin/serve", "--health"]],
    runtime_anno_patterns: {
      "^io\\.kubernetes\\.container\\.terminationMessagePath$": "^/.*$",
      "^io\\.kubernetes\\.container\\.terminationMessagePolicy$": "^(File|FallbackToLogsOnError)$",
    },
  };
}

function requestOfToday(index: number): JsonObject {
  const container = id(`container ${index}`);
  const device = "0a/03";
  const disk = `/run/kata-containers/sandbox/storage/${toBase64(encodeUtf8(device)).replaceAll("+", "-").replaceAll("/", "_")}`;
  const spec = requestSpec(index, container);
  const mounts = [
    ...(spec["Mounts"] as readonly JsonObject[]),
    { destination: "/var/cache", source: "/run/kata-containers/sandbox/ephemeral/cache", type_: "bind", options: ["rbind", "rprivate", "rw"] },
    { destination: "/var/data", source: disk, type_: "bind", options: ["rbind", "rprivate", "rw"] },
  ];
  const annotations = {
    ...(spec["Annotations"] as JsonObject),
    "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
    "io.kubernetes.container.terminationMessagePolicy": "File",
  };
  const root = { Path: `/run/kata-containers/${container}/rootfs`, Readonly: true };
  const pulled = {
    driver: "image_guest_pull",
    driver_options: [`image_guest_pull={"image":"registry.example/shop/${index}:1"}`],
    source: "",
    fstype: "overlay",
  };
  const storages = [
    { ...pulled, options: [], mount_point: `/run/kata-containers/${container}/rootfs`, fs_group: null, shared: false },
    {
      driver: "ephemeral",
      driver_options: [],
      source: "tmpfs",
      fstype: "tmpfs",
      options: [],
      mount_point: "/run/kata-containers/sandbox/ephemeral/cache",
      fs_group: null,
      shared: false,
    },
    {
      driver: "blk",
      driver_options: ["encryption_key=ephemeral"],
      source: device,
      fstype: "ext4",
      options: [],
      mount_point: disk,
      fs_group: null,
      shared: true,
    },
  ];
  const linux = requestLinux(namespaces(["ipc", "uts", "mount", "cgroup"]));
  return request(container, { Version: TODAY, ...spec, Mounts: mounts, Annotations: annotations, Root: root, Linux: linux }, storages);
}

// -- 2023

const VERSION_2023 = "1.1.0-rc.1";

function linuxOf2023(): JsonObject {
  return { Namespaces: namespaces(["ipc", "uts", "mount"]), MaskedPaths: MASKED, ReadonlyPaths: READONLY };
}

function pauseOf2023(): JsonObject {
  const spec = policySpec(-1, false, { ...policyAnnotations(-1), "io.kubernetes.cri.sandbox-name": "web-0" }, systemMounts().slice(0, 6));
  return {
    OCI: { Version: VERSION_2023, ...spec, Root: { Path: "$(cpath)/$(bundle-id)", Readonly: true }, Linux: linuxOf2023() },
    storages: layerStorages("pause", 1),
    sandbox_pidns: false,
    exec_commands: [],
  };
}

function containerOf2023(index: number, layers: number): JsonObject {
  const volume = { destination: "/var/cache", source: "^$(cpath)/$(sandbox-id)/local/cache$", type_: "local", options: ["rbind", "rprivate", "rw"] };
  const annotations = { ...policyAnnotations(index), "io.kubernetes.cri.sandbox-name": "web-0" };
  const spec = policySpec(index, false, annotations, [...policyMounts(index), volume]);
  return {
    OCI: { Version: VERSION_2023, ...spec, Root: { Path: "$(cpath)/$(bundle-id)", Readonly: true }, Linux: linuxOf2023() },
    storages: [...layerStorages(`container ${index}`, layers), localStorage("^$(cpath)/$(sandbox-id)/local/cache$")],
    sandbox_pidns: false,
    exec_commands: ["/usr/bin/serve --health"],
  };
}

function localStorage(mountPoint: string): JsonObject {
  return { driver: "local", driver_options: [], source: "local", fstype: "local", options: ["mode=0777"], mount_point: mountPoint, fs_group: null };
}

function layerIds(name: string, count: number): readonly { readonly layer: string; readonly hash: string }[] {
  return Array.from({ length: count }, (_, index) => ({ layer: id(`${name} layer ${index}`), hash: id(`${name} root hash ${index}`) }));
}

/** The layers of an image and their overlay as the policy lists them (specs/genpolicy.md 5.7). */
function layerStorages(name: string, count: number): readonly JsonObject[] {
  const layers = layerIds(name, count);
  const rest = { driver_options: [], source: "", fs_group: null };
  const disks = layers.map((_, index) => ({ driver: "blk", ...rest, fstype: "tar", options: [`$(hash${index})`], mount_point: `$(layer${index})` }));
  const options = [layers.map(({ layer }) => layer).join(":"), layers.map(({ hash }) => hash).join(":")];
  return [...disks, { driver: "overlayfs", ...rest, fstype: "fuse3.kata-overlay", options, mount_point: "$(cpath)/$(bundle-id)" }];
}

function requestOf2023(index: number, count: number): JsonObject {
  const container = id(`container ${index}`);
  const layers = layerIds(`container ${index}`, count);
  const verity = (hash: string): readonly string[] => [
    "ro",
    "io.katacontainers.fs-opt.block_device=file",
    "io.katacontainers.fs-opt.is-layer",
    `io.katacontainers.fs-opt.root-hash=${hash}`,
  ];
  const rest = { driver_options: [], fs_group: null };
  const disks = layers.map(({ layer, hash }, number) => ({
    driver: "blk",
    ...rest,
    source: (number + 2).toString(16).padStart(2, "0"),
    fstype: "tar",
    options: verity(hash),
    mount_point: `${LAYERS}${layer}`,
  }));
  const options = [
    `io.katacontainers.fs-opt.layer-src-prefix=${TARDEV}`,
    ...layers.map(({ layer, hash }) => `io.katacontainers.fs-opt.layer=${toBase64(encodeUtf8([layer, "tar", ...verity(hash)].join(",")))}`),
    "io.katacontainers.fs-opt.overlay-rw",
    `lowerdir=${layers.map(({ layer }) => layer).join(":")}`,
  ];
  const overlay = { driver: "overlayfs", ...rest, source: "none", fstype: "fuse3.kata-overlay", options, mount_point: `${SHARED}/${container}` };
  const spec = requestSpec(index, container);
  const cache = { destination: "/var/cache", source: `${SHARED}/${SANDBOX_ID}/local/cache`, type_: "local", options: ["rbind", "rprivate", "rw"] };
  const mounts = [...(spec["Mounts"] as readonly JsonObject[]), cache];
  const root = { Path: `${SHARED}/${container}`, Readonly: true };
  const linux = requestLinux(namespaces(["ipc", "uts", "mount"]));
  const storages = [...disks, overlay, localStorage(`${SHARED}/${SANDBOX_ID}/local/cache`)];
  return request(container, { Version: VERSION_2023, ...spec, Mounts: mounts, Root: root, Linux: linux }, storages);
}

/** 64 hex digits that a name stands for. */
function id(name: string): string {
  return toHex(sha256(encodeUtf8(name)));
}
