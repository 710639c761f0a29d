import { describe, expect, it } from "vitest";
import type { Container } from "./index.ts";
import { container, pod, problemsOf, specOf, warningsOf } from "./test-support.ts";

function containerOf(fields: string): Container {
  const found = specOf(container(fields)).containers[0];
  if (found === undefined) throw new Error("no container");
  return found;
}

/** Every field of core/v1 Container. */
const COMPLETE = `    args: [a, 1, true]
    command: [run]
    env:
    - {name: PLAIN, value: v}
    - {name: EMPTY}
    - {name: NOTHING, value: "", valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}
    - {name: MAP, valueFrom: {configMapKeyRef: {name: m, key: k, optional: true}}}
    - {name: SECRET, valueFrom: {secretKeyRef: {name: s, key: k}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {containerName: c, resource: limits.memory, divisor: 1Mi}}}
    - {name: "my.name-1 2", value: odd}
    envFrom: [{configMapRef: {name: m, optional: true}, prefix: P_}, {secretRef: {name: s}}]
    imagePullPolicy: Always
    lifecycle:
      postStart: {exec: {command: [post, start]}}
      preStop: {sleep: {seconds: 3}}
      stopSignal: SIGUSR1
    livenessProbe: {grpc: {port: 9000, service: s}, initialDelaySeconds: 1, timeoutSeconds: 2, periodSeconds: 3, successThreshold: 1, failureThreshold: 5}
    readinessProbe: {httpGet: {port: http, path: /, host: h, scheme: HTTPS, httpHeaders: [{name: a, value: b}]}, terminationGracePeriodSeconds: 9}
    startupProbe: {exec: {command: [probe]}}
    ports: [{containerPort: 80, hostIP: 0.0.0.0, hostPort: 8080, name: http, protocol: TCP}]
    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]
    resources: {limits: {cpu: 1.5, memory: 1e3, nvidia.com/gpu: 1}, requests: {cpu: 100m}}
    restartPolicy: Never
    restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]
    securityContext:
      allowPrivilegeEscalation: true
      appArmorProfile: {type: Unconfined}
      capabilities: {add: [NET_ADMIN], drop: [ALL]}
      privileged: true
      procMount: Default
      readOnlyRootFilesystem: true
      runAsGroup: 1
      runAsNonRoot: false
      runAsUser: 0
      seccompProfile: {type: Unconfined}
    stdin: true
    stdinOnce: true
    terminationMessagePath: /log
    terminationMessagePolicy: FallbackToLogsOnError
    tty: true
    volumeDevices: [{name: raw, devicePath: /dev/xvda}]
    volumeMounts:
    - {name: d, mountPath: /a, subPath: x/y, readOnly: true, recursiveReadOnly: IfPossible}
    - {name: d, mountPath: /b, subPathExpr: $(PLAIN)/z, mountPropagation: Bidirectional}
    workingDir: /srv
  volumes: [{name: d, emptyDir: {}}, {name: raw, persistentVolumeClaim: {claimName: p}}]
`;

describe("container", () => {
  it("reads every field of the API", () => {
    expect(warningsOf(container(COMPLETE))).toEqual([]);
    const found = containerOf(COMPLETE);
    expect(found).toMatchObject({
      args: ["a", "1", "true"],
      command: ["run"],
      envFrom: [
        { kind: "config-map", name: "m", optional: true, prefix: "P_" },
        { kind: "secret", name: "s", optional: false, prefix: "" },
      ],
      execCommands: [["probe"], ["post", "start"]],
      imagePullPolicy: "Always",
      ports: [{ containerPort: 80, hostPort: 8080, name: "http", protocol: "TCP" }],
      restartPolicy: "Never",
      securityContext: {
        at: { line: 33, column: 7 },
        allowPrivilegeEscalation: true,
        capabilities: { add: ["NET_ADMIN"], drop: ["ALL"] },
        privileged: true,
        readOnlyRootFilesystem: true,
        runAsGroup: 1,
        runAsNonRoot: false,
        runAsUser: 0,
        seccompProfile: { type: "Unconfined" },
      },
      stdin: true,
      stdinOnce: true,
      stopSignal: "SIGUSR1",
      terminationMessagePath: "/log",
      terminationMessagePolicy: "FallbackToLogsOnError",
      tty: true,
      volumeDevices: [{ name: "raw", devicePath: "/dev/xvda", at: { line: 48, column: 21 } }],
      volumeMounts: [
        { name: "d", mountPath: "/a", subPath: "x/y", readOnly: true, recursiveReadOnly: "IfPossible", mountPropagation: undefined },
        { name: "d", mountPath: "/b", subPathExpr: "$(PLAIN)/z", readOnly: false, mountPropagation: "Bidirectional" },
      ],
      workingDir: "/srv",
    });
    expect([...found.resources.limits]).toEqual([
      ["cpu", "1.5"],
      ["memory", "1000.0"],
      ["nvidia.com/gpu", "1"],
    ]);
  });

  it("tells where the values of variables come from", () => {
    expect(containerOf(COMPLETE).env).toMatchObject([
      { name: "PLAIN", value: "v", valueFrom: undefined },
      { name: "EMPTY", value: undefined, valueFrom: undefined },
      { name: "NOTHING", value: undefined, valueFrom: { kind: "field", fieldPath: "metadata.name", at: { line: 13, column: 56 } } },
      { name: "MAP", valueFrom: { kind: "config-map", name: "m", key: "k", optional: true } },
      { name: "SECRET", valueFrom: { kind: "secret", name: "s", key: "k", optional: false } },
      { name: "LIMIT", valueFrom: { kind: "resource", resource: "limits.memory", containerName: "c", divisor: "1Mi" } },
      { name: "my.name-1 2", value: "odd" },
    ]);
  });

  for (const [name, fields, expected] of [
    [
      "a variable with a border in its name",
      "env: [{name: 'A=B'}]",
      '8:18: spec.containers[0].env[0].name: expected the name of a variable (printable ASCII without "="), found "A=B"',
    ],
    [
      "both value and valueFrom",
      "env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: f}}}]",
      '8:11: spec.containers[0].env[0]: "A" has both value and valueFrom',
    ],
    [
      "two sources of a value",
      "env: [{name: A, valueFrom: {fieldRef: {fieldPath: f}, secretKeyRef: {name: s, key: k}}}]",
      "8:32: spec.containers[0].env[0].valueFrom: more than one source",
    ],
    [
      "no source of a value",
      "env: [{name: A, valueFrom: {}}]",
      "8:32: spec.containers[0].env[0].valueFrom: no configMapKeyRef, secretKeyRef, fieldRef or resourceFieldRef",
    ],
    [
      "a value from a file",
      "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: k}}}]",
      "8:45: spec.containers[0].env[0].valueFrom.fileKeyRef: the value is written while the pod runs, so no policy can hold it: let the program read the file, or use configMapKeyRef or secretKeyRef",
    ],
    [
      "a resource that is none",
      "env: [{name: A, valueFrom: {resourceFieldRef: {resource: memory}}}]",
      '8:62: spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: expected limits or requests of cpu, memory, ephemeral-storage or hugepages-SIZE, such as limits.memory, found "memory"',
    ],
    ["envFrom of nothing", "envFrom: [{prefix: x}]", "8:15: spec.containers[0].envFrom[0]: expected one of configMapRef and secretRef"],
    [
      "envFrom of two",
      "envFrom: [{configMapRef: {name: a}, secretRef: {name: b}}]",
      "8:15: spec.containers[0].envFrom[0]: expected one of configMapRef and secretRef",
    ],
    ["a mount of nothing", "volumeMounts: [{name: v, mountPath: /v}]", '8:20: spec.containers[0].volumeMounts[0]: the pod has no volume named "v"'],
    [
      "two mounts at one path",
      "volumeMounts: [{name: d, mountPath: /v}, {name: d, mountPath: /v}]",
      '8:46: spec.containers[0].volumeMounts[1]: mountPath "/v" is used twice',
    ],
    [
      "a mount at a relative path",
      "volumeMounts: [{name: d, mountPath: v}]",
      '8:41: spec.containers[0].volumeMounts[0].mountPath: expected an absolute path without a colon, found "v"',
    ],
    [
      "a mount at a path with a colon",
      "volumeMounts: [{name: d, mountPath: '/a:b'}]",
      '8:41: spec.containers[0].volumeMounts[0].mountPath: expected an absolute path without a colon, found "/a:b"',
    ],
    [
      "subPath that climbs",
      "volumeMounts: [{name: d, mountPath: /v, subPath: a/../../b}]",
      '8:54: spec.containers[0].volumeMounts[0].subPath: expected a relative path without "..", found "a/../../b"',
    ],
    [
      "an absolute subPath",
      "volumeMounts: [{name: d, mountPath: /v, subPath: /etc}]",
      '8:54: spec.containers[0].volumeMounts[0].subPath: expected a relative path without "..", found "/etc"',
    ],
    [
      "subPath and subPathExpr",
      "volumeMounts: [{name: d, mountPath: /v, subPath: a, subPathExpr: b}]",
      "8:20: spec.containers[0].volumeMounts[0]: both subPath and subPathExpr",
    ],
    [
      "propagation to the host without privileges",
      "volumeMounts: [{name: d, mountPath: /v, mountPropagation: Bidirectional}]",
      "8:20: spec.containers[0].volumeMounts[0]: mountPropagation Bidirectional needs a privileged container",
    ],
    ["a device of nothing", "volumeDevices: [{name: v, devicePath: /dev/x}]", '8:21: spec.containers[0].volumeDevices[0]: the pod has no volume named "v"'],
    [
      "a device that is no claim",
      "volumeDevices: [{name: d, devicePath: /dev/x}]",
      '8:21: spec.containers[0].volumeDevices[0]: "d" is no volume claim, and only those can be devices',
    ],
    ["a device without a path", "volumeDevices: [{name: p}]", "8:21: spec.containers[0].volumeDevices[0]: no devicePath"],
    [
      "root that must not be root",
      "securityContext: {runAsNonRoot: true, runAsUser: 0}",
      "8:22: spec.containers[0]: runAsNonRoot with runAsUser 0: the kubelet never starts the container",
    ],
    [
      "a privileged container without escalation",
      "securityContext: {privileged: true, allowPrivilegeEscalation: false}",
      "8:22: spec.containers[0].securityContext: a privileged container cannot have allowPrivilegeEscalation: false",
    ],
    [
      "an unmasked /proc",
      "securityContext: {procMount: Unmasked}",
      "8:34: spec.containers[0].securityContext.procMount: Unmasked needs hostUsers: false, and the policy's rules refuse user namespaces: leave it out",
    ],
    [
      "a probe of two sorts",
      "livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}",
      "8:20: spec.containers[0].livenessProbe: more than one handler: exec, tcpSocket",
    ],
    [
      "a probe of no sort",
      "livenessProbe: {periodSeconds: 1}",
      "8:20: spec.containers[0].livenessProbe: no handler: expected one of exec, httpGet, tcpSocket, grpc",
    ],
    [
      "a hook of no sort",
      "lifecycle: {preStop: {}}",
      "8:26: spec.containers[0].lifecycle.preStop: no handler: expected one of exec, httpGet, tcpSocket, sleep",
    ],
    ["an exec probe without command", "livenessProbe: {exec: {}}", "8:27: spec.containers[0].livenessProbe.exec: no command"],
    [
      "an amount that is none",
      "resources: {limits: {memory: 1GB}}",
      '8:34: spec.containers[0].resources.limits.memory: expected a quantity such as 500m or 512Mi, found "1GB"',
    ],
    [
      "a claim that the pod does not have",
      "resources: {claims: [{name: gpu}]}",
      '6:5: spec.containers[0]: resources.claims: the pod has no resource claim named "gpu"',
    ],
    [
      "a port that is none",
      "ports: [{containerPort: 70000}]",
      "8:29: spec.containers[0].ports[0].containerPort: expected a whole number from 1 to 65535, found 70000",
    ],
    [
      "a wrong word",
      "terminationMessagePolicy: Log",
      '8:31: spec.containers[0].terminationMessagePolicy: expected "File" or "FallbackToLogsOnError", found "Log"',
    ],
  ] as const) {
    it(`refuses ${name}, also with silent`, () => {
      const text = container(`    ${fields}\n  volumes: [{name: d, emptyDir: {}}, {name: p, persistentVolumeClaim: {claimName: p}}]\n`);
      expect(problemsOf(text)).toEqual([`f.yaml:${expected}`]);
      expect(problemsOf(text, { silent: true })).toEqual(problemsOf(text));
    });
  }

  it("takes the pod's user and the container's own together", () => {
    const text = (ofPod: string, own: string): string => `${container(`    securityContext: ${own}\n`)}  securityContext: ${ofPod}\n`;
    expect(problemsOf(text("{runAsNonRoot: true, runAsUser: 0}", "{}"))).toEqual([
      "f.yaml:9:20: spec.containers[0]: runAsNonRoot with runAsUser 0: the kubelet never starts the container",
    ]);
    expect(problemsOf(text("{runAsNonRoot: true, runAsUser: 0}", "{runAsUser: 7}"))).toEqual([]);
    expect(problemsOf(text("{runAsNonRoot: true, runAsUser: 0}", "{runAsNonRoot: false}"))).toEqual([]);
    expect(problemsOf(text("{runAsUser: 0}", "{runAsNonRoot: true}")).length).toBe(1);
  });

  it("refuses probes of an init container that is no sidecar", () => {
    const init = (fields: string): string =>
      pod(`  containers: []\n  initContainers:\n  - {name: a, image: i, livenessProbe: {exec: {command: [x]}}${fields}}\n`);
    expect(problemsOf(init(""))).toEqual(["f.yaml:7:40: spec.initContainers[0].livenessProbe: an init container has this only with restartPolicy: Always"]);
    expect(specOf(init(", restartPolicy: Always")).initContainers).toMatchObject([{ restartPolicy: "Always", execCommands: [["x"]] }]);
  });

  it("warns of read-only mounts that Kata does not have", () => {
    expect(
      warningsOf(container("    volumeMounts: [{name: d, mountPath: /d, readOnly: true, recursiveReadOnly: Enabled}]\n  volumes: [{name: d, emptyDir: {}}]\n")),
    ).toEqual([
      "8:80 spec.containers[0].volumeMounts[0].recursiveReadOnly: Kata's runtime class does not offer it, and the kubelet refuses the pod: write IfPossible",
    ]);
  });
});
