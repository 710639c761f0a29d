import { toHex } from "@sealpod/core";

/** What a machine protects a guest with; it decides what the image may leave out. */
export type UvmTarget = "emulated" | "snp";

/** Block size of data and tree. */
const BLOCK = 4096;
const SECTOR = 512;

/** Salt of the root's tree: 32 zero bytes, as layers have. */
const SALT = "0".repeat(64);

const COMMON: readonly string[] = [
  "console=ttyS0",
  "quiet",
  // Whatever goes wrong, the machine ends: there is nobody to look at it, and nothing to fall back to.
  "panic=-1",
  "reboot=t",
  "tsc=reliable",
  "no_timer_check",
  "random.trust_cpu=1",
  "cryptomgr.notests",
  "cgroup_no_v1=all",
  "net.ifnames=0",
];

/**
 * The kernel's command line, which pins the root by its dm-verity root hash. It is measured, so nobody may change a byte of it.
 * @param rootHash 32 bytes
 * @param dataBlocks of 4096 bytes; the tree follows them in the same disk, top level first
 */
export function uvmCommandLine(target: UvmTarget, rootHash: Uint8Array, dataBlocks: number): string {
  const table = [
    0,
    (dataBlocks * BLOCK) / SECTOR,
    "verity",
    1,
    "/dev/vda",
    "/dev/vda",
    BLOCK,
    BLOCK,
    dataBlocks,
    dataBlocks,
    "sha256",
    toHex(rootHash),
    SALT,
    1,
    // A host that changes a block of the root ends the guest; it does not get to see how the guest copes.
    "panic_on_corruption",
  ].join(" ");
  return [
    ...COMMON,
    // An emulated guest runs no code of others beside its own on the processor; the flushes cost a tenth of its start.
    ...(target === "emulated" ? ["mitigations=off"] : []),
    `dm-mod.create="sealpod-root,,,ro,${table}"`,
    "root=/dev/dm-0",
    "rootfstype=erofs",
    "ro",
  ].join(" ");
}
