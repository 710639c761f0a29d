import { spawn } from "node:child_process";
import { create, ARPNeighborSchema, InterfaceSchema, IPFamily, RouteSchema } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { outputOf } from "./command.ts";
import { IpNetwork } from "./network.ts";
import { errorOf } from "./test-support.ts";

const MAC = "02:00:00:00:00:01";

interface Namespace {
  readonly network: IpNetwork;
  readonly ip: (...args: readonly string[]) => Promise<string>;
}

/** A network namespace of its own with a pair of interfaces, `ens3` and `peer`; gone afterwards. */
async function inNamespace(use: (namespace: Namespace) => Promise<void>): Promise<void> {
  const holder = spawn("/usr/bin/unshare", ["--net", "/bin/sh", "-c", "echo ready; exec sleep 600"], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    await new Promise((resolve) => holder.stdout.once("data", resolve));
    const inside = (args: readonly string[], input?: string): Promise<string> =>
      outputOf("/usr/bin/nsenter", [`--net=/proc/${holder.pid}/ns/net`, "/usr/sbin/ip", ...args], input);
    const setUp = `link set lo up\nlink add ens3 address ${MAC} type veth peer name peer\nlink set peer up\naddress add 10.1.2.1/24 dev peer\n`;
    await inside(["-batch", "-"], setUp);
    await use({ network: new IpNetwork({ ip: inside, hasIpv6: () => true, pause: () => Promise.resolve() }), ip: (...args) => inside(args) });
  } finally {
    const ended = new Promise((resolve) => holder.once("exit", resolve));
    holder.kill("SIGKILL");
    await ended;
  }
}

const wanted = (name: string, last = 3) =>
  create(InterfaceSchema, {
    device: name,
    name,
    hwAddr: MAC,
    mtu: 1450n,
    IPAddresses: [
      { family: IPFamily.v4, address: `10.1.2.${last}`, mask: "24" },
      { family: IPFamily.v6, address: `fd00::${last}`, mask: "64" },
    ],
  });

describe.skipIf(process.getuid?.() !== 0)("the network of a guest, in a namespace of its own", () => {
  it("configures an interface, twice, and tells what it has", () =>
    inNamespace(async ({ network, ip }) => {
      await network.updateInterface(wanted("eth0"));
      await network.updateInterface(wanted("eth0", 4));
      const eth0 = (await network.interfaces()).find(({ name }) => name === "eth0");
      expect(eth0).toMatchObject({ hwAddr: MAC, mtu: 1450n, type: "ether", rawFlags: 0 });
      const addresses = eth0?.IPAddresses?.map(({ address, mask }) => `${address}/${mask}`).filter((text) => !text.startsWith("fe80"));
      expect(addresses).toEqual(["10.1.2.4/24", "fd00::4/64"]);
      expect(await ip("link", "show", "eth0")).toContain("UP");
    }));

  it("swaps the names of two interfaces", () =>
    inNamespace(async ({ network }) => {
      await network.updateInterface(wanted("peer"));
      const names = new Map((await network.interfaces()).map(({ name, hwAddr }) => [name, hwAddr]));
      expect(names.get("peer")).toBe(MAC);
      expect(new Set(names.keys())).toEqual(new Set(["ens3", "lo", "peer"]));
    }));

  it("sets routes that packets then take, again and in any order", () =>
    inNamespace(async ({ network, ip }) => {
      await network.updateInterface(wanted("eth0"));
      const routes = [
        create(RouteSchema, { dest: "", gateway: "10.9.0.1", device: "eth0", source: "10.1.2.3", mtu: 1300 }),
        create(RouteSchema, { dest: "10.9.0.0/16", device: "eth0", scope: 253 }),
        create(RouteSchema, { dest: "10.8.0.0/16", gateway: "10.7.0.1", device: "eth0", flags: 4 }),
        create(RouteSchema, { dest: "", gateway: "fd00::1", device: "eth0", family: IPFamily.v6 }),
      ];
      await network.updateRoutes(routes);
      await network.updateRoutes(routes);
      expect(await ip("-4", "route", "get", "192.0.2.1")).toContain("via 10.9.0.1 dev eth0 src 10.1.2.3");
      const found = await network.routes();
      const rest = { source: "", family: IPFamily.v4, mtu: 0, flags: 0, scope: 0 };
      expect(found).toContainEqual({ ...rest, dest: "", gateway: "10.9.0.1", device: "eth0", source: "10.1.2.3", mtu: 1300 });
      expect(found).toContainEqual({ ...rest, dest: "10.9.0.0/16", gateway: "", device: "eth0", scope: 253 });
      expect(found).toContainEqual({ ...rest, dest: "10.8.0.0/16", gateway: "10.7.0.1", device: "eth0", flags: 4 });
      expect(found).toContainEqual({ ...rest, dest: "", gateway: "fd00::1", device: "eth0", family: IPFamily.v6 });
      expect(found.filter(({ dest }) => dest === "")).toHaveLength(2);
    }));

  it("adds neighbours", () =>
    inNamespace(async ({ network, ip }) => {
      await network.updateInterface(wanted("eth0"));
      const neighbour = { toIPAddress: { address: "10.1.2.9" }, device: "eth0", lladdr: "02:00:00:00:00:09", state: 128 };
      await network.addNeighbours([
        create(ARPNeighborSchema, neighbour),
        create(ARPNeighborSchema, { ...neighbour, toIPAddress: { family: IPFamily.v6, address: "fd00::9" }, state: 2, flags: 128 }),
        create(ARPNeighborSchema, { ...neighbour, toIPAddress: { address: "10.1.2.8" }, flags: 8 }),
      ]);
      expect(await ip("neighbour", "show", "dev", "eth0")).toMatch(/^10\.1\.2\.9 lladdr 02:00:00:00:00:09 PERMANENT *$/m);
      expect(await ip("-6", "neighbour", "show", "dev", "eth0")).toMatch(/^fd00::9 lladdr 02:00:00:00:00:09 router/m);
      expect(await ip("neighbour", "show", "proxy")).toContain("10.1.2.8 dev eth0");
    }));

  it("tells what iproute2 said of a route that cannot be", () =>
    inNamespace(async ({ network }) => {
      const error = await errorOf(() => network.updateRoutes([create(RouteSchema, { dest: "10.0.0.0/8", device: "eth9" })]));
      expect(error).toMatchObject({ code: "ERR_AGENT_COMMAND", message: expect.stringContaining('Cannot find device "eth9"') as string });
    }));
});
