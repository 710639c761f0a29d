import { mkdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { asObject, concatBytes, encodeUtf8, parseJson } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import type { PodImage } from "@sealpod/kubelet";
import type { Image, ImageSource, Layer } from "@sealpod/oci";
import { readTar, safePath, type TarEntry } from "@sealpod/verity";
import { PodError } from "./errors.ts";

/** Text of an image's user files. */
export type ImageUsers = Required<Pick<PodImage, "passwd" | "group">>;

/** Bytes of a user file: some ten thousand users. */
const MAX_USER_FILE: number = 1024 * 1024;

/** Bytes of a note: two user files, with every character escaped. */
const MAX_NOTE: number = 16 * MAX_USER_FILE;

const FILES = ["passwd", "group"] as const;
type UserFile = (typeof FILES)[number];

/** What a layer says of the two files: text, `null` if it takes away what the layers below have, absent if it says nothing. */
type LayerUsers = Partial<Record<UserFile, string | null>>;

/**
 * /etc/passwd and /etc/group of an image as a container of it would see them; empty where it has none. What a layer says is noted in
 * `directory` by its diff id, since it has to be read to its end once.
 * @throws {PodError} ERR_POD_IMAGE
 * @throws {OciError} if the image is not what its digests say
 * @throws {VerityError} if a layer is no archive
 */
export async function imageUsers(directory: string, source: ImageSource, image: Image): Promise<ImageUsers> {
  await mkdir(directory, { recursive: true });
  const users = { passwd: "", group: "" };
  for (const layer of image.layers) {
    const said = await layerUsers(directory, source, layer);
    for (const name of FILES) {
      const text = said[name];
      if (text !== undefined) users[name] = text ?? "";
    }
  }
  return users;
}

async function layerUsers(directory: string, source: ImageSource, layer: Layer): Promise<LayerUsers> {
  const note = join(directory, `${layer.diffId.slice("sha256:".length)}.users.json`);
  const noted = await readNote(note);
  if (noted !== undefined) return noted;
  const users = await scan(source.layerTar(layer));
  await writeFileAtomic(note, encodeUtf8(JSON.stringify(users)), 0o644);
  return users;
}

/** Undefined if there is no note, or one that is no longer what was written: it is made again. */
async function readNote(path: string): Promise<LayerUsers | undefined> {
  try {
    if ((await stat(path)).size > MAX_NOTE) return undefined;
    const note = asObject(parseJson(await readFile(path, "utf8"), path, { maxLength: MAX_NOTE, maxDepth: 2 }));
    const values = FILES.map((name) => note?.[name]);
    return note !== undefined && values.every((value) => value === undefined || value === null || typeof value === "string") ? (note as LayerUsers) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The last member of a name counts, as when the layer is unpacked. A link is taken for a file that is not there: it would have to be followed
 * through all layers.
 */
async function scan(tar: AsyncIterable<Uint8Array>): Promise<LayerUsers> {
  const users: LayerUsers = {};
  const own = new Set<UserFile>();
  for await (const entry of readTar(tar)) {
    const path = safePath(entry.path);
    const name = FILES.find((file) => path === `etc/${file}`);
    if (name !== undefined) {
      own.add(name);
      users[name] = entry.kind === "file" ? await textOf(entry, path) : null;
      continue;
    }
    // A marker takes away what the layers below have, not what stands beside it in the same layer.
    const removed = FILES.filter((file) => path === `etc/.wh.${file}` || path === ".wh.etc" || path === "etc/.wh..wh..opq" || path === ".wh..wh..opq");
    const hidden = path === "etc" && entry.kind !== "directory" ? FILES : removed;
    for (const file of hidden) if (!own.has(file)) users[file] = null;
  }
  return users;
}

async function textOf(entry: TarEntry, path: string): Promise<string> {
  if (entry.size > MAX_USER_FILE) {
    throw new PodError("ERR_POD_IMAGE", `/${path} of an image has ${entry.size} bytes, more than ${MAX_USER_FILE}`, {
      hint: "No system has that many users: the image is damaged.",
    });
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of entry.data) chunks.push(chunk);
  // Names are compared as text; what is not UTF-8 matches nothing.
  return new TextDecoder().decode(concatBytes(...chunks));
}
