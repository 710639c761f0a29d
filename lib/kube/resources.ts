import { encodeUtf8, fromBase64, messageOf } from "@sealpod/core";
import { KubeError } from "./errors.ts";
import { boolean, Cursor, type Fields, integer, listOf, type ProblemSink, type Read, text, textMap, unixId } from "./fields.ts";
import type { KubeObject, Manifest } from "./manifest.ts";
import type {
  Capabilities,
  ConfigMap,
  Container,
  ContainerPort,
  EnvFrom,
  EnvSource,
  EnvVar,
  ObjectMeta,
  PodSecurityContext,
  PodSpec,
  PodTemplate,
  Resource,
  Resources,
  Secret,
  SecurityContext,
  Volume,
  VolumeItem,
  VolumeMount,
  VolumeSource,
  Workload,
  WorkloadKind,
} from "./model.ts";
import type { Problem } from "./problem.ts";
import { valueOf } from "./yaml-node.ts";

/** Options of {@link readResources}. */
export interface ReadOptions {
  /** Report unknown fields as warnings. */
  readonly silent?: boolean;
}

/** What a manifest holds. */
export interface ResourceList {
  readonly resources: readonly Resource[];
  /** Unknown fields that `silent` let pass. */
  readonly warnings: readonly Problem[];
}

/** Kinds that are kept as they are: nothing in them reaches the policy. */
const PASS_THROUGH_KINDS: ReadonlySet<string> = new Set([
  "ClusterRole",
  "ClusterRoleBinding",
  "LimitRange",
  "Namespace",
  "PersistentVolume",
  "PersistentVolumeClaim",
  "PodDisruptionBudget",
  "PriorityClass",
  "ResourceQuota",
  "Role",
  "RoleBinding",
  "Service",
  "ServiceAccount",
]);

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

/** Fields of a workload's `spec` beside the template that do not reach the policy. */
const SPEC_FIELDS: Readonly<Record<Exclude<WorkloadKind, "Pod">, readonly string[]>> = {
  Deployment: ["minReadySeconds", "paused", "progressDeadlineSeconds", "replicas", "revisionHistoryLimit", "selector", "strategy"],
  DaemonSet: ["selector", "minReadySeconds", "updateStrategy", "revisionHistoryLimit"],
  ReplicaSet: ["selector", "replicas", "minReadySeconds"],
  ReplicationController: ["replicas", "selector", "minReadySeconds"],
  StatefulSet: [
    "serviceName",
    "replicas",
    "selector",
    "updateStrategy",
    "revisionHistoryLimit",
    "minReadySeconds",
    "podManagementPolicy",
    "persistentVolumeClaimRetentionPolicy",
    "ordinals",
  ],
  Job: [
    "activeDeadlineSeconds",
    "backoffLimit",
    "backoffLimitPerIndex",
    "completionMode",
    "completions",
    "managedBy",
    "manualSelector",
    "maxFailedIndexes",
    "parallelism",
    "podFailurePolicy",
    "podReplacementPolicy",
    "selector",
    "successPolicy",
    "suspend",
    "ttlSecondsAfterFinished",
  ],
  CronJob: ["concurrencyPolicy", "failedJobsHistoryLimit", "schedule", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "suspend", "timeZone"],
};

/** True for kinds that make pods. */
export function isWorkloadKind(kind: string): kind is WorkloadKind {
  return Object.hasOwn(TEMPLATE_PATHS, kind);
}

/** Names from the object to its pod template: empty for a Pod. Undefined for kinds that make no pods. */
export function podTemplatePath(kind: string): readonly string[] | undefined {
  return isWorkloadKind(kind) ? TEMPLATE_PATHS[kind] : undefined;
}

/**
 * Reads all objects of a manifest into the types of `model.ts`. Unknown fields, wrong types, missing fields and unsupported
 * kinds are collected and thrown as one error.
 * @throws {KubeError} ERR_KUBE_MANIFEST with every problem
 */
export function readResources(manifest: Manifest, options: ReadOptions = {}): ResourceList {
  const errors: Problem[] = [];
  const warnings: Problem[] = [];
  const sink: ProblemSink = {
    positionOf: (offset) => manifest.positionOf(offset),
    report: (problem) => void (options.silent === true && problem.kind === "unknown-field" ? warnings : errors).push(problem),
  };
  const resources = manifest.objects.flatMap((object) => readResource(object, sink) ?? []);
  for (const list of [errors, warnings]) list.sort((a, b) => a.position.line - b.position.line || a.position.column - b.position.column);
  if (errors.length > 0) {
    const unknown = errors.every((problem) => problem.kind === "unknown-field");
    throw new KubeError("ERR_KUBE_MANIFEST", errors, unknown ? { hint: "Remove these fields, or pass -s to leave them out of the policy." } : {});
  }
  return { resources, warnings };
}

function readResource(object: KubeObject, sink: ProblemSink): Resource | undefined {
  const at = new Cursor(object.node, object.path, sink);
  if (PASS_THROUGH_KINDS.has(object.kind)) return { kind: "pass-through", object };
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("apiVersion", "kind", "status");
  const resource = isWorkloadKind(object.kind)
    ? readWorkload(object, object.kind, fields)
    : object.kind === "ConfigMap"
      ? readConfigMap(object, fields)
      : object.kind === "Secret"
        ? readSecret(object, fields)
        : undefined;
  if (resource === undefined) {
    const kindNode = valueOf(object.node, "kind") ?? object.node;
    at.at(kindNode, "kind").refuse(
      "unsupported-kind",
      `kind ${JSON.stringify(object.kind)} is not supported: expected a workload (${Object.keys(TEMPLATE_PATHS).join(", ")}), List, ConfigMap, Secret, or one of ${[...PASS_THROUGH_KINDS].join(", ")}`,
    );
    return undefined;
  }
  fields.done();
  return resource;
}

function readWorkload(object: KubeObject, workload: WorkloadKind, fields: Fields): Workload {
  if (workload === "Pod") {
    const metadata = fields.optional("metadata", objectMeta) ?? NO_META;
    const spec = fields.required("spec", podSpec, emptyPodSpec(fields.cursor));
    return { kind: "workload", object, workload, metadata, template: { metadata, spec }, volumeClaims: [] };
  }
  const metadata = fields.optional("metadata", objectMeta) ?? NO_META;
  let volumeClaims: readonly string[] = [];
  const missing: PodTemplate = { metadata: NO_META, spec: emptyPodSpec(fields.cursor) };
  const template = fields.required<PodTemplate>(
    "spec",
    (at) => {
      const spec = at.fields();
      if (spec === undefined) return undefined;
      spec.ignore(...SPEC_FIELDS[workload]);
      if (workload === "StatefulSet") volumeClaims = spec.list("volumeClaimTemplates", volumeClaimName);
      const found =
        workload === "CronJob" ? spec.required<PodTemplate>("jobTemplate", jobTemplate, missing) : spec.required<PodTemplate>("template", podTemplate, missing);
      spec.done();
      return found;
    },
    missing,
  );
  return { kind: "workload", object, workload, metadata, template, volumeClaims };
}

const NO_META: ObjectMeta = { labels: new Map(), annotations: new Map() };

const objectMeta: Read<ObjectMeta> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("uid", "creationTimestamp", "resourceVersion", "generation", "managedFields", "ownerReferences", "finalizers", "selfLink");
  const metadata: ObjectMeta = {
    name: fields.optional("name", text),
    generateName: fields.optional("generateName", text),
    namespace: fields.optional("namespace", text),
    labels: fields.optional("labels", textMap) ?? new Map(),
    annotations: fields.optional("annotations", textMap) ?? new Map(),
  };
  fields.done();
  return metadata;
};

const podTemplate: Read<PodTemplate> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const metadata = fields.optional("metadata", objectMeta) ?? NO_META;
  const spec = fields.required("spec", podSpec, emptyPodSpec(at));
  fields.done();
  return { metadata, spec };
};

const jobTemplate: Read<PodTemplate> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.optional("metadata", objectMeta);
  const missing: PodTemplate = { metadata: NO_META, spec: emptyPodSpec(at) };
  const template = fields.required<PodTemplate>(
    "spec",
    (specAt) => {
      const spec = specAt.fields();
      if (spec === undefined) return undefined;
      spec.ignore(...SPEC_FIELDS.Job);
      const found = spec.required<PodTemplate>("template", podTemplate, missing);
      spec.done();
      return found;
    },
    missing,
  );
  fields.done();
  return template;
};

const volumeClaimName: Read<string> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("apiVersion", "kind", "spec", "status");
  const metadata = fields.required("metadata", objectMeta, NO_META);
  fields.done();
  return metadata.name ?? at.refuse("missing-field", "no metadata.name");
};

function emptyPodSpec(at: Cursor): PodSpec {
  return {
    at: at.position,
    containers: [],
    initContainers: [],
    volumes: [],
    hostNetwork: false,
    shareProcessNamespace: false,
    securityContext: { supplementalGroups: [], sysctls: new Map(), at: at.position },
  };
}

const podSpec: Read<PodSpec> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore(
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resources",
    "schedulerName",
    "schedulingGates",
    "serviceAccount",
    "setHostnameAsFQDN",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
  );
  for (const name of ["hostPID", "hostIPC"]) {
    fields.optional(name, (field) =>
      boolean(field) === true ? field.refuse("bad-value", "a confidential pod cannot share namespaces with its host") : undefined,
    );
  }
  const spec: PodSpec = {
    at: at.position,
    containers: fields.required("containers", listOf(container), []),
    initContainers: fields.list("initContainers", container),
    volumes: fields.list("volumes", volume),
    hostNetwork: fields.optional("hostNetwork", boolean) ?? false,
    shareProcessNamespace: fields.optional("shareProcessNamespace", boolean) ?? false,
    securityContext: fields.optional("securityContext", podSecurityContext) ?? emptyPodSpec(at).securityContext,
    runtimeClassName: fields.optional("runtimeClassName", text),
    serviceAccountName: fields.optional("serviceAccountName", text),
    restartPolicy: fields.optional("restartPolicy", text),
    hostname: fields.optional("hostname", text),
  };
  fields.done();
  // Enforcement picks the policy container by name: two of one name could stand in for each other.
  const names = new Set<string>();
  for (const { name, at: position } of [...spec.initContainers, ...spec.containers]) {
    if (name !== "" && names.has(name)) at.refuse("bad-value", `two containers are named ${JSON.stringify(name)}`, position);
    names.add(name);
  }
  return spec;
};

const podSecurityContext: Read<PodSecurityContext> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("runAsNonRoot", "fsGroupChangePolicy", "seccompProfile", "supplementalGroupsPolicy");
  const sysctls = new Map<string, string>();
  fields.list("sysctls", (item) => {
    const pair = item.fields();
    if (pair === undefined) return undefined;
    sysctls.set(pair.required("name", text, ""), pair.required("value", text, ""));
    pair.done();
    return undefined;
  });
  const context: PodSecurityContext = {
    runAsUser: fields.optional("runAsUser", unixId),
    runAsGroup: fields.optional("runAsGroup", unixId),
    fsGroup: fields.optional("fsGroup", unixId),
    supplementalGroups: fields.list("supplementalGroups", unixId),
    sysctls,
    at: at.position,
  };
  fields.done();
  return context;
};

/** DNS-1123 label: the API server takes nothing else, and the policy's reasons quote the name. */
const CONTAINER_NAME = /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/;

const container: Read<Container> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("restartPolicy", "terminationMessagePolicy", "stdinOnce", "resizePolicy");
  let imageAt = at.position;
  const nameOf: Read<string> = (field) => {
    const name = text(field);
    if (name === undefined || CONTAINER_NAME.test(name)) return name;
    return field.refuse("bad-value", `container name ${JSON.stringify(name)} is not a DNS-1123 label (lower-case letters, digits and -)`);
  };
  const imageOf: Read<string> = (field) => {
    imageAt = field.position;
    return text(field);
  };
  const probes = [fields.optional("livenessProbe", probe), fields.optional("readinessProbe", probe), fields.optional("startupProbe", probe)];
  const hooks = fields.optional("lifecycle", lifecycle) ?? [];
  const result: Container = {
    at: at.position,
    name: fields.required("name", nameOf, ""),
    image: fields.required("image", imageOf, ""),
    imageAt,
    command: fields.optional("command", listOf(text)),
    args: fields.optional("args", listOf(text)),
    workingDir: fields.optional("workingDir", text),
    env: fields.list("env", envVar),
    envFrom: fields.list("envFrom", envFrom),
    volumeMounts: fields.list("volumeMounts", volumeMount),
    volumeDevices: fields.list("volumeDevices", volumeDevice),
    securityContext: fields.optional("securityContext", securityContext) ?? { capabilities: { add: [], drop: [] } },
    tty: fields.optional("tty", boolean),
    stdin: fields.optional("stdin", boolean) ?? false,
    terminationMessagePath: fields.optional("terminationMessagePath", text),
    serviceAccountName: fields.optional("serviceAccountName", text),
    execCommands: [...probes, ...hooks].filter((command) => command !== undefined && command.length > 0) as (readonly string[])[],
    ports: fields.list("ports", containerPort),
    resources: fields.optional("resources", resources) ?? { limits: new Map(), requests: new Map() },
    imagePullPolicy: fields.optional("imagePullPolicy", text),
  };
  fields.done();
  return result;
};

const containerPort: Read<ContainerPort> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("hostIP", "hostPort");
  const port: ContainerPort = {
    containerPort: fields.required("containerPort", integer(1, 65535), 1),
    name: fields.optional("name", text),
    protocol: fields.optional("protocol", text),
  };
  fields.done();
  return port;
};

const resources: Read<Resources> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const result: Resources = { limits: fields.optional("limits", textMap) ?? new Map(), requests: fields.optional("requests", textMap) ?? new Map() };
  fields.done();
  return result;
};

const execCommand: Read<readonly string[]> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const command = fields.list("command", text);
  fields.done();
  return command;
};

/** The command of an exec probe; empty for the other sorts. */
const probe: Read<readonly string[]> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore(
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "terminationGracePeriodSeconds",
    "failureThreshold",
    "successThreshold",
    "httpGet",
    "tcpSocket",
    "grpc",
  );
  const command = fields.optional("exec", execCommand) ?? [];
  fields.done();
  return command;
};

const lifecycle: Read<readonly (readonly string[])[]> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const handler: Read<readonly string[]> = (field) => {
    const hook = field.fields();
    if (hook === undefined) return undefined;
    hook.ignore("httpGet", "sleep", "tcpSocket");
    const command = hook.optional("exec", execCommand) ?? [];
    hook.done();
    return command;
  };
  const commands = [fields.optional("postStart", handler) ?? [], fields.optional("preStop", handler) ?? []];
  fields.ignore("stopSignal");
  fields.done();
  return commands;
};

const securityContext: Read<SecurityContext> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("seccompProfile", "runAsNonRoot");
  const context: SecurityContext = {
    readOnlyRootFilesystem: fields.optional("readOnlyRootFilesystem", boolean),
    allowPrivilegeEscalation: fields.optional("allowPrivilegeEscalation", boolean),
    privileged: fields.optional("privileged", boolean),
    runAsUser: fields.optional("runAsUser", unixId),
    runAsGroup: fields.optional("runAsGroup", unixId),
    capabilities: fields.optional("capabilities", capabilities) ?? { add: [], drop: [] },
  };
  fields.done();
  return context;
};

const capabilities: Read<Capabilities> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const result: Capabilities = { add: fields.list("add", text), drop: fields.list("drop", text) };
  fields.done();
  return result;
};

const envVar: Read<EnvVar> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const nameOf: Read<string> = (field) => {
    const name = text(field);
    // A name with '=' would move the border between name and value in the policy's "NAME=VALUE" strings.
    return name === undefined || /^[^=\0]+$/.test(name) ? name : field.refuse("bad-value", "a variable name is not empty and has no '='");
  };
  const result: EnvVar = {
    at: at.position,
    name: fields.required("name", nameOf, ""),
    value: fields.optional("value", text),
    valueFrom: fields.optional("valueFrom", envSource),
  };
  fields.done();
  return result;
};

const envSource: Read<EnvSource> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const keyRef =
    (kind: "config-map" | "secret"): Read<EnvSource> =>
    (refAt) => {
      const ref = refAt.fields();
      if (ref === undefined) return undefined;
      const source: EnvSource = {
        kind,
        name: ref.required("name", text, ""),
        key: ref.required("key", text, ""),
        optional: ref.optional("optional", boolean) ?? false,
      };
      ref.done();
      return source;
    };
  const fieldRef: Read<EnvSource> = (refAt) => {
    const ref = refAt.fields();
    if (ref === undefined) return undefined;
    ref.ignore("apiVersion");
    const source: EnvSource = { kind: "field", fieldPath: ref.required("fieldPath", text, "") };
    ref.done();
    return source;
  };
  const resourceRef: Read<EnvSource> = (refAt) => {
    const ref = refAt.fields();
    if (ref === undefined) return undefined;
    ref.ignore("containerName", "divisor");
    const source: EnvSource = { kind: "resource", resource: ref.required("resource", text, "") };
    ref.done();
    return source;
  };
  const sources = [
    fields.optional("configMapKeyRef", keyRef("config-map")),
    fields.optional("secretKeyRef", keyRef("secret")),
    fields.optional("fieldRef", fieldRef),
    fields.optional("resourceFieldRef", resourceRef),
  ].filter((source) => source !== undefined);
  fields.done();
  if (sources.length > 1) return at.refuse("bad-value", "more than one source");
  return sources[0] ?? at.refuse("missing-field", "no configMapKeyRef, secretKeyRef, fieldRef or resourceFieldRef");
};

const envFrom: Read<EnvFrom> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const ref: Read<{ name: string; optional: boolean }> = (refAt) => {
    const inner = refAt.fields();
    if (inner === undefined) return undefined;
    const result = { name: inner.required("name", text, ""), optional: inner.optional("optional", boolean) ?? false };
    inner.done();
    return result;
  };
  const configMap = fields.optional("configMapRef", ref);
  const secret = fields.optional("secretRef", ref);
  const prefix = fields.optional("prefix", text) ?? "";
  fields.done();
  if (configMap !== undefined && secret === undefined) return { at: at.position, kind: "config-map", prefix, ...configMap };
  if (secret !== undefined && configMap === undefined) return { at: at.position, kind: "secret", prefix, ...secret };
  return at.refuse("missing-field", "expected one of configMapRef and secretRef");
};

const volumeMount: Read<VolumeMount> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.optional("subPath", (field) =>
    field.refuse("unknown-field", "subPath is not supported: the guest gets a copy of the whole volume (kata-containers/runtime issue 2812)"),
  );
  const mount: VolumeMount = {
    at: at.position,
    name: fields.required("name", text, ""),
    mountPath: fields.required("mountPath", text, ""),
    readOnly: fields.optional("readOnly", boolean) ?? false,
    mountPropagation: fields.optional("mountPropagation", text),
    subPathExpr: fields.optional("subPathExpr", text),
  };
  fields.done();
  return mount;
};

const volumeDevice: Read<string> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("name");
  const path = fields.required("devicePath", text, "");
  fields.done();
  return path;
};

const volume: Read<Volume> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  const name = fields.required("name", text, "");
  const sources = [
    fields.optional("emptyDir", emptyDir),
    fields.optional("hostPath", hostPath),
    fields.optional("configMap", keyedVolume("configMap", "name")),
    fields.optional("secret", keyedVolume("secret", "secretName")),
    fields.optional("persistentVolumeClaim", claim),
    fields.optional("azureFile", (): VolumeSource => ({ kind: "azureFile" })),
    fields.optional("projected", (): VolumeSource => ({ kind: "projected" })),
    fields.optional("downwardAPI", (): VolumeSource => ({ kind: "downwardAPI" })),
  ].filter((source) => source !== undefined);
  fields.done();
  if (sources.length > 1) return at.refuse("bad-value", "more than one volume source");
  const source = sources[0];
  return source === undefined ? at.refuse("missing-field", "no supported volume source") : { at: at.position, name, source };
};

const emptyDir: Read<VolumeSource> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("sizeLimit");
  const source: VolumeSource = { kind: "emptyDir", medium: fields.optional("medium", text) ?? "" };
  fields.done();
  return source;
};

const hostPath: Read<VolumeSource> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("type");
  const source: VolumeSource = { kind: "hostPath", path: fields.required("path", text, "") };
  fields.done();
  return source;
};

const claim: Read<VolumeSource> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("readOnly");
  const source: VolumeSource = { kind: "persistentVolumeClaim", claimName: fields.required("claimName", text, "") };
  fields.done();
  return source;
};

function keyedVolume(kind: "configMap" | "secret", nameField: string): Read<VolumeSource> {
  return (at) => {
    const fields = at.fields();
    if (fields === undefined) return undefined;
    fields.ignore("defaultMode");
    const source: VolumeSource = {
      kind,
      name: fields.optional(nameField, text),
      items: fields.list("items", volumeItem),
      optional: fields.optional("optional", boolean) ?? false,
    };
    fields.done();
    return source;
  };
}

const volumeItem: Read<VolumeItem> = (at) => {
  const fields = at.fields();
  if (fields === undefined) return undefined;
  fields.ignore("mode");
  const item: VolumeItem = { key: fields.required("key", text, ""), path: fields.required("path", text, "") };
  fields.done();
  return item;
};

function readConfigMap(object: KubeObject, fields: Fields): ConfigMap {
  fields.ignore("binaryData", "immutable");
  return {
    kind: "config-map",
    object,
    metadata: fields.optional("metadata", objectMeta) ?? NO_META,
    data: fields.optional("data", textMap) ?? new Map(),
  };
}

function readSecret(object: KubeObject, fields: Fields): Secret {
  fields.ignore("immutable", "type");
  const metadata = fields.optional("metadata", objectMeta) ?? NO_META;
  const data = new Map<string, Uint8Array>();
  fields.optional("data", (at) => {
    if (at.node.kind !== "mapping") return at.refuse("wrong-type", "expected a mapping of base64 text");
    for (const { key, value } of at.node.entries) {
      const item = at.at(value, key.text);
      const encoded = text(item);
      if (encoded === undefined) continue;
      try {
        data.set(key.text, fromBase64(encoded.replaceAll(/[\r\n]/g, "")));
      } catch (error) {
        item.refuse("bad-value", messageOf(error));
      }
    }
    return undefined;
  });
  // The API server writes stringData over data (core/v1 Secret).
  for (const [key, value] of fields.optional("stringData", textMap) ?? []) data.set(key, encodeUtf8(value));
  return { kind: "secret", object, metadata, data };
}
