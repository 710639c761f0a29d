import {
  AgentService,
  IPFamily,
  type AddARPNeighborsRequestSchema,
  type MessageInitShape,
  type UpdateInterfaceRequestSchema,
  type UpdateRoutesRequestSchema,
} from "@sealpod/proto";
import type { AgentClient } from "./agent-client.ts";
import { SandboxError } from "./errors.ts";

/** IFF_NOARP: the one flag of an interface that policies allow (specs/runtime.md 3.8). */
const IFF_NOARP = 128;

/** RTNH_F_ONLINK: the gateway is reached without a route to it. */
const RTNH_F_ONLINK = 4;

/** An address of an interface of the guest. */
export interface GuestAddress {
  readonly family: 4 | 6;
  readonly address: string;
  readonly prefixLength: number;
}

/** The network of a guest; what `createTaps` of `@sealpod/vmm` finds in a pod's namespace has this form. */
export interface GuestNetwork {
  readonly interfaces: readonly {
    readonly name: string;
    readonly mac: string;
    readonly mtu: number;
    readonly noArp: boolean;
    readonly addresses: readonly GuestAddress[];
  }[];
  readonly routes: readonly {
    readonly family: 4 | 6;
    /** With prefix length; empty for the default route. */
    readonly destination: string;
    /** Empty without one. */
    readonly gateway: string;
    readonly device: string;
    /** Preferred address of the sender, or empty. */
    readonly source: string;
    readonly scope: number;
    readonly onLink: boolean;
    /** 0 for that of the interface. */
    readonly mtu: number;
  }[];
  readonly neighbours: readonly {
    readonly family: 4 | 6;
    readonly address: string;
    readonly device: string;
    readonly mac: string;
    /** 128 for ever, 2 known at the moment: policies allow no others. */
    readonly state: 2 | 128;
  }[];
}

/** An interface as a driver of machines describes it (`Machine.guestNetwork`). */
export interface DriverInterface {
  readonly name: string;
  readonly mac: string;
  /** Address and prefix length, for example `10.0.2.100/24`. */
  readonly addresses: readonly string[];
  readonly mtu: number;
  readonly gateway?: string;
}

/** Requests that give a guest its network, in the order in which they are sent. */
export interface NetworkRequests {
  readonly interfaces: readonly MessageInitShape<typeof UpdateInterfaceRequestSchema>[];
  /** Absent without routes. */
  readonly routes: MessageInitShape<typeof UpdateRoutesRequestSchema> | undefined;
  /** Absent without neighbours. */
  readonly neighbours: MessageInitShape<typeof AddARPNeighborsRequestSchema> | undefined;
}

/**
 * The network of a machine whose driver chose it: its addresses, and a default route for each family that has a gateway.
 * @throws {SandboxError} ERR_SANDBOX_SPEC
 */
export function driverNetwork(interfaces: readonly DriverInterface[]): GuestNetwork {
  return {
    interfaces: interfaces.map(({ name, mac, mtu, addresses }) => ({
      name,
      mac,
      mtu,
      noArp: false,
      addresses: addresses.map((text) => parseAddress(name, text)),
    })),
    routes: interfaces.flatMap(({ name, gateway }) =>
      gateway === undefined
        ? []
        : [
            {
              family: gateway.includes(":") ? (6 as const) : (4 as const),
              destination: "",
              gateway,
              device: name,
              source: "",
              scope: 0,
              onLink: false,
              mtu: 0,
            },
          ],
    ),
    neighbours: [],
  };
}

/**
 * What the agent is asked, in the form that policies accept (specs/runtime.md 3.8, 4.12): device and name are one, no type, no path of a
 * device, neighbours without mask and flags. Routes to networks come before those that need them.
 * @throws {SandboxError} ERR_SANDBOX_SPEC for what every policy refuses
 */
export function networkRequests(network: GuestNetwork): NetworkRequests {
  const names = new Set(network.interfaces.map(({ name }) => name));
  for (const { device } of [...network.routes, ...network.neighbours]) {
    if (!names.has(device))
      throw new SandboxError("ERR_SANDBOX_SPEC", `the guest's network has a route or neighbour of ${JSON.stringify(device)}, which is none of its interfaces`);
  }
  const routes = network.routes.toSorted((left, right) => Number(left.gateway !== "") - Number(right.gateway !== ""));
  return {
    interfaces: network.interfaces.map((item) => ({ interface: interfaceOf(item) })),
    routes:
      routes.length === 0
        ? undefined
        : {
            routes: {
              Routes: routes.map(({ family, destination, gateway, device, source, scope, onLink, mtu }) => ({
                dest: destination,
                gateway,
                device,
                source,
                scope,
                family: familyOf(family),
                flags: onLink ? RTNH_F_ONLINK : 0,
                mtu,
              })),
            },
          },
    neighbours:
      network.neighbours.length === 0
        ? undefined
        : {
            neighbors: {
              ARPNeighbors: network.neighbours.map(({ family, address, device, mac, state }) => ({
                toIPAddress: { family: familyOf(family), address, mask: "" },
                device,
                lladdr: mac,
                state,
                flags: 0,
              })),
            },
          },
  };
}

/**
 * Gives a guest its network: interfaces one after the other, then routes, then neighbours. A guest without interfaces is asked nothing.
 * @throws {SandboxError} ERR_SANDBOX_DENIED and others
 */
export async function configureNetwork(client: Pick<AgentClient, "call">, network: GuestNetwork): Promise<void> {
  const { interfaces, routes, neighbours } = networkRequests(network);
  for (const request of interfaces) await client.call(AgentService.method.updateInterface, request);
  if (routes !== undefined) await client.call(AgentService.method.updateRoutes, routes);
  if (neighbours !== undefined) await client.call(AgentService.method.addARPNeighbors, neighbours);
}

function interfaceOf({
  name,
  mac,
  mtu,
  noArp,
  addresses,
}: GuestNetwork["interfaces"][number]): NonNullable<MessageInitShape<typeof UpdateInterfaceRequestSchema>["interface"]> {
  if (name === "lo" || mac === "00:00:00:00:00:00") {
    throw new SandboxError(
      "ERR_SANDBOX_SPEC",
      `the guest's network has interface ${JSON.stringify(name)} with hardware address ${mac}: the loopback is the guest's own`,
    );
  }
  return {
    device: name,
    name,
    IPAddresses: addresses.map(({ family, address, prefixLength }) => ({ family: familyOf(family), address, mask: String(prefixLength) })),
    mtu: BigInt(mtu),
    hwAddr: mac,
    devicePath: "",
    type: "",
    rawFlags: noArp ? IFF_NOARP : 0,
  };
}

function parseAddress(name: string, text: string): GuestAddress {
  const [, address, digits] = /^([0-9a-fA-F.:]{2,45})\/([0-9]{1,3})$/.exec(text) ?? [];
  const family = address?.includes(":") === true ? 6 : 4;
  const prefixLength = Number(digits);
  if (address !== undefined && prefixLength <= (family === 4 ? 32 : 128)) return { family, address, prefixLength };
  throw new SandboxError("ERR_SANDBOX_SPEC", `interface ${name} has address ${JSON.stringify(text.slice(0, 60))}, expected an address and a prefix length`);
}

function familyOf(family: 4 | 6): IPFamily {
  return family === 4 ? IPFamily.v4 : IPFamily.v6;
}
