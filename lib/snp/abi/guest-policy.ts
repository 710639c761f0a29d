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
  readonly raplDisabled: boolean;
  readonly ciphertextHidingRequired: boolean;
  readonly pageSwapDisabled: boolean;
}

/** The view of a raw POLICY. */
export function parseGuestPolicy(policy: bigint): GuestPolicy {
  const bit = (position: bigint): boolean => ((policy >> position) & 1n) === 1n;
  return {
    abiMajor: Number((policy >> 8n) & 0xffn),
    abiMinor: Number(policy & 0xffn),
    smtAllowed: bit(16n),
    migrationAgentAllowed: bit(18n),
    debugAllowed: bit(19n),
    singleSocketRequired: bit(20n),
    cxlAllowed: bit(21n),
    aes256XtsRequired: bit(22n),
    raplDisabled: bit(23n),
    ciphertextHidingRequired: bit(24n),
    pageSwapDisabled: bit(25n),
  };
}

/** The raw POLICY of a view; bit 17 is always one. */
export function encodeGuestPolicy(policy: GuestPolicy): bigint {
  const bit = (set: boolean, position: bigint): bigint => (set ? 1n << position : 0n);
  return (
    BigInt(policy.abiMinor & 0xff) |
    (BigInt(policy.abiMajor & 0xff) << 8n) |
    bit(policy.smtAllowed, 16n) |
    bit(true, 17n) |
    bit(policy.migrationAgentAllowed, 18n) |
    bit(policy.debugAllowed, 19n) |
    bit(policy.singleSocketRequired, 20n) |
    bit(policy.cxlAllowed, 21n) |
    bit(policy.aes256XtsRequired, 22n) |
    bit(policy.raplDisabled, 23n) |
    bit(policy.ciphertextHidingRequired, 24n) |
    bit(policy.pageSwapDisabled, 25n)
  );
}
