import type { DeclareVerb } from "../program.ts";

/** Declares the verbs of `sealpod encfs`. */
export function addEncfsVerbs(verb: DeclareVerb): void {
  verb(
    "create",
    "Make an encrypted filesystem image (LUKS2 with ext4) that the encfs sidecar opens in a pod with a released key.",
    [
      "openssl rand -out keyfile.bin 32",
      "sealpod encfs create --key keyfile.bin --from ./data -o data.img",
      "sealpod encfs create --key keyfile.bin --size 64MiB -o empty.img",
      "sealpod encfs create --key keyfile.bin --image plain.ext4 -o data.img      # a filesystem that is there already",
    ],
    () => import("../verbs/encfs-create.ts"),
  )
    .requiredOption("--key <file>", "raw bytes of the key, 32 by custom: what is imported into the vault, or what importkey -out wrote for an RSA key")
    .requiredOption("-o, --output <file>", "image to write; it must not be there")
    .option("--from <dir>", "files to put into it")
    .option("--image <file>", "encrypt this filesystem image instead of making one")
    .option("--size <size>", "size of the filesystem, such as 64MiB (default: 64MiB, or what the files need)")
    .option("--label <text>", "label of the LUKS2 volume");

  verb(
    "show",
    "Show the header of an encrypted filesystem image, and whether a key opens it.",
    ["sealpod encfs show data.img", "sealpod encfs show data.img --key keyfile.bin", "sealpod encfs show data.img --json"],
    () => import("../verbs/encfs-show.ts"),
  )
    .argument("<image>", "LUKS2 image")
    .option("--key <file>", "try this key");

  verb(
    "decrypt",
    "Write the filesystem in an encrypted image as it is, without device mapper: to look into it with other tools.",
    ["sealpod encfs decrypt data.img --key keyfile.bin -o plain.ext4", "debugfs -R 'ls -l /' plain.ext4"],
    () => import("../verbs/encfs-decrypt.ts"),
  )
    .argument("<image>", "LUKS2 image")
    .requiredOption("--key <file>", "raw bytes of the key")
    .requiredOption("-o, --output <file>", "file to write, for its owner alone; it must not be there");
}
