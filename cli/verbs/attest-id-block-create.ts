import { join } from "node:path";
import { messageOf, toBase64, toHex } from "@sealpod/core";
import { makeDirectory, writeFileAtomic } from "@sealpod/io";
import { createIdAuth, encodeIdAuth, encodeIdBlock, GUEST_ID_SIZE, type IdBlock, MEASUREMENT_SIZE, verifyIdAuth } from "@sealpod/snp";
import { parseBytes, parseNumber, readPrivateKey } from "../attest/measure-input.ts";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";
import { pathOf } from "../workspace.ts";

interface Options {
  readonly measurement: string;
  readonly idkey: string;
  readonly authorkey?: string;
  readonly guestSvn: string;
  readonly policy: string;
  readonly familyId?: string;
  readonly imageId?: string;
  readonly out?: string;
}

/** `sealpod attest id-block create`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const block: IdBlock = {
    measurement: parseBytes("--measurement", options.measurement, MEASUREMENT_SIZE),
    familyId: guestId("--family-id", options.familyId),
    imageId: guestId("--image-id", options.imageId),
    guestSvn: Number(parseNumber("--guest-svn", options.guestSvn, 0xffff_ffffn)),
    policy: parseNumber("--policy", options.policy, (1n << 64n) - 1n),
  };
  const blockBytes = encodeIdBlock(block);
  const idKey = await readPrivateKey(options.idkey, context);
  const authorKey = options.authorkey === undefined ? undefined : await readPrivateKey(options.authorkey, context);
  const auth = createIdAuth(block, idKey, authorKey);
  const authBytes = encodeIdAuth(auth);
  const { idKeyDigest, authorKeyDigest } = verifyIdAuth(block, auth);
  if (options.out !== undefined) await write(options.out, { "id-block.bin": blockBytes, "id-auth.bin": authBytes }, context);
  const result = {
    idBlock: toBase64(blockBytes),
    idAuth: toBase64(authBytes),
    idKeyDigest: toHex(idKeyDigest),
    ...(authorKeyDigest === undefined ? {} : { authorKeyDigest: toHex(authorKeyDigest) }),
  };
  if (options.json === true) writeJson(context.stdout, result);
  // As properties of QEMU's object are written: id-block=….
  else
    for (const [name, value] of Object.entries(result)) context.stdout.write(`${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}=${value}\n`);
  return EXIT.ok;
};

function guestId(flag: string, text: string | undefined): Uint8Array {
  return text === undefined ? new Uint8Array(GUEST_ID_SIZE) : parseBytes(flag, text, GUEST_ID_SIZE);
}

async function write(directory: string, files: Readonly<Record<string, Uint8Array>>, context: CliContext): Promise<void> {
  const path = pathOf(directory, context);
  try {
    await makeDirectory(path, 0o755);
    // Nothing of it is secret.
    for (const [name, bytes] of Object.entries(files)) await writeFileAtomic(join(path, name), bytes, 0o644);
  } catch (cause) {
    throw new CliError("ERR_CLI_FILE", `--out ${directory}: ${messageOf(cause)}`, { cause, hint: "Name a directory that you may write to." });
  }
}
