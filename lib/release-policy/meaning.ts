import type { ClaimCondition } from "./policy.ts";

/**
 * Whom a condition on a claim shuts out: `workload`, pods that are not the one of which the value is; `guest`, utility VMs that are not the one (or of the kind) of which the value is,
 * and so need not enforce any pod's policy; `instance`, everything but one VM or one wrapping key; `debugging`, VMs whose memory the host can read; `nothing`, nobody's pod.
 */
export type Binding = "workload" | "guest" | "instance" | "debugging" | "nothing";

/** What a condition on a claim is worth. */
export interface ClaimMeaning {
  readonly binds: Binding;
  /** A clause that goes on from the name of the claim. */
  readonly says: string;
}

/** By name, in the order of specs/attestation.md 4.3; names that end in a dot stand for all below them. */
const MEANINGS: readonly (readonly [name: string, binds: Binding, says: string])[] = [
  ["x-ms-sevsnpvm-hostdata", "workload", "is the digest of the pod's policy, which a genuine utility VM enforces"],
  ["x-ms-sevsnpvm-launchmeasurement", "guest", "is the digest of the utility VM, the same one for every pod"],
  ["x-ms-sevsnpvm-idkeydigest", "guest", "is the digest of the key that signed for the utility VM, the same one for every pod"],
  ["x-ms-sevsnpvm-authorkeydigest", "guest", "is the digest of the key that signed for the utility VM's signer, the same one for every pod"],
  ["x-ms-sevsnpvm-reportdata", "instance", "is the digest of one wrapping key: only who has its private half can open what is released"],
  ["x-ms-sevsnpvm-reportid", "instance", "is the number that the processor gave to one VM"],
  ["x-ms-sevsnpvm-is-debuggable", "debugging", "says whether the host can read the memory of the VM"],
  ["x-ms-sevsnpvm-migration-allowed", "nothing", "says whether a migration agent may move the VM"],
  ["x-ms-sevsnpvm-smt-allowed", "nothing", "says whether the processor runs two threads on a core"],
  ["x-ms-sevsnpvm-vmpl", "nothing", "is the privilege level in the VM from which the report was asked for"],
  ["x-ms-sevsnpvm-guestsvn", "nothing", "is chosen by whoever starts the VM"],
  ["x-ms-sevsnpvm-familyId", "nothing", "is chosen by whoever starts the VM"],
  ["x-ms-sevsnpvm-imageId", "nothing", "is chosen by whoever starts the VM"],
  ["x-ms-sevsnpvm-bootloader-svn", "nothing", "is the version of firmware of the processor"],
  ["x-ms-sevsnpvm-tee-svn", "nothing", "is the version of firmware of the processor"],
  ["x-ms-sevsnpvm-snpfw-svn", "nothing", "is the version of firmware of the processor"],
  ["x-ms-sevsnpvm-microcode-svn", "nothing", "is the version of firmware of the processor"],
  ["x-ms-attestation-type", "nothing", "is the kind of evidence, the same one for every pod on such hardware"],
  ["x-ms-runtime.", "nothing", "is chosen by the software in the VM"],
  ["x-ms-inittime.", "nothing", "is chosen by whoever starts the pod; the digest of all of it is x-ms-sevsnpvm-hostdata"],
  ["x-ms-isolation-tee.", "nothing", "describes a confidential VM, whatever runs in it"],
  ["x-ms-policy-hash", "nothing", "is the digest of the attestation service's own policy"],
  ["x-ms-policy-signer.", "nothing", "is who signed the attestation service's own policy"],
  ["x-ms-ver", "nothing", "is the version of the token's format"],
  ["x-sealpod-root", "nothing", "is the maker of the hardware, or its emulator"],
  ["nonce", "nothing", "is chosen by whoever asks for the token"],
  ["iss", "nothing", "is the attestation service"],
  ["jti", "nothing", "is the number of one token"],
  ["iat", "nothing", "is a time"],
  ["nbf", "nothing", "is a time"],
  ["exp", "nothing", "is a time"],
];

/** What a condition is worth against a pod that the owner of the key did not choose. Claims that are not known bind nothing: their worth is in the policy of the attestation service. */
export function meaningOf({ claim, equals }: ClaimCondition): ClaimMeaning {
  if (claim === "x-ms-compliance-status") {
    // Utility VMs and whole confidential VMs have statuses of the same form; the latter run any operating system.
    return typeof equals === "string" && equals.endsWith("-uvm")
      ? { binds: "guest", says: "says that the utility VM is one that its maker signed, the same one for every pod" }
      : { binds: "nothing", says: "is a status that does not say which software runs in the VM" };
  }
  const row = MEANINGS.find(([name]) => claim === name || (name.endsWith(".") && (claim.startsWith(name) || `${claim}.` === name)));
  if (row === undefined) return { binds: "nothing", says: "is no claim of SEV-SNP: what it means is up to the attestation service" };
  const [, binds, says] = row;
  if (binds === "debugging" && equals !== "false" && equals !== false) return { binds: "nothing", says: "asks for a VM whose memory the host can read" };
  if (binds !== "nothing" && typeof equals === "string" && /^0+$/.test(equals)) return { binds: "nothing", says: "is all zeros when it was not set at all" };
  return { binds, says };
}
