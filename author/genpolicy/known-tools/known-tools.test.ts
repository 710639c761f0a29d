import { readFileSync } from "node:fs";
import type { JsonObject } from "@sealpod/core";
import { GenpolicyError } from "../errors.ts";
import { describe, expect, it } from "vitest";
import {
  AKS_TOOL,
  changed,
  COCO_TOOL,
  KNOWN_RULES,
  type KnownData,
  knownData,
  type KnownImages,
  knownPolicies,
  type KnownTool,
  podYaml,
  workloadYaml,
} from "./test-support.ts";

/** What the known tools print, by section 3.4 of specs/genpolicy.md, for settings and rules of their own shape. */

const APP = "    command: [run]\n";

async function containerOf(tool: KnownTool, text: string, images?: KnownImages): Promise<KnownData["containers"][number]> {
  const container = (await knownData(tool, text, images)).containers.at(-1);
  if (container === undefined) throw new Error("no container");
  return container;
}

async function problemsOf(tool: KnownTool, text: string, images?: KnownImages): Promise<readonly string[]> {
  const error: unknown = await knownPolicies(tool, text, images).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof GenpolicyError) return error.message.split("\n");
  throw new Error("not refused", { cause: error });
}

describe("the whole text", () => {
  const text = (runAs: string): string =>
    `apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: shop\n  annotations: {team: ü, "9": nine, "10": ten}\nspec:\n  securityContext: {${runAs}}\n  containers:\n  - name: app\n    image: app\n    command: [run, "$(LEVEL)"]\n    env: [{name: LEVEL, value: "1"}]\n    livenessProbe: {exec: {command: [cat, "/a b"]}}\n    volumeMounts: [{name: scratch, mountPath: /var/scratch}]\n  volumes: [{name: scratch, emptyDir: {}}]\n`;
  const image = { app: { env: ["PATH=/bin"], workingDir: "/srv" } };

  for (const [name, tool, runAs] of [
    ["aks", AKS_TOOL, "runAsUser: 1000"],
    ["coco", COCO_TOOL, "runAsUser: 1000, runAsGroup: 2000"],
  ] as const) {
    it(`is rules, line break, "policy_data := ", pretty JSON in generation ${name}`, async () => {
      const { policies } = await knownPolicies(tool, text(runAs), image);
      const golden = readFileSync(new URL(`testdata/${name}-pod.json`, import.meta.url), "utf8").trimEnd();
      expect(policies[0]?.policy).toBe(`${KNOWN_RULES}\npolicy_data := ${golden}`);
    });
  }
});

const SFX = "[bcdfghjklmnpqrstvwxz2456789]+";

describe("names of pods and namespaces by kind (2.5)", () => {
  const spec = "{containers: [{name: app, image: 'app:1'}]}";
  const name = async (tool: KnownTool, kind: string, metadata: string): Promise<string | undefined> =>
    (await containerOf(tool, workloadYaml(kind, spec, metadata))).OCI.Annotations["io.kubernetes.cri.sandbox-name"];

  it.each([
    ["Pod", ""],
    ["Deployment", `-${SFX}-${SFX}`],
    ["ReplicaSet", `-${SFX}`],
    ["ReplicationController", `-${SFX}`],
    ["DaemonSet", `-${SFX}`],
    ["StatefulSet", "-[0-9]+"],
    ["Job", `(-[0-9]+)?-${SFX}`],
    ["CronJob", `-[0-9]+(-[0-9]+)?-${SFX}`],
  ])("%s", async (kind, end) => {
    expect(await name(COCO_TOOL, kind, "{name: a.b}")).toBe(`^a.b${end}$`);
    expect(await name(COCO_TOOL, kind, "{generateName: a.b-}")).toBe(`^a\\.b\\-${SFX}${end}$`);
    expect(await name(AKS_TOOL, kind, "{name: a.b}")).toBe(kind === "Pod" ? "a.b" : undefined);
    expect(await name(AKS_TOOL, kind, "{generateName: a-}")).toBe(kind === "Pod" ? "$(generated-name)" : undefined);
    expect((await containerOf(AKS_TOOL, workloadYaml(kind, spec))).OCI.Annotations["io.kubernetes.cri.sandbox-namespace"]).toBe("default");
    expect((await containerOf(COCO_TOOL, workloadYaml(kind, spec))).OCI.Annotations["io.kubernetes.cri.sandbox-namespace"]).toBe("");
  });

  it("has no name for a Pod without one in 2023; upstream's pattern would match nothing", async () => {
    expect(await name(AKS_TOOL, "Pod", "{}")).toBe("");
    expect(await problemsOf(COCO_TOOL, workloadYaml("Pod", spec, "{}"))).toEqual([expect.stringContaining("no metadata.name")]);
  });

  it("puts the annotation where each kind keeps its pods", async () => {
    for (const tool of [AKS_TOOL, COCO_TOOL]) {
      const { yaml, policies } = await knownPolicies(tool, workloadYaml("CronJob", spec));
      expect(yaml).toMatch(/template: \{metadata: .*io\.katacontainers\.config/);
      expect(yaml).toContain(policies[0]?.annotation);
    }
  });
});

describe("annotations", () => {
  it("lets the pod's own come first, but for the namespace, and strips only this generation's policy", async () => {
    const metadata =
      "{name: web, annotations: {io.kubernetes.cri.sandbox-id: own, io.kubernetes.cri.sandbox-name: own, io.kubernetes.cri.image-name: own, io.kubernetes.cri.container-name: own, " +
      "io.kubernetes.cri.sandbox-namespace: own, nerdctl/network-namespace: own, io.katacontainers.config.agent.policy: P, io.katacontainers.config.hypervisor.cc_init_data: I}}";
    for (const [tool, other, value] of [
      [AKS_TOOL, "io.katacontainers.config.hypervisor.cc_init_data", "I"],
      [COCO_TOOL, "io.katacontainers.config.agent.policy", "P"],
    ] as const) {
      const { containers } = await knownData(tool, podYaml(APP, "", metadata));
      expect(containers[1]?.OCI.Annotations).toEqual({
        "io.katacontainers.pkg.oci.bundle_path": "/run/containerd/io.containerd.runtime.v2.task/k8s.io/$(bundle-id)",
        "io.katacontainers.pkg.oci.container_type": "pod_container",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "own",
        "io.kubernetes.cri.image-name": "own",
        "io.kubernetes.cri.sandbox-id": "own",
        "io.kubernetes.cri.sandbox-name": "own",
        "io.kubernetes.cri.sandbox-namespace": tool === AKS_TOOL ? "default" : "",
        "nerdctl/network-namespace": "own",
        [other]: value,
      });
      expect(containers[0]?.OCI.Annotations["nerdctl/network-namespace"]).toBe("own");
      expect(Object.keys(containers[0]?.OCI.Annotations ?? {})).toContain("io.kubernetes.cri.container-name");
    }
  });

  it("adds :latest to an image without any colon", async () => {
    const of = async (image: string): Promise<string | undefined> =>
      (await containerOf(COCO_TOOL, podYaml(APP).replace("app:1", image), { [image]: {} })).OCI.Annotations["io.kubernetes.cri.image-name"];
    expect([await of("app"), await of("a.example:5000/app")]).toEqual(["app:latest", "a.example:5000/app"]);
  });

  it("expects another network on the host's", async () => {
    const { containers } = await knownData(COCO_TOOL, podYaml(APP, "  hostNetwork: true\n"));
    expect(containers[0]?.OCI.Annotations["nerdctl/network-namespace"]).toBe(
      "^/var/run/netns/cnitest-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    );
    expect(containers.map(({ OCI }) => (OCI.Linux["Namespaces"] as readonly JsonObject[]).map(({ Type }) => Type))).toEqual([
      ["ipc", "mount"],
      ["ipc", "uts", "mount"],
    ]);
  });
});

describe("containers", () => {
  it("lists pause, init containers from the last to the first, containers; ephemeral ones only if asked", async () => {
    const text = podYaml(
      APP,
      "  initContainers: [{name: i1, image: 'app:1'}, {name: i2, image: 'app:1'}, {name: i3, image: 'app:1', restartPolicy: Always}]\n  ephemeralContainers: [{name: e, image: 'app:1'}]\n",
    );
    const names = (data: KnownData): readonly (string | undefined)[] => data.containers.map(({ OCI }) => OCI.Annotations["io.kubernetes.cri.container-name"]);
    for (const tool of [AKS_TOOL, COCO_TOOL]) {
      expect(names(await knownData(tool, text))).toEqual([undefined, "i3", "i2", "i1", "app"]);
      expect(names(await knownData(tool, text, undefined, { includeEphemeralContainers: true }))).toEqual([undefined, "i3", "i2", "i1", "app", "e"]);
      expect((await knownPolicies(tool, text)).warnings.map(({ message }) => message)).toContain(
        "ephemeral containers are not in the policy: they will be refused",
      );
    }
  });

  it("takes the terminal from the image unless the container says otherwise", async () => {
    for (const tool of [AKS_TOOL, COCO_TOOL]) {
      const terminal = async (fields: string): Promise<unknown> =>
        (await containerOf(tool, podYaml(fields), { "app:1": { tty: true } })).OCI.Process["Terminal"];
      expect([await terminal(APP), await terminal(`${APP}    tty: false\n`)]).toEqual([true, false]);
    }
  });

  it("joins command, args, entrypoint and cmd", async () => {
    const image = { "app:1": { entrypoint: ["/entry"], cmd: ["cmd"] } };
    for (const tool of [AKS_TOOL, COCO_TOOL]) {
      const args = async (fields: string): Promise<readonly string[] | undefined> => (await containerOf(tool, podYaml(fields), image)).OCI.Process.Args;
      expect(await args("")).toEqual(["/entry", "cmd"]);
      expect(await args("    args: [a]\n")).toEqual(["/entry", "a"]);
      expect(await args("    command: [c]\n")).toEqual(["c"]);
      expect(await args("    command: [c]\n    args: [a]\n")).toEqual(["c", "a"]);
      expect(await args("    command: []\n")).toBeUndefined();
    }
  });

  it("appends the settings' arguments that are not there", async () => {
    const { containers } = await knownData(AKS_TOOL, podYaml(APP), {
      "app:1": {},
      "mcr.microsoft.com/oss/kubernetes/pause:3.6": { entrypoint: ["/sbin/init"] },
    });
    expect(containers[0]?.OCI.Process.Args).toEqual(["/sbin/init", "/pause"]);
  });

  it("knows allowPrivilegeEscalation of the pod in upstream's generation alone", async () => {
    const nnp = async (tool: KnownTool, own: string, pod: string): Promise<unknown> =>
      (await containerOf(tool, podYaml(`    securityContext: {${own}}\n`, `  securityContext: {${pod}}\n`))).OCI.Process["NoNewPrivileges"];
    const no = "allowPrivilegeEscalation: false";
    const yes = "allowPrivilegeEscalation: true";
    expect([await nnp(COCO_TOOL, "", no), await nnp(COCO_TOOL, yes, no), await nnp(COCO_TOOL, no, yes), await nnp(COCO_TOOL, "", "")]).toEqual([
      true,
      false,
      true,
      false,
    ]);
    expect([await nnp(AKS_TOOL, "", no), await nnp(AKS_TOOL, no, "")]).toEqual([false, true]);
  });

  it("clears the masks of a privileged container and lets it, and upstream's pause, write to /sys", async () => {
    for (const [tool, pauseAccess] of [
      [AKS_TOOL, "ro"],
      [COCO_TOOL, "rw"],
    ] as const) {
      const { containers } = await knownData(tool, podYaml("    securityContext: {privileged: true}\n"));
      const sys = containers.map(({ OCI }) => OCI.Mounts.filter(({ destination }) => destination.startsWith("/sys")).map(({ options }) => options.at(-1)));
      expect(sys).toEqual([[pauseAccess], ["rw", "rw"]]);
      expect([containers[1]?.OCI.Linux["MaskedPaths"], containers[1]?.OCI.Linux["ReadonlyPaths"]]).toEqual([[], []]);
      expect(containers[0]?.OCI.Linux["MaskedPaths"]).toEqual(["/proc/acpi", "/sys/firmware"]);
      expect(containers[1]?.OCI.Process.Capabilities.Bounding).toEqual(["$(privileged_caps)"]);
    }
  });

  it("lists commands of probes and hooks: joined in 2023, as lists in upstream's generation", async () => {
    const fields = `    lifecycle: {preStop: {exec: {command: [e, x]}}, postStart: {exec: {command: [d]}}}
    startupProbe: {exec: {command: [c]}}
    readinessProbe: {exec: {command: [b]}}
    livenessProbe: {exec: {command: [a, "1 2"]}}
`;
    expect((await containerOf(AKS_TOOL, podYaml(fields))).exec_commands).toEqual(["a 1 2", "b", "c", "d", "e x"]);
    expect((await containerOf(COCO_TOOL, podYaml(fields))).exec_commands).toEqual([["a", "1 2"], ["b"], ["c"], ["d"], ["e", "x"]]);
  });

  it("shares the process namespace of the pod, but for pause", async () => {
    const { containers } = await knownData(COCO_TOOL, podYaml(APP, "  shareProcessNamespace: true\n"));
    expect(containers.map(({ sandbox_pidns }) => sandbox_pidns)).toEqual([false, true]);
  });

  it("joins sysctls of settings and pod, sorted, the pod's over the settings'", async () => {
    const { containers } = await knownData(
      COCO_TOOL,
      podYaml(
        APP,
        '  securityContext: {sysctls: [{name: net.b, value: "1"}, {name: net.ipv4.ip_unprivileged_port_start, value: "80"}, {name: a.a, value: x}]}\n',
      ),
    );
    for (const { OCI } of containers) {
      expect(Object.entries(OCI.Linux["Sysctl"] as JsonObject)).toEqual([
        ["a.a", "x"],
        ["net.b", "1"],
        ["net.ipv4.ip_unprivileged_port_start", "80"],
        ["net.ipv4.ping_group_range", "0 2147483647"],
      ]);
    }
    const bare = changed(changed(COCO_TOOL, "other_container", { Linux: {} }), "pause_container", { Linux: {} });
    expect((await knownData(bare, podYaml(APP))).containers.map(({ OCI }) => Object.keys(OCI.Linux))).toEqual([
      ["Namespaces", "MaskedPaths", "ReadonlyPaths", "Devices"],
      ["Namespaces", "MaskedPaths", "ReadonlyPaths", "Devices"],
    ]);
  });

  it("describes raw volumes and GPUs", async () => {
    const tool = changed(COCO_TOOL, "other_container", { Linux: { Devices: [{ Type: "c", Path: "/dev/settings" }] } });
    const fields = `    volumeDevices: [{name: v, devicePath: /dev/xvda}]\n    resources: {limits: {nvidia.com/pgpu: 2, cpu: 1}}\n`;
    const container = await containerOf(tool, podYaml(fields, "  volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]\n"));
    const gpu = { id: "", type_: "vfio-pci-gk", vm_path: "", container_path: "/dev/vfio/devices/vfio", options: [] };
    expect(container.devices).toEqual([{ id: "", type_: "", vm_path: "", container_path: "/dev/xvda", options: [] }, gpu, gpu]);
    expect(container.OCI.Linux["Devices"]).toEqual([
      { Type: "", Path: "/dev/xvda" },
      { Type: "c", Path: "/dev/settings" },
    ]);
    expect(container.runtime_anno_patterns).toEqual({
      "^cdi\\.k8s\\.io/vfio[0-9]+$": "^nvidia\\.com/gpu=[0-9]+$",
      "^io\\.kubernetes\\.container\\.terminationMessagePath$": "^/.*$",
      "^io\\.kubernetes\\.container\\.terminationMessagePolicy$": "^(File|FallbackToLogsOnError)$",
    });
    const half = await containerOf(COCO_TOOL, podYaml("    resources: {limits: {nvidia.com/pgpu: 0.5}}\n"));
    expect(half.devices).toEqual([]);
    expect(
      await problemsOf(
        COCO_TOOL,
        podYaml("    volumeDevices: [{name: v, devicePath: /dev/vfio/devices/vfio0}]\n", "  volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]\n"),
      ),
    ).toEqual([expect.stringMatching(/^app\.yaml:\d+:\d+: spec\.containers\[0\]\.volumeDevices\[0\]: devicePath/)]);
  });
});

describe("capabilities", () => {
  it.each([
    ["{}", ["$(default_caps)"]],
    ["{drop: [ALL]}", []],
    ["{drop: [ALL], add: [NET_ADMIN]}", ["CAP_NET_ADMIN"]],
    ["{drop: [KILL], add: [KILL]}", ["CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL"]],
    ["{drop: [NET_RAW], add: [NET_RAW]}", ["$(default_caps)"]],
    ["{add: [ALL]}", ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_ALL"]],
    ["{add: [CAP_KILL]}", ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_CAP_KILL"]],
    ["{drop: [CHOWN, KILL, NET_RAW], add: [CHOWN, DAC_OVERRIDE, KILL, NET_ADMIN, NET_RAW]}", ["$(privileged_caps)"]],
  ])("%s", async (capabilities, expected) => {
    for (const tool of [AKS_TOOL, COCO_TOOL]) {
      expect((await containerOf(tool, podYaml(`    securityContext: {capabilities: ${capabilities}}\n`))).OCI.Process.Capabilities).toEqual({
        Ambient: [],
        Bounding: expected,
        Effective: expected,
        Inheritable: [],
        Permitted: expected,
      });
    }
  });
});

describe("environment", () => {
  const FIELDS: readonly (readonly [path: string, aks: string | RegExp, coco: string | RegExp])[] = [
    ["metadata.name", "$(sandbox-name)", "$(sandbox-name)"],
    ["metadata.namespace", "default", "$(sandbox-namespace)"],
    ["metadata.uid", "$(pod-uid)", "$(pod-uid)"],
    ["status.hostIP", "$(host-ip)", "$(host-ip)"],
    ["status.podIP", "$(pod-ip)", "$(pod-ip)"],
    ["spec.nodeName", "$(node-name)", "$(node-name)"],
    ["spec.serviceAccountName", "default", "default"],
    ["metadata.annotations['team']", "shop", "shop"],
    ["metadata.annotations['none']", "$(todo-annotation)", "$(todo-annotation)"],
    ["metadata.labels['app']", /not supported/, "web"],
    ["metadata.labels['none']", /not supported/, /has no label "none"/],
    ["status.podIPs", /not supported/, /not supported/],
    ["status.hostIPs", /not supported/, /not supported/],
  ];
  it.each(FIELDS)("fieldRef %s", async (path, aks, coco) => {
    const text = podYaml(
      `    env: [{name: A, valueFrom: {fieldRef: {fieldPath: "${path}"}}}]\n`,
      "  serviceAccountName: ignored\n",
      "{name: web, labels: {app: web}, annotations: {team: shop}}",
    );
    for (const [tool, expected] of [
      [AKS_TOOL, aks],
      [COCO_TOOL, coco],
    ] as const) {
      if (typeof expected === "string") expect((await containerOf(tool, text)).OCI.Process.Env).toContain(`A=${expected}`);
      else expect(await problemsOf(tool, text)).toEqual([expect.stringMatching(expected)]);
    }
  });

  it("keeps the order image, TERM, HOSTNAME, env, envFrom, settings, and repeats names but not strings", async () => {
    const text = `${podYaml(`    tty: true
    serviceAccountName: own
    env:
    - {name: A, value: new}
    - {name: TERM, value: xterm}
    - {name: N}
    - {name: NUM, value: 1}
    - {name: K, valueFrom: {configMapKeyRef: {name: m, key: b}}}
    - {name: S, valueFrom: {secretKeyRef: {name: s, key: p}}}
    - {name: R, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: SA, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    envFrom: [{configMapRef: {name: m}, prefix: P_}, {secretRef: {name: s}}]
`)}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: other}\ndata: {b: "2", a: "1"}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {p: cGFzcw==}\n`;
    for (const tool of [AKS_TOOL, COCO_TOOL]) {
      const withEnv = changed(tool, "other_container", { Process: { Env: ["SET=1", "A=new"] } });
      const { policies } = await knownPolicies(withEnv, text, { "app:1": { env: ["A=old", "B=1"] } });
      const data = JSON.parse(policies[0]?.policy.slice(`${KNOWN_RULES}\npolicy_data := `.length) ?? "") as KnownData;
      expect(data.containers[1]?.OCI.Process.Env).toEqual([
        "A=old",
        "B=1",
        "TERM=xterm",
        "HOSTNAME=$(host-name)",
        "A=new",
        "N=",
        "NUM=1",
        "K=2",
        "S=pass",
        "R=$(resource-field)",
        "SA=own",
        "a=1",
        "b=2",
        "p=pass",
        "SET=1",
      ]);
    }
  });

  it("gives images without variables a PATH, the pause container no HOSTNAME", async () => {
    const { containers } = await knownData(COCO_TOOL, podYaml(APP), { "app:1": {}, "pause.example:3": {} });
    const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    expect(containers.map(({ OCI }) => OCI.Process.Env)).toEqual([[path], [path, "HOSTNAME=$(host-name)"]]);
  });

  it("refuses references to nothing, optional or not, all at once", async () => {
    const text = podYaml(`    env:
    - {name: A, valueFrom: {configMapKeyRef: {name: m, key: k, optional: true}}}
    - {name: B, valueFrom: {secretKeyRef: {name: s, key: k}}}
    envFrom: [{secretRef: {name: s, optional: true}}]
`);
    for (const tool of [AKS_TOOL, COCO_TOOL]) {
      expect(await problemsOf(tool, text)).toEqual([
        'app.yaml:9:7: spec.containers[0].env[0]: env A: no key "k" in a ConfigMap named "m"',
        'app.yaml:10:7: spec.containers[0].env[1]: env B: no key "k" in a Secret named "s"',
        'app.yaml:11:15: spec.containers[0].envFrom[0]: envFrom: no Secret named "s"',
      ]);
    }
  });

  it("looks into further files, but not into Lists", async () => {
    const text = podYaml("    envFrom: [{secretRef: {name: s}}]\n");
    const secret = "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {p: cGFzcw==}}";
    const { containers } = await knownData(AKS_TOOL, text, undefined, { configFiles: [{ name: "s.yaml", text: `--- ${secret}\n` }] });
    expect(containers[1]?.OCI.Process.Env).toContain("p=pass");
    await expect(knownPolicies(AKS_TOOL, `${text}---\napiVersion: v1\nkind: List\nitems: [${secret}]\n`)).rejects.toThrow('no Secret named "s"');
  });
});

const sf = (base: string): string => `$(sfprefix)${base}$`;

describe("mounts and storages of volumes", () => {
  type Row = readonly [type: string, source: string, options: string];
  const mounted = async (tool: KnownTool, volume: string, mount: string, pod = ""): Promise<{ rows: readonly Row[]; storages: readonly JsonObject[] }> => {
    const text = podYaml(`    volumeMounts: [{name: v, ${mount}}]\n`, `  volumes: [{name: v, ${volume}}]\n${pod}`);
    const { OCI, storages } = await containerOf(tool, text);
    const path = /mountPath: ([^,}]*)/.exec(mount)?.[1] ?? "";
    return {
      rows: OCI.Mounts.filter(({ destination }) => destination === path).map(({ type_, source, options }) => [type_, source, options.join()]),
      storages: storages.filter(({ fstype }) => fstype !== "tar" && fstype !== "fuse3.kata-overlay"),
    };
  };

  const rbind = (access: string, propagation = "rprivate"): string => `rbind,${propagation},${access}`;
  const TABLE: readonly (readonly [name: string, volume: string, mount: string, aks: Row, coco: Row])[] = [
    ["hostPath below /dev", "hostPath: {path: /dev/fuse}", "mountPath: /d.e", ["bind", "/dev/fuse", rbind("rw")], ["bind", "/dev/fuse", rbind("rw")]],
    ["hostPath /dev", "hostPath: {path: /dev}", "mountPath: /d, readOnly: true", ["bind", "/dev", rbind("ro")], ["bind", "/dev", rbind("ro")]],
    ["hostPath below /dev with subPath", "hostPath: {path: /dev}", "mountPath: /d, subPath: x", ["bind", sf("d"), rbind("rw")], ["bind", sf("d"), rbind("rw")]],
    ["hostPath /devices", "hostPath: {path: /devices}", "mountPath: /d", ["bind", sf("d"), rbind("rw")], ["bind", sf("d"), rbind("rw")]],
    ["hostPath /proc", "hostPath: {path: /proc/1}", "mountPath: /d, readOnly: true", ["bind", sf("d"), rbind("ro")], ["bind", sf("d"), rbind("ro")]],
    ["other hostPath", "hostPath: {path: /var/x}", "mountPath: /a/b.c/", ["bind", sf("b.c"), rbind("rw")], ["bind", sf("b\\.c"), rbind("rw")]],
    ["PVC", "persistentVolumeClaim: {claimName: c}", "mountPath: /b-c, readOnly: true", ["bind", sf("b-c"), rbind("rw")], ["bind", sf("b\\-c"), rbind("rw")]],
    ["azureFile", "azureFile: {secretName: s, shareName: t}", "mountPath: /b#c", ["bind", sf("b#c"), rbind("rw")], ["bind", sf("b\\#c"), rbind("rw")]],
    ["csi as a PVC", "csi: {driver: d.example}", "mountPath: /c", ["bind", sf("c"), rbind("rw")], ["bind", sf("c"), rbind("rw")]],
    ["configMap", "configMap: {name: m}", "mountPath: /b.c", ["bind", sf("b.c"), rbind("ro")], ["bind", sf("b.c"), rbind("ro")]],
    ["secret", "secret: {secretName: s}", "mountPath: /b.c", ["bind", sf("b.c"), rbind("ro")], ["bind", sf("b.c"), rbind("ro")]],
    ["projected", "projected: {sources: []}", "mountPath: /b.c", ["bind", sf("b.c"), rbind("ro")], ["bind", sf("b\\.c"), rbind("ro")]],
    ["downwardAPI", "downwardAPI: {items: []}", "mountPath: /a/b.c", ["bind", sf("b.c"), rbind("ro")], ["bind", sf("b.c"), rbind("ro")]],
    ["emptyDir with subPathExpr", "emptyDir: {}", "mountPath: /b.c, subPathExpr: x", ["bind", sf("b.c"), rbind("rw")], ["bind", sf("b.c"), rbind("rw")]],
    ["emptyDir with subPath", "emptyDir: {}", "mountPath: /c, subPath: x", ["bind", sf("c"), rbind("rw")], ["bind", sf("c"), rbind("rw")]],
  ];
  it.each(TABLE)("%s", async (_name, volume, mount, aks, coco) => {
    for (const [tool, expected] of [
      [AKS_TOOL, aks],
      [COCO_TOOL, coco],
    ] as const) {
      expect(await mounted(tool, volume, mount)).toEqual({ rows: [expected], storages: [] });
    }
  });

  it("shares a hostPath that is mounted in both directions", async () => {
    const text = podYaml(
      "    securityContext: {privileged: true}\n    volumeMounts: [{name: v, mountPath: /x, mountPropagation: Bidirectional}, {name: v, mountPath: /y, mountPropagation: HostToContainer}]\n",
      "  volumes: [{name: v, hostPath: {path: /var/x}}]\n",
    );
    for (const tool of [AKS_TOOL, COCO_TOOL])
      expect((await containerOf(tool, text)).OCI.Mounts.slice(-2).map(({ options }) => options.join())).toEqual(["rbind,rshared,rw", "rbind,rprivate,rw"]);
  });

  it("emptyDir in memory, with the pod's group in upstream's generation", async () => {
    const storage = {
      driver: "ephemeral",
      driver_options: [],
      source: "tmpfs",
      fstype: "tmpfs",
      options: [],
      mount_point: "^/run/kata-containers/sandbox/ephemeral/v$",
      fs_group: null,
    };
    const row: Row = ["bind", "^/run/kata-containers/sandbox/ephemeral/v$", rbind("ro")];
    const ask = async (tool: KnownTool): ReturnType<typeof mounted> =>
      mounted(tool, "emptyDir: {medium: Memory}", "mountPath: /m, readOnly: true", "  securityContext: {fsGroup: 7}\n");
    expect(await ask(AKS_TOOL)).toEqual({ rows: [row], storages: [storage] });
    expect(await ask(COCO_TOOL)).toEqual({ rows: [row], storages: [{ ...storage, options: ["fsgid=7"], shared: false }] });
  });

  it("emptyDir on the node's disk in 2023, never read-only", async () => {
    const path = "^$(cpath)/$(sandbox-id)/local/v$";
    expect(await mounted(AKS_TOOL, "emptyDir: {}", "mountPath: /m, readOnly: true")).toEqual({
      rows: [["local", path, rbind("rw")]],
      storages: [{ driver: "local", driver_options: [], source: "local", fstype: "local", options: ["mode=0777"], mount_point: path, fs_group: null }],
    });
  });

  it("emptyDir on a disk of its own, one storage per mount", async () => {
    const storage = { driver: "", source: "", fstype: "ext4", mount_point: "$(spath)/$(b64_device_id)", shared: true };
    const fsGroup = "  securityContext: {fsGroup: 7}\n";
    expect(await mounted(COCO_TOOL, "emptyDir: {}", "mountPath: /m, readOnly: true")).toEqual({
      rows: [["bind", "", rbind("ro")]],
      storages: [{ ...storage, driver_options: ["encryption_key=ephemeral", "create_filesystem"], options: [], fs_group: null }],
    });
    expect(await mounted(changed(COCO_TOOL, "cluster_config", { emptydir_type: "block-plain" }), "emptyDir: {}", "mountPath: /m", fsGroup)).toEqual({
      rows: [["bind", "", rbind("rw")]],
      storages: [{ ...storage, driver_options: ["create_filesystem"], options: ["discard"], fs_group: { group_id: 7, group_change_policy: 0 } }],
    });
    const twice = podYaml("    volumeMounts: [{name: v, mountPath: /m}, {name: v, mountPath: /n}]\n", "  volumes: [{name: v, emptyDir: {}}]\n");
    expect((await containerOf(COCO_TOOL, twice)).storages.length).toBe(2);
  });

  it("emptyDir shared with the host: two mounts, both escaped", async () => {
    const shared = changed(COCO_TOOL, "cluster_config", { emptydir_type: "shared-fs" });
    const text = podYaml("    volumeMounts: [{name: a-b, mountPath: /m.n, readOnly: true}]\n", "  volumes: [{name: a-b, emptyDir: {}}]\n");
    expect((await containerOf(shared, text)).OCI.Mounts.slice(-2)).toEqual([
      { destination: "/m.n", source: "^$(cpath)/sandbox-[0-9a-f]{16}-a\\-b$", type_: "bind", options: ["rbind", "rprivate", "ro"] },
      { destination: "/m.n", source: "$(sfprefix)m\\.n$", type_: "bind", options: ["rbind", "rprivate", "ro"] },
    ]);
  });

  it("configMap with storages, where the settings want them", async () => {
    const aks = changed(AKS_TOOL, "kata_config", { confidential_guest: false });
    const watched = "^$(cpath)/watchable/$(bundle-id)-[a-z0-9]{16}-m$";
    expect(await mounted(aks, "configMap: {name: m}", "mountPath: /m")).toEqual({
      rows: [["bind", watched, rbind("ro")]],
      storages: [
        {
          driver: "watchable-bind",
          driver_options: [],
          source: sf("m"),
          fstype: "bind",
          options: ["rbind", "rprivate", "ro"],
          mount_point: watched,
          fs_group: null,
        },
      ],
    });
    const coco = changed(COCO_TOOL, "kata_config", { enable_configmap_secret_storages: true });
    expect((await mounted(coco, "secret: {secretName: m}", "mountPath: /m")).storages).toEqual([
      {
        driver: "local",
        driver_options: [],
        source: sf("m"),
        fstype: "bind",
        options: ["rbind", "rprivate", "ro"],
        mount_point: sf("m"),
        fs_group: null,
        shared: false,
      },
    ]);
  });

  it("claims of a StatefulSet: last in 2023, first in upstream's generation", async () => {
    const text =
      "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s}\nspec:\n  serviceName: s\n  volumeClaimTemplates: [{metadata: {name: data}, spec: {}}]\n" +
      "  template: {spec: {volumes: [{name: v, hostPath: {path: /x}}], containers: [{name: app, image: 'app:1', volumeMounts: [{name: v, mountPath: /v}, {name: data, mountPath: /lib/d.b, readOnly: true}]}]}}\n";
    const claim = {
      destination: "/lib/d.b",
      source: "^/run/kata-containers/shared/containers/$(bundle-id)-[a-z0-9]{16}-d.b$",
      type_: "bind",
      options: ["rbind", "rprivate", "rw"],
    };
    expect((await containerOf(AKS_TOOL, text)).OCI.Mounts.at(-1)).toEqual(claim);
    expect((await containerOf(COCO_TOOL, text)).OCI.Mounts.at(-2)).toEqual(claim);
  });

  it("volumes of the image, in upstream's generation", async () => {
    const image = { "app:1": { volumes: ["//var//lib/x.y", "/etc/hosts", "/var/data/"] } };
    expect((await containerOf(COCO_TOOL, podYaml(APP), image)).OCI.Mounts.slice(-2)).toEqual([
      { destination: "/var/lib/x.y", source: sf("x.y"), type_: "bind", options: ["rbind", "rprivate", "rw"] },
      { destination: "/var/data/", source: sf("data"), type_: "bind", options: ["rbind", "rprivate", "rw"] },
    ]);
    expect((await containerOf(AKS_TOOL, podYaml(APP), image)).OCI.Mounts.some(({ destination }) => destination === "/var/data/")).toBe(false);
  });

  it("mounts of the settings: moved, completed, updated in place, and those that only a pod's mount brings", async () => {
    const text = podYaml(
      "    terminationMessagePath: /log/end\n    securityContext: {readOnlyRootFilesystem: true}\n    volumeMounts: [{name: v, mountPath: /opt/only-if-mounted}, {name: v, mountPath: /etc/hosts}]\n",
      "  volumes: [{name: v, hostPath: {path: /x}}]\n",
    );
    for (const tool of [AKS_TOOL, COCO_TOOL]) {
      const { OCI } = await containerOf(tool, text);
      expect(OCI.Mounts.map(({ destination, source, options }) => [destination, source, options.at(-1)]).slice(7)).toEqual([
        ["/etc/hosts", sf("hosts"), "rw"],
        ["/log/end", sf("end"), "rw"],
        ["/etc/hostname", sf("hostname"), "ro"],
        ["/etc/resolv.conf", sf("resolv.conf"), "ro"],
        ["/var/run/secrets/kubernetes.io/serviceaccount", sf("serviceaccount"), "ro"],
        ["/opt/only-if-mounted", sf(tool === AKS_TOOL ? "only-if-mounted" : "only\\-if\\-mounted"), "rw"],
      ]);
      expect(OCI.Mounts[3]).toEqual({ destination: "/dev/shm", source: "/run/kata-containers/sandbox/shm", type_: "bind", options: ["rbind"] });
      const [pause] = (await knownData(tool, podYaml(APP))).containers;
      expect(pause?.OCI.Mounts.map(({ destination }) => destination)).toEqual([
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/etc/resolv.conf",
      ]);
    }
  });

  it("refuses what no policy can describe, at its place", async () => {
    const text = podYaml(
      "    volumeMounts: [{name: v, mountPath: /x}, {name: w, mountPath: /}]\n",
      "  volumes: [{name: v, nfs: {server: s, path: /}}, {name: w, emptyDir: {}}, {name: unused, iscsi: {}}]\n",
    );
    for (const tool of [AKS_TOOL, COCO_TOOL])
      expect(await problemsOf(tool, text)).toEqual([
        expect.stringMatching(/^app\.yaml:5:13: spec\.volumes\[0\]: volume "v" is of type nfs, which a policy cannot describe/),
        'app.yaml:9:46: spec.containers[0].volumeMounts[1]: mountPath "/" has no last component',
      ]);
  });
});

describe("layers of images", () => {
  it("are in the policy of 2023, and in upstream's if its settings ask", async () => {
    const pinned = changed(COCO_TOOL, "common", { image_layer_verification: "host-erofs-dm-verity" });
    const { storages } = await containerOf(pinned, podYaml(APP));
    expect(storages[0]).toEqual({
      driver: "blk",
      driver_options: [],
      source: "",
      fstype: "erofs",
      options: ["$(hash0)"],
      mount_point: "$(layer0)",
      fs_group: null,
      shared: false,
    });
    expect(storages.at(-1)?.["mount_point"]).toBe("$(root_path)");
    expect((await containerOf(COCO_TOOL, podYaml(APP))).storages).toEqual([]);
    expect((await containerOf(changed(AKS_TOOL, "common", { image_layer_verification: "none" }), podYaml(APP))).storages).toEqual([]);
  });
});
