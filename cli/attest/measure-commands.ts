import { Option } from "commander";
import type { DeclareVerb } from "../program.ts";

/** Declares `measure`. Names and flags are those of sev-snp-measure where it has them. */
export function addMeasureVerbs(verb: DeclareVerb): void {
  verb(
    "measure",
    "Predict the launch measurement of a guest: what MEASUREMENT in its reports will be.",
    [
      "sealpod attest measure --ovmf OVMF.fd --vcpus 4 --vcpu-type EPYC-Milan",
      "sealpod attest measure --ovmf OVMF.fd --vcpus 1 --vcpu-type EPYC-v4 --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0'",
      "sealpod attest measure --vmm-type ec2 --ovmf ovmf_img.fd --vcpus 2",
      "sealpod attest measure --igvm kata-containers-igvm.img --pages",
      "sealpod attest measure --uvm                    # this checkout's utility VM, started with the emulated processor",
      "sealpod attest measure --process                # this checkout's guest as `sealpod run` starts it",
    ],
    () => import("../verbs/attest-measure.ts"),
  )
    .option("--mode <mode>", "snp, or snp:ovmf-hash for the digest after the OVMF image alone", "snp")
    .addOption(new Option("--vmm-type <vmm>", "whose hypervisor starts the guest").choices(["qemu", "ec2", "gce"]).default("qemu"))
    .option("--ovmf <file>", "OVMF image to launch")
    .option("--igvm <file>", "IGVM file to launch")
    .option("--process [bundle]", "the process isolation of `sealpod run` (default bundle: this checkout's build/agent.mjs)")
    .option("--uvm [dir]", "a utility VM's image: its emulated start or, with --ovmf, its start under SEV-SNP (default directory: this checkout's build/uvm)")
    .option("--kernel <file>", "kernel that the VMM boots directly (OVMF of the AmdSev build)")
    .option("--initrd <file>", "initial RAM disk of that kernel")
    .option("--append <text>", "command line of that kernel")
    .option("--vcpus <number>", "virtual CPUs")
    .option("--vcpu-type <type>", "QEMU's name of the CPU model, e.g. EPYC-Milan")
    .option("--vcpu-sig <number>", "CPUID(1).EAX instead of a type, e.g. 0xa00f11")
    .option("--vcpu-family <number>", "with --vcpu-model and --vcpu-stepping, instead of a type")
    .option("--vcpu-model <number>", "model of the CPU")
    .option("--vcpu-stepping <number>", "stepping of the CPU")
    .option("--guest-features <number>", "SEV_FEATURES of the vCPUs: 0x1 SNP alone, 0x21 with DebugSwap (default: 0x1)")
    .option("--snp-ovmf-hash <hex>", "digest after the OVMF image (--mode snp:ovmf-hash), if only the end of the image is at hand")
    .addOption(new Option("--output-format <format>", "of the digest").choices(["hex", "base64"]).default("hex"))
    .addOption(new Option("--pages [which]", "show what each page adds: runs of pages folded, or all").choices(["folded", "all"]).preset("folded"))
    .addHelpText(
      "after",
      `
The digest alone is written to stdout, notes to stderr. EC2 and GCE do not measure the CPU model, so it need not be given for them.`,
    );
}

/** Declares `create` and `check`. Flags of `create` are those of sev-snp-measure's snp-create-id-block. */
export function addIdBlockVerbs(verb: DeclareVerb): void {
  verb(
    "create",
    "Sign the identity of a guest: print its ID block and ID auth, for QEMU's sev-snp-guest object.",
    [
      "openssl ecparam -name secp384r1 -genkey -noout -out id-key.pem",
      'sealpod attest id-block create --idkey id-key.pem --measurement "$(sealpod attest measure --igvm uvm.igvm)"',
      "sealpod attest id-block create --idkey id-key.pem --authorkey author-key.pem --measurement 803f…8977 --guest-svn 2 --policy 0x3001f --out identity",
    ],
    () => import("../verbs/attest-id-block-create.ts"),
  )
    .requiredOption("--measurement <digest>", "launch measurement, 48 bytes in hex or base64")
    .requiredOption("--idkey <file>", "private key that signs the ID block: EC P-384, PEM")
    .option("--authorkey <file>", "private key that signs the ID key: EC P-384, PEM")
    .option("--guest-svn <number>", "GUEST_SVN", "0")
    .option("--policy <number>", "POLICY that the guest must be launched with", "0x30000")
    .option("--family-id <id>", "16 bytes in hex or base64 (default: zeros)")
    .option("--image-id <id>", "16 bytes in hex or base64 (default: zeros)")
    .option("--out <dir>", "write id-block.bin and id-auth.bin into this directory too");

  verb(
    "check",
    "Show an ID block and verify its signatures.",
    [
      "sealpod attest id-block check identity/id-block.bin identity/id-auth.bin",
      'sealpod attest id-block check --measurement "$(sealpod attest measure --igvm uvm.igvm)" id-block.base64 id-auth.base64',
    ],
    () => import("../verbs/attest-id-block-check.ts"),
  )
    .argument("<id-block>", "file of 96 bytes, or of their base64")
    .argument("<id-auth>", "file of 4096 bytes, or of their base64")
    .option("--measurement <digest>", "require this launch measurement, hex or base64")
    .option("--id-key-digest <digest>", "require the ID key with this digest, hex or base64")
    .option("--author-key-digest <digest>", "require the author key with this digest, hex or base64")
    .addHelpText("after", "\nExit codes: 0 verified; 3 a signature does not verify, or something is not as required.");
}
