import { SnpError } from "../errors.ts";
import type { ProductName } from "./product.ts";

/** Security patch levels of the firmware components, by the names of AMD's certificate extensions. All are 0 to 255. */
export interface TcbVersion {
  /** From Turin on; undefined before. */
  readonly fmc: number | undefined;
  readonly bootloader: number;
  readonly tee: number;
  readonly snp: number;
  readonly microcode: number;
  /** Levels without a meaning yet: spl4 to spl7 on Milan and Genoa, spl5 to spl7 on Turin. */
  readonly reserved: readonly number[];
}

/** Components of {@link TcbVersion} that a minimum can be asked of. */
export type TcbComponent = "fmc" | "bootloader" | "tee" | "snp" | "microcode";

/**
 * The view of a TCB_VERSION. Its layout depends on the product (AMD 57230): Turin put the FMC first.
 * @param bytes 8 bytes
 * @throws {SnpError} ERR_SNP_FIELD on another length
 */
export function parseTcb(bytes: Uint8Array, product: ProductName): TcbVersion {
  if (bytes.length !== 8) throw new SnpError("ERR_SNP_FIELD", `TCB_VERSION of ${bytes.length} bytes, expected 8`);
  const [b0 = 0, b1 = 0, b2 = 0, b3 = 0, b4 = 0, b5 = 0, b6 = 0, b7 = 0] = bytes;
  return product === "Turin"
    ? { fmc: b0, bootloader: b1, tee: b2, snp: b3, reserved: [b4, b5, b6], microcode: b7 }
    : { fmc: undefined, bootloader: b0, tee: b1, reserved: [b2, b3, b4, b5], snp: b6, microcode: b7 };
}

/**
 * The 8 bytes of a TCB_VERSION.
 * @throws {SnpError} ERR_SNP_FIELD if a level is no byte, or does not exist on the product
 */
export function encodeTcb(tcb: TcbVersion, product: ProductName): Uint8Array {
  const { fmc, bootloader, tee, snp, microcode, reserved } = tcb;
  const turin = product === "Turin";
  if ((fmc === undefined) === turin || reserved.length !== (turin ? 3 : 4))
    throw new SnpError("ERR_SNP_FIELD", `TCB_VERSION does not have the components of ${product}`);
  const levels = turin ? [fmc ?? 0, bootloader, tee, snp, ...reserved, microcode] : [bootloader, tee, ...reserved, snp, microcode];
  if (levels.some((level) => !Number.isInteger(level) || level < 0 || level > 255)) throw new SnpError("ERR_SNP_FIELD", "a TCB level is not 0 to 255");
  return Uint8Array.from(levels);
}

/**
 * The first component in which `tcb` is below `minimum`, or undefined. Components are compared one by one: as numbers, a high microcode level would hide an old bootloader.
 */
export function firstTcbBelow(tcb: TcbVersion, minimum: Partial<TcbVersion>): TcbComponent | "reserved" | undefined {
  for (const component of ["fmc", "bootloader", "tee", "snp", "microcode"] as const) {
    const least = minimum[component];
    if (least !== undefined && (tcb[component] ?? 0) < least) return component;
  }
  return minimum.reserved?.some((least, index) => (tcb.reserved[index] ?? 0) < least) === true ? "reserved" : undefined;
}

/** Text for messages, such as `bootloader 4, tee 0, snp 24, microcode 219`. */
export function formatTcb(tcb: TcbVersion): string {
  const { fmc, bootloader, tee, snp, microcode, reserved } = tcb;
  const parts = [fmc === undefined ? "" : `fmc ${fmc}, `, `bootloader ${bootloader}, tee ${tee}, snp ${snp}, microcode ${microcode}`];
  if (reserved.some((level) => level !== 0)) parts.push(`, reserved ${reserved.join(" ")}`);
  return parts.join("");
}

/** A TCB_VERSION as the upper-case hex number of THIM's `tcbm` and Azure's cache: the 8 bytes read as little endian, without leading zeros. */
export function formatTcbNumber(bytes: Uint8Array): string {
  return Buffer.from(bytes).readBigUInt64LE(0).toString(16).toUpperCase();
}
