import type { BlobAddress } from "@sealpod/oci";
import { contentApi, imagesApi } from "@sealpod/proto";
import { ContainerdError } from "./errors.ts";
import type { GrpcSocket } from "./grpc-socket.ts";
import { STATUS } from "./grpc-status.ts";
import type { ContainerdHints } from "./hints.ts";

/** Times that one blob's transfer is taken up again: enough for a containerd that restarts, not for one that only ever sends a byte. */
const MAX_RESUMES = 5;

/** Milliseconds before the first resumption; each further one takes twice as long, 3.1 s together. */
const FIRST_PAUSE = 100;

/** What an image's name stands for in containerd, unverified. */
export interface ImageTarget {
  readonly mediaType: string;
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
}

/** What containerd knows of a blob, unverified. */
export interface ContentInfo {
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  readonly labels: Readonly<Record<string, string>>;
}

/** A name of containerd's image store. */
export interface NamedImage {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly target: ImageTarget;
}

/** Blobs of one namespace's content store that {@link ContentStore.list} goes through: ten times those of a node with a thousand images. */
const MAX_BLOBS = 1_000_000;

/** Blobs and names of the images of one of containerd's namespaces. */
export class ContentStore {
  readonly #socket: GrpcSocket;
  readonly #namespace: string;
  readonly #timeout: number;
  readonly #delay: (milliseconds: number) => Promise<void>;

  /** @param timeout milliseconds for an answer, and for each next part of a blob */
  constructor(socket: GrpcSocket, namespace: string, timeout: number, delay: (milliseconds: number) => Promise<void>) {
    this.#socket = socket;
    this.#namespace = namespace;
    this.#timeout = timeout;
    this.#delay = delay;
  }

  /** What a name, as containerd writes it in full, stands for; undefined if there is no such name. @throws {ContainerdError} */
  async target(name: string): Promise<ImageTarget | undefined> {
    try {
      const { image } = await this.#socket.unary(imagesApi.Images.method.get, { name }, this.#options());
      return targetOf(image, name);
    } catch (error) {
      if (error instanceof ContainerdError && error.status === STATUS.notFound) return undefined;
      throw serviceMissing(error, "containerd's image store", this.#socket.hints);
    }
  }

  /** All names of the image store. @throws {ContainerdError} as {@link GrpcSocket.unary} */
  async images(): Promise<readonly NamedImage[]> {
    try {
      const { images } = await this.#socket.unary(imagesApi.Images.method.list, {}, this.#options());
      return images.map((image) => ({ name: image.name, labels: image.labels, target: targetOf(image, image.name) }));
    } catch (error) {
      throw serviceMissing(error, "containerd's image store", this.#socket.hints);
    }
  }

  /** @returns undefined if the namespace does not have the blob. @throws {ContainerdError} as {@link GrpcSocket.unary} */
  async info(digest: string): Promise<ContentInfo | undefined> {
    try {
      const { info } = await this.#socket.unary(contentApi.Content.method.info, { digest }, this.#options());
      if (info === undefined) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `containerd's answer for blob ${digest} is empty`);
      return { digest: info.digest, size: safeSize(info.size, info.digest), labels: info.labels };
    } catch (error) {
      if (error instanceof ContainerdError && error.status === STATUS.notFound) return undefined;
      throw serviceMissing(error, "containerd's content store", this.#socket.hints);
    }
  }

  /**
   * The blobs that the namespace has.
   * @param filters of containerd's grammar, any of which has to fit; none: all blobs
   * @throws {ContainerdError} ERR_CONTAINERD_LIMIT and those of {@link GrpcSocket.serverStream}
   */
  async *list(filters: readonly string[] = []): AsyncGenerator<ContentInfo> {
    let count = 0;
    try {
      for await (const { info } of this.#socket.serverStream(contentApi.Content.method.list, { filters: [...filters] }, this.#options())) {
        // An empty part would let a server keep the reader for ever, each in time; so would blobs without end.
        if (info.length === 0) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", "containerd lists its content with an empty part");
        count += info.length;
        if (count > MAX_BLOBS) throw new ContainerdError("ERR_CONTAINERD_LIMIT", `containerd lists more than ${MAX_BLOBS} blobs`);
        for (const { digest, size, labels } of info) yield { digest, size: safeSize(size, digest), labels };
      }
    } catch (error) {
      throw serviceMissing(error, "containerd's content store", this.#socket.hints);
    }
  }

  #options(): { readonly namespace: string; readonly timeout: number } {
    return { namespace: this.#namespace, timeout: this.#timeout };
  }

  /**
   * A blob's bytes, unverified, but never more than its size. A transfer that is cut goes on where it stopped.
   * @throws {ContainerdError} ERR_CONTAINERD_CONTENT and those of {@link GrpcSocket.serverStream}
   */
  async *blob({ digest, size }: BlobAddress): AsyncGenerator<Uint8Array> {
    let offset = 0;
    for (let resumes = 0; ; resumes++) {
      try {
        const request = { digest, offset: BigInt(offset) };
        for await (const part of this.#socket.serverStream(contentApi.Content.method.read, request, this.#options())) {
          // An empty part would let a server keep the reader for ever, each in time.
          if (part.data.length === 0) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `blob ${digest}: containerd sent an empty part at byte ${offset}`);
          offset += part.data.length;
          if (offset > size) throw new ContainerdError("ERR_CONTAINERD_LIMIT", `blob ${digest} has more than the ${size} bytes that its descriptor states`);
          yield part.data;
        }
        if (offset < size) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `blob ${digest} ends after ${offset} of ${size} bytes`);
        return;
      } catch (error) {
        if (error instanceof ContainerdError && error.status === STATUS.notFound) throw contentMissing(digest, error, this.#socket.hints);
        if (!isCut(error, offset) || resumes === MAX_RESUMES) throw serviceMissing(error, "containerd's content store", this.#socket.hints);
      }
      // Cut right after the last byte, before the status: the digest decides.
      if (offset === size && size > 0) return;
      await this.#delay(FIRST_PAUSE * 2 ** resumes);
    }
  }
}

/** True if the same request may succeed a moment later. */
function isCut(error: unknown, offset: number): boolean {
  if (!(error instanceof ContainerdError)) return false;
  // A socket that cannot be opened is worth a second try only if it could be opened before.
  return error.code === "ERR_CONTAINERD_CLOSED" || error.status === STATUS.unavailable || (error.code === "ERR_CONTAINERD_SOCKET" && offset > 0);
}

function contentMissing(digest: string, cause: ContainerdError, hints: ContainerdHints): ContainerdError {
  return new ContainerdError("ERR_CONTAINERD_CONTENT", `containerd no longer has blob ${digest} of the image`, {
    cause,
    details: { digest },
    hint: hints.blobMissing,
  });
}

function targetOf(image: imagesApi.Image | undefined, name: string): ImageTarget {
  if (image?.target === undefined) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `containerd's answer for image ${name} names no content`);
  const { mediaType, digest, size } = image.target;
  return { mediaType, digest, size: safeSize(size, digest) };
}

function safeSize(size: bigint, digest: string): number {
  if (size < 0n || size > BigInt(Number.MAX_SAFE_INTEGER))
    throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `containerd gives blob ${JSON.stringify(digest.slice(0, 100))} a size of ${size} bytes`);
  return Number(size);
}

/** An error as it is, but for a service that the socket does not have. */
export function serviceMissing(error: unknown, service: string, hints: ContainerdHints): unknown {
  if (!(error instanceof ContainerdError) || error.status !== STATUS.unimplemented) return error;
  return new ContainerdError("ERR_CONTAINERD_SERVICE", `the socket does not offer ${service}`, { cause: error, hint: hints.serviceMissing });
}
