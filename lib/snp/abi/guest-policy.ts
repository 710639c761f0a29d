import { SnpError } from "../errors.ts";

/** The guest's POLICY (AMD 56860, table GUEST_POLICY), which the host gives at launch and firmware enforces. */
export interface GuestPolicy {
  /** Lowest firmware ABI that the guest accepts. */
  readonly abiMajor: number;
  readonly abiMinor: number;
  readonly smtAllowed: boolean;
  readonly migrationAgentAllowed: boolean;
  /** The host may read and write the guest's memory. */
  readonly debugAllowed: boolean;
  readonly singleSocketRequired: boolean;
  readonly cxlAllowed: boolean;
  readonly aes256XtsRequired: boolean;
  /** The host must have switched off RAPL, whose energy counters tell about the guest's computations. */
  readonly raplDisabled: boolean;
  readonly ciphertextHidingRequired: boolean;
  /** The host must not move the guest's pages out of memory. */
  readonly pageSwapDisabled: boolean;
}

/** Bits of POLICY above the ABI version, by the name of their view. Bit 17 is always one, bits 63:26 are zero. */
export const GUEST_POLICY_BITS = {
  smtAllowed: 16,
  migrationAgentAllowed: 18,
  debugAllowed: 19,
  singleSocketRequired: 20,
  cxlAllowed: 21,
  aes256XtsRequired: 22,
  raplDisabled: 23,
  ciphertextHidingRequired: 24,
  pageSwapDisabled: 25,
} as const;

/** A named bit of POLICY. */
export type GuestPolicyBit = keyof typeof GUEST_POLICY_BITS;

/** The bit that firmware demands to be one. */
const MUST_BE_ONE = 17n;

/** The view of a raw POLICY. */
export function parseGuestPolicy(policy: bigint): GuestPolicy {
  const bit = (name: GuestPolicyBit): boolean => ((policy >> BigInt(GUEST_POLICY_BITS[name])) & 1n) === 1n;
  return {
    abiMajor: Number((policy >> 8n) & 0xffn),
    abiMinor: Number(policy & 0xffn),
    smtAllowed: bit("smtAllowed"),
    migrationAgentAllowed: bit("migrationAgentAllowed"),
    debugAllowed: bit("debugAllowed"),
    singleSocketRequired: bit("singleSocketRequired"),
    cxlAllowed: bit("cxlAllowed"),
    aes256XtsRequired: bit("aes256XtsRequired"),
    raplDisabled: bit("raplDisabled"),
    ciphertextHidingRequired: bit("ciphertextHidingRequired"),
    pageSwapDisabled: bit("pageSwapDisabled"),
  };
}

/**
 * The raw POLICY of a view; bit 17 is always one.
 * @throws {SnpError} ERR_SNP_FIELD if a number of the ABI version is not 0 to 255: cut to its byte it would ask for less than was meant
 */
export function encodeGuestPolicy(policy: GuestPolicy): bigint {
  for (const number of [policy.abiMajor, policy.abiMinor]) {
    if (!Number.isInteger(number) || number < 0 || number > 255) throw new SnpError("ERR_SNP_FIELD", `POLICY: ABI number ${number}, expected 0 to 255`);
  }
  let raw = BigInt(policy.abiMinor) | (BigInt(policy.abiMajor) << 8n) | (1n << MUST_BE_ONE);
  for (const name of Object.keys(GUEST_POLICY_BITS) as GuestPolicyBit[]) if (policy[name]) raw |= 1n << BigInt(GUEST_POLICY_BITS[name]);
  return raw;
}
