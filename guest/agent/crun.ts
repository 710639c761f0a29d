import { closeSync, constants, existsSync, fstatSync, openSync, readFileSync, readSync, rmSync, watch, writeFileSync, writeSync } from "node:fs";
import { rm } from "node:fs/promises";
import { Socket } from "node:net";
import { asObject, encodeJson, parseJson, type JsonObject } from "@sealpod/core";
import { exitOf, run, start } from "./command.ts";
import { openConsole } from "./console.ts";
import { AgentError } from "./errors.ts";
import { handlesSignal, isSameProgram, processesIn, usageOf } from "./proc.ts";
import type { Runtime, RuntimeCgroup, RuntimeContainer, RuntimeProcess } from "./runtime.ts";
import { hasCode } from "./confined-directory.ts";

const CRUN = "/usr/bin/crun";
const MKFIFO = "/usr/bin/mkfifo";
/** Copies the container's state, which a hook gets as standard input, into a pipe. */
const REPORT = "/usr/bin/tee";
/** Ends when a byte has come through a pipe. */
const AWAIT = "/usr/bin/head";

const SIGKILL = 9;
const SIGTERM = 15;

/** Longest report through a pipe: crun's state has a few hundred bytes, and paths. */
const MAX_REPORT_BYTES = 16 * 1024;
/** Most of crun's log that goes into an error. */
const MAX_LOG_CHARACTERS = 2048;

/**
 * Containers by crun, each as a child in the foreground: its exit status is the container's, and its pipes are the container's.
 *
 * Create and start are told apart by two hooks that the agent adds after the policy was asked. crun runs them when the container stands but
 * its program does not run yet: the first reports the process id, the second blocks until the agent writes a byte. (`crun create` would leave
 * the process to an init, and Node can neither be one nor wait for a process that is not its child.)
 */
export class Crun implements Runtime {
  readonly #state: string;
  readonly #helper: string | undefined;
  #consoles = 0;

  /**
   * @param state directory for crun's own notes
   * @param helper the program that relays terminals; the one of the guest's root unless given
   */
  constructor(state: string, helper?: string) {
    this.#state = state;
    this.#helper = helper;
  }

  async create(id: string, bundle: string, spec: JsonObject, group?: RuntimeCgroup): Promise<RuntimeContainer> {
    const log = `${bundle}/crun.log`;
    const ready = `${bundle}/ready`;
    const go = `${bundle}/start`;
    const hooks = {
      createRuntime: [
        { path: REPORT, args: ["tee", ready] },
        // A byte of the state too: crun fails if a hook ends before it was given all of it.
        { path: AWAIT, args: ["head", "-q", "-c", "1", "-", go] },
      ],
    };
    writeFileSync(`${bundle}/config.json`, encodeJson({ ...spec, hooks }), { mode: 0o600 });
    using streams = await this.#open(asObject(spec["process"]), `${bundle}/init`, [ready, go]);
    const { pipes } = streams;
    using undo = new DisposableStack();
    undo.defer(() => destroyAll(pipes));
    // Held open to the end: what is in a pipe is lost when nobody has it open, and the hook may come late.
    const gate = openPipe(go);
    undo.defer(() => closeSync(gate));
    const child = start(CRUN, this.#args(log, group, ["run", ...streams.args, "--bundle", bundle, id]), streams.theirs);
    const exited = exitOf(child);
    let pid: number;
    const namespaces: number[] = [];
    try {
      pid = await reported(ready, exited, log, (text) => {
        const value = text.endsWith("}") ? asObject(parseJson(text, "crun state"))?.["pid"] : undefined;
        return typeof value === "number" ? value : undefined;
      });
      // Held open too: so neither can a namespace's inode, nor the process id, come to mean another one while the container is known by it.
      for (const kind of ["mnt", "pid"]) {
        const fd = openSync(`/proc/${pid}/ns/${kind}`, constants.O_RDONLY);
        undo.defer(() => closeSync(fd));
        namespaces.push(fd);
      }
    } catch (error) {
      writeSync(gate, "1");
      child.kill("SIGKILL");
      await exited;
      await this.#delete(id, log, group).catch(() => undefined);
      throw error;
    }
    undo.move();

    let phase: "created" | "started" | "killed" | "ended" = "created";
    const ended = exited.then((status) => {
      // What is killed before its program runs is crun's own setup, about which crun complains, and the status would be crun's.
      const result = phase === "killed" && readLog(log) !== "" ? 128 + SIGKILL : status;
      phase = "ended";
      closeSync(gate);
      return result;
    });
    const [mountNamespace = -1, pidNamespace = -1] = namespaces;
    const processes = (): readonly number[] => processesIn(fstatSync(mountNamespace).ino);
    const killAll = (): void => {
      if (group === undefined) processes().forEach((target) => send(target, SIGKILL));
      else group.kill();
      if (phase === "ended") return;
      phase = "killed";
      writeSync(gate, "1");
    };
    return {
      pidNamespace: `/proc/${process.pid}/fd/${pidNamespace}`,
      usage() {
        const pids = processes();
        return { ...usageOf(pids), processes: pids.length };
      },
      init: {
        ...pipes,
        exited: ended,
        signal(signal) {
          if (phase === "ended") return;
          // The first process of a pid namespace ignores what it has no handler for; a request to stop must stop it all the same. SIGKILL is for
          // the whole container (specs/runtime.md 2.6). Until the program runs, it is crun that blocks signals.
          const fatal = signal === SIGKILL || (signal === SIGTERM && (isSameProgram(pid, child.pid ?? 0) || !handlesSignal(pid, SIGTERM)));
          if (fatal) killAll();
          else send(pid, signal);
        },
      },
      start: async () => {
        if (phase !== "created") throw new AgentError("ERR_AGENT_STATE", `container ${id} was started or has ended already`);
        phase = "started";
        const started = this.#started(id, exited);
        writeSync(gate, "1");
        // A program may end as soon; but then crun has nothing to say.
        const reason = (await started) ? "" : readLog(log);
        if (reason !== "") throw new AgentError("ERR_AGENT_COMMAND", `container ${id} cannot be started: ${reason}`);
      },
      remove: async () => {
        killAll();
        await ended;
        namespaces.forEach((fd) => closeSync(fd));
        await this.#delete(id, log, group);
      },
    };
  }

  async exec(id: string, bundle: string, execId: string, specification: JsonObject, group?: RuntimeCgroup): Promise<RuntimeProcess> {
    const file = `${bundle}/exec-${execId}`;
    const log = `${file}.log`;
    try {
      writeFileSync(`${file}.json`, encodeJson(specification), { mode: 0o600 });
      using streams = await this.#open(specification, file, [`${file}.pid`]);
      const { pipes } = streams;
      using undo = new DisposableStack();
      undo.defer(() => destroyAll(pipes));
      const command = ["exec", ...streams.args, "--process", `${file}.json`, "--pid-file", `${file}.pid`, id];
      const child = start(CRUN, this.#args(log, group, command), streams.theirs);
      let gone = false;
      const exited = exitOf(child).finally(() => (gone = true));
      const pid = await reported(`${file}.pid`, exited, log, (text) => (/^[1-9][0-9]*$/.test(text) ? Number(text) : undefined));
      undo.move();
      return { ...pipes, exited, signal: (signal) => (gone ? undefined : send(pid, signal)) };
    } finally {
      for (const suffix of ["pid", "json", "log"]) await rm(`${file}.${suffix}`, { force: true });
    }
  }

  #args(log: string, group: RuntimeCgroup | undefined, command: readonly string[]): readonly string[] {
    return ["--root", this.#state, `--cgroup-manager=${group === undefined ? "disabled" : "cgroupfs"}`, "--log", log, ...command];
  }

  /**
   * Waits until crun has written down that a container runs, which is after its hooks: before, crun would run no other process in it.
   * @returns false if crun ended first
   */
  async #started(id: string, exited: Promise<unknown>): Promise<boolean> {
    const directory = `${this.#state}/${id}`;
    // It is there from the beginning to the end of crun.
    if (!existsSync(directory)) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const watcher = watch(directory, { persistent: false }, () => {
      if (existsSync(`${directory}/status`)) resolve(true);
    });
    watcher.on("error", () => resolve(true));
    void exited.then(() => resolve(false));
    try {
      return await promise;
    } finally {
      watcher.close();
    }
  }

  /** Removes what crun knows of a container: nothing, once its first process has ended. */
  async #delete(id: string, log: string, group: RuntimeCgroup | undefined): Promise<void> {
    if (existsSync(`${this.#state}/${id}`)) await run(CRUN, this.#args(log, group, ["delete", "--force", id]));
  }

  /** Streams for a process: pipes, or a terminal if its specification says so. `fifos` are made along with them. */
  async #open(specification: JsonObject | undefined, prefix: string, fifos: readonly string[]): Promise<Streams> {
    if (specification?.["terminal"] !== true) return openPipes(prefix, fifos);
    await run(MKFIFO, ["-m", "600", "--", ...fifos]);
    // Not in the container's directory: with a long id that would be a longer path than a socket can have.
    const socket = `${this.#state}.console-${this.#consoles++}`;
    using undo = new DisposableStack();
    const pipes = await openConsole(socket, this.#helper);
    undo.defer(() => destroyAll(pipes));
    const size = asObject(specification["consoleSize"]);
    if (size !== undefined) pipes.resize(Number(size["height"]), Number(size["width"]));
    const nowhere = openSync("/dev/null", constants.O_RDWR);
    undo.move();
    return {
      pipes,
      args: ["--console-socket", socket],
      theirs: [nowhere, nowhere, nowhere],
      [Symbol.dispose]: () => closeSync(nowhere),
    };
  }
}

/** The three streams of a program. */
type Pipes = Pick<RuntimeProcess, "stdin" | "stdout" | "stderr" | "resize">;

/** Streams that crun is to give to a process. Disposing of it releases what only the start needs. */
interface Streams extends Disposable {
  /** Our ends. */
  readonly pipes: Pipes;
  /** What crun must be told of them. */
  readonly args: readonly string[];
  /** Descriptors for crun. */
  readonly theirs: readonly number[];
}

function destroyAll({ stdin, stdout, stderr }: Pipes): void {
  for (const stream of [stdin, stdout, stderr]) stream.destroy();
}

/**
 * Named pipes as the streams of crun, which the container inherits. Node's own "pipes" are sockets, and a program cannot open
 * `/dev/stdout` again if that is a socket; web servers do (specs/runtime.md 2.7).
 *
 * @param prefix where the pipes are made; their names are gone when this returns
 * @param others named pipes that are made along with them, and stay: starting a program costs more than all else here
 */
async function openPipes(prefix: string, others: readonly string[]): Promise<Streams> {
  const names = ["stdin", "stdout", "stderr"].map((name) => `${prefix}.${name}`);
  const [stdin = "", ...outputs] = names;
  const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
  await run(MKFIFO, ["-m", "600", "--", ...names, ...others]);
  using undo = new DisposableStack();
  const open = (path: string, flags: number): number => {
    const fd = openSync(path, flags);
    undo.defer(() => closeSync(fd));
    return fd;
  };
  try {
    // Each end is opened by itself: the agent's must not block, the program's must. A reader waits for a writer, so for a moment there are both.
    const both = openPipe(stdin);
    let input: number;
    const theirs: number[] = [];
    try {
      theirs.push(open(stdin, O_RDONLY));
      input = open(stdin, O_WRONLY | O_NONBLOCK);
    } finally {
      closeSync(both);
    }
    const [first = -1, second = -1] = outputs.map((path) => {
      const reader = open(path, O_RDONLY | O_NONBLOCK);
      theirs.push(open(path, O_WRONLY));
      return reader;
    });
    undo.move();
    return {
      pipes: {
        stdin: new Socket({ fd: input, readable: false, writable: true }),
        stdout: new Socket({ fd: first, readable: true, writable: false }),
        stderr: new Socket({ fd: second, readable: true, writable: false }),
      },
      args: [],
      theirs,
      [Symbol.dispose]: () => theirs.forEach((fd) => closeSync(fd)),
    };
  } finally {
    for (const path of names) rmSync(path, { force: true });
  }
}

/** Opens a named pipe for reading and writing: opening does not wait for the other side, and the pipe does not end when that goes. */
function openPipe(path: string): number {
  return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
}

/**
 * The first thing reported through a named pipe that `parse` takes.
 * @throws {AgentError} ERR_AGENT_COMMAND with crun's log, if crun ends before
 */
async function reported(path: string, exited: Promise<number>, log: string, parse: (text: string) => number | undefined): Promise<number> {
  const fd = openPipe(path);
  const socket = new Socket({ fd, readable: true, writable: false });
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  let text = "";
  const take = (chunk: Uint8Array): void => {
    text += Buffer.from(chunk).toString("latin1");
    const value = text.length > MAX_REPORT_BYTES ? undefined : parse(text);
    if (value !== undefined) resolve(value);
  };
  socket.on("data", take);
  socket.on("error", reject);
  let open = true;
  void exited.then((status) => {
    if (!open) return;
    // A short process may have ended before its report was read.
    take(readAvailable(fd));
    reject(new AgentError("ERR_AGENT_COMMAND", `crun ended with status ${status}: ${readLog(log)}`, { details: { status } }));
  });
  try {
    return await promise;
  } finally {
    open = false;
    socket.destroy();
  }
}

function readAvailable(fd: number): Uint8Array {
  const buffer = Buffer.alloc(MAX_REPORT_BYTES);
  try {
    return buffer.subarray(0, readSync(fd, buffer));
  } catch {
    return new Uint8Array(0); // EAGAIN: nothing came.
  }
}

function readLog(path: string): string {
  try {
    return readFileSync(path, "utf8").slice(0, MAX_LOG_CHARACTERS).trim();
  } catch {
    return "";
  }
}

/** Sends a signal; a process that is gone needs none. */
function send(pid: number, signal: number): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!hasCode(error, "ESRCH")) throw error;
  }
}
