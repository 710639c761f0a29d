import { createDecipheriv, createPublicKey, createVerify, privateDecrypt } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fromHex, sha256, toHex } from "@sealpod/core";
import { fileSource, run, systemClock, systemRandom } from "@sealpod/io";
import { noVm, skippedVm } from "@sealpod/machine/testing";
import { parsePodManifest } from "@sealpod/pod";
import { parseReport } from "@sealpod/snp";
import { openErofsLayer } from "@sealpod/verity";
import { ATTACKS, findAttacks } from "./attacks.ts";
import { runDemo, STATE_PREFIX } from "./demo.ts";
import type { DemoResult } from "./result.ts";

const isRoot = process.getuid?.() === 0;

const ROOT = resolve(import.meta.dirname, "../..");

/** Attacks of each kind that meets a utility VM: its policy, its disks, its launch. */
const VM_ATTACKS = ["other-command", "flipped-layer-byte", "changed-policy"];

/** The same pod in a utility VM. It waits for one emulated processor, so it runs beside everything else here; undefined where there is no VM. */
let inVm: Promise<DemoResult> | undefined;
const before = await stateDirectories();

beforeAll(async () => {
  if (noVm !== undefined) return;
  inVm = runDemo({
    files: { example: join(ROOT, "examples/key-release"), bundles: join(ROOT, "build"), uvm: join(ROOT, "build", "uvm") },
    node: process.execPath,
    isolation: "vm",
    attacks: VM_ATTACKS,
    port: await freePort(),
    clock: systemClock,
    random: systemRandom,
  });
  inVm.catch(() => undefined);
});

afterAll(async () => {
  await inVm?.catch(() => undefined);
});

// The demo once, with everything kept; then what it says and what it left behind are checked, with other tools where there are any.
describe.skipIf(!isRoot)(`the demo${isRoot ? "" : " (skipped: needs root)"}`, () => {
  let kept = "";
  let demo: DemoResult;

  beforeAll(async () => {
    kept = await mkdtemp(join(tmpdir(), "kept-sealpod-"));
    demo = await runDemo({
      files: { example: join(ROOT, "examples/key-release"), bundles: join(ROOT, "build"), uvm: join(ROOT, "build", "uvm") },
      node: process.execPath,
      isolation: "process",
      keep: kept,
      clock: systemClock,
      random: systemRandom,
    });
  });

  afterAll(async () => {
    await rm(kept, { recursive: true, force: true });
  });

  const file = (name: string): string => join(kept, name);
  const text = async (name: string): Promise<string> => readFile(file(name), "utf8");

  it("does every step, and says that it is emulated", () => {
    expect(demo.steps.filter((step) => !step.ok)).toEqual([]);
    expect(demo.steps.map((step) => step.name)).toEqual(["example-images", "genpolicy", "up", "importkey", "run", "page"]);
    expect(demo.emulated.join(" ")).toContain("emulator");
    expect(demo.steps.at(-1)?.facts["page"]).not.toBe("");
  });

  // Done when, second line: each of these changes is refused by the party that has to, for the reason that it has to.
  it.each([
    ["a layer byte", "flipped-layer-byte", /data block 0 does not match/],
    ["another layer", "other-layer", /options: found .*root-hash=/],
    ["an env value", "other-env", /process\.Env: found "NODE_OPTIONS=/],
    ["a command argument", "other-command", /process\.Args.*--debug/],
    ["exec", "exec", /exec: found \["\/bin\/sh"/],
    ["the policy text", "changed-policy", /HOST_DATA of this machine is/],
    ["HOST_DATA", "other-host-data", /HOST_DATA of this machine is/],
    ["the policy text and HOST_DATA together", "changed-policy-key", /refused \(403\)/],
    ["REPORT_DATA", "other-report-data", /runtimeData does not match the report/],
    ["a bit of the report", "flipped-report-bit", /signature does not verify/],
    ["the signing key", "forged-token", /^403 /],
    ["the release policy's claim", "other-claim", /^403 /],
  ])("refuses a change of %s (%s)", (_what, name, reason) => {
    const refusal = demo.refusals.find((item) => item.name === name);
    expect(refusal).toMatchObject({ ok: true });
    expect(refusal?.reason).toMatch(reason);
    expect(refusal?.refuser).toBe(findAttacks([name])[0]?.refuser);
  });

  it.each([
    ["forged-token", /did not sign it/],
    ["other-claim", /FAILED x-ms-sevsnpvm-hostdata: expected "[0-9a-f]{64}", found "[0-9a-f]{64}"/],
    ["changed-policy-key", /FAILED x-ms-sevsnpvm-hostdata/],
  ])("the vault tells its owner, not the caller, why it refused (%s)", (name, reason) => {
    const refusal = demo.refusals.find((item) => item.name === name);
    expect(refusal?.reason).not.toMatch(reason);
    expect(refusal?.facts["what only the vault's owner sees"]).toMatch(reason);
  });

  it("plays every attack that there is, and calls itself done only then", () => {
    expect(demo.refusals.map((item) => item.name)).toEqual(ATTACKS.map((attack) => attack.name));
    expect(demo.ok).toBe(true);
  });

  it("writes the annotation and nothing else into the YAML", async () => {
    const before = (await readFile(join(ROOT, "examples/key-release/myapplication.yaml"), "utf8")).split("\n");
    const after = (await text("myapplication.yaml")).replaceAll(/sealpod\.internal:\d+/g, "sealpod.internal:8443").split("\n");
    const added = after.filter((line) => !before.includes(line));
    expect(added).toHaveLength(1);
    expect(added[0]).toMatch(/^\s+io\.katacontainers\.config\.agent\.policy: /);
    expect(after.filter((line) => line !== added[0])).toEqual(before);
  });

  it("leaves a report whose HOST_DATA is the policy's hash and whose REPORT_DATA is the wrapping key's", async () => {
    const report = parseReport(await readFile(file("report.bin")));
    const policy = await readFile(file("policy.rego"));
    expect(toHex(report.hostData)).toBe(toHex(sha256(policy)));
    expect(toHex(report.reportData.subarray(0, 32))).toBe(toHex(sha256(await readFile(file("runtime-data.json")))));
    expect(parsePodManifest({ name: "kept", text: await text("myapplication.yaml") }).hostData).toBe(toHex(sha256(policy)));
  });

  it("leaves a certificate chain that openssl accepts under its own root", async () => {
    const [vcek = "", ask = "", ark = ""] = (await text("vcek-chain.pem")).split(/(?<=-----END CERTIFICATE-----\n)/);
    for (const [name, pem] of Object.entries({ vcek, ask, ark })) await writeFile(file(`${name}.pem`), pem);
    const { stdout } = await run("openssl", ["verify", "-CAfile", file("ark.pem"), "-untrusted", file("ask.pem"), file("vcek.pem")]);
    expect(Buffer.from(stdout).toString()).toContain("OK");
  });

  it("leaves a token that says which root it rests on, and a release that names the key", async () => {
    const claims = JSON.parse(await text("token-claims.json")) as Record<string, unknown>;
    const policy = await readFile(file("policy.rego"));
    expect(claims).toMatchObject({
      "x-ms-sevsnpvm-hostdata": toHex(sha256(policy)),
      "x-ms-compliance-status": "sealpod-compliant-uvm",
      "x-ms-sevsnpvm-is-debuggable": false,
      "x-sealpod-root": "emulator",
    });
    const { value } = JSON.parse(await text("released.json")) as { value: string };
    const [header = "", payload = "", signature = ""] = value.split(".");
    const { x5c } = JSON.parse(Buffer.from(header, "base64url").toString()) as { x5c: readonly string[] };
    const leaf = `-----BEGIN CERTIFICATE-----\n${x5c[0] ?? ""}\n-----END CERTIFICATE-----\n`;
    expect(createVerify("sha256").update(`${header}.${payload}`).verify(createPublicKey(leaf), signature, "base64url")).toBe(true);
    const { response } = JSON.parse(Buffer.from(payload, "base64url").toString()) as { response: { key: { key: { kid: string; key_hsm: string } } } };
    expect(response.key.key.kid).toContain("doc-sample-key-release");
    // RSA-OAEP of an AES key, then AES-KWP (RFC 5649) under it: opened with node:crypto alone, it is the key that was imported.
    const { ciphertext } = JSON.parse(Buffer.from(response.key.key.key_hsm, "base64url").toString()) as { ciphertext: string };
    const wrapped = Buffer.from(ciphertext, "base64url");
    const kek = privateDecrypt({ key: await text("wrapping-key.pem"), oaepHash: "sha1" }, wrapped.subarray(0, 256));
    const unwrap = createDecipheriv("id-aes256-wrap-pad", kek, Buffer.from("A65959A6", "hex"));
    expect(Buffer.concat([unwrap.update(wrapped.subarray(256)), unwrap.final()])).toEqual(await readFile(file("encryptionKey")));
  });

  it("leaves evidence that `sealpod attest` verifies under the emulator's root alone, with the measurement that it predicts", async () => {
    const sealpod = async (...args: readonly string[]): Promise<{ readonly code: number; readonly text: string }> => {
      const { code, stdout } = await run(process.execPath, [join(ROOT, "cli/bin/sealpod.cjs"), "attest", ...args], { okCodes: [0, 3] });
      return { code, text: Buffer.from(stdout).toString() };
    };
    const measured = await sealpod("measure", "--process", file("agent.mjs"));
    const report = ["verify", file("report.bin"), "--certs", file("vcek-chain.pem"), "--runtime-data", file("runtime-data.json")];
    const required = ["--host-data", `@${file("policy.rego")}`, "--measurement", measured.text.trim()];
    const root = ["--trust", `emulator=${file("emulator-root.pem")}`];
    expect(await sealpod(...report, ...required, ...root)).toMatchObject({ code: 0, text: expect.stringMatching(/^VERIFIED under the EMULATOR's root/m) });
    expect(await sealpod(...report, ...required)).toMatchObject({ code: 3, text: expect.stringContaining("REFUSED") });
    const token = ["verify", file("token.jwt"), "--jwks", file("token-keys.json")];
    expect(await sealpod(...token, ...required.slice(0, 2), "--trust", "emulator")).toMatchObject({ code: 0, text: expect.stringContaining("VERIFIED") });
    expect(await sealpod(...token)).toMatchObject({ code: 3, text: expect.stringContaining("REFUSED") });
  });

  it("leaves layers whose hash trees veritysetup agrees with", async () => {
    const directory = file("layers");
    const notes = (await readdir(directory)).filter((name) => /^[0-9a-f]{64}\.erofs\.json$/.test(name));
    expect(notes.length).toBeGreaterThanOrEqual(4);
    const policy = await text("policy.rego");
    for (const name of notes) {
      const { rootHash } = JSON.parse(await readFile(join(directory, name), "utf8")) as { rootHash: string };
      expect(policy).toContain(rootHash);
      const path = join(directory, name.replace(".json", ""));
      await using source = await fileSource(path);
      const layer = await openErofsLayer(source, fromHex(rootHash));
      const blocks = await dataBlocks(path);
      const format = ["--no-superblock", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096", `--salt=${"00".repeat(32)}`];
      const place = [`--data-blocks=${blocks}`, `--hash-offset=${blocks * 4096}`];
      const verified = await run("veritysetup", ["verify", ...format, ...place, path, path, rootHash]);
      expect(verified.code).toBe(0);
      expect(layer.imageSize).toBe(blocks * 4096);
    }
  });
});

describe.skipIf(noVm !== undefined)(`the demo in a utility VM${skippedVm}`, () => {
  it("runs its pod there, and refuses what it has to", { timeout: 600_000 }, async () => {
    const demo = await inVm;
    expect(demo?.steps.filter((step) => !step.ok)).toEqual([]);
    expect(demo?.refusals.filter((item) => !item.ok)).toEqual([]);
    expect(demo?.refusals.map((item) => item.name)).toEqual(VM_ATTACKS);
    expect(demo?.steps.find((step) => step.name === "run")?.facts).toMatchObject({
      isolation: expect.stringContaining("vm: QEMU"),
      "launch measurement": expect.stringMatching(/^[0-9a-f]{96}$/),
      measured: expect.stringMatching(/^vmlinux, initrd\.cpio, command line/),
    });
    expect(demo?.steps.at(-1)?.facts["page"]).toContain("encrypted");
  });
});

it.skipIf(!isRoot)("demos leave nothing behind but what they were asked to keep", async () => {
  expect((await stateDirectories()).filter((name) => !before.includes(name))).toEqual([]);
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Directories that demos keep their state in while they run. */
async function stateDirectories(): Promise<readonly string[]> {
  return (await readdir(tmpdir())).filter((name) => name.startsWith(STATE_PREFIX));
}

/** Count of data blocks, from the layer's trailer (specs/runtime.md 4.10). */
async function dataBlocks(path: string): Promise<number> {
  const { size } = await stat(path);
  await using source = await fileSource(path);
  const trailer = await source.read(size - 512, 16);
  return Number(new DataView(trailer.buffer, trailer.byteOffset).getBigUint64(8, true));
}
