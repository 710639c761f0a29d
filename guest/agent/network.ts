import { isIPv4, isIPv6 } from "node:net";
import { type ARPNeighbor, type Interface, type IPAddress, InterfaceSchema, IPFamily, type MessageInitShape, type Route, RouteSchema } from "@sealpod/proto";
import { outputOf } from "./command.ts";
import { shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

type InterfaceInit = MessageInitShape<typeof InterfaceSchema>;
type RouteInit = MessageInitShape<typeof RouteSchema>;

/** The guest's network as the host may see and change it, where the policy lets it (specs/runtime.md 2.11). */
export interface GuestNetwork {
  /** Gives an interface, found by its hardware address, else by its name, exactly these addresses, this name and MTU. */
  updateInterface(wanted: Interface): Promise<void>;
  /** Sets routes of the main table; those to other destinations stay. */
  updateRoutes(routes: readonly Route[]): Promise<void>;
  addNeighbours(neighbours: readonly ARPNeighbor[]): Promise<void>;
  interfaces(): Promise<InterfaceInit[]>;
  routes(): Promise<RouteInit[]>;
}

/** Runs `ip` with arguments and input, and gives its output: the seam for tests. */
export type IpProgram = (args: readonly string[], input?: string) => Promise<string>;

/** What a network works with. */
export interface NetworkPorts {
  /** Default: /usr/sbin/ip. */
  readonly ip?: IpProgram;
  /** True where the kernel takes IPv6 addresses. */
  readonly hasIpv6: () => boolean;
  /** Waits a moment for a device that is being plugged in. */
  readonly pause: () => Promise<void>;
}

/** Most addresses, routes or neighbours of one request. A node's routes are a dozen; thousands of lines for `ip` are somebody's attack. */
const MAX_ITEMS = 1024;
/** How often a device is looked for that the host says it plugs in: with the pause of 50 ms that is hotplug_timeout, 3 s (specs/runtime.md 2.9). */
const MAX_LOOKS = 60;
/** Shortest MTU of IPv4 (RFC 791) and the longest of the field. */
const MTU_RANGE = { min: 68, max: 65_535 };

/** Names of interfaces: at most 15 bytes (IFNAMSIZ), and none that means something in a sysctl path or a name pattern. */
const DEVICE = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/;
const NO_DEVICE: ReadonlySet<string> = new Set(["lo", "all", "default"]);
const MAC = /^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$/;
/** Addresses of PCI devices as shims write them: they choose no device here, the hardware address does. */
const PCI_PATH = /^[0-9a-f]{2}(?:\.[0-7])?(?:\/[0-9a-f]{2}(?:\.[0-7])?){0,3}$/;
/** Every word of a line for `ip -batch`: nothing in it ends a word or a line, quotes, or begins a comment. */
const WORD = /^[A-Za-z0-9:][A-Za-z0-9.:/_-]*$/;

/** IFF_NOARP, the one flag of an interface that can be asked for. */
const IFF_NOARP = 128;
/** RTNH_F_ONLINK: the gateway is reachable without a route to it. */
const RTNH_F_ONLINK = 4;
/** NUD states that can be set (rtnetlink(7)); the others are for the kernel to find. 0 is "permanent". */
const NEIGHBOUR_STATES: ReadonlyMap<number, string> = new Map([
  [0, "permanent"],
  [2, "reachable"],
  [4, "stale"],
  [64, "noarp"],
  [128, "permanent"],
]);
/** NTF_PROXY and NTF_ROUTER. */
const NTF_PROXY = 8;
const NTF_ROUTER = 128;

/** What `ip -json address` tells of an interface. */
interface Link {
  readonly ifname: string;
  readonly flags: readonly string[];
  readonly mtu: number;
  readonly address?: string;
  readonly link_type: string;
  readonly addr_info: readonly { readonly family: string; readonly local: string; readonly prefixlen: number }[];
}

type Line = readonly (string | number)[];

/** The network namespace of the agent, by iproute2. What the host says becomes words of lines only after each was checked. */
export class IpNetwork implements GuestNetwork {
  readonly #ports: NetworkPorts;
  readonly #ip: IpProgram;
  /** One change at a time: each looks before it acts. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(ports: NetworkPorts) {
    this.#ports = ports;
    this.#ip = ports.ip ?? ((args, input) => outputOf("/usr/sbin/ip", args, input));
  }

  async updateInterface(wanted: Interface): Promise<void> {
    const { devicePath, rawFlags } = wanted;
    const name = device(wanted.name !== "" ? wanted.name : wanted.device);
    const mac = hardwareAddress(wanted.hwAddr);
    const mtu = checkMtu(wanted.mtu);
    const addresses = few(wanted.IPAddresses, "addresses").map((entry) => prefix(entry));
    if (devicePath !== "" && !PCI_PATH.test(devicePath)) throw refused(`device path ${shown(devicePath)} is not one of PCI`);

    await this.#alone(async () => {
      const { link, links } = await this.#find(mac, name, devicePath !== "");
      const other = links.find(({ ifname }) => ifname === name && ifname !== link.ifname);
      const old = device(link.ifname);
      const lines: Line[] = [
        ["link", "set", "dev", old, "down"],
        ["address", "flush", "dev", old],
      ];
      if (link.address?.toLowerCase() !== mac) lines.push(["link", "set", "dev", old, "address", mac]);
      if (old !== name) lines.push(...rename(old, name, other, links));
      if (mtu !== 0) lines.push(["link", "set", "dev", name, "mtu", mtu]);
      lines.push(["link", "set", "dev", name, "arp", (rawFlags & IFF_NOARP) === 0 ? "on" : "off"]);
      for (const { text, version } of addresses) {
        if (version === 4) lines.push(["address", "replace", text, "dev", name]);
        // Whether the address is free, the node has found out; a guest that asks again would wait a second for no answer.
        else if (this.#ports.hasIpv6()) lines.push(["address", "replace", text, "dev", name, "nodad"]);
      }
      lines.push(["link", "set", "dev", name, "up"]);
      await this.#batch([], lines);
    });
  }

  async updateRoutes(routes: readonly Route[]): Promise<void> {
    const checked = few(routes, "routes").map((route) => routeLine(route));
    // Those without a gateway first: they are the way to the gateways.
    const ordered = [...checked.filter(({ gateway }) => !gateway), ...checked.filter(({ gateway }) => gateway)];
    await this.#alone(async () => {
      for (const version of [4, 6] as const) {
        const lines = ordered.filter((route) => route.version === version).map(({ line }) => line);
        if (version === 4 || this.#ports.hasIpv6()) await this.#batch([`-${version}`], lines);
      }
    });
  }

  async addNeighbours(neighbours: readonly ARPNeighbor[]): Promise<void> {
    const lines = few(neighbours, "neighbours").map((neighbour) => neighbourLine(neighbour));
    await this.#alone(() => this.#batch([], lines));
  }

  async interfaces(): Promise<InterfaceInit[]> {
    return (await this.#links()).map(({ ifname, address, mtu, link_type: type, flags, addr_info: addresses }) => ({
      device: ifname,
      name: ifname,
      hwAddr: address ?? "",
      mtu: BigInt(mtu),
      type,
      rawFlags: flags.includes("NOARP") ? IFF_NOARP : 0,
      IPAddresses: addresses.map(({ family, local, prefixlen }) => ({
        family: family === "inet6" ? IPFamily.v6 : IPFamily.v4,
        address: local,
        mask: String(prefixlen),
      })),
    }));
  }

  async routes(): Promise<RouteInit[]> {
    const found: RouteInit[] = [];
    for (const version of [4, 6] as const) {
      if (version === 6 && !this.#ports.hasIpv6()) continue;
      const rows = parse(await this.#ip(["-N", "-json", `-${version}`, "route", "show", "table", "main"])) as readonly {
        readonly dst: string;
        readonly gateway?: string;
        readonly dev?: string;
        readonly prefsrc?: string;
        readonly scope?: string;
        readonly flags?: readonly string[];
        readonly metrics?: readonly { readonly mtu?: number }[];
      }[];
      for (const { dst, gateway = "", dev = "", prefsrc = "", scope = "0", flags, metrics } of rows) {
        found.push({
          dest: dst === "default" ? "" : dst,
          gateway,
          device: dev,
          source: prefsrc,
          scope: Number(scope),
          family: version === 6 ? IPFamily.v6 : IPFamily.v4,
          flags: flags?.includes("onlink") === true ? RTNH_F_ONLINK : 0,
          mtu: metrics?.find(({ mtu }) => mtu !== undefined)?.mtu ?? 0,
        });
      }
    }
    return found;
  }

  async #links(): Promise<readonly Link[]> {
    return parse(await this.#ip(["-json", "address", "show"])) as readonly Link[];
  }

  async #find(mac: string, name: string, patient: boolean): Promise<{ readonly link: Link; readonly links: readonly Link[] }> {
    for (let look = 1; ; look++) {
      const links = (await this.#links()).filter(({ flags }) => !flags.includes("LOOPBACK"));
      const link = links.find(({ address }) => address?.toLowerCase() === mac);
      if (link !== undefined) return { link, links };
      if (!patient || look === MAX_LOOKS) {
        const named = links.find(({ ifname }) => ifname === name);
        if (named !== undefined) return { link: named, links };
        throw new AgentError("ERR_AGENT_STATE", `the guest has no interface with the address ${mac} or the name ${name}`, { details: { mac, name } });
      }
      await this.#ports.pause();
    }
  }

  async #batch(options: readonly string[], lines: readonly Line[]): Promise<void> {
    if (lines.length === 0) return;
    const text = lines.map((line) => `${line.map((word) => checkedWord(String(word))).join(" ")}\n`).join("");
    await this.#ip([...options, "-batch", "-"], text);
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work, work);
    this.#last = done.catch(() => undefined);
    return done;
  }
}

/** Lines that give a link its name; one that has the name already gets the link's old one. */
function rename(old: string, name: string, other: Link | undefined, links: readonly Link[]): readonly Line[] {
  if (other === undefined) return [["link", "set", "dev", old, "name", name]];
  const taken = new Set(links.map(({ ifname }) => ifname));
  let spare = "sealpod0";
  for (let i = 1; taken.has(spare); i++) spare = `sealpod${i}`;
  const up: readonly Line[] = other.flags.includes("UP") ? [["link", "set", "dev", old, "up"]] : [];
  return [
    ["link", "set", "dev", name, "down"],
    ["link", "set", "dev", name, "name", spare],
    ["link", "set", "dev", old, "name", name],
    ["link", "set", "dev", spare, "name", old],
    ...up,
  ];
}

function routeLine(route: Route): { readonly line: Line; readonly version: 4 | 6; readonly gateway: boolean } {
  const version = route.family === IPFamily.v6 ? 6 : 4;
  const isDefault = route.dest === "" || route.dest === "default";
  const dest = isDefault ? "default" : destination(route.dest, version);
  const line: (string | number)[] = ["route", "replace", "unicast", dest];
  if (route.gateway !== "") line.push("via", address(route.gateway, version));
  if (route.device !== "") line.push("dev", device(route.device));
  else if (route.gateway === "") throw refused(`the route to ${dest} has neither gateway nor device`);
  if (route.source !== "") line.push("src", address(route.source, version));
  if (route.scope > 255) throw refused(`scope ${route.scope} of the route to ${dest} is not below 256`);
  if (version === 4) line.push("scope", route.scope);
  const mtu = checkMtu(BigInt(route.mtu));
  if (mtu !== 0) line.push("mtu", mtu);
  line.push("proto", "boot", "table", "main");
  if ((route.flags & RTNH_F_ONLINK) !== 0) line.push("onlink");
  return { line, version, gateway: route.gateway !== "" };
}

function neighbourLine({ toIPAddress, device: name, lladdr, state, flags }: ARPNeighbor): Line {
  if (toIPAddress === undefined) throw refused("a neighbour has no address");
  if (toIPAddress.mask !== "") throw refused(`the address of a neighbour has the mask ${shown(toIPAddress.mask)}`);
  const to = address(toIPAddress.address, toIPAddress.family === IPFamily.v6 ? 6 : 4);
  const nud = NEIGHBOUR_STATES.get(state);
  if (nud === undefined) throw refused(`neighbour ${to}: state ${state} cannot be set`);
  if ((flags & ~(NTF_PROXY | NTF_ROUTER)) !== 0) throw refused(`neighbour ${to}: flags ${flags} are more than proxy (8) and router (128)`);
  const router = (flags & NTF_ROUTER) === 0 ? [] : ["router"];
  if ((flags & NTF_PROXY) !== 0) return ["neighbour", "replace", "proxy", to, "dev", device(name), ...router];
  return ["neighbour", "replace", to, "lladdr", hardwareAddress(lladdr), "dev", device(name), "nud", nud, ...router];
}

/** An address and its prefix length. */
function prefix({ address: text, mask, family }: IPAddress): { readonly text: string; readonly version: 4 | 6 } {
  const version = family === IPFamily.v6 ? 6 : 4;
  return { text: `${address(text, version)}/${prefixLength(mask, version)}`, version };
}

function destination(text: string, version: 4 | 6): string {
  const slash = text.indexOf("/");
  if (slash < 0) return address(text, version);
  return `${address(text.slice(0, slash), version)}/${prefixLength(text.slice(slash + 1), version)}`;
}

/** An address of one family. Loopback addresses are no use on a wire, and what listens there inside the pod expects the pod alone. */
function address(text: string, version: 4 | 6): string {
  // isIPv6 takes a zone after '%', which may hold anything.
  const good = version === 4 ? isIPv4(text) : isIPv6(text) && !text.includes("%");
  if (!good) throw refused(`${shown(text)} is not an IPv${version} address`);
  if (version === 4 ? text.startsWith("127.") : isIpv6Loopback(text)) throw refused(`${text} is a loopback address`);
  return text;
}

function isIpv6Loopback(text: string): boolean {
  const canonical = new URL(`http://[${text}]`).hostname;
  return canonical === "[::1]" || canonical.startsWith("[::ffff:7f");
}

function prefixLength(text: string, version: 4 | 6): string {
  if (!/^(?:0|[1-9][0-9]{0,2})$/.test(text) || Number(text) > (version === 4 ? 32 : 128)) throw refused(`${shown(text)} is no prefix length of IPv${version}`);
  return text;
}

function device(name: string): string {
  if (!DEVICE.test(name) || NO_DEVICE.has(name)) throw refused(`${shown(name)} is no name of an interface that can be changed`);
  return name;
}

/** A unicast hardware address that is not zero, in small letters. */
function hardwareAddress(text: string): string {
  const mac = text.toLowerCase();
  if (!MAC.test(mac) || mac === "00:00:00:00:00:00" || (Number.parseInt(mac.slice(0, 2), 16) & 1) !== 0)
    throw refused(`${shown(text)} is not the hardware address of an interface`);
  return mac;
}

/** The MTU as a number; 0 leaves it. */
function checkMtu(mtu: bigint): number {
  if (mtu !== 0n && (mtu < MTU_RANGE.min || mtu > MTU_RANGE.max)) throw refused(`MTU ${mtu} is not between ${MTU_RANGE.min} and ${MTU_RANGE.max}`);
  return Number(mtu);
}

function few<T>(items: readonly T[], what: string): readonly T[] {
  if (items.length > MAX_ITEMS) throw refused(`${items.length} ${what} in one request: at most ${MAX_ITEMS}`);
  return items;
}

/** The last look before a word of the host goes to a program: every one was checked by kind before. */
function checkedWord(word: string): string {
  if (!WORD.test(word)) throw refused(`${shown(word)} is no word`);
  return word;
}

function parse(text: string): unknown {
  return JSON.parse(text) as unknown;
}

function refused(problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", problem);
}
