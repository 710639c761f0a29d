import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { join, resolve } from "node:path";
import { equalBytes, messageOf, toHex } from "@sealpod/core";
import { imagePages, LaunchMeasurement, type LaunchPage, PAGE_SIZE, processDirectory } from "@sealpod/snp";
import { HashTreeBuilder, readErofs } from "@sealpod/verity";
import { uvmCommandLine } from "./command-line.ts";
import { ImageError } from "./errors.ts";
import { MANIFEST_FILE, MAX_MANIFEST, parseManifest, type UvmFile, type UvmManifest } from "./manifest.ts";

/** A utility VM's image on disk, its files known to be there and of the right size. */
export interface Uvm {
  /** Absolute path. */
  readonly directory: string;
  readonly manifest: UvmManifest;
}

/** What a VMM needs to start an image; paths are absolute. */
export interface UvmGuestFiles {
  readonly kernel: string;
  readonly initrd: string;
  readonly root: string;
  readonly commandLine: string;
}

const BLOCK = 4096;
/** Read at a time; a multiple of {@link BLOCK}. */
const CHUNK = 1024 * 1024;

/**
 * Opens an image. Sizes are checked, so that a build that was cut short shows here; {@link verifyUvm} checks every byte.
 * @throws {ImageError} ERR_IMAGE_UVM
 */
export async function readUvm(directory: string): Promise<Uvm> {
  const absolute = resolve(directory);
  const path = join(absolute, MANIFEST_FILE);
  const manifest = await withRegular(path, async (handle, size) => {
    if (size > MAX_MANIFEST) throw new ImageError("ERR_IMAGE_UVM", `${path} has ${size} bytes, a manifest has at most ${MAX_MANIFEST}`);
    return parseManifest(await handle.readFile(), path);
  });
  for (const { file, size: expected } of filesOf(manifest)) {
    await withRegular(join(absolute, file), (_, size) => {
      if (size !== expected)
        throw new ImageError("ERR_IMAGE_UVM", `${join(absolute, file)} has ${size} bytes, expected ${expected}`, { details: { found: size, expected } });
    });
  }
  return { directory: absolute, manifest };
}

/** The paths that a VMM starts an image from. */
export function uvmGuestFiles({ directory, manifest }: Uvm): UvmGuestFiles {
  const path = ({ file }: UvmFile): string => join(directory, file);
  return { kernel: path(manifest.kernel), initrd: path(manifest.initrd), root: path(manifest.root), commandLine: manifest.commandLine };
}

/**
 * Checks every byte of an image against its manifest: hashes of the files, the root's dm-verity tree block by block, and that the command
 * line is the one for this root.
 * @param progress gets the file that is read
 * @throws {ImageError} ERR_IMAGE_CHANGED, ERR_IMAGE_UVM
 */
export async function verifyUvm({ directory, manifest }: Uvm, progress: (file: string) => void = () => undefined): Promise<void> {
  const { root, target } = manifest;
  for (const { file, sha256 } of filesOf(manifest)) {
    progress(file);
    const hash = createHash("sha256");
    for await (const chunk of chunksOf(join(directory, file))) hash.update(chunk);
    const found = hash.digest("hex");
    if (found !== sha256)
      throw new ImageError("ERR_IMAGE_CHANGED", `${join(directory, file)} has SHA-256 ${found}, expected ${sha256}`, { details: { found, expected: sha256 } });
  }
  const tree = new HashTreeBuilder(new Uint8Array(32), { keep: true });
  const data = root.dataBlocks * BLOCK;
  const rest: Uint8Array[] = [];
  let at = 0;
  for await (const chunk of chunksOf(join(directory, root.file))) {
    const inData = Math.max(0, Math.min(chunk.length, data - at));
    if (inData > 0) tree.update(chunk.subarray(0, inData));
    if (inData < chunk.length) rest.push(chunk.subarray(inData));
    at += chunk.length;
  }
  const { rootHash, dataBlocks, blocks } = tree.finish();
  const stored = Buffer.concat(rest);
  const whole = dataBlocks === root.dataBlocks && blocks.every((block, index) => equalBytes(stored.subarray(index * BLOCK, (index + 1) * BLOCK), block));
  if (!whole || toHex(rootHash) !== root.rootHash)
    throw new ImageError(
      "ERR_IMAGE_CHANGED",
      `${join(directory, root.file)} is no file system with a dm-verity tree of root hash ${root.rootHash}; its data have ${toHex(rootHash)}`,
    );
  if (manifest.commandLine !== uvmCommandLine(target, rootHash, dataBlocks)) {
    throw new ImageError("ERR_IMAGE_CHANGED", `the command line in ${join(directory, MANIFEST_FILE)} is not the one that this version makes for its root`, {
      hint: "The guest would start from something else, or in another way. Images of other versions are verified by those.",
    });
  }
}

/**
 * The pages that an emulated start measures: kernel, initial RAM disk and command line (`processPages` of @sealpod/snp). The root needs no
 * page: the command line has its hash.
 * @throws {ImageError} ERR_IMAGE_UVM
 */
export async function* uvmLaunchPages({ directory, manifest }: Uvm): AsyncGenerator<LaunchPage> {
  const commandLine = Buffer.from(`${manifest.commandLine}\0`, "utf8");
  const files = [manifest.kernel, manifest.initrd];
  yield processDirectory([...files.map(({ size }) => size), commandLine.length]);
  let gpa = BigInt(PAGE_SIZE);
  for (const { file, size } of files) {
    let at = 0;
    for await (const chunk of chunksOf(join(directory, file))) {
      yield* imagePages(chunk, gpa + BigInt(at));
      at += chunk.length;
    }
    if (at !== size) throw new ImageError("ERR_IMAGE_UVM", `${join(directory, file)} has ${at} bytes, expected ${size}`);
    gpa += BigInt(Math.ceil(size / PAGE_SIZE) * PAGE_SIZE);
  }
  yield* imagePages(commandLine, gpa);
}

/**
 * The launch measurement of an emulated start, 48 bytes: what MEASUREMENT in the guest's reports will be.
 * @throws {ImageError} ERR_IMAGE_UVM
 */
export async function uvmMeasurement(uvm: Uvm): Promise<Uint8Array> {
  const measurement = new LaunchMeasurement();
  for await (const page of uvmLaunchPages(uvm)) measurement.add(page);
  return measurement.digest();
}

/** Something in the root of an image. */
export interface UvmRootFile {
  /** Without a leading `/`. */
  readonly path: string;
  readonly kind: string;
  /** Permission bits. */
  readonly mode: number;
  /** Bytes; 0 for all but files. */
  readonly size: number;
  /** Of a file; 64 hex digits. */
  readonly sha256?: string;
  /** Of a symbolic link. */
  readonly target?: string;
}

/**
 * What is in an image's root, in the order of paths.
 * @throws {ImageError} ERR_IMAGE_UVM
 * @throws {VerityError} for a root that is malformed
 */
export async function uvmRootFiles({ directory, manifest }: Uvm): Promise<readonly UvmRootFile[]> {
  const path = join(directory, manifest.root.file);
  const handle = await openRegular(path);
  try {
    const read = async (offset: number, length: number): Promise<Uint8Array> => {
      const bytes = new Uint8Array(length);
      for (let at = 0; at < length;) {
        const { bytesRead } = await orUnreadable(path, () => handle.read(bytes, at, length - at, offset + at));
        if (bytesRead === 0) throw new ImageError("ERR_IMAGE_UVM", `${path} ends before byte ${offset + length}`);
        at += bytesRead;
      }
      return bytes;
    };
    const files: UvmRootFile[] = [];
    for await (const entry of readErofs({ size: manifest.root.dataBlocks * BLOCK, read })) {
      const base = { path: entry.path.replace(/\/$/, ""), kind: entry.kind, mode: entry.mode, size: entry.size };
      if (entry.kind === "file") {
        const hash = createHash("sha256");
        for await (const chunk of entry.data) hash.update(chunk);
        files.push({ ...base, sha256: hash.digest("hex") });
      } else if (entry.kind === "symlink") files.push({ ...base, target: entry.target });
      else if (base.path !== "") files.push(base);
    }
    return files.sort((a, b) => (a.path < b.path ? -1 : 1));
  } finally {
    await handle.close();
  }
}

function filesOf({ kernel, initrd, root }: UvmManifest): readonly UvmFile[] {
  return [kernel, initrd, root];
}

/** A file's bytes, in pieces of {@link CHUNK} bytes but for the last. */
async function* chunksOf(path: string): AsyncGenerator<Uint8Array> {
  const handle = await openRegular(path);
  try {
    for (;;) {
      const chunk = new Uint8Array(CHUNK);
      let length = 0;
      while (length < CHUNK) {
        const { bytesRead } = await orUnreadable(path, () => handle.read(chunk, length, CHUNK - length));
        if (bytesRead === 0) break;
        length += bytesRead;
      }
      if (length > 0) yield chunk.subarray(0, length);
      if (length < CHUNK) return;
    }
  } finally {
    await handle.close();
  }
}

async function withRegular<T>(path: string, use: (handle: FileHandle, size: number) => T | Promise<T>): Promise<T> {
  const handle = await openRegular(path);
  try {
    const status = await orUnreadable(path, () => handle.stat());
    if (!status.isFile()) throw new ImageError("ERR_IMAGE_UVM", `${path} is not a regular file`);
    return await use(handle, status.size);
  } finally {
    await handle.close();
  }
}

/** Opens without waiting for the other end of a FIFO that may stand there. */
async function openRegular(path: string): Promise<FileHandle> {
  return orUnreadable(path, () => open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY));
}

async function orUnreadable<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw new ImageError("ERR_IMAGE_UVM", `cannot read ${path}: ${messageOf(cause)}`, { cause, hint: "Build an image: sealpod uvm build." });
  }
}
