import { ByteReader, ByteWriter, encodeUtf8, equalBytes } from "@sealpod/core";
import { SnpError } from "../errors.ts";
import type { PageSource } from "./explain.ts";
import { imagePages, type LaunchPage, PAGE_SIZE } from "./launch-digest.ts";

/** Most files of a process image: their lengths must fit the directory page. */
export const MAX_PROCESS_FILES = 256;

const MAGIC = encodeUtf8("SEALPOD-PROCESS\0");

/**
 * Pages of process isolation, where no VM image exists: what stands in for it is measured as if the files lay in memory one after the other.
 * The first page is a directory, ASCII `SEALPOD-PROCESS`, NUL, u32le count, u32le 0, then u64le length of each file; the files follow, each from a new page, padded with zeros.
 * The directory keeps two different sets of files from having the same pages.
 * @throws {SnpError} ERR_SNP_PAGE if there are more than {@link MAX_PROCESS_FILES} files
 */
export function* processPages(files: readonly Uint8Array[]): Generator<LaunchPage> {
  yield processDirectory(files.map((file) => file.length));
  let gpa = BigInt(PAGE_SIZE);
  for (const file of files) {
    yield* imagePages(file, gpa);
    gpa += BigInt(Math.ceil(file.length / PAGE_SIZE) * PAGE_SIZE);
  }
}

/** The directory page of {@link processPages}, for callers that read one file at a time. */
export function processDirectory(lengths: readonly number[]): LaunchPage {
  if (lengths.length > MAX_PROCESS_FILES) throw new SnpError("ERR_SNP_PAGE", `${lengths.length} files, more than the limit of ${MAX_PROCESS_FILES}`);
  const writer = new ByteWriter().bytes(MAGIC).u32le(lengths.length).u32le(0);
  for (const length of lengths) writer.u64le(BigInt(length));
  return { kind: "normal", gpa: 0n, contents: writer.zeros(PAGE_SIZE - writer.length).toBytes() };
}

/**
 * Tells which page of {@link processPages} is of which file.
 * @param directory the first page
 * @param names of the files, in their order
 * @throws {SnpError} ERR_SNP_PAGE if the page is no directory of as many files
 */
export function processSources(directory: LaunchPage, names: readonly string[]): (gpa: bigint) => PageSource {
  const reader = new ByteReader(directory.kind === "normal" ? directory.contents : new Uint8Array(PAGE_SIZE), "process directory");
  const magic = reader.bytes(MAGIC.length);
  const [count] = [reader.u32le(), reader.u32le()];
  if (!equalBytes(magic, MAGIC) || count !== names.length) throw new SnpError("ERR_SNP_PAGE", `the page is no directory of ${names.length} files`);
  const files: { readonly name: string; readonly start: bigint }[] = [];
  let start = BigInt(PAGE_SIZE);
  for (const name of names) {
    files.push({ name, start });
    start += (reader.u64le() + BigInt(PAGE_SIZE - 1)) & ~BigInt(PAGE_SIZE - 1);
  }
  return (gpa) => {
    // An empty file has no page: the last that starts here has it.
    const file = files.findLast((item) => item.start <= gpa);
    return file === undefined ? { name: "directory" } : { name: file.name, file: file.name, offset: Number(gpa - file.start) };
  };
}
