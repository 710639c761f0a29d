import { decodeUtf8, toBase64, toHex } from "@sealpod/core";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { attributesOf, tagsOf, type AttributeOptions } from "../key/attributes.ts";
import { requireVersionless, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { secretText, writeResult } from "../key/output.ts";
import type { Verb } from "../program.ts";
import { readBytes, readStdin } from "../workspace.ts";

interface Options extends VaultOptions, NameOptions, AttributeOptions {
  readonly value?: string;
  /** `-` is standard input. */
  readonly file?: string;
  /** How the bytes of the file become the text of the secret. */
  readonly encoding: "utf-8" | "base64" | "hex";
  readonly contentType?: string;
}

/** Characters; Key Vault takes 25 KB. */
const MAX_FILE = 64 * 1024;

/** `sealpod key secret set` with its vault. The value is not printed back. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const name = requireVersionless(options, operands);
  const body = {
    value: await valueOf(options, context),
    ...(options.contentType === undefined ? {} : { contentType: options.contentType }),
    attributes: attributesOf(options),
    ...tagsOf(options.tags),
  };
  const { value: _secret, ...bundle } = await vault.call("PUT", `/secrets/${name}`, body);
  writeResult(options, context, bundle, secretText(bundle));
  return EXIT.ok;
};

async function valueOf({ value, file, encoding }: Options, context: CliContext): Promise<string> {
  if ((value === undefined) === (file === undefined)) {
    throw new CliError("ERR_CLI_USAGE", value === undefined ? "no value is given" : "--value and --file are two values", {
      hint: "Give --file FILE, or --file - for standard input; --value TEXT is seen by whoever lists this machine's processes.",
    });
  }
  if (value !== undefined) return value;
  const bytes = file === "-" ? await readStdin(context, MAX_FILE) : await readBytes(file ?? "", context);
  if (encoding === "utf-8") return decodeUtf8(bytes, file);
  return encoding === "hex" ? toHex(bytes) : toBase64(bytes);
}

/** `sealpod key secret set`. */
export const run: Verb<Options> = vaultVerb(operation, "keyvault");
