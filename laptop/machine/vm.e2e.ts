import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fileItem, linkItem, noVm, openVmWorld, skippedVm, VM_TIMEOUT, type VmWorld } from "./test-support.ts";

describe.skipIf(noVm !== undefined)(`a pod in a utility VM${skippedVm}`, { timeout: VM_TIMEOUT }, () => {
  let world: VmWorld;

  beforeAll(async () => {
    world = await openVmWorld();
  }, VM_TIMEOUT);

  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });

  it("runs a container of busybox on verified layers", async () => {
    const { run, sandbox } = await world.boot();
    const busybox = readFileSync("/usr/bin/busybox");
    const layers = [
      await world.layer([fileItem("bin/busybox", busybox), linkItem("bin/sh", "busybox")]),
      await world.layer([fileItem("etc/motd", "hello from the second layer\n", 0o644)], "tar"),
    ];
    const { process, stdout, stderr } = await run({
      layers,
      args: ["/bin/sh", "-c", "busybox cat /etc/motd; busybox id -u; echo to stderr >&2; exit 3"],
      uid: 1000,
    });
    expect(await process.exited).toBe(3);
    expect([stdout(), stderr()]).toEqual(["hello from the second layer\n1000\n", "to stderr\n"]);
    await sandbox.destroy();
    expect((await sandbox.exited).kind).not.toBe("killed");
  });
});
