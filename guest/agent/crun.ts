import type { ChildProcess } from "node:child_process";
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { rm } from "node:fs/promises";
import { Socket } from "node:net";
import { asObject, encodeJson, parseJson, type JsonObject } from "@sealpod/core";
import { exitOf, run, start } from "./command.ts";
import { AgentError } from "./errors.ts";
import { handlesSignal, isSameProgram, processesIn, usageOf } from "./proc.ts";
import type { Runtime, RuntimeContainer, RuntimeProcess } from "./runtime.ts";
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

  /** @param state directory for crun's own notes */
  constructor(state: string) {
    this.#state = state;
  }

  async create(id: string, bundle: string, spec: JsonObject): Promise<RuntimeContainer> {
    const log = `${bundle}/crun.log`;
    const ready = `${bundle}/ready`;
    const go = `${bundle}/start`;
    await run(MKFIFO, ["-m", "600", "--", ready, go]);
    const hooks = {
      createRuntime: [
        { path: REPORT, args: ["tee", ready] },
        { path: AWAIT, args: ["head", "-c", "1", go] },
      ],
    };
    writeFileSync(`${bundle}/config.json`, encodeJson({ ...spec, hooks }), { mode: 0o600 });

    // Held open to the end: what is in a pipe is lost when nobody has it open, and the hook may come late.
    const gate = openPipe(go);
    const { child, pipes } = await startPiped(this.#args(log, ["run", "--bundle", bundle, id]), `${bundle}/init`);
    const exited = exitOf(child);
    let pid: number;
    const namespaces: number[] = [];
    try {
      pid = await reported(ready, exited, log, (text) => {
        const value = text.endsWith("}") ? asObject(parseJson(text, "crun state"))?.["pid"] : undefined;
        return typeof value === "number" ? value : undefined;
      });
      // Held open too: so neither can a namespace's inode, nor the process id, come to mean another one while the container is known by it.
      for (const kind of ["mnt", "pid"]) namespaces.push(openSync(`/proc/${pid}/ns/${kind}`, constants.O_RDONLY));
    } catch (error) {
      writeSync(gate, "1");
      child.kill("SIGKILL");
      await exited;
      [gate, ...namespaces].forEach((fd) => closeSync(fd));
      destroyAll(pipes);
      await run(CRUN, this.#args(log, ["delete", "--force", id])).catch(() => undefined);
      throw error;
    }

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
      processes().forEach((target) => send(target, SIGKILL));
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
      start() {
        if (phase !== "created") throw new AgentError("ERR_AGENT_STATE", `container ${id} was started or has ended already`);
        phase = "started";
        writeSync(gate, "1");
      },
      remove: async () => {
        killAll();
        await ended;
        namespaces.forEach((fd) => closeSync(fd));
        await run(CRUN, this.#args(log, ["delete", "--force", id]));
      },
    };
  }

  async exec(id: string, bundle: string, execId: string, specification: JsonObject): Promise<RuntimeProcess> {
    const file = `${bundle}/exec-${execId}`;
    const log = `${file}.log`;
    await run(MKFIFO, ["-m", "600", "--", `${file}.pid`]);
    try {
      writeFileSync(`${file}.json`, encodeJson(specification), { mode: 0o600 });
      const { child, pipes } = await startPiped(this.#args(log, ["exec", "--process", `${file}.json`, "--pid-file", `${file}.pid`, id]), file);
      let gone = false;
      const exited = exitOf(child).finally(() => (gone = true));
      const pid = await reported(`${file}.pid`, exited, log, (text) => (/^[1-9][0-9]*$/.test(text) ? Number(text) : undefined)).catch((error: unknown) => {
        destroyAll(pipes);
        throw error;
      });
      return { ...pipes, exited, signal: (signal) => (gone ? undefined : send(pid, signal)) };
    } finally {
      for (const suffix of ["pid", "json", "log"]) await rm(`${file}.${suffix}`, { force: true });
    }
  }

  #args(log: string, command: readonly string[]): readonly string[] {
    return ["--root", this.#state, "--cgroup-manager=disabled", "--log", log, ...command];
  }
}

/** The three streams of a program. */
type Pipes = Pick<RuntimeProcess, "stdin" | "stdout" | "stderr">;

function destroyAll(pipes: Pipes): void {
  for (const stream of Object.values(pipes)) stream.destroy();
}

/**
 * Starts crun with named pipes as its streams, which the container inherits. Node's own "pipes" are sockets, and a program cannot open
 * `/dev/stdout` again if that is a socket; web servers do (specs/runtime.md 2.7).
 *
 * @param prefix where the pipes are made; their names are gone when this returns
 */
async function startPiped(args: readonly string[], prefix: string): Promise<{ readonly child: ChildProcess; readonly pipes: Pipes }> {
  const [stdin, stdout, stderr] = [`${prefix}.stdin`, `${prefix}.stdout`, `${prefix}.stderr`] as const;
  const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
  await run(MKFIFO, ["-m", "600", "--", stdin, stdout, stderr]);
  const opened: number[] = [];
  const open = (path: string, flags: number): number => {
    const fd = openSync(path, flags);
    opened.push(fd);
    return fd;
  };
  try {
    // Each end is opened by itself: the agent's must not block, the program's must. A reader waits for a writer, so for a moment there are both.
    const both = openPipe(stdin);
    const theirs = [open(stdin, O_RDONLY)];
    const input = open(stdin, O_WRONLY | O_NONBLOCK);
    closeSync(both);
    const outputs = [stdout, stderr].map((path) => {
      const reader = open(path, O_RDONLY | O_NONBLOCK);
      theirs.push(open(path, O_WRONLY));
      return reader;
    });
    const child = start(CRUN, args, theirs);
    theirs.forEach((fd) => closeSync(fd));
    const [first = -1, second = -1] = outputs;
    return {
      child,
      pipes: {
        stdin: new Socket({ fd: input, readable: false, writable: true }),
        stdout: new Socket({ fd: first, readable: true, writable: false }),
        stderr: new Socket({ fd: second, readable: true, writable: false }),
      },
    };
  } catch (error) {
    opened.forEach((fd) => closeSync(fd));
    throw error;
  } finally {
    for (const path of [stdin, stdout, stderr]) rmSync(path, { force: true });
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
