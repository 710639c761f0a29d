import { createHash, createHmac, randomBytes } from "node:crypto";
import { mkdtemp, readFile, readlink, rm, writeFile, mkdir, readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { createVolume } from "@sealpod/luks2";
import { BLOCK, BlockCache, mountImage, openBlob, parseEncfsArguments, readHeader, volumePassphrase, type Device, type MountPorts } from "./index.ts";
import { FakeStorage } from "./testdata/fake-storage.ts";

const encode = (value: unknown): string => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64");
const filesystem = {
  mount_point: "/mnt/remote/data",
  azure_url: "https://account.blob.core.windows.net/c/data.img",
  azure_url_private: true,
  read_write: false,
  key: { kid: "data-key", kty: "oct-HSM", authority: { endpoint: "maa.example" }, akv: { endpoint: "v.managedhsm.azure.net" } },
};

describe("EncfsSideCarArgs", () => {
  it("is read with all of its members", () => {
    const derivation = { salt: "0a0B", label: "mine" };
    const parsed = parseEncfsArguments(
      encode({ azure_info: { certcache: { endpoint_type: "LocalTHIM" } }, azure_filesystems: [{ ...filesystem, key_derivation: derivation }] }),
    );
    expect(JSON.parse(Buffer.from(parsed.sidecar, "base64").toString())).toEqual({ certcache: { endpoint_type: "LocalTHIM" } });
    expect(parsed.filesystems).toEqual([
      {
        mountPoint: "/mnt/remote/data",
        url: filesystem.azure_url,
        isPrivate: true,
        isWritable: false,
        key: { kind: "released", kid: "data-key", kty: "oct-HSM", attestation: "maa.example", vault: "v.managedhsm.azure.net" },
        derivation: { salt: Uint8Array.of(10, 11), label: "mine" },
      },
    ]);
  });

  it("has the known tool's label where none is said", () => {
    const [first] = parseEncfsArguments(encode({ azure_filesystems: [filesystem] })).filesystems;
    expect(first?.derivation).toEqual({ salt: new Uint8Array(), label: "Symmetric Encryption Key" });
  });

  it.each<[string, unknown, string]>([
    ["nothing", "", "is not set"],
    ["no base64", "%%%", "base64"],
    ["no JSON", encode("{"), "base64 of JSON"],
    ["no filesystems", encode({}), "azure_filesystems"],
    ["an empty list", encode({ azure_filesystems: [] }), "azure_filesystems"],
    ["a relative mount point", encode({ azure_filesystems: [{ ...filesystem, mount_point: "mnt" }] }), "mount_point"],
    ["a mount point that climbs", encode({ azure_filesystems: [{ ...filesystem, mount_point: "/mnt/../etc" }] }), "mount_point"],
    ["the root as mount point", encode({ azure_filesystems: [{ ...filesystem, mount_point: "/" }] }), "mount_point"],
    ["plain HTTP", encode({ azure_filesystems: [{ ...filesystem, azure_url: "http://account/c" }] }), "azure_url"],
    ["a file", encode({ azure_filesystems: [{ ...filesystem, azure_url: "file:///etc/shadow" }] }), "azure_url"],
    ["no key", encode({ azure_filesystems: [{ ...filesystem, key: undefined }] }), "key is missing"],
    ["no vault", encode({ azure_filesystems: [{ ...filesystem, key: { ...filesystem.key, akv: undefined } }] }), "key.akv"],
    ["an EC key", encode({ azure_filesystems: [{ ...filesystem, key: { ...filesystem.key, kty: "EC" } }] }), "key.kty"],
    ["two keys", encode({ azure_filesystems: [{ ...filesystem, raw_key: "00" }] }), "both"],
    ["salt that is no hex", encode({ azure_filesystems: [{ ...filesystem, key_derivation: { salt: "xyz" } }] }), "salt"],
    ["one mount point twice", encode({ azure_filesystems: [filesystem, filesystem] }), "two filesystems"],
    ["a mount point in another", encode({ azure_filesystems: [filesystem, { ...filesystem, mount_point: "/mnt/remote/data/more" }] }), "in the other"],
    ["read_write as text", encode({ azure_filesystems: [{ ...filesystem, read_write: "true" }] }), "read_write"],
  ])("refuses %s, and says where", (_what, text, part) => {
    expect(() => parseEncfsArguments(String(text))).toThrow(
      expect.objectContaining({ code: "ERR_ENCFS_CONFIGURATION", message: expect.stringContaining(part) }),
    );
  });
});

describe("the key of a volume", () => {
  const derivation = { salt: Uint8Array.of(1, 2), label: "Symmetric Encryption Key" };

  it("is the bytes of a symmetric key", () => {
    const key = randomBytes(32);
    expect(Buffer.from(volumePassphrase({ kty: "oct", k: key.toString("base64url") }, derivation))).toEqual(key);
  });

  it("is derived from the private exponent of an RSA key (RFC 5869)", () => {
    const d = randomBytes(256);
    const extracted = createHmac("sha256", derivation.salt).update(d).digest();
    const expanded = createHmac("sha256", extracted).update(derivation.label).update(Uint8Array.of(1)).digest();
    expect(Buffer.from(volumePassphrase({ kty: "RSA", d: d.toString("base64url") }, derivation))).toEqual(expanded);
    expect(Buffer.from(volumePassphrase({ kty: "RSA", d: d.toString("base64url") }, { ...derivation, label: "other" }))).not.toEqual(expanded);
  });

  it.each([
    ["an EC key", { kty: "EC", d: "AAAA" }],
    ["a public key", { kty: "RSA", n: "AAAA", e: "AQAB" }],
    ["a short key", { kty: "oct", k: "AAAA" }],
  ])("is not made of %s", (_what, jwk) => {
    expect(() => volumePassphrase(jwk, derivation)).toThrow(expect.objectContaining({ code: "ERR_ENCFS_KEY" }));
  });
});

describe("a blob", () => {
  const content = new Uint8Array(randomBytes(3 * BLOCK + 700 * 512));

  it("is read by blocks, each fetched once while it is kept", async () => {
    const storage = new FakeStorage(content);
    const device = new BlockCache(await openBlob(storage.url, false, storage.ports()), 2);
    expect(device.length).toBe(content.length);
    expect(await device.read(BLOCK - 5, 10)).toEqual(content.subarray(BLOCK - 5, BLOCK + 5));
    expect(await device.read(0, 2 * BLOCK)).toEqual(content.subarray(0, 2 * BLOCK));
    expect(storage.requests.map(({ headers }) => headers["range"])).toEqual([undefined, `bytes=0-${BLOCK - 1}`, `bytes=${BLOCK}-${2 * BLOCK - 1}`]);
    expect(await device.read(content.length - 3, 3)).toEqual(content.subarray(-3));
    await device.read(0, 1);
    // The oldest of two kept blocks had gone.
    expect(storage.requests).toHaveLength(5);
  });

  it("that changes while it is read is an error, not another file", async () => {
    const storage = new FakeStorage(content);
    const device = new BlockCache(await openBlob(storage.url, false, storage.ports()));
    await device.read(0, 1);
    storage.version++;
    await expect(device.read(BLOCK, 1)).rejects.toMatchObject({
      code: "ERR_ENCFS_BLOB",
      message: expect.stringContaining("412 ConditionNotMet"),
      hint: expect.stringContaining("changed"),
    });
  });

  it("is written through, in pages", async () => {
    const storage = new FakeStorage(Uint8Array.from(content));
    storage.type = "PageBlob";
    const device = new BlockCache(await openBlob(storage.url, true, storage.ports()));
    const model = Uint8Array.from(content);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: content.length / 512 - 1 }), fc.integer({ min: 1, max: 1100 }), fc.boolean(), async (page, pages, writes) => {
        const offset = page * 512;
        const length = Math.min(pages * 512, content.length - offset);
        if (writes) {
          const bytes = new Uint8Array(randomBytes(length));
          model.set(bytes, offset);
          await Promise.all([device.write(offset, bytes), device.read(offset, length)]);
        } else expect(await device.read(offset, length)).toEqual(model.subarray(offset, offset + length));
      }),
      { numRuns: 60 },
    );
    expect(storage.bytes).toEqual(model);
    expect(await device.read(0, content.length)).toEqual(model);
  });

  it("does not keep what could not be written", async () => {
    const storage = new FakeStorage(new Uint8Array(BLOCK));
    storage.type = "PageBlob";
    const device = new BlockCache(await openBlob(storage.url, true, storage.ports()));
    await device.read(0, 512);
    storage.troubles.push(400);
    await expect(device.write(0, new Uint8Array(512).fill(7))).rejects.toMatchObject({ code: "ERR_ENCFS_BLOB" });
    expect(await device.read(0, 512)).toEqual(new Uint8Array(512));
  });

  it("is asked for again when the service is busy, with growing pauses, and not when it refuses", async () => {
    const storage = new FakeStorage(content);
    storage.troubles.push(503, 0, 429);
    await openBlob(storage.url, false, storage.ports());
    expect(storage.waits).toEqual([1000, 2000, 4000]);
    storage.troubles.push(404);
    await expect(openBlob(storage.url, false, storage.ports())).rejects.toMatchObject({ code: "ERR_ENCFS_BLOB", message: expect.stringContaining("404") });
    storage.troubles.push(500, 500, 500, 500, 500, 500);
    await expect(openBlob(storage.url, false, storage.ports())).rejects.toMatchObject({ message: expect.stringContaining("500") });
    expect(storage.troubles).toEqual([]);
  });

  it("is read with an access token where it is private", async () => {
    const storage = new FakeStorage(content);
    storage.token = "the-token";
    await openBlob(
      storage.url,
      false,
      storage.ports(async () => Promise.resolve("the-token")),
    );
    await expect(openBlob(storage.url, false, storage.ports())).rejects.toMatchObject({ hint: expect.stringContaining("Storage Blob Data Reader") });
  });

  it("is not named with the secret in its URL", async () => {
    const storage = new FakeStorage(content);
    for (const trouble of [400, 403, 404]) {
      storage.troubles.push(trouble);
      await expect(openBlob(storage.url, false, storage.ports())).rejects.toMatchObject({ message: expect.not.stringContaining("SECRET") });
    }
  });

  it("of the wrong type is not written", async () => {
    const storage = new FakeStorage(content);
    await expect(openBlob(storage.url, true, storage.ports())).rejects.toMatchObject({ message: expect.stringContaining("BlockBlob") });
  });
});

describe("the header of an image", () => {
  const key = new Uint8Array(randomBytes(32));
  const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };
  const { header } = createVolume({ passphrase: key, random });
  const image = (change?: (metadata: string) => string): Uint8Array => {
    const bytes = new Uint8Array(Buffer.concat([header, new Uint8Array(4096)]));
    if (change === undefined) return bytes;
    for (const offset of [0, 16_384]) {
      const copy = bytes.subarray(offset, offset + 16_384);
      const text = Buffer.from(copy.subarray(4096)).toString().replace(/\0+$/, "");
      copy.fill(0, 4096);
      copy.set(Buffer.from(change(text)), 4096);
      copy.fill(0, 448, 512);
      copy.set(createHash("sha256").update(copy).digest(), 448);
    }
    return bytes;
  };
  const deviceOf = (bytes: Uint8Array): Device => ({
    length: bytes.length,
    read: async (offset, length) => Promise.resolve(bytes.slice(offset, offset + length)),
    write: async () => Promise.resolve(),
  });

  it("is given to cryptsetup as it was read", async () => {
    expect(Buffer.from(await readHeader(deviceOf(image()))).equals(header)).toBe(true);
  });

  it.each([
    ["a null cipher", (text: string) => text.replace('"encryption":"aes-xts-plain64","sector_size"', '"encryption":"cipher_null-ecb","sector_size"')],
    ["a segment that is not encrypted", (text: string) => text.replace('"type":"crypt"', '"type":"linear"')],
    ["data behind the end", (text: string) => text.replace('"offset":"16777216"', '"offset":"33554432"')],
  ])("is refused with %s, which the right key would open", async (_what, change) => {
    await expect(readHeader(deviceOf(image(change)))).rejects.toMatchObject({ code: "ERR_ENCFS_MOUNT" });
  });

  it("is the one that was checked, though the host answers otherwise the second time", async () => {
    const [good, bad] = [image(), image((text) => text.replace('"type":"crypt"', '"type":"linear"'))];
    let reads = 0;
    const device = {
      ...deviceOf(good),
      read: async (offset: number, length: number) => Promise.resolve((reads++ === 0 ? good : bad).slice(offset, offset + length)),
    };
    expect(
      Buffer.from(await readHeader(device))
        .subarray(0, 32_768)
        .equals(header.subarray(0, 32_768)),
    ).toBe(true);
  });
});

describe("mounting", () => {
  let root: string;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "sealpod-mount-"));
  });
  afterEach(async () => rm(root, { recursive: true }));

  const passphrase = new Uint8Array(32).fill(9);
  const world = (failing?: string): { readonly ports: MountPorts; readonly calls: string[]; readonly inputs: (Uint8Array | undefined)[] } => {
    const calls: string[] = [];
    const inputs: (Uint8Array | undefined)[] = [];
    const ports: MountPorts = {
      logger: silentLogger,
      freeDevices: async () => Promise.resolve(["nbd0", "nbd1"]),
      run: async (command, args, input) => {
        const line = [command, ...args].join(" ");
        calls.push(line.replaceAll(root, ""));
        inputs.push(input);
        if (command === "cryptsetup" && args[0] === "open") expect(new Uint8Array(await readFile(join(root, "header")))).toEqual(header);
        if (failing !== undefined && line.includes(failing)) throw new Error(`${command}: No key available with this passphrase.`);
        return Promise.resolve();
      },
    };
    return { ports, calls, inputs };
  };
  const header = new Uint8Array([1, 2, 3]);
  const request = (): Parameters<typeof mountImage>[0] => ({
    index: 3,
    socket: "/run/s",
    header,
    headerFile: join(root, "header"),
    passphrase,
    mountPoint: join(root, "mnt/data"),
    isWritable: false,
  });

  it("attaches, opens, mounts and links, and takes it back in reverse order", async () => {
    const { ports, calls, inputs } = world();
    const mounted = await mountImage(request(), ports);
    expect(await readlink(join(root, "mnt/data"))).toBe(join(root, "mnt/.filesystem-3"));
    expect(calls).toEqual([
      "nbd-client -unix /run/s /dev/nbd0 -b 4096 -readonly",
      "cryptsetup open --type luks2 --batch-mode --disable-keyring --readonly --header /header --key-file - /dev/nbd0 remote-crypt-3",
      "mount -t ext4 -o nodev,nosuid,ro,noload /dev/mapper/remote-crypt-3 /mnt/.filesystem-3",
    ]);
    expect(inputs[1]).toBe(passphrase);
    await mounted.unmount();
    expect(calls.slice(3)).toEqual(["umount /mnt/.filesystem-3", "cryptsetup close remote-crypt-3", "nbd-client -d /dev/nbd0"]);
    expect(await readdir(join(root, "mnt"))).toEqual([]);
  });

  it("takes the next device if one was taken meanwhile", async () => {
    const { ports, calls } = world("/dev/nbd0");
    const mounted = await mountImage({ ...request(), isWritable: true }, ports);
    expect(calls[1]).toBe("nbd-client -unix /run/s /dev/nbd1 -b 4096");
    expect(calls[3]).toContain("nodev,nosuid,rw ");
    await mounted.unmount();
  });

  it.each([
    ["cryptsetup open", ["nbd-client -d /dev/nbd0"]],
    ["mount -t", ["cryptsetup close remote-crypt-3", "nbd-client -d /dev/nbd0"]],
  ])("takes back what it had done when `%s` fails", async (failing, undone) => {
    const { ports, calls } = world(failing);
    await expect(mountImage(request(), ports)).rejects.toMatchObject({ code: "ERR_ENCFS_MOUNT", hint: expect.stringContaining("opens none of") });
    const at = calls.findIndex((call) => call.includes(failing));
    expect(calls.slice(at + 1)).toEqual(undone);
    expect(await readdir(join(root, "mnt")).catch(() => [])).toEqual([]);
  });

  it("does not put a link where somebody's files are, but where its own old link is", async () => {
    await mkdir(join(root, "mnt/data"), { recursive: true });
    await writeFile(join(root, "mnt/data/file"), "mine");
    const { ports, calls } = world();
    await expect(mountImage(request(), ports)).rejects.toMatchObject({ code: "ERR_ENCFS_MOUNT" });
    expect(calls.at(-1)).toBe("nbd-client -d /dev/nbd0");
    expect(await readdir(join(root, "mnt/data"))).toEqual(["file"]);
    await rm(join(root, "mnt"), { recursive: true });
    await mountImage(request(), ports);
    // The one before was killed and could not take its link along.
    await (await mountImage(request(), ports)).unmount();
  });

  it("says what the kernel lacks if there is no device", async () => {
    const { ports } = world();
    await expect(mountImage(request(), { ...ports, freeDevices: async () => Promise.resolve([]) })).rejects.toMatchObject({
      hint: expect.stringContaining("module nbd"),
    });
  });
});
