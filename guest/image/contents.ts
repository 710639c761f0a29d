import type { UvmTarget } from "./command-line.ts";

/**
 * What a utility VM is made of. Each line is a part of the trusted computing base: it is there because the agent calls it by its absolute
 * path, because the kernel needs it to come so far, or because a sidecar of the pod asks for it.
 */

/** The kernel of the distribution for machines without real hardware: small, and with what virtio guests need as modules. */
export const DEFAULT_KERNEL_PACKAGE = "linux-image-cloud-amd64";

/** Name of a package that has a kernel in it, as against one that depends on the newest. */
export const KERNEL_PACKAGE: RegExp = /^linux-image-\d[a-z0-9+.~-]*$/;

/** The C compiler that makes the first process (guest/init). It runs on the builder's machine and is not in the image; its version decides bytes of the image. */
export const COMPILER_PACKAGE = "tcc";

/** Programs of the root and the packages that bring them. Shared libraries are found by what the programs name. */
export const PROGRAMS: readonly { readonly package: string; readonly files: readonly string[] }[] = [
  { package: "crun", files: ["usr/bin/crun"] },
  { package: "mount", files: ["usr/bin/mount", "usr/bin/umount"] },
  { package: "coreutils", files: ["usr/bin/date", "usr/bin/head", "usr/bin/mkfifo", "usr/bin/mknod", "usr/bin/tee"] },
  { package: "attr", files: ["usr/bin/setfattr"] },
  { package: "iproute2", files: ["usr/bin/ip", "usr/sbin/ip"] },
  { package: "dmsetup", files: ["usr/sbin/dmsetup"] },
  { package: "e2fsprogs", files: ["usr/sbin/mkfs.ext4", "etc/mke2fs.conf"] },
];

/** Packages of the libraries that those programs and Node need, directly or not (Debian 12). */
export const LIBRARY_PACKAGES: readonly string[] = [
  "libc6",
  "libgcc-s1",
  "libstdc++6",
  "libblkid1",
  "libbpf1",
  "libbsd0",
  "libcap2",
  "libcom-err2",
  "libdevmapper1.02.1",
  "libelf1",
  "libext2fs2",
  "libgcrypt20",
  "libgpg-error0",
  "liblz4-1",
  "liblzma5",
  "libmd0",
  "libmnl0",
  "libmount1",
  "libpcre2-8-0",
  "libseccomp2",
  "libselinux1",
  "libsystemd0",
  "libudev1",
  "libuuid1",
  "libyajl2",
  "libzstd1",
  "zlib1g",
];

/** Where the loader looks on Debian amd64 when no cache and no path is given (ld.so(8)), `/lib` being `/usr/lib`. */
export const LIBRARY_DIRECTORIES: readonly string[] = ["usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64"];

/** Kernel modules that the first process loads, in this order where their own needs leave a choice. A kernel that has one built in does without. */
export const BOOT_MODULES: Readonly<Record<UvmTarget, readonly string[]>> = {
  emulated: ["virtio_pci", "virtio_blk", "dm_mod", "dm_verity", "erofs", "virtio_console", "overlay"],
  // configfs: the report interface of the real processor is mounted from it.
  snp: ["virtio_pci", "virtio_blk", "dm_mod", "dm_verity", "erofs", "virtio_console", "overlay", "configfs"],
};

/** Like {@link BOOT_MODULES}; that one of them does not load, or that a kernel does not have it, stops no machine. */
export const OPTIONAL_BOOT_MODULES: Readonly<Record<UvmTarget, readonly string[]>> = {
  emulated: ["virtio_net", "virtio_rng"],
  // Reports come from the processor itself: its device, and from Linux 6.7 on that device's face in configfs.
  snp: ["virtio_net", "virtio_rng", "tsm", "sev_guest"],
};

/** Kernel modules in the root, for when the agent needs them: encrypted disks of sidecars, and a host that speaks vsock. */
export const LATER_MODULES: readonly string[] = [
  "dm_crypt",
  "nbd",
  "xts",
  "ecb",
  "aesni_intel",
  "af_alg",
  "algif_skcipher",
  "algif_hash",
  "ext4",
  "vsock",
  "vmw_vsock_virtio_transport",
];
