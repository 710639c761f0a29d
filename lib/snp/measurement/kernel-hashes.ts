import { ByteWriter, concatBytes, encodeUtf8, sha256 } from "@sealpod/core";
import { SnpError } from "../errors.ts";
import { guidBytes } from "./guid.ts";
import { PAGE_SIZE } from "./launch-digest.ts";

/** SHA-256 digests of what a VMM boots directly, 32 bytes each. */
export interface KernelHashes {
  readonly commandLine: Uint8Array;
  readonly initrd: Uint8Array;
  readonly kernel: Uint8Array;
}

/** Size of the table with its padding, in bytes. */
export const KERNEL_HASHES_SIZE = 176;

const TABLE_SIZE = 168;
const ENTRY_SIZE = 50;
const GUIDS = {
  table: "9438d606-4f22-4cc9-b479-a793d411fd21",
  commandLine: "97d02dd8-bd20-4c94-aa78-e7714d36ab2a",
  initrd: "44baf731-3a2f-4bd7-9af1-41e29169781d",
  kernel: "4de79437-abd2-427f-b835-d5b172d2045b",
} as const;

/**
 * The digests that firmware checks a kernel, its initial RAM disk and its command line against. The command line is hashed with a NUL at its end, a missing disk as no bytes.
 * @throws {SnpError} ERR_SNP_LAUNCH if the command line has a NUL character
 */
export function hashKernel(files: {
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array | undefined;
  readonly commandLine?: string | undefined;
}): KernelHashes {
  const { kernel, initrd = new Uint8Array(), commandLine = "" } = files;
  // For a kernel the line ends at the first NUL, for the digest at the last.
  if (commandLine.includes("\0")) throw new SnpError("ERR_SNP_LAUNCH", "the kernel's command line has a NUL character");
  return { commandLine: sha256(concatBytes(encodeUtf8(commandLine), Uint8Array.of(0))), initrd: sha256(initrd), kernel: sha256(kernel) };
}

/**
 * The page of zeros in which the table of hashes stands (QEMU, `sev_add_kernel_loader_hashes`), 4096 bytes.
 * @param offset of the table in the page
 * @throws {SnpError} ERR_SNP_LAUNCH if the table does not fit there, or a digest has not 32 bytes
 */
export function kernelHashesPage(hashes: KernelHashes, offset: number): Uint8Array {
  if (!Number.isInteger(offset) || offset < 0 || offset + KERNEL_HASHES_SIZE > PAGE_SIZE) {
    throw new SnpError("ERR_SNP_LAUNCH", `the table of kernel hashes at offset ${offset} of its page does not fit: it has ${KERNEL_HASHES_SIZE} bytes`);
  }
  const writer = new ByteWriter().zeros(offset).bytes(guidBytes(GUIDS.table)).u16le(TABLE_SIZE);
  for (const name of ["commandLine", "initrd", "kernel"] as const) {
    const digest = hashes[name];
    if (digest.length !== 32) throw new SnpError("ERR_SNP_LAUNCH", `kernel hashes: ${name} of ${digest.length} bytes, expected 32`);
    writer.bytes(guidBytes(GUIDS[name])).u16le(ENTRY_SIZE).bytes(digest);
  }
  return writer.zeros(PAGE_SIZE - writer.length).toBytes();
}
