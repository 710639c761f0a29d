import { describe, expect, it } from "vitest";
import type { Volume } from "./index.ts";
import { pod, problemsOf, specOf } from "./test-support.ts";

function volumeOf(source: string): Volume {
  const found = specOf(pod(`  containers: []\n  volumes: [{name: v, ${source}}]\n`)).volumes[0];
  if (found === undefined) throw new Error("no volume");
  return found;
}

describe("volumes", () => {
  for (const [source, expected] of [
    ["emptyDir: {}", { kind: "emptyDir", medium: "", sizeLimit: undefined }],
    ["emptyDir: {medium: Memory, sizeLimit: 64Mi}", { kind: "emptyDir", medium: "Memory", sizeLimit: "64Mi" }],
    ["hostPath: {path: /dev/kvm, type: CharDevice}", { kind: "hostPath", path: "/dev/kvm", type: "CharDevice" }],
    ["hostPath: {path: /x}", { kind: "hostPath", path: "/x", type: "" }],
    [
      "configMap: {name: m, items: [{key: k, path: a/b, mode: 0400}], defaultMode: 0644, optional: true}",
      { kind: "configMap", name: "m", items: [{ key: "k", path: "a/b", mode: 0o400 }], defaultMode: 0o644, optional: true },
    ],
    ["secret: {secretName: s, defaultMode: 256}", { kind: "secret", name: "s", items: [], defaultMode: 0o400, optional: false }],
    ["persistentVolumeClaim: {claimName: c, readOnly: true}", { kind: "persistentVolumeClaim", claimName: "c", readOnly: true }],
    ["azureFile: {secretName: s, shareName: h, readOnly: true}", { kind: "azureFile", secretName: "s", shareName: "h", readOnly: true }],
    ["projected: {defaultMode: 0o440}", { kind: "projected", sources: [], defaultMode: 0o440 }],
    [
      "csi: {driver: d.example, readOnly: true, fsType: ext4, volumeAttributes: {a: 1}, nodePublishSecretRef: {name: s}}",
      { kind: "csi", driver: "d.example", readOnly: true, fsType: "ext4", volumeAttributes: new Map([["a", "1"]]), nodePublishSecret: "s" },
    ],
    [
      "ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {volumeMode: Block, storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}",
      { kind: "ephemeral", claim: { volumeMode: "Block", storageClassName: "fast", accessModes: ["ReadWriteOnce"] } },
    ],
    ["image: {reference: 'r.example/i:1', pullPolicy: IfNotPresent}", { kind: "image", reference: "r.example/i:1", pullPolicy: "IfNotPresent" }],
    ["nfs: {server: s, path: /p}", { kind: "other", type: "nfs" }],
    ["azureDisk: {diskName: d, diskURI: u}", { kind: "other", type: "azureDisk" }],
    ["iscsi: {targetPortal: p, anything: [goes]}", { kind: "other", type: "iscsi" }],
  ] as const) {
    it(`reads ${source.slice(0, 40)}`, () => expect(volumeOf(source).source).toMatchObject(expected));
  }

  it("takes a volume without a source, or with one that is null, for an emptyDir, as the API server does", () => {
    for (const source of ["", "emptyDir: ", "emptyDir: ~, hostPath: null"]) {
      expect(volumeOf(source).source).toEqual({ kind: "emptyDir", medium: "", sizeLimit: undefined });
    }
  });

  it("reads every source of a projected volume", () => {
    const { source } = volumeOf(`projected: {sources: [
      {configMap: {name: m, items: [{key: k, path: p}], optional: true}},
      {secret: {name: s}},
      {downwardAPI: {items: [
        {path: labels, fieldRef: {fieldPath: metadata.labels}, mode: 0400},
        {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}]}},
      {serviceAccountToken: {audience: api://AzureADTokenExchange, expirationSeconds: 3600, path: token}},
      {clusterTrustBundle: {signerName: x/y, labelSelector: {matchLabels: {a: b}}, path: ca.pem, optional: true}},
      {podCertificate: {signerName: x/y, keyType: ED25519, credentialBundlePath: b.pem, maxExpirationSeconds: 86400}}]}`);
    expect(source).toMatchObject({
      kind: "projected",
      sources: [
        { kind: "configMap", name: "m", items: [{ key: "k", path: "p" }], optional: true, at: { line: 7, column: 19 } },
        { kind: "secret", name: "s", optional: false },
        {
          kind: "downwardAPI",
          items: [
            { path: "labels", source: { kind: "field", fieldPath: "metadata.labels" }, mode: 0o400 },
            { path: "cpu", source: { kind: "resource", containerName: "c", resource: "limits.cpu", divisor: "1m" } },
          ],
        },
        { kind: "serviceAccountToken", audience: "api://AzureADTokenExchange", expirationSeconds: 3600, path: "token" },
        { kind: "clusterTrustBundle", signerName: "x/y", path: "ca.pem", optional: true },
        { kind: "podCertificate", signerName: "x/y", paths: ["b.pem"] },
      ],
    });
  });

  for (const [name, source, expected] of [
    ["two sources", "emptyDir: {}, nfs: {}", "6:14: spec.volumes[0]: more than one volume source: emptyDir, nfs"],
    [
      "an unknown source",
      "emptyDirs: {}",
      "6:14: spec.volumes[0]: no supported volume source\nf.yaml:6:24: spec.volumes[0].emptyDirs: unsupported field: did you mean emptyDir?",
    ],
    [
      "a mode without its zero",
      "secret: {secretName: s, defaultMode: 644}",
      "6:61: spec.volumes[0].secret.defaultMode: expected a file mode from 0 to 0777, found 644, which is 01204 in octal",
    ],
    [
      "a mode as text",
      "secret: {secretName: s, defaultMode: '0644'}",
      '6:61: spec.volumes[0].secret.defaultMode: expected a file mode such as 0644, found "0644"',
    ],
    [
      "a mode beyond octal",
      "secret: {secretName: s, defaultMode: 0888}",
      '6:61: spec.volumes[0].secret.defaultMode: expected a file mode such as 0644, found "0888"',
    ],
    [
      "an item outside of the volume",
      "configMap: {name: m, items: [{key: k, path: ../x}]}",
      '6:68: spec.volumes[0].configMap.items[0].path: expected the relative path of a file, without "..", found "../x"',
    ],
    ["a host path that climbs", "hostPath: {path: /a/../b}", '6:41: spec.volumes[0].hostPath.path: expected a path without "..", found "/a/../b"'],
    ["a claim without name", "persistentVolumeClaim: {}", "6:47: spec.volumes[0].persistentVolumeClaim: no claimName"],
    ["a share without secret", "azureFile: {shareName: s}", "6:35: spec.volumes[0].azureFile: no secretName"],
    [
      "a token of a minute",
      "projected: {sources: [{serviceAccountToken: {path: t, expirationSeconds: 60}}]}",
      "6:97: spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: expected a whole number from 600 to 4294967296, found 60",
    ],
    [
      "two projections in one",
      "projected: {sources: [{secret: {name: s}, configMap: {name: m}}]}",
      "6:46: spec.volumes[0].projected.sources[0]: more than one projection source: configMap, secret",
    ],
    ["an empty projection", "projected: {sources: [{}]}", "6:46: spec.volumes[0].projected.sources[0]: no supported projection source"],
    ["a downward file of nothing", "downwardAPI: {items: [{path: p}]}", "6:46: spec.volumes[0].downwardAPI.items[0]: no fieldRef or resourceFieldRef"],
    [
      "a downward file of two",
      "downwardAPI: {items: [{path: p, fieldRef: {fieldPath: metadata.name}, resourceFieldRef: {containerName: c, resource: limits.cpu}}]}",
      "6:46: spec.volumes[0].downwardAPI.items[0]: both fieldRef and resourceFieldRef",
    ],
    [
      "a downward file of no container",
      "downwardAPI: {items: [{path: p, resourceFieldRef: {resource: limits.cpu}}]}",
      "6:46: spec.volumes[0].downwardAPI.items[0]: no resourceFieldRef.containerName",
    ],
  ] as const) {
    it(`refuses ${name}`, () => {
      expect(problemsOf(pod(`  containers: []\n  volumes: [ {name: v, ${source}}]\n`)).join("\n")).toBe(`f.yaml:${expected}`);
    });
  }

  it("refuses a volume's bad name, and not the mounts that use it", () => {
    const text = pod(
      "  containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]\n  volumes: [{name: v, bad: {}}, {name: A_B, emptyDir: {}}]\n",
    );
    expect(problemsOf(text)).toEqual([
      "f.yaml:6:13: spec.volumes[0]: no supported volume source",
      "f.yaml:6:23: spec.volumes[0].bad: unsupported field",
      'f.yaml:6:40: spec.volumes[1].name: expected a DNS-1123 label (at most 63 lower-case letters, digits and -), found "A_B"',
    ]);
  });

  it("keeps devices and file systems apart where the file says which it is", () => {
    const text = (mode: string, use: string): string =>
      pod(`  containers: [{name: c, image: i, ${use}}]\n  volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {volumeMode: ${mode}}}}}]\n`);
    const mounts = "volumeMounts: [{name: v, mountPath: /v}]";
    const devices = "volumeDevices: [{name: v, devicePath: /dev/v}]";
    expect([problemsOf(text("Filesystem", mounts)), problemsOf(text("Block", devices))]).toEqual([[], []]);
    expect(problemsOf(text("Block", mounts))).toEqual([
      'f.yaml:5:51: spec.containers[0].volumeMounts[0]: "v" is a claim of volumeMode Block: use volumeDevices',
    ]);
    expect(problemsOf(text("Filesystem", devices))).toEqual([
      'f.yaml:5:52: spec.containers[0].volumeDevices[0]: "v" is a claim of volumeMode Filesystem: use volumeMounts, or volumeMode: Block',
    ]);
  });
});
