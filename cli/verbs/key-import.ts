import { privateKeyOfPem, symmetricKey, type ImportedKey } from "@sealpod/importkey";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { attributesOf, operationsOf, tagsOf, type AttributeOptions } from "../key/attributes.ts";
import { requireVersionless, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { keyText, writeResult } from "../key/output.ts";
import { policyMember, type PolicyOptions } from "../key/policy-input.ts";
import type { Verb } from "../program.ts";
import { readBytes, readText } from "../workspace.ts";

interface Options extends VaultOptions, NameOptions, AttributeOptions, PolicyOptions {
  readonly pemFile?: string;
  readonly bytesFile?: string;
  readonly ops?: readonly string[];
  readonly exportable?: boolean;
  readonly protection?: string;
}

/** `sealpod key import` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const name = requireVersionless(options, operands);
  if ((options.exportable === true) !== (options.policy !== undefined)) {
    throw new CliError(
      "ERR_CLI_USAGE",
      options.exportable === true ? "--exportable is given without --policy FILE" : "--policy is given without --exportable",
      {
        hint: "A key that can be released is exportable and has a release policy: give both.",
      },
    );
  }
  const { jwk, type } = await keyOf(options, context);
  const hsm = options.protection === "hsm" || options.exportable === true || type === "oct-HSM";
  if (hsm && options.protection === "software") throw new CliError("ERR_CLI_USAGE", "--protection software does not go with --exportable or a symmetric key");
  const body = {
    key: { ...jwk, kty: hsm ? type : type.replace("-HSM", ""), ...operationsOf(options.ops) },
    hsm,
    attributes: { ...attributesOf(options), ...(options.exportable === true ? { exportable: true } : {}) },
    ...tagsOf(options.tags),
    ...(await policyMember(options, context)),
  };
  const bundle = await vault.call("PUT", `/keys/${name}`, body);
  writeResult(options, context, bundle, keyText(bundle));
  return EXIT.ok;
};

async function keyOf({ pemFile, bytesFile }: Options, context: CliContext): Promise<ImportedKey> {
  if ((pemFile === undefined) === (bytesFile === undefined)) {
    throw new CliError("ERR_CLI_USAGE", pemFile === undefined ? "no key is given" : "--pem-file and --bytes-file are two keys", {
      hint: "Give --pem-file FILE (RSA or EC, PEM) or --bytes-file FILE (the raw bytes of a symmetric key).",
    });
  }
  if (bytesFile !== undefined) return symmetricKey(await readBytes(bytesFile, context));
  const { name, text } = await readText(pemFile ?? "", context);
  return privateKeyOfPem(text, name);
}

/** `sealpod key import`. */
export const run: Verb<Options> = vaultVerb(operation);
