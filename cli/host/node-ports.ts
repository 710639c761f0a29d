import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { messageOf } from "@sealpod/core";
import type { InstallPorts, NodePorts } from "@sealpod/install";
import { findExecutable, PROGRAM_DIRECTORIES, QemuDriver } from "@sealpod/vmm";

/** Milliseconds for one program that is asked for its version, or tried. */
const PROGRAM_LIMIT = 20_000;

/** Largest output: `containerd config dump` has 10 KiB. */
const MAX_OUTPUT = 4 * 1024 * 1024;

/** The node that this process runs on. */
export function nodePorts(): NodePorts {
  const isAllowed = async (path: string, mode: number): Promise<boolean> =>
    access(path, mode).then(
      () => true,
      () => false,
    );
  return {
    read: async (path) => readFile(path, "latin1").catch(() => undefined),
    canOpen: async (path) => isAllowed(path, constants.R_OK | constants.W_OK),
    exists: async (path) => isAllowed(path, constants.F_OK),
    find: async (program) => findExecutable(program, PROGRAM_DIRECTORIES),
    run: async (program, args) => {
      const path = await findExecutable(program, PROGRAM_DIRECTORIES);
      return path === undefined ? undefined : run(path, args).catch(() => undefined);
    },
    accelerator: async () => new QemuDriver().accelerator().catch(() => undefined),
    nodeVersion: process.versions.node,
  };
}

/**
 * The containerd of this machine, for trying configurations.
 * @param directories where it is searched
 */
export function containerdPorts(directories: readonly string[] = PROGRAM_DIRECTORIES): InstallPorts {
  return {
    dump: async (place) => {
      const path = await findExecutable("containerd", directories);
      return path === undefined ? undefined : run(path, ["--config", place, "config", "dump"]);
    },
  };
}

async function run(path: string, args: readonly string[]): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  execFile(path, args, { env: { PATH: PROGRAM_DIRECTORIES.join(":") }, timeout: PROGRAM_LIMIT, maxBuffer: MAX_OUTPUT }, (error, stdout, stderr) => {
    if (error === null) resolve(stdout);
    else reject(new Error(stderr.trim().slice(0, MAX_WORDS) || messageOf(error), { cause: error }));
  });
  return promise;
}

/** Longest part of a program's complaint that is shown. */
const MAX_WORDS = 1000;
