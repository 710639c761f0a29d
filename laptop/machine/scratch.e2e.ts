import { readFileSync } from "node:fs";
import { readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeUtf8, toBase64, toHex } from "@sealpod/core";
import { AgentService } from "@sealpod/proto";
import { LAYER_DIRECTORY, SHARED_CONTAINERS, type ContainerLayer } from "@sealpod/sandbox";
import { TtrpcClient } from "@sealpod/ttrpc";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fileItem, linkItem, noVm, openVmWorld, skippedVm, VM_TIMEOUT, type VmSandbox, type VmWorld } from "./test-support.ts";

const METHODS = AgentService.method;
const OPTION = "io.katacontainers.fs-opt.";
const SIZE = 32 * 1024 * 1024;
const VOLUME = `${SHARED_CONTAINERS}/volume`;
const GROUP = 4321;

describe.skipIf(noVm !== undefined)(`encrypted scratch storage in a utility VM${skippedVm}`, { timeout: VM_TIMEOUT }, () => {
  let world: VmWorld;
  let pod: VmSandbox;
  let client: TtrpcClient;
  let base: ContainerLayer & { readonly source: string };

  beforeAll(async () => {
    world = await openVmWorld();
    pod = await world.boot();
    client = new TtrpcClient(await pod.sandbox.machine.connectAgent());
    const layer = await world.layer([fileItem("bin/busybox", readFileSync("/usr/bin/busybox")), linkItem("bin/sh", "busybox")]);
    base = { ...layer, ...(await pod.sandbox.machine.attachDisk(layer.path)) };
  }, VM_TIMEOUT);

  afterAll(async () => {
    client.close();
    await world[Symbol.asyncDispose]();
  });

  /** A container with the volume at /volume, run to its end. It stays until it is removed. */
  const run = async (id: string, source: string, script: string): Promise<string> => {
    const options = ["ro", `${OPTION}block_device=file`, `${OPTION}is-layer`, `${OPTION}root-hash=${toHex(base.rootHash)}`];
    const root = `${SHARED_CONTAINERS}/${id}`;
    await client.unary(METHODS.createContainer, {
      containerId: id,
      execId: id,
      storages: [
        { driver: "blk", source: base.source, fstype: "erofs", options, mountPoint: `${LAYER_DIRECTORY}/${base.layerId}` },
        {
          driver: "overlayfs",
          source: "none",
          fstype: "fuse3.kata-overlay",
          options: [`${OPTION}layer=${toBase64(encodeUtf8([base.layerId, "erofs", ...options].join(",")))}`, `${OPTION}overlay-rw`, `lowerdir=${base.layerId}`],
          mountPoint: root,
        },
        {
          driver: "blk",
          source,
          fstype: "ext4",
          driverOptions: ["encryption_key=ephemeral"],
          fsGroup: { groupId: GROUP },
          mountPoint: VOLUME,
        },
      ],
      OCI: {
        Process: { User: { UID: 1000, GID: 1000, AdditionalGids: [GROUP] }, Args: ["/bin/sh", "-c", script], Env: ["PATH=/bin"], Cwd: "/" },
        Root: { Path: root },
        Mounts: [
          { destination: "/proc", type: "proc", source: "proc" },
          { destination: "/dev", type: "tmpfs", source: "tmpfs" },
          { destination: "/volume", type: "bind", source: VOLUME, options: ["rbind", "rw"] },
        ],
        Linux: {},
      },
    });
    await client.unary(METHODS.startContainer, { containerId: id });
    let stdout = "";
    for (;;) {
      const { data } = await client.unary(METHODS.readStdout, { containerId: id, execId: "", len: 4096 });
      if (data.length === 0) return stdout;
      stdout += Buffer.from(data).toString("utf8");
    }
  };

  it("keeps what a container writes from the host, and for the containers that come after it", async () => {
    const marker = "a-secret-of-this-pod-";
    const path = join(world.directory, "scratch");
    await writeFile(path, "");
    await truncate(path, SIZE);
    const { source } = await pod.sandbox.machine.attachDisk(path, { readonly: false });

    // The marker is made there: it is in no request, and no image, that the host could have written to the disk by another way.
    const written = await run(
      "writer",
      source,
      `set -e
      busybox ls -A /volume
      busybox yes ${marker.slice(0, 8)}${marker.slice(8)} | busybox head -c 1000000 > /volume/file
      busybox sync
      busybox stat -c '%g %a' /volume
      busybox stat -c %g /volume/file
      busybox grep -c ${marker} /volume/file
      busybox awk '$2 == "/volume" { print $3 }' /proc/mounts`,
    );
    expect(written).toBe(`${GROUP} 2777\n${GROUP}\n45454\next4\n`);

    const bytes = await readFile(path);
    // It was written to: less than a mebibyte of it is not the data.
    expect(bytes.length - countOf(bytes, 0)).toBeGreaterThan(1_000_000);
    expect(bytes.includes(marker)).toBe(false);
    // Neither does it look like a file system.
    expect(bytes.readUInt16LE(1024 + 56)).not.toBe(0xef53);

    await client.unary(METHODS.removeContainer, { containerId: "writer" });
    // The volume is the pod's: its key goes with the sandbox.
    expect(await run("reader", source, `busybox grep -c ${marker} /volume/file`)).toBe("45454\n");
    await client.unary(METHODS.removeContainer, { containerId: "reader" });
  });
});

function countOf(bytes: Uint8Array, value: number): number {
  let count = 0;
  for (const byte of bytes) if (byte === value) count++;
  return count;
}
