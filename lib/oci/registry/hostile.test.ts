import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { digestOf } from "../digest.ts";
import type { Layer } from "../image.ts";
import { MEDIA_TYPES } from "../media-types.ts";
import { collect } from "../testdata/layouts.ts";
import { errorReply, failureOf, pull, World, type Handler, type SeenRequest } from "./test-support.ts";

/** Registries that echo secrets, keep one waiting, or give other bytes than they should. */

const TAR = new Uint8Array(20_000).map((_, i) => (i * i) >> 7);
const LAYER = digestOf(TAR);
/** Upper case and lower, because URLs and media types are put in lower case. */
const PASSWORD = "Correct-Horse-battery";
const isBlob = ({ url }: SeenRequest): boolean => url.pathname.endsWith(`/blobs/${LAYER}`);

async function worldWith(...handlers: readonly Handler[]): Promise<World> {
  const world = new World();
  await world.publish([TAR]);
  world.handlers.push(...handlers);
  return world;
}

describe("a registry that echoes the password", () => {
  const percent = [...encodeUtf8(PASSWORD)].map((byte) => `%${byte.toString(16)}`).join("");
  const redirect = (location: string): Response => new Response(null, { status: 307, headers: { location } });
  const echo = `\u009b31m${PASSWORD}`;
  it.each<readonly [string, (request: SeenRequest) => Response, RegExp]>([
    ["in a redirect's path", () => redirect(`/x/${PASSWORD}/y`), /answered https:\/\/r\.example\/\*\*\* with status 404/],
    ["in a redirect's path, encoded", () => redirect(`/x/${percent}`), /answered https:\/\/r\.example\/\*\*\* with status 404/],
    ["in a redirect's path, behind a broken encoding", () => redirect(`/%f/${PASSWORD.toUpperCase()}`), /r\.example\/\*\*\* with status 404/],
    ["in a redirect's host", () => redirect(`https://${PASSWORD}.example/`), /answered https:\/\/\*\*\* with status 404/],
    ["in a digest", () => new Response("{}", { headers: { "docker-content-digest": `sha256:${echo}` } }), /Docker-Content-Digest is "sha256: 31m\*\*\*"/],
    ["in a content type", () => new Response("x", { headers: { "content-type": `text/x;${echo}` } }), /document of type "text\/x; 31m\*\*\*" that is not JSON/],
    ["as a content type", () => new Response("x", { headers: { "content-type": `text/${echo}` } }), /document of type "text\/ 31m\*\*\*" that is not JSON/],
    ["as a document's type", () => Response.json({ mediaType: `x${echo}` }), /has media type "x 31m\*\*\*"/],
  ])("%s prints none of it", async (_, answer, message) => {
    const world = await worldWith((request) => {
      if (!request.url.pathname.startsWith("/v2/")) return new Response(null, { status: 404 });
      return request.headers.has("authorization") ? answer(request) : errorReply(401, "UNAUTHORIZED", "", { "www-authenticate": "Basic" });
    });
    world.login({ auths: { "r.example": { auth: Buffer.from(`user:${PASSWORD}`).toString("base64") } } });
    const error = await failureOf(world.open({ retries: 0 }).resolve("r.example/app:1"));
    expect(error.message).toMatch(message);
    expect(error.message.toLowerCase()).not.toMatch(/\p{Cc}/u);
    expect(`${error.message}${JSON.stringify(error.details)}`.toLowerCase()).not.toContain(PASSWORD.toLowerCase());
    world.checkLogs();
  });
});

describe("a registry that drips", () => {
  /** A body of which a piece comes each so many milliseconds. */
  const dripping = (world: World, bytes: Uint8Array, piece: number, interval: number): ReadableStream<Uint8Array> => {
    let at = 0;
    return new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          world.now += interval;
          controller.enqueue(bytes.subarray(at, (at += piece)));
          if (at >= bytes.length) controller.close();
        },
      },
      { highWaterMark: 0 },
    );
  };

  it.each([
    ["manifests/1", 1, 500, "60 s"],
    ["manifests/1", 700, 500, "61 s"],
    ["manifests/sha256", 1, 500, "60 s"],
    ["manifests/sha256", 700, 500, "61 s"],
    ["blobs", 1, 10_000, "60 s"],
  ])("at %s by %i bytes in %i ms is given up, after as many attempts as ever", async (path, piece, interval, time) => {
    const body = encodeUtf8(JSON.stringify({ mediaType: MEDIA_TYPES.manifest }).padEnd(3_000_000));
    const digest = digestOf(body);
    const world = await worldWith(({ url, headers }) => {
      if (!url.pathname.includes(`/${path}`)) return undefined;
      const first = Number(/^bytes=(\d+)-$/.exec(headers.get("range") ?? "")?.[1] ?? 0);
      const size = path === "blobs" ? (world.blobs.get(url.pathname.split("/").at(-1) ?? "")?.length ?? 0) : body.length;
      return new Response(dripping(world, body.subarray(first, size), piece, interval), {
        status: first === 0 ? 200 : 206,
        headers: { "content-type": MEDIA_TYPES.manifest, ...(first === 0 ? {} : { "content-range": `bytes ${first}-${size - 1}/${size}` }) },
      });
    });
    // An index, so that there is a manifest that is read by its digest.
    const entry = { mediaType: MEDIA_TYPES.manifest, digest, size: body.length, platform: { os: "linux", architecture: "amd64" } };
    if (path === "manifests/sha256") {
      world.document("1", { mediaType: MEDIA_TYPES.index, bytes: encodeUtf8(JSON.stringify({ schemaVersion: 2, manifests: [entry] })) });
    }
    const start = world.now;
    const error = await failureOf(world.open().resolve("r.example/app:1"));
    expect(error).toMatchObject({ code: "ERR_OCI_UNREACHABLE", message: expect.stringContaining(`too little came in ${time}`) as string });
    expect((world.now - start) / 60_000, "minutes").toBeLessThan(8);
  });

  it("through a large layer is given up, whether it breaks off in between or not", async () => {
    const size = 100 * 1024 * 1024;
    const layer: Layer = { digest: LAYER, size, mediaType: MEDIA_TYPES.layer, diffId: LAYER };
    const large = new Uint8Array(200_000);
    const world = await worldWith((request) => {
      if (!isBlob(request)) return undefined;
      const first = Number(/^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
      const headers = first === 0 ? undefined : { "content-range": `bytes ${first}-${size - 1}/${size}` };
      return new Response(dripping(world, large, 100, 500), { status: first === 0 ? 200 : 206, ...(headers === undefined ? {} : { headers }) });
    });
    const source = world.open();
    await source.resolve("r.example/app:1");
    const start = world.now;
    const error = await failureOf(collect(source.layerBlob(layer)));
    expect(error).toMatchObject({
      code: "ERR_OCI_UNREACHABLE",
      message: expect.stringMatching(/too little came in 60 s after \d+ of 104857600 bytes/) as string,
    });
    expect((world.now - start) / 60_000, "minutes").toBeLessThan(8);
  });

  it("is borne with as long as it gives a kilobyte per second, and for the time that the reader takes", async () => {
    const tar = new Uint8Array(5 * 1024 * 1024);
    const world = new World();
    await world.publish([tar]);
    const digest = digestOf(tar);
    world.handlers.push(({ url }) => (url.pathname.endsWith(digest) ? new Response(dripping(world, tar, 6000, 5000)) : undefined));
    const source = world.open({ retries: 0 });
    const image = await source.resolve("r.example/app:1");
    let got = 0;
    for await (const part of source.layerTar(image.layers[0] as Layer)) {
      got += part.length;
      world.now += 100_000;
    }
    expect(got).toBe(tar.length);
  });
});

describe("mirrors", () => {
  const mirrors = new Map([["r.example", ["one.example", "two.example"]]]);
  const wrong = TAR.toReversed();

  it("are named at level info when they answer", async () => {
    const world = await worldWith();
    await world.open({ mirrors }).resolve("r.example/app:1");
    expect(world.logs).toEqual([{ level: "info", text: 'image r.example/app:1: mirror one.example answered {"registry":"one.example"}' }]);
  });

  it("that gave a wrong layer are passed over for it when it is asked for again", async () => {
    const world = await worldWith((request) => (isBlob(request) && request.url.host !== "r.example" ? new Response(wrong) : undefined));
    const source = world.open({ mirrors });
    const { layers } = await source.resolve("r.example/app:1");
    const layer = layers[0] as Layer;
    expect(source.rejectLayer?.(layer), "nobody gave it").toBeUndefined();
    for (const name of ["one.example", "two.example"]) {
      expect((await failureOf(collect(source.layerTar(layer)))).code).toBe("ERR_OCI_MISMATCH");
      expect(source.rejectLayer?.(layer)).toEqual({ name: `mirror ${name}`, hasOther: true });
    }
    expect(await collect(source.layerTar(layer))).toEqual(TAR);
    expect(source.rejectLayer?.(layer)).toEqual({ name: "registry r.example", hasOther: false });
    expect(world.logs.filter(({ level }) => level === "warn").map(({ text }) => text)).toEqual(
      ["one", "two"].map((name) => `mirror ${name}.example is passed over: what it gave is not ${LAYER} {"registry":"${name}.example"}`),
    );
  });

  it("that began a layer wrongly are told from who went on with it", async () => {
    const world = await worldWith((request) => {
      if (!isBlob(request) || request.url.host === "r.example") return undefined;
      if (request.url.host === "two.example") return errorReply(404, "BLOB_UNKNOWN", "");
      return request.headers.has("range") ? errorReply(404, "BLOB_UNKNOWN", "") : new Response(world.brokenBody(wrong.subarray(0, 5000), "error"));
    });
    const source = world.open({ mirrors });
    const { layers } = await source.resolve("r.example/app:1");
    await failureOf(collect(source.layerTar(layers[0] as Layer)));
    expect(source.rejectLayer?.(layers[0] as Layer)).toEqual({ name: "mirror one.example and registry r.example", hasOther: true });
  });

  it("that give a wrong manifest or configuration are passed over for it", async () => {
    const world = await worldWith(({ url }) => {
      if (url.host === "one.example") return new Response("{}", { headers: { "content-type": MEDIA_TYPES.manifest } });
      return url.host === "two.example" && url.pathname.includes("/blobs/") ? new Response(new Uint8Array(Number(sizes.get(url.pathname)))) : undefined;
    });
    const sizes = new Map([...world.blobs].map(([digest, bytes]) => [`/v2/app/blobs/${digest}`, bytes.length]));
    const digest = digestOf(world.documents.get("1")?.bytes ?? new Uint8Array());
    expect((await world.open({ mirrors }).resolve(`r.example/app@${digest}`)).manifestDigest).toBe(digest);
    expect(world.requests.map(({ url }) => url.host)).toEqual(["one.example", "two.example", "two.example", "r.example"]);
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
  });
});
