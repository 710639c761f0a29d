import { access, constants, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Child } from "../child.ts";

/** What runs the guest's instructions, and why that. */
export interface Accelerator {
  /** `tcg` translates them: it works everywhere, ten times slower. */
  readonly kind: "kvm" | "tcg";
  /** For people. */
  readonly reason: string;
}

/** What {@link chooseAccelerator} looks at. */
export interface AcceleratorFacts {
  /** Text of `/proc/cpuinfo`. */
  readonly cpuInfo: string;
  /** Whether `/dev/kvm` can be opened for reading and writing. */
  readonly hasDevice: boolean;
  /** Boots the {@link probeRom} with KVM; undefined if it answered, else what happened. */
  readonly probe: () => Promise<string | undefined>;
}

/**
 * KVM, but only where it is seen to work: some hosts offer a device whose machines never run. QEMU's own choice (`kvm:tcg`) looks at the
 * device alone.
 */
export async function chooseAccelerator({ cpuInfo, hasDevice, probe }: AcceleratorFacts): Promise<Accelerator> {
  const flag = /^flags\s*:.*\b(svm|vmx)\b/m.exec(cpuInfo)?.[1];
  if (flag === undefined) return { kind: "tcg", reason: "the processor's flags show neither svm nor vmx: no virtualization in hardware" };
  if (!hasDevice) return { kind: "tcg", reason: "/dev/kvm is not there, or not for this user" };
  const failure = await probe();
  if (failure !== undefined) return { kind: "tcg", reason: `a machine with KVM did not answer: ${failure}` };
  return { kind: "kvm", reason: `the processor has ${flag}, and a machine with KVM answered` };
}

/** The facts of this host. */
export async function acceleratorFacts(qemu: string, directories: readonly string[]): Promise<AcceleratorFacts> {
  return {
    cpuInfo: await readFile("/proc/cpuinfo", "latin1").catch(() => ""),
    hasDevice: await access("/dev/kvm", constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    ),
    probe: () => probeBoot({ qemu, directories, accelerator: "kvm" }),
  };
}

/** What the probe's guest writes to the port that ends QEMU. */
const PROBE_ANSWER = 0x2a;

/** QEMU's exit code after that (docs of `isa-debug-exit`: twice the value, plus one). */
const PROBE_EXIT_CODE: number = PROBE_ANSWER * 2 + 1;

/** Bytes of the smallest firmware that QEMU takes. */
const ROM_LENGTH = 64 * 1024;

/** Milliseconds. KVM answers in a tenth of a second; where it hangs it does so for ever. */
const PROBE_LIMIT = 5000;

/**
 * Firmware that writes {@link PROBE_ANSWER} to port 0xf4 and halts. The processor starts at 16 bytes before the end (Intel SDM volume 3,
 * 10.1.4), with the segment such that a near jump stays in this ROM.
 */
export function probeRom(): Uint8Array {
  const rom = new Uint8Array(ROM_LENGTH).fill(0xf4);
  // mov al, answer; out 0xf4, al; hlt
  rom.set([0xb0, PROBE_ANSWER, 0xe6, 0xf4, 0xf4], 0);
  // jmp near to the start: the distance counts from behind the three bytes of the jump.
  const reset = ROM_LENGTH - 16;
  const distance = (ROM_LENGTH - (reset + 3)) & 0xffff;
  rom.set([0xe9, distance & 0xff, distance >> 8], reset);
  return rom;
}

/** Boots the probe; undefined if it answered, else what happened. */
export async function probeBoot(options: {
  readonly qemu: string;
  readonly directories: readonly string[];
  readonly accelerator: "kvm" | "tcg";
  readonly limitMs?: number;
}): Promise<string | undefined> {
  const limit = options.limitMs ?? PROBE_LIMIT;
  const directory = await mkdtemp(join(tmpdir(), "sealpod-probe-"));
  try {
    const rom = join(directory, "probe.rom");
    await writeFile(rom, probeRom());
    const child = new Child({
      program: options.qemu,
      args: [
        ["-accel", options.accelerator, "-machine", "q35", "-m", "16M", "-no-user-config", "-nodefaults", "-display", "none"],
        ["-bios", rom, "-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
      ].flat(),
      directories: options.directories,
    });
    let late = false;
    const exit = await child.end(
      () => undefined,
      limit,
      () => {
        late = true;
        child.process.kill("SIGKILL");
      },
    );
    if (exit.exitCode === PROBE_EXIT_CODE) return undefined;
    return late ? `nothing after ${limit} ms` : `QEMU ended with ${exit.exitCode ?? exit.signal ?? "nothing"}: ${child.tail}`;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
