import { describe, expect, it } from "vitest";
import { firstPod, type OwnedPod, type PodOwner } from "./controllers.ts";
import { SAFE_ALPHABET } from "./names.ts";
import type { PodTemplate } from "./pod.ts";
import { countingRandom } from "./testdata/fixtures.ts";

const TEMPLATE: PodTemplate = {
  metadata: { labels: { app: "web" } },
  spec: { initContainers: [{ name: "i", image: "x" }], containers: [{ name: "c", image: "x" }] },
};

function pod(owner: Partial<PodOwner> & Pick<PodOwner, "kind">): OwnedPod {
  return firstPod({ name: "web", template: TEMPLATE, ...owner }, countingRandom());
}

describe("the first pod's name", () => {
  const S = `[${SAFE_ALPHABET}]`;
  it.each([
    [{ kind: "Pod" }, /^web$/],
    [{ kind: "Deployment" }, new RegExp(`^web-${S}{10}-${S}{5}$`)],
    [{ kind: "ReplicaSet" }, new RegExp(`^web-${S}{5}$`)],
    [{ kind: "ReplicationController" }, new RegExp(`^web-${S}{5}$`)],
    [{ kind: "DaemonSet" }, new RegExp(`^web-${S}{5}$`)],
    [{ kind: "StatefulSet" }, /^web-0$/],
    [{ kind: "StatefulSet", firstOrdinal: 5 }, /^web-5$/],
    [{ kind: "Job" }, new RegExp(`^web-${S}{5}$`)],
    [{ kind: "Job", indexed: true }, new RegExp(`^web-0-${S}{5}$`)],
    [{ kind: "CronJob" }, new RegExp(`^web-[0-9]{8}-${S}{5}$`)],
    [{ kind: "CronJob", indexed: true }, new RegExp(`^web-[0-9]{8}-0-${S}{5}$`)],
  ] as const)("of %j", (owner, pattern) => {
    expect(pod(owner).name).toMatch(pattern);
  });

  it("is generated where the workload's is", () => {
    const { name: _, ...rest } = { name: "", kind: "Pod", template: TEMPLATE } as const;
    expect(firstPod({ ...rest, generateName: "run-" }, countingRandom()).name).toMatch(new RegExp(`^run-${S}{5}$`));
  });

  it.each([
    [{ kind: "Pod" }, undefined],
    [{ kind: "StatefulSet" }, undefined],
    [{ kind: "Deployment" }, /^web-[^-]{10}-$/],
    [{ kind: "ReplicaSet" }, /^web-$/],
    [{ kind: "ReplicationController" }, /^web-$/],
    [{ kind: "DaemonSet" }, /^web-$/],
    [{ kind: "Job" }, /^web-$/],
    [{ kind: "Job", indexed: true }, /^web-0-$/],
    [{ kind: "CronJob" }, /^web-[0-9]{8}-$/],
  ] as const)("keeps its prefix where the API server generates it, not one of the template: %j", (owner, pattern) => {
    const { name, template } = pod({ ...owner, template: { ...TEMPLATE, metadata: { ...TEMPLATE.metadata, generateName: "of-the-template-" } } });
    const { generateName } = template.metadata ?? {};
    if (pattern === undefined) expect(generateName).toBeUndefined();
    else expect([generateName, name.slice(0, -5)]).toEqual([expect.stringMatching(pattern), generateName]);
  });

  it("keeps its prefix where the workload's is generated", () => {
    const { template } = firstPod({ kind: "Pod", generateName: "run-", template: TEMPLATE }, countingRandom());
    expect(template.metadata?.generateName).toBe("run-");
  });

  it("is cut so that it stays a DNS label", () => {
    for (const kind of ["Deployment", "DaemonSet", "Job"] as const) expect(pod({ kind, name: "a".repeat(63) }).name).toHaveLength(63);
    expect(pod({ kind: "Job", indexed: true, name: "a".repeat(61) }).name).toMatch(new RegExp(`^a{55}-0-${S}{5}$`));
  });

  it.each(["Web", "web_1", "-web", "", "a".repeat(254)])("is refused for a workload called %j", (name) => {
    expect(() => pod({ kind: "Deployment", name })).toThrow(expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }));
  });
});

describe("what controllers add", () => {
  it("is the template's hash for a Deployment", () => {
    const { name, template } = pod({ kind: "Deployment" });
    expect(template.metadata?.labels).toEqual({ app: "web", "pod-template-hash": name.split("-")[1] });
  });

  it("is the identity for a StatefulSet, and its claims in the place of volumes", () => {
    const template = {
      ...TEMPLATE,
      spec: {
        ...TEMPLATE.spec,
        hostname: "mine",
        volumes: [
          { name: "data", emptyDir: {} },
          { name: "tmp", emptyDir: {} },
        ],
      },
    };
    const { spec, metadata } = pod({ kind: "StatefulSet", serviceName: "peers", volumeClaims: ["data"], template }).template;
    expect(spec).toMatchObject({ hostname: "web-0", subdomain: "peers" });
    expect(spec.volumes).toEqual([
      { name: "tmp", emptyDir: {} },
      { name: "data", persistentVolumeClaim: { claimName: "data-web-0" } },
    ]);
    expect(metadata?.labels).toMatchObject({ "apps.kubernetes.io/pod-index": "0", "statefulset.kubernetes.io/pod-name": "web-0" });
  });

  it("is the index for a pod of an Indexed Job", () => {
    const { spec, metadata } = pod({ kind: "Job", indexed: true }).template;
    const variable = { name: "JOB_COMPLETION_INDEX", valueFrom: { fieldRef: { fieldPath: "metadata.labels['batch.kubernetes.io/job-completion-index']" } } };
    expect(spec).toMatchObject({ hostname: "web-0", containers: [{ env: [variable] }], initContainers: [{ env: [variable] }] });
    expect(metadata?.annotations).toEqual({ "batch.kubernetes.io/job-completion-index": "0" });
    expect(metadata?.labels).toMatchObject({ "job-name": "web", "batch.kubernetes.io/job-name": "web", "batch.kubernetes.io/job-completion-index": "0" });
    const plain = pod({ kind: "Job" }).template;
    expect(plain.spec).toEqual(TEMPLATE.spec);
    const given = { ...TEMPLATE, spec: { containers: [{ name: "c", image: "x", env: [{ name: "JOB_COMPLETION_INDEX", value: "mine" }] }] } };
    expect(pod({ kind: "Job", indexed: true, template: given }).template.spec.containers[0]?.env).toHaveLength(1);
  });

  it("refuses an Indexed Job whose pods could not be named in DNS", () => {
    expect(() => pod({ kind: "Job", indexed: true, name: "a".repeat(62) })).toThrow(expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }));
  });
});
