import { text } from "node:stream/consumers";
import { ALLOW_ALL, noVm } from "@sealpod/machine/testing";
import { criApi } from "@sealpod/proto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { definePodCases, ONE } from "./pod-cases.ts";
import { IMAGES, noShim, noWorld, openContainerdWorld, runPod, shimHandler, skippedWorld, VERSIONS, withPolicy } from "./test-support.ts";
import type { ContainerdWorld } from "./test-support.ts";

// Pods under the shim by CRI, as kubelet runs them: the cases that runc passes, with the agent as a process; then generated policies in both generations.

const METHODS = criApi.RuntimeService.method;
const ALLOWED = { "io.katacontainers.config.agent.policy": Buffer.from(ALLOW_ALL).toString("base64") };

/** Milliseconds for one pod in a machine: emulated, on a busy host. */
const VM_TIMEOUT = 240_000;

/** What a generated policy has to allow, each part once. */
const POD = `
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { file.txt: "first\\n" }
---
apiVersion: v1
kind: Pod
metadata: { name: generated, namespace: team }
spec:
  runtimeClassName: kata-cc-isolation
  volumes:
    - { name: settings, configMap: { name: settings } }
    - { name: scratch, emptyDir: {} }
  initContainers:
    - name: prepare
      image: ${IMAGES.busybox}
      command: [sh, -c, "echo last words >/dev/termination-log"]
      volumeMounts: [{ name: scratch, mountPath: /scratch }]
  containers:
    - name: web
      image: ${IMAGES.busybox}
      command: [sh, -c, "echo $(POD) | tee /scratch/index.html; exec httpd -f -p 8080 -h /scratch"]
      env: [{ name: POD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }]
      livenessProbe: { exec: { command: [cat, /settings/file.txt] } }
      resources: { limits: { memory: 128Mi } }
      volumeMounts:
        - { name: settings, mountPath: /settings }
        - { name: scratch, mountPath: /scratch }
    - name: layered
      image: ${IMAGES.layered}
      args: [sleep, infinity]
`;

for (const version of VERSIONS) {
  const reason = noWorld(version) ?? noShim;
  describe.skipIf(reason !== undefined)(
    `CRI of containerd ${version} with the shim${noShim === undefined ? skippedWorld(version) : ` (skipped: ${noShim})`}`,
    () => {
      let world: ContainerdWorld;

      beforeAll(async () => {
        world = await openContainerdWorld({ version, handlers: { "kata-cc": shimHandler("process"), "kata-cc-isolation": shimHandler("vm") } });
      });

      afterAll(async () => {
        await world?.[Symbol.asyncDispose]();
      });

      describe("pods as processes, everything allowed", () => {
        definePodCases(() => world, { handler: "kata-cc", annotations: ALLOWED, bare: true, accounted: false });
      });

      // One version: what differs between them has been seen with processes.
      describe.skipIf(noVm !== undefined || version !== "1.7")(
        `pods in machines, everything allowed${noVm === undefined ? "" : ` (skipped: ${noVm})`}`,
        { timeout: VM_TIMEOUT },
        () => {
          definePodCases(() => world, { handler: "kata-cc-isolation", annotations: ALLOWED, accounted: false });
        },
      );

      /** A pod with a generated policy from its start to its end. */
      async function generated(profile: "aks" | "coco", handler: string): Promise<void> {
        const yaml = await withPolicy(world, POD, profile, IMAGES.pause);
        await using pod = await runPod(world, yaml, { handler });
        if (profile === "aks") {
          await pod.logged("generated", "web");
          await pod.logged("top 1000:1000 /app run", "layered");
        }
        expect(await pod.exec(["cat", "/settings/file.txt"], "web")).toMatchObject({ exitCode: 0, stdout: profile === "aks" ? "first\n" : "" });
        await expect(pod.exec(["id"], "web")).rejects.toThrow(/blocked by policy/);
        await expect(pod.exec(["cat", "/settings/file.txt"], "layered")).rejects.toThrow(/blocked by policy/);
        const direct = await world.namespace.dial(pod.ip, 8080);
        direct.write("GET / HTTP/1.0\r\n\r\n");
        expect(await text(direct)).toMatch(/generated\n$/);
        const { stream, error } = await pod.forward(8080);
        stream.write("GET / HTTP/1.0\r\n\r\n");
        expect([await text(stream), error()]).toEqual([expect.stringMatching(/generated\n$/), ""]);
        const { stats } = await world.cri(METHODS.listContainerStats, {});
        for (const name of ["web", "layered"]) {
          const item = stats.find(({ attributes }) => attributes?.metadata?.name === name);
          expect(item?.memory?.workingSetBytes?.value, name).toBeGreaterThan(0n);
        }
        await pod.stopContainer("layered", 0);
        expect(await pod.exited("layered")).toBe(137);
        // Upstream's settings let nobody read what a container writes.
        if (profile === "coco") expect([...pod.logs("web"), ...pod.logs("layered")]).toEqual([]);
        await pod.remove();
        expect(await world.leaks()).toEqual([]);
      }

      it("runs a pod as processes with the policy that was generated for it", () => generated("aks", "kata-cc"));

      it("refuses a pod that differs from the one that its policy was generated for", async () => {
        const yaml = await withPolicy(world, POD, "aks", IMAGES.pause);
        const changed = yaml.replace("httpd -f -p 8080", "httpd -f -p 8081");
        await expect(runPod(world, changed, { handler: "kata-cc" })).rejects.toThrow(/blocked by policy/);
        expect(await world.leaks()).toEqual([]);
      });

      it("refuses a pod without a policy", async () => {
        await expect(runPod(world, POD, { handler: "kata-cc" })).rejects.toThrow(/policy/);
        expect(await world.leaks()).toEqual([]);
      });

      it("cleans up after a shim that was killed", async () => {
        await using pod = await runPod(world, ONE, { handler: "kata-cc", annotations: ALLOWED });
        await world.inside(
          "sh",
          "-c",
          'for each in /proc/[0-9]*; do case "$(tr "\\0" " " <$each/cmdline)" in *"-id $1"*) kill -9 "${each#/proc/}" ;; esac; done',
          "sh",
          pod.id,
        );
        expect(await pod.exited("web")).not.toBe(0);
        await expect(pod.exec(["true"])).rejects.toThrow();
        await pod.remove();
        expect(await world.leaks()).toEqual([]);
      });

      it("runs several pods at once", async () => {
        const names = ["first", "second", "third", "fourth"];
        const pods = await Promise.all(
          names.map((name) => runPod(world, ONE.replace("name: one", `name: ${name}`), { handler: "kata-cc", annotations: ALLOWED })),
        );
        for (const [i, pod] of pods.entries()) expect((await pod.exec(["hostname"])).stdout).toBe(`${names[i] ?? ""}\n`);
        expect(new Set(pods.map(({ ip }) => ip)).size).toBe(names.length);
        await Promise.all(pods.map((pod) => pod.remove()));
        expect(await world.leaks()).toEqual([]);
      });

      // Initdata need a machine; a policy of the first generation has been seen with processes on both versions.
      for (const profile of version === "1.7" ? (["aks", "coco"] as const) : (["coco"] as const)) {
        it.skipIf(noVm !== undefined)(
          `runs a pod in a machine with the policy of profile ${profile}${noVm === undefined ? "" : ` (skipped: ${noVm})`}`,
          () => generated(profile, "kata-cc-isolation"),
          VM_TIMEOUT,
        );
      }
    },
  );
}
