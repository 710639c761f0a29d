import { describe, expect, it } from "vitest";
import { decodeUtf8, encodeUtf8 } from "@sealpod/core";
import type { HostFile, PlannedContainer, PodPlan } from "./context.ts";
import { planPod } from "./plan.ts";
import type { PodContainer, PodSpec, PodTemplate } from "./pod.ts";
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

describe("the sandbox", () => {
  const plan = planPod(TEMPLATE, context());
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
  const plan = planPod(TEMPLATE, context());
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
        bindMount("/etc/hostname", "rw"),
        bindMount("/etc/resolv.conf", "rw"),
        bindMount("/dev/shm", "rw"),
        bindMount("/etc/hosts", "rw"),
        bindMount("/dev/termination-log", "rw"),
        bindMount("/var/run/secrets/kubernetes.io/serviceaccount", "ro"),
        bindMount("/var/run/secrets/azure/tokens", "ro"),
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
  it("changes capabilities in order", () => {
    const plan = planPod(withContainer({ securityContext: { capabilities: { drop: ["ALL"], add: ["NET_BIND_SERVICE", "CAP_KILL", "KILL"] } } }), context());
    expect(container(plan, "nginx").spec.process.capabilities.bounding).toEqual(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
    const dropped = planPod(withContainer({ securityContext: { capabilities: { drop: ["MKNOD"] } } }), context());
    expect(container(dropped, "nginx").spec.process.capabilities.permitted).not.toContain("CAP_MKNOD");
    expect(container(dropped, "nginx").spec.process.capabilities.permitted).toHaveLength(13);
  });

  it("makes /etc/hostname and /etc/resolv.conf read-only with the root file system", () => {
    const planned = container(
      planPod(withContainer({ securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false } }), context()),
      "nginx",
    );
    expect(planned.spec.root.readonly).toBe(true);
    expect(planned.spec.process.noNewPrivileges).toBe(true);
    expect(mount(planned, "/etc/hostname")?.options).toEqual(["rbind", "rprivate", "ro"]);
    expect(mount(planned, "/etc/hosts")?.options).toEqual(["rbind", "rprivate", "rw"]);
  });

  it("takes users from the container, the pod, the image, in this order", () => {
    const uid = (changes: Partial<PodContainer>, spec: Partial<PodSpec>, user: string): unknown => {
      const images = new Map([["sealpod.internal/nginx:1.22.1", { config: { user, env: [], entrypoint: ["x"], cmd: [], workingDir: "" } }]]);
      return container(planPod(withContainer(changes, spec), context({ images })), "nginx").spec.process.user;
    };
    expect(
      uid({ securityContext: { runAsUser: 7 } }, { securityContext: { runAsUser: 8, runAsGroup: 9, fsGroup: 10, supplementalGroups: [11] } }, "12"),
    ).toEqual({
      uid: 7,
      gid: 9,
      additionalGids: [9, 11, 10],
    });
    expect(uid({}, { securityContext: { runAsUser: 8 } }, "12")).toEqual({ uid: 8, gid: 0, additionalGids: [0] });
    expect(uid({}, {}, "12:13")).toEqual({ uid: 12, gid: 13, additionalGids: [13] });
    expect(uid({}, {}, "")).toEqual({ uid: 0, gid: 0, additionalGids: [0] });
    expect(() => uid({}, {}, "www-data")).toThrow(expect.objectContaining({ code: "ERR_KUBELET_UNRESOLVED" }));
  });

  it("shares the process namespace when asked", () => {
    const plan = planPod(withContainer({}, { shareProcessNamespace: true }), context());
    expect(container(plan, "nginx").spec.linux.namespaces[0]).toEqual({ type: "pid", path: "/proc/4711/ns/pid" });
  });
});

describe("resources of the sandbox", () => {
  const annotation = (template: PodTemplate, name: string): string | undefined =>
    planPod(template, context()).sandbox.spec.annotations[`io.kubernetes.cri.sandbox-${name}`];

  it("are zero without limits", () => {
    const template = withContainer({ resources: {} });
    expect(["cpu-quota", "cpu-shares", "memory"].map((name) => annotation(template, name))).toEqual(["0", "2", "0"]);
    expect(container(planPod(template, context()), "nginx").spec.process.oomScoreAdj).toBe(1000);
  });

  it("count the largest init container", () => {
    const [nginx] = TEMPLATE.spec.containers;
    if (nginx === undefined) throw new Error("fixture");
    const template = withContainer({}, { initContainers: [{ ...nginx, name: "init", resources: { limits: { memory: "1Gi", cpu: "10m" } } }] });
    expect(annotation(template, "memory")).toBe("1073741824");
    expect(annotation(template, "cpu-quota")).toBe("6000");
  });

  it("keep requests and limits apart", () => {
    const template = withContainer({ resources: { limits: { cpu: "2" }, requests: { cpu: "500m", memory: "4Gi" } } });
    expect(annotation(template, "cpu-shares")).toBe("512");
    expect(annotation(template, "cpu-quota")).toBe("200000");
    const planned = container(planPod(template, context()), "nginx");
    expect(planned.spec.process.oomScoreAdj).toBe(500);
    expect(planned.spec.linux.cgroupsPath).toContain("/kubepods/burstable/");
  });
});

describe("files of the pod", () => {
  const plan = planPod(TEMPLATE, context());

  it("names every bind source, once", () => {
    const paths = new Set(plan.files.map((file) => file.path));
    expect(paths.size).toBe(plan.files.length);
    const sources = [plan.sandbox, ...plan.containers].flatMap((planned) =>
      planned.spec.mounts.filter((item) => item.type === "bind").map((item) => item.source),
    );
    for (const source of sources) expect(paths).toContain(source);
  });

  it("writes /etc/hosts as kubelet does", () => {
    const withAliases = planPod(withContainer({}, { hostAliases: [{ ip: "192.0.2.9", hostnames: ["a", "b"] }] }), context());
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
      { kind: "directory", path: directory, mode: 0o755 },
      { kind: "directory", path: `${directory}/..2026_11_22_05_09_24.123000000`, mode: 0o755 },
      { kind: "file", path: `${directory}/..2026_11_22_05_09_24.123000000/azure-identity-token`, mode: 0o644, content: encodeUtf8("federated-token") },
      { kind: "symlink", path: `${directory}/..data`, target: "..2026_11_22_05_09_24.123000000" },
      { kind: "symlink", path: `${directory}/azure-identity-token`, target: "..data/azure-identity-token" },
    ]);
  });
});

describe("admission", () => {
  it("keeps what the manifest says already", () => {
    const template = withContainer({ env: [{ name: "AZURE_AUTHORITY_HOST", value: "https://mine/" }] });
    const { env } = container(planPod(template, context()), "nginx").spec.process;
    expect(env.filter((entry) => entry.startsWith("AZURE_AUTHORITY_HOST="))).toEqual(["AZURE_AUTHORITY_HOST=https://mine/"]);
  });

  it("injects nothing without the label, and nothing into skipped containers", () => {
    const unlabelled = planPod({ ...TEMPLATE, metadata: { labels: { app: "nginx" } } }, context());
    expect(container(unlabelled, "nginx").spec.process.env.join()).not.toContain("AZURE");
    expect(mount(container(unlabelled, "nginx"), "/var/run/secrets/azure/tokens")).toBeUndefined();
    const skipping = planPod(
      { ...TEMPLATE, metadata: { ...TEMPLATE.metadata, annotations: { "azure.workload.identity/skip-containers": "other; nginx" } } },
      context(),
    );
    expect(container(skipping, "nginx").spec.process.env.join()).not.toContain("AZURE");
    expect(container(skipping, "secret-key-release").spec.process.env.join()).toContain("AZURE_CLIENT_ID=client");
  });

  it("mounts no service account when told not to", () => {
    const plan = planPod(withContainer({}, { automountServiceAccountToken: false }), context());
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
    ["all capabilities", withContainer({ securityContext: { capabilities: { add: ["ALL"] } } }), "ERR_KUBELET_UNSUPPORTED"],
    ["the host's network", withContainer({}, { hostNetwork: true }), "ERR_KUBELET_UNSUPPORTED"],
    ["a subPath", withContainer({ volumeMounts: [{ name: "v", mountPath: "/v", subPath: "x" }] }), "ERR_KUBELET_UNSUPPORTED"],
    ["a relative mount path", withContainer({ volumeMounts: [{ name: "v", mountPath: "v" }] }), "ERR_KUBELET_INVALID_POD"],
    ["a mount path with ..", withContainer({ volumeMounts: [{ name: "v", mountPath: "/a/../etc" }] }), "ERR_KUBELET_INVALID_POD"],
    ["a volume that is not there", withContainer({ volumeMounts: [{ name: "v", mountPath: "/v" }] }), "ERR_KUBELET_UNRESOLVED"],
    ["an image that is not there", withContainer({ image: "sealpod.internal/other:1" }), "ERR_KUBELET_UNRESOLVED"],
    ["a volume of an unknown kind", withContainer({}, { volumes: [{ name: "v" }] }), "ERR_KUBELET_UNSUPPORTED"],
    ["a Secret that is not there", withContainer({}, { volumes: [{ name: "v", secret: { secretName: "s" } }] }), "ERR_KUBELET_UNRESOLVED"],
    ["a limit that is no quantity", withContainer({ resources: { limits: { memory: "much" } } }), "ERR_KUBELET_QUANTITY"],
  ])("refuses %s", (_what, template, code) => {
    expect(() => planPod(template, context())).toThrow(expect.objectContaining({ code }));
  });
});

describe("volumes", () => {
  const volumes = (spec: PodSpec["volumes"], readOnly?: boolean): PodPlan =>
    planPod(
      withContainer({ volumeMounts: [{ name: "v", mountPath: "/data/v", ...(readOnly === undefined ? {} : { readOnly }) }] }, { volumes: spec ?? [] }),
      context({
        configMaps: new Map([
          [
            "cm",
            new Map([
              ["a", encodeUtf8("1")],
              ["b", encodeUtf8("2")],
            ]),
          ],
        ]),
      }),
    );

  it("mounts an emptyDir read-write from a directory whose name tells the shim what it is", () => {
    const plan = volumes([{ name: "v", emptyDir: {} }]);
    expect(mount(container(plan, "nginx"), "/data/v")).toEqual({
      destination: "/data/v",
      type: "bind",
      source: `${POD}/volumes/kubernetes.io~empty-dir/v`,
      options: ["rbind", "rprivate", "rw"],
    });
  });

  it("mounts ConfigMaps read-only, with the chosen keys", () => {
    const plan = volumes([{ name: "v", configMap: { name: "cm", items: [{ key: "b", path: "bee" }] } }], false);
    expect(mount(container(plan, "nginx"), "/data/v")?.options).toEqual(["rbind", "rprivate", "ro"]);
    const directory = `${POD}/volumes/kubernetes.io~configmap/v`;
    expect(plan.files.filter((file) => file.kind === "symlink" && file.path.startsWith(directory)).map((file) => file.path)).toEqual([
      `${directory}/..data`,
      `${directory}/bee`,
    ]);
  });

  it.each(["../up", "a/b", "..data", ""])("refuses the file name %j in a volume", (path) => {
    expect(() => volumes([{ name: "v", configMap: { name: "cm", items: [{ key: "a", path }] } }])).toThrow(
      expect.objectContaining({ code: "ERR_KUBELET_UNSUPPORTED" }),
    );
  });

  it("lets a mount of the pod replace a default one", () => {
    const plan = planPod(withContainer({ volumeMounts: [{ name: "v", mountPath: "/dev/mqueue" }] }, { volumes: [{ name: "v", emptyDir: {} }] }), context());
    expect(container(plan, "nginx").spec.mounts.filter((item) => item.destination === "/dev/mqueue")).toHaveLength(1);
    expect(mount(container(plan, "nginx"), "/dev/mqueue")?.type).toBe("bind");
  });
});
