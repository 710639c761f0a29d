import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdtemp, open, readdir, rename, rm, writeFile } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { encodeUtf8, isSealpodError, messageOf, sha256, toHex } from "@sealpod/core";
import { compileInit } from "@sealpod/init";
import { buildErofsLayer, encodeTar, patchableSink } from "@sealpod/verity";
import { type BillOfMaterials, encodeBill, requireLocked } from "./bill-of-materials.ts";
import { uvmCommandLine, type UvmTarget } from "./command-line.ts";
import { outputOf, startCommand, type StartCommand } from "./command.ts";
import { COMPILER_PACKAGE, DEFAULT_KERNEL_PACKAGE, KERNEL_PACKAGE, LIBRARY_PACKAGES, PROGRAMS } from "./contents.ts";
import { stripElf } from "./elf.ts";
import { type DebianPackage, fetchPackages, resolvePackages } from "./debian-packages.ts";
import { ImageError } from "./errors.ts";
import { buildInitrd } from "./initrd.ts";
import { extractVmlinux } from "./kernel.ts";
import { KernelModules, type UnpackModule } from "./kernel-modules.ts";
import { makeDirectory } from "./make-directory.ts";
import { encodeManifest, MANIFEST_FILE, type UvmFile, type UvmManifest } from "./manifest.ts";
import { PackageFiles } from "./package-files.ts";
import { buildRoot, type UvmProfile } from "./root.ts";
import { saveAgent } from "./saved-agent.ts";

/** Name of the bill of materials in an image's directory. */
export const BILL_FILE = "bom.json";

/** Names of an image's files in its directory. */
const FILES = { kernel: "vmlinux", initrd: "initrd.cpio", root: "root.erofs" } as const;

/** Largest unpacked kernel module: the largest of a distribution, a GPU's, has 10 MiB. */
const MAX_MODULE = 64 * 1024 * 1024;

/** What an image is built from and where to. */
export interface BuildUvmOptions {
  /** Directory of the image: it is made, or replaced as a whole if it holds an image already. */
  readonly output: string;
  readonly target: UvmTarget;
  /** Formats of pods; default: aks. */
  readonly profile?: UvmProfile;
  /** Default: the distribution's newest kernel for virtual machines. With {@link lock}, its. */
  readonly kernelPackage?: string | undefined;
  /** Node's program as npm has it, x86-64. */
  readonly node: { readonly bytes: Uint8Array; /** With or without a `v` in front. */ readonly version: string };
  /** The agent's bundle, `build/agent.mjs`. */
  readonly agent: { readonly bytes: Uint8Array; readonly version: string };
  /** The native helper if it is compiled already; default: it is compiled with the compiler of the packages. */
  readonly helper?: Uint8Array;
  /** Directory that keeps fetched packages for the next build. */
  readonly packages: string;
  /** The only materials to build from. */
  readonly lock?: BillOfMaterials | undefined;
  /** Told what is being done. */
  readonly progress?: (step: string) => void;
  readonly signal?: AbortSignal | undefined;
  /** Starts the tools of the machine: apt-cache, apt-get, dpkg-deb, the compiler, xz. */
  readonly start?: StartCommand;
}

/**
 * Builds a utility VM's image: kernel, initial RAM disk, root under dm-verity, manifest and bill of materials. The bytes depend on the
 * materials alone: not on the time, the machine, its settings, or where it is done. The directory appears when everything is in it.
 * @throws {ImageError} all codes but ERR_IMAGE_UVM, ERR_IMAGE_CHANGED and ERR_IMAGE_MEASUREMENT
 * @throws {VerityError} for a package that is malformed
 */
export async function buildUvm(options: BuildUvmOptions): Promise<UvmManifest> {
  const { target, profile = "aks", lock, signal, progress = () => undefined, start = startCommand } = options;
  const output = resolve(options.output);
  await requireReplaceable(output);
  let told = "";
  const step = (text: string): void => {
    if (signal?.aborted === true) throw new ImageError("ERR_IMAGE_ABORTED", "the build was stopped; nothing was left behind");
    // A step that takes many writes is asked about at each, and told once.
    if (text !== told) progress(text);
    told = text;
  };
  const scratch = await mkdtemp(join(tmpdir(), "sealpod-image-"));
  try {
    const tools = { start, directory: resolve(options.packages), signal };
    step("choosing packages");
    const packages = lock === undefined ? await resolvePackages(packageNames(options), tools) : lockedPackages(options, lock);
    step(`fetching ${packages.length} packages`);
    const debs = await fetchPackages(packages, tools);
    const files = new PackageFiles();
    const compiler = new PackageFiles();
    for (const { name } of packages) {
      step(`reading ${name}`);
      const tar = start("dpkg-deb", ["--fsys-tarfile", "--", debs.get(name) ?? ""], { cwd: scratch, signal });
      await (name === COMPILER_PACKAGE ? compiler : files).add(tar, name, KERNEL_PACKAGE.test(name) ? isKernelFile : isProgramFile);
    }
    step("compiling the native helper");
    const helper = options.helper ?? (await compileHelper(compiler, scratch, tools));
    const bill: BillOfMaterials = {
      target,
      packages,
      parts: [
        { name: "node", version: options.node.version.replace(/^v/, ""), sha256: toHex(sha256(options.node.bytes)) },
        { name: "sealpod-agent", version: options.agent.version, sha256: toHex(sha256(options.agent.bytes)) },
        { name: "sealpod-helper", version: options.agent.version, sha256: toHex(sha256(helper)) },
      ],
    };
    if (lock !== undefined) requireLocked(bill, lock);
    step("unpacking the kernel");
    const { release, bytes } = kernelOf(files);
    const vmlinux = extractVmlinux(bytes, `boot/vmlinuz-${release}`);
    const modules = new KernelModules(files, release, unpackWith(start, scratch, signal));
    step("making the initial RAM disk");
    const initrd = await buildInitrd(modules, target, helper);
    step("loading the agent");
    const node = await stripElf(options.node.bytes, "the node binary");
    const agent = await saveAgent(node, options.agent.bytes, { start, scratch, signal });
    step("making the root");
    const root = await buildRoot(files, modules, { target, profile, node, agent, helper });
    return await publish(output, async (directory) => {
      const layer = await writeRoot(join(directory, FILES.root), encodeTar(root.tarItems()), step);
      const manifest: UvmManifest = {
        version: 1,
        target,
        architecture: "amd64",
        kernel: { ...(await writeWhole(directory, FILES.kernel, vmlinux)), release },
        initrd: await writeWhole(directory, FILES.initrd, initrd),
        root: { file: FILES.root, sha256: layer.sha256, size: layer.size, rootHash: toHex(layer.rootHash), dataBlocks: layer.dataBlocks },
        commandLine: uvmCommandLine(target, layer.rootHash, layer.dataBlocks),
        agent: { version: options.agent.version, sha256: toHex(sha256(options.agent.bytes)) },
        packages,
      };
      await writeWhole(directory, BILL_FILE, encodeUtf8(encodeBill(bill)));
      await writeWhole(directory, MANIFEST_FILE, encodeUtf8(encodeManifest(manifest)));
      step("done");
      return manifest;
    });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

function packageNames(options: BuildUvmOptions): readonly string[] {
  return [
    options.kernelPackage ?? DEFAULT_KERNEL_PACKAGE,
    ...(options.helper === undefined ? [COMPILER_PACKAGE] : []),
    ...PROGRAMS.map(({ package: name }) => name),
    ...LIBRARY_PACKAGES,
  ];
}

/** The lock's packages, if they are those that this version builds from. */
function lockedPackages(options: BuildUvmOptions, { packages }: BillOfMaterials): readonly DebianPackage[] {
  const wanted = new Set(packageNames(options).slice(1));
  const [missing] = [...wanted].filter((name) => !packages.some((item) => item.name === name));
  const [kernel, ...others] = packages.filter(({ name }) => !wanted.has(name)).map(({ name }) => name);
  if (missing !== undefined || kernel === undefined || !KERNEL_PACKAGE.test(kernel) || others.length > 0) {
    const problem =
      missing === undefined ? `names ${[kernel ?? "no kernel", ...others].slice(0, 8).join(", ")}, expected one kernel` : `does not name ${missing}`;
    throw new ImageError("ERR_IMAGE_LOCK", `the lock ${problem}`, { hint: "It was made with another version of Sealpod, whose images have other packages." });
  }
  if (options.kernelPackage !== undefined && options.kernelPackage !== kernel)
    throw new ImageError("ERR_IMAGE_LOCK", `the lock has ${kernel}, and ${options.kernelPackage.slice(0, 100)} was asked for`, {
      hint: "Leave out --kernel-package: the lock names it.",
    });
  return packages;
}

function isKernelFile(path: string): boolean {
  return path.startsWith("boot/vmlinuz-") || /^usr\/lib\/modules\/[^/]+\/(?:kernel\/.*\.ko(?:\.xz|\.zst)?|modules\.builtin)$/.test(path);
}

/** Programs, libraries and their settings; not documentation, and not what converts between character sets. */
function isProgramFile(path: string): boolean {
  return /^(?:usr\/s?bin|usr\/lib|usr\/lib64|etc)\//.test(path) && !path.includes("/gconv/");
}

function kernelOf(files: PackageFiles): { readonly release: string; readonly bytes: Uint8Array } {
  const kernels = files.paths.filter((path) => path.startsWith("boot/vmlinuz-"));
  const [path = ""] = kernels;
  const file = files.get(path);
  if (kernels.length !== 1 || file?.kind !== "file")
    throw new ImageError("ERR_IMAGE_KERNEL", `the packages have ${kernels.length} kernels in /boot, expected one`);
  return { release: path.slice("boot/vmlinuz-".length), bytes: file.data };
}

/** Modules as the kernel loads them; distributions pack them or not. */
function unpackWith(start: StartCommand, scratch: string, signal: AbortSignal | undefined): UnpackModule {
  return async (bytes, path) => {
    if (path.endsWith(".zst")) {
      try {
        return zstdDecompressSync(bytes, { maxOutputLength: MAX_MODULE });
      } catch (cause) {
        throw new ImageError("ERR_IMAGE_KERNEL", `${path} cannot be unpacked: ${messageOf(cause)}`, { cause });
      }
    }
    if (!path.endsWith(".xz")) return bytes;
    const packed = join(scratch, `${randomBytes(8).toString("hex")}.xz`);
    await writeFile(packed, bytes);
    const unpacked = await outputOf(start("xz", ["-dc", "--", packed], { cwd: scratch, signal }), path, MAX_MODULE);
    await rm(packed);
    return unpacked;
  };
}

/** Lays the compiler's package out and compiles the helper with it. */
async function compileHelper(
  compiler: PackageFiles,
  scratch: string,
  { start, signal }: { readonly start: StartCommand; readonly signal?: AbortSignal | undefined },
): Promise<Uint8Array> {
  const directory = join(scratch, "compiler");
  for (const path of compiler.paths) {
    // What a link leads to is laid out under its name: a link itself could lead out of the directory.
    const file = compiler.follow(path).at(-1)?.[1];
    if (file?.kind !== "file") continue;
    const target = join(directory, path);
    await makeDirectory(dirname(target));
    await writeFile(target, file.data);
    await chmod(target, file.executable ? 0o755 : 0o644);
  }
  const run = async (command: string, args: readonly string[]): Promise<void> => {
    await outputOf(start(command, args, { cwd: scratch, signal }), command, MAX_MODULE);
  };
  return compileInit({ tcc: directory, output: join(scratch, "helper"), run });
}

/** An image may stand where one stood, and where nothing is; never where somebody keeps something else. */
async function requireReplaceable(output: string): Promise<void> {
  const names = await readdir(output).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return undefined;
    throw unwritable(output, cause);
  });
  if (names === undefined || names.length === 0 || names.includes(MANIFEST_FILE)) return;
  throw new ImageError("ERR_IMAGE_WRITE", `${output} holds something that is no image`, {
    hint: "Name another directory with --output; this one is left as it is.",
  });
}

/** Makes a directory beside `output`, has it filled, and gives it the name when it is whole. */
async function publish<T>(output: string, fill: (directory: string) => Promise<T>): Promise<T> {
  const beside = await orUnwritable(output, async () => {
    await makeDirectory(dirname(output));
    return mkdtemp(join(dirname(output), `.${basename(output)}.`));
  });
  const old = `${beside}.old`;
  try {
    const result = await orUnwritable(output, () => fill(beside));
    await orUnwritable(output, async () => {
      await chmod(beside, 0o755);
      const replaces = await rename(output, old).then(
        () => true,
        (cause: NodeJS.ErrnoException) => {
          if (cause.code === "ENOENT") return false;
          throw cause;
        },
      );
      try {
        await rename(beside, output);
      } catch (cause) {
        if (replaces) await rename(old, output);
        throw cause;
      }
    });
    return result;
  } finally {
    await rm(beside, { recursive: true, force: true });
    await rm(old, { recursive: true, force: true });
  }
}

async function writeWhole(directory: string, file: string, bytes: Uint8Array): Promise<UvmFile> {
  await using handle = await open(join(directory, file), "wx", 0o644);
  await handle.writeFile(bytes);
  await seal(handle);
  return { file, sha256: toHex(sha256(bytes)), size: bytes.length };
}

/** On the disk, and readable for all whatever the umask: there is nothing secret in an image. */
async function seal(handle: FileHandle): Promise<void> {
  await handle.chmod(0o644);
  await handle.sync();
}

async function writeRoot(
  path: string,
  tar: AsyncIterable<Uint8Array>,
  step: (text: string) => void,
): Promise<{ readonly rootHash: Uint8Array; readonly dataBlocks: number; readonly size: number; readonly sha256: string }> {
  await using handle = await open(path, "wx+", 0o644);
  const sink = patchableSink(async (offset, bytes) => {
    step("writing the root");
    for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at, bytes.length - at, offset + at)).bytesWritten;
  });
  const { rootHash, dataBlocks, size } = await buildErofsLayer(tar, sink);
  await seal(handle);
  // Not while it is written: its first block comes last.
  const hash = createHash("sha256");
  const chunk = new Uint8Array(1024 * 1024);
  for (let at = 0; at < size;) {
    const { bytesRead } = await handle.read(chunk, 0, chunk.length, at);
    if (bytesRead === 0) throw new Error("the file became shorter while it was read");
    hash.update(chunk.subarray(0, bytesRead));
    at += bytesRead;
  }
  return { rootHash, dataBlocks, size, sha256: hash.digest("hex") };
}

async function orUnwritable<T>(output: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw isSealpodError(cause) ? cause : unwritable(output, cause);
  }
}

function unwritable(output: string, cause: unknown): ImageError {
  const full = (cause as NodeJS.ErrnoException).code === "ENOSPC";
  return new ImageError("ERR_IMAGE_WRITE", `cannot write ${output}: ${full ? "the disk is full" : messageOf(cause)}`, {
    cause,
    ...(full ? { hint: "An image has about 200 MB, and as much again while an older one is replaced." } : {}),
  });
}
