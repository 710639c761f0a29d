import { execFile, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { buildErofsLayer, encodeTar, type TarItem } from "@sealpod/verity";

const exec = promisify(execFile);

/** Where packages that only tests use are unpacked; nothing of them is installed. */
const CACHE = join(import.meta.dirname, "..", "..", "build", "tools", "guest-init");

/** Longest that a boot may take: thirty times what it takes on an idle machine. */
const BOOT_LIMIT_MS = 150_000;

/** Kernel modules on the way to the root, each after those that it needs (Debian's Linux 6.1). */
export const MODULES: readonly string[] = [
  ..."virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk".split(" "),
  ..."reed_solomon dm-mod dm-bufio dm-verity libcrc32c erofs".split(" "),
];

/** Starts a program to its end, as `compileInit` wants it. */
export async function run(program: string, args: readonly string[]): Promise<void> {
  await exec(program, [...args]);
}

/** Directory of an unpacked Debian package, fetched if it was never before; undefined where there is no such package to be had. */
export function debianPackage(name: string): string | undefined {
  const target = join(CACHE, name);
  if (existsSync(target)) return target;
  mkdirSync(CACHE, { recursive: true });
  const work = mkdtempSync(join(CACHE, "fetch-"));
  try {
    // The kernel's package with the stable name has nothing in it but the name of the newest.
    const depends = /^\s+Depends: (linux-image-\d\S+)$/m.exec(spawnSync("apt-cache", ["depends", name], { encoding: "utf8" }).stdout ?? "")?.[1];
    spawnSync("apt-get", ["download", "-qq", depends ?? name], { cwd: work });
    const deb = readdirSync(work).find((file) => file.endsWith(".deb"));
    const files = join(work, "files");
    if (deb === undefined || spawnSync("dpkg-deb", ["-x", join(work, deb), files]).status !== 0) return undefined;
    renameSync(files, target);
    return target;
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** Whether a program is on the PATH. */
export function present(program: string): boolean {
  return (process.env["PATH"] ?? "").split(":").some((directory) => existsSync(join(directory, program)));
}

/** Files of a kernel package. */
export class Kernel {
  /** The bzImage. */
  readonly image: string;
  readonly #modules: ReadonlyMap<string, string>;

  constructor(directory: string) {
    const image = readdirSync(join(directory, "boot")).find((name) => name.startsWith("vmlinuz-"));
    if (image === undefined) throw new Error(`no kernel in ${directory}`);
    this.image = join(directory, "boot", image);
    const modules = join(directory, "lib", "modules");
    const files = readdirSync(modules, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ko"));
    this.#modules = new Map(files.map((file) => [basename(file, ".ko"), join(modules, file)]));
  }

  /** Bytes of a module. */
  module(name: string): Uint8Array {
    const path = this.#modules.get(name);
    if (path === undefined) throw new Error(`the kernel has no module ${name}`);
    return readFileSync(path);
  }
}

/** A file, or a directory if it has no content, of an initrd or a root. */
export interface TreeFile {
  readonly path: string;
  readonly content?: Uint8Array | string;
  /** 0o755 when absent. */
  readonly mode?: number;
}

/** An initrd in the kernel's "newc" form. */
export function initrdOf(files: readonly TreeFile[]): Uint8Array {
  const parts: Uint8Array[] = [];
  const add = (path: string, mode: number, data: Uint8Array): void => {
    const name = encodeUtf8(`${path}\0`);
    const fields = [parts.length + 1, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
    const header = encodeUtf8(`070701${fields.map((value) => value.toString(16).padStart(8, "0")).join("")}`);
    parts.push(header, name, new Uint8Array(-(header.length + name.length) & 3), data, new Uint8Array(-data.length & 3));
  };
  for (const { path, content, mode = 0o755 } of files) {
    if (content === undefined) add(path, 0o040000 | mode, new Uint8Array());
    else add(path, 0o100000 | mode, typeof content === "string" ? encodeUtf8(content) : content);
  }
  add("TRAILER!!!", 0, new Uint8Array());
  return concatBytes(...parts);
}

/** A root disk and what the kernel's command line says of it. */
export interface Root {
  readonly disk: Uint8Array;
  readonly dataBlocks: number;
  /** Lower-case hex. */
  readonly rootHash: string;
}

/** An EROFS root with its dm-verity tree. */
export async function rootOf(files: readonly TreeFile[]): Promise<Root> {
  const items = files.map(({ path, content, mode = 0o755 }): TarItem => {
    const base = { path, mode, uid: 0, gid: 0, mtime: 0 };
    return content === undefined
      ? { ...base, path: `${path}/`, kind: "directory" }
      : { ...base, kind: "file", data: typeof content === "string" ? encodeUtf8(content) : content };
  });
  const written: Uint8Array[] = [];
  const patches: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
  const info = await buildErofsLayer(encodeTar(items), {
    write(bytes) {
      written.push(bytes.slice());
      return Promise.resolve();
    },
    writeAt(offset, bytes) {
      patches.push({ offset, bytes: bytes.slice() });
      return Promise.resolve();
    },
  });
  const disk = concatBytes(...written);
  for (const { offset, bytes } of patches) disk.set(bytes, offset);
  return { disk, dataBlocks: info.dataBlocks, rootHash: Buffer.from(info.rootHash).toString("hex") };
}

/** The dm-verity part of the command line. */
export function verityParameter({ dataBlocks, rootHash }: Omit<Root, "disk">, options = "1 panic_on_corruption"): string {
  const verity = `1 /dev/vda /dev/vda 4096 4096 ${dataBlocks} ${dataBlocks} sha256 ${rootHash} ${"0".repeat(64)}`;
  return `dm-mod.create="sealpod-root,,,ro,0 ${dataBlocks * 8} verity ${verity}${options === "" ? "" : ` ${options}`}"`;
}

/** What a machine boots from. */
export interface BootOptions {
  readonly kernel: Kernel;
  readonly initrd: Uint8Array;
  readonly disk?: Uint8Array;
  /** What comes behind the words that every boot has. */
  readonly commandLine?: string;
  /** A directory of the test's own. */
  readonly directory: string;
}

/** Boots a machine without acceleration and gives what its console said until it ended by itself, line ends as `\n`. */
export async function boot({ kernel, initrd, disk, commandLine = "", directory }: BootOptions): Promise<string> {
  // Of its own: machines boot side by side.
  const files = mkdtempSync(join(directory, "machine-"));
  const [initrdFile, diskFile] = [join(files, "initrd"), join(files, "disk")];
  writeFileSync(initrdFile, initrd);
  if (disk !== undefined) writeFileSync(diskFile, disk);
  const drive = disk === undefined ? [] : ["-drive", `if=none,id=root,file=${diskFile},format=raw,readonly=on`, "-device", "virtio-blk-pci,drive=root"];
  const words = `console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check mitigations=off random.trust_cpu=1 cryptomgr.notests ${commandLine}`;
  const machine = ["-accel", "tcg", "-machine", "q35,hpet=off,usb=off,vmport=off,smm=off", "-cpu", "max", "-smp", "1", "-m", "512", "-display", "none"];
  const rest = ["-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", kernel.image, "-initrd", initrdFile, ...drive, "-append", words.trim()];
  const child = spawn("qemu-system-x86_64", [...machine, ...rest], { stdio: ["ignore", "pipe", "pipe"] });
  let console = "";
  const take = (text: string): void => void (console += text);
  child.stdout.setEncoding("utf8").on("data", take);
  child.stderr.setEncoding("utf8").on("data", take);
  const limit = setTimeout(() => child.kill("SIGKILL"), BOOT_LIMIT_MS);
  try {
    const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (exitCode, by) => resolve([exitCode, by]));
    });
    if (code !== 0) throw new Error(`QEMU ended with ${code ?? signal}: ${console.slice(-2000)}`);
  } finally {
    clearTimeout(limit);
    rmSync(files, { recursive: true });
  }
  return console.replaceAll("\r", "");
}
