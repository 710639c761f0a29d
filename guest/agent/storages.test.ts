import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { concatBytes, encodeUtf8, silentLogger, toHex } from "@sealpod/core";
import type { Storage } from "@sealpod/proto";
import { buildLayer, TarWriter } from "@sealpod/verity";
import { describe, expect, it } from "vitest";
import { guestPaths, type GuestPaths } from "./paths.ts";
import { Storages } from "./storages.ts";
import { errorOf, FakeSystem, inTemporaryDirectory, storage } from "./test-support.ts";

const isRoot = process.getuid?.() === 0;

interface Setup {
  readonly paths: GuestPaths;
  readonly devices: string;
  readonly system: FakeSystem;
  readonly storages: Storages;
  /** A layer file with one file `name` of `size` bytes, in the slot. */
  readonly layer: (slot: string, name: string, size?: number) => Promise<{ readonly hash: string; readonly file: string }>;
  readonly acquire: (storage: Storage, held?: readonly string[]) => Promise<void>;
}

async function withStorages(use: (setup: Setup) => Promise<void>): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const paths = guestPaths(`${path}/guest`);
    const devices = `${path}/devices`;
    for (const directory of [paths.layers, paths.shared, paths.container("c1"), devices]) mkdirSync(directory, { recursive: true });
    writeFileSync(paths.whiteout, "");
    const system = new FakeSystem();
    const storages = new Storages({ paths, devices, system, logger: silentLogger });
    await use({
      paths,
      devices,
      system,
      storages,
      async layer(slot, name, size = 10_000) {
        const tar: Uint8Array[] = [];
        const writer = new TarWriter({ write: (bytes) => Promise.resolve(void tar.push(bytes)) });
        const uid = process.getuid?.() ?? 0;
        const gid = process.getgid?.() ?? 0;
        await writer.add({ kind: "file", path: name, mode: 0o644, uid, gid, mtime: 0, data: encodeUtf8("x".repeat(size)) });
        await writer.finish();
        const file: Uint8Array[] = [];
        const { rootHash } = await buildLayer(chunks(tar), { write: (bytes) => Promise.resolve(void file.push(bytes)) });
        // As the host attaches a disk: a link to the file.
        writeFileSync(`${path}/${slot}.layer`, concatBytes(...file));
        symlinkSync(`${path}/${slot}.layer`, `${devices}/${slot}`);
        return { hash: toHex(rootHash), file: `${path}/${slot}.layer` };
      },
      acquire: (wanted, held = []) => storages.acquire(wanted, { directory: paths.container("c1"), held: new Set(held) }),
    });
  });
}

async function* chunks(parts: readonly Uint8Array[]): AsyncIterable<Uint8Array> {
  for (const part of parts) yield await Promise.resolve(part);
}

const layerOptions = (hash: string): string[] => [
  "ro",
  "io.katacontainers.fs-opt.block_device=file",
  "io.katacontainers.fs-opt.is-layer",
  `io.katacontainers.fs-opt.root-hash=${hash}`,
];

const layerStorage = (paths: GuestPaths, hash: string, source = "02", name = "layer"): Storage =>
  storage({ driver: "blk", source, fstype: "tar", options: layerOptions(hash), mountPoint: `${paths.layers}/${name}` });

describe("storage: layers", () => {
  it("are unpacked from the disk in the slot, shared by mount point, and removed with their last holder", () =>
    withStorages(async ({ paths, storages, layer, acquire }) => {
      const first = await layer("02", "file");
      const again = await layer("03", "file");
      expect(again.hash).toBe(first.hash);
      await Promise.all([acquire(layerStorage(paths, first.hash, "02")), acquire(layerStorage(paths, first.hash, "03"))]);
      expect(readFileSync(`${paths.layers}/layer/file`, "utf8")).toBe("x".repeat(10_000));
      await storages.release(`${paths.layers}/layer`);
      expect(existsSync(`${paths.layers}/layer/file`)).toBe(true);
      await storages.release(`${paths.layers}/layer`);
      expect(readdirSync(paths.layers)).toEqual([]);
      await acquire(layerStorage(paths, first.hash, "02"));
      expect(readdirSync(paths.layers)).toEqual(["layer"]);
    }));

  it("with one flipped bit, anywhere, leave nothing behind, and the error names the block", () =>
    withStorages(async ({ paths, layer, acquire }) => {
      const { hash, file } = await layer("02", "file", 300_000);
      const good = readFileSync(file);
      for (let at = 0; at < good.length; at += 4096) {
        const bad = Buffer.from(good);
        bad[at + 5] = (bad[at + 5] ?? 0) ^ 1;
        writeFileSync(file, bad);
        const error = await errorOf(() => acquire(layerStorage(paths, hash)));
        // The trailer is not under the tree; a change to it is a change of shape.
        if (at === good.length - 4096) expect(error.code).toBe("ERR_VERITY_LAYOUT");
        else expect(error).toMatchObject({ code: "ERR_VERITY_CORRUPT", message: expect.stringMatching(/ block [0-9]+ /) as string });
        expect(readdirSync(paths.layers)).toEqual([]);
      }
      writeFileSync(file, good);
      await acquire(layerStorage(paths, hash));
    }));

  it("of another image are refused: the root hash decides, not the slot", () =>
    withStorages(async ({ paths, layer, acquire }) => {
      const wanted = await layer("02", "wanted");
      await layer("03", "other");
      expect((await errorOf(() => acquire(layerStorage(paths, wanted.hash, "03")))).code).toBe("ERR_VERITY_CORRUPT");
      expect(readdirSync(paths.layers)).toEqual([]);
    }));

  it("cut off are refused", () =>
    withStorages(async ({ paths, layer, acquire }) => {
      const { hash, file } = await layer("02", "file");
      truncateSync(file, statSync(file).size - 4096);
      expect((await errorOf(() => acquire(layerStorage(paths, hash)))).code).toBe("ERR_VERITY_LAYOUT");
    }));

  it("do not change place: another hash for a mount point in use is refused", () =>
    withStorages(async ({ paths, layer, acquire }) => {
      const first = await layer("02", "first");
      const second = await layer("03", "second");
      await acquire(layerStorage(paths, first.hash, "02"));
      expect((await errorOf(() => acquire(layerStorage(paths, second.hash, "03")))).code).toBe("ERR_AGENT_REQUEST");
      expect(readdirSync(`${paths.layers}/layer`)).toEqual(["first"]);
    }));

  const hash = "ab".repeat(32);
  it.each<[string, Partial<Storage>]>([
    ["without a root hash", { options: ["ro"] }],
    ["with two root hashes", { options: [...layerOptions(hash), ...layerOptions(hash)] }],
    ["with a root hash in capitals", { options: layerOptions(hash.toUpperCase()) }],
    ["with a short root hash", { options: layerOptions("ab") }],
    ["with an unknown option", { options: [...layerOptions(hash), "exec"] }],
    ["of another type", { fstype: "ext4" }],
    ["in a slot that is a path", { source: "../x" }],
    ["in a slot of one digit", { source: "2" }],
    ["with driver options", { driverOptions: ["encryption_key=ephemeral"] }],
  ])("%s are refused", (_what, change) =>
    withStorages(async ({ paths, acquire }) => {
      expect((await errorOf(() => acquire({ ...layerStorage(paths, hash), ...change }))).code).toBe("ERR_AGENT_REQUEST");
      expect(readdirSync(paths.layers)).toEqual([]);
    }),
  );

  it.each(["", "/", "/../escape", "/a/../../b", "d/x", "/x/"])("at the mount point LAYERS%s are refused", (suffix) =>
    withStorages(async ({ paths, layer, acquire }) => {
      const { hash } = await layer("02", "file");
      expect((await errorOf(() => acquire({ ...layerStorage(paths, hash), mountPoint: paths.layers + suffix }))).code).toBe("ERR_AGENT_PATH");
    }),
  );
});

describe("storage: the root of a container", () => {
  const overlay = (paths: GuestPaths, lower: string, fields: { readonly mountPoint?: string } = {}): Storage =>
    storage({
      driver: "overlayfs",
      source: "none",
      fstype: "fuse3.kata-overlay",
      options: [
        "io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers",
        "io.katacontainers.fs-opt.layer=eA==",
        "io.katacontainers.fs-opt.overlay-rw",
        `lowerdir=${lower}`,
      ],
      mountPoint: `${paths.shared}/c1`,
      ...fields,
    });

  it("is an overlay of its layers, relative to their directory, and a directory of its own", () =>
    withStorages(async ({ paths, system, storages, acquire }) => {
      await acquire(overlay(paths, "top:bottom"), [`${paths.layers}/top`, `${paths.layers}/bottom`]);
      const directory = paths.container("c1");
      expect(system.mounts).toEqual([
        {
          type: "overlay",
          source: "overlay",
          target: `${paths.shared}/c1`,
          options: ["lowerdir=top:bottom", `upperdir=${directory}/upper`, `workdir=${directory}/work`],
          cwd: paths.layers,
        },
      ]);
      await storages.release(`${paths.shared}/c1`);
      expect(system.unmounted).toEqual([`${paths.shared}/c1`]);
      expect(readdirSync(paths.shared)).toEqual([]);
    }));

  it.each(["other", "top:other", "", "top:", "/etc", "..", "../../shared/containers/x", "top,upperdir=/"])(
    "has no layer that the container did not get: %j",
    (lower) =>
      withStorages(async ({ paths, system, acquire }) => {
        expect((await errorOf(() => acquire(overlay(paths, lower), [`${paths.layers}/top`]))).code).toBe("ERR_AGENT_REQUEST");
        expect(system.mounts).toEqual([]);
      }),
  );

  it.each<[string, (options: readonly string[]) => string[]]>([
    ["another option", (options) => [...options, "redirect_dir=on"]],
    ["two lowerdirs", (options) => [...options, "lowerdir=top"]],
    ["no overlay-rw", (options) => options.filter((option) => !option.endsWith("overlay-rw"))],
  ])("is refused with %s", (_what, change) =>
    withStorages(async ({ paths, acquire }) => {
      const wanted = overlay(paths, "top");
      expect((await errorOf(() => acquire({ ...wanted, options: change(wanted.options) }, [`${paths.layers}/top`]))).code).toBe("ERR_AGENT_REQUEST");
    }),
  );

  it("is not shared, and leaves nothing if the mount fails", () =>
    withStorages(async ({ paths, system, acquire }) => {
      const held = [`${paths.layers}/top`];
      system.mountError = new Error("mount failed");
      expect((await errorOf(() => acquire(overlay(paths, "top"), held))).message).toBe("mount failed");
      expect(readdirSync(paths.shared)).toEqual([]);
      system.mountError = undefined;
      await acquire(overlay(paths, "top"), held);
      expect((await errorOf(() => acquire(overlay(paths, "top"), held))).code).toBe("ERR_AGENT_REQUEST");
    }));
});

describe("storage: volumes", () => {
  const shm = (paths: GuestPaths, options: string[]): Storage =>
    storage({ driver: "ephemeral", source: "shm", fstype: "tmpfs", options, mountPoint: `${paths.root}/sandbox/shm` });

  it.skipIf(!isRoot)(`in memory are mounted with their options, and belong to their group${isRoot ? "" : " (skipped: needs root)"}`, () =>
    withStorages(async ({ paths, system, acquire }) => {
      const gid = process.getgid?.() ?? 0;
      await acquire(shm(paths, ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864", `fsgid=${gid}`]));
      expect(system.mounts).toEqual([
        { type: "tmpfs", source: "tmpfs", target: `${paths.root}/sandbox/shm`, options: ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"] },
      ]);
      expect(statSync(`${paths.root}/sandbox/shm`).mode & 0o7777).toBe(0o2775);
    }),
  );

  it.each(["bind", "rbind", "move", "remount", "loop", "suid", "dev", "helper=x", "x-mount.mkdir", "size=1,bind", "fsgid=x", ""])(
    "in memory take no option %j",
    (option) =>
      withStorages(async ({ paths, system, acquire }) => {
        expect((await errorOf(() => acquire(shm(paths, [option])))).code).toBe("ERR_AGENT_REQUEST");
        expect(system.mounts).toEqual([]);
      }),
  );

  it("on the node are directories of the guest, shared between containers", () =>
    withStorages(async ({ paths, storages, acquire }) => {
      const mountPoint = `${paths.shared}/pod/rootfs/local/data`;
      const local = storage({ driver: "local", source: "local", fstype: "local", options: ["mode=0777"], mountPoint });
      await acquire(local);
      await acquire(local);
      expect(statSync(mountPoint).mode & 0o7777).toBe(0o777);
      await storages.release(mountPoint);
      expect(existsSync(mountPoint)).toBe(true);
      await storages.release(mountPoint);
      expect(existsSync(mountPoint)).toBe(false);
    }));

  it("are never put on what is there, or through a link", () =>
    withStorages(async ({ paths, devices, acquire }) => {
      symlinkSync(devices, `${paths.shared}/link`);
      mkdirSync(`${paths.shared}/taken`);
      const local = (mountPoint: string): Storage => storage({ driver: "local", options: [], mountPoint });
      expect((await errorOf(() => acquire(local(`${paths.shared}/taken`)))).code).toBe("ERR_AGENT_REQUEST");
      expect((await errorOf(() => acquire(local(`${paths.shared}/link/x`)))).code).toBe("ERR_AGENT_PATH");
      expect((await errorOf(() => acquire(local("/etc/x")))).code).toBe("ERR_AGENT_PATH");
      expect(readdirSync(devices)).toEqual([]);
    }));

  it("of an unknown driver are refused in the known words", () =>
    withStorages(async ({ acquire }) => {
      expect(await errorOf(() => acquire(storage({ driver: "virtio-fs", mountPoint: "/x" })))).toMatchObject({
        code: "ERR_AGENT_STORAGE",
        message: "Failed to find the storage handler virtio-fs",
      });
    }));
});
