import type { JsonValue } from "@sealpod/core";

/**
 * The document behind `policy_data := ` (specs/genpolicy.md 3.3). The order of the fields here is the order in which they are
 * built and printed; users' own rules read these names.
 */
export interface PolicyData {
  readonly containers: readonly PolicyContainer[];
  readonly common: PolicyCommon;
  readonly sandbox: { readonly storages: readonly PolicyStorage[] };
  readonly request_defaults: RequestDefaults;
}

/** One container that may run; the first is the pod's pause container. */
export interface PolicyContainer {
  readonly OCI: PolicySpec;
  readonly storages: readonly PolicyStorage[];
  readonly sandbox_pidns: boolean;
  /** Arguments joined by spaces. */
  readonly exec_commands: readonly string[];
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
  readonly User: { readonly UID: number; readonly GID: number; readonly AdditionalGids: readonly number[]; readonly Username: string };
  /** Left out if empty. */
  readonly Args?: readonly string[];
  /** Left out if empty. */
  readonly Env?: readonly string[];
  /** Left out if empty. */
  readonly Cwd?: string;
  readonly Capabilities: PolicyCapabilities;
  readonly NoNewPrivileges: boolean;
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
}

export interface PolicyStorage {
  readonly driver: string;
  readonly driver_options: readonly string[];
  readonly source: string;
  readonly fstype: string;
  readonly options: readonly string[];
  readonly mount_point: string;
  readonly fs_group: JsonValue;
}

export interface PolicyCommon {
  readonly cpath: string;
  readonly sfprefix: string;
  readonly ipv4_a: string;
  readonly ip_p: string;
  readonly svc_name: string;
  readonly dns_label: string;
  readonly default_caps: readonly string[];
  readonly privileged_caps: readonly string[];
}

export interface RequestDefaults {
  readonly CreateContainerRequest: { readonly allow_env_regex: readonly string[] };
  readonly CopyFileRequest: readonly string[];
  readonly ExecProcessRequest: { readonly commands: readonly string[]; readonly regex: readonly string[] };
  readonly ReadStreamRequest: boolean;
  readonly UpdateEphemeralMountsRequest: boolean;
  readonly WriteStreamRequest: boolean;
}
