import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createTaps, removeTaps } from "./tap-network.ts";

/** Everything happens in two namespaces of each test: one of the pod, one of what is around it. The host's own is never touched. */

const isRoot = process.getuid?.() === 0 && existsSync("/dev/net/tun");
const QEMU = "/usr/bin/qemu-system-x86_64";

let directory = "";
let outside: ChildProcess;
let pod: ChildProcess;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-tap-"));
});

afterAll(async () => {
  await rm(directory, { recursive: true });
});

beforeEach(async () => {
  if (!isRoot) return;
  [outside, pod] = await Promise.all([holder(), holder()]);
});

afterEach(() => {
  if (isRoot) for (const child of [outside, pod]) child.kill("SIGKILL");
});

/** A process that keeps a network namespace. */
async function holder(): Promise<ChildProcess> {
  const child = spawn("/usr/bin/setpriv", ["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 600"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout ?? child, "data");
  return child;
}

function namespaceOf(child: ChildProcess): string {
  return `/proc/${child.pid}/ns/net`;
}

async function run(child: ChildProcess, command: string): Promise<string> {
  const { stdout } = await promisify(execFile)("nsenter", [`--net=${namespaceOf(child)}`, "--", ...command.split(" ")]);
  return stdout;
}

/** One cable between the two: `name` in the pod, `v-name` outside. */
async function cable(name: string, ...settings: readonly string[]): Promise<void> {
  await run(outside, `ip link add v-${name} type veth peer name ${name} netns ${pod.pid}`);
  for (const setting of settings) await run(pod, setting);
  await run(pod, `ip link set ${name} up`);
  await run(outside, `ip link set v-${name} up`);
}

/** What of the namespace a tap network changes. */
async function traces(child: ChildProcess): Promise<unknown> {
  const links = JSON.parse(await run(child, "ip -json link show")) as readonly { readonly ifname: string; readonly mtu: number }[];
  const names = links.map(({ ifname }) => ifname).sort();
  const filters = await Promise.all(names.map((name) => run(child, `tc filter show dev ${name} ingress`).catch(() => "")));
  const qdiscs = JSON.parse(await run(child, "tc -json qdisc show")) as readonly { readonly kind: string; readonly dev: string }[];
  return { names, filters, qdiscs: qdiscs.map(({ kind, dev }) => `${dev} ${kind}`).sort() };
}

describe.skipIf(!isRoot)(`taps${isRoot ? "" : " (skipped: needs root and /dev/net/tun)"}`, () => {
  it("makes none in a namespace that has only a loopback", async () => {
    const before = await traces(pod);
    const taps = await createTaps({ namespace: namespaceOf(pod) });
    expect([taps.interfaces, taps.network]).toEqual([[], { interfaces: [], routes: [], neighbours: [] }]);
    expect(await traces(pod)).toEqual(before);
    await taps.remove();
  });

  it("stands beside each interface with addresses, says what the guest has to know, and leaves the namespace as it was", async () => {
    await cable("eth0", "ip link set eth0 address 02:00:00:00:00:10 mtu 1400", "ip addr add 10.88.0.2/24 dev eth0", "ip addr add fd00:88::2/64 dev eth0 nodad");
    await cable("eth1", "ip link set eth1 address 02:00:00:00:00:11", "ip addr add 10.99.0.2/16 dev eth1");
    await cable("bare");
    await run(pod, "ip route add default via 10.88.0.1 dev eth0");
    await run(pod, "ip -6 route add default via fd00:88::1 dev eth0");
    await run(pod, "ip route add 10.77.0.7 via 10.99.9.9 dev eth1 onlink");
    await run(pod, "ip route add 10.78.0.0/16 dev eth1 scope link src 10.99.0.2 mtu 1300");
    await run(pod, "ip route add blackhole 10.79.0.0/16");
    await run(pod, "ip neigh add 10.88.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
    await run(pod, "ip neigh add fd00:88::1 lladdr 02:00:00:00:00:02 dev eth0 nud reachable");
    await run(pod, "ip neigh add 10.88.0.3 lladdr 02:00:00:00:00:03 dev eth0 nud reachable");
    const before = await traces(pod);
    const taps = await createTaps({ namespace: namespaceOf(pod) });
    expect(taps.interfaces).toEqual([
      { tap: "tap0_kata", mac: "02:00:00:00:00:10" },
      { tap: "tap1_kata", mac: "02:00:00:00:00:11" },
    ]);
    expect(taps.network.interfaces).toEqual([
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
      { name: "eth1", mac: "02:00:00:00:00:11", mtu: 1500, noArp: false, addresses: [{ family: 4, address: "10.99.0.2", prefixLength: 16 }] },
    ]);
    const plain = { gateway: "", source: "", scope: 0, onLink: false, mtu: 0 };
    expect(taps.network.routes).toEqual([
      { ...plain, family: 4, destination: "", gateway: "10.88.0.1", device: "eth0" },
      { ...plain, family: 4, destination: "10.77.0.7/32", gateway: "10.99.9.9", device: "eth1", onLink: true },
      { ...plain, family: 4, destination: "10.78.0.0/16", device: "eth1", source: "10.99.0.2", scope: 253, mtu: 1300 },
      { ...plain, family: 6, destination: "", gateway: "fd00:88::1", device: "eth0" },
    ]);
    expect(taps.network.neighbours).toHaveLength(2);
    expect(taps.network.neighbours).toEqual(
      expect.arrayContaining([
        { family: 4, address: "10.88.0.1", device: "eth0", mac: "02:00:00:00:00:01", state: 128 },
        { family: 6, address: "fd00:88::1", device: "eth0", mac: "02:00:00:00:00:02", state: 2 },
      ]),
    );
    const links = JSON.parse(await run(pod, "ip -json link show")) as readonly {
      readonly ifname: string;
      readonly mtu: number;
      readonly flags: readonly string[];
    }[];
    expect(links.filter(({ ifname }) => ifname.startsWith("tap")).map(({ ifname, mtu, flags }) => [ifname, mtu, flags.includes("UP")])).toEqual([
      ["tap0_kata", 1400, true],
      ["tap1_kata", 1500, true],
    ]);
    await Promise.all([taps.remove(), taps.remove()]);
    expect(await traces(pod)).toEqual(before);
  });

  it("takes back what it made when a step fails, and nothing of others", async () => {
    await cable("eth0", "ip addr add 10.88.0.2/24 dev eth0");
    await cable("eth1", "ip addr add 10.99.0.2/16 dev eth1");
    await run(pod, "tc qdisc add dev eth1 ingress");
    const before = await traces(pod);
    await expect(createTaps({ namespace: namespaceOf(pod) })).rejects.toMatchObject({
      code: "ERR_VMM_BOOT",
      message: expect.stringMatching(/^tc qdisc add dev eth1 ingress in /) as string,
    });
    expect(await traces(pod)).toEqual(before);
  });

  it("takes back the taps of a process that is gone, and leaves other taps alone", async () => {
    await cable("eth0", "ip addr add 10.88.0.2/24 dev eth0");
    await run(pod, "ip tuntap add dev tap7_kata mode tap");
    const before = await traces(pod);
    await createTaps({ namespace: namespaceOf(pod) });
    expect(await removeTaps({ namespace: namespaceOf(pod) })).toEqual(["tap0_kata"]);
    expect(await traces(pod)).toEqual(before);
    expect(await removeTaps({ namespace: namespaceOf(pod) })).toEqual([]);
  });

  it("has nothing to take back when interface or namespace are gone", async () => {
    await cable("eth0", "ip addr add 10.88.0.2/24 dev eth0");
    const [first, namespace] = [await createTaps({ namespace: namespaceOf(pod) }), namespaceOf(pod)];
    await run(outside, "ip link del v-eth0");
    await first.remove();
    await cable("eth0", "ip addr add 10.88.0.2/24 dev eth0");
    const second = await createTaps({ namespace });
    const ended = once(pod, "exit");
    pod.kill("SIGKILL");
    await ended;
    await second.remove();
  });

  it.each([
    ["relative/path", "ERR_VMM_CONFIG"],
    ["/nowhere/netns", "ERR_VMM_BOOT"],
  ])("refuses the namespace %s", async (namespace, code) => {
    await expect(createTaps({ namespace })).rejects.toMatchObject({ code });
  });
});

const canRelay = isRoot && existsSync(QEMU);

describe.skipIf(!canRelay)(`packets${canRelay ? "" : " (skipped: needs root, /dev/net/tun and qemu-system-x86_64)"}`, () => {
  it("reach the guest through its tap and come back, by IPv4 and IPv6, on each interface", async () => {
    await cable("eth0", "ip link set eth0 address 02:00:00:00:00:10", "ip addr add 10.88.0.2/24 dev eth0", "ip addr add fd00:88::2/64 dev eth0 nodad");
    await cable("eth1", "ip link set eth1 address 02:00:00:00:00:11", "ip addr add 10.99.0.2/16 dev eth1");
    await run(outside, "ip addr add 10.88.0.1/24 dev v-eth0");
    await run(outside, "ip addr add fd00:88::1/64 dev v-eth0 nodad");
    await run(outside, "ip addr add 10.99.0.1/16 dev v-eth1");
    const taps = await createTaps({ namespace: namespaceOf(pod) });
    const guests = await Promise.all(taps.interfaces.map(({ tap, mac }) => PacketGuest.start(namespaceOf(pod), tap, mac, join(directory, `${tap}.sock`))));
    try {
      for (const address of ["10.88.0.2", "fd00:88::2", "10.99.0.2"]) {
        expect(await askByUdp(address)).toBe(`the guest at ${address === "10.99.0.2" ? "tap1_kata" : "tap0_kata"} heard: knock`);
      }
    } finally {
      for (const guest of guests) await guest.stop();
    }
    await taps.remove();
  });
});

/** Sends a datagram from outside until an answer comes: the first ones may find nobody who listens. */
async function askByUdp(address: string): Promise<string> {
  const script = `
    import { createSocket } from "node:dgram";
    const socket = createSocket(${JSON.stringify(address.includes(":") ? "udp6" : "udp4")});
    socket.on("message", (bytes) => { process.stdout.write(bytes); process.exit(0); });
    setInterval(() => socket.send("knock", 7, ${JSON.stringify(address)}), 100);
    setTimeout(() => process.exit(1), 60_000);
  `;
  const { stdout } = await promisify(execFile)("nsenter", [`--net=${namespaceOf(outside)}`, "--", process.execPath, "--input-type=module", "-e", script]);
  return stdout;
}

/**
 * What a guest's network does, without a guest: QEMU opens the tap as it would for a machine and hands its frames to this process, which
 * answers for the card: ARP, neighbour discovery, and the echo of datagrams with a sentence before them.
 */
class PacketGuest {
  readonly #qemu: ChildProcess;
  readonly #server: ReturnType<typeof createServer>;

  private constructor(qemu: ChildProcess, server: ReturnType<typeof createServer>) {
    this.#qemu = qemu;
    this.#server = server;
  }

  static async start(namespace: string, tap: string, mac: string, path: string): Promise<PacketGuest> {
    const server = createServer().listen(path);
    const args = ["-machine", "none", "-nodefaults", "-display", "none", "-netdev", `tap,id=t,ifname=${tap},script=no,downscript=no`];
    args.push(
      "-netdev",
      `stream,id=s,server=off,addr.type=unix,addr.path=${path}`,
      "-netdev",
      "hubport,id=a,hubid=0,netdev=t",
      "-netdev",
      "hubport,id=b,hubid=0,netdev=s",
    );
    const connected = once(server, "connection");
    const qemu = spawn("/usr/bin/setpriv", ["--pdeathsig", "KILL", "nsenter", `--net=${namespace}`, "--", QEMU, ...args], { stdio: "ignore" });
    const [socket] = (await connected) as [Socket];
    let rest: Buffer = Buffer.alloc(0);
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE(0)) {
        const frame = rest.subarray(4, 4 + rest.readUInt32BE(0));
        rest = rest.subarray(4 + frame.length);
        const answer = answerTo(frame, Buffer.from(mac.replaceAll(":", ""), "hex"), tap);
        if (answer === undefined) continue;
        const length = Buffer.alloc(4);
        length.writeUInt32BE(answer.length);
        socket.write(Buffer.concat([length, answer]));
      }
    });
    return new PacketGuest(qemu, server);
  }

  async stop(): Promise<void> {
    const ended = once(this.#qemu, "exit");
    this.#qemu.kill("SIGKILL");
    await ended;
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

const [TYPE_IPV4, TYPE_ARP, TYPE_IPV6] = [0x0800, 0x0806, 0x86dd];
const [UDP, ICMPV6] = [17, 58];

function answerTo(frame: Buffer, mac: Buffer, name: string): Buffer | undefined {
  const type = frame.readUInt16BE(12);
  const head = Buffer.concat([frame.subarray(6, 12), mac, frame.subarray(12, 14)]);
  const packet = Buffer.from(frame.subarray(14));
  const text = Buffer.from(`the guest at ${name} heard: `);
  if (type === TYPE_ARP && packet.readUInt16BE(6) === 1) {
    // An answer: ours first, then who asked.
    const answer = Buffer.concat([packet.subarray(0, 6), Buffer.from([0, 2]), mac, packet.subarray(24, 28), packet.subarray(8, 18)]);
    return Buffer.concat([head, answer]);
  }
  if (type === TYPE_IPV4 && packet[9] === UDP && packet.readUInt16BE(22) === 7) {
    const data = Buffer.concat([text, packet.subarray(28, 20 + packet.readUInt16BE(24))]);
    const ip = Buffer.from(packet.subarray(0, 20));
    ip.writeUInt16BE(28 + data.length, 2);
    ip.writeUInt16BE(0, 10);
    packet.copy(ip, 12, 16, 20);
    packet.copy(ip, 16, 12, 16);
    ip.writeUInt16BE(checksum(ip), 10);
    return Buffer.concat([head, ip, datagram(packet.subarray(20, 28), data)]);
  }
  if (type === TYPE_IPV6 && packet[6] === UDP && packet.readUInt16BE(42) === 7) {
    const udp = datagram(packet.subarray(40, 48), Buffer.concat([text, packet.subarray(48, 40 + packet.readUInt16BE(44))]));
    return Buffer.concat([head, ipv6(packet.subarray(24, 40), packet.subarray(8, 24), UDP, 64, udp, 6)]);
  }
  if (type === TYPE_IPV6 && packet[6] === ICMPV6 && packet[40] === 135) {
    const target = packet.subarray(48, 64);
    // Somebody who asks whether an address is free hears nothing.
    if (packet.subarray(8, 24).every((byte) => byte === 0)) return undefined;
    const advertisement = Buffer.concat([Buffer.from([136, 0, 0, 0, 0x60, 0, 0, 0]), target, Buffer.from([2, 1]), mac]);
    return Buffer.concat([head, ipv6(target, packet.subarray(8, 24), ICMPV6, 255, advertisement, 2)]);
  }
  return undefined;
}

/** Ports the other way round; no checksum, which IPv4 allows and {@link ipv6} adds. */
function datagram(head: Buffer, data: Buffer): Buffer {
  const bytes = Buffer.concat([head.subarray(2, 4), head.subarray(0, 2), Buffer.alloc(4), data]);
  bytes.writeUInt16BE(bytes.length, 4);
  return bytes;
}

function ipv6(source: Buffer, destination: Buffer, next: number, hops: number, payload: Buffer, checksumAt: number): Buffer {
  const pseudo = Buffer.alloc(8);
  pseudo.writeUInt32BE(payload.length, 0);
  pseudo.writeUInt8(next, 7);
  payload.writeUInt16BE(checksum(Buffer.concat([source, destination, pseudo, payload])) || 0xffff, checksumAt);
  const head = Buffer.from([0x60, 0, 0, 0, 0, 0, next, hops]);
  head.writeUInt16BE(payload.length, 4);
  return Buffer.concat([head, source, destination, payload]);
}

function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at] ?? 0) * 256 + (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
