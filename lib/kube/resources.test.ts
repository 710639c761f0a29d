import { describe, expect, it, vi } from "vitest";
import { KubeError, readManifest } from "./index.ts";
import { container, pod, problemsOf, read, specOf, warningsOf, workloadOf } from "./test-support.ts";

describe("readResources", () => {
  it("makes no integer of more digits than any number has, and keeps their text", () => {
    const digits = "9".repeat(500);
    const made = vi.spyOn(globalThis, "BigInt");
    try {
      const spec = specOf(container(`    args: [${digits}, 0x${digits}, 0x10]`));
      expect(spec.containers[0]?.args).toEqual([digits, `0x${digits}`, "16"]);
      expect(made.mock.calls.filter(([text]) => typeof text === "string" && text.length > 400)).toEqual([]);
    } finally {
      made.mockRestore();
    }
  });

  it("reads what decides a policy", () => {
    const workload = workloadOf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, annotations: {ignored: "x"}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {team: a}}
    spec:
      runtimeClassName: kata-cc
      serviceAccountName: sa
      securityContext: {runAsUser: 1000, fsGroup: 2000}
      initContainers: [{name: init, image: init:1}]
      containers:
      - name: web
        image: nginx:1.14.2
        command: [run]
        args: [8080, 'x', 1.50]
        workingDir: /srv
        tty: true
        ports: [{containerPort: 80}]
        env:
        - {name: A, value: 1}
        - {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: C, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}
        - {name: D, value: yes}
        envFrom: [{configMapRef: {name: m}, prefix: P_}]
        resources: {limits: {memory: 512Mi, cpu: 1}}
        livenessProbe: {exec: {command: [live]}, periodSeconds: 5}
        readinessProbe: {httpGet: {port: 80}}
        lifecycle: {preStop: {exec: {command: [stop, now]}}}
        securityContext: {privileged: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
        volumeMounts: [{name: d, mountPath: /d, readOnly: true}]
      volumes:
      - {name: d, emptyDir: {medium: Memory}}
      - {name: m, configMap: {name: m, items: [{key: a, path: b}]}}
`);
    expect(workload.workload).toBe("Deployment");
    expect(workload.metadata.namespace).toBe("shop");
    expect([...workload.template.metadata.annotations]).toEqual([["team", "a"]]);
    const { spec } = workload.template;
    expect([spec.runtimeClassName, spec.serviceAccountName, spec.securityContext.runAsUser]).toEqual(["kata-cc", "sa", 1000]);
    expect(spec.initContainers.map(({ name }) => name)).toEqual(["init"]);
    const web = spec.containers[0];
    expect(web).toMatchObject({
      name: "web",
      image: "nginx:1.14.2",
      imageAt: { file: "f.yaml", line: 16, column: 16 },
      command: ["run"],
      args: ["8080", "x", "1.5"],
      workingDir: "/srv",
      tty: true,
      execCommands: [["live"], ["stop", "now"]],
      securityContext: { privileged: false, capabilities: { drop: ["ALL"], add: ["NET_BIND_SERVICE"] } },
      ports: [{ containerPort: 80 }],
      volumeMounts: [{ name: "d", mountPath: "/d", readOnly: true }],
    });
    expect(web?.env.map(({ name, value, valueFrom }) => [name, value ?? valueFrom?.kind])).toEqual([
      ["A", "1"],
      ["B", "field"],
      ["C", "secret"],
      ["D", "yes"],
    ]);
    expect(web?.envFrom[0]).toMatchObject({ kind: "config-map", name: "m", prefix: "P_" });
    expect([...(web?.resources.limits ?? [])]).toEqual([
      ["memory", "512Mi"],
      ["cpu", "1"],
    ]);
    expect(spec.volumes.map(({ source }) => source.kind)).toEqual(["emptyDir", "configMap"]);
  });

  it("finds the pod template of every kind of workload", () => {
    const template = "template: {spec: {containers: [{name: c, image: i}]}}";
    for (const kind of ["Deployment", "DaemonSet", "ReplicaSet", "ReplicationController", "StatefulSet", "Job"]) {
      expect(workloadOf(`apiVersion: v1\nkind: ${kind}\nmetadata: {name: n}\nspec: {${template}}\n`).template.spec.containers.length).toBe(1);
    }
    expect(
      workloadOf(`apiVersion: v1\nkind: CronJob\nspec: {schedule: "* * * * *", jobTemplate: {spec: {${template}}}}\n`).template.spec.containers.length,
    ).toBe(1);
    expect(
      workloadOf(`apiVersion: v1\nkind: StatefulSet\nspec: {volumeClaimTemplates: [{metadata: {name: data}, spec: {}}], ${template}}\n`).volumeClaims,
    ).toEqual(["data"]);
  });

  it("reads ConfigMaps and Secrets and lets other kinds pass", () => {
    const { resources } = read(
      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1', b: |\n  x\n}\n".replace("b: |\n  x\n", "b: x") +
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: c2VjcmV0}\nstringData: {p: q}\n---\napiVersion: v1\nkind: Service\nspec: {anything: [goes]}\n",
    );
    expect(resources.map(({ kind }) => kind)).toEqual(["config-map", "secret", "pass-through"]);
    const secret = resources[1];
    expect(secret?.kind === "secret" ? [...secret.data].map(([key, value]) => [key, Buffer.from(value).toString()]) : []).toEqual([
      ["k", "secret"],
      ["p", "q"],
    ]);
  });

  it("reports all problems of a file in one list, in the order of the file", () => {
    const text = `${pod("  hostPID: true\n  unknownThing: 1\n  containers:\n  - name: Bad_Name\n    image: 5\n    command: text\n    tty: yes\n    securityContext: {runAsUser: -1, procMount: x}\n  - image: i\n")}---
kind: NoVersion
---
a: [
---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
spec: {template: {spec: {containers: [{name: a, image: b}]}}}
`;
    expect(problemsOf(text)).toEqual([
      "f.yaml:5:12: spec.hostPID: a confidential pod cannot share namespaces with its host",
      "f.yaml:6:3: spec.unknownThing: unsupported field",
      'f.yaml:8:11: spec.containers[0].name: expected a DNS-1123 label (at most 63 lower-case letters, digits and -), found "Bad_Name"',
      'f.yaml:10:14: spec.containers[0].command: expected a sequence, found "text"',
      'f.yaml:11:10: spec.containers[0].tty: expected true or false, found "yes"',
      "f.yaml:12:34: spec.containers[0].securityContext.runAsUser: expected a whole number from 0 to 4294967295, found -1",
      'f.yaml:12:49: spec.containers[0].securityContext.procMount: expected "Default" or "Unmasked", found "x"',
      "f.yaml:13:5: spec.containers[1]: no name",
      "f.yaml:15:1: no apiVersion: this is not a Kubernetes object",
      expect.stringMatching(/^f\.yaml:18:1: not YAML: /),
      expect.stringMatching(/^f\.yaml:21:38: spec\.template\.spec\.containers: kind "Rollout" makes pods in a way that is not known here: .*one of Pod, /),
    ]);
    const { code } = errorOf(text);
    expect(code).toBe("ERR_KUBE_YAML");
  });

  it("stops at a thousand problems: hostile text could have millions", () => {
    const error = errorOf(pod(`  containers: [${"{},".repeat(5000)}]\n`));
    expect(error.problems.length).toBe(1000);
    const many = read(pod(`  containers: []\n${Array.from({ length: 5000 }, (_, index) => `  unknown${index}: 1\n`).join("")}`), { silent: true });
    expect(many.warnings.length).toBe(1000);
    expect(errorOf(`[a]: b\n---\n`.repeat(1900)).problems.length).toBeLessThanOrEqual(1000);
  });

  it("downgrades unknown fields to warnings with `silent`, and nothing else", () => {
    const text = container("    appArmor: x\n  unknown: y\n");
    expect(problemsOf(text)).toEqual(["f.yaml:8:5: spec.containers[0].appArmor: unsupported field", "f.yaml:9:3: spec.unknown: unsupported field"]);
    expect(errorOf(text).hint).toContain("pass -s");
    expect(warningsOf(text, { silent: true })).toEqual(["8:5 spec.containers[0].appArmor: unsupported field", "9:3 spec.unknown: unsupported field"]);
    expect(problemsOf(container("    tty: 1\n"), { silent: true })).toEqual(["f.yaml:8:10: spec.containers[0].tty: expected true or false, found 1"]);
    expect(errorOf(container("    tty: 1\n    x: y\n")).hint).toBeUndefined();
  });

  it("never takes a merge key for an unknown field: kubectl would merge it", () => {
    const text = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - &base {name: a, image: i}\n  - <<: *base\n    name: b\n";
    for (const silent of [false, true]) {
      expect(problemsOf(text, { silent })).toEqual(["f.yaml:6:5: YAML merge keys are not supported: write the fields out"]);
    }
  });

  it("refuses what two readers would read differently or what could stand in for another", () => {
    for (const [text, message] of [
      [container("    securityContext: {runAsUser: 0100}\n"), 'found "0100"'],
      [container("    securityContext: {runAsUser: 4294967296}\n"), "found 4294967296"],
      [container("  - name: c\n    image: j\n"), 'two containers are named "c"'],
      [container("    env: [{name: A, valueFrom: {}}]\n"), "no configMapKeyRef, secretKeyRef, fieldRef or resourceFieldRef"],
      [container("    envFrom: [{prefix: x}]\n"), "expected one of configMapRef and secretRef"],
      [pod("  containers: []\n  volumes: [{name: v, emptyDir: {}, hostPath: {path: /x}}]\n"), "more than one volume source"],
      [pod("  containers: {}\n"), "expected a sequence, found a mapping"],
      ["apiVersion: v1\nkind: Pod\n", "f.yaml:1:1: no spec"],
      [
        "apiVersion: apps/v1\nkind: Deployment\nspec:\n  runtimeClassName: kata-cc\n  template: {spec: {containers: []}}\n",
        'f.yaml:4:3: spec.runtimeClassName: unsupported field: it belongs to the spec of the pod, beside "containers"',
      ],
    ] as const) {
      expect(problemsOf(text).join("\n")).toContain(message);
    }
  });

  it.each([
    ["all, if they have unknown fields only", "", ["p", "m", "last"]],
    ["all but a workload that is broken", `---\n${container("    tty: 1\n").replace("name: p", "name: broken")}`, ["p", "m", "last"]],
    ["none, if a Secret is broken", "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: [a]\n", undefined],
    ["none, if there is something that is no object", "---\nhello: world\n", undefined],
  ])("hands over with its problems the resources that can be looked at: %s", (_what, text, expected) => {
    const map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\nnope: 1\n";
    let thrown: unknown;
    try {
      readManifest({ name: "f.yaml", text: `${container("    nope: 1\n")}---\n${map}${text}---\n${map.replace("name: m", "name: last")}` });
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(KubeError);
    const { sound } = thrown as KubeError;
    expect(sound?.resources.map((resource) => (resource.kind === "pass-through" ? undefined : resource.metadata.name))).toEqual(expected);
  });

  it("says nothing about the values of a Secret", () => {
    const problems = problemsOf("apiVersion: v1\nkind: Secret\ndata: {k: 'not base64 hunter2'}\n").join("\n");
    expect(problems).toContain("f.yaml:3:11: data.k:");
    expect(problems).not.toContain("hunter2");
  });
});

function errorOf(text: string): KubeError {
  try {
    readManifest({ name: "f.yaml", text });
  } catch (error) {
    if (error instanceof KubeError) return error;
    throw error;
  }
  throw new Error("nothing is wrong");
}
