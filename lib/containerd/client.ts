import { imageSourceOf, parseDigest, parseReference } from "@sealpod/oci";
import type { BlobAddress, BlobStore, Image, ImageSource, ImageSourceOptions } from "@sealpod/oci";
import { containersApi, eventsApi, introspectionApi, namespacesApi, snapshotsApi, versionApi } from "@sealpod/proto";
import { ContentStore, serviceMissing } from "./content-store.ts";
import type { ContentInfo, ImageTarget, NamedImage } from "./content-store.ts";
import { ContainerdError } from "./errors.ts";
import type { GrpcSocket } from "./grpc-socket.ts";
import { STATUS } from "./grpc-status.ts";

/** Which containerd it is. */
export interface ContainerdVersion {
  /** As it prints it: `1.6.20~ds1`, `1.7.24`, `v2.1.0`. */
  readonly version: string;
  readonly revision: string;
}

/** A plugin of containerd. */
export interface ContainerdPlugin {
  /** For example `io.containerd.snapshotter.v1`. */
  readonly type: string;
  /** For example `overlayfs`. */
  readonly id: string;
  /** What it tells of itself; of most, `root` is its directory. */
  readonly exports: Readonly<Record<string, string>>;
  readonly capabilities: readonly string[];
  /** Why it does not run; undefined if it does. */
  readonly problem: string | undefined;
}

/** An event of containerd; what it says beyond this is not looked at. */
export interface ContainerdEvent {
  readonly namespace: string;
  /** For example `/images/delete`. */
  readonly topic: string;
  /** The encoded message; empty if there is none. */
  readonly value: Uint8Array;
}

/** What containerd knows of a container before it runs. */
export interface ContainerRecord {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Name in the image store; empty for a container that was made without an image. */
  readonly image: string;
  /** For example `io.containerd.kata-cc.v2`. */
  readonly runtime: string;
  /** Empty, as is the key, for a container without a snapshot. */
  readonly snapshotter: string;
  readonly snapshotKey: string;
}

/** containerd's own gRPC API, as far as the programs of a node read it. All methods throw {@link ContainerdError}. */
export class Containerd {
  readonly #socket: GrpcSocket;
  readonly #timeout: number;
  readonly #delay: (milliseconds: number) => Promise<void>;

  /** @param timeout milliseconds for an answer, and for each next part of one */
  constructor(socket: GrpcSocket, timeout: number, delay: (milliseconds: number) => Promise<void>) {
    this.#socket = socket;
    this.#timeout = timeout;
    this.#delay = delay;
  }

  /** @throws {ContainerdError} ERR_CONTAINERD_SERVICE and those of {@link GrpcSocket.unary} */
  async version(): Promise<ContainerdVersion> {
    const { version, revision } = await this.#ask("containerd's version", () =>
      this.#socket.unary(versionApi.Version.method.version, {}, { timeout: this.#timeout }),
    );
    return { version, revision };
  }

  /**
   * Plugins, those that do not run included.
   * @param filters of containerd's grammar, any of which has to fit; none: all plugins
   */
  async plugins(filters: readonly string[] = []): Promise<readonly ContainerdPlugin[]> {
    const { plugins } = await this.#ask("containerd's list of plugins", () =>
      this.#socket.unary(introspectionApi.Introspection.method.plugins, { filters: [...filters] }, { timeout: this.#timeout }),
    );
    return plugins.map(({ type, id, exports, capabilities, initErr }) => ({ type, id, exports, capabilities, problem: initErr?.message }));
  }

  /** Names of all namespaces. */
  async namespaces(): Promise<readonly string[]> {
    const { namespaces } = await this.#ask("containerd's namespaces", () =>
      this.#socket.unary(namespacesApi.Namespaces.method.list, {}, { timeout: this.#timeout }),
    );
    return namespaces.map(({ name }) => name);
  }

  /** What is in one namespace, whether there is such a one or not. */
  namespace(name: string): ContainerdNamespace {
    return new ContainerdNamespace(this.#socket, name, this.#timeout, this.#delay);
  }

  /**
   * Events of all namespaces from now on, until the connection or the signal ends it: with an error in either case.
   * @param topics such as `/images/delete`
   * @param signal the iterator throws its reason
   * @throws {ContainerdError} as {@link GrpcSocket.serverStream}
   */
  async *events(topics: readonly string[], signal: AbortSignal): AsyncGenerator<ContainerdEvent> {
    const request = { filters: topics.map((topic) => `topic==${JSON.stringify(topic)}`) };
    try {
      // Nothing comes, not even headers, before the first event.
      for await (const { namespace, topic, event } of this.#socket.serverStream(eventsApi.Events.method.subscribe, request, { timeout: Infinity, signal }))
        yield { namespace, topic, value: event?.value ?? new Uint8Array() };
    } catch (error) {
      throw serviceMissing(error, "containerd's events", this.#socket.hints);
    }
    throw new ContainerdError("ERR_CONTAINERD_CLOSED", "containerd ended its stream of events");
  }

  async #ask<T>(what: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      throw serviceMissing(error, what, this.#socket.hints);
    }
  }
}

/** One of containerd's namespaces: `k8s.io` is that of CRI, `default` that of ctr. All methods throw {@link ContainerdError}. */
export class ContainerdNamespace {
  readonly name: string;
  readonly #socket: GrpcSocket;
  readonly #timeout: number;
  readonly #content: ContentStore;

  constructor(socket: GrpcSocket, name: string, timeout: number, delay: (milliseconds: number) => Promise<void>) {
    this.name = name;
    this.#socket = socket;
    this.#timeout = timeout;
    this.#content = new ContentStore(socket, name, timeout, delay);
  }

  /** @returns undefined if there is no such container */
  async container(id: string): Promise<ContainerRecord | undefined> {
    try {
      const { container } = await this.#socket.unary(containersApi.Containers.method.get, { id }, { namespace: this.name, timeout: this.#timeout });
      if (container === undefined) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `containerd's answer for container ${id} is empty`);
      const { labels, image, runtime, snapshotter, snapshotKey } = container;
      return { id: container.id, labels, image, runtime: runtime?.name ?? "", snapshotter, snapshotKey };
    } catch (error) {
      return absent(serviceMissing(error, "containerd's container store", this.#socket.hints));
    }
  }

  /**
   * What a snapshot rests on: for that of a container, the chain id of its image. Empty for one that rests on nothing.
   * @returns undefined if there is no such snapshot
   */
  async snapshotParent(snapshotter: string, key: string): Promise<string | undefined> {
    try {
      const { info } = await this.#socket.unary(snapshotsApi.Snapshots.method.stat, { snapshotter, key }, { namespace: this.name, timeout: this.#timeout });
      if (info === undefined) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `containerd's answer for snapshot ${key} is empty`);
      return info.parent;
    } catch (error) {
      return absent(serviceMissing(error, "containerd's snapshots", this.#socket.hints));
    }
  }

  /** What a name, as containerd has it, stands for; undefined if there is no such name. */
  target(name: string): Promise<ImageTarget | undefined> {
    return this.#content.target(name);
  }

  /** All names of images. */
  images(): Promise<readonly NamedImage[]> {
    return this.#content.images();
  }

  /** @returns undefined if the namespace does not have the blob */
  content(digest: string): Promise<ContentInfo | undefined> {
    return this.#content.info(digest);
  }

  /** The blobs of the namespace. @param filters of containerd's grammar, any of which has to fit; none: all blobs */
  contents(filters: readonly string[] = []): AsyncGenerator<ContentInfo> {
    return this.#content.list(filters);
  }

  /**
   * An image that containerd has, under its own name for it (which need not be a reference: whoever imports an image may name it as he likes).
   * Nothing is pulled. Each blob is checked against the digest that led to it.
   * @returns the image for the platform and the source of its layers; undefined if there is no such name
   * @throws {ContainerdError} @throws {OciError}
   */
  async image(name: string, options: ImageSourceOptions = {}): Promise<{ readonly image: Image; readonly source: ImageSource } | undefined> {
    const target = await this.#content.target(name);
    if (target === undefined) return undefined;
    const digest = parseDigest(target.digest, `containerd's digest of image ${name}`);
    const blob = (item: BlobAddress): AsyncIterable<Uint8Array> => this.#content.blob(item);
    const store: BlobStore = {
      root: () => Promise.resolve({ ...target, digest, annotations: new Map(), platform: undefined }),
      document: blob,
      blob,
    };
    const source = imageSourceOf(store, options);
    return { image: await source.resolve(isReference(name) ? name : `named-otherwise@${digest}`), source };
  }
}

function isReference(name: string): boolean {
  try {
    parseReference(name);
    return true;
  } catch {
    return false;
  }
}

/** Undefined for an answer that there is none. */
function absent(error: unknown): undefined {
  if (error instanceof ContainerdError && error.status === STATUS.notFound) return undefined;
  throw error;
}
