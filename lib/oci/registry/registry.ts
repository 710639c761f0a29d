import { asArray, asObject, decodeUtf8, isSealpodError, parseJson } from "@sealpod/core";
import { digestOf } from "../digest.ts";
import type { Descriptor } from "../documents.ts";
import { OciError } from "../errors.ts";
import { imageSourceOf } from "../image-source.ts";
import type { BlobAddress, BlobStore, RootDocument } from "../image-source.ts";
import type { BlobOrigin, ImageSource } from "../image.ts";
import { DEFAULT_OCI_LIMITS } from "../limits.ts";
import { INDEX_TYPES, MANIFEST_TYPES, mediaKind, MEDIA_TYPES, refuseSchema1 } from "../media-types.ts";
import { encodeReference } from "../reference.ts";
import type { Reference } from "../reference.ts";
import { Authorizer } from "./authorizer.ts";
import { RegistryClient } from "./client.ts";
import { CredentialLookup } from "./credentials.ts";
import { checkDigestHeader, download, statedLength } from "./download.ts";
import type { Progress } from "./download.ts";
import { Endpoints } from "./endpoint.ts";
import type { Endpoint } from "./endpoint.ts";
import { named, unreachable, violation } from "./failure.ts";
import type { Subject } from "./failure.ts";
import { HttpClient } from "./http.ts";
import { SecretMask } from "./mask.ts";
import type { RegistryOptions, RegistryPorts } from "./ports.ts";

const DEFAULT_RETRIES = 5;
const DEFAULT_STALL_TIMEOUT = 60_000;

/** What is asked for; without it some registries answer with schema 1. */
const ACCEPT_DOCUMENTS = [...INDEX_TYPES, ...MANIFEST_TYPES].join(", ");

/**
 * The images of registries (OCI distribution-spec 1.1, "Pull"; Docker's token authentication). What a registry says is
 * checked against digests; what it needs to know of the user's logins goes to it alone. Nothing is sent before an image is asked for.
 * @throws {OciError} ERR_OCI_ARGUMENT; the source's methods also ERR_OCI_AUTH, ERR_OCI_REGISTRY, ERR_OCI_UNREACHABLE, ERR_OCI_CREDENTIALS;
 * they reject with a signal's reason as soon as that is aborted
 */
export function openRegistry(options: RegistryOptions, ports: RegistryPorts): ImageSource {
  return imageSourceOf(new RegistryStore(options, ports), options);
}

class RegistryStore implements BlobStore {
  readonly #endpoints: Endpoints;
  readonly #client: RegistryClient;
  readonly #logger: RegistryPorts["logger"];
  readonly #maxDocumentSize: number;
  /** Hosts of mirrors that could not be reached; they are not tried again. */
  readonly #down = new Set<string>();
  /** Repositories, by URL, of mirrors that did not have the image asked for last; they are not asked for its parts. */
  readonly #without = new Set<string>();
  readonly #mask = new SecretMask();
  readonly #signal: AbortSignal;
  /** Who gave a blob, by its digest. */
  readonly #givers = new Map<string, Set<Endpoint>>();
  /** What mirrors gave wrongly, by URL of the repository and digest. */
  readonly #rejected = new Set<string>();

  constructor(options: RegistryOptions, ports: RegistryPorts) {
    const mask = this.#mask;
    this.#signal = options.signal ?? new AbortController().signal;
    const retries = options.retries ?? DEFAULT_RETRIES;
    const http = new HttpClient(ports, options.stallTimeout ?? DEFAULT_STALL_TIMEOUT, mask);
    const credentials = new CredentialLookup(options.dockerConfig, ports, mask);
    const authorizer = new Authorizer({ http, credentials, mask, clock: ports.clock, retries });
    this.#client = new RegistryClient({ http, authorizer, retries });
    this.#endpoints = new Endpoints(options);
    this.#logger = ports.logger;
    this.#maxDocumentSize = options.limits?.maxDocumentSize ?? DEFAULT_OCI_LIMITS.maxDocumentSize;
  }

  async root(reference: Reference, text: string, signal?: AbortSignal): Promise<RootDocument> {
    const mirrors = this.#mirrors(reference);
    for (const endpoint of [...mirrors, this.#endpoints.registryOf(reference)]) {
      const subject = this.#subject(`image ${text}`, endpoint, signal);
      try {
        const root = await this.#fetchRoot(subject, reference);
        this.#without.delete(endpoint.base);
        // Who answered is no question where only one was asked.
        if (mirrors.length > 0) this.#logger.log("info", `${subject.what}: ${named(endpoint)} answered`, { registry: endpoint.host });
        return root;
      } catch (error) {
        this.#passOver(subject, error);
      }
    }
    throw new RangeError("the registry itself is not passed over");
  }

  async *document(item: Descriptor, reference: Reference, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const what = `${mediaKind(item.mediaType)?.kind ?? "document"} ${item.digest} of image ${encodeReference(reference)}`;
    yield* this.#download(what, `manifests/${item.digest}`, item, reference, signal, { accept: ACCEPT_DOCUMENTS });
  }

  async *blob(item: BlobAddress, reference: Reference | undefined, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    if (reference === undefined) throw new OciError("ERR_OCI_NOT_FOUND", `layer ${item.digest} belongs to no image that was resolved here`);
    yield* this.#download(`blob ${item.digest} of image ${encodeReference(reference)}`, `blobs/${item.digest}`, item, reference, signal);
  }

  reject({ digest }: BlobAddress): BlobOrigin | undefined {
    const givers = [...(this.#givers.get(digest) ?? [])];
    if (givers.length === 0) return undefined;
    this.#givers.delete(digest);
    const mirrors = givers.filter(({ isMirror }) => isMirror);
    for (const mirror of mirrors) {
      this.#rejected.add(`${mirror.base} ${digest}`);
      this.#logger.log("warn", `${named(mirror)} is passed over: what it gave is not ${digest}`, { registry: mirror.host });
    }
    return { name: givers.map((giver) => named(giver)).join(" and "), hasOther: mirrors.length > 0 };
  }

  async *#download(
    what: string,
    path: string,
    item: BlobAddress,
    reference: Reference,
    signal: AbortSignal | undefined,
    headers?: Readonly<Record<string, string>>,
  ): AsyncGenerator<Uint8Array> {
    const progress: Progress = { offset: 0, resumes: 0 };
    const givers = this.#givers.get(item.digest) ?? new Set();
    this.#givers.set(item.digest, givers);
    for (const endpoint of [...this.#mirrors(reference), this.#endpoints.registryOf(reference)]) {
      if (endpoint.isMirror && (this.#without.has(endpoint.base) || this.#rejected.has(`${endpoint.base} ${item.digest}`))) continue;
      const subject = this.#subject(what, endpoint, signal);
      const before = progress.offset;
      givers.add(endpoint);
      try {
        return yield* download(this.#client, subject, path, item, progress, headers);
      } catch (error) {
        if (progress.offset === before) givers.delete(endpoint);
        this.#passOver(subject, error);
      }
    }
  }

  #subject(what: string, endpoint: Endpoint, signal: AbortSignal | undefined): Subject {
    return { what, endpoint, mask: this.#mask, signal: signal === undefined ? this.#signal : AbortSignal.any([this.#signal, signal]) };
  }

  #mirrors(reference: Reference): readonly Endpoint[] {
    return this.#endpoints.mirrorsOf(reference).filter(({ host }) => !this.#down.has(host));
  }

  /** Whatever a mirror has against it: the next one, or the registry, may have the image. Throws the error if there is no next one. */
  #passOver({ endpoint, signal }: Subject, error: unknown): void {
    if (signal.aborted || !endpoint.isMirror || !isSealpodError(error)) throw error;
    if (error.code === "ERR_OCI_UNREACHABLE") this.#down.add(endpoint.host);
    this.#without.add(endpoint.base);
    this.#logger.log("warn", `${named(endpoint)} is passed over: ${error.message}`, { code: error.code });
  }

  /** The document that a tag or digest names, whole. Its size is not known before, so a cut is no resume but a new attempt. */
  async #fetchRoot(subject: Subject, reference: Reference): Promise<RootDocument> {
    for (let attempt = 0; ; attempt++) {
      const reply = await this.#client.get(subject, `manifests/${reference.digest ?? reference.tag ?? "latest"}`, { accept: ACCEPT_DOCUMENTS });
      const length = statedLength(reply);
      const isOver = (length ?? 0) > this.#maxDocumentSize;
      const { bytes, end } = await reply.readUpTo(isOver ? 0 : this.#maxDocumentSize);
      if (isOver || end === "over") {
        throw violation(subject, reply.url, `the document has more than the limit of ${this.#maxDocumentSize} bytes`, "ERR_OCI_LIMIT");
      }
      if (end === "complete" && reply.status === 200 && (length === undefined || bytes.length === length)) {
        checkDigestHeader(subject, reply, reference.digest ?? digestOf(bytes));
        if (subject.endpoint.isMirror && reference.digest !== undefined && digestOf(bytes) !== reference.digest) {
          throw violation(subject, reply.url, `the document has digest ${digestOf(bytes)}`, "ERR_OCI_MISMATCH");
        }
        return { mediaType: documentType(reply.headers.get("content-type"), bytes, subject), bytes };
      }
      if (reply.status !== 200) throw violation(subject, reply.url, `status ${reply.status} for a document that was asked for whole`);
      const reason = end === "complete" ? `the connection was closed after ${bytes.length} of ${length} bytes` : end.reason;
      if (attempt === this.#client.retriesFor(subject)) throw unreachable(subject, { kind: "failure", url: reply.url, reason, cause: "connection" });
      await this.#client.pause(subject, attempt, reason);
    }
  }
}

/**
 * The media type of a document: what the registry says; else what the document says; else what it looks like. A document that
 * says something else than the registry is refused when it is parsed.
 */
function documentType(header: string | null, bytes: Uint8Array, subject: Subject): string {
  const stated = (header ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  const kind = mediaKind(stated)?.kind;
  if (kind === "index" || kind === "manifest") return stated;
  refuseSchema1(stated, undefined, subject.what);
  try {
    const document = asObject(parseJson(decodeUtf8(bytes), "document"));
    refuseSchema1(undefined, document?.["schemaVersion"], subject.what);
    const own = document?.["mediaType"];
    // Not checked yet by anything: also a text that only looks like a document can say it.
    if (typeof own === "string") return subject.mask.clean(own);
    return asArray(document?.["manifests"]) === undefined ? MEDIA_TYPES.manifest : MEDIA_TYPES.index;
  } catch (error) {
    if (error instanceof OciError) throw error;
    throw new OciError(
      "ERR_OCI_DOCUMENT",
      `${subject.what}: ${named(subject.endpoint)} sent a document of type ${JSON.stringify(subject.mask.clean(header ?? "", 100))} that is not JSON`,
      {
        cause: error,
        hint: "Something that is no registry may answer at this address, such as a proxy's login page.",
      },
    );
  }
}
