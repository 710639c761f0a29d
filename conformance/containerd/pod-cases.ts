import { createHash } from "node:crypto";
import { text } from "node:stream/consumers";
import { criApi } from "@sealpod/proto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { IMAGES, runPod, until } from "./test-support.ts";
import type { ContainerdWorld, KubePod, PodOptions } from "./test-support.ts";

// What a pod does whatever runs it: the cases that runc and the shim share.

const METHODS = criApi.RuntimeService.method;

/** One container with a web server. */
export const ONE: string = `
apiVersion: v1
kind: Pod
metadata:
  name: one
spec:
  terminationGracePeriodSeconds: 5
  containers:
    - name: web
      image: ${IMAGES.busybox}
      command: [sh, -c, 'echo out; echo err >&2; cat /etc/hostname; exec httpd -f -p 8080 -h /www']
      resources: { limits: { cpu: 500m, memory: 64Mi } }
`;

/** Volumes, variables, an init container, an image of several layers, a terminal. */
export const THREE: string = `
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { color: blue, "file.txt": "first\\n" }
---
apiVersion: v1
kind: Secret
metadata: { name: hidden }
stringData: { word: open sesame }
---
apiVersion: v1
kind: Pod
metadata:
  name: three
  namespace: team
  labels: { tier: back }
spec:
  shareProcessNamespace: false
  volumes:
    - { name: settings, configMap: { name: settings } }
    - { name: hidden, secret: { secretName: hidden } }
    - { name: scratch, emptyDir: {} }
    - { name: memory, emptyDir: { medium: Memory } }
  initContainers:
    - name: prepare
      image: ${IMAGES.busybox}
      command: [sh, -c, 'echo prepared >/scratch/state; echo last words >/dev/termination-log']
      volumeMounts: [{ name: scratch, mountPath: /scratch }]
  containers:
    - name: reader
      image: ${IMAGES.busybox}
      command: [sh, -c, "trap 'exit 7' TERM; echo '$(COLOR) $(WORD) $(POD) $(TIER) $(NOT_SET) $$(COLOR)'; while :; do sleep 1 & wait $!; done"]
      env:
        - { name: COLOR, valueFrom: { configMapKeyRef: { name: settings, key: color } } }
        - { name: WORD, valueFrom: { secretKeyRef: { name: hidden, key: word } } }
        - { name: POD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
        - { name: TIER, valueFrom: { fieldRef: { fieldPath: "metadata.labels['tier']" } } }
      volumeMounts:
        - { name: settings, mountPath: /settings }
        - { name: hidden, mountPath: /hidden, readOnly: true }
        - { name: scratch, mountPath: /scratch }
        - { name: memory, mountPath: /memory }
    - name: layered
      image: ${IMAGES.layered}
      args: [sleep, infinity]
      securityContext: { allowPrivilegeEscalation: false }
    - name: shell
      image: ${IMAGES.busybox}
      command: [sh]
      stdin: true
      tty: true
`;

/** What differs between handlers. */
export interface PodRuntime {
  readonly handler: string;
  readonly annotations?: Readonly<Record<string, string>>;
  /** True for pods that are processes without cgroups of their own and without the utility VM's helper: no terminals, no measured CPU time. */
  readonly bare?: boolean;
  /** Whether what runs the pod is in the pod's cgroup, where containerd looks for the pod's memory. */
  readonly accounted?: boolean;
}

/** Defines the cases for pods of one handler. */
export function definePodCases(world: () => ContainerdWorld, { handler, annotations = {}, bare = false, accounted = true }: PodRuntime): void {
  const options: PodOptions = { handler, annotations };

  describe("a pod of one container", () => {
    let pod: KubePod;

    beforeAll(async () => {
      pod = await runPod(world(), ONE, options);
    });

    afterAll(async () => {
      await pod?.remove();
    });

    it("runs, and its log has both streams", async () => {
      await pod.logged("one");
      expect(pod.logs().toSorted((a, b) => a.text.localeCompare(b.text))).toEqual([
        { stream: "stderr", text: "err" },
        { stream: "stdout", text: "one" },
        { stream: "stdout", text: "out" },
      ]);
      expect(await pod.status()).toMatchObject({ state: criApi.ContainerState.CONTAINER_RUNNING, exitCode: 0 });
    });

    it("answers over its network, and over a forwarded port", async () => {
      const get = "GET /index.html HTTP/1.0\r\n\r\n";
      const direct = await world().namespace.dial(pod.ip, 8080);
      direct.write(get);
      expect(await text(direct)).toContain("hello from the pod");
      const { stream } = await pod.forward(8080);
      stream.write(get);
      expect(await text(stream)).toContain("hello from the pod");
      const refused = await pod.forward(8081);
      refused.stream.write(get);
      expect(await text(refused.stream)).toBe("");
      expect(refused.error()).toMatch(/refused/);
      await expect(world().namespace.dial(pod.ip, 8081)).rejects.toThrow("nobody listens");
    });

    it("runs commands in it", async () => {
      expect(await pod.exec(["sh", "-c", "echo a; echo b >&2; exit 3"])).toEqual({ exitCode: 3, stdout: "a\n", stderr: "b\n" });
      await expect(pod.exec(["sleep", "100"], undefined, 1)).rejects.toThrow(/deadline exceeded|timed out|timeout/i);
      await expect(pod.exec(["/no/such/program"])).rejects.toThrow(/no such file/i);
    });

    it("streams a command", async () => {
      const streams = await pod.execStream(["sh", "-c", "read line; echo got $line; echo no >&2; exit 5"], { stdin: true });
      await streams.write("some words\n");
      expect(await streams.ended).toBe(5);
      expect([streams.stdout, streams.stderr]).toEqual(["got some words\n", "no\n"]);
    });

    it.skipIf(bare)("gives a command a terminal", async () => {
      const terminal = await pod.execStream(["sh"], { stdin: true, tty: true });
      await terminal.wrote("#");
      await terminal.resize(90, 30);
      await terminal.write("stty size; exit 4\n");
      expect(await terminal.ended).toBe(4);
      expect(terminal.stdout).toContain("30 90");
    });

    it("carries a megabyte through a stream unharmed", async () => {
      const streams = await pod.execStream(["sh", "-c", "head -c 1048576 | sha256sum"], { stdin: true });
      const bytes = Buffer.alloc(1_048_576, "0123456789abcdef");
      for (let at = 0; at < bytes.length; at += 30_000) await streams.write(bytes.subarray(at, at + 30_000));
      expect(await streams.ended).toBe(0);
      expect(streams.stdout).toContain(createHash("sha256").update(bytes).digest("hex"));
    });

    it("has statistics", async () => {
      const { stats } = await world().cri(METHODS.containerStats, { containerId: pod.container() });
      if (!bare) expect(stats?.cpu?.usageCoreNanoSeconds?.value).toBeGreaterThan(0n);
      expect(stats?.memory?.workingSetBytes?.value).toBeGreaterThan(0n);
      expect((await world().cri(METHODS.listContainerStats, {})).stats).toHaveLength(1);
      const sandbox = await world().cri(METHODS.podSandboxStats, { podSandboxId: pod.id });
      expect(sandbox.stats?.linux?.containers).toHaveLength(1);
      if (accounted) expect(sandbox.stats?.linux?.memory?.usageBytes?.value).toBeGreaterThan(0n);
    });

    it.skipIf(bare)("takes another limit while it runs", async () => {
      await world().cri(METHODS.updateContainerResources, { containerId: pod.container(), linux: { memoryLimitInBytes: 100_663_296n } });
      // Version 2 of control groups in a machine, whatever the node has.
      const limit = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
      expect((await pod.exec(["sh", "-c", limit])).stdout).toBe("100663296\n");
    });

    it("is seen by the leak check while it is there", async () => {
      const leaks = await world().leaks(0);
      for (const kind of ["process", "file /run/netns/", "link veth", "mount", "cgroup"])
        expect(
          leaks.some((item) => item.startsWith(kind)),
          kind,
        ).toBe(true);
    });

    it("outlives containerd", async () => {
      await world().restart("SIGKILL");
      expect(await pod.exec(["echo", "still here"])).toMatchObject({ exitCode: 0, stdout: "still here\n" });
    });

    it("stops and goes without a trace", async () => {
      await pod.stopContainer("web", 0);
      expect(await pod.exited()).toBe(137);
      await pod.remove();
      expect(await world().leaks()).toEqual([]);
    });
  });

  describe("a pod of three containers and one before them", () => {
    let pod: KubePod;

    beforeAll(async () => {
      pod = await runPod(world(), THREE, { ...options, ...(bare ? { start: ["reader", "layered"] } : {}) });
    });

    afterAll(async () => {
      await pod?.remove();
    });

    it("has variables, volumes, hosts and last words as from kubelet", async () => {
      await pod.logged("blue open sesame three back $(NOT_SET) $(COLOR)", "reader");
      const { stdout } = await pod.exec(["sh", "-c", "cat /settings/file.txt /hidden/word; grep three /etc/hosts; mount | grep /memory"], "reader");
      expect(stdout).toMatch(/^first\nopen sesame/);
      expect(stdout).toContain(`${pod.ip}\tthree`);
      expect(stdout).toMatch(/tmpfs on \/memory/);
    });

    // Nothing comes back from a machine that shares no files with its node.
    it.skipIf(handler !== "runc")("hands out the last words of a container", () => {
      expect(pod.terminationMessage("prepare")).toBe("last words\n");
    });

    it("keeps in an emptyDir what an init container has written", async () => {
      expect(await pod.exec(["cat", "/scratch/state"], "reader")).toMatchObject({ stdout: "prepared\n" });
    });

    it("shows a changed ConfigMap", async () => {
      await pod.updateVolume("settings", { "file.txt": "second\n", color: "red" });
      // Into a machine it is copied, which takes a moment.
      await until(async () => {
        expect(await pod.exec(["cat", "/settings/file.txt", "/settings/color"], "reader")).toMatchObject({ stdout: "second\nred" });
      }, 30_000);
    });

    it("runs an image of several layers as its configuration says", async () => {
      await pod.logged("top 1000:1000 /app run", "layered");
    });

    it.skipIf(bare)("attaches to a container with a terminal", async () => {
      const streams = await pod.attach({ stdin: true, tty: true }, "shell");
      await streams.write("echo $((6 * 7))\n");
      await streams.wrote(/\b42\b/);
      await streams.write("exit 9\n");
      await streams.ended;
      expect(await pod.exited("shell")).toBe(9);
    });

    it("stops each container by its signal", async () => {
      await pod.stopContainer("reader");
      expect(await pod.exited("reader")).toBe(7);
      await pod.remove();
      expect(await world().leaks()).toEqual([]);
    });
  });

  it("removes what is left of a pod that does not start", async () => {
    const broken = ONE.replace("command: [sh,", "command: [/no/such/program,");
    await expect(runPod(world(), broken, options)).rejects.toThrow(/no such file/i);
    expect(await world().leaks()).toEqual([]);
  });
}
