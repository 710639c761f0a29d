import type { ByteSource } from "@sealpod/core";
import { type ElfNeeds, parseElf as parseElfFile } from "@sealpod/image";
import { ImagesError } from "./errors.ts";

export type { ElfNeeds } from "@sealpod/image";

/**
 * Reads which loader and libraries an ELF file needs; undefined if it is no ELF file at all.
 * @throws {ImagesError} ERR_IMAGES_ELF if it is one, but damaged or not for x86-64
 */
export async function parseElf(source: ByteSource, what: string): Promise<ElfNeeds | undefined> {
  try {
    return await parseElfFile(source, what);
  } catch (cause) {
    throw new ImagesError("ERR_IMAGES_ELF", cause instanceof Error ? cause.message : `${what} is not a well-formed ELF file`, { cause });
  }
}
