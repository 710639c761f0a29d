import { describe, expect, it } from "vitest";
import { parseSidecarArguments } from "./arguments.ts";

const encode = (value: unknown): string => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64");

/** The value in the AKS document, as it stands there. */
const DOCUMENT =
  "ewogICAiY2VydGNhY2hlIjogewogICAgICAiZW5kcG9pbnQiOiAiYW1lcmljYXMuYWNjY2FjaGUuYXp1cmUubmV0IiwKICAgICAgInRlZV90eXBlIjogIlNldlNucFZNIiwKICAgICAgImFwaV92ZXJzaW9uIjogImFwaS12ZXJzaW9uPTIwMjAtMTAtMTUtcHJldmlldyIKICAgfSAgICAgIAp9";

describe("SkrSideCarArgs", () => {
  it("of the AKS document, which names no endpoint type, means the Azure cache", () => {
    expect(parseSidecarArguments(DOCUMENT)).toEqual({
      certificateCache: {
        kind: "AzCache",
        endpoint: "americas.acccache.azure.net",
        teeType: "SevSnpVM",
        apiVersion: "api-version=2020-10-15-preview",
        clientId: "",
      },
      clientId: undefined,
      userAgent: undefined,
    });
  });

  it.each<[unknown, unknown]>([
    [{ certcache: { endpoint_type: "LocalTHIM" } }, { kind: "LocalTHIM", endpoint: "169.254.169.254/metadata/THIM/amd/certification" }],
    [{ certcache: { endpoint_type: "AMD" } }, { kind: "AMD", endpoint: "kdsintf.amd.com" }],
    [{ certcache: { endpoint_type: "AMD", endpoint: "kds.example.org:444/x" } }, { kind: "AMD", endpoint: "kds.example.org:444/x" }],
    [{ certcache: null }, undefined],
    [{}, undefined],
  ])("%j", (value, certificateCache) => {
    expect(parseSidecarArguments(encode(value)).certificateCache).toEqual(certificateCache);
  });

  it("may be broken into lines, as base64 does", () => {
    const broken = DOCUMENT.replaceAll(/.{76}/g, "$&\r\n");
    expect(broken).not.toBe(DOCUMENT);
    expect(parseSidecarArguments(` ${broken}\n`)).toEqual(parseSidecarArguments(DOCUMENT));
  });

  it.each<[unknown, RegExp]>([
    [{ certcache: { endpoint_type: "LocalTHIM", endpoint: "10.0.0.1/x" } }, /certcache\.endpoint is not at 169\.254\.169\.254/],
    [{ certcache: { endpoint: "x", tee_type: "a/b" } }, /certcache\.tee_type is "a\/b"; expected/],
    [{ certcache: { endpoint: "x", api_version: "1&x=2" } }, /certcache\.api_version is/],
    [{ certcache: { endpoint: "x", client_id: "a b" } }, /certcache\.client_id is/],
    [{ certcache: { endpoint: 1 } }, /certcache\.endpoint is not a string/],
    [{ identity: { client_id: 1 } }, /identity\.client_id is not a string/],
    [{ maaconfig: [] }, /maaconfig is not an object/],
  ])("say which member is wrong: %j", (value, message) => {
    expect(() => parseSidecarArguments(encode(value))).toThrow(message);
  });

  it("may name an identity and a user agent", () => {
    expect(parseSidecarArguments(encode({ identity: { client_id: "c" }, maaconfig: { user_agent: "u" } }))).toMatchObject({ clientId: "c", userAgent: "u" });
  });

  it.each([undefined, "", " \n"])("%j means no arguments", (text) => {
    expect(parseSidecarArguments(text)).toEqual({ certificateCache: undefined, clientId: undefined, userAgent: undefined });
  });

  it.each<[string, string]>([
    ["no base64", "{}"],
    ["base64url", encode({ a: "???>>>" }).replaceAll("/", "_")],
    ["no JSON", encode("{")],
    ["no object", encode("[]")],
    ["a name twice", encode('{"certcache":null,"certcache":null}')],
    ["a section that is no object", encode({ certcache: "AMD" })],
    ["an unknown endpoint type", encode({ certcache: { endpoint_type: "amd" } })],
    ["an endpoint type that is no string", encode({ certcache: { endpoint_type: 1 } })],
    ["an Azure cache without endpoint", encode({ certcache: { endpoint_type: "AzCache" } })],
    ["an endpoint with a scheme", encode({ certcache: { endpoint_type: "AMD", endpoint: "https://x" } })],
    ["an endpoint with a user", encode({ certcache: { endpoint_type: "AMD", endpoint: "a@b" } })],
    ["an endpoint with a query", encode({ certcache: { endpoint_type: "AMD", endpoint: "a?b" } })],
    ["a user agent with a line end", encode({ maaconfig: { user_agent: "a\r\nb: c" } })],
    ["too much", encode("x".repeat(64 * 1024))],
  ])("is refused with %s", (_what, text) => {
    expect(() => parseSidecarArguments(text)).toThrow(
      expect.objectContaining({ code: "ERR_SKR_CONFIGURATION", message: expect.stringMatching(/^SkrSideCarArgs /) }),
    );
  });
});
