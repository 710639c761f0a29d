import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8 } from "@sealpod/core";
import type { Image, ImageSource, Layer } from "@sealpod/oci";
import { encodeTar, type TarItem } from "@sealpod/verity";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { imageUsers, type ImageUsers } from "./image-users.ts";

let directory = "";
let count = 0;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-users-"));
});
afterEach(async () => {
  await rm(directory, { recursive: true });
});

const file = (path: string, text = ""): TarItem => ({ kind: "file", path, mode: 0o644, uid: 0, gid: 0, mtime: 0, data: encodeUtf8(text) });

/** An image of these layers, bottom first. */
function imageOf(layers: readonly (readonly TarItem[])[]): { readonly image: Image; readonly source: ImageSource } {
  const described = layers.map((_items, index): Layer => {
    const digest = `sha256:${(count++).toString(16).padStart(64, "0")}`;
    return { digest, size: index, mediaType: "application/vnd.oci.image.layer.v1.tar", diffId: digest };
  });
  const config = { user: "", env: [], entrypoint: [], cmd: [], workingDir: "", tty: false, volumes: [], diffIds: [], architecture: "amd64", os: "linux" };
  const image = { reference: "i", manifestDigest: "", configDigest: "", config, layers: described };
  const tar = (layer: Layer): AsyncIterable<Uint8Array> => encodeTar(layers[layer.size] ?? []);
  return { image, source: { resolve: async () => image, layerBlob: tar, layerTar: tar } };
}

async function users(...layers: readonly (readonly TarItem[])[]): Promise<ImageUsers> {
  const { image, source } = imageOf(layers);
  return imageUsers(directory, source, image);
}

describe("imageUsers", () => {
  it("reads what the topmost layer has, and nothing of what is taken away", async () => {
    const bottom = [file("etc/passwd", "root:x:0:0:::\n"), file("./etc/group", "root:x:0:\n"), file("usr/etc/passwd", "no")];
    expect(await users(bottom)).toEqual({ passwd: "root:x:0:0:::\n", group: "root:x:0:\n" });
    expect(await users(bottom, [file("etc/passwd", "new\n")])).toEqual({ passwd: "new\n", group: "root:x:0:\n" });
    expect(await users(bottom, [file("etc/.wh.passwd")])).toEqual({ passwd: "", group: "root:x:0:\n" });
    expect(await users(bottom, [file(".wh.etc")])).toEqual({ passwd: "", group: "" });
    expect(await users(bottom, [file("etc/group", "new\n"), file("etc/.wh..wh..opq")])).toEqual({ passwd: "", group: "new\n" });
    expect(await users([], [file("etc/passwd", "")])).toEqual({ passwd: "", group: "" });
  });

  it("notes what a layer says, and reads it again if the note is damaged", async () => {
    const { image, source } = imageOf([[file("etc/passwd", "a\n")]]);
    const read = async (): Promise<string> => (await imageUsers(directory, source, image)).passwd;
    expect(await read()).toBe("a\n");
    const note = join(directory, `${image.layers[0]?.diffId.slice(7) ?? ""}.users.json`);
    expect(JSON.parse(await readFile(note, "utf8"))).toEqual({ passwd: "a\n" });
    await writeFile(note, '{"passwd":"noted\\n"}');
    expect(await read()).toBe("noted\n");
    for (const damaged of ["{", '{"passwd":7}', "[]", ""]) {
      await writeFile(note, damaged);
      expect(await read()).toBe("a\n");
    }
  });

  it("refuses a file that no system has", async () => {
    await expect(users([file("etc/passwd", "x".repeat(1024 * 1024 + 1))])).rejects.toThrow(expect.objectContaining({ code: "ERR_POD_IMAGE" }));
  });
});
