import { decodeUtf8 } from "@sealpod/core";
import { elfSection } from "./elf.ts";
import { ImageError } from "./errors.ts";
import type { PackageFiles } from "./package-files.ts";

/** A module that an image carries. */
export interface KernelModule {
  /** Name as the kernel has it: with `_`, without suffix. */
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Unpacks what a distribution packed a module with. */
export type UnpackModule = (bytes: Uint8Array, path: string) => Promise<Uint8Array>;

/** Largest .modinfo section: a module with thousands of device ids has a few hundred KiB. */
const MAX_MODINFO = 4 * 1024 * 1024;

/** Longest chain of needs; Linux's own are a dozen deep. */
const MAX_DEPTH = 64;

/** Kernel modules of a package, and in which order they go in. */
export class KernelModules {
  readonly #paths = new Map<string, string>();
  readonly #builtIn = new Set<string>();
  readonly #loaded = new Map<string, { readonly module: KernelModule; readonly needs: readonly string[] }>();
  readonly #files: PackageFiles;
  readonly #unpack: UnpackModule;

  /** @param release name of the directory below `/lib/modules` */
  constructor(files: PackageFiles, release: string, unpack: UnpackModule) {
    this.#files = files;
    this.#unpack = unpack;
    const root = `usr/lib/modules/${release}/`;
    for (const path of files.paths) if (path.startsWith(`${root}kernel/`) && /\.ko(?:\.xz|\.zst)?$/.test(path)) this.#paths.set(moduleName(path), path);
    const builtIn = files.get(`${root}modules.builtin`);
    if (builtIn?.kind === "file")
      for (const line of decodeUtf8(builtIn.data, "modules.builtin").split("\n")) if (line !== "") this.#builtIn.add(moduleName(line));
  }

  /** Whether the kernel has a module, in itself or as a file. */
  has(name: string): boolean {
    return this.#builtIn.has(name) || this.#paths.has(name);
  }

  /**
   * The modules and all that they need, each after what it needs; those that are built in left out.
   * @throws {ImageError} ERR_IMAGE_KERNEL, ERR_IMAGE_ELF
   */
  async closure(names: readonly string[]): Promise<readonly KernelModule[]> {
    const order = new Map<string, KernelModule>();
    const visit = async (name: string, chain: readonly string[]): Promise<void> => {
      if (order.has(name) || this.#builtIn.has(name)) return;
      if (chain.length > MAX_DEPTH || chain.includes(name))
        throw new ImageError("ERR_IMAGE_KERNEL", `kernel modules need one another in a circle: ${[...chain, name].join(" → ").slice(0, 400)}`);
      const { module, needs } = await this.#load(name, chain.at(-1));
      for (const need of needs) await visit(need, [...chain, name]);
      order.set(name, module);
    };
    for (const name of names) await visit(name, []);
    return [...order.values()];
  }

  async #load(name: string, neededBy: string | undefined): Promise<{ readonly module: KernelModule; readonly needs: readonly string[] }> {
    const known = this.#loaded.get(name);
    if (known !== undefined) return known;
    const path = this.#paths.get(name);
    const file = path === undefined ? undefined : this.#files.get(path);
    if (path === undefined || file?.kind !== "file") {
      throw new ImageError("ERR_IMAGE_KERNEL", `the kernel package has no module ${name}${neededBy === undefined ? "" : `, which ${neededBy} needs`}`);
    }
    const bytes = await this.#unpack(file.data, path);
    const loaded = { module: { name, bytes }, needs: await moduleNeeds(bytes, path) };
    this.#loaded.set(name, loaded);
    return loaded;
  }
}

/** `dm_mod` of `kernel/drivers/md/dm-mod.ko.xz`: the kernel takes `-` and `_` for one another. */
export function moduleName(path: string): string {
  return (path.slice(path.lastIndexOf("/") + 1).split(".")[0] ?? "").replaceAll("-", "_");
}

/**
 * Names of the modules that must be loaded before, from `depends=` of .modinfo.
 * @throws {ImageError} ERR_IMAGE_ELF, ERR_IMAGE_KERNEL
 */
export async function moduleNeeds(bytes: Uint8Array, what: string): Promise<readonly string[]> {
  const section = await elfSection(bytes, ".modinfo", what);
  if (section === undefined || section.length > MAX_MODINFO) throw new ImageError("ERR_IMAGE_KERNEL", `${what} has no section .modinfo of a usual size`);
  const fields = Buffer.from(section).toString("latin1").split("\0");
  const depends = fields.find((field) => field.startsWith("depends="))?.slice("depends=".length) ?? "";
  return depends.split(",").flatMap((name) => (name === "" ? [] : [moduleName(name)]));
}
