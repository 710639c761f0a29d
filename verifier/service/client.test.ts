import { describe, expect, it } from "vitest";
import { clientOf, TrustedProxies } from "./client.ts";

describe("clientOf", () => {
  it.each<[string | undefined, string]>([
    ["192.0.2.1", "192.0.2.1"],
    ["::ffff:192.0.2.1", "192.0.2.1"],
    ["::ffff:c000:201", "192.0.2.1"],
    ["2001:db8:0:1:aaaa:bbbb:cccc:dddd", "2001:db8:0:1::/64"],
    ["2001:db8:0:1::1", "2001:db8:0:1::/64"],
    ["2001:DB8::1:0:0:0:1", "2001:db8:0:1::/64"],
    ["fe80::1%eth0", "fe80:0:0:0::/64"],
    ["::1", "::/64"],
    ["1::", "1:0:0:0::/64"],
    ["1:2:3:4:5:6:1.2.3.4", "1:2:3:4::/64"],
    [undefined, "unknown"],
    ["", "unknown"],
    ["localhost", "unknown"],
    ["1.2.3", "unknown"],
  ])("%s is %s", (address, client) => {
    expect(clientOf(address)).toBe(client);
  });
});

describe("TrustedProxies", () => {
  const proxies = new TrustedProxies(["10.0.0.0/8", "2001:db8:ffff::/48", "192.0.2.7"]);

  it.each<[string, string | undefined, string | undefined, string]>([
    ["the peer, if it is no proxy, whatever it says", "198.51.100.1", "203.0.113.9", "198.51.100.1"],
    ["who the proxy says", "10.1.2.3", "203.0.113.9", "203.0.113.9"],
    ["who the proxy says, with a port", "10.1.2.3", "203.0.113.9:4711", "203.0.113.9"],
    ["who the proxy says, IPv6 with a port", "10.1.2.3", "[2001:db8::5]:4711", "2001:db8:0:0::/64"],
    ["the last that is no proxy", "10.1.2.3", "198.51.100.66, 203.0.113.9, 10.9.9.9, 192.0.2.7", "203.0.113.9"],
    ["not what the client wrote itself", "10.1.2.3", "1.1.1.1, 203.0.113.9", "203.0.113.9"],
    ["the proxy, if it names nobody", "10.1.2.3", "unknown", "10.1.2.3"],
    ["the proxy, if what it says is empty", "10.1.2.3", "", "10.1.2.3"],
    ["the inner proxy, if the outer one names nobody", "10.1.2.3", "_hidden, 10.0.0.7", "10.0.0.7"],
    ["the first proxy, if all are", "10.1.2.3", "10.0.0.9, 10.0.0.7", "10.0.0.9"],
    ["the peer without the header", "10.1.2.3", undefined, "10.1.2.3"],
    ["who an IPv4 proxy on a socket for both says", "::ffff:10.1.2.3", "203.0.113.9", "203.0.113.9"],
    ["who an IPv6 proxy says", "2001:db8:ffff::1", "203.0.113.9", "203.0.113.9"],
    ["nobody", undefined, "203.0.113.9", "unknown"],
  ])("takes %s", (_who, peer, header, client) => {
    expect(proxies.clientOf(peer, header)).toBe(client);
  });

  it("believes nobody by default", () => {
    expect(new TrustedProxies([]).clientOf("127.0.0.1", "203.0.113.9")).toBe("127.0.0.1");
  });

  it("reads no more of a long header than a chain of proxies has", () => {
    const header = `203.0.113.9, ${Array.from({ length: 10_000 }, () => "10.0.0.1").join(", ")}`;
    expect(proxies.clientOf("10.1.2.3", header)).toBe("10.0.0.1");
  });

  it.each(["", "proxy.example", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8/8", "::/129", "10.0.0/8", "10.0.0.0/-1"])("refuses the proxy %j", (text) => {
    expect(() => new TrustedProxies([text])).toThrow(expect.objectContaining({ code: "ERR_SERVICE_ARGUMENT" }));
  });
});
