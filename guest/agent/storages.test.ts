import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { concatBytes, encodeUtf8, silentLogger, toBase64, toHex } from "@sealpod/core";
import { FSGroupChangePolicy, type Storage } from "@sealpod/proto";
import { buildErofsLayer, buildLayer, type PatchableSink, TarWriter } from "@sealpod/verity";
import { describe, expect, it } from "vitest";
import { directoryDevices } from "./block-devices.ts";
import { ConfinedDirectory } from "./confined-directory.ts";
import type { DeviceMapper } from "./device-mapper.ts";
import { AgentError } from "./errors.ts";
import { guestPaths, type GuestPaths } from "./paths.ts";
import { Storages } from "./storages.ts";
import { errorOf, FakeSystem, inTemporaryDirectory, storage } from "./test-support.ts";
import { giveToFsGroup } from "./volume-group.ts";

const isRoot = process.getuid?.() === 0;

type Format = "tar" | "erofs";

interface Setup {
  readonly paths: GuestPaths;
  readonly devices: string;
  readonly system: FakeSystem;
  readonly mapper: FakeMapper;
  readonly storages: Storages;
  /** A layer file with one file `name` of `size` bytes, in the slot. */
  readonly layer: (slot: string, name: string, size?: number, format?: Format) => Promise<{ readonly hash: string; readonly file: string }>;
  readonly acquire: (storage: Storage, held?: readonly string[]) => Promise<void>;
}

/** A device mapper that writes down what it was asked. Its devices are files; what is in them the test says. */
class FakeMapper implements DeviceMapper {
  readonly tables = new Map<string, string>();
  readonly steps: string[] = [];
  /** The step that fails next. */
  failing: string | undefined;
  /** What devices have. */
  content: Uint8Array = new Uint8Array(0);
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  create(name: string, table: Uint8Array, access: string): Promise<string> {
    return this.#step(`create ${access}`, () => {
      this.tables.set(name, Buffer.from(table).toString("latin1"));
      writeFileSync(`${this.#directory}/${name}`, this.content);
      return `${this.#directory}/${name}`;
    });
  }

  remove(name: string): Promise<void> {
    return this.#step("remove", () => void this.tables.delete(name));
  }

  loadScratchModules(): Promise<void> {
    return this.#step("modules", () => undefined);
  }

  format(path: string): Promise<void> {
    return this.#step(`format ${path.slice(this.#directory.length + 1)}`, () => undefined);
  }

  #step<T>(what: string, act: () => T): Promise<T> {
    this.steps.push(what);
    if (this.failing === what) return Promise.reject(new AgentError("ERR_AGENT_COMMAND", `${what} failed`));
    return Promise.resolve(act());
  }
}

/** @param machine "vm" has a device mapper */
async function withStorages(use: (setup: Setup) => Promise<void>, machine: "process" | "vm" = "process"): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const paths = guestPaths(`${path}/guest`);
    const devices = `${path}/devices`;
    for (const directory of [paths.layers, paths.shared, paths.container("c1"), devices, `${path}/mapper`]) mkdirSync(directory, { recursive: true });
    writeFileSync(paths.whiteout, "");
    const system = new FakeSystem();
    const mapper = new FakeMapper(`${path}/mapper`);
    const disks = machine === "vm" ? { ...directoryDevices(devices), mapper } : directoryDevices(devices);
    const storages = new Storages({ paths, disks, system, logger: silentLogger });
    await use({
      paths,
      devices,
      system,
      mapper,
      storages,
      async layer(slot, name, size = 10_000, format = "erofs") {
        const tar: Uint8Array[] = [];
        const writer = new TarWriter({ write: (bytes) => Promise.resolve(void tar.push(bytes)) });
        const uid = process.getuid?.() ?? 0;
        const gid = process.getgid?.() ?? 0;
        await writer.add({ kind: "directory", path: ".", mode: 0o755, uid, gid, mtime: 0 });
        await writer.add({ kind: "file", path: name, mode: 0o644, uid, gid, mtime: 0, data: encodeUtf8("x".repeat(size)) });
        await writer.finish();
        const parts: Uint8Array[] = [];
        const sink: PatchableSink = {
          write: (bytes) => Promise.resolve(void parts.push(bytes.slice())),
          writeAt: (offset, bytes) => Promise.resolve(concatInto(parts).set(bytes, offset)),
        };
        const { rootHash } = await (format === "tar" ? buildLayer(chunks(tar), sink) : buildErofsLayer(chunks(tar), sink));
        // As the host attaches a disk: a link to the file.
        writeFileSync(`${path}/${slot}.layer`, concatInto(parts));
        symlinkSync(`${path}/${slot}.layer`, `${devices}/${slot}`);
        return { hash: toHex(rootHash), file: `${path}/${slot}.layer` };
      },
      acquire: (wanted, held = []) => storages.acquire(wanted, { directory: paths.container("c1"), held: new Set(held) }),
    });
  });
}

/** All parts as one, which takes their place. */
function concatInto(parts: Uint8Array[]): Uint8Array {
  const all = concatBytes(...parts);
  parts.splice(0, parts.length, all);
  return all;
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

const layerStorage = (paths: GuestPaths, hash: string, source = "02", name = "layer", fstype: Format = "erofs"): Storage =>
  storage({ driver: "blk", source, fstype, options: layerOptions(hash), mountPoint: `${paths.layers}/${name}` });

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

  it.each<Format>(["tar", "erofs"])("of type %s with one flipped bit, anywhere, leave nothing behind, and the error names the block", (format) =>
    withStorages(async ({ paths, layer, acquire }) => {
      const { hash, file } = await layer("02", "file", 300_000, format);
      const wanted = layerStorage(paths, hash, "02", "layer", format);
      const good = readFileSync(file);
      for (let at = 0; at < good.length; at += 4096) {
        const bad = Buffer.from(good);
        bad[at + 5] = (bad[at + 5] ?? 0) ^ 1;
        writeFileSync(file, bad);
        const error = await errorOf(() => acquire(wanted));
        // The trailer is not under the tree; a change to it is a change of shape.
        if (at === good.length - 4096) expect(error.code).toBe("ERR_VERITY_LAYOUT");
        else expect(error).toMatchObject({ code: "ERR_VERITY_CORRUPT", message: expect.stringMatching(/ block [0-9]+ /) as string });
        expect(readdirSync(paths.layers)).toEqual([]);
      }
      writeFileSync(file, good);
      await acquire(wanted);
      expect(readFileSync(`${paths.layers}/layer/file`).length).toBe(300_000);
    }),
  );

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
    ["with driver options", { driverOptions: ["create-fs"] }],
    ["with a group", { fsGroup: storage({ fsGroup: { groupId: 1 } }).fsGroup }],
    ["on memory", { source: "/dev/mem" }],
    ["on a path with ..", { source: "/dev/../dev/vda" }],
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

describe("storage: layers in a machine", () => {
  it("of type erofs are mounted from a dm-verity device, shared, and undone backwards", () =>
    withStorages(async ({ paths, devices, system, mapper, storages, layer, acquire }) => {
      const { hash, file } = await layer("02", "file");
      const blocks = readFileSync(file).readBigUInt64LE(statSync(file).size - 512 + 8);
      await Promise.all([acquire(layerStorage(paths, hash)), acquire(layerStorage(paths, hash))]);
      expect([...mapper.tables]).toEqual([
        ["pod-1", `0 ${blocks * 8n} verity 1 ${devices}/02 ${devices}/02 4096 4096 ${blocks} ${blocks} sha256 ${hash} ${"00".repeat(32)}\n`],
      ]);
      expect(mapper.steps).toEqual(["create read-only"]);
      expect(system.mounts).toEqual([
        { type: "erofs", source: expect.stringMatching(/\/mapper\/pod-1$/) as string, target: `${paths.layers}/layer`, options: ["ro", "nodev"] },
      ]);
      await storages.release(`${paths.layers}/layer`);
      expect(system.unmounted).toEqual([]);
      await storages.release(`${paths.layers}/layer`);
      expect([system.unmounted, mapper.steps, readdirSync(paths.layers)]).toEqual([[`${paths.layers}/layer`], ["create read-only", "remove"], []]);
      await acquire(layerStorage(paths, hash));
      expect([...mapper.tables.keys()]).toEqual(["pod-2"]);
    }, "vm"));

  it.each<[string, (setup: Setup) => void, string, readonly string[]]>([
    [
      "the mount, which is what finds a wrong root hash",
      ({ system }) => (system.mountError = new Error("EIO")),
      "ERR_AGENT_STORAGE",
      ["create read-only", "remove"],
    ],
    ["the device", ({ mapper }) => (mapper.failing = "create read-only"), "ERR_AGENT_COMMAND", ["create read-only"]],
  ])("leave nothing when it fails: %s", (_what, fail, code, steps) =>
    withStorages(async (setup) => {
      const { paths, system, mapper, layer, acquire } = setup;
      const { hash } = await layer("02", "file");
      fail(setup);
      expect((await errorOf(() => acquire(layerStorage(paths, hash)))).code).toBe(code);
      expect([mapper.steps, [...mapper.tables], system.unmounted, readdirSync(paths.layers)]).toEqual([steps, [], [], []]);
      system.mountError = undefined;
      mapper.failing = undefined;
      await acquire(layerStorage(paths, hash));
    }, "vm"),
  );

  it("are undone as far as they can be: a mount that stays keeps what is under it", () =>
    withStorages(async ({ paths, system, mapper, storages, layer, acquire }) => {
      const { hash } = await layer("02", "file");
      await acquire(layerStorage(paths, hash));
      writeFileSync(`${paths.layers}/layer/mounted`, "");
      system.unmount = () => Promise.reject(new Error("busy"));
      await errorOf(() => storages.release(`${paths.layers}/layer`));
      expect([mapper.steps.at(-1), readdirSync(`${paths.layers}/layer`)]).toEqual(["remove", ["mounted"]]);
    }, "vm"));

  it("of type tar are unpacked from a dm-verity device, which is then removed", () =>
    withStorages(async ({ paths, system, mapper, storages, layer, acquire }) => {
      const { hash, file } = await layer("02", "file", 600_000, "tar");
      const bytes = readFileSync(file);
      const blocks = Number(bytes.readBigUInt64LE(bytes.length - 512 + 8));
      mapper.content = bytes.subarray(0, blocks * 4096);
      await acquire(layerStorage(paths, hash, "02", "layer", "tar"));
      expect(readFileSync(`${paths.layers}/layer/file`).length).toBe(600_000);
      expect([mapper.steps, [...mapper.tables], system.mounts]).toEqual([["create read-only", "remove"], [], []]);
      await storages.release(`${paths.layers}/layer`);
      expect(readdirSync(paths.layers)).toEqual([]);
      // A device that ends early is one whose blocks cannot be read.
      mapper.content = mapper.content.subarray(0, 8192);
      expect((await errorOf(() => acquire(layerStorage(paths, hash, "02", "layer", "tar")))).code).toBe("ERR_AGENT_STORAGE");
      expect([mapper.steps.slice(2), readdirSync(paths.layers)]).toEqual([["create read-only", "remove"], []]);
    }, "vm"));

  it("have the shape that their trailer states before anything is made of them", () =>
    withStorages(async ({ paths, mapper, layer, acquire }) => {
      const { hash, file } = await layer("02", "file");
      truncateSync(file, statSync(file).size - 4096);
      expect((await errorOf(() => acquire(layerStorage(paths, hash)))).code).toBe("ERR_VERITY_LAYOUT");
      expect([mapper.steps, readdirSync(paths.layers)]).toEqual([[], []]);
    }, "vm"));

  it("that the host has cut are no devices", () =>
    withStorages(async ({ paths, mapper, layer, acquire }) => {
      for (const [slot, format] of [
        ["02", "tar"],
        ["03", "erofs"],
      ] as const) {
        const { hash, file } = await layer(slot, "file", 50_000, format);
        const bytes = readFileSync(file);
        const blocks = Number(bytes.readBigUInt64LE(bytes.length - 512 + 8));
        bytes.writeBigUInt64LE(BigInt(blocks - 1), bytes.length - 512 + 8);
        writeFileSync(file, Buffer.concat([bytes.subarray(0, (blocks - 1) * 4096), bytes.subarray(blocks * 4096)]));
        expect((await errorOf(() => acquire(layerStorage(paths, hash, slot, "layer", format)))).code).toBe("ERR_VERITY_LAYOUT");
      }
      expect([mapper.steps, readdirSync(paths.layers)]).toEqual([[], []]);
    }, "vm"));

  it("under another root hash are no devices, and say what mounting them would", () =>
    withStorages(async ({ paths, mapper, layer, acquire }) => {
      await layer("02", "file");
      expect(await errorOf(() => acquire(layerStorage(paths, "ab".repeat(32))))).toMatchObject({
        code: "ERR_AGENT_STORAGE",
        message: expect.stringContaining("cannot be mounted under its root hash") as string,
      });
      expect([mapper.steps, readdirSync(paths.layers)]).toEqual([[], []]);
    }, "vm"));

  it.each(["a/b", "a,redirect_dir=on", "a:b", "a b", "a.b", "a\\b", "a".repeat(129), "\u00e9"])(
    "have one plain name below the directory of layers: not %j",
    (name) =>
      withStorages(async ({ paths, layer, acquire }) => {
        const { hash } = await layer("02", "file");
        expect((await errorOf(() => acquire(layerStorage(paths, hash, "02", name)))).code).toBe("ERR_AGENT_REQUEST");
        expect(readdirSync(paths.layers)).toEqual([]);
        await acquire(layerStorage(paths, hash, "02", `A-b_9${"a".repeat(123)}`));
      }),
  );

  it("and devices of containers do not share a disk", () =>
    withStorages(async ({ paths, devices, layer, storages, acquire }) => {
      const { hash } = await layer("02", "file");
      const [first, second] = [storages.grant([`${devices}/02`]), storages.grant([`${devices}/02`])];
      first();
      expect((await errorOf(() => acquire(layerStorage(paths, hash)))).message).toContain("is a device of a container");
      second();
      await acquire(layerStorage(paths, hash));
      expect(() => storages.grant([`${devices}/03`, `${devices}/02`])).toThrow("is a storage");
      await storages.release(`${paths.layers}/layer`);
      storages.grant([`${devices}/03`, `${devices}/02`])();
      await acquire(layerStorage(paths, hash));
    }, "vm"));

  it("do not share a disk: neither under two hashes nor with scratch", () =>
    withStorages(async ({ paths, layer, storages, acquire }) => {
      const { hash } = await layer("02", "file");
      await acquire(layerStorage(paths, hash));
      for (const other of [layerStorage(paths, "ab".repeat(32), "02", "other"), layerStorage(paths, hash, "02", "other"), scratch(paths, { source: "02" })]) {
        expect(await errorOf(() => acquire(other))).toMatchObject({
          code: "ERR_AGENT_REQUEST",
          message: expect.stringContaining("is another storage") as string,
        });
      }
      await storages.release(`${paths.layers}/layer`);
      await acquire(layerStorage(paths, hash, "02", "other"));
    }, "vm"));
});

const scratch = (paths: GuestPaths, fields: Partial<Storage> = {}): Storage => ({
  ...storage({
    driver: "blk",
    source: "05",
    fstype: "ext4",
    driverOptions: ["encryption_key=ephemeral"],
    mountPoint: `${paths.root}/sandbox/storage/c2NyYXRjaA`,
  }),
  ...fields,
});

describe("storage: encrypted scratch", () => {
  const SIZE = 4 * 1024 * 1024 + 512;
  const withDisk = (use: (setup: Setup) => Promise<void>): Promise<void> =>
    withStorages(async (setup) => {
      writeFileSync(`${setup.devices}/05`, new Uint8Array(SIZE));
      // As mkfs leaves it.
      setup.system.mount = (request) => {
        setup.system.mounts.push(request);
        if (setup.system.mountError !== undefined) return Promise.reject(setup.system.mountError);
        if (request.type === "ext4") mkdirSync(`${request.target}/lost+found`);
        return Promise.resolve();
      };
      await use(setup);
    }, "vm");

  it("is ext4 on dm-crypt with a key of its own each time, empty, and gone with its last holder", () =>
    withDisk(async ({ paths, devices, system, mapper, storages, acquire }) => {
      const { mountPoint } = scratch(paths);
      const keys = new Set<string>();
      for (const name of ["pod-1", "pod-2"]) {
        await acquire(scratch(paths, { options: ["rw", "noatime"] }));
        const found = /^0 8192 crypt aes-xts-plain64 ([0-9a-f]{128}) 0 (.*) 0 1 sector_size:4096\n$/.exec(mapper.tables.get(name) ?? "");
        expect(found?.[2]).toBe(`${devices}/05`);
        keys.add(found?.[1] ?? "");
        expect(readdirSync(mountPoint)).toEqual([]);
        expect(statSync(mountPoint).mode & 0o7777).toBe(0o777);
        // The mount of a test is the directory itself, so that its end is that of what is in it.
        await storages.release(mountPoint);
        expect([existsSync(mountPoint), [...mapper.tables]]).toEqual([false, []]);
      }
      expect(keys.size).toBe(2);
      expect([...keys].every((key) => new Set(key.match(/../g)).size > 20)).toBe(true);
      expect(mapper.steps.slice(0, 4)).toEqual(["modules", "create read-write", "format pod-1", "remove"]);
      expect(system.mounts[0]).toEqual({
        type: "ext4",
        source: expect.stringMatching(/\/pod-1$/) as string,
        target: mountPoint,
        options: ["nosuid", "nodev", "rw", "noatime"],
      });
    }));

  it("leaves no key with who made the table", () =>
    withDisk(async ({ paths, mapper, acquire }) => {
      const tables: Uint8Array[] = [];
      mapper.create = (_name, table) => {
        tables.push(table);
        return Promise.reject(new Error("no"));
      };
      await errorOf(() => acquire(scratch(paths)));
      expect(tables.map((table) => table.every((byte) => byte === 0))).toEqual([true]);
    }));

  it.each<[string, string, readonly string[]]>([
    ["modules", "modules", ["modules"]],
    ["the device", "create read-write", ["modules", "create read-write"]],
    ["the file system", "format pod-1", ["modules", "create read-write", "format pod-1", "remove"]],
    ["the mount", "mount", ["modules", "create read-write", "format pod-1", "remove"]],
  ])("leaves nothing when it fails: %s", (_what, failing, steps) =>
    withDisk(async ({ paths, system, mapper, acquire }) => {
      if (failing === "mount") system.mountError = new Error("mount failed");
      else mapper.failing = failing;
      await errorOf(() => acquire(scratch(paths)));
      expect([mapper.steps, [...mapper.tables], existsSync(scratch(paths).mountPoint)]).toEqual([steps, [], false]);
    }),
  );

  it.each<[string, (paths: GuestPaths) => Partial<Storage>, string]>([
    ["with another key", () => ({ driverOptions: ["encryption_key=kbs:///a"] }), "ERR_AGENT_REQUEST"],
    ["with two driver options", () => ({ driverOptions: ["encryption_key=ephemeral", "encryption_key=ephemeral"] }), "ERR_AGENT_REQUEST"],
    ["that only has to be made", () => ({ driverOptions: ["create_filesystem"] }), "ERR_AGENT_REQUEST"],
    ["with a third driver option", () => ({ driverOptions: ["encryption_key=ephemeral", "create_filesystem", "create_filesystem"] }), "ERR_AGENT_REQUEST"],
    ["of another type", () => ({ fstype: "xfs" }), "ERR_AGENT_REQUEST"],
    ["with a root hash", () => ({ options: layerOptions("ab".repeat(32)) }), "ERR_AGENT_REQUEST"],
    ["with bind", () => ({ options: ["bind"] }), "ERR_AGENT_REQUEST"],
    ["with suid", () => ({ options: ["suid"] }), "ERR_AGENT_REQUEST"],
    ["outside", () => ({ mountPoint: "/etc/x" }), "ERR_AGENT_PATH"],
    ["through ..", ({ root }) => ({ mountPoint: `${root}/sandbox/../../x` }), "ERR_AGENT_PATH"],
    ["as a layer", ({ layers }) => ({ mountPoint: `${layers}/x` }), "ERR_AGENT_REQUEST"],
    ["on a disk that is not there", () => ({ source: "06" }), "ERR_AGENT_STORAGE"],
  ])("is refused %s", (_what, change, code) =>
    withDisk(async ({ paths, mapper, system, acquire }) => {
      expect((await errorOf(() => acquire(scratch(paths, change(paths))))).code).toBe(code);
      expect([mapper.steps, system.mounts]).toEqual([[], []]);
    }),
  );

  it("is made in the words of the second generation as well", () =>
    withDisk(async ({ paths, system, acquire }) => {
      await acquire(scratch(paths, { driverOptions: ["encryption_key=ephemeral", "create_filesystem"] }));
      expect(system.mounts.map(({ type, target }) => [type, target])).toEqual([["ext4", scratch(paths).mountPoint]]);
    }));

  it("is refused where the kernel is not the guest's own, and on a disk too small", () =>
    withStorages(async ({ paths, devices, acquire }) => {
      writeFileSync(`${devices}/05`, new Uint8Array(4096));
      expect(await errorOf(() => acquire(scratch(paths)))).toMatchObject({
        code: "ERR_AGENT_REQUEST",
        message: expect.stringContaining("process of the host") as string,
      });
    }).then(() =>
      withDisk(async ({ paths, devices, acquire }) => {
        truncateSync(`${devices}/05`, 1024 * 1024);
        expect((await errorOf(() => acquire(scratch(paths)))).message).toContain("too small");
      }),
    ));
});

describe("storage: the root of a container", () => {
  const described = (name: string, hash: string, fstype = "erofs", options = layerOptions(hash)): string =>
    `io.katacontainers.fs-opt.layer=${toBase64(encodeUtf8([name, fstype, ...options].join(",")))}`;
  const overlay = (paths: GuestPaths, lower: string, hash: string, layers = lower.split(":").map((name) => described(name, hash))): Storage =>
    storage({
      driver: "overlayfs",
      source: "none",
      fstype: "fuse3.kata-overlay",
      options: [
        "io.katacontainers.fs-opt.layer-src-prefix=/var/lib/containerd/io.containerd.snapshotter.v1.tardev/layers",
        ...layers,
        "io.katacontainers.fs-opt.overlay-rw",
        `lowerdir=${lower}`,
      ],
      mountPoint: `${paths.shared}/c1`,
    });
  /** Gives the container layers of these names, all of the same image. */
  const hold = async ({ paths, layer, acquire }: Setup, ...names: readonly string[]): Promise<{ readonly hash: string; readonly held: readonly string[] }> => {
    let hash = "";
    for (const [index, name] of names.entries()) {
      ({ hash } = await layer(`a${index}`, "file", 10));
      await acquire(layerStorage(paths, hash, `a${index}`, name));
    }
    return { hash, held: names.map((name) => `${paths.layers}/${name}`) };
  };

  it("is an overlay of its layers, relative to their directory, and a directory of its own", () =>
    withStorages(async (setup) => {
      const { paths, system, storages, acquire } = setup;
      const { hash, held } = await hold(setup, "top", "bottom");
      await acquire(overlay(paths, "top:bottom", hash), held);
      const directory = paths.container("c1");
      expect(system.mounts).toEqual([
        {
          type: "overlay",
          source: "overlay",
          target: `${paths.shared}/c1`,
          options: ["nodev", "lowerdir=top:bottom", `upperdir=${directory}/upper`, `workdir=${directory}/work`],
          cwd: paths.layers,
        },
      ]);
      await storages.release(`${paths.shared}/c1`);
      expect(system.unmounted).toEqual([`${paths.shared}/c1`]);
      expect(readdirSync(paths.shared)).toEqual([]);
    }));

  it("is beside the container's state where the second generation wants it, and beside nobody else's", () =>
    withStorages(async (setup) => {
      const { paths, system, storages, acquire } = setup;
      const { hash, held } = await hold(setup, "top");
      const at = (mountPoint: string): Storage => ({ ...overlay(paths, "top", hash), mountPoint });
      for (const place of [
        `${paths.container("c2")}/rootfs`,
        `${paths.container("c1")}/other`,
        `${paths.container("c1")}/rootfs/../../x`,
        paths.container("c1"),
      ])
        expect((await errorOf(() => acquire(at(place), held))).code).toBe("ERR_AGENT_PATH");
      expect(system.mounts).toEqual([]);
      const root = `${paths.container("c1")}/rootfs`;
      await acquire(at(root), held);
      expect(system.mounts.map(({ target }) => target)).toEqual([root]);
      await storages.release(root);
      expect(system.unmounted).toEqual([root]);
    }));

  it.each(["other", "top:other", "", "top:", "/etc", "..", "../../shared/containers/x", "top,upperdir=/"])(
    "has no layer that the container did not get: %j",
    (lower) =>
      withStorages(async (setup) => {
        const { paths, system, acquire } = setup;
        const { hash, held } = await hold(setup, "top");
        expect((await errorOf(() => acquire(overlay(paths, lower, hash), held))).code).toBe("ERR_AGENT_REQUEST");
        expect(system.mounts).toEqual([]);
      }),
  );

  it.each<[string, (hash: string) => string[]]>([
    ["another type: the bytes under a root hash may be an image of two", (hash) => [described("top", hash, "tar"), described("bottom", hash)]],
    ["another root hash", (hash) => [described("top", "0".repeat(64)), described("bottom", hash)]],
    ["another name", (hash) => [described("other", hash), described("bottom", hash)]],
    ["another order", (hash) => [described("bottom", hash), described("top", hash)]],
    ["other options", (hash) => [described("top", hash, "erofs", [`${layerOptions(hash).at(-1)}`]), described("bottom", hash)]],
    ["one layer too few", (hash) => [described("top", hash)]],
    ["one layer too many", (hash) => [described("top", hash), described("bottom", hash), described("bottom", hash)]],
    ["no layer", () => []],
    ["what is no base64", (hash) => [described("top", hash), "io.katacontainers.fs-opt.layer=*"]],
  ])("has the layers that its options describe to the policy, not: %s", (_what, layers) =>
    withStorages(async (setup) => {
      const { paths, system, acquire } = setup;
      const { hash, held } = await hold(setup, "top", "bottom");
      const error = await errorOf(() => acquire(overlay(paths, "top:bottom", hash, layers(hash)), held));
      expect([error.code, system.mounts]).toEqual(["ERR_AGENT_REQUEST", []]);
      await acquire(overlay(paths, "top:bottom", hash), held);
    }),
  );

  it.each<[string, (options: readonly string[]) => string[]]>([
    ["another option", (options) => [...options, "redirect_dir=on"]],
    ["two lowerdirs", (options) => [...options, "lowerdir=top"]],
    ["no overlay-rw", (options) => options.filter((option) => !option.endsWith("overlay-rw"))],
  ])("is refused with %s", (_what, change) =>
    withStorages(async (setup) => {
      const { paths, acquire } = setup;
      const { hash, held } = await hold(setup, "top");
      const wanted = overlay(paths, "top", hash);
      expect((await errorOf(() => acquire({ ...wanted, options: change(wanted.options) }, [...held]))).code).toBe("ERR_AGENT_REQUEST");
    }),
  );

  it("is not shared, and leaves nothing if the mount fails", () =>
    withStorages(async (setup) => {
      const { paths, system, acquire } = setup;
      const { hash, held } = await hold(setup, "top");
      system.mountError = new Error("mount failed");
      expect((await errorOf(() => acquire(overlay(paths, "top", hash), held))).message).toBe("mount failed");
      expect(readdirSync(paths.shared)).toEqual([]);
      system.mountError = undefined;
      await acquire(overlay(paths, "top", hash), held);
      expect((await errorOf(() => acquire(overlay(paths, "top", hash), held))).code).toBe("ERR_AGENT_REQUEST");
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

  it("are no layers: what one container writes must not become the root of another", () =>
    withStorages(async ({ paths, acquire }) => {
      for (const mountPoint of [`${paths.layers}/x`, paths.layers]) {
        expect((await errorOf(() => acquire(storage({ driver: "local", mountPoint })))).code).toBe("ERR_AGENT_REQUEST");
        expect((await errorOf(() => acquire({ ...shm(paths, []), mountPoint }))).code).toBe("ERR_AGENT_REQUEST");
      }
      expect(readdirSync(paths.layers)).toEqual([]);
    }));

  it.each([
    ["directories", { driver: "local" }],
    ["memory", { driver: "ephemeral", source: "tmpfs", fstype: "tmpfs" }],
  ])("that are %s stay until the sandbox ends, once a container had them", (_what, fields) =>
    withStorages(async ({ paths, storages, acquire }) => {
      const mountPoints = ["a", "b", "c"].map((name) => `${paths.shared}/${name}`);
      for (const mountPoint of mountPoints) for (let i = 0; i < 2; i++) await acquire(storage({ mountPoint, ...fields }));
      // The third was wanted by containers that were not made.
      storages.keepVolumes([...mountPoints.slice(0, 2), "/nothing"]);
      storages.keepVolumes(mountPoints.slice(0, 1));
      for (const mountPoint of mountPoints) for (let i = 0; i < 2; i++) await storages.release(mountPoint);
      expect(readdirSync(paths.shared)).toEqual(["a", "b"]);
      await acquire(storage({ mountPoint: mountPoints[0] ?? "", ...fields }));
      for (let i = 0; i < 2; i++) {
        await storages.close();
        expect(readdirSync(paths.shared)).toEqual(["a"]);
      }
      await storages.release(mountPoints[0] ?? "");
      expect(readdirSync(paths.shared)).toEqual([]);
    }),
  );

  it("in memory get a new size, and keep the rest", () =>
    withStorages(async ({ paths, system, storages, acquire }) => {
      const made = shm(paths, ["noexec", "nosuid", "nodev", "mode=1777", "size=64m"]);
      await acquire(made);
      await storages.updateEphemeral([shm(paths, ["remount", "size=128m"])]);
      await storages.updateEphemeral([shm(paths, ["size=50%"])]);
      expect(system.mounts.slice(1).map(({ options, target }) => [target, ...options])).toEqual([
        [made.mountPoint, "remount", "noexec", "nosuid", "nodev", "mode=1777", "size=128m"],
        [made.mountPoint, "remount", "noexec", "nosuid", "nodev", "mode=1777", "size=50%"],
      ]);
      // It is still the storage that others ask for.
      await acquire(made);
    }));

  it("in memory get no new size unless they are that, and none does if one does not", () =>
    withStorages(async ({ paths, system, storages, acquire }) => {
      await acquire(shm(paths, ["size=64m"]));
      await acquire(storage({ driver: "local", mountPoint: `${paths.shared}/local` }));
      const good = shm(paths, ["remount", "size=1m"]);
      const bad: readonly Storage[] = [
        { ...good, mountPoint: `${paths.shared}/local` },
        { ...good, mountPoint: `${paths.shared}/nothing` },
        { ...good, mountPoint: "/run" },
        { ...good, driver: "local" },
        { ...good, fstype: "overlay" },
        { ...good, options: ["remount"] },
        { ...good, options: ["size=1m", "size=2m"] },
        { ...good, options: ["size=1m", "exec"] },
        { ...good, options: ["size=1m,exec"] },
        { ...good, driverOptions: ["x"] },
      ];
      for (const one of bad) expect((await errorOf(() => storages.updateEphemeral([good, one]))).code).toBe("ERR_AGENT_REQUEST");
      expect(system.mounts).toHaveLength(1);
    }));

  it.skipIf(!isRoot)(`belong to the pod's group${isRoot ? "" : " (skipped: needs root)"}`, () =>
    withStorages(async ({ paths, acquire }) => {
      const { fsGroup } = storage({ fsGroup: { groupId: 4711 } });
      const mountPoint = `${paths.shared}/data`;
      await acquire({ ...storage({ driver: "local", options: ["mode=0700"], mountPoint }), fsGroup });
      expect([statSync(mountPoint).gid, statSync(mountPoint).mode & 0o7777]).toEqual([4711, 0o2770]);
      await acquire({ ...shm(paths, ["mode=0755"]), fsGroup });
      expect(statSync(shm(paths, []).mountPoint).gid).toBe(4711);
      expect(
        (
          await errorOf(() =>
            acquire({ ...storage({ driver: "local", options: ["mode=0700"], mountPoint }), fsGroup: storage({ fsGroup: { groupId: 1 } }).fsGroup }),
          )
        ).code,
      ).toBe("ERR_AGENT_REQUEST");
    }),
  );

  it.skipIf(!isRoot)(`belong to it with all that is in them, and nothing that links lead to${isRoot ? "" : " (skipped: needs root)"}`, () =>
    inTemporaryDirectory((path) => {
      mkdirSync(`${path}/volume/d/e`, { recursive: true });
      for (const [name, mode] of [
        ["volume/f", 0o400],
        ["volume/d/x", 0o755],
        ["outside", 0o600],
      ] as const) {
        writeFileSync(`${path}/${name}`, "");
        chmodSync(`${path}/${name}`, mode);
      }
      symlinkSync(`${path}/outside`, `${path}/volume/d/link`);
      symlinkSync("..", `${path}/volume/up`);
      const group = storage({ fsGroup: { groupId: 4711 } }).fsGroup ?? expect.fail();
      const shown = (): unknown =>
        ["volume", "volume/f", "volume/d", "volume/d/e", "volume/d/x", "volume/d/link", "volume/up", "outside"].map((name) => {
          const { gid, mode } = lstatSync(`${path}/${name}`);
          return [name, gid === 4711, (mode & 0o7777).toString(8)];
        });
      chmodSync(`${path}/volume`, 0o755);
      for (const name of ["d", "d/e"]) chmodSync(`${path}/volume/${name}`, 0o755);
      using root = ConfinedDirectory.open(`${path}/volume`);
      giveToFsGroup(root, group);
      const given = [
        ["volume", true, "2775"],
        ["volume/f", true, "660"],
        ["volume/d", true, "2775"],
        ["volume/d/e", true, "2775"],
        ["volume/d/x", true, "775"],
        ["volume/d/link", true, "777"],
        ["volume/up", true, "777"],
        ["outside", false, "600"],
      ];
      expect(shown()).toEqual(given);
      // With a root as it should be, the rest is taken for done.
      chmodSync(`${path}/volume/f`, 0o600);
      giveToFsGroup(root, { ...group, groupChangePolicy: FSGroupChangePolicy.OnRootMismatch });
      expect(statSync(`${path}/volume/f`).mode & 0o777).toBe(0o600);
      chmodSync(`${path}/volume`, 0o755);
      giveToFsGroup(root, { ...group, groupChangePolicy: FSGroupChangePolicy.OnRootMismatch });
      expect(shown()).toEqual(given);
    }),
  );

  it("of an unknown driver are refused in the known words", () =>
    withStorages(async ({ acquire }) => {
      expect(await errorOf(() => acquire(storage({ driver: "virtio-fs", mountPoint: "/x" })))).toMatchObject({
        code: "ERR_AGENT_STORAGE",
        message: "Failed to find the storage handler virtio-fs",
      });
    }));
});
