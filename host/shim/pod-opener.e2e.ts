import { spawnSync } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import { mkdir, open as openFile, rename, symlink, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type ByteSink, silentLogger, toBase64, toHex } from "@sealpod/core";
import { AKS_PROFILE, generatePolicy, type GenerateInput, readOwnRules, readOwnSettings, slimPolicy } from "@sealpod/genpolicy";
import { systemClock, systemRandom } from "@sealpod/io";
import { ProcessorClient } from "@sealpod/processor";
import { SecurityProcessor, servePsp } from "@sealpod/psp";
import type { ContainerLayer } from "@sealpod/sandbox";
import { buildErofsLayer, encodeTar, patchableSink, type TarItem } from "@sealpod/verity";
import { MOUNT_NAMESPACE, PROGRAM_DIRECTORIES } from "@sealpod/vmm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { defaultConfig } from "./config.ts";
import { chooseMachine } from "./machine.ts";
import { createPodOpener } from "./pod-opener.ts";
import type { Pod, PodContainer } from "./pod.ts";
import { CapturedNode, CONTAINER_ID, CONTAINERD_VERSIONS, SANDBOX_ID } from "./testdata/captured.ts";

// Bundles of genuine containerds, a generated policy, and the real agent that enforces it, as a process of this host.

const BUSYBOX = "/usr/bin/busybox";
const AGENT = resolve(import.meta.dirname, "../../guest/agent/main.ts");
const LAYER_ID = "1a".repeat(32);

const missing = ["crun", "slirp4netns"].find((name) => !PROGRAM_DIRECTORIES.some((directory) => isProgram(join(directory, name))));
const reason =
  process.getuid?.() !== 0 || spawnSync("unshare", [...MOUNT_NAMESPACE, "--net", "true"]).status !== 0
    ? "needs root and namespaces"
    : missing !== undefined
      ? `needs ${missing}`
      : isProgram(BUSYBOX)
        ? undefined
        : "needs busybox-static";

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** What the containers run, told by the policy too. */
const SCRIPT =
  'cat /cfg/k; id -G; touch /data/x /ram/y && stat -c %g /data/x /ram; grep -c . /etc/resolv.conf; while test "$(cat /cfg/k)" = v; do sleep 0.1; done; cat /cfg/k; exec cat';

const POD = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  runtimeClassName: kata-cc
  securityContext: {fsGroup: 2000}
  containers:
  - name: app
    image: local.test/busybox:1
    command: [/bin/sh, -c, ${JSON.stringify(SCRIPT)}]
    volumeMounts: [{name: disk, mountPath: /data}, {name: ram, mountPath: /ram}, {name: cfg, mountPath: /cfg}]
  volumes: [{name: disk, emptyDir: {}}, {name: ram, emptyDir: {medium: Memory}}, {name: cfg, configMap: {name: cfg}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cfg}
data: {k: v}
`;

/** Output of a process, and who waits for some. */
class Output implements ByteSink {
  text = "";
  readonly #waiting = new Set<() => void>();

  async write(bytes: Uint8Array): Promise<void> {
    this.text += Buffer.from(bytes).toString();
    for (const look of this.#waiting) look();
  }

  async says(text: string): Promise<void> {
    const { promise, resolve: found } = Promise.withResolvers<void>();
    const look = (): void => void (this.text.includes(text) && found());
    this.#waiting.add(look);
    look();
    await promise;
    this.#waiting.delete(look);
  }
}

describe.skipIf(reason !== undefined)(
  `a pod of the real agent as a process${reason === undefined ? "" : ` (skipped: ${reason})`}`,
  { timeout: 120_000 },
  () => {
    let node: CapturedNode;
    let stack: AsyncDisposableStack;
    let layer: ContainerLayer;

    beforeEach(async () => {
      stack = new AsyncDisposableStack();
      node = stack.use(await CapturedNode.create());
      layer = await busyboxLayer();
      const processor = await SecurityProcessor.open(node.path("keys"), { clock: systemClock, random: systemRandom });
      stack.use(await servePsp({ processor, socketPath: node.path("psp.sock"), guestInfoBase: node.path("guests"), logger: silentLogger }));
    });

    afterEach(async () => {
      await stack.disposeAsync();
    });

    async function busyboxLayer(): Promise<ContainerLayer> {
      const base = { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
      const directories = ["bin", "proc", "dev", "sys", "etc", "tmp", "data", "ram", "cfg"].map((path): TarItem => ({ ...base, kind: "directory", path }));
      const links = ["sh", "cat", "id", "touch", "stat", "grep", "sleep", "ls", "test", "true"].map((name): TarItem => ({
        ...base,
        kind: "symlink",
        path: `bin/${name}`,
        target: "busybox",
      }));
      const tar = encodeTar([...directories, { ...base, kind: "file", path: "bin/busybox", data: new Uint8Array(readFileSync(BUSYBOX)) }, ...links]);
      const path = node.path("busybox.erofs");
      await using file = await openFile(path, "wx");
      const sink = patchableSink(async (offset, bytes) => void (await file.write(bytes, 0, bytes.length, offset)));
      const { rootHash } = await buildErofsLayer(tar, sink);
      return { layerId: LAYER_ID, rootHash, format: "erofs", path };
    }

    async function annotation(): Promise<string> {
      const measurer: GenerateInput["measurer"] = {
        measure: async (reference) => ({
          reference,
          manifestDigest: `sha256:${"3c".repeat(32)}`,
          config: {
            user: reference.includes("pause") ? "65535:65535" : "",
            env: ["PATH=/bin"],
            entrypoint: reference.includes("pause") ? ["/bin/sleep", "100000"] : [],
            cmd: [],
            workingDir: "",
            tty: false,
            volumes: [],
            diffIds: [`sha256:${"4d".repeat(32)}`],
            architecture: "amd64",
            os: "linux",
          },
          layers: [{ id: LAYER_ID, rootHash: toHex(layer.rootHash) }],
          passwd: "root:x:0:0::/:/bin/sh\n",
          group: "root:x:0:\n",
          linkedUserFiles: [],
        }),
      };
      const settings = await readOwnSettings(AKS_PROFILE);
      const { policies } = await generatePolicy({
        manifest: { name: "pod.yaml", text: POD },
        settings,
        rules: await readOwnRules(),
        shrink: slimPolicy,
        measurer,
      });
      return policies[0]?.annotation ?? "";
    }

    /** The bundle as captured, but for what the container runs and the namespace, which is gone. */
    const edit = (policy: string) => (text: string) =>
      text
        .replace("@POLICY@", policy)
        .replace('"sleep 1000"', JSON.stringify(SCRIPT))
        .replace(/"path": "\/var\/run\/netns\/[^"]*"/, '"path": ""');

    async function openPod(version: string, policy: string): Promise<Pod> {
      const config = {
        ...defaultConfig(),
        isolation: "process" as const,
        agent: AGENT,
        processorSocket: node.path("psp.sock"),
        runDirectory: node.path("run"),
      };
      const opener = createPodOpener({
        config: async () => config,
        images: () => ({ layersOf: async () => [layer] }),
        network: () => Promise.reject(new Error("not used")),
        machine: () => chooseMachine(config, { processor: (socket) => new ProcessorClient(socket), node: process.execPath, logger: silentLogger }),
        prepare: async ({ runDirectory }) => {
          await mkdir(runDirectory, { recursive: true });
          return runDirectory;
        },
        volumes: node.volumes,
        random: systemRandom,
        logger: silentLogger,
      });
      const request = await node.bundle(version, "sandbox", SANDBOX_ID, edit(policy));
      const pod = await opener.open(request, undefined);
      stack.defer(() => pod.stop());
      await (await pod.createContainer(request)).start({});
      return pod;
    }

    const create = async (pod: Pod, version: string, policy: string, more: (text: string) => string = (text) => text): Promise<PodContainer> =>
      pod.createContainer(await node.bundle(version, "container", CONTAINER_ID, (text) => more(edit(policy)(text))));

    it.each(CONTAINERD_VERSIONS)("runs what containerd %s wants, and follows its volumes", async (version) => {
      const policy = await annotation();
      const pod = await openPod(version, policy);
      expect(pod.pid).toBeGreaterThan(1);
      const container = await create(pod, version, policy);
      const stdout = new Output();
      const process = await container.start({ stdout, stderr: stdout });
      await stdout.says("v0 2000\n2000\n2000\n3\n");
      // As the kubelet does it; the container sees it without being made anew.
      const cfg = node.path("pods/volumes/kubernetes.io~configmap/cfg");
      await mkdir(join(cfg, "..2026_11_24"));
      await writeFile(join(cfg, "..2026_11_24", "k"), "changed");
      await symlink("..2026_11_24", join(cfg, "..data_tmp"));
      await rename(join(cfg, "..data_tmp"), join(cfg, "..data"));
      await stdout.says("changed");
      expect((await container.stats()).cgroupStats).toBeDefined();
      await container.signal(9, true);
      expect(await process.exited).toBe(137);
      await container.remove();
      await pod.stop();
      expect((await pod.exited).kind).toBe("stopped");
    });

    it("denies what the policy does not say: another program, another policy, an update", async () => {
      const [version = ""] = CONTAINERD_VERSIONS;
      const policy = await annotation();
      const pod = await openPod(version, policy);
      await expect(create(pod, version, policy, (text) => text.replace('"/bin/sh"', '"/bin/busybox"'))).rejects.toMatchObject({
        code: "ERR_SANDBOX_DENIED",
        message: expect.stringContaining("process.Args") as string,
      });
      const container = await create(pod, version, policy);
      for (const forbidden of [container.pause(), container.update({ cpu: { shares: 5 } }), container.exec("e1", { args: ["/bin/ls"], cwd: "/" }, {})]) {
        await expect(forbidden).rejects.toMatchObject({ code: "ERR_SANDBOX_DENIED" });
      }
      await pod.stop();
      await expect(openPod(version, toBase64(Buffer.from("package agent_policy\n")))).rejects.toMatchObject({ code: "ERR_SANDBOX_DENIED" });
    });
  },
);
