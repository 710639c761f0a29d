import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseNamespaceNetwork, type NamespaceTexts } from "./tap-network.ts";

interface Link {
  readonly [name: string]: unknown;
}

const ADDRESS = { family: "inet", local: "10.88.0.2", prefixlen: 24, scope: "global" };
const ETH0: Link = {
  ifname: "eth0",
  flags: ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"],
  mtu: 1500,
  link_type: "ether",
  address: "02:00:00:00:00:10",
  addr_info: [ADDRESS],
};
const ROUTE = { type: "1", dst: "10.0.0.0/8", gateway: "10.88.0.1", dev: "eth0", protocol: "3", scope: "0", flags: [] };

function texts(parts: {
  readonly links?: readonly unknown[];
  readonly routes4?: readonly unknown[];
  readonly routes6?: readonly unknown[];
  readonly neighbours?: readonly unknown[];
}): NamespaceTexts {
  const text = (rows: readonly unknown[] = []): string => JSON.stringify(rows);
  return { addresses: text(parts.links ?? [ETH0]), routes4: text(parts.routes4), routes6: text(parts.routes6), neighbours: text(parts.neighbours) };
}

const refusal = (message: RegExp): unknown => expect.objectContaining({ code: "ERR_VMM_CONFIG", message: expect.stringMatching(message) as string }) as unknown;

describe("interfaces", () => {
  it.each<[string, Link]>([
    ["the loopback", { ...ETH0, ifname: "lo" }],
    ["another loopback", { ...ETH0, flags: ["LOOPBACK", "UP"] }],
    ["one that is down", { ...ETH0, flags: ["BROADCAST"] }],
    ["one without addresses", { ...ETH0, addr_info: [] }],
    ["one with nothing but the address that each makes itself", { ...ETH0, addr_info: [{ family: "inet6", local: "fe80::1", prefixlen: 64, scope: "link" }] }],
    ["one whose address another host has", { ...ETH0, addr_info: [{ family: "inet6", local: "fd00::1", prefixlen: 64, scope: "global", dadfailed: true }] }],
    ["a strange one that has no address", { ...ETH0, ifname: "a b", link_type: "none", addr_info: [] }],
    ["an empty row", {}],
  ])("leave out %s", (_what, link) => {
    expect(parseNamespaceNetwork(texts({ links: [link], routes4: [ROUTE] }))).toEqual({ interfaces: [], routes: [], neighbours: [] });
  });

  it.each<[string, Link, RegExp]>([
    ["a name that is an option", { ...ETH0, ifname: "-x" }, /interface called "-x"/],
    ["a name with a space", { ...ETH0, ifname: "a b" }, /interface called "a b"/],
    ["no name", { ...ETH0, ifname: 7 }, /interface called 7/],
    ["another kind of link", { ...ETH0, link_type: "none" }, /interface eth0 of type "none", expected "ether"/],
    ["a hardware address of many", { ...ETH0, address: "01:00:5e:00:00:01" }, /hardware address "01:00:5e:00:00:01"/],
    ["no hardware address", { ...ETH0, address: "00:00:00:00:00:00" }, /hardware address/],
    ["eight bytes of hardware address", { ...ETH0, address: "02:00:00:00:00:10:11:12" }, /hardware address/],
    ["an MTU of zero", { ...ETH0, mtu: 0 }, /MTU of 0/],
    ["an MTU that is text", { ...ETH0, mtu: "1500" }, /MTU of "1500"/],
    ["an address that is none", { ...ETH0, addr_info: [{ ...ADDRESS, local: "10.88.0.256" }] }, /address "10\.88\.0\.256"\/24/],
    ["an address of another interface", { ...ETH0, addr_info: [{ family: "inet6", local: "fd00::1%eth1", prefixlen: 64, scope: "global" }] }, /fd00::1%eth1/],
    ["a prefix that is too long", { ...ETH0, addr_info: [{ ...ADDRESS, prefixlen: 33 }] }, /\/33/],
    ["too many addresses", { ...ETH0, addr_info: Array.from({ length: 65 }, () => ADDRESS) }, /has 65 addresses/],
  ])("are refused with %s", (_what, link, message) => {
    expect(() => parseNamespaceNetwork(texts({ links: [link] }))).toThrow(refusal(message));
  });

  it("are refused when they are too many, or two of one name", () => {
    const links = Array.from({ length: 9 }, (_v, index) => ({ ...ETH0, ifname: `eth${index}` }));
    expect(() => parseNamespaceNetwork(texts({ links }))).toThrow(refusal(/has 9 interfaces with addresses, more than 8/));
    expect(parseNamespaceNetwork(texts({ links: links.slice(1) })).interfaces).toHaveLength(8);
    expect(() => parseNamespaceNetwork(texts({ links: [ETH0, ETH0] }))).toThrow(refusal(/two interfaces of one name/));
  });
});

describe("routes", () => {
  it.each<[string, object]>([
    ["of the kernel", { protocol: "2" }],
    ["that lead nowhere", { type: "6" }],
    ["whose link is dead", { flags: ["dead", "linkdown"] }],
    ["of other interfaces", { dev: "eth7" }],
    ["without an interface", { dev: undefined }],
  ])("%s are left out", (_what, change) => {
    expect(parseNamespaceNetwork(texts({ routes4: [{ ...ROUTE, ...change }] })).routes).toEqual([]);
  });

  it.each<[string, object, RegExp]>([
    ["by several gateways", { dev: undefined, nexthops: [{}, {}] }, /route to "10\.0\.0\.0\/8" by 2 gateways/],
    ["by a gateway of the other family", { gateway: undefined, via: { family: "inet6", host: "fe80::1" } }, /gateway of the other address family/],
    ["by a gateway that is no address", { gateway: "here" }, /with gateway "here"/],
    ["from a sender of the other family", { prefsrc: "fd00::1" }, /with sender "fd00::1"/],
    ["to a name", { dst: "localhost" }, /route to "localhost"/],
    ["to an address with two prefixes", { dst: "10.0.0.0/8/8" }, /route to/],
    ["to an empty prefix", { dst: "10.0.0.0/" }, /route to/],
    ["with a scope that is a word", { scope: "link" }, /scope "link"/],
  ])("%s are refused", (_what, change, message) => {
    expect(() => parseNamespaceNetwork(texts({ routes4: [{ ...ROUTE, ...change }] }))).toThrow(refusal(message));
  });

  it("to one host have its prefix length, in both families", () => {
    const network = parseNamespaceNetwork(texts({ routes4: [{ ...ROUTE, dst: "10.1.2.3" }], routes6: [{ ...ROUTE, dst: "fd00::7", gateway: "fe80::1" }] }));
    expect(network.routes.map(({ destination }) => destination)).toEqual(["10.1.2.3/32", "fd00::7/128"]);
  });

  it("of an absurd number are refused", () => {
    expect(() => parseNamespaceNetwork(texts({ routes4: Array.from({ length: 4097 }, () => ROUTE) }))).toThrow(
      refusal(/has 4097 routes of IPv4, more than 4096/),
    );
  });
});

describe("neighbours", () => {
  const neighbour = { dst: "10.88.0.1", dev: "eth0", lladdr: "02:00:00:00:00:01", state: ["PERMANENT"] };
  it.each<[string, object, number | undefined]>([
    ["one that stays", {}, 128],
    ["a gateway that is known now", { state: ["REACHABLE"] }, 2],
    ["another host that is known now", { dst: "10.88.0.9", state: ["REACHABLE"] }, undefined],
    ["one that is not sure", { state: ["STALE"] }, undefined],
    ["one that does not answer", { state: ["FAILED"], lladdr: undefined }, undefined],
    ["one of another interface", { dev: "eth1" }, undefined],
    ["one that is no address", { dst: "x" }, undefined],
  ])("%s", (_what, change, state) => {
    const { neighbours } = parseNamespaceNetwork(texts({ routes4: [ROUTE], neighbours: [{ ...neighbour, ...change }] }));
    expect(neighbours.map((item) => item.state)).toEqual(state === undefined ? [] : [state]);
  });
});

describe("any text at all", () => {
  it("gives a network or an error of this package", () => {
    const hostile = fc.oneof(
      fc.string(),
      fc.json(),
      fc.array(fc.object()).map((value) => JSON.stringify(value)),
    );
    fc.assert(
      fc.property(hostile, hostile, (first, second) => {
        const good = texts({});
        for (const given of [
          { ...good, addresses: first },
          { ...good, routes4: first, neighbours: second },
          { ...good, routes6: second },
        ]) {
          try {
            parseNamespaceNetwork(given);
          } catch (error) {
            expect((error as { readonly code?: string }).code).toBe("ERR_VMM_CONFIG");
          }
        }
      }),
    );
  });

  it("that is empty says that there is nothing", () => {
    expect(parseNamespaceNetwork({ addresses: "", routes4: "\n", routes6: "", neighbours: "" })).toEqual({ interfaces: [], routes: [], neighbours: [] });
  });
});
