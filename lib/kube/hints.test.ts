import { describe, expect, it } from "vitest";
import { unknownFieldHint } from "./hints.ts";
import { container, pod, problemsOf } from "./test-support.ts";

const deployment = (spec: string): string => `apiVersion: apps/v1\nkind: Deployment\nspec:\n${spec}  template: {spec: {containers: [{name: c, image: i}]}}\n`;

describe("hints for unknown fields", () => {
  for (const [text, expected] of [
    [container("    replicas: 2\n"), '8:5: spec.containers[0].replicas: unsupported field: it belongs to the spec of the workload, beside "template"'],
    [container("    volumes: []\n"), '8:5: spec.containers[0].volumes: unsupported field: it belongs to the spec of the pod, beside "containers"'],
    [pod("  containers: []\n  command: [a]\n"), '6:3: spec.command: unsupported field: it belongs to a container, beside "image"'],
    [container("    privileged: true\n"), "8:5: spec.containers[0].privileged: unsupported field: it belongs to the securityContext of a container"],
    [container("    fsGroup: 1\n"), "8:5: spec.containers[0].fsGroup: unsupported field: it belongs to the securityContext of the pod"],
    [
      container("    securityContext: {fsGroup: 1}\n"),
      "8:23: spec.containers[0].securityContext.fsGroup: unsupported field: it belongs to the securityContext of the pod",
    ],
    [container("    runAsUser: 1\n"), "8:5: spec.containers[0].runAsUser: unsupported field: it belongs to a securityContext"],
    [container("    limits: {}\n"), "8:5: spec.containers[0].limits: unsupported field: it belongs to the resources of a container"],
    [container("    mountPath: /a\n"), "8:5: spec.containers[0].mountPath: unsupported field: it belongs to an item of volumeMounts"],
    // The sample of the AKS documents: the pod would have run without isolation.
    [deployment("  runtimeClassName: kata-cc\n"), '4:3: spec.runtimeClassName: unsupported field: it belongs to the spec of the pod, beside "containers"'],
    [deployment("  labels: {}\n"), "4:3: spec.labels: unsupported field: it belongs to metadata"],
    [deployment("  schedule: x\n"), '4:3: spec.schedule: unsupported field: it belongs to the spec of a CronJob, beside "jobTemplate"'],
    [container("    volumeMount: []\n"), "8:5: spec.containers[0].volumeMount: unsupported field: did you mean volumeMounts?"],
    [container("    Image: x\n"), "8:5: spec.containers[0].Image: unsupported field: did you mean image?"],
    [container("    imagepullpolicy: x\n"), "8:5: spec.containers[0].imagepullpolicy: unsupported field: did you mean imagePullPolicy?"],
    [pod("  containers: []\n  hostPid: true\n"), "6:3: spec.hostPid: unsupported field: did you mean hostPID?"],
    [pod("  containers: []\n  somethingElse: 1\n"), "6:3: spec.somethingElse: unsupported field"],
    [pod("  containers: []\n  __proto__: 1\n"), "6:3: spec.__proto__: unsupported field"],
    [pod("  containers: []\n  constructor: 1\n"), "6:3: spec.constructor: unsupported field"],
  ] as const) {
    it(`says of ${expected.split(": ")[1] ?? ""}: ${expected.split("unsupported field").at(-1) ?? ""}`, () => {
      expect(problemsOf(text)).toEqual([`f.yaml:${expected}`]);
      expect(problemsOf(text, { silent: true })).toEqual([]);
    });
  }

  it("guesses nothing for names that no field could have", () => {
    expect(unknownFieldHint("image".repeat(20), new Set(["image"]))).toBe("");
    expect(unknownFieldHint("x", new Set(["ip"]))).toBe("");
    expect(unknownFieldHint("nme", new Set(["name", "mode"]))).toBe(": did you mean name?");
  });

  it("sends nobody from a place to itself", () => {
    // `replicas` of a DaemonSet is where it would belong, if a DaemonSet had any.
    expect(unknownFieldHint("replicas", new Set(["template", "selector"]))).toBe("");
    expect(unknownFieldHint("hostPIDs", new Set(["containers", "hostPID"]))).toBe(": did you mean hostPID?");
  });
});
