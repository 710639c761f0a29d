import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { KubeError, parseManifest, podAnnotationOf } from "@sealpod/kube";
import { describe, expect, it } from "vitest";
import { AKS_PROFILE, encodePrettyJson, GenpolicyError, generatePolicy, MemoryLayerCache, type PolicyContainer, parseSettings } from "./index.ts";
import { dataOf, DIFF_IDS, memoryImages, policiesOf, ROOT_HASHES, RULES, SETTINGS } from "./test-support.ts";

const pod = (containers: string, more = ""): string => `apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n${more}  containers:\n${containers}`;
const SMALL = pod("  - name: app\n    image: app:1\n    command: [run]\n");

/** Settings as the AKS tool has them: computed values to the byte as it does. */
const TOOL_SETTINGS = JSON.stringify({ ...(JSON.parse(SETTINGS) as object), sealpod: { follow_kubernetes: false } });

async function containerOf(text: string, config: Parameters<typeof memoryImages>[0][string] = {}, settings = SETTINGS): Promise<PolicyContainer> {
  const [policy] = await policiesOf(text, { "app:1": config }, { settings });
  const container = dataOf(policy).containers[1];
  if (container === undefined) throw new Error("no container");
  return container;
}

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
    expect(policy?.kind).toBe("Pod");
    expect(policy?.name).toBe("web");
  });

  it("writes the policy into the YAML; its SHA-256 is HOST_DATA", async () => {
    const result = await generatePolicy({ manifest: { name: "f", text: SMALL }, settings: SETTINGS, rules: RULES, images: memoryImages({ "app:1": {} }) });
    const object = parseManifest({ name: "f", text: result.yaml }).objects[0];
    const annotation = object === undefined ? undefined : podAnnotationOf(object, "io.katacontainers.config.agent.policy");
    const decoded = Buffer.from(annotation?.value ?? "", "base64");
    expect(decoded.toString()).toBe(result.policies[0]?.policy);
    expect(createHash("sha256").update(decoded).digest("hex")).toBe(result.policies[0]?.hostData);
    expect(result.policies[0]?.hostData).toMatch(/^[0-9a-f]{64}$/);
    expect(result.warnings).toEqual([]);
  });

  it("is idempotent: an annotated file gives the same policy and the same file", async () => {
    const images = memoryImages({ "app:1": {} });
    const first = await generatePolicy({ manifest: { name: "f", text: SMALL }, settings: SETTINGS, rules: RULES, images });
    const second = await generatePolicy({ manifest: { name: "f", text: first.yaml }, settings: SETTINGS, rules: RULES, images });
    expect(second.yaml).toBe(first.yaml);
    expect(second.policies.map(({ hostData }) => hostData)).toEqual(first.policies.map(({ hostData }) => hostData));
  });

  it("prints the data of a small pod as in testdata/small-pod.json", async () => {
    const [policy] = await policiesOf(SMALL, { "app:1": { env: ["PATH=/bin"], user: "1000:2000", workingDir: "/srv" } });
    const golden = readFileSync(new URL("testdata/small-pod.json", import.meta.url), "utf8").trimEnd();
    expect(policy?.policy.slice(RULES.length + "\npolicy_data := ".length)).toBe(golden);
  });

  it("pins each layer by its dm-verity root hash, top first, and reads a layer once", async () => {
    const images = memoryImages({ "app:1": {}, "app:2": { diffIds: [...DIFF_IDS].reverse() } });
    const text = pod("  - {name: a, image: 'app:1'}\n  - {name: b, image: 'app:2'}\n  - {name: c, image: 'app:1'}\n");
    const { policies } = await generatePolicy({ manifest: { name: "f", text }, settings: SETTINGS, rules: RULES, images });
    const overlays = dataOf(policies[0]).containers.map(({ storages }) => storages.at(-1));
    expect(overlays.map((storage) => storage?.options[1])).toEqual([
      ROOT_HASHES[0],
      `${ROOT_HASHES[1]}:${ROOT_HASHES[0]}`,
      `${ROOT_HASHES[0]}:${ROOT_HASHES[1]}`,
      `${ROOT_HASHES[1]}:${ROOT_HASHES[0]}`,
    ]);
    expect(images.reads).toEqual(DIFF_IDS);
    // Layer ids are SHA-256 of the chain id as text; the bottom layer's chain id is its diff id.
    const bottom = createHash("sha256")
      .update(DIFF_IDS[0] ?? "")
      .digest("hex");
    expect(overlays[0]?.options[0]).toBe(bottom);
    expect(overlays[1]?.options[0]?.split(":")[1]).toBe(bottom);
  });

  it("takes root hashes from the cache, and puts new ones in", async () => {
    const cache = new MemoryLayerCache();
    const first = memoryImages({ "app:1": {} });
    await generatePolicy({ manifest: { name: "f", text: SMALL }, settings: SETTINGS, rules: RULES, images: first, layerCache: cache });
    const stored = MemoryLayerCache.parse(cache.encode());
    const second = memoryImages({ "app:1": {} });
    const again = await generatePolicy({
      manifest: { name: "f", text: SMALL },
      settings: SETTINGS,
      rules: RULES,
      images: second,
      ...(stored === undefined ? {} : { layerCache: stored }),
    });
    expect([first.reads.length, second.reads.length]).toEqual([2, 0]);
    expect(again.policies[0]?.policy).toContain(ROOT_HASHES[1]);
  });

  it("lists the pause container, init containers from the last to the first, containers", async () => {
    const text = pod(
      "  - {name: a, image: 'app:1'}\n  - {name: b, image: 'app:1'}\n",
      "  initContainers: [{name: i1, image: 'app:1'}, {name: i2, image: 'app:1'}]\n",
    );
    const [policy] = await policiesOf(text);
    expect(
      dataOf(policy).containers.map((container) => (container.OCI.Annotations as unknown as Record<string, string>)["io.kubernetes.cri.container-name"]),
    ).toEqual([undefined, "i2", "i1", "a", "b"]);
  });

  it("makes a policy for each workload of a stream, and none for other objects", async () => {
    const text = `${SMALL}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: shop}\nspec: {template: {spec: {containers: [{name: c, image: 'app:1'}]}}}\n`;
    const policies = await policiesOf(text);
    expect(policies.map(({ kind, name }) => [kind, name])).toEqual([
      ["Pod", "web"],
      ["Deployment", "d"],
    ]);
    const annotations = dataOf(policies[1]).containers[1]?.OCI.Annotations as unknown as Record<string, string>;
    expect(annotations["io.kubernetes.cri.sandbox-namespace"]).toBe("shop");
    // Pods of a Deployment get their names later: the policy has none.
    expect(annotations["io.kubernetes.cri.sandbox-name"]).toBeUndefined();
  });

  it("leaves workloads of other runtime classes alone, if asked", async () => {
    const classed = (name: string, kind: string): string =>
      `apiVersion: v1\nkind: ${kind}\nmetadata: {name: ${name}}\nspec: {runtimeClassName: ${name}, containers: [{name: c, image: 'app:1'}]}\n`;
    const text = [
      classed("kata-cc", "Pod"),
      classed("runc", "Pod"),
      SMALL,
      "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {template: {spec: {containers: [{name: c, image: 'app:1'}]}}}\n",
    ].join("---\n");
    expect((await policiesOf(text, undefined, { runtimeClassNames: ["kata"] })).map(({ name }) => name)).toEqual(["kata-cc", "j"]);
    expect((await policiesOf(text)).length).toBe(4);
  });

  it("never puts the policy into itself", async () => {
    const text =
      "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations:\n    io.katacontainers.config.agent.policy: b2xk\n    team: a\nspec:\n  containers: [{name: app, image: 'app:1', command: [run]}]\n";
    const [policy] = await policiesOf(text);
    expect(policy?.policy).not.toContain("b2xk");
    expect(policy?.policy).toContain('"team": "a"');
  });

  it("warns of the tag latest, of names as users, of what the profile has no rule for, and of a policy that is too large", async () => {
    const text = pod(
      "  - name: app\n    image: app\n    volumeDevices: [{name: v, devicePath: /dev/x}]\n",
      `  securityContext: {sysctls: [{name: a, value: b}]}\n`,
    ).replace("metadata: {name: web}", `metadata: {name: web, annotations: {big: "${"x".repeat(200_000)}"}}`);
    const { warnings } = await generatePolicy({
      manifest: { name: "f.yaml", text },
      settings: SETTINGS,
      rules: RULES,
      images: memoryImages({ app: { user: "nginx" } }),
    });
    expect(warnings.map(({ position, message }) => `${position.line}:${position.column} ${message}`)).toEqual([
      expect.stringMatching(/^5:3 the pod's annotations take \d+ bytes with the policy, Kubernetes takes at most 262144$/),
      "5:20 profile aks has no rule for sysctls of a pod: the pod will be refused",
      "7:5 container app: profile aks has no rule for volumeDevices, the pod will be refused",
      '7:5 image app runs as user "nginx", a name: the policy takes it for 0, set securityContext.runAsUser',
      '8:12 image "app" has the tag latest: the pod is refused as soon as the tag moves to other layers',
    ]);
  });
});

describe("what a container may be", () => {
  it("joins command, args, entrypoint and cmd as Kubernetes does", async () => {
    const image = { entrypoint: ["/entry"], cmd: ["cmd"] };
    const args = async (fields: string): Promise<readonly string[] | undefined> =>
      (await containerOf(pod(`  - name: app\n    image: app:1\n${fields}`), image)).OCI.Process.Args;
    expect(await args("")).toEqual(["/entry", "cmd"]);
    expect(await args("    args: [a]\n")).toEqual(["/entry", "a"]);
    expect(await args("    command: [c]\n")).toEqual(["c"]);
    expect(await args("    command: [c]\n    args: [a]\n")).toEqual(["c", "a"]);
  });

  const ENV = `  - name: app
    image: app:1
    tty: true
    env:
    - {name: PATH, value: /own}
    - {name: B, value: "$(A)-$(C)"}
    - {name: A, value: "1"}
    - {name: C, valueFrom: {configMapKeyRef: {name: m, key: c}}}
    - {name: S, valueFrom: {secretKeyRef: {name: s, key: p}}}
    - {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: SA, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: EMPTY}
    - {name: L, valueFrom: {fieldRef: {fieldPath: "metadata.labels['x']"}}}
    - {name: T, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['later']"}}}
    envFrom:
    - {configMapRef: {name: m}, prefix: P_}
    args: ["$(A)", "$(UNKNOWN)", "$(HOST)"]
`;
  const MAPS =
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {c: three, A: map}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {p: cGFzcw==}\n";
  const envPod = `${pod(ENV, "  serviceAccountName: sa\n").replace("{name: web}", "{name: web, labels: {x: y}}")}${MAPS}`;

  it("builds the environment as the AKS tool does, to the order", async () => {
    const { OCI } = await containerOf(envPod, { env: ["PATH=/bin", "A=1"] }, TOOL_SETTINGS);
    expect(OCI.Process.Env).toEqual([
      "PATH=/bin",
      "A=1",
      "TERM=xterm",
      "HOSTNAME=$(host-name)",
      "PATH=/own",
      "B=1-three",
      "C=three",
      "S=pass",
      "NS=default",
      "SA=default",
      "EMPTY=",
      "L=y",
      "T=$(todo-annotation)",
      "A=map",
      "c=three",
    ]);
    expect(OCI.Process.Args).toEqual(["1", "$(UNKNOWN)", "$(HOST)"]);
  });

  it("builds it as Kubernetes does with follow_kubernetes: nothing that is overridden, prefixes, the pod's account", async () => {
    const { OCI } = await containerOf(envPod, { env: ["PATH=/bin", "A=1", "KEEP=1"] });
    expect(OCI.Process.Env).toEqual([
      "KEEP=1",
      "TERM=xterm",
      "HOSTNAME=$(host-name)",
      "PATH=/own",
      "B=1-three",
      "A=1",
      "C=three",
      "S=pass",
      "NS=default",
      "SA=sa",
      "EMPTY=",
      "L=y",
      "T=$(todo-annotation)",
      "P_A=map",
      "P_c=three",
    ]);
  });

  it("looks values up in further files, where an object inside a List does not count", async () => {
    const text = pod("  - {name: app, image: 'app:1', envFrom: [{secretRef: {name: s}}]}\n");
    const secret = { name: "s.yaml", text: "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {p: cGFzcw==}\n" };
    const [policy] = await policiesOf(text, undefined, { configFiles: [secret] });
    expect(dataOf(policy).containers[1]?.OCI.Process.Env).toContain("p=pass");
    const listed = { name: "l.yaml", text: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: s}, data: {p: cGFzcw==}}\n" };
    expect((await failureOf(policiesOf(text, undefined, { configFiles: [listed] }))).message).toContain('envFrom: no Secret named "s"');
  });

  it("computes capabilities in both ways", async () => {
    const caps = async (fields: string, settings = SETTINGS): Promise<readonly string[]> =>
      (await containerOf(pod(`  - {name: app, image: 'app:1', securityContext: ${fields}}\n`), {}, settings)).OCI.Process.Capabilities.Bounding;
    for (const settings of [SETTINGS, TOOL_SETTINGS]) {
      expect(await caps("{}", settings)).toEqual(["$(default_caps)"]);
      expect(await caps("{privileged: true}", settings)).toEqual(["$(privileged_caps)"]);
      expect(await caps("{capabilities: {drop: [ALL], add: [NET_ADMIN]}}", settings)).toEqual(["CAP_NET_ADMIN"]);
      expect(await caps("{capabilities: {drop: [ALL]}}", settings)).toEqual([]);
      expect((await caps("{capabilities: {drop: [MKNOD]}}", settings)).includes("CAP_MKNOD")).toBe(false);
    }
    expect(await caps("{capabilities: {add: [ALL]}}")).toEqual(["$(privileged_caps)"]);
    expect((await caps("{capabilities: {add: [ALL]}}", TOOL_SETTINGS)).at(-1)).toBe("CAP_ALL");
    expect(await caps("{capabilities: {drop: [ALL], add: [CAP_KILL]}}")).toEqual(["CAP_KILL"]);
    expect(await caps("{capabilities: {drop: [ALL], add: [CAP_KILL]}}", TOOL_SETTINGS)).toEqual(["CAP_CAP_KILL"]);
    expect(await caps("{capabilities: {drop: [KILL], add: [KILL]}}")).not.toContain("CAP_KILL");
    expect(await caps("{capabilities: {drop: [KILL], add: [KILL]}}", TOOL_SETTINGS)).toContain("CAP_KILL");
  });

  it("takes the user from the container, the pod, the image", async () => {
    const uid = async (text: string, user: string, settings = SETTINGS): Promise<number> => (await containerOf(text, { user }, settings)).OCI.Process.User.UID;
    const own = pod("  - {name: app, image: 'app:1', securityContext: {runAsUser: 7}}\n", "  securityContext: {runAsUser: 8}\n");
    const ofPod = pod("  - {name: app, image: 'app:1'}\n", "  securityContext: {runAsUser: 8}\n");
    const ofTemplate =
      "apiVersion: v1\nkind: Job\nmetadata: {name: j}\nspec: {template: {spec: {securityContext: {runAsUser: 8}, containers: [{name: app, image: 'app:1'}]}}}\n";
    expect([
      await uid(own, "9"),
      await uid(ofPod, "9"),
      await uid(SMALL, "9"),
      await uid(SMALL, "9:10"),
      await uid(SMALL, ""),
      await uid(SMALL, "named"),
    ]).toEqual([7, 8, 9, 9, 0, 0]);
    // The AKS tool forgets the pod's runAsUser for all kinds but Pod.
    expect([await uid(ofTemplate, "9"), await uid(ofTemplate, "9", TOOL_SETTINGS)]).toEqual([8, 9]);
  });

  it("describes mounts and storages of volumes", async () => {
    const text = pod(
      `  - name: app
    image: app:1
    terminationMessagePath: /log/end
    securityContext: {readOnlyRootFilesystem: true}
    volumeMounts:
    - {name: disk, mountPath: /disk, readOnly: true}
    - {name: ram, mountPath: /ram}
    - {name: dev, mountPath: /dev/fuse}
    - {name: host, mountPath: /host/dir/}
    - {name: claim, mountPath: /claim}
    - {name: map, mountPath: /etc/map}
    - {name: shm, mountPath: /dev/shm}
`,
      `  volumes:
  - {name: disk, emptyDir: {}}
  - {name: ram, emptyDir: {medium: Memory}}
  - {name: dev, hostPath: {path: /dev/fuse}}
  - {name: host, hostPath: {path: /var/data}}
  - {name: claim, persistentVolumeClaim: {claimName: c}}
  - {name: map, configMap: {name: m}}
  - {name: shm, hostPath: {path: /dev/shm}}
`,
    );
    const { OCI, storages } = await containerOf(text);
    const rows = OCI.Mounts.map(({ destination, source, type_, options }) => [destination, type_, source, options.join()]);
    expect(rows.slice(0, 3)).toEqual([
      ["/proc", "proc", "proc", "nosuid,noexec,nodev"],
      ["/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"],
      ["/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"],
    ]);
    expect(rows.slice(3)).toEqual([
      ["/dev/shm", "bind", "/dev/shm", "rbind,rprivate,rw"],
      ["/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"],
      ["/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"],
      ["/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"],
      ["/etc/hosts", "bind", "$(sfprefix)hosts$", "rbind,rprivate,rw"],
      ["/log/end", "bind", "$(sfprefix)end$", "rbind,rprivate,rw"],
      ["/etc/hostname", "bind", "$(sfprefix)hostname$", "rbind,rprivate,ro"],
      ["/etc/resolv.conf", "bind", "$(sfprefix)resolv.conf$", "rbind,rprivate,ro"],
      ["/var/run/secrets/kubernetes.io/serviceaccount", "bind", "$(sfprefix)serviceaccount$", "rbind,rprivate,ro"],
      ["/var/run/secrets/azure/tokens", "bind", "$(sfprefix)tokens$", "rbind,rprivate,ro"],
      ["/disk", "local", "^$(cpath)/$(sandbox-id)/local/disk$", "rbind,rprivate,ro"],
      ["/ram", "bind", "^/run/kata-containers/sandbox/ephemeral/ram$", "rbind,rprivate,rw"],
      ["/dev/fuse", "bind", "/dev/fuse", "rbind,rprivate,rw"],
      ["/host/dir/", "bind", "$(sfprefix)dir$", "rbind,rprivate,rw"],
      ["/claim", "bind", "$(sfprefix)claim$", "rbind,rprivate,rw"],
      ["/etc/map", "bind", "$(sfprefix)map$", "rbind,rprivate,ro"],
    ]);
    expect(storages.map(({ driver, mount_point }) => [driver, mount_point])).toEqual([
      ["blk", "$(layer0)"],
      ["blk", "$(layer1)"],
      ["overlayfs", "$(cpath)/$(bundle-id)"],
      ["local", "^$(cpath)/$(sandbox-id)/local/disk$"],
      ["ephemeral", "^/run/kata-containers/sandbox/ephemeral/ram$"],
    ]);
  });

  it("describes the claims of a StatefulSet last", async () => {
    const text =
      "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s}\nspec:\n  volumeClaimTemplates: [{metadata: {name: data}, spec: {}}]\n  template: {spec: {containers: [{name: app, image: 'app:1', volumeMounts: [{name: data, mountPath: /var/lib/data}]}]}}\n";
    expect((await containerOf(text)).OCI.Mounts.at(-1)).toEqual({
      destination: "/var/lib/data",
      source: "^/run/kata-containers/shared/containers/$(bundle-id)-[a-z0-9]{16}-data$",
      type_: "bind",
      options: ["rbind", "rprivate", "rw"],
    });
  });

  it("drops what a host network changes of the pause container, and the masks of a privileged one", async () => {
    const [policy] = await policiesOf(
      pod("  - {name: app, image: 'app:1', securityContext: {privileged: true}}\n", "  hostNetwork: true\n  shareProcessNamespace: true\n"),
    );
    const [pause, app] = dataOf(policy).containers;
    expect(pause?.OCI.Linux.Namespaces.map(({ Type }) => Type)).toEqual(["ipc", "mount"]);
    expect(pause?.OCI.Annotations).toHaveProperty(["nerdctl/network-namespace"], expect.stringMatching(/^\^\/var\/run\/netns\/cnitest-/));
    expect([pause?.sandbox_pidns, app?.sandbox_pidns]).toEqual([false, true]);
    expect([app?.OCI.Linux.MaskedPaths, app?.OCI.Linux.ReadonlyPaths]).toEqual([[], []]);
    expect(app?.OCI.Mounts.find(({ destination }) => destination === "/sys")?.options).toContain("rw");
  });
});

describe("bad input", () => {
  it("reports everything that a workload refers to and that is not there, in one list", async () => {
    const text = pod(
      `  - name: app
    image: app:1
    env:
    - {name: A, valueFrom: {configMapKeyRef: {name: m, key: k}}}
    - {name: B, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: C, valueFrom: {fieldRef: {fieldPath: "metadata.labels['x']"}}}
    envFrom: [{secretRef: {name: s}}]
    volumeMounts: [{name: nothing, mountPath: /x}, {name: v, mountPath: /}]
`,
      "  volumes: [{name: v, emptyDir: {}}]\n",
    );
    const error = await failureOf(policiesOf(text));
    expect(error.code).toBe("ERR_GENPOLICY_MANIFEST");
    expect(error.message.split("\n")).toEqual([
      'app.yaml:10:7: env A: no key "k" in a ConfigMap named "m"',
      'app.yaml:11:7: env B: field "status.podIPs" is not supported',
      'app.yaml:12:7: env C: the pod template has no label "x"',
      'app.yaml:13:15: envFrom: no Secret named "s"',
      'app.yaml:14:20: volumeMounts: the pod has no volume named "nothing"',
      'app.yaml:14:52: mountPath "/" has no last component',
    ]);
  });

  it("names the place of an image that is not there, and the setting for the pause image", async () => {
    expect((await failureOf(policiesOf(SMALL, {}))).message).toBe('app.yaml:7:12: image "app:1": no image app:1');
    const settings = SETTINGS.replace("sealpod.internal/pause:1", "gone:1");
    expect((await failureOf(policiesOf(SMALL, undefined, { settings }))).message).toBe('cluster_config.pause_container_image: image "gone:1": no image gone:1');
  });

  for (const [name, text, message] of [
    ["no workload", "apiVersion: v1\nkind: ConfigMap\n", "app.yaml:1:1: nothing here makes pods: found only ConfigMap"],
    ["nothing", "# empty\n", "app.yaml:1:1: nothing here makes pods: found no Kubernetes object"],
    ["no Kubernetes YAML", "hello: world\n", "app.yaml:1:1: no apiVersion: this is not a Kubernetes object"],
    ["an unsupported kind", `${SMALL}---\napiVersion: x/v1\nkind: Ingress\n`, 'app.yaml:11:7: kind: kind "Ingress" is not supported'],
    ["broken YAML", "a: [\n", "app.yaml:2:1: not YAML:"],
    [
      "the AKS document's example",
      "apiVersion: apps/v1\nkind: Deployment\nspec:\n  runtimeClassName: kata-cc\n  template:\n    spec:\n      labels: {a: b}\n      containers: [{name: SecretKeyRelease, image: x}]\n",
      "app.yaml:4:3: spec.runtimeClassName: unsupported field\napp.yaml:7:7: spec.template.spec.labels: unsupported field\napp.yaml:8:27: spec.template.spec.containers[0].name: container name",
    ],
    ["an empty placeholder", pod("  - {name: app, image: 'app:1', args: ['$()']}\n"), 'app.yaml:6:5: "$()" has an empty placeholder $()'],
    ["variables in a circle", pod("  - {name: app, image: 'app:1', env: [{name: A, value: 'x$(A)'}]}\n"), undefined],
  ] as const) {
    it(`${message === undefined ? "survives" : "refuses"} ${name}`, async () => {
      if (message === undefined) expect((await policiesOf(text)).length).toBe(1);
      else expect((await failureOf(policiesOf(text))).message).toContain(message);
    });
  }

  it("bounds what variables can grow to", async () => {
    const doubled = Array.from({ length: 40 }, (_, index) => `{name: V${index}, value: "$(V${index + 1})$(V${index + 1})"}`).join(", ");
    const text = pod(`  - {name: app, image: 'app:1', env: [${doubled}, {name: V40, value: x}]}\n`);
    expect((await failureOf(policiesOf(text))).message).toMatch(/grows beyond 1048576 characters when variables are replaced$/);
  });

  it("warns of rules that no agent could load, in either version of Rego", async () => {
    const warnings = async (rules: string): Promise<readonly string[]> =>
      (await generatePolicy({ manifest: { name: "f", text: SMALL }, settings: SETTINGS, rules, images: memoryImages({ "app:1": {} }) })).warnings.map(
        ({ message }) => message,
      );
    expect(await warnings("package agent_policy\nallow { true }\n")).toEqual([]);
    expect(await warnings("package agent_policy\nallow if { true }\n")).toEqual([]);
    expect(await warnings("package agent_policy\nallow if {\n")).toEqual([expect.stringMatching(/^the rules do not compile: rules\.rego:\d+:\d+/)]);
  });

  it("refuses rules of another package", async () => {
    expect((await failureOf(policiesOf(SMALL, undefined, { rules: "package other\n" }))).code).toBe("ERR_GENPOLICY_RULES");
  });
});

describe("parseSettings", () => {
  it("reads what comes with sealpod", () => {
    const settings = parseSettings(SETTINGS);
    expect(settings.pauseImage).toBe("sealpod.internal/pause:1");
    expect(settings.followKubernetes).toBe(true);
  });

  it("behaves as the AKS tool where settings say nothing", () => {
    const { cluster_config: _, sealpod: __, ...rest } = JSON.parse(SETTINGS) as Record<string, unknown>;
    const settings = parseSettings(JSON.stringify({ ...rest, unknown: 1 }));
    expect([settings.pauseImage, settings.followKubernetes]).toEqual(["mcr.microsoft.com/oss/kubernetes/pause:3.6", false]);
  });

  it("names the setting that is missing or of the wrong type", () => {
    const broken = (change: (json: Record<string, Record<string, unknown>>) => void): string => {
      const json = JSON.parse(SETTINGS) as Record<string, Record<string, unknown>>;
      change(json);
      return JSON.stringify(json);
    };
    for (const [text, message] of [
      ["{", "s.json:1:2: a name in double quotes expected"],
      ['{"a": 1, "a": 2}', 's.json:1:13: duplicate name "a"'],
      ["[]", "s.json: the settings must be an object"],
      [broken((json) => delete json["common"]?.["cpath"]), "s.json: common.cpath is missing"],
      [broken((json) => delete json["request_defaults"]), "s.json: request_defaults is missing"],
      [
        broken((json) => Object.assign(json["request_defaults"] ?? {}, { ReadStreamRequest: "yes" })),
        "s.json: request_defaults.ReadStreamRequest must be true or false",
      ],
      [broken((json) => Object.assign(json["pause_container"] ?? {}, { Mounts: [{}] })), "s.json: pause_container.Mounts[0].destination is missing"],
      [broken((json) => Object.assign(json["common"] ?? {}, { default_caps: "x" })), "s.json: common.default_caps must be an array"],
    ] as const) {
      expect(() => parseSettings(text, "s.json")).toThrow(message);
    }
  });
});

describe("encodePrettyJson", () => {
  it("prints two spaces per level, keeps fields, sorts maps by bytes, escapes only what it must", () => {
    const map = new Map([
      ["\u{1f600}", 1],
      ["\uffff", 2],
      ["10", 3],
      ["9", 4],
      ["b", 5],
    ]);
    expect(encodePrettyJson({ z: [], y: {}, x: [1, [true, null]], w: map, v: 'a"\\\n\u0001\u007fé\u2028', u: undefined })).toBe(
      '{\n  "z": [],\n  "y": {},\n  "x": [\n    1,\n    [\n      true,\n      null\n    ]\n  ],\n  "w": {\n    "10": 3,\n    "9": 4,\n    "b": 5,\n    "\uffff": 2,\n    "\u{1f600}": 1\n  },\n  "v": "a\\"\\\\\\n\\u0001\u007fé\u2028"\n}',
    );
  });
});

describe("AKS_PROFILE", () => {
  it("names the annotation of the AKS documents", () => expect(AKS_PROFILE.annotation).toBe("io.katacontainers.config.agent.policy"));
});
