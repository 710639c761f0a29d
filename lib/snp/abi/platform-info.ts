import { SnpError } from "../errors.ts";

/** Bits of PLATFORM_INFO that have a name (AMD 56860, table PLATFORM_INFO). Bit 6 has none, but genuine Turin hosts set it. */
export const PLATFORM_BITS = {
  smtEnabled: 0,
  tsmeEnabled: 1,
  eccEnabled: 2,
  raplDisabled: 3,
  ciphertextHidingEnabled: 4,
  aliasCheckComplete: 5,
  tioEnabled: 7,
} as const;

/** A named bit of PLATFORM_INFO. */
export type PlatformFeature = keyof typeof PLATFORM_BITS;

/** The view of PLATFORM_INFO: what the host has switched on. */
export interface PlatformInfo extends Readonly<Record<PlatformFeature, boolean>> {
  /** The bits without a name, at their places. Firmware adds bits, so they are no error. */
  readonly unknown: bigint;
}

/** All names, in the order of the bits. */
export const PLATFORM_FEATURES: readonly PlatformFeature[] = Object.keys(PLATFORM_BITS) as PlatformFeature[];

const NAMED: bigint = PLATFORM_FEATURES.reduce((mask, feature) => mask | platformBit(feature), 0n);

/** The mask of one named bit. */
export function platformBit(feature: PlatformFeature): bigint {
  return 1n << BigInt(PLATFORM_BITS[feature]);
}

/** The view of a raw PLATFORM_INFO, without loss. */
export function parsePlatformInfo(raw: bigint): PlatformInfo {
  const has = (feature: PlatformFeature): boolean => (raw & platformBit(feature)) !== 0n;
  return {
    smtEnabled: has("smtEnabled"),
    tsmeEnabled: has("tsmeEnabled"),
    eccEnabled: has("eccEnabled"),
    raplDisabled: has("raplDisabled"),
    ciphertextHidingEnabled: has("ciphertextHidingEnabled"),
    aliasCheckComplete: has("aliasCheckComplete"),
    tioEnabled: has("tioEnabled"),
    unknown: raw & ~NAMED,
  };
}

/**
 * The raw PLATFORM_INFO of a view.
 * @throws {SnpError} ERR_SNP_FIELD if `unknown` holds a named bit, or is no number of 64 bits
 */
export function encodePlatformInfo(info: PlatformInfo): bigint {
  if (info.unknown < 0n || info.unknown >= 1n << 64n || (info.unknown & NAMED) !== 0n)
    throw new SnpError("ERR_SNP_FIELD", "PLATFORM_INFO: the unknown bits hold a named one, or more than 64 bits");
  return PLATFORM_FEATURES.reduce((raw, feature) => (info[feature] ? raw | platformBit(feature) : raw), info.unknown);
}

/** The bits of a mask by name, such as `["smtEnabled", "bit6"]`; a bit without a name is `bit` and its number. */
export function platformBitNames(mask: bigint): readonly string[] {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (((mask >> BigInt(bit)) & 1n) === 1n) names.push(PLATFORM_FEATURES.find((feature) => PLATFORM_BITS[feature] === bit) ?? `bit${bit}`);
  }
  return names;
}

/** Text for people, such as `0x65 (smtEnabled, eccEnabled, aliasCheckComplete, bit6)`. */
export function formatPlatformInfo(raw: bigint): string {
  return `0x${raw.toString(16)} (${platformBitNames(raw).join(", ") || "no bit"})`;
}
