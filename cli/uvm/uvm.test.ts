import { createHash } from "node:crypto";
import { mkdir, mkdtemp, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8, toHex } from "@sealpod/core";
import { encodeManifest, readUvm, uvmCommandLine, uvmMeasurement, type UvmManifest, type UvmTarget } from "@sealpod/image";
import { buildErofsLayer, encodeTar } from "@sealpod/verity";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";

let directory = "";
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-uvm-cli-"));
});
afterEach(() => rm(directory, { recursive: true }));

async function sealpod(...argv: readonly string[]): Promise<{ readonly exit: number; readonly stdout: string; readonly stderr: string }> {
  const written = { stdout: "", stderr: "" };
  let drawn = 0;
  const context: CliContext = {
    env: {},
    cwd: directory,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock: { now: () => Date.UTC(2026, 10, 22) },
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length).fill(++drawn) },
    signal: new AbortController().signal,
  };
  return { exit: await runCli(argv, context), ...written };
}

/** A small image, written by hand: the commands look at what is there and start nothing. */
async function image(name = "uvm", target: UvmTarget = "emulated"): Promise<UvmManifest> {
  const root = join(directory, name);
  await rm(root, { recursive: true, force: true });
  await mkdir(root);
  const written = async (file: string, bytes: Uint8Array): Promise<{ readonly file: string; readonly sha256: string; readonly size: number }> => {
    await writeFile(join(root, file), bytes);
    return { file, sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length };
  };
  const base = { uid: 0, gid: 0, mtime: 0, mode: 0o755 };
  const tar = encodeTar([
    { ...base, kind: "symlink", path: "bin", target: "usr/bin" },
    { ...base, kind: "directory", path: "usr" },
    { ...base, kind: "file", path: "usr/program", data: encodeUtf8("a program") },
  ]);
  const handle = await open(join(root, "root.erofs"), "w");
  let end = 0;
  const layer = await buildErofsLayer(tar, {
    async write(bytes) {
      await handle.write(bytes, 0, bytes.length, end);
      end += bytes.length;
    },
    async writeAt(offset, bytes) {
      await handle.write(bytes, 0, bytes.length, offset);
    },
  });
  await handle.close();
  const manifest: UvmManifest = {
    version: 1,
    target,
    architecture: "amd64",
    kernel: { ...(await written("vmlinux", new Uint8Array(5000).fill(1))), release: "6.1.0-1-cloud-amd64" },
    initrd: await written("initrd.cpio", new Uint8Array(512).fill(2)),
    root: { ...(await written("root.erofs", await readFile(join(root, "root.erofs")))), rootHash: toHex(layer.rootHash), dataBlocks: layer.dataBlocks },
    commandLine: uvmCommandLine(target, layer.rootHash, layer.dataBlocks),
    agent: { version: "0.1.0", sha256: "4".repeat(64) },
    packages: [{ name: "crun", version: "1.8.1", architecture: "amd64", sha256: "1".repeat(64) }],
  };
  await writeFile(join(root, "uvm.json"), encodeManifest(manifest));
  return manifest;
}

const measurement = async (name = "uvm"): Promise<string> => toHex(await uvmMeasurement(await readUvm(join(directory, name))));

describe("sealpod uvm show", () => {
  it("tells what is in an image and what of it is measured", async () => {
    const manifest = await image();
    const { exit, stdout } = await sealpod("uvm", "show", "uvm");
    expect(exit).toBe(EXIT.ok);
    for (const text of [
      "6.1.0-1-cloud-amd64 for emulated",
      manifest.root.rootHash,
      await measurement(),
      manifest.commandLine,
      manifest.kernel.sha256,
      "crun 1.8.1",
    ])
      expect(stdout).toContain(text);
    expect(stdout).not.toContain("usr/program");
    const files = await sealpod("uvm", "show", "uvm", "--files");
    expect(files.stdout).toMatch(/0755\s\|\s+9 \| [0-9a-f]{16} \| \/usr\/program/);
    expect(files.stdout).toContain("/bin -> usr/bin");
    const { stdout: json } = await sealpod("uvm", "show", "uvm", "--json", "--files");
    expect(JSON.parse(json)).toMatchObject({
      ...manifest,
      measurement: await measurement(),
      files: [{ path: "bin" }, { path: "usr" }, { path: "usr/program", size: 9, sha256: createHash("sha256").update("a program").digest("hex") }],
    });
  });

  it("says so where there is no image", async () => {
    expect(await sealpod("uvm", "show", "nothing")).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("sealpod uvm build") });
  });
});

describe("sealpod uvm sign and verify", () => {
  const issuerOf = (stdout: string): string => /did:x509:\S+/.exec(stdout)?.[0] ?? "";

  it("make a signer, sign with it, and accept what it signed under its name alone", async () => {
    await image();
    const made = await sealpod("uvm", "sign", "uvm", "--new-key", "signer.pem", "--feed", "My-UVM", "--svn", "3");
    expect(made).toMatchObject({ exit: EXIT.ok, stdout: expect.stringContaining(await measurement()) });
    expect((await stat(join(directory, "signer.pem"))).mode & 0o777).toBe(0o600);
    const issuer = issuerOf(made.stdout);
    expect(issuer).toMatch(/^did:x509:0:sha256:[\w-]{43}::eku:2\.25\.\d+\.1\.2$/);
    const verify = async (...more: readonly string[]): Promise<number> =>
      (await sealpod("uvm", "verify", "uvm", "--issuer", issuer, "--feed", "My-UVM", ...more)).exit;
    expect(await verify()).toBe(EXIT.ok);
    expect(await verify("--min-svn", "3")).toBe(EXIT.ok);
    expect(await verify("--min-svn", "4")).toBe(EXIT.refused);
    expect((await sealpod("uvm", "verify", "uvm", "--issuer", issuer, "--feed", "Your-UVM")).exit).toBe(EXIT.refused);
    // Signed again with the same key: the same issuer.
    const again = await sealpod("uvm", "sign", "uvm", "--key", "signer.pem", "--feed", "My-UVM", "--svn", "4", "--json");
    expect(JSON.parse(again.stdout)).toEqual({
      file: join(directory, "uvm", "endorsement.cose"),
      issuer,
      feed: "My-UVM",
      svn: 4,
      measurement: await measurement(),
    });
    expect(await verify("--min-svn", "4")).toBe(EXIT.ok);
    // Another signer's word is worth nothing to who trusts this one.
    await sealpod("uvm", "sign", "uvm", "--new-key", "other.pem", "--feed", "My-UVM", "--svn", "4");
    expect(await verify()).toBe(EXIT.refused);
  });

  it("refuse an endorsement of another image, and an image that was changed", async () => {
    await image();
    const { stdout } = await sealpod("uvm", "sign", "uvm", "--new-key", "signer.pem", "--feed", "F", "--svn", "1", "--endorsement", "statement");
    const trust = ["--issuer", issuerOf(stdout), "--feed", "F", "--endorsement", "statement"];
    expect((await sealpod("uvm", "verify", "uvm", ...trust)).exit).toBe(EXIT.ok);
    await writeFile(join(directory, "uvm", "vmlinux"), new Uint8Array(5000).fill(3));
    expect(await sealpod("uvm", "verify", "uvm", ...trust)).toMatchObject({ exit: EXIT.refused, stderr: expect.stringContaining("ERR_IMAGE_CHANGED") });
    expect((await sealpod("uvm", "verify", "uvm")).exit).toBe(EXIT.refused);
    const manifest = await image();
    const changed = { ...manifest, kernel: { ...manifest.kernel, sha256: createHash("sha256").update(new Uint8Array(5000).fill(3)).digest("hex") } };
    await writeFile(join(directory, "uvm", "vmlinux"), new Uint8Array(5000).fill(3));
    await writeFile(join(directory, "uvm", "uvm.json"), encodeManifest(changed));
    // In itself the image is whole; it is not the one that was signed.
    expect((await sealpod("uvm", "verify", "uvm")).exit).toBe(EXIT.ok);
    expect(await sealpod("uvm", "verify", "uvm", ...trust)).toMatchObject({ exit: EXIT.refused, stderr: expect.stringContaining("ERR_IMAGE_MEASUREMENT") });
  });

  it("want the measurement of an image for SEV-SNP told, and trust named", async () => {
    await image("uvm", "snp");
    const sign = ["uvm", "sign", "uvm", "--new-key", "signer.pem", "--feed", "F", "--svn", "1"];
    expect(await sealpod(...sign)).toMatchObject({ exit: EXIT.usage, stderr: expect.stringContaining("--measurement") });
    const digest = "ab".repeat(48);
    const { exit, stdout } = await sealpod(...sign, "--measurement", digest);
    expect(exit).toBe(EXIT.ok);
    const trust = ["uvm", "verify", "uvm", "--issuer", issuerOf(stdout), "--feed", "F"];
    expect((await sealpod(...trust, "--measurement", digest)).exit).toBe(EXIT.ok);
    expect((await sealpod(...trust, "--measurement", "cd".repeat(48))).exit).toBe(EXIT.refused);
    expect((await sealpod("uvm", "verify", "uvm", "--issuer", "did:x509:0:x")).exit).toBe(EXIT.usage);
    expect((await sealpod("uvm", "verify", "uvm", "--measurement", digest)).exit).toBe(EXIT.usage);
  });

  it("overwrite no key, and say what is wrong with one", async () => {
    await image();
    await writeFile(join(directory, "mine.pem"), "mine");
    const sign = async (...more: readonly string[]): Promise<{ readonly exit: number; readonly stderr: string }> =>
      sealpod("uvm", "sign", "uvm", "--feed", "F", "--svn", "1", ...more);
    expect(await sign("--new-key", "mine.pem")).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("is there already") });
    expect(await readFile(join(directory, "mine.pem"), "utf8")).toBe("mine");
    expect((await sign("--key", "mine.pem")).exit).toBe(EXIT.failed);
    expect((await sign()).exit).toBe(EXIT.usage);
    expect((await sign("--new-key", "a.pem", "--key", "b.pem")).exit).toBe(EXIT.usage);
    await sign("--new-key", "a.pem");
    await sign("--new-key", "b.pem");
    expect(await sign("--key", "a.pem", "--chain", "b.pem.chain")).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("is for another key") });
    // The certificate does not have this usage: no verifier would accept it.
    expect((await sign("--key", "a.pem", "--eku", "1.2.3")).exit).not.toBe(EXIT.ok);
    expect((await sealpod("uvm", "sign", "uvm", "--key", "a.pem", "--feed", "F", "--svn", "4294967296")).exit).toBe(EXIT.usage);
    expect((await sealpod("uvm", "sign", "uvm", "--key", "a.pem", "--feed", "two words", "--svn", "1")).exit).toBe(EXIT.usage);
  });
});

describe("sealpod attest measure --uvm", () => {
  it("predicts the measurement of an emulated start, page by page", async () => {
    await image();
    const { exit, stdout, stderr } = await sealpod("attest", "measure", "--uvm", "uvm");
    expect({ exit, stdout }).toEqual({ exit: EXIT.ok, stdout: `${await measurement()}\n` });
    expect(stderr).toContain("EMULATED");
    const pages = await sealpod("attest", "measure", "--uvm", "uvm", "--pages", "--json");
    expect(JSON.parse(pages.stdout)).toMatchObject({ launch: "uvm", measurement: await measurement() });
    expect(pages.stdout).toContain("vmlinux");
    expect(pages.stdout).toContain("command line");
  });

  it("takes firmware's flags with firmware alone", async () => {
    await image();
    expect(await sealpod("attest", "measure", "--uvm", "uvm", "--vcpus", "1")).toMatchObject({
      exit: EXIT.usage,
      stderr: expect.stringContaining("--vcpus needs --ovmf"),
    });
    expect((await sealpod("attest", "measure", "--uvm", "uvm", "--igvm", "x")).exit).toBe(EXIT.usage);
    expect((await sealpod("attest", "measure", "--uvm", "uvm", "--append", "x")).exit).toBe(EXIT.usage);
    await writeFile(join(directory, "OVMF.fd"), new Uint8Array(4096));
    expect(await sealpod("attest", "measure", "--uvm", "uvm", "--ovmf", "OVMF.fd", "--vcpus", "1", "--vcpu-type", "EPYC-Milan")).toMatchObject({
      stderr: expect.stringContaining("ERR_SNP_OVMF"),
    });
  });
});
