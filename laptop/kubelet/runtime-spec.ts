/** The part of an OCI runtime specification (config.json) that containerd's CRI plugin writes for a Linux pod. */
export interface RuntimeSpec {
  readonly ociVersion: string;
  readonly process: RuntimeProcess;
  readonly root: { readonly path: string; readonly readonly: boolean };
  readonly hostname?: string;
  readonly mounts: readonly RuntimeMount[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly linux: RuntimeLinux;
}

/** `process`. */
export interface RuntimeProcess {
  readonly terminal?: boolean;
  readonly user: RuntimeUser;
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly capabilities: RuntimeCapabilities;
  readonly noNewPrivileges: boolean;
  readonly oomScoreAdj: number;
}

/** `process.user`. */
export interface RuntimeUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

/** `process.capabilities`. containerd leaves the ambient and inheritable sets out. */
export interface RuntimeCapabilities {
  readonly bounding: readonly string[];
  readonly effective: readonly string[];
  readonly permitted: readonly string[];
}

/** `mounts[]`. */
export interface RuntimeMount {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** `linux`. */
export interface RuntimeLinux {
  readonly resources: RuntimeResources;
  readonly cgroupsPath: string;
  readonly namespaces: readonly RuntimeNamespace[];
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  /** Set if a mount takes part in the propagation of the host's. */
  readonly rootfsPropagation?: "rslave";
  readonly sysctl?: Readonly<Record<string, string>>;
}

/** `linux.namespaces[]`. */
export interface RuntimeNamespace {
  readonly type: "pid" | "ipc" | "uts" | "mount" | "network" | "cgroup";
  readonly path?: string;
}

/** `linux.resources`. */
export interface RuntimeResources {
  readonly devices: readonly { readonly allow: boolean; readonly access: string }[];
  readonly memory?: { readonly limit: number };
  readonly cpu: { readonly shares: number; readonly quota?: number; readonly period?: number };
}
