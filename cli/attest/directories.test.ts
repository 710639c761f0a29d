import { generateKeyPairSync } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** `sealpod` in a directory that holds a file `file` and a key `key.pem`. */
async function sealpod(argv: readonly string[]): Promise<Ran & { readonly left: readonly string[] }> {
  const directory = await mkdtemp(join(tmpdir(), "sealpod-directories-"));
  try {
    await writeFile(join(directory, "file"), "");
    await writeFile(join(directory, "key.pem"), generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey.export({ type: "pkcs8", format: "pem" }));
    const written = { stdout: "", stderr: "" };
    const context: CliContext = {
      env: { HOME: directory },
      cwd: directory,
      stdin: (async function* () {})(),
      stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
      stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
      clock: { now: () => Date.UTC(2026, 0, 1) },
      elapsed: () => 0,
      random: { bytes: (length) => new Uint8Array(length).fill(7) },
      signal: new AbortController().signal,
    };
    return { exit: await runCli(argv, context), ...written, left: await readdir(directory) };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

const VERBS = {
  // What is wrong with the directory is found before anything is printed or listened on.
  "attest serve": (directory: string) => ["attest", "serve", "--print-config", "--dev", directory],
  "attest id-block create": (directory: string) => ["attest", "id-block", "create", "--measurement", "00".repeat(48), "--idkey", "key.pem", "--out", directory],
} as const;

describe.each(Object.entries(VERBS))("sealpod %s and a directory that is no use", (_verb, argv) => {
  it.each(["file", "file/x", "/dev/null/x", ...(existsSync("/proc/self") ? ["/proc", "/proc/x", "/proc/x/y"] : [])])("%s", async (directory) => {
    const ran = await sealpod(argv(directory));
    expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "" });
    expect(ran.stderr).toContain("ERR_CLI_FILE");
    expect(ran.stderr).toContain(directory);
    expect(ran.stderr).toContain("to do: Name a directory that you may write to");
    expect(ran.stderr).not.toContain("fault of sealpod");
    expect(ran.left.toSorted()).toEqual(["file", "key.pem"]);
  });
});

describe("sealpod", () => {
  it("attest serve --dev makes a directory, and prints the configuration in it", async () => {
    const ran = await sealpod(VERBS["attest serve"]("new/deep"));
    expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "", left: expect.arrayContaining(["new"]) as string[] });
    expect(JSON.parse(ran.stdout)).toMatchObject({ issuer: "https://localhost:8443" });
  });

  it("up -d ends on a state directory that cannot be made", async () => {
    for (const state of ["file", "/dev/null/x", "/proc/x"]) {
      const ran = await sealpod(["up", "-d", "--state", state]);
      expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "", stderr: expect.stringContaining("ERR_IO_WRITE") as string });
    }
  });
});
