import { describe, expect, it } from "vitest";
import { workloadYaml } from "./known-tools/test-support.ts";
import { AKS_PROFILE, COCO_PROFILE } from "./profile.ts";
import { dataOf, Guest, policiesOf, requestOf, wrapped } from "./test-support.ts";

/** Rules, settings and generator together: the requests of an honest host for a pod of each kind are allowed in both generations. */

const SPEC = `{
  securityContext: {fsGroup: 7, sysctls: [{name: net.ipv4.tcp_syncookies, value: "1"}]},
  initContainers: [{name: init, image: 'app:1', args: ["1"]}],
  containers: [{
    name: app, image: 'app:1', command: [run, "$(IP)", "$$x", "a$"],
    envFrom: [{secretRef: {name: s}}],
    env: [
      {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}},
      {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: HASH, valueFrom: {fieldRef: {fieldPath: "metadata.labels['pod-template-hash']"}}},
      {name: ID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}, {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}},
      {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}, {name: LITERAL, value: "$$(x) $y"},
      {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}, {name: URL, value: "http://$(NAME).$(NS):$(pass)@$(IP)"}],
    volumeDevices: [{name: raw, devicePath: /dev/xvda}],
    volumeMounts: [{name: disk, mountPath: /a.b}, {name: ram, mountPath: /m}, {name: map, mountPath: /etc/c.d, subPath: x}, {name: all, mountPath: /p}]}],
  volumes: [{name: disk, emptyDir: {}}, {name: ram, emptyDir: {medium: Memory}}, {name: map, configMap: {name: c}}, {name: all, projected: {sources: [{configMap: {name: c}}]}},
    {name: raw, persistentVolumeClaim: {claimName: x}}]}`;
const SECRET = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {pass: 'p$(w)'}\n";
const IMAGES = { "app:1": { user: "nginx", volumes: ["/vol"], passwd: "nginx:x:101:102::/:/bin/sh\n", group: "web:x:7:nginx\n" } };

const NAMES: readonly (readonly [kind: string, name: string])[] = [
  ["Pod", "web"],
  ["Deployment", "web-6d4cf56db6-x2zkp"],
  ["ReplicaSet", "web-x2zkp"],
  ["StatefulSet", "web-0"],
  ["Job", "web-x2zkp"],
  ["CronJob", "web-29012345-x2zkp"],
];

describe.each([AKS_PROFILE, COCO_PROFILE])("$name", (profile) => {
  it.each(NAMES)("%s: pod %s is allowed, and a pod of another name is not", async (kind, name) => {
    const [policy] = await policiesOf(workloadYaml(kind, SPEC) + SECRET, IMAGES, { profile });
    const data = dataOf(policy);
    const refusal = (guest: Guest, index: number, podName: string): string | undefined => {
      const request = requestOf(data, index, { name: podName, secrets: { pass: "p$(w)" } });
      return guest.refusal("CreateContainerRequest", profile === AKS_PROFILE ? wrapped(request) : request);
    };
    const start = (guest: Guest, index: number): string | undefined =>
      guest.refusal("StartContainerRequest", { container_id: requestOf(data, index, { name })["container_id"] ?? "" });
    const guest = new Guest(policy?.policy ?? "");
    expect([refusal(guest, 0, name), start(guest, 0), refusal(guest, 1, name)]).toEqual([undefined, undefined, undefined]);
    expect(refusal(guest, 2, name), "before the init container was started").toContain("has to wait for");
    expect([start(guest, 1), refusal(guest, 2, name)]).toEqual([undefined, undefined]);
    expect(refusal(new Guest(policy?.policy ?? ""), 0, `x${name}`)).toContain("io.kubernetes.cri.sandbox-name");
  });
});
