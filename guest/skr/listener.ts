import type { IncomingMessage, RequestListener, ServerResponse } from "node:http";
import { concatBytes, isSealpodError } from "@sealpod/core";
import { MAX_REQUEST_BYTES, withHint, type SkrHandler, type SkrResponse } from "./app.ts";
import { checkCaller } from "./caller.ts";

/** Lets `node:http` serve the sidecar's API. A caller that goes away ends what is done for it. */
export function requestListener(handler: SkrHandler): RequestListener {
  return (request, response) => {
    const gone = new AbortController();
    response.once("close", () => {
      if (!response.writableFinished) gone.abort();
    });
    void answer(handler, request, gone.signal).then(
      (answered) => reply(response, answered),
      // The client went away in the middle of its request: there is nobody to tell.
      () => response.destroy(),
    );
  };
}

/**
 * The answer to a caller that {@link checkCaller} refuses.
 * @returns undefined for others
 */
export function refusedCaller({ headers }: Pick<IncomingMessage, "headers">): SkrResponse | undefined {
  try {
    checkCaller(headers.host, headers);
    return undefined;
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return { status: error.row.http, body: { error: withHint(error) } };
  }
}

async function answer(handler: SkrHandler, request: IncomingMessage, signal: AbortSignal): Promise<SkrResponse> {
  const refusal = refusedCaller(request);
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    // Read on, keep nothing: the client gets its answer instead of a broken connection.
    if (refusal === undefined && length <= MAX_REQUEST_BYTES) chunks.push(chunk);
  }
  if (refusal !== undefined) return refusal;
  if (length > MAX_REQUEST_BYTES) return { status: 413, body: { error: `the request body has more than ${MAX_REQUEST_BYTES} bytes` } };
  const [path = "/"] = (request.url ?? "/").split("?");
  return handler({ method: request.method ?? "GET", path, body: concatBytes(...chunks), signal });
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
