import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { constants, createServer } from "node:http2";
import type { Http2Server, IncomingHttpHeaders, ServerHttp2Session, ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8 } from "@sealpod/core";
import { blobPath, LayoutWriter } from "@sealpod/oci";
import type { ImageSpec, Layer, LayoutStore } from "@sealpod/oci";
import {
  containersApi,
  contentApi,
  criApi,
  encodeMessage,
  eventsApi,
  imagesApi,
  introspectionApi,
  namespacesApi,
  parseMessage,
  snapshotsApi,
  versionApi,
} from "@sealpod/proto";
import type { DescMessage, MessageInitShape, MessageShape } from "@sealpod/proto";
import { encodeTar } from "@sealpod/verity";

/** One call at the fake server. */
export class Call {
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  readonly #socket: Socket | undefined;
  readonly #body: Uint8Array;
  #written: Promise<void> = Promise.resolve();

  constructor(stream: ServerHttp2Stream, socket: Socket | undefined, headers: IncomingHttpHeaders, body: Uint8Array) {
    this.stream = stream;
    this.#socket = socket;
    this.headers = headers;
    this.#body = body;
  }

  request<D extends DescMessage>(schema: D): MessageShape<D> {
    return parseMessage(schema, this.#body.subarray(5));
  }

  /** Begins the answer. */
  respond(headers: Record<string, string | number> = { ":status": 200, "content-type": "application/grpc" }): void {
    this.stream.respond(headers, { waitForTrailers: true });
  }

  send<D extends DescMessage>(schema: D, message: MessageInitShape<D>): void {
    this.sendFrame(encodeMessage(schema, message));
  }

  /** A message with its prefix; `length` and `flag` can lie. */
  sendFrame(bytes: Uint8Array, { length = bytes.length, flag = 0 }: { readonly length?: number; readonly flag?: number } = {}): void {
    if (!this.stream.headersSent) this.respond();
    const prefix = Buffer.alloc(5);
    prefix.writeUInt8(flag);
    prefix.writeUInt32BE(length, 1);
    this.#written = new Promise((resolve) => this.stream.write(Buffer.concat([prefix, bytes]), () => resolve()));
  }

  /** Ends the answer with a status. */
  end(status: number | string = 0, message = ""): void {
    const trailers = { "grpc-status": String(status), ...(message === "" ? {} : { "grpc-message": encodeURIComponent(message) }) };
    if (!this.stream.headersSent) {
      this.stream.respond({ ":status": 200, "content-type": "application/grpc", ...trailers }, { endStream: true });
      return;
    }
    this.stream.on("wantTrailers", () => this.stream.sendTrailers(trailers));
    this.stream.end();
  }

  /** Ends the whole connection when what was sent has left; the client may have taken less. */
  cut(): void {
    void this.#written.then(() => this.#socket?.destroy());
  }
}

/** What a method does. */
export type Handler = (call: Call) => void;

/** Full names of the methods. */
export const METHODS = {
  pull: "runtime.v1.ImageService/PullImage",
  status: "runtime.v1.ImageService/ImageStatus",
  get: "containerd.services.images.v1.Images/Get",
  read: "containerd.services.content.v1.Content/Read",
  info: "containerd.services.content.v1.Content/Info",
  list: "containerd.services.content.v1.Content/List",
  images: "containerd.services.images.v1.Images/List",
  container: "containerd.services.containers.v1.Containers/Get",
  snapshot: "containerd.services.snapshots.v1.Snapshots/Stat",
  namespaces: "containerd.services.namespaces.v1.Namespaces/List",
  version: "containerd.services.version.v1.Version/Version",
  plugins: "containerd.services.introspection.v1.Introspection/Plugins",
  subscribe: "containerd.services.events.v1.Events/Subscribe",
} as const;

/** A gRPC server on a unix socket that does what each test tells it. */
export class FakeContainerd {
  readonly directory: string = mkdtempSync(join(tmpdir(), "sealpod-containerd-"));
  readonly path: string = join(this.directory, "c.sock");
  /** Methods that were called, in order. */
  readonly calls: string[] = [];
  readonly #sockets = new Map<ServerHttp2Session, Socket>();
  readonly #server: Http2Server;

  private constructor(handlers: ReadonlyMap<string, Handler>) {
    this.#server = createServer();
    // A session hides its socket, but is made while the socket is announced.
    let accepted: Socket | undefined;
    this.#server.prependListener("connection", (socket: Socket) => (accepted = socket));
    this.#server.on("session", (session: ServerHttp2Session) => {
      if (accepted !== undefined) this.#sockets.set(session, accepted);
      session.on("close", () => this.#sockets.delete(session));
      // Clients that give up break the connection; that is theirs to test.
      session.on("error", () => undefined);
    });
    this.#server.on("stream", (stream, headers) => {
      stream.on("error", () => undefined);
      const chunks: Uint8Array[] = [];
      stream.on("data", (chunk: Uint8Array) => chunks.push(chunk));
      stream.once("end", () => {
        const name = String(headers[constants.HTTP2_HEADER_PATH]).slice(1);
        this.calls.push(name);
        const socket = stream.session === undefined ? undefined : this.#sockets.get(stream.session as ServerHttp2Session);
        const call = new Call(stream, socket, headers, Buffer.concat(chunks));
        const handler = handlers.get(name);
        if (handler === undefined) call.end(12, `unknown service ${name.split("/")[0] ?? ""}`);
        else handler(call);
      });
    });
  }

  static async start(handlers: ReadonlyMap<string, Handler>): Promise<FakeContainerd> {
    const fake = new FakeContainerd(handlers);
    fake.#server.listen(fake.path);
    await once(fake.#server, "listening");
    return fake;
  }

  async close(): Promise<void> {
    for (const session of this.#sockets.keys()) session.destroy();
    this.#server.close();
    await once(this.#server, "close");
    rmSync(this.directory, { recursive: true });
  }
}

/** An image in memory: its layout's files and what names it. */
export interface TestImage {
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly manifest: string;
  readonly manifestSize: number;
  readonly config: string;
  readonly layers: readonly Layer[];
}

/** The image's name that {@link workingContainerd} knows. */
export const NAME = "registry.example.com/team/app:1";

/** A layout of one image with one file per layer. */
export async function buildImage(
  contents: readonly Uint8Array[],
  name: string = NAME,
  store: LayoutStore & { readonly files: Map<string, Uint8Array> } = memoryStore(),
): Promise<TestImage> {
  const writer = new LayoutWriter(store);
  const layers: Layer[] = [];
  for (const [i, data] of contents.entries()) {
    const tar = encodeTar([{ kind: "file", path: `file-${i}`, mode: 0o644, uid: 0, gid: 0, mtime: 0, data }]);
    layers.push(await writer.addLayer(tar, i % 2 === 0 ? { compression: "none" } : { compression: "gzip", level: 1 }));
  }
  const config: ImageSpec["config"] = { user: "1000", env: ["A=b"], entrypoint: ["/app"], cmd: [], workingDir: "/" };
  const manifest = await writer.addImage(name, { config, layers });
  await writer.finish();
  const bytes = store.files.get(blobPath(manifest));
  if (bytes === undefined) throw new Error("the layout has no manifest");
  const parsed = JSON.parse(new TextDecoder().decode(bytes)) as { config: { digest: string } };
  return { files: store.files, manifest, manifestSize: bytes.length, config: parsed.config.digest, layers };
}

function memoryStore(): LayoutStore & { readonly files: Map<string, Uint8Array> } {
  const files = new Map<string, Uint8Array>();
  return {
    files,
    create: () => {
      const parts: Uint8Array[] = [];
      return Promise.resolve({
        write: (bytes) => Promise.resolve(void parts.push(bytes.slice())),
        commit: (path) => Promise.resolve(void files.set(path, Buffer.concat(parts))),
        abort: () => Promise.resolve(),
      });
    },
  };
}

/** What a containerd does that has an image, or pulls it. */
export function workingContainerd(image: TestImage, chunk = 1000): Map<string, Handler> {
  return new Map<string, Handler>([
    [
      METHODS.pull,
      (call) => {
        call.send(criApi.PullImageResponseSchema, { imageRef: image.config });
        call.end();
      },
    ],
    [METHODS.status, (call) => answerStatus(call, image.config, "amd64")],
    [METHODS.get, (call) => answerTarget(call, { digest: image.manifest, size: BigInt(image.manifestSize) })],
    [METHODS.read, (call) => answerRead(call, image, chunk)],
  ]);
}

export function answerStatus(call: Call, id: string, architecture: string): void {
  const info = JSON.stringify({ chainID: "", imageSpec: { architecture, os: "linux", config: {} } });
  call.send(criApi.ImageStatusResponseSchema, { image: { id }, info: { info } });
  call.end();
}

export function answerTarget(call: Call, target: { readonly digest: string; readonly size: bigint }): void {
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  call.send(imagesApi.GetImageResponseSchema, { image: { name: call.request(imagesApi.GetImageRequestSchema).name, target: { mediaType, ...target } } });
  call.end();
}

/** The blob from the offset that is wanted, `limit` bytes of it, and status 0. */
export function answerRead(call: Call, image: TestImage, chunk: number, limit: number = Number.POSITIVE_INFINITY): void {
  sendBlob(call, image, chunk, limit);
  if (call.stream.writable) call.end();
}

/** As {@link answerRead}, without a status. */
export function sendBlob(call: Call, image: TestImage, chunk: number, limit: number = Number.POSITIVE_INFINITY): void {
  const { digest, offset } = call.request(contentApi.ReadContentRequestSchema);
  const blob = image.files.get(blobPath(digest));
  if (blob === undefined) {
    call.end(5, `content digest ${digest}: not found`);
    return;
  }
  const end = Math.min(blob.length, Number(offset) + limit);
  for (let at = Number(offset); at < end; at += chunk) {
    call.send(contentApi.ReadContentResponseSchema, { data: blob.subarray(at, Math.min(at + chunk, end)) });
  }
}

/** What {@link nodeHandlers} answers from; tests change it as they go. */
export interface NodeState {
  /** By namespace: what images are named, and the blobs that are there. */
  readonly namespaces: Map<string, NamespaceState>;
  /** Calls of subscribers that are open. */
  readonly subscribers: Set<Call>;
}

/** A namespace of {@link NodeState}. */
export interface NamespaceState {
  readonly images: Map<string, { readonly digest: string; readonly size: number; readonly mediaType?: string }>;
  readonly blobs: Map<string, Uint8Array>;
  readonly containers: Map<string, { readonly image: string; readonly snapshotter: string; readonly snapshotKey: string }>;
  /** Parents by snapshotter and key: `overlayfs/key`. */
  readonly snapshots: Map<string, string>;
}

/** An empty namespace. */
export function emptyNamespace(): NamespaceState {
  return { images: new Map(), blobs: new Map(), containers: new Map(), snapshots: new Map() };
}

/** Puts an image under a name into a namespace, with all its blobs. */
export function putImage(namespace: NamespaceState, name: string, image: TestImage): void {
  namespace.images.set(name, { digest: image.manifest, size: image.manifestSize });
  for (const [path, bytes] of image.files) {
    const digest = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(path)?.[1];
    if (digest !== undefined) namespace.blobs.set(`sha256:${digest}`, bytes);
  }
}

/** A containerd that answers what a node's programs ask from the given state. */
export function nodeHandlers(state: NodeState, chunk = 1000): Map<string, Handler> {
  const namespaceOf = (call: Call): NamespaceState => state.namespaces.get(String(call.headers["containerd-namespace"])) ?? emptyNamespace();
  const absent = (call: Call, what: string): void => call.end(5, `${what}: not found`);
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  return new Map<string, Handler>([
    [
      METHODS.get,
      (call) => {
        const { name } = call.request(imagesApi.GetImageRequestSchema);
        const target = namespaceOf(call).images.get(name);
        if (target === undefined) return absent(call, `image ${JSON.stringify(name)}`);
        call.send(imagesApi.GetImageResponseSchema, { image: { name, target: { mediaType, ...target, size: BigInt(target.size) } } });
        call.end();
      },
    ],
    [
      METHODS.images,
      (call) => {
        const images = [...namespaceOf(call).images].map(([name, target]) => ({ name, target: { mediaType, ...target, size: BigInt(target.size) } }));
        call.send(imagesApi.ListImagesResponseSchema, { images });
        call.end();
      },
    ],
    [
      METHODS.read,
      (call) => {
        const { digest, offset } = call.request(contentApi.ReadContentRequestSchema);
        const blob = namespaceOf(call).blobs.get(digest);
        if (blob === undefined) return absent(call, `content digest ${digest}`);
        for (let at = Number(offset); at < blob.length; at += chunk) call.send(contentApi.ReadContentResponseSchema, { data: blob.subarray(at, at + chunk) });
        call.end();
      },
    ],
    [
      METHODS.info,
      (call) => {
        const { digest } = call.request(contentApi.InfoRequestSchema);
        const blob = namespaceOf(call).blobs.get(digest);
        if (blob === undefined) return absent(call, `content digest ${digest}`);
        call.send(contentApi.InfoResponseSchema, { info: { digest, size: BigInt(blob.length) } });
        call.end();
      },
    ],
    [
      METHODS.list,
      (call) => {
        const info = [...namespaceOf(call).blobs].map(([digest, { length }]) => ({ digest, size: BigInt(length) }));
        // containerd sends up to a hundred at a time.
        for (let at = 0; at < info.length; at += 2) call.send(contentApi.ListContentResponseSchema, { info: info.slice(at, at + 2) });
        call.end();
      },
    ],
    [
      METHODS.container,
      (call) => {
        const { id } = call.request(containersApi.GetContainerRequestSchema);
        const container = namespaceOf(call).containers.get(id);
        if (container === undefined) return absent(call, `container ${JSON.stringify(id)} in namespace`);
        const runtime = { name: "io.containerd.kata-cc.v2" };
        call.send(containersApi.GetContainerResponseSchema, { container: { id, runtime, labels: { "a.label": "its value" }, ...container } });
        call.end();
      },
    ],
    [
      METHODS.snapshot,
      (call) => {
        const { snapshotter, key } = call.request(snapshotsApi.StatSnapshotRequestSchema);
        const parent = namespaceOf(call).snapshots.get(`${snapshotter}/${key}`);
        if (parent === undefined) return absent(call, `snapshot ${key}`);
        call.send(snapshotsApi.StatSnapshotResponseSchema, { info: { name: key, parent } });
        call.end();
      },
    ],
    [
      METHODS.namespaces,
      (call) => {
        call.send(namespacesApi.ListNamespacesResponseSchema, { namespaces: [...state.namespaces.keys()].map((name) => ({ name })) });
        call.end();
      },
    ],
    [
      METHODS.version,
      (call) => {
        call.send(versionApi.VersionResponseSchema, { version: "1.6.20~ds1", revision: "1.6.20~ds1-1" });
        call.end();
      },
    ],
    [
      METHODS.plugins,
      (call) => {
        const type = "io.containerd.snapshotter.v1";
        const broken = { type, id: "zfs", initErr: { code: 9, message: "path must be a zfs filesystem" } };
        call.send(introspectionApi.PluginsResponseSchema, { plugins: [{ type, id: "overlayfs", exports: { root: "/r" }, capabilities: ["c"] }, broken] });
        call.end();
      },
    ],
    [
      METHODS.subscribe,
      (call) => {
        state.subscribers.add(call);
        call.stream.once("close", () => state.subscribers.delete(call));
      },
    ],
  ]);
}

/** Tells all subscribers of an event. */
export function announce(state: NodeState, namespace: string, topic: string): void {
  for (const call of state.subscribers) call.send(eventsApi.EnvelopeSchema, { namespace, topic, event: { typeUrl: "x", value: new Uint8Array([1]) } });
}

/** Bytes that compress badly and are the same each time. */
export function noise(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 1;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    bytes[i] = state >>> 16;
  }
  return bytes;
}

/** The bytes of a file in the layers of {@link buildImage}, as found in a tar. */
export async function tarHolds(tar: AsyncIterable<Uint8Array>, data: Uint8Array): Promise<boolean> {
  const parts: Uint8Array[] = [];
  for await (const part of tar) parts.push(part);
  return Buffer.concat(parts).includes(Buffer.from(data));
}

/** A line of text as bytes. */
export const text = (line: string): Uint8Array => encodeUtf8(line);
