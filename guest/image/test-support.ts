import { concatBytes, encodeUtf8, sha256, toHex } from "@sealpod/core";
import { encodeTar, type TarItem } from "@sealpod/verity";
import { zstdCompressSync } from "node:zlib";
import type { StartCommand } from "./command.ts";
import { BOOT_MODULES, LATER_MODULES, LIBRARY_PACKAGES, OPTIONAL_BOOT_MODULES, PROGRAMS } from "./contents.ts";
import type { DebianPackage } from "./debian-packages.ts";
import { ImageError } from "./errors.ts";

/** What a made-up ELF file has. */
export interface SampleElf {
  readonly interpreter?: string;
  readonly libraries?: readonly string[];
  readonly sections?: Readonly<Record<string, Uint8Array>>;
  /** Makes two files differ. */
  readonly salt?: string;
}

/** A small ELF file for x86-64: header, program headers, dynamic section, strings, and behind all that is loaded a section table. */
export function sampleElf({ interpreter, libraries = [], sections = {}, salt = "" }: SampleElf = {}): Uint8Array {
  const headers = [1, ...(libraries.length > 0 ? [2] : []), ...(interpreter === undefined ? [] : [3])];
  const start = 64 + 56 * headers.length;
  const strings = Buffer.from(`\0${libraries.map((name) => `${name}\0`).join("")}${salt}\0`, "latin1");
  const interp = Buffer.from(interpreter === undefined ? "" : `${interpreter}\0`, "latin1");
  const [stringsAt, interpAt] = [start, start + strings.length];
  const dynamicAt = interpAt + interp.length;
  let offset = 1;
  const entries = libraries.map((name) => {
    const entry = [1n, BigInt(offset)] as const;
    offset += name.length + 1;
    return entry;
  });
  const base = 0x400000;
  const dynamic = Buffer.concat([...entries, [5n, BigInt(base + stringsAt)] as const, [0n, 0n] as const].map(([tag, value]) => u64(tag, value)));
  const loaded = dynamicAt + dynamic.length;
  const program = (type: number): Buffer => {
    const [at, size] = type === 1 ? [0, loaded] : type === 2 ? [dynamicAt, dynamic.length] : [interpAt, interp.length];
    return Buffer.concat([u32(type, 5), u64(BigInt(at), BigInt(base + at), 0n, BigInt(size), BigInt(size), 1n)]);
  };
  const names = Buffer.from(`\0${Object.keys(sections).join("\0")}\0.names\0`, "latin1");
  const bodies = [...Object.values(sections), names];
  const tableAt = loaded + bodies.reduce((sum, body) => sum + body.length, 0);
  let at = loaded;
  const rows = [...Object.keys(sections), ".names"].map((name, index) => {
    const size = bodies[index]?.length ?? 0;
    at += size;
    return Buffer.concat([u32(names.indexOf(`${name}\0`), 1), u64(0n, 0n, BigInt(at - size), BigInt(size)), Buffer.alloc(24)]);
  });
  const header = Buffer.alloc(64);
  header.write("\u007fELF\u0002\u0001\u0001", 0, "latin1");
  header.writeUInt16LE(2, 16);
  header.writeUInt16LE(62, 18);
  header.writeBigUInt64LE(64n, 32);
  header.writeBigUInt64LE(BigInt(tableAt), 40);
  for (const [field, value] of [
    [52, 64],
    [54, 56],
    [56, headers.length],
    [58, 64],
    [60, rows.length + 1],
    [62, rows.length],
  ] as const)
    header.writeUInt16LE(value, field);
  return new Uint8Array(Buffer.concat([header, ...headers.map(program), strings, interp, dynamic, ...bodies, Buffer.alloc(64), ...rows]));
}

/** A kernel module that needs others, with a signature at its end. */
export function sampleModule(name: string, needs: readonly string[] = []): Uint8Array {
  const module = sampleElf({ sections: { ".modinfo": encodeUtf8(`license=GPL\0depends=${needs.join(",")}\0name=${name}\0`) } });
  const signature = encodeUtf8("signature");
  return concatBytes(module, signature, new Uint8Array([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, signature.length]), encodeUtf8("~Module signature appended~\n"));
}

/** A bzImage around a packed payload; `size` is what the build appends. */
export function sampleBzImage(packed: Uint8Array, size: number): Uint8Array {
  const head = Buffer.alloc(1024);
  head[0x1f1] = 1;
  head.writeUInt32LE(0x53726448, 0x202);
  head.writeUInt16LE(0x20f, 0x206);
  head.writeUInt32LE(16, 0x248);
  head.writeUInt32LE(packed.length + 4, 0x24c);
  return new Uint8Array(Buffer.concat([head, Buffer.alloc(16, 0x90), packed, u32(size), Buffer.alloc(100, 0x90)]));
}

/** Release of the made-up kernel. */
export const RELEASE = "6.1.0-1-cloud-amd64";

/** Modules of the made-up kernel that others need. */
const NEEDS: Readonly<Record<string, readonly string[]>> = {
  virtio_blk: ["virtio", "virtio-ring"],
  virtio_pci: ["virtio_ring"],
  virtio_ring: ["virtio"],
  dm_verity: ["dm-mod", "dm-bufio"],
  dm_bufio: ["dm-mod"],
  dm_crypt: ["dm-mod"],
};

/** A Debian of made-up packages: what apt-cache, apt-get, dpkg-deb and the compiler would say. */
export class SampleDebian {
  readonly packages: Map<
    string,
    { readonly record: DebianPackage & { readonly depends?: string }; readonly deb: Uint8Array; readonly items: readonly TarItem[] }
  > = new Map();
  /** Commands that were started, each as one line. */
  readonly started: string[] = [];
  /** What apt-get does instead of fetching. */
  failDownload: Error | undefined;
  readonly #write: (path: string, bytes: Uint8Array) => Promise<void>;
  readonly #read: (path: string) => Promise<Uint8Array>;

  constructor(write: (path: string, bytes: Uint8Array) => Promise<void>, read: (path: string) => Promise<Uint8Array>) {
    this.#write = write;
    this.#read = read;
    const modules = new Set([...BOOT_MODULES.emulated, ...OPTIONAL_BOOT_MODULES.emulated, ...LATER_MODULES, "virtio", "virtio_ring", "dm_bufio"]);
    modules.delete("ext4");
    const directory = `./lib/modules/${RELEASE}`;
    const vmlinux = sampleElf({ salt: "kernel" });
    this.add("linux-image-cloud-amd64", [], `linux-image-${RELEASE} (= 6.1.1-1)`);
    this.add(`linux-image-${RELEASE}`, [
      file(`./boot/vmlinuz-${RELEASE}`, sampleBzImage(zstdCompressSync(vmlinux), vmlinux.length)),
      file(`${directory}/modules.builtin`, encodeUtf8("kernel/fs/ext4/ext4.ko\n")),
      ...[...modules].map((name) => file(`${directory}/kernel/drivers/${name.replaceAll("_", "-")}.ko`, sampleModule(name, NEEDS[name]))),
    ]);
    for (const { package: name, files } of PROGRAMS)
      this.add(
        name,
        files.map((path) =>
          file(
            `./${path.replace(/^usr\/(s?bin)/, "$1")}`,
            path.startsWith("etc/") ? encodeUtf8(path) : sampleElf({ libraries: ["libc.so.6"], salt: path }),
            0o4755,
          ),
        ),
      );
    for (const name of LIBRARY_PACKAGES) this.add(name, [file(`./usr/lib/x86_64-linux-gnu/${name}.so.0`, sampleElf({ salt: name }))]);
    this.add("libc6", [
      file("./lib/x86_64-linux-gnu/libc-2.so", sampleElf({ salt: "libc" })),
      { ...FIXED, kind: "symlink", path: "./lib/x86_64-linux-gnu/libc.so.6", mode: 0o777, target: "libc-2.so" },
      file("./lib64/ld-linux-x86-64.so.2", sampleElf({ salt: "loader" })),
    ]);
    this.add("tcc", [file("./usr/bin/tcc", encodeUtf8("a compiler"))]);
  }

  add(name: string, items: readonly TarItem[], depends?: string): void {
    const deb = encodeUtf8(
      `the deb of ${name}, ${items.map((item) => `${item.path} ${"data" in item && item.data instanceof Uint8Array ? toHex(sha256(item.data)) : ""}`).join()}`,
    );
    const record = {
      name,
      version: name.startsWith("linux-") ? "6.1.1-1" : "1:2.0-1+b1",
      architecture: "amd64",
      sha256: toHex(sha256(deb)),
      ...(depends === undefined ? {} : { depends }),
    };
    this.packages.set(name, { record, deb, items });
  }

  readonly start: StartCommand = (command, args, { cwd }) => this.#run(command, args, cwd);

  async *#run(command: string, args: readonly string[], cwd: string): AsyncGenerator<Uint8Array> {
    this.started.push([command, ...args].join(" "));
    const operands = args.slice(args.indexOf("--") + 1);
    if (command === "apt-cache") {
      const known = operands.flatMap((name) => this.packages.get(name)?.record ?? []);
      if (known.length === 0) throw new ImageError("ERR_IMAGE_COMMAND", "apt-cache ended with 100: E: No packages found");
      for (const { name, version, architecture, sha256: hash, depends } of known)
        yield encodeUtf8(
          `Package: ${name}\nVersion: ${version}\n${depends === undefined ? "" : `Depends: ${depends}\n`}Architecture: ${architecture}\nDescription: x\n SHA256: no field\nSHA256: ${hash}\n\n`,
        );
    } else if (command === "apt-get") {
      if (this.failDownload !== undefined) throw this.failDownload;
      for (const operand of operands) {
        const [name = "", version = ""] = operand.split("=");
        const found = this.packages.get(name);
        if (found === undefined || found.record.version !== version)
          throw new ImageError("ERR_IMAGE_COMMAND", `E: Version '${version}' for '${name}' was not found`);
        await this.#write(`${cwd}/${name}_${version.replaceAll(":", "%3a")}_amd64.deb`, found.deb);
      }
    } else if (command === "dpkg-deb") {
      const name = /([^/]+?)_[^/]*\.deb$/.exec(operands[0] ?? "")?.[1] ?? "";
      yield* encodeTar(this.packages.get(name)?.items ?? []);
    } else if (command === "env") {
      // Node, which saves the agent.
      await this.#write(`${cwd}/agent.saved`, concatBytes(encodeUtf8(`saved by ${args.join(" ")}: `), await this.#read(`${cwd}/agent.cjs`)));
    } else throw new ImageError("ERR_IMAGE_PLATFORM", `${command} is not on this machine`);
  }
}

const FIXED = { uid: 7, gid: 7, mtime: 1_700_000_000 } as const;

function file(path: string, data: Uint8Array, mode = 0o755): TarItem {
  return { ...FIXED, kind: "file", path, mode, data };
}

function u32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) bytes.writeUInt32LE(value, 4 * index);
  return bytes;
}

function u64(...values: readonly bigint[]): Buffer {
  const bytes = Buffer.alloc(8 * values.length);
  for (const [index, value] of values.entries()) bytes.writeBigUInt64LE(value, 8 * index);
  return bytes;
}
