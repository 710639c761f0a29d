import { execFile } from "node:child_process";
import { type FileHandle, link, lstat, mkdtemp, open, readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { messageOf } from "@sealpod/core";
import { createVolume, cryptSectors, type Luks2Header, MAX_HEADERS_LENGTH, openVolumeKey, parseHeader } from "@sealpod/luks2";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { pathOf, readBytes } from "../workspace.ts";

const MIB = 1024 * 1024;
/** Bytes that are encrypted at a time. */
const CHUNK = 4 * MIB;
const DEFAULT_SIZE = 64 * MIB;
/** ext4 needs room for its tables, and for a journal of this size in small filesystems. */
const OVERHEAD = { fixed: 16 * MIB, factor: 1.1, perFile: 4096 + 256 } as const;
const MAX_SIZE = 1024 * 1024 * MIB;
const MAX_KEY = 8 * MIB;

const run = promisify(execFile);

/** What {@link createImage} makes. */
export interface CreatedImage {
  readonly uuid: string;
  readonly dataOffset: number;
  /** Bytes of the filesystem. */
  readonly dataLength: number;
}

/** Where the filesystem comes from. */
export interface ImageSource {
  readonly from: string | undefined;
  readonly image: string | undefined;
  /** Bytes. */
  readonly size: number | undefined;
}

/** The bytes of a key file. @throws {CliError} ERR_CLI_FILE */
export async function readKey(path: string, context: CliContext): Promise<Uint8Array> {
  const key = await readBytes(path, context);
  if (key.length > MAX_KEY) throw new CliError("ERR_CLI_FILE", `${path} has ${key.length} bytes: that is no key`);
  return key;
}

/**
 * Makes an encrypted image. It is written beside its place and renamed at the end: what is there is whole.
 * @throws {CliError} ERR_CLI_FILE, ERR_CLI_PLATFORM without mkfs.ext4
 * @throws {Luks2Error} ERR_LUKS2_ARGUMENT
 */
export async function createImage(
  output: string,
  key: Uint8Array,
  source: ImageSource,
  options: { readonly label: string | undefined; readonly progress: (share: number) => void },
  context: CliContext,
): Promise<CreatedImage> {
  const target = pathOf(output, context);
  await requireAbsent(target, output);
  const scratch = await mkdtemp(join(dirname(target), ".sealpod-encfs-")).catch((cause: unknown) => {
    throw new CliError("ERR_CLI_FILE", `${output} cannot be written: ${messageOf(cause)}`, {
      cause,
      hint: "Name a directory that is there and that you may write to.",
    });
  });
  try {
    await using plain = source.image === undefined ? await makeFilesystem(scratch, source, context) : await openFile(pathOf(source.image, context));
    const created = await encrypt(plain, join(scratch, "image"), key, options, context);
    await publish(join(scratch, "image"), target, output);
    return created;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/**
 * A filesystem with the files of a directory, in a file without a name: it is in the clear, and goes with this process, whatever ends it.
 */
async function makeFilesystem(scratch: string, { from, size }: ImageSource, context: CliContext): Promise<FileHandle> {
  const directory = from === undefined ? undefined : pathOf(from, context);
  const needed = directory === undefined ? DEFAULT_SIZE : await sizeFor(directory, from ?? "");
  const bytes = size ?? Math.max(DEFAULT_SIZE, needed);
  const name = join(scratch, "filesystem");
  const handle = await open(name, "wx+", 0o600);
  try {
    await handle.truncate(bytes);
    const nameless = `/proc/${process.pid}/fd/${handle.fd}`;
    const file = (await lstat(nameless).catch(() => undefined)) === undefined ? name : nameless;
    if (file === nameless) await rm(name);
    await format(file, directory, bytes, context);
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function format(file: string, directory: string | undefined, bytes: number, context: CliContext): Promise<void> {
  // The root of the filesystem belongs to root, whoever made the image.
  const args = ["-q", "-F", "-m", "0", "-E", "root_owner=0:0", ...(directory === undefined ? [] : ["-d", directory]), file];
  try {
    await run("mkfs.ext4", args, { env: { PATH: `${context.env["PATH"] ?? ""}:/usr/sbin:/sbin`, LC_ALL: "C" }, maxBuffer: MIB, signal: context.signal });
  } catch (cause) {
    requireGoing(context);
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") {
      throw new CliError("ERR_CLI_PLATFORM", "mkfs.ext4 is not on this machine", {
        cause,
        hint: "Install the package e2fsprogs, or give a filesystem with --image.",
      });
    }
    const { stderr } = cause as { readonly stderr?: string };
    const problem = (stderr ?? messageOf(cause)).trim().split("\n").at(-1) ?? "";
    const small = /could not allocate|No space|too small|not enough/i.test(stderr ?? "");
    throw new CliError("ERR_CLI_FILE", `mkfs.ext4 failed: ${problem.slice(0, 300)}`, {
      cause,
      hint: small ? `The files do not fit into ${bytes / MIB} MiB: give more with --size.` : "Check that you may read all of the files.",
    });
  }
}

/** Bytes of a filesystem that holds the files of a directory. */
async function sizeFor(directory: string, name: string): Promise<number> {
  let files = 0;
  let bytes = 0;
  try {
    for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
      const { size } = await lstat(join(entry.parentPath, entry.name));
      files++;
      bytes += entry.isFile() ? Math.ceil(size / 4096) * 4096 : 0;
    }
  } catch (cause) {
    throw new CliError("ERR_CLI_FILE", `--from ${name}: ${messageOf(cause)}`, { cause, hint: "Name a directory whose files you may read." });
  }
  return Math.ceil(((bytes + files * OVERHEAD.perFile) * OVERHEAD.factor + OVERHEAD.fixed) / MIB) * MIB;
}

async function encrypt(
  input: FileHandle,
  file: string,
  key: Uint8Array,
  { label, progress }: { readonly label: string | undefined; readonly progress: (share: number) => void },
  context: CliContext,
): Promise<CreatedImage> {
  const { size } = await input.stat();
  if (size === 0 || size > MAX_SIZE) throw new CliError("ERR_CLI_FILE", `the filesystem has ${size} bytes, expected 1 to ${MAX_SIZE}`);
  const volume = createVolume({ passphrase: key, random: context.random, ...(label === undefined ? {} : { label }) });
  try {
    await using sink = await open(file, "wx", 0o600);
    await writeAll(sink, volume.header, 0);
    // What does not fill a sector is filled up with zeros: a filesystem says itself how long it is.
    const length = Math.ceil(size / volume.sectorSize) * volume.sectorSize;
    for (let at = 0; at < length; at += CHUNK) {
      requireGoing(context);
      const chunk = new Uint8Array(Math.min(CHUNK, length - at));
      await fill(input, chunk, at, Math.min(chunk.length, size - at), "the filesystem");
      await writeAll(sink, cryptSectors("encrypt", volume.volumeKey, at / 512, chunk, volume.sectorSize), volume.dataOffset + at);
      progress((at + chunk.length) / length);
    }
    await sink.sync();
    return { uuid: volume.uuid, dataOffset: volume.dataOffset, dataLength: length };
  } finally {
    volume.volumeKey.fill(0);
  }
}

/** An image and its header. */
export interface OpenedImage extends AsyncDisposable {
  readonly handle: FileHandle;
  readonly header: Luks2Header;
  /** Bytes of the file. */
  readonly length: number;
}

/**
 * Opens an image.
 * @throws {CliError} ERR_CLI_FILE
 * @throws {Luks2Error} ERR_LUKS2_HEADER, ERR_LUKS2_UNSUPPORTED
 */
export async function openImage(path: string, context: CliContext): Promise<OpenedImage> {
  const handle = await openFile(pathOf(path, context));
  try {
    const { size } = await handle.stat();
    const start = new Uint8Array(Math.min(size, MAX_HEADERS_LENGTH));
    await fill(handle, start, 0, start.length, path);
    const header = parseHeader(start);
    return { handle, header, length: size, [Symbol.asyncDispose]: async () => handle.close() };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The volume key of an image. @throws {Luks2Error} ERR_LUKS2_KEY */
export async function openImageKey({ handle, header }: OpenedImage, key: Uint8Array): Promise<Uint8Array> {
  return openVolumeKey(header, key, async (offset, length) => {
    const bytes = new Uint8Array(length);
    const { bytesRead } = await handle.read(bytes, 0, length, offset);
    return bytes.subarray(0, bytesRead);
  });
}

/** Writes the filesystem of an image in the clear. @throws {CliError} ERR_CLI_FILE; {@link Luks2Error} */
export async function decryptImage(
  image: OpenedImage,
  key: Uint8Array,
  output: string,
  context: CliContext,
  progress: (share: number) => void,
): Promise<number> {
  const target = pathOf(output, context);
  await requireAbsent(target, output);
  const { offset, sectorSize } = image.header.segment;
  const length = Math.floor((image.length - offset) / sectorSize) * sectorSize;
  if (length <= 0) throw new CliError("ERR_CLI_FILE", `the image ends before its data, which start at ${offset}`);
  const volumeKey = await openImageKey(image, key);
  const partial = `${target}.${process.pid}.partial`;
  try {
    await using sink = await open(partial, "wx", 0o600);
    for (let at = 0; at < length; at += CHUNK) {
      requireGoing(context);
      const chunk = new Uint8Array(Math.min(CHUNK, length - at));
      await fill(image.handle, chunk, offset + at, chunk.length, "the image");
      await writeAll(sink, cryptSectors("decrypt", volumeKey, at / 512, chunk, sectorSize), at);
      progress((at + chunk.length) / length);
    }
    await sink.sync();
    await publish(partial, target, output);
    return length;
  } finally {
    volumeKey.fill(0);
    await rm(partial, { force: true });
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, "r");
  } catch (cause) {
    throw new CliError("ERR_CLI_FILE", `${path} cannot be read: ${messageOf(cause)}`, { cause, hint: "Check the name, and that you may read it." });
  }
}

async function fill(handle: FileHandle, chunk: Uint8Array, position: number, length: number, name: string): Promise<void> {
  for (let done = 0; done < length;) {
    const { bytesRead } = await handle.read(chunk, done, length - done, position + done);
    if (bytesRead === 0) throw new CliError("ERR_CLI_FILE", `${name} ends at ${position + done}, before it should`);
    done += bytesRead;
  }
}

/** A disk that fills up takes a part of what it is given. */
async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done).catch((cause: unknown) => {
      throw new CliError("ERR_CLI_FILE", `the file cannot be written: ${messageOf(cause)}`, { cause, hint: "Is the disk full?" });
    });
    if (bytesWritten === 0) throw new CliError("ERR_CLI_FILE", `nothing more can be written behind ${position + done} bytes`, { hint: "Is the disk full?" });
    done += bytesWritten;
  }
}

/** Gives a finished file its name, if that is free; a link that leads nowhere is somebody's too. */
async function publish(file: string, target: string, name: string): Promise<void> {
  try {
    await link(file, target);
    await rm(file);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") throw alreadyThere(name);
    // A filesystem without hard links.
    await requireAbsent(target, name);
    await rename(file, target);
  }
}

async function requireAbsent(path: string, name: string): Promise<void> {
  const present = await lstat(path).then(
    () => true,
    () => false,
  );
  if (present) throw alreadyThere(name);
}

function alreadyThere(name: string): CliError {
  return new CliError("ERR_CLI_FILE", `${name} is there already`, { hint: "Remove it first, or name another file: nothing is overwritten." });
}

/** @throws {CliError} ERR_CLI_INTERRUPTED: what was begun is taken away on the way out */
function requireGoing({ signal }: CliContext): void {
  if (signal.aborted) throw new CliError("ERR_CLI_INTERRUPTED", `ended by ${String(signal.reason)}; nothing was written`);
}

/** `64MiB`, `2GiB` or a number of bytes. @throws {CliError} ERR_CLI_USAGE */
export function parseSize(text: string): number {
  const found = /^(\d{1,12})\s*(|B|[KMG]i?B?)$/i.exec(text);
  const unit = (found?.[2] ?? "").slice(0, 1).toUpperCase();
  const bytes = Number(found?.[1] ?? Number.NaN) * ({ K: 1024, M: MIB, G: 1024 * MIB }[unit] ?? 1);
  if (!(bytes >= MIB && bytes <= MAX_SIZE)) {
    throw new CliError("ERR_CLI_USAGE", `--size ${text} is no size from 1MiB to 1024GiB`, { hint: "Write it as 64MiB, 2GiB, or in bytes." });
  }
  return Math.ceil(bytes / 4096) * 4096;
}
