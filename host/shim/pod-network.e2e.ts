import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { systemRandom } from "@sealpod/io";
import { ALLOW_ALL, fileItem, linkItem, noVm, openVmWorld, specOf, VM_TIMEOUT } from "@sealpod/machine/testing";
import { createSandbox, type Container, type ProcessOutput, type Sandbox } from "@sealpod/sandbox";
import { PROGRAM_DIRECTORIES } from "@sealpod/vmm";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openPodNetwork, removePodNetwork, type PodNetwork } from "./pod-network.ts";

/** Everything happens in network namespaces of the tests' own. The host's is never touched. */

const programDirectories = [...PROGRAM_DIRECTORIES, resolve(import.meta.dirname, "../../build/tools/usr/bin")];

const missing =
  process.getuid?.() !== 0 || !existsSync("/dev/net/tun")
    ? "needs root and /dev/net/tun"
    : programDirectories.every((directory) => !isProgram(join(directory, "nft")))
      ? "needs nft: node tools/setup.ts --test"
      : undefined;
const skipped = (reason: string | undefined): string => (reason === undefined ? "" : ` (skipped: ${reason})`);

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** A process that keeps a network namespace. */
class Namespace {
  readonly #holder: ChildProcess;
  readonly #servers: ChildProcess[] = [];

  private constructor(holder: ChildProcess) {
    this.#holder = holder;
  }

  static async open(): Promise<Namespace> {
    const script = "ip link set lo up; echo ready; exec sleep 3600";
    const holder = spawn("/usr/bin/setpriv", ["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", script], { stdio: ["ignore", "pipe", "inherit"] });
    await once(holder.stdout, "data");
    return new Namespace(holder);
  }

  get pid(): number {
    return this.#holder.pid ?? 0;
  }

  get path(): string {
    return `/proc/${this.pid}/ns/net`;
  }

  async run(...command: readonly string[]): Promise<string> {
    const env = { ...process.env, PATH: programDirectories.join(":") };
    const { stdout } = await promisify(execFile)("nsenter", [`--net=${this.path}`, "--", ...command], { env, maxBuffer: 1 << 26 });
    return stdout;
  }

  async sh(...commands: readonly string[]): Promise<string> {
    return this.run("sh", "-euc", commands.join("\n"));
  }

  /** Starts a TCP server on all addresses that says `text`; resolves to how many have connected. */
  async serve(port: number, text: string): Promise<() => number> {
    const script = `let n = 0; require("node:net").createServer((socket) => { console.log(++n); socket.on("error", () => {}); socket.end(${JSON.stringify(text)}); })
      .listen(${port}, "::", () => console.log("0"));`;
    const child = spawn("/usr/bin/setpriv", ["--pdeathsig", "KILL", "nsenter", `--net=${this.path}`, "--", process.execPath, "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#servers.push(child);
    let count = "";
    child.stdout.on("data", (bytes: Buffer) => (count = bytes.toString().trim().split("\n").at(-1) ?? ""));
    await Promise.race([once(child.stdout, "data"), once(child, "exit").then(() => Promise.reject(new Error(`nobody can serve port ${port}`)))]);
    return () => Number(count);
  }

  /** What somebody says who is connected to, as containerd connects: the code of the error if nobody does. */
  async dial(host: string, port: number, send = ""): Promise<string> {
    const script = `const socket = require("node:net").connect(${port}, ${JSON.stringify(host)}, () => socket.write(${JSON.stringify(send)}));
      socket.on("error", (error) => process.stdout.write(error.code)).on("data", (data) => process.stdout.write(data));
      socket.setTimeout(20000, () => { process.stdout.write("TIMEOUT"); socket.destroy(); });`;
    return this.run(process.execPath, "-e", script);
  }

  close(): void {
    for (const child of [this.#holder, ...this.#servers]) child.kill("SIGKILL");
  }
}

/** A pod's namespace as CNI leaves it: behind a bridge, with both protocols; and a second interface that leads nowhere else. */
async function connectPod(outside: Namespace, pod: Namespace): Promise<void> {
  await outside.sh(
    "ip link add br0 type bridge",
    "ip addr add 10.88.0.1/24 dev br0",
    "ip addr add fd00:88::1/64 dev br0 nodad",
    "ip link set br0 up",
    `ip link add v0 mtu 1400 type veth peer name eth0 mtu 1400 netns ${pod.pid}`,
    `ip link add v1 type veth peer name eth1 netns ${pod.pid}`,
    "ip link set v0 master br0 up",
    "ip addr add 10.99.0.1/16 dev v1",
    "ip link set v1 up",
  );
  await pod.sh(
    "ip link set eth0 address 02:00:00:00:00:10",
    "ip addr add 10.88.0.2/24 dev eth0",
    "ip addr add fd00:88::2/64 dev eth0 nodad",
    "ip link set eth0 up",
    "ip route add default via 10.88.0.1",
    "ip -6 route add default via fd00:88::1",
    "ip link set eth1 address 02:00:00:00:00:11",
    "ip addr add 10.99.0.2/16 dev eth1",
    "ip link set eth1 up",
  );
}

/** What of a namespace could be left behind. */
async function traces(pod: Namespace): Promise<string> {
  return pod.sh(
    "ip -brief link | sort",
    "ip -4 addr show | grep inet",
    "ip -4 route show table all",
    "ip rule; ip -6 rule",
    "ip neigh show nud permanent",
    "tc qdisc show",
    "for d in eth0 eth1 lo; do tc filter show dev $d ingress 2>&1; done",
    "nft list ruleset",
    "grep . /proc/sys/net/ipv4/conf/lo/* /proc/sys/net/ipv4/conf/eth0/* /proc/sys/net/ipv4/conf/all/* 2>/dev/null",
  );
}

describe.skipIf(missing !== undefined)(`the network of a pod${skipped(missing)}`, () => {
  let outside: Namespace;
  let pod: Namespace;
  let directory = "";

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-net-"));
    [outside, pod] = await Promise.all([Namespace.open(), Namespace.open()]);
    await connectPod(outside, pod);
  });

  afterEach(async () => {
    outside.close();
    pod.close();
    await rm(directory, { recursive: true });
  });

  it("is for a machine: cards, what the agent is told, and rules for both protocols; and nothing of it is left at the end", async () => {
    await pod.run("nft", "add table ip sealpod_of_others; add chain ip sealpod_of_others c { type nat hook output priority -100; }");
    const before = await traces(pod);
    const network = await openPodNetwork({ namespace: pod.path, portForward: true, programDirectories });
    expect(network.network).toEqual({
      kind: "tap",
      namespace: pod.path,
      interfaces: [
        { tap: "tap0_kata", mac: "02:00:00:00:00:10" },
        { tap: "tap1_kata", mac: "02:00:00:00:00:11" },
      ],
    });
    expect(network.guest.interfaces.map(({ name, mtu }) => [name, mtu])).toEqual([
      ["eth0", 1400],
      ["eth1", 1500],
    ]);
    expect(network.guest.neighbours).toEqual([]);
    expect(await network.portForward).toEqual({ families: [4, 6], reason: "" });
    expect((await traces(pod)).split("\n")).toEqual(expect.arrayContaining(["table ip sealpod {", "table ip6 sealpod {", "table netdev sealpod4 {"]));
    await Promise.all([network.remove(), network.remove()]);
    expect(await traces(pod)).toBe(before);
    // Also if that is asked for while the rules are still made.
    await (await openPodNetwork({ namespace: pod.path, portForward: true, programDirectories })).remove();
    expect(await traces(pod)).toBe(before);
  });

  it("is taken back also by another process than that which made it, more than once, and when the namespace is gone", async () => {
    const before = await traces(pod);
    const made = await openPodNetwork({ namespace: pod.path, portForward: true, programDirectories });
    await made.portForward;
    expect(await traces(pod)).toMatch(/table netdev sealpod6/);
    await removePodNetwork({ namespace: pod.path, programDirectories });
    expect(await traces(pod)).toBe(before);
    await removePodNetwork({ namespace: pod.path, programDirectories });
    const again = await openPodNetwork({ namespace: pod.path, portForward: true, programDirectories });
    await again.portForward;
    // In whatever order: both have the same end.
    await removePodNetwork({ namespace: pod.path, programDirectories });
    await again.remove();
    expect(await traces(pod)).toBe(before);
    await writeFile(join(directory, "stale"), "");
    for (const namespace of [join(directory, "stale"), "/nowhere/netns"]) await removePodNetwork({ namespace, programDirectories });
    const last = await openPodNetwork({ namespace: pod.path, portForward: true, programDirectories });
    const path = pod.path;
    pod.close();
    await last.remove();
    await removePodNetwork({ namespace: path, programDirectories });
  });

  it("gives up what takes too long", async () => {
    await (
      await openPodNetwork({ namespace: pod.path, portForward: true, programDirectories })
    ).portForward;
    await writeFile(join(directory, "nft"), "#!/bin/sh\nexec sleep 600\n");
    await chmod(join(directory, "nft"), 0o755);
    await expect(removePodNetwork({ namespace: pod.path, limitMs: 500, programDirectories: [directory, ...programDirectories] })).rejects.toMatchObject({
      code: "ERR_VMM_BOOT",
    });
    await removePodNetwork({ namespace: pod.path, programDirectories });
  });

  it.each([
    ["is not there", undefined, /nftables|nft/],
    [
      "does not know what it is asked",
      "#!/bin/sh\ncase $1 in list) ;; *) cat >/dev/null; echo 'no such hook' >&2; exit 1;; esac\n",
      /^IPv4: nft -f - in .*: no such hook; IPv6: /,
    ],
  ])("is there without port-forward where nft %s, and what was made for that is taken back", async (_what, nft, reason) => {
    const bin = join(directory, "bin");
    await promisify(execFile)("mkdir", [bin]);
    for (const name of ["ip", "tc", "nsenter", "tee"]) {
      const path = PROGRAM_DIRECTORIES.map((place) => join(place, name)).find(isProgram) ?? "";
      await promisify(execFile)("ln", ["-s", path, join(bin, name)]);
    }
    if (nft !== undefined) await writeFile(join(bin, "nft"), nft, { mode: 0o755 });
    const before = await traces(pod);
    const where = { namespace: pod.path, programDirectories: nft === undefined ? [bin] : [bin, ...PROGRAM_DIRECTORIES] };
    const plain = await openPodNetwork({ ...where, portForward: false });
    const onlyTaps = await traces(pod);
    const filters = await pod.run("tc", "filter", "show", "dev", "tap0_kata", "ingress");
    expect((await plain.portForward).families).toEqual([]);
    await plain.remove();
    const lines: string[] = [];
    const network = await openPodNetwork({
      ...where,
      portForward: true,
      logger: { log: (level, _message, fields) => lines.push(`${level} ${fields?.["reason"]}`) },
    });
    const forwarded = await network.portForward;
    expect(forwarded.families).toEqual([]);
    expect(forwarded.reason).toMatch(reason);
    expect(lines).toEqual([`warn ${forwarded.reason}`]);
    expect((await traces(pod)).replaceAll(/tap\d_kata@?\S*.*\n/g, "")).toBe(onlyTaps.replaceAll(/tap\d_kata@?\S*.*\n/g, ""));
    expect((await pod.run("tc", "filter", "show", "dev", "tap0_kata", "ingress")).match(/pref \d+/g)).toEqual(filters.match(/pref \d+/g));
    await network.remove();
    expect(await traces(pod)).toBe(before);
  });

  it("has no port-forward for a protocol without a default route, by which answers would come", async () => {
    await pod.run("ip", "route", "del", "default");
    const network = await openPodNetwork({ namespace: pod.path, portForward: true, programDirectories });
    expect(await network.portForward).toEqual({ families: [6], reason: "" });
    await network.remove();
  });

  it("has no rules to take back where the kernel has none of their kind", async () => {
    const before = await traces(pod);
    await openPodNetwork({ namespace: pod.path, portForward: false, programDirectories });
    await writeFile(join(directory, "nft"), "#!/bin/sh\necho 'netlink: Error: cache initialization failed: Protocol not supported' >&2\nexit 1\n", {
      mode: 0o755,
    });
    await removePodNetwork({ namespace: pod.path, programDirectories: [directory, ...programDirectories] });
    expect(await traces(pod)).toBe(before);
  });
});

const vmMissing = missing ?? noVm;

/** Bytes of a file that the guest serves: more than any buffer between it and its reader. */
const BIG = 8 * 1024 * 1024;

describe.skipIf(vmMissing !== undefined)(`a pod in a virtual machine on its network${skipped(vmMissing)}`, { timeout: VM_TIMEOUT }, () => {
  const stack = new AsyncDisposableStack();
  let outside: Namespace;
  let pod: Namespace;
  let network: PodNetwork;
  let sandbox: Sandbox;
  let container: Container;
  let execs = 0;

  beforeAll(async () => {
    [outside, pod] = await Promise.all([Namespace.open(), Namespace.open()]);
    stack.defer(() => [outside, pod].forEach((each) => each.close()));
    await connectPod(outside, pod);
    const world = stack.use(await openVmWorld());
    network = await openPodNetwork({ namespace: pod.path, portForward: true, programDirectories });
    expect(await network.portForward).toEqual({ families: [4, 6], reason: "" });
    stack.defer(() => network.remove());
    sandbox = await createSandbox({
      id: "ab".repeat(32),
      driver: world.machine.driver,
      machine: {
        runDirectory: join(world.directory, "net"),
        guest: world.machine.guest,
        launch: world.psp,
        network: network.network,
        memoryMiB: 1024,
        vcpus: 1,
      },
      policy: ALLOW_ALL,
      network: network.guest,
      hostname: "pod",
      random: systemRandom,
    });
    stack.defer(() => sandbox.machine.stop());
    const layer = await world.layer([
      fileItem("bin/busybox", readFileSync("/usr/bin/busybox")),
      linkItem("bin/sh", "busybox"),
      fileItem("www/index.html", "the pod", 0o644),
      fileItem("www/big", Buffer.alloc(BIG, "0123456789abcdef"), 0o644),
      fileItem("secret/index.html", "the sidecar", 0o644),
    ]);
    const servers =
      "busybox httpd -p 8080 -h /www; busybox httpd -p 127.0.0.1:9090 -h /secret; busybox httpd -p '[::1]:9091' -h /secret; echo up; exec busybox sleep 100000";
    container = await sandbox.createContainer({
      id: "cd".repeat(32),
      bundle: `/run/containerd/io.containerd.runtime.v2.task/k8s.io/${"cd".repeat(32)}`,
      spec: specOf({ layers: [layer], args: ["/bin/sh", "-c", servers], capabilities: ["CAP_NET_RAW", "CAP_NET_BIND_SERVICE"] }),
      layers: [layer],
    });
    const up = Promise.withResolvers<void>();
    await container.start({
      stdout: { write: async () => up.resolve() },
      stderr: { write: async (bytes) => up.reject(new Error(Buffer.from(bytes).toString())) },
    });
    await up.promise;
  }, VM_TIMEOUT);

  afterAll(async () => {
    await stack.disposeAsync();
  }, VM_TIMEOUT);

  /** Runs a command of busybox in the guest; resolves to its output, and its status if that is not 0. */
  async function guest(...command: readonly string[]): Promise<string> {
    let text = "";
    const write = async (bytes: Uint8Array): Promise<void> => void (text += Buffer.from(bytes).toString());
    const output: ProcessOutput = { stdout: { write }, stderr: { write } };
    const { process: own } = specOf({ layers: [], args: [], capabilities: ["CAP_NET_RAW"] });
    const child = await container.exec({ execId: `exec${++execs}`, process: { ...own, args: ["/bin/busybox", ...command] }, ...output });
    await child.closeStdin();
    const status = await child.exited;
    return status === 0 ? text : `${text} (${status})`;
  }

  const get = "GET / HTTP/1.0\r\n\r\n";

  it.each(["10.88.0.2", "fd00:88::2", "10.99.0.2"])("is reached at %s", async (address) => {
    // An address of IPv6 is the guest's a second after it was given: it asks first whether somebody has it.
    await expect.poll(() => outside.dial(address, 8080, get), { timeout: 60_000 }).toMatch(/\r\n\r\nthe pod$/);
    expect(await outside.run("busybox", "ping", "-c", "1", "-W", "20", address)).toContain("1 packets received");
  });

  it.each([
    ["10.88.0.1", 7001],
    ["fd00:88::1", 7002],
    ["10.99.0.1", 7003],
  ])("reaches %s", async (address, port) => {
    await outside.serve(port, "HTTP/1.0 200 OK\r\n\r\nthe world");
    expect(await guest("wget", "-q", "-O", "-", `http://${address.includes(":") ? `[${address}]` : address}:${port}/`)).toBe("the world");
    expect(await guest("ping", "-c", "1", "-W", "20", address)).toContain("1 packets received");
  });

  it("has its interfaces as the namespace has them", async () => {
    expect(await guest("cat", "/sys/class/net/eth0/mtu", "/sys/class/net/eth0/address", "/sys/class/net/eth1/mtu", "/sys/class/net/eth1/address")).toBe(
      "1400\n02:00:00:00:00:10\n1500\n02:00:00:00:00:11\n",
    );
    // The largest packet of each, in one piece: 28 bytes are heads.
    expect(await outside.run("busybox", "ping", "-c", "1", "-W", "20", "-s", "1372", "10.88.0.2")).toContain("1 packets received");
    expect(await outside.run("busybox", "ping", "-c", "1", "-W", "20", "-s", "1472", "10.99.0.2")).toContain("1 packets received");
  });

  it("has its machine in the namespace", async () => {
    const ownOf = async (pid: number | string): Promise<string> => (await promisify(execFile)("readlink", [`/proc/${pid}/ns/net`])).stdout;
    expect(await ownOf(sandbox.machine.pid)).toBe(await ownOf(pod.pid));
  });

  it.each(["127.0.0.1", "::1"])("answers at %s of its namespace, as kubectl port-forward asks", async (address) => {
    expect(await pod.dial(address, 8080, get)).toMatch(/\r\n\r\nthe pod$/);
    const body = (await pod.dial(address, 8080, "GET /big HTTP/1.0\r\n\r\n")).split("\r\n\r\n")[1] ?? "";
    expect([body.length, body === "0123456789abcdef".repeat(BIG / 16)]).toEqual([BIG, true]);
    expect(await pod.dial(address, 8081)).toBe("ECONNREFUSED");
  });

  it("keeps what listens on its own loopback for itself", async () => {
    expect(await guest("wget", "-q", "-O", "-", "http://127.0.0.1:9090/")).toBe("the sidecar");
    expect(await guest("wget", "-q", "-O", "-", "http://[::1]:9091/")).toBe("the sidecar");
    for (const address of ["127.0.0.1", "::1"]) for (const port of [9090, 9091]) expect(await pod.dial(address, port, get)).toBe("ECONNREFUSED");
  });

  it("cannot open connections to its namespace by the way that answers take", async () => {
    const count = await pod.serve(7777, "the node");
    for (const address of ["169.254.83.80", "fd53:6561:6c70:6f64::1"]) {
      await guest("nc", "-w", "3", address, "7777");
      await guest("nc", "-w", "3", "-p", "8080", address, "7777");
    }
    expect(count()).toBe(0);
    // It would have been counted: somebody in the namespace is. The pod's own address is the guest's even there.
    expect(await pod.dial("10.88.0.2", 7777)).toBe("the node");
    await expect.poll(count).toBe(1);
  });

  it("ends, and leaves the namespace as it was", async () => {
    await sandbox.destroy();
    await network.remove();
    expect(await pod.sh("nft list ruleset; ip -brief link | grep -c kata || true; tc qdisc show | grep -c ingress || true")).toBe("0\n0\n");
  });
});
