import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { digestOf } from "../digest.ts";
import type { Layer } from "../image.ts";
import { collect } from "../testdata/layouts.ts";
import { errorReply, failureOf, fetchError, pull, SECRETS, STALL_TIMEOUT, World, type Handler, type SeenRequest } from "./test-support.ts";

/** Redirects, repetitions, and downloads that break. */

const TAR = new Uint8Array(20_000).map((_, i) => (i * i) >> 7);
const LAYER = digestOf(TAR);
const SIZE = TAR.length;

const isBlob = ({ url }: SeenRequest): boolean => url.pathname.endsWith(`/blobs/${LAYER}`);
const isManifest = ({ url }: SeenRequest): boolean => url.pathname.includes("/manifests/");

async function worldWith(...handlers: readonly Handler[]): Promise<World> {
  const world = new World();
  await world.publish([TAR]);
  world.handlers.push(...handlers);
  return world;
}

/** Answers the first matching requests one after the other, then none. */
function inTurn(matches: (request: SeenRequest) => boolean, ...answers: readonly Handler[]): Handler {
  const left = [...answers];
  return (request) => (matches(request) ? left.shift()?.(request) : undefined);
}

const rangesOf = (world: World): readonly (string | null)[] => world.requests.filter(isBlob).map(({ headers }) => headers.get("range"));

describe("redirects", () => {
  const login = { auths: { "r.example": { auth: Buffer.from(`user:${SECRETS.password}`).toString("base64") } } };
  /** The registry wants the login everywhere but at one path. */
  const basic =
    (open = ""): Handler =>
    ({ url, headers }) =>
      url.host === "r.example" && url.pathname !== open && !headers.has("authorization")
        ? errorReply(401, "UNAUTHORIZED", "", { "www-authenticate": "Basic" })
        : undefined;
  const redirect = (location: string, status = 307): Response => new Response(null, { status, headers: { location } });

  it.each([301, 302, 303, 307, 308])("with status %i lead to another host, where the login does not go", async (status) => {
    const world = await worldWith(basic(), (request) => {
      if (request.url.host === "cdn.example") return new Response(TAR);
      return isBlob(request) ? redirect("https://cdn.example/x?signature=s3cr3t", status) : undefined;
    });
    world.login(login);
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    const atCdn = world.requests.filter(({ url }) => url.host === "cdn.example");
    expect(atCdn.map(({ url }) => url.href)).toEqual(["https://cdn.example/x?signature=s3cr3t"]);
    expect(atCdn[0]?.headers.has("authorization")).toBe(false);
  });

  it("within the registry keep the login; back from elsewhere they do not", async () => {
    const world = await worldWith(basic("/three"), ({ url, headers }) => {
      if (url.pathname.endsWith(LAYER)) return redirect("/one");
      if (url.pathname === "/one") return headers.has("authorization") ? redirect("https://cdn.example/two") : undefined;
      if (url.pathname === "/two") return redirect("https://r.example:443/three");
      return url.pathname === "/three" ? new Response(headers.has("authorization") ? "leak" : TAR) : undefined;
    });
    world.login(login);
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
  });

  it.each(["https://r.example:8443/x", "https://x.r.example/x", "http://r.example:443/x"])("to %s are to another place", async (location) => {
    const world = await worldWith(basic("/x"), ({ url, headers }) => {
      if (url.pathname === "/x") return new Response(headers.has("authorization") ? "leak" : TAR);
      return url.pathname.endsWith(LAYER) ? redirect(location) : undefined;
    });
    world.login(login);
    // From plain HTTP a redirect may lead to plain HTTP.
    const isPlain = location.startsWith("http:");
    expect(await pull(world.open({ insecureRegistries: isPlain ? ["r.example"] : [] }), "r.example/app:1")).toEqual([TAR]);
  });

  it.each<readonly [string, string, RegExp]>([
    ["to plain HTTP", "http://cdn.example/x", /from https:\/\/ to http:\/\//],
    ["to a file", "file:///etc/passwd", /to file:\/\//],
    ["to data", "data:text/plain,x", /to data:\/\//],
    ["with a password", "https://a:b@cdn.example/", /user name or password/],
    ["to nowhere", "", /redirects/],
    ["to no URL", "https://", /without a usable Location/],
    ["that are too long", `https://cdn.example/${"x".repeat(9000)}`, /without a usable Location/],
  ])("%s are refused", async (_, location, message) => {
    const world = await worldWith((request) => (isManifest(request) ? redirect(location) : undefined));
    const error = await failureOf(world.open().resolve("r.example/app:1"));
    expect(error.code).toBe("ERR_OCI_REGISTRY");
    expect(error.message).toMatch(message);
    expect(new Set(world.requests.map(({ url }) => url.host))).toEqual(new Set(["r.example"]));
  });

  it("without an end are left after the fifth", async () => {
    const world = await worldWith(({ url }) => redirect(`${url.pathname}x`));
    const error = await failureOf(world.open().resolve("r.example/app:1"));
    expect(error).toMatchObject({ code: "ERR_OCI_REGISTRY", message: expect.stringContaining("more than 5 redirects") as string });
    expect(world.requests).toHaveLength(6);
  });

  it("to a host that refuses are errors without the signature, and no reason to log in", async () => {
    const world = await worldWith((request) => {
      if (request.url.host === "cdn.example") return errorReply(401, "Expired", "", { "www-authenticate": 'Bearer realm="https://evil.example/"' });
      return isBlob(request) ? redirect("https://cdn.example/x?signature=s3cr3t") : undefined;
    });
    world.login(login);
    const error = await failureOf(pull(world.open(), "r.example/app:1"));
    expect(error.code).toBe("ERR_OCI_REGISTRY");
    expect(error.message).toContain("answered https://cdn.example/x with status 401 (Expired)");
    expect(error.message).not.toContain("s3cr3t");
    expect(world.requests.some(({ url }) => url.host === "evil.example")).toBe(false);
  });
});

describe("repetitions", () => {
  it.each([408, 429, 500, 502, 503, 504])("follow status %i, with growing pauses", async (status) => {
    const fault: Handler = () => errorReply(status, "TOOMANYREQUESTS", "slow down");
    const world = await worldWith(inTurn(isManifest, fault, fault, fault));
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    expect(world.pauses).toEqual([375, 750, 1500]);
  });

  it.each<readonly [string, readonly number[]]>([
    ["7", [7000]],
    ["Sun, 01 Mar 2026 12:00:20 GMT", [20_000]],
    ["86400", [60_000]],
    ["soon", [375]],
  ])("wait as Retry-After %j says, within reason", async (retryAfter, pauses) => {
    const world = await worldWith(inTurn(isManifest, () => errorReply(429, "TOOMANYREQUESTS", "", { "retry-after": retryAfter })));
    await world.open().resolve("r.example/app:1");
    expect(world.pauses).toEqual(pauses);
  });

  it.each(["ECONNREFUSED", "ECONNRESET", "EAI_AGAIN", "UND_ERR_SOCKET", "ETIMEDOUT"])("follow %s", async (code) => {
    const world = await worldWith(inTurn(isManifest, () => Promise.reject(fetchError(code, `${code} happened`))));
    await world.open().resolve("r.example/app:1");
    expect(world.pauses).toEqual([375]);
    expect(world.logs.map(({ text }) => text)).toEqual([expect.stringContaining(`${code} happened; next attempt in 0.4 s`)]);
  });

  it("end after five", async () => {
    const world = await worldWith(() => errorReply(503, "UNAVAILABLE", "try later"));
    const error = await failureOf(world.open().resolve("r.example/app:1"));
    expect(error).toMatchObject({ code: "ERR_OCI_UNREACHABLE", details: { registry: "r.example", status: 503 } });
    expect(error.message).toBe(
      "image r.example/app:1: registry r.example answered https://r.example/v2/app/manifests/1 with status 503 (UNAVAILABLE: try later)",
    );
    expect(world.pauses).toEqual([375, 750, 1500, 3000, 6000]);
    expect(world.requests).toHaveLength(6);
  });

  it.each<readonly [number, string]>([
    [400, "ERR_OCI_REGISTRY"],
    [403, "ERR_OCI_AUTH"],
    [404, "ERR_OCI_NOT_FOUND"],
    [416, "ERR_OCI_REGISTRY"],
    [204, "ERR_OCI_REGISTRY"],
    [501, "ERR_OCI_UNREACHABLE"],
  ])("do not follow status %i", async (status, code) => {
    const world = await worldWith(() => new Response(null, { status }));
    expect((await failureOf(world.open().resolve("r.example/app:1"))).code).toBe(code);
    expect(world.requests).toHaveLength(1);
  });

  it.each<readonly [string, string, RegExp]>([
    ["SELF_SIGNED_CERT_IN_CHAIN", "self-signed certificate in certificate chain", /NODE_EXTRA_CA_CERTS.*SSL_CERT_FILE.*--insecure-registry r\.example:5000/],
    ["UNABLE_TO_VERIFY_LEAF_SIGNATURE", "unable to verify the first certificate", /NODE_EXTRA_CA_CERTS/],
    ["CERT_HAS_EXPIRED", "certificate has expired", /NODE_EXTRA_CA_CERTS/],
    ["ERR_TLS_CERT_ALTNAME_INVALID", "Hostname/IP does not match", /NODE_EXTRA_CA_CERTS/],
    ["ERR_SSL_WRONG_VERSION_NUMBER", "wrong version number", /--insecure-registry r\.example:5000/],
    ["", "bad port", /Run the registry at another port/],
    ["ENOTFOUND", "getaddrinfo ENOTFOUND r.example", /Check the registry's name/],
  ])("do not follow %s, which has a remedy", async (code, message, hint) => {
    const world = await worldWith(() => Promise.reject(fetchError(code, message)));
    const error = await failureOf(world.open().resolve("r.example:5000/app:1"));
    expect(error).toMatchObject({ code: "ERR_OCI_UNREACHABLE", hint: expect.stringMatching(hint) as string });
    expect(error.message).toContain(`cannot be reached at https://r.example:5000/v2/app/manifests/1: ${message}`);
    expect(world.requests).toHaveLength(1);
  });

  it("follow a server that says nothing", async () => {
    const world = await worldWith(inTurn(isManifest, (request): Promise<Response> => world.hang(request)));
    await world.open().resolve("r.example/app:1");
    expect(world.logs.map(({ text }) => text)).toEqual([expect.stringContaining(`nothing came for ${STALL_TIMEOUT / 1000} s; next attempt`)]);
  });

  it("follow a document that is cut off", async () => {
    const cut: Handler = (request) => {
      const whole = world.serve(request);
      return new Response(world.brokenBody(new Uint8Array(10), "close"), { headers: whole.headers });
    };
    const broken: Handler = (request) => new Response(world.brokenBody(new Uint8Array(10), "error"), { headers: world.serve(request).headers });
    const world = await worldWith(inTurn(isManifest, cut, broken));
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    expect(world.pauses).toEqual([375, 750]);
    world.handlers.push((request) => (isManifest(request) ? cut(request) : undefined));
    const error = await failureOf(world.open().resolve("r.example/app:1"));
    expect(error).toMatchObject({ code: "ERR_OCI_UNREACHABLE", message: expect.stringContaining("closed after 10 of") as string });
  });
});

describe("downloads", () => {
  /** Gives the blob up to a position, then breaks. */
  const cutAt =
    (world: () => World, position: number, how: "error" | "close" = "error"): Handler =>
    (request) => {
      const first = Number(/^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
      const headers = first === 0 ? { "content-length": String(SIZE) } : { "content-range": `bytes ${first}-${SIZE - 1}/${SIZE}` };
      return new Response(world().brokenBody(TAR.subarray(first, position), how), { status: first === 0 ? 200 : 206, headers });
    };

  it.each(["error", "close"] as const)("that break (%s) are resumed where they stopped", async (how) => {
    for (const position of [1, 511, 999, 1000, 1001, 10_000, SIZE - 1]) {
      const world = await worldWith(
        inTurn(
          isBlob,
          cutAt(() => world, position, how),
        ),
      );
      expect(await pull(world.open(), "r.example/app:1"), `cut at ${position}`).toEqual([TAR]);
      expect(rangesOf(world)).toEqual([null, `bytes=${position}-`]);
      expect(world.pauses).toEqual([375]);
    }
  });

  it("that break before the first byte begin anew", async () => {
    const world = await worldWith(
      inTurn(
        isBlob,
        cutAt(() => world, 0),
      ),
    );
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    expect(rangesOf(world)).toEqual([null, null]);
  });

  it("that have all bytes are done, however the connection ends", async () => {
    const world = await worldWith(
      inTurn(
        isBlob,
        cutAt(() => world, SIZE),
      ),
    );
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    expect(rangesOf(world)).toEqual([null]);
  });

  it("resume as often as there is progress, at any positions", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.integer({ min: 1, max: SIZE - 1 }), { maxLength: 12 }),
        fc.integer({ min: 100, max: 3000 }),
        async (positions, chunk) => {
          const sorted = positions.toSorted((a, b) => a - b);
          const world = await worldWith(inTurn(isBlob, ...sorted.map((position) => cutAt(() => world, position))));
          world.chunk = chunk;
          expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
          expect(rangesOf(world)).toEqual([null, ...sorted.map((position) => `bytes=${position}-`)]);
        },
      ),
      { seed: 21, numRuns: 50 },
    );
  });

  it("pass over what they have when the server sends all again", async () => {
    for (const position of [1, 1000, 1500, SIZE - 1]) {
      const world = await worldWith(
        inTurn(
          isBlob,
          cutAt(() => world, position),
          () => new Response(world.brokenBody(TAR, "close"), { headers: { "content-length": String(SIZE) } }),
        ),
      );
      expect(await pull(world.open(), "r.example/app:1"), `cut at ${position}`).toEqual([TAR]);
    }
  });

  it("end after five connections that bring nothing", async () => {
    const world = await worldWith((request) => (isBlob(request) ? cutAt(() => world, 1500)(request) : undefined));
    const error = await failureOf(pull(world.open(), "r.example/app:1"));
    expect(error).toMatchObject({
      code: "ERR_OCI_UNREACHABLE",
      message: expect.stringContaining(`other side closed (UND_ERR_SOCKET) after 1500 of ${SIZE} bytes`) as string,
    });
    expect(rangesOf(world)).toEqual([null, ...Array.from({ length: 6 }, () => "bytes=1500-")]);
  });

  it("end although each connection brings a byte", async () => {
    let given = 0;
    const world = await worldWith((request) => (isBlob(request) ? cutAt(() => world, ++given)(request) : undefined));
    const error = await failureOf(pull(world.open(), "r.example/app:1"));
    expect(error.message).toContain(`after 513 of ${SIZE} bytes`);
    expect(given).toBe(513);
  });

  it("that hang are resumed too", async () => {
    const world = await worldWith(
      inTurn(isBlob, () => new Response(world.brokenBody(TAR.subarray(0, 3000), "hang"), { headers: { "content-length": String(SIZE) } })),
    );
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    expect(rangesOf(world)).toEqual([null, "bytes=3000-"]);
    expect(world.logs.map(({ text }) => text)).toEqual([expect.stringContaining(`nothing came for ${STALL_TIMEOUT / 1000} s after 3000 of ${SIZE} bytes`)]);
  });

  it("do not hold it against the server when the reader is slow", async () => {
    const world = await worldWith();
    const source = world.open();
    const { layers } = await source.resolve("r.example/app:1");
    const parts: Uint8Array[] = [];
    for await (const part of source.layerBlob(layers[0] as Layer)) {
      parts.push(part);
      for (let i = 0; i < 3; i++) {
        world.passTimeLimits();
        await new Promise<void>((resolve) => void setImmediate(resolve));
      }
    }
    expect(digestOf(Buffer.concat(parts))).toBe(LAYER);
    expect(world.logs).toEqual([]);
  });

  it("count the time limit from the last byte", async () => {
    const world = await worldWith(
      inTurn(isBlob, () => {
        let at = 0;
        const body = new ReadableStream<Uint8Array>(
          {
            async pull(controller) {
              // Each piece comes after a limit that began before the one in front of it.
              if (at > 0) world.passTimeLimits();
              await new Promise<void>((resolve) => void setImmediate(resolve));
              controller.enqueue(TAR.subarray(at, (at += 5000)));
              if (at === SIZE) controller.close();
            },
          },
          { highWaterMark: 0 },
        );
        return new Response(body);
      }),
    );
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    expect(world.logs).toEqual([]);
  });

  it("log in again when the token has run out in the middle", async () => {
    let token = 1;
    const bearer: Handler = ({ url, headers }) => {
      if (url.host === "auth.example") return Response.json({ token: `${SECRETS.accessToken}${token}` });
      if (headers.get("authorization") === `Bearer ${SECRETS.accessToken}${token}`) return undefined;
      return errorReply(401, "UNAUTHORIZED", "", { "www-authenticate": 'Bearer realm="https://auth.example/"' });
    };
    const world = await worldWith(
      bearer,
      inTurn(isBlob, (request) => {
        token++;
        return cutAt(() => world, 5000)(request);
      }),
    );
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    expect(world.requests.slice(-3).map(({ url }) => url.host)).toEqual(["r.example", "auth.example", "r.example"]);
  });

  const ranged =
    (range: string | undefined, bytes = TAR.subarray(1500)): Handler =>
    () =>
      new Response(bytes, { status: 206, headers: range === undefined ? {} : { "content-range": range } });
  it.each<readonly [string, Handler, string, RegExp]>([
    ["no Content-Range", ranged(undefined), "ERR_OCI_REGISTRY", /status 206/],
    ["another unit", ranged("items 1500-19999/20000"), "ERR_OCI_REGISTRY", /status 206/],
    ["a range that ends before it begins", ranged("bytes 1500-1499/20000"), "ERR_OCI_REGISTRY", /status 206/],
    ["another beginning", ranged("bytes 1000-19999/20000"), "ERR_OCI_MISMATCH", /sent the range 1000-19999, asked for 1500-19999/],
    ["a later beginning", ranged("bytes 1501-19999/20000"), "ERR_OCI_MISMATCH", /sent the range 1501-19999/],
    ["an end behind the blob's", ranged("bytes 1500-20000/*"), "ERR_OCI_MISMATCH", /sent the range 1500-20000/],
    ["another size", ranged("bytes 1500-20999/21000"), "ERR_OCI_MISMATCH", /has 21000 bytes now, expected 20000/],
    ["more bytes than it says", ranged("bytes 1500-19999/20000", TAR), "ERR_OCI_MISMATCH", /more than the 20000 bytes/],
    ["other bytes", ranged("bytes 1500-19999/20000", TAR.slice(0, SIZE - 1500)), "ERR_OCI_MISMATCH", /blob has digest/],
    ["a range that it cannot give", () => new Response(null, { status: 416 }), "ERR_OCI_REGISTRY", /status 416/],
    ["all of another size", () => new Response(TAR, { headers: { "content-length": "20001" } }), "ERR_OCI_MISMATCH", /has 20001 bytes, expected 20000/],
  ])("refuse, as the answer to a Range, %s", async (_, answer, code, message) => {
    const world = await worldWith(
      inTurn(
        isBlob,
        cutAt(() => world, 1500),
        answer,
      ),
    );
    const error = await failureOf(pull(world.open(), "r.example/app:1"));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  it("take a range of unknown whole, and one that ends early", async () => {
    const world = await worldWith(
      inTurn(
        isBlob,
        cutAt(() => world, 1500),
        ranged("bytes 1500-19999/*", TAR.subarray(1500, 1600)),
        ranged("bytes 1600-1699/20000", TAR.subarray(1600, 1700)),
      ),
    );
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
    expect(rangesOf(world)).toEqual([null, "bytes=1500-", "bytes=1600-", "bytes=1700-"]);
  });

  it.each<readonly [string, () => Response, string]>([
    ["another length", () => new Response(TAR, { headers: { "content-length": "5" } }), "ERR_OCI_MISMATCH"],
    ["more bytes", () => new Response(new Uint8Array(SIZE + 1)), "ERR_OCI_MISMATCH"],
    ["other bytes", () => new Response(new Uint8Array(SIZE)), "ERR_OCI_MISMATCH"],
    ["another digest by its own word", () => new Response(TAR, { headers: { "docker-content-digest": `sha256:${"0".repeat(64)}` } }), "ERR_OCI_MISMATCH"],
    [
      "a part that was not asked for",
      () => new Response(TAR, { status: 206, headers: { "content-range": `bytes 0-${SIZE - 1}/${SIZE}` } }),
      "ERR_OCI_REGISTRY",
    ],
  ])("refuse %s", async (_, answer, code) => {
    const world = await worldWith((request) => (isBlob(request) ? answer() : undefined));
    expect((await failureOf(pull(world.open(), "r.example/app:1"))).code).toBe(code);
  });

  it("take a length that is of the packed body for what it is", async () => {
    // fetch unpacks what a server packs against our wish, and leaves the headers as they were.
    const world = await worldWith((request) =>
      isBlob(request) ? new Response(TAR, { headers: { "content-length": "77", "content-encoding": "gzip" } }) : undefined,
    );
    expect(await pull(world.open(), "r.example/app:1")).toEqual([TAR]);
  });

  it("free the connection when no one reads on, or something is wrong", async () => {
    let cancelled = 0;
    const endless = (): ReadableStream<Uint8Array> =>
      new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(100)), cancel: () => void cancelled++ }, { highWaterMark: 0 });
    let status = 200;
    const world = await worldWith((request) => (isBlob(request) ? new Response(endless(), { status }) : undefined));
    const source = world.open({ retries: 0 });
    const { layers } = await source.resolve("r.example/app:1");
    const layer = layers[0] as Layer;
    for await (const _ of source.layerBlob(layer)) break;
    expect(cancelled).toBe(1);
    for (const [i, refused] of [204 + 199, 503, 302].entries()) {
      status = refused;
      await failureOf(collect(source.layerBlob(layer)));
      expect(cancelled, `status ${refused}`).toBe(2 + i);
    }
    status = 200;
    await failureOf(collect(source.layerBlob(layer)));
    expect(cancelled).toBe(5);
  });

  it("refuse a layer of an image that was not resolved", async () => {
    const world = await worldWith();
    const layer = { digest: LAYER, size: SIZE, mediaType: "application/vnd.oci.image.layer.v1.tar", diffId: LAYER };
    expect(await failureOf(collect(world.open().layerTar(layer)))).toMatchObject({ code: "ERR_OCI_NOT_FOUND" });
    expect(world.requests).toEqual([]);
  });
});
