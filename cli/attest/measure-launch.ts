import { fromHex, isSealpodError } from "@sealpod/core";
import {
  cpuSignature,
  cpuSignatureOf,
  hashKernel,
  type IdAuth,
  type IdBlock,
  igvmIdentity,
  igvmLaunchPages,
  type KernelHashes,
  type LaunchPage,
  MAX_IGVM_SIZE,
  MAX_OVMF_SIZE,
  MAX_VCPUS,
  type PageSource,
  parseIgvm,
  parseOvmf,
  qemuLaunchPages,
  type SourcedPage,
  type VmmType,
} from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { MAX_INITRD, MAX_KERNEL, parseNumber, readInput, withoutPrefix } from "./measure-input.ts";

/** Flags of `sealpod attest measure` that say what is launched. */
export interface LaunchOptions {
  readonly mode: string;
  readonly vmmType: VmmType;
  readonly ovmf?: string;
  readonly igvm?: string;
  /** `true` for the flag without a path. */
  readonly process?: string | true;
  /** Directory of a utility VM's image; `true` for the flag without a path. */
  readonly uvm?: string | true;
  readonly kernel?: string;
  readonly initrd?: string;
  readonly append?: string;
  readonly vcpus?: string;
  readonly vcpuType?: string;
  readonly vcpuSig?: string;
  readonly vcpuFamily?: string;
  readonly vcpuModel?: string;
  readonly vcpuStepping?: string;
  readonly guestFeatures?: string;
  readonly snpOvmfHash?: string;
}

/** A launch whose pages can be measured. */
export interface PlannedLaunch {
  /** What is launched, for the JSON document. */
  readonly kind: "ovmf" | "igvm" | "process" | "uvm";
  readonly pages: Iterable<LaunchPage & { readonly source?: PageSource }> | AsyncIterable<LaunchPage & { readonly source?: PageSource }>;
  /** Digest of pages that were launched before these. */
  readonly start?: Uint8Array | undefined;
  /** What the file says about itself. */
  readonly identity?: { readonly policy: bigint | undefined; readonly idBlock: { readonly block: IdBlock; readonly auth: IdAuth } | undefined };
  /** For stderr. */
  readonly note?: string;
}

type Flag = Exclude<keyof LaunchOptions, "mode" | "vmmType">;

const FLAGS: Readonly<Record<Flag, string>> = {
  ovmf: "--ovmf",
  igvm: "--igvm",
  process: "--process",
  uvm: "--uvm",
  kernel: "--kernel",
  initrd: "--initrd",
  append: "--append",
  vcpus: "--vcpus",
  vcpuType: "--vcpu-type",
  vcpuSig: "--vcpu-sig",
  vcpuFamily: "--vcpu-family",
  vcpuModel: "--vcpu-model",
  vcpuStepping: "--vcpu-stepping",
  guestFeatures: "--guest-features",
  snpOvmfHash: "--snp-ovmf-hash",
};

/** Flags that say more about a launch from OVMF. */
const OVMF_FLAGS = [
  "vcpus",
  "vcpuType",
  "vcpuSig",
  "vcpuFamily",
  "vcpuModel",
  "vcpuStepping",
  "guestFeatures",
  "snpOvmfHash",
] as const satisfies readonly Flag[];

/**
 * The kinds of launch: each is chosen by one flag and makes pages; a kind that takes the flag of another stands before it. A new kind is one more
 * row; its flags that others do not have go to {@link FLAGS}.
 */
const KINDS: readonly {
  readonly flag: "ovmf" | "igvm" | "process" | "uvm";
  /** Flags that go with it. */
  readonly takes: readonly Flag[];
  readonly plan: (options: LaunchOptions, context: CliContext) => Promise<PlannedLaunch>;
}[] = [
  { flag: "uvm", takes: ["ovmf", ...OVMF_FLAGS], plan: planUvm },
  { flag: "ovmf", takes: ["kernel", "initrd", "append", ...OVMF_FLAGS], plan: planOvmf },
  { flag: "igvm", takes: [], plan: planIgvm },
  { flag: "process", takes: [], plan: async (options, context) => (await import("./measure-process.ts")).planProcess(options.process, context) },
];

/**
 * The launch that the flags describe.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 * @throws {SnpError} ERR_SNP_OVMF, ERR_SNP_IGVM, ERR_SNP_LAUNCH
 */
export async function planLaunch(options: LaunchOptions, context: CliContext): Promise<PlannedLaunch> {
  const [kind, ...rest] = KINDS.filter(({ flag }) => options[flag] !== undefined);
  const others = rest.filter(({ flag }) => kind?.takes.includes(flag) !== true);
  if (kind === undefined || others.length > 0) {
    throw new CliError(
      "ERR_CLI_USAGE",
      `${kind === undefined ? "none" : [kind, ...others].map(({ flag }) => FLAGS[flag]).join(" and ")} of --ovmf, --igvm, --process and --uvm given, expected one`,
      {
        hint: "For example: sealpod attest measure --ovmf OVMF.fd --vcpus 1 --vcpu-type EPYC-Milan",
      },
    );
  }
  checkMode(options, kind.flag);
  const foreign = (Object.keys(FLAGS) as Flag[]).find((flag) => flag !== kind.flag && options[flag] !== undefined && !kind.takes.includes(flag));
  // A flag that is silently ignored would make a digest that people take for another.
  if (foreign !== undefined) throw new CliError("ERR_CLI_USAGE", `${FLAGS[foreign]} does not go with ${FLAGS[kind.flag]}`);
  return kind.plan(options, context);
}

function checkMode({ mode }: LaunchOptions, kind: PlannedLaunch["kind"]): void {
  if (mode === "snp" || (mode === "snp:ovmf-hash" && kind === "ovmf")) return;
  const hints: Readonly<Record<string, string>> = {
    sev: "Guests without SEV-SNP have no attestation report; sev-snp-measure computes their digests.",
    seves: "Guests without SEV-SNP have no attestation report; sev-snp-measure computes their digests.",
    "snp:svsm": "Launches through a Coconut SVSM are not supported yet; an SVSM in an IGVM file can be measured with --igvm.",
    "snp:ovmf-hash": "This mode measures an OVMF image: give --ovmf.",
  };
  throw new CliError("ERR_CLI_USAGE", `--mode ${mode.slice(0, 40)} is not supported here, expected snp or snp:ovmf-hash`, {
    hint: hints[mode] ?? "Leave out --mode for SEV-SNP.",
  });
}

async function planOvmf(options: LaunchOptions, context: CliContext): Promise<PlannedLaunch> {
  const ovmf = parseOvmf(await readInput(options.ovmf ?? "", MAX_OVMF_SIZE, context));
  if (options.mode === "snp:ovmf-hash") {
    // The image does not depend on the rest.
    const pages = qemuLaunchPages({ ovmf, vcpus: 1, cpuSignature: 0 });
    return { kind: "ovmf", pages: filterPages(pages, ({ source }) => source.file === "ovmf") };
  }
  const start = options.snpOvmfHash === undefined ? undefined : ovmfHash(options.snpOvmfHash);
  const pages = qemuLaunchPages({
    ovmf,
    vmm: options.vmmType,
    vcpus: vcpusOf(options),
    cpuSignature: signatureOf(options),
    guestFeatures: options.guestFeatures === undefined ? undefined : parseNumber("--guest-features", options.guestFeatures, (1n << 64n) - 1n),
    kernelHashes: await kernelHashesOf(options, context),
    withoutImage: start !== undefined,
  });
  return { kind: "ovmf", pages, start };
}

function* filterPages(pages: Iterable<SourcedPage>, keep: (page: SourcedPage) => boolean): Generator<SourcedPage> {
  for (const page of pages) if (keep(page)) yield page;
}

/** An image as the emulated security processor measures it or, with firmware, as QEMU starts it under SEV-SNP. */
async function planUvm(options: LaunchOptions, context: CliContext): Promise<PlannedLaunch> {
  const { emulatedLaunch, openImage } = await import("../uvm/launch.ts");
  const { kernel, initrd, commandLine } = await openImage(options.uvm, context);
  if (options.ovmf !== undefined) return { ...(await planOvmf({ ...options, kernel, initrd, append: commandLine }, context)), kind: "uvm" };
  const extra = OVMF_FLAGS.find((flag) => options[flag] !== undefined);
  if (extra === undefined) return emulatedLaunch({ files: [kernel, initrd], commandLine });
  throw new CliError("ERR_CLI_USAGE", `${FLAGS[extra]} needs --ovmf: an emulated start measures kernel, initial RAM disk and command line alone`);
}

async function planIgvm(options: LaunchOptions, context: CliContext): Promise<PlannedLaunch> {
  const file = parseIgvm(await readInput(options.igvm ?? "", MAX_IGVM_SIZE, context));
  return { kind: "igvm", pages: igvmLaunchPages(file), identity: igvmIdentity(file) };
}

function ovmfHash(text: string): Uint8Array {
  try {
    const bytes = fromHex(withoutPrefix(text));
    if (bytes.length === 48) return bytes;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
  }
  throw new CliError("ERR_CLI_USAGE", `--snp-ovmf-hash ${text.slice(0, 40)} is not 96 hex digits`, { hint: "It is what --mode snp:ovmf-hash prints." });
}

function vcpusOf(options: LaunchOptions): number {
  if (options.vcpus !== undefined) return Number(parseNumber("--vcpus", options.vcpus, BigInt(MAX_VCPUS), 1n));
  throw new CliError("ERR_CLI_USAGE", "--vcpus is missing: each virtual CPU is measured", {
    hint: "The number that the guest is started with, e.g. --vcpus 1.",
  });
}

function signatureOf(options: LaunchOptions): number {
  const { vcpuType, vcpuSig, vcpuFamily, vcpuModel, vcpuStepping } = options;
  const parts = [vcpuFamily, vcpuModel, vcpuStepping];
  const ways = [vcpuType !== undefined, vcpuSig !== undefined, parts.some((part) => part !== undefined)].filter(Boolean).length;
  if (ways > 1) throw new CliError("ERR_CLI_USAGE", "--vcpu-type, --vcpu-sig and --vcpu-family with model and stepping exclude each other");
  if (vcpuType !== undefined) return cpuSignatureOf(vcpuType);
  if (vcpuSig !== undefined) return Number(parseNumber("--vcpu-sig", vcpuSig, 0xffff_ffffn));
  if (ways === 1) {
    const [family, model, stepping] = [vcpuFamily, vcpuModel, vcpuStepping].map((part, index) => {
      const flag = ["--vcpu-family", "--vcpu-model", "--vcpu-stepping"][index] ?? "";
      if (part === undefined) throw new CliError("ERR_CLI_USAGE", `${flag} is missing: family, model and stepping go together`);
      return Number(parseNumber(flag, part, 0xffffn));
    });
    return cpuSignature(family ?? 0, model ?? 0, stepping ?? 0);
  }
  // The others give a fixed number.
  if (options.vmmType !== "qemu") return 0;
  throw new CliError("ERR_CLI_USAGE", "--vcpu-type is missing: QEMU's initial registers hold the model of the CPU", {
    hint: "The name behind QEMU's -cpu, e.g. --vcpu-type EPYC-Milan, or its number with --vcpu-sig.",
  });
}

async function kernelHashesOf(options: LaunchOptions, context: CliContext): Promise<KernelHashes | undefined> {
  const { kernel, initrd, append } = options;
  if (kernel === undefined) {
    if (initrd === undefined && append === undefined) return undefined;
    throw new CliError("ERR_CLI_USAGE", `${initrd === undefined ? "--append" : "--initrd"} needs --kernel`);
  }
  return hashKernel({
    kernel: await readInput(kernel, MAX_KERNEL, context),
    initrd: initrd === undefined ? undefined : await readInput(initrd, MAX_INITRD, context),
    commandLine: append,
  });
}
