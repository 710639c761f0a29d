import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toHex } from "@sealpod/core";
import { basicConstraints, encodePem, issueCertificate, OID } from "@sealpod/pki";
import { AMD_ROOTS } from "@sealpod/snp";
import { describe, expect, it, vi } from "vitest";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";
import { addressOf, productOf, requestOfFlags, trustOf, wholeNumber } from "./session.ts";

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function certcache(...argv: readonly string[]): Promise<Ran> {
  return inDirectory(async (context, written) => ({ exit: await runCli(["certcache", ...argv], context), ...written }));
}

async function inDirectory<T>(work: (context: CliContext, written: { stdout: string; stderr: string }) => Promise<T>): Promise<T> {
  const cwd = mkdtempSync(join(tmpdir(), "sealpod-certcache-cli-"));
  const written = { stdout: "", stderr: "" };
  const context: CliContext = {
    env: { SEALPOD_HOME: join(cwd, "state"), HOME: cwd },
    cwd,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock: { now: () => Date.UTC(2026, 10, 22) },
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length) },
    signal: new AbortController().signal,
  };
  try {
    return await work(context, written);
  } finally {
    rmSync(cwd, { recursive: true, force: true });
  }
}

const NAMES = { chipId: "--chip-id", tcb: "--tcb" };

describe("sealpod certcache", () => {
  it("lists its verbs, each with help and examples", async () => {
    const help = await certcache("--help");
    for (const verb of ["serve", "fetch", "export", "import", "list"]) {
      expect(help.stdout).toContain(`\n  ${verb} `);
      const own = await certcache(verb, "--help");
      expect(own.exit).toBe(EXIT.ok);
      expect(own.stdout).toMatch(new RegExp(`Examples:\\n[\\s\\S]*sealpod certcache ${verb}`));
    }
  });

  it("lists an empty cache", async () => {
    expect((await certcache("list", "--dir", ".")).stdout).toMatch(/: 0 of 65536 certificates\n$/);
    expect(JSON.parse((await certcache("list", "--dir", ".", "--json", "--max-entries", "5")).stdout)).toMatchObject({
      maxEntries: 5,
      certificates: [],
      authorities: [],
      crls: [],
    });
  });

  it.each<[number, string, ...string[]]>([
    [EXIT.usage, "nothing to fetch", "fetch"],
    [EXIT.usage, "--max-entries 0", "list", "--max-entries", "0"],
    [EXIT.usage, "--spacing -1", "fetch", "x", "--spacing", "-1"],
    [EXIT.usage, "--thim-chip-id and --thim-tcb", "serve", "--thim-chip-id", "00"],
    [EXIT.usage, "--tls-cert and --tls-key", "serve", "--tls-cert", "x"],
    [EXIT.usage, "--chip-id and --tcb", "fetch", "--chip-id", "00"],
    [EXIT.usage, "expected kds, kds=URL", "fetch", "x", "--upstream", "ftp"],
    [EXIT.usage, "stands beside others", "serve", "--upstream", "none", "--upstream", "kds"],
    [EXIT.usage, "expected host:port", "serve", "--listen", "8081"],
    [EXIT.usage, "--trust amd --trust emulator=FILE", "serve", "--trust", "other=x"],
    [EXIT.failed, "no certificate that verifies", "export", "-o", "x.json", "--dir", "."],
    [EXIT.failed, "state/certcache does not exist", "list"],
    [EXIT.failed, "absent does not exist", "export", "-o", "x.json", "--dir", "absent"],
    [EXIT.failed, "/dev/null is there and is no directory", "serve", "--listen", "127.0.0.1:0", "--dir", "/dev/null"],
    [EXIT.failed, "/dev/null is there and is no directory", "list", "--dir", "/dev/null"],
    [EXIT.failed, "/dev/null is there and is no directory", "export", "-o", "x.json", "--dir", "/dev/null"],
    [EXIT.failed, "/dev/null is there and is no directory", "import", ".", "--dir", "/dev/null"],
    [EXIT.failed, "/dev/null is there and is no directory", "fetch", "x", "--dir", "/dev/null"],
    [EXIT.failed, "error: /dev/null:1:1: ", "import", "/dev/null"],
    [EXIT.failed, "cannot be read", "import", "missing.json"],
    [EXIT.usage, "--chain is for directories", "import", "/dev/null", "--chain", "x"],
    [EXIT.failed, "x does not exist", "fetch", "x", "--upstream", "none"],
    [EXIT.failed, "certificate", "import", "."],
  ])("exits with %i and says %s", async (exit, text, ...argv) => {
    const ran = await certcache(...argv);
    expect(ran).toMatchObject({ exit, stdout: "" });
    expect(ran.stderr).toContain(text);
    expect(ran.stderr.match(/^error: /gm)).toHaveLength(1);
  });

  it("answers as JSON when asked, errors too", async () => {
    expect(JSON.parse((await certcache("fetch", "--json")).stdout)).toMatchObject({ error: { code: "ERR_CLI_USAGE" } });
  });
});

describe("what a person is told", () => {
  const chip = "c1".repeat(64);
  const fill = (directory: string): void => {
    mkdirSync(join(directory, "vcek", chip), { recursive: true });
    writeFileSync(join(directory, "vcek", chip, "bl04_tee00_snp24_ucode219_vcek.der"), "damaged");
  };

  it("of damaged files: lines to read on stderr, and a row in the columns of the others", async () => {
    await inDirectory(async (context, written) => {
      fill(join(context.cwd, "cache"));
      expect(await runCli(["certcache", "list", "--dir", "cache"], context)).toBe(EXIT.ok);
      expect(written.stderr).toMatch(/^warning: damaged file in the certificate cache[^\n]*: [^\n]*\(path [^\n]*_vcek\.der\)\n$/);
      const [head = "", damaged = ""] = written.stdout.split("\n").slice(1);
      expect(damaged).toMatch(/^- {6}c1c1c1c1c1c1c1c1… +- +- +damaged: /);
      expect(damaged.indexOf("damaged")).toBe(head.indexOf("state"));
      written.stderr = "";
      expect(await runCli(["certcache", "export", "--dir", "cache", "-o", "x.json"], context)).toBe(EXIT.failed);
      expect(written.stderr).toMatch(/^warning: damaged file/);
      expect(written.stderr).not.toContain("{");
    });
  });

  it("of what an import ignored", async () => {
    await inDirectory(async (context, written) => {
      mkdirSync(join(context.cwd, "flat", "crl"), { recursive: true });
      writeFileSync(join(context.cwd, "flat", "a\u001b[2J.der"), "");
      expect(await runCli(["certcache", "import", "flat"], context)).toBe(EXIT.failed);
      expect(written.stderr).toContain("holds no certificates in a known layout; found a?[2J.der\n");
    });
  });

  it.each([
    ["on a terminal", true, []],
    ["with --debug", false, ["--debug"]],
    ["nowhere else", false, []],
  ] as const)("of the progress of fetch: %s", async (_name, isTerminal, flags) => {
    const asked: string[] = [];
    vi.stubGlobal("fetch", async (url: string) => {
      asked.push(url);
      throw new TypeError("fetch failed", { cause: Object.assign(new Error("getaddrinfo EAI_AGAIN kdsintf.amd.com"), { code: "EAI_AGAIN" }) });
    });
    try {
      await inDirectory(async (base, written) => {
        const context: CliContext = { ...base, stderr: { ...base.stderr, isTerminal } };
        expect(await runCli(["certcache", "fetch", "--chip-id", chip, "--tcb", "db18000000000004", "--product", "Milan", ...flags], context)).toBe(EXIT.failed);
        expect(asked).toHaveLength(2);
        const [progress = "", error = ""] = written.stderr.split("error: ");
        expect(error).toContain("getaddrinfo EAI_AGAIN kdsintf.amd.com");
        if (!isTerminal && flags.length === 0) expect(progress).toBe("");
        else {
          expect(progress).toContain("chip: asking kds");
          expect(progress).toMatch(/kds: getaddrinfo EAI_AGAIN kdsintf\.amd\.com; asked again in 1 s|certificate service is asked again/);
          expect(progress.includes("\u001b")).toBe(isTerminal);
        }
      });
    } finally {
      vi.unstubAllGlobals();
    }
  });
});

describe("--trust", () => {
  const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
  const ark = issueCertificate({
    subject: [{ type: OID.commonName, value: "EMULATED ARK-Milan" }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "rsa-pss-sha384",
    serial: 1n,
    notBefore: 0,
    notAfter: Date.UTC(2040, 0, 1),
    extensions: [basicConstraints({ ca: true, pathLength: 1 })],
  });

  it.each<[string, readonly string[] | undefined, readonly string[]]>([
    ["AMD's if nothing is said", undefined, ["amd"]],
    ["AMD's if they are named", ["amd"], ["amd"]],
    ["an emulator's alone if it alone is named", ["emulator=ark.pem"], ["emulator"]],
    ["both if both are named", ["emulator=ark.pem", "amd"], ["amd", "emulator"]],
    ["each once", ["amd", "emulator=ark.pem", "amd", "emulator=ark.pem"], ["amd", "emulator"]],
  ])("trusts %s", async (_name, trust, expected) => {
    const roots = await inDirectory(async (context) => {
      writeFileSync(join(context.cwd, "ark.pem"), encodePem("CERTIFICATE", ark.der));
      return (await trustOf({ maxEntries: "1", ...(trust !== undefined && { trust }) }, context)).roots;
    });
    expect([...new Set(roots.map(({ name }) => name))].sort()).toEqual(expected);
    expect(roots.filter(({ name }) => name === "amd")).toHaveLength(expected.includes("amd") ? AMD_ROOTS.length : 0);
    expect(roots.filter(({ name }) => name === "emulator")).toHaveLength(expected.includes("emulator") ? 1 : 0);
  });

  it("says in its help that the list is whole", async () => {
    for (const verb of ["serve", "fetch", "export", "import", "list"])
      expect((await certcache(verb, "--help")).stdout.replace(/\s+/g, " ")).toContain("none but those named count (default: amd)");
  });
});

describe("values of the command line", () => {
  it.each([
    ["127.0.0.1:8081", "127.0.0.1", 8081],
    [":0", "127.0.0.1", 0],
    ["[::1]:65535", "::1", 65_535],
    ["cache.example:80", "cache.example", 80],
  ])("%s is an address", (text, host, port) => {
    expect(addressOf("--listen", text)).toEqual({ host, port });
  });

  it.each(["", "8081", "127.0.0.1", "127.0.0.1:65536", "::1:80", "[::1]", "a:b", "a:-1", "http://a:1"])("%j is no address", (text) => {
    expect(() => addressOf("--listen", text)).toThrow(expect.objectContaining({ code: "ERR_CLI_USAGE" }));
  });

  it("name a chip and its TCB", () => {
    const milan = requestOfFlags(NAMES, "ab".repeat(64), "db18000000000004");
    expect(milan.products).toEqual(["Milan", "Genoa"]);
    expect(toHex(milan.reportedTcb)).toBe("04000000000018db");
    const turin = requestOfFlags(NAMES, "AB".repeat(8), "5100000004010101");
    expect([turin.products, toHex(turin.chipId), toHex(turin.reportedTcb)]).toEqual([["Turin"], `${"ab".repeat(8)}${"00".repeat(56)}`, "0101010400000051"]);
    expect(requestOfFlags(NAMES, "ab".repeat(64), "1", "genoa").products).toEqual(["Genoa"]);
    for (const [chip, tcb] of [
      ["ab", "1"],
      ["zz".repeat(64), "1"],
      ["ab".repeat(64), ""],
      ["ab".repeat(64), "0x1"],
      ["ab".repeat(64), "1".repeat(17)],
    ] as const) {
      expect(() => requestOfFlags(NAMES, chip, tcb)).toThrow(expect.objectContaining({ code: "ERR_CLI_USAGE" }));
    }
    expect(() => productOf("Rome")).toThrow(expect.objectContaining({ code: "ERR_CLI_USAGE" }));
    for (const text of ["", "-1", "1.5", "1e3", "9".repeat(10)])
      expect(() => wholeNumber("--n", text, 0)).toThrow(expect.objectContaining({ code: "ERR_CLI_USAGE" }));
  });
});
