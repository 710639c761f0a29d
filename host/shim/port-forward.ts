import { messageOf, silentLogger, type Logger } from "@sealpod/core";
import { NamespaceCommands, type NamespaceNetwork, type NamespaceOptions, type TapInterface } from "@sealpod/vmm";

/*
 * `kubectl port-forward`: containerd enters the pod's network namespace and connects to its loopback address there, where nobody listens, since
 * the pod's processes are in the guest. Rules of the kernel turn such a connection into one from outside to the pod's address:
 *
 *   out   127.0.0.1:a → 127.0.0.1:b    as the program wants it
 *         127.0.0.1:a → POD:b          destination, when it is sent (nft, output)
 *         FORWARDER:a → POD:b          sender, when it leaves by the loopback (nft, postrouting)
 *                                      and from there, before anybody receives it, to the guest's card (nft fwd; the guest's MAC is known)
 *   back  POD:b → FORWARDER:a          by the guest's default route to the tap; taken out there instead of being sent on (tc),
 *                                      taken in, whatever hardware address it is for (nft pkttype), and turned back by what the kernel
 *                                      remembers of the way out
 *
 * The kernel drops an IPv6 packet for ::1 that does not come by the loopback, so that one is put there first; IPv4 has a setting for it.
 * The guest sees a connection to its pod's address on its card. Its own loopback, where the sidecar listens for the pod alone, is out of reach.
 */

/** Senders that guests see. No other machine has these addresses: one of a link that routers do not pass on, and one of nobody's private network. */
const FORWARDER = { 4: "169.254.83.80", 6: "fd53:6561:6c70:6f64::1" } as const;

/** Programs, with the Debian packages that have them. */
const PROGRAMS = { nft: "nftables", ip: "iproute2", tc: "iproute2", tee: "coreutils" } as const;

/** Name of our tables; those in the family netdev, of which one holds for all packets, have the number of their protocol behind it. */
const TABLE = "sealpod";

/** Before those of others in the namespace, which are at -100 and 100 (a service mesh's, for example, meant for a pod without a machine). */
const PRIORITY = { out: -110, sender: 90, established: -150 } as const;

/** Where connections to the loopback address are forwarded to. */
export interface ForwardTarget {
  readonly family: 4 | 6;
  /** The pod's. */
  readonly address: string;
  /** Hardware address of the guest's card. */
  readonly mac: string;
  readonly tap: string;
}

/** What became of the wish to forward. */
export interface PortForward {
  readonly families: readonly (4 | 6)[];
  /** Why it is not all that was wished; empty if it is. */
  readonly reason: string;
}

/**
 * Where to forward to: for each protocol the first address of the interface by which the guest answers strangers, which is that of its
 * default route. A pod without one cannot answer, and has no target.
 * @param taps in the order of the network's interfaces
 */
export function forwardTargets(network: NamespaceNetwork, taps: readonly TapInterface[]): readonly ForwardTarget[] {
  return ([4, 6] as const).flatMap((family) => {
    const device = network.routes.find((route) => route.family === family && route.destination === "")?.device;
    const index = network.interfaces.findIndex(({ name }) => name === device);
    const [link, tap] = [network.interfaces[index], taps[index]?.tap];
    const address = link?.addresses.find((item) => item.family === family)?.address;
    return link === undefined || tap === undefined || address === undefined ? [] : [{ family, address, mac: link.mac, tap }];
  });
}

/** Rules for nft; one transaction, so that all of them are there or none. What was there under our name is replaced. */
export function forwardRules({ family, address, tap }: ForwardTarget): string {
  const ip = family === 4 ? "ip" : "ip6";
  const loopback = family === 4 ? "127.0.0.0/8" : "::1";
  const forwarder = FORWARDER[family];
  const back = family === 4 ? "accept" : `fwd ip6 to ::1 device "lo"`;
  return `${removalRules(tablesOf(family))}table ${ip} ${TABLE} {
  chain output {
    type nat hook output priority ${PRIORITY.out};
    meta l4proto tcp ${ip} daddr ${loopback} dnat to ${address}
  }
  chain postrouting {
    type nat hook postrouting priority ${PRIORITY.sender};
    oifname "lo" ${ip} daddr ${address} ct status dnat snat to ${forwarder}
  }
  chain prerouting {
    type filter hook prerouting priority ${PRIORITY.established};
    ${ip} daddr ${forwarder} ct state != { established, related } drop
  }
}
table netdev ${TABLE}${family} {
  chain out {
    type filter hook ingress device "lo" priority 0;
    ${ip} saddr ${forwarder} ${ip} daddr ${address} fwd ${ip} to ${address} device "${tap}"
  }
  chain back {
    type filter hook ingress device "${tap}" priority 0;
    ${ip} daddr ${forwarder} meta pkttype set host ${back}
  }
}
`;
}

/** Rules that remove tables, whether they are there or not: they are declared first. */
export function removalRules(tables: readonly string[]): string {
  return tables.map((table) => `add table ${table}\ndelete table ${table}\n`).join("");
}

/** Our tables among those that `nft list tables` prints. */
export function ourTables(text: string): readonly string[] {
  const all = ([4, 6] as const).flatMap(tablesOf);
  return text
    .split("\n")
    .map((line) => line.replace(/^table /, "").trim())
    .filter((table) => all.includes(table));
}

function tablesOf(family: 4 | 6): readonly string[] {
  return [`${family === 4 ? "ip" : "ip6"} ${TABLE}`, `netdev ${TABLE}${family}`];
}

/**
 * Forwards connections to the loopback address of a namespace to the guest behind its taps. A pod runs without it too: what fails is logged,
 * taken back and named in the result.
 */
export async function openPortForward(targets: readonly ForwardTarget[], options: NamespaceOptions, logger: Logger = silentLogger): Promise<PortForward> {
  if (targets.length === 0) return { families: [], reason: "the pod has no default route, by which its answers would come back" };
  const families: (4 | 6)[] = [];
  const reasons: string[] = [];
  for (const target of targets) {
    try {
      await forward(await NamespaceCommands.find(PROGRAMS, options), target);
      families.push(target.family);
    } catch (error) {
      reasons.push(`IPv${target.family}: ${messageOf(error)}`);
    }
  }
  const reason = reasons.join("; ");
  if (reason !== "") logger.log("warn", "connections to the pod's loopback address are not forwarded to its guest", { namespace: options.namespace, reason });
  return { families, reason };
}

/**
 * Removes our rules from a namespace, also those of a process that no longer runs; what is gone already, the namespace included, is no error. The
 * rest that {@link openPortForward} made belongs to the taps, and goes with them.
 * @throws {VmmError}
 */
export async function closePortForward(options: NamespaceOptions): Promise<void> {
  const commands = await findNft(options);
  if (commands === undefined) return;
  let text: string;
  try {
    text = await commands.run("nft", ["list", "tables"]);
  } catch (error) {
    // A kernel without these rules has none of ours.
    if (/(?:Protocol|Operation) not supported/i.test(messageOf(error)) || !(await commands.exists())) return;
    throw error;
  }
  const tables = ourTables(text);
  if (tables.length > 0) await commands.gone(commands.run("nft", ["-f", "-"], removalRules(tables)));
}

async function forward(commands: NamespaceCommands<keyof typeof PROGRAMS>, target: ForwardTarget): Promise<void> {
  const { family, address, mac, tap } = target;
  const ip = (...args: readonly string[]): Promise<string> => commands.run("ip", [`-${family}`, ...args]);
  const pass = ["filter", "add", "dev", tap, "parent", "ffff:", "pref", String(family), "protocol", family === 4 ? "ip" : "ipv6"];
  await using stack = new AsyncDisposableStack();
  // Known for ever: a question to the guest would be answered to the network around the pod.
  await ip("neigh", "replace", address, "lladdr", mac, "dev", tap, "nud", "permanent");
  stack.defer(() => commands.gone(ip("neigh", "del", address, "dev", tap)));
  if (family === 4) {
    // With an address of its own the tap passes the check of senders, which would else take the pod's address for a stolen one.
    await ip("address", "replace", `${FORWARDER[4]}/32`, "dev", tap, "scope", "host");
    stack.defer(() => commands.gone(ip("address", "del", `${FORWARDER[4]}/32`, "dev", tap)));
    const settings = (value: string, ...names: readonly string[]): Promise<string> =>
      commands.run(
        "tee",
        names.map((name) => `/proc/sys/net/ipv4/conf/${tap}/${name}`),
        value,
      );
    await settings("1\n", "accept_local", "route_localnet");
    // Loose: of this and the setting for all interfaces the greater one counts.
    await settings("2\n", "rp_filter");
  }
  // Before the filter that sends everything on (it has no number, and so a greater one): what is for the forwarder stays here. A filter without
  // an action lets pass; the action that says so is not in every kernel.
  await commands.run("tc", [...pass, "u32", "match", family === 4 ? "ip" : "ip6", "dst", `${FORWARDER[family]}/${family === 4 ? 32 : 128}`, "flowid", "1:1"]);
  stack.defer(() => commands.gone(commands.run("tc", ["filter", "del", "dev", tap, "parent", "ffff:", "pref", String(family)])));
  await commands.run("nft", ["-f", "-"], forwardRules(target));
  // All is well: nothing of it is taken back now.
  stack.move();
}

/** Without nft there are no rules of ours. */
async function findNft(options: NamespaceOptions): Promise<NamespaceCommands<"nft"> | undefined> {
  try {
    return await NamespaceCommands.find({ nft: PROGRAMS.nft }, options);
  } catch (error) {
    if ((error as { readonly code?: unknown }).code === "ERR_VMM_UNAVAILABLE") return undefined;
    throw error;
  }
}
