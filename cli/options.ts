import { Option } from "commander";

/** An option that may be given several times. */
export function repeatable(flags: string, description: string): Option {
  return new Option(flags, description).argParser((value: string, previous: readonly string[] | undefined) => [...(previous ?? []), value]);
}

/** What separates a pod from this machine. The words are those of `ISOLATIONS` in @sealpod/machine, which is too large to load for a help text. */
export function isolation(): Option {
  return new Option("--isolation <kind>", "vm: a utility VM (QEMU); process: namespaces alone, no protection; auto: vm where QEMU is found")
    .choices(["auto", "vm", "process"])
    .default("auto");
}
