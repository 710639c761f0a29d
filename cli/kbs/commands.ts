import { Option, type Command } from "commander";
import type { DeclareVerb } from "../program.ts";

/** Declares the verbs of `sealpod kbs`, in the words of CoCo's `kbs-client`. */
export function addKbsVerbs(verb: DeclareVerb): void {
  withPath(
    withKbs(
      verb(
        "set-resource",
        "Set a resource that guests can get. What it says is not shown again.",
        [
          "openssl rand 32 > disk.key && sealpod kbs set-resource --path default/key/disk --resource-file disk.key",
          "sealpod kbs set-resource --path default/secret/db --resource-file - < password",
          "sealpod kbs set-resource --url https://kbs.example:8080 --auth-private-key admin.key --path default/key/disk --resource-file disk.key",
        ],
        () => import("../verbs/kbs-set-resource.ts"),
      ),
    ),
  ).requiredOption("--resource-file <file>", "its bytes; - is standard input");

  withPath(
    withKbs(
      verb(
        "delete-resource",
        "Delete a resource. In a vault of Sealpod's it can be recovered as the secret that it is.",
        ["sealpod kbs delete-resource --path default/key/disk"],
        () => import("../verbs/kbs-delete-resource.ts"),
      ),
    ),
  );

  withKbs(
    verb(
      "set-resource-policy",
      "Set the policy that says which guest can have which resource: Rego, data.policy.allow.",
      ["sealpod kbs set-resource-policy --policy-file resource.rego"],
      () => import("../verbs/kbs-set-resource-policy.ts"),
    ),
  )
    .requiredOption("--policy-file <file>", "Rego")
    .addHelpText(
      "after",
      `
input is the guest's token, data has plugin, resource-path and query. To bind a resource to a pod:
  package policy
  import rego.v1
  default allow := false
  allow if {
    data["resource-path"] == ["default", "key", "disk"]
    input.submods.cpu0["ear.status"] == "affirming"
    input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == "HOST_DATA in hex"
  }`,
    );

  withKbs(
    verb(
      "set-attestation-policy",
      "Set the policy that says what evidence is worth: Rego, data.policy.executables, hardware, configuration, …",
      ["sealpod kbs set-attestation-policy --policy-file attestation.rego"],
      () => import("../verbs/kbs-set-attestation-policy.ts"),
    ),
  )
    .requiredOption("--policy-file <file>", "Rego")
    .addOption(new Option("--type <type>", "language of the policy").default("rego"))
    .addOption(new Option("--id <id>", "which policy").default("default_cpu"));

  withKbs(
    verb(
      "set-reference-value",
      "Set what guests are expected to be: a measurement, a version of firmware.",
      [
        `sealpod kbs set-reference-value snp_launch_measurement "[\\"$(sealpod attest measure --process)\\"]"`,
        "sealpod kbs set-reference-value snp_bootloader '[4, 5]'",
        "sealpod kbs set-reference-value snp_microcode 219",
      ],
      () => import("../verbs/kbs-set-reference-value.ts"),
    ),
  )
    .argument("<name>", "name that policies ask for")
    .argument("<json>", "list of the values that are good; a single one is a list of one")
    .addHelpText(
      "after",
      `
Names that the default policies ask for: snp_launch_measurement (96 hex digits), snp_host_data (64: SHA-256 of the pod's policy), snp_bootloader, snp_microcode, snp_snp_svn, snp_tee_svn (0 to 255).
Others are free, for policies of your own.`,
    );

  withKbs(
    verb(
      "list-reference-values",
      "List the reference values.",
      ["sealpod kbs list-reference-values --json"],
      () => import("../verbs/kbs-list-reference-values.ts"),
    ),
  );
}

function withKbs(command: Command): Command {
  return command
    .option("--url <url>", "https://HOST[:PORT] of a key broker (default: the laptop's)")
    .option("--auth-private-key <file>", "administrator's key, Ed25519 in PEM: signs a token of two hours")
    .option("--bearer-token-file <file>", "administrator's token, one line")
    .option("--cert-file <file>", "PEM of the authority that the key broker's certificate is from");
}

function withPath(command: Command): Command {
  return command.requiredOption("--path <path>", "REPOSITORY/TYPE/TAG of the resource");
}
