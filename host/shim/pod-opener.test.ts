import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { encodeUtf8, sha256, toBase64 } from "@sealpod/core";
import { AgentService, type CreateContainerRequest, isMessage } from "@sealpod/proto";
import type { ContainerLayer } from "@sealpod/sandbox";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { defaultConfig, type ShimConfig } from "./config.ts";
import type { PodMachine } from "./machine.ts";
import { createPodOpener, type PodNetworkRequest } from "./pod-opener.ts";
import type { ContainerRequest, Pod, PodOpener } from "./pod.ts";
import { CapturedNode, CONTAINER_ID, SANDBOX_ID } from "./testdata/captured.ts";
import { type Answers, PolicedDriver } from "./testdata/policed-driver.ts";

const VERSION = "1.7.24";
const METHODS = AgentService.method;

/** A policy that allows everything; it has words in it that hints are taken from. */
const ALLOW_ALL = `package agent_policy
${"AddARPNeighbors CopyFile CreateContainer CreateSandbox DestroySandbox ExecProcess GetOOMEvent PauseContainer ReadStream RemoveContainer ResumeContainer SignalProcess StartContainer StatsContainer UpdateContainer UpdateInterface UpdateRoutes WaitProcess"
  .split(" ")
  .map((name) => `default ${name}Request := true`)
  .join("\n")}
`;

/** What the shim was asked for, and what became of it. */
interface Opened {
  readonly opener: PodOpener;
  readonly driver: PolicedDriver;
  readonly networks: PodNetworkRequest[];
  readonly images: (readonly [id: string, format: string])[];
  /** What was undone, in order. */
  readonly undone: string[];
  /** What the node was told of the pod's place on it. */
  readonly accounted: string[];
}

let node: CapturedNode;
let pods: Pod[] = [];

beforeEach(async () => {
  node = await CapturedNode.create();
  pods = [];
});

afterEach(async () => {
  for (const pod of pods) await pod.stop();
  await node[Symbol.asyncDispose]();
});

interface World {
  readonly config?: Partial<ShimConfig>;
  readonly machine?: Partial<PodMachine>;
  readonly driver?: PolicedDriver;
  readonly answers?: Answers;
  readonly layersOf?: (id: string) => Promise<readonly ContainerLayer[]>;
}

function world(options: World = {}): Opened {
  const driver = options.driver ?? new PolicedDriver("aks", undefined, options.answers);
  const networks: PodNetworkRequest[] = [];
  const images: (readonly [string, string])[] = [];
  const undone: string[] = [];
  const accounted: string[] = [];
  let count = 0;
  const opener = createPodOpener({
    config: async (path) => ({ ...defaultConfig(), runDirectory: node.path(path ?? "run"), createContainerTimeoutMs: 60_000, ...options.config }),
    images: () => ({
      layersOf: async (id, _annotations, format) => {
        images.push([id, format]);
        return (await options.layersOf?.(id)) ?? [{ layerId: "1a".repeat(32), rootHash: new Uint8Array(32), format, path: `/layers/${format}` }];
      },
    }),
    network: async (request) => {
      networks.push(request);
      return {
        network: { kind: "tap", interfaces: [] },
        guest: { interfaces: [], routes: [], neighbours: [] },
        remove: async () => void undone.push("network"),
      };
    },
    machine: async () => ({
      isolation: "vm",
      driver,
      guest: { kind: "uvm", kernel: "/k", initrd: "/i", root: "/r", commandLine: "" },
      launch: { launch: () => Promise.reject(new Error("not used")) },
      emulated: false,
      ...options.machine,
    }),
    prepare: async ({ runDirectory }) => {
      await mkdir(runDirectory, { recursive: true });
      return runDirectory;
    },
    account: async ({ id }, { sandboxCgroupOnly }) => {
      accounted.push(`${id.slice(0, 2)} ${sandboxCgroupOnly ? "joins" : "stays"} after ${driver.configs.length} machines`);
      return {
        addContainer: async (score, machine) => void accounted.push(`${score ?? "none"} for ${machine}`),
        leave: async () => void undone.push("account"),
      };
    },
    capacity: async () => ({ memoryMiB: 8192, vcpus: 4 }),
    volumes: node.volumes,
    random: { bytes: (length) => new Uint8Array(length).fill(++count) },
    logger: { log: () => undefined },
  });
  return { opener, driver, networks, images, undone, accounted };
}

const withPolicy = (text: string) => (bundle: string) => bundle.replace("@POLICY@", toBase64(encodeUtf8(text)));

const sandboxBundle = (policy = ALLOW_ALL): Promise<ContainerRequest> => node.bundle(VERSION, "sandbox", SANDBOX_ID, withPolicy(policy));
const containerBundle = (): Promise<ContainerRequest> => node.bundle(VERSION, "container", CONTAINER_ID, withPolicy(ALLOW_ALL));

async function openPod({ opener }: Opened, request: ContainerRequest, path?: string): Promise<Pod> {
  const pod = await opener.open(request, path);
  pods.push(pod);
  return pod;
}

function created(driver: PolicedDriver): readonly CreateContainerRequest[] {
  return driver.requests.filter((request): request is CreateContainerRequest => isMessage(request, METHODS.createContainer.input));
}

describe("opening a pod", () => {
  it("starts a machine of its size, policy and network, with the names that it looks up", async () => {
    const opened = world();
    const pod = await openPod(opened, await sandboxBundle());
    expect(pod.pid).toBe(4711);
    expect(opened.driver.configs).toMatchObject([
      {
        id: SANDBOX_ID,
        runDirectory: node.path("run/vm"),
        hostData: new Uint8Array(sha256(encodeUtf8(ALLOW_ALL))),
        memoryMiB: 2048 + 128,
        vcpus: 2,
        network: { kind: "tap", interfaces: [] },
      },
    ]);
    expect(opened.networks).toEqual([{ namespace: expect.stringMatching(/^\/var\/run\/netns\/cni-/) as string, portForward: defaultConfig().portForward }]);
    expect(opened.driver.requests.at(-1)).toMatchObject({
      $typeName: "grpc.CreateSandboxRequest",
      hostname: "web",
      dns: ["search default.svc.cluster.local", "nameserver 10.96.0.10", "options ndots:5"],
    });
  });

  it("takes its place on the node before the machine, knows its containers' there, and leaves it last", async () => {
    const opened = world({ config: { sandboxCgroupOnly: true } });
    const request = await sandboxBundle();
    const pod = await openPod(opened, request);
    await pod.createContainer(request);
    expect(opened.accounted).toEqual(["5a joins after 0 machines"]);
    await pod.createContainer(await containerBundle());
    expect(opened.accounted.slice(1)).toEqual(["1000 for 4711"]);
    await pod.stop();
    expect(opened.undone).toEqual(["network", "account"]);
  });

  it("reads the configuration that containerd's runtime options name", async () => {
    const opened = world();
    await openPod(opened, await sandboxBundle(), "other");
    expect(opened.driver.configs[0]?.runDirectory).toBe(node.path("other/vm"));
  });

  it("brings initdata on a disk, and removes it with the machine", async () => {
    const document = `version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"policy.rego" = '''${ALLOW_ALL}'''\n`;
    const packed = gzipSync(document);
    const edit = (text: string): string =>
      text.replace("io.katacontainers.config.agent.policy", "io.katacontainers.config.hypervisor.cc_init_data").replace("@POLICY@", packed.toString("base64"));
    const opened = world({ driver: new PolicedDriver("coco", ALLOW_ALL) });
    const pod = await openPod(opened, await node.bundle(VERSION, "sandbox", SANDBOX_ID, edit));
    const [config] = opened.driver.configs;
    expect(config?.hostData).toEqual(new Uint8Array(sha256(encodeUtf8(document))));
    const image = await readFile(config?.initdata ?? "");
    expect(image.subarray(16, 16 + packed.length).equals(packed)).toBe(true);
    expect(opened.driver.names).not.toContain("SetPolicy");
    await pod.stop();
    expect(await readdir(node.path("run"))).toEqual([]);
  });

  it("is refused where pods are processes and it brings initdata", async () => {
    const edit = (text: string): string =>
      text
        .replace("io.katacontainers.config.agent.policy", "io.katacontainers.config.hypervisor.cc_init_data")
        .replace("@POLICY@", gzipSync('version="0.1.0"\nalgorithm="sha256"\n[data]').toString("base64"));
    const opened = world({ machine: { isolation: "process" } });
    await expect(opened.opener.open(await node.bundle(VERSION, "sandbox", SANDBOX_ID, edit), undefined)).rejects.toThrow(/without disks/);
    expect(opened.driver.configs).toEqual([]);
  });

  it("gives a process the network of its pod as it is", async () => {
    const opened = world({ machine: { isolation: "process" } });
    await openPod(opened, await sandboxBundle());
    expect(opened.driver.configs[0]?.network).toMatchObject({ kind: "namespace", namespace: expect.stringContaining("/cni-") as string });
    expect(opened.networks).toEqual([]);
    await expect(world({ machine: { isolation: "process" }, config: { network: "none" } }).opener.open(await sandboxBundle(), undefined)).rejects.toMatchObject(
      {
        code: "ERR_SHIM_CONFIG",
      },
    );
  });

  it.each([
    ["nobody has put anything into it", "ctr", {}],
    ["the node's configuration says so", "sandbox", { network: "none" as const }],
  ])("has no network if %s", async (_why, name, config) => {
    const opened = world({ config });
    const id = name === "ctr" ? "ctr1" : SANDBOX_ID;
    const policy = (text: string): string =>
      withPolicy(ALLOW_ALL)(text).replace(
        '"linux": {',
        `"annotations": {"io.katacontainers.config.agent.policy": "${toBase64(encodeUtf8(ALLOW_ALL))}"}, "linux": {`,
      );
    await openPod(opened, name === "ctr" ? await node.bundle(VERSION, name, id, policy) : await sandboxBundle());
    expect(opened.driver.configs[0]?.network).toEqual({ kind: "none" });
    expect(opened.networks).toEqual([]);
  });

  it("says what is missing if the pod has no policy and the guest's own allows nothing", async () => {
    const opened = world();
    const request = await node.bundle(VERSION, "sandbox", SANDBOX_ID, (text) => text.replace("io.katacontainers.config.agent.policy", "x/y"));
    await expect(opened.opener.open(request, undefined)).rejects.toMatchObject({
      code: "ERR_SHIM_POD",
      message: expect.stringContaining("has no policy") as string,
      hint: expect.stringContaining("pod_annotations") as string,
    });
    expect([opened.driver.stopped, opened.undone]).toEqual([1, ["network", "account"]]);
  });

  it("leaves nothing behind if the guest refuses", async () => {
    const opened = world();
    await expect(opened.opener.open(await sandboxBundle("package agent_policy\ndefault CreateSandboxRequest := false\n"), undefined)).rejects.toMatchObject({
      code: "ERR_SANDBOX_DENIED",
    });
    expect([opened.driver.stopped, opened.undone]).toEqual([1, ["network", "account"]]);
  });

  it("is refused before a machine is made if it does not fit, or its bundle is malformed", async () => {
    const opened = world();
    const large = await node.bundle(VERSION, "sandbox", SANDBOX_ID, (text) => withPolicy(ALLOW_ALL)(text).replace('"134217728"', '"99999999999"'));
    await expect(opened.opener.open(large, undefined)).rejects.toMatchObject({ code: "ERR_SANDBOX_SPEC" });
    await writeFile(join(large.bundle, "config.json"), "{");
    await expect(opened.opener.open(large, undefined)).rejects.toMatchObject({ code: "ERR_SHIM_BUNDLE" });
    expect([opened.driver.configs, opened.networks]).toEqual([[], []]);
  });
});

describe("containers of a pod", () => {
  it("have their layers in the form that the policy names, prepared while the machine starts", async () => {
    const opened = world();
    const request = await sandboxBundle(`${ALLOW_ALL}x := {"driver": "blk", "fstype": "tar"}\n`);
    const pod = await openPod(opened, request);
    expect(opened.images).toEqual([[SANDBOX_ID, "tar"]]);
    await pod.createContainer(request);
    await pod.createContainer(await containerBundle());
    expect(opened.images).toEqual([
      [SANDBOX_ID, "tar"],
      [CONTAINER_ID, "tar"],
    ]);
    expect(created(opened.driver).map(({ storages }) => storages[0]?.fstype)).toEqual(["tar", "tar"]);
  });

  it("whose image could not be had are tried again with it", async () => {
    let attempts = 0;
    const opened = world({
      layersOf: async () =>
        ++attempts === 1
          ? Promise.reject(new Error("no such image"))
          : [{ layerId: "1a".repeat(32), rootHash: new Uint8Array(32), format: "erofs", path: "/l" }],
    });
    const request = await sandboxBundle();
    const pod = await openPod(opened, request);
    await expect(pod.createContainer(request)).rejects.toThrow("no such image");
    await expect(pod.createContainer(request)).resolves.toMatchObject({ id: SANDBOX_ID });
  });

  it.each([
    ["auto", true, 0n],
    ["auto", false, 50000n],
    ["always", true, 50000n],
    ["never", false, 0n],
  ] as const)("keep their CPU limits: %s, on an emulated processor: %s", async (containerCpuLimits, emulated, quota) => {
    const opened = world({ config: { containerCpuLimits }, machine: { emulated } });
    const pod = await openPod(opened, await sandboxBundle());
    const container = await pod.createContainer(await containerBundle());
    expect(created(opened.driver)[0]?.OCI?.Linux?.Resources).toMatchObject({ CPU: { Quota: quota, Shares: 512n }, Memory: { Limit: 134217728n } });
    // Nor by a change: containerd sends all limits each time.
    await container.update({ cpu: { quota: 50_000, period: 100_000, shares: 512 }, memory: { limit: 1024 } });
    const update = opened.driver.requests.find((request) => isMessage(request, METHODS.updateContainer.input));
    expect(update).toMatchObject({ resources: { CPU: { Quota: quota, Shares: 512n }, Memory: { Limit: 1024n } } });
  });

  it("have emptyDirs on disks of their own where the node says so, which go with the machine", async () => {
    const opened = world({ config: { emptyDir: "encrypted" } });
    const pod = await openPod(opened, await sandboxBundle());
    await pod.createContainer(await containerBundle());
    const [disk] = opened.driver.disks.filter(({ readonly }) => !readonly);
    const volume = node.path("pods/volumes/kubernetes.io~empty-dir/disk");
    expect(disk?.path.startsWith(`${volume}/`)).toBe(true);
    expect((await readdir(volume)).length).toBe(1);
    await pod.stop();
    expect(await readdir(volume)).toEqual([]);
  });

  it("must be of the pod", async () => {
    const opened = world();
    const pod = await openPod(opened, await sandboxBundle());
    const stranger = await node.bundle(VERSION, "container", CONTAINER_ID, (text) => text.replaceAll(SANDBOX_ID, "77".repeat(32)));
    for (const request of [stranger, await node.bundle(VERSION, "ctr", "ctr1")]) {
      await expect(pod.createContainer(request)).rejects.toMatchObject({ code: "ERR_SHIM_POD" });
    }
    expect(opened.images).toEqual([[SANDBOX_ID, "erofs"]]);
  });

  it("do all that a task can be asked for", async () => {
    const opened = world({
      answers: { getOOMEvent: () => ({ containerId: CONTAINER_ID }), waitProcess: () => ({ status: 3 }), statsContainer: () => ({ cgroupStats: {} }) },
    });
    const pod = await openPod(opened, await sandboxBundle());
    const container = await pod.createContainer(await containerBundle());
    expect(await (await container.start({})).exited).toBe(3);
    expect(await (await container.exec("e1", { args: ["/bin/ls"], cwd: "/" }, {})).exited).toBe(3);
    await container.signal(15, false);
    await container.pause();
    await container.resume();
    await container.update({ cpu: { shares: 5 } });
    expect((await container.stats()).cgroupStats).toBeDefined();
    expect(await pod.nextOutOfMemory()).toBe(CONTAINER_ID);
    await container.remove();
    const asked = opened.driver.names.filter((name) => !/CopyFile|Read|Wait/.test(name)).slice(2);
    expect(asked.join(" ")).toBe(
      "CreateContainer StartContainer ExecProcess SignalProcess PauseContainer ResumeContainer UpdateContainer StatsContainer GetOOMEvent RemoveContainer",
    );
  });
});

describe("the end of a pod", () => {
  it("is one for all who ask, and undoes everything once", async () => {
    const opened = world();
    const pod = await openPod(opened, await sandboxBundle());
    await Promise.all([pod.stop(), pod.stop()]);
    await pod.stop();
    expect(await pod.exited).toMatchObject({ kind: "stopped" });
    expect([opened.driver.names.filter((name) => name === "DestroySandbox").length, opened.undone]).toEqual([1, ["network", "account"]]);
  });

  it("comes by itself when the machine ends", async () => {
    const opened = world();
    const pod = await openPod(opened, await sandboxBundle());
    opened.driver.die();
    await pod.exited;
    expect(opened.undone).toEqual(["network", "account"]);
    await pod.stop();
    expect(opened.undone).toEqual(["network", "account"]);
  });
});
