import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { messageOf, toHex } from "@sealpod/core";
import { ImageError } from "./errors.ts";
import { decodeLz4Legacy } from "./lz4.ts";

/** Largest unpacked kernel: distributions' have 30 to 100 MiB. */
const MAX_VMLINUX = 512 * 1024 * 1024;

/** Offsets in a bzImage (Linux, Documentation/arch/x86/boot.rst). */
const SETUP_SECTS = 0x1f1;
const HEADER_MAGIC = 0x202;
const VERSION = 0x206;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
/** The payload's fields came with this version of the boot protocol. */
const PAYLOAD_VERSION = 0x208;
const SECTOR = 512;

/**
 * The ELF kernel inside a bzImage. A VMM starts it at its PVH entry, without the decompressor: under emulation that saves most of a second.
 * @throws {ImageError} ERR_IMAGE_KERNEL
 */
export function extractVmlinux(bzImage: Uint8Array, what: string): Uint8Array {
  const view = new DataView(bzImage.buffer, bzImage.byteOffset, bzImage.length);
  if (bzImage.length < 0x260 || view.getUint32(HEADER_MAGIC, true) !== 0x53726448) throw malformed(what, "it is no bzImage: the header's HdrS is missing");
  const version = view.getUint16(VERSION, true);
  if (version < PAYLOAD_VERSION) throw malformed(what, `boot protocol ${version.toString(16)}, expected 208 or later`);
  // Zero means four (boot.rst, "setup_sects").
  const setup = ((view.getUint8(SETUP_SECTS) || 4) + 1) * SECTOR;
  const start = setup + view.getUint32(PAYLOAD_OFFSET, true);
  const length = view.getUint32(PAYLOAD_LENGTH, true);
  if (length < 8 || start + length > bzImage.length)
    throw malformed(what, `a payload of ${length} bytes at ${start} is not inside its ${bzImage.length} bytes`);
  const payload = bzImage.subarray(start, start + length);
  // The build appends the unpacked size to what the packer wrote; gzip ends with it by itself.
  const size = view.getUint32(start + length - 4, true);
  if (size === 0 || size > MAX_VMLINUX) throw malformed(what, `an unpacked size of ${size} bytes, expected 1 to ${MAX_VMLINUX}`);
  const vmlinux = unpack(payload, size, what);
  if (vmlinux.length !== size) throw malformed(what, `unpacked to ${vmlinux.length} bytes, expected ${size}`);
  if (toHex(vmlinux.subarray(0, 4)) !== "7f454c46") throw malformed(what, "what it unpacks to is no ELF file");
  return vmlinux;
}

function unpack(payload: Uint8Array, size: number, what: string): Uint8Array {
  const body = payload.subarray(0, payload.length - 4);
  const magic = toHex(payload.subarray(0, 4));
  try {
    if (magic === "02214c18") return decodeLz4Legacy(body, size);
    if (magic === "28b52ffd") return zstdDecompressSync(body, { maxOutputLength: size });
    if (magic.startsWith("1f8b")) return gunzipSync(payload, { maxOutputLength: size });
  } catch (cause) {
    if (cause instanceof ImageError) throw cause;
    throw malformed(what, `its payload cannot be unpacked: ${messageOf(cause)}`, cause);
  }
  throw malformed(what, `its payload begins with ${magic}, which is neither LZ4 (legacy), zstd nor gzip`);
}

function malformed(what: string, problem: string, cause?: unknown): ImageError {
  return new ImageError("ERR_IMAGE_KERNEL", `${what}: ${problem}`, { cause });
}
