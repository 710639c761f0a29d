import { setTimeout as sleep } from "node:timers/promises";
import {
  connectContainerd,
  ContainerdError,
  type Containerd,
  type ContainerdNamespace,
  type ContainerdTimeouts,
  type ContainerRecord,
} from "@sealpod/containerd";
import { messageOf, type Clock, type Logger } from "@sealpod/core";
import {
  chainIds,
  DEFAULT_PLATFORM,
  encodeReference,
  layerId,
  OciError,
  parseReference,
  type Image,
  type ImageSource,
  type Layer,
  type Platform,
} from "@sealpod/oci";
import type { ContainerLayer, LayerFormat, PreparedLayer } from "@sealpod/sandbox";
import { ShimError } from "./errors.ts";
import { Follower, type Delay } from "./images-follower.ts";
import { LayerStore } from "./images-store.ts";

/** Annotations of CRI that name a container's image, or a sandbox's (containerd 2). */
const NAME_ANNOTATIONS = ["io.kubernetes.cri.image-name", "io.kubernetes.cri.podsandbox.image-name"];

/** Layers that are made at a time: unpacking happens beside the shim's own thread, hashing in it. */
const MAKERS = 3;

/**
 * Milliseconds from a removal that containerd tells of, or from the one before, to each look at what it still has. containerd may tell before it
 * has collected what nothing refers to any more; a busy one takes its time for that.
 */
const LOOKS = [1000, 9000, 50_000] as const;

/** Milliseconds before a lost connection is tried again, at first and at most; each time twice as long. */
const RECONNECT = { first: 750, most: 30_000 } as const;

/** Options of {@link ContainerdImages}. */
export interface ContainerdImagesOptions {
  /** Path of containerd's gRPC socket, as it gives it to its shims (`-address`). */
  readonly address: string;
  /** containerd's namespace that the pod is in (`-namespace`). */
  readonly namespace: string;
  /** Cache of layer files, which all shims of the node share. */
  readonly layerDirectory: string;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Default: linux/amd64. */
  readonly platform?: Platform;
  readonly timeouts?: Partial<ContainerdTimeouts>;
}

/** What {@link ContainerdImages} needs of the world besides containerd and the directory. */
export interface ContainerdImagesPorts {
  /** Waits; rejects when the signal says so. Default: the platform's timer, which does not keep the process. */
  readonly delay?: Delay;
  /** Numbers from 0 to 1 by which looks of several shims are spread. Default: random ones. */
  readonly jitter?: () => number;
}

/** A watch over containerd's images, until it is closed. */
export interface ImageWatch {
  close(): Promise<void>;
}

/**
 * The images of a pod's containers, out of containerd's content store, and the node's layer files made of them (docs/rfc/0002). containerd is on the host and
 * not believed: each blob is checked against the digest that led to it, and the guest checks every block against its policy.
 */
export class ContainerdImages {
  readonly #containerd: Containerd;
  readonly #namespace: ContainerdNamespace;
  readonly #store: LayerStore;
  readonly #options: ContainerdImagesOptions;
  readonly #delay: Delay;
  readonly #jitter: () => number;

  constructor(options: ContainerdImagesOptions, ports: ContainerdImagesPorts = {}) {
    this.#delay = ports.delay ?? (async (milliseconds, signal) => sleep(milliseconds, undefined, { ref: false, ...(signal === undefined ? {} : { signal }) }));
    this.#jitter = ports.jitter ?? Math.random;
    const { address: socketPath, timeouts } = options;
    this.#containerd = connectContainerd({ socketPath, ...(timeouts === undefined ? {} : { timeouts }) }, { delay: this.#delay });
    this.#namespace = this.#containerd.namespace(options.namespace);
    this.#store = new LayerStore(options.layerDirectory, options.address, options.clock);
    this.#options = options;
  }

  /**
   * The layer files of a container's image, bottom first.
   * @param annotations of the container's specification, where CRI names the image too
   * @param format that the pod's policy names
   * @throws {ShimError} ERR_SHIM_IMAGE @throws {SandboxError} ERR_SANDBOX_LAYER @throws {OciError} @throws {ContainerdError}
   */
  async layersOf(containerId: string, annotations: Readonly<Record<string, string>>, format: LayerFormat): Promise<readonly ContainerLayer[]> {
    const record = await this.#namespace.container(containerId);
    if (record === undefined) {
      throw new ShimError("ERR_SHIM_IMAGE", `containerd has no container ${containerId} in namespace ${this.#namespace.name}`, {
        details: { container: containerId },
        hint: "The shim asks the containerd that started it; containers that other programs than containerd's clients start cannot run here.",
      });
    }
    const { name, image, source } = await this.#imageOf(record, annotations);
    try {
      const files = await this.#prepare(image.layers, source, format);
      const ids = chainIds(image.layers.map(({ diffId }) => diffId)).map(layerId);
      return image.layers.flatMap(({ diffId }, i): ContainerLayer[] => {
        const [file, id] = [files.get(diffId), ids[i]];
        return file === undefined || id === undefined ? [] : [{ layerId: id, format, ...file }];
      });
    } catch (error) {
      throw this.#blobMissing(error, name);
    }
  }

  /**
   * Removes layer files whose blobs containerd has in no namespace any more. To be called when a pod starts and when it ends; running machines keep what they
   * have open.
   * @param since as for {@link LayerStore.sweep}
   * @returns the diff ids of what was removed
   * @throws {ContainerdError} and errors of the file system; nothing is removed that containerd was not asked about
   */
  sweep(since?: number): Promise<readonly string[]> {
    return this.#store.sweep((digests) => this.#present(digests), since);
  }

  /** Sweeps whenever containerd has removed an image, until it is closed. Troubles are logged; a connection that is lost is made again. */
  watch(): ImageWatch {
    const controller = new AbortController();
    const watching = this.#watch(controller.signal);
    return {
      close: () => {
        controller.abort();
        return watching;
      },
    };
  }

  /** The image that the container was made from: under the name that containerd has for it, or the one that CRI was given. */
  async #imageOf(record: ContainerRecord, annotations: Readonly<Record<string, string>>): Promise<NamedImage> {
    const names = namesOf(record, annotations);
    if (names.length === 0) {
      throw new ShimError(
        "ERR_SHIM_IMAGE",
        `container ${record.id} was made without an image, from a directory of the host; its root has to be an image's layers`,
        {
          details: { container: record.id },
          hint: "Leave --rootfs away and name an image: what the guest runs is checked layer by layer against the pod's policy.",
        },
      );
    }
    const parent = record.snapshotKey === "" ? undefined : await this.#namespace.snapshotParent(record.snapshotter, record.snapshotKey);
    let other: string | undefined;
    for (const name of names) {
      const found = await this.#named(name);
      if (found === undefined) continue;
      if (parent === undefined || restsOn(parent, found.image)) return found;
      other ??= name;
    }
    if (other !== undefined) {
      throw new ShimError("ERR_SHIM_IMAGE", `${other} is another image now than the one that container ${record.id} was made from`, {
        details: { container: record.id, image: other, snapshot: parent },
        hint: "The tag was moved between the making of the container and its start: make the container again, and name images by digest. If it stays, the image has several variants for this platform, and containerd runs another one than its index gives first.",
      });
    }
    throw new ShimError(
      "ERR_SHIM_IMAGE",
      `image ${names[0] ?? ""} of container ${record.id} is not in containerd's namespace ${this.#namespace.name} any more`,
      {
        details: { container: record.id, images: names },
        hint: "Somebody removed it after the container was made. Pull it again and make the container again.",
      },
    );
  }

  async #named(name: string): Promise<NamedImage | undefined> {
    try {
      const { platform } = this.#options;
      const found = await this.#namespace.image(name, platform === undefined ? {} : { platform });
      return found === undefined ? undefined : { name, ...found };
    } catch (error) {
      throw this.#blobMissing(error, name);
    }
  }

  /** Layer files by diff id. An image may have the same layer several times; the second time it is there. */
  async #prepare(layers: readonly Layer[], source: ImageSource, format: LayerFormat): Promise<ReadonlyMap<string, PreparedLayer>> {
    const waiting = layers.toReversed();
    const files = new Map<string, PreparedLayer>();
    const maker = async (): Promise<void> => {
      for (let layer = waiting.pop(); layer !== undefined; layer = waiting.pop()) files.set(layer.diffId, await this.#store.prepare(source, layer, format));
    };
    // All of them are waited for: what is reported as failed must not go on behind its caller's back.
    const ends = await Promise.allSettled(
      Array.from({ length: MAKERS }, () =>
        maker().catch((error: unknown) => {
          waiting.length = 0;
          throw error;
        }),
      ),
    );
    const failure = ends.find((end) => end.status === "rejected");
    if (failure !== undefined) throw failure.reason;
    return files;
  }

  /** Those of the blobs that any namespace has. Many are asked for by one list, few one by one. */
  async #present(digests: ReadonlySet<string>): Promise<ReadonlySet<string>> {
    const present = new Set<string>();
    for (const name of await this.#containerd.namespaces()) {
      const namespace = this.#containerd.namespace(name);
      if (digests.size > FEW) {
        for await (const { digest } of namespace.contents()) if (digests.has(digest)) present.add(digest);
      } else {
        for (const digest of digests) if (!present.has(digest) && (await namespace.content(digest)) !== undefined) present.add(digest);
      }
    }
    return present;
  }

  async #watch(signal: AbortSignal): Promise<void> {
    // All shims hear of a removal at once: who looks first looks for all.
    const spread: Delay = (milliseconds, until) => this.#delay(milliseconds * (1 + this.#jitter() / 2), until);
    const follower = new Follower(LOOKS, spread, (since) => this.#sweepLogged(since), signal, this.#options.clock);
    for (let pause: number = RECONNECT.first; !signal.aborted; pause = Math.min(pause * 2, RECONNECT.most)) {
      try {
        for await (const _ of this.#containerd.events(["/images/delete"], signal)) {
          pause = RECONNECT.first;
          follower.trigger();
        }
      } catch (error) {
        if (signal.aborted) break;
        const isGone = error instanceof ContainerdError && (error.code === "ERR_CONTAINERD_CLOSED" || error.code === "ERR_CONTAINERD_SOCKET");
        this.#options.logger.log(isGone ? "debug" : "warn", "lost sight of containerd's images", { reason: messageOf(error) });
      }
      await this.#delay(pause, signal).catch(() => undefined);
      // Whatever was removed in the meantime was not told.
      follower.trigger();
    }
    await follower.ended;
  }

  async #sweepLogged(since: number): Promise<void> {
    try {
      const removed = await this.sweep(since);
      if (removed.length > 0) this.#options.logger.log("info", "removed layers of images that containerd removed", { layers: removed.join(" ") });
    } catch (error) {
      this.#options.logger.log("debug", "cannot look for layers to remove", { reason: messageOf(error) });
    }
  }

  #blobMissing(error: unknown, name: string): unknown {
    if (!(error instanceof ContainerdError) || error.code !== "ERR_CONTAINERD_CONTENT") return error;
    const digest = String(error.details["digest"]);
    const { namespace, platform = DEFAULT_PLATFORM } = this.#options;
    return new ShimError(
      "ERR_SHIM_IMAGE",
      `image ${name}: containerd's content store does not have blob ${digest} (it drops layers after unpacking if discard_unpacked_layers is set)`,
      {
        cause: error,
        details: { image: name, digest },
        hint:
          "Set discard_unpacked_layers = false for CRI in containerd's configuration and use a snapshotter that does not load lazily, restart containerd, and run " +
          `\`ctr --namespace ${namespace} content fetch --platform ${platform.os}/${platform.architecture} ${name}\`: to pull alone does not bring what was unpacked before.`,
      },
    );
  }
}

/** Blobs that are looked up one by one: a list of all that a node has takes as long as some ten look-ups. */
const FEW = 8;

interface NamedImage {
  readonly name: string;
  readonly image: Image;
  readonly source: ImageSource;
}

/** Names under which the image may be in containerd's store, the likeliest first. */
function namesOf(record: ContainerRecord, annotations: Readonly<Record<string, string>>): readonly string[] {
  const names = record.image === "" ? [] : [record.image];
  for (const annotation of NAME_ANNOTATIONS) {
    const text = annotations[annotation];
    if (text !== undefined && text !== "") names.push(fullName(text));
  }
  return [...new Set(names)];
}

/** CRI is given names as the pod has them, and keeps them in full and without the tag if there is a digest. */
function fullName(text: string): string {
  try {
    const reference = parseReference(text);
    return encodeReference(reference.digest === undefined ? reference : { ...reference, tag: undefined });
  } catch (error) {
    if (error instanceof OciError) return text;
    throw error;
  }
}

/** True if a container's snapshot is one of that image. Snapshotters that map users keep one more between, named after the image's (`<chain id>-<uid>-<gid>`). */
function restsOn(parent: string, image: Image): boolean {
  const chain = chainIds(image.config.diffIds).at(-1) ?? "";
  return parent === chain || (chain !== "" && parent.startsWith(`${chain}-`));
}
