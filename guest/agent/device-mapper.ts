import { existsSync } from "node:fs";
import { run } from "./command.ts";

/** What the agent asks of the kernel's device mapper, and of those who make something of a device. */
export interface DeviceMapper {
  /**
   * Makes a device and gives the path of its node.
   * @param table one line, as dmsetup(8) takes it. Bytes, for it may hold a key, and those can be overwritten
   */
  create(name: string, table: Uint8Array, access: "read-only" | "read-write"): Promise<string>;
  /** Removes a device; one that is still open goes when it is closed. */
  remove(name: string): Promise<void>;
  /** Loads what the kernel needs for encrypted scratch and few pods use: dm-crypt, ciphers, ext4. */
  loadScratchModules(): Promise<void>;
  /** Makes an ext4 file system for data that nobody needs once the guest is gone. */
  format(path: string): Promise<void>;
}

const DMSETUP = "/usr/sbin/dmsetup";
/** Modules in the guest's verified root. A kernel has some of these built in; the image then has no file of them. */
const MODULES = "/usr/lib/sealpod/modules";
/** What dm-crypt with AES-XTS and ext4 are made of, each after what it needs: nothing in the guest loads modules because the kernel asks for them. */
const SCRATCH_MODULES = ["cryptd", "crypto_simd", "aesni_intel", "ecb", "xts", "dm_crypt", "crc16", "crc32c_generic", "mbcache", "jbd2", "ext4"];

/** The device mapper of the guest's own kernel, by dmsetup(8), which makes the nodes itself where no udev runs. */
export function linuxDeviceMapper(): DeviceMapper {
  let loaded: Promise<void> | undefined;
  return {
    async create(name, table, access) {
      // The table by standard input: arguments can be read by every process, and some tables hold a key.
      await run(DMSETUP, ["create", ...(access === "read-only" ? ["--readonly"] : []), name], "/", table);
      return `/dev/mapper/${name}`;
    },
    remove: (name) => run(DMSETUP, ["remove", "--deferred", name]),
    async loadScratchModules() {
      const files = SCRATCH_MODULES.map((name) => `${MODULES}/${name}.ko`).filter((file) => existsSync(file));
      loaded ??= files.length === 0 ? Promise.resolve() : run("/usr/lib/sealpod/helper", ["load", ...files]);
      try {
        await loaded;
      } catch (error) {
        loaded = undefined;
        throw error;
      }
    },
    // No journal and no reserved blocks: after a crash there is nobody to recover for. Tables are filled when they are used.
    format: (path) => run("/usr/sbin/mkfs.ext4", ["-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", path]),
  };
}
