import type { IncomingHttpHeaders } from "node:http";
import { SkrError } from "./errors.ts";

/** This machine's own names, as the sidecar's callers write them, with or without port. Other names may be resolved to it by whoever owns them. */
const LOOPBACK = /^(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?$/i;

/** What a page may have a browser send without asking first (Fetch, "CORS-safelisted request-header"). */
const FORM_TYPES: ReadonlySet<string> = new Set(["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]);

/**
 * Refuses requests that a web page has sent, through a browser in the pod or by a name that was made to mean 127.0.0.1 (DNS rebinding): the containers of a pod trust each other, and not what they
 * show. A request passes that names this machine as its host and has none of the headers by which browsers say for whom they ask. `curl -d` and most clients send JSON as a form, as text or
 * without a type, and the genuine sidecar takes that; so those types are refused to browsers alone.
 * @param authority `Host`, or `:authority` of HTTP/2; undefined where a client of HTTP/1.0 sends none
 * @throws {SkrError} ERR_SKR_CALLER
 */
export function checkCaller(authority: string | undefined, headers: IncomingHttpHeaders): void {
  if (authority !== undefined && !LOOPBACK.test(authority)) {
    throw refused(`the request is for host ${JSON.stringify(authority.slice(0, 100))}`, "Ask http://localhost or http://127.0.0.1, by no other name.");
  }
  if (headers.origin !== undefined) throw refused(`the request comes from a web page (Origin: ${headers.origin.slice(0, 100)})`);
  const site = headers["sec-fetch-site"];
  if (site !== undefined && site !== "none" && site !== "same-origin")
    throw refused(`the request comes from a web page (Sec-Fetch-Site: ${site.slice(0, 20)})`);
  const type = headers["content-type"]?.split(";")[0]?.trim().toLowerCase();
  if (type !== undefined && FORM_TYPES.has(type) && headers["user-agent"]?.startsWith("Mozilla/") === true) {
    throw refused(`a browser sent the request as a form (${type})`, "Send it with Content-Type: application/json.");
  }
}

function refused(problem: string, hint: string = "The sidecar serves the containers of its own pod, and no web pages."): SkrError {
  return new SkrError("ERR_SKR_CALLER", problem, { hint });
}
