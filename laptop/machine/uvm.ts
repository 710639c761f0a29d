import { mkdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { isSealpodError, sha256, toHex } from "@sealpod/core";
import { buildUvm, readUvm, uvmGuestFiles, type Uvm } from "@sealpod/image";
import { lockFile } from "@sealpod/io";
import type { UvmGuest } from "@sealpod/vmm";

/** Version of the agent in an image; that of this checkout. */
const AGENT_VERSION = "0.1.0";

/** Milliseconds between two looks whether another process has finished its build. */
const LOCK_INTERVAL = 500;

/** What {@link openUvm} needs. */
export interface OpenUvmOptions {
  /** Of the image. */
  readonly directory: string;
  /** Node 24, whose program goes into the image. */
  readonly node: string;
  readonly agentBundle: string;
  readonly progress: (message: string) => void;
}

/**
 * The utility VM's image of this checkout; built first if it is missing or has another agent in it. Processes that want it at the same time build it once.
 * @throws {ImageError} if it cannot be built
 */
export async function openUvm(options: OpenUvmOptions): Promise<UvmGuest> {
  const { directory, agentBundle } = options;
  const agent = new Uint8Array(await readFile(agentBundle));
  const digest = toHex(sha256(agent));
  const ready = (await usable(directory, digest)) ?? (await buildLocked(options, agent, digest));
  return { kind: "uvm", ...uvmGuestFiles(ready) };
}

async function buildLocked({ directory, node, progress }: OpenUvmOptions, agent: Uint8Array, digest: string): Promise<Uvm> {
  await mkdir(dirname(directory), { recursive: true });
  await using _lock = await patientLock(`${directory}.lock`);
  const made = await usable(directory, digest);
  if (made !== undefined) return made;
  await buildUvm({
    output: directory,
    target: "emulated",
    node: { bytes: new Uint8Array(await readFile(node)), version: process.version },
    agent: { bytes: agent, version: AGENT_VERSION },
    packages: join(dirname(directory), "uvm-packages"),
    progress: (step) => progress(`utility VM: ${step}`),
  });
  return await readUvm(directory);
}

/** The image if it is whole and has this agent in it. */
async function usable(directory: string, agentDigest: string): Promise<Uvm | undefined> {
  try {
    const uvm = await readUvm(directory);
    return uvm.manifest.agent.sha256 === agentDigest && uvm.manifest.target === "emulated" ? uvm : undefined;
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}

/** Locks of @sealpod/io do not wait; a build takes seconds, and whoever comes second wants its result. */
async function patientLock(path: string): Promise<AsyncDisposable> {
  for (;;) {
    try {
      return await lockFile(path);
    } catch (error) {
      if (!isSealpodError(error) || error.code !== "ERR_IO_LOCKED") throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, LOCK_INTERVAL));
  }
}
