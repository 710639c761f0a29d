import type { NamespaceNetwork, NamespaceRoute } from "@sealpod/vmm";
import { describe, expect, it } from "vitest";
import { forwardRules, forwardTargets, openPortForward, ourTables, removalRules } from "./port-forward.ts";

const route = (family: 4 | 6, device: string, destination = ""): NamespaceRoute => ({
  family,
  destination,
  gateway: family === 4 ? "10.0.0.1" : "fd00::1",
  device,
  source: "",
  scope: 0,
  onLink: false,
  mtu: 0,
});

const link = (name: string, ...addresses: readonly string[]): NamespaceNetwork["interfaces"][number] => ({
  name,
  mac: `02:00:00:00:00:0${name.at(-1)}`,
  mtu: 1500,
  noArp: false,
  addresses: addresses.map((address) => ({ family: address.includes(":") ? 6 : 4, address, prefixLength: 24 })),
});

const TAPS = [
  { tap: "tap0_kata", mac: "02:00:00:00:00:00" },
  { tap: "tap1_kata", mac: "02:00:00:00:00:01" },
];

describe("what loopback connections are forwarded to", () => {
  const interfaces = [link("eth0", "10.0.0.2", "10.0.0.3", "fd00::2"), link("eth1", "10.1.0.2", "fd01::2")];

  it("is, for each protocol, the first address of the interface with the default route", () => {
    expect(forwardTargets({ interfaces, routes: [route(4, "eth0"), route(6, "eth0")], neighbours: [] }, TAPS)).toEqual([
      { family: 4, address: "10.0.0.2", mac: "02:00:00:00:00:00", tap: "tap0_kata" },
      { family: 6, address: "fd00::2", mac: "02:00:00:00:00:00", tap: "tap0_kata" },
    ]);
    expect(forwardTargets({ interfaces, routes: [route(4, "eth0", "10.9.0.0/16"), route(4, "eth1"), route(6, "eth0")], neighbours: [] }, TAPS)).toEqual([
      { family: 4, address: "10.1.0.2", mac: "02:00:00:00:00:01", tap: "tap1_kata" },
      { family: 6, address: "fd00::2", mac: "02:00:00:00:00:00", tap: "tap0_kata" },
    ]);
  });

  it("is nothing where no answer would come back, or nobody has an address", () => {
    const only4 = [link("eth0", "10.0.0.2")];
    expect(forwardTargets({ interfaces: [], routes: [], neighbours: [] }, [])).toEqual([]);
    expect(forwardTargets({ interfaces, routes: [route(4, "eth0", "10.9.0.0/16")], neighbours: [] }, TAPS)).toEqual([]);
    expect(forwardTargets({ interfaces: only4, routes: [route(6, "eth0"), route(4, "eth9")], neighbours: [] }, TAPS)).toEqual([]);
    expect(forwardTargets({ interfaces: only4, routes: [route(4, "eth0")], neighbours: [] }, [])).toEqual([]);
  });

  it("is, without a target, nothing that commands are run for", async () => {
    expect(await openPortForward([], { namespace: "/nowhere/netns", programDirectories: [] })).toEqual({
      families: [],
      reason: "the pod has no default route, by which its answers would come back",
    });
  });
});

describe("the rules of port-forward", () => {
  it("are, for IPv4, these", () => {
    expect(forwardRules({ family: 4, address: "10.0.0.2", mac: "02:00:00:00:00:00", tap: "tap0_kata" })).toBe(`add table ip sealpod
delete table ip sealpod
add table netdev sealpod4
delete table netdev sealpod4
table ip sealpod {
  chain output {
    type nat hook output priority -110;
    meta l4proto tcp ip daddr 127.0.0.0/8 dnat to 10.0.0.2
  }
  chain postrouting {
    type nat hook postrouting priority 90;
    oifname "lo" ip daddr 10.0.0.2 ct status dnat snat to 169.254.83.80
  }
  chain prerouting {
    type filter hook prerouting priority -150;
    ip daddr 169.254.83.80 ct state != { established, related } drop
  }
}
table netdev sealpod4 {
  chain out {
    type filter hook ingress device "lo" priority 0;
    ip saddr 169.254.83.80 ip daddr 10.0.0.2 fwd ip to 10.0.0.2 device "tap0_kata"
  }
  chain back {
    type filter hook ingress device "tap0_kata" priority 0;
    ip daddr 169.254.83.80 meta pkttype set host accept
  }
}
`);
  });

  it("send, for IPv6, what comes back to the loopback interface first", () => {
    const rules = forwardRules({ family: 6, address: "fd00::2", mac: "02:00:00:00:00:00", tap: "tap1_kata" })
      .split("\n")
      .map((line) => line.trim());
    expect(rules).toEqual(
      expect.arrayContaining([
        "table ip6 sealpod {",
        "meta l4proto tcp ip6 daddr ::1 dnat to fd00::2",
        'oifname "lo" ip6 daddr fd00::2 ct status dnat snat to fd53:6561:6c70:6f64::1',
        "ip6 daddr fd53:6561:6c70:6f64::1 ct state != { established, related } drop",
        'ip6 saddr fd53:6561:6c70:6f64::1 ip6 daddr fd00::2 fwd ip6 to fd00::2 device "tap1_kata"',
        'ip6 daddr fd53:6561:6c70:6f64::1 meta pkttype set host fwd ip6 to ::1 device "lo"',
      ]),
    );
    expect(rules.filter((line) => /^(add|delete) table/.test(line))).toEqual([
      "add table ip6 sealpod",
      "delete table ip6 sealpod",
      "add table netdev sealpod6",
      "delete table netdev sealpod6",
    ]);
  });

  it("are found again by their names, and no others", () => {
    const text = "table ip sealpod\ntable ip6 sealpod\ntable netdev sealpod4\ntable netdev sealpod\ntable inet sealpod\ntable ip sealpod2\ntable ip nat\n";
    expect(ourTables(text)).toEqual(["ip sealpod", "ip6 sealpod", "netdev sealpod4"]);
    expect(ourTables("")).toEqual([]);
    expect(removalRules(["ip sealpod"])).toBe("add table ip sealpod\ndelete table ip sealpod\n");
  });
});
