import type { BlobAddress } from "../image-source.ts";
import type { RegistryClient } from "./client.ts";
import { DEFAULT_OCI_LIMITS } from "../limits.ts";
import { unreachable, violation } from "./failure.ts";
import type { Subject } from "./failure.ts";
import { DOCUMENT_TIME, MIN_WINDOW_BYTES } from "./http.ts";
import type { HttpFailure, HttpReply } from "./http.ts";

/**
 * Resumes of one download in all: a server that hands out a byte per connection ends too. With a layer of 64 GiB it is
 * still a connection for each 128 MiB.
 */
const MAX_RESUMES = 512;

/** How far a download has come. It outlives an endpoint: the next one goes on from there. */
export interface Progress {
  /** Bytes handed on. */
  offset: number;
  resumes: number;
}

/**
 * The bytes of a document or blob from `progress.offset` on, unverified, exactly as many as it should have. A connection that
 * breaks or is too slow is resumed by a Range request.
 * @throws {OciError} ERR_OCI_MISMATCH if the size is another one, and those of {@link RegistryClient.get}
 */
export async function* download(
  client: RegistryClient,
  subject: Subject,
  path: string,
  item: BlobAddress,
  progress: Progress,
  headers: Readonly<Record<string, string>> = {},
): AsyncGenerator<Uint8Array> {
  for (let fruitless = 0; ;) {
    const before = progress.offset;
    const range = before === 0 ? undefined : { range: `bytes=${before}-` };
    const reply = await client.get(subject, path, { ...headers, ...range });
    let cut: HttpFailure | "end";
    try {
      checkHeaders(subject, reply, item, before);
      cut = yield* readOn(subject, reply, item, progress);
    } finally {
      await reply.drop();
    }
    if (progress.offset === item.size) return;
    const failure: HttpFailure = cut === "end" ? { kind: "failure", url: reply.url, reason: "the connection was closed", cause: "connection" } : cut;
    // Whoever stalls after a few bytes, over and over, would keep us a minute for each; and a document is not waited for so long.
    const enough = failure.cause !== "stall" ? 1 : isSmall(item) ? Number.POSITIVE_INFINITY : MIN_WINDOW_BYTES;
    fruitless = progress.offset - before >= enough ? 0 : fruitless + 1;
    const where = `after ${progress.offset} of ${item.size} bytes`;
    if (fruitless > client.retriesFor(subject) || ++progress.resumes > MAX_RESUMES) {
      throw unreachable(subject, { ...failure, reason: `${failure.reason} ${where}` });
    }
    await client.pause(subject, fruitless, `${failure.reason} ${where}`);
  }
}

async function* readOn(subject: Subject, reply: HttpReply, item: BlobAddress, progress: Progress): AsyncGenerator<Uint8Array, HttpFailure | "end"> {
  // An answer with all the bytes, to a request for some: what was handed on before is passed over.
  let skip = reply.status === 206 ? 0 : progress.offset;
  const patience = isSmall(item) ? DOCUMENT_TIME : Number.POSITIVE_INFINITY;
  for (;;) {
    const part = await reply.read(patience);
    if (part.kind !== "bytes") return part.kind === "end" ? "end" : part;
    const bytes = part.bytes.subarray(skip);
    skip -= part.bytes.length - bytes.length;
    if (progress.offset + bytes.length > item.size) throw tooLong(subject, reply, item);
    progress.offset += bytes.length;
    if (bytes.length > 0) yield bytes;
  }
}

/** True for what has the size of a document, which is not known of a configuration otherwise. */
function isSmall({ size }: BlobAddress): boolean {
  return size <= DEFAULT_OCI_LIMITS.maxDocumentSize;
}

/** Checks what the headers say about size, range and digest before a byte is read. */
function checkHeaders(subject: Subject, reply: HttpReply, item: BlobAddress, offset: number): void {
  checkDigestHeader(subject, reply, item.digest);
  if (reply.status === 206) {
    const range = parseContentRange(reply.headers.get("content-range"));
    if (offset === 0 || range === undefined) throw violation(subject, reply.url, "status 206 for what was not asked or is not said");
    if (range.total !== undefined && range.total !== item.size) {
      throw violation(subject, reply.url, `${item.digest} has ${range.total} bytes now, expected ${item.size}`, "ERR_OCI_MISMATCH");
    }
    if (range.first !== offset || range.last >= item.size) {
      throw violation(subject, reply.url, `sent the range ${range.first}-${range.last}, asked for ${offset}-${item.size - 1}`, "ERR_OCI_MISMATCH");
    }
    return;
  }
  const length = statedLength(reply);
  if (length === undefined || length === item.size) return;
  throw violation(subject, reply.url, `${item.digest} has ${length} bytes, expected ${item.size}`, "ERR_OCI_MISMATCH");
}

/** @throws {OciError} ERR_OCI_MISMATCH if the registry itself says that it sends something else */
export function checkDigestHeader(subject: Subject, reply: HttpReply, digest: string): void {
  const stated = reply.headers.get("docker-content-digest");
  // Other algorithms cannot be compared; the bytes are checked in any case.
  if (stated === null || !stated.startsWith("sha256:") || stated === digest) return;
  throw violation(subject, reply.url, `Docker-Content-Digest is ${JSON.stringify(stated.slice(0, 100))}, expected ${digest}`, "ERR_OCI_MISMATCH");
}

/** Bytes that the body should have; undefined if the header does not tell. */
export function statedLength(reply: HttpReply): number | undefined {
  const length = reply.headers.get("content-length");
  // A body that was packed against our wish is unpacked by fetch: its length is another one.
  if (length === null || !/^[0-9]{1,15}$/.test(length) || (reply.headers.get("content-encoding") ?? "identity") !== "identity") return undefined;
  return Number(length);
}

function parseContentRange(header: string | null): { readonly first: number; readonly last: number; readonly total: number | undefined } | undefined {
  const match = /^bytes ([0-9]{1,15})-([0-9]{1,15})\/([0-9]{1,15}|\*)$/.exec(header ?? "");
  if (match === null) return undefined;
  const [first, last] = [Number(match[1]), Number(match[2])];
  return last < first ? undefined : { first, last, total: match[3] === "*" ? undefined : Number(match[3]) };
}

function tooLong(subject: Subject, reply: HttpReply, { digest, size }: BlobAddress): Error {
  return violation(subject, reply.url, `${digest} has more than the ${size} bytes expected`, "ERR_OCI_MISMATCH");
}
