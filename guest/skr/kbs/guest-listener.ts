import type { RequestListener } from "node:http";
import { encodeUtf8 } from "@sealpod/core";
import { refusedCaller } from "../listener.ts";
import type { GuestApi, GuestApiResponse } from "./guest-api.ts";

/** Lets `node:http` serve the guest's API. A caller that goes away ends what is done for it. */
export function guestListener(api: GuestApi): RequestListener {
  return (request, response) => {
    const gone = new AbortController();
    response.once("close", () => {
      if (!response.writableFinished) gone.abort();
    });
    // No request of this API has a body: what comes is read on and not kept, so that the client gets its answer instead of a broken connection.
    request.resume();
    const { url = "/", method = "GET" } = request;
    const at = url.indexOf("?");
    const [path, query] = at === -1 ? [url, ""] : [url.slice(0, at), url.slice(at + 1)];
    const refusal = refusedCaller(request);
    const answer = async (): Promise<GuestApiResponse> =>
      refusal === undefined
        ? api({ method, path, query, signal: gone.signal })
        : { status: refusal.status, contentType: "application/json", body: encodeUtf8(JSON.stringify(refusal.body)) };
    void answer().then(({ status, contentType, body }) => {
      response.writeHead(status, {
        "content-type": contentType,
        "content-length": body.length,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
      });
      response.end(body);
    });
  };
}
