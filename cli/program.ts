import { Command, CommanderError, Option } from "commander";
import { isSealpodError } from "@sealpod/core";
import { EXIT, VERSION, type CliContext } from "./context.ts";
import { formatError, usageError } from "./diagnostic.ts";
import { addConfcomVerbs, genpolicyArguments, withGenpolicyFlags } from "./genpolicy/commands.ts";
import { isolation, repeatable } from "./options.ts";
import { addIdBlockVerbs, addMeasureVerbs } from "./attest/measure-commands.ts";
import { addAttestPolicyVerbs } from "./attest/policy-commands.ts";
import { addAttestServeVerbs } from "./attest/serve-commands.ts";
import { addVerifyVerbs } from "./attest/verify-commands.ts";
import { addCertcacheVerbs } from "./certcache/commands.ts";
import { addEncfsVerbs } from "./encfs/commands.ts";
import { addHostVerbs } from "./host/commands.ts";
import { addIdentityVerbs } from "./identity/commands.ts";
import { addKbsVerbs } from "./kbs/commands.ts";
import { addKeyPolicyVerbs, addKeyVerbs, addRoleAssignmentVerbs, addRotationPolicyVerbs, addSecretVerbs, withImportKeyFlags } from "./key/commands.ts";
import { addRegoVerbs } from "./rego/commands.ts";
import { addUvmVerbs } from "./uvm/commands.ts";
import { addVaultVerbs } from "./vault/commands.ts";

/** Options that every verb has. */
export interface GlobalOptions {
  readonly state?: string;
  readonly json?: boolean;
  readonly debug?: boolean;
}

/** What a verb's module exports: it gets its options and operands, and returns the exit code. */
export type Verb<O> = (options: O & GlobalOptions, operands: readonly string[], context: CliContext) => Promise<number>;

/** Declares a verb of a command; its module is loaded only when it is called. */
export type DeclareVerb = <O extends object>(
  usage: string,
  summary: string,
  examples: readonly string[],
  load: () => Promise<{ readonly run: Verb<O> }>,
) => Command;

/** How a command tells its exit code. */
interface Outcome {
  exit: number;
  /** What the parser of arguments wrote to stderr where errors are data: it is held back, to become data. Undefined where errors are text. */
  held: string | undefined;
}

const GENPOLICY_EXAMPLES = [
  "genpolicy -y pod.yaml",
  "genpolicy -y pod.yaml -r        # print the policy text too",
  "genpolicy < pod.yaml > annotated.yaml",
  "genpolicy -y pod.yaml --images oci:./images",
  "genpolicy --profile coco -j genpolicy-settings.json -p rules.rego -y pod.yaml",
];

/** Runs one command line of `sealpod`; never throws and never ends the process. Returns the exit code. */
export async function runCli(argv: readonly string[], context: CliContext): Promise<number> {
  const [verb, ...rest] = argv;
  return runProgram(build, verb === "genpolicy" ? [verb, ...genpolicyArguments(rest)] : goStyleFlags(argv), context);
}

/** Runs one command line of the bin `genpolicy`, which is `sealpod genpolicy`. */
export async function runGenpolicyCli(argv: readonly string[], context: CliContext): Promise<number> {
  return runProgram(buildGenpolicy, genpolicyArguments(argv), context);
}

async function runProgram(make: (context: CliContext, outcome: Outcome) => Command, argv: readonly string[], context: CliContext): Promise<number> {
  const [json, debug] = [hasFlag(argv, "--json"), hasFlag(argv, "--debug")];
  const outcome: Outcome = { exit: EXIT.ok, held: json ? "" : undefined };
  const program = make(context, outcome);
  try {
    await program.parseAsync(argv, { from: "user" });
    return outcome.exit;
  } catch (error) {
    const isUsage = error instanceof CommanderError;
    if (isUsage && error.exitCode === 0) return EXIT.ok;
    if (isUsage && outcome.held === undefined) return EXIT.usage;
    // The errors of `rego` are a list, as OPA has them; those of its verbs they print themselves.
    const options = { json, debug, list: isUsage && argv[0] === "rego" };
    const { text, exit } = formatError(isUsage ? usageError(error, outcome.held ?? "") : error, options);
    if (json) context.stdout.write(text);
    else context.stderr.write(text);
    return isSealpodError(error) && error.code === "ERR_CLI_INTERRUPTED" ? interruptedExit(context) : exit;
  }
}

/** The code of a process that the signal ended: who called us cannot tell whether we tidied up first. */
function interruptedExit({ signal }: CliContext): number {
  return signal.reason === "SIGTERM" ? 143 : 130;
}

/** Whether a flag is given; behind `--` stands what is another program's. */
function hasFlag(argv: readonly string[], flag: string): boolean {
  const end = argv.indexOf("--");
  return (end === -1 ? argv : argv.slice(0, end)).includes(flag);
}

/** `importkey` takes its flags as the Go tool of the AKS documents does: `-kh`, `-kp`, `-out`. */
function goStyleFlags(argv: readonly string[]): string[] {
  const verb = argv.find((item) => !item.startsWith("-"));
  return argv.map((item) => (verb === "importkey" && /^-(kh|kp|out)(=|$)/.test(item) ? `-${item}` : item));
}

/** A program that writes to the context and never ends the process. */
function programOf(name: string, context: CliContext, outcome: Outcome): Command {
  const writeErr = (text: string): void => {
    if (outcome.held === undefined) context.stderr.write(text);
    else outcome.held += text;
  };
  return new Command(name)
    .helpOption("-h, --help", "show help")
    .exitOverride()
    .configureOutput({ writeOut: (text) => context.stdout.write(text), writeErr })
    .showSuggestionAfterError();
}

function buildGenpolicy(context: CliContext, outcome: Outcome): Command {
  const program = programOf("genpolicy", context, outcome)
    .description("Generate the agent policy of the pods in a YAML file and write it into the file as an annotation.")
    .showHelpAfterError("(genpolicy --help shows the flags and examples)")
    .addHelpText("after", examplesText(GENPOLICY_EXAMPLES));
  withGenpolicyFlags(withCommonFlags(program)).option(...STATE_FLAG);
  program.action(async () => {
    const { run } = await import("./verbs/genpolicy.ts");
    outcome.exit = await run(program.opts(), program.args, context);
  });
  return program;
}

const STATE_FLAG = ["--state <dir>", "state directory (default: $SEALPOD_HOME or ~/.sealpod)"] as const;

function withCommonFlags(command: Command): Command {
  return command.option("--json", "print the result as JSON").option("--debug", "print stack traces of errors");
}

function examplesText(examples: readonly string[]): string {
  return `\nExamples:\n${examples.map((line) => `  ${line}`).join("\n")}`;
}

function build(context: CliContext, outcome: Outcome): Command {
  const program = programOf("sealpod", context, outcome)
    .description("Confidential containers for Kubernetes: policy, measured sandbox, attestation, key release.")
    .version(VERSION, "-V, --version", "print the version")
    // `sealpod genpolicy --version` asks genpolicy.
    .enablePositionalOptions()
    .showHelpAfterError("(sealpod --help lists the commands)")
    .addHelpText("after", "\nFirst time here: sealpod demo\nExit codes: 0 ok, 1 failed, 2 usage, 3 refused by policy. Every verb has --help with examples.");

  const verbsOf =
    (parent: Command, prefix: string): DeclareVerb =>
    <O extends object>(usage: string, summary: string, examples: readonly string[], load: () => Promise<{ readonly run: Verb<O> }>): Command => {
      const command = withCommonFlags(parent.command(usage))
        .description(summary)
        .helpOption("-h, --help", "show help")
        .exitOverride()
        .showHelpAfterError(`(${prefix} ${usage} --help shows the flags and examples)`)
        .addHelpText("after", examplesText(examples));
      command.action(async () => {
        const { run } = await load();
        outcome.exit = await run(command.opts<O & GlobalOptions>(), command.args, context);
      });
      return command;
    };
  const declare = verbsOf(program, "sealpod");
  const verb: DeclareVerb = (...declaration) => declare(...declaration).option(...STATE_FLAG);

  withGenpolicyFlags(
    verb(
      "genpolicy",
      "Generate the agent policy of the pods in a YAML file and write it into the file as an annotation.",
      GENPOLICY_EXAMPLES.map((line) => `sealpod ${line}`),
      () => import("./verbs/genpolicy.ts"),
    ),
  );

  verb(
    "up",
    "Start the laptop services: EMULATED security processor, attestation, key vault and identity, on loopback.",
    ["sealpod up            # stays; Ctrl-C ends it", "sealpod up -d         # in the background; sealpod down ends it", "sealpod up --port 9443"],
    () => import("./verbs/up.ts"),
  )
    .option("--port <number>", "HTTPS port on 127.0.0.1", "8443")
    .option("-d, --detach", "start in the background and return when everything listens")
    .addOption(new Option("--ready-fd <fd>").hideHelp())
    .option("--compliance-status <value>", "x-ms-compliance-status for our own signed UVM", "sealpod-compliant-uvm");

  verb("down", "Stop the laptop services that `up -d` started.", ["sealpod down"], () => import("./verbs/down.ts"));

  verb("status", "Show the laptop services and the running pods.", ["sealpod status", "sealpod status --json"], () => import("./verbs/status.ts"));

  verb(
    "example-images",
    "Build the example's OCI images (pause, nginx, sidecar) from this machine's packages into the state directory.",
    ["openssl rand -out encryptionKey 32", "sealpod example-images --key encryptionKey --page examples/key-release/page.html"],
    () => import("./verbs/example-images.ts"),
  )
    .requiredOption("--key <file>", "32-byte key that the page is encrypted under")
    .requiredOption("--page <file>", "HTML page to encrypt into the nginx image");

  withImportKeyFlags(
    verb(
      "importkey",
      "Import a key with a release policy bound to a pod's policy (HOST_DATA).",
      [
        "sealpod importkey -c myapplication.yaml -kh encryptionKey",
        "sealpod importkey -c importkeyconfig.json -kh 2247…31e0",
        "sealpod importkey -c app.yaml -kh KEY --akv-endpoint v.vault.azure.net --maa-endpoint sharedeus.eus.attest.azure.net --kid my-key --bearer-token-file token",
      ],
      () => import("./verbs/importkey.ts"),
    ),
  );

  verb(
    "run",
    "Run the pod of an annotated YAML in a utility VM on this machine (EMULATED security processor: NO hardware protection).",
    [
      "sealpod run myapplication.yaml                 # stays; Ctrl-C ends the pod",
      "sealpod run -d -p 8080:80 myapplication.yaml",
      "sealpod exec nginx-deployment -c nginx -- id",
    ],
    () => import("./verbs/run.ts"),
  )
    .argument("<file>", "annotated Kubernetes YAML")
    .option("-d, --detach", "return when the pod runs")
    .addOption(isolation())
    .addOption(new Option("--ready-fd <fd>").hideHelp())
    .addOption(repeatable("-p, --publish <host:container>", "forward a port of 127.0.0.1 to the pod; repeatable (default: every containerPort to a free port)"))
    .addOption(repeatable("--oci-layout <dir>", "take images from this OCI layout; repeatable"))
    .addOption(
      new Option("--webhook-version <version>", "workload-identity webhook that admits the pod: 1.5 up to v1.5.1, 1.6 since v1.6.0")
        .choices(["1.5", "1.6"])
        .default("1.5"),
    );

  verb(
    "exec",
    "Run a command in a container, if the pod's policy allows it.",
    ["sealpod exec nginx-deployment -c nginx -- id"],
    () => import("./verbs/exec.ts"),
  )
    .argument("<pod>", "pod name, its beginning, or sandbox id")
    .argument("<command...>", "command and arguments, after --")
    .option("-c, --container <name>", "container (default: the first)");

  verb("logs", "Print what a container of a detached pod has written.", ["sealpod logs nginx-deployment -c nginx"], () => import("./verbs/logs.ts"))
    .argument("<pod>", "pod name, its beginning, or sandbox id")
    .option("-c, --container <name>", "container (default: the first)");

  verb("stop", "Stop a detached pod.", ["sealpod stop nginx-deployment"], () => import("./verbs/stop.ts")).argument(
    "<pod>",
    "pod name, its beginning, or sandbox id",
  );

  verb(
    "attack",
    "Play the malicious operator against the pod of an annotated YAML; every attack must be refused.",
    ["sealpod attack --list", "sealpod attack myapplication.yaml", "sealpod attack myapplication.yaml exec other-env"],
    () => import("./verbs/attack.ts"),
  )
    .argument("[file]", "annotated Kubernetes YAML")
    .argument("[names...]", "attacks to play (default: all)")
    .option("--list", "list the attacks")
    .addOption(isolation())
    .addOption(repeatable("--oci-layout <dir>", "take images from this OCI layout; repeatable"));

  verb(
    "demo",
    "The walk-through of the AKS document on this machine, with its refusals.",
    ["sealpod demo", "sealpod demo --keep ./artefacts", "sealpod demo --json"],
    () => import("./verbs/demo.ts"),
  )
    .option("--keep <dir>", "leave every artefact here for other tools to check")
    .option("--port <number>", "HTTPS port on 127.0.0.1 (default: a free one)")
    .addOption(isolation());

  const group = (parent: Command, name: string, prefix: string, description: string): Command =>
    parent.command(name).description(description).helpOption("-h, --help", "show help").showHelpAfterError(`(${prefix} --help lists the commands)`);

  const confcom = group(program, "confcom", "sealpod confcom", "The policy generator under the names of the Azure CLI's confcom extension.");
  addConfcomVerbs((...declaration) => verbsOf(confcom, "sealpod confcom")(...declaration).option(...STATE_FLAG));

  const rego = group(program, "rego", "sealpod rego", "Evaluate, check, test, format and measure Rego policies with the engine of the agent.");
  addRegoVerbs(verbsOf(rego, "sealpod rego"));

  const attest = group(program, "attest", "sealpod attest", "Evidence: verify it, predict it, write policies about it, and serve attestation.");
  addVerifyVerbs(verbsOf(attest, "sealpod attest"));
  addMeasureVerbs(verbsOf(attest, "sealpod attest"));
  const idBlock = group(attest, "id-block", "sealpod attest id-block", "Make and check the signed identity (ID block, ID auth) that a host gives at launch.");
  addIdBlockVerbs(verbsOf(idBlock, "sealpod attest id-block"));
  const attestPolicy = group(attest, "policy", "sealpod attest policy", "Check and try attestation policies; get and set those of a service.");
  addAttestPolicyVerbs(verbsOf(attestPolicy, "sealpod attest policy"));
  addAttestServeVerbs(verbsOf(attest, "sealpod attest"));

  const certcache = group(program, "certcache", "sealpod certcache", "Cache of AMD's certificates: serve it, fill it, carry it to where there is no network.");
  addCertcacheVerbs(verbsOf(certcache, "sealpod certcache"));

  const key = group(program, "key", "sealpod key", "Keys and secrets of a vault: make, import, show, grant; would a pod get this key, and why did it not?");
  addKeyVerbs((...declaration) => verbsOf(key, "sealpod key")(...declaration).option(...STATE_FLAG));
  for (const [name, description, add] of [
    ["policy", "Release policies: check one, or make one for a pod.", addKeyPolicyVerbs],
    ["rotation-policy", "When a key is rotated by itself.", addRotationPolicyVerbs],
    ["secret", "Secrets of a vault.", addSecretVerbs],
    ["role-assignment", "Who has which role in a managed HSM, or in a vault that decides by roles.", addRoleAssignmentVerbs],
  ] as const) {
    const part = group(key, name, `sealpod key ${name}`, description);
    add((...declaration) => verbsOf(part, `sealpod key ${name}`)(...declaration).option(...STATE_FLAG));
  }

  const vault = group(program, "vault", "sealpod vault", "The key vault service: serve it, rotate its wrapping keys, back it up.");
  addVaultVerbs(verbsOf(vault, "sealpod vault"));

  const identity = group(program, "identity", "sealpod identity", "The identity service: serve it, register applications and their federated credentials.");
  addIdentityVerbs(verbsOf(identity, "sealpod identity"));

  const kbs = group(program, "kbs", "sealpod kbs", "The key broker of Confidential Containers: resources, policies, reference values.");
  addKbsVerbs((...declaration) => verbsOf(kbs, "sealpod kbs")(...declaration).option(...STATE_FLAG));

  const uvm = group(program, "uvm", "sealpod uvm", "The utility VM's image: build, look at, sign and verify it.");
  addUvmVerbs(verbsOf(uvm, "sealpod uvm"));

  const host = group(program, "host", "sealpod host", "A node of a cluster: what it can do, and the containerd shim on it.");
  addHostVerbs(verbsOf(host, "sealpod host"));

  const encfs = group(program, "encfs", "sealpod encfs", "Encrypted filesystem images for pods: make and look at them.");
  addEncfsVerbs(verbsOf(encfs, "sealpod encfs"));

  return program;
}
