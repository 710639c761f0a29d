import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import { attributesOf, integerOf, operationsOf, tagsOf, type AttributeOptions } from "../key/attributes.ts";
import { requireVersionless, type NameOptions } from "../key/name.ts";
import { vaultVerb, type VaultOperation, type VaultOptions } from "../key/open-vault.ts";
import { keyText, writeResult } from "../key/output.ts";
import { policyMember, type PolicyOptions } from "../key/policy-input.ts";
import type { Verb } from "../program.ts";

interface Options extends VaultOptions, NameOptions, AttributeOptions, PolicyOptions {
  readonly kty?: string;
  readonly size?: string;
  readonly curve?: string;
  readonly ops?: readonly string[];
  readonly exportable?: boolean;
  readonly protection?: string;
}

/** `sealpod key create` with its vault. */
export const operation: VaultOperation<Options> = async (vault, options, operands, context) => {
  const name = requireVersionless(options, operands);
  const body = {
    kty: typeOf(options),
    ...(options.size === undefined ? {} : { key_size: integerOf("--size", options.size, 128, 16_384) }),
    ...(options.curve === undefined ? {} : { crv: options.curve }),
    ...operationsOf(options.ops),
    attributes: { ...attributesOf(options), ...(options.exportable === true ? { exportable: true } : {}) },
    ...tagsOf(options.tags),
    ...(await policyMember(options, context)),
  };
  const bundle = await vault.call("POST", `/keys/${name}/create`, body);
  writeResult(options, context, bundle, keyText(bundle));
  return EXIT.ok;
};

/** As `az`: RSA where nothing is said, of the HSM where that is asked for. Only keys of the HSM can be exportable. */
function typeOf({ kty = "RSA", protection, exportable, policy }: Options): string {
  const isHsm = kty.endsWith("-HSM");
  if (isHsm && protection === "software") throw new CliError("ERR_CLI_USAGE", `--kty ${kty} and --protection software exclude each other`);
  if ((exportable === true) !== (policy !== undefined)) {
    throw new CliError("ERR_CLI_USAGE", exportable === true ? "--exportable is given without --policy FILE" : "--policy is given without --exportable", {
      hint: "A key that can be released is exportable and has a release policy: give both.",
    });
  }
  if (exportable === true && protection === "software")
    throw new CliError("ERR_CLI_USAGE", "--exportable and --protection software exclude each other: software keys are not released");
  return !isHsm && (protection === "hsm" || exportable === true || kty === "oct") ? `${kty}-HSM` : kty;
}

/** `sealpod key create`. */
export const run: Verb<Options> = vaultVerb(operation);
