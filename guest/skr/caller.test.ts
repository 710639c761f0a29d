import { describe, expect, it } from "vitest";
import { checkCaller } from "./caller.ts";

const BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0";

describe("callers of the sidecar", () => {
  // Headers as these clients send them.
  it.each<[string, string | undefined, Record<string, string>]>([
    ["curl -d", "localhost:8080", { "user-agent": "curl/8.5.0", accept: "*/*", "content-type": "application/x-www-form-urlencoded" }],
    ["curl with a content type", "localhost:8080", { "user-agent": "curl/8.5.0", "content-type": "application/json" }],
    ["wget --post-data", "127.0.0.1:8080", { "user-agent": "Wget/1.21.4", "content-type": "application/x-www-form-urlencoded" }],
    ["Go", "localhost:8080", { "user-agent": "Go-http-client/1.1" }],
    ["Python's requests", "localhost:8080", { "user-agent": "python-requests/2.32.3" }],
    ["fetch of Node", "127.0.0.1:8080", { "user-agent": "node", "sec-fetch-mode": "cors", "content-type": "text/plain;charset=UTF-8", "accept-language": "*" }],
    ["port 80", "localhost", {}],
    ["IPv6", "[::1]:8080", {}],
    ["capitals", "LocalHost:8080", {}],
    ["HTTP/1.0", undefined, {}],
    ["a person before a browser", "localhost:8080", { "user-agent": BROWSER, "sec-fetch-site": "none" }],
    ["a browser's own page", "localhost:8080", { "user-agent": BROWSER, "sec-fetch-site": "same-origin", "content-type": "application/json" }],
  ])("pass: %s", (_what, authority, headers) => {
    expect(() => checkCaller(authority, headers)).not.toThrow();
  });

  it.each<[string, string | undefined, Record<string, string>, RegExp]>([
    ["another name", "rebind.evil.example:8080", {}, /for host "rebind\.evil\.example:8080"/],
    ["no name", "", {}, /for host ""/],
    ["a name that begins so", "localhost.evil.example", {}, /for host/],
    ["a name that ends so", "evil.localhost", {}, /for host/],
    ["an address that begins so", "127.0.0.1.evil.example:80", {}, /for host/],
    ["a user before it", "evil@localhost:8080", {}, /for host/],
    ["two names", "localhost, evil.example", {}, /for host/],
    ["a line more", "localhost\nevil", {}, /for host/],
    ["another address", "10.0.0.5:8080", {}, /for host/],
    ["an origin", "localhost:8080", { origin: "https://evil.example" }, /Origin: https:\/\/evil\.example/],
    ["an origin that is hidden", "localhost:8080", { origin: "null" }, /Origin: null/],
    ["an empty origin", "localhost:8080", { origin: "" }, /Origin/],
    ["another site", "localhost:8080", { "sec-fetch-site": "cross-site" }, /Sec-Fetch-Site: cross-site/],
    ["the same site", "localhost:8080", { "sec-fetch-site": "same-site" }, /Sec-Fetch-Site: same-site/],
    ["two sites", "localhost:8080", { "sec-fetch-site": "none, cross-site" }, /Sec-Fetch-Site/],
    ["an old browser's form", "localhost:8080", { "user-agent": BROWSER, "content-type": "Text/Plain; charset=UTF-8" }, /as a form \(text\/plain\)/],
  ])("are refused: %s", (_what, authority, headers, problem) => {
    expect(() => checkCaller(authority, headers)).toThrow(
      expect.objectContaining({ code: "ERR_SKR_CALLER", message: expect.stringMatching(problem) as string }),
    );
  });
});
