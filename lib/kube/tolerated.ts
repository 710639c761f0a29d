/**
 * Parts of the API that do not reach a policy. They are read for typing errors alone, so that a field in the wrong place is
 * found wherever it is.
 */
import { type FieldReaders, listOf, type Read, record } from "./fields.ts";
import type { WorkloadKind } from "./model.ts";
import { boolean, count, integer, numberOrText, oneOf, portNumber, seconds, signed, text, textMap } from "./values.ts";

/** meta/v1 LabelSelector. */
export const labelSelector: Read<true> = record({
  matchLabels: textMap,
  matchExpressions: listOf(record({ key: text, operator: text, values: listOf(text) })),
});

/** core/v1 LocalObjectReference. */
const localReference: Read<true> = record({ name: text });

const nodeTerm = record({
  matchExpressions: listOf(record({ key: text, operator: text, values: listOf(text) })),
  matchFields: listOf(record({ key: text, operator: text, values: listOf(text) })),
});

const podTerm = record({
  labelSelector,
  namespaceSelector: labelSelector,
  namespaces: listOf(text),
  topologyKey: text,
  matchLabelKeys: listOf(text),
  mismatchLabelKeys: listOf(text),
});

const podAffinity = record({
  requiredDuringSchedulingIgnoredDuringExecution: listOf(podTerm),
  preferredDuringSchedulingIgnoredDuringExecution: listOf(record({ weight: signed, podAffinityTerm: podTerm })),
});

/** Fields of core/v1 PodSpec about scheduling, names and life times. */
export const POD_FIELDS: FieldReaders = {
  affinity: record({
    nodeAffinity: record({
      requiredDuringSchedulingIgnoredDuringExecution: record({ nodeSelectorTerms: listOf(nodeTerm) }),
      preferredDuringSchedulingIgnoredDuringExecution: listOf(record({ weight: signed, preference: nodeTerm })),
    }),
    podAffinity,
    podAntiAffinity: podAffinity,
  }),
  dnsConfig: record({ nameservers: listOf(text), searches: listOf(text), options: listOf(record({ name: text, value: text })) }),
  imagePullSecrets: listOf(localReference),
  nodeSelector: textMap,
  overhead: textMap,
  preemptionPolicy: text,
  priority: signed,
  priorityClassName: text,
  readinessGates: listOf(record({ conditionType: text })),
  schedulerName: text,
  schedulingGates: listOf(record({ name: text })),
  schedulingGroup: record({ podGroupName: text }),
  workloadRef: record({ name: text, podGroup: text, podGroupReplicaKey: text }),
  terminationGracePeriodSeconds: integer(-1, Number.MAX_SAFE_INTEGER),
  tolerations: listOf(
    record({ key: text, operator: text, value: text, effect: text, tolerationSeconds: integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER) }),
  ),
  topologySpreadConstraints: listOf(
    record({
      labelSelector,
      matchLabelKeys: listOf(text),
      maxSkew: count,
      minDomains: count,
      nodeAffinityPolicy: text,
      nodeTaintsPolicy: text,
      topologyKey: text,
      whenUnsatisfiable: text,
    }),
  ),
};

/** Fields of core/v1 Container that only the kubelet looks at. */
export const CONTAINER_FIELDS: FieldReaders = {
  resizePolicy: listOf(record({ resourceName: text, restartPolicy: text })),
  restartPolicyRules: listOf(record({ action: text, exitCodes: record({ operator: text, values: listOf(signed) }) })),
};

/** Times and counts of core/v1 Probe. */
export const PROBE_FIELDS: FieldReaders = {
  initialDelaySeconds: count,
  timeoutSeconds: count,
  periodSeconds: count,
  successThreshold: count,
  failureThreshold: count,
  terminationGracePeriodSeconds: seconds,
};

/** Handlers of probes and hooks that the kubelet runs outside of the container. */
export const HANDLERS: FieldReaders = {
  httpGet: record({ port: numberOrText, host: text, path: text, scheme: oneOf("HTTP", "HTTPS"), httpHeaders: listOf(record({ name: text, value: text })) }),
  tcpSocket: record({ port: numberOrText, host: text }),
  grpc: record({ port: portNumber, service: text }),
  sleep: record({ seconds }),
};

const rollingUpdate = record({ maxSurge: numberOrText, maxUnavailable: numberOrText });

/** Fields of each workload's `spec` beside its template. */
export const SPEC_FIELDS: Readonly<Record<Exclude<WorkloadKind, "Pod">, FieldReaders>> = {
  Deployment: {
    minReadySeconds: count,
    paused: boolean,
    progressDeadlineSeconds: count,
    replicas: count,
    revisionHistoryLimit: count,
    selector: labelSelector,
    strategy: record({ type: oneOf("RollingUpdate", "Recreate"), rollingUpdate }),
  },
  DaemonSet: {
    minReadySeconds: count,
    revisionHistoryLimit: count,
    selector: labelSelector,
    updateStrategy: record({ type: oneOf("RollingUpdate", "OnDelete"), rollingUpdate }),
  },
  ReplicaSet: { minReadySeconds: count, replicas: count, selector: labelSelector },
  ReplicationController: { minReadySeconds: count, replicas: count, selector: textMap },
  StatefulSet: {
    minReadySeconds: count,
    ordinals: record({ start: count }),
    persistentVolumeClaimRetentionPolicy: record({ whenDeleted: oneOf("Retain", "Delete"), whenScaled: oneOf("Retain", "Delete") }),
    podManagementPolicy: oneOf("OrderedReady", "Parallel"),
    replicas: count,
    revisionHistoryLimit: count,
    selector: labelSelector,
    updateStrategy: record({ type: oneOf("RollingUpdate", "OnDelete"), rollingUpdate: record({ maxUnavailable: numberOrText, partition: count }) }),
  },
  Job: {
    activeDeadlineSeconds: seconds,
    backoffLimit: count,
    backoffLimitPerIndex: count,
    completionMode: oneOf("NonIndexed", "Indexed"),
    completions: count,
    managedBy: text,
    manualSelector: boolean,
    maxFailedIndexes: count,
    parallelism: count,
    podFailurePolicy: record({
      rules: listOf(
        record({
          action: text,
          onExitCodes: record({ containerName: text, operator: text, values: listOf(signed) }),
          onPodConditions: listOf(record({ type: text, status: text })),
        }),
      ),
    }),
    podReplacementPolicy: text,
    selector: labelSelector,
    successPolicy: record({ rules: listOf(record({ succeededCount: count, succeededIndexes: text })) }),
    suspend: boolean,
    ttlSecondsAfterFinished: count,
  },
  CronJob: {
    concurrencyPolicy: oneOf("Allow", "Forbid", "Replace"),
    failedJobsHistoryLimit: count,
    schedule: text,
    startingDeadlineSeconds: seconds,
    successfulJobsHistoryLimit: count,
    suspend: boolean,
    timeZone: text,
  },
};
