import { generateKeyPairSync, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findSoftHsm, makeToken, type TestToken } from "@sealpod/sealing/testing";
import { readSettings } from "@sealpod/service";
import { changeVaultMasterKey, checkVaultDatabase } from "./index.ts";
import { KEYVAULT_PREFIX } from "./server.ts";
import { KEYVAULT_SETTINGS, type KeyvaultSettings } from "./server-settings.ts";
import { TEE, VaultWorld } from "./testdata/server-process.ts";
import { openRelease } from "./testdata/world.ts";

describe.skipIf(findSoftHsm() === undefined)("key vaults whose master key is in a token (skipped without softhsm2 and opensc)", () => {
  let world: VaultWorld;
  let token: TestToken;
  beforeAll(async () => {
    world = await VaultWorld.make();
    token = makeToken();
    token.generateKey("master", "a1b2");
    token.generateKey("next", "c3d4");
  });
  afterAll(async () => {
    await world.close();
    token.remove();
  });
  const pkcs11 = (change: object = {}): object => ({
    module: token.module,
    token: token.label,
    label: "master",
    pinFile: token.pinFile,
    tool: token.tool,
    ...change,
  });
  const config = (change: object = {}, name?: string): string => world.config({ masterKey: { pkcs11: pkcs11(change) } }, name);
  const read = (path: string): KeyvaultSettings =>
    readSettings(KEYVAULT_SETTINGS, { text: readFileSync(path, "utf8"), name: path, directory: world.directory, env: {}, prefix: KEYVAULT_PREFIX }).value;
  const ports = (): Parameters<typeof checkVaultDatabase>[1] => ({
    clock: { now: () => Date.now() },
    random: { bytes: (length: number) => new Uint8Array(randomBytes(length)) },
    env: token.env,
    uid: process.getuid?.(),
    cwd: "/",
  });

  it("start with it, start again with it, and keep the PIN to themselves", async () => {
    const bytes = randomBytes(32);
    const first = world.start(["--config", config()], token.env);
    const port = await first.listening();
    expect(first.lines.find(({ msg }) => msg === "listening")).toMatchObject({ masterKey: expect.stringMatching(/^rsa:[0-9a-f]{16}$/) });
    await world.grant(port);
    await world.must(port, 200, "PUT", "/keys/app", { body: world.importBody(bytes) });
    await first.kill();
    const second = world.start(["--config", config({ label: undefined, id: "a1b2", pinFile: undefined, pinEnvironment: "TOKEN_PIN" })], token.env);
    const again = await second.listening();
    const { value } = await world.must(again, 200, "POST", "/keys/app/release", { body: { target: world.evidence() } });
    expect((await openRelease(value, TEE)).plaintext.equals(bytes)).toBe(true);
    // A backup is wrapped by the token, and opened by it.
    const backup = await world.must(again, 200, "POST", "/keys/app/backup");
    await world.must(again, 200, "DELETE", "/keys/app");
    await world.must(again, 204, "DELETE", "/deletedkeys/app");
    await world.must(again, 200, "POST", "/keys/restore", { body: { value: backup["value"] } });
    await second.end();
    for (const { stdout, stderr } of [first, second]) expect(stdout + stderr).not.toContain(token.pin);
  });

  it.each<[string, () => object, number, RegExp]>([
    ["a wrong PIN", () => ({ pinFile: world.file("wrong-pin") }), 1, /the PIN is wrong.*ERR_SEALING_PKCS11/s],
    ["no PIN", () => ({ pinFile: world.file("none") }), 2, /PIN .*none/],
    ["another token", () => ({ token: "elsewhere" }), 1, /token is not there/],
    ["another key", () => ({ label: "nobody" }), 1, /no private key with the label nobody/],
    ["the key of another database", () => ({ label: "next" }), 2, /ERR_SEALING_MASTER_KEY/],
    ["a module that is none", () => ({ module: world.file("config.json") }), 1, /module cannot be loaded/],
    ["no pkcs11-tool", () => ({ tool: "pkcs11-tool-of-nobody" }), 1, /pkcs11-tool-of-nobody cannot be started.*opensc/s],
  ])("say so with %s", async (_what, change, code, message) => {
    world.write("wrong-pin", "135791\n");
    const server = world.start(["--config", config(change())], token.env);
    expect(await server.exited).toEqual({ code, signal: null });
    expect(server.stderr).toMatch(message);
    expect(server.stderr).toMatch(/^error: /);
    expect(server.stderr).not.toMatch(/\n\s+at /);
    for (const pin of [token.pin, "135791"]) expect(server.stderr + server.stdout).not.toContain(pin);
  });

  it("do not change to a public key whose private half the token does not have: nothing would open again", async () => {
    const database = { database: "foreign.sqlite" };
    const path = world.config(database, "file.json");
    const server = world.start(["--config", path]);
    await server.listening();
    await server.end();
    world.write("foreign.pem", generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({ type: "spki", format: "pem" }) as string);
    const next = read(world.config({ ...database, masterKey: { pkcs11: pkcs11({ publicKeyFile: "foreign.pem" }) } }, "foreign.json"));
    await expect(changeVaultMasterKey(read(path), next.masterKey, ports())).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    expect(await checkVaultDatabase(read(path), ports())).toMatchObject({ masterKey: expect.stringMatching(/^aes:/), unreadable: [] });
  });

  it("change from a file to the token, and on to another key of it, while a service runs", async () => {
    const database = { database: "moved.sqlite" };
    const before = world.config(database, "before.json");
    const server = world.start(["--config", before]);
    const port = await server.listening();
    await world.grant(port);
    await world.must(port, 200, "PUT", "/secrets/s", { body: { value: "kept" } });
    const inToken = read(world.config({ ...database, masterKey: { pkcs11: pkcs11() } }, "token.json"));
    const inNext = read(world.config({ ...database, masterKey: { pkcs11: pkcs11({ label: "next" }) } }, "next.json"));
    expect(await changeVaultMasterKey(read(before), inToken.masterKey, ports())).toMatchObject({
      from: expect.stringMatching(/^aes:/),
      to: expect.stringMatching(/^rsa:/),
    });
    expect(await changeVaultMasterKey(inToken, inNext.masterKey, ports())).toMatchObject({ wrappingKeys: 1 });
    // It has what it has opened.
    expect(await world.must(port, 200, "GET", "/secrets/s")).toMatchObject({ value: "kept" });
    await world.must(port, 200, "PUT", "/secrets/t", { body: { value: "later" } });
    await server.end();
    const old = world.start(["--config", before]);
    expect((await old.exited).code).toBe(2);
    const moved = world.start(["--config", world.file("next.json")], token.env);
    const next = await moved.listening();
    for (const [name, value] of [
      ["s", "kept"],
      ["t", "later"],
    ]) {
      expect(await world.must(next, 200, "GET", `/secrets/${name ?? ""}`)).toMatchObject({ value });
    }
    await moved.end();
    expect(await checkVaultDatabase(inNext, ports())).toMatchObject({ unreadable: [], damage: [] });
  });
});
