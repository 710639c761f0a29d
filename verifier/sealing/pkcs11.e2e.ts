import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Random } from "@sealpod/core";
import { openDatabase } from "@sealpod/storage";
import { KEY_RING_MIGRATION, masterKeyOfBytes, masterKeyProvider, openKeyRing, type MasterKeyProvider, type Pkcs11Source } from "./index.ts";
import { findSoftHsm, makeToken, type TestToken } from "./testing.ts";

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };
const clock = { now: () => 1_700_000_000_000 };
const KEY = Uint8Array.from({ length: 32 }, (_, at) => at);

describe.skipIf(findSoftHsm() === undefined)("a master key in a token (skipped without softhsm2 and opensc)", () => {
  let token: TestToken;
  let source: Pkcs11Source;
  beforeAll(() => {
    token = makeToken();
    token.generateKey("another", "02");
    token.generateKey("master", "a1b2");
    token.generateKey("twice", "05");
    token.generateKey("twice", "06");
    token.generateKey("small", "07", 1024);
  });
  afterAll(() => token.remove());
  beforeEach(() => {
    source = { module: token.module, token: token.label, label: "master", pinFile: token.pinFile, tool: token.tool };
  });
  const open = async (changes: Partial<Pkcs11Source> = {}, env: Readonly<Record<string, string>> = token.env): Promise<MasterKeyProvider> =>
    masterKeyProvider({ pkcs11: { ...source, ...changes } }, { env, uid: process.getuid?.(), random });

  it("wraps in process, unwraps in the token, and is bound to the place", async () => {
    const master = await open();
    expect(master.id).toMatch(/^rsa:[0-9a-f]{16}$/);
    const wrapped = await master.wrap(KEY, "wrapping key 1");
    expect(await master.unwrap(wrapped, "wrapping key 1")).toEqual(KEY);
    await expect(master.unwrap(wrapped, "wrapping key 2")).rejects.toMatchObject({
      code: "ERR_SEALING_MASTER_KEY",
      message: expect.stringContaining(master.id),
    });
    expect(Buffer.from(wrapped).includes(Buffer.from(KEY))).toBe(false);
    expect(await master.wrap(KEY, "wrapping key 1")).not.toEqual(wrapped);
  });

  it("finds its key by label, and takes no other one of the token", async () => {
    const [master, byId, other] = await Promise.all([open(), open({ label: undefined, id: "A1B2" }), open({ label: "another" })]);
    expect(byId.id).toBe(master.id);
    expect(other.id).not.toBe(master.id);
    const wrapped = await master.wrap(KEY, "a");
    expect(await byId.unwrap(wrapped, "a")).toEqual(KEY);
    await expect(other.unwrap(wrapped, "a")).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY", cause: { message: expect.stringContaining(master.id) } });
    // The same public key, told by a file, and another private one.
    const pem = join(token.directory, "master.pem");
    const { createPublicKey } = await import("node:crypto");
    const { spawnSync } = await import("node:child_process");
    const login = ["--module", token.module, "--token-label", token.label, "--login", "--pin", "env:TOKEN_PIN"];
    const der = spawnSync(token.tool, [...login, "--read-object", "--type", "pubkey", "--id", "a1b2"], { env: token.env }).stdout;
    writeFileSync(pem, createPublicKey({ key: der, format: "der", type: "spki" }).export({ type: "spki", format: "pem" }));
    const mixed = await open({ label: undefined, id: "02", publicKeyFile: pem });
    expect(mixed.id).toBe(master.id);
    await expect(mixed.unwrap(wrapped, "a")).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    const given = await open({ publicKeyFile: pem });
    expect(await given.unwrap(await given.wrap(KEY, "a"), "a")).toEqual(KEY);
  });

  it("does not open what was changed, wherever", async () => {
    const master = await open();
    const wrapped = await master.wrap(KEY, "a");
    // Version, hash, name, length, RSA ciphertext at both ends, nonce, ciphertext, tag.
    for (const at of [0, 1, 2, 10, 11, 12, 100, 267, 268, 285, 313, wrapped.length - 1]) {
      const changed = Uint8Array.from(wrapped);
      changed[at] = (changed[at] ?? 0) ^ 1;
      await expect(master.unwrap(changed, "a"), `byte ${at}`).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    }
    for (const length of [0, 1, 11, 12, 268, 295, wrapped.length - 1]) {
      await expect(master.unwrap(wrapped.subarray(0, length), "a"), `${length} bytes`).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    }
  });

  it("is found by several processes at once, and while its module is not ready", async () => {
    const masters = await Promise.all(Array.from({ length: 6 }, async () => open()));
    expect(new Set(masters.map(({ id }) => id)).size).toBe(1);
    // Fails as the tool does when it does not see the token, twice.
    const tool = join(token.directory, "blind-tool");
    const counter = join(token.directory, "looks");
    const notSeen = (at: number, said: string) => `[ $(wc -l < ${counter}) -ne ${at} ] || { echo '${said}' >&2; exit 1; }\n`;
    const script =
      `echo x >> ${counter}\n${notSeen(1, 'No slot with token named "vault" found')}` +
      `${notSeen(2, "error: PKCS11 function C_Login failed: rv = CKR_USER_PIN_NOT_INITIALIZED (0x102)")}exec ${token.tool} "$@"\n`;
    writeFileSync(tool, `#!/bin/sh\n${script}`, { mode: 0o755 });
    expect((await open({ tool })).id).toBe(masters[0]?.id);
    expect(readFileSync(counter, "utf8")).toBe("x\n".repeat(4));
  });

  it("takes the PIN from a variable as well", async () => {
    const master = await open({ pinFile: undefined, pinEnvironment: "TOKEN_PIN" });
    expect(await master.unwrap(await master.wrap(KEY, "a"), "a")).toEqual(KEY);
  });

  it("says that a wrong PIN is wrong, and tries it once", async () => {
    await expect(open({ pinFile: undefined, pinEnvironment: "WRONG" }, { ...token.env, WRONG: "999999" })).rejects.toMatchObject({
      code: "ERR_SEALING_PKCS11",
      message: expect.stringContaining("the PIN is wrong"),
      details: { reason: "pin" },
    });
    const good = await open();
    const wrapped = await good.wrap(KEY, "a");
    // Counts how often the tool is started.
    const counter = join(token.directory, "counter");
    const tool = join(token.directory, "counting-tool");
    writeFileSync(tool, `#!/bin/sh\necho x >> ${counter}\nexec ${token.tool} "$@"\n`, { mode: 0o755 });
    const pem = join(token.directory, "master.pem");
    const lazy = await open(
      { label: undefined, id: "a1b2", publicKeyFile: pem, pinFile: undefined, pinEnvironment: "WRONG", tool },
      { ...token.env, WRONG: "999999" },
    );
    for (let round = 0; round < 3; round++) {
      await expect(lazy.unwrap(wrapped, "a")).rejects.toMatchObject({ details: { reason: "pin" }, message: expect.not.stringContaining("999999") });
    }
    expect(readFileSync(counter, "utf8")).toBe("x\n");
    expect(await good.unwrap(wrapped, "a")).toEqual(KEY);
  });

  it.each<[string, Partial<Pkcs11Source>, string]>([
    ["module", { module: "/nonexistent/module.so" }, "module"],
    ["loadable module", { module: "/etc/passwd" }, "module"],
    ["token", { token: "other" }, "token"],
    ["label", { label: "other" }, "key"],
    ["unique label", { label: "twice" }, "key"],
    ["id", { label: undefined, id: "ff" }, "key"],
    ["key that is large enough", { label: "small" }, "key"],
    ["tool", { tool: "/nonexistent/pkcs11-tool" }, "tool"],
    ["tool that may be started", { tool: "/etc/passwd" }, "tool"],
    ["PIN in that variable", { pinFile: undefined, pinEnvironment: "NONE" }, "pin"],
    ["label and id", { id: "02" }, "key"],
    ["one PIN", { pinEnvironment: "TOKEN_PIN" }, "key"],
    ["public key in that file", { publicKeyFile: "/etc/passwd" }, "key"],
  ])("says that there is no such %s", async (_what, changes, reason) => {
    await expect(open(changes)).rejects.toMatchObject({ code: "ERR_SEALING_PKCS11", details: { reason }, message: expect.not.stringContaining(token.pin) });
  });

  it("says that the module does not start without its configuration", async () => {
    await expect(open({}, { ...token.env, SOFTHSM2_CONF: "/nonexistent" })).rejects.toMatchObject({
      code: "ERR_SEALING_PKCS11",
      details: { reason: "module" },
    });
  });

  it("says that the token does not do OAEP with another hash", async () => {
    const master = await open({ hash: "sha256" });
    await expect(master.unwrap(await master.wrap(KEY, "a"), "a")).rejects.toMatchObject({ code: "ERR_SEALING_PKCS11" });
    // What was wrapped with the other hash says so itself.
    expect(await master.unwrap(await (await open()).wrap(KEY, "a"), "a")).toEqual(KEY);
  });

  it("refuses a file of the PIN that others can read", async () => {
    const file = join(token.directory, "open-pin");
    writeFileSync(file, token.pin, { mode: 0o644 });
    await expect(open({ pinFile: file })).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY_ACCESS" });
  });

  it("does not wait for ever, and leaves no process behind", async () => {
    const tool = join(token.directory, "hanging-tool");
    const pidFile = join(token.directory, "hanging-pid");
    writeFileSync(tool, `#!/bin/sh\necho $$ > ${pidFile}\nexec sleep 1000\n`, { mode: 0o755 });
    await expect(open({ tool, time: 2000 })).rejects.toMatchObject({ code: "ERR_SEALING_PKCS11", details: { reason: "time" } });
    const pid = Number(readFileSync(pidFile, "utf8"));
    expect(pid).toBeGreaterThan(1);
    expect(() => process.kill(pid, 0)).toThrow();
  });

  it("tells the child the PIN and no other secret, and nobody its arguments", async () => {
    const tool = join(token.directory, "spying-tool");
    const seen = join(token.directory, "seen");
    writeFileSync(tool, `#!/bin/sh\n{ echo "$@"; env; } > ${seen}\nexec ${token.tool} "$@"\n`, { mode: 0o755 });
    await open({ tool, variables: ["MODULE_SETTING"] }, { ...token.env, DATABASE_URL: "postgres://a:secret@b/c", MODULE_SETTING: "yes" });
    const [args = "", ...env] = readFileSync(seen, "utf8").split("\n");
    expect(args).not.toContain(token.pin);
    expect(env.filter((line) => line.includes(token.pin))).toHaveLength(1);
    expect(env).toContain("MODULE_SETTING=yes");
    expect(env.join("\n")).not.toContain("secret");
    rmSync(seen);
  });

  it("holds a ring of wrapping keys, takes it over from a file, and gives it back", async () => {
    await using database = await openDatabase({ url: ":memory:", migrations: [KEY_RING_MIGRATION] });
    const file = masterKeyOfBytes(random.bytes(32), random);
    const token1 = await open();
    const ring = await openKeyRing({ database, master: file, random, clock });
    const first = ring.seal(KEY, "a");
    await ring.rotate();
    await ring.changeMaster(token1);
    const second = ring.seal(KEY, "b");
    const backup = await ring.sealBackup(KEY, "c");
    expect(ring.keys.map(({ master }) => master)).toEqual([token1.id, token1.id]);
    const again = await openKeyRing({ database, master: await open(), random, clock });
    expect(await Promise.all([again.open(first.sealed, "a"), again.open(second.sealed, "b"), again.openBackup(backup, "c")])).toEqual([KEY, KEY, KEY]);
    await expect(openKeyRing({ database, master: file, random, clock })).rejects.toMatchObject({
      code: "ERR_SEALING_MASTER_KEY",
      message: expect.stringContaining(token1.id),
    });
    const other = await open({ label: "another" });
    await again.changeMaster(other);
    await again.changeMaster(file);
    expect(await (await openKeyRing({ database, master: file, random, clock })).open(first.sealed, "a")).toEqual(KEY);
  });

  it("leaves nothing in the token", () => {
    expect(readdirSync(join(token.directory, "tokens"))).toHaveLength(1);
  });
});
