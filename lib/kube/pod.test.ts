import { describe, expect, it } from "vitest";
import { container, pod, problemsOf, specOf, warningsOf } from "./test-support.ts";

/** A pod with every field of core/v1 PodSpec that a confidential guest can have, but containers and volumes. */
const COMPLETE = pod(`  activeDeadlineSeconds: 600
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: k, operator: In, values: [v]}], matchFields: [{key: metadata.name, operator: In, values: [node1]}]}]
      preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: k, operator: Exists}]}}]
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {labelSelector: {matchLabels: {a: b}}, namespaceSelector: {}, namespaces: [other], topologyKey: zone, matchLabelKeys: [a], mismatchLabelKeys: [b]}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 100, podAffinityTerm: {labelSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}, topologyKey: host}}
  automountServiceAccountToken: false
  containers: [{name: c, image: i}]
  dnsConfig: {nameservers: [10.0.0.10], searches: [a.b], options: [{name: ndots, value: "2"}, {name: edns0}]}
  dnsPolicy: None
  enableServiceLinks: false
  hostAliases: [{ip: 10.1.2.3, hostnames: [a.example, b]}, {ip: "::1"}]
  hostIPC: false
  hostNetwork: true
  hostPID: false
  hostUsers: true
  hostname: h
  hostnameOverride: o.example
  imagePullSecrets: [{name: s}]
  nodeName: node1
  nodeSelector: {a: "true"}
  os: {name: linux}
  overhead: {memory: 2Gi, cpu: 250m}
  preemptionPolicy: Never
  priority: -5
  priorityClassName: p
  readinessGates: [{conditionType: example.com/ready}]
  resources: {limits: {memory: 1Gi}, requests: {cpu: 0.5}}
  restartPolicy: OnFailure
  runtimeClassName: kata-cc
  schedulerName: s
  schedulingGates: [{name: g}]
  schedulingGroup: {podGroupName: g}
  serviceAccount: old
  serviceAccountName: sa
  setHostnameAsFQDN: true
  shareProcessNamespace: true
  subdomain: sub
  terminationGracePeriodSeconds: 0
  tolerations: [{key: k, operator: Equal, value: v, effect: NoExecute, tolerationSeconds: 60}]
  topologySpreadConstraints:
  - {labelSelector: {}, matchLabelKeys: [a], maxSkew: 1, minDomains: 2, nodeAffinityPolicy: Honor, nodeTaintsPolicy: Ignore, topologyKey: z, whenUnsatisfiable: DoNotSchedule}
  securityContext:
    appArmorProfile: {type: RuntimeDefault}
    fsGroup: 2000
    fsGroupChangePolicy: OnRootMismatch
    runAsGroup: 3000
    runAsNonRoot: true
    runAsUser: 1000
    seccompProfile: {type: RuntimeDefault}
    supplementalGroups: [4000, 5000]
    supplementalGroupsPolicy: Strict
    sysctls: [{name: net.core.somaxconn, value: 1024}]
    allowPrivilegeEscalation: false
    seLinuxChangePolicy: MountOption
`);

describe("pod", () => {
  it("reads every field that a confidential pod can have", () => {
    expect(warningsOf(COMPLETE)).toEqual([]);
    expect(specOf(COMPLETE)).toMatchObject({
      activeDeadlineSeconds: 600,
      automountServiceAccountToken: false,
      dnsPolicy: "None",
      enableServiceLinks: false,
      ephemeralContainers: [],
      hostAliases: [
        { ip: "10.1.2.3", hostnames: ["a.example", "b"], at: { line: 22, column: 17 } },
        { ip: "::1", hostnames: [] },
      ],
      hostNetwork: true,
      hostname: "h",
      hostnameOverride: "o.example",
      nodeName: "node1",
      resourceClaims: [],
      restartPolicy: "OnFailure",
      runtimeClassName: "kata-cc",
      serviceAccountName: "sa",
      setHostnameAsFQDN: true,
      shareProcessNamespace: true,
      subdomain: "sub",
      securityContext: {
        fsGroup: 2000,
        fsGroupChangePolicy: "OnRootMismatch",
        runAsGroup: 3000,
        runAsNonRoot: true,
        runAsUser: 1000,
        seccompProfile: { type: "RuntimeDefault" },
        supplementalGroups: [4000, 5000],
        supplementalGroupsPolicy: "Strict",
        allowPrivilegeEscalation: false,
      },
    });
    expect([...specOf(COMPLETE).securityContext.sysctls]).toEqual([["net.core.somaxconn", "1024"]]);
    expect([...specOf(COMPLETE).resources.limits]).toEqual([["memory", "1Gi"]]);
  });

  it("takes what is not written for what Kubernetes takes it for", () => {
    expect(specOf(pod("  containers: []\n  serviceAccount: old\n"))).toMatchObject({
      serviceAccountName: "old",
      hostNetwork: false,
      shareProcessNamespace: false,
      setHostnameAsFQDN: false,
      hostAliases: [],
      securityContext: { supplementalGroups: [] },
    });
    expect(specOf(pod("  containers: []\n")).enableServiceLinks).toBeUndefined();
  });

  for (const [name, fields, expected] of [
    ["the host's processes", "hostPID: true", "f.yaml:6:12: spec.hostPID: a confidential pod cannot share namespaces with its host"],
    ["the host's IPC", "hostIPC: true", "f.yaml:6:12: spec.hostIPC: a confidential pod cannot share namespaces with its host"],
    [
      "user namespaces",
      "hostUsers: false",
      "f.yaml:6:14: spec.hostUsers: the policy's rules refuse user namespaces: leave it out, the guest keeps the pod apart from its host",
    ],
    ["Windows", "os: {name: windows}", "f.yaml:6:14: spec.os.name: the guest runs Linux"],
    ["Windows options", "securityContext: {windowsOptions: {}}", "f.yaml:6:37: spec.securityContext.windowsOptions: the guest runs Linux"],
    ["a bad host name", "hostname: A_B", 'f.yaml:6:13: spec.hostname: expected a DNS-1123 label (at most 63 lower-case letters, digits and -), found "A_B"'],
    ["a host alias without address", "hostAliases: [{hostnames: [a]}]", "f.yaml:6:17: spec.hostAliases[0]: no ip"],
    ["two volumes of one name", "volumes: [{name: v, emptyDir: {}}, {name: v, emptyDir: {}}]", 'f.yaml:6:38: spec.volumes[1]: two volumes are named "v"'],
    [
      "a sysctl twice",
      "securityContext: {sysctls: [{name: a, value: 1}, {name: a, value: 2}]}",
      'f.yaml:6:52: spec.securityContext.sysctls[1]: sysctl "a" is set twice',
    ],
    [
      "a seccomp profile of no name",
      "securityContext: {seccompProfile: {type: Localhost}}",
      "f.yaml:6:37: spec.securityContext.seccompProfile: no localhostProfile",
    ],
    [
      "a seccomp profile that is not used",
      "securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: p}}",
      "f.yaml:6:37: spec.securityContext.seccompProfile: localhostProfile needs type Localhost",
    ],
    [
      "an unknown policy",
      "dnsPolicy: Host",
      'f.yaml:6:14: spec.dnsPolicy: expected "ClusterFirst", "ClusterFirstWithHostNet", "Default" or "None", found "Host"',
    ],
    [
      "a typing error far below",
      "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerm: []}}}",
      "f.yaml:6:78: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerm: unsupported field: did you mean nodeSelectorTerms?",
    ],
    [
      "a time that is no number",
      "terminationGracePeriodSeconds: soon",
      'f.yaml:6:34: spec.terminationGracePeriodSeconds: expected a whole number from -1 to 9007199254740991, found "soon"',
    ],
  ] as const) {
    it(`refuses ${name}, also with silent`, () => {
      const text = pod(`  containers: []\n  ${fields}\n`);
      expect(problemsOf(text)).toEqual([expected]);
      if (!expected.includes("unsupported field")) expect(problemsOf(text, { silent: true })).toEqual([expected]);
    });
  }

  for (const [name, text, expected] of [
    [
      "a seccomp profile of the node",
      pod("  containers: []\n  securityContext: {seccompProfile: {type: Localhost, localhostProfile: p.json}}\n"),
      "6:37 spec.securityContext.seccompProfile: the profile is a file of the node and does not reach the guest: system calls are not filtered there",
    ],
    [
      "an AppArmor profile of the node",
      container("    securityContext: {appArmorProfile: {type: Localhost, localhostProfile: p}}\n"),
      "8:40 spec.containers[0].securityContext.appArmorProfile: the profile is of the node's kernel and does not reach the guest: AppArmor confines nothing there",
    ],
    [
      "SELinux labels",
      container("    securityContext: {seLinuxOptions: {level: s0, type: t, user: u, role: r}}\n"),
      "8:39 spec.containers[0].securityContext.seLinuxOptions: the guest's kernel runs without SELinux: the label has no effect there",
    ],
    [
      "ephemeral containers",
      pod("  containers: []\n  ephemeralContainers: [{name: d, image: busybox, targetContainerName: c, stdin: true, tty: true}]\n"),
      "6:24 spec.ephemeralContainers: the API server takes ephemeral containers only for pods that run (kubectl debug): it refuses this file",
    ],
    [
      "resource claims",
      pod(
        "  containers: [{name: c, image: i, resources: {claims: [{name: gpu, request: r}]}}]\n  resourceClaims: [{name: gpu, resourceClaimTemplateName: t}]\n",
      ),
      "6:19 spec.resourceClaims: the devices of a claim are not in the policy: a container that gets one is refused",
    ],
    [
      "capabilities with CAP_",
      container("    securityContext: {capabilities: {add: [CAP_NET_ADMIN]}}\n"),
      "8:44 spec.containers[0].securityContext.capabilities.add[0]: Kubernetes writes capabilities without CAP_: the container would not get CAP_NET_ADMIN",
    ],
  ] as const) {
    it(`warns of ${name}`, () => expect(warningsOf(text)).toEqual([expected]));
  }

  it("reads ephemeral containers with their target", () => {
    const { ephemeralContainers } = specOf(pod("  containers: []\n  ephemeralContainers: [{name: d, image: b, targetContainerName: c, command: [sh]}]\n"));
    expect(ephemeralContainers).toMatchObject([{ name: "d", image: "b", targetContainerName: "c", command: ["sh"] }]);
  });

  it("names all containers of a pod apart", () => {
    const text = pod(
      "  initContainers: [{name: a, image: i}]\n  containers:\n  - {name: a, image: i}\n  - {name: b, image: i}\n  ephemeralContainers: [{name: b, image: i}]\n",
    );
    expect(problemsOf(text)).toEqual([
      'f.yaml:7:5: spec.containers[0]: two containers are named "a"',
      'f.yaml:9:25: spec.ephemeralContainers[0]: two containers are named "b"',
    ]);
  });
});
