import { spawn, type ChildProcess } from "node:child_process";
import type { Socket } from "node:net";
import { messageOf, type Logger } from "@sealpod/core";
import { systemTimer } from "@sealpod/ttrpc";
import { ShimError } from "./errors.ts";
import { destroyed, type OutputTarget, type StreamTimes, writeTo } from "./streams-fifo.ts";
import type { StreamTarget } from "./streams-names.ts";
import { endsWithin } from "./time-limit.ts";

/** Whose output it is. */
export interface StreamOwner {
  /** Of the container, or of the process that Exec added. */
  readonly id: string;
  readonly namespace: string;
}

/** Options of {@link LoggerProgram.start}. */
export interface LoggerOptions {
  readonly times: StreamTimes;
  readonly logger: Logger;
}

/**
 * A program that takes output (containerd's `binary://` loggers): descriptor 3 is the standard output, 4 the standard error, and 5 is written to or closed by it
 * when it is ready. All three are sockets here, not pipes, since those are what Node can give. Its environment is CONTAINER_ID and CONTAINER_NAMESPACE alone.
 */
export class LoggerProgram {
  readonly #child: ChildProcess;
  readonly #ended: Promise<string>;
  readonly #times: StreamTimes;
  #closed: Promise<void> | undefined;

  private constructor(target: StreamTarget & { readonly kind: "binary" }, owner: StreamOwner, { times, logger }: LoggerOptions) {
    const { path, args } = target;
    this.#times = times;
    this.#child = spawn(path, args, {
      cwd: "/",
      env: { CONTAINER_ID: owner.id, CONTAINER_NAMESPACE: owner.namespace },
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe", "pipe"],
    });
    this.#ended = new Promise((resolve) => {
      this.#child.on("error", (error) => resolve(error.message));
      this.#child.once("exit", (status, signal) => resolve(signal === null ? `it ended with status ${status}` : `it was ended by ${signal}`));
    });
    // A write that fails says so itself.
    for (const pipe of this.#pipes(3, 4, 5)) pipe.on("error", () => undefined);
    void this.#ended.then((how) => {
      if (this.#closed === undefined) logger.log("warn", "a logger ended before the output that it takes", { id: owner.id, program: path, how });
    });
  }

  /**
   * Starts a program and waits until it is ready.
   * @throws {ShimError} ERR_SHIM_STREAM if it cannot be started, ends, or does not say so in time
   */
  static async start(target: StreamTarget & { readonly kind: "binary" }, owner: StreamOwner, options: LoggerOptions): Promise<LoggerProgram> {
    let program: LoggerProgram;
    try {
      program = new LoggerProgram(target, owner, options);
    } catch (cause) {
      throw failed(target.path, messageOf(cause), cause);
    }
    const problem = await program.#unready();
    if (problem === undefined) return program;
    await program.#kill();
    throw failed(target.path, problem);
  }

  /** One of its streams, to be closed by {@link LoggerProgram.close}. */
  stream(name: "stdout" | "stderr"): OutputTarget {
    const [socket] = this.#pipes(name === "stdout" ? 3 : 4);
    if (socket === undefined) throw new TypeError(`the logger has no ${name}`);
    return { write: (bytes) => writeTo(socket, name, bytes), close: () => this.close() };
  }

  /** Ends the streams and waits for the program to end; after a while it is told to, and then made to. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    for (const pipe of this.#pipes(3, 4)) pipe.end();
    let running = true;
    const ended = this.#ended.then(() => (running = false));
    await endsWithin(systemTimer, this.#times.logger, ended);
    if (running) this.#child.kill("SIGTERM");
    await endsWithin(systemTimer, this.#times.logger, ended);
    await this.#kill();
  }

  async #kill(): Promise<void> {
    this.#closed ??= Promise.resolve();
    this.#child.kill("SIGKILL");
    await this.#ended;
    await Promise.all(this.#pipes(3, 4, 5).map(destroyed));
  }

  /** Why it is not ready, or undefined. */
  async #unready(): Promise<string | undefined> {
    const [ready] = this.#pipes(5);
    const said = new Promise<undefined>((resolve) => {
      for (const event of ["data", "end"]) ready?.once(event, () => resolve(undefined));
    });
    const { promise: late, resolve } = Promise.withResolvers<string>();
    const timer = setTimeout(resolve, this.#times.logger, `it was not ready after ${this.#times.logger} ms`);
    try {
      return await Promise.race([said, this.#ended, late]);
    } finally {
      clearTimeout(timer);
      // Nothing more is expected, and nothing is kept.
      ready?.resume();
    }
  }

  /** Our ends of its descriptors. There are none if this process had no more of its own: Node tells of it by an event, not by throwing. */
  #pipes(...numbers: readonly (3 | 4 | 5)[]): readonly Socket[] {
    const pipes = (this.#child.stdio as readonly (Socket | null)[] | undefined) ?? [];
    return numbers.map((number) => pipes[number]).filter((pipe) => pipe != null);
  }
}

function failed(path: string, problem: string, cause?: unknown): ShimError {
  return new ShimError("ERR_SHIM_STREAM", `logger ${JSON.stringify(path.slice(0, 256))} cannot be used: ${problem}`, {
    ...(cause === undefined ? {} : { cause }),
    hint: "A logger takes descriptors 3 (stdout) and 4 (stderr), and closes 5 when it is ready.",
  });
}
