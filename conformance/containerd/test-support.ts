import { randomBytes } from "node:crypto";
import { accessSync, constants, existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { mkdir, mkdtemp, rm, rmdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { criApi } from "@sealpod/proto";
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@sealpod/proto";
import { GrpcSocket } from "../../lib/containerd/grpc-socket.ts";
import { NODE_HINTS } from "../../lib/containerd/hints.ts";
import { IMAGES, writeImages } from "./images.ts";
import { Namespace, type CommandResult, type Program } from "./namespace.ts";
import { startProcessor, writeLauncher } from "./shim.ts";
import { until } from "./until.ts";

export { IMAGES } from "./images.ts";
export { KubePod, runPod, type ExecResult, type LogLine, type PodOptions } from "./kubelet.ts";
export { Namespace, Program, type CommandOptions, type CommandResult } from "./namespace.ts";
export { openForward, RemoteStreams, type Forwarded } from "./streaming.ts";
export { noShim, shimHandler, withPolicy, type ShimSettings } from "./shim.ts";
export { until } from "./until.ts";

/** A genuine containerd in namespaces of its own, with what it needs: network plugins, images, a kubelet's part. */

const ROOT = resolve(import.meta.dirname, "../..");
const TOOLS = join(ROOT, "build/tools");

/** Lines of containerd that are tested, and where the unpacked one of that line is, if it is not the machine's own. */
export const VERSIONS = ["1.6", "1.7"] as const;
export type ContainerdVersion = (typeof VERSIONS)[number];

const UNPACKED: Readonly<Record<ContainerdVersion, string>> = { "1.6": TOOLS, "1.7": join(ROOT, "build/tools-1.7") };

/** Where programs are: what was unpacked for the tests stands last. */
const SEARCH = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", join(TOOLS, "usr/bin"), join(TOOLS, "usr/sbin")];

const CNI = ["/usr/lib/cni", "/opt/cni/bin", join(TOOLS, "usr/lib/cni")];

/** Milliseconds that one call of CRI may take: a VM may boot in it, on a busy machine. */
const CALL_TIMEOUT = 240_000;

function find(name: string, directories: readonly string[]): string | undefined {
  return directories
    .map((directory) => join(directory, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** What a node has that was only unpacked here: the shim looks for it at the system's places alone. */
function unpackedPrograms(): readonly string[] {
  const tools = ["nft", "iptables", "ip6tables"].filter((name) => find(name, SEARCH.slice(0, 6)) === undefined);
  return tools.flatMap((name) => find(name, [join(TOOLS, "usr/bin")]) ?? []);
}

/** Why there is no world of this version here, or undefined. */
export function noWorld(version: ContainerdVersion): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return "needs root on Linux";
  if (find("containerd", [join(UNPACKED[version], "usr/bin")]) === undefined) return `needs containerd ${version}: node tools/setup.ts --test`;
  const missing = ["runc", "unshare", "nsenter", "ip", "busybox"].filter((name) => find(name, SEARCH) === undefined);
  if (find("host-local", CNI) === undefined) missing.push("containernetworking-plugins");
  return missing.length > 0 ? `not installed: ${missing.join(", ")}` : undefined;
}

/** Text behind the title of a suite that is skipped. */
export function skippedWorld(version: ContainerdVersion): string {
  const reason = noWorld(version);
  return reason === undefined ? "" : ` (skipped: ${reason})`;
}

/** A RuntimeClass handler of the shim. */
export interface Handler {
  /** Text of the shim's configuration; it is written to `/etc/sealpod/<handler>.toml`. */
  readonly config: string;
}

/** Options of {@link openContainerdWorld}. */
export interface WorldOptions {
  readonly version: ContainerdVersion;
  /** Directory with `containerd-shim-kata-cc-v2`; stands first in containerd's PATH. This checkout's if there are handlers and no directory. */
  readonly shimDirectory?: string;
  /** Handlers of the shim, by name. The first one's configuration is also `/etc/sealpod/shim.toml`. With any, there is an emulated processor. */
  readonly handlers?: Readonly<Record<string, Handler>>;
  /** More variables in containerd's environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** A node. */
export interface ContainerdWorld extends AsyncDisposable {
  readonly version: ContainerdVersion;
  readonly namespace: Namespace;
  /** Short directory of the world, seen on both sides. */
  readonly directory: string;
  /** Manifests of {@link IMAGES}. */
  readonly images: Readonly<Record<keyof typeof IMAGES, string>>;
  /** Cgroup of the pods. */
  readonly cgroup: string;
  /** containerd's gRPC socket, as seen from outside. */
  readonly socket: string;
  /** Calls a method of CRI. */
  readonly cri: <I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageInitShape<I>) => Promise<MessageShape<O>>;
  /** Runs ctr(8) to its end. */
  readonly ctr: (...args: readonly string[]) => Promise<CommandResult>;
  /** Starts ctr(8). */
  readonly startCtr: (...args: readonly string[]) => Program;
  /** Runs a command in the world; throws if it fails. */
  readonly inside: (...command: readonly string[]) => Promise<string>;
  /** All that containerd has logged. */
  readonly log: () => string;
  /** Ends containerd, politely or not, and starts it again. */
  readonly restart: (signal?: NodeJS.Signals) => Promise<void>;
  /** Makes a cgroup of a pod in all hierarchies, as kubelet does before it runs the pod. */
  readonly makeCgroup: (name: string) => Promise<void>;
  readonly removeCgroup: (name: string) => Promise<void>;
  /**
   * What is there now and was not when the world was opened; empty when all pods were removed without a trace.
   * @param patience milliseconds in which what was removed may still go: the kernel takes interfaces and processes away after the call that ends them
   */
  readonly leaks: (patience?: number) => Promise<readonly string[]>;
}

/** Opens a world. It ends, with all that is in it, when it is disposed. */
export async function openContainerdWorld(options: WorldOptions): Promise<ContainerdWorld> {
  const problem = noWorld(options.version);
  if (problem !== undefined) throw new Error(problem);
  await using stack = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "cw-"));
  stack.defer(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }));
  const cgroup = `/sealpod-${randomBytes(4).toString("hex")}`;
  stack.defer(() => removeCgroups(cgroup));
  const namespace = stack.use(await Namespace.open(directory, unpackedPrograms()));
  const images = await writeImages(join(directory, "layout"), join(directory, "images.tar"));
  await writeConfiguration(directory, options);

  const shims = options.shimDirectory ?? join(directory, "bin");
  if (options.handlers !== undefined) {
    if (options.shimDirectory === undefined) await writeLauncher(shims);
    stack.use(await startProcessor(directory));
  }
  const path = [shims, join(UNPACKED[options.version], "usr/bin"), ...SEARCH].join(":");
  // A daemon of the system has little in its environment, and so has this one.
  const env = { PATH: path, HOME: "/root", ...options.env };
  let log = "";
  let containerd: Program | undefined;
  const start = async (): Promise<void> => {
    containerd = namespace.spawn(["containerd"], { env });
    await containerd.wrote("containerd successfully booted");
    // CRI answers once it has found all pods again, some time after that word.
    await until(() => cri(criApi.RuntimeService.method.version, {}));
  };
  const grpc = new GrpcSocket(join(directory, "run/containerd/containerd.sock"), 10_000, NODE_HINTS);
  const cri: ContainerdWorld["cri"] = (method, request) => grpc.unary(method, request, { timeout: CALL_TIMEOUT });
  const inside = async (...command: readonly string[]): Promise<string> => {
    const result = await namespace.run(command, { env });
    if (result.status !== 0) throw new Error(`${command.join(" ")}: ${result.status}: ${result.stderr}${result.stdout}`);
    return result.stdout;
  };
  await start();
  await inside("ctr", "--namespace", "k8s.io", "images", "import", "--no-unpack", join(directory, "images.tar"));
  await inside("ctr", "images", "import", join(directory, "images.tar"));
  await rm(join(directory, "images.tar"));
  const before = await seen();
  const owned = stack.move();

  async function seen(): Promise<ReadonlySet<string>> {
    const files = [...filesBelow(join(directory, "run"), "/run"), ...filesBelow(join(directory, "var/lib/cni"), "/var/lib/cni")];
    const links = await inside("ip", "-o", "link");
    const mounts = readFileSync(`/proc/${namespace.pid}/mountinfo`, "utf8");
    return new Set([
      ...processesOf(namespace).map((command) => `process ${command}`),
      ...files.map((file) => `file ${file}`),
      ...[...links.matchAll(/^\d+: ([^:@\s]+)/gm)].map((match) => `link ${match[1] ?? ""}`),
      ...mounts.split("\n").map((line) => `mount ${line.split(" ")[4] ?? ""}`),
      ...cgroupsBelow(cgroup).map((name) => `cgroup ${name}`),
    ]);
  }

  return {
    version: options.version,
    namespace,
    directory,
    images,
    cgroup,
    socket: join(directory, "run/containerd/containerd.sock"),
    cri,
    ctr: (...args) => namespace.run(["ctr", ...args], { env }),
    startCtr: (...args) => namespace.spawn(["ctr", ...args], { env }),
    inside,
    log: () => log + (containerd?.stderr ?? ""),
    async restart(signal = "SIGTERM") {
      containerd?.signal(signal);
      await containerd?.exited;
      log += containerd?.stderr ?? "";
      await start();
    },
    makeCgroup: async (name) => {
      for (const hierarchy of hierarchies()) await mkdir(join(hierarchy, cgroup, name), { recursive: true });
    },
    removeCgroup: async (name) => {
      for (const hierarchy of hierarchies()) await rmdir(join(hierarchy, cgroup, name)).catch(() => undefined);
    },
    async leaks(patience = 10_000) {
      const end = Date.now() + patience;
      for (;;) {
        const found = [...(await seen())].filter((item) => !before.has(item) && !EXPECTED.some((pattern) => pattern.test(item)));
        if (found.length === 0 || Date.now() > end) return found;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** What the first pod brings, and the next one uses. */
const EXPECTED: readonly RegExp[] = [
  /^link cni0$/,
  /^file \/var\/lib\/cni\/networks\/pods\/(last_reserved_ip\.\d|lock)$/,
  // What looks.
  /^process ip -o link$/,
];

async function writeConfiguration(directory: string, options: WorldOptions): Promise<void> {
  const etc = join(directory, "etc");
  for (const name of ["containerd", "cni/net.d", "sealpod"]) await mkdir(join(etc, name), { recursive: true });
  const handlers = Object.entries(options.handlers ?? {});
  for (const [name, { config }] of handlers) await writeFile(join(etc, "sealpod", `${name}.toml`), config);
  const [first] = handlers;
  if (first !== undefined) await writeFile(join(etc, "sealpod/shim.toml"), first[1].config);
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  const runtimes = handlers.map(
    ([name]) => `
    [${cri}.containerd.runtimes.${name}]
      runtime_type = "io.containerd.kata-cc.v2"
      privileged_without_host_devices = true
      pod_annotations = ["io.katacontainers.*"]
      container_annotations = ["io.katacontainers.*"]
      [${cri}.containerd.runtimes.${name}.options]
        ConfigPath = "/etc/sealpod/${name}.toml"
`,
  );
  // Raising a process's badness needs a capability that a container of a build machine may lack.
  const config = `version = 2
disabled_plugins = [${["internal.v1.opt", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper", "snapshotter.v1.aufs", "nri.v1.nri"].map((name) => `"io.containerd.${name}"`).join(", ")}]
[${cri}]
  sandbox_image = "${IMAGES.pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  stream_server_address = "127.0.0.1"
  [${cri}.cni]
    bin_dir = "${CNI.find((path) => existsSync(join(path, "host-local"))) ?? ""}"
    conf_dir = "/etc/cni/net.d"
  [${cri}.containerd]
    snapshotter = "overlayfs"
    [${cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
${runtimes.join("")}`;
  await writeFile(join(etc, "containerd/config.toml"), config);
  const network = {
    cniVersion: "0.4.0",
    name: "pods",
    plugins: [
      {
        type: "bridge",
        bridge: "cni0",
        isGateway: true,
        // No masquerade: what is outside of the world is not to be reached.
        ipMasq: false,
        mtu: 1400,
        ipam: {
          type: "host-local",
          ranges: [[{ subnet: "10.88.0.0/16" }], [{ subnet: "fd00:88::/64" }]],
          routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
        },
      },
    ],
  };
  await writeFile(join(etc, "cni/net.d/10-pods.conflist"), JSON.stringify(network));
}

/** Command lines of the processes in a namespace, without the kernel's own. */
function processesOf(namespace: Namespace): readonly string[] {
  const proc = namespace.path("/proc");
  return readdirSync(proc)
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const command = readFileSync(join(proc, name, "cmdline"), "utf8")
          .replaceAll("\0", " ")
          .trim();
        return command === "" ? [`${readFileSync(join(proc, name, "comm"), "utf8").trim()} (a zombie)`] : [command];
      } catch {
        // It has ended meanwhile.
        return [];
      }
    });
}

/** Directories below which containerd, or the shim, has one directory for each thing that lives. */
const PER_POD =
  /^\/run\/(sealpod\/pods|containerd\/(fifo|io\.containerd\.runtime\.v2\.task\/[^/]+|io\.containerd\.grpc\.v1\.cri\/(sandboxes|containers)|runc\/[^/]+))\/[^/]+$/;

/** Files of any kind, and the directories of what lives. */
function filesBelow(directory: string, name: string): readonly string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const [path, label] = [join(directory, entry.name), `${name}/${entry.name}`];
    if (!entry.isDirectory()) return [label];
    return PER_POD.test(label) ? [label] : filesBelow(path, label);
  });
}

/** Roots of the cgroup hierarchies; one where there is cgroup 2. */
function hierarchies(): readonly string[] {
  const root = "/sys/fs/cgroup";
  if (existsSync(join(root, "cgroup.controllers"))) return [root];
  return readdirSync(root)
    .map((name) => join(root, name))
    .filter((path) => existsSync(join(path, "cgroup.procs")) && !isLink(path));
}

function isLink(path: string): boolean {
  try {
    readlinkSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Names of the cgroups below one, in any hierarchy. */
function cgroupsBelow(cgroup: string): readonly string[] {
  const names = new Set<string>();
  for (const hierarchy of hierarchies()) {
    const root = join(hierarchy, cgroup);
    if (!existsSync(root)) continue;
    for (const entry of readdirSync(root, { withFileTypes: true, recursive: true })) {
      if (entry.isDirectory()) names.add(join(entry.parentPath, entry.name).slice(root.length + 1));
    }
  }
  return [...names];
}

async function removeCgroups(cgroup: string): Promise<void> {
  for (const hierarchy of hierarchies()) {
    const root = join(hierarchy, cgroup);
    if (!existsSync(root)) continue;
    const below = readdirSync(root, { withFileTypes: true, recursive: true }).filter((entry) => entry.isDirectory());
    const paths = [root, ...below.map((entry) => join(entry.parentPath, entry.name))];
    // Those that are deeper come first.
    for (const path of paths.sort((a, b) => b.length - a.length)) await rmdir(path).catch(() => undefined);
  }
}
