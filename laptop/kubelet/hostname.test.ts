import { decodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { hostsFile, podHost } from "./hostname.ts";
import type { PodSpec } from "./pod.ts";
import { context } from "./testdata/fixtures.ts";

const spec = (changes: Partial<PodSpec>): PodSpec => ({ containers: [], ...changes });

describe("podHost", () => {
  it.each<[Partial<PodSpec>, string, string]>([
    [{}, "web-1", "web-1"],
    [{ hostname: "own" }, "web-1", "own"],
    [{ hostname: "own", subdomain: "sub" }, "web-1", "own"],
    [{ hostname: "own", subdomain: "sub", setHostnameAsFQDN: true }, "web-1", "own.sub.default.svc.cluster.local"],
    [{ setHostnameAsFQDN: true }, "web-1", "web-1"],
    [{ hostnameOverride: "any.where" }, "web-1", "any.where"],
    [{}, "a".repeat(70), "a".repeat(63)],
    [{}, `${"a".repeat(60)}.--b.c`, "a".repeat(60)],
    [{}, `${"a".repeat(62)}.b`, "a".repeat(62)],
  ])("of %j and pod %s", (changes, name, hostname) => {
    expect(podHost(spec(changes), context({ name })).hostname).toBe(hostname);
  });

  it.each<[Partial<PodSpec>]>([
    [{ hostname: "Upper" }],
    [{ hostname: "a.b" }],
    [{ subdomain: "a.b" }],
    [{ hostname: "a".repeat(40), subdomain: "sub", setHostnameAsFQDN: true }],
    [{ hostnameOverride: "a".repeat(65) }],
    [{ hostnameOverride: "a", setHostnameAsFQDN: true }],
  ])("refuses %j", (changes) => {
    expect(() => podHost(spec(changes), context())).toThrow(expect.objectContaining({ code: "ERR_KUBELET_INVALID_POD" }));
  });
});

describe("hostsFile", () => {
  it("gives each address of the pod its name in the domain first", () => {
    const host = podHost(spec({ hostname: "own", subdomain: "sub" }), context());
    const text = decodeUtf8(hostsFile(host, spec({}), context({ podIps: ["10.0.2.100", "fd00::100"], hosts: [] })));
    expect(text.split("\n").slice(-3)).toEqual(["10.0.2.100\town.sub.default.svc.cluster.local\town", "fd00::100\town.sub.default.svc.cluster.local\town", ""]);
  });
});
