/** A start with SEV-SNP (AMD, "SEV Secure Nested Paging Firmware ABI Specification", section 8). */
export interface SnpLaunch {
  /** Mebibytes of the guest's memory. */
  readonly memoryMiB: number;
  /** 32 bytes that each report carries. */
  readonly hostData: Uint8Array;
  /** Guest policy; default {@link DEFAULT_SNP_POLICY}. */
  readonly policy?: bigint | undefined;
  /** ID block of 96 bytes, and its authentication of 4096: both or none. */
  readonly id?: { readonly block: Uint8Array; readonly authentication: Uint8Array } | undefined;
  /** Model of processor: part of what is measured, so never simply the host's. Default {@link DEFAULT_SNP_CPU}. */
  readonly cpu?: string | undefined;
}

/** SMT allowed, and the bit that is reserved as one; no debugging, no migration. */
export const DEFAULT_SNP_POLICY = 0x30000n;

/** Milan and later know it. */
export const DEFAULT_SNP_CPU = "EPYC-v4";

/** Version of QEMU that has the object `sev-snp-guest`. */
export const SNP_QEMU_VERSION = { major: 9, minor: 1 } as const;

/**
 * Arguments of QEMU for a start with SEV-SNP. `kernel-hashes=on` puts the digests of kernel, initrd and command line into a measured page;
 * firmware of the AmdSev kind compares what it is given with them.
 */
export function snpArguments(launch: SnpLaunch, firmware: string): readonly string[] {
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
  const guest = [
    "sev-snp-guest",
    "id=snp",
    // The place of the encryption bit and the bits that it costs: the same on all processors that have SNP.
    "cbitpos=51",
    "reduced-phys-bits=1",
    `policy=0x${(launch.policy ?? DEFAULT_SNP_POLICY).toString(16)}`,
    "kernel-hashes=on",
    `host-data=${base64(launch.hostData)}`,
    ...(launch.id === undefined ? [] : [`id-block=${base64(launch.id.block)}`, `id-auth=${base64(launch.id.authentication)}`, "author-key-enabled=on"]),
  ];
  const memory = `memory-backend-memfd,id=memory,size=${launch.memoryMiB}M,share=on,prealloc=off`;
  return ["-object", memory, "-object", guest.join(","), "-bios", firmware];
}
