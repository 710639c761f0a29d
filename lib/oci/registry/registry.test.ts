import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { digestOf } from "../digest.ts";
import { MEDIA_TYPES } from "../media-types.ts";
import { errorReply, failureOf, fetchError, pull, World, type Handler } from "./test-support.ts";

/** Names, documents, platforms and mirrors. */

const TAR = new Uint8Array(3000).map((_, i) => i);
const AMD64 = { os: "linux", architecture: "amd64" };
const DOCKER = "application/vnd.docker.distribution.manifest";

async function worldWith(...handlers: readonly Handler[]): Promise<World> {
  const world = new World();
  await world.publish([TAR]);
  world.handlers.push(...handlers);
  return world;
}

const json = (value: unknown): Uint8Array => encodeUtf8(JSON.stringify(value));

describe("names", () => {
  it.each<readonly [string, string]>([
    ["nginx", "https://registry-1.docker.io/v2/library/nginx/manifests/latest"],
    ["index.docker.io/team/app:2", "https://registry-1.docker.io/v2/team/app/manifests/2"],
    ["r.example/app:1", "https://r.example/v2/app/manifests/1"],
    ["R.Example:5000/a/b/c", "https://r.example:5000/v2/a/b/c/manifests/latest"],
    ["insecure.example/app", "http://insecure.example/v2/app/manifests/latest"],
    ["insecure.example:5000/app", "https://insecure.example:5000/v2/app/manifests/latest"],
    ["localhost:5000/app", "http://localhost:5000/v2/app/manifests/latest"],
    ["[::1]:5000/app", "http://[::1]:5000/v2/app/manifests/latest"],
    ["registry/app", "https://registry-1.docker.io/v2/registry/app/manifests/latest"],
    [`r.example/app:1@sha256:${"0".repeat(64)}`, `https://r.example/v2/app/manifests/sha256:${"0".repeat(64)}`],
  ])("%s is %s", async (reference, url) => {
    const world = new World();
    const source = world.open({ insecureRegistries: ["insecure.example", "LOCALHOST:5000", "[::1]:5000"] });
    expect(await failureOf(source.resolve(reference))).toMatchObject({ code: "ERR_OCI_NOT_FOUND" });
    expect(world.requests.map((request) => request.url.href)).toEqual([url]);
  });

  it.each(["r.example:99999/app", "r.example:5000/App", "-r.example/app"])("%s is none", async (reference) => {
    const world = new World();
    expect(await failureOf(world.open().resolve(reference))).toMatchObject({ code: "ERR_OCI_REFERENCE" });
    expect(world.requests).toEqual([]);
  });

  it.each(["https://r.example", "r.example/", "r.example:99999", "a b", "", "r.example/x", "user@r.example", "x".repeat(1000)])(
    "%s is no insecure registry, and nothing that has mirrors",
    (host) => {
      expect(() => new World().open({ insecureRegistries: [host] })).toThrow(expect.objectContaining({ code: "ERR_OCI_ARGUMENT" }) as Error);
      expect(() => new World().open({ mirrors: new Map([[host, []]]) })).toThrow(expect.objectContaining({ code: "ERR_OCI_ARGUMENT" }) as Error);
    },
  );
});

describe("documents", () => {
  it("are pulled by tag and by digest", async () => {
    const world = await worldWith();
    const digest = [...world.documents.keys()].find((key) => key.startsWith("sha256:")) ?? "";
    const source = world.open();
    for (const reference of ["r.example/app:1", `r.example/app@${digest}`, `r.example/app:other@${digest}`]) {
      const image = await source.resolve(reference);
      expect(image).toMatchObject({ reference, manifestDigest: digest, config: { entrypoint: ["/app"], env: ["A=b"] } });
      expect(await pull(source, reference)).toEqual([TAR]);
    }
  });

  it("are asked for by all types that are understood", async () => {
    const world = await worldWith();
    await world.open().resolve("r.example/app:1");
    expect(world.requests[0]?.headers.get("accept")).toBe(`${MEDIA_TYPES.index}, ${DOCKER}.list.v2+json, ${MEDIA_TYPES.manifest}, ${DOCKER}.v2+json`);
  });

  it.each<readonly [string, string, string, boolean]>([
    ["OCI", MEDIA_TYPES.index, MEDIA_TYPES.manifest, true],
    ["Docker", `${DOCKER}.list.v2+json`, `${DOCKER}.v2+json`, true],
    ["OCI, without types of their own", MEDIA_TYPES.index, MEDIA_TYPES.manifest, false],
  ])("may be indexes in indexes: %s", async (_, index, manifest, withTypes) => {
    const world = await worldWith();
    const bytes = world.documents.get("1")?.bytes ?? new Uint8Array();
    const own = json({ ...(JSON.parse(new TextDecoder().decode(bytes)) as object), mediaType: manifest });
    const descriptorOf = (content: Uint8Array, mediaType: string, platform: object): object => ({
      mediaType,
      digest: digestOf(content),
      size: content.length,
      platform,
    });
    world.document("m", { mediaType: manifest, bytes: own });
    const indexOf = (...manifests: readonly object[]): Uint8Array => json({ schemaVersion: 2, ...(withTypes ? { mediaType: index } : {}), manifests });
    const other = descriptorOf(new Uint8Array(3), manifest, { os: "linux", architecture: "arm64" });
    const inner = indexOf(other, descriptorOf(own, manifest, AMD64));
    world.document("inner", { mediaType: index, bytes: inner });
    world.document("2", { mediaType: `${index}; charset=utf-8`, bytes: indexOf(other, descriptorOf(inner, index, AMD64)) });
    expect(await pull(world.open(), "r.example/app:2")).toEqual([TAR]);
    expect(await failureOf(world.open({ platform: { os: "windows", architecture: "amd64" } }).resolve("r.example/app:2"))).toMatchObject({
      code: "ERR_OCI_PLATFORM",
      details: { offered: ["linux/arm64", "linux/amd64"] },
    });
    expect(await failureOf(world.open({ platform: { os: "linux", architecture: "arm64" } }).resolve("r.example/app:2"))).toMatchObject({
      code: "ERR_OCI_NOT_FOUND",
    });
  });

  it.each([undefined, "", "text/plain", "application/json; charset=utf-8", "application/octet-stream"])(
    "of the type %j are what they look like",
    async (mediaType) => {
      const world = await worldWith();
      const bytes = world.documents.get("1")?.bytes ?? new Uint8Array();
      const document = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
      world.document("own", { mediaType, bytes });
      delete document["mediaType"];
      const bare = json(document);
      world.document("bare", { mediaType, bytes: bare });
      const manifests = [{ mediaType: MEDIA_TYPES.manifest, digest: digestOf(bare), size: bare.length, platform: AMD64 }];
      world.document("index", { mediaType, bytes: json({ schemaVersion: 2, manifests }) });
      for (const tag of ["own", "bare", "index"]) expect(await pull(world.open(), `r.example/app:${tag}`)).toEqual([TAR]);
    },
  );

  it.each<readonly [string, string | undefined, Uint8Array, string, RegExp]>([
    ["schema 1 by its type", `${DOCKER}.v1+prettyjws`, json({ schemaVersion: 1 }), "ERR_OCI_SCHEMA1", /Docker manifest schema 1/],
    ["schema 1 by its version", "application/json", json({ schemaVersion: 1, fsLayers: [] }), "ERR_OCI_SCHEMA1", /Docker manifest schema 1/],
    ["schema 1 called schema 2", `${DOCKER}.v2+json`, json({ schemaVersion: 1 }), "ERR_OCI_SCHEMA1", /Docker manifest schema 1/],
    ["a page", "text/html", encodeUtf8("<html>log in"), "ERR_OCI_DOCUMENT", /"text\/html" that is not JSON/],
    ["an artifact", undefined, json({ schemaVersion: 2, mediaType: "application/x" }), "ERR_OCI_UNSUPPORTED", /"application\/x"/],
    ["a type that is not its own", MEDIA_TYPES.manifest, json({ schemaVersion: 2, mediaType: `${DOCKER}.v2+json` }), "ERR_OCI_DOCUMENT", /mediaType/],
    ["an index and a manifest in one", MEDIA_TYPES.index, json({ schemaVersion: 2, manifests: [], layers: [] }), "ERR_OCI_DOCUMENT", /ambiguous/],
  ])("that are %s are refused", async (_, mediaType, bytes, code, message) => {
    const world = await worldWith();
    world.document("1", { mediaType, bytes });
    const error = await failureOf(world.open().resolve("r.example/app:1"));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  it.each<readonly [string, Record<string, string>]>([
    ["stated", { "content-length": "5000" }],
    ["not stated", {}],
  ])("over the limit are left there, their length %s", async (_, headers) => {
    let given = 0;
    const world = await worldWith(
      () =>
        new Response(new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(((given += 1000), 1000))) }, { highWaterMark: 0 }), {
          headers,
        }),
    );
    const error = await failureOf(world.open({ limits: { maxDocumentSize: 4000 } }).resolve("r.example/app:1"));
    expect(error).toMatchObject({ code: "ERR_OCI_LIMIT", message: expect.stringContaining("more than the limit of 4000 bytes") as string });
    expect(given).toBeLessThanOrEqual(6000);
  });

  it("with another digest than the one asked for are refused, whatever the registry says of them", async () => {
    const world = await worldWith();
    const wanted = `sha256:${"5".repeat(64)}`;
    const bytes = world.documents.get("1")?.bytes ?? new Uint8Array();
    for (const headers of [{}, { "docker-content-digest": wanted }, { "docker-content-digest": digestOf(bytes) }] as readonly Record<string, string>[]) {
      world.handlers.splice(0, 1, () => new Response(bytes, { headers: { "content-type": MEDIA_TYPES.manifest, ...headers } }));
      expect(await failureOf(world.open().resolve(`r.example/app@${wanted}`))).toMatchObject({ code: "ERR_OCI_MISMATCH" });
    }
    world.handlers.splice(0, 1, () => new Response(bytes, { headers: { "docker-content-digest": wanted } }));
    expect(await failureOf(world.open().resolve("r.example/app:1"))).toMatchObject({
      code: "ERR_OCI_MISMATCH",
      message: expect.stringContaining(`Docker-Content-Digest is "${wanted}", expected ${digestOf(bytes)}`) as string,
    });
  });

  it("that are not there are errors that say where", async () => {
    const error = await failureOf((await worldWith()).open().resolve("r.example/app:2"));
    expect(error.code).toBe("ERR_OCI_NOT_FOUND");
    expect(error.message).toBe(
      "image r.example/app:2: registry r.example answered https://r.example/v2/app/manifests/2 with status 404 (MANIFEST_UNKNOWN: manifest unknown)",
    );
    expect(error.hint).toContain("docker login r.example");
  });

  it.each<readonly [string, Response]>([
    ["no JSON", new Response("<html>", { status: 404 })],
    ["JSON that is no error", new Response("[1]", { status: 404 })],
    ["a megabyte", new Response(`{"errors":[{"code":"X","message":"${"x".repeat(1_000_000)}"}]}`, { status: 404 })],
    ["bytes that are no text", new Response(new Uint8Array([0xff, 0xfe]), { status: 404 })],
    ["fields of another type", Response.json({ errors: [{ code: { a: 1 }, message: ["x"] }] }, { status: 404 })],
  ])("of errors may be %s", async (_, response) => {
    const error = await failureOf((await worldWith(() => response)).open().resolve("r.example/app:1"));
    expect(error.message).toMatch(/with status 404$/);
  });
});

describe("mirrors", () => {
  const mirrors = new Map([["r.example", ["one.example", "two.example:5000/cache"]]]);

  it("are asked before the registry, under their own paths", async () => {
    const world = await worldWith();
    expect(await pull(world.open({ mirrors }), "r.example/app:1")).toEqual([TAR]);
    expect(new Set(world.requests.map(({ url }) => url.host))).toEqual(new Set(["one.example"]));
    expect(await pull(world.open({ mirrors }), "q.example/app:1")).toEqual([TAR]);
    expect(world.requests.at(-1)?.url.host).toBe("q.example");
  });

  it("of Docker Hub are found by either of its names", async () => {
    for (const name of ["docker.io", "index.docker.io"]) {
      const world = await worldWith();
      await world.open({ mirrors: new Map([[name, ["one.example"]]]) }).resolve("app:1");
      expect(world.trail[0]).toBe("GET one.example/v2/library/app/manifests/1");
    }
  });

  it.each<readonly [string, () => Response | Promise<Response>]>([
    ["have nothing", () => errorReply(404, "NAME_UNKNOWN", "")],
    ["want a login", () => errorReply(401, "UNAUTHORIZED", "", { "www-authenticate": "Basic" })],
    ["forbid", () => errorReply(403, "DENIED", "")],
    ["break the protocol", () => new Response(null, { status: 302 })],
    ["have a lying digest", () => new Response("{}", { headers: { "docker-content-digest": `sha256:${"0".repeat(64)}` } })],
  ])("that %s are passed over", async (_, answer) => {
    const world = await worldWith(({ url }) => (url.host === "r.example" ? undefined : answer()));
    expect(await pull(world.open({ mirrors }), "r.example/app:1")).toEqual([TAR]);
    expect(world.trail.slice(0, 3)).toEqual([
      "GET one.example/v2/app/manifests/1",
      "GET two.example:5000/v2/cache/app/manifests/1",
      "GET r.example/v2/app/manifests/1",
    ]);
    // Once for each mirror, not for each part of the image.
    expect(world.logs.map(({ level, text }) => `${level} ${text.slice(0, 35)}`)).toEqual([
      "warn mirror one.example is passed over: ",
      "warn mirror two.example:5000 is passed o",
      "info image r.example/app:1: registry r.e",
    ]);
    await world.open({ mirrors }).resolve("r.example/app:1");
    expect(world.logs).toHaveLength(6);
  });

  it("that cannot be reached are tried twice, and not again", async () => {
    const world = await worldWith(({ url }) => (url.host === "one.example" ? Promise.reject(fetchError("ECONNREFUSED", "connect ECONNREFUSED")) : undefined));
    expect(await pull(world.open({ mirrors }), "r.example/app:1")).toEqual([TAR]);
    expect(world.requests.map(({ url }) => url.host)).toEqual(["one.example", "one.example", ...Array.from({ length: 3 }, () => "two.example:5000")]);
    await world.open({ mirrors }).resolve("r.example/app:1");
    const source = world.open({ mirrors });
    await source.resolve("r.example/app:1");
    const before = world.requests.length;
    await source.resolve("r.example/app:1");
    expect(new Set(world.requests.slice(before).map(({ url }) => url.host))).toEqual(new Set(["two.example:5000"]));
  });

  it("are not waited for long, nor is who gives their tokens", async () => {
    const bearer = { "www-authenticate": 'Bearer realm="https://auth.example/"' };
    const world = await worldWith(({ url }) => {
      if (url.host === "auth.example") return errorReply(503, "UNAVAILABLE", "");
      return url.host === "one.example" ? errorReply(401, "UNAUTHORIZED", "", bearer) : undefined;
    });
    await world.open({ mirrors }).resolve("r.example/app:1");
    expect(world.requests.map(({ url }) => url.host)).toEqual(["one.example", "auth.example", "auth.example", "two.example:5000", "two.example:5000"]);
  });

  it("that have the next image are asked for all of it", async () => {
    const world = await worldWith(({ url }) => (url.pathname.endsWith("/manifests/none") ? errorReply(404, "MANIFEST_UNKNOWN", "") : undefined));
    const source = world.open({ mirrors });
    await failureOf(source.resolve("r.example/app:none"));
    const before = world.requests.length;
    await pull(source, "r.example/app:1");
    expect(new Set(world.requests.slice(before).map(({ url }) => url.host))).toEqual(new Set(["one.example"]));
  });

  it("that break in the middle of a layer are gone on from", async () => {
    const world = await worldWith(({ url, headers }) => {
      if (url.host !== "one.example" || !url.pathname.endsWith(digestOf(TAR))) return undefined;
      return headers.has("range") ? errorReply(404, "BLOB_UNKNOWN", "") : new Response(world.brokenBody(TAR.subarray(0, 1234), "error"));
    });
    world.chunk = 100;
    expect(await pull(world.open({ mirrors }), "r.example/app:1")).toEqual([TAR]);
    expect(world.requests.at(-1)?.headers.get("range")).toBe("bytes=1234-");
    expect(world.requests.at(-1)?.url.host).toBe("two.example:5000");
  });

  it("get logins of their own, not the registry's", async () => {
    const basic: Handler = ({ headers }) => (headers.has("authorization") ? undefined : errorReply(401, "UNAUTHORIZED", "", { "www-authenticate": "Basic" }));
    const world = await worldWith(basic);
    const auth = (name: string): { auth: string } => ({ auth: Buffer.from(`${name}:password-of-${name}`).toString("base64") });
    world.login({ auths: { "r.example": auth("r"), "two.example:5000": auth("two") } });
    await world.open({ mirrors }).resolve("r.example/app:1");
    const seen = world.requests.map(({ url, headers }) => `${url.host} ${Buffer.from(headers.get("authorization")?.slice(6) ?? "", "base64").toString()}`);
    expect(seen).toEqual(["one.example ", "two.example:5000 ", "two.example:5000 two:password-of-two", "two.example:5000 two:password-of-two"]);
  });

  it("may be insecure where the registry is not", async () => {
    const world = await worldWith();
    await world.open({ mirrors, insecureRegistries: ["one.example"] }).resolve("r.example/app:1");
    expect(world.requests[0]?.url.protocol).toBe("http:");
  });

  it.each([
    "https://one.example",
    "one.example/a:b",
    "one.example/A",
    "one.example/../x",
    `one.example/a@sha256:${"0".repeat(64)}`,
    "one.example/a//b",
    "",
    "a b/c",
  ])("%j is none", (mirror) => {
    expect(() => new World().open({ mirrors: new Map([["r.example", [mirror]]]) })).toThrow(expect.objectContaining({ code: "ERR_OCI_ARGUMENT" }) as Error);
  });

  it.each(["one.example/", "one.example/a/", "one.example/a/b"])("%j is one", (mirror) => {
    expect(() => new World().open({ mirrors: new Map([["r.example", [mirror]]]) })).not.toThrow();
  });
});
