/**
 * The boot of the utility VM's kernel to a first process that does nothing: what remains of a pod's start when everything of Sealpod's is
 * taken away. The bench of the VM subtracts it; `node bench/vm/bare-boot.ts KERNEL TCC [rounds]` prints it alone.
 */
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { compileInit } from "@sealpod/init";

/** What the first process prints (bare-init.c). */
const LINE = "sealpod-bare: is up";
/** Many times what it takes on a busy machine. */
const LIMIT_MS = 120_000;
/** Those words of the utility VM's command line that have to do with the kernel's own start. */
const COMMAND_LINE =
  "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check random.trust_cpu=1 cryptomgr.notests cgroup_no_v1=all net.ifnames=0 mitigations=off";

/** What a bare boot is made of. Paths are absolute. */
export interface BareBootOptions {
  /** The kernel that the utility VM boots: `vmlinux` with a PVH note, or a bzImage. */
  readonly kernel: string;
  /** Of {@link buildBareInitrd}. */
  readonly initrd: string;
  /** 512 when absent, as the utility VM has. */
  readonly memoryMiB?: number;
  /** 1 when absent. */
  readonly vcpus?: number;
  /** QEMU's `-accel`; "tcg,thread=multi" when absent. */
  readonly accelerator?: string;
}

/**
 * Writes an initrd with nothing but a first process that prints a line and powers off.
 * @param tcc directory of the unpacked package `tcc`
 * @param output path of the initrd
 */
export async function buildBareInitrd(tcc: string, output: string): Promise<void> {
  const run = promisify(execFile);
  const source = join(import.meta.dirname, "bare-init.c");
  const init = await compileInit({ tcc, output: `${output}.init`, source, run: async (program, args) => run(program, [...args]) });
  rmSync(`${output}.init`);
  writeFileSync(output, concatBytes(entry("init", 0o100755, init), entry("TRAILER!!!", 0, new Uint8Array())));
}

/** Milliseconds from the start of QEMU to the line of the first process on the console. */
export async function bareBoot({ kernel, initrd, memoryMiB = 512, vcpus = 1, accelerator = "tcg,thread=multi" }: BareBootOptions): Promise<number> {
  const cpu = accelerator.startsWith("tcg") ? "max" : "host";
  const machine = ["-accel", accelerator, "-machine", "q35,hpet=off,usb=off,vmport=off,smm=off", "-cpu", cpu, "-smp", String(vcpus), "-m", String(memoryMiB)];
  const rest = ["-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd, "-append", COMMAND_LINE];
  const begin = performance.now();
  const child = spawn("qemu-system-x86_64", [...machine, ...rest], { stdio: ["ignore", "pipe", "pipe"] });
  const limit = setTimeout(() => child.kill("SIGKILL"), LIMIT_MS);
  let text = "";
  let up: number | undefined;
  const take = (chunk: string): void => {
    text = (text + chunk).slice(-4096);
    if (text.includes(LINE)) up ??= performance.now();
  };
  child.stdout.setEncoding("utf8").on("data", take);
  child.stderr.setEncoding("utf8").on("data", take);
  try {
    await new Promise<void>((resolve, reject) => child.once("error", reject).once("close", () => resolve()));
  } finally {
    clearTimeout(limit);
  }
  if (up === undefined) throw new Error(`the machine did not come up: ${text.slice(-500)}`);
  return up - begin;
}

/** An entry of an initrd in the kernel's "newc" form. */
function entry(path: string, mode: number, data: Uint8Array): Uint8Array {
  const name = encodeUtf8(`${path}\0`);
  const fields = [1, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0].map((value) => value.toString(16).padStart(8, "0")).join("");
  const header = encodeUtf8(`070701${fields}`);
  return concatBytes(header, name, new Uint8Array(-(header.length + name.length) & 3), data, new Uint8Array(-data.length & 3));
}

if (import.meta.main) {
  const [kernel, tcc, rounds = "5"] = process.argv.slice(2);
  if (kernel === undefined || tcc === undefined) throw new Error("node bench/vm/bare-boot.ts KERNEL TCC [rounds]");
  const directory = mkdtempSync(join(tmpdir(), "sealpod-bench-"));
  try {
    const initrd = join(directory, "initrd");
    await buildBareInitrd(tcc, initrd);
    const times: number[] = [];
    for (let round = 0; round < Number(rounds); round++) times.push(await bareBoot({ kernel, initrd }));
    times.sort((a, b) => a - b);
    const at = (part: number): string => (times[Math.floor((times.length - 1) * part)] ?? 0).toFixed(0);
    process.stdout.write(`bare boot  ${at(0.5)} ms   median of ${times.length} (${at(0)} to ${at(1)}), from the start of QEMU to the first process\n`);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
