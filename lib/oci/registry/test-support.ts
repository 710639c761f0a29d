import { encodeUtf8, isSealpodError, type LogLevel, type SealpodError } from "@sealpod/core";
import { expect } from "vitest";
import { blobPath, digestOf } from "../digest.ts";
import type { Image, ImageSource, Layer } from "../image.ts";
import { LayoutWriter } from "../layout-writer.ts";
import { MEDIA_TYPES } from "../media-types.ts";
import { collect, inPieces, memoryLayout } from "../testdata/layouts.ts";
import { openRegistry, type CredentialHelperResult, type RegistryOptions, type RegistryPorts } from "./index.ts";

/** Registries in memory behind the fetch port, and all other ports with a record of what was asked of them. */

/** Everything that must never be seen outside of a request. */
export const SECRETS = {
  password: "correct-horse-battery",
  refreshToken: "refresh.tooooken.value",
  registryToken: "registry.tooooken.value",
  accessToken: "access.tooooken.value",
} as const;

export const CONFIG_PATH = "/home/user/.docker/config.json";
export const STALL_TIMEOUT = 77_777;

/** A request as a server sees it. */
export interface SeenRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: Headers;
  readonly body: string;
  readonly signal: AbortSignal | undefined;
}

/** Answers a request, or leaves it to the next one. */
export type Handler = (request: SeenRequest) => Response | Promise<Response> | undefined;

/** What is served for one manifest. */
export interface Document {
  readonly mediaType: string | undefined;
  readonly bytes: Uint8Array;
}

/** The network, with one repository `app` on every host that is not handled otherwise. */
export class World {
  readonly requests: SeenRequest[] = [];
  readonly logs: { readonly level: LogLevel; readonly text: string }[] = [];
  readonly pauses: number[] = [];
  readonly helperCalls: string[] = [];
  readonly files: Map<string, Uint8Array | Error> = new Map();
  readonly documents: Map<string, Document> = new Map();
  readonly blobs: Map<string, Uint8Array> = new Map();
  /** Asked first, in order. */
  readonly handlers: Handler[] = [];
  helper: (name: string, server: string) => CredentialHelperResult | Error = () => new Error("no helper");
  now: number = Date.parse("2026-03-01T12:00:00Z");
  /** Bytes per chunk of a body. */
  chunk = 1000;
  /** Time limits that run, and connections that hang and have not been given up. */
  readonly #limits = new Set<() => void>();
  #hangs = 0;

  readonly ports: RegistryPorts = {
    fetch: (url, init) => this.#fetch(url, init),
    readFile: (path, limit) => {
      const found = this.files.get(path);
      if (found instanceof Error || (found?.length ?? 0) > limit) return Promise.reject(found instanceof Error ? found : new Error("too large"));
      return Promise.resolve(found);
    },
    runCredentialHelper: (name, server) => {
      this.helperCalls.push(`${name} ${server}`);
      const result = this.helper(name, server);
      return result instanceof Error ? Promise.reject(result) : Promise.resolve(result);
    },
    sleep: (ms, signal) => {
      if (ms !== STALL_TIMEOUT) {
        this.pauses.push(ms);
        this.now += ms;
        return Promise.resolve();
      }
      // The time limit passes when a server hangs, and never otherwise.
      if (this.#hangs > 0) return Promise.resolve();
      return new Promise<void>((resolve) => {
        this.#limits.add(resolve);
        signal.addEventListener("abort", () => (this.#limits.delete(resolve), resolve()), { once: true });
      });
    },
    clock: { now: () => this.now },
    // The middle of the range: pauses are three quarters of the full ones.
    random: { bytes: (length) => new Uint8Array(length).map((_, i) => (i === 0 ? 128 : 0)) },
    logger: { log: (level, message, fields) => void this.logs.push({ level, text: `${message} ${JSON.stringify(fields ?? {})}` }) },
  };

  open(options: RegistryOptions = {}): ImageSource {
    return openRegistry({ stallTimeout: STALL_TIMEOUT, dockerConfig: CONFIG_PATH, ...options }, this.ports);
  }

  /** Publishes a layout's images under all hosts, as `app:1` and by digest. @returns digest of the manifest */
  async publish(tars: readonly Uint8Array[], reference = "r.example/app:1"): Promise<string> {
    const store = memoryLayout();
    const writer = new LayoutWriter(store);
    const layers: Layer[] = [];
    for (const tar of tars) layers.push(await writer.addLayer(inPieces(tar, 4000), { compression: "none" }));
    const config = { user: "", env: ["A=b"], entrypoint: ["/app"], cmd: [], workingDir: "" };
    const digest = await writer.addImage(reference, { config, layers });
    await writer.finish();
    for (const bytes of store.files.values()) this.blobs.set(digestOf(bytes), bytes);
    const bytes = store.files.get(blobPath(digest)) ?? new Uint8Array();
    this.document("1", { mediaType: MEDIA_TYPES.manifest, bytes });
    return digest;
  }

  /** Puts a document under a tag and its digest. @returns the digest */
  document(tag: string, document: Document): string {
    const digest = digestOf(document.bytes);
    this.documents.set(tag, document);
    this.documents.set(digest, document);
    return digest;
  }

  /** Docker's configuration file. */
  login(config: object): void {
    this.files.set(CONFIG_PATH, encodeUtf8(JSON.stringify(config)));
  }

  /** `METHOD host/path` of each request, so far. */
  get trail(): readonly string[] {
    return this.requests.map(({ method, url }) => `${method} ${url.host}${url.pathname}`);
  }

  /** Fails the test if a secret got into the logs. */
  checkLogs(): void {
    for (const { text } of this.logs) expectNoSecret(text);
  }

  /** A body that gives some bytes and then breaks (`error`), stops (`close`) or hangs (`hang`). */
  brokenBody(bytes: Uint8Array, how: "error" | "close" | "hang"): ReadableStream<Uint8Array> {
    let at = 0;
    return new ReadableStream<Uint8Array>(
      {
        pull: (controller) => {
          if (at < bytes.length) controller.enqueue(bytes.slice(at, (at += this.chunk)));
          else if (how === "close") controller.close();
          else if (how === "error")
            controller.error(new TypeError("terminated", { cause: Object.assign(new Error("other side closed"), { code: "UND_ERR_SOCKET" }) }));
          else {
            this.#hang();
            return new Promise<void>(() => undefined);
          }
          return undefined;
        },
        cancel: () => {
          if (how === "hang") this.#hangs--;
        },
      },
      { highWaterMark: 0 },
    );
  }

  /** An answer that never comes. */
  hang({ signal }: SeenRequest): Promise<Response> {
    this.#hang();
    return new Promise<Response>((_, reject) => {
      signal?.addEventListener("abort", () => {
        this.#hangs--;
        reject(new Error("aborted"));
      });
    });
  }

  /** Lets the time limits that run pass. */
  passTimeLimits(): void {
    for (const pass of this.#limits) pass();
    this.#limits.clear();
  }

  #hang(): void {
    this.#hangs++;
    this.passTimeLimits();
  }

  async #fetch(href: string, init: RequestInit): Promise<Response> {
    expect(init.redirect).toBe("manual");
    const request = {
      method: init.method ?? "GET",
      url: new URL(href),
      headers: new Headers(init.headers),
      body: typeof init.body === "string" ? init.body : "",
      signal: init.signal ?? undefined,
    };
    this.requests.push(request);
    expect(request.headers.get("accept-encoding")).toBe("identity");
    await Promise.resolve();
    for (const handler of this.handlers) {
      const response = await handler(request);
      if (response !== undefined) return response;
    }
    return this.serve(request);
  }

  /** What a registry without faults answers, ranges included. */
  serve({ url, headers }: SeenRequest): Response {
    const [, kind, name] = /^\/v2\/(?:[a-z0-9/]+)\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname) ?? [];
    if (kind === "manifests") {
      const document = this.documents.get(name ?? "");
      if (document === undefined) return errorReply(404, "MANIFEST_UNKNOWN", "manifest unknown");
      return new Response(this.brokenBody(document.bytes, "close"), {
        headers: {
          "content-length": String(document.bytes.length),
          "docker-content-digest": digestOf(document.bytes),
          ...(document.mediaType === undefined ? {} : { "content-type": document.mediaType }),
        },
      });
    }
    const blob = this.blobs.get(name ?? "");
    if (blob === undefined) return errorReply(404, "BLOB_UNKNOWN", "blob unknown to registry");
    const first = Number(/^bytes=(\d+)-$/.exec(headers.get("range") ?? "")?.[1] ?? 0);
    if (first === 0) return new Response(this.brokenBody(blob, "close"), { headers: { "content-length": String(blob.length) } });
    return new Response(this.brokenBody(blob.subarray(first), "close"), {
      status: 206,
      headers: { "content-range": `bytes ${first}-${blob.length - 1}/${blob.length}` },
    });
  }
}

export function errorReply(status: number, code: string, message: string, headers: Readonly<Record<string, string>> = {}): Response {
  return new Response(JSON.stringify({ errors: [{ code, message, detail: null }] }), { status, headers: { "content-type": "application/json", ...headers } });
}

/** An error as fetch throws it. */
export function fetchError(code: string, message: string): TypeError {
  return new TypeError("fetch failed", { cause: Object.assign(new Error(message), { code }) });
}

/** Everything of an image: its layers' tars. */
export async function pull(source: ImageSource, reference: string): Promise<readonly Uint8Array[]> {
  const image: Image = await source.resolve(reference);
  const tars: Uint8Array[] = [];
  for (const layer of image.layers) tars.push(await collect(source.layerTar(layer)));
  return tars;
}

/** The error of a promise that must fail; fails the test if it holds a secret anywhere. */
export async function failureOf(promise: Promise<unknown>): Promise<SealpodError> {
  try {
    await promise;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
      const { hint, details } = cause as Partial<SealpodError>;
      expectNoSecret(`${cause.message}\n${cause.stack ?? ""}\n${hint ?? ""}\n${JSON.stringify(details ?? {})}`);
    }
    return error;
  }
  throw new Error("expected an error");
}

function expectNoSecret(text: string): void {
  for (const secret of Object.values(SECRETS)) {
    expect(text).not.toContain(secret);
    expect(text).not.toContain(Buffer.from(secret).toString("base64").replace(/=+$/, ""));
    expect(text).not.toContain(Buffer.from(`user:${secret}`).toString("base64"));
  }
}
