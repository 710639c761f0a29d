import { X509Certificate } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Clock } from "@sealpod/core";
import { systemRandom } from "@sealpod/io";
import { Authority, type ServerName } from "./authority.ts";

const NOW = Date.UTC(2026, 10, 22);
const DAY = 24 * 60 * 60 * 1000;
const VAULT: ServerName = { file: "vault", name: "*.vault.sealpod.internal", key: "rsa-2048" };
const LOGIN: ServerName = { file: "login", name: "login.sealpod.internal", key: "p256" };
const at = (time: number): Clock => ({ now: () => time });

describe("the laptop's certificate authority", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-ca-"));
  });
  afterEach(async () => rm(directory, { recursive: true, force: true }));

  it("issues certificates that OpenSSL takes for their names alone", async () => {
    const authority = await Authority.open(directory, at(NOW), systemRandom);
    const root = new X509Certificate(authority.root.der);
    const { chain, key } = await authority.server(VAULT);
    const leaf = new X509Certificate(chain[0]?.der ?? new Uint8Array());
    expect(leaf.checkIssued(root) && leaf.verify(root.publicKey)).toBe(true);
    expect(leaf.ca).toBe(false);
    expect(leaf.checkPrivateKey(key)).toBe(true);
    expect(leaf.checkHost("demo.vault.sealpod.internal")).toBeDefined();
    expect(leaf.checkHost("a.demo.vault.sealpod.internal")).toBeUndefined();
    expect(leaf.checkHost("login.sealpod.internal")).toBeUndefined();
    expect(key.asymmetricKeyType).toBe("rsa");
    expect((await authority.server(LOGIN)).key.asymmetricKeyType).toBe("ec");
    expect(root.subject).toContain("NO hardware protection");
  });

  it("opens what it made, and says so in ca.crt", async () => {
    const first = await Authority.open(directory, at(NOW), systemRandom);
    const issued = await first.server(LOGIN);
    const second = await Authority.open(directory, at(NOW + DAY), systemRandom);
    expect(second.root.der).toEqual(first.root.der);
    expect((await second.server(LOGIN)).chain).toEqual(issued.chain);
    expect(new X509Certificate(await readFile(join(directory, "ca.crt"))).raw).toEqual(Buffer.from(first.root.der));
  });

  it.each<[string, number, ServerName]>([
    ["ends in less than thirty days", 336 * DAY, LOGIN],
    ["is for another name", 0, { ...LOGIN, name: "login.example.internal" }],
    ["has a key of another type", 0, { ...LOGIN, key: "rsa-2048" }],
  ])("replaces a certificate that %s", async (_why, later, name) => {
    const first = await (await Authority.open(directory, at(NOW), systemRandom)).server(LOGIN);
    const second = await (await Authority.open(directory, at(NOW + later), systemRandom)).server(name);
    expect(second.chain[0]?.serial).not.toBe(first.chain[0]?.serial);
    expect(second.chain[0]?.subjectAltName).toEqual([{ kind: "dns", value: name.name }]);
  });

  it("replaces a certificate of another root", async () => {
    const first = await (await Authority.open(directory, at(NOW), systemRandom)).server(LOGIN);
    await rm(join(directory, "root.pem"));
    const second = await (await Authority.open(directory, at(NOW), systemRandom)).server(LOGIN);
    expect(second.chain[1]?.der).not.toEqual(first.chain[1]?.der);
  });

  it.each(["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])("refuses %j in place of its file, and keeps it", async (text) => {
    await writeFile(join(directory, "root.pem"), text);
    await expect(Authority.open(directory, at(NOW), systemRandom)).rejects.toMatchObject({ code: "ERR_SERVICES_STATE" });
    expect(await readFile(join(directory, "root.pem"), "utf8")).toBe(text);
  });

  it("refuses a key that does not belong to its certificate", async () => {
    const authority = await Authority.open(directory, at(NOW), systemRandom);
    await authority.server(LOGIN);
    const [root, login] = await Promise.all(["root.pem", "login.pem"].map((name) => readFile(join(directory, name), "utf8")));
    const key = login?.slice(0, login.indexOf("-----BEGIN CERTIFICATE-----")) ?? "";
    await writeFile(join(directory, "root.pem"), key + (root?.slice(root.indexOf("-----BEGIN CERTIFICATE-----")) ?? ""));
    await expect(Authority.open(directory, at(NOW), systemRandom)).rejects.toMatchObject({ message: expect.stringContaining("does not belong") });
  });
});
