/**
 * The members of a Kubernetes pod template that reach the node, in the API's own spelling. Anything else in a manifest
 * has no effect on the OCI specs made here.
 */
export interface PodTemplate {
  readonly metadata?: PodMetadata;
  readonly spec: PodSpec;
}

/** `metadata` of a pod template. */
export interface PodMetadata {
  /** Prefix of a name that the API server generates, as the controllers set it. */
  readonly generateName?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** `spec` of a pod. */
export interface PodSpec {
  readonly containers: readonly PodContainer[];
  readonly initContainers?: readonly PodContainer[];
  /** `kubectl debug` adds these to a running pod; in a manifest they start nothing. */
  readonly ephemeralContainers?: readonly { readonly name: string }[];
  readonly volumes?: readonly PodVolume[];
  readonly hostname?: string;
  readonly subdomain?: string;
  readonly setHostnameAsFQDN?: boolean;
  readonly hostnameOverride?: string;
  readonly hostAliases?: readonly HostAlias[];
  readonly hostNetwork?: boolean;
  readonly hostPID?: boolean;
  readonly hostIPC?: boolean;
  readonly hostUsers?: boolean;
  readonly shareProcessNamespace?: boolean;
  readonly enableServiceLinks?: boolean;
  readonly nodeName?: string;
  readonly serviceAccountName?: string;
  readonly automountServiceAccountToken?: boolean;
  readonly resources?: ResourceRequirements;
  readonly resourceClaims?: readonly { readonly name: string }[];
  readonly securityContext?: PodSecurityContext;
}

/** An entry that kubelet adds to /etc/hosts. */
export interface HostAlias {
  readonly ip: string;
  readonly hostnames?: readonly string[];
}

/** Pod-level security context. */
export interface PodSecurityContext {
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly runAsNonRoot?: boolean;
  readonly supplementalGroups?: readonly number[];
  readonly supplementalGroupsPolicy?: string;
  readonly fsGroup?: number;
  readonly sysctls?: readonly { readonly name: string; readonly value: string }[];
  readonly seccompProfile?: SeccompProfile;
}

/** `seccompProfile`: `RuntimeDefault`, `Unconfined` or `Localhost`. */
export interface SeccompProfile {
  readonly type: string;
}

/** One container of a pod. */
export interface PodContainer {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly workingDir?: string;
  readonly env?: readonly EnvVar[];
  readonly envFrom?: readonly EnvFromSource[];
  readonly resources?: ResourceRequirements;
  readonly volumeMounts?: readonly VolumeMount[];
  readonly volumeDevices?: readonly { readonly name: string }[];
  readonly securityContext?: ContainerSecurityContext;
  readonly terminationMessagePath?: string;
  readonly tty?: boolean;
  /** `Always` in an init container: a sidecar. */
  readonly restartPolicy?: string;
}

/** `env[]`. */
export interface EnvVar {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: EnvVarSource;
}

/** `env[].valueFrom`. */
export interface EnvVarSource {
  readonly fieldRef?: FieldSelector;
  readonly resourceFieldRef?: ResourceSelector;
  readonly configMapKeyRef?: KeySelector;
  readonly secretKeyRef?: KeySelector;
}

/** A field of the pod. */
export interface FieldSelector {
  readonly fieldPath: string;
}

/** A limit or request of a container; in volumes the container is always named. */
export interface ResourceSelector {
  readonly resource: string;
  readonly containerName?: string;
  readonly divisor?: string | number;
}

/** A key of a ConfigMap or Secret. */
export interface KeySelector {
  readonly name: string;
  readonly key: string;
  readonly optional?: boolean;
}

/** `envFrom[]`. */
export interface EnvFromSource {
  readonly prefix?: string;
  readonly configMapRef?: ObjectReference;
  readonly secretRef?: ObjectReference;
}

/** A ConfigMap or Secret by name. */
export interface ObjectReference {
  readonly name: string;
  readonly optional?: boolean;
}

/** `resources`; quantities as in the manifest (`"60m"`, `"512Mi"`, or a plain number). */
export interface ResourceRequirements {
  readonly limits?: Readonly<Record<string, string | number>>;
  readonly requests?: Readonly<Record<string, string | number>>;
  readonly claims?: readonly { readonly name: string }[];
}

/** `volumeMounts[]`. */
export interface VolumeMount {
  readonly name: string;
  readonly mountPath: string;
  readonly readOnly?: boolean;
  readonly recursiveReadOnly?: string;
  readonly mountPropagation?: string;
  readonly subPath?: string;
  readonly subPathExpr?: string;
}

/** `volumes[]`; exactly one source is given. Other sources than these are refused by the name of their field. */
export interface PodVolume {
  readonly name: string;
  readonly emptyDir?: { readonly medium?: string };
  readonly hostPath?: { readonly path: string; readonly type?: string };
  readonly configMap?: ConfigMapSource & { readonly defaultMode?: FileMode };
  readonly secret?: { readonly secretName: string; readonly items?: readonly KeyToPath[]; readonly optional?: boolean; readonly defaultMode?: FileMode };
  readonly downwardAPI?: DownwardSource & { readonly defaultMode?: FileMode };
  readonly projected?: { readonly sources?: readonly ProjectedSource[]; readonly defaultMode?: FileMode };
}

/** Permission bits; YAML 1.1's `0644`, which YAML 1.2 does not read as octal, is text. */
export type FileMode = number | string;

/** Keys of a ConfigMap, or of a Secret in a projected volume, as files; all of them without items. */
export interface ConfigMapSource {
  readonly name: string;
  readonly items?: readonly KeyToPath[];
  readonly optional?: boolean;
}

/** Gives a key of a ConfigMap or Secret a file name. */
export interface KeyToPath {
  readonly key: string;
  readonly path: string;
  readonly mode?: FileMode;
}

/** Files that tell the pod about itself. */
export interface DownwardSource {
  readonly items?: readonly DownwardFile[];
}

/** A file with a field of the pod, or a limit or request of one of its containers. */
export interface DownwardFile {
  readonly path: string;
  readonly fieldRef?: FieldSelector;
  readonly resourceFieldRef?: ResourceSelector;
  readonly mode?: FileMode;
}

/** `projected.sources[]`; exactly one is given. */
export interface ProjectedSource {
  readonly configMap?: ConfigMapSource;
  readonly secret?: ConfigMapSource;
  readonly downwardAPI?: DownwardSource;
  readonly serviceAccountToken?: { readonly path: string; readonly audience?: string; readonly expirationSeconds?: number };
}

/** Container-level security context. */
export interface ContainerSecurityContext {
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly runAsNonRoot?: boolean;
  readonly readOnlyRootFilesystem?: boolean;
  readonly allowPrivilegeEscalation?: boolean;
  readonly privileged?: boolean;
  readonly capabilities?: { readonly add?: readonly string[]; readonly drop?: readonly string[] };
  readonly seccompProfile?: SeccompProfile;
}
