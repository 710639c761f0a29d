import { fromHex, toBase64 } from "@sealpod/core";
import { AKS_PROFILE, COCO_PROFILE, generatePolicy, readOwnRules, readOwnSettings, slimPolicy, policyOfInitdata, type GenerateInput } from "@sealpod/genpolicy";
import { AgentService, type CreateContainerRequest, isMessage } from "@sealpod/proto";
import type { ContainerLayer } from "@sealpod/sandbox";
import { gunzipSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { defaultConfig } from "./config.ts";
import { createPodOpener } from "./pod-opener.ts";
import type { Pod } from "./pod.ts";
import { CapturedNode, CONTAINER_ID, CONTAINERD_VERSIONS, SANDBOX_ID } from "./testdata/captured.ts";
import { PolicedDriver } from "./testdata/policed-driver.ts";

/** What genuine containerds want of the shim, and what generated policies allow the shim to ask of the guest: they have to meet, for both generations. */

const POD = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  runtimeClassName: kata-cc
  securityContext: {fsGroup: 2000}
  containers:
  - name: app
    image: local.test/busybox:1
    command: [/bin/sh, -c, "sleep 1000"]
    resources: {limits: {memory: 128Mi, cpu: 500m}}
    volumeMounts: [{name: disk, mountPath: /data}, {name: ram, mountPath: /ram}, {name: cfg, mountPath: /cfg}]
  volumes: [{name: disk, emptyDir: {}}, {name: ram, emptyDir: {medium: Memory}}, {name: cfg, configMap: {name: cfg}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cfg}
data: {k: v}
`;

const PROFILES = [AKS_PROFILE, COCO_PROFILE];
const LAYER = { id: "1a".repeat(32), rootHash: "2b".repeat(32) };

const measurer: GenerateInput["measurer"] = {
  measure: async (reference) => ({
    reference,
    manifestDigest: `sha256:${"3c".repeat(32)}`,
    config: {
      user: reference.includes("pause") ? "65535:65535" : "",
      env: ["PATH=/bin"],
      entrypoint: reference.includes("pause") ? ["/bin/sleep", "100000"] : [],
      cmd: reference.includes("pause") ? [] : ["/bin/sh"],
      workingDir: "",
      tty: false,
      volumes: [],
      diffIds: [`sha256:${"4d".repeat(32)}`],
      architecture: "amd64",
      os: "linux",
    },
    layers: [LAYER],
    passwd: "root:x:0:0::/:/bin/sh\n",
    group: "root:x:0:\n",
    linkedUserFiles: [],
  }),
};

let node: CapturedNode;

beforeEach(async () => {
  node = await CapturedNode.create();
});

afterEach(async () => {
  await node[Symbol.asyncDispose]();
});

/** What `sealpod genpolicy` writes into the pod's annotation, and the policy in it. */
async function generated(profile: (typeof PROFILES)[number], full: boolean): Promise<{ readonly annotation: string; readonly policy: string }> {
  const { policies } = await generatePolicy({
    manifest: { name: "pod.yaml", text: POD },
    profile,
    settings: await readOwnSettings(profile),
    rules: await readOwnRules(),
    ...(full ? {} : { shrink: slimPolicy }),
    measurer,
  });
  const [only] = policies;
  if (only === undefined) throw new Error("no policy");
  return { annotation: only.annotation, policy: only.policy };
}

/** A pod of the bundles of a containerd, under the policy. */
async function open(version: string, profile: (typeof PROFILES)[number], full: boolean): Promise<{ readonly pod: Pod; readonly driver: PolicedDriver }> {
  const { annotation, policy } = await generated(profile, full);
  const isCoco = profile === COCO_PROFILE;
  const driver = new PolicedDriver(isCoco ? "coco" : "aks", isCoco ? policyOfInitdata(gunzipSync(Buffer.from(annotation, "base64")), "initdata") : undefined);
  expect(isCoco || annotation === toBase64(Buffer.from(policy))).toBe(true);
  const annotate = (text: string): string => text.replace("io.katacontainers.config.agent.policy", profile.annotation).replace("@POLICY@", annotation);
  const layers: readonly ContainerLayer[] = [{ layerId: LAYER.id, rootHash: fromHex(LAYER.rootHash), format: "erofs", path: "/layers/a" }];
  let count = 0;
  const opener = createPodOpener({
    config: async () => ({ ...defaultConfig(), runDirectory: node.path("run") }),
    images: () => ({ layersOf: async (_id, _annotations, format) => layers.map((layer) => ({ ...layer, format })) }),
    network: async () => ({
      network: { kind: "none" },
      guest: {
        interfaces: [{ name: "eth0", mac: "02:00:00:00:00:01", mtu: 1500, noArp: false, addresses: [{ family: 4, address: "10.9.0.2", prefixLength: 24 }] }],
        routes: [{ family: 4, destination: "", gateway: "10.9.0.1", device: "eth0", source: "", scope: 0, onLink: false, mtu: 0 }],
        neighbours: [{ family: 4, address: "10.9.0.1", device: "eth0", mac: "02:00:00:00:00:02", state: 128 }],
      },
      remove: async () => undefined,
    }),
    machine: async () => ({
      isolation: "vm",
      driver,
      guest: { kind: "uvm", kernel: "/k", initrd: "/i", root: "/r", commandLine: "" },
      launch: { launch: () => Promise.reject(new Error("not used")) },
      emulated: true,
    }),
    prepare: async ({ runDirectory }) => {
      const { mkdir } = await import("node:fs/promises");
      await mkdir(runDirectory, { recursive: true });
      return runDirectory;
    },
    capacity: async () => ({ memoryMiB: 8192, vcpus: 4 }),
    volumes: node.volumes,
    random: { bytes: (length) => new Uint8Array(length).fill(++count) },
    logger: { log: () => undefined },
  });
  const request = await node.bundle(version, "sandbox", SANDBOX_ID, annotate);
  const pod = await opener.open(request, undefined);
  const sandbox = await pod.createContainer(request);
  await sandbox.start({});
  const container = await pod.createContainer(await node.bundle(version, "container", CONTAINER_ID, annotate));
  await container.start({});
  await container.stats();
  await container.signal(15, false);
  await container.signal(9, true);
  await container.remove();
  return { pod, driver };
}

describe.each(CONTAINERD_VERSIONS)("bundles of containerd %s", (version) => {
  describe.each(PROFILES)("under a generated policy of profile $name", (profile) => {
    it.each([false, true])("every request for a pod is allowed, full text: %s", async (full) => {
      const { pod, driver } = await open(version, profile, full);
      expect(driver.configs[0]).toMatchObject({ id: SANDBOX_ID, memoryMiB: 2048 + 128, vcpus: 2 });
      expect(driver.names.filter((name) => !/CopyFile|Read|Wait/.test(name))).toEqual([
        ...(profile === AKS_PROFILE ? ["SetPolicy"] : []),
        "UpdateInterface",
        "UpdateRoutes",
        "AddARPNeighbors",
        "CreateSandbox",
        "CreateContainer",
        "StartContainer",
        "CreateContainer",
        "StartContainer",
        "StatsContainer",
        "SignalProcess",
        "SignalProcess",
        "RemoveContainer",
      ]);
      const created = driver.requests.filter((request): request is CreateContainerRequest => isMessage(request, AgentService.method.createContainer.input));
      expect(created.map(({ OCI }) => OCI?.Linux?.Resources?.CPU?.Quota)).toEqual([0n, 0n]);
      expect(created[0]?.OCI?.Annotations["nerdctl/network-namespace"]).toMatch(/^\/var\/run\/netns\/cni-/);
      expect(created[1]?.OCI?.Annotations).not.toHaveProperty("nerdctl/network-namespace");
      await pod.stop();
      expect([driver.stopped, driver.names.at(-1)]).toEqual([1, "DestroySandbox"]);
    });
  });
});
