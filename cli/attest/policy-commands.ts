import type { Command } from "commander";
import type { DeclareVerb } from "../program.ts";

/** Declares `check`, `eval`, `get`, `set` and `reset`. */
export function addAttestPolicyVerbs(verb: DeclareVerb): void {
  verb(
    "check",
    "Check an attestation policy: syntax, names, kinds, what each section may do. Tells all problems at once.",
    [
      "sealpod attest policy check policy.txt",
      "sealpod attest policy check --json policy.txt",
      "sealpod attest policy check --print policy.txt      # canonical text",
    ],
    () => import("../verbs/attest-policy-check.ts"),
  )
    .argument("<file>", "policy text")
    .option("--print", "print the policy in its canonical form, without comments");

  verb(
    "eval",
    "Evaluate an attestation policy over claims: whether it permits, why, and what it issues.",
    [
      "sealpod attest policy eval policy.txt --claims token.jwt",
      "sealpod attest policy eval policy.txt --claims claims.json --json",
      "sealpod attest policy eval policy.txt --claims request.json         # what POST /attest/SevSnpVm would make of it; verifies nothing",
      `echo '{"x-ms-sevsnpvm-is-debuggable": true}' > claims.json && sealpod attest policy eval policy.txt --claims claims.json`,
    ],
    () => import("../verbs/attest-policy-eval.ts"),
  )
    .argument("<file>", "policy text")
    .requiredOption(
      "--claims <file>",
      "a token of an attestation service, a service's answer with one, JSON of its claims, a JSON list of {type, value, issuer}, or a SevSnpVm request",
    )
    .addHelpText(
      "after",
      `
A token's signature and times, and the evidence of a request, are not checked here: sealpod attest verify does that.
Exit codes: 0 permitted; 3 not permitted; 1 the policy does not parse, or fails.`,
    );

  withService(
    verb(
      "get",
      "Print the policy of an attestation service.",
      [
        "sealpod attest policy get                            # of the laptop's service, while sealpod up runs",
        "sealpod attest policy get --endpoint https://myprovider.eus.attest.azure.net --bearer-token-file token > policy.txt",
      ],
      () => import("../verbs/attest-policy-get.ts"),
    ),
  );

  withSigner(
    withService(
      verb(
        "set",
        "Set the policy of an attestation service. It is checked here first.",
        [
          "sealpod attest policy set policy.txt                 # of the laptop's service, while sealpod up runs",
          "az account get-access-token --resource https://attest.azure.net --query accessToken -o tsv > token",
          "sealpod attest policy set policy.txt --endpoint https://myprovider.eus.attest.azure.net --bearer-token-file token",
          "sealpod attest policy set policy.txt --endpoint https://127.0.0.1:8443 --ca ca.pem --bearer-token-file token --key key.pem --cert cert.pem",
        ],
        () => import("../verbs/attest-policy-set.ts"),
      ),
    ),
  )
    .argument("<file>", "policy text")
    .option("--no-check", "send it though it is not a policy that this program understands");

  withSigner(
    withService(
      verb(
        "reset",
        "Give an attestation service its default policy back.",
        [
          "sealpod attest policy reset                          # of the laptop's service, while sealpod up runs",
          "sealpod attest policy reset --endpoint https://myprovider.eus.attest.azure.net --bearer-token-file token",
        ],
        () => import("../verbs/attest-policy-reset.ts"),
      ),
    ),
  );
}

function withService(command: Command): Command {
  return command
    .option("--endpoint <url>", "the service, https (http on loopback alone; default: the laptop's, while sealpod up runs)")
    .option("--state <dir>", "state directory of sealpod up (default: $SEALPOD_HOME or ~/.sealpod)")
    .option("--type <type>", "kind of evidence that the policy is for", "SevSnpVm")
    .option("--bearer-token-file <file>", "file with an access token for the service (default for the laptop's: its owner's)")
    .option("--ca <file>", "PEM of the authority whose TLS certificates are trusted, in place of the system's")
    .option("--api-version <version>", "version of the service's interface", "2022-08-01");
}

function withSigner(command: Command): Command {
  return command
    .option("--key <file>", "RSA private key (PEM) that signs the request, for services in isolated mode")
    .option("--cert <file>", "its certificate (PEM)");
}
