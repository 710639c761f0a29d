import { open } from "node:fs/promises";
import { messageOf } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { pathOf, readStdin, readText } from "../workspace.ts";

/** A token with a large policy around it is below 100 KiB. */
const MAX_STDIN = 1024 * 1024;

/**
 * Writes a file that its owner alone may read; one that is there stays as it is: it may be the only copy of something.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function writeNewFile(path: string, bytes: Uint8Array, context: CliContext): Promise<void> {
  try {
    await using file = await open(pathOf(path, context), "wx", 0o600);
    await file.writeFile(bytes);
    await file.sync();
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === "EEXIST";
    throw new CliError("ERR_CLI_FILE", exists ? `${path} exists already` : `${path} cannot be written: ${messageOf(cause)}`, {
      cause,
      hint: exists ? "Name another file, or move this one away." : "Check that you may write there.",
    });
  }
}

/**
 * Text of a file, or of standard input for `-`.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readTextOrStdin(path: string, context: CliContext): Promise<{ readonly name: string; readonly text: string }> {
  if (path !== "-") return readText(path, context);
  return { name: "standard input", text: new TextDecoder().decode(await readStdin(context, MAX_STDIN)) };
}
