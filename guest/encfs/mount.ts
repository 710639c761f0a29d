import { lstat, mkdir, readlink, rm, rmdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { messageOf, type Logger } from "@sealpod/core";
import { EncfsError } from "./errors.ts";

/** Runs one of the distribution's programs; rejects, with what it wrote to standard error as message, unless it exits with 0. */
export type Run = (command: string, args: readonly string[], input?: Uint8Array) => Promise<void>;

/** What mounting works with. */
export interface MountPorts {
  readonly run: Run;
  readonly logger: Logger;
  /** Names of the kernel's network block devices that nobody uses, such as `nbd3`. */
  readonly freeDevices: () => Promise<readonly string[]>;
}

/** A filesystem to mount. */
export interface MountRequest {
  /** Number of the filesystem in the arguments. */
  readonly index: number;
  /** Socket of the NBD server with the image. */
  readonly socket: string;
  /** What `readHeader` read, and the path of a file to keep it in meanwhile, where nobody else can write. */
  readonly header: Uint8Array;
  readonly headerFile: string;
  readonly passphrase: Uint8Array;
  readonly mountPoint: string;
  readonly isWritable: boolean;
}

/** A filesystem that is mounted. */
export interface Mounted {
  /** Takes everything back, in reverse order; all of it is tried. */
  unmount(): Promise<void>;
}

/** Names of mapped devices, as the known sidecar has them. */
const MAPPING = "remote-crypt-";

/**
 * Attaches the image, opens it with cryptsetup and mounts it beside its place, with a link at its place (specs/attestation.md 5.7). Whatever fails, what was done before
 * is taken back.
 * @throws {EncfsError} ERR_ENCFS_MOUNT
 */
export async function mountImage(request: MountRequest, ports: MountPorts): Promise<Mounted> {
  const { index, mountPoint, isWritable } = request;
  const undo: { readonly what: string; readonly work: () => Promise<void> }[] = [];
  const unmount = async (): Promise<void> => {
    for (const { what, work } of undo.splice(0).toReversed()) {
      await work().catch((error: unknown) => ports.logger.log("error", `${what} failed`, { mountPoint, problem: messageOf(error) }));
    }
  };
  try {
    const device = await attach(request, ports);
    undo.push({ what: "detaching the device", work: async () => ports.run("nbd-client", ["-d", device]) });

    const name = `${MAPPING}${index}`;
    const mode = isWritable ? [] : ["--readonly"];
    await step("open", async () => {
      // The header that was looked at, whatever the host says by now that it is. The key goes by a pipe: arguments are for everybody to read.
      await writeFile(request.headerFile, request.header, { mode: 0o600, flag: "wx" });
      const how = ["--type", "luks2", "--batch-mode", "--disable-keyring", ...mode, "--header", request.headerFile, "--key-file", "-"];
      try {
        await ports.run("cryptsetup", ["open", ...how, device, name], request.passphrase);
      } finally {
        await rm(request.headerFile);
      }
    });
    undo.push({ what: "closing the volume", work: async () => ports.run("cryptsetup", ["close", name]) });

    const place = join(dirname(mountPoint), `.filesystem-${index}`);
    await step("make the mount point of", async () => mkdir(place, { recursive: true, mode: 0o755 }));
    undo.push({ what: "removing the mount point", work: async () => rmdir(place) });
    // Without noload ext4 replays its journal, which writes.
    const options = `nodev,nosuid,${isWritable ? "rw" : "ro,noload"}`;
    await step("mount", async () => ports.run("mount", ["-t", "ext4", "-o", options, `/dev/mapper/${name}`, place]));
    undo.push({ what: "unmounting", work: async () => ports.run("umount", [place]) });

    await step("link", async () => link(place, mountPoint));
    undo.push({ what: "removing the link", work: async () => rm(mountPoint) });
    return { unmount };
  } catch (error) {
    await unmount();
    throw error;
  }

  async function step(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (cause) {
      if (cause instanceof EncfsError) throw cause;
      throw new EncfsError("ERR_ENCFS_MOUNT", `cannot ${what} the filesystem for ${mountPoint}: ${messageOf(cause)}`, {
        cause,
        hint: hintFor(messageOf(cause)),
      });
    }
  }
}

async function attach({ socket, mountPoint, isWritable }: MountRequest, { run, freeDevices }: MountPorts): Promise<string> {
  const devices = await freeDevices();
  let failure: unknown = new Error("there is no free network block device");
  for (const name of devices) {
    const device = `/dev/${name}`;
    try {
      await run("nbd-client", ["-unix", socket, device, "-b", "4096", ...(isWritable ? [] : ["-readonly"])]);
      return device;
    } catch (error) {
      // Somebody may have taken it between the look and the call.
      failure = error;
    }
  }
  throw new EncfsError("ERR_ENCFS_MOUNT", `cannot attach the filesystem for ${mountPoint}: ${messageOf(failure)}`, {
    cause: failure,
    hint:
      devices.length === 0 ? "The guest's kernel needs the module nbd, and the container its devices." : "The container needs CAP_SYS_ADMIN and the device.",
  });
}

/** A link of ours that an ended sidecar left is replaced; anything else is somebody's data. */
async function link(place: string, mountPoint: string): Promise<void> {
  await mkdir(dirname(mountPoint), { recursive: true });
  const present = await lstat(mountPoint).catch(() => undefined);
  if (present?.isSymbolicLink() === true && (await readlink(mountPoint)) === place) await rm(mountPoint);
  else if (present?.isDirectory() === true) await rmdir(mountPoint);
  await symlink(place, mountPoint);
}

function hintFor(problem: string): string {
  if (/No key available/i.test(problem))
    return "The key that was released opens none of the image's keyslots: was the image made with another key, or with another salt or label?";
  if (/not a valid LUKS|LUKS header/i.test(problem)) return "azure_url does not lead to an image of `sealpod encfs create`.";
  if (/dm[_-]crypt|device-mapper|Cannot initialize/i.test(problem))
    return "The guest's kernel needs the module dm-crypt, and the container /dev/mapper/control.";
  if (/permission|not permitted/i.test(problem)) return "The container needs CAP_SYS_ADMIN, and a policy that allows it.";
  return "The log of the sidecar has the programs' own words.";
}
