import { SnpError } from "../errors.ts";
import type { SourcedPage } from "./explain.ts";
import { type KernelHashes, kernelHashesPage } from "./kernel-hashes.ts";
import { imagePages, PAGE_SIZE } from "./launch-digest.ts";
import type { OvmfImage, OvmfSection, OvmfSectionKind } from "./ovmf.ts";
import { RESET_VECTOR, VMSA_GPA, vmsaPage, type VmmType } from "./vmsa.ts";

/** Most vCPUs: what KVM allows on x86. */
export const MAX_VCPUS = 4096;

/** A launch of a guest that boots through OVMF. */
export interface QemuLaunch {
  readonly ovmf: OvmfImage;
  /** `qemu` if not said. */
  readonly vmm?: VmmType | undefined;
  /** 1 to {@link MAX_VCPUS}. */
  readonly vcpus: number;
  /** CPUID(1).EAX; see `cpuSignature` and `cpuSignatureOf`. Measured by QEMU only. */
  readonly cpuSignature: number;
  /** SEV_FEATURES; 1 (SNP alone) if not said. */
  readonly guestFeatures?: bigint | undefined;
  /** Given if the VMM boots a kernel directly. */
  readonly kernelHashes?: KernelHashes | undefined;
  /** Leaves out the pages of the image: their digest is known, and a measurement starts from it. */
  readonly withoutImage?: boolean | undefined;
}

const SECTION_NAMES: Readonly<Record<OvmfSectionKind, string>> = {
  "sec-mem": "SNP_SEC_MEM",
  secrets: "SNP_SECRETS",
  cpuid: "SNP_CPUID",
  "svsm-caa": "SVSM_CAA",
  "kernel-hashes": "SNP_KERNEL_HASHES",
};

/**
 * The pages that QEMU, or EC2's or GCE's hypervisor, launches with an OVMF image, in order: the image, its metadata sections, a VMSA for each vCPU.
 * @throws {SnpError} ERR_SNP_LAUNCH if image and parameters do not go together, ERR_SNP_OVMF if the image lacks a table that SEV-SNP needs
 */
export function qemuLaunchPages(launch: QemuLaunch): Iterable<SourcedPage> {
  const { ovmf, vmm = "qemu", vcpus, guestFeatures = 1n, kernelHashes } = launch;
  if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > MAX_VCPUS) throw new SnpError("ERR_SNP_LAUNCH", `${vcpus} vCPUs, expected 1 to ${MAX_VCPUS}`);
  if (ovmf.sections.length === 0) {
    throw new SnpError("ERR_SNP_OVMF", "OVMF image: it has no SEV metadata, so it does not boot under SEV-SNP", {
      hint: "Use a build from 2022 or later (edk2-stable202205).",
    });
  }
  const hashesPage = kernelHashes === undefined ? undefined : pageOfHashes(ovmf, kernelHashes);
  const state = { vmm, cpuSignature: launch.cpuSignature, guestFeatures };
  const boot = vmsaPage({ ...state, instructionPointer: RESET_VECTOR, boot: true });
  // The reset block matters to the other vCPUs only.
  const other = vcpus === 1 ? boot : vmsaPage({ ...state, instructionPointer: resetVectorOf(ovmf), boot: false });
  return (function* (): Generator<SourcedPage> {
    if (launch.withoutImage !== true) {
      for (const page of imagePages(ovmf.bytes, BigInt(ovmf.gpa))) {
        yield { ...page, source: { name: "OVMF image", file: "ovmf", offset: Number(page.gpa) - ovmf.gpa } };
      }
    }
    for (const section of ovmf.sections) {
      // EC2's hypervisor launches the CPUID page last.
      if (!(vmm === "ec2" && section.kind === "cpuid")) yield* sectionPages(section, vmm, hashesPage);
    }
    if (vmm === "ec2") for (const section of ovmf.sections) if (section.kind === "cpuid") yield* sectionPages(section, vmm, hashesPage);
    for (let index = 0; index < vcpus; index++) {
      yield {
        kind: "vmsa",
        gpa: VMSA_GPA,
        contents: index === 0 ? boot : other,
        source: { name: index === 0 ? "VMSA of the first vCPU" : "VMSA of the other vCPUs" },
      };
    }
  })();
}

function* sectionPages(section: OvmfSection, vmm: VmmType, hashesPage: Uint8Array | undefined): Generator<SourcedPage> {
  const source = { name: `section ${SECTION_NAMES[section.kind]}` };
  for (let at = 0; at < section.size; at += PAGE_SIZE) {
    const gpa = BigInt(section.gpa + at);
    switch (section.kind) {
      case "sec-mem":
        yield { kind: vmm === "gce" ? "unmeasured" : "zero", gpa, source };
        break;
      case "secrets":
      case "cpuid":
        yield { kind: section.kind, gpa, source };
        break;
      case "svsm-caa":
        yield { kind: "zero", gpa, source };
        break;
      case "kernel-hashes":
        yield hashesPage === undefined ? { kind: "zero", gpa, source } : { kind: "normal", gpa, contents: hashesPage, source };
        break;
    }
  }
}

function pageOfHashes(ovmf: OvmfImage, hashes: KernelHashes): Uint8Array {
  const section = ovmf.sections.find(({ kind }) => kind === "kernel-hashes");
  if (section === undefined || ovmf.hashTable === undefined) {
    throw new SnpError(
      "ERR_SNP_LAUNCH",
      `a kernel is given, but the OVMF image has no ${section === undefined ? "section SNP_KERNEL_HASHES" : "place for the table of kernel hashes"}`,
      {
        hint: "Only the AmdSev build of OVMF (OvmfPkg/AmdSev) boots a measured kernel directly; without --kernel this image can be measured.",
      },
    );
  }
  // More than one page would have the table in each, more than one section too: no firmware reads that.
  if (section.size !== PAGE_SIZE || ovmf.sections.filter(({ kind }) => kind === "kernel-hashes").length !== 1) {
    throw new SnpError("ERR_SNP_OVMF", "OVMF image: the sections SNP_KERNEL_HASHES have more than one page");
  }
  const offset = ovmf.hashTable - section.gpa;
  if (offset < 0 || offset >= PAGE_SIZE) {
    throw new SnpError(
      "ERR_SNP_OVMF",
      `OVMF image: the table of kernel hashes at 0x${ovmf.hashTable.toString(16)} is not in its section, which is the page at 0x${section.gpa.toString(16)}`,
    );
  }
  return kernelHashesPage(hashes, offset);
}

function resetVectorOf(ovmf: OvmfImage): number {
  if (ovmf.resetVector !== undefined) return ovmf.resetVector;
  throw new SnpError("ERR_SNP_OVMF", "OVMF image: it has no SEV-ES reset block, which says where vCPUs after the first start", {
    hint: "One vCPU can be measured.",
  });
}
