import { isSealpodError } from "@sealpod/core";
import { openImage, openImageKey, readKey } from "../encfs/image.ts";
import { EXIT } from "../context.ts";
import type { Verb } from "../program.ts";

interface Options {
  readonly key?: string;
}

/** `sealpod encfs show`. */
export const run: Verb<Options> = async (options, [path = ""], context) => {
  await using image = await openImage(path, context);
  const { header } = image;
  const opens = options.key === undefined ? undefined : await tryKey(async () => openImageKey(image, await readKey(options.key ?? "", context)));
  const result = {
    file: path,
    uuid: header.uuid,
    label: header.label,
    copies: header.copies,
    encryption: header.segment.encryption,
    sectorSize: header.segment.sectorSize,
    dataOffset: header.segment.offset,
    dataLength: Math.max(0, image.length - header.segment.offset),
    keyslots: header.keyslots.map(({ id, kdf }) => ({ id, kdf: kdf.type, hash: kdf.hash, iterations: kdf.iterations })),
    foreignKeyslots: header.foreign,
    opens,
  };
  if (options.json === true) context.stdout.write(`${JSON.stringify(result, undefined, 2)}\n`);
  else {
    const lines = [
      `${path}: LUKS2 volume ${result.uuid}${result.label === "" ? "" : ` (${result.label})`}`,
      `  cipher     ${result.encryption}, sectors of ${result.sectorSize} bytes`,
      `  data       ${result.dataLength} bytes from ${result.dataOffset}`,
      ...result.keyslots.map(({ id, kdf, hash, iterations }) => `  keyslot ${id}  ${kdf} with ${hash}, ${iterations} rounds`),
      ...header.foreign.map(({ id, problem }) => `  keyslot ${id}  not read here: ${problem}`),
      ...(header.copies === "both" ? [] : [`  warning    only the ${header.copies} copy of the header is whole`]),
      ...(opens === undefined ? [] : [`  key        ${opens ? "opens it" : "does NOT open it"}`]),
    ];
    context.stdout.write(`${lines.join("\n")}\n`);
  }
  return opens === false ? EXIT.refused : EXIT.ok;
};

async function tryKey(open: () => Promise<Uint8Array>): Promise<boolean> {
  try {
    (await open()).fill(0);
    return true;
  } catch (error) {
    if (isSealpodError(error) && error.code === "ERR_LUKS2_KEY") return false;
    throw error;
  }
}
