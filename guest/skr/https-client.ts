import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { concatBytes } from "@sealpod/core";
import { SkrError } from "./errors.ts";
import { MAX_RESPONSE_BYTES, type HttpClient, type HttpRequest, type HttpResponse } from "./http-client.ts";

/** The address of a cloud's metadata services: plain HTTP is allowed there alone. */
const METADATA_HOST = "169.254.169.254";

/**
 * The sidecar's HTTP client: TLS 1.2 or later against the given authorities, one connection per request.
 * @param authorities PEM certificates; Node's own list is not used
 */
export function httpsClient(authorities: readonly string[]): HttpClient {
  return (request) =>
    new Promise<HttpResponse>((resolve, reject) => {
      const url = new URL(request.url);
      const fail = (problem: string, cause?: unknown): void => {
        reject(new SkrError("ERR_SKR_NETWORK", `${url.host}: ${problem}`, { cause }));
      };
      if (url.protocol === "http:" && url.hostname !== METADATA_HOST) {
        fail("plain http is allowed to the metadata address alone");
        return;
      }
      // For the whole exchange: a limit on silence alone would let a slow server hold us for ever.
      const deadline = AbortSignal.timeout(request.timeoutMs);
      const either = request.signal === undefined ? deadline : AbortSignal.any([deadline, request.signal]);
      const broken = (cause: Error): void => fail(deadline.aborted ? `no answer in ${request.timeoutMs} ms` : problemOf(cause), cause);
      const sent = open(url, request, authorities, either);
      sent.on("error", broken);
      sent.on("response", (response) => {
        const chunks: Uint8Array[] = [];
        let length = 0;
        response.on("data", (chunk: Uint8Array) => {
          length += chunk.length;
          if (length > MAX_RESPONSE_BYTES) sent.destroy(new Error(`the answer has more than ${MAX_RESPONSE_BYTES} bytes`));
          else chunks.push(chunk);
        });
        response.on("error", broken);
        response.on("end", () => {
          const { "retry-after": retryAfter, "x-ms-request-id": requestId, "www-authenticate": challenge, "set-cookie": cookies } = response.headers;
          resolve({
            status: response.statusCode ?? 0,
            ...(retryAfter === undefined ? {} : { retryAfter }),
            ...(typeof requestId === "string" ? { requestId } : {}),
            ...(challenge === undefined ? {} : { challenge }),
            ...(cookies === undefined ? {} : { cookies }),
            body: concatBytes(...chunks),
          });
        });
      });
      sent.end(request.body);
    });
}

function open(url: URL, request: HttpRequest, authorities: readonly string[], signal: AbortSignal): ReturnType<typeof httpRequest> {
  const length = request.body === undefined ? {} : { "content-length": String(Buffer.byteLength(request.body)) };
  const options = { method: request.method, headers: { ...request.headers, ...length }, agent: false, signal } as const;
  if (url.protocol === "http:") return httpRequest(url, options);
  return httpsRequest(url, { ...options, ca: [...authorities], minVersion: "TLSv1.2" });
}

/** A failure to connect to each of several addresses has no message of its own. */
function problemOf(error: NodeJS.ErrnoException): string {
  return error.message === "" ? (error.code ?? error.name) : error.message;
}
