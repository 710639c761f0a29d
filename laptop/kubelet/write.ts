import { constants } from "node:fs";
import { chmod, mkdir, open, symlink } from "node:fs/promises";
import { dirname, resolve, sep } from "node:path";
import type { HostFile } from "./context.ts";
import { KubeletError } from "./errors.ts";

/**
 * Makes the host files of a plan below `runDirectory`, which itself is made with mode 0700: the files hold tokens.
 * Nothing that exists is overwritten.
 * @throws {KubeletError} ERR_KUBELET_FILES
 */
export async function writeHostFiles(files: readonly HostFile[], runDirectory: string): Promise<void> {
  const root = resolve(runDirectory);
  await mkdir(root, { recursive: true, mode: 0o700 });
  for (const file of files) {
    const path = resolve(file.path);
    if (!path.startsWith(root + sep)) throw new KubeletError("ERR_KUBELET_FILES", `${file.path} does not lie below the run directory ${root}`);
    try {
      await writeHostFile(file, path);
    } catch (cause) {
      throw new KubeletError("ERR_KUBELET_FILES", `${file.path} cannot be written`, { cause });
    }
  }
}

async function writeHostFile(file: HostFile, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  switch (file.kind) {
    case "directory":
      await mkdir(path, { recursive: true });
      await chmod(path, file.mode); // mkdir's mode is cut by the umask
      return;
    case "file": {
      const handle = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
      try {
        await handle.writeFile(file.content);
        await handle.chmod(file.mode);
      } finally {
        await handle.close();
      }
      return;
    }
    case "symlink":
      await symlink(file.target, path);
  }
}
