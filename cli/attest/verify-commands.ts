import { repeatable } from "../options.ts";
import type { DeclareVerb } from "../program.ts";

/** Declares `verify` and `report`. */
export function addVerifyVerbs(verb: DeclareVerb): void {
  verb(
    "verify",
    "Verify evidence: a report with its certificates down to AMD's root, or a token under its issuer's keys; one line per check.",
    [
      "sealpod attest verify report.bin --certs chain.pem",
      "sealpod attest verify maa-request.json --host-data @policy.rego --endorsement uvm.cose",
      "sealpod attest verify report.bin --certs thim.json --measurement 5feee3… --min-tcb bootloader=3,snp=24",
      "sealpod attest verify report.bin --certs chain.pem --policy report-policy.json --crl milan.crl --require-crl",
      "sealpod attest verify token.jwt --jwks https://sharedeus.eus.attest.azure.net/certs --issuer https://sharedeus.eus.attest.azure.net",
      "sealpod attest verify token.jwt --jwks keys.json --trust emulator --ca authority.pem",
      "sealpod attest verify report.bin --certs chain.pem --trust emulator=ark.pem    # proves nothing about hardware",
      "sealpod attest verify report.bin --print-policy > report-policy.json           # to edit, then --policy",
    ],
    () => import("../verbs/attest-verify.ts"),
  )
    .argument("[file]", "a report (raw, hex, base64), HCL blob, SevSnpVm request, the sidecar's combined evidence, or a token; - for standard input")
    .addOption(
      repeatable(
        "--certs <file>",
        "certificates: PEM, DER, THIM document (JSON or base64), the host's certificate table, or a bundle of certcache export; repeatable",
      ),
    )
    .addOption(repeatable("--endorsement <file>", "signed statement about the utility VM (COSE, raw or base64) that must hold; repeatable"))
    .addOption(
      repeatable("--trust <root>", "amd, or emulator=FILE with the emulator's root certificate; for a token the name of any root; repeatable (default: amd)"),
    )
    .option("--certcache <dir>", "where to look for certificates if none came with the report, or off (default: certcache in $SEALPOD_HOME or ~/.sealpod)")
    .addOption(repeatable("--crl <file>", "revocation list (DER or PEM); repeatable"))
    .option("--require-crl", "refuse if no revocation list speaks of the intermediate certificate")
    .option("--at <time>", "judge as of this date or time, such as 2026-11-22 (default: now)")
    .option("--policy <file>", "requirements as a report policy document")
    .option("--print-policy", "write such a document, with what the report says if one is given (not verified), and what the flags say; verifies nothing")
    .option("--host-data <hex>", "HOST_DATA: 64 hex digits, or @FILE for the SHA-256 of a file, such as the policy")
    .option("--report-data <hex>", "REPORT_DATA: up to 128 hex digits, or @FILE; zeros follow")
    .option("--runtime-data <file>", "data whose SHA-256, and zeros, REPORT_DATA must be")
    .addOption(repeatable("--measurement <hex>", "launch measurement, 96 hex digits; repeatable, one of them must be met"))
    .option("--min-tcb <levels>", "least levels, such as bootloader=3,snp=24,microcode=115; fmc exists from Turin on")
    .addOption(repeatable("--vmpl <number>", "VMPL that the report was asked from, or host; repeatable (default: any of the guest's)"))
    .option("--allow-debug", "accept a guest whose memory the host may read (default: refused)")
    .option("--jwks <file|url>", "keys of the token's issuer")
    .option("--issuer <url>", "issuer that the token must name; its keys are fetched from URL/certs if there is no --jwks")
    .option("--ca <file>", "PEM of the authority under which keys are fetched, in place of the system's")
    .addHelpText(
      "after",
      `
The policy document replaces the two requirements that are there without it: no debugging, and a report that the guest asked for. --print-policy
writes one to begin with. A report that the host asked for (VMPL 0xffffffff) is refused unless the policy or --vmpl names that VMPL. Hex may have 0x in front.
Exit codes: 0 verified; 3 refused; 1 malformed, or a file cannot be read; 2 usage.`,
    );

  verb(
    "report",
    "Fetch a report about the machine that this runs on: configfs-tsm, /dev/sev-guest, or the emulator of a pod of `sealpod run`.",
    [
      "sealpod attest report --report-data 00112233 -o report.bin --certs-out certs.bin",
      "sealpod attest report --report-data @challenge.bin --source configfs-tsm --json",
      "sealpod attest report --report-data 00112233 --source ~/.sealpod/guests/ID/tsm/report   # EMULATED, about a pod of `sealpod run`",
    ],
    () => import("../verbs/attest-report.ts"),
  )
    .requiredOption("--report-data <hex>", "what the report is to bind: up to 128 hex digits, or @FILE; zeros follow")
    .option(
      "--source <source>",
      "auto, configfs-tsm, sev-guest (needs perl), or a directory that behaves like configfs-tsm, such as STATE/guests/ID/tsm/report of a pod",
      "auto",
    )
    .option("--vmpl <number>", "VMPL that the report states (default: the lowest that this kernel may ask for)")
    .option("-o, --output <file>", "write the report here (default: hex on standard output)")
    .option("--certs-out <file>", "write the host's certificate table here, if it gives one")
    .addHelpText(
      "after",
      `
The emulator gives reports about pods alone, also while \`sealpod up\` runs: outside of one there is nothing that was measured. Inside a pod auto finds it;
from outside name the pod's directory, guests/ID/tsm/report in $SEALPOD_HOME or ~/.sealpod.`,
    );
}
