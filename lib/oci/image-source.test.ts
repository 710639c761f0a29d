import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { blobPath, digestOf } from "./digest.ts";
import { imageSourceOf, type BlobStore } from "./image-source.ts";
import { LayoutWriter } from "./layout-writer.ts";
import { MEDIA_TYPES } from "./media-types.ts";
import { encodeReference } from "./reference.ts";
import { failureOf } from "./registry/test-support.ts";
import { collect, inPieces, memoryLayout } from "./testdata/layouts.ts";

const TAR = encodeUtf8("tar".repeat(500));

/** A store that answers every reference with the same image, and the parts replaced. */
async function storeWith(parts: Partial<BlobStore> = {}): Promise<{ readonly store: BlobStore; readonly digest: string; readonly asked: string[] }> {
  const layout = memoryLayout();
  const writer = new LayoutWriter(layout);
  const layers = [await writer.addLayer(inPieces(TAR, 99), { compression: "none" })];
  const digest = await writer.addImage("a", { config: { user: "", env: [], entrypoint: [], cmd: [], workingDir: "" }, layers });
  const asked: string[] = [];
  const bytes = layout.files.get(blobPath(digest)) ?? new Uint8Array();
  const store: BlobStore = {
    root: () => Promise.resolve({ mediaType: MEDIA_TYPES.manifest, bytes }),
    document: (item) => layout.stream(blobPath(item.digest)),
    blob(item, reference) {
      asked.push(reference === undefined ? "nothing" : encodeReference(reference));
      return layout.stream(blobPath(item.digest));
    },
    ...parts,
  };
  return { store, digest, asked };
}

describe("imageSourceOf", () => {
  it("takes the root as a document or as a descriptor", async () => {
    const { store, digest } = await storeWith();
    const root = (await store.root({ registry: "r", repository: "a", tag: "1", digest: undefined }, "a")) as { readonly bytes: Uint8Array };
    const descriptor = { mediaType: MEDIA_TYPES.manifest, digest, size: root.bytes.length, annotations: new Map<string, string>(), platform: undefined };
    for (const answer of [root, descriptor]) {
      const image = await imageSourceOf({ ...store, root: () => Promise.resolve(answer as typeof descriptor) }).resolve("a:1");
      expect(image).toMatchObject({ reference: "a:1", manifestDigest: digest });
    }
  });

  it("does not believe a store that answers with another digest", async () => {
    const { store, digest } = await storeWith();
    const other = `sha256:${"7".repeat(64)}`;
    expect(await imageSourceOf(store).resolve(`a@${digest}`)).toMatchObject({ manifestDigest: digest });
    expect(await failureOf(imageSourceOf(store).resolve(`a@${other}`))).toMatchObject({ code: "ERR_OCI_MISMATCH" });
    const descriptor = { mediaType: MEDIA_TYPES.manifest, digest, size: 5, annotations: new Map<string, string>(), platform: undefined };
    expect(await failureOf(imageSourceOf({ ...store, root: () => Promise.resolve(descriptor) }).resolve(`a@${other}`))).toMatchObject({
      code: "ERR_OCI_MISMATCH",
    });
  });

  it("asks for a layer in the image that it was found in", async () => {
    const { store, asked } = await storeWith();
    const source = imageSourceOf(store);
    const layer = { digest: digestOf(TAR), size: TAR.length, mediaType: MEDIA_TYPES.layer, diffId: digestOf(TAR) };
    expect(await collect(source.layerTar(layer))).toEqual(TAR);
    await source.resolve("r.example/one:1");
    await source.resolve("r.example/two:1");
    expect(await collect(source.layerBlob(layer))).toEqual(TAR);
    expect(asked).toEqual(["nothing", "r.example/one:1", "r.example/two:1", "r.example/one:1"]);
  });

  it("reads nothing for types that it does not know", async () => {
    const descriptor = { mediaType: "application/x", digest: `sha256:${"7".repeat(64)}`, size: 5, annotations: new Map<string, string>(), platform: undefined };
    const { store } = await storeWith({ root: () => Promise.resolve(descriptor), document: () => expect.unreachable() });
    expect(await failureOf(imageSourceOf(store).resolve("a"))).toMatchObject({ code: "ERR_OCI_UNSUPPORTED" });
    expect(
      await failureOf(
        imageSourceOf({ ...store, root: () => Promise.resolve({ ...descriptor, mediaType: "application/vnd.docker.distribution.manifest.v1+json" }) }).resolve(
          "a",
        ),
      ),
    ).toMatchObject({ code: "ERR_OCI_SCHEMA1" });
  });
});
