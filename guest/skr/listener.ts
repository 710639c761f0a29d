import type { IncomingMessage, RequestListener, ServerResponse } from "node:http";
import { concatBytes } from "@sealpod/core";
import { MAX_REQUEST_BYTES, type SkrHandler, type SkrResponse } from "./app.ts";

/** Lets `node:http` serve the sidecar's API. */
export function requestListener(handler: SkrHandler): RequestListener {
  return (request, response) => {
    void answer(handler, request).then(
      (answered) => reply(response, answered),
      // The client went away in the middle of its request: there is nobody to tell.
      () => response.destroy(),
    );
  };
}

async function answer(handler: SkrHandler, request: IncomingMessage): Promise<SkrResponse> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    // Read on, keep nothing: the client gets its answer instead of a broken connection.
    if (length <= MAX_REQUEST_BYTES) chunks.push(chunk);
  }
  if (length > MAX_REQUEST_BYTES) return { status: 413, body: { error: `the request body has more than ${MAX_REQUEST_BYTES} bytes` } };
  const [path = "/"] = (request.url ?? "/").split("?");
  return handler({ method: request.method ?? "GET", path, body: concatBytes(...chunks) });
}

function reply(response: ServerResponse, { status, body }: SkrResponse): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    "content-type": "application/json; charset=utf-8",
    "content-length": Buffer.byteLength(text),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  });
  response.end(text);
}
