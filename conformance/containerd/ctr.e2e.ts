import { afterAll, beforeAll, describe, it, expect } from "vitest";
import { ALLOW_ALL } from "@sealpod/machine/testing";
import { defineCtrCases } from "./ctr-cases.ts";
import { IMAGES, noShim, noWorld, openContainerdWorld, shimHandler, skippedWorld, VERSIONS } from "./test-support.ts";
import type { ContainerdWorld } from "./test-support.ts";

// Single containers under the shim: the cases that runc passes, and what only the shim does.

const POLICY = `io.katacontainers.config.agent.policy=${Buffer.from(ALLOW_ALL).toString("base64")}`;

for (const version of VERSIONS) {
  const reason = noWorld(version) ?? noShim;
  describe.skipIf(reason !== undefined)(
    `ctr of containerd ${version} with the shim${noShim === undefined ? skippedWorld(version) : ` (skipped: ${noShim})`}`,
    () => {
      let world: ContainerdWorld;

      beforeAll(async () => {
        world = await openContainerdWorld({ version, handlers: { "kata-cc": shimHandler("process") } });
      });

      afterAll(async () => {
        await world?.[Symbol.asyncDispose]();
      });

      defineCtrCases(() => world, { runtime: "io.containerd.kata-cc.v2", more: ["--annotation", POLICY], pauses: false });

      it("ctr is told that a container has no policy", async () => {
        const done = await world.ctr("run", "--rm", "--runtime", "io.containerd.kata-cc.v2", IMAGES.busybox, "bare", "true");
        expect(done.status).not.toBe(0);
        expect(done.stderr).toMatch(/policy/);
        await world.ctr("containers", "rm", "bare");
        expect(await world.leaks()).toEqual([]);
      });
    },
  );
}
