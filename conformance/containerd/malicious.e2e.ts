import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { decodeUtf8, encodeUtf8, fromBase64, sha256, toBase64, toHex } from "@sealpod/core";
import { systemRandom } from "@sealpod/io";
import { ALLOW_ALL, noVm, skippedVm } from "@sealpod/machine/testing";
import { STATUS } from "@sealpod/ttrpc";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseAllDocuments } from "yaml";
import { HANDLERS, MaliciousHost, type Refusal, type RogueClient } from "./malicious-host.ts";
import { type LayerChange, withChangedLayer, withOtherImage } from "./malicious-images.ts";
import type { BundleEdit } from "./malicious-launcher.ts";
import { IMAGES, noShim, noWorld, runPod, skippedWorld, VERSIONS, type ContainerdVersion, type KubePod } from "./test-support.ts";

// A node whose owner tries to get at a pod, by genuine containerd and the genuine shim: what the pod's owner did not allow is refused in the guest, and whoever
// runs the pod reads why, in the answer of CRI and in the container's status. containerd 1.6 and 1.7 take turns.

const ROOT = resolve(import.meta.dirname, "../..");

/** Milliseconds for a test with pods that are processes, and with machines: emulated, on a busy host. */
const TIMEOUT = 120_000;
const VM_TIMEOUT = 240_000;

const POLICY_ANNOTATION = "io.katacontainers.config.agent.policy";

/** What the owner of the pod wrote. */
const POD = `
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { word: sesame }
---
apiVersion: v1
kind: Pod
metadata: { name: victim, namespace: team }
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  volumes: [{ name: settings, configMap: { name: settings } }]
  containers:
    - name: web
      image: ${IMAGES.busybox}
      command: [sh, -c, "echo up; exec sleep 1000000"]
      env: [{ name: MODE, value: honest }]
      livenessProbe: { exec: { command: [cat, /settings/word] } }
      volumeMounts: [{ name: settings, mountPath: /settings }]
    - name: helper
      image: ${IMAGES.layered}
      args: [sleep, infinity]
`;

/** One whose container relies on what another has done before, and says what nobody is to read. */
const ORDERED = `
apiVersion: v1
kind: Pod
metadata: { name: ordered, namespace: team }
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
    - { name: prepare, image: "${IMAGES.busybox}", command: ["true"] }
  containers:
    - name: web
      image: ${IMAGES.busybox}
      command: [sh, -c, "echo a secret; echo another >&2; sleep 1000000"]
      livenessProbe: { exec: { command: [echo, a secret] } }
`;

/** Why a container is refused whose request the policy does not allow. */
const DENIED = /^failed to create containerd task: failed to create shim task: CreateContainerRequest is blocked by policy: /;

/** containerd's events about a container that it could not start: no task of that name came into being. */
const NEVER_A_TASK = ["/snapshot/prepare", "/containers/create", "/snapshot/remove", "/containers/delete"];

/** One of `config.json`. */
type Patch = BundleEdit["patch"];

const add = (path: string, value: unknown): Patch => [{ op: "add", path, value }];
const replace = (path: string, value: unknown): Patch => [{ op: "replace", path, value }];
const annotation = (name: string): string => `/annotations/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;

/** What the host makes of the container "web", and the reason that it is given. */
const EDITS: readonly [what: string, patch: Patch, reason: RegExp][] = [
  ["another command", replace("/process/args/2", "id"), /container "web": process\.Args: found \["sh","-c","id"\], policy allows \["sh","-c","echo up;/],
  ["another argument", add("/process/args/-", "-x"), /container "web": process\.Args: found .*"-x"\]/],
  ["a variable left out", [{ op: "remove", path: "/process/env/1" }], /container "web": missing in process\.Env: found \["HOSTNAME"\]/],
  ["an environment variable added", add("/process/env/-", "LD_PRELOAD=/settings/word"), /container "web": process\.Env: found "LD_PRELOAD=/],
  [
    "a directory of the host mounted over programs",
    add("/mounts/-", { destination: "/bin", type: "bind", source: "/etc/cni", options: ["rbind", "ro"] }),
    /container "web": mount: found \{"destination":"\/bin"/,
  ],
  [
    "a file system in memory added",
    add("/mounts/-", { destination: "/www", type: "tmpfs", source: "tmpfs", options: [] }),
    /container "web": mount: found .*"\/www"/,
  ],
  ["another user", replace("/process/user/uid", 1000), /container "web": process\.User\.UID: found 1000, policy allows 0/],
  ["another working directory", replace("/process/cwd", "/settings"), /container "web": process\.Cwd: found "\/settings"/],
  ["a capability added", add("/process/capabilities/effective/-", "CAP_SYS_ADMIN"), /Capabilities\.Effective: found .*CAP_SYS_ADMIN.*policy allows/],
  ["a terminal", add("/process/terminal", true), /container "web": .*Terminal/],
  ["the processes of the pod in sight", replace("/linux/namespaces/0", { type: "pid", path: "/proc/1/ns/pid" }), /container "web": sandbox_pidns: found true/],
  ["the name of another container", replace(annotation("io.kubernetes.cri.container-name"), "helper"), /container "helper": .*found/],
  ["a container that the pod does not have", replace(annotation("io.kubernetes.cri.container-name"), "extra"), /container: found \["container","extra"\]/],
  ["the name of another pod", replace(annotation("io.kubernetes.cri.sandbox-name"), "other"), /sandbox: found .*"other"/],
];

/** What it makes of the layer of the image of "web", and the reason where the guest is a process, and where it is a machine. */
const LAYERS: readonly [change: LayerChange, process: RegExp, machine?: RegExp][] = [
  ["its first block", /does not match root hash/, /cannot be mounted under its root hash/],
  // A machine reads it when the file is wanted (laptop/machine/integrity.e2e.ts).
  ["a file in it", /does not match root hash/],
  ["its tree", /does not match root hash/],
  ["all of it, with another root hash", DENIED, DENIED],
];

const noMalice = noShim ?? VERSIONS.map((version) => noWorld(version)).find((reason) => reason !== undefined);
const skipped = noMalice === undefined ? "" : noShim === undefined ? VERSIONS.map(skippedWorld).join("") : ` (skipped: ${noShim})`;

describe.skipIf(noMalice !== undefined)(`a malicious host${skipped}`, { timeout: TIMEOUT }, () => {
  let hosts: Readonly<Record<ContainerdVersion, MaliciousHost>>;
  /** With the policies that were generated for them; of `ordered` nothing may be read. */
  let yaml: Readonly<Record<"aks" | "coco" | "ordered", string>>;
  let policy = "";

  beforeAll(async () => {
    const [older, newer] = await Promise.all([MaliciousHost.open("1.6"), MaliciousHost.open("1.7")]);
    hosts = { "1.6": older, "1.7": newer };
    const settings = join(older.world.directory, "settings.json");
    const text = await readFile(join(ROOT, "author/genpolicy/data/genpolicy-settings.json"), "utf8");
    await writeFile(settings, text.replace('"ReadStreamRequest": true', '"ReadStreamRequest": false'));
    const [aks, coco, ordered] = await Promise.all([
      generate(older, "aks", POD, ["--profile", "aks"]),
      generate(older, "coco", POD, ["--profile", "coco"]),
      generate(older, "ordered", ORDERED, ["--profile", "aks", "-j", settings]),
    ]);
    yaml = { aks, coco, ordered };
    policy = policyOf(aks);
  }, TIMEOUT);

  afterAll(async () => {
    await Promise.all(Object.values(hosts ?? {}).map((host) => host[Symbol.asyncDispose]()));
  });

  /** All that tells of a refusal says the same. */
  function expectReason(refusal: Refusal, ...patterns: readonly RegExp[]): void {
    for (const pattern of patterns) expect(refusal.message).toMatch(pattern);
    expect(refusal.error).toContain(refusal.message);
    expect(refusal.reason).toBe("StartError");
    expect(refusal.topics).toEqual(NEVER_A_TASK);
  }

  /** The sandbox does not come up: there is no container whose status could say why. */
  async function expectNoPod(host: MaliciousHost, handler: string, text: string, pattern: RegExp): Promise<void> {
    await expect(runPod(host.world, text, { handler })).rejects.toThrow(pattern);
    expect(await host.world.leaks()).toEqual([]);
  }

  describe.each(VERSIONS)("with containerd %s and pods that are processes", (version) => {
    let host: MaliciousHost;
    let pod: KubePod;

    /** Every second one belongs to this version. */
    const turn = <T>(rows: readonly T[]): readonly T[] => rows.filter((_row, i) => i % 2 === VERSIONS.indexOf(version));

    beforeAll(async () => {
      host = hosts[version];
      pod = await runPod(host.world, yaml.aks, { handler: HANDLERS.process, start: [] });
    }, TIMEOUT);

    afterAll(async () => {
      await pod?.remove();
    });

    it.each(turn(EDITS))("does not get %s", async (_what, patch, reason) => {
      expectReason(await host.editing("web", patch, () => host.refused(pod, "web")), DENIED, reason);
    });

    it.runIf(version === "1.7")("does not get another image under the same name", async () => {
      expectReason(
        await withOtherImage(host, () => host.refused(pod, "web")),
        DENIED,
        /container "web": storage at: found "\/run\/kata-containers\/sandbox\/layers/,
      );
    });

    it.each(turn(LAYERS))("does not get a layer with a change in %s", async (change, reason) => {
      await using other = await runPod(host.world, yaml.aks, { handler: HANDLERS.process, start: [] });
      // The file is made for the first that asks.
      expectReason(await host.editing("web", add("/process/args/-", "-x"), () => host.refused(other, "web")), DENIED);
      expectReason(await withChangedLayer(host, change, () => host.refused(other, "web")), reason);
    });

    it("gets the container that the policy has, and not another command in it", async () => {
      await pod.startContainer("web");
      await pod.logged("up", "web");
      expect(await pod.exec(["cat", "/settings/word"], "web")).toMatchObject({ exitCode: 0, stdout: "sesame" });
      const refused =
        /ExecProcessRequest is blocked by policy: .*container "web": exec: found \["cat","\/etc\/passwd"\], policy allows \[\["cat","\/settings\/word"\]\]/;
      await expect(pod.exec(["cat", "/etc/passwd"], "web")).rejects.toThrow(refused);
    });

    it("cannot do past its shim what it cannot do by it", async () => {
      await using rogue = await host.connectAgent(pod);
      const web = pod.container("web");
      // An id that no container has.
      const other = toHex(systemRandom.bytes(32));
      const denied = async (answer: ReturnType<RogueClient["createContainer"]>, pattern: RegExp): Promise<void> => {
        expect(await answer).toEqual({ code: STATUS.permissionDenied, message: expect.stringMatching(pattern) as string });
      };
      // Not another policy, and not the same one again, which would forget what there is.
      for (const text of [ALLOW_ALL, policy])
        await denied(rogue.send("setPolicy", { policy: text }), /^SetPolicyRequest is blocked by policy: .*cannot be replaced/);
      await denied(rogue.send("createSandbox", { sandboxId: pod.id }), /^CreateSandboxRequest is blocked by policy: .*the sandbox exists already/);
      await denied(
        rogue.send("execProcess", { containerId: web, execId: "probe", process: { Args: ["id"] } }),
        /^ExecProcessRequest is blocked by policy: .*"id"/,
      );
      // Of what does not exist, or does already.
      await denied(
        rogue.send("execProcess", { containerId: other, execId: "probe", process: { Args: ["cat", "/settings/word"] } }),
        /container "?[0-9a-f]+"? does not exist/,
      );
      expect(await rogue.send("startContainer", { containerId: other })).toMatchObject({ code: STATUS.invalidArgument });
      expect(await rogue.send("startContainer", { containerId: web })).toMatchObject({ code: STATUS.failedPrecondition });
      await denied(rogue.createContainer(web, "web"), /^CreateContainerRequest is blocked by policy: .*container "web": exists already/);
      await denied(rogue.createContainer(other, "web"), /^CreateContainerRequest is blocked by policy: .*container "web": exists already/);
      expect(await pod.exec(["cat", "/settings/word"], "web")).toMatchObject({ exitCode: 0, stdout: "sesame" });
    });

    it("cannot make a container of one pod in another", async () => {
      await using neighbour = await runPod(host.world, yaml.aks, { handler: HANDLERS.process, start: [] });
      const patch = replace(annotation("io.kubernetes.cri.sandbox-id"), pod.id);
      expectReason(await host.editing("helper", patch, () => host.refused(neighbour, "helper")), DENIED, /sandbox: found /);
    });

    it("leaves nothing behind", async () => {
      await pod.remove();
      expect(await host.world.leaks()).toEqual([]);
    });
  });

  it.each([
    ["another command", "1.6", replace("/process/args/2", "0"), /container "pause": process\.Args: found/],
    ["an environment variable added", "1.7", add("/process/env/-", "A=b"), /container "pause": process\.Env: found "A=b"/],
  ] as const)("does not get %s into the first container of a pod", async (_what, version, patch, reason) => {
    const pattern = new RegExp(`CreateContainerRequest is blocked by policy: .*${reason.source}`);
    await hosts[version].editing("sandbox", patch, () => expectNoPod(hosts[version], HANDLERS.process, yaml.aks, pattern));
  });

  it("cannot leave out what has to come first", async () => {
    const { world } = hosts["1.6"];
    const without = yaml.ordered.replace(/ {2}initContainers:[^]*?(?= {2}containers:)/, "");
    await expectNoPod(hosts["1.6"], HANDLERS.process, without, /CreateContainerRequest is blocked by policy: .*container "web": has to wait for/);
    expect(world.version).toBe("1.6");
  });

  it("reads nothing of what a pod says, if its policy says so", async () => {
    const { world } = hosts["1.7"];
    await using pod = await runPod(world, yaml.ordered, { handler: HANDLERS.process });
    expect(await pod.exec(["echo", "a secret"], "web")).toEqual({ exitCode: 0, stdout: "", stderr: "" });
    expect(pod.logs("web")).toEqual([]);
    await using rogue = await hosts["1.7"].connectAgent(pod);
    const web = pod.container("web");
    // An agent that denies a read says so by giving nothing (specs/runtime.md 3.9).
    expect(await rogue.send("readStdout", { containerId: web, execId: web, len: 100 })).toMatchObject({ code: 0, body: { data: new Uint8Array() } });
    await pod.remove();
    expect(await world.leaks()).toEqual([]);
  });

  it("may bring another policy, but not without telling every verifier", async () => {
    const host = hosts["1.6"];
    await using pod = await host.editing("sandbox", replace(annotation(POLICY_ANNOTATION), toBase64(encodeUtf8(ALLOW_ALL))), () =>
      runPod(host.world, yaml.aks, { handler: HANDLERS.process, start: [] }),
    );
    expect(toHex(await host.provenHostData(pod))).toBe(toHex(sha256(encodeUtf8(ALLOW_ALL))));
    await pod.remove();
    expect(await host.world.leaks()).toEqual([]);
  });

  /** HOST_DATA of the honest pod for another policy, and another one for the honest pod. */
  it.each([
    ["the pod's policy, for which the machine was not launched", "1.7", undefined, ALLOW_ALL],
    ["another policy than that for which the machine was launched", "1.6", ALLOW_ALL, undefined],
  ] as const)("does not get %s", async (_what, version, brought, launched) => {
    const host = hosts[version];
    const [given, told] = [brought ?? policy, launched ?? policy].map((text) => sha256(encodeUtf8(text)));
    host.hostData = told ?? new Uint8Array(32);
    const text = brought === undefined ? yaml.aks : yaml.aks.replace(toBase64(encodeUtf8(policy)), toBase64(encodeUtf8(brought)));
    const pattern = new RegExp(`the policy's SHA-256 is ${toHex(given ?? new Uint8Array())}, but HOST_DATA of this machine is ${toHex(host.hostData)}`);
    await expectNoPod(host, HANDLERS.lyingProcess, text, pattern);
  });

  describe.skipIf(noVm !== undefined)(`with pods in machines${skippedVm}`, { timeout: VM_TIMEOUT }, () => {
    it("does not get a changed layer, with containerd 1.7 and profile aks", async () => {
      const host = hosts["1.7"];
      await using pod = await runPod(host.world, yaml.aks, { handler: HANDLERS.vm, start: [] });
      // Made for the first that asks.
      expectReason(await host.editing("web", add("/process/args/-", "-x"), () => host.refused(pod, "web")), DENIED);
      for (const [change, , reason] of LAYERS.filter(([, , inMachine]) => inMachine !== undefined).toReversed()) {
        expectReason(await withChangedLayer(host, change, () => host.refused(pod, "web")), reason ?? /^$/);
      }
      await pod.remove();
      expect(await host.world.leaks()).toEqual([]);
    });

    it("does not get an environment variable added, with containerd 1.6 and profile coco", async () => {
      const host = hosts["1.6"];
      await using pod = await runPod(host.world, yaml.coco, { handler: HANDLERS.vm, start: [] });
      const [, patch, reason] = EDITS.find(([what]) => what === "an environment variable added") ?? ["", [], /^$/];
      expectReason(await host.editing("web", patch, () => host.refused(pod, "web")), DENIED, reason);
      await pod.startContainer("web");
      await expect(pod.exec(["id"], "web")).rejects.toThrow(/ExecProcessRequest is blocked by policy: .*container "web": exec: found \["id"\]/);
      await pod.remove();
      expect(await host.world.leaks()).toEqual([]);
    });

    it("does not get a policy for which the machine was not launched, with containerd 1.6 and profile aks", async () => {
      const host = hosts["1.6"];
      host.hostData = sha256(encodeUtf8(policy));
      const text = yaml.aks.replace(toBase64(encodeUtf8(policy)), toBase64(encodeUtf8(ALLOW_ALL)));
      await expectNoPod(
        host,
        HANDLERS.lyingVm,
        text,
        new RegExp(`the policy's SHA-256 is [0-9a-f]{64}, but HOST_DATA of this machine is ${toHex(host.hostData)}`),
      );
    });

    it("does not get initdata for which the machine was not launched, with containerd 1.7 and profile coco", async () => {
      const host = hosts["1.7"];
      host.hostData = sha256(encodeUtf8(policy));
      await expectNoPod(host, HANDLERS.lyingVm, yaml.coco, new RegExp(`HOST_DATA of this machine is ${toHex(host.hostData)}`));
    });
  });
});

/** The policy that a pod brings. */
function policyOf(text: string): string {
  for (const document of parseAllDocuments(text)) {
    const value: unknown = document.getIn(["metadata", "annotations", POLICY_ANNOTATION]);
    if (typeof value === "string") return decodeUtf8(fromBase64(value));
  }
  throw new Error("the documents have no policy");
}

/** Has our genpolicy write a policy into the YAML. */
async function generate({ world }: MaliciousHost, name: string, text: string, flags: readonly string[]): Promise<string> {
  const file = join(world.directory, `${name}.yaml`);
  await writeFile(file, text);
  const all = ["genpolicy", ...flags, "--oci-layout", join(world.directory, "layout"), "--pause-image", IMAGES.pause, "-y", file];
  await promisify(execFile)(process.execPath, [join(ROOT, "cli/main.ts"), ...all]);
  return readFile(file, "utf8");
}
