import { AKS_PROFILE, COCO_PROFILE, readOwnRules, readOwnSettings } from "@sealpod/genpolicy";
import { asObject, parseJson, type JsonValue } from "@sealpod/core";
import {
  AddARPNeighborsRequestSchema,
  IPFamily,
  UpdateInterfaceRequestSchema,
  UpdateRoutesRequestSchema,
  create,
  policyInput,
  type DescMessage,
  type MessageInitShape,
} from "@sealpod/proto";
import { compile } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { configureNetwork, driverNetwork, networkRequests, type GuestNetwork } from "./network.ts";

const NETWORK: GuestNetwork = {
  interfaces: [
    {
      name: "eth0",
      mac: "02:00:00:00:00:10",
      mtu: 1400,
      noArp: false,
      addresses: [
        { family: 4, address: "10.88.0.2", prefixLength: 24 },
        { family: 6, address: "fd00:88::2", prefixLength: 64 },
      ],
    },
    { name: "net1", mac: "02:00:00:00:00:11", mtu: 1500, noArp: true, addresses: [{ family: 4, address: "10.99.0.2", prefixLength: 16 }] },
  ],
  routes: [
    { family: 4, destination: "", gateway: "10.88.0.1", device: "eth0", source: "", scope: 0, onLink: false, mtu: 0 },
    { family: 4, destination: "10.78.0.0/16", gateway: "", device: "net1", source: "10.99.0.2", scope: 253, onLink: false, mtu: 1300 },
    { family: 6, destination: "", gateway: "fe80::1", device: "eth0", source: "", scope: 0, onLink: true, mtu: 0 },
  ],
  neighbours: [
    { family: 4, address: "10.88.0.1", device: "eth0", mac: "02:00:00:00:00:01", state: 128 },
    { family: 6, address: "fe80::1", device: "eth0", mac: "02:00:00:00:00:02", state: 2 },
  ],
};

describe("requests for a guest's network", () => {
  it("have the form of specs/runtime.md 4.12, routes without a gateway first", () => {
    const { interfaces, routes, neighbours } = networkRequests(NETWORK);
    expect(interfaces).toEqual([
      {
        interface: {
          device: "eth0",
          name: "eth0",
          IPAddresses: [
            { family: IPFamily.v4, address: "10.88.0.2", mask: "24" },
            { family: IPFamily.v6, address: "fd00:88::2", mask: "64" },
          ],
          mtu: 1400n,
          hwAddr: "02:00:00:00:00:10",
          devicePath: "",
          type: "",
          rawFlags: 0,
        },
      },
      { interface: expect.objectContaining({ name: "net1", rawFlags: 128 }) as unknown },
    ]);
    expect(routes?.routes?.Routes).toEqual([
      { dest: "10.78.0.0/16", gateway: "", device: "net1", source: "10.99.0.2", scope: 253, family: IPFamily.v4, flags: 0, mtu: 1300 },
      { dest: "", gateway: "10.88.0.1", device: "eth0", source: "", scope: 0, family: IPFamily.v4, flags: 0, mtu: 0 },
      { dest: "", gateway: "fe80::1", device: "eth0", source: "", scope: 0, family: IPFamily.v6, flags: 4, mtu: 0 },
    ]);
    expect(neighbours?.neighbors?.ARPNeighbors).toEqual([
      { toIPAddress: { family: IPFamily.v4, address: "10.88.0.1", mask: "" }, device: "eth0", lladdr: "02:00:00:00:00:01", state: 128, flags: 0 },
      { toIPAddress: { family: IPFamily.v6, address: "fe80::1", mask: "" }, device: "eth0", lladdr: "02:00:00:00:00:02", state: 2, flags: 0 },
    ]);
  });

  it("are sent in order, and those without content are not sent", async () => {
    const sent: string[] = [];
    const client = {
      call: async (method: { readonly input: { readonly name: string } }) => {
        sent.push(method.input.name);
      },
    } as unknown as Parameters<typeof configureNetwork>[0];
    await configureNetwork(client, NETWORK);
    expect(sent).toEqual(["UpdateInterfaceRequest", "UpdateInterfaceRequest", "UpdateRoutesRequest", "AddARPNeighborsRequest"]);
    await configureNetwork(client, { interfaces: [], routes: [], neighbours: [] });
    expect(sent).toHaveLength(4);
  });

  it("stop at the first that is refused", async () => {
    let calls = 0;
    const client = {
      call: async () => {
        calls++;
        throw new Error("no");
      },
    } as unknown as Parameters<typeof configureNetwork>[0];
    await expect(configureNetwork(client, NETWORK)).rejects.toThrow("no");
    expect(calls).toBe(1);
  });

  const [eth0] = NETWORK.interfaces;
  it.each<[string, GuestNetwork]>([
    ["the loopback", { ...NETWORK, interfaces: [...NETWORK.interfaces, { name: "lo", mac: "02:00:00:00:00:01", mtu: 65536, noArp: false, addresses: [] }] }],
    [
      "an interface without a hardware address",
      { interfaces: [{ name: "e", mac: "00:00:00:00:00:00", mtu: 1500, noArp: false, addresses: [] }], routes: [], neighbours: [] },
    ],
    ["a route of an interface that is not there", { ...NETWORK, neighbours: [], interfaces: eth0 === undefined ? [] : [eth0] }],
  ])("refuse %s", (_what, network) => {
    expect(() => networkRequests(network)).toThrow(expect.objectContaining({ code: "ERR_SANDBOX_SPEC" }));
  });
});

describe("the network of a driver", () => {
  it("becomes addresses and a default route", () => {
    const network = driverNetwork([{ name: "eth0", mac: "52:54:00:12:34:56", addresses: ["10.0.2.100/24", "fec0::100/64"], mtu: 1500, gateway: "10.0.2.2" }]);
    expect(network.interfaces[0]?.addresses).toEqual([
      { family: 4, address: "10.0.2.100", prefixLength: 24 },
      { family: 6, address: "fec0::100", prefixLength: 64 },
    ]);
    expect(networkRequests(network).routes?.routes?.Routes).toEqual([
      expect.objectContaining({ dest: "", gateway: "10.0.2.2", device: "eth0", family: IPFamily.v4 }),
    ]);
    expect(driverNetwork([{ name: "eth0", mac: "52:54:00:12:34:56", addresses: [], mtu: 1500 }]).routes).toEqual([]);
  });

  it.each(["", "10.0.2.100", "10.0.2.100/33", "fd00::1/129", "10.0.2.100/24/7", "a b/1", "10.0.2.100/-1"])("refuses the address %j", (text) => {
    expect(() => driverNetwork([{ name: "eth0", mac: "52:54:00:12:34:56", addresses: [text], mtu: 1500 }])).toThrow(
      expect.objectContaining({ code: "ERR_SANDBOX_SPEC" }),
    );
  });
});

describe.each([AKS_PROFILE, COCO_PROFILE])("policies of profile $name", (profile) => {
  /** Our own rules with our own settings: what a generated policy has of both. */
  async function judge(): Promise<<D extends DescMessage>(schema: D, init: MessageInitShape<D>) => boolean> {
    const settings = asObject(parseJson(await readOwnSettings(profile), "settings"));
    const data = JSON.stringify({ request_defaults: settings?.["request_defaults"] }, (_key, value: JsonValue) => value);
    const policy = compile([{ name: "agent_policy", text: `${await readOwnRules()}\npolicy_data := ${data}\n` }]);
    return (schema, init) =>
      policy.evaluate(`data.agent_policy.${schema.name}`, { input: policyInput(schema, create(schema, init)) }).results[0]?.expressions[0] === true;
  }

  it("accept the requests, and refuse those that differ where they must not", async () => {
    const allowed = await judge();
    const { interfaces, routes, neighbours } = networkRequests(NETWORK);
    for (const request of interfaces) expect(allowed(UpdateInterfaceRequestSchema, request)).toBe(true);
    expect(allowed(UpdateRoutesRequestSchema, routes ?? {})).toBe(true);
    expect(allowed(AddARPNeighborsRequestSchema, neighbours ?? {})).toBe(true);

    const [first] = interfaces;
    expect(allowed(UpdateInterfaceRequestSchema, { interface: { ...first?.interface, name: "lo" } })).toBe(false);
    expect(allowed(UpdateInterfaceRequestSchema, { interface: { ...first?.interface, rawFlags: 129 } })).toBe(false);
    const [route] = routes?.routes?.Routes ?? [];
    expect(allowed(UpdateRoutesRequestSchema, { routes: { Routes: [{ ...route, dest: "127.0.0.1/32" }] } })).toBe(false);
    const neighbour = { device: "eth0", lladdr: "02:00:00:00:00:01", state: 128, flags: 0 };
    const wrong = [
      { ...neighbour, state: 0 },
      { ...neighbour, flags: 1 },
      { ...neighbour, toIPAddress: { address: "10.88.0.1", mask: "32" } },
    ];
    for (const item of wrong) {
      const neighbor = { toIPAddress: { address: "10.88.0.1", mask: "" }, ...item };
      expect(allowed(AddARPNeighborsRequestSchema, { neighbors: { ARPNeighbors: [neighbor] } }), JSON.stringify(item)).toBe(false);
    }
  });
});
