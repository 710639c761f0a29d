import { join } from "node:path";
import { toHex } from "@sealpod/core";
import { ENDORSEMENT_FILE, endorseUvm, verifyEndorsement } from "@sealpod/image";
import { writeFileAtomic } from "@sealpod/io";
import { parseNumber } from "../attest/measure-input.ts";
import { EXIT } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { measurementOf, openImage } from "../uvm/image.ts";
import { IMAGE_SIGNER_EKU, makeSigner, readSigner } from "../uvm/signer.ts";
import { pathOf } from "../workspace.ts";

interface Options {
  readonly key?: string;
  readonly newKey?: string;
  readonly chain?: string;
  readonly eku?: string;
  readonly feed: string;
  readonly svn: string;
  readonly measurement?: string;
  readonly endorsement?: string;
}

/** Largest version: it is a u32 of the ID block. */
const MAX_SVN = 0xffff_ffffn;

/** `sealpod uvm sign`. */
export const run: Verb<Options> = async (options, [directory], context) => {
  const { key, newKey, chain, eku = IMAGE_SIGNER_EKU, feed } = options;
  if ((key === undefined) === (newKey === undefined))
    throw new CliError("ERR_CLI_USAGE", "one of --key and --new-key is needed", { hint: "The first time: --new-key signer.pem." });
  if (newKey !== undefined && chain !== undefined) throw new CliError("ERR_CLI_USAGE", "--chain does not go with --new-key, which makes one");
  if (!/^[\x21-\x7e]{1,100}$/.test(feed))
    throw new CliError("ERR_CLI_USAGE", `--feed ${JSON.stringify(feed.slice(0, 40))} is not 1 to 100 visible ASCII characters`);
  const svn = Number(parseNumber("--svn", options.svn, MAX_SVN));
  const uvm = await openImage(directory, context);
  const measurement = await measurementOf(uvm, options.measurement);
  const signer = newKey === undefined ? await readSigner(key ?? "", chain, eku, context) : await makeSigner(newKey, eku, context);
  const endorsement = endorseUvm(measurement, { ...signer, feed, svn, signingTime: context.clock.now() });
  // A chain that does not hold, or a certificate without the usage, shows here and not at a verifier.
  verifyEndorsement(endorsement, measurement, [{ issuer: signer.issuer, feed, minimumSvn: svn, claim: "" }]);
  const file = options.endorsement === undefined ? join(uvm.directory, ENDORSEMENT_FILE) : pathOf(options.endorsement, context);
  await writeFileAtomic(file, endorsement, 0o644);
  if (options.json === true) context.stdout.write(`${JSON.stringify({ file, issuer: signer.issuer, feed, svn, measurement: toHex(measurement) })}\n`);
  else {
    context.stdout.write(`${file}: ${feed} ${svn} has launch measurement ${toHex(measurement)}\n`);
    context.stdout.write(`Verifiers trust the issuer ${signer.issuer}\n`);
  }
  return EXIT.ok;
};
