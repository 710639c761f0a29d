import { createHash } from "node:crypto";
import { KubeError, parseManifest, podAnnotationOf } from "@sealpod/kube";
import { describe, expect, it } from "vitest";
import { GenpolicyError } from "./errors.ts";
import { podYaml, workloadYaml } from "./known-tools/test-support.ts";
import { AKS_PROFILE, COCO_PROFILE, profileOf } from "./profile.ts";
import { dataOf, DIFF_IDS, generated, policiesOf, type PolicyOptions, ROOT_HASHES, RULES } from "./test-support.ts";

const SMALL = podYaml("    command: [run]\n");

async function failureOf(promise: Promise<unknown>): Promise<GenpolicyError | KubeError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof GenpolicyError || error instanceof KubeError) return error;
  throw new Error("failed in another way, or not at all", { cause: error });
}

describe("generatePolicy", () => {
  it("assembles rules, a line break, `policy_data := ` and JSON, and nothing else", async () => {
    const [policy] = await policiesOf(SMALL);
    expect(policy?.policy.startsWith(`${RULES}\npolicy_data := {\n  "containers": [\n`)).toBe(true);
    expect(policy?.policy.endsWith("\n}")).toBe(true);
    expect([policy?.kind, policy?.name]).toEqual(["Pod", "web"]);
  });

  it("lets somebody else join rules and data", async () => {
    const [policy] = await policiesOf(SMALL, undefined, { shrink: (rules, data) => `${rules.length} ${Object.keys(data ?? {}).join()}` });
    expect(policy?.policy).toBe(`${RULES.length} containers,common,sandbox,request_defaults,devices,cluster_config`);
  });

  it("writes the policy into the YAML; its SHA-256 is HOST_DATA", async () => {
    const result = await generated(SMALL);
    const object = parseManifest({ name: "f", text: result.yaml }).objects[0];
    const annotation = object === undefined ? undefined : podAnnotationOf(object, "io.katacontainers.config.agent.policy");
    const decoded = Buffer.from(annotation?.value ?? "", "base64");
    expect(decoded.toString()).toBe(result.policies[0]?.policy);
    expect(Buffer.from(result.policies[0]?.document ?? [])).toEqual(decoded);
    expect(createHash("sha256").update(decoded).digest("hex")).toBe(result.policies[0]?.hostData);
    expect(result.warnings).toEqual([]);
  });

  it("is idempotent: an annotated file gives the same policy and the same file", async () => {
    for (const more of [{}, { profile: COCO_PROFILE }]) {
      const first = await generated(SMALL, undefined, more);
      const second = await generated(first.yaml, undefined, more);
      expect(second.yaml).toBe(first.yaml);
      expect(second.policies.map(({ hostData }) => hostData)).toEqual(first.policies.map(({ hostData }) => hostData));
    }
  });

  it("pins each layer by its dm-verity root hash, top first", async () => {
    const text = podYaml("  - {name: b, image: 'app:2'}\n");
    const [policy] = await policiesOf(text, { "app:1": {}, "app:2": { diffIds: [...DIFF_IDS].reverse() } });
    const overlays = dataOf(policy).containers.map(({ storages }) => storages.at(-1));
    expect(overlays.map((storage) => storage?.options[1])).toEqual([
      ROOT_HASHES[0],
      `${ROOT_HASHES[1]}:${ROOT_HASHES[0]}`,
      `${ROOT_HASHES[0]}:${ROOT_HASHES[1]}`,
    ]);
    // Layer ids are SHA-256 of the chain id as text; the bottom layer's chain id is its diff id.
    const bottom = createHash("sha256")
      .update(DIFF_IDS[0] ?? "")
      .digest("hex");
    expect(overlays[0]?.options[0]).toBe(bottom);
    expect(overlays[1]?.options[0]?.split(":")[1]).toBe(bottom);
  });

  it("makes a policy for each workload of a stream, also in Lists, and none for other objects", async () => {
    const deployment = workloadYaml("Deployment", "{containers: [{name: c, image: 'app:1'}]}", "{name: d, namespace: shop}");
    const list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: l}, spec: {containers: [{name: c, image: 'app:1'}]}}\n";
    const policies = await policiesOf(`${SMALL}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n---\n${deployment}---\n${list}`);
    expect(policies.map(({ kind, name }) => [kind, name])).toEqual([
      ["Pod", "web"],
      ["Deployment", "d"],
      ["Pod", "l"],
    ]);
  });

  it("leaves workloads of other runtime classes alone, if asked: of four kinds, and not in Lists", async () => {
    const classed = (kind: string, name: string, runtimeClass: string): string =>
      workloadYaml(kind, `{${runtimeClass}containers: [{name: c, image: 'app:1'}]}`, `{name: ${name}}`);
    const kinds = ["Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet", "ReplicationController"];
    const text = [
      ...kinds.map((kind, index) => classed(kind, `other${index}`, "runtimeClassName: runc, ")),
      ...kinds.map((kind, index) => classed(kind, `none${index}`, "")),
      ...kinds.map((kind, index) => classed(kind, `kata${index}`, "runtimeClassName: kata-cc, ")),
      "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: listed}, spec: {containers: [{name: c, image: 'app:1'}]}}\n",
    ].join("---\n");
    const names = (await policiesOf(text, undefined, { runtimeClassNames: ["x", "kata"] })).map(({ name }) => name);
    expect(names).toEqual([
      ...[4, 5, 6, 7].map((index) => `other${index}`),
      ...[4, 5, 6, 7].map((index) => `none${index}`),
      ...kinds.map((_, index) => `kata${index}`),
      "listed",
    ]);
    expect((await policiesOf(text)).length).toBe(25);
  });

  it("never puts the policy into itself", async () => {
    const [policy] = await policiesOf(podYaml("    command: [run]\n", "", "{name: web, annotations: {io.katacontainers.config.agent.policy: b2xk, team: a}}"));
    expect(policy?.policy).not.toContain("b2xk");
    expect(policy?.policy).toContain('"team": "a"');
  });

  it("warns of the tag latest, of values that are taken for empty, and of annotations that are too large", async () => {
    const text = podYaml(
      "    env: [{name: A, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['x']\"}}}]\n",
      "",
      `{name: web, annotations: {big: "${"x".repeat(200_000)}"}}`,
    ).replace("app:1", "app");
    const { warnings } = await generated(text, { app: {} });
    expect(warnings.map(({ position, path, message }) => `${position.line}:${position.column} ${path}: ${message}`)).toEqual([
      expect.stringMatching(/^5:3 spec: the pod's annotations take \d+ bytes with the policy, Kubernetes takes at most 262144$/),
      '7:12 spec.containers[0].image: image "app" has the tag latest: the pod is refused as soon as the tag moves to other layers',
      expect.stringMatching(/^8:\d+ spec.containers\[0\].env\[0\].*: the pod has no label "x": the policy takes its value for empty$/),
    ]);
  });

  it("counts the annotation of the profile, not the old one", async () => {
    const old = `io.katacontainers.config.hypervisor.cc_init_data: "${"A".repeat(250_000)}"`;
    const text = podYaml("", "", `{name: web, annotations: {${old}}}`);
    const large = async (more: PolicyOptions): Promise<boolean> =>
      (await generated(text, undefined, more)).warnings.some(({ message }) => message.includes("Kubernetes takes at most"));
    expect([await large({}), await large({ profile: COCO_PROFILE })]).toEqual([true, false]);
  });
});

describe("bad input", () => {
  it("names the place of an image that is not there, and the setting for the pause image", async () => {
    const error = await failureOf(policiesOf(SMALL, {}));
    expect([error.code, error.message]).toEqual(["ERR_GENPOLICY_IMAGE", 'app.yaml:7:12: spec.containers[0].image: image "app:1": no image app:1']);
    const pause = await failureOf(policiesOf(SMALL, undefined, { measurer: failing("sealpod.internal/pause:1") }));
    expect(pause.message).toBe('app.yaml:5:3: spec: image "sealpod.internal/pause:1" is gone');
  });

  it("takes a failure of one image for that image's alone", async () => {
    const text = podYaml("  - {name: b, image: 'app:2'}\n");
    const error = await failureOf(policiesOf(text, { "app:1": {}, "app:2": {} }, { measurer: failing("app:2") }));
    expect(error.message).toBe('app.yaml:8:22: spec.containers[1].image: image "app:2" is gone');
    expect(error.hint).toBe("look elsewhere");
  });

  it("lists the problems of all files", async () => {
    const other = { name: "c.yaml", text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\nnope: 1\n" };
    const error = await failureOf(policiesOf(podYaml("    nope: 1\n"), undefined, { configFiles: [other, { ...other, name: "d.yaml" }] }));
    expect(error.message.split("\n").map((line) => line.slice(0, 13))).toEqual(["app.yaml:8:5:", "c.yaml:4:1: n", "d.yaml:4:1: n"]);
    expect(error.code).toBe("ERR_KUBE_MANIFEST");
    const silent = await generated(podYaml("    nope: 1\n"), undefined, { configFiles: [other], silent: true });
    expect(silent.warnings.map(({ position }) => position.file)).toEqual(["c.yaml", "app.yaml"]);
  });

  describe("lists what is wrong with the YAML and what a policy cannot have as one", () => {
    const wishes = "    env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n    nope: 1\n    volumeMounts: [{name: v, mountPath: /v}]\n";
    const volumes = "  volumes: [{name: v, nfs: {server: s, path: /}}]\n";
    const text = `${podYaml(`${wishes}  - {name: b, image: 'gone:1'}\n`, volumes)}---\n${podYaml("    tty: perhaps\n")}`;
    const problems = async (more: string, options: PolicyOptions = {}): Promise<readonly string[]> => {
      const error = await failureOf(policiesOf(text + more, undefined, options));
      expect(error.code).toBe("ERR_KUBE_MANIFEST");
      return error.message.split("\n").map((line) => line.replace(/^(\w+)\.yaml:(\d+):\d+: (\S+): .*$/, "$1 $2 $3"));
    };
    const ofYaml = ["app 10 spec.containers[0].nope", "app 21 spec.containers[0].tty"];
    const ofBoth = ["app 5 spec.volumes[0]", "app 9 spec.containers[0].env[0]", ...ofYaml];

    it("in the order of the file, nothing twice, and nothing that follows from what could not be read", async () => {
      expect(await problems("")).toEqual(ofBoth);
    });

    it("file by file", async () => {
      const other = { name: "c.yaml", text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\nnope: 1\n" };
      expect(await problems("", { configFiles: [other] })).toEqual([...ofBoth, "c 4 nope"]);
      const fine = await failureOf(policiesOf(podYaml(wishes.replace("    nope: 1\n", ""), volumes), undefined, { configFiles: [other] }));
      expect(fine.message.split("\n").map((line) => line.slice(0, 8))).toEqual(["app.yaml", "app.yaml", "c.yaml:4"]);
      expect(fine.hint).toBeUndefined();
    });

    it("but not if the workloads may refer to what could not be read", async () => {
      const broken = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: [k]\n";
      expect(await problems(`---\n${broken}`)).toEqual([...ofYaml, expect.stringMatching(/^app \d+ stringData$/)]);
      expect(await problems("", { configFiles: [{ name: "c.yaml", text: broken }] })).toEqual([...ofYaml, "c 4 stringData"]);
    });

    it("without waiting for images", async () => {
      expect(await problems("", { measurer: { measure: () => Promise.reject(new Error("no network")) } })).toEqual(ofBoth);
    });
  });

  for (const [name, text, message] of [
    ["no workload", "apiVersion: v1\nkind: ConfigMap\n", "app.yaml:1:1: nothing here makes pods: found only ConfigMap"],
    ["nothing", "# empty\n", "app.yaml:1:1: nothing here makes pods: found no Kubernetes object"],
    ["no Kubernetes YAML", "hello: world\n", "app.yaml:1:1: no apiVersion: this is not a Kubernetes object"],
    ["broken YAML", "a: [\n", "app.yaml:2:1: not YAML:"],
    [
      "variables without end",
      podYaml(`    env: [${Array.from({ length: 40 }, (_, index) => `{name: V${index + 1}, value: "$(V${index})$(V${index})"}`).join(", ")}]\n`).replace(
        "env: [",
        "env: [{name: V0, value: x}, ",
      ),
      "grows beyond 1048576 characters when variables are replaced",
    ],
  ] as const) {
    it(`refuses ${name}`, async () => {
      expect((await failureOf(policiesOf(text))).message).toContain(message);
    });
  }

  it("warns of rules that no agent could load, in either version of Rego", async () => {
    const warnings = async (rules: string): Promise<readonly string[]> => (await generated(SMALL, undefined, { rules })).warnings.map(({ message }) => message);
    expect(await warnings("package agent_policy\nallow { true }\n")).toEqual([]);
    expect(await warnings("package agent_policy\nallow if { true }\n")).toEqual([]);
    expect(await warnings("package agent_policy\nallow if {\n")).toEqual([expect.stringMatching(/^the rules do not compile: rules\.rego:\d+:\d+/)]);
  });

  it("refuses rules of another package", async () => {
    expect((await failureOf(policiesOf(SMALL, undefined, { rules: "package other\n" }))).code).toBe("ERR_GENPOLICY_RULES");
  });
});

/** A measurer that stops at one image, as the real one does: then all others fail with it. */
function failing(reference: string): PolicyOptions["measurer"] & {} {
  const failure = new GenpolicyError("ERR_GENPOLICY_IMAGE", `image ${JSON.stringify(reference)} is gone`, {
    details: { image: reference },
    hint: "look elsewhere",
  });
  return { measure: () => Promise.reject(failure) };
}

describe("profiles", () => {
  it("are found by name", () => {
    expect([profileOf("aks"), profileOf("coco")]).toEqual([AKS_PROFILE, COCO_PROFILE]);
    expect(() => profileOf("azure")).toThrow('--profile "azure": no such profile');
  });

  it("name the annotations of the documents", () =>
    expect([AKS_PROFILE.annotation, COCO_PROFILE.annotation]).toEqual([
      "io.katacontainers.config.agent.policy",
      "io.katacontainers.config.hypervisor.cc_init_data",
    ]));
});
