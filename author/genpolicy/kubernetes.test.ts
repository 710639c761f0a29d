import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { podYaml, workloadYaml } from "./known-tools/test-support.ts";
import type { PolicyContainer, PolicyMount, PolicyStorage } from "./policy-data.ts";
import { COCO_PROFILE } from "./profile.ts";
import { COCO_SETTINGS, dataOf, generated, policiesOf, type PolicyOptions, SETTINGS } from "./test-support.ts";

/** Our own settings: what Kubernetes and the runtime do, in both generations. */

const COCO: PolicyOptions = { profile: COCO_PROFILE };
const BOTH: readonly PolicyOptions[] = [{}, COCO];

async function containerOf(text: string, image: Parameters<typeof policiesOf>[1] = { "app:1": {} }, more: PolicyOptions = {}): Promise<PolicyContainer> {
  const container = dataOf((await policiesOf(text, image, more))[0]).containers.at(-1);
  if (container === undefined) throw new Error("no container");
  return container;
}

const problem = async (text: string, more: PolicyOptions = {}): Promise<string> =>
  policiesOf(text, undefined, more).then(
    () => "not refused",
    (error: unknown) => (error instanceof Error ? error.message : "not an error"),
  );

const hashed = (variable: string): string => `${variable.slice(0, variable.indexOf("="))}=$(sha256:${createHash("sha256").update(variable).digest("hex")})`;

const env = async (
  fields: string,
  more: { readonly pod?: string; readonly metadata?: string; readonly objects?: string; readonly image?: readonly string[] } = {},
): Promise<readonly string[]> =>
  (await containerOf(podYaml(fields, more.pod, more.metadata) + (more.objects ?? ""), { "app:1": { env: more.image ?? ["PATH=/bin"] } })).OCI.Process.Env ?? [];

const OBJECTS = `---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {b: "2", a: "$(X)", 1bad: x}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: other}, data: {b: other}}
- {apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {pass: "p$$w", user: u}}
`;

describe("environment", () => {
  it("has each name once, with the value that the container gets, in both generations", async () => {
    const fields = `    tty: true
    env:
    - {name: A, value: new}
    - {name: HOSTNAME, value: own}
    - {name: N}
`;
    for (const more of BOTH) {
      expect((await containerOf(podYaml(fields), { "app:1": { env: ["A=old", "B=1"] } }, more)).OCI.Process.Env).toEqual([
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM=xterm",
        "HOSTNAME=own",
        "A=new",
        "B=1",
        "N=",
      ]);
    }
  });

  it("gives the pause container its image's variables alone", async () => {
    for (const [variables, expected] of [
      [
        ["PATH=/p", "A=$x"],
        ["PATH=/p", "A=$$x"],
      ],
      [[], undefined],
    ] as const) {
      const [policy] = await policiesOf(podYaml(""), { "app:1": {}, "sealpod.internal/pause:1": { env: variables } });
      expect(dataOf(policy).containers[0]?.OCI.Process.Env).toEqual(expected);
    }
  });

  it("takes envFrom before env, with prefixes, from Lists too, and leaves optional nothing out", async () => {
    const fields = `    envFrom: [{configMapRef: {name: m}, prefix: P_}, {configMapRef: {name: m}}, {configMapRef: {name: none, optional: true}}]
    env:
    - {name: b, value: "$(b)-$(P_b)-$(later)"}
    - {name: later, value: x}
    - {name: O, valueFrom: {secretKeyRef: {name: s, key: none, optional: true}}}
    - {name: M, valueFrom: {configMapKeyRef: {name: m, key: a}}}
`;
    expect(await env(fields, { objects: OBJECTS })).toEqual([
      "PATH=/bin",
      "HOSTNAME=$(host-name)",
      "P_1bad=x",
      "P_a=$$(X)",
      "P_b=2",
      "a=$$(X)",
      "b=2-2-$$(later)",
      "later=x",
      "M=$$(X)",
    ]);
    const { warnings } = await generated(podYaml(fields) + OBJECTS);
    expect(warnings.map(({ message }) => message)).toEqual(['envFrom: "1bad" cannot name a variable in every version of Kubernetes: it is not in the policy']);
  });

  it("finds the object of the pod's own namespace", async () => {
    const of = async (namespace: string): Promise<readonly string[]> =>
      env("    env: [{name: A, valueFrom: {configMapKeyRef: {name: m, key: b}}}]\n", {
        metadata: `{name: web, namespace: ${namespace}}`,
        objects: OBJECTS.replace("metadata: {name: m}", "metadata: {name: m, namespace: shop}"),
      });
    expect([await of("shop"), await of("other")].map((list) => list.at(-1))).toEqual(["A=2", "A=other"]);
    await expect(of("third")).rejects.toThrow('no key "b" in a ConfigMap named "m"');
  });

  it("writes values of Secrets as hashes, also where a variable refers to them, but for arguments", async () => {
    const fields = `    command: [run, "--user=$(user)"]
    args: [plain]
    envFrom: [{secretRef: {name: s}}]
    env:
    - {name: PASS, valueFrom: {secretKeyRef: {name: s, key: pass}}}
    - {name: URL, value: "db://$(user):$(PASS)@db"}
    - {name: WHERE, value: "$(user)@$(IP)"}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: BOTH, value: "$(user)@$(IP)"}
`;
    const { policies, warnings } = await generated(podYaml(fields) + OBJECTS, { "app:1": { env: ["PATH=/bin"] } });
    const { Process } = dataOf(policies[0]).containers[1]?.OCI ?? {};
    expect(Process?.Env?.slice(2)).toEqual([
      hashed("pass=p$$w"),
      hashed("user=u"),
      hashed("PASS=p$$w"),
      hashed("URL=db://u:p$$w@db"),
      hashed("WHERE=u@$(IP)"),
      "IP=$(pod-ip)",
      // The address is not known, so this cannot be a hash.
      "BOTH=u@$(pod-ip)",
    ]);
    expect(Process?.Args).toEqual(["run", "--user=u", "plain"]);
    expect(warnings.map(({ message }) => message)).toEqual([
      "an argument holds the value of a Secret: the policy, which the host can read, has it as plain text",
    ]);
    expect(policies[0]?.policy).not.toContain("p$$w");
  });

  it.each([
    ["metadata.name", "$(sandbox-name)"],
    ["metadata.namespace", "default"],
    ["metadata.uid", "$(pod-uid)"],
    ["status.hostIP", "$(host-ip)"],
    ["status.hostIPs", "$(host-ips)"],
    ["status.podIP", "$(pod-ip)"],
    ["status.podIPs", "$(pod-ips)"],
    ["spec.nodeName", "$(node-name)"],
    ["spec.serviceAccountName", "sa"],
    ["metadata.labels['app']", "we$$b"],
    ["metadata.labels['none']", ""],
    ["metadata.annotations['team']", "$$(shop)"],
    ["metadata.annotations['none']", ""],
    ["metadata.labels", undefined],
    ["status.phase", undefined],
  ])("fieldRef %s", async (path, expected) => {
    const made = env(`    env: [{name: A, valueFrom: {fieldRef: {fieldPath: "${path}"}}}]\n`, {
      pod: "  serviceAccountName: sa\n",
      metadata: "{name: web, labels: {app: we$b}, annotations: {team: $(shop)}}",
    });
    if (expected === undefined) await expect(made).rejects.toThrow(/field ".*" is not/);
    else expect((await made).at(-1)).toBe(`A=${expected}`);
  });

  it("knows the labels that controllers add, and no namespace in coco", async () => {
    const of = async (kind: string, path: string, more: PolicyOptions = {}): Promise<string | undefined> => {
      const spec = `{containers: [{name: app, image: 'app:1', env: [{name: A, valueFrom: {fieldRef: {fieldPath: "${path}"}}}]}]}`;
      return (await containerOf(workloadYaml(kind, spec), undefined, more)).OCI.Process.Env?.at(-1);
    };
    expect(await of("Deployment", "metadata.labels['pod-template-hash']")).toBe("A=$(label)");
    expect(await of("Pod", "metadata.labels['pod-template-hash']")).toBe("A=");
    expect(await of("DaemonSet", "metadata.labels['controller-revision-hash']")).toBe("A=$(label)");
    expect(await of("StatefulSet", "metadata.labels['statefulset.kubernetes.io/pod-name']")).toBe("A=$(sandbox-name)");
    expect(await of("StatefulSet", "metadata.labels['apps.kubernetes.io/pod-index']")).toBe("A=$(job-index)");
    expect(await of("Job", "metadata.annotations['batch.kubernetes.io/job-completion-index']")).toBe("A=$(job-index)");
    expect(await of("Job", "metadata.labels['job-name']")).toBe("A=web");
    expect(await of("CronJob", "metadata.labels['batch.kubernetes.io/job-name']")).toBe("A=$(label)");
    expect(await of("Job", "metadata.labels['controller-uid']")).toBe("A=$(label)");
    expect(await of("Pod", "metadata.namespace", COCO)).toBe("A=$(sandbox-namespace)");
  });

  it.each([
    ["limits.cpu", "", "2"],
    ["limits.cpu", "1m", "1500"],
    ["limits.memory", "", "536870912"],
    ["limits.memory", "1Mi", "512"],
    ["limits.memory", "0.3Gi", "2"],
    ["requests.memory", "1M", "1"],
    ["requests.cpu", "1m", "1500"],
    ["limits.ephemeral-storage", "", "2000"],
    ["limits.hugepages-2Mi", "", "$(resource-field)"],
    ["requests.ephemeral-storage", "0", "2000"],
  ])("resourceFieldRef %s divided by %j", async (resource, divisor, expected) => {
    const more = divisor === "" ? "" : `, divisor: ${divisor}`;
    const fields = `    resources: {limits: {cpu: 1500m, memory: 512Mi, ephemeral-storage: 2e3}, requests: {memory: 100}}\n    env: [{name: A, valueFrom: {resourceFieldRef: {resource: ${resource}${more}}}}]\n`;
    expect((await env(fields)).at(-1)).toBe(`A=${expected}`);
  });

  it("takes resources of another container, and refuses what is none", async () => {
    const ref = (inner: string): string =>
      podYaml(`    env: [{name: A, valueFrom: {resourceFieldRef: {${inner}}}}]\n  - {name: other, image: 'app:1', resources: {limits: {memory: 1Ki}}}\n`);
    const { containers } = dataOf((await policiesOf(ref("resource: limits.memory, containerName: other")))[0]);
    expect(containers[1]?.OCI.Process.Env).toContain("A=1024");
    expect(await problem(ref("resource: limits.memory, containerName: none"))).toContain('the pod has no container named "none"');
    expect(await problem(ref("resource: limits.gpu"))).toContain("expected limits or requests of cpu");
  });

  it.each([
    ["", "$(host-name)"],
    ["  hostname: db\n", "db"],
    ["  hostNetwork: true\n", "$(node-name)"],
    ["  setHostnameAsFQDN: true\n", "$(host-name)"],
  ])("HOSTNAME with %j", async (pod, expected) => {
    expect(await env("", { pod })).toContain(`HOSTNAME=${expected}`);
  });

  it("HOSTNAME of an Indexed Job has its index, whatever the template says", async () => {
    const indexed = (kind: string, completion: string, metadata = "{name: web}"): string =>
      workloadYaml(kind, `{${completion === "Indexed" ? "hostname: own, " : ""}containers: [{name: app, image: 'app:1'}]}`, metadata).replace(
        "{template:",
        `{completionMode: ${completion}, template:`,
      );
    for (const [kind, completion, expected] of [
      ["Job", "Indexed", "web-$(job-index)"],
      ["Job", "NonIndexed", "$(host-name)"],
      ["CronJob", "Indexed", "web-$(job-index)-$(job-index)"],
    ] as const)
      expect((await containerOf(indexed(kind, completion))).OCI.Process.Env).toContain(`HOSTNAME=${expected}`);
    expect((await containerOf(indexed("Job", "Indexed", "{generateName: w-}"))).OCI.Process.Env).toContain("HOSTNAME=w-$(label)-$(job-index)");
  });

  it("HOSTNAME of a StatefulSet's pod is its name, and its service may give it a domain", async () => {
    const stateful = (spec: string, serviceName: string): string =>
      workloadYaml("StatefulSet", `{${spec}, containers: [{name: app, image: 'app:1'}]}`).replace("serviceName: s", `serviceName: "${serviceName}"`);
    expect((await containerOf(stateful("hostname: own", "s"))).OCI.Process.Env).toContain("HOSTNAME=$(host-name)");
    const unknown = "setHostnameAsFQDN: the policy cannot know the cluster's domain";
    expect(await problem(podYaml("", "  setHostnameAsFQDN: true\n  subdomain: s\n"))).toContain(unknown);
    expect(await problem(stateful("setHostnameAsFQDN: true", "s"))).toContain(unknown);
    expect(await problem(stateful("setHostnameAsFQDN: true, subdomain: s", ""))).toBe("not refused");
  });

  it("JOB_COMPLETION_INDEX is there in all containers of an Indexed Job, unless they set it", async () => {
    const containers =
      "initContainers: [{name: i, image: 'app:1'}], containers: [{name: own, image: 'app:1', env: [{name: JOB_COMPLETION_INDEX, value: x}]}, {name: a, image: 'app:1', args: ['$(JOB_COMPLETION_INDEX)']}]";
    const debug = "ephemeralContainers: [{name: e, image: 'app:1'}]";
    const text = workloadYaml("Job", `{${containers}, ${debug}}`).replace("{template:", "{completionMode: Indexed, template:");
    const [, ...made] = dataOf((await policiesOf(text, undefined, { includeEphemeralContainers: true }))[0]).containers;
    const index = "JOB_COMPLETION_INDEX=$(job-index)";
    expect(made.map(({ OCI }) => OCI.Process.Env?.filter((variable) => variable.startsWith("JOB_")))).toEqual([
      [index],
      ["JOB_COMPLETION_INDEX=x"],
      [index],
      [],
    ]);
    expect(made[2]?.OCI.Process.Args).toEqual(["$(job-index)"]);
  });

  it("takes a bare name of the image for the wish not to have what containerd sets", async () => {
    expect(await env("", { image: ["A=1", "A", "B", "HOSTNAME"] })).toEqual(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1"]);
  });
});

describe("process", () => {
  it("expands command and args, but nothing of the image, and doubles every dollar sign", async () => {
    const image = { "app:1": { entrypoint: ["/entry", "$(A)"], cmd: ["$x"], env: ["A=$(B)"] } };
    const args = async (fields: string): Promise<readonly string[] | undefined> => (await containerOf(podYaml(fields), image)).OCI.Process.Args;
    const variable = "    env: [{name: A, value: '1'}]\n";
    expect(await args(variable)).toEqual(["/entry", "$$(A)", "$$x"]);
    expect(await args(`${variable}    command: []\n    args: []\n`)).toEqual(["/entry", "$$(A)", "$$x"]);
    expect(await args(`${variable}    args: ["$(A)", "$(B)", "$$(A)", "5$"]\n`)).toEqual(["/entry", "$$(A)", "1", "$$(B)", "$$(A)", "5$$"]);
    expect(await args(`${variable}    command: ["$(A)"]\n`)).toEqual(["1"]);
    expect((await containerOf(podYaml(""), image)).OCI.Process.Env).toContain("A=$$(B)");
  });

  it("takes the entrypoint of one empty word for none", async () => {
    const args = async (entrypoint: readonly string[]): Promise<readonly string[] | undefined> =>
      (await containerOf(podYaml(""), { "app:1": { entrypoint, cmd: ["run"] } })).OCI.Process.Args;
    expect([await args([""]), await args(["", ""]), await args([])]).toEqual([["run"], ["", "", "run"], ["run"]]);
    const [pause] = await policiesOf(podYaml(""), { "app:1": {}, "sealpod.internal/pause:1": { entrypoint: [""], cmd: ["/pause"] } });
    expect(dataOf(pause).containers[0]?.OCI.Process.Args).toEqual(["", "/pause"]);
  });

  it("writes names of sysctls as kubelet does", async () => {
    const sysctls =
      "[{name: kernel/shm_rmid_forced, value: '1'}, {name: net/ipv4/conf/eno2.100/rp_filter, value: '2'}, {name: net.ipv4.conf.eno2/100.x, value: '3'}]";
    const { Sysctl } = (await containerOf(podYaml("", `  securityContext: {sysctls: ${sysctls}}\n`))).OCI.Linux;
    expect(Sysctl).toMatchObject({ "kernel.shm_rmid_forced": "1", "net.ipv4.conf.eno2/100.rp_filter": "2", "net.ipv4.conf.eno2/100.x": "3" });
    expect(Object.keys(Sysctl ?? {})).not.toContain("kernel/shm_rmid_forced");
  });

  it("runs where workingDir says, without the image's terminal", async () => {
    const image = { "app:1": { workingDir: "/srv", tty: true } };
    const { Process } = (await containerOf(podYaml("    workingDir: /own\n"), image)).OCI;
    expect([Process.Cwd, Process.Terminal, (await containerOf(podYaml(""), image)).OCI.Process.Cwd]).toEqual(["/own", false, "/srv"]);
  });

  it("changes capabilities as containerd does", async () => {
    const caps = async (fields: string): Promise<readonly string[]> =>
      (await containerOf(podYaml(`    securityContext: {capabilities: ${fields}}\n`))).OCI.Process.Capabilities.Bounding;
    expect(await caps("{add: [ALL]}")).toEqual(["$(privileged_caps)"]);
    expect(await caps("{drop: [all], add: [cap_kill, NET_ADMIN]}")).toEqual(["CAP_KILL", "CAP_NET_ADMIN"]);
    expect(await caps("{drop: [KILL], add: [KILL]}")).not.toContain("CAP_KILL");
    expect(await caps("{}")).toEqual(["$(default_caps)"]);
  });

  it("names the image by the digest that was measured, and has what both generations have", async () => {
    for (const more of BOTH) {
      const container = await containerOf(
        podYaml(
          "    volumeDevices: [{name: v, devicePath: /dev/xvda}]\n    livenessProbe: {exec: {command: [a, b c]}}\n",
          "  volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]\n",
        ),
        undefined,
        more,
      );
      expect(Object.keys(container)).toEqual(["OCI", "storages", "devices", "sandbox_pidns", "exec_commands", "runtime_anno_patterns", "image"]);
      expect(container.image).toEqual({ reference: "app:1", manifest_digest: `sha256:${"d1".repeat(32)}` });
      expect(container.exec_commands).toEqual([["a", "b c"]]);
      expect(container.OCI.Linux.Devices).toEqual([{ Type: "", Path: "/dev/xvda" }]);
      expect(container.storages.slice(0, 3).map(({ driver, fstype }) => [driver, fstype])).toEqual([
        ["blk", "erofs"],
        ["blk", "erofs"],
        ["overlayfs", "fuse3.kata-overlay"],
      ]);
      expect(container.storages[2]?.mount_point).toBe(container.OCI.Root.Path);
    }
  });
});

describe("names of pods", () => {
  /** A suffix as Kubernetes makes them. */
  const spec = "{containers: [{name: app, image: 'app:1'}]}";
  const pattern = async (kind: string, metadata: string): Promise<RegExp> => {
    const container = await containerOf(workloadYaml(kind, spec, metadata));
    return new RegExp((container.OCI.Annotations as unknown as Record<string, string>)["io.kubernetes.cri.sandbox-name"] ?? "^no pattern$");
  };
  const long = "n".repeat(56);
  it.each<readonly [kind: string, metadata: string, fits: readonly string[], others: readonly string[]]>([
    ["Pod", "{name: a.b}", ["a.b"], ["axb", "a.b-x", "xa.b"]],
    ["Pod", "{generateName: a.b-}", ["a.b-x2zkp"], ["a.b-", "a.b-x2zk", "a.b-aaaaa", "axb-x2zkp"]],
    ["Deployment", "{name: web}", ["web-6d4cf56db6-x2zkp", "web-f5-x2zkp"], ["web", "web-x2zkp", "web-6d4cf56db61234-x2zkp"]],
    ["Deployment", `{name: ${long}}`, [`${long}-6x2zkp`, `${long}-6x2zkp`.slice(0, 63)], ["m".repeat(63)]],
    ["ReplicaSet", "{name: web}", ["web-x2zkp"], ["web-6d4cf56db6-x2zkp"]],
    ["ReplicationController", "{name: web}", ["web-x2zkp"], ["web-0"]],
    ["DaemonSet", "{name: web}", ["web-x2zkp"], ["web2-x2zkp"]],
    ["DaemonSet", `{name: ${"n".repeat(80)}}`, [`${"n".repeat(58)}x2zkp`], [`${"n".repeat(56)}-x2zkp`]],
    ["DaemonSet", "{generateName: w-}", ["w-bbbbb-x2zkp"], ["w-x2zkp"]],
    ["StatefulSet", "{name: db}", ["db-0", "db-12"], ["db-01", "db-x", "db"]],
    ["Job", "{name: j}", ["j-x2zkp", "j-3-x2zkp"], ["j-3-4-x2zkp", "j"]],
    ["CronJob", "{name: c}", ["c-29012345-x2zkp", "c-29012345-3-x2zkp"], ["c-x2zkp"]],
  ])("%s %s", async (kind, metadata, fits, others) => {
    const regex = await pattern(kind, metadata);
    for (const name of fits) expect(name).toMatch(regex);
    for (const name of others) expect(name).not.toMatch(regex);
  });

  it("are asked for", async () => {
    expect(await problem(workloadYaml("Pod", spec, "{}"))).toContain("the object has no metadata.name");
  });
});

describe("volumes", () => {
  const mount = async (
    volume: string,
    fields: string,
    pod = "",
    more: PolicyOptions = {},
  ): Promise<{ mount: PolicyMount | undefined; storages: readonly PolicyStorage[] }> => {
    const container = await containerOf(
      podYaml(`    volumeMounts: [{name: v.w, ${fields}}]\n`, `  volumes: [{name: v.w, ${volume}}]\n${pod}`).replaceAll("v.w", "v-w"),
      undefined,
      more,
    );
    return { mount: container.OCI.Mounts.at(-1), storages: container.storages.slice(3) };
  };
  const bind = (source: string, access: string): readonly unknown[] => ["bind", source, `rbind,rprivate,${access}`];

  it.each<readonly [name: string, volume: string, mount: string, expected: readonly unknown[]]>([
    ["hostPath below /dev", "hostPath: {path: /dev/fuse}", "mountPath: /d", bind("/dev/fuse", "rw")],
    ["hostPath below /proc", "hostPath: {path: /proc/cpuinfo}", "mountPath: /d, readOnly: true", bind("/proc/cpuinfo", "ro")],
    ["hostPath below /dev with subPath", "hostPath: {path: /dev}", "mountPath: /d, subPath: x", bind("$(sfprefix)d$", "rw")],
    ["other hostPath", "hostPath: {path: /var/x}", "mountPath: /a/b-c.d/", bind("$(sfprefix)b-c\\.d$", "rw")],
    ["PVC", "persistentVolumeClaim: {claimName: c}", "mountPath: /d, readOnly: true", bind("$(sfprefix)d$", "ro")],
    ["PVC that is read-only itself", "persistentVolumeClaim: {claimName: c, readOnly: true}", "mountPath: /d", bind("$(sfprefix)d$", "ro")],
    ["csi", "csi: {driver: d.example}", "mountPath: /d", bind("$(sfprefix)d$", "rw")],
    ["ephemeral", "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}", "mountPath: /d", bind("$(sfprefix)d$", "rw")],
    ["configMap", "configMap: {name: m}", "mountPath: /d", bind("$(sfprefix)d$", "ro")],
    ["configMap with subPath", "configMap: {name: m}", "mountPath: /etc/app.conf, subPath: app.conf", bind("$(sfprefix)app\\.conf$", "ro")],
    ["projected", "projected: {sources: [{configMap: {name: m}}, {secret: {name: s}}]}", "mountPath: /d", bind("$(sfprefix)d$", "ro")],
    ["downwardAPI", "downwardAPI: {items: []}", "mountPath: /d.e", bind("$(sfprefix)d\\.e$", "ro")],
    ["emptyDir with subPath", "emptyDir: {}", "mountPath: /d, subPath: x, readOnly: true", bind("$(sfprefix)d$", "ro")],
  ])("%s", async (_name, volume, fields, expected) => {
    for (const more of BOTH) {
      const made = await mount(volume, fields, "", more);
      expect([made.mount?.type_, made.mount?.source, made.mount?.options.join()]).toEqual(expected);
      expect(made.storages).toEqual([]);
    }
  });

  it("emptyDir: a directory of the sandbox in aks, a disk in coco, memory in both", async () => {
    const fsGroup = "  securityContext: {fsGroup: 7, fsGroupChangePolicy: OnRootMismatch}\n";
    const local = "^$(cpath)/$(sandbox-id)/local/v-w$";
    expect(await mount("emptyDir: {}", "mountPath: /d, readOnly: true", fsGroup)).toMatchObject({
      mount: { type_: "local", source: local, options: ["rbind", "rprivate", "ro"] },
      storages: [{ mount_point: local, options: ["mode=0777", "fsgid=7"] }],
    });
    expect(await mount("emptyDir: {}", "mountPath: /d", fsGroup, COCO)).toMatchObject({
      mount: { source: "" },
      storages: [{ fs_group: { group_id: 7, group_change_policy: 1 }, shared: true }],
    });
    expect((await mount("emptyDir: {medium: Memory}", "mountPath: /d", fsGroup, COCO)).storages[0]?.options).toEqual(["fsgid=7"]);
    expect((await mount("emptyDir: {medium: Memory}", "mountPath: /d", fsGroup)).storages[0]?.options).toEqual(["fsgid=7"]);
    expect((await mount("emptyDir: {medium: Memory}", "mountPath: /d", "  securityContext: {fsGroup: 0}\n")).storages[0]?.options).toEqual([]);
    await expect(mount("emptyDir: {medium: HugePages}", "mountPath: /d")).rejects.toThrow(
      'emptyDir medium "HugePages" is not supported: leave it out, or use Memory',
    );
  });

  it("never mounts two things at one place; a claim of a StatefulSet stands over a volume of its name", async () => {
    const text =
      "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s}\nspec:\n  serviceName: s\n  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}]\n" +
      "  template: {spec: {volumes: [{name: v, hostPath: {path: /x}}, {name: shm, emptyDir: {medium: Memory}}, {name: data, emptyDir: {}}], containers: [{name: app, image: 'app:1', volumeMounts: [{name: v, mountPath: /etc/hosts}, {name: shm, mountPath: /dev/shm}, {name: data, mountPath: /lib/d, readOnly: true}]}]}}\n";
    for (const more of BOTH) {
      const { OCI, storages } = await containerOf(text, { "app:1": { volumes: ["/etc/hosts", "/own", "/"] } }, more);
      const destinations = OCI.Mounts.map(({ destination }) => destination);
      expect(new Set(destinations).size).toBe(destinations.length);
      expect(OCI.Mounts.slice(-2).map(({ destination, source, options }) => [destination, source, options.at(-1)])).toEqual([
        ["/lib/d", "$(sfprefix)d$", "ro"],
        ["/own", "$(sfprefix)own$", "rw"],
      ]);
      expect(storages.length).toBe(4);
    }
  });

  it("has no token where the pod wants none", async () => {
    const token = "/var/run/secrets/kubernetes.io/serviceaccount";
    const has = async (pod: string): Promise<boolean> => (await containerOf(podYaml("", pod))).OCI.Mounts.some(({ destination }) => destination === token);
    expect([await has(""), await has("  automountServiceAccountToken: false\n"), await has("  automountServiceAccountToken: true\n")]).toEqual([
      true,
      false,
      true,
    ]);
  });
});

describe("what stays unsupported", () => {
  it("is one list, of all objects, with images", async () => {
    const text = `${podYaml(
      "    resources: {claims: [{name: gpu}]}\n    volumeMounts: [{name: v, mountPath: /x}]\n    env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n  - {name: b, image: 'gone:1'}\n",
      "  resourceClaims: [{name: gpu, resourceClaimName: g}]\n  volumes: [{name: v, nfs: {server: s, path: /}}]\n",
    )}---\n${workloadYaml("Deployment", "{containers: [{name: c, image: 'gone:2'}]}", "{}")}`;
    for (const more of BOTH) {
      expect((await problem(text, more)).split("\n")).toEqual([
        expect.stringMatching(/^app\.yaml:6:13: spec\.volumes\[0\]: volume "v" is of type nfs/),
        expect.stringMatching(/^app\.yaml:8:5: spec\.containers\[0\]: container app: resources\.claims ask for devices/),
        expect.stringMatching(/^app\.yaml:12:11: spec\.containers\[0\]\.env\[0\]: env A: no key "k" in a Secret named "s": add it to the file/),
        'app.yaml:13:22: spec.containers[1].image: image "gone:1": no image gone:1',
        expect.stringMatching(/^app\.yaml:18:\d+: spec\.template\.spec: the object has no metadata\.name/),
        expect.stringMatching(/^app\.yaml:18:\d+: spec\.template\.spec\.containers\[0\]\.image: image "gone:2"/),
      ]);
    }
  });
});

describe("settings", () => {
  it("select the layer format", async () => {
    for (const [settings, profile] of [
      [SETTINGS, undefined],
      [COCO_SETTINGS, COCO_PROFILE],
    ] as const) {
      const more = { settings: settings.replace("host-erofs-dm-verity", "host-tarfs-dm-verity"), ...(profile === undefined ? {} : { profile }) };
      expect((await containerOf(podYaml(""), undefined, more)).storages[0]?.fstype).toBe("tar");
    }
  });
});
