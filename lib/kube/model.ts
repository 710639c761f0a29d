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
}

export interface PodTemplate {
  readonly metadata: ObjectMeta;
  readonly spec: PodSpec;
}

export interface ConfigMap {
  readonly kind: "config-map";
  readonly object: KubeObject;
  readonly metadata: ObjectMeta;
  readonly data: ReadonlyMap<string, string>;
}

/** Values are decoded from base64. */
export interface Secret {
  readonly kind: "secret";
  readonly object: KubeObject;
  readonly metadata: ObjectMeta;
  readonly data: ReadonlyMap<string, Uint8Array>;
}

/** An object that has no influence on a policy: Service, Namespace, Role… */
export interface PassThrough {
  readonly kind: "pass-through";
  readonly object: KubeObject;
}

/** Any object of a manifest. */
export type Resource = Workload | ConfigMap | Secret | PassThrough;

export interface PodSpec {
  readonly at: Position;
  readonly containers: readonly Container[];
  readonly initContainers: readonly Container[];
  readonly volumes: readonly Volume[];
  readonly hostNetwork: boolean;
  readonly shareProcessNamespace: boolean;
  readonly securityContext: PodSecurityContext;
  readonly runtimeClassName?: string | undefined;
  readonly serviceAccountName?: string | undefined;
  readonly restartPolicy?: string | undefined;
  readonly hostname?: string | undefined;
}

export interface PodSecurityContext {
  readonly runAsUser?: number | undefined;
  readonly runAsGroup?: number | undefined;
  readonly fsGroup?: number | undefined;
  readonly supplementalGroups: readonly number[];
  readonly sysctls: ReadonlyMap<string, string>;
  readonly at: Position;
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
  readonly volumeDevices: readonly string[];
  readonly securityContext: SecurityContext;
  readonly tty?: boolean | undefined;
  readonly stdin: boolean;
  readonly terminationMessagePath?: string | undefined;
  /** Not a field of Kubernetes, but the known tool reads it for `spec.serviceAccountName` field references. */
  readonly serviceAccountName?: string | undefined;
  /** Commands of exec probes and lifecycle hooks: liveness, readiness, startup, postStart, preStop. */
  readonly execCommands: readonly (readonly string[])[];
  readonly ports: readonly ContainerPort[];
  readonly resources: Resources;
  readonly imagePullPolicy?: string | undefined;
}

export interface ContainerPort {
  readonly containerPort: number;
  readonly name?: string | undefined;
  readonly protocol?: string | undefined;
}

/** Quantities as they are written, such as `512Mi`. */
export interface Resources {
  readonly limits: ReadonlyMap<string, string>;
  readonly requests: ReadonlyMap<string, string>;
}

export interface SecurityContext {
  readonly readOnlyRootFilesystem?: boolean | undefined;
  readonly allowPrivilegeEscalation?: boolean | undefined;
  readonly privileged?: boolean | undefined;
  readonly runAsUser?: number | undefined;
  readonly runAsGroup?: number | undefined;
  readonly capabilities: Capabilities;
}

/** Names without `CAP_`. */
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

/** Where the value of an environment variable comes from. */
export type EnvSource =
  | { readonly kind: "config-map"; readonly name: string; readonly key: string; readonly optional: boolean }
  | { readonly kind: "secret"; readonly name: string; readonly key: string; readonly optional: boolean }
  | { readonly kind: "field"; readonly fieldPath: string }
  | { readonly kind: "resource"; readonly resource: string };

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
  readonly mountPropagation?: string | undefined;
  readonly subPathExpr?: string | undefined;
}

export interface Volume {
  readonly at: Position;
  readonly name: string;
  readonly source: VolumeSource;
}

/** Kinds of volumes that a policy can describe. */
export type VolumeSource =
  | { readonly kind: "emptyDir"; readonly medium: string }
  | { readonly kind: "hostPath"; readonly path: string }
  | { readonly kind: "configMap"; readonly name?: string | undefined; readonly items: readonly VolumeItem[]; readonly optional: boolean }
  | { readonly kind: "secret"; readonly name?: string | undefined; readonly items: readonly VolumeItem[]; readonly optional: boolean }
  | { readonly kind: "persistentVolumeClaim"; readonly claimName: string }
  | { readonly kind: "azureFile" }
  | { readonly kind: "projected" }
  | { readonly kind: "downwardAPI" };

export interface VolumeItem {
  readonly key: string;
  readonly path: string;
}
