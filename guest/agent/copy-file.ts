import { chmodSync, chownSync, closeSync, constants, fstatSync, lchownSync, openSync, renameSync, rmSync, symlinkSync, unlinkSync, writeSync } from "node:fs";
import { decodeUtf8, encodeUtf8, sha256, toHex } from "@sealpod/core";
import type { CopyFileRequest } from "@sealpod/proto";
import { componentsBelow, ConfinedDirectory, shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

/** Kind of a copied file, told by the type bits of its mode (specs/runtime.md 2.8). */
export type CopiedKind = "regular" | "directory" | "symlink";

/**
 * Kind of the file that a request copies.
 * @throws {AgentError} ERR_AGENT_REQUEST for sockets, devices and pipes: no shim sends them, and a container could be made to trust them
 */
export function copiedKind(request: CopyFileRequest): CopiedKind {
  switch (request.fileMode & constants.S_IFMT) {
    case constants.S_IFREG:
      return "regular";
    case constants.S_IFDIR:
      return "directory";
    case constants.S_IFLNK:
      return "symlink";
    default:
      throw new AgentError(
        "ERR_AGENT_REQUEST",
        `CopyFile ${shown(request.path)}: mode 0o${request.fileMode.toString(8)} is neither a file, a directory nor a link`,
      );
  }
}

/**
 * Target of the link that a request copies, or undefined for other kinds.
 * @throws {AgentError} ERR_AGENT_REQUEST if it is not UTF-8: the policy reads text and must read what the kernel will
 */
export function copiedLinkTarget(request: CopyFileRequest): string | undefined {
  if (copiedKind(request) !== "symlink") return undefined;
  try {
    const target = decodeUtf8(request.data, "link target");
    if (target !== "" && !target.includes("\0")) return target;
  } catch (cause) {
    throw new AgentError("ERR_AGENT_REQUEST", `CopyFile ${shown(request.path)}: link target is not UTF-8`, { cause });
  }
  throw new AgentError("ERR_AGENT_REQUEST", `CopyFile ${shown(request.path)}: link target is empty or has a NUL`);
}

/**
 * Takes one piece of a file, a directory or a link into the share root (specs/runtime.md 2.8). A regular file grows beside its final name and is
 * moved into place when its last byte has come, so that no container ever sees half of one.
 *
 * @param root the share root: nothing outside is touched, and no symbolic link is followed
 * @throws {AgentError} ERR_AGENT_PATH, ERR_AGENT_REQUEST
 */
export function copyFile(root: string, request: CopyFileRequest): void {
  const components = componentsBelow(root, request.path);
  const name = components.at(-1) ?? "";
  const kind = copiedKind(request);
  if (request.uid < 0 || request.gid < 0) throw refused(request, `owner ${request.uid}:${request.gid} is negative`);
  // What lies directly in the share root is what policies let containers mount: never a way to something else. Links inside of volumes are looked at by containers.
  if (kind === "symlink" && components.length === 1) throw refused(request, "a link directly in the share root");
  using share = ConfinedDirectory.open(root);
  using parent = share.descend(components.slice(0, -1), request.dirMode & 0o777);
  if (parent.made) chownSync(parent.self(), request.uid, request.gid);
  if (kind === "directory") copyDirectory(parent, name, request);
  else if (kind === "symlink") copyLink(parent, name, request);
  else copyRegular(parent, name, request);
}

function copyDirectory(parent: ConfinedDirectory, name: string, request: CopyFileRequest): void {
  if (parent.stat(name)?.isDirectory() === false) unlinkSync(parent.entry(name));
  parent.makeChild(name, 0o700);
  using directory = parent.child(name);
  chownSync(directory.self(), request.uid, request.gid);
  chmodSync(directory.self(), request.fileMode & 0o7777);
}

function copyLink(parent: ConfinedDirectory, name: string, request: CopyFileRequest): void {
  const target = copiedLinkTarget(request) ?? "";
  const beside = temporary(name);
  rmSync(parent.entry(beside), { force: true });
  symlinkSync(target, parent.entry(beside));
  lchownSync(parent.entry(beside), request.uid, request.gid);
  moveIntoPlace(parent, beside, name, request);
}

function copyRegular(parent: ConfinedDirectory, name: string, request: CopyFileRequest): void {
  const size = Number(request.fileSize);
  const offset = Number(request.offset);
  const end = offset + request.data.length;
  if (!Number.isSafeInteger(size) || size < 0 || offset < 0 || end > size) throw refused(request, `bytes ${offset} to ${end} are not inside a file of ${size}`);
  if (request.data.length === 0 && size !== 0) throw refused(request, "an empty piece of a file that is not empty");

  const beside = temporary(name);
  if (offset === 0) rmSync(parent.entry(beside), { force: true });
  const create = offset === 0 ? constants.O_CREAT | constants.O_EXCL : 0;
  // O_NONBLOCK: a container that can write to the directory may have put a pipe there.
  const fd = openExisting(parent, beside, constants.O_WRONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | create, request);
  try {
    const found = fstatSync(fd);
    if (!found.isFile() || found.size !== offset) throw refused(request, `this piece is for offset ${offset}, expected ${found.size}: pieces come in order`);
    for (let at = 0; at < request.data.length;) at += writeSync(fd, request.data, at, undefined, offset + at);
    if (end < size) return;
    chownSync(`/proc/self/fd/${fd}`, request.uid, request.gid);
    // No set-id bits: a volume holds data. Kubernetes' own modes end at 0777.
    chmodSync(`/proc/self/fd/${fd}`, request.fileMode & 0o777);
  } finally {
    closeSync(fd);
  }
  moveIntoPlace(parent, beside, name, request);
}

function openExisting(parent: ConfinedDirectory, name: string, flags: number, request: CopyFileRequest): number {
  try {
    return openSync(parent.entry(name), flags, 0o600);
  } catch (cause) {
    throw new AgentError("ERR_AGENT_REQUEST", `CopyFile ${shown(request.path)}: no piece for offset 0 came before`, { cause });
  }
}

function moveIntoPlace(parent: ConfinedDirectory, beside: string, name: string, request: CopyFileRequest): void {
  try {
    renameSync(parent.entry(beside), parent.entry(name));
  } catch (cause) {
    rmSync(parent.entry(beside), { force: true });
    throw new AgentError("ERR_AGENT_REQUEST", `CopyFile ${shown(request.path)}: a directory is in its place`, { cause });
  }
}

/** Name of the unfinished file. Of a digest, so that a name of NAME_MAX bytes has one too. */
function temporary(name: string): string {
  return `.${toHex(sha256(encodeUtf8(name))).slice(0, 32)}.sealpod-tmp`;
}

function refused(request: CopyFileRequest, problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", `CopyFile ${shown(request.path)}: ${problem}`, { details: { path: shown(request.path) } });
}
