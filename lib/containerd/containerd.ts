import { setTimeout as delay } from "node:timers/promises";
import { DEFAULT_PLATFORM, encodeReference, imageSourceOf, parseDigest, parseReference } from "@sealpod/oci";
import type { BlobStore, Image, ImageSource, ImageSourceOptions, Platform, Reference } from "@sealpod/oci";
import { Containerd } from "./client.ts";
import { ContentStore } from "./content-store.ts";
import { CriImages } from "./cri.ts";
import type { ImageStatus, RegistryCredentials } from "./cri.ts";
import { ContainerdError } from "./errors.ts";
import { GrpcSocket } from "./grpc-socket.ts";
import { AUTHOR_HINTS, NODE_HINTS } from "./hints.ts";
import { DEFAULT_TIMEOUTS } from "./limits.ts";
import type { ContainerdTimeouts } from "./limits.ts";

/** Where the CRI plugin keeps its images. */
const CRI_NAMESPACE = "k8s.io";

/** Options of {@link openContainerd}. */
export interface ContainerdOptions extends ImageSourceOptions {
  /** Path of containerd's gRPC socket, usually `/run/containerd/containerd.sock`. */
  readonly socketPath: string;
  /** `always` (the default) asks the registry each time; `missing` takes what containerd has under the name, as kubelet's IfNotPresent does. */
  readonly pull?: "always" | "missing";
  readonly timeouts?: Partial<ContainerdTimeouts>;
}

/** What {@link openContainerd} needs of the world besides the socket. */
export interface ContainerdPorts {
  /** Credentials for a registry (host with optional port, e.g. `docker.io`) and a repository there; undefined to pull without. Default: none. */
  readonly credentials?: (registry: string, repository: string) => Promise<RegistryCredentials | undefined>;
  /** Waits before a cut transfer goes on. Default: the platform's timer. */
  readonly delay?: (milliseconds: number) => Promise<void>;
}

/**
 * Images that containerd pulls and keeps: `genpolicy -d` (specs/genpolicy.md 5.6). containerd is not believed either: each
 * blob is checked against the digest that led to it, as from any other source. Nothing is contacted before the first image is
 * asked for, and nothing stays open after.
 *
 * `resolve` and the layers' iterators throw {@link ContainerdError} besides the errors of `ImageSource`.
 */
export function openContainerd(options: ContainerdOptions, ports: ContainerdPorts = {}): ImageSource {
  const timeouts = { ...DEFAULT_TIMEOUTS, ...options.timeouts };
  const socket = new GrpcSocket(options.socketPath, timeouts.greeting, AUTHOR_HINTS);
  const cri = new CriImages(socket, timeouts);
  const content = new ContentStore(socket, CRI_NAMESPACE, timeouts.answer, ports.delay ?? delay);

  const store: BlobStore = {
    async root(reference, text) {
      const name = criName(reference);
      const isThere = options.pull === "missing" && (await cri.status(name)) !== undefined;
      if (!isThere) await cri.pull(name, await ports.credentials?.(reference.registry, reference.repository));
      const target = await content.target(name);
      if (target === undefined) throw vanished(text);
      return { ...target, digest: parseDigest(target.digest, `containerd's digest of image ${text}`), annotations: new Map(), platform: undefined };
    },
    document: (item) => content.blob(item),
    blob: (item) => content.blob(item),
  };
  const source = imageSourceOf(store, options);

  return {
    ...source,
    async resolve(text) {
      const image = await source.resolve(text);
      const status = await cri.status(criName(parseReference(text)));
      if (status === undefined) throw vanished(text);
      checkSame(image, status, options.platform ?? DEFAULT_PLATFORM);
      return image;
    },
  };
}

/** Options of {@link connectContainerd}. */
export interface ContainerdClientOptions {
  /** Path of containerd's gRPC socket. */
  readonly socketPath: string;
  readonly timeouts?: Partial<ContainerdTimeouts>;
}

/** containerd as a node's programs see it. Nothing is contacted before something is asked for, and nothing stays open after, but {@link Containerd.events}. */
export function connectContainerd(options: ContainerdClientOptions, ports: Pick<ContainerdPorts, "delay"> = {}): Containerd {
  const timeouts = { ...DEFAULT_TIMEOUTS, ...options.timeouts };
  return new Containerd(new GrpcSocket(options.socketPath, timeouts.greeting, NODE_HINTS), timeouts.answer, ports.delay ?? delay);
}

/** The name under which CRI keeps an image: in full, and without the tag if there is a digest. */
function criName(reference: Reference): string {
  return encodeReference(reference.digest === undefined ? reference : { ...reference, tag: undefined });
}

/**
 * containerd picks the variant of an index that suits its processor best, this tool the first that fits. If the two differ, the
 * policy would name layers that the node does not run; better to hear it now than as a refusal there.
 */
function checkSame(image: Image, status: ImageStatus, platform: Platform): void {
  const isComparable = status.platform?.os === platform.os && status.platform.architecture === platform.architecture;
  if (!isComparable || status.id === image.configDigest) return;
  throw new ContainerdError(
    "ERR_CONTAINERD_MISMATCH",
    `containerd runs image ${image.reference} with configuration ${status.id}, its index gives ${image.configDigest}`,
    {
      details: { found: status.id, expected: image.configDigest },
      hint: `The index has several variants for ${platform.os}/${platform.architecture}, or the tag was moved just now. Run the command again; if it stays, name the variant by its digest (REPOSITORY@sha256:…).`,
    },
  );
}

function vanished(text: string): ContainerdError {
  return new ContainerdError("ERR_CONTAINERD_NOT_FOUND", `containerd pulled image ${text} but does not have it`, {
    hint: "Its image garbage collection (kubelet's, when the disk is nearly full) or somebody else removed it: make room and run the command again.",
  });
}
