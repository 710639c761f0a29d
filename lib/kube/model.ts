import type { KubeObject } from "./manifest.ts";
import type { Position } from "./problem.ts";

/**
 * The parts of the Kubernetes API (core/v1, apps/v1, batch/v1) that decide what a pod may do. Fields that do not are accepted
 * by the readers and left out here; fields that the readers do not know are problems.
 */

/** Kinds that make pods. */
export type WorkloadKind = "Pod" | "Deployment" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "StatefulSet" | "Job" | "CronJob";

export interface ObjectMeta {
  readonly name?: string | undefined;
  readonly generateName?: string | undefined;
  readonly namespace?: string | undefined;
  readonly labels: ReadonlyMap<string, string>;
  readonly annotations: ReadonlyMap<string, string>;
}

/** An object with a pod template; a Pod is its own template. */
export interface Workload {
  readonly kind: "workload";
  readonly object: KubeObject;
  readonly workload: WorkloadKind;
  readonly metadata: ObjectMeta;
  readonly template: PodTemplate;
  /** StatefulSet only: names of the volume claim templates. */
  readonly volumeClaims: readonly string[];
  /** StatefulSet only: the claims themselves, in the order of {@link volumeClaims}. */
  readonly volumeClaimTemplates: readonly ClaimTemplate[];
  /** StatefulSet only: the service that gives its pods their names in DNS. */
  readonly serviceName?: string | undefined;
}

/** What a volume claim asks for. */
export interface ClaimSpec {
  readonly at: Position;
  /** `Block`: a raw device for `volumeDevices`; `Filesystem`: for `volumeMounts`. */
  readonly volumeMode: "Filesystem" | "Block";
  readonly storageClassName?: string | undefined;
  readonly accessModes: readonly string[];
}

/** A claim that a StatefulSet makes for each of its pods. */
export interface ClaimTemplate {
  readonly at: Position;
  readonly name: string;
  readonly claim: ClaimSpec;
}

export interface PodTemplate {
  readonly metadata: ObjectMeta;
  readonly spec: PodSpec;
}

/** A key is in `data` or in `binaryData`, never in both. */
export interface ConfigMap {
  readonly kind: "config-map";
  readonly object: KubeObject;
  readonly metadata: ObjectMeta;
  readonly data: ReadonlyMap<string, string>;
  /** Decoded from base64. Reaches volumes; `envFrom` and `configMapKeyRef` see only {@link data}. */
  readonly binaryData: ReadonlyMap<string, Uint8Array>;
  readonly immutable: boolean;
}

/** Values are decoded from base64; `stringData` stands over `data`, as the API server stores it. */
export interface Secret {
  readonly kind: "secret";
  readonly object: KubeObject;
  readonly metadata: ObjectMeta;
  readonly data: ReadonlyMap<string, Uint8Array>;
  readonly type?: string | undefined;
  readonly immutable: boolean;
}

/** A claim that pods of the file may mount: an input, like a ConfigMap. */
export interface PersistentVolumeClaim {
  readonly kind: "persistent-volume-claim";
  readonly object: KubeObject;
  readonly metadata: ObjectMeta;
  readonly claim: ClaimSpec;
}

/** An object that has no influence on a policy: Service, Namespace, Role… */
export interface PassThrough {
  readonly kind: "pass-through";
  readonly object: KubeObject;
}

/** Any object of a manifest. */
export type Resource = Workload | ConfigMap | Secret | PersistentVolumeClaim | PassThrough;

export interface PodSpec {
  readonly at: Position;
  readonly containers: readonly Container[];
  readonly initContainers: readonly Container[];
  /** Debug containers. The API server takes them only for running pods (`kubectl debug`), so a file that has them says what may be added. */
  readonly ephemeralContainers: readonly EphemeralContainer[];
  readonly volumes: readonly Volume[];
  readonly hostNetwork: boolean;
  readonly shareProcessNamespace: boolean;
  readonly securityContext: PodSecurityContext;
  readonly runtimeClassName?: string | undefined;
  readonly serviceAccountName?: string | undefined;
  /** Undefined: the service account decides (true unless it says otherwise). */
  readonly automountServiceAccountToken?: boolean | undefined;
  /** Undefined means true: `*_SERVICE_HOST` and its like for each service of the namespace. */
  readonly enableServiceLinks?: boolean | undefined;
  readonly restartPolicy?: string | undefined;
  readonly hostname?: string | undefined;
  readonly subdomain?: string | undefined;
  readonly setHostnameAsFQDN: boolean;
  /** Replaces `hostname`, `subdomain` and `setHostnameAsFQDN`. */
  readonly hostnameOverride?: string | undefined;
  /** Lines of the pod's `/etc/hosts`, which the kubelet writes and mounts. */
  readonly hostAliases: readonly HostAlias[];
  readonly dnsPolicy?: string | undefined;
  readonly nodeName?: string | undefined;
  readonly activeDeadlineSeconds?: number | undefined;
  /** Limits and requests of the pod as a whole. */
  readonly resources: Resources;
  /** Names of `resourceClaims`. */
  readonly resourceClaims: readonly string[];
}

export interface HostAlias {
  readonly at: Position;
  readonly ip: string;
  readonly hostnames: readonly string[];
}

export interface PodSecurityContext {
  readonly runAsUser?: number | undefined;
  readonly runAsGroup?: number | undefined;
  readonly runAsNonRoot?: boolean | undefined;
  readonly fsGroup?: number | undefined;
  readonly fsGroupChangePolicy?: "Always" | "OnRootMismatch" | undefined;
  readonly supplementalGroups: readonly number[];
  /** Undefined means `Merge`: groups of the image's `/etc/group` are added. */
  readonly supplementalGroupsPolicy?: "Merge" | "Strict" | undefined;
  readonly sysctls: ReadonlyMap<string, string>;
  readonly seccompProfile?: SeccompProfile | undefined;
  /** Not a field of Kubernetes, but the known tool reads it as the default of the pod's containers. */
  readonly allowPrivilegeEscalation?: boolean | undefined;
  readonly at: Position;
}

export interface SeccompProfile {
  readonly type: "RuntimeDefault" | "Unconfined" | "Localhost";
  readonly localhostProfile?: string | undefined;
}

export interface Container {
  /** Where the container is written. */
  readonly at: Position;
  readonly name: string;
  readonly image: string;
  /** Where the image is written. */
  readonly imageAt: Position;
  readonly command?: readonly string[] | undefined;
  readonly args?: readonly string[] | undefined;
  readonly workingDir?: string | undefined;
  readonly env: readonly EnvVar[];
  readonly envFrom: readonly EnvFrom[];
  readonly volumeMounts: readonly VolumeMount[];
  readonly volumeDevices: readonly VolumeDevice[];
  readonly securityContext: SecurityContext;
  readonly tty?: boolean | undefined;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly terminationMessagePath?: string | undefined;
  readonly terminationMessagePolicy?: "File" | "FallbackToLogsOnError" | undefined;
  /** Init container `Always`: a sidecar that runs as long as the pod. */
  readonly restartPolicy?: string | undefined;
  /** Not a field of Kubernetes, but the known tool reads it for `spec.serviceAccountName` field references. */
  readonly serviceAccountName?: string | undefined;
  /** Commands of exec probes and lifecycle hooks: liveness, readiness, startup, postStart, preStop. */
  readonly execCommands: readonly (readonly string[])[];
  /** Signal that stops the container, of `lifecycle`. */
  readonly stopSignal?: string | undefined;
  readonly ports: readonly ContainerPort[];
  readonly resources: Resources;
  readonly imagePullPolicy?: string | undefined;
}

export interface EphemeralContainer extends Container {
  /** Container whose process namespace it joins. */
  readonly targetContainerName?: string | undefined;
}

export interface ContainerPort {
  readonly containerPort: number;
  readonly name?: string | undefined;
  readonly protocol?: string | undefined;
  readonly hostPort?: number | undefined;
}

/** Quantities as they are written, such as `512Mi`. */
export interface Resources {
  readonly limits: ReadonlyMap<string, string>;
  readonly requests: ReadonlyMap<string, string>;
  /** Names of the pod's `resourceClaims` that are used here. */
  readonly claims: readonly string[];
}

export interface SecurityContext {
  readonly at: Position;
  readonly readOnlyRootFilesystem?: boolean | undefined;
  readonly allowPrivilegeEscalation?: boolean | undefined;
  readonly privileged?: boolean | undefined;
  readonly runAsUser?: number | undefined;
  readonly runAsGroup?: number | undefined;
  readonly runAsNonRoot?: boolean | undefined;
  readonly capabilities: Capabilities;
  readonly seccompProfile?: SeccompProfile | undefined;
}

/** Names as they are written: Kubernetes wants them without `CAP_`. */
export interface Capabilities {
  readonly add: readonly string[];
  readonly drop: readonly string[];
}

export interface EnvVar {
  readonly at: Position;
  readonly name: string;
  readonly value?: string | undefined;
  readonly valueFrom?: EnvSource | undefined;
}

/** Where the value of an environment variable comes from; `at` is the place of the reference. */
export type EnvSource =
  | { readonly kind: "config-map"; readonly at: Position; readonly name: string; readonly key: string; readonly optional: boolean }
  | { readonly kind: "secret"; readonly at: Position; readonly name: string; readonly key: string; readonly optional: boolean }
  | FieldReference
  | ResourceReference;

/** A field of the pod, such as `metadata.name`. */
export interface FieldReference {
  readonly kind: "field";
  readonly at: Position;
  readonly fieldPath: string;
}

/** A limit or request of a container, such as `limits.memory`. */
export interface ResourceReference {
  readonly kind: "resource";
  readonly at: Position;
  readonly resource: string;
  /** Undefined: the container itself; in volumes it is always given. */
  readonly containerName?: string | undefined;
  /** Quantity that the value is divided by, rounded up; undefined means 1. */
  readonly divisor?: string | undefined;
}

/** All keys of a ConfigMap or Secret as environment variables. */
export interface EnvFrom {
  readonly at: Position;
  readonly kind: "config-map" | "secret";
  readonly name: string;
  readonly optional: boolean;
  readonly prefix: string;
}

export interface VolumeMount {
  readonly at: Position;
  readonly name: string;
  readonly mountPath: string;
  readonly readOnly: boolean;
  readonly mountPropagation?: "None" | "HostToContainer" | "Bidirectional" | undefined;
  /** Path below the volume's root that is mounted in its place; relative, without `..`. */
  readonly subPath?: string | undefined;
  /** As {@link subPath}, with `$(NAME)` of the container's environment. */
  readonly subPathExpr?: string | undefined;
  readonly recursiveReadOnly?: "Disabled" | "IfPossible" | "Enabled" | undefined;
}

/** A claim of volume mode `Block`, seen in the container as a device. */
export interface VolumeDevice {
  readonly at: Position;
  readonly name: string;
  readonly devicePath: string;
}

export interface Volume {
  readonly at: Position;
  readonly name: string;
  readonly source: VolumeSource;
}

/** Where a volume comes from. Modes of files are numbers: 0o644 is 420. */
export type VolumeSource =
  | { readonly kind: "emptyDir"; readonly medium: string; readonly sizeLimit?: string | undefined }
  | { readonly kind: "hostPath"; readonly path: string; readonly type: string }
  | ({ readonly kind: "configMap"; readonly defaultMode?: number | undefined } & KeyedSource)
  | ({ readonly kind: "secret"; readonly defaultMode?: number | undefined } & KeyedSource)
  | { readonly kind: "persistentVolumeClaim"; readonly claimName: string; readonly readOnly: boolean }
  | { readonly kind: "azureFile"; readonly secretName: string; readonly shareName: string; readonly readOnly: boolean }
  | { readonly kind: "projected"; readonly sources: readonly ProjectedSource[]; readonly defaultMode?: number | undefined }
  | { readonly kind: "downwardAPI"; readonly items: readonly DownwardItem[]; readonly defaultMode?: number | undefined }
  | {
      readonly kind: "csi";
      readonly driver: string;
      readonly readOnly: boolean;
      readonly fsType?: string | undefined;
      readonly volumeAttributes: ReadonlyMap<string, string>;
      /** Name of the Secret that the driver gets. */
      readonly nodePublishSecret?: string | undefined;
    }
  | { readonly kind: "ephemeral"; readonly claim: ClaimSpec }
  | { readonly kind: "image"; readonly reference: string; readonly pullPolicy?: string | undefined }
  /** `type` is the name of the field: `nfs`, `iscsi`, … A policy cannot describe what it would mount. */
  | { readonly kind: "other"; readonly type: string };

/** Keys of a ConfigMap or Secret as files: all of them if there are no items. */
export interface KeyedSource {
  readonly name?: string | undefined;
  readonly items: readonly VolumeItem[];
  readonly optional: boolean;
}

export interface VolumeItem {
  readonly key: string;
  readonly path: string;
  readonly mode?: number | undefined;
}

/** One source of a projected volume. */
export type ProjectedSource =
  | ({ readonly kind: "configMap"; readonly at: Position } & KeyedSource)
  | ({ readonly kind: "secret"; readonly at: Position } & KeyedSource)
  | { readonly kind: "downwardAPI"; readonly at: Position; readonly items: readonly DownwardItem[] }
  | {
      readonly kind: "serviceAccountToken";
      readonly at: Position;
      readonly audience: string;
      /** Seconds; undefined means an hour. */
      readonly expirationSeconds?: number | undefined;
      readonly path: string;
    }
  | {
      readonly kind: "clusterTrustBundle";
      readonly at: Position;
      readonly name?: string | undefined;
      readonly signerName?: string | undefined;
      readonly optional: boolean;
      readonly path: string;
    }
  | { readonly kind: "podCertificate"; readonly at: Position; readonly signerName: string; readonly paths: readonly string[] };

/** A file that tells the pod about itself. */
export interface DownwardItem {
  readonly at: Position;
  readonly path: string;
  readonly source: FieldReference | ResourceReference;
  readonly mode?: number | undefined;
}
