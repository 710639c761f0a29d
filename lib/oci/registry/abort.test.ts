import { OciError } from "../errors.ts";
import { describe, expect, it } from "vitest";
import { digestOf } from "../digest.ts";
import type { ImageSource, Layer } from "../image.ts";
import { collect } from "../testdata/layouts.ts";
import { openRegistry } from "./index.ts";
import { SharedWork } from "./shared-work.ts";
import { errorReply, fetchError, SECRETS, STALL_TIMEOUT, World, type Handler, type SeenRequest } from "./test-support.ts";

/** Signals that end what the client does. None of these tests lets a time limit pass. */

const TAR = new Uint8Array(20_000).map((_, i) => (i * i) >> 7);
const LAYER = digestOf(TAR);
// Of this package's own class, and with the code that makes sources ask elsewhere: a reason must come out all the same.
const REASON = new OciError("ERR_OCI_NOT_FOUND", "enough");
const isManifest = ({ url }: SeenRequest): boolean => url.pathname.includes("/manifests/");
const isBlob = ({ url }: SeenRequest): boolean => url.pathname.endsWith(`/blobs/${LAYER}`);
const bearer = { "www-authenticate": 'Bearer realm="https://auth.example/"' };
const mirrors = new Map([["r.example", ["one.example"]]]);

async function worldWith(...handlers: readonly Handler[]): Promise<World> {
  const world = new World();
  await world.publish([TAR]);
  world.handlers.push(...handlers);
  return world;
}

/** A network on which no time limit passes. */
function patient(world: World, options: { readonly signal?: AbortSignal; readonly isPausing?: () => void } = {}): ImageSource {
  const { signal, isPausing } = options;
  return openRegistry(
    { stallTimeout: STALL_TIMEOUT, mirrors, dockerConfig: "/config.json", ...(signal === undefined ? {} : { signal }) },
    {
      ...world.ports,
      sleep: async (ms) => {
        if (ms !== STALL_TIMEOUT) isPausing?.();
        return new Promise<never>(() => undefined);
      },
    },
  );
}

/** Never answers, and does not look at its signal. */
const never = async (): Promise<Response> => new Promise<Response>(() => undefined);

describe.each(["the client", "the call"])("a signal of %s", (whose) => {
  const start = (
    world: World,
    isPausing?: () => void,
  ): { stop: AbortController; resolve: () => Promise<unknown>; source: ImageSource; signal: AbortSignal } => {
    const stop = new AbortController();
    const isClients = whose === "the client";
    const signal = isClients ? new AbortController().signal : stop.signal;
    const source = patient(world, { ...(isClients ? { signal: stop.signal } : {}), ...(isPausing === undefined ? {} : { isPausing }) });
    return { stop, source, signal, resolve: async () => source.resolve("r.example/app:1", signal) };
  };

  it.each<readonly [string, (request: SeenRequest) => boolean, Handler]>([
    ["an answer", isManifest, never],
    ["a document", isManifest, (): Response => new Response(new ReadableStream({ pull: never as never }))],
    ["an error document", isManifest, (): Response => new Response(new ReadableStream({ pull: never as never }), { status: 403 })],
    ["a token", ({ url }) => url.host === "auth.example", never],
    ["a token document", ({ url }) => url.host === "auth.example", (): Response => new Response(new ReadableStream({ pull: never as never }))],
  ])("ends the waiting for %s", async (_, matches, answer) => {
    let isAsked: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => (isAsked = resolve));
    const world = await worldWith((request) => {
      if (matches(request)) {
        isAsked();
        return answer(request);
      }
      return errorReply(401, "UNAUTHORIZED", "", bearer);
    });
    const { stop, resolve } = start(world);
    const failure = expect(resolve()).rejects.toBe(REASON);
    await asked;
    await new Promise(setImmediate);
    stop.abort(REASON);
    await failure;
    const requests = world.requests.length;
    await new Promise(setImmediate);
    expect(world.requests, "nothing more is asked").toHaveLength(requests);
    expect(world.requests.at(-1)?.signal?.aborted).toBe(true);
    // Later calls of the same source.
    await expect(resolve()).rejects.toBe(REASON);
    expect(world.requests).toHaveLength(requests);
  });

  it("ends a pause", async () => {
    const world = await worldWith(() => errorReply(503, "UNAVAILABLE", ""));
    const { stop, resolve } = start(world, () => stop.abort(REASON));
    await expect(resolve()).rejects.toBe(REASON);
    expect(world.requests).toHaveLength(1);
  });

  it("ends a layer in the middle, and frees the connection", async () => {
    let cancelled = 0;
    let pulled = 0;
    const world = await worldWith((request) => {
      if (!isBlob(request)) return undefined;
      const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
        if (pulled++ === 0) controller.enqueue(TAR.subarray(0, 100));
        else await new Promise(() => undefined);
      };
      return new Response(new ReadableStream({ pull, cancel: () => void cancelled++ }, { highWaterMark: 0 }));
    });
    const { stop, source, signal } = start(world);
    const { layers } = await source.resolve("r.example/app:1", signal);
    const blob = source.layerBlob(layers[0] as Layer, signal)[Symbol.asyncIterator]();
    expect((await blob.next()).value).toHaveLength(100);
    const failure = expect(blob.next()).rejects.toBe(REASON);
    await new Promise(setImmediate);
    stop.abort(REASON);
    await failure;
    expect([cancelled, world.requests.filter(isBlob).length]).toEqual([1, 1]);
    await expect(collect(source.layerBlob(layers[0] as Layer, signal))).rejects.toBe(REASON);
  });
});

describe("tokens that several wait for", () => {
  it("are fetched for the others when one gives up", async () => {
    const token = Promise.withResolvers<Response>();
    let isAsked: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => (isAsked = resolve));
    const world = await worldWith(({ url, headers }) => {
      if (url.host !== "auth.example") return headers.has("authorization") ? undefined : errorReply(401, "UNAUTHORIZED", "", bearer);
      isAsked();
      return token.promise;
    });
    const source = openRegistry({ stallTimeout: STALL_TIMEOUT }, world.ports);
    const stop = new AbortController();
    const one = expect(source.resolve("r.example/app:1", stop.signal)).rejects.toBe(REASON);
    const other = source.resolve("r.example/app:1");
    await asked;
    await new Promise(setImmediate);
    stop.abort(REASON);
    await one;
    token.resolve(Response.json({ token: SECRETS.accessToken }));
    expect((await other).layers).toHaveLength(1);
    expect(world.requests.filter(({ url }) => url.host === "auth.example")).toHaveLength(1);
  });
});

describe("SharedWork", () => {
  it("begins once, and is stopped when the last has given up", async () => {
    let begun = 0;
    const work = new SharedWork(async (signal) => {
      begun++;
      return new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));
    });
    const stops = [new AbortController(), new AbortController()];
    const waiting = stops.map(async ({ signal }) => work.wait(signal));
    const ends = Promise.allSettled(waiting);
    stops[0]?.abort(REASON);
    await expect(waiting[0]).rejects.toBe(REASON);
    expect([begun, work.isStopped]).toEqual([1, false]);
    stops[1]?.abort(REASON);
    await ends;
    expect([begun, work.isStopped]).toEqual([1, true]);
  });
});

describe("hosts where nobody is", () => {
  it.each(["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EAI_AGAIN"])("(%s) are tried twice", async (code) => {
    const world = await worldWith(async () => Promise.reject(fetchError(code, `${code} happened`)));
    await expect(world.open().resolve("r.example/app:1")).rejects.toMatchObject({ code: "ERR_OCI_UNREACHABLE" });
    expect(world.pauses).toEqual([375]);
    expect(world.requests).toHaveLength(2);
  });
});
