import type { BlobAddress } from "@sealpod/oci";
import { contentApi, imagesApi } from "@sealpod/proto";
import { ContainerdError } from "./errors.ts";
import type { GrpcSocket } from "./grpc-socket.ts";
import { STATUS } from "./grpc-status.ts";

/** Where the CRI plugin keeps its images. */
const NAMESPACE = "k8s.io";

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

/** Blobs and names of the images that CRI uses, read from containerd itself. */
export class ContentStore {
  readonly #socket: GrpcSocket;
  readonly #timeout: number;
  readonly #delay: (milliseconds: number) => Promise<void>;

  /** @param timeout milliseconds for an answer, and for each next part of a blob */
  constructor(socket: GrpcSocket, timeout: number, delay: (milliseconds: number) => Promise<void>) {
    this.#socket = socket;
    this.#timeout = timeout;
    this.#delay = delay;
  }

  /** What a name, as containerd writes it in full, stands for; undefined if there is no such name. @throws {ContainerdError} */
  async target(name: string): Promise<ImageTarget | undefined> {
    try {
      const { image } = await this.#socket.unary(imagesApi.Images.method.get, { name }, { namespace: NAMESPACE, timeout: this.#timeout });
      if (image?.target === undefined) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `containerd's answer for image ${name} names no content`);
      const { mediaType, digest, size } = image.target;
      return { mediaType, digest, size: safeSize(size, digest) };
    } catch (error) {
      if (error instanceof ContainerdError && error.status === STATUS.notFound) return undefined;
      throw serviceMissing(error, "containerd's image store");
    }
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
        for await (const part of this.#socket.serverStream(contentApi.Content.method.read, request, { namespace: NAMESPACE, timeout: this.#timeout })) {
          // An empty part would let a server keep the reader for ever, each in time.
          if (part.data.length === 0) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `blob ${digest}: containerd sent an empty part at byte ${offset}`);
          offset += part.data.length;
          if (offset > size) throw new ContainerdError("ERR_CONTAINERD_LIMIT", `blob ${digest} has more than the ${size} bytes that its descriptor states`);
          yield part.data;
        }
        if (offset < size) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `blob ${digest} ends after ${offset} of ${size} bytes`);
        return;
      } catch (error) {
        if (error instanceof ContainerdError && error.status === STATUS.notFound) throw contentMissing(digest, error);
        if (!isCut(error, offset) || resumes === MAX_RESUMES) throw serviceMissing(error, "containerd's content store");
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

function contentMissing(digest: string, cause: ContainerdError): ContainerdError {
  return new ContainerdError("ERR_CONTAINERD_CONTENT", `containerd no longer has blob ${digest} of the image`, {
    cause,
    details: { digest },
    hint:
      "containerd drops layers after unpacking if discard_unpacked_layers is true in its configuration, and never fetches those of other platforms. " +
      "Run `ctr --namespace k8s.io content fetch --platform linux/amd64 IMAGE` to have them again (a pull alone does not bring what was unpacked before), " +
      "or leave -d away to read the registry.",
  });
}

function safeSize(size: bigint, digest: string): number {
  if (size < 0n || size > BigInt(Number.MAX_SAFE_INTEGER))
    throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `containerd gives blob ${JSON.stringify(digest.slice(0, 100))} a size of ${size} bytes`);
  return Number(size);
}

function serviceMissing(error: unknown, service: string): unknown {
  if (!(error instanceof ContainerdError) || error.status !== STATUS.unimplemented) return error;
  return new ContainerdError("ERR_CONTAINERD_SERVICE", `the socket does not offer ${service}`, {
    cause: error,
    hint: "-d needs containerd; the socket of CRI-O or of a shim is not enough. Leave -d away to read the registry.",
  });
}
