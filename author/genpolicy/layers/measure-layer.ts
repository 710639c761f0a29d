import { toHex } from "@sealpod/core";
import { type Layer, layerTarOf } from "@sealpod/oci";
import { buildErofsLayer, buildLayer, DEFAULT_TAR_LIMITS, discard, safePath, type TarEvent, TarScanner } from "@sealpod/verity";
import { type LayerFacts, type LayerWish } from "./facts.ts";
import { userFileFinder } from "./user-files.ts";

/**
 * Finds out about a layer in one pass over its stored bytes: size, digest and diff id are checked, the tar is scanned with limits,
 * the user files are taken out and the verity tree is computed. Memory does not grow with the layer but with its number of files.
 * @param blob the bytes as stored, unverified
 * @throws {OciError} ERR_OCI_MISMATCH, ERR_OCI_COMPRESSION, ERR_OCI_LIMIT
 * @throws {VerityError} ERR_VERITY_TAR and others of a tar archive, ERR_VERITY_LIMIT
 */
export async function measureLayer(layer: Layer, blob: AsyncIterable<Uint8Array>, wish: LayerWish): Promise<LayerFacts> {
  const finder = wish.users === "none" ? undefined : userFileFinder(wish.users);
  const observe = (event: TarEvent): void => {
    if (event.kind === "member") refuseEscape(event.member.path, event.member.kind === "hardlink" ? event.member.target : "");
    finder?.take(event);
  };
  const rootHash = await rootOf(layerTarOf(layer, blob), wish, observe);
  // The source has checked the diff id before the tar ended, so what comes out belongs to that diff id.
  return {
    roots: rootHash === undefined ? {} : { [wish.format]: toHex(rootHash) },
    users: finder === undefined ? {} : { [wish.users]: finder.finish() },
  };
}

async function rootOf(tar: AsyncIterable<Uint8Array>, { format }: LayerWish, observe: (event: TarEvent) => void): Promise<Uint8Array | undefined> {
  switch (format) {
    case "tarfs":
      return (await buildLayer(tar, discard, {}, observe)).rootHash;
    case "erofs":
      return (await buildErofsLayer(tar, discard, {}, observe)).rootHash;
    case "none":
      await scan(tar, observe);
      return undefined;
  }
}

async function scan(tar: AsyncIterable<Uint8Array>, observe: (event: TarEvent) => void): Promise<void> {
  const scanner = new TarScanner(DEFAULT_TAR_LIMITS);
  for await (const chunk of tar) for (const event of scanner.push(chunk)) observe(event);
  scanner.end();
}

/** Symbolic links may point anywhere: they are resolved inside the container. A name or a hard link that leaves the layer's root is an attack on whoever unpacks it. */
function refuseEscape(...paths: readonly string[]): void {
  for (const path of paths) if (path.includes("..") && path.split("/").includes("..")) safePath(path);
}
