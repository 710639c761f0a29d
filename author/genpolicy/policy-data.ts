import type { JsonValue } from "@sealpod/core";

/**
 * The document behind `policy_data := ` (specs/genpolicy.md 3.2, 3.3). The order of the fields here is the order in which they
 * are built and printed; users' own rules read these names. Fields with `?` are there in one generation of the format only, or
 * only under our own settings; /docs/policy.md has the table.
 */
export interface PolicyData {
  readonly containers: readonly PolicyContainer[];
  readonly common: PolicyCommon;
  readonly sandbox: { readonly storages: readonly PolicyStorage[] };
  readonly request_defaults: RequestDefaults;
  /** coco. */
  readonly devices?: PolicyDeviceClasses | undefined;
  /** coco. */
  readonly cluster_config?: PolicyClusterConfig | undefined;
}

/** One container that may run; the first is the pod's pause container. */
export interface PolicyContainer {
  readonly OCI: PolicySpec;
  readonly storages: readonly PolicyStorage[];
  readonly devices?: readonly PolicyDevice[] | undefined;
  readonly sandbox_pidns: boolean;
  /** Lists of arguments; the tool of 2023 joins each by spaces. */
  readonly exec_commands: readonly (readonly string[])[] | readonly string[];
  /** Annotations that the runtime adds: patterns of keys and values. */
  readonly runtime_anno_patterns?: ReadonlyMap<string, string> | undefined;
  /** Ours: indexes of the containers that must have been started before this one is created. */
  readonly after?: readonly number[] | undefined;
  /** Ours: the image, by the digest that was measured. Its presence says that the container was described as Kubernetes runs it. */
  readonly image?: PolicyImage | undefined;
}

export interface PolicyImage {
  readonly reference: string;
  /** `sha256:…` */
  readonly manifest_digest: string;
}

export interface PolicySpec {
  readonly Version: string;
  readonly Process: PolicyProcess;
  readonly Root: { readonly Path: string; readonly Readonly: boolean };
  readonly Mounts: readonly PolicyMount[];
  readonly Annotations: ReadonlyMap<string, string>;
  readonly Linux: PolicyLinux;
}

export interface PolicyProcess {
  readonly Terminal: boolean;
  readonly User: PolicyUser;
  /** Left out if empty. */
  readonly Args?: readonly string[] | undefined;
  /** Left out if empty. */
  readonly Env?: readonly string[] | undefined;
  /** Left out if empty. */
  readonly Cwd?: string | undefined;
  readonly Capabilities: PolicyCapabilities;
  readonly NoNewPrivileges: boolean;
}

export interface PolicyUser {
  readonly UID: number;
  readonly GID: number;
  /** Sorted, each once. */
  readonly AdditionalGids: readonly number[];
  readonly Username: string;
}

export interface PolicyCapabilities {
  readonly Ambient: readonly string[];
  readonly Bounding: readonly string[];
  readonly Effective: readonly string[];
  readonly Inheritable: readonly string[];
  readonly Permitted: readonly string[];
}

export interface PolicyMount {
  readonly destination: string;
  readonly source: string;
  readonly type_: string;
  readonly options: readonly string[];
}

export interface PolicyLinux {
  readonly Namespaces: readonly { readonly Type: string; readonly Path: string }[];
  readonly MaskedPaths: readonly string[];
  readonly ReadonlyPaths: readonly string[];
  readonly Devices?: readonly PolicyLinuxDevice[] | undefined;
  /** Left out if empty. */
  readonly Sysctl?: ReadonlyMap<string, string> | undefined;
}

export interface PolicyLinuxDevice {
  readonly Type: string;
  readonly Path: string;
}

export interface PolicyStorage {
  readonly driver: string;
  readonly driver_options: readonly string[];
  readonly source: string;
  readonly fstype: string;
  readonly options: readonly string[];
  readonly mount_point: string;
  /** `{group_id, group_change_policy}` or null. */
  readonly fs_group: JsonValue;
  /** coco. */
  readonly shared?: boolean | undefined;
}

export interface PolicyDevice {
  readonly id: string;
  readonly type_: string;
  readonly vm_path: string;
  readonly container_path: string;
  readonly options: readonly string[];
}

export interface PolicyCommon {
  readonly cpath: string;
  /** coco. */
  readonly root_path?: string | undefined;
  readonly sfprefix: string;
  /** coco. */
  readonly spath?: string | undefined;
  readonly ipv4_a: string;
  readonly ip_p: string;
  /** aks. */
  readonly svc_name?: string | undefined;
  /** coco. */
  readonly svc_name_downward_env?: string | undefined;
  readonly dns_label: string;
  readonly default_caps: readonly string[];
  readonly privileged_caps: readonly string[];
}

export interface RequestDefaults {
  readonly CreateContainerRequest: { readonly allow_env_regex: readonly string[] };
  readonly CopyFileRequest: readonly string[];
  readonly ExecProcessRequest: ExecDefaults;
  readonly UpdateRoutesRequest?: { readonly forbidden_device_names: readonly string[]; readonly forbidden_source_regex: readonly string[] } | undefined;
  readonly UpdateInterfaceRequest?:
    | { readonly allow_raw_flags: number; readonly forbidden_names: readonly string[]; readonly forbidden_hw_addrs: readonly string[] }
    | undefined;
  readonly AddARPNeighborsRequest?:
    | {
        readonly forbidden_device_names: readonly string[];
        readonly forbidden_cidrs_regex: readonly string[];
        readonly allowed_states: readonly number[];
      }
    | undefined;
  readonly CloseStdinRequest?: boolean | undefined;
  readonly ReadStreamRequest: boolean;
  readonly UpdateEphemeralMountsRequest: boolean;
  readonly WriteStreamRequest: boolean;
  readonly GetDiagnosticDataRequest?: boolean | undefined;
}

export interface ExecDefaults {
  /** aks: joined by spaces. coco: empty, if it is there. */
  readonly commands?: readonly string[] | undefined;
  readonly allowed_commands?: readonly (readonly string[])[] | undefined;
  readonly regex: readonly string[];
}

export interface PolicyDeviceClasses {
  readonly vfio: { readonly device_path: string; readonly nvidia: Readonly<Record<string, never>> };
}

export interface PolicyClusterConfig {
  readonly pause_container_image: string;
  readonly guest_pull: boolean;
  readonly emptydir_type: EmptyDirType;
  readonly cgroup_mount_extras_allowed: readonly string[];
}

/** How the coco generation makes an emptyDir: shared with the host, or on a disk of its own, encrypted or not. */
export type EmptyDirType = "shared-fs" | "block-encrypted" | "block-plain";
