import type { UvmTarget } from "./command-line.ts";
import { BOOT_MODULES, OPTIONAL_BOOT_MODULES } from "./contents.ts";
import { encodeCpio } from "./cpio.ts";
import { ImageTree } from "./image-tree.ts";
import type { KernelModules } from "./kernel-modules.ts";

/**
 * The initial RAM disk: the first process and the modules that it loads to come to the root, in `/modules/order`.
 * @param init the native helper (guest/init)
 * @throws {ImageError} ERR_IMAGE_KERNEL, ERR_IMAGE_ELF
 */
export async function buildInitrd(modules: KernelModules, target: UvmTarget, init: Uint8Array): Promise<Uint8Array> {
  const tree = new ImageTree();
  for (const path of ["dev", "proc", "root", "sys"]) tree.addDirectory(path);
  // Before devtmpfs is mounted, the first process has its console from here.
  tree.addCharacterDevice("dev/console", 0o600, 5, 1);
  tree.addFile("init", 0o755, init);
  const needed = await modules.closure(BOOT_MODULES[target]);
  const all = await modules.closure([...BOOT_MODULES[target], ...OPTIONAL_BOOT_MODULES[target].filter((name) => modules.has(name))]);
  const order: string[] = [];
  for (const { name, bytes } of all) {
    order.push(`${name}.ko${needed.some((item) => item.name === name) ? "" : "?"}`);
    tree.addFile(`modules/${name}.ko`, 0o644, bytes);
  }
  tree.addFile("modules/order", 0o644, `${order.join("\n")}\n`);
  return encodeCpio(tree);
}
