import type { TestImage } from "../test-support.ts";

/** A pod with one thing to agree on. */
export interface TestPod {
  readonly what: string;
  readonly yaml: string;
  /** Images besides {@link IMAGES}. */
  readonly images?: Readonly<Record<string, TestImage>>;
  /** Try also what does not depend on the manifest. */
  readonly common?: boolean;
}

/** Images that the pods use. */
export const IMAGES: Readonly<Record<string, TestImage>> = {
  "app:1": { entrypoint: ["/entry"], cmd: ["one", "two"], env: ["PATH=/usr/bin:/bin", "FROM=image", "HOME=/root"], workingDir: "/srv" },
  "named:1": {
    user: "nginx:nginx",
    cmd: ["/bin/serve"],
    passwd: "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102::/nonexistent:/sbin/nologin\n",
    group: "root:x:0:\nnginx:x:102:\nssl:x:105:nginx,root\nweb:x:106:nginx\n",
  },
  "number:1": { user: "1000:3000", cmd: ["/bin/serve"], passwd: "u:x:1000:1001::/:\n", group: "more:x:44:u\n" },
};

const CONFIG = `---
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {key: "value $(X) $$", other.conf: "a=b", COLOUR: blue, SIZE: "7"}
binaryData: {blob: AAECAw==}
`;
const SECRET = `---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {password: "hush $(X) $$", USER: me}
`;

/** A Pod with this container and this specification, both in flow style without the outer braces. */
function pod(container: string, spec = "", metadata = ""): string {
  return `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: apps, ${metadata}}
spec: {containers: [{name: app, image: "app:1", ${container}}], ${spec}}
`;
}

function workload(apiVersion: string, kind: string, more = "", container = ""): string {
  const template = `{metadata: {labels: {app: web}}, spec: {containers: [{name: app, image: "app:1", ${container}}]}}`;
  const spec = kind === "CronJob" ? `{schedule: "0 * * * *", jobTemplate: {spec: {${more} template: ${template}}}}` : `{${more} template: ${template}}`;
  return `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: {name: web, namespace: apps}\nspec: ${spec}\n`;
}

const SELECTOR = "selector: {matchLabels: {app: web}},";
const ENV = (name: string, field: string): string => `{name: ${name}, valueFrom: {fieldRef: {fieldPath: "${field}"}}}`;
const RESOURCE = (name: string, resource: string, divisor = ""): string =>
  `{name: ${name}, valueFrom: {resourceFieldRef: {resource: ${resource}${divisor === "" ? "" : `, divisor: ${divisor}`}}}}`;

/** One feature each, or a few that meet. */
export const PODS: readonly TestPod[] = [
  // Workloads.
  { what: "a Pod", yaml: pod(""), common: true },
  { what: "a Pod without namespace", yaml: 'apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: "app:1"}]}\n' },
  { what: "a Pod with a generated name", yaml: 'apiVersion: v1\nkind: Pod\nmetadata: {generateName: run-}\nspec: {containers: [{name: app, image: "app:1"}]}\n' },
  { what: "a Deployment", yaml: workload("apps/v1", "Deployment", SELECTOR, `env: [${ENV("HASH", "metadata.labels['pod-template-hash']")}, ${ENV("ME", "metadata.name")}]`) },
  { what: "a ReplicaSet", yaml: workload("apps/v1", "ReplicaSet", SELECTOR) },
  { what: "a ReplicationController", yaml: workload("v1", "ReplicationController") },
  { what: "a DaemonSet", yaml: workload("apps/v1", "DaemonSet", SELECTOR, `env: [${ENV("HASH", "metadata.labels['controller-revision-hash']")}]`) },
  {
    what: "a StatefulSet with a service",
    yaml: workload("apps/v1", "StatefulSet", `${SELECTOR} serviceName: peers,`, `env: [${ENV("INDEX", "metadata.labels['apps.kubernetes.io/pod-index']")}]`),
  },
  { what: "a StatefulSet that begins at 3", yaml: workload("apps/v1", "StatefulSet", `${SELECTOR} serviceName: peers, ordinals: {start: 3},`) },
  { what: "a Job", yaml: workload("batch/v1", "Job", "", `env: [${ENV("JOB", "metadata.labels['job-name']")}]`) },
  { what: "an Indexed Job", yaml: workload("batch/v1", "Job", "completionMode: Indexed, completions: 2,", 'args: ["$(JOB_COMPLETION_INDEX)"]') },
  { what: "a CronJob", yaml: workload("batch/v1", "CronJob", "", `env: [${ENV("JOB", "metadata.labels['batch.kubernetes.io/job-name']")}]`) },
  { what: "an Indexed CronJob", yaml: workload("batch/v1", "CronJob", "completionMode: Indexed, completions: 2,") },

  { what: "a StatefulSet with a host name, which it does not get", yaml: workload("apps/v1", "StatefulSet", `${SELECTOR} serviceName: peers,`).replace("spec: {containers", "spec: {hostname: own, containers") },
  { what: "an Indexed Job with a host name, which it does not get", yaml: workload("batch/v1", "Job", "completionMode: Indexed, completions: 2,").replace("spec: {containers", "spec: {hostname: own, containers") },

  // Commands and environment.
  { what: "a command of its own", yaml: pod('command: [/run, "$(A)", "$$(A)", "$(NOBODY)", "$"], args: ["a b", "$(HOSTNAME)", ""], env: [{name: A, value: "1"}]') },
  { what: "arguments for the image's command", yaml: pod('args: ["$(FROM)", "x$"]') },
  { what: "variables that refer to one another", yaml: pod('env: [{name: A, value: "$(B)"}, {name: B, value: "b"}, {name: C, value: "$(B)$$(B)$$$(B) $x"}, {name: D}]') },
  { what: "a variable of the image and another value", yaml: pod('env: [{name: FROM, value: pod}, {name: PATH, value: "/p:$(FROM)"}]') },
  { what: "a variable twice", yaml: pod('env: [{name: A, value: first}, {name: B, value: "$(A)"}, {name: A, value: "second $(A)"}]') },
  {
    what: "fields of the pod",
    yaml: pod(
      `env: [${ENV("N", "metadata.name")}, ${ENV("NS", "metadata.namespace")}, ${ENV("U", "metadata.uid")}, ${ENV("NODE", "spec.nodeName")}, ${ENV("SA", "spec.serviceAccountName")}, ${ENV("HIP", "status.hostIP")}, ${ENV("HIPS", "status.hostIPs")}, ${ENV("IP", "status.podIP")}, ${ENV("IPS", "status.podIPs")}, {name: ALL, value: "$(N).$(NS)@$(IP)"}]`,
    ),
  },
  {
    what: "labels and annotations",
    yaml: pod(
      `env: [${ENV("L", "metadata.labels['a.b/c']")}, ${ENV("A", "metadata.annotations['a.b/c']")}, ${ENV("NONE", "metadata.labels['none']")}]`,
      "",
      `labels: {a.b/c: l}, annotations: {a.b/c: "with $ and $(X)"}`,
    ),
  },
  {
    what: "resources as variables",
    yaml: pod(
      `resources: {limits: {cpu: 1500m, memory: 1Gi}, requests: {cpu: 250m}}, env: [${RESOURCE("C", "limits.cpu")}, ${RESOURCE("CM", "limits.cpu", "1m")}, ${RESOURCE("RC", "requests.cpu", "1m")}, ${RESOURCE("M", "limits.memory")}, ${RESOURCE("MM", "limits.memory", "1Mi")}, ${RESOURCE("RM", "requests.memory", "1Mi")}]`,
    ),
  },
  { what: "resources that the node decides", yaml: pod(`env: [${RESOURCE("C", "limits.cpu")}, ${RESOURCE("M", "limits.memory", "1Mi")}, ${RESOURCE("D", "limits.ephemeral-storage")}, ${RESOURCE("R", "requests.cpu")}]`) },
  {
    what: "keys of ConfigMaps and Secrets",
    yaml:
      pod(
        'env: [{name: K, valueFrom: {configMapKeyRef: {name: cm, key: key}}}, {name: P, valueFrom: {secretKeyRef: {name: s, key: password}}}, {name: O, valueFrom: {configMapKeyRef: {name: cm, key: none, optional: true}}}, {name: Q, valueFrom: {secretKeyRef: {name: none, key: none, optional: true}}}]',
      ) +
      CONFIG +
      SECRET,
  },
  { what: "a variable and an argument with a Secret in them", yaml: pod('args: ["--password=$(P)"], env: [{name: P, valueFrom: {secretKeyRef: {name: s, key: password}}}, {name: URL, value: "db://$(P)@host"}]') + SECRET },
  {
    what: "all keys, with prefix, one after the other",
    yaml:
      pod('envFrom: [{configMapRef: {name: cm}, prefix: C_}, {secretRef: {name: s}}, {configMapRef: {name: none, optional: true}}, {secretRef: {name: none, optional: true}}], env: [{name: C_SIZE, value: "8"}, {name: X, value: "$(C_COLOUR) $(USER)"}]') +
      CONFIG +
      SECRET,
  },
  { what: "a terminal", yaml: pod("tty: true, stdin: true, stdinOnce: true") },
  { what: "a directory", yaml: pod("workingDir: /work/$(HOME)") },
  { what: "no links to services", yaml: pod("", "enableServiceLinks: false") },

  {
    what: "an image with odd variables and an empty entry point",
    yaml: pod("env: [{name: a.b-c, value: x}]").replace("app:1", "odd:1"),
    images: { "odd:1": { entrypoint: [""], cmd: ["run", "$(A)"], env: ["A=1", "B", "C=", "D=a=b", "A=2", "HOSTNAME=mine"] } },
  },
  { what: "keys that cannot name a variable", yaml: `${pod("envFrom: [{configMapRef: {name: odd}}, {configMapRef: {name: odd}, prefix: P_}]")}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd}\ndata: {"0": zero, one: "1", three.four-5: "$$"}\nbinaryData: {blob: AAEC}\n` },
  { what: "a node of its own", yaml: pod(`env: [${ENV("NODE", "spec.nodeName")}]`, "nodeName: node-7") },

  // Names.
  { what: "a host name", yaml: pod("", "hostname: own") },
  { what: "a host name in a domain", yaml: pod("", "hostname: own, subdomain: sub") },
  { what: "a long name", yaml: `apiVersion: v1\nkind: Pod\nmetadata: {name: ${"a".repeat(60)}.--${"b".repeat(10)}}\nspec: {containers: [{name: app, image: "app:1"}]}\n`.replace(".--", ".b-") },
  { what: "entries of the hosts file", yaml: pod("", 'hostAliases: [{ip: "192.0.2.9", hostnames: [a, b]}]') },

  { what: "a host name instead of all others", yaml: pod("", "hostname: own, subdomain: sub, hostnameOverride: any.where") },

  // Users and rights.
  { what: "a user by name", yaml: pod("").replace("app:1", "named:1") },
  { what: "a user by number", yaml: pod("").replace("app:1", "number:1") },
  { what: "runAsNonRoot", yaml: pod("securityContext: {runAsNonRoot: true}").replace("app:1", "number:1") },
  { what: "the pod's user", yaml: pod("", "securityContext: {runAsUser: 101}").replace("app:1", "named:1") },
  { what: "users and groups of all sorts", yaml: pod("securityContext: {runAsUser: 7, runAsGroup: 9}", "securityContext: {runAsUser: 8, fsGroup: 10, supplementalGroups: [11, 9]}") },
  { what: "a group for the image's user", yaml: pod("securityContext: {runAsGroup: 106}").replace("app:1", "named:1") },
  { what: "strict groups", yaml: pod("", "securityContext: {supplementalGroupsPolicy: Strict, supplementalGroups: [7]}").replace("app:1", "named:1") },
  { what: "capabilities", yaml: pod("securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE, KILL]}}") },
  { what: "one capability less", yaml: pod("securityContext: {capabilities: {drop: [MKNOD, NET_RAW], add: [SYS_TIME]}}") },
  { what: "all capabilities", yaml: pod("securityContext: {capabilities: {add: [ALL]}}") },
  { what: "no new privileges, and a root that cannot be written", yaml: pod("securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true}") },
  { what: "sysctls", yaml: pod("", 'securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: "1"}, {name: kernel/shm_rmid_forced, value: "1"}]}') },
  { what: "profiles of system calls", yaml: pod("securityContext: {seccompProfile: {type: Unconfined}}", "securityContext: {seccompProfile: {type: RuntimeDefault}}") },
  { what: "shared processes", yaml: pod("", "shareProcessNamespace: true") },

  // Volumes.
  { what: "an emptyDir, and one in memory", yaml: pod("volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m, readOnly: true}]", "volumes: [{name: d, emptyDir: {}}, {name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]") },
  {
    what: "emptyDirs of a group",
    yaml: pod("volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m}]", "securityContext: {fsGroup: 2000}, volumes: [{name: d, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}]"),
  },
  { what: "a volume twice in a container", yaml: pod("volumeMounts: [{name: d, mountPath: /a}, {name: d, mountPath: /b, readOnly: true}]", "volumes: [{name: d, emptyDir: {}}]") },
  {
    what: "ConfigMaps and Secrets",
    yaml:
      pod(
        "volumeMounts: [{name: c, mountPath: /etc/c.d}, {name: s, mountPath: /etc/s, readOnly: true}, {name: o, mountPath: /etc/o}]",
        "volumes: [{name: c, configMap: {name: cm, items: [{key: key, path: deep/key, mode: 0400}], defaultMode: 0440}}, {name: s, secret: {secretName: s, defaultMode: 256}}, {name: o, configMap: {name: none, optional: true}}]",
      ) +
      CONFIG +
      SECRET,
  },
  {
    what: "parts of volumes",
    yaml:
      pod(
        'env: [{name: WHO, value: me}], volumeMounts: [{name: c, mountPath: /etc/app.conf, subPath: other.conf}, {name: d, mountPath: /logs, subPathExpr: "$(WHO)/logs"}, {name: d, mountPath: /all, readOnly: true, subPath: x}]',
        "volumes: [{name: c, configMap: {name: cm}}, {name: d, emptyDir: {}}]",
      ) + CONFIG,
  },
  {
    what: "a projected volume",
    yaml:
      pod(
        "volumeMounts: [{name: p, mountPath: /p}]",
        'volumes: [{name: p, projected: {defaultMode: 0400, sources: [{configMap: {name: cm, items: [{key: key, path: k}]}}, {secret: {name: s}}, {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}, {serviceAccountToken: {path: token, audience: vault, expirationSeconds: 7200}}]}}]',
      ) +
      CONFIG +
      SECRET,
  },
  {
    what: "a downward API volume",
    yaml: pod(
      "volumeMounts: [{name: w, mountPath: /etc/podinfo}]",
      'volumes: [{name: w, downwardAPI: {items: [{path: annotations, fieldRef: {fieldPath: metadata.annotations}}, {path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu, divisor: 1m}}]}}]',
    ),
  },
  { what: "no token of the service account", yaml: pod("", "automountServiceAccountToken: false") },
  { what: "its own place for the service account", yaml: pod("volumeMounts: [{name: d, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]", "volumes: [{name: d, emptyDir: {}}]") },
  { what: "devices of the guest", yaml: pod("volumeMounts: [{name: z, mountPath: /dev/zero2}, {name: k, mountPath: /k}]", "volumes: [{name: z, hostPath: {path: /dev/zero}}, {name: k, hostPath: {path: /sys/kernel}}]") },
  { what: "a file of the node, part of it, and how it propagates", yaml: pod("volumeMounts: [{name: h, mountPath: /h, readOnly: true, mountPropagation: HostToContainer}, {name: h, mountPath: /i, subPath: hosts, mountPropagation: None, recursiveReadOnly: IfPossible, readOnly: true}]", "volumes: [{name: h, hostPath: {path: /usr/share/doc/base-files}}]").replace("subPath: hosts", "subPath: README") },
  { what: "mounts in the places of the runtime's own", yaml: pod("volumeMounts: [{name: d, mountPath: /dev/shm}, {name: c, mountPath: /etc/hosts, subPath: key}, {name: c, mountPath: /etc/resolv.conf, subPath: key}]", "volumes: [{name: d, emptyDir: {medium: Memory}}, {name: c, configMap: {name: cm}}]") + CONFIG },
  { what: "shared memory of its own on the disk", yaml: pod("volumeMounts: [{name: d, mountPath: /dev/shm}]", "volumes: [{name: d, emptyDir: {}}]") },
  { what: "places with odd spellings", yaml: pod('volumeMounts: [{name: d, mountPath: "/a+b/"}, {name: c, mountPath: "/etc//c.d(1)"}]', "volumes: [{name: d, emptyDir: {}}, {name: c, configMap: {name: cm}}]") + CONFIG },
  { what: "another termination log", yaml: pod("terminationMessagePath: /var/log/end, terminationMessagePolicy: FallbackToLogsOnError") },
  { what: "volumes of the image", yaml: pod("volumeMounts: [{name: d, mountPath: /data}]", "volumes: [{name: d, emptyDir: {}}]").replace("app:1", "volumes:1"), images: { "volumes:1": { cmd: ["x"], volumes: ["/data", "/var/lib/db", "/logs/", "relative"] } } },

  // Containers.
  {
    what: "init containers and sidecars",
    yaml: pod("", 'initContainers: [{name: first, image: "named:1"}, {name: side, image: "app:1", restartPolicy: Always, args: [side]}, {name: last, image: "app:1", args: [last]}]'),
  },
  { what: "two containers of one image", yaml: pod('args: [a]}, {name: other, image: "app:1", args: [a]') },
  { what: "ephemeral containers, which nobody starts", yaml: pod("", 'ephemeralContainers: [{name: debug, image: "app:1"}]') },
  {
    what: "probes and hooks",
    yaml: pod(
      'livenessProbe: {exec: {command: [/alive, "$(X)", "a b"]}}, readinessProbe: {exec: {command: [sh, -c, "test -e /ready"]}}, startupProbe: {exec: {command: [/up]}}, lifecycle: {postStart: {exec: {command: [/begin]}}, preStop: {exec: {command: [/end, now]}}}',
    ),
  },
  { what: "a workload identity", yaml: pod("", "serviceAccountName: workload", 'labels: {azure.workload.identity/use: "true"}') },
  {
    what: "nearly everything",
    common: true,
    yaml:
      pod(
        'tty: true, workingDir: /w, command: [run, "$(IP)"], envFrom: [{configMapRef: {name: cm}, prefix: P_}], env: [{name: FROM, value: "$(P_SIZE)"}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: PW, valueFrom: {secretKeyRef: {name: s, key: password}}}], securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}, volumeMounts: [{name: m, mountPath: /tmp}, {name: p, mountPath: /p}, {name: c, mountPath: /c/one, subPath: key}]',
        'hostname: own, subdomain: sub, shareProcessNamespace: true, securityContext: {runAsUser: 101, fsGroup: 5, supplementalGroups: [105]}, initContainers: [{name: init, image: "named:1"}], volumes: [{name: m, emptyDir: {medium: Memory}}, {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}, {name: c, configMap: {name: cm}}]',
        "labels: {a: b}",
      ).replace("app:1", "named:1") +
      CONFIG +
      SECRET,
  },
];
