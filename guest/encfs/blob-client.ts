import { Agent, request as httpsRequest } from "node:https";
import { concatBytes } from "@sealpod/core";
import type { BlobPorts } from "./blob.ts";

/** Milliseconds for one exchange: a block of half a MiB on a slow line. */
const TIMEOUT = 60_000;
const MAX_CONNECTIONS = 8;

/**
 * The client for the storage service: TLS 1.2 or later against the given authorities, over a few connections that are kept.
 * @param authorities PEM certificates; Node's own list is not used
 */
export function blobClient(authorities: readonly string[]): BlobPorts["http"] {
  const agent = new Agent({ keepAlive: true, maxSockets: MAX_CONNECTIONS, ca: [...authorities], minVersion: "TLSv1.2" });
  return async ({ method, url, headers, body, maxBody }) =>
    new Promise((resolve, reject) => {
      const sent = httpsRequest(url, { method, headers, agent, signal: AbortSignal.timeout(TIMEOUT) }, (response) => {
        const chunks: Uint8Array[] = [];
        let length = 0;
        response.on("data", (chunk: Uint8Array) => {
          length += chunk.length;
          // The answer to an error may be longer than a block; its text is not used.
          if (length > maxBody + 64 * 1024) sent.destroy(new Error(`the answer has more than ${maxBody} bytes`));
          else chunks.push(chunk);
        });
        response.on("error", reject);
        response.on("end", () => {
          const names = Object.entries(response.headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : value] as const);
          resolve({ status: response.statusCode ?? 0, headers: Object.fromEntries(names), body: concatBytes(...chunks) });
        });
      });
      sent.on("error", reject);
      sent.end(body);
    });
}
