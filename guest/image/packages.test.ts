import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { encodeTar, type TarItem } from "@sealpod/verity";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { fetchPackages, resolvePackages } from "./debian-packages.ts";
import { ImageError } from "./errors.ts";
import { KernelModules, moduleName, moduleNeeds } from "./kernel-modules.ts";
import { PackageFiles } from "./package-files.ts";
import { RELEASE, SampleDebian, sampleElf, sampleModule } from "./test-support.ts";

const BASE = { uid: 0, gid: 0, mtime: 0, mode: 0o755 } as const;
const file = (path: string, text = path): TarItem => ({ ...BASE, kind: "file", path, data: encodeUtf8(text) });
const link = (path: string, target: string): TarItem => ({ ...BASE, kind: "symlink", path, target });

async function filesOf(...items: readonly TarItem[]): Promise<PackageFiles> {
  const files = new PackageFiles();
  await files.add(encodeTar(items), "sample", () => true);
  return files;
}

describe("PackageFiles", () => {
  it("has the files of packages as on a machine with merged /usr", async () => {
    const files = await filesOf(file("./bin/mount"), file("./lib64/ld.so"), file("./etc/x"), file("./library/y"), {
      ...BASE,
      kind: "hardlink",
      path: "./usr/bin/again",
      target: "./bin/mount",
    });
    expect(files.paths).toEqual(["etc/x", "library/y", "usr/bin/again", "usr/bin/mount", "usr/lib64/ld.so"]);
    expect(files.get("usr/bin/again")).toEqual({ kind: "file", executable: true, data: encodeUtf8("./bin/mount") });
  });

  it("follows links to their file, relative and absolute", async () => {
    const files = await filesOf(link("./usr/sbin/ip", "/bin/ip"), link("./bin/ip", "../lib/ip-2"), file("./usr/lib/ip-2"));
    expect(files.follow("usr/sbin/ip").map(([path]) => path)).toEqual(["usr/sbin/ip", "usr/bin/ip", "usr/lib/ip-2"]);
  });

  it("lets no link lead anywhere but to files of packages", async () => {
    const files = await filesOf(link("./a", "../../../etc/passwd"), link("./b", "b"), link("./etc/c", "missing"));
    for (const path of ["a", "b", "etc/c", "nothing"]) expect(() => files.follow(path)).toThrow(expect.objectContaining({ code: "ERR_IMAGE_PACKAGE" }));
  });

  it("refuses names that leave the package, and two packages with different files at one path", async () => {
    await expect(filesOf(file("../evil"))).rejects.toMatchObject({ code: "ERR_VERITY_TAR_PATH" });
    const files = await filesOf(file("./etc/x", "one"), file("./etc/y", "one"));
    await files.add(encodeTar([file("./etc/x", "one")]), "other", () => true);
    await expect(files.add(encodeTar([file("./etc/y", "two")]), "other", () => true)).rejects.toMatchObject({ code: "ERR_IMAGE_TREE" });
    await expect(filesOf({ ...BASE, kind: "hardlink", path: "./a", target: "./b" })).rejects.toMatchObject({ code: "ERR_IMAGE_PACKAGE" });
  });
});

describe("KernelModules", () => {
  const directory = `./lib/modules/${RELEASE}`;
  const modules = async (graph: Readonly<Record<string, readonly string[]>>, builtIn = ""): Promise<KernelModules> => {
    const items = Object.entries(graph).map(([path, needs]): TarItem => ({
      ...BASE,
      kind: "file",
      path: `${directory}/kernel/${path}`,
      data: sampleModule(path, needs),
    }));
    return new KernelModules(await filesOf(...items, file(`${directory}/modules.builtin`, builtIn)), RELEASE, (bytes, path) =>
      Promise.resolve(path.endsWith(".xz") ? concatBytes(bytes, Uint8Array.of(1)) : bytes),
    );
  };

  it("puts each module after what it needs, and leaves out what is built in", async () => {
    const found = await modules({ "a/dm-verity.ko": ["dm-mod", "crc"], "b/dm-mod.ko.xz": ["base"], "base.ko": [], "other.ko": [] }, "kernel/lib/crc.ko\n");
    const closure = await found.closure(["dm_verity", "crc", "base"]);
    expect(closure.map(({ name }) => name)).toEqual(["base", "dm_mod", "dm_verity"]);
    expect(closure[1]?.bytes.at(-1)).toBe(1);
    expect([found.has("crc"), found.has("dm_mod"), found.has("nothing")]).toEqual([true, true, false]);
  });

  it("refuses a module that is missing, and a circle", async () => {
    await expect((await modules({ "a.ko": ["b"] })).closure(["a"])).rejects.toMatchObject({
      code: "ERR_IMAGE_KERNEL",
      message: expect.stringContaining("no module b, which a needs"),
    });
    await expect((await modules({ "a.ko": ["b"], "b.ko": ["a"] })).closure(["a"])).rejects.toMatchObject({
      code: "ERR_IMAGE_KERNEL",
      message: expect.stringContaining("a → b → a"),
    });
  });

  it("reads names and needs", async () => {
    expect(moduleName("kernel/drivers/md/dm-mod.ko.xz")).toBe("dm_mod");
    expect(await moduleNeeds(sampleModule("m", ["x-y", "z"]), "m")).toEqual(["x_y", "z"]);
    expect(await moduleNeeds(sampleModule("m"), "m")).toEqual([]);
    await expect(moduleNeeds(sampleElf(), "m")).rejects.toMatchObject({ code: "ERR_IMAGE_KERNEL" });
  });
});

describe("packages of the machine's apt", () => {
  let directory = "";
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-packages-"));
  });
  afterAll(() => rm(directory, { recursive: true }));
  let debian = new SampleDebian(writeFile, readFile);
  const tools = (): Parameters<typeof resolvePackages>[1] => ({ start: debian.start, directory: join(directory, "cache") });
  beforeEach(() => {
    debian = new SampleDebian(writeFile, readFile);
  });

  it("are chosen by name, the newest kernel in place of the package that names it", async () => {
    const found = await resolvePackages(["libc6", "linux-image-cloud-amd64", "crun"], tools());
    expect(found.map(({ name }) => name)).toEqual(["crun", "libc6", `linux-image-${RELEASE}`]);
    expect(found[0]).toEqual({ name: "crun", version: "1:2.0-1+b1", architecture: "amd64", sha256: debian.packages.get("crun")?.record.sha256 });
  });

  it("are refused if one is unknown, or is no name", async () => {
    await expect(resolvePackages(["crun", "missing"], tools())).rejects.toMatchObject({
      code: "ERR_IMAGE_PACKAGE",
      message: "apt knows no package missing",
      hint: expect.stringContaining("apt-get update"),
    });
    await expect(resolvePackages(["missing"], tools())).rejects.toMatchObject({ code: "ERR_IMAGE_PACKAGE" });
    debian.add("linux-image-amd64", [], "kmod, linux-base");
    await expect(resolvePackages(["linux-image-amd64"], tools())).rejects.toMatchObject({
      code: "ERR_IMAGE_PACKAGE",
      message: expect.stringContaining("depends on no kernel"),
    });
    const before = debian.started.length;
    for (const name of ["--option", "", "A", "a b", "a=1"]) await expect(resolvePackages([name], tools())).rejects.toMatchObject({ code: "ERR_IMAGE_PACKAGE" });
    expect(debian.started.length).toBe(before);
  });

  it("are fetched once, and what lies in the directory is not believed", async () => {
    const packages = await resolvePackages(["crun", "libc6"], tools());
    const files = await fetchPackages(packages, tools());
    expect([...files.keys()].toSorted()).toEqual(["crun", "libc6"]);
    expect(files.get("crun")).toBe(join(directory, "cache", "crun_1%3a2.0-1+b1_amd64.deb"));
    await writeFile(files.get("libc6") ?? "", "something else");
    debian.started.length = 0;
    await fetchPackages(packages, tools());
    expect(debian.started).toEqual(["apt-get download -qq -- libc6=1:2.0-1+b1"]);
    await fetchPackages(packages, tools());
    expect(debian.started.length).toBe(1);
  });

  it("are refused with another hash than the index has, and leave nothing behind", async () => {
    const [crun] = await resolvePackages(["crun"], tools());
    if (crun === undefined) throw new Error("no crun");
    await rm(join(directory, "cache"), { recursive: true });
    const other = { ...crun, sha256: "0".repeat(64) };
    await expect(fetchPackages([other], tools())).rejects.toMatchObject({ code: "ERR_IMAGE_HASH", details: { found: crun.sha256, expected: other.sha256 } });
    expect(await readdir(join(directory, "cache"))).toEqual([]);
    debian.failDownload = new ImageError("ERR_IMAGE_COMMAND", "E: Could not resolve");
    await expect(fetchPackages([crun], tools())).rejects.toMatchObject({
      code: "ERR_IMAGE_FETCH",
      message: expect.stringContaining("Could not resolve"),
      hint: expect.stringContaining("network"),
    });
    expect(await readdir(join(directory, "cache"))).toEqual([]);
    await expect(fetchPackages([crun], { ...tools(), directory: "/proc/nothing" })).rejects.toMatchObject({ code: "ERR_IMAGE_WRITE" });
  });
});
