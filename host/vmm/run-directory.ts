import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { messageOf } from "@sealpod/core";
import { VmmError } from "./errors.ts";

/**
 * Makes the directory of one machine, for its owner alone.
 * @throws {VmmError} ERR_VMM_CONFIG also when it is there already
 */
export async function createRunDirectory(path: string): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true });
    // Not recursive: a directory that is there belongs to another machine, and would be removed with this one.
    await mkdir(path, { mode: 0o700 });
  } catch (cause) {
    throw new VmmError("ERR_VMM_CONFIG", `machine: cannot make the run directory ${path}: ${messageOf(cause)}`, {
      cause,
      hint: "If it is left over from a machine that no longer runs, remove it.",
    });
  }
}
