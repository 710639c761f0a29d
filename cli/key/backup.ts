import { fromAnyBase64 } from "@sealpod/core";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { writeNewFile } from "./files.ts";
import { requireVersionless, type NameOptions } from "./name.ts";
import type { VaultOperation, VaultOptions } from "./open-vault.ts";
import { writeResult } from "./output.ts";

/** Flags of the verbs that back up. */
export interface BackupOptions extends VaultOptions, NameOptions {
  readonly file: string;
}

/** Writes the sealed backup of a key or secret, with all its versions, to a new file. */
export function backupOperation(kind: "keys" | "secrets"): VaultOperation<BackupOptions> {
  return async (vault, options, operands, context) => {
    const name = requireVersionless(options, operands);
    const { value } = await vault.call("POST", `/${kind}/${name}/backup`);
    if (typeof value !== "string" || value === "") throw new CliError("ERR_CLI_VAULT", `the backup of ${name} has no value`);
    const bytes = fromAnyBase64(value, "the backup");
    await writeNewFile(options.file, bytes, context);
    writeResult(
      options,
      context,
      { file: options.file, bytes: bytes.length },
      `${name} is in ${options.file}, sealed: only a vault with the same master key can restore it\n`,
    );
    return EXIT.ok;
  };
}
