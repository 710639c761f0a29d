import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { silentLogger } from "@sealpod/core";
import type { LaunchPort } from "@sealpod/vmm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { defaultConfig, type ShimConfig } from "./config.ts";
import { makeEmptyDirDisk, removeEmptyDirDisk } from "./empty-dir-disk.ts";
import { chooseMachine, hostCapacity, readUvmGuest } from "./machine.ts";
import { CapturedNode } from "./testdata/captured.ts";
import { open, readdir, stat, symlink } from "node:fs/promises";

let node: CapturedNode;

beforeEach(async () => {
  node = await CapturedNode.create();
  await mkdir(node.path("uvm"));
});

afterEach(async () => {
  await node[Symbol.asyncDispose]();
});

const MANIFEST = {
  version: 1,
  kernel: { file: "vmlinux" },
  initrd: { file: "initrd.cpio" },
  root: { file: "root.erofs" },
  commandLine: "console=ttyS0",
};

async function image(manifest: unknown): Promise<string> {
  await writeFile(node.path("uvm/uvm.json"), typeof manifest === "string" ? manifest : JSON.stringify(manifest));
  return node.path("uvm");
}

describe("the machine of a node", () => {
  const launch: LaunchPort = { launch: () => Promise.reject(new Error("not used")) };
  const choose = (change: Partial<ShimConfig>, snp = false): ReturnType<typeof chooseMachine> =>
    chooseMachine(
      { ...defaultConfig(), uvm: node.path("uvm"), ...change },
      { processor: () => launch, node: "/usr/bin/node", logger: silentLogger, hasSnp: async () => snp },
    );

  it("is one with SEV-SNP where the node has it, and its hardware measures it", async () => {
    await image(MANIFEST);
    for (const isolation of ["auto", "snp"] as const) {
      const machine = await choose({ isolation, firmware: "/ovmf.fd" }, true);
      expect(machine).toMatchObject({ isolation: "snp", emulated: false, guest: { kind: "uvm", firmware: "/ovmf.fd" }, driver: { isolation: "confidential" } });
      // Nothing is emulated for it: a guest that cannot ask the hardware asks nobody.
      expect((await machine.launch.launch({ files: [], commandLine: "", hostData: new Uint8Array(32) })).serve).toBeUndefined();
      await expect(choose({ isolation, firmware: undefined }, true)).rejects.toMatchObject({ code: "ERR_SHIM_CONFIG" });
    }
  });

  it("is a process only if it is named, and then needs an agent", async () => {
    const machine = await choose({ isolation: "process", agent: "/opt/agent.mjs" }, true);
    expect(machine).toMatchObject({
      isolation: "process",
      launch,
      guest: { kind: "process", measuredFiles: ["/opt/agent.mjs"], commandLine: "agent --profile aks" },
    });
    await expect(choose({ isolation: "process", agent: undefined })).rejects.toMatchObject({ code: "ERR_SHIM_CONFIG" });
    await expect(choose({ isolation: "auto" })).rejects.toMatchObject({
      code: "ERR_SHIM_CONFIG",
      hint: expect.stringContaining("sealpod uvm build") as string,
    });
  });
});

describe("an image of the utility VM", () => {
  it("has its files where its manifest is", async () => {
    const uvm = await image(MANIFEST);
    expect(await readUvmGuest(uvm)).toEqual({
      kind: "uvm",
      kernel: join(uvm, "vmlinux"),
      initrd: join(uvm, "initrd.cpio"),
      root: join(uvm, "root.erofs"),
      commandLine: "console=ttyS0",
    });
  });

  it.each([
    "{",
    "[]",
    { ...MANIFEST, version: 2 },
    { ...MANIFEST, kernel: undefined },
    { ...MANIFEST, kernel: { file: "../vmlinux" } },
    { ...MANIFEST, root: { file: "/etc/passwd" } },
    { ...MANIFEST, commandLine: 5 },
  ])("is refused: %j", async (manifest) => {
    await expect(readUvmGuest(await image(manifest))).rejects.toMatchObject({ code: "ERR_SHIM_CONFIG" });
  });
});

it("this host has memory and processors to give", async () => {
  const { memoryMiB, vcpus } = await hostCapacity();
  expect([memoryMiB > 0, Number.isInteger(memoryMiB), vcpus >= 1]).toEqual([true, true, true]);
});

describe("the disk of an emptyDir", () => {
  it("is empty, takes no room, and replaces that of an earlier machine without following a link", async () => {
    const directory = node.path("pods/volumes/kubernetes.io~empty-dir/disk");
    const path = await makeEmptyDirDisk(directory);
    await using file = await open(path, "r+");
    await file.write("old");
    await removeEmptyDirDisk(path);
    await writeFile(node.path("victim"), "kept");
    await symlink(node.path("victim"), path);
    expect(await makeEmptyDirDisk(directory)).toBe(path);
    const { size, blocks, mode } = await stat(path);
    expect([size % (1024 * 1024), size > 0, blocks, mode & 0o777]).toEqual([0, true, 0, 0o600]);
    expect((await stat(node.path("victim"))).size).toBe(4);
    await removeEmptyDirDisk(path);
    await removeEmptyDirDisk(path);
    expect(await readdir(directory)).toEqual([]);
  });

  it("cannot be made where nothing is", async () => {
    await expect(makeEmptyDirDisk(node.path("absent"))).rejects.toMatchObject({ code: "ERR_SHIM_POD" });
  });
});
