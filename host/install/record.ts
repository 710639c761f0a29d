import { asArray, asObject, messageOf, parseJson } from "@sealpod/core";
import { InstallError } from "./errors.ts";

/** Largest record: a few hundred bytes for each file. */
export const MAX_RECORD: number = 256 * 1024;

/** What is installed: written before anything else is, so that an installation that was cut short can be removed. */
export interface InstallRecord {
  readonly files: readonly RecordedFile[];
  /** Directories that did not exist before, from above. */
  readonly directories: readonly string[];
  /** Path of containerd's configuration that has the runtimes. */
  readonly containerdConfig: string;
  /** Directories that the shim and the emulated security processor fill. */
  readonly data: readonly string[];
}

/** A file that we wrote. */
export interface RecordedFile {
  readonly path: string;
  /** SHA-256 of what we wrote, in hex: more than one while one takes the place of another. */
  readonly hashes: readonly string[];
}

/** The record as the text of its file. */
export function encodeRecord(record: InstallRecord): string {
  return `${JSON.stringify({ version: 1, ...record }, undefined, 2)}\n`;
}

/**
 * Parses a record.
 * @throws {InstallError} ERR_INSTALL_RECORD
 */
export function parseRecord(text: string, path: string): InstallRecord {
  const fail = (problem: string, cause?: unknown): never => {
    throw new InstallError("ERR_INSTALL_RECORD", `${path}: ${problem}`, {
      cause,
      hint: "Restore it from a backup, or remove the files that docs/host.md lists by hand.",
    });
  };
  let value;
  try {
    value = parseJson(text, path, { maxLength: MAX_RECORD, maxDepth: 4 });
  } catch (cause) {
    return fail(messageOf(cause), cause);
  }
  const object = asObject(value) ?? fail("is not a JSON object");
  if (object["version"] !== 1) fail(`version is ${JSON.stringify(object["version"]) ?? "missing"}, expected 1`);
  // Whatever stands here is removed some day: no path may lead elsewhere.
  const isPath = (item: unknown): item is string =>
    typeof item === "string" && item.startsWith("/") && !item.split("/").some((part) => part === ".." || part === ".") && item.length > 1;
  const paths = (name: string): readonly string[] =>
    (asArray(object[name]) ?? fail(`${name} is not a list`)).map((item) => (isPath(item) ? item : fail(`${name} holds something other than absolute paths`)));
  const files = (asArray(object["files"]) ?? fail("files is not a list")).map((item) => {
    const { path: file, hashes } = { path: undefined, hashes: undefined, ...asObject(item) };
    const list = (asArray(hashes) ?? fail("hashes is not a list")).map((hash) =>
      typeof hash === "string" && /^[0-9a-f]{64}$/.test(hash) ? hash : fail("a hash is not 64 hex digits"),
    );
    return isPath(file) ? { path: file, hashes: list } : fail("a file has no absolute path");
  });
  const containerdConfig = object["containerdConfig"];
  if (!isPath(containerdConfig)) return fail("containerdConfig is not an absolute path");
  return { files, directories: paths("directories"), containerdConfig, data: paths("data") };
}
