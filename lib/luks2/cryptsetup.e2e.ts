import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createVolume, cryptSectors, MAX_HEADERS_LENGTH, openVolumeKey, parseHeader } from "./index.ts";

/** The distribution's cryptsetup reads what we write and we read what it writes. It re-encrypts files without device mapper, so that data are judged too. */
const present = ["/usr/sbin/cryptsetup", "/sbin/cryptsetup", "/usr/bin/cryptsetup"].some((path) => existsSync(path));

describe.skipIf(!present)("LUKS2 and cryptsetup (skipped without cryptsetup)", () => {
  const directory = mkdtempSync(join(tmpdir(), "sealpod-luks2-"));
  const file = (name: string): string => join(directory, name);
  const key = randomBytes(32);
  const data = randomBytes(1024 * 1024);
  const cryptsetup = (...args: readonly string[]): string =>
    execFileSync("cryptsetup", ["--batch-mode", ...args], { encoding: "utf8", env: { ...process.env, PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` } });
  const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };

  beforeAll(() => writeFileSync(file("key"), key));
  afterAll(() => rmSync(directory, { recursive: true }));

  it("ours: it opens with the key, has our volume key, and its data decrypt", () => {
    const volume = createVolume({ passphrase: key, random, label: "judged" });
    writeFileSync(file("ours"), Buffer.concat([volume.header, cryptSectors("encrypt", volume.volumeKey, 0, data, 4096)]));
    const dump = cryptsetup("luksDump", file("ours"));
    expect(dump).toContain(volume.uuid);
    expect(dump).toContain("judged");
    cryptsetup("open", "--test-passphrase", "--key-file", file("key"), file("ours"));
    cryptsetup("luksDump", "--dump-volume-key", "--volume-key-file", file("volume-key"), "--key-file", file("key"), file("ours"));
    expect(readFileSync(file("volume-key")).equals(volume.volumeKey)).toBe(true);
    cryptsetup("reencrypt", "--decrypt", "--force-offline-reencrypt", "--header", file("header"), "--key-file", file("key"), file("ours"));
    expect(readFileSync(file("ours")).subarray(0, data.length).equals(data)).toBe(true);
  });

  it("its own: the volume key opens and the data decrypt", async () => {
    writeFileSync(file("theirs"), data);
    truncateSync(file("theirs"), data.length + 32 * 1024 * 1024);
    const format = [
      "--type",
      "luks2",
      "--cipher",
      "aes-xts-plain64",
      "--key-size",
      "512",
      "--sector-size",
      "4096",
      "--pbkdf",
      "pbkdf2",
      "--pbkdf-force-iterations",
      "1000",
    ];
    cryptsetup("reencrypt", "--encrypt", "--reduce-device-size", "32M", ...format, "--key-file", file("key"), file("theirs"));
    const bytes = readFileSync(file("theirs"));
    const header = parseHeader(bytes.subarray(0, MAX_HEADERS_LENGTH));
    const volumeKey = await openVolumeKey(header, key, async (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)));
    const { offset, sectorSize } = header.segment;
    expect(Buffer.from(cryptSectors("decrypt", volumeKey, 0, bytes.subarray(offset, offset + data.length), sectorSize)).equals(data)).toBe(true);
  });
});
