import {
  type ARPNeighbor,
  ARPNeighborSchema,
  create,
  type DescMessage,
  type Interface,
  InterfaceSchema,
  IPFamily,
  type MessageInitShape,
  type Route,
  RouteSchema,
} from "@sealpod/proto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { IpNetwork } from "./network.ts";
import { errorOf } from "./test-support.ts";

/** Fields of a message. */
type Init<D extends DescMessage> = Exclude<MessageInitShape<D>, { readonly $typeName: string }>;

const MAC = "02:00:00:00:00:01";

const LO = { ifname: "lo", flags: ["LOOPBACK", "UP"], mtu: 65536, address: "00:00:00:00:00:00", link_type: "loopback", addr_info: [] };
const ETH0 = {
  ifname: "eth0",
  flags: ["BROADCAST", "UP"],
  mtu: 1500,
  address: MAC,
  link_type: "ether",
  addr_info: [
    { family: "inet", local: "10.0.2.100", prefixlen: 24 },
    { family: "inet6", local: "fd00::1", prefixlen: 64 },
  ],
};

/** A network whose `ip` writes down what it is asked. */
function network(links: readonly object[] = [LO, ETH0], { ipv6 = true, routes = "[]", late = [] as readonly object[] } = {}) {
  const calls: { readonly args: readonly string[]; readonly input: string | undefined }[] = [];
  const shown = [...links];
  let pauses = 0;
  const made = new IpNetwork({
    ip(args, input) {
      calls.push({ args, input });
      if (args.includes("-batch")) return Promise.resolve("");
      return Promise.resolve(args.includes("address") ? JSON.stringify(shown) : routes);
    },
    hasIpv6: () => ipv6,
    pause() {
      pauses++;
      shown.push(...late);
      return Promise.resolve();
    },
  });
  return { made, calls, pauses: () => pauses, batches: () => calls.filter(({ input }) => input !== undefined) };
}

const wanted = (fields: Init<typeof InterfaceSchema> = {}): Interface =>
  create(InterfaceSchema, {
    device: "eth0",
    name: "eth0",
    hwAddr: MAC,
    mtu: 1450n,
    IPAddresses: [
      { family: IPFamily.v4, address: "10.1.2.3", mask: "24" },
      { family: IPFamily.v6, address: "fd00::5", mask: "64" },
    ],
    ...fields,
  });
const route = (fields: Init<typeof RouteSchema>): Route => create(RouteSchema, fields);
const neighbour = (fields: Init<typeof ARPNeighborSchema> = {}): ARPNeighbor =>
  create(ARPNeighborSchema, { toIPAddress: { address: "10.1.2.9" }, device: "eth0", lladdr: "02:00:00:00:00:09", state: 128, ...fields });

describe("UpdateInterface", () => {
  it("sets addresses, MTU and ARP of the interface with the hardware address", async () => {
    const { made, batches } = network();
    await made.updateInterface(wanted({ hwAddr: MAC.toUpperCase() }));
    expect(batches()).toEqual([
      {
        args: ["-batch", "-"],
        input: `link set dev eth0 down
address flush dev eth0
link set dev eth0 mtu 1450
link set dev eth0 arp on
address replace 10.1.2.3/24 dev eth0
address replace fd00::5/64 dev eth0 nodad
link set dev eth0 up
`,
      },
    ]);
  });

  it("finds it by name where no interface has the address, and gives it the address", async () => {
    const { made, batches } = network([LO, { ...ETH0, address: "02:00:00:00:00:77" }]);
    await made.updateInterface(wanted({ IPAddresses: [], mtu: 0n, rawFlags: 128 }));
    expect(batches()[0]?.input).toBe(
      `link set dev eth0 down\naddress flush dev eth0\nlink set dev eth0 address ${MAC}\nlink set dev eth0 arp off\nlink set dev eth0 up\n`,
    );
  });

  it("renames, and swaps with an interface that has the name", async () => {
    const { made, batches } = network([
      LO,
      { ...ETH0, ifname: "ens3" },
      { ...ETH0, address: "02:00:00:00:00:02" },
      { ...ETH0, ifname: "sealpod0", address: "" },
    ]);
    await made.updateInterface(wanted({ IPAddresses: [], mtu: 0n }));
    expect(batches()[0]?.input?.split("\n")).toEqual([
      "link set dev ens3 down",
      "address flush dev ens3",
      "link set dev eth0 down",
      "link set dev eth0 name sealpod1",
      "link set dev ens3 name eth0",
      "link set dev sealpod1 name ens3",
      "link set dev ens3 up",
      "link set dev eth0 arp on",
      "link set dev eth0 up",
      "",
    ]);
  });

  it("waits for a device that is being plugged in, not for ever, and not for others", async () => {
    const late = network([LO], { late: [ETH0] });
    await late.made.updateInterface(wanted({ devicePath: "02/03" }));
    expect(late.pauses()).toBe(1);
    const never = network([LO]);
    expect((await errorOf(() => never.made.updateInterface(wanted({ devicePath: "02" })))).code).toBe("ERR_AGENT_STATE");
    expect(never.pauses()).toBe(59);
    const none = network([LO]);
    expect(await errorOf(() => none.made.updateInterface(wanted()))).toMatchObject({
      code: "ERR_AGENT_STATE",
      message: `the guest has no interface with the address ${MAC} or the name eth0`,
    });
    expect(none.pauses()).toBe(0);
  });

  it("leaves IPv6 addresses out where the kernel takes none", async () => {
    const { made, batches } = network([LO, ETH0], { ipv6: false });
    await made.updateInterface(wanted());
    expect(batches()[0]?.input).not.toContain("fd00");
    expect(batches()[0]?.input).toContain("10.1.2.3/24");
  });

  it("never takes the loopback interface, whatever its address is called", async () => {
    const { made, batches } = network([{ ...LO, address: MAC, ifname: "eth0" }]);
    expect((await errorOf(() => made.updateInterface(wanted()))).code).toBe("ERR_AGENT_STATE");
    expect(batches()).toEqual([]);
  });

  const v4 = (address: string, mask = "24"): Init<typeof InterfaceSchema> => ({ IPAddresses: [{ family: IPFamily.v4, address, mask }] });
  const v6 = (address: string, mask = "64"): Init<typeof InterfaceSchema> => ({ IPAddresses: [{ family: IPFamily.v6, address, mask }] });
  it.each<[string, Init<typeof InterfaceSchema>]>([
    ["the name lo", { name: "lo" }],
    ["the name all", { name: "all" }],
    ["no name", { name: "", device: "" }],
    ["a name with a newline", { name: "eth0\nlink" }],
    ["a name with a blank", { name: "a b" }],
    ["a name that is an option", { name: "-all" }],
    ["a name that is a path", { name: "../x" }],
    ["a name of 16 bytes", { name: "a".repeat(16) }],
    ["a name pattern", { name: "eth%d" }],
    ["no hardware address", { hwAddr: "" }],
    ["a zero hardware address", { hwAddr: "00:00:00:00:00:00" }],
    ["a multicast hardware address", { hwAddr: "03:00:00:00:00:01" }],
    ["a hardware address with a line after it", { hwAddr: `${MAC}\n` }],
    ["an MTU of 67", { mtu: 67n }],
    ["an MTU of 65536", { mtu: 65_536n }],
    ["an MTU beyond all numbers", { mtu: 2n ** 64n - 1n }],
    ["a device path that is a path", { devicePath: "../../x" }],
    ["an address that is none", v4("10.1.2")],
    ["an address with words after it", v4("10.1.2.3 dev lo")],
    ["an address of the other family", v4("fd00::1")],
    ["an IPv6 address with a zone", v6("fe80::1%eth0")],
    ["a zone with a newline", v6("fe80::1%\nlink")],
    ["a loopback address", v4("127.1.2.3")],
    ["the IPv6 loopback address", v6("0:0::1")],
    ["a loopback address inside an IPv6 one", v6("::ffff:127.0.0.1")],
    ["a prefix of 33", v4("10.1.2.3", "33")],
    ["a prefix of 129", v6("fd00::1", "129")],
    ["a mask in quads", v4("10.1.2.3", "255.255.255.0")],
    ["no prefix", v4("10.1.2.3", "")],
    ["more addresses than an interface has", { IPAddresses: Array.from({ length: 1025 }, () => ({ address: "10.1.2.3", mask: "24" })) }],
  ])("refuses %s, and asks the machine nothing", async (_what, fields) => {
    const { made, calls } = network();
    expect((await errorOf(() => made.updateInterface(wanted(fields)))).code).toBe("ERR_AGENT_REQUEST");
    expect(calls).toEqual([]);
  });
});

describe("UpdateRoutes", () => {
  it("sets routes of both families, the ways to gateways first", async () => {
    const { made, batches } = network();
    await made.updateRoutes([
      route({ dest: "", gateway: "10.1.2.1", device: "eth0", source: "10.1.2.3" }),
      route({ dest: "10.9.0.0/16", device: "eth0", scope: 253, mtu: 1400 }),
      route({ dest: "default", gateway: "fd00::1", device: "eth0", family: IPFamily.v6, flags: 4 }),
      route({ dest: "10.8.8.8", gateway: "10.1.2.1" }),
    ]);
    expect(batches()).toEqual([
      {
        args: ["-4", "-batch", "-"],
        input: `route replace unicast 10.9.0.0/16 dev eth0 scope 253 mtu 1400 proto boot table main
route replace unicast default via 10.1.2.1 dev eth0 src 10.1.2.3 scope 0 proto boot table main
route replace unicast 10.8.8.8 via 10.1.2.1 scope 0 proto boot table main
`,
      },
      { args: ["-6", "-batch", "-"], input: "route replace unicast default via fd00::1 dev eth0 proto boot table main onlink\n" },
    ]);
  });

  it("runs nothing for no routes, nor for those of a family that is off", async () => {
    const { made, calls } = network([], { ipv6: false });
    await made.updateRoutes([route({ dest: "fd01::/48", device: "eth0", family: IPFamily.v6 })]);
    expect(calls).toEqual([]);
  });

  it.each<[string, Init<typeof RouteSchema>]>([
    ["the device lo", { dest: "10.0.0.0/8", device: "lo" }],
    ["neither gateway nor device", { dest: "10.0.0.0/8" }],
    ["a destination with words", { dest: "10.0.0.0/8 table local", device: "eth0" }],
    ["a destination that is a keyword", { dest: "local", device: "eth0" }],
    ["a destination with two prefixes", { dest: "10.0.0.0/8/8", device: "eth0" }],
    ["a loopback destination", { dest: "127.0.0.0/8", device: "eth0" }],
    ["a source that is no address", { dest: "", gateway: "10.0.0.1", source: "10.0.0.1;" }],
    ["a loopback source", { dest: "", gateway: "10.0.0.1", source: "127.0.0.1" }],
    ["a gateway of the other family", { dest: "", gateway: "fd00::1" }],
    ["a scope of 256", { dest: "10.0.0.0/8", device: "eth0", scope: 256 }],
    ["an MTU of 1", { dest: "10.0.0.0/8", device: "eth0", mtu: 1 }],
  ])("refuses %s, with every other route of the request", async (_what, fields) => {
    const { made, calls } = network();
    expect((await errorOf(() => made.updateRoutes([route({ dest: "10.5.0.0/16", device: "eth0" }), route(fields)]))).code).toBe("ERR_AGENT_REQUEST");
    expect(calls).toEqual([]);
  });
});

describe("AddARPNeighbors", () => {
  it("sets states, routers and proxies", async () => {
    const { made, batches } = network();
    await made.addNeighbours([
      neighbour(),
      neighbour({ state: 2, flags: 128 }),
      neighbour({ state: 0 }),
      neighbour({ flags: 8, lladdr: "" }),
      neighbour({ toIPAddress: { family: IPFamily.v6, address: "fd00::9" } }),
    ]);
    expect(batches()[0]?.input?.split("\n")).toEqual([
      "neighbour replace 10.1.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
      "neighbour replace 10.1.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable router",
      "neighbour replace 10.1.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
      "neighbour replace proxy 10.1.2.9 dev eth0",
      "neighbour replace fd00::9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
      "",
    ]);
  });

  it.each<[string, Init<typeof ARPNeighborSchema>]>([
    ["no address", { toIPAddress: {} }],
    ["a mask", { toIPAddress: { address: "10.1.2.9", mask: "32" } }],
    ["a loopback address", { toIPAddress: { address: "127.0.0.1" } }],
    ["the device lo", { device: "lo" }],
    ["a state that only the kernel sets", { state: 1 }],
    ["a state below zero", { state: -1 }],
    ["a flag that is not known", { flags: 1 }],
    ["flags below zero", { flags: -1 }],
    ["a hardware address that is none", { lladdr: "02:00:00:00:00" }],
  ])("refuses %s", async (_what, fields) => {
    const { made, calls } = network();
    expect((await errorOf(() => made.addNeighbours([neighbour(fields)]))).code).toBe("ERR_AGENT_REQUEST");
    expect(calls).toEqual([]);
  });
});

describe("lists", () => {
  it("tells interfaces as the API has them", async () => {
    const { made } = network([{ ...ETH0, flags: ["NOARP"] }]);
    expect(await made.interfaces()).toEqual([
      {
        device: "eth0",
        name: "eth0",
        hwAddr: MAC,
        mtu: 1500n,
        type: "ether",
        rawFlags: 128,
        IPAddresses: [
          { family: IPFamily.v4, address: "10.0.2.100", mask: "24" },
          { family: IPFamily.v6, address: "fd00::1", mask: "64" },
        ],
      },
    ]);
  });

  it("tells routes as the API has them", async () => {
    const { made } = network([], {
      ipv6: false,
      routes: JSON.stringify([
        { dst: "default", gateway: "10.1.2.1", dev: "eth0", prefsrc: "10.1.2.3", flags: ["onlink"], metrics: [{ mtu: 1300 }] },
        { dst: "10.9.0.0/16", dev: "eth0", scope: "253", flags: [] },
      ]),
    });
    const rest = { source: "", family: IPFamily.v4, mtu: 0, flags: 0 };
    expect(await made.routes()).toEqual([
      { dest: "", gateway: "10.1.2.1", device: "eth0", source: "10.1.2.3", scope: 0, family: IPFamily.v4, flags: 4, mtu: 1300 },
      { ...rest, dest: "10.9.0.0/16", gateway: "", device: "eth0", scope: 253 },
    ]);
  });
});

describe("one change at a time", () => {
  it("looks again after the change before", async () => {
    const { made, calls } = network();
    await Promise.all([made.updateInterface(wanted()), made.updateInterface(wanted({ name: "net1" }))]);
    expect(calls.map(({ args }) => args.join(" "))).toEqual(["-json address show", "-batch -", "-json address show", "-batch -"]);
  });

  it("goes on after one that failed", async () => {
    const { made, batches } = network();
    const both = [made.updateInterface(wanted({ hwAddr: "02:00:00:00:00:0a", name: "other" })), made.updateInterface(wanted())];
    expect((await Promise.allSettled(both)).map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
    expect(batches()).toHaveLength(1);
  });
});

it("lets no text of the host be more than one word of a line", async () => {
  const hostile = fc.oneof(
    fc.string({ unit: "binary", maxLength: 20 }),
    fc.stringMatching(/^[0-9a-f.:%/ \n"'\\#-]{0,20}$/),
    fc.constantFrom("10.0.0.1", "fd00::1", "10.0.0.0/8", "eth0", MAC, "24", "::/0", ""),
  );
  const words = /^(?:[A-Za-z0-9:][A-Za-z0-9.:/_-]*(?: |\n))*$/;
  const family = fc.constantFrom(IPFamily.v4, IPFamily.v6);
  await fc.assert(
    fc.asyncProperty(fc.record({ a: hostile, b: hostile, c: hostile, d: hostile, family, number: fc.nat(300) }), async ({ a, b, c, d, family: of, number }) => {
      const { made, batches } = network();
      const longest = 12;
      await Promise.allSettled([
        made.updateInterface(wanted({ name: a, hwAddr: b, IPAddresses: [{ family: of, address: c, mask: d }] })),
        made.updateInterface(wanted({ IPAddresses: [{ family: of, address: c, mask: d }] })),
        made.updateRoutes([route({ dest: a, gateway: b, device: c, source: d, family: of, scope: number })]),
        made.addNeighbours([neighbour({ toIPAddress: { family: of, address: a }, device: b, lladdr: c, state: number })]),
      ]);
      for (const { input } of batches()) {
        expect(input).toMatch(words);
        for (const line of input?.split("\n") ?? []) expect(line.split(" ").length).toBeLessThanOrEqual(longest + 4);
      }
    }),
    { numRuns: 300 },
  );
});
