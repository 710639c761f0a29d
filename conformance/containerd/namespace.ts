import { execFile, spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdir, symlink } from "node:fs/promises";
import { connect } from "node:net";
import type { Socket } from "node:net";
import { basename, join } from "node:path";
import type { Readable } from "node:stream";
import { MOUNT_NAMESPACE, onOwnRoot } from "@sealpod/vmm";

/** Directories of a node that programs write to at fixed places. In a {@link Namespace} they are its own. */
const PRIVATE = ["run", "var/lib", "var/log"] as const;

/**
 * Makes the mounts, then stays as the first process: it adopts and reaps what daemons leave, and all of them end with it.
 * `/etc` shows the machine's files, and takes new ones.
 */
const INIT = `set -eu
directory=$1
for name in ${PRIVATE.join(" ")}; do mount --bind "$directory/$name" "/$name"; done
mkdir -p /run/netns /run/lock
mount -t overlay -o "lowerdir=/etc,upperdir=$directory/etc,workdir=$directory/etc-work" world /etc
if [ -d /usr/local/sbin ]; then mount -t overlay -o "lowerdir=$directory/sbin:/usr/local/sbin" world /usr/local/sbin; fi
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
trap : TERM INT
exec 4<&0
"$2" -e "$3" "$directory/dial.sock" <&4 >&3 2>&1 &
exec 3>&- 4<&-
while kill -0 $! 2>/dev/null; do wait || true; done`;

/** Connects who comes to the address on their first line: the way from the test into the namespace's network. */
const DIALER = `
const net = require("node:net");
net.createServer({ allowHalfOpen: true }, (near) => {
  near.on("error", () => near.destroy());
  let line = "";
  const onData = (part) => {
    line += part.toString("latin1");
    const end = line.indexOf("\\n");
    if (end === -1) return;
    near.off("data", onData).pause();
    const split = line.slice(0, end).lastIndexOf(":");
    const far = net.connect({ host: line.slice(0, split), port: Number(line.slice(split + 1, end)), allowHalfOpen: true });
    far.on("connect", () => {
      near.write("+");
      if (end + 1 < line.length) far.write(Buffer.from(line.slice(end + 1), "latin1"));
      near.pipe(far).pipe(near);
    });
    far.on("error", () => near.destroy());
    far.on("close", () => near.destroy());
    near.on("close", () => far.destroy());
  };
  near.on("data", onData);
}).listen(process.argv[1], () => console.log("ready"));
// A test that was killed cannot end the world; the world sees it.
process.stdin.resume().on("end", () => process.exit());
`;

/** What a command gave. */
export interface CommandResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Options of a command. */
export interface CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string | Uint8Array;
  /** Directory in the namespace; `/` if absent. */
  readonly cwd?: string;
}

/**
 * Namespaces of mounts, network, processes, names and IPC in which daemons believe to have a machine: `/run`, `/var/lib`, `/var/log` are directories
 * of the test, `/etc` takes files. When it is closed, every process in it ends and every mount and interface goes.
 */
export class Namespace implements AsyncDisposable {
  /** Has `run`, `var/lib`, `var/log`, `etc` (what was added): the files without what is mounted on them. */
  readonly directory: string;
  readonly #child: ChildProcess;
  readonly #init: number;

  private constructor(directory: string, child: ChildProcess, init: number) {
    this.directory = directory;
    this.#child = child;
    this.#init = init;
  }

  /**
   * @param directory is there; short, since sockets are in it
   * @param programs paths of what shall be in `/usr/local/sbin`, beside what is there
   */
  static async open(directory: string, programs: readonly string[] = []): Promise<Namespace> {
    for (const name of [...PRIVATE, "etc", "etc-work", "sbin"]) await mkdir(join(directory, name), { recursive: true });
    for (const path of programs) await symlink(path, join(directory, "sbin", basename(path)));
    const flags = [...MOUNT_NAMESPACE, "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"];
    const command = onOwnRoot(["/bin/sh", "-c", INIT, "world", directory, process.execPath, DIALER]);
    const child = spawn("unshare", [...flags, ...command], { stdio: ["pipe", "ignore", "pipe", "pipe"], env: { PATH: process.env["PATH"] } });
    let log = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (log += text));
    const ready = child.stdio[3] as Readable;
    await new Promise<void>((resolve, reject) => {
      ready.on("data", (text: Buffer) => (text.toString() === "ready\n" ? resolve() : (log += text.toString())));
      child.once("exit", (code) => reject(new Error(`the namespaces ended with ${code}: ${log}`)));
    });
    return new Namespace(directory, child, firstChild(child.pid));
  }

  /** Process id, on the outside, of the first process. */
  get pid(): number {
    return this.#init;
  }

  /** A path of the namespace as seen from outside, mounts included. */
  path(inside: string): string {
    return join(`/proc/${this.#init}/root`, inside);
  }

  /** Arguments of nsenter(1) for a command inside. */
  #enter(cwd = "/"): readonly string[] {
    return [`--target=${this.#init}`, "--mount", "--net", "--uts", "--ipc", "--pid", "--root", `--wdns=${cwd}`];
  }

  /** Runs a command to its end. */
  run(command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return new Promise((resolve) => {
      const child = execFile(
        "nsenter",
        [...this.#enter(options.cwd), ...command],
        { env: options.env ?? { PATH: process.env["PATH"] }, maxBuffer: 64 * 1024 * 1024 },
        (error, stdout, stderr) => resolve({ status: error === null ? 0 : typeof error.code === "number" ? error.code : -1, stdout, stderr }),
      );
      // A command that does not read its input is not to be punished for it.
      child.stdin?.on("error", () => undefined).end(options.stdin ?? "");
    });
  }

  /** Starts a daemon or an interactive program. */
  spawn(command: readonly string[], options: CommandOptions = {}): Program {
    const child = spawn("nsenter", [...this.#enter(options.cwd), ...command], {
      stdio: "pipe",
      env: options.env ?? { PATH: process.env["PATH"] },
    });
    if (options.stdin !== undefined) child.stdin.end(options.stdin);
    return new Program(child);
  }

  /** A TCP connection from inside. Rejects if nobody listens there. */
  async dial(host: string, port: number): Promise<Socket> {
    const socket = connect({ path: join(this.directory, "dial.sock"), allowHalfOpen: true });
    socket.write(`${host}:${port}\n`);
    await new Promise<void>((resolve, reject) => {
      socket.once("readable", () => {
        if (socket.read(1) === null) reject(new Error(`nobody listens at ${host}:${port}`));
        else resolve();
      });
      socket.once("error", reject);
      socket.once("close", () => reject(new Error(`nobody listens at ${host}:${port}`)));
    });
    return socket;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    // The kernel ends the others of a process namespace with its first.
    process.kill(this.#init, "SIGKILL");
    await ended;
  }
}

/** A program in a {@link Namespace}. */
export class Program {
  readonly child: ChildProcess;
  stdout = "";
  stderr = "";
  readonly exited: Promise<number>;
  readonly #news = new EventEmitter();

  constructor(child: ChildProcess) {
    this.child = child;
    this.#news.setMaxListeners(0);
    for (const name of ["stdout", "stderr"] as const) {
      child[name]?.setEncoding("utf8").on("data", (part: string) => {
        this[name] += part;
        this.#news.emit("news");
      });
    }
    child.stdin?.on("error", () => undefined);
    this.exited = new Promise((resolve) => {
      child.once("close", (code, signal) => {
        resolve(code ?? (signal === "SIGKILL" ? 137 : 143));
        this.#news.emit("news");
      });
    });
  }

  /** Waits until a stream has a text. */
  async wrote(words: string | RegExp): Promise<void> {
    const has = (text: string): boolean => (typeof words === "string" ? text.includes(words) : words.test(text));
    while (!has(this.stdout) && !has(this.stderr)) {
      if (this.child.exitCode !== null || this.child.signalCode !== null)
        throw new Error(`ended before it wrote ${String(words)}: ${this.stderr}${this.stdout}`);
      await once(this.#news, "news");
    }
  }

  /** Sends a signal to the program itself: nsenter(1) stands between. */
  signal(name: NodeJS.Signals): void {
    if (this.child.exitCode === null && this.child.signalCode === null) process.kill(firstChild(this.child.pid), name);
  }
}

function firstChild(pid: number | undefined): number {
  const [child] = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, "latin1").split(" ");
  if (child === undefined || child === "") throw new Error(`process ${String(pid)} has no child`);
  return Number(child);
}
