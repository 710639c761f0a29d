import { createHash, generateKeyPairSync } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toHex } from "@sealpod/core";
import { launchDigest, processPages } from "@sealpod/snp";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeBill, parseBill } from "./bill-of-materials.ts";
import { buildUvm, type BuildUvmOptions } from "./build.ts";
import { uvmCommandLine } from "./command-line.ts";
import { PROGRAMS } from "./contents.ts";
import { endorseUvm } from "./endorsement.ts";
import { ImageError } from "./errors.ts";
import { encodeManifest, parseManifest } from "./manifest.ts";
import { SampleDebian, sampleElf, sampleModule } from "./test-support.ts";
import { readUvm, uvmGuestFiles, uvmMeasurement, uvmRootFiles, verifyUvm } from "./uvm.ts";

/** A whole build on a Debian that is made up: what the packages have in common with real ones is their form. */
let scratch = "";
let debian = new SampleDebian(writeFile, readFile);
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "sealpod-image-test-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));
beforeEach(() => {
  debian = new SampleDebian(writeFile, readFile);
});

const NODE = sampleElf({ interpreter: "/lib64/ld-linux-x86-64.so.2", libraries: ["libc.so.6"], sections: { ".symtab": new Uint8Array(1000).fill(1) } });

function options(name: string, more: Partial<BuildUvmOptions> = {}): BuildUvmOptions {
  return {
    output: join(scratch, name),
    target: "emulated",
    node: { bytes: NODE, version: "24.21.0" },
    agent: { bytes: new TextEncoder().encode("the agent"), version: "0.1.0" },
    helper: sampleElf({ salt: "helper" }),
    packages: join(scratch, "packages"),
    start: debian.start,
    ...more,
  };
}

const contents = async (directory: string): Promise<readonly (readonly [string, string])[]> =>
  Promise.all(
    (await readdir(directory)).toSorted().map(
      async (name) =>
        [
          name,
          createHash("sha256")
            .update(await readFile(join(directory, name)))
            .digest("hex"),
        ] as const,
    ),
  );

describe("buildUvm", () => {
  it("makes an image that is what its manifest says, and says all of it", async () => {
    const steps: string[] = [];
    const manifest = await buildUvm(options("first", { progress: (step) => void steps.push(step) }));
    expect((await readdir(join(scratch, "first"))).toSorted()).toEqual(["bom.json", "initrd.cpio", "root.erofs", "uvm.json", "vmlinux"]);
    const uvm = await readUvm(join(scratch, "first"));
    expect(uvm.manifest).toEqual(manifest);
    await verifyUvm(uvm);
    expect(Buffer.compare(await readFile(join(scratch, "first", "vmlinux")), sampleElf({ salt: "kernel" }))).toBe(0);
    expect(manifest.commandLine).toBe(uvmCommandLine("emulated", Buffer.from(manifest.root.rootHash, "hex"), manifest.root.dataBlocks));
    expect(uvmGuestFiles(uvm)).toEqual({
      kernel: join(scratch, "first", "vmlinux"),
      initrd: join(scratch, "first", "initrd.cpio"),
      root: join(scratch, "first", "root.erofs"),
      commandLine: manifest.commandLine,
    });
    expect(steps).toContain("choosing packages");
    expect(steps.at(-1)).toBe("done");
    expect(manifest.packages.map(({ name }) => name)).toContain("linux-image-6.1.0-1-cloud-amd64");
    const bill = parseBill(await readFile(join(scratch, "first", "bom.json"), "utf8"), "bom.json");
    expect(bill.packages).toEqual(manifest.packages);
    expect(bill.parts.find(({ name }) => name === "node")?.sha256).toBe(createHash("sha256").update(NODE).digest("hex"));
  });

  it("puts into the root what the agent calls, the libraries of that, and nothing setuid or of another owner", async () => {
    await buildUvm(options("root"));
    const files = new Map((await uvmRootFiles(await readUvm(join(scratch, "root")))).map((file) => [file.path, file]));
    for (const { files: paths } of PROGRAMS) for (const path of paths) expect(files.get(path), path).toMatchObject({ kind: "file", mode: 0o755 });
    expect(files.get("usr/lib/x86_64-linux-gnu/libc.so.6")).toMatchObject({ kind: "symlink", target: "libc-2.so" });
    expect(files.get("usr/lib64/ld-linux-x86-64.so.2")).toMatchObject({ kind: "file" });
    // Libraries that no program names stay out.
    expect(files.has("usr/lib/x86_64-linux-gnu/libssl3.so.0")).toBe(false);
    expect(files.get("usr/bin/node")?.size).toBeLessThan(NODE.length - 1000);
    expect(files.get("tmp")?.mode).toBe(0o1777);
    expect([...files.values()].filter(({ mode, path }) => (mode & 0o7000) !== 0 && path !== "tmp")).toEqual([]);
    for (const path of ["dev", "proc", "sys", "run", "var/lib/sealpod"]) expect(files.get(path)).toMatchObject({ kind: "directory" });
    for (const name of ["sh", "bash", "dash", "busybox", "apt", "dpkg"]) expect([...files.keys()].filter((path) => path.endsWith(`/${name}`))).toEqual([]);
    // What the first process has loaded is not there a second time; what the kernel has built in, nowhere.
    expect([...files.keys()].filter((path) => path.endsWith(".ko")).toSorted()).toEqual(
      ["aesni_intel", "af_alg", "algif_hash", "algif_skcipher", "dm_crypt", "ecb", "nbd", "vmw_vsock_virtio_transport", "vsock", "xts"].map(
        (name) => `usr/lib/sealpod/modules/${name}.ko`,
      ),
    );
  });

  it("puts the modules into the initial RAM disk in the order in which they load, the optional ones marked", async () => {
    const order = async (target: "emulated" | "snp"): Promise<readonly string[]> => {
      await buildUvm(options("initrd", { target }));
      const initrd = (await readFile(join(scratch, "initrd", "initrd.cpio"))).toString("latin1");
      return /modules\/order\0*([a-z0-9_.?\n]+)\n/.exec(initrd)?.[1]?.split("\n") ?? [];
    };
    expect(await order("emulated")).toEqual([
      "virtio.ko",
      "virtio_ring.ko",
      "virtio_pci.ko",
      "virtio_blk.ko",
      "dm_mod.ko",
      "dm_bufio.ko",
      "dm_verity.ko",
      "erofs.ko",
      "virtio_console.ko",
      "overlay.ko",
      "virtio_net.ko?",
      "virtio_rng.ko?",
    ]);
    // The made-up kernel has no configfs, without which a guest cannot have reports of a real processor.
    await expect(order("snp")).rejects.toMatchObject({ code: "ERR_IMAGE_KERNEL", message: expect.stringContaining("configfs") });
    const kernel = debian.packages.get("linux-image-6.1.0-1-cloud-amd64")?.items ?? [];
    debian.add("linux-image-6.1.0-1-cloud-amd64", [
      ...kernel,
      { kind: "file", path: "./lib/modules/6.1.0-1-cloud-amd64/kernel/configfs.ko", mode: 0o644, uid: 0, gid: 0, mtime: 0, data: sampleModule("configfs") },
    ]);
    expect(await order("snp")).toContain("configfs.ko");
    expect((await readFile(join(scratch, "initrd", "initrd.cpio"))).includes("Module signature appended")).toBe(true);
  });

  it("gives the same bytes wherever and in whatever order, and others for other materials", async () => {
    await buildUvm(options("one"));
    // Packages whose files stand in another order, with other owners and times.
    for (const [name, { record, items }] of debian.packages)
      debian.packages.set(name, {
        record,
        deb: debian.packages.get(name)?.deb ?? new Uint8Array(),
        items: items.toReversed().map((item) => ({ ...item, uid: 0, mtime: 5 })),
      });
    debian.packages.set(
      "libc6",
      new SampleDebian(writeFile, readFile).packages.get("libc6") ?? {
        record: { name: "", version: "", architecture: "", sha256: "" },
        deb: new Uint8Array(),
        items: [],
      },
    );
    await buildUvm(options("deep/er/two", { packages: join(scratch, "other packages") }));
    expect(await contents(join(scratch, "deep/er/two"))).toEqual(await contents(join(scratch, "one")));
    const { root } = await buildUvm(options("three", { agent: { bytes: new TextEncoder().encode("the agenT"), version: "0.1.0" } }));
    expect(root.rootHash).not.toBe((await readUvm(join(scratch, "one"))).manifest.root.rootHash);
    expect(((await stat(join(scratch, "three"))).mode & 0o777).toString(8)).toBe("755");
    expect(((await stat(join(scratch, "three", "uvm.json"))).mode & 0o777).toString(8)).toBe("644");
  });

  it("builds from its lock alone", async () => {
    await buildUvm(options("locked"));
    const text = await readFile(join(scratch, "locked", "bom.json"), "utf8");
    const lock = parseBill(text, "bom.json");
    debian.started.length = 0;
    await buildUvm(options("again", { lock }));
    expect(await contents(join(scratch, "again"))).toEqual(await contents(join(scratch, "locked")));
    // Nothing is chosen: apt is not even asked.
    expect(debian.started.filter((line) => line.startsWith("apt"))).toEqual([]);
    const refused = async (more: Partial<BuildUvmOptions>): Promise<void> => {
      await expect(buildUvm(options("refused", { lock, ...more }))).rejects.toMatchObject({ code: "ERR_IMAGE_LOCK" });
    };
    await refused({ target: "snp" });
    await refused({ kernelPackage: "linux-image-6.12-cloud-amd64" });
    await refused({ agent: { bytes: new Uint8Array(1), version: "0.1.0" } });
    await refused({ node: { bytes: NODE, version: "24.22.0" } });
    await refused({ helper: sampleElf({ salt: "another helper" }) });
    await refused({ lock: { ...lock, packages: lock.packages.filter(({ name }) => name !== "crun") } });
    await refused({ lock: { ...lock, packages: lock.packages.filter(({ name }) => !name.startsWith("linux")) } });
    await refused({
      lock: parseBill(
        encodeBill({ ...lock, packages: [...lock.packages, { name: "bash", version: "1", architecture: "amd64", sha256: "0".repeat(64) }] }),
        "x",
      ),
    });
    expect(await readdir(scratch)).not.toContain("refused");
  });

  it("takes the place of an older image as a whole, and of nothing else", async () => {
    await buildUvm(options("place"));
    await writeFile(join(scratch, "place", "endorsement.cose"), "of the older image");
    await buildUvm(options("place"));
    expect(await readdir(join(scratch, "place"))).not.toContain("endorsement.cose");
    await mkdir(join(scratch, "home"));
    await writeFile(join(scratch, "home", "letter.txt"), "mine");
    await expect(buildUvm(options("home"))).rejects.toMatchObject({
      code: "ERR_IMAGE_WRITE",
      message: expect.stringContaining("holds something that is no image"),
    });
    await expect(buildUvm(options("home/letter.txt"))).rejects.toMatchObject({ code: "ERR_IMAGE_WRITE" });
    expect(await readdir(join(scratch, "home"))).toEqual(["letter.txt"]);
    await expect(buildUvm(options("x", { output: "/proc/x/y" }))).rejects.toMatchObject({ code: "ERR_IMAGE_WRITE" });
  });

  it("leaves the older image as it is, and nothing beside it, when it fails anywhere", async () => {
    await buildUvm(options("kept"));
    const before = await contents(join(scratch, "kept"));
    const names = (await readdir(scratch)).toSorted();
    const steps: string[] = [];
    await buildUvm(options("kept", { progress: (step) => void steps.push(step) }));
    for (const at of [0, 1, 5, ...Array.from({ length: 8 }, (_, index) => steps.length - 8 + index)]) {
      let left = at;
      const controller = new AbortController();
      const progress = (): void => {
        if (left-- === 0) controller.abort();
      };
      // Aborted at a step, it ends at the next one; at the last there is nothing more to stop.
      const build = buildUvm(options("kept", { progress, signal: controller.signal }));
      if (at < steps.length - 1) await expect(build).rejects.toMatchObject({ code: "ERR_IMAGE_ABORTED" });
      else await build;
    }
    debian.packages.delete("crun");
    await expect(buildUvm(options("kept"))).rejects.toMatchObject({ code: "ERR_IMAGE_PACKAGE", message: expect.stringContaining("crun") });
    debian.add("crun", []);
    await expect(buildUvm(options("kept"))).rejects.toMatchObject({ code: "ERR_IMAGE_PACKAGE", message: expect.stringContaining("usr/bin/crun") });
    debian.failDownload = new ImageError("ERR_IMAGE_COMMAND", "no network");
    await expect(buildUvm(options("kept", { packages: join(scratch, "packages", "none") }))).rejects.toMatchObject({ code: "ERR_IMAGE_FETCH" });
    await rm(join(scratch, "packages", "none"), { recursive: true });
    expect(await contents(join(scratch, "kept"))).toEqual(before);
    expect((await readdir(scratch)).toSorted()).toEqual(names);
  });

  it("names the library that no package has", async () => {
    await expect(buildUvm(options("library", { node: { bytes: sampleElf({ libraries: ["libatomic.so.1"] }), version: "24.0.0" } }))).rejects.toMatchObject({
      code: "ERR_IMAGE_LIBRARY",
      message: expect.stringContaining("usr/bin/node needs libatomic.so.1"),
    });
  });
});

describe("an image on disk", () => {
  let directory = "";
  beforeEach(async () => {
    directory = join(scratch, "disk");
    await buildUvm(options("disk"));
  });

  it("has the launch measurement of its kernel, initial RAM disk and command line", async () => {
    const uvm = await readUvm(directory);
    const files = await Promise.all(["vmlinux", "initrd.cpio"].map(async (name) => readFile(join(directory, name))));
    const expected = launchDigest(processPages([...files, Buffer.from(`${uvm.manifest.commandLine}\0`)]));
    expect(toHex(await uvmMeasurement(uvm))).toBe(toHex(expected));
  });

  it("is read only if it is whole", async () => {
    await expect(readUvm(join(scratch, "nowhere"))).rejects.toMatchObject({ code: "ERR_IMAGE_UVM", hint: expect.stringContaining("sealpod uvm build") });
    const manifest = await readFile(join(directory, "uvm.json"));
    for (const name of ["uvm.json", "vmlinux", "initrd.cpio", "root.erofs"]) {
      const bytes = await readFile(join(directory, name));
      await truncate(join(directory, name), bytes.length - 1);
      if (name === "uvm.json") await writeFile(join(directory, name), manifest.subarray(0, -3));
      await expect(readUvm(directory), name).rejects.toMatchObject({ code: "ERR_IMAGE_UVM" });
      await rm(join(directory, name));
      await expect(readUvm(directory), name).rejects.toMatchObject({ code: "ERR_IMAGE_UVM" });
      await mkdir(join(directory, name));
      await expect(readUvm(directory), name).rejects.toMatchObject({ code: "ERR_IMAGE_UVM" });
      await rm(join(directory, name), { recursive: true });
      await writeFile(join(directory, name), bytes);
    }
    await readUvm(directory);
  });

  it("is verified in every byte", async () => {
    const uvm = await readUvm(directory);
    for (const name of ["vmlinux", "initrd.cpio", "root.erofs"]) {
      const bytes = await readFile(join(directory, name));
      for (const at of [0, 5000, bytes.length - 5000, bytes.length - 1].filter((offset) => offset >= 0 && offset < bytes.length)) {
        const changed = Buffer.from(bytes);
        changed[at] = (changed[at] ?? 0) ^ 1;
        await writeFile(join(directory, name), changed);
        await expect(verifyUvm(uvm), `${name} ${at}`).rejects.toMatchObject({ code: "ERR_IMAGE_CHANGED", message: expect.stringContaining(name) });
      }
      await writeFile(join(directory, name), bytes);
    }
    await verifyUvm(uvm);
  });

  it("is refused if its manifest was made to fit other bytes", async () => {
    const { manifest } = await readUvm(directory);
    const path = join(directory, "uvm.json");
    const write = async (changed: typeof manifest): Promise<void> =>
      writeFile(path, encodeManifest(parseManifest(new TextEncoder().encode(encodeManifest(changed)), "x")));
    // A root whose data was changed, with its hash put right: the tree tells.
    const bytes = await readFile(join(directory, "root.erofs"));
    const changed = Buffer.from(bytes);
    changed[4096] = (changed[4096] ?? 0) ^ 1;
    await writeFile(join(directory, "root.erofs"), changed);
    await write({ ...manifest, root: { ...manifest.root, sha256: createHash("sha256").update(changed).digest("hex") } });
    await expect(verifyUvm(await readUvm(directory))).rejects.toMatchObject({ code: "ERR_IMAGE_CHANGED", message: expect.stringContaining("dm-verity") });
    // The same for a tree whose data are as they were.
    const tree = Buffer.from(bytes);
    tree[manifest.root.dataBlocks * 4096 + 5] = (tree[manifest.root.dataBlocks * 4096 + 5] ?? 0) ^ 1;
    await writeFile(join(directory, "root.erofs"), tree);
    await write({ ...manifest, root: { ...manifest.root, sha256: createHash("sha256").update(tree).digest("hex") } });
    await expect(verifyUvm(await readUvm(directory))).rejects.toMatchObject({ code: "ERR_IMAGE_CHANGED", message: expect.stringContaining("dm-verity") });
    await writeFile(join(directory, "root.erofs"), bytes);
    await write({ ...manifest, root: { ...manifest.root, dataBlocks: manifest.root.dataBlocks - 1 } });
    await expect(verifyUvm(await readUvm(directory))).rejects.toMatchObject({ code: "ERR_IMAGE_CHANGED" });
    // A command line with one more word starts another guest.
    await write({ ...manifest, commandLine: `${manifest.commandLine} init=/bin/sh` });
    await expect(verifyUvm(await readUvm(directory))).rejects.toMatchObject({ code: "ERR_IMAGE_CHANGED", message: expect.stringContaining("command line") });
    await write(manifest);
    await verifyUvm(await readUvm(directory));
  });

  it("is endorsed only with 48 bytes of measurement", async () => {
    const { privateKey: key } = generateKeyPairSync("ec", { namedCurve: "P-384" });
    const input = { issuer: "did:x509:0", feed: "f", svn: 1, signingTime: 0, chain: [], key, algorithm: "ES384" } as const;
    expect(endorseUvm(await uvmMeasurement(await readUvm(directory)), input).length).toBeGreaterThan(48);
    expect(() => endorseUvm(new Uint8Array(32), input)).toThrow(expect.objectContaining({ code: "ERR_COSE_PAYLOAD" }));
  });
});

describe("the agent's sources", () => {
  it("name no program by its absolute path that the root does not have", () => {
    const agent = join(import.meta.dirname, "..", "agent");
    const own = new Set(["usr/bin/node", "usr/lib/sealpod/helper", "usr/lib/sealpod/modules"]);
    const provided = new Set([...PROGRAMS.flatMap(({ files }) => files), ...own]);
    const named = new Map<string, string>();
    const sources = readdirSync(agent, { recursive: true, encoding: "utf8" }).filter(
      (path) => path.endsWith(".ts") && !/\.(?:test|e2e)\.ts$|test-support|testdata/.test(path),
    );
    for (const source of sources)
      for (const [, path = ""] of readFileSync(join(agent, source), "utf8").matchAll(
        /["'`]\/((?:usr\/)?s?bin\/[A-Za-z0-9._+-]+|usr\/lib\/sealpod\/[A-Za-z0-9._+-]+)["'`]/g,
      ))
        named.set(path, source);
    expect(sources.length).toBeGreaterThan(10);
    expect([...named.keys()]).toContain("usr/bin/crun");
    expect([...named].filter(([path]) => !provided.has(path))).toEqual([]);
  });
});
