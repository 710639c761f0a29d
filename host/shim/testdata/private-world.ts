/** Mount and network namespaces of a test's own, with a /run of its own, and what is needed to see what a shim leaves there. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { byteStream, TtrpcClient } from "@sealpod/ttrpc";
import { bundle } from "../../../tools/bundle.ts";
import { LAUNCHER_NAME, launcherText } from "../launcher.ts";

/** Why these tests cannot run here, if so. */
export const noNamespaces: string | undefined = process.getuid?.() !== 0 ? "only root can make namespaces" : undefined;

/** Programs of the tests, from the distribution's packages (tools/setup.ts --test). */
const TOOLS = join(import.meta.dirname, "../../../build/tools/usr/bin");

/** Why there is no containerd, if so. */
export const noContainerd: string | undefined = noNamespaces ?? (existsSync(join(TOOLS, "containerd")) ? undefined : "no containerd: node tools/setup.ts --test");

const SETUP = "mount --make-rprivate / && mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up && echo ready && exec sleep infinity";

/** What a program did. */
export interface Outcome {
  readonly exit: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Options of {@link PrivateWorld.run}. */
export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Opens a world; its directory is outside of it, too. */
export async function openPrivateWorld(): Promise<PrivateWorld> {
  const directory = mkdtempSync(join(tmpdir(), "shim-world-"));
  const holder = spawn("unshare", ["--mount", "--net", "sh", "-c", SETUP], { stdio: ["ignore", "pipe", "inherit"] });
  const { pid } = holder;
  if (pid === undefined) throw new Error("unshare does not start");
  const [line] = (await Promise.race([once(holder.stdout, "data"), once(holder, "exit")])) as [unknown];
  if (String(line).trim() !== "ready") throw new Error("no namespaces");
  return new PrivateWorld(directory, pid);
}

/** See the top of the file. */
export class PrivateWorld implements AsyncDisposable {
  readonly directory: string;
  readonly #holder: number;
  readonly #namespace: string;

  constructor(directory: string, holder: number) {
    this.directory = directory;
    this.#holder = holder;
    this.#namespace = readlinkSync(`/proc/${holder}/ns/mnt`);
  }

  /** A path of the world's own /run, as the test sees it. */
  path(path: string): string {
    return `/proc/${this.#holder}/root${path}`;
  }

  /** Arguments of `nsenter` for a program in the world. */
  inside(program: string, args: readonly string[], cwd: string): readonly string[] {
    return [`--target=${this.#holder}`, "--mount", "--net", `--wd=${cwd}`, program, ...args];
  }

  /** Runs a program in the world to its end, with nothing in its environment but PATH and what is given. */
  async run(program: string, args: readonly string[], { cwd = this.directory, env = {} }: RunOptions = {}): Promise<Outcome> {
    const { promise, resolve } = Promise.withResolvers<Outcome>();
    // nsenter is found by the test's own PATH, not by the one that the program gets.
    const command = ["-i", ...Object.entries({ PATH: "/usr/sbin:/usr/bin:/sbin:/bin", ...env }).map(([name, value]) => `${name}=${value}`), program, ...args];
    execFile("nsenter", this.inside("/usr/bin/env", command, cwd), { encoding: "buffer", timeout: 60_000 }, (error, stdout, stderr) =>
      resolve({ exit: error === null ? 0 : typeof error.code === "number" ? error.code : null, stdout, stderr: stderr.toString() }),
    );
    return promise;
  }

  /** Ids of the processes in the world, but for the one that keeps it. */
  processes(): readonly number[] {
    return readdirSync("/proc")
      .filter((name) => /^[0-9]+$/.test(name) && Number(name) !== this.#holder)
      .map(Number)
      .filter((pid) => {
        try {
          return readlinkSync(`/proc/${pid}/ns/mnt`) === this.#namespace;
        } catch {
          return false;
        }
      });
  }

  /** Names of the sockets in containerd's directory of them. */
  sockets(): readonly string[] {
    const directory = this.path("/run/containerd/s");
    return existsSync(directory) ? readdirSync(directory) : [];
  }

  /** A client of a shim, by the address that its launcher printed. */
  async client(address: string): Promise<TtrpcClient> {
    const socket = connect(this.path(address.replace("unix://", "")));
    await once(socket, "connect");
    return new TtrpcClient(byteStream(socket));
  }

  /** A bundle with its log, and the specification's annotations. */
  async bundle(id: string, annotations: Readonly<Record<string, string>> = {}, space?: number): Promise<string> {
    const path = join(this.directory, "bundles", id);
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, "config.json"), JSON.stringify({ ociVersion: "1.0.2", annotations }, undefined, space));
    await this.run("mkfifo", [join(path, "log")]);
    return path;
  }

  /**
   * Writes a launcher into a directory of its own; returns its path. Each start of Node by it adds a line to the file `node-starts` beside it.
   * @param node default: the one that runs this
   */
  launcher(shim: string, node: string = process.execPath): string {
    const directory = mkdtempSync(join(this.directory, "bin-"));
    const wrapper = join(directory, "node");
    writeFileSync(wrapper, `#!/bin/sh\necho "$@" >>'${directory}/node-starts'\nexec '${node}' "$@"\n`, { mode: 0o755 });
    const path = join(directory, LAUNCHER_NAME);
    writeFileSync(path, launcherText({ node: node === process.execPath ? wrapper : node, shim, config: join(this.directory, "shim.toml") }));
    chmodSync(path, 0o755);
    return path;
  }

  /** The shim of tests as one file: from its sources it starts too slowly for a machine that is busy. Returns its path. */
  async tinyShim(): Promise<string> {
    const path = join(this.directory, "tiny-shim.mjs");
    writeFileSync(path, (await bundle("host/shim/testdata/tiny-shim.ts")).bytes);
    return path;
  }

  /** A directory with links to programs of this machine: a PATH in which there is nothing else. */
  programs(names: readonly string[]): string {
    const directory = mkdtempSync(join(this.directory, "path-"));
    for (const name of names) {
      const found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map((folder) => join(folder, name)).find((path) => existsSync(path));
      if (found === undefined) throw new Error(`no ${name} on this machine`);
      symlinkSync(found, join(directory, name));
    }
    return [directory].join(delimiter);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of [...this.processes(), this.#holder]) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended.
      }
    }
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** A containerd in a world. */
export class PrivateContainerd {
  readonly #world: PrivateWorld;
  readonly #directory: string;
  readonly #path: string;
  #child: ChildProcess | undefined;

  /** @param path PATH in which containerd finds its shims */
  constructor(world: PrivateWorld, path: string) {
    this.#world = world;
    this.#path = path;
    this.#directory = mkdtempSync(join(world.directory, "containerd-"));
    const text = [
      "version = 2",
      `root = "${this.#directory}/root"`,
      `state = "${this.#directory}/state"`,
      // What needs a kubelet's node.
      'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]',
      "[grpc]",
      `address = "${this.address}"`,
      "[ttrpc]",
      `address = "${this.address}.ttrpc"`,
    ];
    writeFileSync(join(this.#directory, "config.toml"), text.join("\n"));
  }

  /** Path of its socket. */
  get address(): string {
    return join(this.#directory, "c.sock");
  }

  /** Path of a container's bundle. */
  bundle(id: string): string {
    return join(this.#directory, "state/io.containerd.runtime.v2.task/default", id);
  }

  /** What it has logged, its shims' logs included. */
  get log(): string {
    return readFileSync(join(this.#directory, "log"), "utf8");
  }

  /** Starts it; resolves when it answers. */
  async start(env: Readonly<Record<string, string>> = {}): Promise<void> {
    const log = openSync(join(this.#directory, "log"), "a");
    const args = this.#world.inside(join(TOOLS, "containerd"), ["--config", join(this.#directory, "config.toml")], this.#directory);
    this.#child = spawn("nsenter", args, { stdio: ["ignore", log, log], env: { ...env, PATH: this.#path } });
    closeSync(log);
    for (let attempt = 0; (await this.ctr("version")).exit !== 0; attempt++) {
      if (attempt === 100 || this.#child.exitCode !== null) throw new Error(`containerd does not start: ${this.log}`);
    }
  }

  /** Ends it by force. Its shims stay. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  async ctr(...args: readonly string[]): Promise<Outcome> {
    return this.#world.run(join(TOOLS, "ctr"), ["--address", this.address, "--connect-timeout", "3s", ...args]);
  }
}
