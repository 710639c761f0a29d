import { editDistance } from "@sealpod/core";

/** Fields that people put one level too high or too low, and where they belong. A mapping that knows the landmark is that place itself. */
const PLACES: readonly (readonly [place: string, landmark: string, names: readonly string[]])[] = [
  [
    'the spec of the workload, beside "template"',
    "template",
    [
      "replicas",
      "selector",
      "strategy",
      "updateStrategy",
      "minReadySeconds",
      "revisionHistoryLimit",
      "serviceName",
      "volumeClaimTemplates",
      "podManagementPolicy",
      "backoffLimit",
      "completions",
      "parallelism",
      "ttlSecondsAfterFinished",
    ],
  ],
  ['the spec of a CronJob, beside "jobTemplate"', "jobTemplate", ["schedule", "concurrencyPolicy", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]],
  ["metadata", "annotations", ["name", "generateName", "namespace", "labels", "annotations"]],
  [
    'the spec of the pod, beside "containers"',
    "containers",
    [
      "containers",
      "initContainers",
      "ephemeralContainers",
      "volumes",
      "runtimeClassName",
      "serviceAccountName",
      "automountServiceAccountToken",
      "nodeSelector",
      "nodeName",
      "affinity",
      "tolerations",
      "imagePullSecrets",
      "hostAliases",
      "hostNetwork",
      "hostPID",
      "hostIPC",
      "hostname",
      "subdomain",
      "dnsPolicy",
      "dnsConfig",
      "shareProcessNamespace",
      "priorityClassName",
      "schedulerName",
      "enableServiceLinks",
      "topologySpreadConstraints",
    ],
  ],
  [
    'a container, beside "image"',
    "image",
    [
      "image",
      "imagePullPolicy",
      "command",
      "args",
      "env",
      "envFrom",
      "ports",
      "workingDir",
      "tty",
      "stdin",
      "lifecycle",
      "livenessProbe",
      "readinessProbe",
      "startupProbe",
      "volumeMounts",
      "volumeDevices",
      "terminationMessagePath",
      "terminationMessagePolicy",
    ],
  ],
  ["the securityContext of a container", "privileged", ["privileged", "capabilities", "readOnlyRootFilesystem", "procMount"]],
  ["the securityContext of the pod", "fsGroup", ["fsGroup", "fsGroupChangePolicy", "supplementalGroups", "supplementalGroupsPolicy", "sysctls"]],
  [
    "a securityContext",
    "runAsUser",
    ["runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile", "seLinuxOptions", "appArmorProfile", "allowPrivilegeEscalation"],
  ],
  ["the resources of a container", "limits", ["limits", "requests"]],
  ["an item of volumeMounts", "mountPath", ["mountPath", "subPath", "subPathExpr", "mountPropagation"]],
  ["an item of volumes", "emptyDir", ["emptyDir", "hostPath", "persistentVolumeClaim", "configMap", "projected", "csi"]],
];

/** Names longer than any field of the API get no guess: hostile ones would cost time. */
const LONGEST_GUESS = 48;

/** Ends the message about an unknown field: what was meant, or where it belongs; empty if nothing is near. */
export function unknownFieldHint(name: string, known: ReadonlySet<string>): string {
  const place = PLACES.find(([, landmark, names]) => !known.has(landmark) && names.includes(name))?.[0];
  if (place !== undefined) return `: it belongs to ${place}`;
  const near = nearest(name, known);
  return near === undefined ? "" : `: did you mean ${near}?`;
}

/** The candidate that takes the fewest edits, if they are few for the length of the name. */
function nearest(name: string, candidates: Iterable<string>): string | undefined {
  if (name.length > LONGEST_GUESS) return undefined;
  const most = name.length < 4 ? 1 : name.length < 9 ? 2 : 3;
  let best: string | undefined;
  let fewest = most + 1;
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - name.length) >= fewest) continue;
    const edits = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (edits < fewest) [best, fewest] = [candidate, edits];
  }
  return best;
}
