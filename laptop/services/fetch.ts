import { request as httpsRequest } from "node:https";
import type { LookupFunction } from "node:net";
import { concatBytes, messageOf } from "@sealpod/core";
import { ServicesError } from "./errors.ts";
import type { Up } from "./up.ts";

/** Largest answer that is read: the services' own are well below 1 MiB. */
const MAX_RESPONSE = 16 * 1024 * 1024;
/** Milliseconds without a byte. */
const IDLE_TIMEOUT = 60_000;

/** The part of `fetch` that the laptop's clients use; request bodies are text or bytes, redirects are not followed. */
export type LaptopFetch = (input: string | URL, init?: RequestInit) => Promise<Response>;

/** Which names are on this laptop, and whom to trust for them. */
export type Route = Pick<Up, "domain" | "host" | "caCertificate">;

/**
 * A `fetch` for the laptop's services: it trusts the laptop's authority alone, and resolves their names to the loopback
 * address, so that nothing needs to be written to /etc/hosts. Any other name is refused.
 */
export function laptopFetch(route: Route): LaptopFetch {
  const lookup: LookupFunction = (_name, options, done) => {
    const family = route.host.includes(":") ? 6 : 4;
    if (options.all === true) done(null, [{ address: route.host, family }]);
    else done(null, route.host, family);
  };
  return async (input, init) => {
    const request = new Request(input, init);
    const url = new URL(request.url);
    if (url.protocol !== "https:" || !url.hostname.endsWith(`.${route.domain}`)) {
      throw new ServicesError("ERR_SERVICES_FETCH", `${url.origin} is not one of the laptop's services (https://*.${route.domain})`);
    }
    // A body without a known length would be sent in chunks; ours are small and known.
    const body = new Uint8Array(await request.arrayBuffer());
    return send(url, request, body, { ca: route.caCertificate, lookup });
  };
}

async function send(url: URL, request: Request, body: Uint8Array, tls: { readonly ca: string; readonly lookup: LookupFunction }): Promise<Response> {
  return new Promise<Response>((resolve, reject) => {
    const fail = (problem: string, cause?: unknown): void => {
      reject(new ServicesError("ERR_SERVICES_FETCH", `${url.host}: ${problem}`, { cause, hint: 'Do the services run? "sealpod up" starts them.' }));
    };
    const headers: Record<string, string> = { ...Object.fromEntries(request.headers), ...(body.length > 0 ? { "content-length": String(body.length) } : {}) };
    const sent = httpsRequest(url, { method: request.method, headers, agent: false, ...tls, signal: request.signal, timeout: IDLE_TIMEOUT });
    sent.on("timeout", () => sent.destroy(new Error(`no byte in ${IDLE_TIMEOUT} ms`)));
    sent.on("error", (cause) => fail(messageOf(cause), cause));
    sent.on("response", (response) => {
      const chunks: Uint8Array[] = [];
      let length = 0;
      response.on("data", (chunk: Uint8Array) => {
        length += chunk.length;
        if (length > MAX_RESPONSE) sent.destroy(new Error(`the answer has more than ${MAX_RESPONSE} bytes`));
        else chunks.push(chunk);
      });
      response.on("error", (cause) => fail(messageOf(cause), cause));
      response.on("end", () => {
        const status = response.statusCode ?? 0;
        const received = new Headers();
        for (let index = 0; index + 1 < response.rawHeaders.length; index += 2) {
          received.append(response.rawHeaders[index] ?? "", response.rawHeaders[index + 1] ?? "");
        }
        // The Fetch standard forbids a body, even an empty one, with these.
        const bare = status === 204 || status === 205 || status === 304;
        resolve(new Response(bare ? null : concatBytes(...chunks), { status, headers: received }));
      });
    });
    sent.end(body);
  });
}
