import { criApi } from "@sealpod/proto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { definePodCases } from "./pod-cases.ts";
import { defineCtrCases } from "./ctr-cases.ts";
import { noWorld, openContainerdWorld, skippedWorld, VERSIONS } from "./test-support.ts";
import type { ContainerdWorld } from "./test-support.ts";

// The world itself, with pods of runc: what a test of the shim relies on, and what the shim is compared with.

const METHODS = criApi.RuntimeService.method;

for (const version of VERSIONS) {
  describe.skipIf(noWorld(version) !== undefined)(`a world with containerd ${version}${skippedWorld(version)}`, () => {
    let world: ContainerdWorld;

    beforeAll(async () => {
      world = await openContainerdWorld({ version });
    });

    afterAll(async () => {
      await world?.[Symbol.asyncDispose]();
    });

    it("has a containerd of this version whose runtime and network are ready", async () => {
      const { runtimeVersion } = await world.cri(METHODS.version, {});
      expect(runtimeVersion).toMatch(new RegExp(`^${version.replace(".", "\\.")}\\.`));
      const { status } = await world.cri(METHODS.status, {});
      expect(status?.conditions.filter((condition) => !condition.status)).toEqual([]);
    });

    definePodCases(() => world, { handler: "runc" });

    defineCtrCases(() => world, { runtime: "io.containerd.runc.v2", pauses: true });
  });
}
