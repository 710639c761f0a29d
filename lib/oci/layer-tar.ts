import { decompress, verifyBlob, verifyTar } from "./blob.ts";
import { parseDigest } from "./digest.ts";
import { OciError } from "./errors.ts";
import type { Layer } from "./image.ts";
import { DEFAULT_OCI_LIMITS } from "./limits.ts";
import type { OciLimits } from "./limits.ts";
import { mediaKind } from "./media-types.ts";

/**
 * The tar in a layer's blob. The iterator ends only after size, digest and diff id were found right; until then its bytes
 * are unverified and must not take effect. Plain data in, bytes out: a worker thread can do it.
 * @param blob the layer as stored, of any origin
 * @throws {OciError} ERR_OCI_MISMATCH, ERR_OCI_COMPRESSION, ERR_OCI_LIMIT, ERR_OCI_UNSUPPORTED, ERR_OCI_DIGEST
 */
export async function* layerTarOf(layer: Layer, blob: AsyncIterable<Uint8Array>, limits: Partial<OciLimits> = {}): AsyncGenerator<Uint8Array> {
  const kind = mediaKind(layer.mediaType);
  if (kind?.kind !== "layer") {
    throw new OciError("ERR_OCI_UNSUPPORTED", `layer ${layer.digest} has media type ${JSON.stringify(layer.mediaType.slice(0, 200))}`);
  }
  parseDigest(layer.digest, "layer digest");
  yield* verifyTar(decompress(verifyBlob(blob, layer), kind.compression), layer.diffId, limits.maxTarSize ?? DEFAULT_OCI_LIMITS.maxTarSize);
}
