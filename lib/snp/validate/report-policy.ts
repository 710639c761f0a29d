import type { PlatformFeature } from "../abi/platform-info.ts";
import type { ProductName } from "../abi/product.ts";
import type { ReportVersion } from "../abi/report.ts";
import type { TcbVersion } from "../abi/tcb.ts";

/** Least levels of a TCB; a component that is left out is not compared. */
export type MinimumTcb = Partial<Pick<TcbVersion, "fmc" | "bootloader" | "tee" | "snp" | "microcode">>;

/** Least levels for each product; a product that is not listed is refused. */
export type MinimumTcbs = Partial<Readonly<Record<ProductName, MinimumTcb>>>;

/** A version of the firmware, or of its ABI. */
export interface AbiVersion {
  readonly major: number;
  readonly minor: number;
}

/** A bit of PLATFORM_INFO: by its name, or by its number as in `bit6`, 0 to 63. */
export type PlatformBitName = PlatformFeature | `bit${number}`;

/**
 * What a relying party asks of a genuine report. Every field must be given, as a requirement or as the word "any": a check that can be forgotten will be.
 * A list is met by any one of its entries; an empty list is met by nothing.
 */
export interface ReportPolicy {
  /** Names of roots that may vouch. */
  readonly roots: readonly string[] | "any";
  /** Product lines that a report may come from. */
  readonly products: readonly ProductName[] | "any";
  /** Versions of the report. Only versions from 3 on sign the processor's model, only version 5 has mitigation vectors. */
  readonly reportVersions: readonly ReportVersion[] | "any";
  /** Kinds of key that may sign: a VCEK names the chip, a VLEK only the cloud provider. */
  readonly signingKeys: readonly ("vcek" | "vlek")[] | "any";
  /** Chips, 64 bytes each (8 for Turin), as AMD certified them; of a VLEK report the CHIP_ID, which firmware wrote. */
  readonly chipIds: readonly Uint8Array[] | "any";
  /** Providers whose VLEK may sign, such as "CN=cc-us-east-2.amazonaws.com"; a VCEK has none. */
  readonly cspIds: readonly string[] | "any";
  /** REPORT_DATA, 64 bytes. */
  readonly reportData: Uint8Array | "any";
  /** HOST_DATA, 32 bytes. */
  readonly hostData: Uint8Array | "any";
  /** Launch measurements, 48 bytes each, one of which must be the report's. */
  readonly measurements: readonly Uint8Array[] | "any";
  /** VMPLs from which a report may be asked: 0 to 3, or `HOST_VMPL` for the host. */
  readonly vmpls: readonly number[] | "any";
  /** Whether the host may debug the guest, which reads all its memory. */
  readonly debug: "forbidden" | "any";
  /** Whether a migration agent may be attached. */
  readonly migrationAgent: "forbidden" | "any";
  /** Whether sibling threads may share a core with the guest. */
  readonly smt: "forbidden" | "any";
  /** Whether the guest insists on running on one socket, so that its memory crosses no link between processors. */
  readonly singleSocket: "required" | "any";
  /** Whether the guest's memory may stand on devices behind CXL. */
  readonly cxl: "forbidden" | "any";
  /** Whether the guest insists on AES-256 in XTS mode for its memory. */
  readonly aes256Xts: "required" | "any";
  /** Whether the host may read energy counters (RAPL) while the guest runs. */
  readonly rapl: "forbidden" | "any";
  /** Whether the guest insists that its ciphertext is hidden from the host. */
  readonly ciphertextHiding: "required" | "any";
  /** Whether the host may move the guest's pages out of memory. */
  readonly pageSwap: "forbidden" | "any";
  /** Least firmware ABI that the guest's own policy demands. */
  readonly minimumGuestAbi: AbiVersion | "any";
  /** Whether the running firmware must be at least the ABI that the guest's own policy demands. Firmware checks that at launch. */
  readonly guestAbiMet: "required" | "any";
  /** Least version of the firmware that is running. */
  readonly minimumFirmware: AbiVersion | "any";
  /** Whether firmware that the host can still roll back (CURRENT above COMMITTED) may run. Common on genuine hosts. */
  readonly provisionalFirmware: "forbidden" | "any";
  /** Least REPORTED_TCB: the one that the signing key is derived for. */
  readonly minimumTcb: MinimumTcbs | "any";
  /** Least COMMITTED_TCB: below it the host cannot go back. */
  readonly minimumCommittedTcb: MinimumTcbs | "any";
  /** Least CURRENT_TCB: what is running now. */
  readonly minimumCurrentTcb: MinimumTcbs | "any";
  /** Least LAUNCH_TCB: what was running when the guest was launched. */
  readonly minimumLaunchTcb: MinimumTcbs | "any";
  readonly minimumGuestSvn: number | "any";
  /** 16 bytes. */
  readonly familyId: Uint8Array | "any";
  /** 16 bytes. */
  readonly imageId: Uint8Array | "any";
  /** ID key digests, 48 bytes each. */
  readonly idKeyDigests: readonly Uint8Array[] | "any";
  /** Whether an author key must have signed the ID key. */
  readonly authorKey: "required" | "any";
  /** Author key digests, 48 bytes each; without an author key none is met. */
  readonly authorKeyDigests: readonly Uint8Array[] | "any";
  /** Bits of PLATFORM_INFO that must all be set. */
  readonly platformSet: readonly PlatformBitName[] | "any";
  /** Bits of PLATFORM_INFO that must all be clear. */
  readonly platformClear: readonly PlatformBitName[] | "any";
  /** Bits of LAUNCH_MIT_VECTOR that must all be set: what was mitigated when the guest was launched. Only version 5 reports have it. */
  readonly launchMitigations: bigint | "any";
  /** Bits of CURRENT_MIT_VECTOR that must all be set: what is mitigated now. Only version 5 reports have it. */
  readonly currentMitigations: bigint | "any";
}

/** A name of a check of {@link ReportPolicy}, found in the `check` detail of ERR_SNP_POLICY. */
export type ReportCheck = keyof ReportPolicy;

/** What a check requires when it is not "any". */
export type Requirement<K extends ReportCheck> = Exclude<ReportPolicy[K], "any">;

/** The policy that asks for nothing. Callers set fields of it: `{ ...anyReportPolicy(), debug: "forbidden" }`. */
export function anyReportPolicy(): ReportPolicy {
  return {
    roots: "any",
    products: "any",
    reportVersions: "any",
    signingKeys: "any",
    chipIds: "any",
    cspIds: "any",
    reportData: "any",
    hostData: "any",
    measurements: "any",
    vmpls: "any",
    debug: "any",
    migrationAgent: "any",
    smt: "any",
    singleSocket: "any",
    cxl: "any",
    aes256Xts: "any",
    rapl: "any",
    ciphertextHiding: "any",
    pageSwap: "any",
    minimumGuestAbi: "any",
    guestAbiMet: "any",
    minimumFirmware: "any",
    provisionalFirmware: "any",
    minimumTcb: "any",
    minimumCommittedTcb: "any",
    minimumCurrentTcb: "any",
    minimumLaunchTcb: "any",
    minimumGuestSvn: "any",
    familyId: "any",
    imageId: "any",
    idKeyDigests: "any",
    authorKey: "any",
    authorKeyDigests: "any",
    platformSet: "any",
    platformClear: "any",
    launchMitigations: "any",
    currentMitigations: "any",
  };
}

/** All checks, in the order in which they run. */
export const REPORT_CHECKS: readonly ReportCheck[] = Object.keys(anyReportPolicy()) as ReportCheck[];
