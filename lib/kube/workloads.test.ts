import { describe, expect, it } from "vitest";
import { problemsOf, read, warningsOf, workloadOf } from "./test-support.ts";

const POD = "spec: {restartPolicy: Always, containers: [{name: c, image: i}]}";
const RUN_ONCE = "spec: {restartPolicy: Never, containers: [{name: c, image: i}]}";

/** Each kind with every field of its spec. */
const KINDS: readonly (readonly [kind: string, text: string])[] = [
  [
    "Pod",
    `apiVersion: v1\nkind: Pod\nmetadata: {name: p, creationTimestamp: null, ownerReferences: [{apiVersion: v1, kind: X, name: owner, uid: u, controller: true, blockOwnerDeletion: true}], finalizers: [f], managedFields: [{manager: kubectl}], uid: u, resourceVersion: 1, generation: 2}\n${POD}\nstatus: {phase: Running}\n`,
  ],
  [
    "Deployment",
    `apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  minReadySeconds: 1\n  paused: false\n  progressDeadlineSeconds: 2\n  replicas: 0\n  revisionHistoryLimit: 1\n  selector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: Exists}]}\n  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 1}}\n  template: {metadata: {name: any_Thing}, ${POD}}\n`,
  ],
  [
    "DaemonSet",
    `apiVersion: apps/v1\nkind: DaemonSet\nspec:\n  minReadySeconds: 1\n  revisionHistoryLimit: 1\n  selector: {}\n  updateStrategy: {type: OnDelete, rollingUpdate: {maxSurge: 1}}\n  template: {${POD}}\n`,
  ],
  ["ReplicaSet", `apiVersion: apps/v1\nkind: ReplicaSet\nspec:\n  minReadySeconds: 1\n  replicas: 1\n  selector: {}\n  template: {${POD}}\n`],
  [
    "ReplicationController",
    `apiVersion: v1\nkind: ReplicationController\nspec:\n  minReadySeconds: 1\n  replicas: 1\n  selector: {a: b}\n  template: {${POD}}\n`,
  ],
  [
    "StatefulSet",
    `apiVersion: apps/v1\nkind: StatefulSet\nspec:\n  minReadySeconds: 1\n  ordinals: {start: 3}\n  persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Delete}\n  podManagementPolicy: Parallel\n  replicas: 1\n  revisionHistoryLimit: 1\n  selector: {}\n  serviceName: s\n  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1, maxUnavailable: 1}}\n  template: {${POD}}\n`,
  ],
  [
    "Job",
    `apiVersion: batch/v1\nkind: Job\nspec:\n  activeDeadlineSeconds: 1\n  backoffLimit: 1\n  backoffLimitPerIndex: 1\n  completionMode: Indexed\n  completions: 1\n  managedBy: m\n  manualSelector: true\n  maxFailedIndexes: 1\n  parallelism: 1\n  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {containerName: c, operator: In, values: [1]}, onPodConditions: [{type: t, status: "True"}]}]}\n  podReplacementPolicy: Failed\n  selector: {}\n  successPolicy: {rules: [{succeededCount: 1, succeededIndexes: 0-2}]}\n  suspend: true\n  ttlSecondsAfterFinished: 1\n  template: {${RUN_ONCE}}\n`,
  ],
  [
    "CronJob",
    `apiVersion: batch/v1\nkind: CronJob\nspec:\n  concurrencyPolicy: Forbid\n  failedJobsHistoryLimit: 1\n  schedule: "* * * * *"\n  startingDeadlineSeconds: 1\n  successfulJobsHistoryLimit: 1\n  suspend: false\n  timeZone: Etc/UTC\n  jobTemplate: {metadata: {labels: {a: b}}, spec: {backoffLimit: 1, template: {${RUN_ONCE}}}}\n`,
  ],
];

describe("workloads", () => {
  for (const [kind, text] of KINDS) {
    it(`reads a ${kind} with every field`, () => {
      expect(warningsOf(text)).toEqual([]);
      const workload = workloadOf(text);
      expect([workload.workload, workload.template.spec.containers.length]).toEqual([kind, 1]);
      expect(problemsOf(text.replace(/\nspec:.*/s, "\n"))).toEqual([expect.stringMatching(/^f\.yaml:1:1: no spec$/)]);
    });
  }

  it("reads the claims of a StatefulSet, which its pods can mount", () => {
    const text = (use: string): string => `apiVersion: apps/v1
kind: StatefulSet
spec:
  serviceName: web
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 1Gi}}}
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata: {name: raw}
    spec: {volumeMode: Block}
  template:
    spec:
      containers: [{name: c, image: i, ${use}}]
`;
    const workload = workloadOf(text("volumeMounts: [{name: data, mountPath: /d}], volumeDevices: [{name: raw, devicePath: /dev/r}]"));
    expect(workload).toMatchObject({
      serviceName: "web",
      volumeClaims: ["data", "raw"],
      volumeClaimTemplates: [
        { name: "data", at: { line: 6, column: 5 }, claim: { volumeMode: "Filesystem", storageClassName: "fast", accessModes: ["ReadWriteOnce"] } },
        { name: "raw", claim: { volumeMode: "Block" } },
      ],
    });
    expect(problemsOf(text("volumeMounts: [{name: raw, mountPath: /d}]"))).toEqual([
      'f.yaml:14:55: spec.template.spec.containers[0].volumeMounts[0]: "raw" is a claim of volumeMode Block: use volumeDevices',
    ]);
    expect(problemsOf(text("volumeDevices: [{name: data, devicePath: /d}]"))[0]).toContain('"data" is a claim of volumeMode Filesystem');
    expect(problemsOf(text("").replace("{name: raw}", "{name: data}"))).toEqual(['f.yaml:8:5: spec: two volumeClaimTemplates are named "data"']);
    expect(problemsOf(text("").replace("{name: raw}", "{}"))).toEqual(["f.yaml:8:5: spec.volumeClaimTemplates[1]: no metadata.name"]);
  });

  it("warns of a restart policy that the API server refuses", () => {
    const job = (KINDS.find(([kind]) => kind === "Job")?.[1] ?? "").replace("restartPolicy: Never, ", "");
    expect(warningsOf(job)).toEqual(["19:20 spec: the pods of a Job need restartPolicy OnFailure or Never, found Always: the API server refuses others"]);
    const set = (KINDS.find(([kind]) => kind === "DaemonSet")?.[1] ?? "").replace("restartPolicy: Always", "restartPolicy: Never");
    expect(warningsOf(set)).toEqual(["8:20 spec: the pods of a DaemonSet need restartPolicy Always, found Never: the API server refuses others"]);
  });

  for (const [name, text, expected] of [
    [
      "a name that is none",
      "apiVersion: v1\nkind: Pod\nmetadata: {name: A.*}\nspec: {containers: []}\n",
      'f.yaml:3:18: metadata.name: expected a DNS-1123 subdomain (at most 253 lower-case letters, digits, - and .), found "A.*"',
    ],
    [
      "a prefix that is none",
      "apiVersion: v1\nkind: Pod\nmetadata: {generateName: a_}\nspec: {containers: []}\n",
      'f.yaml:3:26: metadata.generateName: expected the beginning of a DNS-1123 subdomain (lower-case letters, digits, - and .), found "a_"',
    ],
    [
      "a namespace that is none",
      "apiVersion: v1\nkind: Pod\nmetadata: {namespace: a.b}\nspec: {containers: []}\n",
      'f.yaml:3:23: metadata.namespace: expected a DNS-1123 label (at most 63 lower-case letters, digits and -), found "a.b"',
    ],
    ["a template that is missing", "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 1}\n", "f.yaml:3:7: spec: no template"],
    ["a job that is missing", "apiVersion: batch/v1\nkind: CronJob\nspec: {schedule: x}\n", "f.yaml:3:7: spec: no jobTemplate"],
    [
      "a field of another kind",
      `apiVersion: apps/v1\nkind: DaemonSet\nspec: {replicas: 1, template: {${POD}}}\n`,
      "f.yaml:3:8: spec.replicas: unsupported field",
    ],
  ] as const) {
    it(`refuses ${name}`, () => expect(problemsOf(text)).toEqual([expected]));
  }
});

describe("lists", () => {
  it("gives the items of a typed list the type of the list", () => {
    const text = `apiVersion: apps/v1\nkind: DeploymentList\nmetadata: {resourceVersion: "1"}\nitems:\n- metadata: {name: a}\n  spec: {template: {${POD}}}\n- apiVersion: apps/v1\n  kind: Deployment\n  spec: {template: {${POD}}}\n`;
    expect(read(text).resources.map(({ object }) => [object.path, object.apiVersion, object.kind])).toEqual([
      ["items[0]", "apps/v1", "Deployment"],
      ["items[1]", "apps/v1", "Deployment"],
    ]);
    expect(problemsOf("apiVersion: v1\nkind: PodList\n")).toEqual(["f.yaml:1:1: a PodList needs a sequence of items"]);
  });

  it("does not take every kind that ends with List for one", () => {
    expect(read("apiVersion: x.example/v1\nkind: AllowList\nspec: {items: [a]}\n").resources.map(({ kind }) => kind)).toEqual(["pass-through"]);
    expect(problemsOf("apiVersion: v1\nkind: List\nmetadata: {}\nitems:\n- metadata: {}\n")).toEqual([
      "f.yaml:5:3: items[0]: no apiVersion: this is not a Kubernetes object",
      "f.yaml:5:3: items[0]: no kind: this is not a Kubernetes object",
    ]);
  });
});

describe("kinds that make no pods", () => {
  it("lets those of Kubernetes pass without a word", () => {
    for (const [apiVersion, kind] of [
      ["v1", "Service"],
      ["v1", "Namespace"],
      ["rbac.authorization.k8s.io/v1", "ClusterRole"],
      ["networking.k8s.io/v1", "Ingress"],
      ["networking.k8s.io/v1", "NetworkPolicy"],
      ["storage.k8s.io/v1", "StorageClass"],
      ["autoscaling/v2", "HorizontalPodAutoscaler"],
      ["apiextensions.k8s.io/v1", "CustomResourceDefinition"],
      ["policy/v1", "PodDisruptionBudget"],
    ] as const) {
      const { resources, warnings } = read(`apiVersion: ${apiVersion}\nkind: ${kind}\nspec: {any: [thing]}\n`);
      expect([kind, resources.map((resource) => resource.kind), warnings]).toEqual([kind, ["pass-through"], []]);
    }
  });

  it("lets the others pass with a warning", () => {
    const text = "apiVersion: cert-manager.io/v1\nkind: Certificate\nspec: {containers: [a, b], template: {spec: {}}}\n";
    expect(read(text).resources.map(({ kind }) => kind)).toEqual(["pass-through"]);
    expect(warningsOf(text)).toEqual(['2:7 kind: kind "Certificate" is not known here and left as it is: if it makes pods, they get no policy']);
  });

  for (const [name, text, position, where] of [
    ["a Rollout", `apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nspec: {template: {${POD}}}\n`, "3:61", "spec.template.spec.containers"],
    ["a Service of Knative", `apiVersion: serving.knative.dev/v1\nkind: Service\nspec: {template: {${POD}}}\n`, "3:61", "spec.template.spec.containers"],
    [
      "a scheduled one",
      `apiVersion: x.example/v1\nkind: Later\nspec: {jobTemplate: {spec: {template: {${POD}}}}}\n`,
      "3:82",
      "spec.jobTemplate.spec.template.spec.containers",
    ],
    [
      "one with several sorts of pods",
      `apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nspec: {pytorchReplicaSpecs: {Master: {template: {${POD}}}}}\n`,
      "3:92",
      "spec.pytorchReplicaSpecs.Master.template.spec.containers",
    ],
    [
      "a Job of another group",
      `apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nspec: {tasks: [{template: {${POD}}}]}\n`,
      "3:70",
      "spec.tasks[0].template.spec.containers",
    ],
  ] as const) {
    it(`refuses ${name}, and says where its pods are`, () => {
      for (const silent of [false, true]) {
        const problems = problemsOf(text, { silent });
        expect(problems.length).toBe(1);
        expect(problems[0]).toMatch(/^\S+ \S+ kind ".+" makes pods in a way that is not known here: make the policy for one of Pod, /);
        expect(problems[0]?.split(" ").slice(0, 2)).toEqual([`f.yaml:${position}:`, `${where}:`]);
      }
    });
  }

  it("does not take the patterns of a policy, or other lists of containers, for pods that the object makes", () => {
    for (const spec of [
      "rules: [{validate: {pattern: {spec: {containers: [{image: i}]}}}}]",
      'rules: [{validate: {pattern: {spec: {template: {spec: {containers: [{name: "*", image: "*:*"}]}}}}}}]',
      "steps: [{name: a, image: i}]",
      "templates: [{name: a, container: {image: i}}]",
    ]) {
      expect(warningsOf(`apiVersion: x.example/v1\nkind: X\nspec: {${spec}}\n`)).toEqual([
        '2:7 kind: kind "X" is not known here and left as it is: if it makes pods, they get no policy',
      ]);
    }
  });

  it("warns of an apiVersion that the API server does not take for the kind", () => {
    expect(warningsOf(`apiVersion: v1\nkind: Deployment\nspec: {template: {${POD}}}\n`)).toEqual([
      '1:13 apiVersion: Deployment is of apps/v1, found "v1": the API server refuses it',
    ]);
    expect(warningsOf(`apiVersion: extensions/v1beta1\nkind: Deployment\nspec: {template: {${POD}}}\n`).length).toBe(1);
    expect(warningsOf(`apiVersion: apps/v1\nkind: Pod\n${POD}\n`)).toEqual(['1:13 apiVersion: Pod is of v1, found "apps/v1": the API server refuses it']);
  });
});
