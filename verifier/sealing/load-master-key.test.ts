import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { toBase64, toBase64url, toHex } from "@sealpod/core";
import { loadMasterKey, readMasterKey, type MasterKeySource } from "./load-master-key.ts";

// 0xfb and 0xff make every letter of base64 that the alphabets write differently.
const KEY = Uint8Array.from({ length: 32 }, (_, at) => (at * 37 + 0xfb) & 0xff);
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

describe("readMasterKey", () => {
  it.each<[string, string | Uint8Array]>([
    ["raw bytes", KEY],
    ["hexadecimal", toHex(KEY)],
    ["hexadecimal in capitals with a line end", `${toHex(KEY).toUpperCase()}\n`],
    ["base64", toBase64(KEY)],
    ["base64 without padding", toBase64(KEY).replace("=", "")],
    ["base64url", toBase64url(KEY)],
    ["a file of hexadecimal", text(`${toHex(KEY)}\r\n`)],
    ["a file of base64", text(`${toBase64(KEY)}\n`)],
  ])("takes %s", (_form, input) => {
    expect(readMasterKey(input)).toEqual(KEY);
  });

  it("gives a key of its own, not the caller's bytes", () => {
    const bytes = Uint8Array.from(KEY);
    const key = readMasterKey(bytes);
    bytes.fill(0);
    expect(key).toEqual(KEY);
  });

  it.each<[string, string | Uint8Array]>([
    ["nothing", ""],
    ["31 bytes", KEY.subarray(1)],
    ["33 bytes", Uint8Array.of(...KEY, 10)],
    ["63 digits", toHex(KEY).slice(1)],
    ["66 digits", `${toHex(KEY)}00`],
    ["two line ends", `${toHex(KEY)}\n\n`],
    ["leading space", ` ${toHex(KEY)}`],
    ["base64 of 31 bytes", toBase64(KEY.subarray(1))],
    ["base64 of 33 bytes", toBase64(Uint8Array.of(...KEY, 1))],
    ["base64 with bits left over", `${toBase64(KEY).slice(0, 42)}f=`],
    ["32 digits, which are 16 bytes", text(toHex(KEY.subarray(16)))],
    ["a passphrase of 32 letters", text("correct horse battery staple 123")],
    ["bytes that are no text", Uint8Array.from({ length: 64 }, () => 0xff)],
    ["32 zero bytes", new Uint8Array(32)],
    ["32 equal bytes in hexadecimal", "5a".repeat(32)],
  ])("refuses %s", (_form, input) => {
    expect(() => readMasterKey(input)).toThrow(expect.objectContaining({ code: "ERR_SEALING_MASTER_KEY" }));
  });

  it("never shows what it was given", () => {
    const secret = "correct horse battery staple";
    expect(() => readMasterKey(secret)).toThrow(expect.objectContaining({ message: expect.not.stringContaining("horse"), details: {} }));
  });
});

describe("loadMasterKey", () => {
  let directory: string;
  let file: string;
  const uid = process.getuid?.();
  const load = async (source: MasterKeySource, env: Record<string, string> = {}): Promise<Uint8Array> => loadMasterKey(source, { env, uid });
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-master-key-"));
    file = join(directory, "master.key");
    await writeFile(file, KEY, { mode: 0o600 });
  });
  afterEach(async () => rm(directory, { recursive: true, force: true }));

  it("reads a file that is its user's alone", async () => {
    expect(await load({ file })).toEqual(KEY);
    await chmod(file, 0o400);
    expect(await load({ file })).toEqual(KEY);
  });

  it("follows a link, as mounted secrets have, and checks the file at its end", async () => {
    const link = join(directory, "link");
    await symlink("master.key", link);
    expect(await load({ file: link })).toEqual(KEY);
    await chmod(file, 0o604);
    await expect(load({ file: link })).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY_ACCESS" });
  });

  it.each([0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o777])("refuses mode %o, and says what to do", async (mode) => {
    await chmod(file, mode);
    await expect(load({ file })).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY_ACCESS", hint: expect.stringContaining(`chmod 600 ${file}`) });
  });

  it("lets the group read if it is told so, and nobody else", async () => {
    await chmod(file, 0o440);
    expect(await load({ file, allowGroup: true })).toEqual(KEY);
    await chmod(file, 0o444);
    await expect(load({ file, allowGroup: true })).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY_ACCESS" });
  });

  it("refuses a file of another user, but for root's", async () => {
    const other = { env: {}, uid: (uid ?? 0) + 1 };
    if (uid === 0) expect(await loadMasterKey({ file }, other)).toEqual(KEY);
    else await expect(loadMasterKey({ file }, other)).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY_ACCESS" });
  });

  it("refuses what is no file, is missing, or is too large", async () => {
    await mkdir(join(directory, "d"));
    await expect(load({ file: join(directory, "d") })).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    await expect(load({ file: join(directory, "none") })).rejects.toMatchObject({
      code: "ERR_SEALING_MASTER_KEY",
      hint: expect.stringContaining("openssl rand"),
    });
    await writeFile(file, "a".repeat(2000));
    await expect(load({ file })).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
  });

  it("reads a variable", async () => {
    expect(await load({ environment: "KEY" }, { KEY: toBase64(KEY) })).toEqual(KEY);
    await expect(load({ environment: "KEY" })).rejects.toMatchObject({ message: expect.stringContaining("KEY") });
  });

  it("takes one of the two", async () => {
    await expect(load({})).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    await expect(load({ file, environment: "KEY" }, { KEY: toHex(KEY) })).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
  });
});
