import { describe, expect, it } from "vitest";
import { decodeUtf8, encodeUtf8 } from "@sealpod/core";
import type { HostFile, PlannedContainer, PodPlan } from "./context.ts";
import { planPod } from "./plan.ts";
import type { PodContainer, PodSpec, PodTemplate, PodVolume, VolumeMount } from "./pod.ts";
import type { RuntimeMount } from "./runtime-spec.ts";
import { context, TEMPLATE } from "./testdata/fixtures.ts";

const RUN = "/state/run/1";
const POD = `${RUN}/pods/5f0c8f7e-2f51-4a7c-9d37-0d9c2a1b3c4d`;

function container(plan: PodPlan, name: string): PlannedContainer {
  const found = [...plan.initContainers, ...plan.containers].find((planned) => planned.name === name);
  if (found === undefined) throw new Error(`no container ${name}`);
  return found;
}

function mount(planned: PlannedContainer, destination: string): RuntimeMount | undefined {
  return planned.spec.mounts.find((candidate) => candidate.destination === destination);
}

function withContainer(changes: Partial<PodContainer>, spec: Partial<PodSpec> = {}): PodTemplate {
  const [first] = TEMPLATE.spec.containers;
  if (first === undefined) throw new Error("the fixture has no container");
  return { ...TEMPLATE, spec: { ...TEMPLATE.spec, containers: [{ ...first, ...changes }], ...spec } };
}

/** The template with a volume `v` that is mounted at /data/v. */
function mounted(changes: Partial<VolumeMount>, volume: Partial<PodVolume> = { emptyDir: {} }): PodTemplate {
  return withContainer({ volumeMounts: [{ name: "v", mountPath: "/data/v", ...changes }] }, { volumes: [{ name: "v", ...volume }] });
}

function fileText(files: readonly HostFile[], path: string): string {
  const file = files.find((candidate) => candidate.path === path);
  if (file?.kind !== "file") throw new Error(`no file ${path}`);
  return decodeUtf8(file.content);
}

/** The normal form in which genpolicy expects a bind mount of a container (specs/genpolicy.md 3.4): the source is the shim's. */
const bindMount = (destination: string, access: "ro" | "rw"): unknown => ({
  destination,
  type: "bind",
  source: expect.stringMatching(/^\/state\/run\/1\//),
  options: ["rbind", "rprivate", access],
});

const plan = await planPod(TEMPLATE, context());

describe("the sandbox", () => {
  const { sandbox } = plan;

  it("is the pause container as containerd 1.7 describes it", () => {
    expect(sandbox.name).toBe("POD");
    expect(sandbox.bundle).toBe(`/run/containerd/io.containerd.runtime.v2.task/k8s.io/${sandbox.id}`);
    expect(sandbox.id).toMatch(/^[0-9a-f]{64}$/);
    expect(sandbox.spec.ociVersion).toBe("1.1.0-rc.1");
    expect(sandbox.spec.root).toEqual({ path: "rootfs", readonly: true });
    expect(sandbox.spec.hostname).toBe("nginx-deployment-5d59d67564-x2lvq");
    expect(sandbox.spec.process).toMatchObject({
      user: { uid: 65535, gid: 65535, additionalGids: [65535] },
      args: ["/pause"],
      env: ["PATH=/usr/bin"],
      cwd: "/",
      noNewPrivileges: true,
    });
  });

  it("has the annotations of the CRI plugin and the pod's kata ones, no others", () => {
    expect(sandbox.spec.annotations).toEqual({
      "io.katacontainers.config.agent.policy": "cG9saWN5",
      "io.kubernetes.cri.container-type": "sandbox",
      "io.kubernetes.cri.sandbox-id": sandbox.id,
      "io.kubernetes.cri.sandbox-name": plan.name,
      "io.kubernetes.cri.sandbox-namespace": "default",
      "io.kubernetes.cri.sandbox-uid": plan.uid,
      "io.kubernetes.cri.sandbox-log-directory": `/var/log/pods/default_${plan.name}_${plan.uid}`,
      "io.kubernetes.cri.sandbox-cpu-period": "100000",
      "io.kubernetes.cri.sandbox-cpu-quota": "12000",
      "io.kubernetes.cri.sandbox-cpu-shares": "122",
      "io.kubernetes.cri.sandbox-memory": "1073741824",
    });
  });

  it("has the policy's mounts, masked and read-only paths", () => {
    expect(sandbox.spec.mounts.map((item) => item.destination)).toEqual(["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/dev/shm", "/etc/resolv.conf"]);
    expect(mount(sandbox, "/etc/resolv.conf")?.options).toEqual(["rbind", "ro", "nosuid", "nodev", "noexec"]);
    expect(sandbox.spec.linux.maskedPaths).toContain("/proc/asound");
    expect(sandbox.spec.linux.readonlyPaths).toEqual(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    expect(sandbox.spec.linux.namespaces.map((item) => item.type)).toEqual(["pid", "ipc", "uts", "mount", "network"]);
    expect(sandbox.spec.linux.namespaces.at(-1)?.path).toMatch(/^\/var\/run\/netns\/cni-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  });
});

describe("a container", () => {
  const nginx = container(plan, "nginx");
  const skr = container(plan, "secret-key-release");

  it("has the CRI plugin's annotations", () => {
    expect(nginx.spec.annotations).toEqual({
      "io.katacontainers.config.agent.policy": "cG9saWN5",
      "io.kubernetes.cri.container-name": "nginx",
      "io.kubernetes.cri.container-type": "container",
      "io.kubernetes.cri.image-name": "sealpod.internal/nginx:1.22.1",
      "io.kubernetes.cri.sandbox-id": plan.sandbox.id,
      "io.kubernetes.cri.sandbox-name": plan.name,
      "io.kubernetes.cri.sandbox-namespace": "default",
      "io.kubernetes.cri.sandbox-uid": plan.uid,
    });
  });

  it("has exactly the mounts that genpolicy lists (specs/genpolicy.md 3.4, F23 settings)", () => {
    expect(nginx.spec.mounts).toEqual(
      [
        { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
        { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
        { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["nosuid", "noexec", "nodev", "relatime", "ro"] },
        bindMount("/var/run/secrets/kubernetes.io/serviceaccount", "ro"),
        bindMount("/var/run/secrets/azure/tokens", "ro"),
        bindMount("/etc/hosts", "rw"),
        bindMount("/dev/termination-log", "rw"),
        bindMount("/etc/hostname", "rw"),
        bindMount("/etc/resolv.conf", "rw"),
        bindMount("/dev/shm", "rw"),
      ].toSorted((a, b) => order(a) - order(b)),
    );
  });

  it("gets the webhook's variables after its own, and the API server's last", () => {
    expect(nginx.spec.process.env).toEqual([
      "PATH=/usr/sbin:/usr/bin",
      "HOSTNAME=baked-in",
      "NGINX=1.22",
      "SkrClientKID=doc-sample-key-release",
      "WHERE=$(POD)/doc-sample-key-release/$(POD)/$(NOBODY)",
      `POD=${plan.name}`,
      "AZURE_CLIENT_ID=client",
      "AZURE_TENANT_ID=tenant",
      "AZURE_FEDERATED_TOKEN_FILE=/var/run/secrets/azure/tokens/azure-identity-token",
      "AZURE_AUTHORITY_HOST=https://login.sealpod.internal:8443/",
      "KUBERNETES_SERVICE_HOST=10.0.0.1",
      "KUBERNETES_SERVICE_PORT=443",
      "KUBERNETES_SERVICE_PORT_HTTPS=443",
      "KUBERNETES_PORT=tcp://10.0.0.1:443",
      "KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443",
      "KUBERNETES_PORT_443_TCP_PROTO=tcp",
      "KUBERNETES_PORT_443_TCP_PORT=443",
      "KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1",
    ]);
  });

  it("has kubelet's masked and read-only paths, and joins the sandbox's namespaces", () => {
    expect(nginx.spec.linux.maskedPaths).toEqual([
      "/proc/acpi",
      "/proc/kcore",
      "/proc/keys",
      "/proc/latency_stats",
      "/proc/timer_list",
      "/proc/timer_stats",
      "/proc/sched_debug",
      "/proc/scsi",
      "/sys/firmware",
    ]);
    expect(nginx.spec.linux.readonlyPaths).toEqual(["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    expect(nginx.spec.linux.namespaces).toEqual([
      { type: "pid" },
      { type: "ipc", path: "/proc/4711/ns/ipc" },
      { type: "uts", path: "/proc/4711/ns/uts" },
      { type: "mount" },
      { type: "network", path: "/proc/4711/ns/net" },
      { type: "cgroup" },
    ]);
  });

  it("has containerd's default capabilities in containerd's order", () => {
    const { bounding, effective, permitted } = nginx.spec.process.capabilities;
    expect(bounding.map((name) => name.slice(4)).join(" ")).toBe(
      "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE",
    );
    expect(effective).toEqual(bounding);
    expect(permitted).toEqual(bounding);
  });

  it("takes its resources from limits, which count as requests", () => {
    expect(nginx.spec.linux.resources).toEqual({
      devices: [{ allow: false, access: "rwm" }],
      memory: { limit: 536_870_912 },
      cpu: { shares: 61, quota: 6000, period: 100_000 },
    });
    expect(nginx.spec.process.oomScoreAdj).toBe(-997);
    expect(nginx.spec.linux.cgroupsPath).toBe(`/kubepods/pod${plan.uid}/${nginx.id}`);
  });

  it("has an id of its own", () => {
    expect(new Set([plan.sandbox.id, nginx.id, skr.id]).size).toBe(3);
  });
});

function order(item: unknown): number {
  const { destination, type } = item as { destination: string; type: string };
  return type === "bind" ? destination.split("/").length : 0;
}

describe("security contexts", () => {
  it("changes capabilities in order", async () => {
    const plan = await planPod(
      withContainer({ securityContext: { capabilities: { drop: ["ALL"], add: ["NET_BIND_SERVICE", "CAP_KILL", "KILL"] } } }),
      context(),
    );
    expect(container(plan, "nginx").spec.process.capabilities.bounding).toEqual(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
    const both = await planPod(withContainer({ securityContext: { capabilities: { drop: ["KILL"], add: ["KILL"] } } }), context());
    expect(container(both, "nginx").spec.process.capabilities.bounding).not.toContain("CAP_KILL");
    const all = await planPod(withContainer({ securityContext: { capabilities: { drop: ["SYS_ADMIN"], add: ["ALL"] } } }), context());
    expect(container(all, "nginx").spec.process.capabilities.bounding).toHaveLength(40);
    const dropped = await planPod(withContainer({ securityContext: { capabilities: { drop: ["MKNOD"] } } }), context());
    expect(container(dropped, "nginx").spec.process.capabilities.permitted).not.toContain("CAP_MKNOD");
    expect(container(dropped, "nginx").spec.process.capabilities.permitted).toHaveLength(13);
  });

  it("makes /etc/hostname and /etc/resolv.conf read-only with the root file system", async () => {
    const planned = container(
      await planPod(withContainer({ securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false } }), context()),
      "nginx",
    );
    expect(planned.spec.root.readonly).toBe(true);
    expect(planned.spec.process.noNewPrivileges).toBe(true);
    expect(mount(planned, "/etc/hostname")?.options).toEqual(["rbind", "rprivate", "ro"]);
    expect(mount(planned, "/etc/hosts")?.options).toEqual(["rbind", "rprivate", "rw"]);
  });

  it("shares the process namespace when asked", async () => {
    const plan = await planPod(withContainer({}, { shareProcessNamespace: true }), context());
    expect(container(plan, "nginx").spec.linux.namespaces[0]).toEqual({ type: "pid", path: "/proc/4711/ns/pid" });
  });
});

describe("resources of the sandbox", () => {
  const annotation = async (template: PodTemplate, name: string): Promise<string | undefined> =>
    (await planPod(template, context())).sandbox.spec.annotations[`io.kubernetes.cri.sandbox-${name}`];

  it("are zero without limits", async () => {
    const template = withContainer({ resources: {} });
    expect(await Promise.all(["cpu-quota", "cpu-shares", "memory"].map(async (name) => annotation(template, name)))).toEqual(["0", "2", "0"]);
    expect(container(await planPod(template, context()), "nginx").spec.process.oomScoreAdj).toBe(1000);
  });

  it("count the largest init container", async () => {
    const [nginx] = TEMPLATE.spec.containers;
    if (nginx === undefined) throw new Error("fixture");
    const template = withContainer({}, { initContainers: [{ ...nginx, name: "init", resources: { limits: { memory: "1Gi", cpu: "10m" } } }] });
    expect(await annotation(template, "memory")).toBe("1073741824");
    expect(await annotation(template, "cpu-quota")).toBe("6000");
  });

  it("count sidecars with what runs beside them", async () => {
    const [nginx] = TEMPLATE.spec.containers;
    if (nginx === undefined) throw new Error("fixture");
    const init = (name: string, memory: string, restartPolicy?: string): PodContainer => ({
      ...nginx,
      name,
      resources: { limits: { memory, cpu: "10m" } },
      ...(restartPolicy === undefined ? {} : { restartPolicy }),
    });
    const template = withContainer({}, { initContainers: [init("before", "600Mi"), init("side", "256Mi", "Always"), init("after", "600Mi")] });
    expect(await annotation(template, "memory")).toBe(String(856 * 1024 ** 2));
    expect(await annotation(template, "cpu-quota")).toBe("7000");
    const pod = withContainer({}, { resources: { limits: { memory: "2Gi" } } });
    expect(await annotation(pod, "memory")).toBe(String(2 * 1024 ** 3));
    expect((await planPod(template, context())).initContainers.map(({ sidecar }) => sidecar)).toEqual([false, true, false]);
  });

  it("keep requests and limits apart", async () => {
    const template = withContainer({ resources: { limits: { cpu: "2" }, requests: { cpu: "500m", memory: "4Gi" } } });
    expect(await annotation(template, "cpu-shares")).toBe("512");
    expect(await annotation(template, "cpu-quota")).toBe("200000");
    const planned = container(await planPod(template, context()), "nginx");
    expect(planned.spec.process.oomScoreAdj).toBe(500);
    expect(planned.spec.linux.cgroupsPath).toContain("/kubepods/burstable/");
  });
});

describe("files of the pod", () => {
  it("names every bind source, once", () => {
    const paths = new Set(plan.files.map((file) => file.path));
    expect(paths.size).toBe(plan.files.length);
    const sources = [plan.sandbox, ...plan.containers].flatMap((planned) =>
      planned.spec.mounts.filter((item) => item.type === "bind").map((item) => item.source),
    );
    for (const source of sources) expect(paths).toContain(source);
  });

  it("writes /etc/hosts as kubelet does", async () => {
    const withAliases = await planPod(withContainer({}, { hostAliases: [{ ip: "192.0.2.9", hostnames: ["a", "b"] }] }), context());
    expect(fileText(withAliases.files, `${POD}/etc-hosts`).split("\n").slice(-8)).toEqual([
      "10.0.2.100\tnginx-deployment-5d59d67564-x2lvq",
      "",
      "# Entries added by HostAliases.",
      "192.0.2.9\ta\tb",
      "",
      "# Services on this laptop.",
      "10.0.2.2\tattest.sealpod.internal\tlogin.sealpod.internal",
      "",
    ]);
  });

  it("lays projected tokens out as the atomic writer does", () => {
    const directory = `${POD}/volumes/kubernetes.io~projected/azure-identity-token`;
    expect(plan.files.filter((file) => file.path.startsWith(directory))).toEqual([
      { kind: "directory", path: directory, mode: 0o777 },
      { kind: "directory", path: `${directory}/..2026_11_22_05_09_24.123000000`, mode: 0o755 },
      {
        kind: "file",
        path: `${directory}/..2026_11_22_05_09_24.123000000/azure-identity-token`,
        mode: 0o644,
        content: encodeUtf8("token for api://AzureADTokenExchange, 3600 s"),
      },
      { kind: "symlink", path: `${directory}/..data`, target: "..2026_11_22_05_09_24.123000000" },
      { kind: "symlink", path: `${directory}/azure-identity-token`, target: "..data/azure-identity-token" },
    ]);
  });
});

describe("admission", () => {
  it("keeps what the manifest says already", async () => {
    const template = withContainer({ env: [{ name: "AZURE_AUTHORITY_HOST", value: "https://mine/" }] });
    const { env } = container(await planPod(template, context()), "nginx").spec.process;
    expect(env.filter((entry) => entry.startsWith("AZURE_AUTHORITY_HOST="))).toEqual(["AZURE_AUTHORITY_HOST=https://mine/"]);
  });

  it("injects nothing without the label, and nothing into skipped containers", async () => {
    const unlabelled = await planPod({ ...TEMPLATE, metadata: { labels: { app: "nginx" } } }, context());
    expect(container(unlabelled, "nginx").spec.process.env.join()).not.toContain("AZURE");
    expect(mount(container(unlabelled, "nginx"), "/var/run/secrets/azure/tokens")).toBeUndefined();
    const skipping = await planPod(
      { ...TEMPLATE, metadata: { ...TEMPLATE.metadata, annotations: { "azure.workload.identity/skip-containers": "other; nginx" } } },
      context(),
    );
    expect(container(skipping, "nginx").spec.process.env.join()).not.toContain("AZURE");
    expect(container(skipping, "secret-key-release").spec.process.env.join()).toContain("AZURE_CLIENT_ID=client");
  });

  it("mounts no service account when told not to", async () => {
    const plan = await planPod(withContainer({}, { automountServiceAccountToken: false }), context());
    expect(mount(container(plan, "nginx"), "/var/run/secrets/kubernetes.io/serviceaccount")).toBeUndefined();
    expect(plan.files.some((file) => file.path.includes("kube-api-access"))).toBe(false);
  });

  it.each<[string, PodTemplate, string]>([
    ["a container name that is no DNS label", withContainer({ name: "SecretKeyRelease" }), "ERR_KUBELET_INVALID_POD"],
    [
      "two containers of one name",
      { ...TEMPLATE, spec: { containers: [...TEMPLATE.spec.containers, ...TEMPLATE.spec.containers] } },
      "ERR_KUBELET_INVALID_POD",
    ],
    ["no containers", { spec: { containers: [] } }, "ERR_KUBELET_INVALID_POD"],
    ["a privileged container", withContainer({ securityContext: { privileged: true } }), "ERR_KUBELET_UNSUPPORTED"],
    ["the host's network", withContainer({}, { hostNetwork: true }), "ERR_KUBELET_UNSUPPORTED"],
    ["the host's processes", withContainer({}, { hostPID: true }), "ERR_KUBELET_UNSUPPORTED"],
    ["the host's IPC", withContainer({}, { hostIPC: true }), "ERR_KUBELET_UNSUPPORTED"],
    ["a user namespace", withContainer({}, { hostUsers: false }), "ERR_KUBELET_UNSUPPORTED"],
    ["a profile of the node", withContainer({ securityContext: { seccompProfile: { type: "Localhost" } } }), "ERR_KUBELET_UNSUPPORTED"],
    ["a sysctl of the node", withContainer({}, { securityContext: { sysctls: [{ name: "vm.swappiness", value: "0" }] } }), "ERR_KUBELET_UNSUPPORTED"],
    ["a raw device", withContainer({ volumeDevices: [{ name: "v" }] }), "ERR_KUBELET_UNSUPPORTED"],
    ["a subPath out of the volume", mounted({ subPath: "a/../../b" }), "ERR_KUBELET_INVALID_POD"],
    ["an absolute subPath", mounted({ subPath: "/b" }), "ERR_KUBELET_INVALID_POD"],
    ["both subPaths", mounted({ subPath: "a", subPathExpr: "b" }), "ERR_KUBELET_INVALID_POD"],
    ["a subPathExpr of an unknown variable", mounted({ subPathExpr: "$(NOBODY)" }), "ERR_KUBELET_UNRESOLVED"],
    ["mounts that are read-only all the way down", mounted({ recursiveReadOnly: "Enabled" }), "ERR_KUBELET_UNSUPPORTED"],
    ["mounts that the host is to see", mounted({ mountPropagation: "Bidirectional" }), "ERR_KUBELET_UNSUPPORTED"],
    ["huge pages", mounted({}, { emptyDir: { medium: "HugePages" } }), "ERR_KUBELET_UNSUPPORTED"],
    ["a claim", mounted({}, { persistentVolumeClaim: { claimName: "c" } } as object), "ERR_KUBELET_UNSUPPORTED"],
    ["a certificate of a signer", mounted({}, { projected: { sources: [{ podCertificate: {} } as object] } }), "ERR_KUBELET_UNSUPPORTED"],
    ["a mode that is none", mounted({}, { configMap: { name: "kube-root-ca.crt", defaultMode: 0o1777 } }), "ERR_KUBELET_INVALID_POD"],
    ["a status in a volume", mounted({}, { downwardAPI: { items: [{ path: "ip", fieldRef: { fieldPath: "status.podIP" } }] } }), "ERR_KUBELET_UNSUPPORTED"],
    ["a relative mount path", withContainer({ volumeMounts: [{ name: "v", mountPath: "v" }] }), "ERR_KUBELET_INVALID_POD"],
    ["a mount path with ..", withContainer({ volumeMounts: [{ name: "v", mountPath: "/a/../etc" }] }), "ERR_KUBELET_INVALID_POD"],
    ["a volume that is not there", withContainer({ volumeMounts: [{ name: "v", mountPath: "/v" }] }), "ERR_KUBELET_UNRESOLVED"],
    ["an image that is not there", withContainer({ image: "sealpod.internal/other:1" }), "ERR_KUBELET_UNRESOLVED"],
    ["a volume of no kind", mounted({}, {}), "ERR_KUBELET_UNSUPPORTED"],
    ["a Secret that is not there", mounted({}, { secret: { secretName: "s" } }), "ERR_KUBELET_UNRESOLVED"],
    ["a limit that is no quantity", withContainer({ resources: { limits: { memory: "much" } } }), "ERR_KUBELET_QUANTITY"],
  ])("refuses %s", async (_what, template, code) => {
    await expect(planPod(template, context())).rejects.toThrow(expect.objectContaining({ code }));
  });

  it("does not look at volumes that nothing mounts", async () => {
    const unused = await planPod(withContainer({}, { volumes: [{ name: "v", secret: { secretName: "s" } }] }), context());
    expect(unused.files.some((file) => file.path.endsWith("/v"))).toBe(false);
  });
});

describe("volumes", () => {
  const configMaps = new Map([
    [
      "cm",
      {
        data: new Map([
          ["a", encodeUtf8("1")],
          ["b", encodeUtf8("2")],
        ]),
        binaryData: new Map([["c", Uint8Array.of(0xff)]]),
      },
    ],
  ]);
  const secrets = new Map([["s", new Map([["password", encodeUtf8("hush")]])]]);
  const volumes = async (volume: Partial<PodVolume>, changes: Partial<VolumeMount> = {}, spec: Partial<PodSpec> = {}): Promise<PodPlan> => {
    const template = mounted(changes, volume);
    return planPod({ ...template, spec: { ...template.spec, ...spec } }, context({ configMaps, secrets }));
  };
  /** Mode and text of the files of volume `v`, and its links. */
  const listing = (plan: PodPlan): readonly unknown[] =>
    plan.files
      .filter((file) => file.path.includes("/v/"))
      .flatMap((file): readonly unknown[] => {
        if (file.kind === "directory") return [];
        return file.kind === "file"
          ? [[file.path.split("000000/")[1], file.mode, decodeUtf8(file.content)]]
          : [`${file.path.split("/v/")[1]} -> ${file.target}`];
      });

  it("mounts an emptyDir read-write from a directory whose name tells the shim what it is", async () => {
    const plan = await volumes({ emptyDir: {} });
    expect(mount(container(plan, "nginx"), "/data/v")).toEqual({
      destination: "/data/v",
      type: "bind",
      source: `${POD}/volumes/kubernetes.io~empty-dir/v`,
      options: ["rbind", "rprivate", "rw"],
    });
  });

  it("tells a memory volume apart", async () => {
    const plan = await volumes({ emptyDir: { medium: "Memory" } });
    expect([...plan.memoryDirectories]).toEqual([`${POD}/volumes/kubernetes.io~empty-dir/v`]);
    expect((await volumes({ emptyDir: {} })).memoryDirectories.size).toBe(0);
  });

  it("mounts ConfigMaps read-only, with the chosen keys, in the chosen places, with their modes", async () => {
    const items = [
      { key: "b", path: "bee" },
      { key: "c", path: "deep/er/sea", mode: "0400" },
    ];
    const plan = await volumes({ configMap: { name: "cm", items, defaultMode: 0o600 } }, { readOnly: false });
    expect(mount(container(plan, "nginx"), "/data/v")?.options).toEqual(["rbind", "rprivate", "ro"]);
    const directory = `${POD}/volumes/kubernetes.io~configmap/v`;
    const stamp = "..2026_11_22_05_09_24.123000000";
    expect(plan.files.filter((file) => file.path.startsWith(directory))).toEqual([
      { kind: "directory", path: directory, mode: 0o777 },
      { kind: "directory", path: `${directory}/${stamp}`, mode: 0o755 },
      { kind: "directory", path: `${directory}/${stamp}/deep`, mode: 0o755 },
      { kind: "directory", path: `${directory}/${stamp}/deep/er`, mode: 0o755 },
      { kind: "file", path: `${directory}/${stamp}/bee`, mode: 0o600, content: encodeUtf8("2") },
      { kind: "file", path: `${directory}/${stamp}/deep/er/sea`, mode: 0o400, content: Uint8Array.of(0xff) },
      { kind: "symlink", path: `${directory}/..data`, target: stamp },
      { kind: "symlink", path: `${directory}/bee`, target: "..data/bee" },
      { kind: "symlink", path: `${directory}/deep`, target: "..data/deep" },
    ]);
  });

  it("makes an empty directory of what is optional and not there", async () => {
    expect(listing(await volumes({ configMap: { name: "none", optional: true } }))).toEqual([expect.stringMatching(/^\.\.data -> /)]);
    const some = await volumes({ secret: { secretName: "s", items: [{ key: "none", path: "none" }], optional: true } });
    expect(listing(some)).toHaveLength(1);
  });

  it("puts all sources of a projected volume into one directory", async () => {
    const sources = [
      { configMap: { name: "cm", items: [{ key: "a", path: "a" }] } },
      { secret: { name: "s", items: [{ key: "password", path: "p", mode: 0o400 }] } },
      {
        downwardAPI: {
          items: [
            { path: "labels", fieldRef: { fieldPath: "metadata.labels" } },
            { path: "memory", resourceFieldRef: { containerName: "nginx", resource: "limits.memory", divisor: "1Mi" } },
          ],
        },
      },
      { serviceAccountToken: { path: "token", audience: "vault", expirationSeconds: 7200 } },
    ];
    expect(listing(await volumes({ projected: { sources, defaultMode: 0o640 } })).slice(0, 5)).toEqual([
      ["a", 0o640, "1"],
      ["p", 0o400, "hush"],
      ["labels", 0o640, 'app="nginx"\nazure.workload.identity/use="true"'],
      ["memory", 0o640, "512"],
      ["token", 0o640, "token for vault, 7200 s"],
    ]);
  });

  it("gives files to the fsGroup, which may read them and enter directories", async () => {
    const token = { projected: { sources: [{ serviceAccountToken: { path: "token" } }] } };
    const plan = await volumes(token, {}, { securityContext: { fsGroup: 2000 } });
    const own = plan.files.filter((file) => file.path.includes("~projected/v") && file.kind !== "symlink");
    expect(own.map((file) => (file.kind === "symlink" ? [] : [file.mode.toString(8), file.gid]))).toEqual([
      ["2777", 2000],
      ["2755", 2000],
      ["640", 2000],
    ]);
  });

  it.each(["../up", "/abs", "..data", "", "a/../b"])("refuses the file name %j in a volume", async (path) => {
    await expect(volumes({ configMap: { name: "cm", items: [{ key: "a", path }] } })).rejects.toThrow(
      expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }),
    );
  });

  describe("of which a part is mounted", () => {
    const source = `${POD}/volume-subpaths/v/nginx/0`;

    it("come from a place of their own, which no longer tells what they are part of", async () => {
      const plan = await volumes({ configMap: { name: "cm" } }, { subPath: "./a" });
      expect(mount(container(plan, "nginx"), "/data/v")).toMatchObject({ source, options: ["rbind", "rprivate", "ro"] });
      expect(plan.files.at(-1)).toEqual({ kind: "symlink", path: source, target: `${POD}/volumes/kubernetes.io~configmap/v/a` });
      expect(plan.notes).toEqual([]);
    });

    it("are made as directories where nothing is", async () => {
      const plan = await volumes({ emptyDir: {} }, { subPathExpr: "logs/$(SkrClientKID)" });
      const target = `${POD}/volumes/kubernetes.io~empty-dir/v/logs/doc-sample-key-release`;
      expect(plan.files.slice(-2)).toEqual([
        { kind: "directory", path: target, mode: 0o777 },
        { kind: "symlink", path: source, target },
      ]);
      expect(plan.notes).toEqual([expect.stringContaining("volume v: a part of it is mounted")]);
    });
  });

  it("lets a mount of the pod replace a default one", async () => {
    const plan = await planPod(
      withContainer({ volumeMounts: [{ name: "v", mountPath: "/dev/mqueue" }] }, { volumes: [{ name: "v", emptyDir: {} }] }),
      context(),
    );
    expect(container(plan, "nginx").spec.mounts.filter((item) => item.destination === "/dev/mqueue")).toHaveLength(1);
    expect(mount(container(plan, "nginx"), "/dev/mqueue")?.type).toBe("bind");
  });
});
