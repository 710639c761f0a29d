import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { makeDirectory, writeFileAtomic } from "./atomic-file.ts";
import { EndorsementStore } from "./store.ts";
import { TestNetwork } from "./testdata/network.ts";
import { Workplace } from "./testdata/workplace.ts";

const network = new TestNetwork(() => new Error("nobody is asked here"));
const { clock, random } = network;

describe("directories of the store", () => {
  it("are made with those above them, and once by many at a time", async () => {
    using place = new Workplace();
    await Promise.all(Array.from({ length: 20 }, async () => makeDirectory(join(place.directory, "a/b/c"))));
    expect(readdirSync(join(place.directory, "a/b"))).toEqual(["c"]);
    mkdirSync(join(place.directory, "real"));
    symlinkSync("real", join(place.directory, "link"));
    await writeFileAtomic(join(place.directory, "link/x/y"), Uint8Array.of(7), random);
    expect(readFileSync(join(place.directory, "real/x/y"))).toEqual(Buffer.of(7));
  });

  it("are refused if something is in their way, and nothing is made", async () => {
    using place = new Workplace();
    writeFileSync(join(place.directory, "file"), "");
    symlinkSync("nowhere", join(place.directory, "dangling"));
    for (const path of ["file", "file/x/y", "dangling", "dangling/x", "n".repeat(300)]) {
      await expect(makeDirectory(join(place.directory, path)), path).rejects.toMatchObject({ code: "ERR_CERTCACHE_STORE", hint: expect.any(String) as string });
    }
    expect(readdirSync(place.directory).toSorted()).toEqual(["dangling", "file"]);
  });

  it.skipIf(!existsSync("/proc/self"))("are refused where a file system takes none and says ENOENT", async () => {
    const refusal = { code: "ERR_CERTCACHE_STORE", message: expect.stringContaining("/proc takes no new directories") as string };
    await expect(makeDirectory("/proc/certcache/vcek")).rejects.toMatchObject(refusal);
    await expect(writeFileAtomic("/proc/certcache/vcek/x", new Uint8Array(), random)).rejects.toMatchObject(refusal);
  });

  it("of a store are made at once, refused, or made with the first file, as is wanted; a file is refused each time", async () => {
    using place = new Workplace();
    const open = async (name: string, missing?: "make" | "refuse"): Promise<unknown> =>
      EndorsementStore.open({ directory: join(place.directory, name), clock, random, logger: place.logger, ...(missing && { missing }) });
    await open("lazy");
    await expect(open("refused", "refuse")).rejects.toMatchObject({
      code: "ERR_CERTCACHE_STORE",
      message: expect.stringContaining("refused does not exist") as string,
    });
    expect(readdirSync(place.directory)).toEqual([]);
    await open("made", "make");
    await open("made", "refuse");
    expect(readdirSync(place.directory)).toEqual(["made"]);
    writeFileSync(join(place.directory, "file"), "");
    for (const missing of [undefined, "make", "refuse"] as const)
      await expect(open("file", missing)).rejects.toMatchObject({ code: "ERR_CERTCACHE_STORE", message: expect.stringContaining("is no directory") as string });
  });
});
