import type { WorkloadKind } from "./model.ts";

/** Where each kind of workload keeps its pod template. */
const TEMPLATE_PATHS: Readonly<Record<WorkloadKind, readonly string[]>> = {
  Pod: [],
  Deployment: ["spec", "template"],
  DaemonSet: ["spec", "template"],
  ReplicaSet: ["spec", "template"],
  ReplicationController: ["spec", "template"],
  StatefulSet: ["spec", "template"],
  Job: ["spec", "template"],
  CronJob: ["spec", "jobTemplate", "spec", "template"],
};

/** Kinds that make pods. */
export const WORKLOAD_KINDS: readonly WorkloadKind[] = Object.keys(TEMPLATE_PATHS) as WorkloadKind[];

/** API groups by kind: what the known tool reads or lets pass, and what else Kubernetes itself has. The core group is "". */
const GROUPS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    "": "Pod ReplicationController ConfigMap Secret PersistentVolumeClaim PersistentVolume Service ServiceAccount Namespace LimitRange ResourceQuota Endpoints Event Node PodTemplate List",
    "admissionregistration.k8s.io":
      "MutatingWebhookConfiguration ValidatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding MutatingAdmissionPolicy MutatingAdmissionPolicyBinding",
    "apiextensions.k8s.io": "CustomResourceDefinition",
    "apiregistration.k8s.io": "APIService",
    apps: "Deployment DaemonSet ReplicaSet StatefulSet ControllerRevision",
    autoscaling: "HorizontalPodAutoscaler",
    batch: "Job CronJob",
    "certificates.k8s.io": "CertificateSigningRequest ClusterTrustBundle",
    "coordination.k8s.io": "Lease",
    "discovery.k8s.io": "EndpointSlice",
    "flowcontrol.apiserver.k8s.io": "FlowSchema PriorityLevelConfiguration",
    "networking.k8s.io": "Ingress IngressClass NetworkPolicy IPAddress ServiceCIDR",
    "node.k8s.io": "RuntimeClass",
    policy: "PodDisruptionBudget",
    "rbac.authorization.k8s.io": "ClusterRole ClusterRoleBinding Role RoleBinding",
    "resource.k8s.io": "DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice",
    "scheduling.k8s.io": "PriorityClass",
    "storage.k8s.io": "CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass",
  }).flatMap(([group, kinds]) => kinds.split(" ").map((kind) => [kind, group] as const)),
);

/** Groups that kinds have moved out of. */
const FORMER_GROUPS: ReadonlySet<string> = new Set(["extensions"]);

/** True for kinds that make pods. */
function isWorkloadKind(kind: string): kind is WorkloadKind {
  return Object.hasOwn(TEMPLATE_PATHS, kind);
}

/** Names from the object to its pod template: empty for a Pod. Undefined for kinds that make no pods. */
export function podTemplatePath(kind: string): readonly string[] | undefined {
  return isWorkloadKind(kind) ? TEMPLATE_PATHS[kind] : undefined;
}

/** The part of an `apiVersion` before the slash; empty for the core group. */
export function groupOf(apiVersion: string): string {
  const slash = apiVersion.indexOf("/");
  return slash === -1 ? "" : apiVersion.slice(0, slash);
}

/** The group that Kubernetes has the kind in, if it is a kind of Kubernetes. */
export function expectedGroup(kind: string): string | undefined {
  return GROUPS.get(kind);
}

/**
 * True if the object is what Kubernetes calls by this kind, and not one of somebody's own API, such as the Service of
 * `serving.knative.dev`. The known tool does not look at `apiVersion` at all, so an odd one of no foreign group is let pass.
 */
export function isKubernetesKind(kind: string, apiVersion: string): boolean {
  const expected = GROUPS.get(kind);
  if (expected === undefined) return false;
  const group = groupOf(apiVersion);
  return group === expected || FORMER_GROUPS.has(group) || !group.includes(".") || group.endsWith(".k8s.io");
}

/** The kind of the items of a typed list such as `PodList`; undefined if it is no list. Those of other people's APIs are lists if they have items. */
export function itemKindOf(kind: string, hasItems: boolean): string | undefined {
  const item = kind.endsWith("List") ? kind.slice(0, -"List".length) : "";
  return item !== "" && item !== "List" && (hasItems || GROUPS.has(item)) ? item : undefined;
}
