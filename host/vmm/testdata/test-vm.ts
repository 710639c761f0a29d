import { execFile } from "node:child_process";
import { accessSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { build } from "esbuild";

// A virtual machine for the tests of drivers: the distribution's kernel, and an initrd with busybox, this Node and the test guest in place of the agent.

const run = promisify(execFile);

/** Where packages are unpacked once for all tests. */
const CACHE = join(import.meta.dirname, "..", "..", "..", "build", "tools", "kernel");

/** Package that depends on the newest kernel of the kind that utility VMs use. */
const KERNEL_PACKAGE = "linux-image-cloud-amd64";

/** In the order in which they are loaded. */
const MODULES = [
  "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "virtio_console", "failover", "net_failover", "virtio_net", "rng-core", "virtio-rng",
];

/** The parts of a UVM that the tests start. */
export interface TestVm {
  readonly kernel: string;
  readonly initrd: string;
  readonly root: string;
}

/** What is missing on this machine, or undefined if tests with a virtual machine can run. */
export function missingForVm(): string | undefined {
  const present = (path: string): boolean => {
    try {
      accessSync(path);
      return true;
    } catch {
      return false;
    }
  };
  if (process.getuid?.() !== 0) return "needs root";
  if (!present("/usr/bin/qemu-system-x86_64")) return "without qemu-system-x86";
  if (!present("/bin/busybox")) return "without busybox-static";
  if (!present(CACHE) && !present("/var/lib/apt/lists")) return "without apt";
  return undefined;
}

/** Directory with the unpacked kernel package, fetched when it is not there yet; undefined if it cannot be had. */
export async function kernelDirectory(): Promise<string | undefined> {
  try {
    const { stdout } = await run("apt-cache", ["depends", KERNEL_PACKAGE]);
    const name = /Depends: (linux-image-\S+)/.exec(stdout)?.[1];
    if (name === undefined) return undefined;
    const directory = join(CACHE, name);
    if (readdirSync(CACHE).includes(name)) return directory;
    return await fetchKernel(name, directory);
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ENOENT") return undefined;
  }
  await mkdir(CACHE, { recursive: true });
  return kernelDirectory();
}

async function fetchKernel(name: string, directory: string): Promise<string> {
  const fresh = `${directory}.${process.pid}`;
  await mkdir(fresh, { recursive: true });
  try {
    await run("apt-get", ["download", name], { cwd: fresh });
    const archive = readdirSync(fresh).find((file) => file.endsWith(".deb")) ?? "";
    await run("dpkg-deb", ["-x", archive, "."], { cwd: fresh });
    await rm(join(fresh, archive));
    await rename(fresh, directory);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
  return directory;
}

/** Writes kernel, initrd and a root disk of one block into a directory. */
export async function buildTestVm(kernelPackage: string, output: string): Promise<TestVm> {
  await mkdir(output, { recursive: true });
  const boot = readdirSync(join(kernelPackage, "boot")).find((name) => name.startsWith("vmlinuz-")) ?? "";
  const kernel = await uncompressedKernel(join(kernelPackage, "boot", boot), output);
  const guest = await build({
    entryPoints: [join(import.meta.dirname, "test-vm-guest.ts")],
    bundle: true,
    format: "esm",
    platform: "node",
    target: "node24",
    write: false,
    logLevel: "silent",
  });
  const modules = readdirSync(join(kernelPackage, "lib", "modules"), { recursive: true, encoding: "utf8" });
  const archive = new Archive();
  for (const directory of ["bin", "dev", "proc", "sys", "tmp", "modules", "lib", "lib64"]) archive.directory(directory);
  archive.file("init", Buffer.from(INIT), 0o755);
  archive.file("bin/busybox", readFileSync("/bin/busybox"), 0o755);
  archive.file("bin/node", readFileSync(process.execPath), 0o755);
  for (const [name, path] of await libraries(process.execPath)) archive.file(name, readFileSync(path), 0o755);
  for (const name of MODULES) {
    const path = modules.find((path) => basename(path) === `${name}.ko`);
    if (path !== undefined) archive.file(`modules/${name}.ko`, readFileSync(join(kernelPackage, "lib", "modules", path)), 0o644);
  }
  archive.file("modules/order", Buffer.from(`${MODULES.join("\n")}\n`), 0o644);
  archive.file("guest.mjs", Buffer.from(guest.outputFiles[0]?.contents ?? []), 0o644);
  const initrd = join(output, "initrd");
  await writeFile(initrd, archive.bytes());
  const root = join(output, "root");
  await writeFile(root, Buffer.alloc(4096, "root of the test machine\n"));
  return { kernel, initrd, root };
}

/** When Node ends, the machine does. */
const INIT = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
while read m; do $b insmod /modules/$m.ko 2>/dev/null; done < /modules/order
$b ip link set lo up
$b ip addr add 10.0.2.100/24 dev eth0 2>/dev/null
$b ip link set eth0 up 2>/dev/null
$b ip route add default via 10.0.2.2 2>/dev/null
mode=$($b sed -n 's/.*sealpod.test=\\([a-z]*\\).*/\\1/p' /proc/cmdline)
cd /
PATH=/bin /bin/node --disable-warning=DEP0111 /guest.mjs $mode
echo "sealpod-init: agent ended with $?"
$b poweroff -f
`;

/** The ELF file inside a bzImage, which starts faster; the bzImage itself where `lz4` is not there. (Offsets: the kernel's boot protocol, 2.08.) */
async function uncompressedKernel(image: string, output: string): Promise<string> {
  const bytes = readFileSync(image);
  const payload = (bytes.readUInt8(0x1f1) + 1) * 512 + bytes.readUInt32LE(0x248);
  const packed = join(output, "vmlinux.lz4");
  await writeFile(packed, bytes.subarray(payload, payload + bytes.readUInt32LE(0x24c) - 4));
  try {
    await run("lz4", ["-d", "-f", "-q", packed, join(output, "vmlinux")]);
    return join(output, "vmlinux");
  } catch {
    return image;
  }
}

async function libraries(program: string): Promise<readonly (readonly [string, string])[]> {
  const { stdout } = await run("ldd", [program]);
  const found = [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map((match) => match[1] ?? "");
  return found.map((path) => [path.startsWith("/lib64/") ? path.slice(1) : `lib/${basename(path)}`, realpathSync(path)]);
}

/** A cpio archive of the "newc" kind. */
class Archive {
  readonly #parts: Uint8Array[] = [];
  #inode = 1;

  directory(name: string): void {
    this.#entry(name, 0o040755, new Uint8Array());
  }

  file(name: string, content: Uint8Array, mode: number): void {
    this.#entry(name, 0o100000 | mode, content);
  }

  bytes(): Uint8Array {
    this.#entry("TRAILER!!!", 0, new Uint8Array());
    return Buffer.concat(this.#parts);
  }

  #entry(name: string, mode: number, content: Uint8Array): void {
    const fields = [this.#inode++, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
    const head = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}${name}\0`;
    for (const part of [Buffer.from(head), content]) this.#parts.push(part, new Uint8Array(-part.length & 3));
  }
}
