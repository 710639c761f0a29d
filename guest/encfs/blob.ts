import { messageOf, type Random } from "@sealpod/core";
import { EncfsError } from "./errors.ts";

/** A request to the storage service. */
export interface BlobRequest {
  readonly method: "HEAD" | "GET" | "PUT";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** Bytes of an answer that are read; more is an error. */
  readonly maxBody: number;
}

/** Its answer; names of headers in lower case. */
export interface BlobResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly body: Uint8Array;
}

/** What a blob is read with. */
export interface BlobPorts {
  /** Over verified TLS, without redirects. */
  readonly http: (request: BlobRequest) => Promise<BlobResponse>;
  /** Access token for the storage service; undefined for a blob that everybody, or the holder of its URL, may read. */
  readonly accessToken: (() => Promise<string>) | undefined;
  readonly wait: (milliseconds: number) => Promise<void>;
  readonly random: Random;
}

/** A blob that is read and written by range. */
export interface Blob {
  readonly length: number;
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Offset and length are multiples of {@link PAGE}. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
}

/** Resource that access tokens for storage are asked for. */
export const STORAGE_RESOURCE = "https://storage.azure.com";

/** Page blobs are written in pages of this size. */
export const PAGE = 512;

/** Bytes of one Put Page. */
const MAX_WRITE = 4 * 1024 * 1024;

/** First version that takes access tokens and pages of any number; the service supports old ones for ever. */
const SERVICE_VERSION = "2021-12-02";

/** The kernel waits for a block: some patience is better than an error on the filesystem. */
const ATTEMPTS = 6;
const BASE_DELAY = 500;
const MAX_DELAY = 15_000;

/** 8 TiB, the largest page blob. */
const MAX_LENGTH = 8 * 1024 ** 4;

/**
 * Looks at a blob and opens it by range. One that is only read is read as it was at this moment: it fails if the blob changes meanwhile.
 * @throws {EncfsError} ERR_ENCFS_BLOB
 */
export async function openBlob(url: string, isWritable: boolean, ports: BlobPorts): Promise<Blob> {
  const head = await ask(ports, url, { method: "HEAD", headers: {}, maxBody: 0 }, [200]);
  const length = Number(head.headers["content-length"] ?? Number.NaN);
  const etag = head.headers["etag"];
  const type = head.headers["x-ms-blob-type"];
  if (!Number.isSafeInteger(length) || length <= 0 || length > MAX_LENGTH)
    throw failure(url, `it has a length of ${head.headers["content-length"] ?? "nothing"}`);
  if (etag === undefined || !/^(W\/)?"[^"\r\n]{1,200}"$/.test(etag)) throw failure(url, "the service does not say which version it has (ETag)");
  if (isWritable && type !== "PageBlob") {
    throw failure(
      url,
      `it is a ${(type ?? "blob of no type").slice(0, 40)}, and read_write needs a PageBlob`,
      "Upload the image as a page blob, or leave read_write out.",
    );
  }
  // Our own writes change the version.
  const condition: Record<string, string> = isWritable ? {} : { "if-match": etag };
  return {
    length,
    async read(offset, count) {
      const end = Math.min(offset + count, length) - 1;
      const range = `bytes=${offset}-${end}`;
      const { body, headers, status } = await ask(ports, url, { method: "GET", headers: { range, ...condition }, maxBody: end - offset + 1 }, [206]);
      const expected = `bytes ${offset}-${end}/${length}`;
      if (status !== 206 || headers["content-range"] !== expected || body.length !== end - offset + 1) {
        throw failure(url, `it answered ${range} with ${body.length} bytes of ${JSON.stringify((headers["content-range"] ?? "").slice(0, 60))}`);
      }
      return body;
    },
    async write(offset, bytes) {
      if (!isWritable) throw failure(url, "it was opened to be read");
      if (offset % PAGE !== 0 || bytes.length % PAGE !== 0 || offset + bytes.length > length)
        throw failure(url, `no page starts at ${offset} and has ${bytes.length} bytes`);
      const target = withQuery(url, "comp=page");
      for (let at = 0; at < bytes.length; at += MAX_WRITE) {
        const part = bytes.subarray(at, at + MAX_WRITE);
        const range = `bytes=${offset + at}-${offset + at + part.length - 1}`;
        await ask(
          ports,
          target,
          { method: "PUT", headers: { range, "x-ms-page-write": "update", "content-length": String(part.length) }, body: part, maxBody: 64 * 1024 },
          [201],
        );
      }
    },
  };
}

async function ask(ports: BlobPorts, url: string, request: Omit<BlobRequest, "url">, accepted: readonly number[]): Promise<BlobResponse> {
  for (let attempt = 1; ; attempt++) {
    let problem: string;
    let isFinal = false;
    try {
      const authorization: Record<string, string> = ports.accessToken === undefined ? {} : { authorization: `Bearer ${await ports.accessToken()}` };
      const response = await ports.http({ ...request, url, headers: { "x-ms-version": SERVICE_VERSION, ...authorization, ...request.headers } });
      if (accepted.includes(response.status)) return response;
      problem = describe(response);
      isFinal = response.status < 500 && response.status !== 408 && response.status !== 429;
    } catch (error) {
      if (error instanceof EncfsError) throw error;
      problem = messageOf(error);
    }
    if (isFinal || attempt === ATTEMPTS) throw failure(url, problem, hintFor(problem));
    const [high = 0, low = 0] = ports.random.bytes(2);
    await ports.wait(Math.round((Math.min(MAX_DELAY, BASE_DELAY * 2 ** attempt) * (high * 256 + low)) / 65_535));
  }
}

/** The service names its errors in a header; the body of some repeats the request with its signature. */
function describe({ status, headers }: BlobResponse): string {
  const code = headers["x-ms-error-code"];
  const request = headers["x-ms-request-id"];
  const isPlain = (text: string | undefined): text is string => text !== undefined && /^[\w-]{1,80}$/.test(text);
  return `the service answered ${status}${isPlain(code) ? ` ${code}` : ""}${isPlain(request) ? ` (request ${request})` : ""}`;
}

function hintFor(problem: string): string | undefined {
  if (problem.includes("412")) return "The blob was changed while it was mounted to be read: restart the pod to read what is there now.";
  if (problem.includes("404")) return "Check azure_url; a private blob also answers so to those who may not know of it.";
  if (/ 40[13]/.test(problem))
    return 'Give the pod\'s identity the role "Storage Blob Data Reader" (Contributor to write) and set azure_url_private, or use a URL with a signature.';
  return undefined;
}

function withQuery(url: string, query: string): string {
  return `${url}${url.includes("?") ? "&" : "?"}${query}`;
}

function failure(url: string, problem: string, hint?: string): EncfsError {
  // The query is a secret: who has it can read the blob.
  const { origin, pathname } = new URL(url);
  return new EncfsError("ERR_ENCFS_BLOB", `the blob ${origin}${pathname}: ${problem}`, hint === undefined ? {} : { hint });
}
