import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";
import { addressOf, productOf, requestOfFlags, wholeNumber } from "./session.ts";

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function certcache(...argv: readonly string[]): Promise<Ran> {
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
    return { exit: await runCli(["certcache", ...argv], context), ...written };
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

  it("lists an empty cache, and makes no directory for it", async () => {
    expect((await certcache("list")).stdout).toMatch(/state\/certcache: 0 of 65536 certificates\n$/);
    expect(JSON.parse((await certcache("list", "--json", "--max-entries", "5")).stdout)).toMatchObject({
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
    [EXIT.usage, "--chain is for directories", "import", "/dev/null", "--chain", "x"],
    [EXIT.failed, "x does not exist", "fetch", "x", "--upstream", "none"],
    [EXIT.failed, "certificate", "import", "."],
  ])("exits with %i and says %s", async (exit, text, ...argv) => {
    const ran = await certcache(...argv);
    expect(ran).toMatchObject({ exit, stdout: "" });
    expect(ran.stderr).toContain(text);
  });

  it("answers as JSON when asked, errors too", async () => {
    expect(JSON.parse((await certcache("fetch", "--json")).stdout)).toMatchObject({ error: { code: "ERR_CLI_USAGE" } });
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
