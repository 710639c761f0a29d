import { Option, type Command } from "commander";
import { VERSION } from "../context.ts";
import { repeatable } from "../options.ts";
import type { DeclareVerb } from "../program.ts";

/** What `-v` prints, in the words of the known tool. */
export const GENPOLICY_VERSION: string = `Sealpod policy tool: id: genpolicy, version: ${VERSION}`;

/** Adds the flags of `genpolicy` to a command: those of both generations of the known tool, and our own behind them. */
export function withGenpolicyFlags(command: Command): Command {
  return command
    .option("-y, --yaml-file <file>", "Kubernetes YAML, rewritten in place with the annotation (default: stdin to stdout)")
    .addOption(repeatable("-c, --config-map-file <file>", "YAML file with ConfigMaps and Secrets that env refers to; repeatable"))
    .addOption(repeatable("--config-file <file>", "the same as -c; repeatable"))
    .option("-p, --rego-rules-path <file>", "rules (default: Sealpod's own)")
    .option("-j, --json-settings-path <path>", "settings: a file, or a directory with drop-ins (default: Sealpod's own)")
    .addOption(new Option("--settings-file-name <name>", "the same as -j, as older versions call it").hideHelp())
    .option("-i, --input-files-path <dir>", "directory that holds rules.rego and the settings")
    .option("-u, --use-cached-files", "use ./layers-cache.json")
    .option("--layers-cache-file-path <file>", "use this layer cache")
    .option("-r, --raw-out", "also print the policy text")
    .option("-b, --base64-out", "also print the annotation's value")
    .option("-s, --silent-unsupported-fields", "warn about unknown YAML fields instead of failing")
    .option("-d, --containerd-socket-path <path>", `pull through containerd; a path only after "=" (default: ${CONTAINERD_SOCKET})`)
    .addOption(repeatable("--insecure-registry <host>", "registry to be spoken to over plain HTTP, host[:port]; repeatable"))
    .addOption(repeatable("--runtime-class-names <prefix>", "leave pods of other runtime classes alone; repeatable"))
    .option("--initdata-path <file>", "TOML that the policy is put into (profile coco)")
    .version(GENPOLICY_VERSION, "-v, --version", "print the version of the generator")
    .addOption(new Option("--profile <name>", "generation of the policy").choices(["aks", "coco"]).default("aks"))
    .addOption(
      repeatable(
        "--images <source>",
        "where images come from: oci:DIR, docker-archive:FILE, containerd[:SOCKET] or registry; repeatable, tried in this order (default: the state directory's images, then the registry)",
      ),
    )
    .addOption(repeatable("--oci-layout <dir>", "the same as --images oci:DIR; repeatable"))
    .addOption(repeatable("--registry-mirror <host=mirror>", "ask this mirror before the registry; repeatable"))
    .option("--platform <os/arch>", "platform of the images", "linux/amd64")
    .addOption(new Option("--layer-format <name>", "file system of the image's layers (default: as the settings say)").choices(["tarfs", "erofs"]))
    .option("--pause-image <reference>", "image of the pause container that the nodes run (default: as the settings say)")
    .addOption(
      new Option(
        "--webhook-version <version>",
        "workload-identity webhook of the cluster: 1.5 up to v1.5.1, 1.6 since v1.6.0 (default: as the settings say)",
      ).choices(["1.5", "1.6"]),
    )
    .option("--full", "do not make the policy small: rules with comments, data as pretty JSON")
    .option("--ephemeral-containers", "list the pod's ephemeral containers in the policy too")
    .option("--jobs <number>", "layers that are read at the same time (default: one per core)");
}

/** Where containerd listens; not from @sealpod/genpolicy, which is loaded when the verb is called. */
const CONTAINERD_SOCKET = "/var/run/containerd/containerd.sock";

/** Short flags of genpolicy that take no value, several in one word. */
const SHORT_SWITCHES = /^-[urbsdvh]{2,}$/;

/**
 * Arguments of genpolicy in the spelling of commander: a value may follow a short flag after `=`, as in the known tool, whose
 * `-d` takes one in no other way.
 */
export function genpolicyArguments(argv: readonly string[]): string[] {
  return argv.flatMap((item) => {
    const [, letter, value] = /^-([a-z])=(.*)$/s.exec(item) ?? [];
    if (letter !== undefined && value !== undefined) return letter === "d" ? `--containerd-socket-path=${value}` : [`-${letter}`, value];
    if (SHORT_SWITCHES.test(item))
      return item
        .slice(1)
        .split("")
        .flatMap((switched) => genpolicyArguments([`-${switched}`]));
    // A word behind it is not its value: `genpolicy -d pod.yaml` must not take the pod for a socket.
    return item === "-d" || item === "--containerd-socket-path" ? `--containerd-socket-path=${CONTAINERD_SOCKET}` : item;
  });
}

/** Declares `katapolicygen` with the flags of the Azure CLI's extension. */
export function addConfcomVerbs(verb: DeclareVerb): void {
  verb(
    "katapolicygen",
    "Generate the agent policy of the pods in a YAML file, with the flags of `az confcom katapolicygen`.",
    ["sealpod confcom katapolicygen -y pod.yaml", "sealpod confcom katapolicygen -y pod.yaml --print-policy | base64 -d | sha256sum"],
    () => import("../verbs/katapolicygen.ts"),
  )
    .option("-y, --yaml <file>", "Kubernetes YAML, rewritten in place with the annotation")
    .option("-c, --config-map-file <file>", "YAML file with ConfigMaps and Secrets that env refers to")
    .option("--outraw", "print the policy text")
    .option("--print-policy", "print the annotation's value, base64")
    .option("-u, --use-cached-files", "use ./layers-cache.json")
    .option("-j, --settings-file-name <file>", "settings (default: Sealpod's own)")
    .option("-p, --rules-file-name <file>", "rules (default: Sealpod's own)")
    .option("-v, --print-version", "print the version of the generator")
    .option("-d, --containerd-pull", "pull images through containerd")
    .option("--containerd-socket-path <path>", "containerd's socket (default: /var/run/containerd/containerd.sock)")
    .addOption(new Option("-o, --output <format>", "taken and ignored, as every az command has it").hideHelp())
    .addOption(new Option("--only-show-errors").hideHelp())
    .addOption(new Option("--verbose").hideHelp())
    .addOption(new Option("--subscription <name>").hideHelp());
}
