import type { UvmTarget } from "./command-line.ts";
import { BOOT_MODULES, LATER_MODULES, LIBRARY_DIRECTORIES, PROGRAMS } from "./contents.ts";
import { memorySource, parseElf } from "./elf.ts";
import { ImageError } from "./errors.ts";
import { ImageTree } from "./image-tree.ts";
import type { KernelModules } from "./kernel-modules.ts";
import type { PackageFiles } from "./package-files.ts";
import { AGENT_ENGINE_OPTIONS, AGENT_START_OPTIONS } from "./saved-agent.ts";

/** What the agent takes for the formats of pods: those of the AKS documents, or of upstream Confidential Containers. */
export type UvmProfile = "aks" | "coco";

/** Directory of what is Sealpod's own, in the root. */
const OWN = "usr/lib/sealpod";

/** Parts of the root that are no package's. */
export interface RootParts {
  readonly target: UvmTarget;
  readonly profile: UvmProfile;
  /** Node's program, stripped. */
  readonly node: Uint8Array;
  /** What Node saved of the agent (saved-agent.ts). */
  readonly agent: Uint8Array;
  /** The native helper (guest/init). */
  readonly helper: Uint8Array;
}

/** The agent's program and its arguments: what the first process starts. */
export function agentCommand(profile: UvmProfile, target: UvmTarget): readonly string[] {
  return [
    "/usr/bin/node",
    ...AGENT_ENGINE_OPTIONS,
    ...AGENT_START_OPTIONS,
    "--snapshot-blob",
    `/${OWN}/agent.saved`,
    // Where a program's name stands. There is no such file: Node asks for none, as the program is in what was saved.
    "sealpod-agent",
    "--listen",
    "virtio:sealpod",
    "--machine",
    "vm",
    "--profile",
    profile,
    // Measured with the rest: a host cannot make a guest on real hardware take reports that the host makes.
    "--reports",
    target === "snp" ? "hardware" : "channel",
  ];
}

/** File systems that are mounted over the root: `type target options`. The root itself can never be written. */
export function rootMounts(target: UvmTarget): readonly string[] {
  return [
    "tmpfs /run nosuid,nodev,mode=755",
    // Containers write into it, so it has an end of its own: the host's files (4 MiB), and more report entries than are served at a time.
    "tmpfs /run/sealpod nosuid,nodev,noexec,mode=755,size=8m,nr_inodes=2048",
    "tmpfs /tmp nosuid,nodev,mode=1777",
    "tmpfs /var/lib/sealpod nosuid,nodev,mode=700",
    ...(target === "snp" ? ["configfs /sys/kernel/config nosuid,nodev,noexec"] : []),
  ];
}

/** Files of the root that programs and libraries look for. There is one user; names of hosts come from pods, not from here. */
const ETC: Readonly<Record<string, string>> = {
  "etc/passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
  "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
  "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
  "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
  "etc/os-release": 'NAME="Sealpod utility VM"\nID=sealpod-uvm\n',
};

/**
 * The root: programs that the agent calls with the libraries that they need, Node, the agent, and what the kernel may be asked for later.
 * No shell, no package manager, nothing setuid.
 * @throws {ImageError} ERR_IMAGE_PACKAGE, ERR_IMAGE_LIBRARY, ERR_IMAGE_ELF, ERR_IMAGE_KERNEL, ERR_IMAGE_TREE
 */
export async function buildRoot(files: PackageFiles, modules: KernelModules, parts: RootParts): Promise<ImageTree> {
  const tree = new ImageTree();
  for (const path of ["dev", "proc", "run", "sys", "var/lib/sealpod"]) tree.addDirectory(path);
  tree.addDirectory("tmp", 0o1777);
  for (const name of ["bin", "sbin", "lib", "lib64"]) tree.addSymlink(name, `usr/${name}`);
  for (const [path, text] of Object.entries(ETC)) tree.addFile(path, 0o644, text);
  tree.addSymlink("etc/mtab", "../proc/self/mounts");
  tree.addFile("etc/sealpod/init", 0o644, lines(agentCommand(parts.profile, parts.target)));
  tree.addFile("etc/sealpod/mounts", 0o644, lines(rootMounts(parts.target)));
  tree.addFile(`${OWN}/agent.saved`, 0o644, parts.agent);
  tree.addFile(`${OWN}/helper`, 0o755, parts.helper);
  tree.addFile("usr/bin/node", 0o755, parts.node);
  const loaded = (await modules.closure(BOOT_MODULES[parts.target])).map(({ name }) => name);
  for (const { name, bytes } of await modules.closure(LATER_MODULES.filter((name) => modules.has(name))))
    if (!loaded.includes(name)) tree.addFile(`${OWN}/modules/${name}.ko`, 0o644, bytes);

  const queue: { readonly name: string; readonly bytes: Uint8Array }[] = [{ name: "usr/bin/node", bytes: parts.node }];
  for (const { files: paths } of PROGRAMS) for (const path of paths) queue.push(...take(tree, files, path));
  await addLibraries(tree, files, queue);
  return tree;
}

/** Puts what a path leads to into the tree, the links on the way included; returns the file at the end, unless it was there already. */
function take(tree: ImageTree, files: PackageFiles, path: string): readonly { readonly name: string; readonly bytes: Uint8Array }[] {
  const added: { readonly name: string; readonly bytes: Uint8Array }[] = [];
  for (const [name, file] of files.follow(path)) {
    if (tree.get(name) === undefined && file.kind === "file") added.push({ name, bytes: file.data });
    if (file.kind === "symlink") tree.addSymlink(name, file.target);
    // setuid bits of mount and umount go here: everything in the guest is root's already, and containers never see these files.
    else tree.addFile(name, file.executable ? 0o755 : 0o644, file.data);
  }
  return added;
}

/** Adds the loader and all shared libraries that the programs need, directly or not. */
async function addLibraries(tree: ImageTree, files: PackageFiles, programs: readonly { readonly name: string; readonly bytes: Uint8Array }[]): Promise<void> {
  const queue = [...programs];
  for (let item = queue.pop(); item !== undefined; item = queue.pop()) {
    const { name } = item;
    const needs = await parseElf(memorySource(item.bytes), name);
    if (needs === undefined) continue;
    for (const library of needs.libraries) queue.push(...take(tree, files, findLibrary(files, library, name)));
    if (needs.interpreter !== undefined) queue.push(...take(tree, files, `usr${needs.interpreter}`));
  }
}

function findLibrary(files: PackageFiles, library: string, neededBy: string): string {
  const found = library.includes("/")
    ? undefined
    : LIBRARY_DIRECTORIES.map((directory) => `${directory}/${library}`).find((path) => files.get(path) !== undefined);
  if (found !== undefined) return found;
  throw new ImageError("ERR_IMAGE_LIBRARY", `${neededBy} needs ${library}, which no package of the image has in ${LIBRARY_DIRECTORIES.join(", ")}`, {
    details: { library },
    hint: "The package that has it belongs into LIBRARY_PACKAGES (guest/image/contents.ts).",
  });
}

function lines(items: readonly string[]): string {
  return items.map((item) => `${item}\n`).join("");
}
