import { OID, type NameAttribute } from "@sealpod/pki";

/** What every name and file of the emulator says, so that nobody takes it for hardware. */
export const EMULATED_NOTICE = "EMULATED - NO HARDWARE PROTECTION";

/** Name of the emulator's trust root, and so the value of `x-sealpod-root` in tokens that rest on it. */
export const EMULATOR_ROOT_NAME = "emulator";

/** Feed of the endorsements that the laptop signs for what it launched. */
export const LAPTOP_UVM_FEED = "Sealpod-Laptop-UVM";

/** Version of those endorsements. */
export const LAPTOP_UVM_SVN = 1;

/**
 * Sealpod's private arc for object identifiers: 2.25 and the UUID 4963ed34-3e48-40a1-b49d-810d08d8ffd8 as a number (ITU-T X.667), which needs no registration.
 * Below it: 1 extended key usages; 1.1 signing endorsements of utility VMs on a laptop.
 */
export const SEALPOD_ARC = "2.25.97552492151509741327169512377098502104";

/** Extended key usage of the laptop's endorsement key. */
export const LAPTOP_UVM_EKU: string = `${SEALPOD_ARC}.1.1`;

/** A distinguished name that says EMULATED twice. */
export function emulatedName(what: string): readonly NameAttribute[] {
  return [
    { type: OID.organizationalUnit, value: EMULATED_NOTICE },
    { type: OID.organization, value: "Sealpod" },
    { type: OID.commonName, value: `Sealpod EMULATED ${what}` },
  ];
}
