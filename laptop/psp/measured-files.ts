import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { type FileSource, fileSource } from "@sealpod/io";
import { imagePages, type LaunchPage, MAX_PROCESS_FILES, PAGE_SIZE, processDirectory } from "@sealpod/snp";
import { PspError } from "./errors.ts";

/** What stands in for a VM image when there is no VM. */
export interface MeasuredFiles {
  /** Absolute paths, in the order of measurement. */
  readonly files: readonly string[];
  /** Measured last, with a NUL at its end, as firmware measures a kernel command line. */
  readonly commandLine: string;
}

/** Most bytes of all files together: a Node binary has 120 MB; measuring takes about a second for each 500 MB. */
export const MAX_MEASURED_BYTES: number = 2 * 1024 ** 3;

/** Longest command line in bytes: Linux on x86 takes 2048, and agents' arguments may be longer. */
export const MAX_COMMAND_LINE: number = 64 * 1024;

/** Read at a time; a multiple of the page size. */
const CHUNK = 1024 * 1024;

/**
 * The launch pages of files and a command line (`processPages` of @sealpod/snp), read piece by piece.
 * @throws {PspError} ERR_PSP_INPUT, ERR_PSP_LIMIT
 * @throws {IoError} ERR_IO_READ
 */
export async function* measuredPages(measured: MeasuredFiles): AsyncGenerator<LaunchPage> {
  const commandLine = concatBytes(encodeUtf8(measured.commandLine), Uint8Array.of(0));
  if (commandLine.length > MAX_COMMAND_LINE || measured.files.length >= MAX_PROCESS_FILES) {
    throw new PspError(
      "ERR_PSP_LIMIT",
      `a command line of ${commandLine.length} bytes and ${measured.files.length} files; the limits are ${MAX_COMMAND_LINE} and ${MAX_PROCESS_FILES - 1}`,
    );
  }
  // A NUL inside would end the line for one reader and not for another.
  if (measured.commandLine.includes("\0")) throw new PspError("ERR_PSP_INPUT", "the command line has a NUL character");
  const sources: FileSource[] = [];
  try {
    for (const path of measured.files) sources.push(await fileSource(path));
    const total = sources.reduce((sum, { size }) => sum + size, 0);
    if (total > MAX_MEASURED_BYTES) throw new PspError("ERR_PSP_LIMIT", `${total} bytes to measure, more than the limit of ${MAX_MEASURED_BYTES}`);
    yield processDirectory([...sources.map(({ size }) => size), commandLine.length]);
    let gpa = BigInt(PAGE_SIZE);
    for (const source of sources) {
      for (let at = 0; at < source.size; at += CHUNK) yield* imagePages(await source.read(at, Math.min(CHUNK, source.size - at)), gpa + BigInt(at));
      gpa += BigInt(Math.ceil(source.size / PAGE_SIZE) * PAGE_SIZE);
    }
    yield* imagePages(commandLine, gpa);
  } finally {
    for (const source of sources) await source.close();
  }
}
