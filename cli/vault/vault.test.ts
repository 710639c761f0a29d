import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { fromHex } from "@sealpod/core";
import { openVaultStore, type AuditLine } from "@sealpod/keyvault";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";
import { openOwner, readDevelopmentIdentity } from "./development.ts";

const START = Date.UTC(2026, 10, 22);
const KEY = "0123456789abcdef".repeat(4);
const OTHER = "fedcba9876543210".repeat(4);
const TENANT = "11111111-2222-4333-8444-555555555555";
const SECRETS = 70;

let directory: string;
const file = (name: string): string => join(directory, name);
const random = { bytes: (length: number): Uint8Array => crypto.getRandomValues(new Uint8Array(length)) };

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly json: () => Record<string, unknown>;
}

async function vault(argv: readonly string[], own: { readonly env?: Readonly<Record<string, string>>; readonly isTerminal?: boolean } = {}): Promise<Ran> {
  const written = { stdout: "", stderr: "" };
  const context: CliContext = {
    env: { HOME: directory, ...own.env },
    cwd: directory,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: own.isTerminal === true, write: (text) => void (written.stderr += text) },
    clock: { now: () => START },
    elapsed: () => 0,
    random,
    signal: new AbortController().signal,
  };
  const exit = await runCli(["vault", ...argv], context);
  return { exit, ...written, json: () => JSON.parse(written.stdout) as Record<string, unknown> };
}

function line(operation: string, name: string): AuditLine {
  const who = { tenantId: TENANT, appid: "the-app", oid: "" };
  const what = { vault: "demo", operation, name, version: "" };
  return { requestId: `r ${name}`, at: START, ...what, ...who, outcome: "allowed", failed: undefined, reason: "", authority: "", findings: [] };
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-vault-cli-"));
  writeFileSync(file("master.key"), KEY, { mode: 0o600 });
  writeFileSync(file("new.key"), OTHER, { mode: 0o600 });
  const config = {
    domain: "vault.test",
    vaults: [{ name: "demo", kind: "vault", administrators: [{ tenantId: TENANT, id: TENANT }] }],
    issuers: [{ issuer: "https://login.test", tenantId: TENANT, authorization: "https://login.test" }],
    tls: { cert: "tls.crt", key: "tls.key" },
    database: "vault.sqlite",
    masterKey: { file: "master.key" },
  };
  writeFileSync(file("vault.json"), JSON.stringify(config));
  writeFileSync(file("next.json"), JSON.stringify({ ...config, masterKey: { environment: "NEXT" } }));
  await using store = await openVaultStore({ url: file("vault.sqlite"), master: fromHex(KEY), clock: { now: () => START }, random });
  const fresh = { vault: "demo", contentType: undefined, enabled: true, notBefore: undefined, expires: undefined, tags: {} };
  for (let at = 0; at < SECRETS; at++) await store.setSecret({ ...fresh, name: `s-${at}`, value: `value ${at}` }, line("secrets/set", `s-${at}`));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe("sealpod vault check", () => {
  it("says that everything opens, and counts it", async () => {
    const { exit, stdout, stderr } = await vault(["check", "--config", "vault.json"]);
    expect({ exit, stderr }).toEqual({ exit: EXIT.ok, stderr: "" });
    expect(stdout).toContain(`database      ${file("vault.sqlite")}\n`);
    expect(stdout).toMatch(/wrapping key {2}1, made 2026-11-22T.*, seals 70 records\n/);
    expect(stdout).toContain("secrets       70 in 70 versions\n");
    expect(stdout).toContain("Every key and secret opens.\n");
    const { json } = await vault(["check", "--config", "vault.json", "--json"]);
    expect(json()).toMatchObject({ ok: true, counts: { secrets: SECRETS, keys: 0 }, unreadable: [], damage: [] });
  });

  it("names what does not open, and fails", async () => {
    const database = new DatabaseSync(file("vault.sqlite"));
    database.exec("UPDATE vault_secret_versions SET content_type = 'x' WHERE sequence = 12");
    database.close();
    const { exit, stdout } = await vault(["check", "--config", "vault.json"]);
    expect(exit).toBe(EXIT.failed);
    expect(stdout).toMatch(/^DOES NOT OPEN secrets demo\/s-11\/[0-9a-f]{32}$/m);
    expect(stdout).not.toContain("Every key and secret opens");
    const { exit: code, json } = await vault(["check", "--config", "vault.json", "--json"]);
    expect(code).toBe(EXIT.failed);
    expect(json()).toMatchObject({ ok: false, unreadable: [{ name: "s-11" }] });
  });

  it("says which master key is the right one", async () => {
    const { exit, stderr } = await vault(["check", "--config", "next.json"], { env: { NEXT: OTHER } });
    expect(exit).toBe(EXIT.usage);
    expect(stderr).toMatch(/wrapped by the master key aes:[0-9a-f]{16}, this service has aes:[0-9a-f]{16}/);
    expect(stderr).not.toContain(OTHER);
  });

  it("looks at DATABASE_URL and the service's variables, as the service does", async () => {
    const moved = await vault(["check", "--config", "vault.json"], { env: { DATABASE_URL: "elsewhere.sqlite" } });
    expect(moved).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining(`there is no database at ${file("elsewhere.sqlite")}`) });
    const variable = await vault(["check", "--config", "vault.json"], { env: { SEALPOD_KEYVAULT_DATABASE: "other.sqlite" } });
    expect(variable.stderr).toContain(file("other.sqlite"));
    const hidden = await vault(["check", "--config", "vault.json"], { env: { DATABASE_URL: "postgres://me:hush-hush@127.0.0.1:99999/x" } });
    expect(hidden.exit).not.toBe(EXIT.ok);
    expect(hidden.stderr).not.toContain("hush-hush");
  });
});

describe("sealpod vault rotate-wrapping-key, change-master-key, backup and audit", () => {
  it("rotate with progress on a terminal, and leave everything readable", async () => {
    const { exit, stdout, stderr } = await vault(["rotate-wrapping-key", "--config", "vault.json"], { isTerminal: true });
    expect(exit).toBe(EXIT.ok);
    expect(stdout).toBe(`Wrapping key 2 of ${file("vault.sqlite")} is active; 70 records sealed again under it.\n`);
    expect(stderr).toContain("sealed again: 50 of 70");
    expect(stderr).toContain("sealed again: 70 of 70");
    const again = await vault(["rotate-wrapping-key", "--config", "vault.json", "--json"]);
    expect(again).toMatchObject({ exit: EXIT.ok, stderr: "" });
    expect(again.json()).toEqual({ database: file("vault.sqlite"), wrappingKey: 3, records: 70 });
    expect((await vault(["check", "--config", "vault.json", "--json"])).json()).toMatchObject({ ok: true });
  });

  it("change the master key to a file, and on to what another configuration says", async () => {
    const { exit, stdout } = await vault(["change-master-key", "--config", "vault.json", "--to-file", "new.key"]);
    expect(exit).toBe(EXIT.ok);
    expect(stdout).toMatch(/was opened by (aes:\w+), and is opened by (?!\1)aes:\w+ from now on \(1 wrapping key\)/);
    expect(stdout).toContain(`write "masterKey": {"file":"${file("new.key")}"} into vault.json`);
    expect((await vault(["check", "--config", "vault.json"])).exit).toBe(EXIT.usage);
    writeFileSync(file("vault.json"), readFileSync(file("vault.json"), "utf8").replace("master.key", "new.key"));
    expect((await vault(["check", "--config", "vault.json"])).exit).toBe(EXIT.ok);
    const back = await vault(["change-master-key", "--config", "vault.json", "--to-config", "next.json", "--json"], { env: { NEXT: KEY } });
    expect(back.json()).toMatchObject({ from: expect.stringMatching(/^aes:/), wrappingKeys: 1 });
    expect((await vault(["check", "--config", "next.json"], { env: { NEXT: KEY } })).exit).toBe(EXIT.ok);
    for (const text of [stdout, back.stdout]) for (const key of [KEY, OTHER]) expect(text).not.toContain(key);
  });

  it("copy the database, and the copy opens", async () => {
    const { exit, stdout } = await vault(["backup", "--config", "vault.json", "-o", "copy.sqlite"]);
    expect(exit).toBe(EXIT.ok);
    expect(stdout).toContain(`${file("copy.sqlite")} has 0 key versions, 70 secret versions and 70 audit lines of`);
    expect(statSync(file("copy.sqlite")).mode & 0o777).toBe(0o600);
    expect((await vault(["check", "--config", "vault.json"], { env: { DATABASE_URL: "copy.sqlite" } })).exit).toBe(EXIT.ok);
    const refused = await vault(["backup", "--config", "vault.json", "-o", "vault.sqlite"]);
    expect(refused).toMatchObject({ exit: EXIT.usage, stderr: expect.stringContaining("is the database itself") });
    expect((await vault(["backup", "--config", "vault.json", "-o", "copy.sqlite", "--json"])).json()).toMatchObject({ file: file("copy.sqlite") });
  });

  it("show the audit, page by page", async () => {
    const first = await vault(["audit", "--config", "vault.json", "--limit", "2"]);
    expect(first.stdout).toMatch(/secrets\/set demo\/s-69\/[0-9a-f]{32} allowed to application the-app of tenant 1[^]*s-68/);
    expect(first.stdout.trim().split("\n")).toHaveLength(2);
    expect(first.stderr).toBe("More with --before 69.\n");
    const next = await vault(["audit", "--config", "vault.json", "--limit", "2", "--before", "69", "--json"]);
    expect(next.json()).toMatchObject({ value: [{ name: "s-67" }, { name: "s-66" }], nextBefore: 67 });
    const one = await vault([
      "audit",
      "--config",
      "vault.json",
      "--name",
      "S-5",
      "--vault",
      "demo",
      "--operation",
      "secrets/set",
      "--request-id",
      "r s-5",
      "--json",
    ]);
    expect(one.json()).toMatchObject({ value: [{ name: "s-5" }], nextBefore: null });
    expect((await vault(["audit", "--config", "vault.json", "--vault", "none"])).stdout).toBe("");
    expect(await vault(["audit", "--config", "vault.json", "--limit", "1001"])).toMatchObject({ exit: EXIT.usage });
  });
});

describe("sealpod vault: the command line", () => {
  it("describes every key, and prints a configuration to start from", async () => {
    const { stdout } = await vault(["serve", "--describe-config"]);
    expect(stdout).toContain("| `masterKey.pkcs11` | `SEALPOD_KEYVAULT_MASTER_KEY_PKCS11` |");
    expect((await vault(["serve", "--print-config"])).json()).toMatchObject({ domain: null, listen: "127.0.0.1:8443", wrappingKeys: { every: "90d" } });
    expect((await vault(["serve", "--print-config", "--config", "vault.json"])).json()).toMatchObject({ domain: "vault.test", database: "vault.sqlite" });
  });

  it.each<[readonly string[], string]>([
    [["serve"], "neither --config nor --dev is given"],
    [["serve", "--config", "vault.json", "--dev", "d"], "two ways to say the same"],
    [["serve", "--config", "vault.json", "--listen", "127.0.0.1:1"], "--listen is for --dev; a configuration says it with listen"],
    [["serve", "--config", "vault.json", "--trust-emulator", "x"], "a configuration says it with releases.evidenceRoots"],
    [["serve", "--config", "vault.json", "--attestation", "x"], "a configuration says it with trustedCertificates"],
    [["serve", "--dev", "d", "--listen", "0.0.0.0:8445"], "is no loopback address"],
    [["serve", "--dev", "d", "--identity-listen", "localhost:0"], "is no loopback address"],
    [["serve", "--dev", "d", "--issuer", "https://x", "--identity", "i"], "--issuer and --identity are two ways"],
    [["serve", "--dev", "d", "--identity", "i", "--identity-listen", "127.0.0.1:1"], "--identity names another"],
    [["serve", "--dev", "d", "--tenant", TENANT], "--tenant is given without --issuer"],
    [["serve", "--dev", "d", "--issuer", "https://x", "--tenant", TENANT], "--issuer is given without --administrator"],
    [["serve", "--config", "none.json"], "the configuration cannot be read"],
    [["check"], "required option '--config <file>' not specified"],
    [["backup", "--config", "vault.json"], "required option '-o, --output <file>' not specified"],
    [["change-master-key", "--config", "vault.json"], "none of --to-file, --to-environment and --to-config"],
    [["change-master-key", "--config", "vault.json", "--to-file", "a", "--to-environment", "b"], "more than one of"],
    [["change-master-key", "--config", "vault.json", "--to-file", "master.key"], "has already"],
    [["change-master-key", "--config", "vault.json", "--to-environment", "NOWHERE"], "variable NOWHERE has no master key"],
  ])("%j is refused with exit code 2 and a message, and makes nothing", async (argv, message) => {
    const { exit, stdout, stderr } = await vault(argv);
    expect(stderr).toContain(message);
    expect({ exit, stdout }).toEqual({ exit: EXIT.usage, stdout: "" });
    expect(() => statSync(file("d"))).toThrow("ENOENT");
  });

  it.each([
    [["serve", "--dev", "d", "--identity", "nowhere"], "nowhere is no directory of `sealpod identity serve --dev`"],
    [
      ["serve", "--dev", "d", "--issuer", "https://x", "--tenant", TENANT, "--administrator", TENANT, "--attestation", "nowhere"],
      "`sealpod attest serve --dev`",
    ],
    [
      ["serve", "--dev", "d", "--issuer", "https://x", "--tenant", TENANT, "--administrator", TENANT, "--trust-emulator", "nowhere"],
      "no emulated security processor",
    ],
  ])("%j names a directory that is none", async (argv, message) => {
    const { exit, stderr } = await vault(argv);
    expect({ exit, stderr }).toEqual({ exit: EXIT.failed, stderr: expect.stringContaining(message) });
    expect(() => statSync(file("d/config.json"))).toThrow("ENOENT");
  });

  it("refuses a development directory whose master key is gone, and keeps its database", async () => {
    const argv = ["serve", "--dev", "d", "--issuer", "https://x", "--tenant", TENANT, "--administrator", TENANT];
    // The port that it would listen on is another's: everything before is made.
    expect((await vault([...argv, "--print-config"])).json()).toMatchObject({
      domain: "vault.localhost",
      issuers: [{ issuer: "https://x", authorization: "https://x" }],
    });
    for (const name of ["master.key", "tls.key", "keyvault.sqlite", "config.json"]) expect(statSync(file(`d/${name}`)).mode & 0o077).toBe(0);
    const before = readFileSync(file("d/tls.crt"), "utf8");
    expect((await vault([...argv, "--print-config"])).exit).toBe(EXIT.ok);
    expect(readFileSync(file("d/tls.crt"), "utf8")).toBe(before);
    expect((await vault(["check", "--config", "d/config.json", "--json"])).json()).toMatchObject({ ok: true, counts: { accessPolicies: 1, auditLines: 1 } });
    rmSync(file("d/master.key"));
    expect(await vault([...argv, "--print-config"])).toMatchObject({
      exit: EXIT.failed,
      stderr: expect.stringContaining("there is a database that it sealed"),
    });
    expect(() => statSync(file("d/master.key"))).toThrow("ENOENT");
  });
});

describe("the owner of a development vault", () => {
  it("is made once, and anew only when the identity service does not know it any more", async () => {
    const made: string[] = [];
    const known = new Set<string>();
    const open = async (): ReturnType<typeof openOwner> =>
      openOwner(
        file("own"),
        async ({ clientId, secret }) => known.has(`${clientId} ${secret}`),
        async () => {
          const owner = { clientId: `client-${made.length}`, secret: `secret-${made.length}` };
          made.push(owner.clientId);
          known.add(`${owner.clientId} ${owner.secret}`);
          return owner;
        },
      );
    const first = await open();
    expect(first).toEqual({ clientId: "client-0", secretFile: file("own/owner.secret") });
    expect(readFileSync(first.secretFile, "utf8")).toBe("secret-0\n");
    expect(statSync(first.secretFile).mode & 0o777).toBe(0o600);
    expect(await open()).toEqual(first);
    known.clear();
    expect((await open()).clientId).toBe("client-1");
    expect(made).toHaveLength(2);
  });

  it("comes from a directory with an identity service's configuration", async () => {
    const context = { cwd: directory } as CliContext;
    writeFileSync(file("config.json"), JSON.stringify({ authority: "https://localhost:1", tenants: [TENANT] }));
    expect(await readDevelopmentIdentity(directory, context)).toMatchObject({ authority: "https://localhost:1", tenant: TENANT });
    for (const text of ["{}", "[]", "{", '{"authority":"https://localhost:1","tenants":[]}']) {
      writeFileSync(file("config.json"), text);
      await expect(readDevelopmentIdentity(directory, context)).rejects.toMatchObject({ code: "ERR_CLI_FILE" });
    }
  });
});
