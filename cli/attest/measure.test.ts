import { createHash, createPublicKey, generateKeyPairSync, verify } from "node:crypto";
import { mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { encodeUtf8, toHex } from "@sealpod/core";
import { cpuSignatureOf, hashKernel, launchDigest, parseOvmf, processPages, type QemuLaunch, qemuLaunchPages } from "@sealpod/snp";
import { describe, expect, it } from "vitest";
import { EXIT, type CliContext } from "../context.ts";
import { guestProgram } from "../laptop.ts";
import { runCli } from "../program.ts";
import { ROOT } from "../workspace.ts";

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A directory with files, and `sealpod attest` in it. */
class Bench implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async with(files: Readonly<Record<string, Uint8Array | string>> = {}): Promise<Bench> {
    const bench = new Bench(await mkdtemp(join(tmpdir(), "sealpod-measure-")));
    for (const [name, content] of Object.entries(files)) await writeFile(join(bench.path, name), content);
    return bench;
  }

  async attest(...argv: readonly string[]): Promise<Ran> {
    const written = { stdout: "", stderr: "" };
    const context: CliContext = {
      env: {},
      cwd: this.path,
      stdin: (async function* () {})(),
      stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
      stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
      clock: { now: () => 0 },
      elapsed: () => 0,
      random: { bytes: (length) => new Uint8Array(length) },
      signal: new AbortController().signal,
    };
    return { exit: await runCli(["attest", ...argv], context), ...written };
  }

  async measure(...argv: readonly string[]): Promise<Ran> {
    return this.attest("measure", ...argv);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

function u32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) bytes.writeUInt32LE(value, 4 * index);
  return bytes;
}

/** Entry of the table of an image: data, u16 size, GUID as UEFI stores it. */
function entry(guid: string, data: Uint8Array, size = data.length + 18): Buffer {
  const [a = "", b = "", c = "", d = "", e = ""] = guid.split("-");
  const swapped = [a, b, c].map((part) => Buffer.from(part, "hex").reverse());
  return Buffer.concat([data, Buffer.of(size & 0xff, size >> 8), ...swapped, Buffer.from(d + e, "hex")]);
}

/** Two pages of firmware; the hashes of a kernel have their section or not. */
function ovmf(withHashes = true): Buffer {
  const sections = [[0x80_0000, 0x3000, 1], [0x80_a000, 0x1000, 2], [0x80_b000, 0x1000, 3], ...(withHashes ? [[0x81_0000, 0x1000, 0x10]] : [])];
  const image = Buffer.alloc(8192, 0x90);
  Buffer.concat([Buffer.from("ASEV"), u32(16 + 12 * sections.length, 1, sections.length), ...sections.map((row) => u32(...row))]).copy(image, 6000);
  const entries = [
    entry("dc886566-984a-4798-a75e-5585a7bf67cc", u32(8192 - 6000)),
    entry("7255371f-3a3b-4b04-927b-1da6efa8d454", u32(withHashes ? 0x81_0800 : 0, 0)),
    entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", u32(0x80_b004)),
  ];
  const length = entries.reduce((sum, item) => sum + item.length, 18);
  Buffer.concat([...entries, entry("96b582de-1fb2-45f7-baea-a366c55a082d", Buffer.alloc(0), length)]).copy(image, 8192 - 32 - length);
  return image;
}

/** A file with one page of content and one of zeros. */
function igvm(...more: readonly Buffer[]): Buffer {
  const header = (type: number, ...body: readonly Buffer[]): Buffer => {
    const bytes = Buffer.concat(body);
    return Buffer.concat([u32(type, bytes.length), bytes]);
  };
  const page = (gpa: number, offset: number): Buffer => header(0x302, u32(gpa, 0, 1, offset, 0, 0));
  const make = (data: number): Buffer =>
    Buffer.concat([header(0x1, u32(1), Buffer.of(0, 2, 1, 0), u32(0, 0)), header(0x101, u32(0x3001f, 0, 1, 0)), page(0x1000, data), page(0x2000, 0), ...more]);
  const variable = make(24 + make(0).length);
  const fixed = Buffer.concat([Buffer.from("IGVM"), u32(1, 24, variable.length, 24 + variable.length + 4096, 0)]);
  fixed.writeUInt32LE(crc32(Buffer.concat([fixed, variable])), 20);
  return Buffer.concat([fixed, variable, Buffer.alloc(4096, 5)]);
}

function expected(launch: Partial<QemuLaunch> = {}, image = ovmf()): string {
  return toHex(launchDigest(qemuLaunchPages({ ovmf: parseOvmf(image), vcpus: 1, cpuSignature: cpuSignatureOf("EPYC-Milan"), ...launch })));
}

const MILAN = ["--ovmf", "OVMF.fd", "--vcpus", "1", "--vcpu-type", "EPYC-Milan"] as const;

describe("sealpod attest measure", () => {
  it("prints the digest alone", async () => {
    await using bench = await Bench.with({ "OVMF.fd": ovmf() });
    expect(await bench.measure(...MILAN)).toEqual({ exit: EXIT.ok, stdout: `${expected()}\n`, stderr: "" });
  });

  it.each<[readonly string[], Partial<QemuLaunch>]>([
    [["--vcpus", "4", "--vcpu-type", "epyc-genoa"], { vcpus: 4, cpuSignature: 0xa10f10 }],
    [["--vcpus", "1", "--vcpu-sig", "0x800f12"], { cpuSignature: 0x800f12 }],
    [["--vcpus", "1", "--vcpu-sig", "8392466", "--guest-features", "0x21"], { cpuSignature: 0x800f12, guestFeatures: 0x21n }],
    [["--vcpus", "1", "--vcpu-family", "25", "--vcpu-model", "1", "--vcpu-stepping", "1", "--guest-features", "33"], { guestFeatures: 0x21n }],
    [["--vmm-type", "ec2", "--vcpus", "2"], { vmm: "ec2", vcpus: 2 }],
    [["--vmm-type", "gce", "--vcpus", "2", "--vcpu-type", "EPYC-Rome"], { vmm: "gce", vcpus: 2 }],
  ])("knows the flags %j", async (flags, launch) => {
    await using bench = await Bench.with({ "OVMF.fd": ovmf() });
    expect(await bench.measure("--ovmf", "OVMF.fd", ...flags)).toMatchObject({ exit: EXIT.ok, stdout: `${expected(launch)}\n` });
  });

  it("measures a kernel, its disk and its command line", async () => {
    const [kernel, initrd] = [encodeUtf8("kernel"), encodeUtf8("disk")];
    await using bench = await Bench.with({ "OVMF.fd": ovmf(), vmlinuz: kernel, initrd, empty: "" });
    const whole = await bench.measure(...MILAN, "--kernel", "vmlinuz", "--initrd", "initrd", "--append", "root=/dev/vda ro");
    expect(whole.stdout).toBe(`${expected({ kernelHashes: hashKernel({ kernel, initrd, commandLine: "root=/dev/vda ro" }) })}\n`);
    const alone = await bench.measure(...MILAN, "--kernel", "vmlinuz");
    expect(alone.stdout).toBe(`${expected({ kernelHashes: hashKernel({ kernel }) })}\n`);
    expect((await bench.measure(...MILAN, "--kernel", "vmlinuz", "--initrd", "empty", "--append", "")).stdout).toBe(alone.stdout);
    expect((await bench.measure(...MILAN, "--kernel", "/dev/null")).stdout).toBe(`${expected({ kernelHashes: hashKernel({ kernel: new Uint8Array() }) })}\n`);
  });

  it("goes on from the digest of the image, which a mode prints", async () => {
    await using bench = await Bench.with({ "OVMF.fd": ovmf(), "end.fd": ovmf().subarray(4096) });
    const image = (await bench.measure("--mode", "snp:ovmf-hash", "--ovmf", "OVMF.fd")).stdout.trim();
    expect(image).toMatch(/^[0-9a-f]{96}$/);
    const rest = await bench.measure("--ovmf", "end.fd", "--vcpus", "1", "--vcpu-type", "EPYC-Milan", "--snp-ovmf-hash", image);
    expect(rest.stdout).toBe(`${expected()}\n`);
  });

  it("prints base64, and JSON", async () => {
    await using bench = await Bench.with({ "OVMF.fd": ovmf() });
    const digest = expected();
    expect((await bench.measure(...MILAN, "--output-format", "base64")).stdout).toBe(`${Buffer.from(digest, "hex").toString("base64")}\n`);
    expect(JSON.parse((await bench.measure(...MILAN, "--json")).stdout)).toEqual({ measurement: digest, launch: "ovmf" });
  });

  it("shows what runs of pages, or each page, adds", async () => {
    await using bench = await Bench.with({ "OVMF.fd": ovmf() });
    const folded = await bench.measure(...MILAN, "--pages");
    const lines = folded.stdout.trimEnd().split("\n");
    expect(lines.at(-1)).toBe(expected());
    expect(
      lines
        .filter((line) => line.startsWith("|"))
        .map((line) =>
          line
            .split("|")
            .slice(1, 5)
            .map((cell) => cell.trim()),
        ),
    ).toEqual([
      ["address", "pages", "kind", "source"],
      ["0xffffe000", "2", "normal", "OVMF image"],
      ["0x800000", "3", "zero", "section SNP_SEC_MEM"],
      ["0x80a000", "1", "secrets", "section SNP_SECRETS"],
      ["0x80b000", "1", "cpuid", "section SNP_CPUID"],
      ["0x810000", "1", "zero", "section SNP_KERNEL_HASHES"],
      ["0xfffffffff000", "1", "vmsa", "VMSA of the first vCPU"],
    ]);
    expect(lines.at(-3)).toContain(`${expected().slice(0, 16)}…`);
    const all = JSON.parse((await bench.measure(...MILAN, "--pages=all", "--json")).stdout) as { readonly pages: readonly Record<string, unknown>[] };
    expect(all.pages).toHaveLength(9);
    const first = createHash("sha384").update(ovmf().subarray(0, 4096)).digest("hex");
    expect(all.pages[0]).toEqual({
      kind: "normal",
      gpa: "0xffffe000",
      count: 1,
      source: "OVMF image",
      file: "ovmf",
      offset: 0,
      contentsDigest: first,
      digestAfter: expect.any(String) as unknown,
    });
    expect(all.pages.at(-1)).toMatchObject({ kind: "vmsa", digestAfter: expected() });
    expect((await bench.measure(...MILAN, "--pages", "all")).stdout.trimEnd().split("\n")).toHaveLength(3 + 9 + 1 + 1);
  });

  it("measures an IGVM file", async () => {
    await using bench = await Bench.with({ "uvm.igvm": igvm() });
    const pages = [
      { kind: "normal", gpa: 0x1000n, contents: new Uint8Array(4096).fill(5) },
      { kind: "normal", gpa: 0x2000n, contents: new Uint8Array(4096) },
    ] as const;
    const digest = toHex(launchDigest(pages));
    expect(await bench.measure("--igvm", "uvm.igvm")).toEqual({ exit: EXIT.ok, stdout: `${digest}\n`, stderr: "" });
    expect(JSON.parse((await bench.measure("--igvm", "uvm.igvm", "--json")).stdout)).toEqual({ measurement: digest, launch: "igvm", policy: "0x3001f" });
  });

  it("warns of an IGVM file whose ID block is for another measurement", async () => {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "secp384r1" });
    const { x = "", y = "" } = privateKey.export({ format: "jwk" });
    const point = [x, y].map((part) => Buffer.concat([Buffer.from(part, "base64url").reverse(), Buffer.alloc(24)]));
    const body = Buffer.concat([u32(1, 0), Buffer.alloc(48, 9), Buffer.alloc(32), u32(1, 2, 1, 0), Buffer.alloc(144), u32(2, 0), ...point, Buffer.alloc(296)]);
    await using bench = await Bench.with({ "uvm.igvm": igvm(Buffer.concat([u32(0x30b, body.length), body])) });
    const ran = await bench.measure("--igvm", "uvm.igvm", "--json");
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stderr).toContain(`the file's ID block is for the measurement ${"09".repeat(48)}`);
    expect(JSON.parse(ran.stdout)).toMatchObject({ idBlock: { measurement: "09".repeat(48), matches: false, verified: false, guestSvn: 2 } });
  });

  it("measures process isolation as the emulated processor does", async () => {
    const bundle = encodeUtf8("// agent");
    await using bench = await Bench.with({ "agent.mjs": bundle });
    const guest = guestProgram();
    expect(guest.measuredFiles).toEqual([join(ROOT, "build", "agent.mjs")]);
    const digestOf = (file: Uint8Array): string => toHex(launchDigest(processPages([file, encodeUtf8(`${guest.commandLine}\0`)])));
    const ran = await bench.measure("--process", "agent.mjs", "--pages");
    expect(ran.stdout.trimEnd().split("\n").at(-1)).toBe(digestOf(bundle));
    expect(ran.stderr).toContain("EMULATED - NO HARDWARE PROTECTION");
    const sources = ran.stdout
      .split("\n")
      .filter((line) => line.startsWith("|"))
      .slice(1);
    expect(sources.map((line) => line.split("|")[4]?.trim())).toEqual(["directory", join(bench.path, "agent.mjs"), "command line"]);
    const own = await bench.measure("--process");
    const [built] = guest.measuredFiles;
    if (built !== undefined && existsSync(built)) expect(own.stdout).toBe(`${digestOf(await readFile(built))}\n`);
    else expect(own).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("npm run bundle") as unknown });
  });

  it.each<[string, readonly string[], number, readonly string[]]>([
    ["nothing to measure", [], EXIT.usage, ["none of --ovmf, --igvm, --process and --uvm"]],
    ["two things to measure", ["--ovmf", "OVMF.fd", "--igvm", "x"], EXIT.usage, ["--ovmf and --igvm"]],
    ["a missing file", ["--ovmf", "absent.fd", "--vcpus", "1", "--vcpu-type", "EPYC"], EXIT.failed, ["absent.fd does not exist", "relative paths start from"]],
    ["a missing kernel", [...MILAN, "--kernel", "absent"], EXIT.failed, ["absent does not exist"]],
    ["a missing bundle", ["--process", "absent.mjs"], EXIT.failed, ["absent.mjs"]],
    ["a directory", ["--igvm", "."], EXIT.failed, ["error: . ", "is a directory"]],
    ["a file that is no firmware", ["--ovmf", "text", "--vcpus", "1", "--vcpu-type", "EPYC"], EXIT.failed, ["OVMF image: 5 bytes", "ERR_SNP_OVMF"]],
    ["a file that is no IGVM", ["--igvm", "OVMF.fd"], EXIT.failed, ['expected "IGVM"', "ERR_SNP_IGVM"]],
    ["a file above the limit", ["--ovmf", "large", "--vcpus", "1", "--vcpu-type", "EPYC"], EXIT.failed, ["large has more than 16777216 bytes"]],
    [
      "a kernel for firmware without its section",
      ["--ovmf", "plain.fd", "--vcpus", "1", "--vcpu-type", "EPYC", "--kernel", "text"],
      EXIT.failed,
      ["SNP_KERNEL_HASHES", "AmdSev build"],
    ],
    [
      "an unknown CPU",
      ["--ovmf", "OVMF.fd", "--vcpus", "1", "--vcpu-type", "EPYC-Naples"],
      EXIT.failed,
      ['"EPYC-Naples" is unknown', "EPYC-Rome, ", "EPYC-Milan, ", "EPYC-Turin"],
    ],
    ["no CPU for QEMU", ["--ovmf", "OVMF.fd", "--vcpus", "1"], EXIT.usage, ["--vcpu-type is missing"]],
    ["two ways to name the CPU", [...MILAN, "--vcpu-sig", "1"], EXIT.usage, ["exclude each other"]],
    ["half a CPU", ["--ovmf", "OVMF.fd", "--vcpus", "1", "--vcpu-family", "25", "--vcpu-stepping", "1"], EXIT.usage, ["--vcpu-model is missing"]],
    [
      "an impossible CPU",
      ["--ovmf", "OVMF.fd", "--vcpus", "1", "--vcpu-family", "25", "--vcpu-model", "1", "--vcpu-stepping", "16"],
      EXIT.failed,
      ["stepping 16"],
    ],
    ["no number of vCPUs", ["--ovmf", "OVMF.fd", "--vcpu-type", "EPYC"], EXIT.usage, ["--vcpus is missing"]],
    ["no vCPU", ["--ovmf", "OVMF.fd", "--vcpus", "0", "--vcpu-type", "EPYC"], EXIT.usage, ["--vcpus 0 is not a number from 1 to 4096"]],
    ["many vCPUs", ["--ovmf", "OVMF.fd", "--vcpus", "4097", "--vcpu-type", "EPYC"], EXIT.usage, ["--vcpus 4097 is not a number from 1 to 4096"]],
    ["a word for a number", [...MILAN, "--guest-features", "all"], EXIT.usage, ["--guest-features all is not a number"]],
    ["features without SNP", [...MILAN, "--guest-features", "0x20"], EXIT.failed, ["bit 0"]],
    ["a disk without kernel", [...MILAN, "--initrd", "text"], EXIT.usage, ["--initrd needs --kernel"]],
    ["a command line without kernel", [...MILAN, "--append", "x"], EXIT.usage, ["--append needs --kernel"]],
    ["a short digest of the image", [...MILAN, "--snp-ovmf-hash", "00"], EXIT.usage, ["not 96 hex digits", "snp:ovmf-hash"]],
    ["an unknown hypervisor", [...MILAN, "--vmm-type", "xen"], EXIT.usage, ["Allowed choices are qemu, ec2, gce"]],
    ["another mode", [...MILAN, "--mode", "seves"], EXIT.usage, ["--mode seves is not supported", "no attestation report"]],
    ["SVSM", [...MILAN, "--mode", "snp:svsm"], EXIT.usage, ["Coconut SVSM are not supported yet"]],
    ["an unknown mode", [...MILAN, "--mode", "tdx"], EXIT.usage, ["--mode tdx is not supported"]],
    ["the mode of firmware for an IGVM file", ["--igvm", "text", "--mode", "snp:ovmf-hash"], EXIT.usage, ["give --ovmf"]],
    ["a flag that does not apply", ["--igvm", "text", "--vcpus", "1"], EXIT.usage, ["--vcpus does not go with --igvm"]],
    ["a kernel for process isolation", ["--process", "text", "--kernel", "text"], EXIT.usage, ["--kernel does not go with --process"]],
    ["an unknown choice of pages", [...MILAN, "--pages=some"], EXIT.usage, ["Allowed choices are folded, all"]],
  ])("with %s says so", async (_name, argv, exit, words) => {
    await using bench = await Bench.with({ "OVMF.fd": ovmf(), "plain.fd": ovmf(false), text: "hello", large: "" });
    await truncate(join(bench.path, "large"), 16 * 1024 * 1024 + 1);
    const ran = await bench.measure(...argv);
    expect(ran).toMatchObject({ exit, stdout: "" });
    for (const word of words) expect(ran.stderr).toContain(word);
  });

  it.each([["measure"], ["id-block", "create"], ["id-block", "check"]])("%s %s has help with examples", async (...argv) => {
    await using bench = await Bench.with();
    const ran = await bench.attest(...argv.filter((item) => typeof item === "string"), "--help");
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stdout).toMatch(new RegExp(`Examples:\\n[\\s\\S]*sealpod attest ${argv[0]}`));
    expect(ran.stdout).not.toContain("--state");
  });
});

const pem = (): string => generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey.export({ format: "pem", type: "sec1" }).toString();
const KEYS = { "id.pem": pem(), "author.pem": pem() };
const DIGEST = "ab".repeat(48);

interface Created {
  readonly idBlock: string;
  readonly idAuth: string;
  readonly idKeyDigest: string;
  readonly authorKeyDigest?: string;
}

async function create(bench: Bench, ...argv: readonly string[]): Promise<Created> {
  const ran = await bench.attest("id-block", "create", "--idkey", "id.pem", "--measurement", DIGEST, "--json", ...argv);
  expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "" });
  return JSON.parse(ran.stdout) as Created;
}

describe("sealpod attest id-block", () => {
  it("creates what verifies without it", async () => {
    await using bench = await Bench.with(KEYS);
    const made = await create(
      bench,
      "--authorkey",
      "author.pem",
      "--guest-svn",
      "2",
      "--policy",
      "0x3001f",
      "--family-id",
      "01".repeat(16),
      "--image-id",
      Buffer.alloc(16, 2).toString("base64"),
    );
    const block = Buffer.from(made.idBlock, "base64");
    expect(block.toString("hex")).toBe(`${DIGEST}${"01".repeat(16)}${"02".repeat(16)}01000000020000001f00030000000000`);
    const auth = Buffer.from(made.idAuth, "base64");
    const number = (at: number): Buffer => Buffer.from(auth.subarray(at, at + 48)).reverse();
    for (const [name, at, message] of [
      ["id.pem", 0x40, block],
      ["author.pem", 0x680, auth.subarray(0x240, 0x644)],
    ] as const) {
      const signature = Buffer.concat([number(at), number(at + 72)]);
      expect(verify("sha384", message, { key: createPublicKey(KEYS[name]), dsaEncoding: "ieee-p1363" }, signature), name).toBe(true);
    }
    expect(made.idKeyDigest).toBe(createHash("sha384").update(auth.subarray(0x240, 0x644)).digest("hex"));
    expect(made.authorKeyDigest).toBe(createHash("sha384").update(auth.subarray(0x880, 0xc84)).digest("hex"));
  });

  it("prints the properties of QEMU's object, and writes files", async () => {
    await using bench = await Bench.with(KEYS);
    const ran = await bench.attest("id-block", "create", "--idkey", "id.pem", "--measurement", Buffer.from(DIGEST, "hex").toString("base64"), "--out", "a/b");
    const lines = ran.stdout
      .trimEnd()
      .split("\n")
      .map((line) => /^([a-z-]+)=(.*)$/.exec(line)?.slice(1) ?? []);
    expect(lines.map(([name]) => name)).toEqual(["id-block", "id-auth", "id-key-digest"]);
    expect((await readFile(join(bench.path, "a/b/id-block.bin"))).toString("base64")).toBe(lines[0]?.[1]);
    expect((await readFile(join(bench.path, "a/b/id-auth.bin"))).toString("base64")).toBe(lines[1]?.[1]);
    // Defaults: SVN 0, no ids, POLICY 0x30000.
    expect((await readFile(join(bench.path, "a/b/id-block.bin"))).toString("hex")).toBe(`${DIGEST}${"00".repeat(32)}01000000000000000000030000000000`);
    expect(await bench.attest("id-block", "check", "a/b/id-block.bin", "a/b/id-auth.bin", "--measurement", DIGEST)).toMatchObject({ exit: EXIT.ok });
  });

  it("checks files and their base64, and shows each field", async () => {
    await using bench = await Bench.with(KEYS);
    const made = await create(bench, "--authorkey", "author.pem", "--policy", "0xa001f", "--guest-svn", "7");
    await writeFile(join(bench.path, "block"), `${made.idBlock}\n`);
    await writeFile(join(bench.path, "auth"), made.idAuth.replaceAll(/(.{76})/g, "$1\r\n"));
    const required = ["--measurement", `0x${DIGEST}`, "--id-key-digest", made.idKeyDigest, "--author-key-digest", made.authorKeyDigest ?? ""];
    const ran = await bench.attest("id-block", "check", "block", "auth", ...required);
    expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "" });
    expect(ran.stdout.split("\n")).toEqual([
      `measurement        ${DIGEST}`,
      `family id          ${"00".repeat(16)}`,
      `image id           ${"00".repeat(16)}`,
      "guest SVN          7",
      "policy             0xa001f (ABI 0.31, DEBUGGING ALLOWED, no migration, no SMT)",
      `ID key digest      ${made.idKeyDigest}`,
      `author key digest  ${made.authorKeyDigest}`,
      "Both signatures verify.",
      "",
    ]);
    expect(JSON.parse((await bench.attest("id-block", "check", "block", "auth", "--json")).stdout)).toMatchObject({
      verified: true,
      policy: "0xa001f",
      guestSvn: 7,
      idKeyDigest: made.idKeyDigest,
    });
  });

  it("refuses with 3 what does not verify or is not as required", async () => {
    await using bench = await Bench.with(KEYS);
    const [one, two] = [await create(bench), await create(bench, "--guest-svn", "1")];
    await writeFile(join(bench.path, "block"), two.idBlock);
    await writeFile(join(bench.path, "auth"), one.idAuth);
    const mixed = await bench.attest("id-block", "check", "block", "auth");
    expect(mixed.exit).toBe(EXIT.refused);
    expect(mixed.stdout).toContain("guest SVN          1 (NOT VERIFIED)\n");
    const lines = mixed.stdout.trimEnd().split("\n");
    expect(lines.filter((line) => line.endsWith(" (NOT VERIFIED)"))).toHaveLength(7);
    expect(lines.at(-1)).toMatch(/^REFUSED: .*the ID key's signature of the ID block does not verify \(ERR_SNP_ID_AUTH\)$/);
    expect(mixed.stderr).toBe("");
    const json = await bench.attest("id-block", "check", "block", "auth", "--json");
    expect(json).toMatchObject({ exit: EXIT.refused, stderr: "" });
    expect(JSON.parse(json.stdout)).toMatchObject({ verified: false, guestSvn: 1, error: { code: "ERR_SNP_ID_AUTH" } });
    await writeFile(join(bench.path, "auth"), two.idAuth);
    expect(await bench.attest("id-block", "check", "block", "auth")).toMatchObject({ exit: EXIT.ok });
    for (const flag of ["--measurement", "--id-key-digest", "--author-key-digest"]) {
      const ran = await bench.attest("id-block", "check", "block", "auth", flag, "00".repeat(48));
      expect(ran).toMatchObject({ exit: EXIT.refused, stderr: "" });
      expect(ran.stdout.trimEnd().split("\n").at(-1)).toMatch(new RegExp(`^REFUSED: .*expected ${"00".repeat(48)} `));
      // What it says is signed, and not what was asked for.
      expect(ran.stdout).not.toContain("NOT VERIFIED");
    }
  });

  it("tells of mistakes, and never what is in a key file", async () => {
    const rsa = generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey.export({ format: "pem", type: "pkcs8" }).toString();
    const locked = generateKeyPairSync("ec", { namedCurve: "secp384r1" })
      .privateKey.export({ format: "pem", type: "pkcs8", cipher: "aes-256-cbc", passphrase: "x" })
      .toString();
    const publicKey = createPublicKey(KEYS["id.pem"]).export({ format: "pem", type: "spki" }).toString();
    await using bench = await Bench.with({ ...KEYS, "rsa.pem": rsa, "locked.pem": locked, "public.pem": publicKey, secret: "SECRET-TEXT" });
    const key = (name: string): readonly string[] => ["create", "--measurement", DIGEST, "--idkey", name];
    const good = [...key("id.pem")];
    const cases: readonly (readonly [readonly string[], number, string])[] = [
      [["create", "--idkey", "id.pem"], EXIT.usage, "required option '--measurement"],
      [["create", "--measurement", DIGEST], EXIT.usage, "required option '--idkey"],
      [key("absent.pem"), EXIT.failed, "absent.pem does not exist"],
      [key("secret"), EXIT.failed, "holds no private key"],
      [key("locked.pem"), EXIT.failed, "holds no private key"],
      [key("public.pem"), EXIT.failed, "holds no private key"],
      [key("rsa.pem"), EXIT.failed, "expected EC P-384"],
      [[...good, "--authorkey", "rsa.pem"], EXIT.failed, "expected EC P-384"],
      [["create", "--idkey", "id.pem", "--measurement", "abc"], EXIT.usage, "--measurement abc is not 48 bytes"],
      [[...good, "--family-id", "00"], EXIT.usage, "--family-id 00 is not 16 bytes"],
      [[...good, "--guest-svn", "0x100000000"], EXIT.usage, "--guest-svn"],
      [[...good, "--policy", "0x1001f"], EXIT.failed, "bit 17 clear"],
      [[...good, "--out", "secret"], EXIT.failed, "--out secret: "],
      [["check", "secret", "secret"], EXIT.failed, "neither 96 bytes nor their base64"],
      [["check", "secret"], EXIT.usage, "missing required argument 'id-auth'"],
      [["check", "absent", "secret"], EXIT.failed, "absent does not exist"],
    ];
    for (const [argv, exit, message] of cases) {
      const ran = await bench.attest("id-block", ...argv);
      expect(ran, argv.join(" ")).toMatchObject({ exit, stdout: "", stderr: expect.stringContaining(message) as unknown });
      expect(ran.stderr).not.toContain("SECRET-TEXT");
    }
  });
});
