import { decodeUtf8, fromBase64, isSealpodError, type JsonObject, type SealpodError, toHex } from "@sealpod/core";
import {
  type ExpectedIdentity,
  ID_AUTH_SIZE,
  ID_BLOCK_SIZE,
  type IdAuth,
  type IdBlock,
  idKeyDigest,
  MEASUREMENT_SIZE,
  parseGuestPolicy,
  parseIdAuth,
  parseIdBlock,
  verifyIdAuth,
} from "@sealpod/snp";
import { parseBytes, readInput } from "../attest/measure-input.ts";
import { EXIT, type CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { Verb } from "../program.ts";
import { writeJson } from "../rego/output.ts";

interface Options {
  readonly measurement?: string;
  readonly idKeyDigest?: string;
  readonly authorKeyDigest?: string;
}

/** `sealpod attest id-block check`. */
export const run: Verb<Options> = async (options, [blockPath = "", authPath = ""], context) => {
  const expected: ExpectedIdentity = {
    measurement: digestOf("--measurement", options.measurement),
    idKeyDigest: digestOf("--id-key-digest", options.idKeyDigest),
    authorKeyDigest: digestOf("--author-key-digest", options.authorKeyDigest),
  };
  const block = parseIdBlock(await readStructure(blockPath, ID_BLOCK_SIZE, context));
  const auth = parseIdAuth(await readStructure(authPath, ID_AUTH_SIZE, context));
  const { idKey, authorKey } = auth;
  const digests = {
    idKeyDigest: toHex(idKeyDigest(idKey.publicKey)),
    authorKeyDigest: authorKey === undefined ? null : toHex(idKeyDigest(authorKey.publicKey)),
  };
  if (options.json === true) return checkAsJson(block, auth, expected, digests, context);
  const lines = [
    ["measurement", toHex(block.measurement)],
    ["family id", toHex(block.familyId)],
    ["image id", toHex(block.imageId)],
    ["guest SVN", String(block.guestSvn)],
    ["policy", policyText(block.policy)],
    ["ID key digest", digests.idKeyDigest],
    ["author key digest", digests.authorKeyDigest ?? "none"],
  ] as const;
  const refusal = refusalOf(() => verifyIdAuth(block, auth, expected));
  // Signatures that verify make the fields true, though they may not be those that were asked for.
  const isSigned = refusal === undefined || refusalOf(() => verifyIdAuth(block, auth)) === undefined;
  for (const [name, value] of lines) context.stdout.write(`${name.padEnd(18)} ${value}${isSigned ? "" : " (NOT VERIFIED)"}\n`);
  if (refusal === undefined) {
    context.stdout.write(`${authorKey === undefined ? "The signature verifies" : "Both signatures verify"}.\n`);
    return EXIT.ok;
  }
  if (refusal.hint !== undefined) context.stdout.write(`to do: ${refusal.hint}\n`);
  context.stdout.write(`REFUSED: ${refusal.message} (${refusal.code})\n`);
  return refusal.row.exit;
};

function refusalOf(verify: () => unknown): SealpodError | undefined {
  try {
    verify();
    return undefined;
  } catch (error) {
    if (isSealpodError(error)) return error;
    throw error;
  }
}

/** One document, whether it verifies or not. */
function checkAsJson(block: IdBlock, auth: IdAuth, expected: ExpectedIdentity, digests: JsonObject, context: CliContext): number {
  const fields = {
    measurement: toHex(block.measurement),
    familyId: toHex(block.familyId),
    imageId: toHex(block.imageId),
    guestSvn: block.guestSvn,
    policy: hex(block.policy),
    ...digests,
  };
  const refusal = refusalOf(() => verifyIdAuth(block, auth, expected));
  if (refusal !== undefined) {
    writeJson(context.stdout, { ...fields, verified: false, error: { code: refusal.code, message: refusal.message } });
    return refusal.row.exit;
  }
  writeJson(context.stdout, { ...fields, verified: true });
  return EXIT.ok;
}

function policyText(raw: bigint): string {
  const policy = parseGuestPolicy(raw);
  const words = [
    `ABI ${policy.abiMajor}.${policy.abiMinor}`,
    policy.debugAllowed ? "DEBUGGING ALLOWED" : "no debugging",
    policy.migrationAgentAllowed ? "MIGRATION ALLOWED" : "no migration",
    policy.smtAllowed ? "SMT allowed" : "no SMT",
  ];
  return `${hex(raw)} (${words.join(", ")})`;
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}

function digestOf(flag: string, text: string | undefined): Uint8Array | undefined {
  return text === undefined ? undefined : parseBytes(flag, text, MEASUREMENT_SIZE);
}

/** A file of the structure itself, or of its base64. */
async function readStructure(path: string, size: number, context: CliContext): Promise<Uint8Array> {
  // Room for base64 with line breaks.
  const bytes = await readInput(path, 2 * size, context);
  if (bytes.length === size) return bytes;
  try {
    const decoded = fromBase64(decodeUtf8(bytes, path).replaceAll(/[\r\n]/g, ""), path);
    if (decoded.length === size) return decoded;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
  }
  throw new CliError("ERR_CLI_FILE", `${path} is neither ${size} bytes nor their base64: found ${bytes.length} bytes`, {
    hint: "The ID block comes first, then the ID auth; sealpod attest id-block create --out DIR writes both.",
  });
}
