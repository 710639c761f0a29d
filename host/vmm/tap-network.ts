import { isIPv4, isIPv6 } from "node:net";
import { asArray, asObject, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import type { TapInterface } from "./driver.ts";
import { VmmError } from "./errors.ts";
import { NamespaceCommands, type NamespaceOptions } from "./namespace-commands.ts";

/** Programs, with the Debian packages that have them. */
const PROGRAMS = { ip: "iproute2", tc: "iproute2" } as const;

/** Interfaces of a pod. Each costs commands and a card of the machine; pods with several networks have two or three. */
const MAX_INTERFACES = 8;

/** Addresses of one interface. */
const MAX_ADDRESSES = 64;

/** Routes, and neighbours, of a pod: all of them are one request to the agent, of at most 4 MiB. */
const MAX_ROWS = 4096;

/** Numbers of the kernel's routing interface. */
const ROUTE_UNICAST = "1";
const PROTOCOL_KERNEL = "2";

/** States of neighbours that a guest is given (specs/runtime.md 3.8). */
const NUD_REACHABLE = 2;
const NUD_PERMANENT = 128;

/** An address of an interface. */
export interface NamespaceAddress {
  readonly family: 4 | 6;
  readonly address: string;
  readonly prefixLength: number;
}

/** An interface of a pod's namespace whose place a card of the guest takes. */
export interface NamespaceInterface {
  readonly name: string;
  readonly mac: string;
  readonly mtu: number;
  /** The interface asks for no addresses of its neighbours. */
  readonly noArp: boolean;
  readonly addresses: readonly NamespaceAddress[];
}

/** A route of a pod's namespace. */
export interface NamespaceRoute {
  readonly family: 4 | 6;
  /** With prefix length; empty for the default route. */
  readonly destination: string;
  /** Empty for a network that is reached without one. */
  readonly gateway: string;
  readonly device: string;
  /** Preferred address of the sender, or empty. */
  readonly source: string;
  /** 0 everywhere, 253 this network, 254 this host. */
  readonly scope: number;
  /** The gateway is reached without a route to it. */
  readonly onLink: boolean;
  /** 0 if the route has none of its own. */
  readonly mtu: number;
}

/** A neighbour that the pod need not ask for. */
export interface NamespaceNeighbour {
  readonly family: 4 | 6;
  readonly address: string;
  readonly device: string;
  readonly mac: string;
  /** 128 for ever, 2 known at the moment. */
  readonly state: 2 | 128;
}

/** What a pod's namespace says of its network. */
export interface NamespaceNetwork {
  readonly interfaces: readonly NamespaceInterface[];
  readonly routes: readonly NamespaceRoute[];
  readonly neighbours: readonly NamespaceNeighbour[];
}

/** Output of `ip -json`, as text. */
export interface NamespaceTexts {
  /** `ip -json -details address show` */
  readonly addresses: string;
  /** `ip -json -details -N -4 route show table main` */
  readonly routes4: string;
  /** The same with `-6`. */
  readonly routes6: string;
  /** `ip -json neighbour show` */
  readonly neighbours: string;
}

/** Where {@link createTaps} works. */
export type TapNetworkOptions = NamespaceOptions;

/** Taps in a pod's namespace, each joined to the interface whose place its card takes. */
export interface TapNetwork {
  /** For the machine's configuration; in the order of the interfaces. */
  readonly interfaces: readonly TapInterface[];
  /** For the agent. */
  readonly network: NamespaceNetwork;
  /**
   * Takes everything back. What is gone already, the whole namespace included, is no error; calls after the first wait for the same end.
   * @throws {VmmError} ERR_VMM_BOOT
   */
  remove(): Promise<void>;
}

/**
 * Makes a tap beside each addressed interface of a network namespace and joins the two, so that every packet that reaches the interface
 * goes to the guest and every packet of the guest leaves by it; the guest takes the interface's addresses, hardware address included
 * (specs/runtime.md 4.12). A namespace with nothing but a loopback gives no taps. If a step fails, those before it are taken back.
 * @throws {VmmError} ERR_VMM_CONFIG for what no guest can be given, ERR_VMM_UNAVAILABLE, ERR_VMM_BOOT for a command that fails
 */
export async function createTaps(options: TapNetworkOptions): Promise<TapNetwork> {
  const tools = await Tools.find(options);
  const network = await scan(tools);
  await using stack = new AsyncDisposableStack();
  const interfaces: TapInterface[] = [];
  for (const [index, { name, mac, mtu }] of network.interfaces.entries()) {
    const tap = `tap${index}_kata`;
    // One queue: a monitor that is not told of more cannot open a tap that has them.
    await tools.ip("tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr");
    stack.defer(() => tools.gone(tools.ip("tuntap", "del", "dev", tap, "mode", "tap")));
    // For who has to take the taps back without this process.
    await tools.ip("link", "set", "dev", tap, "alias", `${ALIAS}${name}`);
    // The host's own IPv6 has nothing to say to the guest. A kernel without IPv6 does not know the setting.
    await tools.ip("link", "set", "dev", tap, "addrgenmode", "none").catch(() => undefined);
    await tools.ip("link", "set", "dev", tap, "mtu", String(mtu), "up");
    await tools.tc("qdisc", "add", "dev", tap, "ingress");
    // Fails if there is one: it is somebody else's, and would be taken away with ours.
    await tools.tc("qdisc", "add", "dev", name, "ingress");
    stack.defer(() => tools.gone(tools.tc("qdisc", "del", "dev", name, "ingress")));
    await tools.redirect(tap, name);
    await tools.redirect(name, tap);
    interfaces.push({ tap, mac });
  }
  const undo = stack.move();
  let removed: Promise<void> | undefined;
  return { interfaces, network, remove: () => (removed ??= undo.disposeAsync()) };
}

/** Beginning of the alias of our taps; the name of the other interface follows. */
const ALIAS = "sealpod:";

/**
 * Takes back the taps of a namespace that a process which no longer runs has made. Resolves to their names; a namespace that is gone has none.
 * @throws {VmmError} ERR_VMM_UNAVAILABLE, ERR_VMM_BOOT
 */
export async function removeTaps(options: TapNetworkOptions): Promise<readonly string[]> {
  const tools = await Tools.find(options);
  const removed: string[] = [];
  let links: string;
  try {
    links = await tools.ip("-json", "link", "show");
  } catch (error) {
    if (!(await tools.exists())) return removed;
    throw error;
  }
  for (const link of rows(links, "links")) {
    const [tap, alias] = [link["ifname"], link["ifalias"]];
    if (typeof tap !== "string" || typeof alias !== "string" || !/^tap[0-9]{1,2}_kata$/.test(tap) || !alias.startsWith(ALIAS)) continue;
    const name = alias.slice(ALIAS.length);
    if (!isName(name)) continue;
    await tools.gone(tools.tc("qdisc", "del", "dev", name, "ingress"));
    await tools.gone(tools.ip("tuntap", "del", "dev", tap, "mode", "tap"));
    removed.push(tap);
  }
  return removed;
}

async function scan(tools: Tools): Promise<NamespaceNetwork> {
  return parseNamespaceNetwork({
    addresses: await tools.ip("-json", "-details", "address", "show"),
    routes4: await tools.ip("-json", "-details", "-N", "-4", "route", "show", "table", "main"),
    routes6: await tools.ip("-json", "-details", "-N", "-6", "route", "show", "table", "main"),
    neighbours: await tools.ip("-json", "neighbour", "show"),
  });
}

/** The commands, in the namespace. */
class Tools {
  readonly #commands: NamespaceCommands<keyof typeof PROGRAMS>;

  private constructor(commands: NamespaceCommands<keyof typeof PROGRAMS>) {
    this.#commands = commands;
  }

  static async find(options: TapNetworkOptions): Promise<Tools> {
    return new Tools(await NamespaceCommands.find(PROGRAMS, options));
  }

  ip(...args: readonly string[]): Promise<string> {
    return this.#commands.run("ip", args);
  }

  tc(...args: readonly string[]): Promise<string> {
    return this.#commands.run("tc", args);
  }

  gone(command: Promise<string>): Promise<void> {
    return this.#commands.gone(command);
  }

  exists(): Promise<boolean> {
    return this.#commands.exists();
  }

  /** Whatever comes in by one interface goes out by another. */
  async redirect(from: string, to: string): Promise<void> {
    const all = ["u32", "match", "u8", "0", "0"];
    await this.tc("filter", "add", "dev", from, "parent", "ffff:", "protocol", "all", ...all, "action", "mirred", "egress", "redirect", "dev", to);
  }
}

/**
 * Reads what `ip` says of a namespace; the pod's creator decides what is in it, so nothing is taken for granted.
 * Taken are interfaces that are up, not loopback, and have an address besides those of IPv6 that every interface makes itself; their
 * routes in the main table but those of the kernel, which come from the addresses; neighbours that stay, and gateways that are known.
 * @throws {VmmError} ERR_VMM_CONFIG for what no guest can be given
 */
export function parseNamespaceNetwork(texts: NamespaceTexts): NamespaceNetwork {
  const interfaces: NamespaceInterface[] = [];
  for (const link of rows(texts.addresses, "addresses")) {
    const parsed = parseInterface(link);
    if (parsed !== undefined) interfaces.push(parsed);
  }
  if (interfaces.length > MAX_INTERFACES) throw unfit(`has ${interfaces.length} interfaces with addresses, more than ${MAX_INTERFACES}`);
  const devices = new Set(interfaces.map(({ name }) => name));
  if (devices.size !== interfaces.length) throw unfit("has two interfaces of one name");
  const routes = [
    ...rows(texts.routes4, "routes of IPv4").flatMap((route) => parseRoute(route, 4, devices)),
    ...rows(texts.routes6, "routes of IPv6").flatMap((route) => parseRoute(route, 6, devices)),
  ];
  const gateways = new Set(routes.map(({ gateway }) => gateway));
  const neighbours = rows(texts.neighbours, "neighbours").flatMap((neighbour) => parseNeighbour(neighbour, devices, gateways));
  return { interfaces, routes, neighbours };
}

function parseInterface(link: JsonObject): NamespaceInterface | undefined {
  const flags = asArray(link["flags"]) ?? [];
  const name = link["ifname"];
  if (name === "lo" || flags.includes("LOOPBACK") || !flags.includes("UP")) return undefined;
  const infos = asArray(link["addr_info"]) ?? [];
  if (infos.length > MAX_ADDRESSES) throw unfit(`has ${infos.length} addresses on one interface, more than ${MAX_ADDRESSES}`);
  const addresses = infos.flatMap(parseAddress);
  if (addresses.length === 0) return undefined;
  if (typeof name !== "string" || !isName(name)) throw unfit(`has an interface called ${shown(name)}, expected at most 15 letters, digits, '_', '.' and '-'`);
  if (link["link_type"] !== "ether") throw unfit(`has interface ${name} of type ${shown(link["link_type"])}, expected "ether"`);
  const mac = link["address"];
  if (!isMac(mac) || mac === "00:00:00:00:00:00" || (Number.parseInt(mac.slice(0, 2), 16) & 1) === 1) {
    throw unfit(`has interface ${name} with hardware address ${shown(mac)}, expected one card's six bytes`);
  }
  const mtu = link["mtu"];
  if (typeof mtu !== "number" || !Number.isInteger(mtu) || mtu < 68 || mtu > 65535)
    throw unfit(`has interface ${name} with an MTU of ${shown(mtu)}, expected 68 to 65535`);
  return { name, mac, mtu, noArp: flags.includes("NOARP"), addresses };
}

function parseAddress(value: JsonValue): readonly NamespaceAddress[] {
  const info = asObject(value);
  // Addresses of the link are made by the guest itself, and so are temporary ones; one that is taken by another host is of no use.
  if (info === undefined || info["scope"] === "link" || info["scope"] === "host" || info["temporary"] === true || info["dadfailed"] === true) return [];
  const family = info["family"] === "inet" ? 4 : info["family"] === "inet6" ? 6 : undefined;
  if (family === undefined) return [];
  const [address, prefixLength] = [info["local"], info["prefixlen"]];
  if (!isAddress(address, family) || !isPrefix(prefixLength, family)) throw unfit(`has an address ${shown(address)}/${shown(prefixLength)}`);
  return [{ family, address, prefixLength }];
}

function parseRoute(route: JsonObject, family: 4 | 6, devices: ReadonlySet<string>): readonly NamespaceRoute[] {
  const flags = asArray(route["flags"]) ?? [];
  if ((route["type"] ?? ROUTE_UNICAST) !== ROUTE_UNICAST || route["protocol"] === PROTOCOL_KERNEL || flags.includes("dead")) return [];
  const dst = route["dst"];
  const hops = asArray(route["nexthops"]);
  if (hops !== undefined) throw unfit(`has a route to ${shown(dst)} by ${hops.length} gateways, and a guest's route has one`);
  const device = route["dev"];
  if (typeof device !== "string" || !devices.has(device)) return [];
  if (route["via"] !== undefined) throw unfit(`has a route to ${shown(dst)} by a gateway of the other address family`);
  return [
    {
      family,
      destination: destination(dst, family),
      gateway: optionalAddress(route["gateway"], family, `a route to ${shown(dst)} with gateway`),
      device,
      source: optionalAddress(route["prefsrc"], family, `a route to ${shown(dst)} with sender`),
      scope: byte(route["scope"]),
      onLink: flags.includes("onlink"),
      mtu: routeMtu(asArray(route["metrics"])),
    },
  ];
}

function destination(dst: JsonValue | undefined, family: 4 | 6): string {
  if (dst === "default") return "";
  if (typeof dst === "string") {
    const [address, length, rest] = dst.split("/");
    const prefix = length === undefined ? (family === 4 ? 32 : 128) : /^[0-9]{1,3}$/.test(length) ? Number(length) : -1;
    if (rest === undefined && isAddress(address, family) && isPrefix(prefix, family)) return `${address}/${prefix}`;
  }
  throw unfit(`has a route to ${shown(dst)}, expected an address with a prefix length`);
}

function routeMtu(metrics: readonly JsonValue[] | undefined): number {
  for (const item of metrics ?? []) {
    const mtu = asObject(item)?.["mtu"];
    if (typeof mtu === "number" && Number.isInteger(mtu) && mtu >= 68 && mtu <= 65535) return mtu;
  }
  return 0;
}

function parseNeighbour(neighbour: JsonObject, devices: ReadonlySet<string>, gateways: ReadonlySet<string>): readonly NamespaceNeighbour[] {
  const { dst: address, dev: device, lladdr: mac } = neighbour;
  const states = asArray(neighbour["state"]) ?? [];
  if (typeof device !== "string" || !devices.has(device) || typeof address !== "string" || !isMac(mac)) return [];
  const state = states.includes("PERMANENT") ? NUD_PERMANENT : states.includes("REACHABLE") && gateways.has(address) ? NUD_REACHABLE : undefined;
  const family = isAddress(address, 4) ? 4 : isAddress(address, 6) ? 6 : undefined;
  return state === undefined || family === undefined ? [] : [{ family, address, device, mac, state }];
}

/** An array of objects; nothing at all is what `ip` prints for no rows. */
function rows(text: string, what: string): readonly JsonObject[] {
  if (text.trim() === "") return [];
  const items = parse(text, what);
  if (items === undefined) throw unfit(`is not described by a JSON array of objects: ${what}`);
  if (items.length > MAX_ROWS) throw unfit(`has ${items.length} ${what}, more than ${MAX_ROWS}`);
  return items;
}

function parse(text: string, what: string): readonly JsonObject[] | undefined {
  let items: readonly JsonValue[] | undefined;
  try {
    items = asArray(parseJson(text, `output of ip (${what})`));
  } catch (cause) {
    throw new VmmError("ERR_VMM_CONFIG", `network namespace: ${messageOf(cause)}`, { cause });
  }
  // `ip -json` leaves empty objects for rows that its filters took out.
  const objects = items?.map(asObject);
  return objects?.every((item) => item !== undefined) === true ? objects : undefined;
}

function isName(name: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/.test(name);
}

function isMac(value: JsonValue | undefined): value is string {
  return typeof value === "string" && /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/.test(value);
}

/** Without a zone: a guest's interfaces have other numbers. */
function isAddress(value: JsonValue | undefined, family: 4 | 6): value is string {
  return typeof value === "string" && (family === 4 ? isIPv4(value) : isIPv6(value) && !value.includes("%"));
}

function isPrefix(value: JsonValue | undefined, family: 4 | 6): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= (family === 4 ? 32 : 128);
}

function optionalAddress(value: JsonValue | undefined, family: 4 | 6, what: string): string {
  if (value === undefined) return "";
  if (isAddress(value, family)) return value;
  throw unfit(`has ${what} ${shown(value)}, expected an address of IPv${family}`);
}

/** A number that `ip -N` writes as text. */
function byte(value: JsonValue | undefined): number {
  if (value === undefined) return 0;
  if (typeof value === "string" && /^[0-9]{1,3}$/.test(value) && Number(value) <= 255) return Number(value);
  throw unfit(`has a route with scope ${shown(value)}, expected a number`);
}

function shown(value: JsonValue | undefined): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, 60)) : typeof value === "number" ? String(value) : typeof value;
}

function unfit(what: string): VmmError {
  return new VmmError("ERR_VMM_CONFIG", `network namespace: ${what}`);
}
