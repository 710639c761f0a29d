import { ByteWriter, sha384 } from "@sealpod/core";
import { SnpError } from "../errors.ts";
import { MEASUREMENT_SIZE } from "../abi/report.ts";

/** Size of a measured page in bytes. */
export const PAGE_SIZE = 4096;

/**
 * One page of a launch (AMD 56860, SNP_LAUNCH_UPDATE). The content of `normal` and `vmsa` pages is measured (4096 bytes); of the others only kind and place.
 * `gpa` is the guest physical address in bytes, a multiple of 4096.
 */
export type LaunchPage =
  | { readonly kind: "normal" | "vmsa"; readonly gpa: bigint; readonly contents: Uint8Array }
  | { readonly kind: "zero" | "unmeasured" | "secrets" | "cpuid"; readonly gpa: bigint };

const PAGE_TYPES: Readonly<Record<LaunchPage["kind"], number>> = { normal: 1, vmsa: 2, zero: 3, unmeasured: 4, secrets: 5, cpuid: 6 };
const PAGE_INFO_SIZE = 0x70;

/** A launch measurement in progress: the chain that firmware calls GCTX.LD. */
export class LaunchMeasurement {
  #digest: Uint8Array;

  /** @param start digest of pages that were measured before, 48 bytes; zeros at the beginning of a launch */
  constructor(start: Uint8Array = new Uint8Array(MEASUREMENT_SIZE)) {
    if (start.length !== MEASUREMENT_SIZE) throw new SnpError("ERR_SNP_PAGE", `launch digest of ${start.length} bytes, expected ${MEASUREMENT_SIZE}`);
    this.#digest = Uint8Array.from(start);
  }

  /**
   * Adds one page: LD = SHA-384(PAGE_INFO), where PAGE_INFO holds the LD before.
   * @throws {SnpError} ERR_SNP_PAGE
   */
  add(page: LaunchPage): this {
    if (page.gpa < 0n || page.gpa >= 1n << 64n || page.gpa % BigInt(PAGE_SIZE) !== 0n) {
      throw new SnpError("ERR_SNP_PAGE", `page at 0x${page.gpa.toString(16)} is not at a multiple of ${PAGE_SIZE} below 2^64`);
    }
    this.#digest = sha384(
      new ByteWriter()
        .bytes(this.#digest)
        .bytes(contentsDigest(page))
        .u16le(PAGE_INFO_SIZE)
        .u8(PAGE_TYPES[page.kind])
        // IMI_PAGE, the permissions of VMPL 3 to 1 and a reserved byte: all zero for the pages of a launch.
        .zeros(5)
        .u64le(page.gpa)
        .toBytes(),
    );
    return this;
  }

  /** The measurement over the pages so far, 48 bytes. */
  digest(): Uint8Array {
    return Uint8Array.from(this.#digest);
  }
}

/**
 * The launch digest of pages, in order.
 * @throws {SnpError} ERR_SNP_PAGE
 */
export function launchDigest(pages: Iterable<LaunchPage>): Uint8Array {
  const measurement = new LaunchMeasurement();
  for (const page of pages) measurement.add(page);
  return measurement.digest();
}

/**
 * NORMAL pages of a byte image, the last one padded with zeros.
 * @param gpa address of the first page
 */
export function* imagePages(image: Uint8Array, gpa: bigint): Generator<LaunchPage> {
  for (let at = 0; at < image.length; at += PAGE_SIZE) {
    const part = image.subarray(at, at + PAGE_SIZE);
    let contents = part;
    if (part.length < PAGE_SIZE) {
      contents = new Uint8Array(PAGE_SIZE);
      contents.set(part);
    }
    yield { kind: "normal", gpa: gpa + BigInt(at), contents };
  }
}

function contentsDigest(page: LaunchPage): Uint8Array {
  if (page.kind !== "normal" && page.kind !== "vmsa") return new Uint8Array(MEASUREMENT_SIZE);
  if (page.contents.length !== PAGE_SIZE)
    throw new SnpError("ERR_SNP_PAGE", `page at 0x${page.gpa.toString(16)} has ${page.contents.length} bytes, expected ${PAGE_SIZE}`);
  return sha384(page.contents);
}
