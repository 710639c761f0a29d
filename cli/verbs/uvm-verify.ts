import { join } from "node:path";
import { toHex } from "@sealpod/core";
import { ENDORSEMENT_FILE, MAX_ENDORSEMENT, verifyEndorsement, verifyUvm } from "@sealpod/image";
import { parseNumber, readInput } from "../attest/measure-input.ts";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { Progress } from "../progress.ts";
import { measurementOf, openImage } from "../uvm/image.ts";

interface Options {
  readonly issuer?: string;
  readonly feed?: string;
  readonly minSvn: string;
  readonly measurement?: string;
  readonly endorsement?: string;
}

/** `sealpod uvm verify`. */
export const run: Verb<Options> = async (options, [directory], context) => {
  const { issuer, feed } = options;
  if ((issuer === undefined) !== (feed === undefined))
    throw new CliError("ERR_CLI_USAGE", "--issuer and --feed go together: an issuer is trusted for a product line");
  if (issuer === undefined && (options.endorsement !== undefined || options.measurement !== undefined)) {
    throw new CliError("ERR_CLI_USAGE", "an endorsement is checked against an issuer that you trust: --issuer and --feed are missing", {
      hint: "The signer tells its did:x509; what the endorsement itself says about it proves nothing.",
    });
  }
  const minimumSvn = Number(parseNumber("--min-svn", options.minSvn, 0xffff_ffffn));
  const uvm = await openImage(directory, context);
  using progress = new Progress(context);
  await verifyUvm(uvm, (file) => progress.show(`reading ${file}`));
  progress.clear();
  const { rootHash } = uvm.manifest.root;
  if (issuer === undefined || feed === undefined) {
    if (options.json === true) context.stdout.write(`${JSON.stringify({ directory: uvm.directory, rootHash })}\n`);
    else
      context.stdout.write(
        `${uvm.directory}: every byte is as its manifest says; root hash ${rootHash}\nno issuer was named: who made it is not checked (--issuer, --feed)\n`,
      );
    return EXIT.ok;
  }
  const file = options.endorsement ?? join(uvm.directory, ENDORSEMENT_FILE);
  const measurement = await measurementOf(uvm, options.measurement);
  const verified = verifyEndorsement(await readInput(file, MAX_ENDORSEMENT, context), measurement, [{ issuer, feed, minimumSvn, claim: "" }]);
  if (options.json === true) {
    context.stdout.write(`${JSON.stringify({ directory: uvm.directory, rootHash, measurement: toHex(measurement), issuer, feed, svn: verified.svn })}\n`);
  } else {
    context.stdout.write(`${uvm.directory}: every byte is as its manifest says; root hash ${rootHash}\n`);
    context.stdout.write(`endorsed as ${feed} ${verified.svn} by ${issuer}\n`);
  }
  return EXIT.ok;
};
