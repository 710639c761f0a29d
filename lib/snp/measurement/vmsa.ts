import { SnpError } from "../errors.ts";
import { PAGE_SIZE } from "./launch-digest.ts";

/** Whose initial register state a vCPU has. */
export type VmmType = "qemu" | "ec2" | "gce";

/** First instruction of the first vCPU: the reset vector of x86. */
export const RESET_VECTOR = 0xffff_fff0;

/** Where KVM puts the VMSA pages, for all vCPUs alike: the last page of a 48-bit address space. */
export const VMSA_GPA = 0xffff_ffff_f000n;

/** Bit 0 of SEV_FEATURES: SEV-SNP is active. It is set in every SNP guest. */
export const SNP_ACTIVE = 1n;

/** Processor models by the names that QEMU has for them (`-cpu`); the value is family, model and stepping. */
const CPU_MODELS: readonly { readonly names: readonly string[]; readonly processor: readonly [number, number, number] }[] = [
  { names: ["EPYC", "EPYC-v1", "EPYC-v2", "EPYC-IBPB", "EPYC-v3", "EPYC-v4"], processor: [23, 1, 2] },
  { names: ["EPYC-Rome", "EPYC-Rome-v1", "EPYC-Rome-v2", "EPYC-Rome-v3"], processor: [23, 49, 0] },
  { names: ["EPYC-Milan", "EPYC-Milan-v1", "EPYC-Milan-v2"], processor: [25, 1, 1] },
  { names: ["EPYC-Genoa", "EPYC-Genoa-v1"], processor: [25, 17, 0] },
  { names: ["EPYC-Turin", "EPYC-Turin-v1"], processor: [26, 0, 0] },
];

/** Names that {@link cpuSignatureOf} knows. */
export const CPU_TYPES: readonly string[] = CPU_MODELS.flatMap(({ names }) => names);

/**
 * CPUID(1).EAX of a family, model and stepping (AMD64 APM volume 3, Fn0000_0001): the family above 15 goes to the extended family, the high four bits of the model to the
 * extended model.
 * @throws {SnpError} ERR_SNP_LAUNCH for numbers that CPUID cannot state
 */
export function cpuSignature(family: number, model: number, stepping: number): number {
  const whole = (value: number, most: number): boolean => Number.isInteger(value) && value >= 0 && value <= most;
  if (!whole(family, 0xf + 0xff) || !whole(model, 0xff) || !whole(stepping, 0xf)) {
    throw new SnpError("ERR_SNP_LAUNCH", `processor family ${family}, model ${model}, stepping ${stepping}: expected up to 270, 255 and 15`);
  }
  const [low, high] = family > 0xf ? [0xf, family - 0xf] : [family, 0];
  return (high << 20) | ((model >> 4) << 16) | (low << 8) | ((model & 0xf) << 4) | stepping;
}

/**
 * CPUID(1).EAX of a processor model by QEMU's name for it, either case.
 * @throws {SnpError} ERR_SNP_LAUNCH whose hint lists the names
 */
export function cpuSignatureOf(type: string): number {
  const wanted = type.toLowerCase();
  const row = CPU_MODELS.find(({ names }) => names.some((name) => name.toLowerCase() === wanted));
  if (row === undefined) {
    throw new SnpError("ERR_SNP_LAUNCH", `vCPU type ${JSON.stringify(type.slice(0, 40))} is unknown`, {
      hint: `Known types: ${CPU_TYPES.join(", ")}. Any other has a number: CPUID(1).EAX.`,
    });
  }
  return cpuSignature(...row.processor);
}

/** What decides the initial state of a vCPU. */
export interface VcpuState {
  readonly vmm: VmmType;
  /** First instruction; u32. */
  readonly instructionPointer: number;
  /** The first vCPU of the guest, which runs the firmware from its reset vector. */
  readonly boot: boolean;
  /** CPUID(1).EAX, which QEMU gives in RDX; u32. EC2 and GCE do not. */
  readonly cpuSignature: number;
  /** SEV_FEATURES; u64 with bit 0 set. */
  readonly guestFeatures: bigint;
}

/** Registers in which hypervisors differ. */
interface Dialect {
  readonly csAttributes: number;
  readonly ssAttributes: number;
  readonly trAttributes: number;
  readonly gPat: bigint;
  readonly rdx: number;
  readonly mxcsr: number;
  readonly fcw: number;
}

/** PAT of the processor's reset: write-back, write-through, uncached minus, uncached, twice. */
const PAT_AT_RESET = 0x0007_0406_0007_0406n;
/** EDX after reset in hypervisors that do not give the signature: family 6. */
const FAMILY_6 = 0x600;

function dialect(state: VcpuState): Dialect {
  switch (state.vmm) {
    case "qemu":
      return { csAttributes: 0x9b, ssAttributes: 0x93, trAttributes: 0x8b, gPat: PAT_AT_RESET, rdx: state.cpuSignature, mxcsr: 0x1f80, fcw: 0x37f };
    case "ec2":
      return { csAttributes: state.boot ? 0x9a : 0x9b, ssAttributes: 0x92, trAttributes: 0x83, gPat: PAT_AT_RESET, rdx: FAMILY_6, mxcsr: 0, fcw: 0 };
    case "gce":
      return { csAttributes: 0x9b, ssAttributes: 0x93, trAttributes: 0x8b, gPat: 0x0007_0106n, rdx: FAMILY_6, mxcsr: 0, fcw: 0 };
  }
}

/**
 * The save area (VMSA) of a vCPU as the hypervisor sets it up before launch, 4096 bytes (AMD64 APM volume 2, appendix B, table B-4): real mode at the reset state of x86.
 * @throws {SnpError} ERR_SNP_LAUNCH
 */
export function vmsaPage(state: VcpuState): Uint8Array {
  const { instructionPointer: eip, guestFeatures } = state;
  for (const [name, value] of [
    ["instruction pointer", eip],
    ["CPUID signature", state.cpuSignature],
  ] as const) {
    if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) throw new SnpError("ERR_SNP_LAUNCH", `vCPU: ${name} ${value}, expected 0 to 2^32 - 1`);
  }
  if (guestFeatures < 0n || guestFeatures >= 1n << 64n || (guestFeatures & SNP_ACTIVE) === 0n) {
    throw new SnpError("ERR_SNP_LAUNCH", `guest features 0x${guestFeatures.toString(16)}: expected 64 bits with bit 0 (SNP active) set`, {
      hint: "0x1 is SEV-SNP alone; 0x21 adds DebugSwap, which kernels before 6.10 switched on.",
    });
  }
  const { csAttributes, ssAttributes, trAttributes, gPat, rdx, mxcsr, fcw } = dialect(state);
  const page = new Uint8Array(PAGE_SIZE);
  const view = new DataView(page.buffer);
  const segment = (offset: number, selector: number, attributes: number, base = 0): void => {
    view.setUint16(offset, selector, true);
    view.setUint16(offset + 2, attributes, true);
    view.setUint32(offset + 4, 0xffff, true);
    view.setBigUint64(offset + 8, BigInt(base), true);
  };
  segment(0x00, 0, 0x93); // ES
  segment(0x10, 0xf000, csAttributes, (eip & 0xffff_0000) >>> 0); // CS
  segment(0x20, 0, ssAttributes); // SS
  segment(0x30, 0, 0x93); // DS
  segment(0x40, 0, 0x93); // FS
  segment(0x50, 0, 0x93); // GS
  segment(0x60, 0, 0); // GDTR
  segment(0x70, 0, 0x82); // LDTR
  segment(0x80, 0, 0); // IDTR
  segment(0x90, 0, trAttributes); // TR
  view.setBigUint64(0xd0, 0x1000n, true); // EFER: SVME
  view.setBigUint64(0x148, 0x40n, true); // CR4: MCE
  view.setBigUint64(0x158, 0x10n, true); // CR0: ET
  view.setBigUint64(0x160, 0x400n, true); // DR7
  view.setBigUint64(0x168, 0xffff_0ff0n, true); // DR6
  view.setBigUint64(0x170, 0x2n, true); // RFLAGS
  view.setBigUint64(0x178, BigInt(eip & 0xffff), true); // RIP
  view.setBigUint64(0x268, gPat, true); // G_PAT
  view.setBigUint64(0x310, BigInt(rdx), true); // RDX
  view.setBigUint64(0x3b0, guestFeatures, true); // SEV_FEATURES
  view.setBigUint64(0x3e8, 1n, true); // XCR0: x87
  view.setUint32(0x408, mxcsr, true); // MXCSR
  view.setUint16(0x410, fcw, true); // X87_FCW
  return page;
}
